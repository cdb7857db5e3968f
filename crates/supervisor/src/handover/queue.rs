//! What waits for the old daemon. Answers and ends are never dropped; a server that says much about one call must not cost
//! another call its answer.

use super::frame::Frame;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Bytes over which what can be missed is.
const COMFORT: usize = 4 << 20;
/// Bytes that may wait at all.
const MOST: usize = 256 << 20;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    Taken,
    /// It could be missed.
    Dropped,
    /// It could not, and there was no room: nothing goes this way any more.
    Full,
    Closed,
}

/// Frames on their way, encoded.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
    closed: bool,
}

impl Queue {
    /// Adds a frame behind all others. `missable`: nobody waits for it.
    pub(super) fn put(&self, frame: &Frame, missable: bool) -> Put {
        let mut state = self.state();
        if state.closed {
            return Put::Closed;
        }
        if missable && state.bytes >= COMFORT {
            return Put::Dropped;
        }
        if state.bytes >= MOST {
            state.close();
            self.changed.notify_one();
            return Put::Full;
        }
        let bytes = frame.encode();
        state.bytes += bytes.len();
        state.frames.push_back(bytes);
        self.changed.notify_one();
        Put::Taken
    }

    /// The next frame's bytes; `None` once it is closed. For one reader.
    pub(super) async fn next(&self) -> Option<Vec<u8>> {
        loop {
            {
                let mut state = self.state();
                if let Some(frame) = state.frames.pop_front() {
                    state.bytes -= frame.len();
                    return Some(frame);
                }
                if state.closed {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    /// Nobody reads any more.
    pub(super) fn close(&self) {
        self.state().close();
        self.changed.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn close(&mut self) {
        self.frames = VecDeque::new();
        self.bytes = 0;
        self.closed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(bytes: usize) -> Frame {
        Frame::Line { instance: 1, line: vec![b'x'; bytes] }
    }

    #[tokio::test]
    async fn loud_calls_cost_no_other_its_answer() {
        let queue = Queue::default();
        let mut taken = 0;
        while queue.put(&line(1000), true) == Put::Taken {
            taken += 1;
            assert!(taken < 1 << 20, "without a bound");
        }
        for _ in 0..10_000 {
            assert_eq!(queue.put(&line(1000), true), Put::Dropped);
            assert_eq!(queue.put(&line(10), false), Put::Taken);
        }
        for _ in 0..taken + 10_000 {
            assert!(queue.next().await.is_some());
        }
        assert_eq!(queue.put(&Frame::Serving, true), Put::Taken);
        assert_eq!(queue.next().await, Some(Frame::Serving.encode()));
    }

    #[tokio::test]
    async fn what_can_neither_be_kept_nor_missed_ends_the_way() {
        let queue = Queue::default();
        let mut put = 0;
        while queue.put(&line(8 << 20), false) == Put::Taken {
            put += 1;
            assert!(put < 100, "without a bound");
        }
        assert_eq!(queue.put(&Frame::Serving, false), Put::Closed);
        assert_eq!(queue.next().await, None);
    }
}
