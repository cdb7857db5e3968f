//! `staithe audit prove`: a proof that others check offline.

use super::own;
use crate::cli::ProveArgs;
use crate::fault;
use crate::output::Output;
use ledger::Proof;
use model::{Problem, ProblemCode};
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;
use stdx::durable;

/// Writes the entry and its proof into files, or prints the proof.
pub(crate) fn prove(args: &ProveArgs, flag: Option<&Path>, output: Output) -> Result<ExitCode, Problem> {
    let (reader, keys) = own::opened(flag)?;
    let entry = own::entry(&reader, args.index)?;
    let Some(signed) = reader.signed().filter(|signed| signed.size > args.index) else {
        let message = format!("no checkpoint covers entry {} yet", args.index);
        let hint = "a daemon signs one within a second; try again";
        return Err(Problem { code: ProblemCode::NotFound, ..fault::failed(message, hint) });
    };
    let failed = |error: &dyn std::error::Error| fault::because(&format!("prove entry {}", args.index), error, "");
    let hashes = reader.view().inclusion_at(args.index, signed.size).map_err(|error| failed(&error))?;
    let checkpoint = keys.open(signed.note.as_bytes()).map_err(|error| failed(&error))?;
    let proof = Proof::new(args.index, hashes, &checkpoint).to_string();
    let Some(out) = &args.out else {
        output.text(&proof);
        return Ok(ExitCode::SUCCESS);
    };
    let (to_proof, to_entry) = (out.with_extension("tlog-proof"), out.with_extension("entry"));
    for (path, bytes) in [(&to_proof, proof.as_bytes()), (&to_entry, entry.as_slice())] {
        durable::write_file(path, bytes, 0o600)
            .map_err(|error| fault::because(&format!("write {}", path.display()), &error, ""))?;
    }
    if output.is_json() {
        output.json(&json!({"proof": to_proof, "entry": to_entry}));
    } else {
        output.text(&format!("proof  {}\nentry  {}\n", to_proof.display(), to_entry.display()));
    }
    Ok(ExitCode::SUCCESS)
}
