//! `logs`: the last lines, then the new ones if asked.

use crate::commands::server;
use crate::execute::Parts;
use crate::follow::LogFollow;
use crate::problem;
use model::{Problem, ServerName};

pub(crate) async fn logs(parts: &Parts, name: &ServerName, lines: u32, follow: bool) -> Result<LogFollow, Problem> {
    let Some(log) = parts.supervisor.log(name) else {
        server::known(parts, Some(name)).await?;
        return Err(problem::not_found(
            format!("the server {name} has no log yet"),
            "call it once, or look again later",
        ));
    };
    let live = follow.then(|| log.follow());
    Ok(LogFollow::new(log.tail(usize::try_from(lines).unwrap_or(usize::MAX)), live))
}
