//! Legacy protocol sessions: cheap entries that outlive the processes behind them, bound to one principal and one server.

mod kept;
mod table;

use crate::events::{Bounds, Budget, NotKept, Reader, Sent, Streams, Writer};
use crate::instance::Instance;
use crate::key::Caller;
use crate::level::Level;
use bytes::Bytes;
use model::report::SessionReport;
use model::{Blame, Principal, ServerName};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};
use stdx::clock::monotonic;
use store::Store;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wire::bridge;
use wire::code;
use wire::era::Revision;
use wire::message::{Message, Shape};
use wire::scan::{self, Side};
use wire::subscription::MOST_URIS;

use kept::Place;
pub use kept::Underway;
pub use table::NoLookup;
pub(crate) use table::Sessions;

/// Messages that wait for the session's next GET stream; the oldest go first.
const KEPT: usize = 32;
/// Bytes that wait for it.
const KEPT_BYTES: usize = 64 << 10;
/// Requests of servers that a client may leave unanswered.
const ASKS: usize = 64;

const NO_STREAM: &str = "the client reads no stream that could carry this request";

/// Why a session could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum NoSession {
    /// Too many are open.
    #[error("{limit} sessions are open, which is the limit{}; end some or try again later", if *per_principal { " for one principal" } else { "" })]
    Full { limit: u32, per_principal: bool },
    /// It could not be stored, and so would be lost with this daemon.
    #[error("the session could not be stored; try again, and tell the operator if it stays so")]
    NotKept(#[source] store::StoreError),
    /// What is kept of it is from a version that this one does not know.
    #[error("what is kept of this session cannot be read")]
    Unreadable,
    /// No identifier could be made.
    #[error(transparent)]
    NoRandomness(#[from] stdx::random::NoRandomness),
}

impl NoSession {
    /// Who has to act.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Full { per_principal: true, .. } => Blame::Caller,
            Self::Full { .. } | Self::NotKept(_) | Self::Unreadable | Self::NoRandomness(_) => Blame::Host,
        }
    }
}

/// What a client said when it opened its session.
#[derive(Clone, Debug)]
pub struct Opening {
    /// For which server.
    pub server: ServerName,
    /// Who acts.
    pub principal: Principal,
    /// The OAuth client, empty where there is none.
    pub client: String,
    /// The negotiated revision.
    pub revision: Revision,
    /// Its `capabilities`, canonical.
    pub capabilities: Bytes,
    /// Its raw `clientInfo`.
    pub client_info: Bytes,
    /// `name version`, for people.
    pub label: String,
    /// The one stream of an HTTP+SSE connection that is this session; without it, streams open one by one.
    pub channel: Option<Arc<Streams>>,
}

/// A message for a session's GET stream: one JSON-RPC message.
pub(crate) type Outbound = Vec<u8>;

/// One session.
#[derive(Debug)]
pub struct Session {
    id: String,
    server: ServerName,
    caller: Caller,
    revision: Revision,
    client_info: Bytes,
    label: String,
    opened_at_ms: i64,
    last_used_ms: AtomicI64,
    /// What the store knows of that.
    kept_used_ms: AtomicI64,
    next_ask: AtomicU64,
    ended: CancellationToken,
    /// There from its first stream on: most sessions never open one.
    streams: OnceLock<Arc<Streams>>,
    first_stream: u64,
    /// The session is its HTTP+SSE connection.
    channel: bool,
    bounds: Bounds,
    ask_waits: Duration,
    budget: Arc<Budget>,
    /// Where it is kept; a connection is not.
    kept: Option<Store>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kept: VecDeque<Kept>,
    level: Option<Level>,
    subscriptions: HashSet<String>,
    /// Streams whose calls are kept in the store.
    kept_calls: HashSet<u64>,
    asks: HashMap<u64, Ask>,
}

/// A message that waits for a GET stream.
#[derive(Debug)]
struct Kept {
    message: Outbound,
    /// The number of a server's request, and since when it waits.
    ask: Option<(u64, Instant)>,
}

/// A request that the client has not answered.
#[derive(Debug)]
enum Ask {
    /// Of a legacy server.
    Server { instance: Weak<Instance>, instance_id: u64, server_id: Vec<u8> },
    /// Of a call that a modern server will finish with the answer.
    Call(Asker),
}

/// Where the answer to one request of a call goes.
#[derive(Debug)]
pub struct Asker {
    /// Which of the call's requests.
    pub place: usize,
    /// Takes the answer; has room for it.
    pub answers: mpsc::Sender<(usize, Message)>,
}

impl Ask {
    /// Whether somebody waits for the answer still.
    fn awaited(&self) -> bool {
        match self {
            Self::Server { instance, .. } => instance.strong_count() > 0,
            Self::Call(asker) => !asker.answers.is_closed(),
        }
    }

    /// Tells who asked that nobody will answer.
    fn refuse(self, why: &str) {
        match self {
            Self::Server { instance, server_id, .. } => {
                if let Some(instance) = instance.upgrade() {
                    let mut line = Vec::new();
                    bridge::reply_line(&mut line, &server_id, Err((code::INTERNAL, why)));
                    let _ = instance.send(line);
                }
            }
            Self::Call(asker) => {
                let body = Bytes::from(code::error_body(Some(b"0"), code::INTERNAL, why, None));
                let limits = scan::Limits { bytes: body.len(), depth: 8 };
                if let Ok(refusal) = Message::parse(body, Side::Client, &limits) {
                    let _ = asker.answers.try_send((asker.place, refusal));
                }
            }
        }
    }
}

impl State {
    /// The servers' requests that had to go to make room.
    fn keep(&mut self, message: Kept) -> Vec<u64> {
        let mut gone = Vec::new();
        let mut bytes: usize = self.kept.iter().map(|kept| kept.message.len()).sum();
        while self.kept.len() == KEPT || bytes + message.message.len() > KEPT_BYTES {
            let Some(oldest) = self.kept.pop_front() else { break };
            bytes -= oldest.message.len();
            gone.extend(oldest.ask.map(|(id, _)| id));
        }
        self.kept.push_back(message);
        gone
    }
}

impl Session {
    fn open(opening: Opening, place: Place<'_>, budget: Arc<Budget>) -> Result<Self, NoSession> {
        let id = stdx::random::handle()?;
        let now = stdx::clock::unix_ms();
        Ok(Self {
            caller: Caller {
                principal: opening.principal,
                client: opening.client,
                session: Some(id.clone()),
                profile: opening.capabilities,
                client_info: Some(opening.client_info.clone()),
            },
            id,
            server: opening.server,
            revision: opening.revision,
            client_info: opening.client_info,
            label: opening.label,
            opened_at_ms: now,
            last_used_ms: AtomicI64::new(now),
            kept_used_ms: AtomicI64::new(now),
            // As streams: the answer to what an earlier daemon passed on is taken for nobody else's.
            next_ask: AtomicU64::new(place.first_stream.max(1)),
            ended: CancellationToken::new(),
            channel: opening.channel.is_some(),
            kept: opening.channel.is_none().then(|| place.store.clone()),
            streams: opening.channel.map(OnceLock::from).unwrap_or_default(),
            first_stream: place.first_stream,
            bounds: place.limits.replay(),
            ask_waits: place.limits.ask_waits,
            budget,
            state: Mutex::default(),
        })
    }

    /// The `Mcp-Session-Id`: 160 unpredictable bits, visible ASCII (E117, E118). An address, never a credential (E123).
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The negotiated revision.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Its server.
    pub fn server(&self) -> &ServerName {
        &self.server
    }

    /// Who it belongs to, and what its client can do.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Raw `clientInfo`.
    pub fn client_info(&self) -> &Bytes {
        &self.client_info
    }

    /// Ends with the session.
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Whether the session is its HTTP+SSE connection, and so nothing that another request could name.
    pub fn is_channel(&self) -> bool {
        self.channel
    }

    /// Whether its client understands an event that has an id and no data (E76).
    pub fn primes(&self) -> bool {
        self.revision >= Revision::V20251125
    }

    fn open_standing(&self) -> Reader {
        let mut state = self.state();
        let reader = self.streams().open_standing();
        self.send_kept(&mut state);
        reader
    }

    /// Opens the stream of one request.
    pub fn open_request_stream(&self) -> (Writer, Reader) {
        self.streams().open()
    }

    /// Goes on with a stream of this session after the event `last` (E130). The ids of other sessions are as unknown as
    /// those that never were (E131, E132).
    pub fn resume(&self, last: &[u8]) -> Result<Reader, NotKept> {
        let mut state = self.state();
        let reader = self.streams.get().ok_or(NotKept)?.resume(last)?;
        if reader.is_standing() {
            self.send_kept(&mut state);
        }
        Ok(reader)
    }

    fn send_kept(&self, state: &mut State) {
        for kept in std::mem::take(&mut state.kept) {
            self.streams().send(kept.message.into());
        }
    }

    fn streams(&self) -> &Arc<Streams> {
        let streams = self.streams.get_or_init(|| Streams::new(self.bounds, self.budget.clone(), self.first_stream));
        // A session that ended while its first stream was opened: nobody else would end the stream.
        if self.ended.is_cancelled() {
            streams.end();
        }
        streams
    }

    /// The least severity that its client asked for.
    pub fn level(&self) -> Option<Level> {
        self.state().level
    }

    /// Whether it is new.
    fn note_subscription(&self, uri: &str) -> bool {
        let mut state = self.state();
        state.subscriptions.len() < MOST_URIS && state.subscriptions.insert(uri.to_owned())
    }

    /// What its client is subscribed to.
    pub(crate) fn subscriptions(&self) -> Vec<String> {
        self.state().subscriptions.iter().cloned().collect()
    }

    /// The client answered request `id` of a server: passes it on. False for an unknown id, whose answer is dropped (E79).
    pub fn answer(&self, message: &Message) -> bool {
        let id = message.id().and_then(|raw| crate::route::number(&raw));
        let ask = id.and_then(|id| self.state().asks.remove(&id));
        let known = ask.is_some();
        match ask {
            Some(Ask::Server { instance, server_id, .. }) => {
                if let Some(instance) = instance.upgrade() {
                    let mut line = Vec::new();
                    bridge::answer_line(&mut line, message, &server_id);
                    let _ = instance.send(line);
                }
            }
            // A call that no longer waits needs no answer.
            Some(Ask::Call(asker)) => drop(asker.answers.try_send((asker.place, message.clone()))),
            None => {}
        }
        known
    }

    /// A number for a request of a call to the client. The answer goes to `asker`, once; its sender is dropped when none
    /// can come any more. `None` when too many requests are open, or the session has ended.
    pub fn ask(&self, asker: Asker) -> Option<u64> {
        self.number(Ask::Call(asker))
    }

    /// Nobody waits for the answer to request `id` any more. False if it was answered.
    pub fn take_back(&self, id: u64) -> bool {
        self.state().asks.remove(&id).is_some()
    }

    /// A number for a server's request, remembered until it is answered. `None` when too many are open.
    pub(crate) fn expect_answer(&self, instance: &Arc<Instance>, server_id: &[u8]) -> Option<u64> {
        let instance_id = instance.id;
        self.number(Ask::Server { instance: Arc::downgrade(instance), instance_id, server_id: server_id.to_vec() })
    }

    fn number(&self, ask: Ask) -> Option<u64> {
        let mut state = self.state();
        if state.asks.len() >= ASKS {
            // What a process asked that has ended meanwhile, nobody waits for.
            state.asks.retain(|_, ask| ask.awaited());
        }
        if state.asks.len() >= ASKS || self.ended.is_cancelled() {
            return None;
        }
        let id = self.next_ask.fetch_add(1, Ordering::Relaxed);
        state.asks.insert(id, ask);
        Some(id)
    }

    pub(crate) fn forget_ask(&self, instance_id: u64, server_id: &[u8]) -> Option<u64> {
        let mut state = self.state();
        let is_it = |ask: &Ask| matches!(ask, Ask::Server { instance_id: i, server_id: s, .. } if *i == instance_id && s == server_id);
        let found = state.asks.iter().find(|(_, ask)| is_it(ask));
        let id = *found?.0;
        state.asks.remove(&id);
        Some(id)
    }

    /// Sends on the GET stream if one is open. A reader that is too far behind loses the message rather than holding up
    /// the server or our memory.
    pub(crate) fn try_stream(&self, message: Outbound) -> bool {
        self.streams.get().is_some_and(|streams| streams.send(message.into()) != Sent::Nobody)
    }

    /// Keeps a message for the next GET stream, unless one was opened meanwhile. One list change is as good as many.
    pub(crate) fn keep(&self, message: Outbound) {
        let mut state = self.state();
        if self.streams.get().is_some_and(|streams| streams.standing()) {
            self.try_stream(message);
            return;
        }
        if message.len() > KEPT_BYTES || state.kept.iter().any(|kept| kept.message == message) {
            return;
        }
        let dropped = state.keep(Kept { message, ask: None });
        drop(state);
        self.refuse_all(dropped, NO_STREAM);
    }

    /// Sends request `id` of a server on the GET stream, or keeps it for a while until one is opened; else the server
    /// hears at once that nobody will answer.
    pub(crate) fn put_ask(&self, id: u64, message: Outbound) {
        let mut state = self.state();
        let sent = self.streams.get().map_or(Sent::Nobody, |streams| streams.send(Bytes::copy_from_slice(&message)));
        let refused = match sent {
            Sent::Taken => Vec::new(),
            Sent::Nobody if message.len() <= KEPT_BYTES => state.keep(Kept { message, ask: Some((id, monotonic())) }),
            Sent::Nobody | Sent::Behind => vec![id],
        };
        drop(state);
        self.refuse_all(refused, NO_STREAM);
    }

    /// What a call could not bring to its client on its own stream: a request of a server, or a word about one.
    pub fn reroute(&self, message: Vec<u8>) {
        let limits = scan::Limits { bytes: message.len(), depth: 128 };
        let parsed = Message::parse(Bytes::copy_from_slice(&message), Side::Server, &limits);
        let id = parsed.ok().filter(|m| m.shape() == Shape::Request).and_then(|m| crate::route::number(&m.id()?));
        match id {
            Some(id) => self.put_ask(id, message),
            None => self.keep(message),
        }
    }

    /// Tells the servers that asked that nobody will answer.
    fn refuse_all(&self, ids: Vec<u64>, why: &str) {
        for id in ids {
            let Some(ask) = self.state().asks.remove(&id) else { continue };
            ask.refuse(why);
        }
    }

    /// Requests that waited too long for a stream are refused; streams that were kept long enough are forgotten.
    fn sweep(&self) {
        if let Some(streams) = self.streams.get() {
            streams.sweep();
        }
        let now = monotonic();
        let late = |kept: &Kept| kept.ask.filter(|(_, since)| now.saturating_duration_since(*since) >= self.ask_waits);
        let mut state = self.state();
        let refused: Vec<u64> = state.kept.iter().filter_map(late).map(|(id, _)| id).collect();
        state.kept.retain(|kept| late(kept).is_none());
        drop(state);
        self.refuse_all(refused, NO_STREAM);
    }

    /// A request came in.
    pub fn touch(&self) {
        self.last_used_ms.store(stdx::clock::unix_ms(), Ordering::Relaxed);
    }

    /// Whether a connection reads a stream of it.
    pub(crate) fn is_read(&self) -> bool {
        self.streams.get().is_some_and(|streams| streams.read())
    }

    /// Since when nothing happened in it; `None` while a connection reads a stream of it.
    fn idle_since_ms(&self) -> Option<i64> {
        if self.is_read() { None } else { Some(self.last_used_ms.load(Ordering::Relaxed)) }
    }

    /// Ends it: its streams close, and servers that wait for its client hear that nobody will answer.
    fn end(&self) {
        self.ended.cancel();
        if let Some(streams) = self.streams.get() {
            streams.end();
        }
        let asks: Vec<Ask> = self.state().asks.drain().map(|(_, ask)| ask).collect();
        for ask in asks {
            // A call hears it by its closed channel.
            if matches!(ask, Ask::Server { .. }) {
                ask.refuse("the client ended its session");
            }
        }
    }

    fn report(&self) -> SessionReport {
        SessionReport {
            id_prefix: self.id.get(..6).unwrap_or_default().to_owned(),
            server: self.server.clone(),
            principal: self.caller.principal.clone(),
            revision: self.revision.as_str().to_owned(),
            client: self.label.clone(),
            opened_at_ms: self.opened_at_ms,
            last_used_at_ms: self.last_used_ms.load(Ordering::Relaxed),
            stream: self.streams.get().is_some_and(|streams| streams.standing()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(store: &Store) -> Session {
        let opening = Opening {
            server: "s".parse().unwrap(),
            principal: "ann".parse().unwrap(),
            client: String::new(),
            revision: Revision::LATEST_LEGACY,
            capabilities: Bytes::from_static(b"{}"),
            client_info: Bytes::from_static(b"{}"),
            label: String::new(),
            channel: None,
        };
        let place = Place { limits: &crate::Limits::default(), store, first_stream: 0 };
        Session::open(opening, place, Budget::new(1 << 30)).unwrap()
    }

    #[tokio::test]
    async fn what_waits_for_a_stream_is_bounded_and_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(store::Location::Sqlite(dir.path().join("db"))).await.unwrap();
        let session = session(&store);
        for n in 0..100_u8 {
            session.keep(vec![n; 10_000]);
        }
        session.keep(vec![0; KEPT_BYTES + 1]);
        let mut reader = session.open_stream().await;
        for n in 94..100 {
            assert_eq!(reader.next().await.unwrap().1, vec![n; 10_000]);
        }
        assert!(tokio::time::timeout(Duration::from_millis(1), reader.next()).await.is_err());
    }
}
