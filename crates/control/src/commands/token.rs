//! `access` and `token …`.

use crate::commands::server;
use crate::execute::Parts;
use crate::problem;
use model::report::TokenReport;
use model::{Principal, Problem, Reply, ServerName, TokenRecord};
use oauth::Opens;

/// How long the token for one call by the operator lives, seconds.
const CALL_S: u64 = 60;

pub(crate) async fn access(parts: &Parts, name: &ServerName) -> Result<Reply, Problem> {
    server::known(parts, Some(name)).await?;
    let url = format!("{}/mcp/{name}", parts.facts.local);
    if !parts.facts.auth {
        return Ok(Reply::Access { url, token: None });
    }
    let minted = parts.authority.mint_ephemeral(Principal::operator(), name.clone(), CALL_S);
    let minted = minted.map_err(|error| problem::failed("make a token for the call", error.blame(), &error))?;
    Ok(Reply::Access { url, token: Some(minted.token.into_exposed()) })
}

pub(crate) async fn create(
    parts: &Parts,
    principal: Principal,
    name: Option<ServerName>,
    expires_in_s: Option<u64>,
    audit: bool,
) -> Result<Reply, Problem> {
    if audit && name.is_some() {
        let hint = "make two tokens".to_owned();
        return Err(problem::usage("a token opens the ledger or servers, not both".to_owned(), Some(hint)));
    }
    server::known(parts, name.as_ref()).await?;
    if principal == Principal::anonymous() || principal == Principal::operator() {
        let hint = "choose the name of a person or a program".to_owned();
        return Err(problem::usage(format!("the principal {principal} is staithe's own"), Some(hint)));
    }
    let opens = match name {
        _ if audit => Opens::Ledger,
        None => Opens::EveryServer,
        Some(name) => Opens::Server(name),
    };
    let minted = parts.authority.mint_for(principal, opens, expires_in_s).await;
    let minted = minted.map_err(|error| problem::failed("make a token", error.blame(), &error))?;
    let report = report(minted.record);
    Ok(Reply::TokenCreated { token: minted.token.into_exposed(), report })
}

pub(crate) fn list(parts: &Parts) -> Reply {
    Reply::Tokens(parts.authority.list().into_iter().map(report).collect())
}

pub(crate) async fn revoke(parts: &Parts, given: &str) -> Result<Reply, Problem> {
    let id = problem::token_id(given);
    match parts.authority.revoke(&id).await {
        Ok(true) => Ok(Reply::Done { text: format!("the token {id} is refused from now on") }),
        Ok(false) => Err(problem::not_found(format!("there is no token {id:?}"), "`staithe token list` shows the ids")),
        Err(error) => Err(problem::failed("revoke the token", error.blame(), &error)),
    }
}

fn report(record: TokenRecord) -> TokenReport {
    let TokenRecord { id, principal, server, audit, created_at_ms, expires_at_ms, revoked_at_ms, hash: _ } = record;
    TokenReport { id, principal, server, audit, created_at_ms, expires_at_ms, revoked_at_ms }
}
