//! A server's stdin: whole lines in order, bounded, and nobody waits for a server that does not read.

use crate::handover::Elsewhere;
use crate::notebook::Notebook;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use stdx::clock::monotonic;
use tokio::io::Interest;
use tokio::net::unix::pipe;
use tokio::sync::Notify;
use tokio::sync::mpsc::error::TrySendError;
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
    /// The pipe was given to another daemon.
    given_away: Notify,
    closed: CancellationToken,
    limit: usize,
    notebook: Arc<Notebook>,
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
    /// The notebook still says so of what was written before us.
    torn: bool,
    /// Another daemon has the pipe: lines go there.
    diverted: Option<Elsewhere>,
}

/// Lines are joined up to this size.
const CHUNK: usize = 64 << 10;
/// A pipe takes this much whole or not at all (`PIPE_BUF` of pipe(7)).
const WHOLE: usize = 4096;

/// How far a turn at writing came.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Emptied,
    /// The pipe is full: the turn goes to `drain`.
    Full,
    /// Of what was queued when the turn began, `written` says whether the server may have read some.
    Closed {
        written: bool,
    },
}

impl Writer {
    /// `rest` is what a living daemon had not written when it gave the pipe away. Where `held`, nothing is written before
    /// [`Writer::drain`] runs. Half a line that a dead one may have left
    /// in the pipe ends here: the server refuses that line, and not the next.
    pub(crate) fn new(
        stdin: pipe::Sender,
        limit: usize,
        notebook: Arc<Notebook>,
        rest: Option<Vec<u8>>,
        held: bool,
    ) -> Self {
        let rest = rest.filter(|rest| !rest.is_empty()).or_else(|| notebook.torn().then(|| b"\n".to_vec()));
        let state = State {
            stdin: Some(Arc::new(stdin)),
            queued: rest.iter().map(Vec::len).sum(),
            taken: held || rest.is_some(),
            queue: rest.into_iter().collect(),
            sent: 0,
            torn: notebook.torn(),
            full: None,
            diverted: None,
        };
        let handed_over = Notify::new();
        if state.taken {
            handed_over.notify_one();
        }
        let (given_away, closed) = (Notify::new(), CancellationToken::new());
        Self { state: Mutex::new(state), handed_over, given_away, closed, limit, notebook }
    }

    /// Sends one line, newline included. Lines of several callers never mix. Where `patient`, the line waits for others
    /// that are about to be sent: with many callers at once, one write and one waking of the server serve them all.
    ///
    /// An error means that the server has not read a byte of the line and never will: it may be sent to another process.
    pub(crate) fn send(&self, line: Vec<u8>, patient: bool) -> Result<(), WriteError> {
        let stdin = {
            let mut state = self.state();
            let Some(stdin) = state.stdin.clone() else { return Err(WriteError::Closed) };
            if let Some(elsewhere) = &state.diverted {
                return divert(elsewhere, line);
            }
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
            // A server may read the line, act and exit before we look again. Who waits for the answer hears of the end.
            Turn::Closed { written: true } => Ok(()),
            Turn::Closed { written: false } => Err(WriteError::Closed),
        }
    }

    /// Since when the pipe is full and has taken nothing.
    pub(crate) fn stuck_since(&self) -> Option<Instant> {
        self.state().full
    }

    /// Writes until nothing is queued or nothing fits. Only whoever has set `taken` may call it.
    fn take_turn(&self, stdin: &pipe::Sender) -> Turn {
        let mut last = 0;
        loop {
            let (chunk, sent, torn) = {
                let mut state = self.state();
                if state.stdin.is_none() {
                    return Turn::Closed { written: last > 0 };
                }
                state.queued -= last;
                let next = if state.diverted.is_some() { None } else { state.next_chunk() };
                match next {
                    Some((chunk, sent)) => (chunk, sent, std::mem::take(&mut state.torn)),
                    None => {
                        state.taken = false;
                        state.full = None;
                        return Turn::Emptied;
                    }
                }
            };
            let may_tear = torn || sent > 0 || chunk.len() > WHOLE;
            if may_tear && sent == 0 {
                self.notebook.tear();
            }
            match write_some(stdin, &chunk[sent..]) {
                Ok(n) if sent + n == chunk.len() => {
                    if may_tear {
                        self.notebook.mend();
                    }
                    last = chunk.len();
                }
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
                    return Turn::Closed { written: last > 0 };
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
                tokio::select! {
                    writable = stdin.writable() => if writable.is_err() {
                        return self.close();
                    },
                    // Its turn ends at once: nothing is written any more.
                    () = self.given_away.notified() => {}
                }
                match self.take_turn(&stdin) {
                    Turn::Emptied => break,
                    Turn::Full => {}
                    Turn::Closed { .. } => return,
                }
            }
        }
    }

    /// Stops writing: from now on lines go to `elsewhere`. What was accepted and is not in the pipe, which may begin in the
    /// middle of a line. Cancel-safe: [`Self::take_back`] takes it back.
    pub(crate) async fn divert(&self, elsewhere: Elsewhere) -> Vec<u8> {
        self.state().diverted = Some(elsewhere);
        while self.state().taken {
            self.given_away.notify_waiters();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut state = self.state();
        let sent = std::mem::take(&mut state.sent);
        let rest: Vec<u8> = std::mem::take(&mut state.queue).into_iter().flatten().skip(sent).collect();
        state.queued = 0;
        rest
    }

    /// Writes again, `rest` first.
    pub(crate) fn take_back(&self, rest: Vec<u8>) {
        let mut state = self.state();
        state.diverted = None;
        if state.stdin.is_none() {
            return;
        }
        state.torn = self.notebook.torn();
        state.queued += rest.len();
        if !rest.is_empty() {
            state.queue.push_front(rest);
        }
        let begin = !state.queue.is_empty() && !std::mem::replace(&mut state.taken, true);
        drop(state);
        if begin {
            self.handed_over.notify_one();
        }
    }

    /// Closes the server's stdin: the first step of every stop.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        if let Some(elsewhere) = &state.diverted {
            // Where there is no room for this word, the other daemon learns it from our end.
            let _ = elsewhere.lines.try_send((elsewhere.instance, None));
        }
        state.stdin = None;
        state.queue.clear();
        state.queued = 0;
        // Nobody has a turn any more.
        state.taken = false;
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

fn divert(elsewhere: &Elsewhere, line: Vec<u8>) -> Result<(), WriteError> {
    elsewhere.lines.try_send((elsewhere.instance, Some(line))).map_err(|error| match error {
        TrySendError::Full((_, line)) => WriteError::Stalled { queued: line.map_or(0, |line| line.len()) },
        TrySendError::Closed(_) => WriteError::Closed,
    })
}

/// Writes until the pipe is full; how much of `bytes` went in. An error means: nothing.
fn write_some(stdin: &pipe::Sender, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match stdin.try_write(&bytes[written..]) {
            Ok(n) => written += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The next turn meets the error.
            Err(_) if written > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    fn notebook() -> Arc<Notebook> {
        Arc::new(Notebook::new(tempfile::tempfile().unwrap().into()))
    }

    #[tokio::test]
    async fn lines_arrive_whole_and_in_order_through_a_full_pipe() {
        let (sender, mut receiver) = pipe::pipe().unwrap();
        let writer = Arc::new(Writer::new(sender, 64 << 20, notebook(), None, false));
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
        let writer = Writer::new(sender, 1 << 20, notebook(), None, false);
        let refused = (0..100).find_map(|_| writer.send(vec![b'x'; 100_000], false).err());
        assert!(matches!(refused, Some(WriteError::Stalled { queued }) if queued <= 1 << 20), "{refused:?}");
    }

    #[tokio::test]
    async fn a_closed_pipe_can_be_given_away() {
        let (sender, _receiver) = pipe::pipe().unwrap();
        let writer = Arc::new(Writer::new(sender, 1 << 20, notebook(), None, false));
        let drainer = writer.clone();
        let drain = stdx::task::spawn("drain", async move { drainer.drain().await });
        writer.send(vec![b'x'; 400_000], false).unwrap();
        assert!(writer.queued() > 0);
        writer.close();
        drain.await.unwrap();
        let (lines, _) = tokio::sync::mpsc::channel(1);
        let given = writer.divert(Elsewhere { instance: 1, lines });
        let rest = tokio::time::timeout(Duration::from_secs(10), given).await;
        assert_eq!(rest.ok(), Some(Vec::new()));
        assert_eq!(writer.send(b"x\n".to_vec(), false), Err(WriteError::Closed));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_line_that_the_server_read_is_never_refused() {
        for round in 0..5_000 {
            let (sender, receiver) = pipe::pipe().unwrap();
            let writer = Arc::new(Writer::new(sender, 1 << 20, notebook(), None, false));
            let (closer, read) = (writer.clone(), Arc::new(std::sync::atomic::AtomicBool::new(false)));
            let seen = read.clone();
            // A server that acts on the line and exits: its end closes the writer.
            let server = std::thread::spawn(move || {
                let mut file = std::fs::File::from(receiver.into_blocking_fd().unwrap());
                let mut byte = [0];
                seen.store(
                    std::io::Read::read(&mut file, &mut byte).is_ok_and(|n| n > 0),
                    std::sync::atomic::Ordering::SeqCst,
                );
                closer.close();
            });
            let sent = writer.send(b"{}\n".to_vec(), false);
            writer.close();
            server.join().unwrap();
            let read = read.load(std::sync::atomic::Ordering::SeqCst);
            assert!(!read || sent.is_ok(), "round {round}: read, and {sent:?}");
        }
    }

    #[tokio::test]
    async fn half_a_line_of_a_dead_daemon_spoils_no_other() {
        let notebook = notebook();
        let (sender, receiver) = pipe::pipe().unwrap();
        let dead = Writer::new(sender, 64 << 20, notebook.clone(), None, false);
        dead.send([vec![b'x'; 1 << 20], b"\n".to_vec()].concat(), false).unwrap();
        let mut half = Vec::with_capacity(64 << 10);
        while receiver.try_read_buf(&mut half).is_ok_and(|n| n > 0) {
            half.reserve(64 << 10);
        }
        assert!(half.len() < 1 << 20 && notebook.torn());
        // What the keeper holds is the same pipe.
        let (sender, mut receiver) = pipe::pipe().unwrap();
        let next = Arc::new(Writer::new(sender, 64 << 20, notebook.clone(), None, false));
        let drainer = next.clone();
        stdx::task::spawn("drain", async move { drainer.drain().await });
        next.send(b"{}\n".to_vec(), false).unwrap();
        let mut got = vec![0; 4];
        receiver.read_exact(&mut got).await.unwrap();
        assert_eq!(got, b"\n{}\n");
        // Small lines leave no doubt.
        let (sender, _receiver) = pipe::pipe().unwrap();
        notebook.mend();
        Writer::new(sender, 64 << 20, notebook.clone(), None, false).send(vec![b'y'; WHOLE], false).unwrap();
        assert!(!notebook.torn());
    }
}
