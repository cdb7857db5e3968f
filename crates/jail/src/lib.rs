//! The only code that builds a sandbox: what a hosted process starts with, what it and its children may use, and which
//! processes those are.
//!
//! [`Jails`] is what this host can do, [`Jail`] what holds one instance, [`Entrance`] the way in between fork and exec.
//! Limits are held by the kernel where a control group can be had, else by a [`Lookout`] over the [`tree`] of processes.

mod cgroup;
mod entrance;
mod limits;
mod lookout;
pub mod tree;

pub use entrance::{Close, Entrance, Inherited, close_from_three};
pub use limits::{Jail, Jails, Limits, Usage};
pub use lookout::Lookout;
