//! Replies as people read them: plain text and small aligned tables. Texts that came from servers and clients are shown
//! without control characters, so that nobody can write to the operator's terminal.

mod ledger;

use model::report::{Health, InstanceReport, LogLine, ServerReport, SessionReport, StatusReport, TokenReport};
use model::{Problem, ProblemCode, Reply, ServerName};
use std::fmt::Write as _;

/// A reply as text that ends with a newline. `now_ms` is the time to count ages from, Unix milliseconds.
pub(crate) fn reply(reply: &Reply, now_ms: i64) -> String {
    match reply {
        Reply::Status(report) => status(report, now_ms),
        Reply::Servers(list) => servers(list),
        Reply::Instances(list) => instances(list, now_ms),
        Reply::Sessions(list) => sessions(list, now_ms),
        Reply::Log(line) => log(line),
        Reply::End => String::new(),
        Reply::Done { text } => format!("{}\n", clean(text)),
        Reply::Imported { added, replaced, unchanged, left } => imported(added, replaced, unchanged, left),
        Reply::Access { url, token } => {
            let token = token.as_ref().map(|token| format!("\ntoken    {token}")).unwrap_or_default();
            format!("address  {url}{token}\n")
        }
        Reply::TokenCreated { token, report } => token_created(token, report, now_ms),
        Reply::Tokens(list) => tokens(list, now_ms),
        Reply::Pseudonyms(list) => {
            let rows = list.iter().map(|known| vec![known.principal.to_string(), known.pseudonym.clone()]).collect();
            table(&["PRINCIPAL", "PSEUDONYM"], rows)
        }
        Reply::Content { content, .. } => format!("{}\n", lines_cleaned(content)),
        Reply::Problem(problem) => self::problem(problem),
    }
}

/// A failure as text: what was tried and why it failed, then what to do next.
pub(crate) fn problem(problem: &Problem) -> String {
    let mut out = format!("staithe: {}\n", lines_cleaned(&problem.message));
    if let Some(hint) = &problem.hint {
        let _ = writeln!(out, "  next: {}", lines_cleaned(hint));
    }
    out
}

/// The process's exit code for a failure.
pub(crate) fn exit_code(code: ProblemCode) -> u8 {
    match code {
        ProblemCode::Failed => 1,
        ProblemCode::Usage => 2,
        ProblemCode::NotFound => 3,
        ProblemCode::Denied => 4,
        ProblemCode::Unhealthy | ProblemCode::Unverified => 5,
    }
}

/// Lists of server names, one line per outcome.
pub(crate) fn imported(
    added: &[ServerName],
    replaced: &[ServerName],
    unchanged: &[ServerName],
    left: &[ServerName],
) -> String {
    let mut out = String::new();
    for (word, names) in [
        ("added", added),
        ("replaced", replaced),
        ("unchanged", unchanged),
        ("left as it is, with other settings (--replace takes the new ones)", left),
    ] {
        if !names.is_empty() {
            let names: Vec<_> = names.iter().map(ServerName::as_str).collect();
            let _ = writeln!(out, "{word}: {}", names.join(", "));
        }
    }
    if out.is_empty() { "nothing to change\n".to_owned() } else { out }
}

fn status(report: &StatusReport, now_ms: i64) -> String {
    let guard = if report.auth { "token required" } else { "open: no token" };
    let ready = report.servers.iter().filter(|server| server.health.serves()).count();
    let stopped = report.servers.iter().filter(|server| server.health == Health::Stopped).count();
    let mut out = format!(
        "staithe {}, process {}, up {}, {}\n",
        clean(&report.version),
        report.pid,
        age(now_ms, report.started_at_ms),
        size(report.resident_bytes)
    );
    let counts = match report.servers.len() {
        0 => "none yet: `staithe import FILE` adds some".to_owned(),
        all if stopped > 0 => format!("{ready} of {all} ready, {stopped} stopped"),
        all => format!("{ready} of {all} ready"),
    };
    if report.stopping {
        out.push_str("stopping: calls in flight may finish, new connections are not served by this process\n");
    }
    if report.upgrading {
        out.push_str("an upgrade goes on: nothing can be changed meanwhile\n");
    }
    for (name, value) in [
        ("public", format!("{} ({guard})", clean(&report.public))),
        ("operator", clean(&report.operator)),
        ("state", clean(&report.state_dir)),
        ("servers", counts),
    ] {
        let _ = writeln!(out, "{name:<10}{value}");
    }
    for (name, value) in report.ledger.iter().flat_map(|report| ledger::lines(report, now_ms)) {
        let _ = writeln!(out, "{name:<10}{value}");
    }
    if !report.servers.is_empty() {
        out.push('\n');
        out.push_str(&servers(&report.servers));
    }
    out
}

fn servers(list: &[ServerReport]) -> String {
    if list.is_empty() {
        return "no servers yet: `staithe import FILE` adds some\n".to_owned();
    }
    let rows = list.iter().map(|s| {
        let era = s.verdict.map_or_else(|| s.era.to_string(), |verdict| verdict.to_string());
        vec![
            s.name.to_string(),
            s.health.to_string(),
            era,
            s.mode.to_string(),
            s.instances.to_string(),
            s.sessions.to_string(),
            s.calls.to_string(),
            s.restarts.to_string(),
            s.url.clone(),
        ]
    });
    let head = ["SERVER", "HEALTH", "ERA", "MODE", "INSTANCES", "SESSIONS", "CALLS", "RESTARTS", "ADDRESS"];
    let mut out = table(&head, rows.collect());
    for s in list {
        if let Some(reason) = &s.reason {
            let _ = writeln!(out, "{}: {}", s.name, clean(said_once(&s.name, reason)));
        }
        if s.junk_lines > 0 {
            let text = match s.junk_lines {
                1 => "line on stdout was no protocol message",
                _ => "lines on stdout were no protocol messages",
            };
            let _ = writeln!(out, "{}: {} {text}; see `staithe logs {}`", s.name, s.junk_lines, s.name);
        }
    }
    out
}

fn instances(list: &[InstanceReport], now_ms: i64) -> String {
    if list.is_empty() {
        return "no processes: one starts with the first call; `spares`, where a server has them, start by themselves\n".to_owned();
    }
    let rows = list.iter().map(|i| {
        vec![
            i.server.to_string(),
            i.id.to_string(),
            i.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            i.health.to_string(),
            i.era.clone(),
            i.started_at_ms.map_or_else(|| "-".to_owned(), |at| age(now_ms, at)),
            i.in_flight.to_string(),
            i.sessions.to_string(),
            i.memory_limit
                .map_or_else(|| size(i.resident_bytes), |most| format!("{} of {}", size(i.resident_bytes), size(most))),
            i.processes.to_string(),
            i.restarts.to_string(),
            i.key.clone(),
        ]
    });
    let head = [
        "SERVER",
        "ID",
        "PID",
        "HEALTH",
        "ERA",
        "UP",
        "IN FLIGHT",
        "SESSIONS",
        "MEMORY",
        "PROCESSES",
        "RESTARTS",
        "BELONGS TO",
    ];
    let mut out = table(&head, rows.collect());
    for i in list {
        if let Some(reason) = &i.reason {
            let _ = writeln!(out, "{} {}: {}", i.server, i.id, clean(said_once(&i.server, reason)));
        }
    }
    out
}

fn sessions(list: &[SessionReport], now_ms: i64) -> String {
    if list.is_empty() {
        return "no sessions (clients of protocol 2026-07-28 have none)\n".to_owned();
    }
    let rows = list.iter().map(|s| {
        vec![
            s.server.to_string(),
            format!("{}…", s.id_prefix),
            s.principal.to_string(),
            s.revision.clone(),
            s.client.clone(),
            age(now_ms, s.opened_at_ms),
            age(now_ms, s.last_used_at_ms),
            if s.stream { "open" } else { "-" }.to_owned(),
        ]
    });
    table(&["SERVER", "SESSION", "PRINCIPAL", "PROTOCOL", "CLIENT", "OPEN FOR", "LAST USED", "STREAM"], rows.collect())
}

fn log(line: &LogLine) -> String {
    format!("{} {}/{} {}\n", stdx::clock::rfc3339(line.at_ms), line.source, line.instance, clean(&line.text))
}

fn token_created(token: &str, report: &TokenReport, now_ms: i64) -> String {
    let opens = match &report.server {
        _ if report.audit => "the ledger".to_owned(),
        None => "every server".to_owned(),
        Some(name) => format!("the server {name}"),
    };
    let ends = report.expires_at_ms.map(|at| format!(", for {}", span(at - now_ms))).unwrap_or_default();
    format!(
        "{token}\nThis is the only time that it is shown. It opens {opens} for {}{ends}; `staithe token revoke {}` ends it.\n",
        report.principal, report.id
    )
}

fn tokens(list: &[TokenReport], now_ms: i64) -> String {
    if list.is_empty() {
        return "no tokens: `staithe token create` makes one\n".to_owned();
    }
    let rows = list.iter().map(|t| {
        let state = match (t.revoked_at_ms, t.expires_at_ms) {
            (Some(at), _) => format!("revoked {} ago", age(now_ms, at)),
            (None, Some(at)) if at <= now_ms => format!("expired {} ago", age(now_ms, at)),
            (None, Some(at)) => format!("valid for {}", span(at - now_ms)),
            (None, None) => "valid".to_owned(),
        };
        let server = match &t.server {
            _ if t.audit => "(the ledger)".to_owned(),
            None => "(every server)".to_owned(),
            Some(name) => name.to_string(),
        };
        vec![t.id.clone(), t.principal.to_string(), server, age(now_ms, t.created_at_ms), state]
    });
    table(&["TOKEN", "PRINCIPAL", "SERVER", "AGE", "STATE"], rows.collect())
}

/// Columns as wide as their widest cell, two spaces between them, none at the end of a line.
pub(crate) fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let head = head.iter().map(|cell| (*cell).to_owned()).collect();
    let rows: Vec<Vec<String>> =
        std::iter::once(head).chain(rows).map(|row| row.iter().map(|c| clean(c)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// `reason` for a line that begins with the server's name, which then need not be said again.
pub(crate) fn said_once<'a>(name: &ServerName, reason: &'a str) -> &'a str {
    let own = reason.strip_prefix("the server ").and_then(|rest| rest.strip_prefix(name.as_str()));
    let Some(rest) = own.and_then(|rest| rest.strip_prefix(' ')) else { return reason };
    rest.strip_prefix("cannot serve: ").unwrap_or(rest)
}

/// `text` on one line and harmless to a terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `text` harmless to a terminal, its lines kept.
pub(crate) fn lines_cleaned(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { ' ' } else { c }).collect()
}

fn age(now_ms: i64, then_ms: i64) -> String {
    span(now_ms.saturating_sub(then_ms))
}

/// A time span in its one or two largest units.
fn span(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes / 1024),
        _ => format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::{problem, reply, size, span, table};
    use model::report::{Health, LogLine, LogSource, ServerReport, StatusReport, TokenReport};
    use model::{Blame, Bounds, EraPin, Mode, Problem, ProblemCode, Reply, Verdict};

    fn server(name: &str, health: Health, reason: Option<&str>) -> ServerReport {
        ServerReport {
            name: name.parse().unwrap(),
            url: format!("http://127.0.0.1:8420/mcp/{name}"),
            command: "npx x".to_owned(),
            env: vec![],
            headers_file: None,
            bounds: Bounds::default(),
            mode: Mode::PerPrincipal,
            era: EraPin::Auto,
            verdict: Some(Verdict::Legacy),
            probed_at_ms: None,
            watch: model::Watch::default(),
            generation: 1,
            health,
            reason: reason.map(str::to_owned),
            instances: 1,
            sessions: 20,
            calls: 3,
            restarts: 0,
            junk_lines: 0,
        }
    }

    #[test]
    fn status_reads_like_a_page() {
        let servers =
            vec![server("a", Health::Ready, None), server("long-name", Health::Failing, Some("exit 1\u{1b}[31m\nboo"))];
        let report = StatusReport {
            version: "0.1.0".to_owned(),
            pid: 42,
            started_at_ms: 0,
            public: "http://127.0.0.1:8420".to_owned(),
            operator: "http://127.0.0.1:8421".to_owned(),
            state_dir: "/s".to_owned(),
            auth: true,
            ready: false,
            stopping: false,
            upgrading: false,
            resident_bytes: 13 << 20,
            ledger: None,
            servers,
        };
        let stopping = StatusReport { stopping: true, ..report.clone() };
        let text = reply(&Reply::Status(Box::new(stopping)), 3_660_000);
        assert!(text.lines().nth(1).unwrap().starts_with("stopping: calls in flight may finish"), "{text}");
        let upgrading = StatusReport { upgrading: true, ..report.clone() };
        let text = reply(&Reply::Status(Box::new(upgrading)), 3_660_000);
        assert_eq!(text.lines().nth(1), Some("an upgrade goes on: nothing can be changed meanwhile"));
        let want = "staithe 0.1.0, process 42, up 1 h 1 min, 13.0 MiB
public    http://127.0.0.1:8420 (token required)
operator  http://127.0.0.1:8421
state     /s
servers   1 of 2 ready

SERVER     HEALTH   ERA     MODE           INSTANCES  SESSIONS  CALLS  RESTARTS  ADDRESS
a          ready    legacy  per-principal  1          20        3      0         http://127.0.0.1:8420/mcp/a
long-name  failing  legacy  per-principal  1          20        3      0         http://127.0.0.1:8420/mcp/long-name
long-name: exit 1 [31m boo
";
        assert_eq!(reply(&Reply::Status(Box::new(report)), 3_660_000), want);
    }

    #[test]
    fn tables_align_by_characters_and_end_clean() {
        assert_eq!(
            table(&["A", "B"], vec![vec!["äöü".into(), "x".into()], vec!["y".into(), String::new()]]),
            "A    B\näöü  x\ny\n"
        );
    }

    #[test]
    fn a_server_cannot_write_to_the_terminal() {
        let line = LogLine { at_ms: 0, instance: 1, source: LogSource::Stderr, text: "a\u{1b}]0;x\u{7}b".to_owned() };
        assert_eq!(reply(&Reply::Log(line), 0), "1970-01-01T00:00:00.000Z stderr/1 a ]0;x b\n");
    }

    #[test]
    fn tokens_say_how_they_stand() {
        let token = |expires_at_ms, revoked_at_ms| TokenReport {
            id: "abc".to_owned(),
            principal: "local".parse().unwrap(),
            server: None,
            audit: false,
            created_at_ms: 0,
            expires_at_ms,
            revoked_at_ms,
        };
        let text = reply(
            &Reply::Tokens(vec![
                token(None, None),
                token(Some(5000), None),
                token(Some(90_000), None),
                token(None, Some(0)),
            ]),
            10_000,
        );
        for state in ["valid\n", "expired 5 s ago\n", "valid for 1 min\n", "revoked 10 s ago\n"] {
            assert!(text.contains(state), "{text}");
        }
    }

    #[test]
    fn problems_say_what_to_do() {
        let failed = Problem {
            code: ProblemCode::Failed,
            blame: Blame::Host,
            message: "it broke".into(),
            hint: Some("mend it".into()),
        };
        assert_eq!(problem(&failed), "staithe: it broke\n  next: mend it\n");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([size(0), size(2048), size((3 << 20) + (1 << 19))], ["0 B", "2 KiB", "3.5 MiB"]);
        assert_eq!([span(-5), span(61_000), span(90_000_000)], ["0 s", "1 min", "1 d 1 h"]);
    }
}
