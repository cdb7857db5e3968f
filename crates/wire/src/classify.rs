//! The ladder: decides what one HTTP POST is, from its body, with the headers as witnesses. (eras §2.1)

use crate::code;
use crate::era::{Era, Revision};
use crate::header;
use crate::message::{BadMessage, Message, Shape};
use crate::method;
use crate::scan::{self, Kind, Limits, Member, Place, ScanError, Side, Span};
use bytes::Bytes;

/// What the session header says, after the caller looked it up for this principal and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionHeader {
    /// No such header.
    Absent,
    /// No such session, or another principal's: both look the same.
    Unknown,
    /// This principal's session, at this revision.
    Known(Revision),
}

/// The headers that take part. Values as received, without surrounding white space.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a> {
    /// `MCP-Protocol-Version`.
    pub version: Option<&'a [u8]>,
    /// `Mcp-Method`.
    pub method: Option<&'a [u8]>,
    /// `Mcp-Name`.
    pub name: Option<&'a [u8]>,
    /// `Mcp-Session-Id`, looked up.
    pub session: SessionHeader,
}

/// What a POST is.
#[derive(Clone, Debug)]
pub enum Incoming {
    /// A legacy `initialize`: opens a session. The revision to answer with (E94).
    Open {
        /// The request.
        message: Message,
        /// The client's own revision if it is one of ours, else our latest.
        revision: Revision,
    },
    /// One request, notification or response within a known session.
    InSession(Message),
    /// 2025-03-26 array within a known session: 1 to 64 messages, no `initialize`.
    Batch(Vec<Message>),
    /// A 2026-07-28 request whose metadata and headers agree.
    Modern(Message),
    /// A 2026-07-28 notification: answer 202 and ignore (C4).
    ModernNotification(Message),
}

/// Why a POST is answered with an error before any server sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// JSON-RPC code.
    pub code: i64,
    /// Says what was wrong.
    pub message: String,
    /// `error.data` as JSON text.
    pub data: Option<String>,
    /// The request's id as spelled, where it is known.
    pub id: Option<Bytes>,
}

impl Refusal {
    /// The JSON-RPC error that says so.
    pub fn body(&self) -> Vec<u8> {
        code::error_body(self.id.as_deref(), self.code, &self.message, self.data.as_deref())
    }

    fn new(status: u16, code: i64, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), data: None, id: None }
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, code::INVALID_REQUEST, message)
    }

    fn params(message: impl Into<String>) -> Self {
        Self::new(400, code::INVALID_PARAMS, message)
    }

    fn mismatch(message: impl Into<String>) -> Self {
        Self::new(400, code::HEADER_MISMATCH, message)
    }

    fn unsupported(requested: &str) -> Self {
        let supported = Revision::MODERN.as_str();
        let mut data = format!("{{\"supported\":[\"{supported}\"],\"requested\":").into_bytes();
        scan::write_text(&mut data, requested);
        data.push(b'}');
        Self {
            data: String::from_utf8(data).ok(),
            ..Self::new(
                400,
                code::UNSUPPORTED_VERSION,
                format!("Protocol version {requested:?} is not supported with request metadata; {supported} is."),
            )
        }
    }

    /// A notification has no id, so this leaves none on its refusal.
    fn of(self, message: &Message) -> Self {
        Self { id: if message.shape() == Shape::Request { message.id() } else { None }, ..self }
    }
}

const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
const LOG_LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];
const MOST_IN_BATCH: usize = 64;

/// Decides. Modern methods that the era removed (`initialize`, `ping`, `logging/setLevel`, `resources/subscribe`,
/// `resources/unsubscribe` with modern `_meta`) are 404/-32601 here.
pub fn classify(body: Bytes, headers: &Headers<'_>, limits: &Limits) -> Result<Incoming, Refusal> {
    let scan = scan::scan(&body, Side::Client, limits).map_err(|bad| unreadable(&bad.into()))?;
    if scan.kind() == Kind::Array {
        return batch(&body, scan.root(), headers, limits);
    }
    let message = Message::of(body, scan, Side::Client).map_err(|bad| unreadable(&bad))?;
    let refusal = match decide(&message, headers) {
        Ok(Way::Open(revision)) => return Ok(Incoming::Open { message, revision }),
        Ok(Way::InSession) => return Ok(Incoming::InSession(message)),
        Ok(Way::Modern) => return Ok(Incoming::Modern(message)),
        Ok(Way::ModernNotification) => return Ok(Incoming::ModernNotification(message)),
        Err(refusal) => refusal,
    };
    Err(refusal.of(&message))
}

fn unreadable(bad: &BadMessage) -> Refusal {
    let status = if matches!(bad, BadMessage::Scan(ScanError::TooLarge { .. })) { 413 } else { 400 };
    Refusal { id: bad.id().cloned(), ..Refusal::new(status, bad.code(), bad.to_string()) }
}

enum Way {
    Open(Revision),
    InSession,
    Modern,
    ModernNotification,
}

/// The rungs for one message, from top to bottom: the first that speaks decides.
fn decide(message: &Message, headers: &Headers<'_>) -> Result<Way, Refusal> {
    let claim = message.noted(Place::Meta, VERSION);
    match message.shape() {
        Shape::Success | Shape::Failure if names_modern(headers.version) => Err(Refusal::invalid(
            "Protocol version 2026-07-28 has no client responses; retry the request with its answers.",
        )),
        Shape::Success | Shape::Failure => in_session(headers),
        Shape::Notification => notification(message, claim, headers),
        Shape::Request if message.method() == "initialize" && !claims_modern(message, claim) => {
            initialize(message, headers)
        }
        Shape::Request => match claim {
            Some(claim) => modern(message, claim, headers),
            None if names_modern(headers.version) => Err(Refusal::params(format!(
                "The MCP-Protocol-Version header names a version with request metadata, but params._meta has no {VERSION:?}."
            ))),
            None => in_session(headers),
        },
    }
}

/// Whether `_meta` is a whole modern one, so that even `initialize` is a modern request. (E91)
fn claims_modern(message: &Message, claim: Option<Member>) -> bool {
    let Some(claim) = claim.filter(|claim| claim.kind == Kind::String) else { return false };
    let capabilities = message.noted(Place::Meta, CAPABILITIES);
    is_modern(scan::text(message.bytes(), claim.value).as_bytes())
        && capabilities.is_some_and(|capabilities| capabilities.kind == Kind::Object)
}

fn names_modern(header: Option<&[u8]>) -> bool {
    header.is_some_and(|version| is_modern(header::trim(version)))
}

/// A date that is not before the first modern revision.
fn is_modern(version: &[u8]) -> bool {
    let dated = version.len() == 10
        && version
            .iter()
            .enumerate()
            .all(|(at, byte)| if at == 4 || at == 7 { *byte == b'-' } else { byte.is_ascii_digit() });
    dated && version >= Revision::MODERN.as_str().as_bytes()
}

fn initialize(message: &Message, headers: &Headers<'_>) -> Result<Way, Refusal> {
    if names_modern(headers.version) {
        return Err(Refusal::mismatch(
            "The MCP-Protocol-Version header names a version without initialize, but the body is an initialize request.",
        ));
    }
    if headers.session != SessionHeader::Absent {
        return Err(Refusal::invalid("This session is initialized already; send initialize without Mcp-Session-Id."));
    }
    for name in ["capabilities", "clientInfo"] {
        if message.noted(Place::Params, name).is_some_and(|member| member.kind != Kind::Object) {
            return Err(Refusal::params(format!("params.{name} must be an object.")));
        }
    }
    let Some(requested) = message.text(Place::Params, "protocolVersion") else {
        return Err(Refusal::params("params.protocolVersion must be a string, for example \"2025-11-25\"."));
    };
    let known = Revision::parse(&requested).filter(|revision| revision.era() == Era::Legacy);
    Ok(Way::Open(known.unwrap_or(Revision::LATEST_LEGACY)))
}

fn modern(message: &Message, claim: Member, headers: &Headers<'_>) -> Result<Way, Refusal> {
    let version = claimed(message, claim)?;
    let Some(header) = headers.version.map(header::trim) else {
        return Err(Refusal::mismatch(format!(
            "The MCP-Protocol-Version header is missing; params._meta names version {version:?}."
        )));
    };
    agrees("MCP-Protocol-Version", header, "params._meta", &version)?;
    if version != Revision::MODERN.as_str() {
        return Err(Refusal::unsupported(&version));
    }
    check_meta(message)?;
    let Some(header) = headers.method.map(header::trim) else {
        return Err(Refusal::mismatch(format!(
            "The Mcp-Method header is missing; the method is {:?}.",
            message.method()
        )));
    };
    agrees("Mcp-Method", header, "the body", message.method())?;
    check_name(message, headers.name)?;
    if method::removed(message.method()) {
        let text = format!("Protocol version {} has no method {:?}.", Revision::MODERN.as_str(), message.method());
        return Err(Refusal::new(404, code::METHOD_NOT_FOUND, text));
    }
    Ok(Way::Modern)
}

fn claimed(message: &Message, claim: Member) -> Result<String, Refusal> {
    if claim.kind != Kind::String {
        return Err(Refusal::params(format!("params._meta[{VERSION:?}] must be a string.")));
    }
    Ok(scan::text(message.bytes(), claim.value).into_owned())
}

fn agrees(name: &str, header: &[u8], place: &str, body: &str) -> Result<(), Refusal> {
    if header == body.as_bytes() {
        return Ok(());
    }
    let header = String::from_utf8_lossy(header);
    Err(Refusal::mismatch(format!("The {name} header says {header:?}, but {place} says {body:?}.")))
}

/// The required metadata is there and of the right kinds. (E44, E194)
fn check_meta(message: &Message) -> Result<(), Refusal> {
    let kind = |name| message.noted(Place::Meta, name).map(|member| member.kind);
    if kind(CAPABILITIES) != Some(Kind::Object) {
        return Err(Refusal::params(format!("params._meta[{CAPABILITIES:?}] is required and must be an object.")));
    }
    if kind(CLIENT_INFO).is_some_and(|kind| kind != Kind::Object) {
        return Err(Refusal::params(format!("params._meta[{CLIENT_INFO:?}] must be an object.")));
    }
    let level = message.noted(Place::Meta, LOG_LEVEL);
    let known = |level: Member| {
        level.kind == Kind::String && LOG_LEVELS.contains(&scan::text(message.bytes(), level.value).as_ref())
    };
    if level.is_some_and(|level| !known(level)) {
        return Err(Refusal::params(format!("params._meta[{LOG_LEVEL:?}] must be one of {}.", LOG_LEVELS.join(", "))));
    }
    Ok(())
}

/// `Mcp-Name` mirrors the body for the methods that have a name. (E50–E53)
fn check_name(message: &Message, header: Option<&[u8]>) -> Result<(), Refusal> {
    let Some(param) = method::find(message.method()).and_then(|row| row.name_param) else { return Ok(()) };
    let body = message.text(Place::Params, param);
    let Some(header) = header else {
        return match body {
            // Without the member too, the server says what its params lack.
            None => Ok(()),
            Some(body) => {
                Err(Refusal::mismatch(format!("The Mcp-Name header is missing; params.{param} is {body:?}.")))
            }
        };
    };
    let Ok(header) = header::decode(header) else {
        return Err(Refusal::mismatch("The Mcp-Name header has invalid characters or malformed Base64."));
    };
    match body {
        Some(body) => agrees("Mcp-Name", header.as_bytes(), &format!("params.{param}"), &body),
        None => {
            Err(Refusal::mismatch(format!("The Mcp-Name header says {header:?}, but params.{param} is no string.")))
        }
    }
}

/// The specification says nothing about the headers of a modern notification: they are checked where they are. (E47)
fn notification(message: &Message, claim: Option<Member>, headers: &Headers<'_>) -> Result<Way, Refusal> {
    let header = headers.version.map(header::trim);
    let version = match (claim, header) {
        (Some(claim), header) => {
            let version = claimed(message, claim)?;
            header.map_or(Ok(()), |header| agrees("MCP-Protocol-Version", header, "params._meta", &version))?;
            version
        }
        (None, Some(header)) if is_modern(header) => String::from_utf8_lossy(header).into_owned(),
        (None, _) => return in_session(headers),
    };
    if version != Revision::MODERN.as_str() {
        return Err(Refusal::unsupported(&version));
    }
    if let Some(header) = headers.method.map(header::trim) {
        agrees("Mcp-Method", header, "the body", message.method())?;
    }
    Ok(Way::ModernNotification)
}

fn in_session(headers: &Headers<'_>) -> Result<Way, Refusal> {
    session(headers).map(|_| Way::InSession)
}

/// The session's revision. (E70, E71, E119, E120)
fn session(headers: &Headers<'_>) -> Result<Revision, Refusal> {
    let revision = match headers.session {
        SessionHeader::Absent => {
            return Err(Refusal::invalid("Mcp-Session-Id is required; send initialize first to get one."));
        }
        SessionHeader::Unknown => {
            return Err(Refusal::new(
                404,
                code::INVALID_REQUEST,
                "There is no such session; send initialize for a new one.",
            ));
        }
        SessionHeader::Known(revision) => revision,
    };
    let Some(header) = headers.version.map(header::trim) else { return Ok(revision) };
    let supported = std::str::from_utf8(header).ok().and_then(Revision::parse);
    if supported.is_none_or(|supported| supported.era() != Era::Legacy) {
        let header = String::from_utf8_lossy(header);
        let text =
            format!("The MCP-Protocol-Version header says {header:?}; this session speaks {:?}.", revision.as_str());
        return Err(Refusal::invalid(text));
    }
    Ok(revision)
}

/// Arrays are legal in one revision only. (E66, E67, E69)
fn batch(body: &Bytes, array: Span, headers: &Headers<'_>, limits: &Limits) -> Result<Incoming, Refusal> {
    let spans: Vec<Span> = scan::elements(body, array).map(|(element, _)| element).take(MOST_IN_BATCH + 1).collect();
    if spans.len() > MOST_IN_BATCH {
        return Err(Refusal::new(
            413,
            code::INVALID_REQUEST,
            format!("A batch may have at most {MOST_IN_BATCH} messages."),
        ));
    }
    let parse = |span: Span| Message::parse(body.slice(span.start..span.end), Side::Client, limits);
    let messages: Result<Vec<Message>, BadMessage> = spans.into_iter().map(parse).collect();
    // A bad element has no answer of its own, so the whole array is refused without an id.
    let messages = messages.map_err(|bad| Refusal { id: None, ..unreadable(&bad) })?;
    let modern = |message: &Message| message.noted(Place::Meta, VERSION).is_some();
    if names_modern(headers.version) || messages.iter().any(modern) {
        return Err(Refusal::invalid("Protocol version 2026-07-28 has no batches; send each message by itself."));
    }
    let revision = session(headers)?;
    if revision != Revision::V20250326 {
        let text = format!("Protocol version {} has no batches; send each message by itself.", revision.as_str());
        return Err(Refusal::invalid(text));
    }
    if messages.is_empty() {
        return Err(Refusal::invalid("A batch needs at least one message."));
    }
    if messages.iter().any(|message| message.method() == "initialize") {
        return Err(Refusal::invalid("initialize cannot be part of a batch."));
    }
    Ok(Incoming::Batch(messages))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const LIMITS: Limits = Limits { bytes: 1 << 16, depth: 64 };
    const NONE: Headers<'static> = Headers { version: None, method: None, name: None, session: SessionHeader::Absent };

    fn known(revision: Revision) -> Headers<'static> {
        Headers { session: SessionHeader::Known(revision), ..NONE }
    }

    fn decided(body: &Value, headers: &Headers<'_>) -> Result<Incoming, Refusal> {
        classify(Bytes::from(body.to_string()), headers, &LIMITS)
    }

    fn refused(body: &Value, headers: &Headers<'_>) -> (u16, i64) {
        let refusal = decided(body, headers).unwrap_err();
        assert!(!refusal.message.is_empty());
        let body = Message::parse(Bytes::from(refusal.body()), Side::Server, &LIMITS).unwrap();
        assert_eq!((body.shape(), body.error_code()), (Shape::Failure, Some(refusal.code)));
        (refusal.status, refusal.code)
    }

    fn meta() -> Value {
        json!({"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}})
    }

    fn modern_call() -> Value {
        json!({"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{},"_meta":meta()}})
    }

    const CALL: Headers<'static> =
        Headers { version: Some(b"2026-07-28"), method: Some(b"tools/call"), name: Some(b"echo"), ..NONE };

    #[test]
    fn rung_0_what_is_no_json_rpc_is_refused() {
        let bad = |bytes: &[u8]| {
            let refusal = classify(Bytes::copy_from_slice(bytes), &NONE, &LIMITS).unwrap_err();
            (refusal.status, refusal.code, refusal.id)
        };
        assert_eq!(bad(b"{"), (400, code::PARSE, None));
        assert_eq!(bad(b"\xff"), (400, code::PARSE, None));
        assert_eq!(bad(b""), (400, code::PARSE, None));
        assert_eq!(bad(&[b' '; (1 << 16) + 1]), (413, code::PARSE, None));
        assert_eq!(bad(br#"{"jsonrpc":"2.0","id":1,"id":2,"method":"a"}"#), (400, code::INVALID_REQUEST, None));
        assert_eq!(bad(br#"{"jsonrpc":"1.0","id":7,"method":"a"}"#), (400, code::INVALID_REQUEST, Some("7".into())));
        assert_eq!(bad(br#"{"jsonrpc":"2.0","id":null,"method":"a"}"#), (400, code::INVALID_REQUEST, None));
        assert_eq!(bad(b"17"), (400, code::INVALID_REQUEST, None));
    }

    #[test]
    fn e90_a_modern_request_needs_no_session() {
        for session in [SessionHeader::Absent, SessionHeader::Unknown, SessionHeader::Known(Revision::V20250618)] {
            let found = decided(&modern_call(), &Headers { session, ..CALL }).unwrap();
            assert!(matches!(found, Incoming::Modern(_)));
        }
    }

    #[test]
    fn e44_required_metadata() {
        for bad in [Value::Null, json!(1), json!("x"), json!([])] {
            let mut body = modern_call();
            body["params"]["_meta"][CAPABILITIES] = bad;
            assert_eq!(refused(&body, &CALL), (400, code::INVALID_PARAMS));
        }
        let mut body = modern_call();
        body["params"]["_meta"].as_object_mut().unwrap().remove(CAPABILITIES);
        assert_eq!(refused(&body, &CALL), (400, code::INVALID_PARAMS));
        for bad in [json!(20_260_728), Value::Null, json!({})] {
            let mut body = modern_call();
            body["params"]["_meta"][VERSION] = bad;
            assert_eq!(refused(&body, &CALL), (400, code::INVALID_PARAMS));
        }
        for gone in [json!({}), json!({"other":1}), json!([])] {
            let mut body = modern_call();
            body["params"]["_meta"] = gone;
            assert_eq!(refused(&body, &CALL), (400, code::INVALID_PARAMS), "rung 5");
        }
        let mut body = modern_call();
        body["params"]["_meta"][CLIENT_INFO] = json!("me");
        assert_eq!(refused(&body, &CALL), (400, code::INVALID_PARAMS));
    }

    #[test]
    fn e194_unknown_log_level() {
        let mut body = modern_call();
        for bad in [json!("loud"), json!("INFO"), json!(3), Value::Null] {
            body["params"]["_meta"][LOG_LEVEL] = bad;
            assert_eq!(refused(&body, &CALL), (400, code::INVALID_PARAMS));
        }
        body["params"]["_meta"][LOG_LEVEL] = json!("emergency");
        assert!(decided(&body, &CALL).is_ok());
    }

    #[test]
    fn e48_the_version_header_must_agree() {
        for version in [None, Some(&b"2025-11-25"[..]), Some(b"2026-07-29"), Some(b""), Some(b"2026-07-28, 2026-07-28")]
        {
            assert_eq!(refused(&modern_call(), &Headers { version, ..CALL }), (400, code::HEADER_MISMATCH));
        }
    }

    #[test]
    fn e88_e89_an_unsupported_version_names_what_is_supported() {
        for version in ["1900-01-01", "2025-11-25", "2027-01-01", "a\"b"] {
            let mut body = modern_call();
            body["params"]["_meta"][VERSION] = json!(version);
            let headers = Headers { version: Some(version.as_bytes()), ..CALL };
            let refusal = decided(&body, &headers).unwrap_err();
            assert_eq!((refusal.status, refusal.code), (400, code::UNSUPPORTED_VERSION));
            let data: Value = serde_json::from_str(refusal.data.as_deref().unwrap()).unwrap();
            assert_eq!(data, json!({"supported":["2026-07-28"],"requested":version}));
            assert_eq!(refusal.id.as_deref(), Some(&b"1"[..]));
        }
    }

    #[test]
    fn e49_the_method_header_must_agree() {
        for method in [None, Some(&b"tools/list"[..]), Some(b"Tools/Call"), Some(b"\xff"), Some(b"")] {
            assert_eq!(refused(&modern_call(), &Headers { method, ..CALL }), (400, code::HEADER_MISMATCH));
        }
    }

    #[test]
    fn e50_the_name_header_must_agree() {
        for name in [None, Some(&b"danger"[..]), Some(b"Echo"), Some(b"=?base64?!?="), Some(b"caf\xc3\xa9")] {
            assert_eq!(refused(&modern_call(), &Headers { name, ..CALL }), (400, code::HEADER_MISMATCH));
        }
        let mut nameless = modern_call();
        nameless["params"].as_object_mut().unwrap().remove("name");
        assert_eq!(refused(&nameless, &CALL), (400, code::HEADER_MISMATCH), "a header without a body member");
        assert!(decided(&nameless, &Headers { name: None, ..CALL }).is_ok(), "the server says what is missing");
        let mut read = modern_call();
        read["method"] = json!("resources/read");
        read["params"]["uri"] = json!("file:///ü");
        let name = Some(&b"=?base64?ZmlsZTovLy/DvA==?="[..]);
        let headers = Headers { method: Some(b"resources/read"), name, ..CALL };
        assert!(decided(&read, &headers).is_ok(), "E51");
        let mut task = modern_call();
        task["method"] = json!("tasks/get");
        task["params"]["taskId"] = json!("t");
        let headers = Headers { method: Some(b"tasks/get"), name: Some(b"t"), ..CALL };
        assert!(decided(&task, &headers).is_ok(), "E218");
        assert_eq!(refused(&task, &Headers { name: Some(b"u"), ..headers }), (400, code::HEADER_MISMATCH));
        let list = json!({"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":meta()}});
        assert!(decided(&list, &Headers { method: Some(b"tools/list"), ..CALL }).is_ok(), "not recognised there");
    }

    #[test]
    fn e53_white_space_around_headers_does_not_count() {
        let headers =
            Headers { version: Some(b" 2026-07-28\t"), method: Some(b"\ttools/call "), name: Some(b" echo "), ..CALL };
        assert!(decided(&modern_call(), &headers).is_ok());
    }

    #[test]
    fn e91_e93_removed_methods_are_unknown() {
        for method in ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"] {
            let body = json!({"jsonrpc":"2.0","id":"x","method":method,"params":{"uri":"a","_meta":meta()}});
            let headers = Headers { method: Some(method.as_bytes()), name: None, ..CALL };
            assert_eq!(refused(&body, &headers), (404, code::METHOD_NOT_FOUND), "{method}");
            assert_eq!(decided(&body, &headers).unwrap_err().id.as_deref(), Some(&b"\"x\""[..]));
        }
        let vendor = json!({"jsonrpc":"2.0","id":1,"method":"vendor/x","params":{"_meta":meta()}});
        let headers = Headers { method: Some(b"vendor/x"), name: None, ..CALL };
        assert!(matches!(decided(&vendor, &headers), Ok(Incoming::Modern(_))), "the server decides on others");
    }

    fn initialize(version: &str) -> Value {
        json!({"jsonrpc":"2.0","id":0,"method":"initialize",
            "params":{"protocolVersion":version,"capabilities":{},"clientInfo":{"name":"c","version":"1"}}})
    }

    #[test]
    fn e94_initialize_opens_a_session() {
        for (asked, answered) in [
            ("2024-11-05", Revision::V20241105),
            ("2025-03-26", Revision::V20250326),
            ("2025-06-18", Revision::V20250618),
            ("2025-11-25", Revision::V20251125),
            ("2026-07-28", Revision::V20251125),
            ("1999-01-01", Revision::V20251125),
            ("", Revision::V20251125),
        ] {
            let Ok(Incoming::Open { revision, .. }) = decided(&initialize(asked), &NONE) else { panic!("{asked}") };
            assert_eq!(revision, answered, "{asked}");
        }
    }

    #[test]
    fn rung_3_initialize_that_is_refused() {
        let body = initialize("2025-11-25");
        for version in [&b"2026-07-28"[..], b"2030-01-01"] {
            assert_eq!(refused(&body, &Headers { version: Some(version), ..NONE }), (400, code::HEADER_MISMATCH));
        }
        for session in [SessionHeader::Unknown, SessionHeader::Known(Revision::V20251125)] {
            assert_eq!(refused(&body, &Headers { session, ..NONE }), (400, code::INVALID_REQUEST));
        }
        let mut half_modern = body.clone();
        half_modern["params"]["_meta"] = json!({VERSION: "2026-07-28"});
        assert!(matches!(decided(&half_modern, &NONE), Ok(Incoming::Open { .. })), "only whole metadata is a claim");
        let mut bad = body.clone();
        bad["params"]["protocolVersion"] = json!(7);
        assert_eq!(refused(&bad, &NONE), (400, code::INVALID_PARAMS));
        bad = body;
        bad["params"]["capabilities"] = json!([]);
        assert_eq!(refused(&bad, &NONE), (400, code::INVALID_PARAMS));
    }

    /// Shows E33, E65.
    #[test]
    fn rung_2_responses_are_legacy() {
        let answers = [
            json!({"jsonrpc":"2.0","id":1,"result":{}}),
            json!({"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}),
        ];
        for body in &answers {
            assert_eq!(refused(body, &NONE), (400, code::INVALID_REQUEST));
            assert_eq!(
                refused(body, &Headers { version: Some(b"2026-07-28"), ..known(Revision::V20251125) }),
                (400, code::INVALID_REQUEST),
                "E33"
            );
            assert_eq!(
                refused(body, &Headers { session: SessionHeader::Unknown, ..NONE }),
                (404, code::INVALID_REQUEST)
            );
            assert!(matches!(decided(body, &known(Revision::V20251125)), Ok(Incoming::InSession(_))), "E65");
            assert!(decided(body, &NONE).unwrap_err().id.is_none(), "an error to a response has no id");
        }
    }

    #[test]
    fn e47_modern_notifications() {
        let bare = json!({"jsonrpc":"2.0","method":"notifications/x"});
        let mut claimed = bare.clone();
        claimed["params"] = json!({"_meta":meta()});
        let header = Headers { version: Some(b"2026-07-28"), ..NONE };
        for (body, headers) in [(&bare, &header), (&claimed, &NONE), (&claimed, &header)] {
            assert!(matches!(decided(body, headers), Ok(Incoming::ModernNotification(_))));
        }
        let method = Some(&b"notifications/y"[..]);
        assert_eq!(refused(&bare, &Headers { method, ..header }), (400, code::HEADER_MISMATCH));
        assert_eq!(refused(&claimed, &Headers { version: Some(b"2025-11-25"), ..NONE }), (400, code::HEADER_MISMATCH));
        assert_eq!(refused(&bare, &Headers { version: Some(b"2027-01-01"), ..NONE }), (400, code::UNSUPPORTED_VERSION));
        claimed["params"]["_meta"][VERSION] = json!(1);
        assert_eq!(refused(&claimed, &header), (400, code::INVALID_PARAMS));
    }

    /// Shows E70, E71, E120.
    #[test]
    fn rung_6_sessions() {
        let body = json!({"jsonrpc":"2.0","id":1,"method":"tools/list"});
        for revision in Revision::LEGACY {
            assert!(matches!(decided(&body, &known(revision)), Ok(Incoming::InSession(_))), "E70: no header");
        }
        for version in [&b"2025-06-18"[..], b"2025-03-26"] {
            assert!(decided(&body, &Headers { version: Some(version), ..known(Revision::V20250618) }).is_ok());
        }
        for version in [&b"1999-01-01"[..], b"draft", b"\xff", b""] {
            let headers = Headers { version: Some(version), ..known(Revision::V20250618) };
            assert_eq!(refused(&body, &headers), (400, code::INVALID_REQUEST), "E71");
        }
        assert_eq!(
            refused(&body, &Headers { session: SessionHeader::Unknown, ..NONE }),
            (404, code::INVALID_REQUEST),
            "E120"
        );
    }

    /// Shows E119.
    #[test]
    fn rung_7_no_session_and_no_metadata() {
        for body in [
            json!({"jsonrpc":"2.0","id":1,"method":"tools/list"}),
            json!({"jsonrpc":"2.0","method":"notifications/initialized"}),
        ] {
            assert_eq!(refused(&body, &NONE), (400, code::INVALID_REQUEST));
        }
    }

    #[test]
    fn e66_e67_e69_batches() {
        let one = json!({"jsonrpc":"2.0","id":1,"method":"tools/list"});
        let batch = json!([one, {"jsonrpc":"2.0","method":"notifications/x"}]);
        let old = known(Revision::V20250326);
        let Ok(Incoming::Batch(messages)) = decided(&batch, &old) else { panic!("2025-03-26 has batches") };
        assert_eq!(messages.iter().map(Message::shape).collect::<Vec<_>>(), [Shape::Request, Shape::Notification]);
        for revision in [Revision::V20241105, Revision::V20250618, Revision::V20251125] {
            assert_eq!(refused(&batch, &known(revision)), (400, code::INVALID_REQUEST));
        }
        assert_eq!(refused(&batch, &NONE), (400, code::INVALID_REQUEST));
        assert_eq!(refused(&batch, &Headers { session: SessionHeader::Unknown, ..NONE }), (404, code::INVALID_REQUEST));
        assert_eq!(refused(&batch, &Headers { version: Some(b"2026-07-28"), ..old }), (400, code::INVALID_REQUEST));
        for bad in
            [json!([]), json!([1]), json!([[one]]), json!([one, modern_call()]), json!([initialize("2025-03-26")])]
        {
            assert_eq!(refused(&bad, &old), (400, code::INVALID_REQUEST), "{bad}");
        }
        assert!(decided(&Value::from(vec![one.clone(); 64]), &old).is_ok());
        assert_eq!(refused(&Value::from(vec![one; 65]), &old), (413, code::INVALID_REQUEST), "E16");
    }
}
