//! What an old daemon does with requests that still come in on its connections: it carries them to the daemon that took
//! its place, and asks the client to come back on another connection.

use crate::error::GateError;
use crate::reply::Body;
use bytes::Bytes;
use http::header::{CONNECTION, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{Request, Response, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// Who answers requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// This daemon.
    Ours,
    /// Nobody for a moment: another daemon is taking over.
    Between,
    /// The daemon that listens here.
    Theirs(SocketAddr),
}

/// Tells a public face that another daemon takes over its address.
#[derive(Clone, Debug)]
pub struct Leaving {
    turn: watch::Sender<Turn>,
}

impl Default for Leaving {
    fn default() -> Self {
        Self { turn: watch::Sender::new(Turn::Ours) }
    }
}

impl Leaving {
    /// Requests wait from now on, and connections are left to whoever comes.
    pub fn hold(&self) {
        self.turn.send_replace(Turn::Between);
    }

    /// The other daemon did not come.
    pub fn stay(&self) {
        self.turn.send_replace(Turn::Ours);
    }

    /// Requests that still come are carried to whoever listens on `address` now.
    pub fn leave(&self, address: SocketAddr) {
        self.turn.send_replace(Turn::Theirs(reachable(address)));
    }

    /// Where a request is to be carried, as soon as that is known; `None` if it is ours.
    pub(crate) async fn to(&self) -> Option<SocketAddr> {
        let now = *self.turn.borrow();
        let settled = match now {
            Turn::Between => {
                self.turn.subscribe().wait_for(|turn| *turn != Turn::Between).await.map_or(now, |turn| *turn)
            }
            settled => settled,
        };
        match settled {
            Turn::Theirs(address) => Some(address),
            Turn::Ours | Turn::Between => None,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(*self.turn.borrow(), Turn::Theirs(_))
    }

    /// Done when another daemon serves.
    pub(crate) async fn over(&self) {
        let _ = self.turn.subscribe().wait_for(|turn| matches!(turn, Turn::Theirs(_))).await;
    }

    /// Done when no connections are to be taken; see [`Self::to`] for how it goes on.
    pub(crate) async fn begun(&self) {
        let _ = self.turn.subscribe().wait_for(|turn| *turn != Turn::Ours).await;
    }
}

/// An address that stands for all of a machine's is reached on its loopback one.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// One request whose body was read already.
pub(crate) async fn whole(parts: &Parts, body: Bytes, to: SocketAddr) -> Response<Body> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = parts.uri.clone();
    *request.version_mut() = parts.version;
    *request.headers_mut() = parts.headers.clone();
    pass(request, to).await
}

/// One request, carried as it is.
pub(crate) async fn pass<B>(request: Request<B>, to: SocketAddr) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let over_http1 = request.version() <= Version::HTTP_11;
    let mut response = match carried(request, to).await {
        Ok(response) => response.map(Body::Passed),
        Err(NotCarried::Unsent(error)) => {
            tracing::warn!(%error, "a request could not be carried to the daemon that took over");
            GateError::Moved.response()
        }
        Err(NotCarried::Unanswered(error)) => {
            tracing::warn!(%error, "the daemon that took over gave no answer to a request that was carried there");
            GateError::Unheard.response()
        }
    };
    hop_by_hop().iter().for_each(|name| drop(response.headers_mut().remove(name)));
    if over_http1 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Why a request has no answer of the other daemon.
enum NotCarried {
    /// Nothing of it went out.
    Unsent(Cause),
    /// Whatever it asked for may have happened.
    Unanswered(Cause),
}

type Cause = Box<dyn Error + Send + Sync>;

async fn carried<B>(request: Request<B>, to: SocketAddr) -> Result<Response<Incoming>, NotCarried>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Cause>,
{
    let (mut sender, request) = ready(request, to).await.map_err(NotCarried::Unsent)?;
    sender.try_send_request(request).await.map_err(|mut refused| match refused.take_message() {
        Some(_) => NotCarried::Unsent(refused.into_error().into()),
        None => NotCarried::Unanswered(refused.into_error().into()),
    })
}

/// A connection to the other daemon, and the request as it is said there.
async fn ready<B>(mut request: Request<B>, to: SocketAddr) -> Result<(http1::SendRequest<B>, Request<B>), Cause>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Cause>,
{
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    stdx::task::spawn("carry to the new daemon", async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a carried connection ended with an error");
        }
    });
    // Over HTTP/2 the name of the host stands in the target.
    if let Some(authority) = request.uri().authority().cloned() {
        let host = HeaderValue::from_str(authority.as_str())?;
        request.headers_mut().entry(http::header::HOST).or_insert(host);
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).parse()?;
        *request.uri_mut() = path;
    }
    *request.version_mut() = Version::HTTP_11;
    hop_by_hop().iter().for_each(|name| drop(request.headers_mut().remove(name)));
    Ok((sender, request))
}

/// What is said from one end of a connection to the other, and no further (RFC 9110 §7.6.1).
fn hop_by_hop() -> [HeaderName; 5] {
    [CONNECTION, TE, TRANSFER_ENCODING, UPGRADE, HeaderName::from_static("keep-alive")]
}
