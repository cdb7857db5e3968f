//! The table of public addresses.

use crate::admit::{admit, check_names};
use crate::error::{CallError, GateError};
use crate::listen::Host;
use crate::reply::Body;
use crate::{cors, post, session, sse};
use http::{Method, Request, Response};
use hyper::body::Incoming;
use model::ServerName;
use std::sync::Arc;

/// Answers one request.
pub(crate) async fn answer(host: Arc<Host>, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    if let Err(error) = check_names(&host.settings, &parts) {
        let response = error.response();
        host.meters.answered(response.status());
        return response;
    }
    let origin = cors::origin(&parts);
    if parts.method == Method::OPTIONS {
        return cors::preflight(&parts, origin);
    }
    let mut response = match address(parts.uri.path()) {
        None => GateError::NoSuchPath.response(),
        Some((door, server)) => match admit(&host, &parts, server) {
            Err(error) => error.response(),
            Ok(admitted) => match host.supervisor.hosted(admitted.server()) {
                Err(absent) => CallError::from(absent).response(),
                // Boxed is what calls do not need: it must not make every request's future larger.
                Ok(hosted) => match (door, &parts.method) {
                    (Door::Mcp, &Method::POST) => {
                        post::post(host.clone(), admitted.counted(hosted.meter()), &parts, body).await
                    }
                    (Door::Mcp, &Method::GET) => Box::pin(session::stream(host.clone(), &admitted, &parts)).await,
                    (Door::Mcp, &Method::DELETE) => Box::pin(session::end(&host, &admitted, &parts)).await,
                    (Door::Sse, &Method::POST) => {
                        Box::pin(sse::post(host.clone(), admitted.counted(hosted.meter()), &parts, body)).await
                    }
                    (Door::Sse, &Method::GET) => sse::get(host.clone(), &admitted, &parts),
                    (Door::Mcp, _) => GateError::Method.response(),
                    (Door::Sse, _) => GateError::NoPost.response(),
                },
            },
        },
    };
    host.meters.answered(response.status());
    cors::expose(&mut response, origin);
    response
}

/// Which transport.
#[derive(Clone, Copy, Debug)]
enum Door {
    /// Streamable HTTP.
    Mcp,
    /// HTTP+SSE.
    Sse,
}

/// What `/mcp/<server>` and `/sse/<server>` name.
fn address(path: &str) -> Option<(Door, ServerName)> {
    let (door, name) = match path.strip_prefix("/mcp/") {
        Some(name) => (Door::Mcp, name),
        None => (Door::Sse, path.strip_prefix("/sse/")?),
    };
    Some((door, name.parse().ok()?))
}
