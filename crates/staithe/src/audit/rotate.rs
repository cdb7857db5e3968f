//! `staithe audit rotate-keys`: other keys sign the ledger from here on.
//!
//! An entry names the new keys, and both pairs sign the checkpoint that covers it. Then the files take their places, the public
//! keys last: where that is cut short, the daemon does not start, and this command goes on with it.

use super::own;
use crate::fault;
use crate::keys::{self, KeysRefusal};
use crate::output::Output;
use crate::serve::{self, Loaded};
use crate::state::StateDir;
use ledger::{Disk, Keys, Log, LogKeys, Notary, Options, RealDisk};
use model::Problem;
use model::record::{LogEvent, Record, What};
use serde_json::json;
use std::error::Error;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use stdx::{clock, durable};

/// The public keys as they will be, from when that is decided.
const PLANNED: &str = "vkeys.planned";

/// Works where no daemon does.
pub(crate) fn rotate_keys(flag: Option<&Path>, config: Option<&Path>, output: Output) -> Result<ExitCode, Problem> {
    let Loaded { config, state, .. } = serve::load(config, flag)?;
    let (_, dir) = own::place(Some(state.path()))?;
    let _lock = state.lock()?;
    let stage = state.rotated_keys();
    if !stage.join("vkeys").exists() {
        let keys = keys::open(&dir, &state.keys(), None).map_err(KeysRefusal::into_problem)?;
        if !stage.join(PLANNED).exists() {
            plan(&dir, &stage)?;
        }
        say(&dir, &stage, keys, config.ledger.anchors)?;
        durable::rename(&stage.join(PLANNED), &stage.join("vkeys")).map_err(|error| failed(&error))?;
    }
    finish(&state, &dir, &stage).map_err(|error| {
        fault::because("put the new keys in place", &error, "give the command again: it goes on where this ended")
    })?;
    let (reader, known) = own::read(&dir)?;
    tell(&known, reader.view().size(), &dir.join("vkeys"), output);
    Ok(ExitCode::SUCCESS)
}

fn failed(error: &dyn Error) -> Problem {
    fault::because("change the keys of the ledger", error, "the old keys are in use, as before")
}

/// Makes the new keys, and decides from which entry on they sign. The ledger does not go on until they do.
fn plan(dir: &Path, stage: &Path) -> Result<(), Problem> {
    match std::fs::remove_dir_all(stage) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(&error)),
        _ => {}
    }
    durable::make_dir(stage, 0o700).map_err(|error| failed(&error))?;
    let (reader, known) = own::read(dir)?;
    let next = keys::generate(stage, known.origin())?;
    let since = reader.view().size() + 1;
    let known = known.followed_by(since, next.keys().clone()).map_err(|error| failed(&error))?;
    durable::write_file(&stage.join(PLANNED), keys::text(&known).as_bytes(), 0o644).map_err(|error| failed(&error))
}

/// Has the ledger name the new keys, and both pairs sign that.
fn say(dir: &Path, stage: &Path, keys: Keys, anchors: Vec<PathBuf>) -> Result<(), Problem> {
    let planned = std::fs::read_to_string(stage.join(PLANNED)).map_err(|error| failed(&error))?;
    let planned: LogKeys = planned.parse().map_err(|error: ledger::keys_text::KeysTextError| failed(&error))?;
    let next = keys::signer(stage, planned.origin())?;
    let (pair, since) = (next.keys().clone(), planned.pairs().last().map_or(0, |pair| *pair.sizes().start()));
    let both = keys.with_next(next).ok_or_else(|| fault::failed("the new keys are of another ledger", ""))?;
    let (disk, both): (Arc<dyn Disk>, Arc<dyn Notary>) = (Arc::new(RealDisk), Arc::new(both));
    let opened = Log::open(&disk, dir, Options::default(), both, anchors);
    let (mut log, _) = opened.map_err(|error| failed(&error))?;
    if log.size() < since {
        let vkeys = pair.verifiers().map(|key| key.to_string().into()).to_vec();
        let entry = Record::new(clock::unix_ms(), What::Log(LogEvent::Keys { vkeys })).encode();
        log.append(&[entry.map_err(|error| failed(&error))?]).map_err(|error| failed(&error))?;
    }
    if log.size() != since {
        let _ = std::fs::remove_file(stage.join(PLANNED));
        return Err(fault::failed("the ledger was written meanwhile", "give the command again"));
    }
    let now_s = u64::try_from(clock::unix_ms() / 1000).unwrap_or(0);
    log.checkpoint(now_s).map(drop).map_err(|error| failed(&error))
}

/// Renames what is still to be renamed, in this order.
fn finish(state: &StateDir, dir: &Path, stage: &Path) -> io::Result<()> {
    for name in keys::secrets() {
        let new = stage.join(&name);
        if new.exists() {
            durable::rename(&new, &state.keys().join(&name))?;
        }
    }
    std::fs::File::open(state.keys())?.sync_all()?;
    durable::rename(&stage.join("vkeys"), &dir.join("vkeys"))?;
    std::fs::remove_dir(stage)
}

fn tell(known: &LogKeys, size: u64, path: &Path, output: Output) {
    let since = known.pairs().last().map_or(size, |pair| *pair.sizes().start());
    if output.is_json() {
        output.json(&json!({"log": known.origin(), "since": since, "vkeys": known.to_string()}));
        return;
    }
    output.text(&format!(
        "new keys sign the ledger {} from {since} entries on; the old secret keys are gone\n  next: give {} to your witnesses, and to those \
         who verify. What they have is enough for checkpoints of up to {since} entries; entry {} names the new keys, under the old ones\n",
        known.origin(),
        path.display(),
        since.saturating_sub(1),
    ));
}
