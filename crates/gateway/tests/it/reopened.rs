//! Sessions outlive their daemon: another one on the same state serves them to their own clients, and to nobody else.

use crate::host::{Host, Setup, in_mode, name, reason, server, text, tool};
use model::Mode;
use serde_json::{Value, json};
use staithe_gateway::Auth;
use std::time::Duration;
use testkit::wait::{eventually, eventually_some};
use testkit::{Client, Session, Stream};

const URI: &str = "test://watched-resource";
const REVISIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

async fn next(stream: &mut Stream) -> Value {
    tokio::time::timeout(Duration::from_secs(20), stream.next_message()).await.expect("nothing came").unwrap().unwrap()
}

fn required() -> Setup {
    Setup { auth: Auth::Required, ..Setup::default() }
}

/// The status of a ping within the session.
async fn ping(session: &Session<'_>) -> u16 {
    session.post(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).await.unwrap().status
}

async fn opened(client: &Client, server: &str, revision: &str) -> String {
    client.legacy_session_at(server, revision).await.unwrap().id.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_valid_after_a_crash_and_after_a_stop() {
    for crash in [true, false] {
        let mut host = Host::open(vec![server("every", "everything", &["--legacy"])]).await;
        let client = host.client().with_capabilities(json!({"sampling": {}}));
        let mut ids = Vec::new();
        for revision in REVISIONS {
            ids.push((revision, opened(&client, "every", revision).await));
        }
        for _ in 0..2 {
            host = if crash { host.crashed().await } else { host.reopen().await };
            let client = host.client();
            assert_eq!(host.supervisor.sessions(None).len(), REVISIONS.len());
            for (revision, id) in &ids {
                let session = client.known_session("every", id, revision);
                let answer = tool(&session, "whoami", json!({})).await;
                assert!(text(&answer).contains("sampling"), "its capabilities are known: {answer}");
            }
        }
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e120_e124_e125_a_restored_session_is_its_own_principals_at_its_own_server() {
    let servers = vec![server("every", "everything", &["--legacy"]), server("other", "everything", &["--legacy"])];
    let host = Host::with(servers, required()).await;
    let id = opened(&host.client_of("ann").await, "every", "2025-11-25").await;
    let host = host.crashed().await;
    let (ann, bob) = (host.client_of("ann").await, host.client_of("bob").await);
    let none = bob.known_session("every", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "2025-11-25");
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let nothing = none.post(body).await.unwrap();
    assert_eq!(nothing.status, 404);
    for (client, at) in [(&bob, "every"), (&bob, "other"), (&ann, "other")] {
        let session = client.known_session(at, &id, "2025-11-25");
        let found = session.post(body).await.unwrap();
        assert_eq!((found.status, &found.body), (404, &nothing.body), "{at}: another's looks like none");
        assert_eq!(session.listen().await.unwrap().status, 404);
        assert_eq!(session.close().await.unwrap().status, 404);
    }
    let session = ann.known_session("every", &id, "2025-11-25");
    assert_eq!(ping(&session).await, 200);
    session.close().await.unwrap();
    host.stop().await;
}

/// An upgrade: the other daemon opens and closes sessions while this one serves already.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_another_daemon_opened_a_moment_ago_is_found_and_one_that_was_closed_is_not() {
    let host = Host::with(vec![server("every", "everything", &["--legacy"])], required()).await;
    let ann = host.client_of("ann").await;
    let id = opened(&ann, "every", "2025-11-25").await;
    let mut record = host.store.sessions().await.unwrap().remove(0);
    record.id = stdx::random::handle().unwrap();
    host.store.open_session(record.clone()).await.unwrap();
    let bob = host.client_of("bob").await;
    assert_eq!(ping(&bob.known_session("every", &record.id, "2025-11-25")).await, 404);
    let tasks = (0..20).map(|_| async { ping(&ann.known_session("every", &record.id, "2025-11-25")).await });
    let mut statuses = Vec::new();
    for task in tasks {
        statuses.push(task.await);
    }
    assert_eq!(statuses, [200; 20]);
    assert_eq!(host.supervisor.sessions(None).len(), 2, "counted once");

    for id in [&record.id, &id] {
        ann.known_session("every", id, "2025-11-25").close().await.unwrap();
        assert_eq!(ping(&ann.known_session("every", id, "2025-11-25")).await, 404);
    }
    assert_eq!(host.store.sessions().await.unwrap(), vec![], "a DELETE is answered when it is kept");
    let host = host.crashed().await;
    let ann = host.client_of("ann").await;
    assert_eq!(ping(&ann.known_session("every", &id, "2025-11-25")).await, 404);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_are_over_stay_over() {
    let servers = vec![server("every", "everything", &["--legacy"]), server("gone", "everything", &["--legacy"])];
    let host = Host::open(servers).await;
    let client = host.client();
    let removed = opened(&client, "gone", "2025-11-25").await;
    let idle = opened(&client, "every", "2025-11-25").await;
    let used = opened(&client, "every", "2025-11-25").await;
    host.store.remove_server(&name("gone")).await.unwrap();
    host.supervisor.reconcile().await.unwrap();
    let long_ago = stdx::clock::unix_ms() - 3_600_000;
    host.store.use_sessions(vec![(idle.clone(), long_ago)]).await.unwrap();
    // Of the same name, and another server.
    host.store.put_server(server("gone", "everything", &["--legacy"])).await.unwrap();
    let host = host.crashed().await;
    let client = host.client();
    assert_eq!(ping(&client.known_session("gone", &removed, "2025-11-25")).await, 404);
    assert_eq!(ping(&client.known_session("every", &idle, "2025-11-25")).await, 404);
    assert_eq!(ping(&client.known_session("every", &used, "2025-11-25")).await, 200);
    assert_eq!(host.store.sessions().await.unwrap().len(), 1, "nothing of them is left");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_use_of_a_session_is_noted_so_that_it_does_not_look_idle() {
    let mut setup = Setup::default();
    setup.supervisor.session_idle = Duration::from_secs(4);
    let host = Host::with(vec![server("every", "everything", &["--legacy"])], setup).await;
    let client = host.client();
    let id = opened(&client, "every", "2025-11-25").await;
    let before = host.store.sessions().await.unwrap()[0].used_at_ms;
    let session = client.known_session("every", &id, "2025-11-25");
    let mut later = before;
    for _ in 0..200 {
        assert_eq!(ping(&session).await, 200);
        later = host.store.sessions().await.unwrap()[0].used_at_ms;
        if later > before {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(later > before, "its use was never noted");
    eventually("an idle session ends", || host.supervisor.sessions(None).is_empty()).await;
    let mut left = 1;
    for _ in 0..200 {
        left = host.store.sessions().await.unwrap().len();
        if left == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(left, 0, "in the store too");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_a_session_is_not_kept() {
    let host = Host::open(vec![server("every", "everything", &["--legacy"])]).await;
    let client = host.client();
    let mut stream = client.get_stream("/sse/every", &[("accept", "text/event-stream")]).await.unwrap();
    let at = stream.next().await.unwrap().unwrap().data;
    let params =
        json!({"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}).to_string();
    client.post(&at, &[("content-type", "application/json")], body).await.unwrap();
    assert_eq!(next(&mut stream).await["id"], 1);
    assert_eq!(host.supervisor.sessions(None).len(), 1);
    assert_eq!(host.store.sessions().await.unwrap(), vec![]);
    host.stop().await;
}

/// Shows E77 too: a new process is told the level again.
#[tokio::test(flavor = "multi_thread")]
async fn level_and_subscriptions_are_made_again_at_the_new_process() {
    for flag in ["--legacy", "--modern"] {
        let host = Host::open(vec![server("every", "everything", &[flag])]).await;
        let client = host.client();
        let id = opened(&client, "every", "2025-11-25").await;
        let session = client.known_session("every", &id, "2025-11-25");
        let level = session.call("logging/setLevel", json!({"level": "error"})).await.unwrap();
        assert!(level["result"].is_object(), "{level}");
        for uri in [URI, "test://static-text"] {
            let answer = session.call("resources/subscribe", json!({"uri": uri})).await.unwrap();
            assert!(answer["result"].is_object(), "{flag}: {answer}");
        }
        let answer = session.call("resources/unsubscribe", json!({"uri": "test://static-text"})).await.unwrap();
        assert!(answer["result"].is_object(), "{flag}: {answer}");

        let host = host.crashed().await;
        let kept = host.store.sessions().await.unwrap().remove(0);
        assert_eq!((kept.level.as_deref(), kept.subscriptions), (Some("error"), vec![URI.to_owned()]));
        let client = host.client();
        let session = client.known_session("every", &id, "2025-11-25");
        let mut stream = session.listen().await.unwrap();
        // Nobody calls: the process is started and told because somebody waits for updates. What may have been missed is
        // told first.
        let first = next(&mut stream).await;
        assert_eq!(
            (&first["method"], &first["params"]["uri"]),
            (&json!("notifications/resources/updated"), &json!(URI))
        );
        tool(&session, "test_trigger_resource_update", json!({})).await;
        let second = next(&mut stream).await;
        assert_eq!(
            (&second["method"], &second["params"]["uri"]),
            (&json!("notifications/resources/updated"), &json!(URI))
        );
        // Below the level of the session nothing is told; the tool logs at `info`.
        let body = json!({"jsonrpc": "2.0", "id": "log", "method": "tools/call", "params": {"name": "test_tool_with_logging"}});
        let answer = session.post(body.to_string()).await.unwrap();
        let alone = answer.header("content-type").is_some_and(|kind| kind.starts_with("application/json"));
        assert!(alone, "{flag}: {answer:?}");
        host.stop().await;
    }
}

/// A GET stream goes on, wherever the client says that it stopped.
#[tokio::test(flavor = "multi_thread")]
async fn the_stream_of_what_belongs_to_no_request_goes_on_after_a_crash() {
    let host = Host::open(vec![in_mode(server("every", "everything", &["--legacy"]), Mode::PerSession)]).await;
    let client = host.client();
    let session = client.legacy_session("every").await.unwrap();
    let id = session.id.clone().unwrap();
    let mut stream = session.listen().await.unwrap();
    let mut last = stream.next().await.unwrap().unwrap().id.unwrap();
    tool(&session, "test_trigger_tool_change", json!({})).await;
    while let Some(event) = stream.next().await.unwrap() {
        last = event.id.unwrap_or(last);
        if !event.data.is_empty() {
            break;
        }
    }
    drop(stream);
    let host = host.crashed().await;
    let client = host.client();
    let session = client.known_session("every", &id, "2025-11-25");
    let mut headers = session.headers();
    headers.push(("last-event-id".to_owned(), last.clone()));
    let mut stream = session.resume(&headers).await.unwrap();
    assert_eq!(stream.status, 200, "{last}");
    tool(&session, "test_trigger_tool_change", json!({})).await;
    let event = stream.next().await.unwrap().unwrap();
    assert!(event.data.contains("notifications/tools/list_changed"), "{event:?}");
    let (stream_number, position) = last.split_once('-').unwrap();
    let expected = format!("{stream_number}-{}", position.parse::<u64>().unwrap() + 1);
    assert_eq!(event.id.as_deref(), Some(expected.as_str()), "one spelling for each event, none twice");
    // Another session's stream, and one that never was.
    let other = client.legacy_session("every").await.unwrap();
    let mut headers = other.headers();
    headers.push(("last-event-id".to_owned(), last));
    assert_eq!(other.resume(&headers).await.unwrap().status, 400);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_sessions_count() {
    let servers = || vec![server("every", "everything", &["--legacy"])];
    let host = Host::with(servers(), required()).await;
    let (ann, bob) = (host.client_of("ann").await, host.client_of("bob").await);
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(opened(&ann, "every", "2025-11-25").await);
        // So that it is known which was used last.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    opened(&bob, "every", "2025-11-25").await;
    let mut setup = required();
    setup.supervisor.sessions_per_principal = 2;
    setup.supervisor.sessions = 3;
    let host = host.reopen_with(setup).await;
    let (ann, bob) = (host.client_of("ann").await, host.client_of("bob").await);
    let mut valid = Vec::new();
    for id in &ids {
        valid.push(ping(&ann.known_session("every", id, "2025-11-25")).await);
    }
    assert_eq!(valid, [404, 200, 200], "those that were used last");
    assert!(ann.legacy_session("every").await.is_err(), "over her own limit");
    assert!(bob.legacy_session("every").await.is_err(), "over everybody's");
    ann.known_session("every", &ids[2], "2025-11-25").close().await.unwrap();
    assert!(bob.legacy_session("every").await.is_ok());
    host.stop().await;
}

/// The next event with a message: its id and the message. `None` at the end.
async fn event(stream: &mut Stream) -> Option<(String, Value)> {
    loop {
        let event =
            tokio::time::timeout(Duration::from_secs(20), stream.next()).await.expect("nothing came").unwrap()?;
        if !event.data.is_empty() {
            return Some((event.id.expect("an event without id"), serde_json::from_str(&event.data).unwrap()));
        }
    }
}

async fn resume(session: &Session<'_>, last: &str) -> Stream {
    let mut headers = session.headers();
    headers.push(("last-event-id".to_owned(), last.to_owned()));
    session.resume(&headers).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_process_is_gone_with_the_daemon_says_that_nobody_knows_whether_it_ran() {
    let host = Host::with(vec![server("every", "everything", &["--legacy"])], required()).await;
    let (ann, bob) = (host.client_of("ann").await, host.client_of("bob").await);
    let (id, bobs) = (opened(&ann, "every", "2025-06-18").await, opened(&bob, "every", "2025-06-18").await);
    let session = ann.known_session("every", &id, "2025-06-18");
    let slow = |ms: u64| json!({"name": "sleep", "arguments": {"ms": ms}, "_meta": {"progressToken": 1}});
    let mut quick = session.stream(&json!("quick"), "tools/call", slow(100)).await.unwrap();
    let (answered, _) = event(&mut quick).await.unwrap();
    while event(&mut quick).await.is_some() {}
    let mut stream = session.stream(&json!("slow"), "tools/call", slow(20_000)).await.unwrap();
    let (last, _) = event(&mut stream).await.unwrap();
    // The quick one's answer is on its way for a moment, and kept as long.
    let kept = eventually_some("one call that is kept", async || {
        let kept = host.store.open_calls().await.unwrap();
        (kept.len() == 1).then_some(kept)
    })
    .await;
    assert_eq!((kept[0].client_id.as_str(), &kept[0].session), ("\"slow\"", &id), "{kept:?}");

    let host = host.crashed().await;
    let (ann, bob) = (host.client_of("ann").await, host.client_of("bob").await);
    let session = ann.known_session("every", &id, "2025-06-18");
    assert_eq!(resume(&bob.known_session("every", &id, "2025-06-18"), &last).await.status, 404, "another's session");
    assert_eq!(resume(&bob.known_session("every", &bobs, "2025-06-18"), &last).await.status, 400, "another's stream");
    let mut rest = resume(&session, &last).await;
    let (_, message) = event(&mut rest).await.unwrap();
    assert_eq!((&message["id"], reason(&message)), (&json!("slow"), "outcome_unknown"), "{message}");
    assert_eq!(message["error"]["data"]["blame"], "host");
    assert!(event(&mut rest).await.is_none(), "the last event");
    // The other call was over, and its answer was taken.
    assert_eq!(resume(&session, &answered).await.status, 400);
    eventually_empty(&host).await;
    host.stop().await;
}

/// What the client has, the store forgets.
async fn eventually_empty(host: &Host) {
    for _ in 0..500 {
        if host.store.open_calls().await.unwrap().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(host.store.open_calls().await.unwrap(), vec![]);
}
