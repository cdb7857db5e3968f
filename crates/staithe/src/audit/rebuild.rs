//! `staithe audit rebuild`: everything that is derived from the ledger's entries is made again from them.

use super::{index, own};
use crate::book::{self, Refusal};
use crate::fault;
use crate::output::Output;
use model::Problem;
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;

/// Works where no daemon does.
pub(crate) fn rebuild(flag: Option<&Path>, output: Output) -> Result<ExitCode, Problem> {
    let (state, dir) = own::place(flag)?;
    let _lock = state.lock()?;
    let mut log = book::reopen(&state).map_err(Refusal::into_problem)?;
    let made = log.rebuild(&mut |_, _| {}).map_err(|error| {
        let hint = "the entries themselves are not right; `staithe audit verify` says more";
        fault::because("make the derived files of the ledger again", &error, hint)
    })?;
    index::remove(&state).map_err(|error| fault::because("remove the index of the ledger", &error, ""))?;
    let entries = log.size();
    if output.is_json() {
        output.json(&json!({"entries": entries, "made": made}));
    } else {
        output.text(&format!(
            "read {entries} entries of {}; derived files that were missing or wrong: {made}, made again. The next search makes its \
             index anew\n",
            dir.display()
        ));
    }
    Ok(ExitCode::SUCCESS)
}
