//! Machine tokens as they are kept: never the token, only its hash.

use crate::name::{Principal, ServerName};
use serde::{Deserialize, Serialize};

/// A bearer token's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Public identifier, safe to show and to name in `revoke`.
    pub id: String,
    /// SHA-256 of the whole token, lower-case hex.
    pub hash: String,
    /// Who the bearer is.
    pub principal: Principal,
    /// The one server it opens; every server where absent.
    pub server: Option<ServerName>,
    /// It opens the ledger, and no server.
    #[serde(default)]
    pub audit: bool,
    /// When it was made, Unix milliseconds.
    pub created_at_ms: i64,
    /// When it ends by itself, Unix milliseconds.
    pub expires_at_ms: Option<i64>,
    /// When it was revoked, Unix milliseconds.
    pub revoked_at_ms: Option<i64>,
}
