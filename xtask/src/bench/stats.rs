//! Percentiles and medians.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Latencies of one kind, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// Median, microseconds.
    pub(crate) p50_us: f64,
    /// 99th percentile, microseconds.
    pub(crate) p99_us: f64,
}

impl Latency {
    /// Sums up `all`; zero where there is none.
    pub(crate) fn of(all: &mut [Duration]) -> Self {
        all.sort_unstable();
        Self { p50_us: micros(percentile(all, 50)), p99_us: micros(percentile(all, 99)) }
    }
}

/// Microseconds with their fraction.
pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// The nearest-rank percentile of a sorted slice; zero where it is empty.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// The median; the mean of the middle two where their number is even; zero where there is none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = values.into_iter().collect();
    all.sort_unstable_by(f64::total_cmp);
    let middle = all.len() / 2;
    match all.len() {
        0 => 0.0,
        n if n % 2 == 1 => all[middle],
        _ => f64::midpoint(all[middle - 1], all[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::{Latency, median};
    use std::time::Duration;

    #[test]
    fn percentiles_are_nearest_rank() {
        let mut all: Vec<Duration> = (1..=200).rev().map(Duration::from_micros).collect();
        let latency = Latency::of(&mut all);
        assert_eq!((latency.p50_us.round(), latency.p99_us.round()), (100.0, 198.0));
        assert_eq!(Latency::of(&mut []), Latency::default());
    }

    #[test]
    fn medians_of_rounds() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0]), 2.5);
        assert_eq!(median([]), 0.0);
    }
}
