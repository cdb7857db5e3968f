//! Promise 3, attacked: no answer reaches the wrong caller, whatever ids, tokens and sessions the callers choose.

use crate::host::{Host, Setup, in_mode, modern_tool, name, server, text, tool};
use model::{Mode, ServerSpec};
use serde_json::{Value, json};
use staithe_gateway::Auth;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use testkit::wait::eventually;
use testkit::{Client, MODERN, Response};
use tokio::sync::Barrier;

const MODES: [(&str, Mode); 4] = [
    ("shared", Mode::Shared),
    ("principal", Mode::PerPrincipal),
    ("session", Mode::PerSession),
    ("exclusive", Mode::Exclusive),
];
/// Progress tokens that everybody uses at once.
const TOKENS: [&str; 4] = ["0", r#""""#, "9007199254740993", r#""\u0031""#];
/// Sessions of each principal at each server; one caller without a session stands beside them.
const SESSIONS: usize = 8;
const ROUNDS: usize = 140;

fn everywhere(flag: &str) -> Vec<ServerSpec> {
    MODES.into_iter().map(|(name, mode)| in_mode(server(name, "everything", &[flag]), mode)).collect()
}

async fn guarded(servers: Vec<ServerSpec>) -> Host {
    Host::with(servers, Setup { auth: Auth::Required, ..Setup::default() }).await
}

/// 2 principals × 4 modes × (8 sessions and one caller without) × 140 calls, all with the same ids and tokens at the
/// same time.
/// Shows E5, E43, E149.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_reaches_the_wrong_caller() {
    let host = guarded(everywhere("--dual")).await;
    let start = Arc::new(Barrier::new(2 * MODES.len() * (SESSIONS + 1)));
    let mut callers = Vec::new();
    for principal in ["ann", "bob"] {
        for (server, _) in MODES {
            for number in 0..=SESSIONS {
                let (client, start) = (host.client_of(principal).await, start.clone());
                let caller = callers.len();
                callers.push(stdx::task::spawn("caller", async move {
                    if number == SESSIONS {
                        modern_caller(&client, server, caller, &start).await
                    } else {
                        legacy_caller(&client, server, caller, &start).await
                    }
                }));
            }
        }
    }
    let mut calls = 0;
    for caller in callers {
        calls += caller.await.unwrap().expect("a caller failed; its panic says why");
    }
    assert_eq!(calls, 10_080);
    assert!(host.supervisor.servers().iter().all(|s| s.restarts == 0));
    host.stop().await;
}

async fn legacy_caller(client: &Client, server: &str, caller: usize, start: &Barrier) -> usize {
    let session = client.legacy_session(server).await.unwrap();
    start.wait().await;
    for round in 0..ROUNDS {
        let body = body(caller, round, None);
        let response = session.post(body).await.unwrap();
        only_its_own(&response, caller, round);
    }
    ROUNDS
}

async fn modern_caller(client: &Client, server: &str, caller: usize, start: &Barrier) -> usize {
    let meta = format!(
        r#""io.modelcontextprotocol/protocolVersion":"{MODERN}","io.modelcontextprotocol/clientCapabilities":{{}}"#
    );
    let path = format!("/mcp/{server}");
    start.wait().await;
    for round in 0..ROUNDS {
        let name = if shows_progress(round) { "sleep" } else { "echo" };
        let headers = [
            ("accept", "application/json, text/event-stream"),
            ("content-type", "application/json"),
            ("mcp-protocol-version", MODERN),
            ("mcp-method", "tools/call"),
            ("mcp-name", name),
        ];
        let response = client.post(&path, &headers, body(caller, round, Some(&meta))).await.unwrap();
        only_its_own(&response, caller, round);
    }
    ROUNDS
}

fn shows_progress(round: usize) -> bool {
    round.is_multiple_of(14)
}

/// A time to sleep that no other caller has, so that it tells whose progress it is.
fn own_ms(caller: usize) -> usize {
    11 + caller
}

/// The request of a round: everybody's has the same id and the same token.
fn body(caller: usize, round: usize, meta: Option<&str>) -> String {
    let call = if shows_progress(round) {
        format!(r#""name":"sleep","arguments":{{"ms":{}}}"#, own_ms(caller))
    } else {
        format!(r#""name":"echo","arguments":{{"canary":"canary-{caller}-{round}."}}"#)
    };
    let token = TOKENS[round / 14 % TOKENS.len()];
    let meta = meta.map(|meta| format!(",{meta}")).unwrap_or_default();
    format!(
        r#"{{"jsonrpc":"2.0","id":{round},"method":"tools/call","params":{{{call},"_meta":{{"progressToken":{token}{meta}}}}}}}"#
    )
}

/// The answer has the right id and canary, and nothing of anybody else.
fn only_its_own(response: &Response, caller: usize, round: usize) {
    let whole = String::from_utf8(response.body.to_vec()).unwrap();
    assert_eq!(response.status, 200, "{whole}");
    if !shows_progress(round) {
        assert!(whole.contains(&format!("\"id\":{round},")), "caller {caller} round {round}: {whole}");
        let own = format!("{caller}-{round}.");
        let foreign = whole.split("canary-").skip(1).find(|rest| !rest.starts_with(&own));
        assert!(foreign.is_none() && whole.contains(&own), "caller {caller} round {round}: {whole}");
        return;
    }
    let token = TOKENS[round / 14 % TOKENS.len()];
    // A stream of a 2025-11-25 session begins with an id alone.
    let data = response.events().unwrap().0.into_iter().map(|e| e.data);
    let events: Vec<String> = data.filter(|data| !data.is_empty()).collect();
    let (last, notes) = events.split_last().unwrap();
    assert_eq!(notes.len(), 10, "caller {caller} round {round}: {whole}");
    for note in notes {
        assert!(note.contains(&format!("\"progressToken\":{token},")), "caller {caller} round {round}: {note}");
        assert!(note.contains(&format!(" of {} ms", own_ms(caller))), "caller {caller} round {round}: {note}");
    }
    assert!(last.contains(&format!("slept {} ms", own_ms(caller))), "caller {caller} round {round}: {last}");
    assert!(last.contains(&format!("\"id\":{round},")), "caller {caller} round {round}: {last}");
}

/// Shows E5, E152.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_twice_at_once_in_one_session_is_answered_twice() {
    let host = Host::open(everywhere("--legacy")).await;
    let client = host.client();
    for (server, _) in MODES {
        let session = client.legacy_session(server).await.unwrap();
        let id = json!(5);
        let ask = |ms: u64| {
            let params = json!({"name":"sleep","arguments":{"ms":ms},"_meta":{"progressToken":7}});
            session.stream(&id, "tools/call", params)
        };
        let (mut slow, mut fast) = (ask(300).await.unwrap(), ask(150).await.unwrap());
        for (stream, ms) in [(&mut fast, 150), (&mut slow, 300)] {
            let mut messages = Vec::new();
            while let Some(message) = stream.next_message().await.unwrap() {
                messages.push(message);
            }
            let (last, notes) = messages.split_last().unwrap();
            assert_eq!((text(last), &last["id"]), (format!("slept {ms} ms").as_str(), &json!(5)), "{server}");
            assert_eq!(notes.len(), 10, "{server}: {notes:?}");
            for note in notes {
                assert!(
                    note["params"]["message"].as_str().unwrap().ends_with(&format!("of {ms} ms")),
                    "{server}: {note}"
                );
                assert_eq!(note["params"]["progressToken"], 7, "{server}: {note}");
            }
        }
    }
    host.stop().await;
}

/// The raw bytes of the id, whatever the outcome: a result, the server's error, or ours.
/// Shows E2, E3.
#[tokio::test(flavor = "multi_thread")]
async fn ids_come_back_as_they_were_spelled() {
    let spellings = [
        "1",
        r#""1""#,
        "0",
        "-7",
        r#""""#,
        "9007199254740993",
        "1234567890123456789012345",
        r#""é\u00e9 \"q\"""#,
        r#""\u0031""#,
    ];
    let host =
        Host::open(vec![server("legacy", "everything", &["--legacy"]), server("modern", "everything", &["--modern"])])
            .await;
    let client = host.client();
    for server in ["legacy", "modern"] {
        let session = client.legacy_session(server).await.unwrap();
        for id in spellings {
            for (method, params) in [
                ("tools/call", r#"{"name":"echo","arguments":{}}"#),
                ("tools/call", r#"{"name":"no such tool"}"#),
                ("logging/setLevel", r#"{"level":"loud"}"#),
                ("ping", "{}"),
            ] {
                let body = format!(r#"{{"params":{params},"id": {id} ,"method":"{method}","jsonrpc":"2.0"}}"#);
                let answered = session.post(body).await.unwrap();
                let whole = String::from_utf8_lossy(&answered.body).into_owned();
                assert_eq!(answered.status, 200, "{server} {id} {method}: {whole}");
                let spelled = [",", "}"].iter().any(|end| whole.contains(&format!("\"id\":{id}{end}")));
                assert!(spelled, "{server} {id} {method}: {whole}");
            }
            let (headers, body) = client.modern_request("tools/call", json!({"name":"echo","arguments":{}}), &[]);
            let mut body: Value = serde_json::from_str(&body).unwrap();
            body["id"] = json!("HERE");
            let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            let body = body.to_string().replace("\"HERE\"", id);
            let answered = client.post(&format!("/mcp/{server}"), &headers, body).await.unwrap();
            let whole = String::from_utf8_lossy(&answered.body).into_owned();
            assert_eq!(answered.status, 200, "{server} {id}: {whole}");
            assert!(
                [",", "}"].iter().any(|end| whole.contains(&format!("\"id\":{id}{end}"))),
                "{server} {id}: {whole}"
            );
        }
    }
    for bad in ["1.0", "1e3", "null", "true", "[1]", "{}"] {
        let session = client.legacy_session("legacy").await.unwrap();
        let refused = session.post(format!(r#"{{"jsonrpc":"2.0","id":{bad},"method":"tools/list"}}"#)).await.unwrap();
        assert_eq!((refused.status, &refused.json().unwrap()["error"]["code"]), (400, &json!(-32600)), "{bad}");
    }
    host.stop().await;
}

/// Another's session looks exactly like one that never was, at every door that takes a session id.
/// Shows E120, E121, E123, E124, E125, E273, E274.
#[tokio::test(flavor = "multi_thread")]
async fn anothers_session_is_404_and_looks_like_none() {
    let host = guarded(vec![server("a", "everything", &["--legacy"]), server("b", "everything", &["--legacy"])]).await;
    let (ann, bob) = (host.client_of("ann").await, host.client_of("bob").await);
    let own = ann.legacy_session("a").await.unwrap();
    let id = own.id.clone().unwrap();
    let never: String = id.chars().rev().collect();
    for (client, path) in [(&bob, "/mcp/a"), (&ann, "/mcp/b"), (&bob, "/mcp/b")] {
        let mut answers = Vec::new();
        for id in [&id, &never] {
            let headers = [
                ("mcp-session-id", id.as_str()),
                ("mcp-protocol-version", "2025-11-25"),
                ("content-type", "application/json"),
                ("accept", "application/json, text/event-stream"),
            ];
            let mut seen = Vec::new();
            for body in [
                r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#,
                r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#,
                r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
                r#"[{"jsonrpc":"2.0","id":1,"method":"tools/list"}]"#,
            ] {
                seen.push(client.post(path, &headers, body).await.unwrap());
            }
            seen.push(client.get(path, &headers).await.unwrap());
            seen.push(client.delete(path, &headers).await.unwrap());
            let without_date = |r: Response| {
                let mut headers = r.headers;
                headers.remove("date");
                (r.status, headers, r.body)
            };
            answers.push(seen.into_iter().map(without_date).collect::<Vec<_>>());
        }
        assert!(answers[0].iter().all(|(status, _, _)| *status == 404), "{answers:?}");
        assert_eq!(answers[0], answers[1], "the two can be told apart");
    }
    assert!(own.call("tools/list", json!({})).await.unwrap()["result"].is_object(), "the owner's session is untouched");
    host.stop().await;
}

/// Shows E234, E236.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_its_own_server_only() {
    let host = guarded(vec![server("a", "everything", &["--legacy"]), server("b", "everything", &["--legacy"])]).await;
    let minted = host.authority.mint("ann".parse().unwrap(), Some(name("a")), None).await.ok().unwrap();
    let client = Client::new(&host.url, Some(minted.token.into_exposed())).unwrap();
    modern_tool(&client, "a", "echo", json!({})).await;
    for elsewhere in ["/mcp/b", "/mcp/unknown"] {
        let headers = [("content-type", "application/json")];
        let refused = client.post(elsewhere, &headers, r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).await.unwrap();
        assert_eq!(refused.status, 401, "{elsewhere}");
        assert!(refused.header("www-authenticate").unwrap().contains("invalid_token"));
    }
    host.stop().await;
}

async fn pid_of_session(client: &Client, server: &str) -> u64 {
    let session = client.legacy_session(server).await.unwrap();
    let answer = tool(&session, "counter", json!({})).await;
    answer["result"]["structuredContent"]["pid"].as_u64().unwrap()
}

async fn pid_without_session(client: &Client, server: &str) -> u64 {
    modern_tool(client, server, "counter", json!({})).await["result"]["structuredContent"]["pid"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_belongs_to_its_isolation_key() {
    let host = guarded(everywhere("--legacy")).await;
    let (ann, bob) = (host.client_of("ann").await, host.client_of("bob").await);
    let asking = host.client_of("ann").await.with_capabilities(json!({"sampling":{}}));

    let everybody = [
        pid_of_session(&ann, "shared").await,
        pid_of_session(&bob, "shared").await,
        pid_without_session(&bob, "shared").await,
        pid_of_session(&asking, "shared").await,
    ];
    assert!(everybody.iter().all(|pid| *pid == everybody[0]), "shared is one for all: {everybody:?}");

    let anns = [
        pid_of_session(&ann, "principal").await,
        pid_of_session(&ann, "principal").await,
        pid_without_session(&ann, "principal").await,
    ];
    assert!(anns.iter().all(|pid| *pid == anns[0]), "one principal, one process: {anns:?}");
    let others = [pid_of_session(&bob, "principal").await, pid_of_session(&asking, "principal").await];
    assert!(
        !others.contains(&anns[0]) && others[0] != others[1],
        "another principal or other abilities, another process"
    );

    let mut each = HashSet::new();
    for client in [&ann, &ann, &bob] {
        each.insert(pid_of_session(client, "session").await);
    }
    each.insert(pid_without_session(&ann, "session").await);
    each.insert(pid_without_session(&bob, "session").await);
    assert_eq!(each.len(), 5, "a process for each session, and one for each principal's calls without one");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exclusive_process_never_has_two_calls_at_once() {
    let mut setup = Setup::default();
    setup.supervisor.pool = 3;
    let spec = in_mode(server("exclusive", "everything", &["--legacy"]), Mode::Exclusive);
    let host = Host::with(vec![spec], setup).await;
    let client = Arc::new(host.client());
    let calls: Vec<_> = (0..12)
        .map(|_| {
            let client = client.clone();
            stdx::task::spawn("call", async move {
                let answer = modern_tool(&client, "exclusive", "sleep", json!({"ms": 100})).await;
                assert_eq!(text(&answer), "slept 100 ms");
            })
        })
        .collect();
    let (mut most_in_one, mut most_at_once) = (0, 0);
    while calls.iter().any(|call| !call.is_finished()) {
        let busy: Vec<u32> = host.supervisor.instances(None).iter().map(|i| i.in_flight).collect();
        most_in_one = most_in_one.max(busy.iter().copied().max().unwrap_or(0));
        most_at_once = most_at_once.max(busy.iter().filter(|n| **n > 0).count());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for call in calls {
        call.await.unwrap().expect("a call failed; its panic says why");
    }
    assert_eq!((most_in_one, most_at_once), (1, 3));
    host.stop().await;
}

/// A caller that leaves while its place starts gives the place back, process and all.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_while_it_waits_costs_the_pool_no_place() {
    let mut setup = Setup::default();
    setup.supervisor.pool = 2;
    let mut spec = in_mode(server("odd", "odd", &["--silent-start-ms", "400"]), Mode::Exclusive);
    spec.era = model::EraPin::Legacy;
    let host = Host::with(vec![spec], setup).await;
    host.ready().await;
    for _ in 0..5 {
        let client = host.client();
        let early = client.modern_call("odd", "tools/call", json!({"name":"pid","arguments":{}}));
        assert!(
            tokio::time::timeout(Duration::from_millis(50), early).await.is_err(),
            "it answered before it had started"
        );
    }
    let client = host.client();
    let (one, two) = tokio::join!(
        modern_tool(&client, "odd", "sleep", json!({"ms": 100})),
        modern_tool(&client, "odd", "sleep", json!({"ms": 100})),
    );
    assert_eq!((text(&one), text(&two)), ("slept", "slept"));
    let instances = host.supervisor.instances(None);
    assert!(instances.len() <= 2, "the pool has two places: {instances:?}");
    host.stop().await;
}

/// What rivals start anew for each call is here one warm process, for sessions and calls without one alike.
/// Shows E41.
#[tokio::test(flavor = "multi_thread")]
async fn calls_without_a_session_are_served_by_one_warm_process() {
    let host = guarded(vec![server("every", "everything", &["--legacy"])]).await;
    let ann = host.client_of("ann").await;
    let mut pids = HashSet::from([pid_of_session(&ann, "every").await]);
    for _ in 0..50 {
        pids.insert(pid_without_session(&ann, "every").await);
    }
    pids.insert(pid_of_session(&ann, "every").await);
    assert_eq!(pids.len(), 1);
    eventually("one process", || host.processes().len() == 1).await;
    host.stop().await;
}
