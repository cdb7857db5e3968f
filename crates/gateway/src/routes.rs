//! The table of public addresses.

use crate::admit::{admit, check_names};
use crate::error::{CallError, GateError};
use crate::listen::Host;
use crate::reply::Body;
use crate::{cors, post, session};
use http::{Method, Request, Response};
use hyper::body::Incoming;
use model::ServerName;
use std::sync::Arc;

/// Answers one request.
pub(crate) async fn answer(host: Arc<Host>, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    if let Err(error) = check_names(&host.settings, &parts) {
        return error.response();
    }
    let origin = cors::origin(&parts);
    if parts.method == Method::OPTIONS {
        return cors::preflight(&parts, origin);
    }
    let mut response = match address(parts.uri.path()) {
        None => GateError::NoSuchPath.response(),
        Some(server) => match admit(&host, &parts, server) {
            Err(error) => error.response(),
            Ok(admitted) => match host.supervisor.hosted(admitted.server()) {
                Err(absent) => CallError::from(absent).response(None),
                Ok(_) => match parts.method {
                    Method::POST => post::post(host, admitted, &parts, body).await,
                    Method::GET => session::stream(host, &admitted, &parts),
                    Method::DELETE => session::end(&host, &admitted, &parts),
                    _ => GateError::Method.response(),
                },
            },
        },
    };
    cors::expose(&mut response, origin);
    response
}

/// The server of `/mcp/<server>`.
fn address(path: &str) -> Option<ServerName> {
    path.strip_prefix("/mcp/")?.parse().ok()
}
