//! The operator socket: one JSON command per line in, reply lines out. `logs --follow` replies until its reader leaves.

use crate::path::SocketPath;
use control::{Control, Door, Evidence, LogFollow, Operator, Outcome, identify};
use model::{Blame, Command, Problem, ProblemCode, Reply};
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longest command, bytes. An import of hundreds of servers fits.
const MAX_COMMAND: u64 = 1024 * 1024;
/// Connections at one time. Each may follow a log.
const MAX_CONNECTIONS: usize = 64;
/// How long a connection may be silent before its next command is complete.
const IDLE: Duration = Duration::from_secs(60);
/// How long a reader may block a reply.
const WRITE: Duration = Duration::from_secs(10);
/// How long commands that run may take when the host stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Why there is no operator socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers on it.
    #[error("another staithe answers on {path}: stop it first, or use another --state-dir", path = .0.display())]
    Answered(PathBuf),
    /// Something that we will not delete.
    #[error("{path} is in the way: it is not a socket", path = .0.display())]
    InTheWay(PathBuf),
    /// The operating system refused.
    #[error("cannot {step} {path}", path = path.display())]
    Os {
        /// What was tried.
        step: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A bound operator socket, readable and writable by its owner alone.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Which file it is, whatever stands at its path later.
    identity: Option<(u64, u64)>,
}

impl Socket {
    /// Binds `path`. A socket that nobody answers on, left by a crash, is removed first.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let at = |step| move |source| BindError::Os { step, path: path.to_path_buf(), source };
        let short = SocketPath::new(path).map_err(at("reach"))?;
        remove_stale(path, &short)?;
        let listener = UnixListener::bind(short.get()).map_err(at("bind"))?;
        // The state directory is closed to others, so nobody can come in before this.
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(at("protect"))?;
        Ok(Self { listener, path: path.to_path_buf(), identity: identity(path) })
    }

    /// Binds a socket beside `path`, where nobody looks for it before [`Self::put_in_place`].
    pub fn beside(path: &Path) -> Result<Self, BindError> {
        Ok(Self { path: path.to_path_buf(), ..Self::bind(&beside(path))? })
    }

    /// Puts the socket that another daemon has bound beside `path` in the place of ours. Whoever is connected to ours stays
    /// so; everybody else comes to the other from one moment to the next.
    pub fn put_in_place(path: &Path) -> Result<(), BindError> {
        let at = |source| BindError::Os { step: "put in place", path: path.to_path_buf(), source };
        stdx::durable::rename(&beside(path), path).map_err(at)
    }

    /// Serves commands until `shutdown`; then lets those that run finish, for some seconds, and removes the socket.
    pub async fn serve(self, control: Control, shutdown: CancellationToken) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the operator socket cannot accept; trying again");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                refuse(&stream);
                continue;
            };
            let visit = Visit { control: control.clone(), shutdown: shutdown.clone() };
            let task = async move {
                visit.run(stream).await;
                drop(place);
            };
            drop(stdx::task::spawn("operator connection", connections.track_future(task)));
        }
        connections.close();
        if timeout(DRAIN, connections.wait()).await.is_err() {
            tracing::warn!("operator commands still ran when the host stopped");
        }
        // Another daemon may have put its own there.
        if identity(&self.path).is_some_and(|there| Some(there) == self.identity)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::debug!(%error, "the operator socket was gone already");
        }
    }
}

fn beside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = std::fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

fn remove_stale(path: &Path, short: &SocketPath) -> Result<(), BindError> {
    let at = |step| move |source| BindError::Os { step, path: path.to_path_buf(), source };
    let kind = match std::fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(at("look at")(error)),
    };
    if !kind.is_socket() {
        return Err(BindError::InTheWay(path.to_path_buf()));
    }
    match std::os::unix::net::UnixStream::connect(short.get()) {
        Ok(_) => Err(BindError::Answered(path.to_path_buf())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(at("remove the stale socket"))
        }
        Err(error) => Err(at("ask who answers on")(error)),
    }
}

/// No place is left: said without waiting, since a task of its own is what there is no room for.
fn refuse(stream: &UnixStream) {
    let message = format!("{MAX_CONNECTIONS} operator connections are open already");
    let hint = Some("end some `staithe logs --follow`".to_owned());
    let problem = Problem { code: ProblemCode::Failed, blame: Blame::Caller, message, hint };
    if let Err(error) = stream.try_write(&line(&Reply::Problem(problem))) {
        tracing::debug!(%error, "a refused operator left early");
    }
}

/// One connection.
struct Visit {
    control: Control,
    shutdown: CancellationToken,
}

/// The connection is of no more use.
struct Gone;

impl Visit {
    async fn run(self, stream: UnixStream) {
        let evidence = stream.peer_cred().map(|peer| peer.uid());
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let own = rustix::process::geteuid().as_raw();
        let operator = match evidence {
            Ok(uid) => identify(Evidence::Socket { uid, own }),
            Err(error) => Err(unread(&format!("the kernel does not say who is at the socket: {error}"))),
        };
        let operator = match operator {
            Ok(operator) => operator,
            Err(problem) => return drop(send(&mut writer, &Reply::Problem(problem)).await),
        };
        let mut text = Vec::new();
        loop {
            let command = tokio::select! {
                () = self.shutdown.cancelled() => return,
                command = next_command(&mut reader, &mut text) => command,
            };
            let over = match command {
                Ok(None) => return,
                Ok(Some(command)) => self.answer(&operator, command, &mut reader, &mut writer).await.is_err(),
                // What follows an unreadable line cannot be trusted to be a command.
                Err(problem) => {
                    drop(send(&mut writer, &Reply::Problem(problem)).await);
                    true
                }
            };
            if over {
                return;
            }
        }
    }

    async fn answer(
        &self,
        operator: &Operator,
        command: Command,
        reader: &mut BufReader<OwnedReadHalf>,
        writer: &mut OwnedWriteHalf,
    ) -> Result<(), Gone> {
        match self.control.execute(operator, Door::Socket, command).await {
            Ok(Outcome::Reply(reply)) => send(writer, &reply).await,
            Ok(Outcome::Follow(log)) => self.follow(log, reader, writer).await,
            Err(problem) => send(writer, &Reply::Problem(problem)).await,
        }
    }

    /// Sends line after line until there are no more, the host stops, or the reader leaves or asks something else.
    async fn follow(
        &self,
        mut log: LogFollow,
        reader: &mut BufReader<OwnedReadHalf>,
        writer: &mut OwnedWriteHalf,
    ) -> Result<(), Gone> {
        loop {
            let line = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => None,
                line = log.next() => line,
                more = reader.fill_buf() => match more {
                    Ok([]) | Err(_) => return Err(Gone),
                    Ok(_) => None,
                },
            };
            match line {
                Some(line) => send(writer, &Reply::Log(line)).await?,
                None => return send(writer, &Reply::End).await,
            }
        }
    }
}

/// The next command; `None` when the client has left.
async fn next_command(reader: &mut BufReader<OwnedReadHalf>, text: &mut Vec<u8>) -> Result<Option<Command>, Problem> {
    text.clear();
    let mut bounded = reader.take(MAX_COMMAND + 1);
    let read = match timeout(IDLE, bounded.read_until(b'\n', text)).await {
        Ok(Ok(read)) => read,
        Ok(Err(_)) | Err(_) => return Ok(None),
    };
    if read == 0 {
        return Ok(None);
    }
    if text.last() != Some(&b'\n') {
        let long = text.len() as u64 > MAX_COMMAND;
        return if long { Err(unread(&format!("the command is longer than {MAX_COMMAND} bytes"))) } else { Ok(None) };
    }
    serde_json::from_slice(text).map(Some).map_err(|error| unread(&format!("the command is not understood: {error}")))
}

async fn send(writer: &mut OwnedWriteHalf, reply: &Reply) -> Result<(), Gone> {
    match timeout(WRITE, writer.write_all(&line(reply))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Gone),
    }
}

fn line(reply: &Reply) -> Vec<u8> {
    let mut out = serde_json::to_vec(reply).unwrap_or_else(|error| {
        tracing::error!(%error, "a reply cannot be written as JSON; this is a bug in staithe");
        br#"{"reply":"end"}"#.to_vec()
    });
    out.push(b'\n');
    out
}

fn unread(message: &str) -> Problem {
    let message = control::hide_tokens(message);
    Problem { code: ProblemCode::Usage, blame: Blame::Caller, message, hint: None }
}

#[cfg(test)]
mod tests {
    use super::{BindError, Socket};
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("staithe.sock");
        let first = Socket::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(Socket::bind(&path), Err(BindError::Answered(_))));
        drop(first);
        assert!(path.exists(), "a crash leaves the file");
        Socket::bind(&path).unwrap();
    }

    #[tokio::test]
    async fn another_file_is_not_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("staithe.sock");
        std::fs::File::create(&path).unwrap();
        assert!(matches!(Socket::bind(&path), Err(BindError::InTheWay(_))));
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_long_path_is_no_matter() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let path = deep.join("staithe.sock");
        let _socket = Socket::bind(&path).unwrap();
        assert!(path.exists());
        assert!(matches!(Socket::bind(&path), Err(BindError::Answered(_))));
    }
}
