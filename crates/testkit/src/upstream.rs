//! Remote MCP servers for tests: the program `everything` behind HTTP, as a stranger would put it there, with every
//! oddity that strangers' servers have. It stands in this process, so that a test can look at what it was sent.

use crate::bin;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;

/// How the server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Streamable HTTP with sessions.
    Sessions,
    /// Streamable HTTP of 2026-07-28.
    Modern,
    /// HTTP+SSE of 2024-11-05.
    Sse,
}

/// What the server does wrong, or only unlike others. May change while it runs.
#[derive(Clone, Debug, Default)]
pub struct Odd {
    /// Every request is answered with this status and nothing else.
    pub status: Option<u16>,
    /// The next request with this JSON-RPC method is.
    pub status_once: Option<(String, u16)>,
    /// Redirects every request of the plain path there, with this status.
    pub redirect: Option<(u16, String)>,
    /// Answers in JSON, where it does not have to stream.
    pub json: bool,
    /// GET is answered 405.
    pub no_get: bool,
    /// Streams break after so many events, until they were resumed.
    pub break_after: Option<usize>,
    /// Answers every request but the handshake with this body: content type and bytes, again and again without end.
    pub endless: Option<(&'static str, &'static str)>,
    /// Answers every request but the handshake with this body, once.
    pub body: Option<(&'static str, String)>,
    /// Only requests with this header are served; others get 401.
    pub wants: Option<(&'static str, String)>,
    /// The `endpoint` event names this address.
    pub endpoint: Option<String>,
    /// Replaces the schema of `test_header_param` when its list of tools is asked for.
    pub bad_tool: bool,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `POST`, `GET` or `DELETE`.
    pub verb: Method,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, null where there is none.
    pub body: Value,
}

impl Seen {
    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A running remote server. Its programs end with it.
#[derive(Debug)]
pub struct Upstream {
    /// Where it is.
    pub url: String,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<Option<()>>,
}

#[derive(Debug)]
struct Shared {
    kind: Kind,
    odd: Mutex<Odd>,
    seen: Mutex<Vec<Seen>>,
    peers: Mutex<HashMap<String, Arc<Peer>>>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
        lock(&self.shared.peers).clear();
    }
}

impl Upstream {
    /// Starts one on a free port.
    pub async fn start(kind: Kind, odd: Odd) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/mcp", listener.local_addr()?);
        let shared = Arc::new(Shared { kind, odd: Mutex::new(odd), seen: Mutex::default(), peers: Mutex::default() });
        let serving = shared.clone();
        let accepting = stdx::task::spawn("upstream", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = serving.clone();
                let service = service_fn(move |request| serve(shared.clone(), request));
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                stdx::task::spawn("upstream connection", async move {
                    let _ = connection.await;
                });
            }
        });
        Ok(Self { url, shared, accepting })
    }

    /// Changes what it does wrong.
    pub fn set(&self, change: impl FnOnce(&mut Odd)) {
        change(&mut lock(&self.shared.odd));
    }

    /// Everything that it was asked.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// The requests with this JSON-RPC method.
    pub fn calls(&self, method: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.body["method"] == method).collect()
    }

    /// How many sessions are open.
    pub fn sessions(&self) -> usize {
        lock(&self.shared.peers).len()
    }

    /// Forgets every session, as a restart would.
    pub fn forget(&self) {
        lock(&self.shared.peers).clear();
    }
}

/// One program, and where what it says goes.
#[derive(Debug)]
struct Peer {
    stdin: tokio::sync::Mutex<ChildStdin>,
    streams: Mutex<Streams>,
    _child: Child,
}

#[derive(Debug, Default)]
struct Streams {
    /// By the id of the request that each answers; `""` is what belongs to none.
    logs: HashMap<String, Arc<Log>>,
    latest: String,
}

/// The events of one stream: kept, so that it can be resumed.
#[derive(Debug)]
struct Log {
    events: Mutex<(Vec<String>, bool)>,
    grown: tokio::sync::watch::Sender<usize>,
}

impl Log {
    fn new() -> Arc<Self> {
        Arc::new(Self { events: Mutex::default(), grown: tokio::sync::watch::Sender::new(0) })
    }

    fn push(&self, event: String, last: bool) {
        let mut events = lock(&self.events);
        events.0.push(event);
        events.1 |= last;
        drop(events);
        self.grown.send_modify(|n| *n += 1);
    }

    /// The event at `index`, once it is there; `None` after the last.
    async fn at(&self, index: usize) -> Option<String> {
        let mut grown = self.grown.subscribe();
        loop {
            {
                let events = lock(&self.events);
                match events.0.get(index) {
                    Some(event) => return Some(event.clone()),
                    None if events.1 => return None,
                    None => {}
                }
            }
            grown.changed().await.ok()?;
        }
    }
}

impl Peer {
    fn start(kind: Kind) -> io::Result<Arc<Self>> {
        let era = if kind == Kind::Modern { "--modern" } else { "--legacy" };
        let mut command = Command::new(bin("everything"));
        command.arg(era).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("no pipes"));
        };
        let mut streams = Streams::default();
        streams.logs.insert(String::new(), Log::new());
        let peer =
            Arc::new(Self { stdin: tokio::sync::Mutex::new(stdin), streams: Mutex::new(streams), _child: child });
        let reading = Arc::downgrade(&peer);
        stdx::task::spawn("upstream program", async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Some(peer) = reading.upgrade() else { return };
                peer.route(line);
            }
        });
        Ok(peer)
    }

    /// An answer goes to its request, progress to the call that it names, the rest to the latest call or to nobody's.
    fn route(&self, line: String) {
        let message: Value = serde_json::from_str(&line).unwrap_or_default();
        let answer = message.get("method").is_none();
        let subscription = &message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"];
        let named = [&message["id"], &message["params"]["progressToken"], subscription];
        let named = named.into_iter().enumerate().find(|(at, id)| !id.is_null() && (*at > 0 || answer));
        let mut streams = lock(&self.streams);
        let key = named.map_or_else(|| streams.latest.clone(), |(_, id)| id.to_string());
        let own = !key.is_empty() && streams.logs.contains_key(&key);
        let log = streams.logs.get(&key).or_else(|| streams.logs.get("")).cloned();
        if answer {
            // It stays for a client that comes back for it; a new call has a new id.
            if streams.latest == key {
                streams.latest.clear();
            }
        }
        drop(streams);
        if let Some(log) = log {
            log.push(line, answer && own);
        }
    }

    async fn write(&self, body: &Value) {
        let line = format!("{body}\n");
        let _ = self.stdin.lock().await.write_all(line.as_bytes()).await;
    }

    fn open(&self, id: &str) -> Arc<Log> {
        let mut streams = lock(&self.streams);
        id.clone_into(&mut streams.latest);
        streams.logs.entry(id.to_owned()).or_insert_with(Log::new).clone()
    }

    fn log(&self, id: &str) -> Option<Arc<Log>> {
        lock(&self.streams).logs.get(id).cloned()
    }
}

type Answer = Response<Pieces>;

/// A body that is written piece by piece; dropping it tells its writer that nobody reads.
struct Pieces(mpsc::Receiver<Result<Bytes, io::Error>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

fn whole(status: u16, content_type: &str, body: impl Into<Bytes>) -> Answer {
    let (sender, receiver) = mpsc::channel(1);
    let _ = sender.try_send(Ok(body.into()));
    answer(status, content_type, receiver)
}

fn answer(status: u16, content_type: &str, body: mpsc::Receiver<Result<Bytes, io::Error>>) -> Answer {
    let mut response = Response::new(Pieces(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(value) = content_type.parse() {
        response.headers_mut().insert("content-type", value);
    }
    response
}

async fn serve(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let (head, body) = request.into_parts();
    let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    lock(&shared.seen).push(Seen { verb: head.method.clone(), headers: head.headers.clone(), body: body.clone() });
    if let Some(refused) = refuse(&shared, &head, &body) {
        return Ok(refused);
    }
    let query = head.uri.query().unwrap_or_default().to_owned();
    Ok(match (shared.kind, head.method) {
        (Kind::Modern, Method::POST) => modern(&shared, &head.headers, body).await,
        (Kind::Sessions, Method::POST) => in_session(&shared, &head.headers, body).await,
        (Kind::Sessions, Method::GET) => resume(&shared, &head.headers),
        (Kind::Sessions, Method::DELETE) => {
            lock(&shared.peers).remove(session(&head.headers));
            whole(200, "text/plain", "")
        }
        (Kind::Sse, Method::GET) => old_stream(&shared),
        (Kind::Sse, Method::POST) if query.starts_with("session=") => old_post(&shared, &query, &body).await,
        _ => whole(405, "text/plain", "no"),
    })
}

/// The oddities that need no server behind them.
fn refuse(shared: &Shared, head: &http::request::Parts, body: &Value) -> Option<Answer> {
    let mut odd = lock(&shared.odd);
    if let Some((name, value)) = &odd.wants
        && head.headers.get(*name).and_then(|given| given.to_str().ok()) != Some(value)
    {
        return Some(whole(401, "text/plain", "who are you?"));
    }
    if let Some((status, to)) = odd.redirect.clone()
        && head.uri.path() == "/mcp"
    {
        let mut redirected = whole(status, "text/plain", "");
        redirected.headers_mut().insert("location", to.parse().ok()?);
        return Some(redirected);
    }
    if let Some(status) = odd.status {
        return Some(whole(status, "text/html", "<h1>no</h1>"));
    }
    let method = body["method"].as_str().unwrap_or_default();
    if let Some((_, status)) = odd.status_once.take_if(|(wanted, _)| wanted == method) {
        return Some(whole(status, "text/html", "<h1>not now</h1>"));
    }
    let handshake =
        matches!(method, "initialize" | "server/discover" | "notifications/initialized" | "tools/list" | "");
    if handshake {
        return None;
    }
    if let Some((content_type, piece)) = odd.endless {
        return Some(endless(content_type, piece));
    }
    odd.body.clone().map(|(content_type, text)| whole(200, content_type, text.replace("$ID", &body["id"].to_string())))
}

fn endless(content_type: &str, piece: &'static str) -> Answer {
    let (sender, receiver) = mpsc::channel(4);
    stdx::task::spawn("endless", async move {
        while sender.send(Ok(Bytes::from_static(piece.as_bytes()))).await.is_ok() {}
    });
    answer(200, content_type, receiver)
}

fn session(headers: &HeaderMap) -> &str {
    headers.get("mcp-session-id").and_then(|id| id.to_str().ok()).unwrap_or_default()
}

async fn in_session(shared: &Arc<Shared>, headers: &HeaderMap, body: Value) -> Answer {
    let opening = body["method"] == "initialize";
    let id = if opening { stdx::random::handle().unwrap_or_default() } else { session(headers).to_owned() };
    if opening {
        let Ok(peer) = Peer::start(shared.kind) else { return whole(500, "text/plain", "no program") };
        lock(&shared.peers).insert(id.clone(), peer);
    } else if body["method"] == "server/discover" && id.is_empty() {
        let error = json!({"code": -32000, "message": "Bad Request: no valid session"});
        return whole(400, "application/json", json!({"jsonrpc": "2.0", "id": null, "error": error}).to_string());
    }
    let Some(peer) = lock(&shared.peers).get(&id).cloned() else { return whole(404, "text/plain", "no session") };
    if body.get("method").is_none() || body.get("id").is_none() {
        peer.write(&body).await;
        return whole(202, "", "");
    }
    let key = body["id"].to_string();
    let log = peer.open(&key);
    peer.write(&body).await;
    let odd = lock(&shared.odd).clone();
    let mut response = if odd.json {
        whole(200, "application/json", log.at(0).await.unwrap_or_default())
    } else {
        let break_after = if opening { None } else { odd.break_after };
        stream(key, log, 0, break_after)
    };
    if let (true, Ok(value)) = (opening, id.parse()) {
        response.headers_mut().insert("mcp-session-id", value);
    }
    response
}

/// A GET stream: what belongs to no call, or the rest of a stream that broke.
fn resume(shared: &Shared, headers: &HeaderMap) -> Answer {
    let Some(peer) = lock(&shared.peers).get(session(headers)).cloned() else {
        return whole(404, "text/plain", "no session");
    };
    if lock(&shared.odd).no_get {
        return whole(405, "text/plain", "no");
    }
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| id.rsplit_once('.'));
    let (key, from) = last.map_or(("", 0), |(key, index)| (key, index.parse::<usize>().map_or(0, |index| index + 1)));
    match peer.log(key) {
        Some(log) => stream(key.to_owned(), log, from, None),
        None => whole(404, "text/plain", "no such stream"),
    }
}

/// Events from `from` on, each with an id to resume at; broken off after `break_after`.
fn stream(key: String, log: Arc<Log>, from: usize, break_after: Option<usize>) -> Answer {
    let (sender, receiver) = mpsc::channel(4);
    stdx::task::spawn("stream", async move {
        let prime = format!("id: {key}.prime\nretry: 20\ndata: \n\n");
        if from == 0 && break_after.is_some() && sender.send(Ok(Bytes::from(prime))).await.is_err() {
            return;
        }
        let mut index = from;
        while break_after.is_none_or(|after| index < after) {
            let event = tokio::select! {
                event = log.at(index) => event,
                () = sender.closed() => return,
            };
            let Some(event) = event else { return };
            let text = format!(": note\r\nid: {key}.{index}\r\nevent: message\r\ndata: {event}\r\n\r\n");
            if sender.send(Ok(Bytes::from(text))).await.is_err() {
                return;
            }
            index += 1;
        }
        // What was said before gets out first. Then without the end that an orderly stream has.
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        let _ = sender.send(Err(io::Error::other("broken"))).await;
    });
    answer(200, "text/event-stream", receiver)
}

async fn modern(shared: &Arc<Shared>, headers: &HeaderMap, body: Value) -> Answer {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let error = |status: u16, code: i64, message: &str| {
        let error = json!({"code": code, "message": message});
        whole(status, "application/json", json!({"jsonrpc": "2.0", "id": body["id"], "error": error}).to_string())
    };
    let version = &body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"];
    if text("mcp-method") != body["method"] || *version != json!(text("mcp-protocol-version")) {
        return error(400, -32020, "Header mismatch");
    }
    let wanted = &body["params"]["arguments"]["region"];
    let bad_region = !wanted.is_null() && text("mcp-param-region").is_empty();
    if body["params"]["name"] == "test_header_param" && bad_region {
        return error(400, -32020, "Mcp-Param-Region is missing");
    }
    let Some(peer) = one_peer(shared) else { return whole(500, "text/plain", "no program") };
    let key = body["id"].to_string();
    let log = peer.open(&key);
    peer.write(&body).await;
    let odd = lock(&shared.odd).clone();
    let long = body["method"] == "subscriptions/listen";
    let Some(first) = log.at(0).await else { return whole(500, "text/plain", "no answer") };
    let message: Value = serde_json::from_str(&first).unwrap_or_default();
    if message.get("method").is_none() && !long {
        let status = match message["error"]["code"].as_i64() {
            Some(-32022..=-32020) => 400,
            Some(-32601) => 404,
            _ => 200,
        };
        let shown = if odd.bad_tool && body["method"] == "tools/list" { spoiled(message) } else { message };
        if odd.json || status != 200 {
            return whole(status, "application/json", shown.to_string());
        }
        return whole(200, "text/event-stream", format!("data: {shown}\n\n"));
    }
    let (sender, receiver) = mpsc::channel(4);
    stdx::task::spawn("stream", async move {
        let mut index = 0;
        loop {
            let event = tokio::select! {
                event = log.at(index) => event,
                () = sender.closed() => None,
            };
            let sent = match event {
                Some(event) => sender.send(Ok(Bytes::from(format!("data: {event}\n\n")))).await.is_ok(),
                None => false,
            };
            index += 1;
            if !sent {
                if sender.is_closed() {
                    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": body["id"]}});
                    peer.write(&cancel).await;
                }
                return;
            }
        }
    });
    answer(200, "text/event-stream", receiver)
}

fn one_peer(shared: &Shared) -> Option<Arc<Peer>> {
    let mut peers = lock(&shared.peers);
    if let Some(peer) = peers.get("") {
        return Some(peer.clone());
    }
    let peer = Peer::start(shared.kind).ok()?;
    peers.insert(String::new(), peer.clone());
    Some(peer)
}

/// The list with an annotation that no client may accept.
fn spoiled(mut message: Value) -> Value {
    for tool in message["result"]["tools"].as_array_mut().into_iter().flatten() {
        if tool["name"] == "test_header_param" {
            tool["inputSchema"]["properties"]["region"]["type"] = json!("array");
        }
    }
    message
}

fn old_stream(shared: &Arc<Shared>) -> Answer {
    let Ok(peer) = Peer::start(shared.kind) else { return whole(500, "text/plain", "no program") };
    let id = stdx::random::handle().unwrap_or_default();
    let Some(log) = peer.log("") else { return whole(500, "text/plain", "no log") };
    lock(&shared.peers).insert(id.clone(), peer);
    let endpoint = lock(&shared.odd).endpoint.clone().unwrap_or_else(|| format!("/messages?session={id}"));
    let (sender, receiver) = mpsc::channel(4);
    let shared = shared.clone();
    stdx::task::spawn("old stream", async move {
        let _ = sender.send(Ok(Bytes::from(format!("event: endpoint\ndata: {endpoint}\n\n")))).await;
        let mut index = 0;
        loop {
            let event = tokio::select! {
                event = log.at(index) => event,
                () = sender.closed() => None,
            };
            let Some(event) = event else { break };
            if sender.send(Ok(Bytes::from(format!("event: message\ndata: {event}\n\n")))).await.is_err() {
                break;
            }
            index += 1;
        }
        lock(&shared.peers).remove(&id);
    });
    answer(200, "text/event-stream", receiver)
}

async fn old_post(shared: &Shared, query: &str, body: &Value) -> Answer {
    let id = query.strip_prefix("session=").unwrap_or_default();
    let Some(peer) = lock(&shared.peers).get(id).cloned() else { return whole(404, "text/plain", "no session") };
    peer.write(body).await;
    whole(202, "text/plain", "Accepted")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
