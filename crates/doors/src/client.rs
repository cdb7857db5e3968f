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

/// The replies to one command.
#[derive(Debug)]
pub struct Replies {
    reader: BufReader<OwnedReadHalf>,
    /// Held open: closing it would say that we left.
    _writer: OwnedWriteHalf,
    path: String,
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
    Ok(Replies { reader: BufReader::new(reader), _writer: writer, path: path.display().to_string() })
}

impl Replies {
    /// The next reply; `None` after the last one of several (`End`). A `Problem` is an error.
    pub async fn next(&mut self) -> Result<Option<Reply>, Problem> {
        let mut line = Vec::new();
        let read = (&mut self.reader).take(MAX_REPLY).read_until(b'\n', &mut line).await;
        let path = Path::new(&self.path);
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
    use super::no_daemon;
    use std::io;
    use std::path::Path;

    /// Whoever lost a `staithe run` must not think that its server is lost too.
    #[test]
    fn where_no_daemon_is_both_ways_to_start_one_are_told() {
        let problem = no_daemon(Path::new("/s/staithe.sock"), &io::ErrorKind::ConnectionRefused.into());
        let hint = problem.hint.unwrap();
        for told in ["`staithe serve`", "the same `staithe run …`", "--state-dir"] {
            assert!(hint.contains(told), "{hint}");
        }
    }
}
