//! Calls that meet an upgrade in the middle of something: each is answered, and nobody waits for another's.

use crate::{Daemon, text};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use stdx::clock::monotonic;
use testkit::Client;

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
