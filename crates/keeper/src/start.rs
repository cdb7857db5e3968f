//! The start of a keeper by another process.

use crate::process::VERB;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long a new keeper may take to be ready, seconds.
const READY_SECONDS: i64 = 5;

/// How a keeper begins to say that another one has the state directory.
pub(crate) const HELD: &str = "another keeper";

/// How a keeper is started.
#[derive(Clone, Copy, Debug, Default)]
pub struct StartOptions {
    /// How long it waits for a daemon while it holds something. 15 minutes if `None`. Whole seconds.
    pub orphan_timeout: Option<Duration>,
}

/// Why no keeper was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system started no process.
    #[error("the keeper {program} could not be started", program = .program.display())]
    Start {
        /// Which program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another one works for that state directory, or is about to end.
    #[error("the keeper could not start: {0}")]
    Held(String),
    /// It said why it cannot work.
    #[error("the keeper could not start: {0}")]
    Failed(String),
    /// It said nothing in 5 s; it was killed.
    #[error("the keeper was not ready after {READY_SECONDS} s; read run/keeper.log in the state directory")]
    Silent,
}

/// Starts `exe` as the keeper of `state_dir` and waits until clients can attach. The caller waits for the child in the
/// end. It lives on when the caller dies.
///
/// # Errors
/// When it cannot start, or is not ready within 5 s.
pub fn start(exe: &Path, state_dir: &Path, options: &StartOptions) -> Result<Child, StartError> {
    let failed = |source| StartError::Start { program: exe.to_owned(), source };
    let mut command = Command::new(exe);
    command.arg(VERB).arg("--state-dir").arg(std::path::absolute(state_dir).map_err(failed)?);
    if let Some(timeout) = options.orphan_timeout {
        command.arg("--orphan-timeout").arg(timeout.as_secs().to_string());
    }
    // Our environment may hold secrets; instances are given all of theirs.
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(failed)?;
    let said = child.stdout.take().map(first_line).transpose().map_err(failed)?.flatten();
    match said.as_deref() {
        Some("ready") => Ok(child),
        other => {
            let _ = child.kill().and_then(|()| child.wait());
            Err(match other {
                None | Some("") => StartError::Silent,
                Some(said) if said.starts_with(HELD) => StartError::Held(said.to_owned()),
                Some(said) => StartError::Failed(said.to_owned()),
            })
        }
    }
}

/// One line, or what came before the end; `None` after too long a silence.
fn first_line(mut from: std::process::ChildStdout) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    loop {
        let silence = Timespec { tv_sec: READY_SECONDS, tv_nsec: 0 };
        if poll(&mut [PollFd::new(&from, PollFlags::IN)], Some(&silence))? == 0 {
            return Ok(None);
        }
        let mut byte = [0];
        if from.read(&mut byte)? == 0 || byte == *b"\n" || line.len() > 4096 {
            return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
        }
        line.extend(byte);
    }
}
