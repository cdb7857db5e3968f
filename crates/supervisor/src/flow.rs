//! How fast a server's output is read. Over its rate the reader pauses: the pipe fills, the server waits, nothing is lost,
//! and the others have the processor.

use crate::instance::Instance;
use model::measure::show_size;
use model::report::LogSource;
use std::time::{Duration, Instant};
use stdx::clock::monotonic;

/// What a line costs beside its bytes: a flood of empty lines is work too.
const LINE_COST: usize = 512;
/// A pause is worth its timer only from here on.
const LEAST_PAUSE: Duration = Duration::from_millis(10);
/// Bytes after which a reader that always finds something lets others have a turn.
const TURN: usize = 256 << 10;

/// The output of one pipe, counted against its rate. One second's worth may come at once.
#[derive(Debug)]
pub(crate) struct Flow {
    per_second: f64,
    /// What may still come now; below zero it is owed.
    credit: f64,
    counted_at: Instant,
    since_turn: usize,
    told: bool,
}

/// What the reader does before it reads on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Read,
    /// Others have waited long enough.
    Yield,
    /// Too much came. `first` of this process.
    Pause {
        time: Duration,
        first: bool,
    },
}

impl Flow {
    /// At the rate of an instance's server.
    pub(crate) fn of(instance: &Instance) -> Self {
        Self::new(instance.context.bounds.output_rate, monotonic())
    }

    /// `bytes` in `lines` were read from `pipe` and dealt with: waits where that was too much, and says so once.
    pub(crate) async fn pace(&mut self, instance: &Instance, pipe: &str, bytes: usize, lines: usize) {
        match self.took(bytes, lines, monotonic()) {
            Next::Read => {}
            Next::Yield => tokio::task::yield_now().await,
            Next::Pause { time, first } => {
                if first {
                    tell(instance, pipe);
                }
                tokio::time::sleep(time).await;
            }
        }
    }

    /// At most `rate` bytes per second.
    fn new(rate: u64, now: Instant) -> Self {
        // Exact up to 2^53 bytes a second.
        #[expect(clippy::cast_precision_loss, reason = "a rate, not a count")]
        let per_second = rate.max(1) as f64;
        Self { per_second, credit: per_second, counted_at: now, since_turn: 0, told: false }
    }

    /// `bytes` in `lines` were read and dealt with until `now`.
    fn took(&mut self, bytes: usize, lines: usize, now: Instant) -> Next {
        let cost = bytes + lines * LINE_COST;
        let passed = now.saturating_duration_since(self.counted_at).as_secs_f64();
        self.counted_at = now;
        #[expect(clippy::cast_precision_loss, reason = "the cost of one read")]
        let spent = cost as f64;
        self.credit = passed.mul_add(self.per_second, self.credit).min(self.per_second) - spent;
        self.since_turn += cost;
        let owed = Duration::try_from_secs_f64(-self.credit / self.per_second).unwrap_or_default();
        if owed >= LEAST_PAUSE {
            self.since_turn = 0;
            return Next::Pause { time: owed, first: !std::mem::replace(&mut self.told, true) };
        }
        if self.since_turn >= TURN {
            self.since_turn = 0;
            return Next::Yield;
        }
        Next::Read
    }
}

/// Says once what is done about a flood.
fn tell(instance: &Instance, pipe: &str) {
    let rate = show_size(instance.context.bounds.output_rate);
    let text = format!(
        "it writes more than {rate} a second to {pipe}: what is over that waits, nothing is lost; raise `outputRate` if it is meant"
    );
    instance.context.log.add(instance.id, LogSource::Host, &text);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that come through in `seconds` where the writer never stops, and the pauses.
    fn pour(rate: u64, read: usize, lines: usize, seconds: u64) -> (usize, u32) {
        let mut now = stdx::clock::monotonic();
        let end = now + Duration::from_secs(seconds);
        let mut flow = Flow::new(rate, now);
        let (mut taken, mut pauses) = (0, 0);
        while now < end {
            now += Duration::from_micros(50);
            taken += read;
            if let Next::Pause { time, first } = flow.took(read, lines, now) {
                assert_eq!(first, pauses == 0);
                now += time;
                pauses += 1;
            }
        }
        (taken, pauses)
    }

    #[test]
    fn a_flood_comes_at_its_rate_and_one_seconds_worth_at_once() {
        let (taken, pauses) = pour(1 << 20, 64 << 10, 1, 10);
        assert!((9 << 20..=12 << 20).contains(&taken), "{taken} bytes in 10 s");
        assert!((50..=1000).contains(&pauses), "{pauses} pauses");
    }

    #[test]
    fn what_stays_below_the_rate_never_waits() {
        assert_eq!(pour(256 << 20, 4 << 10, 4, 1).1, 0);
    }

    #[test]
    fn empty_lines_are_not_free() {
        let (taken, pauses) = pour(1 << 20, 1000, 1000, 4);
        assert!(taken < 16 << 10 && pauses > 0, "{taken} empty lines in 4 s");
    }
}
