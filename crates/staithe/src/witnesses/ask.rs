//! One witness is asked (C2SP tlog-witness, `add-checkpoint`): with a proof that the tree that it cosigned last is the beginning
//! of ours. Where it remembers another size, it says so, and is asked again from there.

use ledger::note::Signature;
use ledger::witness::{MAX_ANSWER, Reply, ReplyError, Request, RequestError};
use ledger::writer::Writer;
use ledger::{Checkpoint, Verifier};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use supervisor::{Outside, OutsideError, Outsider};

/// How long one witness may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Requests for one checkpoint: the first may begin at the wrong size.
const TRIES: usize = 3;

/// A witness that is asked.
#[derive(Debug)]
pub(super) struct Asked {
    /// Its address, as the policy says it.
    pub(super) url: String,
    keys: Vec<Verifier>,
    service: Outsider,
    /// The size that it cosigned last, as far as we know.
    known: AtomicU64,
}

/// Why a witness did not cosign.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// It does not answer.
    #[error(transparent)]
    Away(#[from] OutsideError),
    /// Its answer is of no use.
    #[error(transparent)]
    Useless(ReplyError),
    /// It remembers another size each time.
    #[error("it remembers another size at each request")]
    Unsteady,
    /// It saw more of this log than there is.
    #[error(
        "it cosigned {seen} entries of this ledger, which has {here}: this is an older copy, or entries were removed; keep it as it is, and look for the newer one"
    )]
    Behind {
        /// Entries that it cosigned.
        seen: u64,
        /// Entries here.
        here: u64,
    },
    /// It saw another beginning of this log.
    #[error(
        "it cosigned another history of this ledger (HTTP 422): entries were changed, or two hosts write under one name; keep this one as it is, and compare it with a copy"
    )]
    Contradicts,
    /// The log cannot be read now.
    #[error("the ledger cannot be read: {0}")]
    Unread(String),
    /// Not possible, unless the log is larger than a proof can be.
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl Trouble {
    /// Whether it shows that the log is not what it was.
    pub(super) fn is_alarm(&self) -> bool {
        matches!(self, Self::Behind { .. } | Self::Contradicts)
    }

    /// What is told once only.
    pub(super) fn kind(&self) -> u8 {
        match self {
            Self::Away(_) => 0,
            Self::Useless(_) => 1,
            Self::Unsteady => 2,
            Self::Behind { .. } => 3,
            Self::Contradicts => 4,
            Self::Unread(_) => 5,
            Self::Request(_) => 6,
        }
    }
}

impl Asked {
    /// The witness below an address (its submission prefix).
    pub(super) fn new(outside: &Outside, url: &str, keys: Vec<Verifier>) -> Result<Self, OutsideError> {
        let service = outside.service(&format!("{}/add-checkpoint", url.trim_end_matches('/')))?;
        Ok(Self { url: url.to_owned(), keys, service, known: AtomicU64::new(0) })
    }

    /// Its cosignatures of a checkpoint of the log that `writer` writes, verified.
    pub(super) async fn cosignatures(
        &self,
        writer: &Writer,
        checkpoint: &Checkpoint,
    ) -> Result<Vec<Signature>, Trouble> {
        let here = checkpoint.size();
        for _ in 0..TRIES {
            let old = self.known.load(Ordering::Relaxed).min(here);
            let request = request(writer, checkpoint, old).await?;
            let said = self.service.post(request.to_string(), PATIENCE, MAX_ANSWER).await?;
            match Reply::read(checkpoint.note().text(), &self.keys, said.status, &said.kind, &said.body) {
                Ok(Reply::Cosigned(lines)) => {
                    self.known.store(here, Ordering::Relaxed);
                    return Ok(lines);
                }
                Ok(Reply::Conflict { size: seen }) if seen > here => return Err(Trouble::Behind { seen, here }),
                Ok(Reply::Conflict { size }) => self.known.store(size, Ordering::Relaxed),
                Err(ReplyError::Refused { status: 422, .. }) => return Err(Trouble::Contradicts),
                Err(error) => return Err(Trouble::Useless(error)),
            }
        }
        Err(Trouble::Unsteady)
    }
}

/// The proof is read where waiting for a disk holds nobody up.
async fn request(writer: &Writer, checkpoint: &Checkpoint, old: u64) -> Result<Request, Trouble> {
    let (writer, size) = (writer.clone(), checkpoint.size());
    let read = tokio::task::spawn_blocking(move || writer.read(|view| view.consistency_at(old, size))).await;
    let read = read.map_err(|_| Trouble::Unread("reading it failed".to_owned()))?;
    let proof = read.map_err(|error| Trouble::Unread(error.to_string()))?;
    let proof = proof.map_err(|error| Trouble::Unread(stdx::chain::Chain(&error).to_string()))?;
    Ok(Request::new(old, proof, checkpoint)?)
}
