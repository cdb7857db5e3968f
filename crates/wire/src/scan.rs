//! The strict scan: one pass over a stranger's bytes that proves they are one JSON value with bounded depth and size,
//! valid UTF-8, no duplicate member at any depth, no case-variant of a known member where decisions are made, and that
//! notes where the members lie that decisions are made on. (E1, E15, E16)

use crate::walk::decode;
pub use crate::walk::{canonical, elements, member, members, text, write_text};
use memchr::memchr2;
use std::borrow::Cow;

/// A half-open byte range of the scanned text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Span {
    /// The whole of a text.
    pub fn all(bytes: &[u8]) -> Self {
        Self { start: 0, end: bytes.len() }
    }
}

/// What kind of JSON value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `{…}`
    Object,
    /// `[…]`
    Array,
    /// `"…"`
    String,
    /// A number in any spelling.
    Number,
    /// `true`
    True,
    /// `false`
    False,
    /// `null`
    Null,
}

/// Which object a noted member belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The envelope.
    Root,
    /// `params`
    Params,
    /// `params._meta`
    Meta,
    /// `result`
    Result,
    /// `result._meta`
    ResultMeta,
    /// `error`
    Error,
}

/// A noted member.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// The object it belongs to.
    pub place: Place,
    /// The key with its quotes.
    pub key: Span,
    /// The value.
    pub value: Span,
    /// What the value is.
    pub kind: Kind,
    /// The name that the key decodes to, for the members that every scan notes.
    pub(crate) name: Option<&'static str>,
}

/// Who wrote the bytes. Case-variants of known members are refused from clients at envelope, `params` and `_meta` level,
/// from servers at envelope level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A remote client.
    Client,
    /// A hosted server.
    Server,
}

/// Bounds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest text, bytes.
    pub bytes: usize,
    /// Deepest nesting of arrays and objects; 64 by default.
    pub depth: usize,
}

/// Why bytes were refused. `at` is a byte offset.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// Longer than [`Limits::bytes`].
    #[error("the message has {given} bytes; the limit is {limit}")]
    TooLarge {
        /// Its length.
        given: usize,
        /// The bound.
        limit: usize,
    },
    /// Not UTF-8.
    #[error("the message is not valid UTF-8 at byte {at}")]
    NotUtf8 {
        /// The first bad byte.
        at: usize,
    },
    /// Not JSON.
    #[error("the message is not valid JSON at byte {at}: {what}")]
    Syntax {
        /// Where.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// Deeper than [`Limits::depth`].
    #[error("the message nests deeper than {limit} levels")]
    TooDeep {
        /// The bound.
        limit: usize,
    },
    /// Two parsers could read two different values.
    #[error("the member {name:?} occurs twice in one object")]
    Duplicate {
        /// The decoded key, shortened.
        name: String,
    },
    /// A parser that ignores case could read it as the known member.
    #[error("the member {name:?} differs from {meant:?} only in case")]
    CaseVariant {
        /// The decoded key.
        name: String,
        /// The known member.
        meant: &'static str,
    },
}

/// The result of a scan.
#[derive(Clone, Debug)]
pub struct Scan {
    root: Span,
    kind: Kind,
    members: Vec<Member>,
}

impl Scan {
    /// The value without surrounding white space.
    pub fn root(&self) -> Span {
        self.root
    }

    /// What the value is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The known members that were met, in the order of the text; never more than the tables of known names have rows.
    pub fn members(&self) -> &[Member] {
        &self.members
    }
}

/// Scans `bytes`. Time is linear in the length (times a logarithm for the keys of very wide objects); nothing recurses.
pub fn scan(bytes: &[u8], from: Side, limits: &Limits) -> Result<Scan, ScanError> {
    if bytes.len() > limits.bytes {
        return Err(ScanError::TooLarge { given: bytes.len(), limit: limits.bytes });
    }
    let text = std::str::from_utf8(bytes).map_err(|bad| ScanError::NotUtf8 { at: bad.valid_up_to() })?;
    Scanner {
        text,
        bytes,
        at: 0,
        from,
        depth: limits.depth,
        open: Vec::with_capacity(8),
        keys: Vec::with_capacity(16),
        members: Vec::with_capacity(12),
    }
    .run()
}

const PREFIX: &str = "io.modelcontextprotocol/";

/// The members on which decisions are made; only these are noted.
fn known(place: Place) -> &'static [&'static str] {
    match place {
        Place::Root => &["jsonrpc", "id", "method", "params", "result", "error"],
        Place::Params => &[
            "name",
            "arguments",
            "_meta",
            "uri",
            "cursor",
            "taskId",
            "requestState",
            "inputResponses",
            "level",
            "requestId",
            "reason",
            "progressToken",
            "protocolVersion",
            "capabilities",
            "clientInfo",
            "ref",
            "argument",
            "context",
            "task",
            "notifications",
        ],
        Place::Meta | Place::ResultMeta => &[
            "progressToken",
            "io.modelcontextprotocol/protocolVersion",
            "io.modelcontextprotocol/clientInfo",
            "io.modelcontextprotocol/clientCapabilities",
            "io.modelcontextprotocol/logLevel",
            "io.modelcontextprotocol/subscriptionId",
            "io.modelcontextprotocol/serverInfo",
            "io.modelcontextprotocol/related-task",
        ],
        Place::Result => &[
            "_meta",
            "resultType",
            "ttlMs",
            "cacheScope",
            "inputRequests",
            "requestState",
            "tools",
            "nextCursor",
            "isError",
            "protocolVersion",
            "supportedVersions",
            "capabilities",
            "serverInfo",
            "instructions",
        ],
        Place::Error => &["code", "message", "data"],
    }
}

/// The noted object that is the value of a member, if it is one.
fn within(place: Place, name: &str) -> Option<Place> {
    match (place, name) {
        (Place::Root, "params") => Some(Place::Params),
        (Place::Root, "result") => Some(Place::Result),
        (Place::Root, "error") => Some(Place::Error),
        (Place::Params, "_meta") => Some(Place::Meta),
        (Place::Result, "_meta") => Some(Place::ResultMeta),
        _ => None,
    }
}

/// The known member that `name` could be taken for.
fn meant(place: Place, name: &str) -> Option<&'static str> {
    let same = known(place).iter().copied().find(|known| folds_to(name, known));
    match place {
        Place::Meta if same.is_none() && !name.starts_with(PREFIX) && folds_to_prefix(name) => Some(PREFIX),
        _ => same,
    }
}

/// Equal but for case, as Go's `encoding/json` sees it: ASCII, and the two other letters that fold into ASCII.
fn folds_to(name: &str, known: &str) -> bool {
    if name.is_ascii() { name.eq_ignore_ascii_case(known) } else { folded(name).eq(folded(known)) }
}

fn folds_to_prefix(name: &str) -> bool {
    folded(name).take(PREFIX.len()).eq(folded(PREFIX))
}

fn folded(text: &str) -> impl Iterator<Item = char> {
    text.chars().map(|letter| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    })
}

/// An object or array that has begun.
struct Open {
    object: bool,
    start: usize,
    /// Which noted object this is.
    place: Option<Place>,
    /// Where this object's keys begin in [`Scanner::keys`].
    keys: usize,
    /// The key whose value is being read.
    key: Span,
    /// Its name, if it is noted.
    noted: Option<&'static str>,
}

/// Up to so many keys, comparing each with each is cheaper than sorting.
const FEW_KEYS: usize = 16;

struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    from: Side,
    depth: usize,
    open: Vec<Open>,
    /// The decoded keys of all open objects.
    keys: Vec<Cow<'a, str>>,
    members: Vec<Member>,
}

impl<'a> Scanner<'a> {
    fn run(mut self) -> Result<Scan, ScanError> {
        self.space();
        loop {
            let (value, kind) = self.value()?;
            let Some((mut value, mut kind)) = value.map(|value| (value, kind)) else { continue };
            // The value may be the last of its container, and that the last of its own.
            while let Some(closed) = self.after(value, kind)? {
                match closed {
                    Closed::Container(span, of) => (value, kind) = (span, of),
                    Closed::Text => return Ok(Scan { root: value, kind, members: self.members }),
                }
            }
        }
    }

    /// Reads a scalar or an empty container, or enters a container: then there is no span yet.
    fn value(&mut self) -> Result<(Option<Span>, Kind), ScanError> {
        let start = self.at;
        let kind = match self.bytes.get(start) {
            Some(b'"') => {
                self.string()?;
                Kind::String
            }
            Some(b'{') => return Ok((self.enter(true, b'}')?, Kind::Object)),
            Some(b'[') => return Ok((self.enter(false, b']')?, Kind::Array)),
            Some(b'-' | b'0'..=b'9') => {
                self.number()?;
                Kind::Number
            }
            Some(b't') => self.word(b"true", Kind::True)?,
            Some(b'f') => self.word(b"false", Kind::False)?,
            Some(b'n') => self.word(b"null", Kind::Null)?,
            Some(_) => return self.bad("a value was expected"),
            None => return self.bad("it ends where a value was expected"),
        };
        Ok((Some(Span { start, end: self.at }), kind))
    }

    fn enter(&mut self, object: bool, end: u8) -> Result<Option<Span>, ScanError> {
        if self.open.len() >= self.depth {
            return Err(ScanError::TooDeep { limit: self.depth });
        }
        let start = self.at;
        self.at += 1;
        self.space();
        if self.bytes.get(self.at) == Some(&end) {
            self.at += 1;
            return Ok(Some(Span { start, end: self.at }));
        }
        let place = match self.open.last() {
            None => Some(Place::Root),
            Some(parent) => parent.place.zip(parent.noted).and_then(|(place, name)| within(place, name)),
        };
        let key = Span { start, end: start };
        let place = place.filter(|_| object);
        self.open.push(Open { object, start, place, keys: self.keys.len(), key, noted: None });
        if object {
            self.key()?;
        }
        Ok(None)
    }

    /// Reads a key and its colon.
    fn key(&mut self) -> Result<(), ScanError> {
        if self.bytes.get(self.at) != Some(&b'"') {
            return self.bad("a member name in quotes was expected");
        }
        let start = self.at;
        let escaped = self.string()?;
        let span = Span { start, end: self.at };
        let inner = &self.text[start + 1..self.at - 1];
        let name = if escaped { Cow::Owned(decode(inner)) } else { Cow::Borrowed(inner) };
        let Some(open) = self.open.last_mut() else { return Ok(()) };
        open.key = span;
        open.noted = match open.place {
            Some(place) => noted(place, &name, self.from)?,
            None => None,
        };
        let siblings = &self.keys[open.keys..];
        if siblings.len() < FEW_KEYS && siblings.contains(&name) {
            return Err(duplicate(&name));
        }
        self.keys.push(name);
        self.space();
        if self.bytes.get(self.at) != Some(&b':') {
            return self.bad("a colon was expected after the member name");
        }
        self.at += 1;
        self.space();
        Ok(())
    }

    /// Goes on after a value: `None` if another value follows.
    fn after(&mut self, value: Span, kind: Kind) -> Result<Option<Closed>, ScanError> {
        self.space();
        let Some(open) = self.open.last() else {
            return if self.at == self.bytes.len() {
                Ok(Some(Closed::Text))
            } else {
                self.bad("more follows the value")
            };
        };
        if let (Some(place), Some(name)) = (open.place, open.noted) {
            self.members.push(Member { place, key: open.key, value, kind, name: Some(name) });
        }
        match (open.object, self.bytes.get(self.at)) {
            (object, Some(b',')) => {
                self.at += 1;
                self.space();
                if object {
                    self.key()?;
                }
                Ok(None)
            }
            (true, Some(b'}')) => self.leave(Kind::Object),
            (false, Some(b']')) => self.leave(Kind::Array),
            (true, _) => self.bad("a comma or the end of the object was expected"),
            (false, _) => self.bad("a comma or the end of the array was expected"),
        }
    }

    fn leave(&mut self, kind: Kind) -> Result<Option<Closed>, ScanError> {
        self.at += 1;
        let Some(open) = self.open.pop() else { return Ok(None) };
        let keys = &mut self.keys[open.keys..];
        if keys.len() > FEW_KEYS {
            // Sorting needs no seed and has no bad case, which a hash table would have for a stranger's keys.
            keys.sort_unstable();
            if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(duplicate(&pair[0]));
            }
        }
        self.keys.truncate(open.keys);
        Ok(Some(Closed::Container(Span { start: open.start, end: self.at }, kind)))
    }

    /// Reads a string; says whether it has escapes.
    fn string(&mut self) -> Result<bool, ScanError> {
        let mut escaped = false;
        self.at += 1;
        loop {
            self.plain()?;
            self.at += 1;
            if self.bytes[self.at - 1] == b'"' {
                return Ok(escaped);
            }
            escaped = true;
            self.escape()?;
        }
    }

    /// Goes to the next quote or backslash.
    fn plain(&mut self) -> Result<(), ScanError> {
        // Most strings are short: a vector search pays only after a few bytes.
        let near = self.bytes.len().min(self.at + 24);
        while self.at < near {
            match self.bytes[self.at] {
                b'"' | b'\\' => return Ok(()),
                0..0x20 => return self.bad("a control character stands in a string"),
                _ => self.at += 1,
            }
        }
        let rest = &self.bytes[self.at..];
        let Some(length) = memchr2(b'"', b'\\', rest) else {
            self.at = self.bytes.len();
            return self.bad("it ends within a string");
        };
        if rest[..length].iter().fold(u8::MAX, |lowest, &byte| lowest.min(byte)) < 0x20 {
            self.at += rest.iter().position(|&byte| byte < 0x20).unwrap_or_default();
            return self.bad("a control character stands in a string");
        }
        self.at += length;
        Ok(())
    }

    fn escape(&mut self) -> Result<(), ScanError> {
        match self.bytes.get(self.at) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                let digits = self.bytes.get(self.at + 1..self.at + 5);
                if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
                    return self.bad("four hexadecimal digits were expected");
                }
                self.at += 5;
            }
            _ => return self.bad("a string has an unknown escape"),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), ScanError> {
        if self.bytes[self.at] == b'-' {
            self.at += 1;
        }
        if self.bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.bytes.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), ScanError> {
        let start = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at == start { self.bad("a digit was expected") } else { Ok(()) }
    }

    fn word(&mut self, word: &[u8], kind: Kind) -> Result<Kind, ScanError> {
        if !self.bytes[self.at..].starts_with(word) {
            return self.bad("a value was expected");
        }
        self.at += word.len();
        Ok(kind)
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    fn bad<T>(&self, what: &'static str) -> Result<T, ScanError> {
        Err(ScanError::Syntax { at: self.at, what })
    }
}

/// What ended with a value.
enum Closed {
    Container(Span, Kind),
    Text,
}

/// The known name of a key, or a refusal if it is only nearly one.
fn noted(place: Place, name: &str, from: Side) -> Result<Option<&'static str>, ScanError> {
    if let Some(known) = known(place).iter().find(|known| **known == name) {
        return Ok(Some(known));
    }
    let strict = match place {
        Place::Root => true,
        Place::Params | Place::Meta => from == Side::Client,
        Place::Result | Place::ResultMeta | Place::Error => false,
    };
    match meant(place, name).filter(|_| strict) {
        Some(meant) => Err(ScanError::CaseVariant { name: name.to_owned(), meant }),
        None => Ok(None),
    }
}

fn duplicate(name: &str) -> ScanError {
    // The name comes from a stranger and goes into an answer: a long one helps nobody.
    ScanError::Duplicate { name: name.chars().take(64).collect() }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;
    use serde_json::value::RawValue;

    const LIMITS: Limits = Limits { bytes: 1 << 24, depth: 64 };

    fn client(text: &str) -> Result<Scan, ScanError> {
        scan(text.as_bytes(), Side::Client, &LIMITS)
    }

    fn server(text: &str) -> Result<Scan, ScanError> {
        scan(text.as_bytes(), Side::Server, &LIMITS)
    }

    #[test]
    fn e1_invalid_utf8_is_refused_where_it_begins() {
        for bytes in [&b"\"a\xffb\""[..], b"\"a\xc0\x80\"", b"\"a\xed\xa0\x80\""] {
            assert_eq!(scan(bytes, Side::Client, &LIMITS).unwrap_err(), ScanError::NotUtf8 { at: 2 });
        }
    }

    #[test]
    fn the_grammar_is_rfc_8259() {
        for good in [
            "0",
            "-0",
            "-1.50e+07",
            "1E9",
            "12345678901234567890123456789",
            "1e999",
            "\"\\u0000\\ud800 \u{10ffff}\"",
            " [ ] ",
            "\t{ }\r\n",
            "[1,[2,{}],\"\\\"\"]",
            "null",
            "\"\u{7f}\"",
        ] {
            assert!(client(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            " ",
            "01",
            "-",
            "+1",
            "1.",
            ".5",
            "1e",
            "1e+",
            "0x1",
            "NaN",
            "nul",
            "truefalse",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{\"a\":1,}",
            "{\"a\"}",
            "{a:1}",
            "{\"a\":}",
            "{1:2}",
            "{\"a\" 1}",
            "[",
            "]",
            "{",
            "}",
            "[}",
            "{]",
            "\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u12\"",
            "\"\\",
            "\"\n\"",
            "\"\u{1f}\"",
            "'a'",
            "1 2",
            "{} {}",
            "\u{feff}{}",
            "/**/1",
            "[1]]",
            "\u{a0}1",
        ] {
            assert!(matches!(client(bad), Err(ScanError::Syntax { .. })), "{bad:?}: {:?}", client(bad));
        }
    }

    #[test]
    fn a_control_character_is_found_in_a_long_string() {
        let text = format!("\"{}\u{1}{}\"", "a".repeat(100), "b".repeat(100));
        assert_eq!(
            client(&text).unwrap_err(),
            ScanError::Syntax { at: 101, what: "a control character stands in a string" }
        );
    }

    #[test]
    fn e16_depth_and_size_are_bounded() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(client(&nested(64)).is_ok());
        assert_eq!(client(&nested(65)).unwrap_err(), ScanError::TooDeep { limit: 64 });
        assert_eq!(client(&"[".repeat(1 << 20)).unwrap_err(), ScanError::TooDeep { limit: 64 });
        let small = Limits { bytes: 3, depth: 64 };
        assert_eq!(scan(b"1234", Side::Client, &small).unwrap_err(), ScanError::TooLarge { given: 4, limit: 3 });
        assert!(scan(b"123", Side::Client, &small).is_ok());
        let unbounded = Limits { bytes: 1 << 24, depth: 1 << 22 };
        assert!(scan(nested(1 << 21).as_bytes(), Side::Client, &unbounded).is_ok(), "nothing recurses");
        let deep = nested(2_000);
        assert_eq!(canonical(deep.as_bytes(), Span::all(deep.as_bytes())), deep.as_bytes());
    }

    #[test]
    fn e15_duplicates_are_refused_at_any_depth() {
        for text in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"[[{"x":{"a":1,"b":2,"a":3}}]]"#,
            r#"{"params":{"arguments":{"deep":[{"k":0,"k":0}]}}}"#,
            r#"{"\ud83d\ude00":1,"😀":2}"#,
            r#"{"\ud800":1,"\udbff":2}"#,
            r#"{"":1,"":2}"#,
        ] {
            assert!(matches!(server(text), Err(ScanError::Duplicate { .. })), "{text}");
        }
        assert!(client(r#"[{"a":1},{"a":{"a":2}}]"#).is_ok(), "other objects have their own names");
    }

    #[test]
    fn e15_a_very_wide_object_stays_fast_and_strict() {
        let mut text = String::from("{");
        for key in 0..100_000 {
            text.push_str(&format!("\"k{key}\":0,"));
        }
        let unique = format!("{text}\"last\":0}}");
        assert!(client(&unique).is_ok());
        let twice = format!("{text}\"k77777\":0}}");
        assert_eq!(client(&twice).unwrap_err(), ScanError::Duplicate { name: "k77777".to_owned() });
    }

    #[test]
    fn e15_sixteen_seventeen_and_eighteen_keys() {
        for count in 2..40 {
            for second in 1..count {
                let key = |at: usize| if at == second { 0 } else { at };
                let members: Vec<_> = (0..count).map(|at| format!("\"{}\":0", key(at))).collect();
                let text = format!("{{{}}}", members.join(","));
                assert!(matches!(client(&text), Err(ScanError::Duplicate { .. })), "{text}");
            }
        }
    }

    #[test]
    fn e15_case_variants_of_known_members_are_refused() {
        for (text, meant) in [
            (r#"{"ID":1}"#, "id"),
            (r#"{"Method":1}"#, "method"),
            (r#"{"paramſ":1}"#, "params"),
            (r#"{"params":{"Name":1}}"#, "name"),
            (r#"{"params":{"URI":1}}"#, "uri"),
            (r#"{"params":{"tas\u212AId":1}}"#, "taskId"),
            (r#"{"params":{"_Meta":1}}"#, "_meta"),
            (r#"{"params":{"_meta":{"ProgressToken":1}}}"#, "progressToken"),
            (
                r#"{"params":{"_meta":{"io.modelcontextprotocol/protocolversion":1}}}"#,
                "io.modelcontextprotocol/protocolVersion",
            ),
            (r#"{"params":{"_meta":{"IO.modelcontextprotocol/new":1}}}"#, "io.modelcontextprotocol/"),
        ] {
            let Err(ScanError::CaseVariant { meant: found, .. }) = client(text) else {
                panic!("{text}: {:?}", client(text))
            };
            assert_eq!(found, meant, "{text}");
        }
    }

    #[test]
    fn e15_case_variants_elsewhere_are_data() {
        for text in [
            r#"{"params":{"arguments":{"Name":1,"name":2}}}"#,
            r#"{"x":{"ID":1}}"#,
            r#"{"result":{"Tools":1}}"#,
            r#"{"params":{"_meta":{"io.modelcontextprotocol/new":1,"x/ProgressToken":1}}}"#,
            r#"[{"ID":1}]"#,
        ] {
            assert!(client(text).is_ok(), "{text}: {:?}", client(text));
        }
        assert!(server(r#"{"params":{"Name":1}}"#).is_ok(), "a server is held to the envelope only");
        assert!(server(r#"{"Result":1}"#).is_err());
    }

    #[test]
    fn members_are_noted_with_place_key_value_and_kind() {
        let text = r#" {"jsonrpc":"2.0","params":{"_meta":{"progressToken":0,"x":1},"other":{"name":1}},"result":{"_meta":{}}} "#;
        let found = server(text).unwrap();
        let slice = |span: Span| &text[span.start..span.end];
        assert_eq!((slice(found.root()), found.kind()), (text.trim(), Kind::Object));
        let notes: Vec<_> =
            found.members().iter().map(|note| (note.place, slice(note.key), slice(note.value), note.kind)).collect();
        assert_eq!(
            notes,
            [
                (Place::Root, "\"jsonrpc\"", "\"2.0\"", Kind::String),
                (Place::Meta, "\"progressToken\"", "0", Kind::Number),
                (Place::Params, "\"_meta\"", r#"{"progressToken":0,"x":1}"#, Kind::Object),
                (Place::Root, "\"params\"", r#"{"_meta":{"progressToken":0,"x":1},"other":{"name":1}}"#, Kind::Object),
                (Place::Result, "\"_meta\"", "{}", Kind::Object),
                (Place::Root, "\"result\"", r#"{"_meta":{}}"#, Kind::Object),
            ]
        );
    }

    #[test]
    fn walking_what_is_no_container_finds_nothing() {
        for text in ["1", "", "\"{\"", "[", "{\"a\"", "{\"a\":"] {
            let all = Span::all(text.as_bytes());
            assert!(elements(text.as_bytes(), all).count() < 2);
            assert!(members(text.as_bytes(), all).count() < 2);
        }
        assert_eq!(members(b"{}", Span { start: 0, end: 99 }).count(), 0);
    }

    #[test]
    fn text_decodes_as_json_says() {
        for string in [r#""a\u00e9\ud83d\ude00\"\\\/\b\f\n\r\t""#, "\"plain\"", "\"\"", "\"é\""] {
            let expected: String = serde_json::from_str(string).unwrap();
            assert_eq!(text(string.as_bytes(), Span::all(string.as_bytes())), expected);
        }
        for (string, expected) in [
            (r#""\ud800""#, "\u{fffd}"),
            (r#""\udc00\ud800x""#, "\u{fffd}\u{fffd}x"),
            (r#""\ud800\u0041""#, "\u{fffd}A"),
        ] {
            assert_eq!(text(string.as_bytes(), Span::all(string.as_bytes())), expected, "{string}");
        }
    }

    #[test]
    fn canonical_forms_are_equal_for_equal_values_only() {
        let form = |text: &str| String::from_utf8(canonical(text.as_bytes(), client(text).unwrap().root())).unwrap();
        assert_eq!(form(r#" { "b" : [ 1.10 , {} ], "\u0061" : "\/\u0041" } "#), r#"{"a":"/A","b":[1.10,{}]}"#);
        assert_eq!(form(r#"{"b":1,"a":2}"#), form(r#"{"a":2,"b":1}"#));
        assert_ne!(form("[1,2]"), form("[2,1]"));
        assert_ne!(form("1.10"), form("1.1"));
        assert_eq!(form("[]"), "[]");
    }

    /// Random JSON with awkward names and strings.
    pub(crate) fn json() -> impl Strategy<Value = Value> {
        let string = || prop_oneof!["[a-c]{0,2}", "[ -~]{0,40}", any::<String>(), Just("\u{0}\"\\\u{1f}".to_owned())];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            string().prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 64, 20, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::vec((string(), inner), 0..24)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_serde_json_writes_is_accepted(value in json(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            match server(&text) {
                Ok(found) => prop_assert_eq!(found.root(), Span::all(text.as_bytes())),
                Err(bad) => prop_assert!(matches!(bad, ScanError::CaseVariant { .. }), "{}: {}", bad, text),
            }
        }

        #[test]
        fn canonical_is_the_same_value(value in json()) {
            let text = serde_json::to_vec_pretty(&value).unwrap();
            let form = canonical(&text, Span::all(&text));
            // Through the text, as serde_json does not read every float back as it wrote it.
            let value: Value = serde_json::from_slice(&text).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Value>(&form).unwrap(), value);
            prop_assert_eq!(canonical(&form, Span::all(&form)), form);
        }

        #[test]
        fn walking_finds_what_serde_json_finds(value in json()) {
            let text = serde_json::to_vec_pretty(&value).unwrap();
            let value: Value = serde_json::from_slice(&text).unwrap();
            let all = Span::all(&text);
            let part = |span: Span| serde_json::from_slice::<Value>(&text[span.start..span.end]).unwrap();
            match &value {
                Value::Object(object) => {
                    let walked: serde_json::Map<_, _> = members(&text, all)
                        .map(|(key, value, _)| (super::text(&text, key).into_owned(), part(value)))
                        .collect();
                    prop_assert_eq!(&walked, object);
                }
                Value::Array(array) => {
                    let walked: Vec<_> = elements(&text, all).map(|(element, _)| part(element)).collect();
                    prop_assert_eq!(&walked, array);
                }
                _ => prop_assert_eq!(members(&text, all).count() + elements(&text, all).count(), 0),
            }
        }

        #[test]
        fn a_mutation_is_judged_as_serde_json_judges_it(
            value in json(),
            edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..4), 1..4),
        ) {
            let mut text = serde_json::to_vec(&value).unwrap();
            for (at, byte, how) in edits {
                let at = at.index(text.len() + 1);
                let byte = if byte < 128 { b"{}[]\",:\\ue0.-1 tfn"[usize::from(byte) % 18] } else { byte };
                match how {
                    0 => text.insert(at, byte),
                    1 if at < text.len() => drop(text.remove(at)),
                    2 if at < text.len() => text[at] = byte,
                    _ => text.truncate(at),
                }
            }
            let theirs = serde_json::from_slice::<&RawValue>(&text);
            match scan(&text, Side::Client, &LIMITS) {
                Ok(_) => prop_assert!(theirs.is_ok(), "only we accept {:?}", String::from_utf8_lossy(&text)),
                Err(ScanError::Syntax { .. } | ScanError::NotUtf8 { .. }) => {
                    prop_assert!(theirs.is_err(), "only they accept {:?}", String::from_utf8_lossy(&text));
                }
                Err(_) => {}
            }
        }

        #[test]
        fn text_is_written_and_read_back(string: String) {
            let mut written = Vec::new();
            write_text(&mut written, &string);
            prop_assert_eq!(&serde_json::from_slice::<String>(&written).unwrap(), &string);
            prop_assert_eq!(text(&written, Span::all(&written)), string);
        }
    }
}
