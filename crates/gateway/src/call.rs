//! The story of one call: an instance is leased, the request is sent with an id of ours, and whatever the server says
//! about it goes back to the caller, until the answer, the end of the server, the deadline or the caller's leaving.

use crate::book::{Going, Unrecorded};
use crate::deadline::Deadline;
use crate::error::CallError;
use crate::held::{self, Kept};
use crate::listen::Host;
use crate::modern::fail;
use crate::permit::Permit;
use crate::reply::{Left, Reply};
use crate::rounds;
use crate::tools::{self, Mirrored, Sent};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stdx::clock::monotonic;
use supervisor::{
    Absent, Caller, Hosted, Item, Lease, Level, Pending, Session, Stalled, Subject, Terms, Turn, Underway, Wish,
};
use wire::bridge::{self, Delivery, Leg, Stated};
use wire::era::Era;
use wire::message::Message;
use wire::rounds::{asks_back, progress};
use wire::scan::Place;

/// What is asked, by whom.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) message: Message,
    pub(crate) caller: Caller,
    /// Present for legacy clients.
    pub(crate) session: Option<Arc<Session>>,
    /// Log messages of at least this severity are wanted; for legacy clients the session decides.
    pub(crate) level: Option<Level>,
    /// The parameters that a modern client mirrored into headers.
    pub(crate) mirrored: Mirrored,
    /// A client that leaves takes its request back (modern), or does not (legacy).
    pub(crate) leaving_cancels: bool,
    /// `None` for subscriptions, which last as long as their client. A server's own times are put in before it is sent.
    pub(crate) timeout: Option<Deadline>,
}

impl Asked {
    /// The request id as the client spelled it.
    pub(crate) fn id(&self) -> Bytes {
        self.message.id().unwrap_or_default()
    }

    /// The era that the client speaks.
    pub(crate) fn era(&self) -> Era {
        if self.session.is_some() { Era::Legacy } else { Era::Modern }
    }
}

/// A server that ends before a call reached it costs the call nothing but another try.
const TRIES: usize = 3;

/// Carries one permitted call to an instance and back.
pub(crate) async fn call(host: Arc<Host>, permit: Permit, mut asked: Box<Asked>, mut reply: Reply) {
    match carried(&host, &permit, &mut asked, &mut reply).await {
        Ok(End::Answer(delivery)) => reply.finish(delivery).await,
        Ok(End::Silence | End::Asks(_)) => reply.close(),
        Ok(End::Held(kept)) => {
            drop(permit);
            // Boxed, as all that is seldom needed: it must not make every call's task larger.
            Box::pin(kept.wait(&host)).await;
        }
        Err(error) => {
            tracing::info!(server = %permit.server(), principal = %permit.principal(), %error, "a call failed");
            Box::pin(fail(reply, &error, asked.era(), Some(&asked.id()))).await;
        }
    }
}

/// The exchange with the generation of the server that is current; with the next one if it was replaced meanwhile.
async fn carried(host: &Host, permit: &Permit, asked: &mut Asked, reply: &mut Reply) -> Result<End, CallError> {
    loop {
        let hosted = host.supervisor.hosted(permit.server())?;
        let of_server = |_| Deadline::of(&asked.message, &hosted.spec().watch, &host.settings.limits);
        asked.timeout = asked.timeout.map(of_server);
        match exchange(host, permit, &hosted, asked, reply).await {
            Err(CallError::Absent(Absent::Stopped(_))) if host.supervisor.replaced(&hosted) => {}
            outcome => return outcome,
        }
    }
}

/// How an exchange ended.
pub(crate) enum End {
    Answer(Delivery),
    /// The client took the request back, or left.
    Silence,
    /// It was held for its client's answers. Who waited has been answered; others may still come.
    Held(Box<Kept>),
    /// A modern server asks a client with a session something first.
    Asks(Box<Message>),
}

async fn exchange(
    host: &Host,
    permit: &Permit,
    hosted: &Arc<Hosted>,
    asked: &Asked,
    reply: &mut Reply,
) -> Result<End, CallError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let lease = match hosted.warm(&asked.caller, asked.session.as_ref(), asked.era()) {
            Some(lease) => lease,
            // Boxed: what is seldom needed must not make every call's task larger.
            None => match Box::pin(lease(host, hosted, asked, reply)).await? {
                Some(lease) => lease,
                None => return Ok(End::Silence),
            },
        };
        let sent = match tools::sent(asked, &lease, host.settings.limits.tools_wait).await {
            Ok(sent) => sent,
            Err(error) => {
                lease.release();
                return Err(error);
            }
        };
        let subject = subject(asked, &lease);
        let turn = match subject.as_ref().filter(|subject| lease.instance().takes_turns(subject)) {
            Some(subject) => Box::pin(turn(host, asked, &lease, subject, reply)).await,
            None => Ok(Some(None)),
        };
        let turn = match turn {
            Ok(Some(turn)) => turn,
            left_or_late => {
                lease.release();
                return left_or_late.map(|_| End::Silence);
            }
        };
        if let Err(unrecorded) = recorded(host, permit, asked, &lease, reply).await {
            lease.release();
            return Err(unrecorded.into());
        }
        match send(asked, &lease, &sent, subject, turn, reply).await {
            Ok(pending) => {
                reply.course().sent(pending.id());
                let mut reached = Progress::default();
                let end = match answer(host, asked, &lease, pending, reply, &mut reached).await {
                    Ok(End::Asks(first)) => {
                        let message = sent.message.as_ref().unwrap_or(&asked.message);
                        let call = rounds::Call { host, asked, lease: &lease, message };
                        Box::pin(rounds::carry(call, *first, reply, reached)).await
                    }
                    end => end,
                };
                lease.release();
                return end;
            }
            Err(Stalled::Ended(_)) if tries < TRIES => {
                reply.course().was_not_sent().await?;
                Box::pin(lease.outlive()).await;
            }
            // So many processes have ended before the call reached them: how the last one did says why.
            Err(Stalled::Ended(server)) => {
                let instance = lease.instance().clone();
                Box::pin(lease.outlive()).await;
                return Err(instance.unreached().map_or_else(|| Stalled::Ended(server).into(), CallError::Gone));
            }
            Err(stalled) => {
                lease.release();
                return Err(stalled.into());
            }
        }
    }
}

/// Records that the call is about to reach the process of `lease`.
async fn recorded(
    host: &Host,
    permit: &Permit,
    asked: &Asked,
    lease: &Lease,
    reply: &mut Reply,
) -> Result<(), Unrecorded> {
    let Some(book) = &host.settings.book else { return Ok(()) };
    let (message, session) = (&asked.message, asked.session.as_deref());
    let going =
        Going { message, session, instance: lease.instance(), follows: None, receipt: reply.course().wants_receipt() };
    reply.course().intends(book.intend(permit, going).await?);
    Ok(())
}

/// An instance, however long its start takes; the caller's stream is kept awake meanwhile. `None` if the caller left.
async fn lease(
    host: &Host,
    hosted: &Arc<Hosted>,
    asked: &Asked,
    reply: &mut Reply,
) -> Result<Option<Lease>, CallError> {
    let starting = async {
        let era = hosted.era_for(asked.era()).await?;
        hosted.lease(&asked.caller, asked.session.as_ref(), era).await
    };
    let leased = reply.awake(&host.settings.limits, asked.leaving_cancels, starting).await;
    leased.transpose().map_err(CallError::from)
}

/// What the server may ask about while the call runs. A modern server asks in its answers alone.
fn subject(asked: &Asked, lease: &Lease) -> Option<Subject> {
    let capabilities = asked.session.is_none().then(|| asked.caller.profile.clone());
    (lease.instance().era() == Era::Legacy && !lease.shared()).then(|| Subject::of(&asked.message, capabilities))
}

/// The turn of the process among the calls that ask, waited for with the caller's stream kept awake. `None` if the caller
/// left; no turn if the process ended.
async fn turn(
    host: &Host,
    asked: &Asked,
    lease: &Lease,
    subject: &Subject,
    reply: &mut Reply,
) -> Result<Option<Option<Turn>>, CallError> {
    let limits = &host.settings.limits;
    let waiting = tokio::time::timeout(limits.turn_wait, lease.instance().turn(subject, asked.session.as_ref()));
    match reply.awake(limits, asked.leaving_cancels, waiting).await {
        None => Ok(None),
        Some(Ok(turn)) => Ok(Some(turn)),
        Some(Err(_elapsed)) => {
            Err(CallError::Turn { server: lease.instance().server().clone(), after: limits.turn_wait })
        }
    }
}

pub(crate) fn leg(asked: &Asked, lease: &Lease) -> Leg {
    match (asked.session.is_some(), lease.instance().era()) {
        (true, Era::Legacy) => Leg::LegacyToLegacy,
        (true, Era::Modern) => Leg::LegacyToModern,
        (false, Era::Legacy) => Leg::ModernToLegacy,
        (false, Era::Modern) => Leg::ModernToModern,
    }
}

/// Registers the call and writes its line.
async fn send(
    asked: &Asked,
    lease: &Lease,
    sent: &Sent,
    subject: Option<Subject>,
    turn: Option<Turn>,
    reply: &mut Reply,
) -> Result<Pending, Stalled> {
    let instance = lease.instance();
    // In a session the level is set by the request itself.
    if let (Some(level), None) = (asked.level, &asked.session) {
        Box::pin(instance.ensure_level(level)).await;
    }
    let terms = Terms { turn, time: asked.timeout.map(|deadline| deadline.after) };
    let pending =
        instance.begin_about(asked.id(), wish(asked), asked.session.clone(), subject.unwrap_or_default(), terms);
    if sent.as_task {
        pending.is_task();
    }
    if asked.session.is_some() {
        reply.about(underway(asked, lease, &pending)).await;
    }
    let line = line(asked, lease, sent, pending.id());
    match pending.send(line) {
        Ok(()) => {
            if let (Some(level), Some(_)) = (asked.level, &asked.session) {
                instance.note_level(Hosted::effective_level(lease, level)).await;
            }
            Ok(pending)
        }
        Err(stalled) => {
            pending.finish();
            Err(stalled)
        }
    }
}

/// What another daemon must know of the call to end it.
pub(crate) fn underway(asked: &Asked, lease: &Lease, pending: &Pending) -> Underway {
    // Nobody will know by then how often progress began its time anew.
    let patience = asked.timeout.map(|deadline| deadline.most.unwrap_or(deadline.after)).unwrap_or_default();
    let patience = i64::try_from(patience.as_millis()).unwrap_or(i64::MAX);
    Underway {
        upstream: pending.id(),
        instance: lease.instance().id(),
        leg: leg(asked, lease),
        client_id: asked.id(),
        method: asked.message.method().to_owned(),
        deadline_ms: stdx::clock::unix_ms().saturating_add(patience),
    }
}

/// Which log messages the call wants.
pub(crate) fn wish(asked: &Asked) -> Wish {
    match (&asked.session, asked.level) {
        (Some(session), _) => session.level().map_or(Wish::Everything, Wish::AtLeast),
        (None, Some(level)) => Wish::AtLeast(level),
        (None, None) => Wish::Nothing,
    }
}

fn line(asked: &Asked, lease: &Lease, sent: &Sent, upstream_id: u64) -> Vec<u8> {
    let mut line = Vec::with_capacity(asked.message.bytes().len() + 256);
    if let (Some(level), Some(_)) = (asked.level, &asked.session) {
        // Sessions of one process share its level: the most verbose wish counts (B14).
        let level = Hosted::effective_level(lease, level);
        bridge::set_level_line(&mut line, upstream_id, level.as_str());
        return line;
    }
    let stated = asked.session.as_deref().map(stated);
    let message = sent.message.as_ref().unwrap_or(&asked.message);
    bridge::request_line(&mut line, message, leg(asked, lease), upstream_id, stated.as_ref());
    line
}

/// What a modern server is told of a session with each request.
pub(crate) fn stated(session: &Session) -> Stated<'_> {
    Stated {
        capabilities: &session.caller().profile,
        client_info: session.client_info(),
        log_level: session.level().map(Level::as_str),
    }
}

/// Waits for the answer, passing on what comes before it.
pub(crate) async fn answer(
    host: &Host,
    asked: &Asked,
    lease: &Lease,
    pending: Pending,
    reply: &mut Reply,
    reached: &mut Progress,
) -> Result<End, CallError> {
    let leg = leg(asked, lease);
    let limits = &host.settings.limits;
    let mut clock = Clock::start(limits.stream_after, limits.keep_alive, asked.timeout);
    let end = loop {
        let happened = match clock.overdue() {
            // A server that never stops talking has no more time than a silent one.
            Some(after) => Happened::Deadline(after),
            None => tokio::select! {
                biased;
                item = pending.next() => Happened::Item(item),
                () = reply.left() => Happened::Left,
                // A subscription has no end of its own that the host could wait for.
                () = host.stopping.cancelled(), if asked.timeout.is_none() => Happened::Stopping,
                tick = clock.tick() => tick,
            },
        };
        let sent = match happened {
            Happened::Item(Item::Answer(message)) if leg == Leg::LegacyToModern && asks_back(&message) => {
                break Ok(End::Asks(Box::new(message)));
            }
            Happened::Item(Item::Answer(message)) => {
                reply.course().answered(&message);
                let message = tools::fitted(asked, lease, message, limits.tools_wait).await?;
                break Ok(End::Answer(delivery(host, asked, lease, &message)));
            }
            Happened::Item(Item::Gone(report)) => break Err(CallError::Gone(report)),
            Happened::Item(Item::Garbled(what)) => break Err(CallError::Garbled(what)),
            Happened::Item(Item::Cancelled) => break Ok(End::Silence),
            // From now on its story is told there.
            Happened::Item(Item::Question(question)) => {
                return Box::pin(held::hold(host, asked, lease, pending, question, reply)).await;
            }
            Happened::Item(Item::Withdrawn(_)) => Ok(()),
            // Each round of a modern server counts from its own beginning; to the client they are one call (E150).
            Happened::Item(Item::Note(note)) if leg == Leg::LegacyToModern && !reached.rises(&note) => Ok(()),
            Happened::Item(Item::Note(note)) => {
                clock.heard(&note, &pending);
                Box::pin(reply.event(&note_body(&asked.message, &note))).await
            }
            Happened::Item(Item::Ask(body)) => Box::pin(ask(asked, reply, body)).await,
            Happened::Quiet => Box::pin(reply.keep_alive()).await,
            Happened::Left => Err(Left),
            Happened::Stopping => {
                pending.abandon("the host stops");
                return Ok(End::Silence);
            }
            Happened::Deadline(after) => {
                pending.abandon("the call took too long");
                return Err(CallError::Deadline { server: lease.instance().server().clone(), after });
            }
        };
        if sent.is_err() {
            reply.abandon();
            if asked.leaving_cancels {
                pending.abandon("the client closed the connection");
                return Ok(End::Silence);
            }
        }
        clock.spoke();
    };
    if let Some(how) = pending.attribution() {
        let (server, principal) = (lease.instance().server(), &asked.caller.principal);
        tracing::info!(%server, %principal, call = pending.id(), attribution = how.as_str(), "a call that asked its client ended");
    }
    pending.finish();
    end
}

/// A server's request goes down the call's own stream. Where there is none, the session may have another; the server does
/// not wait for an answer that cannot come.
pub(crate) async fn ask(asked: &Asked, reply: &mut Reply, body: Vec<u8>) -> Result<(), Left> {
    let sent = if reply.carries_events() { Some(reply.event(&body).await) } else { None };
    if let (None | Some(Err(Left)), Some(session)) = (sent, &asked.session) {
        session.reroute(body);
    }
    sent.unwrap_or(Ok(()))
}

/// The server's answer as its client reads it.
fn delivery(host: &Host, asked: &Asked, lease: &Lease, answer: &Message) -> Delivery {
    let leg = leg(asked, lease);
    if leg == Leg::ModernToLegacy
        && let Some(round) = held::url_round(host, asked, lease, answer)
    {
        return round;
    }
    let server_info = lease.instance().greeting().and_then(|greeting| greeting.server_info());
    bridge::response(answer, leg, &asked.id(), asked.message.method(), server_info)
}

/// A notification under the names that the client of `request` knows.
pub(crate) fn note_body(request: &Message, note: &Message) -> Vec<u8> {
    let token = request.member(Place::Meta, "progressToken").map(|m| request.raw(m.value));
    bridge::notification(note, token, request.id().as_deref())
}

/// How far a call has come, over all its rounds.
#[derive(Debug, Default)]
pub(crate) struct Progress(Option<f64>);

impl Progress {
    /// Whether a notification says more than the last. True for what is no progress.
    pub(crate) fn rises(&mut self, note: &Message) -> bool {
        if note.method() != "notifications/progress" {
            return true;
        }
        let Some(now) = progress(note) else { return true };
        let rises = self.0.is_none_or(|last| now > last);
        if rises {
            self.0 = Some(now);
        }
        rises
    }
}

pub(crate) enum Happened {
    Item(Item),
    Left,
    Stopping,
    Quiet,
    Deadline(Duration),
}

/// When to break the silence, and when to give up.
pub(crate) struct Clock {
    next: Instant,
    every: Duration,
    deadline: Option<(Instant, Duration)>,
    /// How far progress may push it, and by how much at a time.
    most: Option<(Instant, Duration)>,
}

impl Clock {
    pub(crate) fn start(first: Duration, every: Duration, timeout: Option<Deadline>) -> Self {
        let now = monotonic();
        let deadline = timeout.map(|Deadline { after, .. }| (now + after, after));
        let most = timeout.and_then(|Deadline { after, most }| Some((now + most?, after)));
        Self { next: now + first, every, deadline, most }
    }

    /// The server said how far the call is: where it is allowed to, it gets its time once more.
    pub(crate) fn heard(&mut self, note: &Message, pending: &Pending) {
        let (Some((end, again)), Some((at, after))) = (self.most, self.deadline) else { return };
        let now = monotonic();
        let next = (now + again).min(end);
        if note.method() == "notifications/progress" && next > at {
            self.deadline = Some((next, after + (next - at)));
            pending.has_time(Some(next - now));
        }
    }

    /// Something was sent: the silence starts anew.
    pub(crate) fn spoke(&mut self) {
        self.next = monotonic() + self.every;
    }

    /// The time that was given, if it is up.
    pub(crate) fn overdue(&self) -> Option<Duration> {
        self.deadline.filter(|(at, _)| monotonic() >= *at).map(|(_, after)| after)
    }

    /// Cancel-safe.
    pub(crate) async fn tick(&self) -> Happened {
        match self.deadline {
            Some((at, after)) if at <= self.next => {
                tokio::time::sleep_until(at.into()).await;
                Happened::Deadline(after)
            }
            _ => {
                tokio::time::sleep_until(self.next.into()).await;
                Happened::Quiet
            }
        }
    }
}
