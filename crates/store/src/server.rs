//! Servers and their generations.

use crate::error::{Cause, StoreError};
use crate::owner::Store;
use crate::tx::{Row, Tx, Value, at_most_one};
use model::{ServerName, ServerSpec};
use stdx::clock;

/// The most that one server's desired state may take, as JSON, in bytes. An argument list beyond it would not start.
const SPEC_LIMIT: usize = 1 << 20;

const CURRENT: &str = "SELECT g.spec_json, s.generation, s.enabled FROM servers s
    JOIN generations g ON g.server = s.name AND g.generation = s.generation";
const CURRENT_OF: &str = "SELECT g.spec_json, s.generation, s.enabled FROM servers s
    JOIN generations g ON g.server = s.name AND g.generation = s.generation WHERE s.name = $1";

impl Store {
    /// Every server, by name.
    pub async fn servers(&self) -> Result<Vec<ServerSpec>, StoreError> {
        let read = self.read("read the servers", |tx| tx.query(CURRENT, &[])?.iter().map(spec).collect());
        let mut servers: Vec<ServerSpec> = read.await?;
        // Not in SQL: the two databases collate differently.
        servers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(servers)
    }

    /// One server.
    pub async fn server(&self, name: &ServerName) -> Result<Option<ServerSpec>, StoreError> {
        let name = name.clone();
        self.read("read a server", move |tx| current(tx, &name)).await
    }

    /// One desired state that a server has or had, also after the server was removed. Its `enabled` is always true:
    /// the switch is no part of a generation.
    pub async fn generation(&self, name: &ServerName, generation: u64) -> Result<Option<ServerSpec>, StoreError> {
        let name = name.clone();
        // No number beyond BIGINT was ever given out.
        let Ok(number) = i64::try_from(generation) else { return Ok(None) };
        let read = self.read("read a generation", move |tx| {
            let sql = "SELECT spec_json, generation, CAST(1 AS BIGINT) FROM generations
                WHERE server = $1 AND generation = $2";
            let rows = tx.query(sql, &[Value::Text(name.as_str()), Value::Int(number)])?;
            at_most_one(rows).as_ref().map(spec).transpose()
        });
        read.await
    }

    /// Makes `spec` the desired state of its server and answers it with its generation, which is the current one where
    /// nothing but `enabled` differs, else the number after the last that this name ever had. The generation that
    /// the caller set is ignored.
    pub async fn put_server(&self, spec: ServerSpec) -> Result<ServerSpec, StoreError> {
        self.write("store a server", move |tx| put(tx, &spec)).await
    }

    /// Turns a server on or off and answers it; `None` where there is no such server. Makes no generation.
    pub async fn set_enabled(&self, name: &ServerName, enabled: bool) -> Result<Option<ServerSpec>, StoreError> {
        let name = name.clone();
        let write = self.write("enable or disable a server", move |tx| {
            switch(tx, &name, enabled)?;
            current(tx, &name)
        });
        write.await
    }

    /// Forgets a server, its era verdict and its sessions; says whether it was there. Its generations stay, so that their numbers
    /// are never given out again.
    pub async fn remove_server(&self, name: &ServerName) -> Result<bool, StoreError> {
        let name = name.clone();
        let write = self.write("remove a server", move |tx| {
            tx.execute("DELETE FROM verdicts WHERE server = $1", &[Value::Text(name.as_str())])?;
            tx.execute("DELETE FROM sessions WHERE server = $1", &[Value::Text(name.as_str())])?;
            Ok(tx.execute("DELETE FROM servers WHERE name = $1", &[Value::Text(name.as_str())])? > 0)
        });
        write.await
    }
}

fn put(tx: &mut Tx<'_>, spec: &ServerSpec) -> Result<ServerSpec, Cause> {
    if let Some(now) = current(tx, &spec.name)? {
        let same = ServerSpec { enabled: spec.enabled, generation: now.generation, ..spec.clone() };
        if (ServerSpec { enabled: spec.enabled, ..now.clone() }) == same {
            if now.enabled != spec.enabled {
                switch(tx, &spec.name, spec.enabled)?;
            }
            return Ok(same);
        }
    }
    let generation = add_generation(tx, spec)?;
    tx.execute(
        "INSERT INTO servers (name, generation, enabled) VALUES ($1, $2, $3)
            ON CONFLICT (name) DO UPDATE SET generation = excluded.generation, enabled = excluded.enabled",
        &[Value::Text(spec.name.as_str()), Value::Int(generation), Value::Int(i64::from(spec.enabled))],
    )?;
    Ok(ServerSpec { generation: unsigned(generation)?, ..spec.clone() })
}

fn add_generation(tx: &mut Tx<'_>, spec: &ServerSpec) -> Result<i64, Cause> {
    let name = Value::Text(spec.name.as_str());
    let rows = tx.query("SELECT COALESCE(MAX(generation), 0) FROM generations WHERE server = $1", &[name])?;
    let generation = rows.first().map_or(Ok(0), |row| row.int(0))? + 1;
    let kept = ServerSpec { generation: unsigned(generation)?, enabled: true, ..spec.clone() };
    let json = serde_json::to_string(&kept).map_err(|error| Cause::Refused(Box::new(error)))?;
    if json.len() > SPEC_LIMIT {
        return Err(Cause::TooLarge { what: "the server's description", bytes: json.len(), limit: SPEC_LIMIT });
    }
    tx.execute(
        "INSERT INTO generations (server, generation, spec_json, made_at_ms) VALUES ($1, $2, $3, $4)",
        &[name, Value::Int(generation), Value::Text(&json), Value::Int(clock::unix_ms())],
    )?;
    Ok(generation)
}

fn switch(tx: &mut Tx<'_>, name: &ServerName, enabled: bool) -> Result<u64, Cause> {
    let values = [Value::Int(i64::from(enabled)), Value::Text(name.as_str())];
    tx.execute("UPDATE servers SET enabled = $1 WHERE name = $2", &values)
}

fn current(tx: &mut Tx<'_>, name: &ServerName) -> Result<Option<ServerSpec>, Cause> {
    let rows = tx.query(CURRENT_OF, &[Value::Text(name.as_str())])?;
    at_most_one(rows).as_ref().map(spec).transpose()
}

/// From `spec_json, generation, enabled`.
fn spec(row: &Row) -> Result<ServerSpec, Cause> {
    // The error of the parser is not repeated: it may quote a secret of the environment.
    let mut spec: ServerSpec = serde_json::from_str(row.text(0)?)
        .map_err(|_| Cause::Damaged { what: "a server's description is not readable".to_owned() })?;
    spec.generation = unsigned(row.int(1)?)?;
    spec.enabled = row.int(2)? != 0;
    Ok(spec)
}

fn unsigned(generation: i64) -> Result<u64, Cause> {
    u64::try_from(generation).map_err(|_| Cause::Damaged { what: format!("generation {generation}") })
}
