//! Runs the committed fuzz corpus, and a bounded number of mutations of it, through the body of the fuzz target, and
//! watches what it allocates: a length that lies must not reserve memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Fixed, as is the seed, so that a failure comes again.
const MUTATIONS: usize = 300_000;

const LIKELY: &[u8] = &[0, 1, 2, 3, 4, 8, 12, 16, 127, 128, 254, 255, b'=', b'/', 0xc3];

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
    testkit::corpus::run("frame", MUTATIONS, LIKELY, |data| {
        holds(data);
        // Most mutations change the length: without this few would get beyond the head.
        if data.len() > 12 {
            let mut data = data.to_vec();
            let length = u32::try_from(data.len() - 12).unwrap();
            data[..4].copy_from_slice(&length.to_le_bytes());
            holds(&data);
        }
    });
}

fn holds(data: &[u8]) {
    LONGEST.store(0, Ordering::Relaxed);
    staithe_keeper::fuzzing::frame(data);
    let longest = LONGEST.load(Ordering::Relaxed);
    // A pair of empty words is 16 bytes on the way and 48 in memory, and a list grows by doubling.
    assert!(longest <= 8 * data.len() + 1024, "{longest} bytes at once for {} that came: {data:?}", data.len());
}
