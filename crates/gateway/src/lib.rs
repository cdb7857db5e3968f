//! The only code that faces the public: MCP endpoints over Streamable HTTP and HTTP+SSE.
//!
//! May import: supervisor, oauth, ledger, wire, model, stdx. It cannot change desired state.
//!
//! Reader's order: `listen` accepts, `routes` tells paths apart, `admit` earns an `Admitted`, `post` decides what a
//! body is, `permit` earns a `Permit`, `call` is the whole story of one call, `held` of one
//! that asks its client, `reply` carries the answer, `error` is the
//! one table of statuses and codes.

mod admit;
mod audit;
mod batch;
mod book;
mod call;
mod cors;
mod deadline;
mod denied;
mod error;
mod feed;
mod held;
mod listen;
mod meters;
mod modern;
mod open;
mod pass;
mod permit;
mod post;
mod receipt;
mod reply;
mod rounds;
mod routes;
mod session;
mod settings;
mod sse;
mod subscribe;
mod timing;
mod tools;
mod trace;

pub use audit::Audit;
pub use book::{Book, OpenCalls, Rules, Stale};
pub use listen::serve;
pub use meters::Meters;
pub use pass::Leaving;
pub use settings::{Auth, Limits, Settings};
pub use trace::{CallSpan, TraceContext};
