//! Requests that were turned away before a process, in the ledger. They are counted here and written once a second, those of
//! one kind as one record, so that a flood of them fills no disk and delays no answer. What the table has no room for is
//! counted too. While the ledger refuses, all is kept, and written once it takes records again.

use crate::book::Book;
use http::Response;
use ledger::writer::Until;
use model::Principal;
use model::record::{CallDenied, What, Who, named};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long requests of one kind are one record.
const TOGETHER: Duration = Duration::from_secs(1);
/// Kinds that strangers can make within that time: they choose the names of servers. About 4 KiB of records.
const OF_STRANGERS: usize = 16;
/// Kinds of callers who are known.
const OF_KNOWN: usize = 240;
/// The reason of those that there was no room for.
const OTHERS: &str = "others";

/// Says of a response that it turns its request away.
#[derive(Clone, Debug)]
pub(crate) struct TurnedAway {
    /// The short name of the reason.
    pub(crate) reason: &'static str,
    /// Whose token was shown that did not open the server.
    pub(crate) whose: Option<Box<Whose>>,
}

impl TurnedAway {
    /// For this reason.
    pub(crate) fn for_reason(reason: &'static str) -> Self {
        Self { reason, whose: None }
    }

    /// Takes it off a response.
    pub(crate) fn of<B>(response: &mut Response<B>) -> Option<Self> {
        response.extensions_mut().remove()
    }
}

/// A caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Whose {
    pub(crate) principal: Principal,
    /// The public id of the token; `None` where nobody is asked for one.
    pub(crate) token: Option<String>,
}

/// One request that was turned away.
#[derive(Debug)]
pub(crate) struct Denial {
    /// `None` for strangers.
    pub(crate) whose: Option<Whose>,
    /// The server's name as it was asked for.
    pub(crate) server: String,
    pub(crate) reason: &'static str,
    pub(crate) method: Option<Cow<'static, str>>,
    pub(crate) name: Option<String>,
}

/// What makes two of them the same kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    whose: Option<Whose>,
    server: String,
    reason: &'static str,
}

/// What is known of those of one kind. A method or name that they do not share is not kept.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    method: Option<Cow<'static, str>>,
    name: Option<String>,
    count: u64,
}

/// Those that are not written yet.
#[derive(Debug, Default)]
pub(crate) struct Denials {
    table: Mutex<Table>,
    some: Notify,
    /// Held by whoever writes: who waits for it knows that nothing is on its way.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Table {
    groups: HashMap<Kind, Group>,
    strangers: usize,
    others: u64,
}

impl Table {
    fn add(&mut self, kind: Kind, group: Group) {
        if let Some(same) = self.groups.get_mut(&kind) {
            same.count = same.count.saturating_add(group.count);
            if same.method != group.method {
                same.method = None;
            }
            if same.name != group.name {
                same.name = None;
            }
            return;
        }
        let strange = kind.whose.is_none();
        let (there, room) =
            if strange { (self.strangers, OF_STRANGERS) } else { (self.groups.len() - self.strangers, OF_KNOWN) };
        if there >= room {
            self.others = self.others.saturating_add(group.count);
            return;
        }
        self.strangers += usize::from(strange);
        self.groups.insert(kind, group);
    }

    fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.others == 0
    }

    fn count(&self) -> u64 {
        self.groups.values().map(|group| group.count).fold(self.others, u64::saturating_add)
    }
}

impl Denials {
    fn add(&self, denial: Denial) {
        let Denial { whose, server, reason, method, name } = denial;
        let server = named(&server).into_owned();
        self.table().add(Kind { whose, server, reason }, Group { method, name, count: 1 });
        self.some.notify_one();
    }

    /// What could not be written waits for the next time.
    fn put_back(&self, rest: Table) {
        let mut table = self.table();
        table.others = table.others.saturating_add(rest.others);
        rest.groups.into_iter().for_each(|(kind, group)| table.add(kind, group));
        drop(table);
        self.some.notify_one();
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// Notes that a request was turned away. Nobody waits for it.
    pub(crate) fn turned_away(&self, denial: Denial) {
        self.denials().add(denial);
    }

    /// Writes what was turned away, until `over`; then what is left.
    pub(crate) async fn keep_denials(&self, over: CancellationToken) {
        let due = async || {
            self.denials().some.notified().await;
            tokio::time::sleep(TOGETHER).await;
        };
        while over.run_until_cancelled(due()).await.is_some() {
            self.write_denials().await;
        }
        self.write_denials().await;
    }

    /// Writes what was turned away and is not in the ledger yet. What the ledger refuses waits for the next time; false where
    /// that is so. Not to be dropped half-way.
    pub async fn write_denials(&self) -> bool {
        let denials = self.denials();
        let _alone = denials.writing.lock().await;
        let mut table = std::mem::take(&mut *denials.table());
        if table.is_empty() {
            return true;
        }
        let kinds: Vec<Kind> = table.groups.keys().cloned().collect();
        for kind in kinds {
            let Some(group) = table.groups.get(&kind) else { continue };
            if let Err(error) = self.write_denied(&kind, group).await {
                tracing::warn!(%error, waiting = table.count(), "requests that were turned away are not in the ledger yet");
                denials.put_back(table);
                return false;
            }
            table.groups.remove(&kind);
        }
        let others = Kind { whose: None, server: String::new(), reason: OTHERS };
        let group = Group { method: None, name: None, count: table.others };
        if group.count > 0 && self.write_denied(&others, &group).await.is_err() {
            denials.put_back(table);
            return false;
        }
        true
    }

    async fn write_denied(&self, kind: &Kind, group: &Group) -> Result<(), crate::book::Cause> {
        let subject = match &kind.whose {
            Some(whose) => Some(self.subject(&whose.principal).await?),
            None => None,
        };
        let token = kind.whose.as_ref().and_then(|whose| whose.token.as_deref());
        let who = subject.as_ref().map(|subject| Who {
            sub: subject.name().into(),
            by: if token.is_some() { "token" } else { "open" }.into(),
            token: token.map(Into::into),
        });
        let denied = CallDenied {
            who,
            server: kind.server.as_str().into(),
            reason: kind.reason.into(),
            method: group.method.as_deref().map(Into::into),
            name: group.name.as_deref().map(Into::into),
            count: group.count,
        };
        self.append(What::CallDenied(Box::new(denied)), Until::Kernel).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::Rules;
    use ledger::writer::{Receipt, Refused, Writer};
    use model::record::Record;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn denial(whose: Option<&str>, server: &str, name: &str) -> Denial {
        let whose = whose.map(|principal| Whose { principal: principal.parse().unwrap(), token: None });
        let (method, name) = (Some(Cow::Borrowed("tools/call")), Some(name.to_owned()));
        Denial { whose, server: server.to_owned(), reason: "no_token", method, name }
    }

    #[test]
    fn a_flood_of_names_grows_nothing_and_every_request_is_counted() {
        let denials = Denials::default();
        for n in 0..100_000 {
            denials.add(denial(None, &format!("made-up-{n}"), "x"));
        }
        (0..1000).for_each(|n| denials.add(denial(Some(&format!("p{n}")), "s", "x")));
        let table = denials.table();
        assert_eq!((table.groups.len(), table.strangers), (OF_STRANGERS + OF_KNOWN, OF_STRANGERS));
        assert_eq!(table.count(), 101_000);
    }

    #[test]
    fn strangers_do_not_take_the_room_of_callers() {
        let denials = Denials::default();
        (0..1000).for_each(|n| denials.add(denial(None, &format!("made-up-{n}"), "x")));
        denials.add(denial(Some("ann"), "s", "x"));
        let ann = Kind {
            whose: Some(Whose { principal: "ann".parse().unwrap(), token: None }),
            server: "s".to_owned(),
            reason: "no_token",
        };
        assert_eq!(denials.table().groups.get(&ann).map(|group| group.count), Some(1));
    }

    #[test]
    fn one_record_says_what_all_of_its_kind_share() {
        let denials = Denials::default();
        denials.add(denial(None, "s", "x"));
        denials.add(denial(None, "s", "x"));
        let shared = |denials: &Denials| {
            let table = denials.table();
            table.groups.values().map(|group| (group.count, group.name.clone())).collect::<Vec<_>>()
        };
        assert_eq!(shared(&denials), [(2, Some("x".to_owned()))]);
        denials.add(denial(None, "s", "y"));
        assert_eq!(shared(&denials), [(3, None)]);
    }

    #[test]
    fn what_was_not_written_waits_with_its_count() {
        let denials = Denials::default();
        (0..40).for_each(|n| denials.add(denial(None, &format!("made-up-{n}"), "x")));
        for _ in 0..3 {
            let taken = std::mem::take(&mut *denials.table());
            (0..40).for_each(|n| denials.add(denial(None, &format!("another-{n}"), "x")));
            denials.put_back(taken);
        }
        let table = denials.table();
        assert_eq!((table.count(), table.groups.len()), (160, OF_STRANGERS));
    }

    #[test]
    fn what_a_stranger_asked_for_is_short_and_plain() {
        let denials = Denials::default();
        denials.add(denial(None, &format!("\x1b[2J{}", "x".repeat(9000)), "x"));
        let table = denials.table();
        let server = &table.groups.keys().next().unwrap().server;
        assert!(server.chars().count() == 128 && !server.contains('\x1b'), "{server}");
    }

    /// A writer whose records go to `way`.
    fn sent_to(dir: &std::path::Path, way: ledger::writer::Way) -> Writer {
        struct Nobody;
        impl ledger::writer::Owner for Nobody {
            fn now_s(&self) -> u64 {
                0
            }
            fn says(&self, _own: ledger::writer::Own) -> Vec<u8> {
                Vec::new()
            }
            fn open(&self) -> Result<ledger::Log, ledger::recover::OpenError> {
                unreachable!()
            }
            fn signed(&self, _signed: &ledger::Signed) {}
        }
        let [one, two] = [ledger::Kind::Ed25519, ledger::Kind::MlDsa44Cosignature]
            .map(|kind| ledger::Signer::generate(kind, "test.example/log").unwrap());
        let pair = ledger::KeyPair::new(one.verifier().clone(), two.verifier().clone()).unwrap();
        let known = ledger::LogKeys::new(vec![pair]).unwrap();
        let keys = ledger::Keys::new(ledger::LogSigner::new(one, two).unwrap(), known).unwrap();
        let disk: Arc<dyn ledger::Disk> = Arc::new(ledger::RealDisk);
        let options = ledger::Options::default();
        let (log, _) = ledger::Log::open(&disk, &dir.join("log"), options, Arc::new(keys), Vec::new()).unwrap();
        let writer = Writer::start(log, Arc::new(Nobody), ledger::writer::Settings::default()).unwrap();
        writer.give_away();
        writer.send_to(way);
        writer
    }

    #[tokio::test]
    async fn a_ledger_that_refuses_loses_no_count() {
        let dir = tempfile::tempdir().unwrap();
        let (refuses, taken) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::new(Vec::new())));
        let (closed, kept) = (refuses.clone(), taken.clone());
        let writer = sent_to(
            dir.path(),
            Arc::new(move |entry: Vec<u8>, _until, done: ledger::writer::Done| {
                if closed.load(Ordering::Relaxed) {
                    return done(Err(Refused::Full));
                }
                kept.lock().unwrap().push(entry);
                done(Ok(Receipt { index: None }));
            }),
        );
        let store = store::Store::open(store::Location::Sqlite(dir.path().join("db"))).await.unwrap();
        let rules =
            Rules { until: Until::Kernel, strict_tools: Vec::new(), goes_on: false, stale: None, contents: None };
        let subjects = oauth::Subjects::open(store).await.unwrap();
        let book = Book::new(writer.clone(), subjects, "example.org/log", 1, rules, Arc::default());
        for n in 0..50 {
            book.turned_away(denial(None, &format!("made-up-{n}"), "x"));
            book.turned_away(denial(Some("ann"), "s", "x"));
        }
        assert!(!book.write_denials().await);
        assert_eq!(taken.lock().unwrap().len(), 0);
        refuses.store(false, Ordering::Relaxed);
        book.turned_away(denial(Some("ann"), "s", "x"));
        assert!(book.write_denials().await);
        let records = taken.lock().unwrap().clone();
        let counts = records.iter().map(|entry| match Record::decode(entry).unwrap().what {
            What::CallDenied(denied) => denied.count,
            other => panic!("{other:?}"),
        });
        assert_eq!((counts.sum::<u64>(), records.len()), (101, OF_STRANGERS + 2));
        let text = String::from_utf8(records.concat()).unwrap();
        assert!(!text.contains("ann"), "a principal goes by another name: {text}");
        assert!(book.write_denials().await && taken.lock().unwrap().len() == records.len(), "once");
        tokio::task::spawn_blocking(move || writer.close()).await.unwrap();
    }
}
