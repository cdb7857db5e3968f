//! A modern client in front of a legacy server that asks something while a call is open. The call stays open upstream and is
//! owned by its task; the client gets `input_required` with everything that was asked, and a sealed `requestState` that
//! leads its next request back here. (eras §2.5; B5, B6, B8, B9)
//!
//! In the order of events: [`hold`] begins with the first question; [`Held::run`] waits for the server and for retries;
//! [`Held::put`] answers those who wait with a round; [`retry`] verifies the request that comes with answers, and
//! [`Retrying::attach`] hands it to the task, which gives each answer to the server at most once; [`Kept`] is what is left
//! after the end, for who comes late or asks twice.

mod retry;
mod table;

use crate::call::{Asked, Clock, End, Happened, note_body};
use crate::error::CallError;
use crate::listen::Host;
use crate::modern::fail;
use crate::permit::Permit;
use crate::reply::Reply;
use bytes::Bytes;
use model::Blame;
use model::record::CallId;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use stdx::clock::monotonic;
use supervisor::{ExitReport, Instance, Item, Lease, Outcome as Counted, Pending, Question, Turn, Wish};
use wire::ask;
use wire::bridge::Delivery;
use wire::era::Era;
use wire::message::Message;
use wire::request_state::Ticket;
use wire::scan::Span;

pub(crate) use retry::{Came, Retrying, retry};
use retry::{Retry, recorded};
use table::{Place, RETRIES, Voice};
pub(crate) use table::{Table, url_round};

/// How long an answer waits for its call to get the turn of its process back.
const SOON: Duration = Duration::from_secs(1);

// ---- the first question -------------------------------------------------------------------------------------------

/// Holds a call from its first question to its end. Whoever waited when it ended has been answered.
pub(crate) async fn hold(
    host: &Host,
    asked: &Asked,
    lease: &Lease,
    pending: Pending,
    first: Question,
    reply: &mut Reply,
) -> Result<End, CallError> {
    let place = match host.held.place(&host.settings.limits, &asked.caller.principal, lease.instance()) {
        Ok(place) => place,
        Err(error) => {
            first.unanswered("the client has too many open questions");
            pending.abandon("too many calls wait for their clients");
            return Err(error);
        }
    };
    let now = monotonic();
    let first_call = reply.course().recorded_as();
    let waiter = Waiter { reply: reply.take(), message: asked.message.clone(), _permit: None };
    let limits = &host.settings.limits;
    let mut held = Held {
        host,
        asked,
        lease,
        voice: Voice::of(asked, lease),
        first_call,
        pending,
        place,
        waiters: vec![waiter],
        profile: asked.caller.profile.clone(),
        open: Vec::new(),
        round: 0,
        keys: 0,
        put_at: None,
        patience: now + limits.held_timeout,
        progress_at: now + limits.held_progress,
        step: 0,
        clock: Clock::start(limits.stream_after, limits.keep_alive, asked.timeout),
        last_progress: None,
    };
    let outcome = match held.add(first) {
        Some(outcome) => outcome,
        None => held.run().await,
    };
    Ok(held.over(outcome).await)
}

/// A held call.
struct Held<'a> {
    host: &'a Host,
    asked: &'a Asked,
    lease: &'a Lease,
    voice: Voice,
    /// As what it began in the ledger.
    first_call: Option<CallId>,
    pending: Pending,
    place: Place,
    /// Requests that wait for the call now: one, or the same one repeated.
    waiters: Vec<Waiter>,
    /// What the client of the latest of them can do.
    profile: Bytes,
    open: Vec<Open>,
    /// The round that was put last; 0 before the first.
    round: u32,
    /// Keys given in the round that is to be put next.
    keys: u32,
    /// When the questions that came together are put.
    put_at: Option<Instant>,
    /// How long the call is held while nobody waits for it.
    patience: Instant,
    progress_at: Instant,
    step: u32,
    clock: Clock,
    last_progress: Option<Message>,
}

/// A question that the client has not answered.
struct Open {
    key: String,
    question: Question,
    /// It was put to the client: before that, nobody can answer it.
    put: bool,
}

/// A request that waits for the call.
struct Waiter {
    reply: Reply,
    message: Message,
    /// The first request's is held by its call.
    _permit: Option<Permit>,
}

impl Waiter {
    fn id(&self) -> Bytes {
        self.message.id().unwrap_or_default()
    }
}

/// How a held call ended.
enum Outcome {
    Answer(Message),
    Gone(ExitReport),
    Garbled(String),
    Deadline(Duration),
    Rounds,
    Questions,
    /// No state could be written.
    Unsealed,
    /// Everybody who waited closed the connection (E135).
    Left,
    /// Nobody came back (E173), or the host stops.
    Forsaken(&'static str),
}

enum Next {
    Call(Happened),
    Retry(Box<Retry>),
    Put,
    Progress,
    Forsaken(&'static str),
}

// ---- while it is held ---------------------------------------------------------------------------------------------

impl Held<'_> {
    async fn run(&mut self) -> Outcome {
        loop {
            let ended = match self.next().await {
                Next::Call(happened) => self.happened(happened).await,
                Next::Retry(retry) => {
                    self.attach(*retry).await;
                    None
                }
                Next::Put => self.put().await,
                Next::Progress => {
                    self.step = self.step.saturating_add(1);
                    self.open.iter().for_each(|open| open.question.still_open(self.step));
                    self.progress_at = monotonic() + self.host.settings.limits.held_progress;
                    None
                }
                Next::Forsaken(why) => Some(Outcome::Forsaken(why)),
            };
            if let Some(outcome) = ended {
                return outcome;
            }
        }
    }

    async fn next(&mut self) -> Next {
        let attached = !self.waiters.is_empty();
        if attached && let Some(after) = self.clock.overdue() {
            return Next::Call(Happened::Deadline(after));
        }
        let progress = self.open.iter().any(|open| open.question.wants_progress());
        let put_at = self.put_at.unwrap_or(self.patience);
        let (host, pending, retries, waiters) = (self.host, &self.pending, &mut self.place.retries, &mut self.waiters);
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(self.patience.into()), if !attached => Next::Forsaken("its client did not come back"),
            () = tokio::time::sleep_until(put_at.into()), if attached && self.put_at.is_some() => Next::Put,
            () = tokio::time::sleep_until(self.progress_at.into()), if progress => Next::Progress,
            Some(retry) = retries.recv() => Next::Retry(Box::new(retry)),
            item = pending.next() => Next::Call(Happened::Item(item)),
            gone = one_left(waiters), if attached => {
                self.waiters.swap_remove(gone).reply.close();
                Next::Call(Happened::Left)
            }
            () = host.stopping.cancelled(), if !attached => Next::Forsaken("the host stops"),
            tick = self.clock.tick(), if attached => Next::Call(tick),
        }
    }

    async fn happened(&mut self, happened: Happened) -> Option<Outcome> {
        match happened {
            Happened::Item(Item::Answer(message)) => return Some(Outcome::Answer(message.detached())),
            Happened::Item(Item::Gone(report)) => return Some(Outcome::Gone(report)),
            Happened::Item(Item::Garbled(what)) => return Some(Outcome::Garbled(what)),
            Happened::Item(Item::Question(question)) => return self.add(question),
            // The server gave up on it: an answer that still comes finds no open question.
            Happened::Item(Item::Withdrawn(server_id)) => self.open.retain(|open| !open.question.is(&server_id)),
            Happened::Item(Item::Note(note)) => return self.note(note).await,
            // Both belong to sessions.
            Happened::Item(Item::Ask(_) | Item::Cancelled) | Happened::Stopping => {}
            Happened::Left if self.waiters.is_empty() => return Some(Outcome::Left),
            Happened::Left => {}
            Happened::Quiet => return self.keep_awake().await,
            Happened::Deadline(after) => return Some(Outcome::Deadline(after)),
        }
        None
    }

    /// Keeps a question for the next round, which is put when what the server asks at the same time has come too.
    fn add(&mut self, question: Question) -> Option<Outcome> {
        self.keys += 1;
        self.open.push(Open { key: format!("r{}_{}", self.round + 1, self.keys), question, put: false });
        let limits = &self.host.settings.limits;
        let bytes: usize = self.open.iter().map(|open| open.question.request().len()).sum();
        if bytes > limits.held_bytes {
            return Some(Outcome::Questions);
        }
        if !self.waiters.is_empty() && self.put_at.is_none() {
            self.put_at = Some(monotonic() + limits.held_together);
        }
        None
    }

    /// Answers who waits with what is open: unanswered questions under their old keys (E174), all under a fresh state.
    async fn put(&mut self) -> Option<Outcome> {
        self.put_at = None;
        self.refuse_what_cannot_be_asked();
        if self.open.is_empty() {
            return None;
        }
        let limits = &self.host.settings.limits;
        if self.round >= limits.held_rounds {
            return Some(Outcome::Rounds);
        }
        self.round += 1;
        self.keys = 0;
        self.open.iter_mut().for_each(|open| open.put = true);
        let requests: Vec<(String, Vec<u8>)> =
            self.open.iter().map(|open| (open.key.clone(), open.question.request().to_vec())).collect();
        let ticket = Ticket {
            held: Some(self.place.id),
            instance: self.lease.instance().id(),
            round: self.round,
            expires_ms: expiry(limits.held_timeout),
        };
        let mut bodies = Vec::with_capacity(self.waiters.len());
        for waiter in &self.waiters {
            let Some(state) = self.voice.seal(&self.host.held, &ticket) else { return Some(Outcome::Unsealed) };
            bodies.push(ask::input_required(&waiter.id(), &requests, &state, self.voice.server_info.as_deref()));
        }
        // Before anybody can come back: the end of these responses is no cancellation (E137).
        self.patience = monotonic() + limits.held_timeout;
        self.pending.park();
        for (mut waiter, body) in self.waiters.drain(..).zip(bodies) {
            waiter.reply.course().outcome(Counted::Asked);
            waiter.reply.finish(Delivery { body, status: 200 }).await;
        }
        None
    }

    /// What counts is what the request declared that waits now. (E169, E196, E200)
    fn refuse_what_cannot_be_asked(&mut self) {
        let able = |open: &Open| open.question.need().met_by(&self.profile, Era::Modern);
        let (open, refused): (Vec<Open>, Vec<Open>) = std::mem::take(&mut self.open).into_iter().partition(able);
        self.open = open;
        refused.into_iter().for_each(|open| open.question.refused());
    }

    /// A retry came: the server gets each answer that it has not got yet (E172, E175); the retry waits for what follows.
    async fn attach(&mut self, mut retry: Retry) {
        if self.waiters.len() >= RETRIES {
            return fail(retry.reply, &CallError::State, Era::Modern, retry.message.id().as_deref()).await;
        }
        let Some(turn) = self.turn(&mut retry.reply).await else { return };
        // Before the server hears anything of it.
        let Some(mut retry) = recorded(self.host, retry, self.lease.instance(), self.first_call).await else { return };
        retry.reply.course().sent(self.pending.id());
        // First of all, so that what the server asks next is judged by this request's abilities.
        let wish = retry.level.map_or(Wish::Nothing, Wish::AtLeast);
        self.pending.resume(retry.profile.clone(), wish, turn);
        self.profile = retry.profile;
        give(&mut self.open, &retry.message, &retry.answers);
        if let Some(level) = retry.level {
            let instance = self.lease.instance().clone();
            // A server that waits for an answer may not agree to a level meanwhile.
            stdx::task::spawn("log level", async move { instance.ensure_level(level).await });
        }
        let mut waiter = Waiter { reply: retry.reply, message: retry.message, _permit: Some(retry.permit) };
        if waiter.message.progress_token().is_some()
            && let Some(progress) = &self.last_progress
            && waiter.reply.event(&note_body(&waiter.message, progress)).await.is_err()
        {
            return;
        }
        self.waiters.push(waiter);
        let limits = &self.host.settings.limits;
        if !self.open.is_empty() && self.put_at.is_none() {
            self.put_at = Some(monotonic() + limits.held_together);
        }
        self.clock = Clock::start(limits.stream_after, limits.keep_alive, self.asked.timeout);
    }

    /// The turn of the process, if the call needs it and it is soon to be had. Who has it may wait for the very answer that
    /// comes here, so an answer is never kept for want of a turn. `None` if the client left meanwhile.
    async fn turn(&self, reply: &mut Reply) -> Option<Option<Turn>> {
        let Some(subject) = self.pending.wants_turn() else { return Some(None) };
        let (limits, instance) = (&self.host.settings.limits, self.lease.instance());
        let waiting = tokio::time::timeout(SOON, instance.turn(&subject, None));
        let taken = reply.awake(limits, true, waiting).await?;
        Some(taken.ok().flatten())
    }

    /// Passes a notification on. While nobody waits, the last progress is kept for who comes (B15).
    async fn note(&mut self, note: Message) -> Option<Outcome> {
        let progress = note.method() == "notifications/progress";
        self.clock.heard(&note, &self.pending);
        let waited = !self.waiters.is_empty();
        for mut waiter in std::mem::take(&mut self.waiters) {
            let wanted = !progress || waiter.message.progress_token().is_some();
            if !wanted || waiter.reply.event(&note_body(&waiter.message, &note)).await.is_ok() {
                self.waiters.push(waiter);
            } else {
                waiter.reply.close();
            }
        }
        self.clock.spoke();
        if progress {
            self.last_progress = Some(note);
        }
        (waited && self.waiters.is_empty()).then_some(Outcome::Left)
    }

    async fn keep_awake(&mut self) -> Option<Outcome> {
        for mut waiter in std::mem::take(&mut self.waiters) {
            if waiter.reply.keep_alive().await.is_ok() {
                self.waiters.push(waiter);
            } else {
                waiter.reply.close();
            }
        }
        self.clock.spoke();
        self.waiters.is_empty().then_some(Outcome::Left)
    }

    /// The call is over: everybody who waits is told, the server is told what it waits for in vain.
    async fn over(self, outcome: Outcome) -> End {
        let Self { host, lease, voice, first_call, pending, place, waiters, open, round, patience, .. } = self;
        closing(&voice, &pending, round, &outcome);
        let orphaned = match &outcome {
            // Who comes back may still say what was asked.
            Outcome::Answer(_) if waiters.is_empty() => {
                pending.finish();
                open
            }
            _ => {
                open.into_iter().for_each(|open| open.question.unanswered("the client did not answer"));
                match outcome.reason() {
                    Some(why) => pending.abandon(why),
                    None => pending.finish(),
                }
                Vec::new()
            }
        };
        if let Outcome::Left | Outcome::Forsaken(_) = outcome {
            place.leave(host).await;
            return End::Silence;
        }
        let delivered = !waiters.is_empty();
        for mut waiter in waiters {
            let delivery = voice.delivery(&host.held, &host.settings.limits, &outcome, &waiter.message);
            outcome.count(&mut waiter.reply);
            waiter.reply.finish(delivery).await;
        }
        let until = if delivered { monotonic() + host.settings.limits.held_kept } else { patience };
        let instance = lease.instance().clone();
        let kept = Kept { voice, instance, first_call, outcome, place, open: orphaned, delivered, until };
        End::Held(Box::new(kept))
    }
}

/// The one line of a held call's record. A guess is told as one.
fn closing(voice: &Voice, pending: &Pending, rounds: u32, outcome: &Outcome) {
    let attribution = pending.attribution().map_or("none", supervisor::Attribution::as_str);
    tracing::info!(server = %voice.server, principal = %voice.principal, method = voice.method, call = pending.id(), rounds, attribution, outcome = outcome.name(), "a held call ended");
}

/// Gives each open question that is answered here for the first time to the server. Unknown keys are ignored.
fn give(open: &mut Vec<Open>, message: &Message, answers: &[(String, Span)]) {
    for (key, answer) in answers {
        if let Some(at) = open.iter().position(|open| open.put && open.key == *key) {
            open.remove(at).question.answer(message.raw(*answer));
        }
    }
}

/// Which of them left first. Cancel-safe.
async fn one_left(waiters: &mut [Waiter]) -> usize {
    let mut all: Vec<Pin<Box<dyn Future<Output = ()> + Send + '_>>> = Vec::with_capacity(waiters.len());
    for waiter in waiters {
        all.push(Box::pin(waiter.reply.left()));
    }
    poll_fn(|cx| match all.iter_mut().position(|left| left.as_mut().poll(cx).is_ready()) {
        Some(gone) => Poll::Ready(gone),
        None => Poll::Pending,
    })
    .await
}

fn expiry(after: Duration) -> i64 {
    stdx::clock::unix_ms().saturating_add(i64::try_from(after.as_millis()).unwrap_or(i64::MAX))
}

impl Outcome {
    /// What the server is told, where it still works on the call.
    fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Answer(_) | Self::Gone(_) | Self::Garbled(_) => None,
            Self::Deadline(_) => Some("the call took too long"),
            Self::Rounds => Some("the call asked its client too often"),
            Self::Questions => Some("the call asked its client too much"),
            Self::Unsealed => Some("the host cannot ask the client"),
            Self::Left => Some("the client closed the connection"),
            Self::Forsaken(why) => Some(why),
        }
    }

    /// Tells the course of a request that waited for it.
    fn count(&self, reply: &mut Reply) {
        let counted = match self {
            Self::Answer(message) => return reply.course().answered(message),
            Self::Deadline(_) => Counted::Deadline,
            Self::Gone(report) if report.blame() == Blame::Host => Counted::HostError,
            Self::Gone(_) | Self::Garbled(_) | Self::Rounds | Self::Questions => Counted::ServerError,
            Self::Unsealed => Counted::HostError,
            Self::Left | Self::Forsaken(_) => Counted::Cancelled,
        };
        reply.course().outcome(counted);
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Answer(_) => "answer",
            Self::Gone(_) => "server ended",
            Self::Garbled(_) => "invalid answer",
            other => other.reason().unwrap_or_default(),
        }
    }
}

// ---- after the end ------------------------------------------------------------------------------------------------

/// The end of a held call, for who has not heard it and for who asks again.
pub(crate) struct Kept {
    voice: Voice,
    /// Where it ran.
    instance: Arc<Instance>,
    first_call: Option<CallId>,
    outcome: Outcome,
    place: Place,
    /// What the server asked and does not need any more; an answer is passed on all the same.
    open: Vec<Open>,
    delivered: bool,
    until: Instant,
}

impl Kept {
    /// Answers retries until nobody can be expected any more. The process is not held for it.
    pub(crate) async fn wait(mut self, host: &Host) {
        let bytes = self.bytes();
        if !host.held.keep(&self.place.id, bytes, self.delivered, &host.settings.limits) {
            self.open.into_iter().for_each(|open| open.question.unanswered("the call is over"));
            return self.place.leave(host).await;
        }
        loop {
            let retry = tokio::select! {
                biased;
                retry = self.place.retries.recv() => retry,
                () = tokio::time::sleep_until(self.until.into()) => None,
                () = host.stopping.cancelled() => None,
            };
            let Some(retry) = retry else { break };
            let recorded = Box::pin(recorded(host, retry, &self.instance, self.first_call));
            let Some(Retry { mut reply, message, answers, permit, .. }) = recorded.await else { continue };
            give(&mut self.open, &message, &answers);
            let delivery = self.voice.delivery(&host.held, &host.settings.limits, &self.outcome, &message);
            self.outcome.count(&mut reply);
            reply.finish(delivery).await;
            drop(permit);
            if !self.delivered {
                self.delivered = true;
                self.until = monotonic() + host.settings.limits.held_kept;
                host.held.delivered(&self.place.id);
            }
        }
        self.open.into_iter().for_each(|open| open.question.unanswered("the call is over"));
        host.held.unkeep(bytes);
        self.place.leave(host).await;
    }

    fn bytes(&self) -> usize {
        match &self.outcome {
            Outcome::Answer(message) => message.bytes().len(),
            _ => 0,
        }
    }
}
