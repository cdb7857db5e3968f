//! Other keys for the ledger: old ones and new ones verify what they signed, and nothing else.

use crate::daemon::Daemon;
use crate::recorded::verifies;
use crate::recovered::refused;
use crate::rollback::stopped;
use crate::searched::used;
use std::path::Path;
use std::process::Output;
use testkit::Client;
use testkit::wait::{eventually, eventually_some};

/// `audit verify` of a copy, with these keys.
fn verified(daemon: &Daemon, key: &Path) -> Output {
    let dir = daemon.state().join("ledger");
    daemon.run(&["audit", "verify", dir.to_str().unwrap(), "--key", key.to_str().unwrap()])
}

async fn call(daemon: &Daemon) {
    eventually("the daemon", || daemon.run(&["status"]).status.success()).await;
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    let session = eventually_some("a session", async || client.legacy_session("own").await.ok()).await;
    session.call("tools/list", serde_json::json!({})).await.unwrap();
    eventually("a checkpoint", || daemon.run(&["audit", "verify"]).status.success()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_keys_sign_from_an_entry_on_that_the_old_ones_signed() {
    let mut daemon = used().await;
    daemon.insist_on_port();
    let beside = daemon.run(&["audit", "rotate-keys"]);
    assert!(!beside.status.success(), "a daemon runs: {beside:?}");
    stopped(&mut daemon).await;
    let (vkeys, old) = (daemon.state().join("ledger/vkeys"), daemon.state().join("old.vkeys"));
    std::fs::copy(&vkeys, &old).unwrap();
    let secrets = || {
        ["ledger.ed25519", "ledger.ml-dsa-44"]
            .map(|name| std::fs::read(daemon.state().join("keys").join(name)).unwrap())
    };
    let before = secrets();
    let told = daemon.cli(&["audit", "rotate-keys"]);
    let since = told["since"].as_u64().unwrap();
    assert!(secrets().iter().zip(&before).all(|(new, old)| new != old), "the old secret keys are gone");
    let said = std::fs::read_to_string(&vkeys).unwrap();
    assert!(
        said.contains(&format!("until {since}\n")) && told["vkeys"].as_str().is_some_and(|keys| said.ends_with(keys)),
        "{said}"
    );
    // The checkpoint of the change has both signatures: who has the old keys sees the change, under them.
    assert!(verified(&daemon, &old).status.success());
    assert!(verified(&daemon, &vkeys).status.success());
    let named = daemon.cli(&["audit", "show", &(since - 1).to_string()]);
    let named = named["record"]["vkeys"].as_array().unwrap().clone();
    assert!(named.len() == 2 && named.iter().all(|key| said.contains(key.as_str().unwrap())), "{named:?}");

    daemon.start();
    call(&daemon).await;
    verifies(&daemon);
    let unknown = verified(&daemon, &old);
    assert_eq!(unknown.status.code(), Some(5), "the old keys sign no more: {unknown:?}");
    for index in [0, since] {
        let out = daemon.state().join(format!("proved-{index}"));
        let words = ["audit", "prove", &index.to_string(), "--out", out.to_str().unwrap()];
        eventually_some("a proof", async || daemon.run(&words).status.success().then_some(())).await;
        let (proof, entry) = (out.with_extension("tlog-proof"), out.with_extension("entry"));
        let [proof, entry, key] = [&proof, &entry, &vkeys].map(|path| path.to_str().unwrap());
        let checked = daemon.run(&["audit", "check", proof, "--entry", entry, "--key", key]);
        assert!(checked.status.success(), "{checked:?}");
    }
    // And again: three pairs, each for its time.
    stopped(&mut daemon).await;
    daemon.cli(&["audit", "rotate-keys"]);
    daemon.start();
    call(&daemon).await;
    verifies(&daemon);
    assert_eq!(std::fs::read_to_string(&vkeys).unwrap().matches("until ").count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_keys_that_was_cut_short_is_finished_by_the_same_command() {
    let mut daemon = used().await;
    daemon.insist_on_port();
    stopped(&mut daemon).await;
    let (state, vkeys) = (daemon.state().to_path_buf(), daemon.state().join("ledger/vkeys"));
    let old = std::fs::read(&vkeys).unwrap();
    daemon.cli(&["audit", "rotate-keys"]);
    // As if it had ended after the first of the three renames.
    let stage = state.join("keys.rotated");
    stdx::durable::make_dir(&stage, 0o700).unwrap();
    stdx::durable::rename(&vkeys, &stage.join("vkeys")).unwrap();
    stdx::durable::rename(&state.join("keys/ledger.ml-dsa-44"), &stage.join("ledger.ml-dsa-44")).unwrap();
    stdx::durable::write_file(&vkeys, &old, 0o644).unwrap();
    let said = refused(&mut daemon).await;
    assert!(said.contains("rotate-keys"), "{said}");
    daemon.cli(&["audit", "rotate-keys"]);
    assert!(!stage.exists());
    daemon.start();
    call(&daemon).await;
    verifies(&daemon);
    // Before the last file was there, nothing has happened: what is left is removed.
    stopped(&mut daemon).await;
    stdx::durable::make_dir(&stage, 0o700).unwrap();
    stdx::durable::write_file(&stage.join("ledger.ed25519"), b"half", 0o600).unwrap();
    daemon.start();
    call(&daemon).await;
    stopped(&mut daemon).await;
    daemon.cli(&["audit", "rotate-keys"]);
    assert!(!stage.exists());
}
