//! `staithe audit erase`: nothing in the ledger leads back to a principal any more.

use super::confirm::confirm;
use crate::cli::EraseArgs;
use crate::output::Output;
use crate::state::StateDir;
use model::{Command, Problem};
use std::path::Path;
use std::process::ExitCode;

/// Asks the daemon for it, which has the keys.
pub(crate) async fn erase(args: &EraseArgs, flag: Option<&Path>, output: Output) -> Result<ExitCode, Problem> {
    let EraseArgs { principal, ticket, yes } = args;
    confirm(*yes, &format!("This erases the key that leads from the ledger to {principal}."))?;
    let state = StateDir::choose(flag, None)?;
    let command = Command::LedgerErase { principal: principal.clone(), ticket: ticket.clone() };
    let reply = doors::call(&state.socket(), &command).await?.only().await?;
    output.reply(&reply);
    Ok(ExitCode::SUCCESS)
}
