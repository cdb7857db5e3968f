//! Accepting a loss: a log that was set back or damaged is never continued. A new one, with another origin, begins by saying
//! after which checkpoint of the old one.

use crate::disk::Disk;
use crate::evidence::{Evidence, EvidenceError};
use crate::log::Log;
use crate::trust::{Signed, Trust};
use std::path::{Path, PathBuf};

/// The checkpoint over the most entries that is in a log's directory or at its anchors: what must not be lost beside the rest.
/// `None` if nothing was ever signed. The entries need not be there, nor right.
pub fn strongest(
    disk: &dyn Disk,
    dir: &Path,
    trust: &dyn Trust,
    anchors: &[PathBuf],
) -> Result<Option<Signed>, EvidenceError> {
    let evidence = Evidence::gather(disk, dir, trust, anchors, usize::MAX)?;
    Ok(evidence.strongest().map(|known| known.signed.clone()))
}

impl Log {
    /// The text that the first entry of a new log must contain, if it begins after a loss in another: whoever has the old
    /// log's keys can verify in it what the old log had said. What else the entry says is the caller's.
    pub fn begin_after(old: &Signed) -> String {
        format!("begins after the log whose last known checkpoint is\n{}", old.note)
    }
}
