//! Every call to the file system that the log makes, as a trait: so that tests can fail each of them, and can cut the power
//! behind each of them.

use std::fmt::Debug;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Permission bits of files: the log is its owner's.
const FILE_MODE: u32 = 0o600;
/// Permission bits of directories.
const DIR_MODE: u32 = 0o700;
/// Zeros written at once.
const ZEROS: usize = 64 * 1024;

/// A file system as the log needs it. Errors are those of the operating system.
pub trait Disk: Debug + Send + Sync {
    /// A new, empty file to read and write. What had this name is replaced.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// A file that is there, to read.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// A file that is there, to read and write.
    fn open_to_write(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file another name at once: whoever opens it sees the old or the new one. Not durable before [`Self::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a name.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, in any order, as far as they are UTF-8.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;
    /// Makes a directory, and those above it; none is no error.
    fn make_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Takes the exclusive lock of a file, which is made where it is missing. It is held while the guard lives and ends with
    /// the process. [`io::ErrorKind::WouldBlock`]: another holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Guard>>;
}

/// A lock that is held while this lives.
pub trait Guard: Debug + Send + Sync {}

/// An open file.
pub trait DiskFile: Debug + Send + Sync {
    /// Reads what there is at `offset` into `space`; fewer bytes than asked for only at the end of the file.
    fn read_at(&self, space: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Reserves the space `from..to` on the disk, filled with zeros: a later write there cannot fail for want of space. (On a
    /// file system that never overwrites in place nothing can promise that.)
    fn allocate(&self, from: u64, to: u64) -> io::Result<()>;
    /// Makes the content and the length durable. After an error nobody may rely on it ever being so: it must not be tried
    /// again on this file, the next call could say that all is well when the data is gone.
    fn sync(&self) -> io::Result<()>;
    /// Bytes of it.
    fn len(&self) -> io::Result<u64>;
    /// Whether it has none.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// The file system of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct RealFile(File);

#[derive(Debug)]
struct RealGuard {
    _file: File,
}

impl Guard for RealGuard {}

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(FILE_MODE).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(File::open(path)?)))
    }

    fn open_to_write(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        stdx::durable::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Guard>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(RealGuard { _file: file })),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, space: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut read = 0;
        while let Some(rest) = space.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, offset + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn allocate(&self, from: u64, to: u64) -> io::Result<()> {
        // Zeros that were written are blocks that were found; a length that was only set is not.
        let zeros = [0; ZEROS];
        let mut at = from;
        while at < to {
            let many = usize::try_from(to - at).unwrap_or(ZEROS).min(ZEROS);
            self.0.write_all_at(zeros.get(..many).unwrap_or_default(), at)?;
            at += many as u64;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

/// A call to the file system failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}")]
pub struct DiskError {
    /// What was tried.
    pub what: &'static str,
    /// With which file.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

impl DiskError {
    /// For `map_err`.
    pub(crate) fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { what, path: path.to_path_buf(), source }
    }

    /// Whether the disk, or a quota, is full.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Whether there is no such file.
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// All of a file that is at most `limit` bytes long; `None` if there is no such file.
pub(crate) fn read_file(disk: &dyn Disk, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, DiskError> {
    let file = match disk.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(DiskError::at("open", path))?,
    };
    let len = file.len().map_err(DiskError::at("measure", path))?;
    if len > limit {
        return Err(DiskError::at("read all of", path)(io::ErrorKind::FileTooLarge.into()));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    let read = file.read_at(&mut bytes, 0).map_err(DiskError::at("read", path))?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// The name beside `path` under which its next content is written.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

/// Replaces `path` at once, not durably: for files that can be made again.
pub(crate) fn replace(disk: &dyn Disk, path: &Path, content: &[u8]) -> Result<(), DiskError> {
    put(disk, path, content, false)
}

/// Replaces `path` so that it is the old or the new one after a crash, and the new one once this returned.
pub(crate) fn replace_durably(disk: &dyn Disk, path: &Path, content: &[u8]) -> Result<(), DiskError> {
    put(disk, path, content, true)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    disk.sync_dir(directory).map_err(DiskError::at("sync the directory", directory))
}

fn put(disk: &dyn Disk, path: &Path, content: &[u8], durably: bool) -> Result<(), DiskError> {
    let unplaced = Unplaced::new(disk, path, content)?;
    if durably {
        unplaced.sync()?;
    }
    unplaced.place(disk, path)
}

/// New content that lies beside its path. Many are synced faster when all were written before the first is.
pub(crate) struct Unplaced {
    file: Box<dyn DiskFile>,
    beside: PathBuf,
}

impl Unplaced {
    pub(crate) fn new(disk: &dyn Disk, path: &Path, content: &[u8]) -> Result<Self, DiskError> {
        let beside = beside(path);
        let file = disk.create(&beside).map_err(DiskError::at("create", &beside))?;
        file.write_at(content, 0).map_err(DiskError::at("write", &beside))?;
        Ok(Self { file, beside })
    }

    pub(crate) fn sync(&self) -> Result<(), DiskError> {
        self.file.sync().map_err(DiskError::at("sync", &self.beside))
    }

    pub(crate) fn place(self, disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
        disk.rename(&self.beside, path).map_err(DiskError::at("put in place", path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_real_disk_writes_locks_and_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let file = RealDisk.create(&path).unwrap();
        file.allocate(0, 200_000).unwrap();
        file.write_at(b"word", 70_000).unwrap();
        file.sync().unwrap();
        let mut space = [9; 8];
        assert_eq!(RealDisk.open(&path).unwrap().read_at(&mut space, 69_998).unwrap(), 8);
        assert_eq!(&space, b"\0\0word\0\0");
        assert_eq!(file.read_at(&mut space, 199_996).unwrap(), 4, "the end of the file");
        assert!(RealDisk.open(&path).unwrap().write_at(b"x", 0).is_err(), "open to read only");
        replace_durably(&RealDisk, &path, b"new").unwrap();
        assert_eq!(read_file(&RealDisk, &path, 3).unwrap().unwrap(), b"new");
        assert!(read_file(&RealDisk, &path, 2).is_err());
        assert!(read_file(&RealDisk, &dir.path().join("b"), 2).unwrap().is_none());
        let lock = dir.path().join("lock");
        let held = RealDisk.lock(&lock).unwrap();
        assert_eq!(RealDisk.lock(&lock).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        RealDisk.lock(&lock).unwrap();
        let mut names = RealDisk.list(dir.path()).unwrap();
        names.sort();
        assert_eq!(names, ["a", "lock"]);
    }
}
