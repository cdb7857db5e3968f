//! Hosted servers that run elsewhere: Streamable HTTP of either era and HTTP+SSE, for clients of both eras, and remote
//! servers that are broken, slow or hostile.

use crate::host::{Host, Setup, in_mode, modern_tool, name, reason, server, text, tool};
use model::report::Health;
use model::{EraPin, Mode, Remote, ServerSpec, Verdict};
use serde_json::{Value, json};
use staithe_gateway::Auth;
use std::path::{Path, PathBuf};
use std::time::Duration;
use testkit::wait::eventually;
use testkit::{Kind, Odd, Upstream};

const KINDS: [Kind; 3] = [Kind::Sessions, Kind::Modern, Kind::Sse];

async fn upstream(kind: Kind) -> Upstream {
    Upstream::start(kind, Odd::default()).await.unwrap()
}

fn far(url: &str) -> ServerSpec {
    ServerSpec::remote(name("far"), Remote::new(url.parse().unwrap(), None, false).unwrap())
}

fn with_headers(url: &str, file: &Path) -> ServerSpec {
    let remote = Remote::new(url.parse().unwrap(), Some(file.to_str().unwrap().to_owned()), false).unwrap();
    ServerSpec::remote(name("far"), remote)
}

fn secret(dir: &tempfile::TempDir, text: &str) -> PathBuf {
    let path = dir.path().join("far.headers");
    stdx::durable::write_file(&path, text.as_bytes(), 0o600).unwrap();
    path
}

async fn until_failing(host: &Host, why: &str) {
    eventually(why, || host.report().reason.is_some_and(|reason| reason.contains(why))).await;
}

/// Each kind of remote server, for a client of each era: lists, calls, progress, resources, prompts, completion, errors.
/// (E26, E102, B32, B35)
#[tokio::test(flavor = "multi_thread")]
async fn e26_a_remote_server_of_each_kind_serves_clients_of_both_eras() {
    for kind in KINDS {
        let upstream = upstream(kind).await;
        let host = Host::open(vec![far(&upstream.url)]).await;
        let client = host.client();
        let session = client.legacy_session("far").await.unwrap();
        assert_eq!(session.initialized["serverInfo"]["name"], "everything", "{kind:?}");
        let echoed = tool(&session, "echo", json!({"a":1.10})).await;
        assert_eq!(echoed["result"]["structuredContent"], json!({"a":1.10}), "{kind:?}");
        let echoed = modern_tool(&client, "far", "echo", json!({"b":2})).await;
        assert_eq!(echoed["result"]["structuredContent"], json!({"b":2}), "{kind:?}");
        for (method, params, member) in [
            ("tools/list", json!({}), "tools"),
            ("resources/list", json!({}), "resources"),
            ("resources/read", json!({"uri":"test://static-text"}), "contents"),
            ("prompts/list", json!({}), "prompts"),
            ("prompts/get", json!({"name":"test_simple_prompt"}), "messages"),
        ] {
            let old = session.call(method, params.clone()).await.unwrap();
            assert!(old["result"][member].is_array(), "{kind:?} {method}: {old}");
            let (status, new) = client.modern_call("far", method, params).await.unwrap();
            assert!(status == 200 && new["result"][member].is_array(), "{kind:?} {method}: {new}");
        }
        let missing = session.call("resources/read", json!({"uri":"test://none"})).await.unwrap();
        assert!(missing["error"]["message"].as_str().unwrap().contains("not found"), "{kind:?}: {missing}");
        let report = host.report();
        assert_eq!((report.health, report.restarts, report.junk_lines), (Health::Ready, 0, 0), "{kind:?}");
        let expected = if kind == Kind::Modern { Verdict::Modern } else { Verdict::Legacy };
        assert_eq!(report.verdict, Some(expected), "{kind:?}");
        host.stop().await;
    }
}

/// Notifications reach the call that they belong to, in both directions of the era bridge. (E26)
#[tokio::test(flavor = "multi_thread")]
async fn progress_of_a_remote_call_reaches_its_caller() {
    for kind in KINDS {
        let upstream = upstream(kind).await;
        let host = Host::open(vec![far(&upstream.url)]).await;
        let client = host.client();
        let session = client.legacy_session("far").await.unwrap();
        let params = json!({"name":"sleep","arguments":{"ms":60},"_meta":{"progressToken":"mine"}});
        let mut stream = session.stream(&json!(77), "tools/call", params.clone()).await.unwrap();
        let mut notes = 0;
        while let Some(message) = stream.next_message().await.unwrap() {
            if message["method"] == "notifications/progress" {
                assert_eq!(message["params"]["progressToken"], "mine");
                notes += 1;
            }
        }
        assert!(notes > 2, "{kind:?}: {notes}");
        let mut stream = client.modern_stream("far", "tools/call", params).await.unwrap();
        let mut notes = 0;
        while let Some(message) = stream.next_message().await.unwrap() {
            notes += usize::from(message["params"]["progressToken"] == "mine");
        }
        assert!(notes > 2, "{kind:?}: {notes}");
        host.stop().await;
    }
}

/// A question of a remote server reaches the client, and the client's answer the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_remote_server_can_ask_a_legacy_client() {
    for kind in [Kind::Sessions, Kind::Sse] {
        let upstream = upstream(kind).await;
        let host = Host::open(vec![far(&upstream.url)]).await;
        let client = host.client().with_capabilities(json!({"sampling":{}}));
        let session = client.legacy_session("far").await.unwrap();
        let params = json!({"name":"test_sampling","arguments":{"prompt":"hi"}});
        let mut stream = session.stream(&json!(5), "tools/call", params).await.unwrap();
        let ask = stream.next_message().await.unwrap().unwrap();
        assert_eq!(ask["method"], "sampling/createMessage", "{kind:?}: {ask}");
        let said = json!({"role":"assistant","content":{"type":"text","text":"ahoy"},"model":"m"});
        let answer = json!({"jsonrpc":"2.0","id":ask["id"],"result":said});
        assert_eq!(session.post(answer.to_string()).await.unwrap().status, 202);
        let mut last = Value::Null;
        while let Some(message) = stream.next_message().await.unwrap() {
            last = message;
        }
        assert!(last.to_string().contains("ahoy"), "{kind:?}: {last}");
        host.stop().await;
    }
}

/// The session belongs to staithe and no client sees its id; the id and the negotiated revision are on every later request,
/// and it is ended. (E102, E126,
/// E127, B35)
#[tokio::test(flavor = "multi_thread")]
async fn e102_e127_the_upstream_session_is_ours_and_is_ended() {
    let upstream = upstream(Kind::Sessions).await;
    let host = Host::open(vec![far(&upstream.url)]).await;
    let client = host.client();
    let session = client.legacy_session("far").await.unwrap();
    tool(&session, "echo", json!({})).await;
    let seen = upstream.seen();
    let opening = seen.iter().rfind(|seen| seen.body["method"] == "initialize").unwrap();
    assert_eq!((opening.header("mcp-session-id"), opening.header("mcp-protocol-version")), (None, None));
    assert_eq!(opening.header("accept"), Some("application/json, text/event-stream"));
    let call = &upstream.calls("tools/call")[0];
    assert_eq!(call.header("mcp-protocol-version"), Some("2025-11-25"));
    let inner = call.header("mcp-session-id").unwrap();
    assert_ne!(Some(inner), session.id.as_deref());
    // The one session of a probe is over; the one that serves is open.
    assert_eq!(upstream.sessions(), 1);
    host.stop().await;
    assert_eq!(upstream.sessions(), 0);
    assert!(upstream.seen().iter().any(|seen| seen.verb == http::Method::DELETE));
}

/// A remote server that forgot its session: the call fails, the next one meets a new session. (E127)
#[tokio::test(flavor = "multi_thread")]
async fn e127_a_lost_session_is_replaced() {
    let upstream = upstream(Kind::Sessions).await;
    let host = Host::open(vec![far(&upstream.url)]).await;
    let client = host.client();
    let session = client.legacy_session("far").await.unwrap();
    tool(&session, "echo", json!({})).await;
    upstream.forget();
    let lost = tool(&session, "counter", json!({})).await;
    assert!(matches!(reason(&lost), "server_unreachable" | "server_ended"), "{lost}");
    let answer = tool(&session, "counter", json!({})).await;
    assert!(answer["result"].is_object(), "{answer}");
    host.stop().await;
}

/// A stream that breaks is resumed where it broke, and the request is not sent again. (E130, E76)
#[tokio::test(flavor = "multi_thread")]
async fn e130_a_broken_stream_is_resumed() {
    for break_after in [0, 1, 4] {
        let upstream =
            Upstream::start(Kind::Sessions, Odd { break_after: Some(break_after), ..Odd::default() }).await.unwrap();
        let host = Host::open(vec![far(&upstream.url)]).await;
        let client = host.client();
        let session = client.legacy_session("far").await.unwrap();
        let params = json!({"name":"sleep","arguments":{"ms":50},"_meta":{"progressToken":1}});
        let mut stream = session.stream(&json!(9), "tools/call", params).await.unwrap();
        assert!(stream.is_event_stream(), "{break_after}");
        let (mut notes, mut last) = (Vec::new(), Value::Null);
        while let Some(message) = stream.next_message().await.unwrap() {
            notes.extend(message["params"]["progress"].as_f64());
            last = message;
        }
        assert_eq!(text(&last), "slept 50 ms", "{break_after}");
        assert_eq!(notes.len(), 10, "{break_after}: nothing is lost and nothing comes twice: {notes:?}");
        assert_eq!(upstream.calls("tools/call").len(), 1);
        assert!(upstream.seen().iter().any(|seen| seen.header("last-event-id").is_some()));
        host.stop().await;
    }
}

/// A call whose connection broke may have been carried out: it is never sent twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_broke_is_not_sent_again() {
    let odd = Odd { break_after: Some(0), no_get: true, ..Odd::default() };
    let upstream = Upstream::start(Kind::Sessions, odd).await.unwrap();
    let host = Host::open(vec![far(&upstream.url)]).await;
    let client = host.client();
    let session = client.legacy_session("far").await.unwrap();
    let lost = tool(&session, "echo", json!({})).await;
    assert_eq!(reason(&lost), "server_unreachable", "{lost}");
    assert_eq!(upstream.calls("tools/call").len(), 1);
    upstream.set(|odd| odd.break_after = None);
    assert!(tool(&session, "echo", json!({})).await["result"].is_object(), "the instance lives on");
    assert_eq!(host.report().restarts, 0);
    host.stop().await;
}

/// Headers of a modern request are computed from its body, for clients of both eras. (E56, E59, B32)
#[tokio::test(flavor = "multi_thread")]
async fn e59_mirrored_headers_come_from_the_body() {
    let upstream = upstream(Kind::Modern).await;
    let host = Host::open(vec![far(&upstream.url)]).await;
    let client = host.client();
    let session = client.legacy_session("far").await.unwrap();
    let done = tool(&session, "test_header_param", json!({"region":"Köln"})).await;
    assert!(done["result"].is_object(), "{done}");
    let call = upstream.calls("tools/call").pop().unwrap();
    assert_eq!(call.header("mcp-method"), Some("tools/call"));
    assert_eq!(call.header("mcp-name"), Some("test_header_param"));
    assert_eq!(call.header("mcp-param-region"), Some("=?base64?S8O2bG4=?="));
    assert_eq!(call.header("mcp-protocol-version"), Some("2026-07-28"));
    assert_eq!(call.header("mcp-session-id"), None);
    // What a client says in headers that nobody asked for stays with us.
    let params = json!({"name":"echo","arguments":{}});
    let (status, _) = client.modern_call_with("far", "tools/call", params, &[("mcp-param-stray", "x")]).await.unwrap();
    assert_eq!(status, 200);
    assert_eq!(upstream.calls("tools/call").pop().unwrap().header("mcp-param-stray"), None);
    host.stop().await;
}

/// A tool whose annotation is invalid is not shown, and the operator hears why. (E60)
#[tokio::test(flavor = "multi_thread")]
async fn e60_a_tool_that_may_not_be_used_over_http_is_left_out() {
    for json_answers in [false, true] {
        let upstream =
            Upstream::start(Kind::Modern, Odd { bad_tool: true, json: json_answers, ..Odd::default() }).await.unwrap();
        let host = Host::open(vec![far(&upstream.url)]).await;
        let client = host.client();
        let (_, list) = client.modern_call("far", "tools/list", json!({})).await.unwrap();
        let names: Vec<&str> =
            list["result"]["tools"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
        assert!(names.contains(&"echo") && !names.contains(&"test_header_param"), "{names:?}");
        let log = host.supervisor.log(&name("far")).unwrap();
        eventually("the log says why", || {
            log.tail(50).iter().any(|line| line.text.contains("left out") && line.text.contains("test_header_param"))
        })
        .await;
        host.stop().await;
    }
}

/// The server wants a header that its list did not announce when we read it: the list is read again, the call, which was
/// refused, is sent once more. (E62)
#[tokio::test(flavor = "multi_thread")]
async fn e62_a_missing_header_is_looked_up_and_the_call_sent_once_more() {
    let upstream = Upstream::start(Kind::Modern, Odd { bad_tool: true, ..Odd::default() }).await.unwrap();
    let host = Host::open(vec![far(&upstream.url)]).await;
    let client = host.client();
    modern_tool(&client, "far", "echo", json!({})).await;
    upstream.set(|odd| odd.bad_tool = false);
    let before = upstream.calls("tools/call").len();
    let session = client.legacy_session("far").await.unwrap();
    let done = tool(&session, "test_header_param", json!({"region":"west"})).await;
    assert!(done["result"].is_object(), "{done}");
    assert_eq!(upstream.calls("tools/call").len(), before + 2);
    host.stop().await;
}

/// A modern remote server hears of a cancellation by the end of the connection, a legacy one by a notification. (E136)
#[tokio::test(flavor = "multi_thread")]
async fn e136_a_call_that_is_given_up_is_called_off_upstream() {
    for kind in KINDS {
        let upstream = upstream(kind).await;
        let host = Host::open(vec![far(&upstream.url)]).await;
        let client = host.client();
        let params = json!({"name":"sleep","arguments":{"ms":20_000},"_meta":{"progressToken":1}});
        let mut stream = client.modern_stream("far", "tools/call", params).await.unwrap();
        stream.next_message().await.unwrap().unwrap();
        drop(stream);
        let mut hit = false;
        for _ in 0..200 {
            let answer = modern_tool(&client, "far", "cancellations", json!({})).await;
            hit = answer["result"].to_string().contains('1');
            if hit {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(hit, "{kind:?}");
        host.stop().await;
    }
}

/// Some failures say nothing about the era: no verdict is made of them, and the server is asked again. (E97–E100)
#[tokio::test(flavor = "multi_thread")]
async fn e100_trouble_is_no_verdict() {
    for status in [401, 403, 407, 429, 500, 503] {
        let upstream = Upstream::start(Kind::Modern, Odd { status: Some(status), ..Odd::default() }).await.unwrap();
        let host = Host::open(vec![far(&upstream.url)]).await;
        until_failing(&host, &format!("HTTP {status}")).await;
        assert_eq!(host.report().verdict, None, "{status}");
        upstream.set(|odd| odd.status = None);
        host.supervisor.restart(&name("far")).await.unwrap();
        host.ready().await;
        eventually("it is judged by its answer", || host.report().verdict == Some(Verdict::Modern)).await;
        host.stop().await;
    }
}

/// Nobody listens, and nobody is found by that name: each is said as it is. (E100)
#[tokio::test(flavor = "multi_thread")]
async fn e100_a_server_that_is_not_there_is_named() {
    for (url, why) in [("http://127.0.0.1:1/mcp", "refused"), ("https://no-such-host.invalid/mcp", "no connection to")]
    {
        let host = Host::open(vec![far(url)]).await;
        until_failing(&host, why).await;
        let answer = host.client().modern_call("far", "tools/list", json!({})).await.unwrap().1;
        assert_eq!(reason(&answer), "server_failing", "{answer}");
        host.stop().await;
    }
}

/// A 404 page to the modern probe and to `initialize` means HTTP+SSE, if a GET says so; a pin saves the questions. (E99)
#[tokio::test(flavor = "multi_thread")]
async fn e99_http_sse_is_found_out_or_pinned() {
    for era in [EraPin::Auto, EraPin::Sse, EraPin::Legacy] {
        let upstream = upstream(Kind::Sse).await;
        let host = Host::open(vec![ServerSpec { era, ..far(&upstream.url) }]).await;
        let answer = modern_tool(&host.client(), "far", "counter", json!({})).await;
        assert!(answer["result"].is_object());
        let probes = upstream.calls("server/discover").len();
        assert_eq!(probes, usize::from(era == EraPin::Auto), "{era}");
        host.stop().await;
        eventually("the stream was closed", || upstream.sessions() == 0).await;
    }
}

/// The `endpoint` event decides where credentials go: another origin is refused.
#[tokio::test(flavor = "multi_thread")]
async fn e83_an_endpoint_of_another_origin_is_refused() {
    let trap = upstream(Kind::Sessions).await;
    let odd = Odd { endpoint: Some(trap.url.clone()), ..Odd::default() };
    let upstream = Upstream::start(Kind::Sse, odd).await.unwrap();
    let host = Host::open(vec![ServerSpec { era: EraPin::Sse, ..far(&upstream.url) }]).await;
    until_failing(&host, "another origin").await;
    assert!(trap.seen().is_empty());
    host.stop().await;
}

/// Redirects are followed within the origin, with the method and the body; credentials never leave it.
#[tokio::test(flavor = "multi_thread")]
async fn redirects_stay_within_the_origin() {
    let dir = tempfile::tempdir().unwrap();
    let file = secret(&dir, "Authorization: Bearer hunter2-canary\n");
    for status in [307, 308] {
        let upstream =
            Upstream::start(Kind::Modern, Odd { redirect: Some((status, "/other".to_owned())), ..Odd::default() });
        let upstream = upstream.await.unwrap();
        let host = Host::open(vec![with_headers(&upstream.url, &file)]).await;
        modern_tool(&host.client(), "far", "echo", json!({})).await;
        assert!(upstream.seen().iter().all(|seen| seen.header("authorization") == Some("Bearer hunter2-canary")));
        host.stop().await;
    }
    let trap = upstream(Kind::Modern).await;
    for (status, to, why) in [
        (307, trap.url.as_str(), "within one origin only"),
        (308, "https://127.0.0.1/x", "within one origin only"),
        (302, "/other", "would lose"),
        (307, "/mcp", "redirected 4 times"),
        (307, "ftp://x/", "`Location`"),
    ] {
        let odd = Odd { redirect: Some((status, to.to_owned())), ..Odd::default() };
        let upstream = Upstream::start(Kind::Modern, odd).await.unwrap();
        let host = Host::open(vec![with_headers(&upstream.url, &file)]).await;
        until_failing(&host, why).await;
        host.stop().await;
    }
    assert!(trap.seen().is_empty(), "credentials or bodies left the origin");
}

/// Credentials are sent, and shown nowhere; a new secret is taken when the old one is refused.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_sent_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = secret(&dir, "X-Key: hunter2-old\n");
    let odd = Odd { wants: Some(("x-key", "hunter2-old".to_owned())), ..Odd::default() };
    let upstream = Upstream::start(Kind::Sessions, odd).await.unwrap();
    let url = format!("{}?key=hunter2-query", upstream.url);
    let host = Host::open(vec![with_headers(&url, &file)]).await;
    let client = host.client();
    let session = client.legacy_session("far").await.unwrap();
    assert!(tool(&session, "echo", json!({})).await["result"].is_object());
    upstream.set(|odd| odd.wants = Some(("x-key", "hunter2-new".to_owned())));
    let refused = tool(&session, "echo", json!({})).await;
    assert!(refused["error"]["message"].as_str().unwrap().contains("HTTP 401"), "{refused}");
    secret(&dir, "X-Key: hunter2-new\n");
    host.supervisor.restart(&name("far")).await.unwrap();
    let answer = tool(&session, "echo", json!({})).await;
    assert!(answer["result"].is_object(), "{answer}");
    let shown = format!("{refused} {:?} {:?}", host.report(), host.supervisor.instances(None));
    let log = host.supervisor.log(&name("far")).unwrap().tail(1000);
    let stored = host.store.servers().await.unwrap();
    assert!(!format!("{shown} {log:?} {stored:?}").contains("hunter2"), "{shown}");
    host.stop().await;
}

/// A file that others can read is refused by name, and mended without a restart of the host.
#[tokio::test(flavor = "multi_thread")]
async fn a_headers_file_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("far.headers");
    stdx::durable::write_file(&file, b"X-Key: hunter2", 0o644).unwrap();
    let upstream = upstream(Kind::Modern).await;
    let host = Host::open(vec![with_headers(&upstream.url, &file)]).await;
    until_failing(&host, "chmod 600").await;
    assert!(upstream.seen().is_empty());
    secret(&dir, "X-Key: hunter2");
    host.supervisor.restart(&name("far")).await.unwrap();
    host.ready().await;
    host.stop().await;
}

/// Remote servers that answer nonsense cost their own callers an error, and nobody else anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_remote_server_hurts_nobody_else() {
    let good = upstream(Kind::Modern).await;
    let giant = format!("data: {}\n\n", "x".repeat(3 << 20));
    let lines = "data: x\n".repeat(400_000);
    let foreign = "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":\"$ID\",\"result\":{}}\n\n";
    let bodies: Vec<Odd> = [
        ("text/event-stream", giant),
        ("text/event-stream", lines),
        ("text/event-stream", foreign.to_owned()),
        ("text/event-stream", "data: {}\n\ndata: [\n\n: x\n\nevent: other\ndata: {}\n\n".to_owned()),
        ("text/html", "<h1>hello</h1>".to_owned()),
        ("application/json", "{\"jsonrpc\":\"2.0\",\"id\":$ID".to_owned()),
        ("application/json", "x".repeat(3 << 20)),
        ("application/json", String::new()),
    ]
    .into_iter()
    .map(|body| Odd { body: Some(body), ..Odd::default() })
    .collect();
    for (at, odd) in bodies.into_iter().enumerate() {
        for kind in [Kind::Modern, Kind::Sessions] {
            let bad = Upstream::start(kind, odd.clone()).await.unwrap();
            let mut near = far(&good.url);
            near.name = name("near");
            let limits = supervisor::Limits { line_bytes: 2 << 20, ..Setup::default().supervisor };
            let host = Host::with(vec![far(&bad.url), near], Setup { supervisor: limits, ..Setup::default() }).await;
            let client = host.client();
            let (_, answer) =
                client.modern_call("far", "tools/call", json!({"name":"echo","arguments":{}})).await.unwrap();
            assert!(matches!(reason(&answer), "server_unreachable" | "invalid_answer"), "{at} {kind:?}: {answer}");
            modern_tool(&client, "near", "echo", json!({})).await;
            bad.set(|odd| odd.body = None);
            modern_tool(&client, "far", "echo", json!({})).await;
            host.stop().await;
        }
    }
}

/// A stream that never ends costs its call its time, and the host no memory.
#[tokio::test(flavor = "multi_thread")]
async fn an_endless_remote_stream_ends_with_its_call() {
    for (content_type, piece) in [
        ("text/event-stream", ": on and on\n"),
        ("text/event-stream", ": on"),
        (
            "text/event-stream",
            "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":\"x\"}}\n\n",
        ),
        ("text/event-stream", "id: 1\n\n"),
    ] {
        let odd = Odd { endless: Some((content_type, piece)), ..Odd::default() };
        let upstream = Upstream::start(Kind::Modern, odd).await.unwrap();
        let face =
            staithe_gateway::Limits { call_timeout: Duration::from_millis(400), ..staithe_gateway::Limits::default() };
        let host = Host::with(vec![far(&upstream.url)], Setup { face, ..Setup::default() }).await;
        host.ready().await;
        let client = host.client();
        let (before, _) = crate::host::memory();
        let (_, answer) = client.modern_call("far", "tools/call", json!({"name":"echo","arguments":{}})).await.unwrap();
        assert_eq!(reason(&answer), "deadline", "{piece:?}: {answer}");
        let (after, _) = crate::host::memory();
        assert!(after < before + (64 << 20), "{before} {after}");
        upstream.set(|odd| odd.endless = None);
        modern_tool(&client, "far", "echo", json!({})).await;
        host.stop().await;
    }
}

/// Two principals have two sessions at the remote server, a shared server has one for both. (B35)
#[tokio::test(flavor = "multi_thread")]
async fn each_isolation_key_has_a_session_of_its_own() {
    let upstream = upstream(Kind::Sessions).await;
    let mut shared = in_mode(far(&upstream.url), Mode::Shared);
    shared.name = name("shared");
    let setup = Setup { auth: Auth::Required, ..Setup::default() };
    let host = Host::with(vec![far(&upstream.url), shared], setup).await;
    host.ready().await;
    let mut counts = Vec::new();
    for who in ["ann", "bob"] {
        let client = host.client_of(who).await;
        for server in ["far", "shared"] {
            let answer = modern_tool(&client, server, "counter", json!({})).await;
            let said: Value = serde_json::from_str(text(&answer)).unwrap();
            counts.push(said["count"].as_u64().unwrap());
        }
    }
    assert_eq!(counts[0], counts[2], "each principal's own counter begins anew: {counts:?}");
    assert_ne!(counts[1], counts[3], "the shared one goes on: {counts:?}");
    assert_eq!(upstream.sessions(), 3);
    host.stop().await;
    assert_eq!(upstream.sessions(), 0);
}

/// A hosted remote server may be another staithe, with a token, for servers of both eras.
#[tokio::test(flavor = "multi_thread")]
async fn staithe_in_front_of_staithe() {
    for flag in ["--legacy", "--modern", "--dual"] {
        let setup = Setup { auth: Auth::Required, ..Setup::default() };
        let inner = Host::with(vec![server("every", "everything", &[flag])], setup).await;
        let token = inner.authority.mint("outer".parse().unwrap(), None, None).await.ok().unwrap().token.into_exposed();
        let dir = tempfile::tempdir().unwrap();
        let file = secret(&dir, &format!("Authorization: Bearer {token}\n"));
        let outer = Host::open(vec![with_headers(&format!("{}/mcp/every", inner.url), &file)]).await;
        let client = outer.client();
        let session = client.legacy_session("far").await.unwrap();
        let echoed = tool(&session, "echo", json!({"n":12_345_678_901_234_567_890_u64})).await;
        assert_eq!(echoed["result"]["structuredContent"]["n"], json!(12_345_678_901_234_567_890_u64), "{flag}");
        let answer = modern_tool(&client, "far", "sleep", json!({"ms":5})).await;
        assert_eq!(text(&answer), "slept 5 ms", "{flag}");
        outer.stop().await;
        inner.stop().await;
    }
}
