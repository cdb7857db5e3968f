//! Server-sent events as the WHATWG standard reads them: bytes in, events out.

use std::collections::VecDeque;

/// The most bytes of one event, and of all lines not yet read.
const MAX_EVENT: usize = 256 << 20;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// The `data` lines, joined with newlines. Empty for an event that only sets an id.
    pub data: String,
    /// The `id` of this event, if it had one.
    pub id: Option<String>,
    /// The `event` type, if it had one.
    pub event: Option<String>,
    /// The `retry` time in milliseconds, if it had one.
    pub retry: Option<u64>,
}

/// More than `MAX_EVENT` bytes without an end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// Cuts a byte stream into events.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    pending: Option<Event>,
    has_data: bool,
    /// Comment lines so far.
    pub(crate) comments: usize,
}

impl Parser {
    /// Takes the next bytes; what they complete is appended to `events`. Lines end with LF or CRLF.
    pub(crate) fn feed(&mut self, bytes: &[u8], events: &mut VecDeque<Event>) -> Result<(), TooLong> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let waiting = self.pending.as_ref().map_or(0, |event| event.data.len());
            if self.line.len() + part.len() + waiting > MAX_EVENT {
                return Err(TooLong);
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                let line = String::from_utf8_lossy(&line);
                self.take(line.trim_end_matches('\n').trim_end_matches('\r'), events);
            }
        }
        Ok(())
    }

    fn take(&mut self, line: &str, events: &mut VecDeque<Event>) {
        if line.is_empty() {
            self.has_data = false;
            return events.extend(self.pending.take());
        }
        if line.starts_with(':') {
            self.comments += 1;
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        let event = self.pending.get_or_insert_default();
        match field {
            "data" => {
                if self.has_data {
                    event.data.push('\n');
                }
                self.has_data = true;
                event.data.push_str(value);
            }
            "id" => event.id = Some(value.to_owned()),
            "event" => event.event = Some(value.to_owned()),
            "retry" => event.retry = value.parse().ok(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, Parser};
    use std::collections::VecDeque;

    const STREAM: &[u8] = b": hello\r\n\r\nid: 1\ndata:\n\nevent: message\r\nid:2\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\n\
        retry: 500\n\n:\n\ndata: unfinished";

    fn read(chunk: usize) -> (VecDeque<Event>, usize) {
        let (mut parser, mut events) = (Parser::default(), VecDeque::new());
        for bytes in STREAM.chunks(chunk) {
            parser.feed(bytes, &mut events).unwrap();
        }
        (events, parser.comments)
    }

    #[test]
    fn events_are_the_same_however_the_bytes_arrive() {
        let event =
            |data: &str, id: Option<&str>| Event { data: data.into(), id: id.map(Into::into), ..Event::default() };
        let expected = [
            event("", Some("1")),
            Event { event: Some("message".into()), ..event("{\"a\":\n1}", Some("2")) },
            Event { retry: Some(500), ..Event::default() },
        ];
        for chunk in 1..=STREAM.len() {
            assert_eq!(read(chunk), (VecDeque::from(expected.clone()), 2), "chunks of {chunk}");
        }
    }
}
