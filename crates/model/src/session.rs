//! Legacy sessions and their open calls as they are kept: enough to serve the client again after the daemon has died.

use crate::name::{Principal, ServerName};

/// A session as it is kept. Its id is an address, never a credential: it is of use to its own principal alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// The `Mcp-Session-Id`.
    pub id: String,
    /// For which server.
    pub server: ServerName,
    /// Whose.
    pub principal: Principal,
    /// The OAuth client, empty where there is none.
    pub client: String,
    /// The negotiated revision, `2025-06-18` and such.
    pub revision: String,
    /// The client's `capabilities`, canonical JSON.
    pub capabilities: String,
    /// The client's raw `clientInfo`.
    pub client_info: String,
    /// `name version`, for people.
    pub label: String,
    /// The least severity of log messages that its client asked for.
    pub level: Option<String>,
    /// The number of its stream of what belongs to no request.
    pub standing: Option<u64>,
    /// When it was opened, Unix milliseconds.
    pub opened_at_ms: i64,
    /// When it was used last, Unix milliseconds; up to a minute behind.
    pub used_at_ms: i64,
    /// Addresses of the resources that its client subscribed to.
    pub subscriptions: Vec<String>,
}

/// A call of a session whose client can come back to its event stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenCall {
    /// Whose call.
    pub session: String,
    /// The number of its stream within the session.
    pub stream: u64,
    /// The request id that the server knows.
    pub upstream: u64,
    /// The process that has it.
    pub instance: u64,
    /// Which server.
    pub server: ServerName,
    /// The request id as the client spelled it, JSON.
    pub client_id: String,
    /// The method.
    pub method: String,
    /// The eras at both ends, `legacy-legacy` or `legacy-modern`.
    pub leg: String,
    /// When its time is up, Unix milliseconds.
    pub deadline_ms: i64,
}
