//! Reads text that a scan has accepted: members, elements, strings, canonical form. It checks nothing again, and on
//! other text it ends early rather than going wrong.

use crate::scan::{Kind, Span};
use memchr::memchr2;
use std::borrow::Cow;

/// Members (key span with quotes, value span, kind) of an object in text that a scan has accepted.
pub fn members(bytes: &[u8], object: Span) -> impl Iterator<Item = (Span, Span, Kind)> {
    let mut walk = Walk::into(bytes, object, b'{');
    std::iter::from_fn(move || {
        let (key, _) = walk.next_value()?;
        walk.pass(b':');
        let (value, kind) = walk.next_value()?;
        walk.pass(b',');
        Some((key, value, kind))
    })
}

/// Elements of an array in text that a scan has accepted.
pub fn elements(bytes: &[u8], array: Span) -> impl Iterator<Item = (Span, Kind)> {
    let mut walk = Walk::into(bytes, array, b'[');
    std::iter::from_fn(move || {
        let element = walk.next_value()?;
        walk.pass(b',');
        Some(element)
    })
}

/// The value of the member `name` of an object in text that a scan has accepted.
pub fn member(bytes: &[u8], object: Span, name: &str) -> Option<(Span, Kind)> {
    members(bytes, object).find(|(key, ..)| text(bytes, *key) == name).map(|(_, value, kind)| (value, kind))
}

/// Walks accepted text. It trusts the grammar, not its luck: on other text it ends early and never reads outside.
struct Walk<'a> {
    /// The text up to the end of the container's last member.
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    /// Stands at the first value inside a container; at the end if the span is no such container.
    fn into(bytes: &'a [u8], container: Span, opening: u8) -> Self {
        let fits = container.end <= bytes.len() && container.start < container.end;
        if !fits || bytes[container.start] != opening {
            return Self { bytes: &[], at: 0 };
        }
        Self { bytes: &bytes[..container.end - 1], at: container.start + 1 }
    }

    fn next_value(&mut self) -> Option<(Span, Kind)> {
        self.space();
        let start = self.at;
        let kind = match self.bytes.get(start)? {
            b'"' => {
                self.string();
                Kind::String
            }
            b'{' => {
                self.container();
                Kind::Object
            }
            b'[' => {
                self.container();
                Kind::Array
            }
            first => {
                let kind = match first {
                    b't' => Kind::True,
                    b'f' => Kind::False,
                    b'n' => Kind::Null,
                    _ => Kind::Number,
                };
                let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r');
                self.at += self.bytes[start..].iter().position(ends).unwrap_or(self.bytes.len() - start);
                kind
            }
        };
        Some((Span { start, end: self.at }, kind))
    }

    fn string(&mut self) {
        self.at += 1;
        while let Some(found) = memchr2(b'"', b'\\', self.bytes.get(self.at..).unwrap_or_default()) {
            self.at += found + 1;
            if self.bytes[self.at - 1] == b'"' {
                return;
            }
            self.at += 1;
        }
        self.at = self.bytes.len();
    }

    fn container(&mut self) {
        let mut depth = 0_usize;
        while let Some(byte) = self.bytes.get(self.at) {
            match byte {
                b'"' => {
                    self.string();
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return;
            }
        }
    }

    fn pass(&mut self, byte: u8) {
        self.space();
        if self.bytes.get(self.at) == Some(&byte) {
            self.at += 1;
        }
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }
}

/// A JSON string (span with quotes) decoded, in text that a scan has accepted. A lone surrogate becomes U+FFFD.
pub fn text(bytes: &[u8], string: Span) -> Cow<'_, str> {
    let inner = bytes.get(string.start + 1..string.end.saturating_sub(1)).unwrap_or_default();
    match std::str::from_utf8(inner) {
        Ok(inner) if memchr::memchr(b'\\', inner.as_bytes()).is_none() => Cow::Borrowed(inner),
        Ok(inner) => Cow::Owned(decode(inner)),
        Err(_) => String::from_utf8_lossy(inner),
    }
}

/// Replaces the escapes of an accepted string. Two different lone surrogates both become U+FFFD, so two keys that differ
/// only in them count as duplicates: there are parsers that read them so.
pub(crate) fn decode(inner: &str) -> String {
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        let escape = rest.as_bytes().get(at + 1).copied().unwrap_or(b'\\');
        rest = rest.get(at + 2..).unwrap_or_default();
        out.push(match escape {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => decode_unit(&mut rest),
            other => char::from(other),
        });
    }
    out.push_str(rest);
    out
}

/// The character of `\u` and what follows it, which is taken from the front of `rest`.
fn decode_unit(rest: &mut &str) -> char {
    let Some(first) = unit(rest) else { return char::REPLACEMENT_CHARACTER };
    *rest = &rest[4..];
    if (0xd800..0xdc00).contains(&first) {
        let second = rest.strip_prefix("\\u").and_then(unit).filter(|unit| (0xdc00..0xe000).contains(unit));
        if let Some(second) = second {
            *rest = &rest[6..];
            let scalar = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            return char::from_u32(scalar).unwrap_or(char::REPLACEMENT_CHARACTER);
        }
    }
    char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn unit(text: &str) -> Option<u32> {
    u32::from_str_radix(text.get(..4)?, 16).ok()
}

/// `text` as a JSON string with quotes, appended.
pub fn write_text(out: &mut Vec<u8>, text: &str) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            control => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let (high, low) = (usize::from(control >> 4), usize::from(control & 15));
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[high], HEX[low]]);
            }
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// An equal value with sorted members, no white space and plain string escapes, for comparing and hashing capabilities.
/// Numbers keep their spelling. Time grows with the length times the depth, so the text must come from a bounded scan.
pub fn canonical(bytes: &[u8], value: Span) -> Vec<u8> {
    enum Step<'a> {
        Value(Span),
        Key(Cow<'a, str>),
        Byte(u8),
    }
    let mut out = Vec::with_capacity(value.end.saturating_sub(value.start));
    let mut steps = vec![Step::Value(value)];
    while let Some(step) = steps.pop() {
        let span = match step {
            Step::Value(span) => span,
            Step::Key(name) => {
                write_text(&mut out, &name);
                out.push(b':');
                continue;
            }
            Step::Byte(byte) => {
                out.push(byte);
                continue;
            }
        };
        // Steps are taken from the end, so each container is laid down back to front.
        match bytes.get(span.start) {
            Some(b'{') => {
                let mut inner: Vec<_> = members(bytes, span).map(|(key, value, _)| (text(bytes, key), value)).collect();
                inner.sort_unstable_by(|one, other| other.0.cmp(&one.0));
                out.push(b'{');
                steps.push(Step::Byte(b'}'));
                let last = inner.len().saturating_sub(1);
                for (index, (name, value)) in inner.into_iter().enumerate() {
                    steps.extend([Step::Value(value), Step::Key(name)]);
                    steps.extend((index < last).then_some(Step::Byte(b',')));
                }
            }
            Some(b'[') => {
                let inner: Vec<_> = elements(bytes, span).collect();
                out.push(b'[');
                steps.push(Step::Byte(b']'));
                for (index, (element, _)) in inner.iter().enumerate().rev() {
                    steps.push(Step::Value(*element));
                    steps.extend((index > 0).then_some(Step::Byte(b',')));
                }
            }
            Some(b'"') => write_text(&mut out, &text(bytes, span)),
            _ => out.extend_from_slice(bytes.get(span.start..span.end).unwrap_or_default()),
        }
    }
    out
}
