//! Proofs of inclusion with their checkpoints.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ledger::fuzzing::proof(data));
