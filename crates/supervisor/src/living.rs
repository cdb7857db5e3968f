//! Every process of this daemon that serves, starts, finishes its calls or waits as a spare: what an upgrade hands on.

use crate::instance::Instance;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Processes from their start to the beginning of their end.
#[derive(Debug, Default)]
pub(crate) struct Living {
    by_id: Mutex<HashMap<u64, Weak<Instance>>>,
}

impl Living {
    pub(crate) fn add(&self, instance: &Arc<Instance>) {
        self.by_id().insert(instance.id, Arc::downgrade(instance));
    }

    pub(crate) fn remove(&self, id: u64) {
        self.by_id().remove(&id);
    }

    pub(crate) fn all(&self) -> Vec<Arc<Instance>> {
        self.by_id().values().filter_map(Weak::upgrade).collect()
    }

    fn by_id(&self) -> MutexGuard<'_, HashMap<u64, Weak<Instance>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
