//! The reader of a process can be asked to stop at a line's end or in the middle of one, so that another daemon can go on
//! with what was read and not yet understood.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How long a reader may take to stop. It never waits for anybody, so this is long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between the one reader of a process and whoever wants it to stop.
#[derive(Debug)]
pub(crate) struct Pause {
    wanted: watch::Sender<bool>,
    /// What the reader held when it stopped.
    unread: watch::Sender<bool>,
    rest: Mutex<Vec<u8>>,
}

impl Pause {
    pub(crate) fn new() -> Self {
        Self { wanted: watch::Sender::new(false), unread: watch::Sender::new(false), rest: Mutex::default() }
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
        self.unread.send_replace(true);
        let _ = self.wanted.subscribe().wait_for(|wanted| !*wanted).await;
        self.unread.send_replace(false);
    }

    /// Stops the reader. What it has read of an incomplete line; `None` where there is no reader any more.
    pub(crate) async fn stop(&self) -> Option<Vec<u8>> {
        self.wanted.send_replace(true);
        let mut stopped = self.unread.subscribe();
        tokio::time::timeout(PATIENCE, stopped.wait_for(|stopped| *stopped)).await.ok()?.ok()?;
        Some(self.rest.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// The reader may go on.
    pub(crate) fn resume(&self) {
        self.wanted.send_replace(false);
    }
}
