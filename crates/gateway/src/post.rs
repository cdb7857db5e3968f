//! One POST: reads the body within its bounds, lets the ladder decide what it is, and hands it on.

use crate::admit::Admitted;
use crate::error::{GateError, refused};
use crate::listen::Host;
use crate::reply::{Accepts, Asker, Body, Moved, Reply, empty};
use crate::timing::Course;
use crate::tools::Mirrored;
use crate::{batch, modern, open, pass, session};
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming as HttpBody;
use std::sync::Arc;
use supervisor::Session;
use wire::classify::{Headers, Incoming, SessionHeader, classify};

/// Answers a POST.
pub(crate) async fn post(host: Arc<Host>, admitted: Admitted, parts: &Parts, body: HttpBody) -> Response<Body> {
    match receive(&host, &admitted, parts, body).await {
        Err(error) => error.response(),
        Ok(received) => {
            let body = received.body.clone();
            // The body may have come after another daemon.
            if let Some(to) = host.settings.leaving.to().await {
                return Box::pin(pass::whole(parts, body, to)).await;
            }
            let response = dispatch(host.clone(), admitted, received).await;
            if response.extensions().get::<Moved>().is_none() {
                return response;
            }
            match host.settings.leaving.to().await {
                Some(to) => Box::pin(pass::whole(parts, body, to)).await,
                // It did not come after all.
                None => response,
            }
        }
    }
}

/// A body that arrived, with what its headers say.
struct Received {
    body: Bytes,
    session: Option<Arc<Session>>,
    session_named: bool,
    accepts: Accepts,
    version: Option<Bytes>,
    method: Option<Bytes>,
    name: Option<Bytes>,
    mirrored: Mirrored,
}

async fn receive(host: &Host, admitted: &Admitted, parts: &Parts, body: HttpBody) -> Result<Received, GateError> {
    let headers = &parts.headers;
    let accepts = Accepts::of(headers);
    if !accepts.json && !accepts.events {
        return Err(GateError::NotAcceptable);
    }
    let session_id = single(headers, "mcp-session-id")?;
    let (version, method, name) =
        (single(headers, "mcp-protocol-version")?, single(headers, "mcp-method")?, single(headers, "mcp-name")?);
    let body = read(host, parts, body).await?;
    let session = match &session_id {
        Some(id) => session::find(host, admitted, id).await?,
        None => None,
    };
    let mirrored = Mirrored::of(headers);
    Ok(Received { body, session, session_named: session_id.is_some(), accepts, version, method, name, mirrored })
}

async fn dispatch(host: Arc<Host>, admitted: Admitted, received: Received) -> Response<Body> {
    let Received { body, session, session_named, accepts, version, method, name, mirrored } = received;
    let headers = Headers {
        version: version.as_deref(),
        method: method.as_deref(),
        name: name.as_deref(),
        session: match &session {
            Some(session) => SessionHeader::Known(session.revision()),
            None if session_named => SessionHeader::Unknown,
            None => SessionHeader::Absent,
        },
    };
    let incoming = match classify(body, &headers, &host.settings.limits.scan()) {
        Ok(incoming) => incoming,
        Err(refusal) => return refused(&refusal),
    };
    // A modern request is no part of a session, whatever its headers name (E38).
    let own = session.as_ref().filter(|_| matches!(incoming, Incoming::InSession(_)));
    let (reply, response) = Reply::new(accepts, Asker::new(&host, &admitted, own));
    let reply = reply.followed(Course::of(&host, &admitted));
    match (incoming, session) {
        (Incoming::ModernNotification(_), _) => return empty(StatusCode::ACCEPTED),
        (Incoming::Modern(message), _) => modern::request(host, &admitted, message, mirrored, reply),
        (Incoming::Open { message, revision }, _) => open::open(host, admitted, message, revision, reply),
        (Incoming::InSession(message), Some(session)) => {
            session.touch();
            if let Some(done) = session::one(host, &admitted, session, message, reply).await {
                return done;
            }
        }
        (Incoming::Batch(messages), Some(session)) => {
            session.touch();
            return Box::pin(batch::batch(host, admitted, session, messages, accepts)).await;
        }
        // The ladder speaks of a session only where one was found.
        (Incoming::InSession(_) | Incoming::Batch(_), None) => return GateError::NoSuchSession.response(),
    }
    response.await.unwrap_or_else(|_| empty(StatusCode::INTERNAL_SERVER_ERROR))
}

/// The body of a POST, within its bounds.
pub(crate) async fn read(host: &Host, parts: &Parts, body: HttpBody) -> Result<Bytes, GateError> {
    let limits = &host.settings.limits;
    check_content_type(&parts.headers)?;
    check_length(&parts.headers, limits.body_bytes)?;
    let arriving = tokio::time::timeout(limits.body_timeout, collect(body, limits.body_bytes));
    arriving.await.map_err(|_| GateError::Incomplete)?
}

fn check_content_type(headers: &HeaderMap) -> Result<(), GateError> {
    let value = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = value.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") { Ok(()) } else { Err(GateError::ContentType) }
}

fn check_length(headers: &HeaderMap, limit: usize) -> Result<(), GateError> {
    let length = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if length.is_some_and(|n| n > limit as u64) { Err(GateError::TooLarge { limit }) } else { Ok(()) }
}

/// The whole body. One that came in one piece is not copied.
async fn collect(mut body: HttpBody, limit: usize) -> Result<Bytes, GateError> {
    let mut first = Bytes::new();
    let mut all: Option<BytesMut> = None;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| GateError::Incomplete)?.into_data() else { continue };
        let so_far = all.as_ref().map_or(first.len(), BytesMut::len);
        if so_far + data.len() > limit {
            return Err(GateError::TooLarge { limit });
        }
        match &mut all {
            Some(all) => all.extend_from_slice(&data),
            None if first.is_empty() => first = data,
            None => {
                let mut joined = BytesMut::with_capacity((first.len() + data.len()) * 2);
                joined.extend_from_slice(&first);
                joined.extend_from_slice(&data);
                all = Some(joined);
            }
        }
    }
    Ok(all.map_or(first, BytesMut::freeze))
}

/// A header's value without surrounding white space. Two of them would let two readers see two truths.
pub(crate) fn single(headers: &HeaderMap, name: &'static str) -> Result<Option<Bytes>, GateError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(GateError::Repeated(name));
    }
    Ok(Some(Bytes::copy_from_slice(value.as_bytes().trim_ascii())))
}
