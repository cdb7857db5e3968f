//! HTTP/1.1 over loopback TCP, plain enough to send wrong things. Every wait ends after 30 seconds.

use crate::sse::{Event, Parser};
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;

/// The longest that anything here waits.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long after the end of a connection an answer may take that had come.
const ENDED: Duration = Duration::from_secs(2);
/// The largest body that is read whole, in bytes.
const MAX_BODY: usize = 256 << 20;
/// The most idle connections that are kept.
const MAX_IDLE: usize = 256;
/// Connections that are tried for one request, the last of them a new one.
const TRIES: u32 = 4;

/// A request that got no whole answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The base URL is not `http://host:port`.
    #[error("the base URL {0} is not http://host:port")]
    Url(String),
    /// A method, path or header that HTTP does not allow.
    #[error("the request cannot be built: {0}")]
    Request(#[from] http::Error),
    /// No connection.
    #[error("cannot connect to {0}: {1}")]
    Connect(String, std::io::Error),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    /// The connection ended, and nothing came of a request that it had been given in that moment.
    #[error("the connection ended with a request that was never answered nor refused")]
    Lost,
    /// Nothing happened for 30 seconds.
    #[error("no {0} within {sec} seconds", sec = PATIENCE.as_secs())]
    Slow(&'static str),
    /// The body exceeds what this client reads.
    #[error("the body is longer than {MAX_BODY} bytes")]
    TooLong,
    /// The answer is not what was expected of it.
    #[error("status {status}, and the body is not {expected}: {body}")]
    Unexpected {
        /// The HTTP status.
        status: u16,
        /// What was expected.
        expected: &'static str,
        /// The body, or its first 500 characters.
        body: String,
    },
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Response {
    /// A header as text, if it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<Value, HttpError> {
        serde_json::from_slice(&self.body).map_err(|_| self.unexpected("JSON"))
    }

    /// The events of a body that is a finished event stream, and how many comments stood between them.
    pub fn events(&self) -> Result<(Vec<Event>, usize), HttpError> {
        let (mut parser, mut events) = (Parser::default(), VecDeque::new());
        parser.feed(&self.body, &mut events).map_err(|_| HttpError::TooLong)?;
        Ok((events.into(), parser.comments))
    }

    /// The error that says what this answer is instead of `expected`.
    pub(crate) fn unexpected(&self, expected: &'static str) -> HttpError {
        let body = String::from_utf8_lossy(&self.body).chars().take(500).collect();
        HttpError::Unexpected { status: self.status, expected, body }
    }
}

/// An answer whose body is read event by event. Dropping it closes the connection.
#[derive(Debug)]
pub struct Stream {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    body: Incoming,
    parser: Parser,
    events: VecDeque<Event>,
    // Keeps the connection open while the body is read.
    _sender: SendRequest<Full<Bytes>>,
}

impl Stream {
    /// True when the body is an event stream.
    pub fn is_event_stream(&self) -> bool {
        let content_type = self.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        content_type.is_some_and(|value| value.starts_with("text/event-stream"))
    }

    /// The next event, or none when the stream has ended. An error after 30 seconds without one.
    pub async fn next(&mut self) -> Result<Option<Event>, HttpError> {
        within("event", self.advance()).await?
    }

    /// The next event that has data, as JSON; none when the stream has ended.
    pub async fn next_message(&mut self) -> Result<Option<Value>, HttpError> {
        while let Some(event) = self.next().await? {
            if !event.data.is_empty() {
                let (status, body) = (self.status, event.data.chars().take(500).collect());
                let message = serde_json::from_str(&event.data);
                return message.map(Some).map_err(|_| HttpError::Unexpected { status, expected: "JSON", body });
            }
        }
        Ok(None)
    }

    /// Comment lines that have arrived so far. Keep-alives are read only while `next` waits.
    pub fn comments(&self) -> usize {
        self.parser.comments
    }

    /// Reads the rest as a plain body, for an answer that turned out to be no event stream.
    pub async fn whole(self) -> Result<Response, HttpError> {
        let body = within("whole body", read_body(self.body)).await??;
        Ok(Response { status: self.status, headers: self.headers, body })
    }

    async fn advance(&mut self) -> Result<Option<Event>, HttpError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            if let Ok(bytes) = frame?.into_data() {
                self.parser.feed(&bytes, &mut self.events).map_err(|_| HttpError::TooLong)?;
            }
        }
    }
}

/// Connections to one address. Idle ones are used again.
#[derive(Debug)]
pub(crate) struct Connections {
    authority: String,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Connections {
    /// `base_url` must be `http://host:port`, with or without a final slash.
    pub(crate) fn new(base_url: &str) -> Result<Self, HttpError> {
        let authority = base_url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        let authority = authority.filter(|rest| rest.contains(':') && !rest.contains('/'));
        let authority = authority.ok_or_else(|| HttpError::Url(base_url.to_owned()))?.to_owned();
        Ok(Self { authority, idle: Mutex::default() })
    }

    /// Sends a request and reads the whole answer. One that found its kept connection closed, so that nothing of it was sent,
    /// goes down another, as with every client that keeps connections.
    pub(crate) async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response, HttpError> {
        let mut tries = 0;
        let (sender, answer) = loop {
            tries += 1;
            let mut sender = self.connection(tries < TRIES).await?;
            let answering = sender.try_send_request(request);
            match within("response", answered(&sender, answering)).await?? {
                Ok(answer) => break (sender, answer),
                Err(mut refused) => match refused.take_message() {
                    Some(unsent) if tries < TRIES => request = unsent,
                    _ => return Err(refused.into_error().into()),
                },
            }
        };
        let (head, body) = answer.into_parts();
        let body = within("whole body", read_body(body)).await??;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(sender);
        }
        Ok(Response { status: head.status.as_u16(), headers: head.headers, body })
    }

    /// Sends a request on a connection of its own and returns as soon as the headers are there.
    pub(crate) async fn open(&self, request: Request<Full<Bytes>>) -> Result<Stream, HttpError> {
        let mut sender = self.connection(false).await?;
        let answer = within("response", sender.send_request(request)).await??;
        let (head, body) = answer.into_parts();
        let (parser, events) = Default::default();
        Ok(Stream { status: head.status.as_u16(), headers: head.headers, body, parser, events, _sender: sender })
    }

    /// A request to this address. A `host` header given by the caller replaces the right one.
    pub(crate) fn request(
        &self,
        method: &Method,
        path: &str,
        headers: &[(String, String)],
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, HttpError> {
        let mut builder = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            builder = builder.header("host", &self.authority);
        }
        for (name, value) in headers {
            builder = builder.header(name, value);
        }
        Ok(builder.body(Full::new(body))?)
    }

    async fn connection(&self, reuse: bool) -> Result<SendRequest<Full<Bytes>>, HttpError> {
        while let Some(mut sender) = reuse.then(|| self.pop_idle()).flatten() {
            if within("connection", sender.ready()).await?.is_ok() {
                return Ok(sender);
            }
        }
        let cannot = |error| HttpError::Connect(self.authority.clone(), error);
        let stream = within("connection", TcpStream::connect(&self.authority)).await?.map_err(cannot)?;
        stream.set_nodelay(true).map_err(cannot)?;
        let (sender, connection) = within("connection", handshake(TokioIo::new(stream))).await??;
        // The task ends with the connection, which ends when its sender and body are dropped.
        drop(stdx::task::spawn("test client connection", connection));
        Ok(sender)
    }

    fn pop_idle(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|sender| !sender.is_closed());
        idle.pop()
    }
}

/// The connection's task can end between two steps of handing it a request, which is then never dropped: whoever waits for the
/// answer hears nothing. A server that keeps a connection open and says nothing is waited for.
async fn answered<T>(sender: &SendRequest<Full<Bytes>>, answering: impl Future<Output = T>) -> Result<T, HttpError> {
    let mut answering = std::pin::pin!(answering);
    loop {
        let ended = sender.is_closed();
        match tokio::time::timeout(ENDED, &mut answering).await {
            Ok(answer) => return Ok(answer),
            Err(_elapsed) if ended => return Err(HttpError::Lost),
            Err(_elapsed) => {}
        }
    }
}

async fn read_body(mut body: Incoming) -> Result<Bytes, HttpError> {
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame?.into_data() else { continue };
        if whole.len() + bytes.len() > MAX_BODY {
            return Err(HttpError::TooLong);
        }
        whole.extend_from_slice(&bytes);
    }
    Ok(whole.into())
}

async fn within<T>(what: &'static str, future: impl Future<Output = T>) -> Result<T, HttpError> {
    tokio::time::timeout(PATIENCE, future).await.map_err(|_| HttpError::Slow(what))
}

#[cfg(test)]
mod tests {
    use crate::{Client, HttpError};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    /// Reads one request and returns its text. The requests of these tests have short bodies that end with `}`.
    async fn request(stream: &mut TcpStream) -> String {
        let mut text = Vec::new();
        let ends = |text: &[u8]| text.ends_with(b"}") || text.starts_with(b"GET") && text.ends_with(b"\r\n\r\n");
        while !ends(&text) {
            text.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    async fn listener() -> (TcpListener, Client) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        (listener, Client::new(&url, Some("secret".into())).unwrap())
    }

    #[tokio::test]
    async fn one_connection_serves_many_posts_and_carries_the_token() {
        let (listener, client) = listener().await;
        let server = stdx::task::spawn("server", async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            for _ in 0..2 {
                seen.push(request(&mut stream).await);
                let answer = "HTTP/1.1 404 Not Found\r\nX-Y: z\r\nContent-Length: 7\r\n\r\n{\"a\":1}";
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            seen
        });
        for _ in 0..2 {
            let response = client.post("/mcp/x", &[("a", "b")], "{}").await.unwrap();
            assert_eq!((response.status, response.header("x-y")), (404, Some("z")));
            assert_eq!(response.json().unwrap()["a"], 1);
        }
        for text in server.await.unwrap().unwrap() {
            assert!(text.starts_with("POST /mcp/x HTTP/1.1\r\n"), "{text}");
            assert!(text.contains("authorization: Bearer secret\r\n"), "{text}");
        }
    }

    #[tokio::test]
    async fn events_arrive_while_the_stream_is_open() {
        let (listener, client) = listener().await;
        let server = stdx::task::spawn("server", async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            request(&mut stream).await;
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
            stream.write_all(format!("{head}: hi\n\ndata: {{\"n\":1}}\n\n").as_bytes()).await.unwrap();
            let closed = stream.read(&mut [0]).await;
            assert_eq!(closed.unwrap(), 0, "dropping the stream closes the connection");
        });
        let mut stream = client.get_stream("/mcp/x", &[]).await.unwrap();
        assert!(stream.is_event_stream());
        assert_eq!(stream.next_message().await.unwrap().unwrap()["n"], 1);
        assert_eq!(stream.comments(), 1);
        drop(stream);
        assert_eq!(server.await.unwrap(), Some(()));
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_an_error() {
        let (listener, client) = listener().await;
        let server = stdx::task::spawn("server", async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await.unwrap();
        });
        let error = client.post("/", &[], "{}").await.unwrap_err();
        assert!(matches!(error, HttpError::Broken(_)), "{error}");
        server.await.unwrap().unwrap();
        let error = client.post("/", &[], "{}").await.unwrap_err();
        assert!(matches!(error, HttpError::Connect(..)), "the listener is gone: {error}");
    }
}
