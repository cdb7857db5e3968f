//! The hashes of RFC 6962, section 2.1: of a leaf, of two subtrees, of the empty tree; and how one is written as text.

use aws_lc_rs::digest::{Context, SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use std::str::FromStr;

/// One SHA-256 hash. As text it is base64 (RFC 4648, section 4) with padding, in its one canonical spelling.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; Self::LEN]);

impl Hash {
    /// Bytes of a hash.
    pub const LEN: usize = 32;
    /// Characters of a hash as text.
    pub const TEXT: usize = 44;

    /// A hash from exactly 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl AsRef<[u8]> for Hash {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not the base64 of 32 bytes in its canonical spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a hash: expected 44 characters of canonical base64")]
pub struct NotAHash;

impl FromStr for Hash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Self, NotAHash> {
        if text.len() != Self::TEXT {
            return Err(NotAHash);
        }
        let bytes = STANDARD.decode(text).map_err(|_| NotAHash)?;
        Self::from_bytes(&bytes).ok_or(NotAHash)
    }
}

/// SHA-256 of `bytes`, with nothing before them.
pub fn sha256(bytes: &[u8]) -> Hash {
    taken(digest(&SHA256, bytes).as_ref())
}

/// SHA-256 of a sequence of pieces.
pub(crate) fn sha256_of(pieces: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    pieces.iter().for_each(|piece| context.update(piece));
    taken(context.finish().as_ref())
}

/// The digest is 32 bytes by its algorithm; this only moves them.
fn taken(digest: &[u8]) -> Hash {
    let mut out = [0; Hash::LEN];
    out.iter_mut().zip(digest).for_each(|(to, from)| *to = *from);
    Hash(out)
}

/// The hash of a leaf: SHA-256(0x00 ‖ entry).
pub fn leaf_hash(entry: &[u8]) -> Hash {
    sha256_of(&[&[0], entry])
}

/// The hash of a node: SHA-256(0x01 ‖ left ‖ right).
pub fn node_hash(left: Hash, right: Hash) -> Hash {
    let mut buffer = [1_u8; 1 + 2 * Hash::LEN];
    let (first, second) = buffer.split_at_mut(1 + Hash::LEN);
    first.iter_mut().skip(1).zip(left.0).for_each(|(to, from)| *to = from);
    second.copy_from_slice(&right.0);
    sha256(&buffer)
}

/// The root of the tree without leaves: SHA-256 of nothing.
pub fn empty_root() -> Hash {
    sha256(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(hash: Hash) -> String {
        hash.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn hashes_are_those_of_rfc_6962() {
        assert_eq!(hex(empty_root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(hex(leaf_hash(b"")), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
        let node = node_hash(leaf_hash(b""), leaf_hash(b"\0"));
        assert_eq!(hex(node), "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125");
    }

    #[test]
    fn text_has_one_spelling() {
        let text = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        assert_eq!(text.parse(), Ok(empty_root()));
        assert_eq!(empty_root().to_string(), text);
        assert_eq!(format!("{:?}", empty_root()), text);
        for bad in [
            "",
            "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
            "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFV=",
            "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU=",
            "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n",
            " 7DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuA==",
        ] {
            assert_eq!(bad.parse::<Hash>(), Err(NotAHash), "{bad:?}");
        }
    }
}
