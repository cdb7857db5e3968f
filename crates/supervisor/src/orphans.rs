//! Calls that an earlier daemon sent and did not see the end of. Nobody waits for them in this daemon, but their clients may
//! come back to their streams: the answer that still comes becomes the last event there, and where none can come any more
//! the client is told that nobody knows whether the call ran. No call is ever sent again.
//!
//! An orphan belongs to one session, and ends with it. It is found by the request id that the server knows, which is of the
//! earlier daemon's epoch and so nobody else's.

use crate::hosted::Hosted;
use crate::session::{Session, Sessions};
use model::OpenCall;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use stdx::clock::unix_ms;
use store::{Store, StoreError};
use wire::bridge::{self, Leg};
use wire::era::Era;
use wire::message::Message;
use wire::{code, shape};

/// What a client reads of a call whose end nobody knows.
const UNKNOWN: &str = "the host was restarted while the call ran; its outcome is unknown: it may have run, so look before you send it again";
/// The same for programs.
const UNKNOWN_DATA: &str = r#"{"source":"staithe","reason":"outcome_unknown","blame":"host"}"#;

/// The words of [`OpenCall::leg`].
const LEGS: [(Leg, &str); 2] = [(Leg::LegacyToLegacy, "legacy-legacy"), (Leg::LegacyToModern, "legacy-modern")];

/// The word for the eras at both ends of a session's call.
pub(crate) fn word(leg: Leg) -> Option<&'static str> {
    LEGS.iter().find(|(known, _)| *known == leg).map(|(_, word)| *word)
}

/// How long an answer may take from an earlier daemon that has it, milliseconds.
const PASSED_ON_MS: i64 = 5000;

/// Every orphan of the host.
#[derive(Debug)]
pub(crate) struct Orphans {
    store: Store,
    /// This daemon's number: calls of its own are no orphans.
    epoch: u64,
    calls: Mutex<HashMap<u64, Orphan>>,
}

#[derive(Debug)]
struct Orphan {
    session: Arc<Session>,
    call: OpenCall,
    leg: Leg,
}

impl Orphans {
    pub(crate) fn new(store: Store, epoch: u64) -> Self {
        Self { store, epoch, calls: Mutex::default() }
    }

    /// Takes over the open calls of `sessions` that are in the store. May be done again, when an earlier daemon has ended
    /// later. One whose session is gone is gone with it; one that cannot be answered any more is told so at once.
    pub(crate) async fn load(&self, sessions: &Sessions) -> Result<(), StoreError> {
        let mut calls = self.store.open_calls().await?;
        // Of too many streams the first go: let it be those that are answered.
        calls.sort_by_key(|call| call.deadline_ms != 0);
        for call in calls {
            if let Some(session) = sessions.by_id(&call.session) {
                self.adopt(&session, call, false);
            }
        }
        Ok(())
    }

    /// The same for one session: it may be another daemon's that still lives, or was. Whether there was a call.
    /// Where an earlier daemon lives (`follows`), it has the answers that are not here, and is about to pass them on.
    pub(crate) async fn load_of(&self, session: &Arc<Session>, follows: bool) -> bool {
        match self.store.open_calls_of(session.id()).await {
            Ok(calls) => calls.into_iter().filter(|call| self.adopt(session, call.clone(), follows)).count() > 0,
            Err(error) => {
                tracing::warn!(error = %stdx::chain::Chain(&error), "the open calls of a session could not be read");
                false
            }
        }
    }

    /// Whether the stream of the call is new here.
    fn adopt(&self, session: &Arc<Session>, mut call: OpenCall, follows: bool) -> bool {
        if follows && call.deadline_ms <= unix_ms() {
            call.deadline_ms = unix_ms() + PASSED_ON_MS;
        }
        let answered = call.deadline_ms <= unix_ms();
        if answered && let Some(Orphan { session, call, .. }) = self.calls().remove(&call.upstream) {
            unknown(&session, &call);
        }
        if call.upstream >> 32 == self.epoch || !session.adopt_stream(call.stream) {
            return false;
        }
        let leg = LEGS.iter().find(|(_, word)| *word == call.leg).map(|(leg, _)| *leg);
        match leg.filter(|_| !answered) {
            Some(leg) => drop(self.calls().insert(call.upstream, Orphan { session: session.clone(), call, leg })),
            None => unknown(session, &call),
        }
        true
    }

    /// An earlier daemon heard the end of the call on a stream.
    pub(crate) fn answered(&self, session: &Arc<Session>, stream: u64, body: Vec<u8>) {
        self.calls().retain(|_, orphan| !(Arc::ptr_eq(&orphan.session, session) && orphan.call.stream == stream));
        session.adopt_stream(stream);
        session.finish_adopted(stream, body);
    }

    /// The client of `session` takes a call back: its stream ends, and nobody waits for the answer. The call's id at the
    /// server, and its process.
    fn cancel(&self, session: &Arc<Session>, client_id: &[u8]) -> Vec<(u64, u64)> {
        let is_it = |o: &Orphan| Arc::ptr_eq(&o.session, session) && o.call.client_id.as_bytes() == client_id;
        let mut calls = self.calls();
        let ids: Vec<u64> = calls.iter().filter(|(_, orphan)| is_it(orphan)).map(|(id, _)| *id).collect();
        let taken: Vec<Orphan> = ids.iter().filter_map(|id| calls.remove(id)).collect();
        drop(calls);
        for Orphan { session, call, .. } in &taken {
            let (session, stream) = (session.clone(), call.stream);
            session.close_adopted(stream);
            stdx::task::spawn("forget a call", async move { session.call_over(stream).await });
        }
        taken.into_iter().map(|orphan| (orphan.call.upstream, orphan.call.instance)).collect()
    }

    /// Whether a process has a call that an earlier daemon sent: it is not idle.
    pub(crate) fn waits_on(&self, instance: u64) -> bool {
        self.calls().values().any(|orphan| orphan.call.instance == instance)
    }

    /// An answer of the process `instance` that nobody waits for here. Whether it was an orphan's; then it is the last event
    /// of its stream. The ids of calls at other processes can be guessed.
    pub(crate) fn answer(&self, instance: u64, id: u64, message: &Message) -> bool {
        let mut calls = self.calls();
        if calls.get(&id).is_none_or(|orphan| orphan.call.instance != instance) {
            return false;
        }
        let Some(Orphan { session, call, leg }) = calls.remove(&id) else { return false };
        drop(calls);
        let era = if leg == Leg::LegacyToModern { Era::Modern } else { Era::Legacy };
        let fitted = shape::result(message, &call.method, era, session.revision(), false);
        let answer = fitted.as_ref().unwrap_or(message);
        let delivery = bridge::response(answer, leg, call.client_id.as_bytes(), &call.method, None);
        // Nobody knows any more whether its client wants a receipt. There is none, least of all of the server's making.
        session.finish_adopted(call.stream, wire::receipt::cleared(delivery.body));
        true
    }

    /// Of all other processes nothing will be heard.
    pub(crate) fn keep_only(&self, instances: &HashSet<u64>) {
        self.end(|orphan| !instances.contains(&orphan.call.instance));
    }

    /// A process has ended.
    pub(crate) fn instance_is_gone(&self, instance: u64) {
        self.end(|orphan| orphan.call.instance == instance);
    }

    /// Those whose time is up are told so, and those whose session has ended are forgotten.
    pub(crate) fn sweep(&self) {
        let now = unix_ms();
        self.end(|orphan| orphan.call.deadline_ms <= now || orphan.session.ended().is_cancelled());
    }

    fn end(&self, which: impl Fn(&Orphan) -> bool) {
        let mut calls = self.calls();
        let ids: Vec<u64> = calls.iter().filter(|(_, orphan)| which(orphan)).map(|(id, _)| *id).collect();
        let over: Vec<Orphan> = ids.iter().filter_map(|id| calls.remove(id)).collect();
        drop(calls);
        for Orphan { session, call, .. } in over {
            unknown(&session, &call);
        }
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<u64, Orphan>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hosted {
    /// The client took back a request that an earlier daemon has sent.
    pub(crate) fn cancel_orphan(&self, session: &Arc<Session>, client_id: &[u8], reason: &str) {
        for (call, process) in self.shared.orphans.cancel(session, client_id) {
            let serving = self.all_slots().into_iter().filter_map(|slot| slot.serving());
            if let Some(instance) = serving.into_iter().find(|instance| instance.id() == process) {
                instance.take_back(call, reason);
            }
        }
    }
}

fn unknown(session: &Session, call: &OpenCall) {
    let body = code::error_body(Some(call.client_id.as_bytes()), code::INTERNAL, UNKNOWN, Some(UNKNOWN_DATA));
    session.finish_adopted(call.stream, body);
}

#[cfg(test)]
#[path = "orphans_tests.rs"]
mod tests;
