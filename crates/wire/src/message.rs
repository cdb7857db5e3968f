//! One JSON-RPC message: its bytes, and what was found in them.

use crate::code;
use crate::method;
use crate::scan::{self, Kind, Limits, Member, Place, Scan, ScanError, Side, Span};
use bytes::Bytes;
use std::borrow::Cow;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `method` and an `id` that is a string or an integer.
    Request,
    /// `method` without `id`.
    Notification,
    /// `id` and `result`.
    Success,
    /// `error`; its `id` may be null or absent.
    Failure,
}

/// A message that passed the strict scan and is a JSON-RPC 2.0 message. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Message {
    bytes: Bytes,
    scan: Scan,
    shape: Shape,
    method: Cow<'static, str>,
    id: Option<Span>,
}

/// Why bytes are no message.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BadMessage {
    /// Not JSON as we accept it: -32700 for size, UTF-8 and syntax; -32600 for depth, duplicates and case variants.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// JSON, but no JSON-RPC 2.0 message (-32600): says why. The id where one could be read (E2: null is none).
    #[error("{what}")]
    Shape {
        /// What is wrong.
        what: &'static str,
        /// The id as spelled.
        id: Option<Bytes>,
    },
}

impl BadMessage {
    /// The JSON-RPC code that it is answered with.
    pub fn code(&self) -> i64 {
        match self {
            Self::Scan(ScanError::TooLarge { .. } | ScanError::NotUtf8 { .. } | ScanError::Syntax { .. }) => {
                code::PARSE
            }
            _ => code::INVALID_REQUEST,
        }
    }

    /// The id where one could be read.
    pub fn id(&self) -> Option<&Bytes> {
        match self {
            Self::Shape { id, .. } => id.as_ref(),
            Self::Scan(_) => None,
        }
    }
}

impl Message {
    /// Scans and checks: `jsonrpc` is "2.0", `id` string or integer (a number such as `1.0` or `1e3` is refused from clients),
    /// `method` string, `params` object or array if present, not both `result` and `error`, no `method` beside `result`.
    pub fn parse(bytes: Bytes, from: Side, limits: &Limits) -> Result<Self, BadMessage> {
        let scan = scan::scan(&bytes, from, limits)?;
        Self::of(bytes, scan, from)
    }

    /// The same for bytes that were scanned before.
    pub(crate) fn of(bytes: Bytes, scan: Scan, from: Side) -> Result<Self, BadMessage> {
        let envelope = Envelope::of(&scan);
        let id = envelope.id.filter(|id| readable_id(&bytes, id, from)).map(|id| id.value);
        match envelope.check(&bytes, &scan, from) {
            Ok((shape, method)) => Ok(Self { bytes, scan, shape, method, id }),
            Err(what) => Err(BadMessage::Shape { what, id: id.map(|id| bytes.slice(id.start..id.end)) }),
        }
    }

    /// The same in memory of its own: what waits for long must not keep the whole buffer that it was read into.
    pub fn detached(self) -> Self {
        Self { bytes: Bytes::copy_from_slice(&self.bytes), ..self }
    }

    /// The bytes as they came.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What it is.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Decoded; empty for responses.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The id as it is spelled, quotes included.
    pub fn id(&self) -> Option<Bytes> {
        self.id.map(|id| self.bytes.slice(id.start..id.end))
    }

    /// The progress token as it is spelled, quotes included; `0` and `""` are tokens (E149). A token of a kind that no token
    /// has is given too, as a server may read it as one; `null` is none.
    pub fn progress_token(&self) -> Option<&[u8]> {
        self.progress_token_span().map(|span| self.raw(span))
    }

    pub(crate) fn progress_token_span(&self) -> Option<Span> {
        self.noted(Place::Meta, "progressToken").filter(|token| token.kind != Kind::Null).map(|token| token.value)
    }

    /// A member by its exact name.
    pub fn member(&self, place: Place, name: &str) -> Option<Member> {
        if let Some(noted) = self.noted(place, name) {
            return Some(noted);
        }
        let object = self.object(place)?;
        let (key, value, kind) =
            scan::members(&self.bytes, object).find(|(key, ..)| scan::text(&self.bytes, *key) == name)?;
        Some(Member { place, key, value, kind, name: None })
    }

    /// The object at a place, if it is one.
    pub fn object(&self, place: Place) -> Option<Span> {
        let (parent, name) = match place {
            Place::Root => return Some(self.scan.root()),
            Place::Params => (Place::Root, "params"),
            Place::Result => (Place::Root, "result"),
            Place::Error => (Place::Root, "error"),
            Place::Meta => (Place::Params, "_meta"),
            Place::ResultMeta => (Place::Result, "_meta"),
        };
        self.noted(parent, name).filter(|member| member.kind == Kind::Object).map(|member| member.value)
    }

    /// The bytes of a span.
    pub fn raw(&self, span: Span) -> &[u8] {
        &self.bytes[span.start..span.end]
    }

    /// A string member decoded; `None` where absent or no string.
    pub fn text(&self, place: Place, name: &str) -> Option<Cow<'_, str>> {
        let member = self.member(place, name).filter(|member| member.kind == Kind::String)?;
        Some(scan::text(&self.bytes, member.value))
    }

    /// `error.code` where it is an integer that fits.
    pub fn error_code(&self) -> Option<i64> {
        let code = self.noted(Place::Error, "code").filter(|code| code.kind == Kind::Number)?;
        std::str::from_utf8(self.raw(code.value)).ok()?.parse().ok()
    }

    /// Whether it is a result that says of itself that a tool failed.
    pub fn tool_failed(&self) -> bool {
        self.noted(Place::Result, "isError").is_some_and(|flag| flag.kind == Kind::True)
    }

    /// What the scan noted.
    pub fn scan(&self) -> &Scan {
        &self.scan
    }

    pub(crate) fn id_span(&self) -> Option<Span> {
        self.id
    }

    /// A member that every scan notes, without a search of the text.
    pub(crate) fn noted(&self, place: Place, name: &str) -> Option<Member> {
        self.scan.members().iter().find(|member| member.place == place && member.name == Some(name)).copied()
    }
}

/// What one line of a server holds.
#[derive(Clone, Debug)]
pub enum Parsed {
    /// A message.
    One(Message),
    /// An array of messages, which servers of 2025-03-26 may write (E227). Each element stands for itself.
    Batch(Vec<Result<Message, BadMessage>>),
}

/// As [`Message::parse`], but takes an array of at most `most` messages too.
pub fn parse_any(bytes: Bytes, from: Side, limits: &Limits, most: usize) -> Result<Parsed, BadMessage> {
    let scan = scan::scan(&bytes, from, limits)?;
    if scan.kind() != Kind::Array {
        return Message::of(bytes, scan, from).map(Parsed::One);
    }
    let spans: Vec<Span> = scan::elements(&bytes, scan.root()).map(|(span, _)| span).take(most + 1).collect();
    if spans.len() > most {
        return Err(BadMessage::Shape { what: "the array has too many messages", id: None });
    }
    let parse = |span: Span| Message::parse(bytes.slice(span.start..span.end), from, limits);
    Ok(Parsed::Batch(spans.into_iter().map(parse).collect()))
}

/// The members of the envelope.
#[derive(Default)]
struct Envelope {
    version: Option<Member>,
    id: Option<Member>,
    method: Option<Member>,
    params: Option<Member>,
    result: Option<Member>,
    error: Option<Member>,
}

impl Envelope {
    fn of(scan: &Scan) -> Self {
        let mut envelope = Self::default();
        for member in scan.members().iter().filter(|member| member.place == Place::Root) {
            let slot = match member.name {
                Some("jsonrpc") => &mut envelope.version,
                Some("id") => &mut envelope.id,
                Some("method") => &mut envelope.method,
                Some("params") => &mut envelope.params,
                Some("result") => &mut envelope.result,
                Some("error") => &mut envelope.error,
                _ => continue,
            };
            *slot = Some(*member);
        }
        envelope
    }

    fn check(&self, bytes: &[u8], scan: &Scan, from: Side) -> Result<(Shape, Cow<'static, str>), &'static str> {
        if scan.kind() != Kind::Object {
            return Err("a JSON-RPC message is a JSON object");
        }
        let version = self.version.filter(|version| version.kind == Kind::String);
        if version.is_none_or(|version| scan::text(bytes, version.value) != "2.0") {
            return Err("the member \"jsonrpc\" must be \"2.0\"");
        }
        if self.params.is_some_and(|params| !matches!(params.kind, Kind::Object | Kind::Array)) {
            return Err("\"params\" must be an object");
        }
        let id_fits = self.id.map(|id| readable_id(bytes, &id, from));
        let Some(method) = self.method else { return Ok((self.check_response(id_fits)?, Cow::Borrowed(""))) };
        if method.kind != Kind::String {
            return Err("\"method\" must be a string");
        }
        if self.result.is_some() || self.error.is_some() {
            return Err("a message with \"method\" cannot have \"result\" or \"error\"");
        }
        let shape = match id_fits {
            None => Shape::Notification,
            Some(true) => Shape::Request,
            Some(false) => return Err("\"id\" must be a string or an integer; leave it out for a notification"),
        };
        let name = scan::text(bytes, method.value);
        let interned = method::intern(&name).map(Cow::Borrowed);
        Ok((shape, interned.unwrap_or_else(|| Cow::Owned(name.into_owned()))))
    }

    fn check_response(&self, id_fits: Option<bool>) -> Result<Shape, &'static str> {
        match (self.result, self.error) {
            (Some(_), Some(_)) => Err("a response cannot have both \"result\" and \"error\""),
            (None, None) => Err("a message needs \"method\", \"result\" or \"error\""),
            (Some(_), None) if id_fits == Some(true) => Ok(Shape::Success),
            (Some(_), None) => Err("the \"id\" of a response with \"result\" must be a string or an integer"),
            (None, Some(error)) if error.kind != Kind::Object => Err("\"error\" must be an object"),
            (None, Some(_)) => match self.id {
                Some(id) if id.kind != Kind::Null && id_fits != Some(true) => {
                    Err("the \"id\" of an error must be a string, an integer or null")
                }
                _ => Ok(Shape::Failure),
            },
        }
    }
}

/// Whether an id can be read and given back. A server may spell a number as it likes: the id is ours, we know it again.
fn readable_id(bytes: &[u8], id: &Member, from: Side) -> bool {
    match id.kind {
        Kind::String => true,
        Kind::Number => {
            let digits = &bytes[id.value.start..id.value.end];
            from == Side::Server || digits.iter().all(|byte| matches!(byte, b'-' | b'0'..=b'9'))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { bytes: 1 << 20, depth: 64 };

    fn parse(text: &str) -> Message {
        Message::parse(Bytes::copy_from_slice(text.as_bytes()), Side::Client, &LIMITS).unwrap()
    }

    fn refused(text: &str, from: Side) -> BadMessage {
        Message::parse(Bytes::copy_from_slice(text.as_bytes()), from, &LIMITS).unwrap_err()
    }

    #[test]
    fn shapes() {
        for (text, shape) in [
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, Shape::Request),
            (r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, Shape::Notification),
            (r#"{"jsonrpc":"2.0","id":"a","result":{}}"#, Shape::Success),
            (r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"m"}}"#, Shape::Failure),
            (r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"m"}}"#, Shape::Failure),
            (r#"{"jsonrpc":"2.0","error":{"code":-32603,"message":"m"}}"#, Shape::Failure),
        ] {
            assert_eq!(parse(text).shape(), shape, "{text}");
        }
    }

    #[test]
    fn e2_an_id_is_a_string_or_an_integer() {
        for id in ["null", "true", "[]", "{}", "1.0", "1e3", "1E3"] {
            let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
            let bad = refused(&text, Side::Client);
            assert_eq!((bad.code(), bad.id()), (code::INVALID_REQUEST, None), "{id}");
        }
    }

    #[test]
    fn e3_ids_keep_type_and_spelling() {
        for id in
            ["1", "\"1\"", "0", "-0", "-7", "9007199254740993", "123456789012345678901234567890", r#""\u0031""#, "\"\""]
        {
            let text = format!(r#"{{ "id" : {id} , "jsonrpc":"2.0","method":"ping"}}"#);
            assert_eq!(parse(&text).id().unwrap(), id.as_bytes(), "{id}");
        }
    }

    #[test]
    fn e7_a_response_has_a_result_or_an_error() {
        for text in [
            r#"{"jsonrpc":"2.0","id":7,"result":{},"error":{"code":1,"message":""}}"#,
            r#"{"jsonrpc":"2.0","id":7}"#,
            r#"{"jsonrpc":"2.0","id":7,"method":"a","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":7,"error":"no"}"#,
        ] {
            let bad = refused(text, Side::Server);
            assert_eq!(bad.id().map(AsRef::as_ref), Some(&b"7"[..]), "the caller can be told: {text}");
        }
        for text in [r#"{"jsonrpc":"2.0","result":{}}"#, r#"{"jsonrpc":"2.0","id":null,"result":{}}"#] {
            assert!(refused(text, Side::Server).id().is_none(), "{text}");
        }
    }

    #[test]
    fn the_envelope_is_checked() {
        for text in [
            "1",
            "[]",
            "{}",
            r#"{"id":1,"method":"a"}"#,
            r#"{"jsonrpc":"1.0","id":1,"method":"a"}"#,
            r#"{"jsonrpc":2.0,"id":1,"method":"a"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":2}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"a","params":null}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"a","params":"x"}"#,
        ] {
            assert_eq!(refused(text, Side::Client).code(), code::INVALID_REQUEST, "{text}");
        }
    }

    #[test]
    fn e1_codes_of_what_is_no_json() {
        let bad = |bytes: &'static [u8]| Message::parse(Bytes::from_static(bytes), Side::Client, &LIMITS).unwrap_err();
        assert_eq!(bad(b"\xff").code(), code::PARSE);
        assert_eq!(bad(b"{").code(), code::PARSE);
        assert_eq!(bad(br#"{"id":1,"id":2}"#).code(), code::INVALID_REQUEST);
        assert_eq!(bad(br#"{"ID":1}"#).code(), code::INVALID_REQUEST);
    }

    #[test]
    fn members_are_found_by_their_decoded_name() {
        let message = parse(
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"n\u0061me":"e\u0063ho","x":{"y":1},"vendor":true}}"#,
        );
        assert_eq!(message.text(Place::Params, "name").unwrap(), "echo");
        let unlisted = message.member(Place::Params, "vendor").unwrap();
        assert_eq!((message.raw(unlisted.value), unlisted.kind), (&b"true"[..], Kind::True));
        assert!(message.member(Place::Params, "y").is_none(), "not a member of params itself");
        assert!(message.text(Place::Params, "x").is_none(), "no string");
        assert_eq!(message.method(), "tools/call");
    }

    #[test]
    fn e8_error_codes_may_be_large() {
        let code = |code: &str| {
            parse(&format!(r#"{{"jsonrpc":"2.0","id":1,"error":{{"code":{code},"message":"m"}}}}"#)).error_code()
        };
        assert_eq!(code("-32601"), Some(-32601));
        assert_eq!(code("5000000000"), Some(5_000_000_000));
        assert_eq!(code("99999999999999999999"), None);
        assert_eq!(code("1.5"), None);
        assert_eq!(code("\"1\""), None);
    }

    #[test]
    fn e149_zero_and_empty_are_tokens() {
        let token = |token: &str| {
            let text =
                format!(r#"{{"jsonrpc":"2.0","id":1,"method":"a","params":{{"_meta":{{"progressToken":{token}}}}}}}"#);
            parse(&text).progress_token().map(<[u8]>::to_vec)
        };
        assert_eq!(token("0").as_deref(), Some(&b"0"[..]));
        assert_eq!(token("\"\"").as_deref(), Some(&b"\"\""[..]));
        assert_eq!(token("null"), None);
    }

    #[test]
    fn e227_a_server_may_write_an_array() {
        let any =
            |text: &'static str, most| parse_any(Bytes::from_static(text.as_bytes()), Side::Server, &LIMITS, most);
        let text = r#"[{"jsonrpc":"2.0","id":1,"result":{}}, 7 ,{"jsonrpc":"2.0","method":"a"}]"#;
        let Ok(Parsed::Batch(messages)) = any(text, 3) else { panic!("an array is a batch") };
        let good: Vec<_> = messages.iter().map(Result::is_ok).collect();
        assert_eq!(good, [true, false, true]);
        assert!(any(text, 2).is_err());
        assert!(matches!(any(r#"{"jsonrpc":"2.0","method":"a"}"#, 2), Ok(Parsed::One(_))));
    }
}
