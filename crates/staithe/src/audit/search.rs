//! `staithe audit search`: calls, refusals and operators' acts, found by an index and read from the ledger.

use super::index;
use super::names::Names;
use super::own;
use crate::cli::{Caller, Narrow, SearchArgs};
use crate::fault;
use crate::output::Output;
use crate::render;
use crate::state::StateDir;
use ledger::tile::{Bundle, WIDTH, decode_bundle};
use ledger::{LogKeys, Reader};
use model::{Problem, ProblemCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use store::{Found, IndexFilter};

/// Columns, for people.
const HEAD: [&str; 8] = ["INDEX", "TIME", "CALL", "WHO", "SERVER", "TOOL", "OUTCOME", "TOOK"];

/// Shows what fits, the oldest first.
pub(crate) async fn search(args: &SearchArgs, flag: Option<&Path>, output: Output) -> Result<ExitCode, Problem> {
    let (state, dir) = own::place(flag)?;
    // Elsewhere a name makes the list easier to read.
    let names = match names(&args.narrow, &state).await? {
        Some(names) => names,
        None => Names::read(&state, args.narrow.config.as_deref()).await.unwrap_or_else(|_| Names::none()),
    };
    let bounds = Bounds { since_ms: args.since, until_ms: args.until, limit: args.limit };
    let filter = filter(&args.narrow, &bounds, &names)?;
    let lock = index::lock(&state, output)?;
    let (reader, keys) = own::read(&dir)?;
    let found = fitting((&state, &lock, output), (&reader, &keys), &filter, |hit| hit)?;
    // Whoever reads what is printed may take long.
    drop(lock);
    let mut rows = Vec::new();
    for Hit { at, ended, start, end } in found {
        if output.is_json() {
            let who = who(&start, &names).1;
            let line = json!({"index": at, "ended": ended, "principal": who, "start": start, "end": end});
            if !output.json(&line) {
                break;
            }
        } else {
            rows.push(row(at, &start, end.as_ref(), &names));
        }
    }
    if !output.is_json() {
        let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
        if rows.len() == limit {
            output.note(&format!("these are the newest {limit}; there may be more (--limit)"));
        }
        output.text(&if rows.is_empty() { "nothing was found\n".to_owned() } else { render::table(&HEAD, rows) });
    }
    Ok(ExitCode::SUCCESS)
}

/// The entries of all that fits, in a ledger that was opened after the index was locked: it has no less than the index then.
pub(super) async fn entries(
    narrow: &Narrow,
    (state, dir, output): (&StateDir, &Path, Output),
) -> Result<(BTreeSet<u64>, Reader, LogKeys), Problem> {
    let all = Bounds { since_ms: None, until_ms: None, limit: u32::MAX };
    let filter = filter(narrow, &all, &names(narrow, state).await?.unwrap_or_else(Names::none))?;
    let lock = index::lock(state, output)?;
    let (reader, keys) = own::read(dir)?;
    let found = fitting((state, &lock, output), (&reader, &keys), &filter, |hit| [Some(hit.at), hit.ended])?;
    Ok((found.into_iter().flatten().flatten().collect(), reader, keys))
}

/// Who somebody is, where a name is given: only then it matters.
async fn names(narrow: &Narrow, state: &StateDir) -> Result<Option<Names>, Problem> {
    match &narrow.principal {
        Some(Caller::Name(_)) => Names::read(state, narrow.config.as_deref()).await.map(Some),
        Some(Caller::Pseudonym(_)) | None => Ok(None),
    }
}

/// What `take` makes of all that fits. An index that says what the ledger does not is made anew.
fn fitting<T>(
    (state, lock, output): (&StateDir, &index::Lock, Output),
    (reader, keys): (&Reader, &LogKeys),
    filter: &IndexFilter,
    mut take: impl FnMut(Hit) -> T,
) -> Result<Vec<T>, Problem> {
    let mut anew = false;
    loop {
        let (mut taken, mut invented) = (Vec::new(), false);
        hits((state, lock, output), (reader, keys.origin()), filter, |hit| {
            if hit.fits(filter) {
                taken.push(take(hit));
            } else {
                invented = true;
            }
        })?;
        if !invented || anew {
            return Ok(taken);
        }
        output.note("the index of the ledger says what the ledger does not; it is made anew");
        index::remove(state).map_err(|error| fault::because("search the ledger", &error, ""))?;
        anew = true;
    }
}

/// What was found, as the ledger has it.
struct Hit {
    at: u64,
    ended: Option<u64>,
    start: Value,
    end: Option<Value>,
}

impl Hit {
    /// Whether it is what was looked for: the index only says where to look.
    fn fits(&self, filter: &IndexFilter) -> bool {
        let text = |record: &Value, name: &str| record.get(name).and_then(Value::as_str).map(str::to_owned);
        let is = |wanted: &Option<String>, found: Option<String>| wanted.is_none() || *wanted == found;
        let who = |name: &str| self.start.get("who").and_then(|who| text(who, name));
        let operator = text(&self.start, "operator");
        let client = text(&self.start, "client");
        let client = client.map(|client| client.rsplit_once('/').map_or(client.clone(), |(name, _)| name.to_owned()));
        let joined = self.end.as_ref().is_none_or(|end| {
            ["call", "act"].iter().all(|name| text(&self.start, name) == text(end, name))
                && end.get("t") != self.start.get("t")
        });
        let ms = self.start.get("ms").and_then(Value::as_i64).unwrap_or(0);
        let operators = operator.is_some();
        joined
            && is(&filter.who, operator.or_else(|| who("sub")))
            && is(&filter.token, who("token"))
            && is(&filter.client, client)
            && is(&filter.server, text(&self.start, if operators { "about" } else { "server" }))
            && is(&filter.tool, text(&self.start, if operators { "command" } else { "name" }))
            && is(&filter.method, if operators { Some("operator".to_owned()) } else { text(&self.start, "method") })
            && filter.outcome.as_ref().is_none_or(|outcome| *outcome == self.outcome())
            && filter.since_ms.is_none_or(|since| ms >= since)
            && filter.until_ms.is_none_or(|until| ms < until)
    }

    fn outcome(&self) -> String {
        let Some(end) = &self.end else {
            return if self.ended.is_some() { "denied" } else { "open" }.to_owned();
        };
        match end.get("done").and_then(Value::as_bool) {
            Some(done) => if done { "done" } else { "failed" }.to_owned(),
            None => end.get("outcome").and_then(Value::as_str).unwrap_or("unknown").to_owned(),
        }
    }
}

/// Hands over where the index says that something is, and what is there.
fn hits(
    (state, lock, output): (&StateDir, &index::Lock, Output),
    (reader, origin): (&Reader, &str),
    filter: &IndexFilter,
    mut take: impl FnMut(Hit),
) -> Result<(), Problem> {
    let index = index::open(state, lock, (reader, origin), output)?;
    let failed = |error: store::StoreError| fault::because("search the ledger", &error, "");
    let found = index.search(filter).map_err(failed)?;
    if found.is_empty()
        && let Some((what, word)) = index.unknown(filter).map_err(failed)?
    {
        output.note(&format!("no record has the {what} {word:?}"));
    }
    drop(index);
    let (first, size, before) = (reader.view().first(), reader.view().size(), found.len());
    // The index goes on knowing of what was pruned.
    let found: Vec<Found> = found.into_iter().filter(|found| found.at >= first).collect();
    if found.len() < before {
        output.note(&format!("{} of what was found lie before entry {first}, which were pruned", before - found.len()));
    }
    let mut pages = Pages::new(reader);
    let mut record = |at: u64| if at < size { pages.record(at) } else { Ok(Value::Null) };
    for Found { at, ended } in found {
        let end = ended.filter(|ended| *ended != at).map(&mut record).transpose()?;
        take(Hit { at, ended, start: record(at)?, end });
    }
    Ok(())
}

/// Which times, and how many.
struct Bounds {
    since_ms: Option<i64>,
    until_ms: Option<i64>,
    limit: u32,
}

fn filter(args: &Narrow, bounds: &Bounds, names: &Names) -> Result<IndexFilter, Problem> {
    let who = match &args.principal {
        None => None,
        Some(Caller::Pseudonym(pseudonym)) => Some(pseudonym.clone()),
        Some(Caller::Name(principal)) => Some(names.of(principal).map(str::to_owned).ok_or_else(|| {
            let message = format!("nothing in the ledger is known to be of {principal}");
            let hint = "it made no call yet, or was erased; a pseudonym p:… can be searched for, too";
            Problem { code: ProblemCode::NotFound, ..fault::failed(message, hint) }
        })?),
    };
    let outcome = match (&args.outcome, args.denied) {
        (Some(outcome), true) if outcome != "denied" => {
            return Err(fault::usage("what was turned away has no other outcome", "leave --denied or --outcome out"));
        }
        (_, true) => Some("denied".to_owned()),
        (outcome, false) => outcome.clone(),
    };
    Ok(IndexFilter {
        who,
        token: args.token.clone(),
        client: args.client.clone(),
        server: args.server.as_ref().map(ToString::to_string),
        tool: args.tool.clone(),
        method: args.method.clone(),
        outcome,
        since_ms: bounds.since_ms,
        until_ms: bounds.until_ms,
        limit: bounds.limit,
    })
}

/// The pseudonym or operator of a record, and the principal's name where it is known.
fn who(start: &Value, names: &Names) -> (String, Option<String>) {
    let sub = start.get("who").and_then(|who| who.get("sub")).or_else(|| start.get("operator"));
    let sub = sub.and_then(Value::as_str).unwrap_or("-").to_owned();
    let name = names.whose(&sub).map(ToString::to_string);
    (sub, name)
}

fn row(at: u64, start: &Value, end: Option<&Value>, names: &Names) -> Vec<String> {
    let text = |name: &str| start.get(name).and_then(Value::as_str);
    let ms = start.get("ms").and_then(Value::as_i64).unwrap_or(0);
    let (sub, name) = who(start, names);
    let of_end = |name: &str| end.and_then(|end| end.get(name));
    let outcome = match (text("reason"), end) {
        (Some(reason), _) => format!("denied: {reason}"),
        (None, None) => "open".to_owned(),
        (None, Some(_)) => match of_end("done").and_then(Value::as_bool) {
            Some(done) => if done { "done" } else { "failed" }.to_owned(),
            None => of_end("outcome").and_then(Value::as_str).unwrap_or("?").to_owned(),
        },
    };
    let took = of_end("micros").and_then(Value::as_u64).map(took).unwrap_or_default();
    let tool = text("name").or_else(|| text("command")).or_else(|| text("method")).unwrap_or("-");
    let server = text("server").or_else(|| text("about")).unwrap_or("-");
    let id = text("call").or_else(|| text("act")).unwrap_or("-");
    let cells = [
        &*at.to_string(),
        &*stdx::clock::rfc3339(ms),
        id,
        name.as_deref().unwrap_or(&sub),
        server,
        tool,
        &outcome,
        &took,
    ];
    cells.map(ToOwned::to_owned).to_vec()
}

/// Microseconds, in three or four characters and a unit.
fn took(micros: u64) -> String {
    match micros {
        0..1000 => format!("{micros} µs"),
        1000..1_000_000 => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
        _ => format!("{}.{} s", micros / 1_000_000, micros % 1_000_000 / 100_000),
    }
}

/// Records by index. What was found stands close together, so a bundle is read once.
struct Pages<'a> {
    reader: &'a Reader,
    /// The bundles of the last two that were asked for: of beginnings and of ends.
    kept: [Option<(u64, Vec<Vec<u8>>)>; 2],
}

impl<'a> Pages<'a> {
    fn new(reader: &'a Reader) -> Self {
        Self { reader, kept: [None, None] }
    }

    fn record(&mut self, index: u64) -> Result<Value, Problem> {
        let (number, place) = (index / u64::from(WIDTH), usize::try_from(index % u64::from(WIDTH)).unwrap_or(0));
        let known = |kept: &Option<(u64, Vec<Vec<u8>>)>| kept.as_ref().is_some_and(|(bundle, _)| *bundle == number);
        if !self.kept.iter().any(known) {
            let Some(entries) = self.bundle(number) else {
                // The first bundle of a pruned ledger is not whole.
                return own::entry(self.reader, index).map(|entry| parsed(&entry));
            };
            self.kept.swap(0, 1);
            self.kept[0] = Some((number, entries));
        }
        let entries = self.kept.iter().find(|kept| known(kept)).and_then(Option::as_ref);
        let entry = entries.and_then(|(_, entries)| entries.get(place));
        entry.map_or_else(|| own::entry(self.reader, index).map(|entry| parsed(&entry)), |entry| Ok(parsed(entry)))
    }

    fn bundle(&self, number: u64) -> Option<Vec<Vec<u8>>> {
        let bundle = Bundle::of(number, self.reader.view().size())?;
        let bytes = self.reader.view().bundle(bundle).ok()?;
        let entries = decode_bundle(&bytes, bundle.width()).ok()?;
        Some(entries.into_iter().map(<[u8]>::to_vec).collect())
    }
}

fn parsed(entry: &[u8]) -> Value {
    serde_json::from_slice(entry).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::took;

    #[test]
    fn times_are_short() {
        for (micros, text) in [(0, "0 µs"), (999, "999 µs"), (1234, "1.2 ms"), (61_000_000, "61.0 s")] {
            assert_eq!(took(micros), text);
        }
    }
}
