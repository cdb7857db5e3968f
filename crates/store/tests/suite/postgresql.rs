//! What must hold on PostgreSQL alone: the connection that is lost, and locations that cannot work.

use crate::cases::{name, spec};
use crate::cluster::{Cluster, with_server};
use crate::place::{Place, run_postgres, with_schema};
use model::Blame;
use std::future::Future;
use std::time::Duration;
use stdx::{chain::Chain, clock};
use store::{Cause, Location, OpenError, Store};

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

async fn refusal(text: &str) -> OpenError {
    Store::open(Location::Postgres(text.to_owned())).await.unwrap_err()
}

#[test]
fn a_lost_connection_is_made_again() {
    with_server(|server| {
        let place = Place::postgres(server);
        block_on(async {
            let store = place.open().await;
            for round in 1..=3 {
                let schema = &place.schema;
                let cut = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name";
                run_postgres(server, &format!("{cut} = '{schema}'"));
                let put = store.put_server(spec("files", &round.to_string())).await.unwrap();
                assert_eq!(put.generation, round, "done once, on the new connection");
            }
            assert_eq!(store.server(&name("files")).await.unwrap().unwrap().generation, 3);
        });
    });
}

/// A trigger that runs at the commit cuts the connection.
#[test]
fn a_connection_lost_during_the_commit_is_not_called_a_failure() {
    with_server(|server| {
        let place = Place::postgres(server);
        block_on(async {
            let store = place.open().await;
            place.sql(
                "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS
                    'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END';
                CREATE CONSTRAINT TRIGGER cut AFTER INSERT ON settings DEFERRABLE INITIALLY DEFERRED
                    FOR EACH ROW EXECUTE FUNCTION cut()",
            );
            let error = store.put_setting("a", "1").await.unwrap_err();
            assert!(matches!(error.cause(), Cause::OutcomeUnknown(_)), "{error:?}");
            assert_eq!(store.setting("a").await.unwrap(), None, "the next operation has a connection");
        });
    });
}

#[test]
fn a_stopped_server_is_a_typed_error_until_it_is_back() {
    let mut cluster = Cluster::start();
    let place = Place::postgres(&cluster.connection_string());
    let store = block_on(place.open());
    block_on(store.put_setting("a", "1")).unwrap();

    cluster.stop();
    let began = clock::monotonic();
    let error = block_on(store.put_setting("a", "2")).unwrap_err();
    assert!(matches!(error.cause(), Cause::Unreachable(_)), "{error:?}");
    assert_eq!(error.blame(), Blame::Host);
    assert!(began.elapsed() < Duration::from_secs(20), "trying has an end");

    let again = clock::monotonic();
    block_on(store.setting("a")).unwrap_err();
    assert!(again.elapsed() < Duration::from_secs(1), "those behind it do not wait as long");

    cluster.resume();
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(block_on(store.setting("a")).unwrap().as_deref(), Some("1"), "the failed write was not made");
    block_on(store.put_setting("a", "3")).unwrap();
    assert_eq!(block_on(store.setting("a")).unwrap().as_deref(), Some("3"));
}

#[test]
fn schemas_of_one_server_are_apart() {
    with_server(|server| {
        let (one, two) = (Place::postgres(server), Place::postgres(server));
        block_on(async {
            one.open().await.put_setting("a", "one").await.unwrap();
            assert_eq!(two.open().await.setting("a").await.unwrap(), None);
            assert_eq!(one.open().await.setting("a").await.unwrap().as_deref(), Some("one"));
        });
    });
}

#[test]
fn a_schema_that_does_not_exist_is_said() {
    with_server(|server| {
        let error = block_on(refusal(&with_schema(server, "nowhere_at_all")));
        assert!(matches!(error, OpenError::NoSchema), "{error:?}");
    });
}

#[test]
fn a_location_that_cannot_work_is_refused_without_its_password() {
    let bad = block_on(refusal("host=/nowhere pass word=hunter2"));
    assert!(matches!(bad, OpenError::BadConnectionString), "{bad:?}");
    let tls = block_on(refusal("host=127.0.0.1 user=x password=hunter2 sslmode=require"));
    assert!(matches!(tls, OpenError::Tls), "{tls:?}");
    assert_eq!((bad.blame(), tls.blame()), (Blame::Caller, Blame::Caller));
    let nobody = block_on(refusal("host=/nowhere/at/all user=x password=hunter2"));
    assert!(matches!(nobody, OpenError::Unreachable(_)), "{nobody:?}");
    for error in [bad, tls, nobody] {
        assert!(!format!("{error:?} {}", Chain(&error)).contains("hunter2"));
    }
}
