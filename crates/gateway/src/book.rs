//! What the gateway writes into the ledger: an intent before a call reaches a server, and its end before the answer leaves.
//! Without a record there is no call; without the record of its end nobody gets its result.

use crate::call::Asked;
use crate::permit::Permit;
use bytes::Bytes;
use ledger::writer::{Refused, Until, Writer};
use model::record::{CallEnd, CallId, CallStart, Committed, EncodeError, Ended, Record, What, Who, named};
use oauth::{Subject, SubjectError, Subjects, Verified};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use stdx::clock::{monotonic, unix_ms};
use supervisor::{Hosted, Lease};
use tokio::sync::oneshot;
use wire::era::Era;
use wire::message::Message;
use wire::scan::{Place, canonical};

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
    /// Number of this daemon.
    epoch: u64,
    calls: AtomicU64,
    until: Until,
    open: Arc<OpenCalls>,
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
}

impl OpenCalls {
    /// The index of the oldest start.
    pub fn oldest(&self) -> Option<u64> {
        let table = self.table();
        // Calls are numbered in the order in which they come; their starts need not be, but are nearly so.
        table.own.values().copied().chain(table.earlier).min()
    }

    /// Some of an earlier daemon may be open, from the index `since` on.
    pub fn keep(&self, since: u64) {
        self.table().earlier = Some(since);
    }

    /// All of earlier daemons have their ends.
    pub fn keep_no_longer(&self) {
        self.table().earlier = None;
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Proof that a call was recorded. Whoever has it says how the call ended.
#[derive(Debug)]
#[must_use]
pub(crate) struct Intent {
    book: Book,
    call: CallId,
    subject: Arc<Subject>,
    client_id: Bytes,
    begun: Instant,
}

impl Book {
    /// Writes through `writer`, for the daemon that has the number `epoch`. What waits for nothing less than `until`.
    pub fn new(writer: Writer, subjects: Subjects, epoch: u64, until: Until, open: Arc<OpenCalls>) -> Self {
        Self { inner: Arc::new(Inner { writer, subjects, epoch, calls: AtomicU64::new(1), until, open }) }
    }

    /// Records that a call is about to reach the process of `lease`.
    pub(crate) async fn intend(
        &self,
        permit: &Permit,
        asked: &Asked,
        hosted: &Hosted,
        lease: &Lease,
    ) -> Result<Intent, Unrecorded> {
        let intended = async {
            let subject = match self.inner.subjects.known(permit.principal()) {
                Some(known) => known,
                None => Box::pin(self.inner.subjects.of(permit.principal())).await?,
            };
            let number = self.inner.calls.fetch_add(1, Ordering::Relaxed);
            let call = CallId { epoch: self.inner.epoch, number };
            let start = start(call, &subject, permit.token(), asked, hosted, lease);
            let index = self.append(What::CallStart(Box::new(start))).await?;
            // Where the index is not known, nobody can be told to look from there on.
            self.inner.open.table().own.insert(number, index.unwrap_or(0));
            Ok(Intent { book: self.clone(), call, subject, client_id: asked.id(), begun: monotonic() })
        };
        intended.await.map_err(Unrecorded::Start)
    }

    async fn append(&self, what: What<'_>) -> Result<Option<u64>, Cause> {
        let entry = Record::new(unix_ms(), what).encode()?;
        let (tell, told) = oneshot::channel();
        self.inner.writer.append(entry, self.inner.until, move |outcome| drop(tell.send(outcome)));
        Ok(told.await.unwrap_or(Err(Refused::Closed))?.index)
    }
}

fn start<'a>(
    call: CallId,
    subject: &'a Subject,
    token: Option<&'a Verified>,
    asked: &'a Asked,
    hosted: &'a Hosted,
    lease: &Lease,
) -> CallStart<'a> {
    let message = &asked.message;
    let name = ["name", "uri"].into_iter().find_map(|member| message.text(Place::Params, member));
    let name = name.map(|name| named(&name).into_owned().into());
    let (by, token) = match token {
        Some(token) => ("token", Some(token.token_id().into())),
        None => ("open", None),
    };
    CallStart {
        call,
        who: Who { sub: subject.name().into(), by: by.into(), token },
        server: hosted.spec().name.as_str().into(),
        generation: hosted.spec().generation,
        instance: lease.instance().id(),
        pid: lease.instance().process(),
        era: if asked.era() == Era::Modern { "modern" } else { "legacy" }.into(),
        method: named(message.method()),
        name,
        args: arguments(message).map(|(canonical, len)| Committed {
            hmac: subject.commit(&format!("{call} args"), &canonical).into(),
            len: len as u64,
        }),
        session: asked.session.as_ref().map(|session| subject.commit("session", session.id().as_bytes()).into()),
        trace: message.text(Place::Meta, "traceparent").map(|trace| named(&trace).into_owned().into()),
    }
}

/// The arguments of a call in canonical form, and their length as they were sent.
fn arguments(message: &Message) -> Option<(Vec<u8>, usize)> {
    let arguments = message.member(Place::Params, "arguments")?.value;
    Some((canonical(message.bytes(), arguments), message.raw(arguments).len()))
}

impl Intent {
    /// The request's id, as its client spelled it.
    pub(crate) fn client_id(&self) -> &Bytes {
        &self.client_id
    }

    /// Records how the call ended, with the answer that its client is about to get. Its index, where that is known.
    pub(crate) async fn finish(
        self,
        outcome: Ended,
        error: Option<&'static str>,
        answer: Option<&[u8]>,
    ) -> Result<Option<u64>, Unrecorded> {
        let result = answer.map(|answer| Committed {
            hmac: self.subject.commit(&format!("{} result", self.call), answer).into(),
            len: answer.len() as u64,
        });
        let micros = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let end = CallEnd { call: self.call, outcome, error: error.map(Into::into), result, micros };
        let ended = self.book.append(What::CallEnd(end)).await.map_err(Unrecorded::End);
        self.book.inner.open.table().own.remove(&self.call.number);
        ended
    }
}
