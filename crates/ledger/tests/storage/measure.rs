//! Figures, not part of the run: `cargo nextest run --release -p staithe-ledger --test storage --run-ignored only --no-capture`.
//! `LEDGER_DIR` says where, `LEDGER_ENTRIES` how many entries of 300 bytes.

use crate::promise::keys_of;
use staithe_ledger::disk::{Disk, RealDisk};
use staithe_ledger::{Log, Options, verify};
use std::sync::Arc;
use std::time::Duration;

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let clock = stdx::clock::monotonic();
    let done = work();
    (done, clock.elapsed())
}

#[test]
#[ignore = "prints figures; takes gigabytes and minutes"]
fn figures() {
    let dir = match std::env::var("LEDGER_DIR") {
        Ok(dir) => tempfile::tempdir_in(dir).unwrap(),
        Err(_) => tempfile::tempdir().unwrap(),
    };
    let wanted: u64 = std::env::var("LEDGER_ENTRIES").map_or(10_000_000, |text| text.parse().unwrap());
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let keys = Arc::new(keys_of(3));
    let open = || Log::open(&disk, dir.path(), Options::default(), keys.clone(), Vec::new()).unwrap();
    let entry = [0x61_u8; 300];
    let per_second = |many: u64, time: Duration| many as f64 / time.as_secs_f64();

    let (mut log, _) = open();
    let ((), alone) = timed(|| {
        for _ in 0..200_000 {
            log.append(&[entry]).unwrap();
        }
    });
    eprintln!("append, one at a time: {:.0}/s", per_second(200_000, alone));
    let batch = vec![entry; 64];
    let ((), durable) = timed(|| {
        for _ in 0..200 {
            log.append(&batch).unwrap();
            log.sync().unwrap();
        }
    });
    eprintln!("append, 64 and a sync: {:.0}/s", per_second(200 * 64, durable));
    let (_, signed) = timed(|| log.checkpoint(1).unwrap());
    eprintln!("checkpoint with {} tiles: {signed:?}", log.size() / 256);
    let (_, signed) = timed(|| {
        for n in 0..10 {
            log.checkpoint(n).unwrap();
        }
    });
    eprintln!("checkpoint without tiles: {:?}", signed / 10);
    let rest = wanted.saturating_sub(log.size()) / 64;
    let ((), all) = timed(|| {
        for nth in 0..rest {
            log.append(&batch).unwrap();
            if nth % 300 == 299 {
                log.checkpoint(nth).unwrap();
            }
        }
        log.checkpoint(9).unwrap();
    });
    eprintln!("append, batches of 64, a checkpoint each 19,200: {:.0}/s", per_second(rest * 64, all));
    let (_, proof) = timed(|| {
        for n in 0..1000 {
            log.inclusion(n * 7919 % log.size()).unwrap();
        }
    });
    eprintln!("inclusion proof: {:?}", proof / 1000);
    let (_, read) = timed(|| {
        for n in 0..1000 {
            log.entry(n * 7919 % log.size()).unwrap();
        }
    });
    eprintln!("entry: {:?}", read / 1000);
    drop(log);
    let ((log, recovered), opened) = timed(open);
    eprintln!("open {} entries: {opened:?}, {} walked", log.size(), recovered.walked);
    drop(log);
    let (verified, time) = timed(|| verify(&disk, dir.path(), keys.known(), None, &mut |_, _| {}).unwrap());
    eprintln!("verify: {:.0}/s, {} files missing", per_second(verified.size, time), verified.missing);
}
