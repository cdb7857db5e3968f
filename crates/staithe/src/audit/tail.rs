//! `staithe audit tail`: the last records, and those that come.

use super::own;
use crate::cli::TailArgs;
use crate::fault;
use crate::output::Output;
use crate::render;
use ledger::Reader;
use model::Problem;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(300);

/// Shows the last records; with `--follow` goes on until it is interrupted.
pub(crate) fn tail(args: &TailArgs, flag: Option<&Path>, output: Output) -> Result<ExitCode, Problem> {
    let (mut reader, _) = own::opened(flag)?;
    let mut next = reader.view().size().saturating_sub(args.lines);
    loop {
        next = shown(&reader, next, output)?;
        if !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(LOOK);
        reader.refresh().map_err(|error| fault::because("read the ledger", &error, ""))?;
    }
}

fn shown(reader: &Reader, from: u64, output: Output) -> Result<u64, Problem> {
    let size = reader.view().size();
    for index in from.max(reader.view().first())..size {
        let entry = own::entry(reader, index)?;
        let record: Value = serde_json::from_slice(&entry).unwrap_or(Value::Null);
        if output.is_json() {
            output.json(&json!({"index": index, "record": record}));
        } else {
            output.text(&line(index, &record));
        }
    }
    Ok(size)
}

/// One record as one line: index, time, kind, and whatever else it says.
fn line(index: u64, record: &Value) -> String {
    let ms = record.get("ms").and_then(Value::as_i64).unwrap_or(0);
    let kind = record.get("t").and_then(Value::as_str).unwrap_or("?");
    let nothing = Map::new();
    let rest = record.as_object().unwrap_or(&nothing).iter();
    let rest = rest.filter(|(name, _)| !matches!(name.as_str(), "v" | "ms" | "t"));
    let words: Vec<String> = rest.map(|(name, value)| format!("{name}={}", short(value))).collect();
    let time = stdx::clock::rfc3339(ms);
    format!("{index:>8}  {time}  {:<14}  {}\n", render::clean(kind), render::clean(&words.join(" ")))
}

fn short(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let first = ["sub", "len", "count"].into_iter().find_map(|name| fields.get(name));
            first.map_or_else(|| "{}".to_owned(), short)
        }
        other => other.to_string(),
    }
}
