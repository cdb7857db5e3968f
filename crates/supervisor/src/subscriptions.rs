//! What the clients of a slot want to hear about: resources that sessions and listens subscribed to, and changes of lists.
//! It outlives the slot's processes. Each process is brought to it: a resource is subscribed to once however many want it,
//! the first who wants it and the last who no longer does are heard by the server, one at a time for each resource, and a
//! new process hears everything again, after which everybody is told that something may have changed meanwhile.
//! (B16–B18; E155–E164)
//!
//! A legacy server gets `resources/subscribe`; a modern one a `subscriptions/listen` of ours for each resource, and one for
//! the lists as long as sessions lean on the slot ([`crate::listen`]).

use crate::absent::Absent;
use crate::instance::{Instance, Stalled, Unanswered};
use crate::listen::{self, Listen};
use crate::mailbox::{ExitReport, Item, Mailbox};
use crate::route;
use crate::session::Session;
use crate::slot::{Slot, State};
use bytes::Bytes;
use model::report::LogSource;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use wire::bridge;
use wire::era::Era;
use wire::message::{Message, Shape};
use wire::scan::{Limits, Side};
use wire::subscription::{self, Filter, List, covers};

/// How long a server may take to answer a subscription.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Who wants to hear about a resource.
#[derive(Clone, Debug)]
pub(crate) enum Who {
    Session(Arc<Session>),
    Listener(Arc<Listener>),
}

/// A modern client's listen in front of a legacy server.
#[derive(Debug)]
pub(crate) struct Listener {
    id: u64,
    lists: Vec<List>,
    mailbox: Mailbox,
}

/// How a subscription went.
#[derive(Debug)]
pub enum Subscribed {
    /// The server tells its updates already.
    Here,
    /// The server was asked, and answered this.
    Answered(Message),
    /// The modern server does not tell updates of this resource.
    Refused,
    /// The server declares no subscriptions.
    Unknown,
    /// Too many resources of this process are subscribed to.
    Full,
    /// The server did not answer.
    Unanswered(Unanswered),
}

impl Subscribed {
    /// Whether updates will be told.
    pub fn agreed(&self) -> bool {
        match self {
            Self::Here => true,
            Self::Answered(message) => message.shape() == Shape::Success,
            Self::Refused | Self::Unknown | Self::Full | Self::Unanswered(_) => false,
        }
    }
}

/// The wishes of a slot's clients.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    wishes: Mutex<Wishes>,
}

#[derive(Debug, Default)]
struct Wishes {
    topics: HashMap<String, Topic>,
    listeners: HashMap<u64, Arc<Listener>>,
    next: u64,
    /// Our listen for the lists of a modern server, while sessions lean on the slot.
    lists: Option<Listen>,
    /// A process has served already: the next one is another.
    served: bool,
    /// The slot has ended, and so.
    ended: Option<ExitReport>,
}

/// One resource.
#[derive(Debug, Default)]
struct Topic {
    sessions: HashMap<String, Arc<Session>>,
    listeners: HashMap<u64, Arc<Listener>>,
    turn: Arc<tokio::sync::Mutex<Told>>,
}

impl Topic {
    fn wanted(&self) -> bool {
        !self.sessions.is_empty() || !self.listeners.is_empty()
    }
}

/// What the server knows of a resource's subscription.
#[derive(Debug, Default)]
enum Told {
    #[default]
    Nothing,
    /// This legacy process was asked for it and agreed.
    Process(u64),
    /// Our listen at a modern server.
    Listen(Listen),
}

impl Subscriptions {
    /// Whether somebody's listen needs the process. Sessions keep it by themselves.
    pub(crate) fn pinned(&self) -> bool {
        !self.wishes().listeners.is_empty()
    }

    /// Who subscribed to `uri` or to what contains it. (E163)
    fn concerned(&self, uri: &str) -> (Vec<Arc<Session>>, Vec<Arc<Listener>>) {
        let wishes = self.wishes();
        let (mut sessions, mut listeners) = (HashMap::new(), HashMap::new());
        for (_, topic) in wishes.topics.iter().filter(|(wanted, _)| covers(wanted, uri)) {
            sessions.extend(topic.sessions.iter().map(|(id, session)| (id.clone(), session.clone())));
            listeners.extend(topic.listeners.iter().map(|(id, listener)| (*id, listener.clone())));
        }
        (sessions.into_values().collect(), listeners.into_values().collect())
    }

    fn holders(&self, uri: &str) -> (Vec<Arc<Session>>, Vec<Arc<Listener>>) {
        let wishes = self.wishes();
        wishes.topics.get(uri).map_or_else(Default::default, |topic| {
            (topic.sessions.values().cloned().collect(), topic.listeners.values().cloned().collect())
        })
    }

    /// Whether this session is subscribed to `uri` here.
    pub(crate) fn holds(&self, session: &str, uri: &str) -> bool {
        self.wishes().topics.get(uri).is_some_and(|topic| topic.sessions.contains_key(session))
    }

    /// Notes the wish. `None` over the limit.
    fn enter(&self, uri: &str, who: &Who, limit: u32) -> Option<Arc<tokio::sync::Mutex<Told>>> {
        let mut wishes = self.wishes();
        if wishes.topics.len() >= limit as usize && !wishes.topics.contains_key(uri) {
            return None;
        }
        let topic = wishes.topics.entry(uri.to_owned()).or_default();
        match who {
            Who::Session(session) => drop(topic.sessions.insert(session.id().to_owned(), session.clone())),
            Who::Listener(listener) => drop(topic.listeners.insert(listener.id, listener.clone())),
        }
        Some(topic.turn.clone())
    }

    /// Takes the wish back. Its turn, if it was there.
    fn leave(&self, uri: &str, who: &Who) -> Option<Arc<tokio::sync::Mutex<Told>>> {
        let mut wishes = self.wishes();
        let topic = wishes.topics.get_mut(uri)?;
        let was_there = match who {
            Who::Session(session) => topic.sessions.remove(session.id()).is_some(),
            Who::Listener(listener) => topic.listeners.remove(&listener.id).is_some(),
        };
        was_there.then(|| topic.turn.clone())
    }

    fn wanted(&self, uri: &str) -> bool {
        self.wishes().topics.get(uri).is_some_and(Topic::wanted)
    }

    /// Forgets a resource that nobody wants.
    fn tidy(&self, uri: &str) {
        let mut wishes = self.wishes();
        if wishes.topics.get(uri).is_some_and(|topic| !topic.wanted()) {
            wishes.topics.remove(uri);
        }
    }

    fn of_session(&self, session: &str) -> Vec<String> {
        let wishes = self.wishes();
        let held = wishes.topics.iter().filter(|(_, topic)| topic.sessions.contains_key(session));
        held.map(|(uri, _)| uri.clone()).collect()
    }

    fn listening(&self, list: List) -> Vec<Arc<Listener>> {
        self.wishes().listeners.values().filter(|listener| listener.lists.contains(&list)).cloned().collect()
    }

    /// The slot has ended: every listen hears it.
    pub(crate) fn end(&self, report: &ExitReport) {
        let mut wishes = self.wishes();
        wishes.ended = Some(report.clone());
        if let Some(lists) = wishes.lists.take() {
            lists.end();
        }
        for listener in wishes.listeners.values() {
            listener.mailbox.push(Item::Gone(report.clone()));
        }
    }

    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// What a server says, on its way to who asked for it.

/// A resource was updated.
pub(crate) fn updated(instance: &Arc<Instance>, message: &Message, uri: &str) {
    let (sessions, listeners) = instance.context.subscriptions.concerned(uri);
    tell(instance, message, &sessions, &listeners);
}

/// A list has changed: every listen that asked for it is told. Sessions are told elsewhere.
pub(crate) fn list_changed(instance: &Arc<Instance>, message: &Message, list: List) {
    tell(instance, message, &[], &instance.context.subscriptions.listening(list));
}

/// A modern server told our listen for `uri` about an update.
pub(crate) fn tell_holders(instance: &Arc<Instance>, message: &Message, uri: &str) {
    let (sessions, listeners) = instance.context.subscriptions.holders(uri);
    tell(instance, message, &sessions, &listeners);
}

/// A modern server told our listen that a list has changed.
pub(crate) fn tell_sessions(instance: &Arc<Instance>, message: &Message) {
    tell(instance, message, &instance.context.sessions(), &[]);
}

fn tell(instance: &Arc<Instance>, message: &Message, sessions: &[Arc<Session>], listeners: &[Arc<Listener>]) {
    if !sessions.is_empty() {
        let body = subscription::untagged(message);
        for session in sessions {
            route::deliver(instance, session, message, &body);
        }
    }
    for listener in listeners {
        listener.mailbox.push(Item::Note(message.clone()));
    }
}

/// A notification of our own making.
fn made(body: Vec<u8>) -> Option<Message> {
    let limits = Limits { bytes: 1 << 20, depth: 16 };
    Message::parse(Bytes::from(body), Side::Server, &limits).ok()
}

/// Something may have been missed of the holders of `uri`. (E159)
pub(crate) fn maybe_updated(instance: &Arc<Instance>, uri: &str) {
    let (sessions, listeners) = instance.context.subscriptions.holders(uri);
    if let Some(message) = made(subscription::updated(uri, None)) {
        tell(instance, &message, &sessions, &listeners);
    }
}

/// The lists of another process may be others: everybody is told. (E159)
pub(crate) fn lists_maybe_changed(instance: &Arc<Instance>) {
    let Some(greeting) = instance.greeting() else { return };
    for list in List::ALL.into_iter().filter(|list| greeting.declares(list.feature(), "listChanged")) {
        if let Some(message) = made(subscription::list_changed(list, None)) {
            tell(instance, &message, &instance.context.sessions(), &instance.context.subscriptions.listening(list));
        }
    }
}

// What clients want, on its way to the server.

impl Slot {
    /// `who` wants to hear about `uri`. The first one's own request goes to the server, if it is given as `words`. Goes on
    /// where the caller is dropped: what was begun with the server is ended with it.
    pub(crate) async fn subscribe(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        who: Who,
        uri: String,
        words: Option<Message>,
    ) -> Subscribed {
        // A legacy server speaks for itself: it is as in front of it.
        let declared = instance.greeting().is_some_and(|greeting| greeting.declares("resources", "subscribe"));
        if instance.era() == Era::Modern && !declared {
            return Subscribed::Unknown;
        }
        let (slot, instance) = (self.clone(), instance.clone());
        let begun = stdx::task::spawn("subscribe", async move { slot.enter(&instance, &who, &uri, words).await });
        begun.await.ok().flatten().unwrap_or(Subscribed::Refused)
    }

    async fn enter(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        who: &Who,
        uri: &str,
        words: Option<Message>,
    ) -> Subscribed {
        let wishes = &self.context.subscriptions;
        let Some(turn) = wishes.enter(uri, who, self.context.limits.subscriptions) else { return Subscribed::Full };
        // A session that ended meanwhile was untied before this wish was there: nobody else would take it back.
        if let Who::Session(session) = who
            && session.ended().is_cancelled()
        {
            self.leave(who, uri, None).await;
            return Subscribed::Refused;
        }
        let mut told = turn.lock().await;
        let mut instance = instance.clone();
        let outcome = loop {
            let outcome = match (&*told, instance.era()) {
                (Told::Process(id), _) if *id == instance.id() => Subscribed::Here,
                (Told::Listen(listen), _) if listen.lives() => Subscribed::Here,
                (_, Era::Legacy) => ask(&instance, uri, words.clone(), &mut told).await,
                (_, Era::Modern) => self.listen_for(uri, &mut told).await,
            };
            // The process ended before it answered: the next one is asked.
            match (&outcome, self.ready_after(&outcome).await) {
                (Subscribed::Unanswered(_), Some(next)) if next.id() != instance.id() => instance = next,
                _ => break outcome,
            }
        };
        drop(told);
        if !outcome.agreed() {
            self.leave(who, uri, None).await;
        }
        outcome
    }

    async fn ready_after(&self, outcome: &Subscribed) -> Option<Arc<Instance>> {
        match outcome {
            Subscribed::Unanswered(Unanswered::Gone(_) | Unanswered::Stalled(Stalled::Ended(_))) => {
                self.ready().await.ok()
            }
            _ => None,
        }
    }

    async fn listen_for(self: &Arc<Self>, uri: &str, told: &mut Told) -> Subscribed {
        let filter = Filter { lists: Vec::new(), uris: vec![uri.to_owned()] };
        let (listen, acknowledged) = listen::open(self, filter);
        let honoured = tokio::time::timeout(PATIENCE, acknowledged).await.ok().and_then(Result::ok);
        match honoured {
            Some(Some(filter)) if filter.uris.iter().any(|honoured| honoured == uri) => {
                *told = Told::Listen(listen);
                Subscribed::Here
            }
            Some(_) | None => {
                listen.end();
                Subscribed::Refused
            }
        }
    }

    /// `who` no longer wants to hear about `uri`. The last one's own request goes to the server; its answer, if it did.
    pub(crate) async fn leave(
        self: &Arc<Self>,
        who: &Who,
        uri: &str,
        words: Option<Message>,
    ) -> Option<Result<Message, Unanswered>> {
        let wishes = &self.context.subscriptions;
        let turn = wishes.leave(uri, who)?;
        let mut told = turn.lock().await;
        // Somebody may have come while this one waited for its turn.
        if wishes.wanted(uri) {
            return None;
        }
        let answer = match (std::mem::take(&mut *told), self.state()) {
            (Told::Process(id), State::Ready(instance)) if instance.id() == id => {
                Some(request(&instance, uri, words, false).await)
            }
            (Told::Listen(listen), _) => {
                listen.end();
                None
            }
            (Told::Process(_) | Told::Nothing, _) => None,
        };
        wishes.tidy(uri);
        answer
    }

    /// A session no longer leans on the slot.
    pub(crate) fn detach(self: &Arc<Self>, session: &str) {
        let Some(session) = self.context.detach(session) else { return };
        let mut wishes = self.context.subscriptions.wishes();
        if self.context.session_count() == 0
            && let Some(lists) = wishes.lists.take()
        {
            lists.end();
        }
        drop(wishes);
        let held = self.context.subscriptions.of_session(session.id());
        if held.is_empty() {
            return;
        }
        let slot = self.clone();
        stdx::task::spawn("unsubscribe", async move {
            let who = Who::Session(session);
            for uri in held {
                slot.leave(&who, &uri, None).await;
            }
        });
    }

    /// A session leans on the slot: a modern server is listened to on its behalf.
    pub(crate) fn attach(self: &Arc<Self>, session: &Arc<Session>) {
        if !self.context.attach(session) || self.key.era != Era::Modern {
            return;
        }
        let mut wishes = self.context.subscriptions.wishes();
        if wishes.ended.is_none() && !wishes.lists.as_ref().is_some_and(Listen::lives) {
            let filter = Filter { lists: List::ALL.to_vec(), uris: Vec::new() };
            wishes.lists = Some(listen::open(self, filter).0);
        }
    }

    /// Waits until changes of lists are heard of, where the server is one that is listened to for that. Not for ever.
    pub(crate) async fn heard(&self) {
        let settled = self.context.subscriptions.wishes().lists.as_ref().map(Listen::settled);
        if let Some(mut settled) = settled {
            let _ = tokio::time::timeout(Duration::from_secs(2), settled.wait_for(|settled| *settled)).await;
        }
    }

    /// A process serves: if it is not the first, it hears of every wish, and the gap between the two is told.
    pub(crate) fn renew(self: &Arc<Self>, instance: &Arc<Instance>) {
        let first = !std::mem::replace(&mut self.context.subscriptions.wishes().served, true);
        // A modern server's listens renew themselves.
        if first || instance.era() == Era::Modern {
            return;
        }
        let (slot, instance) = (self.clone(), instance.clone());
        stdx::task::spawn("subscribe again", async move {
            lists_maybe_changed(&instance);
            let uris: Vec<String> = slot.context.subscriptions.wishes().topics.keys().cloned().collect();
            for uri in uris {
                slot.again(&instance, &uri).await;
            }
        });
    }

    async fn again(&self, instance: &Arc<Instance>, uri: &str) {
        let wishes = &self.context.subscriptions;
        let Some(turn) = wishes.wishes().topics.get(uri).map(|topic| topic.turn.clone()) else { return };
        let mut told = turn.lock().await;
        if !wishes.wanted(uri) {
            return;
        }
        // Somebody who came after the restart may have been faster.
        if !matches!(&*told, Told::Process(id) if *id == instance.id())
            && !ask(instance, uri, None, &mut told).await.agreed()
        {
            let start: String = uri.chars().take(500).collect();
            let text = format!("after a restart the server takes no subscription to {start} any more");
            self.context.log.add(instance.id(), LogSource::Host, &text);
        }
        drop(told);
        maybe_updated(instance, uri);
    }
}

/// Subscribes a legacy process.
async fn ask(instance: &Arc<Instance>, uri: &str, words: Option<Message>, told: &mut Told) -> Subscribed {
    *told = Told::Nothing;
    match request(instance, uri, words, true).await {
        Ok(message) => {
            if message.shape() == Shape::Success {
                *told = Told::Process(instance.id());
            }
            Subscribed::Answered(message)
        }
        Err(unanswered) => Subscribed::Unanswered(unanswered),
    }
}

async fn request(
    instance: &Arc<Instance>,
    uri: &str,
    words: Option<Message>,
    wanted: bool,
) -> Result<Message, Unanswered> {
    let line = |line: &mut Vec<u8>, id: u64| match &words {
        Some(words) => bridge::request_line(line, words, bridge::Leg::LegacyToLegacy, id, None),
        None => subscription::subscribe_line(line, id, uri, wanted),
    };
    instance.request(line, PATIENCE).await
}

/// A modern client's listen at a legacy server. [`Listening::close`] ends it.
#[derive(Debug)]
pub struct Listening {
    slot: Arc<Slot>,
    instance: Arc<Instance>,
    listener: Arc<Listener>,
    wanted: Filter,
}

impl Listening {
    /// Registers what can be kept of `filter`. Changes of lists are heard from here on.
    pub(crate) fn open(slot: &Arc<Slot>, instance: &Arc<Instance>, filter: Filter) -> Result<Self, Absent> {
        let wanted = instance.greeting().map_or_else(Filter::default, |greeting| filter.kept_by(greeting));
        let mut wishes = slot.context.subscriptions.wishes();
        if wishes.ended.is_some() {
            return Err(Absent::Stopped(slot.context.server.clone()));
        }
        wishes.next += 1;
        let mailbox = Mailbox::new(slot.context.limits.mailbox_bytes);
        let listener = Arc::new(Listener { id: wishes.next, lists: wanted.lists.clone(), mailbox });
        wishes.listeners.insert(listener.id, listener.clone());
        drop(wishes);
        Ok(Self { slot: slot.clone(), instance: instance.clone(), listener, wanted })
    }

    /// Subscribes to its resources; what the server honours of it all. Cancel-safe, but begins anew. (E155)
    pub async fn honour(&self) -> Filter {
        let mut honoured = Filter { lists: self.wanted.lists.clone(), uris: Vec::new() };
        for uri in &self.wanted.uris {
            let who = Who::Listener(self.listener.clone());
            let outcome = self.slot.subscribe(&self.instance, who, uri.clone(), None).await;
            if outcome.agreed() {
                honoured.uris.push(uri.clone());
            } else if matches!(outcome, Subscribed::Unanswered(_)) {
                // A server that is deaf to one is deaf to all.
                break;
            }
        }
        honoured
    }

    /// The next notification; `None` when the slot has ended. Cancel-safe.
    pub async fn next(&self) -> Option<Message> {
        loop {
            match self.listener.mailbox.next().await {
                Item::Note(message) => return Some(message),
                Item::Gone(_) => return None,
                Item::Ask(_)
                | Item::Question(_)
                | Item::Withdrawn(_)
                | Item::Answer(_)
                | Item::Garbled(_)
                | Item::Cancelled => {}
            }
        }
    }

    /// Ends it.
    pub async fn close(self) {
        self.slot.context.subscriptions.wishes().listeners.remove(&self.listener.id);
        let who = Who::Listener(self.listener.clone());
        let held: HashSet<String> = self.wanted.uris.into_iter().collect();
        for uri in held {
            self.slot.leave(&who, &uri, None).await;
        }
        self.slot.touch();
    }
}
