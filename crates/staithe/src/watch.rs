//! Says on standard error how the servers of a host are: once each is known to work or not, and whenever that changes.

use crate::output::Output;
use crate::render;
use model::ServerName;
use model::report::{Health, ServerReport};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;
use supervisor::Supervisor;

/// How often is looked while a server is not known yet.
const SOON: Duration = Duration::from_millis(250);
/// How often is looked once all are known.
const LATER: Duration = Duration::from_secs(1);

/// Watches for as long as it is polled. It holds nothing that must be given back.
pub(crate) async fn health(supervisor: Supervisor, output: Output) -> Infallible {
    let mut said = BTreeMap::new();
    if supervisor.servers().is_empty() {
        say(output, "no servers yet: staithe import FILE adds some".to_owned()).await;
    }
    loop {
        let servers = supervisor.servers();
        for line in news(&mut said, &servers) {
            say(output, line).await;
        }
        let known = servers.iter().all(|server| server.health != Health::Starting);
        tokio::time::sleep(if known { LATER } else { SOON }).await;
    }
}

/// Writes one line. Whoever reads standard error may stop reading: only a thread of its own waits for that, and the end of
/// the host does not.
async fn say(output: Output, line: String) {
    // It fails only where the thread panicked; then there is nobody to tell.
    drop(tokio::task::spawn_blocking(move || output.note(&line)).await);
}

/// One line for each server that is ready or failing and of which something else, or nothing, was said before. A restart
/// on the way is no news. Who was stopped is news again.
fn news(said: &mut BTreeMap<ServerName, Health>, servers: &[ServerReport]) -> Vec<String> {
    said.retain(|name, _| servers.iter().any(|server| server.name == *name && server.health != Health::Stopped));
    let mut lines = Vec::new();
    for server in servers {
        // That it works, or is quiet, is no news.
        let health = if server.health.serves() { Health::Ready } else { server.health };
        if said.get(&server.name) == Some(&health) {
            continue;
        }
        let Some(line) = line(server) else { continue };
        said.insert(server.name.clone(), health);
        lines.push(line);
    }
    lines
}

fn line(server: &ServerReport) -> Option<String> {
    let name = &server.name;
    match server.health {
        Health::Ready | Health::Busy | Health::Silent => {
            let speaks = server.verdict.map(|verdict| format!(" speaks {verdict}")).unwrap_or_default();
            Some(format!("ready: {name}{speaks}"))
        }
        Health::Failing | Health::CrashLooping | Health::Quarantined => {
            let reason =
                server.reason.as_deref().map_or("no reason is known", |reason| render::said_once(name, reason));
            Some(format!("{}: {name}: {}; next: staithe logs {name}", server.health, render::clean(reason)))
        }
        Health::Starting | Health::Restarting | Health::Wedged | Health::Stopped => None,
    }
}

#[cfg(test)]
mod tests {
    use super::news;
    use model::report::{Health, ServerReport};
    use model::{Bounds, EraPin, Mode, Verdict};
    use std::collections::BTreeMap;

    fn server(health: Health, reason: Option<&str>) -> ServerReport {
        ServerReport {
            name: "a".parse().unwrap(),
            url: String::new(),
            command: "x".to_owned(),
            env: vec![],
            headers_file: None,
            bounds: Bounds::default(),
            mode: Mode::PerPrincipal,
            era: EraPin::Auto,
            verdict: Some(Verdict::Dual),
            probed_at_ms: None,
            watch: model::Watch::default(),
            generation: 1,
            health,
            reason: reason.map(str::to_owned),
            instances: 0,
            sessions: 0,
            calls: 0,
            restarts: 0,
            junk_lines: 0,
        }
    }

    #[test]
    fn only_changes_between_ready_and_failing_are_said() {
        let mut said = BTreeMap::new();
        let mut look = |health, reason| news(&mut said, &[server(health, reason)]);
        assert!(look(Health::Starting, None).is_empty());
        assert_eq!(look(Health::Ready, None), ["ready: a speaks dual"]);
        assert!(look(Health::Restarting, Some("exit status 1")).is_empty());
        assert!(look(Health::Ready, None).is_empty());
        let reason = Some("the server a cannot serve: could not be started: there is no program `x`\u{7}");
        let line = "failing: a: could not be started: there is no program `x` ; next: staithe logs a";
        assert_eq!(look(Health::Failing, reason), [line]);
        assert!(look(Health::Starting, None).is_empty() && look(Health::Failing, Some("other")).is_empty());
        assert_eq!(look(Health::Ready, None).len(), 1);
        assert!(look(Health::Stopped, None).is_empty());
        assert_eq!(look(Health::Ready, None).len(), 1);
    }
}
