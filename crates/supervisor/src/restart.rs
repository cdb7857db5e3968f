//! The restart policy: a pure function of what happened.
//!
//! A death is an end that nobody asked for: an exit, or a verdict that the instance is wedged. A start that fails is none:
//! it says that the server cannot be started, and is tried again for as long as it takes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Before the first start after a death; it doubles. Jitter takes at most half of it.
const BASE: Duration = Duration::from_millis(100);
const CAP: Duration = Duration::from_secs(30);
const WINDOW: Duration = Duration::from_secs(60);
/// This many deaths within the window make a crash loop. It lasts until a life was healthy.
const LOOP: usize = 5;
/// This many deaths without a healthy life between them, and the server is left alone for minutes.
pub(crate) const QUARANTINE: u32 = 10;
/// Between two tries from quarantine; it doubles up to the second.
const RETRY: Duration = Duration::from_secs(5 * 60);
const RETRY_CAP: Duration = Duration::from_secs(60 * 60);
/// A life of this length wipes the slate.
pub(crate) const HEALTHY: Duration = Duration::from_secs(10);

/// How a slot stands whose instance has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The next start comes soon: callers wait for it.
    Restarting,
    /// The last start failed. Callers are told at once, in this standing and in the following.
    Failing,
    /// It starts and dies again and again.
    CrashLooping,
    /// It died so often that it is left alone for minutes.
    Quarantined,
}

/// What to do after a death or a failed start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Next {
    /// Wait this long before the next start.
    pub(crate) delay: Duration,
    pub(crate) standing: Standing,
}

/// The deaths of one slot.
#[derive(Debug, Default)]
pub(crate) struct History {
    recent: VecDeque<Instant>,
    /// Ends and failed starts since the last healthy life.
    attempt: u32,
    /// Deaths since the last healthy life.
    deaths: u32,
    looping: bool,
}

impl History {
    /// An instance died after having been ready since `since`, or never became ready (`None`). `jitter` is in `0.0..1.0`.
    pub(crate) fn died(&mut self, now: Instant, since: Option<Instant>, jitter: f64) -> Next {
        if since.is_some_and(|since| now.duration_since(since) >= HEALTHY) {
            *self = Self::default();
        }
        self.attempt = self.attempt.saturating_add(1);
        if since.is_some() {
            self.deaths = self.deaths.saturating_add(1);
            self.recent.push_back(now);
        }
        while self.recent.len() > LOOP || self.recent.front().is_some_and(|d| now.duration_since(*d) > WINDOW) {
            self.recent.pop_front();
        }
        self.looping |= self.recent.len() >= LOOP;
        let backoff = stdx::backoff::delay(BASE, CAP, self.attempt, jitter);
        let (standing, delay) = match (since.is_some(), self.deaths) {
            // A try from quarantine that does not even start leaves it there: it was seen to die often enough.
            (_, deaths) if deaths >= QUARANTINE => {
                let tries = self.attempt.saturating_sub(QUARANTINE).saturating_add(1);
                // An operator who reads "5 min" shall not wait for 2: less jitter than elsewhere.
                (Standing::Quarantined, stdx::backoff::delay(RETRY, RETRY_CAP, tries, 0.8 + jitter / 5.0))
            }
            (false, _) => (Standing::Failing, backoff),
            (true, _) if self.looping => (Standing::CrashLooping, backoff),
            (true, _) => (Standing::Restarting, backoff),
        };
        Next { delay, standing }
    }

    /// An instance ended with the keeper: that says nothing about the server, and callers wait for the next one.
    pub(crate) fn innocent() -> Next {
        Next { delay: BASE, standing: Standing::Restarting }
    }

    /// Deaths since the last healthy life.
    pub(crate) fn deaths(&self) -> u32 {
        self.deaths
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How one try went.
    #[derive(Clone, Copy, Debug)]
    enum Try {
        NotStarted,
        Lived(u64),
    }

    fn tries() -> impl Strategy<Value = Vec<Try>> {
        let one = prop_oneof![
            1 => Just(Try::NotStarted),
            4 => (0_u64..10_000).prop_map(Try::Lived),
            1 => (10_000_u64..100_000).prop_map(Try::Lived),
        ];
        proptest::collection::vec(one, 1..60)
    }

    proptest! {
        #[test]
        fn the_floor_holds_and_every_word_means_one_thing(tries in tries(), jitter in 0.0..1.0_f64) {
            let mut history = History::default();
            let mut now = stdx::clock::monotonic();
            let (mut deaths, mut healthy) = (0_u32, true);
            for one in tries {
                let since = match one {
                    Try::NotStarted => None,
                    Try::Lived(ms) => {
                        let since = now;
                        now += Duration::from_millis(ms);
                        if ms >= 10_000 {
                            (deaths, healthy) = (0, true);
                        }
                        deaths += 1;
                        Some(since)
                    }
                };
                let next = history.died(now, since, jitter);
                prop_assert!(next.delay >= BASE / 2, "restarted faster than the floor: {:?}", next);
                match next.standing {
                    Standing::Quarantined => {
                        prop_assert!(deaths >= QUARANTINE);
                        prop_assert!(next.delay >= RETRY * 9 / 10 && next.delay <= RETRY_CAP, "{:?}", next);
                    }
                    other => {
                        prop_assert!(deaths < QUARANTINE, "{other:?} after {deaths} deaths");
                        prop_assert!(next.delay <= CAP, "{:?}", next);
                        prop_assert_eq!(other == Standing::Failing, since.is_none());
                        prop_assert!(other != Standing::CrashLooping || deaths >= 5, "a loop of {deaths}");
                    }
                }
                if matches!(one, Try::Lived(10_000..)) {
                    prop_assert_eq!(next.standing, Standing::Restarting, "a healthy life wipes the slate");
                    prop_assert!(healthy && next.delay <= BASE);
                }
                now += next.delay;
            }
        }

        #[test]
        fn delays_grow_with_the_attempt_up_to_jitter(jitters in proptest::collection::vec(0.0..1.0_f64, 30)) {
            let (mut history, now) = (History::default(), stdx::clock::monotonic());
            let mut last = Duration::ZERO;
            for jitter in jitters {
                let next = history.died(now, Some(now), jitter);
                // Twice as long, of which jitter takes half at most: never shorter than the one before, below the caps.
                let capped = next.delay >= CAP / 2 && next.standing != Standing::Quarantined || next.delay >= RETRY_CAP * 9 / 10;
                prop_assert!(next.delay >= last || capped, "{:?} after {last:?}", next);
                last = next.delay;
            }
        }
    }

    #[test]
    fn a_start_that_fails_is_told_at_once_and_tried_for_ever() {
        let (mut history, now) = (History::default(), stdx::clock::monotonic());
        for _ in 0..50 {
            let next = history.died(now, None, 0.5);
            assert_eq!(next.standing, Standing::Failing);
            assert!(next.delay <= CAP);
        }
    }

    #[test]
    fn five_quick_deaths_are_a_crash_loop_and_ten_are_quarantine() {
        use Standing::{CrashLooping, Quarantined, Restarting};
        let (mut history, mut now) = (History::default(), stdx::clock::monotonic());
        let mut standings = Vec::new();
        let mut delays = Vec::new();
        for _ in 0..15 {
            let next = history.died(now, Some(now), 1.0);
            standings.push(next.standing);
            delays.push(next.delay.as_secs());
            now += next.delay;
        }
        let expected = [vec![Restarting; 4], vec![CrashLooping; 5], vec![Quarantined; 6]].concat();
        assert_eq!(standings, expected);
        assert_eq!(delays[9..], [300, 600, 1200, 2400, 3600, 3600], "a timed retry, doubling to an hour");
        let after = history.died(now, None, 1.0);
        assert_eq!(after.standing, Quarantined, "a try that does not start leaves it there");
        let after = history.died(now + HEALTHY, Some(now), 1.0);
        assert_eq!((after.standing, after.delay), (Restarting, BASE), "one healthy life ends it");
    }

    #[test]
    fn a_loop_of_slow_deaths_is_a_quarantine_too() {
        let (mut history, mut now) = (History::default(), stdx::clock::monotonic());
        let mut last = None;
        for _ in 0..10 {
            let next = history.died(now + Duration::from_secs(9), Some(now), 1.0);
            now += Duration::from_secs(9) + next.delay;
            last = Some(next.standing);
        }
        assert_eq!(last, Some(Standing::Quarantined));
    }
}
