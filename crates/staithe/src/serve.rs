//! `staithe serve`: the daemon. Its configuration is read here, for `check` and `import` too.

use crate::assemble::{self, Listening};
use crate::cli::ServeArgs;
use crate::config::{self, Config};
use crate::fault;
use crate::lifecycle::{self, Signals};
use crate::output::Output;
use crate::state::StateDir;
use crate::systemd::Systemd;
use crate::telemetry;
use crate::upgrade;
use crate::watch;
use control::HostKind;
use doors::Socket;
use model::Problem;
use serde_json::json;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use store::Location;

/// Largest configuration file, bytes.
const MAX_CONFIG: u64 = 1024 * 1024;

/// Serves every server of the state directory until a signal.
pub(crate) async fn serve(args: &ServeArgs, flag: Option<&Path>, output: Output) -> Result<ExitCode, Problem> {
    let Loaded { mut config, state, .. } = load(args.config.as_deref(), flag)?;
    config.public = args.listen.unwrap_or(config.public);
    config.operator = args.operator.unwrap_or(config.operator);
    config.leaves_servers = args.leave_servers;
    config.keeper = !args.no_keeper;
    config.keeper_runs = args.keeper_runs;
    if let [first, ..] = config.contradictions().as_slice() {
        return Err(fault::usage(first.clone(), "give other addresses with --listen and --operator"));
    }
    telemetry::start(&config.log_level, config.log_format);
    let mut signals = Signals::listen()?;
    state.create()?;
    let (store, lock, succession) = if upgrade::is_wanted() {
        let store = assemble::open_store(location(&config, &state)).await?;
        let (succession, lock) = upgrade::succeed(&state).await?;
        (store, lock, Some(succession))
    } else {
        let lock = state.lock()?;
        (assemble::open_store(location(&config, &state)).await?, lock, None)
    };
    let local = config.postgres.is_none().then(|| store.clone());
    let host = assemble::assemble(&state, lock, store, &config, HostKind::Serve, succession).await?;
    host.supervisor.serves();
    if !host.supervisor.is_let_go().await {
        // It died at the change, before or after it had put our socket in the place of its own.
        let _ = Socket::put_in_place(&state.socket());
    }
    if output.is_json() {
        output.json(&json!({"listening": listening_json(&host.listening)}));
    } else {
        output.text(&listening_line(&host.listening));
    }
    let watch = watch::health(host.supervisor.clone(), output);
    let systemd = Systemd::ready(host.supervisor.clone(), local);
    lifecycle::serve_until_signal(host, &state, &mut signals, watch, systemd).await
}

/// The one line that programs wait for.
pub(crate) fn listening_line(listening: &Listening) -> String {
    format!("listening public={} operator={}\n", listening.public, listening.operator)
}

/// The same for `--json`.
pub(crate) fn listening_json(listening: &Listening) -> serde_json::Value {
    json!({"public": listening.public, "operator": listening.operator})
}

/// A configuration that can be used, and where it came from.
pub(crate) struct Loaded {
    /// What is in effect.
    pub(crate) config: Config,
    /// The state directory that it leads to.
    pub(crate) state: StateDir,
    /// The file, if there is one.
    pub(crate) file: Option<PathBuf>,
}

/// Reads the named file, or `staithe.toml` of the state directory if it exists.
pub(crate) fn load(named: Option<&Path>, flag: Option<&Path>) -> Result<Loaded, Problem> {
    let Some(file) = named else {
        let state = StateDir::choose(flag, None)?;
        let file = state.config();
        if !file.exists() {
            return Ok(Loaded { config: Config::default(), state, file: None });
        }
        let config = read(&file)?;
        let elsewhere = flag.is_none() && config.state_dir.as_deref().is_some_and(|path| path != state.path());
        if elsewhere {
            let message = format!("{} names another state directory than the one it lies in", file.display());
            return Err(fault::usage(message, "name the file with --config, or take `state_dir` out of it"));
        }
        return Ok(Loaded { config, state, file: Some(file) });
    };
    let config = read(named.unwrap_or(file))?;
    let state = StateDir::choose(flag, config.state_dir.as_deref())?;
    Ok(Loaded { config, state, file: Some(file.to_path_buf()) })
}

/// Where the daemon's database is.
pub(crate) fn location(config: &Config, state: &StateDir) -> Location {
    match &config.postgres {
        Some(connection) => Location::Postgres(connection.clone()),
        None => Location::Sqlite(state.database()),
    }
}

fn read(file: &Path) -> Result<Config, Problem> {
    let unreadable = |error: std::io::Error| {
        fault::because(&format!("read the configuration {}", file.display()), &error, "name another file with --config")
    };
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    opened.take(MAX_CONFIG + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_CONFIG {
        return Err(fault::usage(
            format!("the configuration {} is larger than 1 MiB", file.display()),
            "is it the right file?",
        ));
    }
    config::parse(&text).map_err(|mistakes| {
        let lines: Vec<String> = mistakes.iter().map(|mistake| format!("\n  {mistake}")).collect();
        let count = if lines.len() == 1 { "a mistake" } else { "mistakes" };
        let message = format!("the configuration {} has {count}:{}", file.display(), lines.concat());
        fault::usage(message, "mend the file; `staithe check` reads it without starting anything")
    })
}
