//! One message to a remote server, and the answer's way back.

use super::failure::Failure;
use super::web::{Media, media};
use super::{Flight, Link, PATIENCE};
use crate::instance::Instance;
use crate::route;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, Uri};
use hyper::body::Incoming;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use wire::era::Era;
use wire::message::{Message, Shape};
use wire::param::Param;
use wire::scan::{Limits, Place, Side};

/// A page that explains a refusal is read up to here; only JSON-RPC in it is looked at.
const REFUSAL_BYTES: usize = 1 << 20;

pub(super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
pub(super) const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// The head of an answer was read, and of a short one the body too.
pub(super) enum Received {
    /// One JSON text: an answer, or an array of messages. Also under statuses of failure, where it is JSON-RPC.
    Json(Bytes),
    /// Events follow.
    Events(Incoming),
}

impl Link {
    /// Carries a request there and its answer back. When this returns without a failure, the answer was delivered or
    /// nobody waits for it any more.
    pub(super) async fn carry(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        id: u64,
        message: &Message,
        flight: &Flight,
    ) -> Result<(), Failure> {
        // Before its turn: the list of tools needs one too.
        let params = self.params(instance, message).await;
        // Subscriptions last: they would take all turns.
        let _turn = match message.method() {
            "subscriptions/listen" => None,
            _ => self.turn.acquire().await.ok(),
        };
        self.ready().await;
        flight.sent.store(true, Ordering::Release);
        match (self.era, message.method()) {
            (Era::Modern, _) => self.carry_modern(instance, id, message, params).await,
            (Era::Legacy, "initialize") => self.open_session(instance, id, message).await,
            (Era::Legacy, _) => self.carry_legacy(instance, id, message).await,
        }
    }

    /// Sends what has no answer: a notification, or an answer to a question of the server.
    pub(super) async fn post_only(&self, message: &Message) -> Result<(), Failure> {
        let (url, headers) = self.head(message, &[]);
        let response = self.endpoint.send(&Method::POST, &url, &headers, message.bytes(), Some(PATIENCE)).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        if status == StatusCode::NOT_FOUND && self.state().session.is_some() {
            self.finish(&Failure::SessionEnded { origin: self.origin() }.to_string());
        }
        Err(Failure::Status { origin: self.origin(), status })
    }

    /// Posts a request and reads the head of the answer.
    pub(super) async fn post(&self, message: &Message, params: &[Param]) -> Result<Response<Incoming>, Failure> {
        let (url, headers) = self.head(message, params);
        // The call has a deadline of its own, and calls this off when it passes.
        self.endpoint.send(&Method::POST, &url, &headers, message.bytes(), None).await
    }

    /// Where a message goes, and its headers.
    fn head(&self, message: &Message, params: &[Param]) -> (Uri, HeaderMap) {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        if self.era == Era::Modern {
            self.mirror(message, params, &mut headers);
            return (self.endpoint.url.clone(), headers);
        }
        let state = self.state();
        self.identify(&state, &mut headers);
        (state.inbox.clone().unwrap_or_else(|| self.endpoint.url.clone()), headers)
    }

    /// What every request within a legacy session carries (E102).
    pub(super) fn identify(&self, state: &super::State, headers: &mut HeaderMap) {
        if let Some(session) = &state.session {
            headers.insert(SESSION, session.clone());
        }
        if let Some(revision) = &state.revision {
            headers.insert(VERSION, revision.clone());
        }
    }

    /// The headers of a modern request say what its body says (E59).
    fn mirror(&self, message: &Message, params: &[Param], headers: &mut HeaderMap) {
        let version = message.text(Place::Meta, "io.modelcontextprotocol/protocolVersion");
        let version = version.as_deref().and_then(|version| HeaderValue::from_str(version).ok());
        let spoken = HeaderValue::from_static("2026-07-28");
        headers.insert(VERSION, version.unwrap_or(spoken));
        for (name, value) in wire::mirror::headers(message, params) {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        }
    }

    /// Reads an answer as far as it takes to know what it is. JSON-RPC under a status of failure is an answer like any
    /// other, but for those statuses that are about the connection and not about the request.
    pub(super) async fn receive(&self, id: u64, response: Response<Incoming>) -> Result<Received, Failure> {
        let (head, body) = response.into_parts();
        let origin = self.origin();
        let limit = self.context.limits.line_bytes;
        if head.status.is_success() {
            return match media(&head.headers) {
                Media::Events => Ok(Received::Events(body)),
                Media::Json => Ok(Received::Json(self.endpoint.body(body, limit).await?)),
                Media::Other if matches!(head.status.as_u16(), 202 | 204) => Err(Failure::Unanswered { origin }),
                Media::Other => {
                    let given = head.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
                    let given: String = String::from_utf8_lossy(given).chars().take(80).collect();
                    Err(Failure::ContentType { origin, given })
                }
            };
        }
        let status = head.status;
        let in_session = self.era == Era::Legacy && self.state().session.is_some();
        if in_session && status == StatusCode::NOT_FOUND {
            return Err(Failure::SessionEnded { origin });
        }
        let about_request = super::failure::unspoken(status) || status == StatusCode::CONFLICT;
        if !about_request || media(&head.headers) != Media::Json {
            return Err(Failure::Status { origin, status });
        }
        let body = self.endpoint.body(body, REFUSAL_BYTES.min(limit)).await?;
        let limits = Limits { bytes: limit, depth: 128 };
        let refused = Message::parse(body.clone(), Side::Server, &limits).ok().filter(|m| m.shape() == Shape::Failure);
        let Some(refused) = refused else { return Err(Failure::Status { origin, status }) };
        match refused.id() {
            Some(named) if route::number(&named) == Some(id) => Ok(Received::Json(body)),
            Some(_) => Err(Failure::Status { origin, status }),
            // Some servers forget their sessions and answer 400 (not 404): only a new session helps.
            None if in_session && names_session(&refused) => Err(Failure::SessionEnded { origin }),
            None => Ok(Received::Json(named(&refused, id))),
        }
    }

    /// Hands a whole answer over. It must hold what `id` waits for.
    pub(super) fn hand_over(&self, instance: &Arc<Instance>, id: u64, text: &Bytes) -> Result<(), Failure> {
        self.deliver(instance, text);
        if instance.waits_for(id) {
            return Err(Failure::Unanswered { origin: self.origin() });
        }
        Ok(())
    }
}

fn names_session(refused: &Message) -> bool {
    refused.text(Place::Error, "message").is_some_and(|text| text.to_ascii_lowercase().contains("session"))
}

/// An error without an id as the answer to the one request that its HTTP exchange was about.
fn named(refused: &Message, id: u64) -> Bytes {
    let mut out = format!(r#"{{"jsonrpc":"2.0","id":{id},"error":"#).into_bytes();
    match refused.member(Place::Root, "error") {
        Some(error) => out.extend_from_slice(refused.raw(error.value)),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
    Bytes::from(out)
}
