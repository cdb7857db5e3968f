//! A remote server, spoken to as if over a pipe: each line that a process would read from its stdin goes out as HTTP,
//! and each message that comes back takes the way of a line from its stdout. So everything above this is the same.
//!
//! One [`Link`] per instance: a session of a legacy server, or the context of a stateless one. Connections are shared
//! by all links; sessions, credentials and what was learned are not.

mod credentials;
mod events;
mod exchange;
mod failure;
mod legacy;
mod modern;
mod outside;
mod web;

use crate::hosted::Hosted;
use crate::instance::Instance;
use crate::pipe::WriteError;
use crate::route;
use crate::slot::Context;
use bytes::Bytes;
use failure::{Failure, OpenError};
use http::{HeaderValue, Uri};
use model::report::LogSource;
use model::{EraPin, Remote};
use modern::Told;
pub use outside::{Outside, OutsideError, Outsider, Said};
use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use web::Endpoint;
pub(crate) use web::Pool;
use wire::era::Era;
use wire::message::{Message, Shape};
use wire::scan::{Limits, Place, Side};

/// Requests that one instance has on their way at once; more wait for their turn. Subscriptions do not count.
const AT_ONCE: usize = 64;
/// Messages that wait for their turn or their answer.
const MOST_MESSAGES: usize = 4096;
/// How long a message that has no answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What all instances of a server know about its address.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// It speaks HTTP+SSE: the newer transport need not be tried again.
    sse: AtomicBool,
}

/// The HTTP side of one instance.
#[derive(Debug)]
pub(crate) struct Link {
    endpoint: Endpoint,
    era: Era,
    context: Arc<Context>,
    memory: Arc<Memory>,
    /// An operator says that it is an HTTP+SSE server.
    pinned_sse: bool,
    instance: OnceLock<Weak<Instance>>,
    state: Mutex<State>,
    turn: Semaphore,
    /// Messages on their way, and their bytes.
    messages: AtomicUsize,
    bytes: AtomicUsize,
    told: Told,
    tasks: TaskTracker,
    /// Everything ends now.
    stop: CancellationToken,
    end: OnceLock<String>,
    ended: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    /// Requests whose answer has not come, and how each is called off.
    flights: HashMap<u64, Flight>,
    /// `Mcp-Session-Id` of a legacy server.
    session: Option<HeaderValue>,
    /// The negotiated revision of a legacy server.
    revision: Option<HeaderValue>,
    /// Where an HTTP+SSE server takes messages.
    inbox: Option<Uri>,
    /// Set when `notifications/initialized` is on its way, done when it has arrived: nothing may overtake it (E95).
    opening: Option<CancellationToken>,
    trouble: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct Flight {
    off: CancellationToken,
    /// It was handed to the network: the server may have heard of it.
    sent: Arc<AtomicBool>,
}

impl Link {
    /// Makes ready; the first line opens the first connection. Reads the credentials, so that a restart takes new ones.
    pub(crate) fn open(
        hosted: &Hosted,
        remote: &Remote,
        era: Era,
        context: &Arc<Context>,
    ) -> Result<Arc<Self>, OpenError> {
        let endpoint = Endpoint::new(hosted.connections().web().map_err(OpenError::Tls)?, remote)?;
        Ok(Arc::new(Self {
            endpoint,
            era,
            context: context.clone(),
            memory: hosted.memory().clone(),
            pinned_sse: hosted.spec().era == EraPin::Sse,
            instance: OnceLock::new(),
            state: Mutex::default(),
            turn: Semaphore::new(AT_ONCE),
            messages: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            told: Told::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            end: OnceLock::new(),
            ended: CancellationToken::new(),
        }))
    }

    /// What comes back is this instance's from now on.
    pub(crate) fn serve(&self, instance: &Arc<Instance>) {
        let _ = self.instance.set(Arc::downgrade(instance));
    }

    /// Sends one line, newline included.
    pub(crate) fn send(self: &Arc<Self>, line: Vec<u8>) -> Result<(), WriteError> {
        let Some(instance) = self.instance.get().and_then(Weak::upgrade) else { return Err(WriteError::Closed) };
        if self.stop.is_cancelled() || self.ended.is_cancelled() {
            return Err(WriteError::Closed);
        }
        let queued = self.bytes.load(Ordering::Relaxed);
        let full = self.messages.load(Ordering::Relaxed) >= MOST_MESSAGES;
        // One message is always taken: a large one must get through.
        if full || (queued > 0 && queued + line.len() > self.context.limits.queue_bytes) {
            return Err(WriteError::Stalled { queued });
        }
        // What we write ourselves needs no strict bounds; what a client wrote has passed them.
        let limits = Limits { bytes: usize::MAX, depth: 256 };
        let Ok(message) = Message::parse(Bytes::from(line), Side::Server, &limits) else {
            tracing::error!(server = %self.context.server, "a line for a remote server is no message");
            return Err(WriteError::Closed);
        };
        match message.shape() {
            Shape::Request => self.start_request(instance, message),
            Shape::Notification if message.method() == "notifications/cancelled" => self.call_off(message),
            Shape::Notification if message.method() == "notifications/initialized" => self.initialized(message),
            Shape::Notification | Shape::Success | Shape::Failure => self.start_post(message),
        }
        Ok(())
    }

    /// Nothing more is sent or read.
    pub(crate) fn cut(&self) {
        self.stop.cancel();
    }

    /// Waits until the server has ended what this link stands for, and says why. Cancel-safe.
    pub(crate) async fn ended(&self) -> String {
        self.ended.cancelled().await;
        self.end.get().cloned().unwrap_or_default()
    }

    /// What the link met last that says nothing about the era of the server.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.state().trouble.clone()
    }

    /// `text` without the credentials.
    pub(crate) fn redact(&self, text: &str) -> String {
        self.endpoint.redact(text)
    }

    /// Ends everything and says goodbye to a server that keeps a session (E127), for at most `grace`.
    pub(crate) async fn close(&self, grace: Duration) {
        self.cut();
        self.tasks.close();
        self.tasks.wait().await;
        self.end_session(grace).await;
    }

    fn start_request(self: &Arc<Self>, instance: Arc<Instance>, message: Message) {
        let Some(id) = message.id().and_then(|raw| route::number(&raw)) else { return };
        let flight = Flight::default();
        self.state().flights.insert(id, flight.clone());
        let link = self.clone();
        self.spawn("a request to a remote server", message.bytes().len(), async move {
            let carried = tokio::select! {
                biased;
                () = flight.off.cancelled() => Ok(()),
                carried = link.carry(&instance, id, &message, &flight) => carried,
            };
            link.state().flights.remove(&id);
            if let Err(failure) = carried {
                link.failed(&instance, id, &failure);
            }
        });
    }

    fn start_post(self: &Arc<Self>, message: Message) {
        let link = self.clone();
        self.spawn("a message to a remote server", message.bytes().len(), async move {
            link.ready().await;
            if let Err(failure) = link.post_only(&message).await {
                tracing::info!(server = %link.context.server, %failure, "a remote server did not take a message");
            }
        });
    }

    /// Whatever follows waits until the server has heard this.
    fn initialized(self: &Arc<Self>, message: Message) {
        let opening = CancellationToken::new();
        self.state().opening = Some(opening.clone());
        let link = self.clone();
        self.spawn("the end of a handshake", message.bytes().len(), async move {
            let posted = link.post_only(&message).await;
            opening.cancel();
            match posted {
                Ok(()) => link.listen().await,
                Err(failure) => link.finish(&failure.to_string()),
            }
        });
    }

    /// A request was taken back. To a modern server closing its stream says so (E136); a legacy one is told, if it can
    /// have heard of the request at all.
    fn call_off(self: &Arc<Self>, message: Message) {
        let id = message.member(Place::Params, "requestId").and_then(|id| route::number(message.raw(id.value)));
        let Some(flight) = id.and_then(|id| self.state().flights.get(&id).cloned()) else {
            // With HTTP+SSE the request's own exchange is over as soon as it was taken.
            if self.state().inbox.is_some() {
                self.start_post(message);
            }
            return;
        };
        if self.era == Era::Modern || !flight.sent.load(Ordering::Acquire) {
            return flight.off.cancel();
        }
        let link = self.clone();
        self.spawn("a cancellation to a remote server", message.bytes().len(), async move {
            let _ = link.post_only(&message).await;
            flight.off.cancel();
        });
    }

    /// A message for the callers.
    fn deliver(&self, instance: &Arc<Instance>, line: &Bytes) {
        if !line.trim_ascii().is_empty() {
            instance.pulse.beat();
            route::line(instance, line);
        }
    }

    /// The request has no answer, and will get none.
    fn failed(&self, instance: &Instance, id: u64, failure: &Failure) {
        let reason = self.endpoint.redact(&failure.to_string());
        if !failure.unspoken() {
            self.state().trouble = Some(reason.clone());
        }
        self.context.log.add(instance.id, LogSource::Host, &reason);
        instance.lose(id, reason.clone(), matches!(failure, Failure::Connect { .. }));
        match failure {
            Failure::SessionEnded { .. } => self.finish(&reason),
            // The next instance reads the credentials anew.
            Failure::Status { status, .. } if status.as_u16() == 401 => self.finish(&reason),
            _ => {}
        }
    }

    /// What this link stands for is over at the server.
    fn finish(&self, why: &str) {
        if self.end.set(self.endpoint.redact(why)).is_ok() {
            self.ended.cancel();
        }
    }

    /// Until the handshake has arrived.
    async fn ready(&self) {
        let opening = self.state().opening.clone();
        if let Some(opening) = opening {
            opening.cancelled().await;
        }
    }

    /// In the background until it is done or the link is cut.
    fn spawn(self: &Arc<Self>, name: &'static str, bytes: usize, work: impl Future<Output = ()> + Send + 'static) {
        let (link, held) = (self.clone(), self.tasks.token());
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        stdx::task::spawn(name, async move {
            let _ = link.stop.run_until_cancelled(work).await;
            link.messages.fetch_sub(1, Ordering::Relaxed);
            link.bytes.fetch_sub(bytes, Ordering::Relaxed);
            drop(held);
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn origin(&self) -> String {
        self.endpoint.origin.clone()
    }
}
