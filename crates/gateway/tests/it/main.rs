//! The public face in front of real child processes: the promises, attacked.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bounds;
mod bytes;
mod clauses;
mod deadlines;
mod edges;
mod edges_wire;
mod failure;
mod headers;
mod held;
mod host;
mod isolation;
mod legacy;
mod limits;
mod matrix;
mod meters;
mod modern;
mod remote;
mod reopened;
mod rounds;
mod shapes;
mod spares;
mod sse;
mod streams;
mod subscriptions;
mod tasks;
mod traps;
mod watchdog;
