//! A 2026-07-28 request: stateless, its metadata in its body, served by the warm process of its isolation key.

use crate::admit::Admitted;
use crate::call::{Asked, call};
use crate::deadline::Deadline;
use crate::error::CallError;
use crate::held::{self, Came, Retrying};
use crate::listen::Host;
use crate::permit::Permit;
use crate::reply::Reply;
use crate::subscribe;
use crate::tools::Mirrored;
use bytes::Bytes;
use std::sync::Arc;
use supervisor::{Absent, Caller, Hosted, Level, Outcome};
use wire::ask;
use wire::bridge::Delivery;
use wire::era::Era;
use wire::message::Message;
use wire::method;
use wire::scan::{Kind, Place};

const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const DISCOVER: &str = "server/discover";
const LISTEN: &str = "subscriptions/listen";

/// Starts the work on a request; the answer comes through `reply`.
pub(crate) fn request(host: Arc<Host>, admitted: &Admitted, message: Message, mirrored: Mirrored, mut reply: Reply) {
    let permit = host.shares.permit(admitted);
    reply.course().judged(&message);
    reply.course().reads(&message);
    let admitted = admitted.clone();
    stdx::task::spawn("modern call", async move {
        let id = message.id();
        let outcome = match permit {
            Ok(permit) => {
                match reply.awake(&host.settings.limits, true, prepared(&host, &admitted, message, mirrored)).await {
                    Some(prepared) => prepared.map(|prepared| (permit, prepared)),
                    None => return reply.close(),
                }
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok((permit, Prepared::Call(asked))) => serve(host, &admitted, permit, asked, reply).await,
            // Boxed, as all that is seldom needed: it must not make every call's task larger.
            Ok((permit, Prepared::Retry(retry))) => Box::pin(retry.attach(permit, reply)).await,
            Ok((_, Prepared::Answer(delivery))) => Box::pin(reply.finish(delivery)).await,
            Err(error) => Box::pin(fail(reply, &error, Era::Modern, id.as_deref())).await,
        }
    });
}

enum Prepared {
    Call(Box<Asked>),
    /// It belongs to a call that is held.
    Retry(Box<Retrying>),
    /// staithe knows the answer itself.
    Answer(Delivery),
}

/// A subscription is a long stream and counts as one.
async fn serve(host: Arc<Host>, admitted: &Admitted, permit: Permit, asked: Box<Asked>, mut reply: Reply) {
    if asked.timeout.is_some() {
        return call(host, permit, asked, reply).await;
    }
    reply.lasts();
    match host.shares.stream(admitted) {
        Ok(_place) => Box::pin(subscribe::listen(host.clone(), permit, *asked, reply)).await,
        Err(error) => {
            let body =
                wire::code::error_body(asked.message.id().as_deref(), wire::code::INTERNAL, &error.to_string(), None);
            if let Some(value) = error.retry_header() {
                reply.header("retry-after", value);
            }
            reply.course().failed(Outcome::CallerError, error.name());
            Box::pin(reply.finish(Delivery { body, status: 503 })).await;
        }
    }
}

async fn prepared(
    host: &Host,
    admitted: &Admitted,
    message: Message,
    mirrored: Mirrored,
) -> Result<Prepared, CallError> {
    let level = level(&message)?;
    let hosted = host.supervisor.hosted(admitted.server())?;
    let mut caller = caller(admitted);
    let known = method::find(message.method());
    // A modern server decides for itself which methods it knows; only in front of a legacy one the table decides.
    if hosted.era_for(Era::Modern).await? == Era::Legacy {
        caller.profile = declared(&message)?;
        if message.method() == DISCOVER {
            return Box::pin(discover(&hosted, &caller, &message)).await;
        }
        if message.method() != LISTEN && known.is_some_and(|m| !m.legacy || !m.modern) {
            return Err(CallError::UnknownMethod(message.method().to_owned()));
        }
        if ask::may_ask(&message)
            && let Some(Came::Back(retry)) = held::retry(host, admitted, &caller, &message, level)?
        {
            return Ok(Prepared::Retry(retry));
        }
    }
    let timeout = (message.method() != LISTEN).then_some(Deadline::fixed(host.settings.limits.call_timeout));
    let asked = Asked { message, caller, session: None, level, mirrored, leaving_cancels: true, timeout };
    Ok(Prepared::Call(Box::new(asked)))
}

/// What a legacy server said at its handshake, as a modern client reads it (B1).
async fn discover(hosted: &Arc<Hosted>, caller: &Caller, message: &Message) -> Result<Prepared, CallError> {
    let lease = hosted.lease(caller, None, Era::Legacy).await?;
    let body = lease.instance().greeting().map(|g| g.discover_response(&message.id().unwrap_or_default()));
    lease.release();
    Ok(Prepared::Answer(Delivery { body: body.unwrap_or_default(), status: 200 }))
}

/// What a client says about itself with each request must be small: legacy processes are told apart by it.
const PROFILE_BYTES: usize = 16 << 10;

/// What the client of this request can do, as a legacy process is told it once. (B4)
pub(crate) fn declared(message: &Message) -> Result<Bytes, CallError> {
    let wrong = || CallError::Opening("clientCapabilities");
    let member = message.member(Place::Meta, CAPABILITIES).filter(|m| m.kind == Kind::Object).ok_or_else(wrong)?;
    match message.raw(member.value) {
        b"{}" => Ok(Bytes::from_static(b"{}")),
        raw if raw.len() > PROFILE_BYTES => Err(wrong()),
        raw => Ok(ask::profile(raw).into()),
    }
}

/// Modern processes are told what a client can do with each request, so it does not tell them apart.
fn caller(admitted: &Admitted) -> Caller {
    Caller {
        principal: admitted.principal().clone(),
        client: String::new(),
        session: None,
        profile: Bytes::from_static(b"{}"),
        client_info: None,
    }
}

/// The log level that the request asks for (E193, E194).
fn level(message: &Message) -> Result<Option<Level>, CallError> {
    let Some(member) = message.member(Place::Meta, LOG_LEVEL) else { return Ok(None) };
    let name = match member.kind {
        Kind::String => message.text(Place::Meta, LOG_LEVEL).unwrap_or_default().into_owned(),
        _ => String::from_utf8_lossy(message.raw(member.value)).chars().take(40).collect(),
    };
    Level::parse(&name).map(Some).ok_or(CallError::Level(name))
}

/// Ends a reply to a client of `era` with an error of ours.
pub(crate) async fn fail(mut reply: Reply, error: &CallError, era: Era, id: Option<&[u8]>) {
    if let Some(value) = error.retry_header(era) {
        reply.header("retry-after", value);
    }
    if matches!(error, CallError::Absent(Absent::Moved)) {
        reply.moved();
    }
    reply.course().failed(error.outcome(), error.name());
    reply.finish(error.delivery(era, id)).await;
}
