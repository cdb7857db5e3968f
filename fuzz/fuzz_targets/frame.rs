//! Frames between the daemon and its keeper, of either side.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keeper::fuzzing::frame(data));
