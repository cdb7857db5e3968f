//! The ladder that decides what a POST is.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wire::fuzzing::classify(data));
