//! `staithe audit show`: one record, whole, and what its call said, where that is kept.

use super::own;
use crate::cli::ShowArgs;
use crate::fault;
use crate::output::Output;
use crate::render;
use ledger::leaf_hash;
use model::{Command, Principal, Problem, Reply};
use serde_json::{Value, json};
use std::path::Path;
use std::process::ExitCode;

/// Shows a record with the hash that the tree has of it.
pub(crate) async fn show(args: &ShowArgs, flag: Option<&Path>, output: Output) -> Result<ExitCode, Problem> {
    let (state, dir) = own::place(flag)?;
    let (reader, _) = own::read(&dir)?;
    let entry = own::entry(&reader, args.index)?;
    let (leaf, record) = (leaf_hash(&entry), serde_json::from_slice::<Value>(&entry).unwrap_or(Value::Null));
    let content = if args.content { Some(content(&state.socket(), args.index).await?) } else { None };
    if output.is_json() {
        let mut shown = json!({"index": args.index, "leaf": leaf.to_string(), "record": record});
        if let (Some((principal, what, content)), Some(shown)) = (content, shown.as_object_mut()) {
            shown.insert("content".to_owned(), json!({"principal": principal, "what": what, "text": content}));
        }
        output.json(&shown);
    } else {
        let pretty = serde_json::to_string_pretty(&record).unwrap_or_default();
        let mut shown = format!("index  {}\nleaf   {leaf}\n{pretty}\n", args.index);
        if let Some((principal, what, content)) = content {
            shown.push_str(&format!("{what} of {principal}\n{}\n", render::lines_cleaned(&content)));
        }
        output.text(&shown);
    }
    Ok(ExitCode::SUCCESS)
}

async fn content(socket: &Path, index: u64) -> Result<(Principal, String, String), Problem> {
    match doors::call(socket, &Command::Content { index }).await?.only().await? {
        Reply::Content { principal, what, content } => Ok((principal, what, content)),
        _ => Err(fault::failed("the daemon answered something else than asked", "is it another version of staithe?")),
    }
}
