//! Drives a stdio server over its pipes, with as many calls under way as there would be callers: what the server
//! itself can do, with no HTTP at all.

use super::error::{BenchError, cannot, wrong};
use super::floor::id_of;
use super::load::LoadReport;
use super::mcp::{CallTemplate, Protocol, Target};
use super::stats::Latency;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};
use stdx::clock::monotonic;

/// What to drive.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Calls under way at once.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) callers: u32,
    /// Bytes of text in every call.
    #[arg(long)]
    pub(crate) bytes: usize,
    /// How long not to measure first, milliseconds.
    #[arg(long)]
    pub(crate) warm_ms: u64,
    /// How long to measure, milliseconds.
    #[arg(long)]
    pub(crate) measure_ms: u64,
    /// The stdio server.
    #[arg(last = true, required = true)]
    pub(crate) child: Vec<String>,
}

/// Runs as a process: prints the report as JSON.
pub(crate) fn run(options: &Options) -> Result<(), BenchError> {
    let (program, arguments) = options.child.split_first().ok_or_else(|| wrong("no server was named"))?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // It may complain that nobody reads its last answers.
        .stderr(Stdio::null())
        .spawn()
        .map_err(cannot(format!("start {program}")))?;
    let outcome = drive(options, &mut child);
    // Its stdin is closed by now; killing is for a server that does not care.
    child.kill().map_err(cannot("stop the server"))?;
    child.wait().map_err(cannot("wait for the server"))?;
    super::print_json(&outcome?)
}

/// A call under way: when it was written and what its answer must be.
struct Sent {
    at: Instant,
    call: CallTemplate,
}

fn drive(options: &Options, child: &mut Child) -> Result<LoadReport, BenchError> {
    let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(wrong("the server has no pipes"));
    };
    let nowhere = Target { address: String::new(), path: String::new(), token: None };
    let window = usize::try_from(options.callers).unwrap_or(1);
    // Two queues go round: calls to write, calls written. Both hold the whole window, so that nobody waits to put.
    let (free, to_write) = sync_channel(window);
    for caller in 0..options.callers {
        let call = CallTemplate::new(&nowhere, Protocol::Bare, None, caller, options.bytes);
        free.send(call).map_err(|_| wrong("the queue is closed"))?;
    }
    let (sent, under_way) = sync_channel(window);
    let writer = std::thread::spawn(move || write_calls(input, &to_write, &sent));
    let begin = monotonic() + Duration::from_millis(options.warm_ms);
    let end = begin + Duration::from_millis(options.measure_ms);
    let report = read_answers(output, &under_way, begin, end, |call| free.send(call).is_ok());
    drop(free);
    drop(under_way);
    writer.join().map_err(|_| wrong("the writer panicked"))?;
    report
}

fn write_calls(mut input: ChildStdin, to_write: &Receiver<CallTemplate>, sent: &std::sync::mpsc::SyncSender<Sent>) {
    let mut line = Vec::new();
    for (sequence, mut call) in (0_u64..).zip(to_write) {
        call.stamp(sequence);
        line.clear();
        line.extend_from_slice(call.line());
        line.push(b'\n');
        // Queued before it is written: the answer may come first otherwise.
        if sent.send(Sent { at: monotonic(), call }).is_err() || input.write_all(&line).is_err() {
            return;
        }
    }
}

/// Reads until the time is over. A server with one loop answers in order: so must these.
fn read_answers(
    output: ChildStdout,
    under_way: &Receiver<Sent>,
    begin: Instant,
    end: Instant,
    again: impl Fn(CallTemplate) -> bool,
) -> Result<LoadReport, BenchError> {
    let mut lines = BufReader::with_capacity(256 * 1024, output);
    let mut latencies = Vec::new();
    let mut all_calls = 0;
    let mut line = Vec::new();
    loop {
        let sent = under_way.recv().map_err(|_| wrong("the server closed its stdin"))?;
        line.clear();
        lines.read_until(b'\n', &mut line).map_err(cannot("read from the server"))?;
        let now = monotonic();
        if id_of(&line) != Some(sent.call.id()) {
            return Err(wrong(format!("the server's answer is not to id {}", sent.call.id())));
        }
        sent.call.verify(200, false, &line).map_err(wrong)?;
        all_calls += 1;
        if now > end {
            break;
        }
        if now >= begin {
            latencies.push(now - sent.at);
        }
        if !again(sent.call) {
            return Err(wrong("the writer is gone"));
        }
    }
    Ok(LoadReport {
        calls: u64::try_from(latencies.len()).unwrap_or(u64::MAX),
        all_calls,
        per_second: f64::from(u32::try_from(latencies.len()).unwrap_or(u32::MAX)) / (end - begin).as_secs_f64(),
        latency: Latency::of(&mut latencies),
        failed: 0,
        first_failure: None,
    })
}
