//! A child process and its three pipes. It gets its own process group, a mark that its whole tree inherits, and
//! nothing of our environment beyond a short list.

use crate::keeping::{Fate, Keeper, KeeperError, Kept};
use crate::notebook::Notebook;
use crate::settings::Settings;
use keeper::{Ends, Launch, Stage};
use model::{Effective, Program, ServerName};
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::unix::pipe;
use tokio::sync::watch;

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

/// Why a server's program could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    #[error("its working directory {0} does not exist; create it or change `cwd`")]
    NoDirectory(PathBuf),
    #[error("there is no program `{0}` on the host's PATH; install it or give its full path")]
    NoProgram(String),
    #[error("the program `{command}` could not be started: {reason}")]
    Refused { command: String, reason: String },
    #[error("its pipes could not be used")]
    Pipes(#[source] io::Error),
    #[error(transparent)]
    NoStateDirectory(#[from] stdx::durable::DurableError),
    #[error("the keeper did not start it")]
    Keeper(#[from] KeeperError),
}

/// A running child of the keeper.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) id: u64,
    pub(crate) pid: u32,
    /// What its tree is marked with.
    pub(crate) mark: String,
    keeper: Keeper,
    fate: watch::Receiver<Option<Fate>>,
}

/// Our ends of a child's pipes.
#[derive(Debug)]
pub(crate) struct Pipes {
    pub(crate) stdin: pipe::Sender,
    pub(crate) stdout: pipe::Receiver,
    pub(crate) stderr: pipe::Receiver,
    pub(crate) notebook: Arc<Notebook>,
}

/// Has the keeper start the program of `server` as instance `id`. Not to be dropped half-way: nobody would end the process.
pub(crate) async fn spawn(
    server: &ServerName,
    program: &Program,
    id: u64,
    settings: &Settings,
    bounds: &Effective,
    keeper: &Keeper,
) -> Result<(Child, Pipes), SpawnError> {
    let cwd = working_directory(server, program, settings)?;
    let mark = mark(&settings.identity, server, id);
    let given = program.env.iter().map(|(name, value)| (name.into(), value.into()));
    let launch = Launch {
        id,
        program: program.command.clone().into(),
        args: program.args.iter().map(Into::into).collect(),
        env: inherited(program).chain(given).chain([(MARK.into(), mark.clone().into())]).collect(),
        cwd: cwd.clone(),
        limits: limits(bounds),
    };
    let kept = keeper.spawn(launch).await?.map_err(|error| match error {
        keeper::SpawnError::Failed { stage: Stage::NoProgram, .. } => SpawnError::NoProgram(program.command.clone()),
        keeper::SpawnError::Failed { stage: Stage::NoDirectory, .. } => SpawnError::NoDirectory(cwd),
        keeper::SpawnError::Failed { text, .. } => {
            SpawnError::Refused { command: program.command.clone(), reason: text }
        }
        keeper::SpawnError::Ask(error) => SpawnError::Keeper(error.into()),
    })?;
    let (child, ends) = Child::of(kept, mark, keeper);
    match Pipes::new(ends) {
        Ok(pipes) => Ok((child, pipes)),
        Err(error) => {
            child.give_up().await;
            Err(SpawnError::Pipes(error))
        }
    }
}

/// What the keeper holds its tree to. The rate of its output is ours to hold.
fn limits(bounds: &Effective) -> keeper::Limits {
    keeper::Limits {
        memory_bytes: bounds.memory,
        processes: bounds.processes.map(u64::from),
        open_files: bounds.open_files.map(u64::from),
        cpu_percent: bounds.cpu.map(u64::from),
    }
}

/// What marks the tree of an instance.
pub(crate) fn mark(identity: &str, server: &ServerName, id: u64) -> String {
    format!("{identity}/{server}/{id}")
}

impl Child {
    /// A process that the keeper holds, and our ends of its pipes.
    pub(crate) fn of(kept: Kept, mark: String, keeper: &Keeper) -> (Self, Ends) {
        let Kept { held, fate } = kept;
        (Self { id: held.id, pid: held.pid, mark, keeper: keeper.clone(), fate }, held.ends)
    }

    /// Waits until the program itself has ended; its tree may live on. Cancel-safe.
    pub(crate) async fn exited(&mut self) -> String {
        match self.fate.wait_for(Option::is_some).await {
            Ok(fate) => fate.as_ref().map(ToString::to_string).unwrap_or_default(),
            Err(_closed) => Fate::KeeperGone.to_string(),
        }
    }

    /// It was killed because the keeper ended, or another daemon was told to end it.
    pub(crate) fn ended_by_host(&self) -> bool {
        matches!(&*self.fate.borrow(), Some(Fate::KeeperGone | Fate::ByHost(_)))
    }

    /// Another daemon had it, and nobody here knows how it is.
    pub(crate) fn is_unheard(&self) -> bool {
        matches!(&*self.fate.borrow(), Some(Fate::Elsewhere))
    }

    /// It is another daemon's, or is about to be: not ours to end.
    pub(crate) fn is_given_away(&self) -> bool {
        self.keeper.is_given_away()
    }

    /// Another daemon looks after it.
    pub(crate) fn leave(&self) {
        self.keeper.leave(self.id);
    }

    /// Which limit it went over; known from the moment at which the keeper ends it for that.
    pub(crate) fn over(&self) -> Option<String> {
        match &*self.fate.borrow() {
            Some(Fate::Over(text)) => Some(text.clone()),
            Some(Fate::Exited(_) | Fate::KeeperGone | Fate::ByHost(_) | Fate::Elsewhere) => None,
            None => self.keeper.over(self.id),
        }
    }

    /// The first step of every stop, beside closing our own end.
    pub(crate) async fn close_stdin(&self) {
        self.keeper.close_stdin(self.id).await;
    }

    /// It has ended, and nobody needs to hear of it again.
    pub(crate) async fn forget(&self) {
        self.keeper.forget(self.id).await;
    }

    async fn give_up(mut self) {
        self.close_stdin().await;
        crate::tree::stop(&mut self, std::time::Duration::ZERO).await;
        self.forget().await;
    }
}

impl Pipes {
    /// An error where a pipe is closed already, or is none.
    pub(crate) fn new(ends: Ends) -> io::Result<Self> {
        let stdin = ends.stdin.ok_or_else(|| io::Error::other("its stdin is closed"))?;
        Ok(Self {
            stdin: pipe::Sender::from_owned_fd(stdin)?,
            stdout: pipe::Receiver::from_owned_fd(ends.stdout)?,
            stderr: pipe::Receiver::from_owned_fd(ends.stderr)?,
            notebook: Arc::new(Notebook::new(ends.notebook)),
        })
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

/// What the program is given by name replaces what it inherits.
fn inherited(program: &Program) -> impl Iterator<Item = (OsString, OsString)> {
    let wanted = |name: &OsString| INHERITED.iter().any(|known| name == known);
    std::env::vars_os()
        .filter(move |(name, _)| wanted(name) && name.to_str().is_none_or(|name| !program.env.contains_key(name)))
}
