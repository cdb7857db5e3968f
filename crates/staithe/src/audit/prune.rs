//! `staithe audit prune`: the beginning of the ledger goes away, after a copy was made where one is wanted.

use super::confirm::confirm;
use super::{archive, own, reach};
use crate::cli::PruneArgs;
use crate::fault;
use crate::output::Output;
use model::{Command, Problem};
use std::path::Path;
use std::process::ExitCode;

/// Asks the daemon for it, which owns the ledger.
pub(crate) async fn prune(args: &PruneArgs, flag: Option<&Path>, output: Output) -> Result<ExitCode, Problem> {
    let (state, dir) = own::place(flag)?;
    let (reader, keys) = own::read(&dir)?;
    let before = reach::index(&reader, args.before)?;
    let first = reader.view().first();
    if before <= first {
        let message = format!("there is nothing before entry {before}: the first that is here is {first}");
        return Err(fault::usage(message, "name a larger index, or a later time"));
    }
    let signed = reader.signed().map_or(0, |signed| signed.size);
    drop(reader);
    if before > signed {
        let message = format!("only what a checkpoint covers can be pruned: entries before {signed}");
        return Err(fault::usage(message, "name a smaller index, or an earlier time"));
    }
    let what = format!("This removes entries {first} to {} of the ledger, as far as whole segments go.", before - 1);
    confirm(args.yes, &what)?;
    if let Some(to) = &args.archive {
        let copied = archive::copy(&dir, to, &keys, before)?;
        output.note(&format!("copied and verified: {copied} entries in {}", to.display()));
    }
    let reply = doors::call(&state.socket(), &Command::LedgerPrune { before }).await?.only().await?;
    output.reply(&reply);
    Ok(ExitCode::SUCCESS)
}
