//! The only code that defines our words: names, servers, sessions, tokens, commands and replies, reports, blame. No IO, no async.
//!
//! May import: stdx.

pub mod blame;
pub mod bounds;
pub mod command;
pub mod measure;
pub mod name;
pub mod record;
pub mod redact;
pub mod report;
pub mod server;
pub mod session;
pub mod target;
pub mod token;
pub mod watch;

pub use blame::Blame;
pub use bounds::{BadBound, Bounds, Effective, IdleTtl};
pub use command::{Command, Problem, ProblemCode, Pseudonym, Reply};
pub use name::{BadName, Principal, ServerName};
pub use server::{EraPin, EraVerdict, Mode, ServerSpec, Verdict};
pub use session::{OpenCall, SessionRecord};
pub use target::{BadRemote, Program, Remote, RemoteUrl, Target};
pub use token::TokenRecord;
pub use watch::{BadSpan, Ping, Span, Watch};
