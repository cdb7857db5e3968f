//! What the public face counts of itself, and where the records of its calls go. Of a refused request only its status is
//! counted: who was refused, and with what, is nobody's label.

use crate::permit::Shares;
use crate::trace::CallSpan;
use http::StatusCode;
use std::sync::{Arc, OnceLock};
use stdx::meter::{Counter, Kind, Page};
use tokio::sync::{Semaphore, mpsc};

/// Statuses that are counted by number; all others together.
const STATUSES: [u16; 13] = [400, 401, 403, 404, 405, 406, 408, 413, 415, 429, 500, 502, 503];

/// The counts of the public face.
#[derive(Debug, Default)]
pub struct Meters {
    per_tool: bool,
    spans: Option<mpsc::Sender<CallSpan>>,
    lost_spans: Counter,
    refused: [Counter; STATUSES.len()],
    refused_otherwise: Counter,
    open: OnceLock<Open>,
}

/// What is open now is read off what bounds it.
#[derive(Debug)]
struct Open {
    shares: Arc<Shares>,
    connections: Arc<Semaphore>,
    most_connections: usize,
}

impl Meters {
    /// `per_tool` counts calls by the names of tools too. Each call that ends is told to `spans`, where there is room: a
    /// reader that is slow loses records, and no call waits for it.
    pub fn new(per_tool: bool, spans: Option<mpsc::Sender<CallSpan>>) -> Self {
        Self { per_tool, spans, ..Self::default() }
    }

    /// Writes the families of the public face.
    pub fn write(&self, page: &mut Page) {
        let mut family =
            page.family("staithe_refused_total", Kind::Counter, "Requests answered with an error status, by status.");
        for (status, counter) in STATUSES.iter().zip(&self.refused) {
            family.sample(&[("status", &status.to_string())], counter.get());
        }
        family.sample(&[("status", "other")], self.refused_otherwise.get());
        let (mut connections, mut calls, mut streams) = (0, 0, 0);
        if let Some(open) = self.open.get() {
            (calls, streams) = open.shares.in_use();
            // One place is kept for who comes next.
            connections = (open.most_connections - open.connections.available_permits()).saturating_sub(1);
        }
        for (name, help, value) in [
            ("staithe_connections", "Open connections of clients.", connections),
            ("staithe_calls_permitted", "Calls that were permitted and have not ended.", calls),
            ("staithe_streams", "Open long streams: GET, HTTP+SSE and subscriptions/listen.", streams),
        ] {
            page.family(name, Kind::Gauge, help).sample(&[], u64::try_from(value).unwrap_or(u64::MAX));
        }
        page.family(
            "staithe_spans_lost_total",
            Kind::Counter,
            "Records of calls that were dropped because the exporter had too many waiting.",
        )
        .sample(&[], self.lost_spans.get());
    }

    /// What is open is read there from now on.
    pub(crate) fn watch(&self, shares: &Arc<Shares>, connections: &Arc<Semaphore>, most_connections: usize) {
        let open = Open { shares: shares.clone(), connections: connections.clone(), most_connections };
        // A second face would have meters of its own.
        drop(self.open.set(open));
    }

    /// Counts a response, if it refuses.
    pub(crate) fn answered(&self, status: StatusCode) {
        if status.is_client_error() || status.is_server_error() {
            let known = STATUSES.iter().position(|known| *known == status.as_u16());
            known.map_or(&self.refused_otherwise, |at| &self.refused[at]).add_one();
        }
    }

    pub(crate) fn per_tool(&self) -> bool {
        self.per_tool
    }

    /// Whether anybody wants records of calls.
    pub(crate) fn traces(&self) -> bool {
        self.spans.is_some()
    }

    pub(crate) fn record(&self, span: CallSpan) {
        if self.spans.as_ref().is_some_and(|spans| spans.try_send(span).is_err()) {
            self.lost_spans.add_one();
        }
    }
}
