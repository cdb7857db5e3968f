//! Whose fault an error is. Every public error answers `blame()`: alerts fire on `Host`, retry advice depends on it.

use serde::{Deserialize, Serialize};

/// Who has to change something for the error to go away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Blame {
    /// The client or operator sent something that cannot be served.
    Caller,
    /// The hosted server broke its contract or died.
    Server,
    /// staithe itself, or the machine under it.
    Host,
}
