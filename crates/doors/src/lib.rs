//! The only code that turns operator transports into commands: the operator socket with its client, and the probes.
//!
//! May import: control, model, stdx. It names no engine, so no door can go around authorization.

mod client;
mod path;
mod probe;
mod socket;

pub use client::{Replies, call};
pub use probe::{Probed, serve as serve_probe};
pub use socket::{BindError, Socket};
