//! Where the files of a log are, under its directory.
//!
//! | path | what |
//! |---|---|
//! | `wal/<first index, 20 digits>.seg` | segments: the truth |
//! | `wal/<first index>.idx` | derived: where entries are in a sealed segment |
//! | `tile/<level>/<number>` | derived: full tiles, as C2SP tlog-tiles names them |
//! | `checkpoint` | the latest signed checkpoint |
//! | `witnessed` | the latest checkpoint that a quorum of witnesses cosigned |
//! | `archive/<size, 20 digits>` | earlier ones |
//! | `minimum` | what was pruned: the minimum index, the first entry that is there, the CRC-32C of both as they stand |
//! | `lock` | held by the one writer |

use crate::disk::{Disk, DiskError, read_file};
use crate::tile::Tile;
use std::path::{Path, PathBuf};

/// The longest checkpoint that is read, bytes: a signed note is at most this long.
const MAX_NOTE: u64 = 1 << 20;

pub(crate) fn wal(dir: &Path) -> PathBuf {
    dir.join("wal")
}

pub(crate) fn segment(dir: &Path, first: u64) -> PathBuf {
    wal(dir).join(format!("{first:020}.seg"))
}

pub(crate) fn index(dir: &Path, first: u64) -> PathBuf {
    wal(dir).join(format!("{first:020}.idx"))
}

pub(crate) fn tile(dir: &Path, tile: Tile) -> PathBuf {
    dir.join(tile.path())
}

pub(crate) fn checkpoint(dir: &Path) -> PathBuf {
    dir.join("checkpoint")
}

/// The latest checkpoint that witnesses cosigned, with their cosignatures.
pub(crate) fn witnessed(dir: &Path) -> PathBuf {
    dir.join("witnessed")
}

pub(crate) fn archive(dir: &Path) -> PathBuf {
    dir.join("archive")
}

pub(crate) fn archived(dir: &Path, size: u64) -> PathBuf {
    archive(dir).join(format!("{size:020}"))
}

pub(crate) fn lock(dir: &Path) -> PathBuf {
    dir.join("lock")
}

fn minimum(dir: &Path) -> PathBuf {
    dir.join("minimum")
}

/// The number in a name of 20 digits.
fn number(name: &str) -> Option<u64> {
    (name.len() == 20 && name.bytes().all(|byte| byte.is_ascii_digit())).then(|| name.parse().ok())?
}

/// The numbers in names of 20 digits with this ending, in order.
fn numbers(disk: &dyn Disk, directory: &Path, ending: &str) -> Result<Vec<u64>, DiskError> {
    let names = disk.list(directory).map_err(DiskError::at("list", directory))?;
    let mut found: Vec<u64> = names.iter().filter_map(|name| number(name.strip_suffix(ending)?)).collect();
    found.sort_unstable();
    Ok(found)
}

/// The first indexes of the segments that are there, in order.
pub(crate) fn segments(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, DiskError> {
    numbers(disk, &wal(dir), ".seg")
}

/// The sizes of the archived checkpoints, in order.
pub(crate) fn archives(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, DiskError> {
    match numbers(disk, &archive(dir), "") {
        // An empty directory is easily lost when a log is copied.
        Err(error) if error.is_missing() => Ok(Vec::new()),
        other => other,
    }
}

/// A signed checkpoint's bytes, if there is such a file.
pub(crate) fn read_note(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    read_file(disk, path, MAX_NOTE)
}

/// What may be missing of a log that was pruned; nothing where it was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The minimum index: entries below it need not be there.
    pub(crate) minimum: u64,
    /// The first entry that is there: the segment before it was removed, or was about to be.
    pub(crate) first: u64,
}

impl Kept {
    fn text(self) -> String {
        let numbers = format!("{} {}", self.minimum, self.first);
        format!("{numbers} {:08x}\n", crc32c::crc32c(numbers.as_bytes()))
    }
}

/// Notes what may be missing, durably.
pub(crate) fn write_kept(disk: &dyn Disk, dir: &Path, kept: Kept) -> Result<(), DiskError> {
    crate::disk::replace_durably(disk, &minimum(dir), kept.text().as_bytes())
}

/// What may be missing. `Err(None)`: the file does not say.
pub(crate) fn read_kept(disk: &dyn Disk, dir: &Path) -> Result<Kept, Option<DiskError>> {
    let Some(bytes) = read_file(disk, &minimum(dir), 64).map_err(Some)? else { return Ok(Kept::default()) };
    let text = std::str::from_utf8(&bytes).map_err(|_| None)?;
    let mut numbers = text.split(' ').map_while(|number| number.parse().ok());
    let kept = numbers.next().zip(numbers.next()).map(|(minimum, first)| Kept { minimum, first });
    kept.filter(|kept| kept.text() == text && kept.first <= kept.minimum).ok_or(None)
}

/// The path of the file of the minimum index, for messages.
pub(crate) fn minimum_path(dir: &Path) -> PathBuf {
    minimum(dir)
}
