//! The store's promises, on SQLite and on PostgreSQL.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

extern crate staithe_store as store;

mod cases;
mod cluster;
mod place;
mod postgresql;
mod sessions;
mod sqlite;

/// Every case, whichever file it is in.
mod all {
    pub(crate) use crate::cases::*;
    pub(crate) use crate::sessions::*;
}

/// Each case as a test on SQLite, and all of them on one PostgreSQL server, each in its own schema.
macro_rules! on_both {
    ($($case:ident),+ $(,)?) => {
        mod on_sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    crate::all::$case(&crate::place::Place::sqlite()).await;
                }
            )+
        }

        #[test]
        fn every_case_holds_on_postgresql() {
            cluster::with_server(|server| {
                $(
                    eprintln!("case {}", stringify!($case));
                    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
                    runtime.unwrap().block_on(all::$case(&place::Place::postgres(server)));
                )+
            });
        }
    };
}

on_both!(
    everything_survives_a_restart,
    a_generation_is_never_reused,
    an_unchanged_server_keeps_its_generation,
    old_generations_stay_as_they_were,
    text_comes_back_as_it_was,
    servers_are_listed_by_name,
    verdicts_are_replaced_and_forgotten,
    tokens_end_once_and_are_deleted_later,
    what_cannot_be_kept_is_refused,
    sixty_four_callers_at_once_lose_nothing,
    two_stores_on_one_database_agree,
    a_dropped_store_loses_no_acknowledged_write,
    a_newer_schema_is_refused,
    damaged_rows_are_named_and_secrets_are_not,
    a_session_comes_back_with_all_that_it_was,
    a_session_is_found_by_its_own_principal_alone,
    what_ended_takes_its_subscriptions_and_calls_along,
    of_a_session_that_is_not_there_nothing_is_kept,
    one_that_cannot_be_written_takes_no_other_with_it,
    relaxed_writes_at_once_lose_nothing_and_keep_their_order,
    a_full_write_after_relaxed_ones_keeps_all,
);
