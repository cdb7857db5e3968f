//! The one writer of a log. It is synchronous; what waits for the disk can be carried to another thread: a [`Syncing`] and a
//! [`Publishing`] do their work beside appends.
//!
//! After an error of the file system the log is broken: nobody knows what the disk has, so everything fails until it was opened
//! anew. A full disk breaks nothing as long as it was met while space was reserved: the log is as it was, and the last
//! of its space is kept for [`Log::append_reserved`].

use crate::disk::{Disk, DiskError, Guard};
use crate::ground::{Held, create_segment, first_allocation, make_dir, make_durable, remove_unfinished};
use crate::hash::{Hash, leaf_hash};
use crate::layout;
use crate::publish::{PublishError, Published, Publishing};
use crate::recover::{self, Found, OpenError, or_full};
use crate::segment::{HEADER, Header, MARK, Mark, PREFIX, Seal};
use crate::tile::{Bundle, MAX_ENTRY};
use crate::tree::{MAX_SIZE, verify_consistency};
use crate::trust::{Notary, Signed};
use crate::view::{ReadError, View};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// How much space a log takes at once.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The longest segment, bytes; at most 1 GiB. 64 MiB.
    pub segment_bytes: u64,
    /// How much of it is reserved on the disk at once, bytes. 1 MiB.
    pub allocate_bytes: u64,
    /// What is always kept reserved for [`Log::append_reserved`], bytes. 256 KiB.
    pub reserve_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, allocate_bytes: 1 << 20, reserve_bytes: 256 << 10 }
    }
}

impl Options {
    fn check(&self) -> Result<(), OpenError> {
        if self.segment_bytes > 1 << 30 {
            return Err(OpenError::Options("a segment is at most 1 GiB"));
        }
        if self.allocate_bytes == 0 || self.segment_bytes < HEADER as u64 + self.reserve_bytes + 1024 {
            return Err(OpenError::Options("a segment has room for its header, the reserve and entries"));
        }
        Ok(())
    }
}

/// What opening a log found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Entries of the log, all of them durable.
    pub size: u64,
    /// The latest checkpoint.
    pub signed: Option<Signed>,
    /// Entries behind the beginning of the segment in which it lies: those that were read.
    pub walked: u64,
    /// Whether bytes were cut off that a crash had left half written. No entry in them was ever durable.
    pub cut: bool,
    /// Derived files that were missing or wrong and were made again.
    pub mended: u64,
}

/// The log met an error of the file system and must be opened anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an earlier error of the disk broke the log: it must be opened anew")]
pub struct Broken;

/// Entries were not appended. Those of one call are appended all or not at all, unless the log is broken by it: then opening
/// it shows which.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// An entry is longer than 65,535 bytes.
    #[error("an entry of {len} bytes is longer than 65,535")]
    EntryTooLong {
        /// Its length, bytes.
        len: usize,
    },
    /// The entries together are longer than a segment.
    #[error("entries of {len} bytes together are more than a segment has room for")]
    TooMany {
        /// With what is stored around them, bytes.
        len: u64,
    },
    /// The disk is full. Nothing was changed; it can be tried again.
    #[error("the disk is full")]
    Full,
    /// There is no randomness for a new segment. Nothing was changed.
    #[error(transparent)]
    Randomness(#[from] stdx::random::NoRandomness),
    /// Trees end at 2^63 − 1 entries.
    #[error("the log has as many entries as a log may have")]
    TreeFull,
    /// The file system failed, and the log is broken.
    #[error("the disk failed, and the log is broken")]
    Disk(#[from] DiskError),
    /// It was broken before.
    #[error(transparent)]
    Broken(#[from] Broken),
}

/// What was appended could not be made durable: the log is broken.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The file system failed, and the log is broken.
    #[error("what was appended is perhaps not on the disk, and the log is broken")]
    Disk(#[from] DiskError),
    /// It was broken before.
    #[error(transparent)]
    Broken(#[from] Broken),
}

/// How much of the log something is true of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) size: u64,
    pub(crate) root: Hash,
    /// First index of the segment in which it ends, and where.
    segment: u64,
    offset: u64,
}

/// The file of the segment that is written. Once a sync failed, no other is tried: the next could say that all is well.
#[derive(Debug)]
struct Current {
    held: Held,
    failed: Mutex<bool>,
}

impl Current {
    fn new(held: Held) -> Arc<Self> {
        Arc::new(Self { held, failed: Mutex::new(false) })
    }

    fn sync(&self) -> Result<(), DiskError> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let done = if *failed { Err(io::Error::other("an earlier sync failed")) } else { self.held.file.sync() };
        *failed = done.is_err();
        done.map_err(DiskError::at("sync", &self.held.path))
    }
}

/// Makes durable what was appended before [`Log::start_sync`]: may run on another thread.
#[derive(Debug)]
#[must_use]
pub struct Syncing {
    file: Arc<Current>,
    point: Point,
}

/// A [`Syncing`] that ran; the log learns of it by [`Log::finish_sync`].
#[derive(Debug)]
#[must_use]
pub struct Synced {
    done: Result<(), DiskError>,
    point: Point,
}

impl Syncing {
    /// Waits for the disk.
    pub fn run(self) -> Synced {
        Synced { done: self.file.sync(), point: self.point }
    }
}

/// A log that is open for appending. There is one per directory: a lock sees to it.
#[derive(Debug)]
pub struct Log {
    pub(crate) view: View,
    pub(crate) notary: Arc<dyn Notary>,
    anchors: Vec<PathBuf>,
    options: Options,
    _lock: Box<dyn Guard>,
    current: Arc<Current>,
    seal: Seal,
    /// Where the next frame goes.
    tail: u64,
    /// Up to where the disk has space.
    allocated: u64,
    durable: Point,
    /// Up to where a mark says that entries are durable.
    marked: u64,
    /// The largest tree that was signed, or was about to be.
    pub(crate) signed: Option<(u64, Hash)>,
    archive_due: bool,
    pub(crate) publishing: bool,
    broken: bool,
    buffer: Vec<u8>,
}

impl Log {
    /// Opens the log in `dir`, or begins one there. `anchors` are other directories, best on other disks, that get each
    /// checkpoint too, and that are believed if they show that this copy is older or another.
    pub fn open(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        notary: Arc<dyn Notary>,
        anchors: Vec<PathBuf>,
    ) -> Result<(Self, Recovered), OpenError> {
        options.check()?;
        let own = [dir.to_path_buf(), layout::wal(dir), layout::archive(dir)];
        for directory in own.iter().chain(&anchors) {
            make_dir(&**disk, directory)?;
        }
        let path = layout::lock(dir);
        let lock = disk.lock(&path).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => OpenError::Locked { path: path.clone() },
            _ => DiskError::at("lock", &path)(source).into(),
        })?;
        let mut found = recover::find(disk, dir, &*notary, &anchors, true)?;
        remove_unfinished(&**disk, dir)?;
        if found.view.segments.is_empty() {
            let header = new_header(&*notary, &found.view)?;
            let segment = create_segment(&**disk, dir, header, &options)?;
            found.view.segments.push(segment);
        }
        let (current, allocated) = make_durable(&**disk, dir, &found, &options)?;
        Ok(Self::assemble(found, (notary, anchors, options, lock), current, allocated))
    }

    fn assemble(
        found: Found,
        (notary, anchors, options, lock): (Arc<dyn Notary>, Vec<PathBuf>, Options, Box<dyn Guard>),
        current: Held,
        allocated: u64,
    ) -> (Self, Recovered) {
        let Found { view, evidence, end, walked, mended, .. } = found;
        let recovered = Recovered { size: view.size(), signed: evidence.checkpoint, walked, cut: !end.clean, mended };
        let last = view.segments.last();
        let seal = last.map_or_else(Seal::default, |last| last.header.seal());
        let first = last.map_or(0, |last| last.header.first());
        let durable = Point { size: view.size(), root: view.root(), segment: first, offset: end.offset };
        let log = Self {
            seal,
            tail: end.offset,
            allocated,
            durable,
            marked: end.mark.synced,
            signed: recovered.signed.as_ref().map(|signed| (signed.size, signed.root)),
            archive_due: false,
            publishing: false,
            broken: false,
            buffer: Vec::new(),
            current: Current::new(current),
            view,
            notary,
            anchors,
            options,
            _lock: lock,
        };
        (log, recovered)
    }

    /// Appends entries, in order, in one write. They are in the kernel when this returns, so that the end of this process does not
    /// lose them, and durable after the next sync.
    pub fn append<E: AsRef<[u8]>>(&mut self, entries: &[E]) -> Result<Range<u64>, AppendError> {
        let len = self.measure(entries)?;
        self.make_room(len)?;
        self.write(entries)
    }

    /// Appends entries into the space that is kept for them: works on a full disk, until the reserve is used up.
    pub fn append_reserved<E: AsRef<[u8]>>(&mut self, entries: &[E]) -> Result<Range<u64>, AppendError> {
        let len = self.measure(entries)?;
        if self.tail.saturating_add(len) > self.allocated {
            return Err(AppendError::Full);
        }
        self.write(entries)
    }

    /// The bytes that entries take, with a mark; or why they cannot be appended.
    fn measure<E: AsRef<[u8]>>(&self, entries: &[E]) -> Result<u64, AppendError> {
        self.check()?;
        let mut len = MARK as u64;
        for entry in entries.iter().map(AsRef::as_ref) {
            if entry.len() > MAX_ENTRY {
                return Err(AppendError::EntryTooLong { len: entry.len() });
            }
            len = len.saturating_add((PREFIX + entry.len()) as u64);
        }
        if self.view.size().saturating_add(entries.len() as u64) > MAX_SIZE {
            return Err(AppendError::TreeFull);
        }
        Ok(len)
    }

    fn make_room(&mut self, len: u64) -> Result<(), AppendError> {
        let Options { segment_bytes, allocate_bytes, reserve_bytes } = self.options;
        if (HEADER as u64).saturating_add(len).saturating_add(reserve_bytes) > segment_bytes {
            return Err(AppendError::TooMany { len });
        }
        if self.tail + len + reserve_bytes > segment_bytes {
            self.rotate()?;
        }
        let needed = self.tail + len + reserve_bytes;
        if needed > self.allocated {
            let to = needed.next_multiple_of(allocate_bytes).min(segment_bytes).max(needed);
            let done = self.current.held.file.allocate(self.allocated, to);
            self.or_broken(done.map_err(DiskError::at("reserve space in", &self.current.held.path)))?;
            self.allocated = to;
        }
        Ok(())
    }

    /// A full disk is told apart; every other error breaks the log.
    fn or_broken<T>(&mut self, done: Result<T, DiskError>) -> Result<T, AppendError> {
        done.map_err(|error| {
            if error.is_full() {
                return AppendError::Full;
            }
            self.broken = true;
            AppendError::Disk(error)
        })
    }

    fn write<E: AsRef<[u8]>>(&mut self, entries: &[E]) -> Result<Range<u64>, AppendError> {
        let first = self.view.size();
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        if self.durable.size > self.marked && !entries.is_empty() {
            let here = Some(self.durable.segment) == self.view.segments.last().map(|last| last.header.first());
            let offset = if here { self.durable.offset } else { HEADER as u64 };
            self.seal.push_mark(&mut buffer, Mark { synced: self.durable.size, offset });
        }
        let mut offsets = Vec::with_capacity(entries.len());
        for (index, entry) in (first..).zip(entries) {
            offsets.push(self.tail + buffer.len() as u64);
            self.seal.push_entry(&mut buffer, index, entry.as_ref());
        }
        if let Err(error) = self.current.held.file.write_at(&buffer, self.tail) {
            // Part of it may be there. If this is not undone either, opening the log finds it.
            buffer.fill(0);
            let _ = self.current.held.file.write_at(&buffer, self.tail);
            self.broken = true;
            return Err(DiskError::at("append to", &self.current.held.path)(error).into());
        }
        self.tail += buffer.len() as u64;
        if !entries.is_empty() {
            self.marked = self.durable.size;
        }
        self.buffer = buffer;
        for (entry, offset) in entries.iter().zip(offsets) {
            self.view.grow(leaf_hash(entry.as_ref())).map_err(|_| AppendError::TreeFull)?;
            if let Some(last) = self.view.segments.last_mut() {
                last.index.push(offset);
            }
        }
        Ok(first..self.view.size())
    }

    /// Ends this segment and begins the next. Only the last segment ever has what is not durable.
    fn rotate(&mut self) -> Result<(), AppendError> {
        let synced = self.start_sync()?.run();
        self.finish_sync(synced).map_err(|error| match error {
            SyncError::Disk(error) => AppendError::Disk(error),
            SyncError::Broken(error) => AppendError::Broken(error),
        })?;
        let header = Header::new(self.notary.origin(), stdx::random::bytes()?, self.view.edge.frontier().clone());
        let created = create_segment(&*self.view.disk, &self.view.dir, header, &self.options);
        let segment = self.or_broken(created)?;
        let opened = self.view.disk.open_to_write(&segment.path).map_err(DiskError::at("open", &segment.path));
        let file = opened.inspect_err(|_| self.broken = true)?;
        if let Some(sealed) = self.view.segments.last() {
            let path = layout::index(&self.view.dir, sealed.header.first());
            let bytes = sealed.index.encode(sealed.header.salt);
            let done = or_full(crate::disk::replace(&*self.view.disk, &path, &bytes));
            self.or_broken(done)?;
        }
        self.current = Current::new(Held { path: segment.path.clone(), file });
        self.seal = segment.header.seal();
        self.tail = HEADER as u64;
        self.allocated = first_allocation(&self.options);
        self.marked = self.durable.size;
        self.archive_due = true;
        self.view.segments.push(segment);
        Ok(())
    }

    /// Begins to make durable what was appended until now.
    pub fn start_sync(&self) -> Result<Syncing, Broken> {
        self.check()?;
        let segment = self.view.segments.last().map_or(0, |last| last.header.first());
        let point = Point { size: self.view.size(), root: self.view.root(), segment, offset: self.tail };
        Ok(Syncing { file: self.current.clone(), point })
    }

    /// Learns how a sync ended. Gives how many entries are durable.
    pub fn finish_sync(&mut self, synced: Synced) -> Result<u64, SyncError> {
        self.check()?;
        synced.done.inspect_err(|_| self.broken = true)?;
        if synced.point.size >= self.durable.size {
            self.durable = synced.point;
        }
        Ok(self.durable.size)
    }

    /// Makes durable what was appended, and waits for it. Gives how many entries are durable.
    pub fn sync(&mut self) -> Result<u64, SyncError> {
        let synced = self.start_sync()?.run();
        self.finish_sync(synced)
    }

    /// Entries that are durable.
    pub fn durable(&self) -> u64 {
        self.durable.size
    }

    /// Begins to sign a checkpoint over the durable entries, at `now_s` (seconds since 1970). Only one at a time: the log must
    /// learn how it ended.
    pub fn start_checkpoint(&mut self, now_s: u64) -> Result<Publishing, PublishError> {
        self.check()?;
        if self.publishing {
            return Err(PublishError::Busy);
        }
        let point = self.durable;
        if let Some((size, root)) = self.signed {
            let proof = self.view.consistency_at(size, point.size)?;
            verify_consistency(size, root, point.size, point.root, &proof).map_err(PublishError::Contradiction)?;
        }
        self.signed = Some((point.size, point.root));
        self.publishing = true;
        let tiles = self.view.pending.iter().filter(|(tile, _)| tile.end() <= point.size);
        Ok(Publishing {
            disk: self.view.disk.clone(),
            dir: self.view.dir.clone(),
            notary: self.notary.clone(),
            anchors: self.anchors.clone(),
            size: point.size,
            root: point.root,
            now_s,
            tiles: tiles.map(|(tile, hashes)| (*tile, hashes.clone())).collect(),
            archive: self.archive_due,
        })
    }

    /// Learns how signing a checkpoint ended, and gives it.
    pub fn finish_checkpoint(&mut self, published: Published) -> Result<Signed, PublishError> {
        self.publishing = false;
        self.check()?;
        published.written.iter().for_each(|tile| drop(self.view.pending.remove(tile)));
        match &published.done {
            Ok(_) => self.archive_due &= !published.archived,
            Err(PublishError::Disk(_)) => self.broken = true,
            Err(_) => {}
        }
        published.done
    }

    /// Makes all entries durable, signs a checkpoint over them at `now_s` (seconds since 1970), stores it here and at the anchors,
    /// and gives it.
    pub fn checkpoint(&mut self, now_s: u64) -> Result<Signed, PublishError> {
        self.sync()?;
        let published = self.start_checkpoint(now_s)?.run();
        self.finish_checkpoint(published)
    }

    /// The next checkpoint is kept in the archive, too; so is the first of each segment, without being asked.
    pub fn archive_next(&mut self) {
        self.archive_due = true;
    }

    /// All that can be read.
    pub fn view(&self) -> Result<&View, Broken> {
        self.check()?;
        Ok(&self.view)
    }

    /// One entry, as it was appended.
    pub fn entry(&self, index: u64) -> Result<Vec<u8>, ReadError> {
        self.view()?.entry(index)
    }

    /// The bytes of a bundle of entries (C2SP tlog-tiles).
    pub fn bundle(&self, bundle: Bundle) -> Result<Vec<u8>, ReadError> {
        self.view()?.bundle(bundle)
    }

    /// The proof that an entry is in the log of now.
    pub fn inclusion(&self, index: u64) -> Result<Vec<Hash>, ReadError> {
        self.view()?.inclusion(index)
    }

    /// The proof that the log of now begins with what it was at `old`.
    pub fn consistency(&self, old: u64) -> Result<Vec<Hash>, ReadError> {
        self.view()?.consistency(old)
    }

    /// Entries appended.
    pub fn size(&self) -> u64 {
        self.view.size()
    }

    /// Whether an error of the disk broke it.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    pub(crate) fn check(&self) -> Result<(), Broken> {
        if self.broken { Err(Broken) } else { Ok(()) }
    }
}

fn new_header(notary: &dyn Notary, view: &View) -> Result<Header, OpenError> {
    Ok(Header::new(notary.origin(), stdx::random::bytes()?, view.edge.frontier().clone()))
}
