//! Every open session of the host: found by id for its own principal and server alone, counted, ended when idle, and kept
//! in the store, so that another daemon on the same state serves it after this one.

use super::kept::Place;
use super::{NoSession, Opening, Session};
use crate::events::Budget;
use crate::settings::Limits;
use model::report::SessionReport;
use model::{Principal, ServerName, SessionRecord};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use stdx::chain::Chain;
use stdx::clock::{monotonic, unix_ms};
use store::{Store, StoreError};
use tokio::sync::Semaphore;

/// How often the use of sessions is noted in the store.
const NOTED: Duration = Duration::from_secs(60);
/// Sessions of one write: others have their turn in between.
const AT_ONCE: usize = 500;
/// Lookups in the store at one time, of all who ask for a session that this daemon does not know.
const LOOKUPS: usize = 8;
/// How often one looks while others close their sessions.
const LOOKS: usize = 8;
/// How long one waits for its turn to look.
const TURN: Duration = Duration::from_secs(1);

/// Whether a session exists could not be found out. Says nothing about it. Blame: host.
#[derive(Debug, thiserror::Error)]
pub enum NoLookup {
    /// Too many look at once.
    #[error("too many sessions are looked for at once; try again")]
    Busy,
    /// The store failed.
    #[error("the sessions cannot be read now; try again")]
    Store(#[from] StoreError),
    /// It exists and there is no room for it.
    #[error(transparent)]
    Full(#[from] NoSession),
}

/// Every open session of the host.
#[derive(Debug)]
pub(crate) struct Sessions {
    limits: Limits,
    store: Store,
    first_stream: u64,
    lookups: Semaphore,
    noted: Mutex<Instant>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<String, Arc<Session>>,
    /// Closed, and perhaps in the store still: nobody finds them there.
    leaving: HashSet<String>,
    /// How many were closed.
    closed: u64,
    per_principal: HashMap<Principal, Share>,
    per_server: HashMap<ServerName, u32>,
}

/// What one principal has.
#[derive(Debug)]
struct Share {
    sessions: u32,
    budget: Arc<Budget>,
}

/// A session that was looked for.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) session: Arc<Session>,
    /// Only now: another daemon had opened it.
    pub(crate) restored: bool,
}

impl Sessions {
    /// The sessions that earlier daemons left in `store`, as far as their servers exist and their clients came lately; the
    /// others are deleted. `epoch` is this daemon's own number.
    pub(crate) async fn restore(store: Store, limits: Limits, epoch: u64) -> Result<Self, StoreError> {
        let servers: HashSet<ServerName> = store.servers().await?.into_iter().map(|spec| spec.name).collect();
        let records = store.sessions().await?;
        let sessions = Self {
            limits,
            store,
            // Sixteen million streams for each session of each daemon; an epoch has 20 bits.
            first_stream: epoch << 24,
            lookups: Semaphore::new(LOOKUPS),
            noted: Mutex::new(monotonic()),
            table: Mutex::default(),
        };
        let mut over = Vec::new();
        for record in records {
            let id = record.id.clone();
            let living = servers.contains(&record.server) && sessions.used_lately(&record);
            if !living || sessions.readmit(&mut sessions.table(), record).is_err() {
                over.push(id);
            }
        }
        if !over.is_empty() {
            tracing::info!(sessions = over.len(), "sessions of an earlier daemon are over");
            sessions.delete(over).await;
        }
        Ok(sessions)
    }

    /// Opens a session. It is in the store when this returns: no client knows an id that a crash could lose.
    pub(crate) async fn open(&self, opening: Opening) -> Result<Arc<Session>, NoSession> {
        let principal = opening.principal.clone();
        let make = |budget| Session::open(opening, self.place(), budget);
        let session = self.enter(&mut self.table(), &principal, make)?;
        let Some(record) = session.record() else { return Ok(session) };
        if let Err(error) = self.store.open_session(record).await {
            self.close(&session);
            return Err(NoSession::NotKept(error));
        }
        // Closed while it was written: whoever did so may have come too early.
        if session.ended.is_cancelled() {
            self.forget(&session).await;
        }
        Ok(session)
    }

    /// Takes a place in the table for what `make` makes.
    fn enter(
        &self,
        table: &mut Table,
        principal: &Principal,
        make: impl FnOnce(Arc<Budget>) -> Result<Session, NoSession>,
    ) -> Result<Arc<Session>, NoSession> {
        let (all, each) = (self.limits.sessions, self.limits.sessions_per_principal);
        if table.by_id.len() >= all as usize {
            return Err(NoSession::Full { limit: all, per_principal: false });
        }
        let share = table.per_principal.get(principal);
        if share.is_some_and(|share| share.sessions >= each) {
            return Err(NoSession::Full { limit: each, per_principal: true });
        }
        let known = share.map(|share| share.budget.clone());
        let budget = known.unwrap_or_else(|| Budget::new(self.limits.replay_bytes_per_principal));
        let session = Arc::new(make(budget.clone())?);
        let share = table.per_principal.entry(principal.clone());
        share.or_insert(Share { sessions: 0, budget }).sessions += 1;
        *table.per_server.entry(session.server.clone()).or_default() += 1;
        table.by_id.insert(session.id.clone(), session.clone());
        Ok(session)
    }

    fn readmit(&self, table: &mut Table, record: SessionRecord) -> Result<Arc<Session>, NoSession> {
        let principal = record.principal.clone();
        // It may have been used since that was noted, and has not been idle for longer than it has.
        let noted = i64::try_from(self.noted_every().as_millis()).unwrap_or(i64::MAX);
        let used = record.used_at_ms.saturating_add(noted).min(unix_ms());
        self.enter(table, &principal, |budget| {
            Session::restored(record, used, self.place(), budget).ok_or(NoSession::Unreadable)
        })
    }

    fn place(&self) -> Place<'_> {
        Place { limits: &self.limits, store: &self.store, first_stream: self.first_stream }
    }

    fn used_lately(&self, record: &SessionRecord) -> bool {
        let idle = self.limits.session_idle + self.noted_every();
        let since = unix_ms().saturating_sub(record.used_at_ms);
        u128::try_from(since).map_or(true, |since| since < idle.as_millis())
    }

    /// How far behind the store may be about the use of a session.
    fn noted_every(&self) -> Duration {
        NOTED.min(self.limits.session_idle / 4)
    }

    /// The session, if it is this principal's at this server. Another's looks like none (E120, E124, E125). What this
    /// daemon does not know, another one may have opened a moment ago: the store is asked, for its owner alone, so that
    /// another's costs as much as none.
    pub(crate) async fn find(
        &self,
        id: &str,
        principal: &Principal,
        client: &str,
        server: &ServerName,
    ) -> Result<Option<Found>, NoLookup> {
        let known = self.table().by_id.get(id).cloned();
        let own =
            |s: &Arc<Session>| s.caller.principal == *principal && s.caller.client == client && s.server == *server;
        if let Some(session) = known.filter(own) {
            return Ok(Some(Found { session, restored: false }));
        }
        if !stdx::random::is_handle(id) {
            return Ok(None);
        }
        let turn = tokio::time::timeout(TURN, self.lookups.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(NoLookup::Busy) };
        for _ in 0..LOOKS {
            let before = self.table().closed;
            let Some(record) = self.store.session(id, principal, client, server).await? else { return Ok(None) };
            let mut table = self.table();
            // What was read may have been closed meanwhile.
            if table.closed != before {
                continue;
            }
            let known = table.by_id.get(id).cloned();
            return match known.filter(own) {
                Some(session) => Ok(Some(Found { session, restored: false })),
                None if table.leaving.contains(id) || !self.used_lately(&record) => Ok(None),
                None => Ok(Some(Found { session: self.readmit(&mut table, record)?, restored: true })),
            };
        }
        Err(NoLookup::Busy)
    }

    /// Ends a session: from now on nobody finds it. [`Sessions::forget`] must follow.
    pub(crate) fn close(&self, session: &Arc<Session>) {
        let mut table = self.table();
        if table.by_id.remove(&session.id).is_some() {
            table.one_less(session);
            if !session.channel {
                table.closed += 1;
                table.leaving.insert(session.id.clone());
            }
        }
        // A table that was large once need not stay so.
        if table.by_id.capacity() > 64 && table.by_id.len() < table.by_id.capacity() / 4 {
            table.by_id.shrink_to_fit();
        }
        drop(table);
        session.end();
    }

    /// Deletes a closed session from the store too. Where that fails it is tried again later.
    pub(crate) async fn forget(&self, session: &Arc<Session>) {
        if !session.channel {
            self.delete(vec![session.id.clone()]).await;
        }
    }

    /// The same for all of a server that is no more.
    pub(crate) async fn close_all(&self, server: &ServerName) {
        let closed = self.of_server(server);
        for session in &closed {
            self.close(session);
        }
        self.delete(closed.into_iter().filter(|s| !s.channel).map(|s| s.id.clone()).collect()).await;
        if let Err(error) = self.store.end_sessions_of(server).await {
            tracing::warn!(%server, error = %Chain(&error), "sessions of a removed server are in the store still");
        }
    }

    async fn delete(&self, ids: Vec<String>) {
        for some in ids.chunks(AT_ONCE) {
            match self.store.end_sessions(some.to_vec()).await {
                Ok(()) => {
                    let mut table = self.table();
                    table.leaving.retain(|id| !some.contains(id));
                }
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "sessions that have ended are in the store still");
                    return;
                }
            }
        }
    }

    /// Brings the store up to date about which sessions were used and which have ended, not too often unless it must be
    /// `now`.
    pub(crate) async fn note(&self, now: bool) {
        let due = {
            let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
            let due = now || noted.elapsed() >= self.noted_every();
            if due {
                *noted = monotonic();
            }
            due
        };
        if !due {
            return;
        }
        let (all, leaving) = {
            let table = self.table();
            (table.by_id.values().cloned().collect::<Vec<_>>(), table.leaving.iter().cloned().collect::<Vec<_>>())
        };
        self.delete(leaving).await;
        for session in &all {
            for stream in session.lost_calls() {
                session.call_over(stream).await;
            }
        }
        let used: Vec<(Arc<Session>, i64)> =
            all.into_iter().filter_map(|session| session.unkept_use().map(|at_ms| (session, at_ms))).collect();
        for some in used.chunks(AT_ONCE) {
            let times = some.iter().map(|(session, at_ms)| (session.id.clone(), *at_ms)).collect();
            match self.store.use_sessions(times).await {
                Ok(()) => some.iter().for_each(|(session, at_ms)| session.use_is_kept(*at_ms)),
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "the use of sessions is not noted in the store");
                    return;
                }
            }
        }
    }

    /// Sessions without a stream whose last request is older than `idle`. Of all others, what was kept too long goes.
    pub(crate) fn expired(&self, idle: Duration) -> Vec<Arc<Session>> {
        let before = stdx::clock::unix_ms().saturating_sub(i64::try_from(idle.as_millis()).unwrap_or(i64::MAX));
        let all: Vec<Arc<Session>> = self.table().by_id.values().cloned().collect();
        for session in &all {
            session.sweep();
        }
        all.into_iter().filter(|s| s.idle_since_ms().is_some_and(|at| at < before)).collect()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.table().by_id.values().cloned().collect()
    }

    /// Whosever it is.
    pub(crate) fn by_id(&self, id: &str) -> Option<Arc<Session>> {
        self.table().by_id.get(id).cloned()
    }

    pub(crate) fn of_server(&self, server: &ServerName) -> Vec<Arc<Session>> {
        self.table().by_id.values().filter(|s| s.server == *server).cloned().collect()
    }

    /// How many are open for a server.
    pub(crate) fn count(&self, server: &ServerName) -> u32 {
        self.table().per_server.get(server).copied().unwrap_or_default()
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

impl Table {
    fn one_less(&mut self, session: &Session) {
        if let Some(share) = self.per_principal.get_mut(&session.caller.principal) {
            share.sessions -= 1;
            if share.sessions == 0 {
                self.per_principal.remove(&session.caller.principal);
            }
        }
        if let Some(count) = self.per_server.get_mut(&session.server) {
            *count -= 1;
            if *count == 0 {
                self.per_server.remove(&session.server);
            }
        }
    }
}
