//! Legacy sessions, what their clients subscribed to, and their calls that are open. All writes are relaxed: after the
//! death of the machine no connection of a client is left that could miss them, and the next full write keeps them too.

use crate::error::{Cause, StoreError};
use crate::owner::Store;
use crate::tx::{Row, Tx, Value, at_most_one};
use model::{BadName, OpenCall, Principal, ServerName, SessionRecord};
use std::str::FromStr;

/// The most that the address of a resource may have, in bytes.
const URI_LIMIT: usize = 16 << 10;
/// The most that a client's request id or a method may have, in bytes, for its stream to be found after a restart.
const CALL_LIMIT: usize = 4 << 10;

const SESSIONS: &str =
    "SELECT id, server, principal, client, revision, capabilities, client_info, label, level, standing,
    opened_at_ms, used_at_ms FROM sessions";
const OWN_SESSION: &str =
    "SELECT id, server, principal, client, revision, capabilities, client_info, label, level, standing,
    opened_at_ms, used_at_ms FROM sessions WHERE id = $1 AND principal = $2 AND client = $3 AND server = $4";
const OPEN_CALLS: &str =
    "SELECT session, stream, upstream, instance, server, client_id, method, leg, deadline_ms FROM open_calls";
/// The same of one session.
const OPEN_CALLS_OF: &str = "SELECT session, stream, upstream, instance, server, client_id, method, leg, deadline_ms FROM open_calls WHERE session = $1";

impl Store {
    /// Keeps a new session, without subscriptions. Survives this process; see [`Store::write_relaxed`].
    pub async fn open_session(&self, session: SessionRecord) -> Result<(), StoreError> {
        self.write_relaxed("store a session", move |tx| insert(tx, &session)).await
    }

    /// Every session with its subscriptions, the one that was used last first.
    pub async fn sessions(&self) -> Result<Vec<SessionRecord>, StoreError> {
        let rows = self.read("read the sessions", |tx| tx.query(SESSIONS, &[])?.iter().map(session).collect());
        let mut sessions: Vec<SessionRecord> = rows.await?;
        sessions.sort_by(|a, b| (b.used_at_ms, &b.id).cmp(&(a.used_at_ms, &a.id)));
        let wanted = self.read("read the subscriptions", |tx| {
            let rows = tx.query("SELECT session, uri FROM session_subscriptions", &[])?;
            rows.iter().map(|row| Ok((row.text(0)?.to_owned(), row.text(1)?.to_owned()))).collect()
        });
        let wanted: Vec<(String, String)> = wanted.await?;
        let mut by_session = std::collections::HashMap::<String, Vec<String>>::new();
        for (session, uri) in wanted {
            by_session.entry(session).or_default().push(uri);
        }
        for session in &mut sessions {
            session.subscriptions = by_session.remove(&session.id).unwrap_or_default();
            session.subscriptions.sort();
        }
        Ok(sessions)
    }

    /// The session with this id, if it is this principal's and client's at this server. Another's costs and says as much
    /// as none.
    pub async fn session(
        &self,
        id: &str,
        principal: &Principal,
        client: &str,
        server: &ServerName,
    ) -> Result<Option<SessionRecord>, StoreError> {
        let (key, client) = (id.to_owned(), client.to_owned());
        let (principal, server) = (principal.clone(), server.clone());
        let read = self.read("read a session", move |tx| {
            let own = [
                Value::Text(&key),
                Value::Text(principal.as_str()),
                Value::Text(&client),
                Value::Text(server.as_str()),
            ];
            at_most_one(tx.query(OWN_SESSION, &own)?).as_ref().map(session).transpose()
        });
        let Some(mut found) = read.await? else { return Ok(None) };
        let key = id.to_owned();
        let uris = self.read("read the subscriptions of a session", move |tx| {
            let rows = tx.query("SELECT uri FROM session_subscriptions WHERE session = $1", &[Value::Text(&key)])?;
            rows.iter().map(|row| row.text(0).map(str::to_owned)).collect()
        });
        found.subscriptions = uris.await?;
        found.subscriptions.sort();
        Ok(Some(found))
    }

    /// Forgets sessions, with their subscriptions and open calls. Those that are not there count as forgotten.
    pub async fn end_sessions(&self, ids: Vec<String>) -> Result<(), StoreError> {
        let write = self.write_relaxed("end sessions", move |tx| {
            for id in &ids {
                tx.execute("DELETE FROM sessions WHERE id = $1", &[Value::Text(id)])?;
            }
            Ok(())
        });
        write.await
    }

    /// Forgets every session of a server.
    pub async fn end_sessions_of(&self, server: &ServerName) -> Result<(), StoreError> {
        let server = server.clone();
        let write = self.write_relaxed("end the sessions of a server", move |tx| {
            tx.execute("DELETE FROM sessions WHERE server = $1", &[Value::Text(server.as_str())])?;
            Ok(())
        });
        write.await
    }

    /// The sessions were used at these times, Unix milliseconds.
    pub async fn use_sessions(&self, used: Vec<(String, i64)>) -> Result<(), StoreError> {
        let write = self.write_relaxed("note the use of sessions", move |tx| {
            for (id, at_ms) in &used {
                let sql = "UPDATE sessions SET used_at_ms = $1 WHERE id = $2";
                tx.execute(sql, &[Value::Int(*at_ms), Value::Text(id)])?;
            }
            Ok(())
        });
        write.await
    }

    /// The client of a session wants log messages of at least this severity.
    pub async fn set_session_level(&self, id: &str, level: &str) -> Result<(), StoreError> {
        let (id, level) = (id.to_owned(), level.to_owned());
        let write = self.write_relaxed("store a log level", move |tx| {
            tx.execute("UPDATE sessions SET level = $1 WHERE id = $2", &[Value::Text(&level), Value::Text(&id)])?;
            Ok(())
        });
        write.await
    }

    /// The number of a session's stream of what belongs to no request.
    pub async fn set_standing_stream(&self, id: &str, stream: u64) -> Result<(), StoreError> {
        let id = id.to_owned();
        let write = self.write_relaxed("store the number of a stream", move |tx| {
            let values = [Value::Int(signed(stream)?), Value::Text(&id)];
            tx.execute("UPDATE sessions SET standing = $1 WHERE id = $2", &values)?;
            Ok(())
        });
        write.await
    }

    /// The client of a session subscribed to a resource, whose address has at most 16 KiB. Once is as good as twice.
    pub async fn add_session_subscription(&self, id: &str, uri: &str) -> Result<(), StoreError> {
        let (id, uri) = (id.to_owned(), uri.to_owned());
        let write = self.write_relaxed("store a subscription", move |tx| {
            within("the address of the resource", &uri, URI_LIMIT)?;
            let values = [Value::Text(&id), Value::Text(&uri)];
            tx.execute("DELETE FROM session_subscriptions WHERE session = $1 AND uri = $2", &values)?;
            // Of a session that has ended meanwhile nothing is kept.
            let sql = "INSERT INTO session_subscriptions (session, uri) SELECT id, $1 FROM sessions WHERE id = $2";
            tx.execute(sql, &[Value::Text(&uri), Value::Text(&id)])?;
            Ok(())
        });
        write.await
    }

    /// The client no longer wants a resource.
    pub async fn end_session_subscription(&self, id: &str, uri: &str) -> Result<(), StoreError> {
        let (id, uri) = (id.to_owned(), uri.to_owned());
        let write = self.write_relaxed("end a subscription", move |tx| {
            let sql = "DELETE FROM session_subscriptions WHERE session = $1 AND uri = $2";
            tx.execute(sql, &[Value::Text(&id), Value::Text(&uri)])?;
            Ok(())
        });
        write.await
    }

    /// Keeps an open call in place of what was kept about its stream. Of a session that is not kept nothing is.
    pub async fn put_open_call(&self, call: OpenCall) -> Result<(), StoreError> {
        let write = self.write_relaxed("store an open call", move |tx| {
            within("the request id", &call.client_id, CALL_LIMIT)?;
            within("the method", &call.method, CALL_LIMIT)?;
            let (session, stream) = (Value::Text(&call.session), Value::Int(signed(call.stream)?));
            tx.execute("DELETE FROM open_calls WHERE session = $1 AND stream = $2", &[session, stream])?;
            tx.execute(
                "INSERT INTO open_calls (session, stream, upstream, instance, server, client_id, method, leg, deadline_ms)
                    SELECT id, $1, $2, $3, $4, $5, $6, $7, $8 FROM sessions WHERE id = $9",
                &[
                    stream,
                    Value::Int(signed(call.upstream)?),
                    Value::Int(signed(call.instance)?),
                    Value::Text(call.server.as_str()),
                    Value::Text(&call.client_id),
                    Value::Text(&call.method),
                    Value::Text(&call.leg),
                    Value::Int(call.deadline_ms),
                    session,
                ],
            )?;
            Ok(())
        });
        write.await
    }

    /// The call on this stream has its answer: whoever comes later need not wait for one.
    pub async fn open_call_answered(&self, session: &str, stream: u64) -> Result<(), StoreError> {
        let session = session.to_owned();
        let write = self.write_relaxed("note the answer to an open call", move |tx| {
            let values = [Value::Text(&session), Value::Int(signed(stream)?)];
            tx.execute("UPDATE open_calls SET deadline_ms = 0 WHERE session = $1 AND stream = $2", &values)?;
            Ok(())
        });
        write.await
    }

    /// The call on this stream is over.
    pub async fn end_open_call(&self, session: &str, stream: u64) -> Result<(), StoreError> {
        let session = session.to_owned();
        let write = self.write_relaxed("end an open call", move |tx| {
            let values = [Value::Text(&session), Value::Int(signed(stream)?)];
            tx.execute("DELETE FROM open_calls WHERE session = $1 AND stream = $2", &values)?;
            Ok(())
        });
        write.await
    }

    /// The open calls of one session.
    pub async fn open_calls_of(&self, session: &str) -> Result<Vec<OpenCall>, StoreError> {
        let session = session.to_owned();
        let rows = self.read("read the open calls of a session", move |tx| {
            tx.query(OPEN_CALLS_OF, &[Value::Text(&session)])?.iter().map(open_call).collect()
        });
        rows.await
    }

    /// Every open call, by the id that the server knows.
    pub async fn open_calls(&self) -> Result<Vec<OpenCall>, StoreError> {
        let rows = self.read("read the open calls", |tx| tx.query(OPEN_CALLS, &[])?.iter().map(open_call).collect());
        let mut calls: Vec<OpenCall> = rows.await?;
        calls.sort_by_key(|call| call.upstream);
        Ok(calls)
    }
}

fn insert(tx: &mut Tx<'_>, session: &SessionRecord) -> Result<(), Cause> {
    tx.execute(
        "INSERT INTO sessions (id, server, principal, client, revision, capabilities, client_info, label, level, standing,
            opened_at_ms, used_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        &[
            Value::Text(&session.id),
            Value::Text(session.server.as_str()),
            Value::Text(session.principal.as_str()),
            Value::Text(&session.client),
            Value::Text(&session.revision),
            Value::Text(&session.capabilities),
            Value::Text(&session.client_info),
            Value::Text(&session.label),
            Value::OptText(session.level.as_deref()),
            Value::OptInt(session.standing.map(signed).transpose()?),
            Value::Int(session.opened_at_ms),
            Value::Int(session.used_at_ms),
        ],
    )?;
    Ok(())
}

fn within(what: &'static str, text: &str, limit: usize) -> Result<(), Cause> {
    if text.len() > limit { Err(Cause::TooLarge { what, bytes: text.len(), limit }) } else { Ok(()) }
}

fn signed(number: u64) -> Result<i64, Cause> {
    i64::try_from(number).map_err(|error| Cause::Refused(Box::new(error)))
}

fn unsigned(number: i64) -> Result<u64, Cause> {
    u64::try_from(number).map_err(|_| Cause::Damaged { what: format!("the number {number}") })
}

fn name<T: FromStr<Err = BadName>>(text: &str) -> Result<T, Cause> {
    text.parse().map_err(|error: BadName| Cause::Damaged { what: error.to_string() })
}

/// Without its subscriptions.
fn session(row: &Row) -> Result<SessionRecord, Cause> {
    Ok(SessionRecord {
        id: row.text(0)?.to_owned(),
        server: name(row.text(1)?)?,
        principal: name(row.text(2)?)?,
        client: row.text(3)?.to_owned(),
        revision: row.text(4)?.to_owned(),
        capabilities: row.text(5)?.to_owned(),
        client_info: row.text(6)?.to_owned(),
        label: row.text(7)?.to_owned(),
        level: row.opt_text(8)?.map(str::to_owned),
        standing: row.opt_int(9)?.map(unsigned).transpose()?,
        opened_at_ms: row.int(10)?,
        used_at_ms: row.int(11)?,
        subscriptions: Vec::new(),
    })
}

fn open_call(row: &Row) -> Result<OpenCall, Cause> {
    Ok(OpenCall {
        session: row.text(0)?.to_owned(),
        stream: unsigned(row.int(1)?)?,
        upstream: unsigned(row.int(2)?)?,
        instance: unsigned(row.int(3)?)?,
        server: name(row.text(4)?)?,
        client_id: row.text(5)?.to_owned(),
        method: row.text(6)?.to_owned(),
        leg: row.text(7)?.to_owned(),
        deadline_ms: row.int(8)?,
    })
}
