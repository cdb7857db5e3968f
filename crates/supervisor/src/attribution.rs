//! Whose call a legacy server's request belongs to. The request does not say so, hence: the related task if it names one,
//! else the only call in flight whose client can answer, else the call that has the process's turn, else a guess that is
//! marked as one. A process serves one isolation key, so that no guess reaches another principal. (eras §2.4)

use crate::instance::{Calls, Instance};
use crate::session::Session;
use crate::waiting::Waiting;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wire::ask::{self, Need};
use wire::era::Era;
use wire::message::Message;
use wire::method;
use wire::scan::{self, Place, Span};

/// What a call is about, as far as it matters for what the server may ask while it runs.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    method: &'static str,
    /// The tool, prompt, resource or task, as the client spelled it.
    name: Option<Bytes>,
    /// What the client of this very request can do, where each request says so.
    capabilities: Option<Bytes>,
    /// Its result may ask for input.
    may_ask: bool,
    pub(crate) has_turn: bool,
    /// It waits for its client, as the server does.
    parked: bool,
}

impl Subject {
    /// Of a client's request. `capabilities` is canonical JSON, and `None` for a session, which said it once.
    pub fn of(message: &Message, capabilities: Option<Bytes>) -> Self {
        let row = method::find(message.method());
        let named = row.and_then(|row| row.name_param).and_then(|param| message.member(Place::Params, param));
        Self {
            method: row.map_or("", |row| row.name),
            name: named.map(|member| message.bytes().slice(member.value.start..member.value.end)),
            capabilities,
            may_ask: ask::may_ask(message),
            has_turn: false,
            parked: false,
        }
    }

    pub(crate) fn resume(&mut self, capabilities: Bytes, has_turn: bool) {
        self.capabilities = Some(capabilities);
        self.has_turn = has_turn;
        self.parked = false;
    }

    pub(crate) fn park(&mut self) {
        self.has_turn = false;
        self.parked = true;
    }

    /// Two spellings of one name are one name.
    fn tool(&self) -> Option<Tool> {
        let name = self.name.as_ref().filter(|_| self.may_ask)?;
        let text = if name.first() == Some(&b'"') { scan::text(name, Span::all(name)) } else { return None };
        Some((self.method, text.into_owned()))
    }
}

/// How sure it is whose request it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attribution {
    /// It could be no other's.
    Exact,
    /// The call that has the turn of the calls that ask.
    Learned,
    /// The most recently started of several.
    Guess,
}

impl Attribution {
    /// For the record of a call.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Learned => "learned",
            Self::Guess => "guess",
        }
    }
}

/// The call that a request belongs to. `None` where no call in flight can answer it.
pub(crate) fn owner(calls: &Calls, need: Need, task: Option<&str>) -> Option<(u64, Attribution)> {
    let able: Vec<(u64, &Waiting)> =
        calls.waiting.iter().filter(|(_, waiting)| waiting.able(need)).map(|(id, waiting)| (*id, waiting)).collect();
    let newest = |among: &[(u64, &Waiting)]| among.iter().map(|(id, _)| *id).max();
    let of_task: Vec<_> = able.iter().filter(|(_, w)| task.is_some_and(|task| w.about_task(task))).copied().collect();
    if let Some(id) = newest(&of_task) {
        return Some((id, Attribution::Exact));
    }
    // A call whose question is open runs no further: who asks now is one of the others, if there are any.
    let running: Vec<_> = able.iter().filter(|(_, waiting)| !waiting.subject.parked).copied().collect();
    let (among, how) = match running.len() {
        0 => (&able, Attribution::Exact),
        all if all == able.len() => (&able, Attribution::Exact),
        _ => (&running, Attribution::Learned),
    };
    let id = newest(among)?;
    if one_addressee(among) {
        return Some((id, how));
    }
    let in_turn: Vec<_> = among.iter().filter(|(_, waiting)| waiting.subject.has_turn).copied().collect();
    match newest(&in_turn).filter(|_| one_addressee(&in_turn)) {
        Some(id) => Some((id, Attribution::Learned)),
        None => Some((id, Attribution::Guess)),
    }
}

/// One call, or calls of one session: whichever stream of it takes a request, its client is the right one.
fn one_addressee(calls: &[(u64, &Waiting)]) -> bool {
    let session = |at: usize| calls.get(at).and_then(|(_, waiting)| waiting.session.as_ref());
    let same = |at| session(0).zip(session(at)).is_some_and(|(one, other)| Arc::ptr_eq(one, other));
    calls.len() == 1 || (1..calls.len()).all(same)
}

impl Waiting {
    /// Whether its client can be asked such a thing while it waits. (E165, E169, E196, E200)
    pub(crate) fn able(&self, need: Need) -> bool {
        match (&self.session, &self.subject.capabilities) {
            (Some(session), _) => need.met_by(&session.caller().profile, Era::Legacy),
            (None, Some(capabilities)) => self.subject.may_ask && need.met_by(capabilities, Era::Modern),
            (None, None) => false,
        }
    }

    fn about_task(&self, task: &str) -> bool {
        let polled = || {
            let name = self.subject.name.as_ref().filter(|_| self.subject.method == "tasks/result")?;
            Some(scan::text(name, Span::all(name)) == task)
        };
        self.task.as_deref() == Some(task) || polled().unwrap_or(false)
    }
}

type Tool = (&'static str, String);

/// What is known about a tool (or prompt, or resource) that may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Knowledge {
    /// It was in flight when somebody asked; forgotten when it ends a turn without having asked.
    Suspected,
    Asks,
}

/// More than this are not remembered: what a client names must not fill the memory.
const MOST: usize = 1024;

/// The tools of a server that were seen to ask. Outlives its processes.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    count: AtomicUsize,
    tools: Mutex<HashMap<Tool, Knowledge>>,
}

impl Learned {
    pub(crate) fn asks(&self, subject: &Subject) -> bool {
        // Nearly every server knows no such tool, and then nothing is looked up.
        self.count.load(Ordering::Relaxed) > 0 && subject.tool().is_some_and(|tool| self.tools().contains_key(&tool))
    }

    fn learn(&self, subject: &Subject, knowledge: Knowledge) {
        let Some(tool) = subject.tool() else { return };
        let mut tools = self.tools();
        if tools.len() < MOST || tools.contains_key(&tool) {
            let known = tools.entry(tool).or_insert(knowledge);
            *known = knowledge.max(*known);
        }
        self.count.store(tools.len(), Ordering::Relaxed);
    }

    fn acquit(&self, subject: &Subject) {
        let Some(tool) = subject.tool() else { return };
        let mut tools = self.tools();
        if tools.get(&tool) == Some(&Knowledge::Suspected) {
            tools.remove(&tool);
        }
        self.count.store(tools.len(), Ordering::Relaxed);
    }

    fn tools(&self) -> MutexGuard<'_, HashMap<Tool, Knowledge>> {
        self.tools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server asked while `chosen` ran: from now on calls of its kind take turns. After a guess all that could have been meant
/// do. Roots are asked for by the server itself rather than by one of its tools, and teach nothing.
pub(crate) fn learn(learned: &Learned, calls: &Calls, need: Need, chosen: u64, how: Attribution) {
    if need == Need::Roots {
        return;
    }
    for (id, waiting) in calls.waiting.iter().filter(|(_, waiting)| waiting.able(need)) {
        match how {
            Attribution::Guess => learned.learn(&waiting.subject, Knowledge::Suspected),
            Attribution::Exact | Attribution::Learned if *id == chosen => {
                learned.learn(&waiting.subject, Knowledge::Asks);
            }
            Attribution::Exact | Attribution::Learned => {}
        }
    }
}

/// The turn of a process among the calls that ask: while one has it, what the server asks is that call's. A call gives it
/// away while the server waits for the call's client. The calls of one session share it, as they have one addressee.
#[derive(Debug)]
pub struct Turn {
    subject: Subject,
    learned: Arc<Learned>,
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Turn {
    /// The call has ended. `asked` says whether the server asked something while it ran.
    pub(crate) fn over(self, asked: bool) {
        if !asked {
            self.learned.acquit(&self.subject);
        }
    }
}

/// Who has the turn of a process.
#[derive(Debug)]
pub(crate) struct Turns {
    free: Arc<Semaphore>,
    /// The session that has it, if it is one.
    session: Mutex<(Weak<Session>, Weak<OwnedSemaphorePermit>)>,
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self { free: Arc::new(Semaphore::new(1)), session: Mutex::default() }
    }

    /// The process has ended: nobody waits for its turn any more.
    pub(crate) fn close(&self) {
        self.free.close();
    }

    fn shared(&self, session: &Arc<Session>) -> Option<Arc<OwnedSemaphorePermit>> {
        let holder = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if std::ptr::eq(holder.0.as_ptr(), Arc::as_ptr(session)) { holder.1.upgrade() } else { None }
    }

    async fn take(&self, session: Option<&Arc<Session>>) -> Option<Arc<OwnedSemaphorePermit>> {
        let own = |session| self.shared(session);
        if let Some(permit) = session.and_then(own) {
            return Some(permit);
        }
        let permit = Arc::new(self.free.clone().acquire_owned().await.ok()?);
        let holder = (session.map_or_else(Weak::new, Arc::downgrade), Arc::downgrade(&permit));
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = holder;
        Some(permit)
    }
}

impl Instance {
    /// Whether a call must have the turn before it is sent: it asks, and another call could be meant instead.
    pub fn takes_turns(&self, subject: &Subject) -> bool {
        self.era == Era::Legacy && !self.context.one_addressee && self.context.learned.asks(subject)
    }

    /// Waits for the turn. Cancel-safe. `None` when the process has ended.
    pub async fn turn(&self, subject: &Subject, session: Option<&Arc<Session>>) -> Option<Turn> {
        let permit = self.turns.take(session).await?;
        Some(Turn { subject: subject.clone(), learned: self.context.learned.clone(), _permit: permit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::Wish;
    use crate::mailbox::Mailbox;
    use wire::scan::{Limits, Side};

    fn subject(tool: &str, capabilities: &'static str) -> Subject {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}"}}}}"#);
        let limits = Limits { bytes: 1 << 16, depth: 64 };
        let message = Message::parse(Bytes::from(text), Side::Client, &limits).unwrap();
        Subject::of(&message, Some(Bytes::from_static(capabilities.as_bytes())))
    }

    fn calls(subjects: Vec<Subject>) -> Calls {
        let mut calls = Calls::default();
        for (id, subject) in (1..).zip(subjects) {
            let mailbox = Arc::new(Mailbox::new(1024));
            let waiting = Waiting::new(
                mailbox,
                Wish::Nothing,
                None,
                Bytes::from_static(b"1"),
                subject,
                crate::waiting::Stage::Sent,
            );
            calls.waiting.insert(id, waiting);
        }
        calls
    }

    const ELICITS: &str = r#"{"elicitation":{}}"#;

    #[test]
    fn e169_only_a_call_whose_own_request_can_answer_is_asked() {
        let two = calls(vec![subject("a", ELICITS), subject("b", "{}")]);
        assert_eq!(owner(&two, Need::Form, None), Some((1, Attribution::Exact)));
        assert_eq!(owner(&two, Need::Url, None), None);
        assert_eq!(owner(&two, Need::Roots, None), None);
        assert_eq!(owner(&Calls::default(), Need::Form, None), None);
    }

    #[test]
    fn e165_other_methods_are_never_asked() {
        let text = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
        let limits = Limits { bytes: 1 << 16, depth: 64 };
        let message = Message::parse(Bytes::from(text), Side::Client, &limits).unwrap();
        let list = Subject::of(&message, Some(Bytes::from_static(ELICITS.as_bytes())));
        assert_eq!(owner(&calls(vec![list]), Need::Form, None), None);
    }

    #[test]
    fn what_is_ambiguous_is_the_newest_and_a_guess_unless_one_has_the_turn_or_the_task() {
        let mut many = calls(vec![subject("a", ELICITS), subject("b", ELICITS), subject("c", ELICITS)]);
        assert_eq!(owner(&many, Need::Form, None), Some((3, Attribution::Guess)));
        many.waiting.get_mut(&2).unwrap().subject.has_turn = true;
        assert_eq!(owner(&many, Need::Form, None), Some((2, Attribution::Learned)));
        many.waiting.get_mut(&1).unwrap().task = Some("t".to_owned());
        assert_eq!(owner(&many, Need::Form, Some("t")), Some((1, Attribution::Exact)));
        assert_eq!(owner(&many, Need::Form, Some("u")), Some((2, Attribution::Learned)));
        let mut parked = calls(vec![subject("a", ELICITS), subject("b", ELICITS), subject("c", ELICITS)]);
        parked.waiting.get_mut(&3).unwrap().subject.park();
        assert_eq!(owner(&parked, Need::Form, None), Some((2, Attribution::Guess)));
        parked.waiting.get_mut(&2).unwrap().subject.park();
        assert_eq!(owner(&parked, Need::Form, None), Some((1, Attribution::Learned)));
        parked.waiting.retain(|id, _| *id == 3);
        assert_eq!(owner(&parked, Need::Form, None), Some((3, Attribution::Exact)));
    }

    #[test]
    fn after_a_guess_all_are_suspected_and_acquitted_when_they_end_without_asking() {
        let learned = Learned::default();
        let many = calls(vec![subject("a", ELICITS), subject("b", ELICITS), subject("c", "{}")]);
        learn(&learned, &many, Need::Form, 2, Attribution::Guess);
        let asks = |tool| learned.asks(&subject(tool, ELICITS));
        assert!(asks("a") && asks("b") && asks(r"\u0061") && !asks("c"));
        learned.acquit(&subject("a", ELICITS));
        assert!(!asks("a") && asks("b"));
        let one = calls(vec![subject("b", ELICITS)]);
        learn(&learned, &one, Need::Form, 1, Attribution::Exact);
        learned.acquit(&subject("b", ELICITS));
        assert!(asks("b"), "what was seen to ask is not acquitted");
        learn(&learned, &one, Need::Roots, 1, Attribution::Exact);
    }

    #[test]
    fn what_clients_name_does_not_fill_the_memory() {
        let learned = Learned::default();
        for n in 0..3 * MOST {
            learn(&learned, &calls(vec![subject(&n.to_string(), ELICITS)]), Need::Form, 1, Attribution::Exact);
        }
        assert_eq!(learned.tools().len(), MOST);
    }
}
