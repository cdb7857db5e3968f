//! The grammar of the command line. It decides nothing: words in, a typed value out.

use clap::{Args, Parser, Subcommand};
use model::{EraPin, Mode, Principal, ServerName};
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
    /// The host at a glance; exit code 5 while a server is failing
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
    /// Call one tool through the public address, as a client would
    Call(CallArgs),
    /// Read the configuration, report every mistake, print what is in effect
    Check(CheckArgs),
    /// Machine tokens for clients
    #[command(subcommand)]
    Token(TokenVerb),
}

/// `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Public listener
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
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
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8420")]
    pub(crate) listen: SocketAddr,
    /// Operator listener (/healthz, /readyz); loopback only
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub(crate) operator: SocketAddr,
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
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,
    /// Operator listener, in place of the configured one
    #[arg(long, value_name = "ADDR")]
    pub(crate) operator: Option<SocketAddr>,
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
    /// The tool
    pub(crate) tool: String,
    /// Its arguments, a JSON object
    #[arg(value_name = "JSON", default_value = "{}")]
    pub(crate) arguments: String,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) timeout: u64,
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
        /// It ends by itself after so many seconds [default: never]
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
        expires_in: Option<u64>,
    },
    /// Every token, without its secret
    List,
    /// End a token now
    Revoke {
        /// Its id, as `token list` shows it
        id: String,
    },
}

fn env_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("give it as NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Cli, Verb};
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
    fn bad_words_are_usage_errors() {
        for words in [
            &["staithe", "run"][..],
            &["staithe", "run", "--env", "=x", "--", "a"],
            &["staithe", "run", "--mode", "lonely", "--", "a"],
            &["staithe", "run", "--open", "--keep-token", "--", "a"],
            &["staithe", "logs", "../x"],
            &["staithe", "token", "create", "--expires-in", "0"],
        ] {
            assert_eq!(Cli::try_parse_from(words).unwrap_err().exit_code(), 2, "{words:?}");
        }
    }
}
