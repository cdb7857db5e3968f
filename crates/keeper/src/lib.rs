//! The only code that is the parent of hosted processes; also the client side of its socket.
//!
//! The keeper is a process that outlives the daemon. It starts instances, holds our ends of their pipes, a notebook for
//! each (a memory file that it never looks into) and named listening sockets, and says what exited. It has one thread
//! and one poll loop. The daemon gets duplicates of the descriptors and reads and writes the pipes itself.
//!
//! Both sides say which versions of the protocol they speak; the highest common one is used. Without a common one the
//! keeper refuses, keeps what it holds, and [`AttachError::Version`] says what to do.

mod client;
#[doc(hidden)]
pub mod fuzzing;
mod instance;
mod link;
mod notify;
mod process;
mod resident;
mod serve;
mod start;
mod thread;
mod wire;
mod words;

pub use client::{AskError, AttachError, Client, SpawnError};
pub use jail::{Limits, Usage};
pub use notify::notify;
pub use process::{VERB, main, socket_path};
pub use start::{StartError, StartOptions, start};
pub use thread::{InThread, in_thread, in_thread_for};
pub use wire::Malformed;
pub use words::{Ends, Event, Exit, Held, Launch, Stage};
