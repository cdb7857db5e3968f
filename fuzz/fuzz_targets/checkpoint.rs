//! Checkpoints, and the two signatures that they need.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ledger::fuzzing::checkpoint(data));
