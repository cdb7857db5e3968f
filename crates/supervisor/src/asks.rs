//! Requests of a legacy server to its client: sampling, elicitation, roots. They name no call, so they are attributed,
//! and only ever within one isolation key. (eras §2.4)

use crate::instance::{Instance, refuse};
use crate::mailbox::Item;
use crate::route::{newest_call, object_has, out_of_place, pong};
use crate::session::Session;
use model::report::LogSource;
use std::sync::Arc;
use wire::bridge;
use wire::era::Era;
use wire::message::Message;
use wire::scan::Place;

/// A request of the server arrived.
pub(crate) fn arrived(instance: &Arc<Instance>, message: &Message) {
    let Some(server_id) = message.id() else { return };
    if message.method() == "ping" {
        return pong(instance, &server_id);
    }
    if instance.era == Era::Modern {
        return out_of_place(instance, message, &server_id);
    }
    let Some(capability) = needed(message.method()) else {
        return refuse(instance, &server_id, "the client does not know this method");
    };
    match addressee(instance, capability) {
        Some(session) => ask(instance, &session, message, &server_id),
        None => {
            let text = format!("{} was refused: no client of this process can answer it", message.method());
            instance.context.log.add(instance.id, LogSource::Host, &text);
            refuse(instance, &server_id, "no client that can answer this is attached");
        }
    }
}

/// The client capability that a request needs.
fn needed(method: &str) -> Option<&'static str> {
    match method {
        "sampling/createMessage" => Some("sampling"),
        "elicitation/create" => Some("elicitation"),
        "roots/list" => Some("roots"),
        _ => None,
    }
}

/// The session of the most recently started call that can answer; without a call in flight, the one session there is.
fn addressee(instance: &Instance, capability: &str) -> Option<Arc<Session>> {
    if instance.context.shared {
        return None;
    }
    let able = |s: &Arc<Session>| object_has(&s.caller().profile, capability);
    let calls = instance.calls();
    let mut in_flight: Vec<(u64, Arc<Session>)> =
        calls.waiting.iter().filter_map(|(id, w)| Some((*id, w.session.clone()?))).filter(|(_, s)| able(s)).collect();
    drop(calls);
    in_flight.sort_by_key(|(id, _)| *id);
    if let Some((_, session)) = in_flight.pop() {
        if in_flight.iter().any(|(_, other)| !Arc::ptr_eq(other, &session)) {
            tracing::warn!(server = %instance.context.server, attribution = "guess", "a server's request has several possible addressees of one principal");
        }
        return Some(session);
    }
    match &instance.context.sessions().into_iter().filter(able).collect::<Vec<_>>()[..] {
        [only] => Some(only.clone()),
        _ => None,
    }
}

/// On the call's own stream where one is in flight (SEP-2260), else on the session's GET stream.
fn ask(instance: &Arc<Instance>, session: &Arc<Session>, message: &Message, server_id: &[u8]) {
    let Some(id) = session.expect_answer(instance, server_id) else {
        return refuse(instance, server_id, "the client has too many unanswered requests");
    };
    let body = bridge::server_request(message, &id.to_string());
    match newest_call(&instance.calls(), session) {
        Some((_, waiting)) => waiting.mailbox.push(Item::Ask(body)),
        None => session.put_ask(id, body),
    }
}

/// The server no longer waits for a client's answer: the client is told under the id that it knows.
pub(crate) fn taken_back(instance: &Instance, message: &Message) {
    let Some(request) = message.member(Place::Params, "requestId") else { return };
    let server_id = message.raw(request.value);
    for session in instance.context.sessions() {
        if let Some(id) = session.forget_ask(instance.id, server_id) {
            let body =
                format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#);
            if !session.try_stream(body.clone().into_bytes())
                && let Some((_, waiting)) = newest_call(&instance.calls(), &session)
            {
                waiting.mailbox.push(Item::Ask(body.into_bytes()));
            }
        }
    }
}
