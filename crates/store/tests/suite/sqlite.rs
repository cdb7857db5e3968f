//! What must hold on SQLite alone: the file's secrecy, refusals, and a process killed in mid-write.

use crate::cases::{spec, token};
use crate::place::Place;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use store::{Location, OpenError, Store};

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

async fn refusal(path: &Path) -> OpenError {
    Store::open(Location::Sqlite(path.to_path_buf())).await.unwrap_err()
}

#[tokio::test]
async fn the_files_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db").join("staithe.sqlite");
    let store = Store::open(Location::Sqlite(path.clone())).await.unwrap();
    store.put_setting("a", "b").await.unwrap();
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    let files: Vec<PathBuf> =
        std::fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 2, "the database and its log: {files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    drop(store);

    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    Store::open(Location::Sqlite(path.clone())).await.unwrap();
    assert_eq!(mode(&path), 0o600, "a file that others could read is closed to them");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_in_plain_words_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let content = "this is a letter to my aunt. ".repeat(100);
    std::io::Write::write_all(&mut std::fs::File::create(&path).unwrap(), content.as_bytes()).unwrap();
    let error = refusal(&path).await;
    assert!(matches!(error, OpenError::NotADatabase { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!(
            "{} is not a SQLite database, or it is damaged; restore a backup, or move the file away to start empty",
            path.display()
        )
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
}

#[tokio::test]
async fn a_database_with_a_broken_header_is_refused() {
    let place = Place::sqlite();
    let store = place.open().await;
    store.put_server(spec("files", "one")).await.unwrap();
    let Location::Sqlite(path) = &place.location else { unreachable!("made as SQLite") };
    let copy = path.with_extension("copy");
    place.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    std::fs::copy(path, &copy).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&copy).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 100], 0).unwrap();
    let error = refusal(&copy).await;
    assert!(matches!(error, OpenError::NotADatabase { .. }), "{error:?}");
}

#[tokio::test]
async fn the_database_of_another_program_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("browser.sqlite");
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE bookmarks (url TEXT)").unwrap();
    let error = refusal(&path).await;
    assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
    let tables: i64 = other.query_row("SELECT COUNT(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 1);
}

#[tokio::test]
async fn a_directory_in_the_place_of_the_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = refusal(dir.path()).await;
    assert!(matches!(error, OpenError::File { .. }), "{error:?}");
}

#[tokio::test]
async fn a_damaged_page_fails_the_operation_and_not_the_process() {
    let place = Place::sqlite();
    drop(place.open().await);
    let Location::Sqlite(path) = &place.location else { unreachable!("made as SQLite") };
    place.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    let length = path.metadata().unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let garbage = vec![0xa5; usize::try_from(length - 4096).unwrap()];
    std::os::unix::fs::FileExt::write_all_at(&file, &garbage, 4096).unwrap();
    let error = refusal(path).await;
    let text = stdx::chain::Chain(&error).to_string();
    assert!(text.contains("damaged"), "{text}");
}

/// Writes tokens and says so after each answer. On its own it writes a few and looks; with a place from outside it is
/// the victim of the test below and writes until it is killed.
#[tokio::test]
async fn a_writer_that_tells_what_was_acknowledged() {
    let victim_of = std::env::var_os("STAITHE_TEST_WRITE_UNTIL_KILLED").map(PathBuf::from);
    let own = Place::sqlite();
    let location = victim_of.clone().map_or_else(|| own.location.clone(), Location::Sqlite);
    let store = Store::open(location).await.unwrap();
    let last = if victim_of.is_some() { 1_000_000 } else { 20 };
    for number in 0..last {
        store.put_token(token(&format!("t{number}"))).await.unwrap();
        println!("\nacknowledged t{number}");
    }
    assert_eq!(store.tokens().await.unwrap().len(), last);
}

#[tokio::test]
async fn a_killed_process_loses_no_acknowledged_write() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("staithe.sqlite");
    let mut writer = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sqlite::a_writer_that_tells_what_was_acknowledged", "--nocapture"])
        .env("STAITHE_TEST_WRITE_UNTIL_KILLED", &path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = Vec::new();
    for line in BufReader::new(writer.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        acknowledged.extend(line.strip_prefix("acknowledged ").map(str::to_owned));
        if acknowledged.len() == 40 {
            writer.kill().unwrap();
        }
    }
    let status = writer.wait().unwrap();
    assert_eq!(status.signal(), Some(9), "{status}");
    assert!(acknowledged.len() >= 40, "{} acknowledged", acknowledged.len());

    let kept = Store::open(Location::Sqlite(path)).await.unwrap().tokens().await.unwrap();
    for id in acknowledged {
        assert!(kept.iter().any(|token| token.id == id), "{id} was acknowledged and is gone");
    }
}
