//! What the log said about itself before, wherever it was kept: the checkpoint, the archive, the anchors. A log that does not
//! bear it out was cut, set back or altered.

use crate::checkpoint::CheckpointError;
use crate::disk::{Disk, DiskError};
use crate::hash::Hash;
use crate::layout;
use crate::trust::{Signed, Trust};
use std::path::{Path, PathBuf};

/// One signed checkpoint and where it was found.
#[derive(Clone, Debug)]
pub(crate) struct Witnessed {
    pub(crate) path: PathBuf,
    pub(crate) signed: Signed,
}

/// All that was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    /// The log's own latest.
    pub(crate) checkpoint: Option<Signed>,
    /// The latest that witnesses cosigned, as the log keeps it.
    pub(crate) witnessed: Option<Signed>,
    /// Each that was found, the log's own included.
    pub(crate) all: Vec<Witnessed>,
}

/// What the log said before could not be read, or is not borne out.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// A file that should be a checkpoint of this log is none: it was damaged or altered, or the keys are another's.
    #[error("{path} is no checkpoint of this log")]
    Forged {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: CheckpointError,
    },
    /// There is no latest checkpoint though earlier ones are there: it was removed.
    #[error("{path} is missing, and {other} shows that it was there")]
    Removed {
        /// The file that should be there.
        path: PathBuf,
        /// What shows it.
        other: PathBuf,
    },
    /// The log has fewer entries than it said before: it was cut, or is an older copy.
    #[error(
        "the log has {here} entries, but {path} was signed when it had {seen}: it was cut, or this is an older copy"
    )]
    RolledBack {
        /// Entries here.
        here: u64,
        /// Entries then.
        seen: u64,
        /// What shows it.
        path: PathBuf,
    },
    /// The log's entries are not those that it said before.
    #[error("the first {size} entries have the root {here}, but {path} was signed for {seen}: they were altered")]
    Tampered {
        /// Entries that were signed for.
        size: u64,
        /// Their root here.
        here: Hash,
        /// Their root then.
        seen: Hash,
        /// What shows it.
        path: PathBuf,
    },
    /// The file system failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl Evidence {
    /// Collects what is in the log's directory, with the newest `archived` of its archive, and in other places, each a directory
    /// with a `checkpoint`.
    pub(crate) fn gather(
        disk: &dyn Disk,
        dir: &Path,
        trust: &dyn Trust,
        anchors: &[PathBuf],
        archived: usize,
    ) -> Result<Self, EvidenceError> {
        let mut evidence = Self::default();
        let own = layout::checkpoint(dir);
        evidence.read(disk, &own, trust)?;
        evidence.checkpoint = evidence.all.first().map(|own| own.signed.clone());
        let known = evidence.all.len();
        evidence.read(disk, &layout::witnessed(dir), trust)?;
        evidence.witnessed = evidence.all.get(known).map(|witnessed| witnessed.signed.clone());
        for size in layout::archives(disk, dir)?.iter().rev().take(archived) {
            evidence.read(disk, &layout::archived(dir, *size), trust)?;
        }
        for anchor in anchors {
            evidence.read(disk, &layout::checkpoint(anchor), trust)?;
        }
        Ok(evidence)
    }

    /// The first that is not the log's own, if its own is missing though there are entries.
    pub(crate) fn own_was_removed(&self, dir: &Path) -> Result<(), EvidenceError> {
        match self.all.first() {
            Some(other) if self.checkpoint.is_none() => {
                Err(EvidenceError::Removed { path: layout::checkpoint(dir), other: other.path.clone() })
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn read(&mut self, disk: &dyn Disk, path: &Path, trust: &dyn Trust) -> Result<(), EvidenceError> {
        let Some(note) = layout::read_note(disk, path)? else { return Ok(()) };
        let same = self.all.iter().find(|known| known.signed.note.as_bytes() == note);
        let signed = match same {
            Some(known) => known.signed.clone(),
            None => trust.read(&note).map_err(|source| EvidenceError::Forged { path: path.to_path_buf(), source })?,
        };
        self.all.push(Witnessed { path: path.to_path_buf(), signed });
        Ok(())
    }

    /// The one that was signed for the most entries.
    pub(crate) fn strongest(&self) -> Option<&Witnessed> {
        self.all.iter().max_by_key(|known| known.signed.size)
    }

    /// Compares one with the log's root at its size.
    pub(crate) fn compare(known: &Witnessed, here: Hash) -> Result<(), EvidenceError> {
        let Witnessed { path, signed } = known;
        if signed.root == here {
            return Ok(());
        }
        Err(EvidenceError::Tampered { size: signed.size, here, seen: signed.root, path: path.clone() })
    }
}
