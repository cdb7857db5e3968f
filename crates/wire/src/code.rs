//! JSON-RPC and MCP error codes, and the one way to write an error body. (eras §1.8)

use crate::scan::write_text;
use crate::splice::append_flat;

/// Not JSON.
pub const PARSE: i64 = -32700;
/// JSON, but no JSON-RPC message that may stand here.
pub const INVALID_REQUEST: i64 = -32600;
/// No such method.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// The method does not take these params.
pub const INVALID_PARAMS: i64 = -32602;
/// Something failed inside.
pub const INTERNAL: i64 = -32603;
/// Legacy only; modern says -32602. (E106, E112, E113)
pub const RESOURCE_NOT_FOUND: i64 = -32002;
/// 2025-11-25 only. (E106)
pub const URL_ELICITATION_REQUIRED: i64 = -32042;
/// Modern: a header and the body disagree. (E48)
pub const HEADER_MISMATCH: i64 = -32020;
/// Modern: the client did not declare what the request needs. (E109)
pub const MISSING_CAPABILITY: i64 = -32021;
/// Modern: not our revision. (E88)
pub const UNSUPPORTED_VERSION: i64 = -32022;

/// A JSON-RPC error response, one line without its end. `id` as spelled; without one the body has no `id` member, as the
/// specification writes an error whose request could not be read. `data` is JSON text.
pub fn error_body(id: Option<&[u8]>, code: i64, message: &str, data: Option<&str>) -> Vec<u8> {
    let mut out = Vec::with_capacity(96 + message.len() + data.map_or(0, str::len));
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",");
    if let Some(id) = id {
        out.extend_from_slice(b"\"id\":");
        out.extend_from_slice(id);
        out.push(b',');
    }
    out.extend_from_slice(b"\"error\":");
    write_error(&mut out, code, message, data);
    out.push(b'}');
    out
}

/// The `error` object alone.
pub(crate) fn write_error(out: &mut Vec<u8>, code: i64, message: &str, data: Option<&str>) {
    out.extend_from_slice(b"{\"code\":");
    out.extend_from_slice(code.to_string().as_bytes());
    out.extend_from_slice(b",\"message\":");
    write_text(out, message);
    if let Some(data) = data {
        out.extend_from_slice(b",\"data\":");
        append_flat(out, data.as_bytes());
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_body_is_json_with_the_id_as_spelled() {
        let body = error_body(Some(b"12345678901234567890123"), -32603, "a \"b\"\n\u{1}\u{e9}", Some("{\n\"x\":1}"));
        let expected = "{\"jsonrpc\":\"2.0\",\"id\":12345678901234567890123,\"error\":{\"code\":-32603,\"message\":\"a \\\"b\\\"\\n\\u0001\u{e9}\",\"data\":{ \"x\":1}}}";
        assert_eq!(String::from_utf8(body).unwrap(), expected);
    }

    #[test]
    fn e24_an_error_without_an_id_has_no_id_member() {
        let body: serde_json::Value = serde_json::from_slice(&error_body(None, PARSE, "m", None)).unwrap();
        assert_eq!(body, serde_json::json!({"jsonrpc":"2.0","error":{"code":-32700,"message":"m"}}));
    }
}
