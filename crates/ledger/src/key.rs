//! Keys: those that sign and those that verify, in the three kinds that are in use. Verifier keys as C2SP signed-note writes
//! them; what a cosignature signs as C2SP tlog-cosignature has it.

use crate::checkpoint::Head;
use crate::hash::sha256_of;
use crate::note::{KeyId, Signature, is_key_name};
use crate::tree::MAX_SIZE;
use aws_lc_rs::signature::{
    ED25519, Ed25519KeyPair, KeyPair as _, ML_DSA_44, ML_DSA_44_SIGNING, ParsedPublicKey, PqdsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use std::str::FromStr;

/// Bytes of a seed, of either algorithm.
pub const SEED: usize = 32;
/// The latest time that a cosignature can carry, seconds since 1970.
pub const MAX_TIME: u64 = MAX_SIZE;

const ED25519_SIGNATURE: usize = 64;
const ML_DSA_44_SIGNATURE: usize = 2420;
const ML_DSA_44_PUBLIC: usize = 1312;

/// What a key signs, and with which algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// 0x01: Ed25519 over the text of a note.
    Ed25519,
    /// 0x04: Ed25519 over a time and the text of a checkpoint.
    Ed25519Cosignature,
    /// 0x06: ML-DSA-44 over a time, the signer's name, and origin, size and root of a checkpoint.
    MlDsa44Cosignature,
}

impl Kind {
    /// The byte that stands for it in a verifier key.
    pub fn byte(self) -> u8 {
        match self {
            Self::Ed25519 => 0x01,
            Self::Ed25519Cosignature => 0x04,
            Self::MlDsa44Cosignature => 0x06,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Ed25519, Self::Ed25519Cosignature, Self::MlDsa44Cosignature].into_iter().find(|kind| kind.byte() == byte)
    }

    /// Whether its signatures carry a time.
    pub fn is_cosignature(self) -> bool {
        self != Self::Ed25519
    }

    fn public_len(self) -> usize {
        match self {
            Self::Ed25519 | Self::Ed25519Cosignature => 32,
            Self::MlDsa44Cosignature => ML_DSA_44_PUBLIC,
        }
    }

    fn signature_len(self) -> usize {
        match self {
            Self::Ed25519 | Self::Ed25519Cosignature => ED25519_SIGNATURE,
            Self::MlDsa44Cosignature => ML_DSA_44_SIGNATURE,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ed25519 => "Ed25519",
            Self::Ed25519Cosignature => "Ed25519 cosignature",
            Self::MlDsa44Cosignature => "ML-DSA-44 cosignature",
        })
    }
}

/// A key is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is not a name, an id and base64 with plus signs between them.
    #[error("not a verifier key: expected <name>+<8 hex digits>+<canonical base64>")]
    Shape,
    /// The name is empty, or has a space or plus, or is longer than 255 bytes where a signature covers it.
    #[error("the key's name is empty, too long, or has a space or plus in it")]
    Name,
    /// The first byte of the key stands for nothing that is in use here.
    #[error("the key's kind {0:#04x} is not one of 0x01, 0x04, 0x06")]
    Kind(u8),
    /// The bytes are no key of its kind.
    #[error("the bytes are not a key of their kind")]
    Bytes,
    /// The id is not that of this name, kind and key: something was changed or cut off.
    #[error("the key's id does not belong to its name and bytes")]
    Id,
    /// The operating system gave no randomness.
    #[error("the operating system gave no randomness")]
    NoRandomness,
}

/// A key that verifies, with the name that goes with it.
#[derive(Clone)]
pub struct Verifier {
    name: String,
    id: KeyId,
    kind: Kind,
    key: ParsedPublicKey,
}

/// A signature is not this key's signature of this text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature is wrong")]
pub struct WrongSignature;

impl Verifier {
    /// A key of its raw bytes: 32 for Ed25519, 1,312 for ML-DSA-44.
    pub fn new(kind: Kind, name: &str, public: &[u8]) -> Result<Self, KeyError> {
        // The signed message of an ML-DSA-44 cosignature has one byte for the length of the name.
        if !is_key_name(name) || (kind == Kind::MlDsa44Cosignature && name.len() > 255) {
            return Err(KeyError::Name);
        }
        // The library would also take a key that is wrapped in DER, which would be a second spelling.
        if public.len() != kind.public_len() {
            return Err(KeyError::Bytes);
        }
        let key = match kind {
            Kind::Ed25519 | Kind::Ed25519Cosignature => ParsedPublicKey::new(&ED25519, public),
            Kind::MlDsa44Cosignature => ParsedPublicKey::new(&ML_DSA_44, public),
        };
        let hash = sha256_of(&[name.as_bytes(), b"\n", &[kind.byte()], public]);
        let [a, b, c, d, ..] = hash.0;
        Ok(Self { name: name.to_owned(), id: KeyId([a, b, c, d]), kind, key: key.map_err(|_| KeyError::Bytes)? })
    }

    /// The key's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key's id.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// What it verifies.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The raw bytes of the key.
    pub fn public(&self) -> &[u8] {
        self.key.as_ref()
    }

    /// Whether `signature`, without the key's id, is this key's signature of the text of a note. Gives the time of a
    /// cosignature.
    pub fn verify(&self, text: &str, signature: &[u8]) -> Result<Option<u64>, WrongSignature> {
        let checked = |message: &[u8], bytes: &[u8]| {
            let right = bytes.len() == self.kind.signature_len() && self.key.verify_sig(message, bytes).is_ok();
            right.then_some(()).ok_or(WrongSignature)
        };
        if !self.kind.is_cosignature() {
            return checked(text.as_bytes(), signature).map(|()| None);
        }
        let (time, bytes) = signature.split_first_chunk().ok_or(WrongSignature)?;
        let time = u64::from_be_bytes(*time);
        let message = cosigned(self.kind, &self.name, text, time).map_err(|_| WrongSignature)?;
        checked(&message, bytes).map(|()| Some(time))
    }
}

impl PartialEq for Verifier {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.name == other.name && self.public() == other.public()
    }
}

impl Eq for Verifier {}

/// The verifier key as text.
impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [&[self.kind.byte()], self.public()].concat();
        write!(f, "{}+{}+{}", self.name, self.id, STANDARD.encode(key))
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({}+{}, {})", self.name, self.id, self.kind)
    }
}

impl FromStr for Verifier {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(KeyError::Shape);
        };
        let key = STANDARD.decode(key).map_err(|_| KeyError::Shape)?;
        let (kind, public) = key.split_first().ok_or(KeyError::Shape)?;
        let verifier = Self::new(Kind::from_byte(*kind).ok_or(KeyError::Kind(*kind))?, name, public)?;
        // As text, so that an id has one spelling.
        if verifier.id.to_string() == id { Ok(verifier) } else { Err(KeyError::Id) }
    }
}

/// A text cannot be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// A cosignature is of a checkpoint only.
    #[error("only a checkpoint can be cosigned")]
    NotACheckpoint,
    /// A name or origin longer than 255 bytes has no place in the message.
    #[error("the name or the origin is longer than 255 bytes")]
    TooLong,
    /// Times end at 2^63 − 1.
    #[error("the time is out of range")]
    Time,
    /// The library refused.
    #[error("signing failed")]
    Failed,
}

/// The message that a cosignature signs: tlog-cosignature, "Ed25519 signed message" and "ML-DSA-44 signed message".
fn cosigned(kind: Kind, name: &str, text: &str, time: u64) -> Result<Vec<u8>, SignError> {
    let head = Head::parse(text).map_err(|_| SignError::NotACheckpoint)?;
    if time > MAX_TIME {
        return Err(SignError::Time);
    }
    if kind == Kind::Ed25519Cosignature {
        return Ok(format!("cosignature/v1\ntime {time}\n{text}").into_bytes());
    }
    let mut out = b"subtree/v1\n\0".to_vec();
    push_opaque(&mut out, name)?;
    out.extend_from_slice(&time.to_be_bytes());
    push_opaque(&mut out, head.origin())?;
    // The subtree that is signed is the whole tree.
    out.extend_from_slice(&0_u64.to_be_bytes());
    out.extend_from_slice(&head.size().to_be_bytes());
    out.extend_from_slice(head.root().as_bytes());
    Ok(out)
}

/// `opaque<1..2^8-1>` of RFC 8446.
fn push_opaque(out: &mut Vec<u8>, text: &str) -> Result<(), SignError> {
    let len = u8::try_from(text.len()).map_err(|_| SignError::TooLong)?;
    out.push(len);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    MlDsa44(PqdsaKeyPair),
}

/// A key that signs. Its secret leaves it only by [`Signer::to_pkcs8`].
pub struct Signer {
    verifier: Verifier,
    pair: Pair,
}

/// A secret key as PKCS #8 (RFC 5958). The bytes are wiped when it is dropped, and not shown.
pub struct Pkcs8(aws_lc_rs::pkcs8::Document);

impl AsRef<[u8]> for Pkcs8 {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref()
    }
}

impl fmt::Debug for Pkcs8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pkcs8(…)")
    }
}

impl Signer {
    /// A new key.
    pub fn generate(kind: Kind, name: &str) -> Result<Self, KeyError> {
        let seed = stdx::random::bytes::<SEED>().map_err(|_| KeyError::NoRandomness)?;
        Self::from_seed(kind, name, &seed)
    }

    /// The key of a seed: RFC 8032's private key, or the ξ of FIPS 204.
    pub fn from_seed(kind: Kind, name: &str, seed: &[u8; SEED]) -> Result<Self, KeyError> {
        let pair = match kind {
            Kind::Ed25519 | Kind::Ed25519Cosignature => Ed25519KeyPair::from_seed_unchecked(seed).map(Pair::Ed25519),
            Kind::MlDsa44Cosignature => PqdsaKeyPair::from_seed(&ML_DSA_44_SIGNING, seed).map(Pair::MlDsa44),
        };
        Self::of(kind, name, pair.map_err(|_| KeyError::Bytes)?)
    }

    /// The key that [`Self::to_pkcs8`] gave.
    pub fn from_pkcs8(kind: Kind, name: &str, pkcs8: &[u8]) -> Result<Self, KeyError> {
        let pair = match kind {
            Kind::Ed25519 | Kind::Ed25519Cosignature => Ed25519KeyPair::from_pkcs8(pkcs8).map(Pair::Ed25519),
            Kind::MlDsa44Cosignature => PqdsaKeyPair::from_pkcs8(&ML_DSA_44_SIGNING, pkcs8).map(Pair::MlDsa44),
        };
        Self::of(kind, name, pair.map_err(|_| KeyError::Bytes)?)
    }

    fn of(kind: Kind, name: &str, pair: Pair) -> Result<Self, KeyError> {
        let verifier = match &pair {
            Pair::Ed25519(pair) => Verifier::new(kind, name, pair.public_key().as_ref())?,
            Pair::MlDsa44(pair) => Verifier::new(kind, name, pair.public_key().as_ref())?,
        };
        Ok(Self { verifier, pair })
    }

    /// The secret, to be kept where only its owner reads.
    pub fn to_pkcs8(&self) -> Result<Pkcs8, KeyError> {
        let document = match &self.pair {
            Pair::Ed25519(pair) => pair.to_pkcs8v1(),
            Pair::MlDsa44(pair) => pair.to_pkcs8v1(),
        };
        document.map(Pkcs8).map_err(|_| KeyError::Bytes)
    }

    /// The public half.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Signs the text of a note; a cosignature says `now_s`, seconds since 1970.
    pub fn sign(&self, text: &str, now_s: u64) -> Result<Signature, SignError> {
        let Verifier { name, id, kind, .. } = &self.verifier;
        if !kind.is_cosignature() {
            return Ok(Signature::new(name, *id, self.raw(text.as_bytes())?));
        }
        let mut bytes = now_s.to_be_bytes().to_vec();
        bytes.extend(self.raw(&cosigned(*kind, name, text, now_s)?)?);
        Ok(Signature::new(name, *id, bytes))
    }

    fn raw(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        match &self.pair {
            Pair::Ed25519(pair) => {
                pair.try_sign(message).map(|signature| signature.as_ref().to_vec()).map_err(|_| SignError::Failed)
            }
            Pair::MlDsa44(pair) => {
                let mut out = vec![0; ML_DSA_44_SIGNATURE];
                pair.sign(message, &mut out).map(|_| out).map_err(|_| SignError::Failed)
            }
        }
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({}+{}, {})", self.verifier.name, self.verifier.id, self.verifier.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::note::Note;

    const KINDS: [Kind; 3] = [Kind::Ed25519, Kind::Ed25519Cosignature, Kind::MlDsa44Cosignature];
    const HEAD: &str = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";

    #[test]
    fn a_verifier_key_has_one_spelling() {
        for kind in KINDS {
            let signer = Signer::from_seed(kind, "example.com/log", &[1; SEED]).unwrap();
            let text = signer.verifier().to_string();
            assert_eq!(text.parse::<Verifier>().unwrap(), *signer.verifier());
            let (rest, key) = text.rsplit_once('+').unwrap_or_default();
            let flip = |at: usize| {
                let mut bytes = text.clone().into_bytes();
                bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
                String::from_utf8(bytes).unwrap()
            };
            assert!(flip(0).parse::<Verifier>().is_err() && flip(text.len() - 9).parse::<Verifier>().is_err());
            for bad in
                [text.to_uppercase(), format!("{text}\n"), format!(" {text}"), rest.to_owned(), format!("+{key}")]
            {
                assert!(bad.parse::<Verifier>().is_err(), "{bad}");
            }
            assert!(text[..text.len() - 4].parse::<Verifier>().is_err(), "cut off");
        }
        let good = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
        assert!(good.parse::<Verifier>().is_ok());
        for (bad, error) in [
            ("example.com/foo+530D903A+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k", KeyError::Id),
            ("example.com/foo+530d903b+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k", KeyError::Id),
            ("example.com/fop+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k", KeyError::Id),
            ("+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k", KeyError::Name),
            ("a b+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k", KeyError::Name),
            ("example.com/foo+530d903a+AukyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k", KeyError::Kind(2)),
            ("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3Q==", KeyError::Bytes),
            ("example.com/foo+530d903a+", KeyError::Shape),
            ("example.com/foo+530d903a", KeyError::Shape),
            ("", KeyError::Shape),
        ] {
            assert_eq!(bad.parse::<Verifier>().unwrap_err(), error, "{bad}");
        }
    }

    #[test]
    fn the_same_key_has_another_id_for_each_kind() {
        let of = |kind| Signer::from_seed(kind, "w", &[1; SEED]).unwrap().verifier().clone();
        let (note, cosignature) = (of(Kind::Ed25519), of(Kind::Ed25519Cosignature));
        assert_eq!(note.public(), cosignature.public());
        assert_ne!(note.id(), cosignature.id());
    }

    #[test]
    fn the_signed_messages_are_those_of_the_specification() {
        let message = cosigned(Kind::Ed25519Cosignature, "w", HEAD, 1_679_315_147).unwrap();
        assert_eq!(String::from_utf8(message).unwrap(), format!("cosignature/v1\ntime 1679315147\n{HEAD}"));
        let with_more = format!("{HEAD}more\n");
        let message = cosigned(Kind::Ed25519Cosignature, "w", &with_more, 0).unwrap();
        assert!(message.ends_with(b"\nmore\n"), "an Ed25519 cosignature covers extension lines");
        let message = cosigned(Kind::MlDsa44Cosignature, "w1", &with_more, 0x0102).unwrap();
        let (root, origin) = (Head::parse(HEAD).unwrap().root(), b"\x1bexample.com/behind-the-sofa");
        let size = 20_852_163_u64.to_be_bytes();
        let wanted: [&[u8]; 7] =
            [b"subtree/v1\n\0", b"\x02w1", &[0, 0, 0, 0, 0, 0, 1, 2], origin, &[0; 8], &size, root.as_bytes()];
        assert_eq!(message, wanted.concat());
    }

    #[test]
    fn a_cosignature_carries_its_time_in_front() {
        // The lines of the specification's example; their keys are not given.
        let note = format!(
            "{HEAD}\n\u{2014} example.com/behind-the-sofa \
             Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n\
             \u{2014} witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZ\
             qhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
        );
        let note = Note::parse(note.as_bytes()).unwrap();
        let [plain, timed] = note.signatures() else { unreachable!() };
        assert_eq!(plain.bytes().len(), ED25519_SIGNATURE);
        assert_eq!(timed.bytes().len(), 8 + ED25519_SIGNATURE);
        assert_eq!(timed.bytes()[..8], 1_679_315_147_u64.to_be_bytes());
    }

    #[test]
    fn what_was_signed_verifies_and_nothing_else_does() {
        for kind in KINDS {
            let signer = Signer::from_seed(kind, "w", &[1; SEED]).unwrap();
            let (key, signature) = (signer.verifier(), signer.sign(HEAD, 77).unwrap());
            assert_eq!(key.verify(HEAD, signature.bytes()), Ok(kind.is_cosignature().then_some(77)));
            assert_eq!((signature.name(), signature.id()), ("w", key.id()));
            let other_size = HEAD.replace("20852163", "20852164");
            assert!(key.verify(&other_size, signature.bytes()).is_err());
            for at in [0, 7, 8, 20, signature.bytes().len() - 1] {
                let mut bytes = signature.bytes().to_vec();
                bytes[at] ^= 1;
                assert!(key.verify(HEAD, &bytes).is_err(), "{kind} {at}");
            }
            for len in [0, 7, 8, 63, 64, 71, signature.bytes().len() - 1] {
                let cut = &signature.bytes()[..len.min(signature.bytes().len() - 1)];
                assert!(key.verify(HEAD, cut).is_err(), "{kind} {len}");
            }
            assert!(key.verify(HEAD, &[signature.bytes(), &[0]].concat()).is_err());
            let other = Signer::from_seed(kind, "w", &[2; SEED]).unwrap();
            assert!(other.verifier().verify(HEAD, signature.bytes()).is_err());
        }
        // An ML-DSA-44 cosignature says who made it: the same key under another name has not made it.
        let signer = Signer::from_seed(Kind::MlDsa44Cosignature, "w", &[1; SEED]).unwrap();
        let named = Verifier::new(Kind::MlDsa44Cosignature, "v", signer.verifier().public()).unwrap();
        assert!(named.verify(HEAD, signer.sign(HEAD, 77).unwrap().bytes()).is_err());
        // One kind's signature is not another's, though the key is the same.
        let note = Signer::from_seed(Kind::Ed25519, "w", &[1; SEED]).unwrap();
        let timed = Signer::from_seed(Kind::Ed25519Cosignature, "w", &[1; SEED]).unwrap();
        let plain = note.sign(HEAD, 0).unwrap();
        assert!(timed.verifier().verify(HEAD, &[&[0; 8], plain.bytes()].concat()).is_err());
    }

    #[test]
    fn only_checkpoints_are_cosigned_and_only_with_a_time_that_exists() {
        for kind in [Kind::Ed25519Cosignature, Kind::MlDsa44Cosignature] {
            let signer = Signer::from_seed(kind, "w", &[1; SEED]).unwrap();
            assert_eq!(signer.sign("a text\n", 1), Err(SignError::NotACheckpoint));
            assert_eq!(signer.sign(HEAD, MAX_TIME + 1), Err(SignError::Time));
            assert!(signer.sign(HEAD, MAX_TIME).is_ok());
        }
        let signer = Signer::from_seed(Kind::MlDsa44Cosignature, &"w".repeat(255), &[1; SEED]).unwrap();
        let long = HEAD.replace("example", &"x".repeat(255));
        assert_eq!(signer.sign(&long, 1), Err(SignError::TooLong));
        assert!(signer.sign(HEAD, 1).is_ok());
        let too_long = Signer::from_seed(Kind::MlDsa44Cosignature, &"w".repeat(256), &[1; SEED]);
        assert_eq!(too_long.unwrap_err(), KeyError::Name);
    }

    #[test]
    fn a_key_goes_to_bytes_and_back_and_is_not_shown() {
        for kind in KINDS {
            let signer = Signer::generate(kind, "w").unwrap();
            assert_ne!(signer.verifier(), Signer::generate(kind, "w").unwrap().verifier());
            let secret = signer.to_pkcs8().unwrap();
            let again = Signer::from_pkcs8(kind, "w", secret.as_ref()).unwrap();
            assert_eq!(again.verifier(), signer.verifier());
            assert_eq!(again.to_pkcs8().unwrap().as_ref(), secret.as_ref());
            assert!(signer.verifier().verify(HEAD, again.sign(HEAD, 1).unwrap().bytes()).is_ok());
            let shown = format!("{signer:?} {secret:?} {again:#?}");
            let listed = format!("{:?}", secret.as_ref());
            assert!(shown.len() < 200 && !shown.contains(&listed[1..20]), "{shown}");
            for other in KINDS.into_iter().filter(|other| other.public_len() != kind.public_len()) {
                assert!(Signer::from_pkcs8(other, "w", secret.as_ref()).is_err());
            }
            assert!(Signer::from_pkcs8(kind, "w", &secret.as_ref()[1..]).is_err());
            assert!(Signer::from_pkcs8(kind, "w", b"").is_err());
        }
    }

    #[test]
    fn a_key_in_another_coat_is_none() {
        use aws_lc_rs::encoding::AsDer as _;
        let pair = PqdsaKeyPair::from_seed(&ML_DSA_44_SIGNING, &[1; SEED]).unwrap();
        let der = pair.public_key().as_der().unwrap();
        assert!(ParsedPublicKey::new(&ML_DSA_44, der.as_ref()).is_ok(), "the library takes it");
        assert_eq!(Verifier::new(Kind::MlDsa44Cosignature, "w", der.as_ref()).unwrap_err(), KeyError::Bytes);
    }
}
