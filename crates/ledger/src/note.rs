//! Signed notes, as C2SP signed-note has them: a text, a blank line, and signature lines. The parser takes only the one
//! spelling that a note has, so that a parsed note is written back byte for byte.

use crate::key::Verifier;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

/// Bytes of the longest note that is read or made.
pub const MAX_NOTE: usize = 1 << 20;
/// Signatures of the longest note that is read or made. The specification asks for at least 16.
pub const MAX_SIGNATURES: usize = 64;

const DASH: &str = "\u{2014} ";

/// The short name of a key: the first four bytes of a hash of its name, kind and public key. It finds a key, and proves
/// nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 4]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is no signed note, or a note would be none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// More than [`MAX_NOTE`] bytes.
    #[error("the note is longer than 1 MiB")]
    TooLong,
    /// The bytes are not UTF-8.
    #[error("the note is not UTF-8")]
    NotUtf8,
    /// There is a control character other than the line end.
    #[error("the note has a control character")]
    Control,
    /// There is no empty line with signature lines behind it, or the text before it does not end with a line end.
    #[error("the note has no text and signatures with an empty line between them")]
    Shape,
    /// A line behind the last empty line is no signature.
    #[error("signature line {0} is not an em dash, a key name and canonical base64")]
    Signature(usize),
    /// More than [`MAX_SIGNATURES`].
    #[error("the note has more than 64 signatures")]
    TooMany,
}

/// One signature line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Signature {
    name: String,
    id: KeyId,
    bytes: Vec<u8>,
}

impl Signature {
    pub(crate) fn new(name: &str, id: KeyId, bytes: Vec<u8>) -> Self {
        Self { name: name.to_owned(), id, bytes }
    }

    /// A line without its line end.
    pub fn parse(line: &str) -> Option<Self> {
        let (name, coded) = line.strip_prefix(DASH)?.split_once(' ')?;
        let decoded = STANDARD.decode(coded).ok()?;
        let (id, bytes) = decoded.split_first_chunk()?;
        (is_key_name(name) && !bytes.is_empty()).then(|| Self::new(name, KeyId(*id), bytes.to_vec()))
    }

    /// The name of the key that is said to have signed.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id of the key that is said to have signed.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The signature, without the key's id.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The line, without its line end.
impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.id.0[..], &self.bytes].concat();
        write!(f, "{DASH}{} {}", self.name, STANDARD.encode(bytes))
    }
}

/// Whether a text may name a key: not empty, no plus, no Unicode space, no control character.
pub fn is_key_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c == '+' || c.is_whitespace() || c < ' ')
}

/// A note: nothing of it is to be believed before [`Note::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<Signature>,
}

impl Note {
    /// A note of a text, which ends with a line end, and at least one signature.
    pub fn new(text: String, signatures: Vec<Signature>) -> Result<Self, NoteError> {
        if signatures.is_empty() || !text.ends_with('\n') {
            return Err(NoteError::Shape);
        }
        let note = Self { text, signatures };
        note.check()?;
        Ok(note)
    }

    /// Reads a note strictly.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > MAX_NOTE {
            return Err(NoteError::TooLong);
        }
        let note = std::str::from_utf8(bytes).map_err(|_| NoteError::NotUtf8)?;
        if has_control(note) {
            return Err(NoteError::Control);
        }
        let (before, lines) = note.rsplit_once("\n\n").ok_or(NoteError::Shape)?;
        let signatures = parse_signatures(lines)?;
        Ok(Self { text: format!("{before}\n"), signatures })
    }

    /// The text, with its last line end, without the empty line.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// All signatures, known or not, in their order.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// The same note with more signatures behind its own; those that it has already are not repeated.
    pub fn with(mut self, more: impl IntoIterator<Item = Signature>) -> Result<Self, NoteError> {
        for signature in more {
            if !self.signatures.contains(&signature) {
                self.signatures.push(signature);
            }
        }
        self.check()?;
        Ok(self)
    }

    /// What holds for a note that was read holds for one that was made.
    fn check(&self) -> Result<(), NoteError> {
        if self.signatures.len() > MAX_SIGNATURES {
            return Err(NoteError::TooMany);
        }
        if has_control(&self.text) {
            return Err(NoteError::Control);
        }
        if self.to_string().len() > MAX_NOTE {
            return Err(NoteError::TooLong);
        }
        Ok(())
    }

    /// The signatures of known keys, in their order, all of them right. Signatures of other keys say nothing and are passed
    /// over. One wrong signature of a known key refuses the note, and so does a note that no known key signed.
    pub fn verify<'a, 'k: 'a>(
        &'a self,
        keys: impl IntoIterator<Item = &'k Verifier>,
    ) -> Result<Vec<Verified<'a>>, Unverified> {
        let keys: Vec<&Verifier> = keys.into_iter().collect();
        let mut verified = Vec::new();
        for signature in &self.signatures {
            for key in keys.iter().filter(|key| key.id() == signature.id && key.name() == signature.name) {
                match key.verify(&self.text, &signature.bytes) {
                    Ok(time) => verified.push(Verified { key, signature, time }),
                    Err(_) => return Err(Unverified::Wrong { name: signature.name.clone(), id: signature.id }),
                }
            }
        }
        if verified.is_empty() { Err(Unverified::Unknown) } else { Ok(verified) }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

fn has_control(text: &str) -> bool {
    text.bytes().any(|byte| byte < b' ' && byte != b'\n')
}

/// Signature lines, at least one, each with its line end: the end of a note, and the answer of a witness.
pub fn parse_signatures(lines: &str) -> Result<Vec<Signature>, NoteError> {
    let whole = lines.strip_suffix('\n').ok_or(NoteError::Shape)?;
    let mut signatures = Vec::new();
    for (at, line) in whole.split('\n').enumerate() {
        if at == MAX_SIGNATURES {
            return Err(NoteError::TooMany);
        }
        signatures.push(Signature::parse(line).ok_or(NoteError::Signature(at + 1))?);
    }
    Ok(signatures)
}

/// A signature that is right.
#[derive(Clone, Copy, Debug)]
pub struct Verified<'a> {
    /// The key that made it.
    pub key: &'a Verifier,
    /// The line.
    pub signature: &'a Signature,
    /// For cosignatures: when it was made, seconds since 1970, as the signer says; 0 where it says nothing.
    pub time: Option<u64>,
}

/// Why a note is not to be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    /// A signature that names a known key is not that key's signature of this text.
    #[error("the signature of {name} ({id}) is wrong")]
    Wrong {
        /// The key's name.
        name: String,
        /// The key's id.
        id: KeyId,
    },
    /// No known key signed it.
    #[error("no known key signed it")]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Kind, Signer};
    use proptest::prelude::*;

    const SAMPLE: &str = "This is an example message.\n\n\u{2014} example.com/foo \
        Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
    const SAMPLE_KEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    /// A text with empty lines.
    const POEM: &str = "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n\
        \u{2014} quasimodo.example/salvatore \
        NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n";

    #[test]
    fn the_samples_of_the_specification() {
        let (note, key) = (Note::parse(SAMPLE.as_bytes()).unwrap(), SAMPLE_KEY.parse::<Verifier>().unwrap());
        assert_eq!(note.text(), "This is an example message.\n");
        let verified = note.verify([&key]).unwrap();
        assert_eq!((verified.len(), verified[0].key, verified[0].time), (1, &key, None));
        assert_eq!(key.to_string(), SAMPLE_KEY);
        assert_eq!(note.to_string(), SAMPLE);
        let poem = Note::parse(POEM.as_bytes()).unwrap();
        assert!(poem.text().ends_with(":\n\ned è subito sera.\n"));
        assert_eq!(poem.signatures()[0].name(), "quasimodo.example/salvatore");
        assert_eq!(poem.to_string(), POEM);
        assert_eq!(poem.verify([&key]).unwrap_err(), Unverified::Unknown);
    }

    #[test]
    fn only_the_one_spelling_is_a_note() {
        let swap = |from: &str, to: &str| {
            assert!(SAMPLE.contains(from), "{from:?}");
            SAMPLE.replacen(from, to, 1)
        };
        let cases = [
            (String::new(), NoteError::Shape),
            ("\n\n".to_owned(), NoteError::Shape),
            ("text\n".to_owned(), NoteError::Shape),
            ("text\n\n".to_owned(), NoteError::Shape),
            (swap("\n\n", "\n"), NoteError::Shape),
            (SAMPLE.trim_end().to_owned(), NoteError::Shape),
            (SAMPLE.replace('\n', "\r\n"), NoteError::Control),
            (swap("This", "Th\0is"), NoteError::Control),
            (swap("This", "Th\tis"), NoteError::Control),
            (swap("\u{2014} ", "- "), NoteError::Signature(1)),
            (swap("\u{2014} ", "\u{2014}"), NoteError::Signature(1)),
            (swap("\u{2014} ", "\u{2014}  "), NoteError::Signature(1)),
            (swap("\u{2014} ", " \u{2014} "), NoteError::Signature(1)),
            (swap("foo ", "foo  "), NoteError::Signature(1)),
            (swap("example.com/foo", "example.com+foo"), NoteError::Signature(1)),
            (swap("example.com/foo", "example.com\u{a0}foo"), NoteError::Signature(1)),
            (swap("example.com/foo ", ""), NoteError::Signature(1)),
            (swap("yaQM=", "yaQM= "), NoteError::Signature(1)),
            (swap("yaQM=", "yaQM"), NoteError::Signature(1)),
            // The same bytes, with a bit set that base64 does not use.
            (swap("yaQM=", "yaQN="), NoteError::Signature(1)),
            (swap("Uw2QOk", "Uw2Q-k"), NoteError::Signature(1)),
            (format!("{SAMPLE}\n"), NoteError::Shape),
            (format!("{SAMPLE}\u{2014} a b c\n"), NoteError::Signature(2)),
            ("text\n\n\u{2014} a AAAAAA==\n".to_owned(), NoteError::Signature(1)),
            ("text\n\n\u{2014} a AAAA\n".to_owned(), NoteError::Signature(1)),
            ("x".repeat(MAX_NOTE) + SAMPLE, NoteError::TooLong),
        ];
        for (bad, error) in cases {
            assert_eq!(Note::parse(bad.as_bytes()), Err(error), "{:?}", bad.get(..80).unwrap_or(&bad));
        }
        assert_eq!(Note::parse(b"text\xff\n\n"), Err(NoteError::NotUtf8));
        let line = SAMPLE.split_once("\n\n").unwrap().1;
        for (count, good) in [(16, true), (17, true), (MAX_SIGNATURES, true), (MAX_SIGNATURES + 1, false)] {
            let note = Note::parse(format!("text\n\n{}", line.repeat(count)).as_bytes());
            assert_eq!(
                note.map(|note| note.signatures().len()),
                if good { Ok(count) } else { Err(NoteError::TooMany) }
            );
        }
    }

    #[test]
    fn unknown_signatures_say_nothing_and_one_wrong_one_refuses_all() {
        let signer = |name, seed| Signer::from_seed(Kind::Ed25519, name, &[seed; 32]).unwrap();
        let (ann, bob, other_ann) = (signer("ann", 1), signer("bob", 2), signer("ann", 3));
        let text = "one\n\ntwo\n".to_owned();
        let by = |signer: &Signer| signer.sign(&text, 0).unwrap();
        let note = Note::new(text.clone(), vec![by(&bob), by(&other_ann), by(&ann)]).unwrap();
        let verified = note.verify([ann.verifier()]).unwrap();
        assert_eq!((verified.len(), verified[0].signature), (1, &note.signatures()[2]));
        assert_eq!(note.verify([ann.verifier(), bob.verifier()]).unwrap().len(), 2);
        assert_eq!(note.verify([]).unwrap_err(), Unverified::Unknown);
        // The right name with a wrong id is an unknown key; so is the right id with another name.
        let lone = Note::new(text.clone(), vec![Signature::new("ann", KeyId([0; 4]), by(&ann).bytes)]).unwrap();
        assert_eq!(lone.verify([ann.verifier()]).unwrap_err(), Unverified::Unknown);
        let lone = Note::new(text.clone(), vec![Signature::new("eve", by(&ann).id, by(&ann).bytes)]).unwrap();
        assert_eq!(lone.verify([ann.verifier()]).unwrap_err(), Unverified::Unknown);
        // A wrong signature beside right ones, wherever it stands, also if it is the second of the same key.
        let wrong = Signature::new("ann", by(&ann).id, by(&bob).bytes);
        for at in 0..=3 {
            let mut signatures = note.signatures().to_vec();
            signatures.insert(at, wrong.clone());
            let note = Note::new(text.clone(), signatures).unwrap();
            let refused = Unverified::Wrong { name: "ann".to_owned(), id: ann.verifier().id() };
            assert_eq!(note.verify([ann.verifier(), bob.verifier()]).unwrap_err(), refused);
            assert_eq!(note.verify([bob.verifier()]).unwrap().len(), 1);
        }
    }

    #[test]
    fn what_could_not_be_read_is_not_made() {
        let signature = Note::parse(SAMPLE.as_bytes()).unwrap().signatures()[0].clone();
        let of = |text: &str| Note::new(text.to_owned(), vec![signature.clone()]);
        assert_eq!(of("no end"), Err(NoteError::Shape));
        assert_eq!(of(""), Err(NoteError::Shape));
        assert_eq!(of("a\tb\n"), Err(NoteError::Control));
        assert_eq!(of(&format!("{}\n", "x".repeat(MAX_NOTE))), Err(NoteError::TooLong));
        assert_eq!(Note::new("a\n".to_owned(), vec![]), Err(NoteError::Shape));
        let note = of("a\n").unwrap().with([signature.clone(), signature.clone()]).unwrap();
        assert_eq!(note.signatures().len(), 1, "the same line is not repeated");
        let more = (0..MAX_SIGNATURES as u64).map(|at| Signature::new("b", KeyId([0; 4]), at.to_be_bytes().to_vec()));
        assert_eq!(note.with(more), Err(NoteError::TooMany));
    }

    proptest! {
        #[test]
        fn what_is_made_is_read_and_what_is_read_is_written_back(
            text in "(\\PC|\n){0,60}",
            names in prop::collection::vec("[^\\s+\\p{C}]{1,8}", 1..5),
            bytes: Vec<u8>,
        ) {
            let signatures = names.iter().map(|name| Signature::new(name, KeyId([7; 4]), [&[1], &bytes[..]].concat()));
            let note = Note::new(format!("{text}\n"), signatures.collect()).unwrap();
            prop_assert_eq!(Note::parse(note.to_string().as_bytes()), Ok(note));
        }
    }
}
