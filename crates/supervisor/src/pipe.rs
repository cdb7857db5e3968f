//! A server's stdin: whole lines in order, bounded, and nobody waits for a server that does not read.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use stdx::clock::monotonic;
use tokio::io::Interest;
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

/// The writing end. Whoever sends while nobody writes, writes: straight into the pipe, without waking anyone, and with it
/// what others add meanwhile, so that many small lines become few writes and nobody waits for somebody's system call.
/// Where the pipe is full, [`Writer::drain`] goes on.
#[derive(Debug)]
pub(crate) struct Writer {
    state: Mutex<State>,
    /// The turn at writing was given to `drain`.
    handed_over: Notify,
    closed: CancellationToken,
    limit: usize,
}

#[derive(Debug)]
struct State {
    stdin: Option<Arc<pipe::Sender>>,
    queue: VecDeque<Vec<u8>>,
    /// Bytes of the first queued chunk that are in the pipe already.
    sent: usize,
    /// Bytes that were accepted and are not wholly written.
    queued: usize,
    /// Somebody writes, or the pipe is full and `drain` will.
    taken: bool,
    /// The pipe is full, and took something last at this time.
    full: Option<Instant>,
}

/// Lines are joined up to this size.
const CHUNK: usize = 64 << 10;

/// How far a turn at writing came.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Emptied,
    /// The pipe is full: the turn goes to `drain`.
    Full,
    Closed,
}

impl Writer {
    pub(crate) fn new(stdin: pipe::Sender, limit: usize) -> Self {
        let state = State {
            stdin: Some(Arc::new(stdin)),
            queue: VecDeque::new(),
            sent: 0,
            queued: 0,
            taken: false,
            full: None,
        };
        Self { state: Mutex::new(state), handed_over: Notify::new(), closed: CancellationToken::new(), limit }
    }

    /// Sends one line, newline included. Lines of several callers never mix. Where `patient`, the line waits for others
    /// that are about to be sent: with many callers at once, one write and one waking of the server serve them all.
    pub(crate) fn send(&self, line: Vec<u8>, patient: bool) -> Result<(), WriteError> {
        let stdin = {
            let mut state = self.state();
            let Some(stdin) = state.stdin.clone() else { return Err(WriteError::Closed) };
            // One line is always taken: a large one must get through.
            if state.queued > 0 && state.queued + line.len() > self.limit {
                return Err(WriteError::Stalled { queued: state.queued });
            }
            state.queued += line.len();
            state.queue.push_back(line);
            if std::mem::replace(&mut state.taken, true) {
                return Ok(());
            }
            stdin
        };
        if patient {
            self.handed_over.notify_one();
            return Ok(());
        }
        match self.take_turn(&stdin) {
            Turn::Emptied => Ok(()),
            Turn::Full => {
                self.handed_over.notify_one();
                Ok(())
            }
            Turn::Closed => Err(WriteError::Closed),
        }
    }

    /// Since when the pipe is full and has taken nothing.
    pub(crate) fn stuck_since(&self) -> Option<Instant> {
        self.state().full
    }

    /// Writes until nothing is queued or nothing fits. Only whoever has set `taken` may call it.
    fn take_turn(&self, stdin: &pipe::Sender) -> Turn {
        let mut written = 0;
        loop {
            let (chunk, sent) = {
                let mut state = self.state();
                if state.stdin.is_none() {
                    return Turn::Closed;
                }
                state.queued -= written;
                match state.next_chunk() {
                    Some(next) => next,
                    None => {
                        state.taken = false;
                        state.full = None;
                        return Turn::Emptied;
                    }
                }
            };
            match write_some(stdin, &chunk[sent..]) {
                Ok(n) if sent + n == chunk.len() => written = chunk.len(),
                Ok(n) => {
                    let mut state = self.state();
                    if n > 0 || state.full.is_none() {
                        state.full = Some(monotonic());
                    }
                    state.sent = sent + n;
                    state.queue.push_front(chunk);
                    return Turn::Full;
                }
                Err(_) => {
                    // Whoever looks after the process hears of it from `drain`.
                    self.close();
                    return Turn::Closed;
                }
            }
        }
    }

    /// Goes on where the pipe was full, for as long as the instance lives. Ends when stdin is closed.
    pub(crate) async fn drain(&self) {
        // While this waits it holds stdin open, so it must hear of the close.
        self.closed.run_until_cancelled(self.drain_open()).await;
    }

    async fn drain_open(&self) {
        loop {
            let Some(open) = self.state().stdin.clone() else { return };
            tokio::select! {
                // Whoever is ready to send gets to do so first.
                () = self.handed_over.notified() => tokio::task::yield_now().await,
                // The other end is closed: what is in the pipe will never be read, and its callers must not wait.
                _ = open.ready(Interest::ERROR) => return self.close(),
            }
            drop(open);
            loop {
                let Some(stdin) = self.state().stdin.clone() else { return };
                if stdin.writable().await.is_err() {
                    return self.close();
                }
                match self.take_turn(&stdin) {
                    Turn::Emptied => break,
                    Turn::Full => {}
                    Turn::Closed => return,
                }
            }
        }
    }

    /// Closes the server's stdin: the first step of every stop.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.stdin = None;
        state.queue.clear();
        state.queued = 0;
        drop(state);
        self.closed.cancel();
    }

    /// Bytes that wait for the server to read.
    pub(crate) fn queued(&self) -> usize {
        self.state().queued
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The next bytes to write, and how many of them are in the pipe already.
    fn next_chunk(&mut self) -> Option<(Vec<u8>, usize)> {
        let mut chunk = self.queue.pop_front()?;
        while let Some(line) = self.queue.pop_front_if(|line| chunk.len() + line.len() <= CHUNK) {
            chunk.extend_from_slice(&line);
        }
        Some((chunk, std::mem::take(&mut self.sent)))
    }
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
            writer.send(line.clone(), false).unwrap();
        }
        let expected = lines.concat();
        let mut got = vec![0; expected.len()];
        receiver.read_exact(&mut got).await.unwrap();
        assert!(got == expected);
        writer.close();
        drain.await.unwrap();
        assert_eq!(writer.send(b"x\n".to_vec(), false), Err(WriteError::Closed));
    }

    #[tokio::test]
    async fn a_server_that_does_not_read_costs_bounded_memory() {
        let (sender, _receiver) = pipe::pipe().unwrap();
        let writer = Writer::new(sender, 1 << 20);
        let refused = (0..100).find_map(|_| writer.send(vec![b'x'; 100_000], false).err());
        assert!(matches!(refused, Some(WriteError::Stalled { queued }) if queued <= 1 << 20), "{refused:?}");
    }
}
