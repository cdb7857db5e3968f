//! Instances that nobody uses: when one is stopped, what its sessions find again when it is woken, and how many there may
//! be at all.
//!
//! Never stopped for idleness is what somebody needs: a call, held calls too, a listen, a session that is read from, and,
//! unless the operator gave the server an idle time of its own, every open session: what its process remembers is part
//! of it (eras up to 2025-11-25). Where he did, sessions outlive their process, and the next call brings back all but the
//! process's own memory: the handshake, the log level, the subscriptions.

use crate::absent::{Absent, Bound};
use crate::hosted::Hosted;
use crate::key::Key;
use crate::orders::Order;
use crate::session::Session;
use crate::slot::Slot;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The sessions whose process was stopped for its idleness, by isolation key. As many as there are sessions at most.
#[derive(Debug, Default)]
pub(crate) struct Dormant {
    sessions: Mutex<HashMap<Key, Vec<Arc<Session>>>>,
}

impl Dormant {
    fn keep(&self, slot: &Slot) {
        let sessions = slot.context.sessions();
        if !sessions.is_empty() {
            self.table().entry(slot.key.clone()).or_default().extend(sessions);
        }
    }

    fn take(&self, key: &Key) -> Vec<Arc<Session>> {
        self.table().remove(key).unwrap_or_default()
    }

    /// Whether the session's process was stopped.
    pub(crate) fn holds(&self, id: &str) -> bool {
        self.table().values().flatten().any(|session| session.id() == id)
    }

    /// The session is over.
    pub(crate) fn forget(&self, id: &str) {
        self.table().retain(|_, sessions| {
            sessions.retain(|session| session.id() != id);
            !sessions.is_empty()
        });
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Key, Vec<Arc<Session>>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hosted {
    /// Stops what nobody used for the server's own idle time, or else for the host's.
    pub(crate) fn reap(&self, host: Duration) {
        let own = &self.spec().bounds;
        let Some(ttl) = own.idle_after(host) else { return };
        let sessions_keep = own.idle_ttl.is_none();
        for slot in self.all_slots().into_iter().filter(|slot| slot.idle_for(ttl, sessions_keep)) {
            self.dormant.keep(&slot);
            slot.order(Order::Stop);
        }
    }

    /// A slot was made: the sessions whose process was stopped there lean on it again.
    pub(crate) fn wake(self: &Arc<Self>, slot: &Arc<Slot>) {
        for session in self.dormant.take(&slot.key) {
            if self.attach(slot, &session).is_ok() {
                self.subscribe_again(&session);
            }
        }
    }

    /// Refuses over the bounds; the process that was idle for longest is asked to make room for the next caller.
    pub(crate) fn room(&self, key: &Key, slots: &HashMap<Key, Arc<Slot>>) -> Result<(), Absent> {
        let limits = &self.settings().limits;
        let is_own = |other: &Key| key.principal().is_some() && other.principal() == key.principal();
        let own = slots.keys().filter(|other| is_own(other)).count();
        let bounds = [
            (own, limits.instances_per_principal, Bound::Principal),
            (slots.len(), limits.instances_per_server, Bound::Server),
            (self.slots_of_the_host() as usize, limits.instances, Bound::Host),
        ];
        let Some((_, limit, bound)) = bounds.into_iter().find(|(count, limit, _)| *count >= *limit as usize) else {
            return Ok(());
        };
        // What is never stopped for idleness keeps its memory here too.
        let may_go = self.spec().bounds.idle_after(limits.idle_ttl).is_some();
        let movable =
            |slot: &&Arc<Slot>| (bound != Bound::Principal || is_own(&slot.key)) && slot.idle_for(Duration::ZERO, true);
        if let Some(idle) = slots.values().filter(|_| may_go).filter(movable).max_by_key(|slot| slot.idle_time()) {
            idle.order(Order::Stop);
        }
        Err(Absent::Full { server: self.spec().name.clone(), limit, bound })
    }
}
