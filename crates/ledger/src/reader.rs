//! Reading a log while another process writes it. It needs no lock and changes nothing; it sees the log as it was a moment ago.

use crate::disk::{Disk, DiskError};
use crate::evidence::{Evidence, Witnessed};
use crate::hash::leaf_hash;
use crate::index::Index;
use crate::layout;
use crate::recover::{self, End, Found, OpenError, read_header};
use crate::segment::{CHUNK, Frames, HEADER, Step};
use crate::trust::{Signed, Trust};
use crate::view::{Segment, View};
use std::path::Path;
use std::sync::Arc;

/// Tiles remembered that had no file when they became full.
const PENDING: usize = 512;
/// How often opening begins anew when a file went away meanwhile: the writer rotates and prunes.
const ATTEMPTS: u32 = 3;

/// A log that another process may be writing.
#[derive(Debug)]
pub struct Reader {
    view: View,
    trust: Arc<dyn Trust>,
    signed: Option<Signed>,
    witnessed: Option<Signed>,
    /// Where the last segment's frames end.
    offset: u64,
}

impl Reader {
    /// Opens the log in `dir`. It must bear out its own checkpoint and its archive.
    pub fn open(disk: &Arc<dyn Disk>, dir: &Path, trust: Arc<dyn Trust>) -> Result<Self, OpenError> {
        let mut attempts = 1;
        let found = loop {
            match recover::find(disk, dir, &*trust, &[], false) {
                Err(OpenError::Disk(error)) if error.is_missing() && attempts < ATTEMPTS => attempts += 1,
                other => break other?,
            }
        };
        let Found { view, evidence, end: End { offset, .. }, .. } = found;
        let Evidence { checkpoint: signed, witnessed, .. } = evidence;
        Ok(Self { view, trust, signed, witnessed, offset })
    }

    /// All that can be read.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The latest checkpoint, as far as it was read.
    pub fn signed(&self) -> Option<&Signed> {
        self.signed.as_ref()
    }

    /// The latest checkpoint that witnesses cosigned, if the log keeps one.
    pub fn witnessed(&self) -> Option<&Signed> {
        self.witnessed.as_ref()
    }

    /// Reads on: what was appended since, and the latest checkpoint. Gives how many entries are there.
    pub fn refresh(&mut self) -> Result<u64, OpenError> {
        let (mut evidence, mut cosigned) = (Evidence::default(), Evidence::default());
        // First: it is never of more than the checkpoint that is read next.
        cosigned.read(&*self.view.disk, &layout::witnessed(&self.view.dir), &*self.trust)?;
        evidence.read(&*self.view.disk, &layout::checkpoint(&self.view.dir), &*self.trust)?;
        loop {
            self.read_on()?;
            if !self.next_segment()? {
                break;
            }
        }
        let dir = &self.view.dir;
        self.view.pending = match self.view.pending.len() {
            0..PENDING => std::mem::take(&mut self.view.pending),
            _ => {
                let pending = std::mem::take(&mut self.view.pending);
                pending
                    .into_iter()
                    .filter(|(tile, hashes)| self.view.stored(*tile).as_deref() != Some(hashes))
                    .collect()
            }
        };
        if let Some(known) = cosigned.all.pop().filter(|known| Some(&known.signed) != self.witnessed.as_ref()) {
            if known.signed.size > self.view.size() {
                return Err(recover::rolled_back(self.view.size(), &known).into());
            }
            Evidence::compare(&known, self.view.root_at(known.signed.size)?)?;
            self.witnessed = Some(known.signed);
        }
        if let Some(known) = evidence.all.pop() {
            if known.signed.size > self.view.size() {
                return Err(recover::rolled_back(self.view.size(), &known).into());
            }
            Evidence::compare(&known, self.view.root_at(known.signed.size)?)?;
            self.signed = Some(known.signed);
        } else if let Some(signed) = self.signed.take() {
            let path = layout::checkpoint(dir);
            return Err(recover::rolled_back(0, &Witnessed { path, signed }).into());
        }
        Ok(self.view.size())
    }

    /// Reads the frames that the last segment got.
    fn read_on(&mut self) -> Result<(), OpenError> {
        let Some(last) = self.view.segments.last() else { return Ok(()) };
        let path = last.path.clone();
        let file = self.view.disk.open(&path).map_err(DiskError::at("open", &path))?;
        let mut frames = Frames::new(&*file, last.header.seal(), self.view.size(), self.offset, CHUNK);
        loop {
            match frames.next().map_err(DiskError::at("read", &path))? {
                Step::Entry { offset, entry, .. } => {
                    self.view.grow(leaf_hash(entry)).map_err(|_| OpenError::Header { path: path.clone() })?;
                    if let Some(last) = self.view.segments.last_mut() {
                        last.index.push(offset);
                    }
                }
                Step::Mark(_) => {}
                Step::End => break,
            }
        }
        self.offset = frames.offset();
        Ok(())
    }

    /// Goes over to the segment that begins where this one ends, if it is there.
    fn next_segment(&mut self) -> Result<bool, OpenError> {
        let size = self.view.size();
        if self.view.segments.last().is_some_and(|last| last.header.first() == size) {
            return Ok(false);
        }
        let path = layout::segment(&self.view.dir, size);
        let header = match read_header(&*self.view.disk, &path) {
            Err(error) if error.is_missing() => return Ok(false),
            other => other?,
        };
        let right = header.filter(|header| header.before == *self.view.edge.frontier());
        let header = right.ok_or_else(|| OpenError::Header { path: path.clone() })?;
        self.view.segments.push(Segment { header, path, index: Index::new(size) });
        self.offset = HEADER as u64;
        Ok(true)
    }
}
