//! What a log gives to those who read it: proofs, bundles and tiles that are right whatever became of derived files; beside a writer;
//! after pruning.

use crate::promise::{Plain, Record, keys_of};
use staithe_ledger::disk::{Disk, RealDisk};
use staithe_ledger::recover::OpenError;
use staithe_ledger::tile::{Bundle, FromTiles, Tile, Tiles, decode_bundle, decode_tile, tiles};
use staithe_ledger::tree::{self, verify_consistency, verify_inclusion};
use staithe_ledger::verify::VerifyError;
use staithe_ledger::view::ReadError;
use staithe_ledger::{Log, Options, Reader, View, leaf_hash, verify};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn real() -> Arc<dyn Disk> {
    Arc::new(RealDisk)
}

fn options() -> Options {
    Options { segment_bytes: 512 << 10, allocate_bytes: 64 << 10, reserve_bytes: 4096 }
}

fn entry(n: u64) -> Vec<u8> {
    format!("number {n}").into_bytes()
}

fn open(dir: &Path) -> Log {
    Log::open(&real(), dir, options(), Arc::new(Plain), Vec::new()).unwrap().0
}

/// A log of `size` entries, and its record.
fn filled(dir: &Path, size: u64) -> (Log, Record) {
    let (mut log, mut record) = (open(dir), Record::new());
    let entries: Vec<Vec<u8>> = (0..size).map(entry).collect();
    record.attempt(&entries);
    for (nth, some) in entries.chunks(1000).enumerate() {
        log.append(some).unwrap();
        if nth % 20 == 0 {
            log.checkpoint(nth as u64).unwrap();
        }
    }
    log.checkpoint(1).unwrap();
    (log, record)
}

fn proves(view: &View, record: &Record, from: u64) {
    let (size, root) = (view.size(), view.root());
    assert_eq!(Some(&root), record.roots.get(size as usize));
    for index in [from, from + 1, from + 255, from + 256, size / 2, size - 257, size - 1] {
        let index = index.max(from);
        let proof = view.inclusion(index).unwrap();
        verify_inclusion(leaf_hash(&entry(index)), index, size, &proof, root).unwrap();
        assert_eq!(view.entry(index).unwrap(), entry(index));
        let bundle = Bundle::of(index / 256, size).unwrap();
        if bundle.start() >= from {
            let bytes = view.bundle(bundle).unwrap();
            let entries = decode_bundle(&bytes, bundle.width()).unwrap();
            assert_eq!(entries[(index % 256) as usize], entry(index));
        }
        let old = index + 1;
        let proof = view.consistency(old).unwrap();
        verify_consistency(old, record.roots[old as usize], size, root, &proof).unwrap();
        assert_eq!(view.root_at(old).unwrap(), record.roots[old as usize]);
    }
    assert!(matches!(view.entry(size), Err(ReadError::NotInLog { .. })));
    assert!(matches!(view.inclusion(size), Err(ReadError::NotInLog { .. })));
    assert!(matches!(view.consistency(size + 1), Err(ReadError::NotInLog { .. })));
}

struct Served<'a>(&'a View);

impl Tiles for Served<'_> {
    type Error = ReadError;

    fn tile(&self, tile: Tile) -> Result<Vec<staithe_ledger::Hash>, ReadError> {
        self.0.tile(tile)
    }
}

#[test]
fn proofs_are_right_with_derived_files_damaged_or_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (log, record) = filled(dir.path(), 70_000);
    proves(log.view().unwrap(), &record, 0);
    assert_eq!(tree::root(70_000, &FromTiles::new(70_000, Served(log.view().unwrap()))).unwrap(), record.roots[70_000]);
    drop(log);
    let full: Vec<Tile> = tiles(70_000).filter(Tile::is_full).collect();
    assert_eq!(full.len(), 274);
    let before: Vec<Vec<u8>> = full.iter().map(|tile| fs::read(dir.path().join(tile.path())).unwrap()).collect();
    for (nth, tile) in full.iter().enumerate() {
        let path = dir.path().join(tile.path());
        match nth % 3 {
            0 => fs::remove_file(path).unwrap(),
            1 => fs::File::options().write(true).open(path).unwrap().set_len(nth as u64 * 7).unwrap(),
            _ => {
                let file = fs::File::options().write(true).open(path).unwrap();
                std::os::unix::fs::FileExt::write_all_at(&file, b"x", 99).unwrap();
            }
        }
    }
    let reader = Reader::open(&real(), dir.path(), Arc::new(Plain)).unwrap();
    proves(reader.view(), &record, 0);
    let mut log = open(dir.path());
    proves(log.view().unwrap(), &record, 0);
    for (tile, before) in full.iter().zip(&before) {
        assert_eq!(log.view().unwrap().tile(*tile).unwrap(), decode_tile(*tile, before).unwrap());
    }
    for (tile, before) in full.iter().zip(&before) {
        assert!(fs::read(dir.path().join(tile.path())).unwrap() == *before, "{tile:?} is mended where it was read");
    }
    assert_eq!(log.rebuild(&mut |_, _| {}).unwrap(), 0);
}

#[test]
fn a_log_is_verified_offline_with_real_keys_and_an_older_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Arc::new(keys_of(9));
    let (mut log, _) = Log::open(&real(), dir.path(), options(), keys.clone(), Vec::new()).unwrap();
    for n in 0..600 {
        log.append(&[entry(n)]).unwrap();
    }
    let old = log.checkpoint(1_700_000_000).unwrap();
    for n in 600..1300 {
        log.append(&[entry(n)]).unwrap();
    }
    let new = log.checkpoint(1_700_000_001).unwrap();
    log.append(&[entry(1300)]).unwrap();
    drop(log);
    let kept = dir.path().join("kept");
    fs::copy(dir.path().join("checkpoint"), &kept).unwrap();
    let since = dir.path().join("since");
    std::os::unix::fs::FileExt::write_all_at(&fs::File::create(&since).unwrap(), old.note.as_bytes(), 0).unwrap();
    let mut told = Vec::new();
    let mut progress = |at, of| told.push((at, of));
    let verified = verify(&real(), dir.path(), keys.known(), Some(&since), &mut progress).unwrap();
    assert_eq!((verified.signed, verified.size, verified.compared, verified.missing), (new, 1301, 2, 0));
    assert!(verify(&real(), dir.path(), keys_of(20).known(), None, &mut |_, _| {}).is_err(), "other keys");
    let nowhere = dir.path().join("nowhere");
    let error = verify(&real(), dir.path(), keys.known(), Some(&nowhere), &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, VerifyError::NoCheckpoint { .. }));
}

#[test]
fn there_is_one_writer() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let second = Log::open(&real(), dir.path(), options(), Arc::new(Plain), Vec::new());
    assert!(matches!(second, Err(OpenError::Locked { .. })));
    drop(log);
    open(dir.path());
}

#[test]
fn a_reader_beside_the_writer_sees_a_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let small = Options { segment_bytes: 16 << 10, allocate_bytes: 2048, reserve_bytes: 512 };
    let (mut log, _) = Log::open(&real(), dir.path(), small, Arc::new(Plain), Vec::new()).unwrap();
    let entries: Vec<Vec<u8>> = (0..30_000).map(entry).collect();
    let mut record = Record::new();
    record.attempt(&entries);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for (nth, some) in entries.chunks(7).enumerate() {
                log.append(some).unwrap();
                if nth % 100 == 0 {
                    log.checkpoint(nth as u64).unwrap();
                }
            }
            log.checkpoint(1).unwrap();
            done.store(true, Ordering::Release);
        });
        let mut reader = Reader::open(&real(), dir.path(), Arc::new(Plain)).unwrap();
        let (mut sizes, mut opened) = (Vec::new(), 0);
        loop {
            let last = done.load(Ordering::Acquire);
            let size = reader.refresh().unwrap();
            assert!(sizes.last().is_none_or(|before| *before <= size));
            assert_eq!(record.roots[size as usize], reader.view().root());
            if size > 0 {
                assert_eq!(reader.view().entry(size - 1).unwrap(), entry(size - 1));
                let signed = reader.signed().map_or(0, |signed| signed.size);
                assert!(signed <= size);
            }
            sizes.push(size);
            if opened < 20 {
                opened += 1;
                let other = Reader::open(&real(), dir.path(), Arc::new(Plain)).unwrap();
                assert_eq!(record.roots[other.view().size() as usize], other.view().root());
            }
            if last {
                break;
            }
        }
        sizes.dedup();
        assert_eq!(sizes.last(), Some(&30_000));
        assert!(sizes.len() > 10, "it was read while it was written: {}", sizes.len());
    });
}

#[test]
fn a_pruned_log_still_proves_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, record) = filled(dir.path(), 140_000);
    let early = log.consistency(500).unwrap();
    assert!(!early.is_empty());
    let first = log.prune(100_000).unwrap();
    assert!(first > 60_000 && first <= 100_000, "{first}");
    assert!(matches!(log.prune(200_000), Err(staithe_ledger::prune::PruneError::NotSigned { signed: 140_000 })));
    for open_anew in [false, true] {
        if open_anew {
            drop(log);
            log = open(dir.path());
        }
        let view = log.view().unwrap();
        proves(view, &record, 100_000);
        assert_eq!(view.minimum_index(), 100_000);
        assert!(matches!(view.entry(first - 1), Err(ReadError::Pruned { .. })));
        assert!(matches!(view.inclusion(5), Err(ReadError::Pruned { .. })));
        assert_eq!(view.entry(first).unwrap(), entry(first));
    }
    let gone = |index| !dir.path().join(Tile::new(0, index, 256).unwrap().path()).exists();
    assert!(gone(0) && gone(255), "tiles of leaves under a full tile");
    assert!(!gone(300) && !gone(400), "the right edge of the time");
    let verified = verify(&real(), dir.path(), &Plain, None, &mut |_, _| {}).unwrap();
    assert_eq!((verified.first, verified.size, verified.missing), (first, 140_000, 0));
    // What is left of the beginning is held against the signed root.
    drop(log);
    let above = dir.path().join(Tile::new(1, 0, 256).unwrap().path());
    let good = fs::read(&above).unwrap();
    let file = fs::File::options().write(true).open(&above).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[good[77] ^ 1], 77).unwrap();
    assert!(verify(&real(), dir.path(), &Plain, None, &mut |_, _| {}).is_err());
    std::os::unix::fs::FileExt::write_all_at(&file, &[good[77]], 77).unwrap();
    // It goes on, and is pruned again.
    let mut log = open(dir.path());
    let more: Vec<Vec<u8>> = (140_000..200_000).map(entry).collect();
    for some in more.chunks(500) {
        log.append(some).unwrap();
    }
    log.checkpoint(5).unwrap();
    let second = log.prune(150_000).unwrap();
    assert!(second > first);
    drop(log);
    let verified = verify(&real(), dir.path(), &Plain, None, &mut |_, _| {}).unwrap();
    assert_eq!((verified.first, verified.size), (second, 200_000));
    // Somebody who removes more than was said is found out.
    let mut segments: Vec<PathBuf> = fs::read_dir(dir.path().join("wal")).unwrap().map(|e| e.unwrap().path()).collect();
    segments.retain(|path| path.extension().is_some_and(|ending| ending == "seg"));
    segments.sort();
    fs::remove_file(&segments[0]).unwrap();
    let error = Log::open(&real(), dir.path(), options(), Arc::new(Plain), Vec::new()).map(drop).unwrap_err();
    assert!(matches!(error, OpenError::Missing { .. }), "{error:?}");
}
