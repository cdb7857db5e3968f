//! The other end of the operator socket: what `staithe status` and its kin use.

use crate::path::SocketPath;
use model::{Blame, Command, Problem, ProblemCode, Reply};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// Longest reply that is read, bytes.
const MAX_REPLY: u64 = 16 * 1024 * 1024;
/// How long a daemon may take to take the connection and the command.
const CONNECT: Duration = Duration::from_secs(5);
/// How long it may take to answer what it only has to look up. What it has to wait for itself has no limit here.
const LOOK_UP: Duration = Duration::from_secs(30);

/// The replies to one command.
#[derive(Debug)]
pub struct Replies {
    reader: BufReader<OwnedReadHalf>,
    /// Held open: closing it would say that we left.
    _writer: OwnedWriteHalf,
    path: String,
    /// How long the next reply may take.
    patience: Option<Duration>,
}

/// Gives `command` to the daemon that serves the socket `path`.
pub async fn call(path: &Path, command: &Command) -> Result<Replies, Problem> {
    let connected = match SocketPath::new(path) {
        Ok(short) => timeout(CONNECT, UnixStream::connect(short.get())).await,
        Err(error) => Ok(Err(error)),
    };
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(no_daemon(path, &error)),
        Err(_) => return Err(broken(path, "it does not take connections")),
    };
    let (reader, mut writer) = stream.into_split();
    let mut line = serde_json::to_vec(command).map_err(|error| broken(path, &error.to_string()))?;
    line.push(b'\n');
    match timeout(CONNECT, writer.write_all(&line)).await {
        Ok(Ok(())) => {}
        // A daemon that refuses says why before it closes: that is read below.
        Ok(Err(_)) => {}
        Err(_) => return Err(broken(path, "it does not read the command")),
    }
    let (path, patience) = (path.display().to_string(), patience(command));
    Ok(Replies { reader: BufReader::new(reader), _writer: writer, path, patience })
}

/// Whoever waits for a process that was stopped, or hangs, is to hear of it.
fn patience(command: &Command) -> Option<Duration> {
    let looks_up = matches!(
        command,
        Command::Status
            | Command::Servers
            | Command::Instances { .. }
            | Command::Sessions { .. }
            | Command::Tokens
            | Command::Pseudonyms
    );
    looks_up.then_some(LOOK_UP)
}

impl Replies {
    /// The next reply; `None` after the last one of several (`End`). A `Problem` is an error.
    pub async fn next(&mut self) -> Result<Option<Reply>, Problem> {
        let mut line = Vec::new();
        let path = Path::new(&self.path);
        let reading = async { (&mut self.reader).take(MAX_REPLY).read_until(b'\n', &mut line).await };
        let read = match self.patience {
            Some(patience) => timeout(patience, reading).await.map_err(|_| {
                broken(path, &format!("no reply in {} s; was its process stopped?", patience.as_secs()))
            })?,
            None => reading.await,
        };
        match read {
            Err(error) => return Err(broken(path, &error.to_string())),
            Ok(_) if line.last() != Some(&b'\n') => {
                return Err(broken(path, "it closed the connection without a whole reply"));
            }
            Ok(_) => {}
        }
        match serde_json::from_slice(&line) {
            Ok(Reply::Problem(problem)) => Err(problem),
            Ok(Reply::End) => Ok(None),
            Ok(reply) => Ok(Some(reply)),
            Err(error) => {
                Err(broken(path, &format!("its reply is not understood ({error}): is it another version of staithe?")))
            }
        }
    }

    /// The reply to a command that has one.
    pub async fn only(mut self) -> Result<Reply, Problem> {
        let reply = self.next().await?;
        reply.ok_or_else(|| broken(Path::new(&self.path), "it sent no reply"))
    }
}

fn no_daemon(path: &Path, error: &io::Error) -> Problem {
    let directory = path.parent().unwrap_or(path).display();
    if error.kind() == io::ErrorKind::PermissionDenied {
        let message = format!("this user may not use the staithe of {directory}");
        let hint = Some("run the command as the user that runs the daemon, or as root".to_owned());
        return Problem { code: ProblemCode::Denied, blame: Blame::Caller, message, hint };
    }
    let why = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => String::new(),
        _ => format!(" ({error})"),
    };
    Problem {
        code: ProblemCode::Failed,
        blame: Blame::Caller,
        message: format!("no staithe runs on this state directory, {directory}{why}"),
        hint: Some(
            "start one with `staithe serve` (or the same `staithe run …`, if that was killed: it finds its server again), \
             or name the directory of one that runs with --state-dir"
                .to_owned(),
        ),
    }
}

fn broken(path: &Path, why: &str) -> Problem {
    let message = format!("the staithe at {} does not answer as it should: {why}", path.display());
    Problem {
        code: ProblemCode::Failed,
        blame: Blame::Host,
        message,
        hint: Some("look at its output, or restart it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{LOOK_UP, call, no_daemon};
    use model::Command;
    use std::io;
    use std::path::Path;
    use std::time::Duration;
    use tokio::net::UnixListener;

    /// Whoever lost a `staithe run` must not think that its server is lost too.
    #[test]
    fn where_no_daemon_is_both_ways_to_start_one_are_told() {
        let problem = no_daemon(Path::new("/s/staithe.sock"), &io::ErrorKind::ConnectionRefused.into());
        let hint = problem.hint.unwrap();
        for told in ["`staithe serve`", "the same `staithe run …`", "--state-dir"] {
            assert!(hint.contains(told), "{hint}");
        }
    }

    #[tokio::test]
    async fn a_daemon_that_says_nothing_is_not_waited_for_where_it_only_has_to_look() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("staithe.sock");
        let _stopped = UnixListener::bind(&socket).unwrap();
        let mut status = call(&socket, &Command::Status).await.unwrap();
        assert_eq!(status.patience, Some(LOOK_UP));
        status.patience = Some(Duration::from_millis(50));
        let problem = status.only().await.unwrap_err();
        assert!(problem.message.contains("was its process stopped?"), "{}", problem.message);
        // A server may take as long as it was given to stop.
        let stop = Command::Stop { server: "one".parse().unwrap() };
        assert_eq!(call(&socket, &stop).await.unwrap().patience, None);
    }
}
