//! One connection with its transactions, and a new connection where PostgreSQL dropped the old one.

use crate::error::{Cause, OpenError};
use crate::location::Location;
use crate::postgresql::Link;
use crate::tx::{Outlives, Tx};
use crate::{migrate, sqlite};

/// The open database. Only the owner thread has one.
pub(crate) enum Database {
    Sqlite(rusqlite::Connection),
    Postgres(Box<Link>),
}

impl Database {
    /// Opens or creates it and brings its tables up to date.
    pub(crate) fn open(location: &Location) -> Result<Self, OpenError> {
        let mut database = match location {
            Location::Sqlite(path) => Self::Sqlite(sqlite::open(path)?),
            Location::Postgres(text) => Self::Postgres(Box::new(Link::open(text)?)),
        };
        migrate::migrate(&mut database)?;
        Ok(database)
    }

    /// Runs one SELECT outside a transaction; repeats it once where the connection was lost.
    pub(crate) fn read<T>(&mut self, mut body: impl FnMut(&mut Tx<'_>) -> Result<T, Cause>) -> Result<T, Cause> {
        match self {
            Self::Sqlite(connection) => body(&mut Tx::Sqlite(connection)),
            Self::Postgres(link) => link.with(|client| body(&mut Tx::Postgres(client))),
        }
    }

    /// Runs `body` in a transaction that excludes every other writer, and commits. On any error nothing is changed,
    /// except that a connection lost during the commit leaves the outcome unknown.
    pub(crate) fn write<T>(&mut self, mut body: impl FnMut(&mut Tx<'_>) -> Result<T, Cause>) -> Result<T, Cause> {
        match self {
            Self::Sqlite(connection) => transact(&mut Tx::Sqlite(connection), &mut body, Outlives::Machine),
            Self::Postgres(link) => {
                link.with(|client| transact(&mut Tx::Postgres(client), &mut body, Outlives::Machine))
            }
        }
    }

    /// Leaves nothing in the file of what was deleted.
    pub(crate) fn scrub(&mut self) -> Result<(), Cause> {
        match self {
            Self::Sqlite(connection) => sqlite::scrub(connection),
            Self::Postgres(_) => Ok(()),
        }
    }

    /// The same without waiting for the disk: the commit outlives this process, and the machine only from the next
    /// [`Database::write`] on.
    pub(crate) fn write_relaxed<T>(
        &mut self,
        mut body: impl FnMut(&mut Tx<'_>) -> Result<T, Cause>,
    ) -> Result<T, Cause> {
        match self {
            Self::Sqlite(connection) => {
                sqlite::relax(connection)?;
                let done = transact(&mut Tx::Sqlite(connection), &mut body, Outlives::Process);
                sqlite::insist(connection)?;
                done
            }
            Self::Postgres(link) => {
                link.with(|client| transact(&mut Tx::Postgres(client), &mut body, Outlives::Process))
            }
        }
    }
}

fn transact<T>(
    tx: &mut Tx<'_>,
    body: &mut impl FnMut(&mut Tx<'_>) -> Result<T, Cause>,
    outlives: Outlives,
) -> Result<T, Cause> {
    tx.begin(outlives)?;
    match body(tx) {
        Ok(done) => {
            tx.commit()?;
            Ok(done)
        }
        Err(cause) => {
            tx.roll_back();
            Err(cause)
        }
    }
}
