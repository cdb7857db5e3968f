//! Signals, once and twice, under load: what finishes, what is left, and what the next daemon finds.

use crate::daemon::{Daemon, Dice};
use crate::graceful::nothing_is_left;
use crate::killed::Resumable;
use crate::load::{self, Allowed, told};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use stdx::clock::monotonic;
use testkit::wait::{eventually, eventually_some};
use testkit::{Client, HttpError};

/// One call that lasts, in a session or without one.
async fn long_call(
    client: Client,
    server: &str,
    session: bool,
    ms: u64,
    begun: Arc<AtomicUsize>,
) -> Result<Value, HttpError> {
    let params = json!({
        "name": "note", "arguments": {"nonce": "n", "canary": "ann", "ms": ms, "steps": 20},
        "_meta": {"progressToken": "p"},
    });
    let opened;
    let mut stream = if session {
        opened = client.legacy_session(server).await?;
        opened.stream(&json!("n"), "tools/call", params).await?
    } else {
        client.modern_stream(server, "tools/call", params).await?
    };
    let mut heard = false;
    while let Some(message) = stream.next_message().await? {
        if message.get("method").is_none() {
            return Ok(message);
        }
        if !std::mem::replace(&mut heard, true) {
            begun.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(Value::Null)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_loses_no_call_that_ends_in_time() {
    let mut daemon = Daemon::new(&load::servers(), &[], "");
    let (begun, mut dice, mut calls) = (Arc::<AtomicUsize>::default(), Dice::new(), Vec::new());
    for principal in ["ann", "bob"] {
        let token = daemon.token(principal);
        for (server, session) in [
            ("own", true),
            ("each", true),
            ("all", true),
            ("dual", true),
            ("modern", true),
            ("own", false),
            ("modern", false),
            ("dual", false),
        ] {
            for _ in 0..2 {
                let client = Client::new(&daemon.url, Some(token.clone())).unwrap();
                let call = long_call(client, server, session, 2000 + dice.below(2000), begun.clone());
                calls.push(stdx::task::spawn("a call", call));
            }
        }
    }
    eventually_some("progress of every call", async || (begun.load(Ordering::Relaxed) == calls.len()).then_some(()))
        .await;
    daemon.terminate();
    let address = daemon.url.trim_start_matches("http://").to_owned();
    eventually_some("new connections to be refused", async || {
        let tried = tokio::net::TcpStream::connect(&address).await;
        tried.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused).then_some(())
    })
    .await;
    assert!(calls.iter().any(|call| !call.is_finished()), "they are refused while calls go on");
    for call in calls {
        let answer = call.await.unwrap().unwrap().unwrap();
        assert_eq!(told(&answer)["nonce"], "n", "{answer}");
    }
    assert_eq!(daemon.ended().await.code(), Some(0));
    nothing_is_left(&daemon).await;
}

#[tokio::test]
async fn a_second_sigterm_ends_all_at_once_and_sessions_stay() {
    let mut daemon = Daemon::new(&load::servers(), &[], "");
    let (mut call, mut waits) = Resumable::begin_held(&daemon, 9).await;
    daemon.insist_on_port();
    daemon.terminate();
    daemon.stopping().await;
    let asked = monotonic();
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(1));
    assert!(asked.elapsed() < Duration::from_secs(5), "it waited for {:?}", asked.elapsed());
    nothing_is_left(&daemon).await;
    daemon.start();
    let mut answers = Vec::new();
    while let Ok(Some(message)) = waits.next_message().await {
        answers.extend(message.get("method").is_none().then_some(message));
    }
    // Either there was time to say it, or the connection broke.
    let reason = if answers.is_empty() { "outcome_unknown" } else { "server_ended" };
    if answers.is_empty() {
        answers = call.answers().await;
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(answers[0]["error"]["data"]["reason"], reason, "{answers:?}");
    let session = call.client.known_session("own", &call.session, "2025-11-25");
    let ledger = eventually_some("the session on a new process", async || {
        session.call("tools/call", json!({"name": "ledger", "arguments": {}})).await.ok()
    })
    .await;
    let ledger = told(&ledger);
    assert_ne!(ledger["pid"], call.pid);
    assert_eq!(ledger["nonces"], json!([]), "it was not called again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_are_left_lose_no_call_under_load() {
    let mut dice = Dice::new();
    let mut daemon = Daemon::new(&load::servers(), &["--leave-servers"], "");
    let (load, tasks) = load::begin(&daemon, &mut dice, Allowed { no_failure: true, ..Allowed::default() });
    eventually_some("an answer for every worker", async || (load.workers_served() >= 24).then_some(())).await;
    let keeper = daemon.keeper().unwrap();
    for _ in 0..8 {
        daemon.terminate();
        assert_eq!(daemon.ended().await.code(), Some(0));
        assert_eq!(daemon.keeper(), Some(keeper));
        daemon.start();
        load.all_are_served_again().await;
    }
    load.balance(tasks).await;
}

#[tokio::test]
async fn a_call_that_outlasts_the_drain_is_answered_by_the_next_daemon() {
    let mut daemon = Daemon::new(&load::servers(), &["--leave-servers"], "[limits]\ndrain = \"1 s\"\n");
    let (mut call, waits) = Resumable::begin_held(&daemon, 4).await;
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    daemon.start();
    drop(waits);
    call.is_answered_once().await;
}

#[tokio::test]
async fn a_second_sigterm_leaves_the_servers_that_are_to_stay() {
    let mut daemon = Daemon::new(&load::servers(), &["--leave-servers"], "");
    let (mut call, waits) = Resumable::begin_held(&daemon, 9).await;
    let (keeper, servers) = (daemon.keeper(), daemon.servers());
    daemon.terminate();
    daemon.stopping().await;
    let asked = monotonic();
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(1));
    assert!(asked.elapsed() < Duration::from_secs(5), "it waited for {:?}", asked.elapsed());
    assert_eq!((daemon.keeper(), daemon.servers()), (keeper, servers));
    daemon.start();
    drop(waits);
    call.is_answered_once().await;
}

#[tokio::test]
async fn what_a_stop_leaves_is_said_while_it_drains_and_by_a_daemon_that_cannot_have_it() {
    let mut daemon = Daemon::new(&load::servers(), &["--leave-servers"], "");
    let (call, waits) = Resumable::begin_held(&daemon, 10).await;
    assert_eq!(daemon.cli(&["status"])["stopping"], false);
    daemon.terminate();
    daemon.stopping().await;
    assert!(daemon.last_words().contains("the servers go on"), "{}", daemon.last_words());
    let output = daemon.run(&["--json", "status"]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&status["stopping"], &status["ready"]), (&json!(true), &json!(false)), "{status}");
    assert_eq!(output.status.code(), Some(5), "{status}");
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(1));
    let keeper = daemon.keeper().unwrap();
    let output = daemon.run(&["serve", "--no-keeper", "--listen", "127.0.0.1:0", "--operator", "127.0.0.1:0"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let told = said.contains(&format!("keeper {keeper} still holds the servers"));
    assert!(told && said.contains(&format!("`kill {keeper}`")), "{said}");
    assert_eq!(daemon.keeper(), Some(keeper), "it was not harmed");
    drop((call, waits));
}

#[tokio::test]
async fn a_call_that_outlasts_the_drain_ends_and_its_session_stays() {
    let mut daemon = Daemon::new(&load::servers(), &[], "[limits]\ndrain = \"1 s\"\n");
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    let session = client.legacy_session("own").await.unwrap();
    let params = json!({
        "name": "note", "arguments": {"nonce": "n", "canary": "ann", "ms": 60_000, "steps": 600},
        "_meta": {"progressToken": "p"},
    });
    let mut stream = session.stream(&json!("n"), "tools/call", params).await.unwrap();
    stream.next_message().await.unwrap().unwrap();
    daemon.insist_on_port();
    daemon.terminate();
    let answer = loop {
        let message = stream.next_message().await.unwrap().unwrap();
        if message.get("method").is_none() {
            break message;
        }
    };
    assert_eq!(answer["error"]["data"]["reason"], "server_ended", "{answer}");
    assert_eq!(daemon.ended().await.code(), Some(0));
    nothing_is_left(&daemon).await;
    daemon.start();
    let ledger = eventually_some("the session on a new process", async || {
        session.call("tools/call", json!({"name": "ledger", "arguments": {}})).await.ok()
    })
    .await;
    assert_eq!(told(&ledger)["nonces"], json!([]), "{ledger}");
}

/// A server that is stopped while it is asked for its eras has not said that it does not speak the other one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_in_the_middle_of_a_probe_says_nothing_about_the_server() {
    let files = tempfile::tempdir().unwrap();
    let starts = files.path().join("starts");
    let (log, chaos) = (starts.display(), testkit::bin("chaos"));
    let slowly =
        "while read -r line; do case $line in *'\"initialize\"'*) sleep 1.5;; esac; printf '%s\\n' \"$line\"; done";
    let script = format!("echo >> {log}; {slowly} | {} --era dual", chaos.display());
    let mut daemon = Daemon::new(&json!({"slow": {"command": "sh", "args": ["-c", script]}}), &[], "");
    let second = || std::fs::read(&starts).is_ok_and(|lines| lines.len() == 2);
    eventually("the second half", second).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    daemon.cli(&["stop", "slow"]);
    eventually("its end", || daemon.servers().is_empty()).await;
    // Whatever is kept of it is kept by now.
    tokio::time::sleep(Duration::from_millis(500)).await;
    daemon.cli(&["start", "slow"]);
    assert_eq!(eventually_some("a verdict", async || daemon.verdict()).await, "dual");
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    nothing_is_left(&daemon).await;
}
