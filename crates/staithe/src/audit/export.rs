//! `staithe audit export`: the ledger as lines for other programs, one after another and never all at once.

mod ocsf;

use super::own;
use super::reach;
use super::search;
use crate::cli::{ExportArgs, ExportFormat, Point};
use crate::fault;
use crate::output::Output;
use ledger::tile::{Bundle, WIDTH, decode_bundle};
use ledger::{Checkpoint, LogKeys, Proof, Reader, leaf_hash};
use model::{Problem, ProblemCode};
use ocsf::Events;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;
use stdx::durable::Growing;

/// Bytes of the permission of a file: who may read it is the owner's to widen.
const MODE: u32 = 0o600;

/// What could not be done, and whether that matters: nobody reads on where a pipe was closed.
enum Stopped {
    Closed,
    Problem(Problem),
}

impl From<Problem> for Stopped {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// Which entries are exported.
struct What {
    from: u64,
    until: u64,
    /// `None`: all of them.
    wanted: Option<BTreeSet<u64>>,
}

impl What {
    /// The first one from `index` on.
    fn next(&self, index: u64) -> u64 {
        match &self.wanted {
            None => index,
            Some(wanted) => wanted.range(index..).next().copied().unwrap_or(u64::MAX),
        }
    }
}

/// Writes the ledger from some entry on.
pub(crate) async fn export(args: &ExportArgs, flag: Option<&Path>, output: Output) -> Result<ExitCode, Problem> {
    if args.with_proofs && args.format == ExportFormat::Ocsf {
        let message = "OCSF has no place for proofs";
        return Err(fault::usage(message, "leave --with-proofs out, or take --format jsonl"));
    }
    let (state, dir) = own::place(flag)?;
    let (wanted, reader, keys) = if args.narrow.is_all() {
        let (reader, keys) = own::read(&dir)?;
        (None, reader, keys)
    } else {
        let (wanted, reader, keys) = search::entries(&args.narrow, (&state, &dir, output)).await?;
        (Some(wanted), reader, keys)
    };
    let index = |point: Option<Point>| point.map(|point| reach::index(&reader, point)).transpose();
    let (first, size) = (reader.view().first(), reader.view().size());
    let from = index(args.since)?.unwrap_or(0).clamp(first, size);
    let until = index(args.until)?.unwrap_or(size).min(size);
    if until < from && args.until.is_some() {
        let message =
            format!("--until is entry {until}, before --since, entry {from} (the first that is here is {first})");
        return Err(fault::usage(message, "name a later end, or an earlier beginning"));
    }
    let what = What { from, until, wanted };
    let (count, end) = match &args.out {
        None => {
            let mut out = BufWriter::new(io::stdout().lock());
            match write(args, (&reader, &keys), &what, &mut out) {
                Ok(done) => done,
                Err(Stopped::Closed) => return Ok(ExitCode::SUCCESS),
                Err(Stopped::Problem(problem)) => return Err(problem),
            }
        }
        Some(path) => whole(args, (&reader, &keys), &what, path)?,
    };
    if end < until {
        output.note(&format!(
            "entries {end} to {} are left for the next export, --since {end}: no checkpoint covers them yet",
            until - 1
        ));
    }
    if let Some(path) = &args.out {
        if output.is_json() {
            output.json(&json!({"out": path, "first": from, "next": end, "lines": count}));
        } else {
            output.text(&format!("{count} lines, entries {from} to before {end}, in {}\n", path.display()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The file is there whole, or as it was.
fn whole(args: &ExportArgs, log: (&Reader, &LogKeys), what: &What, path: &Path) -> Result<(u64, u64), Problem> {
    let failed = |error: &dyn std::error::Error| {
        fault::because(&format!("write {}", path.display()), error, "nothing was written; name another file with --out")
    };
    if path.exists() && !path.is_file() {
        return Err(fault::usage(format!("{} is no regular file", path.display()), "name another one with --out"));
    }
    let growing = Growing::begin(path, MODE).map_err(|error| failed(&error))?;
    let mut out = BufWriter::new(growing);
    match write(args, log, what, &mut out) {
        Ok(done) => {
            // All was flushed.
            out.into_parts().0.place().map_err(|error| failed(&error))?;
            Ok(done)
        }
        Err(stopped) => {
            out.into_parts().0.abandon();
            Err(match stopped {
                Stopped::Problem(problem) => problem,
                Stopped::Closed => failed(&io::Error::from(ErrorKind::BrokenPipe)),
            })
        }
    }
}

/// Writes lines; gives how many, and the entry before which it ended.
fn write(
    args: &ExportArgs,
    (reader, keys): (&Reader, &LogKeys),
    what: &What,
    out: &mut impl Write,
) -> Result<(u64, u64), Stopped> {
    let signed = if args.with_proofs { Some(signed(reader, keys)?) } else { None };
    let end = signed.as_ref().map_or(what.until, |signed| signed.size().min(what.until));
    let mut events = Events::new(keys.origin());
    let mut lines = 0;
    each(reader, what, end, |index, entry| {
        match (args.format, &signed) {
            (ExportFormat::Ocsf, _) => {
                if let Some(event) = events.of(index, entry) {
                    line(out, &event)?;
                    lines += 1;
                }
                return Ok(());
            }
            (ExportFormat::Jsonl, None) => line(out, &plain(index, entry))?,
            (ExportFormat::Jsonl, Some(signed)) => line(out, &proved(reader, signed, index, entry)?)?,
        }
        lines += 1;
        Ok(())
    })?;
    if args.format == ExportFormat::Ocsf && events.waits() {
        late_ends(reader, what, end, |index, entry| match events.late(index, entry) {
            Some(event) => {
                lines += 1;
                line(out, &event).map(|()| events.waits())
            }
            None => Ok(true),
        })?;
    }
    for event in events.rest() {
        line(out, &event)?;
        lines += 1;
    }
    out.flush().map_err(|error| unwritten(&error))?;
    Ok((lines, end.max(what.from)))
}

fn plain(index: u64, entry: &[u8]) -> Value {
    let record: Value = serde_json::from_slice(entry).unwrap_or(Value::Null);
    json!({"index": index, "leaf": leaf_hash(entry).to_string(), "record": record})
}

/// With the bytes as they are: what is hashed is not JSON that somebody wrote again.
fn proved(reader: &Reader, signed: &Checkpoint, index: u64, entry: &[u8]) -> Result<Value, Problem> {
    let hashes = reader.view().inclusion_at(index, signed.size());
    let hashes = hashes.map_err(|error| fault::because(&format!("prove entry {index}"), &error, ""))?;
    let mut line = plain(index, entry);
    line["entry"] = String::from_utf8_lossy(entry).into();
    line["proof"] = Proof::new(index, hashes, signed).to_string().into();
    Ok(line)
}

fn signed(reader: &Reader, keys: &LogKeys) -> Result<Checkpoint, Problem> {
    let none = || {
        let problem =
            fault::failed("no checkpoint covers any entry yet", "a daemon signs one within a second; try again");
        Problem { code: ProblemCode::NotFound, ..problem }
    };
    let note = reader.signed().ok_or_else(none)?;
    keys.open(note.note.as_bytes()).map_err(|error| fault::because("read the checkpoint", &error, ""))
}

fn line(out: &mut impl Write, value: &Value) -> Result<(), Stopped> {
    let written = serde_json::to_writer(&mut *out, value).map_err(io::Error::from);
    written.and_then(|()| out.write_all(b"\n")).map_err(|error| unwritten(&error))
}

fn unwritten(error: &io::Error) -> Stopped {
    match error.kind() {
        ErrorKind::BrokenPipe => Stopped::Closed,
        _ => Stopped::Problem(fault::because("write the export", error, "is the disk full?")),
    }
}

/// Hands over entries from `end` on, as long as `take` wants more: what began before may end there.
fn late_ends(
    reader: &Reader,
    what: &What,
    end: u64,
    mut take: impl FnMut(u64, &[u8]) -> Result<bool, Stopped>,
) -> Result<(), Stopped> {
    let mut more = true;
    let size = reader.view().size();
    let rest = What { from: end, until: size, wanted: what.wanted.clone() };
    let read = each(reader, &rest, size, |index, entry| {
        more = take(index, entry)?;
        if more { Ok(()) } else { Err(Stopped::Closed) }
    });
    if more { read } else { Ok(()) }
}

/// Hands over what is wanted of the entries before `end`, each compared with the tree.
fn each(
    reader: &Reader,
    what: &What,
    end: u64,
    mut take: impl FnMut(u64, &[u8]) -> Result<(), Stopped>,
) -> Result<(), Stopped> {
    let view = reader.view();
    let failed = |index: u64, error: &dyn std::error::Error| fault::because(&format!("read entry {index}"), error, "");
    let mut next = what.next(what.from);
    while next < end {
        let bundle = Bundle::of(next / u64::from(WIDTH), view.size());
        match bundle.filter(|bundle| bundle.start() >= view.first()) {
            Some(bundle) => {
                let bytes = view.bundle(bundle).map_err(|error| failed(next, &error))?;
                let entries = decode_bundle(&bytes, bundle.width()).map_err(|error| failed(next, &error))?;
                for (index, entry) in (bundle.start()..end).zip(entries) {
                    if index == next {
                        take(index, entry)?;
                        next = what.next(index + 1);
                    }
                }
            }
            None => {
                take(next, &own::entry(reader, next)?)?;
                next = what.next(next + 1);
            }
        }
    }
    Ok(())
}
