//! The reader of a process can be asked to stop at a line's end or in the middle of one, so that another daemon can go on
//! with what was read and not yet understood.

use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

/// Between the one reader of a process and whoever wants it to stop.
#[derive(Debug)]
pub(crate) struct Pause {
    wanted: watch::Sender<bool>,
    at: watch::Sender<At>,
    /// What the reader held when it stopped.
    rest: Mutex<Vec<u8>>,
}

/// What the reader is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Reads,
    Holds,
    /// It has ended: the process is about to be replaced.
    Over,
}

impl Pause {
    pub(crate) fn new() -> Self {
        Self { wanted: watch::Sender::new(false), at: watch::Sender::new(At::Reads), rest: Mutex::default() }
    }

    /// Done when the reader is to stop.
    pub(crate) fn wanted(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut wanted = self.wanted.subscribe();
        async move {
            if wanted.wait_for(|wanted| *wanted).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The reader stops, with `rest` read of a line that is not complete, until it may go on.
    pub(crate) async fn hold(&self, rest: &[u8]) {
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = rest.to_vec();
        self.at.send_replace(At::Holds);
        let _ = self.wanted.subscribe().wait_for(|wanted| !*wanted).await;
        self.at.send_replace(At::Reads);
    }

    /// The reader has ended.
    pub(crate) fn over(&self) {
        self.at.send_replace(At::Over);
    }

    /// The reader is to stop; [`Self::stopped`] says when it has.
    pub(crate) fn ask(&self) {
        self.wanted.send_replace(true);
    }

    /// What the reader that was asked to stop has read of an incomplete line; `None` where there is no reader any more.
    pub(crate) async fn stopped(&self) -> Option<Vec<u8>> {
        let at = *self.at.subscribe().wait_for(|at| *at != At::Reads).await.ok()?;
        (at == At::Holds).then(|| self.rest.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// The reader may go on.
    pub(crate) fn resume(&self) {
        self.wanted.send_replace(false);
    }
}
