//! Whose checkpoints a log believes, and who signs its own.

use crate::checkpoint::{CheckpointError, CheckpointSignError, LogKeys, LogSigner};
use crate::hash::Hash;
use std::fmt::Debug;

/// A checkpoint with its signatures: what a log said about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Entries of the log.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
    /// The signed note (C2SP tlog-checkpoint).
    pub note: String,
}

/// Reads checkpoints of one log and verifies their signatures.
pub trait Trust: Debug + Send + Sync {
    /// The log's origin.
    fn origin(&self) -> &str;
    /// Reads a signed checkpoint of this log. What it gives may be believed.
    fn read(&self, note: &[u8]) -> Result<Signed, CheckpointError>;
}

/// Signs checkpoints of one log, and reads what it and those before it signed.
pub trait Notary: Trust {
    /// Signs what the log says at `now_s`, seconds since 1970. The caller has made sure that nothing that was signed before
    /// is contradicted.
    fn sign(&self, size: u64, root: Hash, now_s: u64) -> Result<Signed, CheckpointSignError>;
}

impl Trust for LogKeys {
    fn origin(&self) -> &str {
        self.origin()
    }

    fn read(&self, note: &[u8]) -> Result<Signed, CheckpointError> {
        let checkpoint = self.open(note)?;
        Ok(Signed { size: checkpoint.size(), root: checkpoint.root(), note: checkpoint.to_string() })
    }
}

/// The secret keys of a log, and all public keys that it ever signed with.
#[derive(Debug)]
pub struct Keys {
    signer: LogSigner,
    /// Takes its place soon, and signs too meanwhile.
    next: Option<LogSigner>,
    known: LogKeys,
}

impl Keys {
    /// `known` are the pairs of keys of earlier times and, last, that of `signer`. `None` if it is not among them, or they are
    /// of another log.
    pub fn new(signer: LogSigner, known: LogKeys) -> Option<Self> {
        let own = signer.keys().verifiers();
        let has = |key| known.verifiers().any(|other| other == key);
        (signer.origin() == known.origin() && own.into_iter().all(has)).then_some(Self { signer, next: None, known })
    }

    /// The same keys; what they sign, `next` signs too. `None` if it is of another log.
    pub fn with_next(self, next: LogSigner) -> Option<Self> {
        (next.origin() == self.signer.origin()).then_some(Self { next: Some(next), ..self })
    }

    /// The public keys.
    pub fn known(&self) -> &LogKeys {
        &self.known
    }
}

impl Trust for Keys {
    fn origin(&self) -> &str {
        self.known.origin()
    }

    fn read(&self, note: &[u8]) -> Result<Signed, CheckpointError> {
        Trust::read(&self.known, note)
    }
}

impl Notary for Keys {
    fn sign(&self, size: u64, root: Hash, now_s: u64) -> Result<Signed, CheckpointSignError> {
        let mut checkpoint = self.signer.sign(size, root, now_s)?;
        if let Some(next) = &self.next {
            checkpoint = next.sign_also(checkpoint, now_s)?;
        }
        Ok(Signed { size, root, note: checkpoint.to_string() })
    }
}
