//! Things that end: processes, clients, patience, and the operator's. Whoever waits is told at once, and what must
//! outlive them does.

use crate::host::{Host, Setup, alive, in_mode, kill, modern_tool, name, reason, server, text, tool};
use crate::limits::assert_busy;
use model::report::Health;
use model::{EraPin, Mode, ServerSpec};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use stdx::clock::monotonic;
use testkit::wait::eventually;
use testkit::{Client, Session};

fn odd(args: &[&str]) -> ServerSpec {
    server("odd", "odd", args)
}

/// Streams open soon, so that a call in flight can be held, and left, by its stream.
fn eager() -> Setup {
    let mut setup = Setup::default();
    setup.face.stream_after = Duration::from_millis(30);
    setup
}

fn sleep(ms: u64) -> Value {
    json!({"name":"sleep","arguments":{"ms":ms}})
}

async fn whoami(session: &Session<'_>) -> Value {
    tool(session, "whoami", json!({})).await["result"]["structuredContent"].clone()
}

async fn cancellations(session: &Session<'_>) -> (u64, u64) {
    let seen = tool(session, "cancellations", json!({})).await["result"]["structuredContent"].clone();
    (seen["arrived"].as_u64().unwrap(), seen["stopped"].as_u64().unwrap())
}

/// Shows E108, E225.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_fails_its_pending_calls_at_once() {
    let host = Host::open(vec![odd(&["--exit-on-call", "7"])]).await;
    let client = Arc::new(host.client());
    let session = client.legacy_session("odd").await.unwrap();
    let before = text(&tool(&session, "pid", json!({})).await).to_owned();
    let others: Vec<_> = (0..3)
        .map(|_| {
            let client = client.clone();
            stdx::task::spawn("pending", async move {
                let answer = client.modern_call("odd", "tools/call", sleep(20_000)).await.unwrap().1;
                (answer, monotonic())
            })
        })
        .collect();
    eventually("three calls wait", || host.supervisor.instances(None).iter().any(|i| i.in_flight == 3)).await;
    let asked = monotonic();
    let mut failed = vec![(tool(&session, "die", json!({})).await, monotonic())];
    for other in others {
        failed.push(other.await.unwrap().unwrap());
    }
    for (answer, at) in failed {
        let error = &answer["error"];
        assert_eq!((reason(&answer), &error["code"]), ("server_ended", &json!(-32603)), "{answer}");
        let data = &error["data"];
        assert_eq!((&data["server"], &data["status"]), (&json!("odd"), &json!("exit status 7")), "{answer}");
        assert_eq!(data["lastStderr"], "odd: fatal: the disk is on fire", "{answer}");
        assert!(at - asked < Duration::from_millis(250), "told after {:?}", at - asked);
    }
    let after = tool(&session, "pid", json!({})).await;
    assert_ne!(before, text(&after), "the same session, a new process");
    host.stop().await;
}

/// Shows E95, E225.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_outlives_its_process_and_the_handshake_is_replayed() {
    let host = Host::open(vec![
        server("every", "everything", &["--legacy"]),
        in_mode(server("each", "everything", &["--legacy"]), Mode::PerSession),
    ])
    .await;
    let client = host.client().with_capabilities(json!({"sampling":{},"roots":{"listChanged":true}}));
    for (server, told) in [("every", "staithe"), ("each", "testkit")] {
        let session = client.legacy_session_at(server, "2025-06-18").await.unwrap();
        let before = whoami(&session).await;
        let pid = i32::try_from(before["pid"].as_i64().unwrap()).unwrap();
        kill(pid);
        while alive(pid) {
            std::thread::yield_now();
        }
        // At once: staithe may not know of the death yet, and the call must not be lost to it.
        let after = whoami(&session).await;
        assert_ne!(before["pid"], after["pid"]);
        assert_eq!(before["clientInfo"]["name"], told, "{before}");
        for member in ["clientInfo", "capabilities", "protocolVersion", "era"] {
            assert_eq!(before[member], after[member], "{member}");
        }
        assert_eq!(after["capabilities"], json!({"sampling":{},"roots":{"listChanged":true}}), "{after}");
    }
    host.stop().await;
}

/// Shows E225.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_is_named_and_ends() {
    let host = Host::open(vec![odd(&["--exit-on-call", "3"])]).await;
    host.ready().await;
    let client = host.client();
    let session = client.legacy_session("odd").await.unwrap();
    for death in 1..=5 {
        let answer = tool(&session, "die", json!({})).await;
        let log = host.supervisor.log(&crate::host::name("odd")).unwrap().tail(40);
        assert_eq!(reason(&answer), "server_ended", "death {death}: {answer}: {log:#?}");
    }
    eventually("it is named", || host.report().health == Health::CrashLooping).await;
    let told = host.report().reason.unwrap();
    assert!(told.contains("exit status 3") && told.contains("the disk is on fire"), "{told}");
    assert!(told.contains("; next start in "), "{told}");
    assert!(!host.supervisor.ready());
    let asked = monotonic();
    let answer = tool(&session, "pid", json!({})).await;
    assert!(asked.elapsed() < Duration::from_millis(250), "told after {:?}", asked.elapsed());
    assert_eq!(reason(&answer), "server_failing", "{answer}");
    let wait = answer["error"]["data"]["retryAfterMs"].as_u64().unwrap();
    assert!((1..=30_000).contains(&wait), "{wait}");
    // A stateless client is told by the status too.
    let (headers, body) = client.modern_request("tools/call", json!({"name": "pid", "arguments": {}}), &[]);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let refused = client.post("/mcp/odd", &headers, body).await.unwrap();
    if refused.status == 503 {
        let answer = refused.json().unwrap();
        let wait = answer["error"]["data"]["retryAfterMs"].as_u64().unwrap();
        let told = refused.header("retry-after").unwrap().parse::<u64>().unwrap();
        assert_eq!((reason(&answer), told), ("server_failing", wait.div_ceil(1000).max(1)), "{answer}");
    } else {
        assert!(refused.json().unwrap()["result"].is_object(), "it serves again");
    }
    host.ready().await;
    assert!(tool(&session, "pid", json!({})).await["result"].is_object(), "the session is still good");
    host.stop().await;
}

/// Shows E115.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_start_is_a_clear_error_and_no_session() {
    let program = |name: &str, command: &str, args: &[&str]| {
        ServerSpec::new(crate::host::name(name), command, args.iter().map(|a| (*a).to_owned()).collect())
    };
    let mut nowhere = odd(&[]);
    nowhere.program_mut().unwrap().cwd = Some("/no/such/directory".to_owned());
    let broken = program("odd", "sh", &["-c", "echo 'Error: the licence has expired' >&2; exit 9"]);
    for (spec, words) in [
        (program("odd", "no-such-program-anywhere", &[]), vec!["`no-such-program-anywhere`", "PATH"]),
        (nowhere, vec!["/no/such/directory", "cwd"]),
        (broken.clone(), vec!["exit status 9", "the licence has expired"]),
        (ServerSpec { era: EraPin::Legacy, ..broken }, vec!["exit status 9", "the licence has expired"]),
    ] {
        let host = Host::open(vec![spec]).await;
        let client = host.client();
        let initialize = r#"{"jsonrpc":"2.0","id":"i","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;
        let asked = monotonic();
        let headers = [("content-type", "application/json"), ("accept", "application/json, text/event-stream")];
        let response = client.post("/mcp/odd", &headers, initialize).await.unwrap();
        assert!(asked.elapsed() < Duration::from_secs(3), "{words:?}: told after {:?}", asked.elapsed());
        assert_eq!(response.header("mcp-session-id"), None, "{words:?}");
        let answer = response.json().unwrap();
        assert_eq!((reason(&answer), &answer["id"]), ("server_failing", &json!("i")), "{answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(words.iter().all(|word| message.contains(word)) && message.contains("odd"), "{words:?}: {message}");
        assert!(host.supervisor.sessions(None).is_empty());
        assert_eq!((response.status, response.header("retry-after")), (200, None), "{answer}");
        let (headers, body) = client.modern_request("tools/list", json!({}), &[]);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let modern = client.post("/mcp/odd", &headers, body).await.unwrap();
        assert_busy(&modern, "odd");
        assert_eq!(reason(&modern.json().unwrap()), "server_failing", "{modern:?}");
        eventually("status tells", || host.report().health == Health::Failing).await;
        assert!(
            host.report().reason.is_some_and(|told| words.iter().any(|word| told.contains(word))),
            "{:?}",
            host.report()
        );
        assert!(!host.supervisor.ready());
        host.stop().await;
    }
}

/// Shows E135, E136, E138.
#[tokio::test(flavor = "multi_thread")]
async fn a_modern_client_that_leaves_cancels_its_call() {
    for flag in ["--legacy", "--modern"] {
        let host = Host::with(vec![server("every", "everything", &[flag])], eager()).await;
        let client = host.client();
        let session = client.legacy_session("every").await.unwrap();
        // With its stream open, and before any of it was sent.
        let held = client.modern_stream("every", "tools/call", sleep(30_000)).await.unwrap();
        assert!(held.is_event_stream());
        drop(held);
        arrives(&session, (1, 1)).await;
        host.stop().await;

        let host = Host::open(vec![server("every", "everything", &[flag])]).await;
        let client = host.client();
        let session = client.legacy_session("every").await.unwrap();
        let call = client.modern_call("every", "tools/call", sleep(30_000));
        assert!(tokio::time::timeout(Duration::from_millis(200), call).await.is_err());
        arrives(&session, (1, 1)).await;
        host.stop().await;
    }
}

async fn arrives(session: &Session<'_>, wanted: (u64, u64)) {
    for _ in 0..300 {
        if cancellations(session).await == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(cancellations(session).await, wanted);
}

/// Shows E78.
#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_client_that_leaves_cancels_nothing() {
    let host = Host::with(vec![server("every", "everything", &["--legacy"])], eager()).await;
    let client = host.client();
    let session = client.legacy_session("every").await.unwrap();
    let held = session.stream(&json!(1), "tools/call", sleep(700)).await.unwrap();
    assert!(held.is_event_stream());
    drop(held);
    let leaves_early = session.call("tools/call", sleep(700));
    assert!(tokio::time::timeout(Duration::from_millis(20), leaves_early).await.is_err());
    let busy = || host.supervisor.instances(None)[0].in_flight;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(busy(), 2, "both go on without their client");
    let answered = host.report().calls;
    eventually("the server finishes", || busy() == 0).await;
    assert_eq!(host.report().calls, answered + 2);
    assert_eq!(cancellations(&session).await, (0, 0));
    host.stop().await;
}

/// Shows E146.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_takes_too_long_is_ended_on_both_sides() {
    for flag in ["--legacy", "--modern"] {
        let mut setup = Setup::default();
        setup.face.call_timeout = Duration::from_millis(300);
        let host = Host::with(vec![server("every", "everything", &[flag])], setup).await;
        let client = host.client();
        let session = client.legacy_session("every").await.unwrap();
        let asked = monotonic();
        let answer = session.call("tools/call", sleep(30_000)).await.unwrap();
        assert_eq!(reason(&answer), "deadline", "{answer}");
        let took = asked.elapsed();
        assert!(took >= Duration::from_millis(290) && took < Duration::from_millis(1000), "{took:?}");
        arrives(&session, (1, 1)).await;
        assert!(host.supervisor.instances(None).iter().all(|i| i.in_flight == 0));
        host.stop().await;
    }
}

/// Words without end are no answer: the deadline holds for a server that floods its caller with progress.
/// Shows E146.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_talks_without_end_meets_the_deadline() {
    let mut setup = Setup::default();
    setup.face.call_timeout = Duration::from_millis(500);
    let host = Host::with(vec![odd(&["--flood-progress", "100000000"])], setup).await;
    let client = host.client();
    let params = json!({"name":"flood","arguments":{},"_meta":{"progressToken":"t"}});
    let mut stream = client.modern_stream("odd", "tools/call", params).await.unwrap();
    let asked = monotonic();
    let last = loop {
        assert!(asked.elapsed() < Duration::from_secs(10), "the deadline never came");
        let message = stream.next_message().await.unwrap().unwrap();
        if message.get("id").is_some() {
            break message;
        }
    };
    assert_eq!(reason(&last), "deadline", "{last}");
    host.stop().await;
}

/// Equal ids of another type and of another session in the same process, in every mode.
/// Shows E24, E139, E140.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_cancels_the_right_call_only() {
    for mode in [Mode::PerPrincipal, Mode::Shared, Mode::PerSession, Mode::Exclusive] {
        let host = Host::with(vec![in_mode(server("every", "everything", &["--legacy"]), mode)], eager()).await;
        let client = host.client();
        let one = client.legacy_session("every").await.unwrap();
        let two = client.legacy_session("every").await.unwrap();
        let mut right = one.stream(&json!(1), "tools/call", sleep(20_000)).await.unwrap();
        let mut others = vec![
            one.stream(&json!("1"), "tools/call", sleep(500)).await.unwrap(),
            one.stream(&json!(11), "tools/call", sleep(500)).await.unwrap(),
            two.stream(&json!(1), "tools/call", sleep(500)).await.unwrap(),
        ];
        for unknown in [json!(2), json!(null), json!("x")] {
            assert_eq!(one.notify("notifications/cancelled", json!({"requestId": unknown})).await.unwrap().status, 202);
        }
        let told = one.notify("notifications/cancelled", json!({"requestId":1,"reason":"enough"})).await.unwrap();
        assert_eq!(told.status, 202);
        let asked = monotonic();
        assert_eq!(right.next_message().await.unwrap(), None, "{mode}: a cancelled request gets no answer");
        assert!(asked.elapsed() < Duration::from_secs(5), "{mode}: it ended after {:?}", asked.elapsed());
        for stream in &mut others {
            assert_eq!(text(&stream.next_message().await.unwrap().unwrap()), "slept 500 ms", "{mode}");
        }
        if mode != Mode::Exclusive {
            assert_eq!(cancellations(&one).await, (1, 1), "{mode}");
        }
        eventually("the server is idle", || host.supervisor.instances(None).iter().all(|i| i.in_flight == 0)).await;
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_restarts_stops_and_starts_and_sessions_stay() {
    let host = Host::open(vec![server("every", "everything", &["--legacy"])]).await;
    let client = host.client();
    let session = client.legacy_session("every").await.unwrap();
    let first = whoami(&session).await["pid"].clone();
    let calls = {
        let client = Client::new(&host.url, None).unwrap();
        stdx::task::spawn("in flight", async move { modern_tool(&client, "every", "sleep", json!({"ms":150})).await })
    };
    eventually("a call is in flight", || host.supervisor.instances(None)[0].in_flight > 0).await;
    assert_eq!(host.supervisor.restart(&name("every")).await.unwrap(), 1);
    let second = whoami(&session).await["pid"].clone();
    assert_ne!(first, second);
    assert_eq!(text(&calls.await.unwrap().unwrap()), "slept 150 ms", "what was in flight was let finish");
    assert_eq!(host.report().restarts, 0, "an order is no crash");

    host.enable("every", false).await;
    assert_eq!(host.report().health, Health::Stopped);
    assert!(host.supervisor.ready(), "a stopped server is no trouble");
    let id = session.id.clone().unwrap();
    let headers = [("mcp-session-id", id.as_str()), ("content-type", "application/json")];
    let refused =
        client.post("/mcp/every", &headers, r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#).await.unwrap();
    let answer = refused.json().unwrap();
    assert_eq!((refused.status, reason(&answer)), (503, "server_stopped"), "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("staithe start every"), "{answer}");
    let (status, answer) = client.modern_call("every", "tools/list", json!({})).await.unwrap();
    assert_eq!((status, reason(&answer)), (503, "server_stopped"), "{answer}");
    eventually("its processes are gone", || host.processes().is_empty()).await;

    host.enable("every", true).await;
    let third = whoami(&session).await["pid"].clone();
    assert_ne!(second, third, "the session of before, a new process");
    host.stop().await;
}

/// Calls that wait for a place when the operator stops the server must not start a process behind his back.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_for_a_place_start_nothing_after_a_stop() {
    let mut setup = Setup::default();
    setup.supervisor.pool = 1;
    let spec = in_mode(server("every", "everything", &["--legacy"]), Mode::Exclusive);
    let host = Host::with(vec![spec], setup).await;
    let client = Arc::new(host.client());
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let client = client.clone();
            stdx::task::spawn(
                "call",
                async move { client.modern_call("every", "tools/call", sleep(200)).await.unwrap().1 },
            )
        })
        .collect();
    eventually("one runs", || host.supervisor.instances(None).iter().any(|i| i.in_flight == 1)).await;
    host.enable("every", false).await;
    let mut stopped = 0;
    for call in calls {
        let answer = call.await.unwrap().unwrap();
        stopped += usize::from(answer.get("error").is_some_and(|_| reason(&answer) == "server_stopped"));
    }
    assert_eq!(stopped, 3, "one was let finish, the rest was told");
    eventually("no process is left", || host.processes().is_empty()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(host.processes().is_empty());
    host.stop().await;
}

/// A call that comes while an idle process is being ended waits for the next one. It is not told of a stopped server.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_meets_an_idle_stop_is_served() {
    let mut setup = Setup::default();
    setup.supervisor.idle_ttl = Duration::from_millis(200);
    let spec = ServerSpec { era: EraPin::Legacy, ..odd(&["--ignore-eof", "--ignore-term"]) };
    let host = Host::with(vec![spec], setup).await;
    let client = host.client();
    let first = text(&modern_tool(&client, "odd", "pid", json!({})).await).to_owned();
    let ending = || host.supervisor.instances(None).iter().any(|i| i.health == Health::Stopped);
    eventually("the idle process is being ended", ending).await;
    assert!(alive(first.parse().unwrap()), "it takes its time");
    let second = text(&modern_tool(&client, "odd", "pid", json!({})).await).to_owned();
    assert_ne!(first, second);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_calls_of_clients_are_counted() {
    let host = Host::open(vec![server("every", "everything", &[])]).await;
    host.ready().await;
    let client = host.client();
    let session = client.legacy_session("every").await.unwrap();
    assert_eq!(host.supervisor.servers()[0].calls, 0, "probes and handshakes are no calls");
    session.call("tools/list", serde_json::json!({})).await.unwrap();
    assert_eq!(host.supervisor.servers()[0].calls, 1);
    host.stop().await;
}

/// Shows E115.
#[tokio::test(flavor = "multi_thread")]
async fn why_a_server_does_not_start_stands_in_its_log_and_restart_tries_again() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("late");
    let spec = model::ServerSpec::new("late".parse().unwrap(), program.to_str().unwrap(), Vec::new());
    let host = Host::open(vec![spec]).await;
    let log = host.supervisor.log(&"late".parse().unwrap()).unwrap();
    let told = |n: usize| log.tail(50).iter().filter(|l| l.text.contains("there is no program")).count() >= n;
    eventually("the log says why", || told(3)).await;
    eventually("the time of the next try is told", || {
        let report = host.report();
        report.health == Health::Failing && report.reason.is_some_and(|reason| reason.contains("; next start in "))
    })
    .await;
    std::os::unix::fs::symlink(testkit::bin("everything"), &program).unwrap();
    host.supervisor.restart(&"late".parse().unwrap()).await.unwrap();
    host.ready().await;
    host.stop().await;
}

/// A restart lets calls finish; whoever takes one back meanwhile is heard.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_reaches_a_process_that_is_being_replaced() {
    let mut setup = eager();
    setup.supervisor.drain = Duration::from_secs(15);
    let host = Host::with(vec![server("every", "everything", &["--legacy"])], setup).await;
    let client = host.client();
    let session = client.legacy_session("every").await.unwrap();
    let mut call = session.stream(&json!(1), "tools/call", sleep(20_000)).await.unwrap();
    let asked = monotonic();
    assert_eq!(host.supervisor.restart(&name("every")).await.unwrap(), 1);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(session.notify("notifications/cancelled", json!({"requestId": 1})).await.unwrap().status, 202);
    assert_eq!(call.next_message().await.unwrap(), None, "a cancelled request gets no answer");
    assert!(asked.elapsed() < Duration::from_secs(5), "it ended after {:?}", asked.elapsed());
    assert!(tool(&session, "echo", json!({})).await["result"].is_object(), "the next process serves");
    host.stop().await;
}

/// When the host stops, calls have had their time already: it is not given twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_stops_does_not_wait_twice() {
    let mut setup = eager();
    setup.face.drain = Duration::from_millis(500);
    setup.supervisor.drain = Duration::from_secs(15);
    let host = Host::with(vec![server("every", "everything", &["--legacy"])], setup).await;
    let client = host.client();
    let session = client.legacy_session("every").await.unwrap();
    let mut call = session.stream(&json!(1), "tools/call", sleep(20_000)).await.unwrap();
    let asked = monotonic();
    host.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(6), "the stop took {:?}", asked.elapsed());
    let told = call.next_message().await.unwrap().unwrap();
    assert_eq!(reason(&told), "server_ended", "{told}");
}
