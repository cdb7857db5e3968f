//! The logs that a witness knows, and what it takes for a log to have signed.

use crate::audit::files;
use crate::fault;
use ledger::checkpoint::CheckpointError;
use ledger::{Kind, LogKeys, Note, Verifier};
use model::Problem;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The keys of one log.
#[derive(Debug)]
pub(super) struct Trusted {
    keys: Vec<Verifier>,
    /// Where a log has keys of both kinds, both must sign.
    both: Option<LogKeys>,
}

impl Trusted {
    fn new(keys: Vec<Verifier>) -> Result<Self, String> {
        let has = |kind| keys.iter().any(|key| key.kind() == kind);
        if has(Kind::Ed25519Cosignature) {
            return Err("an Ed25519 cosignature key is a witness's, not a log's".to_owned());
        }
        if !(has(Kind::Ed25519) && has(Kind::MlDsa44Cosignature)) {
            return Ok(Self { keys, both: None });
        }
        let both =
            files::pairs(&keys).map_err(|_| "for each Ed25519 key there must be one ML-DSA-44 key".to_owned())?;
        Ok(Self { keys, both: Some(both) })
    }

    /// All keys.
    pub(super) fn keys(&self) -> &[Verifier] {
        &self.keys
    }

    /// Whether the log signed this note, with every signature that it must have.
    pub(super) fn signed(&self, note: &Note) -> bool {
        match &self.both {
            None => note.verify(&self.keys).is_ok(),
            // An impossible root is found first, and is never cosigned: what is said of it is for whoever looks at trees.
            Some(both) => matches!(both.check(note.clone()), Ok(_) | Err(CheckpointError::EmptyRoot)),
        }
    }
}

/// Reads files of keys; a log is its keys' name, which is its origin.
pub(super) fn read(paths: &[PathBuf]) -> Result<BTreeMap<String, Trusted>, Problem> {
    let mut logs: BTreeMap<String, Vec<Verifier>> = BTreeMap::new();
    for path in paths {
        for key in files::keys(path)? {
            let keys = logs.entry(key.name().to_owned()).or_default();
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    let checked = logs.into_iter().map(|(origin, keys)| match Trusted::new(keys) {
        Ok(trusted) => Ok((origin, trusted)),
        Err(why) => {
            Err(fault::usage(format!("the keys of the log {origin}: {why}"), "correct the files given with --log"))
        }
    });
    checked.collect()
}
