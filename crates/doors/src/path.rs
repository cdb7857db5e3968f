//! Socket paths of any length. The kernel takes about 100 bytes; a longer path is reached through its open directory.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Longest path that the kernel takes as it is, with room for the closing NUL.
const SHORT: usize = 100;

/// A path that means the same file and is short enough, good while `_directory` is held.
pub(crate) struct SocketPath {
    path: PathBuf,
    _directory: Option<File>,
}

impl SocketPath {
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() <= SHORT {
            return Ok(Self { path: path.to_path_buf(), _directory: None });
        }
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidFilename));
        };
        let directory = File::open(directory)?;
        let number = std::os::fd::AsRawFd::as_raw_fd(&directory);
        let path = Path::new("/proc/self/fd").join(number.to_string()).join(name);
        Ok(Self { path, _directory: Some(directory) })
    }

    pub(crate) fn get(&self) -> &Path {
        &self.path
    }
}
