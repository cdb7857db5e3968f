//! The ledger alone: appends by many threads, opening a large log, verifying it. Entries are as long as a call's record.

use super::error::{BenchError, wrong};
use super::{Scale, say};
use ledger::recover::OpenError;
use ledger::writer::{Own, Owner, Settings, Until, Writer};
use ledger::{Disk, Keys, Kind, Log, LogKeys, LogSigner, Options, RealDisk, Signed, Signer, verify};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use stdx::clock::{monotonic, unix_ms};

/// Bytes of an entry.
pub(crate) const ENTRY: usize = 350;
/// Threads that append at one time, each waiting for its entry.
pub(crate) const THREADS: u64 = 64;

/// What was measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    /// Appends per second that wait for the kernel.
    pub(crate) kernel: f64,
    /// Appends per second that wait for the disk.
    pub(crate) disk: f64,
    /// Entries of the log that was opened and verified.
    pub(crate) entries: u64,
    /// How long it took to open.
    pub(crate) opened: Duration,
    /// Entries verified per second.
    pub(crate) verified: f64,
}

/// Measures in a directory below `scratch`, with a log of as many entries as the scale wants.
pub(crate) fn measure(scratch: &Path, scale: Scale) -> Result<Figures, BenchError> {
    let dir = scratch.join("ledger");
    say(&format!("ledger: appends, then a log of {} entries", scale.ledger_entries));
    let measured = figures(&dir, scale).map_err(|error| wrong(stdx::chain::Chain(&*error).to_string()));
    // Gigabytes: not left for the end of the run.
    let _ = std::fs::remove_dir_all(&dir);
    measured
}

fn figures(dir: &Path, scale: Scale) -> Result<Figures, Box<dyn Error>> {
    let keys = Arc::new(new_keys()?);
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let open = |dir: &Path| Log::open(&disk, dir, Options::default(), keys.clone(), Vec::new());

    let writes = dir.join("writes");
    let (log, _) = open(&writes)?;
    let writer = Writer::start(log, Arc::new(Bench), Settings::default())?;
    let kernel = appends(&writer, Until::Kernel, scale.measure);
    let on_disk = appends(&writer, Until::Disk, scale.measure);
    writer.close();

    let large = dir.join("large");
    let (mut log, _) = open(&large)?;
    let batch = vec![[b'a'; ENTRY]; 256];
    for nth in 0..scale.ledger_entries / 256 {
        log.append(&batch)?;
        if nth % 100 == 99 {
            log.checkpoint(nth)?;
        }
    }
    log.checkpoint(0)?;
    drop(log);
    let clock = monotonic();
    let (log, _) = open(&large)?;
    let opened = clock.elapsed();
    let entries = log.size();
    drop(log);
    let clock = monotonic();
    let done = verify(&disk, &large, keys.known(), None, &mut |_, _| {})?;
    let verified = per_second(done.size, clock.elapsed());
    Ok(Figures { kernel, disk: on_disk, entries, opened, verified })
}

/// Appends per second of all threads together.
fn appends(writer: &Writer, until: Until, time: Duration) -> f64 {
    let begun = monotonic();
    let one = || {
        let mut many = 0_u64;
        while begun.elapsed() < time && writer.append_and_wait(vec![b'a'; ENTRY], until).is_ok() {
            many += 1;
        }
        many
    };
    let many = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(one)).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).sum()
    });
    per_second(many, begun.elapsed())
}

#[expect(clippy::cast_precision_loss, reason = "a figure on a page")]
fn per_second(many: u64, time: Duration) -> f64 {
    many as f64 / time.as_secs_f64().max(f64::EPSILON)
}

fn new_keys() -> Result<Keys, Box<dyn Error>> {
    let signer = |kind| Signer::generate(kind, "bench.example/ledger");
    let signer = LogSigner::new(signer(Kind::Ed25519)?, signer(Kind::MlDsa44Cosignature)?)?;
    let known = LogKeys::new(vec![signer.keys().clone()])?;
    Keys::new(signer, known).ok_or_else(|| "the keys are not a pair".into())
}

/// A log that nobody opens a second time.
struct Bench;

impl Owner for Bench {
    fn now_s(&self) -> u64 {
        u64::try_from(unix_ms() / 1000).unwrap_or(0)
    }

    fn says(&self, _own: Own) -> Vec<u8> {
        b"{}".to_vec()
    }

    fn open(&self) -> Result<Log, OpenError> {
        Err(OpenError::Locked { path: PathBuf::new() })
    }

    fn signed(&self, _signed: &Signed) {}
}
