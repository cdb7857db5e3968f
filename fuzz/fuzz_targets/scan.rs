//! The strict scan, also beside serde_json: both must agree on what is JSON.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some(accepted) = wire::fuzzing::scan(data) {
        let theirs = serde_json::from_slice::<&serde_json::value::RawValue>(data);
        assert_eq!(accepted, theirs.is_ok());
    }
});
