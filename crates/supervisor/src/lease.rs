//! What a caller holds of a process: it keeps its slot, and its place in a pool.

use crate::instance::Instance;
use crate::pool::Place;
use crate::slot::Slot;
use std::sync::Arc;

/// An instance, for one call or one handshake.
#[derive(Debug)]
pub struct Lease {
    pub(crate) instance: Arc<Instance>,
    pub(crate) slot: Arc<Slot>,
    pub(crate) place: Option<Place>,
}

impl Lease {
    /// The process.
    pub fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    /// Where the process lives.
    pub(crate) fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    /// Whether everybody shares the process.
    pub fn shared(&self) -> bool {
        self.slot.context.shared
    }

    /// Whether clients of the process are told of no tasks: everybody shares it, so that a task could be met by another
    /// principal (E212, E213), or it serves one call at a time, so that the next request about a task meets another process.
    pub fn hides_tasks(&self) -> bool {
        self.slot.context.shared || self.place.is_some()
    }

    /// Gives it back.
    pub fn release(self) {
        self.slot.touch();
    }

    /// Gives back an instance that has ended, as soon as the next lease will not find it again.
    pub async fn outlive(self) {
        self.slot.left_behind(&self.instance).await;
        self.release();
    }
}
