//! `restart`, `stop`, `start`, `remove`.

use crate::execute::Parts;
use crate::problem;
use model::{Problem, Reply, ServerName};

/// Fails where a server is named that the store does not know.
pub(crate) async fn known(parts: &Parts, name: Option<&ServerName>) -> Result<(), Problem> {
    let Some(name) = name else { return Ok(()) };
    match parts.store.server(name).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(problem::no_server(name)),
        Err(error) => Err(problem::failed("look the server up", error.blame(), &error)),
    }
}

pub(crate) async fn restart(parts: &Parts, name: &ServerName) -> Result<Reply, Problem> {
    known(parts, Some(name)).await?;
    match parts.supervisor.restart(name).await {
        Ok(count) => Ok(done(match count {
            0 => format!("{name} had no process: one starts with the next call"),
            1 => format!("{name} was restarted: 1 process was replaced"),
            count => format!("{name} was restarted: {count} processes were replaced"),
        })),
        Err(_not_hosted) => Err(problem::unhealthy(
            format!("cannot restart {name}: it is stopped, or not hosted by this process"),
            format!("`staithe start {name}` lets it run"),
        )),
    }
}

pub(crate) async fn switch(parts: &Parts, name: &ServerName, enabled: bool) -> Result<Reply, Problem> {
    let tried = if enabled { "start the server" } else { "stop the server" };
    let found = parts.store.set_enabled(name, enabled).await;
    if found.map_err(|error| problem::failed(tried, error.blame(), &error))?.is_none() {
        return Err(problem::no_server(name));
    }
    reconcile(parts).await?;
    Ok(done(match enabled {
        true => format!("{name} takes calls again"),
        false => format!("{name} is stopped: its calls are refused until `staithe start {name}`"),
    }))
}

pub(crate) async fn remove(parts: &Parts, name: &ServerName) -> Result<Reply, Problem> {
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
