//! Runs the committed fuzz corpus, and a bounded number of mutations of it, through the bodies of the fuzz targets.

use serde_json::value::RawValue;

/// Mutations per target; fixed, as is the seed, so that a failure comes again.
const MUTATIONS: usize = 600_000;

#[test]
fn scan_holds_for_the_corpus() {
    run("scan", |data| {
        if let Some(accepted) = staithe_wire::fuzzing::scan(data) {
            let theirs = serde_json::from_slice::<&RawValue>(data).is_ok();
            assert_eq!(accepted, theirs, "serde_json disagrees on {:?}", String::from_utf8_lossy(data));
        }
    });
}

#[test]
fn classify_holds_for_the_corpus() {
    run("classify", staithe_wire::fuzzing::classify);
}

#[test]
fn e54_params_hold_for_the_corpus() {
    run("params", staithe_wire::fuzzing::params);
}

#[test]
fn e64_catalogue_holds_for_the_corpus() {
    run("catalogue", staithe_wire::fuzzing::catalogue);
}

#[test]
fn framer_holds_for_the_corpus() {
    run("framer", staithe_wire::fuzzing::framer);
}

#[test]
fn events_hold_for_the_corpus() {
    run("events", staithe_wire::fuzzing::events);
}

#[test]
fn bridge_holds_for_the_corpus() {
    run("bridge", staithe_wire::fuzzing::bridge);
}

#[test]
fn e170_request_state_holds_for_the_corpus() {
    run("request_state", staithe_wire::fuzzing::request_state);
}

fn run(target: &str, holds: impl Fn(&[u8])) {
    testkit::corpus::run(target, MUTATIONS, b"{}[]\",:\\ue0.-1 tfn\r\n\xc3\xa9\xff\x00", holds);
}
