//! The only code that contains SQL. It keeps servers, era verdicts, machine tokens and settings in SQLite or PostgreSQL.
//!
//! One thread owns the one connection. Callers hand it operations over a bounded queue and await the answer, so no
//! SQL ever runs on the async runtime and every operation sees the ones before it. A write is answered after its
//! commit: what was answered survives a crash. An operation whose caller went away is still carried out.
//!
//! The SQL text is one and the same for both databases: `$1, $2, …` in the order of their first appearance, TEXT and
//! BIGINT only. What must differ (opening, beginning a transaction, errors) is in `sqlite` and `postgresql`.
//!
//! May import: model, stdx.

mod database;
mod error;
mod location;
mod migrate;
mod owner;
mod postgresql;
mod server;
mod setting;
mod sqlite;
mod token;
mod tx;
mod verdict;

pub use error::{Cause, OpenError, StoreError};
pub use location::Location;
pub use owner::Store;
