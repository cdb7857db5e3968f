//! Calls that meet an upgrade in the middle of something: each is answered, and nobody waits for another's.

use crate::{Daemon, text};
use serde_json::{Value, json};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use stdx::clock::monotonic;
use testkit::{Client, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Long enough for anything here on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command of an operator, beside whatever else is going on.
async fn command(daemon: &Daemon, words: &[&str]) {
    let output = tokio::task::block_in_place(|| daemon.command(words));
    assert!(output.status.success(), "{words:?}: {output:?}\n{}", daemon.log());
}

async fn until(what: &str, daemon: &Daemon, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = monotonic();
    while !is_so().await {
        assert!(begun.elapsed() < PATIENCE, "{what}\n{}", daemon.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How many processes of `server` live.
fn processes(daemon: &Daemon, server: &str) -> usize {
    let identity = std::fs::read_to_string(daemon.dir.path().join("state/run/identity")).unwrap();
    let mark = format!("STAITHE_INSTANCE={}/{server}/", identity.trim());
    let of = |pid: &String| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains(&mark)
    };
    daemon.processes().iter().filter(|pid| of(pid)).count()
}

async fn echo(client: &Client, words: &str) -> String {
    let params = json!({"name": "echo", "arguments": {"text": words}});
    text(&client.modern_call("says", "tools/call", params).await.unwrap().1)
}

/// Calls one after another; how long the longest took.
async fn longest(client: Client, over: Arc<AtomicBool>) -> Duration {
    let mut longest = Duration::ZERO;
    for n in 0.. {
        let (asked, words) = (monotonic(), format!("{n}"));
        assert_eq!(echo(&client, &words).await, words);
        longest = longest.max(asked.elapsed());
        if over.load(Ordering::Relaxed) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    longest
}

async fn sleep(client: Client, server: &'static str, ms: u64) -> Value {
    let session = client.legacy_session(server).await.unwrap();
    session.call("tools/call", json!({"name": "sleep", "arguments": {"ms": ms}})).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_server_that_starts_slowly_holds_up_nobody() {
    let slow = json!({"slow": {"command": testkit::bin("odd"), "args": ["--silent-start-ms", "5000"]}});
    let daemon = Daemon::with(&slow);
    let client = daemon.client("ann");
    assert_eq!(echo(&client, "first").await, "first");
    until("the probes of the slow server end", &daemon, async || {
        let status = tokio::task::block_in_place(|| daemon.told(&["status"]));
        processes(&daemon, "slow") == 0 && !status.to_string().contains("starting")
    })
    .await;
    let slow = stdx::task::spawn("slow", sleep(daemon.client("bob"), "slow", 10));
    until("the slow server starts", &daemon, async || processes(&daemon, "slow") == 1).await;
    let over = Arc::new(AtomicBool::new(false));
    let load = stdx::task::spawn("load", longest(client, over.clone()));
    command(&daemon, &["upgrade"]).await;
    over.store(true, Ordering::Relaxed);
    let longest = load.await.unwrap().unwrap();
    assert!(longest < Duration::from_millis(2500), "a call waited {longest:?}\n{}", daemon.log());
    assert_eq!(text(&slow.await.unwrap().unwrap()), "slept");
    tokio::task::block_in_place(|| daemon.stop());
}

/// A balancer that asks whether the host is ready does not leave it because of an upgrade.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_host_that_was_ready_is_ready_after_an_upgrade() {
    let slow = json!({"slow": {"command": testkit::bin("odd"), "args": ["--silent-start-ms", "3000"]}});
    let daemon = Daemon::with(&slow);
    until("all are ready", &daemon, async || {
        tokio::task::block_in_place(|| daemon.command(&["status"]).status.success())
    })
    .await;
    until("the probes of the slow server end", &daemon, async || processes(&daemon, "slow") == 0).await;
    command(&daemon, &["upgrade"]).await;
    command(&daemon, &["status"]).await;
    tokio::task::block_in_place(|| daemon.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_loud_call_costs_no_other_its_answer() {
    let loud = json!({"loud": {"command": testkit::bin("odd"), "args": ["--flood-progress", "400000"]}});
    let daemon = Daemon::with(&loud);
    let token = daemon.token("ann");
    let client = || Client::new(&daemon.url, Some(token.clone())).unwrap();
    let quiet: Vec<_> = (0..30).map(|n| stdx::task::spawn("quiet", sleep(client(), "loud", 2500 + 50 * n))).collect();
    let loud = client();
    let flood = stdx::task::spawn("flood", async move {
        let client = loud;
        let session = client.legacy_session("loud").await.unwrap();
        let params = json!({"name": "flood", "arguments": {}, "_meta": {"progressToken": 1}});
        session.call("tools/call", params).await.unwrap()
    });
    until("the calls are sent", &daemon, async || processes(&daemon, "loud") == 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    command(&daemon, &["upgrade"]).await;
    let all = async {
        assert_eq!(text(&flood.await.unwrap().unwrap()), "flooded");
        for answer in quiet {
            assert_eq!(text(&answer.await.unwrap().unwrap()), "slept");
        }
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap_or_else(|_| panic!("no answer\n{}", daemon.log()));
    assert!(daemon.log().matches("does not keep up").count() <= 1, "{}", daemon.log());
    tokio::task::block_in_place(|| daemon.stop());
}

/// A call of a session that is in the middle of its work: its stream was opened, and nobody reads it any more.
async fn left_alone(session: &Session<'_>, id: &str, ms: u64, steps: u64) -> Vec<(String, String)> {
    let arguments = json!({"nonce": id, "ms": ms, "steps": steps});
    let params = json!({"name": "note", "arguments": arguments, "_meta": {"progressToken": id}});
    let mut stream = session.stream(&json!(id), "tools/call", params).await.unwrap();
    let last = loop {
        let event = stream.next().await.unwrap().unwrap();
        if event.data.contains("notifications/progress") {
            break event.id.unwrap();
        }
    };
    let mut headers = session.headers();
    headers.push(("last-event-id".to_owned(), last));
    headers
}

/// What such a call ended with.
async fn come_back(session: &Session<'_>, headers: &[(String, String)], daemon: &Daemon) -> Value {
    let mut stream = session.resume(headers).await.unwrap();
    assert_eq!(stream.status, 200, "{}", daemon.log());
    let answer = async {
        loop {
            let message = stream.next_message().await.unwrap().unwrap();
            if message["id"].is_string() {
                return message;
            }
        }
    };
    tokio::time::timeout(PATIENCE, answer).await.unwrap()
}

async fn note(session: &Session<'_>, nonce: &str, ms: u64) -> Value {
    let params = json!({"name": "note", "arguments": {"nonce": nonce, "ms": ms}});
    session.call("tools/call", params).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn clients_find_the_streams_of_their_calls_after_an_upgrade() {
    let daemon = Daemon::with(&json!({"notes": {"command": testkit::bin("chaos"), "args": []}}));
    let client = daemon.client("ann");
    let session = client.legacy_session("notes").await.unwrap();
    let over = left_alone(&session, "over", 200, 1).await;
    note(&session, "later", 400).await;
    let soon = left_alone(&session, "soon", 1500, 15).await;
    let late = left_alone(&session, "late", 6000, 60).await;
    // Keeps the old daemon.
    let other = stdx::task::spawn("sleep", sleep(daemon.client("bob"), "keeps", 12_000));
    until("the other call is sent", &daemon, async || processes(&daemon, "keeps") == 1).await;
    command(&daemon, &["upgrade"]).await;
    note(&session, "after soon", 2000).await;
    for (nonce, headers) in [("over", over), ("soon", soon), ("late", late)] {
        let answer = come_back(&session, &headers, &daemon).await;
        assert!(text(&answer).contains(nonce), "{nonce}: {answer}");
        // It can be had again.
        assert_eq!(come_back(&session, &headers, &daemon).await, answer);
    }
    assert!(!other.is_finished(), "the old daemon ended too soon for this test");
    assert_eq!(text(&other.await.unwrap().unwrap()), "slept");
    tokio::task::block_in_place(|| daemon.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_session_that_ends_takes_its_calls_at_the_old_daemon_along() {
    let daemon = Daemon::with(&json!({"notes": {"command": testkit::bin("chaos"), "args": []}}));
    let client = daemon.client("ann");
    let session = client.legacy_session("notes").await.unwrap();
    let params =
        json!({"name": "note", "arguments": {"nonce": "n", "ms": 40_000, "steps": 400}, "_meta": {"progressToken": 1}});
    let mut stream = session.stream(&json!("long"), "tools/call", params).await.unwrap();
    assert!(stream.next_message().await.unwrap().is_some());
    command(&daemon, &["upgrade"]).await;
    let ended = monotonic();
    assert_eq!(session.close().await.unwrap().status, 200);
    let rest = async {
        while let Ok(Some(message)) = stream.next_message().await {
            assert!(message["method"].is_string(), "{message}");
        }
    };
    tokio::time::timeout(Duration::from_secs(15), rest).await.unwrap_or_else(|_| panic!("{}", daemon.log()));
    assert!(ended.elapsed() < Duration::from_secs(15));
    tokio::task::block_in_place(|| daemon.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn log_messages_are_the_new_daemon_s_as_soon_as_no_old_call_is_left_there() {
    let daemon = Daemon::with(&json!({"notes": {"command": testkit::bin("chaos"), "args": []}}));
    let client = daemon.client("ann");
    let session = client.legacy_session("notes").await.unwrap();
    let other = stdx::task::spawn("sleep", sleep(daemon.client("bob"), "keeps", 10_000));
    until("the other call is sent", &daemon, async || processes(&daemon, "keeps") == 1).await;
    let (_, ()) = tokio::join!(note(&session, "old", 1500), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        command(&daemon, &["upgrade"]).await;
    });
    let mut listen = session.listen().await.unwrap();
    let params = json!({"name": "flood", "arguments": {"ms": 3000}});
    session.call("tools/call", params).await.unwrap();
    let answered = monotonic();
    // What comes now belongs to no call.
    let heard = async {
        while let Ok(Some(message)) = listen.next_message().await {
            if answered.elapsed() > Duration::from_millis(700) && message["method"] == "notifications/message" {
                return;
            }
        }
        panic!("the stream ended");
    };
    tokio::time::timeout(Duration::from_secs(8), heard).await.unwrap_or_else(|_| panic!("{}", daemon.log()));
    assert!(!other.is_finished(), "the old daemon ended too soon for this test");
    assert_eq!(text(&other.await.unwrap().unwrap()), "slept");
    tokio::task::block_in_place(|| daemon.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn calls_of_processes_that_are_to_go_are_finished() {
    let daemon = Daemon::start();
    let again = json!({"mcpServers": {"keeps": {"command": testkit::bin("odd"), "args": [], "env": {"OTHER": "1"}}}});
    let file = daemon.dir.path().join("again.json");
    std::fs::File::create(&file).unwrap().write_all(again.to_string().as_bytes()).unwrap();
    let (client, path) = (daemon.client("ann"), file.to_str().unwrap().to_owned());
    for words in [vec!["restart", "keeps"], vec!["import", "--replace", &path], vec!["stop", "keeps"]] {
        let session = client.legacy_session("keeps").await.unwrap();
        let pid =
            || async { text(&session.call("tools/call", json!({"name": "pid", "arguments": {}})).await.unwrap()) };
        let before = pid().await;
        let long = stdx::task::spawn("long", sleep(daemon.client("ann"), "keeps", 5000));
        tokio::time::sleep(Duration::from_millis(500)).await;
        command(&daemon, &words).await;
        let asked = monotonic();
        command(&daemon, &["upgrade"]).await;
        assert!(asked.elapsed() < Duration::from_secs(4), "{words:?}: the upgrade took {:?}", asked.elapsed());
        if words[0] != "stop" {
            assert_ne!(pid().await, before, "{words:?}: the process is to be another one");
        }
        assert!(!long.is_finished(), "{words:?}: this test is too slow");
        assert_eq!(text(&long.await.unwrap().unwrap()), "slept", "{words:?}\n{}", daemon.log());
        let left = usize::from(words[0] != "stop");
        until("the old process goes", &daemon, async || processes(&daemon, "keeps") == left).await;
    }
    tokio::task::block_in_place(|| daemon.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn an_exclusive_process_gets_no_second_call_from_the_new_daemon() {
    let daemon = Daemon::with(&json!({"alone": {"command": testkit::bin("odd"), "args": [], "mode": "exclusive"}}));
    let session = daemon.client("ann");
    let session = session.legacy_session("alone").await.unwrap();
    let pid = || async { text(&session.call("tools/call", json!({"name": "pid", "arguments": {}})).await.unwrap()) };
    let before = pid().await;
    let long = stdx::task::spawn("long", sleep(daemon.client("ann"), "alone", 4000));
    tokio::time::sleep(Duration::from_millis(500)).await;
    command(&daemon, &["upgrade"]).await;
    let meanwhile = pid().await;
    assert!(!long.is_finished(), "this test is too slow");
    assert_ne!(meanwhile, before, "it has its call");
    assert_eq!(text(&long.await.unwrap().unwrap()), "slept");
    until("the old process goes", &daemon, async || processes(&daemon, "alone") == 1).await;
    tokio::task::block_in_place(|| daemon.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_server_that_is_not_ready_for_long_is_started_nevertheless() {
    let slow =
        json!({"slow": {"command": testkit::bin("odd"), "args": ["--silent-start-ms", "14000"], "era": "legacy"}});
    let daemon = Daemon::with(&slow);
    let slow = stdx::task::spawn("slow", sleep(daemon.client("bob"), "slow", 10));
    until("the slow server starts", &daemon, async || processes(&daemon, "slow") >= 1).await;
    command(&daemon, &["upgrade"]).await;
    assert!(!slow.is_finished(), "this test is too slow");
    assert_eq!(text(&slow.await.unwrap().unwrap()), "slept");
    tokio::task::block_in_place(|| daemon.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_request_whose_body_comes_after_the_upgrade_is_answered() {
    let daemon = Daemon::start();
    let token = daemon.token("ann");
    let params = json!({"protocolVersion": "2025-06-18", "capabilities": {"roots": {}}, "clientInfo": {"name": "t", "version": "1"}});
    let body = json!({"jsonrpc": "2.0", "id": 7, "method": "initialize", "params": params}).to_string();
    let address = daemon.url.strip_prefix("http://").unwrap().to_owned();
    let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "POST /mcp/keeps HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body.as_bytes()[..10]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    command(&daemon, &["upgrade"]).await;
    stream.write_all(&body.as_bytes()[10..]).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("serverInfo"), "{answer}");
    tokio::task::block_in_place(|| daemon.stop());
}
