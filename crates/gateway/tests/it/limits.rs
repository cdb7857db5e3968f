//! Every bound, reached on purpose: what is over it is refused with a text, and costs nobody else anything.

use crate::host::{Host, Setup, in_mode, memory, modern_tool, name, reason, server, text, tool};
use http::Method;
use model::Mode;
use serde_json::{Value, json};
use staithe_gateway::Auth;
use std::sync::Arc;
use std::time::Duration;
use stdx::clock::monotonic;
use testkit::wait::eventually;
use testkit::{Client, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const PLAIN: [(&str, &str); 2] =
    [("content-type", "application/json"), ("accept", "application/json, text/event-stream")];

async fn every(setup: Setup) -> Host {
    Host::with(vec![server("every", "everything", &["--legacy"])], setup).await
}

/// Everything until the other side closes, or what came within two seconds.
async fn read_all(stream: &mut TcpStream) -> (String, bool) {
    let mut all = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(2), stream.read_to_end(&mut all)).await.is_ok();
    (String::from_utf8_lossy(&all).into_owned(), closed)
}

fn with_header(headers: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    PLAIN.iter().filter(|(name, _)| !headers.iter().any(|(other, _)| name == other)).chain(headers).copied().collect()
}

/// Shows E17, E18, E19, E234, E236.
#[tokio::test(flavor = "multi_thread")]
async fn rejected_requests_keep_nothing() {
    let mut setup = Setup { auth: Auth::Required, ..Setup::default() };
    setup.face.body_bytes = 16 << 10;
    let host = Arc::new(every(setup).await);
    host.ready().await;
    let flood = async |count: usize| {
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let host = host.clone();
                stdx::task::spawn("flood", async move {
                    let client = host.client_of("ann").await;
                    for number in 0..count / 8 {
                        rejected(&client, number).await;
                    }
                    count / 8
                })
            })
            .collect();
        let mut rejected = 0;
        for task in tasks {
            rejected += task.await.unwrap().expect("a request was not rejected as it should be");
        }
        assert_eq!(rejected, count);
    };
    flood(4000).await;
    let (before, _) = memory();
    flood(20_000).await;
    let (after, _) = memory();
    assert!(
        after.saturating_sub(before) < 8 << 20,
        "{} KiB more after 20,000 rejected requests",
        (after - before) >> 10
    );
    assert!(host.supervisor.sessions(None).is_empty());
    assert!(host.supervisor.instances(None).is_empty(), "a rejected request started a process");
    Arc::into_inner(host).unwrap().stop().await;
}

async fn rejected(client: &Client, number: usize) {
    let unknown = format!("unknown{number}");
    let (method, path) = (Method::POST, "/mcp/every");
    let request = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#.to_owned();
    let (status, headers, body) = match number % 8 {
        0 => (401, with_header(&[("authorization", "Bearer st_nonsense")]), request),
        1 => (400, with_header(&[]), "{\"jsonrpc\":".to_owned()),
        2 => (403, with_header(&[("host", "evil.example")]), request),
        3 => (404, vec![PLAIN[0], PLAIN[1], ("mcp-session-id", unknown.as_str())], request),
        4 => (413, with_header(&[]), format!("\"{}\"", "x".repeat(16 << 10))),
        5 => (400, with_header(&[]), format!("{}{}", "[".repeat(100), "]".repeat(100))),
        6 => (403, with_header(&[("origin", "https://evil.example")]), request),
        _ => (400, with_header(&[("mcp-protocol-version", "2026-07-28")]), request),
    };
    match client.request(&method, path, &headers, body).await {
        Ok(response) => assert_eq!(response.status, status, "{}: {:?}", number % 8, response.body),
        // An early 413 may break the connection that still brings the body.
        Err(error) => assert_eq!(status, 413, "{}: {error}", number % 8),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_idle_sessions_are_cheap_and_end() {
    let host = Host::open(vec![in_mode(server("every", "everything", &["--legacy"]), Mode::Shared)]).await;
    host.ready().await;
    let client = host.client();
    let mut warm = Vec::new();
    for _ in 0..200 {
        warm.push(client.legacy_session("every").await.unwrap());
    }
    let (before, _) = memory();
    let mut sessions = Vec::new();
    for _ in 0..2000 {
        sessions.push(client.legacy_session("every").await.unwrap());
    }
    let (after, _) = memory();
    // The test's own half of each session is in the number too.
    let each = after.saturating_sub(before) / 2000;
    assert!(each <= 8 << 10, "{each} bytes for each session");
    assert_eq!(host.supervisor.sessions(None).len(), 2200);
    eventually("one process", || host.processes().len() == 1).await;
    assert!(tool(&sessions[1999], "echo", json!({})).await["result"].is_object());
    for session in sessions.into_iter().chain(warm) {
        assert_eq!(session.close().await.unwrap().status, 200);
    }
    assert!(host.supervisor.sessions(None).is_empty());
    assert_eq!(host.supervisor.instances(None)[0].sessions, 0);
    host.stop().await;
}

/// Shows E16.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_413_however_it_is_announced() {
    let mut setup = Setup::default();
    setup.face.body_bytes = 10_000;
    let host = every(setup).await;
    let head = "POST /mcp/every HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let mut announced = host.connect().await;
    announced.write_all(format!("{head}Content-Length: 10001\r\n\r\n").as_bytes()).await.unwrap();
    let (answer, _) = read_all(&mut announced).await;
    assert!(
        answer.starts_with("HTTP/1.1 413 ") && answer.contains("10000 bytes"),
        "before any of it was sent: {answer}"
    );

    let mut chunked = host.connect().await;
    chunked.write_all(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes()).await.unwrap();
    for _ in 0..6 {
        let chunk = format!("7d0\r\n{}\r\n", "x".repeat(2000));
        chunked.write_all(chunk.as_bytes()).await.unwrap();
    }
    let (answer, _) = read_all(&mut chunked).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let client = host.client();
    let fits = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"p":"{}"}}}}"#, "x".repeat(9900));
    assert!(fits.len() <= 10_000);
    assert_eq!(client.post("/mcp/every", &PLAIN, fits).await.unwrap().status, 400, "it was read and judged");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_headers_is_refused() {
    let host = every(Setup::default()).await;
    let many: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    let large = format!("X-Large: {}\r\n", "y".repeat(200_000));
    for headers in [many, large] {
        let mut stream = host.connect().await;
        let request = format!("POST /mcp/every HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: 0\r\n\r\n");
        // The other side may close before all of it is written.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut status = [0; 12];
        let read = stream.read_exact(&mut status).await;
        assert!(read.is_err() || status.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&status));
    }
    assert!(modern_tool(&host.client(), "every", "echo", json!({})).await["result"].is_object());
    host.stop().await;
}

/// Whoever does not finish a request head, or never begins one, is not waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_head_is_closed() {
    let mut setup = Setup::default();
    setup.face.header_timeout = Duration::from_millis(300);
    setup.face.body_timeout = Duration::from_millis(300);
    let host = every(setup).await;
    let whole =
        "POST /mcp/every HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}";
    let half = "POST /mcp/every HTTP/1.1\r\nHost: localh";
    let no_body =
        "POST /mcp/every HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
    for sent in ["", "P", "PRI * HTTP/2", half, &format!("{whole}{half}"), whole, no_body] {
        let mut stream = host.connect().await;
        let begun = monotonic();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let (answer, closed) = read_all(&mut stream).await;
        assert!(closed, "{sent:?} holds its connection for {:?}; {answer}", begun.elapsed());
    }
    host.stop().await;
}

/// A client that does not read its stream loses notifications, not its neighbours' time.
/// Shows E153.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_delays_nobody_and_costs_bounded_memory() {
    let host = Host::open(vec![in_mode(server("odd", "odd", &["--flood-progress", "60000"]), Mode::Shared)]).await;
    let client = host.client();
    modern_tool(&client, "odd", "pid", json!({})).await;
    let (before, _) = memory();
    let params = json!({"name":"flood","arguments":{},"_meta":{"progressToken":0}});
    let mut unread = Vec::new();
    for _ in 0..3 {
        unread.push(client.modern_stream("odd", "tools/call", params.clone()).await.unwrap());
    }
    let (mut worst, mut most) = (Duration::ZERO, 0);
    let begun = monotonic();
    while begun.elapsed() < Duration::from_millis(1500) {
        let asked = monotonic();
        modern_tool(&client, "odd", "pid", json!({})).await;
        worst = worst.max(asked.elapsed());
        most = most.max(memory().0.saturating_sub(before));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(worst < Duration::from_millis(200), "a neighbour waited {worst:?}");
    // Three queues of 4 MiB, twice for what holds them, and the sockets' buffers on both sides.
    assert!(most < 48 << 20, "{} KiB", most >> 10);
    // Who reads again finds the newest progress and the answer.
    let mut last = Value::Null;
    let mut slow = unread.remove(0);
    while let Some(message) = slow.next_message().await.unwrap() {
        last = message;
    }
    assert_eq!(text(&last), "flooded");
    drop(unread);
    host.stop().await;
}

pub(crate) fn assert_busy(response: &Response, words: &str) {
    assert_eq!(response.status, 503, "{:?}", response.body);
    let seconds: u64 = response.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds));
    let message = response.json().unwrap()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains(words), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_one_principal_are_counted() {
    let mut setup = Setup { auth: Auth::Required, ..Setup::default() };
    setup.face.streams_per_principal = 2;
    let host = every(setup).await;
    let (ann, bob) = (host.client_of("ann").await, host.client_of("bob").await);
    let mut sessions = Vec::new();
    for client in [&ann, &ann, &ann, &bob] {
        sessions.push(client.legacy_session("every").await.unwrap());
    }
    let (first, second) = (sessions[0].listen().await.unwrap(), sessions[1].listen().await.unwrap());
    assert!(first.is_event_stream() && second.is_event_stream());
    assert_busy(&sessions[2].listen().await.unwrap().whole().await.unwrap(), "2 streams");
    assert!(sessions[3].listen().await.unwrap().is_event_stream(), "another principal has streams of its own");
    drop(first);
    let mut opened = false;
    for _ in 0..200 {
        opened = sessions[2].listen().await.unwrap().is_event_stream();
        if opened {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(opened, "a closed stream gives its place back");
    host.stop().await;
}

pub(crate) fn initialize(id: u32) -> String {
    let params = r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}"#;
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"initialize","params":{params}}}"#)
}

/// Shows E128.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_one_principal_are_counted() {
    let mut setup = Setup { auth: Auth::Required, ..Setup::default() };
    setup.supervisor.sessions_per_principal = 2;
    setup.supervisor.sessions = 3;
    let host = every(setup).await;
    let (ann, bob) = (host.client_of("ann").await, host.client_of("bob").await);
    let (first, _second) = (ann.legacy_session("every").await.unwrap(), ann.legacy_session("every").await.unwrap());
    assert_busy(&ann.post("/mcp/every", &PLAIN, initialize(1)).await.unwrap(), "one principal");
    let _third = bob.legacy_session("every").await.unwrap();
    assert_busy(&bob.post("/mcp/every", &PLAIN, initialize(1)).await.unwrap(), "3 sessions");
    first.close().await.unwrap();
    ann.legacy_session("every").await.unwrap();
    assert_eq!(host.supervisor.sessions(None).len(), 3);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_of_one_server_are_counted() {
    let mut setup = Setup::default();
    setup.supervisor.instances_per_server = 1;
    let host = Host::with(vec![in_mode(server("every", "everything", &["--legacy"]), Mode::PerSession)], setup).await;
    let client = host.client();
    let first = client.legacy_session("every").await.unwrap();
    let refused = client.post("/mcp/every", &PLAIN, initialize(1)).await.unwrap();
    assert_busy(&refused, "1 are the limit for one server");
    assert_eq!(reason(&refused.json().unwrap()), "too_many_instances");
    assert_eq!(refused.header("mcp-session-id"), None);
    assert_eq!(host.supervisor.sessions(None).len(), 1, "no session is left of the refused one");
    assert!(tool(&first, "echo", json!({})).await["result"].is_object());
    first.close().await.unwrap();
    eventually("its process is gone", || host.supervisor.instances(None).is_empty()).await;
    client.legacy_session("every").await.unwrap();
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_principal_cannot_take_a_server_from_the_others() {
    let mut setup = Setup { auth: Auth::Required, ..Setup::default() };
    setup.supervisor.instances_per_principal = 2;
    let host = Host::with(vec![server("every", "everything", &["--legacy"])], setup).await;
    let (ann, bob) = (host.client_of("ann").await, host.client_of("bob").await);
    let opening = |n: usize| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"2025-11-25","capabilities":{{"experimental":{{"n{n}":{{}}}}}},"clientInfo":{{"name":"t","version":"1"}}}}}}"#
        )
    };
    for n in 0..2 {
        assert_eq!(ann.post("/mcp/every", &PLAIN, opening(n)).await.unwrap().status, 200);
    }
    assert_busy(&ann.post("/mcp/every", &PLAIN, opening(2)).await.unwrap(), "2 are the limit for one principal");
    assert_eq!(bob.post("/mcp/every", &PLAIN, opening(0)).await.unwrap().status, 200);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_the_limit_wait_for_a_place() {
    let mut setup = Setup::default();
    setup.face.connections = 3;
    let host = every(setup).await;
    let request =
        "POST /mcp/every HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}";
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = host.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        assert!(stream.read(&mut [0; 16]).await.unwrap() > 0);
        held.push(stream);
    }
    let mut waiting = host.connect().await;
    waiting.write_all(request.as_bytes()).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(200), waiting.read(&mut [0; 1])).await;
    assert!(early.is_err(), "a fourth connection was served");
    held.pop();
    let served = tokio::time::timeout(Duration::from_secs(2), waiting.read(&mut [0; 16])).await.unwrap().unwrap();
    assert!(served > 0);
    drop((held, waiting));
    host.stop().await;
}

/// Shows E120, E128.
#[tokio::test(flavor = "multi_thread")]
async fn idle_sessions_expire_unless_somebody_listens() {
    let mut setup = Setup::default();
    setup.supervisor.session_idle = Duration::from_millis(300);
    let host = every(setup).await;
    let client = host.client();
    let (forgotten, heard) =
        (client.legacy_session("every").await.unwrap(), client.legacy_session("every").await.unwrap());
    let stream = heard.listen().await.unwrap();
    eventually("one is left", || host.supervisor.sessions(None).len() == 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(tool(&heard, "echo", json!({})).await["result"].is_object(), "whoever listens is there");
    let gone = forgotten.post(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).await.unwrap();
    assert_eq!(gone.status, 404);
    drop(stream);
    eventually("none is left", || host.supervisor.sessions(None).is_empty()).await;
    host.stop().await;
}

/// A process that nobody uses is stopped; an open session is a use.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_process_is_stopped_and_comes_back() {
    let mut setup = Setup::default();
    setup.supervisor.idle_ttl = Duration::from_millis(200);
    let host = Host::with(
        vec![server("every", "everything", &["--legacy"]), server("kept", "everything", &["--legacy"])],
        setup,
    )
    .await;
    let client = host.client();
    let session = client.legacy_session("kept").await.unwrap();
    let pid = async |session: &testkit::Session<'_>| {
        tool(session, "counter", json!({})).await["result"]["structuredContent"]["pid"].clone()
    };
    let kept = pid(&session).await;
    let first = modern_tool(&client, "every", "counter", json!({})).await;
    eventually("the idle one is stopped", || host.supervisor.instances(Some(&name("every"))).is_empty()).await;
    eventually("only the kept one runs", || host.processes().len() == 1).await;
    let second = modern_tool(&client, "every", "counter", json!({})).await;
    let of = |answer: &Value| answer["result"]["structuredContent"].clone();
    assert_eq!((&of(&first)["count"], &of(&second)["count"]), (&json!(1), &json!(1)), "a new process begins anew");
    assert_ne!(of(&first)["pid"], of(&second)["pid"]);
    assert_eq!(kept, pid(&session).await);
    host.stop().await;
}

/// Shows E29, E30, E72, E75.
#[tokio::test(flavor = "multi_thread")]
async fn a_get_stream_is_kept_awake_and_replaced_by_the_next() {
    let mut setup = Setup::default();
    setup.face.keep_alive = Duration::from_millis(100);
    let host = every(setup).await;
    let client = host.client();
    let session = client.legacy_session_at("every", "2025-06-18").await.unwrap();
    let mut first = session.listen().await.unwrap();
    assert_eq!(first.headers["x-accel-buffering"], "no");
    let silent = tokio::time::timeout(Duration::from_millis(50), first.next()).await;
    assert!(silent.is_err() && first.comments() == 1, "a comment at once: {}", first.comments());
    let silent = tokio::time::timeout(Duration::from_millis(450), first.next()).await;
    assert!(silent.is_err() && (3..=6).contains(&first.comments()), "and then regularly: {}", first.comments());

    let mut second = session.listen().await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(2), first.next()).await.unwrap().unwrap();
    assert_eq!(ended, None, "the first stream ends");
    tool(&session, "test_trigger_tool_change", json!({})).await;
    let told = second.next_message().await.unwrap().unwrap();
    assert_eq!(told["method"], "notifications/tools/list_changed");
    session.close().await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(2), second.next()).await.unwrap().unwrap();
    assert_eq!(ended, None, "a stream ends with its session");
    host.stop().await;
}

/// Shows E17, E18, E19, E22, E27, E28, E72, E119, E120, E121.
#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_its_status_and_a_json_rpc_error() {
    let host = every(Setup::default()).await;
    let client = host.client();
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let foreign = [("origin", "https://evil.example")];
    for (status, method, path, headers) in [
        (403, Method::POST, "/mcp/every", with_header(&[("host", "evil.example")])),
        (403, Method::POST, "/mcp/every", with_header(&[("host", "localhost.evil.example:8420")])),
        (403, Method::POST, "/mcp/every", with_header(&foreign)),
        (403, Method::POST, "/mcp/every", with_header(&[("origin", "null")])),
        (403, Method::GET, "/mcp/every", with_header(&foreign)),
        (403, Method::DELETE, "/mcp/every", with_header(&foreign)),
        (403, Method::OPTIONS, "/mcp/every", with_header(&foreign)),
        (403, Method::GET, "/", with_header(&foreign)),
        (404, Method::GET, "/", with_header(&[])),
        (404, Method::POST, "/mcp", with_header(&[])),
        (404, Method::POST, "/mcp/", with_header(&[])),
        (404, Method::POST, "/mcp/every/", with_header(&[])),
        (404, Method::POST, "/mcp/..%2fevery", with_header(&[])),
        (404, Method::POST, "/mcp/unknown", with_header(&[])),
        (404, Method::GET, "/mcp/every", with_header(&[("mcp-session-id", "unknown")])),
        (404, Method::DELETE, "/mcp/every", with_header(&[("mcp-session-id", "unknown")])),
        (404, Method::POST, "/mcp/every", with_header(&[("mcp-session-id", "unknown")])),
        (405, Method::PUT, "/mcp/every", with_header(&[])),
        (405, Method::PATCH, "/mcp/every", with_header(&[])),
        (405, Method::GET, "/mcp/every", with_header(&[])),
        (405, Method::DELETE, "/mcp/every", with_header(&[])),
        (406, Method::POST, "/mcp/every", with_header(&[("accept", "text/html")])),
        (415, Method::POST, "/mcp/every", with_header(&[("content-type", "text/plain")])),
        (415, Method::POST, "/mcp/every", with_header(&[("content-type", "application/json-patch+json")])),
        (400, Method::POST, "/mcp/every", with_header(&[])),
        (400, Method::POST, "/mcp/every", vec![PLAIN[0], ("mcp-session-id", "a"), ("mcp-session-id", "b")]),
        (400, Method::POST, "/mcp/every", vec![PLAIN[0], ("host", "localhost"), ("host", "evil.example")]),
        (
            400,
            Method::POST,
            "/mcp/every",
            vec![PLAIN[0], ("origin", "http://localhost"), ("origin", "http://localhost")],
        ),
        (
            400,
            Method::POST,
            "/mcp/every",
            vec![PLAIN[0], ("mcp-protocol-version", "2025-11-25"), ("mcp-protocol-version", "2026-07-28")],
        ),
    ] {
        let response = client.request(&method, path, &headers, call).await.unwrap();
        let answer = response.json().unwrap();
        assert_eq!(response.status, status, "{method} {path} {headers:?}: {answer}");
        assert_eq!(answer["jsonrpc"], "2.0", "{method} {path} {headers:?}: {answer}");
        assert!(answer["error"]["code"].is_i64() && answer["error"]["message"].as_str().is_some_and(|m| m.len() > 10));
        assert_eq!(response.header("content-type"), Some("application/json"), "{method} {path} {headers:?}");
        assert_eq!(response.header("allow").is_some(), status == 405, "{method} {path} {headers:?}");
        assert_eq!(response.header("access-control-allow-origin"), None, "{method} {path} {headers:?}");
    }
    let session = client.legacy_session("every").await.unwrap();
    let id = session.id.clone().unwrap();
    let no_events = [("mcp-session-id", id.as_str()), ("accept", "application/json")];
    assert_eq!(client.get("/mcp/every", &no_events).await.unwrap().status, 406);
    host.stop().await;
}

/// Neither a subscription nor somebody who has asked nothing is a call in flight.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_calls_alone() {
    let host = Host::open(vec![server("every", "everything", &["--modern"])]).await;
    host.ready().await;
    let client = host.client();
    let wanted = json!({"notifications": {"toolsListChanged": true}});
    let mut stream = client.modern_stream("every", "subscriptions/listen", wanted).await.unwrap();
    let first = stream.next_message().await.unwrap().unwrap();
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged", "{first}");
    let (_silent, mut half, mut second) = (host.connect().await, host.connect().await, host.connect().await);
    half.write_all(b"POST /mcp/every HT").await.unwrap();
    second.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let asked = monotonic();
    host.stop().await;
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(4), "the stop took {took:?}");
    let end = stream.next_message().await.unwrap().unwrap();
    assert_eq!(end["result"]["resultType"], "complete", "E158: {end}");
    assert_eq!(stream.next().await.unwrap(), None, "the subscription ends, without an error");
}
