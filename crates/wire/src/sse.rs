//! Server-sent events as staithe writes them.

use crate::splice::append_flat;

/// A comment: keeps proxies and clients awake, means nothing. (E30)
pub const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// One `message` event. `data` is JSON text; a CR or LF in it, which would end the line, becomes a space.
pub fn event(out: &mut Vec<u8>, data: &[u8]) {
    out.reserve(data.len() + 24);
    out.extend_from_slice(b"event: message\ndata: ");
    append_flat(out, data);
    out.extend_from_slice(b"\n\n");
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
