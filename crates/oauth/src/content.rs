//! What calls said, where the operator wants it kept: beside the ledger, each piece encrypted under a key of its principal, so that
//! it is gone once that key is erased. The ledger commits to the content; what is here can be lost without any harm to it.
//!
//! A file begins with [`HEADER`]; a piece is its length (4 bytes, little endian) and what [`Subject::seal`] made. Each daemon writes
//! files of its own, `EPOCH-NUMBER.content`.

use crate::subject::{Subject, SubjectError};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use stdx::durable;

/// What every file begins with.
const HEADER: &[u8] = b"staithe kept content 1\n";
/// What the name of every file ends with.
const ENDING: &str = ".content";
/// Size at which another file is begun, bytes; a sixteenth of the bound where that is less.
const FILE_BYTES: u64 = 64 << 20;

/// The kept contents of one daemon.
#[derive(Debug)]
pub struct Contents {
    dir: PathBuf,
    epoch: u64,
    redacted: bool,
    /// Of all files together, bytes.
    bound: u64,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    file: Option<File>,
    number: u64,
    len: u64,
}

/// A content cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// It cannot be encrypted.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// It cannot be written.
    #[error("what a call says cannot be kept")]
    Io(#[from] io::Error),
}

/// Kept content cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The file is gone, or cannot be read.
    #[error(
        "the file {path} of kept content cannot be read; old files are removed where they would take more than `ledger.content_bytes`"
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No such place.
    #[error("{0:?} is no place of kept content")]
    Place(String),
    /// It was changed, or belongs to somebody else.
    #[error("the kept content is not what was kept: it was changed, or its key was erased")]
    Sealed,
}

impl Contents {
    /// Keeps contents in `dir`, for the daemon with the number `epoch`, at most `bound` bytes in all. With `redacted`, what looks like
    /// a secret is taken out first.
    pub fn open(dir: PathBuf, epoch: u64, redacted: bool, bound: u64) -> Result<Self, durable::DurableError> {
        durable::make_dir(&dir, 0o700)?;
        Ok(Self { dir, epoch, redacted, bound, open: Mutex::default() })
    }

    /// Keeps a piece; the kernel has it when this returns. Where it is, as records say it.
    pub fn keep(&self, subject: &Subject, place: &str, content: &[u8]) -> Result<String, KeepError> {
        let sealed = if self.redacted {
            subject.seal(place, &model::redact::redacted(content))?
        } else {
            subject.seal(place, content)?
        };
        let len = u32::try_from(sealed.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.file.is_none() || open.len >= FILE_BYTES.min(self.bound / 16) {
            self.begin_file(&mut open)?;
        }
        let (number, at) = (open.number, open.len);
        let piece = [&len.to_le_bytes()[..], &sealed].concat();
        let written = open.file.as_mut().map(|file| file.write_all(&piece));
        if let Some(Err(error)) = written {
            // Half a piece may be there: the next one goes into another file.
            open.file = None;
            return Err(error.into());
        }
        open.len += piece.len() as u64;
        Ok(format!("{}-{number}@{at}", self.epoch))
    }

    fn begin_file(&self, open: &mut Open) -> io::Result<()> {
        self.make_room()?;
        loop {
            open.number += 1;
            let path = self.dir.join(format!("{}-{}{ENDING}", self.epoch, open.number));
            match OpenOptions::new().create_new(true).append(true).mode(0o600).open(path) {
                // A daemon whose upgrade failed had the same number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                Ok(mut file) => {
                    file.write_all(HEADER)?;
                    *open = Open { file: Some(file), number: open.number, len: HEADER.len() as u64 };
                    return Ok(());
                }
            }
        }
    }

    /// Removes the oldest files until one more has room.
    fn make_room(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for file in std::fs::read_dir(&self.dir)? {
            let (file, path) = file.map(|file| (file.metadata(), file.path()))?;
            if path.extension().is_some_and(|ending| ENDING.ends_with(&*ending.to_string_lossy())) {
                let file = file?;
                files.push((file.modified()?, file.len(), path));
            }
        }
        files.sort();
        let mut all: u64 = files.iter().map(|(_, len, _)| len).sum();
        let room = self.bound.saturating_sub(FILE_BYTES.min(self.bound / 16));
        for (_, len, path) in files {
            if all <= room {
                break;
            }
            std::fs::remove_file(path)?;
            all -= len;
        }
        Ok(())
    }
}

/// Reads a piece that a record says is kept, `kept`, in the `place` that it was sealed for.
pub fn kept_content(dir: &Path, kept: &str, subject: &Subject, place: &str) -> Result<Vec<u8>, ContentError> {
    let wrong = || ContentError::Place(kept.to_owned());
    let (name, at) = kept.split_once('@').ok_or_else(wrong)?;
    let at: u64 = at.parse().map_err(|_| wrong())?;
    if !name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
        return Err(wrong());
    }
    let path = dir.join(format!("{name}{ENDING}"));
    let sealed = piece(&path, at).map_err(|source| ContentError::Io { path, source })?;
    subject.unseal(place, &sealed).ok_or(ContentError::Sealed)
}

fn piece(path: &Path, at: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(at))?;
    let mut len = [0; 4];
    file.read_exact(&mut len)?;
    let mut sealed = Vec::new();
    // As much as is there: the length is not believed before.
    file.take(u64::from(u32::from_le_bytes(len))).read_to_end(&mut sealed)?;
    Ok(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(byte: &str) -> Subject {
        Subject::new(&byte.repeat(32)).unwrap()
    }

    fn files(dir: &Path) -> usize {
        std::fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn what_is_kept_is_read_back_by_its_key_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (ann, bob) = (subject("ab"), subject("ac"));
        let contents = Contents::open(dir.path().join("c"), 3, false, 1 << 30).unwrap();
        let one = contents.keep(&ann, "3-1 args", b"{\"password\":\"hunter2\"}").unwrap();
        let two = contents.keep(&bob, "3-2 args", b"").unwrap();
        let read =
            |kept: &str, subject: &Subject, place: &str| kept_content(&dir.path().join("c"), kept, subject, place);
        assert_eq!(read(&one, &ann, "3-1 args").unwrap(), b"{\"password\":\"hunter2\"}");
        assert_eq!(read(&two, &bob, "3-2 args").unwrap(), b"");
        for (kept, subject, place) in [(&one, &bob, "3-1 args"), (&one, &ann, "3-2 args"), (&two, &ann, "3-2 args")] {
            assert!(matches!(read(kept, subject, place), Err(ContentError::Sealed)), "{kept} {place}");
        }
        for wrong in ["", "3-1", "3-1@", "3-1@x", "../3-1@24", "3-1@-1"] {
            assert!(matches!(read(wrong, &ann, "3-1 args"), Err(ContentError::Place(_))), "{wrong}");
        }
        for wrong in ["3-9@24", "3-1@9999999"] {
            assert!(matches!(read(wrong, &ann, "3-1 args"), Err(ContentError::Io { .. })), "{wrong}");
        }
        let file = std::fs::read(dir.path().join("c/3-1.content")).unwrap();
        assert!(!String::from_utf8_lossy(&file).contains("hunter2"));
    }

    #[test]
    fn redacted_contents_hold_no_secret_even_for_who_has_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let ann = subject("ab");
        let contents = Contents::open(dir.path().to_path_buf(), 3, true, 1 << 30).unwrap();
        let kept = contents.keep(&ann, "p", b"{\"password\":\"hunter2\",\"path\":\"/a\"}").unwrap();
        let read = kept_content(dir.path(), &kept, &ann, "p").unwrap();
        assert_eq!(read, b"{\"password\":\"[redacted]\",\"path\":\"/a\"}");
    }

    #[test]
    fn the_oldest_goes_where_there_is_no_room_and_two_daemons_do_not_meet() {
        let dir = tempfile::tempdir().unwrap();
        let ann = subject("ab");
        let bound = 1 << 20;
        let contents = Contents::open(dir.path().to_path_buf(), 3, false, bound).unwrap();
        let again = Contents::open(dir.path().to_path_buf(), 3, false, bound).unwrap();
        let first = contents.keep(&ann, "p", &[7; 10_000]).unwrap();
        let other = again.keep(&ann, "p", &[8; 10_000]).unwrap();
        assert_eq!(kept_content(dir.path(), &other, &ann, "p").unwrap(), [8; 10_000]);
        let mut last = String::new();
        for _ in 0..400 {
            last = contents.keep(&ann, "p", &[7; 10_000]).unwrap();
        }
        let all: u64 = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert!(all <= bound && files(dir.path()) > 10, "{all} bytes in {} files", files(dir.path()));
        assert_eq!(kept_content(dir.path(), &last, &ann, "p").unwrap(), [7; 10_000]);
        assert!(matches!(kept_content(dir.path(), &first, &ann, "p"), Err(ContentError::Io { .. })));
    }
}
