//! The handle that others hold: mint, verify, revoke, list.

use crate::ring::{Key, Ring, record};
use crate::token::{self, Token};
use crate::verify::{Asked, Denied, Verified, presented, verify};
use model::{Blame, Principal, ServerName, TokenRecord};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use stdx::clock;
use stdx::random::NoRandomness;
use store::{Store, StoreError};

/// Tokens that are kept at once. Each takes some hundred bytes of memory.
const MOST_KEPT: usize = 100_000;
/// Tokens that live for seconds, at once.
const MOST_EPHEMERAL: usize = 1_024;
/// The longest life of those, in seconds.
const LONGEST_EPHEMERAL_S: u64 = 300;
/// How long an ended token is remembered, so that its bearer is told why, in milliseconds: 30 days.
const REMEMBERED_MS: i64 = 30 * 24 * 3600 * 1000;

/// The one who says which tokens are good. Clones share everything.
///
/// It reads the store when it opens and trusts its own memory from then on: one process mints and revokes.
#[derive(Clone)]
pub struct Authority {
    store: Store,
    ring: Arc<RwLock<Ring>>,
}

/// What a token opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opens {
    /// Every server, and not the ledger.
    EveryServer,
    /// One server.
    Server(ServerName),
    /// The ledger, and no server.
    Ledger,
}

/// A new token and what is kept of it. The token itself is nowhere else.
#[expect(missing_debug_implementations, reason = "it holds a secret that must not get into a log")]
pub struct Minted {
    /// For the one who asked.
    pub token: Token,
    /// What is kept.
    pub record: TokenRecord,
}

/// The tokens cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store failed.
    #[error("the tokens cannot be read")]
    Store(#[from] StoreError),
    /// A record is not one of ours.
    #[error("the record of token {id:?} is damaged; restore a backup of the database")]
    Damaged {
        /// As it stands in the record.
        id: String,
    },
}

impl OpenError {
    /// The host's.
    pub fn blame(&self) -> Blame {
        Blame::Host
    }
}

/// No token was made.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The lifetime is nothing, or beyond what fits.
    #[error("a token cannot live for {seconds} seconds; give a number from 1 to {longest}")]
    Lifetime {
        /// What was asked for.
        seconds: u64,
        /// The most.
        longest: u64,
    },
    /// The bound is reached.
    #[error("there are {most} tokens already, which is the most; revoke some, or wait until some have ended")]
    TooMany {
        /// The bound.
        most: usize,
    },
    /// No randomness.
    #[error("a token cannot be made")]
    NoRandomness(#[from] NoRandomness),
    /// The store failed.
    #[error("the token cannot be kept")]
    Store(#[from] StoreError),
}

impl MintError {
    /// The caller's for a lifetime or number beyond the bounds, else the host's.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Lifetime { .. } | Self::TooMany { .. } => Blame::Caller,
            Self::NoRandomness(_) | Self::Store(_) => Blame::Host,
        }
    }
}

/// The token is denied from now on by this process, but that could not be written down.
#[derive(Debug, thiserror::Error)]
#[error(
    "the token is refused from now on, but only until a restart, because that could not be stored; revoke it again"
)]
pub struct RevokeError(#[from] StoreError);

impl RevokeError {
    /// The host's.
    pub fn blame(&self) -> Blame {
        Blame::Host
    }
}

impl Authority {
    /// Reads the tokens, and deletes those that ended more than 30 days ago.
    pub async fn open(store: Store) -> Result<Self, OpenError> {
        store.delete_ended_tokens(clock::unix_ms().saturating_sub(REMEMBERED_MS)).await?;
        let mut ring = Ring::default();
        for record in store.tokens().await? {
            let shown = record.id.clone();
            let (id, key) = Key::from_record(record).ok_or(OpenError::Damaged { id: shown })?;
            ring.kept.insert(id, key);
        }
        Ok(Self { store, ring: Arc::new(RwLock::new(ring)) })
    }

    /// Forgets the tokens of `principal` that are no good any more; says how many.
    pub async fn forget(&self, principal: &Principal) -> Result<u64, StoreError> {
        let now = clock::unix_ms();
        let forgotten = self.store.delete_ended_tokens_of(principal, now).await?;
        let is_over = |key: &Key| key.record.principal == *principal && key.ended_before(now.saturating_add(1));
        self.write().kept.retain(|_, key| !is_over(key));
        Ok(forgotten)
    }

    /// Makes a machine token for `principal` that opens what `opens` says, and ends after `expires_in_s`
    /// seconds, or never. It is good, and survives a crash, when this returns.
    pub async fn mint_for(
        &self,
        principal: Principal,
        opens: Opens,
        expires_in_s: Option<u64>,
    ) -> Result<Minted, MintError> {
        let now = clock::unix_ms();
        let expires = expires_in_s.map(|seconds| end(now, seconds, LONGEST_S)).transpose()?;
        self.make_room(now).await?;
        let token = Token::random()?;
        let record = record(&token, principal, opens, now, expires);
        self.store.put_token(record.clone()).await?;
        if let Some((id, key)) = Key::from_record(record.clone()) {
            self.write().kept.insert(id, key);
        }
        Ok(Minted { token, record })
    }

    /// The same for `server`, or every server.
    pub async fn mint(
        &self,
        principal: Principal,
        server: Option<ServerName>,
        expires_in_s: Option<u64>,
    ) -> Result<Minted, MintError> {
        self.mint_for(principal, server.map_or(Opens::EveryServer, Opens::Server), expires_in_s).await
    }

    /// Makes a token that lives for `lives_s` seconds, at most 300, in this process alone: for one call by the operator.
    pub fn mint_ephemeral(&self, principal: Principal, server: ServerName, lives_s: u64) -> Result<Minted, MintError> {
        let now = clock::unix_ms();
        let expires = end(now, lives_s, LONGEST_EPHEMERAL_S)?;
        let token = Token::random()?;
        let record = record(&token, principal, Opens::Server(server), now, Some(expires));
        let mut ring = self.write();
        if ring.ephemeral.len() >= MOST_EPHEMERAL {
            ring.ephemeral.retain(|_, key| !key.ended_before(now));
        }
        if ring.ephemeral.len() >= MOST_EPHEMERAL {
            return Err(MintError::TooMany { most: MOST_EPHEMERAL });
        }
        if let Some((id, key)) = Key::from_record(record.clone()) {
            ring.ephemeral.insert(id, key);
        }
        Ok(Minted { token, record })
    }

    /// Who `bearer` is, if it opens `server` now. `bearer` is the text after the word `Bearer`.
    pub fn verify(&self, bearer: &str, server: &ServerName) -> Result<Verified, Denied> {
        verify(&self.read(), bearer, Asked::Server(server), clock::unix_ms())
    }

    /// Who `bearer` is, if it opens the ledger now.
    pub fn verify_audit(&self, bearer: &str) -> Result<Verified, Denied> {
        verify(&self.read(), bearer, Asked::Ledger, clock::unix_ms())
    }

    /// Whose token `bearer` is, and the token's public id, whether it opens anything or not: for the ledger. `None` for what is
    /// no token of this host.
    pub fn whose(&self, bearer: &str) -> Option<(Principal, String)> {
        let ring = self.read();
        let record = &presented(&ring, bearer).ok()?.record;
        Some((record.principal.clone(), record.id.clone()))
    }

    /// Whether what `verify` found is still so: asked while a stream is open that a token opened (E244).
    pub fn stands(&self, verified: &Verified) -> bool {
        let now = clock::unix_ms();
        let id = token::id(verified.token_id());
        id.is_some_and(|id| self.read().find(&id).is_some_and(|key| !key.ended_before(now.saturating_add(1))))
    }

    /// Ends a token: no `verify` that begins after this was called succeeds. Says whether there is such a token, which
    /// may have been revoked before.
    pub async fn revoke(&self, id: &str) -> Result<bool, RevokeError> {
        let now = clock::unix_ms();
        let Some(key) = token::id(id) else { return Ok(false) };
        // First in memory: a token that is denied too early does less harm than one that is denied too late.
        let known = self.write().revoke(&key, now);
        // Also where it was revoked before: that may have failed here.
        let stored = self.store.revoke_token(id, now).await?;
        Ok(known || stored)
    }

    /// What is kept of every token, ended ones included, oldest first; without those that live for seconds.
    pub fn list(&self) -> Vec<TokenRecord> {
        let mut records: Vec<TokenRecord> = self.read().kept.values().map(|key| (*key.record).clone()).collect();
        records.sort_by(|a, b| (a.created_at_ms, &a.id).cmp(&(b.created_at_ms, &b.id)));
        records
    }

    /// Where the bound is reached, forgets what has ended; fails where that frees nothing.
    async fn make_room(&self, now: i64) -> Result<(), MintError> {
        if self.read().kept.len() < MOST_KEPT {
            return Ok(());
        }
        self.store.delete_ended_tokens(now).await?;
        let mut ring = self.write();
        ring.kept.retain(|_, key| !key.ended_before(now));
        if ring.kept.len() < MOST_KEPT { Ok(()) } else { Err(MintError::TooMany { most: MOST_KEPT }) }
    }

    // Nothing panics while it holds the lock, and every change is one insertion: a poisoned ring is still whole.
    fn read(&self) -> RwLockReadGuard<'_, Ring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Ring> {
        self.ring.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("tokens", &self.read().kept.len()).finish_non_exhaustive()
    }
}

/// The longest life of a token that ends, in seconds: a hundred years.
const LONGEST_S: u64 = 100 * 366 * 24 * 3600;

/// When a token ends that is made at `now_ms`.
fn end(now_ms: i64, seconds: u64, longest: u64) -> Result<i64, MintError> {
    let refused = MintError::Lifetime { seconds, longest };
    if !(1..=longest).contains(&seconds) {
        return Err(refused);
    }
    let lifetime = i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX);
    Ok(now_ms.saturating_add(lifetime))
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
