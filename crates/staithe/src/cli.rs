//! The grammar of the command line. It decides nothing: words in, a typed value out.

mod audit;

pub(crate) use audit::{
    Caller, EraseArgs, ExportArgs, ExportFormat, Narrow, Point, PruneArgs, RecoverArgs, RotateArgs, SearchArgs,
};

use crate::config::LedgerMode;
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use model::{EraPin, IdleTtl, Mode, Principal, ServerName, Span, bounds, measure};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Gives MCP servers that speak over stdin and stdout a permanent HTTP address.
#[derive(Debug, Parser)]
#[command(name = "staithe", version, disable_help_subcommand = true, max_term_width = 110)]
#[command(
    after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 denied, 5 unhealthy or verification failed.\n\
First steps: `staithe demo`, then `staithe run -- npx -y @modelcontextprotocol/server-everything`."
)]
pub(crate) struct Cli {
    /// Where staithe keeps everything [default: $STAITHE_STATE, else $XDG_STATE_HOME/staithe, else
    /// ~/.local/state/staithe, for root /var/lib/staithe]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Print JSON instead of text for people
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Verb,
}

/// What a person can ask for.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Start a host with a built-in server, make one call through it, say how to connect, run until Ctrl-C
    Demo(DemoArgs),
    /// Give one stdio server an HTTP address now
    Run(RunArgs),
    /// The daemon: serve every server of the state directory
    Serve(ServeArgs),
    /// Take servers from an `mcpServers` JSON (Claude, Cursor) or a VS Code `servers` JSON
    Import(ImportArgs),
    /// The host at a glance; exit code 5 while a server is failing or the host stops
    Status,
    /// Every server
    Servers,
    /// Live processes
    Instances(OfServer),
    /// Open sessions of clients up to protocol 2025-11-25
    Sessions(OfServer),
    /// What a server wrote to stderr, and what staithe says about it
    Logs(LogsArgs),
    /// Replace every process of a server; sessions stay valid
    Restart(OneServer),
    /// Refuse calls to a server and stop its processes
    Stop(OneServer),
    /// Let a stopped server run again
    Start(OneServer),
    /// Forget a server and stop its processes
    Remove(OneServer),
    /// Put another build in the daemon's place while it serves: no call fails, no connection is refused
    Upgrade(UpgradeArgs),
    /// Call one tool through the public address, as a client would
    Call(CallArgs),
    /// Read the configuration, report every mistake, print what is in effect
    Check(CheckArgs),
    /// Write units for systemd: the daemon, and the keeper of its servers
    InstallService(InstallServiceArgs),
    /// Machine tokens for clients
    #[command(subcommand)]
    Token(TokenVerb),
    /// The ledger: verify it here or offline elsewhere, search, export, prune, erase, recover; and run a witness
    #[command(subcommand)]
    Audit(AuditVerb),
}

/// `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Public listener
    #[arg(long, value_name = "ADDR", value_parser = address, default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
}

/// `run`.
#[derive(Debug, Args)]
#[command(
    after_help = "A new token is made at each start and printed once; the one that the last `run` of this server made \
ends then, unless --keep-token is given."
)]
pub(crate) struct RunArgs {
    /// The name in the address /mcp/<NAME> [default: from the command]
    #[arg(long)]
    pub(crate) name: Option<ServerName>,
    /// Public listener; port 0 picks a free one
    #[arg(long, value_name = "ADDR", value_parser = address, default_value = "127.0.0.1:8420")]
    pub(crate) listen: SocketAddr,
    /// Operator listener (/healthz, /readyz, /metrics); loopback only
    #[arg(long, value_name = "ADDR", value_parser = address, default_value = "127.0.0.1:0")]
    pub(crate) operator: SocketAddr,
    /// Start no keeper: the server ends with this process, however it ends (for containers)
    #[arg(long)]
    pub(crate) no_keeper: bool,
    /// A name by which clients reach this machine, beside its own; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) host: Vec<String>,
    /// One environment variable for the server; may be repeated
    #[arg(long, value_name = "K=V", value_parser = env_pair)]
    pub(crate) env: Vec<(String, String)>,
    /// Its working directory
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<PathBuf>,
    /// Which callers share a process: per-principal, per-session, shared, exclusive
    #[arg(long, default_value_t)]
    pub(crate) mode: Mode,
    /// Which protocol era to speak to it: auto, legacy, modern
    #[arg(long, default_value_t)]
    pub(crate) era: EraPin,
    /// Resident memory that it may use with all that it starts, like "512 MiB"; over it, it is ended
    #[arg(long, value_name = "SIZE", value_parser = bounds::memory)]
    pub(crate) memory: Option<u64>,
    /// Processes that it may have; over it, it is ended [default: 512]
    #[arg(long, value_name = "N", value_parser = bounds::processes)]
    pub(crate) processes: Option<u32>,
    /// CPU that it may use, in percent of one core: 150 is one and a half
    #[arg(long, value_name = "PERCENT", value_parser = bounds::cpu)]
    pub(crate) cpu: Option<u32>,
    /// It is stopped when nobody used it for so long, like "1 h", or never [default: "15 min"]
    #[arg(long, value_name = "TIME", value_parser = bounds::idle_ttl)]
    pub(crate) idle_ttl: Option<IdleTtl>,
    /// How long one call may take, like "30 s" or "10 min" [default: 5 min]
    #[arg(long, value_name = "TIME")]
    pub(crate) call_timeout: Option<Span>,
    /// What a call's records wait for: strict (the disk), balanced (the kernel), async (nothing); off records no calls
    #[arg(long, value_name = "MODE", default_value = "balanced")]
    pub(crate) ledger: LedgerMode,
    /// Ask callers for no token. Only on a loopback address
    #[arg(long)]
    pub(crate) open: bool,
    /// Let the token of the last `run` live on beside the new one
    #[arg(long, conflicts_with = "open")]
    pub(crate) keep_token: bool,
    /// The server's program and arguments, after `--`
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

/// `serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Configuration file [default: staithe.toml in the state directory, if it exists]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Public listener, in place of the configured one; port 0 picks a free one
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(crate) listen: Option<SocketAddr>,
    /// Operator listener, in place of the configured one
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(crate) operator: Option<SocketAddr>,
    /// On SIGTERM let calls finish and leave the servers running for the next daemon (for service managers)
    #[arg(long, conflicts_with = "no_keeper")]
    pub(crate) leave_servers: bool,
    /// Start no keeper: servers end with this process, however it ends (for containers)
    #[arg(long)]
    pub(crate) no_keeper: bool,
    /// Start no keeper of the processes: another service runs `staithe keeper` (for service managers)
    #[arg(long, requires = "leave_servers")]
    pub(crate) keeper_runs: bool,
}

/// `install-service`.
#[derive(Debug, Args)]
pub(crate) struct InstallServiceArgs {
    /// For the user who asks, not for the machine
    #[arg(long)]
    pub(crate) user: bool,
    /// Where the files go [default: /etc/systemd/system; with --user the units of the user]
    #[arg(long, value_name = "DIR", conflicts_with = "print")]
    pub(crate) dir: Option<PathBuf>,
    /// Print the files, write none
    #[arg(long)]
    pub(crate) print: bool,
    /// What the units are called; for the machine also the user that they run as, and the directory below /var/lib
    #[arg(long, value_name = "NAME", default_value = "staithe", value_parser = unit_name)]
    pub(crate) name: String,
    /// Let systemd hold the public listener: from boot on, also on a port below 1024
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(crate) socket: Option<SocketAddr>,
    /// Replace files that differ
    #[arg(long)]
    pub(crate) force: bool,
}

/// `upgrade`.
#[derive(Debug, Args)]
pub(crate) struct UpgradeArgs {
    /// The program that takes over [default: the file that the daemon was started from]
    pub(crate) program: Option<PathBuf>,
}

/// `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Configuration file [default: staithe.toml in the state directory, if it exists]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// `import`.
#[derive(Debug, Args)]
#[command(after_help = "Servers with mistakes are skipped, each mistake is named; exit code 1 where none was taken.")]
pub(crate) struct ImportArgs {
    /// The JSON file; `-` reads standard input
    pub(crate) file: PathBuf,
    /// Replace servers that exist with other settings; without it they stay as they are
    #[arg(long)]
    pub(crate) replace: bool,
    /// Report only; change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Add them stopped
    #[arg(long)]
    pub(crate) disabled: bool,
    /// Configuration file of the daemon [default: staithe.toml in the state directory, if it exists]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// A command about one server or all.
#[derive(Debug, Args)]
pub(crate) struct OfServer {
    /// Only this server
    pub(crate) server: Option<ServerName>,
}

/// A command about one server.
#[derive(Debug, Args)]
pub(crate) struct OneServer {
    /// The server
    pub(crate) server: ServerName,
}

/// `logs`.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The server
    pub(crate) server: ServerName,
    /// Go on with each new line until Ctrl-C
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// How many of the last lines to begin with
    #[arg(long, short = 'n', value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub(crate) lines: u32,
}

/// `call`.
#[derive(Debug, Args)]
pub(crate) struct CallArgs {
    /// The server
    pub(crate) server: ServerName,
    /// The tool [default: none is called; the server's tools are listed]
    pub(crate) tool: Option<String>,
    /// Its arguments, a JSON object
    #[arg(value_name = "JSON", default_value = "{}")]
    pub(crate) arguments: String,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) timeout: u64,
    /// Show where the time went
    #[arg(long, requires = "tool")]
    pub(crate) timing: bool,
}

/// `token …`.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenVerb {
    /// Make a token. It is shown once
    Create {
        /// Who the bearer is
        #[arg(long, value_name = "NAME", default_value = "local")]
        principal: Principal,
        /// The only server it opens [default: every server]
        #[arg(long)]
        server: Option<ServerName>,
        /// It opens the ledger at /audit/v1/, with all that was recorded, and no server
        #[arg(long, conflicts_with = "server")]
        audit: bool,
        /// It ends by itself after this time, like 90s, "12 h" or 1d; a number alone means seconds [default: never]
        #[arg(long, value_name = "TIME", value_parser = lifetime)]
        expires_in: Option<u64>,
    },
    /// Every token, without its secret
    List,
    /// End a token now
    Revoke {
        /// Its id, as `token list` shows it, or the whole token
        id: String,
    },
}

/// `audit …`.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditVerb {
    /// Cosign checkpoints of other people's logs, and never two of one log that contradict each other
    Witness(WitnessArgs),
    /// Verify a log offline: a copy of its directory and its public keys are enough. Without a directory, this host's own ledger
    Verify(VerifyArgs),
    /// Verify offline, with a proof, that one entry is in a log
    Check(ProofArgs),
    /// The last records of this host's ledger, and with --follow those that come
    Tail(TailArgs),
    /// One record of this host's ledger, whole
    Show(ShowArgs),
    /// A proof that a record is in this host's ledger, which others check offline with `audit check`
    Prove(ProveArgs),
    /// Find calls, refusals and operators' acts in this host's ledger
    Search(SearchArgs),
    /// Write this host's ledger as JSON lines, with proofs, or as OCSF events
    Export(ExportArgs),
    /// Forget whom a pseudonym in the ledger stands for
    Erase(EraseArgs),
    /// Remove the beginning of the ledger
    Prune(PruneArgs),
    /// Make everything that is derived from the ledger's entries again from them. No daemon may run
    Rebuild,
    /// Have other keys sign this host's ledger from here on. No daemon may run
    RotateKeys(RotateArgs),
    /// Begin a new ledger where the old one is refused. No daemon may run
    Recover(RecoverArgs),
}

/// `audit tail`.
#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// How many of the last records
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
    pub(crate) lines: u64,
    /// Go on with each new one
    #[arg(long, short)]
    pub(crate) follow: bool,
}

/// `audit show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Its index: the first record has 0
    pub(crate) index: u64,
    /// Show what the arguments or the answer said, too, where that is kept; the daemon decrypts it, and records that you asked
    #[arg(long)]
    pub(crate) content: bool,
}

/// `audit prove`.
#[derive(Debug, Args)]
pub(crate) struct ProveArgs {
    /// The record's index: the first one has 0
    pub(crate) index: u64,
    /// Write PATH.tlog-proof and PATH.entry instead of printing the proof
    #[arg(long, value_name = "PATH")]
    pub(crate) out: Option<PathBuf>,
}

/// `audit witness`.
#[derive(Debug, Args)]
#[command(
    after_help = "It cosigns a checkpoint only if the log signed it, and if the log still begins with all that was cosigned \
before; and it writes that down before it answers. It speaks C2SP tlog-witness: POST /add-checkpoint, GET /<SHA-256 of the \
origin>/checkpoint.\n\n\
It does not promise that entries are true, or that all were written: it sees none. It is of use only where the owner of the \
log does not rule the witness's machine. DIR is its memory: with an older copy of it the witness would not know what it \
cosigned, so never put one back. If the memory is lost, begin with an empty DIR and another name."
)]
pub(crate) struct WitnessArgs {
    /// Its keys and its memory; made on the first start. One witness at a time
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// What the witness is called, best where it is reached without `https://`, like example.com/w1
    #[arg(long, value_name = "NAME", value_parser = key_name)]
    pub(crate) name: String,
    /// Where it listens, HTTP without TLS; port 0 picks a free one
    #[arg(long, value_name = "ADDR", value_parser = address, default_value = "127.0.0.1:8422")]
    pub(crate) listen: SocketAddr,
    /// Public keys of the logs, one per line; where a log has an Ed25519 and an ML-DSA-44 key, both must sign
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub(crate) log: Vec<PathBuf>,
    /// A copy of a log's directory, which somebody keeps up to date: only what it has is cosigned
    #[arg(long, value_name = "ORIGIN=DIR", value_parser = copy)]
    pub(crate) copy: Vec<(String, PathBuf)>,
}

fn copy(text: &str) -> Result<(String, PathBuf), String> {
    let (origin, dir) = text.split_once('=').filter(|(origin, dir)| !origin.is_empty() && !dir.is_empty()).ok_or(
        "name the log and the directory of its copy, like mcp.example.com/audit/k3x=/srv/copy; the log's name begins its public keys",
    )?;
    Ok((origin.to_owned(), dir.into()))
}

/// `audit verify`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 the log is what its checkpoint says, 5 it is not, 3 there is no such directory, 2 the words or the \
files of keys and policy are wrong, 1 something could not be read."
)]
pub(crate) struct VerifyArgs {
    /// The log's directory, or a copy of it [default: this host's own ledger]
    #[arg(requires = "key")]
    pub(crate) dir: Option<PathBuf>,
    /// The log's public keys, one per line, `#` begins a comment: Ed25519 and ML-DSA-44 [default without a directory: those that
    /// lie beside the ledger, which whoever rules this machine can replace]
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// A checkpoint of the log that somebody kept: the log must still begin with what it was then
    #[arg(long, value_name = "FILE")]
    pub(crate) since: Option<PathBuf>,
    /// Whose cosignatures are needed (C2SP tlog-policy), on the log's checkpoint or on that of --since [default for this host's own
    /// ledger: those of `ledger.policy`, if there are any yet]
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// Where `ledger.policy` is looked for [default: staithe.toml in the state directory]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dir", "policy"])]
    pub(crate) config: Option<PathBuf>,
}

/// `audit check`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 the entry is in the log, 5 this is not shown, 2 the words or the files of keys and policy are wrong, \
1 something could not be read."
)]
pub(crate) struct ProofArgs {
    /// The proof (C2SP tlog-proof)
    pub(crate) proof: PathBuf,
    /// The entry, byte for byte
    #[arg(long, value_name = "FILE")]
    pub(crate) entry: PathBuf,
    /// The log's public keys, one per line, `#` begins a comment: Ed25519 and ML-DSA-44
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    /// Whose cosignatures the proof's checkpoint needs (C2SP tlog-policy)
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
}

/// What else may have been meant by words that the grammar does not take.
pub(crate) fn next_step(kind: ErrorKind, words: &[String]) -> Option<String> {
    if !matches!(kind, ErrorKind::UnknownArgument | ErrorKind::MissingRequiredArgument) {
        return None;
    }
    let has = |word: &str| words.iter().any(|given| given == word);
    match words.iter().find(|word| matches!(word.as_str(), "run" | "call"))?.as_str() {
        "run" if !has("--") => {
            Some("put `--` before the server's program, like: staithe run -- npx -y some-server".to_owned())
        }
        "call" => {
            Some("give the tool's arguments as one JSON object in quotes, like: '{\"text\": \"hello\"}'".to_owned())
        }
        _ => None,
    }
}

/// An address to listen on. A port alone, and `localhost`, mean loopback.
fn address(text: &str) -> Result<SocketAddr, String> {
    let loopback = |port: &str| port.parse().ok().map(|port: u16| SocketAddr::from(([127, 0, 0, 1], port)));
    let port = text.strip_prefix("localhost:").unwrap_or(text);
    text.parse().ok().or_else(|| loopback(port)).ok_or_else(|| {
        "give an IP address and a port, like 127.0.0.1:8420, 0.0.0.0:8420 or [::1]:8420; \
         a port alone means 127.0.0.1"
            .to_owned()
    })
}

/// A name that a key may have, as C2SP signed-note and tlog-cosignature have it.
fn key_name(text: &str) -> Result<String, String> {
    let fits = ledger::note::is_key_name(text) && text.len() <= 255 && !text.chars().any(char::is_control);
    if fits {
        Ok(text.to_owned())
    } else {
        Err("give at most 255 bytes without blanks and `+`, like example.com/w1".to_owned())
    }
}

/// A name that a unit, a user and a directory may have.
fn unit_name(text: &str) -> Result<String, String> {
    let fits = text.len() <= 24
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if fits { Ok(text.to_owned()) } else { Err("give at most 24 of a-z, 0-9 and -, a letter first".to_owned()) }
}

/// A time in whole seconds, at least one.
fn lifetime(text: &str) -> Result<u64, String> {
    let plain = text.parse::<u64>().ok();
    let days = text.strip_suffix('d').and_then(|days| days.trim().parse::<u64>().ok()?.checked_mul(86_400));
    let seconds = plain.or(days).or_else(|| measure::time(text).map(|time| time.as_secs()));
    seconds
        .filter(|seconds| *seconds > 0)
        .ok_or_else(|| "give a time of at least one second, like 90s, \"30 min\", \"12 h\" or 1d".to_owned())
}

fn env_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("give it as NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Cli, Verb, address, lifetime, next_step};
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_passes_every_word_after_the_dashes_on() {
        let words = ["staithe", "run", "--env", "A=b=c", "--open", "--", "npx", "-y", "server", "--json", "--open"];
        let cli = Cli::try_parse_from(words).unwrap();
        let Verb::Run(run) = cli.command else { panic!("not run") };
        assert_eq!(run.command, ["npx", "-y", "server", "--json", "--open"]);
        assert_eq!(run.env, [("A".to_owned(), "b=c".to_owned())]);
        assert!(run.open && !cli.json);
    }

    #[test]
    fn global_flags_stand_anywhere_before_the_dashes() {
        for words in [["staithe", "--json", "status"], ["staithe", "status", "--json"]] {
            assert!(Cli::try_parse_from(words).unwrap().json);
        }
    }

    #[test]
    fn addresses_may_be_short() {
        for text in ["8420", "localhost:8420", "127.0.0.1:8420"] {
            assert_eq!(address(text).unwrap().to_string(), "127.0.0.1:8420", "{text}");
        }
        assert_eq!(address("[::]:1").unwrap().to_string(), "[::]:1");
        for text in ["", "localhost", "70000", ":8420", "example.com:1", "localhost:x"] {
            assert!(address(text).unwrap_err().contains("like 127.0.0.1:8420"), "{text}");
        }
    }

    #[test]
    fn lifetimes_are_read_as_the_configuration_reads_times() {
        for (text, seconds) in
            [("60", 60), ("90s", 90), ("12 h", 43_200), ("30 min", 1800), ("1d", 86_400), ("2 d", 172_800)]
        {
            assert_eq!(lifetime(text), Ok(seconds), "{text}");
        }
        for text in ["", "0", "0d", "500 ms", "-1", "d", "1 week", "99999999999999999999", "999999999999999999d"] {
            assert!(lifetime(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_forgotten_pair_of_dashes_and_plain_arguments_are_explained() {
        let hint = |words: &[&str]| {
            let error = Cli::try_parse_from(words).unwrap_err();
            next_step(error.kind(), &words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
        };
        assert!(hint(&["staithe", "run", "node", "x.mjs"]).unwrap().contains("staithe run -- "));
        assert!(hint(&["staithe", "call", "a", "add", "a=2", "b=3"]).unwrap().contains("JSON object"));
        assert_eq!(hint(&["staithe", "status", "call-me"]), None);
        assert_eq!(hint(&["staithe", "run", "--mode", "lonely", "--", "x"]), None);
    }

    #[test]
    fn bad_words_are_usage_errors() {
        for words in [
            &["staithe", "run"][..],
            &["staithe", "run", "--env", "=x", "--", "a"],
            &["staithe", "run", "--mode", "lonely", "--", "a"],
            &["staithe", "run", "--memory", "512", "--", "a"],
            &["staithe", "run", "--open", "--keep-token", "--", "a"],
            &["staithe", "logs", "../x"],
            &["staithe", "token", "create", "--expires-in", "0"],
        ] {
            assert_eq!(Cli::try_parse_from(words).unwrap_err().exit_code(), 2, "{words:?}");
        }
    }
}
