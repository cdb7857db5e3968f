//! Signing a checkpoint, apart from the log so that appends go on beside it. It is stored here and at the anchors, durably,
//! before anybody gets it.

use crate::checkpoint::CheckpointSignError;
use crate::disk::{Disk, DiskError, replace_durably};
use crate::hash::Hash;
use crate::layout;
use crate::log::{Broken, SyncError};
use crate::tile::Tile;
use crate::tree::ProofError;
use crate::trust::{Notary, Signed};
use crate::view::{ReadError, write_tiles};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// No checkpoint was given.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Another is being signed.
    #[error("another checkpoint is being signed")]
    Busy,
    /// The disk is full. It can be tried again.
    #[error("the disk is full")]
    Full,
    /// An anchor did not take it. It is stored here, and was given to nobody; it can be tried again.
    #[error("an anchor did not take the checkpoint")]
    Anchor(#[source] DiskError),
    /// The tree does not extend what was signed before. It must never be signed.
    #[error("the log contradicts a checkpoint that it signed")]
    Contradiction(#[source] ProofError),
    /// What was signed before could not be compared.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It could not be signed.
    #[error(transparent)]
    Sign(#[from] CheckpointSignError),
    /// The file system failed, and the log is broken.
    #[error("the disk failed, and the log is broken")]
    Disk(#[source] DiskError),
    /// Entries could not be made durable, and the log is broken.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// It was broken before.
    #[error(transparent)]
    Broken(#[from] Broken),
}

impl From<DiskError> for PublishError {
    fn from(error: DiskError) -> Self {
        if error.is_full() { Self::Full } else { Self::Disk(error) }
    }
}

/// A checkpoint that is about to be signed: may run on another thread.
#[derive(Debug)]
#[must_use]
pub struct Publishing {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) notary: Arc<dyn Notary>,
    pub(crate) anchors: Vec<PathBuf>,
    pub(crate) size: u64,
    pub(crate) root: Hash,
    pub(crate) now_s: u64,
    /// Full tiles of this tree that are not yet files.
    pub(crate) tiles: Vec<(Tile, Arc<[Hash]>)>,
    pub(crate) archive: bool,
}

/// A [`Publishing`] that ran; the log learns of it, and gives the checkpoint, by [`Log::finish_checkpoint`](crate::log::Log::finish_checkpoint).
#[derive(Debug)]
#[must_use]
pub struct Published {
    pub(crate) done: Result<Signed, PublishError>,
    pub(crate) written: Vec<Tile>,
    pub(crate) archived: bool,
}

impl Publishing {
    /// Writes tiles, signs, stores.
    pub fn run(self) -> Published {
        let mut published = Published { done: Err(PublishError::Busy), written: Vec::new(), archived: false };
        published.done = self.publish(&mut published.written, &mut published.archived);
        published
    }

    fn publish(&self, written: &mut Vec<Tile>, archived: &mut bool) -> Result<Signed, PublishError> {
        // Before the checkpoint: whatever happens afterwards, the tiles of a tree that was signed are whole.
        let many = write_tiles(&*self.disk, &self.dir, &self.tiles)?;
        written.extend(self.tiles.iter().take(many).map(|(tile, _)| *tile));
        let signed = self.notary.sign(self.size, self.root, self.now_s)?;
        self.store(&layout::checkpoint(&self.dir), &signed)?;
        if self.archive {
            self.store(&layout::archived(&self.dir, self.size), &signed)?;
            *archived = true;
        }
        for anchor in &self.anchors {
            self.store(&layout::checkpoint(anchor), &signed).map_err(PublishError::Anchor)?;
        }
        Ok(signed)
    }

    fn store(&self, path: &Path, signed: &Signed) -> Result<(), DiskError> {
        replace_durably(&*self.disk, path, signed.note.as_bytes())
    }
}
