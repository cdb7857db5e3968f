//! What browsers need to hear before a page of an allowed origin may call (E32).

use crate::reply::{Body, empty};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HeaderValue, ORIGIN, VARY,
};
use http::request::Parts;
use http::{Response, StatusCode};

const SENT: &str =
    "Authorization, Content-Type, Accept, Last-Event-ID, MCP-Protocol-Version, Mcp-Session-Id, Mcp-Method, Mcp-Name";
const READ: &str = "Mcp-Session-Id, WWW-Authenticate, Retry-After";

/// The page's origin. The gate has allowed it already.
pub(crate) fn origin(parts: &Parts) -> Option<HeaderValue> {
    parts.headers.get(ORIGIN).cloned()
}

/// The answer to a preflight.
pub(crate) fn preflight(origin: Option<HeaderValue>) -> Response<Body> {
    let mut response = empty(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, DELETE"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(SENT));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    expose(&mut response, origin);
    response
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
