//! One bit flipped in every byte of every file: detected when the log is opened or verified, or put right to the same bytes.

use crate::model::{Model, State};
use crate::promise::{dir, open, remembering, shared, small};
use staithe_ledger::{Options, verify};
use std::collections::BTreeMap;
use std::sync::Arc;

fn one_segment() -> Options {
    Options { segment_bytes: 1 << 20, allocate_bytes: 512, reserve_bytes: 256 }
}

#[derive(Debug, Default)]
struct Outcome {
    refused: u64,
    repaired: u64,
    verified: u64,
}

/// Flips a bit in each `stride`-th byte of each file.
fn flip(original: &State, options: Options, stride: usize) -> BTreeMap<String, Outcome> {
    let notary = remembering();
    let files = original.files();
    let mut outcomes: BTreeMap<String, Outcome> = BTreeMap::new();
    for (path, content) in &files {
        let kind = path.extension().or(path.file_name()).unwrap().to_str().unwrap().to_owned();
        let kind = if path.to_str().unwrap().contains("/tile/") { "tile".to_owned() } else { kind };
        let outcome = outcomes.entry(kind).or_default();
        for at in (0..content.len()).step_by(stride) {
            let mut bad = content.to_vec();
            bad[at] ^= 1 << ((at * 5 + 3) % 8);
            let mut state = original.clone();
            state.put(path, bad);
            let model = Model::new(state);
            match open(&model, notary.clone(), options) {
                Err(_) => outcome.refused += 1,
                Ok(_) if files.iter().all(|(path, content)| model.state().files().get(path) == Some(content)) => {
                    outcome.repaired += 1;
                }
                Ok(_) => {
                    let verified = verify(&shared(&model), &dir(), &*notary, None, &mut |_, _| {});
                    assert!(verified.is_err(), "byte {at} of {} was flipped unseen", path.display());
                    outcome.verified += 1;
                }
            }
        }
    }
    eprintln!("{outcomes:#?}");
    outcomes
}

#[test]
fn no_bit_of_64_records_flips_unseen() {
    let model = Model::default();
    let (mut log, _) = open(&model, remembering(), one_segment()).unwrap();
    for n in 0..64_u64 {
        log.append(&[vec![n as u8; 40 + n as usize]]).unwrap();
        if n % 20 == 10 {
            log.archive_next();
            log.checkpoint(n).unwrap();
        }
    }
    log.checkpoint(100).unwrap();
    drop(log);
    let outcomes = flip(&model.state(), one_segment(), 1);
    assert!(outcomes["seg"].refused > 8_000, "header and entries");
    assert!(outcomes["seg"].repaired > 200, "space that is not yet used");
    assert!(outcomes["checkpoint"].refused > 2_500);
}

#[test]
fn no_bit_of_a_log_with_tiles_and_rotations_flips_unseen() {
    let model = Model::default();
    let (mut log, _) = open(&model, remembering(), small()).unwrap();
    for n in 0..30_u64 {
        let entries: Vec<Vec<u8>> = (0..20).map(|k| (n * 20 + k).to_le_bytes().to_vec()).collect();
        log.append(&entries).unwrap();
        if n % 7 == 0 {
            log.checkpoint(n).unwrap();
        }
    }
    log.checkpoint(100).unwrap();
    drop(log);
    let outcomes = flip(&model.state(), small(), 11);
    assert!(outcomes["tile"].verified + outcomes["tile"].repaired > 1_400, "{outcomes:?}");
    assert!(outcomes["idx"].repaired > 10, "{outcomes:?}");
    assert!(outcomes.contains_key("checkpoint") && outcomes.len() >= 5);
}

#[test]
fn what_is_derived_comes_back_the_same() {
    let model = Model::default();
    let (mut log, _) = open(&model, remembering(), small()).unwrap();
    for n in 0..40_u64 {
        let entries: Vec<Vec<u8>> = (0..20).map(|k| (n * 20 + k).to_le_bytes().to_vec()).collect();
        log.append(&entries).unwrap();
    }
    log.checkpoint(100).unwrap();
    drop(log);
    let (log, _) = open(&model, remembering(), small()).unwrap();
    drop(log);
    let original = model.state();
    let derived = |path: &std::path::Path| {
        let text = path.to_str().unwrap();
        text.contains("/tile/") || text.ends_with(".idx")
    };
    let gone: Vec<_> = original.files().into_keys().filter(|path| derived(path)).collect();
    assert!(gone.len() > 8);
    let mut state = original.clone();
    gone.iter().for_each(|path| state.remove(path));
    let model = Model::new(state);
    let (mut log, _) = open(&model, remembering(), small()).unwrap();
    let notary = remembering();
    let missing = verify(&shared(&model), &dir(), &*notary, None, &mut |_, _| {}).unwrap().missing;
    let rebuilt = log.rebuild(&mut |_, _| {}).unwrap();
    assert_eq!(rebuilt, missing);
    assert_eq!(Arc::new(model.state().files()), Arc::new(original.files()));
    assert_eq!(verify(&shared(&model), &dir(), &*notary, None, &mut |_, _| {}).unwrap().missing, 0);
}
