//! Where a line of a server goes. Runs in the reader of its instance, never waits, and never guesses across principals:
//! an instance serves one isolation key.

use crate::asks;
use crate::instance::{Calls, Instance, refuse};
use crate::level::Level;
use crate::mailbox::Item;
use crate::session::Session;
use crate::subscriptions;
use crate::waiting::Waiting;
use bytes::Bytes;
use model::report::LogSource;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use wire::bridge;
use wire::era::Era;
use wire::message::{self, BadMessage, Message, Parsed, Shape};
use wire::scan::{Limits, Place, Side};
use wire::subscription::List;

const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// Messages in one array of a server.
const MOST_IN_ARRAY: usize = 4096;

/// Routes one line.
pub(crate) fn line(instance: &Arc<Instance>, line: &Bytes) {
    let limits = Limits { bytes: instance.context.limits.line_bytes, depth: 128 };
    match message::parse_any(line.clone(), Side::Server, &limits, MOST_IN_ARRAY) {
        Ok(Parsed::One(message)) => dispatch(instance, message),
        Ok(Parsed::Batch(elements)) => array(instance, line, elements),
        Err(error) => unreadable(instance, line, &error),
    }
}

/// Whether a line can be read as one message, or several.
pub(crate) fn is_message(instance: &Instance, line: &Bytes) -> bool {
    let limits = Limits { bytes: instance.context.limits.line_bytes, depth: 128 };
    message::parse_any(line.clone(), Side::Server, &limits, MOST_IN_ARRAY).is_ok()
}

/// A 2025-03-26 server may answer with an array (E227). What can be read goes first: then a call that is named still is
/// the one whose answer could not be.
fn array(instance: &Arc<Instance>, line: &Bytes, elements: Vec<Result<Message, BadMessage>>) {
    let mut bad = Vec::new();
    for element in elements {
        match element {
            Ok(message) => dispatch(instance, message),
            Err(error) => bad.push(error),
        }
    }
    for error in bad {
        unreadable(instance, line, &error);
    }
}

fn dispatch(instance: &Arc<Instance>, message: Message) {
    if let Some(predecessor) = &instance.context.predecessor {
        // A client of the old daemon may have come to this one already: it waits here for the answer.
        if matches!(message.shape(), Shape::Success | Shape::Failure)
            && let Some(id) = message.id().and_then(|raw| number(&raw))
        {
            instance.context.orphans.answer(instance.id, id, &message);
        }
        if predecessor.takes(instance, &message) {
            return;
        }
    }
    match message.shape() {
        Shape::Success | Shape::Failure => answer(instance, message),
        Shape::Notification => notification(instance, message),
        Shape::Request => asks::arrived(instance, &message),
    }
}

fn answer(instance: &Instance, message: Message) {
    let Some(id) = message.id().and_then(|raw| number(&raw)) else { return };
    let Some((id, message)) = instance.absorbed_answer(id, message) else { return };
    let waiting = instance.calls().waiting.remove(&id);
    match waiting {
        Some(waiting) => {
            if waiting.of_a_client() {
                instance.context.counters.calls.fetch_add(1, Ordering::Relaxed);
            }
            waiting.mailbox.push(Item::Answer(message));
        }
        None if instance.context.orphans.answer(instance.id, id, &message) => {}
        // Late after a cancel, or an id that we never gave.
        None => tracing::debug!(server = %instance.context.server, "an answer that nobody waits for was dropped"),
    }
}

/// A line that should have been a message. If it names exactly one waiting call, that call is told; it would wait for
/// ever otherwise.
fn unreadable(instance: &Instance, line: &Bytes, error: &BadMessage) {
    if matches!(line.first(), Some(b'{' | b'[')) {
        let mut calls = instance.calls();
        let named: Vec<u64> =
            calls.waiting.keys().copied().filter(|id| names(line, id.to_string().as_bytes())).collect();
        if let [id] = named[..]
            && let Some(waiting) = calls.waiting.remove(&id)
        {
            let server = &instance.context.server;
            waiting.mailbox.push(Item::Garbled(format!("the server {server} sent an invalid answer: {error}")));
        }
    }
    junk(instance, line);
}

fn junk(instance: &Instance, line: &[u8]) {
    instance.context.counters.junk.fetch_add(1, Ordering::Relaxed);
    let text = String::from_utf8_lossy(&line[..line.len().min(4096)]);
    instance.context.log.add(instance.id, LogSource::Junk, &text);
}

fn notification(instance: &Arc<Instance>, message: Message) {
    if message.method() == "notifications/tools/list_changed" {
        instance.forget_tools();
    }
    match message.method() {
        "notifications/progress" => progress(instance, message),
        "notifications/message" => log_message(instance, message),
        "notifications/cancelled" if instance.era == Era::Legacy => asks::taken_back(instance, &message),
        // The tasks of a process that everybody shares are nobody's (E213).
        "notifications/tasks/status" if instance.context.shared || instance.is_absorbed_task(&message) => {}
        "notifications/cancelled" => ended_listen(instance, &message),
        _ if message.member(Place::Meta, SUBSCRIPTION).is_some() => to_subscription(instance, message),
        "notifications/resources/updated" => {
            if let Some(uri) = message.text(Place::Params, "uri") {
                subscriptions::updated(instance, &message, &uri);
            }
        }
        _ => broadcast(instance, &message),
    }
}

/// Progress belongs to the call whose token it carries; for a finished or unknown call it is dropped (E151).
fn progress(instance: &Instance, message: Message) {
    let token = message.member(Place::Params, "progressToken").and_then(|m| number(message.raw(m.value)));
    let calls = instance.calls();
    if let Some(waiting) = token.and_then(|id| calls.waiting.get(&id)) {
        waiting.mailbox.push(Item::Note(message));
    }
}

fn to_subscription(instance: &Instance, message: Message) {
    let Some(id) = message.member(Place::Meta, SUBSCRIPTION).and_then(|m| number(message.raw(m.value))) else { return };
    let calls = instance.calls();
    match calls.waiting.get(&id) {
        Some(waiting) => waiting.mailbox.push(Item::Note(message)),
        // An earlier daemon listened: nobody will hear it again.
        None if instance.taken_over.is_some() => {
            drop(calls);
            instance.take_back(id, "nobody listens any more");
        }
        None => {}
    }
}

/// A modern server cancels nothing but a listen (E145).
fn ended_listen(instance: &Instance, message: &Message) {
    let id = message.member(Place::Params, "requestId").and_then(|m| number(message.raw(m.value)));
    let mut calls = instance.calls();
    if let Some(id) = id.filter(|id| calls.waiting.get(id).is_some_and(Waiting::lasts))
        && let Some(waiting) = calls.waiting.remove(&id)
    {
        waiting.mailbox.push(Item::Cancelled);
    }
}

/// A log message names no call. It goes to a call only if that is the one call in flight and it wants it; else to the
/// sessions of this isolation key that want it; else to the operator's log (B14, E193).
fn log_message(instance: &Instance, message: Message) {
    let level = message.text(Place::Params, "level").and_then(|name| Level::parse(&name));
    if !instance.context.shared {
        let calls = instance.calls();
        if let Some(waiting) = only(&calls, level) {
            waiting.mailbox.push(Item::Note(message));
            return;
        }
        drop(calls);
        let body = bridge::notification(&message, None, None);
        let wanting = |s: &Arc<Session>| s.level().is_none_or(|least| level.is_none_or(|l| l >= least));
        let told =
            instance.context.sessions().into_iter().filter(wanting).filter(|s| s.try_stream(body.clone())).count();
        if told > 0 {
            return;
        }
    }
    let params =
        message.member(Place::Root, "params").map(|m| String::from_utf8_lossy(message.raw(m.value)).into_owned());
    instance.context.log.add(instance.id, LogSource::Message, &params.unwrap_or_default());
}

/// The one call that wants messages of this level.
fn only(calls: &Calls, level: Option<Level>) -> Option<&Waiting> {
    let mut wanting = calls.waiting.values().filter(|waiting| waiting.of_a_client() && waiting.wish.wants(level));
    let first = wanting.next()?;
    wanting.next().is_none().then_some(first)
}

/// To each session of this isolation key, on one of its streams (E75, E161), and to each listen that asked for it.
fn broadcast(instance: &Arc<Instance>, message: &Message) {
    if let Some(list) = List::of_notification(message.method()) {
        subscriptions::list_changed(instance, message, list);
    }
    let body = bridge::notification(message, None, None);
    for session in instance.context.sessions() {
        deliver(instance, &session, message, &body);
    }
}

/// The session's GET stream, else a call of the session that is in flight, else its queue for the next GET stream.
pub(crate) fn deliver(instance: &Instance, session: &Arc<Session>, message: &Message, body: &[u8]) {
    if session.try_stream(body.to_vec()) {
        return;
    }
    match newest_call(&instance.calls(), session) {
        Some((_, waiting)) => waiting.mailbox.push(Item::Note(message.clone())),
        None => session.keep(body.to_vec()),
    }
}

/// The most recently started call of `session`.
pub(crate) fn newest_call<'a>(calls: &'a Calls, session: &Arc<Session>) -> Option<(u64, &'a Waiting)> {
    let own = |w: &Waiting| w.session.as_ref().is_some_and(|s| Arc::ptr_eq(s, session));
    calls.waiting.iter().filter(|(_, w)| own(w)).max_by_key(|(id, _)| **id).map(|(id, w)| (*id, w))
}

/// A server's ping is answered here, always (E206). Everything else is `asks`' business.
pub(crate) fn pong(instance: &Instance, server_id: &[u8]) {
    let mut line = Vec::new();
    bridge::reply_line(&mut line, server_id, Ok(b"{}"));
    let _ = instance.send(line);
}

/// A modern server must not send requests (E226).
pub(crate) fn out_of_place(instance: &Instance, message: &Message, server_id: &[u8]) {
    let text = format!("the server sent the request {:?}, which it must not", message.method());
    instance.context.log.add(instance.id, LogSource::Host, &text);
    refuse(instance, server_id, "a server of this protocol revision sends no requests");
}

/// Our ids are integers without sign, fraction or exponent.
pub(crate) fn number(raw: &[u8]) -> Option<u64> {
    std::str::from_utf8(raw).ok()?.parse().ok()
}

/// Whether `id` stands near either end of a line, where envelopes have it. What lies between may be megabytes of content.
fn names(line: &[u8], id: &[u8]) -> bool {
    const NEAR: usize = 1 << 10;
    let contains = |part: &[u8]| part.windows(id.len()).any(|window| window == id);
    contains(&line[..line.len().min(NEAR)]) || contains(&line[line.len().saturating_sub(NEAR)..])
}
