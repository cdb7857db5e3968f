//! What a process takes with it when it dies or is replaced, and what a machine that starts anew finds.

use crate::daemon::{Daemon, signal};
use crate::graceful::nothing_is_left;
use crate::killed::Resumable;
use crate::load::{self, told};
use rustix::process::Signal;
use serde_json::{Value, json};
use testkit::wait::eventually_some;
use testkit::{Client, HttpError, Session};

fn note(nonce: &str, ms: u64) -> Value {
    json!({"name": "note", "arguments": {"nonce": nonce, "canary": "ann", "ms": ms}})
}

async fn noted(session: &Session<'_>, nonce: &str, ms: u64) -> Value {
    session.call("tools/call", note(nonce, ms)).await.unwrap()
}

/// A call that runs when something else is done.
pub(crate) async fn runs(
    daemon: &Daemon,
    session: &Session<'_>,
    ms: u64,
    deed: impl FnOnce(),
) -> Result<Value, HttpError> {
    let deed = async {
        eventually_some("a call in flight", async || {
            let instances = daemon.cli(&["instances", "own"]);
            instances.as_array().unwrap().iter().any(|one| one["in_flight"] == 1).then_some(())
        })
        .await;
        deed();
    };
    tokio::join!(session.call("tools/call", note("runs", ms)), deed).0
}

fn data(answer: &Value) -> &Value {
    &answer["error"]["data"]
}

#[tokio::test]
async fn a_process_that_dies_takes_its_calls_with_it_and_no_session() {
    let mut servers = load::servers();
    servers["odd"] = json!({"command": testkit::bin("odd"), "args": ["--exit-on-call", "3"]});
    let daemon = Daemon::new(&servers, &[], "");
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    let (own, odd) = (client.legacy_session("own").await.unwrap(), client.legacy_session("odd").await.unwrap());
    let pid = told(&noted(&own, "first", 0).await)["pid"].as_u64().unwrap();
    let kill = || signal(u32::try_from(pid).unwrap(), Signal::KILL);
    let answer = runs(&daemon, &own, 60_000, kill).await.unwrap();
    assert_eq!(
        (&data(&answer)["reason"], &data(&answer)["status"]),
        (&json!("server_ended"), &json!("killed by signal 9"))
    );
    let after = told(&noted(&own, "second", 0).await);
    assert_ne!(after["pid"], pid);
    assert_eq!(after["count"], 1, "what it kept in memory went with it");
    let answer = odd.call("tools/call", json!({"name": "die", "arguments": {}})).await.unwrap();
    let data = data(&answer);
    assert_eq!((&data["reason"], &data["status"]), (&json!("server_ended"), &json!("exit status 3")), "{answer}");
    assert!(data["lastStderr"].as_str().unwrap().contains("the disk is on fire"), "{answer}");
    assert!(odd.call("tools/call", json!({"name": "pid", "arguments": {}})).await.unwrap()["result"].is_object());
}

#[tokio::test]
async fn a_restart_lets_calls_finish_in_their_time_and_keeps_sessions() {
    let daemon = Daemon::new(&load::servers(), &[], "[limits]\ndrain = \"3 s\"\n");
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    let session = client.legacy_session("own").await.unwrap();
    let first = told(&noted(&session, "first", 0).await)["pid"].clone();
    let restart = || {
        assert_eq!(daemon.cli(&["restart", "own"])["text"], "own was restarted: 1 process was replaced");
    };
    let answer = runs(&daemon, &session, 1000, restart).await.unwrap();
    assert_eq!((&told(&answer)["nonce"], &told(&answer)["pid"]), (&json!("runs"), &first));
    let second = told(&noted(&session, "second", 0).await);
    assert_ne!(second["pid"], first);
    let answer = runs(&daemon, &session, 60_000, restart).await.unwrap();
    assert_eq!(data(&answer)["reason"], "server_ended", "{answer}");
    assert_ne!(told(&noted(&session, "third", 0).await)["pid"], second["pid"]);
    assert_eq!(daemon.cli(&["sessions", "own"]).as_array().unwrap().len(), 1);
}

/// A restart ends the waiting for the next process. What has ended already is not said to be replaced.
#[tokio::test]
async fn a_restart_counts_no_process_that_has_ended() {
    let odd = json!({"odd": {"command": testkit::bin("odd"), "args": ["--exit-on-call", "3"]}});
    let daemon = Daemon::new(&odd, &[], "");
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    let session = client.legacy_session("odd").await.unwrap();
    for _ in 0..5 {
        session.call("tools/call", json!({"name": "die", "arguments": {}})).await.unwrap();
    }
    eventually_some("the crash loop", async || {
        (daemon.cli(&["status"])["servers"][0]["health"] == "crash-looping").then_some(())
    })
    .await;
    assert_eq!(daemon.cli(&["restart", "odd"])["text"], "odd is started anew: its last process had ended");
    assert!(session.call("tools/call", json!({"name": "pid", "arguments": {}})).await.unwrap()["result"].is_object());
}

#[tokio::test]
async fn a_stop_lets_calls_finish_in_their_time_and_a_start_finds_the_sessions() {
    let daemon = Daemon::new(&load::servers(), &[], "[limits]\ndrain = \"3 s\"\n");
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    let session = client.legacy_session("own").await.unwrap();
    for (ms, finishes) in [(1000, true), (60_000, false)] {
        let pid = told(&noted(&session, "first", 0).await)["pid"].clone();
        let answer = runs(&daemon, &session, ms, || drop(daemon.cli(&["stop", "own"]))).await.unwrap();
        if finishes {
            assert_eq!((&told(&answer)["nonce"], &told(&answer)["pid"]), (&json!("runs"), &pid));
        } else {
            assert_eq!(data(&answer)["reason"], "server_ended", "{answer}");
        }
        let pid = u32::try_from(pid.as_u64().unwrap()).unwrap();
        eventually_some("the end of its process", async || (!daemon.servers().contains(&pid)).then_some(())).await;
        assert_eq!(data(&noted(&session, "refused", 0).await)["reason"], "server_stopped");
        assert_eq!(daemon.cli(&["sessions", "own"]).as_array().unwrap().len(), 1);
        let status = daemon.cli(&["status"]);
        let own = status["servers"].as_array().unwrap().iter().find(|one| one["name"] == "own").unwrap();
        assert!(own["health"] == "stopped" && own["verdict"].is_string(), "what it speaks is remembered: {own}");
        daemon.cli(&["start", "own"]);
        assert_eq!(told(&noted(&session, "second", 0).await)["count"], 1, "a new process");
    }
}

/// What a state directory looks like after the machine went down: nothing runs, and sockets and locks lie where they lay.
#[tokio::test]
async fn a_machine_that_starts_anew_finds_all_but_processes_and_calls() {
    let mut daemon = Daemon::new(&load::servers(), &[], "");
    let mut call = Resumable::begin(&daemon, 60).await;
    let known = |daemon: &Daemon| {
        let status = daemon.cli(&["status"]);
        let about = |one: &Value| ["name", "generation", "verdict", "probed_at_ms"].map(|what| one[what].clone());
        status["servers"].as_array().unwrap().iter().map(about).collect::<Vec<_>>()
    };
    // Probes end by themselves.
    eventually_some("a verdict for each", async || {
        known(&daemon).iter().all(|[_, _, verdict, _]| verdict.is_string()).then_some(())
    })
    .await;
    let before = known(&daemon);
    daemon.insist_on_port();
    let all: Vec<u32> = daemon.keeper().into_iter().chain(daemon.servers()).collect();
    daemon.kill();
    all.iter().for_each(|pid| signal(*pid, Signal::KILL));
    eventually_some("the end of all", async || {
        (daemon.keeper().is_none() && daemon.servers().is_empty()).then_some(())
    })
    .await;
    daemon.start();
    let answers = call.answers().await;
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(data(&answers[0])["reason"], "outcome_unknown", "{answers:?}");
    let session = call.client.known_session("own", &call.session, "2025-11-25");
    assert_eq!(told(&noted(&session, "after", 0).await)["count"], 1, "the call was not made again");
    assert_eq!(known(&daemon), before);
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    nothing_is_left(&daemon).await;
}
