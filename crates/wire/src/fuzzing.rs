//! What must hold for any bytes: the bodies of the fuzz targets, which the ordinary tests run over the committed corpus.
//! Each takes what a stranger could send and panics when an invariant breaks.

use crate::ask;
use crate::bridge::{self, Leg, Stated};
use crate::catalogue::Reading;
use crate::classify::{Headers, Incoming, SessionHeader, classify as decide};
use crate::code;
use crate::era::{Era, Revision};
use crate::events::{Event, Events};
use crate::frame::Lines;
use crate::header;
use crate::message::{Message, Shape};
use crate::param::{self, Mismatch, Param};
use crate::request_state::{self, Bound};
use crate::scan::{self, Kind, Limits, Place, Scan, Side, Span};
use crate::shape;
use crate::splice::Splice;
use bytes::{Bytes, BytesMut};

const LIMITS: Limits = Limits { bytes: 1 << 20, depth: 64 };
/// What we write may be a little deeper and longer than what we read.
const WIDER: Limits = Limits { bytes: 1 << 21, depth: 80 };

/// The strict scan. Says whether it accepted the bytes from a server, for a comparison with another parser: `Some(false)`
/// if they are no JSON, `None` if they are refused for another reason.
pub fn scan(data: &[u8]) -> Option<bool> {
    let from_client = scan::scan(data, Side::Client, &LIMITS);
    let from_server = scan::scan(data, Side::Server, &LIMITS);
    assert!(from_server.is_ok() || from_client.is_err(), "a client may send no more than a server");
    match from_server {
        Ok(found) => {
            check_notes(data, &found);
            check_walks(data, found.root());
            Some(true)
        }
        Err(scan::ScanError::Syntax { .. } | scan::ScanError::NotUtf8 { .. }) => Some(false),
        Err(_) => None,
    }
}

fn check_notes(data: &[u8], found: &Scan) {
    for (at, note) in found.members().iter().enumerate() {
        let name = note.name.unwrap_or_default();
        assert_eq!(scan::text(data, note.key), name);
        assert!(note.key.end < note.value.start && note.value.end <= found.root().end);
        let again = |other: &scan::Member| other.place == note.place && other.name == note.name;
        assert!(!found.members()[..at].iter().any(again), "a name is noted once per place");
    }
}

fn check_walks(data: &[u8], root: Span) {
    let mut flat = Vec::new();
    Splice::new().write(data, root, &mut flat);
    assert!(memchr::memchr2(b'\r', b'\n', &flat).is_none());
    assert!(scan::scan(&flat, Side::Server, &LIMITS).is_ok());
    let form = scan::canonical(data, root);
    let again = scan::scan(&form, Side::Server, &WIDER);
    assert!(again.is_ok_and(|again| again.root() == Span::all(&form)));
    assert_eq!(scan::canonical(&form, Span::all(&form)), form);
    assert_eq!(scan::canonical(&flat, Span::all(&flat)), form);
}

/// The ladder. The first line holds version, method, name and session between bars (`-` for an absent header), the rest is
/// the body.
pub fn classify(data: &[u8]) {
    let line = memchr::memchr(b'\n', data).unwrap_or(data.len());
    let body = Bytes::copy_from_slice(data.get(line + 1..).unwrap_or_default());
    let mut fields = data[..line].split(|byte| *byte == b'|').map(|field| Some(field).filter(|field| *field != b"-"));
    let mut field = || fields.next().flatten();
    let (version, method, name, session) = (field(), field(), field(), field());
    let session = match session.map(|session| std::str::from_utf8(session).ok().and_then(Revision::parse)) {
        None => SessionHeader::Absent,
        Some(None | Some(Revision::MODERN)) => SessionHeader::Unknown,
        Some(Some(revision)) => SessionHeader::Known(revision),
    };
    let headers = Headers { version, method, name, session };
    match decide(body, &headers, &LIMITS) {
        Ok(Incoming::Open { message, .. }) => {
            assert!(message.method() == "initialize" && message.shape() == Shape::Request);
            assert_eq!(session, SessionHeader::Absent);
        }
        Ok(Incoming::InSession(message)) => {
            assert!(matches!(session, SessionHeader::Known(_)));
            assert!(message.shape() != Shape::Request || message.method() != "initialize");
        }
        Ok(Incoming::Batch(messages)) => {
            assert_eq!(session, SessionHeader::Known(Revision::V20250326));
            assert!((1..=64).contains(&messages.len()));
        }
        Ok(Incoming::Modern(message)) => check_modern(&message, &headers),
        Ok(Incoming::ModernNotification(message)) => assert_eq!(message.shape(), Shape::Notification),
        Err(refusal) => {
            assert!(matches!(refusal.status, 400 | 404 | 413) && !refusal.message.is_empty());
            let answer = Message::parse(Bytes::from(refusal.body()), Side::Server, &WIDER);
            assert!(answer.is_ok_and(|answer| answer.error_code() == Some(refusal.code) && answer.id() == refusal.id));
        }
    }
}

fn check_modern(message: &Message, headers: &Headers<'_>) {
    assert_eq!(message.shape(), Shape::Request);
    let version = message.text(Place::Meta, "io.modelcontextprotocol/protocolVersion");
    assert_eq!(version.as_deref(), Some(Revision::MODERN.as_str()));
    assert!(headers.version.is_some_and(|header| header.trim_ascii() == b"2026-07-28"));
    assert!(headers.method.is_some_and(|header| header.trim_ascii() == message.method().as_bytes()));
}

/// The framer. The first byte is the limit, the second the size of the pieces, the rest is the stream.
pub fn framer(data: &[u8]) {
    let [limit, piece, stream @ ..] = data else { return };
    let (limit, piece) = (usize::from(*limit) + 1, usize::from(*piece) + 1);
    let whole = lines(limit, stream, stream.len().max(1));
    assert_eq!(whole, lines(limit, stream, piece), "the size of the pieces makes no difference");
    for line in &whole.0 {
        assert!(!line.is_empty() && line.len() <= limit && !line.contains(&b'\n'));
    }
}

fn lines(limit: usize, stream: &[u8], piece: usize) -> (Vec<Bytes>, bool) {
    let (mut lines, mut buffer, mut out) = (Lines::new(limit), BytesMut::new(), Vec::new());
    for chunk in stream.chunks(piece) {
        buffer.extend_from_slice(chunk);
        while let Some(line) = lines.next(&mut buffer) {
            match line {
                Ok(line) => out.push(line),
                Err(_) => return (out, true),
            }
        }
    }
    (out, false)
}

/// Mirrored headers and the list that asks for them. The first line is a header value, the rest is a schema's `properties` and
/// the arguments of a call, one after the other.
pub fn params(data: &[u8]) {
    let line = memchr::memchr(b'\n', data).unwrap_or(data.len());
    let (value, json) = (&data[..line], data.get(line + 1..).unwrap_or_default());
    if let Ok(decoded) = header::decode(value) {
        assert_eq!(header::decode(header::encode(&decoded).as_bytes()).as_deref(), Ok(&*decoded), "there and back");
    }
    let cut = memchr::memchr(b'\n', json).unwrap_or(json.len());
    let list = [
        br#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"t","inputSchema":{"properties":"#,
        &json[..cut],
        b"}}]}}",
    ]
    .concat();
    let Ok(list) = Message::parse(Bytes::from(list), Side::Server, &LIMITS) else { return };
    let mut reading = Reading::default();
    let Ok(None) = reading.page(&list) else { return };
    let catalogue = reading.done();
    let Some(tool) = catalogue.tool("t") else { return };
    assert!(!tool.excluded() || tool.params().is_empty(), "what is invalid is not used");
    let arguments = json.get(cut + 1..).unwrap_or(b"{}");
    let call = [br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":"#, arguments, b"}}"].concat();
    let Ok(call) = Message::parse(Bytes::from(call), Side::Client, &LIMITS) else { return };
    check_mirrors(tool.params(), &call, value);
}

/// What we would send for a call is what we accept; one more or other header is not.
fn check_mirrors(params: &[Param], call: &Message, value: &[u8]) {
    let sent = param::headers(params, call);
    let received: Vec<_> =
        sent.iter().filter_map(|(name, value)| Some((name.get(param::PREFIX.len()..)?, value.as_bytes()))).collect();
    match param::check(params, call, &received) {
        Ok(()) => {}
        Err(Mismatch::NotPlain { .. }) => return,
        Err(other) => unreachable!("{other}"),
    }
    for param in params {
        let mut odd = received.clone();
        let own = odd.iter().position(|(name, _)| *name == param.name());
        odd.push((param.name(), value));
        assert!(param::check(params, call, &odd).is_err(), "twice, or without a value: {own:?}");
    }
}

/// A server's answers to `tools/list`, read as a list and fitted to each revision.
pub fn catalogue(data: &[u8]) {
    let Ok(list) = Message::parse(Bytes::copy_from_slice(data), Side::Server, &LIMITS) else { return };
    let mut reading = Reading::default();
    let next = reading.page(&list);
    let catalogue = reading.done();
    assert!(next.is_ok() || list.shape() != Shape::Success || catalogue.is_plain());
    for fault in catalogue.faults() {
        assert!(!fault.to_string().is_empty());
    }
    for revision in Revision::LEGACY {
        for (method, server) in [
            ("tools/list", Era::Modern),
            ("tools/call", Era::Modern),
            ("tools/call", Era::Legacy),
            ("prompts/get", Era::Legacy),
        ] {
            let Some(fitted) = shape::result(&list, method, server, revision, false) else { continue };
            assert_eq!((fitted.shape(), fitted.id()), (list.shape(), list.id()));
            let again = shape::result(&fitted, method, server, revision, false);
            assert!(again.is_none(), "what was fitted fits");
        }
    }
}

/// The events of a remote server. The first byte is the limit, the second the size of the pieces, the rest is the stream.
pub fn events(data: &[u8]) {
    let [limit, piece, stream @ ..] = data else { return };
    let (limit, piece) = (usize::from(*limit), usize::from(*piece) + 1);
    let (whole, failed) = read_events(limit, stream, stream.len().max(1));
    let (pieces, failed_too) = read_events(limit, stream, piece);
    // In small pieces an error may come earlier, as nothing is read ahead of it; what came before is the same.
    assert!(whole.starts_with(&pieces) || pieces.starts_with(&whole));
    assert!(failed == failed_too && (failed || whole == pieces), "the size of the pieces makes no difference");
    for event in &whole {
        assert!(event.data.len() <= limit + 1 && !event.name.is_empty());
        assert!(event.id.as_ref().is_none_or(|id| id.bytes().all(|byte| matches!(byte, b' '..=b'~'))));
    }
}

fn read_events(limit: usize, stream: &[u8], piece: usize) -> (Vec<Event>, bool) {
    let (mut events, mut out) = (Events::new(limit), Vec::new());
    let failed = stream.chunks(piece).any(|chunk| events.feed(chunk, |event| out.push(event)).is_err());
    (out, failed)
}

const LEGS: [Leg; 4] = [Leg::LegacyToLegacy, Leg::ModernToModern, Leg::ModernToLegacy, Leg::LegacyToModern];
const ID: &[u8] = b"\"\\u0061\"";

/// The legs: what comes out is one JSON-RPC message on one line, with the right id, for every message and leg.
pub fn bridge(data: &[u8]) {
    let data = Bytes::copy_from_slice(data);
    if let Ok(message) = Message::parse(data.clone(), Side::Client, &LIMITS) {
        match message.shape() {
            Shape::Request => LEGS.iter().for_each(|leg| check_request(&message, *leg)),
            Shape::Notification => check_line(|line| bridge::notification_line(line, &message), None),
            Shape::Success | Shape::Failure => check_line(|line| bridge::answer_line(line, &message, ID), Some(ID)),
        }
    }
    if let Ok(message) = Message::parse(data, Side::Server, &LIMITS) {
        match message.shape() {
            Shape::Request => check_text(&bridge::server_request(&message, "5"), Some(b"5")),
            Shape::Notification => check_text(&bridge::notification(&message, Some(b"0"), Some(ID)), None),
            Shape::Success | Shape::Failure => {
                let methods = ["tools/call", "tools/list", "resources/read"];
                LEGS.iter().for_each(|leg| methods.iter().for_each(|method| check_response(&message, *leg, method)));
            }
        }
    }
}

fn check_request(message: &Message, leg: Leg) {
    let stated = Stated { capabilities: b"{\"tasks\":{}}", client_info: b"{}", log_level: Some("info") };
    let write =
        |line: &mut Vec<u8>| bridge::request_line(line, message, leg, 18_446_744_073_709_551_615, Some(&stated));
    check_line(write, Some(b"18446744073709551615"));
    let mut line = Vec::new();
    write(&mut line);
    let sent = Message::parse(Bytes::from(line), Side::Client, &WIDER);
    let Ok(sent) = sent else { unreachable_from("a request line is a message", leg) };
    assert_eq!(sent.method(), message.method());
    assert_eq!(sent.progress_token().is_some(), message.progress_token().is_some());
    assert!(sent.progress_token().is_none_or(|token| token == b"18446744073709551615"));
    let version = sent.member(Place::Meta, "io.modelcontextprotocol/protocolVersion");
    match leg {
        Leg::ModernToLegacy => assert!(version.is_none()),
        Leg::LegacyToModern => {
            let positional = message.member(Place::Root, "params").is_some_and(|params| params.kind == Kind::Array);
            assert!(positional || version.is_some_and(|version| sent.raw(version.value) == b"\"2026-07-28\""));
        }
        Leg::LegacyToLegacy | Leg::ModernToModern => {}
    }
}

fn check_response(message: &Message, leg: Leg, method: &str) {
    let delivery = bridge::response(message, leg, ID, method, Some(b"{}"));
    check_text(&delivery.body, Some(ID));
    let Ok(shown) = Message::parse(Bytes::from(delivery.body), Side::Server, &WIDER) else {
        unreachable_from("a delivery is a message", leg)
    };
    let (kind, code) = (shown.text(Place::Result, "resultType"), shown.error_code());
    match leg {
        Leg::ModernToLegacy => {
            assert!(shown.shape() == Shape::Failure || kind.as_deref() == Some("complete"));
            assert!(!matches!(code, Some(code::RESOURCE_NOT_FOUND | code::URL_ELICITATION_REQUIRED)));
        }
        Leg::LegacyToModern => {
            assert!(kind.is_none() && !matches!(code, Some(code::UNSUPPORTED_VERSION..=code::HEADER_MISMATCH)));
        }
        Leg::LegacyToLegacy | Leg::ModernToModern => assert_eq!(shown.shape(), message.shape()),
    }
    assert!(delivery.status == 200 || matches!(leg, Leg::ModernToLegacy | Leg::ModernToModern));
}

fn check_line(write: impl Fn(&mut Vec<u8>), id: Option<&[u8]>) {
    let mut line = Vec::new();
    write(&mut line);
    assert_eq!(line.pop(), Some(b'\n'));
    check_text(&line, id);
}

fn check_text(text: &[u8], id: Option<&[u8]>) {
    assert!(memchr::memchr2(b'\r', b'\n', text).is_none());
    let message = Message::parse(Bytes::copy_from_slice(text), Side::Server, &WIDER);
    assert!(message.is_ok_and(|message| message.id().as_deref() == id), "{:?}", String::from_utf8_lossy(text));
}

fn unreachable_from(what: &str, leg: Leg) -> ! {
    unreachable!("{what}, also on {leg:?}")
}

/// The sealed state and the requests of legacy servers: what is no state of ours does not open, what is one opens only in
/// one spelling, and whatever a server asks becomes one input request of the same method.
pub fn request_state(data: &[u8]) {
    let Some(key) = request_state::Key::new(&[7; 32]) else { return };
    let bound = Bound { principal: "ann", client: "", server: "s", method: "tools/call", digest: [0; 32] };
    if let Ok(text) = std::str::from_utf8(data)
        && let Some(ticket) = request_state::open(&key, &bound, 0, text)
    {
        let nonce = [1; request_state::NONCE];
        let again = request_state::seal(&key, nonce, &bound, &ticket);
        assert!(again.is_some_and(|again| request_state::open(&key, &bound, 0, &again) == Some(ticket)));
        let other = Bound { principal: "bob", ..bound };
        assert_eq!(request_state::open(&key, &other, 0, text), None);
        assert_eq!(request_state::open(&key, &bound, 0, &format!("{text}A")), None);
    }
    let data = Bytes::copy_from_slice(data);
    if let Ok(message) = Message::parse(data.clone(), Side::Client, &LIMITS) {
        assert_eq!(request_state::digest(&message), request_state::digest(&message));
        let _ = (ask::answers(&message), ask::state(&message));
    }
    let Ok(message) = Message::parse(data, Side::Server, &LIMITS) else { return };
    let mut asked = ask::url_elicitations(&message).unwrap_or_default();
    if ask::Need::of(&message).is_some() {
        asked.push(ask::input_request(&message));
    }
    let named: Vec<(String, Vec<u8>)> =
        asked.into_iter().enumerate().map(|(n, one)| (format!("r1_{n}"), one)).collect();
    check_text(&ask::input_required(ID, &named, "v1.\"", Some(b"{}")), Some(ID));
}
