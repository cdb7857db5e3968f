//! Tiles of 256 hashes and bundles of 256 entries, as C2SP tlog-tiles lays them out: their paths, which of them a tree has,
//! and how hashes of subtrees come out of them.

use crate::hash::{Hash, node_hash};
use crate::tree::{Hashes, MAX_SIZE};
use std::fmt::Write as _;

/// Tree levels per tile.
pub const HEIGHT: u8 = 8;
/// Hashes of a full tile, entries of a full bundle.
pub const WIDTH: u16 = 1 << HEIGHT;
/// Bytes of the longest entry: its length is 16 bits.
pub const MAX_ENTRY: usize = 65_535;
/// The highest level of tiles that a tree can have.
pub const MAX_LEVEL: u8 = 7;

/// One tile: which hashes, and how many of them. It always lies within a tree of 2^63 − 1 leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tile {
    level: u8,
    index: u64,
    width: u16,
}

impl Tile {
    /// The tile number `index` of a level, with its first `width` hashes. `None` if no tree can have it.
    pub fn new(level: u8, index: u64, width: u16) -> Option<Self> {
        if level > MAX_LEVEL || width == 0 || width > WIDTH {
            return None;
        }
        let last = index.checked_mul(u64::from(WIDTH))?.checked_add(u64::from(width))?;
        let end = last.checked_mul(1 << (HEIGHT * level))?;
        (end <= MAX_SIZE).then_some(Self { level, index, width })
    }

    /// The tile number `index` of a level as a tree of `size` leaves has it. `None` if it has no hash of it.
    pub fn of(level: u8, index: u64, size: u64) -> Option<Self> {
        if level > MAX_LEVEL {
            return None;
        }
        let hashes = size.min(MAX_SIZE) >> (HEIGHT * level);
        let there = hashes.checked_sub(index.checked_mul(u64::from(WIDTH))?)?;
        Self::new(level, index, u16::try_from(there).unwrap_or(WIDTH).min(WIDTH))
    }

    /// 0 for hashes of leaves; above, each hash is that of a full tile below.
    pub fn level(&self) -> u8 {
        self.level
    }

    /// Which tile of its level.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Hashes in it, 1 to 256.
    pub fn width(&self) -> u16 {
        self.width
    }

    /// Whether it has all 256 hashes.
    pub fn is_full(&self) -> bool {
        self.width == WIDTH
    }

    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        usize::from(self.width) * Hash::LEN
    }

    /// The first leaf under it.
    pub fn start(&self) -> u64 {
        (self.index << HEIGHT) << (HEIGHT * self.level)
    }

    /// One behind the last leaf under the hashes that it has.
    pub fn end(&self) -> u64 {
        ((self.index << HEIGHT) + u64::from(self.width)) << (HEIGHT * self.level)
    }

    /// The same tile with all hashes, which serves where this one was asked for. `None` if no tree can have it.
    pub fn full(&self) -> Option<Self> {
        Self::new(self.level, self.index, WIDTH)
    }

    /// `tile/<level>/<index>[.p/<width>]`.
    pub fn path(&self) -> String {
        format!("tile/{}/{}", self.level, number_path(self.index, self.width))
    }

    /// A path in the one spelling that [`Self::path`] gives it.
    pub fn from_path(path: &str) -> Option<Self> {
        let (level, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let (index, width) = number(rest)?;
        // Anything but the spelling itself is another name for the same bytes, and nobody needs one.
        Self::new(level.parse().ok()?, index, width).filter(|tile| tile.path() == path)
    }
}

/// One bundle of entries: entry number `index` · 256 and those behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bundle {
    index: u64,
    width: u16,
}

impl Bundle {
    /// The bundle number `index` with its first `width` entries. `None` if no tree can have it.
    pub fn new(index: u64, width: u16) -> Option<Self> {
        Tile::new(0, index, width).map(|Tile { index, width, .. }| Self { index, width })
    }

    /// The bundle number `index` as a tree of `size` leaves has it.
    pub fn of(index: u64, size: u64) -> Option<Self> {
        Tile::of(0, index, size).map(|Tile { index, width, .. }| Self { index, width })
    }

    /// Which bundle.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Entries in it, 1 to 256.
    pub fn width(&self) -> u16 {
        self.width
    }

    /// Its first entry.
    pub fn start(&self) -> u64 {
        self.index << HEIGHT
    }

    /// One behind its last entry.
    pub fn end(&self) -> u64 {
        self.start() + u64::from(self.width)
    }

    /// `tile/entries/<index>[.p/<width>]`.
    pub fn path(&self) -> String {
        format!("tile/entries/{}", number_path(self.index, self.width))
    }

    /// A path in the one spelling that [`Self::path`] gives it.
    pub fn from_path(path: &str) -> Option<Self> {
        let (index, width) = number(path.strip_prefix("tile/entries/")?)?;
        Self::new(index, width).filter(|bundle| bundle.path() == path)
    }
}

/// `x001/x234/067.p/5`.
fn number_path(index: u64, width: u16) -> String {
    let digits = index.to_string();
    // Groups of three from the right; the first is filled up with zeroes.
    let padded = format!("{digits:0>width$}", width = digits.len().div_ceil(3) * 3);
    let mut out = String::with_capacity(padded.len() * 2 + 8);
    for (at, digit) in padded.chars().enumerate() {
        if at % 3 == 0 {
            out.push_str(if at > 0 { "/" } else { "" });
            out.push_str(if at + 3 < padded.len() { "x" } else { "" });
        }
        out.push(digit);
    }
    if width != WIDTH {
        let _ = write!(out, ".p/{width}");
    }
    out
}

/// The number and width of a path, loosely: the caller compares the spelling.
fn number(text: &str) -> Option<(u64, u16)> {
    let (index, width) = match text.split_once(".p/") {
        Some((index, width)) => (index, width.parse().ok().filter(|width| *width < WIDTH)?),
        None => (text, WIDTH),
    };
    // The longest index below 2^63 / 256 has 17 digits.
    let digits: String = index.chars().filter(char::is_ascii_digit).take(20).collect();
    Some((digits.parse().ok()?, width))
}

/// Full tiles of a level that a tree of `size` leaves has.
pub fn full_tiles(level: u8, size: u64) -> u64 {
    let shift = u32::from(HEIGHT) * (u32::from(level) + 1);
    size.min(MAX_SIZE).checked_shr(shift).unwrap_or(0)
}

/// All tiles of a tree: level by level, left to right, in each level the partial one last.
pub fn tiles(size: u64) -> impl Iterator<Item = Tile> {
    (0..=MAX_LEVEL)
        .flat_map(move |level| (0..=full_tiles(level, size)).filter_map(move |index| Tile::of(level, index, size)))
}

/// The tiles of a tree that are not full, at most one per level.
pub fn partial_tiles(size: u64) -> impl Iterator<Item = Tile> {
    (0..=MAX_LEVEL).filter_map(move |level| Tile::of(level, full_tiles(level, size), size))
}

/// The tiles that are full in a tree of `new` leaves and were not in its beginning of `old` leaves: level by level, left to
/// right. What a log writes after it grew, in an order in which each level comes from the one below.
pub fn filled_tiles(old: u64, new: u64) -> impl Iterator<Item = Tile> {
    (0..=MAX_LEVEL).flat_map(move |level| {
        (full_tiles(level, old)..full_tiles(level, new)).filter_map(move |index| Tile::new(level, index, WIDTH))
    })
}

/// Where the hash of a complete subtree comes from: hashes `first..first + count` of the tile, `count` a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The tile, as wide as the tree has it.
    pub tile: Tile,
    /// The first of its hashes under the subtree.
    pub first: u16,
    /// How many of its hashes lie under the subtree.
    pub count: u16,
}

impl Place {
    /// Where the hash of the subtree of 2^`level` leaves number `index` is in a tree of `size` leaves; `None` if the
    /// subtree is not within the tree.
    pub fn of(level: u8, index: u64, size: u64) -> Option<Self> {
        let within = level % HEIGHT;
        let start = index.checked_shl(u32::from(within)).filter(|start| start >> within == index)?;
        let tile = Tile::of(level / HEIGHT, start >> HEIGHT, size)?;
        let first = u16::try_from(start & u64::from(WIDTH - 1)).ok()?;
        let count = 1 << within;
        (first + count <= tile.width).then_some(Self { tile, first, count })
    }

    /// The hash of the subtree out of its tile's hashes; `None` if there are too few.
    pub fn hash(&self, hashes: &[Hash]) -> Option<Hash> {
        let first = usize::from(self.first);
        complete_root(hashes.get(first..first + usize::from(self.count))?)
    }
}

/// The root of a complete tree over these hashes: of a whole tile, or of a part. `None` unless their number is a power of
/// two.
pub fn complete_root(hashes: &[Hash]) -> Option<Hash> {
    if !hashes.len().is_power_of_two() {
        return None;
    }
    let mut level = hashes.to_vec();
    while level.len() > 1 {
        level = level.chunks_exact(2).filter_map(|pair| Some(node_hash(*pair.first()?, *pair.last()?))).collect();
    }
    level.pop()
}

/// The bytes of a tile.
pub fn encode_tile(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

/// The hashes of a tile out of its bytes; `None` if they are not exactly as many as it is wide.
pub fn decode_tile(tile: Tile, bytes: &[u8]) -> Option<Vec<Hash>> {
    if bytes.len() != tile.bytes() {
        return None;
    }
    bytes.chunks_exact(Hash::LEN).map(Hash::from_bytes).collect()
}

/// Tiles that are there to be read.
pub trait Tiles {
    /// Why a tile could not be read.
    type Error;

    /// The hashes of a tile, exactly as many as it is wide.
    fn tile(&self, tile: Tile) -> Result<Vec<Hash>, Self::Error>;
}

impl<T: Tiles + ?Sized> Tiles for &T {
    type Error = T::Error;

    fn tile(&self, tile: Tile) -> Result<Vec<Hash>, T::Error> {
        (**self).tile(tile)
    }
}

/// A hash could not be had from tiles.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TilesError<E> {
    /// The subtree is not within the tree.
    #[error("the tree of {size} leaves has no complete subtree {index} of level {level}")]
    NotInTree {
        /// Level of the subtree.
        level: u8,
        /// Which subtree of the level.
        index: u64,
        /// Leaves of the tree.
        size: u64,
    },
    /// The tile has fewer hashes than it should.
    #[error("the tile {0:?} is too short")]
    Short(Tile),
    /// The tile could not be read.
    #[error("{0}")]
    Tiles(E),
}

/// The hashes of a tree whose tiles can be read. Nothing is kept: a reader that is slow should remember tiles.
#[derive(Clone, Copy, Debug)]
pub struct FromTiles<T> {
    size: u64,
    tiles: T,
}

impl<T: Tiles> FromTiles<T> {
    /// The tree of `size` leaves.
    pub fn new(size: u64, tiles: T) -> Self {
        Self { size, tiles }
    }
}

impl<T: Tiles> Hashes for FromTiles<T> {
    type Error = TilesError<T::Error>;

    fn hash(&self, level: u8, index: u64) -> Result<Hash, Self::Error> {
        let size = self.size;
        let place = Place::of(level, index, size).ok_or(TilesError::NotInTree { level, index, size })?;
        let hashes = self.tiles.tile(place.tile).map_err(TilesError::Tiles)?;
        place.hash(&hashes).ok_or(TilesError::Short(place.tile))
    }
}

/// An entry is longer than 65,535 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an entry of {len} bytes is longer than 65,535")]
pub struct EntryTooLong {
    /// Its length, bytes.
    pub len: usize,
}

/// Appends an entry to a bundle: its length as 16 bits, big-endian, and its bytes.
pub fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> Result<(), EntryTooLong> {
    let len = u16::try_from(entry.len()).map_err(|_| EntryTooLong { len: entry.len() })?;
    bundle.extend_from_slice(&len.to_be_bytes());
    bundle.extend_from_slice(entry);
    Ok(())
}

/// A bundle that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bundle does not consist of {width} entries")]
pub struct BadBundle {
    /// How many were expected.
    pub width: u16,
}

/// The entries of a bundle, exactly `width` of them and nothing behind.
pub fn decode_bundle(bytes: &[u8], width: u16) -> Result<Vec<&[u8]>, BadBundle> {
    let mut rest = bytes;
    let entries: Option<Vec<&[u8]>> = (0..width)
        .map(|_| {
            let (len, behind) = rest.split_first_chunk()?;
            let (entry, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
            rest = behind;
            Some(entry)
        })
        .collect();
    entries.filter(|_| rest.is_empty()).ok_or(BadBundle { width })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::leaf_hash;
    use crate::tree::{Frontier, root};
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn paths_of_the_specification() {
        let path = |level, index, width| Tile::new(level, index, width).unwrap().path();
        assert_eq!(path(0, 1_234_067, 256), "tile/0/x001/x234/067");
        assert_eq!(path(3, 0, 256), "tile/3/000");
        assert_eq!(path(1, 999, 1), "tile/1/999.p/1");
        assert_eq!(path(1, 1000, 255), "tile/1/x001/000.p/255");
        let last = (MAX_SIZE >> 8) - 1;
        assert_eq!(path(0, last, 256), "tile/0/x036/x028/x797/x018/x963/966");
        assert_eq!(Bundle::new(1_234_067, 7).unwrap().path(), "tile/entries/x001/x234/067.p/7");
    }

    #[test]
    fn only_the_one_spelling_is_a_path() {
        for good in ["tile/0/000", "tile/7/000.p/127", "tile/0/x001/x234/067", "tile/2/999.p/255"] {
            assert_eq!(Tile::from_path(good).unwrap().path(), good);
        }
        for bad in [
            "",
            "tile/",
            "tile/0",
            "tile/0/",
            "tile/0/0",
            "tile/0/1000",
            "tile/0/x000/000",
            "tile/0/x001/067x",
            "tile/0/001/067",
            "tile/0/x001/x067",
            "tile/00/000",
            "tile/+0/000",
            "tile/8/000.p/1",
            "tile/63/000",
            "tile/7/000",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/000.p/",
            "tile/0/000.p/1.p/1",
            "tile/0/-01",
            "/tile/0/000",
            "tile/0/000/",
            "tile/0/../0/000",
            "tile/0/x036/x028/x797/x018/x963/967",
            "tile/0/x999/x999/x999/x999/x999/x999/999",
            "tile/0/\u{661}00",
            "tile/entries/000",
        ] {
            assert_eq!(Tile::from_path(bad), None, "{bad}");
        }
        assert_eq!(Bundle::from_path("tile/entries/000").unwrap().path(), "tile/entries/000");
        assert_eq!(Bundle::from_path("tile/0/000"), None);
    }

    #[test]
    fn tiles_of_a_tree_of_70_000_leaves() {
        let all: Vec<Tile> = tiles(70_000).collect();
        let of = |level, full| all.iter().filter(|t| t.level() == level && t.is_full() == full).collect::<Vec<_>>();
        assert_eq!((of(0, true).len(), of(1, true).len(), all.len()), (273, 1, 277));
        let partial: Vec<Tile> = partial_tiles(70_000).collect();
        assert_eq!(
            partial.iter().map(|tile| (tile.level, tile.index, tile.width)).collect::<Vec<_>>(),
            [(0, 273, 112), (1, 1, 17), (2, 0, 1)]
        );
        assert_eq!(tiles(256).map(|tile| tile.path()).collect::<Vec<_>>(), ["tile/0/000", "tile/1/000.p/1"]);
        assert_eq!(tiles(0).count(), 0);
        assert_eq!(partial_tiles(u64::MAX).count(), 8);
    }

    #[test]
    fn growth_fills_each_tile_once() {
        let all: Vec<Tile> = tiles(70_000).filter(Tile::is_full).collect();
        for step in [1, 255, 256, 257, 9_999] {
            let mut sizes: Vec<u64> = (0..70_000).step_by(step).collect();
            sizes.push(70_000);
            let mut grown: Vec<Tile> = sizes.windows(2).flat_map(|two| filled_tiles(two[0], two[1])).collect();
            grown.sort();
            assert_eq!(grown, all, "{step}");
        }
        assert_eq!(filled_tiles(0, 65_536).last(), Tile::new(1, 0, 256));
        assert_eq!(filled_tiles(5, 3).count(), 0);
    }

    #[test]
    fn start_and_end_are_leaves() {
        let tile = Tile::new(1, 1, 17).unwrap();
        assert_eq!((tile.start(), tile.end(), tile.bytes()), (65_536, 69_888, 544));
        let bundle = Bundle::of(273, 70_000).unwrap();
        assert_eq!((bundle.start(), bundle.end()), (69_888, 70_000));
        assert_eq!(Bundle::of(274, 70_000), None);
        assert_eq!(Tile::of(0, u64::MAX, MAX_SIZE), None);
        assert_eq!(Tile::new(7, 0, 128), None, "2^63 leaves are one too many");
        assert_eq!(Tile::new(0, u64::MAX, 1), None);
        assert_eq!(Tile::new(0, 0, 0), None);
        assert_eq!(Tile::new(0, 0, 257), None);
        assert_eq!(Tile::new(255, 0, 1), None);
    }

    struct Stored(HashMap<Tile, Vec<u8>>);

    impl Tiles for Stored {
        type Error = String;

        fn tile(&self, tile: Tile) -> Result<Vec<Hash>, String> {
            let bytes = self.0.get(&tile).ok_or_else(|| tile.path())?;
            decode_tile(tile, bytes).ok_or_else(|| tile.path())
        }
    }

    /// All tiles of a tree, each level made from the one below.
    fn stored(leaves: &[Hash]) -> Stored {
        let (mut level, mut out) = (leaves.to_vec(), HashMap::new());
        for number in 0..=MAX_LEVEL {
            for (index, hashes) in (0..).zip(level.chunks(256)) {
                let tile = Tile::new(number, index, u16::try_from(hashes.len()).unwrap()).unwrap();
                out.insert(tile, encode_tile(hashes));
            }
            level = level.chunks_exact(256).map(|full| complete_root(full).unwrap()).collect();
        }
        Stored(out)
    }

    #[test]
    fn a_tree_read_from_tiles_has_the_root_that_it_grew_to() {
        let leaves: Vec<Hash> = (0..66_000_u32).map(|leaf| leaf_hash(&leaf.to_be_bytes())).collect();
        for size in [0, 1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 66_000] {
            let leaves = &leaves[..size];
            let (mut frontier, size) = (Frontier::new(), size as u64);
            leaves.iter().for_each(|leaf| frontier.append(*leaf).unwrap());
            let from = FromTiles::new(size, stored(leaves));
            assert_eq!(root(size, &from), Ok(frontier.root()), "{size}");
            let mut have: Vec<Tile> = from.tiles.0.keys().copied().collect();
            have.sort();
            assert_eq!(have, tiles(size).collect::<Vec<_>>());
        }
        let from = FromTiles::new(300, stored(&leaves[..299]));
        assert!(matches!(from.hash(0, 299), Err(TilesError::Tiles(_))));
        assert_eq!(from.hash(0, 300), Err(TilesError::NotInTree { level: 0, index: 300, size: 300 }));
        assert!(matches!(from.hash(255, 0), Err(TilesError::NotInTree { .. })));
        assert!(matches!(from.hash(63, u64::MAX), Err(TilesError::NotInTree { .. })));
    }

    #[test]
    fn a_bundle_is_its_entries_and_nothing_more() {
        let entries = [&b"one"[..], b"", &[7; MAX_ENTRY]];
        let mut bundle = Vec::new();
        entries.iter().for_each(|entry| push_entry(&mut bundle, entry).unwrap());
        assert_eq!(&bundle[..7], b"\0\x03one\0\0");
        assert_eq!(decode_bundle(&bundle, 3).unwrap(), entries);
        assert_eq!(decode_bundle(&bundle, 2), Err(BadBundle { width: 2 }));
        assert_eq!(decode_bundle(&bundle, 4), Err(BadBundle { width: 4 }));
        assert_eq!(decode_bundle(&bundle[..bundle.len() - 1], 3), Err(BadBundle { width: 3 }));
        assert_eq!(decode_bundle(b"\0", 1), Err(BadBundle { width: 1 }));
        let before = bundle.clone();
        assert_eq!(push_entry(&mut bundle, &[0; MAX_ENTRY + 1]), Err(EntryTooLong { len: MAX_ENTRY + 1 }));
        assert_eq!(bundle, before);
    }

    proptest! {
        #[test]
        fn tiles_and_paths_go_there_and_back(level in 0_u8..9, index: u64, shift in 0_u32..64, width in 0_u16..300) {
            if let Some(tile) = Tile::new(level, index >> shift, width) {
                prop_assert_eq!(Tile::from_path(&tile.path()), Some(tile));
                prop_assert!(tile.start() < tile.end() && tile.end() <= MAX_SIZE);
                prop_assert_eq!(Tile::of(level, tile.index(), tile.end()), Some(tile));
            }
        }

        #[test]
        fn parsing_a_path_never_panics(path in "(tile|entries|/|x?[0-9]{0,4}|\\.p/|\\PC){0,12}") {
            prop_assert!(Tile::from_path(&path).is_none_or(|tile| tile.path() == path));
            prop_assert!(Bundle::from_path(&path).is_none_or(|bundle| bundle.path() == path));
        }
    }
}
