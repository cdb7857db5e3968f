//! The Merkle tree of RFC 6962: its right edge while it grows, its root, proofs of inclusion and consistency, and their
//! verification. Nothing here reads or stores: hashes come through [`Hashes`].

use crate::hash::{Hash, empty_root, node_hash};
use std::iter;

/// The most leaves a tree may have: sizes fit a signed 64-bit number everywhere.
pub const MAX_SIZE: u64 = (1 << 63) - 1;

/// Hashes of a tree that are there to be read.
pub trait Hashes {
    /// Why a hash could not be read.
    type Error;

    /// The hash of the complete subtree of 2^`level` leaves that begins at leaf `index` · 2^`level`. It is only asked for
    /// subtrees that lie within the tree.
    fn hash(&self, level: u8, index: u64) -> Result<Hash, Self::Error>;
}

impl<H: Hashes + ?Sized> Hashes for &H {
    type Error = H::Error;

    fn hash(&self, level: u8, index: u64) -> Result<Hash, H::Error> {
        (**self).hash(level, index)
    }
}

/// A root or proof could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError<E> {
    /// Sizes end at 2^63 − 1.
    #[error("a tree of {0} leaves is larger than trees may be")]
    TooLarge(u64),
    /// The entry is not in the tree.
    #[error("entry {index} is not in a tree of {size} leaves")]
    NotInTree {
        /// The entry asked for.
        index: u64,
        /// Leaves of the tree.
        size: u64,
    },
    /// The old tree is larger than the new one.
    #[error("a tree of {new} leaves does not extend one of {old}")]
    Shrunk {
        /// Leaves of the old tree.
        old: u64,
        /// Leaves of the new tree.
        new: u64,
    },
    /// A hash could not be read.
    #[error("{0}")]
    Hashes(E),
}

/// A proof does not prove what it is said to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Sizes end at 2^63 − 1.
    #[error("a tree of {0} leaves is larger than trees may be")]
    TooLarge(u64),
    /// The entry cannot be in the tree.
    #[error("entry {index} is not in a tree of {size} leaves")]
    NotInTree {
        /// The entry asked about.
        index: u64,
        /// Leaves of the tree.
        size: u64,
    },
    /// The old tree is larger than the new one.
    #[error("a tree of {new} leaves does not extend one of {old}")]
    Shrunk {
        /// Leaves of the old tree.
        old: u64,
        /// Leaves of the new tree.
        new: u64,
    },
    /// There are more or fewer hashes than a proof between such sizes has.
    #[error("the proof has the wrong number of hashes")]
    Length,
    /// The old root is not what the proof computes: another history.
    #[error("the proof does not lead to the old root")]
    OldRoot,
    /// The root is not what the proof computes.
    #[error("the proof does not lead to the root")]
    Root,
}

/// The right edge of a growing tree: the roots of the complete subtrees that it consists of, the largest first. All that
/// is needed to append and to compute the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    hashes: Vec<Hash>,
}

/// The tree has 2^63 − 1 leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tree is full")]
pub struct TreeFull;

impl Frontier {
    /// The tree without leaves.
    pub fn new() -> Self {
        Self::default()
    }

    /// A frontier as [`Self::hashes`] gave it. `None` if a tree of `size` leaves has not so many subtrees, or is too large.
    pub fn from_parts(size: u64, hashes: Vec<Hash>) -> Option<Self> {
        let wanted = usize::try_from(size.count_ones()).ok();
        (size <= MAX_SIZE && wanted == Some(hashes.len())).then_some(Self { size, hashes })
    }

    /// The frontier of the first `size` leaves of a tree whose hashes can be read.
    pub fn read<H: Hashes>(size: u64, hashes: &H) -> Result<Self, TreeError<H::Error>> {
        if size > MAX_SIZE {
            return Err(TreeError::TooLarge(size));
        }
        let read = complete(0, size).map(|(level, index)| hashes.hash(level, index));
        Ok(Self { size, hashes: read.collect::<Result<_, _>>().map_err(TreeError::Hashes)? })
    }

    /// Appends a leaf, about two hashes' work. The error leaves the tree as it was.
    pub fn append(&mut self, leaf: Hash) -> Result<(), TreeFull> {
        if self.size >= MAX_SIZE {
            return Err(TreeFull);
        }
        let mut hash = leaf;
        // Each trailing one of the size is a subtree as large as what is carried.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.hashes.pop() {
                hash = node_hash(left, hash);
            }
        }
        self.hashes.push(hash);
        self.size += 1;
        Ok(())
    }

    /// Leaves so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root of the tree so far.
    pub fn root(&self) -> Hash {
        joined(self.hashes.iter().copied())
    }

    /// The roots of the complete subtrees, the largest first; one for each one in the binary form of the size.
    pub fn hashes(&self) -> &[Hash] {
        &self.hashes
    }
}

/// The complete subtrees, as (level, index), that leaves `start..end` consist of, left to right. `start` is a multiple of
/// a power of two that is not below `end - start`, as it is wherever RFC 6962 cuts.
fn complete(start: u64, end: u64) -> impl Iterator<Item = (u8, u64)> {
    let mut at = start;
    iter::from_fn(move || {
        let level = u8::try_from(end.checked_sub(at)?.checked_ilog2()?).ok()?;
        let index = at >> level;
        at += 1 << level;
        Some((level, index))
    })
}

/// The root of the subtrees beside each other, the smallest last.
fn joined(parts: impl DoubleEndedIterator<Item = Hash>) -> Hash {
    parts.rev().reduce(|right, left| node_hash(left, right)).unwrap_or_else(empty_root)
}

/// MTH(D[start:end]) of RFC 6962.
fn range<H: Hashes>(start: u64, end: u64, hashes: &H) -> Result<Hash, TreeError<H::Error>> {
    let parts: Result<Vec<Hash>, _> = complete(start, end).map(|(level, index)| hashes.hash(level, index)).collect();
    Ok(joined(parts.map_err(TreeError::Hashes)?.into_iter()))
}

/// Where RFC 6962 cuts `start..end`, which holds at least two leaves: before it lie as many leaves as the largest power
/// of two below their number.
fn cut(start: u64, end: u64) -> u64 {
    start + (1 << (end - start - 1).checked_ilog2().unwrap_or(0))
}

/// The root of the first `size` leaves.
pub fn root<H: Hashes>(size: u64, hashes: &H) -> Result<Hash, TreeError<H::Error>> {
    if size > MAX_SIZE {
        return Err(TreeError::TooLarge(size));
    }
    range(0, size, hashes)
}

/// The proof that leaf `index` is in the tree of `size` leaves, from the leaf's sibling to the root's child: at most 63
/// hashes. (RFC 6962, section 2.1.1)
pub fn inclusion<H: Hashes>(index: u64, size: u64, hashes: &H) -> Result<Vec<Hash>, TreeError<H::Error>> {
    if size > MAX_SIZE {
        return Err(TreeError::TooLarge(size));
    }
    if index >= size {
        return Err(TreeError::NotInTree { index, size });
    }
    let (mut start, mut end, mut proof) = (0, size, Vec::new());
    while end - start > 1 {
        let middle = cut(start, end);
        if index < middle {
            proof.push(range(middle, end, hashes)?);
            end = middle;
        } else {
            proof.push(range(start, middle, hashes)?);
            start = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// The proof that the tree of `new` leaves begins with the tree of `old` leaves: at most 63 hashes up to 2^62 leaves, one
/// more above. Empty from the empty tree and between equal sizes. (RFC 6962, section 2.1.2)
pub fn consistency<H: Hashes>(old: u64, new: u64, hashes: &H) -> Result<Vec<Hash>, TreeError<H::Error>> {
    if new > MAX_SIZE {
        return Err(TreeError::TooLarge(new));
    }
    if old > new {
        return Err(TreeError::Shrunk { old, new });
    }
    let (mut start, mut end, mut proof) = (0, new, Vec::new());
    if old == 0 {
        return Ok(proof);
    }
    while end > old {
        let middle = cut(start, end);
        if old <= middle {
            proof.push(range(middle, end, hashes)?);
            end = middle;
        } else {
            proof.push(range(start, middle, hashes)?);
            start = middle;
        }
    }
    // The old root itself is known to whoever asks; a part of it is not.
    if start > 0 {
        proof.push(range(start, end, hashes)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Whether `proof` shows that `leaf` is leaf number `index` of the tree of `size` leaves with this root.
pub fn verify_inclusion(leaf: Hash, index: u64, size: u64, proof: &[Hash], root: Hash) -> Result<(), ProofError> {
    if size > MAX_SIZE {
        return Err(ProofError::TooLarge(size));
    }
    if index >= size {
        return Err(ProofError::NotInTree { index, size });
    }
    let (mut place, mut last) = (index, size - 1);
    let mut hash = leaf;
    for sibling in proof {
        if last == 0 {
            return Err(ProofError::Length);
        }
        if place & 1 == 1 || place == last {
            hash = node_hash(*sibling, hash);
            climb(&mut place, &mut last);
        } else {
            hash = node_hash(hash, *sibling);
        }
        place >>= 1;
        last >>= 1;
    }
    match (last, hash == root) {
        (0, true) => Ok(()),
        (0, false) => Err(ProofError::Root),
        _ => Err(ProofError::Length),
    }
}

/// Whether `proof` shows that the tree of `new` leaves with `new_root` begins with the tree of `old` leaves with
/// `old_root`.
pub fn verify_consistency(
    old: u64,
    old_root: Hash,
    new: u64,
    new_root: Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if new > MAX_SIZE {
        return Err(ProofError::TooLarge(new));
    }
    if old > new {
        return Err(ProofError::Shrunk { old, new });
    }
    if old == 0 || old == new {
        return verify_trivial(old, old_root, new, new_root, proof);
    }
    // A complete old tree is a subtree of the new one: its root is where the proof begins.
    let seed = old.is_power_of_two().then_some(old_root);
    let mut hashes = seed.into_iter().chain(proof.iter().copied());
    let first = hashes.next().ok_or(ProofError::Length)?;
    let (mut place, mut last) = (old - 1, new - 1);
    while place & 1 == 1 {
        place >>= 1;
        last >>= 1;
    }
    let (mut was, mut is) = (first, first);
    for hash in hashes {
        if last == 0 {
            return Err(ProofError::Length);
        }
        if place & 1 == 1 || place == last {
            was = node_hash(hash, was);
            is = node_hash(hash, is);
            climb(&mut place, &mut last);
        } else {
            is = node_hash(is, hash);
        }
        place >>= 1;
        last >>= 1;
    }
    match (last, was == old_root, is == new_root) {
        (0, true, true) => Ok(()),
        (0, false, _) => Err(ProofError::OldRoot),
        (0, true, false) => Err(ProofError::Root),
        _ => Err(ProofError::Length),
    }
}

/// A node without a sibling to its right is its own parent until it is a right child.
fn climb(place: &mut u64, last: &mut u64) {
    while *place & 1 == 0 && *place != 0 {
        *place >>= 1;
        *last >>= 1;
    }
}

/// Between equal trees, and from the empty tree, there is nothing to prove: a proof that has something is none.
fn verify_trivial(old: u64, old_root: Hash, new: u64, new_root: Hash, proof: &[Hash]) -> Result<(), ProofError> {
    if !proof.is_empty() {
        return Err(ProofError::Length);
    }
    if old == 0 && old_root != empty_root() {
        return Err(ProofError::OldRoot);
    }
    if (old == new && old_root != new_root) || (new == 0 && new_root != empty_root()) {
        return Err(ProofError::Root);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::leaf_hash;
    use proptest::prelude::*;

    /// A tree in memory: leaf hashes, everything else computed by the definition in RFC 6962.
    struct Naive(Vec<Hash>);

    impl Hashes for Naive {
        type Error = &'static str;

        fn hash(&self, level: u8, index: u64) -> Result<Hash, &'static str> {
            let from = usize::try_from(index << level).unwrap();
            Ok(mth(self.0.get(from..from + (1 << level)).ok_or("outside of the tree")?))
        }
    }

    fn mth(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node_hash(mth(left), mth(right))
            }
        }
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
    }

    /// The leaves that implementations of RFC 6962 share as a test, and the roots of their trees.
    const LEAVES: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    const ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    fn rfc_leaves() -> Naive {
        Naive(LEAVES.iter().map(|leaf| leaf_hash(&hex(leaf))).collect())
    }

    #[test]
    fn roots_of_rfc_6962_trees_of_0_to_8_leaves() {
        let (leaves, mut frontier) = (rfc_leaves(), Frontier::new());
        for (size, expected) in (0..).zip(ROOTS) {
            let expected = Hash::from_bytes(&hex(expected)).unwrap();
            assert_eq!(root(size, &leaves), Ok(expected), "{size}");
            assert_eq!(frontier.root(), expected, "{size}");
            assert_eq!(Frontier::read(size, &leaves).unwrap(), frontier);
            if let Some(leaf) = leaves.0.get(usize::try_from(size).unwrap()) {
                frontier.append(*leaf).unwrap();
            }
        }
    }

    #[test]
    fn proofs_of_the_seven_leaves_of_rfc_6962() {
        // The tree drawn in section 2.1.3, with its own letters.
        let leaves = Naive((0..7_u8).map(|leaf| leaf_hash(&[leaf])).collect());
        let [a, b, c, d, e, f, j] = leaves.0.clone().try_into().unwrap();
        let (g, h, i) = (node_hash(a, b), node_hash(c, d), node_hash(e, f));
        let (k, l) = (node_hash(g, h), node_hash(i, j));
        assert_eq!(inclusion(0, 7, &leaves), Ok(vec![b, h, l]));
        assert_eq!(inclusion(3, 7, &leaves), Ok(vec![c, g, l]));
        assert_eq!(inclusion(4, 7, &leaves), Ok(vec![f, j, k]));
        assert_eq!(inclusion(6, 7, &leaves), Ok(vec![i, k]));
        assert_eq!(consistency(3, 7, &leaves), Ok(vec![c, d, g, l]));
        assert_eq!(consistency(4, 7, &leaves), Ok(vec![l]));
        assert_eq!(consistency(6, 7, &leaves), Ok(vec![i, j, k]));
    }

    /// Hashes of a tree too large to exist: any will do, as only the shape counts.
    struct Endless;

    impl Hashes for Endless {
        type Error = &'static str;

        fn hash(&self, level: u8, index: u64) -> Result<Hash, &'static str> {
            let end = (u128::from(index) + 1) << level;
            assert!(end <= u128::from(MAX_SIZE), "asked for {level}/{index}, which no tree has");
            Ok(leaf_hash(&[&[level][..], &index.to_be_bytes()].concat()))
        }
    }

    #[test]
    fn the_largest_tree_has_proofs_and_nothing_is_larger() {
        let top = root(MAX_SIZE, &Endless).unwrap();
        for index in [0, 1, MAX_SIZE / 2, MAX_SIZE - 1] {
            let proof = inclusion(index, MAX_SIZE, &Endless).unwrap();
            assert!(proof.len() <= 63);
            // These hashes are not hashes of each other, so only the length can be right.
            let verdict = verify_inclusion(leaf_hash(b""), index, MAX_SIZE, &proof, top);
            assert_eq!(verdict, Err(ProofError::Root), "{index}");
        }
        for old in [1, 3, 1 << 62, (1 << 62) + 1, MAX_SIZE - 1] {
            let proof = consistency(old, MAX_SIZE, &Endless).unwrap();
            assert!(proof.len() <= 64);
            let verdict = verify_consistency(old, leaf_hash(b""), MAX_SIZE, top, &proof);
            assert!(matches!(verdict, Err(ProofError::OldRoot | ProofError::Root)), "{old}: {verdict:?}");
        }
        let over = MAX_SIZE + 1;
        for size in [over, u64::MAX] {
            assert_eq!(root(size, &Endless), Err(TreeError::TooLarge(size)));
            assert_eq!(inclusion(0, size, &Endless), Err(TreeError::TooLarge(size)));
            assert_eq!(consistency(1, size, &Endless), Err(TreeError::TooLarge(size)));
            assert_eq!(Frontier::read(size, &Endless), Err(TreeError::TooLarge(size)));
            assert_eq!(verify_inclusion(top, 0, size, &[], top), Err(ProofError::TooLarge(size)));
            assert_eq!(verify_consistency(size, top, size, top, &[]), Err(ProofError::TooLarge(size)));
        }
        let mut full = Frontier::read(MAX_SIZE, &Endless).unwrap();
        assert_eq!(full.append(top), Err(TreeFull));
        assert_eq!(full.root(), top);
    }

    #[test]
    fn a_frontier_of_the_wrong_shape_is_none() {
        assert_eq!(Frontier::from_parts(0, vec![]), Some(Frontier::new()));
        assert_eq!(Frontier::from_parts(0, vec![empty_root()]), None);
        assert_eq!(Frontier::from_parts(5, vec![empty_root()]), None);
        assert!(Frontier::from_parts(5, vec![empty_root(); 2]).is_some());
        assert_eq!(Frontier::from_parts(u64::MAX, vec![empty_root(); 64]), None);
    }

    #[test]
    fn what_is_not_there_has_no_proof() {
        let leaves = rfc_leaves();
        assert_eq!(inclusion(8, 8, &leaves), Err(TreeError::NotInTree { index: 8, size: 8 }));
        assert_eq!(inclusion(0, 0, &leaves), Err(TreeError::NotInTree { index: 0, size: 0 }));
        assert_eq!(consistency(8, 7, &leaves), Err(TreeError::Shrunk { old: 8, new: 7 }));
        assert_eq!(root(9, &leaves), Err(TreeError::Hashes("outside of the tree")));
        let top = root(8, &leaves).unwrap();
        assert!(verify_inclusion(leaves.0[0], 8, 8, &[], top).is_err());
        assert!(verify_inclusion(leaves.0[0], u64::MAX, 8, &[], top).is_err());
        assert!(verify_consistency(9, top, 8, top, &[]).is_err());
    }

    #[test]
    fn nothing_to_prove_is_proved_by_nothing() {
        let (leaves, none) = (rfc_leaves(), empty_root());
        let (five, eight) = (root(5, &leaves).unwrap(), root(8, &leaves).unwrap());
        assert_eq!(verify_consistency(0, none, 8, eight, &[]), Ok(()));
        assert_eq!(verify_consistency(0, none, 0, none, &[]), Ok(()));
        assert_eq!(verify_consistency(8, eight, 8, eight, &[]), Ok(()));
        assert_eq!(verify_consistency(0, eight, 8, eight, &[]), Err(ProofError::OldRoot));
        assert_eq!(verify_consistency(0, none, 0, eight, &[]), Err(ProofError::Root));
        assert_eq!(verify_consistency(8, five, 8, eight, &[]), Err(ProofError::Root));
        for old in [0, 8] {
            let old_root = root(old, &leaves).unwrap();
            assert_eq!(verify_consistency(old, old_root, 8, eight, &[five]), Err(ProofError::Length));
        }
    }

    proptest! {
        #[test]
        fn a_proof_with_anything_changed_is_refused(
            sizes in (1_u64..70).prop_flat_map(|new| (0..new, 1..=new, Just(new))),
            at in any::<proptest::sample::Index>(),
            bit in 0_usize..256,
        ) {
            let (index, old, new) = sizes;
            let leaves = Naive((0..70_u8).map(|leaf| leaf_hash(&[leaf])).collect());
            let leaf = leaves.0[usize::try_from(index).unwrap()];
            let (was, is) = (root(old, &leaves).unwrap(), root(new, &leaves).unwrap());
            let (inc, con) = (inclusion(index, new, &leaves).unwrap(), consistency(old, new, &leaves).unwrap());
            prop_assert_eq!(verify_inclusion(leaf, index, new, &inc, is), Ok(()));
            prop_assert_eq!(verify_consistency(old, was, new, is, &con), Ok(()));
            let flip = |hash: &Hash| {
                let mut bytes = hash.0;
                bytes[bit / 8] ^= 1 << (bit % 8);
                Hash(bytes)
            };
            prop_assert!(verify_inclusion(flip(&leaf), index, new, &inc, is).is_err());
            prop_assert!(verify_inclusion(leaf, index, new, &inc, flip(&is)).is_err());
            prop_assert!(verify_consistency(old, flip(&was), new, is, &con).is_err());
            prop_assert!(verify_consistency(old, was, new, flip(&is), &con).is_err());
            for proof in [&inc, &con] {
                let verify = |other: &[Hash]| if std::ptr::eq(proof, &inc) {
                    verify_inclusion(leaf, index, new, other, is)
                } else {
                    verify_consistency(old, was, new, is, other)
                };
                let mut longer = proof.clone();
                longer.insert(at.index(proof.len() + 1), is);
                prop_assert!(verify(&longer).is_err());
                if !proof.is_empty() {
                    let at = at.index(proof.len());
                    let mut other = proof.clone();
                    other[at] = flip(&other[at]);
                    prop_assert!(verify(&other).is_err());
                    other.remove(at);
                    prop_assert!(verify(&other).is_err());
                }
            }
            // The same leaf and proof do not hold for another place.
            for other in (0..new).filter(|other| *other != index) {
                prop_assert!(verify_inclusion(leaf, other, new, &inc, is).is_err());
            }
        }

        #[test]
        fn verification_never_panics(index: u64, size: u64, proof in prop::collection::vec(any::<[u8; 32]>(), 0..70)) {
            let proof: Vec<Hash> = proof.into_iter().map(Hash).collect();
            let any = empty_root();
            let (index, size) = (index >> (index % 64), size >> (size % 64));
            prop_assert!(verify_inclusion(any, index, size, &proof, any).is_err() || (size == 1 && proof.is_empty()));
            let _ = verify_consistency(index, any, size, any, &proof);
        }
    }
}
