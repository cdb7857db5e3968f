//! Standard output and standard error: what was asked for goes to the one, everything else to the other.

use crate::render;
use model::{Problem, Reply};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

/// How to print.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    /// Prints JSON instead of text for people if `json`.
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether JSON is printed.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Writes `text` to standard output as it is. Says whether anybody still reads.
    pub(crate) fn text(self, text: &str) -> bool {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
    }

    /// Writes a server's words to standard output: as they are into a pipe, without control characters to a terminal.
    pub(crate) fn foreign_text(self, text: &str) -> bool {
        if io::stdout().is_terminal() { self.text(&render::lines_cleaned(text)) } else { self.text(text) }
    }

    /// Writes one JSON value as one line.
    pub(crate) fn json(self, value: &impl Serialize) -> bool {
        let line =
            serde_json::to_string(value).unwrap_or_else(|error| json!({"problem": error.to_string()}).to_string());
        self.text(&format!("{line}\n"))
    }

    /// Prints a reply: its body as JSON, or as people read it. Says whether anybody still reads.
    pub(crate) fn reply(self, reply: &Reply) -> bool {
        if !self.json {
            return self.text(&render::reply(reply, stdx::clock::unix_ms()));
        }
        let value = serde_json::to_value(reply).unwrap_or_default();
        self.json(value.get("body").unwrap_or(&Value::Null))
    }

    /// Writes one line to standard error.
    pub(crate) fn note(self, text: &str) {
        // Nobody is left to tell if this fails.
        drop(writeln!(io::stderr().lock(), "{}", render::lines_cleaned(text)));
    }

    /// The same for a failure that came as a JSON-RPC error, which programs get whole, with its timing where that is known.
    pub(crate) fn problem_with(self, problem: &Problem, error: &Value, timing: Option<Value>) -> ExitCode {
        let mut told = json!({"problem": problem, "error": error});
        if let Some(timing) = timing {
            told["timing"] = timing;
        }
        drop(io::stderr().lock().write_all(format!("{told}\n").as_bytes()));
        ExitCode::from(render::exit_code(problem.code))
    }

    /// Prints a failure to standard error and gives its exit code.
    pub(crate) fn problem(self, problem: &Problem) -> ExitCode {
        let text = if self.json { format!("{}\n", json!({"problem": problem})) } else { render::problem(problem) };
        drop(io::stderr().lock().write_all(text.as_bytes()));
        ExitCode::from(render::exit_code(problem.code))
    }
}
