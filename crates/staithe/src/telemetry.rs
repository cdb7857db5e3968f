//! Trace lines to stderr. Standard output belongs to what was asked for.
//!
//! A thread of its own writes them: whoever reads stderr may stop reading, and a call must not wait for that.

use crate::config::LogFormat;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait for stderr before new ones are left out, and counted.
const WAITING: usize = 1024;

/// Begins to write trace lines that pass `filter` (a checked one: a bad filter falls back to `info`).
pub(crate) fn start(filter: &str, format: LogFormat) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let Ok(lines) = Lines::start() else { return };
    // Reporting a failure to write on stderr would panic in the middle of a request.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines).log_internal_errors(false);
    let started = match format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    // Only a second start can fail, and then the first one writes already.
    drop(started);
}

/// The way to the writing thread.
#[derive(Clone, Debug)]
struct Lines {
    queue: SyncSender<Vec<u8>>,
    left_out: Arc<AtomicU64>,
}

impl Lines {
    fn start() -> io::Result<Self> {
        let (queue, waiting) = sync_channel(WAITING);
        let left_out = Arc::new(AtomicU64::new(0));
        let counted = left_out.clone();
        std::thread::Builder::new().name("trace".to_owned()).spawn(move || write_all(&waiting, &counted))?;
        Ok(Self { queue, left_out })
    }
}

/// Writes lines for as long as the process lives. Where nobody reads any more a line is lost.
fn write_all(waiting: &Receiver<Vec<u8>>, left_out: &AtomicU64) {
    while let Ok(line) = waiting.recv() {
        let lost = left_out.swap(0, Ordering::Relaxed);
        let mut stderr = io::stderr().lock();
        if lost > 0 {
            drop(writeln!(stderr, "{lost} trace lines were left out: nobody read them"));
        }
        drop(stderr.write_all(&line));
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { lines: self, text: Vec::new() }
    }
}

/// One line while it is put together. It is handed over whole when it is dropped.
#[derive(Debug)]
struct Line<'a> {
    lines: &'a Lines,
    text: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if self.lines.queue.try_send(std::mem::take(&mut self.text)).is_err() {
            self.lines.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}
