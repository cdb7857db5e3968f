//! What is not a call: memory, processes, cold starts, sessions that come and go, requests that are refused.

use super::error::{BenchError, cannot, wrong};
use super::load::LoadReport;
use super::mcp::Protocol;
use super::proc::Usage;
use super::rounds::{Host, load_arguments};
use super::sessions::SessionsReport;
use super::stats;
use super::subject::{self, Ready, Running};
use super::{Places, Scale, report, say};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;
use stdx::clock::monotonic;

/// Memory of one host, from its start on.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    /// What the page calls the host.
    pub(crate) name: String,
    /// Started, nothing called yet.
    pub(crate) idle: Usage,
    /// After the sessions, after as many again, and after it had time to settle. None without sessions.
    pub(crate) after: Option<[Usage; 3]>,
    /// How the sessions went, where there were any.
    pub(crate) sessions: Option<SessionsReport>,
}

/// What is measured of staithe alone.
#[derive(Clone, Debug)]
pub(crate) struct Extra {
    /// Median from the start of `staithe run` until it is ready.
    pub(crate) cold: Duration,
    /// Median from the start of the stdio server until it answered `initialize`.
    pub(crate) child: Duration,
    /// Daemon memory per idle session with one shared process, bytes.
    pub(crate) per_session: f64,
    /// How many sessions that was measured with.
    pub(crate) idle_sessions: u32,
    /// Requests without a token that were refused, and by how many bytes the daemon grew meanwhile.
    pub(crate) refused: u64,
    /// See `refused`.
    pub(crate) refused_growth: u64,
    /// Refusals per second, at 16 callers.
    pub(crate) refused_per_second: f64,
    /// Size of the release binary, bytes.
    pub(crate) binary: u64,
}

/// Starts a fresh host, looks, opens and closes sessions twice, looks again.
pub(crate) fn measure(places: &Places, host: &Host, scale: Scale) -> Result<Memory, BenchError> {
    let name = format!("memory-{}", stdx::random::handle().map_err(|error| wrong(error.to_string()))?);
    let Some(running) = host.start(places, &name)? else {
        return Ok(Memory { name: host.name.clone(), idle: Usage::default(), after: None, sessions: None });
    };
    let measured = measure_running(places, host, &running, scale);
    running.stop()?;
    measured
}

fn measure_running(places: &Places, host: &Host, running: &Running, scale: Scale) -> Result<Memory, BenchError> {
    std::thread::sleep(scale.settle / 5);
    let mut memory = Memory { name: host.name.clone(), idle: running.usage(), after: None, sessions: None };
    if host.has_sessions() {
        memory.sessions = Some(open_sessions(places, running, scale.sessions, false)?);
        let first = running.usage();
        open_sessions(places, running, scale.sessions, false)?;
        let second = running.usage();
        std::thread::sleep(scale.settle);
        memory.after = Some([first, second, running.usage()]);
    }
    Ok(memory)
}

/// Everything about staithe alone.
pub(crate) fn extra(places: &Places, scale: Scale) -> Result<Extra, BenchError> {
    say("cold starts");
    let mut cold = Vec::new();
    let mut child = Vec::new();
    for number in 0..scale.starts {
        let running = start_staithe(places, &format!("cold-{number}"), &[])?;
        cold.push(running.started_in.as_secs_f64());
        running.stop()?;
        child.push(child_start(places)?.as_secs_f64());
    }
    let (per_session, idle_sessions) = idle_sessions(places, scale)?;
    let (refused, refused_growth, refused_per_second) = refusals(places, scale)?;
    let binary = std::fs::metadata(&places.staithe).map_err(cannot("look at the release binary"))?.len();
    Ok(Extra {
        cold: Duration::from_secs_f64(stats::median(cold)),
        child: Duration::from_secs_f64(stats::median(child)),
        per_session,
        idle_sessions,
        refused,
        refused_growth,
        refused_per_second,
        binary,
    })
}

/// How long the stdio server alone needs until it has answered `initialize`.
fn child_start(places: &Places) -> Result<Duration, BenchError> {
    let started = monotonic();
    let mut child = Command::new(&places.echo)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(cannot("start the echo server"))?;
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(wrong("the echo server has no pipes"));
    };
    writeln!(input, "{}", super::mcp::initialize_message(1)).map_err(cannot("write to the echo server"))?;
    let mut answer = String::new();
    BufReader::new(output).read_line(&mut answer).map_err(cannot("read from the echo server"))?;
    let took = started.elapsed();
    drop(input);
    child.wait().map_err(cannot("wait for the echo server"))?;
    super::mcp::negotiated(1, false, answer.as_bytes()).map_err(wrong)?;
    Ok(took)
}

/// Daemon memory per session that is open and does nothing, all on one shared process.
fn idle_sessions(places: &Places, scale: Scale) -> Result<(f64, u32), BenchError> {
    say("idle sessions");
    let running = start_staithe(places, "idle", &["--mode", "shared"])?;
    let measured = (|| {
        // Whatever the first sessions make it allocate once is not the price of a session.
        open_sessions(places, &running, scale.sessions, true)?;
        let before = running.usage().own_resident;
        let opened = open_sessions(places, &running, scale.idle_sessions, true)?;
        if opened.with_id != scale.idle_sessions {
            return Err(wrong("staithe opened sessions without an id"));
        }
        let grown = running.usage().own_resident.saturating_sub(before);
        let kibibytes = f64::from(u32::try_from(grown / 1024).unwrap_or(u32::MAX));
        Ok((kibibytes * 1024.0 / f64::from(scale.idle_sessions), scale.idle_sessions))
    })();
    running.stop()?;
    measured
}

/// Two floods of requests without a token: the first lets buffers grow, the second must leave nothing behind.
fn refusals(places: &Places, scale: Scale) -> Result<(u64, u64, f64), BenchError> {
    say("refused requests");
    let running = start_staithe(places, "refused", &[])?;
    let flood = || {
        let mut arguments = load_arguments(&running, Protocol::Denied);
        let span = scale.flood.as_millis().to_string();
        let more = ["--callers", "16", "--bytes", "100", "--warm-ms", "0", "--measure-ms", &span];
        arguments.extend(more.iter().map(|word| (*word).to_owned()));
        report::<LoadReport>(places, &arguments, None)
    };
    let measured = flood().and_then(|_| {
        let before = running.usage().own_resident;
        let load = flood()?;
        let grown = running.usage().own_resident.saturating_sub(before);
        match load.first_failure {
            Some(why) => Err(wrong(format!("a request without a token was not refused: {why}"))),
            None => Ok((load.all_calls, grown, load.per_second)),
        }
    });
    running.stop()?;
    measured
}

fn start_staithe(places: &Places, name: &str, options: &[&str]) -> Result<Running, BenchError> {
    let command = subject::staithe(&places.staithe, &places.scratch.join(name), options, &places.echo);
    let log = places.scratch.join(format!("{name}.log"));
    Running::start(command, &Ready::Staithe { open: false }, "/mcp/echo", &log)
}

fn open_sessions(places: &Places, running: &Running, count: u32, keep: bool) -> Result<SessionsReport, BenchError> {
    let (target, count) = (&running.target, count.to_string());
    let all = ["sessions", "--address", &target.address, "--path", &target.path, "--count", &count];
    let mut arguments: Vec<String> = all.iter().map(|word| (*word).to_owned()).collect();
    if keep {
        arguments.push("--keep".to_owned());
    }
    report(places, &arguments, target.token.as_deref())
}
