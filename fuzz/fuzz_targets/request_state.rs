//! The sealed state of held calls, and what legacy servers ask.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wire::fuzzing::request_state(data));
