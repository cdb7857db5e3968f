//! Mirrored headers, and the list of tools that asks for them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wire::fuzzing::params(data));
