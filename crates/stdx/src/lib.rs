//! The only code that touches clock, randomness, fsync/rename and task spawning, and that counts. It knows no domain word.
//!
//! May import: nothing of ours.

pub mod backoff;
pub mod chain;
pub mod clock;
pub mod durable;
pub mod meter;
pub mod random;
pub mod task;
