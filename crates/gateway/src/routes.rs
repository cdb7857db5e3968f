//! The table of public addresses.

use crate::admit::{Admitted, Requester, admit, check_names};
use crate::denied::{Denial, TurnedAway};
use crate::error::{CallError, GateError};
use crate::listen::Host;
use crate::reply::Body;
use crate::{audit, cors, post, session, sse};
use http::request::Parts;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use model::ServerName;
use std::sync::Arc;

/// Answers one request.
pub(crate) async fn answer(host: Arc<Host>, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    if let Err(error) = check_names(&host.settings, &parts) {
        let mut response = error.response();
        host.meters.answered(response.status());
        note(&host, parts.uri.path(), None, &mut response);
        return response;
    }
    let origin = cors::origin(&parts);
    if parts.method == Method::OPTIONS {
        return cors::preflight(&parts, origin);
    }
    let mut requester = None;
    let mut response = match address(parts.uri.path()) {
        None if parts.uri.path().starts_with(audit::ROOT) => Box::pin(audit::answer(&host, &parts)).await,
        None => GateError::NoSuchPath.response(),
        Some((door, server)) => match admit(&host, &parts, server) {
            Err(error) => error.response(),
            Ok(admitted) => {
                requester = Some(admitted.requester().clone());
                served(&host, door, admitted, &parts, body).await
            }
        },
    };
    host.meters.answered(response.status());
    note(&host, parts.uri.path(), requester, &mut response);
    cors::expose(&mut response, origin);
    response
}

async fn served(host: &Arc<Host>, door: Door, admitted: Admitted, parts: &Parts, body: Incoming) -> Response<Body> {
    let hosted = match host.supervisor.hosted(admitted.server()) {
        Ok(hosted) => hosted,
        Err(absent) => return CallError::from(absent).response(),
    };
    // Boxed is what calls do not need: it must not make every request's future larger.
    match (door, &parts.method) {
        (Door::Mcp, &Method::POST) => post::post(host.clone(), admitted.counted(hosted.meter()), parts, body).await,
        (Door::Mcp, &Method::GET) => Box::pin(session::stream(host.clone(), &admitted, parts)).await,
        (Door::Mcp, &Method::DELETE) => Box::pin(session::end(host, &admitted, parts)).await,
        (Door::Sse, &Method::POST) => {
            Box::pin(sse::post(host.clone(), admitted.counted(hosted.meter()), parts, body)).await
        }
        (Door::Sse, &Method::GET) => sse::get(host.clone(), &admitted, parts),
        (Door::Mcp, _) => GateError::Method.response(),
        (Door::Sse, _) => GateError::NoPost.response(),
    }
}

/// Notes in the ledger that a request for a server was turned away, where the response says so.
pub(crate) fn note(host: &Host, path: &str, requester: Option<Arc<Requester>>, response: &mut Response<Body>) {
    let (Some(TurnedAway { reason, whose }), Some(book)) = (TurnedAway::of(response), &host.settings.book) else {
        return;
    };
    // What is not for a server is nobody's call.
    let Some((_, server)) = door(path) else { return };
    let whose = whose.map(|whose| *whose).or_else(|| requester.map(|requester| requester.whose()));
    book.turned_away(Denial { whose, server: server.to_owned(), reason, method: None, name: None });
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
    let (door, name) = door(path)?;
    Some((door, name.parse().ok()?))
}

/// The same, whatever is named.
fn door(path: &str) -> Option<(Door, &str)> {
    match path.strip_prefix("/mcp/") {
        Some(name) => Some((Door::Mcp, name)),
        None => Some((Door::Sse, path.strip_prefix("/sse/")?)),
    }
}
