//! A hosted MCP server over stdin and stdout with every feature of the protocol, in the legacy era, the modern era, or
//! whichever its first message chooses. Its names and texts are those of the public MCP conformance suite; some more
//! tools (`echo`, `sleep`, `counter`, `whoami`, …) let tests see which process answered, and what it was told.
//!
//! It may not need any of our crates but `stdx`: it stands for a stranger's server.

mod catalogue;
mod content;
mod interactive;
mod legacy;
mod methods;
mod modern;
mod process;
mod seal;
mod tasks;
mod tools;
mod wire;

use clap::Parser;
use process::{Era, Mode, Process};
use std::io::{self, BufRead, Read};
use std::process::ExitCode;
use std::sync::Arc;
use wire::{Incoming, RpcError};

/// The longest line that is read as a message, in bytes.
const MAX_LINE: usize = 64 << 20;

/// An MCP server with every feature, for tests.
#[derive(Debug, Parser)]
struct Flags {
    /// Speak only the era of `initialize` (2024-11-05 to 2025-11-25).
    #[arg(long, conflicts_with_all = ["modern", "dual"])]
    legacy: bool,
    /// Speak only the era of per-request metadata (2026-07-28).
    #[arg(long, conflicts_with = "dual")]
    modern: bool,
    /// Let the first message choose the era, for the life of the process (the default).
    #[arg(long)]
    dual: bool,
    /// Lists come in pages of two, and an extension is declared.
    #[arg(long)]
    extras: bool,
    /// Some tools run as tasks of 2025-11-25 (legacy era only).
    #[arg(long)]
    tasks: bool,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let mode = match (flags.legacy, flags.modern) {
        (true, _) => Mode::Legacy,
        (_, true) => Mode::Modern,
        _ => Mode::Dual,
    };
    let Ok(key) = stdx::random::bytes() else { return ExitCode::FAILURE };
    let process = Arc::new(Process::new(mode, key, flags.extras, flags.tasks));
    let outcome = read_messages(&process);
    modern::end_subscriptions(&process);
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Reads messages until stdin ends. Nothing here waits for a slow tool.
fn read_messages(process: &Arc<Process>) -> io::Result<()> {
    let mut input = io::stdin().lock();
    let mut line = Vec::new();
    while read_line(&mut input, &mut line)? {
        if line.len() > MAX_LINE {
            let error = RpcError::new(-32600, format!("a message may have at most {MAX_LINE} bytes"));
            process.output.error(None, &error);
            continue;
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        match Incoming::parse(text) {
            Ok(incoming) => receive(process, incoming),
            Err(error) => process.output.error(None, &error),
        }
    }
    Ok(())
}

/// One line without bound on time but with a bound on memory: what exceeds `MAX_LINE` is read and dropped, and `line`
/// is then one byte too long. False at the end of the input.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let limit = MAX_LINE + 1;
    let read = input.by_ref().take(limit as u64).read_until(b'\n', line)?;
    if read == limit && line.last() != Some(&b'\n') {
        while skip_some(input)? {}
    }
    Ok(read > 0)
}

/// Drops buffered input up to a newline. True while the newline was not yet seen.
fn skip_some(input: &mut impl BufRead) -> io::Result<bool> {
    let buffered = input.fill_buf()?;
    let newline = buffered.iter().position(|byte| *byte == b'\n');
    let (used, more) = match newline {
        Some(at) => (at + 1, false),
        None => (buffered.len(), !buffered.is_empty()),
    };
    input.consume(used);
    Ok(more)
}

/// Gives a message to the era that this process speaks; in a dual process the first well-formed opening chooses it.
fn receive(process: &Arc<Process>, incoming: Incoming) {
    match (process.mode, process.era()) {
        (Mode::Legacy, _) | (_, Some(Era::Legacy)) => legacy::receive(process, incoming),
        (Mode::Modern, _) | (_, Some(Era::Modern)) => modern::receive(process, incoming),
        (Mode::Dual, None) => {
            let opening = incoming.method.as_deref() == Some("initialize") && !modern::is_marked(&incoming);
            if opening || incoming.method.as_deref() == Some("ping") && !modern::is_marked(&incoming) {
                legacy::receive(process, incoming);
            } else {
                modern::receive(process, incoming);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_LINE, read_line};

    #[test]
    fn a_line_that_is_too_long_is_skipped_and_the_next_is_read() {
        let mut input = vec![b'x'; MAX_LINE + 1000];
        input.extend_from_slice(b"\nnext\n");
        let (mut input, mut line) = (std::io::BufReader::new(input.as_slice()), Vec::new());
        assert!(read_line(&mut input, &mut line).unwrap());
        assert_eq!(line.len(), MAX_LINE + 1);
        assert!(read_line(&mut input, &mut line).unwrap());
        assert_eq!(line, b"next\n");
        assert!(!read_line(&mut input, &mut line).unwrap());
    }
}
