//! The rounds: every row is visited once per cell and round, in a turning order; the page shows medians.

use super::error::{BenchError, wrong};
use super::load::LoadReport;
use super::mcp::Protocol;
use super::peers::{self, Peer};
use super::subject::{self, Ready, Running};
use super::{Places, Scale, report, say, stats};
use std::process::Command;
use std::time::Duration;

/// Callers at once, and bytes of text in each call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) callers: u32,
    pub(crate) bytes: usize,
}

/// One visit to one cell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) load: LoadReport,
    /// CPU time of the host's whole tree, per call, microseconds.
    pub(crate) cpu_us: f64,
}

/// What a host is.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// No HTTP: the stdio server itself.
    Direct,
    FloorHttp,
    FloorPipe,
    Staithe {
        open: bool,
    },
    /// staithe as the parent of its servers, without a keeper.
    Alone,
    /// staithe with another `ledger.mode` than its own.
    Mode(&'static str),
    /// staithe in front of a server that speaks one era, called in the other.
    Bridge(Bridge),
    Peer(Peer),
}

/// Which way a call crosses the eras.
#[derive(Clone, Copy, Debug)]
enum Bridge {
    /// A 2026-07-28 client, a server that knows `initialize` alone.
    ToLegacy,
    /// A client with a session, a server that knows 2026-07-28 alone.
    ToModern,
}

/// Something that is started once and measured by one or more rows.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// What the page calls it.
    pub(crate) name: String,
    kind: Kind,
}

/// What a row is compared as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Shown; nothing is compared with it.
    Other,
    /// All ratios are to this row.
    Floor,
    /// Goals are judged by these rows: default settings, auth on.
    StaitheLegacy,
    StaitheModern,
    /// The same calls to a server of the other era, compared with the two above.
    BridgedToModern,
    BridgedToLegacy,
    /// The same calls where the server is the daemon's own child.
    WithoutKeeper,
    /// The same calls where none is recorded, and where each waits for the disk.
    Unrecorded,
    Strict,
    Peer,
}

/// One line of the tables.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) label: String,
    pub(crate) role: Role,
    host: usize,
    protocol: Protocol,
}

/// The floors and staithe.
pub(crate) fn own_hosts() -> Vec<Host> {
    let host = |name: &str, kind| Host { name: name.to_owned(), kind };
    vec![
        host("stdio server driven directly", Kind::Direct),
        host("bare hyper HTTP echo", Kind::FloorHttp),
        host("hyper + one pipe round trip: the floor", Kind::FloorPipe),
        host("staithe", Kind::Staithe { open: false }),
        host("staithe --no-keeper", Kind::Alone),
        host("staithe, calls not recorded", Kind::Mode("off")),
        host("staithe, every call strict", Kind::Mode("strict")),
        host("staithe --open", Kind::Staithe { open: true }),
        host("staithe, server of sessions alone", Kind::Bridge(Bridge::ToLegacy)),
        host("staithe, server of 2026-07-28 alone", Kind::Bridge(Bridge::ToModern)),
    ]
}

// === impl Bridge ===

impl Bridge {
    /// The era that the server is held to.
    fn era(self) -> &'static str {
        match self {
            Self::ToLegacy => "legacy",
            Self::ToModern => "modern",
        }
    }
}

// === impl Host ===

impl Host {
    pub(crate) fn peer(peer: Peer, version: &str) -> Self {
        Self { name: format!("{} {version}", peer.name), kind: Kind::Peer(peer) }
    }

    pub(crate) fn is_peer(&self) -> bool {
        matches!(self.kind, Kind::Peer(_))
    }

    /// Whether its memory is of interest: how it translates calls takes none.
    pub(crate) fn has_memory_row(&self) -> bool {
        !matches!(self.kind, Kind::Bridge(_) | Kind::Alone | Kind::Mode(_))
    }

    /// Whether it speaks MCP over HTTP, with sessions.
    pub(crate) fn has_sessions(&self) -> bool {
        matches!(self.kind, Kind::Staithe { .. } | Kind::Alone | Kind::Mode(_) | Kind::Bridge(_) | Kind::Peer(_))
    }

    /// Starts it; nothing where there is nothing to start.
    pub(crate) fn start(&self, places: &Places, name: &str) -> Result<Option<Running>, BenchError> {
        let log = places.scratch.join(format!("{name}.log"));
        let floor = |child: &[&str]| {
            let mut command = Command::new(&places.own);
            command.arg("floor").arg("--").args(child);
            command
        };
        let (command, ready, path) = match &self.kind {
            Kind::Direct => return Ok(None),
            Kind::FloorHttp => (floor(&[]), Ready::Floor, "/"),
            Kind::FloorPipe => (floor(&[&places.echo.to_string_lossy()]), Ready::Floor, "/"),
            Kind::Staithe { open } => {
                let options: &[&str] = if *open { &["--open"] } else { &[] };
                let command = subject::staithe(&places.staithe, &places.scratch.join(name), options, &places.echo);
                (command, Ready::Staithe { open: *open }, "/mcp/echo")
            }
            Kind::Alone => {
                let state = places.scratch.join(name);
                let command = subject::staithe(&places.staithe, &state, &["--no-keeper"], &places.echo);
                (command, Ready::Staithe { open: false }, "/mcp/echo")
            }
            Kind::Mode(mode) => {
                let state = places.scratch.join(name);
                let command = subject::staithe(&places.staithe, &state, &["--ledger", mode], &places.echo);
                (command, Ready::Staithe { open: false }, "/mcp/echo")
            }
            Kind::Bridge(bridge) => {
                let state = places.scratch.join(name);
                let command = subject::staithe(&places.staithe, &state, &["--era", bridge.era()], &places.echo);
                (command, Ready::Staithe { open: false }, "/mcp/echo")
            }
            Kind::Peer(peer) => {
                let port = peers::free_port()?;
                (peer.command(&places.peers, port, &places.echo)?, Ready::Port(port), peers::PATH)
            }
        };
        Running::start(command, &ready, path, &log).map(Some)
    }

    fn rows(&self, host: usize) -> Vec<Row> {
        let row = |era: &str, role, protocol| Row { label: format!("{}{era}", self.name), role, host, protocol };
        match self.kind {
            Kind::Direct => vec![row("", Role::Other, Protocol::Bare)],
            Kind::FloorHttp => vec![row("", Role::Other, Protocol::Echo)],
            Kind::FloorPipe => vec![row("", Role::Floor, Protocol::Bare)],
            Kind::Staithe { open: false } => vec![
                row(", sessions", Role::StaitheLegacy, Protocol::Legacy),
                row(", 2026-07-28 calls", Role::StaitheModern, Protocol::Modern),
            ],
            Kind::Alone => vec![row(", 2026-07-28 calls", Role::WithoutKeeper, Protocol::Modern)],
            Kind::Mode("off") => vec![row(", 2026-07-28 calls", Role::Unrecorded, Protocol::Modern)],
            Kind::Mode(_) => vec![row(", 2026-07-28 calls", Role::Strict, Protocol::Modern)],
            Kind::Staithe { open: true } => vec![row(", sessions", Role::Other, Protocol::Legacy)],
            Kind::Bridge(Bridge::ToLegacy) => {
                vec![row(", bridged 2026-07-28 calls", Role::BridgedToLegacy, Protocol::Modern)]
            }
            Kind::Bridge(Bridge::ToModern) => {
                vec![row(", bridged sessions", Role::BridgedToModern, Protocol::Legacy)]
            }
            Kind::Peer(_) => vec![
                row(", sessions", Role::Peer, Protocol::Legacy),
                row(", 2026-07-28 calls", Role::Peer, Protocol::Modern),
            ],
        }
    }
}

/// Rows that could be measured, and by row and cell their samples, one per round.
type Measured = (Vec<Row>, Vec<Vec<Vec<Sample>>>);

/// Starts every host, measures all rounds, stops every host. A peer that fails is noted in `absent`; a wrong answer
/// of anything else ends the run.
pub(crate) fn run(
    places: &Places,
    hosts: &[Host],
    cells: &[Cell],
    scale: Scale,
    absent: &mut Vec<String>,
) -> Result<Measured, BenchError> {
    let mut running = Vec::new();
    let measured = start_all(places, hosts, &mut running, absent).and_then(|()| {
        let rows = usable_rows(places, hosts, &running, absent)?;
        visit_all(places, &rows, &running, cells, scale).map(|samples| (rows, samples))
    });
    // Stopped also after a failure; the first failure is the one that is told.
    let stopped = running.into_iter().flatten().map(Running::stop).collect::<Result<Vec<()>, _>>();
    let measured = measured?;
    stopped?;
    Ok(measured)
}

/// Starts the hosts; `running` has one element for each, and holds those that were started even if one failed.
fn start_all(
    places: &Places,
    hosts: &[Host],
    running: &mut Vec<Option<Running>>,
    absent: &mut Vec<String>,
) -> Result<(), BenchError> {
    for (number, host) in hosts.iter().enumerate() {
        match host.start(places, &format!("host-{number}")) {
            Ok(started) => running.push(started),
            Err(error) if host.is_peer() => {
                absent.push(format!("{}: {}", host.name, stdx::chain::Chain(&error)));
                running.push(None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The rows whose host runs and answers one caller rightly.
fn usable_rows(
    places: &Places,
    hosts: &[Host],
    running: &[Option<Running>],
    absent: &mut Vec<String>,
) -> Result<Vec<Row>, BenchError> {
    let mut rows = Vec::new();
    for (number, host) in hosts.iter().enumerate() {
        if host.is_peer() && running[number].is_none() {
            continue;
        }
        for row in host.rows(number) {
            let cell = Cell { callers: 1, bytes: 100 };
            let sample = visit(places, &row, running, cell, Duration::ZERO, Duration::from_millis(100))?;
            match sample.load.first_failure {
                None => rows.push(row),
                Some(why) if host.is_peer() => absent.push(format!("{}: {why}", row.label)),
                Some(why) => return Err(wrong(format!("{}: {why}", row.label))),
            }
        }
    }
    Ok(rows)
}

fn visit_all(
    places: &Places,
    rows: &[Row],
    running: &[Option<Running>],
    cells: &[Cell],
    scale: Scale,
) -> Result<Vec<Vec<Vec<Sample>>>, BenchError> {
    let mut samples = vec![vec![Vec::new(); cells.len()]; rows.len()];
    for round in 0..scale.rounds {
        for (column, cell) in cells.iter().enumerate() {
            say(&format!("round {} of {}: {} callers, {} B", round + 1, scale.rounds, cell.callers, cell.bytes));
            // Nobody is always measured right after the same neighbour's heat.
            let first = (usize::try_from(round).unwrap_or(0) + column) % rows.len();
            for step in 0..rows.len() {
                let index = (first + step) % rows.len();
                let row = &rows[index];
                let sample = visit(places, row, running, *cell, scale.warm, scale.measure)?;
                if let (Some(why), true) = (&sample.load.first_failure, row.role != Role::Peer) {
                    return Err(wrong(format!("{} with {} callers: {why}", row.label, cell.callers)));
                }
                samples[index][column].push(sample);
            }
        }
    }
    Ok(samples)
}

fn visit(
    places: &Places,
    row: &Row,
    running: &[Option<Running>],
    cell: Cell,
    warm: Duration,
    measure: Duration,
) -> Result<Sample, BenchError> {
    let mut arguments = vec![
        "--callers".to_owned(),
        cell.callers.to_string(),
        "--bytes".to_owned(),
        cell.bytes.to_string(),
        "--warm-ms".to_owned(),
        warm.as_millis().to_string(),
        "--measure-ms".to_owned(),
        measure.as_millis().to_string(),
    ];
    let Some(running) = running.get(row.host).and_then(Option::as_ref) else {
        arguments.insert(0, "direct".to_owned());
        arguments.extend(["--".to_owned(), places.echo.to_string_lossy().into_owned()]);
        return Ok(Sample { load: report(places, &arguments, None)?, cpu_us: 0.0 });
    };
    arguments.splice(0..0, load_arguments(running, row.protocol));
    let before = running.usage().cpu;
    let load = match report::<LoadReport>(places, &arguments, running.target.token.as_deref()) {
        Ok(load) => load,
        // What could not even be opened is a failure of the row, not of the run: the caller decides.
        Err(error) => LoadReport {
            failed: cell.callers,
            first_failure: Some(stdx::chain::Chain(&error).to_string()),
            ..LoadReport::default()
        },
    };
    let used = running.usage().cpu.saturating_sub(before);
    let calls = f64::from(u32::try_from(load.all_calls).unwrap_or(u32::MAX)).max(1.0);
    Ok(Sample { load, cpu_us: stats::micros(used) / calls })
}

/// How the load generator is told where to go.
pub(crate) fn load_arguments(running: &Running, protocol: Protocol) -> Vec<String> {
    let spoken = match protocol {
        Protocol::Echo => "echo",
        Protocol::Bare => "bare",
        Protocol::Legacy => "legacy",
        Protocol::Modern => "modern",
        Protocol::Denied => "denied",
    };
    let target = &running.target;
    let all = ["load", "--address", &target.address, "--path", &target.path, "--protocol", spoken];
    all.iter().map(|word| (*word).to_owned()).collect()
}
