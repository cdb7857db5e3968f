//! Jittered exponential backoff. Pure: the caller brings the randomness.

use std::time::Duration;

/// How long to wait before attempt `attempt` (the first retry is 1): `base × 2^(attempt-1)`, at most `cap`, then
/// scaled by a factor between 0.5 and 1.0 chosen by `jitter` in `0.0..1.0`.
pub fn delay(base: Duration, cap: Duration, attempt: u32, jitter: f64) -> Duration {
    let doubled = base.saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1)));
    doubled.min(cap).mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::delay;
    use std::time::Duration;

    #[test]
    fn doubles_up_to_the_cap() {
        let at = |n| delay(Duration::from_millis(100), Duration::from_secs(30), n, 1.0);
        assert_eq!([at(1), at(2), at(3)].map(|d| d.as_millis()), [100, 200, 400]);
        assert_eq!(at(40), Duration::from_secs(30));
        assert_eq!(delay(Duration::from_secs(1), Duration::from_secs(9), 1, 0.0), Duration::from_millis(500));
    }
}
