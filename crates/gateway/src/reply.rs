//! The way back to a caller: one JSON body while that is possible, an event stream from the first event on.
//!
//! A stream opens late, so that an early error still chooses the HTTP status (E31).

use crate::admit::Admitted;
use crate::feed::{self, Hello, RECHECK, stands};
use crate::listen::Host;
use crate::settings::Limits;
use crate::timing::Course;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use oauth::Verified;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use stdx::clock::monotonic;
use supervisor::{Outcome, Session, Underway, Writer};
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
    /// Of the daemon that took our place.
    Passed(Incoming),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(events) => events.poll_recv(cx).map(|event| event.map(|bytes| Ok(Frame::data(bytes)))),
            Self::Passed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Stream(_) => false,
            Self::Passed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Stream(_) => SizeHint::default(),
            Self::Passed(body) => body.size_hint(),
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

/// Who waits for a reply, and what keeps it when his connection breaks.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    host: Arc<Host>,
    token: Option<Verified>,
    session: Option<Arc<Session>>,
}

impl Asker {
    /// A client with a session finds its streams again; one without starts anew.
    pub(crate) fn new(host: &Arc<Host>, admitted: &Admitted, session: Option<&Arc<Session>>) -> Self {
        Self { host: host.clone(), token: admitted.token().cloned(), session: session.cloned() }
    }
}

/// The way back of one call.
#[derive(Debug)]
pub(crate) struct Reply {
    way: Way,
    accepts: Accepts,
    /// Headers for the response, whichever form it takes.
    headers: HeaderMap,
    write_timeout: Duration,
    /// Absent where the way is open from the start.
    asker: Option<Asker>,
    /// When the token is to be looked at again.
    doubt: Option<Instant>,
    course: Course,
    /// The call of a session, once it is sent.
    call: Option<Underway>,
    moved: bool,
}

/// Says of a response that another daemon could give a better one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved;

#[derive(Debug)]
enum Way {
    /// Nothing was sent yet.
    Unopened(oneshot::Sender<Response<Body>>),
    /// The stream is open, and lives as long as its connection.
    Open(mpsc::Sender<Bytes>),
    /// The stream of a session: it waits for its client where the connection breaks.
    Stream(Writer),
    /// The one stream of an HTTP+SSE session, which others use too.
    Channel(Writer),
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
    pub(crate) fn new(accepts: Accepts, asker: Asker) -> (Self, oneshot::Receiver<Response<Body>>) {
        let (sender, receiver) = oneshot::channel();
        let write_timeout = asker.host.settings.limits.write_timeout;
        let reply = Self::over(Way::Unopened(sender), accepts, write_timeout);
        (Self { asker: Some(asker), ..reply }, receiver)
    }

    /// A reply into a batch.
    pub(crate) fn part(parts: mpsc::Sender<Part>, limits: &Limits) -> Self {
        Self::over(Way::Part(parts), Accepts { json: true, events: true }, limits.write_timeout)
    }

    /// A reply down an HTTP+SSE connection.
    pub(crate) fn channel(writer: Writer, limits: &Limits) -> Self {
        Self::over(Way::Channel(writer), Accepts { json: false, events: true }, limits.write_timeout)
    }

    fn over(way: Way, accepts: Accepts, write_timeout: Duration) -> Self {
        Self {
            way,
            accepts,
            headers: HeaderMap::new(),
            write_timeout,
            asker: None,
            doubt: None,
            course: Course::default(),
            call: None,
            moved: false,
        }
    }

    /// The same with the course of its call, which ends when the reply does.
    pub(crate) fn followed(self, course: Course) -> Self {
        Self { course, ..self }
    }

    /// The course of its call so far.
    pub(crate) fn course(&mut self) -> &mut Course {
        &mut self.course
    }

    /// It is no call but lasts as long as its client: its time says nothing.
    pub(crate) fn lasts(&mut self) {
        self.course.lasts();
    }

    /// Adds a header to the response. Has no effect once the stream is open.
    pub(crate) fn header(&mut self, name: &'static str, value: HeaderValue) {
        self.headers.insert(name, value);
    }

    /// Another daemon can answer. Whoever has the request can carry it there, if nothing was said yet.
    pub(crate) fn moved(&mut self) {
        self.moved = true;
    }

    /// Takes a header back, if the stream is not open yet.
    pub(crate) fn withdraw(&mut self, name: &'static str) {
        self.headers.remove(name);
    }

    /// Whether an event would reach somebody.
    pub(crate) fn carries_events(&self) -> bool {
        self.accepts.events && !matches!(self.way, Way::Closed)
    }

    /// The call is about to be sent. A client that finds its stream again hears the end of it there, even of another daemon.
    pub(crate) async fn about(&mut self, call: Underway) {
        let Some(session) = self.session() else { return };
        if let Way::Stream(writer) = &self.way {
            Box::pin(session.keep_call(writer.stream(), &call)).await;
        }
        self.call = Some(call);
    }

    fn session(&self) -> Option<&Arc<Session>> {
        self.asker.as_ref()?.session.as_ref()
    }

    /// Sends an event, opening the stream if need be. A client that reads no streams gets none.
    pub(crate) async fn event(&mut self, message: &[u8]) -> Result<(), Left> {
        if !self.accepts.events {
            return Ok(());
        }
        self.open(Hello::Nothing).await?;
        match &self.way {
            Way::Part(parts) => parts.send(Part::Event(message.to_vec())).await.map_err(|_| Left),
            Way::Stream(writer) | Way::Channel(writer) => {
                let message = Bytes::copy_from_slice(message);
                writer.send(message, self.write_timeout).await.map_err(|_| Left)
            }
            Way::Open(_) => {
                let mut event = Vec::with_capacity(message.len() + 32);
                sse::event(&mut event, message);
                self.write(event.into()).await
            }
            Way::Unopened(_) | Way::Closed => Ok(()),
        }
    }

    /// Shows that the call goes on, opening the stream if need be. The streams of sessions do so themselves.
    pub(crate) async fn keep_alive(&mut self) -> Result<(), Left> {
        if !self.accepts.events {
            return Ok(());
        }
        self.open(Hello::Comment).await?;
        match &self.way {
            Way::Open(_) => self.write(Bytes::from_static(sse::KEEP_ALIVE)).await,
            _ => Ok(()),
        }
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
            asker: self.asker.take(),
            doubt: self.doubt,
            course: std::mem::take(&mut self.course),
            call: self.call.take(),
            moved: self.moved,
        }
    }

    /// Ends with the answer.
    pub(crate) async fn finish(mut self, mut delivery: Delivery) {
        let mut course = std::mem::take(&mut self.course);
        delivery = course.recorded(delivery).await;
        if let Some(value) = course.header() {
            self.header("server-timing", value);
        }
        match self.way {
            Way::Unopened(sender) if self.accepts.json || delivery.status != 200 => {
                let status = StatusCode::from_u16(delivery.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let mut response = json(status, delivery.body);
                response.headers_mut().extend(self.headers);
                if self.moved {
                    let extensions = response.extensions_mut();
                    extensions.insert(Moved);
                    course.may_be_turned_away().map(|away| extensions.insert(away));
                } else {
                    course.turned_away();
                }
                // A client that left needs no answer.
                let _ = sender.send(response);
            }
            _ => {
                course.turned_away();
                Box::pin(self.deliver(delivery, course.shown())).await;
            }
        }
        course.end();
    }

    /// Answers otherwise than at once with a JSON body.
    async fn deliver(mut self, delivery: Delivery, timing: Option<String>) {
        if let (Way::Open(_), Some(timing)) = (&self.way, timing) {
            // The head of an open stream has gone. A comment is read by who looks for it, and by nobody else.
            let _ = self.write(sse::comment(&format!("server-timing {timing}")).into()).await;
        }
        if let (Way::Stream(writer), Some(session)) = (&self.way, self.session()) {
            session.call_answered(writer.stream()).await;
        }
        match self.way {
            Way::Part(parts) => {
                let _ = parts.send(Part::Body(delivery.body)).await;
            }
            Way::Stream(writer) => {
                // Its session is over, or its client asked for too much and came back for nothing.
                let _ = writer.finish(delivery.body.into(), self.write_timeout).await;
            }
            Way::Channel(writer) => {
                let _ = writer.send(delivery.body.into(), self.write_timeout).await;
            }
            Way::Open(_) => {
                let _ = self.event(&delivery.body).await;
            }
            Way::Unopened(_) => {
                if self.open(Hello::Nothing).await.is_ok() {
                    Box::pin(self.deliver(delivery, None)).await;
                }
            }
            Way::Closed => {}
        }
    }

    /// Ends without an answer: the client took its request back.
    pub(crate) fn close(mut self) {
        let mut course = std::mem::take(&mut self.course);
        course.outcome(Outcome::Cancelled);
        course.is_answered_by_nobody();
        course.end();
        match std::mem::replace(&mut self.way, Way::Closed) {
            Way::Unopened(sender) => {
                let (events, response) = stream();
                drop(events);
                let _ = sender.send(response);
            }
            Way::Stream(writer) => {
                let (session, stream) = (self.session().cloned(), writer.stream());
                writer.close();
                if let Some(session) = session {
                    stdx::task::spawn("forget a call", async move { session.call_over(stream).await });
                }
            }
            Way::Open(_) | Way::Channel(_) | Way::Part(_) | Way::Closed => {}
        }
    }

    /// Resolves when the client is gone. Cancel-safe; never resolves twice.
    pub(crate) async fn left(&mut self) {
        match &mut self.way {
            Way::Unopened(sender) => sender.closed().await,
            Way::Open(events) => events.closed().await,
            Way::Part(parts) => parts.closed().await,
            // Whoever leaves such a stream may come back to it.
            Way::Stream(_) | Way::Channel(_) | Way::Closed => std::future::pending().await,
        }
    }

    /// Nobody is there any more; what is sent from now on goes nowhere.
    pub(crate) fn abandon(&mut self) {
        self.way = Way::Closed;
    }

    /// To a stream that lives as long as its connection, and no longer than the token that opened it (E244).
    async fn write(&mut self, bytes: Bytes) -> Result<(), Left> {
        let Way::Open(events) = &self.way else { return Ok(()) };
        let now = monotonic();
        if self.doubt.is_none_or(|at| at <= now) {
            self.doubt = Some(now + RECHECK);
            if self.asker.as_ref().is_some_and(|asker| !stands(&asker.host, asker.token.as_ref())) {
                return Err(Left);
            }
        }
        events.send_timeout(bytes, self.write_timeout).await.map_err(|_| Left)
    }

    /// Opens the stream if it is not open yet. Boxed: most calls have none, and it must not make their tasks larger.
    async fn open(&mut self, hello: Hello) -> Result<(), Left> {
        if !matches!(self.way, Way::Unopened(_)) {
            return Ok(());
        }
        Box::pin(self.open_stream(hello)).await
    }

    async fn open_stream(&mut self, hello: Hello) -> Result<(), Left> {
        let session = self.asker.as_ref().and_then(|asker| asker.session.as_ref().map(|session| (asker, session)));
        let (way, mut response) = match session {
            None => {
                let (events, response) = stream();
                (Way::Open(events), response)
            }
            Some((asker, session)) => {
                let (writer, reader) = session.open_request_stream();
                if let Some(call) = &self.call {
                    session.keep_call(writer.stream(), call).await;
                }
                let (host, token) = (asker.host.clone(), asker.token.clone());
                (Way::Stream(writer), feed::session(host, token, session.clone(), reader, hello, None))
            }
        };
        response.headers_mut().extend(std::mem::take(&mut self.headers));
        match std::mem::replace(&mut self.way, way) {
            Way::Unopened(sender) => sender.send(response).map_err(|_| Left),
            _ => Ok(()),
        }
    }
}
