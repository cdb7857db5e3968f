//! Faults: daemons, keepers and servers that are killed, hang or misbehave under load, and what must hold all the same.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it measured"
)]

mod audit_http;
mod chaos;
mod daemon;
mod exported;
mod follows;
mod forgotten;
mod full;
mod graceful;
mod keeper_killed;
mod killed;
mod leaks;
mod lives;
mod load;
mod receipt;
mod recorded;
mod recovered;
mod rollback;
mod rotated;
mod searched;
mod stops;
mod survives;
mod table;
mod turned_away;
mod witnessed;
