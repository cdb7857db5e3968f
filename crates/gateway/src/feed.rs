//! Carries one stream of a session to one connection: event by event, awake in between, until the stream is complete, the
//! connection breaks, or the token that opened it ends.

use crate::listen::Host;
use crate::reply::{Body, stream};
use bytes::Bytes;
use http::Response;
use oauth::Verified;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stdx::clock::monotonic;
use supervisor::{EventId, Reader, Session};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use wire::sse;

/// How often the token of an open stream is looked at again (E244).
pub(crate) const RECHECK: Duration = Duration::from_secs(5);
/// When a client should come back to a stream that was closed on purpose, milliseconds.
const RETURN_MS: u64 = 500;

/// What was handed to a connection is on its way to the client after this long. A daemon that is killed earlier must not have
/// forgotten the call: its client would hear that there was none.
const ON_ITS_WAY: Duration = Duration::from_secs(2);

/// What a stream begins with where nothing was said yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hello {
    /// An event follows at once.
    Nothing,
    /// A comment, so that the client's end sees that the stream is open.
    Comment,
}

/// Whether the token that opened a stream is still good.
pub(crate) fn stands(host: &Host, token: Option<&Verified>) -> bool {
    token.is_none_or(|token| host.authority.stands(token))
}

/// The response that carries `reader`. `place` counts it among the long streams of its principal.
pub(crate) fn session(
    host: Arc<Host>,
    token: Option<Verified>,
    session: Arc<Session>,
    mut reader: Reader,
    hello: Hello,
    place: Option<OwnedSemaphorePermit>,
) -> Response<Body> {
    let (events, response) = stream();
    let first = match hello {
        _ if session.primes() && reader.is_fresh() => sse::priming(reader.position()).into(),
        Hello::Comment => Bytes::from_static(sse::KEEP_ALIVE),
        Hello::Nothing => Bytes::new(),
    };
    let poll_after = host.settings.limits.poll_after.filter(|_| session.primes());
    stdx::task::spawn("stream of a session", async move {
        let feed = Feed { host: &host, token: token.as_ref(), ids: true, poll_after };
        feed.carry(&mut reader, &events, first).await;
        let (stream, complete) = (reader.position().stream(), reader.is_complete());
        reader.leave();
        session.touch();
        drop((place, events));
        if complete {
            tokio::time::sleep(ON_ITS_WAY).await;
            session.call_over(stream).await;
        }
    });
    response
}

/// How a stream is carried.
#[derive(Debug)]
pub(crate) struct Feed<'a> {
    pub(crate) host: &'a Host,
    pub(crate) token: Option<&'a Verified>,
    /// Events have ids: their client may come back.
    pub(crate) ids: bool,
    /// Closed on purpose after this time.
    pub(crate) poll_after: Option<Duration>,
}

impl Feed<'_> {
    /// Returns when this connection has carried all that it will.
    pub(crate) async fn carry(&self, reader: &mut Reader, events: &mpsc::Sender<Bytes>, first: Bytes) {
        let limits = &self.host.settings.limits;
        let begun = monotonic();
        let poll = self.poll_after.map(|after| begun + after);
        let (mut quiet, mut doubt) = (begun + limits.keep_alive, begun + RECHECK);
        let mut next = first;
        loop {
            if !next.is_empty() {
                if events.send_timeout(next, limits.write_timeout).await.is_err() {
                    return;
                }
                quiet = monotonic() + limits.keep_alive;
            }
            let now = monotonic();
            if doubt <= now {
                if !stands(self.host, self.token) {
                    return;
                }
                doubt = now + RECHECK;
            }
            next = tokio::select! {
                biased;
                event = reader.next() => match event {
                    Some((id, message)) => self.event(id, &message),
                    None => return,
                },
                () = events.closed() => return,
                // A call in flight may finish; what belongs to no call has no end to wait for.
                () = self.host.stopping.cancelled(), if reader.is_standing() => return,
                () = at(poll), if poll.is_some() => {
                    // Whether it arrives or not: the client comes back for the rest.
                    let _ = events.send_timeout(sse::retry(RETURN_MS).into(), limits.write_timeout).await;
                    return;
                }
                () = at(Some(doubt)) => Bytes::new(),
                () = at(Some(quiet)) => Bytes::from_static(sse::KEEP_ALIVE),
            };
        }
    }

    fn event(&self, id: EventId, message: &[u8]) -> Bytes {
        let mut event = Vec::with_capacity(message.len() + 64);
        if self.ids {
            sse::event_with_id(&mut event, id, message);
        } else {
            sse::event(&mut event, message);
        }
        event.into()
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}
