//! A legacy `initialize`: opens a session and answers with what the server said about itself. The server hears it only
//! when a process starts; a second client, or a second `initialize`, costs it nothing.

use crate::admit::Admitted;
use crate::error::CallError;
use crate::listen::Host;
use crate::modern::fail;
use crate::reply::Reply;
use crate::sse::Channel;
use bytes::Bytes;
use http::HeaderValue;
use std::sync::Arc;
use supervisor::{Lease, Opening, Session};
use wire::bridge::Delivery;
use wire::era::{Era, Revision};
use wire::message::Message;
use wire::scan::{self, Kind, Place};

/// What a client says about itself is kept as long as its session: it must be small.
const OPENING_BYTES: usize = 16 << 10;

/// Starts the work; the answer comes through `reply`.
pub(crate) fn open(host: Arc<Host>, admitted: Admitted, message: Message, revision: Revision, reply: Reply) {
    stdx::task::spawn("initialize", opened(host, admitted, message, revision, reply, None));
}

/// The same for the connection that is to be the session.
pub(crate) fn over(
    host: Arc<Host>,
    admitted: Admitted,
    message: Message,
    revision: Revision,
    reply: Reply,
    channel: Arc<Channel>,
) {
    stdx::task::spawn("initialize", opened(host, admitted, message, revision, reply, Some(channel)));
}

async fn opened(
    host: Arc<Host>,
    admitted: Admitted,
    message: Message,
    revision: Revision,
    mut reply: Reply,
    channel: Option<Arc<Channel>>,
) {
    let id = message.id().unwrap_or_default();
    reply.course().judged(&message);
    reply.course().reads(&message);
    let channel = channel.as_deref();
    let failed = match begin(&host, &admitted, &message, revision, channel).await {
        Err(error) => error,
        Ok(session) => {
            if let Ok(value) = HeaderValue::from_str(session.id()) {
                reply.header("mcp-session-id", value);
            }
            match started(&host, &admitted, &session, &mut reply).await {
                Ok(Some(lease)) if channel.is_none_or(|channel| channel.bind(&session)) => {
                    let greeting = lease.instance().greeting();
                    let body = greeting.map(|g| g.initialize_response(&id, revision, lease.hides_tasks()));
                    lease.release();
                    return reply.finish(Delivery { body: body.unwrap_or_default(), status: 200 }).await;
                }
                // The client left.
                Ok(lease) => {
                    if let Some(lease) = lease {
                        lease.release();
                    }
                    reply.close();
                    return host.supervisor.close_session(&session, admitted.server()).await;
                }
                Err(error) => {
                    host.supervisor.close_session(&session, admitted.server()).await;
                    reply.withdraw("mcp-session-id");
                    error
                }
            }
        }
    };
    if let Some(channel) = channel {
        channel.release();
    }
    fail(reply, &failed, Era::Legacy, Some(&id)).await;
}

async fn begin(
    host: &Host,
    admitted: &Admitted,
    message: &Message,
    revision: Revision,
    channel: Option<&Channel>,
) -> Result<Arc<Session>, CallError> {
    let capabilities = object(message, "capabilities")?;
    let client_info = object(message, "clientInfo")?;
    let opening = Opening {
        server: admitted.server().clone(),
        principal: admitted.principal().clone(),
        client: String::new(),
        revision,
        capabilities: scan::canonical(&capabilities, scan::Span { start: 0, end: capabilities.len() }).into(),
        label: label(&client_info),
        client_info,
        channel: channel.map(|channel| channel.streams().clone()),
    };
    Ok(host.supervisor.open_session(opening).await?)
}

/// A copy of an object among the parameters.
fn object(message: &Message, name: &'static str) -> Result<Bytes, CallError> {
    let member = message.member(Place::Params, name).filter(|m| m.kind == Kind::Object);
    let raw = member.map(|m| message.raw(m.value)).filter(|raw| raw.len() <= OPENING_BYTES);
    raw.map(Bytes::copy_from_slice).ok_or(CallError::Opening(name))
}

/// `name version`, short and printable.
fn label(client_info: &[u8]) -> String {
    let whole = scan::Span { start: 0, end: client_info.len() };
    let text = |wanted: &str| {
        scan::members(client_info, whole)
            .find(|(key, _, kind)| *kind == Kind::String && scan::text(client_info, *key) == wanted)
            .map(|(_, value, _)| scan::text(client_info, value).into_owned())
            .unwrap_or_default()
    };
    let label = format!("{} {}", text("name"), text("version"));
    label.trim().chars().filter(|c| !c.is_control()).take(80).collect()
}

/// An instance that has said its greeting. `None` if the client left meanwhile.
async fn started(
    host: &Host,
    admitted: &Admitted,
    session: &Arc<Session>,
    reply: &mut Reply,
) -> Result<Option<Lease>, CallError> {
    let hosted = host.supervisor.hosted(admitted.server())?;
    let starting = async {
        let era = hosted.era_for(Era::Legacy).await?;
        let lease = hosted.lease(session.caller(), Some(session), era).await?;
        lease.heard().await;
        Ok::<_, supervisor::Absent>(lease)
    };
    reply.awake(&host.settings.limits, true, starting).await.transpose().map_err(CallError::from)
}
