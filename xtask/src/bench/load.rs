//! The load generator: callers that each keep one connection and one session and wait for every answer.
//!
//! One thread, no allocation per call worth naming, in a process of its own. Every answer's id and text is checked.

use super::error::{BenchError, cannot, wrong};
use super::http1::Connection;
use super::mcp::{self, CallTemplate, Protocol, Session, Target};
use super::stats::Latency;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};
use stdx::clock::monotonic;
use tokio::sync::Barrier;

/// How long opening a connection and a session may take.
const OPEN_LIMIT: Duration = Duration::from_secs(30);
/// Environment variable with the bearer token: an argument could be read by every process.
pub(crate) const TOKEN_VARIABLE: &str = "STAITHE_BENCH_TOKEN";

/// What to drive.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// `ip:port`.
    #[arg(long)]
    pub(crate) address: String,
    /// Path of the endpoint.
    #[arg(long)]
    pub(crate) path: String,
    /// What to speak.
    #[arg(long)]
    pub(crate) protocol: Protocol,
    /// Callers at once.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) callers: u32,
    /// Bytes of text in every call.
    #[arg(long)]
    pub(crate) bytes: usize,
    /// How long not to measure first, milliseconds.
    #[arg(long)]
    pub(crate) warm_ms: u64,
    /// How long to measure, milliseconds.
    #[arg(long)]
    pub(crate) measure_ms: u64,
    /// How long one answer may take, milliseconds.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) answer_limit_ms: u64,
}

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LoadReport {
    /// Right answers inside the measured time.
    pub(crate) calls: u64,
    /// Right answers in all, warming up included.
    pub(crate) all_calls: u64,
    /// `calls` per second.
    pub(crate) per_second: f64,
    /// From the first byte written to the last byte read.
    pub(crate) latency: Latency,
    /// Callers that stopped because an answer was wrong or did not come.
    pub(crate) failed: u32,
    /// Why the first of them stopped.
    pub(crate) first_failure: Option<String>,
}

/// Runs as a process: prints the report as JSON.
pub(crate) fn run(options: &Options) -> Result<(), BenchError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot("start a runtime"))?;
    let report = runtime.block_on(drive(options))?;
    super::print_json(&report)
}

async fn drive(options: &Options) -> Result<LoadReport, BenchError> {
    let target = Target {
        address: options.address.clone(),
        path: options.path.clone(),
        token: std::env::var(TOKEN_VARIABLE).ok(),
    };
    let ready = Arc::new(Barrier::new(usize::try_from(options.callers).unwrap_or(usize::MAX)));
    let span = Span {
        warm: Duration::from_millis(options.warm_ms),
        measure: Duration::from_millis(options.measure_ms),
        answer: Duration::from_millis(options.answer_limit_ms),
    };
    let mut tasks = Vec::new();
    for number in 0..options.callers {
        let caller = Caller::open(&target, options.protocol, number, options.bytes).await?;
        tasks.push(stdx::task::spawn("caller", caller.work(span, Arc::clone(&ready))));
    }
    let mut report = LoadReport::default();
    let mut latencies = Vec::new();
    for task in tasks {
        let tally = task.await.ok().flatten().ok_or_else(|| wrong("a caller of the load generator panicked"))?;
        latencies.extend_from_slice(&tally.latencies);
        report.all_calls += tally.all_calls;
        if let Some(why) = tally.failure {
            report.failed += 1;
            report.first_failure.get_or_insert(why);
        }
    }
    report.calls = u64::try_from(latencies.len()).unwrap_or(u64::MAX);
    report.per_second = f64::from(u32::try_from(latencies.len()).unwrap_or(u32::MAX)) / span.measure.as_secs_f64();
    report.latency = Latency::of(&mut latencies);
    Ok(report)
}

#[derive(Clone, Copy, Debug)]
struct Span {
    warm: Duration,
    measure: Duration,
    answer: Duration,
}

/// One caller with its connection and, where the protocol has one, its session.
struct Caller {
    connection: Connection,
    template: CallTemplate,
}

#[derive(Debug, Default)]
struct Tally {
    latencies: Vec<Duration>,
    all_calls: u64,
    failure: Option<String>,
}

// === impl Caller ===

impl Caller {
    async fn open(target: &Target, protocol: Protocol, number: u32, bytes: usize) -> Result<Self, BenchError> {
        let opening = async {
            let mut connection =
                Connection::open(&target.address).await.map_err(cannot(format!("connect to {}", target.address)))?;
            let session = match protocol {
                Protocol::Legacy => Some(open_session(&mut connection, target).await?),
                Protocol::Echo | Protocol::Bare | Protocol::Modern | Protocol::Denied => None,
            };
            let template = CallTemplate::new(target, protocol, session.as_ref(), number, bytes);
            Ok(Self { connection, template })
        };
        tokio::time::timeout(OPEN_LIMIT, opening)
            .await
            .unwrap_or_else(|_| Err(wrong(format!("opening a session took longer than {OPEN_LIMIT:?}"))))
    }

    /// Calls until the time is over or an answer is not right. Waits for all other callers first.
    async fn work(mut self, span: Span, ready: Arc<Barrier>) -> Tally {
        ready.wait().await;
        let begin = monotonic() + span.warm;
        let end = begin + span.measure;
        let mut tally = Tally::default();
        for sequence in 0.. {
            let started = monotonic();
            if started >= end {
                break;
            }
            if let Err(why) = self.call(sequence, span.answer).await {
                tally.failure = Some(why);
                break;
            }
            tally.all_calls += 1;
            let finished = monotonic();
            if finished >= begin && finished <= end {
                tally.latencies.push(finished - started);
            }
        }
        tally
    }

    async fn call(&mut self, sequence: u64, limit: Duration) -> Result<(), String> {
        let request = self.template.stamp(sequence);
        match tokio::time::timeout(limit, self.connection.exchange(request)).await {
            Err(_) => Err(format!("no answer in {limit:?}")),
            Ok(Err(error)) => Err(format!("the connection failed: {error}")),
            Ok(Ok(head)) => self.template.verify(head.status, head.events, self.connection.body()),
        }
    }
}

/// Opens a legacy session: `initialize`, then `notifications/initialized`.
pub(crate) async fn open_session(connection: &mut Connection, target: &Target) -> Result<Session, BenchError> {
    let (session, _) = timed_initialize(connection, target).await?;
    let request = mcp::legacy_request(target, Some(&session), mcp::INITIALIZED);
    let head = connection.exchange(&request).await.map_err(cannot("send notifications/initialized"))?;
    if !matches!(head.status, 200..=204) {
        return Err(wrong(format!("notifications/initialized was answered with status {}", head.status)));
    }
    Ok(session)
}

/// Sends `initialize`; says how long the answer took.
pub(crate) async fn timed_initialize(
    connection: &mut Connection,
    target: &Target,
) -> Result<(Session, Duration), BenchError> {
    let request = mcp::legacy_request(target, None, &mcp::initialize_message(1));
    let started: Instant = monotonic();
    let head = connection.exchange(&request).await.map_err(cannot("send initialize"))?;
    let took = started.elapsed();
    if head.status != 200 {
        let text = String::from_utf8_lossy(connection.body()).into_owned();
        return Err(wrong(format!("initialize was answered with status {}: {text}", head.status)));
    }
    let revision = mcp::negotiated(1, head.events, connection.body()).map_err(wrong)?;
    Ok((Session { id: head.session, revision }, took))
}
