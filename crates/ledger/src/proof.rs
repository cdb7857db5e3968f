//! Proofs of inclusion that are verified offline, as C2SP tlog-proof has them: an index, hashes, and the checkpoint that they
//! lead to, in one text file.

use crate::checkpoint::{Checkpoint, CheckpointError, Head, HeadError, LogKeys, decimal};
use crate::hash::{Hash, leaf_hash};
use crate::note::{MAX_NOTE, Note, NoteError};
use crate::policy::{Accepted, Policy, PolicyRefusal};
use crate::tree::{ProofError, verify_inclusion};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

/// Hashes of the longest proof of inclusion.
pub const MAX_HASHES: usize = 63;
/// Bytes of the longest extra data.
pub const MAX_EXTRA: usize = 1 << 16;

/// Bytes of the longest proof that can be read; a bound for whoever fetches one.
pub const MAX_PROOF: usize = MAX_NOTE + MAX_EXTRA * 2 + MAX_HASHES * (Hash::TEXT + 1) + 64;

const FIRST: &str = "c2sp.org/tlog-proof@v1";

/// A text is no proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofFormatError {
    /// More than [`MAX_PROOF`] bytes.
    #[error("the proof is too long")]
    TooLong,
    /// The first line is another one.
    #[error("not a proof: the first line is not c2sp.org/tlog-proof@v1")]
    First,
    /// There is no index, or it is none.
    #[error("the proof has no index that is a decimal number without leading zeroes")]
    Index,
    /// The extra data is empty, too long, or not canonical base64.
    #[error("the extra data is empty, too long, or not canonical base64")]
    Extra,
    /// A line between index and checkpoint is no hash, or there are more than 63.
    #[error("the proof has a line that is not a hash, or too many")]
    Hash,
    /// There is no empty line with a checkpoint behind it, or the bytes are not UTF-8.
    #[error("the proof has no checkpoint")]
    NoCheckpoint,
    /// The checkpoint is no note.
    #[error("the proof's checkpoint: {0}")]
    Note(#[from] NoteError),
    /// The checkpoint's note does not say what a checkpoint says.
    #[error("the proof's checkpoint: {0}")]
    Head(#[from] HeadError),
}

/// A proof that an entry is in a log. Nothing of it is to be believed before it is verified; the extra data not even then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    extra: Vec<u8>,
    index: u64,
    hashes: Vec<Hash>,
    note: Note,
}

/// A proof does not prove.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofRefusal {
    /// The checkpoint is not to be believed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The policy does not accept the checkpoint.
    #[error(transparent)]
    Policy(#[from] PolicyRefusal),
    /// The entry is not at this place of the tree.
    #[error(transparent)]
    Inclusion(#[from] ProofError),
}

impl Proof {
    /// A proof for entry `index` with the hashes of [`inclusion`](crate::tree::inclusion) in the checkpoint's tree.
    pub fn new(index: u64, hashes: Vec<Hash>, checkpoint: &Checkpoint) -> Self {
        Self { extra: Vec::new(), index, hashes, note: checkpoint.note().clone() }
    }

    /// The same with extra data of at most [`MAX_EXTRA`] bytes, which nothing authenticates. None, if empty.
    pub fn with_extra(self, extra: Vec<u8>) -> Result<Self, ProofFormatError> {
        if extra.len() > MAX_EXTRA {
            return Err(ProofFormatError::Extra);
        }
        Ok(Self { extra, ..self })
    }

    /// Reads a proof strictly.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProofFormatError> {
        if bytes.len() > MAX_PROOF {
            return Err(ProofFormatError::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| ProofFormatError::NoCheckpoint)?;
        let (line, mut rest) = text.split_once('\n').ok_or(ProofFormatError::First)?;
        if line != FIRST {
            return Err(ProofFormatError::First);
        }
        let extra = match rest.strip_prefix("extra ").and_then(|rest| rest.split_once('\n')) {
            Some((coded, behind)) => {
                rest = behind;
                read_extra(coded).ok_or(ProofFormatError::Extra)?
            }
            None => Vec::new(),
        };
        let (line, mut rest) = rest.split_once('\n').ok_or(ProofFormatError::Index)?;
        let index = line.strip_prefix("index ").and_then(decimal).ok_or(ProofFormatError::Index)?;
        let mut hashes = Vec::new();
        loop {
            let (line, behind) = rest.split_once('\n').ok_or(ProofFormatError::NoCheckpoint)?;
            rest = behind;
            if line.is_empty() {
                break;
            }
            if hashes.len() == MAX_HASHES {
                return Err(ProofFormatError::Hash);
            }
            hashes.push(line.parse().map_err(|_| ProofFormatError::Hash)?);
        }
        let note = Note::parse(rest.as_bytes())?;
        Head::parse(note.text())?;
        Ok(Self { extra, index, hashes, note })
    }

    /// The place of the entry, from 0.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The hashes from the leaf's sibling to the root's child.
    pub fn hashes(&self) -> &[Hash] {
        &self.hashes
    }

    /// Data beside the proof, or nothing. Not authenticated.
    pub fn extra(&self) -> &[u8] {
        &self.extra
    }

    /// The checkpoint, not yet believed.
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// Whether this proves that `entry` is in the log that has these keys, at [`Self::index`].
    pub fn verify(&self, entry: &[u8], keys: &LogKeys) -> Result<Checkpoint, ProofRefusal> {
        let checkpoint = keys.check(self.note.clone())?;
        self.included(entry, checkpoint.head())?;
        Ok(checkpoint)
    }

    /// Whether this proves that `entry` is in a log that a policy accepts, cosigned as the policy wants it.
    pub fn verify_under<'a>(&'a self, entry: &[u8], policy: &'a Policy) -> Result<Accepted<'a>, ProofRefusal> {
        let accepted = policy.accept(&self.note)?;
        self.included(entry, &accepted.head)?;
        Ok(accepted)
    }

    fn included(&self, entry: &[u8], head: &Head) -> Result<(), ProofError> {
        verify_inclusion(leaf_hash(entry), self.index, head.size(), &self.hashes, head.root())
    }
}

/// Extra data that is there is not empty, as one spelling of nothing is enough.
fn read_extra(coded: &str) -> Option<Vec<u8>> {
    let extra = STANDARD.decode(coded).ok()?;
    (1..=MAX_EXTRA).contains(&extra.len()).then_some(extra)
}

/// The proof's file.
impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST}")?;
        if !self.extra.is_empty() {
            writeln!(f, "extra {}", STANDARD.encode(&self.extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        self.hashes.iter().try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}", self.note)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::LogSigner;
    use crate::key::{Kind, SEED, Signer};
    use crate::tree::{Frontier, Hashes, inclusion};
    use proptest::prelude::*;

    const ORIGIN: &str = "log.example/audit/1";

    fn signer(seed: u8) -> LogSigner {
        let of = |kind| Signer::from_seed(kind, ORIGIN, &[seed; SEED]).unwrap();
        LogSigner::new(of(Kind::Ed25519), of(Kind::MlDsa44Cosignature)).unwrap()
    }

    fn keys() -> LogKeys {
        LogKeys::new(vec![signer(1).keys().clone()]).unwrap()
    }

    /// The tree over entries `0`, `1`, … as text.
    struct Numbers;

    impl Hashes for Numbers {
        type Error = std::convert::Infallible;

        fn hash(&self, level: u8, index: u64) -> Result<Hash, Self::Error> {
            let mut tree = Frontier::new();
            (index << level..(index + 1) << level).for_each(|n| tree.append(leaf_hash(&entry(n))).unwrap());
            Ok(tree.root())
        }
    }

    fn entry(index: u64) -> Vec<u8> {
        index.to_string().into_bytes()
    }

    fn proof(index: u64, size: u64) -> Proof {
        let root = crate::tree::root(size, &Numbers).unwrap();
        let checkpoint = signer(1).sign(size, root, 1_700_000_000).unwrap();
        Proof::new(index, inclusion(index, size, &Numbers).unwrap(), &checkpoint)
    }

    #[test]
    fn a_proof_proves_its_entry_and_no_other() {
        for (index, size) in [(0, 1), (0, 2), (1, 2), (6, 7), (3, 7), (99, 100), (64, 100)] {
            let proof = Proof::parse(proof(index, size).to_string().as_bytes()).unwrap();
            assert_eq!(proof.verify(&entry(index), &keys()).unwrap().size(), size);
            let refused = proof.verify(&entry(index + 1), &keys()).unwrap_err();
            assert_eq!(refused, ProofRefusal::Inclusion(ProofError::Root));
        }
        let proof = proof(3, 7);
        let stranger = LogKeys::new(vec![signer(2).keys().clone()]).unwrap();
        assert!(matches!(proof.verify(&entry(3), &stranger), Err(ProofRefusal::Checkpoint(_))));
        // A node of the tree is no leaf: a proof cannot be shortened to prove what nobody logged.
        let (left, right) = (Numbers.hash(0, 2).unwrap(), Numbers.hash(0, 3).unwrap());
        let node = [left.0, right.0].concat();
        let shorter = Proof { index: 1, hashes: proof.hashes()[1..].to_vec(), ..proof.clone() };
        assert!(shorter.verify(&node, &keys()).is_err());
        assert!(shorter.verify(&[&[1], &node[..]].concat(), &keys()).is_err());
    }

    #[test]
    fn extra_data_goes_with_the_proof() {
        let proof = proof(3, 7).with_extra(b"who asked".to_vec()).unwrap();
        let text = proof.to_string();
        assert!(text.starts_with("c2sp.org/tlog-proof@v1\nextra d2hvIGFza2Vk\nindex 3\n"));
        let read = Proof::parse(text.as_bytes()).unwrap();
        assert_eq!((read.extra(), &read), (&b"who asked"[..], &proof));
        assert!(read.verify(&entry(3), &keys()).is_ok());
        assert!(
            proof.clone().with_extra(vec![1; MAX_EXTRA]).is_ok_and(|p| Proof::parse(p.to_string().as_bytes()) == Ok(p))
        );
        assert_eq!(proof.with_extra(vec![1; MAX_EXTRA + 1]), Err(ProofFormatError::Extra));
    }

    #[test]
    fn only_the_one_spelling_is_a_proof() {
        let good = proof(3, 7).to_string();
        let hash = good.lines().nth(2).unwrap().to_owned();
        let swap = |from: &str, to: &str| {
            assert!(good.contains(from), "{from:?}");
            good.replacen(from, to, 1)
        };
        for (bad, error) in [
            (String::new(), ProofFormatError::First),
            (swap("@v1", "@v2"), ProofFormatError::First),
            (swap("@v1\n", "@v1\r\n"), ProofFormatError::First),
            (swap("index 3\n", ""), ProofFormatError::Index),
            (swap("index 3", "index 03"), ProofFormatError::Index),
            (swap("index 3", "index  3"), ProofFormatError::Index),
            (swap("index 3", "index 9223372036854775808"), ProofFormatError::Index),
            (swap("index 3", "index -3"), ProofFormatError::Index),
            (swap("index 3", "extra \nindex 3"), ProofFormatError::Extra),
            (swap("index 3", "extra YQ\nindex 3"), ProofFormatError::Extra),
            (swap("index 3", "extra YR==\nindex 3"), ProofFormatError::Extra),
            (swap("index 3", "extra YQ==\nextra YQ==\nindex 3"), ProofFormatError::Index),
            (swap(&hash, &hash[1..]), ProofFormatError::Hash),
            (swap(&hash, "extra YQ=="), ProofFormatError::Hash),
            (swap(&hash, &format!("{hash}\n").repeat(64)), ProofFormatError::Hash),
            (swap("\n\n", "\n"), ProofFormatError::Hash),
            (swap("index 3", "index 3\n"), ProofFormatError::Head(HeadError::Shape)),
            (swap("\nlog.example", "\n\nlog.example"), ProofFormatError::Head(HeadError::Shape)),
            (good.split_once("\n\n").unwrap().0.to_owned() + "\n", ProofFormatError::NoCheckpoint),
            (good.trim_end().to_owned(), ProofFormatError::Note(NoteError::Shape)),
            ("x".repeat(MAX_PROOF + 1), ProofFormatError::TooLong),
        ] {
            assert_eq!(Proof::parse(bad.as_bytes()), Err(error), "{bad:.120?}");
        }
        assert_eq!(Proof::parse(good.as_bytes()).unwrap().to_string(), good);
    }

    #[test]
    fn each_changed_bit_of_a_proof_is_seen() {
        let good = proof(3, 7).to_string().into_bytes();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 7);
            let proved = Proof::parse(&bad).is_ok_and(|proof| proof.verify(&entry(3), &keys()).is_ok());
            assert!(!proved, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn proofs_go_to_text_and_back(
            index in 0_u64..1 << 62,
            hashes in prop::collection::vec(any::<[u8; 32]>(), 0..=63),
            extra: Vec<u8>,
        ) {
            let hashes: Vec<Hash> = hashes.into_iter().map(Hash).collect();
            let proof = Proof { index, hashes, ..proof(0, 1) }.with_extra(extra).unwrap();
            prop_assert_eq!(Proof::parse(proof.to_string().as_bytes()), Ok(proof));
        }
    }
}
