//! Legacy protocol sessions: cheap entries that outlive the processes behind them, bound to one principal and one server.

use crate::instance::Instance;
use crate::key::Caller;
use crate::level::Level;
use bytes::Bytes;
use model::report::SessionReport;
use model::{Blame, Principal, ServerName};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wire::bridge;
use wire::code;
use wire::era::Revision;
use wire::message::Message;

/// Messages that wait for the session's next GET stream; the oldest go first.
const KEPT: usize = 32;
/// Bytes that wait for it.
const KEPT_BYTES: usize = 64 << 10;
/// Messages that a GET stream may be behind.
const STREAM: usize = 256;
/// Bytes that it may be behind. One message is always taken, however large.
const STREAM_BYTES: usize = 4 << 20;
/// Requests of servers that a client may leave unanswered.
const ASKS: usize = 64;

/// Why a session could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum NoSession {
    /// Too many are open.
    #[error("{limit} sessions are open, which is the limit{}; end some or try again later", if *per_principal { " for one principal" } else { "" })]
    Full { limit: u32, per_principal: bool },
    /// No identifier could be made.
    #[error(transparent)]
    NoRandomness(#[from] stdx::random::NoRandomness),
}

impl NoSession {
    /// Who has to act.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Full { per_principal: true, .. } => Blame::Caller,
            Self::Full { .. } | Self::NoRandomness(_) => Blame::Host,
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
}

/// A message for a session's GET stream: one JSON-RPC message without line breaks.
pub type Outbound = Vec<u8>;

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
    next_ask: AtomicU64,
    ended: CancellationToken,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stream: Option<Stream>,
    kept: VecDeque<Outbound>,
    level: Option<Level>,
    subscriptions: HashSet<String>,
    asks: HashMap<u64, Ask>,
}

/// The sending end of a GET stream.
#[derive(Debug)]
struct Stream {
    sender: mpsc::Sender<Outbound>,
    /// Bytes that were sent and not taken yet.
    behind: Arc<AtomicUsize>,
}

/// What is sent on a GET stream, for its one reader.
#[derive(Debug)]
pub struct Messages {
    receiver: mpsc::Receiver<Outbound>,
    behind: Arc<AtomicUsize>,
}

impl Messages {
    /// The next message; `None` when the stream has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Outbound> {
        let message = self.receiver.recv().await?;
        self.behind.fetch_sub(message.len(), Ordering::Relaxed);
        Some(message)
    }
}

impl Stream {
    fn new() -> (Self, Messages) {
        let (sender, receiver) = mpsc::channel(STREAM);
        let behind = Arc::new(AtomicUsize::new(0));
        (Self { sender, behind: behind.clone() }, Messages { receiver, behind })
    }

    /// False if nobody reads it any more. A reader that is too far behind loses the message rather than holding up the
    /// server or our memory.
    fn send(&self, message: Outbound) -> bool {
        if self.sender.is_closed() {
            return false;
        }
        let (size, behind) = (message.len(), self.behind.load(Ordering::Relaxed));
        if behind > 0 && behind + size > STREAM_BYTES {
            return true;
        }
        // Counted first: the reader may take it at once.
        self.behind.fetch_add(size, Ordering::Relaxed);
        match self.sender.try_send(message) {
            Ok(()) => true,
            Err(unsent) => {
                self.behind.fetch_sub(size, Ordering::Relaxed);
                matches!(unsent, mpsc::error::TrySendError::Full(_))
            }
        }
    }
}

/// A request of a server that the client has not answered.
#[derive(Debug)]
struct Ask {
    instance: Weak<Instance>,
    instance_id: u64,
    server_id: Vec<u8>,
}

impl Session {
    fn open(opening: Opening) -> Result<Self, NoSession> {
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
            next_ask: AtomicU64::new(1),
            ended: CancellationToken::new(),
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

    /// Opens the session's GET stream, with what waited for it. An older stream ends: one message goes to one stream
    /// only (E75), and a client that comes back may have left a dead connection behind.
    pub fn open_stream(&self) -> Messages {
        let (stream, messages) = Stream::new();
        let mut state = self.state();
        for message in state.kept.drain(..) {
            stream.send(message);
        }
        state.stream = Some(stream);
        messages
    }

    /// The least severity that its client asked for.
    pub fn level(&self) -> Option<Level> {
        self.state().level
    }

    /// Its client asked for messages of at least `level`.
    pub fn set_level(&self, level: Level) {
        self.state().level = Some(level);
    }

    /// Its client subscribed to `uri`.
    pub fn subscribe(&self, uri: &str) {
        let mut state = self.state();
        if state.subscriptions.len() < 1024 {
            state.subscriptions.insert(uri.to_owned());
        }
    }

    /// Its client no longer wants `uri`.
    pub fn unsubscribe(&self, uri: &str) {
        self.state().subscriptions.remove(uri);
    }

    /// Whether an update of `uri` concerns it: subscribed to it, or to a parent of it.
    pub(crate) fn subscribed(&self, uri: &str) -> bool {
        self.state().subscriptions.iter().any(|wanted| uri.starts_with(wanted.as_str()))
    }

    pub(crate) fn subscribed_exactly(&self, uri: &str) -> bool {
        self.state().subscriptions.contains(uri)
    }

    /// The client answered request `id` of a server: passes it on. Unknown ids are dropped (E79).
    pub fn answer(&self, message: &Message) {
        let id = message.id().and_then(|raw| crate::route::number(&raw));
        let Some(ask) = id.and_then(|id| self.state().asks.remove(&id)) else { return };
        if let Some(instance) = ask.instance.upgrade() {
            let mut line = Vec::new();
            bridge::answer_line(&mut line, message, &ask.server_id);
            let _ = instance.send(line);
        }
    }

    /// A number for a server's request, remembered until it is answered. `None` when too many are open.
    pub(crate) fn expect_answer(&self, instance: &Arc<Instance>, server_id: &[u8]) -> Option<u64> {
        let mut state = self.state();
        if state.asks.len() >= ASKS {
            // What a process asked that has ended meanwhile, nobody waits for.
            state.asks.retain(|_, ask| ask.instance.strong_count() > 0);
        }
        if state.asks.len() >= ASKS {
            return None;
        }
        let id = self.next_ask.fetch_add(1, Ordering::Relaxed);
        let ask = Ask { instance: Arc::downgrade(instance), instance_id: instance.id, server_id: server_id.to_vec() };
        state.asks.insert(id, ask);
        Some(id)
    }

    pub(crate) fn forget_ask(&self, instance_id: u64, server_id: &[u8]) -> Option<u64> {
        let mut state = self.state();
        let found = state.asks.iter().find(|(_, a)| a.instance_id == instance_id && a.server_id == server_id);
        let id = *found?.0;
        state.asks.remove(&id);
        Some(id)
    }

    /// Sends on the GET stream if one is open and not too far behind.
    pub(crate) fn try_stream(&self, message: Outbound) -> bool {
        let mut state = self.state();
        let taken = state.stream.as_ref().is_some_and(|stream| stream.send(message));
        if !taken {
            state.stream = None;
        }
        taken
    }

    /// Keeps a message for the next GET stream. One list change is as good as many.
    pub(crate) fn keep(&self, message: Outbound) {
        let mut state = self.state();
        if state.kept.contains(&message) {
            return;
        }
        if message.len() > KEPT_BYTES {
            return;
        }
        let mut bytes: usize = state.kept.iter().map(Vec::len).sum();
        while state.kept.len() == KEPT || bytes + message.len() > KEPT_BYTES {
            bytes -= state.kept.pop_front().map_or(0, |oldest| oldest.len());
        }
        state.kept.push_back(message);
    }

    /// A request came in.
    pub fn touch(&self) {
        self.last_used_ms.store(stdx::clock::unix_ms(), Ordering::Relaxed);
    }

    fn idle_since_ms(&self) -> Option<i64> {
        let mut state = self.state();
        if state.stream.as_ref().is_some_and(|s| s.sender.is_closed()) {
            state.stream = None;
            self.touch();
        }
        if state.stream.is_some() { None } else { Some(self.last_used_ms.load(Ordering::Relaxed)) }
    }

    /// Ends it: its stream closes, and servers that wait for its client hear that nobody will answer.
    fn end(&self) {
        self.ended.cancel();
        let mut state = self.state();
        state.stream = None;
        let asks: Vec<Ask> = state.asks.drain().map(|(_, ask)| ask).collect();
        drop(state);
        for ask in asks {
            if let Some(instance) = ask.instance.upgrade() {
                let mut line = Vec::new();
                bridge::reply_line(&mut line, &ask.server_id, Err((code::INTERNAL, "the client ended its session")));
                let _ = instance.send(line);
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
            stream: self.state().stream.as_ref().is_some_and(|s| !s.sender.is_closed()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every open session of the host.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<String, Arc<Session>>,
    per_principal: HashMap<Principal, u32>,
}

impl Sessions {
    pub(crate) fn open(&self, opening: Opening, all: u32, each: u32) -> Result<Arc<Session>, NoSession> {
        let session = Arc::new(Session::open(opening)?);
        let mut table = self.table();
        if table.by_id.len() >= all as usize {
            return Err(NoSession::Full { limit: all, per_principal: false });
        }
        let count = table.per_principal.entry(session.caller.principal.clone()).or_default();
        if *count >= each {
            return Err(NoSession::Full { limit: each, per_principal: true });
        }
        *count += 1;
        table.by_id.insert(session.id.clone(), session.clone());
        Ok(session)
    }

    /// The session, if it is this principal's at this server. Another's looks like none (E120, E124, E125).
    pub(crate) fn find(
        &self,
        id: &str,
        principal: &Principal,
        client: &str,
        server: &ServerName,
    ) -> Option<Arc<Session>> {
        let session = self.table().by_id.get(id)?.clone();
        let own =
            session.caller.principal == *principal && session.caller.client == client && session.server == *server;
        own.then_some(session)
    }

    pub(crate) fn close(&self, session: &Arc<Session>) {
        let mut table = self.table();
        if table.by_id.remove(&session.id).is_some() {
            let gone = match table.per_principal.get_mut(&session.caller.principal) {
                Some(count) => {
                    *count -= 1;
                    *count == 0
                }
                None => false,
            };
            if gone {
                table.per_principal.remove(&session.caller.principal);
            }
        }
        // A table that was large once need not stay so.
        if table.by_id.capacity() > 64 && table.by_id.len() < table.by_id.capacity() / 4 {
            table.by_id.shrink_to_fit();
        }
        drop(table);
        session.end();
    }

    /// Sessions without a stream whose last request is older than `idle`.
    pub(crate) fn expired(&self, idle: Duration) -> Vec<Arc<Session>> {
        let before = stdx::clock::unix_ms().saturating_sub(i64::try_from(idle.as_millis()).unwrap_or(i64::MAX));
        let all: Vec<Arc<Session>> = self.table().by_id.values().cloned().collect();
        all.into_iter().filter(|s| s.idle_since_ms().is_some_and(|at| at < before)).collect()
    }

    pub(crate) fn of_server(&self, server: &ServerName) -> Vec<Arc<Session>> {
        self.table().by_id.values().filter(|s| s.server == *server).cloned().collect()
    }

    pub(crate) fn reports(&self, server: Option<&ServerName>) -> Vec<SessionReport> {
        let all: Vec<Arc<Session>> = self.table().by_id.values().cloned().collect();
        let mut reports: Vec<SessionReport> =
            all.iter().filter(|s| server.is_none_or(|wanted| s.server == *wanted)).map(|s| s.report()).collect();
        reports.sort_by_key(|r| r.opened_at_ms);
        reports
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        let opening = Opening {
            server: "s".parse().unwrap(),
            principal: "ann".parse().unwrap(),
            client: String::new(),
            revision: Revision::LATEST_LEGACY,
            capabilities: Bytes::from_static(b"{}"),
            client_info: Bytes::from_static(b"{}"),
            label: String::new(),
        };
        Session::open(opening).unwrap()
    }

    #[tokio::test]
    async fn a_stream_that_nobody_reads_holds_bounded_memory() {
        let session = session();
        let mut messages = session.open_stream();
        for _ in 0..3 {
            for _ in 0..100 {
                assert!(session.try_stream(vec![b'x'; 1 << 20]), "a slow reader is no reason to look for another way");
            }
            for _ in 0..4 {
                assert_eq!(messages.next().await.unwrap().len(), 1 << 20);
            }
            let more = tokio::time::timeout(Duration::from_millis(1), messages.next()).await;
            assert!(more.is_err(), "the fifth was lost");
        }
        assert!(session.try_stream(vec![b'x'; 2 * STREAM_BYTES]), "one large message gets through");
        assert_eq!(messages.next().await.unwrap().len(), 2 * STREAM_BYTES);
        drop(messages);
        assert!(!session.try_stream(vec![b'x']), "nobody reads");
    }

    #[tokio::test]
    async fn what_waits_for_a_stream_is_bounded_and_the_newest() {
        let session = session();
        for n in 0..100_u8 {
            session.keep(vec![n; 10_000]);
        }
        session.keep(vec![0; KEPT_BYTES + 1]);
        let mut messages = session.open_stream();
        for n in 94..100 {
            assert_eq!(messages.next().await.unwrap(), vec![n; 10_000]);
        }
        assert!(tokio::time::timeout(Duration::from_millis(1), messages.next()).await.is_err());
    }
}
