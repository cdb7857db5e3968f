//! Which command needs which right, and whether the operator has it. One exhaustive match: a new command does not compile
//! until its right is decided.

use crate::identify::Operator;
use crate::problem;
use model::{Command, Problem};
use std::fmt;

/// What a command does to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// Look.
    Read,
    /// Change what runs.
    Operate,
    /// Make or end what lets others in, and what tells who they were.
    Grant,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "look at the host",
            Self::Operate => "change what runs",
            Self::Grant => "make and end tokens, or erase whom the ledger names",
        })
    }
}

/// Proof that this operator may do this command. Only `authorize` makes one; `run` takes nothing else.
#[derive(Debug)]
pub(crate) struct Permit {
    command: Command,
}

impl Permit {
    /// The command that is permitted.
    pub(crate) fn into_command(self) -> Command {
        self.command
    }
}

/// Decides.
pub(crate) fn authorize(operator: &Operator, command: Command) -> Result<Permit, Problem> {
    let right = needs(&command);
    if operator_has(operator, right) {
        return Ok(Permit { command });
    }
    Err(problem::denied(format!("{} may not {right}", operator.principal()), "ask the owner of this host"))
}

/// The right that a command needs.
pub(crate) fn needs(command: &Command) -> Right {
    match command {
        Command::Status
        | Command::Servers
        | Command::Instances { .. }
        | Command::Sessions { .. }
        | Command::Logs { .. }
        | Command::Tokens
        | Command::Pseudonyms => Right::Read,
        Command::Restart { .. }
        | Command::Stop { .. }
        | Command::Start { .. }
        | Command::Import { .. }
        | Command::Remove { .. }
        | Command::LedgerPrune { .. }
        | Command::Upgrade { .. } => Right::Operate,
        Command::Access { .. }
        | Command::TokenCreate { .. }
        | Command::TokenRevoke { .. }
        | Command::Content { .. }
        | Command::LedgerErase { .. } => Right::Grant,
    }
}

/// Whether a command changes what the next daemon reads or takes over. One that lets an operator make a call changes
/// nothing that lasts, and an upgrade has its own turn.
pub(crate) fn changes(command: &Command) -> bool {
    match command {
        Command::Access { .. } | Command::Upgrade { .. } => false,
        other => needs(other) != Right::Read,
    }
}

/// Both doors of today admit only the owner of the host, who has every right. A door that admits others brings rights
/// of its own into `Operator`, and this is where they count.
fn operator_has(_operator: &Operator, right: Right) -> bool {
    match right {
        Right::Read | Right::Operate | Right::Grant => true,
    }
}

/// The command's name, for traces.
pub(crate) fn name(command: &Command) -> &'static str {
    match command {
        Command::Status => "status",
        Command::Servers => "servers",
        Command::Instances { .. } => "instances",
        Command::Sessions { .. } => "sessions",
        Command::Logs { .. } => "logs",
        Command::Restart { .. } => "restart",
        Command::Stop { .. } => "stop",
        Command::Start { .. } => "start",
        Command::Import { .. } => "import",
        Command::Remove { .. } => "remove",
        Command::Upgrade { .. } => "upgrade",
        Command::Access { .. } => "access",
        Command::TokenCreate { .. } => "token-create",
        Command::Tokens => "tokens",
        Command::TokenRevoke { .. } => "token-revoke",
        Command::Pseudonyms => "pseudonyms",
        Command::Content { .. } => "content",
        Command::LedgerErase { .. } => "audit-erase",
        Command::LedgerPrune { .. } => "audit-prune",
    }
}

/// The server that a command is about, for traces.
pub(crate) fn server(command: &Command) -> Option<&model::ServerName> {
    match command {
        Command::Instances { server } | Command::Sessions { server } | Command::TokenCreate { server, .. } => {
            server.as_ref()
        }
        Command::Logs { server, .. }
        | Command::Restart { server }
        | Command::Stop { server }
        | Command::Start { server }
        | Command::Remove { server }
        | Command::Access { server } => Some(server),
        Command::Status
        | Command::Servers
        | Command::Import { .. }
        | Command::Upgrade { .. }
        | Command::Tokens
        | Command::TokenRevoke { .. }
        | Command::Pseudonyms
        | Command::Content { .. }
        | Command::LedgerErase { .. }
        | Command::LedgerPrune { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Right, changes, needs};
    use model::Command;

    #[test]
    fn whatever_hands_out_a_token_needs_the_right_to_grant() {
        let server = || "a".parse().unwrap();
        assert_eq!(needs(&Command::Access { server: server() }), Right::Grant);
        assert_eq!(needs(&Command::TokenRevoke { id: "x".to_owned() }), Right::Grant);
        assert_eq!(needs(&Command::Restart { server: server() }), Right::Operate);
        assert_eq!(needs(&Command::Tokens), Right::Read);
    }

    #[test]
    fn looking_and_calling_change_nothing() {
        let server = || "a".parse().unwrap();
        assert!(changes(&Command::TokenRevoke { id: "x".to_owned() }));
        assert!(changes(&Command::Restart { server: server() }));
        assert!(changes(&Command::LedgerPrune { before: 1 }));
        assert!(changes(&Command::LedgerErase { principal: "ann".parse().unwrap(), ticket: None }));
        for harmless in [Command::Status, Command::Tokens, Command::Access { server: server() }] {
            assert!(!changes(&harmless), "{harmless:?}");
        }
    }
}
