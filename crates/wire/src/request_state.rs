//! The sealed `requestState` of a held call: which call, of which process, in which round, until when. Encrypted and bound
//! to who asked what, so that it opens for nobody else and for nothing else. (E170, E171, E197)
//!
//! Sans-IO: the key, the nonce and the time come from outside.

use crate::message::Message;
use crate::scan::{self, Place, Span};
use crate::splice::Splice;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest;
use std::fmt;

/// Names the format; another one is another prefix.
const PREFIX: &str = "v1.";
const PLAIN: usize = 1 + 16 + 8 + 4 + 8;
const SEALED: usize = NONCE_LEN + PLAIN + 16;

/// Bytes of a nonce. With GCM-SIV, two equal ones betray equal states and nothing more.
pub const NONCE: usize = NONCE_LEN;

/// The key of one life of the daemon: what it sealed means nothing to the next one, as the calls are gone too.
pub struct Key(LessSafeKey);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// From 32 unpredictable bytes. `None` only if the library cannot work at all.
    pub fn new(bytes: &[u8; 32]) -> Option<Self> {
        UnboundKey::new(&AES_256_GCM_SIV, bytes).ok().map(|key| Self(LessSafeKey::new(key)))
    }
}

/// What a state is bound to: another one of these, and it does not open.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'a> {
    /// Who asks.
    pub principal: &'a str,
    /// Through which OAuth client; empty where there is none.
    pub client: &'a str,
    /// The name of the server.
    pub server: &'a str,
    /// The request's method.
    pub method: &'a str,
    /// [`digest`] of the request.
    pub digest: [u8; 32],
}

impl Bound<'_> {
    /// Each part with its length before it, so that no two differ only in where a part ends.
    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(160);
        for part in [self.principal, self.client, self.server, self.method] {
            out.extend_from_slice(&(part.len() as u64).to_le_bytes());
            out.extend_from_slice(part.as_bytes());
        }
        out.extend_from_slice(&self.digest);
        out
    }
}

/// What a state says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The held call; `None` where none is held and the call is to be made again (B6).
    pub held: Option<[u8; 16]>,
    /// The process that it waits in; 0 where none is held.
    pub instance: u64,
    /// The round that was asked, from 1.
    pub round: u32,
    /// It opens until then; milliseconds since 1970.
    pub expires_ms: i64,
}

impl Ticket {
    fn bytes(&self) -> [u8; PLAIN] {
        let mut out = [0; PLAIN];
        out[0] = u8::from(self.held.is_some());
        out[1..17].copy_from_slice(&self.held.unwrap_or_default());
        out[17..25].copy_from_slice(&self.instance.to_le_bytes());
        out[25..29].copy_from_slice(&self.round.to_le_bytes());
        out[29..37].copy_from_slice(&self.expires_ms.to_le_bytes());
        out
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let held = match bytes.first()? {
            0 => None,
            1 => Some(bytes.get(1..17)?.try_into().ok()?),
            _ => return None,
        };
        Some(Self {
            held,
            instance: u64::from_le_bytes(bytes.get(17..25)?.try_into().ok()?),
            round: u32::from_le_bytes(bytes.get(25..29)?.try_into().ok()?),
            expires_ms: i64::from_le_bytes(bytes.get(29..37)?.try_into().ok()?),
        })
    }
}

/// Writes a state. `None` only if the library cannot work at all.
pub fn seal(key: &Key, nonce: [u8; NONCE], bound: &Bound<'_>, ticket: &Ticket) -> Option<String> {
    let mut sealed = ticket.bytes().to_vec();
    key.0.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound.bytes()), &mut sealed).ok()?;
    let mut raw = nonce.to_vec();
    raw.append(&mut sealed);
    Some(format!("{PREFIX}{}", encode(&raw)))
}

/// Reads a state that is ours, bound to just this, and not expired at `now_ms`. Why one is not, nobody is told.
pub fn open(key: &Key, bound: &Bound<'_>, now_ms: i64, state: &str) -> Option<Ticket> {
    let raw = decode(state.strip_prefix(PREFIX)?)?;
    let (nonce, sealed) = raw.split_first_chunk::<NONCE>()?;
    let mut sealed = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let plain = key.0.open_in_place(nonce, Aad::from(bound.bytes()), &mut sealed).ok()?;
    Ticket::read(plain).filter(|ticket| now_ms < ticket.expires_ms)
}

/// SHA-256 of a request's params in canonical form, without `_meta` (progress token and trace change with each retry),
/// `inputResponses` and `requestState`.
pub fn digest(message: &Message) -> [u8; 32] {
    let canonical = match message.object(Place::Params) {
        Some(params) => {
            let mut splice = Splice::new();
            for name in ["_meta", "inputResponses", "requestState"] {
                if let Some(member) = message.noted(Place::Params, name) {
                    splice.delete_member(message.bytes(), params, member.key);
                }
            }
            let mut kept = Vec::new();
            splice.write(message.bytes(), params, &mut kept);
            scan::canonical(&kept, Span::all(&kept))
        }
        None => Vec::new(),
    };
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, &canonical).as_ref());
    out
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// base64url without padding (RFC 4648, section 5).
fn encode(raw: &[u8]) -> String {
    let mut text = String::with_capacity(raw.len().div_ceil(3) * 4);
    for group in raw.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for shift in [18_u32, 12, 6, 0].into_iter().take(group.len() + 1) {
            let digit = usize::try_from(bits >> shift & 63).unwrap_or(0);
            text.push(char::from(ALPHABET[digit]));
        }
    }
    text
}

/// The one spelling of a sealed ticket; anything else is none.
fn decode(text: &str) -> Option<Vec<u8>> {
    if text.len() != (SEALED * 4).div_ceil(3) {
        return None;
    }
    let mut raw = Vec::with_capacity(SEALED + 2);
    for group in text.as_bytes().chunks(4) {
        let mut bits = 0_u32;
        for digit in group {
            let value = ALPHABET.iter().position(|known| known == digit)?;
            bits = bits << 6 | u32::try_from(value).ok()?;
        }
        bits <<= 6 * (4 - group.len());
        let [_, bytes @ ..] = bits.to_be_bytes();
        raw.extend_from_slice(&bytes[..group.len() - 1]);
        // Bits that mean nothing must be nothing, or one state had many spellings.
        if bytes[group.len() - 1..].iter().any(|byte| *byte != 0) {
            return None;
        }
    }
    Some(raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{Limits, Side};
    use bytes::Bytes;
    use proptest::prelude::*;

    fn key() -> Key {
        Key::new(&[7; 32]).unwrap()
    }

    const BOUND: Bound<'static> =
        Bound { principal: "ann", client: "", server: "s", method: "tools/call", digest: [3; 32] };
    const TICKET: Ticket = Ticket { held: Some([9; 16]), instance: 4, round: 2, expires_ms: 1000 };

    fn sealed() -> String {
        seal(&key(), [1; NONCE], &BOUND, &TICKET).unwrap()
    }

    fn request(params: &str) -> Message {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        Message::parse(Bytes::from(text), Side::Client, &Limits { bytes: 1 << 20, depth: 64 }).unwrap()
    }

    #[test]
    fn e171_a_state_opens_for_its_own_alone() {
        let state = sealed();
        assert_eq!(open(&key(), &BOUND, 999, &state), Some(TICKET));
        for other in [
            Bound { principal: "bob", ..BOUND },
            Bound { client: "c", ..BOUND },
            Bound { server: "t", ..BOUND },
            Bound { method: "prompts/get", ..BOUND },
            Bound { digest: [4; 32], ..BOUND },
            Bound { principal: "an", client: "n", ..BOUND },
        ] {
            assert_eq!(open(&key(), &other, 999, &state), None, "{other:?}");
        }
        assert_eq!(open(&key(), &BOUND, 1000, &state), None, "expired");
        assert_eq!(open(&Key::new(&[8; 32]).unwrap(), &BOUND, 999, &state), None, "another life of the daemon");
        let again = Ticket { held: None, ..TICKET };
        let state = seal(&key(), [1; NONCE], &BOUND, &again).unwrap();
        assert_eq!(open(&key(), &BOUND, 999, &state), Some(again));
    }

    #[test]
    fn e170_a_changed_state_does_not_open() {
        let state = sealed();
        for at in 0..state.len() {
            for with in ['A', 'B', '_', '=', '\u{e9}'] {
                let mut other: Vec<char> = state.chars().collect();
                if std::mem::replace(&mut other[at], with) != with {
                    let other: String = other.into_iter().collect();
                    assert_eq!(open(&key(), &BOUND, 0, &other), None, "{other}");
                }
            }
        }
        for other in
            ["", "v1.", "v1", "v2.x", &state[3..], &format!("{state}-TAMPERED"), &format!("{state}="), &state[..20]]
        {
            assert_eq!(open(&key(), &BOUND, 0, other), None, "{other}");
        }
    }

    #[test]
    fn the_digest_is_of_what_is_asked_alone() {
        let base = digest(&request(r#"{"name":"t","arguments":{"a":1,"b":"\u0041"}}"#));
        for same in [
            r#"{ "arguments" : {"b":"A","a":1} ,"name":"t"}"#,
            r#"{"_meta":{"progressToken":3},"name":"t","arguments":{"a":1,"b":"A"},"requestState":"x","inputResponses":{}}"#,
        ] {
            assert_eq!(digest(&request(same)), base, "{same}");
        }
        for other in [
            r#"{"name":"u","arguments":{"a":1,"b":"A"}}"#,
            r#"{"name":"t","arguments":{"a":2,"b":"A"}}"#,
            r#"{"name":"t","arguments":{"a":1,"b":"A","_meta":{}}}"#,
            r#"{"name":"t"}"#,
        ] {
            assert_ne!(digest(&request(other)), base, "{other}");
        }
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens(
            held in proptest::option::of(any::<[u8; 16]>()), instance: u64, round: u32, expires_ms in 1_i64.., nonce: [u8; NONCE],
        ) {
            let ticket = Ticket { held, instance, round, expires_ms };
            let state = seal(&key(), nonce, &BOUND, &ticket).unwrap();
            prop_assert!(state.bytes().all(|byte| matches!(byte, 0x21..=0x7e)));
            prop_assert_eq!(open(&key(), &BOUND, 0, &state), Some(ticket));
        }
    }
}
