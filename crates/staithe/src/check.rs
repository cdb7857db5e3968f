//! `staithe check`: what the daemon would do with its configuration.

use crate::cli::CheckArgs;
use crate::output::Output;
use crate::serve::{self, Loaded};
use model::Problem;
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;

/// Prints the configuration that is in effect, without secrets. Every mistake is in the error.
pub(crate) fn check(args: &CheckArgs, flag: Option<&Path>, output: Output) -> Result<ExitCode, Problem> {
    let Loaded { mut config, state, file } = serve::load(args.config.as_deref(), flag)?;
    config.state_dir = Some(state.path().to_path_buf());
    if output.is_json() {
        output.json(&json!({"file": file, "config": config.to_json()}));
    } else {
        let from =
            file.map_or_else(|| "no file: every key has its default".to_owned(), |file| file.display().to_string());
        output.text(&format!("# What is in effect, from {from}\n\n{}", config.to_toml()));
    }
    Ok(ExitCode::SUCCESS)
}
