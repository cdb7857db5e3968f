//! A child process and its three pipes. It gets its own process group, a mark that its whole tree inherits, and
//! nothing of our environment beyond a short list.

use crate::settings::Settings;
use model::{Program, ServerName};
use rustix::pipe::fcntl_setpipe_size;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use tokio::net::unix::pipe;

/// Environment variables that a server inherits. Everything else it must be given: our environment may hold secrets.
const INHERITED: [&str; 14] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "TERM",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "XDG_CACHE_HOME",
];

/// Marks every process of an instance: `<identity>/<server>/<instance>`.
pub(crate) const MARK: &str = "STAITHE_INSTANCE";

/// Room in a pipe, so that a message of 64 KiB crosses in one piece. Asking for more than the kernel gives is no error.
const PIPE_BYTES: usize = 256 << 10;

/// Why a server's program could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    #[error("its working directory {0} does not exist; create it or change `cwd`")]
    NoDirectory(PathBuf),
    #[error("there is no program `{0}` on the host's PATH; install it or give its full path")]
    NoProgram(String),
    #[error("the program `{command}` could not be started")]
    Refused { command: String, source: io::Error },
    #[error("no pipe could be made")]
    NoPipe(#[source] io::Error),
    #[error(transparent)]
    NoStateDirectory(#[from] stdx::durable::DurableError),
}

/// A running child.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: u32,
    /// What its tree is marked with.
    pub(crate) mark: String,
    process: tokio::process::Child,
}

/// Our ends of a child's pipes.
#[derive(Debug)]
pub(crate) struct Pipes {
    pub(crate) stdin: pipe::Sender,
    pub(crate) stdout: pipe::Receiver,
    pub(crate) stderr: pipe::Receiver,
}

/// Starts the program of `server` as instance `id`.
pub(crate) fn spawn(
    server: &ServerName,
    program: &Program,
    id: u64,
    settings: &Settings,
) -> Result<(Child, Pipes), SpawnError> {
    let directory = working_directory(server, program, settings)?;
    let mark = format!("{}/{server}/{id}", settings.identity);
    let (stdin, their_stdin) = to_child().map_err(SpawnError::NoPipe)?;
    let (their_stdout, stdout) = from_child().map_err(SpawnError::NoPipe)?;
    let (their_stderr, stderr) = from_child().map_err(SpawnError::NoPipe)?;

    let mut command = tokio::process::Command::new(&program.command);
    command
        .args(&program.args)
        .env_clear()
        .envs(inherited())
        .envs(&program.env)
        .env(MARK, &mark)
        .current_dir(&directory)
        .stdin(Stdio::from(their_stdin))
        .stdout(Stdio::from(their_stdout))
        .stderr(Stdio::from(their_stderr))
        .process_group(0)
        .kill_on_drop(true);
    let process = command.spawn().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => SpawnError::NoProgram(program.command.clone()),
        _ => SpawnError::Refused { command: program.command.clone(), source },
    })?;
    let pid = process.id().unwrap_or_default();
    Ok((Child { pid, mark, process }, Pipes { stdin, stdout, stderr }))
}

impl Child {
    /// Waits until the program itself has ended; its tree may live on. Cancel-safe.
    pub(crate) async fn exited(&mut self) -> String {
        match self.process.wait().await {
            Ok(status) => describe(status),
            Err(error) => format!("its exit status could not be read: {error}"),
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}

fn working_directory(server: &ServerName, program: &Program, settings: &Settings) -> Result<PathBuf, SpawnError> {
    match &program.cwd {
        Some(given) if PathBuf::from(given).is_dir() => Ok(PathBuf::from(given)),
        Some(given) => Err(SpawnError::NoDirectory(PathBuf::from(given))),
        None => {
            let own = settings.servers_dir.join(server.as_str()).join("state");
            stdx::durable::make_dir(&own, 0o700)?;
            Ok(own)
        }
    }
}

fn inherited() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| INHERITED.iter().any(|known| name == known))
}

fn to_child() -> io::Result<(pipe::Sender, OwnedFd)> {
    let (ours, theirs) = pipe::pipe()?;
    let _ = fcntl_setpipe_size(&ours, PIPE_BYTES);
    Ok((ours, theirs.into_blocking_fd()?))
}

fn from_child() -> io::Result<(OwnedFd, pipe::Receiver)> {
    let (theirs, ours) = pipe::pipe()?;
    let _ = fcntl_setpipe_size(&ours, PIPE_BYTES);
    Ok((theirs.into_blocking_fd()?, ours))
}
