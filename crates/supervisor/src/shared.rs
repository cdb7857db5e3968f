//! What all servers of a host share.

use crate::handover::Predecessor;
use crate::keeping::Keeper;
use crate::living::Living;
use crate::orphans::Orphans;
use crate::remote::Pool as Connections;
use crate::settings::Settings;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use store::Store;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What all servers of a host share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) store: Store,
    pub(crate) keeper: Keeper,
    pub(crate) request_ids: Arc<AtomicU64>,
    /// Calls of an earlier daemon.
    pub(crate) orphans: Arc<Orphans>,
    pub(crate) predecessor: Option<Arc<Predecessor>>,
    pub(crate) living: Arc<Living>,
    /// Held to read while a process is started.
    pub(crate) starting: tokio::sync::RwLock<()>,
    /// What looks after processes that only the old daemon needs.
    pub(crate) guests: TaskTracker,
    /// An earlier daemon ran since the machine was started: it is there still, or its keeper was.
    pub(crate) continues: bool,
    /// The host stops.
    pub(crate) stopping: CancellationToken,
    /// Connections to remote servers.
    pub(crate) connections: Connections,
    pub(crate) instance_ids: AtomicU64,
    /// Slots that exist, over all servers.
    pub(crate) slots: AtomicU32,
    /// Spares, over all servers; those that are started count.
    pub(crate) spares: AtomicU32,
    /// This daemon is about to leave: no spare is started.
    pub(crate) spares_go: AtomicBool,
    /// There are more processes than there may be: a spare has to go.
    pub(crate) crowded: Notify,
}

impl Shared {
    /// Nothing is started, replaced or stopped by this daemon, or it is again.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.keeper.give_away(frozen);
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.keeper.is_given_away()
    }
}
