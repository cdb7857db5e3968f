//! The thread that owns the database, and the handle that others hold.

use crate::database::Database;
use crate::error::{Cause, OpenError, StoreError};
use crate::group::{self, One, Relaxed};
use crate::location::Location;
use crate::tx::Tx;
use tokio::sync::{mpsc, oneshot};

/// Operations that may wait. Beyond it callers wait for a place, in order.
const QUEUE: usize = 256;

/// What the thread is asked to do.
enum Job {
    Alone(Box<dyn FnOnce(&mut Database) + Send>),
    /// A relaxed write, done together with those that wait behind it.
    Grouped(Box<dyn Relaxed>),
}

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

    /// As [`Store::write`], but what it answers survives the death of this process and maybe not that of the machine: the
    /// disk is not waited for. The next [`Store::write`] makes everything before it durable too. Relaxed writes that wait
    /// together share one commit, each with an outcome of its own.
    pub(crate) async fn write_relaxed<T, F>(&self, op: &'static str, body: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, Cause> + Send + 'static,
    {
        let stopped = || StoreError::new(op, Cause::Stopped);
        let (sender, answer) = oneshot::channel();
        self.jobs.send(Job::Grouped(Box::new(One::new(body, sender)))).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?.map_err(|cause| StoreError::new(op, cause))
    }

    pub(crate) async fn run<T, F>(&self, op: &'static str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Database) -> Result<T, Cause> + Send + 'static,
    {
        let stopped = || StoreError::new(op, Cause::Stopped);
        let (sender, answer) = oneshot::channel();
        let job = Box::new(move |database: &mut Database| {
            if sender.send(work(database)).is_err() {
                tracing::debug!(op, "the caller of a store operation did not wait for its answer");
            }
        });
        self.jobs.send(Job::Alone(job)).await.map_err(|_| stopped())?;
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
    let mut next = queue.blocking_recv();
    while let Some(job) = next.take() {
        match job {
            Job::Alone(work) => work(&mut database),
            Job::Grouped(first) => {
                let mut members = vec![first];
                while members.len() < QUEUE {
                    match queue.try_recv() {
                        Ok(Job::Grouped(member)) => members.push(member),
                        Ok(alone @ Job::Alone(_)) => {
                            next = Some(alone);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                group::commit(&mut database, members);
            }
        }
        next = next.or_else(|| queue.blocking_recv());
    }
}
