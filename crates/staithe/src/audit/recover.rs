//! `staithe audit recover --accept-loss`: a ledger that is not what it said before is put aside, and a new one begins with the last
//! checkpoint of the old one.
//!
//! The new one is made whole under another name. Then directories and keys are renamed, one after another; where that is cut short,
//! the daemon does not start, and this command goes on with it.

use super::{files, index, verify};
use crate::book::{self, Refusal};
use crate::cli::RecoverArgs;
use crate::fault;
use crate::keys::{self, KeysRefusal};
use crate::output::Output;
use crate::serve::{self, Loaded};
use crate::state::StateDir;
use ledger::{Disk, Keys, Log, LogKeys, Notary, Options, RealDisk, Signed, Trust};
use model::Problem;
use model::record::{LogEvent, Record, What};
use serde_json::json;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use stdx::chain::Chain;
use stdx::{clock, durable};

/// Bytes of the longest checkpoint that is read.
const MAX_NOTE: usize = 1 << 20;

/// What was lost, for people and programs.
struct Lost {
    origin: String,
    why: String,
    last: Option<Signed>,
}

/// Puts the old ledger aside and begins a new one.
pub(crate) fn recover(args: &RecoverArgs, flag: Option<&Path>, output: Output) -> Result<ExitCode, Problem> {
    let Loaded { config, state, .. } = serve::load(args.config.as_deref(), flag)?;
    let stage = Stage::of(&state, &config.ledger.anchors);
    let lock = state.try_lock()?;
    if lock.is_err() {
        return Err(fault::failed("a daemon holds the state directory, and writes the ledger", "stop it first"));
    }
    if stage.is_begun() {
        let aside = stage.finish().map_err(|error| half(&error))?;
        output
            .note(&format!("what an earlier `audit recover` began is done; the old ledger is in {}", aside.display()));
        return Ok(ExitCode::SUCCESS);
    }
    stage.clear().map_err(|error| fault::because("remove what an earlier attempt left", &error, ""))?;
    let lost = lost(&state, &config.ledger.anchors, args.since.as_deref())?;
    let origin = stage.make(&lost)?;
    let aside = stage.finish().map_err(|error| half(&error))?;
    index::remove(&state).map_err(|error| fault::because("remove the index of the old ledger", &error, ""))?;
    tell(&lost, &origin, &aside, output);
    Ok(ExitCode::SUCCESS)
}

fn half(error: &dyn Error) -> Problem {
    fault::because("put the new ledger in place", error, "give the command again: it goes on where this ended")
}

/// Why the ledger is refused, and what is known of it. An error where it is not.
fn lost(state: &StateDir, anchors: &[PathBuf], since: Option<&Path>) -> Result<Lost, Problem> {
    let dir = &state.ledger();
    let error = match book::reopen_beside(state, anchors) {
        Ok(log) => {
            if let Some(lost) = since.map(|path| contradicted(&log, dir, path)).transpose()?.flatten() {
                return Ok(lost);
            }
            let message = "the ledger is what it said before: nothing is lost, and nothing was changed";
            return Err(fault::usage(message, "`staithe audit verify` verifies all of it"));
        }
        Err(Refusal::Keys(KeysRefusal::Gone(origin))) => {
            // What is left is put aside like any other, be it nothing.
            durable::make_dir(dir, 0o700).map_err(|error| fault::because("put aside what is left", &error, ""))?;
            let keys = keys::of_what_is_gone(&state.keys(), &origin);
            let last = keys.and_then(|keys| strongest(dir, anchors, since, &keys));
            return Ok(Lost { origin, why: "its directory, or `vkeys` in it, is gone".to_owned(), last });
        }
        Err(Refusal::Keys(refusal)) => return Err(refusal.into_problem()),
        Err(Refusal::Log(error)) => error,
    };
    if let Some(trouble) = verify::unread(&error) {
        let hint = "that says nothing about the ledger, and nothing was changed; give this user the right to read it, or see to the disk";
        return Err(fault::because("read the ledger", trouble, hint));
    }
    let keys = files::keys_of_one_log(&dir.join("vkeys"))?;
    Ok(Lost {
        origin: keys.origin().to_owned(),
        why: Chain(&error).to_string(),
        last: strongest(dir, anchors, since, &keys),
    })
}

/// What a checkpoint from elsewhere shows about a ledger that is right in itself, why it is given up.
/// `None` where the ledger bears it out.
fn contradicted(log: &Log, dir: &Path, path: &Path) -> Result<Option<Lost>, Problem> {
    let keys = files::keys_of_one_log(&dir.join("vkeys"))?;
    let hint =
        "is it a checkpoint of this ledger? A witness shows what it cosigned at /<sha256 of the origin>/checkpoint";
    let long = || fault::usage(format!("{} is longer than a checkpoint", path.display()), hint);
    let note = files::read(path, MAX_NOTE)?.ok_or_else(long)?;
    let signed =
        keys.read(&note).map_err(|error| fault::usage(format!("{}: {}", path.display(), Chain(&error)), hint))?;
    let view = log.view().map_err(|error| fault::because("read the ledger", &error, ""))?;
    let why = if log.size() < signed.size {
        format!("it has {} entries, and had {} when that checkpoint was signed", log.size(), signed.size)
    } else if view.root_at(signed.size).is_ok_and(|root| root == signed.root) {
        return Ok(None);
    } else {
        format!("its first {} entries are not those that were signed then", signed.size)
    };
    Ok(Some(Lost { origin: keys.origin().to_owned(), why, last: Some(signed) }))
}

/// The checkpoint over the most entries that has the right signatures: a file that is none must not hide the others.
fn strongest(dir: &Path, anchors: &[PathBuf], since: Option<&Path>, keys: &LogKeys) -> Option<Signed> {
    let archived = std::fs::read_dir(dir.join("archive")).into_iter().flatten().flatten().map(|entry| entry.path());
    let own = std::iter::once(dir).chain(anchors.iter().map(PathBuf::as_path)).map(|dir| dir.join("checkpoint"));
    let notes = own
        .chain(archived)
        .chain(since.map(Path::to_path_buf))
        .filter(|path| path.is_file())
        .filter_map(|path| files::read(&path, MAX_NOTE).ok()?);
    notes.filter_map(|note| keys.read(&note).ok()).max_by_key(|signed| signed.size)
}

/// Where the new ledger is made, and where the old one goes.
struct Stage {
    state: PathBuf,
    ledger: PathBuf,
    keys: PathBuf,
    next: PathBuf,
    next_keys: PathBuf,
    anchors: Vec<PathBuf>,
}

impl Stage {
    fn of(state: &StateDir, anchors: &[PathBuf]) -> Self {
        let root = state.path();
        Self {
            state: root.to_path_buf(),
            ledger: state.ledger(),
            keys: state.keys(),
            next: root.join("ledger.next"),
            next_keys: state.next_keys(),
            anchors: anchors.to_vec(),
        }
    }

    /// The new ledger was whole, and the old one was being put aside.
    fn is_begun(&self) -> bool {
        self.next_keys.exists() && !(self.next.exists() && self.ledger.exists())
    }

    /// Removes what an attempt left that had not begun to put the old ledger aside.
    fn clear(&self) -> io::Result<()> {
        // Keys without a ledger beside them would say that the change had begun.
        for left in [&self.next_keys, &self.next] {
            match std::fs::remove_dir_all(left) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes the new ledger, whole and durable. Gives its name.
    fn make(&self, lost: &Lost) -> Result<String, Problem> {
        let failed = |error: &dyn Error| fault::because("begin a new ledger", error, "nothing was changed");
        durable::make_dir(&self.next, 0o700).map_err(|error| failed(&error))?;
        durable::make_dir(&self.next_keys, 0o700).map_err(|error| failed(&error))?;
        let host = lost.origin.split_once("/audit/").map_or(lost.origin.as_str(), |(host, _)| host);
        let keys: Keys = keys::open(&self.next, &self.next_keys, Some(host)).map_err(KeysRefusal::into_problem)?;
        let origin = keys.origin().to_owned();
        let (disk, notary): (Arc<dyn Disk>, Arc<dyn Notary>) = (Arc::new(RealDisk), Arc::new(keys));
        let opened = Log::open(&disk, &self.next, Options::default(), notary, Vec::new());
        let (mut log, _) = opened.map_err(|error| failed(&error))?;
        let after = lost.last.as_ref().map(|last| Log::begin_after(last).into());
        let entry = Record::new(clock::unix_ms(), What::Log(LogEvent::Began { after })).encode();
        log.append(&[entry.map_err(|error| failed(&error))?]).map_err(|error| failed(&error))?;
        let now_s = u64::try_from(clock::unix_ms() / 1000).unwrap_or(0);
        log.checkpoint(now_s).map_err(|error| failed(&error))?;
        Ok(origin)
    }

    /// Renames what is still to be renamed, in this order. Gives where the old ledger is.
    fn finish(&self) -> io::Result<PathBuf> {
        let number = |nth: u32| self.state.join(format!("ledger.lost-{nth}"));
        let used = (1..).take_while(|nth| number(*nth).exists()).last().unwrap_or(0);
        let nth = if self.next.exists() && self.ledger.exists() { used + 1 } else { used };
        let aside = number(nth);
        if self.next.exists() && self.ledger.exists() {
            durable::rename(&self.ledger, &aside)?;
        }
        if self.next.exists() {
            for anchor in &self.anchors {
                set_aside(&anchor.join("checkpoint"), nth)?;
            }
            durable::rename(&self.next, &self.ledger)?;
        }
        for name in keys::files() {
            let (new, old) = (self.next_keys.join(&name), self.keys.join(&name));
            if new.exists() {
                set_aside(&old, nth)?;
                durable::rename(&new, &old)?;
            }
        }
        for directory in [&self.keys, &self.state] {
            std::fs::File::open(directory)?.sync_all()?;
        }
        std::fs::remove_dir(&self.next_keys)?;
        Ok(aside)
    }
}

/// Gives a file the name of what was lost, unless that was done.
fn set_aside(path: &Path, nth: u32) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".lost-{nth}"));
    if path.exists() && !Path::new(&name).exists() { durable::rename(path, Path::new(&name)) } else { Ok(()) }
}

fn tell(lost: &Lost, origin: &str, aside: &Path, output: Output) {
    let entries = lost.last.as_ref().map_or(0, |last| last.size);
    if output.is_json() {
        output.json(&json!({
            "lost": {"log": lost.origin, "why": lost.why, "entries": entries, "checkpoint": lost.last.as_ref().map(|last| &last.note)},
            "kept": aside, "log": origin,
        }));
        return;
    }
    let last = match &lost.last {
        None => "no checkpoint of it is known, so the new ledger does not show what it was".to_owned(),
        Some(last) => format!(
            "its last known checkpoint covers {} entries, root {}; the first entry of the new ledger has it",
            last.size, last.root
        ),
    };
    output.text(&format!(
        "given up  {}\nwhy       {}\nlast      {last}\nlost      the proof that what it said is what it says now. What can be read of it is in {}, with its\n          \
         public keys; what it recorded after that checkpoint, nothing shows any more\nnew       {origin}: give its public keys (ledger/vkeys) to those \
         who verify, and have witnesses and policies name it\n",
        lost.origin, lost.why, aside.display()
    ));
}
