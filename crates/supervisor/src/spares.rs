//! Warm spares: instances that are started and greeted, and belong to nobody yet. The first caller of a new isolation key takes
//! one, if it was told exactly what that caller's own would be told: era, abilities, and in the mode `per-session` who the
//! client is. What has belonged to somebody is never a spare again.
//!
//! A spare is told what the last new key's process was told, as the next client is likely to be of the same kind. A legacy
//! one has not heard `initialized`, so that what it asks then is asked of its owner. Spares count against the bounds on
//! processes, and are the first to go where there is no room. A spare that dies counts for the restart policy as a process
//! of a slot does; the spares of a server share one history. No later daemon takes a spare over: nothing is noted of it.

use crate::check::Checked;
use crate::handshake::{self, Introduction};
use crate::hosted::Hosted;
use crate::instance::Instance;
use crate::key::{Holder, Key};
use crate::meter::Cause;
use crate::reconcile::Supervisor;
use crate::restart::History;
use crate::running::{NotStarted, Running};
use crate::slot::Context;
use crate::tree;
use model::report::{Health, InstanceReport, LogSource};
use model::{Mode, Verdict};
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use stdx::clock::monotonic;
use tokio::sync::{Notify, oneshot};
use tokio_util::task::task_tracker::TaskTrackerToken;
use wire::era::Era;

/// Between two looks at spares that end.
const STEP: Duration = Duration::from_millis(5);
/// How long a spare has to go that was killed in the end.
const LAST_STEP: Duration = Duration::from_millis(500);
/// How often a server that lacks a spare looks whether there is room for one again.
const LOOK: Duration = Duration::from_secs(5);

/// The spares of one server.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    table: Mutex<Table>,
    /// There may be something to do.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Table {
    ready: Vec<Ready>,
    /// Being started.
    starting: usize,
    /// What the last new key's process was told.
    wanted: Option<Told>,
    /// Those that ended unasked, since the last look.
    dead: Vec<Death>,
    /// How often all of them were to go: one that was being started then is not to stay.
    cleared: u64,
}

/// A spare that can be taken. Whoever drops it ends it.
#[derive(Debug)]
struct Ready {
    instance: Arc<Instance>,
    told: Told,
    claim: oneshot::Sender<oneshot::Sender<Running>>,
}

#[derive(Debug)]
struct Death {
    /// When it had become ready.
    since: Option<Instant>,
    reason: String,
    cause: Cause,
}

/// All that a process knows of its client.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    era: Era,
    one_addressee: bool,
    introduction: Introduction,
}

/// A spare that has an owner. Until it is handed over it is with the task that looks after it.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) context: Arc<Context>,
    claim: oneshot::Sender<oneshot::Sender<Running>>,
    hand: oneshot::Sender<Running>,
}

impl Taken {
    /// Has it handed over to whoever waits for it. One that has ended meanwhile never comes, and the wait ends.
    pub(crate) fn hand_over(self) {
        // Without its task it is dead: `hand` comes back and ends the wait.
        drop(self.claim.send(self.hand));
    }
}

impl Told {
    fn by(key: &Key, introduction: &Introduction) -> Self {
        let one_addressee = matches!(key.holder, Holder::Session { .. } | Holder::Pool { .. });
        Self { era: key.era, one_addressee, introduction: introduction.clone() }
    }

    /// Before anybody came.
    fn nothing(mode: Mode, verdict: Verdict) -> Self {
        let era = if verdict == Verdict::Legacy { Era::Legacy } else { Era::Modern };
        let one_addressee = matches!(mode, Mode::PerSession | Mode::Exclusive);
        Self { era, one_addressee, introduction: Introduction::as_host(crate::key::NOTHING) }
    }
}

impl Table {
    fn count(&self) -> usize {
        self.ready.len() + self.starting
    }
}

impl Spares {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that can be taken now.
    pub(crate) fn instances(&self) -> Vec<Arc<Instance>> {
        self.table().ready.iter().map(|spare| spare.instance.clone()).collect()
    }

    /// There may be something to do: room, or a server that was seen to work.
    pub(crate) fn look(&self) {
        self.changed.notify_one();
    }
}

impl Hosted {
    fn spares_wanted(&self) -> usize {
        self.spec().spares() as usize
    }

    /// Keeps them until the server is retired.
    pub(crate) fn keep_spares(self: &Arc<Self>) {
        if self.spares_wanted() > 0 {
            stdx::task::spawn("spares", make_spares(self.clone()));
        }
    }

    /// A spare that fits the first process of `key`, and where it will come from. Nobody else gets it.
    pub(crate) fn take_spare(
        &self,
        key: &Key,
        introduction: &Introduction,
    ) -> Option<(Taken, oneshot::Receiver<Running>)> {
        if self.spares_wanted() == 0 || self.is_frozen() {
            return None;
        }
        let told = Told::by(key, introduction);
        let mut table = self.spares.table();
        let found = table.ready.iter().position(|spare| spare.told == told && !spare.instance.is_stopped());
        let guessed = table.wanted.replace(told).is_none();
        let gone: Vec<Ready> = match found {
            Some(at) => vec![table.ready.remove(at)],
            // They were told what nobody was told yet.
            None if guessed => table.ready.drain(..).collect(),
            // One of those that nobody could use becomes one that the next caller can.
            None => table.ready.pop().into_iter().collect(),
        };
        gone.iter().for_each(|_| self.uncount_spare());
        drop(table);
        self.spares.look();
        found?;
        let Ready { instance, claim, .. } = gone.into_iter().next()?;
        let (hand, running) = oneshot::channel();
        Some((Taken { context: instance.context.clone(), claim, hand }, running))
    }

    /// Ends those that are too many now that there may be a slot more.
    pub(crate) fn spares_give_way(&self) {
        let (limits, slots) = (&self.settings().limits, self.slots().len());
        let mut table = self.spares.table();
        while table.count() + slots > limits.instances_per_server as usize && table.ready.pop().is_some() {
            self.uncount_spare();
        }
        let (all, slots) = (&self.shared.spares, self.slots_of_the_host());
        let fewer = |spares: u32| (spares > 0 && spares + slots > limits.instances).then(|| spares - 1);
        while !table.ready.is_empty() && all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).is_ok() {
            table.ready.pop();
        }
        if fewer(all.load(Ordering::Relaxed)).is_some() {
            self.shared.crowded.notify_waiters();
        }
    }

    /// Ends them all; others take their places.
    pub(crate) fn renew_spares(&self) {
        let mut table = self.spares.table();
        table.cleared += 1;
        while table.ready.pop().is_some() {
            self.uncount_spare();
        }
        drop(table);
        self.spares.look();
    }

    /// It can no longer be taken.
    fn withdraw_spare(&self, id: u64) {
        let mut table = self.spares.table();
        let before = table.ready.len();
        table.ready.retain(|spare| spare.instance.id != id);
        if table.ready.len() < before {
            self.uncount_spare();
        }
    }

    fn uncount_spare(&self) {
        self.shared.spares.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a spare that is about to be started, if one is wanted and there is room for it.
    fn reserve_spare(&self) -> bool {
        if self.shared.spares_go.load(Ordering::Relaxed)
            || self.is_frozen()
            || !matches!(self.checked(), Checked::Works)
        {
            return false;
        }
        let (limits, slots) = (&self.settings().limits, self.slots().len());
        let mut table = self.spares.table();
        let own = table.count();
        if own >= self.spares_wanted() || own + slots >= limits.instances_per_server as usize {
            return false;
        }
        let slots = self.slots_of_the_host();
        let more = |spares: u32| (spares + slots < limits.instances).then(|| spares + 1);
        let room = self.shared.spares.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        table.starting += usize::from(room);
        room
    }

    /// Starts one, which was counted, and greets it.
    async fn start_spare(self: &Arc<Self>) -> Result<(), Death> {
        let at_work = self.at_work();
        let (told, cleared) = {
            let table = self.spares.table();
            (table.wanted.clone(), table.cleared)
        };
        let verdict = || self.known().map_or(Verdict::Legacy, |known| known.verdict);
        let told = told.unwrap_or_else(|| Told::nothing(self.spec().mode, verdict()));
        let started = self.greeted_spare(&told).await;
        let (claim, claimed) = oneshot::channel();
        let mut table = self.spares.table();
        table.starting -= 1;
        let running = started.inspect_err(|_| self.uncount_spare())?;
        if table.cleared == cleared {
            table.ready.push(Ready { instance: running.instance.clone(), told, claim });
        } else {
            // Dropping the claim ends it.
            self.uncount_spare();
        }
        drop(table);
        stdx::task::spawn("spare", look_after(self.clone(), running, claimed, at_work));
        Ok(())
    }

    async fn greeted_spare(&self, told: &Told) -> Result<Running, Death> {
        let context = Context::new(self, false).told(told.introduction.profile.clone(), told.one_addressee);
        let died = |reason: String, cause| Death { since: None, reason, cause };
        let started = Running::start(self, told.era, &Arc::new(context)).await;
        let mut running = started.map_err(|NotStarted { reason, cause }| died(reason, cause))?;
        let (instance, limit) = (running.instance.clone(), self.settings().limits.start_timeout);
        let reason = tokio::select! {
            met = tokio::time::timeout(limit, handshake::meet(&instance, &told.introduction)) => match met {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(running.said(&error)),
                Err(_elapsed) => Some(format!("it did not answer the handshake within {} s", limit.as_secs())),
            },
            end = running.ended() => Some(end),
            () = self.retired().cancelled() => Some("the server is stopped".to_owned()),
        };
        let Some(reason) = reason else { return Ok(running) };
        let cause = running.cause();
        let report = running.stop(&reason).await;
        Err(died(report.to_string(), cause))
    }

    /// As operators see them.
    pub(crate) fn spare_reports(&self) -> Vec<InstanceReport> {
        let report = |instance: Arc<Instance>| {
            let usage = instance.pid.map(tree::usage).unwrap_or_default();
            InstanceReport {
                server: self.spec().name.clone(),
                id: instance.id,
                pid: instance.pid,
                era: if instance.era() == Era::Modern { "modern" } else { "legacy" }.to_owned(),
                key: "nobody (spare)".to_owned(),
                health: Health::Ready,
                reason: None,
                started_at_ms: Some(instance.started_at_ms),
                in_flight: 0,
                sessions: 0,
                resident_bytes: usage.resident_bytes,
                memory_limit: instance.context.bounds.memory,
                processes: usage.processes,
                processes_limit: instance.context.bounds.processes,
                restarts: 0,
            }
        };
        self.spares.instances().into_iter().map(report).collect()
    }
}

impl Supervisor {
    /// Ends all spares in order and starts no other: nobody would take them over. Waits for them, but not for ever.
    pub async fn end_spares(&self) {
        let shared = self.shared();
        shared.spares_go.store(true, Ordering::Relaxed);
        let all = self.all_hosted();
        let mut ids: HashSet<u64> = all.iter().flat_map(|hosted| hosted.spares.instances()).map(|one| one.id).collect();
        all.iter().for_each(|hosted| hosted.renew_spares());
        let (mut waited, patience) = (Duration::ZERO, shared.settings.limits.stop_grace * 2 + LAST_STEP);
        while waited < patience {
            let known = shared.keeper.waited_for();
            ids.retain(|id| known.contains(id));
            if ids.is_empty() && all.iter().all(|hosted| hosted.spares.table().starting == 0) {
                return;
            }
            tokio::time::sleep(STEP).await;
            waited += STEP;
        }
    }

    /// This daemon stays after all.
    pub(crate) fn keep_spares(&self) {
        self.shared().spares_go.store(false, Ordering::Relaxed);
        self.all_hosted().iter().for_each(|hosted| hosted.spares.look());
    }
}

/// Starts one spare after another while some are missing, until the server is retired.
async fn make_spares(hosted: Arc<Hosted>) {
    let mut history = History::default();
    let mut next = monotonic();
    while !hosted.retired().is_cancelled() {
        hosted.spares_give_way();
        let dead = std::mem::take(&mut hosted.spares.table().dead);
        for death in dead {
            next = bury(&hosted, &mut history, &death);
        }
        let now = monotonic();
        if next <= now && hosted.reserve_spare() {
            if let Err(death) = hosted.start_spare().await
                && !hosted.retired().is_cancelled()
            {
                next = bury(&hosted, &mut history, &death);
            }
            continue;
        }
        let wait = if next > now { next - now } else { LOOK };
        tokio::select! {
            () = hosted.retired().cancelled() => {}
            () = hosted.spares.changed.notified() => {}
            () = hosted.shared.crowded.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// When the next one may be started.
fn bury(hosted: &Hosted, history: &mut History, death: &Death) -> Instant {
    let now = monotonic();
    let after = match death.cause {
        Cause::Keeper => History::innocent(),
        _ => history.died(now, death.since, stdx::random::fraction()),
    };
    let note = format!("a spare: {}; the next one starts in {} ms", death.reason, after.delay.as_millis());
    hosted.log().add(0, LogSource::Host, &note);
    now + after.delay
}

/// A spare's task: until it has an owner, or ends.
async fn look_after(
    hosted: Arc<Hosted>,
    mut running: Running,
    mut claimed: oneshot::Receiver<oneshot::Sender<Running>>,
    _at_work: TaskTrackerToken,
) {
    let (id, since, watched) = (running.instance.id, monotonic(), running.instance.clone());
    let reason = tokio::select! {
        biased;
        reason = running.ended() => Some(reason),
        hand = &mut claimed => match hand {
            Ok(hand) => match hand.send(running) {
                Ok(()) => return,
                // Whoever wanted it is gone.
                Err(back) => return drop(back.stop_as_asked().await),
            },
            // There is no room for it, or no use.
            Err(_dropped) => return drop(running.stop_as_asked().await),
        },
        () = hosted.retired().cancelled() => None,
        () = stopped(&watched) => Some("it was stopped by a signal".to_owned()),
    };
    hosted.withdraw_spare(id);
    // Whoever has just taken it begins without it.
    drop(claimed);
    let Some(reason) = reason else { return drop(running.stop_as_asked().await) };
    let cause = if watched.is_stopped() { Cause::Wedged } else { running.cause() };
    let report = running.stop(&reason).await;
    hosted.spares.table().dead.push(Death { since: Some(since), reason: report.to_string(), cause });
    hosted.spares.look();
}

/// Ends when the process was stopped by a signal, at two looks in a row: it is of no use to whoever would take it.
async fn stopped(instance: &Instance) {
    let mut before = false;
    loop {
        tokio::time::sleep(LOOK).await;
        let now = instance.is_stopped();
        if before && now {
            return;
        }
        before = now;
    }
}
