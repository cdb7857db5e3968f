//! What must hold for any bytes: the bodies of the fuzz targets, which the ordinary tests run over the committed corpus.
//! Each takes what a stranger could send and panics when an invariant breaks.
//!
//! The corpus has notes that were signed with the keys below. Nobody makes others from them: so whatever verifies must say
//! what was signed, which is checked too.

use crate::checkpoint::{Head, KeyPair, LogKeys};
use crate::disk::DiskFile;
use crate::hash::{Hash, leaf_hash};
use crate::index::Index;
use crate::key::{Kind, SEED, Signer, Verifier};
use crate::note::{MAX_NOTE, MAX_SIGNATURES, Note, Signature, Unverified};
use crate::policy::{Policy, PolicyRefusal};
use crate::proof::{Proof, ProofRefusal};
use crate::segment::{self, CHUNK, Frames, HEADER, Header, Seal, Step};
use crate::tree::Frontier;
use crate::witness::{self, Reply, Request, State};
use std::io;
use std::sync::LazyLock;

/// The log of the corpus.
pub const ORIGIN: &str = "log.example/audit/1";
/// Sizes at which it signed.
pub const SIZES: [u64; 6] = [0, 1, 3, 7, 8, 100];
/// It also signed another history, which differs from this entry on.
pub const FORK: u64 = 2;

/// The key of a seed that consists of one byte. Such a key protects nothing.
fn key(kind: Kind, name: &str, seed: u8) -> Option<Signer> {
    Signer::from_seed(kind, name, &[seed; SEED]).ok()
}

/// Entry `index` of a history that differs from `fork` on.
pub fn entry(index: u64, fork: u64) -> Vec<u8> {
    format!("{index}{}", if index < fork { "" } else { "!" }).into_bytes()
}

/// The root of such a history.
pub fn root(size: u64, fork: u64) -> Hash {
    let mut tree = Frontier::new();
    (0..size).for_each(|index| assert!(tree.append(leaf_hash(&entry(index, fork))).is_ok()));
    tree.root()
}

struct Known {
    log: LogKeys,
    witness: Signer,
    /// What the log signed: text, and whether it is of the first history.
    signed: Vec<(String, bool)>,
    policy: Policy,
}

static KNOWN: LazyLock<Option<Known>> = LazyLock::new(known);

fn known() -> Option<Known> {
    let (ed25519, ml_dsa) = (key(Kind::Ed25519, ORIGIN, 1)?, key(Kind::MlDsa44Cosignature, ORIGIN, 1)?);
    let witness = key(Kind::Ed25519Cosignature, "witness.example/w", 9)?;
    let policy = format!(
        "log {}\nlog {}\nwitness w {}\nquorum none\n",
        ed25519.verifier(),
        ml_dsa.verifier(),
        witness.verifier()
    );
    let signed = SIZES.iter().flat_map(|size| [(*size, u64::MAX), (*size, FORK)]).map(|(size, fork)| {
        let head = Head::new(ORIGIN, size, root(size, fork)).map(|head| head.to_string());
        head.ok().map(|text| (text, fork == u64::MAX))
    });
    let pair = KeyPair::new(ed25519.verifier().clone(), ml_dsa.verifier().clone()).ok()?;
    Some(Known {
        log: LogKeys::new(vec![pair]).ok()?,
        witness,
        signed: signed.collect::<Option<_>>()?,
        policy: Policy::parse(policy.as_bytes()).ok()?,
    })
}

fn with_known(check: impl FnOnce(&Known)) {
    match KNOWN.as_ref() {
        Some(known) => check(known),
        None => unreachable!("the keys of the corpus are keys"),
    }
}

impl Known {
    fn was_signed(&self, text: &str) -> bool {
        self.signed.iter().any(|(signed, _)| signed == text)
    }

    /// What both keys of the log signed is enough for a policy that knows them, unless the witness's line is wrong, of which
    /// the log's keys know nothing.
    fn check_policy(&self, accepted: Result<(), PolicyRefusal>) {
        match accepted {
            Ok(()) => {}
            Err(PolicyRefusal::Unverified(Unverified::Wrong { id, .. })) => {
                assert_eq!(id, self.witness.verifier().id());
            }
            Err(other) => unreachable!("{other}"),
        }
    }

    fn is_honest(&self, text: &str) -> bool {
        self.signed.iter().any(|(signed, honest)| *honest && signed == text)
    }
}

/// A signed note: one spelling, its limits, and no signature that was not made.
pub fn note(data: &[u8]) {
    let Ok(note) = Note::parse(data) else { return };
    assert_eq!(note.to_string().as_bytes(), data, "there and back");
    assert!(data.len() <= MAX_NOTE && note.text().ends_with('\n'));
    assert!((1..=MAX_SIGNATURES).contains(&note.signatures().len()));
    for signature in note.signatures() {
        assert_eq!(Signature::parse(&signature.to_string()).as_ref(), Some(signature));
    }
    let again = Note::new(note.text().to_owned(), note.signatures().to_vec());
    assert_eq!(again.as_ref(), Ok(&note));
    with_known(|known| {
        let keys = known.log.verifiers().chain([known.witness.verifier()]);
        let Ok(verified) = note.verify(keys) else { return };
        assert!(known.was_signed(note.text()), "{note}");
        assert!(
            verified.iter().all(|one| one.key.id() == one.signature.id() && one.key.name() == one.signature.name())
        );
    });
}

/// A checkpoint: only what was signed twice is believed.
pub fn checkpoint(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(head) = Head::parse(text)
    {
        assert_eq!(head.to_string(), text, "there and back");
    }
    with_known(|known| {
        let Ok(checkpoint) = known.log.open(data) else { return };
        assert_eq!(checkpoint.to_string().as_bytes(), data);
        assert!(known.was_signed(checkpoint.note().text()));
        assert!(checkpoint.head().extensions().is_empty() && checkpoint.origin() == ORIGIN);
        assert!(checkpoint.note().signatures().len() >= 2);
        known.check_policy(known.policy.accept(checkpoint.note()).map(drop));
    });
}

/// A proof: what is proved is an entry that was signed for, at its place.
pub fn proof(data: &[u8]) {
    let Ok(proof) = Proof::parse(data) else { return };
    assert_eq!(proof.to_string().as_bytes(), data, "there and back");
    with_known(|known| {
        for fork in [FORK, u64::MAX] {
            let Ok(checkpoint) = proof.verify(&entry(proof.index(), fork), &known.log) else { continue };
            assert!(known.was_signed(checkpoint.note().text()) && proof.index() < checkpoint.size());
            assert!(proof.verify(&entry(proof.index() + 1, fork), &known.log).is_err());
            known.check_policy(match proof.verify_under(&entry(proof.index(), fork), &known.policy) {
                Err(ProofRefusal::Policy(refusal)) => Err(refusal),
                other => other.map(drop).map_err(|error| unreachable!("{error}")),
            });
        }
        assert!(proof.verify(b"never logged", &known.log).is_err());
    });
}

/// A request to a witness that knows the log at three sizes, and the same bytes as a witness's answer.
pub fn witness_request(data: &[u8]) {
    with_known(|known| {
        check_reply(known, data);
        let Ok(request) = Request::parse(data) else { return };
        assert_eq!(request.to_string().as_bytes(), data, "there and back");
        for size in [0, 3, 7] {
            let state = State { size, root: root(size, u64::MAX) };
            match witness::decide(&request, Some(known.log.verifiers()), state) {
                Ok(pending) => check_pending(known, pending, state),
                Err(answer) => assert!(matches!(answer.status(), 403 | 409 | 422) && answer.body().ends_with('\n')),
            }
        }
        let none: Option<[&Verifier; 0]> = None;
        let unknown = witness::decide(&request, none, State::default());
        assert_eq!(unknown.map(|pending| pending.after()).map_err(|answer| answer.status()), Err(404));
    });
}

fn check_pending(known: &Known, pending: witness::Pending, state: State) {
    let (text, after) = (pending.note().text().to_owned(), pending.after());
    assert!(pending.before() == state && after.size >= state.size);
    assert!(known.was_signed(&text), "{text}");
    // A fork is only possible for who knows nothing yet.
    assert!(state.size == 0 || known.is_honest(&text), "{text}");
    assert!(pending.note().signatures().len() <= 2);
    let cosigned = pending.persisted(&[&known.witness], 7);
    assert!(cosigned.is_ok_and(|cosigned| cosigned.answer.status() == 200 && cosigned.note.text() == text));
}

fn check_reply(known: &Known, data: &[u8]) {
    // The first thing that was signed is the one that the witness of the corpus cosigned.
    let Some((text, _)) = known.signed.first() else { return };
    let witness = [known.witness.verifier()];
    if let Ok(Reply::Conflict { size }) = Reply::read(text, witness, 409, "text/x.tlog.size", data) {
        assert_eq!(format!("{size}\n").as_bytes(), data);
    }
    match Reply::read(text, witness, 200, "text/plain", data) {
        Ok(Reply::Cosigned(lines)) => assert!(lines.iter().all(|line| line.id() == known.witness.verifier().id())),
        Ok(Reply::Conflict { .. }) => unreachable!("a 200 is no conflict"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let (other, _) = known.signed.last().cloned().unwrap_or_default();
    assert!(Reply::read(&other, witness, 200, "text/plain", data).is_err(), "nothing else was cosigned");
}

/// A policy: more cosignatures never make less of it, all are enough, and none only where none is asked for.
pub fn policy(data: &[u8]) {
    let Ok(policy) = Policy::parse(data) else { return };
    assert!(policy.satisfied(|_| true));
    assert_eq!(policy.satisfied(|_| false), !policy.needs_witnesses());
    let mut before = false;
    // One witness more at a time.
    for cosigned in 0..=policy.witnesses().len() {
        let first = policy.witnesses().get(..cosigned).unwrap_or_default();
        let now = policy.satisfied(|witness| first.contains(witness));
        assert!(now || !before);
        before = now;
    }
    let keys = policy.logs().iter().map(|log| &log.key).chain(policy.witnesses().iter().map(|witness| &witness.key));
    for key in keys {
        assert_eq!(key.to_string().parse().as_ref(), Ok(key));
    }
}

/// The salt of the segment whose frames the corpus has.
const SALT: [u8; 16] = *b"salt of segments";

#[derive(Debug)]
struct Held<'a>(&'a [u8]);

impl DiskFile for Held<'_> {
    fn read_at(&self, space: &mut [u8], offset: u64) -> io::Result<usize> {
        let there = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or_default();
        Ok(space.iter_mut().zip(there).map(|(to, from)| *to = *from).count())
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
}

/// What recovery reads: a segment's frames, its header, its offsets. Gives the entries that are accepted, and whether what
/// follows them is nothing but unused space.
pub fn segment(data: &[u8]) -> (Vec<Vec<u8>>, bool) {
    if let Some(header) = Header::decode(data) {
        assert_eq!(Some(header.encode().as_slice()), data.get(..HEADER));
    }
    let _ = Index::decode(data, 0, data.len() as u64, SALT);
    let seal = Header::new(ORIGIN, SALT, Frontier::new()).seal();
    let (entries, end, again) = frames(data, seal, CHUNK);
    assert_eq!(frames(data, seal, 1), (entries.clone(), end, again.clone()), "however little is read at once");
    assert_eq!(Some(again.as_slice()), data.get(..end), "what is accepted is what would be written");
    let Ok(tail) = segment::tail(&Held(data), seal, end as u64) else { return (entries, false) };
    let behind = data.get(end..).unwrap_or_default();
    assert_eq!(tail.clean, behind.iter().all(|byte| *byte == 0));
    assert_eq!(tail.mark, seal.last_mark(behind));
    (entries, tail.clean)
}

/// The entries of a walk, where it ends, and all its frames written anew.
fn frames(data: &[u8], seal: Seal, chunk: usize) -> (Vec<Vec<u8>>, usize, Vec<u8>) {
    let file = Held(data);
    let mut walk = Frames::new(&file, seal, 0, 0, chunk);
    let (mut entries, mut again) = (Vec::new(), Vec::new());
    while let Ok(step) = walk.next() {
        match step {
            Step::Entry { index, offset, entry } => {
                assert_eq!((index, offset), (entries.len() as u64, again.len() as u64));
                seal.push_entry(&mut again, index, entry);
                entries.push(entry.to_vec());
            }
            Step::Mark(mark) => seal.push_mark(&mut again, mark),
            Step::End => break,
        }
    }
    assert_eq!(walk.index(), entries.len() as u64);
    (entries, usize::try_from(walk.offset()).unwrap_or(usize::MAX), again)
}
