//! `staithe audit show`: one record, whole.

use super::own;
use crate::cli::ShowArgs;
use crate::output::Output;
use ledger::leaf_hash;
use model::Problem;
use serde_json::{Value, json};
use std::path::Path;
use std::process::ExitCode;

/// Shows a record with the hash that the tree has of it.
pub(crate) fn show(args: &ShowArgs, flag: Option<&Path>, output: Output) -> Result<ExitCode, Problem> {
    let (reader, _) = own::opened(flag)?;
    let entry = own::entry(&reader, args.index)?;
    let (leaf, record) = (leaf_hash(&entry), serde_json::from_slice::<Value>(&entry).unwrap_or(Value::Null));
    if output.is_json() {
        output.json(&json!({"index": args.index, "leaf": leaf.to_string(), "record": record}));
    } else {
        let pretty = serde_json::to_string_pretty(&record).unwrap_or_default();
        output.text(&format!("index  {}\nleaf   {leaf}\n{pretty}\n", args.index));
    }
    Ok(ExitCode::SUCCESS)
}
