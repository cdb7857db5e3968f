//! What can go wrong with the database, in words that say what to do.

use model::Blame;
use std::error::Error;
use std::path::PathBuf;

/// What the driver said.
pub(crate) type Driver = Box<dyn Error + Send + Sync>;

/// An operation failed. Nothing was changed, except where the cause is `OutcomeUnknown`.
#[derive(Debug, thiserror::Error)]
#[error("the store cannot {op}")]
pub struct StoreError {
    op: &'static str,
    #[source]
    cause: Cause,
}

impl StoreError {
    pub(crate) fn new(op: &'static str, cause: Cause) -> Self {
        Self { op, cause }
    }

    /// Why.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// Whose fault it is: the caller's for values that no database could keep, else the host's.
    pub fn blame(&self) -> Blame {
        match self.cause {
            Cause::TooLarge { .. } | Cause::Nul | Cause::Exists => Blame::Caller,
            _ => Blame::Host,
        }
    }
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// There is no connection, and some seconds of trying brought none.
    #[error("PostgreSQL cannot be reached; check that it runs and takes connections")]
    Unreachable(#[source] Driver),
    /// The connection broke during the commit.
    #[error(
        "the connection was lost during the commit, so the change may or may not be made; look before repeating it"
    )]
    OutcomeUnknown(#[source] Driver),
    /// Another process held a lock for too long.
    #[error("the database is busy; another process has held its lock for seconds")]
    Busy(#[source] Driver),
    /// No space.
    #[error("the disk of the database is full; free some space and repeat")]
    Full(#[source] Driver),
    /// The file, file system or server takes no writes.
    #[error("the database is read-only; make it writable for staithe's user and repeat")]
    ReadOnly(#[source] Driver),
    /// The database cannot be read as what it should hold.
    #[error("the database is damaged ({what}); stop staithe and restore a backup")]
    Damaged {
        /// What was found.
        what: String,
    },
    /// The key is taken.
    #[error("an entry with this key exists already")]
    Exists,
    /// Beyond the bound for such a value.
    #[error("{what} has {bytes} bytes; the most is {limit}")]
    TooLarge {
        /// Which value.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// PostgreSQL keeps no NUL in text, so neither database is given one.
    #[error("the text holds a NUL character, which cannot be stored")]
    Nul,
    /// Anything else that the database said.
    #[error("the database refused the operation")]
    Refused(#[source] Driver),
    /// The thread that owns the connection is gone.
    #[error("the store has stopped after an internal error; restart staithe")]
    Stopped,
}

impl Cause {
    /// The same for another operation, where it is about the database and not about what was to be written.
    pub(crate) fn of_database(&self) -> Option<Self> {
        let told = |source: &Driver| Driver::from(source.to_string());
        Some(match self {
            Self::Unreachable(source) => Self::Unreachable(told(source)),
            Self::OutcomeUnknown(source) => Self::OutcomeUnknown(told(source)),
            Self::Busy(source) => Self::Busy(told(source)),
            Self::ReadOnly(source) => Self::ReadOnly(told(source)),
            Self::Damaged { what } => Self::Damaged { what: what.clone() },
            Self::Stopped => Self::Stopped,
            Self::Full(_) | Self::Exists | Self::TooLarge { .. } | Self::Nul | Self::Refused(_) => return None,
        })
    }
}

/// The database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory of the file cannot be made.
    #[error("the directory for the database cannot be made")]
    Directory(#[source] stdx::durable::DurableError),
    /// SQLite cannot open the file.
    #[error("the database {path} cannot be opened", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Driver,
    },
    /// The file is something else, or broken.
    #[error("{path} is not a SQLite database, or it is damaged; restore a backup, or move the file away to start empty", path = path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// The file is a SQLite database without our tables.
    #[error("{path} is the SQLite database of another program; choose another file", path = path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error("the database {path} is read-only for this user; make the file and its directory writable", path = path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// The disk is full.
    #[error("the disk of the database {path} is full; free some space", path = path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// The file system lacks what a write-ahead log needs.
    #[error("the file system of {path} cannot hold a write-ahead log; use a local disk, or PostgreSQL", path = path.display())]
    NoWriteAheadLog {
        /// The file.
        path: PathBuf,
    },
    /// The text is not understood. It is not repeated here: it may hold a password.
    #[error(
        "the PostgreSQL connection string is not understood; write it like `host=/run/postgresql dbname=staithe` or `postgresql://user@host/staithe`"
    )]
    BadConnectionString,
    /// The text asks for TLS.
    #[error(
        "the PostgreSQL connection string asks for TLS, which this version does not speak; use a Unix socket or a private network, without sslmode=require"
    )]
    Tls,
    /// No connection, or no answer on it.
    #[error("PostgreSQL cannot be used")]
    Unreachable(#[source] Driver),
    /// The search path names nothing that exists.
    #[error("PostgreSQL has no schema for the tables: no schema of the search path exists; create it first")]
    NoSchema,
    /// Written by a later staithe.
    #[error(
        "the database was written by a newer staithe (schema {found}; this one knows up to {known}); run that version, or restore the backup from before the upgrade"
    )]
    Newer {
        /// What the database says.
        found: i64,
        /// What this program knows.
        known: i64,
    },
    /// A migration failed; the database is as it was.
    #[error("the tables of the database cannot be brought up to date")]
    Migration(#[source] Cause),
    /// No thread for the connection.
    #[error("the thread of the store cannot be started")]
    Thread(#[source] std::io::Error),
    /// The thread ended before it answered.
    #[error("the store stopped while it was opened; this is a bug in staithe")]
    Stopped,
}

impl OpenError {
    /// Whose fault it is: the caller's where the location itself is wrong, else the host's.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Foreign { .. } | Self::BadConnectionString | Self::Tls | Self::NoSchema => Blame::Caller,
            _ => Blame::Host,
        }
    }
}
