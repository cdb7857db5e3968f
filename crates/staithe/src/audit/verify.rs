//! `staithe audit verify`: a log offline, with its public keys alone.

use super::files;
use super::own;
use super::quorum::{self, Standing, at};
use crate::cli::VerifyArgs;
use crate::fault;
use crate::output::Output;
use crate::serve;
use ledger::disk::DiskError;
use ledger::evidence::EvidenceError;
use ledger::note::MAX_NOTE;
use ledger::policy::PolicyRefusal;
use ledger::recover::OpenError;
use ledger::verify::VerifyError;
use ledger::view::ReadError;
use ledger::{Checkpoint, Disk, LogKeys, Policy, RealDisk, Verified};
use model::{Problem, ProblemCode};
use serde_json::json;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use stdx::chain::Chain;

/// Characters of the bar.
const BAR: u64 = 30;

/// How often a ledger is read that a daemon may be writing: a pass can meet a write half-way.
const PASSES: u32 = 3;
/// Between them.
const PAUSE: Duration = Duration::from_millis(200);

/// Which log, with which keys.
struct Source {
    dir: PathBuf,
    key: PathBuf,
    /// This host's own, which a daemon may be writing.
    own: bool,
    /// The keys lie beside the log.
    own_keys: bool,
}

impl Source {
    fn of(args: &VerifyArgs, flag: Option<&Path>) -> Result<Self, Problem> {
        let own_keys = args.key.is_none();
        let (dir, own) = match &args.dir {
            Some(dir) => (dir.clone(), false),
            None => (own::place(flag)?.1, true),
        };
        let key = args.key.clone().unwrap_or_else(|| dir.join("vkeys"));
        Ok(Self { dir, key, own, own_keys })
    }
}

/// What there is to say about a log that is what its checkpoint says.
struct Report<'a> {
    args: &'a VerifyArgs,
    source: &'a Source,
    latest: Checkpoint,
    since: Option<Checkpoint>,
    verified: Verified,
    standing: Standing,
}

/// Verifies the log and says what that means.
pub(crate) fn verify(args: &VerifyArgs, flag: Option<&Path>, output: Output) -> Result<ExitCode, Problem> {
    let source = Source::of(args, flag)?;
    let dir = &source.dir;
    let keys = files::keys_of_one_log(&source.key)?;
    let (policy, lacking) = match &args.policy {
        Some(path) => (Some(quorum::read(path, &keys)?), None),
        None if source.own => configured(args, flag, &keys, output)?,
        None => (None, None),
    };
    if !dir.is_dir() {
        let message = format!("{} is no directory that can be read", dir.display());
        let hint = "name the directory of the log, or of a copy: the one with `checkpoint` in it";
        return Err(Problem { code: ProblemCode::NotFound, ..fault::usage(message, hint) });
    }
    let since = args.since.as_deref().map(|path| kept(path, &keys)).transpose()?;
    let verified = passes(&source, args.since.as_deref(), &keys)?;
    let latest = keys.open(verified.signed.note.as_bytes()).map_err(|error| refused(dir, &error, ""))?;
    let cosigned = verified.witnessed.as_ref().map(|witnessed| keys.open(witnessed.note.as_bytes())).transpose();
    let cosigned = cosigned.map_err(|error| refused(dir, &error, ""))?;
    let all: Vec<&Checkpoint> = [Some(&latest), cosigned.as_ref(), since.as_ref()].into_iter().flatten().collect();
    let standing = match (quorum::standing(policy.as_ref(), &all), lacking) {
        // Nobody said that it must have been cosigned: the host's own witnesses may have to be asked yet.
        (Err(PolicyRefusal::Quorum), Some(lacking)) => Ok(lacking),
        (Ok(Standing::Alone), Some(Standing::Unread)) => Ok(Standing::Unread),
        (standing, _) => standing,
    };
    let standing = standing.map_err(|error| {
        let hint = match error {
            PolicyRefusal::Quorum => "the entries are what the log signed, but the policy asks for more cosignatures; a witness shows what it cosigned at /<sha256 of the origin>/checkpoint, and --since takes it",
            _ => "",
        };
        refused(dir, &error, hint)
    })?;
    let report = Report { args, source: &source, latest, since, verified, standing };
    if output.is_json() {
        output.json(&report.json());
    } else {
        output.text(&report.text());
    }
    Ok(ExitCode::SUCCESS)
}

/// The policy by which this host asks its witnesses, and how it stands where they did not cosign. What is wrong with a
/// configuration that was not named says nothing about the log.
fn configured(
    args: &VerifyArgs,
    flag: Option<&Path>,
    keys: &LogKeys,
    output: Output,
) -> Result<(Option<Policy>, Option<Standing>), Problem> {
    let read = || match serve::load(args.config.as_deref(), flag)?.config.ledger.policy {
        Some(path) => quorum::read(&path, keys).map(Some),
        None => Ok(None),
    };
    match read() {
        Ok(policy) => Ok((policy, Some(Standing::Lacking))),
        Err(problem) if args.config.is_some() => Err(problem),
        Err(problem) => {
            output.note(&format!("whether witnesses cosigned is not looked at: {}", problem.message));
            Ok((None, Some(Standing::Unread)))
        }
    }
}

/// Passes over the log until one says something that a write beside it cannot have caused.
fn passes(source: &Source, since: Option<&Path>, keys: &LogKeys) -> Result<Verified, Problem> {
    let mut left = if source.own { PASSES } else { 1 };
    loop {
        left -= 1;
        match pass(&source.dir, since, keys) {
            Err(_) if left > 0 => std::thread::sleep(PAUSE),
            done => return done,
        }
    }
}

/// A checkpoint that somebody kept.
fn kept(path: &Path, keys: &LogKeys) -> Result<Checkpoint, Problem> {
    let hint = "is it a checkpoint of this log, and are these its keys?";
    // It is read twice.
    if path.exists() && !path.is_file() {
        return Err(fault::usage(
            format!("{} is no regular file", path.display()),
            "write the checkpoint into a file first",
        ));
    }
    let long = || fault::unverified(format!("{} is longer than a checkpoint", path.display()), hint);
    let note = files::read(path, MAX_NOTE)?.ok_or_else(long)?;
    keys.open(&note).map_err(|error| refused(path, &error, hint))
}

fn refused(path: &Path, error: &dyn std::error::Error, hint: &str) -> Problem {
    fault::unverified(format!("{} does not verify: {}", path.display(), Chain(error)), hint)
}

fn pass(dir: &Path, since: Option<&Path>, keys: &LogKeys) -> Result<Verified, Problem> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let shown = io::stderr().is_terminal();
    let mut progress = |reached: u64, end: u64| {
        if shown {
            drop(write!(io::stderr().lock(), "\r{}", bar(reached, end)));
        }
    };
    let done = ledger::verify(&disk, dir, keys, since, &mut progress);
    if shown {
        // The line is left as it was: erase to its end (ECMA-48).
        drop(write!(io::stderr().lock(), "\r\x1b[K"));
    }
    done.map_err(|error| match trouble(&error) {
        Some(trouble) => {
            fault::because(&format!("verify {}", dir.display()), trouble, "nothing is known about the log")
        }
        None => refused(dir, &error, next(&error)),
    })
}

/// What a reader may do about a log that does not verify.
fn next(error: &VerifyError) -> &'static str {
    match error {
        VerifyError::NoCheckpoint { .. } => "was all of the log's directory copied?",
        VerifyError::Derived { .. } => "the entries are not in doubt by this; the file can be made again from them",
        VerifyError::Log(OpenError::Evidence(EvidenceError::Forged { .. })) => {
            "are these the log's keys? If they were changed (`staithe audit rotate-keys`), ask for the new file"
        }
        VerifyError::Log(OpenError::Evidence(EvidenceError::RolledBack { .. })) => {
            "keep this copy and that checkpoint: together they show it"
        }
        VerifyError::Log(_) => "keep this copy as it is; compare it with another one, or with the log's machine",
    }
}

/// What kept us from reading, where that says nothing about the log.
fn trouble(error: &VerifyError) -> Option<&DiskError> {
    match error {
        VerifyError::Log(error) => unread(error),
        _ => None,
    }
}

/// The same of opening.
pub(super) fn unread(error: &OpenError) -> Option<&DiskError> {
    let (OpenError::Disk(disk)
    | OpenError::Read(ReadError::Disk(disk))
    | OpenError::Evidence(EvidenceError::Disk(disk))) = error
    else {
        return None;
    };
    // A file that is not there, or is something else or too long, was made so by somebody.
    let made = matches!(
        disk.source.kind(),
        ErrorKind::NotFound | ErrorKind::FileTooLarge | ErrorKind::IsADirectory | ErrorKind::NotADirectory
    );
    (!made).then_some(disk)
}

/// The bar of a pass that has reached entry `reached` of `end`.
fn bar(reached: u64, end: u64) -> String {
    let (reached, end) = (reached.min(end), end.max(1));
    let part = |of: u64| u64::try_from(u128::from(reached) * u128::from(of) / u128::from(end)).unwrap_or(of);
    let full = usize::try_from(part(BAR)).unwrap_or(0);
    let rest = usize::try_from(BAR).unwrap_or(0).saturating_sub(full);
    format!("verifying [{}{}] {:>3} %  entry {reached} of {end}", "#".repeat(full), "-".repeat(rest), part(100))
}

impl Report<'_> {
    /// What this did not show.
    fn left(&self) -> Vec<String> {
        let Verified { first, size, beyond, missing, torn, signed, .. } = &self.verified;
        let mut left = vec![
            "what the entries say: a log shows what its writer wrote, not that it is true, nor that nothing was left out".to_owned(),
        ];
        if *first > 0 {
            left.push(format!("entries 0 to {}: they were pruned; their hashes are there", first - 1));
        }
        if *beyond > 0 {
            left.push(format!(
                "the roots of {beyond} checkpoints from before what was pruned; their signatures are right"
            ));
        }
        if *size > signed.size {
            left.push(format!("entries {} to {}: no checkpoint covers them yet", signed.size, size - 1));
        }
        if *torn {
            left.push("the bytes behind the last entry: a write was cut short there".to_owned());
        }
        if *missing > 0 {
            left.push(format!("{missing} derived files are missing; they can be made again from the entries"));
        }
        let unseen = match (&self.standing, self.standing.covers()) {
            (Standing::Lacking, _) => Some("that everybody is shown the same log: no quorum cosigned it".to_owned()),
            (Standing::Unread, _) => {
                Some("that everybody is shown the same log: which witnesses are asked is not known".to_owned())
            }
            (_, None) => Some("that everybody is shown the same log: no witness was asked for (--policy)".to_owned()),
            (_, Some(covered)) if covered < signed.size => {
                Some(format!("entries {covered} to {}: no quorum cosigned them", signed.size - 1))
            }
            (_, Some(_)) => None,
        };
        left.extend(unseen);
        if self.since.is_none() && self.standing.covers().is_none() {
            left.push("that the log was always this one: no earlier checkpoint was given (--since)".to_owned());
        }
        if self.source.own_keys {
            left.push(
                "that these are the right keys: they lie beside the ledger, on this machine. Whoever does not trust it verifies a copy of the ledger elsewhere, with keys that were kept elsewhere (DIR --key FILE)".to_owned(),
            );
        }
        left.push(quorum::later(self.latest.time()));
        left
    }

    fn text(&self) -> String {
        let Verified { first, size, compared, signed, .. } = &self.verified;
        let entries = match size {
            0 => "none".to_owned(),
            _ if *first > 0 => format!("{size}, of which {first} to {} are here", size - 1),
            _ => size.to_string(),
        };
        let mut lines = vec![
            ("log", self.latest.origin().to_owned()),
            ("entries", entries),
            (
                "checkpoint",
                format!(
                    "{} entries, signed {} (as the log says) with Ed25519 and ML-DSA-44",
                    signed.size,
                    at(self.latest.time())
                ),
            ),
            ("root", signed.root.to_string()),
            ("compared", format!("{compared} checkpoints")),
        ];
        if let (Some(path), Some(since)) = (&self.args.since, &self.since) {
            let from = format!(
                "{}: {} entries, signed {}; the log begins with them",
                path.display(),
                since.size(),
                at(since.time())
            );
            lines.push(("since", from));
        }
        lines.extend(self.standing.lines());
        let title = format!("verified: {} is what its checkpoint says", self.source.dir.display());
        quorum::report(&title, &lines, (&self.standing, signed.size), &self.left())
    }

    fn json(&self) -> serde_json::Value {
        let Verified { first, size, compared, beyond, missing, torn, signed, .. } = &self.verified;
        let since = self.since.as_ref().map(|since| json!({"entries": since.size(), "time": at(since.time())}));
        json!({
            "verified": true, "log": self.latest.origin(), "entries": size, "first": first,
            "checkpoint": {"entries": signed.size, "root": signed.root.to_string(), "time": at(self.latest.time())},
            "compared": compared, "beyond": beyond, "missing": missing, "torn": torn,
            "since": since, "witnesses": self.standing.json(), "standing": self.standing.as_str(), "word": self.standing.word(signed.size), "not_verified": self.left(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::bar;

    #[test]
    fn the_bar_never_leaves_its_place() {
        assert_eq!(bar(0, 10), format!("verifying [{}]   0 %  entry 0 of 10", "-".repeat(30)));
        assert_eq!(bar(5, 10), format!("verifying [{}{}]  50 %  entry 5 of 10", "#".repeat(15), "-".repeat(15)));
        assert_eq!(bar(11, 10), format!("verifying [{}] 100 %  entry 10 of 10", "#".repeat(30)));
        assert!(bar(u64::MAX, u64::MAX).contains("100 %") && bar(0, 0).contains("  0 %"));
    }
}
