//! The daemon's side of its keeper: what the keeper holds outlives this process, and a keeper that ends is replaced.

use keeper::{AskError, AttachError, Client, Event, Exit, Held, Launch, SpawnError, StartError, StartOptions};
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use stdx::clock::monotonic;
use tokio::sync::watch;

/// How long a keeper that ends may take until another can have its place: it gives its processes 5 s, then kills them and waits
/// 5 s at most.
const ENDS_WITHIN: Duration = Duration::from_secs(12);
/// How long one may take whose processes have ended.
const EXITS_WITHIN: Duration = Duration::from_secs(2);
const ENDING_LOOK: Duration = Duration::from_millis(20);

/// Where the keeper is.
#[derive(Clone, Debug)]
pub enum Place {
    /// It listens here, and somebody else looks after it.
    Socket(PathBuf),
    /// It listens in this state directory; `program keeper` starts it where none does.
    StateDir { program: PathBuf, dir: PathBuf },
    /// It is a thread of this process: what it holds ends with us. Its socket lies in this state directory.
    Here(PathBuf),
}

/// The keeper could not be reached, or did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// Another daemon has it, or it speaks another protocol.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// It could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It answered with an error, or not at all.
    #[error(transparent)]
    Asked(#[from] AskError),
    /// It could not be a thread of ours.
    #[error("no keeper could be started in this process")]
    Thread(#[source] io::Error),
    /// A descriptor could not be doubled.
    #[error("a descriptor could not be doubled for the keeper")]
    Descriptor(#[source] io::Error),
    /// This process takes no more work.
    #[error("the host stops")]
    Stopping,
}

impl KeeperError {
    /// What is said of a keeper that ends just now, or by it: that is all for which it refuses a daemon without naming a reason
    /// of its own.
    fn is_about_an_end(&self) -> bool {
        matches!(
            self,
            Self::Attach(AttachError::Ask(AskError::Lost | AskError::Io(_) | AskError::Refused(_)))
                | Self::Asked(AskError::Lost | AskError::Io(_))
                | Self::Start(StartError::Held(_))
        )
    }
}

/// The keeper, for as long as this daemon lives.
#[derive(Clone, Debug)]
pub struct Keeper {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    place: Place,
    /// Attaching takes a while, and one at a time does it.
    link: tokio::sync::Mutex<Option<Link>>,
    /// We want no keeper any more: whoever still asks for one must not start another. Changes under the lock of `link`.
    let_go: AtomicBool,
    /// The keeper process, where this daemon started it: it is ours to reap.
    started: Mutex<Option<std::process::Child>>,
    /// The thread that is the keeper, where there is no process.
    thread: Mutex<Option<keeper::InThread>>,
    fates: Arc<Fates>,
    /// How often the processes changed hands: odd while they are another daemon's, or are about to be.
    hands: watch::Sender<u64>,
    /// What a new keeper is given at once.
    listeners: Mutex<HashMap<String, OwnedFd>>,
}

/// A connection, and whether its other end is gone.
#[derive(Clone, Debug)]
struct Link {
    client: Arc<Client>,
    gone: Arc<AtomicBool>,
}

/// How a hosted process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Exited(Exit),
    /// The keeper ended it for a limit.
    Over(String),
    /// The keeper ended, and its children with it.
    KeeperGone,
    /// The same, or staithe was told to end it: another daemon, which had it, says so.
    ByHost(String),
    /// Another daemon has it, and tells us nothing any more. It may well live.
    Elsewhere,
}

impl std::fmt::Display for Fate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(exit) => write!(f, "{exit}"),
            Self::Over(text) | Self::ByHost(text) => f.write_str(text),
            Self::KeeperGone => f.write_str("killed: the keeper of the processes ended"),
            Self::Elsewhere => f.write_str("another daemon has it, and nothing is heard of it any more"),
        }
    }
}

/// The ends of processes, from the thread that hears of them to the tasks that wait.
#[derive(Debug, Default)]
struct Fates {
    by_id: Mutex<HashMap<u64, watch::Sender<Option<Fate>>>>,
    over: Mutex<HashMap<u64, String>>,
    lost: tokio::sync::Notify,
}

impl Fates {
    fn hear(&self, event: Event) {
        match event {
            Event::Over { id, text } => drop(lock(&self.over).insert(id, text)),
            Event::Exited { id, exit } => {
                let over = lock(&self.over).remove(&id);
                self.settle(id, over.map_or(Fate::Exited(exit), Fate::Over));
            }
            Event::Lost => {
                lock(&self.by_id).values().for_each(|fate| settle(fate, Fate::KeeperGone));
                self.lost.notify_one();
            }
        }
    }

    /// The news of an end may come before whoever waits for it.
    fn of(&self, id: u64) -> watch::Receiver<Option<Fate>> {
        lock(&self.by_id).entry(id).or_insert_with(|| watch::Sender::new(None)).subscribe()
    }

    fn settle(&self, id: u64, fate: Fate) {
        settle(lock(&self.by_id).entry(id).or_insert_with(|| watch::Sender::new(None)), fate);
    }

    fn forget(&self, id: u64) {
        lock(&self.by_id).remove(&id);
        lock(&self.over).remove(&id);
    }
}

fn settle(fate: &watch::Sender<Option<Fate>>, end: Fate) {
    fate.send_if_modified(|known| {
        let new = known.is_none();
        if new {
            *known = Some(end);
        }
        new
    });
}

/// A process in the keeper's hands.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) held: Held,
    pub(crate) fate: watch::Receiver<Option<Fate>>,
}

impl Keeper {
    /// Attaches to the keeper, which is started where it is ours to start.
    pub async fn attach(place: Place) -> Result<Self, KeeperError> {
        let inner = Inner {
            place,
            link: tokio::sync::Mutex::new(None),
            let_go: AtomicBool::new(false),
            started: Mutex::new(None),
            thread: Mutex::new(None),
            fates: Arc::default(),
            hands: watch::Sender::new(0),
            listeners: Mutex::default(),
        };
        let keeper = Self { inner: Arc::new(inner) };
        keeper.link().await?;
        stdx::task::spawn("look after the keeper", keeper.clone().look_after());
        Ok(keeper)
    }

    /// A listening socket that an earlier daemon left with the keeper.
    pub async fn listener(&self, name: &str) -> Result<Option<OwnedFd>, KeeperError> {
        let name = name.to_owned();
        self.ask(move |client| client.take(&name)).await
    }

    /// Leaves a listening socket with the keeper: while no daemon runs, connections wait in it.
    pub async fn hold(&self, name: &str, listener: OwnedFd) -> Result<(), KeeperError> {
        let double = listener.try_clone().map_err(KeeperError::Descriptor)?;
        lock(&self.inner.listeners).insert(name.to_owned(), listener);
        let name = name.to_owned();
        self.ask(move |client| client.hold(&name, double.as_fd())).await
    }

    /// From now on connections to it are refused.
    pub async fn drop_listener(&self, name: &str) -> Result<(), KeeperError> {
        lock(&self.inner.listeners).remove(name);
        let name = name.to_owned();
        self.ask(move |client| client.drop_listener(&name)).await
    }

    /// Ends the keeper and whatever it still holds.
    pub async fn end(&self, grace: Duration) -> Result<(), KeeperError> {
        lock(&self.inner.listeners).clear();
        let Some(link) = self.let_go().await else { return Ok(()) };
        let ended = asked(link.client, move |client| client.end(grace)).await;
        // Whoever starts the next daemon after us shall not meet what is left of it.
        if let Some(reaped) = self.reap() {
            let _ = tokio::time::timeout(EXITS_WITHIN, reaped).await;
        }
        ended
    }

    /// Whether processes of servers live in it.
    pub async fn holds_servers(&self) -> Result<bool, KeeperError> {
        Ok(self.list().await?.iter().any(|held| held.exit.is_none()))
    }

    /// Lets go of the keeper, which goes on without us.
    pub async fn detach(&self) {
        if let Some(link) = self.let_go().await {
            link.client.detach();
        }
    }

    async fn let_go(&self) -> Option<Link> {
        let mut link = self.inner.link.lock().await;
        self.inner.let_go.store(true, Ordering::Relaxed);
        self.inner.fates.lost.notify_one();
        link.take()
    }

    /// Takes hold of the keeper again after [`Self::detach`].
    pub(crate) async fn attach_again(&self) -> Result<(), KeeperError> {
        {
            let _changing = self.inner.link.lock().await;
            self.inner.let_go.store(false, Ordering::Relaxed);
        }
        self.link().await?;
        stdx::task::spawn("look after the keeper", self.clone().look_after());
        Ok(())
    }

    /// The processes are another daemon's, or ours again. While they are not ours, this daemon signals and ends none.
    pub(crate) fn give_away(&self, given_away: bool) {
        self.inner.hands.send_modify(|hands| *hands += u64::from(hands.is_multiple_of(2) == given_away));
    }

    pub(crate) fn is_given_away(&self) -> bool {
        !self.hands().is_multiple_of(2)
    }

    /// How often the processes changed hands.
    pub(crate) fn hands(&self) -> u64 {
        *self.inner.hands.borrow()
    }

    /// Done when the processes are ours.
    pub(crate) async fn ours(&self) {
        let _ = self.inner.hands.subscribe().wait_for(|hands| hands.is_multiple_of(2)).await;
    }

    /// Why the keeper is about to end a process.
    pub(crate) fn over(&self, id: u64) -> Option<String> {
        lock(&self.inner.fates.over).get(&id).cloned()
    }

    /// How a process ended, where another daemon says so.
    pub(crate) fn settle(&self, id: u64, fate: Fate) {
        self.inner.fates.settle(id, fate);
    }

    /// The processes whose end somebody here waits for.
    pub(crate) fn waited_for(&self) -> HashSet<u64> {
        lock(&self.inner.fates.by_id).keys().copied().collect()
    }

    /// What earlier daemons left, running or ended.
    pub(crate) async fn held(&self) -> Result<Vec<Kept>, KeeperError> {
        Ok(self.know(self.list().await?))
    }

    /// The same, while nobody here has heard of it.
    pub(crate) async fn list(&self) -> Result<Vec<Held>, KeeperError> {
        self.ask(Client::list).await
    }

    /// From now on whoever waits for the end of one hears of it.
    pub(crate) fn know(&self, all: Vec<Held>) -> Vec<Kept> {
        let kept = |held: Held| {
            match (&held.exit, &held.over) {
                (Some(_), Some(text)) => self.inner.fates.settle(held.id, Fate::Over(text.clone())),
                (Some(exit), None) => self.inner.fates.settle(held.id, Fate::Exited(*exit)),
                (None, _) => {}
            }
            Kept { fate: self.inner.fates.of(held.id), held }
        };
        all.into_iter().map(kept).collect()
    }

    /// Starts a process.
    pub(crate) async fn spawn(&self, launch: Launch) -> Result<Result<Kept, SpawnError>, KeeperError> {
        let client = self.link().await?;
        let spawned = tokio::task::spawn_blocking(move || client.spawn(&launch)).await;
        let spawned = spawned.map_err(|_| KeeperError::Stopping)?;
        Ok(spawned.map(|held| Kept { fate: self.inner.fates.of(held.id), held }))
    }

    /// The keeper's copy of a process' stdin: while it is open the process does not see its end.
    pub(crate) async fn close_stdin(&self, id: u64) {
        self.tell("close the stdin of a process", move |client| client.close_stdin(id)).await;
    }

    /// Nobody here waits for the end of a process any more, which is another daemon's to look after.
    pub(crate) fn leave(&self, id: u64) {
        self.inner.fates.forget(id);
    }

    /// The process has ended and everything about it was said.
    pub(crate) async fn forget(&self, id: u64) {
        self.inner.fates.forget(id);
        self.tell("forget a process", move |client| client.forget(id)).await;
    }

    /// What a keeper that has just died can no longer be told has no meaning any more.
    async fn tell<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Client) -> Result<T, AskError> + Send + 'static,
    ) {
        if let Err(error) = self.ask(work).await {
            tracing::debug!(what, %error, "the keeper was not reached");
        }
    }

    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Client) -> Result<T, AskError> + Send + 'static,
    ) -> Result<T, KeeperError> {
        asked(self.link().await?, work).await
    }

    /// The connection; a new keeper where the old one is gone.
    async fn link(&self) -> Result<Arc<Client>, KeeperError> {
        let mut link = self.inner.link.lock().await;
        if let Some(link) = link.as_ref().filter(|link| !link.gone.load(Ordering::Acquire)) {
            return Ok(link.client.clone());
        }
        if self.inner.let_go.load(Ordering::Relaxed) {
            return Err(KeeperError::Stopping);
        }
        let inner = self.inner.clone();
        let connected = tokio::task::spawn_blocking(move || inner.connect()).await;
        let connected = connected.map_err(|_| KeeperError::Stopping)??;
        Ok(link.insert(connected).client.clone())
    }

    /// A keeper that ends is replaced at once: listening sockets and new processes need one.
    async fn look_after(self) {
        loop {
            self.inner.fates.lost.notified().await;
            if self.is_let_go().await {
                return;
            }
            tracing::error!("the keeper ended; starting another, and the servers with it");
            drop(self.reap());
            let mut attempt = 0;
            while let Err(error) = self.link().await {
                if self.is_let_go().await {
                    return;
                }
                attempt += 1;
                tracing::error!(error = %stdx::chain::Chain(&error), "there is no keeper");
                tokio::time::sleep(stdx::backoff::delay(
                    Duration::from_millis(50),
                    Duration::from_secs(5),
                    attempt,
                    1.0,
                ))
                .await;
            }
        }
    }

    async fn is_let_go(&self) -> bool {
        let _settled = self.inner.link.lock().await;
        self.inner.let_go.load(Ordering::Relaxed)
    }

    fn reap(&self) -> Option<tokio::task::JoinHandle<Option<()>>> {
        let mut child = lock(&self.inner.started).take()?;
        Some(stdx::task::spawn("reap the keeper", async move {
            let _ = tokio::task::spawn_blocking(move || child.wait()).await;
        }))
    }
}

impl Inner {
    /// A keeper that is about to end is waited for: its successor is ours to start. Blocks: for a thread of its own.
    fn connect(&self) -> Result<Link, KeeperError> {
        let until = monotonic() + ENDS_WITHIN;
        loop {
            match self.connect_once() {
                Err(error) if error.is_about_an_end() && monotonic() < until => std::thread::sleep(ENDING_LOOK),
                done => return done,
            }
        }
    }

    fn connect_once(&self) -> Result<Link, KeeperError> {
        let link = match &self.place {
            Place::Socket(socket) => self.attach(socket)?,
            Place::Here(dir) => {
                let thread = keeper::in_thread(dir).map_err(KeeperError::Thread)?;
                let link = self.attach(thread.socket());
                *lock(&self.thread) = Some(thread);
                link?
            }
            Place::StateDir { program, dir } => {
                let socket = keeper::socket_path(dir);
                match self.attach(&socket) {
                    Err(AttachError::Absent(_)) => {
                        let child = keeper::start(program, dir, &StartOptions::default())?;
                        if let Some(mut earlier) = lock(&self.started).replace(child) {
                            // It has ended, or is about to: then whoever reaps us reaps it.
                            let _ = earlier.try_wait();
                        }
                        self.attach(&socket)?
                    }
                    other => other?,
                }
            }
        };
        for (name, listener) in &*lock(&self.listeners) {
            link.client.hold(name, listener.as_fd())?;
        }
        Ok(link)
    }

    fn attach(&self, socket: &Path) -> Result<Link, AttachError> {
        let (fates, gone) = (self.fates.clone(), Arc::new(AtomicBool::new(false)));
        let told = gone.clone();
        let hear = move |event| {
            told.fetch_or(matches!(event, Event::Lost), Ordering::Release);
            fates.hear(event);
        };
        Ok(Link { client: Arc::new(Client::attach(socket, hear)?), gone })
    }
}

async fn asked<T: Send + 'static>(
    client: Arc<Client>,
    work: impl FnOnce(&Client) -> Result<T, AskError> + Send + 'static,
) -> Result<T, KeeperError> {
    let done = tokio::task::spawn_blocking(move || work(&client)).await;
    Ok(done.map_err(|_| KeeperError::Stopping)??)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
