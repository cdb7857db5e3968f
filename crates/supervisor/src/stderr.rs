//! A server's stderr, on its way to its log. It is no sign of an error (E223). A server that floods it must neither wait for
//! us longer than its rate asks, nor cost a core: over what the log keeps, lines are counted and not looked at.

use crate::flow::Flow;
use crate::instance::Instance;
use model::report::LogSource;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// Read at one time.
const CHUNK: usize = 64 << 10;
/// A line without an end is cut here rather than kept.
const LONGEST: usize = 16 << 10;

/// Reads until the pipe ends.
pub(crate) async fn read(instance: Arc<Instance>, mut stderr: pipe::Receiver) {
    let mut flow = Flow::of(&instance);
    let mut lines = Cut::default();
    let mut chunk = vec![0; CHUNK];
    loop {
        let part = flow.part(CHUNK);
        let n = match stderr.read(&mut chunk[..part]).await {
            Ok(0) | Err(_) => break,
            Ok(n) => n,
        };
        flow.read(n);
        let found = lines.add(&chunk[..n], |line| note(&instance, line));
        for _ in 0..found {
            flow.line();
        }
        flow.pace(&instance, "stderr").await;
    }
    lines.end(|line| note(&instance, line));
}

/// Bytes cut into lines.
#[derive(Debug, Default)]
struct Cut {
    begun: Vec<u8>,
}

impl Cut {
    /// Hands out each line that has come to its end; how many.
    fn add(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) -> usize {
        let mut lines = 0;
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            if self.begun.is_empty() {
                line(&rest[..end]);
            } else {
                self.begun.extend_from_slice(&rest[..end]);
                line(&self.begun);
                self.begun.clear();
            }
            lines += 1;
            rest = &rest[end + 1..];
        }
        self.begun.extend_from_slice(rest);
        if self.begun.len() > LONGEST {
            line(&self.begun);
            self.begun.clear();
            lines += 1;
        }
        lines
    }

    fn end(self, mut line: impl FnMut(&[u8])) {
        if !self.begun.is_empty() {
            line(&self.begun);
        }
    }
}

fn note(instance: &Instance, raw: &[u8]) {
    // What the log would cut off need not be read as text.
    let text = String::from_utf8_lossy(&raw[..raw.len().min(LONGEST)]);
    let text = text.trim_end();
    if !text.is_empty() {
        instance.note_stderr(text);
        instance.context.log.add(instance.id, LogSource::Stderr, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_they_arrive() {
        let text = format!("one\n\ntwo two\n{}\nlast", "x".repeat(40_000));
        for size in [1, 3, 1000, 100_000] {
            let (mut cut, mut got) = (Cut::default(), Vec::new());
            let mut count = 0;
            for part in text.as_bytes().chunks(size) {
                count += cut.add(part, |line| got.push(String::from_utf8(line.to_vec()).unwrap()));
            }
            assert_eq!(count, got.len());
            cut.end(|line| got.push(String::from_utf8(line.to_vec()).unwrap()));
            assert_eq!(got.concat(), text.replace('\n', ""), "{size}");
            assert_eq!((&*got[0], &*got[1], &*got[2]), ("one", "", "two two"));
        }
    }
}
