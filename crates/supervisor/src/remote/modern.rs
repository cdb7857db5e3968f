//! Remote servers of 2026-07-28: each request stands alone, says in headers what its body says, and is called off by
//! closing its stream.

use super::Link;
use super::exchange::Received;
use super::failure::Failure;
use crate::instance::Instance;
use bytes::Bytes;
use hyper::body::Incoming;
use model::report::LogSource;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use wire::catalogue::{Reading, Tool};
use wire::era::Era;
use wire::events::Event;
use wire::message::{Message, Shape};
use wire::mirror;
use wire::param::Param;
use wire::scan::{Limits, Place, Side};

/// How long a call waits for the list of tools to know which of its arguments are headers too.
const TOOLS_WAIT: Duration = Duration::from_secs(5);
/// Different tools whose fault one instance tells.
const MOST_TOLD: usize = 256;
const HEADER_MISMATCH: i64 = -32020;

/// Tools whose fault was told already.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<HashSet<String>>);

impl Told {
    /// Whether this fault is new.
    fn is_new(&self, fault: &str) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < MOST_TOLD && told.insert(fault.to_owned())
    }
}

impl Link {
    /// Which arguments of a call its headers say too.
    pub(super) async fn params(&self, instance: &Arc<Instance>, message: &Message) -> Vec<Param> {
        if self.era == Era::Legacy || message.method() != "tools/call" || instance.tools_are_plain() {
            return Vec::new();
        }
        let Some(name) = message.text(Place::Params, "name") else { return Vec::new() };
        let catalogue = instance.catalogue(TOOLS_WAIT).await;
        let tool = catalogue.as_ref().and_then(|catalogue| catalogue.tool(&name));
        tool.map(|tool| tool.params().to_vec()).unwrap_or_default()
    }

    /// Carries one request. Where the server misses headers that its tools want by now, they are looked up and the
    /// request, which it has refused, is sent once more (E62).
    pub(super) async fn carry_modern(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        id: u64,
        message: &Message,
        params: Vec<Param>,
    ) -> Result<(), Failure> {
        let mut received = self.receive(id, self.post(message, &params).await?).await?;
        if let Received::Json(text) = &received
            && message.method() == "tools/call"
            && self.refused_headers(text)
        {
            instance.forget_tools();
            let now = self.params(instance, message).await;
            if now != params {
                received = self.receive(id, self.post(message, &now).await?).await?;
            }
        }
        match received {
            Received::Json(text) => self.hand_over(instance, id, &self.checked(instance, message, text)),
            Received::Events(body) if message.method() == "tools/list" => {
                self.list_from(instance, id, message, body).await
            }
            Received::Events(body) => self.answer_from(instance, id, body, false).await,
        }
    }

    fn refused_headers(&self, text: &Bytes) -> bool {
        self.parsed(text).is_some_and(|answer| answer.error_code() == Some(HEADER_MISMATCH))
    }

    fn parsed(&self, text: &Bytes) -> Option<Message> {
        let limits = Limits { bytes: self.context.limits.line_bytes, depth: 128 };
        Message::parse(text.clone(), Side::Server, &limits).ok()
    }

    /// An answer on its way to the callers: a list of tools loses those that may not be used over HTTP (E60).
    fn checked(&self, instance: &Instance, asked: &Message, text: Bytes) -> Bytes {
        if asked.method() != "tools/list" {
            return text;
        }
        let Some(answer) = self.parsed(&text).filter(|answer| answer.shape() == Shape::Success) else { return text };
        let mut reading = Reading::default();
        // A list that breaks the bounds is judged as far as it was read, like everywhere.
        let _ = reading.page(&answer);
        let catalogue = reading.done();
        let Some(shown) = mirror::without_excluded(&answer, &catalogue) else { return text };
        for fault in catalogue.faults() {
            if catalogue.tool(&fault.tool).is_some_and(Tool::excluded) && self.told.is_new(&fault.tool) {
                let line = format!("left out of the list of tools: {fault}");
                self.context.log.add(instance.id, LogSource::Host, &line);
            }
        }
        Bytes::from(shown)
    }

    /// A list of tools that comes as an event.
    async fn list_from(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        id: u64,
        asked: &Message,
        body: Incoming,
    ) -> Result<(), Failure> {
        let each = |event: Event| {
            if event.name == "message" && !event.data.is_empty() {
                let text = self.checked(instance, asked, Bytes::from(event.data));
                self.deliver(instance, &text);
            }
        };
        let read = self.read_events(body, each, || !instance.waits_for(id)).await;
        match read.broken {
            _ if !instance.waits_for(id) => Ok(()),
            Some(failure) => Err(failure),
            None => Err(Failure::Unanswered { origin: self.origin() }),
        }
    }
}
