//! Roots, proofs and verdicts beside two implementations of others: `tlog_tiles` and `ct-merkle`. All three must agree.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ct_merkle::{ConsistencyProof, InclusionProof, RootHash};
use sha2::Sha256;
use staithe_ledger::hash::{Hash, leaf_hash};
use staithe_ledger::tile::{self, FromTiles, Tile, Tiles};
use staithe_ledger::tree::{self, Frontier, Hashes};
use std::convert::Infallible;
use tlog_tiles::{HashReader, tlog};

/// xorshift64: fixed, so that a failure comes again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn entry(&mut self) -> Vec<u8> {
        let len = self.below(90);
        (0..len).map(|_| u8::try_from(self.below(256)).unwrap()).collect()
    }
}

/// The same random entries in all three.
struct Three {
    entries: Vec<Vec<u8>>,
    frontier: Frontier,
    /// Level by level, the hashes of all complete subtrees.
    ours: Levels,
    tlog: Stored,
    ct: MemoryBackedTree<Sha256, Vec<u8>>,
}

#[derive(Default)]
struct Levels(Vec<Vec<Hash>>);

impl Hashes for Levels {
    type Error = String;

    fn hash(&self, level: u8, index: u64) -> Result<Hash, String> {
        let level = self.0.get(usize::from(level)).ok_or("no such level")?;
        level.get(usize::try_from(index).unwrap()).copied().ok_or_else(|| format!("{index}"))
    }
}

impl Tiles for Levels {
    type Error = Infallible;

    fn tile(&self, tile: Tile) -> Result<Vec<Hash>, Infallible> {
        let first = usize::try_from(tile.index() * 256).unwrap();
        let level = &self.0[usize::from(tile.level()) * 8];
        Ok(level[first..first + usize::from(tile.width())].to_vec())
    }
}

#[derive(Default)]
struct Stored(Vec<tlog::Hash>);

impl HashReader for Stored {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog::Hash>, tlog::Error> {
        Ok(indexes.iter().map(|index| self.0[usize::try_from(*index).unwrap()]).collect())
    }
}

impl Three {
    fn new() -> Self {
        let (frontier, ours) = (Frontier::new(), Levels(vec![Vec::new(); 14]));
        Self { entries: Vec::new(), frontier, ours, tlog: Stored::default(), ct: MemoryBackedTree::new() }
    }

    fn size(&self) -> u64 {
        self.entries.len() as u64
    }

    fn push(&mut self, entry: Vec<u8>) {
        let hashes = tlog::stored_hashes(self.size(), &entry, &self.tlog).unwrap();
        self.tlog.0.extend(hashes);
        self.frontier.append(leaf_hash(&entry)).unwrap();
        self.ours.0[0].push(leaf_hash(&entry));
        for level in 0..13 {
            let below = &self.ours.0[level];
            if below.len() % 2 == 1 || below.len() / 2 == self.ours.0[level + 1].len() {
                break;
            }
            let node = staithe_ledger::node_hash(below[below.len() - 2], below[below.len() - 1]);
            self.ours.0[level + 1].push(node);
        }
        self.ct.push(entry.clone());
        self.entries.push(entry);
    }

    fn grown(size: u64, random: &mut Random) -> Self {
        let mut three = Self::new();
        (0..size).for_each(|_| three.push(random.entry()));
        three
    }

    fn ct_root(&self) -> Hash {
        Hash::from_bytes(self.ct.root().as_bytes()).unwrap()
    }

    fn same_root(&self) -> Hash {
        let (size, root) = (self.size(), self.frontier.root());
        assert_eq!(tree::root(size, &self.ours), Ok(root), "{size}");
        assert_eq!(tlog::tree_hash(size, &self.tlog).unwrap().0, root.0, "{size}");
        assert_eq!(self.ct_root(), root, "{size}");
        root
    }

    fn same_inclusion(&self, index: u64) -> Vec<Hash> {
        let size = self.size();
        let proof = tree::inclusion(index, size, &self.ours).unwrap();
        assert_eq!(theirs(&proof), tlog::prove_record(size, index, &self.tlog).unwrap(), "{index} in {size}");
        let ct = self.ct.prove_inclusion(usize::try_from(index).unwrap());
        assert_eq!(ct.as_bytes(), tile::encode_tile(&proof), "{index} in {size}");
        proof
    }

    fn same_consistency(&self, old: u64) -> Vec<Hash> {
        let size = self.size();
        let proof = tree::consistency(old, size, &self.ours).unwrap();
        assert_eq!(theirs(&proof), tlog::prove_tree(size, old, &self.tlog).unwrap(), "{old} to {size}");
        let ct = self.ct.prove_consistency(usize::try_from(size - old).unwrap());
        assert_eq!(ct.as_bytes(), tile::encode_tile(&proof), "{old} to {size}");
        proof
    }
}

fn theirs(hashes: &[Hash]) -> Vec<tlog::Hash> {
    hashes.iter().map(|hash| tlog::Hash(hash.0)).collect()
}

#[test]
fn every_root_and_inclusion_proof_up_to_300_leaves_is_the_same() {
    let (mut random, mut three, mut proofs) = (Random(0x5eed), Three::new(), 0);
    for size in 1..=300 {
        three.push(random.entry());
        let root = three.same_root();
        for index in 0..size {
            let proof = three.same_inclusion(index);
            let leaf = leaf_hash(&three.entries[usize::try_from(index).unwrap()]);
            assert_eq!(tree::verify_inclusion(leaf, index, size, &proof, root), Ok(()), "{index} in {size}");
            proofs += 1;
        }
    }
    assert_eq!(proofs, 45_150);
}

#[test]
fn every_consistency_proof_up_to_150_leaves_is_the_same() {
    let (mut random, mut three, mut roots) = (Random(0x5eed5), Three::new(), vec![]);
    for size in 1..=150 {
        three.push(random.entry());
        roots.push(three.same_root());
        for (old, was) in (1..=size).zip(&roots) {
            let proof = three.same_consistency(old);
            let verdict = tree::verify_consistency(old, *was, size, roots[roots.len() - 1], &proof);
            assert_eq!(verdict, Ok(()), "{old} to {size}");
        }
    }
}

#[test]
fn random_trees_of_up_to_5_000_leaves_are_the_same_also_through_tiles() {
    let mut random = Random(0xb16);
    for _ in 0..6 {
        let size = 1 + random.below(5_000);
        let three = Three::grown(size, &mut random);
        let root = three.same_root();
        let tiles = FromTiles::new(size, &three.ours);
        assert_eq!(tree::root(size, &tiles).unwrap(), root);
        for _ in 0..400 {
            let (index, old) = (random.below(size), 1 + random.below(size));
            let inclusion = three.same_inclusion(index);
            assert_eq!(tree::inclusion(index, size, &tiles).unwrap(), inclusion);
            let consistency = three.same_consistency(old);
            assert_eq!(tree::consistency(old, size, &tiles).unwrap(), consistency);
            let was = tree::root(old, &three.ours).unwrap();
            assert_eq!(tree::verify_consistency(old, was, size, root, &consistency), Ok(()));
        }
    }
}

/// A proof with something changed: a bit, a hash more or less, two swapped.
fn damaged(mut proof: Vec<Hash>, random: &mut Random) -> Vec<Hash> {
    let at = usize::try_from(random.below(proof.len() as u64 + 1)).unwrap();
    match random.below(5) {
        0 => proof.insert(at, Hash([7; 32])),
        1 if at < proof.len() => drop(proof.drain(at..=at)),
        2 if at < proof.len() => proof[at].0[at % 32] ^= 1,
        3 if at < proof.len() => proof.swap(0, at),
        _ => {}
    }
    proof
}

#[test]
fn all_three_come_to_the_same_verdict_on_damaged_proofs_and_wrong_places() {
    let mut random = Random(0xbad);
    let mut three = Three::new();
    let (mut right, mut wrong) = (0, 0);
    for size in 1..=120_u64 {
        three.push(random.entry());
        let root = three.same_root();
        for _ in 0..60 {
            // Proof, place and size may each be another's.
            let (index, claimed) = (random.below(size), 1 + random.below(size));
            let proof = damaged(three.same_inclusion(index), &mut random);
            let place = if random.below(4) == 0 { random.below(size + 2) } else { index };
            let of = if random.below(4) == 0 { claimed } else { size };
            let entry = &three.entries[usize::try_from(index).unwrap()];
            let ours = tree::verify_inclusion(leaf_hash(entry), place, of, &proof, root).is_ok();
            let (their_root, their_leaf) = (tlog::Hash(root.0), tlog::Hash(leaf_hash(entry).0));
            let tlog = tlog::check_record(&theirs(&proof), of, their_root, place, their_leaf).is_ok();
            let ct_root = RootHash::<Sha256>::new(root.0.into(), of);
            let ct = InclusionProof::from_digests(proof.iter().map(|hash| hash.0.as_ref().try_into().unwrap()));
            let ct = ct_root.verify_inclusion(entry, place, &ct).is_ok();
            assert_eq!((tlog, ct), (ours, ours), "{place} of {index} in {of} of {size}");

            let old = 1 + random.below(size);
            let proof = damaged(three.same_consistency(old), &mut random);
            let from = if random.below(4) == 0 { claimed } else { old };
            let was = tree::root(old, &three.ours).unwrap();
            let verdict = tree::verify_consistency(from, was, size, root, &proof).is_ok();
            let tlog = tlog::check_tree(&theirs(&proof), size, their_root, from, tlog::Hash(was.0)).is_ok();
            let ct = ConsistencyProof::from_digests(proof.iter().map(|hash| hash.0.as_ref().try_into().unwrap()));
            let ct_was = RootHash::<Sha256>::new(was.0.into(), from);
            let ct = RootHash::<Sha256>::new(root.0.into(), size).verify_consistency(&ct_was, &ct).is_ok();
            assert_eq!((tlog, ct), (verdict, verdict), "{from} of {old} to {size}");
            right += u32::from(ours) + u32::from(verdict);
            wrong += u32::from(!ours) + u32::from(!verdict);
        }
    }
    assert!(right > 3_000 && wrong > 3_000, "{right} right, {wrong} wrong");
}

#[test]
fn the_same_tiles_are_made_and_named_the_same() {
    let mut random = Random(0x711e);
    for _ in 0..300 {
        let new = random.below(300_000) << random.below(20);
        let old = random.below(new + 1).max(new.saturating_sub(500_000));
        let mut theirs: Vec<String> =
            tlog_tiles::Tile::new_tiles(8, old, new).iter().map(tlog_tiles::Tile::path).collect();
        let fuller = tile::partial_tiles(new).filter(|tile| tile.end() > old);
        let mut ours: Vec<String> = tile::filled_tiles(old, new).chain(fuller).map(|tile| tile.path()).collect();
        ours.iter_mut().for_each(|path| path.insert_str(5, "8/"));
        theirs.sort();
        ours.sort();
        assert_eq!(ours, theirs, "{old} to {new}");
    }
}

#[test]
fn the_text_of_a_checkpoint_is_the_same() {
    let root = leaf_hash(b"a");
    let head = staithe_ledger::Head::new("log.example/audit/1", 1_234, root).unwrap();
    let theirs = tlog_tiles::Checkpoint::from_bytes(head.to_string().as_bytes()).unwrap();
    assert_eq!((theirs.origin(), theirs.size(), theirs.hash().0), (head.origin(), head.size(), root.0));
    assert_eq!(theirs.to_bytes(), head.to_string().into_bytes());
}
