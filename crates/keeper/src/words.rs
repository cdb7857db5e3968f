//! What both sides of the socket talk about.

use jail::Limits;
use std::ffi::OsString;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned or exited with this status.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
        }
    }
}

/// What to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The instance's name on this socket: not used before.
    pub id: u64,
    /// A path, or a word that is looked up on the `PATH` of `env`.
    pub program: OsString,
    /// Its arguments, without the program's own name.
    pub args: Vec<OsString>,
    /// All of its environment: the keeper adds nothing.
    pub env: Vec<(OsString, OsString)>,
    /// Where it starts.
    pub cwd: PathBuf,
    /// What it may use.
    pub limits: Limits,
}

/// Our ends of an instance's pipes, each non-blocking, and its notebook: a memory file that lives as long as the
/// instance is held.
#[derive(Debug)]
pub struct Ends {
    /// The write end of its stdin; `None` once it was closed.
    pub stdin: Option<OwnedFd>,
    /// The read end of its stdout.
    pub stdout: OwnedFd,
    /// The read end of its stderr.
    pub stderr: OwnedFd,
    /// The memory file.
    pub notebook: OwnedFd,
}

/// An instance that the keeper holds. One that exited stays a zombie, so that its pid names nobody else, until it is
/// forgotten.
#[derive(Debug)]
pub struct Held {
    /// Its name on this socket.
    pub id: u64,
    /// Its process and process group.
    pub pid: u32,
    /// When it started: field 22 of `/proc/<pid>/stat`, clock ticks since the machine's start.
    pub started: u64,
    /// How it ended, if it has.
    pub exit: Option<Exit>,
    /// For which limit the keeper ended it, if it did.
    pub over: Option<String>,
    /// Duplicates of the descriptors.
    pub ends: Ends,
}

/// What the keeper says unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The process of instance `id` ended; its descendants may live on.
    Exited {
        /// Which instance.
        id: u64,
        /// How.
        exit: Exit,
    },
    /// The processes of instance `id` were killed for a limit. Comes before its `Exited`.
    Over {
        /// Which instance.
        id: u64,
        /// Which limit, and what was used.
        text: String,
    },
    /// The connection is gone, most likely the keeper too. The last event.
    Lost,
}

/// Where a start failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// There is no such program.
    NoProgram,
    /// There is no such working directory.
    NoDirectory,
    /// No pipe or memory file could be made.
    NoPipe,
    /// The program could not be executed.
    Exec,
    /// A limit could not be set.
    Limit,
    /// The id is taken.
    Duplicate,
}
