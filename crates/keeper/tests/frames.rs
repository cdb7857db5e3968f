//! Runs the committed fuzz corpus, and a bounded number of mutations of it, through the body of the fuzz target, and
//! watches what it allocates: a length that lies must not reserve memory.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Fixed, as is the seed, so that a failure comes again.
const MUTATIONS: usize = 300_000;

/// The longest single allocation since it was last set to 0. One test runs here, in one thread.
static LONGEST: AtomicUsize = AtomicUsize::new(0);

struct Watching;

#[expect(unsafe_code, reason = "an allocator has no safe interface")]
// SAFETY: everything is done by the system's allocator; what is added is a number.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LONGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller of this.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller of this.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LONGEST.fetch_max(size, Ordering::Relaxed);
        // SAFETY: as the caller of this.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static WATCHING: Watching = Watching;

#[test]
fn frames_hold_for_the_corpus_and_reserve_no_more_than_came() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/frame");
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(seeds.len() > 15, "the corpus is missing from {}", folder.display());
    seeds.iter().for_each(|seed| holds(seed));
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..MUTATIONS {
        let mut data = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(3) {
            mutate(&mut data, &seeds, &mut random);
        }
        // Most mutations change the length: without this few would get beyond the head.
        if random.below(2) == 0 && data.len() > 12 {
            let length = u32::try_from(data.len() - 12).unwrap();
            data[..4].copy_from_slice(&length.to_le_bytes());
        }
        holds(&data);
    }
}

fn holds(data: &[u8]) {
    LONGEST.store(0, Ordering::Relaxed);
    staithe_keeper::fuzzing::frame(data);
    let longest = LONGEST.load(Ordering::Relaxed);
    // A pair of empty words is 16 bytes on the way and 48 in memory, and a list grows by doubling.
    assert!(longest <= 8 * data.len() + 1024, "{longest} bytes at once for {} that came: {data:?}", data.len());
}

fn mutate(data: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    const LIKELY: &[u8] = &[0, 1, 2, 3, 4, 8, 12, 16, 127, 128, 254, 255, b'=', b'/', 0xc3];
    let at = random.below(data.len() + 1);
    let byte = LIKELY[random.below(LIKELY.len())];
    match random.below(6) {
        0 => data.insert(at, byte),
        1 if at < data.len() => data[at] = byte,
        2 if at < data.len() => data[at] ^= 1 << random.below(8),
        3 => data.truncate(at),
        4 => {
            // Eight bytes that a length may be.
            let number = [0, 1, 8, u64::from(u32::MAX), u64::MAX][random.below(5)];
            let end = data.len().min(at + 8);
            data.splice(at..end, number.to_le_bytes());
        }
        _ => {
            // A piece of another seed, cut anywhere.
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len() + 1);
            let to = other.len().min(from + random.below(40));
            data.splice(at..at, other[from..to].iter().copied());
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
