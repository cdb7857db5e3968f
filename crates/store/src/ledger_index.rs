//! An index of the ledger: where the calls of a principal, of a server, of a tool are. Derived data in a file of its own; whoever
//! searches brings it up to date first, and makes it anew where it is missing, damaged or of another ledger.
//!
//! It says only where entries are, and is not believed beyond that. It is synchronous: a command that searches does nothing else.

use crate::error::{Cause, StoreError};
use crate::sqlite::{self, cause};
use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::HashMap;
use std::path::Path;

/// Another number for each form of the tables.
const VERSION: i64 = 2;
/// Words remembered while entries are put in.
const KNOWN: usize = 20_000;
/// How many rows of one word are counted, to find the rarest of those that are asked for.
const COUNTED: i64 = 20_000;

const TABLES: &str = "
    CREATE TABLE state (version INTEGER NOT NULL, origin TEXT NOT NULL, next INTEGER NOT NULL, root TEXT NOT NULL);
    CREATE TABLE words (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
    CREATE TABLE found (
        at INTEGER PRIMARY KEY, ended INTEGER, ms INTEGER NOT NULL, id TEXT, who INTEGER, token INTEGER,
        client INTEGER, server INTEGER, tool INTEGER, method INTEGER, outcome INTEGER NOT NULL);
    CREATE INDEX open ON found (id) WHERE ended IS NULL;
    CREATE INDEX by_ms ON found (ms);
    CREATE INDEX by_who ON found (who, ms);
    CREATE INDEX by_token ON found (token, ms);
    CREATE INDEX by_client ON found (client, ms);
    CREATE INDEX by_server ON found (server, ms);
    CREATE INDEX by_tool ON found (tool, ms);
    CREATE INDEX by_method ON found (method, ms);
    CREATE INDEX by_outcome ON found (outcome, ms);";

/// Up to where the index goes, and of which ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexMark {
    /// The ledger's name.
    pub origin: String,
    /// The first entry that is not in the index.
    pub next: u64,
    /// The root of the ledger's tree over those before it.
    pub root: String,
}

/// Something began at an entry: a call, an act, or a refusal, which is its own end.
#[derive(Clone, Debug)]
pub struct Began<'a> {
    /// The entry.
    pub at: u64,
    /// When, Unix milliseconds.
    pub ms: i64,
    /// What joins it with its end; `None` where it is its own.
    pub id: Option<&'a str>,
    /// Pseudonym of the principal, or the operator.
    pub who: Option<&'a str>,
    /// Public id of the token.
    pub token: Option<&'a str>,
    /// What the client says that it is, without its version.
    pub client: Option<&'a str>,
    /// The server.
    pub server: Option<&'a str>,
    /// The tool, or what else is named.
    pub tool: Option<&'a str>,
    /// The method.
    pub method: Option<&'a str>,
    /// How it stands now.
    pub outcome: &'a str,
}

/// It ended at an entry.
#[derive(Clone, Debug)]
pub struct Ended<'a> {
    /// The entry.
    pub at: u64,
    /// What joins it with its beginning.
    pub id: &'a str,
    /// How.
    pub outcome: &'a str,
}

/// What is looked for. All that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct IndexFilter {
    /// Pseudonym of the principal, or the operator.
    pub who: Option<String>,
    /// Public id of the token.
    pub token: Option<String>,
    /// What the client says that it is, without its version.
    pub client: Option<String>,
    /// The server.
    pub server: Option<String>,
    /// The tool.
    pub tool: Option<String>,
    /// The method.
    pub method: Option<String>,
    /// How it ended.
    pub outcome: Option<String>,
    /// Begun then or later, Unix milliseconds.
    pub since_ms: Option<i64>,
    /// Begun before, Unix milliseconds.
    pub until_ms: Option<i64>,
    /// How many, the newest.
    pub limit: u32,
}

/// Where something is in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The entry with which it began.
    pub at: u64,
    /// The one with which it ended.
    pub ended: Option<u64>,
}

/// The open index. One process has it at a time: its user sees to that.
#[derive(Debug)]
pub struct LedgerIndex {
    connection: Connection,
    known: HashMap<String, i64>,
}

fn failed(op: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |error| StoreError::new(op, cause(error))
}

const OPEN: &str = "open the index of the ledger";
const PUT: &str = "bring the index of the ledger up to date";
const LOOK: &str = "look into the index of the ledger";

impl LedgerIndex {
    /// Opens or creates the file `path`. It is private to this user.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let private = sqlite::create_private(path);
        private.map_err(|error| StoreError::new(OPEN, Cause::Refused(Box::new(error))))?;
        let connection = Connection::open(path).map_err(failed(OPEN))?;
        // A power cut may damage it, and then it is made anew.
        let pragmas = "PRAGMA journal_mode = TRUNCATE; PRAGMA synchronous = NORMAL; PRAGMA trusted_schema = OFF;";
        connection.execute_batch(pragmas).map_err(failed(OPEN))?;
        let version = connection.query_row("SELECT version FROM state", [], |row| row.get::<_, i64>(0)).optional();
        match version {
            Ok(Some(VERSION)) => {}
            Ok(_) => return Err(StoreError::new(OPEN, Cause::Damaged { what: "it is of another version".to_owned() })),
            Err(_) if is_empty(&connection).map_err(failed(OPEN))? => {
                connection.execute_batch(&format!("BEGIN; {TABLES} COMMIT;")).map_err(failed(OPEN))?;
                let first = "INSERT INTO state (version, origin, next, root) VALUES (?1, '', 0, '')";
                connection.execute(first, [VERSION]).map_err(failed(OPEN))?;
            }
            Err(error) => return Err(failed(OPEN)(error)),
        }
        Ok(Self { connection, known: HashMap::new() })
    }

    /// Up to where it goes.
    pub fn mark(&self) -> Result<IndexMark, StoreError> {
        let row = self.connection.query_row("SELECT origin, next, root FROM state", [], |row| {
            Ok(IndexMark { origin: row.get(0)?, next: row.get::<_, i64>(1)?.unsigned_abs(), root: row.get(2)? })
        });
        row.map_err(failed(LOOK))
    }

    /// Puts in what `entries` does, and notes that the index goes up to `mark`: both or neither.
    pub fn advance<E: From<StoreError>>(
        &mut self,
        mark: &IndexMark,
        entries: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.connection.execute_batch("BEGIN IMMEDIATE").map_err(failed(PUT))?;
        let put = entries(self).and_then(|()| {
            let sql = "UPDATE state SET origin = ?1, next = ?2, root = ?3";
            let done = self.connection.execute(sql, params![mark.origin, signed(mark.next), mark.root]);
            Ok(done.and_then(|_| self.connection.execute_batch("COMMIT")).map_err(failed(PUT))?)
        });
        if put.is_err() {
            sqlite::roll_back(&self.connection);
            self.known.clear();
        }
        put
    }

    /// Puts in a beginning. Only within [`Self::advance`].
    pub fn began(&mut self, began: &Began<'_>) -> Result<(), StoreError> {
        let Began { at, ms, id, who, token, client, server, tool, method, outcome } = began;
        let mut ids = [None; 7];
        for (id, word) in ids.iter_mut().zip([who, token, client, server, tool, method, &Some(*outcome)]) {
            *id = word.map(|word| self.word(word)).transpose()?;
        }
        let [who, token, client, server, tool, method, outcome] = ids;
        let ended = id.is_none().then(|| signed(*at));
        let sql = "INSERT INTO found (at, ended, ms, id, who, token, client, server, tool, method, outcome)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
        let mut statement = self.connection.prepare_cached(sql).map_err(failed(PUT))?;
        let row = params![signed(*at), ended, ms, id, who, token, client, server, tool, method, outcome];
        statement.execute(row).map(drop).map_err(failed(PUT))
    }

    /// Puts in an end. Only within [`Self::advance`]. One whose beginning was pruned is passed over.
    pub fn ended(&mut self, ended: &Ended<'_>) -> Result<(), StoreError> {
        let outcome = self.word(ended.outcome)?;
        let sql = "UPDATE found SET ended = ?1, outcome = ?2 WHERE id = ?3 AND ended IS NULL";
        let mut statement = self.connection.prepare_cached(sql).map_err(failed(PUT))?;
        statement.execute(params![signed(ended.at), outcome, ended.id]).map(drop).map_err(failed(PUT))
    }

    /// The newest that fit, the oldest of them first.
    pub fn search(&self, filter: &IndexFilter) -> Result<Vec<Found>, StoreError> {
        let words = [
            ("who", &filter.who),
            ("token", &filter.token),
            ("client", &filter.client),
            ("server", &filter.server),
            ("tool", &filter.tool),
            ("method", &filter.method),
            ("outcome", &filter.outcome),
        ];
        let (mut wanted, mut values, mut rarest) = (Vec::new(), Vec::new(), (i64::MAX, "ms"));
        for (column, word) in words {
            let Some(word) = word else { continue };
            let Some(id) = self.known_word(word)? else { return Ok(Vec::new()) };
            values.push(Sql::Integer(id));
            wanted.push(format!("{column} = ?{}", values.len()));
            let sql = format!("SELECT COUNT(*) FROM (SELECT 1 FROM found WHERE {column} = ?1 LIMIT {COUNTED})");
            let count = self.connection.query_row(&sql, [id], |row| row.get(0)).map_err(failed(LOOK))?;
            rarest = rarest.min((count, column));
        }
        for (is, ms) in [(">=", filter.since_ms), ("<", filter.until_ms)] {
            if let Some(ms) = ms {
                values.push(Sql::Integer(ms));
                wanted.push(format!("ms {is} ?{}", values.len()));
            }
        }
        let wanted = if wanted.is_empty() { "1".to_owned() } else { wanted.join(" AND ") };
        let sql = format!(
            "SELECT at, ended FROM found INDEXED BY by_{} WHERE {wanted} ORDER BY ms DESC, at DESC LIMIT {}",
            rarest.1, filter.limit
        );
        let mut statement = self.connection.prepare(&sql).map_err(failed(LOOK))?;
        let rows = statement.query_map(rusqlite::params_from_iter(values), |row| {
            let ended = row.get::<_, Option<i64>>(1)?.map(i64::unsigned_abs);
            Ok(Found { at: row.get::<_, i64>(0)?.unsigned_abs(), ended })
        });
        let rows = rows.and_then(Iterator::collect::<Result<Vec<Found>, _>>);
        let mut rows = rows.map_err(failed(LOOK))?;
        rows.reverse();
        Ok(rows)
    }

    /// What is looked for and stands in no record at all: mistyped, perhaps. What it is, and the word.
    pub fn unknown<'f>(&self, filter: &'f IndexFilter) -> Result<Option<(&'static str, &'f str)>, StoreError> {
        let words = [
            ("token", &filter.token),
            ("client", &filter.client),
            ("server", &filter.server),
            ("tool", &filter.tool),
            ("method", &filter.method),
        ];
        for (what, word) in words {
            if let Some(word) = word
                && self.known_word(word)?.is_none()
            {
                return Ok(Some((what, word)));
            }
        }
        Ok(None)
    }

    fn known_word(&self, word: &str) -> Result<Option<i64>, StoreError> {
        let mut statement =
            self.connection.prepare_cached("SELECT id FROM words WHERE text = ?1").map_err(failed(LOOK))?;
        statement.query_row([word], |row| row.get(0)).optional().map_err(failed(LOOK))
    }

    /// The number of a word; it gets one.
    fn word(&mut self, word: &str) -> Result<i64, StoreError> {
        if let Some(id) = self.known.get(word) {
            return Ok(*id);
        }
        let id = match self.known_word(word)? {
            Some(id) => id,
            None => {
                let sql = "INSERT INTO words (text) VALUES (?1)";
                let mut statement = self.connection.prepare_cached(sql).map_err(failed(PUT))?;
                statement.insert([word]).map_err(failed(PUT))?
            }
        };
        // Strangers choose some of them.
        if self.known.len() >= KNOWN {
            self.known.clear();
        }
        self.known.insert(word.to_owned(), id);
        Ok(id)
    }
}

fn is_empty(connection: &Connection) -> Result<bool, rusqlite::Error> {
    connection.query_row("SELECT COUNT(*) = 0 FROM sqlite_schema", [], |row| row.get(0))
}

/// Trees end at 2^63 - 1 entries.
fn signed(index: u64) -> i64 {
    i64::try_from(index).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(next: u64) -> IndexMark {
        IndexMark { origin: "a".to_owned(), next, root: "r".to_owned() }
    }

    fn began<'a>(at: u64, id: Option<&'a str>, who: &'a str, tool: &'a str) -> Began<'a> {
        let ms = i64::try_from(at).unwrap() * 10;
        let (who, tool) = (Some(who), Some(tool));
        Began { at, ms, id, who, token: None, client: None, server: Some("s"), tool, method: None, outcome: "open" }
    }

    fn at(index: &LedgerIndex, filter: &IndexFilter) -> Vec<u64> {
        index.search(filter).unwrap().iter().map(|found| found.at).collect()
    }

    #[test]
    fn what_was_put_in_is_found_by_each_of_its_words_and_by_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let mut index = LedgerIndex::open(&path).unwrap();
        index
            .advance(&mark(5), |index| -> Result<(), StoreError> {
                index.began(&began(0, Some("c1-1"), "ann", "add"))?;
                index.began(&began(1, Some("c1-2"), "bob", "add"))?;
                index.ended(&Ended { at: 2, id: "c1-1", outcome: "ok" })?;
                index.began(&began(3, None, "ann", "sub"))?;
                index.ended(&Ended { at: 4, id: "c9-9", outcome: "ok" })
            })
            .unwrap();
        drop(index);
        let index = LedgerIndex::open(&path).unwrap();
        assert_eq!(index.mark().unwrap(), mark(5));
        let all = IndexFilter { limit: 10, ..IndexFilter::default() };
        let word = |word: &str| Some(word.to_owned());
        assert_eq!(at(&index, &all), [0, 1, 3]);
        assert_eq!(at(&index, &IndexFilter { limit: 2, ..all.clone() }), [1, 3], "the newest");
        assert_eq!(at(&index, &IndexFilter { who: word("ann"), ..all.clone() }), [0, 3]);
        assert_eq!(at(&index, &IndexFilter { who: word("ann"), tool: word("add"), ..all.clone() }), [0]);
        assert_eq!(at(&index, &IndexFilter { outcome: word("ok"), ..all.clone() }), [0]);
        assert_eq!(at(&index, &IndexFilter { outcome: word("open"), ..all.clone() }), [1, 3]);
        assert_eq!(at(&index, &IndexFilter { who: word("ann' OR 1"), ..all.clone() }), Vec::<u64>::new());
        assert_eq!(at(&index, &IndexFilter { since_ms: Some(10), until_ms: Some(30), ..all.clone() }), [1]);
        assert_eq!(index.search(&all).unwrap()[0], Found { at: 0, ended: Some(2) });
    }

    /// Whatever is asked, the index walks rows in their order, and of the rarest word.
    #[test]
    fn a_search_reads_the_rarest_and_sorts_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut index = LedgerIndex::open(&dir.path().join("index")).unwrap();
        index
            .advance(&mark(30_000), |index| -> Result<(), StoreError> {
                (0..30_000).try_for_each(|at| {
                    let who = if at % 1000 == 0 { "rare" } else { "often" };
                    index.began(&began(at, None, who, "add"))
                })
            })
            .unwrap();
        let begun = stdx::clock::monotonic();
        for _ in 0..100 {
            let (who, tool) = (Some("rare".to_owned()), Some("add".to_owned()));
            let filter = IndexFilter { who, tool, limit: 5, ..IndexFilter::default() };
            assert_eq!(at(&index, &filter), [25_000, 26_000, 27_000, 28_000, 29_000]);
        }
        assert!(begun.elapsed().as_secs() < 5, "{:?} for a hundred", begun.elapsed());
        let plan =
            "EXPLAIN QUERY PLAN SELECT at, ended FROM found INDEXED BY by_who WHERE who = 1 AND tool = 2 AND ms >= 0
            ORDER BY ms DESC, at DESC LIMIT 5";
        let plan: Vec<String> = {
            let mut statement = index.connection.prepare(plan).unwrap();
            statement.query_map([], |row| row.get(3)).unwrap().map(Result::unwrap).collect()
        };
        assert!(plan.len() == 1 && plan[0].starts_with("SEARCH found USING INDEX by_who (who=? AND ms>"), "{plan:?}");
    }

    #[test]
    fn what_fails_half_way_is_not_there_and_a_damaged_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let mut index = LedgerIndex::open(&path).unwrap();
        let cut = index.advance(&mark(1), |index| {
            index.began(&began(0, None, "ann", "add"))?;
            Err(StoreError::new(PUT, Cause::Stopped))
        });
        assert!(cut.is_err());
        assert_eq!(index.mark().unwrap().next, 0);
        let all = IndexFilter { limit: 10, ..IndexFilter::default() };
        assert_eq!(at(&index, &all), Vec::<u64>::new());
        drop(index);
        stdx::durable::write_file(&path, &[b'x'; 5000], 0o600).unwrap();
        assert!(LedgerIndex::open(&path).is_err());
    }
}
