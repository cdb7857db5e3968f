//! Operator requests, their results and their typed failures: the only wire form of the operator's doors.

use crate::blame::Blame;
use crate::name::{Principal, ServerName};
use crate::report::{InstanceReport, LogLine, ServerReport, SessionReport, StatusReport, TokenReport};
use crate::server::ServerSpec;
use serde::{Deserialize, Serialize};

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// The host at a glance.
    Status,
    /// Every server.
    Servers,
    /// Live processes, of one server or all.
    Instances { server: Option<ServerName> },
    /// Legacy sessions, of one server or all.
    Sessions { server: Option<ServerName> },
    /// The last `lines` log lines, then with `follow` each new one until the operator leaves.
    Logs { server: ServerName, lines: u32, follow: bool },
    /// Replace every process of a server. Sessions stay valid.
    Restart { server: ServerName },
    /// Stop a server; its calls are refused until `start`.
    Stop { server: ServerName },
    /// Let a stopped server run again.
    Start { server: ServerName },
    /// Add servers; those that exist are replaced where `replace` says so, else left and named in the reply.
    Import { servers: Vec<ServerSpec>, replace: bool },
    /// Forget a server and stop its processes.
    Remove { server: ServerName },
    /// Put another build of staithe, or the same one again, in the daemon's place, without an interruption. Without `program`
    /// it is the file that the daemon was started from.
    Upgrade { program: Option<String> },
    /// The address of a server and a short-lived token for one call by the operator.
    Access { server: ServerName },
    /// A new machine token.
    TokenCreate {
        principal: Principal,
        server: Option<ServerName>,
        expires_in_s: Option<u64>,
        /// It opens the ledger, and no server.
        #[serde(default)]
        audit: bool,
    },
    /// Every token, without secrets.
    Tokens,
    /// End a token now.
    TokenRevoke { id: String },
    /// Whom the pseudonyms in the ledger stand for.
    Pseudonyms,
    /// What the arguments or the answer of a call said, where that is kept: of the record with this index.
    Content { index: u64 },
    /// Forget the key that leads from a pseudonym in the ledger to this principal. `ticket` says why, in the ledger.
    LedgerErase { principal: Principal, ticket: Option<String> },
    /// Remove entries before this index from the ledger.
    LedgerPrune { before: u64 },
}

/// A principal and the name under which the ledger has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pseudonym {
    /// Who.
    pub principal: Principal,
    /// The name in the ledger.
    pub pseudonym: String,
}

/// What an operator gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", content = "body", rename_all = "kebab-case")]
pub enum Reply {
    /// For `Status`.
    Status(Box<StatusReport>),
    /// For `Servers`.
    Servers(Vec<ServerReport>),
    /// For `Instances`.
    Instances(Vec<InstanceReport>),
    /// For `Sessions`.
    Sessions(Vec<SessionReport>),
    /// For `Logs`: one at a time, oldest first.
    Log(LogLine),
    /// The last reply to a command that sends several.
    End,
    /// A change was made; the text says which.
    Done { text: String },
    /// For `Import`.
    Imported { added: Vec<ServerName>, replaced: Vec<ServerName>, unchanged: Vec<ServerName>, left: Vec<ServerName> },
    /// For `Access`.
    Access { url: String, token: Option<String> },
    /// For `TokenCreate`: the only time that the token is seen.
    TokenCreated { token: String, report: TokenReport },
    /// For `Tokens`.
    Tokens(Vec<TokenReport>),
    /// For `Pseudonyms`.
    Pseudonyms(Vec<Pseudonym>),
    /// For `Content`: `what` is `args` or `result`.
    Content { principal: Principal, what: String, content: String },
    /// It failed.
    Problem(Problem),
}

/// What kind of failure; decides the exit code of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemCode {
    /// Exit 1.
    Failed,
    /// Exit 2.
    Usage,
    /// Exit 3.
    NotFound,
    /// Exit 4.
    Denied,
    /// Exit 5.
    Unhealthy,
    /// Something does not verify. Exit 5.
    Unverified,
}

/// A command that failed: what was tried and why, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// What kind.
    pub code: ProblemCode,
    /// Whose fault.
    pub blame: Blame,
    /// What was tried and why it failed.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}
