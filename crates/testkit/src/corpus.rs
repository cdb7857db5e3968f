//! The committed fuzz corpus, and a bounded number of mutations of it, for the bodies of fuzz targets.

use std::path::Path;

/// Calls `holds` with each seed of `fuzz/corpus/<target>`, then with `mutations` of them. `likely` is what a byte becomes.
/// The mutations are the same each time, so that a failure comes again.
///
/// # Panics
/// Where the corpus cannot be read or has fewer than 5 seeds.
pub fn run(target: &str, mutations: usize, likely: &[u8], mut holds: impl FnMut(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let seeds = seeds(&folder).unwrap_or_default();
    assert!(seeds.len() > 4, "the corpus of {target} is missing from {}", folder.display());
    seeds.iter().for_each(|seed| holds(seed));
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..mutations {
        let mut data = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(4) {
            mutate(&mut data, &seeds, likely, &mut random);
        }
        holds(&data);
    }
}

fn seeds(folder: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    let mut paths = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    paths.iter().map(std::fs::read).collect()
}

fn mutate(data: &mut Vec<u8>, seeds: &[Vec<u8>], likely: &[u8], random: &mut Random) {
    let at = random.below(data.len() + 1);
    let byte = likely[random.below(likely.len())];
    match random.below(7) {
        0 => data.insert(at, byte),
        1 if at < data.len() => data[at] = byte,
        2 if at < data.len() => data[at] ^= 1 << random.below(8),
        3 => drop(data.drain(at..data.len().min(at + 1 + random.below(8)))),
        4 => {
            // Eight bytes that a length may be.
            let number = [0, 1, 8, u64::from(u32::MAX), u64::MAX][random.below(5)];
            let end = data.len().min(at + 8);
            data.splice(at..end, number.to_le_bytes());
        }
        5 => {
            // A piece of another seed, cut anywhere.
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len() + 1);
            let to = other.len().min(from + random.below(40));
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
        usize::try_from(self.0 % bound as u64).unwrap_or_default()
    }
}
