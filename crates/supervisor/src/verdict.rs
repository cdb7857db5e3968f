//! What is known of an instance, and what follows from it. Pure: [`judge`] is a truth table, and [`Standing`] a sum over
//! the calls. `watchdog.rs` gathers the facts.

use crate::restart::Standing;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A call that was sent and has not been answered. It may have lost its caller: the server may work on it all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) sent: Instant,
    /// When its time is up. `None` while the server waits for its client.
    pub(crate) due: Option<Instant>,
}

/// What the open calls of an instance say together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// A call within its time may be the reason of the silence.
    pub(crate) at_work: bool,
    /// A call's time is up: how much it had, of several the least.
    pub(crate) overdue: Option<Duration>,
}

impl Load {
    /// Sums up. A call that was sent after one whose time is up excuses nothing: a server that takes one call after
    /// another has not begun with it.
    pub(crate) fn of(calls: &[Open], now: Instant) -> Self {
        let late = |call: &&Open| call.due.is_some_and(|due| due <= now);
        let first_late = calls.iter().filter(late).map(|call| call.sent).min();
        let excuses = |call: &Open| match (call.due, first_late) {
            (None, _) => true,
            (Some(due), None) => due > now,
            (Some(due), Some(first)) => due > now && call.sent <= first,
        };
        let had = |call: &Open| call.due.map(|due| due.saturating_duration_since(call.sent));
        Self { at_work: calls.iter().any(excuses), overdue: calls.iter().filter(late).filter_map(had).min() }
    }
}

/// What the kernel says of a program and its tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Process {
    /// It is not on this machine.
    #[default]
    Elsewhere,
    /// It was stopped by a signal.
    Stopped,
    /// It uses no processor.
    Asleep,
    /// It uses some.
    Working,
    /// It uses all that one thread can get.
    Spinning,
}

/// Everything that a verdict depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// A call within its time may be the reason of the silence.
    pub(crate) at_work: bool,
    /// A call's time is up, and nothing was heard since.
    pub(crate) overdue: bool,
    /// Probes in a row that nothing followed, the second a list where the server has any.
    pub(crate) unanswered: u8,
    /// It has answered such a probe in time before: it is no server that answers nothing but calls.
    pub(crate) has_answered: bool,
    pub(crate) process: Process,
    /// Its stdin is full and has taken nothing for the time of a probe.
    pub(crate) not_reading: bool,
    /// It was taken over from an earlier daemon, whose calls nobody knows and whose time is not up.
    pub(crate) inherited: bool,
}

/// How a living instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing speaks against it.
    Ready,
    /// It works on calls, as far as anybody can know.
    Busy,
    /// It did not react, and it is not sure that this means anything.
    Silent,
    /// It will never answer: it must be replaced.
    Wedged(Cause),
}

/// Why an instance is wedged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A signal stopped it.
    Stopped,
    /// It answers no probe.
    Unresponsive,
    /// It does not read, and does nothing else.
    NotReading,
    /// It computes without end.
    Spinning,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stopped => "it is stopped by a signal",
            Self::Unresponsive => "it answers nothing",
            Self::NotReading => "it does not read its input, writes nothing and uses no processor",
            Self::Spinning => "it computes without end and answers nothing",
        })
    }
}

/// The verdict on these facts.
pub(crate) fn judge(facts: &Facts) -> Verdict {
    let Facts { at_work, overdue, unanswered, has_answered, process, not_reading, inherited } = *facts;
    // No work explains this: a stopped process does none.
    if process == Process::Stopped && (overdue || unanswered > 0) {
        return Verdict::Wedged(Cause::Stopped);
    }
    // A server with one thread looks hung while it works.
    if at_work || inherited {
        return Verdict::Busy;
    }
    if not_reading && matches!(process, Process::Asleep | Process::Stopped) {
        return Verdict::Wedged(Cause::NotReading);
    }
    match (overdue, unanswered) {
        (true, 1..) if process == Process::Spinning => Verdict::Wedged(Cause::Spinning),
        (true, 2..) => Verdict::Wedged(Cause::Unresponsive),
        (false, 2..) if has_answered => Verdict::Wedged(match process {
            Process::Spinning => Cause::Spinning,
            _ => Cause::Unresponsive,
        }),
        (true, _) | (false, 1..) => Verdict::Silent,
        (false, 0) => Verdict::Ready,
    }
}

/// How often what was found, since the daemon started. For metrics.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// An instance did not react to a probe.
    pub(crate) silent: AtomicU64,
    /// Restarts, by what caused them: wedged, by cause.
    pub(crate) stopped: AtomicU64,
    pub(crate) unresponsive: AtomicU64,
    pub(crate) not_reading: AtomicU64,
    pub(crate) spinning: AtomicU64,
    /// It ended by itself.
    pub(crate) exited: AtomicU64,
    /// It could not be started.
    pub(crate) not_started: AtomicU64,
    /// Standings that were entered.
    pub(crate) crash_looping: AtomicU64,
    pub(crate) quarantined: AtomicU64,
}

impl Tally {
    /// Counts a verdict that leads to a restart.
    pub(crate) fn wedged(&self, cause: Cause) {
        let counter = match cause {
            Cause::Stopped => &self.stopped,
            Cause::Unresponsive => &self.unresponsive,
            Cause::NotReading => &self.not_reading,
            Cause::Spinning => &self.spinning,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Tally {
    /// Counts an end that nobody asked for, and where it led. `started` where the instance had become ready.
    pub(crate) fn ended(&self, started: bool, wedged: bool, standing: Standing) {
        let add = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        if !started {
            add(&self.not_started);
        } else if !wedged {
            add(&self.exited);
        }
        match standing {
            Standing::CrashLooping => add(&self.crash_looping),
            Standing::Quarantined => add(&self.quarantined),
            Standing::Restarting | Standing::Failing => 0,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::Process::{Elsewhere, Spinning, Stopped, Working};
    use super::Verdict::{Busy, Ready, Silent, Wedged};
    use super::*;

    const WELL: Facts = Facts {
        at_work: false,
        overdue: false,
        unanswered: 0,
        has_answered: true,
        process: Process::Asleep,
        not_reading: false,
        inherited: false,
    };

    const LATE: Facts = Facts { overdue: true, ..WELL };
    const MUTE: Facts = Facts { has_answered: false, ..WELL };
    const TABLE: &[(&str, Facts, Verdict)] = &[
        ("nothing happens", WELL, Ready),
        ("a remote server of which nothing is known", Facts { process: Elsewhere, ..WELL }, Ready),
        ("stopped and nobody wants anything", Facts { process: Stopped, ..WELL }, Ready),
        ("computes without a call", Facts { process: Spinning, ..WELL }, Ready),
        ("works on a call", Facts { at_work: true, ..WELL }, Busy),
        ("computes within the time of its call", Facts { at_work: true, process: Spinning, ..WELL }, Busy),
        (
            "computes and answers no probe within the time of its call",
            Facts { at_work: true, unanswered: 2, process: Spinning, ..WELL },
            Busy,
        ),
        ("a call came while it answered no probe", Facts { at_work: true, unanswered: 2, ..WELL }, Busy),
        ("reads nothing within the time of its call", Facts { at_work: true, not_reading: true, ..WELL }, Busy),
        ("a late call beside an older one within its time", Facts { at_work: true, ..LATE }, Busy),
        ("stopped within the time of its call", Facts { at_work: true, process: Stopped, ..WELL }, Busy),
        (
            "stopped with a call within its time and a probe unanswered",
            Facts { at_work: true, process: Stopped, unanswered: 1, ..WELL },
            Wedged(Cause::Stopped),
        ),
        ("stopped with a late call", Facts { process: Stopped, ..LATE }, Wedged(Cause::Stopped)),
        (
            "stopped with a late call beside others",
            Facts { at_work: true, process: Stopped, ..LATE },
            Wedged(Cause::Stopped),
        ),
        ("stopped and a probe unanswered", Facts { process: Stopped, unanswered: 1, ..WELL }, Wedged(Cause::Stopped)),
        ("stopped, never answered a probe", Facts { process: Stopped, unanswered: 1, ..MUTE }, Wedged(Cause::Stopped)),
        ("one probe unanswered", Facts { unanswered: 1, ..WELL }, Silent),
        ("one probe unanswered, computing", Facts { unanswered: 1, process: Spinning, ..WELL }, Silent),
        ("two probes unanswered", Facts { unanswered: 2, ..WELL }, Wedged(Cause::Unresponsive)),
        (
            "two probes unanswered, far away",
            Facts { unanswered: 2, process: Elsewhere, ..WELL },
            Wedged(Cause::Unresponsive),
        ),
        (
            "two probes unanswered, some work",
            Facts { unanswered: 2, process: Working, ..WELL },
            Wedged(Cause::Unresponsive),
        ),
        (
            "two probes unanswered, computing",
            Facts { unanswered: 2, process: Spinning, ..WELL },
            Wedged(Cause::Spinning),
        ),
        ("answers nothing but calls", Facts { unanswered: 2, ..MUTE }, Silent),
        ("answers nothing but calls, computes", Facts { unanswered: 2, process: Spinning, ..MUTE }, Silent),
        ("a late call", LATE, Silent),
        ("a late call and one probe unanswered", Facts { unanswered: 1, ..LATE }, Silent),
        ("a late call, one probe unanswered, some work", Facts { unanswered: 1, process: Working, ..LATE }, Silent),
        (
            "a late call, one probe unanswered, computing",
            Facts { unanswered: 1, process: Spinning, ..LATE },
            Wedged(Cause::Spinning),
        ),
        ("a late call, computing, not probed yet", Facts { process: Spinning, ..LATE }, Silent),
        ("a late call and two probes unanswered", Facts { unanswered: 2, ..LATE }, Wedged(Cause::Unresponsive)),
        (
            "a late call and two probes unanswered, never answered one",
            Facts { unanswered: 2, has_answered: false, ..LATE },
            Wedged(Cause::Unresponsive),
        ),
        ("reads nothing and does nothing", Facts { not_reading: true, ..WELL }, Wedged(Cause::NotReading)),
        ("reads nothing and does nothing, a late call", Facts { not_reading: true, ..LATE }, Wedged(Cause::NotReading)),
        ("reads nothing and works", Facts { not_reading: true, process: Working, ..WELL }, Ready),
        ("reads nothing and computes, a late call", Facts { not_reading: true, process: Spinning, ..LATE }, Silent),
        ("taken over: whoever it works for is unknown", Facts { inherited: true, unanswered: 2, ..WELL }, Busy),
        ("taken over, and a new call is late", Facts { inherited: true, unanswered: 2, ..LATE }, Busy),
        ("taken over, computing", Facts { inherited: true, process: Spinning, unanswered: 2, ..WELL }, Busy),
        (
            "taken over, and stopped",
            Facts { inherited: true, process: Stopped, unanswered: 1, ..WELL },
            Wedged(Cause::Stopped),
        ),
    ];

    #[test]
    fn the_truth_table() {
        for (name, facts, expected) in TABLE {
            assert_eq!(judge(facts), *expected, "{name}: {facts:?}");
        }
    }

    fn every_fact() -> impl Iterator<Item = Facts> {
        let processes = [Process::Elsewhere, Process::Stopped, Process::Asleep, Process::Working, Process::Spinning];
        let yes = |bits: u32, n: u32| bits >> n & 1 == 1;
        (0..32_u32).flat_map(move |bits| {
            processes.into_iter().flat_map(move |process| {
                (0..3).map(move |unanswered| Facts {
                    at_work: yes(bits, 0),
                    overdue: yes(bits, 1),
                    has_answered: yes(bits, 2),
                    not_reading: yes(bits, 3),
                    inherited: yes(bits, 4),
                    process,
                    unanswered,
                })
            })
        })
    }

    #[test]
    fn nothing_is_ended_for_what_work_explains() {
        for facts in every_fact() {
            let ended = matches!(judge(&facts), Verdict::Wedged(_));
            let suspicion = facts.overdue || facts.unanswered > 0 || facts.not_reading;
            assert!(!ended || suspicion, "{facts:?}");
            if (facts.at_work || facts.inherited) && facts.process != Process::Stopped {
                assert_eq!(judge(&facts), Verdict::Busy, "{facts:?}");
            }
            if !facts.overdue && !facts.has_answered && !facts.not_reading && facts.process != Process::Stopped {
                assert!(!ended, "it answers nothing but calls, and none is late: {facts:?}");
            }
        }
    }

    #[test]
    fn more_silence_never_makes_a_better_verdict() {
        let badness = |verdict| match verdict {
            Verdict::Ready | Verdict::Busy => 0,
            Verdict::Silent => 1,
            Verdict::Wedged(_) => 2,
        };
        for facts in every_fact().filter(|facts| facts.unanswered < 2) {
            let more = Facts { unanswered: facts.unanswered + 1, ..facts };
            assert!(badness(judge(&more)) >= badness(judge(&facts)), "{facts:?}");
        }
    }

    #[test]
    fn a_call_excuses_only_what_came_before_it_was_late() {
        let start = stdx::clock::monotonic();
        let at = |s: u64| start + Duration::from_secs(s);
        let call = |sent, due: u64| Open { sent: at(sent), due: Some(at(due)) };
        let load = |calls: &[Open], now| Load::of(calls, at(now));
        let load_is = |at_work, overdue: Option<u64>| Load { at_work, overdue: overdue.map(Duration::from_secs) };
        assert_eq!(load(&[], 9), load_is(false, None));
        assert_eq!(load(&[call(0, 10)], 9), load_is(true, None), "within its time");
        assert_eq!(load(&[call(0, 10)], 10), load_is(false, Some(10)), "late");
        assert_eq!(load(&[call(0, 10), call(5, 15)], 12), load_is(false, Some(10)), "the second waits for the first");
        assert_eq!(load(&[call(0, 100), call(5, 15)], 20), load_is(true, Some(10)), "the first may be at work");
        assert_eq!(load(&[call(0, 100), call(5, 15)], 100), load_is(false, Some(10)));
        let asking = Open { sent: at(7), due: None };
        assert_eq!(load(&[call(0, 5), asking], 50), load_is(true, Some(5)), "it waits for a client");
        // However many calls follow one another, the silence is not excused for ever.
        let stream: Vec<Open> = (0..100).map(|n| call(n, n + 10)).collect();
        assert_eq!(load(&stream, 10), load_is(false, Some(10)));
    }
}
