//! What must hold on every database: each case is a function over an empty place.

use crate::place::Place;
use model::{Blame, EraVerdict, ServerName, ServerSpec, TokenRecord, Verdict};
use std::collections::HashSet;
use store::{Cause, OpenError, Store};

pub(crate) fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

pub(crate) fn spec(text: &str, argument: &str) -> ServerSpec {
    ServerSpec::new(name(text), "program", vec![argument.to_owned()])
}

pub(crate) fn token(id: &str) -> TokenRecord {
    TokenRecord {
        id: id.to_owned(),
        hash: format!("hash of {id}"),
        principal: "alice".parse().unwrap(),
        audit: false,
        server: Some(name("files")),
        created_at_ms: 1_000,
        expires_at_ms: Some(9_000),
        revoked_at_ms: None,
    }
}

fn verdict(text: &str, verdict: Verdict) -> EraVerdict {
    EraVerdict {
        server: name(text),
        fingerprint: "ab12".to_owned(),
        verdict,
        discovered: Some(r#"{"n":12345678901234567890123}"#.to_owned()),
        probed_at_ms: 1_785_196_800_123,
    }
}

pub(crate) async fn everything_survives_a_restart(place: &Place) {
    let store = place.open().await;
    let put = store.put_server(spec("files", "one")).await.unwrap();
    store.put_verdict(verdict("files", Verdict::Dual)).await.unwrap();
    store.put_token(token("t1")).await.unwrap();
    store.put_setting("identity", "abc").await.unwrap();
    drop(store);

    let store = place.open().await;
    assert_eq!(store.servers().await.unwrap(), vec![put]);
    assert_eq!(store.verdict(&name("files")).await.unwrap(), Some(verdict("files", Verdict::Dual)));
    assert_eq!(store.tokens().await.unwrap(), vec![token("t1")]);
    assert_eq!(store.setting("identity").await.unwrap().as_deref(), Some("abc"));
}

pub(crate) async fn a_generation_is_never_reused(place: &Place) {
    let store = place.open().await;
    assert_eq!(store.put_server(spec("files", "one")).await.unwrap().generation, 1);
    assert_eq!(store.put_server(spec("files", "two")).await.unwrap().generation, 2);
    assert!(store.remove_server(&name("files")).await.unwrap());
    assert!(!store.remove_server(&name("files")).await.unwrap());
    assert_eq!(store.server(&name("files")).await.unwrap(), None);
    drop(store);

    let store = place.open().await;
    let again = store.put_server(spec("files", "two")).await.unwrap();
    assert_eq!(again.generation, 3, "the same text after a removal is a new generation");
    assert_eq!(store.put_server(spec("other", "one")).await.unwrap().generation, 1, "each name counts for itself");
}

pub(crate) async fn an_unchanged_server_keeps_its_generation(place: &Place) {
    let store = place.open().await;
    let first = store.put_server(spec("files", "one")).await.unwrap();
    let same = ServerSpec { generation: 77, ..spec("files", "one") };
    assert_eq!(store.put_server(same).await.unwrap(), first, "the caller's number is ignored");

    let off = ServerSpec { enabled: false, ..spec("files", "one") };
    let off = store.put_server(off).await.unwrap();
    assert_eq!((off.generation, off.enabled), (1, false));
    assert_eq!(store.server(&name("files")).await.unwrap(), Some(off.clone()));

    let on = store.set_enabled(&name("files"), true).await.unwrap();
    assert_eq!(on, Some(first));
    assert_eq!(store.set_enabled(&name("nobody"), true).await.unwrap(), None);
    assert_eq!(store.generation(&name("files"), 2).await.unwrap(), None);
}

pub(crate) async fn old_generations_stay_as_they_were(place: &Place) {
    let store = place.open().await;
    let first = store.put_server(spec("files", "one")).await.unwrap();
    let mut second = spec("files", "two");
    second.program_mut().unwrap().env.insert("KEY".to_owned(), "value".to_owned());
    second.program_mut().unwrap().cwd = Some("/srv".to_owned());
    let second = store.put_server(second).await.unwrap();
    store.put_server(spec("files", "one")).await.unwrap();
    store.set_enabled(&name("files"), false).await.unwrap();
    store.remove_server(&name("files")).await.unwrap();

    assert_eq!(store.generation(&name("files"), 1).await.unwrap(), Some(first));
    assert_eq!(store.generation(&name("files"), 2).await.unwrap(), Some(second));
    assert_eq!(store.generation(&name("files"), u64::MAX).await.unwrap(), None);
}

pub(crate) async fn text_comes_back_as_it_was(place: &Place) {
    let store = place.open().await;
    let mut odd = spec("a.b_C-9", "'; DROP TABLE servers; -- $1 ? \u{1F6A2} \\ \" \u{0}");
    odd.program_mut().unwrap().env.insert("E".to_owned(), "ligne\nzwei\t\u{7f}".to_owned());
    let put = store.put_server(odd.clone()).await.unwrap();
    assert_eq!(put, ServerSpec { generation: 1, ..odd });
    assert_eq!(store.server(&name("a.b_C-9")).await.unwrap(), Some(put));

    for (key, value) in [("$1", "'"), ("", ""), ("\u{1F6A2}", "%s \\x00")] {
        store.put_setting(key, value).await.unwrap();
        assert_eq!(store.setting(key).await.unwrap().as_deref(), Some(value));
    }
}

pub(crate) async fn servers_are_listed_by_name(place: &Place) {
    let store = place.open().await;
    for text in ["b", "a", "B", "a-b", "a.b", "_a", "10", "9"].into_iter().filter(|text| !text.starts_with('_')) {
        store.put_server(spec(text, "x")).await.unwrap();
    }
    let names: Vec<String> = store.servers().await.unwrap().iter().map(|server| server.name.to_string()).collect();
    assert_eq!(names, ["10", "9", "B", "a", "a-b", "a.b", "b"], "the same order whatever the database's collation");
}

pub(crate) async fn verdicts_are_replaced_and_forgotten(place: &Place) {
    let store = place.open().await;
    assert_eq!(store.verdict(&name("files")).await.unwrap(), None);
    for found in [Verdict::Legacy, Verdict::Modern, Verdict::Dual] {
        store.put_verdict(verdict("files", found)).await.unwrap();
        assert_eq!(store.verdict(&name("files")).await.unwrap(), Some(verdict("files", found)));
    }
    let bare = EraVerdict { discovered: None, ..verdict("files", Verdict::Legacy) };
    store.put_verdict(bare.clone()).await.unwrap();
    assert_eq!(store.verdict(&name("files")).await.unwrap(), Some(bare));
    store.forget_verdict(&name("files")).await.unwrap();
    store.forget_verdict(&name("files")).await.unwrap();
    assert_eq!(store.verdict(&name("files")).await.unwrap(), None);

    store.put_server(spec("files", "one")).await.unwrap();
    store.put_verdict(verdict("files", Verdict::Dual)).await.unwrap();
    store.remove_server(&name("files")).await.unwrap();
    assert_eq!(store.verdict(&name("files")).await.unwrap(), None, "a removed server takes its verdict along");
}

pub(crate) async fn tokens_end_once_and_are_deleted_later(place: &Place) {
    let store = place.open().await;
    let forever = TokenRecord { server: None, expires_at_ms: None, created_at_ms: 500, ..token("t2") };
    store.put_token(token("t1")).await.unwrap();
    store.put_token(forever.clone()).await.unwrap();
    assert_eq!(store.tokens().await.unwrap(), vec![forever.clone(), token("t1")], "oldest first");

    let same_id = TokenRecord { hash: "another".to_owned(), ..token("t1") };
    let same_hash = TokenRecord { id: "another".to_owned(), ..token("t1") };
    for taken in [same_id, same_hash] {
        let error = store.put_token(taken).await.unwrap_err();
        assert!(matches!(error.cause(), Cause::Exists), "{error:?}");
    }

    assert!(store.revoke_token("t2", 6_000).await.unwrap());
    assert!(!store.revoke_token("t2", 7_000).await.unwrap(), "revoked before");
    assert!(!store.revoke_token("t3", 7_000).await.unwrap(), "never there");
    let revoked = TokenRecord { revoked_at_ms: Some(6_000), ..forever };
    assert_eq!(store.tokens().await.unwrap()[0], revoked);

    assert_eq!(store.delete_ended_tokens(6_000).await.unwrap(), 0, "the bound itself stays");
    assert_eq!(store.delete_ended_tokens(6_001).await.unwrap(), 1);
    assert_eq!(store.tokens().await.unwrap(), vec![token("t1")]);
    assert_eq!(store.delete_ended_tokens(9_001).await.unwrap(), 1);
}

pub(crate) async fn what_cannot_be_kept_is_refused(place: &Place) {
    let store = place.open().await;
    store.put_setting("key", &"x".repeat(4096)).await.unwrap();
    let long = store.put_setting("key", &"x".repeat(4097)).await.unwrap_err();
    assert!(matches!(long.cause(), Cause::TooLarge { bytes: 4097, limit: 4096, .. }), "{long:?}");
    let nul = store.put_setting("key", "a\0b").await.unwrap_err();
    assert!(matches!(nul.cause(), Cause::Nul), "{nul:?}");
    assert_eq!((long.blame(), nul.blame()), (Blame::Caller, Blame::Caller));

    let huge = store.put_server(spec("files", &"x".repeat(1 << 20))).await.unwrap_err();
    assert!(matches!(huge.cause(), Cause::TooLarge { .. }), "{huge:?}");
    let endless = EraVerdict { discovered: Some("x".repeat((1 << 20) + 1)), ..verdict("files", Verdict::Dual) };
    let endless = store.put_verdict(endless).await.unwrap_err();
    assert!(matches!(endless.cause(), Cause::TooLarge { .. }), "{endless:?}");

    assert_eq!(store.setting("key").await.unwrap(), Some("x".repeat(4096)), "a refused write changes nothing");
    assert_eq!(store.put_server(spec("files", "x")).await.unwrap().generation, 1, "a refused server has no number");
}

pub(crate) async fn sixty_four_callers_at_once_lose_nothing(place: &Place) {
    let store = place.open().await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..64 {
        let store = store.clone();
        tasks.spawn(async move {
            store.put_token(token(&format!("t{number}"))).await.unwrap();
            store.put_setting(&format!("k{number}"), &number.to_string()).await.unwrap();
            store.put_server(spec("files", &number.to_string())).await.unwrap()
        });
    }
    let put = tasks.join_all().await;
    for server in &put {
        let kept = store.generation(&name("files"), server.generation).await.unwrap();
        assert_eq!(kept.as_ref(), Some(server), "each caller got its own number");
    }
    let numbers: HashSet<u64> = put.iter().map(|server| server.generation).collect();
    assert_eq!(numbers, (1..=64).collect());
    assert_eq!(store.tokens().await.unwrap().len(), 64);
    for number in 0..64 {
        assert_eq!(store.setting(&format!("k{number}")).await.unwrap(), Some(number.to_string()));
    }
}

/// Two daemons by mistake, or by design on PostgreSQL: the tables are made once, numbers are given once.
pub(crate) async fn two_stores_on_one_database_agree(place: &Place) {
    let (one, two) = tokio::join!(place.open(), place.open());
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..40 {
        let store = if number % 2 == 0 { one.clone() } else { two.clone() };
        tasks.spawn(async move { store.put_server(spec("files", &number.to_string())).await.unwrap().generation });
    }
    let numbers: HashSet<u64> = tasks.join_all().await.into_iter().collect();
    assert_eq!(numbers, (1..=40).collect());
    let (seen_by_one, seen_by_two) = (one.servers().await.unwrap(), two.servers().await.unwrap());
    assert_eq!(seen_by_one, seen_by_two);
}

/// The handle goes away with work in the queue; whatever was answered before is there.
pub(crate) async fn a_dropped_store_loses_no_acknowledged_write(place: &Place) {
    let store = place.open().await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..100 {
        let store = store.clone();
        tasks.spawn(async move {
            store.put_token(token(&format!("t{number}"))).await.unwrap();
            number
        });
    }
    drop(store);
    let mut acknowledged = Vec::new();
    while acknowledged.len() < 30 {
        acknowledged.push(tasks.join_next().await.unwrap().unwrap());
    }
    tasks.abort_all();
    drop(tasks);

    let store = place.open().await;
    let kept: HashSet<String> = store.tokens().await.unwrap().into_iter().map(|token| token.id).collect();
    for number in acknowledged {
        assert!(kept.contains(&format!("t{number}")), "t{number} was acknowledged and is gone");
    }
}

pub(crate) async fn a_newer_schema_is_refused(place: &Place) {
    drop(place.open().await);
    place.sql("INSERT INTO schema_migrations (number, name, applied_at_ms) VALUES (7, 'from the future', 0)");
    let error = Store::open(place.location.clone()).await.unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 7, known: 3 }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "the database was written by a newer staithe (schema 7; this one knows up to 3); run that version, or restore \
         the backup from before the upgrade"
    );
}

pub(crate) async fn damaged_rows_are_named_and_secrets_are_not(place: &Place) {
    let store = place.open().await;
    let mut secret = spec("files", "one");
    secret.program_mut().unwrap().env.insert("KEY".to_owned(), "hunter2".to_owned());
    store.put_server(secret).await.unwrap();
    place.sql(r#"UPDATE generations SET spec_json = '{"name":"files","env":{"KEY":"hunter2"},"mode":"hunter2"}'"#);
    let error = store.servers().await.unwrap_err();
    assert!(matches!(error.cause(), Cause::Damaged { .. }), "{error:?}");
    assert_eq!(error.blame(), Blame::Host);
    assert!(!format!("{error:?} {}", stdx::chain::Chain(&error)).contains("hunter2"));
}
