//! Two lives of a log in one process: opening, appends, syncs, checkpoints, new segments, pruning. It says on stdout what is certain
//! at each point, so that whoever ends it, or fails its calls to the kernel, knows what must be there afterwards.
//!
//! usage: once DIRECTORY      exit code 3: an error of the disk broke the log, or kept it from being opened
#![expect(clippy::print_stdout, reason = "a program says what is certain")]

use staithe_ledger::log::AppendError;
use staithe_ledger::publish::PublishError;
use staithe_ledger::{Disk, Keys, Kind, Log, LogKeys, LogSigner, Options, RealDisk, Signer};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

const SMALL: Options = Options { segment_bytes: 16 << 10, allocate_bytes: 4 << 10, reserve_bytes: 1 << 10 };
const SEED: [u8; 32] = [7; 32];

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else { return ExitCode::from(2) };
    for rounds in [6, 2] {
        if let Err(error) = live(&dir, rounds) {
            println!("broken: {error}");
            return ExitCode::from(3);
        }
    }
    ExitCode::SUCCESS
}

fn live(dir: &Path, rounds: u64) -> Result<(), Box<dyn Error>> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let (mut log, recovered) = Log::open(&disk, dir, SMALL, Arc::new(keys()?), Vec::new())?;
    println!("durable {}", recovered.size);
    for round in 0..rounds {
        let entries: Vec<String> = (log.size()..log.size() + 45).map(entry).collect();
        println!("attempt {}", log.size() + 45);
        match log.append(&entries) {
            // A full disk breaks nothing: it is tried again.
            Err(AppendError::Full) => log.append(&entries)?,
            other => other?,
        };
        println!("kernel {}", log.size());
        if round % 2 == 0 {
            println!("durable {}", log.sync()?);
        }
        let signed = match log.checkpoint(1) {
            Err(PublishError::Full) => log.checkpoint(1)?,
            other => other?,
        };
        println!("signed {}", signed.size);
    }
    if log.size() > 300 {
        println!("pruned 200");
        log.prune(200)?;
    }
    Ok(())
}

/// What entry `index` says.
fn entry(index: u64) -> String {
    format!("entry number {index} {:-<80}", "")
}

fn keys() -> Result<Keys, Box<dyn Error>> {
    let ed25519 = Signer::from_seed(Kind::Ed25519, "example.com/log", &SEED)?;
    let ml_dsa_44 = Signer::from_seed(Kind::MlDsa44Cosignature, "example.com/log", &SEED)?;
    let signer = LogSigner::new(ed25519, ml_dsa_44)?;
    let known = LogKeys::new(vec![signer.keys().clone()])?;
    Keys::new(signer, known).ok_or_else(|| "the keys are two logs'".into())
}
