//! Why a measurement could not be made.

use std::io;

/// A measurement could not be made, or what was measured answered wrongly.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// The operating system refused.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// What was measured did not do what it must.
    #[error("{0}")]
    Wrong(String),
}

/// Names what was tried, for `map_err`.
pub(crate) fn cannot(what: impl Into<String>) -> impl FnOnce(io::Error) -> BenchError {
    let what = what.into();
    move |source| BenchError::Io { what, source }
}

/// Shortcut for `BenchError::Wrong`.
pub(crate) fn wrong(why: impl Into<String>) -> BenchError {
    BenchError::Wrong(why.into())
}
