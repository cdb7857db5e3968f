//! The permission for one call: earned by an admitted principal within its share of the host.

use crate::admit::Admitted;
use crate::error::{CallError, GateError};
use crate::settings::Limits;
use model::{Principal, ServerName};
use oauth::Verified;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Proof that this call may be made. It counts against its principal until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    server: ServerName,
    principal: Principal,
    token: Option<Verified>,
    _share: OwnedSemaphorePermit,
}

impl Permit {
    pub(crate) fn server(&self) -> &ServerName {
        &self.server
    }

    pub(crate) fn principal(&self) -> &Principal {
        &self.principal
    }

    /// What the caller showed; `None` where nobody is asked.
    pub(crate) fn token(&self) -> Option<&Verified> {
        self.token.as_ref()
    }
}

/// What each principal uses now. Entries exist only while something is used or was lately.
#[derive(Debug)]
pub(crate) struct Shares {
    calls: usize,
    streams: usize,
    by_principal: Mutex<HashMap<Principal, Share>>,
}

#[derive(Clone, Debug)]
struct Share {
    calls: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl Shares {
    pub(crate) fn new(limits: &Limits) -> Self {
        let (calls, streams) = (limits.calls_per_principal, limits.streams_per_principal);
        Self { calls, streams, by_principal: Mutex::default() }
    }

    /// Earns the permit for one call.
    pub(crate) fn permit(&self, admitted: &Admitted) -> Result<Permit, CallError> {
        let share = self.share(admitted.principal()).calls.try_acquire_owned();
        let share = share.map_err(|_| CallError::Calls { limit: self.calls })?;
        let (server, principal, token) = (admitted.server(), admitted.principal(), admitted.token());
        Ok(Permit { server: server.clone(), principal: principal.clone(), token: token.cloned(), _share: share })
    }

    /// Takes a place for one long stream.
    pub(crate) fn stream(&self, admitted: &Admitted) -> Result<OwnedSemaphorePermit, GateError> {
        let share = self.share(admitted.principal()).streams.try_acquire_owned();
        share.map_err(|_| GateError::Streams { limit: self.streams })
    }

    /// Calls and streams of all principals.
    pub(crate) fn in_use(&self) -> (usize, usize) {
        let all = self.by_principal.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().fold((0, 0), |(calls, streams), share| {
            (
                calls + self.calls - share.calls.available_permits(),
                streams + self.streams - share.streams.available_permits(),
            )
        })
    }

    fn share(&self, principal: &Principal) -> Share {
        let mut all = self.by_principal.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = all.get(principal) {
            return share.clone();
        }
        if all.len() >= 1024 {
            let idle =
                |s: &Share| s.calls.available_permits() == self.calls && s.streams.available_permits() == self.streams;
            all.retain(|_, share| !idle(share));
        }
        let share =
            Share { calls: Arc::new(Semaphore::new(self.calls)), streams: Arc::new(Semaphore::new(self.streams)) };
        all.insert(principal.clone(), share.clone());
        share
    }
}
