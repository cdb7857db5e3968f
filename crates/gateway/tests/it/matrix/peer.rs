//! One end of a conversation, in whichever words its era has: a session, a stateless client, or a server's own pipe. What
//! is seen through it is told in words that belong to no era.
#![expect(clippy::panic, reason = "a test fails by panicking")]

use super::channel::Channel;
use super::direct::Pipe;
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use testkit::matrix::{Client as Revision, Era};
use testkit::{Client, HttpError, MODERN, Session, Stream};
use tokio::task::JoinHandle;

/// How long a change may take to be heard, where one is expected.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing more may come after the last change.
const QUIET: Duration = Duration::from_millis(40);
/// Rounds of questions in one request.
const MOST_ROUNDS: usize = 10;
/// Members of a modern result that its era demands.
const ERA_MEMBERS: [&str; 3] = ["resultType", "ttlMs", "cacheScope"];
const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
const ACCEPT: &str = "application/json, text/event-stream";
const LEVEL: &str = "io.modelcontextprotocol/logLevel";

/// Changes that came without being part of an answer.
pub(super) type Heard = Arc<Mutex<Vec<Value>>>;

/// A conversation.
pub(super) struct Peer<'a> {
    pub(super) link: Link<'a>,
    revision: Revision,
    heard: Heard,
    listening: Option<JoinHandle<Option<()>>>,
    level: Option<&'static str>,
    next_id: u64,
    /// How long a change may take to be heard.
    patience: Duration,
    /// The status of the last HTTP answer; 200 on a pipe.
    pub(super) status: u16,
}

/// Where the words go.
pub(super) enum Link<'a> {
    /// Straight to a process of the server.
    Pipe(Box<Pipe>),
    Session(Session<'a>),
    Channel(Box<Channel<'a>>),
    Stateless {
        client: &'a Client,
        server: &'a str,
    },
}

/// What arrives for one request.
enum Incoming {
    /// What comes for everything.
    Shared,
    Events(Box<Stream>),
    Whole(Option<Value>),
}

impl<'a> Peer<'a> {
    pub(super) fn new(link: Link<'a>, revision: Revision) -> Self {
        let heard = Heard::default();
        Self { link, revision, heard, listening: None, level: None, next_id: 100, patience: PATIENCE, status: 200 }
    }

    /// Whether changes are expected to be heard; one that is not has less time to come.
    pub(super) fn expect_changes(&mut self, expected: bool) {
        self.patience = if expected { PATIENCE } else { QUIET * 10 };
    }

    /// The era of the words that are used here.
    fn era(&self) -> Era {
        match &self.link {
            Link::Pipe(pipe) => pipe.era(),
            Link::Session(_) | Link::Channel(_) => Era::Legacy,
            Link::Stateless { .. } => Era::Modern,
        }
    }

    /// What the server says about itself.
    pub(super) async fn opened(&mut self) -> Value {
        let (said, info) = match (&self.link, self.era()) {
            (Link::Session(session), _) => (session.initialized.clone(), session.initialized["serverInfo"].clone()),
            (Link::Channel(channel), _) => (channel.initialized.clone(), channel.initialized["serverInfo"].clone()),
            (Link::Pipe(pipe), Era::Legacy) => (pipe.initialized.clone(), pipe.initialized["serverInfo"].clone()),
            (_, Era::Modern) => {
                let (message, _) = self.exchange("server/discover", json!({})).await;
                let result = message["result"].clone();
                let info = result["_meta"][SERVER_INFO].clone();
                (result, info)
            }
            (Link::Stateless { .. }, Era::Legacy) => unreachable!("a stateless client is modern"),
        };
        json!({"capabilities": said["capabilities"], "instructions": said["instructions"], "server": info})
    }

    /// One request and everything that belongs to it: questions (which are answered), notes, and the answer.
    pub(super) async fn ask(&mut self, method: &str, params: Value) -> Vec<Value> {
        let (answer, mut seen) = self.exchange(method, params).await;
        seen.push(self.neutral(method, &answer));
        seen
    }

    async fn exchange(&mut self, method: &str, mut params: Value) -> (Value, Vec<Value>) {
        let mut seen = Vec::new();
        for _ in 0..MOST_ROUNDS {
            let (id, mut incoming) = self.send(method, params.clone()).await;
            let answer = self.answer(&id, &mut incoming, &mut seen).await;
            let Some(requests) = answer["result"]["inputRequests"].as_object() else {
                return (answer, seen);
            };
            assert_eq!(self.era(), Era::Modern, "only modern clients know input_required: {answer}");
            params["inputResponses"] = Value::Object(answered(requests, &mut seen));
            match answer["result"].get("requestState") {
                Some(state) => params["requestState"] = state.clone(),
                None => drop(params.as_object_mut().unwrap().remove("requestState")),
            }
        }
        panic!("{method} never ends: {seen:?}");
    }

    /// Reads until the answer to `id`, answering questions and noting notes on the way. A modern client that is sent a
    /// request fails (E35).
    async fn answer(&mut self, id: &Value, incoming: &mut Incoming, seen: &mut Vec<Value>) -> Value {
        loop {
            let message = self.next(incoming).await.unwrap_or_else(|| json!({"error": {"message": "no answer"}}));
            match (message.get("method").and_then(Value::as_str), message.get("id")) {
                (None, _) => {
                    // Errors that could not name a request have no id.
                    assert!(message.get("id").is_none_or(|given| given == id), "{message} is no answer to {id}");
                    return message;
                }
                (Some(method), Some(asked)) => {
                    seen.push(question(method, &message["params"]));
                    let answer = json!({"jsonrpc": "2.0", "id": asked, "result": scripted(method, &message["params"])});
                    self.post(&answer).await;
                }
                (Some(method), None) => self.note(method, &message["params"], seen),
            }
        }
    }

    fn note(&self, method: &str, params: &Value, seen: &mut Vec<Value>) {
        let note = noted(method, params);
        if is_change(method) {
            lock(&self.heard).push(note);
        } else {
            seen.push(note);
        }
    }

    async fn send(&mut self, method: &str, mut params: Value) -> (Value, Incoming) {
        self.next_id += 1;
        let id = json!(self.next_id);
        if let (Some(level), Era::Modern) = (self.level, self.era()) {
            params["_meta"][LEVEL] = json!(level);
        }
        let stream = match &mut self.link {
            Link::Pipe(pipe) => {
                pipe.request(&id, method, params).await;
                return (id, Incoming::Shared);
            }
            Link::Channel(channel) => {
                channel.accepted(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
                return (id, Incoming::Shared);
            }
            Link::Session(session) => session.stream(&id, method, params).await.unwrap(),
            Link::Stateless { client, server } => {
                let (headers, body) = client.modern_request(method, params, &[]);
                let mut body: Value = serde_json::from_str(&body).unwrap();
                body["id"] = id.clone();
                let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
                client.post_stream(&format!("/mcp/{server}"), &headers, body.to_string()).await.unwrap()
            }
        };
        self.status = stream.status;
        (id, incoming(stream).await)
    }

    async fn next(&mut self, incoming: &mut Incoming) -> Option<Value> {
        match (incoming, &mut self.link) {
            (Incoming::Shared, Link::Pipe(pipe)) => Some(pipe.next().await),
            (Incoming::Shared, Link::Channel(channel)) => Some(channel.next().await),
            (Incoming::Events(stream), _) => stream.next_message().await.unwrap(),
            (Incoming::Whole(whole), _) => whole.take(),
            (Incoming::Shared, _) => unreachable!("a request of its own connection is answered there"),
        }
    }

    /// An answer or a notification of the client.
    async fn post(&mut self, message: &Value) {
        match &mut self.link {
            Link::Pipe(pipe) => pipe.write(message).await,
            Link::Channel(channel) => channel.accepted(message).await,
            Link::Session(session) => assert_eq!(session.post(message.to_string()).await.unwrap().status, 202),
            Link::Stateless { .. } => panic!("a modern client posts no {message}"),
        }
    }

    /// One array; every answer to it. One error for the whole array is one answer.
    pub(super) async fn array(&mut self, messages: &Value) -> Vec<Value> {
        let response = match &mut self.link {
            Link::Session(session) => session.post(messages.to_string()).await.unwrap(),
            Link::Channel(channel) => {
                let accepted = channel.post(messages).await;
                if accepted.status == 202 {
                    return vec![channel.next().await, channel.next().await];
                }
                accepted
            }
            Link::Stateless { client, server } => {
                let (headers, _) = client.modern_request("tools/call", json!({"name": "echo"}), &[]);
                let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
                client.post(&format!("/mcp/{server}"), &headers, messages.to_string()).await.unwrap()
            }
            Link::Pipe(_) => panic!("no server of these tests reads arrays"),
        };
        self.status = response.status;
        if response.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")) {
            let (events, _) = response.events().unwrap();
            return events.iter().filter_map(|event| serde_json::from_str(&event.data).ok()).collect();
        }
        match response.json().unwrap() {
            Value::Array(answers) => answers,
            one => vec![one],
        }
    }

    /// A call whose connection breaks in the middle, and what comes of it afterwards.
    pub(super) async fn broken(&mut self, method: &str, params: Value) -> Vec<Value> {
        let (id, mut arriving) = match &self.link {
            Link::Pipe(_) => return self.ask(method, params).await,
            _ => self.send(method, params).await,
        };
        let (mut seen, mut last) = (Vec::new(), String::new());
        if let Incoming::Events(stream) = &mut arriving {
            while seen.is_empty() {
                let event = stream.next().await.unwrap().unwrap();
                last = event.id.unwrap_or(last);
                seen.extend(
                    serde_json::from_str(&event.data)
                        .ok()
                        .map(|said: Value| noted(said["method"].as_str().unwrap(), &said["params"])),
                );
            }
        }
        drop(arriving);
        let rest = match &mut self.link {
            Link::Session(session) => {
                let mut headers = session.headers();
                headers.push(("last-event-id".to_owned(), last));
                session.resume(&headers).await.unwrap()
            }
            Link::Stateless { client, server } => client
                .get_stream(&format!("/mcp/{server}"), &[("accept", ACCEPT), ("last-event-id", "1")])
                .await
                .unwrap(),
            Link::Channel(channel) => return vec![channel.cut().await],
            Link::Pipe(_) => unreachable!("it was asked above"),
        };
        let status = rest.status;
        let mut rest = incoming(rest).await;
        let answer = self.answer(&id, &mut rest, &mut seen).await;
        if status != 200 {
            return vec![json!({"error": {"code": status, "message": answer["error"]["message"]}})];
        }
        seen.push(self.neutral(method, &answer));
        seen
    }

    /// Sets the least important level that is wanted.
    pub(super) async fn level(&mut self, level: &'static str) {
        self.level = Some(level);
        if self.era() == Era::Legacy {
            let set = self.ask("logging/setLevel", json!({"level": level})).await;
            assert_eq!(set, [json!({"result": {}})]);
        }
    }

    /// Sends a request and takes it back after `wait`. Whatever comes afterwards is told.
    pub(super) async fn take_back(&mut self, method: &str, params: Value, wait: Duration) -> Vec<Value> {
        match self.era() {
            Era::Modern if matches!(self.link, Link::Stateless { .. }) => {
                let sent = tokio::time::timeout(wait, self.send(method, params)).await;
                // Dropping what was to come closes the connection.
                assert!(sent.is_err(), "the call was answered before it could be taken back");
                Vec::new()
            }
            _ => self.take_back_by_notice(method, params, wait).await,
        }
    }

    async fn take_back_by_notice(&mut self, method: &str, params: Value, wait: Duration) -> Vec<Value> {
        let id = json!(self.next_id + 1);
        let notice = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id, "reason": "test"}});
        if let Link::Session(session) = &self.link {
            let (answered, ()) = tokio::join!(session.stream(&id, method, params), async {
                tokio::time::sleep(wait).await;
                assert_eq!(session.post(notice.to_string()).await.unwrap().status, 202);
            });
            self.next_id += 1;
            let mut incoming = incoming(answered.unwrap()).await;
            let rest = self.next(&mut incoming).await;
            return rest.into_iter().collect();
        }
        let _sent = self.send(method, params).await;
        tokio::time::sleep(wait).await;
        self.post(&notice).await;
        Vec::new()
    }

    /// Opens what changes come on. `uri` is subscribed to. Nothing, or what the refusal says.
    pub(super) async fn listen(&mut self, uri: &str) -> Vec<Value> {
        match &mut self.link {
            Link::Session(session) => {
                let stream = session.listen().await.unwrap();
                assert_eq!(stream.status, 200);
                self.listening = Some(collect(stream, self.heard.clone(), false).await);
            }
            Link::Stateless { client, server } => {
                let stream = client.modern_stream(server, "subscriptions/listen", wanted(uri)).await.unwrap();
                if !stream.is_event_stream() {
                    let answer = stream.whole().await.unwrap().json().unwrap();
                    return vec![self.neutral("subscriptions/listen", &answer)];
                }
                self.listening = Some(collect(stream, self.heard.clone(), true).await);
            }
            Link::Pipe(pipe) if pipe.era() == Era::Modern => {
                pipe.request(&json!("listen"), "subscriptions/listen", wanted(uri)).await;
            }
            Link::Pipe(_) | Link::Channel(_) => {}
        }
        if self.era() == Era::Legacy {
            let subscribed = self.ask("resources/subscribe", json!({"uri": uri})).await;
            if subscribed != [json!({"result": {}})] {
                return subscribed;
            }
        }
        Vec::new()
    }

    /// The changes that were heard, at least `least` of them, sorted.
    pub(super) async fn heard(&mut self, least: usize) -> Vec<Value> {
        let end = stdx::clock::monotonic() + self.patience;
        while lock(&self.heard).len() < least && stdx::clock::monotonic() < end {
            self.overhear(Duration::from_millis(5)).await;
        }
        self.overhear(QUIET).await;
        let mut heard = std::mem::take(&mut *lock(&self.heard));
        heard.sort_by_key(Value::to_string);
        heard
    }

    async fn overhear(&mut self, wait: Duration) {
        loop {
            let next = match &mut self.link {
                Link::Pipe(pipe) => tokio::time::timeout(wait, pipe.next()).await,
                Link::Channel(channel) => tokio::time::timeout(wait, channel.next()).await,
                _ => return tokio::time::sleep(wait).await,
            };
            let Ok(message) = next else { return };
            if let Some(method) = message["method"].as_str().filter(|method| is_change(method)) {
                lock(&self.heard).push(noted(method, &message["params"]));
            }
        }
    }

    /// Ends what `listen` opened.
    pub(super) async fn unlisten(&mut self, uri: &str) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
            drop(listening.await);
        }
        let era = self.era();
        if let (Link::Pipe(pipe), Era::Modern) = (&mut self.link, era) {
            let params = json!({"requestId": "listen"});
            pipe.write(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})).await;
        }
        if era == Era::Legacy {
            let ended = self.ask("resources/unsubscribe", json!({"uri": uri})).await;
            assert_eq!(ended, [json!({"result": {}})]);
        }
    }

    /// An answer without what belongs to its era, after a look that it has just that (E9, E180, E183).
    pub(super) fn neutral(&self, method: &str, answer: &Value) -> Value {
        let Some(result) = answer.get("result") else {
            let code = &answer["error"]["code"];
            // What 2025-11-25 has a code for is -32602 in 2026-07-28.
            let code = if *code == -32002 && self.revision == Revision::Modern { &json!(-32602) } else { code };
            return json!({"error": {"code": code, "message": answer["error"]["message"]}});
        };
        let mut result = result.as_object().unwrap().clone();
        let cacheable = method.ends_with("/list") || method == "resources/read";
        let expected = [true, cacheable, cacheable].map(|modern| modern && self.era() == Era::Modern);
        for (member, expected) in ERA_MEMBERS.into_iter().zip(expected) {
            assert_eq!(result.remove(member).is_some(), expected, "{member} of {method}: {answer}");
        }
        if let Some(meta) = result.get_mut("_meta").and_then(Value::as_object_mut) {
            meta.remove(SERVER_INFO);
            if meta.is_empty() {
                result.remove("_meta");
            }
        }
        json!({"result": result})
    }
}

/// What a listen of the modern era asks for.
fn wanted(uri: &str) -> Value {
    json!({"notifications": {
        "toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": true,
        "resourceSubscriptions": [uri],
    }})
}

/// Collects changes from a stream until it ends. With `acknowledged`, returns once the first message was read.
async fn collect(mut stream: Stream, heard: Heard, acknowledged: bool) -> JoinHandle<Option<()>> {
    if acknowledged {
        let first = stream.next_message().await.unwrap().unwrap();
        assert_eq!(first["method"], "notifications/subscriptions/acknowledged", "{first}");
    }
    stdx::task::spawn("listening", async move {
        while let Ok(Some(message)) = next_of(&mut stream).await {
            if let Some(method) = message["method"].as_str() {
                lock(&heard).push(noted(method, &message["params"]));
            }
        }
    })
}

async fn next_of(stream: &mut Stream) -> Result<Option<Value>, HttpError> {
    loop {
        match stream.next_message().await {
            // Nothing for a while is no end.
            Err(HttpError::Slow(_)) => {}
            other => return other,
        }
    }
}

async fn incoming(stream: Stream) -> Incoming {
    if stream.is_event_stream() {
        return Incoming::Events(Box::new(stream));
    }
    let whole = stream.whole().await.unwrap();
    if whole.body.is_empty() {
        return Incoming::Whole(None);
    }
    let spoken = whole
        .json()
        .unwrap_or_else(|_| json!({"error": {"code": whole.status, "message": String::from_utf8_lossy(&whole.body)}}));
    Incoming::Whole(Some(spoken))
}

fn is_change(method: &str) -> bool {
    method.ends_with("/list_changed") || method == "notifications/resources/updated"
}

/// A notification without the marks of a subscription.
fn noted(method: &str, params: &Value) -> Value {
    json!({"noted": method, "params": without(params, &["_meta"])})
}

/// A question without what only one era says about it.
fn question(method: &str, params: &Value) -> Value {
    json!({"asked": method, "params": without(params, &["_meta", "elicitationId"])})
}

fn without(params: &Value, members: &[&str]) -> Value {
    let mut params = params.as_object().cloned().unwrap_or_default();
    params.retain(|name, _| !members.contains(&name.as_str()));
    Value::Object(params)
}

/// Answers all questions of a round, in an order that does not depend on their keys.
fn answered(requests: &Map<String, Value>, seen: &mut Vec<Value>) -> Map<String, Value> {
    seen.extend(requests.values().map(|request| question(request["method"].as_str().unwrap(), &request["params"])));
    let answer = |request: &Value| scripted(request["method"].as_str().unwrap(), &request["params"]);
    requests.iter().map(|(key, request)| (key.clone(), answer(request))).collect()
}

/// What the user, or the model, of every client says.
fn scripted(method: &str, params: &Value) -> Value {
    let field = |schema: &Value| match schema["type"].as_str() {
        Some("boolean") => json!(true),
        Some("integer" | "number") => json!(7),
        Some("array") => json!([schema["items"]["enum"].get(0).or(schema["items"]["anyOf"][0].get("const"))]),
        _ => json!("blue"),
    };
    match method {
        "sampling/createMessage" => {
            json!({"role": "assistant", "content": {"type": "text", "text": "Paris"}, "model": "m", "x": 1.50})
        }
        "roots/list" => json!({"roots": [{"uri": "file:///a", "name": "a"}, {"uri": "file:///b"}]}),
        _ if params["mode"] == "url" => json!({"action": "accept"}),
        _ => {
            let fields = params["requestedSchema"]["properties"].as_object().unwrap();
            let content: Map<String, Value> =
                fields.iter().map(|(name, schema)| (name.clone(), field(schema))).collect();
            json!({"action": "accept", "content": content})
        }
    }
}

/// What a client of this revision can do.
pub(super) fn capabilities(revision: Revision) -> Value {
    let extensions = json!({"com.example/color": {"shade": "blue"}});
    match revision {
        Revision::V2024 | Revision::March => json!({"roots": {}, "sampling": {}, "extensions": extensions}),
        Revision::June => json!({"roots": {}, "sampling": {}, "elicitation": {}, "extensions": extensions}),
        Revision::November | Revision::Modern => {
            let elicitation = json!({"form": {}, "url": {}});
            json!({"roots": {}, "sampling": {"tools": {}}, "elicitation": elicitation, "extensions": extensions})
        }
    }
}

/// The metadata of a modern request that is written to a pipe.
pub(super) fn metadata(capabilities: &Value) -> Map<String, Value> {
    let members = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": {"name": "testkit", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": capabilities,
    });
    members.as_object().unwrap().clone()
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
