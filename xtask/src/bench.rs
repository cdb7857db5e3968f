//! `cargo xtask bench`: measures staithe beside the floor and beside its peers, all in one run, round by round, in
//! front of the same stdio echo server, so that a noisy machine is unfair to everybody alike.

pub(crate) mod direct;
mod error;
pub(crate) mod fake;
pub(crate) mod floor;
mod http1;
mod ledger;
pub(crate) mod load;
mod mcp;
mod memory;
mod page;
mod peers;
mod proc;
mod rounds;
pub(crate) mod sessions;
mod stats;
mod subject;

use error::{BenchError, cannot, wrong};
use rounds::{Cell, Host, Row, Sample};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use stdx::clock::monotonic;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Prove in about 20 seconds that everything runs and answers rightly; the numbers mean little
    #[arg(long)]
    short: bool,
    /// Where to write the page [default: docs/performance.md; with --short, nowhere]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Install the peers from npm and PyPI and measure them too
    #[arg(long)]
    peers: bool,
    /// Measure the binaries that are there instead of building them first
    #[arg(long)]
    no_build: bool,
}

/// How much to measure.
#[derive(Clone, Copy, Debug)]
struct Scale {
    rounds: u32,
    warm: Duration,
    measure: Duration,
    /// Legacy sessions opened and closed, twice.
    sessions: u32,
    /// Legacy sessions left open.
    idle_sessions: u32,
    /// How long memory gets to come back.
    settle: Duration,
    /// Starts of a fresh `staithe run`.
    starts: u32,
    /// How long to be refused, per flood.
    flood: Duration,
    /// Entries of the log that is opened and verified.
    ledger_entries: u64,
    /// Whether the numbers may be judged.
    full: bool,
}

const FULL: Scale = Scale {
    rounds: 3,
    warm: Duration::from_millis(300),
    measure: Duration::from_millis(1500),
    sessions: 200,
    idle_sessions: 2000,
    settle: Duration::from_secs(10),
    starts: 11,
    flood: Duration::from_secs(3),
    ledger_entries: 10_000_000,
    full: true,
};

const SHORT: Scale = Scale {
    rounds: 1,
    warm: Duration::from_millis(30),
    measure: Duration::from_millis(100),
    sessions: 20,
    idle_sessions: 100,
    settle: Duration::from_millis(200),
    starts: 2,
    flood: Duration::from_millis(200),
    ledger_entries: 50_000,
    full: false,
};

/// How long one load may take. Each ends by itself long before, unless what it drives hangs in a way that nobody
/// thought of.
const REPORT_LIMIT: Duration = Duration::from_secs(400);

/// Callers and bytes of every cell of the tables.
const CALLERS: [u32; 3] = [1, 16, 64];
const BYTES: [usize; 2] = [100, 65_536];

/// Where everything is.
#[derive(Debug)]
struct Places {
    /// The checkout.
    root: PathBuf,
    /// This program: it is started again for each load and each floor.
    own: PathBuf,
    staithe: PathBuf,
    echo: PathBuf,
    /// State directories and stderr of this run; removed at its end.
    scratch: PathBuf,
    /// Installed peers; kept.
    peers: PathBuf,
}

/// All that was measured.
#[derive(Debug)]
struct Results {
    rows: Vec<Row>,
    cells: Vec<Cell>,
    /// By row, then by cell: one per round.
    samples: Vec<Vec<Vec<Sample>>>,
    memory: Vec<memory::Memory>,
    extra: memory::Extra,
    ledger: ledger::Figures,
    /// Peers that could not be measured, and why.
    absent: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<(), BenchError> {
    let places = Places::find()?;
    if !options.no_build {
        build(&places)?;
    }
    let scale = if options.short { SHORT } else { FULL };
    stdx::durable::make_dir(&places.scratch, 0o700).map_err(|error| wrong(error.to_string()))?;
    let measured = measure(&places, scale, options.peers);
    std::fs::remove_dir_all(&places.scratch).map_err(cannot("remove the scratch directory"))?;
    let results = measured?;
    let machine = page::Machine::read(&places, scale)?;
    let out = match &options.out {
        Some(out) => Some(out.clone()),
        None if options.short => None,
        None => Some(places.root.join("docs/performance.md")),
    };
    let old = out.as_deref().and_then(|out| std::fs::read_to_string(out).ok()).unwrap_or_default();
    let text = page::write(&results, &machine, page::reasons(&old));
    match out {
        Some(out) => {
            stdx::durable::write_file(&out, text.as_bytes(), 0o644).map_err(|error| wrong(error.to_string()))?;
            say(&format!("wrote {}", out.display()));
        }
        None => say(&text),
    }
    Ok(())
}

fn measure(places: &Places, scale: Scale, with_peers: bool) -> Result<Results, BenchError> {
    let (mut hosts, mut absent) = (rounds::own_hosts(), Vec::new());
    if with_peers {
        for peer in peers::PEERS {
            say(&format!("installing {}", peer.name));
            match peer.install(&places.peers) {
                Ok(version) => hosts.push(Host::peer(*peer, &version)),
                Err(error) => absent.push(format!("{}: {}", peer.name, stdx::chain::Chain(&error))),
            }
        }
    }
    let mut memory = Vec::new();
    for host in hosts.iter().filter(|host| host.has_memory_row()) {
        say(&format!("memory: {}", host.name));
        match memory::measure(places, host, scale) {
            Ok(measured) => memory.push(measured),
            Err(error) if host.is_peer() => {
                absent.push(format!("{}, memory: {}", host.name, stdx::chain::Chain(&error)));
            }
            Err(error) => return Err(error),
        }
    }
    let extra = memory::extra(places, scale)?;
    let ledger = ledger::measure(&places.scratch, scale)?;
    let cells: Vec<Cell> = BYTES
        .iter()
        .flat_map(|bytes| CALLERS.iter().map(|callers| Cell { callers: *callers, bytes: *bytes }))
        .collect();
    let (rows, samples) = rounds::run(places, &hosts, &cells, scale, &mut absent)?;
    Ok(Results { rows, cells, samples, memory, extra, ledger, absent })
}

// === impl Places ===

impl Places {
    fn find() -> Result<Self, BenchError> {
        let own = std::env::current_exe().map_err(cannot("find this program"))?;
        let beside = own.parent().unwrap_or(Path::new(".")).to_path_buf();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_path_buf();
        Ok(Self {
            staithe: beside.join("staithe"),
            echo: beside.join("echo"),
            scratch: std::env::temp_dir().join(format!("staithe-bench-{}", std::process::id())),
            peers: beside.parent().unwrap_or(Path::new(".")).join("peers"),
            root,
            own,
        })
    }
}

fn build(places: &Places) -> Result<(), BenchError> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        // The whole workspace, as the tests build it: fewer packages would choose other features and compile the world again.
        .args(["build", "--release", "--quiet", "--workspace", "--all-targets"])
        .current_dir(&places.root)
        .status()
        .map_err(cannot("run cargo build"))?;
    if status.success() { Ok(()) } else { Err(wrong("cargo build failed")) }
}

/// Starts this program again with one of its hidden commands, and reads the report that it prints.
fn report<T: DeserializeOwned>(places: &Places, arguments: &[String], token: Option<&str>) -> Result<T, BenchError> {
    let mut command = Command::new(&places.own);
    command.args(arguments);
    if let Some(token) = token {
        command.env(load::TOKEN_VARIABLE, token);
    }
    let what = format!("measure with {}", arguments.first().map_or("", String::as_str));
    let printed = finish(command, &what, REPORT_LIMIT)?;
    serde_json::from_str(&printed).map_err(|error| wrong(format!("cannot {what}: {error}")))
}

/// Runs a command to its end; returns what it printed, trimmed.
fn finish(mut command: Command, what: &str, limit: Duration) -> Result<String, BenchError> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(cannot(what))?;
    let deadline = monotonic() + limit;
    // What these commands print in all fits into a pipe, so nobody has to read while they run.
    while child.try_wait().map_err(cannot(what))?.is_none() {
        if monotonic() > deadline {
            child.kill().map_err(cannot(what))?;
            child.wait().map_err(cannot(what))?;
            return Err(wrong(format!("cannot {what}: not done after {limit:?}")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().map_err(cannot(what))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(wrong(format!("cannot {what}: {}", said.lines().last().unwrap_or("it said nothing"))))
}

/// Prints a report as one line of JSON on stdout.
fn print_json(report: &impl Serialize) -> Result<(), BenchError> {
    let text = serde_json::to_string(report).map_err(|error| wrong(error.to_string()))?;
    writeln!(std::io::stdout().lock(), "{text}").map_err(cannot("print the report"))
}

fn say(text: &str) {
    // Progress is a courtesy; a closed stdout does not end a measurement.
    drop(writeln!(std::io::stdout().lock(), "{text}"));
}
