//! `status`, `instances`, `sessions` and readiness: they change nothing.

use crate::commands::server;
use crate::execute::{Parts, Readiness};
use model::report::{Health, ServerReport, StatusReport};
use model::{Problem, Reply, ServerName};

pub(crate) async fn status(parts: &Parts) -> Reply {
    let facts = &parts.facts;
    let ledger = facts.ledger.as_ref().map(|look| (look.0)());
    let taken = ledger.as_ref().is_none_or(|ledger| ledger.refusing.is_none());
    Reply::Status(Box::new(StatusReport {
        version: facts.version.clone(),
        pid: facts.pid,
        started_at_ms: facts.started_at_ms,
        public: facts.public.clone(),
        operator: facts.operator.clone(),
        state_dir: facts.state_dir.clone(),
        auth: facts.auth,
        ready: parts.supervisor.ready() && taken && !parts.stopping.is_cancelled(),
        stopping: parts.stopping.is_cancelled(),
        upgrading: parts.changes.try_read().is_err(),
        resident_bytes: resident_bytes(),
        ledger,
        servers: servers(parts).await,
    }))
}

/// Each server. Of one that is stopped nothing is probed: what an earlier probe found is remembered.
pub(crate) async fn servers(parts: &Parts) -> Vec<ServerReport> {
    let mut servers = parts.supervisor.servers();
    for server in servers.iter_mut().filter(|s| s.health == Health::Stopped && s.verdict.is_none()) {
        let Ok(hosted) = parts.supervisor.hosted(&server.name) else { continue };
        let (verdict, probed_at_ms) = hosted.remembered_verdict().await.unzip();
        (server.verdict, server.probed_at_ms) = (verdict, probed_at_ms);
    }
    servers
}

pub(crate) async fn instances(parts: &Parts, name: Option<&ServerName>) -> Result<Reply, Problem> {
    server::known(parts, name).await?;
    Ok(Reply::Instances(parts.supervisor.instances(name)))
}

pub(crate) async fn sessions(parts: &Parts, name: Option<&ServerName>) -> Result<Reply, Problem> {
    server::known(parts, name).await?;
    Ok(Reply::Sessions(parts.supervisor.sessions(name)))
}

pub(crate) fn readiness(parts: &Parts) -> Readiness {
    let waiting = parts.supervisor.servers().into_iter().filter(|s| !s.health.serves() && s.health != Health::Stopped);
    let waiting = waiting.map(|s| (s.name.into(), s.health.to_string(), s.reason)).collect();
    let ledger = parts.facts.ledger.as_ref().and_then(|look| (look.0)().refusing);
    Readiness { ready: parts.supervisor.ready() && ledger.is_none(), ledger, waiting }
}

/// Resident memory of this process; 0 where the kernel does not say.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let kib = line.split_whitespace().next().and_then(|text| text.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_has_some_memory() {
        assert!(super::resident_bytes() > 100_000);
    }
}
