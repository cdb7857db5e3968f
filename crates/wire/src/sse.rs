//! Server-sent events as staithe writes them.

use crate::splice::append_flat;
use std::fmt::Display;

/// A comment: keeps proxies and clients awake, means nothing. (E30)
pub const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// One `message` event. `data` is JSON text; a CR or LF in it, which would end the line, becomes a space.
pub fn event(out: &mut Vec<u8>, data: &[u8]) {
    out.reserve(data.len() + 24);
    out.extend_from_slice(b"event: message\ndata: ");
    append_flat(out, data);
    out.extend_from_slice(b"\n\n");
}

/// The same with an `id`, after which its stream can be resumed (E129). The id must hold no line end.
pub fn event_with_id(out: &mut Vec<u8>, id: impl Display, data: &[u8]) {
    out.extend_from_slice(format!("id: {id}\n").as_bytes());
    event(out, data);
}

/// An id without data: a place to resume from before anything was said. Clients older than 2025-11-25 take the empty data
/// for JSON and fail (E76).
pub fn priming(id: impl Display) -> Vec<u8> {
    format!("id: {id}\ndata: \n\n").into_bytes()
}

/// A comment with words in it. They must hold no line end.
pub fn comment(text: &str) -> Vec<u8> {
    format!(": {text}\n\n").into_bytes()
}

/// When to come back to a stream that is closed on purpose, milliseconds (E77).
pub fn retry(after_ms: u64) -> Vec<u8> {
    format!("retry: {after_ms}\n\n").into_bytes()
}

/// Where messages of an HTTP+SSE client go (E81). The address must hold no line end.
pub fn endpoint(address: &str) -> Vec<u8> {
    format!("event: endpoint\ndata: {address}\n\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_two_fields_and_a_blank_line() {
        let mut out = Vec::new();
        event(&mut out, b"{\"a\":1}");
        assert_eq!(out, b"event: message\ndata: {\"a\":1}\n\n");
    }

    #[test]
    fn e129_an_id_is_a_field_of_its_event() {
        let mut out = Vec::new();
        event_with_id(&mut out, "3-7", b"{}");
        assert_eq!(out, b"id: 3-7\nevent: message\ndata: {}\n\n");
    }

    #[test]
    fn what_is_no_message_has_no_json() {
        assert_eq!(priming("1-0"), b"id: 1-0\ndata: \n\n");
        assert_eq!(retry(500), b"retry: 500\n\n");
        assert_eq!(endpoint("/sse/a?session=b"), b"event: endpoint\ndata: /sse/a?session=b\n\n");
    }

    #[test]
    fn a_line_end_in_the_data_cannot_end_the_event() {
        let mut out = Vec::new();
        event(&mut out, b"{\r\n\r\n\"a\":\r1}");
        assert_eq!(out, b"event: message\ndata: {    \"a\": 1}\n\n");
    }

    #[test]
    fn e30_keep_alive_is_a_comment() {
        assert!(KEEP_ALIVE.starts_with(b":") && KEEP_ALIVE.ends_with(b"\n\n"));
    }
}
