//! Log lines as they come: the last ones first, then each new one.

use model::report::{LogLine, LogSource};
use std::collections::VecDeque;
use tokio::sync::broadcast::{self, error::RecvError};

/// A log being read. Dropping it ends the reading.
#[derive(Debug)]
pub struct LogFollow {
    ready: VecDeque<LogLine>,
    live: Option<broadcast::Receiver<LogLine>>,
}

impl LogFollow {
    /// Reads `tail`, then what comes over `live`. `live` must have been opened before `tail` was taken, so that no line
    /// is lost between them; a line that is in both is given once.
    pub(crate) fn new(tail: Vec<LogLine>, mut live: Option<broadcast::Receiver<LogLine>>) -> Self {
        let mut early = Vec::new();
        while let Some(Ok(line)) = live.as_mut().map(broadcast::Receiver::try_recv) {
            early.push(line);
        }
        let overlap = (0..=early.len().min(tail.len())).rev().find(|n| tail.ends_with(&early[..*n])).unwrap_or(0);
        let ready = tail.into_iter().chain(early.into_iter().skip(overlap)).collect();
        Self { ready, live }
    }

    /// The next line, oldest first; `None` when there will be no more. Cancel-safe.
    pub async fn next(&mut self) -> Option<LogLine> {
        if let Some(line) = self.ready.pop_front() {
            return Some(line);
        }
        match self.live.as_mut()?.recv().await {
            Ok(line) => Some(line),
            Err(RecvError::Closed) => None,
            Err(RecvError::Lagged(missed)) => Some(LogLine {
                at_ms: stdx::clock::unix_ms(),
                instance: 0,
                source: LogSource::Host,
                text: match missed {
                    1 => "1 line is not shown: it came faster than it was read".to_owned(),
                    _ => format!("{missed} lines are not shown: they came faster than they were read"),
                },
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::LogFollow;
    use model::report::{LogLine, LogSource};
    use tokio::sync::broadcast;

    fn line(text: &str) -> LogLine {
        LogLine { at_ms: 1, instance: 1, source: LogSource::Stderr, text: text.to_owned() }
    }

    async fn texts(mut follow: LogFollow) -> Vec<String> {
        let mut out = Vec::new();
        while let Some(line) = follow.next().await {
            out.push(line.text);
        }
        out
    }

    #[tokio::test]
    async fn no_line_is_lost_or_given_twice_where_the_tail_meets_the_live_lines() {
        let (sender, receiver) = broadcast::channel(8);
        for text in ["b", "c"] {
            sender.send(line(text)).unwrap();
        }
        // "c" was written after the tail was taken, "b" before.
        let follow = LogFollow::new(vec![line("a"), line("b")], Some(receiver));
        sender.send(line("d")).unwrap();
        drop(sender);
        assert_eq!(texts(follow).await, ["a", "b", "c", "d"]);
    }

    #[tokio::test]
    async fn equal_lines_count_as_often_as_they_came() {
        let (sender, receiver) = broadcast::channel(8);
        for text in ["x", "x"] {
            sender.send(line(text)).unwrap();
        }
        let follow = LogFollow::new(vec![line("x"), line("x"), line("x")], Some(receiver));
        drop(sender);
        assert_eq!(texts(follow).await, ["x", "x", "x"]);
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_what_it_missed() {
        let (sender, receiver) = broadcast::channel(2);
        let follow = LogFollow::new(vec![], Some(receiver));
        for n in 0..5 {
            sender.send(line(&n.to_string())).unwrap();
        }
        drop(sender);
        let texts = texts(follow).await;
        assert!(texts[0].starts_with("3 lines are not shown") && texts[1..] == ["3", "4"], "{texts:?}");
    }
}
