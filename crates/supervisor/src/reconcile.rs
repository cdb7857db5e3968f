//! The host's servers: brought to what the store says, looked after, and stopped. The only writer of the directory of
//! servers is [`Supervisor::reconcile`]; it takes no input, so running it again is always right.

use crate::absent::Absent;
use crate::adopt::Inheritance;
use crate::events::{NotKept, Reader};
use crate::guest::{self, Room};
use crate::handover::{Predecessor, Succession};
use crate::hosted::Hosted;
use crate::instance::Instance;
use crate::keeping::{Keeper, KeeperError};
use crate::log::ServerLog;
use crate::meter;
use crate::orphans::Orphans;
use crate::report;
use crate::session::{NoLookup, NoSession, Opening, Session, Sessions};
use crate::settings::Settings;
use crate::shared::Shared;
use crate::slot::{Counters, Slot};
use crate::tree;
use bytes::Bytes;
use model::report::{InstanceReport, ServerReport, SessionReport};
use model::{Principal, ServerName, ServerSpec};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use stdx::meter::{Kind, Page};
use store::Store;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often sessions and instances are looked over for idleness.
const LOOK: Duration = Duration::from_secs(5);

/// The supervisor could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store failed.
    #[error("the state of the servers could not be read")]
    Store(#[from] store::StoreError),
    /// The desired state could not be applied.
    #[error(transparent)]
    Reconcile(#[from] ReconcileError),
    /// The keeper did not say what it holds.
    #[error("the keeper of the processes could not be asked what it holds")]
    Keeper(#[from] KeeperError),
}

/// The desired state could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The store failed.
    #[error("the desired servers could not be read")]
    Store(#[from] store::StoreError),
    /// A server's directory could not be made.
    #[error(transparent)]
    Directory(#[from] stdx::durable::DurableError),
}

/// No server has this name.
#[derive(Clone, Debug, thiserror::Error)]
#[error("no server is named {0}")]
pub struct NotHosted(pub ServerName);

/// The handle that the rest of the host holds.
#[derive(Clone, Debug)]
pub struct Supervisor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    servers: RwLock<HashMap<ServerName, Entry>>,
    sessions: Sessions,
    /// What no server has taken yet.
    inheritance: Mutex<Inheritance>,
    turn: tokio::sync::Mutex<()>,
    stopping: CancellationToken,
}

/// A server, with what outlives its generations.
#[derive(Clone, Debug)]
struct Entry {
    hosted: Arc<Hosted>,
    log: Arc<ServerLog>,
    counters: Arc<Counters>,
}

impl Supervisor {
    /// Takes over what an earlier daemon on this state directory left with the keeper, ends what else is left of it, and
    /// hosts what the store says.
    pub async fn start(
        store: Store,
        settings: Settings,
        keeper: Keeper,
        succession: Option<Succession>,
    ) -> Result<Self, StartError> {
        let (held, predecessor) = succession.map(|s| ((s.rests, s.guests), s.predecessor)).unzip();
        let (rests, guests) = held.unwrap_or_default();
        let inheritance = Inheritance::find(&keeper, &settings.identity, rests, &guests).await?;
        let left = tree::end_leftovers(&settings.identity, &inheritance.marks()).await;
        if left > 0 {
            tracing::warn!(processes = left, "ended processes that an earlier daemon had left");
        }
        let epoch = next_epoch(&store).await?;
        if let Some(predecessor) = &predecessor {
            predecessor.followed_by(epoch);
        }
        let request_ids = Arc::new(AtomicU64::new((epoch << 32) | 1));
        let stopping = CancellationToken::new();
        let sessions = Sessions::restore(store.clone(), settings.limits.clone(), epoch).await?;
        let orphans = Orphans::new(store.clone(), epoch);
        // What a living daemon has in flight, it will finish.
        if predecessor.is_none() {
            orphans.load(&sessions).await?;
            orphans.keep_only(&inheritance.ids());
        }
        let shared = Shared {
            settings,
            store,
            keeper,
            request_ids,
            orphans: Arc::new(orphans),
            continues: predecessor.is_some() || inheritance.last_id > 0,
            predecessor,
            living: Arc::default(),
            starting: tokio::sync::RwLock::default(),
            guests: TaskTracker::new(),
            stopping: stopping.clone(),
            connections: crate::remote::Pool::default(),
            instance_ids: AtomicU64::new(inheritance.last_id),
            slots: AtomicU32::new(0),
            spares: AtomicU32::new(0),
            spares_go: AtomicBool::new(false),
            crowded: Notify::new(),
        };
        let supervisor = Self {
            inner: Arc::new(Inner {
                shared: Arc::new(shared),
                servers: RwLock::default(),
                sessions,
                inheritance: Mutex::new(inheritance),
                turn: tokio::sync::Mutex::new(()),
                stopping,
            }),
        };
        supervisor.reconcile().await?;
        supervisor.sort_out()?;
        supervisor.rejoin();
        if let Some(predecessor) = supervisor.inner.shared.predecessor.clone() {
            stdx::task::spawn("inherit calls", inherit_calls(supervisor.clone(), predecessor));
        }
        stdx::task::spawn("look after instances", look_after(supervisor.clone()));
        Ok(supervisor)
    }

    /// Processes that no server took over: those that the old daemon's calls need stay as long, all others end.
    fn sort_out(&self) -> Result<(), ReconcileError> {
        let shared = &self.inner.shared;
        let needed = self.inheritance().end_rest(&shared.settings, &shared.orphans);
        let Some(predecessor) = &shared.predecessor else { return Ok(()) };
        for (server, heir) in needed {
            let (log, counters) = match self.entry(&server) {
                Some(entry) => (entry.log, entry.counters),
                None => (self.open_log(&server)?, Arc::default()),
            };
            guest::keep(shared, predecessor, heir, Room { server, log, counters });
        }
        Ok(())
    }

    fn open_log(&self, server: &ServerName) -> Result<Arc<ServerLog>, ReconcileError> {
        let settings = &self.inner.shared.settings;
        let logs = settings.servers_dir.join(server.as_str()).join("logs");
        stdx::durable::make_dir(&logs, 0o700)?;
        Ok(Arc::new(ServerLog::new(&logs, settings.limits.log_bytes)))
    }

    /// What restored sessions subscribed to is subscribed to again.
    fn rejoin(&self) {
        for entry in self.entries() {
            let sessions = self.inner.sessions.of_server(&entry.hosted.spec().name);
            entry.hosted.rejoin(sessions);
        }
    }

    /// Brings the hosted servers to what the store says. When it returns, calls meet the new state; processes of
    /// replaced generations finish their calls and stop behind the scenes.
    pub async fn reconcile(&self) -> Result<(), ReconcileError> {
        let _turn = self.inner.turn.lock().await;
        let desired = self.inner.shared.store.servers().await?;
        let mut gone: Vec<ServerName> = self.entries().into_iter().map(|e| e.hosted.spec().name.clone()).collect();
        for spec in desired {
            gone.retain(|name| *name != spec.name);
            let current = self.entry(&spec.name);
            if current.as_ref().is_none_or(|c| *c.hosted.spec() != spec) {
                self.replace(spec, current)?;
            }
        }
        for name in gone {
            if let Some(entry) = self.write_servers(|servers| servers.remove(&name)) {
                self.inner.sessions.close_all(&name).await;
                retire(entry.hosted);
            }
        }
        Ok(())
    }

    fn replace(&self, spec: ServerSpec, current: Option<Entry>) -> Result<(), ReconcileError> {
        let name = spec.name.clone();
        let (log, counters) = match &current {
            Some(entry) => (entry.log.clone(), entry.counters.clone()),
            None => (self.open_log(&name)?, Arc::default()),
        };
        let enabled = spec.enabled;
        let hosted = Arc::new(Hosted::new(spec, self.inner.shared.clone(), log.clone(), counters.clone()));
        self.write_servers(|servers| servers.insert(name, Entry { hosted: hosted.clone(), log, counters }));
        if let Some(entry) = current {
            if enabled {
                hosted.inherit(&entry.hosted, self.inner.sessions.of_server(&hosted.spec().name));
            }
            retire(entry.hosted);
        }
        if enabled {
            let heirs = self.inheritance().take(&hosted.spec().name);
            hosted.adopt(heirs, &self.inner.sessions.of_server(&hosted.spec().name));
            hosted.keep_spares();
            stdx::task::spawn("check a server", hosted.check());
        }
        Ok(())
    }

    /// The server of this name.
    pub fn hosted(&self, name: &ServerName) -> Result<Arc<Hosted>, Absent> {
        self.entry(name).map(|entry| entry.hosted).ok_or_else(|| Absent::Unknown(name.clone()))
    }

    /// Whether another generation has taken the place of this one, so that asking again is worth it.
    pub fn replaced(&self, hosted: &Arc<Hosted>) -> bool {
        self.entry(&hosted.spec().name).is_some_and(|current| !Arc::ptr_eq(&current.hosted, hosted))
    }

    /// Replaces every process of a server; sessions stay valid. How many processes there were.
    pub async fn restart(&self, server: &ServerName) -> Result<u32, NotHosted> {
        let entry = self.entry(server).ok_or_else(|| NotHosted(server.clone()))?;
        Ok(entry.hosted.restart())
    }

    /// The log of a server.
    pub fn log(&self, server: &ServerName) -> Option<Arc<ServerLog>> {
        self.entry(server).map(|entry| entry.log)
    }

    /// Opens a legacy session, which outlives this daemon.
    pub async fn open_session(&self, opening: Opening) -> Result<Arc<Session>, NoSession> {
        self.inner.sessions.open(opening).await
    }

    /// The session with this id, if it is this caller's at this server.
    pub async fn session(
        &self,
        id: &str,
        principal: &Principal,
        client: &str,
        server: &ServerName,
    ) -> Result<Option<Arc<Session>>, NoLookup> {
        let Some(found) = self.inner.sessions.find(id, principal, client, server).await? else { return Ok(None) };
        if let Some(entry) = self.entry(server).filter(|_| found.restored) {
            entry.hosted.rejoin(vec![found.session.clone()]);
        }
        Ok(Some(found.session))
    }

    /// Goes on with a stream of a session after the event `last`. A stream that is not known here may be of a call that
    /// another daemon sent.
    pub async fn resume(&self, session: &Arc<Session>, last: &[u8]) -> Result<Reader, NotKept> {
        match session.resume(last) {
            Err(NotKept) if self.inner.shared.orphans.load_of(session, self.follows()).await => session.resume(last),
            outcome => outcome,
        }
    }

    /// Ends a session whose calls may still finish: no request finds it any more. [`Self::close_session`] must follow.
    pub fn end_session(&self, session: &Arc<Session>) {
        self.inner.sessions.close(session);
    }

    /// Ends a session, takes back its calls, and gives back what it held (E122).
    pub async fn close_session(&self, session: &Arc<Session>, server: &ServerName) {
        self.inner.sessions.close(session);
        if let Some(entry) = self.entry(server) {
            entry.hosted.session_closed(session.id());
        }
        self.tell_predecessor_of_end(session.id());
        self.inner.sessions.forget(session).await;
    }

    /// Whether every enabled server can take a call.
    pub fn ready(&self) -> bool {
        self.servers().iter().all(|s| s.health.serves() || s.health == model::report::Health::Stopped)
    }

    /// Every server, by name.
    pub fn servers(&self) -> Vec<ServerReport> {
        let public_url = &self.inner.shared.settings.public_url;
        let mut reports: Vec<ServerReport> =
            self.entries().iter().map(|e| report::server(&e.hosted, public_url, self.open_sessions(e))).collect();
        reports.sort_by(|a, b| a.name.cmp(&b.name));
        reports
    }

    /// Live processes, of one server or all.
    pub fn instances(&self, server: Option<&ServerName>) -> Vec<InstanceReport> {
        let entries = self.entries();
        let wanted = entries.iter().filter(|e| server.is_none_or(|name| e.hosted.spec().name == *name));
        let mut reports: Vec<InstanceReport> = wanted.flat_map(|e| report::instances(&e.hosted)).collect();
        reports.sort_by(|a, b| (&a.server, a.id).cmp(&(&b.server, b.id)));
        reports
    }

    /// Open legacy sessions, of one server or all, oldest first.
    pub fn sessions(&self, server: Option<&ServerName>) -> Vec<SessionReport> {
        self.inner.sessions.reports(server)
    }

    /// Writes what is counted of every server, and the daemon's number.
    pub fn write_meters(&self, page: &mut Page) {
        let row = |e: Entry| meter::Row { sessions: self.open_sessions(&e), hosted: e.hosted };
        let mut rows: Vec<meter::Row> = self.entries().into_iter().map(row).collect();
        rows.sort_by(|a, b| a.hosted.spec().name.cmp(&b.hosted.spec().name));
        meter::write(page, &rows);
        let epoch = self.epoch();
        page.family(
            "staithe_epoch",
            Kind::Gauge,
            "Number of this daemon among all that worked on its state directory.",
        )
        .sample(&[], epoch);
    }

    /// The number of this daemon among all that worked on its state directory.
    pub fn epoch(&self) -> u64 {
        self.inner.shared.request_ids.load(Ordering::Relaxed) >> 32
    }

    /// Stops everything. When it returns, no process of any server is left.
    pub async fn stop(&self) {
        self.inner.stopping.cancel();
        let _turn = self.inner.turn.lock().await;
        let all: Vec<_> = self.entries().into_iter().map(|e| retire(e.hosted)).collect();
        for one in all {
            let _ = one.await;
        }
        self.inner.shared.guests.close();
        self.inner.shared.guests.wait().await;
        self.inner.sessions.note(true).await;
        tree::end_leftovers(&self.inner.shared.settings.identity, &HashSet::new()).await;
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    /// Every slot of every server.
    pub(crate) fn slots(&self) -> Vec<Arc<Slot>> {
        self.entries().iter().flat_map(|entry| entry.hosted.all_slots()).collect()
    }

    /// Every server.
    pub(crate) fn all_hosted(&self) -> Vec<Arc<Hosted>> {
        self.entries().into_iter().map(|entry| entry.hosted).collect()
    }

    /// Every process that may have something to finish. Spares have nothing.
    pub(crate) fn processes(&self) -> Vec<Arc<Instance>> {
        let spares = self.entries().into_iter().flat_map(|entry| entry.hosted.spares.instances());
        let spares: HashSet<u64> = spares.map(|instance| instance.id).collect();
        self.inner.shared.living.all().into_iter().filter(|instance| !spares.contains(&instance.id)).collect()
    }

    /// Those that serve calls which are yet to come. One with its one call in flight is none: its place is free at once.
    pub(crate) fn serving(&self) -> HashSet<u64> {
        self.slots().iter().filter(|slot| !slot.is_taken_place()).filter_map(|slot| slot.ready_id()).collect()
    }

    /// Whether the daemon before this one still lives.
    fn follows(&self) -> bool {
        self.inner.shared.predecessor.as_ref().is_some_and(|predecessor| predecessor.lives())
    }

    /// Calls that have ended on streams whose clients may come back: the session, the stream, the last event.
    pub(crate) fn answered(&self) -> Vec<(String, u64, Bytes)> {
        let of = |session: Arc<Session>| {
            let answers = session.answered();
            answers.into_iter().map(move |(stream, body)| (session.id().to_owned(), stream, body))
        };
        self.inner.sessions.all().into_iter().flat_map(of).collect()
    }

    pub(crate) fn session_by_id(&self, id: &str) -> Option<Arc<Session>> {
        self.inner.sessions.by_id(id)
    }

    fn inheritance(&self) -> MutexGuard<'_, Inheritance> {
        self.inner.inheritance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_sessions(&self, entry: &Entry) -> u32 {
        self.inner.sessions.count(&entry.hosted.spec().name)
    }

    fn entry(&self, name: &ServerName) -> Option<Entry> {
        self.inner.servers.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn entries(&self) -> Vec<Entry> {
        self.inner.servers.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn write_servers<T>(&self, change: impl FnOnce(&mut HashMap<ServerName, Entry>) -> T) -> T {
        change(&mut self.inner.servers.write().unwrap_or_else(PoisonError::into_inner))
    }
}

fn retire(hosted: Arc<Hosted>) -> tokio::task::JoinHandle<Option<()>> {
    stdx::task::spawn("retire a generation", async move { hosted.retire().await })
}

/// What the old daemon did not finish is this one's.
async fn inherit_calls(supervisor: Supervisor, predecessor: Arc<Predecessor>) {
    while let Some(answer) = predecessor.answered().await {
        match supervisor.session_by_id(&answer.session) {
            Some(session) => supervisor.inner.shared.orphans.answered(&session, answer.stream, answer.body),
            None => tracing::debug!("the old daemon answered a call of a session that is not known"),
        }
    }
    if let Err(error) = supervisor.inner.shared.orphans.load(&supervisor.inner.sessions).await {
        tracing::warn!(%error, "the open calls of the old daemon could not be read");
    }
    // Until a moment ago that daemon may have read them.
    supervisor.inner.sessions.all().iter().for_each(|session| session.touch());
    // A process that has ended since then was heard to end by that daemon, if at all.
    let living = supervisor.processes().iter().map(|instance| instance.id).collect();
    supervisor.inner.shared.orphans.keep_only(&living);
}

/// Ends idle sessions and stops idle instances, until the host stops.
async fn look_after(supervisor: Supervisor) {
    let limits = supervisor.inner.shared.settings.limits.clone();
    let every = LOOK.min(limits.idle_ttl).min(limits.session_idle).min(limits.ask_waits);
    loop {
        let own = supervisor.entries().iter().filter_map(|e| e.hosted.spec().bounds.idle_after(LOOK)).min();
        let wait = every.min(own.unwrap_or(LOOK)).max(Duration::from_millis(50));
        if tokio::time::timeout(wait, supervisor.inner.stopping.cancelled()).await.is_ok() {
            return;
        }
        if supervisor.inner.shared.is_frozen() {
            continue;
        }
        // What a living daemon before this one still reads cannot be seen from here.
        let expired =
            if supervisor.follows() { Vec::new() } else { supervisor.inner.sessions.expired(limits.session_idle) };
        for session in expired {
            let server = session.server().clone();
            supervisor.close_session(&session, &server).await;
        }
        supervisor.inner.shared.orphans.sweep();
        supervisor.inner.sessions.note(false).await;
        for entry in supervisor.entries() {
            entry.hosted.reap(limits.idle_ttl);
        }
    }
}

/// Each daemon has a number of its own, so that an answer to an earlier one's request is recognised as such.
async fn next_epoch(store: &Store) -> Result<u64, store::StoreError> {
    let last: u64 = store.setting("epoch").await?.and_then(|text| text.parse().ok()).unwrap_or(0);
    // Ids stay below 2^53: some servers keep them in a double.
    let next = (last + 1) % (1 << 20);
    store.put_setting("epoch", &next.to_string()).await?;
    Ok(next)
}
