//! Server-sent events as staithe reads them: from a remote server, in pieces of any size, with a bound on each event.
//! (WHATWG HTML, "Interpreting an event stream"; E26)

use memchr::memchr2;
use std::time::Duration;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its type; `message` where the server named none.
    pub name: String,
    /// Its data lines, joined by a line feed. May be empty: a priming event has only an id (E76).
    pub data: Vec<u8>,
    /// The last id that the stream has named so far: where to resume.
    pub id: Option<String>,
}

/// An event, or a line of one, is longer than the bound. The stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {limit} bytes")]
pub struct EventTooLong {
    /// The bound, bytes.
    pub limit: usize,
}

/// Longest name of an event, and longest id that is kept: it goes into a header.
const SHORT: usize = 1024;

/// Reads one stream.
#[derive(Debug)]
pub struct Events {
    limit: usize,
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// The line is a comment: its bytes are not kept.
    comment: bool,
    /// The last byte was a CR: a LF that follows belongs to it.
    after_cr: bool,
    /// Nothing was read yet: a byte order mark may come.
    fresh: bool,
    name: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    id: Option<String>,
    retry: Option<Duration>,
}

const BOM: &[u8] = b"\xef\xbb\xbf";

impl Events {
    /// Reads events of at most `limit` bytes of data.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            comment: false,
            after_cr: false,
            fresh: true,
            name: Vec::new(),
            data: Vec::new(),
            has_data: false,
            id: None,
            retry: None,
        }
    }

    /// Takes in more of the stream and hands each event that ends in it to `each`, in order. What is left at the end of
    /// the stream was no whole event and is never handed out. After an error the stream must not be read on.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Event)) -> Result<(), EventTooLong> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            match memchr2(b'\r', b'\n', bytes) {
                Some(end) => {
                    self.keep(&bytes[..end])?;
                    self.after_cr = bytes[end] == b'\r';
                    bytes = &bytes[end + 1..];
                    if let Some(event) = self.end_line()? {
                        each(event);
                    }
                }
                None => {
                    self.keep(bytes)?;
                    bytes = &[];
                }
            }
        }
        Ok(())
    }

    /// The last id that the stream has named.
    pub fn last_id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// How long the server wants its clients to wait before they connect again.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), EventTooLong> {
        if self.comment {
            return Ok(());
        }
        let start = self.line.len();
        // A field's name and the byte order mark come on top of what is bounded.
        if start + bytes.len() > self.limit.saturating_add(16) {
            // Of a comment that long nothing would be kept anyway.
            let first = self.line.first().or(bytes.first()).copied();
            if first != Some(b':') {
                return Err(EventTooLong { limit: self.limit });
            }
        }
        self.line.extend_from_slice(bytes);
        if self.line.first() == Some(&b':') {
            self.comment = true;
            self.line.truncate(1);
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<Option<Event>, EventTooLong> {
        let mut line = std::mem::take(&mut self.line);
        self.comment = false;
        if std::mem::take(&mut self.fresh) && line.starts_with(BOM) {
            line.drain(..BOM.len());
        }
        let event = if line.is_empty() { self.end_event() } else { self.field(&line).map(|()| None)? };
        line.clear();
        // The room of a line serves the next one, but not that of a giant.
        if line.capacity() <= 64 << 10 {
            self.line = line;
        }
        Ok(event)
    }

    fn field(&mut self, line: &[u8]) -> Result<(), EventTooLong> {
        let (name, value) = match memchr::memchr(b':', line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" => {
                if self.data.len() + value.len() >= self.limit.saturating_add(1) {
                    return Err(EventTooLong { limit: self.limit });
                }
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
            }
            b"event" => {
                self.name.clear();
                self.name.extend_from_slice(&value[..value.len().min(SHORT)]);
            }
            // One that no header could carry is no id that could be given back.
            b"id" if value.len() <= SHORT && value.iter().all(|byte| matches!(byte, b' '..=b'~')) => {
                self.id = Some(String::from_utf8_lossy(value).into_owned()).filter(|id| !id.is_empty());
            }
            b"retry" if !value.is_empty() && value.len() <= 9 && value.iter().all(u8::is_ascii_digit) => {
                let ms = value.iter().fold(0_u64, |ms, digit| ms * 10 + u64::from(digit - b'0'));
                self.retry = Some(Duration::from_millis(ms));
            }
            _ => {}
        }
        Ok(())
    }

    fn end_event(&mut self) -> Option<Event> {
        let name = std::mem::take(&mut self.name);
        let data = std::mem::take(&mut self.data);
        if !std::mem::take(&mut self.has_data) {
            return None;
        }
        let name = if name.is_empty() { "message".to_owned() } else { String::from_utf8_lossy(&name).into_owned() };
        Some(Event { name, data, id: self.id.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(limit: usize, pieces: &[&[u8]]) -> (Vec<Event>, bool, Events) {
        let (mut events, mut out) = (Events::new(limit), Vec::new());
        let failed = pieces.iter().any(|piece| events.feed(piece, |event| out.push(event)).is_err());
        (out, failed, events)
    }

    fn message(data: &str, id: Option<&str>) -> Event {
        Event { name: "message".to_owned(), data: data.as_bytes().to_vec(), id: id.map(str::to_owned) }
    }

    #[test]
    fn e26_the_examples_of_the_standard() {
        let (events, ..) = read(99, &[b"data: YHOO\ndata: +2\ndata: 10\n\n"]);
        assert_eq!(events, [message("YHOO\n+2\n10", None)]);
        let (events, ..) = read(
            99,
            &[b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n"],
        );
        assert_eq!(
            events,
            [message("first event", Some("1")), message("second event", None), message(" third event", None)]
        );
        let (events, ..) = read(99, &[b"data\n\ndata\ndata\n\ndata:"]);
        assert_eq!(events, [message("", None), message("\n", None)]);
        let (events, ..) = read(99, &[b"data:test\n\ndata: test\n\n"]);
        assert_eq!(events, [message("test", None), message("test", None)]);
    }

    #[test]
    fn every_line_end_ends_a_line() {
        for text in [
            "event: a\ndata: x\n\n",
            "event: a\r\ndata: x\r\n\r\n",
            "event: a\rdata: x\r\r",
            "\u{feff}event: a\r\ndata: x\n\r",
        ] {
            let (events, ..) = read(99, &[text.as_bytes()]);
            assert_eq!(events, [Event { name: "a".to_owned(), data: b"x".to_vec(), id: None }], "{text:?}");
        }
    }

    #[test]
    fn e76_a_priming_event_has_an_id_and_nothing_else() {
        let (events, _, state) = read(99, &[b"id: 7\nretry: 1500\ndata: \n\n"]);
        assert_eq!(events, [message("", Some("7"))]);
        assert_eq!((state.last_id(), state.retry()), (Some("7"), Some(Duration::from_millis(1500))));
        let (events, _, state) = read(99, &[b"id: 8\n\nretry: x\n\nid: \xc3\xa9\n\n"]);
        assert!(events.is_empty());
        assert_eq!((state.last_id(), state.retry()), (Some("8"), None));
    }

    #[test]
    fn e16_what_is_too_long_is_refused_before_it_is_kept() {
        let endless = [b"data: ".as_slice(), &[b'x'; 200]].concat();
        assert!(read(100, &[&endless]).1);
        let in_lines = "data: 0123456789\n".repeat(12);
        assert!(read(100, &[in_lines.as_bytes()]).1);
        assert!(!read(100, &[[b"data: ".as_slice(), &[b'x'; 100], b"\n\n"].concat().as_slice()]).1);
    }

    #[test]
    fn e16_an_endless_comment_costs_nothing() {
        let mut events = Events::new(100);
        events.feed(b": ", |_| ()).unwrap();
        for _ in 0..1000 {
            events.feed(&[b'x'; 1000], |_| ()).unwrap();
        }
        assert!(events.line.capacity() < 4096);
        let mut seen = 0;
        events.feed(b"\ndata: x\n\n", |_| seen += 1).unwrap();
        assert_eq!(seen, 1);
    }

    proptest::proptest! {
        #[test]
        fn any_pieces_give_the_same_events(
            text in proptest::collection::vec(proptest::sample::select(&b"adteivn: \r\n\r\n1\xef\xbb\xbf"[..]), 0..200),
            cuts in proptest::collection::vec(0_usize..200, 0..20),
        ) {
            let text = [b"data:".as_slice(), &text].concat();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
            let (whole, ..) = read(1000, &[&text]);
            proptest::prop_assert_eq!(whole, read(1000, &pieces).0);
        }

        #[test]
        fn what_we_write_is_read_back(data in "[ -~é世\r\n]{0,80}") {
            let mut text = Vec::new();
            crate::sse::event(&mut text, data.as_bytes());
            let (events, ..) = read(1000, &[&text]);
            proptest::prop_assert_eq!(events, [message(&data.replace(['\r', '\n'], " "), None)]);
        }
    }
}
