//! Notices that an instance lives and will never answer again. It asks only where silence means something: nothing was
//! heard for a while, and no call within its time can be the reason. What follows from the answers says `verdict.rs`.
//!
//! One future per instance, polled by the task of its slot. The traffic's side of it is [`Pulse`]: two relaxed stores.

use crate::handshake::CLIENT_INFO;
use crate::hosted::Hosted;
use crate::instance::{Instance, Unanswered};
use crate::tree::{self, Seen};
use crate::verdict::{Cause, Facts, Load, Open, Process, Verdict, judge};
use model::measure::about;
use model::{Ping, Span};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use stdx::clock::monotonic;
use tokio::sync::Notify;
use wire::catalogue::list_line;
use wire::era::Era;
use wire::greeting::{bare_line, discover_line};

/// The longest pause between two looks.
const LOOK: Duration = Duration::from_secs(5);
/// A probe gets at least this long, however short a call's time: a busy machine is no hung server.
const LEAST: Duration = Duration::from_secs(1);
/// An idle instance that answers is asked less and less often: the quiet time doubles this often.
const DOUBLINGS: u32 = 4;
/// Unanswered calls without a caller that are remembered. They end with the next line of the server.
const MOST_LEFT: usize = 64;

/// What an instance notes for its watchdog.
#[derive(Debug)]
pub(crate) struct Pulse {
    born: Instant,
    /// When the server wrote last, microseconds after `born`.
    heard_us: AtomicU64,
    /// When a probe went unanswered last, microseconds after `born`; 0 for never.
    silent_us: AtomicU64,
    /// Calls that lost their caller, and when.
    left: Mutex<Vec<(Open, Instant)>>,
    late: Notify,
}

impl Pulse {
    pub(crate) fn new() -> Self {
        Self {
            born: monotonic(),
            heard_us: AtomicU64::new(0),
            silent_us: AtomicU64::new(0),
            left: Mutex::default(),
            late: Notify::new(),
        }
    }

    /// The server wrote something.
    pub(crate) fn beat(&self) {
        self.heard_us.store(self.age_us(), Ordering::Relaxed);
    }

    fn age_us(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// When the server wrote last; its start where it never did.
    pub(crate) fn heard(&self) -> Instant {
        self.born + Duration::from_micros(self.heard_us.load(Ordering::Relaxed))
    }

    /// Whether it did not react to the last probe, and was not heard since.
    pub(crate) fn is_silent(&self) -> bool {
        let silent = self.silent_us.load(Ordering::Relaxed);
        silent > 0 && silent > self.heard_us.load(Ordering::Relaxed)
    }

    fn unanswered(&self) {
        self.silent_us.store(self.age_us().max(1), Ordering::Relaxed);
    }

    /// A call was given up before its answer came. The server may go on with it.
    pub(crate) fn left(&self, call: Open) {
        let now = monotonic();
        let mut left = self.lock();
        // Of many, the oldest say most: what was sent later excuses nothing.
        if left.len() < MOST_LEFT {
            left.push((call, now));
        }
        drop(left);
        if call.due.is_some_and(|due| due <= now) {
            self.late.notify_one();
        }
    }

    /// The calls that were given up and of which the server has not been heard since.
    fn still_left(&self) -> Vec<Open> {
        let heard = self.heard();
        let mut left = self.lock();
        left.retain(|(_, at)| *at >= heard);
        left.iter().map(|(call, _)| *call).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Open, Instant)>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of a server's answers to probes, over all its instances.
#[derive(Debug, Default)]
pub(crate) struct Reflexes {
    ping: AtomicU8,
    /// A probe was answered in time.
    answered: AtomicBool,
}

const PING_ANSWERED: u8 = 1;
/// It went unanswered where a list was answered.
const PING_IGNORED: u8 = 2;

/// An instance that will never answer.
#[derive(Debug)]
pub(crate) struct Wedged {
    pub(crate) cause: Cause,
    observed: String,
}

impl fmt::Display for Wedged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wedged: {}; {}", self.cause, self.observed)
    }
}

/// A question that a healthy server answers without doing anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    Ping,
    List(&'static str),
    Discover,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ping => "ping",
            Self::List(method) => method,
            Self::Discover => "server/discover",
        })
    }
}

/// How a probe went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Also where it was refused: who refuses is alive.
    Answered,
    Nothing,
    /// It did not reach the server: this says nothing about the server.
    Unreached,
}

/// Watches an instance for as long as it is polled. Ends when the instance must be replaced.
/// `inherited` is when the calls of an earlier daemon, which nobody knows, have had their time.
pub(crate) async fn watch(instance: &Arc<Instance>, hosted: &Hosted, inherited: Option<Instant>) -> Wedged {
    let limits = &instance.context.limits;
    let own = &hosted.spec().watch;
    let mut dog = Dog {
        instance,
        reflexes: hosted.reflexes(),
        quiet: own.quiet.map_or(limits.quiet, Span::get),
        deadline: own.probe_deadline.map_or(limits.probe_deadline, Span::get),
        pings: own.ping == Ping::Auto,
        inherited,
        doublings: 0,
        heard_by_probe: None,
        pause: Duration::ZERO,
    };
    loop {
        tokio::select! {
            () = tokio::time::sleep(dog.pause) => {}
            () = instance.pulse.late.notified() => {}
        }
        if let Some(wedged) = dog.look().await {
            return wedged;
        }
    }
}

struct Dog<'a> {
    instance: &'a Arc<Instance>,
    reflexes: &'a Reflexes,
    /// Silence of this length is worth a question.
    quiet: Duration,
    /// What a probe may take.
    deadline: Duration,
    /// Whether `ping` may be sent at all.
    pings: bool,
    inherited: Option<Instant>,
    doublings: u32,
    /// What was heard last was the answer to a probe.
    heard_by_probe: Option<Instant>,
    pause: Duration,
}

/// The processes of an instance at one time.
type Sample = (Instant, Option<Seen>);

impl Dog<'_> {
    /// Looks at what is there, and asks if it must.
    async fn look(&mut self) -> Option<Wedged> {
        let now = monotonic();
        let pulse = &self.instance.pulse;
        let heard = pulse.heard();
        if self.heard_by_probe != Some(heard) {
            self.doublings = 0;
        }
        let load = self.load(now);
        let silence = now.saturating_duration_since(heard);
        let step = self.quiet.min(self.deadline);
        self.pause = (step / 4).clamp(Duration::from_millis(20), LOOK);
        let patient = match load.overdue {
            Some(had) => self.quiet.min(had),
            None => self.quiet * 2_u32.pow(self.doublings),
        };
        let stuck = self.stuck(now) && silence >= self.deadline;
        // One that answered is asked less often, but not one that was stopped since: nothing can come of waiting.
        let stopped = || silence >= self.quiet && self.instance.is_stopped();
        if silence < patient && !stuck && !stopped() {
            self.pause = self.pause.min(patient.saturating_sub(silence)).max(Duration::from_millis(1));
            return None;
        }
        if load.at_work || self.inherited(now) {
            // Whatever it works on: a process that is stopped does not.
            let stopped = load.overdue.is_some() && self.sample().await.1.is_some_and(|seen| seen.stopped);
            return stopped.then(|| self.wedged(Cause::Stopped, "a call's time is up"));
        }
        let wedged = self.question(load.overdue).await;
        self.heard_by_probe = Some(pulse.heard());
        wedged
    }

    /// Asks twice, and once more looks at everything before a verdict.
    async fn question(&mut self, overdue: Option<Duration>) -> Option<Wedged> {
        // A call that is late has waited already: both probes together take less than its time once more.
        let patience = overdue.map_or(self.deadline, |had| (had * 2 / 5).max(LEAST).min(self.deadline));
        let asked = monotonic();
        let mut before = self.sample().await;
        if overdue.is_some() && before.1.is_some_and(|seen| seen.stopped) {
            return Some(self.wedged(Cause::Stopped, "a call's time is up"));
        }
        let mut unheard = Vec::new();
        for nth in 0..2_u8 {
            let Some(probe) = self.probe(nth) else { break };
            let outcome = tokio::select! {
                outcome = self.ask(probe, patience) => outcome,
                // A call is late now: what it needs is quicker than a question without haste.
                () = self.instance.pulse.late.notified(), if overdue.is_none() => {
                    self.pause = Duration::ZERO;
                    return None;
                }
            };
            if self.answered(outcome, probe, &unheard, asked) {
                self.doublings = (self.doublings + 1).min(DOUBLINGS);
                return None;
            }
            self.instance.pulse.unanswered();
            self.instance.context.counters.verdicts.silent.fetch_add(1, Ordering::Relaxed);
            if outcome == Outcome::Unreached {
                return None;
            }
            unheard.push(probe);
            let now = self.sample().await;
            match self.verdict(nth + 1, &before, &now) {
                Verdict::Wedged(cause) => return Some(self.wedged(cause, &silence_on(&unheard, patience))),
                Verdict::Busy => return None,
                Verdict::Ready | Verdict::Silent => before = now,
            }
        }
        self.doublings = (self.doublings + 1).min(DOUBLINGS);
        None
    }

    /// Whether the instance was heard since `asked`; what that says about the server is remembered.
    fn answered(&self, outcome: Outcome, probe: Probe, unheard: &[Probe], asked: Instant) -> bool {
        if outcome == Outcome::Answered {
            self.reflexes.answered.store(true, Ordering::Relaxed);
            match probe {
                Probe::Ping => self.reflexes.ping.store(PING_ANSWERED, Ordering::Relaxed),
                Probe::List(_) | Probe::Discover if unheard.contains(&Probe::Ping) => {
                    // One that has answered pings before is slow today. It does not follow that it knows none.
                    let ping = &self.reflexes.ping;
                    let _ = ping.compare_exchange(0, PING_IGNORED, Ordering::Relaxed, Ordering::Relaxed);
                }
                Probe::List(_) | Probe::Discover => {}
            }
        }
        outcome == Outcome::Answered || self.instance.pulse.heard() > asked
    }

    /// The verdict with `unanswered` probes, by what is so now: a call may have come meanwhile.
    fn verdict(&self, unanswered: u8, before: &Sample, after: &Sample) -> Verdict {
        let now = after.0;
        let load = self.load(now);
        judge(&Facts {
            at_work: load.at_work,
            overdue: load.overdue.is_some(),
            unanswered,
            has_answered: self.reflexes.answered.load(Ordering::Relaxed),
            process: process(before, after),
            not_reading: self.stuck(now),
            inherited: self.inherited(now),
        })
    }

    fn load(&self, now: Instant) -> Load {
        let mut calls = self.instance.open_calls();
        calls.extend(self.instance.pulse.still_left());
        Load::of(&calls, now)
    }

    /// Whether its stdin has taken nothing for the time of a probe.
    fn stuck(&self, now: Instant) -> bool {
        let since = self.instance.outlet().stuck_since();
        since.is_some_and(|since| now.saturating_duration_since(since) >= self.deadline)
    }

    /// Whether an earlier daemon's calls, which nobody knows, may still have their time.
    fn inherited(&self, now: Instant) -> bool {
        self.inherited.is_some_and(|until| now < until)
    }

    async fn sample(&self) -> Sample {
        let seen = match self.instance.pid {
            Some(pid) => tree::look(pid).await,
            None => None,
        };
        (monotonic(), seen)
    }

    /// What is asked first and second.
    fn probe(&self, nth: u8) -> Option<Probe> {
        let has = |what: &str| self.instance.greeting().is_some_and(|greeting| greeting.has(what));
        let lists = [("tools", "tools/list"), ("resources", "resources/list"), ("prompts", "prompts/list")];
        let list = lists.into_iter().find(|(what, _)| has(what)).map(|(_, method)| Probe::List(method));
        if self.instance.era() == Era::Modern {
            return Some(Probe::Discover);
        }
        let pings = self.pings && self.reflexes.ping.load(Ordering::Relaxed) != PING_IGNORED;
        let ping = pings.then_some(Probe::Ping);
        if nth == 0 { ping.or(list) } else { list.or(ping) }
    }

    async fn ask(&self, probe: Probe, patience: Duration) -> Outcome {
        let write = |line: &mut Vec<u8>, id: u64| {
            *line = match probe {
                Probe::Ping => bare_line(id, "ping"),
                Probe::List("tools/list") => list_line(id, false, CLIENT_INFO, None),
                Probe::List(method) => bare_line(id, method),
                Probe::Discover => discover_line(id, CLIENT_INFO),
            };
        };
        match self.instance.request(write, patience).await {
            Ok(_) | Err(Unanswered::Garbled(_)) => Outcome::Answered,
            Err(Unanswered::Slow { .. }) => Outcome::Nothing,
            Err(Unanswered::Gone(_)) => Outcome::Unreached,
            Err(Unanswered::Stalled(_)) => {
                // Its stdin is full. It has as long to read on as it would have to answer.
                tokio::time::sleep(patience).await;
                Outcome::Nothing
            }
        }
    }

    fn wedged(&self, cause: Cause, observed: &str) -> Wedged {
        self.instance.context.counters.verdicts.wedged(cause);
        Wedged { cause, observed: observed.to_owned() }
    }
}

fn silence_on(probes: &[Probe], patience: Duration) -> String {
    let probes: Vec<String> = probes.iter().map(ToString::to_string).collect();
    let each = if probes.len() > 1 { " each" } else { "" };
    format!("no answer to {} within {}{each}", probes.join(" and "), about(patience))
}

/// What the tree did between two looks.
fn process(before: &Sample, after: &Sample) -> Process {
    let (Some(first), Some(then)) = (before.1, after.1) else { return Process::Elsewhere };
    if then.stopped {
        return Process::Stopped;
    }
    let wall = after.0.saturating_duration_since(before.0).as_secs_f64().max(0.001);
    let share = then.cpu.saturating_sub(first.cpu).as_secs_f64() / wall;
    // Half a processor: on a busy machine a loop without end gets no more.
    if share >= 0.5 {
        Process::Spinning
    } else if share >= 0.02 {
        Process::Working
    } else {
        Process::Asleep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_without_a_caller_counts_until_the_server_is_heard() {
        let pulse = Pulse::new();
        let sent = monotonic();
        pulse.left(Open { sent, due: Some(sent + Duration::from_secs(9)) });
        assert_eq!(pulse.still_left().len(), 1);
        for _ in 0..100 {
            pulse.left(Open { sent, due: None });
        }
        assert_eq!(pulse.still_left().len(), MOST_LEFT);
        while monotonic().duration_since(sent) < Duration::from_millis(1) {}
        pulse.beat();
        assert_eq!(pulse.still_left(), Vec::new());
    }

    #[test]
    fn silence_is_told_in_a_persons_words() {
        let one = silence_on(&[Probe::Ping], Duration::from_secs(2));
        assert_eq!(one, "no answer to ping within 2 s");
        let both = silence_on(&[Probe::Ping, Probe::List("tools/list")], Duration::from_millis(250));
        assert_eq!(both, "no answer to ping and tools/list within 250 ms each");
    }

    #[test]
    fn what_a_tree_did_is_judged_by_the_time_it_used() {
        let start = monotonic();
        let at = |ms: u64, cpu: u64, stopped: bool| -> Sample {
            (start + Duration::from_millis(ms), Some(Seen { stopped, cpu: Duration::from_millis(cpu) }))
        };
        let first = at(0, 100, false);
        for (then, expected) in [
            (at(1000, 1090, false), Process::Spinning),
            (at(1000, 600, false), Process::Spinning),
            (at(1000, 200, false), Process::Working),
            (at(1000, 110, false), Process::Asleep),
            (at(1000, 110, true), Process::Stopped),
            // One of the tree has ended, and its time with it.
            (at(1000, 50, false), Process::Asleep),
            ((start + Duration::from_secs(1), None), Process::Elsewhere),
        ] {
            assert_eq!(process(&first, &then), expected, "{then:?}");
        }
    }
}
