//! Requests within a legacy session: calls, notifications, answers to the server, the GET stream, and the end.

use crate::admit::Admitted;
use crate::call::{Asked, call};
use crate::deadline::Deadline;
use crate::error::{CallError, GateError};
use crate::feed::{self, Hello};
use crate::listen::Host;
use crate::modern::fail;
use crate::post::single;
use crate::reply::{Accepts, Body, Reply, empty, json};
use crate::subscribe;
use crate::tools::Mirrored;
use http::request::Parts;
use http::{Response, StatusCode};
use std::sync::Arc;
use supervisor::{Level, Session};
use wire::bridge;
use wire::era::Era;
use wire::message::{Message, Shape};
use wire::method;
use wire::scan::Place;

/// The session that a header names, if it is this caller's.
pub(crate) async fn find(host: &Host, admitted: &Admitted, id: &[u8]) -> Result<Option<Arc<Session>>, GateError> {
    let Ok(id) = std::str::from_utf8(id) else { return Ok(None) };
    let found = host.supervisor.session(id, admitted.principal(), "", admitted.server()).await.map_err(|error| {
        tracing::warn!(server = %admitted.server(), error = %stdx::chain::Chain(&error), "a session could not be looked up");
        GateError::from(error)
    })?;
    // A session that is a connection has no name that a request could use.
    Ok(found.filter(|session| !session.is_channel()))
}

/// One message of a session. `None` where the answer comes through `reply`.
pub(crate) async fn one(
    host: Arc<Host>,
    admitted: &Admitted,
    session: Arc<Session>,
    message: Message,
    reply: Reply,
) -> Option<Response<Body>> {
    match message.shape() {
        Shape::Request => request(host, admitted, session, message, reply).await,
        Shape::Notification => {
            Box::pin(notification(&host, admitted, &session, &message)).await;
            Some(empty(StatusCode::ACCEPTED))
        }
        Shape::Success | Shape::Failure => {
            if !session.answer(&message) {
                host.supervisor.tell_predecessor(session.id(), &message);
            }
            Some(empty(StatusCode::ACCEPTED))
        }
    }
}

/// A request of a session. What staithe answers itself, it answers at once.
pub(crate) async fn request(
    host: Arc<Host>,
    admitted: &Admitted,
    session: Arc<Session>,
    message: Message,
    mut reply: Reply,
) -> Option<Response<Body>> {
    let mut level = None;
    reply.course().reads(&message);
    // Boxed, all of it: calls come this way too, and need none of it.
    match message.method() {
        // A ping asks about the connection, and the client's connection ends here (E206).
        "ping" => {
            Box::pin(reply.finish(empty_result(&message))).await;
            return None;
        }
        "logging/setLevel" => match message.text(Place::Params, "level").as_deref().map(Level::parse) {
            Some(Some(wanted)) => {
                Box::pin(session.set_level(wanted)).await;
                // A modern server hears the level with each request instead (B14).
                match Box::pin(takes_levels(&host, admitted, &session)).await {
                    Some(true) => {
                        Box::pin(reply.finish(empty_result(&message))).await;
                        return None;
                    }
                    Some(false) => {
                        Box::pin(fail(reply, &CallError::NoLogging, Era::Legacy, message.id().as_deref())).await;
                        return None;
                    }
                    None => {}
                }
                level = Some(wanted);
            }
            unknown => {
                let name = unknown.and(message.text(Place::Params, "level")).unwrap_or_default().into_owned();
                Box::pin(fail(reply, &CallError::Level(name), Era::Legacy, message.id().as_deref())).await;
                return None;
            }
        },
        method @ ("resources/subscribe" | "resources/unsubscribe") => {
            let wanted = method == "resources/subscribe";
            subscribe::change(host, admitted, session, message, wanted, reply);
            return None;
        }
        // A modern server would take it for a request of its own era.
        modern if method::find(modern).is_some_and(|row| !row.legacy) => {
            Box::pin(fail(reply, &CallError::NotInSession(modern.to_owned()), Era::Legacy, message.id().as_deref()))
                .await;
            return None;
        }
        _ => {}
    }
    spawn_call(host, admitted, session, message, level, reply);
    None
}

fn spawn_call(
    host: Arc<Host>,
    admitted: &Admitted,
    session: Arc<Session>,
    message: Message,
    level: Option<Level>,
    mut reply: Reply,
) {
    let permit = host.shares.permit(admitted);
    reply.course().judged(&message);
    stdx::task::spawn("legacy call", async move {
        let permit = match permit {
            Ok(permit) => permit,
            Err(error) => return fail(reply, &error, Era::Legacy, message.id().as_deref()).await,
        };
        let asked = Asked {
            mirrored: Mirrored::default(),
            caller: session.caller().clone(),
            session: Some(session),
            level,
            // A legacy client that loses its connection has not cancelled anything (E78).
            leaving_cancels: false,
            timeout: Some(Deadline::fixed(host.settings.limits.call_timeout)),
            message,
        };
        call(host, permit, Box::new(asked), reply).await;
    });
}

/// Whether a modern server logs. `None` where a legacy one is asked, or none can serve: the call says why.
async fn takes_levels(host: &Host, admitted: &Admitted, session: &Arc<Session>) -> Option<bool> {
    let hosted = host.supervisor.hosted(admitted.server()).ok()?;
    if hosted.era_for(Era::Legacy).await.ok()? == Era::Legacy {
        return None;
    }
    let lease = hosted.lease(session.caller(), Some(session), Era::Modern).await.ok()?;
    let logs = lease.instance().greeting().is_some_and(|greeting| greeting.has("logging"));
    lease.release();
    Some(logs)
}

/// A notification of the client.
pub(crate) async fn notification(host: &Host, admitted: &Admitted, session: &Arc<Session>, message: &Message) {
    // The process heard its own `initialized` when it started.
    if message.method() == "notifications/initialized" {
        return;
    }
    let Ok(hosted) = host.supervisor.hosted(admitted.server()) else { return };
    if message.method() == "notifications/cancelled" {
        if let Some(id) = message.member(Place::Params, "requestId") {
            let reason = message.text(Place::Params, "reason").unwrap_or_default();
            hosted.cancel(session, message.raw(id.value), &reason);
            host.supervisor.tell_predecessor(session.id(), message);
        }
        return;
    }
    let Ok(era) = hosted.era_for(Era::Legacy).await else { return };
    let Ok(lease) = hosted.lease(session.caller(), Some(session), era).await else { return };
    if era == Era::Legacy && !lease.shared() {
        let mut line = Vec::new();
        bridge::notification_line(&mut line, message);
        if let Err(stalled) = lease.instance().send(line) {
            tracing::info!(server = %admitted.server(), error = %stalled, "a client's notification was lost");
        }
    }
    lease.release();
}

fn empty_result(message: &Message) -> bridge::Delivery {
    let mut body = br#"{"jsonrpc":"2.0","id":"#.to_vec();
    body.extend_from_slice(&message.id().unwrap_or_default());
    body.extend_from_slice(br#","result":{}}"#);
    bridge::Delivery { body, status: 200 }
}

/// A GET: the stream of what the server says without being asked, or with `Last-Event-ID` the rest of a stream whose
/// connection broke (E130).
pub(crate) async fn stream(host: Arc<Host>, admitted: &Admitted, parts: &Parts) -> Response<Body> {
    let session = match named(&host, admitted, parts).await {
        Ok(Some(session)) => session,
        Ok(None) => return GateError::NoStreamWithoutSession.response(),
        Err(error) => return error.response(),
    };
    if !Accepts::of(&parts.headers).events {
        return GateError::NoEvents.response();
    }
    let place = match host.shares.stream(admitted) {
        Ok(place) => place,
        Err(error) => return error.response(),
    };
    let reader = match single(&parts.headers, "last-event-id") {
        Ok(None) => session.open_stream().await,
        Ok(Some(last)) => match host.supervisor.resume(&session, &last).await {
            Ok(reader) => reader,
            Err(not_kept) => return GateError::from(not_kept).response(),
        },
        Err(error) => return error.response(),
    };
    feed::session(host, admitted.token().cloned(), session, reader, Hello::Comment, Some(place))
}

/// DELETE: the client ends its session (E122).
pub(crate) async fn end(host: &Host, admitted: &Admitted, parts: &Parts) -> Response<Body> {
    match named(host, admitted, parts).await {
        Ok(Some(session)) => {
            host.supervisor.close_session(&session, admitted.server()).await;
            json(StatusCode::OK, b"{}".to_vec())
        }
        Ok(None) => GateError::NoStreamWithoutSession.response(),
        Err(error) => error.response(),
    }
}

/// The session that a GET or DELETE names; `None` without the header.
async fn named(host: &Host, admitted: &Admitted, parts: &Parts) -> Result<Option<Arc<Session>>, GateError> {
    let Some(id) = single(&parts.headers, "mcp-session-id")? else { return Ok(None) };
    let session = find(host, admitted, &id).await?.ok_or(GateError::NoSuchSession)?;
    session.touch();
    Ok(Some(session))
}
