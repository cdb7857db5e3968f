//! Why there is no instance for a call.

use model::{Blame, ServerName};
use std::fmt;
use std::time::Duration;

/// No instance can take the call.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Absent {
    /// No server has this name.
    #[error("no server is named {0}")]
    Unknown(ServerName),
    /// An operator stopped it.
    #[error("the server {0} is stopped; an operator can start it with `staithe start {0}`")]
    Stopped(ServerName),
    /// It could not be started, or dies again and again.
    #[error("the server {server} cannot serve: {reason}")]
    Failing { server: ServerName, reason: String, retry_after: Duration },
    /// It did not become ready while the call waited.
    #[error("the server {server} did not become ready within {} s", waited.as_secs())]
    Slow { server: ServerName, waited: Duration },
    /// Another daemon has taken over, and only it starts processes.
    #[error("another process of this host has taken over before the call was sent; send it again")]
    Moved,
    /// The caller's session was ended while its request waited.
    #[error("the session has ended; open a new one with `initialize`")]
    SessionEnded,
    /// A bound on processes is reached.
    #[error(
        "the server {server} can have no more processes now: {limit} are the limit {bound}; try again when one is idle"
    )]
    Full { server: ServerName, limit: u32, bound: Bound },
}

/// Whose processes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// One principal's, of one server.
    Principal,
    /// One server's.
    Server,
    /// All.
    Host,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Principal => "for one principal",
            Self::Server => "for one server",
            Self::Host => "for all servers together",
        })
    }
}

impl Absent {
    /// Who has to act.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Unknown(_) | Self::SessionEnded => Blame::Caller,
            Self::Stopped(_) | Self::Full { .. } | Self::Moved => Blame::Host,
            Self::Failing { .. } | Self::Slow { .. } => Blame::Server,
        }
    }

    /// When it may be worth asking again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unknown(_) | Self::Stopped(_) | Self::SessionEnded => None,
            Self::Failing { retry_after, .. } => Some(*retry_after),
            Self::Moved => Some(Duration::from_secs(1)),
            Self::Slow { .. } | Self::Full { .. } => Some(Duration::from_secs(5)),
        }
    }
}
