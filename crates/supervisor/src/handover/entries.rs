//! Records of the old daemon on their way into the ledger, which is the new daemon's. What they say is not known here.

use super::frame::Frame;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Records that wait to be sent. Each is some call's that waits for it.
const WAITING: usize = 4096;

/// Hears the index of a record, or why it was refused.
pub type Heard = Box<dyn FnOnce(Result<Option<u64>, String>) + Send>;

/// Takes a record of another daemon into the ledger; says so when it is in the kernel, or with `true` on the disk. Must not
/// block.
pub type Taker = Arc<dyn Fn(Vec<u8>, bool, Heard) + Send + Sync>;

/// A record on its way.
pub struct Entry {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether the disk must have it.
    pub on_disk: bool,
    /// Hears what became of it.
    pub heard: Heard,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

/// The way of records to the new daemon.
#[derive(Clone, Debug)]
pub struct Entries(mpsc::Sender<Entry>);

impl Entries {
    /// Sends a record. Where that cannot be, it hears so.
    pub fn send(&self, entry: Entry) {
        let (entry, why) = match self.0.try_send(entry) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(entry)) => {
                (entry, "too many records wait for the daemon that took over")
            }
            Err(mpsc::error::TrySendError::Closed(entry)) => (entry, GONE),
        };
        (entry.heard)(Err(why.to_owned()));
    }
}

const GONE: &str = "the daemon that took over went away";

/// The old daemon's end.
pub(super) struct Passing {
    waiting: mpsc::Receiver<Entry>,
    way: Entries,
    sent: HashMap<u64, Heard>,
    last: u64,
}

impl fmt::Debug for Passing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passing").field("sent", &self.sent.len()).finish_non_exhaustive()
    }
}

impl Passing {
    pub(super) fn new() -> Self {
        let (sender, waiting) = mpsc::channel(WAITING);
        Self { waiting, way: Entries(sender), sent: HashMap::new(), last: 0 }
    }

    pub(super) fn way(&self) -> Entries {
        self.way.clone()
    }

    /// The next record to send. Never ends: the way is held open. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        let entry = self.waiting.recv().await?;
        Some(self.send(entry))
    }

    /// Those that wait now.
    pub(super) fn rest(&mut self) -> Vec<Frame> {
        let mut rest = Vec::new();
        while let Ok(entry) = self.waiting.try_recv() {
            rest.push(self.send(entry));
        }
        rest
    }

    fn send(&mut self, Entry { bytes, on_disk, heard }: Entry) -> Frame {
        self.last += 1;
        self.sent.insert(self.last, heard);
        Frame::Entry { number: self.last, on_disk, entry: bytes }
    }

    /// Whether some wait for the new daemon's word.
    pub(super) fn waits(&self) -> bool {
        !self.sent.is_empty()
    }

    pub(super) fn heard(&mut self, number: u64, outcome: Result<Option<u64>, String>) {
        if let Some(heard) = self.sent.remove(&number) {
            heard(outcome);
        }
    }

    /// Nothing will be heard of any.
    pub(super) fn end(&mut self) {
        self.waiting.close();
        let waiting = std::iter::from_fn(|| self.waiting.try_recv().ok()).map(|entry| entry.heard);
        let all: Vec<Heard> = self.sent.drain().map(|(_, heard)| heard).chain(waiting).collect();
        all.into_iter().for_each(|heard| heard(Err(GONE.to_owned())));
    }
}
