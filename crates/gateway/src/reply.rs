//! The way back to a caller: one JSON body while that is possible, an event stream from the first event on.
//!
//! A stream opens late, so that an early error still chooses the HTTP status (E31).

use crate::settings::Limits;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use http_body::{Frame, SizeHint};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use wire::bridge::Delivery;
use wire::sse;

/// Events that may wait for a client before its call waits for it.
const BUFFERED: usize = 16;

/// A response body: at once, or as it comes.
#[derive(Debug)]
pub(crate) enum Body {
    Whole(Option<Bytes>),
    Stream(mpsc::Receiver<Bytes>),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(events) => events.poll_recv(cx).map(|event| event.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// A response with a JSON body.
pub(crate) fn json(status: StatusCode, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::Whole(Some(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A response without a body.
pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::Whole(None));
    *response.status_mut() = status;
    response
}

/// An event stream, and the end to feed it with.
pub(crate) fn stream() -> (mpsc::Sender<Bytes>, Response<Body>) {
    let (sender, receiver) = mpsc::channel(BUFFERED);
    let mut response = Response::new(Body::Stream(receiver));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    (sender, response)
}

/// What a client can read (E25, E27).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accepts {
    pub(crate) json: bool,
    pub(crate) events: bool,
}

impl Accepts {
    /// From the `Accept` headers; without one, everything.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut found = Self { json: false, events: false };
        let mut any = false;
        for value in headers.get_all(http::header::ACCEPT) {
            for range in value.to_str().unwrap_or_default().split(',') {
                any = true;
                let kind = range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
                found.json |= matches!(kind.as_str(), "application/json" | "application/*" | "*/*");
                found.events |= matches!(kind.as_str(), "text/event-stream" | "text/*" | "*/*");
            }
        }
        if any { found } else { Self { json: true, events: true } }
    }
}

/// The client left, or reads nothing for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left;

/// The way back of one call.
#[derive(Debug)]
pub(crate) struct Reply {
    way: Way,
    accepts: Accepts,
    /// Headers for the response, whichever form it takes.
    headers: HeaderMap,
    write_timeout: Duration,
}

#[derive(Debug)]
enum Way {
    /// Nothing was sent yet.
    Unopened(oneshot::Sender<Response<Body>>),
    /// The stream is open.
    Open(mpsc::Sender<Bytes>),
    /// A place in a batch: events in between, and at the end one body.
    Part(mpsc::Sender<Part>),
    /// The client left.
    Closed,
}

/// One thing that a batched call says.
#[derive(Debug)]
pub(crate) enum Part {
    Event(Vec<u8>),
    Body(Vec<u8>),
}

impl Reply {
    /// A reply, and where its HTTP response will appear.
    pub(crate) fn new(accepts: Accepts, limits: &Limits) -> (Self, oneshot::Receiver<Response<Body>>) {
        let (sender, receiver) = oneshot::channel();
        let way = Way::Unopened(sender);
        (Self { way, accepts, headers: HeaderMap::new(), write_timeout: limits.write_timeout }, receiver)
    }

    /// A reply into a batch.
    pub(crate) fn part(parts: mpsc::Sender<Part>, limits: &Limits) -> Self {
        let accepts = Accepts { json: true, events: true };
        Self { way: Way::Part(parts), accepts, headers: HeaderMap::new(), write_timeout: limits.write_timeout }
    }

    /// Adds a header to the response. Has no effect once the stream is open.
    pub(crate) fn header(&mut self, name: &'static str, value: HeaderValue) {
        self.headers.insert(name, value);
    }

    /// Takes a header back, if the stream is not open yet.
    pub(crate) fn withdraw(&mut self, name: &'static str) {
        self.headers.remove(name);
    }

    /// Sends an event, opening the stream if need be. A client that reads no streams gets none.
    pub(crate) async fn event(&mut self, message: &[u8]) -> Result<(), Left> {
        if let Way::Part(parts) = &self.way {
            return parts.send(Part::Event(message.to_vec())).await.map_err(|_| Left);
        }
        let mut event = Vec::with_capacity(message.len() + 32);
        sse::event(&mut event, message);
        self.send(event.into()).await
    }

    /// Sends a comment, opening the stream if need be.
    pub(crate) async fn keep_alive(&mut self) -> Result<(), Left> {
        if matches!(self.way, Way::Part(_)) {
            return Ok(());
        }
        self.send(Bytes::from_static(sse::KEEP_ALIVE)).await
    }

    /// Waits for what must come before the call, and keeps the caller's stream awake meanwhile. `None` if he left and
    /// `leaving_ends` the wait.
    pub(crate) async fn awake<T>(
        &mut self,
        limits: &Limits,
        leaving_ends: bool,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::pin!(work);
        let mut quiet = limits.stream_after;
        loop {
            let sent = tokio::select! {
                biased;
                done = &mut work => return Some(done),
                () = self.left() => Err(Left),
                () = tokio::time::sleep(quiet) => {
                    quiet = limits.keep_alive;
                    self.keep_alive().await
                }
            };
            match sent {
                Ok(()) => {}
                Err(Left) if leaving_ends => return None,
                Err(Left) => self.abandon(),
            }
        }
    }

    /// Hands the way back on: what is sent here from now on goes nowhere.
    pub(crate) fn take(&mut self) -> Self {
        let way = std::mem::replace(&mut self.way, Way::Closed);
        Self {
            way,
            accepts: self.accepts,
            headers: std::mem::take(&mut self.headers),
            write_timeout: self.write_timeout,
        }
    }

    /// Ends with the answer.
    pub(crate) async fn finish(mut self, delivery: Delivery) {
        match self.way {
            Way::Unopened(sender) if self.accepts.json || delivery.status != 200 => {
                let status = StatusCode::from_u16(delivery.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let mut response = json(status, delivery.body);
                response.headers_mut().extend(self.headers);
                // A client that left needs no answer.
                let _ = sender.send(response);
            }
            Way::Part(parts) => {
                let _ = parts.send(Part::Body(delivery.body)).await;
            }
            Way::Unopened(_) | Way::Open(_) => {
                let _ = self.event(&delivery.body).await;
            }
            Way::Closed => {}
        }
    }

    /// Ends without an answer: the client took its request back.
    pub(crate) fn close(mut self) {
        if let Way::Unopened(sender) = std::mem::replace(&mut self.way, Way::Closed) {
            let (events, response) = stream();
            drop(events);
            let _ = sender.send(response);
        }
    }

    /// Resolves when the client is gone. Cancel-safe; never resolves twice.
    pub(crate) async fn left(&mut self) {
        match &mut self.way {
            Way::Unopened(sender) => sender.closed().await,
            Way::Open(events) => events.closed().await,
            Way::Part(parts) => parts.closed().await,
            Way::Closed => std::future::pending().await,
        }
    }

    /// Nobody is there any more; what is sent from now on goes nowhere.
    pub(crate) fn abandon(&mut self) {
        self.way = Way::Closed;
    }

    async fn send(&mut self, bytes: Bytes) -> Result<(), Left> {
        if !self.accepts.events {
            return Ok(());
        }
        if let Way::Unopened(_) = &self.way {
            self.open()?;
        }
        match &self.way {
            Way::Open(events) => events.send_timeout(bytes, self.write_timeout).await.map_err(|_| Left),
            Way::Unopened(_) | Way::Part(_) | Way::Closed => Ok(()),
        }
    }

    fn open(&mut self) -> Result<(), Left> {
        let (events, mut response) = stream();
        response.headers_mut().extend(std::mem::take(&mut self.headers));
        match std::mem::replace(&mut self.way, Way::Open(events)) {
            Way::Unopened(sender) => sender.send(response).map_err(|_| Left),
            Way::Open(_) | Way::Part(_) | Way::Closed => Ok(()),
        }
    }
}
