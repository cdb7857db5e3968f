//! Faults: daemons, keepers and servers that are killed, hang or misbehave under load, and what must hold all the same.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it measured"
)]

mod chaos;
mod daemon;
mod graceful;
mod keeper_killed;
mod killed;
mod leaks;
mod load;
mod recorded;
mod stops;
mod survives;
mod table;
