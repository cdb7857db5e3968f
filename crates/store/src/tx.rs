//! The little that the SQL of this crate needs from a database, the same for both.

use crate::error::Cause;
use crate::{postgresql, sqlite};
use rusqlite::types::{ToSqlOutput, ValueRef};

/// A value for a numbered parameter.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    Text(&'a str),
    Int(i64),
    OptText(Option<&'a str>),
    OptInt(Option<i64>),
}

/// A column of a row.
#[derive(Debug)]
pub(crate) enum Cell {
    Null,
    Int(i64),
    Text(String),
}

/// A row that was read.
#[derive(Debug)]
pub(crate) struct Row(pub(crate) Vec<Cell>);

impl Row {
    /// The number in `column`.
    pub(crate) fn int(&self, column: usize) -> Result<i64, Cause> {
        self.opt_int(column)?.ok_or_else(|| unexpected(column, "NULL"))
    }

    /// The number in `column`, or `None` for NULL.
    pub(crate) fn opt_int(&self, column: usize) -> Result<Option<i64>, Cause> {
        match self.0.get(column) {
            Some(Cell::Int(value)) => Ok(Some(*value)),
            Some(Cell::Null) => Ok(None),
            Some(Cell::Text(_)) => Err(unexpected(column, "text")),
            None => Err(unexpected(column, "nothing")),
        }
    }

    /// The text in `column`.
    pub(crate) fn text(&self, column: usize) -> Result<&str, Cause> {
        self.opt_text(column)?.ok_or_else(|| unexpected(column, "NULL"))
    }

    /// The text in `column`, or `None` for NULL.
    pub(crate) fn opt_text(&self, column: usize) -> Result<Option<&str>, Cause> {
        match self.0.get(column) {
            Some(Cell::Text(value)) => Ok(Some(value)),
            Some(Cell::Null) => Ok(None),
            Some(Cell::Int(_)) => Err(unexpected(column, "a number")),
            None => Err(unexpected(column, "nothing")),
        }
    }
}

fn unexpected(column: usize, found: &str) -> Cause {
    Cause::Damaged { what: format!("{found} in column {column} of a row") }
}

/// The one row of a query that has at most one.
pub(crate) fn at_most_one(rows: Vec<Row>) -> Option<Row> {
    rows.into_iter().next()
}

/// What a commit must outlive before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outlives {
    /// The death of this process.
    Process,
    /// The death of the database's machine too.
    Machine,
}

/// The open connection, in or outside a transaction.
pub(crate) enum Tx<'a> {
    Sqlite(&'a rusqlite::Connection),
    Postgres(&'a mut postgres::Client),
}

impl Tx<'_> {
    /// Runs a statement that answers no rows; says how many it changed.
    pub(crate) fn execute(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<u64, Cause> {
        storable(values)?;
        match self {
            Self::Sqlite(connection) => sqlite::execute(connection, sql, values),
            Self::Postgres(client) => postgresql::execute(client, sql, values),
        }
    }

    /// Runs a statement that answers rows.
    pub(crate) fn query(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<Vec<Row>, Cause> {
        storable(values)?;
        match self {
            Self::Sqlite(connection) => sqlite::query(connection, sql, values),
            Self::Postgres(client) => postgresql::query(client, sql, values),
        }
    }

    /// Runs several statements without parameters.
    pub(crate) fn script(&mut self, sql: &str) -> Result<(), Cause> {
        match self {
            Self::Sqlite(connection) => connection.execute_batch(sql).map_err(sqlite::cause),
            Self::Postgres(client) => client.batch_execute(sql).map_err(postgresql::cause),
        }
    }

    /// Whether the table exists in our schema.
    pub(crate) fn has_table(&mut self, name: &str) -> Result<bool, Cause> {
        let sql = match self {
            Self::Sqlite(_) => sqlite::HAS_TABLE,
            Self::Postgres(_) => postgresql::HAS_TABLE,
        };
        Ok(!self.query(sql, &[Value::Text(name)])?.is_empty())
    }

    /// Begins a transaction and waits until no other writer is in one.
    pub(crate) fn begin(&mut self, outlives: Outlives) -> Result<(), Cause> {
        match self {
            // SQLite is told outside of the transaction.
            Self::Sqlite(connection) => connection.execute_batch(sqlite::BEGIN).map_err(sqlite::cause),
            Self::Postgres(client) => postgresql::begin(client, outlives),
        }
    }

    /// Commits. What it answers with `Ok` is durable, as far as the transaction was to be.
    pub(crate) fn commit(&mut self) -> Result<(), Cause> {
        match self {
            Self::Sqlite(connection) => sqlite::commit(connection),
            Self::Postgres(client) => postgresql::commit(client),
        }
    }

    /// Undoes the transaction. Where that fails the connection is broken or has undone it already.
    pub(crate) fn roll_back(&mut self) {
        match self {
            Self::Sqlite(connection) => sqlite::roll_back(connection),
            Self::Postgres(client) => postgresql::roll_back(client),
        }
    }
}

/// PostgreSQL refuses NUL in text and SQLite does not: refuse it for both.
fn storable(values: &[Value<'_>]) -> Result<(), Cause> {
    let has_nul = |value: &Value<'_>| match value {
        Value::Text(text) | Value::OptText(Some(text)) => text.contains('\0'),
        Value::Int(_) | Value::OptText(None) | Value::OptInt(_) => false,
    };
    if values.iter().any(has_nul) { Err(Cause::Nul) } else { Ok(()) }
}

impl rusqlite::ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Text(text) | Self::OptText(Some(text)) => ValueRef::Text(text.as_bytes()),
            Self::Int(number) | Self::OptInt(Some(number)) => ValueRef::Integer(*number),
            Self::OptText(None) | Self::OptInt(None) => ValueRef::Null,
        }))
    }
}
