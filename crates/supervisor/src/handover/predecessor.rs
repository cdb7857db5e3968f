//! The old daemon, as the new one sees it: what concerns its calls goes there.

use super::entries::{Heard, Taker};
use super::frame::{Frame, Reader};
use super::queue::{Put, Queue};
use crate::instance::Instance;
use crate::mailbox::ExitReport;
use model::Blame;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use wire::message::{Message, Shape};
use wire::scan::Place;

/// Answers that wait to be put into their streams.
const ANSWERS: usize = 64;

/// What a call of a session ended with.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) session: String,
    pub(crate) stream: u64,
    pub(crate) body: Vec<u8>,
}

/// The daemon whose processes were taken over, for as long as it finishes its calls.
#[derive(Debug)]
pub(crate) struct Predecessor {
    /// The epoch of the daemon that took over: all other ids are of earlier ones.
    successor: OnceLock<u64>,
    frames: Queue,
    /// It was told that something was dropped.
    loud: AtomicBool,
    /// Calls that it has at each process.
    busy: Mutex<HashMap<u64, u32>>,
    /// Processes that it does not need any more.
    released: watch::Sender<HashSet<u64>>,
    /// What its calls ended with: the session, the stream, the last event.
    answers: mpsc::Sender<Answer>,
    given: tokio::sync::Mutex<mpsc::Receiver<Answer>>,
    gone: CancellationToken,
    /// It takes nothing back any more.
    let_go: CancellationToken,
    instances: Mutex<HashMap<u64, Weak<Instance>>>,
    taker: OnceLock<Records>,
}

/// Where its records go.
struct Records(Taker);

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Records")
    }
}

impl Predecessor {
    pub(super) fn new(busy: HashMap<u64, u32>, reads: OwnedReadHalf, writes: OwnedWriteHalf) -> Arc<Self> {
        let (answers, given) = mpsc::channel(ANSWERS);
        let predecessor = Arc::new(Self {
            successor: OnceLock::new(),
            frames: Queue::default(),
            loud: AtomicBool::new(false),
            busy: Mutex::new(busy),
            released: watch::Sender::default(),
            answers,
            given: tokio::sync::Mutex::new(given),
            gone: CancellationToken::new(),
            let_go: CancellationToken::new(),
            instances: Mutex::default(),
            taker: OnceLock::new(),
        });
        stdx::task::spawn("to the old daemon", tell(predecessor.clone(), writes));
        stdx::task::spawn("from the old daemon", predecessor.clone().hear(reads));
        predecessor
    }

    /// Where its records go.
    pub(crate) fn records_go_to(&self, taker: Taker) {
        let _ = self.taker.set(Records(taker));
    }

    fn record(self: &Arc<Self>, number: u64, on_disk: bool, entry: Vec<u8>) {
        let own = self.clone();
        let heard: Heard = Box::new(move |outcome| own.send(&Frame::Entered { number, outcome }));
        match self.taker.get() {
            Some(Records(taker)) => taker(entry, on_disk, heard),
            None => heard(Err("the daemon that took over keeps no ledger".to_owned())),
        }
    }

    /// Which request ids are ours. Before this nothing is anybody's.
    pub(crate) fn followed_by(&self, epoch: u64) {
        let _ = self.successor.set(epoch);
    }

    /// A process that was taken over from it.
    pub(crate) fn knows(&self, instance: &Arc<Instance>) {
        let mut instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        instances.insert(instance.id, Arc::downgrade(instance));
    }

    /// Whether a message of a process was the old daemon's alone, and is on its way there.
    pub(crate) fn takes(&self, instance: &Instance, message: &Message) -> bool {
        if self.gone.is_cancelled() {
            return false;
        }
        let missable = matches!(message.method(), "notifications/progress" | "notifications/message");
        if instance.context.guest {
            self.pass(instance, message, missable);
            return true;
        }
        let number = |place, name| message.member(place, name).and_then(|m| crate::route::number(message.raw(m.value)));
        let (takes, alone) = match message.shape() {
            Shape::Success | Shape::Failure => {
                let own = message.id().and_then(|raw| crate::route::number(&raw)).is_some_and(|id| self.is_own(id));
                (own, true)
            }
            Shape::Notification => match message.method() {
                "notifications/progress" => {
                    (number(Place::Params, "progressToken").is_some_and(|id| self.is_own(id)), true)
                }
                "notifications/cancelled" => (self.busy(instance), false),
                "notifications/message" => {
                    let takes = self.busy(instance) && instance.in_flight() == 0;
                    (takes, takes)
                }
                _ => (false, false),
            },
            // Whose call it is about cannot be told between two daemons; where only one has any, it is that one's.
            Shape::Request => {
                let takes = message.method() != "ping" && self.busy(instance) && instance.in_flight() == 0;
                (takes, takes)
            }
        };
        if takes {
            self.pass(instance, message, missable);
        }
        takes && alone
    }

    fn pass(&self, instance: &Instance, message: &Message, missable: bool) {
        let mut line = message.bytes().to_vec();
        line.push(b'\n');
        self.put(&Frame::Line { instance: instance.id, line }, missable);
    }

    /// Done when it does not need a process any more.
    pub(crate) async fn done_with(&self, id: u64) {
        let mut released = self.released.subscribe();
        tokio::select! {
            _ = released.wait_for(|released| released.contains(&id)) => {}
            () = self.gone.cancelled() => {}
        }
    }

    /// What one of its calls ended with; `None` once it is gone. Cancel-safe.
    pub(crate) async fn answered(&self) -> Option<Answer> {
        let mut given = self.given.lock().await;
        tokio::select! {
            biased;
            answer = given.recv() => answer,
            () = self.gone.cancelled() => None,
        }
    }

    /// Whether it may still end calls.
    pub(crate) fn lives(&self) -> bool {
        !self.gone.is_cancelled()
    }

    /// Done when it has finished its calls, or is gone.
    pub(crate) async fn ended(&self) {
        self.gone.cancelled().await;
    }

    /// Done when it takes nothing back any more, or is gone: from then on the pipes are ours. Whether it has said so.
    pub(crate) async fn let_go(&self) -> bool {
        tokio::select! {
            biased;
            () = self.let_go.cancelled() => true,
            () = self.gone.cancelled() => false,
        }
    }

    /// A process ended, or nothing is heard of it any more.
    pub(crate) fn lost(&self, instance: u64, report: &ExitReport) {
        if self.busy_table().contains_key(&instance) {
            let (status, by_host) = (report.status.clone(), report.blame() == Blame::Host);
            self.send(&match report.unheard {
                false => Frame::Gone { instance, status, by_host },
                true => Frame::Unheard { instance },
            });
        }
    }

    /// Something that must not be lost.
    pub(super) fn send(&self, frame: &Frame) {
        self.put(frame, false);
    }

    /// An old daemon that reads too slowly misses words about its calls; one that reads nothing loses its calls, and knows
    /// that it does. Nobody else waits for it.
    fn put(&self, frame: &Frame, missable: bool) {
        match self.frames.put(frame, missable) {
            Put::Taken | Put::Closed => {}
            Put::Dropped if self.loud.swap(true, Ordering::Relaxed) => {}
            Put::Dropped => tracing::warn!("the old daemon does not keep up: it misses progress and log messages"),
            Put::Lost(instance) => {
                tracing::error!(
                    instance,
                    "a server says more about the old daemon's calls than that one reads: its calls end"
                );
            }
            Put::Full => {
                tracing::error!("the old daemon does not read: its calls end without their answers");
                self.gone.cancel();
            }
        }
    }

    /// Its own, or of a daemon whose words it passes on in its turn.
    fn is_own(&self, id: u64) -> bool {
        self.successor.get().is_some_and(|own| id >> 32 != *own)
    }

    fn busy(&self, instance: &Instance) -> bool {
        self.calls(instance) > 0
    }

    /// Calls that it has at a process; none once it is gone.
    pub(crate) fn calls(&self, instance: &Instance) -> u32 {
        if self.gone.is_cancelled() { 0 } else { self.busy_table().get(&instance.id).copied().unwrap_or_default() }
    }

    fn busy_table(&self) -> MutexGuard<'_, HashMap<u64, u32>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lines for servers, until the old daemon ends.
    async fn hear(self: Arc<Self>, reads: OwnedReadHalf) {
        let mut reader = Reader::new(reads);
        // To be dropped with it: the old daemon sees the end only when nobody reads either.
        while let Some(Ok(frame)) = self.gone.run_until_cancelled(reader.next()).await {
            match frame {
                Frame::Line { instance, line } => {
                    let found = self.instances.lock().unwrap_or_else(PoisonError::into_inner).get(&instance).cloned();
                    if let Some(instance) = found.and_then(|weak| weak.upgrade()) {
                        let _ = instance.send(line);
                    }
                }
                Frame::Entry { number, on_disk, entry } => self.record(number, on_disk, entry),
                Frame::Yours => self.let_go.cancel(),
                Frame::Released { instance } => {
                    self.released.send_modify(|released| {
                        released.insert(instance);
                    });
                }
                Frame::Busy { instance, calls } => drop(self.busy_table().insert(instance, calls)),
                Frame::Answer { session, stream, body } => {
                    let _ = self.answers.send(Answer { session, stream, body }).await;
                }
                _ => {}
            }
        }
        self.gone.cancel();
        self.frames.close();
        tracing::info!("the old daemon has finished its calls");
    }
}

async fn tell(predecessor: Arc<Predecessor>, mut writes: OwnedWriteHalf) {
    while let Some(frame) = predecessor.frames.next().await {
        match predecessor.gone.run_until_cancelled(writes.write_all(&frame)).await {
            Some(Ok(())) => {}
            Some(Err(_)) | None => break,
        }
    }
    // What it said last may not be read yet: `hear` finds the end.
    predecessor.frames.close();
}
