//! A stdio echo server for the tests of the load generator: it can answer wrongly on purpose, so that the tests see
//! whether anybody notices. The benchmark itself uses `testkit`'s echo.

use super::error::{BenchError, cannot};
use serde_json::{Value, json};
use std::io::{BufRead, Write};

/// What to do wrong, counted in calls.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Answer this call with another call's text.
    #[arg(long)]
    pub(crate) wrong_text_at: Option<u64>,
    /// Answer this call never, and none after it.
    #[arg(long)]
    pub(crate) silent_at: Option<u64>,
}

/// Runs as a process until stdin is closed.
pub(crate) fn run(options: &Options) -> Result<(), BenchError> {
    let mut calls = 0;
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(cannot("read stdin"))?;
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        calls += 1;
        if options.silent_at.is_some_and(|at| calls >= at) {
            continue;
        }
        let text = if options.wrong_text_at == Some(calls) {
            json!("another call's text")
        } else {
            message["params"]["arguments"]["text"].clone()
        };
        let answer =
            json!({"jsonrpc": "2.0", "id": message["id"], "result": {"content": [{"type": "text", "text": text}]}});
        let mut out = std::io::stdout().lock();
        writeln!(out, "{answer}").and_then(|()| out.flush()).map_err(cannot("write stdout"))?;
    }
    Ok(())
}
