//! A server's list of tools, read and fitted to each revision.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wire::fuzzing::catalogue(data));
