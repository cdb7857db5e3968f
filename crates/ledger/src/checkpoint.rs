//! Checkpoints, as C2SP tlog-checkpoint has them: what a log says about its tree, and both signatures that make it worth
//! something. A log of ours signs with Ed25519, which everybody verifies, and with ML-DSA-44, which outlives quantum
//! computers. Both must be right, so that a flaw in either is survived.

use crate::hash::{Hash, empty_root};
use crate::key::{Kind, SignError, Signer, Verifier};
use crate::note::{Note, NoteError, Signature, Unverified};
use crate::tree::MAX_SIZE;
use std::fmt;
use std::ops::RangeInclusive;

/// What a checkpoint says: which log, how many entries, which root. The text of its note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    origin: String,
    size: u64,
    root: Hash,
    extensions: Vec<String>,
}

/// A text does not say what a checkpoint says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// There are not three lines, or one is empty or has a control character, or the last does not end.
    #[error("not a checkpoint: expected at least three lines, none of them empty")]
    Shape,
    /// The second line is no size.
    #[error("the tree size is not a decimal number below 2^63 without leading zeroes")]
    Size,
    /// The third line is no hash.
    #[error("the root is not the canonical base64 of 32 bytes")]
    Root,
}

impl Head {
    /// What a log of ours says: no extension lines, as nobody can audit them.
    pub fn new(origin: &str, size: u64, root: Hash) -> Result<Self, HeadError> {
        if !is_line(origin) {
            return Err(HeadError::Shape);
        }
        if size > MAX_SIZE {
            return Err(HeadError::Size);
        }
        Ok(Self { origin: origin.to_owned(), size, root, extensions: Vec::new() })
    }

    /// Reads the text of a note strictly.
    pub fn parse(text: &str) -> Result<Self, HeadError> {
        let mut lines = text.strip_suffix('\n').ok_or(HeadError::Shape)?.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(HeadError::Shape);
        };
        let extensions: Vec<String> = lines.map(str::to_owned).collect();
        if !is_line(origin) || !extensions.iter().all(|line| is_line(line)) {
            return Err(HeadError::Shape);
        }
        let size = decimal(size).ok_or(HeadError::Size)?;
        let root = root.parse().map_err(|_| HeadError::Root)?;
        Ok(Self { origin: origin.to_owned(), size, root, extensions })
    }

    /// Which log.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// How many entries.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root of the tree.
    pub fn root(&self) -> Hash {
        self.root
    }

    /// Lines that other logs may add. An ML-DSA-44 signature does not cover them.
    pub fn extensions(&self) -> &[String] {
        &self.extensions
    }

    /// Whether the root can be that of its size: the empty tree has only one.
    pub fn is_possible(&self) -> bool {
        self.size > 0 || self.root == empty_root()
    }
}

/// The text of the note, with its last line end.
impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, self.root)?;
        self.extensions.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

fn is_line(text: &str) -> bool {
    !text.is_empty() && !text.bytes().any(|byte| byte < b' ')
}

/// A size or index in its one spelling: ASCII digits, no leading zeroes, at most 2^63 − 1.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|number| plain && *number <= MAX_SIZE)
}

/// A checkpoint whose signatures were verified, or were made here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    head: Head,
    note: Note,
    time: u64,
}

impl Checkpoint {
    /// What it says.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Which log.
    pub fn origin(&self) -> &str {
        &self.head.origin
    }

    /// How many entries.
    pub fn size(&self) -> u64 {
        self.head.size
    }

    /// The root of the tree.
    pub fn root(&self) -> Hash {
        self.head.root
    }

    /// When the log signed it, seconds since 1970, as the log says in its ML-DSA-44 signature.
    pub fn time(&self) -> u64 {
        self.time
    }

    /// The note with all its signatures. Only the log's own were verified.
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// The same checkpoint with cosignatures, which the caller has verified.
    pub fn with(self, cosignatures: impl IntoIterator<Item = Signature>) -> Result<Self, NoteError> {
        Ok(Self { note: self.note.with(cosignatures)?, ..self })
    }
}

/// The note, byte for byte.
impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.note, f)
    }
}

/// Two keys do not make the keys of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogKeysError {
    /// A log signs with an Ed25519 note key and an ML-DSA-44 cosignature key.
    #[error("a log's keys are one Ed25519 key and one ML-DSA-44 cosignature key")]
    Kinds,
    /// All keys of a log bear its origin as their name.
    #[error("the keys of a log have different names")]
    Names,
    /// There is no key.
    #[error("a log needs keys")]
    None,
}

/// Both keys of a log, and the sizes of the tree that they sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    ed25519: Verifier,
    ml_dsa_44: Verifier,
    sizes: RangeInclusive<u64>,
}

impl KeyPair {
    /// Keys for trees of all sizes. The origin of the log is their name.
    pub fn new(ed25519: Verifier, ml_dsa_44: Verifier) -> Result<Self, LogKeysError> {
        if ed25519.kind() != Kind::Ed25519 || ml_dsa_44.kind() != Kind::MlDsa44Cosignature {
            return Err(LogKeysError::Kinds);
        }
        if ed25519.name() != ml_dsa_44.name() {
            return Err(LogKeysError::Names);
        }
        Ok(Self { ed25519, ml_dsa_44, sizes: 0..=MAX_SIZE })
    }

    /// The same keys, good only for trees of these sizes: a rotation ends one pair and begins another.
    #[must_use]
    pub fn within(self, sizes: RangeInclusive<u64>) -> Self {
        Self { sizes, ..self }
    }

    /// The keys, Ed25519 first.
    pub fn verifiers(&self) -> [&Verifier; 2] {
        [&self.ed25519, &self.ml_dsa_44]
    }

    /// The sizes of the tree that they sign.
    pub fn sizes(&self) -> &RangeInclusive<u64> {
        &self.sizes
    }
}

/// The public keys of one log: all that is needed to verify what it says. More than one pair if keys were rotated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogKeys {
    pairs: Vec<KeyPair>,
}

/// A checkpoint is not to be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The bytes are no signed note.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// No key of the log signed it, or a signature is wrong.
    #[error(transparent)]
    Unverified(#[from] Unverified),
    /// The text is not that of a checkpoint.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// Another log's origin, under this log's key.
    #[error("the checkpoint is of {found:?}, not of {expected:?}")]
    Origin {
        /// The log that it should be of.
        expected: String,
        /// The log that it says it is of.
        found: String,
    },
    /// One of both signatures is missing: neither is enough alone.
    #[error("no pair of keys that is good for a tree of {size} leaves signed it: the {missing} is missing")]
    Missing {
        /// Leaves of the tree.
        size: u64,
        /// What is missing, of the newest pair of keys.
        missing: Kind,
    },
    /// There are extension lines, which the ML-DSA-44 signature does not cover.
    #[error("the checkpoint has extension lines")]
    Extensions,
    /// The root of the empty tree is another one.
    #[error("the root is not that of the empty tree")]
    EmptyRoot,
}

impl LogKeys {
    /// The keys of a log, the newest pair last.
    pub fn new(pairs: Vec<KeyPair>) -> Result<Self, LogKeysError> {
        let first = pairs.first().ok_or(LogKeysError::None)?.ed25519.name();
        if pairs.iter().any(|pair| pair.ed25519.name() != first) {
            return Err(LogKeysError::Names);
        }
        Ok(Self { pairs })
    }

    /// The pairs, the newest last.
    pub fn pairs(&self) -> &[KeyPair] {
        &self.pairs
    }

    /// The same keys, and from trees of `size` leaves on those of `next`, whose log has the same origin.
    pub fn followed_by(self, size: u64, next: KeyPair) -> Result<Self, LogKeysError> {
        let cut = |pair: KeyPair| {
            let sizes = *pair.sizes.start()..=size.min(*pair.sizes.end());
            pair.within(sizes)
        };
        let pairs = self.pairs.into_iter().map(cut).chain([next.within(size..=MAX_SIZE)]);
        Self::new(pairs.collect())
    }

    /// The log's origin, which is the name of all its keys.
    pub fn origin(&self) -> &str {
        self.pairs.first().map_or("", |pair| pair.ed25519.name())
    }

    /// All keys.
    pub fn verifiers(&self) -> impl Iterator<Item = &Verifier> {
        self.pairs.iter().flat_map(KeyPair::verifiers)
    }

    /// Reads and verifies a checkpoint of this log.
    pub fn open(&self, note: &[u8]) -> Result<Checkpoint, CheckpointError> {
        self.check(Note::parse(note)?)
    }

    /// Verifies a checkpoint of this log: no wrong signature of any of its keys, and both right ones of a pair that is good
    /// for the size.
    pub fn check(&self, note: Note) -> Result<Checkpoint, CheckpointError> {
        let verified = note.verify(self.verifiers())?;
        let head = Head::parse(note.text())?;
        if head.origin != self.origin() {
            return Err(CheckpointError::Origin { expected: self.origin().to_owned(), found: head.origin });
        }
        if !head.extensions.is_empty() {
            return Err(CheckpointError::Extensions);
        }
        if !head.is_possible() {
            return Err(CheckpointError::EmptyRoot);
        }
        let size = head.size;
        let by = |key: &Verifier| verified.iter().filter(|one| one.key == key).map(|one| one.time.unwrap_or(0)).max();
        let good = || self.pairs.iter().filter(|pair| pair.sizes.contains(&size));
        let time = good().filter_map(|pair| by(&pair.ed25519).and(by(&pair.ml_dsa_44))).max();
        let Some(time) = time else {
            let has_ed25519 = good().next_back().is_some_and(|pair| by(&pair.ed25519).is_some());
            let missing = if has_ed25519 { Kind::MlDsa44Cosignature } else { Kind::Ed25519 };
            return Err(CheckpointError::Missing { size, missing });
        };
        drop(verified);
        Ok(Checkpoint { head, note, time })
    }
}

/// Both secret keys of a log.
#[derive(Debug)]
pub struct LogSigner {
    ed25519: Signer,
    ml_dsa_44: Signer,
    keys: KeyPair,
}

/// A checkpoint could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointSignError {
    /// Nothing a checkpoint could say.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// A signature could not be made.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The note would be none.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The empty tree has another root.
    #[error("the root is not that of the empty tree")]
    EmptyRoot,
    /// The checkpoint is of another log than the keys.
    #[error("the checkpoint is of another log")]
    Origin,
}

impl LogSigner {
    /// Both keys; their name is the log's origin.
    pub fn new(ed25519: Signer, ml_dsa_44: Signer) -> Result<Self, LogKeysError> {
        let keys = KeyPair::new(ed25519.verifier().clone(), ml_dsa_44.verifier().clone())?;
        Ok(Self { ed25519, ml_dsa_44, keys })
    }

    /// The public halves.
    pub fn keys(&self) -> &KeyPair {
        &self.keys
    }

    /// The log's origin.
    pub fn origin(&self) -> &str {
        self.keys.ed25519.name()
    }

    /// Signs what the log says at `now_s`, seconds since 1970. Whoever calls this must have made sure that the tree extends
    /// every tree that was signed before, and must store the checkpoint before it shows it to anybody.
    pub fn sign(&self, size: u64, root: Hash, now_s: u64) -> Result<Checkpoint, CheckpointSignError> {
        let head = Head::new(self.origin(), size, root)?;
        if !head.is_possible() {
            return Err(CheckpointSignError::EmptyRoot);
        }
        let text = head.to_string();
        let signatures = vec![self.ed25519.sign(&text, now_s)?, self.ml_dsa_44.sign(&text, now_s)?];
        Ok(Checkpoint { head, note: Note::new(text, signatures)?, time: now_s })
    }

    /// Adds these keys' signatures to a checkpoint that other keys of the log made: for the time of a rotation.
    pub fn sign_also(&self, checkpoint: Checkpoint, now_s: u64) -> Result<Checkpoint, CheckpointSignError> {
        if checkpoint.origin() != self.origin() {
            return Err(CheckpointSignError::Origin);
        }
        let text = checkpoint.note.text();
        let signatures = [self.ed25519.sign(text, now_s)?, self.ml_dsa_44.sign(text, now_s)?];
        Ok(checkpoint.with(signatures)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::leaf_hash;
    use crate::key::SEED;

    const ORIGIN: &str = "log.example/audit/1";
    const ROOT: &str = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";

    fn signer(origin: &str, seed: u8) -> LogSigner {
        let of = |kind| Signer::from_seed(kind, origin, &[seed; SEED]).unwrap();
        LogSigner::new(of(Kind::Ed25519), of(Kind::MlDsa44Cosignature)).unwrap()
    }

    fn keys(signer: &LogSigner) -> LogKeys {
        LogKeys::new(vec![signer.keys().clone()]).unwrap()
    }

    #[test]
    fn the_sample_of_the_specification() {
        let text = format!("example.com/behind-the-sofa\n20852163\n{ROOT}\n");
        let head = Head::parse(&text).unwrap();
        assert_eq!((head.origin(), head.size()), ("example.com/behind-the-sofa", 20_852_163));
        assert_eq!(head.to_string(), text);
        let more = format!("{text}one\ntwo\n");
        assert_eq!(Head::parse(&more).unwrap().extensions(), ["one", "two"]);
        assert_eq!(Head::parse(&more).unwrap().to_string(), more);
    }

    #[test]
    fn only_the_one_spelling_says_something() {
        for (bad, error) in [
            (String::new(), HeadError::Shape),
            (format!("o\n1\n{ROOT}"), HeadError::Shape),
            (format!("\n1\n{ROOT}\n"), HeadError::Shape),
            (format!("o\n1\n{ROOT}\n\n"), HeadError::Shape),
            (format!("o\n1\n{ROOT}\nmore\n\n"), HeadError::Shape),
            ("o\n1\n".to_owned(), HeadError::Shape),
            (format!("o\r\n1\r\n{ROOT}\r\n"), HeadError::Shape),
            (format!("o\n1\r\n{ROOT}\n"), HeadError::Size),
            (format!("o\n\n{ROOT}\n"), HeadError::Size),
            (format!("o\n01\n{ROOT}\n"), HeadError::Size),
            (format!("o\n00\n{ROOT}\n"), HeadError::Size),
            (format!("o\n+1\n{ROOT}\n"), HeadError::Size),
            (format!("o\n-1\n{ROOT}\n"), HeadError::Size),
            (format!("o\n1 \n{ROOT}\n"), HeadError::Size),
            (format!("o\n0x1\n{ROOT}\n"), HeadError::Size),
            (format!("o\n\u{661}\n{ROOT}\n"), HeadError::Size),
            (format!("o\n9223372036854775808\n{ROOT}\n"), HeadError::Size),
            (format!("o\n18446744073709551617\n{ROOT}\n"), HeadError::Size),
            (format!("o\n1\n{}\n", ROOT.replace("q2I=", "q2J=")), HeadError::Root),
            (format!("o\n1\n{}\n", &ROOT[..43]), HeadError::Root),
            (format!("o\n1\n{ROOT} \n"), HeadError::Root),
        ] {
            assert_eq!(Head::parse(&bad), Err(error), "{bad:?}");
        }
        assert!(Head::parse(&format!("o\n9223372036854775807\n{ROOT}\n")).is_ok());
        assert!(Head::parse(&format!("o\n0\n{ROOT}\n")).is_ok_and(|head| !head.is_possible()));
        assert_eq!(Head::new("o", MAX_SIZE + 1, empty_root()), Err(HeadError::Size));
        assert_eq!(Head::new("o\np", 1, empty_root()), Err(HeadError::Shape));
        assert_eq!(Head::new("", 1, empty_root()), Err(HeadError::Shape));
    }

    #[test]
    fn a_checkpoint_is_read_as_it_was_signed() {
        let (signer, root) = (signer(ORIGIN, 1), leaf_hash(b"a"));
        let made = signer.sign(1, root, 1_700_000_000).unwrap();
        let read = keys(&signer).open(made.to_string().as_bytes()).unwrap();
        assert_eq!(read, made);
        assert_eq!((read.origin(), read.size(), read.root(), read.time()), (ORIGIN, 1, root, 1_700_000_000));
        assert_eq!(read.to_string(), made.to_string());
        assert!(made.to_string().len() < 3_600);
        let empty = signer.sign(0, empty_root(), 1).unwrap();
        assert!(keys(&signer).open(empty.to_string().as_bytes()).is_ok());
        assert_eq!(signer.sign(0, root, 1), Err(CheckpointSignError::EmptyRoot));
        assert_eq!(signer.sign(MAX_SIZE + 1, root, 1), Err(CheckpointSignError::Head(HeadError::Size)));
    }

    /// A note of `text` with the given lines of `signer`.
    fn forged(signer: &LogSigner, text: &str, kinds: &[Kind]) -> Vec<u8> {
        let of = |kind: &Kind| match kind {
            Kind::Ed25519 => signer.ed25519.sign(text, 5).unwrap(),
            _ => signer.ml_dsa_44.sign(text, 5).unwrap(),
        };
        Note::new(text.to_owned(), kinds.iter().map(of).collect()).unwrap().to_string().into_bytes()
    }

    const BOTH: [Kind; 2] = [Kind::Ed25519, Kind::MlDsa44Cosignature];

    #[test]
    fn one_signature_of_two_is_not_enough() {
        let signer = signer(ORIGIN, 1);
        let text = format!("{ORIGIN}\n7\n{ROOT}\n");
        assert!(keys(&signer).open(&forged(&signer, &text, &BOTH)).is_ok());
        for (have, missing) in [(BOTH[0], BOTH[1]), (BOTH[1], BOTH[0])] {
            let refused = keys(&signer).open(&forged(&signer, &text, &[have, have])).unwrap_err();
            assert_eq!(refused, CheckpointError::Missing { size: 7, missing });
        }
        // Both kinds, but each of another pair.
        let old = self::signer(ORIGIN, 2);
        let rotated = LogKeys::new(vec![old.keys().clone(), signer.keys().clone()]).unwrap();
        let lines = vec![old.ed25519.sign(&text, 5).unwrap(), signer.ml_dsa_44.sign(&text, 5).unwrap()];
        let refused = rotated.check(Note::new(text, lines).unwrap()).unwrap_err();
        assert_eq!(refused, CheckpointError::Missing { size: 7, missing: Kind::Ed25519 });
    }

    #[test]
    fn forgeries_are_refused() {
        let (signer, stranger, other) = (signer(ORIGIN, 1), signer(ORIGIN, 2), signer("log.example/audit/2", 1));
        let (keys, text) = (keys(&signer), format!("{ORIGIN}\n7\n{ROOT}\n"));
        let unknown = |found: Result<Checkpoint, CheckpointError>| {
            assert_eq!(found.unwrap_err(), CheckpointError::Unverified(Unverified::Unknown));
        };
        unknown(keys.open(&forged(&stranger, &text, &BOTH)));
        unknown(keys.open(&forged(&other, &text, &BOTH)));
        // The log's key signed for another log.
        let elsewhere = text.replace(ORIGIN, "log.example/audit/2");
        let refused = keys.open(&forged(&signer, &elsewhere, &BOTH)).unwrap_err();
        assert!(matches!(refused, CheckpointError::Origin { found, .. } if found == "log.example/audit/2"));
        // Lines that only one of the signatures covers.
        let longer = format!("{text}more\n");
        assert_eq!(keys.open(&forged(&signer, &longer, &BOTH)), Err(CheckpointError::Extensions));
        // A right note whose text was changed after it.
        let good = String::from_utf8(forged(&signer, &text, &BOTH)).unwrap();
        for changed in [good.replace("\n7\n", "\n8\n"), good.replace(ROOT, &empty_root().to_string())] {
            let refused = keys.open(changed.as_bytes()).unwrap_err();
            assert!(matches!(refused, CheckpointError::Unverified(Unverified::Wrong { .. })));
        }
        // The root of nothing.
        let nothing = format!("{ORIGIN}\n0\n{ROOT}\n");
        assert_eq!(keys.open(&forged(&signer, &nothing, &BOTH)), Err(CheckpointError::EmptyRoot));
        // Other spellings of what was signed.
        for respelled in [good.replace('\n', "\r\n"), good.replace("\n\n", "\n \n"), good.replace("=\n", "\n")] {
            assert!(matches!(keys.open(respelled.as_bytes()), Err(CheckpointError::Note(_))));
        }
        // An Ed25519 signature of something that is no checkpoint.
        assert!(matches!(keys.open(&forged(&signer, "a text\n", &BOTH[..1])), Err(CheckpointError::Head(_))));
    }

    #[test]
    fn each_changed_bit_of_a_checkpoint_is_seen() {
        let signer = signer(ORIGIN, 1);
        let (keys, good) = (keys(&signer), forged(&signer, &format!("{ORIGIN}\n7\n{ROOT}\n"), &BOTH));
        let read = keys.open(&good).unwrap();
        for at in 0..good.len() {
            // Every byte, another bit each.
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(keys.open(&bad).is_err(), "byte {at}");
            assert!(keys.open(&good[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(keys.open(&good), Ok(read));
    }

    #[test]
    fn seventeen_strangers_do_not_hide_the_log() {
        let signer = signer(ORIGIN, 1);
        let text = format!("{ORIGIN}\n7\n{ROOT}\n");
        let stranger = |seed| Signer::from_seed(Kind::Ed25519Cosignature, "w", &[seed; SEED]).unwrap();
        let lines = (0..17).map(|seed| stranger(seed).sign(&text, 9).unwrap());
        let mut lines: Vec<Signature> = lines.collect();
        lines.push(signer.ed25519.sign(&text, 5).unwrap());
        lines.push(signer.ml_dsa_44.sign(&text, 5).unwrap());
        let read = keys(&signer).check(Note::new(text, lines).unwrap()).unwrap();
        assert_eq!(read.note().signatures().len(), 19);
    }

    #[test]
    fn rotated_keys_are_good_for_their_sizes() {
        let (old, new) = (signer(ORIGIN, 1), signer(ORIGIN, 2));
        let pairs = vec![old.keys().clone().within(0..=10), new.keys().clone().within(8..=MAX_SIZE)];
        let keys = LogKeys::new(pairs).unwrap();
        let root = leaf_hash(b"a");
        for (size, by_old, by_new) in [(7, true, false), (8, true, true), (10, true, true), (11, false, true)] {
            for (signer, good) in [(&old, by_old), (&new, by_new)] {
                let note = signer.sign(size, root, 3).unwrap().to_string();
                assert_eq!(keys.open(note.as_bytes()).is_ok(), good, "{size}");
            }
            let both = new.sign_also(old.sign(size, root, 3).unwrap(), 4).unwrap();
            assert!(keys.open(both.to_string().as_bytes()).is_ok());
            assert_eq!(both.note().signatures().len(), 4);
        }
        let other = signer("log.example/audit/2", 1).sign(9, root, 3).unwrap();
        assert_eq!(new.sign_also(other, 4), Err(CheckpointSignError::Origin));
    }

    #[test]
    fn keys_that_do_not_belong_together_make_no_log() {
        let of = |kind, name| Signer::from_seed(kind, name, &[1; SEED]).unwrap();
        let log = |ed25519, ml_dsa| LogSigner::new(ed25519, ml_dsa).map(drop);
        use Kind::{Ed25519, Ed25519Cosignature, MlDsa44Cosignature};
        assert_eq!(log(of(Ed25519, "a"), of(MlDsa44Cosignature, "b")), Err(LogKeysError::Names));
        assert_eq!(log(of(Ed25519Cosignature, "a"), of(MlDsa44Cosignature, "a")), Err(LogKeysError::Kinds));
        assert_eq!(log(of(Ed25519, "a"), of(Ed25519Cosignature, "a")), Err(LogKeysError::Kinds));
        let pairs = vec![signer("a", 1).keys().clone(), signer("b", 1).keys().clone()];
        assert_eq!(LogKeys::new(pairs), Err(LogKeysError::Names));
        assert_eq!(LogKeys::new(vec![]), Err(LogKeysError::None));
    }
}
