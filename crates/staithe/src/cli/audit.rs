//! The words of those `audit` commands that are about this host's own ledger.

use clap::{Args, ValueEnum};
use model::{Principal, ServerName, measure};
use std::path::PathBuf;

/// A place in the ledger that a person names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// An index.
    Index(u64),
    /// A time, Unix milliseconds.
    Time(i64),
}

/// Who calls: a name, or a pseudonym as the ledger has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The principal's name.
    Name(Principal),
    /// `p:…`.
    Pseudonym(String),
}

/// `audit search`.
#[derive(Debug, Args)]
#[command(
    after_help = "It looks through an index of the ledger that it keeps beside the database (db/ledger-index.db) and brings up to \
date first. What is shown is read from the ledger itself: a wrong index can hide a record, and cannot make one up. An operator's act \
is found as the method `operator`, with the command as its tool.\n\n\
TIME is like \"2026-11-23\", \"2026-11-23T08:00:00Z\", or how long ago: \"90 s\", \"2 h\", \"7d\"."
)]
pub(crate) struct SearchArgs {
    #[command(flatten)]
    pub(crate) narrow: Narrow,
    /// Begun at this time or later
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) since: Option<i64>,
    /// Begun before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) until: Option<i64>,
    /// How many, the newest
    #[arg(long, short = 'n', value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) limit: u32,
}

/// Which calls, refusals and operators' acts are meant.
#[derive(Debug, Args)]
pub(crate) struct Narrow {
    /// Who called: a principal, or its pseudonym p:… as the ledger has it
    #[arg(long, value_name = "NAME", value_parser = caller)]
    pub(crate) principal: Option<Caller>,
    /// With which token: its public id
    #[arg(long, value_name = "ID")]
    pub(crate) token: Option<String>,
    /// With which program: the name that it gives itself, without a version
    #[arg(long, value_name = "NAME")]
    pub(crate) client: Option<String>,
    /// Of which server
    #[arg(long)]
    pub(crate) server: Option<ServerName>,
    /// The tool, resource or prompt
    #[arg(long, value_name = "NAME")]
    pub(crate) tool: Option<String>,
    /// The method, like tools/call
    #[arg(long)]
    pub(crate) method: Option<String>,
    /// How it ended: ok, tool_error, server_error, server_gone, host_error, caller_error, asked, cancelled, deadline, unknown; open,
    /// while it has no end; denied; of an operator's act done or failed
    #[arg(long, value_parser = OUTCOMES, hide_possible_values = true)]
    pub(crate) outcome: Option<String>,
    /// Only what was turned away
    #[arg(long)]
    pub(crate) denied: bool,
    /// Configuration file of the daemon [default: staithe.toml in the state directory, if it exists]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl Narrow {
    /// All are meant.
    pub(crate) fn is_all(&self) -> bool {
        let Self { principal, token, client, server, tool, method, outcome, denied, config: _ } = self;
        let words = [token, client, tool, method, outcome];
        principal.is_none() && server.is_none() && !denied && words.iter().all(|word| word.is_none())
    }
}

/// What an export looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// JSON lines: index, leaf hash, record
    Jsonl,
    /// JSON lines of the Open Cybersecurity Schema Framework, one event for each call
    Ocsf,
}

/// `audit export`.
#[derive(Debug, Args)]
#[command(
    after_help = "FROM and TO are indices, or times as `audit search` takes them, and what narrows it down works as it does there: of each \
call that fits, the records between FROM and TO. With --with-proofs each line has `proof`, a C2SP tlog-proof that `audit check` \
verifies with the record's bytes; entries that no checkpoint covers yet are left for the next export."
)]
pub(crate) struct ExportArgs {
    /// The form
    #[arg(long, value_enum, default_value_t = ExportFormat::Jsonl)]
    pub(crate) format: ExportFormat,
    /// Each record with the proof that it is in the ledger (jsonl only)
    #[arg(long)]
    pub(crate) with_proofs: bool,
    /// Where to begin: an index or a time
    #[arg(long, value_name = "FROM", value_parser = point)]
    pub(crate) since: Option<Point>,
    /// Before which to end: an index or a time
    #[arg(long, value_name = "TO", value_parser = point)]
    pub(crate) until: Option<Point>,
    #[command(flatten)]
    pub(crate) narrow: Narrow,
    /// The file, which is there whole or not at all [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// `audit erase`.
#[derive(Debug, Args)]
#[command(
    after_help = "The records stay, and the ledger still verifies. Gone is the key that leads from the pseudonym in them back to the \
principal, and with which a guess at what it sent could be tried. It cannot be undone."
)]
pub(crate) struct EraseArgs {
    /// Whom to forget
    pub(crate) principal: Principal,
    /// Why, for the record that this leaves: a ticket's number. It stays for good, so do not write a name
    #[arg(long, value_name = "TEXT")]
    pub(crate) ticket: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

/// `audit prune`.
#[derive(Debug, Args)]
#[command(
    after_help = "Whole segments are removed, so a little more stays than was asked for. Every proof between entries that are left can \
still be made, and `audit verify` says what is missing. It cannot be undone."
)]
pub(crate) struct PruneArgs {
    /// What to remove: entries before this index, or before the first one of this time
    #[arg(long, value_name = "INDEX|TIME", value_parser = point)]
    pub(crate) before: Point,
    /// First copy the whole log to this new directory, and verify the copy
    #[arg(long, value_name = "DIR")]
    pub(crate) archive: Option<PathBuf>,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

/// `audit rotate-keys`.
#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    /// Configuration file of the daemon [default: staithe.toml in the state directory, if it exists]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// `audit recover`.
#[derive(Debug, Args)]
#[command(
    after_help = "For a ledger that the daemon refuses to open: it was set back, cut, altered or damaged. It is never continued. A new \
one, with new keys, begins with the last checkpoint of the old one, and the old directory is kept beside it. If there is a newer copy \
of the ledger somewhere, put that back instead."
)]
pub(crate) struct RecoverArgs {
    /// Give up what cannot be had back, and begin a new ledger that says so
    #[arg(long, required = true)]
    pub(crate) accept_loss: bool,
    /// A checkpoint of the ledger that you kept, or that a witness shows: where the ledger does not bear it out, it is given up
    #[arg(long, value_name = "FILE")]
    pub(crate) since: Option<PathBuf>,
    /// Configuration file of the daemon [default: staithe.toml in the state directory, if it exists]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// How something ends, as `audit search` knows it.
const OUTCOMES: [&str; 14] = [
    "ok",
    "tool_error",
    "server_error",
    "server_gone",
    "host_error",
    "caller_error",
    "asked",
    "cancelled",
    "deadline",
    "unknown",
    "open",
    "denied",
    "done",
    "failed",
];

fn caller(text: &str) -> Result<Caller, String> {
    if text.starts_with("p:") {
        return Ok(Caller::Pseudonym(text.to_owned()));
    }
    text.parse().map(Caller::Name).map_err(|error: model::BadName| error.to_string())
}

fn point(text: &str) -> Result<Point, String> {
    match text.parse() {
        Ok(index) => Ok(Point::Index(index)),
        Err(_) => time(text).map(Point::Time).map_err(|error| format!("give an index, or a time: {error}")),
    }
}

/// A time, Unix milliseconds: a date, a date with a time, or how long ago.
fn time(text: &str) -> Result<i64, String> {
    let day = || stdx::clock::parse_rfc3339(&format!("{text}T00:00:00Z"));
    let days =
        || text.strip_suffix('d').and_then(|days| i64::from(days.trim().parse::<u32>().ok()?).checked_mul(86_400_000));
    let span = || measure::time(text).and_then(|span| i64::try_from(span.as_millis()).ok());
    let ago = || days().or_else(span).and_then(|span| stdx::clock::unix_ms().checked_sub(span));
    stdx::clock::parse_rfc3339(text).or_else(day).or_else(ago).ok_or_else(|| {
        "give a time like 2026-11-23, 2026-11-23T08:00:00Z, or how long ago: \"90 s\", \"2 h\", 7d".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::{Caller, Point, caller, point, time};

    #[test]
    fn times_are_dates_or_how_long_ago() {
        assert_eq!(time("2026-11-23"), time("2026-11-23T00:00:00Z"));
        assert_eq!(time("1970-01-02"), Ok(86_400_000));
        let ago = stdx::clock::unix_ms() - time("2d").unwrap();
        assert!((172_800_000..172_810_000).contains(&ago), "{ago}");
        assert!(time("2 h").unwrap() > time("3 h").unwrap());
        for wrong in ["", "yesterday", "2026-13-01", "d", "-5d", "99999999999999999999d"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_number_is_an_index_and_a_pseudonym_no_name() {
        assert_eq!(point("17"), Ok(Point::Index(17)));
        assert_eq!(point("1970-01-01"), Ok(Point::Time(0)));
        assert!(point("x").unwrap_err().contains("index"));
        assert_eq!(caller("p:00"), Ok(Caller::Pseudonym("p:00".to_owned())));
        assert_eq!(caller("ann"), Ok(Caller::Name("ann".parse().unwrap())));
    }
}
