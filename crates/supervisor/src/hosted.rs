//! One hosted server of one generation: its verdict, its slots, and the only way to an instance.

use crate::absent::{Absent, Bound};
use crate::attribution::Learned;
use crate::check::Checked;
use crate::handover::Predecessor;
use crate::handshake::Introduction;
use crate::idle::Dormant;
use crate::instance::Instance;
use crate::keeping::Keeper;
use crate::key::{Caller, Key};
use crate::lease::Lease;
use crate::level::Level;
use crate::log::ServerLog;
use crate::meter::ServerMeter;
use crate::orders::Order;
use crate::pool::{Place, Pool};
use crate::probe;
use crate::remote::{Memory, Pool as Connections};
use crate::session::Session;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::slot::{Context, Counters, First, Slot, State};
use crate::spares::Spares;
use crate::watchdog::Reflexes;
use model::report::LogSource;
use model::{EraPin, EraVerdict, Mode, ServerSpec, Verdict};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use wire::era::{Era, Revision};

/// A verdict is doubted after this long: a stale "legacy" never shows itself.
const VERDICT_DAYS_MS: i64 = 7 * 24 * 3600 * 1000;

/// A server as it is hosted now.
#[derive(Debug)]
pub struct Hosted {
    spec: ServerSpec,
    pub(crate) shared: Arc<Shared>,
    log: Arc<ServerLog>,
    counters: Arc<Counters>,
    learned: Arc<Learned>,
    reflexes: Reflexes,
    known: Mutex<Option<Known>>,
    probing: tokio::sync::Mutex<()>,
    memory: Arc<Memory>,
    pub(crate) checked: Mutex<Checked>,
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
    pools: Mutex<HashMap<Key, Arc<Pool>>>,
    pub(crate) dormant: Dormant,
    pub(crate) spares: Spares,
    /// Throw-away processes at work.
    probes: TaskTracker,
    retired: CancellationToken,
    /// An operator does not want to wait for the next check.
    pub(crate) recheck: Notify,
}

/// A verdict at hand.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) verdict: Verdict,
    discovered: Option<Arc<str>>,
    pub(crate) probed_at_ms: i64,
    stored: bool,
}

impl Known {
    fn era_for(&self, client: Era) -> Era {
        spoken(self.verdict, client)
    }
}

/// What a server of this verdict is spoken to in, for a client of `client` era.
fn spoken(verdict: Verdict, client: Era) -> Era {
    match verdict {
        Verdict::Legacy => Era::Legacy,
        Verdict::Modern => Era::Modern,
        Verdict::Dual => client,
    }
}

impl Hosted {
    pub(crate) fn new(spec: ServerSpec, shared: Arc<Shared>, log: Arc<ServerLog>, counters: Arc<Counters>) -> Self {
        Self {
            spec,
            shared,
            log,
            counters,
            learned: Arc::default(),
            reflexes: Reflexes::default(),
            known: Mutex::new(None),
            probing: tokio::sync::Mutex::new(()),
            memory: Arc::default(),
            checked: Mutex::new(Checked::NotYet),
            slots: Mutex::default(),
            pools: Mutex::default(),
            dormant: Dormant::default(),
            spares: Spares::default(),
            probes: TaskTracker::new(),
            retired: CancellationToken::new(),
            recheck: Notify::new(),
        }
    }

    /// What the operator asked for.
    pub fn spec(&self) -> &ServerSpec {
        &self.spec
    }

    /// The era to speak with this server for a client of `client` era: its own where the server speaks it, so that
    /// nothing is translated that need not be.
    pub async fn era_for(self: &Arc<Self>, client: Era) -> Result<Era, Absent> {
        self.available()?;
        if let Some(known) = self.known() {
            return Ok(known.era_for(client));
        }
        let verdict = Box::pin(self.verdict()).await;
        Ok(spoken(verdict.map_err(|absent| self.here(absent))?, client))
    }

    /// The warm instance for `caller`, a client of `client` era, if nothing has to be waited for: the common case.
    pub fn warm(&self, caller: &Caller, session: Option<&Arc<Session>>, client: Era) -> Option<Lease> {
        self.available().ok()?;
        let era = self.known.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.era_for(client);
        if self.spec.mode == Mode::Exclusive {
            return None;
        }
        let slot = self.slots().get(&Key::of(caller, self.spec.mode, era))?.clone();
        if let Some(session) = session {
            self.attach(&slot, session).ok()?;
        }
        let instance = slot.ready_now()?;
        Some(Lease { instance, slot, place: None })
    }

    /// An instance for `caller`, spoken to in `era`: the warm one of its isolation key, or a new one.
    pub async fn lease(
        self: &Arc<Self>,
        caller: &Caller,
        session: Option<&Arc<Session>>,
        era: Era,
    ) -> Result<Lease, Absent> {
        self.available()?;
        self.found_lease(caller, session, era).await.map_err(|absent| self.here(absent))
    }

    /// Whatever this daemon cannot do once another has taken over, that one may.
    fn here(&self, absent: Absent) -> Absent {
        if self.is_frozen() { Absent::Moved } else { absent }
    }

    async fn found_lease(
        self: &Arc<Self>,
        caller: &Caller,
        session: Option<&Arc<Session>>,
        era: Era,
    ) -> Result<Lease, Absent> {
        let mut key = Key::of(caller, self.spec.mode, era);
        let mut place = None;
        if self.spec.mode == Mode::Exclusive {
            let taken = self.place(&key).await?;
            key = key.at_place(taken.number);
            place = Some(taken);
        }
        loop {
            let slot = self.slot(&key, caller, session)?;
            place.as_ref().inspect(|place| slot.seat.take(place));
            if let Some(session) = session {
                self.attach(&slot, session)?;
            }
            match slot.ready().await {
                Ok(instance) => return Ok(Lease { instance, slot, place }),
                // It ended for its idleness while this caller waited: another takes its place.
                Err(Absent::Stopped(_)) if self.available().is_ok() => {}
                Err(absent) => return Err(absent),
            }
        }
    }

    /// The client took back request `client_id` of its session, in whichever process it runs.
    pub fn cancel(&self, session: &Arc<Session>, client_id: &[u8], reason: &str) {
        self.cancel_orphan(session, client_id, reason);
        for slot in self.all_slots() {
            // Also where it serves no new calls any more and only finishes those that it has.
            if let Some(instance) = slot.serving() {
                instance.cancel(session, client_id, reason);
            }
        }
    }

    /// The most verbose level that a session of the caller's process wants, after `level` was set by one of them.
    pub fn effective_level(lease: &Lease, level: Level) -> Level {
        lease.slot.context.sessions().iter().filter_map(|s| s.level()).min().map_or(level, |least| least.min(level))
    }

    fn available(&self) -> Result<(), Absent> {
        if self.spec.enabled && !self.retired.is_cancelled() {
            return Ok(());
        }
        Err(Absent::Stopped(self.spec.name.clone()))
    }

    /// A place in the pool of `key`, for as long as it is held.
    async fn place(&self, key: &Key) -> Result<Place, Absent> {
        let limits = &self.settings().limits;
        let pool = self.pool(key);
        let taken = tokio::time::timeout(limits.ready_wait, pool.take());
        match self.retired.run_until_cancelled(taken).await {
            Some(Ok(Some(place))) => Ok(place),
            Some(_) => {
                let (server, limit) = (self.spec.name.clone(), limits.pool);
                Err(Absent::Full { server, limit, bound: Bound::Principal })
            }
            None => Err(Absent::Stopped(self.spec.name.clone())),
        }
    }

    /// Ties a session to a slot. One that has ended meanwhile must not be tied: nobody would untie it.
    pub(crate) fn attach(&self, slot: &Arc<Slot>, session: &Arc<Session>) -> Result<(), Absent> {
        slot.attach(session);
        if session.ended().is_cancelled() {
            self.session_closed(session.id());
            return Err(Absent::SessionEnded);
        }
        Ok(())
    }

    fn pool(&self, key: &Key) -> Arc<Pool> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        // Keys hold what clients say about themselves: those that nobody uses must not pile up.
        if pools.len() >= 64 {
            pools.retain(|_, pool| Arc::strong_count(pool) > 1);
        }
        pools.entry(key.clone()).or_insert_with(|| Pool::new(self.settings().limits.pool)).clone()
    }

    fn slot(self: &Arc<Self>, key: &Key, caller: &Caller, session: Option<&Arc<Session>>) -> Result<Arc<Slot>, Absent> {
        let mut slots = self.slots();
        if let Some(slot) = slots.get(key) {
            return Ok(slot.clone());
        }
        // Under the lock that `retire` takes after it has said so: it finds this slot, or this sees that it is over.
        self.available()?;
        if self.is_frozen() {
            return Err(Absent::Moved);
        }
        self.room(key, &slots)?;
        self.count_slot();
        let introduction = self.introduction(key, caller, session);
        let (spare, coming) = self.take_spare(key, &introduction).unzip();
        let cold = || Arc::new(Context::new(self, self.spec.mode == Mode::Shared).of(key));
        let context = spare.as_ref().map_or_else(cold, |spare| spare.context.clone());
        let first = coming.map_or(First::Cold, First::Spare);
        let slot = Slot::start(key.clone(), introduction, context, self.clone(), first);
        slots.insert(key.clone(), slot.clone());
        drop(slots);
        self.wake(&slot);
        if let Some(spare) = spare {
            // It may ask something as soon as it has an owner.
            session.inspect(|session| slot.attach(session));
            spare.hand_over();
        }
        self.spares_give_way();
        Ok(slot)
    }

    /// What the process is told: a session's own process hears exactly what the session's client said.
    fn introduction(&self, key: &Key, caller: &Caller, session: Option<&Arc<Session>>) -> Introduction {
        let mut introduction = Introduction::as_host(key.profile.clone());
        if self.spec.mode == Mode::PerSession
            && let (Some(session), Some(client_info)) = (session, &caller.client_info)
        {
            introduction.client_info = client_info.clone();
            introduction.revision = session.revision().max(Revision::V20241105);
        }
        introduction
    }

    /// Which eras the server speaks: as pinned, as remembered, or as a probe finds. Callers at one time share one probe.
    pub(crate) async fn verdict(self: &Arc<Self>) -> Result<Verdict, Absent> {
        if let Some(known) = self.known() {
            return Ok(known.verdict);
        }
        let hosted = self.clone();
        // In a task of its own: a caller that leaves must not leave half a probe and its processes behind.
        let found = stdx::task::spawn("find the era", async move { hosted.find_verdict().await }).await;
        found.ok().flatten().unwrap_or_else(|| Err(Absent::Stopped(self.spec.name.clone())))
    }

    async fn find_verdict(self: &Arc<Self>) -> Result<Verdict, Absent> {
        let _turn = self.probing.lock().await;
        if let Some(known) = self.known() {
            return Ok(known.verdict);
        }
        let known = match self.spec.era {
            EraPin::Legacy | EraPin::Sse => self.pinned(Verdict::Legacy),
            EraPin::Modern => self.pinned(Verdict::Modern),
            EraPin::Auto => match self.remembered().await {
                Some(known) => known,
                None => self.probe().await?,
            },
        };
        let verdict = known.verdict;
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        Ok(verdict)
    }

    fn pinned(&self, verdict: Verdict) -> Known {
        Known { verdict, discovered: None, probed_at_ms: stdx::clock::unix_ms(), stored: true }
    }

    pub(crate) async fn remembered(&self) -> Option<Known> {
        let kept = self.shared.store.verdict(&self.spec.name).await.ok().flatten()?;
        let fresh = stdx::clock::unix_ms().saturating_sub(kept.probed_at_ms) < VERDICT_DAYS_MS;
        (fresh && kept.fingerprint == self.fingerprint()).then_some(Known {
            verdict: kept.verdict,
            discovered: kept.discovered.map(Arc::from),
            probed_at_ms: kept.probed_at_ms,
            stored: true,
        })
    }

    /// The verdict that an earlier probe of this server left in the store, and when that was, Unix milliseconds.
    pub async fn remembered_verdict(&self) -> Option<(Verdict, i64)> {
        self.remembered().await.map(|known| (known.verdict, known.probed_at_ms))
    }

    async fn probe(self: &Arc<Self>) -> Result<Known, Absent> {
        let hands = self.keeper().hands();
        let finding = match probe::probe(self).await {
            // An end that this daemon did not see, or a start that was not its own to make, says nothing about the server.
            _ if self.moved_since(hands) => return Err(Absent::Moved),
            Ok(finding) => finding,
            Err(reason) => {
                self.found_trouble(reason.clone());
                let retry_after = Duration::from_secs(5);
                return Err(Absent::Failing { server: self.spec.name.clone(), reason, retry_after });
            }
        };
        let known = Known {
            verdict: finding.verdict,
            discovered: finding.discovered.map(Arc::from),
            probed_at_ms: stdx::clock::unix_ms(),
            stored: false,
        };
        let word = if finding.proven { "speaks" } else { "answered no probe; taken to speak" };
        self.log.add(0, LogSource::Host, &format!("{word} {}", finding.verdict));
        if finding.proven {
            self.found(Checked::Works);
            return Ok(self.remember(known).await);
        }
        Ok(known)
    }

    /// A verdict that cannot be stored costs a probe after the next start, nothing more.
    async fn remember(&self, mut known: Known) -> Known {
        let verdict = EraVerdict {
            server: self.spec.name.clone(),
            fingerprint: self.fingerprint(),
            verdict: known.verdict,
            discovered: known.discovered.as_deref().map(str::to_owned),
            probed_at_ms: known.probed_at_ms,
        };
        match self.shared.store.put_verdict(verdict).await {
            Ok(()) => known.stored = true,
            Err(error) => tracing::warn!(server = %self.spec.name, %error, "the era verdict could not be stored"),
        }
        known
    }

    /// A process got through its handshake: a verdict that was only a guess is proven.
    pub(crate) async fn greeted(&self, instance: &Instance) {
        self.found(Checked::Works);
        let guessed = self.known().filter(|known| !known.stored && instance.era() == Era::Legacy);
        if let Some(known) = guessed {
            let known = self.remember(known).await;
            *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        }
    }

    /// The server contradicted its verdict: the next caller probes again.
    pub(crate) fn doubt_verdict(self: &Arc<Self>) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let hosted = self.clone();
        stdx::task::spawn("forget verdict", async move {
            if let Err(error) = hosted.shared.store.forget_verdict(&hosted.spec.name).await {
                tracing::warn!(server = %hosted.spec.name, %error, "the era verdict could not be forgotten");
            }
        });
    }

    /// Stops every process, now and for good.
    pub(crate) async fn retire(&self) {
        self.retired.cancel();
        let slots = self.all_slots();
        for slot in &slots {
            slot.order(Order::Stop);
        }
        for slot in slots {
            slot.ended().await;
        }
        self.probes.close();
        self.probes.wait().await;
    }

    /// Held by whoever has a throw-away process: [`Hosted::retire`] waits for it.
    pub(crate) fn at_work(&self) -> TaskTrackerToken {
        self.probes.token()
    }

    /// How long calls in flight may finish. When the host stops they had their time already.
    pub(crate) fn drain(&self) -> Duration {
        let limits = &self.settings().limits;
        if self.shared.stopping.is_cancelled() { limits.stop_grace } else { limits.drain }
    }

    /// Done when the server is stopped for good.
    pub(crate) fn retired(&self) -> &CancellationToken {
        &self.retired
    }

    /// Replaces every process, also where the next one is still waited for; how many there were.
    pub(crate) fn restart(&self) -> u32 {
        self.recheck.notify_one();
        self.renew_spares();
        let slots = self.all_slots();
        let lives = |slot: &&Arc<Slot>| matches!(slot.state(), State::Ready(_) | State::Starting);
        let living = slots.iter().filter(lives).count();
        slots.iter().for_each(|slot| slot.order(Order::Restart));
        u32::try_from(living).unwrap_or(u32::MAX)
    }

    /// The session is over: its calls and its own process too.
    pub(crate) fn session_closed(&self, session: &str) {
        self.dormant.forget(session);
        for slot in self.all_slots() {
            slot.detach(session);
            // Also where it serves no new calls any more and only finishes those that it has.
            if let Some(instance) = slot.serving() {
                instance.cancel_session(session, "the client ended its session");
            }
            if matches!(&slot.key.holder, crate::key::Holder::Session { id, .. } if id == session) {
                slot.order(Order::Stop);
            }
        }
    }

    /// The slot's task has ended.
    pub(crate) fn forget(&self, key: &Key) {
        if self.slots().remove(key).is_some() {
            self.shared.slots.fetch_sub(1, Ordering::Relaxed);
            self.spares.look();
        }
    }

    pub(crate) fn known(&self) -> Option<Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn all_slots(&self) -> Vec<Arc<Slot>> {
        self.slots().values().cloned().collect()
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    pub(crate) fn predecessor(&self) -> Option<&Arc<Predecessor>> {
        self.shared.predecessor.as_ref()
    }

    /// Whether the processes are another daemon's.
    pub(crate) fn is_frozen(&self) -> bool {
        self.shared.is_frozen()
    }

    /// Whether the processes were another daemon's at any time since they had changed hands so often.
    pub(crate) fn moved_since(&self, hands: u64) -> bool {
        self.is_frozen() || self.keeper().hands() != hands
    }

    pub(crate) fn keeper(&self) -> &Keeper {
        &self.shared.keeper
    }

    pub(crate) fn log(&self) -> &Arc<ServerLog> {
        &self.log
    }

    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Where its calls are counted; outlives its generations.
    pub fn meter(&self) -> &Arc<ServerMeter> {
        &self.counters.meter
    }

    pub(crate) fn connections(&self) -> &Connections {
        &self.shared.connections
    }

    /// What instances of a remote server tell each other.
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    pub(crate) fn learned(&self) -> &Arc<Learned> {
        &self.learned
    }

    pub(crate) fn reflexes(&self) -> &Reflexes {
        &self.reflexes
    }

    pub(crate) fn next_instance_id(&self) -> u64 {
        self.shared.instance_ids.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn fingerprint(&self) -> String {
        let digest = Sha256::digest(self.spec.launch_text().as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(crate) fn count_slot(&self) {
        self.shared.slots.fetch_add(1, Ordering::Relaxed);
    }

    /// Slots of all servers.
    pub(crate) fn slots_of_the_host(&self) -> u32 {
        self.shared.slots.load(Ordering::Relaxed)
    }

    pub(crate) fn slots(&self) -> MutexGuard<'_, HashMap<Key, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
