//! What becomes of processes, and what tools their servers show, on its way into the ledger. One thing after another, and each
//! until the ledger has it: where it refuses, whoever has more to tell waits.
//!
//! What each server showed last is kept in a file beside the log: to find it in the log, all of the log would have to be read at
//! each start, and of a pruned one it could be gone.

use ledger::writer::{Refused, Until, Writer};
use model::record::{LogEvent, Names, Process, Record, ToolsChanged, Verdict, What};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use stdx::clock::unix_ms;
use stdx::durable;
use supervisor::{Life, Lives};
use tokio::sync::oneshot;

/// The longest name of a tool that is kept as it is.
const NAME_BYTES: usize = 128;
/// Between two tries to write something.
const AGAIN: Duration = Duration::from_secs(1);

/// Records everything that is told, until nobody can tell anything any more or the ledger is closed. `seen` is where it is kept
/// what servers showed last.
pub(crate) async fn record(mut lives: Lives, writer: Writer, seen: PathBuf) {
    let mut shown = Shown::read(seen);
    while let Some(life) = lives.next().await {
        let kept = match life {
            Life::Settled(told) => {
                // Whoever waits may have waited long enough.
                let _ = told.send(());
                true
            }
            Life::Tools { server, instance, tools } => {
                tell_tools(&writer, &mut shown, server.as_str(), instance, tools).await
            }
            Life::Started { server, generation, instance, pid } => {
                let (server, generation, pid) = (server.as_str().into(), Some(generation), Some(pid));
                let started = Process { server, generation, instance, pid, ended: None, cause: None };
                written(&writer, What::Process(started)).await
            }
            Life::Ended { server, instance, pid, how, cause } => {
                let (ended, cause) = (Some(how.into()), Some(cause.into()));
                let (server, pid) = (server.into(), Some(pid));
                written(&writer, What::Process(Process { server, generation: None, instance, pid, ended, cause })).await
            }
            Life::Judged { server, instance, verdict, seen } => {
                let (server, verdict, seen) = (server.as_str().into(), verdict.into(), seen.map(Into::into));
                written(&writer, What::Verdict(Verdict { server, instance, verdict, seen })).await
            }
            Life::Missed(lives) => written(&writer, What::Log(LogEvent::Missed { lives })).await,
        };
        if !kept {
            return;
        }
    }
}

/// Writes a record as soon as the ledger takes it. False where it never will.
pub(crate) async fn written(writer: &Writer, what: What<'_>) -> bool {
    let record = Record::new(unix_ms(), what);
    let entry = match record.encode() {
        Ok(entry) => entry,
        Err(error) => {
            tracing::error!(%error, "what became of a process cannot be recorded");
            return true;
        }
    };
    loop {
        let (tell, told) = oneshot::channel();
        writer.append(entry.clone(), Until::Kernel, move |outcome| drop(tell.send(outcome)));
        match told.await.unwrap_or(Err(Refused::Closed)) {
            Ok(_) => return true,
            Err(Refused::Closed) => return false,
            Err(error) => {
                tracing::warn!(%error, "what became of a process is not in the ledger yet");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// Records a server's tools, where they are others than before.
async fn tell_tools(
    writer: &Writer,
    shown: &mut Shown,
    server: &str,
    instance: u64,
    tools: BTreeMap<String, [u8; 32]>,
) -> bool {
    let now: Tools = tools.into_iter().map(|(name, digest)| (short(name), hex(&digest))).collect();
    let before = shown.servers.get(server);
    if before == Some(&now) {
        return true;
    }
    if !written(writer, What::ToolsChanged(Box::new(changed(server, instance, before, &now)))).await {
        return false;
    }
    // After the record: a crash in between says it twice, and never not at all.
    shown.keep(server, now);
    true
}

/// What is different between two lists.
fn changed<'a>(server: &'a str, instance: u64, before: Option<&'a Tools>, now: &'a Tools) -> ToolsChanged<'a> {
    let none = Tools::new();
    let old = before.unwrap_or(&none);
    let other = |name: &&String| old.get(*name).is_some_and(|digest| Some(digest) != now.get(*name));
    ToolsChanged {
        server: server.into(),
        instance,
        before: before.map(|before| digest(before).into()),
        now: digest(now).into(),
        added: Names::of(now.keys().filter(|name| !old.contains_key(*name)).map(String::as_str)),
        removed: Names::of(
            before
                .into_iter()
                .flatten()
                .map(|(name, _)| name)
                .filter(|name| !now.contains_key(*name))
                .map(String::as_str),
        ),
        changed: Names::of(now.keys().filter(other).map(String::as_str)),
    }
}

/// A name that a server chose. One that is too long ends in what tells it from others of its beginning.
fn short(name: String) -> String {
    if name.len() <= NAME_BYTES {
        return name;
    }
    let begins: String = name.chars().take(NAME_BYTES / 8).collect();
    format!("{begins}…{}", hex(ledger::hash::sha256(name.as_bytes()).as_bytes()))
}

/// Digest of each tool's definition, hexadecimal, by its name.
type Tools = BTreeMap<String, String>;

/// Of a whole list: SHA-256 over its names and digests in order, as JSON writes them.
fn digest(tools: &Tools) -> String {
    hex(ledger::hash::sha256(&serde_json::to_vec(tools).unwrap_or_default()).as_bytes())
}

/// Hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What each server showed last.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Shown {
    servers: BTreeMap<String, Tools>,
    #[serde(skip)]
    path: PathBuf,
}

impl Shown {
    fn read(path: PathBuf) -> Self {
        let text = std::fs::read(&path).ok();
        // What is not there, or no more whole, is recorded as if it were seen for the first time.
        let read: Self = text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Self { path, ..read }
    }

    fn keep(&mut self, server: &str, now: Tools) {
        self.servers.insert(server.to_owned(), now);
        let text = serde_json::to_vec(self).unwrap_or_default();
        if let Err(error) = durable::write_file(&self.path, &text, 0o600) {
            tracing::warn!(%error, "which tools a server showed last could not be kept: they will be recorded as new");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    fn tools(all: &[(&str, &str)]) -> Tools {
        all.iter().map(|(name, digest)| ((*name).to_owned(), (*digest).to_owned())).collect()
    }

    #[test]
    fn what_is_different_is_named_and_counted() {
        let (old, new) = (tools(&[("a", "1"), ("b", "2"), ("c", "3")]), tools(&[("a", "1"), ("b", "9"), ("d", "3")]));
        let told = changed("s", 7, Some(&old), &new);
        assert_eq!(
            (told.added.names, told.removed.names, told.changed.names),
            (vec!["d".into()], vec!["c".into()], vec!["b".into()])
        );
        assert_ne!(told.before, Some(told.now));
        let first = changed("s", 7, None, &new);
        assert_eq!((first.before, first.added.count, first.removed.count, first.changed.count), (None, 3, 0, 0));
        let many: Tools = (0..4096).map(|n| (format!("{n}{}", "x".repeat(500)), "1".to_owned())).collect();
        let told = changed("s", 7, None, &many);
        let (one, other) = (short(format!("{}1", "x".repeat(9999))), short(format!("{}2", "x".repeat(9999))));
        assert!(one != other && one.len() < 128 && short("x".repeat(128)) == "x".repeat(128), "{one} {other}");
        assert_eq!((told.added.count, told.added.names.len()), (4096, 16));
        Record::new(5, What::ToolsChanged(Box::new(told))).encode().unwrap();
    }

    #[test]
    fn what_was_shown_is_known_after_a_restart_and_a_broken_file_is_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tools");
        let mut shown = Shown::read(path.clone());
        shown.keep("s", tools(&[("a", "1")]));
        assert_eq!(Shown::read(path.clone()).servers.get("s"), Some(&tools(&[("a", "1")])));
        std::fs::File::create(&path).unwrap().set_len(3).unwrap();
        assert!(Shown::read(path).servers.is_empty());
    }

    #[tokio::test]
    async fn what_the_ledger_refuses_is_written_later_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let (tries, taken) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (tried, kept) = (tries.clone(), taken.clone());
        let writer = writer(dir.path());
        writer.give_away();
        writer.send_to(Arc::new(move |entry: Vec<u8>, _until, done: ledger::writer::Done| {
            if tried.fetch_add(1, Ordering::Relaxed) == 0 {
                return done(Err(Refused::Full));
            }
            kept.lock().unwrap().push(entry);
            done(Ok(ledger::writer::Receipt { index: None }));
        }));
        let events = [LogEvent::Missed { lives: 1 }, LogEvent::Missed { lives: 2 }];
        for event in events.clone() {
            assert!(written(&writer, What::Log(event)).await);
        }
        let entries = taken.lock().unwrap().clone();
        let all: Vec<What<'_>> = entries.iter().map(|entry| Record::decode(entry).unwrap().what).collect();
        assert_eq!((all, tries.load(Ordering::Relaxed)), (events.map(What::Log).to_vec(), 3));
        let closed = writer.clone();
        tokio::task::spawn_blocking(move || closed.close()).await.unwrap();
    }

    fn writer(dir: &std::path::Path) -> Writer {
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
        Writer::start(log, Arc::new(Nobody), ledger::writer::Settings::default()).unwrap()
    }
}
