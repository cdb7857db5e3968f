//! Orphans, attacked: two daemons on one store, the second of which gets the answers.

use super::*;
use crate::events::{NotKept, Reader};
use crate::session::{Opening, Underway};
use crate::settings::Limits;
use bytes::Bytes;
use model::ServerSpec;
use serde_json::{Value, json};
use std::time::Duration;
use store::Location;
use tempfile::TempDir;
use wire::era::Revision;
use wire::scan::{self, Side};

const EARLIER: u64 = 7;
const LATER: u64 = 8;

async fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Location::Sqlite(dir.path().join("db"))).await.unwrap();
    store.put_server(ServerSpec::new("s".parse().unwrap(), "program", Vec::new())).await.unwrap();
    (dir, store)
}

async fn sessions(store: &Store, epoch: u64) -> Sessions {
    Sessions::restore(store.clone(), Limits::default(), epoch).await.unwrap()
}

async fn open(sessions: &Sessions, principal: &str, revision: Revision) -> Arc<Session> {
    let opening = Opening {
        server: "s".parse().unwrap(),
        principal: principal.parse().unwrap(),
        client: String::new(),
        revision,
        capabilities: Bytes::from_static(b"{}"),
        client_info: Bytes::from_static(b"{}"),
        label: String::new(),
        channel: None,
    };
    sessions.open(opening).await.unwrap()
}

/// A call in flight whose stream has two events: the id of the second.
async fn call(session: &Session, upstream: u64, instance: u64, leg: Leg) -> String {
    let (writer, mut reader) = session.open_request_stream();
    for _ in 0..2 {
        writer.send(Bytes::from_static(b"{}"), Duration::from_secs(1)).await.unwrap();
        reader.next().await.unwrap();
    }
    let call = Underway {
        upstream: (EARLIER << 32) | upstream,
        instance,
        leg,
        client_id: format!("\"call {upstream}\"").into(),
        method: "tools/call".to_owned(),
        deadline_ms: unix_ms() + 60_000,
    };
    session.keep_call(reader.position().stream(), &call).await;
    reader.position().to_string()
}

/// The daemon that comes after.
async fn later(store: &Store) -> (Sessions, Orphans) {
    let sessions = sessions(store, LATER).await;
    let orphans = Orphans::new(store.clone(), LATER);
    orphans.load(&sessions).await.unwrap();
    (sessions, orphans)
}

fn found(sessions: &Sessions, session: &Session) -> Arc<Session> {
    sessions.by_id(session.id()).unwrap()
}

fn answer(upstream: u64, text: &str) -> Message {
    let body = json!({"jsonrpc": "2.0", "id": (EARLIER << 32) | upstream, "result": {"content": [{"type": "text", "text": text}]}});
    let body = Bytes::from(body.to_string());
    let limits = scan::Limits { bytes: body.len(), depth: 16 };
    Message::parse(body, Side::Server, &limits).unwrap()
}

async fn next(reader: &mut Reader) -> Option<(String, Value)> {
    let next = tokio::time::timeout(Duration::from_secs(10), reader.next()).await.unwrap();
    next.map(|(id, message)| (id.to_string(), serde_json::from_slice(&message).unwrap()))
}

fn after(id: &str) -> String {
    let (stream, position) = id.split_once('-').unwrap();
    format!("{stream}-{}", position.parse::<u64>().unwrap() + 1)
}

fn is_unknown(message: &Value) -> bool {
    message["error"]["data"] == json!({"source": "staithe", "reason": "outcome_unknown", "blame": "host"})
}

#[tokio::test]
async fn an_answer_that_comes_late_is_the_last_event_of_its_own_stream() {
    let (_dir, store) = store().await;
    let before = sessions(&store, EARLIER).await;
    let (ann, bob) = (open(&before, "ann", Revision::V20251125).await, open(&before, "bob", Revision::V20251125).await);
    let anns = call(&ann, 1, 3, Leg::LegacyToLegacy).await;
    let bobs = call(&bob, 2, 3, Leg::LegacyToLegacy).await;
    assert_eq!(anns, bobs, "the same names in different sessions");

    let (sessions, orphans) = later(&store).await;
    assert!(orphans.waits_on(3) && !orphans.waits_on(4));
    let (ann, bob) = (found(&sessions, &ann), found(&sessions, &bob));
    // One client is there before the answer, the other comes after it.
    let mut early = ann.resume(anns.as_bytes()).unwrap();
    assert!(!orphans.answer(3, 99, &answer(99, "of nobody")));
    assert!(!orphans.answer(4, (EARLIER << 32) | 2, &answer(2, "forged")), "of another process");
    assert!(orphans.answer(3, (EARLIER << 32) | 2, &answer(2, "for bob")));
    assert!(orphans.answer(3, (EARLIER << 32) | 1, &answer(1, "for ann")));
    assert!(!orphans.answer(3, (EARLIER << 32) | 1, &answer(1, "twice")), "once");
    assert!(!orphans.waits_on(3));
    let mut late = bob.resume(bobs.as_bytes()).unwrap();
    for (reader, last, n, text) in [(&mut early, &anns, 1, "for ann"), (&mut late, &bobs, 2, "for bob")] {
        let (id, message) = next(reader).await.unwrap();
        assert_eq!(id, after(last));
        assert_eq!(
            (&message["id"], &message["result"]["content"][0]["text"]),
            (&json!(format!("call {n}")), &json!(text))
        );
        assert!(next(reader).await.is_none(), "complete");
    }
    late.leave();
    let mut again = bob.resume(bobs.as_bytes()).unwrap();
    assert_eq!(next(&mut again).await.unwrap().0, after(&bobs), "for a while, under the same name");
    assert_eq!(bob.resume(after(&after(&bobs)).as_bytes()).unwrap_err(), NotKept, "what never was");
}

#[tokio::test]
async fn wherever_the_client_says_that_it_stopped_the_answer_follows() {
    let (_dir, store) = store().await;
    let before = sessions(&store, EARLIER).await;
    let ann = open(&before, "ann", Revision::V20251125).await;
    let last = call(&ann, 1, 3, Leg::LegacyToLegacy).await;
    let (stream, _) = last.split_once('-').unwrap();
    let (sessions, orphans) = later(&store).await;
    let ann = found(&sessions, &ann);
    for position in [0, 5, 2, 900] {
        let mut reader = ann.resume(format!("{stream}-{position}").as_bytes()).unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(1), reader.next()).await.is_err(), "nothing yet");
        reader.leave();
    }
    for wrong in [format!("{stream}-{}", u64::MAX), format!("{stream}-+1"), format!("0{stream}-1"), "1-1".to_owned()] {
        assert_eq!(ann.resume(wrong.as_bytes()).unwrap_err(), NotKept, "{wrong}");
    }
    orphans.answer(3, (EARLIER << 32) | 1, &answer(1, "done"));
    let mut reader = ann.resume(format!("{stream}-41").as_bytes()).unwrap();
    assert_eq!(next(&mut reader).await.unwrap().0, format!("{stream}-42"));
    // Streams of this daemon have other numbers.
    let (_writer, own) = ann.open_request_stream();
    assert_ne!(own.position().stream().to_string(), stream);
    assert_eq!(own.position().stream() >> 24, LATER);
}

#[tokio::test]
async fn where_no_answer_can_come_the_client_is_told_that_nobody_knows() {
    let (_dir, store) = store().await;
    let before = sessions(&store, EARLIER).await;
    let ann = open(&before, "ann", Revision::V20250618).await;
    let gone = call(&ann, 1, 3, Leg::LegacyToLegacy).await;
    let ends = call(&ann, 2, 4, Leg::LegacyToLegacy).await;
    let lives = call(&ann, 3, 5, Leg::LegacyToLegacy).await;
    let late = call(&ann, 4, 5, Leg::LegacyToLegacy).await;
    let stream: u64 = late.split_once('-').unwrap().0.parse().unwrap();
    ann.call_answered(stream).await;
    let (sessions, orphans) = later(&store).await;
    let ann = found(&sessions, &ann);
    let mut late = ann.resume(late.as_bytes()).unwrap();
    assert!(is_unknown(&next(&mut late).await.unwrap().1), "its answer went to the earlier daemon");
    orphans.keep_only(&HashSet::from([4, 5]));
    orphans.instance_is_gone(4);
    orphans.instance_is_gone(6);
    orphans.sweep();
    for (id, n) in [(&gone, 1), (&ends, 2)] {
        let mut reader = ann.resume(id.as_bytes()).unwrap();
        let (_, message) = next(&mut reader).await.unwrap();
        assert_eq!((is_unknown(&message), &message["id"]), (true, &json!(format!("call {n}"))), "{message}");
        assert!(next(&mut reader).await.is_none());
    }
    assert!(!orphans.answer(3, (EARLIER << 32) | 1, &answer(1, "too late")), "answered once");
    assert!(orphans.answer(5, (EARLIER << 32) | 3, &answer(3, "in time")));
    let mut reader = ann.resume(lives.as_bytes()).unwrap();
    assert_eq!(next(&mut reader).await.unwrap().1["result"]["content"][0]["text"], "in time");
}

#[tokio::test]
async fn an_answer_crosses_the_eras_and_what_no_session_can_be_asked_is_an_error() {
    let (_dir, store) = store().await;
    let before = sessions(&store, EARLIER).await;
    let ann = open(&before, "ann", Revision::V20250326).await;
    let plain = call(&ann, 1, 3, Leg::LegacyToModern).await;
    let asks = call(&ann, 2, 3, Leg::LegacyToModern).await;
    let (sessions, orphans) = later(&store).await;
    let ann = found(&sessions, &ann);
    let modern = |n: u64, result: Value| {
        let body = Bytes::from(json!({"jsonrpc": "2.0", "id": n, "result": result}).to_string());
        Message::parse(body, Side::Server, &scan::Limits { bytes: 4096, depth: 16 }).unwrap()
    };
    let linked = json!({"resultType": "complete", "content": [{"type": "resource_link", "uri": "a:b", "name": "n"}]});
    orphans.answer(3, (EARLIER << 32) | 1, &modern(1, linked));
    orphans.answer(3, (EARLIER << 32) | 2, &modern(2, json!({"resultType": "input_required", "inputRequests": {}})));
    let (_, message) = next(&mut ann.resume(plain.as_bytes()).unwrap()).await.unwrap();
    assert!(message["result"].get("resultType").is_none(), "{message}");
    assert_eq!(message["result"]["content"][0]["type"], "text", "its revision has no links: {message}");
    let (_, message) = next(&mut ann.resume(asks.as_bytes()).unwrap()).await.unwrap();
    assert!(message["error"].is_object(), "{message}");
}

#[tokio::test]
async fn a_call_is_forgotten_with_its_session_and_when_it_is_over() {
    let (_dir, store) = store().await;
    let before = sessions(&store, EARLIER).await;
    let (ann, bob) = (open(&before, "ann", Revision::V20251125).await, open(&before, "bob", Revision::V20251125).await);
    call(&ann, 1, 3, Leg::LegacyToLegacy).await;
    let over = call(&bob, 2, 3, Leg::LegacyToLegacy).await;
    bob.call_over(over.split_once('-').unwrap().0.parse().unwrap()).await;
    assert_eq!(store.open_calls().await.unwrap().len(), 1);
    let (sessions, orphans) = later(&store).await;
    assert_eq!(found(&sessions, &bob).resume(over.as_bytes()).unwrap_err(), NotKept);
    let ann = found(&sessions, &ann);
    sessions.close(&ann);
    sessions.forget(&ann).await;
    assert_eq!(store.open_calls().await.unwrap(), vec![]);
    orphans.sweep();
    assert!(!orphans.waits_on(3));
    assert!(!orphans.answer(3, (EARLIER << 32) | 1, &answer(1, "for nobody")));
}

#[tokio::test]
async fn streams_that_wait_are_bounded() {
    let (_dir, store) = store().await;
    let before = sessions(&store, EARLIER).await;
    let ann = open(&before, "ann", Revision::V20251125).await;
    let mut ids = Vec::new();
    for n in 0..40 {
        ids.push(call(&ann, n, 3, Leg::LegacyToLegacy).await);
    }
    let (sessions, orphans) = later(&store).await;
    orphans.keep_only(&HashSet::new());
    let ann = found(&sessions, &ann);
    let kept = ids
        .iter()
        .filter(|id| {
            ann.resume(id.as_bytes()).is_ok_and(|reader| {
                reader.leave();
                true
            })
        })
        .count();
    assert_eq!(kept, Limits::default().replay_streams as usize);
}

/// A session that was opened while the later daemon began: nobody had told it of its calls.
#[tokio::test]
async fn calls_of_a_session_that_was_not_known_are_found_when_its_client_comes() {
    let (_dir, store) = store().await;
    let before = sessions(&store, EARLIER).await;
    let (sessions, orphans) = later(&store).await;
    let ann = open(&before, "ann", Revision::V20251125).await;
    let (waits, over) = (call(&ann, 1, 3, Leg::LegacyToLegacy).await, call(&ann, 2, 3, Leg::LegacyToLegacy).await);
    ann.call_answered(over.split_once('-').unwrap().0.parse().unwrap()).await;
    let (principal, server) = ("ann".parse().unwrap(), "s".parse().unwrap());
    let found = sessions.find(ann.id(), &principal, "", &server).await.unwrap().unwrap().session;
    assert_eq!(found.resume(waits.as_bytes()).unwrap_err(), NotKept);
    assert!(orphans.load_of(&found, false).await);
    assert!(!orphans.load_of(&found, false).await, "nothing new");
    let mut reader = found.resume(over.as_bytes()).unwrap();
    assert!(is_unknown(&next(&mut reader).await.unwrap().1), "its answer went to the earlier daemon");
    let mut reader = found.resume(waits.as_bytes()).unwrap();
    assert!(orphans.answer(3, (EARLIER << 32) | 1, &answer(1, "found")));
    assert_eq!(next(&mut reader).await.unwrap().1["result"]["content"][0]["text"], "found");
    assert!(next(&mut reader).await.is_none());
    orphans.load(&sessions).await.unwrap();
    assert!(!orphans.waits_on(3), "what was answered here is not waited for again");
}

/// The earlier daemon got the answer after this one had begun to wait for it.
#[tokio::test]
async fn what_an_earlier_daemon_finished_meanwhile_is_waited_for_no_longer() {
    let (_dir, store) = store().await;
    let before = sessions(&store, EARLIER).await;
    let ann = open(&before, "ann", Revision::V20251125).await;
    let id = call(&ann, 1, 3, Leg::LegacyToLegacy).await;
    let (sessions, orphans) = later(&store).await;
    ann.call_answered(id.split_once('-').unwrap().0.parse().unwrap()).await;
    orphans.load(&sessions).await.unwrap();
    assert!(!orphans.waits_on(3));
    let mut reader = found(&sessions, &ann).resume(id.as_bytes()).unwrap();
    assert!(is_unknown(&next(&mut reader).await.unwrap().1));
}

#[tokio::test]
async fn a_client_takes_a_call_back_that_an_earlier_daemon_sent() {
    let (_dir, store) = store().await;
    let before = sessions(&store, EARLIER).await;
    let (ann, bob) = (open(&before, "ann", Revision::V20251125).await, open(&before, "bob", Revision::V20251125).await);
    let id = call(&ann, 1, 3, Leg::LegacyToLegacy).await;
    let (sessions, orphans) = later(&store).await;
    let (ann, bob) = (found(&sessions, &ann), found(&sessions, &bob));
    let mut reader = ann.resume(id.as_bytes()).unwrap();
    assert_eq!(orphans.cancel(&bob, b"\"call 1\""), vec![], "another's");
    assert_eq!(orphans.cancel(&ann, b"\"call 2\""), vec![], "another");
    assert_eq!(orphans.cancel(&ann, b"\"call 1\""), vec![((EARLIER << 32) | 1, 3)]);
    assert!(next(&mut reader).await.is_none(), "its stream ends without an answer");
    assert!(!orphans.answer(3, (EARLIER << 32) | 1, &answer(1, "too late")));
    assert!(!orphans.waits_on(3));
    let forgotten = async {
        while !store.open_calls().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), forgotten).await.unwrap();
}
