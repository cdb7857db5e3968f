//! The operator's HTTP listener: `/healthz` says that the process lives, `/readyz` whether it can take calls, `/metrics` what
//! was counted. It listens on loopback and tells no secret, so it asks for no token; a foreign `Host` is refused, so that no web page can read it.

use bytes::Bytes;
use control::{Control, Readiness};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Connections at one time.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take to send its request.
const HEADER: Duration = Duration::from_secs(5);
/// How long one connection may live: probes come again.
const CONNECTION: Duration = Duration::from_secs(60);
/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;

/// What the listener answers with.
#[derive(Clone)]
pub struct Probed {
    /// Says whether the host is ready.
    pub control: Control,
    /// Writes the page of `/metrics`. It knows what there is to count; this door does not.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// From now on the host is not ready, however its servers are.
    pub stopping: CancellationToken,
}

impl std::fmt::Debug for Probed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probed").finish_non_exhaustive()
    }
}

/// Answers probes until `shutdown`.
pub async fn serve(listener: TcpListener, probed: Probed, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned();
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = async { (place.await, listener.accept().await) } => accepted,
        };
        match accepted {
            (Ok(place), Ok((stream, _))) => {
                let visit = visit(stream, probed.clone(), shutdown.clone());
                drop(stdx::task::spawn("probe connection", async move {
                    visit.await;
                    drop(place);
                }));
            }
            (_, Err(error)) => {
                tracing::warn!(%error, "the operator listener cannot accept; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            (Err(_), _) => return,
        }
    }
}

async fn visit(stream: TcpStream, probed: Probed, shutdown: CancellationToken) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(request.method(), request.uri().path(), request.headers(), &probed);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        () = shutdown.cancelled() => {}
        result = tokio::time::timeout(CONNECTION, connection) => {
            if let Ok(Err(error)) = result {
                tracing::debug!(%error, "a probe connection ended badly");
            }
        }
    }
}

/// What `/readyz` reports.
enum State {
    Serving(Readiness),
    Stopping,
}

/// What the answers are made of.
trait Knows {
    fn state(&self) -> State;
    fn metrics(&self) -> String;
}

impl Knows for Probed {
    fn state(&self) -> State {
        if self.stopping.is_cancelled() { State::Stopping } else { State::Serving(self.control.readiness()) }
    }

    fn metrics(&self) -> String {
        (self.metrics)()
    }
}

fn answer(method: &Method, path: &str, headers: &HeaderMap, knows: &impl Knows) -> Response<Full<Bytes>> {
    if !loopback_host(headers) {
        return text(
            StatusCode::FORBIDDEN,
            "this listener answers only to loopback names: use http://127.0.0.1 or http://localhost\n",
        );
    }
    if !matches!(path, "/healthz" | "/readyz" | "/metrics") {
        return text(StatusCode::NOT_FOUND, "there is /healthz, /readyz and /metrics\n");
    }
    if method != Method::GET && method != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "use GET or HEAD\n");
        response.headers_mut().insert(ALLOW, http::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    if path == "/healthz" {
        return text(StatusCode::OK, "ok\n");
    }
    if path == "/metrics" {
        return respond(StatusCode::OK, stdx::meter::CONTENT_TYPE, knows.metrics());
    }
    let State::Serving(Readiness { ready, waiting, ledger }) = knows.state() else {
        let body = format!("{}\n", json!({"ready": false, "state": "stopping", "waiting": []}));
        return respond(StatusCode::SERVICE_UNAVAILABLE, "application/json", body);
    };
    let waiting: Vec<_> = waiting
        .into_iter()
        .map(|(server, health, reason)| json!({"server": server, "health": health, "reason": reason}))
        .collect();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut body = json!({"ready": ready, "waiting": waiting});
    if let Some(why) = ledger {
        body["ledger"] = json!({"refusing": why});
    }
    respond(status, "application/json", format!("{body}\n"))
}

/// Exactly one `Host`, and it is a loopback address or `localhost`.
fn loopback_host(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Some(authority) = host.to_str().ok().and_then(|text| text.parse::<http::uri::Authority>().ok()) else {
        return false;
    };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    let user = authority.as_str().contains('@');
    !user && (name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()))
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", body.to_owned())
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::{Knows, State, answer};
    use control::Readiness;
    use http::{HeaderMap, HeaderValue, Method};

    /// Is ready, waits for a server, or stops.
    struct Fixed(Option<bool>);

    impl Knows for Fixed {
        fn state(&self) -> State {
            let Some(ready) = self.0 else { return State::Stopping };
            let waiting =
                if ready { vec![] } else { vec![("a".to_owned(), "failing".to_owned(), Some("exit 1".to_owned()))] };
            State::Serving(Readiness { ready, waiting, ledger: None })
        }

        fn metrics(&self) -> String {
            "x 1\n".to_owned()
        }
    }

    fn status(method: &Method, path: &str, hosts: &[&'static str], ready: bool) -> u16 {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append("host", HeaderValue::from_static(host));
        }
        answer(method, path, &headers, &Fixed(Some(ready))).status().as_u16()
    }

    #[test]
    fn a_host_that_stops_is_not_ready_but_alive() {
        let mut headers = HeaderMap::new();
        headers.append("host", HeaderValue::from_static("localhost"));
        assert_eq!(answer(&Method::GET, "/readyz", &headers, &Fixed(None)).status().as_u16(), 503);
        assert_eq!(answer(&Method::GET, "/healthz", &headers, &Fixed(None)).status().as_u16(), 200);
    }

    #[test]
    fn probes_tell_the_truth() {
        let own = &["127.0.0.1:8421"][..];
        assert_eq!(status(&Method::GET, "/healthz", own, false), 200);
        assert_eq!(status(&Method::GET, "/readyz", own, false), 503);
        assert_eq!(status(&Method::HEAD, "/readyz", own, true), 200);
        assert_eq!(status(&Method::GET, "/metrics", own, false), 200);
        assert_eq!(status(&Method::POST, "/metrics", own, true), 405);
        assert_eq!(status(&Method::GET, "/metrics", &["evil.example"], true), 403);
        assert_eq!(status(&Method::POST, "/readyz", own, true), 405);
        assert_eq!(status(&Method::GET, "/", own, true), 404);
        assert_eq!(status(&Method::GET, "/healthz/", own, true), 404);
    }

    #[test]
    fn only_loopback_names_are_answered() {
        for host in ["localhost", "LOCALHOST:8421", "127.0.0.1", "127.9.9.9:1", "[::1]:8421"] {
            assert_eq!(status(&Method::GET, "/healthz", &[host], true), 200, "{host}");
        }
        for hosts in [
            &[][..],
            &["evil.example"],
            &["127.0.0.1.evil.example"],
            &["a@127.0.0.1"],
            &["localhost", "localhost"],
            &[""],
        ] {
            assert_eq!(status(&Method::GET, "/healthz", hosts, true), 403, "{hosts:?}");
        }
    }
}
