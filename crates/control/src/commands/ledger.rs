//! `audit …`, as far as the daemon does it: it owns the ledger and the keys of principals.

use crate::acts::Acts;
use crate::execute::Parts;
use crate::problem;
use ledger::prune::PruneError;
use ledger::writer::PruneRefused;
use model::record::{CallEnd, CallStart, Record, What};
use model::{Blame, Command, Principal, Problem, Pseudonym, Reply};
use oauth::{ContentError, kept_content};
use std::io;
use stdx::chain::Chain;

/// What the record of such a command says that it is about, and why. Never a principal's name: the record stays when that is
/// erased.
pub(crate) fn about(acts: &Acts, command: &Command) -> (Option<String>, Option<String>) {
    match command {
        Command::LedgerErase { principal, ticket } => {
            let pseudonym = acts.subjects().known(principal).map(|subject| subject.name().to_owned());
            (pseudonym, ticket.clone())
        }
        Command::LedgerPrune { before } => (Some(format!("entries before {before}")), None),
        Command::Content { index } => (Some(format!("entry {index}")), None),
        Command::TokenCreate { principal, server, audit, .. } => {
            let opens = match (audit, server) {
                (true, _) => "the ledger".to_owned(),
                (false, Some(server)) => server.to_string(),
                (false, None) => "every server".to_owned(),
            };
            let whose = acts.subjects().known(principal).map(|subject| subject.name().to_owned());
            (Some(format!("{opens}, for {}", whose.unwrap_or_else(|| "a principal that is new here".to_owned()))), None)
        }
        Command::TokenRevoke { id } => (Some(format!("token {id}")), None),
        _ => (None, None),
    }
}

/// Whom the ledger's pseudonyms stand for.
pub(crate) fn pseudonyms(parts: &Parts) -> Reply {
    let all = parts.acts.as_ref().map(|acts| acts.subjects().all()).unwrap_or_default();
    Reply::Pseudonyms(all.into_iter().map(|(principal, pseudonym)| Pseudonym { principal, pseudonym }).collect())
}

/// What the arguments or the answer of a call said, where that was kept.
pub(crate) fn content(parts: &Parts, index: u64) -> Result<Reply, Problem> {
    let acts = acts(parts)?;
    let entry =
        acts.entry(index).map_err(|error| problem::unhealthy(error.to_string(), "`staithe status`".to_owned()))?;
    let entry = entry.ok_or_else(|| nothing(index))?;
    let (what, call, committed) = match Record::decode(&entry).map(|record| record.what) {
        Ok(What::CallStart(start)) => {
            let CallStart { call, args, .. } = *start;
            ("args", call, args)
        }
        Ok(What::CallEnd(CallEnd { call, result, .. })) => ("result", call, result),
        _ => return Err(nothing(index)),
    };
    let kept = committed.and_then(|committed| committed.kept).ok_or_else(|| nothing(index))?;
    let place = format!("{call} {what}");
    // An end does not say whose it is; the key that opens it does.
    let opened = acts.subjects().first(|subject| match kept_content(acts.contents(), &kept, subject, &place) {
        Err(ContentError::Sealed) => None,
        other => Some(other),
    });
    match opened {
        Some((principal, Ok(content))) if content.len() <= SHOWN => {
            let content = String::from_utf8_lossy(&content).into_owned();
            Ok(Reply::Content { principal, what: what.to_owned(), content })
        }
        Some((_, Ok(content))) => {
            let message = format!("the content has {} bytes; {SHOWN} can be shown", content.len());
            Err(problem::usage(
                message,
                Some("its commitment can be proved all the same: `staithe audit prove`".to_owned()),
            ))
        }
        Some((_, Err(error))) => Err(problem::not_found(stdx::chain::Chain(&error).to_string(), "nothing can be done")),
        None => Err(problem::not_found(
            format!("the content of entry {index} cannot be read: its key was erased or lost, or it was changed"),
            "where `audit erase` was used nothing can be done, and that is its purpose; else a newer backup of the database has the key",
        )),
    }
}

/// Bytes of content that fit into a reply, whatever they are made of.
const SHOWN: usize = 2 << 20;

fn nothing(index: u64) -> Problem {
    problem::not_found(
        format!("nothing was kept of what entry {index} is about"),
        "contents are kept where `ledger.content` says so: \"redacted\" or \"full\"",
    )
}

fn acts(parts: &Parts) -> Result<&Acts, Problem> {
    let none = || problem::refused("this host keeps no ledger".to_owned(), "there is nothing to do".to_owned());
    parts.acts.as_ref().ok_or_else(none)
}

/// Forgets the key of a principal. What fails here stands in the ledger, so no problem names the principal.
pub(crate) async fn erase(parts: &Parts, principal: &Principal) -> Result<Reply, Problem> {
    let subjects = acts(parts)?.subjects();
    let file = acts(parts)?.erased().await;
    let pseudonym = subjects.known(principal).map(|subject| subject.name().to_owned());
    let noted = |error: io::Error| problem::failed("note who is erased", Blame::Host, &error);
    let tokens = parts.authority.list().iter().any(|token| token.principal == *principal);
    if pseudonym.is_none() && !tokens && !file.wanted().map_err(noted)?.unfinished {
        return Err(nobody());
    }
    file.begin(pseudonym.as_deref()).map_err(noted)?;
    // First: the database is written anew below, and then their rows are in no copy of it either.
    let forgotten = parts.authority.forget(principal).await;
    let forgotten =
        forgotten.map_err(|error| problem::failed("forget the principal's tokens", error.blame(), &error))?;
    let erased = subjects.erase(principal).await;
    let erased = erased.map_err(|error| Problem {
        hint: Some("give the command again: what is left of the key is removed then".to_owned()),
        ..problem::failed("erase the key of the principal, or all copies of it", error.blame(), &error)
    })?;
    // Otherwise the next start writes the database anew, which does no harm.
    if let Err(error) = file.finish() {
        tracing::warn!(%error, "that an erasure is finished could not be noted");
    }
    let who = match (erased, pseudonym, forgotten) {
        (true, Some(pseudonym), _) => pseudonym,
        (_, _, 1..) => "what was left of its tokens".to_owned(),
        _ => return Err(nobody()),
    };
    let tokens = parts.authority.list().into_iter();
    let tokens: Vec<String> = tokens
        .filter(|token| token.principal == *principal && token.revoked_at_ms.is_none())
        .map(|token| token.id)
        .collect();
    let still = match tokens.as_slice() {
        [] => "No token names it any more.".to_owned(),
        ids => format!(
            "Tokens still name it ({}), and records name the tokens: with them it goes on calling, under a new pseudonym. `staithe token \
             revoke` ends them; then give this command again, and their names go, too.",
            ids.join(", ")
        ),
    };
    let text = format!(
        "erased: {who} leads to nobody any more by a key: a guess at what it sent cannot be tried, and contents of its calls that were \
         kept cannot be read. Its records stay in the ledger, under that pseudonym. {still} Not touched: processes of its own that run now, \
         whose numbers stand in its records (`staithe restart` ends them); sessions that are open; what servers wrote; backups"
    );
    Ok(Reply::Done { text })
}

fn nobody() -> Problem {
    let hint = "it made no call here, or was erased before; `staithe audit search` shows who is known";
    problem::not_found("the ledger has no key of this principal".to_owned(), hint)
}

/// Removes the beginning of the ledger.
pub(crate) async fn prune(parts: &Parts, before: u64) -> Result<Reply, Problem> {
    let writer = acts(parts)?.writer().clone();
    let pruned = tokio::task::spawn_blocking(move || writer.prune(before)).await;
    let pruned = pruned.map_err(|error| problem::failed("prune the ledger", Blame::Host, &error))?;
    let first = pruned.map_err(|error| {
        let message = format!("the ledger was not pruned: {}", Chain(&error));
        match &error {
            PruneRefused::Prune(PruneError::NotSigned { .. }) => {
                problem::refused(message, "name a smaller index, or an earlier time".to_owned())
            }
            PruneRefused::Needed { .. } => {
                problem::refused(message, "name a smaller index, or wait until that call has ended".to_owned())
            }
            _ => problem::unhealthy(message, "look at the disk of the state directory".to_owned()),
        }
    })?;
    let text = match first {
        0 => format!("entries before {before} need not be kept any more; none was removed, because whole segments are"),
        _ => format!("entries 0 to {} are removed; the first that is left is {first}", first - 1),
    };
    Ok(Reply::Done { text })
}
