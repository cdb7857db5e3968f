//! A ledger that is not what it said before: refused, explained, and given up only where the operator says so.

use crate::daemon::Daemon;
use crate::searched::{found, used};
use ledger::LogKeys;
use serde_json::{Value, json};
use std::path::Path;
use testkit::copy_tree;
use testkit::wait::{eventually, eventually_some};

async fn stopped() -> Daemon {
    let mut daemon = used().await;
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    daemon
}

/// Entries are gone that the checkpoint covers.
fn cut(daemon: &Daemon) {
    let path = daemon.state().join("ledger/wal/00000000000000000000.seg");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(9).position(|bytes| bytes == b"call.star").unwrap();
    bytes[at - 40..].fill(0);
    stdx::durable::write_file(&path, &bytes, 0o600).unwrap();
}

fn recover(daemon: &Daemon) -> std::process::Output {
    daemon.run(&["audit", "recover", "--accept-loss", "--json"])
}

pub(crate) async fn refused(daemon: &mut Daemon) -> String {
    daemon.start();
    assert_ne!(daemon.ended().await.code(), Some(0));
    daemon.last_words()
}

pub(crate) async fn serves(daemon: &mut Daemon) {
    daemon.start();
    eventually("the daemon", || daemon.run(&["status"]).status.success()).await;
    eventually("a checkpoint", || daemon.run(&["audit", "verify"]).status.success()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_was_cut_is_given_up_only_on_purpose() {
    let mut daemon = stopped().await;
    // An attempt that ended before anything was put aside is in nobody's way.
    std::fs::create_dir(daemon.state().join("ledger.next")).unwrap();
    std::fs::create_dir(daemon.state().join("keys.next")).unwrap();
    let whole = recover(&daemon);
    assert!(!daemon.state().join("keys.next").exists());
    assert_eq!(whole.status.code(), Some(2), "nothing is lost: {whole:?}");
    let before = std::fs::read_to_string(daemon.state().join("ledger/checkpoint")).unwrap();
    cut(&daemon);
    let said = refused(&mut daemon).await;
    assert!(said.contains("audit recover --accept-loss"), "{said}");
    assert_eq!(daemon.run(&["audit", "recover"]).status.code(), Some(2), "only on purpose");
    let done = recover(&daemon);
    assert!(done.status.success(), "{done:?}");
    let told: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(told["lost"]["checkpoint"], json!(before));
    assert!(daemon.state().join("ledger.lost-1/wal").is_dir(), "the old one is kept");
    serves(&mut daemon).await;
    // Whoever has the old keys verifies in the first entry what the old ledger had said.
    let first = daemon.cli(&["audit", "show", "0"]);
    let after = first["record"]["after"].as_str().unwrap();
    let text = std::fs::read_to_string(daemon.state().join("ledger.lost-1/vkeys")).unwrap();
    let old: LogKeys = text.parse().unwrap();
    let note = after.split_once('\n').unwrap().1;
    let checkpoint = old.open(note.as_bytes()).unwrap();
    assert_eq!(json!(checkpoint.size()), told["lost"]["entries"]);
    assert_ne!(told["log"], told["lost"]["log"], "another log has another name");
    assert_eq!(found(&daemon, &["--tool", "note"]).len(), 0);
    // A second loss is kept beside the first.
    daemon.kill();
    let segment = daemon.state().join("ledger/wal/00000000000000000000.seg");
    std::fs::remove_file(segment).unwrap();
    assert!(refused(&mut daemon).await.contains("audit recover --accept-loss"));
    assert!(recover(&daemon).status.success());
    assert!(
        daemon.state().join("ledger.lost-2").is_dir() && daemon.state().join("keys/ledger.ed25519.lost-2").is_file()
    );
    serves(&mut daemon).await;
}

/// A ledger that somebody deleted is missed: nothing begins in its place as if there had been none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_is_gone_is_missed() {
    let mut daemon = stopped().await;
    let (ledger, gone) = (daemon.state().join("ledger"), daemon.state().join("gone"));
    let name = std::fs::read_to_string(daemon.state().join("keys/ledger.name")).unwrap();
    stdx::durable::rename(&ledger, &gone).unwrap();
    let said = refused(&mut daemon).await;
    assert!(said.contains(name.trim()) && said.contains("audit recover --accept-loss"), "{said}");
    assert!(!ledger.exists());
    // It comes back, and nothing has happened.
    stdx::durable::rename(&gone, &ledger).unwrap();
    serves(&mut daemon).await;
    daemon.terminate();
    daemon.ended().await;
    // It does not, nor do its keys: the database knows of it.
    std::fs::remove_dir_all(&ledger).unwrap();
    std::fs::remove_dir_all(daemon.state().join("keys")).unwrap();
    let said = refused(&mut daemon).await;
    assert!(said.contains(name.trim()) && said.contains("audit recover --accept-loss"), "{said}");
    let done = recover(&daemon);
    assert!(done.status.success(), "{done:?}");
    let told: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(told["lost"]["log"], json!(name.trim()));
    assert!(daemon.state().join("keys/ledger.name.lost-1").is_file());
    serves(&mut daemon).await;
}

/// Nor does one begin under a running daemon: it refuses calls until the ledger that it wrote is there again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_goes_away_under_a_daemon_is_missed() {
    let daemon = crate::searched::used().await;
    eventually("a checkpoint", || daemon.run(&["audit", "verify"]).status.success()).await;
    let (ledger, gone) = (daemon.state().join("ledger"), daemon.state().join("gone"));
    let client = testkit::Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    let call = async || {
        let note = json!({"name": "note", "arguments": {"nonce": "n", "canary": "ann", "ms": 0}});
        client.modern_call("modern", "tools/call", note).await.unwrap()
    };
    copy_tree(&ledger, &gone).unwrap();
    assert_eq!(call().await.0, 200);
    // Moved, not removed: the daemon may be putting a file there.
    stdx::durable::rename(&ledger, &daemon.state().join("away-1")).unwrap();
    let refused = eventually_some("a refusal", async || {
        let (status, answer) = call().await;
        (status == 503).then_some(answer)
    })
    .await;
    assert_eq!(refused["error"]["data"]["reason"], "ledger_refused", "{refused}");
    let said = daemon.run(&["status"]);
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.code() == Some(5) && text.contains("REFUSING"), "{text}");
    // An empty one in its place, be it with its keys, is not taken for it, nor an older copy.
    std::fs::create_dir(&ledger).unwrap();
    std::fs::copy(gone.join("vkeys"), ledger.join("vkeys")).unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(call().await.0, 503);
    stdx::durable::rename(&ledger, &daemon.state().join("away-2")).unwrap();
    stdx::durable::rename(&gone, &ledger).unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(call().await.0, 503);
}

/// Wherever it is cut short, the daemon does not begin a ledger that hides the loss, and the command goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_that_was_cut_short_goes_on() {
    let mut daemon = stopped().await;
    cut(&daemon);
    let state = daemon.state().to_path_buf();
    let at = |name: &str| state.join(name);
    let (ledger, keys) = (at("ledger"), at("keys"));
    copy_tree(&ledger, &at("before/ledger")).unwrap();
    copy_tree(&keys, &at("before/keys")).unwrap();
    assert!(recover(&daemon).status.success());
    copy_tree(&ledger, &at("after/ledger")).unwrap();
    copy_tree(&keys, &at("after/keys")).unwrap();
    let name = |name: &str| ["ed25519", "ml-dsa-44"].map(|kind| name.replace('*', kind));
    for step in 0..5 {
        for dir in ["ledger", "keys", "ledger.lost-1", "ledger.next", "keys.next"] {
            let _ = std::fs::remove_dir_all(at(dir));
        }
        copy_tree(&at("before/ledger"), &ledger).unwrap();
        copy_tree(&at("before/keys"), &keys).unwrap();
        copy_tree(&at("after/ledger"), &at("ledger.next")).unwrap();
        std::fs::create_dir(at("keys.next")).unwrap();
        for secret in name("ledger.*") {
            std::fs::copy(at("after/keys").join(&secret), at("keys.next").join(&secret)).unwrap();
        }
        let [one, other] = name("ledger.*");
        let renames = [
            (ledger.clone(), at("ledger.lost-1")),
            (at("ledger.next"), ledger.clone()),
            (keys.join(&one), keys.join(format!("{one}.lost-1"))),
            (at("keys.next").join(&one), keys.join(&one)),
            (keys.join(&other), keys.join(format!("{other}.lost-1"))),
        ];
        for (from, to) in &renames[..=step] {
            stdx::durable::rename(from, to).unwrap();
        }
        let said = refused(&mut daemon).await;
        assert!(said.contains("cut short"), "after step {step}: {said}");
        let done = recover(&daemon);
        assert!(done.status.success(), "after step {step}: {done:?}");
        assert!(!at("keys.next").exists() && at("ledger.lost-1").is_dir());
        serves(&mut daemon).await;
        let first = daemon.cli(&["audit", "show", "0"]);
        assert!(first["record"]["after"].is_string(), "after step {step}: {first}");
        daemon.terminate();
        daemon.ended().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_is_refused_by_what_an_anchor_kept() {
    let anchor = tempfile::tempdir().unwrap();
    let settings = format!("[ledger]\nanchors = [{:?}]\n", anchor.path());
    let mut daemon = Daemon::new(&crate::load::servers(), &[], &settings);
    eventually("a checkpoint", || daemon.run(&["audit", "verify"]).status.success()).await;
    daemon.terminate();
    daemon.ended().await;
    let (ledger, older) = (daemon.state().join("ledger"), daemon.state().join("older"));
    copy_tree(&ledger, &older).unwrap();
    serves(&mut daemon).await;
    daemon.token("ann");
    daemon.terminate();
    daemon.ended().await;
    std::fs::remove_dir_all(&ledger).unwrap();
    stdx::durable::rename(&older, &ledger).unwrap();
    assert!(refused(&mut daemon).await.contains("audit recover --accept-loss"));
    let done = recover(&daemon);
    assert!(done.status.success(), "{done:?}");
    let told: Value = serde_json::from_slice(&done.stdout).unwrap();
    let kept = std::fs::read_to_string(anchor.path().join("checkpoint.lost-1")).unwrap();
    assert_eq!(told["lost"]["checkpoint"], json!(kept), "the newer one is what was lost");
    serves(&mut daemon).await;
    eventually_some("the anchor of the new ledger", async || {
        std::fs::read_to_string(anchor.path().join("checkpoint")).ok().filter(|note| *note != kept)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn derived_files_are_made_again_and_only_without_a_daemon() {
    let mut daemon = used().await;
    let held = daemon.run(&["audit", "rebuild"]);
    assert_eq!(held.status.code(), Some(1), "{held:?}");
    let calls = found(&daemon, &["--tool", "note"]);
    daemon.terminate();
    daemon.ended().await;
    stdx::durable::write_file(&daemon.state().join("db/ledger-index.db"), b"x", 0o600).unwrap();
    let done = daemon.run(&["audit", "rebuild"]);
    assert!(done.status.success(), "{done:?}");
    assert!(!daemon.state().join("db/ledger-index.db").exists());
    let told = daemon.run(&["audit", "search", "--tool", "note"]);
    assert_eq!(String::from_utf8_lossy(&told.stderr), "", "nothing was wrong any more");
    assert_eq!(found(&daemon, &["--tool", "note"]), calls);
    cut(&daemon);
    let done = daemon.run(&["audit", "rebuild"]);
    assert_eq!(done.status.code(), Some(1), "entries cannot be made again: {done:?}");
}

/// A restored backup is right in itself; only who kept a later checkpoint knows better, and with that it can be given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_is_given_up_by_a_checkpoint_from_elsewhere() {
    let mut daemon = stopped().await;
    let (ledger, older) = (daemon.state().join("ledger"), daemon.state().join("older"));
    copy_tree(&ledger, &older).unwrap();
    serves(&mut daemon).await;
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    let (first, last) = (daemon.state().join("first"), daemon.state().join("last"));
    std::fs::copy(older.join("checkpoint"), &first).unwrap();
    std::fs::copy(ledger.join("checkpoint"), &last).unwrap();
    std::fs::remove_dir_all(&ledger).unwrap();
    copy_tree(&older, &ledger).unwrap();
    let since =
        |path: &Path| daemon.run(&["audit", "recover", "--accept-loss", "--json", "--since", path.to_str().unwrap()]);
    let borne_out = since(&first);
    assert_eq!(borne_out.status.code(), Some(2), "nothing is lost: {borne_out:?}");
    let done = since(&last);
    assert!(done.status.success(), "{done:?}");
    let told: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(told["lost"]["checkpoint"], json!(std::fs::read_to_string(&last).unwrap()));
    serves(&mut daemon).await;
}
