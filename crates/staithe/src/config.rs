//! `staithe.toml`: every key in one table with its reason, read and shown through the same fields. All mistakes are
//! reported at once, each with its line and column. Every key is optional.

mod choice;
mod keys;
mod mistake;
mod values;

use crate::export::Endpoint;
use serde_json::json;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;
use toml::de::{DeTable, DeValue};

use choice::Pick;
use keys::KEYS;
use mistake::{Mistake, place};
use model::Bounds;
use model::measure::{show_size, show_time};
use values::{address, base_url, bytes, count, directory, filter, fit, list, plain, time, words};

/// What the daemon is told once. Servers, tokens and the like are state, not configuration.
#[derive(Clone)]
pub(crate) struct Config {
    /// Where MCP clients come in.
    pub(crate) public: SocketAddr,
    /// Where probes come in; loopback.
    pub(crate) operator: SocketAddr,
    /// The base of the addresses that clients are told, without a path, where a proxy stands in front.
    pub(crate) public_url: Option<String>,
    /// Where everything is kept.
    pub(crate) state_dir: Option<PathBuf>,
    /// Whether callers need no token.
    pub(crate) open: bool,
    /// Whether servers belong to a process that outlives this one. Said on the command line alone.
    pub(crate) keeper: bool,
    /// Whether a stop leaves the servers running for the next daemon. Said on the command line alone.
    pub(crate) leaves_servers: bool,
    /// Whether the keeper is somebody else's to start. Said on the command line alone.
    pub(crate) keeper_runs: bool,
    /// PostgreSQL instead of the SQLite file. It may hold a password.
    pub(crate) postgres: Option<String>,
    /// `Host` values beside the loopback names and the listener's own address.
    pub(crate) allowed_hosts: Vec<String>,
    /// `Origin` values of web pages that may call.
    pub(crate) allowed_origins: Vec<String>,
    /// What is traced.
    pub(crate) log_level: String,
    /// How it is written.
    pub(crate) log_format: LogFormat,
    /// Whether calls are counted by the names of tools.
    pub(crate) per_tool: bool,
    /// Where traces of calls go.
    pub(crate) otlp_endpoint: Option<String>,
    /// How the ledger is kept.
    pub(crate) ledger: Ledger,
    /// Bounds of the hosted processes.
    pub(crate) hosting: supervisor::Limits,
    /// Bounds of the public listener.
    pub(crate) serving: gateway::Limits,
}

/// How trace lines are written to stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// How the ledger is kept.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    /// What a call waits for.
    pub(crate) mode: LedgerMode,
    /// Tools, as `SERVER/TOOL`, whose calls wait for the disk in every mode.
    pub(crate) strict_tools: Vec<String>,
    /// What becomes of calls where no record can be written.
    pub(crate) on_full: OnFull,
    /// What of calls' arguments and results is kept beside the ledger.
    pub(crate) content: LedgerContent,
    /// How much of it, bytes.
    pub(crate) content_bytes: u64,
    /// Directories, on other disks if possible, with a copy of the latest checkpoint each.
    pub(crate) anchors: Vec<PathBuf>,
    /// Which witnesses are asked, and how many of them are enough: a file (C2SP tlog-policy).
    pub(crate) policy: Option<PathBuf>,
    /// How often they are asked.
    pub(crate) witness_interval: Duration,
    /// By when their last answer is too old.
    pub(crate) stale_after: Duration,
    /// What becomes of calls then.
    pub(crate) require_witness: RequireWitness,
    /// What of the ledger callers see without a permission.
    pub(crate) public: LedgerPublic,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            mode: LedgerMode::Balanced,
            strict_tools: Vec::new(),
            on_full: OnFull::Deny,
            content: LedgerContent::Nothing,
            content_bytes: 1 << 30,
            anchors: Vec::new(),
            policy: None,
            witness_interval: Duration::from_secs(5),
            stale_after: Duration::from_secs(60),
            require_witness: RequireWitness::Warn,
            public: LedgerPublic::Nothing,
        }
    }
}

/// What a call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LedgerMode {
    /// Its records are on the disk.
    Strict,
    /// The kernel has them.
    Balanced,
    /// Nothing.
    Async,
    /// There are none. That there are none is recorded.
    Off,
}

/// What becomes of calls where no record can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnFull {
    /// They are refused.
    Deny,
    /// They are made, counted, and the count is recorded as soon as that is possible.
    Continue,
}

/// What of calls' arguments and results is kept beside the ledger, encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LedgerContent {
    /// Nothing: the records commit to it, and that is all.
    Nothing,
    /// All but what looks like a secret.
    Redacted,
    /// All.
    Full,
}

/// What becomes of calls while the witnesses' last answer is too old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequireWitness {
    /// They are made; `status` and the metrics say so.
    Warn,
    /// They are refused.
    Refuse,
}

/// What of the ledger callers see without a permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LedgerPublic {
    /// Nothing.
    Nothing,
    /// Checkpoints, keys and tiles of hashes; no entries.
    Hashes,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            public: SocketAddr::from(([127, 0, 0, 1], 8420)),
            operator: SocketAddr::from(([127, 0, 0, 1], 8421)),
            public_url: None,
            state_dir: None,
            open: false,
            keeper: true,
            leaves_servers: false,
            keeper_runs: false,
            postgres: None,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            log_level: "info".to_owned(),
            log_format: LogFormat::Text,
            per_tool: false,
            otlp_endpoint: None,
            ledger: Ledger::default(),
            hosting: supervisor::Limits::default(),
            serving: gateway::Limits::default(),
        }
    }
}

/// Reads the text of a configuration file.
pub(crate) fn parse(text: &str) -> Result<Config, Vec<Mistake>> {
    let (table, syntax) = DeTable::parse_recoverable(text);
    let at = |span: Range<usize>| Some(place(text, span.start));
    let mut mistakes: Vec<Mistake> = syntax
        .iter()
        .map(|error| Mistake { at: error.span().and_then(at), text: error.message().trim().to_owned() })
        .collect();
    let mut config = Config::default();
    // What the recovering parser left out of a broken file would only be blamed a second time.
    if mistakes.is_empty() {
        read_table(&mut config, "", table.get_ref(), &mut |span, text| mistakes.push(Mistake { at: at(span), text }));
        mistakes.extend(config.contradictions().into_iter().map(|text| Mistake { at: None, text }));
    }
    mistakes.sort_by_key(|mistake| mistake.at.unwrap_or((usize::MAX, 0)));
    if mistakes.is_empty() { Ok(config) } else { Err(mistakes) }
}

fn read_table(config: &mut Config, prefix: &str, table: &DeTable<'_>, wrong: &mut impl FnMut(Range<usize>, String)) {
    for (key, value) in table {
        let name = format!("{prefix}{}", key.get_ref());
        let inner = format!("{name}.");
        let is_table = KEYS.iter().any(|key| key.name.starts_with(&inner));
        match (KEYS.iter().find(|key| key.name == name), value.get_ref()) {
            (Some(key), given) => {
                if let Err(text) = (key.field)(config).set(given) {
                    wrong(value.span(), format!("`{name}` {text}"));
                }
            }
            (None, DeValue::Table(table)) if is_table => read_table(config, &inner, table, wrong),
            (None, _) if is_table => wrong(value.span(), format!("`{name}` must be a table: [{name}]")),
            (None, _) => wrong(key.span(), format!("there is no key `{name}`; `staithe check` prints every key")),
        }
    }
}

impl Config {
    /// What no key alone can say.
    pub(crate) fn contradictions(&self) -> Vec<String> {
        let mut out = Vec::new();
        if self.open && !self.public.ip().is_loopback() {
            out.push(format!(
                "`auth.open` lets everyone in, and `listen.public` {} is not a loopback address: listen on 127.0.0.1 or leave tokens on",
                self.public
            ));
        }
        if !self.operator.ip().is_loopback() {
            out.push(format!(
                "`listen.operator` {} must be a loopback address: it asks nobody for a token",
                self.operator
            ));
        }
        if self.public == self.operator && self.public.port() != 0 {
            out.push(format!("`listen.public` and `listen.operator` are both {}: give them two ports", self.public));
        }
        for rule in self.ledger.strict_tools.iter().filter(|rule| !rule.contains('/')) {
            out.push(format!(
                "`ledger.strict_tools` has {rule:?}, which names no server: write \"SERVER/TOOL\", with * for all"
            ));
        }
        if self.serving.depth > 64 {
            out.push("`limits.depth` is above 64, the most that is read".to_owned());
        }
        out
    }

    /// The file that says what is in effect, every key with its reason. Secrets are not in it.
    pub(crate) fn to_toml(&self) -> String {
        let mut shown = self.clone();
        let mut out = String::new();
        let mut section = "";
        for key in KEYS {
            let (table, name) = key.name.rsplit_once('.').unwrap_or(("", key.name));
            if table != section {
                let _ = write!(out, "\n[{table}]\n");
                section = table;
            }
            let _ = writeln!(out, "# {}", key.why);
            let _ = match (key.field)(&mut shown).show() {
                Some(value) => writeln!(out, "{name} = {value}"),
                None => writeln!(out, "# {name} ="),
            };
        }
        out
    }

    /// SHA-256 of all that is in effect, hexadecimal. Secrets are not in it, but whether they are set.
    pub(crate) fn digest(&self) -> String {
        let said = [self.keeper, self.leaves_servers, self.keeper_runs];
        // Members of such a value are in order.
        let all = json!({ "file": self.to_json(), "keeper, leaves servers, keeper runs": said });
        crate::lives::hex(ledger::hash::sha256(all.to_string().as_bytes()).as_bytes())
    }

    /// The same by key.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let mut shown = self.clone();
        KEYS.iter().map(|key| (key.name.to_owned(), json!((key.field)(&mut shown).show()))).collect()
    }
}

/// The key's place in `Config`, by the kind of value that it takes.
enum Field<'a> {
    Address(&'a mut SocketAddr),
    BaseUrl(&'a mut Option<String>),
    Collector(&'a mut Option<String>),
    Directory(&'a mut Option<PathBuf>),
    Flag(&'a mut bool),
    Secret(&'a mut Option<String>),
    Words(&'a mut Vec<String>),
    Filter(&'a mut String),
    /// One of a few words.
    Choice(&'a mut dyn Pick),
    Directories(&'a mut Vec<PathBuf>),
    File(&'a mut Option<PathBuf>),
    Bytes(&'a mut usize),
    Bytes64(&'a mut u64),
    Count(&'a mut u32),
    CountSize(&'a mut usize),
    Time(&'a mut Duration),
    /// A time, or nothing: then what it would delay never happens.
    Pause(&'a mut Option<Duration>),
    /// The bound of this name.
    Bound(&'static str, &'a mut Bounds),
}

impl Field<'_> {
    /// Takes a value; the error ends the sentence that begins with the key's name.
    fn set(self, given: &DeValue<'_>) -> Result<(), String> {
        match self {
            Self::Address(to) => *to = address(given)?,
            Self::BaseUrl(to) => *to = Some(base_url(words(given, "must be a URL in quotes")?)?),
            Self::Collector(to) => {
                let text = words(given, "must be a URL in quotes")?;
                *to = Some(Endpoint::parse(text).map(|_| text.to_owned())?);
            }
            Self::Directory(to) => *to = Some(directory(words(given, "must be a path in quotes")?)?),
            Self::Flag(to) => *to = given.as_bool().ok_or("must be true or false")?,
            Self::Secret(to) => *to = Some(words(given, "must be a text in quotes")?.to_owned()),
            Self::Words(to) => *to = list(given)?,
            Self::Filter(to) => *to = filter(words(given, "must be a text in quotes")?)?,
            Self::Choice(to) => to.pick(given.as_str())?,
            Self::Directories(to) => {
                *to = list(given)?.iter().map(|path| directory(path)).collect::<Result<_, _>>()?;
            }
            Self::File(to) => *to = Some(directory(words(given, "must be a path in quotes")?)?),
            Self::Bytes(to) => *to = fit(bytes(given)?)?,
            Self::Bytes64(to) => *to = bytes(given)?,
            Self::Count(to) => *to = fit(count(given)?)?,
            Self::CountSize(to) => *to = fit(count(given)?)?,
            Self::Time(to) => *to = time(given)?,
            Self::Pause(to) => *to = Some(time(given)?),
            Self::Bound(name, to) => {
                let set = to.set(name, &plain(given));
                set.map_err(|error| format!("must be {}", error.wanted()))?;
            }
        }
        Ok(())
    }

    /// The value as the file would say it; nothing where there is none.
    fn show(self) -> Option<toml::Value> {
        let text = |text: String| Some(toml::Value::String(text));
        match self {
            Self::Address(at) => text(at.to_string()),
            Self::BaseUrl(at) | Self::Collector(at) => at.clone().and_then(text),
            Self::Directory(at) => at.as_ref().and_then(|path| text(path.display().to_string())),
            Self::Flag(at) => Some(toml::Value::Boolean(*at)),
            Self::Secret(at) => at.as_ref().and_then(|_| text("(set; not shown)".to_owned())),
            Self::Words(at) => Some(toml::Value::Array(at.iter().cloned().map(toml::Value::String).collect())),
            Self::Filter(at) => text(at.clone()),
            Self::Choice(at) => text(at.word().to_owned()),
            Self::Directories(at) => Some(toml::Value::Array(
                at.iter().map(|path| toml::Value::String(path.display().to_string())).collect(),
            )),
            Self::File(at) => at.as_ref().and_then(|path| text(path.display().to_string())),
            Self::Bytes(at) => text(show_size(u64::try_from(*at).unwrap_or(u64::MAX))),
            Self::Bytes64(at) => text(show_size(*at)),
            Self::Count(at) => Some(toml::Value::Integer(i64::from(*at))),
            Self::CountSize(at) => Some(toml::Value::Integer(i64::try_from(*at).unwrap_or(i64::MAX))),
            Self::Time(at) => text(show_time(*at)),
            Self::Pause(at) => at.and_then(|at| text(show_time(at))),
            Self::Bound(name, at) => at.get(name).and_then(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Config, KEYS, LedgerMode, LogFormat, OnFull, parse};
    use std::path::PathBuf;
    use std::time::Duration;

    fn mistakes(text: &str) -> Vec<String> {
        parse(text).err().unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_empty_file_is_the_default_and_what_is_shown_reads_back_the_same() {
        let shown = parse("").unwrap().to_toml();
        assert_eq!(parse(&shown).unwrap().to_toml(), shown);
        assert!(shown.contains("line_bytes = \"16 MiB\"") && shown.contains("idle_ttl = \"15 min\""), "{shown}");
        assert_eq!(KEYS.iter().filter(|key| key.why.is_empty()).count(), 0);
    }

    #[test]
    fn every_kind_of_value_is_read() {
        let text = "public_url = 'https://mcp.example.com/'\nstate_dir = '/srv/x'\nallowed_hosts = ['a', 'b']\nlisten.public = '[::1]:1'\n\
            auth.open = true\nstore.postgres = 'host=db password=hunter2'\n[log]\nlevel = 'warn,staithe_gateway=debug'\nformat = 'json'\n\
            [ledger]\nmode = 'strict'\nstrict_tools = ['files/*']\non_full = 'continue'\nanchors = ['/mnt/a']\npolicy = '/etc/p'\n\
            require_witness = 'refuse'\npublic = 'hashes'\n\
            [limits]\nline_bytes = 0x10\nqueue_bytes = '3KiB'\nstop_grace = '250ms'\npool = 3\nlog_bytes = '1 GiB'\ndepth = 9\n";
        let config = parse(text).ok().unwrap();
        assert_eq!(config.public_url.as_deref(), Some("https://mcp.example.com"));
        assert_eq!((config.public.to_string().as_str(), config.open), ("[::1]:1", true));
        assert_eq!(config.log_format, LogFormat::Json);
        assert_eq!((config.ledger.mode, config.ledger.on_full), (LedgerMode::Strict, OnFull::Continue));
        assert_eq!(config.ledger.anchors, [PathBuf::from("/mnt/a")]);
        assert_eq!(parse(&config.to_toml()).ok().unwrap().to_toml(), config.to_toml());
        assert_eq!((config.hosting.line_bytes, config.hosting.queue_bytes), (16, 3072));
        assert_eq!((config.hosting.stop_grace, config.hosting.pool), (Duration::from_millis(250), 3));
        assert_eq!((config.hosting.log_bytes, config.serving.depth), (1 << 30, 9));
        assert!(!config.to_toml().contains("hunter2") && !config.to_json().to_string().contains("hunter2"));
    }

    #[test]
    fn all_mistakes_are_reported_at_once_with_their_places() {
        let text = "colour = 1\nlisten.public = '1'\npublic_url = 'https://a/b'\nstate_dir = 'x'\nallowed_hosts = [1]\n\
            [auth]\nopen = 'yes'\n[limits]\nline_bytes = '5 parrots'\npool = 0\nidle_ttl = 5\ninstances = 99999999999\n[log]\nlevel = '=='\nformat = 1\n[ledger]\nmode = 'fast'\nanchors = ['x']\n";
        let found = mistakes(text);
        let begins = [
            "line 3, column 14: `public_url` must be http",
            "line 4, column 13: `state_dir` must be an absolute path",
            "line 5, column 17: `allowed_hosts` must be a list",
            "line 1, column 1: there is no key `colour`",
            "line 2, column 17: `listen.public` must be an IP address",
            "line 7, column 8: `auth.open` must be true or false",
            "line 9, column 14: `limits.line_bytes` must be a size",
            "line 10, column 8: `limits.pool` must be a whole number above 0",
            "line 11, column 12: `limits.idle_ttl` must be a time",
            "line 12, column 13: `limits.instances` is too large",
            "line 14, column 9: `log.level` must be",
            "line 15, column 10: `log.format` must be \"text\" or \"json\"",
            "line 17, column 8: `ledger.mode` must be \"balanced\" or \"strict\" or \"async\" or \"off\"",
            "line 18, column 11: `ledger.anchors` must be an absolute path",
        ];
        assert_eq!(found.len(), begins.len(), "{found:#?}");
        for begin in begins {
            assert!(found.iter().any(|text| text.starts_with(begin)), "{begin}\n{found:#?}");
        }
    }

    #[test]
    fn syntax_errors_come_all_too() {
        let found = mistakes("a = \nb = 1\nb = 2\n[limits\n");
        assert!(found.len() >= 2 && found.iter().all(|text| text.starts_with("line ")), "{found:#?}");
    }

    #[test]
    fn e20_e21_by_default_only_loopback_listens_and_everybody_needs_a_token() {
        let config = parse("").ok().unwrap();
        assert!(config.public.ip().is_loopback() && config.operator.ip().is_loopback() && !config.open);
        let open = mistakes("auth.open = true\nlisten.public = '0.0.0.0:8420'");
        assert!(open.iter().any(|text| text.contains("auth.open")), "open and reachable from elsewhere: {open:#?}");
    }

    #[test]
    fn contradictions_are_found() {
        let found = mistakes(
            "auth.open = true\nlisten = {public = '0.0.0.0:5', operator = '0.0.0.0:5'}\nlimits.depth = 65\nledger.strict_tools = ['a/b', 'rm']",
        );
        assert_eq!(found.len(), 5, "{found:#?}");
        assert!(Config::default().contradictions().is_empty());
        assert!(mistakes("listen = 5")[0].contains("must be a table"));
    }
}
