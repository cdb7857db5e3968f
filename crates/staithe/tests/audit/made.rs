//! Logs, keys and policies for the tests, and the binary that looks at them.

use ledger::witness::Request;
use ledger::{Checkpoint, Disk, Keys, Kind, Log, LogKeys, LogSigner, Options, RealDisk, Signer};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use testkit::copy_tree;

pub(crate) const STAITHE: &str = env!("CARGO_BIN_EXE_staithe");
pub(crate) const ORIGIN: &str = "example.com/log";
/// When everything is signed, seconds since 1970: 2026-07-28T00:00:00Z.
pub(crate) const NOW: u64 = 1_785_196_800;

pub(crate) fn signer(origin: &str, seed: u8) -> LogSigner {
    let one = Signer::from_seed(Kind::Ed25519, origin, &[seed; 32]).unwrap();
    let other = Signer::from_seed(Kind::MlDsa44Cosignature, origin, &[seed; 32]).unwrap();
    LogSigner::new(one, other).unwrap()
}

pub(crate) fn keys(origin: &str, seed: u8) -> LogKeys {
    LogKeys::new(vec![signer(origin, seed).keys().clone()]).unwrap()
}

pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) {
    stdx::durable::write_file(path, content.as_ref(), 0o600).unwrap();
}

/// The public keys of a log in a file.
pub(crate) fn key_file(dir: &Path, origin: &str, seed: u8) -> PathBuf {
    let path = dir.join(format!("{}-{seed}.vkeys", origin.replace('/', "_")));
    let lines: Vec<String> = keys(origin, seed).verifiers().map(ToString::to_string).collect();
    write(&path, format!("# the log's keys\n{}\n", lines.join("\n")));
    path
}

/// A log, with small segments where nothing else is said, and a place for files about it.
pub(crate) struct Made {
    pub(crate) place: tempfile::TempDir,
    pub(crate) log: Log,
    seed: u8,
}

impl Made {
    /// Entries `<word> 0`, `<word> 1`, …
    pub(crate) fn new(word: &str, entries: u64) -> Self {
        Self::with_key(word, entries, 1)
    }

    pub(crate) fn with_key(word: &str, entries: u64, seed: u8) -> Self {
        let options = Options { segment_bytes: 4096 + 2048, allocate_bytes: 512, reserve_bytes: 32 };
        let mut made = Self::empty(options, seed);
        made.append(word, entries);
        made
    }

    /// A log without entries.
    pub(crate) fn empty(options: Options, seed: u8) -> Self {
        let place = tempfile::tempdir().unwrap();
        let known = keys(ORIGIN, seed);
        let notary = Arc::new(Keys::new(signer(ORIGIN, seed), known).unwrap());
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let (log, _) = Log::open(&disk, &place.path().join("log"), options, notary, vec![]).unwrap();
        Self { place, log, seed }
    }

    pub(crate) fn append(&mut self, word: &str, entries: u64) {
        for _ in 0..entries {
            let index = self.log.size();
            self.log.append(&[format!("{word} {index}")]).unwrap();
        }
    }

    /// Signs what is there, and keeps the checkpoint in the archive.
    pub(crate) fn sign(&mut self) {
        self.log.archive_next();
        self.log.checkpoint(NOW).unwrap();
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.place.path().join("log")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    pub(crate) fn keys(&self) -> PathBuf {
        key_file(self.place.path(), ORIGIN, self.seed)
    }

    /// What the log says of its first `size` entries.
    pub(crate) fn checkpoint(&self, size: u64) -> Checkpoint {
        let root = self.log.view().unwrap().root_at(size).unwrap();
        signer(ORIGIN, self.seed).sign(size, root, NOW).unwrap()
    }

    /// Asks a witness that has the tree of `old` entries.
    pub(crate) fn request(&self, old: u64, new: u64) -> Request {
        let proof = self.log.view().unwrap().consistency_at(old, new).unwrap();
        Request::new(old, proof, &self.checkpoint(new)).unwrap()
    }

    /// A copy of the log's directory.
    pub(crate) fn copy(&self, name: &str) -> PathBuf {
        let to = self.path(name);
        copy_tree(&self.dir(), &to).unwrap();
        to
    }
}

/// Every file below a directory.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Both cosignatures of a witness whose keys have this seed.
pub(crate) fn cosigners(seed: u8) -> [Signer; 2] {
    [Kind::Ed25519Cosignature, Kind::MlDsa44Cosignature]
        .map(|kind| Signer::from_seed(kind, &format!("example.com/w{seed}"), &[100 + seed; 32]).unwrap())
}

/// Both keys of each of these witnesses are needed.
pub(crate) fn policy(witnesses: &[Vec<String>]) -> String {
    let mut text = String::new();
    let mut groups = Vec::new();
    for (nth, vkeys) in witnesses.iter().enumerate() {
        for (which, vkey) in vkeys.iter().enumerate() {
            text.push_str(&format!("witness w{nth}-{which} {vkey}\n"));
        }
        let names: Vec<String> = (0..vkeys.len()).map(|which| format!("w{nth}-{which}")).collect();
        text.push_str(&format!("group w{nth} all {}\n", names.join(" ")));
        groups.push(format!("w{nth}"));
    }
    format!("{text}group quorum all {}\nquorum quorum\n", groups.join(" "))
}

pub(crate) fn vkeys(signers: &[Signer]) -> Vec<String> {
    signers.iter().map(|signer| signer.verifier().to_string()).collect()
}

/// What `staithe audit …` did.
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {} {}", self.out, self.err))
    }

    /// It ended with this code, and its words have these in them.
    #[track_caller]
    pub(crate) fn says(&self, code: i32, words: &[&str]) -> &Self {
        let all = format!("{}{}", self.out, self.err);
        assert_eq!(self.code, code, "{all}");
        for word in words {
            assert!(all.contains(word), "not {word:?} in: {all}");
        }
        self
    }
}

pub(crate) fn audit<S: AsRef<std::ffi::OsStr>>(words: &[S]) -> Done {
    let Output { status, stdout, stderr } = Command::new(STAITHE).arg("audit").args(words).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done { code: status.code().unwrap(), out: text(stdout), err: text(stderr) }
}
