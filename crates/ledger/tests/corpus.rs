//! Runs the committed fuzz corpus, and a bounded number of mutations of it, through the bodies of the fuzz targets.

use staithe_ledger::fuzzing;

/// Mutations per target; fixed, as is the seed, so that a failure comes again.
const MUTATIONS: usize = 120_000;

#[test]
fn note_holds_for_the_corpus() {
    run("note", fuzzing::note);
}

#[test]
fn checkpoint_holds_for_the_corpus() {
    run("checkpoint", fuzzing::checkpoint);
}

#[test]
fn proof_holds_for_the_corpus() {
    run("proof", fuzzing::proof);
}

#[test]
fn witness_request_holds_for_the_corpus() {
    run("witness_request", fuzzing::witness_request);
}

#[test]
fn policy_holds_for_the_corpus() {
    run("policy", fuzzing::policy);
}

#[test]
fn segment_holds_for_the_corpus() {
    run("segment", |data| drop(fuzzing::segment(data)));
}

#[test]
fn the_segments_of_the_corpus_are_segments() {
    let read = |name: &str| {
        let path = format!("{}/../../fuzz/corpus/segment/{name}", env!("CARGO_MANIFEST_DIR"));
        let (entries, clean) = fuzzing::segment(&std::fs::read(path).unwrap());
        (entries.len(), clean)
    };
    assert_eq!(read("three"), (3, true));
    assert_eq!(read("marks"), (5, true));
    assert_eq!(read("empty-entries"), (20, true));
    assert_eq!(read("torn"), (1, false));
    assert_eq!(read("hole"), (2, false));
    assert_eq!(read("long"), (2, true));
    assert_eq!(read("zeros"), (0, true));
}

fn run(target: &str, holds: impl Fn(&[u8])) {
    testkit::corpus::run(target, MUTATIONS, "\n \u{2014}+=/0189AZaz\r\t#\0\u{a0}".as_bytes(), holds);
}
