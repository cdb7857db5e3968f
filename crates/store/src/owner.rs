//! The thread that owns the database, and the handle that others hold.

use crate::database::Database;
use crate::error::{Cause, OpenError, StoreError};
use crate::location::Location;
use crate::tx::Tx;
use tokio::sync::{mpsc, oneshot};

/// Operations that may wait. Beyond it callers wait for a place, in order.
const QUEUE: usize = 256;

type Job = Box<dyn FnOnce(&mut Database) + Send>;

/// The database, as everybody else holds it. Clones share one connection; it is closed, after what is queued is
/// done, when the last clone is gone.
#[derive(Clone, Debug)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
}

impl Store {
    /// Opens or creates the database and brings its tables up to date.
    pub async fn open(location: Location) -> Result<Self, OpenError> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (opened, answer) = oneshot::channel();
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || own(location, opened, queue))
            .map_err(OpenError::Thread)?;
        answer.await.map_err(|_| OpenError::Stopped)??;
        Ok(Self { jobs })
    }

    /// Runs `body`, which is one SELECT, outside a transaction.
    pub(crate) async fn read<T, F>(&self, op: &'static str, body: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, Cause> + Send + 'static,
    {
        self.run(op, move |database| database.read(body)).await
    }

    /// Runs `body` in one transaction that no other writer runs beside. It may run twice: when the connection is lost
    /// before the commit, it is repeated on a new one.
    pub(crate) async fn write<T, F>(&self, op: &'static str, body: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, Cause> + Send + 'static,
    {
        self.run(op, move |database| database.write(body)).await
    }

    async fn run<T, F>(&self, op: &'static str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Database) -> Result<T, Cause> + Send + 'static,
    {
        let stopped = || StoreError::new(op, Cause::Stopped);
        let (sender, answer) = oneshot::channel();
        let job: Job = Box::new(move |database| {
            if sender.send(work(database)).is_err() {
                tracing::debug!(op, "the caller of a store operation did not wait for its answer");
            }
        });
        self.jobs.send(job).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?.map_err(|cause| StoreError::new(op, cause))
    }
}

/// The thread's life: open, answer, work until every handle is gone.
#[expect(clippy::needless_pass_by_value, reason = "the thread owns what it was given")]
fn own(location: Location, opened: oneshot::Sender<Result<(), OpenError>>, mut queue: mpsc::Receiver<Job>) {
    let mut database = match Database::open(&location) {
        Ok(database) => database,
        Err(error) => return drop(opened.send(Err(error))),
    };
    if opened.send(Ok(())).is_err() {
        return;
    }
    while let Some(job) = queue.blocking_recv() {
        job(&mut database);
    }
}
