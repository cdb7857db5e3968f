//! What is special to SQLite: opening a private, durable file, and what its errors mean.

use crate::error::{Cause, OpenError};
use crate::tx::{Cell, Row, Value};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::fs::{OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

/// How long to wait for another process's write. Ours take milliseconds.
const BUSY: Duration = Duration::from_secs(5);

/// Takes the write lock at once, so that a transaction never fails half-way because another writer was faster.
pub(crate) const BEGIN: &str = "BEGIN IMMEDIATE";

pub(crate) const HAS_TABLE: &str = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name = $1";

/// Opens or creates the file, readable by this user only.
pub(crate) fn open(path: &Path) -> Result<Connection, OpenError> {
    create_private(path)?;
    let told = |error| cannot(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(told)?;
    // SQLite opens a file that it cannot write as read-only, without a word.
    if connection.is_readonly("main").map_err(told)? {
        return Err(OpenError::ReadOnly { path: path.to_path_buf() });
    }
    connection.busy_timeout(BUSY).map_err(told)?;
    refuse_foreign(path, &connection)?;
    configure(path, &connection)?;
    Ok(connection)
}

/// The file exists with mode 0600 before SQLite opens it; the log files beside it then get the same mode.
pub(crate) fn create_private(path: &Path) -> Result<(), OpenError> {
    if let Some(directory) = path.parent() {
        stdx::durable::make_dir(directory, 0o700).map_err(OpenError::Directory)?;
    }
    let made = if path.exists() {
        keep_private(path)
    } else {
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map(drop)
    };
    made.map_err(|error| {
        let path = path.to_path_buf();
        match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => OpenError::ReadOnly { path },
            ErrorKind::StorageFull => OpenError::Full { path },
            _ => OpenError::File { path, source: Box::new(error) },
        }
    })
}

fn keep_private(path: &Path) -> std::io::Result<()> {
    let metadata = path.metadata()?;
    if metadata.is_file() && metadata.permissions().mode() & 0o077 != 0 {
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// A database with tables but without our list of migrations belongs to somebody else.
fn refuse_foreign(path: &Path, connection: &Connection) -> Result<(), OpenError> {
    const OURS: &str = "SELECT COUNT(*), COUNT(CASE WHEN name = 'schema_migrations' THEN 1 END) FROM sqlite_schema";
    let (tables, ours): (i64, i64) =
        connection.query_row(OURS, [], |row| Ok((row.get(0)?, row.get(1)?))).map_err(|error| cannot(path, error))?;
    if tables > 0 && ours == 0 { Err(OpenError::Foreign { path: path.to_path_buf() }) } else { Ok(()) }
}

/// A commit is answered after it reached the disk; readers of other processes never block us.
fn configure(path: &Path, connection: &Connection) -> Result<(), OpenError> {
    let told = |error| cannot(path, error);
    let mode = write_ahead(connection).map_err(told)?;
    if mode != "wal" {
        return Err(OpenError::NoWriteAheadLog { path: path.to_path_buf() });
    }
    connection
        .execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF;")
        .map_err(told)
}

/// Two that open a new database at one moment are in each other's way here, and SQLite does not wait for this by itself.
fn write_ahead(connection: &Connection) -> Result<String, rusqlite::Error> {
    let until = stdx::clock::monotonic() + BUSY;
    loop {
        match connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)) {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && stdx::clock::monotonic() < until =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            outcome => return outcome,
        }
    }
}

fn cannot(path: &Path, error: rusqlite::Error) -> OpenError {
    let path = path.to_path_buf();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => OpenError::NotADatabase { path },
        Some(ErrorCode::ReadOnly) => OpenError::ReadOnly { path },
        Some(ErrorCode::DiskFull) => OpenError::Full { path },
        _ => OpenError::File { path, source: Box::new(error) },
    }
}

/// Runs a statement that answers no rows.
pub(crate) fn execute(connection: &Connection, sql: &str, values: &[Value<'_>]) -> Result<u64, Cause> {
    let mut statement = connection.prepare_cached(sql).map_err(cause)?;
    let changed = statement.execute(rusqlite::params_from_iter(values)).map_err(cause)?;
    Ok(u64::try_from(changed).unwrap_or(u64::MAX))
}

/// Runs a statement that answers rows.
pub(crate) fn query(connection: &Connection, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, Cause> {
    let mut statement = connection.prepare_cached(sql).map_err(cause)?;
    let columns = statement.column_count();
    let mut rows = statement.query(rusqlite::params_from_iter(values)).map_err(cause)?;
    let mut out = Vec::new();
    while let Some(row) = rows.next().map_err(cause)? {
        let cells = (0..columns).map(|column| cell(row.get_ref(column).map_err(cause)?));
        out.push(Row(cells.collect::<Result<_, Cause>>()?));
    }
    Ok(out)
}

fn cell(value: ValueRef<'_>) -> Result<Cell, Cause> {
    let odd = |what: &str| Cause::Damaged { what: what.to_owned() };
    match value {
        ValueRef::Null => Ok(Cell::Null),
        ValueRef::Integer(number) => Ok(Cell::Int(number)),
        ValueRef::Text(text) => {
            let text = std::str::from_utf8(text).map_err(|_| odd("text that is not UTF-8"))?;
            Ok(Cell::Text(text.to_owned()))
        }
        ValueRef::Real(_) | ValueRef::Blob(_) => Err(odd("a column of a type that staithe never writes")),
    }
}

/// The next commit goes into the log without waiting for the disk. It outlives this process, whose death the kernel's
/// cache does not notice.
pub(crate) fn relax(connection: &Connection) -> Result<(), Cause> {
    connection.execute_batch("PRAGMA synchronous = NORMAL").map_err(cause)
}

/// Commits wait for the disk again. The log is one file: the next one makes everything before it durable too.
pub(crate) fn insist(connection: &Connection) -> Result<(), Cause> {
    connection.execute_batch("PRAGMA synchronous = FULL").map_err(cause)
}

/// Copies what is used into the file anew, and empties the log beside it: what was deleted is in neither.
pub(crate) fn scrub(connection: &Connection) -> Result<(), Cause> {
    connection.execute_batch("VACUUM").map_err(cause)?;
    let emptied = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
    match emptied.map_err(cause)? {
        0 => Ok(()),
        _ => Err(Cause::Busy("another process reads it".into())),
    }
}

/// Commits; a commit that failed leaves no transaction behind.
pub(crate) fn commit(connection: &Connection) -> Result<(), Cause> {
    connection.execute_batch("COMMIT").map_err(|error| {
        roll_back(connection);
        cause(error)
    })
}

/// Undoes the transaction, unless SQLite has done so by itself, as it does on a full disk.
pub(crate) fn roll_back(connection: &Connection) {
    if connection.is_autocommit() {
        return;
    }
    if let Err(error) = connection.execute_batch("ROLLBACK") {
        tracing::warn!(%error, "SQLite could not roll back; the next operation will say why");
    }
}

/// What an error of SQLite means for an operation.
pub(crate) fn cause(error: rusqlite::Error) -> Cause {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Cause::Busy(Box::new(error)),
        Some(ErrorCode::DiskFull) => Cause::Full(Box::new(error)),
        Some(ErrorCode::ReadOnly) => Cause::ReadOnly(Box::new(error)),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Cause::Damaged { what: error.to_string() },
        Some(ErrorCode::ConstraintViolation) if is_taken(&error) => Cause::Exists,
        _ => Cause::Refused(Box::new(error)),
    }
}

fn is_taken(error: &rusqlite::Error) -> bool {
    use rusqlite::ffi::{SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE};
    let code = error.sqlite_error().map(|e| e.extended_code);
    matches!(code, Some(SQLITE_CONSTRAINT_PRIMARYKEY | SQLITE_CONSTRAINT_UNIQUE))
}

#[cfg(test)]
mod tests {
    use super::{Cause, cause, open};

    #[test]
    fn a_commit_is_on_the_disk_before_it_is_answered() {
        let dir = tempfile::tempdir().unwrap();
        let connection = open(&dir.path().join("db")).unwrap();
        let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(number("PRAGMA synchronous"), 2, "FULL");
        assert_eq!(number("PRAGMA foreign_keys"), 1);
        assert_eq!(number("PRAGMA busy_timeout"), 5000);
    }

    #[test]
    fn commits_wait_for_the_disk_again_after_one_that_did_not() {
        let dir = tempfile::tempdir().unwrap();
        let location = crate::Location::Sqlite(dir.path().join("db"));
        let mut database = crate::database::Database::open(&location).unwrap();
        let safety = |database: &mut crate::database::Database| {
            let found = database.read(|tx| tx.query("PRAGMA synchronous", &[])?[0].int(0));
            found.unwrap()
        };
        for fails in [false, true] {
            let within = database.write_relaxed(|tx| {
                let within = tx.query("PRAGMA synchronous", &[])?[0].int(0)?;
                if fails { Err(Cause::Exists) } else { Ok(within) }
            });
            assert_eq!(within.ok(), (!fails).then_some(1), "NORMAL");
            assert_eq!(safety(&mut database), 2, "FULL");
        }
    }

    #[test]
    fn a_full_disk_a_read_only_file_and_a_lock_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let connection = open(&path).unwrap();
        connection.execute_batch("CREATE TABLE schema_migrations (x TEXT); PRAGMA max_page_count = 3").unwrap();
        let fill = "INSERT INTO schema_migrations VALUES (hex(randomblob(100000)))";
        assert!(matches!(connection.execute_batch(fill).map_err(cause), Err(Cause::Full(_))));

        connection.execute_batch("PRAGMA query_only = ON").unwrap();
        let write = "INSERT INTO schema_migrations VALUES ('x')";
        assert!(matches!(connection.execute_batch(write).map_err(cause), Err(Cause::ReadOnly(_))));

        let other = open(&path).unwrap();
        other.execute_batch("PRAGMA busy_timeout = 1").unwrap();
        connection.execute_batch("PRAGMA query_only = OFF; BEGIN IMMEDIATE").unwrap();
        assert!(matches!(other.execute_batch(super::BEGIN).map_err(cause), Err(Cause::Busy(_))));
    }
}
