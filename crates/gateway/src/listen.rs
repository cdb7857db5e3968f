//! The public listener: accepts connections, bounds them, and ends them in order.

use crate::held;
use crate::meters::Meters;
use crate::pass;
use crate::permit::Shares;
use crate::routes;
use crate::settings::{Limits, Settings};
use crate::sse::Channels;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use oauth::Authority;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use supervisor::Supervisor;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long connections are kept for clients that do not know yet that another daemon has taken over. Clients that keep a
/// connection without using it close it sooner, most of them.
const LINGER: Duration = Duration::from_secs(6);
/// How long connections are kept when the host stops: what was on its way to them is served.
const MOMENT: Duration = Duration::from_millis(150);

/// What every request of the public face reaches.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) supervisor: Supervisor,
    pub(crate) authority: Authority,
    pub(crate) settings: Settings,
    pub(crate) shares: Arc<Shares>,
    pub(crate) meters: Arc<Meters>,
    pub(crate) held: held::Table,
    /// Open HTTP+SSE connections.
    pub(crate) channels: Channels,
    /// Ends long streams when the host stops.
    pub(crate) stopping: CancellationToken,
}

/// Serves until `shutdown`; then lets calls in flight finish for `limits.drain` at most, and returns.
pub async fn serve(
    listener: TcpListener,
    supervisor: Supervisor,
    authority: Authority,
    settings: Settings,
    meters: Arc<Meters>,
    shutdown: CancellationToken,
) {
    let limits = settings.limits.clone();
    let leaving = settings.leaving.clone();
    let shares = Arc::new(Shares::new(&limits));
    let room = Arc::new(Semaphore::new(limits.connections));
    meters.watch(&shares, &room, limits.connections);
    let host = Arc::new(Host {
        supervisor,
        authority,
        settings,
        shares,
        meters,
        held: held::Table::new(),
        channels: Channels::default(),
        stopping: shutdown.child_token(),
    });
    let connections = TaskTracker::new();
    let denials = Denials::begin(&host);
    let over = async {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = leaving.over() => {}
        }
    };
    tokio::pin!(over);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut over => break,
            () = leaving.begun() => {
                // Whoever connects in between waits for the other daemon.
                tokio::select! {
                    () = &mut over => break,
                    _ = leaving.to() => continue,
                }
            }
            accepted = accept(&listener, &room) => accepted,
        };
        let Some((stream, place)) = accepted else { break };
        let served = connections.track_future(connection(host.clone(), stream, place));
        stdx::task::spawn("connection", served);
    }
    drop(listener);
    connections.close();
    // Where another daemon has taken over, nothing hurries: a call has all of its time.
    let patience = if leaving.is_over() { longest_call(&host) + LINGER } else { limits.drain };
    host.stopping.cancel();
    if tokio::time::timeout(patience, connections.wait()).await.is_err() {
        tracing::warn!("some calls had not finished when the host stopped");
    }
    denials.end().await;
}

/// The task that writes down who was turned away.
struct Denials {
    over: CancellationToken,
    task: Option<JoinHandle<Option<()>>>,
}

impl Denials {
    fn begin(host: &Host) -> Self {
        let over = CancellationToken::new();
        let task = host.settings.book.clone().map(|book| {
            let over = over.clone();
            stdx::task::spawn("denied requests", async move { book.keep_denials(over).await })
        });
        Self { over, task }
    }

    /// Everybody is written down when it returns, as far as the ledger takes it.
    async fn end(self) {
        self.over.cancel();
        if let Some(task) = self.task {
            drop(task.await);
        }
    }
}

/// The longest that a call of any server may take.
fn longest_call(host: &Host) -> Duration {
    let Limits { call_timeout, call_timeout_max, .. } = host.settings.limits;
    let servers = host.supervisor.servers();
    let times = servers.iter().map(|server| server.watch.longest(call_timeout, call_timeout_max));
    times.fold(call_timeout, Duration::max)
}

/// The next connection once there is room for it. `None` only if the semaphore is closed, which never happens.
async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let place = room.clone().acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => return Some((stream, place)),
            Err(error) => {
                // Out of descriptors, most likely: give connections time to end.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(host: Arc<Host>, stream: TcpStream, _place: OwnedSemaphorePermit) {
    // Small answers must not wait for more to come.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let limits = &host.settings.limits;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(limits.header_count)
        .max_buf_size(limits.header_bytes.max(8192));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(256)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(Some(limits.keep_alive));
    let stopping = host.stopping.clone();
    let begun = Arc::new(AtomicBool::new(false));
    let multiplexed = Arc::new(AtomicBool::new(false));
    let (seen, two, patience) = (begun.clone(), multiplexed.clone(), limits.header_timeout);
    let (host_of, last) = (host.clone(), stopping.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let (host, last) = (host.clone(), last.clone());
        seen.store(true, Ordering::Relaxed);
        let http_1 = request.version() != Version::HTTP_2;
        two.store(!http_1, Ordering::Relaxed);
        async move {
            let mut response = match host.settings.leaving.to().await {
                Some(to) => {
                    let path = request.uri().path().to_owned();
                    let mut response = pass::pass(request, to).await;
                    routes::note(&host, &path, None, &mut response);
                    response
                }
                None => routes::answer(host, request).await,
            };
            if http_1 && last.is_cancelled() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let served = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = silent(&begun, patience) => return,
        // Who has asked nothing yet is not waited for.
        () = over(&host_of, &stopping, &multiplexed) => if begun.load(Ordering::Relaxed) {
            served.as_mut().graceful_shutdown();
            served.await
        } else {
            return;
        },
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended with an error");
    }
}

/// Done when a connection is to end as soon as it has nothing to do. Where another daemon has taken over, clients are told
/// with each answer to come back on another connection; only those that ask nothing for a while are closed without a word,
/// because what they may send in that moment would be lost. Where none has, all is over soon. Over HTTP/2 nothing can be lost (RFC 9113 §6.8).
async fn over(host: &Host, stopping: &CancellationToken, multiplexed: &AtomicBool) {
    stopping.cancelled().await;
    if !host.settings.leaving.is_over() {
        tokio::time::sleep(MOMENT).await;
    } else if !multiplexed.load(Ordering::Relaxed) {
        tokio::time::sleep(LINGER).await;
    }
}

/// Done when a new connection has sent no whole request head in time. hyper begins to count only when it knows which HTTP
/// is spoken, and somebody who says nothing would keep his place for ever.
async fn silent(begun: &AtomicBool, patience: Duration) {
    tokio::time::sleep(patience).await;
    if begun.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}
