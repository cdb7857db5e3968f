//! Commands to a running host, over its operator socket.

use crate::cli::{TokenVerb, Verb};
use crate::fault;
use crate::output::Output;
use crate::state::StateDir;
use model::report::LedgerReport;
use model::{Command, Problem, Reply};
use std::path::Path;
use std::process::ExitCode;

/// Gives the command that `verb` means and prints what comes back. `status` of a host that stops, or with a
/// server that turns callers away, exits 5.
pub(crate) async fn command(verb: Verb, flag: Option<&Path>, output: Output) -> Result<ExitCode, Problem> {
    let command = meant(verb)?;
    let state = StateDir::choose(flag, None)?;
    let mut replies = doors::call(&state.socket(), &command).await?;
    if !matches!(command, Command::Logs { .. }) {
        let reply = replies.only().await?;
        output.reply(&reply);
        return Ok(if is_failing(&reply) { ExitCode::from(5) } else { ExitCode::SUCCESS });
    }
    while let Some(reply) = replies.next().await? {
        // `logs --follow | head` ends here, and that is no failure.
        if !output.reply(&reply) {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn is_failing(reply: &Reply) -> bool {
    matches!(reply, Reply::Status(report) if report.stopping || report.ledger.as_ref().is_some_and(LedgerReport::is_broken) || report.servers.iter().any(|server| server.health.is_broken()))
}

fn meant(verb: Verb) -> Result<Command, Problem> {
    Ok(match verb {
        Verb::Status => Command::Status,
        Verb::Servers => Command::Servers,
        Verb::Instances(of) => Command::Instances { server: of.server },
        Verb::Sessions(of) => Command::Sessions { server: of.server },
        Verb::Logs(args) => Command::Logs { server: args.server, lines: args.lines, follow: args.follow },
        Verb::Restart(one) => Command::Restart { server: one.server },
        Verb::Stop(one) => Command::Stop { server: one.server },
        Verb::Start(one) => Command::Start { server: one.server },
        Verb::Upgrade(args) => Command::Upgrade { program: args.program.map(|program| program.display().to_string()) },
        Verb::Remove(one) => Command::Remove { server: one.server },
        Verb::Token(TokenVerb::Create { principal, server, audit, expires_in }) => {
            Command::TokenCreate { principal, server, expires_in_s: expires_in, audit }
        }
        Verb::Token(TokenVerb::List) => Command::Tokens,
        Verb::Token(TokenVerb::Revoke { id }) => Command::TokenRevoke { id },
        Verb::Demo(_)
        | Verb::Run(_)
        | Verb::Serve(_)
        | Verb::Import(_)
        | Verb::Call(_)
        | Verb::Check(_)
        | Verb::Audit(_)
        | Verb::InstallService(_) => {
            return Err(fault::usage("this command is not for a running host", "see `staithe --help`"));
        }
    })
}
