//! What waits for the old daemon. Answers and ends are never dropped; a server that says much about one call must not cost
//! another call its answer.

use super::frame::Frame;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Bytes over which what can be missed is.
const COMFORT: usize = 4 << 20;
/// Bytes of one instance that may wait.
const MOST_OF_ONE: usize = 64 << 20;
/// Bytes that may wait at all.
const MOST: usize = 256 << 20;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    Taken,
    /// It could be missed, or is of an instance that is not listened to any more.
    Dropped,
    /// There was too much. From here on nothing of this instance, the loudest, goes this way, and the old daemon hears that.
    Lost(u64),
    /// There was no room, and no instance is to blame: nothing goes this way any more.
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
    /// With the instance whose line it is.
    frames: VecDeque<(Option<u64>, Vec<u8>)>,
    bytes: usize,
    bytes_of: HashMap<u64, usize>,
    lost: HashSet<u64>,
    closed: bool,
}

impl Queue {
    /// Adds a frame behind all others. `missable`: nobody waits for it.
    pub(super) fn put(&self, frame: &Frame, missable: bool) -> Put {
        let of = match frame {
            Frame::Line { instance, .. } => Some(*instance),
            _ => None,
        };
        let mut state = self.state();
        if state.closed {
            return Put::Closed;
        }
        if missable && state.bytes >= COMFORT || of.is_some_and(|of| state.lost.contains(&of)) {
            return Put::Dropped;
        }
        state.push(of, frame.encode());
        let put = state.bounded(of);
        drop(state);
        self.changed.notify_one();
        put
    }

    /// The next frame's bytes; `None` once it is closed. For one reader.
    pub(super) async fn next(&self) -> Option<Vec<u8>> {
        loop {
            {
                let mut state = self.state();
                if let Some(frame) = state.pop() {
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
    fn push(&mut self, of: Option<u64>, frame: Vec<u8>) {
        self.bytes += frame.len();
        if let Some(of) = of {
            *self.bytes_of.entry(of).or_default() += frame.len();
        }
        self.frames.push_back((of, frame));
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let (of, frame) = self.frames.pop_front()?;
        self.bytes -= frame.len();
        if let Some(of) = of
            && let Some(bytes) = self.bytes_of.get_mut(&of)
        {
            *bytes -= frame.len();
            if *bytes == 0 {
                self.bytes_of.remove(&of);
            }
        }
        Some(frame)
    }

    /// Keeps the bounds after a frame of `of` was added.
    fn bounded(&mut self, of: Option<u64>) -> Put {
        let own = of.and_then(|of| self.bytes_of.get(&of)).copied().unwrap_or_default();
        if own <= MOST_OF_ONE && self.bytes <= MOST {
            return Put::Taken;
        }
        let Some((loudest, bytes)) = self.bytes_of.iter().max_by_key(|(_, bytes)| **bytes).map(|(of, b)| (*of, *b))
        else {
            self.close();
            return Put::Full;
        };
        self.frames.retain(|(of, _)| *of != Some(loudest));
        self.bytes -= bytes;
        self.bytes_of.remove(&loudest);
        self.lost.insert(loudest);
        self.push(None, Frame::Unheard { instance: loudest }.encode());
        Put::Lost(loudest)
    }

    fn close(&mut self) {
        *self = Self { closed: true, ..Self::default() };
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
    async fn an_instance_that_floods_loses_its_own_calls_alone() {
        let queue = Queue::default();
        assert_eq!(queue.put(&Frame::Line { instance: 2, line: b"quiet".to_vec() }, false), Put::Taken);
        let mut put = 0;
        let lost = loop {
            match queue.put(&line(8 << 20), false) {
                Put::Taken => put += 1,
                other => break other,
            }
            assert!(put < 100, "without a bound");
        };
        assert_eq!(lost, Put::Lost(1));
        assert_eq!(queue.put(&line(10), false), Put::Dropped);
        assert_eq!(queue.put(&Frame::Line { instance: 2, line: b"more".to_vec() }, false), Put::Taken);
        let mut rest = Vec::new();
        for _ in 0..3 {
            rest.push(queue.next().await.unwrap());
        }
        let of = |line: &[u8]| Frame::Line { instance: 2, line: line.to_vec() }.encode();
        assert_eq!(rest, [of(b"quiet"), Frame::Unheard { instance: 1 }.encode(), of(b"more")]);
        assert_eq!(queue.state().bytes, 0);
    }

    #[tokio::test]
    async fn many_that_flood_are_lost_one_after_another() {
        let queue = Queue::default();
        let lost = (0..60u64).filter(|n| {
            let frame = Frame::Line { instance: n % 6, line: vec![b'x'; 10 << 20] };
            matches!(queue.put(&frame, false), Put::Lost(_))
        });
        assert!(lost.count() > 0 && queue.state().bytes <= MOST);
        assert_eq!(queue.put(&Frame::Serving, false), Put::Taken, "the way is open");
    }

    #[tokio::test]
    async fn what_can_neither_be_kept_nor_missed_ends_the_way() {
        let queue = Queue::default();
        let mut put = 0;
        let said = Frame::Message { session: "s".to_owned(), body: vec![b'x'; 8 << 20] };
        while queue.put(&said, false) == Put::Taken {
            put += 1;
            assert!(put < 100, "without a bound");
        }
        assert_eq!(queue.put(&Frame::Serving, false), Put::Closed);
        assert_eq!(queue.next().await, None);
    }
}
