//! What a hosted server is, and what is known about its era.

use crate::bounds::{Bounds, MOST_SPARES};
use crate::name::ServerName;
use crate::target::{Program, Remote, Target};
use crate::watch::Watch;
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
    /// The `initialize` handshake over the HTTP+SSE transport of 2024-11-05. For remote servers only.
    Sse,
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
            "sse" => Self::Sse,
            _ => return Err(BadChoice { given: text.to_owned(), choices: "auto, legacy, modern, sse" }),
        })
    }
}

impl fmt::Display for EraPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Legacy => "legacy",
            Self::Modern => "modern",
            Self::Sse => "sse",
        })
    }
}

/// One complete desired state of a server. Its `generation` grows by one with every change.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSpec {
    /// The name in the address.
    pub name: ServerName,
    /// What stands behind it: `command`, `args`, `env`, `cwd`, or `url`, `headersFile`, `allowPlain`.
    #[serde(flatten)]
    pub target: Target,
    /// Which callers share a process.
    #[serde(default)]
    pub mode: Mode,
    /// Which era to speak.
    #[serde(default)]
    pub era: EraPin,
    /// What its instances may take.
    #[serde(default, skip_serializing_if = "Bounds::is_empty")]
    pub bounds: Bounds,
    /// How long its calls may take, and how it is watched.
    #[serde(default, skip_serializing_if = "Watch::is_default")]
    pub watch: Watch,
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
    /// A program with every setting at its default.
    pub fn new(name: ServerName, command: impl Into<String>, args: Vec<String>) -> Self {
        let program = Program { command: command.into(), args, env: BTreeMap::new(), cwd: None };
        Self::of(name, Target::Program(program))
    }

    /// Everything that may be shown of it, as canonical JSON: without the values of its environment, and without the query of its
    /// address. For digests: a change of a secret alone does not show in it, but has another generation.
    pub fn public_form(&self) -> Vec<u8> {
        let mut form = serde_json::to_value(self).unwrap_or_default();
        if let Some(env) = form.get_mut("env").and_then(serde_json::Value::as_object_mut) {
            env.values_mut().for_each(|value| *value = serde_json::Value::Null);
        }
        if let (Target::Remote(remote), Some(url)) = (&self.target, form.get_mut("url")) {
            *url = remote.url().to_string().into();
        }
        // Members of such a value are in order.
        serde_json::to_vec(&form).unwrap_or_default()
    }

    /// A remote server with every setting at its default.
    pub fn remote(name: ServerName, remote: Remote) -> Self {
        Self::of(name, Target::Remote(remote))
    }

    fn of(name: ServerName, target: Target) -> Self {
        Self {
            name,
            target,
            mode: Mode::default(),
            era: EraPin::default(),
            bounds: Bounds::default(),
            watch: Watch::default(),
            enabled: true,
            generation: 0,
        }
    }

    /// As many spares as the operator wants. A process that is everybody's needs none; a remote server has none to be warm.
    pub fn spares(&self) -> u32 {
        let any = self.mode != Mode::Shared && self.program().is_some();
        if any { self.bounds.spares.unwrap_or_default().min(MOST_SPARES) } else { 0 }
    }

    /// The program, if it is one.
    pub fn program(&self) -> Option<&Program> {
        match &self.target {
            Target::Program(program) => Some(program),
            Target::Remote(_) => None,
        }
    }

    /// The same, to be changed.
    pub fn program_mut(&mut self) -> Option<&mut Program> {
        match &mut self.target {
            Target::Program(program) => Some(program),
            Target::Remote(_) => None,
        }
    }

    /// What the era verdict depends on: another command line, directory, environment or address may be another server.
    /// Unambiguous text, not a secret-free one: hash it before storing.
    pub fn launch_text(&self) -> String {
        match &self.target {
            Target::Program(Program { command, args, env, cwd }) => format!("{:?}", (command, args, env, cwd)),
            Target::Remote(remote) => format!("{:?}", ("url", remote.url().as_str(), remote.headers_file())),
        }
    }
}

impl fmt::Debug for ServerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSpec")
            .field("name", &self.name)
            .field("target", &self.target)
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
