//! Runs the committed fuzz corpus, and a bounded number of mutations of it, through the bodies of the fuzz targets.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::value::RawValue;
use std::path::Path;

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
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut seeds: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    seeds.sort();
    let seeds: Vec<Vec<u8>> = seeds.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(seeds.len() > 4, "the corpus of {target} is missing from {}", folder.display());
    seeds.iter().for_each(|seed| holds(seed));
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..MUTATIONS {
        let mut data = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(4) {
            mutate(&mut data, &seeds, &mut random);
        }
        holds(&data);
    }
}

fn mutate(data: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    const LIKELY: &[u8] = b"{}[]\",:\\ue0.-1 tfn\r\n\xc3\xa9\xff\x00";
    let at = random.below(data.len() + 1);
    let byte = LIKELY[random.below(LIKELY.len())];
    match random.below(5) {
        0 => data.insert(at, byte),
        1 if at < data.len() => data[at] = byte,
        2 => drop(data.drain(at..data.len().min(at + 1 + random.below(8)))),
        3 => {
            // A piece of another seed, cut anywhere.
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len() + 1);
            let to = other.len().min(from + random.below(24));
            data.splice(at..at, other[from..to].iter().copied());
        }
        _ => {
            // A piece of itself again: members that occur twice.
            let from = random.below(data.len() + 1);
            let piece = data[from..data.len().min(from + random.below(32))].to_vec();
            data.splice(at..at, piece);
        }
    }
}

/// xorshift64: only the spread matters here.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}
