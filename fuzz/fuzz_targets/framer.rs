//! The splitter of a server's stdout into lines.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wire::fuzzing::framer(data));
