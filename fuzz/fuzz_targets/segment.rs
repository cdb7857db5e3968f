//! Segments of the log, as recovery reads them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| drop(ledger::fuzzing::segment(data)));
