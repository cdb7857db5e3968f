//! `upgrade`: another daemon in this one's place.

use crate::execute::{HostKind, Parts, Upgrade};
use crate::problem;
use model::{Problem, Reply};
use tokio::sync::oneshot;

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
    let turn = parts
        .turn
        .clone()
        .try_acquire_owned()
        .map_err(|_| problem::refused("an upgrade goes on".to_owned(), "wait for it to end".to_owned()))?;
    let (done, outcome) = oneshot::channel();
    parts.upgrades.try_send(Upgrade { program, done, turn }).map_err(|_| stops())?;
    outcome.await.map_err(|_| stops())?.map(|text| Reply::Done { text })
}
