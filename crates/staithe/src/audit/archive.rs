//! A copy of a ledger that somebody may be writing: a directory that `audit verify` verifies, or none.

use crate::fault;
use ledger::{Disk, LogKeys, RealDisk};
use model::Problem;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use stdx::durable;

/// What is copied, in this order: what was signed before what was written, so that the copy has all that its checkpoint covers.
const PARTS: [&str; 7] = ["checkpoint", "witnessed", "vkeys", "archive", "minimum", "wal", "tile"];

/// Copies the ledger in `from` to the new directory `to`, and verifies the copy. Gives how many entries its checkpoint covers, which
/// are at least `least`.
pub(super) fn copy(from: &Path, to: &Path, keys: &LogKeys, least: u64) -> Result<u64, Problem> {
    let failed = |error: &dyn std::error::Error| {
        let hint = "nothing was pruned; name another directory with --archive";
        fault::because(&format!("copy the ledger to {}", to.display()), error, hint)
    };
    let usage = |message: String| fault::usage(message, "nothing was pruned; name a new directory with --archive");
    if to.exists() {
        return Err(usage(format!("{} exists", to.display())));
    }
    let (Some(name), Some(parent)) = (to.file_name(), to.parent()) else {
        return Err(usage(format!("{} cannot be made", to.display())));
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let parent = parent.canonicalize().map_err(|error| failed(&error))?;
    if parent.starts_with(from.canonicalize().map_err(|error| failed(&error))?) {
        return Err(usage(format!("{} is within the ledger", to.display())));
    }
    // Nobody else's, whatever lies there.
    let handle = stdx::random::handle().map_err(|error| failed(&error))?;
    let half = parent.join(format!(".{}.{handle}", name.to_string_lossy()));
    let copied = filled(from, &half, keys, least).map_err(|error| failed(&*error));
    let copied = copied.and_then(|size| {
        durable::rename(&half, &parent.join(name)).map_err(|error| failed(&error))?;
        synced(&parent).map_err(|error| failed(&error))?;
        Ok(size)
    });
    if copied.is_err() {
        let _ = std::fs::remove_dir_all(&half);
    }
    copied
}

fn filled(from: &Path, half: &Path, keys: &LogKeys, least: u64) -> Result<u64, Box<dyn std::error::Error>> {
    durable::make_dir(half, 0o700)?;
    for part in PARTS {
        tree(&from.join(part), &half.join(part))?;
    }
    synced(half)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let verified = ledger::verify(&disk, half, keys, None, &mut |_, _| {})?;
    if verified.signed.size < least {
        return Err(format!("its checkpoint covers {} entries only", verified.signed.size).into());
    }
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
