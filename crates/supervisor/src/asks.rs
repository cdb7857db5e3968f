//! Requests of a legacy server to its client: sampling, elicitation, roots. They name no call, so they are attributed
//! (`attribution`), and only ever within one isolation key. A session's client gets the request itself; a modern client gets
//! a [`Question`] of its call, which the gateway turns into a round. (eras §2.4, §2.5)

use crate::attribution::{self, Attribution};
use crate::instance::{Calls, Instance, refuse};
use crate::mailbox::Item;
use crate::route::{newest_call, out_of_place, pong};
use crate::session::Session;
use bytes::Bytes;
use model::report::LogSource;
use std::sync::{Arc, Weak};
use wire::ask::{self, Need};
use wire::bridge;
use wire::code;
use wire::era::Era;
use wire::message::Message;
use wire::scan::Place;

/// Questions of one call that may be open at one time.
const OPEN: usize = 64;

/// A request of the server arrived.
pub(crate) fn arrived(instance: &Arc<Instance>, message: &Message) {
    let Some(server_id) = message.id() else { return };
    if message.method() == "ping" {
        return pong(instance, &server_id);
    }
    if instance.era == Era::Modern {
        return out_of_place(instance, message, &server_id);
    }
    let Some(need) = Need::of(message) else {
        return refuse(instance, &server_id, "the client does not know this method");
    };
    if instance.context.shared {
        return nobody(instance, message, &server_id, need);
    }
    let task = ask::related_task(message);
    let mut calls = instance.calls();
    let Some((id, how)) = attribution::owner(&calls, need, task.as_deref()) else {
        drop(calls);
        return unattended(instance, message, &server_id, need);
    };
    attribution::learn(&instance.context.learned, &calls, need, id, how);
    let Some(waiting) = calls.waiting.get(&id) else { return };
    waiting.mailbox.attributed(how);
    let session = waiting.session.clone();
    if session.is_none() {
        put(&mut calls, instance, id, message, &server_id, need);
    }
    drop(calls);
    if how == Attribution::Guess {
        guessed(instance, message, id);
    }
    if let Some(session) = session {
        ask_session(instance, &session, message, &server_id);
    }
}

/// Says where it can be found later that nobody can be sure whose question it was.
fn guessed(instance: &Instance, message: &Message, call: u64) {
    let text =
        format!("{} could be of several calls; the newest was taken for its own: attribution=guess", message.method());
    instance.context.log.add(instance.id, LogSource::Host, &text);
    tracing::warn!(server = %instance.context.server, call, method = message.method(), attribution = "guess", "a server's request has several possible addressees of one principal");
}

/// No call in flight can be asked. A session's client can, outside of a call too, unless a call without a session could be
/// meant. (B10, B12)
fn unattended(instance: &Arc<Instance>, message: &Message, server_id: &[u8], need: Need) {
    let sessionless = instance.calls().waiting.values().any(|w| w.session.is_none() && w.of_a_client());
    let able = |s: &Arc<Session>| need.met_by(&s.caller().profile, Era::Legacy);
    if !sessionless && let [only] = &instance.context.sessions().into_iter().filter(able).collect::<Vec<_>>()[..] {
        return ask_session(instance, only, message, server_id);
    }
    // Servers ask for roots as soon as they may, and some wait for the answer before they serve. (E201)
    if need == Need::Roots && need.met_by(&instance.context.profile, Era::Legacy) {
        let mut line = Vec::new();
        bridge::reply_line(&mut line, server_id, Ok(NO_ROOTS));
        let _ = instance.send(line);
        return;
    }
    nobody(instance, message, server_id, need);
}

const NO_ROOTS: &[u8] = b"{\"roots\":[]}";

fn nobody(instance: &Instance, message: &Message, server_id: &[u8], need: Need) {
    let text = format!("{} was refused: no client of this process can answer it", message.method());
    instance.context.log.add(instance.id, LogSource::Host, &text);
    tracing::info!(server = %instance.context.server, method = message.method(), "a server's request was refused: nobody can answer it");
    let why = format!("no client that can answer this ({}) is attached", need.feature());
    refuse(instance, server_id, &why);
}

/// Gives a question to the modern call that it belongs to.
fn put(calls: &mut Calls, instance: &Arc<Instance>, id: u64, message: &Message, server_id: &Bytes, need: Need) {
    let Some(waiting) = calls.waiting.get_mut(&id) else { return };
    if waiting.asked.len() >= OPEN {
        return refuse(instance, server_id, "the client has too many unanswered requests");
    }
    let server_id = Bytes::copy_from_slice(server_id);
    waiting.asked.push(server_id.clone());
    let question = Question {
        instance: Arc::downgrade(instance),
        call: id,
        server_id,
        need,
        token: message.progress_token().map(Bytes::copy_from_slice),
        request: ask::input_request(message).into(),
    };
    waiting.mailbox.push(Item::Question(question));
}

/// On the call's own stream where one is in flight (SEP-2260), else on the session's GET stream.
fn ask_session(instance: &Arc<Instance>, session: &Arc<Session>, message: &Message, server_id: &[u8]) {
    let Some(id) = session.expect_answer(instance, server_id) else {
        return refuse(instance, server_id, "the client has too many unanswered requests");
    };
    let body = match wire::shape::request(message, session.revision()) {
        Ok(fitted) => bridge::server_request(fitted.as_ref().unwrap_or(message), &id.to_string()),
        Err(unaskable) => {
            session.forget_ask(instance.id, server_id);
            return refuse(instance, server_id, &unaskable.to_string());
        }
    };
    match newest_call(&instance.calls(), session) {
        Some((_, waiting)) => waiting.mailbox.push(Item::Ask(body)),
        None => session.put_ask(id, body),
    }
}

/// The server no longer waits for a client's answer: the client is told under the id that it knows, and a call that has
/// not asked its client yet no longer does.
pub(crate) fn taken_back(instance: &Instance, message: &Message) {
    let Some(request) = message.member(Place::Params, "requestId") else { return };
    let server_id = message.raw(request.value);
    for waiting in instance.calls().waiting.values_mut() {
        if let Some(at) = waiting.asked.iter().position(|asked| asked == server_id) {
            let withdrawn = waiting.asked.swap_remove(at);
            waiting.mailbox.push(Item::Withdrawn(withdrawn));
            return;
        }
    }
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

/// A request of a legacy server that the client of one call shall answer. It is answered at most once: whoever answers
/// gives it away. (E172)
#[derive(Debug)]
pub struct Question {
    instance: Weak<Instance>,
    call: u64,
    server_id: Bytes,
    need: Need,
    token: Option<Bytes>,
    request: Bytes,
}

impl Question {
    /// What the client must be able to do.
    pub fn need(&self) -> Need {
        self.need
    }

    /// As an input request.
    pub fn request(&self) -> &Bytes {
        &self.request
    }

    /// Whether the server has taken back the request `server_id`, and this is it.
    pub fn is(&self, server_id: &[u8]) -> bool {
        self.server_id == server_id
    }

    /// Whether the server wants to hear that somebody still works on it.
    pub fn wants_progress(&self) -> bool {
        self.token.is_some()
    }

    /// Tells a server that wants to know that the client has not answered yet; `step` must grow. (B20)
    pub fn still_open(&self, step: u32) {
        if let (Some(token), Some(instance)) = (&self.token, self.instance.upgrade()) {
            let _ = instance.send(ask::progress_line(token, step));
        }
    }

    /// The client's answer, a JSON object.
    pub fn answer(self, result: &[u8]) {
        self.reply(Ok(result));
    }

    /// Nobody will answer: the user was not asked or did not say anything.
    pub fn unanswered(self, why: &str) {
        match self.need {
            Need::Form | Need::Url | Need::UnknownMode => self.reply(Ok(b"{\"action\":\"cancel\"}")),
            Need::Roots => self.reply(Ok(NO_ROOTS)),
            Need::Sampling { .. } => self.reply(Err((code::INTERNAL, why))),
        }
    }

    /// The client cannot be asked such a thing.
    pub fn refused(self) {
        let why = format!("the client does not offer what this needs ({})", self.need.feature());
        self.reply(Err((code::METHOD_NOT_FOUND, &why)));
    }

    fn reply(self, outcome: Result<&[u8], (i64, &str)>) {
        let Some(instance) = self.instance.upgrade() else { return };
        if let Some(waiting) = instance.calls().waiting.get_mut(&self.call) {
            waiting.asked.retain(|asked| *asked != self.server_id);
        }
        let mut line = Vec::new();
        bridge::reply_line(&mut line, &self.server_id, outcome);
        let _ = instance.send(line);
    }
}
