//! A steady mixed load, and the books that are balanced afterwards: what callers were told against what servers did.

use crate::daemon::{Daemon, Dice};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use stdx::clock::monotonic;
use testkit::wait::{PATIENCE, eventually_some};
use testkit::{Client, HttpError};
use tokio::task::JoinHandle;

/// What a caller knows of a call.
#[derive(Debug)]
enum Outcome {
    Served {
        pid: u64,
        count: u64,
    },
    /// It failed visibly: nobody told whether it ran.
    Unknown,
}

#[derive(Debug)]
struct Call {
    worker: String,
    nonce: String,
    outcome: Outcome,
}

/// What all callers saw.
#[derive(Debug, Default)]
struct Books {
    calls: Vec<Call>,
    /// Whatever must not happen.
    wrongs: Vec<String>,
    /// What each process noted, by its id.
    ledgers: BTreeMap<u64, Vec<String>>,
    /// The processes that each worker spoke to.
    pids: BTreeMap<String, BTreeSet<u64>>,
    counts: BTreeMap<String, u64>,
    /// Of each call that was answered with one: entries and their hashes.
    receipts: HashMap<String, Vec<Receipt>>,
}

/// What an answer says of one record of its call.
#[derive(Debug, Clone)]
pub(crate) struct Receipt {
    /// The record's place.
    pub(crate) index: u64,
    /// Its hash.
    pub(crate) leaf: String,
}

/// What may happen to a call beside its answer and a connection that breaks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Allowed {
    /// Processes may end, so their number and ledgers change.
    pub(crate) new_processes: bool,
    /// Reasons of typed errors that say how a call ended.
    pub(crate) reasons: &'static [&'static str],
    /// No call may break.
    pub(crate) no_failure: bool,
    /// But for a request that never ran, on a connection that the daemon closed in the moment in which it was sent.
    pub(crate) unread: bool,
    /// Callers hardly pause between calls.
    pub(crate) busy: bool,
}

/// What all workers share.
#[derive(Debug)]
pub(crate) struct Load {
    url: String,
    stop: AtomicBool,
    books: Mutex<Books>,
    allowed: Allowed,
    next: AtomicU64,
}

/// The servers that [`Load`] calls.
pub(crate) fn servers() -> Value {
    let chaos = testkit::bin("chaos");
    let one = |era: &str, mode: &str| json!({"command": chaos, "args": ["--era", era], "mode": mode});
    json!({
        "own": one("legacy", "per-principal"), "each": one("legacy", "per-session"), "all": one("legacy", "shared"),
        "modern": one("modern", "per-principal"), "dual": one("dual", "per-principal"),
    })
}

/// What a tool of such a server says.
pub(crate) fn told(answer: &Value) -> Value {
    let text = answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"));
    serde_json::from_str(text).unwrap()
}

/// One caller: who it is, where it calls, and how.
#[derive(Debug)]
struct Worker {
    load: Arc<Load>,
    name: String,
    principal: &'static str,
    server: &'static str,
    client: Client,
    dice: Dice,
}

/// The way of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Modern,
    Session,
    /// In a session, with a stream that is taken up again where it broke.
    Resumed,
    /// Sessions that come and go.
    Churn,
    /// Reads what servers say without being asked.
    Listener,
}

/// What came of one try.
enum Try {
    Answer(Value),
    Broken,
}

/// Begins the load. It runs until [`Load::balance`].
pub(crate) fn begin(daemon: &Daemon, dice: &mut Dice, allowed: Allowed) -> (Arc<Load>, Vec<JoinHandle<Option<()>>>) {
    let load = Load {
        url: daemon.url.clone(),
        stop: AtomicBool::new(false),
        books: Mutex::default(),
        allowed,
        next: AtomicU64::new(1),
    };
    let load = Arc::new(load);
    let mut tasks = Vec::new();
    for principal in ["ann", "bob"] {
        let token = daemon.token(principal);
        let ways = [
            (Way::Session, "own"),
            (Way::Session, "each"),
            (Way::Session, "each"),
            (Way::Session, "all"),
            (Way::Session, "dual"),
            (Way::Session, "modern"),
            (Way::Resumed, "own"),
            (Way::Resumed, "all"),
            (Way::Modern, "own"),
            (Way::Modern, "modern"),
            (Way::Modern, "dual"),
            (Way::Churn, "each"),
            (Way::Listener, "own"),
        ];
        for (number, (way, server)) in ways.into_iter().enumerate() {
            let worker = Worker {
                load: load.clone(),
                name: format!("{principal}-{number}-{server}-{way:?}"),
                principal,
                server,
                client: Client::new(&load.url, Some(token.clone())).unwrap().with_header("x-staithe-receipt", "1"),
                dice: dice.fork(),
            };
            tasks.push(stdx::task::spawn("worker", worker.work(way)));
        }
    }
    (load, tasks)
}

impl Load {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn wrong(&self, worker: &str, what: &str) {
        let mut books = self.books();
        if books.wrongs.len() < 50 {
            books.wrongs.push(format!("{worker}: {what}"));
        }
    }

    fn count(&self, what: &str) {
        *self.books().counts.entry(what.to_owned()).or_default() += 1;
    }

    /// How many workers have had an answer.
    pub(crate) fn workers_served(&self) -> usize {
        self.books().pids.len()
    }

    /// How many calls were answered with a result.
    pub(crate) fn served(&self) -> usize {
        self.books().calls.iter().filter(|call| matches!(call.outcome, Outcome::Served { .. })).count()
    }

    /// The nonces of all calls, and whether each was answered with a result.
    pub(crate) fn calls(&self) -> HashMap<String, bool> {
        let books = self.books();
        let calls = books.calls.iter();
        calls.map(|call| (call.nonce.clone(), matches!(call.outcome, Outcome::Served { .. }))).collect()
    }

    /// What the answers of calls said of their records, start and end, by nonce.
    pub(crate) fn receipts(&self) -> HashMap<String, Vec<Receipt>> {
        self.books().receipts.clone()
    }

    /// The nonces of the calls that servers say they ran, as far as a server could be asked.
    pub(crate) fn ran(&self) -> HashSet<String> {
        self.books().ledgers.values().flatten().cloned().collect()
    }

    /// Waits until every caller has an answer to a call that ended after now.
    pub(crate) async fn all_are_served_again(&self) {
        let lasting = |name: &&String| !name.contains("Churn");
        let (seen, names) = {
            let books = self.books();
            (books.calls.len(), books.pids.keys().filter(lasting).cloned().collect::<BTreeSet<_>>())
        };
        eventually_some("an answer for every caller", async || {
            let books = self.books();
            let answered = books.calls[seen..].iter().filter(|call| matches!(call.outcome, Outcome::Served { .. }));
            let answered: BTreeSet<&String> = answered.map(|call| &call.worker).collect();
            names.iter().all(|name| answered.contains(name)).then_some(())
        })
        .await;
    }

    /// Ends the load and compares what callers were told with what servers noted.
    pub(crate) async fn balance(&self, tasks: Vec<JoinHandle<Option<()>>>) {
        self.stop.store(true, Ordering::Relaxed);
        for task in tasks {
            let ended = tokio::time::timeout(2 * PATIENCE, task).await;
            assert!(matches!(ended, Ok(Ok(Some(())))), "a worker hangs or panicked: {ended:?}");
        }
        let mut books = self.books();
        let Books { calls, wrongs, ledgers, pids, counts, .. } = &mut *books;
        let mut ran: HashMap<&str, u64> = HashMap::new();
        for nonce in ledgers.values().flatten() {
            *ran.entry(nonce).or_default() += 1;
        }
        wrongs.extend(
            ran.iter().filter(|(_, times)| **times > 1).map(|(nonce, times)| format!("{nonce} ran {times} times")),
        );
        let known: HashSet<&str> = calls.iter().map(|call| &*call.nonce).collect();
        wrongs.extend(ran.keys().filter(|nonce| !known.contains(*nonce)).map(|nonce| format!("nobody called {nonce}")));
        let (mut served, mut unknown, mut unknown_ran) = (0, 0, 0);
        for call in &*calls {
            match call.outcome {
                Outcome::Unknown => {
                    unknown += 1;
                    unknown_ran += u64::from(ran.contains_key(&*call.nonce));
                }
                Outcome::Served { pid, count } => {
                    served += 1;
                    let Some(ledger) = ledgers.get(&pid) else {
                        if !self.allowed.new_processes {
                            wrongs.push(format!("process {pid} of {} cannot be asked", call.worker));
                        }
                        continue;
                    };
                    let noted = usize::try_from(count).ok().and_then(|count| ledger.get(count.checked_sub(1)?));
                    if noted != Some(&call.nonce) {
                        wrongs
                            .push(format!("call {count} of process {pid} was {noted:?}, and {} answered", call.nonce));
                    }
                }
            }
        }
        if !self.allowed.new_processes {
            wrongs.extend(
                pids.iter()
                    .filter(|(_, pids)| pids.len() != 1)
                    .map(|(name, pids)| format!("{name} spoke to processes {pids:?}")),
            );
        }
        let failed = if self.allowed.unread { unknown_ran } else { unknown };
        if self.allowed.no_failure && failed > 0 {
            wrongs.push(format!("{failed} calls failed"));
        }
        println!("calls served {served}, failed visibly {unknown} (of them ran {unknown_ran}); {counts:?}");
        let busy =
            ["GET stream opened", "stream answered", "notification"].iter().all(|what| counts.contains_key(*what));
        assert!(served > 0 && busy, "there was no load");
        // A stream whose process was killed ends with that.
        let kept = !self.allowed.new_processes;
        let lost: u64 =
            ["stream forgotten", "stream ended with an error"].iter().filter_map(|what| counts.get(*what)).sum();
        let answered = counts["stream answered"];
        assert!(!kept || lost <= 5 + answered / 20, "{lost} streams were lost, {answered} answered");
        assert!(wrongs.is_empty(), "{} wrongs:\n{}", wrongs.len(), wrongs.join("\n"));
    }
}

impl Worker {
    async fn work(mut self, way: Way) {
        match way {
            Way::Modern => {
                while !self.load.stopped() {
                    self.pause().await;
                    self.call(None, false).await;
                }
                self.read_ledger(None).await;
            }
            Way::Session | Way::Resumed => {
                let Some(session) = self.open().await else { return };
                while !self.load.stopped() {
                    self.pause().await;
                    self.call(Some(&session), way == Way::Resumed).await;
                }
                self.read_ledger(Some(&session)).await;
            }
            Way::Churn => {
                let name = self.name.clone();
                for turn in 0.. {
                    if self.load.stopped() {
                        return;
                    }
                    self.name = format!("{name}-{turn}");
                    let Some(session) = self.open().await else { return };
                    for _ in 0..8 {
                        self.pause().await;
                        self.call(Some(&session), false).await;
                    }
                    self.read_ledger(Some(&session)).await;
                    self.close(&session).await;
                }
            }
            Way::Listener => self.listen().await,
        }
    }

    async fn pause(&mut self) {
        let most = if self.load.allowed.busy { 5 } else { 40 };
        tokio::time::sleep(Duration::from_millis(5 + self.dice.below(most))).await;
    }

    /// One call with a nonce of its own, which is never sent again.
    async fn call(&mut self, session: Option<&str>, resumed: bool) {
        let nonce = format!("{}-{}", self.name, self.load.next.fetch_add(1, Ordering::Relaxed));
        let long = resumed || self.dice.below(4) == 0;
        let ms = if resumed {
            150 + self.dice.below(500)
        } else if long {
            20 + self.dice.below(100)
        } else {
            0
        };
        let mut arguments = json!({"nonce": nonce, "canary": self.principal, "ms": ms, "steps": 4});
        // Lines that no pipe takes whole: a daemon that dies leaves half of one, in either direction.
        if !resumed && self.dice.below(12) == 0 {
            arguments["pad"] = json!(nonce.repeat(10_000));
        }
        let pad = arguments["pad"].clone();
        // The ledger has this trace in the record of the call.
        let mut params = json!({"name": "note", "arguments": arguments, "_meta": {"traceparent": nonce}});
        if long {
            params["_meta"]["progressToken"] = json!(nonce);
        }
        let tried = match session {
            Some(session) if long => self.stream(session, &nonce, params, resumed).await,
            Some(session) => {
                let session = self.client.known_session(self.server, session, "2025-11-25");
                self.settle(session.call_with_id(&json!(nonce), "tools/call", params).await)
            }
            None if long => self.modern_stream(&nonce, params).await,
            None => {
                let called = self.client.modern_call(self.server, "tools/call", params).await;
                self.settle(called.map(|(_, answer)| answer))
            }
        };
        let outcome = match tried {
            Try::Broken => Outcome::Unknown,
            Try::Answer(answer) => self.judge(session.is_some(), &nonce, &pad, &answer),
        };
        self.load.books().calls.push(Call { worker: self.name.clone(), nonce, outcome });
    }

    /// Whether the answer is that of this call.
    fn judge(&self, session: bool, nonce: &str, pad: &Value, answer: &Value) -> Outcome {
        if session && answer["id"] != nonce {
            self.load.wrong(&self.name, &format!("{nonce} got an answer for {}", answer["id"]));
        }
        let text = answer["result"]["content"][0]["text"].as_str().unwrap_or_default();
        let Ok(told) = serde_json::from_str::<Value>(text) else {
            self.error(nonce, answer);
            return Outcome::Unknown;
        };
        if told["nonce"] != nonce || told["pad"] != *pad {
            self.load.wrong(&self.name, &format!("{nonce} was answered with what {} said", told["nonce"]));
        }
        if self.server != "all" && told["first"] != self.principal {
            self.load.wrong(
                &self.name,
                &format!("{nonce} of {} was done by a process of {}", self.principal, told["first"]),
            );
        }
        self.keep_receipt(nonce, &answer["result"]["_meta"]["io.staithe/receipt"]);
        let (pid, count) = (told["pid"].as_u64().unwrap(), told["count"].as_u64().unwrap());
        self.load.books().pids.entry(self.name.clone()).or_default().insert(pid);
        Outcome::Served { pid, count }
    }

    fn keep_receipt(&self, nonce: &str, receipt: &Value) {
        let places = [&receipt["start"], receipt]
            .map(|place| Some(Receipt { index: place["index"].as_u64()?, leaf: place["leaf"].as_str()?.to_owned() }));
        if let [Some(start), Some(end)] = places {
            self.load.books().receipts.insert(nonce.to_owned(), vec![start, end]);
        } else if !receipt.is_null() {
            self.load.wrong(&self.name, &format!("{nonce} got half a receipt: {receipt}"));
        }
    }

    /// An error as an answer is visible, but must be one of those that may be.
    fn error(&self, nonce: &str, answer: &Value) {
        let reason = answer["error"]["data"]["reason"].as_str().unwrap_or("none");
        self.load.count(&format!("error {reason}"));
        if !self.load.allowed.reasons.contains(&reason) {
            self.load.wrong(&self.name, &format!("{nonce} failed: {answer}"));
        }
    }

    /// A connection may break when its daemon dies. None may be refused, and nothing may hang.
    fn settle(&self, tried: Result<Value, HttpError>) -> Try {
        match tried {
            Ok(answer) => Try::Answer(answer),
            Err(error @ (HttpError::Broken(_) | HttpError::Lost)) => {
                if matches!(error, HttpError::Lost) {
                    self.load.count("request lost with its connection");
                }
                if self.load.allowed.no_failure && !self.load.allowed.unread {
                    self.load.wrong(&self.name, &format!("the connection of a call broke: {error:?}"));
                }
                Try::Broken
            }
            Err(error) => {
                self.load.wrong(&self.name, &error.to_string());
                Try::Broken
            }
        }
    }

    async fn modern_stream(&self, nonce: &str, params: Value) -> Try {
        let mut stream = match self.client.modern_stream(self.server, "tools/call", params).await {
            Ok(stream) => stream,
            Err(error) => return self.settle(Err(error)),
        };
        if !stream.is_event_stream() {
            return self.settle(stream.whole().await.and_then(|whole| whole.json()));
        }
        loop {
            match stream.next_message().await {
                Ok(Some(message)) if message.get("method").is_some() => self.heard(Some(nonce), &message),
                Ok(Some(answer)) => return Try::Answer(answer),
                // The connection of a daemon that was killed ends like this too.
                Ok(None) => return Try::Broken,
                Err(error) => return self.settle(Err(error)),
            }
        }
    }

    /// A call whose stream is read event by event, and where `resumed` taken up again until the answer came.
    async fn stream(&self, session: &str, nonce: &str, params: Value, resumed: bool) -> Try {
        let session = self.client.known_session(self.server, session, "2025-11-25");
        let mut last: Option<String> = None;
        let end = monotonic() + PATIENCE;
        let mut opened = session.stream(&json!(nonce), "tools/call", params).await;
        while monotonic() < end {
            match opened {
                Ok(stream) if !stream.is_event_stream() => {
                    let status = stream.status;
                    let body = stream.whole().await.and_then(|whole| whole.json());
                    if last.is_none() {
                        return self.settle(body);
                    }
                    if let Ok(body) = body {
                        // The host died between its last word to the client and its note of it. It is said, not hidden.
                        let said =
                            body["error"]["message"].as_str().is_some_and(|text| text.contains("look whether it ran"));
                        self.load.count("stream forgotten");
                        if status != 400 || !said {
                            self.load.wrong(&self.name, &format!("{nonce} could not be resumed: {status} {body}"));
                        }
                        return Try::Broken;
                    }
                }
                Ok(mut stream) => loop {
                    let Ok(Some(event)) = stream.next().await else { break };
                    last = event.id.or(last);
                    let Ok(message) = serde_json::from_str::<Value>(&event.data) else { continue };
                    if message.get("method").is_none() {
                        self.load.count(if message.get("error").is_some() {
                            "stream ended with an error"
                        } else {
                            "stream answered"
                        });
                        return Try::Answer(message);
                    }
                    self.heard(Some(nonce), &message);
                },
                Err(HttpError::Broken(_) | HttpError::Lost) => {}
                Err(error) => return self.settle(Err(error)),
            }
            let Some(last) = last.clone().filter(|_| resumed) else { return Try::Broken };
            self.load.count("stream resumed");
            tokio::time::sleep(Duration::from_millis(10)).await;
            let mut headers = session.headers();
            headers.push(("last-event-id".to_owned(), last));
            opened = session.resume(&headers).await;
        }
        self.load.wrong(&self.name, &format!("{nonce} was resumed for {PATIENCE:?} and never answered"));
        Try::Broken
    }

    /// Whether a notification is this caller's.
    fn heard(&self, nonce: Option<&str>, message: &Value) {
        let params = &message["params"];
        let own = match (message["method"].as_str(), nonce) {
            (Some("notifications/progress"), Some(nonce)) => {
                params["progressToken"] == nonce && params["message"] == nonce
            }
            (Some("notifications/message"), _) => self.server == "all" || params["data"] == self.principal,
            _ => false,
        };
        self.load.count("notification");
        if !own {
            self.load.wrong(&self.name, &format!("{nonce:?} heard {message}"));
        }
    }

    /// Opens a session; a broken `initialize` is sent again.
    async fn open(&self) -> Option<String> {
        let end = monotonic() + PATIENCE;
        while monotonic() < end {
            match self.client.legacy_session(self.server).await {
                Ok(session) => return session.id,
                Err(HttpError::Broken(_) | HttpError::Lost) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => {
                    self.load.wrong(&self.name, &format!("initialize: {error}"));
                    return None;
                }
            }
        }
        self.load.wrong(&self.name, "no session");
        None
    }

    async fn close(&self, session: &str) {
        let end = monotonic() + PATIENCE;
        while monotonic() < end {
            match self.client.known_session(self.server, session, "2025-11-25").close().await {
                Ok(response) if matches!(response.status, 200 | 202 | 204 | 404) => return,
                Ok(response) => {
                    return self.load.wrong(&self.name, &format!("DELETE was answered {}", response.status));
                }
                Err(HttpError::Broken(_) | HttpError::Lost) => {}
                Err(error) => return self.load.wrong(&self.name, &format!("DELETE: {error}")),
            }
        }
        self.load.wrong(&self.name, "the session could not be ended");
    }

    /// Reads what the worker's process noted. Reading has no effect, so it may be done again.
    async fn read_ledger(&self, session: Option<&str>) {
        let end = monotonic() + PATIENCE;
        let params = json!({"name": "ledger", "arguments": {}});
        while monotonic() < end {
            let called = match session {
                Some(id) => {
                    let session = self.client.known_session(self.server, id, "2025-11-25");
                    session.call("tools/call", params.clone()).await
                }
                None => {
                    self.client.modern_call(self.server, "tools/call", params.clone()).await.map(|(_, answer)| answer)
                }
            };
            let Ok(answer) = called else { continue };
            let text = answer["result"]["content"][0]["text"].as_str().unwrap_or_default();
            let Ok(told) = serde_json::from_str::<Value>(text) else {
                return self.error("ledger", &answer);
            };
            let nonces: Vec<String> = serde_json::from_value(told["nonces"].clone()).unwrap();
            let pid = told["pid"].as_u64().unwrap();
            let mut books = self.load.books();
            let known = books.ledgers.entry(pid).or_default();
            if known.len() < nonces.len() {
                *known = nonces;
            }
            return;
        }
        self.load.wrong(&self.name, "the ledger could not be read");
    }

    /// Keeps a GET stream open and opens it again where it ends.
    async fn listen(&self) {
        let Some(id) = self.open().await else { return };
        let session = self.client.known_session(self.server, &id, "2025-11-25");
        while !self.load.stopped() {
            match session.listen().await {
                Ok(mut stream) if stream.is_event_stream() => {
                    self.load.count("GET stream opened");
                    while !self.load.stopped() {
                        let Ok(next) = tokio::time::timeout(Duration::from_millis(100), stream.next_message()).await
                        else {
                            continue;
                        };
                        let Ok(Some(message)) = next else { break };
                        self.heard(None, &message);
                    }
                }
                Ok(stream) => return self.load.wrong(&self.name, &format!("GET was answered {}", stream.status)),
                Err(HttpError::Broken(_) | HttpError::Lost) => {}
                Err(error) => return self.load.wrong(&self.name, &format!("GET: {error}")),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
