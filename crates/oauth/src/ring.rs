//! The ring of keys: every token that may be presented, in memory, by id.

use crate::authority::Opens;
use crate::token::{self, Hash, Id};
use model::{Principal, TokenRecord};
use std::collections::HashMap;
use std::sync::Arc;

/// What is known of one token.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) record: Arc<TokenRecord>,
    pub(crate) hash: Hash,
}

impl Key {
    /// From what the store keeps; `None` where the id or the hash is not what we write.
    pub(crate) fn from_record(record: TokenRecord) -> Option<(Id, Self)> {
        let (id, hash) = (token::id(&record.id)?, token::from_hex(&record.hash)?);
        Some((id, Self { record: Arc::new(record), hash }))
    }

    /// Whether it ended by itself or was revoked before `ms`.
    pub(crate) fn ended_before(&self, ms: i64) -> bool {
        [self.record.expires_at_ms, self.record.revoked_at_ms].into_iter().flatten().any(|end| end < ms)
    }

    fn revoke(&mut self, at_ms: i64) {
        if self.record.revoked_at_ms.is_none() {
            self.record = Arc::new(TokenRecord { revoked_at_ms: Some(at_ms), ..(*self.record).clone() });
        }
    }
}

/// Both kinds of tokens, apart, so that the many short-lived ones are swept quickly and never stored.
#[derive(Default)]
pub(crate) struct Ring {
    /// Those that the store has too.
    pub(crate) kept: HashMap<Id, Key>,
    /// Those that live for seconds, in this process alone.
    pub(crate) ephemeral: HashMap<Id, Key>,
}

impl Ring {
    pub(crate) fn find(&self, id: &Id) -> Option<&Key> {
        self.kept.get(id).or_else(|| self.ephemeral.get(id))
    }

    /// Marks a token as revoked; says whether it is there.
    pub(crate) fn revoke(&mut self, id: &Id, at_ms: i64) -> bool {
        let key = self.kept.get_mut(id).or_else(|| self.ephemeral.get_mut(id));
        key.map(|key| key.revoke(at_ms)).is_some()
    }
}

/// The record of a new token.
pub(crate) fn record(
    token: &token::Token,
    principal: Principal,
    opens: Opens,
    created_at_ms: i64,
    expires_at_ms: Option<i64>,
) -> TokenRecord {
    let hash = token::to_hex(&token::hash(token.expose()));
    let (audit, server) = match opens {
        Opens::Ledger => (true, None),
        Opens::Server(name) => (false, Some(name)),
        Opens::EveryServer => (false, None),
    };
    TokenRecord {
        id: token.id().to_owned(),
        hash,
        principal,
        server,
        audit,
        created_at_ms,
        expires_at_ms,
        revoked_at_ms: None,
    }
}
