//! What a log promised, to be held against it after a crash; and the keys and options of these tests.

use crate::model::Model;
use staithe_ledger::checkpoint::{CheckpointError, CheckpointSignError, HeadError};
use staithe_ledger::disk::Disk;
use staithe_ledger::recover::OpenError;
use staithe_ledger::tree::Frontier;
use staithe_ledger::{
    Hash, Head, Keys, Kind, Log, LogKeys, LogSigner, Notary, Options, Recovered, Signed, Signer, Trust, leaf_hash,
};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub(crate) const ORIGIN: &str = "example.com/log";

pub(crate) fn dir() -> PathBuf {
    PathBuf::from("/logs/one")
}

pub(crate) fn anchor() -> PathBuf {
    PathBuf::from("/other/anchor")
}

/// Signs nothing: for tests of what a crash leaves, where nobody lies.
#[derive(Debug)]
pub(crate) struct Plain;

impl Trust for Plain {
    fn origin(&self) -> &str {
        ORIGIN
    }

    fn read(&self, note: &[u8]) -> Result<Signed, CheckpointError> {
        let note = std::str::from_utf8(note).map_err(|_| HeadError::Shape)?;
        let head = Head::parse(note.strip_suffix("unsigned\n").ok_or(HeadError::Shape)?)?;
        Ok(Signed { size: head.size(), root: head.root(), note: note.to_owned() })
    }
}

impl Notary for Plain {
    fn sign(&self, size: u64, root: Hash, _: u64) -> Result<Signed, CheckpointSignError> {
        let note = format!("{}unsigned\n", Head::new(ORIGIN, size, root)?);
        Ok(Signed { size, root, note })
    }
}

/// Real keys, which remember what they verified: a test opens the same log many times.
#[derive(Debug)]
pub(crate) struct Remembering {
    keys: Keys,
    read: Mutex<HashMap<Vec<u8>, Signed>>,
}

pub(crate) fn keys_of(seed: u8) -> Keys {
    let ed25519 = Signer::from_seed(Kind::Ed25519, ORIGIN, &[seed; 32]).unwrap();
    let ml_dsa_44 = Signer::from_seed(Kind::MlDsa44Cosignature, ORIGIN, &[seed + 1; 32]).unwrap();
    let signer = LogSigner::new(ed25519, ml_dsa_44).unwrap();
    let known = LogKeys::new(vec![signer.keys().clone()]).unwrap();
    Keys::new(signer, known).unwrap()
}

pub(crate) fn remembering() -> Arc<Remembering> {
    Arc::new(Remembering { keys: keys_of(1), read: Mutex::default() })
}

impl Trust for Remembering {
    fn origin(&self) -> &str {
        self.keys.origin()
    }

    fn read(&self, note: &[u8]) -> Result<Signed, CheckpointError> {
        if let Some(known) = self.read.lock().unwrap().get(note) {
            return Ok(known.clone());
        }
        let signed = self.keys.read(note)?;
        self.read.lock().unwrap().insert(note.to_vec(), signed.clone());
        Ok(signed)
    }
}

impl Notary for Remembering {
    fn sign(&self, size: u64, root: Hash, now_s: u64) -> Result<Signed, CheckpointSignError> {
        self.keys.sign(size, root, now_s)
    }
}

/// Segments of a few entries.
pub(crate) fn small() -> Options {
    Options { segment_bytes: 4096 + 2048, allocate_bytes: 512, reserve_bytes: 32 }
}

pub(crate) fn open(model: &Model, notary: Arc<dyn Notary>, options: Options) -> Result<(Log, Recovered), OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(model.clone());
    Log::open(&disk, &dir(), options, notary, vec![anchor()])
}

pub(crate) fn shared(model: &Model) -> Arc<dyn Disk> {
    Arc::new(model.clone())
}

/// A frame of a segment that has no mark, as the format says: the index, and where it lies.
pub(crate) fn frames(segment: &[u8]) -> Vec<(usize, usize)> {
    let (mut at, mut found) = (4096, Vec::new());
    while let Some(word) = segment.get(at..at + 4).map(|word| u32::from_le_bytes(word.try_into().unwrap())) {
        if word == 0 {
            break;
        }
        let end = at + 8 + (word & 0xFF_FFFF) as usize;
        if word >> 24 == 1 {
            found.push((at, end));
        }
        at = end;
    }
    found
}

pub(crate) fn only_segment(model: &Model) -> (PathBuf, Vec<u8>) {
    let files = model.state().files();
    let mut all = files.iter().filter(|(path, _)| path.extension().is_some_and(|ending| ending == "seg"));
    let (path, content) = all.next_back().unwrap();
    (path.clone(), content.to_vec())
}

pub(crate) fn with_file(model: &Model, path: &Path, content: Vec<u8>) -> Model {
    let mut state = model.state();
    state.put(path, content);
    Model::new(state)
}

/// What was appended, and what the log promised about it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// The root of each beginning of what was appended, or tried to be.
    pub(crate) roots: Vec<Hash>,
    frontier: Frontier,
    /// Entries that a sync said are durable.
    pub(crate) durable: u64,
    /// The largest checkpoint that was given.
    pub(crate) signed: u64,
}

impl Record {
    pub(crate) fn new() -> Self {
        let frontier = Frontier::new();
        Self { roots: vec![frontier.root()], frontier, durable: 0, signed: 0 }
    }

    pub(crate) fn attempt(&mut self, entries: &[Vec<u8>]) {
        for entry in entries {
            self.frontier.append(leaf_hash(entry)).unwrap();
            self.roots.push(self.frontier.root());
        }
    }

    /// What every opening after a crash must show.
    pub(crate) fn holds(&self, log: &Log, recovered: &Recovered) {
        let size = recovered.size;
        assert_eq!(log.size(), size);
        assert!(size >= self.durable, "{size} entries of {} that were durable", self.durable);
        assert!(size >= self.signed, "{size} entries of {} that were signed for", self.signed);
        let signed = recovered.signed.as_ref().map_or(0, |signed| signed.size);
        assert!(signed >= self.signed, "a checkpoint that was given is the latest: {signed} of {}", self.signed);
        // The root says it all: the same entries, in the same order, each once.
        assert_eq!(Some(&log.view().unwrap().root()), self.roots.get(size as usize), "of {size} entries");
        if let Some(signed) = &recovered.signed {
            assert_eq!(self.roots[signed.size as usize], signed.root);
            assert_eq!(log.view().unwrap().root_at(signed.size).unwrap(), signed.root);
        }
    }

    /// The log went on from here: what was tried beyond is gone.
    pub(crate) fn cut(&mut self, log: &Log) {
        let size = log.size();
        self.roots.truncate(size as usize + 1);
        self.durable = size;
        let hashes = log.view().unwrap();
        self.frontier = Frontier::read(size, hashes).unwrap();
    }
}
