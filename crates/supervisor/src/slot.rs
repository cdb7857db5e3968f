//! One isolation key's place: a task that keeps a process alive in it, and the state that callers wait for.

use crate::absent::Absent;
use crate::attribution::Learned;
use crate::guest::Room;
use crate::handover::Predecessor;
use crate::handshake::{self, Introduction};
use crate::hosted::Hosted;
use crate::instance::Instance;
use crate::key::{Holder, Key};
use crate::life::Scribe;
use crate::living::Living;
use crate::log::ServerLog;
use crate::mailbox::ExitReport;
use crate::meter::{Cause, ServerMeter};
use crate::orders::{Order, Orders};
use crate::orphans::Orphans;
use crate::pool::Seat;
use crate::restart::{HEALTHY, History, Next, Standing};
use crate::running::{NotStarted, Running};
use crate::session::Session;
use crate::settings::Limits;
use crate::shared::Shared;
use crate::subscriptions::Subscriptions;
use crate::trouble::Trouble;
use crate::verdict::Tally;
use crate::watchdog::{self, Wedged};
use bytes::Bytes;
use model::measure::about;
use model::report::LogSource;
use model::{Bounds, Effective, ServerName};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use stdx::clock::monotonic;
use tokio::sync::{oneshot, watch};
use wire::era::Era;

/// What every process of a slot shares, one after another.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) server: ServerName,
    /// What its processes are started as; 0 where only an earlier daemon needs it.
    pub(crate) generation: u64,
    /// The next request id: one series for all processes of the host, and another one for each daemon.
    pub(crate) request_ids: Arc<AtomicU64>,
    /// Calls of an earlier daemon.
    pub(crate) orphans: Arc<Orphans>,
    pub(crate) limits: Limits,
    pub(crate) bounds: Effective,
    pub(crate) log: Arc<ServerLog>,
    pub(crate) counters: Arc<Counters>,
    /// One process for everybody: nothing in it may be attributed to one caller.
    pub(crate) shared: bool,
    /// What its processes are told that the client can do; canonical.
    pub(crate) profile: Bytes,
    /// Whatever its process asks has one addressee: it is one session's, or has one call at a time.
    pub(crate) one_addressee: bool,
    /// Which of the server's tools ask.
    pub(crate) learned: Arc<Learned>,
    /// What its clients want to hear about.
    pub(crate) subscriptions: Subscriptions,
    /// The daemon before this one, while it finishes its calls.
    pub(crate) predecessor: Option<Arc<Predecessor>>,
    /// Only that one has calls at its process.
    pub(crate) guest: bool,
    pub(crate) living: Arc<Living>,
    pub(crate) scribe: Option<Scribe>,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
}

/// A server's counts since the daemon started.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) calls: AtomicU64,
    pub(crate) restarts: AtomicU64,
    pub(crate) junk: AtomicU64,
    pub(crate) meter: Arc<ServerMeter>,
    pub(crate) verdicts: Tally,
}

impl Context {
    pub(crate) fn new(hosted: &Hosted, shared: bool) -> Self {
        Self {
            server: hosted.spec().name.clone(),
            generation: hosted.spec().generation,
            request_ids: hosted.shared.request_ids.clone(),
            orphans: hosted.shared.orphans.clone(),
            limits: hosted.settings().limits.clone(),
            bounds: hosted.spec().bounds.effective(&hosted.settings().limits.instance),
            log: hosted.log().clone(),
            counters: hosted.counters().clone(),
            shared,
            profile: Bytes::from_static(b"{}"),
            one_addressee: true,
            learned: hosted.learned().clone(),
            subscriptions: Subscriptions::default(),
            predecessor: hosted.predecessor().cloned(),
            guest: false,
            living: hosted.shared.living.clone(),
            scribe: hosted.settings().scribe.clone(),
            sessions: Mutex::default(),
        }
    }

    /// Of a process that only the old daemon needs.
    pub(crate) fn of_guest(shared: &Shared, room: Room) -> Self {
        Self {
            server: room.server,
            generation: 0,
            request_ids: shared.request_ids.clone(),
            orphans: shared.orphans.clone(),
            limits: shared.settings.limits.clone(),
            bounds: Bounds::default().effective(&shared.settings.limits.instance),
            log: room.log,
            counters: room.counters,
            shared: false,
            profile: Bytes::from_static(b"{}"),
            one_addressee: true,
            learned: Arc::default(),
            subscriptions: Subscriptions::default(),
            predecessor: shared.predecessor.clone(),
            guest: true,
            living: shared.living.clone(),
            scribe: shared.settings.scribe.clone(),
            sessions: Mutex::default(),
        }
    }

    /// The same for the processes of one isolation key.
    pub(crate) fn of(self, key: &Key) -> Self {
        let one_addressee = matches!(key.holder, Holder::Session { .. } | Holder::Pool { .. });
        self.told(key.profile.clone(), one_addressee)
    }

    /// The same for processes that are told `profile`.
    pub(crate) fn told(self, profile: Bytes, one_addressee: bool) -> Self {
        Self { profile, one_addressee, ..self }
    }

    /// The sessions that lean on this slot, oldest first.
    pub(crate) fn sessions(&self) -> Vec<Arc<Session>> {
        self.attached().values().cloned().collect()
    }

    /// Whether it is new here.
    pub(crate) fn attach(&self, session: &Arc<Session>) -> bool {
        let mut attached = self.attached();
        let new = !attached.contains_key(session.id());
        if new {
            attached.insert(session.id().to_owned(), session.clone());
        }
        new
    }

    /// The session, if it was here.
    pub(crate) fn detach(&self, session: &str) -> Option<Arc<Session>> {
        self.attached().remove(session)
    }

    pub(crate) fn session_count(&self) -> usize {
        self.attached().len()
    }

    fn attached(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a slot is at.
#[derive(Clone, Debug)]
pub(crate) enum State {
    Starting,
    Ready(Arc<Instance>),
    /// Died; the next start comes at `until`.
    Waiting {
        until: Instant,
        reason: String,
        /// It had to be ended, because it would never have answered.
        wedged: bool,
    },
    /// Cannot be started, or dies again and again. Callers are told at once; the next try comes at `until`.
    Failing {
        until: Instant,
        reason: String,
        standing: Standing,
    },
    Stopped,
}

/// What a slot begins with.
#[derive(Default)]
pub(crate) enum First {
    /// Nothing: it starts a process.
    #[default]
    Cold,
    /// A process that an earlier daemon left: it serves at once.
    Left(Running),
    /// A spare, which is on its way.
    Spare(oneshot::Receiver<Running>),
}

/// One isolation key's place.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) key: Key,
    pub(crate) context: Arc<Context>,
    introduction: Introduction,
    state: watch::Sender<State>,
    /// Whoever has its place in an exclusive pool.
    pub(crate) seat: Seat,
    /// The process that took calls last: it may have some still.
    serving: Mutex<Weak<Instance>>,
    orders: Orders,
    /// It was told to end for good.
    leaves: AtomicBool,
    last_used_ms: AtomicI64,
    pub(crate) restarts: AtomicU64,
}

impl Slot {
    /// Makes a slot and starts its task.
    pub(crate) fn start(
        key: Key,
        introduction: Introduction,
        context: Arc<Context>,
        hosted: Arc<Hosted>,
        first: First,
    ) -> Arc<Self> {
        let slot = Arc::new(Self {
            key,
            context,
            introduction,
            state: watch::Sender::new(State::Starting),
            seat: Seat::default(),
            serving: Mutex::default(),
            orders: Orders::default(),
            leaves: AtomicBool::new(false),
            last_used_ms: AtomicI64::new(stdx::clock::unix_ms()),
            restarts: AtomicU64::new(0),
        });
        if let First::Left(first) = &first {
            slot.serve(&first.instance);
        }
        stdx::task::spawn("slot", run(slot.clone(), hosted, first));
        slot
    }

    /// The process, if it can take calls now.
    pub(crate) fn ready_now(&self) -> Option<Arc<Instance>> {
        self.touch();
        match &*self.state.borrow() {
            State::Ready(instance) => Some(instance.clone()),
            State::Starting | State::Waiting { .. } | State::Failing { .. } | State::Stopped => None,
        }
    }

    /// The process, once it can take calls. Waits for a start or a restart, not for a crash loop to end.
    pub(crate) async fn ready(&self) -> Result<Arc<Instance>, Absent> {
        if let Some(instance) = self.ready_now() {
            return Ok(instance);
        }
        let wait = self.context.limits.ready_wait;
        let mut states = self.state.subscribe();
        let settled =
            tokio::time::timeout(wait, states.wait_for(|s| !matches!(s, State::Starting | State::Waiting { .. })));
        let server = self.context.server.clone();
        match settled.await {
            Err(_elapsed) => Err(Absent::Slow { server, waited: wait }),
            Ok(Err(_closed)) => Err(Absent::Stopped(server)),
            Ok(Ok(state)) => match &*state {
                State::Ready(instance) => Ok(instance.clone()),
                State::Failing { until, reason, .. } => {
                    let retry_after = until.saturating_duration_since(monotonic());
                    Err(Absent::Failing { server, reason: reason.clone(), retry_after })
                }
                State::Starting | State::Waiting { .. } | State::Stopped => Err(Absent::Stopped(server)),
            },
        }
    }

    /// The number of the process that takes calls.
    pub(crate) fn ready_id(&self) -> Option<u64> {
        match &*self.state.borrow() {
            State::Ready(instance) => Some(instance.id),
            State::Starting | State::Waiting { .. } | State::Failing { .. } | State::Stopped => None,
        }
    }

    /// Whether it is a place of an exclusive pool that somebody has. The pool of another daemon knows nothing of it.
    pub(crate) fn is_taken_place(&self) -> bool {
        self.seat.is_taken()
            || matches!(self.key.holder, Holder::Pool { .. })
                && matches!(&*self.state.borrow(), State::Ready(instance) if instance.in_flight() > 0 || instance.earlier_calls() > 0)
    }

    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Whether a process is on its way to being ready. While the one before it finishes its calls, none is.
    pub(crate) fn is_starting(&self) -> bool {
        matches!(&*self.state.borrow(), State::Starting) && self.serving().is_none()
    }

    /// Tells the task. Whoever comes from now on waits for the next process: nobody who was told of a restart meets the old.
    pub(crate) fn order(&self, order: Order) {
        self.state.send_if_modified(|state| {
            let serving = matches!(state, State::Ready(_));
            if serving {
                *state = State::Starting;
            }
            serving
        });
        if order == Order::Stop {
            self.leaves.store(true, Ordering::Relaxed);
        }
        self.orders.give(order);
    }

    /// Whether it was told to end for good: no process will be started in it.
    pub(crate) fn leaves(&self) -> bool {
        self.leaves.load(Ordering::Relaxed)
    }

    /// Notes an end that nobody asked for, and what follows from it. `started` where it had become ready before.
    fn died(&self, next: Next, started: bool, reason: String, cause: Cause, deaths: u32) {
        let wedged = cause == Cause::Wedged;
        let counters = &self.context.counters;
        self.restarts.fetch_add(1, Ordering::Relaxed);
        counters.restarts.fetch_add(1, Ordering::Relaxed);
        counters.verdicts.ended(started, wedged, next.standing);
        counters.meter.restarted(cause);
        let reason = match next.standing {
            Standing::Restarting | Standing::Failing | Standing::CrashLooping => reason,
            Standing::Quarantined => {
                let life = HEALTHY.as_secs();
                format!("it died {deaths} times without living for {life} s, the last time so: {reason}")
            }
        };
        let note = format!("{reason}; next start in {}", about(next.delay));
        self.context.log.add(0, LogSource::Host, &note);
        let until = monotonic() + next.delay;
        self.set(match next.standing {
            Standing::Restarting => State::Waiting { until, reason, wedged },
            standing => State::Failing { until, reason, standing },
        });
    }

    /// Waits until callers no longer get `instance`, which has ended, but not for ever.
    pub(crate) async fn left_behind(&self, instance: &Arc<Instance>) {
        let mut states = self.state.subscribe();
        let elsewhere = states.wait_for(|s| !matches!(s, State::Ready(ready) if Arc::ptr_eq(ready, instance)));
        let _ = tokio::time::timeout(Duration::from_secs(1), elsewhere).await;
    }

    /// Waits until the slot has ended.
    pub(crate) async fn ended(&self) {
        let _ = self.state.subscribe().wait_for(|s| matches!(s, State::Stopped)).await;
    }

    pub(crate) fn touch(&self) {
        self.last_used_ms.store(stdx::clock::unix_ms(), Ordering::Relaxed);
    }

    /// Without anything that needs the process since at least `ttl`. A session needs it while it is read from, and with
    /// `sessions_keep` as long as it is open.
    pub(crate) fn idle_for(&self, ttl: Duration, sessions_keep: bool) -> bool {
        let busy = match &*self.state.borrow() {
            State::Ready(instance) => instance.busy(),
            State::Starting => true,
            // It stays for the operator to see, and gives way to a slot that is needed.
            State::Failing { standing: Standing::Quarantined, .. } => !ttl.is_zero(),
            State::Waiting { .. } | State::Failing { .. } | State::Stopped => false,
        };
        let needed = || match sessions_keep {
            true => self.context.session_count() > 0,
            false => self.context.sessions().iter().any(|session| session.is_read()),
        };
        !busy && self.idle_time() >= ttl && !self.context.subscriptions.pinned() && !needed()
    }

    /// Since the last call.
    pub(crate) fn idle_time(&self) -> Duration {
        let idle_ms = stdx::clock::unix_ms().saturating_sub(self.last_used_ms.load(Ordering::Relaxed));
        Duration::from_millis(u64::try_from(idle_ms).unwrap_or_default())
    }

    /// The process that has calls or may get some, also while it only finishes them.
    pub(crate) fn serving(&self) -> Option<Arc<Instance>> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    fn serve(&self, instance: &Arc<Instance>) {
        *self.serving.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(instance);
        self.set(State::Ready(instance.clone()));
    }

    fn set(&self, state: State) {
        self.state.send_replace(state);
    }
}

/// How one process's life in the slot ended.
enum End {
    Ordered(Order),
    /// Unasked. `since` is when it had become ready.
    Died {
        since: Option<Instant>,
        reason: String,
        cause: Cause,
    },
}

/// The slot's task: one life after another until it is told to stop.
async fn run(slot: Arc<Slot>, hosted: Arc<Hosted>, mut first: First) {
    let mut history = History::default();
    let trouble = Trouble::default();
    loop {
        match live(&slot, &hosted, std::mem::take(&mut first), &trouble).await {
            End::Ordered(Order::Stop) => break,
            End::Ordered(Order::Restart) => {
                slot.context.counters.meter.restarted(Cause::Asked);
                history = History::default();
                trouble.ends(&slot.context, "an operator asked for a restart").await;
            }
            // Whatever it was, it was not this daemon's to mend, and may not be true.
            End::Died { reason, .. } if hosted.is_frozen() => {
                slot.set(State::Waiting { until: monotonic(), reason, wedged: false });
                tokio::select! {
                    () = hosted.keeper().ours() => {}
                    order = slot.orders.next() => if order == Order::Stop {
                        break;
                    },
                }
            }
            End::Died { since, reason, cause } => {
                let next = match cause {
                    Cause::Keeper => History::innocent(),
                    _ => history.died(monotonic(), since, stdx::random::fraction()),
                };
                slot.died(next, since.is_some(), reason, cause, history.deaths());
                trouble.follows(&slot.context, next.standing, history.deaths()).await;
                match tokio::time::timeout(next.delay, slot.orders.next()).await {
                    Ok(Order::Stop) => break,
                    // An operator knows better: whatever it was, it counts no more.
                    Ok(Order::Restart) => {
                        history = History::default();
                        trouble.ends(&slot.context, "an operator asked for a restart").await;
                    }
                    Err(_elapsed) => {}
                }
            }
        }
    }
    // In this order: who is told that the slot has ended must not find it again.
    hosted.forget(&slot.key);
    slot.set(State::Stopped);
    let (server, status) = (slot.context.server.clone(), "the server is stopped".to_owned());
    let (last_stderr, asked, reached, unheard, by_host, unsent) = (None, true, true, false, false, false);
    let report = ExitReport { server, status, last_stderr, asked, reached, unheard, by_host, unsent };
    slot.context.subscriptions.end(&report);
}

/// One process from its start to its end. Nothing of it is left when this returns.
async fn live(slot: &Arc<Slot>, hosted: &Arc<Hosted>, first: First, trouble: &Trouble) -> End {
    let warm = match first {
        First::Cold => None,
        First::Left(running) => Some(running),
        First::Spare(coming) => taken(slot, hosted, coming).await,
    };
    let mut running = match warm {
        Some(running) => running,
        None => match begin(slot, hosted).await {
            Ok(running) => running,
            Err(end) => return end,
        },
    };
    let instance = running.instance.clone();
    let since = monotonic();
    hosted.greeted(&running.instance).await;
    slot.serve(&running.instance);
    slot.renew(&running.instance);
    // A modern server serves clients of both eras, and needs it for either.
    if slot.key.era == Era::Modern {
        running.instance.want_tools();
    }
    tokio::select! {
        never = trouble.heals(&slot.context) => match never {},
        reason = running.ended() => {
            slot.set(State::Waiting { until: monotonic(), reason: reason.clone(), wedged: false });
            let cause = running.cause();
            let report = running.stop(&reason).await;
            End::Died { since: Some(since), reason: report.to_string(), cause }
        }
        wedged = judged(&instance, hosted) => {
            let reason = wedged.to_string();
            slot.context.judged(Some(instance.id), "wedged", Some(reason.clone())).await;
            slot.set(State::Waiting { until: monotonic(), reason: reason.clone(), wedged: true });
            let report = running.stop_wedged(&reason).await;
            End::Died { since: Some(since), reason: report.to_string(), cause: Cause::Wedged }
        }
        order = slot.orders.next() => {
            slot.set(State::Starting);
            running.drain(hosted.drain()).await;
            running.stop_as_asked().await;
            End::Ordered(order)
        }
    }
}

/// Why the process must be replaced, as soon as it must. One that another daemon has now is not ours to judge.
async fn judged(instance: &Arc<Instance>, hosted: &Hosted) -> Wedged {
    let limits = &instance.context.limits;
    let longest = || hosted.spec().watch.longest(limits.inherited_calls, limits.inherited_calls_max);
    let inherited = instance.taken_over.map(|since| since + longest());
    let wedged = watchdog::watch(instance, hosted, inherited).await;
    if hosted.is_frozen() {
        std::future::pending::<()>().await;
    }
    wedged
}

/// The spare that is on its way, if it still lives when it comes.
async fn taken(slot: &Slot, hosted: &Hosted, coming: oneshot::Receiver<Running>) -> Option<Running> {
    let running = coming.await.ok()?;
    let instance = running.instance.clone();
    let settled = tokio::time::timeout(slot.context.limits.start_timeout, handshake::settle(&instance)).await;
    if !matches!(settled, Ok(Ok(()))) {
        running.stop("it ended as a spare").await;
        return None;
    }
    slot.context.log.add(instance.id, LogSource::Host, "was a spare; has an owner now");
    running.write_down(hosted.spec().generation, &slot.key, &slot.introduction);
    Some(running)
}

/// A process that got through its handshake.
async fn begin(slot: &Arc<Slot>, hosted: &Arc<Hosted>) -> Result<Running, End> {
    // The daemon that took over starts another where one is needed.
    if hosted.is_frozen() {
        return Err(End::Ordered(Order::Stop));
    }
    slot.set(State::Starting);
    let started = Running::start(hosted, slot.key.era, &slot.context).await;
    let mut running = started.map_err(|NotStarted { reason, cause }| End::Died { since: None, reason, cause })?;
    let limit = slot.context.limits.start_timeout;
    let instance = running.instance.clone();
    let greeting = tokio::time::timeout(limit, handshake::greet(&instance, &slot.introduction));
    let greeted = tokio::select! {
        greeted = greeting => match greeted {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(running.explain(&error, hosted).await),
            Err(_elapsed) => Err(format!("it did not answer the handshake within {} s", limit.as_secs())),
        },
        end = running.ended() => Err(end),
        order = slot.orders.next() => {
            running.stop_as_asked().await;
            return Err(End::Ordered(order));
        }
    };
    if let Err(reason) = greeted {
        let cause = running.cause();
        let report = running.stop(&reason).await;
        return Err(End::Died {
            since: None,
            reason: format!("could not be started: {}", first_words(&reason, &report)),
            cause,
        });
    }
    running.write_down(hosted.spec().generation, &slot.key, &slot.introduction);
    Ok(running)
}

/// The reason with the last words of the process, said once.
fn first_words(reason: &str, report: &ExitReport) -> String {
    match &report.last_stderr {
        Some(line) if !reason.contains(line.as_str()) => format!("{reason}; its last words: {line}"),
        _ => reason.to_owned(),
    }
}
