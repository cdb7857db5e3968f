//! Carries messages between a client and a server of the same or another era by splicing bytes. (eras §2.3, §2.6)

use crate::code;
use crate::era::Revision;
use crate::message::{Message, Shape};
use crate::method;
use crate::scan::{self, Kind, Place, Span};
use crate::splice::{Splice, append_flat};

/// The eras at both ends of a call, client first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// Both speak with sessions.
    LegacyToLegacy,
    /// Both speak 2026-07-28.
    ModernToModern,
    /// A modern client in front of a legacy server.
    ModernToLegacy,
    /// A legacy client in front of a modern server.
    LegacyToModern,
}

impl Leg {
    fn modern_client(self) -> bool {
        matches!(self, Self::ModernToModern | Self::ModernToLegacy)
    }
}

/// What a legacy client said once and a modern server wants with every request (raw JSON objects; log level a bare word).
#[derive(Clone, Copy, Debug)]
pub struct Stated<'a> {
    /// The session's client capabilities.
    pub capabilities: &'a [u8],
    /// The session's client info.
    pub client_info: &'a [u8],
    /// What the client last asked for by `logging/setLevel`.
    pub log_level: Option<&'a str>,
}

pub(crate) const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
pub(crate) const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
pub(crate) const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
pub(crate) const RELATED_TASK: &str = "io.modelcontextprotocol/related-task";
pub(crate) const TASKS: &str = "io.modelcontextprotocol/tasks";

/// What belongs to the modern era in a request's `_meta`. (B38)
const ERA_MEMBERS: [&str; 5] = [VERSION, CLIENT_INFO, CLIENT_CAPABILITIES, LOG_LEVEL, SUBSCRIPTION];

/// A client's request as one line for the server's stdin, newline included, appended to `line`: id and progress token (if the
/// client gave one) become `upstream_id`; era members of `_meta` removed (ModernToLegacy, B38) or added (LegacyToModern, from
/// `stated`); raw CR and LF become spaces; every other byte as it was.
pub fn request_line(line: &mut Vec<u8>, message: &Message, leg: Leg, upstream_id: u64, stated: Option<&Stated<'_>>) {
    let upstream_id = upstream_id.to_string();
    let mut splice = Splice::new();
    if let Some(id) = message.id_span() {
        splice.replace_with(id, upstream_id.as_bytes());
    }
    // A token that is no string or integer is replaced too: a lax server would read `true` or `1e0` as somebody's `1`.
    if let Some(token) = message.progress_token_span() {
        splice.replace_with(token, upstream_id.as_bytes());
    }
    match leg {
        Leg::LegacyToLegacy | Leg::ModernToModern => {}
        Leg::ModernToLegacy => remove_era(&mut splice, message),
        Leg::LegacyToModern => add_era(&mut splice, message, stated),
    }
    end_line(splice, message, line);
}

fn remove_era(splice: &mut Splice, message: &Message) {
    if let Some(params) = message.object(Place::Params) {
        // Answers that nobody asked for: a legacy server has no word for them. (E175)
        for name in ["inputResponses", "requestState"] {
            if let Some(member) = message.noted(Place::Params, name) {
                splice.delete_member(message.bytes(), params, member.key);
            }
        }
    }
    let Some(meta) = message.object(Place::Meta) else { return };
    let era: Vec<Span> =
        ERA_MEMBERS.iter().filter_map(|name| message.noted(Place::Meta, name)).map(|member| member.key).collect();
    let all = scan::members(message.bytes(), meta).count();
    match (message.object(Place::Params), message.noted(Place::Params, "_meta")) {
        // `_meta` was there for the era alone.
        (Some(params), Some(member)) if era.len() == all => {
            splice.delete_member(message.bytes(), params, member.key);
        }
        _ => era.into_iter().for_each(|key| splice.delete_member(message.bytes(), meta, key)),
    }
}

fn add_era(splice: &mut Splice, message: &Message, stated: Option<&Stated<'_>>) {
    let bytes = message.bytes();
    let mut era: Vec<(&str, Vec<u8>)> = vec![(VERSION, quoted(Revision::MODERN.as_str()))];
    era.push((CLIENT_CAPABILITIES, stated.map_or_else(|| b"{}".to_vec(), |stated| offered(stated.capabilities))));
    if let Some(info) = stated.map(|stated| stated.client_info).filter(|info| info.first() == Some(&b'{')) {
        era.push((CLIENT_INFO, info.to_vec()));
    }
    if let Some(level) = stated.and_then(|stated| stated.log_level) {
        era.push((LOG_LEVEL, quoted(level)));
    }
    if let Some(meta) = message.object(Place::Meta) {
        for (name, value) in &era {
            if let Some(old) = message.noted(Place::Meta, name) {
                splice.delete_member(bytes, meta, old.key);
            }
            splice.add_member(bytes, meta, name, value);
        }
        return;
    }
    let meta = object_of(&era);
    match (message.noted(Place::Root, "params"), message.noted(Place::Params, "_meta")) {
        (Some(_), Some(no_object)) => splice.replace(no_object.value, meta),
        (Some(params), None) if params.kind == Kind::Object => splice.add_member(bytes, params.value, "_meta", &meta),
        // Params by position are legal JSON-RPC and no MCP: the server says so.
        (Some(_), None) => {}
        (None, _) => {
            let params = object_of(&[("_meta", meta)]);
            splice.add_member(bytes, message.scan().root(), "params", &params);
        }
    }
}

/// A client's capabilities as a peer of the other era may be told them: without tasks, without `roots.listChanged`. (B4)
pub(crate) fn offered(capabilities: &[u8]) -> Vec<u8> {
    let all = Span::all(capabilities);
    let mut splice = Splice::new();
    delete(&mut splice, capabilities, all, "tasks");
    if let Some((roots, _)) = scan::member(capabilities, all, "roots") {
        delete(&mut splice, capabilities, roots, "listChanged");
    }
    if let Some((extensions, _)) = scan::member(capabilities, all, "extensions") {
        delete(&mut splice, capabilities, extensions, TASKS);
    }
    let mut out = Vec::new();
    splice.write(capabilities, all, &mut out);
    out
}

/// Deletes the member `name` of an object, if there is one.
pub(crate) fn delete(splice: &mut Splice, bytes: &[u8], object: Span, name: &str) {
    if let Some((key, ..)) = scan::members(bytes, object).find(|(key, ..)| scan::text(bytes, *key) == name) {
        splice.delete_member(bytes, object, key);
    }
}

/// A client's notification as one line. `notifications/cancelled` is not sent this way.
pub fn notification_line(line: &mut Vec<u8>, message: &Message) {
    end_line(Splice::new(), message, line);
}

/// `notifications/cancelled` for a request of ours, one line. (E138)
pub fn cancel_line(line: &mut Vec<u8>, upstream_id: u64, reason: &str) {
    line.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{\"requestId\":");
    line.extend_from_slice(upstream_id.to_string().as_bytes());
    line.extend_from_slice(b",\"reason\":");
    scan::write_text(line, reason);
    line.extend_from_slice(b"}}\n");
}

/// `logging/setLevel`, one line. (B14)
pub fn set_level_line(line: &mut Vec<u8>, upstream_id: u64, level: &str) {
    line.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    line.extend_from_slice(upstream_id.to_string().as_bytes());
    line.extend_from_slice(b",\"method\":\"logging/setLevel\",\"params\":{\"level\":");
    scan::write_text(line, level);
    line.extend_from_slice(b"}}\n");
}

/// A client's answer to a request of the server, with the server's own id (as it spelled it), one line.
pub fn answer_line(line: &mut Vec<u8>, message: &Message, server_id: &[u8]) {
    let mut splice = Splice::new();
    set_id(&mut splice, message, server_id);
    end_line(splice, message, line);
}

/// An answer of ours to a request of the server: `result` or `error` as raw JSON, one line.
pub fn reply_line(line: &mut Vec<u8>, server_id: &[u8], outcome: Result<&[u8], (i64, &str)>) {
    match outcome {
        Ok(result) => {
            line.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
            line.extend_from_slice(server_id);
            line.extend_from_slice(b",\"result\":");
            append_flat(line, result);
            line.push(b'}');
        }
        Err((code, message)) => line.extend_from_slice(&code::error_body(Some(server_id), code, message, None)),
    }
    line.push(b'\n');
}

fn end_line(splice: Splice, message: &Message, line: &mut Vec<u8>) {
    splice.write(message.bytes(), message.scan().root(), line);
    line.push(b'\n');
}

/// Gives a message this id, whether it has one, has null (an error may) or has none.
fn set_id(splice: &mut Splice, message: &Message, id: &[u8]) {
    match message.noted(Place::Root, "id") {
        Some(old) => splice.replace_with(old.value, id),
        None => splice.add_member(message.bytes(), message.scan().root(), "id", id),
    }
}

/// A server's answer on its way to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The JSON-RPC response.
    pub body: Vec<u8>,
    /// The HTTP status it wants while that is still free to choose (B31): 200; for modern clients 404 for -32601, 400 for
    /// -32020, -32021, -32022.
    pub status: u16,
}

/// A server's response to the request with `method`, as the client shall see it: its id as it spelled it; ModernToLegacy adds
/// resultType, ttlMs and cacheScope on the six cacheable results, `_meta` serverInfo, removes `execution` from listed tools,
/// maps codes (B27, B28, B30; E106); LegacyToModern removes resultType, ttlMs, cacheScope, maps B29 (`input_required` is
/// [`crate::rounds`]' business). A CR or LF inside is blanked (SSE data).
pub fn response(message: &Message, leg: Leg, client_id: &[u8], method: &str, server_info: Option<&[u8]>) -> Delivery {
    let mut splice = Splice::new();
    set_id(&mut splice, message, client_id);
    let verdict = match (message.shape(), leg) {
        (Shape::Failure, leg) => Ok(map_error(&mut splice, message, leg)),
        (_, Leg::ModernToLegacy) => complete(&mut splice, message, method, server_info).map(|()| 200),
        (_, Leg::LegacyToModern) => uncomplete(&mut splice, message).map(|()| 200),
        (_, Leg::LegacyToLegacy | Leg::ModernToModern) => Ok(200),
    };
    match verdict {
        Ok(status) => {
            let mut body = Vec::new();
            splice.write(message.bytes(), message.scan().root(), &mut body);
            Delivery { body, status }
        }
        Err(Refused { why, data }) => {
            let body = code::error_body(Some(client_id), code::INTERNAL, &why, Some(&data));
            Delivery { body, status: 200 }
        }
    }
}

/// Why a success cannot be delivered as one; answered as -32603. `data` is JSON text.
struct Refused {
    why: String,
    data: String,
}

impl Refused {
    fn new(why: &str) -> Self {
        Self { why: why.to_owned(), data: "{\"source\":\"staithe\"}".to_owned() }
    }
}

/// Writes the code that the client's era has for a failure; says which HTTP status goes with it.
fn map_error(splice: &mut Splice, message: &Message, leg: Leg) -> u16 {
    let Some(code) = message.error_code() else { return 200 };
    let shown = match (leg, code) {
        (Leg::ModernToModern | Leg::ModernToLegacy, code::RESOURCE_NOT_FOUND) => code::INVALID_PARAMS,
        (Leg::ModernToModern | Leg::ModernToLegacy, code::URL_ELICITATION_REQUIRED) => {
            let needs = br#"{"requiredCapabilities":{"elicitation":{"url":{}}}}"#;
            set_error_member(splice, message, "data", needs);
            code::MISSING_CAPABILITY
        }
        // A legacy server cannot mean the modern sense of these.
        (Leg::ModernToLegacy, code::HEADER_MISMATCH | code::MISSING_CAPABILITY | code::UNSUPPORTED_VERSION) => {
            code::INTERNAL
        }
        (Leg::LegacyToModern, code::MISSING_CAPABILITY) => {
            explain(splice, message, "The server needs a client feature that this client did not offer");
            code::INTERNAL
        }
        (Leg::LegacyToModern, code::HEADER_MISMATCH | code::UNSUPPORTED_VERSION) => {
            explain(splice, message, "The gateway and the server disagree about the protocol");
            code::INTERNAL
        }
        (_, code) => code,
    };
    if shown != code {
        set_error_member(splice, message, "code", shown.to_string().as_bytes());
    }
    match shown {
        code::METHOD_NOT_FOUND if leg.modern_client() => 404,
        code::HEADER_MISMATCH | code::MISSING_CAPABILITY | code::UNSUPPORTED_VERSION if leg.modern_client() => 400,
        _ => 200,
    }
}

/// Puts our words before the server's message.
fn explain(splice: &mut Splice, message: &Message, what: &str) {
    let said = message.text(Place::Error, "message").unwrap_or_default();
    let text = if said.is_empty() { what.to_owned() } else { format!("{what}: {said}") };
    set_error_member(splice, message, "message", &quoted(&text));
}

fn set_error_member(splice: &mut Splice, message: &Message, name: &str, value: &[u8]) {
    match (message.noted(Place::Error, name), message.object(Place::Error)) {
        (Some(old), _) => splice.replace_with(old.value, value),
        (None, Some(error)) => splice.add_member(message.bytes(), error, name, value),
        (None, None) => {}
    }
}

/// Makes a legacy result a modern one. (B23, B24, B25, E46)
fn complete(splice: &mut Splice, message: &Message, method: &str, server_info: Option<&[u8]>) -> Result<(), Refused> {
    let mut members: Vec<(&str, Vec<u8>)> = vec![("resultType", quoted("complete"))];
    if method::find(method).is_some_and(|row| row.cacheable) {
        members.push(("ttlMs", b"0".to_vec()));
        members.push(("cacheScope", quoted("private")));
    }
    let info = server_info.map(|info| object_of(&[(SERVER_INFO, info.to_vec())]));
    let Some(result) = message.object(Place::Result) else {
        members.extend(info.map(|info| ("_meta", info)));
        return match message.noted(Place::Root, "result") {
            // Lax servers say null where the result has no members.
            Some(null) if null.kind == Kind::Null => {
                splice.replace(null.value, object_of(&members));
                Ok(())
            }
            _ => Err(Refused::new("The server's result is not an object.")),
        };
    };
    match (message.object(Place::ResultMeta), message.noted(Place::Result, "_meta"), server_info) {
        (Some(meta), _, Some(info)) if message.noted(Place::ResultMeta, SERVER_INFO).is_none() => {
            splice.add_member(message.bytes(), meta, SERVER_INFO, info);
        }
        (None, None, Some(_)) => members.extend(info.map(|info| ("_meta", info))),
        _ => {}
    }
    for (name, value) in members.iter().rev() {
        match message.noted(Place::Result, name) {
            // The server's own word is of another era, so ours stands.
            Some(old) => splice.replace_with(old.value, value),
            None => splice.add_member(message.bytes(), result, name, value),
        }
    }
    if method == "tools/list" {
        remove_execution(splice, message);
    }
    Ok(())
}

/// `execution` speaks of the tasks of 2025-11-25, which modern clients are not shown. (B21, B25)
fn remove_execution(splice: &mut Splice, message: &Message) {
    let Some(tools) = message.noted(Place::Result, "tools") else { return };
    for (tool, _) in scan::elements(message.bytes(), tools.value) {
        delete(splice, message.bytes(), tool, "execution");
    }
}

/// Makes a modern result a legacy one. (B23, B24)
fn uncomplete(splice: &mut Splice, message: &Message) -> Result<(), Refused> {
    let Some(result) = message.object(Place::Result) else { return Ok(()) };
    if let Some(kind) = message.noted(Place::Result, "resultType") {
        let kind = if kind.kind == Kind::String { scan::text(message.bytes(), kind.value) } else { "".into() };
        match kind.as_ref() {
            "complete" => {}
            _ => {
                return Err(Refused::new(
                    "The server's result is of a type that this client's protocol does not have.",
                ));
            }
        }
    }
    for name in ["resultType", "ttlMs", "cacheScope"] {
        if let Some(member) = message.noted(Place::Result, name) {
            splice.delete_member(message.bytes(), result, member.key);
        }
    }
    Ok(())
}

/// A server's notification for the client: progress token restored to `token`,
/// `_meta["io.modelcontextprotocol/subscriptionId"]` restored to `subscription`, rest verbatim.
pub fn notification(message: &Message, token: Option<&[u8]>, subscription: Option<&[u8]>) -> Vec<u8> {
    let mut splice = Splice::new();
    if let (Some(token), Some(ours)) = (token, message.noted(Place::Params, "progressToken")) {
        splice.replace_with(ours.value, token);
    }
    if let (Some(subscription), Some(ours)) = (subscription, message.noted(Place::Meta, SUBSCRIPTION)) {
        splice.replace_with(ours.value, subscription);
    }
    let mut out = Vec::new();
    splice.write(message.bytes(), message.scan().root(), &mut out);
    out
}

/// A server's request for a legacy client, its id replaced. `id` is JSON text: a number or a string with its quotes.
pub fn server_request(message: &Message, id: &str) -> Vec<u8> {
    let mut splice = Splice::new();
    set_id(&mut splice, message, id.as_bytes());
    let mut out = Vec::new();
    splice.write(message.bytes(), message.scan().root(), &mut out);
    out
}

pub(crate) fn quoted(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2);
    scan::write_text(&mut out, text);
    out
}

/// A JSON object of these members.
pub(crate) fn object_of(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut out = vec![b'{'];
    for (index, (name, value)) in members.iter().enumerate() {
        out.extend_from_slice(if index > 0 { b"," } else { b"" });
        scan::write_text(&mut out, name);
        out.push(b':');
        append_flat(&mut out, value);
    }
    out.push(b'}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{Limits, Side};
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const LIMITS: Limits = Limits { bytes: 1 << 20, depth: 64 };
    const LEGS: [Leg; 4] = [Leg::LegacyToLegacy, Leg::ModernToModern, Leg::ModernToLegacy, Leg::LegacyToModern];

    fn client(text: &str) -> Message {
        Message::parse(Bytes::copy_from_slice(text.as_bytes()), Side::Client, &LIMITS).unwrap()
    }

    fn server(text: &str) -> Message {
        Message::parse(Bytes::copy_from_slice(text.as_bytes()), Side::Server, &LIMITS).unwrap()
    }

    fn line(text: &str, leg: Leg, stated: Option<&Stated<'_>>) -> String {
        let mut line = Vec::new();
        request_line(&mut line, &client(text), leg, 77, stated);
        String::from_utf8(line).unwrap()
    }

    fn delivered(text: &str, leg: Leg, method: &str) -> (Value, u16) {
        let info = br#"{"name":"old","version":"1"}"#;
        let delivery = response(&server(text), leg, b"\"id\"", method, Some(info));
        (serde_json::from_slice(&delivery.body).unwrap(), delivery.status)
    }

    #[test]
    fn e3_e149_same_era_changes_id_and_token_only() {
        let text = "{ \"x-vendor\" : 12345678901234567890123,\r\n\"jsonrpc\":\"2.0\", \"id\":\"a\\u0062\",\"method\":\"tools/call\",\
            \"params\":{\"arguments\":{\"f\":1.10,\"id\":3},\"_meta\":{\"progressToken\":\"\",\"traceparent\":\"00-x\"}} }";
        let expected = "{ \"x-vendor\" : 12345678901234567890123,  \"jsonrpc\":\"2.0\", \"id\":77,\"method\":\"tools/call\",\
            \"params\":{\"arguments\":{\"f\":1.10,\"id\":3},\"_meta\":{\"progressToken\":77,\"traceparent\":\"00-x\"}} }\n";
        for leg in [Leg::LegacyToLegacy, Leg::ModernToModern] {
            assert_eq!(line(text, leg, None), expected);
        }
    }

    #[test]
    fn e149_every_token_is_replaced_but_null() {
        for (token, becomes) in [("0", "77"), ("\"t\"", "77"), ("1e0", "77"), ("true", "77"), ("null", "null")] {
            let text = |token: &str| {
                format!(r#"{{"jsonrpc":"2.0","id":77,"method":"a","params":{{"_meta":{{"progressToken":{token}}}}}}}"#)
            };
            assert_eq!(line(&text(token), Leg::LegacyToLegacy, None), format!("{}\n", text(becomes)));
        }
    }

    /// Shows E13, E14.
    #[test]
    fn b38_era_members_are_removed_for_a_legacy_server() {
        let only = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#;
        let expected = "{\"jsonrpc\":\"2.0\",\"id\":77,\"method\":\"tools/list\",\"params\":{}}\n";
        assert_eq!(line(only, Leg::ModernToLegacy, None), expected);
        let mixed = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"n","_meta":{"io.modelcontextprotocol/logLevel":"info","traceparent":"t","io.modelcontextprotocol/clientInfo":{},"progressToken":5,"io.modelcontextprotocol/other":1,"io.modelcontextprotocol/subscriptionId":1}}}"#;
        let expected = "{\"jsonrpc\":\"2.0\",\"id\":77,\"method\":\"tools/call\",\"params\":{\"name\":\"n\",\"_meta\":{\"traceparent\":\"t\",\"progressToken\":77,\"io.modelcontextprotocol/other\":1}}}\n";
        assert_eq!(line(mixed, Leg::ModernToLegacy, None), expected);
    }

    #[test]
    fn b4_era_members_are_added_for_a_modern_server() {
        let stated = Stated {
            capabilities: br#"{"roots":{"listChanged":true},"tasks":{"list":{}},"elicitation":{},"extensions":{"io.modelcontextprotocol/tasks":{},"v/x":{}}}"#,
            client_info: b"{\"name\":\"c\",\n\"version\":\"1\"}",
            log_level: Some("debug"),
        };
        let meta = json!({
            VERSION: "2026-07-28",
            CLIENT_CAPABILITIES: {"roots":{},"elicitation":{},"extensions":{"v/x":{}}},
            CLIENT_INFO: {"name":"c","version":"1"},
            LOG_LEVEL: "debug",
        });
        let with = |mut meta: Value, key: &str, value: Value| {
            meta[key] = value;
            meta
        };
        for (params, expected) in [
            (String::new(), json!({"_meta":meta})),
            (r#","params":{}"#.to_owned(), json!({"_meta":meta})),
            (r#","params":{"name":"n"}"#.to_owned(), json!({"name":"n","_meta":meta})),
            (r#","params":{"_meta":null}"#.to_owned(), json!({"_meta":meta})),
            (
                r#","params":{"_meta":{"progressToken":1}}"#.to_owned(),
                json!({"_meta":with(meta.clone(), "progressToken", json!(77))}),
            ),
            (
                format!(r#","params":{{"_meta":{{"{VERSION}":"x","a":2}}}}"#),
                json!({"_meta":with(meta.clone(), "a", json!(2))}),
            ),
        ] {
            let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call"{params}}}"#);
            let sent = line(&text, Leg::LegacyToModern, Some(&stated));
            assert_eq!(sent.matches('\n').count(), 1);
            let sent: Value = serde_json::from_str(&sent).unwrap();
            assert_eq!(sent, json!({"jsonrpc":"2.0","id":77,"method":"tools/call","params":expected}), "{params}");
        }
    }

    #[test]
    fn lines_of_ours() {
        let written = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut line = Vec::new();
            write(&mut line);
            String::from_utf8(line).unwrap()
        };
        assert_eq!(
            written(&|line| cancel_line(line, 9, "the client \"left\"\n")),
            "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{\"requestId\":9,\"reason\":\"the client \\\"left\\\"\\n\"}}\n"
        );
        assert_eq!(
            written(&|line| set_level_line(line, 9, "info")),
            "{\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"logging/setLevel\",\"params\":{\"level\":\"info\"}}\n"
        );
        assert_eq!(
            written(&|line| reply_line(line, b"\"s\"", Ok(b"{}"))),
            "{\"jsonrpc\":\"2.0\",\"id\":\"s\",\"result\":{}}\n"
        );
        assert_eq!(
            written(&|line| reply_line(line, b"0", Err((-32601, "no")))),
            "{\"jsonrpc\":\"2.0\",\"id\":0,\"error\":{\"code\":-32601,\"message\":\"no\"}}\n"
        );
        let answer = client("{\"id\":\"ours\",\n\"result\":{\"n\":1.10},\"jsonrpc\":\"2.0\"}");
        assert_eq!(
            written(&|line| answer_line(line, &answer, b"1e0")),
            "{\"id\":1e0, \"result\":{\"n\":1.10},\"jsonrpc\":\"2.0\"}\n"
        );
        let note = client("{\"jsonrpc\":\"2.0\",\r\n\"method\":\"notifications/x\"}");
        assert_eq!(
            written(&|line| notification_line(line, &note)),
            "{\"jsonrpc\":\"2.0\",  \"method\":\"notifications/x\"}\n"
        );
    }

    #[test]
    fn e12_same_era_answers_keep_every_other_byte() {
        let text = "{\"jsonrpc\":\"2.0\",\"future\":[1.10],\"id\":77,\r\"result\":{\"n\":1234567890123456789012345,\"x\":\"\\/\\u0041\",\"resultType\":\"odd\"}}";
        let expected = "{\"jsonrpc\":\"2.0\",\"future\":[1.10],\"id\":\"a\\u0062\", \"result\":{\"n\":1234567890123456789012345,\"x\":\"\\/\\u0041\",\"resultType\":\"odd\"}}";
        for leg in [Leg::LegacyToLegacy, Leg::ModernToModern] {
            let delivery = response(&server(text), leg, b"\"a\\u0062\"", "tools/call", None);
            assert_eq!((String::from_utf8(delivery.body).unwrap().as_str(), delivery.status), (expected, 200));
        }
    }

    #[test]
    fn b24_b23_e46_a_legacy_result_becomes_modern() {
        let text = r#"{"jsonrpc":"2.0","id":77,"result":{"content":[],"n":1.10}}"#;
        let delivery = response(&server(text), Leg::ModernToLegacy, b"1", "tools/call", None);
        let expected = r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","content":[],"n":1.10}}"#;
        assert_eq!(String::from_utf8(delivery.body).unwrap(), expected);
        let (body, _) = delivered(r#"{"jsonrpc":"2.0","id":77,"result":{}}"#, Leg::ModernToLegacy, "resources/read");
        assert_eq!(
            body["result"],
            json!({"resultType":"complete","ttlMs":0,"cacheScope":"private","_meta":{SERVER_INFO:{"name":"old","version":"1"}}})
        );
        let own = format!(
            r#"{{"jsonrpc":"2.0","id":77,"result":{{"ttlMs":9,"cacheScope":"public","resultType":7,"_meta":{{"{SERVER_INFO}":{{}},"a":1}}}}}}"#
        );
        let (body, _) = delivered(&own, Leg::ModernToLegacy, "tools/list");
        assert_eq!(
            body["result"],
            json!({"resultType":"complete","ttlMs":0,"cacheScope":"private","_meta":{SERVER_INFO:{},"a":1}})
        );
        let (body, _) = delivered(r#"{"jsonrpc":"2.0","id":77,"result":null}"#, Leg::ModernToLegacy, "a");
        assert_eq!(body["result"]["resultType"], "complete");
        let (body, status) = delivered(r#"{"jsonrpc":"2.0","id":77,"result":[1]}"#, Leg::ModernToLegacy, "a");
        assert_eq!((&body["error"]["code"], status), (&json!(-32603), 200));
    }

    #[test]
    fn b25_execution_is_removed_from_listed_tools() {
        let text = r#"{"jsonrpc":"2.0","id":77,"result":{"tools":[{"name":"a","execution":{"taskSupport":"optional"},"inputSchema":{"execution":1}},{"execution":{}},7]}}"#;
        let (body, _) = delivered(text, Leg::ModernToLegacy, "tools/list");
        assert_eq!(body["result"]["tools"], json!([{"name":"a","inputSchema":{"execution":1}},{},7]));
        let (body, _) = delivered(text, Leg::LegacyToLegacy, "tools/list");
        assert!(body["result"]["tools"][0]["execution"].is_object());
    }

    #[test]
    fn b23_b24_a_modern_result_becomes_legacy() {
        let text = r#"{"jsonrpc":"2.0","id":77,"result":{"resultType":"complete","tools":[],"ttlMs":5,"n":1.10,"cacheScope":"public"}}"#;
        let delivery = response(&server(text), Leg::LegacyToModern, b"1", "tools/list", None);
        assert_eq!(
            String::from_utf8(delivery.body).unwrap(),
            r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[],"n":1.10}}"#
        );
        let (body, _) =
            delivered(r#"{"jsonrpc":"2.0","id":77,"result":{"content":[]}}"#, Leg::LegacyToModern, "tools/call");
        assert_eq!(body["result"], json!({"content":[]}), "E10: no type means complete");
    }

    #[test]
    fn e11_a_result_of_a_foreign_type_is_an_error_for_a_legacy_client() {
        for kind in ["task", "input_required"] {
            let text = format!(r#"{{"jsonrpc":"2.0","id":77,"result":{{"resultType":"{kind}"}}}}"#);
            let (body, status) = delivered(&text, Leg::LegacyToModern, "tools/call");
            assert_eq!((&body["error"]["code"], &body["id"], status), (&json!(-32603), &json!("id"), 200));
        }
    }

    fn error(code: i64) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":77,"error":{{"code":{code},"message":"said","data":{{"d":1.10}}}}}}"#)
    }

    #[test]
    fn e106_b27_b28_b30_codes_for_modern_clients() {
        for (leg, code, becomes, status) in [
            (Leg::ModernToLegacy, -32002_i64, -32602_i64, 200),
            (Leg::ModernToModern, -32002, -32602, 200),
            (Leg::ModernToLegacy, -32042, -32021, 400),
            (Leg::ModernToLegacy, -32601, -32601, 404),
            (Leg::ModernToModern, -32601, -32601, 404),
            (Leg::ModernToModern, -32020_i64, -32020_i64, 400),
            (Leg::ModernToModern, -32021, -32021, 400),
            (Leg::ModernToModern, -32022, -32022, 400),
            (Leg::ModernToLegacy, -32021, -32603, 200),
            (Leg::ModernToLegacy, -32001, -32001, 200),
            (Leg::ModernToLegacy, -32602, -32602, 200),
            (Leg::ModernToModern, 5_000_000_000, 5_000_000_000, 200),
        ] {
            let (body, given) = delivered(&error(code), leg, "resources/read");
            assert_eq!((&body["error"]["code"], given), (&json!(becomes), status), "{leg:?} {code}");
            assert_eq!(body["error"]["message"], "said");
            if code != -32042 {
                assert_eq!(body["error"]["data"], json!({"d":1.10}));
            }
        }
        let (body, _) = delivered(&error(-32042), Leg::ModernToLegacy, "tools/call");
        assert_eq!(body["error"]["data"], json!({"requiredCapabilities":{"elicitation":{"url":{}}}}));
    }

    #[test]
    fn b29_b31_codes_for_legacy_clients() {
        for (leg, code, becomes) in [
            (Leg::LegacyToModern, -32021, -32603),
            (Leg::LegacyToModern, -32022, -32603),
            (Leg::LegacyToModern, -32020, -32603),
            (Leg::LegacyToModern, -32601, -32601),
            (Leg::LegacyToModern, -32602, -32602),
            (Leg::LegacyToLegacy, -32002, -32002),
            (Leg::LegacyToLegacy, -32042, -32042),
            (Leg::LegacyToLegacy, -32021, -32021),
        ] {
            let (body, status) = delivered(&error(code), leg, "resources/read");
            assert_eq!((&body["error"]["code"], status), (&json!(becomes), 200), "{leg:?} {code}");
            assert!(body["error"]["message"].as_str().unwrap().ends_with("said"));
            assert_eq!(body["error"]["data"], json!({"d":1.10}));
        }
    }

    #[test]
    fn an_error_without_an_id_gets_the_callers() {
        for id in ["", "\"id\":null,"] {
            let text = format!(r#"{{{id}"jsonrpc":"2.0","error":{{"code":1,"message":"m"}}}}"#);
            let (body, _) = delivered(&text, Leg::LegacyToLegacy, "a");
            assert_eq!(body["id"], "id");
        }
    }

    #[test]
    fn e157_notifications_get_their_token_and_subscription_back() {
        let text = "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\n\"params\":{\"progressToken\":77,\"progress\":1.10,\"_meta\":{\"io.modelcontextprotocol/subscriptionId\":77}}}";
        assert_eq!(
            String::from_utf8(notification(&server(text), Some(b"\"\""), Some(b"\"s\\u0031\""))).unwrap(),
            "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\", \"params\":{\"progressToken\":\"\",\"progress\":1.10,\"_meta\":{\"io.modelcontextprotocol/subscriptionId\":\"s\\u0031\"}}}"
        );
        assert_eq!(notification(&server(text), None, None), text.replace('\n', " ").as_bytes());
    }

    #[test]
    fn a_server_request_gets_our_id() {
        let text = r#"{"method":"roots/list","jsonrpc":"2.0","id":0}"#;
        assert_eq!(
            server_request(&server(text), "\"e1-5\""),
            br#"{"method":"roots/list","jsonrpc":"2.0","id":"e1-5"}"#
        );
    }

    proptest! {
        #[test]
        fn every_leg_writes_one_line_that_says_the_same(
            arguments in crate::scan::tests::json(),
            id in prop_oneof![any::<i64>().prop_map(Value::from), any::<String>().prop_map(Value::from)],
            token in prop_oneof![any::<i64>().prop_map(Value::from), "[a-z]{0,3}".prop_map(Value::from)],
        ) {
            let body = json!({"jsonrpc":"2.0","id":id,"method":"tools/call",
                "params":{"name":"n","arguments":arguments,"_meta":{"progressToken":token,"a":{}}}});
            let text = serde_json::to_string_pretty(&body).unwrap();
            let mut body: Value = serde_json::from_str(&text).unwrap();
            let message = client(&text);
            prop_assert_eq!(message.id().unwrap(), id.to_string());
            prop_assert_eq!(message.progress_token().map(<[u8]>::to_vec), Some(token.to_string().into_bytes()));
            (body["id"], body["params"]["_meta"]["progressToken"]) = (json!(77), json!(77));
            for leg in LEGS {
                let sent = line(&text, leg, None);
                prop_assert!(sent.ends_with('\n') && sent.matches(['\n', '\r']).count() == 1);
                let mut sent: Value = serde_json::from_str(&sent).unwrap();
                if leg == Leg::LegacyToModern {
                    let meta = sent["params"]["_meta"].as_object_mut().unwrap();
                    prop_assert!(meta.remove(VERSION).is_some() && meta.remove(CLIENT_CAPABILITIES).is_some());
                }
                prop_assert_eq!(sent, body.clone());
            }
        }

        #[test]
        fn same_era_answers_differ_in_the_id_only(result in crate::scan::tests::json(), id in any::<String>()) {
            let id = Value::from(id).to_string();
            let text = |id: &str| format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}");
            let delivery = response(&server(&text("77")), Leg::LegacyToLegacy, id.as_bytes(), "tools/call", None);
            prop_assert_eq!(String::from_utf8(delivery.body).unwrap(), text(&id));
        }
    }
}
