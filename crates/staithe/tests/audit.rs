//! `staithe audit`, the real binary: logs that the crate wrote, copies that were tampered with, and a witness under strangers.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "audit/check.rs"]
mod check;
#[path = "audit/made.rs"]
mod made;
#[path = "audit/running.rs"]
mod running;
#[path = "audit/verify.rs"]
mod verify;
#[path = "audit/witness.rs"]
mod witness;
#[path = "audit/witness_crash.rs"]
mod witness_crash;
#[path = "audit/witness_race.rs"]
mod witness_race;
#[path = "audit/witness_strangers.rs"]
mod witness_strangers;
