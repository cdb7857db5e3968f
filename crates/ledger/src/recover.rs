//! Opening a log, which is recovering it: every opening takes this way, whatever happened before. Nothing is changed before it is
//! certain that the log bears out what it said earlier.
//!
//! Only entries behind the latest checkpoint are walked, from the beginning of their segment: its header has the frontier, and
//! the signed root proves the frontier.

use crate::disk::{Disk, DiskError, DiskFile, read_file};
use crate::edge::{Edge, fits, partial_width};
use crate::evidence::{Evidence, EvidenceError, Witnessed};
use crate::hash::{Hash, leaf_hash, sha256};
use crate::index::Index;
use crate::layout::{self, Kept};
use crate::segment::{self, CHUNK, Frames, HEADER, Header, Mark, Step};
use crate::tile::{MAX_LEVEL, Tile, full_tiles};
use crate::tree::Frontier;
use crate::trust::Trust;
use crate::view::{ReadError, Segment, View, write_tiles};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Archived checkpoints that are compared when a log is opened, the newest. `verify` compares all.
const ARCHIVED: usize = 32;
/// The longest file of offsets that is read, bytes.
const MAX_INDEX: u64 = 1 << 28;
/// Tiles held in memory while a log is walked.
const PENDING: usize = 512;

/// A log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The options contradict each other.
    #[error("these options cannot be: {0}")]
    Options(&'static str),
    /// Another process writes this log.
    #[error("another process holds {path}")]
    Locked {
        /// The lock.
        path: PathBuf,
    },
    /// The log contradicts what it said before, or what it said cannot be read.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// A segment's header is damaged, or does not continue the segment before.
    #[error("the header of {path} is damaged, or does not continue what is before it")]
    Header {
        /// The segment.
        path: PathBuf,
    },
    /// A segment of another log.
    #[error("{path} belongs to another log")]
    OtherLog {
        /// The segment.
        path: PathBuf,
    },
    /// Segments are missing that were not pruned.
    #[error("entries from {from} on are missing: there is no segment before {path}")]
    Missing {
        /// The first missing entry.
        from: u64,
        /// The segment behind the gap.
        path: PathBuf,
    },
    /// The file of the minimum index is damaged.
    #[error("{path} is damaged")]
    Minimum {
        /// The file.
        path: PathBuf,
    },
    /// There is no randomness for the salt of a segment.
    #[error(transparent)]
    Randomness(#[from] stdx::random::NoRandomness),
    /// Entries could not be read, or are damaged.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The file system failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// A log as it was found, before anything is put right.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) view: View,
    pub(crate) evidence: Evidence,
    /// Where the last segment's frames end, and what lies behind.
    pub(crate) end: End,
    /// Entries that were walked.
    pub(crate) walked: u64,
    /// Derived files that were put right.
    pub(crate) mended: u64,
    /// Whether there is a use in writing more of them: not for a reader, and not on a full disk.
    writes: bool,
}

/// The end of the last segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    /// Where its frames end.
    pub(crate) offset: u64,
    /// The last mark before: what lies before its offset was durable.
    pub(crate) mark: Mark,
    /// Whether only zeros follow.
    pub(crate) clean: bool,
}

impl Default for End {
    fn default() -> Self {
        Self { offset: HEADER as u64, mark: Mark { synced: 0, offset: HEADER as u64 }, clean: true }
    }
}

/// Finds what is there. `mends`: whether derived files are put right on the way.
pub(crate) fn find(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    trust: &dyn Trust,
    anchors: &[PathBuf],
    mends: bool,
) -> Result<Found, OpenError> {
    // What was said is read before what is there: beside a writer the log only grows in between.
    let evidence = Evidence::gather(&**disk, dir, trust, anchors, ARCHIVED)?;
    let kept = read_kept(&**disk, dir)?;
    let headers = headers(&**disk, dir, trust.origin(), kept)?;
    if headers.is_empty() {
        if let Some(known) = evidence.strongest().filter(|known| known.signed.size > 0) {
            return Err(rolled_back(0, known).into());
        }
    } else {
        evidence.own_was_removed(dir)?;
    }
    let signed = evidence.checkpoint.as_ref().map_or(0, |own| own.size);
    let start = headers.iter().rposition(|(header, _)| header.first() <= signed);
    if start.is_none() && !headers.is_empty() {
        // Nothing signed proves the frontier with which the first segment begins.
        let (path, other) = (layout::checkpoint(dir), layout::minimum_path(dir));
        return Err(EvidenceError::Removed { path, other }.into());
    }
    let start = start.unwrap_or(0);
    let mut found = Found {
        view: View::new(disk.clone(), dir, Vec::new(), kept, mends),
        evidence,
        end: End::default(),
        walked: 0,
        mended: 0,
        writes: mends,
    };
    let ends: Vec<Option<u64>> = headers.iter().skip(1).map(|(header, _)| Some(header.first())).chain([None]).collect();
    let mut roots = BTreeMap::new();
    for (nth, ((header, path), end)) in headers.into_iter().zip(ends).enumerate() {
        match end {
            Some(end) if nth < start => found.sealed_before(header, path, end)?,
            _ => {
                if nth == start {
                    found.view.edge = edge_at(&found.view, &header.before)?;
                }
                found.walk(header, path, end, &mut roots)?;
            }
        }
    }
    found.settle(PENDING)?;
    found.bears_out(&roots)?;
    Ok(found)
}

pub(crate) fn rolled_back(here: u64, known: &Witnessed) -> EvidenceError {
    EvidenceError::RolledBack { here, seen: known.signed.size, path: known.path.clone() }
}

/// What was pruned.
pub(crate) fn read_kept(disk: &dyn Disk, dir: &Path) -> Result<Kept, OpenError> {
    layout::read_kept(disk, dir)
        .map_err(|error| error.map_or_else(|| OpenError::Minimum { path: layout::minimum_path(dir) }, Into::into))
}

/// The headers of all segments, in order, without those that a prune was about to remove.
pub(crate) fn headers(
    disk: &dyn Disk,
    dir: &Path,
    origin: &str,
    kept: Kept,
) -> Result<Vec<(Header, PathBuf)>, OpenError> {
    let firsts = layout::segments(disk, dir)?;
    let origin = sha256(origin.as_bytes());
    let mut headers = Vec::with_capacity(firsts.len());
    for first in firsts.into_iter().skip_while(|first| *first < kept.first) {
        let path = layout::segment(dir, first);
        let header = read_header(disk, &path)?.filter(|header| header.first() == first);
        let header = header.ok_or_else(|| OpenError::Header { path: path.clone() })?;
        if header.origin != origin {
            return Err(OpenError::OtherLog { path });
        }
        headers.push((header, path));
    }
    match headers.first() {
        Some((header, path)) if header.first() != kept.first => {
            Err(OpenError::Missing { from: kept.first, path: path.clone() })
        }
        _ => Ok(headers),
    }
}

/// The header of a segment; `None` if it has no right one.
pub(crate) fn read_header(disk: &dyn Disk, path: &Path) -> Result<Option<Header>, DiskError> {
    let file = disk.open(path).map_err(DiskError::at("open", path))?;
    let mut space = vec![0; HEADER];
    let read = file.read_at(&mut space, 0).map_err(DiskError::at("read", path))?;
    Ok(space.get(..read).and_then(Header::decode))
}

/// The right edge of the tree before a segment: each level's hashes from wherever they are found first and fit the frontier.
pub(crate) fn edge_at(view: &View, before: &Frontier) -> Result<Edge, ReadError> {
    let size = before.size();
    let mut levels = Vec::new();
    for level in 0..=MAX_LEVEL {
        let width = partial_width(level, size);
        let hashes = match Tile::of(level, full_tiles(level, size), size) {
            Some(tile) => edge_level(view, tile, width, before)?,
            None => Vec::new(),
        };
        levels.push(hashes);
    }
    Edge::from_parts(before.clone(), levels).ok_or(ReadError::Altered { start: 0, end: size })
}

fn edge_level(view: &View, tile: Tile, width: usize, before: &Frontier) -> Result<Vec<Hash>, ReadError> {
    let right = |hashes: &Vec<Hash>| fits(tile.level(), hashes, before);
    let grown = || tile.full().and_then(|full| view.stored(full)?.get(..width).map(<[Hash]>::to_vec));
    let below = || (tile.level() > 0).then(|| view.roots_below(tile)).flatten();
    if let Some(hashes) = grown().filter(right).or_else(|| below().filter(right)) {
        return Ok(hashes);
    }
    let hashes = view.compute(tile)?;
    if !right(&hashes) {
        return Err(ReadError::Altered { start: tile.start(), end: tile.end() });
    }
    Ok(hashes)
}

impl Found {
    /// A sealed segment that need not be walked: only where its entries are.
    fn sealed_before(&mut self, header: Header, path: PathBuf, end: u64) -> Result<(), OpenError> {
        let first = header.first();
        let stored = self.stored_index(first)?;
        let known = stored.and_then(|bytes| Index::decode(&bytes, first, end, header.salt));
        let index = match known {
            Some(index) => index,
            None => self.index_anew(&header, &path, end)?,
        };
        self.view.segments.push(Segment { header, path, index });
        Ok(())
    }

    fn stored_index(&self, first: u64) -> Result<Option<Vec<u8>>, DiskError> {
        read_file(&*self.view.disk, &layout::index(&self.view.dir, first), MAX_INDEX)
    }

    fn index_anew(&mut self, header: &Header, path: &Path, end: u64) -> Result<Index, OpenError> {
        let file = self.view.disk.open(path).map_err(DiskError::at("open", path))?;
        let mut index = Index::new(header.first());
        let mut frames = Frames::new(&*file, header.seal(), header.first(), HEADER as u64, CHUNK);
        loop {
            match frames.next().map_err(DiskError::at("read", path))? {
                Step::Entry { offset, .. } => index.push(offset),
                Step::Mark(_) => {}
                Step::End => break,
            }
        }
        if index.end() != end {
            return Err(damaged(path, &frames).into());
        }
        self.put_index(&index, header)?;
        Ok(index)
    }

    /// Makes the file of offsets of a sealed segment, unless it is there.
    fn put_index(&mut self, index: &Index, header: &Header) -> Result<(), OpenError> {
        let bytes = index.encode(header.salt);
        let path = layout::index(&self.view.dir, header.first());
        if !self.view.mends || self.stored_index(header.first())?.as_ref() == Some(&bytes) {
            return Ok(());
        }
        self.mended += 1;
        or_full(crate::disk::replace(&*self.view.disk, &path, &bytes))?;
        Ok(())
    }

    /// Walks a segment from its first entry; `end` is where it must end, if another follows it.
    fn walk(
        &mut self,
        header: Header,
        path: PathBuf,
        end: Option<u64>,
        roots: &mut BTreeMap<u64, Hash>,
    ) -> Result<(), OpenError> {
        if header.before != *self.view.edge.frontier() {
            return Err(OpenError::Header { path });
        }
        let file = self.view.disk.open(&path).map_err(DiskError::at("open", &path))?;
        let seal = header.seal();
        let mut frames = Frames::new(&*file, seal, header.first(), HEADER as u64, CHUNK);
        let mut index = Index::new(header.first());
        let mut mark = Mark { synced: header.first(), offset: HEADER as u64 };
        let mut wanted = self.wanted(header.first());
        loop {
            if wanted.last() == Some(&self.view.edge.size()) {
                roots.insert(self.view.edge.size(), self.view.edge.root());
                wanted.pop();
            }
            match frames.next().map_err(DiskError::at("read", &path))? {
                Step::Entry { offset, entry, .. } => {
                    index.push(offset);
                    self.view.grow(leaf_hash(entry)).map_err(|_| OpenError::Header { path: path.clone() })?;
                    self.walked += 1;
                }
                Step::Mark(found) => mark = found,
                Step::End => break,
            }
            if self.writes && self.view.pending.len() > PENDING {
                self.settle(PENDING)?;
            }
        }
        match end {
            Some(end) if end != frames.index() => return Err(damaged(&path, &frames).into()),
            Some(_) => self.put_index(&index, &header)?,
            None => self.end = last_end(&*file, seal, &path, &frames, mark)?,
        }
        self.view.segments.push(Segment { header, path, index });
        Ok(())
    }

    /// The sizes from `first` on at which a root was signed, the smallest last.
    fn wanted(&self, first: u64) -> Vec<u64> {
        let mut sizes: Vec<u64> = self.evidence.all.iter().map(|known| known.signed.size).collect();
        sizes.retain(|size| *size >= first);
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        sizes.dedup();
        sizes
    }

    /// Compares full tiles of what was signed with their files, and puts right those that are not. The others wait for the next
    /// checkpoint, unless there are more than `limit`: their files may be there and not be durable.
    fn settle(&mut self, limit: usize) -> Result<(), DiskError> {
        let signed = self.evidence.checkpoint.as_ref().map_or(0, |own| own.size);
        let pending = std::mem::take(&mut self.view.pending);
        let (due, ahead): (BTreeMap<_, _>, _) = pending.into_iter().partition(|(tile, _)| tile.end() <= signed);
        self.view.pending = ahead;
        let wrong = due.into_iter().filter(|(tile, hashes)| self.view.stored(*tile).as_deref() != Some(hashes));
        let mut wrong: Vec<(Tile, Arc<[Hash]>)> = wrong.collect();
        self.mended += wrong.len() as u64;
        if self.view.pending.len() > limit {
            wrong.extend(std::mem::take(&mut self.view.pending));
        }
        let mut many = 0;
        if self.writes {
            many = write_tiles(&*self.view.disk, &self.view.dir, &wrong)?;
            self.writes = many == wrong.len();
        }
        self.view.pending.extend(wrong.into_iter().skip(many));
        Ok(())
    }

    /// Compares the log with all that was signed.
    fn bears_out(&self, roots: &BTreeMap<u64, Hash>) -> Result<(), OpenError> {
        let here = self.view.size();
        for known in &self.evidence.all {
            let size = known.signed.size;
            if size > here {
                return Err(match self.view.segments.last().filter(|_| !self.end.clean) {
                    Some(last) => damaged_at(&last.path, self.end.offset, here).into(),
                    None => rolled_back(here, known).into(),
                });
            }
            let root = match roots.get(&size) {
                Some(root) => *root,
                None => match self.view.root_at(size) {
                    // What was pruned cannot be compared any more.
                    Err(ReadError::Pruned { .. }) if size < self.view.pruned.first => continue,
                    other => other?,
                },
            };
            Evidence::compare(known, root)?;
        }
        Ok(())
    }
}

/// Where the last segment ends: a frame that is none ends it only if nothing shows that there was more.
pub(crate) fn last_end(
    file: &dyn DiskFile,
    seal: segment::Seal,
    path: &Path,
    frames: &Frames<'_>,
    mark: Mark,
) -> Result<End, OpenError> {
    let tail = segment::tail(file, seal, frames.offset()).map_err(DiskError::at("read", path))?;
    if tail.mark.is_some_and(|mark| mark.synced > frames.index()) {
        return Err(damaged(path, frames).into());
    }
    Ok(End { offset: frames.offset(), mark, clean: tail.clean })
}

pub(crate) fn damaged(path: &Path, frames: &Frames<'_>) -> ReadError {
    damaged_at(path, frames.offset(), frames.index())
}

pub(crate) fn damaged_at(path: &Path, offset: u64, index: u64) -> ReadError {
    ReadError::Damaged { path: path.to_path_buf(), offset, index }
}

/// Whether it was done. That the disk is full is no reason not to go on: the file can be made again.
pub(crate) fn or_full(done: Result<(), DiskError>) -> Result<bool, DiskError> {
    match done {
        Ok(()) => Ok(true),
        Err(error) if error.is_full() => Ok(false),
        Err(error) => Err(error),
    }
}
