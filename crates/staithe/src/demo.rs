//! `staithe demo`: a whole host around a built-in server, one call through its public address, and what to do next.

use crate::assemble::{self, Host};
use crate::call::{self, ToolCall};
use crate::cli::DemoArgs;
use crate::config::{Config, LogFormat};
use crate::fault;
use crate::lifecycle::{self, Signals};
use crate::output::Output;
use crate::run::{self, claude_hint};
use crate::serve;
use crate::state::StateDir;
use crate::systemd::Systemd;
use crate::telemetry;
use control::HostKind;
use model::{Command, Problem, Reply, ServerName, ServerSpec};
use serde_json::json;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;
use store::Location;

/// The hidden word that makes this binary the demo's server.
pub(crate) const SERVER_VERB: &str = "demo-server";
/// How long the first call may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs until Ctrl-C, then removes everything that it made.
pub(crate) async fn demo(args: &DemoArgs, output: Output) -> Result<ExitCode, Problem> {
    if !args.listen.ip().is_loopback() {
        return Err(fault::usage("the demo asks nobody for a token", "listen on a loopback address, like 127.0.0.1:0"));
    }
    telemetry::start("warn", LogFormat::Text);
    let mut signals = Signals::listen()?;
    let handle = stdx::random::handle().map_err(|error| fault::because("name the demo's directory", &error, ""))?;
    let place = std::env::temp_dir().join(format!("staithe-demo-{handle}"));
    let state = StateDir::choose(Some(&place), None)?;
    state.create()?;
    let result = show(args, &state, &mut signals, output).await;
    if let Err(error) = std::fs::remove_dir_all(&place) {
        output.note(&format!("staithe: {} is left: {error}", place.display()));
    }
    result
}

async fn show(args: &DemoArgs, state: &StateDir, signals: &mut Signals, output: Output) -> Result<ExitCode, Problem> {
    let config = Config {
        public: args.listen,
        operator: SocketAddr::from(([127, 0, 0, 1], 0)),
        open: true,
        ..Config::default()
    };
    let lock = state.lock()?;
    let store = assemble::open_store(Location::Sqlite(state.run_database())).await?;
    let program = std::env::current_exe().map_err(|error| fault::because("find this program", &error, ""))?;
    let name: ServerName = "demo".parse().map_err(|error| fault::because("name the demo", &error, ""))?;
    let spec = ServerSpec::new(name.clone(), program.display().to_string(), vec![SERVER_VERB.to_owned()]);
    control::put_servers(&store, vec![spec], true).await?;
    let mut host = assemble::assemble(state, lock, store, &config, HostKind::Demo, None).await?;
    let seen = tokio::select! {
        seen = look(&host, &name) => seen,
        _ = signals.next() => {
            host.stop().await;
            return Ok(ExitCode::SUCCESS);
        }
    };
    match seen {
        Ok(seen) => announce(&host, &name, &seen, output),
        Err(problem) => {
            host.stop().await;
            return Err(problem);
        }
    }
    let code = lifecycle::serve_until_signal(host, state, signals, std::future::pending(), Systemd::none()).await?;
    output.note("staithe: stopped; the demo's files are removed");
    Ok(code)
}

/// What the demo saw.
struct Seen {
    answer: String,
    first: Duration,
    second: Duration,
    era: String,
    pid: Option<u32>,
}

/// Two calls through the public address, and what the host knows about the server then.
async fn look(host: &Host, name: &ServerName) -> Result<Seen, Problem> {
    let url = format!("{}/mcp/{name}", host.listening.local);
    let number = |text: &str| RawValue::from_string(text.to_owned());
    let arguments =
        number("2").and_then(|a| Ok(BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), number("40")?)])));
    let arguments = arguments.map_err(|error| fault::because("write the call", &error, ""))?;
    let asked = ToolCall { url: &url, token: None, tool: "add", arguments: &arguments };
    let (answer, first) = timed(&asked).await?;
    let (_, second) = timed(&asked).await?;
    let answer = call::content(&answer).trim().to_owned();
    if answer != "42" {
        return Err(fault::failed(
            format!("the demo's server added 2 and 40 to {answer:?}; this is a bug in staithe"),
            "",
        ));
    }
    let Reply::Servers(servers) = run::execute(host, Command::Servers).await? else { return Err(no_report()) };
    let Reply::Instances(instances) = run::execute(host, Command::Instances { server: None }).await? else {
        return Err(no_report());
    };
    let verdict = servers.first().and_then(|server| server.verdict);
    let era = verdict.map_or_else(|| "not known yet".to_owned(), |verdict| verdict.to_string());
    Ok(Seen { answer, first, second, era, pid: instances.iter().find_map(|instance| instance.pid) })
}

async fn timed(asked: &ToolCall<'_>) -> Result<(serde_json::Value, Duration), Problem> {
    let start = stdx::clock::monotonic();
    let answer = tokio::time::timeout(PATIENCE, asked.make(&mut |_| {})).await;
    let answer = answer
        .map_err(|_| fault::failed("the demo's server did not answer within 30 s", "is the machine overloaded?"))??;
    Ok((answer, start.elapsed()))
}

fn no_report() -> Problem {
    fault::failed("the host did not report on itself; this is a bug in staithe", "")
}

fn announce(host: &Host, name: &ServerName, seen: &Seen, output: Output) {
    let url = format!("{}/mcp/{name}", host.listening.public);
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    if output.is_json() {
        output.json(&json!({
            "listening": serve::listening_json(&host.listening), "server": {"name": name, "url": url}, "token": null,
            "call": {"tool": "add", "answer": seen.answer, "first_ms": ms(seen.first), "second_ms": ms(seen.second)},
            "era": seen.era, "pid": seen.pid,
        }));
        return;
    }
    let pid = seen.pid.map_or_else(String::new, |pid| format!(" as process {pid}"));
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"curl","version":"1"}}}"#;
    output.text(&format!(
        "{listening}
An ordinary MCP server, which speaks over stdin and stdout, runs{pid} and has an HTTP address now:

  {url}

Era that the probe found: {era}. Clients of every protocol revision are served, whichever it is.
Its tool `add` was called through that address: 2 + 40 = {answer}.
The first call took {first:.1} ms, with the start of the process; the second {second:.1} ms.

Try it:
  curl -sS {url} -H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' \\
    -d '{body}'
  {claude}
  Cursor, ~/.cursor/mcp.json:   {{\"mcpServers\": {{\"{name}\": {{\"url\": \"{url}\"}}}}}}
  VS Code, .vscode/mcp.json:    {{\"servers\": {{\"{name}\": {{\"type\": \"http\", \"url\": \"{url}\"}}}}}}

Next, your own server:  staithe run -- npx -y @modelcontextprotocol/server-everything
This demo is open to programs on this machine only. Ctrl-C stops it and removes what it made.
",
        listening = serve::listening_line(&host.listening).trim_end(),
        era = seen.era,
        answer = seen.answer,
        first = ms(seen.first),
        second = ms(seen.second),
        claude = claude_hint(name, &url, None),
    ));
}
