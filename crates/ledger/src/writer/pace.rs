//! When the writer's thread has something to do.

use super::{Settings, lock};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use stdx::clock::monotonic;

/// When the thread has to do something of its own accord.
pub(super) struct Due {
    checkpoint: Instant,
    again: Instant,
}

impl Due {
    pub(super) fn new(settings: &Settings) -> Self {
        let now = monotonic();
        Self { checkpoint: now + settings.checkpoint, again: now + settings.again }
    }

    pub(super) fn next(&self) -> Instant {
        self.checkpoint.min(self.again)
    }

    pub(super) fn checkpoint(&mut self, settings: &Settings) -> bool {
        let due = monotonic() >= self.checkpoint;
        if due {
            self.checkpoint = monotonic() + settings.checkpoint;
        }
        due
    }

    pub(super) fn again(&mut self, settings: &Settings) -> bool {
        let due = monotonic() >= self.again;
        if due {
            self.again = monotonic() + settings.again;
        }
        due
    }
}

/// Wakes the thread.
#[derive(Default)]
pub(super) struct Pace {
    /// Set without the lock where it is set already: most appends come while another has.
    dirty: AtomicBool,
    wishes: Mutex<Wishes>,
    changed: Condvar,
}

#[derive(Default)]
struct Wishes {
    dirty: bool,
    urgent: bool,
    stop: bool,
}

impl Pace {
    /// Something is in the kernel, or waits to be written.
    pub(super) fn dirty(&self) {
        if !self.dirty.swap(true, Ordering::AcqRel) {
            lock(&self.wishes).dirty = true;
            self.changed.notify_one();
        }
    }

    /// Somebody waits for the disk.
    pub(super) fn urgent(&self) {
        lock(&self.wishes).urgent = true;
        self.changed.notify_one();
    }

    pub(super) fn stop(&self) {
        lock(&self.wishes).stop = true;
        self.changed.notify_one();
    }

    /// Waits until somebody waits for the disk, until `group` after something became dirty, or until `due`. Whether it is the
    /// end.
    pub(super) fn wait(&self, due: Instant, group: Duration) -> bool {
        let mut wishes = lock(&self.wishes);
        let mut until = due;
        while !wishes.urgent && !wishes.stop {
            let now = monotonic();
            if std::mem::take(&mut wishes.dirty) {
                until = until.min(now + group);
            }
            if now >= until {
                break;
            }
            let waited = self.changed.wait_timeout(wishes, until - now);
            wishes = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        wishes.urgent = false;
        wishes.dirty = false;
        self.dirty.store(false, Ordering::Release);
        wishes.stop
    }
}
