//! `staithe install-service`: units for systemd, where they go, and what to do next.

use crate::cli::InstallServiceArgs;
use crate::fault;
use crate::output::Output;
use crate::state::StateDir;
use crate::units::{Owner, Plan};
use crate::upgrade;
use model::Problem;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use stdx::durable;

/// Where the units of a machine's operator are.
const OF_THE_MACHINE: &str = "/etc/systemd/system";

/// Writes or prints the units.
pub(crate) fn install(args: &InstallServiceArgs, flag: Option<&Path>, output: Output) -> Result<ExitCode, Problem> {
    let plan = plan(args, flag)?;
    let units = plan.units();
    if args.print {
        print(&units, output);
        return Ok(ExitCode::SUCCESS);
    }
    let dir = args.dir.clone().map_or_else(|| usual_dir(args.user), Ok)?;
    let wanted: Vec<(PathBuf, String)> = units.into_iter().map(|(name, text)| (dir.join(name), text)).collect();
    let mut outcomes = Vec::new();
    for (path, text) in &wanted {
        outcomes.push((path, compare(path, text)?));
    }
    let differ: Vec<String> =
        outcomes.iter().filter(|it| it.1 == Found::Differs).map(|it| it.0.display().to_string()).collect();
    if !differ.is_empty() && !args.force {
        let message = format!("there is another text already in {}; nothing was written", differ.join(", "));
        return Err(fault::failed(message, "--force replaces it; what you changed belongs into `systemctl edit`"));
    }
    let failed = |error: durable::DurableError| {
        fault::because("write the units", &error, "as root, or with --user; --print shows them without writing")
    };
    durable::make_dir(&dir, 0o755).map_err(failed)?;
    for (path, text) in &wanted {
        durable::write_file(path, text.as_bytes(), 0o644).map_err(failed)?;
    }
    let next = next(&plan);
    if output.is_json() {
        let files: Vec<_> = outcomes.iter().map(|(path, found)| json!({"path": path, "was": found.word()})).collect();
        output.json(&json!({"units": files, "next": next}));
    } else {
        let mut text: String =
            outcomes.iter().map(|(path, found)| format!("{:<9} {}\n", found.word(), path.display())).collect();
        next.iter().for_each(|line| text.push_str(&format!("next      {line}\n")));
        output.text(&text);
    }
    Ok(ExitCode::SUCCESS)
}

/// What was found where a unit goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Same,
    Differs,
}

impl Found {
    fn word(self) -> &'static str {
        match self {
            Self::Nothing => "new",
            Self::Same => "unchanged",
            Self::Differs => "replaced",
        }
    }
}

fn compare(path: &Path, text: &str) -> Result<Found, Problem> {
    match std::fs::read(path) {
        Ok(there) if there == text.as_bytes() => Ok(Found::Same),
        Ok(_) => Ok(Found::Differs),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(fault::because(&format!("read {}", path.display()), &error, "")),
    }
}

fn plan(args: &InstallServiceArgs, flag: Option<&Path>) -> Result<Plan, Problem> {
    let program = upgrade::started_from().map_err(|error| fault::because("find this program", &error, ""))?;
    let named = StateDir::named(flag)?.map(|dir| dir.path().to_path_buf());
    let owner = if args.user { Owner::User } else { Owner::Machine { makes_state: named.is_none() } };
    let state_dir = match named {
        Some(named) => named,
        None if args.user => StateDir::choose(None, None)?.path().with_file_name(&args.name),
        None => Path::new("/var/lib").join(&args.name),
    };
    if args.socket.is_some_and(|at| at.port() == 0) {
        return Err(fault::usage("systemd listens on no free port of its own choice", "give --socket a port"));
    }
    let (program, state_dir) = (plain(&program)?, plain(&state_dir)?);
    Ok(Plan { name: args.name.clone(), program, state_dir, owner, socket: args.socket })
}

/// A path as it may stand in a unit, where blanks, quotes, `%`, `$` and more mean something.
fn plain(path: &Path) -> Result<String, Problem> {
    let text = path.to_str().filter(|text| text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+@:,=~".contains(c)));
    text.map(str::to_owned).ok_or_else(|| {
        let message = format!("the path {} cannot stand in a unit as it is", path.display());
        fault::usage(message, "use one of ASCII letters, digits and /._-+@:,=~ only")
    })
}

fn usual_dir(user: bool) -> Result<PathBuf, Problem> {
    if !user {
        return Ok(PathBuf::from(OF_THE_MACHINE));
    }
    let env = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = env("XDG_CONFIG_HOME").or_else(|| env("HOME").map(|home| home.join(".config")));
    let dir = config.map(|config| config.join("systemd/user"));
    dir.ok_or_else(|| fault::usage("there is no place for the units: HOME is not set", "name one with --dir"))
}

fn print(units: &[(String, String)], output: Output) {
    if output.is_json() {
        let units: Vec<_> = units.iter().map(|(name, text)| json!({"name": name, "text": text})).collect();
        output.json(&json!({"units": units}));
        return;
    }
    let text: Vec<String> = units.iter().map(|(name, text)| format!("# ---- {name}\n{text}")).collect();
    output.text(&text.join("\n"));
}

/// What is left to do, as commands and remarks.
fn next(plan: &Plan) -> Vec<String> {
    let name = &plan.name;
    // Root may speak to the daemon of any user.
    let import = |as_root: &str| {
        let remark = "servers that were imported as another user or into another state directory are not taken along";
        format!("{as_root}staithe import --state-dir {} FILE    # {remark}", plan.state_dir)
    };
    if plan.owner == Owner::User {
        return vec![
            "systemctl --user daemon-reload".to_owned(),
            format!("systemctl --user enable --now {name}"),
            "loginctl enable-linger    # so that it runs while you are not logged in".to_owned(),
            import(""),
        ];
    }
    let mut lines = Vec::new();
    let hidden = ["/root/", "/home/", "/tmp/"].iter().any(|place| plan.program.starts_with(place));
    if hidden {
        lines.push(format!(
            "install {} /usr/local/bin/staithe, and run that: the service may not reach it where it is",
            plan.program
        ));
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    if !users.lines().any(|line| line.split(':').next() == Some(name)) {
        lines.push(format!("useradd --system --home-dir {} --shell /usr/sbin/nologin {name}", plan.state_dir));
    }
    if plan.owner == (Owner::Machine { makes_state: false }) {
        lines.push(format!("install -d -o {name} -m 700 {}", plan.state_dir));
    }
    lines.push("systemctl daemon-reload".to_owned());
    lines.push(format!("systemctl enable --now {name}"));
    lines.push(import("sudo "));
    lines
}
