//! A log that was cut, shuffled, spliced, set back or forked, by somebody who has the disk and not the keys.

use crate::model::Model;
use crate::promise::{
    ORIGIN, Plain, anchor, dir, frames, keys_of, only_segment, open, remembering, shared, small, with_file,
};
use staithe_ledger::evidence::EvidenceError;
use staithe_ledger::loss::strongest;
use staithe_ledger::recover::OpenError;
use staithe_ledger::tile::Bundle;
use staithe_ledger::verify::VerifyError;
use staithe_ledger::view::ReadError;
use staithe_ledger::{Keys, Kind, Log, LogKeys, LogSigner, Options, Signer, Trust, verify};
use std::path::PathBuf;
use std::sync::Arc;

fn wide() -> Options {
    Options { segment_bytes: 1 << 20, allocate_bytes: 512, reserve_bytes: 256 }
}

fn entry(n: u64) -> Vec<u8> {
    format!("entry number {n}, as long as every other {n:>8}").into_bytes()
}

/// A log of `size` entries; with a checkpoint at its end if `signed`.
fn log_of(size: u64, signed: bool) -> Model {
    let model = Model::default();
    let (mut log, _) = open(&model, remembering(), wide()).unwrap();
    for n in 0..size {
        log.append(&[entry(n)]).unwrap();
    }
    if signed {
        log.checkpoint(1).unwrap();
    }
    model
}

fn refused(model: &Model) -> OpenError {
    match open(model, remembering(), wide()) {
        Err(error) => error,
        Ok((_, recovered)) => panic!("opened: {recovered:?}"),
    }
}

#[test]
fn a_log_cut_at_any_byte_is_not_taken_for_whole() {
    let notary = remembering();
    let model = log_of(64, true);
    let (path, segment) = only_segment(&model);
    let end = frames(&segment).last().unwrap().1;
    for len in 0..segment.len() {
        let cut = with_file(&model, &path, segment[..len].to_vec());
        match open(&cut, notary.clone(), wide()) {
            Ok((_, recovered)) => assert!(recovered.size == 64 && len >= end, "cut at {len}"),
            Err(_) => assert!(len < end, "cut at {len}, behind the last entry"),
        }
        let zeroed = [&segment[..len], &vec![0; segment.len() - len]].concat();
        match open(&with_file(&model, &path, zeroed), notary.clone(), wide()) {
            Ok((_, recovered)) => assert!(recovered.size == 64 && len >= end, "zeros from {len}"),
            Err(_) => assert!(len < end, "zeros from {len}, behind the last entry"),
        }
    }
}

#[test]
fn what_was_never_durable_may_be_cut_at_any_byte() {
    let model = log_of(20, false);
    let (path, segment) = only_segment(&model);
    let all = frames(&segment);
    for len in 4096..segment.len() {
        let cut = with_file(&model, &path, segment[..len].to_vec());
        let (log, recovered) = open(&cut, remembering(), wide()).unwrap();
        let whole = all.iter().filter(|(_, end)| *end <= len).count() as u64;
        assert_eq!(recovered.size, whole, "cut at {len}");
        if whole > 0 {
            assert_eq!(log.entry(whole - 1).unwrap(), entry(whole - 1));
        }
    }
}

#[test]
fn a_durable_entry_is_missed_without_any_checkpoint() {
    let model = Model::default();
    let (mut log, _) = open(&model, remembering(), wide()).unwrap();
    for n in 0..10 {
        log.append(&[entry(n)]).unwrap();
        log.sync().unwrap();
    }
    drop(log);
    let (path, segment) = only_segment(&model);
    let all = frames(&segment);
    for (nth, (start, end)) in all.iter().enumerate().take(9) {
        for at in *start..*end {
            let mut bad = segment.clone();
            bad[at] ^= 4;
            let error = refused(&with_file(&model, &path, bad));
            let OpenError::Read(ReadError::Damaged { index, offset, .. }) = error else { panic!("{error:?}") };
            assert_eq!((index, offset), (nth as u64, *start as u64), "byte {at}");
        }
    }
}

#[test]
fn records_cannot_be_dropped_doubled_swapped_or_moved() {
    let model = log_of(64, true);
    let notary = remembering();
    let (path, segment) = only_segment(&model);
    let all = frames(&segment);
    let frame = |nth: usize| &segment[all[nth].0..all[nth].1];
    let rebuilt = |order: &[usize]| {
        let mut content = segment[..4096].to_vec();
        order.iter().for_each(|nth| content.extend_from_slice(frame(*nth)));
        content.resize(segment.len().max(content.len()), 0);
        with_file(&model, &path, content)
    };
    let all_of_them: Vec<usize> = (0..64).collect();
    assert!(open(&rebuilt(&all_of_them), notary.clone(), wide()).is_ok());
    let mut attacks = 0;
    for a in 0..64 {
        let mut dropped = all_of_them.clone();
        dropped.remove(a);
        let mut doubled = all_of_them.clone();
        doubled.insert(a, a);
        assert!(open(&rebuilt(&dropped), notary.clone(), wide()).is_err(), "{a}");
        let twice = rebuilt(&doubled);
        match open(&twice, notary.clone(), wide()) {
            Ok((_, recovered)) => {
                assert!(a == 63 && recovered.size == 64 && recovered.cut, "only behind the last it is a torn write");
                assert_eq!(only_segment(&twice).1, segment);
            }
            Err(_) => assert!(a < 63),
        }
        for b in a + 1..64 {
            let mut swapped = all_of_them.clone();
            swapped.swap(a, b);
            assert!(open(&rebuilt(&swapped), notary.clone(), wide()).is_err(), "{a} and {b}");
            let mut replaced = all_of_them.clone();
            replaced[a] = b;
            assert!(open(&rebuilt(&replaced), notary.clone(), wide()).is_err(), "{b} in place of {a}");
            attacks += 2;
        }
    }
    assert_eq!(attacks, 64 * 63);
}

#[test]
fn records_of_another_log_do_not_fit() {
    let (model, other) = (log_of(64, true), log_of(64, true));
    let (path, segment) = only_segment(&model);
    let (_, foreign) = only_segment(&other);
    for (start, end) in frames(&segment) {
        let mut bad = segment.clone();
        bad[start..end].copy_from_slice(&foreign[start..end]);
        refused(&with_file(&model, &path, bad));
    }
    // The whole segment, with its header: the entries are the same, so is the tree, and nothing is forged.
    assert!(open(&with_file(&model, &path, foreign), remembering(), wide()).is_ok());
    let another = Model::default();
    let (mut log, _) = open(&another, remembering(), wide()).unwrap();
    for n in 0..64 {
        log.append(&[entry(n + 1)]).unwrap();
    }
    log.sync().unwrap();
    drop(log);
    let error = refused(&with_file(&model, &path, only_segment(&another).1));
    assert!(matches!(error, OpenError::Evidence(EvidenceError::Tampered { size: 64, .. })), "{error:?}");
}

/// What the format says, done by somebody who can read the salt: flips a bit of entry number `index` and makes its crc right.
fn alter(segment: &mut [u8], index: u64, start: usize, end: usize) {
    segment[start + 8] ^= 1;
    let mut covered = segment[56..72].to_vec();
    covered.extend_from_slice(&index.to_le_bytes());
    covered.extend_from_slice(&segment[start..start + 4]);
    covered.extend_from_slice(&segment[start + 8..end]);
    segment[start + 4..start + 8].copy_from_slice(&crc32c::crc32c(&covered).to_le_bytes());
}

#[test]
fn an_entry_with_a_right_crc_is_still_not_the_one_that_was_signed() {
    let model = log_of(64, true);
    let (path, mut segment) = only_segment(&model);
    let (start, end) = frames(&segment)[20];
    alter(&mut segment, 20, start, end);
    let error = refused(&with_file(&model, &path, segment));
    assert!(matches!(error, OpenError::Evidence(EvidenceError::Tampered { size: 64, .. })), "{error:?}");
}

/// A log of many small segments, whose last has the checkpoint.
fn segments() -> (Model, Vec<PathBuf>) {
    let model = Model::default();
    let (mut log, _) = open(&model, Arc::new(Plain), small()).unwrap();
    for n in 0..300 {
        log.append(&[entry(n)]).unwrap();
    }
    log.checkpoint(1).unwrap();
    drop(log);
    let files = model.state().files();
    let paths = files.into_keys().filter(|path| path.extension().is_some_and(|ending| ending == "seg"));
    (model, paths.collect())
}

#[test]
fn an_entry_that_was_altered_where_nobody_looks_is_never_given_out() {
    let (model, paths) = segments();
    let mut segment = model.state().files()[&paths[0]].to_vec();
    let (start, end) = frames(&segment)[7];
    alter(&mut segment, 7, start, end);
    let bad = with_file(&model, &paths[0], segment);
    let (log, _) = open(&bad, Arc::new(Plain), small()).unwrap();
    assert!(matches!(log.entry(7), Err(ReadError::Altered { start: 7, end: 8 })));
    assert!(matches!(log.bundle(Bundle::new(0, 256).unwrap()), Err(ReadError::Altered { start: 0, end: 256 })));
    assert_eq!(log.entry(6).unwrap(), entry(6));
    drop(log);
    assert!(verify(&shared(&bad), &dir(), &Plain, None, &mut |_, _| {}).is_err());
}

#[test]
fn a_header_that_lies_about_the_tree_before_it_is_refused() {
    let (model, paths) = segments();
    assert!(paths.len() > 5);
    for (nth, path) in paths.iter().enumerate().skip(1) {
        let mut segment = model.state().files()[path].to_vec();
        segment[72] ^= 1;
        let crc = crc32c::crc32c(&segment[..4092]).to_le_bytes();
        segment[4092..4096].copy_from_slice(&crc);
        let bad = with_file(&model, path, segment);
        let error = verify(&shared(&bad), &dir(), &Plain, None, &mut |_, _| {}).unwrap_err();
        assert!(matches!(error, VerifyError::Log(OpenError::Header { .. })), "{error:?}");
        // Only the segment of the checkpoint, and those behind it, are read when the log is opened.
        assert_eq!(open(&bad, Arc::new(Plain), small()).is_err(), nth + 1 == paths.len(), "segment {nth}");
    }
    // Without a checkpoint all are.
    let mut state = model.state();
    [dir().join("checkpoint"), anchor().join("checkpoint")].iter().for_each(|path| state.remove(path));
    let archived: Vec<PathBuf> =
        state.files().into_keys().filter(|path| path.starts_with(dir().join("archive"))).collect();
    archived.iter().for_each(|path| state.remove(path));
    assert_eq!(open(&Model::new(state.clone()), Arc::new(Plain), small()).unwrap().1.walked, 300);
    let mut segment = state.files()[&paths[3]].to_vec();
    segment[72] ^= 1;
    let crc = crc32c::crc32c(&segment[..4092]).to_le_bytes();
    segment[4092..4096].copy_from_slice(&crc);
    state.put(&paths[3], segment);
    let error = open(&Model::new(state), Arc::new(Plain), small()).map(drop).unwrap_err();
    assert!(matches!(error, OpenError::Header { .. }), "{error:?}");
}

#[test]
fn pruning_leaves_what_the_right_edge_needs() {
    let (model, _) = segments();
    let (mut log, _) = open(&model, Arc::new(Plain), small()).unwrap();
    let first = log.prune(300).unwrap();
    assert!(first > 200 && first <= 256, "the tile in which the rest begins is full: {first}");
    drop(log);
    let (mut log, recovered) = open(&model, Arc::new(Plain), small()).unwrap();
    assert_eq!(recovered.size, 300);
    for n in 300..600 {
        log.append(&[entry(n)]).unwrap();
    }
    log.checkpoint(2).unwrap();
    assert_eq!(log.entry(first).unwrap(), entry(first));
    drop(log);
    let verified = verify(&shared(&model), &dir(), &Plain, None, &mut |_, _| {}).unwrap();
    assert_eq!((verified.first, verified.size), (first, 600));
}

#[test]
fn an_older_copy_is_seen_by_the_anchor_alone() {
    let model = Model::default();
    let (mut log, _) = open(&model, remembering(), wide()).unwrap();
    log.append(&[entry(0), entry(1)]).unwrap();
    log.checkpoint(1).unwrap();
    let old = model.state();
    log.append(&[entry(2)]).unwrap();
    let newest = log.checkpoint(2).unwrap();
    drop(log);
    let mut replayed = old.clone();
    let at = anchor().join("checkpoint");
    replayed.put(&at, newest.note.clone().into_bytes());
    let error = refused(&Model::new(replayed.clone()));
    let OpenError::Evidence(EvidenceError::RolledBack { here: 2, seen: 3, path }) = error else { panic!("{error:?}") };
    assert_eq!(path, at);
    // What a loss that is accepted takes over: the strongest checkpoint that is anywhere.
    let model = Model::new(replayed);
    let kept = strongest(&model, &dir(), &*remembering(), &[anchor()]).unwrap().unwrap();
    assert_eq!(kept, newest);
    assert!(Log::begin_after(&kept).ends_with(&newest.note));
    // Without an anchor nothing can show it.
    let mut alone = old;
    alone.remove(&at);
    assert_eq!(open(&Model::new(alone), remembering(), wide()).unwrap().1.size, 2);
}

#[test]
fn a_fork_is_seen_by_an_anchor_of_the_other_branch() {
    let model = log_of(5, true);
    let fork = Model::new(model.state());
    let continued = |model: &Model, word: &str| {
        let (mut log, _) = open(model, remembering(), wide()).unwrap();
        log.append(&[word]).unwrap();
        log.checkpoint(2).unwrap()
    };
    let (one, other) = (continued(&model, "one"), continued(&fork, "other"));
    assert_eq!(one.size, other.size);
    let crossed = with_file(&model, &anchor().join("checkpoint"), other.note.into_bytes());
    let error = refused(&crossed);
    assert!(matches!(error, OpenError::Evidence(EvidenceError::Tampered { size: 6, .. })), "{error:?}");
    // The archive and an older checkpoint that somebody kept are held against it as well.
    let kept = std::path::PathBuf::from("/kept/old");
    let crossed = with_file(&fork, &kept, one.note.into_bytes());
    assert!(verify(&shared(&crossed), &dir(), &*remembering(), Some(&kept), &mut |_, _| {}).is_err());
    assert!(verify(&shared(&crossed), &dir(), &*remembering(), None, &mut |_, _| {}).is_ok());
}

#[test]
fn a_missing_or_foreign_checkpoint_is_refused() {
    let model = log_of(5, true);
    let own = dir().join("checkpoint");
    let mut state = model.state();
    state.remove(&own);
    let error = refused(&Model::new(state));
    assert!(matches!(error, OpenError::Evidence(EvidenceError::Removed { .. })), "{error:?}");
    let forged = keys_of(50);
    let log = open(&model, remembering(), wide()).unwrap().0;
    let root = log.view().unwrap().root();
    drop(log);
    let note = staithe_ledger::Notary::sign(&forged, 5, root, 1).unwrap().note;
    let error = refused(&with_file(&model, &own, note.into_bytes()));
    assert!(matches!(error, OpenError::Evidence(EvidenceError::Forged { .. })), "{error:?}");
    // Another origin's keys do not open it at all.
    let error = open(&Model::new(model.state()), Arc::new(other_origin()), wide()).map(drop).unwrap_err();
    assert!(matches!(error, OpenError::Evidence(EvidenceError::Forged { .. })), "{error:?}");
    let unsigned = log_of(5, false);
    let error = open(&unsigned, Arc::new(other_origin()), wide()).map(drop).unwrap_err();
    assert!(matches!(error, OpenError::OtherLog { .. }), "{error:?}");
}

fn other_origin() -> Keys {
    let signer = |kind, seed| Signer::from_seed(kind, "example.com/other", &[seed; 32]).unwrap();
    let signer = LogSigner::new(signer(Kind::Ed25519, 1), signer(Kind::MlDsa44Cosignature, 2)).unwrap();
    let known = LogKeys::new(vec![signer.keys().clone()]).unwrap();
    assert_ne!(known.origin(), ORIGIN);
    Keys::new(signer, known).unwrap()
}

#[test]
fn a_missing_segment_is_missed_wherever_it_was() {
    let model = Model::default();
    let (mut log, _) = open(&model, Arc::new(Plain), small()).unwrap();
    for n in 0..200 {
        log.append(&[entry(n)]).unwrap();
    }
    log.checkpoint(1).unwrap();
    drop(log);
    let files = model.state().files();
    let segments: Vec<_> = files.keys().filter(|path| path.extension().is_some_and(|e| e == "seg")).collect();
    assert!(segments.len() > 5);
    for gone in segments {
        let mut state = model.state();
        state.remove(gone);
        assert!(open(&Model::new(state.clone()), Arc::new(Plain), small()).is_err(), "{}", gone.display());
        let verified = verify(&shared(&Model::new(state)), &dir(), &Plain, None, &mut |_, _| {});
        assert!(verified.is_err(), "{}", gone.display());
    }
}

#[test]
fn what_was_cut_off_never_comes_back() {
    // Five entries that were never synced, the second torn; the frames behind it are right where they are.
    let unreserved = Options { reserve_bytes: 0, ..wide() };
    let model = Model::default();
    let (mut log, _) = open(&model, Arc::new(Plain), unreserved).unwrap();
    log.append(&(0..5).map(|n| vec![n; 100]).collect::<Vec<_>>()).unwrap();
    drop(log);
    let (path, mut segment) = only_segment(&model);
    segment[4096 + 108 + 20] ^= 1;
    let model = with_file(&model, &path, segment);
    let (mut log, recovered) = open(&model, Arc::new(Plain), unreserved).unwrap();
    assert!(recovered.cut && recovered.size == 1);
    // Two new ones end, with the mark of 40 bytes before them, exactly where the fourth begins.
    log.append(&[vec![9; 80], vec![9; 80]]).unwrap();
    drop(log);
    let (_, recovered) = open(&model, Arc::new(Plain), unreserved).unwrap();
    assert_eq!(recovered.size, 3, "the old fourth is no fourth");
}

#[test]
fn an_entry_that_looks_like_frames_is_an_entry() {
    let model = Model::default();
    let (mut log, _) = open(&model, Arc::new(Plain), wide()).unwrap();
    log.append(&[entry(0)]).unwrap();
    log.sync().unwrap();
    log.append(&[entry(1)]).unwrap();
    drop(log);
    // A whole segment of another log with its marks, sent as an entry; then a crash tears the entry before it.
    let (_, segment) = only_segment(&model);
    let victim = Model::default();
    let (mut log, _) = open(&victim, Arc::new(Plain), wide()).unwrap();
    log.append(&[entry(0), segment[..5000.min(segment.len())].to_vec()]).unwrap();
    drop(log);
    let (path, mut bad) = only_segment(&victim);
    bad[4096 + 10] ^= 1;
    let (_, recovered) = open(&with_file(&victim, &path, bad), Arc::new(Plain), wide()).unwrap();
    assert!(recovered.cut && recovered.size == 0);
    assert!(Plain.read(b"no checkpoint").is_err());
}
