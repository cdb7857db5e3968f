//! The one table of the public face: what went wrong → HTTP status, JSON-RPC code, what the caller reads.
//!
//! Codes: JSON-RPC's own and the ones MCP defines; staithe's failures are -32603 with `data.source = "staithe"`, so that
//! nobody takes them for the hosted server's (E104, E107, E108). Once a request was accepted, its error travels as a
//! JSON-RPC response under status 200 (B31); 503 says that it was not carried out and may succeed later, and always comes
//! with `Retry-After`. Over a limit that is so in both eras. A server that takes no calls is 503 to stateless clients
//! (E228); to a client with a session it is a JSON-RPC error (B31), because it would take another status for the end of its
//! connection. There, and where a stream is open already, `data.retryAfterMs` says when.

use crate::book::Unrecorded;
use crate::denied::{TurnedAway, Whose};
use crate::reply::{Body, json};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use model::{Blame, ServerName, Span};
use oauth::Denied;
use std::time::Duration;
use supervisor::{Absent, ExitReport, NoLookup, NoSession, NotKept, Outcome, Stalled, Unanswered};
use wire::bridge::Delivery;
use wire::classify::Refusal;
use wire::code;
use wire::era::Era;

/// When to come again where nothing is known that would say it.
const SOON: Duration = Duration::from_secs(5);

/// Why a request was turned away at the gate, before its body was read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GateError {
    #[error("this address is not served under the name {0:?}; add it to `allowed_hosts` if it should be")]
    Host(String),
    #[error("pages of {0:?} may not call this address; add it to `allowed_origins` if they should")]
    Origin(String),
    #[error("there is nothing here; servers are at /mcp/<server>, for HTTP+SSE at /sse/<server>")]
    NoSuchPath,
    #[error("a bearer token is needed: send `Authorization: Bearer <token>`")]
    NoToken,
    #[error("the bearer token is not valid for this server; ask the operator for a new one")]
    BadToken {
        /// For the ledger: the caller learns only that it is so.
        why: Denied,
        /// Whose it was.
        whose: Option<Box<Whose>>,
    },
    #[error(
        "this token does not open the ledger; the operator makes one that does with `staithe token create --audit`"
    )]
    NoAudit,
    #[error("there is no such thing in this ledger: {0}")]
    NotInLedger(&'static str),
    #[error("addresses of the ledger take GET and HEAD")]
    OnlyRead,
    #[error("the ledger cannot be read now; try again, and if it stays so, `staithe status` says how it is")]
    Unreadable,
    #[error("another process of this host has taken over; send the request again on a new connection")]
    Moved,
    /// It was carried to another daemon, which ended.
    #[error(
        "the process of this host that had this request ended; the call may have run: look before you send it again"
    )]
    Unheard,
    #[error("this address takes POST, GET and DELETE")]
    Method,
    #[error("a GET stream needs the header Mcp-Session-Id; open a session with `initialize` first")]
    NoStreamWithoutSession,
    #[error(
        "this is an HTTP+SSE address: GET opens a stream, which says where to POST; Streamable HTTP is at /mcp/<server>"
    )]
    NoPost,
    #[error("requests of protocol version 2026-07-28 go to /mcp/<server>")]
    ModernOverSse,
    #[error("this session is initialized already; open another connection for another session")]
    Initialized,
    #[error("no unpredictable name could be made; the system gives no random numbers")]
    NoRandomness,
    #[error("there is no such session; open a new one with `initialize`, over HTTP+SSE with a new GET")]
    NoSuchSession,
    #[error("the body must be JSON: send `Content-Type: application/json`")]
    ContentType,
    #[error("the client must accept application/json or text/event-stream")]
    NotAcceptable,
    #[error("the client must accept text/event-stream for a GET stream")]
    NoEvents,
    #[error("the body has more than {limit} bytes, which is the limit")]
    TooLarge { limit: usize },
    #[error("the body did not arrive in time or the connection broke")]
    Incomplete,
    #[error(transparent)]
    NotKept(#[from] NotKept),
    /// Says nothing about whether there is one.
    #[error(transparent)]
    NoLookup(#[from] NoLookup),
    #[error("the header {0} occurs more than once")]
    Repeated(&'static str),
    #[error("{limit} streams of this principal are open, which is the limit; close one first")]
    Streams { limit: usize },
}

/// Why an accepted call got no answer of the server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error(transparent)]
    Absent(#[from] Absent),
    #[error(transparent)]
    Stalled(#[from] Stalled),
    #[error(transparent)]
    NoSession(#[from] NoSession),
    #[error(transparent)]
    Unrecorded(#[from] Unrecorded),
    /// Sent, unless the report says otherwise: nobody knows whether it ran.
    #[error("{0}; {ran}", ran = ran(.0))]
    Gone(ExitReport),
    #[error("{0}")]
    Garbled(String),
    #[error("the server {server} did not answer within {}; it was told to stop", whole(*after))]
    Deadline { server: ServerName, after: Duration },
    #[error("{limit} calls of this principal wait for answers, which is the limit; wait for one of them")]
    Calls { limit: usize },
    #[error("request state is invalid or has expired; send the call again without `requestState` and `inputResponses`")]
    State,
    #[error("`inputResponses` must be an object whose members are objects")]
    Answers,
    #[error(
        "{limit} calls of this {of} wait for their clients' answers, which is the limit; answer one of them, or wait until one is given up"
    )]
    Held { limit: usize, of: &'static str },
    #[error("the call asked its client {limit} times, which is the limit; it was told to stop")]
    Rounds { limit: u32 },
    #[error("the call asked its client more than {limit} bytes at one time, which is the limit; it was told to stop")]
    Questions { limit: usize },
    #[error("the call needs to ask its client and the host has no randomness for it; tell the operator")]
    Unsealed,
    #[error("another call of this client that may ask its user is open at the server {server} since {} s; finish it first", after.as_secs())]
    Turn { server: ServerName, after: Duration },
    #[error(transparent)]
    Unasked(#[from] Unasked),
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
    #[error("`notifications` must be an object that says what to listen for")]
    Filter,
    #[error("`uri` must name a resource")]
    NoUri,
    #[error("the server does not tell updates of resources")]
    NoSubscriptions,
    #[error("the clients of this process are subscribed to as many resources as they may; end some subscriptions")]
    Subscriptions,
    #[error("the server sends no log messages")]
    NoLogging,
    #[error("the client's `{0}` is missing, is no object, or is larger than 16 KiB")]
    Opening(&'static str),
    #[error("{0:?} is not a log level; use debug, info, notice, warning, error, critical, alert or emergency")]
    Level(String),
    #[error("the method {0:?} is not known")]
    UnknownMethod(String),
    #[error(
        "the method {0:?} is not known: there are no tasks across protocol eras, nor where a process is shared or taken for one call"
    )]
    NoTasks(String),
    #[error(transparent)]
    Mirrored(#[from] wire::param::Mismatch),
    #[error("the method {0:?} is not known within a session; it belongs to protocol version 2026-07-28")]
    NotInSession(String),
}

/// Why a call ended that a modern server cannot finish without something of its client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unasked {
    #[error("the server needs {question} from the client, and this client does not offer {feature}")]
    Lacks { question: &'static str, feature: &'static str },
    #[error("the client cannot be asked {question}: {why}")]
    Unfit { question: &'static str, why: wire::shape::Unaskable },
    #[error("the client failed at {question}: {why}")]
    Failed { question: &'static str, why: String },
    #[error("the client did not answer {question} within {} s", after.as_secs())]
    Unanswered { question: &'static str, after: Duration },
    #[error("the client has too many unanswered requests of servers")]
    Crowded,
    #[error("the server asked {rounds} times during one call, which is the limit")]
    Endless { rounds: u32 },
}

/// A time as people write it: from a second on in seconds.
fn whole(time: Duration) -> Span {
    Span::from(if time < Duration::from_secs(1) { time } else { Duration::from_secs(time.as_secs()) })
}

/// What a caller can know about a call that got no answer.
fn ran(report: &ExitReport) -> &'static str {
    if report.unsent { "the call was not sent" } else { "the call may have run: look before you send it again" }
}

impl Unasked {
    fn blame(&self) -> Blame {
        match self {
            Self::Endless { .. } => Blame::Server,
            Self::Lacks { .. } | Self::Unfit { .. } | Self::Failed { .. } | Self::Unanswered { .. } | Self::Crowded => {
                Blame::Caller
            }
        }
    }
}

impl GateError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Host(_) | Self::Origin(_) | Self::NoAudit => StatusCode::FORBIDDEN,
            Self::NoSuchPath | Self::NoSuchSession | Self::NotInLedger(_) => StatusCode::NOT_FOUND,
            Self::NoToken | Self::BadToken { .. } => StatusCode::UNAUTHORIZED,
            Self::Method | Self::NoStreamWithoutSession | Self::NoPost | Self::OnlyRead => {
                StatusCode::METHOD_NOT_ALLOWED
            }
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NotAcceptable | Self::NoEvents => StatusCode::NOT_ACCEPTABLE,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Incomplete => StatusCode::REQUEST_TIMEOUT,
            Self::Repeated(_) | Self::NotKept(_) | Self::ModernOverSse | Self::Initialized => StatusCode::BAD_REQUEST,
            Self::NoRandomness => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unheard => StatusCode::BAD_GATEWAY,
            Self::Streams { .. } | Self::NoLookup(_) | Self::Moved | Self::Unreadable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// The short name of it in the ledger.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Host(_) => "host_not_allowed",
            Self::Origin(_) => "origin_not_allowed",
            Self::NoSuchPath => "no_such_path",
            Self::NoToken | Self::BadToken { why: Denied::Missing, .. } => "no_token",
            Self::BadToken { why: Denied::Malformed | Denied::Unknown, .. } => "unknown_token",
            Self::BadToken { why: Denied::Expired, .. } => "expired_token",
            Self::BadToken { why: Denied::Revoked, .. } => "revoked_token",
            Self::BadToken { why: Denied::WrongKind, .. } => "token_for_the_ledger",
            Self::BadToken { why: Denied::WrongServer, .. } => "token_for_another_server",
            Self::NoAudit => "token_for_servers",
            Self::NotInLedger(_) => "not_in_ledger",
            Self::Unreadable => "ledger_unreadable",
            Self::Moved => "moved",
            Self::Unheard => "outcome_unknown",
            Self::Method | Self::NoPost | Self::OnlyRead => "method_not_allowed",
            Self::NoStreamWithoutSession => "no_session",
            Self::ModernOverSse => "modern_over_sse",
            Self::Initialized => "initialized_already",
            Self::NoRandomness => "no_randomness",
            Self::NoSuchSession => "no_such_session",
            Self::ContentType => "no_json",
            Self::NotAcceptable | Self::NoEvents => "not_acceptable",
            Self::TooLarge { .. } => "body_too_large",
            Self::Incomplete => "body_incomplete",
            Self::NotKept(_) => "events_not_kept",
            Self::NoLookup(_) => "session_not_looked_up",
            Self::Repeated(_) => "repeated_header",
            Self::Streams { .. } => "too_many_streams",
        }
    }

    /// The response. Its body is a JSON-RPC error without an id, never one that a client takes for another era's.
    pub(crate) fn response(&self) -> Response<Body> {
        let (code, data) = match self {
            Self::Unheard => {
                (code::INTERNAL, Some(r#"{"source":"staithe","reason":"outcome_unknown","blame":"host"}"#))
            }
            _ => (code::INVALID_REQUEST, None),
        };
        let body = code::error_body(None, code, &self.to_string(), data);
        let mut response = json(self.status(), body);
        let headers = response.headers_mut();
        match self {
            Self::NoToken => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(r#"Bearer realm="staithe""#));
            }
            Self::BadToken { .. } => {
                let value = HeaderValue::from_static(r#"Bearer realm="staithe", error="invalid_token""#);
                headers.insert(WWW_AUTHENTICATE, value);
            }
            Self::Method | Self::NoStreamWithoutSession => {
                headers.insert(http::header::ALLOW, HeaderValue::from_static("POST, GET, DELETE, OPTIONS"));
            }
            Self::OnlyRead => {
                headers.insert(http::header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
            }
            Self::NoAudit => {
                let value = HeaderValue::from_static(r#"Bearer realm="staithe", error="insufficient_scope""#);
                headers.insert(WWW_AUTHENTICATE, value);
            }
            // A JSON-RPC error would tell a client that looks for its transport to look no further (E86).
            Self::NoPost => {
                headers.insert(http::header::ALLOW, HeaderValue::from_static("GET, OPTIONS"));
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
                *response.body_mut() = Body::Whole(Some(self.to_string().into()));
            }
            _ => {}
        }
        if let Some(value) = self.retry_header() {
            response.headers_mut().insert(RETRY_AFTER, value);
        }
        // What was carried to another daemon is that one's to record.
        if !matches!(self, Self::Unheard) {
            let whose = if let Self::BadToken { whose, .. } = self { whose.clone() } else { None };
            response.extensions_mut().insert(TurnedAway { reason: self.name(), whose });
        }
        response
    }

    /// The value of `Retry-After`, where the status says that trying again helps.
    pub(crate) fn retry_header(&self) -> Option<HeaderValue> {
        let after = if matches!(self, Self::Moved) { Duration::from_secs(1) } else { SOON };
        (self.status() == StatusCode::SERVICE_UNAVAILABLE).then(|| seconds(after))
    }
}

impl CallError {
    fn blame(&self) -> Blame {
        match self {
            Self::Absent(absent) => absent.blame(),
            Self::Stalled(stalled) => stalled.blame(),
            Self::NoSession(full) => full.blame(),
            Self::Unasked(unasked) => unasked.blame(),
            Self::Unanswered(unanswered) => unanswered.blame(),
            Self::Filter | Self::NoUri | Self::NoSubscriptions | Self::Subscriptions | Self::NoLogging => Blame::Caller,
            Self::Gone(report) => report.blame(),
            Self::Garbled(_) | Self::Deadline { .. } | Self::Rounds { .. } | Self::Questions { .. } => Blame::Server,
            Self::Unsealed | Self::Unrecorded(_) => Blame::Host,
            Self::State
            | Self::Answers
            | Self::Held { .. }
            | Self::Turn { .. }
            | Self::Calls { .. }
            | Self::Opening(_)
            | Self::Level(_)
            | Self::UnknownMethod(_)
            | Self::NotInSession(_)
            | Self::NoTasks(_)
            | Self::Mirrored(_) => Blame::Caller,
        }
    }

    /// How a call that failed with it is counted.
    pub(crate) fn outcome(&self) -> Outcome {
        match (self, self.blame()) {
            (Self::Deadline { .. } | Self::Unanswered(Unanswered::Slow { .. }), _) => Outcome::Deadline,
            (_, Blame::Caller) => Outcome::CallerError,
            (_, Blame::Server) => Outcome::ServerError,
            (_, Blame::Host) => Outcome::HostError,
        }
    }

    /// The short name of it that programs read.
    pub(crate) fn name(&self) -> &'static str {
        self.row(Era::Modern).2
    }

    /// (HTTP status for a client of `era` while it is free to choose, JSON-RPC code, a short name for programs)
    fn row(&self, era: Era) -> (u16, i64, &'static str) {
        // The server takes no calls now: this one did not reach it.
        let busy = if era == Era::Modern { 503 } else { 200 };
        match self {
            Self::Absent(Absent::Unknown(_)) => (404, code::INVALID_REQUEST, "unknown_server"),
            Self::Absent(Absent::Moved) => (503, code::INTERNAL, "moved"),
            Self::Absent(Absent::SessionEnded) => (404, code::INVALID_REQUEST, "session_ended"),
            Self::Absent(Absent::Stopped(_)) => (503, code::INTERNAL, "server_stopped"),
            Self::Absent(Absent::Full { .. }) => (503, code::INTERNAL, "too_many_instances"),
            Self::Absent(Absent::Failing { .. }) => (busy, code::INTERNAL, "server_failing"),
            Self::Absent(Absent::Slow { .. }) => (busy, code::INTERNAL, "server_not_ready"),
            Self::Stalled(_) => (busy, code::INTERNAL, "server_not_reading"),
            Self::Unrecorded(Unrecorded::Start(_)) => (503, code::INTERNAL, "ledger_refused"),
            Self::Unrecorded(Unrecorded::End(_)) => (200, code::INTERNAL, "result_withheld"),
            Self::NoSession(NoSession::Full { .. }) => (503, code::INTERNAL, "too_many_sessions"),
            Self::NoSession(_) => (503, code::INTERNAL, "session_not_kept"),
            Self::Gone(report) if !report.reached => (200, code::INTERNAL, "server_unreachable"),
            Self::Gone(report) if report.unheard => (200, code::INTERNAL, "outcome_unknown"),
            Self::Gone(_) => (200, code::INTERNAL, "server_ended"),
            Self::Garbled(_) => (200, code::INTERNAL, "invalid_answer"),
            Self::Deadline { .. } => (200, code::INTERNAL, "deadline"),
            Self::Unanswered(Unanswered::Stalled(_)) => (busy, code::INTERNAL, "server_not_reading"),
            Self::Unanswered(Unanswered::Gone(report)) if report.unheard => (200, code::INTERNAL, "outcome_unknown"),
            Self::Unanswered(Unanswered::Gone(_)) => (200, code::INTERNAL, "server_ended"),
            Self::Unanswered(Unanswered::Garbled(_)) => (200, code::INTERNAL, "invalid_answer"),
            Self::Unanswered(Unanswered::Slow { .. }) => (200, code::INTERNAL, "deadline"),
            Self::Filter => (200, code::INVALID_PARAMS, "invalid_filter"),
            Self::NoUri => (200, code::INVALID_PARAMS, "invalid_uri"),
            Self::NoSubscriptions => (200, code::METHOD_NOT_FOUND, "no_subscriptions"),
            Self::Subscriptions => (200, code::INTERNAL, "too_many_subscriptions"),
            Self::NoLogging => (200, code::METHOD_NOT_FOUND, "no_logging"),
            Self::Unasked(_) => (200, code::INTERNAL, "client_not_asked"),
            Self::Calls { .. } => (503, code::INTERNAL, "too_many_calls"),
            Self::State => (200, code::INVALID_PARAMS, "invalid_state"),
            Self::Answers => (200, code::INVALID_PARAMS, "invalid_answers"),
            Self::Held { .. } => (503, code::INTERNAL, "too_many_held"),
            Self::Rounds { .. } => (200, code::INTERNAL, "too_many_rounds"),
            Self::Questions { .. } => (200, code::INTERNAL, "too_much_asked"),
            Self::Unsealed => (200, code::INTERNAL, "no_randomness"),
            Self::Turn { .. } => (503, code::INTERNAL, "turn_not_free"),
            Self::Opening(_) => (400, code::INVALID_PARAMS, "invalid_initialize"),
            Self::Level(_) => (200, code::INVALID_PARAMS, "invalid_level"),
            Self::UnknownMethod(_) => (404, code::METHOD_NOT_FOUND, "unknown_method"),
            Self::NoTasks(_) => (200, code::METHOD_NOT_FOUND, "no_tasks"),
            Self::Mirrored(_) => (400, code::HEADER_MISMATCH, "header_mismatch"),
            Self::NotInSession(_) => (200, code::METHOD_NOT_FOUND, "unknown_method"),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Absent(absent) => absent.retry_after(),
            Self::NoSession(_)
            | Self::Calls { .. }
            | Self::Turn { .. }
            | Self::Held { .. }
            | Self::Stalled(_)
            | Self::Unanswered(Unanswered::Stalled(_)) => Some(SOON),
            _ => None,
        }
    }

    /// As JSON-RPC error response to request `id` of a client of `era`.
    pub(crate) fn delivery(&self, era: Era, id: Option<&[u8]>) -> Delivery {
        let (status, code, reason) = self.row(era);
        let blame = match self.blame() {
            Blame::Caller => "caller",
            Blame::Server => "server",
            Blame::Host => "host",
        };
        let mut data = format!(r#"{{"source":"staithe","reason":"{reason}","blame":"{blame}""#);
        if let Some(after) = self.retry_after() {
            data.push_str(&format!(r#","retryAfterMs":{}"#, after.as_millis()));
        }
        if let Self::Gone(report) = self {
            let mut fields = Vec::new();
            for (name, value) in [
                ("server", Some(report.server.as_str())),
                ("status", Some(&report.status)),
                ("lastStderr", report.last_stderr.as_deref()),
            ] {
                if let Some(value) = value {
                    fields.extend_from_slice(format!(r#","{name}":"#).as_bytes());
                    wire::scan::write_text(&mut fields, value);
                }
            }
            data.push_str(&String::from_utf8_lossy(&fields));
        }
        data.push('}');
        Delivery { body: code::error_body(id, code, &self.to_string(), Some(&data)), status }
    }

    /// The value of `Retry-After`, where the status says that trying again helps.
    pub(crate) fn retry_header(&self, era: Era) -> Option<HeaderValue> {
        let (status, _, _) = self.row(era);
        (status == 503).then(|| seconds(self.retry_after().unwrap_or(SOON)))
    }

    /// As a whole HTTP response, before it is known whose era the client speaks.
    pub(crate) fn response(&self) -> Response<Body> {
        let delivery = self.delivery(Era::Modern, None);
        let status = StatusCode::from_u16(delivery.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json(status, delivery.body);
        if let Some(value) = self.retry_header(Era::Modern) {
            response.headers_mut().insert(RETRY_AFTER, value);
        }
        response.extensions_mut().insert(TurnedAway::for_reason(self.name()));
        response
    }
}

/// Whole seconds: whoever comes then is not too early.
fn seconds(after: Duration) -> HeaderValue {
    let seconds = after.as_millis().div_ceil(1000).clamp(1, u128::from(u32::MAX));
    HeaderValue::from(u64::try_from(seconds).unwrap_or(1))
}

/// A refusal of the ladder as HTTP response.
pub(crate) fn refused(refusal: &Refusal) -> Response<Body> {
    let id = refusal.id.as_ref().map(Bytes::as_ref);
    let body = code::error_body(id, refusal.code, &refusal.message, refusal.data.as_deref());
    let mut response = json(StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_REQUEST), body);
    response.extensions_mut().insert(TurnedAway::for_reason(refusal_name(refusal)));
    response
}

/// The short name of a refusal of the ladder in the ledger.
fn refusal_name(refusal: &Refusal) -> &'static str {
    match refusal.code {
        code::PARSE => "no_json",
        code::METHOD_NOT_FOUND => "unknown_method",
        code::INVALID_PARAMS => "invalid_params",
        code::HEADER_MISMATCH => "header_mismatch",
        code::MISSING_CAPABILITY => "missing_capability",
        code::UNSUPPORTED_VERSION => "unsupported_version",
        _ if refusal.status == 404 => "no_such_session",
        _ => "invalid_request",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(ms: u64) -> CallError {
        let retry_after = Duration::from_millis(ms);
        CallError::Absent(Absent::Failing { server: "s".parse().unwrap(), reason: "it died".to_owned(), retry_after })
    }

    #[test]
    fn every_503_says_when_to_come_again() {
        let server = || "s".parse::<ServerName>().unwrap();
        let full = Absent::Full { server: server(), limit: 1, bound: supervisor::Bound::Server };
        let after = Duration::from_secs(1);
        let errors = [
            (failing(2000), [503, 200]),
            (CallError::Absent(Absent::Slow { server: server(), waited: after }), [503, 200]),
            (CallError::Stalled(Stalled::Full { server: server(), queued: 9 }), [503, 200]),
            (CallError::Stalled(Stalled::Ended(server())), [503, 200]),
            (CallError::Absent(full), [503, 503]),
            (CallError::Absent(Absent::Stopped(server())), [503, 503]),
            (CallError::Calls { limit: 1 }, [503, 503]),
            (CallError::Held { limit: 1, of: "server" }, [503, 503]),
            (CallError::Turn { server: server(), after }, [503, 503]),
            (CallError::Deadline { server: server(), after }, [200, 200]),
        ];
        for (error, statuses) in &errors {
            for (era, status) in [Era::Modern, Era::Legacy].into_iter().zip(statuses) {
                let header = error.retry_header(era);
                assert_eq!((error.delivery(era, None).status, header.is_some()), (*status, *status == 503), "{error}");
            }
            let body = error.delivery(Era::Legacy, None).body;
            let waits = String::from_utf8_lossy(&body).contains(r#""retryAfterMs":"#);
            let told = statuses[0] == 503 && !matches!(error, CallError::Absent(Absent::Stopped(_)));
            assert_eq!(waits, told, "{error}");
        }
        for error in [GateError::Streams { limit: 1 }, GateError::Moved] {
            assert!(error.response().headers().contains_key(RETRY_AFTER), "{error}");
        }
        assert!(!GateError::NoToken.response().headers().contains_key(RETRY_AFTER));
    }

    #[test]
    fn nobody_is_told_to_come_too_early() {
        for (ms, told) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (29_999, "30"), (3_600_000, "3600")] {
            assert_eq!(failing(ms).retry_header(Era::Modern).unwrap(), told, "{ms} ms");
        }
    }
}
