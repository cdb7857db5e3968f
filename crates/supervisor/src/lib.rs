//! The only code that starts, probes, drains and stops instances, and reconciles desired and observed.
//!
//! May import: keeper, jail, store, wire, model, stdx. It authorizes nobody. Of HTTP it knows
//! how to ask a remote server, and nothing of answering.
//!
//! Who owns what: one task per slot owns the child process of its isolation key; one reader task per instance owns its
//! stdout; the pending calls of an instance sit behind one lock that nobody holds across an await.

mod absent;
mod absorb;
mod adopt;
mod asks;
mod attribution;
mod catalogue;
mod check;
mod events;
mod flow;
mod guest;
mod handover;
mod handshake;
mod hosted;
mod idle;
mod instance;
mod keeping;
mod key;
mod last_words;
mod lease;
mod level;
mod life;
mod listen;
mod living;
mod log;
mod mailbox;
mod meter;
mod notebook;
mod orders;
mod orphans;
mod outlet;
mod pause;
mod pipe;
mod pool;
mod probe;
mod process;
mod reader;
mod reconcile;
mod remote;
mod report;
mod restart;
mod route;
mod running;
mod session;
mod settings;
mod shared;
mod slot;
mod spares;
mod stderr;
mod subscribe;
mod subscriptions;
mod tree;
mod trouble;
mod verdict;
mod waiting;
mod watchdog;

pub use absent::{Absent, Bound};
pub use asks::Question;
pub use attribution::{Attribution, Subject, Turn};
pub use events::{EventId, NotKept, Reader, StreamGone, Streams, Writer};
pub use handover::{Entries, Entry, GivenAway, HandoverError, Heard, Succession, Taker};
pub use hosted::Hosted;
pub use instance::{Instance, Pending, Stalled, Terms, Unanswered, Wish};
pub use keeping::{Keeper, KeeperError, Place};
pub use key::{Caller, Key};
pub use lease::Lease;
pub use level::Level;
pub use life::{Life, Lives, Scribe, lives};
pub use log::ServerLog;
pub use mailbox::{ExitReport, Item};
pub use meter::{Outcome, ServerMeter, Stage};
pub use reconcile::{NotHosted, ReconcileError, StartError, Supervisor};
pub use remote::{Outside, OutsideError, Outsider, Said};
pub use session::{Asker, NoLookup, NoSession, Opening, Session, Underway};
pub use settings::{Limits, Settings};
pub use subscriptions::{Listening, Subscribed};
