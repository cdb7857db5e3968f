//! Time: one place to read it, so that tests can see who does.

use std::time::{Duration, Instant};

/// Now, on the clock that never goes back. For measuring and deadlines inside one process.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn monotonic() -> Instant {
    Instant::now()
}

/// Milliseconds since 1970-01-01T00:00:00Z. For everything that is stored or shown.
///
/// A clock set before 1970 reads as 0; one beyond the year 292,278,994 as the largest value.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn unix_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Nanoseconds since 1970-01-01T00:00:00Z, for records that others compare with theirs.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn unix_nanos() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// `unix_ms` as RFC 3339 in UTC with milliseconds, for people and JSON.
pub fn rfc3339(unix_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(unix_ms).map_or_else(|_| format!("{unix_ms}ms"), |t| format!("{t:.3}"))
}

/// Unix milliseconds of an RFC 3339 text; `None` where it is none.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

#[cfg(test)]
mod tests {
    #[test]
    fn stored_time_reads_as_rfc3339() {
        assert_eq!(super::rfc3339(1_785_196_800_123), "2026-07-28T00:00:00.123Z");
        assert_eq!(super::parse_rfc3339("2026-07-28T00:00:00.123Z"), Some(1_785_196_800_123));
    }
}
