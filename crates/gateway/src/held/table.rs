//! Whose a held call is, and where its state leads: the table of held calls, and what a sealed state is bound to.

use super::retry::Retry;
use super::{Outcome, expiry};
use crate::call::Asked;
use crate::error::CallError;
use crate::listen::Host;
use crate::modern::fail;
use crate::settings::Limits;
use bytes::Bytes;
use model::{Principal, ServerName};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use supervisor::{Caller, Instance, Lease};
use tokio::sync::mpsc;
use wire::ask;
use wire::bridge::{self, Delivery, Leg};
use wire::code;
use wire::era::Era;
use wire::message::Message;
use wire::request_state::{self, Bound, Key, Ticket};

/// Retries that may wait for the task of their call.
pub(super) const RETRIES: usize = 8;

/// Who asked what: everything that a state is bound to and that an answer needs.
pub(super) struct Voice {
    pub(super) principal: Principal,
    client: String,
    pub(super) server: ServerName,
    pub(super) method: &'static str,
    digest: [u8; 32],
    pub(super) server_info: Option<Bytes>,
}

impl Voice {
    pub(super) fn of(asked: &Asked, lease: &Lease) -> Self {
        let info = lease.instance().greeting().and_then(|greeting| greeting.server_info());
        let server_info = info.map(Bytes::copy_from_slice);
        Self { server_info, ..Self::asking(lease.instance().server(), &asked.caller, &asked.message) }
    }

    pub(super) fn asking(server: &ServerName, caller: &Caller, message: &Message) -> Self {
        Self {
            principal: caller.principal.clone(),
            client: caller.client.clone(),
            server: server.clone(),
            method: wire::method::find(message.method()).map_or("", |row| row.name),
            digest: request_state::digest(message),
            server_info: None,
        }
    }

    fn bound(&self) -> Bound<'_> {
        Bound {
            principal: self.principal.as_str(),
            client: &self.client,
            server: self.server.as_str(),
            method: self.method,
            digest: self.digest,
        }
    }

    pub(super) fn seal(&self, table: &Table, ticket: &Ticket) -> Option<String> {
        let nonce = stdx::random::bytes::<{ request_state::NONCE }>().ok()?;
        request_state::seal(table.key.as_ref()?, nonce, &self.bound(), ticket)
    }

    pub(super) fn open(&self, table: &Table, state: &str) -> Option<Ticket> {
        request_state::open(table.key.as_ref()?, &self.bound(), stdx::clock::unix_ms(), state)
    }

    /// The end as the answer to `request`.
    pub(super) fn delivery(&self, table: &Table, limits: &Limits, outcome: &Outcome, request: &Message) -> Delivery {
        let id = request.id().unwrap_or_default();
        let error = match outcome {
            Outcome::Answer(message) => {
                return self.url_round(table, limits, message, request).unwrap_or_else(|| {
                    let info = self.server_info.as_deref();
                    bridge::response(message, Leg::ModernToLegacy, &id, self.method, info)
                });
            }
            Outcome::Gone(report) => CallError::Gone(report.clone()),
            Outcome::Garbled(what) => CallError::Garbled(what.clone()),
            Outcome::Deadline(after) => CallError::Deadline { server: self.server.clone(), after: *after },
            Outcome::Rounds => CallError::Rounds { limit: limits.held_rounds },
            Outcome::Questions => CallError::Questions { limit: limits.held_bytes },
            Outcome::Unsealed => CallError::Unsealed,
            Outcome::Left | Outcome::Forsaken(_) => CallError::State,
        };
        error.delivery(Era::Modern, Some(&id))
    }

    /// URLs that a legacy server wants visited before the call is made again, as a round with a state that says so. `None`
    /// where the answer is another one, or the client takes no URLs and hears so. (B6, B28)
    fn url_round(&self, table: &Table, limits: &Limits, answer: &Message, request: &Message) -> Option<Delivery> {
        if answer.error_code() != Some(code::URL_ELICITATION_REQUIRED) || !ask::may_ask(request) {
            return None;
        }
        let capabilities = crate::modern::declared(request).unwrap_or_default();
        if !ask::Need::Url.met_by(&capabilities, Era::Modern) {
            return None;
        }
        let id = request.id().unwrap_or_default();
        let refused = |error: CallError| Some(error.delivery(Era::Modern, Some(&id)));
        let Some(urls) = ask::url_elicitations(answer) else {
            let what = format!("the server {} wants a URL visited and does not say which", self.server);
            return refused(CallError::Garbled(what));
        };
        let before = ask::state(request).flatten().and_then(|state| self.open(table, &state));
        let round = before.map_or(1, |ticket| ticket.round.saturating_add(1));
        if round > limits.held_rounds {
            return refused(CallError::Rounds { limit: limits.held_rounds });
        }
        let requests: Vec<(String, Vec<u8>)> =
            urls.into_iter().zip(1..).map(|(url, n)| (format!("r{round}_{n}"), url)).collect();
        let ticket = Ticket { held: None, instance: 0, round, expires_ms: expiry(limits.held_timeout) };
        let Some(state) = self.seal(table, &ticket) else { return refused(CallError::Unsealed) };
        let body = ask::input_required(&id, &requests, &state, self.server_info.as_deref());
        Some(Delivery { body, status: 200 })
    }
}

/// The answer of a call that was not held, where it asks for URLs. (B6)
pub(crate) fn url_round(host: &Host, asked: &Asked, lease: &Lease, answer: &Message) -> Option<Delivery> {
    if answer.error_code() != Some(code::URL_ELICITATION_REQUIRED) {
        return None;
    }
    Voice::of(asked, lease).url_round(&host.held, &host.settings.limits, answer, &asked.message)
}

/// Every held call of the host, by an id that only its state knows.
#[derive(Debug)]
pub(crate) struct Table {
    key: Option<Key>,
    calls: Mutex<HashMap<[u8; 16], Entry>>,
    /// Bytes of answers that are kept.
    kept: AtomicUsize,
}

#[derive(Debug)]
pub(super) struct Entry {
    principal: Principal,
    server: ServerName,
    instance: u64,
    retries: mpsc::Sender<Retry>,
    /// Its end was heard: it makes room when room is needed.
    delivered: bool,
}

/// A held call's entry. [`Place::leave`] gives it back.
pub(super) struct Place {
    pub(super) id: [u8; 16],
    pub(super) retries: mpsc::Receiver<Retry>,
}

impl Place {
    /// Nobody finds the call any more; who had found it already is told so.
    pub(super) async fn leave(mut self, host: &Host) {
        host.held.calls().remove(&self.id);
        self.retries.close();
        while let Ok(Retry { reply, message, .. }) = self.retries.try_recv() {
            fail(reply, &CallError::State, Era::Modern, message.id().as_deref()).await;
        }
    }
}

impl Table {
    /// With a key of this life of the daemon. Without randomness nothing can be held, and that is said when it is tried.
    pub(crate) fn new() -> Self {
        let key = stdx::random::bytes::<32>().ok().and_then(|bytes| Key::new(&bytes));
        if key.is_none() {
            tracing::error!("no key for request states: calls that ask their client will fail");
        }
        Self { key, calls: Mutex::default(), kept: AtomicUsize::new(0) }
    }

    /// A place for one more call of its principal at its server.
    pub(super) fn place(
        &self,
        limits: &Limits,
        principal: &Principal,
        instance: &Instance,
    ) -> Result<Place, CallError> {
        let id = stdx::random::bytes::<16>().map_err(|_| CallError::Unsealed)?;
        if self.key.is_none() {
            return Err(CallError::Unsealed);
        }
        let (server, instance) = (instance.server().clone(), instance.id());
        let mut calls = self.calls();
        // A task that failed left its entry.
        calls.retain(|_, entry| !entry.retries.is_closed());
        let own = |entry: &Entry| entry.principal == *principal;
        let same_server = |entry: &Entry| entry.server == server;
        room(&mut calls, limits.held_per_principal, "principal", own)?;
        room(&mut calls, limits.held_per_server, "server", same_server)?;
        let (sender, retries) = mpsc::channel(RETRIES);
        let entry = Entry { principal: principal.clone(), server, instance, retries: sender, delivered: false };
        calls.insert(id, entry);
        Ok(Place { id, retries })
    }

    /// The call that a state leads to. What the state was bound to is compared once more.
    pub(super) fn find(&self, id: &[u8; 16], voice: &Voice, instance: u64) -> Option<mpsc::Sender<Retry>> {
        let calls = self.calls();
        let entry = calls.get(id)?;
        let own = entry.principal == voice.principal && entry.server == voice.server && entry.instance == instance;
        own.then(|| entry.retries.clone())
    }

    /// Counts an answer that is kept. False where the memory for it is used up.
    pub(super) fn keep(&self, id: &[u8; 16], bytes: usize, delivered: bool, limits: &Limits) -> bool {
        if self.kept.fetch_add(bytes, Ordering::Relaxed) + bytes > limits.held_memory {
            self.unkeep(bytes);
            return false;
        }
        if delivered {
            self.delivered(id);
        }
        true
    }

    pub(super) fn unkeep(&self, bytes: usize) {
        self.kept.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn delivered(&self, id: &[u8; 16]) {
        if let Some(entry) = self.calls().get_mut(id) {
            entry.delivered = true;
        }
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<[u8; 16], Entry>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses where `limit` calls of a kind are held. One whose end was heard makes room.
fn room(
    calls: &mut HashMap<[u8; 16], Entry>,
    limit: usize,
    of: &'static str,
    counts: impl Fn(&Entry) -> bool,
) -> Result<(), CallError> {
    if calls.values().filter(|entry| counts(entry)).count() < limit {
        return Ok(());
    }
    let heard = calls.iter().find(|(_, entry)| counts(entry) && entry.delivered).map(|(id, _)| *id);
    match heard {
        Some(id) => drop(calls.remove(&id)),
        None => return Err(CallError::Held { limit, of }),
    }
    Ok(())
}
