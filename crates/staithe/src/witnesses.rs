//! The witnesses of the host's own ledger: they are asked again and again to cosign its latest checkpoint, and what a quorum
//! of them cosigned is kept beside the log. With that, nobody can change what it covers without their help.

mod ask;

use self::ask::{Asked, Trouble};
use crate::config::{self, RequireWitness};
use crate::fault;
use ledger::note::{MAX_NOTE, Signature};
use ledger::writer::Writer;
use ledger::{Checkpoint, LogKeys, Policy, Verifier};
use model::Problem;
use model::report::WitnessReport;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use stdx::clock::{monotonic, unix_ms};
use supervisor::Outside;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How soon to look again for the first checkpoint of this daemon.
const FIRST: Duration = Duration::from_millis(100);

/// The witnesses. Clones share everything.
#[derive(Clone)]
pub(crate) struct Witnesses {
    inner: Arc<Inner>,
}

struct Inner {
    policy: Policy,
    asked: Vec<Arc<Asked>>,
    /// Where the latest checkpoint is that a quorum cosigned.
    path: PathBuf,
    keys: LogKeys,
    interval: Duration,
    stale_after: Duration,
    refuses: bool,
    seen: Mutex<Seen>,
    /// Whether another daemon writes the log: then it asks, and keeps what is cosigned.
    paused: tokio::sync::Mutex<bool>,
    stopping: CancellationToken,
}

#[derive(Debug, Default)]
struct Seen {
    quorum: Option<Quorum>,
    /// What is wrong with each witness.
    troubles: Vec<Option<Trouble>>,
}

/// The latest checkpoint that a quorum cosigned.
#[derive(Clone, Copy, Debug)]
struct Quorum {
    size: u64,
    at: Instant,
    /// By how many of those that were asked; not known of an earlier daemon's.
    by: Option<usize>,
}

impl Witnesses {
    /// Those that the configuration names, for the log in `dir` that has these keys.
    pub(crate) fn of(config: &config::Ledger, dir: &Path, keys: &LogKeys) -> Result<Option<Self>, Problem> {
        let Some(path) = &config.policy else { return Ok(None) };
        let policy = crate::audit::policy(path, keys)?;
        let asked = asked(&policy, path)?;
        let seen = Seen { troubles: asked.iter().map(|_| None).collect(), quorum: None };
        let inner = Inner {
            policy,
            asked,
            path: dir.join("witnessed"),
            keys: keys.clone(),
            interval: config.witness_interval,
            stale_after: config.stale_after,
            refuses: config.require_witness == RequireWitness::Refuse,
            seen: Mutex::new(seen),
            paused: tokio::sync::Mutex::new(false),
            stopping: CancellationToken::new(),
        };
        inner.remember();
        Ok(Some(Self { inner: Arc::new(inner) }))
    }

    /// Asks them until [`Self::stop`].
    pub(crate) fn start(&self, writer: Writer) {
        let inner = self.inner.clone();
        stdx::task::spawn("ask the witnesses", async move {
            let stopping = inner.stopping.clone();
            stopping.run_until_cancelled(inner.run(&writer)).await;
        });
    }

    /// Asks nobody any more.
    pub(crate) fn stop(&self) {
        self.inner.stopping.cancel();
    }

    /// Another daemon is about to write the log, or does not after all. What is being kept is on the disk when this returns.
    pub(crate) async fn pause(&self, paused: bool) {
        *self.inner.paused.lock().await = paused;
    }

    /// Why no calls are to be made now, if the operator wants none without witnesses.
    pub(crate) fn refuses(&self) -> Option<String> {
        if !self.inner.refuses {
            return None;
        }
        let limit = model::Span::from(self.inner.stale_after);
        match self.inner.seen().quorum {
            Some(quorum) if quorum.at.elapsed() <= self.inner.stale_after => None,
            Some(quorum) => Some(format!(
                "a quorum of witnesses cosigned the ledger last {} s ago, and `ledger.stale_after` is {limit}",
                quorum.at.elapsed().as_secs()
            )),
            None => Some("no quorum of witnesses has cosigned the ledger yet".to_owned()),
        }
    }

    /// How it stands.
    pub(crate) fn report(&self) -> WitnessReport {
        let seen = self.inner.seen();
        let age = seen.quorum.map(|quorum| quorum.at.elapsed());
        WitnessReport {
            asked: self.inner.asked.len() as u64,
            cosigned: seen.quorum.and_then(|quorum| quorum.by).map(|by| by as u64),
            entries: seen.quorum.map(|quorum| quorum.size),
            age_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            stale: age.is_none_or(|age| age > self.inner.stale_after),
            alarm: seen.troubles.iter().flatten().any(Trouble::is_alarm),
            troubles: self.inner.asked.iter().zip(&seen.troubles).filter_map(told).collect(),
        }
    }
}

fn told((asked, trouble): (&Arc<Asked>, &Option<Trouble>)) -> Option<String> {
    trouble.as_ref().map(|trouble| format!("{}: {trouble}", asked.url))
}

/// Each address of the policy once, with all keys that it has there.
fn asked(policy: &Policy, path: &Path) -> Result<Vec<Arc<Asked>>, Problem> {
    let hint = "a line of a witness that is to be asked ends with its address: witness NAME VKEY https://…";
    let wrong = |why: String| fault::usage(format!("{}: {why}", path.display()), hint);
    let mut found: Vec<(String, Vec<Verifier>)> = Vec::new();
    for witness in policy.witnesses() {
        let Some(url) = &witness.url else { continue };
        let url = String::from_utf8(url.clone()).map_err(|_| wrong("an address is not UTF-8".to_owned()))?;
        match found.iter_mut().find(|(known, _)| *known == url) {
            Some((_, keys)) => keys.push(witness.key.clone()),
            None => found.push((url, vec![witness.key.clone()])),
        }
    }
    let reached = policy.satisfied(|witness| witness.url.is_some());
    if found.is_empty() || !policy.needs_witnesses() || !reached {
        return Err(wrong("its witnesses that have addresses are no quorum".to_owned()));
    }
    let outside = Outside::new().map_err(|error| fault::because("make ready to ask witnesses", &error, ""))?;
    let asked = found.into_iter().map(|(url, keys)| {
        Asked::new(&outside, &url, keys).map(Arc::new).map_err(|error| wrong(format!("the witness {url}: {error}")))
    });
    asked.collect()
}

impl Inner {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an earlier daemon was told.
    fn remember(&self) {
        let Ok(note) = std::fs::read(&self.path) else { return };
        let checkpoint = (note.len() <= MAX_NOTE).then(|| self.keys.open(&note).ok()).flatten();
        let Some(checkpoint) = checkpoint else { return };
        let Ok(cosigned) = self.policy.cosigned(&checkpoint) else { return };
        let oldest = cosigned.iter().filter_map(|one| one.time).min().unwrap_or(0);
        let now = u64::try_from(unix_ms() / 1000).unwrap_or(0);
        // A time in the future says nothing.
        let age = Duration::from_secs(now.checked_sub(oldest).unwrap_or(u64::from(u32::MAX)));
        if let Some(at) = monotonic().checked_sub(age) {
            self.seen().quorum = Some(Quorum { size: checkpoint.size(), at, by: None });
        }
    }

    async fn run(&self, writer: &Writer) {
        loop {
            let signed = writer.health().signed;
            let paused = *self.paused.lock().await;
            let pause = if signed.is_some() { self.interval } else { FIRST.min(self.interval) };
            if let Some(signed) = signed.filter(|signed| !paused && self.is_due(signed.size)) {
                match self.keys.open(signed.note.as_bytes()) {
                    Ok(checkpoint) => self.round(writer, checkpoint).await,
                    Err(error) => tracing::error!(%error, "the ledger's own checkpoint does not verify"),
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Whether there is something new, or what is known is soon too old.
    fn is_due(&self, size: u64) -> bool {
        let seen = self.seen();
        let troubled = seen.troubles.iter().any(Option::is_some);
        troubled
            || seen.quorum.is_none_or(|known| {
                known.size != size || known.by.is_none() || known.at.elapsed() > self.stale_after / 2
            })
    }

    /// Asks all of them at once, and keeps the cosignatures as soon as they are a quorum.
    async fn round(&self, writer: &Writer, checkpoint: Checkpoint) {
        let (tell, mut heard) = mpsc::channel(self.asked.len().max(1));
        for (nth, asked) in self.asked.iter().enumerate() {
            let (asked, writer, checkpoint, tell) = (asked.clone(), writer.clone(), checkpoint.clone(), tell.clone());
            stdx::task::spawn("ask a witness", async move {
                let outcome = asked.cosignatures(&writer, &checkpoint).await;
                drop(tell.send((nth, outcome)).await);
            });
        }
        drop(tell);
        let (mut lines, mut by): (Vec<Signature>, usize) = (Vec::new(), 0);
        while let Some((nth, outcome)) = heard.recv().await {
            // The daemon that writes now has shown them more.
            if *self.paused.lock().await {
                return;
            }
            match outcome {
                Ok(more) => {
                    lines.extend(more);
                    by += 1;
                    self.noted(nth, None);
                    self.cosigned(&checkpoint, &lines, by).await;
                }
                Err(trouble) => self.noted(nth, Some(trouble)),
            }
        }
    }

    /// Says of a witness what changed.
    fn noted(&self, nth: usize, trouble: Option<Trouble>) {
        let Some(asked) = self.asked.get(nth) else { return };
        let mut seen = self.seen();
        let Some(known) = seen.troubles.get_mut(nth) else { return };
        let witness = &asked.url;
        match (&known, &trouble) {
            (Some(_), None) => tracing::info!(witness, "the witness cosigns again"),
            (known, Some(trouble)) if known.as_ref().is_none_or(|known| known.kind() != trouble.kind()) => {
                if trouble.is_alarm() {
                    tracing::error!(witness, %trouble, "a witness will not cosign this ledger");
                } else {
                    tracing::warn!(witness, %trouble, "a witness did not cosign the ledger");
                }
            }
            _ => {}
        }
        *known = trouble;
    }

    /// Keeps a checkpoint with its cosignatures, if they are a quorum.
    async fn cosigned(&self, checkpoint: &Checkpoint, lines: &[Signature], by: usize) {
        let Ok(cosigned) = checkpoint.clone().with(lines.iter().cloned()) else { return };
        if self.policy.cosigned(&cosigned).is_err() {
            return;
        }
        let paused = self.paused.lock().await;
        if *paused {
            return;
        }
        let (path, note) = (self.path.clone(), cosigned.to_string());
        let kept = tokio::task::spawn_blocking(move || stdx::durable::write_file(&path, note.as_bytes(), 0o600)).await;
        drop(paused);
        match kept {
            Ok(Ok(())) => {
                self.seen().quorum = Some(Quorum { size: checkpoint.size(), at: monotonic(), by: Some(by) });
            }
            Ok(Err(error)) => {
                tracing::error!(error = %stdx::chain::Chain(&error), "what witnesses cosigned cannot be kept");
            }
            Err(_) => {}
        }
    }
}
