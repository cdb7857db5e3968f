//! What a token looks like: `st_`, a public id, `_`, 256 secret bits and a checksum, all in `a-z2-7`.
//!
//! The prefix and the checksum let a secret scanner recognise a leaked token without asking us, and let us tell a typing
//! error from a token that we never made.

use sha2::{Digest, Sha256};
use std::str;
use stdx::random::{self, NoRandomness};

const PREFIX: &str = "st_";
/// Characters of the public id: 50 bits.
const ID: usize = 10;
/// Characters of the secret: 256 bits and 4 zero bits.
const SECRET: usize = 52;
/// Characters of the checksum: 30 bits.
const CHECK: usize = 6;
const ID_AT: usize = PREFIX.len();
const SECRET_AT: usize = ID_AT + ID + 1;
const CHECK_AT: usize = SECRET_AT + SECRET;
/// Length of a token.
pub(crate) const LENGTH: usize = CHECK_AT + CHECK;

/// The public part of a token, by which it is found.
pub(crate) type Id = [u8; ID];
/// SHA-256 of a whole token: all that is kept of it. It needs no salt and no stretching: the secret has 256 bits.
pub(crate) type Hash = [u8; 32];

/// A token, for the one to whom it is given. It cannot be printed by accident: it has neither `Debug` nor `Display`.
#[expect(missing_debug_implementations, reason = "a secret must not get into a log")]
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// A new token from the operating system's randomness.
    pub(crate) fn random() -> Result<Self, NoRandomness> {
        let id = base32(&random::bytes::<7>()?);
        let secret = base32(&random::bytes::<32>()?);
        let mut text = format!("{PREFIX}{}_{secret}", &id[..ID]);
        let check = checksum(text.as_bytes());
        text.extend(check.map(char::from));
        debug_assert_eq!(text.len(), LENGTH, "a token has one length");
        Ok(Self(text))
    }

    /// The secret text. Whoever calls this decides where it goes.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The secret text, to be handed over.
    pub fn into_exposed(self) -> String {
        self.0
    }

    /// The public identifier.
    pub(crate) fn id(&self) -> &str {
        &self.0[ID_AT..ID_AT + ID]
    }
}

/// The id in `text` if it has the form of a token, checksum included. Reads no more than a token's length.
pub(crate) fn parse(text: &str) -> Option<Id> {
    let bytes = text.as_bytes();
    if bytes.len() != LENGTH || !bytes.starts_with(PREFIX.as_bytes()) || bytes[SECRET_AT - 1] != b'_' {
        return None;
    }
    if bytes[CHECK_AT..] != checksum(&bytes[..CHECK_AT]) {
        return None;
    }
    id(&text[ID_AT..ID_AT + ID])
}

/// `text` as an id, if it is one.
pub(crate) fn id(text: &str) -> Option<Id> {
    let id: Id = text.as_bytes().try_into().ok()?;
    id.iter().all(|byte| ALPHABET.contains(byte)).then_some(id)
}

/// What is kept of a token.
pub(crate) fn hash(text: &str) -> Hash {
    Sha256::digest(text.as_bytes()).into()
}

/// `hash` in lower-case hexadecimal.
pub(crate) fn to_hex(hash: &Hash) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    hash.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// The hash that `text` spells in hexadecimal, if it does.
pub(crate) fn from_hex(text: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    if text.len() != 2 * hash.len() || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// RFC 4648 base32 in lower case, without padding.
fn base32(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 8 / 5 + 1);
    for group in bytes.chunks(5) {
        let word = (0..5).fold(0_u64, |word, at| (word << 8) | u64::from(group.get(at).copied().unwrap_or(0)));
        let characters = (group.len() * 8).div_ceil(5);
        out.extend((0..characters).map(|at| char::from(letter(word >> (35 - 5 * at)))));
    }
    out
}

fn letter(bits: u64) -> u8 {
    ALPHABET[usize::from(bits.to_le_bytes()[0] & 31)]
}

/// The first 30 bits of SHA-256. It finds typing errors; it proves nothing.
pub(crate) fn checksum(text: &[u8]) -> [u8; CHECK] {
    let digest = Sha256::digest(text);
    let word = u64::from(u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]));
    std::array::from_fn(|at| letter(word >> (27 - 5 * at)))
}

#[cfg(test)]
mod tests {
    use super::{LENGTH, Token, base32, checksum, from_hex, hash, parse, to_hex};

    #[test]
    fn base32_is_that_of_the_standard() {
        // RFC 4648 section 10, lower case, without padding.
        for (bytes, text) in [("", ""), ("f", "my"), ("fo", "mzxq"), ("foob", "mzxw6yq"), ("foobar", "mzxw6ytboi")] {
            assert_eq!(base32(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn the_form_stays_what_scanners_were_told() {
        let text = "st_abcdefghij_aaaabbbbccccddddeeeeffffgggghhhhiiiijjjjkkkkllllmmmm";
        assert_eq!(checksum(text.as_bytes()), *b"fdx7rr", "tokens that are out there must stay valid");
        let token = Token::random().unwrap();
        assert_eq!(token.expose().len(), LENGTH);
        assert_eq!(LENGTH, 72);
        assert_eq!(parse(token.expose()).map(|id| id.to_vec()), Some(token.id().as_bytes().to_vec()));
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let token = Token::random().unwrap();
        for at in 0..LENGTH {
            let mut bytes = token.expose().as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
            assert_eq!(parse(std::str::from_utf8(&bytes).unwrap()), None, "at {at}");
        }
    }

    #[test]
    fn hexadecimal_goes_there_and_back() {
        let sum = hash("abc");
        assert_eq!(to_hex(&sum), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(from_hex(&to_hex(&sum)), Some(sum));
        for bad in ["", "ba", &to_hex(&sum).to_uppercase(), &format!("+{}", &to_hex(&sum)[1..])] {
            assert_eq!(from_hex(bad), None, "{bad}");
        }
    }
}
