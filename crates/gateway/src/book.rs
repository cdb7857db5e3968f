//! What the gateway writes into the ledger: an intent before a call reaches a server, and its end before the answer leaves.
//! Without a record there is no call; without the record of its end nobody gets its result.

use crate::denied::Denials;
use crate::permit::Permit;
use crate::receipt::{Receipt, Written};
use bytes::Bytes;
use ledger::writer::{Refused, Until, Writer};
use ledger::{Hash, leaf_hash};
use model::Principal;
use model::record::{CallEnd, CallId, CallStart, Committed, EncodeError, Ended, LogEvent, Record, What, Who, named};
use oauth::{Contents, KeepError, Subject, SubjectError, Subjects, Verified};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use stdx::clock::{monotonic, unix_ms};
use supervisor::{Instance, Session};
use tokio::sync::oneshot;
use wire::message::Message;
use wire::scan::{Place, canonical};

/// How long a record waits that could not be written.
const LATER: Duration = Duration::from_secs(1);
/// From so many calls at once on their records are written together.
const TOGETHER: usize = 8;

/// Why a record could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unrecorded {
    #[error("the call cannot be recorded, and was not made: {0}")]
    Start(Cause),
    #[error("the call ran, and its end cannot be recorded, so its result is withheld: {0}")]
    End(Cause),
}

/// What was wrong with the ledger.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Subject(#[from] SubjectError),
    #[error("{0}; the operator wants no calls then")]
    Stale(String),
    #[error(transparent)]
    Content(#[from] KeepError),
}

/// Says why no calls are to be made now, if that is so: the witnesses have not cosigned for too long.
#[derive(Clone)]
pub struct Stale(pub Arc<dyn Fn() -> Option<String> + Send + Sync>);

impl std::fmt::Debug for Stale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stale")
    }
}

/// What calls wait for, and what becomes of those that cannot be recorded.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What every call's records wait for.
    pub until: Until,
    /// `SERVER/TOOL`; `*` in the place of either stands for all. Their calls wait for the disk.
    pub strict_tools: Vec<String>,
    /// Whether a call that cannot be recorded is made and counted, instead of refused.
    pub goes_on: bool,
    /// Whether calls are refused now for want of witnesses. `None`: they never are.
    pub stale: Option<Stale>,
    /// Where arguments and results are kept, if they are.
    pub contents: Option<Arc<Contents>>,
}

impl Rules {
    /// What the records of a call wait for. A tool that may destroy something is worth waiting for the disk.
    fn until(&self, going: &Going<'_>) -> Until {
        if self.until == Until::Disk || going.message.method() != "tools/call" {
            return self.until;
        }
        let tool = going.message.text(Place::Params, "name").unwrap_or_default();
        let named = self.strict_tools.iter().any(|rule| matches(rule, going.instance.server().as_str(), &tool));
        if named || going.instance.may_destroy(&tool) { Until::Disk } else { self.until }
    }
}

fn matches(rule: &str, server: &str, tool: &str) -> bool {
    let fits = |part: &str, name: &str| part == "*" || part == name;
    rule.split_once('/').is_some_and(|(of_server, of_tool)| fits(of_server, server) && fits(of_tool, tool))
}

/// The gateway's pen. Clones write into the same ledger.
#[derive(Clone, Debug)]
pub struct Book {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    writer: Writer,
    subjects: Subjects,
    /// Of the log.
    origin: Arc<str>,
    /// Number of this daemon.
    epoch: u64,
    calls: AtomicU64,
    rules: Rules,
    open: Arc<OpenCalls>,
    denials: Denials,
    /// Calls that were made without a record, and of which no record says so yet.
    unrecorded: AtomicU64,
    /// Why contents cannot be kept now.
    unkept: Mutex<Option<String>>,
}

/// The calls whose start is in the ledger and whose end is not.
#[derive(Debug, Default)]
pub struct OpenCalls {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Number of the call, index of its start.
    own: BTreeMap<u64, u64>,
    /// From here on an earlier daemon may have left some.
    earlier: Option<u64>,
    /// From here on there may be starts of calls that were refused: the disk failed in the middle.
    doubtful: Option<u64>,
    /// Entries of the latest checkpoint: what comes later has no lower index.
    signed: u64,
}

impl OpenCalls {
    /// The index of the oldest start.
    pub fn oldest(&self) -> Option<u64> {
        let table = self.table();
        // Calls are numbered in the order in which they come; their starts need not be, but are nearly so.
        table.own.values().copied().chain(table.earlier).chain(table.doubtful).min()
    }

    /// Some of an earlier daemon may be open, from the index `since` on.
    pub fn keep(&self, since: u64) {
        self.table().earlier = Some(since);
    }

    /// A checkpoint over `size` entries was signed.
    pub fn signed(&self, size: u64) {
        self.table().signed = size;
    }

    /// A call has begun. Its index is not known where nobody waited for it.
    fn begun(&self, number: u64, index: Option<u64>) {
        let mut table = self.table();
        let index = index.unwrap_or(table.signed);
        table.own.insert(number, index);
    }

    /// It was refused, and may be in the log all the same. The next daemon looks.
    fn doubted(&self, number: u64) {
        let mut table = self.table();
        let index = table.own.remove(&number);
        table.doubtful = table.doubtful.into_iter().chain(index).min();
    }

    /// It has its end.
    fn ended(&self, number: u64) {
        self.table().own.remove(&number);
    }

    /// How many calls of this daemon run now.
    fn running(&self) -> usize {
        self.table().own.len()
    }

    /// All of earlier daemons have their ends.
    pub fn keep_no_longer(&self) {
        self.table().earlier = None;
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is about to reach a process.
#[derive(Clone, Copy)]
pub(crate) struct Going<'a> {
    pub(crate) message: &'a Message,
    /// Present for legacy clients.
    pub(crate) session: Option<&'a Session>,
    pub(crate) instance: &'a Arc<Instance>,
    /// The call that asked its client what this request answers.
    pub(crate) follows: Option<CallId>,
    /// Its client wants to know where its records are.
    pub(crate) receipt: bool,
}

/// Proof that a call was recorded. Whoever has it says how the call ended.
#[derive(Debug)]
#[must_use]
pub(crate) struct Intent {
    book: Book,
    until: Until,
    call: CallId,
    subject: Arc<Subject>,
    client_id: Bytes,
    begun: Instant,
    /// Where its start is, if its client wants a receipt.
    start: Option<Written>,
}

impl Book {
    /// Writes through `writer` into the log `origin`, for the daemon that has the number `epoch`.
    pub fn new(
        writer: Writer,
        subjects: Subjects,
        origin: &str,
        epoch: u64,
        rules: Rules,
        open: Arc<OpenCalls>,
    ) -> Self {
        let (origin, denials) = (origin.into(), Denials::default());
        let (calls, unrecorded) = (AtomicU64::new(1), AtomicU64::new(0));
        let unkept = Mutex::default();
        let inner = Inner { writer, subjects, origin, epoch, calls, rules, open, denials, unrecorded, unkept };
        Self { inner: Arc::new(inner) }
    }

    /// Records that a call is about to reach a process. `None` where the operator wants calls to go on without.
    pub(crate) async fn intend(&self, permit: &Permit, going: Going<'_>) -> Result<Option<Intent>, Unrecorded> {
        if let Some(why) = self.inner.rules.stale.as_ref().and_then(|stale| (stale.0)()) {
            return Err(Unrecorded::Start(Cause::Stale(why)));
        }
        let until = self.inner.rules.until(&going);
        // Which tools a server shows is recorded, whatever this call waits for.
        if going.message.method() == "tools/call" {
            going.instance.want_tools();
        }
        let intended = async {
            let subject = self.subject(permit.principal()).await?;
            let number = self.inner.calls.fetch_add(1, Ordering::Relaxed);
            let call = CallId { epoch: self.inner.epoch, number };
            let mut start = start((call, until), &subject, permit.token(), &going);
            if let Some((args, raw)) = start.args.as_mut().zip(raw_arguments(going.message)) {
                args.kept = self.keep(&subject, &format!("{call} args"), raw)?;
            }
            // Before it is written: a checkpoint that covers it must find it here.
            self.inner.open.begun(number, None);
            let start = match self.append_hashed(What::CallStart(Box::new(start)), until, going.receipt).await {
                Ok((index, leaf)) => {
                    if index.is_some() {
                        self.inner.open.begun(number, index);
                    }
                    leaf.map(|leaf| Written { index, leaf })
                }
                Err(cause) => {
                    match cause {
                        Cause::Refused(Refused::Broken(_)) => self.inner.open.doubted(number),
                        _ => self.inner.open.ended(number),
                    }
                    return Err(cause);
                }
            };
            let (client_id, begun) = (going.message.id().unwrap_or_default(), monotonic());
            Ok(Intent { book: self.clone(), until, call, subject, client_id, begun, start })
        };
        match intended.await {
            Ok(intent) => Ok(Some(intent)),
            Err(Cause::Refused(Refused::Full | Refused::Broken(_)) | Cause::Content(_)) if self.inner.rules.goes_on => {
                if self.inner.unrecorded.fetch_add(1, Ordering::Relaxed) == 0 {
                    self.say_what_is_unrecorded();
                }
                Ok(None)
            }
            Err(cause) => Err(Unrecorded::Start(cause)),
        }
    }

    /// The principal as the ledger names it.
    pub(crate) async fn subject(&self, principal: &Principal) -> Result<Arc<Subject>, SubjectError> {
        match self.inner.subjects.known(principal) {
            Some(known) => Ok(known),
            None => Box::pin(self.inner.subjects.of(principal)).await,
        }
    }

    /// Requests that were turned away and are not written yet.
    pub(crate) fn denials(&self) -> &Denials {
        &self.inner.denials
    }

    /// Once the ledger takes records again, one says how many calls were made without.
    fn say_what_is_unrecorded(&self) {
        let book = self.clone();
        stdx::task::spawn("record how many calls have no record", async move {
            loop {
                tokio::time::sleep(LATER).await;
                if book.write_unrecorded().await {
                    return;
                }
            }
        });
    }

    /// Writes how many calls were made without a record. False where the ledger takes nothing, and they wait.
    pub async fn write_unrecorded(&self) -> bool {
        let calls = self.inner.unrecorded.swap(0, Ordering::Relaxed);
        if calls == 0 {
            return true;
        }
        match self.append(What::Log(LogEvent::Unrecorded { calls }), Until::Disk).await {
            Ok(_) => true,
            Err(_) => {
                self.inner.unrecorded.fetch_add(calls, Ordering::Relaxed);
                false
            }
        }
    }

    /// Why what calls say cannot be kept now, if that is so.
    pub fn unkept(&self) -> Option<String> {
        self.inner.unkept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether calls go on without records where none can be written.
    pub fn goes_on(&self) -> bool {
        self.inner.rules.goes_on
    }

    /// Keeps a content, where contents are kept.
    fn keep(&self, subject: &Subject, place: &str, content: &[u8]) -> Result<Option<Cow<'static, str>>, Cause> {
        let Some(contents) = &self.inner.rules.contents else { return Ok(None) };
        let kept = contents.keep(subject, place, content);
        let why = kept.as_ref().err().map(|error| stdx::chain::Chain(error).to_string());
        *self.inner.unkept.lock().unwrap_or_else(PoisonError::into_inner) = why;
        Ok(Some(Cow::Owned(kept?)))
    }

    /// Writes a record. Its index, where that is known.
    pub(crate) async fn append(&self, what: What<'_>, until: Until) -> Result<Option<u64>, Cause> {
        self.append_hashed(what, until, false).await.map(|(index, _)| index)
    }

    /// Gives the record's index, where that is known, and its hash, where it is wanted.
    async fn append_hashed(
        &self,
        what: What<'_>,
        until: Until,
        hashed: bool,
    ) -> Result<(Option<u64>, Option<Hash>), Cause> {
        let entry = Record::new(unix_ms(), what).encode()?;
        let leaf = hashed.then(|| leaf_hash(&entry));
        let (tell, told) = oneshot::channel();
        self.inner.writer.offer(entry, until, move |outcome| drop(tell.send(outcome)));
        // Under load others are about to append, too: one write for all of them costs less than one for each.
        if self.inner.open.running() >= TOGETHER {
            tokio::task::yield_now().await;
        }
        self.inner.writer.flush();
        Ok((told.await.unwrap_or(Err(Refused::Closed))?.index, leaf))
    }
}

fn start<'a>(
    (call, until): (CallId, Until),
    subject: &'a Subject,
    token: Option<&'a Verified>,
    going: &Going<'a>,
) -> CallStart<'a> {
    let (message, instance) = (going.message, going.instance);
    let (by, token) = match token {
        Some(token) => ("token", Some(token.token_id().into())),
        None => ("open", None),
    };
    CallStart {
        call,
        who: Who { sub: subject.name().into(), by: by.into(), token },
        follows: going.follows,
        server: instance.server().as_str().into(),
        generation: instance.generation(),
        instance: instance.id(),
        pid: instance.process(),
        era: if going.session.is_some() { "legacy" } else { "modern" }.into(),
        client: match going.session {
            Some(session) => wire::greeting::client(session.client_info()),
            None => wire::greeting::client_of(message),
        }
        .map(|client| named(&client).into_owned().into()),
        method: named(message.method()),
        name: name(message).map(Into::into),
        args: arguments(message).map(|(canonical, len)| Committed {
            hmac: subject.commit(&format!("{call} args"), &canonical).into(),
            len: len as u64,
            kept: None,
        }),
        session: going.session.map(|session| subject.commit("session", session.id().as_bytes()).into()),
        mode: match until {
            Until::Disk => Some("strict".into()),
            Until::Kernel => None,
            Until::Queued => Some("async".into()),
        },
        trace: message.text(Place::Meta, "traceparent").map(|trace| named(&trace).into_owned().into()),
    }
}

/// The tool, prompt or resource that a request names.
pub(crate) fn name(message: &Message) -> Option<String> {
    // An address may carry a password or a key.
    let uri = || message.text(Place::Params, "uri").map(|uri| model::redact::text(&uri).into_owned().into());
    let name = message.text(Place::Params, "name").or_else(uri);
    name.map(|name| named(&name).into_owned())
}

/// The arguments of a call in canonical form, and their length as they were sent.
fn raw_arguments(message: &Message) -> Option<&[u8]> {
    message.member(Place::Params, "arguments").map(|arguments| message.raw(arguments.value))
}

fn arguments(message: &Message) -> Option<(Vec<u8>, usize)> {
    let arguments = message.member(Place::Params, "arguments")?.value;
    Some((canonical(message.bytes(), arguments), message.raw(arguments).len()))
}

impl Intent {
    /// Under which name the call is in the ledger.
    pub(crate) fn call(&self) -> CallId {
        self.call
    }

    /// The request's id, as its client spelled it.
    pub(crate) fn client_id(&self) -> &Bytes {
        &self.client_id
    }

    /// Whether its client wants a receipt.
    pub(crate) fn wants_receipt(&self) -> bool {
        self.start.is_some()
    }

    /// Records how the call ended, with the answer that its client is about to get. The receipt, if that is wanted.
    pub(crate) async fn finish(
        self,
        outcome: Ended,
        error: Option<&'static str>,
        answer: Option<&[u8]>,
    ) -> Result<Option<Receipt>, Unrecorded> {
        let micros = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let end = CallEnd { call: self.call, outcome, error: error.map(Into::into), result: None, micros };
        let written = match answer.map(|answer| self.committed(answer)).transpose() {
            Ok(result) => {
                let end = CallEnd { result, ..end.clone() };
                self.book.append_hashed(What::CallEnd(end), self.until, self.wants_receipt()).await
            }
            Err(cause) => Err(cause),
        };
        let goes_on = self.book.inner.rules.goes_on;
        match written {
            Ok((index, leaf)) => {
                self.book.inner.open.ended(self.call.number);
                let places = self.start.zip(leaf.map(|leaf| Written { index, leaf }));
                Ok(places.map(|(start, end)| Receipt { origin: self.book.inner.origin.clone(), start, end }))
            }
            Err(cause) if goes_on => {
                self.ends_later(&cause, end);
                Ok(None)
            }
            Err(cause) => {
                self.ends_later(&cause, CallEnd { error: Some("result_withheld".into()), ..end });
                Err(Unrecorded::End(cause))
            }
        }
    }

    fn committed(&self, answer: &[u8]) -> Result<Committed<'static>, Cause> {
        let place = format!("{} result", self.call);
        Ok(Committed {
            hmac: self.subject.commit(&place, answer).into(),
            len: answer.len() as u64,
            kept: self.book.keep(&self.subject, &place, answer)?,
        })
    }

    /// Every start has an end, later than usual where the disk was full for a while. As many of these wait as calls ran then.
    /// Where the disk failed, the end may be in the ledger all the same: none is written twice, and the next daemon looks.
    fn ends_later(self, cause: &Cause, end: CallEnd<'static>) {
        let number = self.call.number;
        if matches!(cause, Cause::Refused(Refused::Broken(_))) {
            return self.book.inner.open.doubted(number);
        }
        stdx::task::spawn("end a call in the ledger later", async move {
            loop {
                tokio::time::sleep(LATER).await;
                match self.book.append(What::CallEnd(end.clone()), self.until).await {
                    Err(Cause::Refused(Refused::Full)) => {}
                    Err(Cause::Refused(Refused::Broken(_))) => return self.book.inner.open.doubted(number),
                    Err(_) => return,
                    Ok(_) => return self.book.inner.open.ended(number),
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_names_a_server_and_a_tool() {
        for (rule, fits) in [
            ("files/delete", true),
            ("files/*", true),
            ("*/delete", true),
            ("*/*", true),
            ("files/del", false),
            ("file/delete", false),
            ("delete", false),
            ("*", false),
        ] {
            assert_eq!(matches(rule, "files", "delete"), fits, "{rule}");
        }
        assert!(matches("files/a/b", "files", "a/b"), "a tool's name may hold a slash");
    }

    #[test]
    fn calls_count_as_open_from_before_their_start_until_their_end() {
        let open = OpenCalls::default();
        assert_eq!(open.oldest(), None);
        open.signed(10);
        open.begun(1, None);
        open.begun(2, None);
        open.begun(2, Some(14));
        assert_eq!(open.oldest(), Some(10), "where its index is not known, it is none before the checkpoint");
        open.begun(1, Some(12));
        assert_eq!(open.oldest(), Some(12));
        open.ended(1);
        assert_eq!(open.oldest(), Some(14));
        open.keep(3);
        assert_eq!(open.oldest(), Some(3));
        open.keep_no_longer();
        open.begun(3, None);
        open.doubted(3);
        open.ended(2);
        assert_eq!(open.oldest(), Some(10), "a refused one may be in the log");
    }
}
