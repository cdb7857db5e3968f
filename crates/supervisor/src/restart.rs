//! The restart policy: a pure function of what happened.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

const BASE: Duration = Duration::from_millis(100);
const CAP: Duration = Duration::from_secs(30);
const WINDOW: Duration = Duration::from_secs(60);
/// This many deaths within the window make a crash loop.
const LOOP: usize = 5;
/// A life of this length wipes the slate.
const HEALTHY: Duration = Duration::from_secs(10);

/// What to do after a death or a failed start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Next {
    /// Wait this long before the next start.
    pub(crate) delay: Duration,
    /// Tell callers at once instead of letting them wait.
    pub(crate) failing: bool,
}

/// The deaths of one slot.
#[derive(Debug, Default)]
pub(crate) struct History {
    deaths: VecDeque<Instant>,
    attempt: u32,
}

impl History {
    /// A process died after having been ready since `since`, or never became ready (`None`).
    pub(crate) fn died(&mut self, now: Instant, since: Option<Instant>, jitter: f64) -> Next {
        if since.is_some_and(|since| now.duration_since(since) >= HEALTHY) {
            self.attempt = 0;
            self.deaths.clear();
        }
        self.attempt = self.attempt.saturating_add(1);
        self.deaths.push_back(now);
        while self.deaths.len() > LOOP || self.deaths.front().is_some_and(|d| now.duration_since(*d) > WINDOW) {
            self.deaths.pop_front();
        }
        Next {
            delay: stdx::backoff::delay(BASE, CAP, self.attempt, jitter),
            failing: since.is_none() || self.deaths.len() >= LOOP,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn delays_are_bounded_and_a_loop_is_named(lives in proptest::collection::vec(0_u64..20_000, 1..40), jitter in 0.0..1.0_f64) {
            let mut history = History::default();
            let mut now = stdx::clock::monotonic();
            let mut short_in_a_row = 0;
            for life in lives {
                let since = now;
                now += Duration::from_millis(life);
                let next = history.died(now, Some(since), jitter);
                short_in_a_row = if life >= 10_000 { 1 } else { short_in_a_row + 1 };
                prop_assert!(next.delay >= BASE / 2 && next.delay <= CAP);
                if life >= 10_000 {
                    prop_assert!(!next.failing && next.delay <= BASE, "a long life wipes the slate");
                }
                prop_assert!(!next.failing || short_in_a_row >= LOOP, "failing without a loop");
                now += next.delay;
            }
        }
    }

    #[test]
    fn a_start_that_fails_is_told_at_once() {
        assert!(History::default().died(stdx::clock::monotonic(), None, 0.5).failing);
    }

    #[test]
    fn five_quick_deaths_are_a_crash_loop() {
        let (mut history, now) = (History::default(), stdx::clock::monotonic());
        let failing: Vec<bool> = (0..5).map(|_| history.died(now, Some(now), 1.0).failing).collect();
        assert_eq!(failing, [false, false, false, false, true]);
    }
}
