//! Whether a server can be started at all, found out before a caller does.

use crate::hosted::Hosted;
use crate::probe;
use model::report::LogSource;
use model::{EraPin, Verdict};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use stdx::clock::monotonic;
use wire::era::Era;

/// Whether the server was seen to work since this daemon hosts this generation.
#[derive(Clone, Debug)]
pub(crate) enum Checked {
    NotYet,
    Works,
    Trouble {
        reason: String,
        /// When it is tried again, where that is known.
        until: Option<Instant>,
    },
}

impl Hosted {
    /// Makes sure that the server can be started at all, before a caller finds out; again and again until it can.
    pub(crate) async fn check(self: Arc<Self>) {
        let mut proven = !self.is_known_to_work().await;
        if !proven {
            self.found(Checked::Works);
        }
        let mut attempt = 0;
        while !self.retired().is_cancelled() {
            let hands = self.keeper().hands();
            let outcome = match self.verdict().await {
                Ok(verdict) if !proven || matches!(self.checked(), Checked::NotYet | Checked::Trouble { .. }) => {
                    let era = if verdict == Verdict::Legacy { Era::Legacy } else { Era::Modern };
                    probe::starts(&self, era).await
                }
                Ok(_) => Ok(()),
                Err(absent) => Err(absent.to_string()),
            };
            proven = true;
            if self.moved_since(hands) {
                // While another daemon has the processes, nothing that is found out here is about the server.
                self.retired().run_until_cancelled(self.keeper().ours()).await;
                continue;
            }
            attempt += 1;
            let wait = stdx::backoff::delay(Duration::from_secs(1), Duration::from_secs(60), attempt, 1.0);
            match outcome {
                Ok(()) => return self.found(Checked::Works),
                Err(reason) => {
                    self.log().add(0, LogSource::Host, &format!("does not start: {reason}"));
                    self.found(Checked::Trouble { reason, until: Some(monotonic() + wait) });
                }
            }
            tokio::select! {
                () = self.retired().cancelled() => return,
                () = self.recheck.notified() => attempt = 0,
                () = tokio::time::sleep(wait) => {}
            }
            if matches!(self.checked(), Checked::Works) {
                return;
            }
        }
    }

    /// An earlier daemon got through its handshake, and the machine has not been started anew since: whoever asks whether
    /// the host is ready does not wait until that is proven again.
    async fn is_known_to_work(&self) -> bool {
        self.shared.continues && self.spec().era == EraPin::Auto && self.remembered().await.is_some()
    }

    /// A caller found out that it does not start; the time of the next try stays as it was.
    pub(crate) fn found_trouble(&self, reason: String) {
        let until = match self.checked() {
            Checked::Trouble { until, .. } => until,
            Checked::NotYet | Checked::Works => None,
        };
        self.found(Checked::Trouble { reason, until });
    }

    pub(crate) fn found(&self, checked: Checked) {
        *self.checked.lock().unwrap_or_else(PoisonError::into_inner) = checked;
        self.spares.look();
    }

    pub(crate) fn checked(&self) -> Checked {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
