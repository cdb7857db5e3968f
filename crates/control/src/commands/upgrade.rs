//! `upgrade`: another daemon in this one's place.

use crate::execute::{HostKind, Parts, Upgrade};
use crate::problem;
use model::{Problem, Reply};
use std::time::Duration;
use tokio::sync::{OwnedRwLockWriteGuard, OwnedSemaphorePermit, RwLockReadGuard, oneshot};
use tokio::time::timeout;

/// How long an upgrade waits for commands that change something. An import of a thousand servers takes a few seconds.
const CHANGES_END: Duration = Duration::from_secs(10);

/// While it is held no other upgrade is asked for, and nothing is changed, also where the operator has left.
#[derive(Debug)]
pub struct Turn {
    _only: OwnedSemaphorePermit,
    _unchanged: OwnedRwLockWriteGuard<()>,
}

/// Leave to change something, for as long as it is held.
pub(crate) fn none_goes_on(parts: &Parts) -> Result<RwLockReadGuard<'_, ()>, Problem> {
    parts.changes.try_read().map_err(|_| {
        let again = "nothing was changed; give the command again once `staithe upgrade` is done".to_owned();
        problem::not_now("an upgrade goes on, and nothing can be changed meanwhile".to_owned(), again)
    })
}

/// Asks whoever looks after the host's life, and waits for the outcome.
pub(crate) async fn upgrade(parts: &Parts, program: Option<String>) -> Result<Reply, Problem> {
    if parts.facts.kind != HostKind::Serve {
        let message =
            format!("only the daemon can be replaced while it runs, and this is `staithe {}`", parts.facts.kind);
        return Err(problem::refused(message, "stop it, and start the other program".to_owned()));
    }
    let stops = || problem::refused("the host stops".to_owned(), "start the other program".to_owned());
    if parts.stopping.is_cancelled() {
        return Err(stops());
    }
    let only = parts
        .turn
        .clone()
        .try_acquire_owned()
        .map_err(|_| problem::refused("an upgrade goes on".to_owned(), "wait for it to end".to_owned()))?;
    // From here on changes are refused; those that run are stored before the other daemon reads.
    let unchanged = timeout(CHANGES_END, parts.changes.clone().write_owned()).await.map_err(|_| {
        let again = "nothing has changed; wait for it to end".to_owned();
        problem::not_now("another operator's command still changes something".to_owned(), again)
    })?;
    let turn = Turn { _only: only, _unchanged: unchanged };
    let (done, outcome) = oneshot::channel();
    parts.upgrades.try_send(Upgrade { program, done, turn }).map_err(|_| stops())?;
    outcome.await.map_err(|_| stops())?.map(|text| Reply::Done { text })
}
