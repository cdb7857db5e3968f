//! Every call to the kernel that a log makes about its files fails once, in every way (EIO, ENOSPC, `kill -9`), in a process of its own
//! on the file system of this machine; then the log is opened again. strace does it to the example `once`, which says what is certain.
#![expect(clippy::unwrap_used, clippy::panic, reason = "these are tests, helpers included")]

use staithe_ledger::{Disk, Keys, Kind, Log, LogKeys, LogSigner, Options, RealDisk, Signer, verify};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

const SMALL: Options = Options { segment_bytes: 16 << 10, allocate_bytes: 4 << 10, reserve_bytes: 1 << 10 };
const SEED: [u8; 32] = [7; 32];
/// What Linux calls them on one machine or another; strace passes over those with a `?` that this one does not have.
const CALLS: &str = "?open,openat,?read,pread64,?write,pwrite64,fsync,fdatasync,?rename,?renameat,?renameat2,?link,linkat,?mkdir,mkdirat,\
                     ?unlink,unlinkat,ftruncate,fallocate,?getdents64,flock,?fstat,?statx,?newfstatat,close";
const WAYS: [&str; 3] = ["error=EIO", "error=ENOSPC", "signal=KILL"];
const AT_ONCE: usize = 2;

/// One call: the how manieth of its name it is in a run that nothing disturbs.
#[derive(Clone, Debug)]
struct Point {
    call: String,
    nth: usize,
    way: &'static str,
}

/// What a run said before it ended.
#[derive(Debug, Default)]
struct Said {
    attempted: u64,
    kernel: u64,
    signed: u64,
    pruned: u64,
}

/// A place in memory where there is one: what is tested is the order of calls, not the disk's speed.
fn place() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.ancestors().nth(2).unwrap().join("examples/once");
    assert!(path.is_file(), "{} is missing: cargo build --release --workspace --all-targets", path.display());
    path
}

/// Runs `once` under strace. What it said, how it ended, and what strace saw.
fn run(dir: &Path, trace: &Path, words: &[&str]) -> (String, Option<i32>, String) {
    let mut command = Command::new("strace");
    command.arg("-y").arg("-o").arg(trace).args(words).arg(program()).arg(dir);
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("strace: {error}; install it (Debian: apt-get install strace)"));
    let seen = std::fs::read_to_string(trace).unwrap_or_default();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(seen.contains("+++"), "strace could not watch a process; is ptrace allowed here? It says: {words}");
    (String::from_utf8(output.stdout).unwrap(), output.status.code(), seen)
}

fn said(text: &str) -> Said {
    let mut said = Said::default();
    for (word, number) in text.lines().filter_map(|line| line.split_once(' ')) {
        let Ok(number) = number.parse::<u64>() else { continue };
        let member = match word {
            "attempt" => &mut said.attempted,
            "kernel" | "durable" => &mut said.kernel,
            "signed" => &mut said.signed,
            "pruned" => &mut said.pruned,
            _ => continue,
        };
        *member = number.max(*member);
    }
    said
}

/// Every call of an undisturbed run that is about the log's directory.
fn points() -> Vec<Point> {
    let place = place();
    let dir = place.path().join("log");
    let (_, code, seen) = run(&dir, &place.path().join("trace"), &["-e", &format!("trace={CALLS}")]);
    assert_eq!(code, Some(0));
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut points = Vec::new();
    let mut before = "";
    for line in seen.lines() {
        let Some((call, rest)) = line.split_once('(') else { continue };
        let nth = counts.entry(call.to_owned()).or_default();
        *nth += 1;
        if rest.contains(dir.to_str().unwrap()) {
            let mut ways = WAYS.to_vec();
            if call == "close" && before == "getdents64" {
                // Rust's own reader of directories panics where Linux says what it never says: that closing one failed.
                ways.retain(|way| way.starts_with("signal"));
            }
            points.extend(ways.into_iter().map(|way| Point { call: call.to_owned(), nth: *nth, way }));
        }
        before = call;
    }
    points
}

fn entry(index: u64) -> String {
    format!("entry number {index} {:-<80}", "")
}

fn keys() -> Keys {
    let ed25519 = Signer::from_seed(Kind::Ed25519, "example.com/log", &SEED).unwrap();
    let ml_dsa_44 = Signer::from_seed(Kind::MlDsa44Cosignature, "example.com/log", &SEED).unwrap();
    let signer = LogSigner::new(ed25519, ml_dsa_44).unwrap();
    let known = LogKeys::new(vec![signer.keys().clone()]).unwrap();
    Keys::new(signer, known).unwrap()
}

/// One call fails; whatever was certain before is there afterwards, and the log goes on.
fn disturbed(point: &Point) -> Result<Option<i32>, String> {
    let place = place();
    let dir = place.path().join("log");
    let inject = format!("inject={}:{}:when={}", point.call, point.way, point.nth);
    let (text, code, seen) =
        run(&dir, &place.path().join("trace"), &["-e", &format!("trace={}", point.call), "-e", &inject]);
    let (hit, ended) = match point.way {
        "signal=KILL" => (seen.contains("killed by SIGKILL"), code.is_none() || code == Some(137)),
        _ => (seen.contains("(INJECTED)"), matches!(code, Some(0 | 3))),
    };
    if !hit || !ended {
        return Err(format!("it was hit: {hit}; it ended with {code:?} and said\n{text}"));
    }
    let said = said(&text);
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let keys = Arc::new(keys());
    let (mut log, recovered) = Log::open(&disk, &dir, SMALL, keys.clone(), Vec::new())
        .map_err(|error| format!("{}", stdx::chain::Chain(&error)))?;
    if !(said.kernel..=said.attempted.max(said.kernel)).contains(&recovered.size) {
        return Err(format!("{} entries are there, and it said {said:?}", recovered.size));
    }
    if recovered.signed.map_or(0, |signed| signed.size) < said.signed {
        return Err(format!("a checkpoint over {} entries was given, and is gone", said.signed));
    }
    for index in said.pruned..log.size() {
        let there = log.entry(index).map_err(|error| format!("entry {index}: {error}"))?;
        if there != entry(index).as_bytes() {
            return Err(format!("entry {index} is {:?}", String::from_utf8_lossy(&there)));
        }
    }
    log.append(&[entry(log.size())]).map_err(|error| error.to_string())?;
    let signed = log.checkpoint(2).map_err(|error| error.to_string())?;
    drop(log);
    let verified = verify(&disk, &dir, &*keys, None, &mut |_, _| {});
    let verified = verified.map_err(|error| format!("{}", stdx::chain::Chain(&error)))?;
    (verified.signed == signed)
        .then_some(code)
        .ok_or_else(|| "another checkpoint than the latest was verified".to_owned())
}

#[test]
fn every_call_to_the_kernel_may_fail_in_every_way() {
    let began = stdx::clock::monotonic();
    let points = points();
    assert!(points.len() >= 3 * 150, "{}", points.len());
    let next = Mutex::new(points.iter());
    let (wrongs, finished) = (Mutex::new(Vec::new()), Mutex::new(0));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let point = next.lock().unwrap().next();
                    let Some(point) = point else { return };
                    match disturbed(point) {
                        Ok(code) => *finished.lock().unwrap() += usize::from(code == Some(0)),
                        Err(wrong) => wrongs.lock().unwrap().push(format!("{point:?}: {wrong}")),
                    }
                }
            });
        }
    });
    let mut calls: BTreeMap<&str, usize> = BTreeMap::new();
    points.iter().for_each(|point| *calls.entry(&point.call).or_default() += 1);
    let (wrongs, finished) = (wrongs.into_inner().unwrap(), finished.into_inner().unwrap());
    eprintln!(
        "{} calls were disturbed, in {:?}: {calls:?}; {finished} times it went on to its end",
        points.len(),
        began.elapsed()
    );
    assert!(wrongs.is_empty(), "{} wrongs:\n{}", wrongs.len(), wrongs.join("\n"));
}
