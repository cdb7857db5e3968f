//! The nastiest edge cases of two eras behind one address, attacked.

use crate::host::{Host, Setup, in_mode, modern_tool, name, server, text, tool};
use model::{Mode, ServerSpec, Verdict};
use serde_json::{Value, json};
use staithe_gateway::Auth;
use std::collections::HashSet;
use std::time::Duration;
use testkit::wait::eventually;
use testkit::{Client, MODERN, Session, Stream};

/// A shell script as a server.
fn shell(script: String) -> ServerSpec {
    ServerSpec::new(name("every"), "sh", vec!["-c".to_owned(), script])
}

/// Edge case 1: the probe kills the patient, binds it to an era, or is over before a slow first start. E97, E98, E229.
#[tokio::test(flavor = "multi_thread")]
async fn edge_01_a_slow_start_is_no_proof_of_an_era() {
    let dir = tempfile::tempdir().unwrap();
    let starts = dir.path().join("starts");
    // Every start takes longer than the probe waits.
    let slow = |flag: &str| {
        let every = testkit::bin("everything");
        shell(format!("echo {flag} >> {}; sleep 0.5; exec {} {flag}", starts.display(), every.display()))
    };
    for (flag, verdict) in [("--dual", Verdict::Dual), ("--legacy", Verdict::Legacy)] {
        let mut setup = Setup::default();
        setup.supervisor.probe_timeout = Duration::from_millis(150);
        let host = Host::with(vec![slow(flag)], setup).await;
        let client = host.client();
        let (status, answer) = client.modern_call("every", "tools/call", json!({"name": "whoami"})).await.unwrap();
        let seen = &answer["result"]["structuredContent"];
        assert_eq!((status, host.report().verdict), (200, Some(verdict)), "{flag}: {answer}");
        assert_eq!(seen["era"], if flag == "--dual" { "modern" } else { "legacy" }, "{flag}: {answer}");
        // One process serves each era; neither was asked anything of the other.
        let session = client.legacy_session("every").await.unwrap();
        let other = tool(&session, "whoami", json!({})).await["result"]["structuredContent"].clone();
        assert_eq!(other["era"], "legacy");
        assert_eq!(other["pid"] == seen["pid"], flag == "--legacy", "{flag}: {other} {seen}");
        assert_eq!(host.report().restarts, 0, "{flag}");
        host.stop().await;
    }
    // The verdict of a start is kept: the second call of each server started nothing to find out again.
    let started = std::fs::read_to_string(&starts).unwrap();
    let counted = |flag: &str| started.lines().filter(|line| *line == flag).count();
    assert!(counted("--dual") <= 6 && counted("--legacy") <= 5, "{started}");
}

/// How many calls the server was told to stop, and how many it stopped.
async fn cancellations(client: &Client) -> Value {
    modern_tool(client, "every", "cancellations", json!({})).await["result"]["structuredContent"].clone()
}

fn sleep(ms: u64) -> Value {
    json!({"name": "sleep", "arguments": {"ms": ms}, "_meta": {"progressToken": "t"}})
}

async fn begun(mut stream: Stream) -> Stream {
    assert_eq!(stream.next_message().await.unwrap().unwrap()["method"], "notifications/progress");
    stream
}

/// Edge case 2: the same disconnect cancels a modern call and none of a session. E78, E135, E137.
#[tokio::test(flavor = "multi_thread")]
async fn edge_02_a_disconnect_means_opposite_things() {
    for flag in ["--legacy", "--modern"] {
        let host = Host::open(vec![in_mode(server("every", "everything", &[flag]), Mode::Shared)]).await;
        let client = host.client();
        let session = client.legacy_session("every").await.unwrap();
        let left = begun(client.modern_stream("every", "tools/call", sleep(5000)).await.unwrap()).await;
        let kept = begun(session.stream(&json!(1), "tools/call", sleep(1500)).await.unwrap()).await;
        let answered = client.modern_stream("every", "tools/call", json!({"name": "echo"})).await.unwrap();
        drop(answered.whole().await.unwrap());
        let busy = || host.supervisor.instances(None).iter().map(|instance| instance.in_flight).sum::<u32>();
        assert_eq!(busy(), 2);
        drop((kept, left));
        eventually("the modern call is over", || busy() == 1).await;
        let told = json!({"arrived": 1, "stopped": 1});
        assert_eq!(cancellations(&client).await, told, "{flag}: only the modern one");
        let answers = host.report().calls;
        eventually("the session's call ends by itself", || busy() == 0).await;
        assert!(host.report().calls > answers, "{flag}: it was answered");
        assert_eq!(cancellations(&client).await, told, "{flag}");
        host.stop().await;
    }
}

/// Edge case 7: clients keep the era of an origin, so each address must speak both, whatever stands behind it. A 4xx
/// without a JSON-RPC body would send a modern client back to `initialize` for all of them. E22, E90.
#[tokio::test(flavor = "multi_thread")]
async fn edge_07_every_address_of_the_origin_speaks_both_eras() {
    let servers = vec![
        server("legacy", "everything", &["--legacy"]),
        server("modern", "everything", &["--modern"]),
        server("dual", "everything", &["--dual"]),
        server("broken", "odd", &["--exit-on-call", "1"]),
        ServerSpec::new(name("absent"), "/no/such/program", Vec::new()),
    ];
    let host = Host::open(servers).await;
    let client = host.client();
    let mut versions = HashSet::new();
    for server in ["legacy", "modern", "dual", "broken"] {
        let (status, answer) = client.modern_call(server, "server/discover", json!({})).await.unwrap();
        assert_eq!((status, &answer["result"]["supportedVersions"]), (200, &json!([MODERN])), "{server}: {answer}");
        let session = client.legacy_session(server).await.unwrap();
        assert_eq!(session.revision, "2025-11-25", "{server}");
        let (headers, body) =
            client.modern_request("server/discover", json!({}), &[("mcp-protocol-version", "2030-01-01")]);
        let body = body.replace(MODERN, "2030-01-01");
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let refused = client.post(&format!("/mcp/{server}"), &headers, body).await.unwrap().json().unwrap();
        assert_eq!(refused["error"]["code"], -32022, "{server}: {refused}");
        versions.insert(refused["error"]["data"]["supported"].to_string());
    }
    assert_eq!(versions.len(), 1, "one origin, one list: {versions:?}");
    for server in ["absent", "nobody-hosts-this"] {
        for era in ["modern", "legacy"] {
            let (headers, body) = client.modern_request("server/discover", json!({}), &[]);
            let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            let initialize = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;
            let answer = match era {
                "modern" => client.post(&format!("/mcp/{server}"), &headers, body).await.unwrap(),
                _ => client
                    .post(&format!("/mcp/{server}"), &[("content-type", "application/json")], initialize)
                    .await
                    .unwrap(),
            };
            let said = answer.json().unwrap();
            assert!(said["error"]["message"].as_str().is_some_and(|words| words.len() > 10), "{server} {era}: {said}");
            assert_ne!(answer.status, 405, "{server} {era}");
        }
    }
    host.stop().await;
}

/// What a stream brings within a while.
async fn heard(stream: &mut Stream, wait: Duration) -> Vec<String> {
    let mut heard = Vec::new();
    while let Ok(message) = tokio::time::timeout(wait, stream.next_message()).await {
        let Some(message) = message.unwrap() else { break };
        heard.push(message["params"]["uri"].as_str().or(message["method"].as_str()).unwrap().to_owned());
    }
    heard
}

async fn subscribed(session: &Session<'_>, uri: &str) -> Stream {
    let answer = session.call("resources/subscribe", json!({"uri": uri})).await.unwrap();
    assert_eq!(answer["result"], json!({}), "{answer}");
    session.listen().await.unwrap()
}

/// Edge case 11: changes reach whom they concern, and nobody else. E161, E163, E188.
#[tokio::test(flavor = "multi_thread")]
async fn edge_11_changes_do_not_cross_principals() {
    const WATCHED: &str = "test://watched-resource";
    for (mode, shared) in [(Mode::PerPrincipal, false), (Mode::PerSession, false), (Mode::Shared, true)] {
        let every = in_mode(server("every", "everything", &["--legacy"]), mode);
        let host = Host::with(vec![every], Setup { auth: Auth::Required, ..Setup::default() }).await;
        let (ann, bob) = (host.client_of("ann").await, host.client_of("bob").await);
        let (one, two) = (ann.legacy_session("every").await.unwrap(), bob.legacy_session("every").await.unwrap());
        let mut anns = subscribed(&one, WATCHED).await;
        let mut bobs = subscribed(&two, "test://static-text").await;
        tool(&one, "test_trigger_tool_change", json!({})).await;
        tool(&one, "test_trigger_resource_update", json!({"uri": WATCHED})).await;
        let changed = "notifications/tools/list_changed";
        let wait = Duration::from_millis(150);
        assert_eq!(heard(&mut anns, wait).await, [changed, WATCHED], "{mode}: once each");
        // One process for everybody has one list for everybody; an update is only for those who asked for it.
        let theirs: &[&str] = if shared { &[changed] } else { &[] };
        assert_eq!(heard(&mut bobs, wait).await, theirs, "{mode}");
        host.stop().await;
    }
}

/// Whose list it is decides who may keep it: what a legacy server lists is never for everybody (E187 waits for filters).
#[tokio::test(flavor = "multi_thread")]
async fn edge_11_lists_of_a_legacy_server_are_private() {
    let host = Host::open(vec![in_mode(server("every", "everything", &["--legacy"]), Mode::Shared)]).await;
    for method in ["tools/list", "prompts/list", "resources/list", "resources/templates/list", "server/discover"] {
        let (_, answer) = host.client().modern_call("every", method, json!({})).await.unwrap();
        let result = &answer["result"];
        assert_eq!((&result["cacheScope"], &result["ttlMs"]), (&json!("private"), &json!(0)), "{method}: {answer}");
    }
    let read = modern_tool(&host.client(), "every", "echo", json!({})).await;
    assert_eq!(text(&read), "{}");
    assert!(read["result"].get("cacheScope").is_none(), "a call is no list: {read}");
    host.stop().await;
}
