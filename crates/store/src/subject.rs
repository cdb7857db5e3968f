//! The keys of principals, which are erased to erase them from the ledger.

use crate::database::Database;
use crate::error::{Cause, StoreError};
use crate::owner::Store;
use crate::tx::{Value, at_most_one};
use model::{BadName, Principal};

impl Store {
    /// The secret of every principal that has one.
    pub async fn subjects(&self) -> Result<Vec<(Principal, String)>, StoreError> {
        let damaged = |error: BadName| Cause::Damaged { what: format!("{error}") };
        let read = self.read("read the keys of principals", move |tx| {
            let rows = tx.query("SELECT principal, secret FROM subjects", &[])?;
            rows.iter().map(|row| Ok((row.text(0)?.parse().map_err(damaged)?, row.text(1)?.to_owned()))).collect()
        });
        read.await
    }

    /// Keeps `secret` for a principal that has none, and gives the one that it has then.
    pub async fn make_subject(&self, principal: &Principal, secret: &str, at_ms: i64) -> Result<String, StoreError> {
        let (principal, secret) = (principal.to_string(), secret.to_owned());
        let write = self.write("store the key of a principal", move |tx| {
            tx.execute(
                "INSERT INTO subjects (principal, secret, created_at_ms) VALUES ($1, $2, $3)
                    ON CONFLICT (principal) DO NOTHING",
                &[Value::Text(&principal), Value::Text(&secret), Value::Int(at_ms)],
            )?;
            let rows = tx.query("SELECT secret FROM subjects WHERE principal = $1", &[Value::Text(&principal)])?;
            let kept = at_most_one(rows).map(|row| row.text(0).map(str::to_owned)).transpose()?;
            Ok(kept.unwrap_or_else(|| secret.clone()))
        });
        write.await
    }

    /// Forgets the secret of a principal for good. Whether there was one.
    pub async fn erase_subject(&self, principal: &Principal) -> Result<bool, StoreError> {
        let principal = principal.to_string();
        let write = self.write("erase the key of a principal", move |tx| {
            Ok(tx.execute("DELETE FROM subjects WHERE principal = $1", &[Value::Text(&principal)])? > 0)
        });
        write.await
    }

    /// Writes the file of the database anew, so that nothing that was erased is left in what it does not use. PostgreSQL does so
    /// by itself, in its own time.
    pub async fn scrub(&self) -> Result<(), StoreError> {
        self.run("write the database anew", Database::scrub).await
    }
}
