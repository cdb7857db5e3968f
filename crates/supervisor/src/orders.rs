//! What a slot's task is told to do, by whoever may tell it.

use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// What a slot's task can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Order {
    /// Replace the process.
    Restart,
    /// End for good.
    Stop,
}

/// The order that a slot's task has not yet followed: the strongest of those given.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    given: Mutex<Option<Order>>,
    arrived: Notify,
}

impl Orders {
    pub(crate) fn give(&self, order: Order) {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        *given = (*given).max(Some(order));
        drop(given);
        self.arrived.notify_one();
    }

    /// The next order. Cancel-safe.
    pub(crate) async fn next(&self) -> Order {
        loop {
            let given = self.given.lock().unwrap_or_else(PoisonError::into_inner).take();
            match given {
                Some(order) => return order,
                None => self.arrived.notified().await,
            }
        }
    }
}
