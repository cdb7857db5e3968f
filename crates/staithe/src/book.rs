//! The host's ledger: its keys, its log, the thread that writes it, and what an earlier daemon left unfinished in it.

use crate::config::{self, LedgerContent, LedgerMode, LedgerPublic, OnFull};
use crate::fault;
use crate::keys::{self, KeysRefusal};
use crate::lives;
use crate::state::StateDir;
use crate::steps;
use crate::witnesses::Witnesses;
use control::{Acts, Erased, OpenActs};
use gateway::{Audit, Book, OpenCalls, Rules, Stale};
use ledger::disk::DiskError;
use ledger::evidence::EvidenceError;
use ledger::recover::OpenError;
use ledger::tile::{Bundle, decode_bundle};
use ledger::writer::{Own, Owner, Receipt, Refused, Settings, Until, Writer};
use ledger::{Disk, Keys, Log, Notary, Options, RealDisk, Signed, View};
use model::Problem;
use model::record::{CallEnd, Ended, LogEvent, OperatorEnd, Record, What};
use model::report::LedgerReport;
use oauth::{Contents, Subjects};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use stdx::clock::unix_ms;
use stdx::durable;
use store::Store;
use supervisor::{Entries, Entry, Heard, Lives, Scribe, Supervisor};

/// Where the digest of the last daemon's configuration is kept.
const CONFIG: &str = "ledger.config";
/// How long what waits to be written may take at the end.
const SETTLES: Duration = Duration::from_secs(2);

/// The ledger as the host holds it.
#[derive(Clone)]
pub(crate) struct HostLedger {
    pub(crate) writer: Writer,
    /// `None`: the operator wants no records of calls.
    pub(crate) book: Option<Book>,
    pub(crate) acts: Acts,
    scribe: Scribe,
    /// `None`: none are asked.
    pub(crate) witnesses: Option<Witnesses>,
    owner: Arc<HostOwner>,
}

/// Says in the log what the ledger has to say about itself.
struct HostOwner {
    dir: PathBuf,
    keys: Arc<Keys>,
    anchors: Vec<PathBuf>,
    open_calls: Arc<OpenCalls>,
    open_acts: OnceLock<Arc<OpenActs>>,
    /// When the latest checkpoint was signed, Unix milliseconds; 0 before the first of this daemon.
    signed_at_ms: AtomicI64,
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
        // Where the directory is gone, none begins in its place.
        let path = self.dir.join("vkeys");
        match std::fs::metadata(&path) {
            Ok(_) => self.open_log(),
            Err(source) => Err(OpenError::Disk(DiskError { what: "look at", path, source })),
        }
    }

    fn looks(&self) -> Result<(), String> {
        for path in [self.dir.join("vkeys"), self.dir.join("wal")] {
            std::fs::metadata(&path).map_err(|error| format!("{} is not there any more: {error}", path.display()))?;
        }
        Ok(())
    }

    fn needs(&self) -> Option<u64> {
        let acts = self.open_acts.get().and_then(|acts| acts.oldest());
        self.open_calls.oldest().into_iter().chain(acts).min()
    }

    fn signed(&self, signed: &Signed) {
        self.open_calls.signed(signed.size);
        self.signed_at_ms.store(unix_ms(), Ordering::Relaxed);
        let since = self.needs().map_or(signed.size, |needed| needed.min(signed.size));
        // Without it, or with an older one, more of the log is read after a crash.
        let _ = durable::write_file(&self.since_path(), since.to_string().as_bytes(), 0o600);
    }
}

/// What the ledger is told.
pub(crate) struct Told {
    /// Where processes' lives are told.
    pub(crate) scribe: Scribe,
    /// And where they are heard.
    pub(crate) lives: Lives,
    /// Digest of the configuration.
    pub(crate) config: String,
    /// Whether other hosts have the same database.
    pub(crate) shared: bool,
}

/// Whom a database that was put back brought back, is erased again, and what an erasure that was cut short left goes.
async fn erase_again(erased: &Erased, subjects: &Subjects, store: &Store) -> Result<(), Problem> {
    let unnoted = |error: io::Error| fault::because("read or note who was erased", &error, "");
    let failed = |error: &dyn std::error::Error| fault::because("erase a principal again", error, "");
    let mut wanted = erased.wanted().map_err(unnoted)?;
    for (principal, name) in subjects.all().into_iter().filter(|(_, name)| wanted.pseudonyms.contains(name)) {
        erased.begin(Some(&name)).map_err(unnoted)?;
        store.delete_ended_tokens_of(&principal, unix_ms()).await.map_err(|error| failed(&error))?;
        subjects.forget(&principal).await.map_err(|error| failed(&error))?;
        tracing::warn!("a principal that was erased was in the database again, and is erased again");
        wanted.unfinished = true;
    }
    if !wanted.unfinished {
        return Ok(());
    }
    // While somebody else reads the database the next start does it.
    match subjects.scrub().await {
        Ok(()) => erased.finish().map_err(unnoted),
        Err(error) => {
            tracing::warn!(%error, "what an erasure left in the file of the database could not be removed yet");
            Ok(())
        }
    }
}

/// A ledger of which only the database knows: it is missed, as one whose keys are still there.
async fn missed(state: &StateDir, store: &Store, shared: bool) -> Result<(), Problem> {
    let failed = |error: &dyn std::error::Error| fault::because("read the name of the ledger", error, "");
    let key = name_key(state, shared)?;
    let told = store.setting(&key).await.map_err(|error| failed(&error))?;
    keys::remember(&state.ledger(), &state.keys(), told.as_deref()).map_err(|error| failed(&error))
}

/// Where a database keeps the ledger's name.
fn name_key(state: &StateDir, shared: bool) -> Result<String, Problem> {
    Ok(if shared { format!("ledger.name.{}", state.identity()?) } else { "ledger.name".to_owned() })
}

/// Opens the ledger of a state directory, or begins one.
pub(crate) async fn open(
    state: &StateDir,
    config: &config::Ledger,
    public_url: &str,
    store: &Store,
    supervisor: &Supervisor,
    Told { scribe, lives, config: digest, shared }: Told,
) -> Result<HostLedger, Problem> {
    if state.next_keys().exists() {
        let hint = "give that command again: it goes on where it ended";
        return Err(fault::failed("`staithe audit recover` was cut short", hint));
    }
    if ["vkeys", "vkeys.planned"].iter().any(|name| state.rotated_keys().join(name).exists()) {
        let hint = "give that command again: it goes on where it ended";
        return Err(fault::failed("`staithe audit rotate-keys` was cut short", hint));
    }
    let subjects = Subjects::open(store.clone()).await;
    let subjects = subjects.map_err(|error| fault::because("read the keys of principals", &error, ""))?;
    let erased = Erased::at(state.ledger().join("erased"));
    erase_again(&erased, &subjects, store).await?;
    missed(state, store, shared).await?;
    let (dir, keys_dir, url, anchors) = (state.ledger(), state.keys(), public_url.to_owned(), config.anchors.clone());
    let epoch = supervisor.epoch();
    let opened = tokio::task::spawn_blocking(move || {
        let keys = keys::open(&dir, &keys_dir, Some(&url)).map_err(KeysRefusal::into_problem)?;
        let keys = Arc::new(keys);
        let open_calls = Arc::new(OpenCalls::default());
        let (open_acts, signed_at_ms) = (OnceLock::new(), AtomicI64::new(0));
        let owner = Arc::new(HostOwner { dir, keys, anchors, open_calls, open_acts, signed_at_ms });
        let log = owner.open_log().map_err(|error| refused(&error))?;
        open_calls_before(&owner);
        let writer = Writer::start(log, owner.clone(), Settings::default());
        let writer = writer.map_err(|error| fault::because("start the ledger", &error, ""))?;
        Ok::<_, Problem>((owner, writer))
    });
    let (owner, writer) = opened.await.map_err(|_| fault::failed("the ledger could not be opened", ""))??;
    let witnesses = Witnesses::of(config, &owner.dir, owner.keys.known())?;
    let origin = owner.keys.known().origin();
    let book = rules(config, state, epoch, witnesses.as_ref())?
        .map(|rules| Book::new(writer.clone(), subjects.clone(), origin, epoch, rules, owner.open_calls.clone()));
    let acts = Acts::new(writer.clone(), subjects, epoch, state.contents(), erased);
    // It was empty.
    let _ = owner.open_acts.set(acts.open().clone());
    let host = HostLedger { writer, book, acts, scribe, witnesses, owner };
    let writer = host.writer.clone();
    let set = tokio::task::spawn_blocking(move || steps::set_before(&writer)).await.ok().flatten();
    set.map_or(Ok(()), |set| host.says(set))?;
    host.says_opened(store, epoch, &digest).await?;
    host.is_named(store, &name_key(state, shared)?).await?;
    if host.book.is_none() {
        host.says(LogEvent::CallsOff {})?;
        tracing::warn!("calls are not recorded: `ledger.mode` is \"off\"");
    }
    let lives = lives::record(lives, host.writer.clone(), state.ledger().join("tools"));
    stdx::task::spawn("record what becomes of processes", lives);
    stdx::task::spawn("record that the clock is set", steps::watch(host.writer.clone()));
    host.take_entries(supervisor);
    if let Some(witnesses) = &host.witnesses {
        witnesses.start(host.writer.clone());
    }
    let (left, before) = (host.clone(), supervisor.clone());
    stdx::task::spawn("end what was left open in the ledger", async move {
        // The daemon before this one still ends its own calls.
        before.alone().await;
        left.finish_unfinished(epoch).await;
    });
    Ok(host)
}

fn rules(
    config: &config::Ledger,
    state: &StateDir,
    epoch: u64,
    witnesses: Option<&Witnesses>,
) -> Result<Option<Rules>, Problem> {
    let contents = match config.content {
        LedgerContent::Nothing => None,
        kept => {
            let redacted = kept == LedgerContent::Redacted;
            let contents = Contents::open(state.contents(), epoch, redacted, config.content_bytes);
            Some(Arc::new(contents.map_err(|error| fault::because("keep the contents of calls", &error, ""))?))
        }
    };
    let stale = witnesses.cloned().map(|witnesses| Stale(Arc::new(move || witnesses.refuses())));
    Ok(Some(Rules {
        until: match config.mode {
            LedgerMode::Strict => Until::Disk,
            LedgerMode::Balanced => Until::Kernel,
            LedgerMode::Async => Until::Queued,
            LedgerMode::Off => return Ok(None),
        },
        strict_tools: config.strict_tools.clone(),
        goes_on: config.on_full == OnFull::Continue,
        contents,
        stale,
    }))
}

/// What an earlier daemon had open is open until its end is written.
fn open_calls_before(owner: &HostOwner) {
    owner.open_calls.keep(owner.open_since());
}

fn refused(error: &OpenError) -> Problem {
    let beside = |path: &Path| path.file_name().is_some_and(|name| name == "witnessed");
    let hint = match error {
        OpenError::Evidence(EvidenceError::Forged { path, .. }) if beside(path) => {
            "`witnessed` holds what witnesses cosigned, and nothing else: move it away, and they are asked anew"
        }
        OpenError::Evidence(EvidenceError::Forged { .. }) => {
            "a checkpoint there is damaged, or of another ledger. At an anchor, or in `archive`, it is a copy: if `staithe audit verify` \
             finds the ledger itself as it should be, move that one file away. If there is a newer copy of the ledger, put it back; if all is \
             lost, `staithe audit recover --accept-loss` begins a new one that says so"
        }
        OpenError::Locked { .. } => "stop that process; `staithe audit verify` reads beside it",
        _ => {
            "`staithe audit verify` says what is wrong, and nothing is served without a ledger. If there is a newer copy of it, put \
             that back; if not, `staithe audit recover --accept-loss` begins a new ledger that says what was lost"
        }
    };
    fault::because("open the ledger", error, hint)
}

/// A ledger could not be opened to be written.
pub(crate) enum Refusal {
    /// Its keys.
    Keys(KeysRefusal),
    /// The ledger itself.
    Log(OpenError),
}

impl Refusal {
    /// In words.
    pub(crate) fn into_problem(self) -> Problem {
        match self {
            Self::Keys(refusal) => refusal.into_problem(),
            Self::Log(error) => refused(&error),
        }
    }
}

/// Opens the ledger that is there, for a command that holds the state directory.
pub(crate) fn reopen(state: &StateDir) -> Result<Log, Refusal> {
    reopen_beside(state, &[])
}

/// The same, compared with what is kept elsewhere.
pub(crate) fn reopen_beside(state: &StateDir, anchors: &[PathBuf]) -> Result<Log, Refusal> {
    let (disk, dir): (Arc<dyn Disk>, PathBuf) = (Arc::new(RealDisk), state.ledger());
    let notary: Arc<dyn Notary> = Arc::new(keys::open(&dir, &state.keys(), None).map_err(Refusal::Keys)?);
    let opened = Log::open(&disk, &dir, Options::default(), notary, anchors.to_vec());
    opened.map(|(log, _)| log).map_err(Refusal::Log)
}

impl HostLedger {
    /// Says that this daemon writes from here on, and how it is configured.
    async fn says_opened(&self, store: &Store, epoch: u64, config: &str) -> Result<(), Problem> {
        let failed = |error: store::StoreError| fault::because("read what the ledger said last", &error, "");
        let before = store.setting(CONFIG).await.map_err(failed)?;
        let other = before.as_deref().filter(|before| *before != config);
        let mut servers = store.servers().await.map_err(failed)?;
        servers.sort_by(|a, b| a.name.cmp(&b.name));
        let forms: Vec<Vec<u8>> = servers.iter().map(model::ServerSpec::public_form).collect();
        self.says(LogEvent::Opened {
            epoch,
            version: env!("CARGO_PKG_VERSION").into(),
            config: Some(config.into()),
            config_before: other.map(Into::into),
            servers: Some(lives::hex(ledger::hash::sha256(&forms.join(&b'\n')).as_bytes()).into()),
        })?;
        // After the record: a crash in between says the change twice.
        if before.as_deref() != Some(config) {
            store.put_setting(CONFIG, config).await.map_err(failed)?;
        }
        Ok(())
    }

    /// The database knows it from here on.
    async fn is_named(&self, store: &Store, key: &str) -> Result<(), Problem> {
        let failed = |error: store::StoreError| fault::because("keep the name of the ledger", &error, "");
        let name = self.owner.keys.known().origin();
        if store.setting(key).await.map_err(failed)?.as_deref() != Some(name) {
            store.put_setting(key, name).await.map_err(failed)?;
        }
        Ok(())
    }

    fn says(&self, event: LogEvent<'_>) -> Result<(), Problem> {
        let entry = Record::new(unix_ms(), What::Log(event)).encode();
        let entry = entry.map_err(|error| fault::because("write to the ledger", &error, ""))?;
        let done = self.writer.append_and_wait(entry, Until::Kernel);
        done.map(drop).map_err(|error| fault::because("write to the ledger", &error, "look for a full disk"))
    }

    /// The same for whoever may read it.
    pub(crate) fn audit(&self, public: LedgerPublic) -> Audit {
        Audit::new(&self.owner.dir, self.owner.keys.known().clone(), public == LedgerPublic::Hashes)
    }

    /// How it is.
    pub(crate) fn report(&self) -> LedgerReport {
        let health = self.writer.health();
        let unwitnessed = self.witnesses.as_ref().filter(|_| self.book.is_some()).and_then(Witnesses::refuses);
        let signed_at_ms = self.owner.signed_at_ms.load(Ordering::Relaxed);
        let trouble = health.trouble.map(|why| why.to_string());
        let trouble = trouble.or_else(|| self.book.as_ref().and_then(Book::unkept));
        let goes_on = self.book.as_ref().is_some_and(Book::goes_on);
        let (refusing, unrecorded) = if goes_on { (None, trouble) } else { (trouble, None) };
        LedgerReport {
            origin: self.owner.keys.known().origin().to_owned(),
            calls: self.book.is_some(),
            entries: health.size,
            signed: health.signed.map(|signed| signed.size),
            signed_at_ms: Some(signed_at_ms).filter(|at| *at > 0),
            refusing: refusing.or(unwitnessed),
            unrecorded,
            refused: health.refused,
            witnesses: self.witnesses.as_ref().map(Witnesses::report),
        }
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

    /// Writes what still waits to be written: who was turned away, what became of processes.
    pub(crate) async fn settle(&self) {
        if let Some(book) = &self.book {
            book.write_denials().await;
            book.write_unrecorded().await;
        }
        if !self.scribe.settle(SETTLES).await {
            tracing::error!("what became of processes last is not recorded: the ledger takes nothing");
        }
    }

    /// Lets the log go, so that another daemon can open it. What is recorded from now on waits.
    pub(crate) async fn give_away(&self) {
        self.settle().await;
        if let Some(witnesses) = &self.witnesses {
            witnesses.pause(true).await;
        }
        let writer = self.writer.clone();
        drop(tokio::task::spawn_blocking(move || writer.give_away()).await);
    }

    /// The other daemon did not come.
    pub(crate) async fn take_back(&self) -> Result<(), Problem> {
        let writer = self.writer.clone();
        let back = tokio::task::spawn_blocking(move || writer.take_back()).await;
        back.map_err(|_| fault::failed("the ledger could not be opened", ""))?.map_err(|error| refused(&error))?;
        if let Some(witnesses) = &self.witnesses {
            witnesses.pause(false).await;
        }
        Ok(())
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
            Ok(Ok(count)) => {
                tracing::info!(calls = count, "calls and acts of an earlier daemon have no end that is known");
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "calls and acts of an earlier daemon could not be ended in the ledger");
            }
        }
        self.owner.open_calls.keep_no_longer();
    }

    /// Makes everything durable and ends.
    pub(crate) async fn close(&self) {
        self.settle().await;
        if let Some(witnesses) = &self.witnesses {
            witnesses.stop();
        }
        let _ = self.says(LogEvent::Closed {});
        let writer = self.writer.clone();
        drop(tokio::task::spawn_blocking(move || writer.close()).await);
    }
}

/// Writes an end for every start before `epoch` that has none.
fn unfinished(owner: &HostOwner, writer: &Writer, epoch: u64) -> Result<usize, Refused> {
    let (mut calls, mut acts) = (BTreeSet::new(), BTreeSet::new());
    let (minimum, size) = (writer.read(View::minimum_index)?, writer.health().size);
    let mut next = owner.open_since().max(minimum);
    while next < size {
        let Some(bundle) = Bundle::of(next / 256, size) else { break };
        let Some(entries) = entries(writer, bundle, next, minimum)? else { break };
        for entry in entries {
            match Record::decode(&entry).map(|record| record.what) {
                Ok(What::CallStart(start)) if start.call.epoch < epoch => drop(calls.insert(start.call)),
                Ok(What::CallEnd(end)) => drop(calls.remove(&end.call)),
                Ok(What::OperatorStart(start)) if start.act.epoch < epoch => drop(acts.insert(start.act)),
                Ok(What::OperatorEnd(end)) => drop(acts.remove(&end.act)),
                _ => {}
            }
        }
        next = bundle.end();
    }
    let calls = calls
        .into_iter()
        .map(|call| What::CallEnd(CallEnd { call, outcome: Ended::Unknown, error: None, result: None, micros: 0 }));
    let acts = acts
        .into_iter()
        .map(|act| What::OperatorEnd(OperatorEnd { act, done: false, made: None, error: Some(UNKNOWN.into()) }));
    let mut count = 0;
    for end in calls.chain(acts) {
        let entry = Record::new(unix_ms(), end).encode().unwrap_or_default();
        writer.append_and_wait(entry, Until::Kernel)?;
        count += 1;
    }
    Ok(count)
}

/// The entries of a bundle, or those of it from `next` on where the ones before were pruned. `None` if they cannot be read.
fn entries(writer: &Writer, bundle: Bundle, next: u64, minimum: u64) -> Result<Option<Vec<Vec<u8>>>, Refused> {
    if next == minimum && !minimum.is_multiple_of(256) {
        return writer.read(|view| (next..bundle.end()).map(|index| view.entry(index).ok()).collect());
    }
    let Ok(bytes) = writer.read(|view| view.bundle(bundle))? else { return Ok(None) };
    Ok(decode_bundle(&bytes, bundle.width()).ok().map(|all| all.into_iter().map(<[u8]>::to_vec).collect()))
}

/// Why an operator's act that was cut short is not known to have been done.
const UNKNOWN: &str = "nobody knows whether it was done: the daemon ended meanwhile";
