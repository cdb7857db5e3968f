//! What must hold for sessions and for relaxed writes, on every database.

use crate::cases::{name, spec, token};
use crate::place::Place;
use model::{OpenCall, SessionRecord};
use std::collections::HashSet;
use store::{Cause, Store};

fn session(id: &str) -> SessionRecord {
    SessionRecord {
        id: id.to_owned(),
        server: name("files"),
        principal: "ann".parse().unwrap(),
        client: String::new(),
        revision: "2025-06-18".to_owned(),
        capabilities: r#"{"sampling":{}}"#.to_owned(),
        client_info: r#"{"name":"\u0000 ' $1","n":1.10}"#.to_owned(),
        label: "c 1".to_owned(),
        level: None,
        standing: None,
        opened_at_ms: 1_000,
        used_at_ms: 2_000,
        subscriptions: Vec::new(),
    }
}

fn open_call(id: &str, stream: u64) -> OpenCall {
    OpenCall {
        session: id.to_owned(),
        stream,
        upstream: (7 << 32) | stream,
        instance: 3,
        server: name("files"),
        client_id: r#""a\u0062""#.to_owned(),
        method: "tools/call".to_owned(),
        leg: "legacy-legacy".to_owned(),
        deadline_ms: 99_000,
    }
}

async fn find(store: &Store, id: &str) -> Option<SessionRecord> {
    store.session(id, &"ann".parse().unwrap(), "", &name("files")).await.unwrap()
}

pub(crate) async fn a_session_comes_back_with_all_that_it_was(place: &Place) {
    let store = place.open().await;
    let uri = format!("file:///{}", "x".repeat(10_000));
    store.open_session(session("s1")).await.unwrap();
    store.open_session(SessionRecord { used_at_ms: 3_000, ..session("s2") }).await.unwrap();
    store.set_session_level("s1", "warning").await.unwrap();
    store.set_standing_stream("s1", 1 << 40).await.unwrap();
    for wanted in ["b", &uri, "a", "b", "c"] {
        store.add_session_subscription("s1", wanted).await.unwrap();
    }
    store.end_session_subscription("s1", "c").await.unwrap();
    store.use_sessions(vec![("s1".to_owned(), 4_000), ("nobody".to_owned(), 5_000)]).await.unwrap();
    store.put_open_call(open_call("s1", 5)).await.unwrap();
    store.put_open_call(OpenCall { upstream: 11, ..open_call("s1", 5) }).await.unwrap();
    store.put_open_call(open_call("s1", 6)).await.unwrap();
    store.end_open_call("s1", 6).await.unwrap();
    store.put_open_call(open_call("s1", 7)).await.unwrap();
    store.open_call_answered("s1", 7).await.unwrap();
    drop(store);

    let store = place.open().await;
    let one = SessionRecord {
        level: Some("warning".to_owned()),
        standing: Some(1 << 40),
        used_at_ms: 4_000,
        subscriptions: vec!["a".to_owned(), "b".to_owned(), uri],
        ..session("s1")
    };
    let two = SessionRecord { used_at_ms: 3_000, ..session("s2") };
    assert_eq!(store.sessions().await.unwrap(), vec![one.clone(), two], "the one used last first");
    assert_eq!(find(&store, "s1").await, Some(one));
    let calls = store.open_calls().await.unwrap();
    let answered = OpenCall { deadline_ms: 0, ..open_call("s1", 7) };
    assert_eq!(
        calls,
        vec![OpenCall { upstream: 11, ..open_call("s1", 5) }, answered],
        "one for each stream, the newest"
    );
}

pub(crate) async fn a_session_is_found_by_its_own_principal_alone(place: &Place) {
    let store = place.open().await;
    store.open_session(session("s1")).await.unwrap();
    for (id, principal, client, server) in [
        ("s1", "bob", "", "files"),
        ("s1", "ann", "c", "files"),
        ("s1", "ann", "", "other"),
        ("s2", "ann", "", "files"),
    ] {
        let found = store.session(id, &principal.parse().unwrap(), client, &name(server)).await.unwrap();
        assert_eq!(found, None, "{id} {principal} {client} {server}");
    }
    assert!(find(&store, "s1").await.is_some());
    let taken = store.open_session(session("s1")).await.unwrap_err();
    assert!(matches!(taken.cause(), Cause::Exists), "{taken:?}");
}

pub(crate) async fn what_ended_takes_its_subscriptions_and_calls_along(place: &Place) {
    let store = place.open().await;
    store.put_server(spec("files", "one")).await.unwrap();
    for id in ["s1", "s2", "s3"] {
        store.open_session(session(id)).await.unwrap();
        store.add_session_subscription(id, "a").await.unwrap();
        store.put_open_call(open_call(id, 1)).await.unwrap();
    }
    store.open_session(SessionRecord { server: name("other"), ..session("s4") }).await.unwrap();
    store.end_sessions(vec!["s1".to_owned(), "nobody".to_owned()]).await.unwrap();
    assert_eq!(store.open_calls().await.unwrap().len(), 2);
    // An id is never given out twice; if it were, nothing of the earlier session would be found.
    store.open_session(session("s1")).await.unwrap();
    assert_eq!(find(&store, "s1").await, Some(session("s1")));

    store.remove_server(&name("files")).await.unwrap();
    let left: Vec<String> = store.sessions().await.unwrap().into_iter().map(|session| session.id).collect();
    assert_eq!(left, ["s4"], "a removed server takes its sessions along");
    assert_eq!(store.open_calls().await.unwrap(), vec![]);
    store.end_sessions_of(&name("other")).await.unwrap();
    assert_eq!(store.sessions().await.unwrap(), vec![]);
}

pub(crate) async fn of_a_session_that_is_not_there_nothing_is_kept(place: &Place) {
    let store = place.open().await;
    store.add_session_subscription("s1", "a").await.unwrap();
    store.put_open_call(open_call("s1", 1)).await.unwrap();
    store.set_session_level("s1", "info").await.unwrap();
    store.open_session(session("s1")).await.unwrap();
    assert_eq!(find(&store, "s1").await, Some(session("s1")));
    assert_eq!(store.open_calls().await.unwrap(), vec![]);
}

/// Writes that wait together share a transaction: those that fail must fail alone, whatever the reason.
pub(crate) async fn one_that_cannot_be_written_takes_no_other_with_it(place: &Place) {
    let store = place.open().await;
    store.open_session(session("taken")).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..150 {
        let store = store.clone();
        tasks.spawn(async move {
            let id = format!("s{number}");
            let outcome = match number % 5 {
                0 => store.open_session(session("taken")).await,
                1 => store.open_session(SessionRecord { label: "a\0b".to_owned(), ..session(&id) }).await,
                2 => store.add_session_subscription("taken", &"x".repeat((16 << 10) + 1)).await,
                _ => store.open_session(session(&id)).await,
            };
            (number, outcome)
        });
    }
    for (number, outcome) in tasks.join_all().await {
        match (number % 5, outcome) {
            (0, Err(error)) => assert!(matches!(error.cause(), Cause::Exists), "{error:?}"),
            (1, Err(error)) => assert!(matches!(error.cause(), Cause::Nul), "{error:?}"),
            (2, Err(error)) => assert!(matches!(error.cause(), Cause::TooLarge { .. }), "{error:?}"),
            (3 | 4, outcome) => outcome.unwrap(),
            (kind, Ok(())) => unreachable!("a write of kind {kind} was made"),
            (kind, Err(error)) => unreachable!("kind {kind}: {error:?}"),
        }
    }
    let kept: HashSet<String> = store.sessions().await.unwrap().into_iter().map(|session| session.id).collect();
    let expected = (0..150).filter(|number| number % 5 > 2).map(|number| format!("s{number}"));
    assert_eq!(kept, expected.chain(["taken".to_owned()]).collect());
}

pub(crate) async fn relaxed_writes_at_once_lose_nothing_and_keep_their_order(place: &Place) {
    let store = place.open().await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..100 {
        let store = store.clone();
        tasks.spawn(async move {
            let id = format!("s{number}");
            store.open_session(session(&id)).await.unwrap();
            // Others do other things in between, full writes and reads among them.
            if number % 7 == 0 {
                store.put_setting(&id, &id).await.unwrap();
            }
            store.set_session_level(&id, "debug").await.unwrap();
            store.set_session_level(&id, "error").await.unwrap();
            assert_eq!(find(&store, &id).await.unwrap().level.as_deref(), Some("error"), "it sees its own writes");
        });
    }
    tasks.join_all().await;
    drop(store);
    let kept = place.open().await.sessions().await.unwrap();
    assert_eq!(kept.len(), 100);
    assert!(kept.iter().all(|session| session.level.as_deref() == Some("error")));
}

pub(crate) async fn a_full_write_after_relaxed_ones_keeps_all(place: &Place) {
    let store = place.open().await;
    store.open_session(session("s1")).await.unwrap();
    store.put_token(token("t1")).await.unwrap();
    store.open_session(session("s2")).await.unwrap();
    drop(store);
    let store = place.open().await;
    assert_eq!(store.sessions().await.unwrap().len(), 2);
    assert_eq!(store.tokens().await.unwrap(), vec![token("t1")]);
}
