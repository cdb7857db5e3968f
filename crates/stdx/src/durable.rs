//! Files that are either the old or the new one after a crash, never half.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Writing a file durably failed at the named step.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {path}")]
pub struct DurableError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Replaces `path` by `content` with permission bits `mode`: write beside it, fsync, rename, fsync the directory.
pub fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<(), DurableError> {
    let at = |step| move |source| DurableError { step, path: path.to_path_buf(), source };
    let directory = path.parent().unwrap_or(Path::new("."));
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&beside)
        .map_err(at("create a new copy of"))?;
    file.write_all(content).map_err(at("write a new copy of"))?;
    file.sync_all().map_err(at("sync a new copy of"))?;
    rename(&beside, path).map_err(at("put in place"))?;
    File::open(directory).and_then(|d| d.sync_all()).map_err(at("sync the directory of"))
}

/// A file that is written bit by bit, and there whole or not at all. Until [`Growing::place`] it has another name; one that is
/// given up is left to the next that is begun for the same path.
#[derive(Debug)]
pub struct Growing {
    file: File,
    beside: PathBuf,
    path: PathBuf,
}

impl Growing {
    /// Begins a file that is to replace `path`, with permission bits `mode`.
    pub fn begin(path: &Path, mode: u32) -> Result<Self, DurableError> {
        // Its user chose the name: an extension is part of it.
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&beside);
        let at = |source| DurableError { step: "create a new copy of", path: path.to_path_buf(), source };
        Ok(Self { file: file.map_err(at)?, beside, path: path.to_path_buf() })
    }

    /// Puts it in its place: fsync, rename, fsync the directory.
    pub fn place(self) -> Result<(), DurableError> {
        let Self { file, beside, path } = self;
        let at = |step| move |source| (step, source);
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let placed = file.sync_all().map_err(at("sync a new copy of"));
        let placed = placed.and_then(|()| rename(&beside, &path).map_err(at("put in place")));
        let synced = || File::open(directory).and_then(|d| d.sync_all()).map_err(at("sync the directory of"));
        placed.and_then(|()| synced()).map_err(|(step, source)| DurableError { step, path: path.clone(), source })
    }

    /// Gives it up: nothing of it is left.
    pub fn abandon(self) {
        // It has no name that anybody looks for.
        let _ = std::fs::remove_file(&self.beside);
    }
}

impl Write for Growing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Creates `path` and its parents with permission bits `mode` for those that were missing.
pub fn make_dir(path: &Path, mode: u32) -> Result<(), DurableError> {
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|source| DurableError {
        step: "create the directory",
        path: path.to_path_buf(),
        source,
    })
}

/// Renames without a sync, for files whose loss in a crash is harmless (a log that is being rotated).
#[expect(clippy::disallowed_methods, reason = "this is the one rename")]
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn replaces_whole_and_private() {
        let dir = std::env::temp_dir().join(format!("staithe-durable-{}", std::process::id()));
        super::make_dir(&dir, 0o700).unwrap();
        let path = dir.join("file");
        super::write_file(&path, b"one", 0o600).unwrap();
        super::write_file(&path, b"two", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "no copy is left beside it");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
