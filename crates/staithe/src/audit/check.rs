//! `staithe audit check`: one proof that one entry is in a log, offline.

use super::files;
use super::quorum::{self, Standing, at};
use crate::cli::ProofArgs;
use crate::fault;
use crate::output::Output;
use ledger::proof::{MAX_PROOF, ProofRefusal};
use ledger::tile::MAX_ENTRY;
use ledger::{Checkpoint, LogKeys, Proof};
use model::Problem;
use serde_json::json;
use std::process::ExitCode;
use stdx::chain::Chain;

/// Verifies the proof and says what that means.
pub(crate) fn check(args: &ProofArgs, output: Output) -> Result<ExitCode, Problem> {
    let keys = files::keys_of_one_log(&args.key)?;
    let policy = args.policy.as_deref().map(|path| quorum::read(path, &keys)).transpose()?;
    let long =
        |path: &std::path::Path, what| fault::unverified(format!("{} is longer than {what}", path.display()), "");
    let bytes = files::read(&args.proof, MAX_PROOF)?.ok_or_else(|| long(&args.proof, "a proof"))?;
    let entry = files::read(&args.entry, MAX_ENTRY)?.ok_or_else(|| long(&args.entry, "an entry of a log"))?;
    let no_proof = |error: &dyn std::error::Error, hint: &str| {
        fault::unverified(format!("{} proves nothing: {}", args.proof.display(), Chain(error)), hint)
    };
    let parsed = Proof::parse(&bytes).or_else(|error| match bytes.strip_suffix(b"\n") {
        // What prints a proof out of an export adds a line end, as a rule.
        Some(shorter) => Proof::parse(shorter).map_err(|_| error),
        None => Err(error),
    });
    let proof = parsed.map_err(|error| no_proof(&error, ""))?;
    let checkpoint =
        proof.verify(&entry, &keys).map_err(|error| no_proof(&error, next(&proof, &entry, &keys, &error)))?;
    let standing = quorum::standing(policy.as_ref(), &[&checkpoint])
        .map_err(|error| no_proof(&error, "the entry is in the log, but the policy asks for more cosignatures"))?;
    let left = left(&proof, &checkpoint, &standing);
    if output.is_json() {
        output.json(&json!({
            "verified": true, "log": checkpoint.origin(), "index": proof.index(), "bytes": entry.len(),
            "checkpoint": {"entries": checkpoint.size(), "root": checkpoint.root().to_string(), "time": at(checkpoint.time())},
            "witnesses": standing.json(), "word": standing.word(checkpoint.size()), "not_verified": left,
        }));
    } else {
        let mut lines = vec![
            ("log", checkpoint.origin().to_owned()),
            ("entry", format!("{} of {}, {} bytes", proof.index(), checkpoint.size(), entry.len())),
            ("checkpoint", format!("signed {} (as the log says) with Ed25519 and ML-DSA-44", at(checkpoint.time()))),
            ("root", checkpoint.root().to_string()),
        ];
        lines.extend(standing.lines());
        let title = format!("verified: {} is an entry of the log", args.entry.display());
        output.text(&quorum::report(&title, &lines, (&standing, checkpoint.size()), &left));
    }
    Ok(ExitCode::SUCCESS)
}

/// The two honest reasons why a proof fails.
fn next(proof: &Proof, entry: &[u8], keys: &LogKeys, error: &ProofRefusal) -> &'static str {
    match error {
        ProofRefusal::Inclusion(_) => match entry.strip_suffix(b"\n") {
            Some(shorter) if proof.verify(shorter, keys).is_ok() => {
                "without the line end at its end the entry verifies: something added it to the file"
            }
            _ => "the entry must be there byte for byte as the log has it",
        },
        _ => "are these the log's keys?",
    }
}

fn left(proof: &Proof, checkpoint: &Checkpoint, standing: &Standing) -> Vec<String> {
    let mut left = vec!["what the entry says: a log shows what its writer wrote, not that it is true".to_owned()];
    if !proof.extra().is_empty() {
        left.push(format!("the {} bytes of extra data in the proof: nothing signs them", proof.extra().len()));
    }
    if standing.covers().is_none() {
        left.push("that everybody is shown the same log: no witness was asked for (--policy)".to_owned());
    }
    left.push(quorum::later(checkpoint.time()));
    left
}
