//! What reaches a server is in the ledger, also where it is no plain call: answers to what a server asked, subscriptions; and so
//! is what operators make of servers, and with which configuration a daemon writes.

use crate::daemon::Daemon;
use ledger::{Disk, Keys, Kind, LogKeys, LogSigner, RealDisk, Signer};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use testkit::Client;
use testkit::wait::eventually_some;

fn kind(daemon: &Daemon, kind: &str) -> Vec<Value> {
    daemon.records().into_iter().filter(|record| record["t"] == kind).collect()
}

/// Every start of this method, with the outcome of its end.
fn calls(daemon: &Daemon, method: &str) -> Vec<(Value, Value)> {
    let ends: HashMap<String, Value> =
        kind(daemon, "call.end").into_iter().map(|end| (end["call"].to_string(), end["outcome"].clone())).collect();
    let starts = kind(daemon, "call.start").into_iter().filter(|start| start["method"] == method);
    starts.map(|start| (start.clone(), ends.get(&start["call"].to_string()).cloned().unwrap_or_default())).collect()
}

/// Every start has its end.
async fn ended(daemon: &Daemon, method: &str, count: usize) -> Vec<(Value, Value)> {
    eventually_some(method, async || {
        let calls = calls(daemon, method);
        (calls.len() == count && calls.iter().all(|(_, end)| !end.is_null())).then_some(calls)
    })
    .await
}

fn able(daemon: &Daemon) -> Client {
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    client.with_capabilities(json!({"elicitation": {"form": {}}}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_to_a_servers_question_is_a_call_that_follows_the_first() {
    let daemon = Daemon::new(&json!({"asker": {"command": testkit::bin("asker")}}), &[], "");
    let client = able(&daemon);
    let schema = json!({"message": "who?", "requestedSchema": {"type": "object", "properties": {}}});
    let steps = json!([{"ask": "elicitation/create", "as": "a", "params": schema}, {"await": "a"}]);
    let params = json!({"name": "run", "arguments": {"steps": steps}});
    let (_, round) = client.modern_call("asker", "tools/call", params.clone()).await.unwrap();
    assert_eq!(round["result"]["resultType"], "input_required", "{round}");
    let mut again = params;
    again["inputResponses"] = json!({"r1_1": {"action": "accept", "content": {"word": "canary-answer"}}});
    again["requestState"] = round["result"]["requestState"].clone();
    let (_, done) = client.modern_call("asker", "tools/call", again.clone()).await.unwrap();
    assert_eq!(done["result"]["resultType"], "complete", "{done}");
    // Whoever asks for the end once more gets it, and that is recorded too.
    let (_, once_more) = client.modern_call("asker", "tools/call", again).await.unwrap();
    assert_eq!(once_more["result"], done["result"]);
    let calls = ended(&daemon, "tools/call", 3).await;
    let [(first, asked), (answer, ok), (late, fetched)] = <[(Value, Value); 3]>::try_from(calls).unwrap();
    assert_eq!((&first["follows"], asked), (&Value::Null, json!("asked")));
    assert_eq!((&answer["follows"], ok), (&first["call"], json!("ok")), "{answer}");
    assert_eq!((&late["follows"], fetched), (&first["call"], json!("ok")), "{late}");
    for member in ["instance", "pid", "generation", "who", "name"] {
        assert_eq!(answer[member], first[member], "{answer}");
    }
    assert!(!serde_json::to_string(&daemon.records()).unwrap().contains("canary"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_that_reach_a_server_have_a_start_and_an_end() {
    let scripted = testkit::bin("scripted");
    let servers = json!({"old": {"command": scripted, "args": ["--legacy"]}, "new": {"command": scripted}});
    let daemon = Daemon::new(&servers, &[], "");
    let client = able(&daemon);
    let session = client.legacy_session("old").await.unwrap();
    session.call("resources/subscribe", json!({"uri": "x://one"})).await.unwrap();
    session.call("resources/unsubscribe", json!({"uri": "x://one"})).await.unwrap();
    drop(session.call("resources/subscribe", json!({"uri": "x://refused"})).await);
    let on = ended(&daemon, "resources/subscribe", 2).await;
    assert_eq!((&on[0].0["name"], &on[0].0["era"], &on[0].1), (&json!("x://one"), &json!("legacy"), &json!("ok")));
    assert_eq!(ended(&daemon, "resources/unsubscribe", 1).await[0].1, "ok");
    for server in ["old", "new"] {
        let filter = json!({"notifications": {"toolsListChanged": true}});
        let mut stream = client.modern_stream(server, "subscriptions/listen", filter).await.unwrap();
        assert!(stream.next_message().await.unwrap().is_some());
        eventually_some("the start of a listen", async || {
            calls(&daemon, "subscriptions/listen").into_iter().find(|(start, _)| start["server"] == server)
        })
        .await;
        drop(stream);
    }
    let listens = ended(&daemon, "subscriptions/listen", 2).await;
    assert!(listens.iter().all(|(_, end)| end == "cancelled"), "{listens:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_configured_is_recorded_with_the_act_that_set_it_and_without_secrets() {
    let server = |args: &[&str]| json!({"mcpServers": {"one": {"command": testkit::bin("echo"), "args": args, "env": {"KEY": "canary-environment"}}}});
    let mut daemon = Daemon::new(&server(&[])["mcpServers"], &[], "");
    daemon.insist_on_port();
    let path = daemon.state().join("more.json");
    stdx::durable::write_file(&path, server(&["--x"]).to_string().as_bytes(), 0o600).unwrap();
    daemon.cli(&["import", "--replace", path.to_str().unwrap()]);
    daemon.cli(&["stop", "one"]);
    daemon.cli(&["remove", "one"]);
    let sets = kind(&daemon, "server.set");
    let shown: Vec<(u64, bool)> =
        sets.iter().map(|set| (set["generation"].as_u64().unwrap_or(0), set["spec"].is_string())).collect();
    assert_eq!(shown, [(2, true), (2, true), (0, false)], "{sets:?}");
    assert_ne!(sets[0]["spec"], sets[1]["spec"]);
    let starts = kind(&daemon, "operator.start");
    for set in &sets {
        assert!(starts.iter().any(|start| start["act"] == set["act"]), "{set}");
    }
    let opened = |daemon: &Daemon| {
        let all = daemon.records().into_iter().filter(|record| record["event"] == "opened");
        all.collect::<Vec<_>>()
    };
    let restart = async |daemon: &mut Daemon, settings: &str| {
        daemon.terminate();
        assert_eq!(daemon.ended().await.code(), Some(0));
        stdx::durable::write_file(&daemon.state().join("staithe.toml"), settings.as_bytes(), 0o600).unwrap();
        let before = opened(daemon).len();
        daemon.start();
        eventually_some("a daemon", async || (opened(daemon).len() > before).then_some(())).await;
    };
    // The first one asked for any port.
    restart(&mut daemon, "").await;
    restart(&mut daemon, "").await;
    restart(&mut daemon, "[limits]\ncall_timeout = \"7 s\"\n").await;
    let all = opened(&daemon);
    assert_eq!((&all[2]["config"], &all[2]["config_before"]), (&all[1]["config"], &Value::Null), "{all:?}");
    assert_eq!(all[3]["config_before"], all[2]["config"], "{all:?}");
    assert_ne!(all[3]["config"], all[2]["config"]);
    assert_ne!(all[0]["servers"], all[1]["servers"], "the server is gone");
    assert!(!serde_json::to_string(&daemon.records()).unwrap().contains("canary"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_was_set_back_between_two_daemons_is_said_and_stops_nobody() {
    let mut daemon = Daemon::new(&json!({}), &[], "");
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    let hour = 3_600_000;
    append(&daemon, &format!(r#"{{"v":1,"ms":{},"t":"log","event":"heartbeat"}}"#, stdx::clock::unix_ms() + hour));
    daemon.insist_on_port();
    daemon.start();
    let set = eventually_some("a record of it", async || {
        daemon.records().into_iter().find(|record| record["event"] == "clock_set")
    })
    .await;
    let by = set["by_ms"].as_i64().unwrap();
    assert!((-hour..-hour + 60_000).contains(&by), "{set}");
    eventually_some("a command that is done", async || {
        daemon.run(&["token", "create", "--principal", "ann"]).status.success().then_some(())
    })
    .await;
}

/// Appends an entry to the log of a daemon that does not run, with its keys.
fn append(daemon: &Daemon, entry: &str) {
    let dir = daemon.state().join("ledger");
    let vkeys = std::fs::read_to_string(dir.join("vkeys")).unwrap();
    let known: Vec<ledger::Verifier> =
        vkeys.lines().filter(|line| !line.starts_with('#')).map(|line| line.parse().unwrap()).collect();
    let known = LogKeys::new(vec![ledger::KeyPair::new(known[0].clone(), known[1].clone()).unwrap()]).unwrap();
    let signer = |name: &str, kind: Kind| {
        let bytes = std::fs::read(daemon.state().join("keys").join(format!("ledger.{name}"))).unwrap();
        Signer::from_pkcs8(kind, known.origin(), &bytes).unwrap()
    };
    let pair = LogSigner::new(signer("ed25519", Kind::Ed25519), signer("ml-dsa-44", Kind::MlDsa44Cosignature)).unwrap();
    let keys = Arc::new(Keys::new(pair, known.clone()).unwrap());
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let (mut log, _) = ledger::Log::open(&disk, &dir, ledger::Options::default(), keys, vec![]).unwrap();
    log.append(&[entry]).unwrap();
}
