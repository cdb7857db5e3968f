//! Pruning, as C2SP tlog-tiles has it: the beginning of the log goes away, the tree stays. Whole segments are removed, and the tiles
//! of leaves that only they can make again; tiles above and the right edge stay, so that every proof between entries that are
//! left can still be made.

use crate::disk::DiskError;
use crate::layout::{self, Kept};
use crate::log::{Broken, Log};
use crate::tile::{MAX_LEVEL, Tile, WIDTH, full_tiles};
use crate::view::{ReadError, write_tiles};
use std::path::Path;

/// The log was not pruned, or not wholly.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// Only what a checkpoint covers can be pruned.
    #[error("only entries that a checkpoint covers can be pruned: there are {signed}")]
    NotSigned {
        /// Entries that the latest checkpoint covers.
        signed: u64,
    },
    /// A checkpoint is being signed.
    #[error("a checkpoint is being signed")]
    Busy,
    /// What must stay could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The disk is full, so that what must stay could not be written.
    #[error("the disk is full")]
    Full,
    /// The file system failed. What was noted as pruned is removed at the latest by the next pruning.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The log must be opened anew.
    #[error(transparent)]
    Broken(#[from] Broken),
}

impl Log {
    /// Removes segments all of whose entries are below `minimum`. Gives the first entry that is still there. That this was
    /// done should be an entry of its own, appended before: the minimum index is not signed.
    pub fn prune(&mut self, minimum: u64) -> Result<u64, PruneError> {
        self.check()?;
        if self.publishing {
            return Err(PruneError::Busy);
        }
        let signed = self.signed.map_or(0, |(size, _)| size);
        if minimum > signed {
            return Err(PruneError::NotSigned { signed });
        }
        let before = self.view.pruned;
        // The tile in which the rest begins must be full: else nothing would have the leaves before it.
        let may_begin = |first: u64| first <= minimum && first.next_multiple_of(u64::from(WIDTH)) <= signed;
        let firsts = self.view.segments.iter().map(|segment| segment.header.first());
        let first = firsts.filter(|first| may_begin(*first)).max().unwrap_or(before.first);
        self.secure(before.first, first, signed)?;
        let kept = Kept { minimum: minimum.max(before.minimum), first };
        layout::write_kept(&*self.view.disk, &self.view.dir, kept)?;
        self.view.pruned = kept;
        let gone = self.view.segments.partition_point(|segment| segment.header.first() < first);
        let gone: Vec<u64> = self.view.segments.drain(..gone).map(|segment| segment.header.first()).collect();
        for segment in gone {
            self.remove(&layout::segment(&self.view.dir, segment))?;
            self.remove(&layout::index(&self.view.dir, segment))?;
        }
        for tile in leaves(before.first, first, signed).filter(|tile| goes(*tile, first, signed)) {
            self.remove(&layout::tile(&self.view.dir, tile))?;
        }
        let wal = layout::wal(&self.view.dir);
        self.view.disk.sync_dir(&wal).map_err(DiskError::at("sync the directory", &wal))?;
        Ok(first)
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        match self.view.disk.remove(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(DiskError::at("remove", path)(error)),
            _ => Ok(()),
        }
    }

    /// Makes durable the tiles that nothing can make again afterwards.
    fn secure(&self, from: u64, first: u64, signed: u64) -> Result<(), PruneError> {
        let above = (1..=MAX_LEVEL).flat_map(|level| {
            let all = (0..full_tiles(level, signed)).filter_map(move |index| Tile::new(level, index, WIDTH));
            all.filter(|tile| tile.start() < first && tile.end() > from)
        });
        let stay = above.chain(leaves(from, first, signed).filter(|tile| !goes(*tile, first, signed)));
        let mut stored = Vec::new();
        for tile in stay {
            let hashes = self.view.tile(tile)?;
            if self.view.stored(tile).as_ref() != Some(&hashes) {
                stored.push((tile, hashes.into()));
            }
        }
        if write_tiles(&*self.view.disk, &self.view.dir, &stored)? < stored.len() {
            return Err(PruneError::Full);
        }
        Ok(())
    }
}

/// The full tiles of leaves that begin in `from..to`, and the one in which `from` lies.
fn leaves(from: u64, to: u64, size: u64) -> impl Iterator<Item = Tile> {
    let width = u64::from(WIDTH);
    (from / width..to.div_ceil(width).min(full_tiles(0, size))).filter_map(|index| Tile::new(0, index, WIDTH))
}

/// Whether a tile of leaves is not needed once nothing is left before `first`: the tile above has its root.
fn goes(tile: Tile, first: u64, size: u64) -> bool {
    tile.end() <= first && tile.index() / u64::from(WIDTH) < full_tiles(1, size)
}
