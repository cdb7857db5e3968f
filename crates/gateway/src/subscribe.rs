//! Subscriptions of clients: `subscriptions/listen` in front of either era, and `resources/subscribe` within a session in
//! front of either era. (B16–B18; E155–E164)

use crate::admit::Admitted;
use crate::book::{Going, Intent};
use crate::call::{Asked, Clock};
use crate::error::CallError;
use crate::listen::Host;
use crate::modern::fail;
use crate::permit::Permit;
use crate::reply::{Left, Reply};
use crate::tools::{self, Sent};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use supervisor::{Absent, Hosted, Instance, Item, Listening, Pending, Session, Subscribed, Unanswered};
use wire::bridge::{self, Delivery, Leg};
use wire::era::Era;
use wire::message::Message;
use wire::scan::Place;
use wire::subscription::{self, Filter, List, covers};

/// Carries one listen until its client leaves, the server ends it, or the host stops.
pub(crate) async fn listen(host: Arc<Host>, permit: Permit, asked: Asked, mut reply: Reply) {
    let id = asked.id();
    let Some(filter) = Filter::read(&asked.message) else {
        return fail(reply, &CallError::Filter, Era::Modern, Some(&id)).await;
    };
    let mut listen = Listen { host: &host, asked: &asked, id: id.clone(), filter, promised: None };
    match listen.carry(&permit, &mut reply).await {
        Ok(End::Answer(delivery)) => reply.finish(delivery).await,
        Ok(End::Left) => reply.close(),
        Err(error) => {
            tracing::info!(server = %permit.server(), principal = %permit.principal(), %error, "a listen failed");
            fail(reply, &error, Era::Modern, Some(&id)).await;
        }
    }
}

struct Listen<'a> {
    host: &'a Host,
    asked: &'a Asked,
    /// The client's, as it spelled it.
    id: Bytes,
    filter: Filter,
    /// What the client was told that it will hear. It is told once.
    promised: Option<Filter>,
}

/// How a listen ended.
enum End {
    Answer(Delivery),
    Left,
}

/// How a listen at one process ended.
enum Turn {
    Ended(End),
    /// The process is gone: the listen goes on at the next.
    Next,
}

impl Listen<'_> {
    async fn carry(&mut self, permit: &Permit, reply: &mut Reply) -> Result<End, CallError> {
        loop {
            let hosted = self.host.supervisor.hosted(permit.server())?;
            let wait = match self.at(&hosted, permit, reply).await {
                Ok(Turn::Ended(end)) => return Ok(end),
                Ok(Turn::Next) => continue,
                Err(CallError::Absent(Absent::Stopped(_))) if self.host.supervisor.replaced(&hosted) => continue,
                Err(error) if self.promised.is_none() => return Err(error),
                Err(CallError::Absent(absent @ (Absent::Failing { .. } | Absent::Slow { .. }))) => {
                    absent.retry_after().unwrap_or(Duration::from_secs(1))
                }
                Err(CallError::Gone(_)) => Duration::from_secs(1),
                // Whatever the reason: the promise cannot be kept any more.
                Err(_) => return Ok(self.end()),
            };
            let limits = &self.host.settings.limits;
            if reply.awake(limits, true, tokio::time::sleep(wait)).await.is_none() {
                return Ok(End::Left);
            }
        }
    }

    /// The server's side ends it. (E158)
    fn end(&self) -> End {
        End::Answer(Delivery { body: subscription::end(&self.id), status: 200 })
    }

    async fn at(&mut self, hosted: &Arc<Hosted>, permit: &Permit, reply: &mut Reply) -> Result<Turn, CallError> {
        let limits = &self.host.settings.limits;
        let caller = &self.asked.caller;
        let starting = async {
            let era = hosted.era_for(Era::Modern).await?;
            hosted.lease(caller, None, era).await
        };
        let Some(lease) = reply.awake(limits, true, starting).await else { return Ok(Turn::Ended(End::Left)) };
        let lease = lease?;
        if lease.instance().era() == Era::Modern {
            let sent = match tools::sent(self.asked, &lease, limits.tools_wait).await {
                Ok(sent) => sent,
                Err(error) => {
                    lease.release();
                    return Err(error);
                }
            };
            if let Err(error) = self.recorded(permit, lease.instance(), reply).await {
                lease.release();
                return Err(error);
            }
            let pending = lease.instance().begin_lasting();
            // Its place in a pool is for calls.
            lease.release();
            return self.forwarded(&sent, pending, reply).await;
        }
        if let Err(error) = self.recorded(permit, lease.instance(), reply).await {
            lease.release();
            return Err(error);
        }
        let listening = lease.listen(self.filter.clone());
        lease.release();
        let listening = listening?;
        let turn = self.bridged(&listening, reply).await;
        listening.close().await;
        Ok(turn)
    }

    /// Records that the listen is about to reach a process. What it was at before has ended.
    async fn recorded(&self, permit: &Permit, instance: &Arc<Instance>, reply: &mut Reply) -> Result<(), CallError> {
        let Some(book) = &self.host.settings.book else { return Ok(()) };
        reply.course().was_not_sent().await?;
        let going = Going { message: &self.asked.message, session: None, instance, follows: None, receipt: false };
        reply.course().intends(book.intend(permit, going).await?);
        Ok(())
    }

    /// In front of a legacy server: notifications of the process that were asked for, under the name of this listen.
    async fn bridged(&mut self, listening: &Listening, reply: &mut Reply) -> Turn {
        let limits = &self.host.settings.limits;
        let Some(honoured) = reply.awake(limits, true, listening.honour()).await else {
            return Turn::Ended(End::Left);
        };
        if self.begin(honoured.clone(), reply).await.is_err() {
            return Turn::Ended(End::Left);
        }
        let mut clock = Clock::start(limits.keep_alive, limits.keep_alive, None);
        loop {
            let sent = tokio::select! {
                biased;
                () = self.host.stopping.cancelled() => return Turn::Ended(self.end()),
                () = reply.left() => Err(Left),
                note = listening.next() => match note {
                    Some(note) if asked_for(&honoured, &note) => reply.event(&subscription::tagged(&note, &self.id)).await,
                    Some(_) => Ok(()),
                    None => return Turn::Next,
                },
                _ = clock.tick() => reply.keep_alive().await,
            };
            if sent.is_err() {
                return Turn::Ended(End::Left);
            }
            clock.spoke();
        }
    }

    /// The first word to the client. At a later process it was said before; then what may have been missed is told. (E159)
    async fn begin(&mut self, honoured: Filter, reply: &mut Reply) -> Result<(), Left> {
        let Some(promised) = &self.promised else {
            reply.event(&subscription::acknowledgement(&self.id, &honoured)).await?;
            self.promised = Some(honoured);
            return Ok(());
        };
        for list in &promised.lists {
            reply.event(&subscription::list_changed(*list, Some(&self.id))).await?;
        }
        for uri in &promised.uris {
            reply.event(&subscription::updated(uri, Some(&self.id))).await?;
        }
        Ok(())
    }

    /// In front of a modern server: its own listen, and whatever it says on it.
    async fn forwarded(&mut self, sent: &Sent, pending: Pending, reply: &mut Reply) -> Result<Turn, CallError> {
        let mut line = Vec::new();
        let message = sent.message.as_ref().unwrap_or(&self.asked.message);
        bridge::request_line(&mut line, message, Leg::ModernToModern, pending.id(), None);
        if pending.send(line).is_err() {
            pending.finish();
            // It ended just now: the next process comes.
            tokio::time::sleep(Duration::from_millis(20)).await;
            return Ok(Turn::Next);
        }
        let limits = &self.host.settings.limits;
        let mut clock = Clock::start(limits.stream_after, limits.keep_alive, None);
        loop {
            let sent = tokio::select! {
                biased;
                () = self.host.stopping.cancelled() => {
                    pending.abandon("the host stops");
                    return Ok(Turn::Ended(self.end()));
                }
                () = reply.left() => Err(Left),
                item = pending.next() => match item {
                    Item::Note(note) => self.pass(&note, reply).await,
                    Item::Answer(message) => {
                        pending.finish();
                        let delivery = bridge::response(&message, Leg::ModernToModern, &self.id, "subscriptions/listen", None);
                        return Ok(Turn::Ended(End::Answer(delivery)));
                    }
                    Item::Garbled(what) => return Err(CallError::Garbled(what)),
                    // A remote server that lives on must not be asked in a tight loop.
                    Item::Gone(report) if !report.reached => return Err(CallError::Gone(report)),
                    Item::Gone(_) => return Ok(Turn::Next),
                    // The server ended it otherwise than with an answer (E145).
                    Item::Cancelled => return Ok(Turn::Ended(self.end())),
                    Item::Ask(_) | Item::Question(_) | Item::Withdrawn(_) => Ok(()),
                },
                _ = clock.tick() => reply.keep_alive().await,
            };
            if sent.is_err() {
                pending.abandon("the client closed the connection");
                return Ok(Turn::Ended(End::Left));
            }
            clock.spoke();
        }
    }

    async fn pass(&mut self, note: &Message, reply: &mut Reply) -> Result<(), Left> {
        if !subscription::is_acknowledgement(note) {
            return reply.event(&bridge::notification(note, None, Some(&self.id))).await;
        }
        let honoured = Filter::read(note).unwrap_or_default();
        if self.promised.is_some() {
            return self.begin(honoured, reply).await;
        }
        self.promised = Some(honoured);
        reply.event(&bridge::notification(note, None, Some(&self.id))).await
    }
}

/// Whether a notification is of a kind that was promised. (E156)
fn asked_for(honoured: &Filter, note: &Message) -> bool {
    if note.method() != "notifications/resources/updated" {
        return List::of_notification(note.method()).is_some_and(|list| honoured.lists.contains(&list));
    }
    note.text(Place::Params, "uri").is_some_and(|uri| honoured.uris.iter().any(|wanted| covers(wanted, &uri)))
}

/// `resources/subscribe` and `resources/unsubscribe` of a session.
pub(crate) fn change(
    host: Arc<Host>,
    admitted: &Admitted,
    session: Arc<Session>,
    message: Message,
    wanted: bool,
    mut reply: Reply,
) {
    let permit = host.shares.permit(admitted);
    reply.course().judged(&message);
    stdx::task::spawn("change a subscription", async move {
        let id = message.id().unwrap_or_default();
        let mut intent = None;
        let changed = async {
            let permit = permit?;
            let pen = Pen { host: &host, permit: &permit, intent: &mut intent };
            let Some(uri) = message.text(Place::Params, "uri").map(std::borrow::Cow::into_owned) else {
                return Err(CallError::NoUri);
            };
            let hosted = host.supervisor.hosted(permit.server())?;
            if wanted {
                subscribe(pen, &hosted, &session, &message, uri).await
            } else {
                unsubscribe(pen, &hosted, &session, &message, uri).await
            }
        };
        // What was begun with the server is finished, whether its client listens or not.
        let Some(outcome) = reply.awake(&host.settings.limits, false, changed).await else { return };
        if intent.is_some() {
            reply.course().intends(intent);
        }
        match outcome {
            Ok(body) => reply.finish(Delivery { body, status: 200 }).await,
            Err(error) => fail(reply, &error, Era::Legacy, Some(&id)).await,
        }
    });
}

/// Records what is about to reach a server.
struct Pen<'a> {
    host: &'a Host,
    permit: &'a Permit,
    intent: &'a mut Option<Intent>,
}

impl Pen<'_> {
    async fn intend(self, session: &Session, message: &Message, instance: &Arc<Instance>) -> Result<(), CallError> {
        if let Some(book) = &self.host.settings.book {
            let going = Going { message, session: Some(session), instance, follows: None, receipt: false };
            *self.intent = book.intend(self.permit, going).await?;
        }
        Ok(())
    }
}

async fn subscribe(
    pen: Pen<'_>,
    hosted: &Arc<Hosted>,
    session: &Arc<Session>,
    message: &Message,
    uri: String,
) -> Result<Vec<u8>, CallError> {
    let id = message.id().unwrap_or_default();
    let era = hosted.era_for(Era::Legacy).await?;
    let lease = hosted.lease(session.caller(), Some(session), era).await?;
    let outcome = if hosted.subscribed(session, &uri) {
        Subscribed::Here
    } else {
        if let Err(error) = pen.intend(session, message, lease.instance()).await {
            lease.release();
            return Err(error);
        }
        lease.subscribe(session, uri.clone(), Some(message.clone())).await
    };
    lease.release();
    if outcome.agreed() {
        session.subscribe(&uri).await;
    }
    match outcome {
        Subscribed::Here => Ok(empty(&id)),
        Subscribed::Answered(answer) => Ok(answered(&answer, message, &id)),
        Subscribed::Refused => Ok(subscription::no_such_resource(&id, &uri)),
        Subscribed::Unknown => Err(CallError::NoSubscriptions),
        Subscribed::Full => Err(CallError::Subscriptions),
        Subscribed::Unanswered(unanswered) => Err(unanswered.into()),
    }
}

async fn unsubscribe(
    pen: Pen<'_>,
    hosted: &Arc<Hosted>,
    session: &Arc<Session>,
    message: &Message,
    uri: String,
) -> Result<Vec<u8>, CallError> {
    let id = message.id().unwrap_or_default();
    if !hosted.subscribed(session, &uri) {
        return unknown(pen, hosted, session, message).await;
    }
    if let Some(instance) = hosted.subscribed_at(session, &uri) {
        pen.intend(session, message, &instance).await?;
    }
    match hosted.unsubscribe(session, &uri, message.clone()).await {
        None => Ok(empty(&id)),
        Some(Ok(answer)) => Ok(answered(&answer, message, &id)),
        // The process is gone, and the subscription with it.
        Some(Err(Unanswered::Gone(_))) => Ok(empty(&id)),
        Some(Err(unanswered)) => Err(unanswered.into()),
    }
}

/// An end of what never began. A legacy server says what it thinks of that.
async fn unknown(
    pen: Pen<'_>,
    hosted: &Arc<Hosted>,
    session: &Arc<Session>,
    message: &Message,
) -> Result<Vec<u8>, CallError> {
    let id = message.id().unwrap_or_default();
    let era = hosted.era_for(Era::Legacy).await?;
    if era == Era::Modern {
        return Ok(empty(&id));
    }
    let lease = hosted.lease(session.caller(), Some(session), era).await?;
    if let Err(error) = pen.intend(session, message, lease.instance()).await {
        lease.release();
        return Err(error);
    }
    let answer = lease.forward(message).await;
    lease.release();
    Ok(answered(&answer?, message, &id))
}

fn answered(answer: &Message, request: &Message, id: &[u8]) -> Vec<u8> {
    bridge::response(answer, Leg::LegacyToLegacy, id, request.method(), None).body
}

fn empty(id: &[u8]) -> Vec<u8> {
    let mut body = br#"{"jsonrpc":"2.0","id":"#.to_vec();
    body.extend_from_slice(id);
    body.extend_from_slice(br#","result":{}}"#);
    body
}
