//! JSON as people write it by hand: a byte order mark, comments and trailing commas are blanked, nothing moves, so every
//! error still points at its line and column. What is left must be strict JSON without duplicate names.

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// Largest text that is read, bytes. The biggest real `~/.claude.json` files are a few MiB.
pub(crate) const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Why a text is not JSON, with its place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JsoncError {
    /// Larger than `MAX_BYTES`.
    #[error("the file has {0} bytes; at most {MAX_BYTES} are read")]
    TooLarge(usize),
    /// Not text.
    #[error("the file is not UTF-8 text (byte {0})")]
    NotUtf8(usize),
    /// `/*` without `*/`.
    #[error("line {line}, column {column}: this comment never ends")]
    OpenComment {
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in bytes.
        column: usize,
    },
    /// Not JSON, too deep (128 levels), or a name twice in one object.
    #[error("line {line}, column {column}: {what}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in bytes.
        column: usize,
        /// The reason.
        what: String,
    },
}

/// Reads `bytes` as JSON with comments.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, JsoncError> {
    if bytes.len() > MAX_BYTES {
        return Err(JsoncError::TooLarge(bytes.len()));
    }
    if let Err(error) = std::str::from_utf8(bytes) {
        return Err(JsoncError::NotUtf8(error.valid_up_to()));
    }
    let mut plain = bytes.to_vec();
    blank_comments(&mut plain)?;
    blank_trailing_commas(&mut plain);
    let mut reader = serde_json::Deserializer::from_slice(&plain);
    let value = Strict.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    value.map_err(|error| {
        let text = error.to_string();
        let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what).to_owned();
        JsoncError::Syntax { line: error.line(), column: error.column(), what }
    })
}

fn blank_comments(text: &mut [u8]) -> Result<(), JsoncError> {
    if text.starts_with(b"\xef\xbb\xbf") {
        text[..3].fill(b' ');
    }
    let mut at = 0;
    while at < text.len() {
        at = match (text[at], text.get(at + 1)) {
            (b'"', _) => after_string(text, at),
            (b'/', Some(b'/')) => {
                let end = text[at..].iter().position(|b| *b == b'\n').map_or(text.len(), |n| at + n);
                text[at..end].fill(b' ');
                end
            }
            (b'/', Some(b'*')) => {
                let Some(length) = text[at + 2..].windows(2).position(|pair| pair == b"*/") else {
                    let (line, column) = place(text, at);
                    return Err(JsoncError::OpenComment { line, column });
                };
                let end = at + 2 + length + 2;
                text[at..end].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
                end
            }
            _ => at + 1,
        };
    }
    Ok(())
}

/// A comma counts as trailing only where a value stands before it: `[,]` stays an error.
fn blank_trailing_commas(text: &mut [u8]) {
    let (mut at, mut before, mut comma) = (0, b'{', None);
    while at < text.len() {
        match text[at] {
            b'"' => {
                at = after_string(text, at);
                (before, comma) = (b'"', None);
                continue;
            }
            b',' => {
                comma = (!matches!(before, b'{' | b'[' | b',' | b':')).then_some(at);
                before = b',';
            }
            b'}' | b']' => {
                if let Some(comma) = comma.take() {
                    text[comma] = b' ';
                }
                before = b'}';
            }
            b' ' | b'\t' | b'\r' | b'\n' => {}
            other => (before, comma) = (other, None),
        }
        at += 1;
    }
}

/// The index behind the string that begins at `at`; the end of the text if it never ends (the parser will say so).
fn after_string(text: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while at < text.len() {
        match text[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

fn place(text: &[u8], at: usize) -> (usize, usize) {
    let line_start = text[..at].iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
    (1 + text[..at].iter().filter(|b| **b == b'\n').count(), 1 + at - line_start)
}

/// Builds a `Value`, but a name that occurs twice in one object is an error: which of the two was meant?
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(item) = items.next_element_seed(Strict)? {
            out.push(item);
        }
        Ok(Value::Array(out))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if out.contains_key(&name) {
                return Err(A::Error::custom(format_args!("the name {name:?} occurs twice in one object")));
            }
            let value = members.next_value_seed(Strict)?;
            out.insert(name, value);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::parse;
    use serde_json::json;

    fn error(text: &str) -> String {
        parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn comments_commas_and_a_mark_are_no_matter() {
        let text = "\u{feff}// top\r\n{ /* a\n b */ \"a\": [1, 2,], // x, }\n \"u\": \"http://x/*no*/,]\", \"q\": \"\\\",}\",\n}\n// end";
        assert_eq!(parse(text.as_bytes()).unwrap(), json!({"a": [1, 2], "u": "http://x/*no*/,]", "q": "\",}"}));
    }

    #[test]
    fn a_comma_between_comments_is_trailing_too() {
        assert_eq!(parse(b"[1 /* a */ , // b\n /* c */ ]").unwrap(), json!([1]));
    }

    #[test]
    fn errors_keep_their_place() {
        assert!(
            error("{\n  // note\n  \"a\" 1\n}").starts_with("line 3, column 7:"),
            "{}",
            error("{\n  // note\n  \"a\" 1\n}")
        );
        assert_eq!(error("{}\n  /* x"), "line 2, column 3: this comment never ends");
        assert!(error("{\"a\":1,\n\"a\":2}").starts_with("line 2, column 3: the name \"a\" occurs twice"));
        for bad in ["[,]", "[1,,]", "{,}", "{\"a\":,}", "[1] 2", "", "'a'", "[1", "\"a", "\"a\\"] {
            assert!(error(bad).starts_with("line "), "{bad}");
        }
    }

    #[test]
    fn bounds_hold() {
        assert!(error(&"[".repeat(100_000)).contains("recursion limit"));
        assert!(parse(b"\"\xff\"").unwrap_err().to_string().contains("byte 1"));
        assert!(parse(&vec![b' '; super::MAX_BYTES + 1]).is_err());
    }
}
