//! What a witness remembers: of each log the last checkpoint that it cosigned, in one file. What is decided on a log's page is
//! on disk before it is answered, and one request at a time turns it.

use super::copies::{Copy, Lacking};
use super::home::Home;
use super::trusted::Trusted;
use crate::audit::files;
use crate::fault;
use ledger::note::{MAX_NOTE, Unverified};
use ledger::witness::{Answer, Request, State, decide, origin_hash};
use ledger::{Head, Note, Signer, Verifier};
use model::Problem;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use stdx::chain::Chain;
use stdx::durable;

/// The witness cannot answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Its disk, its clock, or it itself failed.
    Failed,
    /// The copy of the log beside it does not have what is to be cosigned.
    Copy(Lacking),
}

/// All logs that the witness knows.
#[derive(Debug)]
pub(super) struct Book {
    home: Home,
    logs: BTreeMap<String, Log>,
}

/// One log.
#[derive(Debug)]
struct Log {
    trusted: Trusted,
    hash: String,
    path: PathBuf,
    page: Mutex<Page>,
    /// What must have all that is cosigned.
    copy: Option<Copy>,
}

/// What is remembered of a log. The file is the truth; this is what it says.
#[derive(Debug, Default)]
struct Page {
    state: State,
    /// The file, byte for byte; `None` where there is none.
    stored: Option<String>,
    /// The last checkpoint whose cosignatures were given away, with them.
    shown: Option<String>,
    /// Nobody knows what the disk has: no more answers before the next start.
    lost: bool,
}

impl Book {
    /// Reads what is remembered of these logs. Files of other logs stay as they are.
    pub(super) fn open(
        home: Home,
        logs: BTreeMap<String, Trusted>,
        mut copies: BTreeMap<String, Copy>,
    ) -> Result<Self, Problem> {
        let mut book = Self { home, logs: BTreeMap::new() };
        for (origin, trusted) in logs {
            let hash = origin_hash(&origin);
            let path = book.home.memory.join(&hash);
            let page = Mutex::new(book.recall(&origin, &trusted, &path)?);
            let copy = copies.remove(&origin);
            book.logs.insert(origin, Log { trusted, hash, path, page, copy });
        }
        Ok(book)
    }

    /// What the file of a log says. A witness that cannot read its memory must not go on as if it had none.
    fn recall(&self, origin: &str, trusted: &Trusted, path: &Path) -> Result<Page, Problem> {
        let damaged = |why: &dyn std::fmt::Display| {
            let message = format!("{} is not what this witness cosigned of {origin}: {why}", path.display());
            fault::failed(
                message,
                "it is the witness's memory: without it, begin with an empty directory and another name",
            )
        };
        match path.try_exists() {
            Ok(false) => return Ok(Page::default()),
            Ok(true) => {}
            Err(error) => return Err(fault::because(&format!("look at {}", path.display()), &error, "")),
        }
        let bytes = files::read(path, MAX_NOTE)?.ok_or_else(|| damaged(&"it is too long"))?;
        let note = Note::parse(&bytes).map_err(|error| damaged(&error))?;
        let head = Head::parse(note.text()).map_err(|error| damaged(&error))?;
        if head.origin() != origin {
            return Err(damaged(&"it is another log's"));
        }
        let state = State { size: head.size(), root: head.root() };
        let page = |note: &Note| {
            let text = Some(note.to_string());
            Page { state, stored: text.clone(), shown: text, lost: false }
        };
        match note.verify(self.verifiers()) {
            Ok(ours) if ours.len() >= self.home.signers.len() => Ok(page(&note)),
            // It ended between remembering and cosigning, so nobody has a cosignature of this one yet.
            Err(Unverified::Unknown) if trusted.signed(&note) => {
                let signed = self.cosign(&note).map_err(|_| damaged(&"it cannot be cosigned"))?;
                let text = signed.to_string();
                durable::write_file(path, text.as_bytes(), 0o600)
                    .map_err(|error| fault::because("remember a checkpoint", &error, ""))?;
                Ok(page(&signed))
            }
            Ok(_) => Err(damaged(&"one of its cosignatures is missing")),
            Err(error) => Err(damaged(&error)),
        }
    }

    fn cosign(&self, note: &Note) -> Result<Note, Trouble> {
        let now_s = now_s()?;
        let signed: Result<Vec<_>, _> =
            self.home.signers.iter().map(|signer| signer.sign(note.text(), now_s)).collect();
        note.clone().with(signed.map_err(|_| Trouble::Failed)?).map_err(|_| Trouble::Failed)
    }

    fn verifiers(&self) -> impl Iterator<Item = &Verifier> {
        self.home.signers.iter().map(Signer::verifier)
    }

    /// The public keys, as text.
    pub(super) fn vkeys(&self) -> Vec<String> {
        self.verifiers().map(ToString::to_string).collect()
    }

    /// Each log: its origin, the hash of it, and the entries that are cosigned.
    pub(super) fn known(&self) -> Vec<(&str, &str, Option<u64>)> {
        let size = |log: &Log| page(log).ok().and_then(|page| page.stored.is_some().then_some(page.state.size));
        self.logs.iter().map(|(origin, log)| (&**origin, &*log.hash, size(log))).collect()
    }

    /// The last cosigned checkpoint of the log whose origin has this hash.
    pub(super) fn shown(&self, hash: &str) -> Result<Option<String>, Trouble> {
        match self.logs.values().find(|log| log.hash == hash) {
            Some(log) => Ok(page(log)?.shown.clone()),
            None => Ok(None),
        }
    }

    /// Answers `add-checkpoint`.
    pub(super) fn add(&self, body: &[u8]) -> Result<Answer, Trouble> {
        let request = match Request::parse(body) {
            Ok(request) => request,
            Err(error) => return Ok(Answer::BadRequest(error)),
        };
        let Some(log) = self.logs.get(request.origin()) else { return Ok(Answer::UnknownLog) };
        // Before the page is taken: a stranger's signatures hold up nobody.
        if !log.trusted.signed(request.note()) {
            return Ok(Answer::Forbidden);
        }
        let mut page = page(log)?;
        if page.lost {
            return Err(Trouble::Failed);
        }
        let pending = match decide(&request, Some(log.trusted.keys()), page.state) {
            Ok(pending) => pending,
            Err(answer) => {
                if answer == Answer::Inconsistent {
                    let origin = request.origin();
                    tracing::warn!(
                        origin,
                        "the log signed a checkpoint that does not follow from what was cosigned, or sent a wrong proof"
                    );
                }
                return Ok(answer);
            }
        };
        if let Some(copy) = &log.copy {
            copy.has(pending.after().size, pending.after().root).map_err(|lacking| {
                tracing::warn!(origin = request.origin(), ?lacking, "the copy does not have what is to be cosigned");
                Trouble::Copy(lacking)
            })?;
        }
        if page.stored.is_none() || pending.after() != pending.before() {
            page.store(&log.path, pending.note())?;
            page.state = pending.after();
        }
        let signers: Vec<&Signer> = self.home.signers.iter().collect();
        let cosigned = pending.persisted(&signers, now_s()?).map_err(|error| {
            tracing::error!(%error, "a checkpoint could not be cosigned");
            Trouble::Failed
        })?;
        // What is given away is shown to everybody who asks, also after a crash.
        page.store(&log.path, &cosigned.note)?;
        page.shown = page.stored.clone();
        Ok(cosigned.answer)
    }
}

impl Page {
    /// Replaces the file, durably.
    fn store(&mut self, path: &Path, note: &Note) -> Result<(), Trouble> {
        let text = note.to_string();
        let Err(error) = durable::write_file(path, text.as_bytes(), 0o600) else {
            self.stored = Some(text);
            return Ok(());
        };
        // A full disk, most likely. But if the new file is in place, and only perhaps durable, nobody may build on it.
        let there = match std::fs::read(path) {
            Ok(there) => Some(there),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(_) => Some(Vec::new()),
        };
        self.lost = there.as_deref() != self.stored.as_deref().map(str::as_bytes);
        tracing::error!(error = %Chain(&error), lost = self.lost, "a checkpoint could not be remembered, so it is not cosigned");
        Err(Trouble::Failed)
    }
}

/// The page of a log, for this thread alone. A thread that panicked with it may have left it half turned.
fn page(log: &Log) -> Result<MutexGuard<'_, Page>, Trouble> {
    log.page.lock().map_err(|_| Trouble::Failed)
}

fn now_s() -> Result<u64, Trouble> {
    u64::try_from(stdx::clock::unix_ms() / 1000).ok().filter(|now| *now > 0).ok_or(Trouble::Failed)
}
