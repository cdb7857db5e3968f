//! Many threads append to one log. Whoever finds the log free writes for all that wait, in one write; a thread of the writer's
//! own makes durable what was written, signs a checkpoint every second where there is something new, says that the log lives
//! where nothing is new, and opens the log again after an error of the disk.
//!
//! Nothing is dropped: an append is refused, and its caller hears that, or it is in the log.
//!
//! A log has one writer. Where another process takes over, this one gives the log away: what is appended then waits, until the log
//! is taken back, or until there is a way to send entries to the other process.

mod pace;
mod work;

use self::pace::Pace;
use crate::log::{AppendError, Broken, Log};
use crate::prune::PruneError;
use crate::recover::OpenError;
use crate::tile::MAX_ENTRY;
use crate::trust::Signed;
use crate::view::View;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use stdx::clock::monotonic;
use stdx::meter::Histogram;

/// Entries of one write.
const BATCH: usize = 1024;
/// Bytes of one write, by which no further entry is added to it. A segment has room for more.
const BATCH_BYTES: usize = 4 << 20;
/// Bytes that may wait for the disk with nobody waiting for that: who appends more waits for the disk itself.
const UNSYNCED_BYTES: usize = 32 << 20;
/// How often pruning is tried while a checkpoint is being signed.
const PRUNE_TRIES: u32 = 1000;
/// Between two tries.
const PRUNE_PAUSE: Duration = Duration::from_millis(5);
/// Writes that one caller does for others.
const TURNS: usize = 4;

/// Upper bounds of the times that are counted apart, microseconds.
const COMMITS: &[u64] = &[100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000];

/// How a writer works.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long what is in the kernel may wait for its sync where nobody waits for that. 10 ms.
    pub group: Duration,
    /// How often a checkpoint is signed where there are new entries. 1 s.
    pub checkpoint: Duration,
    /// How long the log may be silent before it says that it lives. 10 min.
    pub heartbeat: Duration,
    /// How often a broken log is opened again, or a full disk tried. 1 s.
    pub again: Duration,
    /// Entries that wait in memory with [`Until::Queued`]; one more is written at once. 4,096.
    pub queued: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            group: Duration::from_millis(10),
            checkpoint: Duration::from_secs(1),
            heartbeat: Duration::from_secs(600),
            again: Duration::from_secs(1),
            queued: 4096,
        }
    }
}

/// What an append waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Until {
    /// Nothing: the end of the process loses the entry.
    Queued,
    /// The kernel has it: the end of the process loses nothing, that of the machine does.
    Kernel,
    /// The disk has it.
    Disk,
}

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its index. `None` with [`Until::Queued`].
    pub index: Option<u64>,
}

/// An entry is not in the log; after an error of the disk it may be, and opening the log shows it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is too long.
    #[error("a record of {len} bytes is longer than 65,535")]
    TooLong {
        /// Its length, bytes.
        len: usize,
    },
    /// The disk has no room.
    #[error("the disk of the ledger is full")]
    Full,
    /// The log cannot be written.
    #[error("the ledger cannot be written: {0}")]
    Broken(Arc<str>),
    /// The writer was closed.
    #[error("the ledger is closed")]
    Closed,
}

/// What the writer has to say in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Own {
    /// Nothing was new for the time of a heartbeat.
    Heartbeat,
    /// From here on entries are refused. It goes into space that is kept for it, and not in where there is no space at all.
    Refusing(Refused),
    /// They are taken again.
    TakenAgain {
        /// How many were refused.
        refused: u64,
    },
}

/// Nothing was pruned, or not all.
#[derive(Debug, thiserror::Error)]
pub enum PruneRefused {
    /// The owner still needs entries from there on.
    #[error("entries from {first} on are still needed: a call that began there has not ended")]
    Needed {
        /// The first of them.
        first: u64,
    },
    /// The log refused.
    #[error(transparent)]
    Prune(#[from] PruneError),
    /// The log cannot be written, or another process writes it.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// Whose log it is.
pub trait Owner: Send + Sync {
    /// Seconds since 1970.
    fn now_s(&self) -> u64;
    /// The entry that says it.
    fn says(&self, own: Own) -> Vec<u8>;
    /// Opens the log again.
    fn open(&self) -> Result<Log, OpenError>;
    /// Whether the log's files are still where they were: an open file can be written long after its name is gone. Called on the
    /// writer's thread before each checkpoint. The error says what is missing.
    fn looks(&self) -> Result<(), String> {
        Ok(())
    }
    /// A checkpoint was signed and is durable. Called on the writer's thread.
    fn signed(&self, signed: &Signed);
    /// The first entry that it still has to read; `None`: it needs none.
    fn needs(&self) -> Option<u64> {
        None
    }
}

/// How the log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Entries.
    pub size: u64,
    /// Entries that are on the disk.
    pub durable: u64,
    /// The latest checkpoint that this writer signed.
    pub signed: Option<Signed>,
    /// Why entries are refused now.
    pub trouble: Option<Refused>,
    /// Entries that were refused since it began to work.
    pub refused: u64,
    /// Entries that were appended since then.
    pub appended: u64,
}

/// Hears what became of an entry.
pub type Done = Box<dyn FnOnce(Result<Receipt, Refused>) + Send>;

/// Sends an entry to whoever writes the log. It calls `Done` in the end, and does not block.
pub type Way = Arc<dyn Fn(Vec<u8>, Until, Done) + Send + Sync>;

/// Who writes.
#[derive(Clone)]
enum Place {
    Here,
    /// Nobody for a moment: everything waits.
    Between,
    Elsewhere(Way),
}

/// The handle. Clones append to the same log.
#[derive(Clone)]
pub struct Writer {
    inner: Arc<Inner>,
}

struct Inner {
    owner: Arc<dyn Owner>,
    settings: Settings,
    queue: Mutex<VecDeque<Waiting>>,
    state: Mutex<State>,
    pace: Pace,
    commits: Histogram,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Waiting {
    entry: Vec<u8>,
    until: Until,
    done: Option<Done>,
}

impl AsRef<[u8]> for Waiting {
    fn as_ref(&self) -> &[u8] {
        &self.entry
    }
}

struct State {
    place: Place,
    log: Option<Log>,
    trouble: Option<Refused>,
    /// Who waits for the disk, and for which size.
    unsynced: VecDeque<(u64, Done)>,
    /// What the kernel has and the disk perhaps not: where a sync fails, the kernel may forget it, and it is written again.
    recent: Recent,
    signed: Option<Signed>,
    /// Entries that were on the disk once: a log with fewer is not the one that was written.
    durable: u64,
    refused: u64,
    appended: u64,
    /// Since the last time that all was well.
    refused_now: u64,
    /// When something was appended last.
    spoke: Instant,
}

/// What callers are to be told once nothing is locked.
type Told = Vec<(Done, Result<Receipt, Refused>)>;

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

impl Writer {
    /// Begins to write a log that was opened. The thread ends with [`Self::close`].
    pub fn start(log: Log, owner: Arc<dyn Owner>, settings: Settings) -> std::io::Result<Self> {
        let state = State {
            place: Place::Here,
            log: Some(log),
            trouble: None,
            unsynced: VecDeque::new(),
            recent: Recent::default(),
            signed: None,
            durable: 0,
            refused: 0,
            appended: 0,
            refused_now: 0,
            spoke: monotonic(),
        };
        let inner = Arc::new(Inner {
            owner,
            settings,
            queue: Mutex::default(),
            state: Mutex::new(state),
            pace: Pace::default(),
            commits: Histogram::new(COMMITS),
            thread: Mutex::new(None),
        });
        let own = inner.clone();
        let thread = std::thread::Builder::new().name("ledger".to_owned()).spawn(move || own.work())?;
        *lock(&inner.thread) = Some(thread);
        Ok(Self { inner })
    }

    /// Appends an entry, of at most 65,535 bytes. `done` hears of it, on this thread or another, and must not block; with
    /// [`Until::Queued`] it hears at once.
    pub fn append(&self, entry: Vec<u8>, until: Until, done: impl FnOnce(Result<Receipt, Refused>) + Send + 'static) {
        self.offer(entry, until, done);
        self.flush();
    }

    /// The same, but it is written no sooner than another is, or [`Self::flush`] is called, or some milliseconds have passed. Who
    /// knows that others are about to append saves writes with it.
    pub fn offer(&self, entry: Vec<u8>, until: Until, done: impl FnOnce(Result<Receipt, Refused>) + Send + 'static) {
        if entry.len() > MAX_ENTRY {
            return done(Err(Refused::TooLong { len: entry.len() }));
        }
        let mut queue = lock(&self.inner.queue);
        if until == Until::Queued && queue.len() < self.inner.settings.queued {
            queue.push_back(Waiting { entry, until, done: None });
            drop(queue);
            self.inner.pace.dirty();
            return done(Ok(Receipt { index: None }));
        }
        queue.push_back(Waiting { entry, until: until.max(Until::Kernel), done: Some(Box::new(done)) });
        drop(queue);
        self.inner.pace.dirty();
    }

    /// Writes what was offered.
    pub fn flush(&self) {
        if !lock(&self.inner.queue).is_empty() {
            self.inner.drain(TURNS);
        }
    }

    /// The same, and waits.
    pub fn append_and_wait(&self, entry: Vec<u8>, until: Until) -> Result<Receipt, Refused> {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        self.append(entry, until, move |outcome| drop(tell.try_send(outcome)));
        told.recv().unwrap_or(Err(Refused::Closed))
    }

    /// Reads the log. Appends wait meanwhile.
    pub fn read<T>(&self, look: impl FnOnce(&View) -> T) -> Result<T, Refused> {
        let state = lock(&self.inner.state);
        let seen = match &state.log {
            Some(log) => log.view().map(look).map_err(|_| broken("an error of the disk")),
            None => Err(state.trouble.clone().unwrap_or(Refused::Closed)),
        };
        drop(state);
        self.inner.drain(TURNS);
        seen
    }

    /// Removes entries before `minimum`, as [`Log::prune`] does. Gives the first that is left. Blocks, and appends wait.
    pub fn prune(&self, minimum: u64) -> Result<u64, PruneRefused> {
        if let Some(first) = self.inner.owner.needs().filter(|first| *first < minimum) {
            return Err(PruneRefused::Needed { first });
        }
        let mut tries = PRUNE_TRIES;
        loop {
            tries -= 1;
            let pruned = self.inner.with(|state| match &mut state.log {
                Some(log) => log.prune(minimum).map_err(PruneRefused::from),
                None => Err(state.trouble.clone().unwrap_or(Refused::Closed).into()),
            });
            match pruned {
                // A checkpoint takes some milliseconds.
                Err(PruneRefused::Prune(PruneError::Busy)) if tries > 0 => std::thread::sleep(PRUNE_PAUSE),
                done => return done,
            }
        }
    }

    /// How the log is.
    pub fn health(&self) -> Health {
        let state = lock(&self.inner.state);
        let (size, durable) = state.log.as_ref().map_or((0, 0), |log| (log.size(), log.durable()));
        let (signed, trouble) = (state.signed.clone(), state.trouble.clone());
        Health { size, durable, signed, trouble, refused: state.refused, appended: state.appended }
    }

    /// How long the disk took to make entries durable, each time.
    pub fn commits(&self) -> &Histogram {
        &self.inner.commits
    }

    /// Makes all durable, signs a checkpoint, and lets the log go. What is appended from now on waits. Blocks.
    pub fn give_away(&self) {
        self.inner.drain(usize::MAX);
        self.inner.with(|state| state.place = Place::Between);
        self.inner.sync();
        self.inner.publish();
        let told = self.inner.with(|state| {
            state.log = None;
            // Only where the last sync failed.
            state.unsynced.drain(..).map(|(_, done)| (done, Err(broken("an error of the disk")))).collect()
        });
        tell(told);
    }

    /// The log is another process's: what waits, and what is appended from now on, goes there.
    pub fn send_to(&self, way: Way) {
        self.inner.with(|state| state.place = Place::Elsewhere(way));
        self.inner.drain(usize::MAX);
    }

    /// The log that was given away is this writer's again. Blocks.
    pub fn take_back(&self) -> Result<(), OpenError> {
        let log = self.inner.owner.open()?;
        self.inner.with(|state| {
            state.recent = Recent::default();
            state.log = Some(log);
            state.place = Place::Here;
        });
        self.inner.drain(usize::MAX);
        Ok(())
    }

    /// Makes all durable, signs a last checkpoint, and ends. What is appended later is refused. Blocks.
    pub fn close(&self) {
        self.inner.pace.stop();
        if let Some(thread) = lock(&self.inner.thread).take() {
            let _ = thread.join();
        }
    }
}

// Appending.
impl Inner {
    /// Writes what waits, unless somebody else does: whoever holds the log looks again once it does not.
    fn drain(&self, turns: usize) {
        for _ in 0..turns {
            let mut state = match self.state.try_lock() {
                Ok(state) => state,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            let place = state.place.clone();
            if matches!(place, Place::Between) {
                return;
            }
            let batch = self.batch();
            if let Place::Elsewhere(way) = place {
                drop(state);
                batch.into_iter().for_each(|Waiting { entry, until, done }| {
                    way(entry, until, done.unwrap_or_else(|| Box::new(drop)));
                });
            } else if !batch.is_empty() {
                let told = state.write(batch, &*self.owner);
                let urgent = !state.unsynced.is_empty();
                drop(state);
                tell(told);
                if urgent {
                    self.pace.urgent();
                } else {
                    self.pace.dirty();
                }
            } else {
                drop(state);
            }
            if lock(&self.queue).is_empty() {
                return;
            }
        }
        // Others go on to come: this caller has its own life.
        self.pace.urgent();
    }

    fn batch(&self) -> Vec<Waiting> {
        let mut queue = lock(&self.queue);
        let (mut count, mut bytes) = (0, 0);
        for waiting in queue.iter().take(BATCH) {
            if bytes > BATCH_BYTES {
                break;
            }
            (count, bytes) = (count + 1, bytes + waiting.entry.len());
        }
        queue.drain(..count).collect()
    }
}

impl State {
    fn write(&mut self, batch: Vec<Waiting>, owner: &dyn Owner) -> Told {
        let again = self.trouble.is_some().then(|| owner.says(Own::TakenAgain { refused: self.refused_now }));
        let written = match &mut self.log {
            None => Err(self.trouble.clone().unwrap_or(Refused::Closed)),
            Some(log) => {
                let entries: Vec<&[u8]> = again.as_deref().into_iter().chain(batch.iter().map(AsRef::as_ref)).collect();
                log.append(&entries).map_err(Refused::from)
            }
        };
        match written {
            Ok(range) => {
                self.trouble = None;
                self.refused_now = 0;
                self.spoke = monotonic();
                if let Some(again) = again {
                    self.recent.push(range.start, again);
                }
                self.written(range.end, batch)
            }
            Err(why) => {
                self.refuse(&why, owner);
                self.refused(&why, batch)
            }
        }
    }

    fn written(&mut self, end: u64, batch: Vec<Waiting>) -> Told {
        let mut told = Told::with_capacity(batch.len());
        self.appended += batch.len() as u64;
        let mut index = end - batch.len() as u64;
        for Waiting { entry, until, done } in batch {
            let receipt = Receipt { index: Some(index) };
            self.recent.push(index, entry);
            index += 1;
            match done {
                Some(done) if until == Until::Disk || self.recent.bytes > UNSYNCED_BYTES => {
                    self.unsynced.push_back((index, Box::new(move |outcome| done(outcome.map(|_: Receipt| receipt)))));
                }
                Some(done) => told.push((done, Ok(receipt))),
                None => {}
            }
        }
        told
    }

    fn refused(&mut self, why: &Refused, batch: Vec<Waiting>) -> Told {
        self.refused += batch.len() as u64;
        self.refused_now += batch.len() as u64;
        batch.into_iter().filter_map(|waiting| Some((waiting.done?, Err(why.clone())))).collect()
    }

    /// From here on nothing is taken.
    fn refuse(&mut self, why: &Refused, owner: &dyn Owner) {
        let first = self.trouble.is_none();
        self.trouble = Some(why.clone());
        if let Some(log) = &mut self.log
            && first
            && !log.is_broken()
        {
            // Where even the reserve is used up, what was refused is said afterwards.
            let _ = log.append_reserved(&[owner.says(Own::Refusing(why.clone()))]);
        }
        if self.log.as_ref().is_some_and(Log::is_broken) {
            self.log = None;
        }
    }

    fn lose(&mut self, why: &Refused, owner: &dyn Owner) -> Told {
        self.refuse(why, owner);
        self.unsynced.drain(..).map(|(_, done)| (done, Err(why.clone()))).collect()
    }
}

/// Entries by index, the oldest first.
#[derive(Default)]
struct Recent {
    entries: VecDeque<(u64, Vec<u8>)>,
    bytes: usize,
}

impl Recent {
    fn push(&mut self, index: u64, entry: Vec<u8>) {
        self.bytes += entry.len();
        self.entries.push_back((index, entry));
    }

    /// Those before `size` are on the disk.
    fn forget(&mut self, size: u64) {
        while self.entries.front().is_some_and(|(index, _)| *index < size) {
            self.bytes -= self.entries.pop_front().map_or(0, |(_, entry)| entry.len());
        }
    }

    fn from(&self, size: u64) -> impl Iterator<Item = &[u8]> {
        self.entries.iter().filter(move |(index, _)| *index >= size).map(|(_, entry)| entry.as_slice())
    }
}

fn tell(told: Told) {
    told.into_iter().for_each(|(done, outcome)| done(outcome));
}

fn broken(why: &str) -> Refused {
    Refused::Broken(why.into())
}

impl From<AppendError> for Refused {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Full => Self::Full,
            AppendError::EntryTooLong { len } => Self::TooLong { len },
            AppendError::Broken(Broken) => broken("an earlier error of the disk"),
            other => broken(&stdx::chain::Chain(&other).to_string()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
