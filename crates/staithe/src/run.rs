//! `staithe run`: one stdio server at an HTTP address, now.

use crate::assemble::{self, Host};
use crate::cli::RunArgs;
use crate::config::{Config, Ledger, LogFormat};
use crate::fault;
use crate::lifecycle::{self, Signals};
use crate::naming;
use crate::output::Output;
use crate::serve;
use crate::state::StateDir;
use crate::systemd::Systemd;
use crate::telemetry;
use crate::watch;
use control::{Door, Evidence, HostKind, Outcome, identify};
use model::{Bounds, Command, Problem, Reply, ServerName, ServerSpec};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use store::{Location, Store};

/// Who bears the token that `run` makes.
const PRINCIPAL: &str = "local";

/// Hosts the server until a signal.
pub(crate) async fn run(args: RunArgs, flag: Option<&Path>, output: Output) -> Result<ExitCode, Problem> {
    let config = config(&args)?;
    let spec = spec(&args)?;
    telemetry::start(&config.log_level, LogFormat::Text);
    let mut signals = Signals::listen()?;
    let state = StateDir::choose(flag, None)?;
    state.create()?;
    let lock = state.lock()?;
    let store = assemble::open_store(Location::Sqlite(state.run_database())).await?;
    let name = spec.name.clone();
    keep_only(&store, spec).await?;
    let host = assemble::assemble(&state, lock, store.clone(), &config, HostKind::Run, None).await?;
    let token = if args.open { None } else { Some(renew_token(&host, &store, &name, args.keep_token).await?) };
    announce(&host, &name, &args, token.as_deref(), output);
    let watch = watch::health(host.supervisor.clone(), output);
    lifecycle::serve_until_signal(host, &state, &mut signals, watch, Systemd::none()).await
}

fn config(args: &RunArgs) -> Result<Config, Problem> {
    if args.open && !args.listen.ip().is_loopback() {
        let message = format!("--open asks nobody for a token, and {} can be reached from other machines", args.listen);
        return Err(fault::usage(message, "listen on 127.0.0.1, or leave --open out: a token is made for you"));
    }
    let config = Config {
        public: args.listen,
        operator: args.operator,
        open: args.open,
        keeper: !args.no_keeper,
        allowed_hosts: args.host.clone(),
        // Nobody who types `run` needs to read how its database came to be.
        log_level: "info,staithe_store::migrate=warn".to_owned(),
        ledger: Ledger { mode: args.ledger, ..Ledger::default() },
        ..Config::default()
    };
    match config.contradictions().as_slice() {
        [] => Ok(config),
        wrong => Err(fault::usage(wrong.join("; "), "give other addresses with --listen and --operator")),
    }
}

/// The server as the command line describes it. Relative paths mean the current directory, as in a shell.
fn spec(args: &RunArgs) -> Result<ServerSpec, Problem> {
    let derived = || naming::from_command(&args.command);
    let name = args.name.clone().or_else(derived);
    let name =
        name.ok_or_else(|| fault::usage("no name can be made of this command", "give the server one with --name"))?;
    let here = std::env::current_dir();
    let here = here.map_err(|error| fault::because("find the current directory", &error, "give one with --cwd"))?;
    let cwd = args.cwd.as_ref().map_or_else(|| here.clone(), |cwd| here.join(cwd));
    if !cwd.is_dir() {
        return Err(fault::usage(format!("{} is not a directory", cwd.display()), "give another one with --cwd"));
    }
    let program = &args.command[0];
    let program = if program.contains('/') { plain(&here.join(program)) } else { program.clone() };
    let mut spec = ServerSpec::new(name, program, args.command[1..].to_vec());
    if let Some(program) = spec.program_mut() {
        program.cwd = Some(plain(&cwd));
        program.env = args.env.iter().cloned().collect();
    }
    spec.mode = args.mode;
    spec.era = args.era;
    spec.bounds = Bounds {
        memory: args.memory,
        processes: args.processes,
        cpu: args.cpu,
        idle_ttl: args.idle_ttl,
        ..Bounds::default()
    };
    spec.watch.call_timeout = args.call_timeout;
    Ok(spec)
}

/// The path as text, without `.` in its middle.
fn plain(path: &Path) -> String {
    path.components().collect::<PathBuf>().display().to_string()
}

/// Makes `spec` the one server of the store.
async fn keep_only(store: &Store, spec: ServerSpec) -> Result<(), Problem> {
    let failed = |error: store::StoreError| fault::because("clear servers of earlier runs", &error, "");
    for other in store.servers().await.map_err(failed)? {
        if other.name != spec.name {
            store.remove_server(&other.name).await.map_err(failed)?;
        }
    }
    control::put_servers(store, vec![spec], true).await.map(drop)
}

/// Makes a token for this start, then ends the one that the last `run` of this server made.
async fn renew_token(host: &Host, store: &Store, name: &ServerName, keep: bool) -> Result<String, Problem> {
    let key = format!("run.token.{name}");
    let failed = |error: store::StoreError| fault::because("remember the token", &error, "");
    let last = store.setting(&key).await.map_err(failed)?;
    let principal = PRINCIPAL.parse().map_err(|error| fault::because("make a token", &error, ""))?;
    let create = Command::TokenCreate { principal, server: Some(name.clone()), expires_in_s: None, audit: false };
    let Reply::TokenCreated { token, report } = execute(host, create).await? else {
        return Err(fault::failed("no token was made; this is a bug in staithe", ""));
    };
    store.put_setting(&key, &report.id).await.map_err(failed)?;
    if let Some(id) = last.filter(|_| !keep)
        && let Err(problem) = execute(host, Command::TokenRevoke { id }).await
    {
        tracing::info!(%problem, "the token of the last run was gone already");
    }
    Ok(token)
}

/// Does a command in this process.
pub(crate) async fn execute(host: &Host, command: Command) -> Result<Reply, Problem> {
    let operator = identify(Evidence::Process)?;
    match host.control.execute(&operator, Door::CommandLine, command).await? {
        Outcome::Reply(reply) => Ok(reply),
        Outcome::Follow(_) => Ok(Reply::End),
    }
}

fn announce(host: &Host, name: &ServerName, args: &RunArgs, token: Option<&str>, output: Output) {
    let url = format!("{}/mcp/{name}", host.listening.public);
    if output.is_json() {
        let listening = serve::listening_json(&host.listening);
        output.json(&json!({"listening": listening, "server": {"name": name, "url": url}, "token": token}));
        return;
    }
    let mut text = serve::listening_line(&host.listening);
    text.push_str(&format!("address  {url}\n"));
    match token {
        Some(token) => text.push_str(&format!(
            "token    {token}\n         It is shown only now, and ends when `run` starts again (--keep-token keeps it).\n"
        )),
        None => text.push_str("token    none: whoever can open a connection on this machine may call\n"),
    }
    text.push_str(&format!("connect  {}\n", claude_hint(name, &url, token)));
    if !args.listen.ip().is_loopback() {
        text.push_str(
            "note     The token crosses the network unencrypted: put TLS in front, for example Caddy or nginx.\n",
        );
        text.push_str("         Other machines use this machine's name or address in place of 127.0.0.1.\n");
    }
    text.push_str("Ctrl-C stops it.\n");
    output.text(&text);
}

/// The line that adds a server to Claude Code.
pub(crate) fn claude_hint(name: &ServerName, url: &str, token: Option<&str>) -> String {
    let header = token.map(|token| format!(" --header \"Authorization: Bearer {token}\"")).unwrap_or_default();
    format!("claude mcp add --transport http {name} {url}{header}")
}

#[cfg(test)]
mod tests {
    use super::{config, spec};
    use crate::cli::{Cli, RunArgs, Verb};
    use clap::Parser;
    use model::{IdleTtl, ProblemCode};

    fn args(words: &[&str]) -> RunArgs {
        let words = ["staithe", "run"].iter().chain(words).copied();
        match Cli::try_parse_from(words).unwrap().command {
            Verb::Run(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn open_is_refused_off_loopback() {
        let refused = config(&args(&["--open", "--listen", "0.0.0.0:0", "--", "x"])).err().unwrap();
        assert_eq!(refused.code, ProblemCode::Usage);
        assert!(config(&args(&["--open", "--listen", "[::1]:0", "--", "x"])).is_ok());
        assert!(config(&args(&["--listen", "0.0.0.0:0", "--", "x"])).is_ok());
        assert!(config(&args(&["--operator", "0.0.0.0:0", "--", "x"])).is_err());
    }

    #[test]
    fn the_server_runs_where_its_user_is() {
        let here = std::env::current_dir().unwrap();
        let spec = spec(&args(&["--env", "A=1", "--mode", "shared", "--", "./bin/thing", "--flag"])).unwrap();
        let program = spec.program().unwrap();
        assert_eq!(program.cwd.as_deref(), here.to_str());
        assert!(program.command.starts_with('/') && program.command.ends_with("bin/thing"));
        assert_eq!(
            (spec.name.as_str(), program.args.as_slice(), program.env["A"].as_str()),
            ("thing", &["--flag".to_owned()][..], "1")
        );
        let bounded = ["--memory", "1 GiB", "--cpu", "150%", "--idle-ttl", "never", "--", "x"];
        let bounds = super::spec(&args(&bounded)).unwrap().bounds;
        assert_eq!((bounds.memory, bounds.cpu, bounds.idle_ttl), (Some(1 << 30), Some(150), Some(IdleTtl::Never)));
        assert!(super::spec(&args(&["--cwd", "/nowhere/at/all", "--", "x"])).is_err());
    }
}
