//! An empty place for a database, which a case may open as often as it likes.

use std::sync::atomic::{AtomicU32, Ordering};
use store::{Location, Store};
use tempfile::TempDir;

/// A place of one case: a SQLite file, or a schema of its own in PostgreSQL.
pub(crate) struct Place {
    pub(crate) location: Location,
    /// The schema, in PostgreSQL.
    pub(crate) schema: String,
    // Held so that the directory lives as long as the place.
    _directory: Option<TempDir>,
}

impl Place {
    pub(crate) fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let location = Location::Sqlite(directory.path().join("db").join("staithe.sqlite"));
        Self { location, schema: String::new(), _directory: Some(directory) }
    }

    pub(crate) fn postgres(server: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let schema = format!("case_{number}_{}", stdx::random::handle().unwrap());
        run_postgres(server, &format!("CREATE SCHEMA {schema}"));
        Self { location: Location::Postgres(with_schema(server, &schema)), schema, _directory: None }
    }

    pub(crate) async fn open(&self) -> Store {
        Store::open(self.location.clone()).await.unwrap()
    }

    /// Runs SQL behind the store's back.
    pub(crate) fn sql(&self, sql: &str) {
        match &self.location {
            Location::Sqlite(path) => rusqlite::Connection::open(path).unwrap().execute_batch(sql).unwrap(),
            Location::Postgres(text) => run_postgres(text, sql),
        }
    }
}

/// The connection string with a search path, and with the schema as the name by which the server knows the connection.
pub(crate) fn with_schema(server: &str, schema: &str) -> String {
    if server.starts_with("postgres://") || server.starts_with("postgresql://") {
        let joint = if server.contains('?') { '&' } else { '?' };
        format!("{server}{joint}application_name={schema}&options=-c%20search_path%3D{schema}")
    } else {
        format!("{server} application_name={schema} options='-c search_path={schema}'")
    }
}

/// On a thread of its own: the client may not be used inside an async runtime.
pub(crate) fn run_postgres(server: &str, sql: &str) {
    std::thread::scope(|scope| {
        let run = || postgres::Client::connect(server, postgres::NoTls).unwrap().batch_execute(sql).unwrap();
        scope.spawn(run).join().unwrap();
    });
}
