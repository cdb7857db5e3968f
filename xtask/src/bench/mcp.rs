//! The requests that the load generator sends, and the check of what comes back.

use serde::Deserialize;
use std::ops::Range;

/// What is spoken to the address under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Protocol {
    /// The bare HTTP floor: the answer is the request's body.
    Echo,
    /// The floor with a pipe: legacy calls without a session, every id different.
    Bare,
    /// Sessions of 2025-11-25: `initialize` first, ids of all callers alike.
    Legacy,
    /// 2026-07-28: per-request metadata, ids of all callers alike.
    Modern,
    /// Calls without their token: each must be refused with 401.
    Denied,
}

/// Where requests go.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// `ip:port`.
    pub(crate) address: String,
    /// Path of the endpoint.
    pub(crate) path: String,
    /// Bearer token.
    pub(crate) token: Option<String>,
}

/// What a legacy session goes by.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// `Mcp-Session-Id`, where the server gave one.
    pub(crate) id: Option<String>,
    /// Negotiated revision.
    pub(crate) revision: String,
}

/// The first request id; all ids have its number of digits, so that a request keeps its length.
const FIRST_ID: u64 = 1_000_000_000;
/// How many ids one caller has.
const IDS_PER_CALLER: u64 = 10_000_000;
/// The shortest text: caller and sequence number must fit.
pub(crate) const MIN_TEXT: usize = 24;

/// One caller's `tools/call echo`, written once and stamped with a new id and text for every call.
#[derive(Debug)]
pub(crate) struct CallTemplate {
    request: Vec<u8>,
    body: Range<usize>,
    id: Range<usize>,
    text: Range<usize>,
    protocol: Protocol,
    caller: u64,
    current: u64,
}

// === impl CallTemplate ===

impl CallTemplate {
    /// A call with `bytes` of text, at least `MIN_TEXT`.
    pub(crate) fn new(
        target: &Target,
        protocol: Protocol,
        session: Option<&Session>,
        caller: u32,
        bytes: usize,
    ) -> Self {
        let body_start = format!("{{\"jsonrpc\":\"2.0\",\"id\":{FIRST_ID}");
        let mut body = body_start.clone();
        body.push_str(",\"method\":\"tools/call\",\"params\":{\"name\":\"echo\",\"arguments\":{\"text\":\"");
        let text_at = body.len();
        body.extend(std::iter::repeat_n('x', bytes.max(MIN_TEXT)));
        let text_end = body.len();
        body.push_str("\"}");
        if protocol == Protocol::Modern {
            body.push_str(MODERN_META);
        }
        body.push_str("}}");
        let mut head = head("POST", target, session, Some(body.len()));
        if protocol == Protocol::Modern {
            head.push_str("mcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: echo\r\n");
        }
        head.push_str("\r\n");
        let at = head.len();
        let id_end = at + body_start.len();
        Self {
            body: at..at + body.len(),
            id: id_end - 10..id_end,
            text: at + text_at..at + text_end,
            request: (head + &body).into_bytes(),
            protocol,
            caller: u64::from(caller),
            current: 0,
        }
    }

    /// The request for call number `sequence` of this caller.
    pub(crate) fn stamp(&mut self, sequence: u64) -> &[u8] {
        let own = if self.protocol == Protocol::Bare { self.caller * IDS_PER_CALLER } else { 0 };
        self.current = FIRST_ID + own + sequence % IDS_PER_CALLER;
        digits(&mut self.request[self.id.clone()], self.current);
        let text = &mut self.request[self.text.clone()];
        text[0] = b'c';
        digits(&mut text[1..7], self.caller);
        text[7] = b's';
        digits(&mut text[8..20], sequence);
        &self.request
    }

    /// The line that a stdio server is sent for the request last stamped, without its newline.
    pub(crate) fn line(&self) -> &[u8] {
        &self.request[self.body.clone()]
    }

    /// The id last stamped.
    pub(crate) fn id(&self) -> u64 {
        self.current
    }

    /// Whether `body` is the right answer to the request last stamped; says what is wrong with it.
    pub(crate) fn verify(&self, status: u16, events: bool, body: &[u8]) -> Result<(), String> {
        let expected = if self.protocol == Protocol::Denied { 401 } else { 200 };
        if status != expected {
            return Err(format!("status {status} instead of {expected}: {}", shorten(body)));
        }
        match self.protocol {
            Protocol::Denied => Ok(()),
            Protocol::Echo if body == self.line() => Ok(()),
            Protocol::Echo => Err(format!("the echo differs: {}", shorten(body))),
            Protocol::Bare | Protocol::Legacy | Protocol::Modern => {
                let text = std::str::from_utf8(&self.request[self.text.clone()]).unwrap_or_default();
                verify_answer(self.current, text, events, body)
            }
        }
    }
}

const MODERN_META: &str = ",\"_meta\":{\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\",\
    \"io.modelcontextprotocol/clientInfo\":{\"name\":\"staithe-bench\",\"version\":\"1\"},\
    \"io.modelcontextprotocol/clientCapabilities\":{}}";

/// A whole request with a legacy message as its body.
pub(crate) fn legacy_request(target: &Target, session: Option<&Session>, message: &str) -> Vec<u8> {
    (head("POST", target, session, Some(message.len())) + "\r\n" + message).into_bytes()
}

/// A whole request that ends `session`.
pub(crate) fn delete_request(target: &Target, session: &Session) -> Vec<u8> {
    (head("DELETE", target, Some(session), None) + "\r\n").into_bytes()
}

/// The opening message of a legacy session.
pub(crate) fn initialize_message(id: u64) -> String {
    format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"initialize\",\"params\":{{\"protocolVersion\":\"2025-11-25\",\
         \"capabilities\":{{}},\"clientInfo\":{{\"name\":\"staithe-bench\",\"version\":\"1\"}}}}}}"
    )
}

/// What a legacy client sends after the answer to `initialize`.
pub(crate) const INITIALIZED: &str = "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}";

/// The revision that the answer to `initialize` with this id negotiated.
pub(crate) fn negotiated(id: u64, events: bool, body: &[u8]) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Answer {
        id: u64,
        result: Opened,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Opened {
        protocol_version: String,
    }
    for message in messages(events, body) {
        if let Ok(answer) = serde_json::from_slice::<Answer>(message)
            && answer.id == id
        {
            return Ok(answer.result.protocol_version);
        }
    }
    Err(format!("no answer to initialize: {}", shorten(body)))
}

fn verify_answer(id: u64, text: &str, events: bool, body: &[u8]) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        id: u64,
        #[serde(borrow)]
        result: Outcome<'a>,
    }
    #[derive(Deserialize)]
    struct Outcome<'a> {
        #[serde(borrow)]
        content: Vec<Content<'a>>,
    }
    #[derive(Deserialize)]
    struct Content<'a> {
        text: &'a str,
    }
    let mut last = None;
    for message in messages(events, body) {
        match serde_json::from_slice::<Answer<'_>>(message) {
            Ok(answer) if answer.id != id => return Err(format!("the answer to id {} came for id {id}", answer.id)),
            Ok(answer) if answer.result.content.first().is_some_and(|content| content.text == text) => return Ok(()),
            Ok(_) => return Err(format!("the answer's text is another call's: {}", shorten(body))),
            Err(error) => last = Some(error),
        }
    }
    Err(format!("no answer ({}): {}", last.map_or_else(String::new, |e| e.to_string()), shorten(body)))
}

/// The JSON-RPC messages of a body: the body, or the data of each event. Events of one data line only: JSON needs
/// no more, and a server that used more would show as one without an answer.
fn messages(events: bool, body: &[u8]) -> impl Iterator<Item = &[u8]> {
    body.split(move |byte| events && *byte == b'\n').filter_map(move |line| {
        if !events {
            return Some(line);
        }
        let data = line.strip_prefix(b"data:")?.trim_ascii();
        (!data.is_empty()).then_some(data)
    })
}

fn head(method: &str, target: &Target, session: Option<&Session>, length: Option<usize>) -> String {
    let mut head = format!(
        "{method} {} HTTP/1.1\r\nhost: {}\r\naccept: application/json, text/event-stream\r\n",
        target.path, target.address
    );
    if let Some(length) = length {
        head.push_str(&format!("content-type: application/json\r\ncontent-length: {length}\r\n"));
    }
    if let Some(token) = &target.token {
        head.push_str(&format!("authorization: Bearer {token}\r\n"));
    }
    if let Some(session) = session {
        head.push_str(&format!("mcp-protocol-version: {}\r\n", session.revision));
        if let Some(id) = &session.id {
            head.push_str(&format!("mcp-session-id: {id}\r\n"));
        }
    }
    head
}

/// Writes `number` in decimal, with leading zeros, over all of `out`.
fn digits(out: &mut [u8], mut number: u64) {
    for place in out.iter_mut().rev() {
        *place = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
}

fn shorten(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{CallTemplate, Protocol, Target, messages, negotiated};

    fn template(protocol: Protocol) -> CallTemplate {
        let target =
            Target { address: "127.0.0.1:1".to_owned(), path: "/mcp/x".to_owned(), token: Some("t".to_owned()) };
        CallTemplate::new(&target, protocol, None, 7, 100)
    }

    #[test]
    fn a_stamped_request_is_json_of_the_length_it_says() {
        for protocol in [Protocol::Legacy, Protocol::Modern, Protocol::Bare] {
            let mut call = template(protocol);
            let length = call.stamp(0).len();
            for sequence in [1, 9_999_999, 123_456_789] {
                let request = String::from_utf8(call.stamp(sequence).to_vec()).unwrap();
                assert_eq!(request.len(), length);
                let (head, body) = request.split_once("\r\n\r\n").unwrap();
                assert!(head.contains(&format!("content-length: {}\r\n", body.len())));
                assert!(head.contains("authorization: Bearer t"));
                let json: serde_json::Value = serde_json::from_str(body).unwrap();
                assert_eq!(json["id"].as_u64().unwrap(), call.id());
                let text = json["params"]["arguments"]["text"].as_str().unwrap();
                assert_eq!(text.len(), 100);
                assert!(text.starts_with(&format!("c000007s{sequence:012}")), "{text}");
            }
        }
    }

    #[test]
    fn only_the_right_answer_passes() {
        let mut call = template(Protocol::Legacy);
        call.stamp(5);
        let text = String::from_utf8(call.line().to_vec()).unwrap();
        let text = text.split("\"text\":\"").nth(1).unwrap().trim_end_matches("\"}}}").to_owned();
        let answer = |id: u64, text: &str| {
            format!(
                "{{\"result\":{{\"extra\":1.10,\"content\":[{{\"type\":\"text\",\"text\":\"{text}\"}}]}},\"id\":{id}}}"
            )
        };
        let right = answer(call.id(), &text);
        assert_eq!(call.verify(200, false, right.as_bytes()), Ok(()));
        let events = format!("id: 1\ndata:\n\nevent: message\r\ndata: {right}\r\n\r\n");
        assert_eq!(call.verify(200, true, events.as_bytes()), Ok(()));
        for bad in [answer(call.id() + 1, &text), answer(call.id(), "c000008"), String::new(), "{}".to_owned()] {
            assert!(call.verify(200, false, bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(call.verify(500, false, right.as_bytes()).is_err());
    }

    #[test]
    fn an_echo_must_be_the_same_bytes() {
        let mut call = template(Protocol::Echo);
        call.stamp(1);
        let old = call.line().to_vec();
        assert_eq!(call.verify(200, false, &old), Ok(()));
        call.stamp(2);
        assert!(call.verify(200, false, &old).is_err());
    }

    #[test]
    fn events_without_data_are_no_messages() {
        let all: Vec<&[u8]> = messages(true, b": hello\n\nid: 1\ndata: \n\ndata: {\"a\":1}\n\n").collect();
        assert_eq!(all, [b"{\"a\":1}"]);
        assert!(negotiated(1, false, b"{\"id\":2,\"result\":{\"protocolVersion\":\"x\"}}").is_err());
        assert_eq!(negotiated(2, false, b"{\"id\":2,\"result\":{\"protocolVersion\":\"x\"}}").unwrap(), "x");
    }
}
