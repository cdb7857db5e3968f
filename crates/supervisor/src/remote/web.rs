//! HTTP to remote servers: one pool of connections for the whole host, redirects within one origin, bounded bodies.

use super::credentials::Credentials;
use super::failure::{BadHeaders, Failure, MOST_REDIRECTS, OpenError};
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, LOCATION, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use model::Remote;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How long a connection may take: name, TCP and TLS each.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an idle connection is kept. Node's HTTP server closes after 5 s, and a request that meets the close is lost:
/// it may have been carried out, so it is never sent twice.
const IDLE: Duration = Duration::from_secs(4);
/// Idle connections to one host.
const MOST_IDLE: usize = 32;

/// The pool of a host. Made when the first remote server needs it.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    web: OnceLock<Web>,
}

impl Pool {
    pub(crate) fn web(&self) -> Result<Web, rustls::Error> {
        match self.web.get() {
            Some(web) => Ok(web.clone()),
            None => {
                let web = Web::new()?;
                Ok(self.web.get_or_init(|| web).clone())
            }
        }
    }
}

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Web {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Web {
    /// With the system's certificate authorities.
    pub(super) fn new() -> Result<Self, rustls::Error> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let https = match HttpsConnectorBuilder::new().with_provider_and_native_roots(provider.clone()) {
            Ok(https) => https,
            Err(error) => {
                tracing::warn!(%error, "no certificate authorities were found: no https server will be trusted");
                let tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
                    .with_safe_default_protocol_versions()?
                    .with_root_certificates(rustls::RootCertStore::empty())
                    .with_no_client_auth();
                HttpsConnectorBuilder::new().with_tls_config(tls)
            }
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MOST_IDLE)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .build(https.https_or_http().enable_all_versions().wrap_connector(tcp));
        Ok(Self { client })
    }
}

/// One remote server: its address and what every request to it carries.
#[derive(Debug)]
pub(crate) struct Endpoint {
    web: Web,
    pub(crate) url: Uri,
    pub(crate) origin: String,
    credentials: Credentials,
}

impl Endpoint {
    /// Reads the credentials.
    pub(crate) fn new(web: Web, remote: &Remote) -> Result<Self, OpenError> {
        let credentials = match remote.headers_file() {
            Some(path) => Credentials::read(Path::new(path)).map_err(|error: BadHeaders| OpenError::Headers(error))?,
            None => Credentials::default(),
        };
        let url: Uri = remote.url().as_str().parse().map_err(|_| OpenError::Url)?;
        Ok(Self { web, url, origin: remote.url().origin().to_owned(), credentials })
    }

    /// Sends one request and waits for the head of its answer, for at most `limit` where there is one. Redirects are
    /// followed within the origin only, so that neither body nor credentials leave it.
    pub(crate) async fn send(
        &self,
        method: &Method,
        url: &Uri,
        headers: &HeaderMap,
        body: &Bytes,
        limit: Option<Duration>,
    ) -> Result<Response<Incoming>, Failure> {
        let asked = self.follow(method, url, headers, body);
        match limit {
            None => asked.await,
            Some(after) => match tokio::time::timeout(after, asked).await {
                Ok(answer) => answer,
                Err(_elapsed) => Err(Failure::Silent { origin: self.origin.clone(), after }),
            },
        }
    }

    async fn follow(
        &self,
        method: &Method,
        url: &Uri,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Response<Incoming>, Failure> {
        let mut url = url.clone();
        for _ in 0..=MOST_REDIRECTS {
            let mut request = Request::new(Full::new(body.clone()));
            *request.method_mut() = method.clone();
            *request.uri_mut() = url.clone();
            *request.headers_mut() = headers.clone();
            let agent = concat!("staithe/", env!("CARGO_PKG_VERSION"));
            request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(agent));
            self.credentials.add_to(request.headers_mut());
            let response = self.web.client.request(request).await.map_err(|error| self.failed(&error))?;
            match self.redirect(method, &url, &response)? {
                Some(next) => url = next,
                None => return Ok(response),
            }
        }
        Err(Failure::Redirects { origin: self.origin.clone() })
    }

    fn redirect(&self, method: &Method, from: &Uri, response: &Response<Incoming>) -> Result<Option<Uri>, Failure> {
        let keeps_body = match response.status() {
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => false,
            _ => return Ok(None),
        };
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let next = location.and_then(|to| resolve(from, to));
        let next = next.ok_or_else(|| Failure::NoLocation { origin: self.origin.clone() })?;
        if !same_origin(from, &next) {
            let to =
                format!("{}://{}", next.scheme_str().unwrap_or_default(), next.authority().map_or("", |a| a.as_str()));
            return Err(Failure::OtherOrigin { origin: self.origin.clone(), to });
        }
        if !keeps_body && method != Method::GET {
            return Err(Failure::LossyRedirect { origin: self.origin.clone(), status: response.status().as_u16() });
        }
        Ok(Some(next))
    }

    fn failed(&self, error: &hyper_util::client::legacy::Error) -> Failure {
        let (origin, why) = (self.origin.clone(), reason(error));
        if error.is_connect() { Failure::Connect { origin, why } } else { Failure::Broke { origin, why } }
    }

    /// The whole body, if it is no longer than `limit`.
    pub(crate) async fn body(&self, mut body: Incoming, limit: usize) -> Result<Bytes, Failure> {
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broke(&error))?;
            if let Ok(data) = frame.into_data() {
                if whole.len() + data.len() > limit {
                    return Err(Failure::TooLong { origin: self.origin.clone(), limit });
                }
                whole.extend_from_slice(&data);
            }
        }
        Ok(whole.freeze())
    }

    pub(crate) fn broke(&self, error: &hyper::Error) -> Failure {
        Failure::Broke { origin: self.origin.clone(), why: reason(error) }
    }

    /// `text` without the credentials.
    pub(crate) fn redact(&self, text: &str) -> String {
        self.credentials.redact(text)
    }
}

/// The innermost reasons: the outer ones only say that a request failed.
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if words.last().is_none_or(|last| !last.contains(&text)) {
            words.push(text);
        }
        next = cause.source();
    }
    if words.is_empty() { error.to_string() } else { words.join(": ") }
}

/// What kind of body an answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Media {
    Json,
    Events,
    Other,
}

/// By the content type without its parameters.
pub(crate) fn media(headers: &HeaderMap) -> Media {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/json" => Media::Json,
        "text/event-stream" => Media::Events,
        _ => Media::Other,
    }
}

/// What `to` means where `from` was asked. `None` for anything that is not plain HTTP.
pub(crate) fn resolve(from: &Uri, to: &str) -> Option<Uri> {
    let to = to.split('#').next().unwrap_or_default();
    if to.is_empty() || !to.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let (scheme, authority) = (from.scheme_str()?, from.authority()?.as_str());
    let path = from.path();
    let text = if to.contains("://") && !to.starts_with(['/', '?']) {
        to.to_owned()
    } else if let Some(rest) = to.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if to.starts_with('/') {
        format!("{scheme}://{authority}{to}")
    } else if to.starts_with('?') {
        format!("{scheme}://{authority}{path}{to}")
    } else {
        let folder = path.rfind('/').map_or("/", |slash| &path[..=slash]);
        format!("{scheme}://{authority}{folder}{to}")
    };
    let found: Uri = text.parse().ok()?;
    let web = matches!(found.scheme_str(), Some("http" | "https"));
    let plain = found.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    (web && plain).then_some(found)
}

/// Scheme, host and port agree.
pub(crate) fn same_origin(a: &Uri, b: &Uri) -> bool {
    let port = |uri: &Uri| {
        uri.port_u16().or(match uri.scheme_str() {
            Some("https") => Some(443),
            Some("http") => Some(80),
            _ => None,
        })
    };
    let host = |uri: &Uri| uri.host().map(str::to_ascii_lowercase);
    a.scheme() == b.scheme() && host(a) == host(b) && port(a) == port(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_resolve_as_a_browser_would() {
        let from: Uri = "https://h:8443/a/b?q=1".parse().unwrap();
        for (to, means) in [
            ("/x", "https://h:8443/x"),
            ("x?y=1#f", "https://h:8443/a/x?y=1"),
            ("?y=1", "https://h:8443/a/b?y=1"),
            ("//other/x", "https://other/x"),
            ("http://h/x", "http://h/x"),
            ("/x?to=https://other/", "https://h:8443/x?to=https://other/"),
        ] {
            assert_eq!(resolve(&from, to).unwrap(), means, "{to}");
        }
        for bad in ["", "#f", "ftp://h/x", "https://u:p@h/x", "javascript://x", "/a b", "https://"] {
            assert!(resolve(&from, bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| same_origin(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(same("https://H/x", "https://h:443/y") && same("http://h:80/", "http://h/"));
        assert!(!same("https://h/", "http://h/") && !same("https://h/", "https://h:8443/"));
        assert!(!same("https://h/", "https://h.evil/") && !same("https://h/", "https://sub.h/"));
    }
}
