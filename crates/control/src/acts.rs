//! What operators do, in the ledger: before it is done and after. An act that cannot be recorded is not done.

use crate::erased::Erased;
use crate::problem;
use ledger::View;
use ledger::hash::sha256;
use ledger::writer::{Refused, Until, Writer};
use model::record::{CallId, EncodeError, OperatorEnd, OperatorStart, Record, ServerSet, What, named};
use model::{Problem, ServerName, ServerSpec};
use oauth::Subjects;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    subjects: Subjects,
    contents: PathBuf,
    /// One erasure at a time.
    erased: tokio::sync::Mutex<Erased>,
    epoch: u64,
    acts: AtomicU64,
    open: Arc<OpenActs>,
}

/// The acts whose start may be in the ledger and whose end perhaps is not: from which entry on a later daemon looks for them.
#[derive(Debug, Default)]
pub struct OpenActs(Mutex<BTreeMap<u64, u64>>);

impl OpenActs {
    /// No start of one has a lower index.
    pub fn oldest(&self) -> Option<u64> {
        self.table().values().min().copied()
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    /// Writes through `writer`, for the daemon that has the number `epoch`; principals are `subjects` there.
    /// Contents of calls are kept in `contents`; `erased` names who was erased.
    pub fn new(writer: Writer, subjects: Subjects, epoch: u64, contents: PathBuf, erased: Erased) -> Self {
        let (acts, open, erased) = (AtomicU64::new(1), Arc::default(), tokio::sync::Mutex::new(erased));
        Self { inner: Arc::new(Inner { writer, subjects, contents, erased, epoch, acts, open }) }
    }

    /// Which pseudonyms were erased, a line each: a database that is put back may have their keys again.
    pub(crate) async fn erased(&self) -> tokio::sync::MutexGuard<'_, Erased> {
        self.inner.erased.lock().await
    }

    /// Whom the ledger's pseudonyms stand for.
    pub(crate) fn subjects(&self) -> &Subjects {
        &self.inner.subjects
    }

    /// Where contents of calls are kept.
    pub(crate) fn contents(&self) -> &Path {
        &self.inner.contents
    }

    /// The entry with this index.
    pub(crate) fn entry(&self, index: u64) -> Result<Option<Vec<u8>>, Refused> {
        let read = |view: &View| if index < view.size() { view.entry(index).ok() } else { None };
        self.inner.writer.read(read)
    }

    /// Who writes.
    pub(crate) fn writer(&self) -> &Writer {
        &self.inner.writer
    }

    /// The acts that go on now.
    pub fn open(&self) -> &Arc<OpenActs> {
        &self.inner.open
    }

    /// Records that `operator` is about to do something. It is on the disk when this returns.
    pub(crate) async fn begin(
        &self,
        operator: &str,
        door: &str,
        command: &str,
        (about, ticket): (Option<&str>, Option<&str>),
    ) -> Result<Act, Problem> {
        let id = CallId { epoch: self.inner.epoch, number: self.inner.acts.fetch_add(1, Ordering::Relaxed) };
        let start = OperatorStart {
            act: id,
            operator: named(operator),
            door: door.into(),
            command: command.into(),
            about: about.map(named),
            ticket: ticket.map(named),
        };
        // Before it is written: a checkpoint that covers it must find it here.
        self.inner.open.table().insert(id.number, self.inner.writer.health().size);
        let begun = self.append(What::OperatorStart(start), Until::Disk).await;
        begun.map_err(|error| {
            // After a failure of the disk it may be there all the same; then it stays open, and the next daemon looks.
            if !matches!(error, Cause::Refused(Refused::Broken(_))) {
                self.inner.open.table().remove(&id.number);
            }
            let tried = format!("{command} cannot be recorded, and was not done: {error}");
            problem::unhealthy(tried, "look at the disk of the state directory".to_owned())
        })?;
        Ok(Act { acts: self.clone(), id })
    }

    async fn append(&self, what: What<'_>, until: Until) -> Result<(), Cause> {
        let entry = Record::new(unix_ms(), what).encode()?;
        let (tell, told) = oneshot::channel();
        self.inner.writer.append(entry, until, move |outcome| drop(tell.send(outcome)));
        told.await.unwrap_or(Err(Refused::Closed))?;
        Ok(())
    }
}

impl Act {
    /// Records what it has made of a server; `None` where that is gone. The end of the act waits for the disk.
    pub(crate) async fn set(&self, server: &ServerName, spec: Option<&ServerSpec>) -> Result<(), Problem> {
        let digest = spec.map(|spec| hex(sha256(&spec.public_form()).as_bytes()).into());
        let generation = spec.map(|spec| spec.generation);
        let set = ServerSet { act: self.id, server: server.as_str().into(), generation, spec: digest };
        self.acts.append(What::ServerSet(set), Until::Kernel).await.map_err(|error| unrecorded(&error))
    }

    /// Records what came of it, and what it made.
    pub(crate) async fn end(self, problem: Option<&Problem>, made: Option<&str>) -> Result<(), Problem> {
        let error = problem.map(|problem| named(&problem.message).into_owned().into());
        let made = made.map(|made| named(made).into_owned().into());
        let end = OperatorEnd { act: self.id, done: problem.is_none(), made, error };
        // Where it is refused, the next daemon writes one, if there is none.
        self.acts.append(What::OperatorEnd(end), Until::Disk).await.map_err(|error| unrecorded(&error))?;
        self.acts.inner.open.table().remove(&self.id.number);
        Ok(())
    }
}

fn unrecorded(error: &Cause) -> Problem {
    let tried = format!("the command was carried out, and its end cannot be recorded: {error}");
    problem::unhealthy(tried, "look at the disk of the state directory".to_owned())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
