//! Every open session of the host: found by id for its own principal and server alone, counted, and ended when idle.

use super::{NoSession, Opening, Session};
use crate::events::Budget;
use crate::settings::Limits;
use model::report::SessionReport;
use model::{Principal, ServerName};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Every open session of the host.
#[derive(Debug)]
pub(crate) struct Sessions {
    limits: Limits,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<String, Arc<Session>>,
    per_principal: HashMap<Principal, Share>,
    per_server: HashMap<ServerName, u32>,
}

/// What one principal has.
#[derive(Debug)]
struct Share {
    sessions: u32,
    budget: Arc<Budget>,
}

impl Sessions {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, table: Mutex::default() }
    }

    pub(crate) fn open(&self, opening: Opening) -> Result<Arc<Session>, NoSession> {
        let (all, each) = (self.limits.sessions, self.limits.sessions_per_principal);
        let mut table = self.table();
        if table.by_id.len() >= all as usize {
            return Err(NoSession::Full { limit: all, per_principal: false });
        }
        let share = table.per_principal.get(&opening.principal);
        if share.is_some_and(|share| share.sessions >= each) {
            return Err(NoSession::Full { limit: each, per_principal: true });
        }
        let known = share.map(|share| share.budget.clone());
        let budget = known.unwrap_or_else(|| Budget::new(self.limits.replay_bytes_per_principal));
        let session = Arc::new(Session::open(opening, &self.limits, budget.clone())?);
        let share = table.per_principal.entry(session.caller.principal.clone());
        share.or_insert(Share { sessions: 0, budget }).sessions += 1;
        *table.per_server.entry(session.server.clone()).or_default() += 1;
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
            table.one_less(session);
        }
        // A table that was large once need not stay so.
        if table.by_id.capacity() > 64 && table.by_id.len() < table.by_id.capacity() / 4 {
            table.by_id.shrink_to_fit();
        }
        drop(table);
        session.end();
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
