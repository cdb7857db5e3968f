//! The end of a host: the first signal asks it to finish, the second one ends it at once.

use crate::assemble::Host;
use crate::fault;
use model::Problem;
use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT, from now on. Until the first `next`, one that comes is kept.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Begins to listen; from here on the signals no longer kill the process.
    pub(crate) fn listen() -> Result<Self, Problem> {
        let listen = |kind| signal(kind).map_err(|error| fault::because("listen to signals", &error, ""));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// The next signal's name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Serves until a signal, then stops in order: calls drain, instances stop, the operator socket goes last. A second
/// signal ends the process without waiting; whatever still runs then is ended by the next start on this directory.
pub(crate) async fn serve_until_signal(mut host: Host, signals: &mut Signals) -> Result<ExitCode, Problem> {
    tokio::select! {
        name = signals.next() => tracing::info!(signal = name, "stopping: calls may finish, then the servers stop"),
        () = host.broken() => {
            host.stop().await;
            return Err(fault::failed("a part of the host ended by itself; this is a bug in staithe", "see the lines above, and start it again"));
        }
    }
    tokio::select! {
        () = host.stop() => Ok(ExitCode::SUCCESS),
        name = signals.next() => {
            tracing::warn!(signal = name, "asked again: ending at once");
            Ok(ExitCode::FAILURE)
        }
    }
}
