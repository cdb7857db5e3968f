//! One living process: what waits for its answers, and how lines reach it. Its stdout is read by one task, [`read`].

use crate::absorb::Absorbed;
use crate::attribution::{Attribution, Subject, Turn, Turns};
use crate::catalogue::Tools;
use crate::last_words::LastWords;
use crate::level::Level;
use crate::mailbox::{ExitReport, Item, Mailbox};
use crate::outlet::Outlet;
use crate::pause::Pause;
use crate::pipe::WriteError;
use crate::session::Session;
use crate::slot::Context;
use crate::tree;
use crate::verdict::Open;
use crate::waiting::{Stage, Waiting};
use crate::watchdog::Pulse;
use bytes::Bytes;
use model::report::LogSource;
use model::{Blame, ServerName};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use wire::era::Era;
use wire::greeting::Greeting;
use wire::message::Message;
use wire::{bridge, code};

/// A call could not be handed to the server. It did not reach it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stalled {
    /// Its input queue is full.
    #[error("the server {server} does not read its input; {queued} bytes wait for it already")]
    Full { server: ServerName, queued: usize },
    /// It ended meanwhile: another instance can take the call.
    #[error("the server {0} ended before the call reached it")]
    Ended(ServerName),
}

impl Stalled {
    /// Who has to act.
    pub fn blame(&self) -> Blame {
        Blame::Server
    }
}

/// Which log messages of the server a call wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// None (E193).
    Nothing,
    /// These and graver ones.
    AtLeast(Level),
    /// Whatever the server sends.
    Everything,
}

impl Wish {
    pub(crate) fn wants(self, level: Option<Level>) -> bool {
        match (self, level) {
            (Self::Nothing, _) => false,
            (Self::Everything, _) | (Self::AtLeast(_), None) => true,
            (Self::AtLeast(least), Some(level)) => level >= least,
        }
    }
}

/// What a call has when it is sent.
#[derive(Debug, Default)]
pub struct Terms {
    /// The turn of its process, where it needs that.
    pub turn: Option<Turn>,
    /// The server's time to answer; the watchdog judges by it. A subscription has none.
    pub time: Option<Duration>,
}

/// One process of a server, spoken to in one era for all its life.
#[derive(Debug)]
pub struct Instance {
    pub(crate) id: u64,
    /// Its process. A remote server has none here.
    pub(crate) pid: Option<u32>,
    pub(crate) era: Era,
    pub(crate) started_at_ms: i64,
    /// Since when it is ours, where an earlier daemon started it: it may be at work for callers that we do not know.
    pub(crate) taken_over: Option<Instant>,
    pub(crate) context: Arc<Context>,
    outlet: Outlet,
    calls: Mutex<Calls>,
    greeting: OnceLock<Greeting>,
    last_words: Mutex<LastWords>,
    level: tokio::sync::Mutex<Option<Level>>,
    pub(crate) tools: Tools,
    pub(crate) absorbed: Absorbed,
    /// One turn for the calls whose tools ask.
    pub(crate) turns: Turns,
    pub(crate) pulse: Pulse,
    /// Stops the reader of its stdout.
    pub(crate) pause: Pause,
}

#[derive(Debug, Default)]
pub(crate) struct Calls {
    pub(crate) waiting: HashMap<u64, Waiting>,
    ended: Option<ExitReport>,
}

/// A request of ours was not answered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unanswered {
    /// It was not sent.
    #[error(transparent)]
    Stalled(#[from] Stalled),
    /// The process ended.
    #[error("{0}")]
    Gone(ExitReport),
    /// What came is no answer.
    #[error("{0}")]
    Garbled(String),
    /// Nothing came in time.
    #[error("the server {server} did not answer within {} s; it was told to stop", after.as_secs())]
    Slow { server: ServerName, after: Duration },
}

impl Unanswered {
    /// Who has to act.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Gone(report) => report.blame(),
            Self::Stalled(stalled) => stalled.blame(),
            Self::Garbled(_) | Self::Slow { .. } => Blame::Server,
        }
    }
}

impl Instance {
    /// Around a process that was just started, or a link that was just made ready.
    pub(crate) fn new(id: u64, pid: Option<u32>, era: Era, outlet: Outlet, context: Arc<Context>) -> Self {
        Self {
            id,
            pid,
            era,
            started_at_ms: stdx::clock::unix_ms(),
            taken_over: None,
            outlet,
            context,
            calls: Mutex::default(),
            greeting: OnceLock::new(),
            last_words: Mutex::default(),
            level: tokio::sync::Mutex::new(None),
            tools: Tools::new(),
            absorbed: Absorbed::default(),
            turns: Turns::new(),
            pulse: Pulse::new(),
            pause: Pause::new(),
        }
    }

    /// It was started by an earlier daemon.
    pub(crate) fn taken_over(&mut self, started_at_ms: i64) {
        self.started_at_ms = started_at_ms;
        self.taken_over = Some(stdx::clock::monotonic());
    }

    /// Number of this process; no two that live at one time share one.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The generation that it is of.
    pub fn generation(&self) -> u64 {
        self.context.generation
    }

    /// Its process; `None` where the server is elsewhere.
    pub fn process(&self) -> Option<u32> {
        self.pid
    }

    /// Whose process it is.
    pub fn server(&self) -> &ServerName {
        &self.context.server
    }

    /// What is spoken on its pipes.
    pub fn era(&self) -> Era {
        self.era
    }

    /// What the server said about itself. An instance that was leased has always said it.
    pub fn greeting(&self) -> Option<&Greeting> {
        self.greeting.get()
    }

    /// Registers a call before it is sent. `client_id` is the request id as the client spelled it.
    pub fn begin(self: &Arc<Self>, client_id: Bytes, wish: Wish, session: Option<Arc<Session>>) -> Pending {
        self.register(client_id, wish, session, Subject::default(), (Stage::Sent, None))
    }

    /// The same for a call during which the server may ask something.
    pub fn begin_about(
        self: &Arc<Self>,
        client_id: Bytes,
        wish: Wish,
        session: Option<Arc<Session>>,
        mut subject: Subject,
        Terms { turn, time }: Terms,
    ) -> Pending {
        subject.has_turn = turn.is_some();
        Pending { turn, ..self.register(client_id, wish, session, subject, (Stage::Sent, time)) }
    }

    /// Registers a call that needs something of its client before it is sent, by [`Pending::send_reserved`]. It can be
    /// cancelled, keeps the process, and hears of its end.
    pub fn reserve(self: &Arc<Self>, client_id: Bytes, wish: Wish, session: Option<Arc<Session>>) -> Pending {
        self.register(client_id, wish, session, Subject::default(), (Stage::Reserved, None))
    }

    /// Registers a subscription. It keeps the process from idling, and holds up no stop.
    pub fn begin_lasting(self: &Arc<Self>) -> Pending {
        self.register(Bytes::new(), Wish::Nothing, None, Subject::default(), (Stage::Lasting, None))
    }

    /// One request of ours: `write` gets the line and the request's id.
    pub(crate) async fn request(
        self: &Arc<Self>,
        write: impl FnOnce(&mut Vec<u8>, u64),
        patience: Duration,
    ) -> Result<Message, Unanswered> {
        let pending = self.begin(Bytes::new(), Wish::Nothing, None);
        let mut line = Vec::new();
        write(&mut line, pending.id());
        if let Err(stalled) = pending.send(line) {
            pending.finish();
            return Err(stalled.into());
        }
        let answer = async {
            loop {
                match pending.next().await {
                    Item::Answer(message) => return Ok(message),
                    Item::Gone(report) => return Err(Unanswered::Gone(report)),
                    Item::Garbled(what) => return Err(Unanswered::Garbled(what)),
                    Item::Note(_) | Item::Ask(_) | Item::Question(_) | Item::Withdrawn(_) | Item::Cancelled => {}
                }
            }
        };
        match tokio::time::timeout(patience, answer).await {
            Ok(outcome) => {
                pending.finish();
                outcome
            }
            Err(_elapsed) => {
                pending.abandon("it took too long");
                Err(Unanswered::Slow { server: self.context.server.clone(), after: patience })
            }
        }
    }

    fn register(
        self: &Arc<Self>,
        client_id: Bytes,
        wish: Wish,
        session: Option<Arc<Session>>,
        subject: Subject,
        (stage, time): (Stage, Option<Duration>),
    ) -> Pending {
        let id = self.context.request_ids.fetch_add(1, Ordering::Relaxed);
        let mailbox = Arc::new(Mailbox::new(self.context.limits.mailbox_bytes));
        let mut calls = self.calls();
        match &calls.ended {
            Some(report) => mailbox.push(Item::Gone(report.clone())),
            None => {
                let mut waiting = Waiting::new(mailbox.clone(), wish, session, client_id, subject, stage);
                waiting.time = time;
                calls.waiting.insert(id, waiting);
            }
        }
        let crowded = calls.waiting.len() > CROWD;
        drop(calls);
        Pending { id, mailbox, instance: self.clone(), crowded, turn: None }
    }

    /// Sends a line that is no call.
    pub fn send(&self, line: Vec<u8>) -> Result<(), Stalled> {
        self.write(line, false)
    }

    fn write(&self, line: Vec<u8>, patient: bool) -> Result<(), Stalled> {
        self.outlet.send(line, patient).map_err(|error| match error {
            WriteError::Stalled { queued } => Stalled::Full { server: self.context.server.clone(), queued },
            WriteError::Closed => Stalled::Ended(self.context.server.clone()),
        })
    }

    /// The client took back the request `client_id` of its session: tells the server and the waiting call. Unknown ids
    /// are ignored (E140).
    pub fn cancel(&self, session: &Arc<Session>, client_id: &[u8], reason: &str) {
        let of_session = |w: &Waiting| w.session.as_ref().is_some_and(|s| Arc::ptr_eq(s, session));
        let found = self.take_back_all(|waiting| of_session(waiting) && waiting.client_id == client_id, reason);
        if found && !reason.is_empty() {
            self.note_reason(reason);
        }
    }

    /// Why a client took a call back, in the operator's log (E148). It is a stranger's text: short, and on one line.
    fn note_reason(&self, reason: &str) {
        let shown: String = reason.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.context.log.add(self.id, LogSource::Host, &format!("a client took a call back: {shown}"));
    }

    /// The session `id` is over, and with it all its calls (E122).
    pub(crate) fn cancel_session(&self, id: &str, reason: &str) {
        self.take_back_all(|waiting| waiting.session.as_ref().is_some_and(|session| session.id() == id), reason);
    }

    /// Whether there was one.
    fn take_back_all(&self, which: impl Fn(&Waiting) -> bool, reason: &str) -> bool {
        let mut calls = self.calls();
        let found: Vec<u64> = calls.waiting.iter().filter(|(_, waiting)| which(waiting)).map(|(id, _)| *id).collect();
        let taken = !found.is_empty();
        let mut heard_of = Vec::new();
        for id in found {
            if let Some(waiting) = calls.waiting.remove(&id) {
                waiting.mailbox.push(Item::Cancelled);
                if let Some(call) = waiting.open() {
                    self.pulse.left(call);
                }
                // Only what was sent can be cancelled (E139).
                heard_of.extend((waiting.stage != Stage::Reserved).then_some(id));
            }
        }
        drop(calls);
        for id in heard_of {
            self.take_back(id, reason);
        }
        taken
    }

    /// Tells the server that nobody waits for a request any more: by the means of tasks where it became one.
    pub(crate) fn take_back(&self, id: u64, reason: &str) {
        if !self.absorbed_cancel(id) {
            let mut line = Vec::new();
            bridge::cancel_line(&mut line, id, reason);
            let _ = self.send(line);
        }
    }

    /// Makes a legacy server send log messages of at least `level`, and waits until it has agreed (B14). A server
    /// without logging, or one that refuses, just sends none.
    pub async fn ensure_level(self: &Arc<Self>, level: Level) {
        if self.era == Era::Modern || !self.greeting().is_some_and(|g| g.has("logging")) {
            return;
        }
        let mut current = self.level.lock().await;
        if current.is_some_and(|current| current <= level) {
            return;
        }
        let pending = self.begin(Bytes::new(), Wish::Nothing, None);
        let mut line = Vec::new();
        bridge::set_level_line(&mut line, pending.id(), level.as_str());
        if pending.send(line).is_ok() {
            let _ = tokio::time::timeout(Duration::from_secs(5), pending.next()).await;
            *current = Some(level);
        }
        pending.finish();
    }

    /// A session set its own level through a request: the next `ensure_level` must not trust the old one.
    pub async fn note_level(&self, level: Level) {
        *self.level.lock().await = Some(level);
    }

    /// Whether a signal has stopped the process.
    pub(crate) fn is_stopped(&self) -> bool {
        self.pid.is_some_and(tree::is_stopped)
    }

    /// Whether calls or subscriptions need the process.
    pub(crate) fn busy(&self) -> bool {
        let waits = self.calls().waiting.values().any(|waiting| waiting.of_a_client() || waiting.lasts());
        waits || self.earlier_calls() > 0 || self.context.orphans.waits_on(self.id)
    }

    /// How many calls of clients wait.
    pub(crate) fn in_flight(&self) -> usize {
        self.calls().waiting.values().filter(|waiting| waiting.of_a_client()).count()
    }

    /// How many calls of earlier daemons wait.
    pub(crate) fn earlier_calls(&self) -> u32 {
        self.context.predecessor.as_ref().map_or(0, |predecessor| predecessor.calls(self))
    }

    /// How many calls of clients wait, those of earlier daemons with them.
    pub(crate) fn calls_now(&self) -> u32 {
        u32::try_from(self.in_flight()).unwrap_or(u32::MAX).saturating_add(self.earlier_calls())
    }

    /// The calls that the server may be at work on.
    pub(crate) fn open_calls(&self) -> Vec<Open> {
        self.calls().waiting.values().filter_map(Waiting::open).collect()
    }

    pub(crate) fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn greeted(&self, greeting: Greeting) {
        let _ = self.greeting.set(greeting);
    }

    pub(crate) fn outlet(&self) -> &Outlet {
        &self.outlet
    }

    /// Whether the call with this id still waits.
    pub(crate) fn waits_for(&self, id: u64) -> bool {
        let id = self.absorbed_call(id);
        self.calls().waiting.contains_key(&id)
    }

    /// Only this call gets no answer any more: the instance lives on. `unsent`: it did not reach the server.
    pub(crate) fn lose(&self, id: u64, why: String, unsent: bool) {
        let id = self.absorbed_call(id);
        if let Some(waiting) = self.calls().waiting.remove(&id) {
            let report = ExitReport { reached: false, unsent, ..self.report(why, false) };
            waiting.mailbox.push(Item::Gone(report));
        }
    }

    pub(crate) fn note_stderr(&self, line: &str) {
        self.last_words.lock().unwrap_or_else(PoisonError::into_inner).add(line);
    }

    pub(crate) fn report(&self, status: String, asked: bool) -> ExitReport {
        let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        let last_stderr = words.telling().map(str::to_owned);
        drop(words);
        let server = self.context.server.clone();
        let (unheard, by_host, unsent) = (false, false, false);
        ExitReport { server, status, last_stderr, asked, reached: true, unheard, by_host, unsent }
    }

    /// How it ended, for a call that did not reach it. `None` while it lives.
    pub fn unreached(&self) -> Option<ExitReport> {
        self.calls().ended.clone().map(|report| ExitReport { unsent: true, ..report })
    }

    /// Nothing will answer any more: every waiting call, and every later one, is told so.
    pub(crate) fn fail_all(&self, report: &ExitReport) {
        self.context.living.remove(self.id);
        self.outlet.close();
        self.turns.close();
        self.context.orphans.instance_is_gone(self.id);
        let mut calls = self.calls();
        calls.ended = Some(report.clone());
        for (_, waiting) in calls.waiting.drain() {
            waiting.mailbox.push(Item::Gone(report.clone()));
        }
    }
}

/// A registered call. [`Pending::finish`] or [`Pending::abandon`] ends it.
#[derive(Debug)]
pub struct Pending {
    id: u64,
    mailbox: Arc<Mailbox>,
    instance: Arc<Instance>,
    /// Many calls are on their way: this one's line may wait for theirs.
    crowded: bool,
    /// Held until the call is over.
    turn: Option<Turn>,
}

/// With more calls than this in flight, lines are written together.
const CROWD: usize = 8;

impl Pending {
    /// The id that the server sees, also as progress token.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The call is sent as a task of the server: what it answers about the task stays here, and its result is the answer.
    pub fn is_task(&self) {
        self.instance.absorb(self.id);
    }

    /// Sends the call's line.
    pub fn send(&self, line: Vec<u8>) -> Result<(), Stalled> {
        self.instance.write(line, self.crowded)
    }

    /// The server's time for the call begins anew, and is so long.
    pub fn has_time(&self, time: Option<Duration>) {
        if let Some(waiting) = self.instance.calls().waiting.get_mut(&self.id) {
            waiting.begins_anew(time);
        }
    }

    /// Sends the line of a reserved call. Does nothing to one that was cancelled meanwhile: its mailbox says so.
    pub fn send_reserved(&self, line: Vec<u8>) -> Result<(), Stalled> {
        let mut calls = self.instance.calls();
        let Some(waiting) = calls.waiting.get_mut(&self.id) else { return Ok(()) };
        waiting.stage = Stage::Sent;
        drop(calls);
        self.send(line)
    }

    /// What happens next. Cancel-safe.
    pub async fn next(&self) -> Item {
        self.mailbox.next().await
    }

    /// How sure it is that what the server asked was this call's; `None` where it asked nothing.
    pub fn attribution(&self) -> Option<Attribution> {
        self.mailbox.attribution()
    }

    /// What the turn is wanted for, if the call must have it to go on and has not.
    pub fn wants_turn(&self) -> Option<Subject> {
        if self.turn.is_some() {
            return None;
        }
        let subject = self.instance.calls().waiting.get(&self.id)?.subject.clone();
        self.instance.takes_turns(&subject).then_some(subject)
    }

    /// Another request speaks for the call now: what its client can do, and which log messages it wants. (E179) A call that
    /// needs the turn and goes on without it makes every other's doubtful: what the server asks next is a guess.
    pub fn resume(&mut self, capabilities: Bytes, wish: Wish, turn: Option<Turn>) {
        let without = turn.is_none() && self.wants_turn().is_some();
        self.turn = turn.or(self.turn.take());
        let mut calls = self.instance.calls();
        if without {
            calls.waiting.values_mut().for_each(|waiting| waiting.subject.has_turn = false);
        }
        if let Some(waiting) = calls.waiting.get_mut(&self.id) {
            waiting.subject.resume(capabilities, self.turn.is_some());
            waiting.parked = false;
            waiting.begins_anew(waiting.time);
            waiting.wish = wish;
        }
    }

    /// The server waits for the client, and nobody listens: others may have the turn, and log messages are the operator's.
    pub fn park(&mut self) {
        if let Some(waiting) = self.instance.calls().waiting.get_mut(&self.id) {
            waiting.subject.park();
            waiting.parked = true;
            waiting.wish = Wish::Nothing;
        }
        self.turn = None;
    }

    /// The call is over: late words about it are dropped.
    pub fn finish(self) {
        self.instance.absorbed_over(self.id);
        self.instance.calls().waiting.remove(&self.id);
        self.mailbox.close();
        self.pass_turn();
    }

    /// The caller is gone or its time is up: the server is told to stop (E136), and a late answer is dropped (E143).
    pub fn abandon(self, reason: &str) {
        let waited = self.instance.calls().waiting.remove(&self.id);
        self.mailbox.close();
        if let Some(call) = waited.as_ref().and_then(Waiting::open) {
            self.instance.pulse.left(call);
        }
        if waited.is_some_and(|waiting| waiting.stage != Stage::Reserved) {
            self.instance.take_back(self.id, reason);
        }
        self.pass_turn();
    }

    fn pass_turn(self) {
        if let Some(turn) = self.turn {
            turn.over(self.mailbox.attribution().is_some());
        }
    }
}

/// A refusal of a server's request, sent to the server.
pub(crate) fn refuse(instance: &Instance, server_id: &[u8], why: &str) {
    let mut line = Vec::new();
    bridge::reply_line(&mut line, server_id, Err((code::METHOD_NOT_FOUND, why)));
    let _ = instance.send(line);
}
