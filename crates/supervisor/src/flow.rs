//! How fast a server's output is read. Over its rate the reader pauses: the pipe fills, the server waits, nothing is lost,
//! and the others have the processor. What is paid for is counted before it is read: a pipe that holds much gives no more
//! than one second's worth at once.

use crate::instance::Instance;
use model::measure::show_size;
use model::report::LogSource;
use std::time::{Duration, Instant};
use stdx::clock::monotonic;

/// What a line costs beside its bytes: a flood of empty lines is work too.
const LINE_COST: usize = 512;
/// A pause is worth its timer only from here on.
const LEAST_PAUSE: Duration = Duration::from_millis(10);
/// The smallest part of a second's worth that is read at one time, so that a flood is not read byte by byte.
const LEAST_PART: usize = 16;
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

    /// Bytes that may be read at one time, at most `most`.
    pub(crate) fn part(&self, most: usize) -> usize {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size, from 0 up to the rate")]
        let paid = self.credit.max(self.per_second / LEAST_PART as f64) as usize;
        paid.clamp(1, most.max(1))
    }

    /// `bytes` were read.
    pub(crate) fn read(&mut self, bytes: usize) {
        self.refill(monotonic());
        self.spend(bytes);
    }

    /// A line of what was read was dealt with. True where it is time for [`Self::pace`].
    pub(crate) fn line(&mut self) -> bool {
        self.spend(LINE_COST);
        self.owed() >= LEAST_PAUSE
    }

    /// Waits until what was read from `pipe` is paid for, and says once that it was too much. May be dropped.
    pub(crate) async fn pace(&mut self, instance: &Instance, pipe: &str) {
        match self.next(monotonic()) {
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

    /// Before anything is spent: what came in time to an idle pipe is no credit for later.
    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.counted_at).as_secs_f64();
        self.counted_at = now;
        self.credit = passed.mul_add(self.per_second, self.credit).min(self.per_second);
    }

    fn spend(&mut self, cost: usize) {
        #[expect(clippy::cast_precision_loss, reason = "the cost of one read")]
        let spent = cost as f64;
        self.credit -= spent;
        self.since_turn += cost;
    }

    fn owed(&self) -> Duration {
        Duration::try_from_secs_f64(-self.credit / self.per_second).unwrap_or_default()
    }

    /// What is to be done now.
    fn next(&mut self, now: Instant) -> Next {
        self.refill(now);
        let owed = self.owed();
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

    /// Bytes that come through in `seconds` where the writer never stops, in lines of `line` bytes, and the pauses.
    fn pour(rate: u64, line: usize, seconds: u64) -> (usize, u32) {
        let mut now = stdx::clock::monotonic();
        let end = now + Duration::from_secs(seconds);
        let mut flow = Flow::new(rate, now);
        let (mut taken, mut pauses) = (0, 0);
        while now < end {
            now += Duration::from_micros(50);
            let read = flow.part(256 << 10);
            flow.refill(now);
            flow.spend(read);
            for at in 0..=read / line {
                let last = at == read / line;
                taken += if last { read % line } else { line };
                if now >= end {
                    return (taken, pauses);
                }
                if (last || flow.line())
                    && let Next::Pause { time, first } = flow.next(now)
                {
                    assert_eq!(first, pauses == 0);
                    now += time;
                    pauses += 1;
                }
            }
        }
        (taken, pauses)
    }

    #[test]
    fn a_flood_comes_at_its_rate_and_one_seconds_worth_at_once() {
        for rate in [4 << 10, 1 << 20] {
            let (taken, pauses) = pour(rate, 64 << 10, 10);
            let second = usize::try_from(rate).unwrap();
            assert!((9 * second..=12 * second).contains(&taken), "{taken} bytes in 10 s at {rate}");
            assert!((50..=1000).contains(&pauses), "{pauses} pauses");
        }
    }

    #[test]
    fn what_stays_below_the_rate_never_waits() {
        let mut now = stdx::clock::monotonic();
        let mut flow = Flow::new(1 << 20, now);
        for _ in 0..1000 {
            now += Duration::from_millis(10);
            flow.refill(now);
            flow.spend(4 << 10);
            assert!((0..4).all(|_| !flow.line()));
            assert!(!matches!(flow.next(now), Next::Pause { .. }));
        }
    }

    #[test]
    fn idleness_is_worth_one_second() {
        let start = stdx::clock::monotonic();
        let mut flow = Flow::new(8 << 10, start);
        let mut now = start + Duration::from_secs(60);
        let mut taken = 0;
        while now < start + Duration::from_secs(61) {
            let read = flow.part(256 << 10);
            flow.refill(now);
            flow.spend(read);
            taken += read;
            match flow.next(now) {
                Next::Pause { time, .. } => now += time,
                Next::Read | Next::Yield => {}
            }
        }
        assert!((15 << 10..=17 << 10).contains(&taken), "{taken} bytes in the second after a minute");
    }

    #[test]
    fn empty_lines_are_not_free() {
        let (taken, pauses) = pour(1 << 20, 1, 4);
        assert!(taken < 80 << 10 && pauses > 0, "{taken} empty lines in 4 s");
    }
}
