//! Event streams of a remote server, until what was waited for has come.

use super::failure::Failure;
use super::{Link, PATIENCE};
use crate::instance::Instance;
use bytes::Bytes;
use http::header::{ACCEPT, HeaderMap};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::sync::Arc;
use std::time::Duration;
use wire::events::{Event, Events};

/// How often one broken stream is taken up again without having said anything new.
const TRIES: u32 = 5;
/// Between tries, where the server names no time of its own.
const PAUSE: Duration = Duration::from_secs(1);
/// A server that wants none would be asked in a circle.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// How the reading of one stream went.
pub(super) struct Read {
    /// Where to go on.
    pub(super) last_id: Option<String>,
    /// When.
    pub(super) retry: Option<Duration>,
    /// Whether it said anything.
    pub(super) spoke: bool,
    /// Why it ended, where that was no ordinary end.
    pub(super) broken: Option<Failure>,
}

impl Link {
    /// Reads a stream to its end, or until `done`. Each event is handed to `each`.
    pub(super) async fn read_events(
        &self,
        mut body: Incoming,
        mut each: impl FnMut(Event),
        done: impl Fn() -> bool,
    ) -> Read {
        let limit = self.context.limits.line_bytes;
        let mut events = Events::new(limit);
        let mut spoke = false;
        let broken = loop {
            match body.frame().await {
                None => break None,
                Some(Err(error)) => break Some(self.endpoint.broke(&error)),
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    let fed = events.feed(&data, |event| {
                        spoke = true;
                        each(event);
                    });
                    if fed.is_err() {
                        break Some(Failure::TooLong { origin: self.origin(), limit });
                    }
                    if done() {
                        break None;
                    }
                }
            }
        };
        Read { last_id: events.last_id().map(str::to_owned), retry: events.retry(), spoke, broken }
    }

    /// Reads the stream that answers request `id`; one that breaks or ends early is taken up again where the server has
    /// said how (E130). A request is never sent a second time.
    pub(super) async fn answer_from(
        &self,
        instance: &Arc<Instance>,
        id: u64,
        body: Incoming,
        resumable: bool,
    ) -> Result<(), Failure> {
        let mut body = body;
        let mut tries = 0;
        let mut last_id = None;
        loop {
            let each = |event: Event| self.take(instance, event);
            let read = self.read_events(body, each, || !instance.waits_for(id)).await;
            if !instance.waits_for(id) {
                return Ok(());
            }
            let lost = match read.broken {
                Some(failure @ Failure::TooLong { .. }) => return Err(failure),
                Some(failure) => failure,
                None => Failure::Unanswered { origin: self.origin() },
            };
            tries = if read.spoke { 1 } else { tries + 1 };
            last_id = read.last_id.or(last_id);
            let Some(from) = last_id.as_deref().filter(|_| resumable && tries <= TRIES) else { return Err(lost) };
            tokio::time::sleep(read.retry.unwrap_or(PAUSE).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)).await;
            body = self.resume(from, lost, &mut tries).await?;
        }
    }

    async fn resume(&self, from: &str, lost: Failure, tries: &mut u32) -> Result<Incoming, Failure> {
        loop {
            match self.get_events(Some(from)).await {
                Ok(body) => return Ok(body),
                Err(failure @ (Failure::Connect { .. } | Failure::Broke { .. } | Failure::Silent { .. })) => {
                    *tries += 1;
                    if *tries > TRIES {
                        return Err(failure);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Err(failure @ Failure::SessionEnded { .. }) => return Err(failure),
                // It does not do that: what was lost stays lost.
                Err(_) => return Err(lost),
            }
        }
    }

    /// A message for the callers; anything else is not ours.
    pub(super) fn take(&self, instance: &Arc<Instance>, event: Event) {
        if event.name == "message" && !event.data.is_empty() {
            self.note_revision(&event.data);
            self.deliver(instance, &Bytes::from(event.data));
        }
    }

    /// Opens a stream with GET.
    pub(super) async fn get_events(&self, from: Option<&str>) -> Result<Incoming, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(id) = from.and_then(|id| HeaderValue::from_str(id).ok()) {
            headers.insert(LAST_EVENT_ID, id);
        }
        let in_session = {
            let state = self.state();
            self.identify(&state, &mut headers);
            state.session.is_some()
        };
        let url = &self.endpoint.url;
        let response = self.endpoint.send(&Method::GET, url, &headers, &Bytes::new(), Some(PATIENCE)).await?;
        let (origin, status) = (self.origin(), response.status());
        if status == StatusCode::NOT_FOUND && in_session {
            return Err(Failure::SessionEnded { origin });
        }
        if !status.is_success() {
            return Err(Failure::Status { origin, status });
        }
        if super::web::media(response.headers()) != super::web::Media::Events {
            return Err(Failure::ContentType { origin, given: "something other than events".to_owned() });
        }
        Ok(response.into_body())
    }
}
