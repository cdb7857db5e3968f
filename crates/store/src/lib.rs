//! The only code that contains SQL. It keeps servers, era verdicts, machine tokens, settings and the sessions of clients in
//! SQLite or PostgreSQL.
//!
//! One thread owns the one connection. Callers hand it operations over a bounded queue and await the answer, so no
//! SQL ever runs on the async runtime and every operation sees the ones before it. A write is answered after its
//! commit: what was answered survives a crash. An operation whose caller went away is still carried out. What only has to
//! outlive this process, and not the machine, is written *relaxed*: committed without waiting for the disk, and together
//! with what waits beside it (`group`).
//!
//! The SQL text is one and the same for both databases: `$1, $2, …` in the order of their first appearance, TEXT and
//! BIGINT only. What must differ (opening, beginning a transaction, errors) is in `sqlite` and `postgresql`.
//!
//! Apart from that it has the index of the ledger (`ledger_index`): a file of its own, derived data, for one command at a time.
//!
//! May import: model, stdx.

mod database;
mod error;
mod group;
mod ledger_index;
mod location;
mod migrate;
mod owner;
mod postgresql;
mod server;
mod session;
mod setting;
mod sqlite;
mod subject;
mod token;
mod tx;
mod verdict;

pub use error::{Cause, OpenError, StoreError};
pub use ledger_index::{Began, Ended, Found, IndexFilter, IndexMark, LedgerIndex};
pub use location::Location;
pub use owner::Store;
