//! `staithe import`: other programs' server lists into the store, through a running daemon or, without one, directly.

pub(crate) mod expand;
pub(crate) mod foreign;
pub(crate) mod jsonc;

use crate::assemble;
use crate::cli::ImportArgs;
use crate::fault;
use crate::output::Output;
use crate::render;
use crate::serve::{self, Loaded};
use control::Imported;
use expand::Surroundings;
use foreign::{Foreign, Kind};
use model::{Command, Problem, Reply, ServerName, ServerSpec};
use serde_json::json;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

/// Reads the file, reports what is in it, and puts what can be hosted into the store unless it is a dry run. It fails
/// where the file holds servers and none can be hosted.
pub(crate) async fn import(args: &ImportArgs, flag: Option<&Path>, output: Output) -> Result<ExitCode, Problem> {
    let mut found = read(&args.file)?;
    if args.disabled {
        found.servers.iter_mut().for_each(|spec| spec.enabled = false);
    }
    let none = found.servers.is_empty() && found.notes.iter().any(|note| note.kind == Kind::Skipped);
    let names: Vec<ServerName> = found.servers.iter().map(|spec| spec.name.clone()).collect();
    let outcome = if args.dry_run || found.servers.is_empty() {
        Imported::default()
    } else {
        put(args, flag, std::mem::take(&mut found.servers)).await?
    };
    report(output, args.dry_run.then_some(&*names), &outcome, &found);
    Ok(if none { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn read(file: &Path) -> Result<Foreign, Problem> {
    let unreadable = |error: std::io::Error| {
        fault::because(&format!("read {}", file.display()), &error, "give the path of a JSON file, or `-`")
    };
    let standard_input = file == Path::new("-");
    let mut bytes = Vec::new();
    let limit = jsonc::MAX_BYTES as u64 + 1;
    if standard_input {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes).map_err(unreadable)?;
    } else {
        std::fs::File::open(file).map_err(unreadable)?.take(limit).read_to_end(&mut bytes).map_err(unreadable)?;
    }
    let env = |name: &str| std::env::var(name).ok();
    let folder = if standard_input { None } else { expand::folder_of(file) };
    let name = if standard_input { "standard input".to_owned() } else { file.display().to_string() };
    foreign::read(&bytes, &Surroundings { env: &env, folder })
        .map_err(|error| fault::usage(format!("cannot import {name}: {error}"), "nothing was changed"))
}

/// Whoever holds the state directory changes the store: the daemon if one runs, else we do.
async fn put(args: &ImportArgs, flag: Option<&Path>, servers: Vec<ServerSpec>) -> Result<Imported, Problem> {
    let Loaded { config, state, .. } = serve::load(args.config.as_deref(), flag)?;
    state.create()?;
    if let Ok(_lock) = state.try_lock()? {
        let store = assemble::open_store(serve::location(&config, &state)).await?;
        return control::put_servers(&store, servers, args.replace).await;
    }
    let command = Command::Import { servers, replace: args.replace };
    match doors::call(&state.socket(), &command).await?.only().await? {
        Reply::Imported { added, replaced, unchanged, left } => Ok(Imported { added, replaced, unchanged, left }),
        _ => Err(fault::failed("the daemon answered something else than asked", "is it another version of staithe?")),
    }
}

fn report(output: Output, dry_run: Option<&[ServerName]>, outcome: &Imported, found: &Foreign) {
    let Imported { added, replaced, unchanged, left } = outcome;
    if output.is_json() {
        output.json(&json!({
            "dry_run": dry_run.is_some(), "would_take": dry_run.unwrap_or_default(),
            "added": added, "replaced": replaced, "unchanged": unchanged, "left": left, "notes": found.notes,
        }));
        return;
    }
    let notes: String = found.notes.iter().map(|note| format!("{}\n", render::clean(&note.to_string()))).collect();
    let done = match dry_run {
        None => render::imported(added, replaced, unchanged, left),
        Some([]) => "dry run: nothing would be taken\n".to_owned(),
        Some(names) => {
            let names: Vec<&str> = names.iter().map(ServerName::as_str).collect();
            format!("dry run: these would be taken: {}\n", names.join(", "))
        }
    };
    output.text(&format!("{notes}{done}"));
}
