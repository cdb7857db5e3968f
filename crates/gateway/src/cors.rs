//! What browsers need to hear before a page of an allowed origin may call (E32).

use crate::reply::{Body, empty};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue, ORIGIN, VARY,
};
use http::request::Parts;
use http::{Response, StatusCode};
use wire::param::PREFIX;

const SENT: &str = "Authorization, Content-Type, Accept, Last-Event-ID, MCP-Protocol-Version, Mcp-Session-Id, Mcp-Method, Mcp-Name, X-Staithe-Timing, X-Staithe-Receipt";
/// More than any tool mirrors.
const MOST_PARAMS: usize = 64;
const READ: &str = "Mcp-Session-Id, WWW-Authenticate, Retry-After, Server-Timing";

/// The page's origin. The gate has allowed it already.
pub(crate) fn origin(parts: &Parts) -> Option<HeaderValue> {
    parts.headers.get(ORIGIN).cloned()
}

/// The answer to a preflight. Which parameters the tools of a server mirror is nobody's business before the token was seen, so
/// each `Mcp-Param-*` that the page asks for is allowed: those that no tool knows are ignored later (E56).
pub(crate) fn preflight(parts: &Parts, origin: Option<HeaderValue>) -> Response<Body> {
    let mut response = empty(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, DELETE"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed(parts));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    expose(&mut response, origin);
    response
}

/// What is always allowed, and the mirrored parameters that are asked for: no wildcard works with a token.
fn allowed(parts: &Parts) -> HeaderValue {
    let asked = parts.headers.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter();
    let names = asked.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let mirrored = names.filter_map(|name| {
        let mirrors = name.get(..PREFIX.len())?.eq_ignore_ascii_case(PREFIX.as_bytes());
        let valid = mirrors && http::HeaderName::from_bytes(name).is_ok();
        std::str::from_utf8(name).ok().filter(|_| valid)
    });
    let mut all = SENT.to_owned();
    for name in mirrored.take(MOST_PARAMS) {
        all.push_str(", ");
        all.push_str(name);
    }
    HeaderValue::from_str(&all).unwrap_or_else(|_| HeaderValue::from_static(SENT))
}

/// Lets the page read the response.
pub(crate) fn expose(response: &mut Response<Body>, origin: Option<HeaderValue>) {
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(READ));
        headers.insert(VARY, HeaderValue::from_static("Origin"));
    }
}
