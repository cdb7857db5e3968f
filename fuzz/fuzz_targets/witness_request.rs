//! What a witness is asked, and what it answers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ledger::fuzzing::witness_request(data));
