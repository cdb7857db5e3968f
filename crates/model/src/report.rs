//! What the host says about itself. All serializable: `--json` prints these as they are.

use crate::bounds::Bounds;
use crate::name::{Principal, ServerName};
use crate::server::{EraPin, Mode, Verdict};
use crate::watch::Watch;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The host at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// staithe's own version.
    pub version: String,
    /// The daemon's process.
    pub pid: u32,
    /// Since when, Unix milliseconds.
    pub started_at_ms: i64,
    /// Base URL of the public listener, without a path.
    pub public: String,
    /// Base URL of the operator listener.
    pub operator: String,
    /// The state directory.
    pub state_dir: String,
    /// Whether callers need a token.
    pub auth: bool,
    /// Whether every enabled server can take a call now, and the host does not stop.
    pub ready: bool,
    /// It was told to stop: calls may finish, new ones are refused, and the rest of this report is what is left.
    #[serde(default)]
    pub stopping: bool,
    /// Another daemon is about to take this one's place: nothing can be changed meanwhile.
    #[serde(default)]
    pub upgrading: bool,
    /// Resident memory of the daemon, bytes.
    pub resident_bytes: u64,
    /// The ledger.
    #[serde(default)]
    pub ledger: Option<LedgerReport>,
    /// Each server.
    pub servers: Vec<ServerReport>,
}

/// The ledger at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerReport {
    /// Its name in checkpoints.
    pub origin: String,
    /// Whether calls are recorded.
    pub calls: bool,
    /// Entries.
    pub entries: u64,
    /// How many of them the latest checkpoint of this daemon covers.
    pub signed: Option<u64>,
    /// When that was signed, Unix milliseconds.
    pub signed_at_ms: Option<i64>,
    /// Why it takes no records of calls now, and calls are refused, if that is so.
    pub refusing: Option<String>,
    /// Why calls are made without records now, if that is so: the operator wants them to go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unrecorded: Option<String>,
    /// Records that were refused since the daemon started.
    pub refused: u64,
    /// Absent where no witnesses are asked.
    pub witnesses: Option<WitnessReport>,
}

impl LedgerReport {
    /// Whether somebody should look at it now: calls are refused, or witnesses saw another history.
    pub fn is_broken(&self) -> bool {
        self.refusing.is_some()
            || self.unrecorded.is_some()
            || self.witnesses.as_ref().is_some_and(|witnesses| witnesses.alarm)
    }
}

/// What witnesses say of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessReport {
    /// How many are asked.
    pub asked: u64,
    /// How many of them cosigned what a quorum cosigned last; not known of what an earlier daemon was told.
    pub cosigned: Option<u64>,
    /// How many entries that covers.
    pub entries: Option<u64>,
    /// How long ago that was, milliseconds.
    pub age_ms: Option<u64>,
    /// Whether that is longer than the operator wants.
    pub stale: bool,
    /// Whether a witness saw more of the ledger than there is, or another history.
    pub alarm: bool,
    /// What is wrong with each that did not cosign.
    pub troubles: Vec<String>,
}

/// How a server is, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Takes calls now. It may have no process: one starts with the first call.
    Ready,
    /// Being probed or started.
    Starting,
    /// Works on calls. Said of processes; their server is ready.
    Busy,
    /// Did not answer when it was asked whether it lives. It takes calls: some servers answer nothing else.
    Silent,
    /// Would never have answered again; it is being replaced.
    Wedged,
    /// Its last process died; the next start waits for its backoff.
    Restarting,
    /// It cannot be started; see `reason`.
    Failing,
    /// It starts and dies again and again; see `reason`.
    CrashLooping,
    /// It died so often that it is left alone for minutes; see `reason`.
    Quarantined,
    /// Stopped by an operator.
    Stopped,
}

impl Health {
    /// Whether calls are taken now.
    pub fn serves(self) -> bool {
        matches!(self, Self::Ready | Self::Busy | Self::Silent)
    }

    /// Whether callers are turned away until something changes.
    pub fn is_broken(self) -> bool {
        matches!(self, Self::Failing | Self::CrashLooping | Self::Quarantined)
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::Starting => "starting",
            Self::Busy => "busy",
            Self::Silent => "silent",
            Self::Wedged => "wedged",
            Self::Restarting => "restarting",
            Self::Failing => "failing",
            Self::CrashLooping => "crash-looping",
            Self::Quarantined => "quarantined",
            Self::Stopped => "stopped",
        })
    }
}

/// One server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerReport {
    /// Its name.
    pub name: ServerName,
    /// Its public address.
    pub url: String,
    /// Program and arguments, or the address of a remote server without its query; environment values are never shown.
    pub command: String,
    /// Names of the environment variables that were set for it.
    pub env: Vec<String>,
    /// The file that a remote server's credentials are read from.
    pub headers_file: Option<String>,
    /// What was set for its processes; what is absent is as the configuration says.
    #[serde(default)]
    pub bounds: Bounds,
    /// Which callers share a process.
    pub mode: Mode,
    /// What the operator asked for.
    pub era: EraPin,
    /// What the probe found, if it ran.
    pub verdict: Option<Verdict>,
    /// When the probe ran, Unix milliseconds.
    pub probed_at_ms: Option<i64>,
    /// Its own times, where it has any.
    #[serde(default, skip_serializing_if = "Watch::is_default")]
    pub watch: Watch,
    /// Number of its current desired state.
    pub generation: u64,
    /// In one word.
    pub health: Health,
    /// Why, where it is not ready: last exit, last stderr line, next attempt.
    pub reason: Option<String>,
    /// Live processes.
    pub instances: u32,
    /// Open legacy sessions.
    pub sessions: u32,
    /// Calls answered since the daemon started.
    pub calls: u64,
    /// Processes that died unasked since the daemon started.
    pub restarts: u64,
    /// Lines on stdout that were no JSON-RPC, since the daemon started.
    pub junk_lines: u64,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceReport {
    /// Its server.
    pub server: ServerName,
    /// Number within the daemon's life.
    pub id: u64,
    /// The process, while it lives; a remote server has none here.
    pub pid: Option<u32>,
    /// `legacy` or `modern`: what is spoken on its pipes.
    pub era: String,
    /// Whose it is, in words: `principal=… caps=…`, `session=…` (shortened) or `shared`.
    pub key: String,
    /// In one word.
    pub health: Health,
    /// Why, where it is not ready.
    pub reason: Option<String>,
    /// Since when it runs, Unix milliseconds.
    pub started_at_ms: Option<i64>,
    /// Calls that wait for its answer.
    pub in_flight: u32,
    /// Sessions that lean on it.
    pub sessions: u32,
    /// Resident memory of its whole process tree, bytes.
    pub resident_bytes: u64,
    /// What it may be at most.
    #[serde(default)]
    pub memory_limit: Option<u64>,
    /// Processes of the tree.
    #[serde(default)]
    pub processes: u64,
    /// What they may be at most.
    #[serde(default)]
    pub processes_limit: Option<u32>,
    /// Unasked deaths so far.
    pub restarts: u64,
}

/// One legacy protocol session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionReport {
    /// First characters of the session id: the rest is a handle that is not shown.
    pub id_prefix: String,
    /// Its server.
    pub server: ServerName,
    /// Whose.
    pub principal: Principal,
    /// Negotiated protocol revision.
    pub revision: String,
    /// `name version` as the client gave it.
    pub client: String,
    /// Opened, Unix milliseconds.
    pub opened_at_ms: i64,
    /// Last request, Unix milliseconds.
    pub last_used_at_ms: i64,
    /// Whether a GET stream is open.
    pub stream: bool,
}

/// Where a log line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogSource {
    /// The server's stderr.
    Stderr,
    /// A line on stdout that was no JSON-RPC.
    Junk,
    /// staithe's own word about the server: starts, exits, verdicts.
    Host,
    /// A `notifications/message` that belongs to no caller.
    Message,
}

impl fmt::Display for LogSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stderr => "stderr",
            Self::Junk => "junk",
            Self::Host => "host",
            Self::Message => "message",
        })
    }
}

/// One line of a server's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it was read, Unix milliseconds.
    pub at_ms: i64,
    /// Instance number.
    pub instance: u64,
    /// Whose words.
    pub source: LogSource,
    /// The text, control characters replaced, at most 8 KiB.
    pub text: String,
}

/// A token without anything secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenReport {
    /// Public identifier.
    pub id: String,
    /// Who the bearer is.
    pub principal: Principal,
    /// The one server it opens; every server where absent.
    pub server: Option<ServerName>,
    /// It opens the ledger, and no server.
    #[serde(default)]
    pub audit: bool,
    /// Made, Unix milliseconds.
    pub created_at_ms: i64,
    /// Ends, Unix milliseconds.
    pub expires_at_ms: Option<i64>,
    /// Revoked, Unix milliseconds.
    pub revoked_at_ms: Option<i64>,
}
