//! What a hosted server is, and what is known about its era.

use crate::name::ServerName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Which callers share one process of a server (the isolation key).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// One process per principal, client and declared capabilities. The default.
    #[default]
    PerPrincipal,
    /// One process per protocol session. A call without a session has the process of its principal.
    PerSession,
    /// One process for everybody. It is told that clients can do nothing beyond plain calls.
    Shared,
    /// A pool of processes, each with at most one call at a time.
    Exclusive,
}

/// Which era to speak to a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EraPin {
    /// Find out with a probe on a throw-away process.
    #[default]
    Auto,
    /// Always the `initialize` handshake.
    Legacy,
    /// Always per-request metadata (2026-07-28).
    Modern,
}

/// A word that is none of those that a setting takes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not one of {choices}")]
pub struct BadChoice {
    given: String,
    choices: &'static str,
}

impl FromStr for Mode {
    type Err = BadChoice;
    fn from_str(text: &str) -> Result<Self, BadChoice> {
        Ok(match text {
            "per-principal" => Self::PerPrincipal,
            "per-session" => Self::PerSession,
            "shared" => Self::Shared,
            "exclusive" => Self::Exclusive,
            _ => {
                let choices = "per-principal, per-session, shared, exclusive";
                return Err(BadChoice { given: text.to_owned(), choices });
            }
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PerPrincipal => "per-principal",
            Self::PerSession => "per-session",
            Self::Shared => "shared",
            Self::Exclusive => "exclusive",
        })
    }
}

impl FromStr for EraPin {
    type Err = BadChoice;
    fn from_str(text: &str) -> Result<Self, BadChoice> {
        Ok(match text {
            "auto" => Self::Auto,
            "legacy" => Self::Legacy,
            "modern" => Self::Modern,
            _ => return Err(BadChoice { given: text.to_owned(), choices: "auto, legacy, modern" }),
        })
    }
}

impl fmt::Display for EraPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        })
    }
}

/// One complete desired state of a server. Its `generation` grows by one with every change.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSpec {
    /// The name in the address.
    pub name: ServerName,
    /// The program. Found through the host's `PATH` where it has no slash.
    pub command: String,
    /// Its arguments, passed as they are: no shell.
    #[serde(default)]
    pub args: Vec<String>,
    /// Environment on top of the short allow-list. Values may be secrets: never print them.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory; the server's own state directory where absent.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Which callers share a process.
    #[serde(default)]
    pub mode: Mode,
    /// Which era to speak.
    #[serde(default)]
    pub era: EraPin,
    /// Whether the operator wants it to run.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Set by the store: 1 for the first, one more with every change, never reused.
    #[serde(default)]
    pub generation: u64,
}

fn yes() -> bool {
    true
}

impl ServerSpec {
    /// A server with every setting at its default.
    pub fn new(name: ServerName, command: impl Into<String>, args: Vec<String>) -> Self {
        Self {
            name,
            command: command.into(),
            args,
            env: BTreeMap::new(),
            cwd: None,
            mode: Mode::default(),
            era: EraPin::default(),
            enabled: true,
            generation: 0,
        }
    }

    /// What the era verdict depends on: another command line, directory or environment may be another program.
    /// Unambiguous text, not a secret-free one: hash it before storing.
    pub fn launch_text(&self) -> String {
        format!("{:?}", (&self.command, &self.args, &self.env, &self.cwd))
    }
}

impl fmt::Debug for ServerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSpec")
            .field("name", &self.name)
            .field("command", &self.command)
            .field("args", &self.args)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("mode", &self.mode)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// Which eras a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// `initialize` only.
    Legacy,
    /// Per-request metadata only.
    Modern,
    /// Both, each in a process of its own.
    Dual,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
            Self::Dual => "dual",
        })
    }
}

/// What a probe found, and when. A verdict without a date would never be doubted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EraVerdict {
    /// Whose.
    pub server: ServerName,
    /// SHA-256 in hex of `ServerSpec::launch_text` at the time of the probe.
    pub fingerprint: String,
    /// The finding.
    pub verdict: Verdict,
    /// The server's own `DiscoverResult`, as JSON text, where it answered one.
    pub discovered: Option<String>,
    /// When, in Unix milliseconds.
    pub probed_at_ms: i64,
}
