//! Evidence becomes an operator here and nowhere else.

use crate::problem;
use model::{Principal, Problem};
use std::fmt;

/// The way an operator came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The operator socket.
    Socket,
    /// The command line of the daemon's own process (`run`, `demo`).
    CommandLine,
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Socket => "socket",
            Self::CommandLine => "command-line",
        })
    }
}

/// What a door knows about whoever came in.
#[derive(Clone, Copy, Debug)]
pub enum Evidence {
    /// The kernel's word for the peer of a Unix socket, and the user that the daemon runs as.
    Socket {
        /// The peer's user.
        uid: u32,
        /// The daemon's own user.
        own: u32,
    },
    /// The daemon's own process asks: whoever started it may do all that it can do.
    Process,
}

/// Somebody who may give commands. Only `identify` makes one.
#[derive(Clone, Debug)]
pub struct Operator {
    principal: Principal,
    uid: Option<u32>,
}

impl Operator {
    /// Under which name the operator acts.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The operator's user on this machine, where the door knows it.
    pub fn uid(&self) -> Option<u32> {
        self.uid
    }
}

/// Who came in. At the socket: the daemon's own user, and root, who could do anything anyway.
pub fn identify(evidence: Evidence) -> Result<Operator, Problem> {
    match evidence {
        Evidence::Socket { uid, own } if uid == own || uid == 0 => {
            Ok(Operator { principal: Principal::operator(), uid: Some(uid) })
        }
        Evidence::Socket { uid, own } => Err(problem::denied(
            format!("user {uid} may not command a staithe that belongs to user {own}"),
            "run the command as that user, or as root",
        )),
        Evidence::Process => Ok(Operator { principal: Principal::operator(), uid: None }),
    }
}

#[cfg(test)]
mod tests {
    use super::{Evidence, identify};
    use model::ProblemCode;

    #[test]
    fn only_the_owner_and_root_are_operators() {
        assert!(identify(Evidence::Socket { uid: 1000, own: 1000 }).is_ok());
        assert_eq!(identify(Evidence::Socket { uid: 0, own: 1000 }).unwrap().uid(), Some(0));
        assert_eq!(identify(Evidence::Socket { uid: 1001, own: 1000 }).unwrap_err().code, ProblemCode::Denied);
        assert_eq!(identify(Evidence::Socket { uid: 1000, own: 0 }).unwrap_err().code, ProblemCode::Denied);
    }
}
