//! Trace lines to stderr. Standard output belongs to what was asked for.

use crate::config::LogFormat;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Begins to write trace lines that pass `filter` (a checked one: a bad filter falls back to `info`).
pub(crate) fn start(filter: &str, format: LogFormat) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    // Where nobody reads stderr any more a line is lost. Reporting that on stderr would panic in the middle of a request.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    let started = match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    // Only a second start can fail, and then the first one writes already.
    drop(started);
}
