//! Remote servers of the `initialize` era: Streamable HTTP with a session (2025-03-26 to 2025-11-25), or HTTP+SSE
//! (2024-11-05), whichever the server speaks.

use super::exchange::{Received, SESSION};
use super::failure::Failure;
use super::web::{resolve, same_origin};
use super::{Link, PATIENCE};
use crate::instance::Instance;
use bytes::Bytes;
use http::header::HeaderMap;
use http::{HeaderValue, Method, Uri};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use wire::era::Era;
use wire::events::Event;
use wire::message::{Message, Shape};
use wire::scan::{Limits, Place, Side};

/// How long an HTTP+SSE server may take to say where it takes messages.
const ENDPOINT_WAIT: Duration = Duration::from_secs(10);
/// Between two GET streams that said nothing, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A recognised error of the modern era: that server must not be tried as an HTTP+SSE one.
const MODERN_CODES: std::ops::RangeInclusive<i64> = -32022..=-32020;

impl Link {
    /// Sends `initialize`, over the transport that the server turns out to speak, and notes what it answered.
    pub(super) async fn open_session(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        id: u64,
        message: &Message,
    ) -> Result<(), Failure> {
        if self.pinned_sse || self.memory.sse.load(Ordering::Relaxed) {
            self.open_inbox(instance).await?;
            return self.carry_legacy(instance, id, message).await;
        }
        let response = self.post(message, &[]).await?;
        let status = response.status();
        let session = response.headers().get(SESSION).cloned();
        let received = self.receive(id, response).await;
        let unspoken = match &received {
            Ok(Received::Json(body)) => super::failure::unspoken(status) && !speaks_modern(body),
            Ok(Received::Events(_)) => false,
            Err(failure) => failure.unspoken(),
        };
        if unspoken && self.open_inbox(instance).await.is_ok() {
            self.memory.sse.store(true, Ordering::Relaxed);
            return self.carry_legacy(instance, id, message).await;
        }
        // Before the answer is known to others: their requests need it.
        self.state().session = session;
        self.finish_legacy(instance, id, received?).await
    }

    /// Any other request.
    pub(super) async fn carry_legacy(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        id: u64,
        message: &Message,
    ) -> Result<(), Failure> {
        if self.state().inbox.is_some() {
            // The answer comes as an event, and whoever waits for it hears of the stream's end.
            return self.post_only(message).await;
        }
        let response = self.post(message, &[]).await?;
        let received = self.receive(id, response).await?;
        self.finish_legacy(instance, id, received).await
    }

    async fn finish_legacy(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        id: u64,
        received: Received,
    ) -> Result<(), Failure> {
        match received {
            Received::Json(text) => {
                self.note_revision(&text);
                self.hand_over(instance, id, &text)
            }
            Received::Events(body) => self.answer_from(instance, id, body, true).await,
        }
    }

    /// A message on its way to the callers: the answer to `initialize` says which revision later requests name (E102).
    pub(super) fn note_revision(&self, text: &[u8]) {
        if self.era == Era::Modern || self.state().revision.is_some() {
            return;
        }
        let limits = Limits { bytes: self.context.limits.line_bytes, depth: 128 };
        let Ok(message) = Message::parse(Bytes::copy_from_slice(text), Side::Server, &limits) else { return };
        let revision = message.text(Place::Result, "protocolVersion").filter(|_| message.shape() == Shape::Success);
        if let Some(revision) = revision.and_then(|revision| HeaderValue::from_str(&revision).ok()) {
            self.state().revision = Some(revision);
        }
    }

    /// The GET stream of a Streamable HTTP server, for as long as the server offers one: taken up again whenever it
    /// ends, where it ended. Servers that answer 405 have none (E72).
    pub(super) async fn listen(self: &Arc<Self>) {
        if self.state().inbox.is_some() {
            return;
        }
        let (mut from, mut pause) = (None, FIRST_PAUSE);
        while let Some(instance) = self.instance.get().and_then(std::sync::Weak::upgrade) {
            match self.get_events(from.as_deref()).await {
                Ok(body) => {
                    let read = self.read_events(body, |event| self.take(&instance, event), || false).await;
                    if let Some(failure @ Failure::TooLong { .. }) = read.broken {
                        return self.finish(&failure.to_string());
                    }
                    from = read.last_id.or(from);
                    let next = if read.spoke { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
                    pause = read.retry.unwrap_or(next).clamp(Duration::from_millis(50), LONGEST_PAUSE);
                }
                Err(failure @ Failure::SessionEnded { .. }) => return self.finish(&failure.to_string()),
                Err(failure @ Failure::Status { status, .. })
                    if !status.is_server_error() && status.as_u16() != 429 =>
                {
                    if status.as_u16() != 405 {
                        tracing::debug!(server = %self.context.server, %failure, "a remote server has no GET stream");
                    }
                    return;
                }
                Err(Failure::ContentType { .. }) => return,
                Err(_) => pause = (pause * 2).min(LONGEST_PAUSE),
            }
            drop(instance);
            tokio::time::sleep(pause).await;
        }
    }

    /// Opens the one event stream of an HTTP+SSE server and learns where it takes messages. Its end is the end of all.
    async fn open_inbox(self: &Arc<Self>, instance: &Arc<Instance>) -> Result<(), Failure> {
        let body = self.get_events(None).await.map_err(|failure| match failure {
            Failure::Status { .. } | Failure::ContentType { .. } => {
                Failure::NoEndpoint { origin: self.origin(), why: failure.to_string() }
            }
            other => other,
        })?;
        let (told, learned) = oneshot::channel();
        let (link, instance) = (self.clone(), instance.clone());
        // Cancelled where this turns out to be some other stream: its end means nothing then.
        let other = CancellationToken::new();
        let (unwanted, guard) = (other.clone(), other.drop_guard());
        self.spawn("the events of a remote server", 0, async move {
            let mut told = Some(told);
            let each = |event: Event| match event.name.as_str() {
                "endpoint" => {
                    if let Some(told) = told.take() {
                        let _ = told.send(event.data);
                    }
                }
                _ => link.take(&instance, event),
            };
            let Some(read) = unwanted.run_until_cancelled(link.read_events(body, each, || false)).await else { return };
            let why = read.broken.map_or_else(|| "it ended its event stream".to_owned(), |failure| failure.to_string());
            link.finish(&why);
        });
        let no_endpoint = |why: &str| Failure::NoEndpoint { origin: self.origin(), why: why.to_owned() };
        let data = match tokio::time::timeout(ENDPOINT_WAIT, learned).await {
            Ok(Ok(data)) => data,
            Ok(Err(_closed)) => return Err(no_endpoint("its event stream ended before an `endpoint` event")),
            Err(_elapsed) => return Err(no_endpoint("its event stream has no `endpoint` event")),
        };
        let inbox = self.inbox(&data).ok_or_else(|| no_endpoint("its `endpoint` event names another origin"))?;
        guard.disarm();
        self.state().inbox = Some(inbox);
        Ok(())
    }

    /// Same origin only: whatever is sent there carries the credentials.
    fn inbox(&self, data: &[u8]) -> Option<Uri> {
        let text = std::str::from_utf8(data).ok()?.trim();
        resolve(&self.endpoint.url, text).filter(|inbox| same_origin(inbox, &self.endpoint.url))
    }

    /// Tells a server that its session is no longer needed (E127).
    pub(super) async fn end_session(&self, grace: Duration) {
        let mut headers = HeaderMap::new();
        {
            let state = self.state();
            if state.session.is_none() || self.ended.is_cancelled() {
                return;
            }
            self.identify(&state, &mut headers);
        }
        let (url, limit) = (&self.endpoint.url, Some(grace.min(PATIENCE)));
        if let Err(failure) = self.endpoint.send(&Method::DELETE, url, &headers, &Bytes::new(), limit).await {
            tracing::debug!(server = %self.context.server, %failure, "a remote session could not be ended");
        }
    }
}

fn speaks_modern(body: &Bytes) -> bool {
    let limits = Limits { bytes: body.len(), depth: 128 };
    let refused = Message::parse(body.clone(), Side::Server, &limits);
    refused.is_ok_and(|refused| refused.error_code().is_some_and(|code| MODERN_CODES.contains(&code)))
}
