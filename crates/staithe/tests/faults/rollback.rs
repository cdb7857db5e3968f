//! A ledger that was set back, forked or cut behind its host's back: what the host, whoever kept a checkpoint, and a witness say.

use crate::daemon::Daemon;
use crate::recorded::verifies;
use ledger::witness::Request;
use ledger::{Disk, LogKeys, Reader, RealDisk};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use testkit::Client;
use testkit::copy_tree;
use testkit::wait::{eventually, eventually_some};

fn servers() -> Value {
    json!({"echo": {"command": testkit::bin("echo"), "era": "modern"}})
}

fn dir(daemon: &Daemon) -> PathBuf {
    daemon.state().join("ledger")
}

/// Entries of a signed checkpoint.
fn size(checkpoint: &Path) -> u64 {
    let text = std::fs::read_to_string(checkpoint).unwrap_or_default();
    text.lines().nth(1).and_then(|line| line.parse().ok()).unwrap_or(0)
}

/// What is in all files.
fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            all.extend(content(&path));
        } else {
            all.push((path.clone(), std::fs::read(path).unwrap()));
        }
    }
    all.sort();
    all
}

fn put(path: &Path, content: &[u8]) {
    stdx::durable::write_file(path, content, 0o600).unwrap();
}

fn put_in_place_of(dir: &Path, other: &Path) {
    std::fs::remove_dir_all(dir).unwrap();
    copy_tree(other, dir).unwrap();
}

/// So many calls, and a checkpoint over them.
async fn calls(daemon: &Daemon, client: &Client, many: usize) {
    for number in 0..many {
        let params = json!({"name": "echo", "arguments": {"text": number.to_string()}});
        let answer = eventually_some("an answer", async || {
            client.modern_call("echo", "tools/call", params.clone()).await.ok().map(|(_, answer)| answer)
        });
        let answer = answer.await;
        assert!(answer["result"].is_object(), "{answer}");
    }
    let told = daemon.run(&["audit", "tail", "-n", "1", "--json"]);
    let last: Value = serde_json::from_slice(&told.stdout).unwrap();
    let wanted = last["index"].as_u64().unwrap();
    eventually("a checkpoint", || size(&dir(daemon).join("checkpoint")) > wanted).await;
}

pub(crate) async fn stopped(daemon: &mut Daemon) {
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
}

/// The daemon does not start; its words. It changes nothing of the ledger.
async fn refused(daemon: &mut Daemon) -> String {
    let before = content(&dir(daemon));
    let said = daemon.last_words().len();
    daemon.start();
    let ended = daemon.ended().await;
    let words = daemon.last_words();
    assert_eq!(ended.code(), Some(1), "{words}");
    assert_eq!(content(&dir(daemon)), before, "a ledger that was refused was changed");
    assert!(daemon.servers().is_empty(), "a daemon that did not start left servers");
    words.get(said..).unwrap_or(&words).to_owned()
}

/// Three states of a ledger that grows: two copies, and the directory as the stopped daemon left it.
async fn grown(settings: &str, copies: &Path) -> (Daemon, Client) {
    let mut daemon = Daemon::new(&servers(), &[], settings);
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    calls(&daemon, &client, 20).await;
    stopped(&mut daemon).await;
    copy_tree(&dir(&daemon), &copies.join("older")).unwrap();
    daemon.insist_on_port();
    daemon.start();
    calls(&daemon, &client, 20).await;
    stopped(&mut daemon).await;
    copy_tree(&dir(&daemon), &copies.join("newer")).unwrap();
    (daemon, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_was_set_back_is_refused_where_an_anchor_knows_better() {
    let place = tempfile::tempdir().unwrap();
    let (anchor, older, newer) = (place.path().join("anchor"), place.path().join("older"), place.path().join("newer"));
    let settings = format!("[ledger]\nanchors = [{:?}]\n", anchor.to_str().unwrap());
    let (mut daemon, client) = grown(&settings, place.path()).await;
    assert_eq!(size(&anchor.join("checkpoint")), size(&newer.join("checkpoint")), "the anchor has the latest");
    put_in_place_of(&dir(&daemon), &older);
    // By itself the older copy is a ledger like any other.
    verifies(&daemon);
    let words = refused(&mut daemon).await;
    assert!(words.contains("older copy") && words.contains(anchor.to_str().unwrap()), "{words}");
    // An anchor is believed only where the ledger's keys signed it.
    let signed = std::fs::read(anchor.join("checkpoint")).unwrap();
    put(&anchor.join("checkpoint"), b"example.com/other\n1\nAAAA\n");
    let words = refused(&mut daemon).await;
    assert!(words.contains("is no checkpoint of this log"), "{words}");
    put(&anchor.join("checkpoint"), &signed);
    // With what belongs there it goes on as if nothing had been.
    put_in_place_of(&dir(&daemon), &newer);
    daemon.start();
    calls(&daemon, &client, 3).await;
    verifies(&daemon);
    stopped(&mut daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_was_set_back_unseen_is_found_by_its_witness_and_by_whoever_kept_a_checkpoint() {
    let place = tempfile::tempdir().unwrap();
    let (anchor, older, newer) = (place.path().join("anchor"), place.path().join("older"), place.path().join("newer"));
    let (mut daemon, client) = grown("", place.path()).await;
    let keys = place.path().join("log.vkeys");
    std::fs::copy(dir(&daemon).join("vkeys"), &keys).unwrap();
    let witness = Witness::start(place.path(), &keys);
    let seen = witness.asked(0, &older, &keys).await;
    assert_eq!(seen.0, 200, "{}", seen.1);
    let seen = witness.asked(size(&older.join("checkpoint")), &newer, &keys).await;
    assert_eq!(seen.0, 200, "{}", seen.1);

    put_in_place_of(&dir(&daemon), &older);
    daemon.start();
    calls(&daemon, &client, 60).await;
    let (now, then) = (size(&dir(&daemon).join("checkpoint")), size(&newer.join("checkpoint")));
    assert!(now > then, "the fork has {now} entries, and what it was set back from {then}");
    verifies(&daemon);
    // To the witness it is another log: whatever proof the fork has, it does not lead from what was cosigned.
    let (status, body) = witness.asked(then, &dir(&daemon), &keys).await;
    assert_eq!(status, 422, "{body}");
    let (status, body) = witness.asked(size(&older.join("checkpoint")), &dir(&daemon), &keys).await;
    assert_eq!((status, body.trim()), (409, then.to_string().as_str()), "it says which tree it knows");
    let kept = newer.join("checkpoint");
    let words = ["audit", "verify", dir(&daemon).to_str().unwrap(), "--key", keys.to_str().unwrap(), "--since"]
        .map(str::to_owned);
    let words: Vec<&str> = words.iter().map(String::as_str).chain([kept.to_str().unwrap()]).collect();
    let told = daemon.run(&words);
    assert_eq!(told.status.code(), Some(5), "{told:?}");

    // An anchor that comes too late still shows it at the next start.
    stopped(&mut daemon).await;
    std::fs::create_dir(&anchor).unwrap();
    std::fs::copy(&kept, anchor.join("checkpoint")).unwrap();
    let settings = format!("[ledger]\nanchors = [{:?}]\n", anchor.to_str().unwrap());
    put(&daemon.state().join("staithe.toml"), settings.as_bytes());
    let words = refused(&mut daemon).await;
    assert!(words.contains("they were altered") && words.contains(anchor.to_str().unwrap()), "{words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_was_cut_is_refused_by_its_own_checkpoint() {
    let place = tempfile::tempdir().unwrap();
    let (mut daemon, _) = grown("", place.path()).await;
    let signed = size(&dir(&daemon).join("checkpoint"));
    // The segment of the older copy beside the checkpoint of the newer one, and no trace of the rest.
    copy_tree(&place.path().join("older/wal"), &dir(&daemon).join("wal")).unwrap();
    let words = refused(&mut daemon).await;
    assert!(words.contains("it was cut, or this is an older copy") && words.contains(&signed.to_string()), "{words}");
    // Whoever only reads it is told so, too.
    let told = daemon.run(&["audit", "tail", "-n", "1"]);
    assert!(!told.status.success(), "{told:?}");
}

/// A witness, and the way to it.
struct Witness {
    child: Child,
    client: Client,
}

impl Witness {
    fn start(place: &Path, keys: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_staithe"))
            .args(["audit", "witness", "--json", "--listen", "127.0.0.1:0", "--name", "example.com/w1", "--dir"])
            .arg(place.join("witness"))
            .arg("--log")
            .arg(keys)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).unwrap();
        let client = Client::new(told["listening"]["witness"].as_str().unwrap(), None).unwrap();
        Self { child, client }
    }

    /// Whether it cosigns the latest checkpoint of the ledger in `dir`, if it knows `old` entries: status and body.
    async fn asked(&self, old: u64, dir: &Path, keys: &Path) -> (u16, String) {
        let text = std::fs::read_to_string(keys).unwrap();
        let pair: Vec<ledger::Verifier> = text
            .lines()
            .filter(|line| line.contains('+') && !line.starts_with('#'))
            .map(|line| line.parse().unwrap())
            .collect();
        let known = LogKeys::new(vec![ledger::KeyPair::new(pair[0].clone(), pair[1].clone()).unwrap()]).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let reader = Reader::open(&disk, dir, Arc::new(known.clone())).unwrap();
        let signed = reader.signed().unwrap();
        let proof = reader.view().consistency_at(old, signed.size).unwrap();
        let checkpoint = known.open(signed.note.as_bytes()).unwrap();
        let request = Request::new(old, proof, &checkpoint).unwrap();
        let answer = self.client.post("/add-checkpoint", &[], request.to_string()).await.unwrap();
        (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
