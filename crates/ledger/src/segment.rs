//! Segments, the truth of the log: files of frames behind one header. How a frame is written, how it is told from a torn or
//! altered one, and how a segment is walked.
//!
//! ```text
//! header, 4,096 bytes:
//!   0  magic "tlogseg\x01"          8  hashes of the frontier, u32      12  zero, u32
//!  16  first index, u64            24  SHA-256 of the origin, 32       56  salt, 16
//!  72  frontier: roots of the complete subtrees before the first index, the largest first, 32 each
//!      zeros                     4092  CRC-32C of all before it
//! frame:  [kind << 24 | length: u32] [crc: u32] [length bytes]
//! ```
//!
//! Numbers are little-endian. The crc is CRC-32C over salt ‖ index (u64) ‖ the length word ‖ the bytes, so that a frame that
//! was moved, doubled or taken from another segment is seen by itself. Kind 1 is an entry. Kind 2 is a mark, salt ‖ synced
//! (u64) ‖ offset (u64): all entries below `synced`, which end at `offset`, were durable before it was written; its index
//! is `synced`. A word of zero ends the segment: space that is reserved and not yet used.
//!
//! The salt is random and told to nobody who sends entries: nobody can send one that contains a frame.

use crate::disk::DiskFile;
use crate::hash::{Hash, sha256};
use crate::tile::MAX_ENTRY;
use crate::tree::Frontier;
use std::io;

/// Bytes of a segment's header.
pub(crate) const HEADER: usize = 4096;
/// Bytes before a frame's content.
pub(crate) const PREFIX: usize = 8;
/// Bytes of a mark with its prefix.
pub(crate) const MARK: usize = PREFIX + MARK_CONTENT;
/// Bytes read at once when a segment is walked.
pub(crate) const CHUNK: usize = 128 * 1024;

const MAGIC: &[u8; 8] = b"tlogseg\x01";
const SALT: usize = 16;
const MARK_CONTENT: usize = SALT + 16;
const FRONTIER: usize = 72;
const ENTRY_KIND: u32 = 1 << 24;
const MARK_KIND: u32 = 2 << 24;

/// What the header of a segment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// SHA-256 of the origin: which log this is of.
    pub(crate) origin: Hash,
    /// What makes crcs of this segment differ from those of all others.
    pub(crate) salt: [u8; SALT],
    /// The tree before the first entry; its size is the first index.
    pub(crate) before: Frontier,
}

impl Header {
    /// The header of a segment of `origin` that begins behind `before`.
    pub(crate) fn new(origin: &str, salt: [u8; SALT], before: Frontier) -> Self {
        Self { origin: sha256(origin.as_bytes()), salt, before }
    }

    /// Index of the first entry.
    pub(crate) fn first(&self) -> u64 {
        self.before.size()
    }

    /// The bytes at the beginning of the file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let hashes = self.before.hashes();
        let mut out = Vec::with_capacity(HEADER);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.before.size().count_ones().to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.first().to_le_bytes());
        out.extend_from_slice(&self.origin.0);
        out.extend_from_slice(&self.salt);
        hashes.iter().for_each(|hash| out.extend_from_slice(&hash.0));
        out.resize(HEADER - 4, 0);
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    /// The header in the first bytes of a file; `None` if they are none.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER] = bytes.first_chunk()?;
        let (covered, crc) = bytes.split_last_chunk::<4>()?;
        if !covered.starts_with(MAGIC) || crc32c::crc32c(covered) != u32::from_le_bytes(*crc) {
            return None;
        }
        let hashes = usize::try_from(u32_at(bytes, 8)?).ok()?.checked_mul(Hash::LEN)?;
        let frontier = bytes.get(FRONTIER..HEADER - 4)?.get(..hashes)?;
        let frontier = frontier.chunks_exact(Hash::LEN).filter_map(Hash::from_bytes).collect();
        Some(Self {
            origin: Hash::from_bytes(bytes.get(24..56)?)?,
            salt: bytes.get(56..FRONTIER)?.try_into().ok()?,
            before: Frontier::from_parts(u64_at(bytes, 16)?, frontier)?,
        })
    }

    /// How the frames of this segment are sealed.
    pub(crate) fn seal(&self) -> Seal {
        Seal { salt: self.salt, crc: crc32c::crc32c(&self.salt) }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Writes and reads the frames of one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seal {
    salt: [u8; SALT],
    /// The crc after the salt.
    crc: u32,
}

/// What lies at the beginning of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// An entry.
    Entry(&'a [u8]),
    /// A mark.
    Mark(Mark),
    /// Zeros, as far as a length word reaches: the end, if all behind is zeros as well.
    Zero,
    /// Neither, or not all of it.
    Bad,
}

/// All entries below `synced` were durable when this was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark {
    /// How many entries.
    pub(crate) synced: u64,
    /// Where in this segment they end.
    pub(crate) offset: u64,
}

impl Seal {
    fn crc(self, index: u64, word: u32, content: &[u8]) -> u32 {
        let mut head = [0; 12];
        let (left, right) = head.split_at_mut(8);
        left.copy_from_slice(&index.to_le_bytes());
        right.copy_from_slice(&word.to_le_bytes());
        crc32c::crc32c_append(crc32c::crc32c_append(self.crc, &head), content)
    }

    fn push(self, out: &mut Vec<u8>, index: u64, word: u32, content: &[u8]) {
        out.extend_from_slice(&word.to_le_bytes());
        out.extend_from_slice(&self.crc(index, word, content).to_le_bytes());
        out.extend_from_slice(content);
    }

    /// Appends the frame of entry number `index`; nothing for an entry that is too long.
    pub(crate) fn push_entry(self, out: &mut Vec<u8>, index: u64, entry: &[u8]) {
        if let Ok(len) = u16::try_from(entry.len()) {
            self.push(out, index, ENTRY_KIND | u32::from(len), entry);
        }
    }

    /// Appends a mark.
    pub(crate) fn push_mark(self, out: &mut Vec<u8>, mark: Mark) {
        let mut content = Vec::with_capacity(MARK_CONTENT);
        content.extend_from_slice(&self.salt);
        content.extend_from_slice(&mark.synced.to_le_bytes());
        content.extend_from_slice(&mark.offset.to_le_bytes());
        self.push(out, mark.synced, MARK_KIND | 32, &content);
    }

    /// What `bytes` begin with, where entry number `index` would be next.
    pub(crate) fn frame(self, index: u64, bytes: &[u8]) -> Frame<'_> {
        let Some(word) = u32_at(bytes, 0) else {
            return if bytes.iter().all(|byte| *byte == 0) { Frame::Zero } else { Frame::Bad };
        };
        if word == 0 {
            return Frame::Zero;
        }
        let (Some(crc), Some(len)) = (u32_at(bytes, 4), usize::try_from(word & 0xFF_FFFF).ok()) else {
            return Frame::Bad;
        };
        let Some(content) = bytes.get(PREFIX..).and_then(|rest| rest.get(..len)) else { return Frame::Bad };
        match word & 0xFF00_0000 {
            ENTRY_KIND if len <= MAX_ENTRY && crc == self.crc(index, word, content) => Frame::Entry(content),
            MARK_KIND => self.mark(word, crc, content).map_or(Frame::Bad, Frame::Mark),
            _ => Frame::Bad,
        }
    }

    fn mark(self, word: u32, crc: u32, content: &[u8]) -> Option<Mark> {
        let mark = Mark { synced: u64_at(content, SALT)?, offset: u64_at(content, SALT + 8)? };
        let right = content.len() == MARK_CONTENT && content.starts_with(&self.salt);
        (right && crc == self.crc(mark.synced, word, content)).then_some(mark)
    }

    /// The last mark anywhere in `bytes`.
    pub(crate) fn last_mark(self, bytes: &[u8]) -> Option<Mark> {
        let mut last = None;
        let mut from = 0;
        while let Some(rest) = bytes.get(from..) {
            let Some(at) = rest.windows(SALT).position(|window| window == self.salt) else { break };
            let frame = (from + at).checked_sub(PREFIX).and_then(|start| bytes.get(start..));
            if let Some(Frame::Mark(mark)) = frame.map(|frame| self.frame(0, frame)) {
                last = last.max(Some(mark));
            }
            from += at + 1;
        }
        last
    }
}

/// One step through a segment.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    /// Entry number `index`, whose frame begins at `offset`.
    Entry {
        /// Which.
        index: u64,
        /// Where.
        offset: u64,
        /// Its bytes.
        entry: &'a [u8],
    },
    /// A mark.
    Mark(Mark),
    /// No frame follows.
    End,
}

/// A walk through the frames of a segment, from any frame on.
#[derive(Debug)]
pub(crate) struct Frames<'a> {
    file: &'a dyn DiskFile,
    seal: Seal,
    index: u64,
    offset: u64,
    buffer: Vec<u8>,
    /// Where in the buffer the next frame begins.
    at: usize,
    /// Whether the bytes in the buffer were no frame.
    stale: bool,
    chunk: usize,
}

impl<'a> Frames<'a> {
    /// Begins at `offset`, where the frame of entry number `index` (or a mark before it) lies. `chunk` bytes are read at once.
    pub(crate) fn new(file: &'a dyn DiskFile, seal: Seal, index: u64, offset: u64, chunk: usize) -> Self {
        Self { file, seal, index, offset, buffer: Vec::new(), at: 0, stale: false, chunk }
    }

    /// How many entries there are up to here, counted from the beginning of the log.
    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    /// Where the next frame begins.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next frame. After [`Step::End`] it may be asked again: another process may have written more.
    pub(crate) fn next(&mut self) -> io::Result<Step<'_>> {
        if self.stale || !self.holds_a_frame() {
            self.fill()?;
        }
        let (index, offset) = (self.index, self.offset);
        let taken = match self.seal.frame(index, self.buffer.get(self.at..).unwrap_or_default()) {
            Frame::Entry(entry) => {
                self.index += 1;
                (PREFIX + entry.len(), Step::Entry { index, offset, entry })
            }
            Frame::Mark(mark) => (MARK, Step::Mark(mark)),
            Frame::Zero | Frame::Bad => {
                self.stale = true;
                (0, Step::End)
            }
        };
        self.at += taken.0;
        self.offset += taken.0 as u64;
        Ok(taken.1)
    }

    /// Bytes of the next frame by its length word, and how many of them are in the buffer.
    fn needed(&self) -> (usize, usize) {
        let rest = self.buffer.get(self.at..).unwrap_or_default();
        let len = u32_at(rest, 0).and_then(|word| usize::try_from(word & 0xFF_FFFF).ok());
        (PREFIX + len.unwrap_or(0).min(MAX_ENTRY), rest.len())
    }

    fn holds_a_frame(&self) -> bool {
        let (needed, there) = self.needed();
        there >= needed
    }

    /// Makes the buffer begin at the next frame and hold all of it, if the file does.
    fn fill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.at.min(self.buffer.len()));
        self.at = 0;
        if self.stale {
            // What was no frame is read anew: it was perhaps being written.
            self.buffer.clear();
            self.stale = false;
        }
        // The second time, the length of a frame is known that is longer than what is read at once.
        for _ in 0..2 {
            let (needed, had) = self.needed();
            let left = usize::try_from(self.file.len()?.saturating_sub(self.offset)).unwrap_or(usize::MAX);
            let space = needed.max(self.chunk).min(left).max(had);
            self.buffer.resize(space, 0);
            let read = self.file.read_at(self.buffer.get_mut(had..).unwrap_or_default(), self.offset + had as u64)?;
            self.buffer.truncate(had + read);
            if self.holds_a_frame() || had + read < space {
                break;
            }
        }
        Ok(())
    }
}

/// What lies behind the last frame of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    /// Whether nothing but zeros.
    pub(crate) clean: bool,
    /// The last mark there: what was durable when it was written.
    pub(crate) mark: Option<Mark>,
}

/// Looks through everything from `offset` on.
pub(crate) fn tail(file: &dyn DiskFile, seal: Seal, offset: u64) -> io::Result<Tail> {
    let mut tail = Tail { clean: true, mark: None };
    let left = usize::try_from(file.len()?.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut buffer = vec![0; CHUNK.min(left.saturating_add(1)).max(2 * MARK)];
    let mut at = offset;
    loop {
        let read = file.read_at(&mut buffer, at)?;
        let there = buffer.get(..read).unwrap_or_default();
        if there.iter().any(|byte| *byte != 0) {
            tail.clean = false;
            tail.mark = tail.mark.max(seal.last_mark(there));
        }
        if read < buffer.len() {
            return Ok(tail);
        }
        // A mark may lie across two chunks.
        at += (read - MARK) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::leaf_hash;

    fn header(size: u64) -> Header {
        let mut before = Frontier::new();
        (0..size).for_each(|n| before.append(leaf_hash(&n.to_le_bytes())).unwrap());
        Header::new("example.com/log", [7; SALT], before)
    }

    #[test]
    fn a_header_comes_back_and_no_bit_of_it_may_flip() {
        for size in [0, 1, 1000] {
            let header = header(size);
            let bytes = header.encode();
            assert_eq!(bytes.len(), HEADER);
            assert_eq!(Header::decode(&bytes).as_ref(), Some(&header));
            assert_eq!(header.first(), size);
            for at in 0..HEADER {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << (at % 8);
                assert_eq!(Header::decode(&bad), None, "{at}");
            }
            assert_eq!(Header::decode(&bytes[..HEADER - 1]), None);
        }
    }

    #[test]
    fn a_frame_is_accepted_in_its_place_alone() {
        let seal = header(0).seal();
        let mut bytes = Vec::new();
        seal.push_entry(&mut bytes, 5, b"entry");
        assert_eq!(seal.frame(5, &bytes), Frame::Entry(b"entry"));
        assert_eq!(seal.frame(6, &bytes), Frame::Bad);
        assert_eq!(Header { salt: [8; SALT], ..header(0) }.seal().frame(5, &bytes), Frame::Bad);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(seal.frame(5, &bad), Frame::Bad, "{bit}");
        }
        for len in 0..bytes.len() {
            assert!(matches!(seal.frame(5, &bytes[..len]), Frame::Bad | Frame::Zero), "{len}");
        }
        let mut empty = Vec::new();
        seal.push_entry(&mut empty, 0, b"");
        assert_eq!(seal.frame(0, &empty), Frame::Entry(b""), "an empty entry is not the end");
        assert_eq!(seal.frame(0, &[0; 64]), Frame::Zero);
    }

    #[test]
    fn a_mark_is_found_anywhere_and_cannot_be_sent() {
        let (seal, mark) = (header(0).seal(), Mark { synced: 9, offset: 4096 });
        let mut bytes = vec![0xAA; 100];
        seal.push_mark(&mut bytes, mark);
        assert_eq!(bytes.len(), 100 + MARK);
        assert_eq!(seal.frame(3, &bytes[100..]), Frame::Mark(mark));
        bytes.extend_from_slice(&[0xBB; 100]);
        assert_eq!(seal.last_mark(&bytes), Some(mark));
        let other = Header { salt: [8; SALT], ..header(0) }.seal();
        assert_eq!(other.last_mark(&bytes), None);
    }
}
