//! The right edge of the tree in memory: what is needed to append, to compute the root, and to fill tiles. Every tile that
//! is not full lives here and nowhere else.

use crate::hash::Hash;
use crate::tile::{HEIGHT, Place, Tile, WIDTH, complete_root};
use crate::tree::{Frontier, TreeFull};

/// A tile that became full, with its hashes.
pub(crate) type Filled = (Tile, Vec<Hash>);

/// The tiles of a tree that are not full, and its frontier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edge {
    frontier: Frontier,
    /// The hashes of the tile of each level that is not full, the leaves' first.
    levels: Vec<Vec<Hash>>,
}

/// How many hashes the tile of this level that is not full has in a tree of `size` leaves.
pub(crate) fn partial_width(level: u8, size: u64) -> usize {
    Tile::of(level, size.checked_shr(u32::from(HEIGHT) * (u32::from(level) + 1)).unwrap_or(0), size)
        .map_or(0, |tile| usize::from(tile.width()))
}

/// Whether `hashes` are those of the tile of this level that is not full, by the frontier.
pub(crate) fn fits(level: u8, hashes: &[Hash], frontier: &Frontier) -> bool {
    let size = frontier.size();
    if hashes.len() != partial_width(level, size) {
        return false;
    }
    let low = u32::from(level) * u32::from(HEIGHT);
    // The frontier has one hash per one in the size, the highest first. Those above this tile's eight are not of it.
    let above = size.checked_shr(low + u32::from(HEIGHT)).unwrap_or(0).count_ones();
    let mut pieces = frontier.hashes().iter().skip(usize::try_from(above).unwrap_or(usize::MAX));
    let mut rest = hashes;
    (0..u32::from(HEIGHT)).rev().filter(|bit| size.checked_shr(low + bit).unwrap_or(0) & 1 == 1).all(|bit| {
        let Some((piece, behind)) = rest.split_at_checked(1 << bit) else { return false };
        rest = behind;
        complete_root(piece).as_ref() == pieces.next()
    })
}

impl Edge {
    /// The edge of a tree, if all the hashes fit its frontier.
    pub(crate) fn from_parts(frontier: Frontier, levels: Vec<Vec<Hash>>) -> Option<Self> {
        let right = (0_u8..).zip(&levels).all(|(level, hashes)| fits(level, hashes, &frontier));
        right.then_some(Self { frontier, levels })
    }

    /// Leaves so far.
    pub(crate) fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// The root so far.
    pub(crate) fn root(&self) -> Hash {
        self.frontier.root()
    }

    /// The frontier so far.
    pub(crate) fn frontier(&self) -> &Frontier {
        &self.frontier
    }

    /// The hashes of the tile of this level that is not full.
    pub(crate) fn level(&self, level: u8) -> &[Hash] {
        self.levels.get(usize::from(level)).map_or(&[], Vec::as_slice)
    }

    /// Appends a leaf; tiles that it fills come behind `filled`, each level behind the one below.
    pub(crate) fn push(&mut self, leaf: Hash, filled: &mut Vec<Filled>) -> Result<(), TreeFull> {
        self.frontier.append(leaf)?;
        let mut carried = leaf;
        for level in 0_u8.. {
            if self.levels.len() <= usize::from(level) {
                self.levels.push(Vec::with_capacity(usize::from(WIDTH)));
            }
            let Some(hashes) = self.levels.get_mut(usize::from(level)) else { break };
            hashes.push(carried);
            if hashes.len() < usize::from(WIDTH) {
                break;
            }
            let full = std::mem::take(hashes);
            let number = (self.frontier.size() >> (u32::from(HEIGHT) * (u32::from(level) + 1))).saturating_sub(1);
            let (Some(tile), Some(root)) = (Tile::new(level, number, WIDTH), complete_root(&full)) else { break };
            filled.push((tile, full));
            carried = root;
        }
        Ok(())
    }

    /// The hash of a complete subtree that lies in a tile that is not full; `None` if it lies elsewhere.
    pub(crate) fn hash(&self, place: &Place) -> Option<Hash> {
        (!place.tile.is_full()).then(|| place.hash(self.level(place.tile.level())))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::leaf_hash;
    use crate::tile::{filled_tiles, partial_tiles};

    #[test]
    fn the_edge_fills_the_tiles_that_the_tree_has() {
        let (mut edge, mut filled) = (Edge::default(), Vec::new());
        for n in 0..70_000_u64 {
            edge.push(leaf_hash(&n.to_le_bytes()), &mut filled).unwrap();
        }
        assert_eq!(filled.len(), 274);
        let mut expected: Vec<Tile> = filled_tiles(0, 70_000).collect();
        let mut tiles: Vec<Tile> = filled.iter().map(|(tile, _)| *tile).collect();
        expected.sort();
        tiles.sort();
        assert_eq!(tiles, expected);
        for tile in partial_tiles(70_000) {
            assert_eq!(edge.level(tile.level()).len(), usize::from(tile.width()), "{tile:?}");
        }
        let again = Edge::from_parts(edge.frontier.clone(), edge.levels.clone());
        assert_eq!(again.as_ref(), Some(&edge));
        for (level, at) in [(0, 0), (0, 111), (1, 16), (2, 0)] {
            let mut levels = edge.levels.clone();
            levels[level][at].0[0] ^= 1;
            assert_eq!(Edge::from_parts(edge.frontier.clone(), levels), None, "level {level}");
        }
    }
}
