//! From a bearer's text to who it is. No IO, no allocation, no await: this runs for every request.

use crate::ring::{Key, Ring};
use crate::token;
use model::{Blame, Principal, ServerName, TokenRecord};
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Proof that a token was presented, is ours, and opens the server that was asked for. Only `Authority::verify` makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    record: Arc<TokenRecord>,
}

impl Verified {
    /// Who acts.
    pub fn principal(&self) -> &Principal {
        &self.record.principal
    }

    /// The public identifier of the token, for the ledger and the logs.
    pub fn token_id(&self) -> &str {
        &self.record.id
    }
}

/// Why a bearer gets nothing. The texts are for our logs: whoever is denied learns only that. None holds the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No text.
    #[error("no token was presented")]
    Missing,
    /// Not the form of a token; its checksum included.
    #[error("what was presented does not have the form of a token of this host, or was mistyped")]
    Malformed,
    /// The form is right, but we never made it, or it ended so long ago that it was deleted.
    #[error("the token is not known here")]
    Unknown,
    /// Its time was over.
    #[error("the token has expired; create a new one")]
    Expired,
    /// An operator ended it.
    #[error("the token was revoked")]
    Revoked,
    /// It opens one server, and this is another.
    #[error("the token is for another server")]
    WrongServer,
    /// It opens servers, and this is the ledger; or the other way round.
    #[error("the token opens the ledger or servers, and the other was asked for")]
    WrongKind,
}

impl Denied {
    /// Always the caller's.
    pub fn blame(&self) -> Blame {
        Blame::Caller
    }
}

/// What is to be opened.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked<'a> {
    Server(&'a ServerName),
    Ledger,
}

/// Judges `bearer` (the text after the word `Bearer`) at `now_ms`. The secret is compared before anything is told
/// about the token, so who only knows an id learns nothing of its state.
pub(crate) fn verify(ring: &Ring, bearer: &str, asked: Asked<'_>, now_ms: i64) -> Result<Verified, Denied> {
    let record = &presented(ring, bearer)?.record;
    if record.revoked_at_ms.is_some() {
        return Err(Denied::Revoked);
    }
    if record.expires_at_ms.is_some_and(|end| end <= now_ms) {
        return Err(Denied::Expired);
    }
    match asked {
        Asked::Server(_) if record.audit => Err(Denied::WrongKind),
        Asked::Ledger if !record.audit => Err(Denied::WrongKind),
        Asked::Server(server) if record.server.as_ref().is_some_and(|only| only != server) => Err(Denied::WrongServer),
        Asked::Server(_) | Asked::Ledger => Ok(Verified { record: Arc::clone(record) }),
    }
}

/// The key of a token that was shown whole, whatever has become of it.
pub(crate) fn presented<'a>(ring: &'a Ring, bearer: &str) -> Result<&'a Key, Denied> {
    if bearer.is_empty() {
        return Err(Denied::Missing);
    }
    let id = token::parse(bearer).ok_or(Denied::Malformed)?;
    let key = ring.find(&id).ok_or(Denied::Unknown)?;
    if bool::from(key.hash.ct_eq(&token::hash(bearer))) { Ok(key) } else { Err(Denied::Unknown) }
}
