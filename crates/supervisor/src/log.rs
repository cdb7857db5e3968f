//! A server's log: its stderr, its junk on stdout, and staithe's own words about it. One file with one older copy, the
//! last lines in memory, and whoever follows.

use model::report::{LogLine, LogSource};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tokio::sync::broadcast;

/// Lines kept in memory.
const KEPT: usize = 1000;
/// Of these, staithe's own that a flood of the server's does not push out.
const OWN: usize = 200;
/// Bytes kept of one line.
const LINE: usize = 8 << 10;
/// Lines that one server may add per second before the rest of that second is only counted.
const PER_SECOND: u32 = 2000;

/// The log of one server. It outlives the server's processes.
#[derive(Debug)]
pub struct ServerLog {
    book: Mutex<Book>,
    followers: broadcast::Sender<LogLine>,
}

#[derive(Debug)]
struct Book {
    path: PathBuf,
    limit: u64,
    file: Option<File>,
    written: u64,
    lines: VecDeque<LogLine>,
    /// How many of them are staithe's own.
    own: usize,
    second: i64,
    in_second: u32,
    left_out: u32,
}

impl ServerLog {
    /// Opens `<dir>/<name>.log` lazily; `limit` bytes until it is rotated to `<name>.log.old`.
    pub(crate) fn new(dir: &Path, limit: u64) -> Self {
        let path = dir.join("server.log");
        let lines = read_back(&path);
        let written = std::fs::metadata(&path).map_or(0, |m| m.len());
        let own = lines.iter().filter(|line| line.source == LogSource::Host).count();
        let book = Book { path, limit, file: None, written, lines, own, second: 0, in_second: 0, left_out: 0 };
        Self { book: Mutex::new(book), followers: broadcast::channel(256).0 }
    }

    /// The last `n` lines, oldest first; at most 1000 are kept at hand.
    pub fn tail(&self, n: usize) -> Vec<LogLine> {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.lines.iter().skip(book.lines.len().saturating_sub(n)).cloned().collect()
    }

    /// Every line from now on. A follower that is more than 256 lines behind is told how many it missed.
    pub fn follow(&self) -> broadcast::Receiver<LogLine> {
        self.followers.subscribe()
    }

    pub(crate) fn add(&self, instance: u64, source: LogSource, text: &str) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stdx::clock::unix_ms();
        let at_rate = book.within_rate(now, source);
        if let Some(left_out) = at_rate.left_out {
            let text = format!("{left_out} lines were left out: the server wrote more than {PER_SECOND} a second");
            self.keep(&mut book, LogLine { at_ms: now, instance, source: LogSource::Host, text });
        }
        if at_rate.keep {
            self.keep(&mut book, LogLine { at_ms: now, instance, source, text: clean(text) });
        }
    }

    fn keep(&self, book: &mut Book, line: LogLine) {
        book.write(&line);
        book.remember(line.clone());
        // No follower is the normal case.
        let _ = self.followers.send(line);
    }
}

struct Rate {
    keep: bool,
    left_out: Option<u32>,
}

impl Book {
    fn within_rate(&mut self, now: i64, source: LogSource) -> Rate {
        if self.second != now / 1000 {
            self.second = now / 1000;
            self.in_second = 0;
        }
        self.in_second += 1;
        if source != LogSource::Host && self.in_second > PER_SECOND {
            self.left_out += 1;
            return Rate { keep: false, left_out: None };
        }
        let left_out = std::mem::take(&mut self.left_out);
        Rate { keep: true, left_out: (left_out > 0).then_some(left_out) }
    }

    /// Keeps it at hand. The oldest line goes, of staithe's own only where there are many: why a server ended is still there
    /// after a flood.
    fn remember(&mut self, line: LogLine) {
        let is_own = |line: &LogLine| line.source == LogSource::Host;
        if self.lines.len() == KEPT {
            let first_own = self.lines.iter().position(is_own).unwrap_or(KEPT);
            let others = self.lines.iter().position(|line| !is_own(line)).filter(|_| self.own <= OWN);
            let gone = self.lines.remove(others.unwrap_or(first_own).min(KEPT - 1));
            self.own -= usize::from(gone.is_some_and(|line| is_own(&line)));
        }
        self.own += usize::from(is_own(&line));
        self.lines.push_back(line);
    }

    /// A log that cannot be written must not stop a server: the lines in memory stay.
    fn write(&mut self, line: &LogLine) {
        let text = format!("{} i{} {} {}\n", stdx::clock::rfc3339(line.at_ms), line.instance, line.source, line.text);
        if self.written >= self.limit {
            self.file = None;
            if stdx::durable::rename(&self.path, &self.path.with_extension("log.old")).is_ok() {
                self.written = 0;
            }
        }
        if self.file.is_none() {
            self.file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path).ok();
        }
        if let Some(file) = &mut self.file
            && file.write_all(text.as_bytes()).is_ok()
        {
            self.written += text.len() as u64;
        }
    }
}

/// At most 8 KiB without control characters: a server's words must not steer the operator's terminal.
fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(LINE));
    for c in text.chars() {
        if out.len() >= LINE {
            out.push('…');
            break;
        }
        out.push(if c == '\t' || !c.is_control() { c } else { '\u{fffd}' });
    }
    out
}

/// The lines that an earlier daemon wrote, from the last 256 KiB of the file.
fn read_back(path: &Path) -> VecDeque<LogLine> {
    let Ok(text) = tail_of(path, 256 << 10) else { return VecDeque::new() };
    let lines: Vec<LogLine> = text.lines().filter_map(parse).collect();
    lines.into_iter().rev().take(KEPT).rev().collect()
}

fn tail_of(path: &Path, bytes: u64) -> std::io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut raw = Vec::new();
    file.take(bytes).read_to_end(&mut raw)?;
    Ok(String::from_utf8_lossy(&raw).into_owned())
}

fn parse(line: &str) -> Option<LogLine> {
    let mut parts = line.splitn(4, ' ');
    let at_ms = stdx::clock::parse_rfc3339(parts.next()?)?;
    let instance = parts.next()?.strip_prefix('i')?.parse().ok()?;
    let source = match parts.next()? {
        "stderr" => LogSource::Stderr,
        "junk" => LogSource::Junk,
        "host" => LogSource::Host,
        "message" => LogSource::Message,
        _ => return None,
    };
    Some(LogLine { at_ms, instance, source, text: parts.next().unwrap_or_default().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_survive_a_new_daemon_and_control_characters_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let log = ServerLog::new(dir.path(), 1 << 20);
        log.add(3, LogSource::Stderr, "red \u{1b}[31malert and spaces  kept");
        let read = ServerLog::new(dir.path(), 1 << 20).tail(10);
        assert_eq!(read, log.tail(10));
        assert_eq!(read[0].text, "red \u{fffd}[31malert and spaces  kept");
        assert_eq!((read[0].instance, read[0].source), (3, LogSource::Stderr));
    }

    #[test]
    fn what_staithe_said_outlasts_a_flood_and_the_flood_outlasts_that() {
        let dir = tempfile::tempdir().unwrap();
        let log = ServerLog::new(dir.path(), 64 << 20);
        let own = || log.tail(KEPT).iter().filter(|line| line.source == LogSource::Host).count();
        log.add(1, LogSource::Host, "ended: of this");
        for n in 0..1900 {
            log.add(1, LogSource::Junk, &n.to_string());
        }
        let kept = log.tail(KEPT);
        assert_eq!((kept.len(), &*kept[0].text, &*kept[1].text), (KEPT, "ended: of this", "901"));
        for n in 0..3 * KEPT {
            log.add(1, LogSource::Host, &n.to_string());
        }
        assert_eq!(log.tail(KEPT).last().unwrap().text, (3 * KEPT - 1).to_string());
        assert!(own() < KEPT, "the server's words are not pushed out either");
    }

    #[test]
    fn a_flood_is_counted_and_the_file_stays_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let log = ServerLog::new(dir.path(), 64 << 10);
        for _ in 0..20_000 {
            log.add(1, LogSource::Stderr, &"x".repeat(200));
        }
        log.add(1, LogSource::Host, "after");
        let told = log.tail(5).iter().any(|l| l.source == LogSource::Host && l.text.contains("were left out"));
        assert!(told, "{:?}", log.tail(5));
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            assert!(entry.unwrap().metadata().unwrap().len() < 66 << 10);
        }
    }
}
