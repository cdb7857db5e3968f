//! Streams of legacy sessions outlive their connections: what follows an event that was seen is sent again, to its own
//! session and to nobody else.

use crate::host::{Host, Setup, in_mode, server, tool};
use model::Mode;
use serde_json::{Value, json};
use staithe_gateway::{Auth, Limits};
use std::time::Duration;
use stdx::clock::monotonic;
use testkit::wait::eventually;
use testkit::{Client, Event, Session, Stream};

const REVISIONS: [&str; 3] = ["2025-03-26", "2025-06-18", "2025-11-25"];

async fn host() -> Host {
    Host::open(vec![server("every", "everything", &["--legacy"])]).await
}

/// A call of `sleep` that reports progress ten times on its way.
async fn slow(session: &Session<'_>, id: &str, ms: u64) -> Stream {
    let params = json!({"name": "sleep", "arguments": {"ms": ms}, "_meta": {"progressToken": id}});
    session.stream(&json!(id), "tools/call", params).await.unwrap()
}

/// GET with `Last-Event-ID`.
async fn resume(client: &Client, session: &Session<'_>, last: &str) -> Stream {
    let mut headers = session.headers();
    headers.push(("last-event-id".to_owned(), last.to_owned()));
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    client.get_stream("/mcp/every", &headers).await.unwrap()
}

/// The next event with a message: its id and the message.
async fn next(stream: &mut Stream) -> Option<(String, Value)> {
    loop {
        let event: Event = stream.next().await.unwrap()?;
        if !event.data.is_empty() {
            return Some((event.id.expect("an event without id"), serde_json::from_str(&event.data).unwrap()));
        }
    }
}

/// All that follows, and that the stream ends.
async fn rest(stream: &mut Stream) -> Vec<Value> {
    let mut all = Vec::new();
    while let Some((_, message)) = next(stream).await {
        all.push(message);
    }
    all
}

fn progress(message: &Value) -> u64 {
    assert_eq!(message["method"], "notifications/progress", "{message}");
    message["params"]["progress"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn e130_e134_a_call_goes_on_and_its_stream_is_read_to_the_end_after_a_break() {
    let host = host().await;
    let client = host.client();
    for revision in REVISIONS {
        let session = client.legacy_session_at("every", revision).await.unwrap();
        for pause in [0, 600] {
            let mut stream = slow(&session, "call", 400).await;
            let (_, first) = next(&mut stream).await.unwrap();
            let (id, second) = next(&mut stream).await.unwrap();
            assert_eq!((progress(&first), progress(&second)), (1, 2));
            drop(stream);
            // Also when the response was ready long before the client came back.
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let mut again = resume(&client, &session, &id).await;
            assert!(again.is_event_stream());
            let messages = rest(&mut again).await;
            let (answer, reports) = messages.split_last().unwrap();
            assert_eq!(reports.iter().map(progress).collect::<Vec<_>>(), (3..=10).collect::<Vec<_>>(), "{revision}");
            assert_eq!(
                (&answer["id"], &answer["result"]["content"][0]["text"]),
                (&json!("call"), &json!("slept 400 ms"))
            );
        }
        session.close().await.unwrap();
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e124_e132_an_event_id_counts_only_within_its_own_session() {
    let setup = Setup { auth: Auth::Required, ..Setup::default() };
    let servers = vec![server("every", "everything", &["--legacy"]), server("other", "everything", &["--legacy"])];
    let host = Host::with(servers, setup).await;
    let (ann, bob) = (host.client_of("ann").await, host.client_of("bob").await);
    let (own, sibling) = (ann.legacy_session("every").await.unwrap(), ann.legacy_session("every").await.unwrap());
    let foreign = bob.legacy_session("every").await.unwrap();
    let elsewhere = ann.legacy_session("other").await.unwrap();
    let mut stream = slow(&own, "secret", 300).await;
    let (id, _) = next(&mut stream).await.unwrap();
    drop(stream);
    // Each has a stream of the same number, or none at all; nobody has that of `own`.
    assert_eq!(resume(&bob, &own, &id).await.status, 404, "another principal");
    assert_eq!(resume(&ann, &elsewhere, &id).await.status, 404, "another server");
    let mut bodies = Vec::new();
    for (client, session) in [(&ann, &sibling), (&bob, &foreign)] {
        let refused = resume(client, session, &id).await;
        assert_eq!(refused.status, 400);
        bodies.push(refused.whole().await.unwrap().body);
    }
    for bad in ["", "x", "1", "1-", "-1-1", "1-99", "7-1", "1-1-1", "\"1-1\"", "1-18446744073709551616"] {
        let refused = resume(&ann, &own, bad).await;
        assert_eq!(refused.status, 400, "{bad:?}");
        bodies.push(refused.whole().await.unwrap().body);
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]), "the reason must not tell what there is: {bodies:?}");
    assert_eq!(rest(&mut resume(&ann, &own, &id).await).await.last().unwrap()["id"], "secret");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e131_a_resumed_stream_is_no_other_stream() {
    let host = host().await;
    let client = host.client();
    let session = client.legacy_session("every").await.unwrap();
    let (mut one, mut two) = (slow(&session, "one", 400).await, slow(&session, "two", 400).await);
    let (id_one, _) = next(&mut one).await.unwrap();
    let (id_two, _) = next(&mut two).await.unwrap();
    drop((one, two));
    let (mut one, mut two) = (resume(&client, &session, &id_one).await, resume(&client, &session, &id_two).await);
    for (name, stream) in [("one", &mut one), ("two", &mut two)] {
        let messages = rest(stream).await;
        assert_eq!(messages.len(), 10, "{messages:?}");
        for message in messages {
            assert!(message["id"] == name || message["params"]["progressToken"] == name, "{name}: {message}");
        }
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_resume_takes_the_stream_from_the_first() {
    let host = host().await;
    let client = host.client();
    let session = client.legacy_session("every").await.unwrap();
    let mut stream = slow(&session, "call", 1000).await;
    let (id, _) = next(&mut stream).await.unwrap();
    let mut first = resume(&client, &session, &id).await;
    assert_eq!(rest(&mut stream).await.len(), 0, "the connection of the POST was thought to be alive");
    let (later, _) = next(&mut first).await.unwrap();
    let mut second = resume(&client, &session, &later).await;
    let (lost, kept) = (rest(&mut first).await, rest(&mut second).await);
    assert!(lost.iter().all(|message| message["id"] != "call"), "{lost:?}");
    assert_eq!(kept.last().unwrap()["id"], "call", "{kept:?}");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e130_a_get_stream_goes_on_after_a_break() {
    let host = host().await;
    let client = host.client();
    let session = client.legacy_session("every").await.unwrap();
    tool(&session, "test_trigger_tool_change", json!({})).await;
    let mut stream = session.listen().await.unwrap();
    tool(&session, "test_trigger_prompt_change", json!({})).await;
    let mut seen = Vec::new();
    let mut last = String::new();
    while !seen.contains(&json!("notifications/prompts/list_changed")) {
        let (id, message) = next(&mut stream).await.unwrap();
        seen.push(message["method"].clone());
        last = id;
    }
    drop(stream);
    eventually("the host knows that the stream broke", || !host.supervisor.sessions(None)[0].stream).await;
    // Without a stream and without a call of its own that still listens, it waits.
    let own = client.legacy_session("every").await.unwrap();
    tool(&own, "test_trigger_resource_change", json!({})).await;
    let mut again = resume(&client, &session, &last).await;
    let (id, message) = next(&mut again).await.unwrap();
    assert_eq!(message["method"], "notifications/resources/list_changed", "{message}");
    assert_eq!(id.split('-').next(), last.split('-').next(), "the same stream");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e76_only_clients_that_know_it_are_sent_an_event_without_data() {
    let host = host().await;
    let client = host.client();
    for revision in REVISIONS {
        let session = client.legacy_session_at("every", revision).await.unwrap();
        for mut stream in [session.listen().await.unwrap(), slow(&session, "call", 50).await] {
            tool(&session, "test_trigger_tool_change", json!({})).await;
            let first = stream.next().await.unwrap().unwrap();
            assert!(first.id.is_some(), "{first:?}");
            assert_eq!(first.data.is_empty(), revision == "2025-11-25", "{revision}: {first:?}");
        }
        session.close().await.unwrap();
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e77_a_stream_may_be_closed_on_purpose_and_its_client_asks_for_the_rest() {
    let stream_after = Duration::from_millis(50);
    let face = Limits { poll_after: Some(Duration::from_millis(150)), stream_after, ..Limits::default() };
    let host = Host::with(vec![server("every", "everything", &["--legacy"])], Setup { face, ..Setup::default() }).await;
    let client = host.client();
    let session = client.legacy_session("every").await.unwrap();
    // Without a progress token the server says nothing before its answer.
    let params = json!({"name": "sleep", "arguments": {"ms": 700}});
    let mut stream = session.stream(&json!("call"), "tools/call", params.clone()).await.unwrap();
    let (mut last, mut returns) = (String::new(), 0);
    let answer = 'all: loop {
        let mut told = None;
        while let Some(event) = stream.next().await.unwrap() {
            last = event.id.unwrap_or(last);
            told = event.retry.or(told);
            if !event.data.is_empty() {
                break 'all serde_json::from_str::<Value>(&event.data).unwrap();
            }
        }
        assert!(told.is_some(), "closed without saying when to come back");
        returns += 1;
        stream = resume(&client, &session, &last).await;
        assert_eq!(stream.status, 200);
    };
    assert_eq!(answer["id"], "call", "{answer}");
    assert!((2..8).contains(&returns), "{returns}");
    // A client of an older revision knows nothing of this.
    let older = client.legacy_session_at("every", "2025-06-18").await.unwrap();
    let mut stream = older.stream(&json!("old"), "tools/call", params).await.unwrap();
    assert_eq!(rest(&mut stream).await.last().unwrap()["id"], "old");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e122_the_end_of_a_session_ends_its_calls_and_forgets_its_streams() {
    let host = host().await;
    let client = host.client();
    let session = client.legacy_session("every").await.unwrap();
    let mut stream = slow(&session, "call", 60_000).await;
    let mut quick = slow(&session, "quick", 50).await;
    let (id, _) = next(&mut quick).await.unwrap();
    rest(&mut quick).await;
    let headers = session.headers();
    assert_eq!(session.close().await.unwrap().status, 200);
    let begun = monotonic();
    while stream.next().await.unwrap_or(None).is_some() {}
    assert!(begun.elapsed() < Duration::from_secs(5), "the stream of the session did not end");
    let mut headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    headers.push(("last-event-id", &id));
    assert_eq!(client.get_stream("/mcp/every", &headers).await.unwrap().status, 404);
    let observer = client.legacy_session("every").await.unwrap();
    let mut stopped = Value::Null;
    for _ in 0..200 {
        stopped = tool(&observer, "cancellations", json!({})).await["result"]["structuredContent"]["stopped"].clone();
        if stopped == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(stopped, 1, "the server was not told to stop");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b34_e134_the_one_stream_of_a_batch_goes_on_after_a_break() {
    let host = host().await;
    let client = host.client();
    let session = client.legacy_session_at("every", "2025-03-26").await.unwrap();
    let call = |id: u64, ms: u64| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "sleep", "arguments": {"ms": ms}}});
    let body = json!([call(1, 10), call(2, 500), call(3, 700)]).to_string();
    let headers = session.headers();
    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let mut stream = client.post_stream("/mcp/every", &headers, body).await.unwrap();
    let (id, first) = next(&mut stream).await.unwrap();
    assert_eq!(first["id"], 1);
    drop(stream);
    let mut again = resume(&client, &session, &id).await;
    let ids: Vec<Value> = rest(&mut again).await.iter().map(|message| message["id"].clone()).collect();
    assert_eq!(ids, [json!(2), json!(3)]);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e133_what_was_not_kept_is_not_skipped_in_silence() {
    let bounds = supervisor::Limits { replay_events: 4, ..Setup::default().supervisor };
    let host = Host::with(
        vec![server("every", "everything", &["--legacy"])],
        Setup { supervisor: bounds, ..Setup::default() },
    )
    .await;
    let client = host.client();
    let session = client.legacy_session("every").await.unwrap();
    let mut stream = slow(&session, "call", 100).await;
    let (id, _) = next(&mut stream).await.unwrap();
    drop(stream);
    tokio::time::sleep(Duration::from_millis(400)).await;
    let refused = resume(&client, &session, &id).await;
    assert_eq!(refused.status, 400);
    let body = refused.whole().await.unwrap().json().unwrap();
    assert!(body["error"]["message"].as_str().unwrap().contains("send the request again"), "{body}");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e244_open_streams_end_soon_after_their_token() {
    let setup = Setup { auth: Auth::Required, ..Setup::default() };
    let servers = vec![
        in_mode(server("every", "everything", &["--legacy"]), Mode::PerPrincipal),
        server("modern", "everything", &["--modern"]),
    ];
    let host = Host::with(servers, setup).await;
    let (ann, bob) = (host.client_of("ann").await, host.client_of("bob").await);
    let (session, other) = (ann.legacy_session("every").await.unwrap(), bob.legacy_session("every").await.unwrap());
    let mut get = session.listen().await.unwrap();
    let mut call = slow(&session, "call", 120_000).await;
    let mut untouched = other.listen().await.unwrap();
    let token = host.authority.list().into_iter().find(|record| record.principal.as_str() == "ann").unwrap();
    assert!(host.authority.revoke(&token.id).await.unwrap());
    let begun = monotonic();
    for stream in [&mut get, &mut call] {
        while stream.next().await.unwrap().is_some() {}
    }
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    assert!(
        tokio::time::timeout(Duration::from_millis(200), async { while untouched.next().await.unwrap().is_some() {} })
            .await
            .is_err()
    );
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e38_a_modern_request_is_no_part_of_a_session_that_its_headers_name() {
    let host = host().await;
    let client = host.client();
    let session = client.legacy_session("every").await.unwrap();
    let id = session.id.clone().unwrap();
    let params = json!({"name": "sleep", "arguments": {"ms": 100}, "_meta": {"progressToken": 1}});
    let extra = [("mcp-session-id", id.as_str()), ("last-event-id", "1-0")];
    let (headers, body) = client.modern_request("tools/call", params, &extra);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let answer = client.post("/mcp/every", &headers, body).await.unwrap();
    let (events, _) = answer.events().unwrap();
    assert_eq!(events.len(), 11, "{events:?}");
    assert!(events.iter().all(|event| event.id.is_none() && !event.data.is_empty()), "{events:?}");
    assert_eq!(resume(&client, &session, "1-0").await.status, 400, "it left no stream in the session");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e79_a_servers_request_finds_another_stream_or_is_refused() {
    let ask_waits = Duration::from_millis(300);
    let supervisor = supervisor::Limits { ask_waits, ..Setup::default().supervisor };
    let servers = vec![server("every", "everything", &["--legacy"])];
    let host = Host::with(servers, Setup { supervisor, ..Setup::default() }).await;
    let client = host.client().with_capabilities(json!({"sampling": {}}));
    let session = client.legacy_session("every").await.unwrap();
    let params = json!({"name": "test_sampling", "arguments": {"prompt": "?"}});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string();
    let mut headers = session.headers();
    headers.retain(|(name, _)| name != "accept");
    headers.push(("accept".to_owned(), "application/json".to_owned()));
    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    // A client that reads no stream at all: its server is not left waiting.
    let answer = client.post("/mcp/every", &headers, body.clone()).await.unwrap().json().unwrap();
    assert!(answer["result"]["isError"] == true && answer.to_string().contains("reads no stream"), "{answer}");
    // One that reads another stream is asked there.
    let mut stream = session.listen().await.unwrap();
    let asked = async {
        let (_, ask) = next(&mut stream).await.unwrap();
        assert_eq!(ask["method"], "sampling/createMessage", "{ask}");
        let result = json!({"role": "assistant", "model": "m", "content": {"type": "text", "text": "over there"}});
        let answer = json!({"jsonrpc": "2.0", "id": ask["id"], "result": result});
        assert_eq!(session.post(answer.to_string()).await.unwrap().status, 202);
    };
    let (answer, ()) = tokio::join!(client.post("/mcp/every", &headers, body), asked);
    let answer = answer.unwrap().json().unwrap();
    assert!(answer.to_string().contains("over there"), "{answer}");
    host.stop().await;
}
