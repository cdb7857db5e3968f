//! The witness's HTTP: `POST /add-checkpoint` and `GET /<origin hash>/checkpoint` (C2SP tlog-witness). Anybody may ask, so
//! everything has a bound.

use super::book::{Book, Trouble};
use super::copies::Lacking;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at one time.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take for the head of a request, and how long a connection may wait for the next one.
const HEADER: Duration = Duration::from_secs(10);
/// How long a client may take for a body.
const BODY: Duration = Duration::from_secs(10);
/// How long a connection may live: a log comes again.
const CONNECTION: Duration = Duration::from_secs(60);
/// How long the last request of a connection may take.
const LAST: Duration = Duration::from_secs(5);
/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;
/// Bytes of a body.
const BODY_BYTES: usize = 1 << 20;

const TEXT: &str = "text/plain; charset=utf-8";

/// Answers until `shutdown`; then what was asked is answered, and nothing else.
pub(super) async fn serve(listener: TcpListener, book: Arc<Book>, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let visits = TaskTracker::new();
    loop {
        let place = Arc::clone(&places).acquire_owned();
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = async { (place.await, listener.accept().await) } => accepted,
        };
        match accepted {
            (Ok(place), Ok((stream, _))) => {
                let visit = visit(stream, book.clone(), shutdown.clone());
                let visit = visits.track_future(async move {
                    visit.await;
                    drop(place);
                });
                drop(stdx::task::spawn("witness connection", visit));
            }
            (_, Err(error)) => {
                tracing::warn!(%error, "the witness cannot accept a connection; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            (Err(_), _) => break,
        }
    }
    drop(listener);
    visits.close();
    visits.wait().await;
}

async fn visit(stream: TcpStream, book: Arc<Book>, shutdown: CancellationToken) {
    // Without it an answer may wait for an acknowledgement; it is as right.
    drop(stream.set_nodelay(true));
    let service = service_fn(move |request: Request<Incoming>| {
        let book = book.clone();
        async move { Ok::<_, Infallible>(answer(request, book).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => {
            if let Err(error) = result {
                tracing::debug!(%error, "a connection to the witness ended badly");
            }
            return;
        }
        () = shutdown.cancelled() => {}
        () = tokio::time::sleep(CONNECTION) => {}
    }
    connection.as_mut().graceful_shutdown();
    drop(tokio::time::timeout(LAST, connection).await);
}

async fn answer(request: Request<Incoming>, book: Arc<Book>) -> Response<Full<Bytes>> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    if path == "/add-checkpoint" {
        if method != Method::POST {
            return not_allowed("POST");
        }
        return match body(request).await {
            Ok(body) => add(book, body).await,
            Err((status, why)) => respond(status, TEXT, why.to_owned()),
        };
    }
    let Some(hash) = path.strip_prefix('/').and_then(|rest| rest.strip_suffix("/checkpoint")).map(str::to_owned) else {
        let known = "there is POST /add-checkpoint and GET /<sha256 of the origin>/checkpoint\n";
        return respond(StatusCode::NOT_FOUND, TEXT, known.to_owned());
    };
    if method != Method::GET && method != Method::HEAD {
        return not_allowed("GET, HEAD");
    }
    match apart(move || book.shown(&hash)).await {
        Ok(Some(checkpoint)) => respond(StatusCode::OK, TEXT, checkpoint),
        Ok(None) => respond(StatusCode::NOT_FOUND, TEXT, "this witness cosigned nothing of such a log\n".to_owned()),
        Err(trouble) => in_trouble(&trouble),
    }
}

/// All of a body, within its bounds.
async fn body(request: Request<Incoming>) -> Result<Bytes, (StatusCode, &'static str)> {
    let too_long = (StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 1 MiB\n");
    if request.body().size_hint().lower() > BODY_BYTES as u64 {
        return Err(too_long);
    }
    let collected = tokio::time::timeout(BODY, Limited::new(request.into_body(), BODY_BYTES).collect()).await;
    match collected {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long),
        Ok(Err(_)) => Err((StatusCode::BAD_REQUEST, "the body ended early\n")),
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the body took longer than 10 s\n")),
    }
}

async fn add(book: Arc<Book>, body: Bytes) -> Response<Full<Bytes>> {
    match apart(move || book.add(&body)).await {
        Ok(answer) => {
            let status = StatusCode::from_u16(answer.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            respond(status, answer.content_type(), answer.body())
        }
        Err(trouble) => in_trouble(&trouble),
    }
}

/// Runs what waits for the disk on a thread for such work. It goes on when the client leaves.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> Result<T, Trouble> + Send + 'static) -> Result<T, Trouble> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Trouble::Failed))
}

fn in_trouble(trouble: &Trouble) -> Response<Full<Bytes>> {
    let text = match trouble {
        Trouble::Failed => "the witness cannot remember, so it does not cosign\n",
        Trouble::Copy(Lacking::Behind(_)) => {
            "the copy beside the witness does not have these entries yet, so it does not cosign; ask again\n"
        }
        Trouble::Copy(Lacking::Differs) => "the copy beside the witness has other entries, so it does not cosign\n",
    };
    let text = text.to_owned();
    respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
}

fn not_allowed(methods: &'static str) -> Response<Full<Bytes>> {
    let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, format!("use {methods}\n"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
