//! The end of a host: the first signal asks it to finish, the second one ends it at once.

use crate::assemble::Host;
use crate::fault;
use crate::state::StateDir;
use crate::systemd::Systemd;
use crate::upgrade::{self, Replaced};
use control::Upgrade;
use model::Problem;
use std::convert::Infallible;
use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// SIGTERM, SIGINT and SIGHUP, from now on. Until the first `next`, one that comes is kept.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// The terminal was closed. `None` under `nohup`, which asked to live on.
    hangup: Option<Signal>,
}

impl Signals {
    /// Begins to listen; from here on the signals no longer kill the process.
    pub(crate) fn listen() -> Result<Self, Problem> {
        let listen = |kind| signal(kind).map_err(|error| fault::because("listen to signals", &error, ""));
        let hangup = if hangup_ignored() { None } else { Some(listen(SignalKind::hangup())?) };
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())?, hangup })
    }

    /// The next signal's name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = hung_up(self.hangup.as_mut()) => "SIGHUP",
        }
    }

    /// The next signal by which somebody insists. A terminal that closes sends SIGHUP more than once.
    async fn again(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Done at the next SIGHUP.
async fn hung_up(hangup: Option<&mut Signal>) {
    match hangup {
        Some(hangup) => drop(hangup.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether whoever started us let SIGHUP be ignored.
fn hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // Signal 1 is the lowest bit.
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// Serves until a signal, then stops in order: calls drain, instances stop, the operator socket goes last. A second
/// signal ends everything without waiting.
/// `watch` goes on beside it until then.
pub(crate) async fn serve_until_signal(
    mut host: Host,
    state: &StateDir,
    signals: &mut Signals,
    watch: impl Future<Output = Infallible>,
    systemd: Systemd,
) -> Result<ExitCode, Problem> {
    tokio::pin!(watch);
    loop {
        tokio::select! {
            never = &mut watch => match never {},
            name = signals.next() => {
                begin_to_stop(name, &host, &systemd);
                break;
            }
            wanted = host.next() => {
                let Some(wanted) = wanted else {
                    host.stop().await;
                    return Err(fault::failed("a part of the host ended by itself; this is a bug in staithe", "see the lines above, and start it again"));
                };
                let (outcome, told) = upgraded(&mut host, state, &wanted, signals).await;
                match outcome {
                    Ok((replaced, text)) => {
                        // Its turn is kept to the end: what is changed here now would be changed in vain.
                        systemd.followed_by(replaced.pid);
                        drop(wanted.done.send(Ok(text)));
                        return finish(replaced, host, signals).await;
                    }
                    Err(problem) => {
                        // Before the operator hears of it and goes on.
                        drop(wanted.turn);
                        drop(wanted.done.send(Err(problem)));
                    }
                }
                if let Some(name) = told {
                    begin_to_stop(name, &host, &systemd);
                    break;
                }
            }
        }
    }
    tokio::select! {
        () = host.stop() => Ok(ExitCode::SUCCESS),
        name = signals.again() => {
            tracing::warn!(signal = name, "asked again: ending at once");
            host.stop_at_once().await;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Says what the signal leads to.
fn begin_to_stop(signal: &str, host: &Host, systemd: &Systemd) {
    let rest = if host.leaves_servers { "the servers go on, for the next daemon" } else { "then the servers stop" };
    tracing::info!(signal, "stopping: calls may finish, {rest}");
    systemd.stopping();
}

/// An upgrade, and the signal that came meanwhile: it ends the host, whichever daemon that is then.
async fn upgraded(
    host: &mut Host,
    state: &StateDir,
    wanted: &Upgrade,
    signals: &mut Signals,
) -> (Result<(Replaced, String), Problem>, Option<&'static str>) {
    let (stop, mut told) = (CancellationToken::new(), None);
    let upgrading = upgrade::upgrade(host, state, wanted, &stop);
    tokio::pin!(upgrading);
    loop {
        tokio::select! {
            outcome = &mut upgrading => return (outcome, told),
            name = signals.next(), if told.is_none() => {
                told = Some(name);
                stop.cancel();
            }
        }
    }
}

/// The last calls of a daemon that was replaced.
async fn finish(replaced: Replaced, host: Host, signals: &mut Signals) -> Result<ExitCode, Problem> {
    tracing::info!("another daemon has taken over; calls that run here may finish");
    tokio::select! {
        () = replaced.finish(host) => tracing::info!("every call has finished"),
        name = signals.next() => tracing::warn!(signal = name, "ending before every call has finished"),
    }
    Ok(ExitCode::SUCCESS)
}
