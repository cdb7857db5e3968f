//! Opens legacy sessions one after the other over one connection, as clients that come, call once and go or stay.

use super::error::{BenchError, cannot, wrong};
use super::http1::Connection;
use super::load::{TOKEN_VARIABLE, timed_initialize};
use super::mcp::{self, CallTemplate, Protocol, Target};
use super::stats::Latency;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use stdx::clock::monotonic;

/// How long all sessions together may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Which sessions to open.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// `ip:port`.
    #[arg(long)]
    pub(crate) address: String,
    /// Path of the endpoint.
    #[arg(long)]
    pub(crate) path: String,
    /// How many.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) count: u32,
    /// Leave them open, without a call: idle sessions.
    #[arg(long)]
    pub(crate) keep: bool,
}

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SessionsReport {
    /// `initialize`, from request to answer.
    pub(crate) initialize: Latency,
    /// The first `tools/call` of a session; zero where sessions were kept idle.
    pub(crate) first_call: Latency,
    /// Status of each answer to DELETE, and how often it came.
    pub(crate) deletes: BTreeMap<u16, u32>,
    /// Sessions that were given an id.
    pub(crate) with_id: u32,
}

/// Runs as a process: prints the report as JSON.
pub(crate) fn run(options: &Options) -> Result<(), BenchError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot("start a runtime"))?;
    let report = runtime.block_on(async {
        tokio::time::timeout(LIMIT, open_all(options))
            .await
            .unwrap_or_else(|_| Err(wrong(format!("{} sessions took longer than {LIMIT:?}", options.count))))
    })?;
    super::print_json(&report)
}

async fn open_all(options: &Options) -> Result<SessionsReport, BenchError> {
    let target = Target {
        address: options.address.clone(),
        path: options.path.clone(),
        token: std::env::var(TOKEN_VARIABLE).ok(),
    };
    let mut report = SessionsReport::default();
    let (mut initializes, mut first_calls) = (Vec::new(), Vec::new());
    let mut connection = Connection::open(&target.address).await.map_err(cannot("connect"))?;
    for number in 0..options.count {
        let (session, took) = timed_initialize(&mut connection, &target).await?;
        initializes.push(took);
        report.with_id += u32::from(session.id.is_some());
        let request = mcp::legacy_request(&target, Some(&session), mcp::INITIALIZED);
        connection.exchange(&request).await.map_err(cannot("send notifications/initialized"))?;
        if options.keep {
            continue;
        }
        let mut call = CallTemplate::new(&target, Protocol::Legacy, Some(&session), number, 100);
        let started = monotonic();
        let head = connection.exchange(call.stamp(0)).await.map_err(cannot("send a call"))?;
        first_calls.push(started.elapsed());
        call.verify(head.status, head.events, connection.body()).map_err(wrong)?;
        let request = mcp::delete_request(&target, &session);
        let head = connection.exchange(&request).await.map_err(cannot("end a session"))?;
        *report.deletes.entry(head.status).or_default() += 1;
    }
    report.initialize = Latency::of(&mut initializes);
    report.first_call = Latency::of(&mut first_calls);
    Ok(report)
}
