//! Era verdicts: what the last probe of a server found.

use crate::error::{Cause, StoreError};
use crate::owner::Store;
use crate::tx::{Row, Value, at_most_one};
use model::{EraVerdict, ServerName, Verdict};

/// The most that a server's own `DiscoverResult` may take, in bytes. It is a server's text: it needs a bound.
const DISCOVERED_LIMIT: usize = 1 << 20;

impl Store {
    /// The verdict about a server, if one was kept. Whether it still fits is for the caller to judge by its
    /// fingerprint and date.
    pub async fn verdict(&self, server: &ServerName) -> Result<Option<EraVerdict>, StoreError> {
        let server = server.clone();
        let read = self.read("read an era verdict", move |tx| {
            let sql = "SELECT server, fingerprint, verdict, discovered, probed_at_ms FROM verdicts WHERE server = $1";
            at_most_one(tx.query(sql, &[Value::Text(server.as_str())])?).as_ref().map(verdict).transpose()
        });
        read.await
    }

    /// Keeps a verdict in place of the one before.
    pub async fn put_verdict(&self, found: EraVerdict) -> Result<(), StoreError> {
        let write = self.write("store an era verdict", move |tx| {
            let bytes = found.discovered.as_ref().map_or(0, String::len);
            if bytes > DISCOVERED_LIMIT {
                return Err(Cause::TooLarge { what: "the server's DiscoverResult", bytes, limit: DISCOVERED_LIMIT });
            }
            tx.execute(
                "INSERT INTO verdicts (server, fingerprint, verdict, discovered, probed_at_ms)
                    VALUES ($1, $2, $3, $4, $5)
                    ON CONFLICT (server) DO UPDATE SET fingerprint = excluded.fingerprint, verdict = excluded.verdict,
                        discovered = excluded.discovered, probed_at_ms = excluded.probed_at_ms",
                &[
                    Value::Text(found.server.as_str()),
                    Value::Text(&found.fingerprint),
                    Value::Text(word(found.verdict)),
                    Value::OptText(found.discovered.as_deref()),
                    Value::Int(found.probed_at_ms),
                ],
            )?;
            Ok(())
        });
        write.await
    }

    /// Forgets a verdict, so that the next start probes again. Does nothing where there is none.
    pub async fn forget_verdict(&self, server: &ServerName) -> Result<(), StoreError> {
        let server = server.clone();
        let write = self.write("forget an era verdict", move |tx| {
            tx.execute("DELETE FROM verdicts WHERE server = $1", &[Value::Text(server.as_str())])?;
            Ok(())
        });
        write.await
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Legacy => "legacy",
        Verdict::Modern => "modern",
        Verdict::Dual => "dual",
    }
}

fn verdict(row: &Row) -> Result<EraVerdict, Cause> {
    let server = row.text(0)?;
    Ok(EraVerdict {
        server: server.parse().map_err(|error| Cause::Damaged { what: format!("{error}") })?,
        fingerprint: row.text(1)?.to_owned(),
        verdict: match row.text(2)? {
            "legacy" => Verdict::Legacy,
            "modern" => Verdict::Modern,
            "dual" => Verdict::Dual,
            other => return Err(Cause::Damaged { what: format!("the era verdict {other:?}") }),
        },
        discovered: row.opt_text(3)?.map(str::to_owned),
        probed_at_ms: row.int(4)?,
    })
}
