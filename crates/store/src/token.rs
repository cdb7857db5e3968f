//! Machine tokens, as hashes.

use crate::error::{Cause, StoreError};
use crate::owner::Store;
use crate::tx::{Row, Value};
use model::{BadName, ServerName, TokenRecord};

/// In the place of a server: the token opens the ledger. No server can have this name.
const AUDIT: &str = "/audit";

impl Store {
    /// Keeps a new token. An id or hash that is there already is refused: a token is never overwritten.
    pub async fn put_token(&self, token: TokenRecord) -> Result<(), StoreError> {
        let write = self.write("store a token", move |tx| {
            tx.execute(
                "INSERT INTO tokens (id, hash, principal, server, created_at_ms, expires_at_ms, revoked_at_ms)
                    VALUES ($1, $2, $3, $4, $5, $6, $7)",
                &[
                    Value::Text(&token.id),
                    Value::Text(&token.hash),
                    Value::Text(token.principal.as_str()),
                    Value::OptText(if token.audit {
                        Some(AUDIT)
                    } else {
                        token.server.as_ref().map(ServerName::as_str)
                    }),
                    Value::Int(token.created_at_ms),
                    Value::OptInt(token.expires_at_ms),
                    Value::OptInt(token.revoked_at_ms),
                ],
            )?;
            Ok(())
        });
        write.await
    }

    /// Every token, ended ones included, oldest first.
    pub async fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        let read = self.read("read the tokens", |tx| {
            let sql = "SELECT id, hash, principal, server, created_at_ms, expires_at_ms, revoked_at_ms FROM tokens";
            tx.query(sql, &[])?.iter().map(token).collect()
        });
        let mut tokens: Vec<TokenRecord> = read.await?;
        tokens.sort_by(|a, b| (a.created_at_ms, &a.id).cmp(&(b.created_at_ms, &b.id)));
        Ok(tokens)
    }

    /// Ends a token at `at_ms`; says whether there was one that was not revoked before. The first revocation's time
    /// stays.
    pub async fn revoke_token(&self, id: &str, at_ms: i64) -> Result<bool, StoreError> {
        let id = id.to_owned();
        let write = self.write("revoke a token", move |tx| {
            let sql = "UPDATE tokens SET revoked_at_ms = $1 WHERE id = $2 AND revoked_at_ms IS NULL";
            Ok(tx.execute(sql, &[Value::Int(at_ms), Value::Text(&id)])? > 0)
        });
        write.await
    }

    /// Deletes the tokens of `principal` that ended before `now_ms`; says how many.
    pub async fn delete_ended_tokens_of(&self, principal: &model::Principal, now_ms: i64) -> Result<u64, StoreError> {
        let principal = principal.to_string();
        let write = self.write("delete ended tokens", move |tx| {
            let sql = "DELETE FROM tokens WHERE principal = $1 AND (expires_at_ms <= $2 OR revoked_at_ms <= $2)";
            tx.execute(sql, &[Value::Text(&principal), Value::Int(now_ms)])
        });
        write.await
    }

    /// Deletes the tokens that expired or were revoked before `before_ms`; says how many.
    pub async fn delete_ended_tokens(&self, before_ms: i64) -> Result<u64, StoreError> {
        let write = self.write("delete ended tokens", move |tx| {
            let sql = "DELETE FROM tokens WHERE expires_at_ms < $1 OR revoked_at_ms < $1";
            tx.execute(sql, &[Value::Int(before_ms)])
        });
        write.await
    }
}

fn token(row: &Row) -> Result<TokenRecord, Cause> {
    let damaged = |error: BadName| Cause::Damaged { what: format!("{error}") };
    let audit = row.opt_text(3)? == Some(AUDIT);
    Ok(TokenRecord {
        id: row.text(0)?.to_owned(),
        hash: row.text(1)?.to_owned(),
        principal: row.text(2)?.parse().map_err(damaged)?,
        audit,
        server: row.opt_text(3)?.filter(|_| !audit).map(str::parse).transpose().map_err(damaged)?,
        created_at_ms: row.int(4)?,
        expires_at_ms: row.opt_int(5)?,
        revoked_at_ms: row.opt_int(6)?,
    })
}
