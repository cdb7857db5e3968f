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
        let text: String = keys.iter().map(|key| format!("{key}\n")).collect();
        let both = text.parse().map_err(|_| "for each Ed25519 key there must be one ML-DSA-44 key".to_owned())?;
        Ok(Self { keys, both: Some(both) })
    }

    /// The keys of a log that were changed: each pair is good for its time.
    fn rotated(log: LogKeys) -> Self {
        Self { keys: log.verifiers().cloned().collect(), both: Some(log) }
    }

    /// All keys.
    pub(super) fn keys(&self) -> &[Verifier] {
        &self.keys
    }

    /// Both keys, where the log has both.
    pub(super) fn both(&self) -> Option<&LogKeys> {
        self.both.as_ref()
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

/// Reads files of keys; a log is its keys' name, which is its origin. Where the keys of a log were changed, one file says when.
pub(super) fn read(paths: &[PathBuf]) -> Result<BTreeMap<String, Trusted>, Problem> {
    let (mut logs, mut rotated): (BTreeMap<String, Vec<Verifier>>, BTreeMap<String, Trusted>) = Default::default();
    for path in paths {
        match files::keys_of_one_log(path) {
            Ok(log) if log.pairs().len() > 1 => {
                rotated.insert(log.origin().to_owned(), Trusted::rotated(log));
                continue;
            }
            _ => {}
        }
        for key in files::keys(path)? {
            let keys = logs.entry(key.name().to_owned()).or_default();
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    let wrong = |origin: &str, why: &str| {
        fault::usage(format!("the keys of the log {origin}: {why}"), "correct the files given with --log")
    };
    for (origin, keys) in logs {
        if rotated.contains_key(&origin) {
            return Err(wrong(&origin, "one file says when they were changed, and another has some of them too"));
        }
        let trusted = Trusted::new(keys).map_err(|why| wrong(&origin, &why))?;
        rotated.insert(origin, trusted);
    }
    Ok(rotated)
}
