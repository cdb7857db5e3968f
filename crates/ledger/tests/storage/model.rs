//! A file system in memory with a page cache: what was not synced is lost in part when the power is cut, in pieces of 512 bytes and
//! in any order; names that were not synced come or stay away one by one; any call can be made to fail.

use staithe_ledger::disk::{Disk, DiskFile, Guard};
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

const SECTOR: u64 = 512;

/// A generator of choices that a seed repeats.
#[derive(Clone, Debug)]
pub(crate) struct Choices(u64);

impl Choices {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn yes(&mut self) -> bool {
        self.below(2) == 0
    }
}

#[derive(Clone, Default)]
struct Inode {
    durable: Arc<Vec<u8>>,
    cached: Arc<Vec<u8>>,
    /// Writes since the last sync, oldest first.
    dirty: Vec<(u64, Arc<Vec<u8>>)>,
}

#[derive(Clone)]
enum NameOp {
    Link(PathBuf, usize),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, usize),
    MakeDir(PathBuf),
}

/// Everything that is in the file system.
#[derive(Clone, Default)]
pub(crate) struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    dirs: BTreeSet<PathBuf>,
    durable_names: BTreeMap<PathBuf, usize>,
    durable_dirs: BTreeSet<PathBuf>,
    /// Changes of names since the last sync of their directory.
    ops: Vec<(PathBuf, NameOp)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process ends in this call.
    Kill,
    /// The call fails. A sync that fails loses what was dirty; a write leaves a part.
    Eio,
    /// The disk is full in this call.
    Enospc,
}

type Watch = Box<dyn FnMut(&State) + Send>;

#[derive(Default)]
struct Inner {
    state: State,
    calls: u64,
    plan: Option<(u64, Fault, u64)>,
    dead: bool,
    capacity: Option<u64>,
    locks: BTreeSet<PathBuf>,
    /// Called with each state that a power cut could find.
    watch: Option<Watch>,
}

#[derive(Clone, Default)]
pub(crate) struct Model(Arc<Mutex<Inner>>);

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Model")
    }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_path_buf()
}

fn eio() -> io::Error {
    io::Error::other("EIO")
}

enum Go {
    On,
    Fail(io::Error, Choices, Fault),
}

impl Inner {
    /// Counts a call that may change something, and says whether it fails.
    fn enter(&mut self, changes: bool) -> Go {
        if self.dead {
            return Go::Fail(eio(), Choices::new(0), Fault::Kill);
        }
        if changes && let Some(mut watch) = self.watch.take() {
            watch(&self.state);
            self.watch = Some(watch);
        }
        self.calls += 1;
        match self.plan {
            Some((nth, fault, seed)) if nth == self.calls => {
                self.plan = None;
                self.dead = fault == Fault::Kill;
                let error = if fault == Fault::Enospc { io::ErrorKind::StorageFull.into() } else { eio() };
                Go::Fail(error, Choices::new(seed), fault)
            }
            _ => Go::On,
        }
    }

    fn used(&self) -> u64 {
        let live: BTreeSet<usize> = self.state.names.values().copied().collect();
        live.into_iter().map(|inode| self.state.inodes[inode].cached.len() as u64).sum()
    }

    fn write(&mut self, inode: usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset as usize + bytes.len();
        let grows = end.saturating_sub(self.state.inodes[inode].cached.len()) as u64;
        if grows > 0 && self.capacity.is_some_and(|capacity| self.used() + grows > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = &mut self.state.inodes[inode];
        apply(Arc::make_mut(&mut inode.cached), offset, bytes);
        inode.dirty.push((offset, Arc::new(bytes.to_vec())));
        Ok(())
    }
}

fn apply(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + bytes.len());
    if content.len() < end {
        content.resize(end, 0);
    }
    content[start..end].copy_from_slice(bytes);
}

impl State {
    fn apply_op(names: &mut BTreeMap<PathBuf, usize>, dirs: &mut BTreeSet<PathBuf>, op: &NameOp) {
        match op {
            NameOp::Link(path, inode) => drop(names.insert(path.clone(), *inode)),
            NameOp::Unlink(path) => drop(names.remove(path)),
            NameOp::Rename(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
            NameOp::MakeDir(path) => drop(dirs.insert(path.clone())),
        }
    }

    fn op(&mut self, directory: PathBuf, op: NameOp) {
        Self::apply_op(&mut self.names, &mut self.dirs, &op);
        self.ops.push((directory, op));
    }

    /// What a power cut leaves, by choice.
    pub(crate) fn power_cut(&self, choices: &mut Choices) -> State {
        let all = choices.below(8);
        // Mostly any part; sometimes everything or nothing, or all but a little.
        let keep = |choices: &mut Choices| match all {
            0 => false,
            1 => true,
            2 => choices.below(10) > 0,
            3 => choices.below(10) == 0,
            _ => choices.yes(),
        };
        let (mut names, mut dirs) = (self.durable_names.clone(), self.durable_dirs.clone());
        for (_, op) in &self.ops {
            if keep(choices) {
                Self::apply_op(&mut names, &mut dirs, op);
            }
        }
        let there = |path: &Path| path.ancestors().skip(1).all(|dir| dir == Path::new("/") || dirs.contains(dir));
        let dirs: BTreeSet<PathBuf> = dirs.iter().filter(|dir| there(dir)).cloned().collect();
        names.retain(|path, _| path.ancestors().skip(1).all(|dir| dir == Path::new("/") || dirs.contains(dir)));
        let mut inodes = Vec::new();
        let mut numbers = BTreeMap::new();
        for inode in names.values_mut() {
            let next = inodes.len();
            let number = *numbers.entry(*inode).or_insert(next);
            if number == next {
                let content = Arc::new(self.inodes[*inode].torn(choices, &keep));
                inodes.push(Inode { durable: content.clone(), cached: content, dirty: Vec::new() });
            }
            *inode = number;
        }
        State { inodes, durable_names: names.clone(), names, durable_dirs: dirs.clone(), dirs, ops: Vec::new() }
    }

    /// The files as the kernel shows them.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Arc<Vec<u8>>> {
        self.names.iter().map(|(path, inode)| (path.clone(), self.inodes[*inode].cached.clone())).collect()
    }

    /// Puts a file there, durably.
    pub(crate) fn put(&mut self, path: &Path, content: Vec<u8>) {
        let content = Arc::new(content);
        let inode = self.inodes.len();
        self.inodes.push(Inode { durable: content.clone(), cached: content, dirty: Vec::new() });
        self.names.insert(path.to_path_buf(), inode);
        self.durable_names.insert(path.to_path_buf(), inode);
        for dir in path.ancestors().skip(1) {
            self.dirs.insert(dir.to_path_buf());
            self.durable_dirs.insert(dir.to_path_buf());
        }
    }

    pub(crate) fn remove(&mut self, path: &Path) {
        self.names.remove(path);
        self.durable_names.remove(path);
    }

    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.files().hash(&mut hasher);
        hasher.finish()
    }
}

impl Inode {
    /// What is dirty reaches the disk. What the cache shows beyond that need not be there: a sync failed before.
    fn flush(&mut self) {
        let durable = Arc::make_mut(&mut self.durable);
        self.dirty.drain(..).for_each(|(offset, bytes)| apply(durable, offset, &bytes));
    }

    /// Each sector has any number of the writes to it, oldest first; what was never written may be garbage.
    fn torn(&self, choices: &mut Choices, keep: &dyn Fn(&mut Choices) -> bool) -> Vec<u8> {
        let mut content = self.durable.as_ref().clone();
        let mut sectors: BTreeMap<u64, Vec<(u64, &[u8])>> = BTreeMap::new();
        for (offset, bytes) in &self.dirty {
            let (mut at, end) = (*offset, offset + bytes.len() as u64);
            while at < end {
                let stop = end.min((at / SECTOR + 1) * SECTOR);
                let piece = &bytes[(at - offset) as usize..(stop - offset) as usize];
                sectors.entry(at / SECTOR).or_default().push((at, piece));
                at = stop;
            }
        }
        for (sector, writes) in sectors {
            let mut many = 0;
            while many < writes.len() && keep(choices) {
                many += 1;
            }
            if many == 0 && sector * SECTOR >= self.durable.len() as u64 && choices.below(16) == 0 {
                let garbage: Vec<u8> = (0..SECTOR).map(|_| choices.next() as u8).collect();
                apply(&mut content, sector * SECTOR, &garbage);
            }
            for (at, piece) in &writes[..many] {
                apply(&mut content, *at, piece);
            }
        }
        content
    }
}

impl Model {
    pub(crate) fn new(state: State) -> Self {
        Self(Arc::new(Mutex::new(Inner { state, ..Inner::default() })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// What is there.
    pub(crate) fn state(&self) -> State {
        self.inner().state.clone()
    }

    /// Calls so far.
    pub(crate) fn calls(&self) -> u64 {
        self.inner().calls
    }

    /// Makes the call after `calls` more fail.
    pub(crate) fn fail_after(&self, calls: u64, fault: Fault, seed: u64) {
        let mut inner = self.inner();
        inner.plan = Some((inner.calls + calls + 1, fault, seed));
    }

    /// No call fails any more.
    pub(crate) fn heal(&self) {
        let mut inner = self.inner();
        inner.plan = None;
        inner.capacity = None;
    }

    pub(crate) fn capacity(&self, bytes: Option<u64>) {
        self.inner().capacity = bytes;
    }

    pub(crate) fn used(&self) -> u64 {
        self.inner().used()
    }

    /// The same files for the next process: locks are gone, the cache is not.
    pub(crate) fn next_process(&self) -> Model {
        Model::new(self.state())
    }

    /// `watch` sees what is there before each call that may change something.
    pub(crate) fn watch(&self, watch: impl FnMut(&State) + Send + 'static) {
        self.inner().watch = Some(Box::new(watch));
    }

    pub(crate) fn unwatch(&self) {
        self.inner().watch = None;
    }
}

#[derive(Debug)]
struct ModelFile {
    model: Model,
    inode: usize,
    writes: bool,
}

#[derive(Debug)]
struct ModelGuard(Model, PathBuf);

impl Guard for ModelGuard {}

impl Drop for ModelGuard {
    fn drop(&mut self) {
        if let Ok(mut inner) = self.0.0.lock() {
            inner.locks.remove(&self.1);
        }
    }
}

impl Model {
    fn open_as(&self, path: &Path, writes: bool) -> io::Result<Box<dyn DiskFile>> {
        let mut inner = self.inner();
        if let Go::Fail(error, ..) = inner.enter(false) {
            return Err(error);
        }
        let inode = *inner.state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(ModelFile { model: self.clone(), inode, writes }))
    }
}

impl Disk for Model {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut inner = self.inner();
        let failed = inner.enter(true);
        if let Go::Fail(error, mut choices, fault) = failed
            && (fault != Fault::Kill || choices.yes())
        {
            return Err(error);
        }
        if !inner.state.dirs.contains(&parent(path)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        // Truncating a file that is there would be another inode's work here: a new one takes its name.
        let inode = inner.state.inodes.len();
        inner.state.inodes.push(Inode::default());
        inner.state.op(parent(path), NameOp::Link(path.to_path_buf(), inode));
        Ok(Box::new(ModelFile { model: self.clone(), inode, writes: true }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open_as(path, false)
    }

    fn open_to_write(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open_as(path, true)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        let failed = inner.enter(true);
        if let Go::Fail(error, mut choices, fault) = failed
            && (fault != Fault::Kill || choices.yes())
        {
            return Err(error);
        }
        let inode = *inner.state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        inner.state.op(parent(to), NameOp::Rename(from.to_path_buf(), to.to_path_buf(), inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        if let Go::Fail(error, ..) = inner.enter(true) {
            return Err(error);
        }
        if !inner.state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        inner.state.op(parent(path), NameOp::Unlink(path.to_path_buf()));
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut inner = self.inner();
        if let Go::Fail(error, ..) = inner.enter(false) {
            return Err(error);
        }
        if !inner.state.dirs.contains(directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let all = inner.state.names.keys().chain(&inner.state.dirs);
        let inside = all.filter(|path| path.parent() == Some(directory));
        Ok(inside.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect())
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        if let Go::Fail(error, ..) = inner.enter(true) {
            return Err(error);
        }
        let missing: Vec<PathBuf> =
            path.ancestors().filter(|dir| !inner.state.dirs.contains(*dir)).map(Path::to_path_buf).collect();
        for dir in missing.into_iter().rev() {
            inner.state.op(parent(&dir), NameOp::MakeDir(dir));
        }
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        if let Go::Fail(error, ..) = inner.enter(true) {
            return Err(error);
        }
        let state = &mut inner.state;
        let (synced, left) = std::mem::take(&mut state.ops).into_iter().partition(|(dir, _)| dir == path);
        state.ops = left;
        for (_, op) in synced {
            State::apply_op(&mut state.durable_names, &mut state.durable_dirs, &op);
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Guard>> {
        let mut inner = self.inner();
        if let Go::Fail(error, ..) = inner.enter(true) {
            return Err(error);
        }
        if !inner.locks.insert(path.to_path_buf()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if !inner.state.names.contains_key(path) {
            let inode = inner.state.inodes.len();
            inner.state.inodes.push(Inode::default());
            inner.state.op(parent(path), NameOp::Link(path.to_path_buf(), inode));
        }
        Ok(Box::new(ModelGuard(self.clone(), path.to_path_buf())))
    }
}

impl DiskFile for ModelFile {
    fn read_at(&self, space: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut inner = self.model.inner();
        if let Go::Fail(error, ..) = inner.enter(false) {
            return Err(error);
        }
        let content = inner.state.inodes[self.inode].cached.clone();
        let there = content.get(offset as usize..).unwrap_or_default();
        let many = there.len().min(space.len());
        space[..many].copy_from_slice(&there[..many]);
        Ok(many)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        assert!(self.writes, "a file that was opened to read");
        let mut inner = self.model.inner();
        if let Go::Fail(error, mut choices, _) = inner.enter(true) {
            let part = choices.below(bytes.len() as u64 + 1) as usize;
            inner.write(self.inode, offset, &bytes[..part])?;
            return Err(error);
        }
        inner.write(self.inode, offset, bytes)
    }

    fn allocate(&self, from: u64, to: u64) -> io::Result<()> {
        self.write_at(&vec![0; (to - from) as usize], from)
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.model.inner();
        let failed = inner.enter(true);
        let inode = &mut inner.state.inodes[self.inode];
        match failed {
            Go::On => {
                inode.flush();
                Ok(())
            }
            Go::Fail(error, mut choices, Fault::Kill) => {
                if choices.yes() {
                    inode.flush();
                }
                Err(error)
            }
            Go::Fail(error, mut choices, _) => {
                // A part reached the disk. The rest is no longer dirty: the cache shows it, or not even that.
                inode.durable = Arc::new(inode.torn(&mut choices, &|choices| choices.yes()));
                inode.dirty.clear();
                if choices.yes() {
                    inode.cached = inode.durable.clone();
                }
                Err(error)
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        let mut inner = self.model.inner();
        match inner.enter(false) {
            Go::Fail(error, ..) => Err(error),
            Go::On => Ok(inner.state.inodes[self.inode].cached.len() as u64),
        }
    }
}
