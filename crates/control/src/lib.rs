//! The only code that changes desired state: every act of an operator is `execute(operator, door, command)`.
//!
//! May import: supervisor, oauth, store, ledger, model, stdx. It never sees traffic, and traffic never sees it.

mod acts;
mod authorize;
mod commands;
mod erased;
mod execute;
mod follow;
mod identify;
mod problem;

pub use acts::{Acts, OpenActs};
pub use commands::import::{Imported, put_servers};
pub use commands::upgrade::Turn;
pub use erased::Erased;
pub use execute::{Control, HostFacts, HostKind, LedgerLook, Outcome, Readiness, Upgrade};
pub use follow::LogFollow;
pub use identify::{Door, Evidence, Operator, identify};
pub use problem::hide_tokens;
