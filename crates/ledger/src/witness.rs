//! The two sides of C2SP tlog-witness, without IO: a witness that decides about `add-checkpoint`, and a log that asks and
//! reads the answer.
//!
//! A witness is worth something only if what it remembers is on disk before its cosignature is out. So a decision to
//! cosign gives its answer only to a caller that says that the new state was persisted.

use crate::checkpoint::{Checkpoint, Head, decimal};
use crate::hash::{Hash, empty_root, sha256};
use crate::key::{SignError, Signer, Verifier};
use crate::note::{MAX_NOTE, Note, NoteError, Signature, Unverified, Verified, parse_signatures};
use crate::tree::verify_consistency;

/// Hashes of the longest consistency proof that a log may send.
pub const MAX_HASHES: usize = 63;
/// Bytes of the longest request: a bound for whoever reads one from a socket.
pub const MAX_REQUEST: usize = MAX_NOTE + MAX_HASHES * (Hash::TEXT + 1) + 32;
/// Bytes of the longest answer: a bound for whoever reads one from a socket.
pub const MAX_ANSWER: usize = MAX_NOTE;

/// By what a witness shows a log's checkpoint: the SHA-256 of its origin in lowercase hex.
pub fn origin_hash(origin: &str) -> String {
    sha256(origin.as_bytes()).as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A body is no `add-checkpoint` request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// More than [`MAX_REQUEST`] bytes.
    #[error("the request is too long")]
    TooLong,
    /// The first line is not `old` and a size.
    #[error("the first line is not \"old\" and a size without leading zeroes")]
    Old,
    /// A line of the proof is no hash.
    #[error("line {0} of the consistency proof is not a hash")]
    Hash(usize),
    /// More than [`MAX_HASHES`].
    #[error("the consistency proof has more than 63 hashes")]
    TooManyHashes,
    /// There is no empty line with a checkpoint behind it, or the bytes are not UTF-8.
    #[error("the request has no checkpoint")]
    NoCheckpoint,
    /// What follows is no note.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The note does not say what a checkpoint says.
    #[error(transparent)]
    Head(#[from] crate::checkpoint::HeadError),
    /// The old tree is larger than the new one.
    #[error("the old size is larger than the size of the checkpoint")]
    Shrunk,
}

/// A log's wish to have a checkpoint cosigned. Nothing of it is to be believed before [`decide`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    old: u64,
    proof: Vec<Hash>,
    note: Note,
    head: Head,
}

impl Request {
    /// What a log sends that knows the witness's tree to have `old` leaves; `proof` is the
    /// [`consistency`](crate::tree::consistency) from there.
    pub fn new(old: u64, proof: Vec<Hash>, checkpoint: &Checkpoint) -> Result<Self, RequestError> {
        let request = Self { old, proof, note: checkpoint.note().clone(), head: checkpoint.head().clone() };
        request.check()?;
        Ok(request)
    }

    /// Reads the body of a request strictly.
    pub fn parse(body: &[u8]) -> Result<Self, RequestError> {
        if body.len() > MAX_REQUEST {
            return Err(RequestError::TooLong);
        }
        let text = std::str::from_utf8(body).map_err(|_| RequestError::NoCheckpoint)?;
        let (line, mut rest) = text.split_once('\n').ok_or(RequestError::Old)?;
        let old = line.strip_prefix("old ").and_then(decimal).ok_or(RequestError::Old)?;
        let mut proof = Vec::new();
        loop {
            let (line, behind) = rest.split_once('\n').ok_or(RequestError::NoCheckpoint)?;
            rest = behind;
            if line.is_empty() {
                break;
            }
            if proof.len() == MAX_HASHES {
                return Err(RequestError::TooManyHashes);
            }
            proof.push(line.parse().map_err(|_| RequestError::Hash(proof.len() + 1))?);
        }
        let note = Note::parse(rest.as_bytes())?;
        let head = Head::parse(note.text())?;
        let request = Self { old, proof, note, head };
        request.check()?;
        Ok(request)
    }

    fn check(&self) -> Result<(), RequestError> {
        if self.proof.len() > MAX_HASHES {
            return Err(RequestError::TooManyHashes);
        }
        if self.old > self.head.size() { Err(RequestError::Shrunk) } else { Ok(()) }
    }

    /// The checkpoint, not yet believed: a witness that wants both signatures of a log has
    /// [`LogKeys::check`](crate::LogKeys::check) look at it before [`decide`].
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// The log that it says it is of: by it the witness finds its keys and its state.
    pub fn origin(&self) -> &str {
        self.head.origin()
    }
}

/// The body of the request.
impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "old {}", self.old)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}", self.note)
    }
}

/// What a witness remembers of a log: the largest tree that it cosigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Its leaves.
    pub size: u64,
    /// Its root.
    pub root: Hash,
}

/// Of a log that was never cosigned.
impl Default for State {
    fn default() -> Self {
        Self { size: 0, root: empty_root() }
    }
}

/// What a witness answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 200: cosignatures.
    Cosigned(Vec<Signature>),
    /// 400: the request is none.
    BadRequest(RequestError),
    /// 403: the log did not sign the checkpoint, or a signature is wrong.
    Forbidden,
    /// 404: the log is not known here.
    UnknownLog,
    /// 409: the witness's tree has another size than the request says.
    Conflict {
        /// Leaves of the witness's tree.
        size: u64,
    },
    /// 422: the checkpoint does not extend what was cosigned, or is impossible. Worth keeping: it may show a log that lies.
    Inconsistent,
}

impl Answer {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::Cosigned(_) => 200,
            Self::BadRequest(_) => 400,
            Self::Forbidden => 403,
            Self::UnknownLog => 404,
            Self::Conflict { .. } => 409,
            Self::Inconsistent => 422,
        }
    }

    /// The `Content-Type`.
    pub fn content_type(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => SIZE_TYPE,
            _ => "text/plain; charset=utf-8",
        }
    }

    /// The body.
    pub fn body(&self) -> String {
        match self {
            Self::Cosigned(signatures) => signatures.iter().map(|signature| format!("{signature}\n")).collect(),
            Self::BadRequest(error) => format!("{error}\n"),
            Self::Forbidden => "the checkpoint is not signed by a key that is trusted for its origin\n".to_owned(),
            Self::UnknownLog => "the origin is not known to this witness\n".to_owned(),
            Self::Conflict { size } => format!("{size}\n"),
            Self::Inconsistent => "the checkpoint is not consistent with what was cosigned\n".to_owned(),
        }
    }
}

const SIZE_TYPE: &str = "text/x.tlog.size";

/// A checkpoint that a witness will cosign. There is no way to the cosignature but through [`Pending::persisted`].
#[derive(Debug)]
#[must_use]
pub struct Pending {
    before: State,
    after: State,
    note: Note,
}

/// What a witness does about a request, for whose origin it trusts these keys and remembers this state. `keys` is `None` for
/// an origin that is not known. Whoever calls this holds a lock on the origin's state until it has called
/// [`Pending::persisted`]: otherwise two requests could pass each other, and the second would take back what the first
/// recorded.
pub fn decide<'k>(
    request: &Request,
    keys: Option<impl IntoIterator<Item = &'k Verifier>>,
    state: State,
) -> Result<Pending, Answer> {
    let Request { old, proof, note, head } = request;
    let verified = note.verify(keys.ok_or(Answer::UnknownLog)?).map_err(|_| Answer::Forbidden)?;
    if *old != state.size {
        return Err(Answer::Conflict { size: state.size });
    }
    let consistent = verify_consistency(*old, state.root, head.size(), head.root(), proof);
    // This also refuses a tree without leaves whose root is not that of nothing.
    if consistent.is_err() {
        return Err(Answer::Inconsistent);
    }
    // Only what is known to be right is kept: one line per key, so that strangers cannot fill up what monitors are shown.
    let mut kept: Vec<&Verified<'_>> = Vec::new();
    for one in &verified {
        if kept.iter().all(|other| other.key != one.key) {
            kept.push(one);
        }
    }
    let signatures = kept.into_iter().map(|one| one.signature.clone()).collect();
    let note = Note::new(note.text().to_owned(), signatures).map_err(|_| Answer::Forbidden)?;
    Ok(Pending { before: state, after: State { size: head.size(), root: head.root() }, note })
}

/// A cosignature could not be made after the state was persisted. The log asks again with the new size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CosignError {
    /// The key cannot sign it.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// A witness says when it cosigns.
    #[error("a witness cosigns with a cosignature key and a time that is not 0")]
    NoTime,
    /// With the cosignatures the note would be too long.
    #[error(transparent)]
    Note(#[from] NoteError),
}

/// What a witness made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cosigned {
    /// The answer to the log.
    pub answer: Answer,
    /// The checkpoint with the log's signatures that were verified and the cosignatures: what monitors are shown.
    pub note: Note,
}

impl Pending {
    /// The state that the decision was made on: what is replaced must still be this.
    pub fn before(&self) -> State {
        self.before
    }

    /// The state to persist.
    pub fn after(&self) -> State {
        self.after
    }

    /// The checkpoint with the log's signatures that were verified, to be kept beside the state.
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// Cosigns at `now_s`, seconds since 1970. To be called only when [`Self::after`] is on disk, flushed, and
    /// would be read again after a crash.
    pub fn persisted(self, signers: &[&Signer], now_s: u64) -> Result<Cosigned, CosignError> {
        if now_s == 0 || !signers.iter().all(|signer| signer.verifier().kind().is_cosignature()) {
            return Err(CosignError::NoTime);
        }
        let signed: Result<Vec<_>, _> = signers.iter().map(|signer| signer.sign(self.note.text(), now_s)).collect();
        let signed = signed?;
        let note = self.note.with(signed.iter().cloned())?;
        Ok(Cosigned { answer: Answer::Cosigned(signed), note })
    }
}

/// A witness's answer, as a log understands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Cosignatures of the witness, verified, to be added to the checkpoint.
    Cosigned(Vec<Signature>),
    /// The witness's tree has this size: ask again with a proof from there. If it is larger than the log's own tree, the
    /// log was rolled back.
    Conflict {
        /// Leaves of the witness's tree.
        size: u64,
    },
}

/// A witness's answer is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The witness refused: 400, 403, 404, 422, or anything else.
    #[error("the witness answered {status}: {text}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The beginning of what it said, without control characters.
        text: String,
    },
    /// More than [`MAX_ANSWER`] bytes.
    #[error("the witness's answer is too long")]
    TooLong,
    /// The answer is not one of signature lines, or a size.
    #[error("the witness's answer is neither signature lines nor a size")]
    Shape,
    /// It has no right cosignature of the witness, or a wrong one.
    #[error("the witness's cosignature: {0}")]
    Unverified(#[from] Unverified),
    /// The cosignature has no time.
    #[error("the witness's cosignature has no time")]
    NoTime,
}

impl Reply {
    /// Reads what the witness that has these keys answered about the checkpoint whose note has this text. Cosignatures of
    /// other keys are dropped.
    pub fn read<'k>(
        checkpoint: &str,
        witness: impl IntoIterator<Item = &'k Verifier>,
        status: u16,
        content_type: &str,
        body: &[u8],
    ) -> Result<Self, ReplyError> {
        if body.len() > MAX_ANSWER {
            return Err(ReplyError::TooLong);
        }
        let text = std::str::from_utf8(body);
        match (status, text) {
            (200, Ok(text)) => {
                let lines = parse_signatures(text).map_err(|_| ReplyError::Shape)?;
                let note = Note::new(checkpoint.to_owned(), lines).map_err(|_| ReplyError::Shape)?;
                let keys: Vec<&Verifier> = witness.into_iter().collect();
                let verified = note.verify(keys.into_iter().filter(|key| key.kind().is_cosignature()))?;
                if verified.iter().any(|one| one.time.is_none_or(|time| time == 0)) {
                    return Err(ReplyError::NoTime);
                }
                Ok(Self::Cosigned(verified.iter().map(|one| one.signature.clone()).collect()))
            }
            (409, Ok(text)) if content_type.split(';').next().is_some_and(|kind| kind.trim() == SIZE_TYPE) => {
                let size = text.strip_suffix('\n').and_then(decimal).ok_or(ReplyError::Shape)?;
                Ok(Self::Conflict { size })
            }
            (200, Err(_)) => Err(ReplyError::Shape),
            (status, _) => {
                let text = String::from_utf8_lossy(body.get(..body.len().min(200)).unwrap_or_default());
                let text = text.chars().filter(|c| !c.is_control()).collect();
                Err(ReplyError::Refused { status, text })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::LogSigner;
    use crate::hash::leaf_hash;
    use crate::key::{Kind, SEED};
    use crate::tree::{Frontier, Hashes, consistency, root};
    use proptest::prelude::*;

    const ORIGIN: &str = "log.example/audit/1";

    fn log(seed: u8) -> LogSigner {
        let of = |kind| Signer::from_seed(kind, ORIGIN, &[seed; SEED]).unwrap();
        LogSigner::new(of(Kind::Ed25519), of(Kind::MlDsa44Cosignature)).unwrap()
    }

    fn witness(kind: Kind) -> Signer {
        Signer::from_seed(kind, "witness.example/w", &[9; SEED]).unwrap()
    }

    /// A history: entries `0`, `1`, … as text, from `fork` on with a mark.
    struct History {
        fork: u64,
    }

    impl Hashes for History {
        type Error = std::convert::Infallible;

        fn hash(&self, level: u8, index: u64) -> Result<Hash, Self::Error> {
            let mut tree = Frontier::new();
            for n in index << level..(index + 1) << level {
                let mark = if n < self.fork { "" } else { "!" };
                tree.append(leaf_hash(format!("{n}{mark}").as_bytes())).unwrap();
            }
            Ok(tree.root())
        }
    }

    const HONEST: History = History { fork: u64::MAX };

    fn request(history: &History, old: u64, new: u64) -> Request {
        let checkpoint = log(1).sign(new, root(new, history).unwrap(), 5).unwrap();
        let proof = consistency(old, new, history).unwrap();
        let request = Request::new(old, proof, &checkpoint).unwrap();
        assert_eq!(Request::parse(request.to_string().as_bytes()), Ok(request.clone()));
        request
    }

    fn state(history: &History, size: u64) -> State {
        State { size, root: root(size, history).unwrap() }
    }

    fn decided(request: &Request, state: State) -> Result<State, Answer> {
        decide(request, Some(log(1).keys().verifiers()), state).map(|pending| {
            assert_eq!(pending.before(), state);
            pending.after()
        })
    }

    #[test]
    fn the_example_of_the_specification_is_read() {
        let body = "old 20852014\nPlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n\
            jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=\n5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=\n\
            /6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=\n\nexample.com/behind-the-sofa\n20852163\n\
            CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\u{2014} example.com/behind-the-sofa \
            Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n\
            \u{2014} example.com/behind-the-sofa \
            opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=\n";
        let request = Request::parse(body.as_bytes()).unwrap();
        assert_eq!((request.old, request.proof.len(), request.head.size()), (20_852_014, 4, 20_852_163));
        assert_eq!(request.origin(), "example.com/behind-the-sofa");
        assert_eq!(request.to_string(), body);
        let lines = "\u{2014} witness.example/w1 CMp+6LWBU0anHGH5aNDTJkH/gj79sG+T6+iP2ThYN5krrDJbR1HDnucjL39QsZTSvVjyQLrd\
            k3DXDqI5G2HgLatVs0pWh6Up69HVOw==\n";
        assert_eq!(parse_signatures(lines).unwrap()[0].bytes().len(), 72);
    }

    #[test]
    fn a_growing_log_is_cosigned_step_by_step() {
        let (log_keys, mut known) = (log(1), State::default());
        let signers = [Kind::Ed25519Cosignature, Kind::MlDsa44Cosignature].map(witness);
        for new in [0, 0, 1, 1, 2, 5, 8, 8, 64, 100] {
            let request = request(&HONEST, known.size, new);
            let pending = decide(&request, Some(log_keys.keys().verifiers()), known).unwrap();
            known = pending.after();
            assert_eq!(known, state(&HONEST, new));
            let cosigned = pending.persisted(&signers.each_ref(), 1_700_000_000).unwrap();
            assert_eq!((cosigned.answer.status(), cosigned.note.signatures().len()), (200, 4));
            let keys = crate::LogKeys::new(vec![log_keys.keys().clone()]).unwrap();
            let checkpoint = keys.check(request.note.clone()).unwrap();
            let verifiers = signers.each_ref().map(Signer::verifier);
            let body = cosigned.answer.body();
            let reply = Reply::read(checkpoint.note().text(), verifiers, 200, "text/plain", body.as_bytes()).unwrap();
            let Reply::Cosigned(lines) = reply else { unreachable!() };
            assert_eq!(checkpoint.with(lines).unwrap().note(), &cosigned.note);
        }
    }

    #[test]
    fn every_refusal_has_its_status() {
        let request = |old, new| request(&HONEST, old, new);
        let known = state(&HONEST, 5);
        assert_eq!(decided(&request(5, 8), known), Ok(state(&HONEST, 8)));
        assert_eq!(decided(&request(3, 8), known), Err(Answer::Conflict { size: 5 }));
        assert_eq!(decided(&request(6, 8), known), Err(Answer::Conflict { size: 5 }));
        assert_eq!(decided(&request(0, 8), known), Err(Answer::Conflict { size: 5 }));
        assert_eq!(decided(&request(0, 3), known), Err(Answer::Conflict { size: 5 }), "a rollback");
        let none: Option<[&Verifier; 2]> = None;
        assert_eq!(decide(&request(5, 8), none, known).unwrap_err(), Answer::UnknownLog);
        let stranger = log(2);
        let refused = decide(&request(5, 8), Some(stranger.keys().verifiers()), known).unwrap_err();
        assert_eq!(refused, Answer::Forbidden);
        assert_eq!(decide(&request(5, 8), Some([]), known).unwrap_err(), Answer::Forbidden);
        // A wrong signature of a known key, beside right ones.
        let mut spoiled = request(5, 8);
        let wrong = request(5, 9).note.signatures()[0].clone();
        spoiled.note = spoiled.note.with([wrong]).unwrap();
        assert_eq!(decided(&spoiled, known), Err(Answer::Forbidden));
        let answers = [
            (Answer::BadRequest(RequestError::Old), 400),
            (Answer::Forbidden, 403),
            (Answer::UnknownLog, 404),
            (Answer::Conflict { size: 5 }, 409),
            (Answer::Inconsistent, 422),
        ];
        for (answer, status) in answers {
            assert_eq!(answer.status(), status);
            assert!(answer.body().ends_with('\n'));
            assert_eq!(answer.content_type() == "text/x.tlog.size", status == 409);
        }
        assert_eq!(Answer::Conflict { size: 5 }.body(), "5\n");
    }

    #[test]
    fn a_fork_is_not_cosigned() {
        for (fork, at, new) in [(4, 5, 8), (0, 1, 2), (0, 8, 8), (7, 8, 8), (3, 64, 100), (63, 64, 65)] {
            let (forked, known) = (History { fork }, state(&HONEST, at));
            assert_eq!(decided(&request(&forked, at, new), known), Err(Answer::Inconsistent), "{fork} {at} {new}");
        }
        // A proof of the honest history does not help the forked root, nor the other way round.
        let mut mixed = request(&History { fork: 4 }, 5, 8);
        mixed.proof = request(&HONEST, 5, 8).proof;
        assert_eq!(decided(&mixed, state(&HONEST, 5)), Err(Answer::Inconsistent));
        let own = request(&HONEST, 5, 8).proof;
        for proof in [own[1..].to_vec(), [&own[..], &[empty_root()]].concat(), vec![]] {
            let other = Request { proof, ..request(&HONEST, 5, 8) };
            assert_eq!(decided(&other, state(&HONEST, 5)), Err(Answer::Inconsistent));
        }
        // From nothing there is nothing to prove, and a proof of it is refused.
        let mut first = request(&HONEST, 0, 8);
        first.proof.push(empty_root());
        assert_eq!(decided(&first, State::default()), Err(Answer::Inconsistent));
    }

    #[test]
    fn an_empty_tree_has_its_root() {
        let text = format!("{ORIGIN}\n0\n{}\n", Hash([7; 32]));
        let of = |kind| Signer::from_seed(kind, ORIGIN, &[1; SEED]).unwrap();
        let note = Note::new(text.clone(), vec![of(Kind::Ed25519).sign(&text, 5).unwrap()]).unwrap();
        let request = Request::parse(format!("old 0\n\n{note}").as_bytes()).unwrap();
        assert_eq!(decided(&request, State::default()), Err(Answer::Inconsistent));
    }

    #[test]
    fn only_the_one_spelling_is_a_request() {
        let good = request(&HONEST, 5, 8).to_string();
        let swap = |from: &str, to: &str| {
            assert!(good.contains(from), "{from:?}");
            good.replacen(from, to, 1)
        };
        let hash = good.lines().nth(1).unwrap();
        for (bad, error) in [
            (String::new(), RequestError::Old),
            (swap("old 5\n", ""), RequestError::Old),
            (swap("old 5", "old 05"), RequestError::Old),
            (swap("old 5", "old  5"), RequestError::Old),
            (swap("old 5", "old"), RequestError::Old),
            (swap("old 5", "old 5 "), RequestError::Old),
            (swap("old 5\n", "old 5\r\n"), RequestError::Old),
            (swap("old 5", "old 9223372036854775808"), RequestError::Old),
            (swap("old 5", "old 9"), RequestError::Shrunk),
            (swap(hash, &hash[1..]), RequestError::Hash(1)),
            (swap("\n\n", "\n"), RequestError::Hash(5)),
            (swap(hash, format!("{hash}\n").repeat(64).trim_end()), RequestError::TooManyHashes),
            (good.split_once("\n\n").unwrap().0.to_owned() + "\n", RequestError::NoCheckpoint),
            (good.trim_end().to_owned(), RequestError::Note(NoteError::Shape)),
            (swap("\n8\n", "\n08\n"), RequestError::Head(crate::checkpoint::HeadError::Size)),
            ("x".repeat(MAX_REQUEST + 1), RequestError::TooLong),
        ] {
            assert_eq!(Request::parse(bad.as_bytes()), Err(error), "{bad:.100?}");
        }
        let many = swap(hash, format!("{hash}\n").repeat(63 - 3).trim_end());
        assert_eq!(Request::parse(many.as_bytes()).unwrap().proof.len(), 63);
        let checkpoint = log(1).sign(1, Hash([7; 32]), 5).unwrap();
        assert_eq!(Request::new(1, vec![empty_root(); 64], &checkpoint), Err(RequestError::TooManyHashes));
        assert_eq!(Request::new(2, vec![], &checkpoint), Err(RequestError::Shrunk));
    }

    #[test]
    fn what_strangers_signed_is_not_kept() {
        let stranger = |n: u64| Signature::new("x", crate::note::KeyId([1; 4]), vec![0; 9 + usize::from(n > 9)]);
        let mut request = request(&HONEST, 0, 8);
        let of = Signer::from_seed(Kind::MlDsa44Cosignature, ORIGIN, &[1; SEED]).unwrap();
        let again = (0..50).map(|time| of.sign(request.note.text(), time).unwrap());
        request.note = request.note.clone().with((0..12).map(stranger).chain(again)).unwrap();
        let log = log(1);
        let pending = decide(&request, Some(log.keys().verifiers()), State::default()).unwrap();
        assert_eq!(pending.note().signatures().len(), 2, "one of each key of the log");
    }

    #[test]
    fn a_witness_cosigns_with_a_time() {
        let log = log(1);
        let request = request(&HONEST, 0, 8);
        let pending = || decide(&request, Some(log.keys().verifiers()), State::default()).unwrap();
        let (good, bad) = (witness(Kind::Ed25519Cosignature), witness(Kind::Ed25519));
        assert_eq!(pending().persisted(&[&good], 0), Err(CosignError::NoTime));
        assert_eq!(pending().persisted(&[&good, &bad], 7), Err(CosignError::NoTime));
        assert!(pending().persisted(&[&good], 7).is_ok());
    }

    #[test]
    fn answers_that_are_of_no_use_to_a_log() {
        let checkpoint = log(1).sign(8, root(8, &HONEST).unwrap(), 5).unwrap();
        let other = log(1).sign(9, root(9, &HONEST).unwrap(), 5).unwrap();
        let (own, stranger) =
            (witness(Kind::MlDsa44Cosignature), Signer::generate(Kind::Ed25519Cosignature, "x").unwrap());
        let line =
            |signer: &Signer, of: &Checkpoint, time| format!("{}\n", signer.sign(of.note().text(), time).unwrap());
        let read = |status, kind, body: &str| {
            Reply::read(checkpoint.note().text(), [own.verifier()], status, kind, body.as_bytes())
        };
        let good = line(&own, &checkpoint, 7);
        let mixed = line(&stranger, &checkpoint, 7) + &good;
        let Ok(Reply::Cosigned(lines)) = read(200, "", &mixed) else { unreachable!() };
        assert_eq!((lines.len(), lines[0].id()), (1, own.verifier().id()));
        assert_eq!(read(409, "text/x.tlog.size", "12\n"), Ok(Reply::Conflict { size: 12 }));
        assert_eq!(read(409, "text/x.tlog.size; charset=utf-8", "0\n"), Ok(Reply::Conflict { size: 0 }));
        assert_eq!(read(200, "", &line(&stranger, &checkpoint, 7)), Err(ReplyError::Unverified(Unverified::Unknown)));
        let wrong = read(200, "", &(good.clone() + &line(&own, &other, 7)));
        assert!(matches!(wrong, Err(ReplyError::Unverified(Unverified::Wrong { .. }))));
        assert_eq!(read(200, "", &line(&own, &checkpoint, 0)), Err(ReplyError::NoTime));
        for shapeless in ["", "\n", "ok\n", good.trim_end()] {
            assert_eq!(read(200, "", shapeless), Err(ReplyError::Shape), "{shapeless:?}");
        }
        for shapeless in ["", "12", "012\n", "12\n\n", "-1\n", "9223372036854775808\n"] {
            assert_eq!(read(409, "text/x.tlog.size", shapeless), Err(ReplyError::Shape), "{shapeless:?}");
        }
        assert!(matches!(read(409, "text/plain", "12\n"), Err(ReplyError::Refused { status: 409, .. })));
        let said = read(422, "", &format!("no\x1b[31m{}", "x".repeat(999))).unwrap_err();
        assert!(
            matches!(said, ReplyError::Refused { status: 422, text } if text.starts_with("no[31mx") && text.len() < 201)
        );
        assert_eq!(read(200, "", &"x".repeat(MAX_ANSWER + 1)), Err(ReplyError::TooLong));
    }

    proptest! {
        #[test]
        fn a_witness_never_cosigns_two_histories(
            steps in prop::collection::vec((0_u64..20, 0_u64..20, 0_u64..20), 1..12),
        ) {
            // A log that tells many histories: whatever was cosigned is one line of growth.
            let (log, mut known, mut cosigned) = (log(1), State::default(), Vec::new());
            for (fork, old, new) in steps {
                let history = History { fork };
                let old = old.min(new);
                for old in [old, known.size.min(new)] {
                    if let Ok(pending) = decide(&request(&history, old, new), Some(log.keys().verifiers()), known) {
                        prop_assert!(pending.after().size >= known.size);
                        known = pending.after();
                        cosigned.push((history.fork, known));
                    }
                }
            }
            for (_, earlier) in &cosigned {
                let (fork, last) = cosigned.last().unwrap();
                prop_assert_eq!(root(earlier.size, &History { fork: *fork }).unwrap(), earlier.root, "{:?}", last);
            }
        }
    }
}
