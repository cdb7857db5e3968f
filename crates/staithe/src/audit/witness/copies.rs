//! Copies of logs beside a witness: where there is one, the witness cosigns only what the copy has, entry by entry. So what a
//! quorum of such witnesses cosigned cannot be lost with the log's machine (as C2SP tlog-mirror has it; who copies is another).

use crate::fault;
use ledger::tile::{Bundle, WIDTH, decode_bundle};
use ledger::tree::Frontier;
use ledger::{Disk, Hash, LogKeys, Reader, RealDisk, View, leaf_hash};
use model::Problem;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use stdx::chain::Chain;

/// Why a checkpoint is not cosigned for the copy's sake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lacking {
    /// It is not there yet, or cannot be read; asking again may help.
    Behind(String),
    /// Its entries are others than the log signed.
    Differs,
}

/// A copy of one log's directory.
#[derive(Debug)]
pub(super) struct Copy {
    dir: PathBuf,
    keys: LogKeys,
    /// What was read of it: its entries are hashed once.
    read: Mutex<Frontier>,
}

/// The copies that were named on the command line, by origin. Each is of a log that the witness knows with both keys.
pub(super) fn named(
    places: &[(String, PathBuf)],
    keys: impl Fn(&str) -> Option<LogKeys>,
) -> Result<BTreeMap<String, Copy>, Problem> {
    let copies = places.iter().map(|(origin, dir)| {
        let keys = keys(origin).ok_or_else(|| {
            let hint = "a copy is named as ORIGIN=DIR; --log must give both public keys of that log";
            fault::usage(format!("the witness does not know the log {origin}"), hint)
        })?;
        Ok((origin.clone(), Copy { dir: dir.clone(), keys, read: Mutex::new(Frontier::new()) }))
    });
    copies.collect()
}

impl Copy {
    /// Whether the copy has all entries of the tree of this size and root.
    pub(super) fn has(&self, size: u64, root: Hash) -> Result<(), Lacking> {
        let behind = |error: &dyn std::error::Error| Lacking::Behind(Chain(error).to_string());
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let reader = Reader::open(&disk, &self.dir, Arc::new(self.keys.clone())).map_err(|error| behind(&error))?;
        let view = reader.view();
        if view.size() < size {
            return Err(Lacking::Behind(format!("it has {} entries of {size}", view.size())));
        }
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.size() > size {
            *read = Frontier::new();
        }
        while read.size() < size {
            hash_bundle(view, &mut read, size).map_err(|error| behind(&error))?;
        }
        if read.root() == root {
            return Ok(());
        }
        // Whoever made it may mend it.
        *read = Frontier::new();
        Err(Lacking::Differs)
    }
}

/// An entry of a copy cannot be read.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error(transparent)]
    Read(#[from] ledger::view::ReadError),
    #[error("entries from {0} on cannot be read")]
    Bundle(u64),
}

/// Adds the entries of the next bundle, up to `size`.
fn hash_bundle(view: &View, read: &mut Frontier, size: u64) -> Result<(), Unread> {
    let next = read.size();
    let bundle = Bundle::of(next / u64::from(WIDTH), view.size()).ok_or(Unread::Bundle(next))?;
    let bytes = view.bundle(bundle)?;
    let entries = decode_bundle(&bytes, bundle.width()).map_err(|_| Unread::Bundle(next))?;
    for (_, entry) in (bundle.start()..size).zip(entries).filter(|(at, _)| *at >= next) {
        read.append(leaf_hash(entry)).map_err(|_| Unread::Bundle(next))?;
    }
    Ok(())
}
