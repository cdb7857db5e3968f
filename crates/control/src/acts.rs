//! What operators do, in the ledger: before it is done and after. An act that cannot be recorded is not done.

use crate::problem;
use ledger::writer::{Refused, Until, Writer};
use model::Problem;
use model::record::{CallId, EncodeError, OperatorEnd, OperatorStart, Record, What, named};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use stdx::clock::unix_ms;
use tokio::sync::oneshot;

/// The pen for operators' acts. Clones write into the same ledger.
#[derive(Clone, Debug)]
pub struct Acts {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    writer: Writer,
    epoch: u64,
    acts: AtomicU64,
}

/// Proof that an act was recorded. Whoever has it says what came of it.
#[derive(Debug)]
#[must_use]
pub(crate) struct Act {
    acts: Acts,
    id: CallId,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

impl Acts {
    /// Writes through `writer`, for the daemon that has the number `epoch`.
    pub fn new(writer: Writer, epoch: u64) -> Self {
        Self { inner: Arc::new(Inner { writer, epoch, acts: AtomicU64::new(1) }) }
    }

    /// Records that `operator` is about to do something. It is on the disk when this returns.
    pub(crate) async fn begin(
        &self,
        operator: &str,
        door: &str,
        command: &str,
        about: Option<&str>,
    ) -> Result<Act, Problem> {
        let id = CallId { epoch: self.inner.epoch, number: self.inner.acts.fetch_add(1, Ordering::Relaxed) };
        let start = OperatorStart {
            act: id,
            operator: named(operator),
            door: door.into(),
            command: command.into(),
            about: about.map(named),
        };
        let begun = self.append(What::OperatorStart(start)).await;
        begun.map_err(|error| {
            let tried = format!("{command} cannot be recorded, and was not done: {error}");
            problem::unhealthy(tried, "look at the disk of the state directory".to_owned())
        })?;
        Ok(Act { acts: self.clone(), id })
    }

    async fn append(&self, what: What<'_>) -> Result<(), Cause> {
        let entry = Record::new(unix_ms(), what).encode()?;
        let (tell, told) = oneshot::channel();
        self.inner.writer.append(entry, Until::Disk, move |outcome| drop(tell.send(outcome)));
        told.await.unwrap_or(Err(Refused::Closed))?;
        Ok(())
    }
}

impl Act {
    /// Records what came of it.
    pub(crate) async fn end(self, problem: Option<&Problem>) -> Result<(), Problem> {
        let error = problem.map(|problem| named(&problem.message).into_owned().into());
        let end = OperatorEnd { act: self.id, done: problem.is_none(), error };
        self.acts.append(What::OperatorEnd(end)).await.map_err(|error| {
            let tried = format!("the command was carried out, and its end cannot be recorded: {error}");
            problem::unhealthy(tried, "look at the disk of the state directory".to_owned())
        })
    }
}
