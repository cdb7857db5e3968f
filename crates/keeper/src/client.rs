//! The daemon's side of the socket. Blocking: a thread reads, callers wait for their answer.

use crate::link::{Frame, Inbox, is_ours, send};
use crate::wire::{Ask, HIGHEST, LOWEST, Malformed, Say, encode};
use crate::words::{Ends, Event, Held, Launch, Stage};
use jail::Usage;
use rustix::net::sockopt::socket_peercred;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long killed processes may take to go, and their answer to come.
const KILLED: Duration = Duration::from_secs(15);

/// Why the keeper did not answer as it should.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The connection is gone.
    #[error("the keeper is gone")]
    Lost,
    /// No answer in time. What was asked may have been done.
    #[error("the keeper did not answer in time")]
    Timeout,
    /// It says no.
    #[error("the keeper refused: {0}")]
    Refused(String),
    /// The socket failed.
    #[error("the keeper's socket failed")]
    Io(#[from] io::Error),
    /// What was asked does not fit, or the answer is none that we know.
    #[error("what the keeper is asked or says is not understood: {0}")]
    Malformed(#[from] Malformed),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// No keeper listens there.
    #[error("no keeper answers")]
    Absent(#[source] io::Error),
    /// It serves another daemon.
    #[error("the keeper serves another staithe (process {pid}); stop that one first")]
    Attached {
        /// The daemon that it serves.
        pid: u32,
    },
    /// There is no version of the protocol that both speak. The keeper goes on holding what it holds.
    #[error(
        "the keeper that holds the servers (process {pid}) speaks versions {lowest} to {highest} of its protocol, this \
         staithe {LOWEST} to {HIGHEST}; start a staithe that speaks one of them, or end the keeper and its servers with \
         `kill {pid}` and start again"
    )]
    Version {
        /// The lowest that the keeper speaks.
        lowest: u16,
        /// The highest.
        highest: u16,
        /// Its process; SIGTERM ends it and its servers in order. 0 where it cannot be seen from here.
        pid: i32,
    },
    /// Whoever listens there is another user.
    #[error("the socket of the keeper belongs to another user")]
    Stranger,
    /// It did not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
}

/// Why an instance was not started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The keeper tried.
    #[error("{text}")]
    Failed {
        /// What it tried last.
        stage: Stage,
        /// The system's number of the error; 0 if it was none of the system's.
        errno: i32,
        /// The error.
        text: String,
    },
    /// The keeper did not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
}

type Answers = SyncSender<Vec<Frame<Say>>>;

/// A question that waits. A list comes in several frames.
#[derive(Debug)]
struct Waiting {
    came: Vec<Frame<Say>>,
    done: Answers,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: HashMap<u32, Waiting>,
    last: u32,
    /// No more answers come.
    closed: bool,
    /// The keeper took us.
    welcome: bool,
    /// We closed it ourselves.
    detached: bool,
}

/// A connection to a keeper. There is one at a time. Dropping it does not detach: what must go on is not ended by
/// forgetting it.
#[derive(Debug)]
pub struct Client {
    socket: UnixStream,
    shared: Arc<Mutex<Shared>>,
    /// Held while a frame is written: frames do not mix.
    writing: Mutex<()>,
    keeper_pid: u32,
}

// === impl Client ===

impl Client {
    /// Connects and agrees on a version. `on_event` runs on a thread of the client: it must neither block nor ask.
    ///
    /// # Errors
    /// When nobody listens, or whoever does will not have us.
    pub fn attach(socket: &Path, on_event: impl Fn(Event) + Send + 'static) -> Result<Self, AttachError> {
        let hello = Ask::Hello { lowest: LOWEST, highest: HIGHEST, pid: std::process::id() };
        Self::attach_as(socket, &hello, on_event)
    }

    fn attach_as(socket: &Path, hello: &Ask, on_event: impl Fn(Event) + Send + 'static) -> Result<Self, AttachError> {
        let socket = UnixStream::connect(socket).map_err(AttachError::Absent)?;
        if !is_ours(&socket) {
            return Err(AttachError::Stranger);
        }
        socket.set_write_timeout(Some(TIMEOUT)).map_err(AskError::Io)?;
        let reading = socket.try_clone().map_err(AskError::Io)?;
        let shared = Arc::default();
        let heard = Arc::clone(&shared);
        let reader = std::thread::Builder::new().name("keeper-client".to_owned());
        reader.spawn(move || read(&reading, &heard, &on_event)).map_err(AskError::Io)?;
        let mut client = Self { socket, shared, writing: Mutex::new(()), keeper_pid: 0 };
        let refused = match client.one(hello, &[], TIMEOUT) {
            Ok((Say::Welcome { version, keeper_pid }, _)) if (LOWEST..=HIGHEST).contains(&version) => {
                client.keeper_pid = keeper_pid;
                return Ok(client);
            }
            Ok((Say::Attached { pid }, _)) => AttachError::Attached { pid },
            Ok((Say::Version { lowest, highest }, _)) => {
                // What cannot be agreed with can still be ended: who listens is known without a word.
                let pid = socket_peercred(&client.socket).map_or(0, |peer| peer.pid.as_raw_pid());
                AttachError::Version { lowest, highest, pid }
            }
            Ok(_) => AskError::Malformed(Malformed::Value).into(),
            Err(error) => error.into(),
        };
        client.detach();
        Err(refused)
    }

    /// The keeper's process.
    #[must_use]
    pub fn keeper_pid(&self) -> u32 {
        self.keeper_pid
    }

    /// Starts an instance.
    ///
    /// # Errors
    /// When it cannot be started, or the keeper does not answer. After a timeout it may run: see [`Self::list`].
    pub fn spawn(&self, launch: &Launch) -> Result<Held, SpawnError> {
        match self.one(&Ask::Spawn(launch.clone()), &[], TIMEOUT)? {
            (Say::Spawned { id, pid, started }, fds) => {
                let ends = ends(fds)?;
                Ok(Held { id, pid, started, exit: None, over: None, ends })
            }
            (Say::Failed { stage, errno, text }, _) => Err(SpawnError::Failed { stage, errno, text }),
            _ => Err(AskError::Malformed(Malformed::Value).into()),
        }
    }

    /// Everything that the keeper holds, by id.
    ///
    /// # Errors
    /// When the keeper does not answer.
    pub fn list(&self) -> Result<Vec<Held>, AskError> {
        let mut frames = self.ask(&Ask::List, &[], TIMEOUT)?;
        done(&frames.pop().ok_or(AskError::Lost)?.body)?;
        let held = frames.into_iter().map(|frame| match frame.body {
            Say::Held { id, pid, started, exit, over } => {
                Ok(Held { id, pid, started, exit, over, ends: ends(frame.fds)? })
            }
            _ => Err(AskError::Malformed(Malformed::Value)),
        });
        held.collect()
    }

    /// Drops the keeper's copy of an instance's stdin. The instance reads its end once ours are gone too.
    ///
    /// # Errors
    /// When there is no such instance, or the keeper does not answer.
    pub fn close_stdin(&self, id: u64) -> Result<(), AskError> {
        self.act(&Ask::CloseStdin { id })
    }

    /// Drops everything about an instance that has ended.
    ///
    /// # Errors
    /// When there is no such instance or it runs, or the keeper does not answer.
    pub fn forget(&self, id: u64) -> Result<(), AskError> {
        self.act(&Ask::Forget { id })
    }

    /// Sends a signal to the process of an instance and to its group. That nobody is left is no error.
    ///
    /// # Errors
    /// When there is no such instance or signal, or the keeper does not answer.
    pub fn signal(&self, id: u64, signal: i32) -> Result<(), AskError> {
        self.act(&Ask::Signal { id, signal })
    }

    /// Gives the keeper a duplicate of a listening socket; it replaces one of the same name.
    ///
    /// # Errors
    /// When the keeper does not answer.
    pub fn hold(&self, name: &str, listener: BorrowedFd<'_>) -> Result<(), AskError> {
        let (said, _) = self.one(&Ask::Hold { name: name.to_owned() }, &[listener], TIMEOUT)?;
        done(&said)
    }

    /// A duplicate of the listening socket `name`, if the keeper holds one. It goes on holding it.
    ///
    /// # Errors
    /// When the keeper does not answer.
    pub fn take(&self, name: &str) -> Result<Option<OwnedFd>, AskError> {
        match self.one(&Ask::Take { name: name.to_owned() }, &[], TIMEOUT)? {
            (Say::Nothing, _) => Ok(None),
            (said, mut fds) => done(&said).map(|()| fds.pop()),
        }
    }

    /// Lets the keeper close its copy of a listening socket.
    ///
    /// # Errors
    /// When the keeper does not answer.
    pub fn drop_listener(&self, name: &str) -> Result<(), AskError> {
        self.act(&Ask::Drop { name: name.to_owned() })
    }

    /// What the processes of an instance use.
    ///
    /// # Errors
    /// When there is no such instance, or the keeper does not answer.
    pub fn count(&self, id: u64) -> Result<Usage, AskError> {
        match self.one(&Ask::Count { id }, &[], TIMEOUT)? {
            (Say::Used(used), _) => Ok(used),
            _ => Err(AskError::Malformed(Malformed::Value)),
        }
    }

    /// Ends everything that the keeper holds, and the keeper: stdin is closed, after half of `grace` comes SIGTERM, after
    /// all of it SIGKILL for every process that is left. Returns when none is.
    ///
    /// # Errors
    /// When a process outlived even that, or the keeper does not answer.
    pub fn end(&self, grace: Duration) -> Result<(), AskError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let (said, _) = self.one(&Ask::End { grace_ms }, &[], grace + KILLED)?;
        done(&said)
    }

    /// Leaves. Another daemon may attach, and instances stay.
    pub fn detach(&self) {
        self.lock().detached = true;
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn act(&self, ask: &Ask) -> Result<(), AskError> {
        let (said, _) = self.one(ask, &[], TIMEOUT)?;
        done(&said)
    }

    /// An answer of one frame.
    fn one(&self, ask: &Ask, fds: &[BorrowedFd<'_>], timeout: Duration) -> Result<(Say, Vec<OwnedFd>), AskError> {
        let frame = self.ask(ask, fds, timeout)?.pop().ok_or(AskError::Lost)?;
        match frame.body {
            Say::Error { text } => Err(AskError::Refused(text)),
            body => Ok((body, frame.fds)),
        }
    }

    fn ask(&self, ask: &Ask, fds: &[BorrowedFd<'_>], timeout: Duration) -> Result<Vec<Frame<Say>>, AskError> {
        let (done, answer) = sync_channel(1);
        let request = {
            let mut shared = self.lock();
            if shared.closed || shared.detached {
                return Err(AskError::Lost);
            }
            // 0 is what comes unasked.
            shared.last = shared.last.wrapping_add(1).max(1);
            let request = shared.last;
            shared.waiting.insert(request, Waiting { came: Vec::new(), done });
            request
        };
        let answered = self.write(request, ask, fds).and_then(|()| wait(&answer, timeout));
        self.lock().waiting.remove(&request);
        answered
    }

    fn write(&self, request: u32, ask: &Ask, fds: &[BorrowedFd<'_>]) -> Result<(), AskError> {
        let bytes = encode(request, fds.len(), ask)?;
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut rest, mut fds) = (bytes.as_slice(), fds);
        while !rest.is_empty() {
            match send(self.socket.as_fd(), rest, fds) {
                Ok(sent) => (rest, fds) = (&rest[sent..], &[]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // Half a frame may have gone: nothing that follows would be understood.
                    let _ = self.socket.shutdown(std::net::Shutdown::Both);
                    return Err(match error.kind() {
                        io::ErrorKind::WouldBlock => AskError::Timeout,
                        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => AskError::Lost,
                        _ => AskError::Io(error),
                    });
                }
            }
        }
        Ok(())
    }
}

fn wait(answer: &Receiver<Vec<Frame<Say>>>, timeout: Duration) -> Result<Vec<Frame<Say>>, AskError> {
    answer.recv_timeout(timeout).map_err(|error| match error {
        RecvTimeoutError::Timeout => AskError::Timeout,
        RecvTimeoutError::Disconnected => AskError::Lost,
    })
}

fn done(said: &Say) -> Result<(), AskError> {
    match said {
        Say::Done => Ok(()),
        Say::Error { text } => Err(AskError::Refused(text.clone())),
        _ => Err(Malformed::Value.into()),
    }
}

/// Descriptors as the keeper sends them: stdin, if it is not closed, stdout, stderr, notebook.
fn ends(mut fds: Vec<OwnedFd>) -> Result<Ends, AskError> {
    let came = fds.len();
    let missing = || AskError::Malformed(Malformed::Descriptors { said: 3, came });
    let notebook = fds.pop().ok_or_else(missing)?;
    let stderr = fds.pop().ok_or_else(missing)?;
    let stdout = fds.pop().ok_or_else(missing)?;
    Ok(Ends { stdin: fds.pop(), stdout, stderr, notebook })
}

/// Reads until the connection is gone, then says so.
fn read(socket: &UnixStream, shared: &Mutex<Shared>, on_event: &impl Fn(Event)) {
    let mut inbox = Inbox::default();
    let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
    'reading: loop {
        match inbox.receive(socket) {
            Ok(0) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
            Ok(_) => {}
        }
        loop {
            let Ok(next) = inbox.next::<Say>() else { break 'reading };
            let Some(frame) = next else { break };
            match frame.body {
                Say::Exited { id, exit } if frame.request == 0 => on_event(Event::Exited { id, exit }),
                Say::Over { id, text } if frame.request == 0 => on_event(Event::Over { id, text }),
                _ => hear(&mut lock(), frame),
            }
        }
    }
    let unheard = {
        let mut shared = lock();
        shared.closed = true;
        shared.waiting.clear();
        shared.detached || !shared.welcome
    };
    if !unheard {
        on_event(Event::Lost);
    }
}

/// Gives a frame to whoever waits for it; nobody does after a timeout.
fn hear(shared: &mut Shared, frame: Frame<Say>) {
    let (request, more) = (frame.request, matches!(frame.body, Say::Held { .. }));
    shared.welcome |= matches!(frame.body, Say::Welcome { .. });
    let Some(waiting) = shared.waiting.get_mut(&request) else { return };
    waiting.came.push(frame);
    if !more && let Some(waiting) = shared.waiting.remove(&request) {
        // Its reader gave up meanwhile: the frames and their descriptors go.
        drop(waiting.done.try_send(waiting.came));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_common_version_is_refused_and_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let keeper = crate::in_thread(directory.path()).unwrap();
        for (lowest, highest) in [(HIGHEST + 1, HIGHEST + 9), (0, LOWEST - 1)] {
            let hello = Ask::Hello { lowest, highest, pid: 1 };
            let refused = Client::attach_as(keeper.socket(), &hello, |event| panic!("{event:?}")).unwrap_err();
            assert!(matches!(refused, AttachError::Version { lowest: LOWEST, highest: HIGHEST, .. }), "{refused}");
            // This keeper is a thread of ours.
            assert!(refused.to_string().contains(&format!("`kill {}`", std::process::id())), "{refused}");
        }
        let hello = Ask::Hello { lowest: 0, highest: HIGHEST + 9, pid: 1 };
        Client::attach_as(keeper.socket(), &hello, |_| {}).expect("the highest common version is used").detach();
        keeper.stop();
    }
}
