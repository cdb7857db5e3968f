//! The only code that knows JSON-RPC and MCP: strict envelope, eras, classification, translation.
//! Sans-IO: bytes in, decisions and bytes out. It forwards bytes, never a typed model of them.
//!
//! May import: nothing of ours.

pub mod ask;
pub mod bridge;
pub mod catalogue;
pub mod classify;
pub mod code;
pub mod era;
pub mod events;
pub mod frame;
#[doc(hidden)]
pub mod fuzzing;
pub mod greeting;
pub mod header;
pub mod message;
pub mod method;
pub mod mirror;
pub mod param;
pub mod receipt;
pub mod request_state;
pub mod rounds;
pub mod scan;
pub mod shape;
pub mod splice;
pub mod sse;
pub mod subscription;
mod walk;

pub mod negotiated;
mod round_trip;
pub mod task;
