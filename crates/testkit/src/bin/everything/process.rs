//! What one process of this server remembers, and the running calls that share it.

use crate::tasks::Tasks;
use crate::wire::{Object, Output};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long this server waits for the client's answer to a request of its own. The same as the TypeScript SDK.
const ASK_PATIENCE: Duration = Duration::from_secs(60);
/// How often a wait for the client looks whether its call was cancelled.
const ASK_SLICE: Duration = Duration::from_millis(20);
/// Log levels, least important first.
pub(crate) const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// What the flags allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Legacy,
    Modern,
    Dual,
}

/// What this process speaks, once it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Era {
    Legacy,
    Modern,
}

/// What the client said about itself: once in the legacy era, with each request in the modern one.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) era: Era,
    pub(crate) version: String,
    pub(crate) info: Value,
    pub(crate) capabilities: Value,
    /// The least important level that it wants to read, as an index of `LEVELS`. None: nothing.
    pub(crate) level: Option<usize>,
}

/// A modern subscription stream.
#[derive(Debug)]
pub(crate) struct Listen {
    /// The id of the listen request.
    pub(crate) id: Box<RawValue>,
    /// The honoured part of its filter.
    pub(crate) filter: Object,
}

/// The state of one process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) mode: Mode,
    /// Lists in pages, and an extension.
    pub(crate) extras: bool,
    /// Tools that run as tasks.
    pub(crate) with_tasks: bool,
    pub(crate) tasks: Tasks,
    pub(crate) output: Output,
    /// Protects request states; new in every process.
    pub(crate) key: [u8; 32],
    pub(crate) counter: AtomicU64,
    /// The headers of a tool have other names than at the start.
    pub(crate) renamed: AtomicBool,
    /// Cancellations that arrived, and those that stopped a running call.
    pub(crate) cancels_seen: AtomicU64,
    pub(crate) cancels_hit: AtomicU64,
    pub(crate) listens: Mutex<Vec<Listen>>,
    /// What the legacy client said in its handshake.
    pub(crate) session: Mutex<Option<Client>>,
    pub(crate) subscribed: Mutex<HashSet<String>>,
    era: Mutex<Option<Era>>,
    calls: Mutex<HashMap<String, Arc<Call>>>,
    asks: Mutex<HashMap<u64, SyncSender<Answered>>>,
    next_ask: AtomicU64,
}

/// The client's answer to a request of ours: its result, or the message of its error.
type Answered = Result<Value, String>;

impl Process {
    pub(crate) fn new(mode: Mode, key: [u8; 32], extras: bool, with_tasks: bool) -> Self {
        Self {
            mode,
            extras,
            with_tasks,
            tasks: Tasks::default(),
            key,
            output: Output::default(),
            counter: AtomicU64::new(0),
            renamed: AtomicBool::new(false),
            cancels_seen: AtomicU64::new(0),
            cancels_hit: AtomicU64::new(0),
            listens: Mutex::default(),
            session: Mutex::default(),
            subscribed: Mutex::default(),
            era: Mutex::default(),
            calls: Mutex::default(),
            asks: Mutex::default(),
            next_ask: AtomicU64::new(1),
        }
    }

    pub(crate) fn era(&self) -> Option<Era> {
        *lock(&self.era)
    }

    /// Decides the era for the life of this process. A second decision changes nothing.
    pub(crate) fn settle(&self, era: Era) {
        lock(&self.era).get_or_insert(era);
    }

    pub(crate) fn begin(&self, call: &Arc<Call>) {
        lock(&self.calls).insert(call.id.get().to_owned(), Arc::clone(call));
    }

    pub(crate) fn end(&self, call: &Arc<Call>) {
        let mut calls = lock(&self.calls);
        if calls.get(call.id.get()).is_some_and(|running| Arc::ptr_eq(running, call)) {
            calls.remove(call.id.get());
        }
    }

    /// Stops the call, or ends the subscription, with this id. An unknown id is counted and otherwise ignored.
    pub(crate) fn cancel(&self, id: &RawValue) {
        self.cancels_seen.fetch_add(1, Ordering::Relaxed);
        let call = lock(&self.calls).get(id.get()).cloned();
        if let Some(call) = call {
            self.cancels_hit.fetch_add(1, Ordering::Relaxed);
            call.stop();
        }
        lock(&self.listens).retain(|listen| listen.id.get() != id.get());
    }

    /// Hands the client's answer to the call that waits for it. An answer that nobody awaits is dropped.
    pub(crate) fn answered(&self, id: &RawValue, answer: Answered) {
        let waiting = id.get().parse().ok().and_then(|id: u64| lock(&self.asks).remove(&id));
        if let Some(waiting) = waiting {
            let _ = waiting.try_send(answer);
        }
    }

    /// Sends a request to the client.
    fn ask(&self, method: &str, params: &Value) -> Asked {
        let id = self.next_ask.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = sync_channel(1);
        lock(&self.asks).insert(id, sender);
        self.output.request(id, method, params);
        Asked { id, receiver }
    }
}

/// A request to the client that is not yet answered.
struct Asked {
    id: u64,
    receiver: Receiver<Answered>,
}

/// One request of the client while it is worked on.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) process: Arc<Process>,
    pub(crate) id: Box<RawValue>,
    pub(crate) client: Client,
    pub(crate) progress_token: Option<Box<RawValue>>,
    stopped: Mutex<bool>,
    woken: Condvar,
}

impl Call {
    pub(crate) fn new(
        process: &Arc<Process>,
        id: Box<RawValue>,
        client: Client,
        progress_token: Option<Box<RawValue>>,
    ) -> Self {
        let process = Arc::clone(process);
        Self { process, id, client, progress_token, stopped: Mutex::new(false), woken: Condvar::new() }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        *lock(&self.stopped)
    }

    pub(crate) fn stop(&self) {
        *lock(&self.stopped) = true;
        self.woken.notify_all();
    }

    /// Waits, or less when the call is cancelled.
    pub(crate) fn pause(&self, time: Duration) {
        let stopped = lock(&self.stopped);
        let waited = self.woken.wait_timeout_while(stopped, time, |stopped| !*stopped);
        drop(waited);
    }

    /// Reports progress, if the client asked for it and did not cancel.
    pub(crate) fn progress(&self, progress: u64, total: u64, message: &str) {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Progress<'a> {
            progress_token: &'a RawValue,
            progress: u64,
            total: u64,
            message: &'a str,
        }
        if let Some(progress_token) = self.progress_token.as_deref().filter(|_| !self.is_stopped()) {
            let params = Progress { progress_token, progress, total, message };
            self.process.output.notify("notifications/progress", &params);
        }
    }

    /// Sends a log message, if the client wants to read this level.
    pub(crate) fn log(&self, level: &str, data: &str) {
        let wanted = match self.client.era {
            Era::Legacy => lock(&self.process.session).as_ref().and_then(|session| session.level),
            Era::Modern => self.client.level,
        };
        let rank = LEVELS.iter().position(|known| *known == level);
        if wanted.is_some() && rank >= wanted && !self.is_stopped() {
            let params = json!({"level": level, "logger": "everything", "data": data});
            self.process.output.notify("notifications/message", &params);
        }
    }

    /// Asks the client all `requests` at once (key → method and params) and waits for every answer (key → result).
    pub(crate) fn ask_all(&self, requests: &Object) -> Result<Object, String> {
        let asked: Vec<(&String, Asked)> = requests
            .iter()
            .map(|(key, request)| {
                let method = request["method"].as_str().unwrap_or_default();
                (key, self.process.ask(method, &request["params"]))
            })
            .collect();
        let mut answers = Object::new();
        let mut failure = None;
        for (key, asked) in asked {
            match self.wait(&asked) {
                Ok(answer) => drop(answers.insert(key.clone(), answer)),
                Err(message) => failure = failure.or(Some(message)),
            }
        }
        failure.map_or(Ok(answers), Err)
    }

    /// Waits for one answer. Gives up, and tells the client so, after `ASK_PATIENCE` or when the call is cancelled.
    fn wait(&self, asked: &Asked) -> Answered {
        let deadline = stdx::clock::monotonic() + ASK_PATIENCE;
        let reason = loop {
            match asked.receiver.recv_timeout(ASK_SLICE) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Disconnected) => break "the answer was lost",
                Err(RecvTimeoutError::Timeout) if self.is_stopped() => break "the call was cancelled",
                Err(RecvTimeoutError::Timeout) if stdx::clock::monotonic() > deadline => break "no answer in time",
                Err(RecvTimeoutError::Timeout) => {}
            }
        };
        lock(&self.process.asks).remove(&asked.id);
        self.process.output.notify("notifications/cancelled", &json!({"requestId": asked.id, "reason": reason}));
        Err(reason.to_owned())
    }
}

/// The guarded value, also after a panic of another thread: each value here is whole between two locks.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
