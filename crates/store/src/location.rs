//! Where the database is.

use std::fmt;
use std::path::PathBuf;

/// Where the database is. Its `Debug` text shows no connection string: that may hold a password.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// A SQLite file. It and its missing directories are created, for this user only.
    Sqlite(PathBuf),
    /// A PostgreSQL connection string, `key=value` pairs or a URL. The tables are in the first schema of the search
    /// path, which `options='-c search_path=…'` sets. TLS is not spoken: use a Unix socket or a private network.
    Postgres(String),
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => f.debug_tuple("Sqlite").field(path).finish(),
            Self::Postgres(_) => f.write_str("Postgres(..)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Location;

    #[test]
    fn debug_text_hides_the_password() {
        let location = Location::Postgres("host=db user=staithe password=hunter2".to_owned());
        assert_eq!(format!("{location:?}"), "Postgres(..)");
    }
}
