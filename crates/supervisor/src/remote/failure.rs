//! What can go wrong between staithe and a remote server, said so that an operator knows what to do. Never a header's
//! value, an address's query, or the text of a stranger's error page.

use http::StatusCode;
use std::path::PathBuf;
use std::time::Duration;

/// A request got no JSON-RPC answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("no connection to {origin}: {why}")]
    Connect { origin: String, why: String },
    #[error("the connection to {origin} broke before the answer came: {why}")]
    Broke { origin: String, why: String },
    #[error("{origin} did not answer within {} s", after.as_secs())]
    Silent { origin: String, after: Duration },
    #[error("{origin} answered HTTP {}{}", status.as_u16(), hint(*status))]
    Status { origin: String, status: StatusCode },
    #[error("{origin} answered the content type {given:?}, not JSON or an event stream")]
    ContentType { origin: String, given: String },
    #[error("{origin} took the request, but its answer is not in what it sent")]
    Unanswered { origin: String },
    #[error("{origin} sent more than {limit} bytes in one message")]
    TooLong { origin: String, limit: usize },
    #[error(
        "{origin} redirected to {to}: staithe follows redirects within one origin only; give the server that `url`"
    )]
    OtherOrigin { origin: String, to: String },
    #[error("{origin} redirected {0} times", MOST_REDIRECTS + 1)]
    Redirects { origin: String },
    #[error(
        "{origin} redirected with HTTP {status}, which would lose the request's body; give the server the final `url`"
    )]
    LossyRedirect { origin: String, status: u16 },
    #[error("{origin} redirected to nowhere: its `Location` is missing or not valid")]
    NoLocation { origin: String },
    #[error("{origin} is not an HTTP+SSE server either: {why}")]
    NoEndpoint { origin: String, why: String },
    #[error("the session has ended at {origin}")]
    SessionEnded { origin: String },
}

/// Redirects that one request follows.
pub(crate) const MOST_REDIRECTS: usize = 3;

impl Failure {
    /// Whether it says that the server does not know this way of being spoken to. Everything else says nothing about
    /// its era (E100).
    pub(crate) fn unspoken(&self) -> bool {
        match self {
            Self::Status { status, .. } => unspoken(*status),
            Self::NoEndpoint { .. } => true,
            _ => false,
        }
    }
}

/// Statuses of a server that does not know this method, path, body or content type. 422 is that of servers that were
/// written with strict types.
pub(crate) fn unspoken(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 404 | 405 | 406 | 410 | 415 | 422 | 501)
}

fn hint(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => ": it wants other credentials; see the server's `headersFile`",
        403 => ": its credentials do not allow this; see the server's `headersFile`",
        404 => ": there is nothing at this `url`",
        407 => ": a proxy on the way wants credentials",
        429 => ": it is asked too often",
        500..=599 => ": it has a problem of its own",
        _ => "",
    }
}

/// The headers of a remote server could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadHeaders {
    #[error("its `headersFile` {0} cannot be read")]
    Unreadable(PathBuf, #[source] std::io::Error),
    #[error("its `headersFile` {0} is not a regular file")]
    NoFile(PathBuf),
    #[error("its `headersFile` {0} can be read by others than its owner: `chmod 600` it")]
    Open(PathBuf),
    #[error("its `headersFile` {path} is longer than {limit} bytes")]
    TooLong { path: PathBuf, limit: u64 },
    #[error("line {line} of its `headersFile` {path} is not `Name: value`")]
    Line { path: PathBuf, line: usize },
    #[error("line {line} of its `headersFile` {path} sets a header that staithe sets itself")]
    Ours { path: PathBuf, line: usize },
}

/// A link to a remote server could not be made ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Headers(#[from] BadHeaders),
    #[error("its `url` is no address that can be requested")]
    Url,
    #[error("TLS could not be set up")]
    Tls(#[source] rustls::Error),
}
