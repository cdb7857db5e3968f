//! Operators' commands while an upgrade goes on: one that says it is done is done at the new daemon too.

use super::{Daemon, STAITHE, staithe, text};
use crate::broken::{Between, met};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::Output;
use std::time::Duration;
use testkit::Client;
use testkit::wait::eventually;

/// Long enough for anything here on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection of an operator that stays open.
struct Operator(BufReader<UnixStream>);

impl Operator {
    fn connect(daemon: &Daemon) -> Self {
        let stream = UnixStream::connect(daemon.dir.path().join("state/staithe.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    fn ask(&mut self, command: &Value) -> String {
        writeln!(self.0.get_mut(), "{command}").unwrap();
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }
}

fn refused(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(5) && said.contains("an upgrade goes on"), "{output:?}");
}

async fn status(url: &str, token: &str) -> u16 {
    let client = Client::new(url, Some(token.to_owned())).unwrap();
    let params = json!({"name": "echo", "arguments": {"text": "x"}});
    client.modern_call("says", "tools/call", params).await.unwrap().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_is_told_is_done_is_so_at_the_new_daemon() {
    let daemon = Daemon::start();
    let run = |words: &[&str]| tokio::task::block_in_place(|| daemon.command(words));
    let made = daemon.told(&["token", "create", "--principal", "ann"]);
    let (token, id) = (made["token"].as_str().unwrap(), made["report"]["id"].as_str().unwrap());
    assert_eq!(status(&daemon.url, token).await, 200);
    let go = daemon.dir.path().join("go");
    let body = format!("while [ ! -e {} ]; do sleep 0.02; done\nexec {STAITHE} \"$@\"", go.display());
    let upgrade = daemon.begin_upgrade(&daemon.program(&body));
    let place = daemon.dir.path().join("state/run/handover.sock");
    drop(met(&place).await);
    let file = daemon.dir.path().join("servers.json");
    for change in [
        &["token", "revoke", id][..],
        &["token", "create", "--principal", "bob"],
        &["stop", "says"],
        &["start", "says"],
        &["restart", "says"],
        &["remove", "says"],
        &["import", "--replace", file.to_str().unwrap()],
    ] {
        refused(&run(change));
    }
    for look in [&["status"][..], &["token", "list"], &["servers"], &["call", "says", "echo", r#"{"text": "x"}"#]] {
        let output = run(look);
        assert!(output.status.success(), "{look:?}: {output:?}");
    }
    assert_eq!(daemon.told(&["status"])["upgrading"], true);
    assert_eq!(status(&daemon.url, token).await, 200, "what was refused was not done");
    stdx::durable::write_file(&go, b"", 0o600).unwrap();
    let output = tokio::time::timeout(PATIENCE, upgrade).await.unwrap().unwrap();
    assert!(output.status.success(), "{output:?}\n{}", daemon.log());
    assert_eq!(daemon.told(&["status"])["upgrading"], false);
    assert_eq!(status(&daemon.url, token).await, 200);
    let output = run(&["token", "revoke", id]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(status(&daemon.url, token).await, 401);
    let bob = daemon.token("bob");
    assert_eq!(status(&daemon.url, &bob).await, 200);
    tokio::task::block_in_place(|| daemon.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_still_has_calls_changes_nothing_once_it_is_replaced() {
    let daemon = Daemon::start();
    let client: &'static Client = Box::leak(Box::new(daemon.client("ann")));
    let call = stdx::task::spawn("call", async move {
        let session = client.legacy_session("keeps").await.unwrap();
        session.call("tools/call", json!({"name": "sleep", "arguments": {"ms": 10_000}})).await.unwrap()
    });
    eventually("the call is there", || daemon.told(&["instances"]).to_string().contains(r#""in_flight":1"#)).await;
    let mut kept = Operator::connect(&daemon);
    assert!(kept.ask(&json!({"command": "status"})).contains("keeps"));
    let output = tokio::task::block_in_place(|| daemon.command(&["upgrade"]));
    assert!(output.status.success(), "{output:?}");
    let late = kept.ask(&json!({"command": "stop", "server": "says"}));
    assert!(late.contains("an upgrade goes on"), "{late}");
    assert!(kept.ask(&json!({"command": "status"})).contains("keeps"), "looking goes on");
    let there = daemon.told(&["instances", "keeps"]);
    assert_eq!((&there[0]["in_flight"], &there[0]["health"]), (&json!(1), &json!("busy")), "{there}");
    assert_eq!(text(&call.await.unwrap().unwrap()), "slept");
    eventually("nothing is in flight", || daemon.told(&["instances", "keeps"])[0]["in_flight"] == 0).await;
    tokio::task::block_in_place(|| daemon.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_that_fails_leaves_the_commands_as_they_were() {
    let daemon = Daemon::start();
    let between = Between::begin(&daemon).await;
    let create = ["token", "create", "--principal", "bob"];
    refused(&tokio::task::block_in_place(|| daemon.command(&create)));
    between.fail().await;
    let token = daemon.token("bob");
    assert_eq!(status(&daemon.url, &token).await, 200);
    tokio::task::block_in_place(|| daemon.stop());
}

/// Its token is known to the daemon that was asked for it alone, and another one answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_from_the_command_line_is_made_whichever_daemon_answers() {
    let daemon = Daemon::start();
    // What is taken over tells when.
    let ann = daemon.session("ann").await;
    text(&ann.call("tools/call", json!({"name": "counter", "arguments": {}})).await.unwrap());
    let between = Between::begin(&daemon).await;
    // The old daemon takes no connections now.
    let mut command = staithe(&daemon.dir.path().join("state"));
    command.args(["call", "says", "echo", r#"{"text": "said"}"#]);
    let call = tokio::task::spawn_blocking(move || command.output().unwrap());
    let tokens = || daemon.log().matches(r#"command="access""#).count();
    eventually("it has a token", || tokens() == 1).await;
    let (heir, _stream) = between.heir(&daemon).await;
    eventually("the new daemon takes commands", || daemon.dir.path().join("state/staithe.new").exists()).await;
    let state = daemon.dir.path().join("state");
    stdx::durable::rename(&state.join("staithe.new"), &state.join("staithe.sock")).unwrap();
    let output = tokio::time::timeout(PATIENCE, call).await.unwrap().unwrap();
    assert!(output.status.success(), "{output:?}\n{}", daemon.log());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "said\n");
    assert!(tokens() > 1, "the first token was of the old daemon\n{}", daemon.log());
    heir.kill();
}
