//! Where entries are in a sealed segment: the offset of the first entry of each bundle, so that a bundle or an entry is found
//! without a walk. Derived from the segment, and rebuilt where it is missing or wrong.
//!
//! `"tlogidx\x01"`, first index (u64), entries (u64), the segment's salt (16), offsets (u32 each), CRC-32C of all before.

use crate::tile::WIDTH;

const MAGIC: &[u8; 8] = b"tlogidx\x01";
const BUNDLE: u64 = WIDTH as u64;

/// The offsets of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Index {
    /// Index of the segment's first entry.
    first: u64,
    /// Its entries so far.
    count: u64,
    /// Of each entry in it whose index is a multiple of 256.
    offsets: Vec<u32>,
}

impl Index {
    /// Of a segment without entries.
    pub(crate) fn new(first: u64) -> Self {
        Self { first, count: 0, offsets: Vec::new() }
    }

    /// One behind the last entry.
    pub(crate) fn end(&self) -> u64 {
        self.first.saturating_add(self.count)
    }

    /// Notes the next entry, whose frame begins at `offset`.
    pub(crate) fn push(&mut self, offset: u64) {
        if self.end().is_multiple_of(BUNDLE) {
            // Segments are shorter than 4 GiB.
            self.offsets.push(u32::try_from(offset).unwrap_or(u32::MAX));
        }
        self.count += 1;
    }

    /// Where to begin a walk that shall come to `index`: the index and offset of a frame at or before it. `None`: at the
    /// segment's first.
    pub(crate) fn near(&self, index: u64) -> Option<(u64, u64)> {
        let bundle = index / BUNDLE;
        let nth = bundle.checked_sub(self.first.div_ceil(BUNDLE))?;
        let offset = self.offsets.get(usize::try_from(nth).ok()?)?;
        Some((bundle * BUNDLE, u64::from(*offset)))
    }

    /// The file.
    pub(crate) fn encode(&self, salt: [u8; 16]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&salt);
        self.offsets.iter().for_each(|offset| out.extend_from_slice(&offset.to_le_bytes()));
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    /// The file read back, if it is that of the segment `first..end`.
    pub(crate) fn decode(bytes: &[u8], first: u64, end: u64, salt: [u8; 16]) -> Option<Self> {
        let (covered, crc) = bytes.split_last_chunk::<4>()?;
        let offsets = covered.get(40..)?.as_chunks::<4>().0.iter().map(|offset| u32::from_le_bytes(*offset)).collect();
        let index = Self { first, count: end.checked_sub(first)?, offsets };
        let wanted = end.div_ceil(BUNDLE).checked_sub(first.div_ceil(BUNDLE))?;
        let whole = u64::try_from(index.offsets.len()) == Ok(wanted) && index.encode(salt) == bytes;
        (whole && crc32c::crc32c(covered) == u32::from_le_bytes(*crc)).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_those_of_bundles() {
        let mut index = Index::new(300);
        (0..1000_u64).for_each(|n| index.push(4096 + n * 10));
        assert_eq!(index.end(), 1300);
        assert_eq!(index.near(300), None);
        assert_eq!(index.near(511), None);
        assert_eq!(index.near(512), Some((512, 4096 + 212 * 10)));
        assert_eq!(index.near(1299), Some((1280, 4096 + 980 * 10)));
        let bytes = index.encode([1; 16]);
        assert_eq!(Index::decode(&bytes, 300, 1300, [1; 16]), Some(index));
        assert_eq!(Index::decode(&bytes, 300, 1301, [1; 16]), None);
        assert_eq!(Index::decode(&bytes, 300, 1300, [2; 16]), None);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 16;
            assert_eq!(Index::decode(&bad, 300, 1300, [1; 16]), None);
        }
    }
}
