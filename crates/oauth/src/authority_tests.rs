//! Tests of the whole crate through its handle.

use super::{Authority, MOST_EPHEMERAL, MintError, Minted, OpenError, Opens};
use crate::verify::{Asked, Denied, verify};
use model::{Principal, ServerName};
use std::future::Future;
use std::path::Path;
use std::task::{Context, Waker};
use stdx::random;
use store::{Location, Store};
use tempfile::TempDir;

fn files() -> ServerName {
    "files".parse().unwrap()
}

fn other() -> ServerName {
    "other".parse().unwrap()
}

/// `Minted` has no `Debug`, so no `unwrap`.
fn made(minted: Result<Minted, MintError>) -> Minted {
    minted.unwrap_or_else(|error| panic!("{error}"))
}

fn alice() -> Principal {
    "alice".parse().unwrap()
}

async fn store(directory: &Path) -> Store {
    Store::open(Location::Sqlite(directory.join("db").join("staithe.sqlite"))).await.unwrap()
}

async fn authority() -> (Authority, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (Authority::open(store(directory.path()).await).await.unwrap(), directory)
}

#[tokio::test]
async fn a_token_says_who_its_bearer_is_also_after_a_restart() {
    let (authority, directory) = authority().await;
    let Minted { token, record } = made(authority.mint(alice(), None, None).await);
    for server in [files(), other()] {
        let verified = authority.verify(token.expose(), &server).unwrap();
        assert_eq!((verified.principal(), verified.token_id()), (&alice(), record.id.as_str()));
    }
    drop(authority);
    let authority = Authority::open(store(directory.path()).await).await.unwrap();
    assert_eq!(authority.verify(token.expose(), &files()).unwrap().principal(), &alice());
    assert_eq!(authority.list(), vec![record]);
}

#[tokio::test]
async fn a_token_for_one_server_opens_no_other() {
    let (authority, _directory) = authority().await;
    let minted = made(authority.mint(alice(), Some(files()), None).await);
    assert!(authority.verify(minted.token.expose(), &files()).is_ok());
    assert_eq!(authority.verify(minted.token.expose(), &other()), Err(Denied::WrongServer));
}

#[tokio::test]
async fn a_token_ends_at_its_time() {
    let (authority, _directory) = authority().await;
    let minted = made(authority.mint(alice(), None, Some(60)).await);
    let end = minted.record.expires_at_ms.unwrap();
    assert_eq!(end - minted.record.created_at_ms, 60_000);
    let at = |ms| verify(&authority.read(), minted.token.expose(), Asked::Server(&files()), ms).map(drop);
    assert_eq!([at(end - 1), at(end), at(i64::MAX)], [Ok(()), Err(Denied::Expired), Err(Denied::Expired)]);
}

#[tokio::test]
async fn lifetimes_without_sense_are_refused() {
    let (authority, _directory) = authority().await;
    for seconds in [0, u64::MAX, 101 * 366 * 24 * 3600] {
        let error = authority.mint(alice(), None, Some(seconds)).await.err().unwrap();
        assert!(matches!(error, MintError::Lifetime { .. }), "{error:?}");
    }
    for seconds in [0, 301] {
        let error = authority.mint_ephemeral(alice(), files(), seconds).err().unwrap();
        assert!(matches!(error, MintError::Lifetime { longest: 300, .. }), "{error:?}");
    }
    assert!(authority.list().is_empty());
}

#[tokio::test]
async fn a_revoked_token_is_denied_at_once_and_after_a_restart() {
    let (authority, directory) = authority().await;
    let minted = made(authority.mint(alice(), None, None).await);
    let beside = made(authority.mint(alice(), None, None).await);
    let clone = authority.clone();
    assert!(authority.revoke(&minted.record.id).await.unwrap());
    assert_eq!(clone.verify(minted.token.expose(), &files()), Err(Denied::Revoked));
    assert!(clone.verify(beside.token.expose(), &files()).is_ok());
    let at = authority.list().iter().find(|record| record.id == minted.record.id).unwrap().revoked_at_ms;
    assert!(authority.revoke(&minted.record.id).await.unwrap(), "again is no error");

    let authority = Authority::open(store(directory.path()).await).await.unwrap();
    assert_eq!(authority.verify(minted.token.expose(), &files()), Err(Denied::Revoked));
    assert!(authority.verify(beside.token.expose(), &files()).is_ok());
    let listed = authority.list();
    assert_eq!(listed.iter().find(|record| record.id == minted.record.id).unwrap().revoked_at_ms, at);
}

#[tokio::test]
async fn a_revocation_does_not_wait_for_the_store() {
    let (authority, _directory) = authority().await;
    let minted = made(authority.mint(alice(), None, None).await);
    let mut revocation = Box::pin(authority.revoke(&minted.record.id));
    let mut context = Context::from_waker(Waker::noop());
    let begun = revocation.as_mut().poll(&mut context);
    assert_eq!(authority.verify(minted.token.expose(), &files()), Err(Denied::Revoked));
    if begun.is_pending() {
        assert!(revocation.await.unwrap());
    }
}

/// The first attempt got no further than this process's memory, as when the store fails.
#[tokio::test]
async fn a_second_revocation_stores_what_the_first_could_not() {
    let (authority, directory) = authority().await;
    let minted = made(authority.mint(alice(), None, None).await);
    let id = crate::token::id(&minted.record.id).unwrap();
    assert!(authority.write().revoke(&id, 1));
    let beside = store(directory.path()).await;
    assert_eq!(beside.tokens().await.unwrap()[0].revoked_at_ms, None);
    assert!(authority.revoke(&minted.record.id).await.unwrap());
    assert!(beside.tokens().await.unwrap()[0].revoked_at_ms.is_some());
}

#[tokio::test]
async fn ids_that_are_not_there_are_not_revoked() {
    let (authority, _directory) = authority().await;
    let minted = made(authority.mint(alice(), None, None).await);
    for id in ["", "aaaaaaaaaa", "' OR 1=1 --", minted.token.expose(), &"a".repeat(1 << 16)] {
        assert!(!authority.revoke(id).await.unwrap());
    }
    assert!(authority.verify(minted.token.expose(), &files()).is_ok());
}

#[tokio::test]
async fn garbage_is_denied_and_never_panics() {
    let (authority, _directory) = authority().await;
    let minted = made(authority.mint(alice(), None, None).await);
    let good = minted.token.expose();
    let denied = |text: &str| authority.verify(text, &files()).unwrap_err();
    assert_eq!(denied(""), Denied::Missing);
    let fixed =
        ["st_", "Bearer ", "st__", "\0", &good[1..], &format!("{good} "), &good.to_uppercase(), &"st_".repeat(1 << 20)];
    for text in fixed {
        assert_eq!(denied(text), Denied::Malformed, "{text:.80}");
    }
    for cut in 1..good.len() {
        assert_eq!(denied(&good[..cut]), Denied::Malformed);
    }
    for _ in 0..20_000 {
        let noise = random::bytes::<96>().unwrap();
        let at = usize::from(noise[0]) % good.len();
        let mut changed = good.as_bytes().to_vec();
        changed[at] = noise[1];
        changed.truncate(good.len() - usize::from(noise[2] % 3));
        let text = String::from_utf8_lossy(&changed);
        if text != good {
            assert_eq!(denied(&text), Denied::Malformed, "{text:?}");
        }
        let noise = String::from_utf8_lossy(&noise[usize::from(noise[0]) % 96..]);
        assert_ne!(authority.verify(&noise, &files()).err(), None, "{noise:?}");
    }
}

/// Another host's token, and one with our id, the right form and another secret.
#[tokio::test]
async fn a_forged_token_is_unknown() {
    let (authority, _directory) = authority().await;
    let (elsewhere, _theirs) = self::authority().await;
    let minted = made(authority.mint(alice(), None, None).await);
    let foreign = made(elsewhere.mint(alice(), None, None).await);
    assert_eq!(authority.verify(foreign.token.expose(), &files()), Err(Denied::Unknown));

    let body = format!("st_{}_{}", minted.record.id, &foreign.token.expose()[14..66]);
    let check: String = crate::token::checksum(body.as_bytes()).map(char::from).iter().collect();
    let forged = format!("{body}{check}");
    assert_eq!(authority.verify(&forged, &files()), Err(Denied::Unknown));
    authority.revoke(&minted.record.id).await.unwrap();
    assert_eq!(authority.verify(&forged, &files()), Err(Denied::Unknown), "an id alone tells nothing of its state");
}

#[tokio::test]
async fn ephemeral_tokens_are_few_short_and_never_stored() {
    let (authority, directory) = authority().await;
    let first = made(authority.mint_ephemeral(alice(), files(), 30));
    assert!(authority.verify(first.token.expose(), &files()).is_ok());
    assert_eq!(authority.verify(first.token.expose(), &other()), Err(Denied::WrongServer));
    for _ in 1..MOST_EPHEMERAL {
        made(authority.mint_ephemeral(alice(), files(), 30));
    }
    let error = authority.mint_ephemeral(alice(), files(), 30).err().unwrap();
    assert!(matches!(error, MintError::TooMany { most: MOST_EPHEMERAL }), "{error:?}");
    assert!(authority.verify(first.token.expose(), &files()).is_ok(), "a flood drives out nobody");

    assert!(authority.revoke(&first.record.id).await.unwrap());
    assert_eq!(authority.verify(first.token.expose(), &files()), Err(Denied::Revoked));
    let revoked = stdx::clock::unix_ms();
    while stdx::clock::unix_ms() <= revoked {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert!(authority.mint_ephemeral(alice(), files(), 30).is_ok(), "an ended one makes room");

    assert!(authority.list().is_empty());
    assert!(store(directory.path()).await.tokens().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_token_is_never_in_the_database_files() {
    let (authority, directory) = authority().await;
    let minted = made(authority.mint(alice(), Some(files()), None).await);
    let whole = minted.token.expose();
    let (id, secret, hash) = (&minted.record.id, &whole[14..66], &minted.record.hash);
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(directory.path().join("db")).unwrap() {
        bytes.extend(std::fs::read(entry.unwrap().path()).unwrap());
    }
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds(id) && holds(hash), "the record is on the disk, so this test looks at the right bytes");
    assert!(!holds(whole) && !holds(secret) && !holds(&secret[..20]));
}

#[tokio::test]
async fn long_ended_tokens_are_deleted_when_the_authority_opens() {
    let (authority, directory) = authority().await;
    let minted = made(authority.mint(alice(), None, None).await);
    drop(authority);
    let kept = store(directory.path()).await;
    assert!(kept.revoke_token(&minted.record.id, 1_000).await.unwrap());
    let authority = Authority::open(kept).await.unwrap();
    assert!(authority.list().is_empty());
    assert_eq!(authority.verify(minted.token.expose(), &files()), Err(Denied::Unknown));
}

#[tokio::test]
async fn a_damaged_record_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path()).await;
    let (authority, _theirs) = authority().await;
    let minted = made(authority.mint(alice(), None, None).await);
    let mut record = minted.record;
    record.hash.truncate(10);
    store.put_token(record.clone()).await.unwrap();
    let error = Authority::open(store).await.unwrap_err();
    assert!(matches!(&error, OpenError::Damaged { id } if *id == record.id), "{error:?}");
}

#[test]
fn no_text_of_a_denial_invites_to_print_the_token() {
    let all =
        [Denied::Missing, Denied::Malformed, Denied::Unknown, Denied::Expired, Denied::Revoked, Denied::WrongServer];
    let texts: std::collections::HashSet<String> = all.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), all.len(), "each has its own text");
    assert_eq!(size_of::<Denied>(), 1, "there is no room for a token");
}

#[tokio::test]
async fn a_token_for_the_ledger_opens_no_server_and_the_other_way_round() {
    let directory = tempfile::tempdir().unwrap();
    let first = Authority::open(store(directory.path()).await).await.unwrap();
    let audit = made(first.mint_for(alice(), Opens::Ledger, None).await);
    let every = made(first.mint(alice(), None, None).await);
    for authority in [&first, &Authority::open(store(directory.path()).await).await.unwrap()] {
        assert_eq!(authority.verify_audit(audit.token.expose()).unwrap().principal(), &alice());
        assert_eq!(authority.verify(audit.token.expose(), &files()), Err(Denied::WrongKind));
        assert_eq!(authority.verify_audit(every.token.expose()), Err(Denied::WrongKind));
        assert!(authority.verify(every.token.expose(), &files()).is_ok());
    }
    first.revoke(&audit.record.id).await.unwrap();
    assert_eq!(first.verify_audit(audit.token.expose()), Err(Denied::Revoked));
}
