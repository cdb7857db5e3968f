//! Verifying a log offline, on a copy of its directory, with public keys alone: every entry is hashed again, and everything else is
//! compared with that.

use crate::disk::{Disk, DiskError, read_file};
use crate::edge::{Edge, Filled};
use crate::evidence::{Evidence, EvidenceError};
use crate::hash::{Hash, leaf_hash};
use crate::index::Index;
use crate::layout;
use crate::log::Log;
use crate::recover::{self, OpenError, edge_at, headers, last_end, read_kept, rolled_back};
use crate::segment::{self, CHUNK, Frames, HEADER, Header, Mark, Step};
use crate::tile::{MAX_LEVEL, Tile, WIDTH, encode_tile, full_tiles};
use crate::trust::{Signed, Trust};
use crate::view::{ReadError, Segment, View, write_tiles};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Progress is told after so many entries.
const STEP: u64 = 65_536;

/// A log that is what its checkpoint says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Its latest checkpoint.
    pub signed: Signed,
    /// The latest that witnesses cosigned, if the log keeps one: its cosignatures are not verified here.
    pub witnessed: Option<Signed>,
    /// The first entry that was there to be verified; 0 unless the log was pruned.
    pub first: u64,
    /// Entries of the log, those behind the checkpoint included.
    pub size: u64,
    /// Checkpoints that were compared, the latest included.
    pub compared: u64,
    /// Checkpoints over less than what was pruned: their signatures are right, their roots cannot be computed any more.
    pub beyond: u64,
    /// Derived files that are missing. A writer that opens the log makes them again as it needs them.
    pub missing: u64,
    /// Whether a write was cut short behind the last entry, by a crash or because the log was copied while it was written.
    pub torn: bool,
}

/// A log is not what it says, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// There is no checkpoint: the log never said anything that could be verified.
    #[error("{path} is missing: nothing was signed")]
    NoCheckpoint {
        /// The file that is missing.
        path: PathBuf,
    },
    /// A file that is derived from the entries contradicts them.
    #[error("{path} contradicts the entries")]
    Derived {
        /// The file.
        path: PathBuf,
    },
    /// Entries, headers or checkpoints are damaged, altered or missing.
    #[error(transparent)]
    Log(#[from] OpenError),
}

impl From<DiskError> for VerifyError {
    fn from(error: DiskError) -> Self {
        Self::Log(error.into())
    }
}

impl From<ReadError> for VerifyError {
    fn from(error: ReadError) -> Self {
        Self::Log(error.into())
    }
}

impl From<EvidenceError> for VerifyError {
    fn from(error: EvidenceError) -> Self {
        Self::Log(error.into())
    }
}

/// Verifies the log in `dir`. With `since`, the file of an older checkpoint that somebody kept, also that the log still begins with what
/// that was signed for. `progress` is told the index that was reached and where the checkpoint ends.
pub fn verify(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    trust: &dyn Trust,
    since: Option<&Path>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Verified, VerifyError> {
    let mut evidence = Evidence::gather(&**disk, dir, trust, &[], usize::MAX)?;
    let signed = evidence.checkpoint.clone();
    let signed = signed.ok_or_else(|| VerifyError::NoCheckpoint { path: layout::checkpoint(dir) })?;
    if let Some(since) = since {
        evidence.read(&**disk, since, trust)?;
        if evidence.all.last().is_none_or(|last| last.path != since) {
            return Err(VerifyError::NoCheckpoint { path: since.to_path_buf() });
        }
    }
    let pass = Pass::new(disk, dir, evidence, signed, false)?;
    pass.run(trust.origin(), progress)
}

impl Log {
    /// Hashes every entry again and makes the derived files that are missing or wrong again. Gives how many.
    pub fn rebuild(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<u64, VerifyError> {
        self.check().map_err(ReadError::from)?;
        let (disk, dir) = (self.view.disk.clone(), self.view.dir.clone());
        let evidence = Evidence::gather(&*disk, &dir, &*self.notary, &[], usize::MAX)?;
        let signed = evidence.checkpoint.clone();
        let signed = signed.ok_or_else(|| VerifyError::NoCheckpoint { path: layout::checkpoint(&dir) })?;
        let pass = Pass::new(&disk, &dir, evidence, signed, true)?;
        Ok(pass.run(self.notary.origin(), progress)?.missing)
    }
}

/// One pass over a log.
struct Pass {
    view: View,
    evidence: Evidence,
    /// The sizes at which a root was signed and that are still ahead, the smallest last.
    wanted: Vec<u64>,
    /// Whether derived files are put right.
    mends: bool,
    done: Verified,
}

impl Pass {
    fn new(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        evidence: Evidence,
        signed: Signed,
        mends: bool,
    ) -> Result<Self, VerifyError> {
        let kept = read_kept(&**disk, dir)?;
        let view = View::new(disk.clone(), dir, Vec::new(), kept, mends);
        let sizes: BTreeSet<u64> = evidence.all.iter().map(|known| known.signed.size).collect();
        let wanted = sizes.into_iter().rev().filter(|size| *size >= kept.first).collect();
        let witnessed = evidence.witnessed.clone();
        let done =
            Verified { signed, witnessed, first: kept.first, size: 0, compared: 0, beyond: 0, missing: 0, torn: false };
        Ok(Self { view, evidence, wanted, mends, done })
    }

    fn run(mut self, origin: &str, progress: &mut dyn FnMut(u64, u64)) -> Result<Verified, VerifyError> {
        let headers = headers(&*self.view.disk, &self.view.dir, origin, self.view.pruned)?;
        let ends: Vec<u64> = headers.iter().skip(1).map(|(header, _)| header.first()).collect();
        let mut edge = match headers.first() {
            Some((header, _)) => edge_at(&self.view, &header.before)?,
            None => Edge::default(),
        };
        for (nth, (header, path)) in headers.into_iter().enumerate() {
            self.segment(header, path, ends.get(nth).copied(), &mut edge, progress)?;
        }
        self.at(&edge)?;
        if let Some(known) = self.evidence.strongest().filter(|known| known.signed.size > edge.size()) {
            return Err(rolled_back(edge.size(), known).into());
        }
        self.done.size = edge.size();
        self.view.edge = edge;
        self.before()?;
        Ok(self.done)
    }

    fn segment(
        &mut self,
        header: Header,
        path: PathBuf,
        end: Option<u64>,
        edge: &mut Edge,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), VerifyError> {
        if header.before != *edge.frontier() {
            return Err(OpenError::Header { path }.into());
        }
        let file = self.view.disk.open(&path).map_err(DiskError::at("open", &path))?;
        let mut frames = Frames::new(&*file, header.seal(), header.first(), HEADER as u64, CHUNK);
        let mut index = Index::new(header.first());
        let mut filled: Vec<Filled> = Vec::new();
        loop {
            self.at(edge)?;
            match frames.next().map_err(DiskError::at("read", &path))? {
                Step::Entry { offset, entry, .. } => {
                    index.push(offset);
                    let pushed = edge.push(leaf_hash(entry), &mut filled);
                    pushed.map_err(|_| OpenError::Header { path: path.clone() })?;
                }
                Step::Mark(_) => {}
                Step::End => break,
            }
            for (tile, hashes) in filled.drain(..) {
                self.tile(tile, &hashes)?;
            }
            if edge.size().is_multiple_of(STEP) {
                progress(edge.size(), self.done.signed.size);
            }
        }
        match end {
            Some(end) if end != frames.index() => return Err(recover::damaged(&path, &frames).into()),
            Some(_) => {
                let left = segment::tail(&*file, header.seal(), frames.offset());
                if !left.map_err(DiskError::at("read", &path))?.clean {
                    return Err(recover::damaged(&path, &frames).into());
                }
                self.derived(&layout::index(&self.view.dir, header.first()), &index.encode(header.salt))?;
            }
            None => {
                let found = last_end(&*file, header.seal(), &path, &frames, Mark::default())?;
                self.done.torn = !found.clean;
                if self.done.torn && frames.index() < self.done.signed.size {
                    return Err(recover::damaged(&path, &frames).into());
                }
            }
        }
        self.view.segments.push(Segment { header, path, index });
        Ok(())
    }

    /// Compares the root with what was signed for this size.
    fn at(&mut self, edge: &Edge) -> Result<(), VerifyError> {
        if self.wanted.last() != Some(&edge.size()) {
            return Ok(());
        }
        self.wanted.pop();
        self.compare(edge.size(), edge.root())
    }

    fn compare(&mut self, size: u64, root: Hash) -> Result<(), VerifyError> {
        for known in self.evidence.all.iter().filter(|known| known.signed.size == size) {
            Evidence::compare(known, root)?;
            self.done.compared += 1;
        }
        Ok(())
    }

    /// Compares the file of a tile that a checkpoint covers.
    fn tile(&mut self, tile: Tile, hashes: &[Hash]) -> Result<(), VerifyError> {
        if tile.end() > self.done.signed.size {
            return Ok(());
        }
        if self.mends && self.view.stored(tile).as_deref() != Some(hashes) {
            self.done.missing += 1;
            write_tiles(&*self.view.disk, &self.view.dir, &[(tile, hashes.into())])?;
            return Ok(());
        }
        self.derived(&layout::tile(&self.view.dir, tile), &encode_tile(hashes))
    }

    fn derived(&mut self, path: &Path, content: &[u8]) -> Result<(), VerifyError> {
        let disk = &*self.view.disk;
        // One byte more than it should have is read as something else.
        let stored = match read_file(disk, path, content.len() as u64) {
            Err(error) if error.source.kind() == std::io::ErrorKind::FileTooLarge => Some(Vec::new()),
            other => other?,
        };
        match stored {
            Some(stored) if stored == content => {}
            _ if self.mends => {
                self.done.missing += 1;
                crate::disk::replace(disk, path, content)?;
            }
            Some(_) => return Err(VerifyError::Derived { path: path.to_path_buf() }),
            None => self.done.missing += 1,
        }
        Ok(())
    }

    /// What lies before the first entry of a pruned log: the tiles that are left, and checkpoints.
    fn before(&mut self) -> Result<(), VerifyError> {
        let (first, size) = (self.done.first, self.done.signed.size);
        for level in 0..=MAX_LEVEL {
            let all = (0..full_tiles(level, size)).filter_map(|index| Tile::new(level, index, WIDTH));
            let left = all.take_while(|tile| tile.start() < first);
            // Of the leaves' only those are left that no full tile above has the root of.
            for tile in left.filter(|tile| level > 0 || tile.index() / u64::from(WIDTH) >= full_tiles(1, size)) {
                let path = layout::tile(&self.view.dir, tile);
                self.view.tile(tile).map_err(|error| match error {
                    ReadError::Pruned { .. } => VerifyError::Derived { path },
                    other => other.into(),
                })?;
            }
        }
        let sizes: BTreeSet<u64> = self.evidence.all.iter().map(|known| known.signed.size).collect();
        for size in sizes.into_iter().filter(|size| *size < first) {
            match self.view.root_at(size) {
                Err(ReadError::Pruned { .. }) => self.done.beyond += 1,
                root => self.compare(size, root?)?,
            }
        }
        Ok(())
    }
}
