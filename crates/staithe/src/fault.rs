//! Failures of the command line in words: what was tried, why it failed, what to do next.

use model::{Blame, Problem, ProblemCode};
use std::error::Error;
use std::io;
use stdx::chain::Chain;

/// It was tried and failed.
pub(crate) fn failed(message: impl Into<String>, hint: impl Into<String>) -> Problem {
    let hint = Some(hint.into()).filter(|hint| !hint.is_empty());
    Problem { code: ProblemCode::Failed, blame: Blame::Host, message: message.into(), hint }
}

/// The command cannot be meant as it was given.
pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Problem {
    Problem { code: ProblemCode::Usage, blame: Blame::Caller, ..failed(message, hint) }
}

/// What was to be verified is not what it should be.
pub(crate) fn unverified(message: impl Into<String>, hint: impl Into<String>) -> Problem {
    Problem { code: ProblemCode::Unverified, ..failed(message, hint) }
}

/// `tried` failed with `error`, whose whole chain is told.
pub(crate) fn because(tried: &str, error: &dyn Error, hint: &str) -> Problem {
    failed(format!("cannot {tried}: {}", Chain(error)), hint)
}

/// There are no threads to work with.
#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
pub(crate) fn no_runtime(error: io::Error) -> Problem {
    because("start the threads that do the work", &error, "look at the limits of this user (`ulimit -u`)")
}
