//! Places of an exclusive pool: each holds at most one call at a time.

use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A pool of one isolation key.
#[derive(Debug)]
pub(crate) struct Pool {
    places: Arc<Semaphore>,
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    /// Most recently used last: warm places are taken first.
    numbers: Vec<u32>,
    next: u32,
}

/// One place, taken.
#[derive(Debug)]
pub(crate) struct Place {
    pool: Arc<Pool>,
    pub(crate) number: u32,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    pub(crate) fn new(places: u32) -> Arc<Self> {
        Arc::new(Self { places: Arc::new(Semaphore::new(places.max(1) as usize)), free: Mutex::default() })
    }

    /// Takes a place, waiting for one where all are taken.
    pub(crate) async fn take(self: &Arc<Self>) -> Option<Place> {
        let permit = self.places.clone().acquire_owned().await.ok()?;
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let number = free.numbers.pop().unwrap_or_else(|| {
            free.next += 1;
            free.next
        });
        drop(free);
        Some(Place { pool: self.clone(), number, _permit: permit })
    }
}

impl Place {
    /// Gives it back.
    pub(crate) fn release(self) {
        self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).numbers.push(self.number);
    }
}
