//! Processes that only the calls of the old daemon need: of a generation that was replaced, of a server that is gone, or in
//! the middle of their start when the daemons changed. Their pipes are this daemon's, and every line goes to the old one or
//! comes from there, until that one is done with them.

use crate::adopt::Heir;
use crate::handover::Predecessor;
use crate::log::ServerLog;
use crate::running::Running;
use crate::shared::Shared;
use crate::slot::{Context, Counters};
use model::ServerName;
use std::sync::Arc;

/// What a guest's server is known by.
pub(crate) struct Room {
    pub(crate) server: ServerName,
    pub(crate) log: Arc<ServerLog>,
    pub(crate) counters: Arc<Counters>,
}

/// Keeps `heir` until the old daemon is done with it, it ends, or the host stops.
pub(crate) fn keep(shared: &Arc<Shared>, predecessor: &Arc<Predecessor>, heir: Heir, room: Room) {
    let context = Arc::new(Context::of_guest(shared, room));
    let running = Running::guest(heir, &context);
    predecessor.knows(&running.instance);
    let kept = shared.guests.track_future(look_after(running, predecessor.clone(), shared.clone()));
    stdx::task::spawn("guest", kept);
}

async fn look_after(mut running: Running, predecessor: Arc<Predecessor>, shared: Arc<Shared>) {
    let id = running.instance.id;
    let reason = tokio::select! {
        reason = running.ended() => Some(reason),
        () = predecessor.done_with(id) => None,
        () = shared.stopping.cancelled() => None,
    };
    match reason {
        Some(reason) => running.stop(&reason).await,
        None => running.stop_as_asked().await,
    };
}
