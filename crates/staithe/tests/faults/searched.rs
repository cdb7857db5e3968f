//! The ledger as its operator asks it: searched, exported, verified, with and without a daemon.

use crate::daemon::Daemon;
use crate::load;
use serde_json::{Value, json};
use testkit::Client;

/// A daemon, and what ann and bob did there.
pub(crate) async fn used() -> Daemon {
    let daemon = Daemon::new(&load::servers(), &[], "");
    for (principal, calls) in [("ann", 3), ("bob", 2)] {
        let client = Client::new(&daemon.url, Some(daemon.token(principal))).unwrap();
        let own = client.legacy_session("own").await.unwrap();
        for nth in 0..calls {
            let note = json!({"name": "note", "arguments": {"nonce": format!("{nth}"), "canary": principal, "ms": 0}});
            own.call("tools/call", note).await.unwrap();
        }
    }
    daemon
}

pub(crate) fn found(daemon: &Daemon, words: &[&str]) -> Vec<Value> {
    let told = daemon.run(&[&["audit", "search", "--json"][..], words].concat());
    assert!(told.status.success(), "{told:?}");
    let lines = String::from_utf8(told.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn notes(daemon: &Daemon) -> Vec<Value> {
    found(daemon, &["--principal", "ann", "--tool", "note"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_found_by_name_with_and_without_a_daemon() {
    let mut daemon = used().await;
    let ann = notes(&daemon);
    assert_eq!(ann.len(), 3, "{ann:?}");
    for call in &ann {
        assert_eq!((&call["principal"], &call["start"]["name"]), (&json!("ann"), &json!("note")), "{call}");
        assert_eq!((&call["start"]["call"], &call["end"]["outcome"]), (&call["end"]["call"], &json!("ok")), "{call}");
    }
    assert!(ann.is_sorted_by_key(|call| call["index"].as_u64()));
    assert_eq!(found(&daemon, &["--tool", "note"]).len(), 5);
    assert_eq!(found(&daemon, &["--tool", "note", "-n", "2"])[0]["principal"], "bob", "the newest");
    assert_eq!(found(&daemon, &["--server", "all"]).len(), 0);
    assert_eq!(found(&daemon, &["--tool", "note", "--outcome", "tool_error"]).len(), 0);
    assert_eq!(found(&daemon, &["--tool", "note", "--until", "2020-01-01"]).len(), 0);
    assert_eq!(found(&daemon, &["--tool", "note", "--since", "1 h"]).len(), 5);
    let pseudonym = ann[0]["start"]["who"]["sub"].as_str().unwrap();
    assert_eq!(found(&daemon, &["--principal", pseudonym, "--tool", "note"]).len(), 3);
    let client = ann[0]["start"]["client"].as_str().unwrap();
    let (name, version) = client.rsplit_once('/').unwrap();
    assert!(!version.is_empty(), "{client}");
    assert_eq!(found(&daemon, &["--tool", "note", "--client", name]).len(), 5);
    assert_eq!(found(&daemon, &["--tool", "note", "--client", "another"]).len(), 0);
    let acts = found(&daemon, &["--method", "operator", "--tool", "token-create", "--outcome", "done"]);
    assert_eq!(acts.len(), 2, "{acts:?}");
    let text = daemon.text(&["audit", "search", "--principal", "bob", "--tool", "note"]);
    assert!(text.starts_with("INDEX") && text.contains(" bob ") && text.contains(" ok "), "{text}");
    assert_eq!(text.lines().count(), 3, "{text}");
    let nobody = daemon.run(&["audit", "search", "--principal", "carol"]);
    assert_eq!(nobody.status.code(), Some(3), "{nobody:?}");

    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert_eq!(notes(&daemon), ann);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_is_damaged_or_wrong_is_made_anew() {
    let mut daemon = used().await;
    daemon.terminate();
    daemon.ended().await;
    let (ann, path) = (notes(&daemon), daemon.state().join("db/ledger-index.db"));
    let whole = std::fs::read(&path).unwrap();
    let damaged: [Vec<u8>; 4] = [
        Vec::new(),
        b"nothing".repeat(2000),
        whole[..whole.len() / 2].to_vec(),
        whole.iter().enumerate().map(|(at, byte)| if at > 5000 { 0 } else { *byte }).collect(),
    ];
    for content in damaged {
        stdx::durable::write_file(&path, &content, 0o600).unwrap();
        assert_eq!(notes(&daemon), ann, "{} bytes", content.len());
        // What was wrong is gone.
        let again = daemon.run(&["audit", "search", "--tool", "note"]);
        assert_eq!(String::from_utf8_lossy(&again.stderr), "");
    }
    stdx::durable::write_file(&path, b"nothing", 0o600).unwrap();
    let told = daemon.run(&["audit", "search", "--tool", "note"]);
    assert!(String::from_utf8_lossy(&told.stderr).contains("made anew"), "{told:?}");
    // Of another ledger: one that the same directory begins after this one is gone.
    stdx::durable::rename(&daemon.state().join("ledger"), &daemon.state().join("gone")).unwrap();
    assert!(daemon.run(&["audit", "recover", "--accept-loss"]).status.success());
    daemon.start();
    testkit::wait::eventually("another ledger", || daemon.run(&["status"]).status.success()).await;
    testkit::wait::eventually("a checkpoint", || daemon.run(&["audit", "verify"]).status.success()).await;
    assert_eq!(found(&daemon, &["--tool", "note"]).len(), 0, "of another ledger");
}

/// Who can write to the index can make it say where something is, and not what.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_invents_is_found_out() {
    let mut daemon = used().await;
    daemon.terminate();
    daemon.ended().await;
    let ann = notes(&daemon);
    let who = ann[0]["start"]["who"]["sub"].as_str();
    let mut index = store::LedgerIndex::open(&daemon.state().join("db/ledger-index.db")).unwrap();
    let mark = index.mark().unwrap();
    let invented = store::Began {
        at: 0,
        ms: ann[0]["start"]["ms"].as_i64().unwrap(),
        id: None,
        who,
        token: None,
        client: None,
        server: Some("own"),
        tool: Some("note"),
        method: None,
        outcome: "ok",
    };
    index.advance(&mark, |index| index.began(&invented)).unwrap();
    drop(index);
    let told = daemon.run(&["audit", "search", "--principal", "ann", "--tool", "note"]);
    assert!(String::from_utf8_lossy(&told.stderr).contains("made anew"), "{told:?}");
    assert_eq!(notes(&daemon), ann);
}

/// As an auditor has it: a copy of the ledger's directory, and nothing else of the host.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_elsewhere_is_read_with_the_same_commands() {
    let daemon = used().await;
    testkit::wait::eventually("a checkpoint", || daemon.run(&["audit", "verify"]).status.success()).await;
    let read = tempfile::tempdir().unwrap();
    let script =
        "cp ledger/checkpoint first && cp -r ledger copy && mv first copy/checkpoint && cp -r copy \"$0\"/ledger";
    let copied =
        std::process::Command::new("sh").current_dir(daemon.state()).args(["-c", script]).arg(read.path()).status();
    assert!(copied.unwrap().success());
    let there = |words: &[&str]| {
        let binary = env!("CARGO_BIN_EXE_staithe");
        let out = std::process::Command::new(binary).args(words).arg("--state-dir").arg(read.path()).output().unwrap();
        assert!(out.status.success(), "{words:?}: {out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    let found = there(&["audit", "search", "--tool", "note"]);
    assert!(found.lines().count() == 6 && found.contains(" p:") && !found.contains(" ann "), "{found}");
    assert!(there(&["audit", "export"]).lines().count() > 10);
    assert!(there(&["audit", "show", "0"]).contains("opened"));
    let (copy, key) = (daemon.state().join("copy"), daemon.state().join("ledger/vkeys"));
    there(&["audit", "verify", copy.to_str().unwrap(), "--key", key.to_str().unwrap()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_searches_at_once_agree() {
    let daemon = used().await;
    let searches = |daemon: &Daemon| {
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..6).map(|_| scope.spawn(|| found(daemon, &["--tool", "note"]).len())).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
        })
    };
    assert_eq!(searches(&daemon), [5; 6]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_verifies_its_own_ledger_while_it_is_written() {
    let daemon = used().await;
    let own = testkit::wait::eventually_some("a checkpoint", async || {
        let told = daemon.run(&["audit", "verify"]);
        told.status.success().then(|| String::from_utf8(told.stdout).unwrap())
    })
    .await;
    assert!(own.contains("tamper-evident") && own.contains("keys that were kept elsewhere"), "{own}");
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    let session = client.legacy_session("own").await.unwrap();
    for _ in 0..20 {
        let note = json!({"name": "note", "arguments": {"nonce": "x", "canary": "ann", "ms": 0}});
        let verified = async { tokio::task::block_in_place(|| daemon.run(&["audit", "verify"])) };
        let (answer, verified) = tokio::join!(session.call("tools/call", note), verified);
        assert!(answer.is_ok() && verified.status.success(), "{verified:?}");
    }
    // One changed byte of an entry that a checkpoint covers.
    let path = daemon.state().join("ledger/wal/00000000000000000000.seg");
    let mut segment = std::fs::read(&path).unwrap();
    let at = segment.windows(6).position(|bytes| bytes == b"opened").unwrap();
    segment[at] = b'O';
    stdx::durable::write_file(&path, &segment, 0o600).unwrap();
    let told = daemon.run(&["audit", "verify"]);
    assert_eq!(told.status.code(), Some(5), "{told:?}");
    let dir = daemon.run(&["audit", "verify", "somewhere"]);
    assert_eq!(dir.status.code(), Some(2), "a directory needs keys: {dir:?}");
}
