//! Notices that the clock of the host was set: the times of records before and after are not comparable then. It is said in the
//! ledger, and never a reason to refuse anything.

use crate::lives::written;
use ledger::tile::{Bundle, decode_bundle};
use ledger::writer::Writer;
use model::record::{LogEvent, Record, What};
use std::time::{Duration, Instant};
use stdx::clock::{monotonic, unix_ms};

/// What counts as set, milliseconds. A clock that is slewed stays below it.
const STEP_MS: i64 = 2000;
/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Two clocks at one time.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    wall_ms: i64,
    running: Instant,
}

impl Clocks {
    fn now() -> Self {
        Self { wall_ms: unix_ms(), running: monotonic() }
    }

    /// By how much the wall clock was set from here until `then`, milliseconds forward; `None` where it only ran.
    fn set_until(self, then: Self) -> Option<i64> {
        let ran = i64::try_from(then.running.saturating_duration_since(self.running).as_millis()).unwrap_or(i64::MAX);
        let by = then.wall_ms.saturating_sub(self.wall_ms).saturating_sub(ran);
        (by.saturating_abs() > STEP_MS).then_some(by)
    }
}

/// Records each time that the clock is set, until the ledger is closed.
pub(crate) async fn watch(writer: Writer) {
    let mut last = Clocks::now();
    loop {
        tokio::time::sleep(LOOK).await;
        let now = Clocks::now();
        if let Some(by_ms) = last.set_until(now) {
            tracing::warn!(by_ms, "the clock of this machine was set, or the machine slept");
            if !written(&writer, What::Log(LogEvent::ClockSet { by_ms })).await {
                return;
            }
        }
        last = now;
    }
}

/// By how much the clock is before the last record of the log, where it is: it was set while no daemon ran. Blocks.
pub(crate) fn set_before(writer: &Writer) -> Option<LogEvent<'static>> {
    let size = writer.health().size;
    let bundle = Bundle::of(size.checked_sub(1)? / 256, size)?;
    let bytes = writer.read(|view| view.bundle(bundle)).ok()?.ok()?;
    let entries = decode_bundle(&bytes, bundle.width()).ok()?;
    let last = Record::decode(entries.last()?).ok()?;
    back(last.ms, unix_ms())
}

fn back(last_ms: i64, now_ms: i64) -> Option<LogEvent<'static>> {
    let by_ms = now_ms.saturating_sub(last_ms);
    // That time passed while no daemon ran says nothing.
    (by_ms < -STEP_MS).then_some(LogEvent::ClockSet { by_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_runs_is_not_set_and_one_that_jumps_is_in_both_directions() {
        let running = monotonic();
        let at = |ran_s: u64, wall_ms: i64| Clocks { wall_ms, running: running + Duration::from_secs(ran_s) };
        let hour = 3_600_000;
        for (then, by) in [
            (at(1, 1_000_000 + 1000), None),
            (at(3600, 1_000_000 + hour), None),
            (at(3600, 1_000_000 + hour + 1999), None),
            (at(1, 1_000_000 + 1000 + hour), Some(hour)),
            (at(1, 1_000_000 + 1000 - hour), Some(-hour)),
            (at(1, i64::MIN), Some(i64::MIN)),
        ] {
            assert_eq!(at(0, 1_000_000).set_until(then), by, "{then:?}");
        }
    }

    #[test]
    fn a_log_from_the_future_says_so_and_an_old_one_does_not() {
        let hour = 3_600_000;
        assert_eq!(back(hour, hour), None);
        assert_eq!(back(hour, hour - 1999), None);
        assert_eq!(back(hour, 100 * hour), None, "time has passed");
        assert_eq!(back(hour, 0), Some(LogEvent::ClockSet { by_ms: -hour }));
        assert!(matches!(back(i64::MAX, i64::MIN), Some(LogEvent::ClockSet { .. })));
    }
}
