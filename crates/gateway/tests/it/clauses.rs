//! Requirements of the protocol that belong to no feature: what any request meets at the public face, and what a server
//! reads on its stdin.

use crate::host::{Host, Setup, in_mode, modern_tool, reason, server, text, tool};
use model::{EraPin, Mode, ServerSpec};
use serde_json::{Value, json};
use staithe_gateway::Auth;
use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;
use testkit::Client;
use testkit::wait::eventually;

/// `everything` behind a shell that writes all that it reads into a file of its own in `record`, after a pause.
fn recorded(name: &str, flag: &str, record: &Path, pause: &str) -> ServerSpec {
    let script =
        format!("sleep {pause}; tee {}/$$ | {} {flag}", record.display(), testkit::bin("everything").display());
    shell(name, flag, script)
}

/// A shell script as a server, spoken to in one era without a probe.
fn shell(name: &str, flag: &str, script: String) -> ServerSpec {
    let mut spec = ServerSpec::new(name.parse().unwrap(), "sh", vec!["-c".to_owned(), script]);
    spec.era = if flag == "--legacy" { EraPin::Legacy } else { EraPin::Modern };
    spec
}

/// What each process read, in a directory of records.
fn processes(record: &Path) -> Vec<Vec<Value>> {
    let message = |line: &str| serde_json::from_str(line).expect("every line is one message");
    let files = std::fs::read_dir(record).unwrap().map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    files.map(|text| text.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(message).collect()).collect()
}

/// All of it.
fn lines(record: &Path) -> Vec<Value> {
    processes(record).concat()
}

/// A modern request's headers and body, with more headers.
async fn modern_post(client: &Client, method: &str, params: Value, extra: &[(&str, &str)]) -> testkit::Response {
    let (headers, body) = client.modern_request(method, params, extra);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    client.post("/mcp/every", &headers, body).await.unwrap()
}

fn echo() -> Value {
    json!({"name": "echo", "arguments": {}})
}

fn with_progress() -> Value {
    json!({"name": "test_tool_with_progress", "_meta": {"progressToken": 1}})
}

#[tokio::test(flavor = "multi_thread")]
async fn e4_e79_e95_e138_e149_e221_what_a_server_reads() {
    let dir = tempfile::tempdir().unwrap();
    for flag in ["--legacy", "--modern"] {
        let record = dir.path().join(flag);
        std::fs::create_dir(&record).unwrap();
        let host = Host::open(vec![recorded("every", flag, &record, "0")]).await;
        let client = host.client();
        let session = client.legacy_session("every").await.unwrap();
        for _ in 0..3 {
            tokio::join!(tool(&session, "echo", json!({})), modern_tool(&client, "every", "echo", json!({})));
        }
        let sleep = json!({"name": "sleep", "arguments": {"ms": 30_000}, "_meta": {"progressToken": "t"}});
        let own = json!("own");
        let call = session.call_with_id(&own, "tools/call", sleep);
        let (answer, ()) = tokio::join!(tokio::time::timeout(Duration::from_millis(400), call), async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            session.notify("notifications/cancelled", json!({"requestId": "own", "reason": "r"})).await.unwrap();
            // Nobody waits for this one, and it is no business of the server's.
            let stray = session.post(r#"{"jsonrpc":"2.0","id":3,"result":{}}"#).await.unwrap();
            assert_eq!((stray.status, stray.body.len()), (202, 0));
        });
        drop(answer);
        eventually("the cancellation arrives", || {
            lines(&record).iter().any(|line| line["method"] == "notifications/cancelled")
        })
        .await;
        let seen = lines(&record);
        assert!(seen.iter().all(|line| line["method"].is_string()), "no answers, nothing but messages: {seen:?}");
        let ids: Vec<String> = seen.iter().filter_map(|line| line.get("id")).map(ToString::to_string).collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len(), "{ids:?}");
        let slept = seen.iter().find(|line| line["params"]["name"] == "sleep").unwrap();
        let taken_back = seen.iter().find(|line| line["method"] == "notifications/cancelled").unwrap();
        assert_eq!(taken_back["params"]["requestId"], slept["id"], "the id that the server knows");
        assert_eq!(slept["params"]["_meta"]["progressToken"], slept["id"], "the token is ours");
        for read in processes(&record).iter().filter(|read| !read.is_empty()) {
            let opens = |line: &&Value| line["method"] == "initialize";
            if flag == "--legacy" {
                assert_eq!(
                    (&read[0]["method"], &read[1]["method"]),
                    (&json!("initialize"), &json!("notifications/initialized"))
                );
            }
            assert_eq!(read.iter().filter(opens).count(), usize::from(flag == "--legacy"), "{read:?}");
        }
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e141_a_handshake_is_not_cancelled_with_its_caller() {
    let dir = tempfile::tempdir().unwrap();
    let record = dir.path();
    let host = Host::open(vec![recorded("every", "--legacy", record, "0.6")]).await;
    let client = host.client();
    let call = client.modern_call("every", "tools/call", echo());
    assert!(tokio::time::timeout(Duration::from_millis(150), call).await.is_err(), "the server is still starting");
    assert_eq!(text(&modern_tool(&client, "every", "echo", json!({"a": 1})).await), r#"{"a":1}"#);
    for read in processes(record).iter().filter(|read| !read.is_empty()) {
        assert_eq!(read[0]["method"], "initialize", "{read:?}");
        assert!(read.iter().all(|line| line["method"] != "notifications/cancelled"), "{read:?}");
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e226_a_modern_server_that_asks_is_refused_and_logged() {
    let asks = r#"{"jsonrpc":"2.0","id":"mine","method":"roots/list"}"#;
    let script = format!("echo '{asks}'; exec {} --modern", testkit::bin("everything").display());
    let host = Host::open(vec![shell("every", "--modern", script)]).await;
    modern_tool(&host.client(), "every", "echo", json!({})).await;
    let told = || {
        let log = host.supervisor.log(&crate::host::name("every")).unwrap().tail(100);
        log.iter().any(|line| line.text.contains("roots/list") && line.text.contains("must not"))
    };
    eventually("the operator is told", told).await;
    assert_eq!(host.report().restarts, 0);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e6_e24_a_notification_is_never_answered() {
    for flag in ["--legacy", "--modern"] {
        let host = Host::open(vec![server("every", "everything", &[flag])]).await;
        let client = host.client();
        let session = client.legacy_session("every").await.unwrap();
        for (method, params) in [
            ("notifications/unknown", json!({})),
            ("com.example/no/such", json!({"x": 1})),
            ("tools/call", json!({"name": "no such tool"})),
            ("notifications/cancelled", json!({"requestId": "nothing"})),
        ] {
            let accepted = session.notify(method, params.clone()).await.unwrap();
            assert_eq!((accepted.status, accepted.body.len()), (202, 0), "{flag} {method}");
            let (headers, body) = client.modern_request(method, params, &[]);
            let mut body: Value = serde_json::from_str(&body).unwrap();
            body.as_object_mut().unwrap().remove("id");
            let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            let accepted = client.post("/mcp/every", &headers, body.to_string()).await.unwrap();
            assert_eq!((accepted.status, accepted.body.len()), (202, 0), "{flag} {method}, without a session");
        }
        assert!(tool(&session, "echo", json!({})).await["result"].is_object());
        host.stop().await;
    }
}

/// Requests of one connection say different things about their client; each is served by what it says itself.
#[tokio::test(flavor = "multi_thread")]
async fn e23_e40_e42_e45_a_modern_request_stands_for_itself() {
    let host = Host::open(vec![server("every", "everything", &["--modern"])]).await;
    let client = host.client();
    let mut pids = HashSet::new();
    for (name, capabilities) in [("a", json!({})), ("b", json!({"sampling": {}})), ("", json!({"roots": {}}))] {
        let meta = json!({
            "io.modelcontextprotocol/clientInfo": {"name": name, "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": capabilities,
        });
        let params = json!({"name": "whoami", "_meta": meta});
        let (status, answer) = client.modern_call("every", "tools/call", params).await.unwrap();
        let seen = &answer["result"]["structuredContent"];
        assert_eq!((status, &seen["capabilities"]), (200, &capabilities), "{answer}");
        assert_eq!(seen["clientInfo"]["name"], name, "{answer}");
        pids.insert(seen["pid"].to_string());
    }
    assert_eq!(pids.len(), 1, "a name decides nothing: {pids:?}");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e13_e14_foreign_metadata_crosses_untouched_and_none_is_made_up() {
    let host =
        Host::open(vec![server("legacy", "everything", &["--legacy"]), server("modern", "everything", &["--modern"])])
            .await;
    let client = host.client();
    let foreign = json!({
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "vendor=1",
        "baggage": "a=b",
        "com.example/x": {"n": [1, null]},
        "io.modelcontextprotocol/later": true,
    });
    let era =
        ["protocolVersion", "clientInfo", "clientCapabilities"].map(|key| format!("io.modelcontextprotocol/{key}"));
    let params = json!({"name": "metadata", "_meta": foreign});
    for (name, marked) in [("legacy", false), ("modern", true)] {
        let session = client.legacy_session(name).await.unwrap();
        let (_, modern) = client.modern_call(name, "tools/call", params.clone()).await.unwrap();
        for answer in [session.call("tools/call", params.clone()).await.unwrap(), modern] {
            let mut seen = answer["result"]["structuredContent"].as_object().unwrap().clone();
            assert!(era.iter().all(|key| seen.remove(key).is_some() == marked), "{name}: {answer}");
            assert_eq!(Value::Object(seen), foreign, "{name}");
        }
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e25_e29_e34_e36_a_stream_is_about_its_request_and_ends_with_its_answer() {
    let host = Host::open(vec![server("every", "everything", &["--dual"])]).await;
    let client = host.client();
    let session = client.legacy_session_at("every", "2025-06-18").await.unwrap();
    let streams = [
        client.modern_stream("every", "tools/call", with_progress()).await.unwrap(),
        session.stream(&json!(5), "tools/call", with_progress()).await.unwrap(),
    ];
    for mut stream in streams {
        assert!(stream.is_event_stream());
        assert_eq!(stream.headers["x-accel-buffering"], "no");
        let cache = stream.headers["cache-control"].to_str().unwrap();
        assert!(cache.contains("no-cache") && cache.contains("no-transform"), "{cache}");
        let mut messages = Vec::new();
        while let Some(message) = stream.next_message().await.unwrap() {
            messages.push(message);
        }
        let (last, notes) = messages.split_last().unwrap();
        assert!(last["result"].is_object() && notes.iter().all(|note| note["params"]["progressToken"] == 1));
    }
    let plain = modern_post(&client, "tools/call", echo(), &[]).await;
    assert_eq!(plain.header("content-type"), Some("application/json"), "one answer needs no stream");
    host.stop().await;
}

/// What a client takes only one kind of is answered in that kind, whatever happens before the answer.
#[tokio::test(flavor = "multi_thread")]
async fn e27_a_client_gets_the_kind_of_answer_that_it_takes() {
    let host = Host::open(vec![server("every", "everything", &["--dual"])]).await;
    let client = host.client();
    for (accept, kind) in [("application/json", "application/json"), ("text/event-stream", "text/event-stream")] {
        for params in [echo(), with_progress()] {
            let answer = modern_post(&client, "tools/call", params.clone(), &[("accept", accept)]).await;
            assert_eq!(answer.status, 200, "{accept}");
            assert!(answer.header("content-type").unwrap().starts_with(kind), "{accept}: {:?}", answer.headers);
        }
    }
    for odd in ["application/json; charset=utf-8", "Application/JSON"] {
        let answer = modern_post(&client, "tools/call", echo(), &[("content-type", odd)]).await;
        assert_eq!(answer.status, 200, "E28: {odd}");
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e31_e57_an_early_error_still_chooses_its_status() {
    for flag in ["--legacy", "--modern"] {
        let host = Host::open(vec![server("every", "everything", &[flag])]).await;
        let client = host.client();
        let wrong_name = [("mcp-name", "other")];
        for (status, code, method, params, headers) in [
            (404, -32601, "no/such", json!({}), &[][..]),
            (400, -32020, "tools/call", echo(), &wrong_name),
            (
                400,
                -32602,
                "tools/call",
                json!({"name": "echo", "_meta": {"io.modelcontextprotocol/clientCapabilities": 1}}),
                &[],
            ),
        ] {
            let answer = modern_post(&client, method, params, headers).await;
            let body = answer.json().unwrap();
            assert_eq!((answer.status, &body["error"]["code"]), (status, &json!(code)), "{flag} {method}: {body}");
            assert_eq!(answer.header("content-type"), Some("application/json"));
        }
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e33_a_modern_body_is_one_request_or_notification() {
    let host = Host::open(vec![server("every", "everything", &["--dual"])]).await;
    let client = host.client();
    let (headers, body) = client.modern_request("tools/call", echo(), &[]);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let answer = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    for wrong in [format!("[{body}]"), format!("[{body},{body}]"), "[]".to_owned(), answer.to_owned()] {
        let refused = client.post("/mcp/every", &headers, wrong.clone()).await.unwrap();
        let said = refused.json().unwrap();
        assert_eq!((refused.status, &said["error"]["code"]), (400, &json!(-32600)), "{wrong}: {said}");
        assert!(said.get("id").is_none(), "E24: {said}");
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e38_modern_requests_know_no_sessions() {
    let host = Host::open(vec![server("every", "everything", &["--dual"])]).await;
    let client = host.client();
    let legacy = [("mcp-session-id", "never-was"), ("last-event-id", "1-1")];
    let answer = modern_post(&client, "tools/call", with_progress(), &legacy).await;
    assert_eq!((answer.status, answer.header("mcp-session-id")), (200, None));
    let (events, _) = answer.events().unwrap();
    assert!(events.len() == 4 && events.iter().all(|event| event.id.is_none() && event.retry.is_none()), "{events:?}");
    assert!(host.supervisor.sessions(None).is_empty());
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e116_e117_e118_e275_session_ids() {
    let host = Host::open(vec![server("every", "everything", &["--legacy"])]).await;
    let client = host.client();
    let mut ids = HashSet::new();
    for _ in 0..40 {
        let id = client.legacy_session("every").await.unwrap().id.expect("the id comes with the answer");
        assert!(id.len() >= 22, "128 bits need 22 letters: {id}");
        assert!(id.bytes().all(|byte| (0x21..=0x7e).contains(&byte)), "{id}");
        ids.insert(id);
    }
    assert_eq!(ids.len(), 40);
    // No part of them is fixed or counts up.
    for at in 0..22 {
        let letters: HashSet<u8> = ids.iter().map(|id| id.as_bytes()[at]).collect();
        assert!(letters.len() > 8, "letter {at} is nearly always the same: {letters:?}");
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e96_a_server_hears_the_revision_and_the_abilities_of_its_own_session() {
    let host = Host::open(vec![in_mode(server("every", "everything", &["--legacy"]), Mode::PerSession)]).await;
    for (revision, capabilities) in [("2025-03-26", json!({"roots": {}})), ("2025-06-18", json!({"elicitation": {}}))] {
        let client = host.client().with_capabilities(capabilities.clone());
        let session = client.legacy_session_at("every", revision).await.unwrap();
        let seen = tool(&session, "whoami", json!({})).await["result"]["structuredContent"].clone();
        assert_eq!((&seen["protocolVersion"], &seen["capabilities"]), (&json!(revision), &capabilities));
    }
    host.stop().await;
}

/// The end of an answered request is no cancellation, whether its connection stays or goes.
#[tokio::test(flavor = "multi_thread")]
async fn e137_closing_after_the_answer_cancels_nothing() {
    for flag in ["--legacy", "--modern"] {
        let host = Host::open(vec![server("every", "everything", &[flag])]).await;
        let client = host.client();
        for _ in 0..10 {
            let mut stream = client.modern_stream("every", "tools/call", with_progress()).await.unwrap();
            while stream.next_message().await.unwrap().is_some_and(|message| message.get("id").is_none()) {}
            drop(stream);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let seen = modern_tool(&client, "every", "cancellations", json!({})).await;
        assert_eq!(seen["result"]["structuredContent"], json!({"arrived": 0, "stopped": 0}), "{flag}");
        host.stop().await;
    }
}

/// Cancellation and answer cross in every way; whoever asks next gets his own answer.
#[tokio::test(flavor = "multi_thread")]
async fn e143_e144_cancellation_and_answer_may_cross() {
    for mode in [Mode::Shared, Mode::Exclusive] {
        let host = Host::open(vec![in_mode(server("every", "everything", &["--legacy"]), mode)]).await;
        let client = host.client();
        let session = client.legacy_session("every").await.unwrap();
        for round in 0..60_u64 {
            let id = json!("same");
            let params = json!({"name": "sleep", "arguments": {"ms": 4}});
            let (stream, ()) = tokio::join!(session.stream(&id, "tools/call", params), async {
                tokio::time::sleep(Duration::from_micros(round * 150)).await;
                let told = session.notify("notifications/cancelled", json!({"requestId": "same"})).await.unwrap();
                assert_eq!(told.status, 202);
            });
            let stream = stream.unwrap();
            if !stream.is_event_stream() {
                let whole = stream.whole().await.unwrap();
                assert!(whole.body.is_empty() || text(&whole.json().unwrap()) == "slept 4 ms", "{whole:?}");
            }
            let own = session.call_with_id(&id, "tools/call", json!({"name": "echo", "arguments": {"round": round}}));
            assert_eq!(own.await.unwrap()["result"]["structuredContent"], json!({"round": round}));
        }
        eventually("nothing is left in flight", || host.supervisor.instances(None).iter().all(|i| i.in_flight == 0))
            .await;
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e182_all_pages_of_a_list_have_one_scope() {
    let host = Host::open(vec![server("every", "everything", &["--legacy", "--extras"])]).await;
    let client = host.client();
    let mut params = json!({});
    let mut pages = 0;
    loop {
        let (_, answer) = client.modern_call("every", "tools/list", params).await.unwrap();
        let result = &answer["result"];
        assert_eq!((&result["cacheScope"], &result["ttlMs"]), (&json!("private"), &json!(0)), "{answer}");
        pages += 1;
        match result.get("nextCursor") {
            Some(cursor) => params = json!({"cursor": cursor}),
            None => break,
        }
    }
    assert!(pages > 10, "{pages}");
    host.stop().await;
}

/// Neither the caller's token nor the server's secrets go anywhere that they do not belong.
#[tokio::test(flavor = "multi_thread")]
async fn e195_e240_e241_e279_secrets_stay_where_they_are() {
    const SECRET: &str = "s3cret-of-the-server";
    let dir = tempfile::tempdir().unwrap();
    let record = dir.path();
    let mut every = recorded("every", "--legacy", record, "0");
    let mut odd = server("odd", "odd", &["--exit-on-call", "3"]);
    for spec in [&mut every, &mut odd] {
        let model::Target::Program(program) = &mut spec.target else { unreachable!("it was made from a command") };
        program.env.insert("SECRET".to_owned(), SECRET.to_owned());
    }
    let host = Host::with(vec![every, odd], Setup { auth: Auth::Required, ..Setup::default() }).await;
    let minted = host.authority.mint("ann".parse().unwrap(), None, None).await.ok().unwrap();
    let token = minted.token.into_exposed();
    let client = Client::new(&host.url, Some(token.clone())).unwrap();
    let session = client.legacy_session("every").await.unwrap();
    let mut said =
        vec![tool(&session, "whoami", json!({})).await, modern_tool(&client, "every", "echo", json!({})).await];
    let died = client.modern_call("odd", "tools/call", json!({"name": "die", "arguments": {}})).await.unwrap().1;
    assert_eq!(reason(&died), "server_ended");
    said.push(died);
    for answer in &said {
        assert!(!answer.to_string().contains(SECRET) && !answer.to_string().contains(&token), "{answer}");
    }
    let read = json!(lines(record)).to_string();
    assert!(read.contains("whoami") && !read.contains(&token), "the token reached the server's stdin");
    for pid in host.processes() {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        for place in [environment, arguments] {
            assert!(!String::from_utf8_lossy(&place).contains(&token), "the token reached the process {pid}");
        }
    }
    let stranger = host.client();
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    for path in [format!("/mcp/every?access_token={token}"), format!("/mcp/every?token={token}")] {
        let refused = stranger.post(&path, &[("content-type", "application/json")], call).await.unwrap();
        assert_eq!(refused.status, 401, "a token in the query is none");
        assert!(!String::from_utf8_lossy(&refused.body).contains(&token));
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e73_e74_what_belongs_to_a_call_comes_on_its_stream_only() {
    let host = Host::open(vec![server("every", "everything", &["--legacy"])]).await;
    let client = host.client().with_capabilities(json!({"sampling": {}}));
    let session = client.legacy_session_at("every", "2025-06-18").await.unwrap();
    let mut aside = session.listen().await.unwrap();
    let params = json!({"name": "test_sampling", "arguments": {"prompt": "?"}});
    let mut call = session.stream(&json!(1), "tools/call", params).await.unwrap();
    let asked = call.next_message().await.unwrap().unwrap();
    assert_eq!(asked["method"], "sampling/createMessage");
    let said = json!({"role": "assistant", "content": {"type": "text", "text": "yes"}, "model": "m"});
    let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": said}).to_string();
    assert_eq!(session.post(answer).await.unwrap().status, 202);
    assert_eq!(text(&call.next_message().await.unwrap().unwrap()), "LLM response: yes");
    for method in ["tools/list", "ping"] {
        session.call(method, json!({})).await.unwrap();
    }
    let mut call = session.stream(&json!(2), "tools/call", with_progress()).await.unwrap();
    while call.next_message().await.unwrap().is_some() {}
    let silent = tokio::time::timeout(Duration::from_millis(100), aside.next_message()).await;
    assert!(silent.is_err(), "the stream beside the calls heard {silent:?}");
    host.stop().await;
}

/// One listener for each of two filters, in one process: each hears its own, under its own id, and no call's words.
#[tokio::test(flavor = "multi_thread")]
async fn e37_e157_e160_subscriptions_on_one_pipe_are_told_apart() {
    let host = Host::open(vec![server("every", "everything", &["--modern"])]).await;
    let client = host.client();
    let listen = async |id: Value, filter: Value| {
        let (headers, body) = client.modern_request("subscriptions/listen", json!({"notifications": filter}), &[]);
        let mut body: Value = serde_json::from_str(&body).unwrap();
        body["id"] = id;
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut stream = client.post_stream("/mcp/every", &headers, body.to_string()).await.unwrap();
        let first = stream.next_message().await.unwrap().unwrap();
        assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
        stream
    };
    let mut tools = listen(json!("1"), json!({"toolsListChanged": true})).await;
    let mut prompts = listen(json!(1), json!({"promptsListChanged": true})).await;
    let mut call = client.modern_stream("every", "tools/call", with_progress()).await.unwrap();
    for name in ["test_trigger_tool_change", "test_trigger_prompt_change"] {
        modern_tool(&client, "every", name, json!({})).await;
    }
    while call.next_message().await.unwrap().is_some() {}
    for (stream, id, list) in [(&mut tools, json!("1"), "tools"), (&mut prompts, json!(1), "prompts")] {
        let heard = stream.next_message().await.unwrap().unwrap();
        assert_eq!(heard["method"], format!("notifications/{list}/list_changed"));
        assert_eq!(heard["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], id, "{heard}");
        let more = tokio::time::timeout(Duration::from_millis(60), stream.next_message()).await;
        assert!(more.is_err(), "{list} heard {more:?}");
    }
    host.stop().await;
}

/// What staithe says itself has standard codes, says that it is staithe's, and never invents a code.
#[tokio::test(flavor = "multi_thread")]
async fn e104_e105_e107_e108_errors_of_our_own() {
    let mut setup = Setup::default();
    setup.face.call_timeout = Duration::from_millis(200);
    let servers = vec![
        server("every", "everything", &["--legacy"]),
        server("odd", "odd", &["--exit-on-call", "3", "--both"]),
        ServerSpec::new("absent".parse().unwrap(), "/no/such/program", Vec::new()),
    ];
    let host = Host::with(servers, setup).await;
    let client = host.client();
    let named = |name: &str| json!({"name": name, "arguments": {"ms": 10_000}});
    let mut reasons = HashSet::new();
    for (server, method, params) in [
        ("every", "tools/call", named("sleep")),
        ("every", "resources/subscribe", json!({"uri": "a:b"})),
        ("odd", "tools/call", named("both")),
        ("odd", "tools/call", named("die")),
        ("absent", "tools/call", named("x")),
        ("nobody-hosts-this", "tools/call", named("x")),
    ] {
        let (_, answer) = client.modern_call(server, method, params).await.unwrap();
        let code = answer["error"]["code"].as_i64().unwrap();
        assert!(matches!(code, -32700 | -32603..=-32600 | -32022..=-32020), "{server} {method}: {answer}");
        reasons.insert(answer["error"]["data"]["reason"].to_string());
        assert!(code == -32601 || answer["error"]["data"]["source"] == "staithe", "{answer}");
    }
    assert!(reasons.len() >= 5, "{reasons:?}");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e109_a_missing_capability_is_named_with_status_400() {
    let host = Host::open(vec![server("every", "everything", &["--modern"])]).await;
    let params = json!({"name": "test_missing_capability", "arguments": {}});
    let (status, answer) = host.client().modern_call("every", "tools/call", params.clone()).await.unwrap();
    assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32021)), "{answer}");
    assert_eq!(answer["error"]["data"]["requiredCapabilities"], json!({"sampling": {}}), "{answer}");
    let able = host.client().with_capabilities(json!({"sampling": {}}));
    let (status, answer) = able.modern_call("every", "tools/call", params).await.unwrap();
    assert_eq!((status, text(&answer)), (200, "Success"));
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e148_reasons_of_cancellations_are_kept_for_the_operator() {
    let host = Host::open(vec![server("every", "everything", &["--legacy"])]).await;
    let client = host.client();
    let session = client.legacy_session("every").await.unwrap();
    let params = json!({"name": "sleep", "arguments": {"ms": 30_000}});
    let id = json!(1);
    let reason = format!("the user\nwalked away {}", "x".repeat(5000));
    let (_answer, ()) = tokio::join!(session.stream(&id, "tools/call", params), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        session.notify("notifications/cancelled", json!({"requestId": 1, "reason": reason})).await.unwrap();
    });
    let log = host.supervisor.log(&crate::host::name("every")).unwrap().tail(100);
    let told: Vec<&str> =
        log.iter().map(|line| line.text.as_str()).filter(|text| text.contains("walked away")).collect();
    assert!(told.len() == 1 && told[0].len() < 400 && !told[0].contains('\n'), "{told:?}");
    host.stop().await;
}

/// `everything`, which is joined by lines that no call asked for while the first calls run.
fn talkative(flag: &str) -> ServerSpec {
    let stray = [
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7,"reason":"no"}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":7,"progress":1}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t","progress":1}}"#,
        r#"{"jsonrpc":"2.0","id":7,"result":{}}"#,
    ];
    let lines: Vec<String> = stray.iter().map(|line| format!("echo '{line}'")).collect();
    let script = format!(
        "(while sleep 0.1; do {}; done) & exec {} {flag}",
        lines.join("; "),
        testkit::bin("everything").display()
    );
    shell("every", flag, script)
}

#[tokio::test(flavor = "multi_thread")]
async fn e145_e151_what_belongs_to_no_call_reaches_nobody() {
    for flag in ["--legacy", "--modern"] {
        let host = Host::open(vec![talkative(flag)]).await;
        let client = host.client();
        let session = client.legacy_session("every").await.unwrap();
        let params = json!({"name": "sleep", "arguments": {"ms": 500}, "_meta": {"progressToken": "t"}});
        let streams = [
            client.modern_stream("every", "tools/call", params.clone()).await.unwrap(),
            session.stream(&json!(7), "tools/call", params).await.unwrap(),
        ];
        for mut stream in streams {
            let mut notes = Vec::new();
            let answer = loop {
                let message = stream.next_message().await.unwrap().expect("an answer");
                if message.get("method").is_none() {
                    break message;
                }
                notes.push(message);
            };
            assert_eq!(text(&answer), "slept 500 ms", "{flag}");
            assert!(notes.iter().all(|note| note["method"] == "notifications/progress"), "{flag}: {notes:?}");
            assert_eq!(notes.len(), 10, "{flag}: only its own progress: {notes:?}");
        }
        host.stop().await;
    }
}
