//! The index of this host's ledger: brought up to date before it is asked, made anew where it cannot be used.

use crate::fault;
use crate::output::Output;
use crate::state::StateDir;
use ledger::Reader;
use ledger::tile::{Bundle, WIDTH, decode_bundle};
use ledger::view::ReadError;
use model::Problem;
use serde_json::Value;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use store::{Began, Cause, Ended, IndexMark, LedgerIndex, StoreError};

/// Entries that are put in at once.
const TOGETHER: u64 = 64 * WIDTH as u64;
/// From so many on people are told that it takes a while.
const MANY: u64 = 100_000;

/// The index is this command's alone as long as it has this.
pub(super) struct Lock {
    _file: File,
}

/// Why the index does not go as far as the ledger.
#[derive(Debug, thiserror::Error)]
enum Behind {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Ledger(#[from] ReadError),
    #[error("entries from {0} on cannot be read")]
    Bundle(u64),
    #[error("it is of another ledger, or of entries that are not there any more")]
    Another,
}

impl Behind {
    /// Another index may do better.
    fn is_of_the_index(&self) -> bool {
        match self {
            Self::Store(error) => !matches!(error.cause(), Cause::Full(_) | Cause::ReadOnly(_)),
            Self::Another => true,
            Self::Ledger(_) | Self::Bundle(_) => false,
        }
    }
}

/// Opens the index and brings it up to date with what `reader` has. Where it cannot be used it is made anew, and that is said.
pub(super) fn open(
    state: &StateDir,
    _held: &Lock,
    (reader, origin): (&Reader, &str),
    output: Output,
) -> Result<LedgerIndex, Problem> {
    let path = path(state);
    let index = match up_to_date(&path, reader, origin, output) {
        Err(error) if error.is_of_the_index() => {
            output.note(&format!("the index of the ledger is made anew: {}", stdx::chain::Chain(&error)));
            remove(state).map_err(|error| failed(&error))?;
            up_to_date(&path, reader, origin, output)
        }
        other => other,
    };
    index.map_err(|error| failed(&error))
}

fn failed(error: &dyn std::error::Error) -> Problem {
    let hint = "the ledger itself is not in doubt by this; `staithe audit rebuild` makes its derived files again";
    fault::because("search the ledger", error, hint)
}

/// Removes the index, which the next search makes anew.
pub(super) fn remove(state: &StateDir) -> io::Result<()> {
    let path = path(state);
    for path in [path.with_extension("db-journal"), path] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn path(state: &StateDir) -> PathBuf {
    state.path().join("db/ledger-index.db")
}

/// Waits for another command that has the index.
pub(super) fn lock(state: &StateDir, output: Output) -> Result<Lock, Problem> {
    let locked = || -> io::Result<Lock> {
        let lock = path(state).with_extension("lock");
        // A copy of a ledger has nothing beside it.
        lock.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(lock)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                output.note("another command works with the index of the ledger; this one waits for it");
                file.lock()?;
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        Ok(Lock { _file: file })
    };
    locked().map_err(|error| failed(&error))
}

fn up_to_date(path: &Path, reader: &Reader, origin: &str, output: Output) -> Result<LedgerIndex, Behind> {
    let mut index = LedgerIndex::open(path)?;
    let (view, mark) = (reader.view(), index.mark()?);
    if mark.next > 0 {
        let same = mark.origin == origin && view.root_at(mark.next).is_ok_and(|root| root.to_string() == mark.root);
        if !same {
            return Err(Behind::Another);
        }
    }
    let (mut next, size) = (mark.next.max(view.first()), view.size());
    if size.saturating_sub(next) > MANY {
        output.note(&format!("{} records are put into the index of the ledger first", size - next));
    }
    while next < size {
        let end = (next + TOGETHER - next % TOGETHER).min(size);
        let root = view.root_at(end)?.to_string();
        let mark = IndexMark { origin: origin.to_owned(), next: end, root };
        index.advance(&mark, |index| put(index, reader, next..end))?;
        next = end;
    }
    Ok(index)
}

fn put(index: &mut LedgerIndex, reader: &Reader, range: std::ops::Range<u64>) -> Result<(), Behind> {
    let view = reader.view();
    let mut next = range.start;
    while next < range.end {
        let bundle = Bundle::of(next / u64::from(WIDTH), view.size()).ok_or(Behind::Bundle(next))?;
        // The first entries of a pruned ledger may begin within a bundle.
        let bytes = if bundle.start() < view.first() { Vec::new() } else { view.bundle(bundle)? };
        if bytes.is_empty() {
            let end = bundle.end().min(range.end);
            for at in next..end {
                one(index, at, &view.entry(at)?)?;
            }
        } else {
            let entries = decode_bundle(&bytes, bundle.width()).map_err(|_| Behind::Bundle(next))?;
            for (at, entry) in (bundle.start()..).zip(entries).filter(|(at, _)| range.contains(at)) {
                one(index, at, entry)?;
            }
        }
        next = bundle.end().min(range.end);
    }
    Ok(())
}

/// Puts in one record. What is neither a call, a refusal nor an operator's act is not searched for.
fn one(index: &mut LedgerIndex, at: u64, entry: &[u8]) -> Result<(), StoreError> {
    let Ok(record) = serde_json::from_slice::<Value>(entry) else { return Ok(()) };
    let text = |name: &str| record.get(name).and_then(Value::as_str);
    let who = |name: &str| record.get("who").and_then(|who| who.get(name)).and_then(Value::as_str);
    let ms = record.get("ms").and_then(Value::as_i64).unwrap_or(0);
    let call = text("call").map(|id| format!("c{id}"));
    let act = text("act").map(|id| format!("a{id}"));
    let (call, act) = (call.as_deref(), act.as_deref());
    let (server, tool, method) = (text("server"), text("name"), text("method"));
    // A name may have a slash itself; the version comes last.
    let client = text("client").map(|client| client.rsplit_once('/').map_or(client, |(name, _)| name));
    let (who_is, token) = (who("sub"), who("token"));
    let began = Began { at, ms, id: call, who: who_is, token, client, server, tool, method, outcome: "open" };
    match (text("t").unwrap_or_default(), call, act) {
        ("call.start", Some(_), _) => index.began(&began),
        ("call.end", Some(id), _) => index.ended(&Ended { at, id, outcome: text("outcome").unwrap_or("unknown") }),
        ("call.denied", _, _) => index.began(&Began { id: None, outcome: "denied", ..began }),
        ("operator.start", _, Some(_)) => {
            let (who, tool, method) = (text("operator"), text("command"), Some("operator"));
            index.began(&Began { id: act, who, token: None, server: text("about"), tool, method, ..began })
        }
        ("operator.end", _, Some(id)) => {
            let done = record.get("done").and_then(Value::as_bool).unwrap_or(false);
            index.ended(&Ended { at, id, outcome: if done { "done" } else { "failed" } })
        }
        _ => Ok(()),
    }
}
