//! Reading a log: entries, bundles, tiles and hashes for proofs. What is given is what the root commits to: every tile that is
//! read is compared with the hash above it, up to the right edge in memory, and every entry with its leaf.
//!
//! A tile that is missing or wrong is computed again from the entries below it; the writer also puts it back.

use crate::disk::{Disk, DiskError, Unplaced, read_file};
use crate::edge::{Edge, Filled};
use crate::hash::{Hash, leaf_hash};
use crate::index::Index;
use crate::layout;
use crate::segment::{Frames, HEADER, Header, Step};
use crate::tile::{Bundle, Place, Tile, WIDTH, complete_root, decode_tile, encode_tile, push_entry};
use crate::tree::{self, Hashes, TreeError};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Tiles remembered, 8 KiB each.
const KEPT: usize = 64;
/// Tiles that are written before the first of them is synced.
const TOGETHER: usize = 64;
/// Bytes read at once for one entry or bundle.
const SHORT_CHUNK: usize = 16 * 1024;

/// Something could not be read from the log.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The log does not have it yet.
    #[error("the log has {size} entries, so there is no {index}")]
    NotInLog {
        /// The entry asked for, or the last one needed.
        index: u64,
        /// Entries of the log.
        size: u64,
    },
    /// It was pruned.
    #[error("entries below {first} were pruned")]
    Pruned {
        /// The first entry that is there.
        first: u64,
    },
    /// A segment has no right frame where one must be.
    #[error("{path} is damaged at offset {offset}, where entry {index} should be")]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Bytes from its beginning.
        offset: u64,
        /// Which entry should begin there.
        index: u64,
    },
    /// Entries are not those whose hashes the tree has.
    #[error("entries {start}..{end} are not those that the tree was made of")]
    Altered {
        /// The first that may be meant.
        start: u64,
        /// One behind the last.
        end: u64,
    },
    /// The file system failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The log must be opened anew.
    #[error(transparent)]
    Broken(#[from] crate::log::Broken),
}

/// One segment, as the log knows it.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) header: Header,
    pub(crate) path: PathBuf,
    pub(crate) index: Index,
}

/// A log that can be read. Nothing here changes what the log says.
#[derive(Debug)]
pub struct View {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) segments: Vec<Segment>,
    pub(crate) edge: Edge,
    /// Full tiles that are not yet files.
    pub(crate) pending: BTreeMap<Tile, Arc<[Hash]>>,
    pub(crate) pruned: layout::Kept,
    /// Whether tiles that are wrong are put back: the writer's part.
    pub(crate) mends: bool,
    kept: Mutex<VecDeque<(Tile, Arc<[Hash]>)>>,
}

impl View {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        dir: &Path,
        segments: Vec<Segment>,
        pruned: layout::Kept,
        mends: bool,
    ) -> Self {
        let (edge, pending, kept) = Default::default();
        Self { disk, dir: dir.to_path_buf(), segments, edge, pending, pruned, mends, kept }
    }

    /// Entries of the log, appended and perhaps not yet durable.
    pub fn size(&self) -> u64 {
        self.edge.size()
    }

    /// The root over all of them.
    pub fn root(&self) -> Hash {
        self.edge.root()
    }

    /// Entries below this may be missing (the minimum index of C2SP tlog-tiles); 0 where nothing was pruned.
    pub fn minimum_index(&self) -> u64 {
        self.pruned.minimum
    }

    /// The first entry that is there: at most the minimum index, because whole segments are pruned.
    pub fn first(&self) -> u64 {
        self.pruned.first
    }

    /// One entry, as it was appended.
    pub fn entry(&self, index: u64) -> Result<Vec<u8>, ReadError> {
        self.within(index)?;
        let mut found = Vec::new();
        self.walk(index, index + 1, SHORT_CHUNK, &mut |_, entry| found = entry.to_vec())?;
        if leaf_hash(&found) != self.hash(0, index)? {
            return Err(ReadError::Altered { start: index, end: index + 1 });
        }
        Ok(found)
    }

    /// The bytes of a bundle of entries (C2SP tlog-tiles), with as many entries as it is wide.
    pub fn bundle(&self, bundle: Bundle) -> Result<Vec<u8>, ReadError> {
        let (start, end) = (bundle.start(), bundle.end());
        self.within(end - 1)?;
        let (mut out, mut leaves) = (Vec::new(), Vec::with_capacity(usize::from(WIDTH)));
        self.walk(start, end, SHORT_CHUNK, &mut |_, entry| {
            leaves.push(leaf_hash(entry));
            // An entry that is in the log is not too long.
            let _ = push_entry(&mut out, entry);
        })?;
        match Tile::new(0, bundle.index(), bundle.width()) {
            Some(tile) if self.tile(tile)? == leaves => Ok(out),
            _ => Err(ReadError::Altered { start, end }),
        }
    }

    /// The hashes of a tile, as many as it is wide. Any width is given that the log has.
    pub fn tile(&self, tile: Tile) -> Result<Vec<Hash>, ReadError> {
        self.within(tile.end() - 1)?;
        let width = usize::from(tile.width());
        let there = Tile::of(tile.level(), tile.index(), self.size()).filter(Tile::is_full);
        let hashes = match there {
            Some(full) => self.full_tile(full)?.get(..width).map(<[Hash]>::to_vec),
            None => self.edge.level(tile.level()).get(..width).map(<[Hash]>::to_vec),
        };
        hashes.ok_or_else(|| self.not_in_log(tile.end() - 1))
    }

    /// The proof that an entry is in the log of now, whose size and root are [`Self::size`] and [`Self::root`].
    pub fn inclusion(&self, index: u64) -> Result<Vec<Hash>, ReadError> {
        self.inclusion_at(index, self.size())
    }

    /// The proof that an entry is in the log as it was at `size`.
    pub fn inclusion_at(&self, index: u64, size: u64) -> Result<Vec<Hash>, ReadError> {
        self.reach(size)?;
        tree::inclusion(index, size, self).map_err(|error| self.tree_error(error))
    }

    /// The proof that the log of now begins with what it was at `old`.
    pub fn consistency(&self, old: u64) -> Result<Vec<Hash>, ReadError> {
        self.consistency_at(old, self.size())
    }

    /// The proof that the log at `new` begins with what it was at `old`.
    pub fn consistency_at(&self, old: u64, new: u64) -> Result<Vec<Hash>, ReadError> {
        self.reach(new)?;
        tree::consistency(old, new, self).map_err(|error| self.tree_error(error))
    }

    /// The root that the log had at `size`.
    pub fn root_at(&self, size: u64) -> Result<Hash, ReadError> {
        self.reach(size)?;
        tree::root(size, self).map_err(|error| self.tree_error(error))
    }

    fn reach(&self, size: u64) -> Result<(), ReadError> {
        size.checked_sub(1).map_or(Ok(()), |last| self.within(last))
    }

    fn within(&self, index: u64) -> Result<(), ReadError> {
        if index < self.size() { Ok(()) } else { Err(self.not_in_log(index)) }
    }

    fn not_in_log(&self, index: u64) -> ReadError {
        ReadError::NotInLog { index, size: self.size() }
    }

    fn tree_error(&self, error: TreeError<ReadError>) -> ReadError {
        match error {
            TreeError::Hashes(error) => error,
            TreeError::TooLarge(index) | TreeError::NotInTree { index, .. } | TreeError::Shrunk { old: index, .. } => {
                self.not_in_log(index)
            }
        }
    }

    /// The segment that has an entry, if it is there.
    fn segment_of(&self, index: u64) -> Result<&Segment, ReadError> {
        let behind = self.segments.partition_point(|segment| segment.header.first() <= index);
        let there = behind.checked_sub(1).and_then(|nth| self.segments.get(nth));
        let segment = there.ok_or(ReadError::Pruned { first: self.pruned.first })?;
        if index >= segment.index.end() {
            return Err(self.not_in_log(index));
        }
        Ok(segment)
    }

    /// Hands over entries `from..to` as the segments have them, unchecked but for their crcs.
    pub(crate) fn walk(
        &self,
        from: u64,
        to: u64,
        chunk: usize,
        each: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<(), ReadError> {
        let mut next = from;
        while next < to {
            let segment = self.segment_of(next)?;
            let first = segment.header.first();
            let file = self.disk.open(&segment.path).map_err(DiskError::at("open", &segment.path))?;
            let (index, offset) = segment.index.near(next).unwrap_or((first, HEADER as u64));
            let mut frames = Frames::new(&*file, segment.header.seal(), index, offset, chunk);
            let end = to.min(segment.index.end());
            while next < end {
                match frames.next().map_err(DiskError::at("read", &segment.path))? {
                    Step::Entry { index, entry, .. } if index >= next => {
                        each(index, entry);
                        next = index + 1;
                    }
                    Step::Entry { .. } | Step::Mark(_) => {}
                    Step::End => {
                        let (offset, index) = (frames.offset(), frames.index());
                        return Err(ReadError::Damaged { path: segment.path.clone(), offset, index });
                    }
                }
            }
        }
        Ok(())
    }

    /// A full tile, compared with the hash above it.
    fn full_tile(&self, tile: Tile) -> Result<Arc<[Hash]>, ReadError> {
        if let Some(pending) = self.pending.get(&tile) {
            return Ok(pending.clone());
        }
        if let Some(known) = self.known(tile) {
            return Ok(known);
        }
        let above = self.above(tile)?;
        let hashes = match self.stored(tile) {
            Some(hashes) if complete_root(&hashes) == Some(above) => hashes.into(),
            _ => self.mend(tile, above)?,
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back((tile, hashes.clone()));
        Ok(hashes)
    }

    fn known(&self, tile: Tile) -> Option<Arc<[Hash]>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(known, _)| *known == tile).map(|(_, hashes)| hashes.clone())
    }

    /// The hash that the root of a full tile must have: one of the tile above.
    fn above(&self, tile: Tile) -> Result<Hash, ReadError> {
        let (level, place) = (tile.level() + 1, tile.index() % u64::from(WIDTH));
        let parent = Tile::of(level, tile.index() / u64::from(WIDTH), self.size());
        let parent = parent.ok_or_else(|| self.not_in_log(tile.end() - 1))?;
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        let hash = if parent.is_full() {
            self.full_tile(parent)?.get(place).copied()
        } else {
            self.edge.level(level).get(place).copied()
        };
        hash.ok_or_else(|| self.not_in_log(tile.end() - 1))
    }

    /// A full tile as its file has it; `None` if there is none that can be read.
    pub(crate) fn stored(&self, tile: Tile) -> Option<Vec<Hash>> {
        let bytes = read_file(&*self.disk, &layout::tile(&self.dir, tile), tile.bytes() as u64).ok()??;
        decode_tile(tile, &bytes)
    }

    /// A tile that is missing or wrong: from the tiles below it, or else from the entries.
    fn mend(&self, tile: Tile, root: Hash) -> Result<Arc<[Hash]>, ReadError> {
        let below = (tile.level() > 0).then(|| self.roots_below(tile)).flatten();
        let hashes = match below.filter(|hashes| complete_root(hashes) == Some(root)) {
            Some(hashes) => hashes,
            None => self.compute(tile)?,
        };
        if complete_root(&hashes) != Some(root) {
            return Err(ReadError::Altered { start: tile.start(), end: tile.end() });
        }
        let hashes: Arc<[Hash]> = hashes.into();
        if self.mends {
            // It is right without a file, too: the next reader computes it again.
            let _ = write_tiles(&*self.disk, &self.dir, &[(tile, hashes.clone())]);
        }
        Ok(hashes)
    }

    /// The hashes of a tile by the files of the tiles below it, which may be wrong.
    pub(crate) fn roots_below(&self, tile: Tile) -> Option<Vec<Hash>> {
        let first = tile.index() * u64::from(WIDTH);
        let below = (first..first + u64::from(tile.width())).map(|index| {
            let child = Tile::new(tile.level().checked_sub(1)?, index, WIDTH)?;
            complete_root(&self.stored(child)?)
        });
        below.collect()
    }

    /// The hashes of a tile by the entries below it.
    pub(crate) fn compute(&self, tile: Tile) -> Result<Vec<Hash>, ReadError> {
        let mut hashes = Vec::with_capacity(usize::from(tile.width()));
        if tile.level() == 0 {
            self.walk(tile.start(), tile.end(), SHORT_CHUNK, &mut |_, entry| hashes.push(leaf_hash(entry)))?;
            return Ok(hashes);
        }
        let first = tile.index() * u64::from(WIDTH);
        for index in first..first + u64::from(tile.width()) {
            let child = Tile::new(tile.level() - 1, index, WIDTH).ok_or_else(|| self.not_in_log(tile.end() - 1))?;
            hashes.extend(complete_root(&self.compute(child)?));
        }
        Ok(hashes)
    }

    /// Appends leaves that are already in a segment.
    pub(crate) fn grow(&mut self, leaf: Hash) -> Result<(), tree::TreeFull> {
        let mut filled: Vec<Filled> = Vec::new();
        self.edge.push(leaf, &mut filled)?;
        self.pending.extend(filled.into_iter().map(|(tile, hashes)| (tile, hashes.into())));
        Ok(())
    }
}

/// The file of a full tile, before it has its name.
fn unplaced(disk: &dyn Disk, path: &Path, hashes: &[Hash]) -> Result<Unplaced, DiskError> {
    let bytes = encode_tile(hashes);
    match Unplaced::new(disk, path, &bytes) {
        Err(error) if error.is_missing() => {
            let directory = path.parent().unwrap_or(Path::new("."));
            disk.make_dir(directory).map_err(DiskError::at("make the directory", directory))?;
            Unplaced::new(disk, path, &bytes)
        }
        other => other,
    }
}

/// Makes the files of full tiles, durably, so that each is whole wherever it is there. Gives how many it came to before the disk
/// was full: the others can be made again.
pub(crate) fn write_tiles(disk: &dyn Disk, dir: &Path, tiles: &[(Tile, Arc<[Hash]>)]) -> Result<usize, DiskError> {
    let (mut many, mut directories) = (0, BTreeSet::new());
    for some in tiles.chunks(TOGETHER) {
        let mut written = Vec::with_capacity(some.len());
        for (tile, hashes) in some {
            let path = layout::tile(dir, *tile);
            match unplaced(disk, &path, hashes) {
                Err(error) if error.is_full() => break,
                file => written.push((file?, path)),
            }
        }
        written.iter().try_for_each(|(file, _)| file.sync())?;
        let all = written.len() == some.len();
        many += written.len();
        for (file, path) in written {
            file.place(disk, &path)?;
            let above = path.ancestors().skip(1).take_while(|above| above.starts_with(dir));
            directories.extend(above.map(Path::to_path_buf));
        }
        if !all {
            break;
        }
    }
    for directory in directories {
        disk.sync_dir(&directory).map_err(DiskError::at("sync the directory", &directory))?;
    }
    Ok(many)
}

impl Hashes for View {
    type Error = ReadError;

    fn hash(&self, level: u8, index: u64) -> Result<Hash, ReadError> {
        let last = (index.saturating_add(1)).checked_shl(u32::from(level)).unwrap_or(u64::MAX).saturating_sub(1);
        let place = Place::of(level, index, self.size()).ok_or_else(|| self.not_in_log(last))?;
        let hash = match self.edge.hash(&place) {
            Some(hash) => Some(hash),
            None => place.hash(&self.full_tile(place.tile)?),
        };
        hash.ok_or_else(|| self.not_in_log(last))
    }
}
