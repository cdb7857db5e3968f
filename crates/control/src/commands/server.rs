//! `restart`, `stop`, `start`, `remove`.

use crate::execute::{HostKind, Parts};
use crate::problem;
use model::report::{Health, InstanceReport};
use model::{Problem, Reply, ServerName, ServerSpec};

/// Fails where a server is named that the store does not know.
pub(crate) async fn known(parts: &Parts, name: Option<&ServerName>) -> Result<(), Problem> {
    match name {
        Some(name) => stored(parts, name).await.map(drop),
        None => Ok(()),
    }
}

async fn stored(parts: &Parts, name: &ServerName) -> Result<ServerSpec, Problem> {
    match parts.store.server(name).await {
        Ok(Some(spec)) => Ok(spec),
        Ok(None) => Err(problem::no_server(name)),
        Err(error) => Err(problem::failed("look the server up", error.blame(), &error)),
    }
}

/// Fails where what is stored is only the one server of the host's command line: a change would be lost.
pub(crate) fn keeps_servers(parts: &Parts) -> Result<(), Problem> {
    match parts.facts.kind {
        HostKind::Serve => Ok(()),
        kind @ (HostKind::Run | HostKind::Demo) => Err(problem::refused(
            format!("a `staithe {kind}` holds this state directory; it hosts one server only"),
            "stop it, or use another --state-dir".to_owned(),
        )),
    }
}

pub(crate) async fn restart(parts: &Parts, name: &ServerName) -> Result<Reply, Problem> {
    let spec = stored(parts, name).await?;
    if !spec.enabled {
        return Err(problem::refused(
            format!("cannot restart {name}: it is stopped"),
            format!("`staithe start {name}` starts it"),
        ));
    }
    let waits = |i: &InstanceReport| i.health.is_broken() || matches!(i.health, Health::Restarting | Health::Wedged);
    let waited_for = parts.supervisor.instances(Some(name)).iter().any(waits);
    match parts.supervisor.restart(name).await {
        Ok(count) => Ok(done(match count {
            0 if waited_for => format!("{name} is started anew: its last process had ended"),
            0 if spec.spares() > 0 => {
                format!("{name} had no process in use: its spares are started anew, any other with the next call")
            }
            0 => format!("{name} had no process: one starts with the next call"),
            1 => format!("{name} was restarted: 1 process was replaced"),
            count => format!("{name} was restarted: {count} processes were replaced"),
        })),
        Err(_not_hosted) => Err(problem::unhealthy(
            format!("cannot restart {name}: it is not hosted yet"),
            "try again; `staithe status` shows when it is".to_owned(),
        )),
    }
}

pub(crate) async fn switch(parts: &Parts, name: &ServerName, enabled: bool) -> Result<Reply, Problem> {
    let already = stored(parts, name).await?.enabled == enabled;
    let tried = if enabled { "start the server" } else { "stop the server" };
    let found = parts.store.set_enabled(name, enabled).await;
    if found.map_err(|error| problem::failed(tried, error.blame(), &error))?.is_none() {
        return Err(problem::no_server(name));
    }
    reconcile(parts).await?;
    Ok(done(match (enabled, already) {
        (true, false) => format!("{name} takes calls again"),
        (true, true) => format!("{name} is started already"),
        (false, false) => format!("{name} is stopped: its calls are refused until `staithe start {name}`"),
        (false, true) => format!("{name} is stopped already"),
    }))
}

pub(crate) async fn remove(parts: &Parts, name: &ServerName) -> Result<Reply, Problem> {
    stored(parts, name).await?;
    keeps_servers(parts)?;
    let removed = parts.store.remove_server(name).await;
    if !removed.map_err(|error| problem::failed("remove the server", error.blame(), &error))? {
        return Err(problem::no_server(name));
    }
    reconcile(parts).await?;
    Ok(done(format!("{name} was removed; its files are left in servers/{name} of the state directory")))
}

/// Tells the supervisor that the desired state changed. The change is stored already: a failure here is only late.
pub(crate) async fn reconcile(parts: &Parts) -> Result<(), Problem> {
    parts.supervisor.reconcile().await.map_err(|error| {
        let mut problem = problem::failed("apply the change yet", model::Blame::Host, &error);
        problem.hint = Some("the change is stored and will be applied; `staithe status` shows when".to_owned());
        problem
    })
}

fn done(text: String) -> Reply {
    Reply::Done { text }
}
