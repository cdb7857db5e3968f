//! A server's stdin: whole lines in order, bounded, and nobody waits for a server that does not read.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, PoisonError};
use tokio::net::unix::pipe;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The server does not read: its queue is full, or its stdin is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("the server does not read its input: {queued} bytes wait for it")]
    Stalled { queued: usize },
    #[error("the server's input is closed")]
    Closed,
}

/// The writing end. A line goes straight into the pipe where there is room, without waking anyone; else it waits in the
/// queue that [`Writer::drain`] empties.
#[derive(Debug)]
pub(crate) struct Writer {
    state: Mutex<State>,
    work: Notify,
    closed: CancellationToken,
    limit: usize,
}

#[derive(Debug)]
struct State {
    stdin: Option<std::sync::Arc<pipe::Sender>>,
    queue: VecDeque<Vec<u8>>,
    /// Bytes of the first queued line that are in the pipe already.
    sent: usize,
    queued: usize,
}

impl Writer {
    pub(crate) fn new(stdin: pipe::Sender, limit: usize) -> Self {
        let state = State { stdin: Some(std::sync::Arc::new(stdin)), queue: VecDeque::new(), sent: 0, queued: 0 };
        Self { state: Mutex::new(state), work: Notify::new(), closed: CancellationToken::new(), limit }
    }

    /// Sends one line, newline included. Lines of several callers never mix.
    pub(crate) fn send(&self, line: Vec<u8>) -> Result<(), WriteError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stdin) = state.stdin.clone() else { return Err(WriteError::Closed) };
        if !state.queue.is_empty() {
            return self.enqueue(&mut state, line, 0);
        }
        match write_some(&stdin, &line) {
            Ok(written) if written == line.len() => Ok(()),
            Ok(written) => self.enqueue(&mut state, line, written),
            Err(_) => {
                // Whoever looks after the process hears of it from `drain`.
                shut(&mut state);
                self.closed.cancel();
                Err(WriteError::Closed)
            }
        }
    }

    fn enqueue(&self, state: &mut State, line: Vec<u8>, sent: usize) -> Result<(), WriteError> {
        // One line is always taken: a half-written one must be finished, and a large one must get through.
        if !state.queue.is_empty() && state.queued + line.len() > self.limit {
            return Err(WriteError::Stalled { queued: state.queued });
        }
        if state.queue.is_empty() {
            state.sent = sent;
        }
        state.queued += line.len();
        state.queue.push_back(line);
        self.work.notify_one();
        Ok(())
    }

    /// Empties the queue for as long as the instance lives. Ends when stdin is closed.
    pub(crate) async fn drain(&self) {
        // While this waits it holds stdin open, so it must hear of the close.
        self.closed.run_until_cancelled(self.drain_open()).await;
    }

    async fn drain_open(&self) {
        loop {
            self.work.notified().await;
            loop {
                let stdin = self.state.lock().unwrap_or_else(PoisonError::into_inner).stdin.clone();
                let Some(stdin) = stdin else { return };
                if stdin.writable().await.is_err() {
                    return self.close();
                }
                match self.flush() {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(_) => return self.close(),
                }
            }
        }
    }

    /// Writes what fits; true when the queue is empty.
    fn flush(&self) -> io::Result<bool> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stdin) = state.stdin.clone() else { return Err(io::ErrorKind::BrokenPipe.into()) };
        while let Some(line) = state.queue.front() {
            let (sent, length) = (state.sent, line.len());
            let written = write_some(&stdin, &line[sent..])?;
            if sent + written < length {
                state.sent += written;
                return Ok(false);
            }
            state.sent = 0;
            state.queued -= length;
            state.queue.pop_front();
        }
        Ok(true)
    }

    /// Closes the server's stdin: the first step of every stop.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        shut(&mut state);
        drop(state);
        self.closed.cancel();
    }
}

fn shut(state: &mut State) {
    state.stdin = None;
    state.queue.clear();
    state.queued = 0;
}

/// Writes until the pipe is full; how much of `bytes` went in.
fn write_some(stdin: &pipe::Sender, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match stdin.try_write(&bytes[written..]) {
            Ok(n) => written += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn lines_arrive_whole_and_in_order_through_a_full_pipe() {
        let (sender, mut receiver) = pipe::pipe().unwrap();
        let writer = Arc::new(Writer::new(sender, 64 << 20));
        let drainer = writer.clone();
        let drain = stdx::task::spawn("drain", async move { drainer.drain().await });
        let lines: Vec<Vec<u8>> =
            (0..50_usize).map(|n| [n.to_string().repeat(1 + n * 700).as_bytes(), b"\n"].concat()).collect();
        for line in &lines {
            writer.send(line.clone()).unwrap();
        }
        let expected = lines.concat();
        let mut got = vec![0; expected.len()];
        receiver.read_exact(&mut got).await.unwrap();
        assert!(got == expected);
        writer.close();
        drain.await.unwrap();
        assert_eq!(writer.send(b"x\n".to_vec()), Err(WriteError::Closed));
    }

    #[tokio::test]
    async fn a_server_that_does_not_read_costs_bounded_memory() {
        let (sender, _receiver) = pipe::pipe().unwrap();
        let writer = Writer::new(sender, 1 << 20);
        let refused = (0..100).find_map(|_| writer.send(vec![b'x'; 100_000]).err());
        assert!(matches!(refused, Some(WriteError::Stalled { queued }) if queued <= 1 << 20), "{refused:?}");
    }
}
