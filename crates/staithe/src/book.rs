//! The host's ledger: its keys, its log, the thread that writes it, and what an earlier daemon left unfinished in it.

use crate::fault;
use crate::state::StateDir;
use control::Acts;
use gateway::{Book, OpenCalls};
use ledger::recover::OpenError;
use ledger::tile::{Bundle, decode_bundle};
use ledger::writer::{Own, Owner, Receipt, Refused, Settings, Until, Writer};
use ledger::{Disk, Keys, Kind, Log, LogKeys, LogSigner, Notary, Options, RealDisk, Signed, Signer, Verifier};
use model::Problem;
use model::record::{CallEnd, Ended, LogEvent, Record, What};
use oauth::Subjects;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use stdx::clock::unix_ms;
use stdx::durable;
use store::Store;
use supervisor::{Entries, Entry, Heard, Supervisor};

/// The ledger as the host holds it.
#[derive(Clone)]
pub(crate) struct HostLedger {
    pub(crate) writer: Writer,
    pub(crate) book: Book,
    pub(crate) acts: Acts,
    owner: Arc<HostOwner>,
}

/// Says in the log what the ledger has to say about itself.
struct HostOwner {
    dir: PathBuf,
    keys: Arc<Keys>,
    anchors: Vec<PathBuf>,
    open_calls: Arc<OpenCalls>,
}

impl HostOwner {
    fn open_log(&self) -> Result<Log, OpenError> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let notary: Arc<dyn Notary> = self.keys.clone();
        Log::open(&disk, &self.dir, Options::default(), notary, self.anchors.clone()).map(|(log, _)| log)
    }

    /// From which entry on calls may be open, as the last checkpoint knew.
    fn open_since(&self) -> u64 {
        std::fs::read_to_string(self.since_path()).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    fn since_path(&self) -> PathBuf {
        self.dir.join("open-since")
    }
}

impl Owner for HostOwner {
    fn now_s(&self) -> u64 {
        u64::try_from(unix_ms() / 1000).unwrap_or(0)
    }

    fn says(&self, own: Own) -> Vec<u8> {
        let event = match own {
            Own::Heartbeat => LogEvent::Heartbeat {},
            Own::Refusing(why) => LogEvent::Refusing { why: why.to_string().into() },
            Own::TakenAgain { refused } => LogEvent::TakenAgain { refused },
        };
        // What is said here is short, and always JSON.
        Record::new(unix_ms(), What::Log(event)).encode().unwrap_or_default()
    }

    fn open(&self) -> Result<Log, OpenError> {
        self.open_log()
    }

    fn signed(&self, signed: &Signed) {
        let since = self.open_calls.oldest().unwrap_or(signed.size).min(signed.size);
        // Without it, or with an older one, more of the log is read after a crash.
        let _ = durable::write_file(&self.since_path(), since.to_string().as_bytes(), 0o600);
    }
}

/// Opens the ledger of a state directory, or begins one.
pub(crate) async fn open(
    state: &StateDir,
    public_url: &str,
    store: &Store,
    supervisor: &Supervisor,
) -> Result<HostLedger, Problem> {
    let subjects = Subjects::open(store.clone()).await;
    let subjects = subjects.map_err(|error| fault::because("read the keys of principals", &error, ""))?;
    let (dir, keys_dir, url) = (state.ledger(), state.keys(), public_url.to_owned());
    let epoch = supervisor.epoch();
    let opened = tokio::task::spawn_blocking(move || {
        let keys = Arc::new(keys(&dir, &keys_dir, &url)?);
        let open_calls = Arc::new(OpenCalls::default());
        let owner = Arc::new(HostOwner { dir, keys, anchors: Vec::new(), open_calls });
        let log = owner.open_log().map_err(|error| refused(&error))?;
        open_calls_before(&owner);
        let writer = Writer::start(log, owner.clone(), Settings::default());
        let writer = writer.map_err(|error| fault::because("start the ledger", &error, ""))?;
        Ok::<_, Problem>((owner, writer))
    });
    let (owner, writer) = opened.await.map_err(|_| fault::failed("the ledger could not be opened", ""))??;
    let book = Book::new(writer.clone(), subjects, epoch, Until::Kernel, owner.open_calls.clone());
    let acts = Acts::new(writer.clone(), epoch);
    let host = HostLedger { writer, book, acts, owner };
    host.says(LogEvent::Opened { epoch, version: env!("CARGO_PKG_VERSION").into() })?;
    host.take_entries(supervisor);
    let (left, before) = (host.clone(), supervisor.clone());
    stdx::task::spawn("end what was left open in the ledger", async move {
        // The daemon before this one still ends its own calls.
        before.alone().await;
        left.finish_unfinished(epoch).await;
    });
    Ok(host)
}

/// What an earlier daemon had open is open until its end is written.
fn open_calls_before(owner: &HostOwner) {
    owner.open_calls.keep(owner.open_since());
}

fn refused(error: &OpenError) -> Problem {
    let hint = "`staithe audit verify` says what is wrong; nothing is served without a ledger";
    fault::because("open the ledger", error, hint)
}

impl HostLedger {
    fn says(&self, event: LogEvent<'_>) -> Result<(), Problem> {
        let entry = Record::new(unix_ms(), What::Log(event)).encode();
        let entry = entry.map_err(|error| fault::because("write to the ledger", &error, ""))?;
        let done = self.writer.append_and_wait(entry, Until::Kernel);
        done.map(drop).map_err(|error| fault::because("write to the ledger", &error, "look for a full disk"))
    }

    /// Takes the records of the daemon before this one.
    fn take_entries(&self, supervisor: &Supervisor) {
        let writer = self.writer.clone();
        supervisor.take_entries(Arc::new(move |entry, on_disk, heard: Heard| {
            let until = if on_disk { Until::Disk } else { Until::Kernel };
            writer.append(entry, until, move |outcome| {
                heard(outcome.map(|receipt| receipt.index).map_err(|refused| refused.to_string()));
            });
        }));
    }

    /// Lets the log go, so that another daemon can open it. What is recorded from now on waits.
    pub(crate) async fn give_away(&self) {
        let writer = self.writer.clone();
        drop(tokio::task::spawn_blocking(move || writer.give_away()).await);
    }

    /// The other daemon did not come.
    pub(crate) async fn take_back(&self) -> Result<(), Problem> {
        let writer = self.writer.clone();
        let back = tokio::task::spawn_blocking(move || writer.take_back()).await;
        back.map_err(|_| fault::failed("the ledger could not be opened", ""))?.map_err(|error| refused(&error))
    }

    /// The other daemon writes from here on.
    pub(crate) fn send_to(&self, entries: Entries) {
        self.writer.send_to(Arc::new(move |bytes, until, done| {
            let heard: Heard = Box::new(move |outcome| {
                done(outcome.map(|index| Receipt { index }).map_err(|why| Refused::Broken(why.into())));
            });
            entries.send(Entry { bytes, on_disk: until == Until::Disk, heard });
        }));
    }

    /// Ends what earlier daemons left open: nobody knows how those calls ended.
    async fn finish_unfinished(&self, epoch: u64) {
        let (owner, writer) = (self.owner.clone(), self.writer.clone());
        let found = tokio::task::spawn_blocking(move || unfinished(&owner, &writer, epoch)).await;
        match found {
            Ok(Ok(0)) | Err(_) => {}
            Ok(Ok(count)) => tracing::info!(calls = count, "calls of an earlier daemon have no end that is known"),
            Ok(Err(error)) => tracing::error!(%error, "calls of an earlier daemon could not be ended in the ledger"),
        }
        self.owner.open_calls.keep_no_longer();
    }

    /// Makes everything durable and ends.
    pub(crate) async fn close(&self) {
        let _ = self.says(LogEvent::Closed {});
        let writer = self.writer.clone();
        drop(tokio::task::spawn_blocking(move || writer.close()).await);
    }
}

/// Writes an end for every start before `epoch` that has none.
fn unfinished(owner: &HostOwner, writer: &Writer, epoch: u64) -> Result<usize, Refused> {
    let mut open = BTreeSet::new();
    let (mut next, size) = (owner.open_since(), writer.health().size);
    while next < size {
        let Some(bundle) = Bundle::of(next / 256, size) else { break };
        let Ok(bytes) = writer.read(|view| view.bundle(bundle))? else { break };
        let Ok(entries) = decode_bundle(&bytes, bundle.width()) else { break };
        for entry in entries {
            match Record::decode(entry).map(|record| record.what) {
                Ok(What::CallStart(start)) if start.call.epoch < epoch => drop(open.insert(start.call)),
                Ok(What::CallEnd(end)) => drop(open.remove(&end.call)),
                _ => {}
            }
        }
        next = bundle.end();
    }
    for call in &open {
        let end = CallEnd { call: *call, outcome: Ended::Unknown, error: None, result: None, micros: 0 };
        let entry = Record::new(unix_ms(), What::CallEnd(end)).encode().unwrap_or_default();
        writer.append_and_wait(entry, Until::Kernel)?;
    }
    Ok(open.len())
}

/// The keys of the ledger; made once.
fn keys(dir: &Path, keys_dir: &Path, public_url: &str) -> Result<Keys, Problem> {
    let broken = |what: &str, error: &dyn std::error::Error| fault::because(what, error, "");
    durable::make_dir(dir, 0o700).map_err(|error| broken("make the directory of the ledger", &error))?;
    let known = dir.join("vkeys");
    let secret = |kind: &str| keys_dir.join(format!("ledger.{kind}"));
    if !known.exists() {
        let handle = stdx::random::handle().map_err(|error| broken("name the ledger", &error))?;
        let host = public_url.split("://").last().unwrap_or(public_url).trim_end_matches('/');
        let origin = format!("{host}/audit/{}", handle.get(..12).unwrap_or(&handle));
        let mut text = String::from("# The ledger's public keys: what it signs is verified with them.\n");
        for (name, kind) in KINDS {
            let signer = Signer::generate(kind, &origin).map_err(|error| broken("make the ledger's keys", &error))?;
            let bytes = signer.to_pkcs8().map_err(|error| broken("make the ledger's keys", &error))?;
            durable::write_file(&secret(name), bytes.as_ref(), 0o600)
                .map_err(|error| broken("write the ledger's keys", &error))?;
            text.push_str(&format!("{}\n", signer.verifier()));
        }
        durable::write_file(&known, text.as_bytes(), 0o644)
            .map_err(|error| broken("write the ledger's keys", &error))?;
    }
    let text = std::fs::read_to_string(&known).map_err(|error| broken("read the ledger's keys", &error))?;
    let verifiers: Vec<Verifier> = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(str::parse)
        .collect::<Result<_, _>>()
        .map_err(|error| broken("read the ledger's public keys", &error))?;
    let origin = verifiers.first().map(|key| key.name().to_owned()).unwrap_or_default();
    let mut signers = Vec::new();
    for (name, kind) in KINDS {
        let bytes = std::fs::read(secret(name)).map_err(|error| broken("read the ledger's keys", &error))?;
        signers
            .push(Signer::from_pkcs8(kind, &origin, &bytes).map_err(|error| broken("read the ledger's keys", &error))?);
    }
    let pairs = verifiers.chunks(2).filter_map(|pair| match pair {
        [ed25519, ml_dsa_44] => Some(ledger::KeyPair::new(ed25519.clone(), ml_dsa_44.clone())),
        _ => None,
    });
    let pairs =
        pairs.collect::<Result<Vec<_>, _>>().map_err(|error| broken("read the ledger's public keys", &error))?;
    let known = LogKeys::new(pairs).map_err(|error| broken("read the ledger's public keys", &error))?;
    let [ed25519, ml_dsa_44] = <[Signer; 2]>::try_from(signers)
        .map_err(|_| fault::failed("the ledger's keys are not two", "restore a backup of the state directory"))?;
    let signer = LogSigner::new(ed25519, ml_dsa_44).map_err(|error| broken("read the ledger's keys", &error))?;
    Keys::new(signer, known)
        .ok_or_else(|| fault::failed("the ledger's secret keys are not its public ones", "restore a backup"))
}

const KINDS: [(&str, Kind); 2] = [("ed25519", Kind::Ed25519), ("ml-dsa-44", Kind::MlDsa44Cosignature)];
