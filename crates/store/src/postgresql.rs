//! What is special to PostgreSQL: the connection that may be lost and made again, and what its errors mean.

use crate::error::{Cause, Driver, OpenError};
use crate::tx::{Cell, Outlives, Row, Value};
use bytes::BytesMut;
use postgres::config::SslMode;
use postgres::error::SqlState;
use postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use postgres::{Client, Config, Error, NoTls};
use std::error::Error as _;
use std::time::{Duration, Instant};
use stdx::{backoff, clock, random};

/// How long one attempt to connect may take, where the connection string does not say.
const CONNECT: Duration = Duration::from_secs(3);
/// How long the operation that met a lost connection tries to make a new one.
const RECONNECT: Duration = Duration::from_secs(5);
/// How long after that operations fail at once: a queue of them must not wait for its turn to time out.
const GIVE_UP: Duration = Duration::from_secs(1);
/// First and longest wait between attempts.
const WAIT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A lock or a statement that takes longer is an error, as in SQLite. A commit survives the server's crash even where
/// its default says otherwise.
const SESSION: &str = "SET lock_timeout = '5s'; SET statement_timeout = '10s';
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// One writer at a time within a schema, as in SQLite: so the two databases give the same answers to the same races.
const BEGIN: &str = "BEGIN; SELECT pg_advisory_xact_lock(1937006964, hashtext(current_schema()))";

/// The same, for what need not survive the death of the database's machine.
const BEGIN_RELAXED: &str = "BEGIN; SET LOCAL synchronous_commit = off;
    SELECT pg_advisory_xact_lock(1937006964, hashtext(current_schema()))";

pub(crate) const HAS_TABLE: &str =
    "SELECT tablename::text FROM pg_catalog.pg_tables WHERE schemaname = current_schema() AND tablename = $1";

/// The connection, or the means to make it again.
pub(crate) struct Link {
    config: Config,
    client: Option<Client>,
    failed_at: Option<Instant>,
}

impl Link {
    /// Connects for the first time.
    pub(crate) fn open(text: &str) -> Result<Self, OpenError> {
        let mut config: Config = text.parse().map_err(|_| OpenError::BadConnectionString)?;
        // The other modes say "TLS if you can" and work without.
        if config.get_ssl_mode() == SslMode::Require {
            return Err(OpenError::Tls);
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(RECONNECT);
        }
        if config.get_application_name().is_none() {
            config.application_name("staithe");
        }
        let mut client = persist(&config).map_err(|error| OpenError::Unreachable(Box::new(error)))?;
        if !has_schema(&mut client).map_err(|error| OpenError::Unreachable(Box::new(error)))? {
            return Err(OpenError::NoSchema);
        }
        Ok(Self { config, client: Some(client), failed_at: None })
    }

    /// Runs `work` on the connection. Where that turns out to be lost before anything was committed, once more on a
    /// new one.
    pub(crate) fn with<T>(&mut self, mut work: impl FnMut(&mut Client) -> Result<T, Cause>) -> Result<T, Cause> {
        let first = work(self.client()?);
        let lost = match &first {
            Err(Cause::Unreachable(_)) => true,
            Err(Cause::OutcomeUnknown(_)) => {
                self.client = None;
                false
            }
            _ => false,
        };
        if !lost {
            return first;
        }
        self.client = None;
        let second = work(self.client()?);
        if matches!(second, Err(Cause::Unreachable(_) | Cause::OutcomeUnknown(_))) {
            self.client = None;
        }
        second
    }

    /// The living connection, made again if need be.
    fn client(&mut self) -> Result<&mut Client, Cause> {
        if self.client.as_ref().is_some_and(Client::is_closed) {
            self.client = None;
        }
        let client = match self.client.take() {
            Some(client) => client,
            None => self.reconnect()?,
        };
        Ok(self.client.insert(client))
    }

    fn reconnect(&mut self) -> Result<Client, Cause> {
        if self.failed_at.is_some_and(|at| at.elapsed() < GIVE_UP) {
            let text = "an attempt failed less than a second ago";
            return Err(Cause::Unreachable(Driver::from(text)));
        }
        tracing::warn!("the connection to PostgreSQL was lost; connecting again");
        match persist(&self.config) {
            Ok(client) => {
                tracing::info!("connected to PostgreSQL again");
                self.failed_at = None;
                Ok(client)
            }
            Err(error) => {
                self.failed_at = Some(clock::monotonic());
                Err(Cause::Unreachable(Box::new(error)))
            }
        }
    }
}

/// Connects, with pauses and for a bounded time, as long as time can help.
fn persist(config: &Config) -> Result<Client, Error> {
    let began = clock::monotonic();
    let mut attempt = 0;
    loop {
        let error = match connect(config) {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        attempt += 1;
        let pause = backoff::delay(WAIT.0, WAIT.1, attempt, random::fraction());
        if !can_pass(&error) || began.elapsed() + pause >= RECONNECT {
            return Err(error);
        }
        std::thread::sleep(pause);
    }
}

fn connect(config: &Config) -> Result<Client, Error> {
    let mut client = config.connect(NoTls)?;
    client.batch_execute(SESSION)?;
    Ok(client)
}

/// A wrong password stays wrong; a server that starts, stops or is full will change.
fn can_pass(error: &Error) -> bool {
    error.code().is_none_or(|code| is_lost(code) || *code == SqlState::TOO_MANY_CONNECTIONS)
}

fn is_lost(code: &SqlState) -> bool {
    code.code().starts_with("08")
        || [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW].contains(code)
}

fn has_schema(client: &mut Client) -> Result<bool, Error> {
    let row = client.query_one("SELECT current_schema() IS NOT NULL", &[])?;
    row.try_get(0)
}

/// Runs a statement that answers no rows.
pub(crate) fn execute(client: &mut Client, sql: &str, values: &[Value<'_>]) -> Result<u64, Cause> {
    client.execute_typed(sql, &typed(values)).map_err(cause)
}

/// Runs a statement that answers rows.
pub(crate) fn query(client: &mut Client, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, Cause> {
    let rows = client.query_typed(sql, &typed(values)).map_err(cause)?;
    rows.iter()
        .map(|row| Ok(Row((0..row.len()).map(|column| cell(row, column)).collect::<Result<_, Cause>>()?)))
        .collect()
}

fn cell(row: &postgres::Row, column: usize) -> Result<Cell, Cause> {
    let damaged = |error: Error| Cause::Damaged { what: error.to_string() };
    let kind = row.columns()[column].type_();
    if *kind == Type::INT8 {
        let value: Option<i64> = row.try_get(column).map_err(damaged)?;
        Ok(value.map_or(Cell::Null, Cell::Int))
    } else {
        let value: Option<String> = row.try_get(column).map_err(damaged)?;
        Ok(value.map_or(Cell::Null, Cell::Text))
    }
}

/// Types are given, not asked for: one round trip, and no prepared statement that a connection pooler would lose.
fn typed<'a>(values: &'a [Value<'a>]) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
    let typed = values.iter().map(|value| {
        let kind = match value {
            Value::Text(_) | Value::OptText(_) => Type::TEXT,
            Value::Int(_) | Value::OptInt(_) => Type::INT8,
        };
        let value: &(dyn ToSql + Sync) = value;
        (value, kind)
    });
    typed.collect()
}

impl ToSql for Value<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Driver> {
        match self {
            Self::Text(text) | Self::OptText(Some(text)) => text.to_sql(kind, out),
            Self::Int(number) | Self::OptInt(Some(number)) => number.to_sql(kind, out),
            Self::OptText(None) | Self::OptInt(None) => Ok(IsNull::Yes),
        }
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TEXT || *kind == Type::INT8
    }

    to_sql_checked!();
}

/// Begins a transaction and waits until no other writer is in one.
pub(crate) fn begin(client: &mut Client, outlives: Outlives) -> Result<(), Cause> {
    let sql = match outlives {
        Outlives::Machine => BEGIN,
        Outlives::Process => BEGIN_RELAXED,
    };
    client.batch_execute(sql).map_err(|error| {
        roll_back(client);
        cause(error)
    })
}

/// Commits. Where the connection breaks during it, nobody can say whether it happened.
pub(crate) fn commit(client: &mut Client) -> Result<(), Cause> {
    client.batch_execute("COMMIT").map_err(|error| match cause(error) {
        Cause::Unreachable(source) => Cause::OutcomeUnknown(source),
        other => other,
    })
}

/// Undoes the transaction. On a broken connection the server does it.
pub(crate) fn roll_back(client: &mut Client) {
    if let Err(error) = client.batch_execute("ROLLBACK") {
        tracing::debug!(%error, "PostgreSQL could not roll back on this connection");
    }
}

/// What an error of PostgreSQL means for an operation.
pub(crate) fn cause(error: Error) -> Cause {
    let Some(code) = error.code() else {
        let lost = error.is_closed() || error.source().is_some_and(<dyn std::error::Error>::is::<std::io::Error>);
        return if lost { Cause::Unreachable(Box::new(error)) } else { Cause::Refused(Box::new(error)) };
    };
    if is_lost(code) {
        Cause::Unreachable(Box::new(error))
    } else if *code == SqlState::UNIQUE_VIOLATION {
        Cause::Exists
    } else if *code == SqlState::LOCK_NOT_AVAILABLE || *code == SqlState::QUERY_CANCELED {
        Cause::Busy(Box::new(error))
    } else if *code == SqlState::DISK_FULL {
        Cause::Full(Box::new(error))
    } else if *code == SqlState::READ_ONLY_SQL_TRANSACTION {
        Cause::ReadOnly(Box::new(error))
    } else if *code == SqlState::DATA_CORRUPTED || *code == SqlState::INDEX_CORRUPTED {
        Cause::Damaged { what: error.to_string() }
    } else {
        Cause::Refused(Box::new(error))
    }
}
