//! What an operator takes out of the ledger: whom a pseudonym stands for, and the beginning of the log.

use crate::daemon::Daemon;
use crate::rollback::stopped;
use crate::searched::{found, used};
use ledger::{Disk, Keys, Kind, Log, LogKeys, LogSigner, Options, RealDisk, Signer, Verifier};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use store::{Location, Store};
use testkit::Client;
use testkit::copy_tree;
use testkit::wait::eventually;

/// Everything in a directory, as bytes.
fn bytes_below(dir: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            all.extend(bytes_below(&path));
        } else {
            all.extend(std::fs::read(path).unwrap_or_default());
        }
    }
    all
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

async fn secret(daemon: &Daemon, principal: &str) -> Option<String> {
    let store = Store::open(Location::Sqlite(daemon.state().join("db/staithe.db"))).await.unwrap();
    let all = store.subjects().await.unwrap();
    all.into_iter().find(|(known, _)| known.to_string() == principal).map(|(_, secret)| secret)
}

/// Nor does a database that was put back lead to them, nor the rows of tokens that are over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_erased_stays_so_when_an_older_database_is_put_back() {
    let mut daemon = used().await;
    let calls = found(&daemon, &["--principal", "ann", "--tool", "note"]);
    let token = calls[0]["start"]["who"]["token"].as_str().unwrap().to_owned();
    stopped(&mut daemon).await;
    let (db, older) = (daemon.state().join("db"), daemon.state().join("older"));
    copy_tree(&db, &older).unwrap();
    daemon.start();
    eventually("the daemon", || daemon.run(&["status"]).status.success()).await;
    assert!(daemon.run(&["token", "revoke", &token]).status.success());
    let done = daemon.run(&["audit", "erase", "ann", "--yes"]);
    assert!(done.status.success() && say(&done).contains("No token names it any more"), "{done:?}");
    assert!(!daemon.text(&["token", "list"]).contains(&token), "its row is gone");
    stopped(&mut daemon).await;
    std::fs::remove_dir_all(&db).unwrap();
    copy_tree(&older, &db).unwrap();
    assert!(secret(&daemon, "ann").await.is_some(), "the older database has the key");
    daemon.start();
    eventually("the daemon", || daemon.run(&["status"]).status.success()).await;
    assert_eq!(secret(&daemon, "ann").await, None);
    assert_eq!(daemon.run(&["audit", "search", "--principal", "ann"]).status.code(), Some(3));
}

/// The daemon was killed when the key was gone from the database's rows, and not yet from its file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_that_was_cut_short_is_finished_at_the_next_start() {
    let mut daemon = used().await;
    let calls = found(&daemon, &["--principal", "ann", "--tool", "note"]);
    let pseudonym = calls[0]["start"]["who"]["sub"].as_str().unwrap().to_owned();
    let key = secret(&daemon, "ann").await.unwrap();
    stopped(&mut daemon).await;
    let (db, noted) = (daemon.state().join("db"), daemon.state().join("ledger/erased"));
    let store = Store::open(Location::Sqlite(db.join("staithe.db"))).await.unwrap();
    assert!(store.erase_subject(&"ann".parse().unwrap()).await.unwrap());
    drop(store);
    stdx::durable::write_file(&noted, format!("{pseudonym}\n").as_bytes(), 0o600).unwrap();
    assert!(has(&bytes_below(&db), &key), "it is in pages that are not used");
    daemon.start();
    eventually("no copy of the key in any file", || !has(&bytes_below(&db), &key)).await;
    eventually("a note of it", || std::fs::read_to_string(&noted).unwrap().ends_with("\n.\n")).await;
}

fn say(told: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_leads_back_to_who_was_erased() {
    let daemon = used().await;
    let calls = found(&daemon, &["--principal", "ann", "--tool", "note"]);
    let old = calls[0]["start"]["who"]["sub"].as_str().unwrap().to_owned();
    let key = secret(&daemon, "ann").await.unwrap();
    let unasked = daemon.run(&["audit", "erase", "ann"]);
    assert_eq!(unasked.status.code(), Some(2), "nobody said yes: {unasked:?}");
    assert!(secret(&daemon, "ann").await.is_some());
    let done = daemon.run(&["audit", "erase", "ann", "--ticket", "T-17", "--yes"]);
    assert!(done.status.success() && say(&done).contains(&old), "{done:?}");
    assert!(say(&done).contains("Tokens still name it"), "{done:?}");

    assert_eq!(secret(&daemon, "ann").await, None);
    eventually("no copy of the key in any file", || !has(&bytes_below(daemon.state()), &key)).await;
    let gone = daemon.run(&["audit", "search", "--principal", "ann"]);
    assert_eq!(gone.status.code(), Some(3), "{gone:?}");
    let kept = found(&daemon, &["--principal", &old, "--tool", "note"]);
    assert_eq!(kept.len(), 3, "the records stay");
    assert!(kept.iter().all(|call| call["principal"] == Value::Null), "{kept:?}");
    // The act is in the ledger, under the pseudonym.
    let acts = found(&daemon, &["--tool", "audit-erase", "--outcome", "done"]);
    assert_eq!((acts.len(), &acts[0]["start"]["about"], &acts[0]["start"]["ticket"]), (1, &json!(old), &json!("T-17")));
    let ledger = bytes_below(&daemon.state().join("ledger"));
    assert!(!has(&ledger, "\"ann\"") && !has(&ledger, " ann "), "no record names the principal");
    eventually("a checkpoint", || daemon.run(&["audit", "verify"]).status.success()).await;

    // Who goes on calling is somebody else.
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    let own = client.legacy_session("own").await.unwrap();
    let note = json!({"name": "note", "arguments": {"nonce": "x", "canary": "ann", "ms": 0}});
    own.call("tools/call", note).await.unwrap();
    let calls = found(&daemon, &["--principal", "ann", "--tool", "note"]);
    assert_eq!(calls.len(), 1);
    assert_ne!(calls[0]["start"]["who"]["sub"], json!(old));
    let nobody = daemon.run(&["audit", "erase", "carol", "--yes"]);
    assert_eq!(nobody.status.code(), Some(3), "{nobody:?}");
    assert!(!has(&bytes_below(&daemon.state().join("ledger")), "carol"), "a failure names nobody either");
}

/// The daemon's own log, opened as its owner would, with segments that a test can fill.
fn own_log(state: &Path) -> Log {
    let text = std::fs::read_to_string(state.join("ledger/vkeys")).unwrap();
    let keys: Vec<Verifier> =
        text.lines().filter(|line| !line.starts_with('#')).map(|line| line.parse().unwrap()).collect();
    let read = |name: &str, kind| {
        let bytes = std::fs::read(state.join("keys").join(name)).unwrap();
        Signer::from_pkcs8(kind, keys[0].name(), &bytes).unwrap()
    };
    let (one, other) = (read("ledger.ed25519", Kind::Ed25519), read("ledger.ml-dsa-44", Kind::MlDsa44Cosignature));
    let signer = LogSigner::new(one, other).unwrap();
    let known = LogKeys::new(vec![signer.keys().clone()]).unwrap();
    let options = Options { segment_bytes: 64 << 10, allocate_bytes: 4096, reserve_bytes: 256 };
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    Log::open(&disk, &state.join("ledger"), options, Arc::new(Keys::new(signer, known).unwrap()), vec![]).unwrap().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pruned_is_archived_first_and_the_rest_verifies() {
    let mut daemon = used().await;
    daemon.terminate();
    daemon.ended().await;
    let mut log = own_log(daemon.state());
    for at in 0..3000 {
        log.append(&[json!({"v": 1, "ms": 1000 + at, "t": "log", "event": "heartbeat"}).to_string()]).unwrap();
    }
    let now = u64::try_from(stdx::clock::unix_ms() / 1000).unwrap();
    let signed = log.checkpoint(now).unwrap().size;
    drop(log);
    let archive = daemon.state().join("archive");
    let words = ["audit", "prune", "--before", "2500", "--yes", "--archive", archive.to_str().unwrap()];
    let off = daemon.run(&["audit", "prune", "--before", "2500", "--yes"]);
    assert_eq!(off.status.code(), Some(1), "no daemon: {off:?}");
    daemon.start();
    eventually("the daemon", || daemon.run(&["status"]).status.success()).await;
    let far = daemon.run(&["audit", "prune", "--before", "99999999", "--yes"]);
    assert_eq!(far.status.code(), Some(2), "beyond what is signed: {far:?}");
    assert_eq!(daemon.run(&["audit", "prune", "--before", "2500"]).status.code(), Some(2), "nobody said yes");
    let done = daemon.run(&words);
    assert!(done.status.success() && say(&done).contains("the first that is left is"), "{done:?}");

    let told = daemon.run(&["audit", "verify"]);
    assert!(told.status.success() && say(&told).contains("they were pruned"), "{told:?}");
    let all = daemon.run(&[
        "audit",
        "verify",
        archive.to_str().unwrap(),
        "--key",
        daemon.state().join("ledger/vkeys").to_str().unwrap(),
    ]);
    assert!(all.status.success() && !say(&all).contains("they were pruned"), "{all:?}");
    assert_eq!(daemon.run(&["audit", "show", "0"]).status.code(), Some(1));
    let last = (signed - 1).to_string();
    assert!(daemon.run(&["audit", "show", &last]).status.success());
    assert!(daemon.run(&["audit", "prove", &last]).status.success());
    assert_eq!(found(&daemon, &["--tool", "note"]).len(), 0, "they are gone, and so they are from the index");
    let acts = found(&daemon, &["--tool", "audit-prune"]);
    assert!(
        acts.iter().any(|act| act["start"]["about"] == "entries before 2500" && act["end"]["done"] == true),
        "{acts:?}"
    );
    let again = daemon.run(&words);
    assert_eq!(again.status.code(), Some(2), "a directory that exists is no archive: {again:?}");
    // It still works, and still opens.
    daemon.kill();
    daemon.start();
    eventually("the daemon", || daemon.run(&["status"]).status.success()).await;
    assert!(daemon.run(&["audit", "verify"]).status.success());
    let export = daemon.run(&["audit", "export"]);
    assert!(export.status.success(), "{export:?}");
}
