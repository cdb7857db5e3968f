//! HTTP+SSE, the transport of 2024-11-05: one GET is the whole session. Its first event says where to POST; what is posted
//! is answered with 202, and everything that comes back, comes down the stream. When the connection ends, so does the
//! session. (E80–E86, B41)

use crate::admit::Admitted;
use crate::error::{GateError, refused};
use crate::feed::Feed;
use crate::listen::Host;
use crate::post::{read, single};
use crate::reply::{Accepts, Body, Reply, empty, stream};
use crate::timing::Course;
use crate::{open, session};
use http::request::Parts;
use http::{Response, StatusCode};
use hyper::body::Incoming as HttpBody;
use model::{Principal, ServerName};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use supervisor::{Reader, Session, Streams, Writer};
use tokio::sync::OwnedSemaphorePermit;
use wire::classify::{Headers, Incoming, SessionHeader, classify};
use wire::message::Message;
use wire::sse;

/// A connection on which nobody says `initialize` ends.
const UNUSED: Duration = Duration::from_secs(60);
/// What a client has begun may finish for so long after its connection ended; then it is taken back.
const GRACE: Duration = Duration::from_secs(3);

/// The open connections, by the name that their POSTs use. Each holds a connection and a place among its principal's
/// streams, which bounds them.
#[derive(Debug, Default)]
pub(crate) struct Channels {
    by_id: Mutex<HashMap<String, Arc<Channel>>>,
}

/// One connection. Its name is an address and no credential (E84).
#[derive(Debug)]
pub(crate) struct Channel {
    principal: Principal,
    server: ServerName,
    streams: Arc<Streams>,
    writer: Writer,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// `initialize` is awaited.
    Fresh,
    /// It is being answered.
    Opening,
    Open(Arc<Session>),
    /// The connection is gone.
    Closed,
}

impl Channel {
    /// Claims the one `initialize`.
    fn claim(&self) -> bool {
        let mut state = self.state();
        let fresh = matches!(*state, State::Fresh);
        if fresh {
            *state = State::Opening;
        }
        fresh
    }

    /// The session is open. False if the connection is gone already: nobody would end the session.
    pub(crate) fn bind(&self, session: &Arc<Session>) -> bool {
        let mut state = self.state();
        let awaited = matches!(*state, State::Opening);
        if awaited {
            *state = State::Open(session.clone());
        }
        awaited
    }

    /// `initialize` failed; the client may try again.
    pub(crate) fn release(&self) {
        let mut state = self.state();
        if matches!(*state, State::Opening) {
            *state = State::Fresh;
        }
    }

    /// What all its answers go down.
    pub(crate) fn streams(&self) -> &Arc<Streams> {
        &self.streams
    }

    fn session(&self) -> Option<Arc<Session>> {
        if let State::Open(session) = &*self.state() { Some(session.clone()) } else { None }
    }

    fn close(&self) -> Option<Arc<Session>> {
        match std::mem::replace(&mut *self.state(), State::Closed) {
            State::Open(session) => Some(session),
            State::Fresh | State::Opening | State::Closed => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Channels {
    fn add(&self, admitted: &Admitted) -> Result<(String, Arc<Channel>, Reader), GateError> {
        let id = stdx::random::handle().map_err(|_| GateError::NoRandomness)?;
        let (streams, writer, reader) = Streams::channel();
        let channel = Arc::new(Channel {
            principal: admitted.principal().clone(),
            server: admitted.server().clone(),
            streams,
            writer,
            state: Mutex::new(State::Fresh),
        });
        self.by_id().insert(id.clone(), channel.clone());
        Ok((id, channel, reader))
    }

    /// The connection, if it is this principal's to this server. Another's looks like none.
    fn find(&self, id: &str, admitted: &Admitted) -> Result<Arc<Channel>, GateError> {
        let own = |c: &&Arc<Channel>| c.principal == *admitted.principal() && c.server == *admitted.server();
        self.by_id().get(id).filter(own).cloned().ok_or(GateError::NoSuchSession)
    }

    fn remove(&self, id: &str) {
        let mut all = self.by_id();
        all.remove(id);
        // A table that was large once need not stay so.
        if all.capacity() > 64 && all.len() < all.capacity() / 4 {
            all.shrink_to_fit();
        }
    }

    fn by_id(&self) -> MutexGuard<'_, HashMap<String, Arc<Channel>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// GET: opens a connection, and says where its POSTs go.
pub(crate) fn get(host: Arc<Host>, admitted: &Admitted, parts: &Parts) -> Response<Body> {
    if !Accepts::of(&parts.headers).events {
        return GateError::NoEvents.response();
    }
    let place = match host.shares.stream(admitted) {
        Ok(place) => place,
        Err(error) => return error.response(),
    };
    let (id, channel, reader) = match host.channels.add(admitted) {
        Ok(added) => added,
        Err(error) => return error.response(),
    };
    let (events, response) = stream();
    let token = admitted.token().cloned();
    stdx::task::spawn("HTTP+SSE connection", async move {
        let mut reader = reader;
        // Relative, so that it is of the same origin behind whatever stands in front of us (E81, E83).
        let first = sse::endpoint(&format!("/sse/{}?session={id}", channel.server));
        let feed = Feed { host: &host, token: token.as_ref(), ids: false, poll_after: None };
        tokio::select! {
            () = feed.carry(&mut reader, &events, first.into()) => {}
            () = unused(&channel) => {}
        }
        drop(events);
        end(&host, &id, &channel, reader, place).await;
    });
    response
}

/// Resolves if no session was opened in time.
async fn unused(channel: &Channel) {
    tokio::time::sleep(UNUSED).await;
    if !matches!(*channel.state(), State::Fresh) {
        std::future::pending::<()>().await;
    }
}

/// The connection is over: no POST finds it any more, and its calls end after a short while.
async fn end(host: &Host, id: &str, channel: &Channel, reader: Reader, place: OwnedSemaphorePermit) {
    host.channels.remove(id);
    let session = channel.close();
    reader.leave();
    channel.streams.end();
    drop(place);
    if let Some(session) = session {
        host.supervisor.end_session(&session);
        let _ = tokio::time::timeout(GRACE, host.stopping.cancelled()).await;
        host.supervisor.close_session(&session, &channel.server).await;
    }
}

/// POST: one message for a connection, or a batch. The answer comes down the connection.
pub(crate) async fn post(host: Arc<Host>, admitted: Admitted, parts: &Parts, body: HttpBody) -> Response<Body> {
    match receive(&host, &admitted, parts, body).await {
        Err(error) => error.response(),
        Ok((channel, session, incoming)) => match incoming {
            Err(refusal) => refused(&refusal),
            Ok(incoming) => take(host, admitted, channel, session, incoming).await,
        },
    }
}

type Received = (Arc<Channel>, Option<Arc<Session>>, Result<Incoming, wire::classify::Refusal>);

async fn receive(host: &Host, admitted: &Admitted, parts: &Parts, body: HttpBody) -> Result<Received, GateError> {
    // Newer clients POST here first to see which transport this is (E86).
    let id = named(parts.uri.query()).ok_or(GateError::NoPost)?;
    let channel = host.channels.find(id, admitted)?;
    let version = single(&parts.headers, "mcp-protocol-version")?;
    let body = read(host, parts, body).await?;
    let session = channel.session();
    let known = session.as_ref().map_or(SessionHeader::Absent, |session| SessionHeader::Known(session.revision()));
    let headers = Headers { version: version.as_deref(), method: None, name: None, session: known };
    let incoming = classify(body, &headers, &host.settings.limits.scan());
    Ok((channel, session, incoming))
}

/// The value of `session` in a query.
fn named(query: Option<&str>) -> Option<&str> {
    query?.split('&').find_map(|pair| pair.strip_prefix("session="))
}

async fn take(
    host: Arc<Host>,
    admitted: Admitted,
    channel: Arc<Channel>,
    session: Option<Arc<Session>>,
    incoming: Incoming,
) -> Response<Body> {
    let reply = || Reply::channel(channel.writer.clone(), &host.settings.limits).followed(Course::of(&host, &admitted));
    let messages: Vec<Message> = match incoming {
        Incoming::Modern(_) | Incoming::ModernNotification(_) => return GateError::ModernOverSse.response(),
        Incoming::Open { message, revision } => {
            if !channel.claim() {
                return GateError::Initialized.response();
            }
            let reply = reply();
            open::over(host, admitted, message, revision, reply, channel);
            return empty(StatusCode::ACCEPTED);
        }
        Incoming::InSession(message) => vec![message],
        Incoming::Batch(messages) => messages,
    };
    // The ladder speaks of a session only where there is one.
    let Some(session) = session else { return GateError::NoSuchSession.response() };
    session.touch();
    for message in messages {
        session::one(host.clone(), &admitted, session.clone(), message, reply()).await;
    }
    empty(StatusCode::ACCEPTED)
}
