//! The page: tables, goals and how to repeat it. Generated anew each time, except for the reasons, which people write.

use super::error::{BenchError, cannot};
use super::memory::Memory;
use super::rounds::{Cell, Role, Row, Sample};
use super::{Places, Results, Scale, finish, stats};
use std::process::Command;
use std::time::Duration;

const REASONS: &str = "<!-- reasons -->";
const REASONS_END: &str = "<!-- /reasons -->";

/// What was measured on, with what, when.
#[derive(Debug)]
pub(crate) struct Machine {
    cores: usize,
    cpu: String,
    kernel: String,
    date: String,
    versions: Vec<String>,
    scale: Scale,
}

/// Medians over the rounds of one row in one cell.
#[derive(Clone, Copy, Debug, Default)]
struct Figure {
    p50_us: f64,
    p99_us: f64,
    per_second: f64,
    cpu_us: f64,
    /// Callers that stopped because an answer was wrong or did not come, all rounds together.
    failed: u32,
}

/// One goal of the design, judged.
struct Goal {
    what: String,
    wanted: String,
    measured: String,
    verdict: String,
}

// === impl Machine ===

impl Machine {
    /// Asks the machine. What does not answer is "unknown": a page without a kernel version is still a page.
    pub(crate) fn read(places: &Places, scale: Scale) -> Result<Self, BenchError> {
        let text = |path: &str| std::fs::read_to_string(path).map_err(cannot(format!("read {path}")));
        let cpus = text("/proc/cpuinfo")?;
        let cpu = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
        let mut versions = Vec::new();
        for (program, argument) in [(places.staithe.to_string_lossy().as_ref(), "--version"), ("rustc", "--version")] {
            versions.push(version(program, argument));
        }
        versions.push(format!("node {}", version("node", "--version")));
        versions.push(version("python3", "--version"));
        let now = stdx::clock::rfc3339(stdx::clock::unix_ms());
        Ok(Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: cpu.trim_start_matches([' ', '\t', ':']).to_owned(),
            kernel: text("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            date: now.get(..10).unwrap_or(&now).to_owned(),
            versions,
            scale,
        })
    }
}

fn version(program: &str, argument: &str) -> String {
    let mut command = Command::new(program);
    command.arg(argument);
    finish(command, "ask for a version", Duration::from_secs(30)).unwrap_or_else(|_| "unknown".to_owned())
}

/// What people wrote between the markers of the page as it was.
pub(crate) fn reasons(old: &str) -> &str {
    let after = old.split_once(REASONS).map_or("", |(_, after)| after);
    after.split_once(REASONS_END).map_or("", |(between, _)| between).trim()
}

/// The whole page.
pub(crate) fn write(results: &Results, machine: &Machine, reasons: &str) -> String {
    let mut page = opening(machine);
    page.push_str(&goals_table(&goals(results)));
    page.push_str("\n## Reasons\n\nWhy a goal was missed, in the words of whoever looked into it.\n\n");
    page.push_str(&format!("{REASONS}\n{reasons}\n{REASONS_END}\n"));
    for bytes in super::BYTES {
        page.push_str(&calls_tables(results, bytes));
    }
    page.push_str(&memory_table(&results.memory, machine.scale));
    page.push_str(&alone(results));
    if !results.absent.is_empty() {
        page.push_str("\n## Not measured\n\n");
        results.absent.iter().for_each(|absent| page.push_str(&format!("* {}\n", one_line(absent))));
    }
    page.push_str(REPEAT);
    page
}

const REPEAT: &str = "\n## How to repeat\n\n\
    `cargo xtask bench --peers` builds what is needed, installs the peers by name from npm and PyPI below `target/peers`, \
    measures for about ten minutes and writes this page; without `--peers` it needs no network. Let nothing else run \
    meanwhile. `cargo xtask bench --short` only proves that everything runs and answers rightly.\n\n\
    Every caller keeps one connection and, where the protocol has them, one session, and waits for each answer before it \
    sends the next call. TCP_NODELAY is set. The load generator is a process of its own with one thread; it shares the \
    machine's cores with what it measures, as the stdio server does. It checks the id and the text of every answer. The \
    *floor* is a bare hyper server that writes the body of each request to one stdio server and awaits the line with \
    the same id: no checks, no sessions, no auth. It is the least that any gateway must do. A *bridged* call is one of a \
    client of one era to a server that is held to the other; it is compared with the same client's call to a server of \
    its own era.\n";

fn opening(machine: &Machine) -> String {
    let scale = machine.scale;
    let warning =
        if scale.full { "" } else { "**A short run: it proves that everything runs; the numbers mean little.**\n\n" };
    format!(
        "# Performance\n\n{warning}Generated by `cargo xtask bench`. All rows were measured in one run, in turn, {} time{}, in front of the same \
         minimal stdio echo server; numbers are medians.\n\n* Date: {}\n* Machine: {} cores, {}, Linux {}\n* Versions: {}\n\
         * Each visit: {} ms of warming up, {} ms measured\n\n",
        scale.rounds,
        if scale.rounds == 1 { "" } else { "s" },
        machine.date,
        machine.cores,
        machine.cpu,
        machine.kernel,
        machine.versions.join(", "),
        scale.warm.as_millis(),
        scale.measure.as_millis()
    )
}

fn goals_table(goals: &[Goal]) -> String {
    let mut out = "## Goals\n\n| what | goal | measured | |\n|---|---:|---:|---|\n".to_owned();
    for goal in goals {
        out.push_str(&format!("| {} | {} | {} | {} |\n", goal.what, goal.wanted, goal.measured, goal.verdict));
    }
    out.push_str(
        "\nCalls are measured with auth on and recorded in the ledger, mode `balanced`, where nothing else is said. How long a takeover after `kill -9` takes is printed by \
         the tests that kill the daemon 200 times under load (`crates/staithe/tests/faults`).\n",
    );
    out
}

fn goals(results: &Results) -> Vec<Goal> {
    let mut goals = Vec::new();
    for (role, era) in [(Role::StaitheLegacy, "sessions"), (Role::StaitheModern, "2026-07-28")] {
        let one = Cell { callers: 1, bytes: 100 };
        let many = Cell { callers: 64, bytes: 100 };
        let (Some(staithe), Some(floor)) = (results.figure(role, one), results.figure(Role::Floor, one)) else {
            continue;
        };
        goals.push(at_most(
            &format!("p50, 1 caller, 100 B, {era}"),
            ratio(staithe.p50_us, floor.p50_us),
            1.3,
            "× the floor",
        ));
        let (Some(staithe), Some(floor)) = (results.figure(role, many), results.figure(Role::Floor, many)) else {
            continue;
        };
        let what = format!("calls per second, 64 callers, 100 B, {era}");
        goals.push(at_least(&what, ratio(staithe.per_second, floor.per_second), 0.6, "× the floor"));
        if let Some(best) = results.best_peer(many) {
            goals.push(at_least(&what, ratio(staithe.per_second, best), 20.0, "× the best peer"));
        }
        goals.push(at_most(
            &format!("p99, 64 callers, 100 B, {era}"),
            ratio(staithe.p99_us, floor.p99_us),
            3.0,
            "× the floor",
        ));
    }
    goals.extend(keeper_goals(results));
    goals.extend(ledger_goals(results));
    goals.extend(bridged_goals(results));
    goals.extend(own_goals(results));
    goals
}

/// The same call with a keeper and without.
fn keeper_goals(results: &Results) -> Vec<Goal> {
    let figures = |callers| {
        let cell = Cell { callers, bytes: 100 };
        Some((results.figure(Role::StaitheModern, cell)?, results.figure(Role::WithoutKeeper, cell)?))
    };
    let mut goals = Vec::new();
    if let Some((with, without)) = figures(1) {
        goals.push(at_most(
            "p50, 1 caller, 100 B, with a keeper",
            ratio(with.p50_us, without.p50_us),
            1.02,
            "× without",
        ));
    }
    if let Some((with, without)) = figures(64) {
        let what = "time per call, 64 callers, 100 B, with a keeper";
        goals.push(at_most(what, ratio(without.per_second, with.per_second), 1.02, "× without"));
    }
    goals
}

/// The same call recorded, and not; and the ledger alone.
fn ledger_goals(results: &Results) -> Vec<Goal> {
    let mut goals = Vec::new();
    for (callers, plural) in [(1, ""), (64, "s")] {
        let cell = Cell { callers, bytes: 100 };
        let figures = results.figure(Role::StaitheModern, cell).zip(results.figure(Role::Unrecorded, cell));
        if let Some((with, without)) = figures {
            let what = format!("p50, {callers} caller{plural}, 100 B, recorded");
            goals.push(at_most(&what, ratio(with.p50_us, without.p50_us), 1.1, "× not recorded"));
        }
    }
    let ledger = &results.ledger;
    goals.push(at_least("ledger, appends per second, in the kernel", ledger.kernel, 20_000.0, ""));
    goals.push(at_least("ledger, entries verified per second", ledger.verified, 200_000.0, ""));
    let what = format!("ledger of {} entries, time to open", entry(float(ledger.entries)));
    goals.push(at_most(&what, ledger.opened.as_secs_f64() * 1000.0, 2000.0, "ms"));
    goals
}

/// A call between two eras beside the same client's call to a server of its own era.
fn bridged_goals(results: &Results) -> Vec<Goal> {
    let ways = [
        (Role::BridgedToLegacy, Role::StaitheModern, "2026-07-28 call of a server of sessions"),
        (Role::BridgedToModern, Role::StaitheLegacy, "session's call of a 2026-07-28 server"),
    ];
    let mut goals = Vec::new();
    for (bridged, same, what) in ways {
        for callers in [1, 16] {
            let cell = Cell { callers, bytes: 100 };
            if let (Some(bridged), Some(same)) = (results.figure(bridged, cell), results.figure(same, cell)) {
                let plural = if callers == 1 { "" } else { "s" };
                let what = format!("p50, {callers} caller{plural}, 100 B, {what}");
                goals.push(at_most(&what, ratio(bridged.p50_us, same.p50_us), 1.15, "× the same-era call"));
            }
        }
    }
    goals
}

fn own_goals(results: &Results) -> Vec<Goal> {
    let (extra, mut goals) = (&results.extra, Vec::new());
    let memory = results.memory.iter().find(|memory| memory.name == "staithe");
    if let Some(memory) = memory {
        goals.push(at_most("daemon memory, idle, one server", mebibytes(memory.idle.own_resident), 20.0, "MiB"));
    }
    goals.push(at_most("daemon memory per idle session, process shared", extra.per_session / 1024.0, 4.0, "KiB"));
    let per_refusal = ratio(float(extra.refused_growth), float(extra.refused));
    goals.push(at_most("daemon memory kept per refused request", per_refusal, 1.0, "B"));
    if let Some(sessions) = memory.and_then(|memory| memory.sessions.as_ref()) {
        goals.push(at_most("warm `initialize`, p50", sessions.initialize.p50_us / 1000.0, 2.0, "ms"));
        let one = results.figure(Role::StaitheLegacy, Cell { callers: 1, bytes: 100 }).unwrap_or_default();
        let first = ratio(sessions.first_call.p50_us, one.p99_us);
        goals.push(at_most("first call of a session to a warm instance, p50", first, 1.0, "× p99 of 1 caller"));
    }
    let cold = extra.cold.saturating_sub(extra.child).as_secs_f64() * 1000.0;
    goals.push(at_most("cold `staithe run` to ready, without the server's own start", cold, 100.0, "ms"));
    goals.push(at_most("release binary", mebibytes(extra.binary), 40.0, "MiB"));
    goals
}

fn at_most(what: &str, value: f64, limit: f64, unit: &str) -> Goal {
    judge(what, value, unit, format!("≤ {} {unit}", short(limit)), ratio(value, limit) - 1.0)
}

fn at_least(what: &str, value: f64, limit: f64, unit: &str) -> Goal {
    judge(what, value, unit, format!("≥ {} {unit}", short(limit)), 1.0 - ratio(value, limit))
}

fn judge(what: &str, value: f64, unit: &str, wanted: String, excess: f64) -> Goal {
    let verdict =
        if excess <= 0.0 { "met".to_owned() } else { format!("**missed by {:.0} %**", (excess * 100.0).ceil()) };
    Goal { what: what.to_owned(), wanted, measured: format!("{} {unit}", short(value)), verdict }
}

fn calls_tables(results: &Results, bytes: usize) -> String {
    let size = if bytes < 1024 { format!("{bytes} B") } else { format!("{} KiB", bytes / 1024) };
    let mut out = format!("\n## Calls of {size}\n\nMicroseconds p50 / p99 and calls per second.\n\n| ");
    for callers in super::CALLERS {
        out.push_str(&format!("| {callers} caller{} | calls/s ", if callers == 1 { "" } else { "s" }));
    }
    out.push_str("| CPU µs per call at 16 |\n|---");
    out.push_str(&"|---:".repeat(super::CALLERS.len() * 2 + 1));
    out.push_str("|\n");
    for (index, row) in results.rows.iter().enumerate() {
        out.push_str(&format!("| {} ", bold(row)));
        for callers in super::CALLERS {
            let figure = results.figure_of(index, Cell { callers, bytes });
            let lost = if figure.failed > 0 { format!(" ({} callers failed)", figure.failed) } else { String::new() };
            let (p50, p99) = (entry(figure.p50_us), entry(figure.p99_us));
            out.push_str(&format!("| {p50} / {p99} | {}{lost} ", entry(figure.per_second)));
        }
        let cpu = results.figure_of(index, Cell { callers: 16, bytes }).cpu_us;
        out.push_str(&format!("| {} |\n", entry(cpu)));
    }
    out + &ratios_table(results, bytes)
}

fn ratios_table(results: &Results, bytes: usize) -> String {
    let with_peers = results.best_peer(Cell { callers: 64, bytes }).is_some();
    let mut out = "\nAs ratios to the floor".to_owned();
    if with_peers {
        out.push_str(" and to the best peer of the same column");
    }
    out.push_str(".\n\n| | p50 at 1 | p99 at 64 | calls/s at 1, 16, 64 |");
    out.push_str(if with_peers {
        " to the best peer at 1, 16, 64 |\n|---|---:|---:|---:|---:|\n"
    } else {
        "\n|---|---:|---:|---:|\n"
    });
    for (index, row) in results.rows.iter().enumerate().filter(|(_, row)| row.role != Role::Floor) {
        let at = |callers| {
            let cell = Cell { callers, bytes };
            let floor = results.figure(Role::Floor, cell).unwrap_or_default();
            (results.figure_of(index, cell), floor, results.best_peer(cell).unwrap_or_default())
        };
        let (one, many) = (at(1), at(64));
        let p50 = ratio(one.0.p50_us, one.1.p50_us);
        let p99 = ratio(many.0.p99_us, many.1.p99_us);
        let to_floor = super::CALLERS.map(|callers| entry(ratio(at(callers).0.per_second, at(callers).1.per_second)));
        out.push_str(&format!("| {} | {} | {} | {} |", row.label, entry(p50), entry(p99), to_floor.join(", ")));
        if with_peers {
            let to_peer = super::CALLERS.map(|callers| entry(ratio(at(callers).0.per_second, at(callers).2)));
            out.push_str(&format!(" {} |", to_peer.join(", ")));
        }
        out.push('\n');
    }
    out
}

fn memory_table(all: &[Memory], scale: Scale) -> String {
    let mut out = format!(
        "\n## Memory and processes\n\nResident MiB of the whole process tree, pages that processes share counted for each. {} sessions are \
         opened, called once and closed, then as many again, then {} s of rest.\n\n\
         | | idle | after {} | after {} | after a rest | processes idle → at the end | DELETE answers |\n\
         |---|---:|---:|---:|---:|---:|---:|\n",
        scale.sessions,
        scale.settle.as_secs_f64(),
        scale.sessions,
        scale.sessions * 2
    );
    for memory in all.iter().filter(|memory| memory.idle.processes > 0) {
        let after = memory.after.map(|after| after.map(|usage| short(mebibytes(usage.resident))));
        let [first, second, rest] = after.unwrap_or_else(|| ["–", "–", "–"].map(str::to_owned));
        let end = memory.after.map_or(memory.idle.processes, |after| after[2].processes);
        let deletes = memory.sessions.as_ref().map_or_else(String::new, |sessions| {
            sessions.deletes.iter().map(|(status, count)| format!("{count} × {status}")).collect::<Vec<_>>().join(", ")
        });
        out.push_str(&format!(
            "| {} | {} | {first} | {second} | {rest} | {} → {end} | {deletes} |\n",
            memory.name,
            short(mebibytes(memory.idle.resident)),
            memory.idle.processes
        ));
    }
    out
}

fn alone(results: &Results) -> String {
    let extra = &results.extra;
    let mut out = "\n## staithe alone\n\n".to_owned();
    out.push_str(&format!(
        "* Cold `staithe run` with a fresh state directory to ready: {} ms; the stdio server's own start to its answer to \
         `initialize`: {} ms.\n",
        short(extra.cold.as_secs_f64() * 1000.0),
        short(extra.child.as_secs_f64() * 1000.0)
    ));
    out.push_str(&format!(
        "* {} idle sessions on one shared process: {} B of daemon memory each.\n\
         * {} requests without a token refused, {} per second with 16 callers: the daemon grew by {} KiB.\n\
         * Release binary: {} MiB.\n",
        extra.idle_sessions,
        short(extra.per_session),
        extra.refused,
        short(extra.refused_per_second),
        short(float(extra.refused_growth) / 1024.0),
        short(mebibytes(extra.binary))
    ));
    let ledger = &results.ledger;
    out.push_str(&format!(
        "* The ledger alone, entries of {} B: {} appends per second by {} threads that wait for the kernel, {} where they wait for \
         the disk; {} entries opened in {} ms, {} verified per second.\n",
        super::ledger::ENTRY,
        entry(ledger.kernel),
        super::ledger::THREADS,
        entry(ledger.disk),
        entry(float(ledger.entries)),
        short(ledger.opened.as_secs_f64() * 1000.0),
        entry(ledger.verified)
    ));
    for memory in &results.memory {
        if let Some(sessions) = &memory.sessions {
            out.push_str(&format!(
                "* {}: warm `initialize` p50 {} µs, p99 {} µs; first call of a session p50 {} µs, p99 {} µs.\n",
                memory.name,
                short(sessions.initialize.p50_us),
                short(sessions.initialize.p99_us),
                short(sessions.first_call.p50_us),
                short(sessions.first_call.p99_us)
            ));
        }
    }
    out
}

// === impl Results ===

impl Results {
    /// The figure of the first row with this role.
    fn figure(&self, role: Role, cell: Cell) -> Option<Figure> {
        let index = self.rows.iter().position(|row| row.role == role)?;
        Some(self.figure_of(index, cell))
    }

    fn figure_of(&self, row: usize, cell: Cell) -> Figure {
        let column = self.cells.iter().position(|candidate| *candidate == cell);
        let samples = column.and_then(|column| self.samples.get(row)?.get(column)).map_or(&[][..], Vec::as_slice);
        let median = |of: fn(&Sample) -> f64| stats::median(samples.iter().map(of));
        Figure {
            p50_us: median(|sample| sample.load.latency.p50_us),
            p99_us: median(|sample| sample.load.latency.p99_us),
            per_second: median(|sample| sample.load.per_second),
            cpu_us: median(|sample| sample.cpu_us),
            failed: samples.iter().map(|sample| sample.load.failed).sum(),
        }
    }

    /// Calls per second of the peer that does most of them, those that lost answers left out.
    fn best_peer(&self, cell: Cell) -> Option<f64> {
        let peers = self.rows.iter().enumerate().filter(|(_, row)| row.role == Role::Peer);
        let figures = peers.map(|(index, _)| self.figure_of(index, cell));
        figures.filter(|figure| figure.failed == 0).map(|figure| figure.per_second).max_by(f64::total_cmp)
    }
}

fn bold(row: &Row) -> String {
    match row.role {
        Role::Other | Role::WithoutKeeper | Role::Unrecorded | Role::Strict | Role::Peer => row.label.clone(),
        Role::Floor | Role::StaitheLegacy | Role::StaitheModern | Role::BridgedToModern | Role::BridgedToLegacy => {
            format!("**{}**", row.label)
        }
    }
}

/// A number for a table, where zero means that nothing was measured.
fn entry(value: f64) -> String {
    if value == 0.0 { "–".to_owned() } else { short(value) }
}

/// A number with as many digits as a person reads.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => thousands(&format!("{value:.0}")),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn thousands(digits: &str) -> String {
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn ratio(value: f64, to: f64) -> f64 {
    if to == 0.0 { 0.0 } else { value / to }
}

fn mebibytes(bytes: u64) -> f64 {
    float(bytes / 1024) / 1024.0
}

/// Exact below 2^32, which is far beyond what is counted here.
fn float(count: u64) -> f64 {
    u32::try_from(count).map_or(f64::from(u32::MAX), f64::from)
}

fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::{at_least, at_most, reasons, short};

    #[test]
    fn what_people_wrote_is_kept() {
        let page = "a\n<!-- reasons -->\nBecause.\n\nTwice.\n<!-- /reasons -->\nb";
        assert_eq!(reasons(page), "Because.\n\nTwice.");
        assert_eq!(reasons("no markers"), "");
        assert_eq!(reasons(""), "");
    }

    #[test]
    fn goals_are_judged_by_how_much() {
        assert_eq!(at_most("x", 1.3, 1.3, "×").verdict, "met");
        assert_eq!(at_most("x", 2.6, 1.3, "×").verdict, "**missed by 100 %**");
        assert_eq!(at_least("x", 0.3, 0.6, "×").verdict, "**missed by 50 %**");
        assert_eq!(at_least("x", 0.7, 0.6, "×").verdict, "met");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.0, 0.123, 12.34, 999.5, 1_234_567.0].map(short), ["0", "0.12", "12.3", "1,000", "1,234,567"]);
    }
}
