//! What the server of an instance said last about its tools. Read by ourselves, once per process and again when the server
//! says that it changed, without any client's call: calls of the other era need it, and calls that mirror parameters.

use crate::instance::{Instance, Stalled, Wish};
use crate::life::Life;
use crate::mailbox::Item;
use bytes::Bytes;
use model::report::LogSource;
use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use wire::catalogue::{Catalogue, Reading, Tool, Unlisted, list_line};
use wire::era::Era;
use wire::message::Message;
use wire::scan::Place;

/// How long one page may take.
const PAGE: Duration = Duration::from_secs(20);
/// Pause before a list that has changed is read again; it doubles while changes go on and nobody waits for the list.
const PAUSE: Duration = Duration::from_millis(20);
/// The longest such pause.
const LONGEST: Duration = Duration::from_secs(5);
/// After this long without a change, the next one is none of a row.
const QUIET_MS: i64 = 10_000;
/// Different faults that are told of one process.
const TOLD: usize = 256;

/// The tools of one instance.
#[derive(Debug)]
pub(crate) struct Tools {
    /// `None` while it is not known, or not any more.
    known: watch::Sender<Option<Arc<Catalogue>>>,
    /// A caller began to wait for what is known.
    needed: Notify,
    /// It is known, and there is nothing in it that a call needs.
    plain: AtomicBool,
    /// Somebody needs it: from now on it is kept up to date.
    wanted: AtomicBool,
    reading: AtomicBool,
    /// How often the server said that it changed.
    changes: AtomicU64,
    /// Changes in a row, and when the last was.
    restless: AtomicU32,
    changed_at_ms: AtomicI64,
    pages: Mutex<HashSet<u64>>,
    told: Mutex<HashSet<String>>,
}

impl Tools {
    pub(crate) fn new() -> Self {
        Self {
            known: watch::Sender::new(None),
            needed: Notify::new(),
            plain: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            reading: AtomicBool::new(false),
            changes: AtomicU64::new(0),
            restless: AtomicU32::new(0),
            changed_at_ms: AtomicI64::new(0),
            pages: Mutex::default(),
            told: Mutex::default(),
        }
    }
}

impl Instance {
    /// Whether it is known of every tool that a call of it needs nothing: the common case, and cheap to ask.
    pub fn tools_are_plain(&self) -> bool {
        self.tools.plain.load(Ordering::Acquire)
    }

    /// Whether a call of this tool may destroy something, as the server says. Until its list is known, any may.
    pub fn may_destroy(self: &Arc<Self>, tool: &str) -> bool {
        self.want_tools();
        let known = self.tools.known.borrow();
        known.as_ref().is_none_or(|known| known.tool(tool).is_some_and(Tool::destructive))
    }

    /// Starts to read the list of tools, unless that was done before.
    pub fn want_tools(self: &Arc<Self>) {
        if !self.tools.wanted.load(Ordering::Relaxed) && !self.tools.wanted.swap(true, Ordering::Relaxed) {
            self.read_tools();
        }
    }

    /// What is known of the server's tools, after at most `wait`. `None` where it could not be learned in time, or the
    /// process ended.
    pub async fn catalogue(self: &Arc<Self>, wait: Duration) -> Option<Arc<Catalogue>> {
        self.want_tools();
        let mut known = self.tools.known.subscribe();
        self.tools.needed.notify_one();
        let settled = tokio::time::timeout(wait, known.wait_for(Option::is_some)).await;
        settled.ok()?.ok()?.clone()
    }

    /// A client was answered its `tools/list`. Where that was not what we know, what we know is out of date.
    pub fn listed(self: &Arc<Self>, message: &Message) {
        let known = self.tools.known.borrow().is_some();
        if known && !lock(&self.tools.pages).contains(&digest(message)) {
            self.forget_tools();
        }
    }

    /// The server's tools changed: what was known is forgotten before anybody hears of it (E189).
    pub(crate) fn forget_tools(self: &Arc<Self>) {
        let now = stdx::clock::unix_ms();
        if now - self.tools.changed_at_ms.swap(now, Ordering::Relaxed) > QUIET_MS {
            self.tools.restless.store(0, Ordering::Relaxed);
        }
        self.tools.changes.fetch_add(1, Ordering::AcqRel);
        self.tools.plain.store(false, Ordering::Release);
        self.tools.known.send_replace(None);
        if self.tools.wanted.load(Ordering::Relaxed) {
            self.read_tools();
        }
    }

    fn read_tools(self: &Arc<Self>) {
        if !self.tools.reading.swap(true, Ordering::AcqRel) {
            stdx::task::spawn("tools", keep_reading(self.clone()));
        }
    }
}

/// Reads the list until it did not change meanwhile. One task per instance at a time.
async fn keep_reading(instance: Arc<Instance>) {
    let tools = &instance.tools;
    let mut again = false;
    loop {
        let before = tools.changes.load(Ordering::Acquire);
        if before > 0 {
            rest(tools, again).await;
        }
        let Some(mut catalogue) = read(&instance).await else {
            // The process is gone, and its calls with it.
            return tools.reading.store(false, Ordering::Release);
        };
        if tools.changes.load(Ordering::Acquire) == before {
            shown(&instance, catalogue.take_definitions()).await;
            publish(&instance, catalogue);
        }
        tools.reading.store(false, Ordering::Release);
        // A change that came before this line saw a reader at work; one that comes later starts its own.
        let settled = tools.changes.load(Ordering::Acquire) == before;
        if settled || tools.reading.swap(true, Ordering::AcqRel) {
            return;
        }
        tools.plain.store(false, Ordering::Release);
        tools.known.send_replace(None);
        again = true;
    }
}

/// Waits until a list that changed is worth reading. A caller who needs it does not pay for changes before its call, only for those that
/// come while the list is read (`again`).
async fn rest(tools: &Tools, again: bool) {
    let doubled = tools.restless.fetch_add(1, Ordering::Relaxed).min(8);
    let pause = (PAUSE * 2_u32.pow(doubled)).min(LONGEST);
    let needed = async {
        // Who waits holds a receiver.
        while tools.known.receiver_count() == 0 {
            tools.needed.notified().await;
        }
    };
    if tokio::time::timeout(pause, needed).await.is_ok() && again {
        tokio::time::sleep(PAUSE).await;
    }
}

/// Tells what the server shows, where that was read to its end.
async fn shown(instance: &Instance, definitions: Option<BTreeMap<String, [u8; 32]>>) {
    let Some(tools) = definitions else { return };
    let server = instance.server().clone();
    let shown = || Life::Tools { server, instance: instance.id, tools };
    Box::pin(instance.context.tell(shown)).await;
}

fn publish(instance: &Instance, catalogue: Catalogue) {
    for fault in catalogue.faults() {
        let text = format!("{fault}");
        let mut told = lock(&instance.tools.told);
        if told.len() < TOLD && told.insert(text.clone()) {
            instance.context.log.add(instance.id, LogSource::Host, &text);
        }
    }
    let plain = catalogue.is_plain();
    instance.tools.known.send_replace(Some(Arc::new(catalogue)));
    instance.tools.plain.store(plain, Ordering::Release);
}

/// The whole list. What cannot be read to its end is used as far as it came. `None` if the process ended.
async fn read(instance: &Arc<Instance>) -> Option<Catalogue> {
    let mut reading = Reading::default();
    lock(&instance.tools.pages).clear();
    if !instance.greeting().is_some_and(|greeting| greeting.has("tools")) {
        return Some(reading.done());
    }
    let mut cursor = None;
    loop {
        let page = match ask(instance, cursor.as_deref()).await {
            Asked::Page(page) => page,
            Asked::Ended => return None,
            Asked::Nothing(why) => {
                note(instance, why);
                return Some(reading.done());
            }
        };
        lock(&instance.tools.pages).insert(digest(&page));
        match reading.page(&page) {
            Ok(Some(next)) => cursor = Some(next),
            Ok(None) => return Some(reading.done()),
            // Not worth a line: it promised tools and has none.
            Err(Unlisted::Refused(_)) => return Some(reading.done()),
            Err(unlisted) => {
                note(instance, &unlisted.to_string());
                return Some(reading.done());
            }
        }
    }
}

fn note(instance: &Instance, why: &str) {
    let text = format!("its tools are known in part only: {why}");
    instance.context.log.add(instance.id, LogSource::Host, &text);
}

enum Asked {
    Page(Message),
    Nothing(&'static str),
    Ended,
}

/// One page. It has no client, so nothing of it is counted or attributed.
async fn ask(instance: &Arc<Instance>, cursor: Option<&[u8]>) -> Asked {
    let pending = instance.begin(Bytes::new(), Wish::Nothing, None);
    let line = list_line(pending.id(), instance.era() == Era::Modern, crate::handshake::CLIENT_INFO, cursor);
    if let Err(stalled) = pending.send(line) {
        pending.finish();
        return match stalled {
            Stalled::Full { .. } => Asked::Nothing("it does not read its input"),
            Stalled::Ended(_) => Asked::Ended,
        };
    }
    let answer = async {
        loop {
            match pending.next().await {
                Item::Answer(message) => return Asked::Page(message),
                Item::Gone(_) => return Asked::Ended,
                Item::Garbled(_) => return Asked::Nothing("its answer to tools/list is not valid"),
                _ => {}
            }
        }
    };
    match tokio::time::timeout(PAGE, answer).await {
        Ok(asked) => {
            pending.finish();
            asked
        }
        Err(_elapsed) => {
            pending.abandon("the list of tools took too long");
            Asked::Nothing("it did not answer tools/list in time")
        }
    }
}

/// What a page says, for knowing it again.
fn digest(page: &Message) -> u64 {
    let mut hasher = DefaultHasher::new();
    for name in ["tools", "nextCursor"] {
        page.member(Place::Result, name).map(|member| page.raw(member.value)).hash(&mut hasher);
    }
    hasher.finish()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
