//! A copy of a ledger that somebody may be writing: a directory that `audit verify` verifies, or none.

use crate::fault;
use ledger::{Disk, LogKeys, RealDisk};
use model::Problem;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use stdx::durable;

/// What is copied, in this order: what was signed before what was written, so that the copy has all that its checkpoint covers.
const PARTS: [&str; 6] = ["checkpoint", "vkeys", "archive", "minimum", "wal", "tile"];

/// Copies the ledger in `from` to the new directory `to`, and verifies the copy. Gives how many entries its checkpoint covers, which
/// are at least `least`.
pub(super) fn copy(from: &Path, to: &Path, keys: &LogKeys, least: u64) -> Result<u64, Problem> {
    let failed = |error: &dyn std::error::Error| {
        let hint = "nothing was pruned; name another directory with --archive";
        fault::because(&format!("copy the ledger to {}", to.display()), error, hint)
    };
    let taken = to.exists();
    if taken {
        let message = format!("{} exists", to.display());
        return Err(fault::usage(message, "nothing was pruned; name a new directory with --archive"));
    }
    let mut half = to.as_os_str().to_owned();
    half.push(".half");
    let half = PathBuf::from(half);
    if half.exists() {
        // What an earlier copy left that was cut short.
        std::fs::remove_dir_all(&half).map_err(|error| failed(&error))?;
    }
    durable::make_dir(&half, 0o700).map_err(|error| failed(&error))?;
    for part in PARTS {
        tree(&from.join(part), &half.join(part)).map_err(|error| failed(&error))?;
    }
    synced(&half).map_err(|error| failed(&error))?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let verified = ledger::verify(&disk, &half, keys, None, &mut |_, _| {}).map_err(|error| failed(&error))?;
    if verified.signed.size < least {
        let short = io::Error::other(format!("its checkpoint covers {} entries only", verified.signed.size));
        return Err(failed(&short));
    }
    durable::rename(&half, to).map_err(|error| failed(&error))?;
    synced(to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
        .map_err(|error| failed(&error))?;
    Ok(verified.signed.size)
}

/// Copies a file or a directory, durably. What is not there is passed over.
fn tree(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = match std::fs::symlink_metadata(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if metadata.is_dir() {
        std::fs::create_dir(to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            tree(&entry.path(), &to.join(entry.file_name()))?;
        }
        return synced(to);
    }
    match std::fs::copy(from, to) {
        // The writer makes files under another name first.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        copied => copied.and_then(|_| synced(to)),
    }
}

fn synced(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
