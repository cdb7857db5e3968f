//! `staithe.toml`: every key in one table with its reason, read and shown through the same fields. All mistakes are
//! reported at once, each with its line and column. Every key is optional.

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

use mistake::{Mistake, place};
use model::Bounds;
use model::measure::{show_size, show_time};
use values::{address, base_url, bytes, count, directory, filter, fit, list, log_format, plain, time, words};

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

    /// The same by key.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let mut shown = self.clone();
        KEYS.iter().map(|key| (key.name.to_owned(), json!((key.field)(&mut shown).show()))).collect()
    }
}

/// One key of the file.
struct Key {
    name: &'static str,
    /// Why there is such a key and why its default is what it is.
    why: &'static str,
    field: fn(&mut Config) -> Field<'_>,
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
    Format(&'a mut LogFormat),
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

const KEYS: &[Key] = &[
    Key {
        name: "public_url",
        why: "Base of the addresses that clients are told, where a proxy stands in front. Default: the public listener.",
        field: |c| Field::BaseUrl(&mut c.public_url),
    },
    Key {
        name: "state_dir",
        why: "Where everything is kept; `--state-dir` goes first. Default: see `staithe --help`.",
        field: |c| Field::Directory(&mut c.state_dir),
    },
    Key {
        name: "allowed_hosts",
        why: "Host names that requests may carry beside loopback names; guards browsers against DNS rebinding.",
        field: |c| Field::Words(&mut c.allowed_hosts),
    },
    Key {
        name: "allowed_origins",
        why: "Web pages that may call, like \"https://app.example.com\". None by default: agents send no Origin.",
        field: |c| Field::Words(&mut c.allowed_origins),
    },
    Key {
        name: "listen.public",
        why: "Where MCP clients come in. Loopback by default: TLS belongs in front of anything else.",
        field: |c| Field::Address(&mut c.public),
    },
    Key {
        name: "listen.operator",
        why: "Where /healthz, /readyz and /metrics answer. Loopback only: it asks nobody for a token.",
        field: |c| Field::Address(&mut c.operator),
    },
    Key {
        name: "auth.open",
        why: "true asks callers for no token; only with a loopback listener. Off by default: tools can do harm.",
        field: |c| Field::Flag(&mut c.open),
    },
    Key {
        name: "store.postgres",
        why: "PostgreSQL connection string. Default: SQLite in the state directory, enough for one machine.",
        field: |c| Field::Secret(&mut c.postgres),
    },
    Key {
        name: "log.level",
        why: "What is traced on stderr: error, warn, info, debug, trace, or a filter like \"info,staithe_gateway=debug\".",
        field: |c| Field::Filter(&mut c.log_level),
    },
    Key {
        name: "log.format",
        why: "\"text\" for people, \"json\" for collectors.",
        field: |c| Field::Format(&mut c.log_format),
    },
    Key {
        name: "telemetry.per_tool",
        why: "true counts calls in /metrics by tool too. Off: each tool costs a time series.",
        field: |c| Field::Flag(&mut c.per_tool),
    },
    Key {
        name: "telemetry.otlp_endpoint",
        why: "Base address of a collector that takes traces of calls (OTLP over HTTP), like \"http://127.0.0.1:4318\". None by default.",
        field: |c| Field::Collector(&mut c.otlp_endpoint),
    },
    Key {
        name: "watch.quiet",
        why: "A server that was not heard for so long, and has no call that explains it, is asked whether it lives.",
        field: |c| Field::Time(&mut c.hosting.quiet),
    },
    Key {
        name: "watch.deadline",
        why: "How long the answer to that may take.",
        field: |c| Field::Time(&mut c.hosting.probe_deadline),
    },
    Key {
        name: "limits.line_bytes",
        why: "Longest message of a server; 16 MiB holds an image in Base64.",
        field: |c| Field::Bytes(&mut c.hosting.line_bytes),
    },
    Key {
        name: "limits.queue_bytes",
        why: "What may wait for one server's stdin before calls are refused.",
        field: |c| Field::Bytes(&mut c.hosting.queue_bytes),
    },
    Key {
        name: "limits.mailbox_bytes",
        why: "Notifications that may wait for one slow caller before the oldest are dropped.",
        field: |c| Field::Bytes(&mut c.hosting.mailbox_bytes),
    },
    Key {
        name: "limits.start_timeout",
        why: "How long a server may take to start; a first `npx` installs packages meanwhile.",
        field: |c| Field::Time(&mut c.hosting.start_timeout),
    },
    Key {
        name: "limits.probe_timeout",
        why: "How long the probe of the era waits before it takes silence for \"legacy\".",
        field: |c| Field::Time(&mut c.hosting.probe_timeout),
    },
    Key {
        name: "limits.ready_wait",
        why: "How long a call waits for a process that is starting.",
        field: |c| Field::Time(&mut c.hosting.ready_wait),
    },
    Key {
        name: "limits.stop_grace",
        why: "What a stopping server gets after its stdin closed, and again after SIGTERM.",
        field: |c| Field::Time(&mut c.hosting.stop_grace),
    },
    Key {
        name: "limits.idle_ttl",
        why: "A process that nobody uses for so long is stopped; the next call starts it again.",
        field: |c| Field::Time(&mut c.hosting.idle_ttl),
    },
    Key {
        name: "limits.instance_memory",
        why: "Resident memory of an instance with all that it starts. No default: only you know what a server needs.",
        field: |c| Field::Bound("memory", &mut c.hosting.instance),
    },
    Key {
        name: "limits.instance_processes",
        why: "Processes of an instance; more than a browser with its tabs, so that only a runaway meets it.",
        field: |c| Field::Bound("processes", &mut c.hosting.instance),
    },
    Key {
        name: "limits.instance_open_files",
        why: "Open files of each process of an instance: a leak fails there and not elsewhere.",
        field: |c| Field::Bound("openFiles", &mut c.hosting.instance),
    },
    Key {
        name: "limits.instance_cpu",
        why: "Percent of one core that an instance may use. No default: a server that computes is not ill.",
        field: |c| Field::Bound("cpu", &mut c.hosting.instance),
    },
    Key {
        name: "limits.instance_output",
        why: "Bytes per second that an instance may write; over it the server waits. Far above what tools answer.",
        field: |c| Field::Bound("outputRate", &mut c.hosting.instance),
    },
    Key {
        name: "limits.instances_per_principal",
        why: "Processes of one server that one principal may have: nobody takes the whole server from the others.",
        field: |c| Field::Count(&mut c.hosting.instances_per_principal),
    },
    Key {
        name: "limits.instances_per_server",
        why: "Processes of one server: one runaway server must not take the machine.",
        field: |c| Field::Count(&mut c.hosting.instances_per_server),
    },
    Key { name: "limits.instances", why: "Processes in all.", field: |c| Field::Count(&mut c.hosting.instances) },
    Key {
        name: "limits.pool",
        why: "Processes of one principal and client in the mode `exclusive`.",
        field: |c| Field::Count(&mut c.hosting.pool),
    },
    Key {
        name: "limits.subscriptions",
        why: "Resources that the clients of one process may be subscribed to.",
        field: |c| Field::Count(&mut c.hosting.subscriptions),
    },
    Key {
        name: "limits.sessions",
        why: "Open sessions in all; one costs a few KiB.",
        field: |c| Field::Count(&mut c.hosting.sessions),
    },
    Key {
        name: "limits.sessions_per_principal",
        why: "Open sessions of one principal: one client that leaks them must not shut the others out.",
        field: |c| Field::Count(&mut c.hosting.sessions_per_principal),
    },
    Key {
        name: "limits.session_idle",
        why: "A session without request or stream for so long ends.",
        field: |c| Field::Time(&mut c.hosting.session_idle),
    },
    Key {
        name: "limits.ask_waits",
        why: "How long a request of a server waits for its client to open a stream; some clients never do.",
        field: |c| Field::Time(&mut c.hosting.ask_waits),
    },
    Key {
        name: "limits.replay_events",
        why: "Events of one session that are kept for a client whose connection broke.",
        field: |c| Field::Count(&mut c.hosting.replay_events),
    },
    Key {
        name: "limits.replay_bytes",
        why: "Their bytes; the newest event is kept whatever its size.",
        field: |c| Field::Bytes(&mut c.hosting.replay_bytes),
    },
    Key {
        name: "limits.replay_bytes_per_principal",
        why: "What all sessions of one principal keep: many sessions must not take the host's memory.",
        field: |c| Field::Bytes(&mut c.hosting.replay_bytes_per_principal),
    },
    Key {
        name: "limits.replay_streams",
        why: "Streams of one session that wait for their client to come back.",
        field: |c| Field::Count(&mut c.hosting.replay_streams),
    },
    Key {
        name: "limits.replay_keep",
        why: "How long a stream can be resumed after its response was sent.",
        field: |c| Field::Time(&mut c.hosting.replay_keep),
    },
    Key {
        name: "limits.log_bytes",
        why: "Size at which a server's log is rotated; one older file is kept.",
        field: |c| Field::Bytes64(&mut c.hosting.log_bytes),
    },
    Key {
        name: "limits.body_bytes",
        why: "Largest request; more than any argument that a model writes.",
        field: |c| Field::Bytes(&mut c.serving.body_bytes),
    },
    Key {
        name: "limits.depth",
        why: "Deepest nesting of JSON in a request; 64 is the most.",
        field: |c| Field::CountSize(&mut c.serving.depth),
    },
    Key {
        name: "limits.header_bytes",
        why: "Largest head of a request.",
        field: |c| Field::Bytes(&mut c.serving.header_bytes),
    },
    Key {
        name: "limits.header_count",
        why: "Most headers of a request.",
        field: |c| Field::CountSize(&mut c.serving.header_count),
    },
    Key {
        name: "limits.header_timeout",
        why: "How long a client may take to send its head.",
        field: |c| Field::Time(&mut c.serving.header_timeout),
    },
    Key {
        name: "limits.body_timeout",
        why: "How long a client may take to send its body.",
        field: |c| Field::Time(&mut c.serving.body_timeout),
    },
    Key {
        name: "limits.call_timeout",
        why: "How long one call may take.",
        field: |c| Field::Time(&mut c.serving.call_timeout),
    },
    Key {
        name: "limits.call_timeout_max",
        why: "How long a call may take whose time begins anew with each progress notification; a server must allow that.",
        field: |c| Field::Time(&mut c.serving.call_timeout_max),
    },
    Key {
        name: "limits.ask_timeout",
        why: "How long a client may take to answer what a server asks during a call: a person may have to be found.",
        field: |c| Field::Time(&mut c.serving.ask_timeout),
    },
    Key {
        name: "limits.stream_after",
        why: "A call that takes longer is answered as a stream; until then an error keeps its HTTP status.",
        field: |c| Field::Time(&mut c.serving.stream_after),
    },
    Key {
        name: "limits.keep_alive",
        why: "How often a quiet stream says that it lives; proxies cut silence after 30 to 60 s.",
        field: |c| Field::Time(&mut c.serving.keep_alive),
    },
    Key {
        name: "limits.poll_after",
        why: "Streams of 2025-11-25 clients close after so long and are asked for again; off, as each return costs a request.",
        field: |c| Field::Pause(&mut c.serving.poll_after),
    },
    Key {
        name: "limits.write_timeout",
        why: "How long a client may leave its stream unread before it counts as gone.",
        field: |c| Field::Time(&mut c.serving.write_timeout),
    },
    Key {
        name: "limits.drain",
        why: "How long calls in flight may finish when the host stops.",
        field: |c| Field::Time(&mut c.serving.drain),
    },
    Key {
        name: "limits.connections",
        why: "Open connections in all.",
        field: |c| Field::CountSize(&mut c.serving.connections),
    },
    Key {
        name: "limits.streams_per_principal",
        why: "Open streams of one principal.",
        field: |c| Field::CountSize(&mut c.serving.streams_per_principal),
    },
    Key {
        name: "limits.calls_per_principal",
        why: "Calls of one principal at one time.",
        field: |c| Field::CountSize(&mut c.serving.calls_per_principal),
    },
    Key {
        name: "limits.held_timeout",
        why: "How long a call that has asked its client is held for the answers; people take their time.",
        field: |c| Field::Time(&mut c.serving.held_timeout),
    },
    Key {
        name: "limits.held_rounds",
        why: "How often one call may ask its client.",
        field: |c| Field::Count(&mut c.serving.held_rounds),
    },
    Key {
        name: "limits.held_per_principal",
        why: "Held calls of one principal.",
        field: |c| Field::CountSize(&mut c.serving.held_per_principal),
    },
    Key {
        name: "limits.held_per_server",
        why: "Held calls of one server.",
        field: |c| Field::CountSize(&mut c.serving.held_per_server),
    },
    Key {
        name: "limits.turn_wait",
        why: "How long a call waits for another that could be meant when the server asks something.",
        field: |c| Field::Time(&mut c.serving.turn_wait),
    },
];

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
            Self::Format(to) => *to = log_format(given)?,
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
            Self::Format(LogFormat::Text) => text("text".to_owned()),
            Self::Format(LogFormat::Json) => text("json".to_owned()),
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
    use super::{Config, KEYS, LogFormat, parse};
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
            [limits]\nline_bytes = 0x10\nqueue_bytes = '3KiB'\nstop_grace = '250ms'\npool = 3\nlog_bytes = '1 GiB'\ndepth = 9\n";
        let config = parse(text).ok().unwrap();
        assert_eq!(config.public_url.as_deref(), Some("https://mcp.example.com"));
        assert_eq!((config.public.to_string().as_str(), config.open), ("[::1]:1", true));
        assert_eq!(config.log_format, LogFormat::Json);
        assert_eq!((config.hosting.line_bytes, config.hosting.queue_bytes), (16, 3072));
        assert_eq!((config.hosting.stop_grace, config.hosting.pool), (Duration::from_millis(250), 3));
        assert_eq!((config.hosting.log_bytes, config.serving.depth), (1 << 30, 9));
        assert!(!config.to_toml().contains("hunter2") && !config.to_json().to_string().contains("hunter2"));
    }

    #[test]
    fn all_mistakes_are_reported_at_once_with_their_places() {
        let text = "colour = 1\nlisten.public = '1'\npublic_url = 'https://a/b'\nstate_dir = 'x'\nallowed_hosts = [1]\n\
            [auth]\nopen = 'yes'\n[limits]\nline_bytes = '5 parrots'\npool = 0\nidle_ttl = 5\ninstances = 99999999999\n[log]\nlevel = '=='\nformat = 1\n";
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
            "line 15, column 10: `log.format` must be",
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
        let found =
            mistakes("auth.open = true\nlisten = {public = '0.0.0.0:5', operator = '0.0.0.0:5'}\nlimits.depth = 65");
        assert_eq!(found.len(), 4, "{found:#?}");
        assert!(Config::default().contradictions().is_empty());
        assert!(mistakes("listen = 5")[0].contains("must be a table"));
    }
}
