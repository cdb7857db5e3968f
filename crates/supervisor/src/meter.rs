//! What is counted of each server while the daemon lives, and the page of metrics about servers. Calls count through a
//! handle of their server: nothing is looked up, and nothing is kept of who called or with which arguments.

use crate::hosted::Hosted;
use crate::outlet::Outlet;
use crate::report;
use crate::slot::State;
use model::report::Health;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use stdx::meter::{Counter, Histogram, Kind, Page};

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server answered with a result.
    Ok,
    /// The server answered that its tool failed.
    ToolError,
    /// The server answered with an error, broke the protocol or ended.
    ServerError,
    /// staithe could not do its part.
    HostError,
    /// The request was wrong, or over a limit of its caller.
    CallerError,
    /// The client was asked something: its next request goes on with the call.
    Asked,
    /// The client took it back or left.
    Cancelled,
    /// The server did not answer in time.
    Deadline,
}

impl Outcome {
    /// All of them, in the order of the page.
    pub const ALL: [Self; 8] = [
        Self::Ok,
        Self::ToolError,
        Self::ServerError,
        Self::HostError,
        Self::CallerError,
        Self::Asked,
        Self::Cancelled,
        Self::Deadline,
    ];

    /// The value of the label `outcome`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ToolError => "tool_error",
            Self::ServerError => "server_error",
            Self::HostError => "host_error",
            Self::CallerError => "caller_error",
            Self::Asked => "asked",
            Self::Cancelled => "cancelled",
            Self::Deadline => "deadline",
        }
    }
}

/// What a call's time is spent on, in the order in which it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From the request's head until it is known who asks for what: the arrival of the body is in it.
    Admission,
    /// Until it is permitted.
    Policy,
    /// Until its line is written: an instance, its start, the turn of its process, the list of tools.
    Queue,
    /// Until the answer was read. What a server asked its client meanwhile is in it.
    Server,
    /// Until it was handed to the connection.
    Delivery,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [Self::Admission, Self::Policy, Self::Queue, Self::Server, Self::Delivery];

    /// The value of the label `stage`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admission => "admission",
            Self::Policy => "policy",
            Self::Queue => "queue",
            Self::Server => "server",
            Self::Delivery => "delivery",
        }
    }
}

/// Why a process was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It ended by itself, or could not be started.
    Exit,
    /// It took more of the machine than it may.
    Limit,
    /// It would never have answered again.
    Wedged,
    /// The keeper ended, and it with it.
    Keeper,
    /// An operator asked for it.
    Asked,
}

impl Cause {
    const ALL: [Self; 5] = [Self::Exit, Self::Limit, Self::Wedged, Self::Keeper, Self::Asked];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Limit => "limit",
            Self::Wedged => "wedged",
            Self::Keeper => "keeper",
            Self::Asked => "asked",
        }
    }
}

/// Bounds of whole calls, microseconds: 1 ms to 5 min.
const CALL: &[u64] = &[
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    120_000_000,
    300_000_000,
];
/// Bounds of stages, microseconds: those of ours take far less than a millisecond.
const STAGE: &[u64] =
    &[10, 30, 100, 300, 1_000, 3_000, 10_000, 100_000, 1_000_000, 10_000_000, 60_000_000, 300_000_000];
/// Tools of one server that are counted by name.
const MOST_TOOLS: usize = 256;

/// One server's counts since the daemon started.
#[derive(Debug)]
pub struct ServerMeter {
    calls: [Histogram; Outcome::ALL.len()],
    stages: [Histogram; Stage::ALL.len()],
    restarts: [Counter; Cause::ALL.len()],
    tools: Mutex<HashMap<String, [u64; Outcome::ALL.len()]>>,
}

impl Default for ServerMeter {
    fn default() -> Self {
        Self {
            calls: std::array::from_fn(|_| Histogram::new(CALL)),
            stages: std::array::from_fn(|_| Histogram::new(STAGE)),
            restarts: Default::default(),
            tools: Mutex::default(),
        }
    }
}

impl ServerMeter {
    /// A call ended, after `took` in all.
    pub fn call(&self, outcome: Outcome, took: Duration) {
        self.calls[outcome as usize].observe(took);
    }

    /// A call spent `took` on a stage.
    pub fn stage(&self, stage: Stage, took: Duration) {
        self.stages[stage as usize].observe(took);
    }

    /// A call of a tool ended. Its name may be a stranger's: names beyond a bound count as one.
    pub fn tool(&self, name: &str, outcome: Outcome) {
        let mut tools = self.tools.lock().unwrap_or_else(PoisonError::into_inner);
        let known = tools.len() < MOST_TOOLS || tools.contains_key(name);
        tools.entry(if known { name } else { "" }.to_owned()).or_default()[outcome as usize] += 1;
    }

    pub(crate) fn restarted(&self, cause: Cause) {
        self.restarts[cause as usize].add_one();
    }
}

/// A server on the page.
pub(crate) struct Row {
    pub(crate) hosted: Arc<Hosted>,
    pub(crate) sessions: u32,
}

/// Writes every family about servers.
pub(crate) fn write(page: &mut Page, rows: &[Row]) {
    calls(page, rows);
    processes(page, rows);
    let mut family =
        page.family("staithe_restarts_total", Kind::Counter, "Processes of a server that were replaced, by cause.");
    for row in rows {
        for cause in Cause::ALL {
            let count = row.meter().restarts[cause as usize].get();
            family.sample(&[("server", row.name()), ("cause", cause.as_str())], count);
        }
    }
    let mut family = page.family(
        "staithe_junk_lines_total",
        Kind::Counter,
        "Lines on a server's stdout that were no protocol messages.",
    );
    for row in rows {
        let junk = row.hosted.counters().junk.load(Ordering::Relaxed);
        family.sample(&[("server", row.name())], junk);
    }
    let mut family = page.family("staithe_sessions", Kind::Gauge, "Open sessions of clients up to 2025-11-25.");
    for row in rows {
        family.sample(&[("server", row.name())], u64::from(row.sessions));
    }
}

fn calls(page: &mut Page, rows: &[Row]) {
    let mut family = page.family("staithe_calls_total", Kind::Counter, "Calls that ended, by how they ended.");
    for row in rows {
        for outcome in Outcome::ALL {
            let labels = [("server", row.name()), ("outcome", outcome.as_str())];
            family.sample(&labels, row.meter().calls[outcome as usize].count());
        }
    }
    let mut family = page.family(
        "staithe_call_duration_seconds",
        Kind::Histogram,
        "Time of a call from its request's head to its answer's hand-over.",
    );
    for row in rows {
        for outcome in Outcome::ALL {
            let histogram = &row.meter().calls[outcome as usize];
            if histogram.count() > 0 {
                family.histogram(&[("server", row.name()), ("outcome", outcome.as_str())], histogram);
            }
        }
    }
    let mut family = page.family(
        "staithe_call_stage_seconds",
        Kind::Histogram,
        "Time that answered calls spent on each stage: admission, policy, queue, server, delivery.",
    );
    for row in rows {
        for stage in Stage::ALL {
            let labels = [("server", row.name()), ("stage", stage.as_str())];
            family.histogram(&labels, &row.meter().stages[stage as usize]);
        }
    }
    let mut family = page.family(
        "staithe_tool_calls_total",
        Kind::Counter,
        "Calls of tools that ended, by tool; only with telemetry.per_tool.",
    );
    for row in rows {
        let tools = row.meter().tools.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (tool, counts) in &tools {
            for (outcome, count) in Outcome::ALL.into_iter().zip(counts).filter(|(_, count)| **count > 0) {
                let labels = [("server", row.name()), ("tool", tool), ("outcome", outcome.as_str())];
                family.sample(&labels, *count);
            }
        }
    }
}

fn processes(page: &mut Page, rows: &[Row]) {
    let now: Vec<Now> = rows.iter().map(|row| Now::of(&row.hosted)).collect();
    let all = || rows.iter().zip(&now);
    let mut family = page.family(
        "staithe_server_ready",
        Kind::Gauge,
        "1 while a server is as it should be: ready, or stopped by an operator.",
    );
    for (row, now) in all() {
        family.sample(&[("server", row.name())], u64::from(now.well));
    }
    let mut family = page.family("staithe_processes", Kind::Gauge, "Places of processes by their state.");
    for (row, now) in all() {
        for (state, count) in &now.states {
            family.sample(&[("server", row.name()), ("state", state)], *count);
        }
    }
    let mut family = page.family("staithe_spares", Kind::Gauge, "Started processes that wait for whoever needs one.");
    for row in rows {
        family
            .sample(&[("server", row.name())], u64::try_from(row.hosted.spares.instances().len()).unwrap_or(u64::MAX));
    }
    let mut family = page.family(
        "staithe_calls_in_flight",
        Kind::Gauge,
        "Calls that processes or remote servers have not answered.",
    );
    for (row, now) in all() {
        family.sample(&[("server", row.name())], now.in_flight);
    }
    let mut family =
        page.family("staithe_stdin_queue_bytes", Kind::Gauge, "Bytes that wait for a server to read its stdin.");
    for (row, now) in all() {
        family.sample(&[("server", row.name())], now.queued);
    }
}

/// How the processes of a server are now.
struct Now {
    well: bool,
    states: Vec<(String, u64)>,
    in_flight: u64,
    queued: u64,
}

impl Now {
    fn of(hosted: &Hosted) -> Self {
        let slots = hosted.all_slots();
        let (health, _) = report::health(hosted, &slots);
        let words = [
            Health::Ready,
            Health::Busy,
            Health::Silent,
            Health::Wedged,
            Health::Starting,
            Health::Restarting,
            Health::Failing,
            Health::CrashLooping,
            Health::Quarantined,
        ];
        let mut now = Self {
            well: health.serves() || health == Health::Stopped,
            states: words.iter().map(|word| (word.to_string(), 0)).collect(),
            in_flight: 0,
            queued: 0,
        };
        for slot in &slots {
            let state = slot.state();
            let word = report::slot_health(&state).0.to_string();
            match now.states.iter_mut().find(|(known, _)| *known == word) {
                Some((_, count)) => *count += 1,
                None => now.states.push((word, 1)),
            }
            if let State::Ready(instance) = &state {
                now.in_flight += u64::from(instance.calls_now());
                now.queued += queued(instance.outlet());
            }
        }
        now
    }
}

fn queued(outlet: &Outlet) -> u64 {
    match outlet {
        Outlet::Pipe(writer) => u64::try_from(writer.queued()).unwrap_or(u64::MAX),
        Outlet::Remote(_) => 0,
    }
}

impl Row {
    fn name(&self) -> &str {
        self.hosted.spec().name.as_str()
    }

    fn meter(&self) -> &ServerMeter {
        self.hosted.meter()
    }
}
