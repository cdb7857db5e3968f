//! Who is turned away is in the ledger: with the reason, with the name where there is one, and every one of them counted.

use crate::daemon::Daemon;
use crate::load;
use serde_json::{Value, json};
use testkit::Client;
use testkit::wait::eventually_some;

const JSON: (&str, &str) = ("content-type", "application/json");
const ALL: (&str, &str) = ("accept", "application/json, text/event-stream");

fn denied(daemon: &Daemon) -> Vec<Value> {
    daemon.records().into_iter().filter(|record| record["t"] == "call.denied").collect()
}

fn count(records: &[Value]) -> u64 {
    records.iter().map(|record| record["count"].as_u64().unwrap()).sum()
}

/// The first record with this reason.
async fn with_reason(daemon: &Daemon, reason: &str) -> Value {
    eventually_some(reason, async || denied(daemon).into_iter().find(|record| record["reason"] == reason)).await
}

/// Nothing of what was shown is in any file of the ledger.
fn holds_none_of(daemon: &Daemon, canaries: &[&str]) {
    for entry in std::fs::read_dir(daemon.state().join("ledger/wal")).unwrap().map(Result::unwrap) {
        let content = std::fs::read(entry.path()).unwrap();
        for canary in canaries {
            let found = content.windows(canary.len()).any(|part| part == canary.as_bytes());
            assert!(!found, "{canary} is in {:?}", entry.path());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_be_turned_away_has_a_record_and_no_secret_is_in_it() {
    let daemon = Daemon::new(&load::servers(), &[], "");
    let good = daemon.token("ann");
    let told = daemon.cli(&["token", "create", "--principal", "eve"]);
    let (revoked, id) = (told["token"].as_str().unwrap(), told["report"]["id"].as_str().unwrap());
    daemon.cli(&["token", "revoke", id]);
    let told = daemon.cli(&["token", "create", "--principal", "bob", "--server", "own"]);
    let other = told["token"].as_str().unwrap();
    let client = Client::new(&daemon.url, None).unwrap();
    let ask = async |server: &str, token: Option<&str>, more: &[(&str, &str)], body: &str| {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let mut headers = vec![JSON, ALL];
        headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
        headers.extend_from_slice(more);
        client.post(&format!("/mcp/{server}"), &headers, body.to_owned()).await.unwrap().status
    };
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"canary-tool","arguments":{"x":"canary-argument"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#;
    let version = ("mcp-protocol-version", "2026-07-28");
    assert_eq!(ask("own", None, &[], "{}").await, 401);
    assert_eq!(ask("own", Some("canary-token"), &[], "{}").await, 401);
    assert_eq!(ask("own", Some(revoked), &[], "{}").await, 401);
    assert_eq!(ask("modern", Some(other), &[], "{}").await, 401);
    assert_eq!(ask("own", Some(&good), &[("origin", "https://canary.example")], "{}").await, 403);
    assert_eq!(ask("not-there", Some(&good), &[], "{}").await, 404);
    assert_eq!(ask("own", Some(&good), &[], "canary-body").await, 400);
    assert_eq!(ask("modern", Some(&good), &[version, ("mcp-method", "ping"), ("mcp-name", "x")], call).await, 400);
    let told: [(&str, &str, bool); 8] = [
        ("no_token", "own", false),
        ("unknown_token", "own", false),
        ("revoked_token", "own", true),
        ("token_for_another_server", "modern", true),
        ("origin_not_allowed", "own", false),
        ("unknown_server", "not-there", true),
        ("no_json", "own", true),
        ("header_mismatch", "modern", true),
    ];
    for (reason, server, known) in told {
        let record = with_reason(&daemon, reason).await;
        assert_eq!((&record["server"], &record["count"]), (&json!(server), &json!(1)), "{record}");
        assert_eq!(record["who"]["sub"].is_string(), known, "{record}");
    }
    assert_eq!(with_reason(&daemon, "revoked_token").await["who"]["token"], id);
    assert!(daemon.records().iter().all(|record| record["t"] != "call.start"), "none of them reached a process");
    let canaries = ["canary-token", "canary-argument", "canary-body", "canary.example", &good, revoked, other];
    holds_none_of(&daemon, &canaries);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_refused_before_its_process_says_what_it_asked_for() {
    let failing = json!({"gone": {"command": "/nonexistent/program"}});
    let daemon = Daemon::new(&failing, &[], "");
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    for _ in 0..3 {
        let (_, answer) = client
            .modern_call("gone", "tools/call", json!({"name": "read", "arguments": {"x": "canary"}}))
            .await
            .unwrap();
        assert_eq!(answer["error"]["data"]["reason"], "server_failing", "{answer}");
    }
    let records = eventually_some("three refusals", async || {
        let records = denied(&daemon);
        (count(&records) == 3).then_some(records)
    })
    .await;
    for record in &records {
        assert_eq!(record["reason"], "server_failing", "{record}");
        assert_eq!((&record["method"], &record["name"]), (&json!("tools/call"), &json!("read")), "{record}");
        assert_eq!(record["who"]["by"], "token", "{record}");
    }
    holds_none_of(&daemon, &["canary"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_few_records_and_a_stop_writes_what_is_left() {
    let mut daemon = Daemon::new(&load::servers(), &[], "");
    let before = daemon.records().len();
    let mut callers = Vec::new();
    for caller in 0..8 {
        let client = Client::new(&daemon.url, None).unwrap();
        callers.push(stdx::task::spawn("a caller", async move {
            for n in 0..250 {
                let path = format!("/mcp/made-up-{caller}-{n}");
                assert_eq!(client.post(&path, &[JSON, ALL], "{}").await.unwrap().status, 401);
            }
        }));
    }
    let begun = stdx::clock::monotonic();
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    // Those of the last second are in no record yet, most likely.
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    let (records, seconds) = (denied(&daemon), begun.elapsed().as_secs() + 2);
    assert_eq!(count(&records), 2000, "every one is counted");
    assert!(records.iter().any(|record| record["reason"] == "others"), "{records:?}");
    let most = usize::try_from(seconds).unwrap() * 17;
    assert!(records.len() <= most, "{} records within {seconds} s, after {before} others", records.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_loses_no_refusal() {
    let daemon = Daemon::new(&load::servers(), &[], "");
    let client = Client::new(&daemon.url, None).unwrap();
    let mut sent = 0;
    for _ in 0..2 {
        for _ in 0..20 {
            assert_eq!(client.post("/mcp/own", &[JSON, ALL], "{}").await.unwrap().status, 401);
            sent += 1;
        }
        let done = tokio::task::block_in_place(|| daemon.run(&["upgrade"]));
        assert!(done.status.success(), "{done:?}");
    }
    eventually_some("every refusal", async || (count(&denied(&daemon)) == sent).then_some(())).await;
}
