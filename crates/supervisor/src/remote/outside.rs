//! Services of others that are no MCP servers, and that the host asks with one POST each: witnesses of its ledger.

use super::web::{Endpoint, Web};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use model::{Remote, RemoteUrl};
use std::time::Duration;

/// Asks services of others. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Outside {
    web: Web,
}

/// A service that may be asked.
#[derive(Debug)]
pub struct Outsider {
    endpoint: Endpoint,
}

/// What a service answered.
#[derive(Clone, Debug)]
pub struct Said {
    /// The HTTP status.
    pub status: u16,
    /// The `Content-Type`; empty without one.
    pub kind: String,
    /// The body.
    pub body: Bytes,
}

/// A service cannot be asked, or did not answer. The text says which, and why.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct OutsideError(String);

impl OutsideError {
    fn of(error: &dyn std::error::Error) -> Self {
        Self(stdx::chain::Chain(error).to_string())
    }
}

impl Outside {
    /// Reads the certificate authorities of the system.
    pub fn new() -> Result<Self, OutsideError> {
        Web::new().map(|web| Self { web }).map_err(|error| OutsideError::of(&error))
    }

    /// The service at an address, `http` or `https`, without a query.
    pub fn service(&self, url: &str) -> Result<Outsider, OutsideError> {
        let url: RemoteUrl = url.parse().map_err(|error: model::BadRemote| OutsideError::of(&error))?;
        // What is asked has its own signatures: plain HTTP gives nobody a way to change it.
        let remote = Remote::new(url, None, true).map_err(|error| OutsideError::of(&error))?;
        let endpoint = Endpoint::new(self.web.clone(), &remote).map_err(|error| OutsideError::of(&error))?;
        Ok(Outsider { endpoint })
    }
}

impl Outsider {
    /// POSTs a text, and gives the answer of at most `limit` bytes if it came within `patience`.
    pub async fn post(&self, text: String, patience: Duration, limit: usize) -> Result<Said, OutsideError> {
        let asked = async {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            let text = Bytes::from(text);
            let sent = self.endpoint.send(&Method::POST, &self.endpoint.url, &headers, &text, None);
            let (head, body) = sent.await?.into_parts();
            let kind = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let (status, kind) = (head.status.as_u16(), kind.to_owned());
            Ok(Said { status, kind, body: self.endpoint.body(body, limit).await? })
        };
        match tokio::time::timeout(patience, asked).await {
            Ok(said) => said.map_err(|failure: super::failure::Failure| OutsideError::of(&failure)),
            Err(_elapsed) => {
                Err(OutsideError(format!("{} did not answer within {} s", self.endpoint.origin, patience.as_secs())))
            }
        }
    }
}
