//! Migrations: numbered SQL files, each in its own transaction, forward only.

use crate::database::Database;
use crate::error::{Cause, OpenError};
use crate::tx::{Tx, Value};

struct Migration {
    number: i64,
    name: &'static str,
    sql: &'static str,
}

/// In order, without a gap. A migration that was released is never edited.
const MIGRATIONS: &[Migration] = &[
    Migration {
        number: 1,
        name: "servers_verdicts_tokens_settings",
        sql: include_str!("migrations/0001_servers_verdicts_tokens_settings.sql"),
    },
    Migration { number: 2, name: "sessions", sql: include_str!("migrations/0002_sessions.sql") },
    Migration { number: 3, name: "subjects", sql: include_str!("migrations/0003_subjects.sql") },
];

enum Step {
    Applied(i64),
    UpToDate,
    Newer(i64),
}

/// Brings the tables up to date, or refuses a database that a later version has changed.
pub(crate) fn migrate(database: &mut Database) -> Result<(), OpenError> {
    loop {
        match database.write(step).map_err(OpenError::Migration)? {
            Step::Applied(number) => tracing::info!(number, "migrated the database"),
            Step::UpToDate => return Ok(()),
            Step::Newer(found) => return Err(OpenError::Newer { found, known: latest() }),
        }
    }
}

fn latest() -> i64 {
    MIGRATIONS.last().map_or(0, |last| last.number)
}

/// Applies the next migration. It looks and acts in one transaction that excludes other writers, so two daemons that
/// start at once apply each migration once.
fn step(tx: &mut Tx<'_>) -> Result<Step, Cause> {
    let found = applied(tx)?;
    if found > latest() {
        return Ok(Step::Newer(found));
    }
    let Some(next) = MIGRATIONS.iter().find(|migration| migration.number > found) else {
        return Ok(Step::UpToDate);
    };
    tx.script(next.sql)?;
    tx.execute(
        "INSERT INTO schema_migrations (number, name, applied_at_ms) VALUES ($1, $2, $3)",
        &[Value::Int(next.number), Value::Text(next.name), Value::Int(stdx::clock::unix_ms())],
    )?;
    Ok(Step::Applied(next.number))
}

/// The number of the last migration that was applied; 0 for a new database.
fn applied(tx: &mut Tx<'_>) -> Result<i64, Cause> {
    if !tx.has_table("schema_migrations")? {
        tx.script(
            "CREATE TABLE schema_migrations (
                number BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL, applied_at_ms BIGINT NOT NULL)",
        )?;
    }
    let rows = tx.query("SELECT COALESCE(MAX(number), 0) FROM schema_migrations", &[])?;
    rows.first().map_or(Ok(0), |row| row.int(0))
}

#[cfg(test)]
mod tests {
    use super::MIGRATIONS;

    #[test]
    fn numbers_have_no_gap() {
        let numbers: Vec<i64> = MIGRATIONS.iter().map(|migration| migration.number).collect();
        let expected: Vec<i64> = (1..).take(numbers.len()).collect();
        assert_eq!(numbers, expected);
    }
}
