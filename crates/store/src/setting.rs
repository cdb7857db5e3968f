//! Settings: small facts about this host, by name.

use crate::error::{Cause, StoreError};
use crate::owner::Store;
use crate::tx::{Value, at_most_one};

/// The most that a value may have, in bytes: these are facts, not documents.
const VALUE_LIMIT: usize = 4096;

impl Store {
    /// The value kept under `key`.
    pub async fn setting(&self, key: &str) -> Result<Option<String>, StoreError> {
        let key = key.to_owned();
        let read = self.read("read a setting", move |tx| {
            let rows = tx.query("SELECT value FROM settings WHERE key = $1", &[Value::Text(&key)])?;
            at_most_one(rows).map(|row| row.text(0).map(str::to_owned)).transpose()
        });
        read.await
    }

    /// Keeps `value`, at most 4096 bytes, under `key` in place of the one before.
    pub async fn put_setting(&self, key: &str, value: &str) -> Result<(), StoreError> {
        let (key, value) = (key.to_owned(), value.to_owned());
        let write = self.write("store a setting", move |tx| {
            for (what, text) in [("the setting's name", &key), ("the setting", &value)] {
                if text.len() > VALUE_LIMIT {
                    return Err(Cause::TooLarge { what, bytes: text.len(), limit: VALUE_LIMIT });
                }
            }
            tx.execute(
                "INSERT INTO settings (key, value) VALUES ($1, $2)
                    ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                &[Value::Text(&key), Value::Text(&value)],
            )?;
            Ok(())
        });
        write.await
    }
}
