//! Lines from a pipe, bounded: the framer of stdio. (E16, E220, E222)

use bytes::{Buf, Bytes, BytesMut};

/// A line longer than the limit. The stream cannot be trusted after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line is longer than {limit} bytes")]
pub struct LineTooLong {
    /// The limit, bytes.
    pub limit: usize,
}

/// Splits what was read so far into lines. Never scans a byte twice.
#[derive(Debug)]
pub struct Lines {
    limit: usize,
    /// So much of the buffer's front has no line end.
    searched: usize,
}

const BOM: &[u8] = b"\xef\xbb\xbf";

impl Lines {
    /// Lines of at most `limit` bytes, line end not counted.
    pub fn new(limit: usize) -> Self {
        Self { limit, searched: 0 }
    }

    /// The next whole line without its CR LF, taken from the front of `buffer` without copying; `None` until one is there.
    /// A leading BOM is dropped, empty lines are skipped. Between calls the caller only appends to `buffer`. An error
    /// takes nothing from it and comes back on every later call.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Option<Result<Bytes, LineTooLong>> {
        loop {
            let unread = buffer.get(self.searched..).unwrap_or_default();
            let Some(found) = memchr::memchr(b'\n', unread) else {
                self.searched = buffer.len();
                // One byte over may still be the CR of a line that just fits.
                let over = buffer.len() > self.limit.saturating_add(1);
                return over.then_some(Err(LineTooLong { limit: self.limit }));
            };
            let end = self.searched + found;
            let length = if end > 0 && buffer[end - 1] == b'\r' { end - 1 } else { end };
            if length > self.limit {
                self.searched = end;
                return Some(Err(LineTooLong { limit: self.limit }));
            }
            self.searched = 0;
            let mut line = buffer.split_to(end + 1);
            line.truncate(length);
            if line.starts_with(BOM) {
                line.advance(BOM.len());
            }
            if !line.is_empty() {
                return Some(Ok(line.freeze()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(limit: usize, chunks: &[&[u8]]) -> (Vec<Vec<u8>>, bool) {
        let (mut lines, mut buffer, mut out) = (Lines::new(limit), BytesMut::new(), Vec::new());
        for chunk in chunks {
            buffer.extend_from_slice(chunk);
            while let Some(line) = lines.next(&mut buffer) {
                match line {
                    Ok(line) => out.push(line.to_vec()),
                    Err(_) => return (out, true),
                }
            }
        }
        (out, false)
    }

    #[test]
    fn e220_lines_end_at_lf_and_lose_their_cr() {
        let (lines, failed) = all(100, &[b"one\r\ntwo\n\r\n\n\xef\xbb\xbfthree\nrest"]);
        assert_eq!(lines, [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
        assert!(!failed);
    }

    #[test]
    fn e16_the_limit_counts_the_line_without_its_end() {
        assert_eq!(all(3, &[b"abc\r\n", b"abc\n"]), (vec![b"abc".to_vec(); 2], false));
        assert_eq!(all(3, &[b"abcd\n"]), (vec![], true));
        assert_eq!(all(3, &[b"abc", b"\r", b"\n"]), (vec![b"abc".to_vec()], false));
        assert_eq!(all(3, &[b"abcde"]), (vec![], true), "an endless line is refused before its end");
    }

    #[test]
    fn e16_an_error_stays() {
        let (mut lines, mut buffer) = (Lines::new(2), BytesMut::from(&b"abc\nok\n"[..]));
        for _ in 0..3 {
            assert_eq!(lines.next(&mut buffer), Some(Err(LineTooLong { limit: 2 })));
        }
        assert_eq!(buffer.len(), 7);
    }

    #[test]
    fn a_line_is_not_copied() {
        let (mut lines, mut buffer) = (Lines::new(100), BytesMut::from(&b"{\"a\":1}\nmore"[..]));
        let at = buffer.as_ptr();
        let line = lines.next(&mut buffer).unwrap().unwrap();
        assert_eq!(line.as_ptr(), at);
    }

    proptest::proptest! {
        #[test]
        fn any_chunking_gives_the_same_lines(
            text in proptest::collection::vec(proptest::sample::select(&b"ab\r\n\xef\xbb\xbf"[..]), 0..200),
            cuts in proptest::collection::vec(0_usize..200, 0..20),
            limit in 1_usize..20,
        ) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let chunks: Vec<_> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
            let (whole, chunked) = (all(limit, &[&text]), all(limit, &chunks));
            proptest::prop_assert_eq!(whole, chunked);
        }
    }
}
