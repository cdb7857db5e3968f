//! Relaxed writes that wait together are done in one transaction, so that many sessions cost one commit. Each has an
//! outcome of its own: where one of them cannot be written, each is done alone.

use crate::database::Database;
use crate::error::Cause;
use crate::tx::Tx;
use tokio::sync::oneshot;

/// A write that may share its transaction.
pub(crate) trait Relaxed: Send {
    /// Does its part. It may be done again, after everything before was undone.
    fn write(&mut self, tx: &mut Tx<'_>) -> Result<(), Cause>;
    /// Answers its caller: what was done last is committed, or why it is not.
    fn over(self: Box<Self>, outcome: Result<(), Cause>);
}

/// A write of one caller.
pub(crate) struct One<T, F> {
    body: F,
    done: Option<T>,
    caller: oneshot::Sender<Result<T, Cause>>,
}

impl<T, F> One<T, F> {
    pub(crate) fn new(body: F, caller: oneshot::Sender<Result<T, Cause>>) -> Self {
        Self { body, done: None, caller }
    }
}

impl<T, F> Relaxed for One<T, F>
where
    T: Send,
    F: FnMut(&mut Tx<'_>) -> Result<T, Cause> + Send,
{
    fn write(&mut self, tx: &mut Tx<'_>) -> Result<(), Cause> {
        self.done = Some((self.body)(tx)?);
        Ok(())
    }

    fn over(self: Box<Self>, outcome: Result<(), Cause>) {
        let Self { done, caller, .. } = *self;
        if caller.send(outcome.and_then(|()| done.ok_or(Cause::Stopped))).is_err() {
            tracing::debug!("the caller of a store operation did not wait for its answer");
        }
    }
}

/// Does all of them, and answers each.
pub(crate) fn commit(database: &mut Database, mut members: Vec<Box<dyn Relaxed>>) {
    let together = database.write_relaxed(|tx| members.iter_mut().try_for_each(|member| member.write(tx)));
    let failed = match together {
        Ok(()) => return members.into_iter().for_each(|member| member.over(Ok(()))),
        Err(cause) => cause,
    };
    let alone = members.len() == 1;
    let mut failed = Some(failed);
    for mut member in members {
        let outcome = match failed.as_ref().and_then(Cause::of_database) {
            // Another try meets the same database; where the outcome is unknown it might write twice.
            Some(shared) => Err(shared),
            None if alone => Err(failed.take().unwrap_or(Cause::Stopped)),
            None => database.write_relaxed(|tx| member.write(tx)),
        };
        member.over(outcome);
    }
}
