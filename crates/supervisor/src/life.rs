//! What becomes of processes, and what their servers show, told to whoever records it. Who has something to tell waits while
//! much is on its way; what nobody takes for a long time is counted, and the count is told as soon as somebody does.

use model::ServerName;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// What may be on its way.
const WAITING: usize = 1024;
/// How long a slot waits with a process that nobody records. Its server's callers wait with it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Something that happened.
#[derive(Debug)]
pub enum Life {
    /// A process was started. One that was taken over from an earlier daemon was not.
    Started {
        /// Its server.
        server: ServerName,
        /// What it was started as.
        generation: u64,
        /// The number of the instance.
        instance: u64,
        /// The process.
        pid: u32,
    },
    /// A process has ended.
    Ended {
        /// Its server; as it is marked, where it may be gone.
        server: String,
        /// The number of the instance.
        instance: u64,
        /// The process.
        pid: u32,
        /// How, in words of the host: nothing that the process said is in it.
        how: String,
        /// Why: `exit` (by itself), `limit`, `wedged`, `keeper`, `asked`, or `left` where no server wanted it after a start.
        cause: &'static str,
    },
    /// It was found out how a server stands, and something follows from it.
    Judged {
        /// The server.
        server: ServerName,
        /// The instance, where it is about one.
        instance: Option<u64>,
        /// `wedged`, `crash_looping`, `quarantined`, or `released` from the last two.
        verdict: &'static str,
        /// What was seen, in words of the host.
        seen: Option<String>,
    },
    /// A server's whole list of tools was read.
    Tools {
        /// The server.
        server: ServerName,
        /// The instance that said it.
        instance: u64,
        /// SHA-256 of the canonical form of each definition, by the tool's name.
        tools: BTreeMap<String, [u8; 32]>,
    },
    /// Nobody took so many of those before in time.
    Missed(u64),
    /// All before it were taken.
    Settled(oneshot::Sender<()>),
}

/// The telling end. Clones tell the same one.
#[derive(Clone)]
pub struct Scribe {
    way: mpsc::Sender<Life>,
    missed: Arc<AtomicU64>,
}

impl fmt::Debug for Scribe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scribe").field("missed", &self.missed).finish_non_exhaustive()
    }
}

/// The recording end.
#[derive(Debug)]
pub struct Lives {
    way: mpsc::Receiver<Life>,
    missed: Arc<AtomicU64>,
}

/// Both ends.
pub fn lives() -> (Scribe, Lives) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let missed = Arc::<AtomicU64>::default();
    (Scribe { way: sender, missed: missed.clone() }, Lives { way: receiver, missed })
}

impl Scribe {
    /// Tells what happened. Waits while too much is on its way, but not for ever.
    pub(crate) async fn tell(&self, life: Life) {
        self.tell_within(life, PATIENCE).await;
    }

    async fn tell_within(&self, life: Life, patience: Duration) {
        if let Err(error) = self.way.send_timeout(life, patience).await {
            self.missed.fetch_add(1, Ordering::Relaxed);
            tracing::error!(%error, "what became of a process is not recorded: the ledger takes nothing");
        }
    }

    /// Waits until everything that was told before is recorded, at most for `patience`. False if it is not.
    pub async fn settle(&self, patience: Duration) -> bool {
        let (tell, told) = oneshot::channel();
        let settled = async { self.way.send(Life::Settled(tell)).await.is_ok() && told.await.is_ok() };
        tokio::time::timeout(patience, settled).await.unwrap_or(false)
    }
}

impl Lives {
    /// The next thing that happened; `None` once nobody can tell anything. Cancel-safe.
    pub async fn next(&mut self) -> Option<Life> {
        let missed = self.missed.swap(0, Ordering::Relaxed);
        if missed > 0 { Some(Life::Missed(missed)) } else { self.way.recv().await }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn released() -> Life {
        Life::Judged { server: "s".parse().unwrap(), instance: None, verdict: "released", seen: None }
    }

    #[tokio::test]
    async fn what_nobody_took_is_counted_and_told() {
        let (scribe, mut lives) = lives();
        for _ in 0..WAITING + 3 {
            scribe.tell_within(released(), Duration::from_millis(1)).await;
        }
        assert!(matches!(lives.next().await, Some(Life::Missed(3))));
        for _ in 0..WAITING {
            assert!(matches!(lives.next().await, Some(Life::Judged { .. })));
        }
        assert!(!scribe.settle(Duration::from_millis(1)).await, "nobody takes anything");
        assert!(matches!(lives.next().await, Some(Life::Settled(_))));
    }
}
