//! Failures in words for operators. One place, so that they sound alike.

use model::{Blame, Problem, ProblemCode, ServerName};
use std::error::Error;
use stdx::chain::Chain;

/// The operator may not.
pub(crate) fn denied(message: String, hint: &str) -> Problem {
    Problem { code: ProblemCode::Denied, blame: Blame::Caller, message, hint: Some(hint.to_owned()) }
}

/// The command cannot be meant as it was given.
pub(crate) fn usage(message: String, hint: Option<String>) -> Problem {
    Problem { code: ProblemCode::Usage, blame: Blame::Caller, message, hint }
}

/// There is no such server.
pub(crate) fn no_server(name: &ServerName) -> Problem {
    not_found(format!("there is no server {name}"), "`staithe servers` lists those that there are")
}

/// There is no such thing.
pub(crate) fn not_found(message: String, hint: &str) -> Problem {
    Problem { code: ProblemCode::NotFound, blame: Blame::Caller, message, hint: Some(hint.to_owned()) }
}

/// The server is there and cannot do it now.
pub(crate) fn unhealthy(message: String, hint: String) -> Problem {
    Problem { code: ProblemCode::Unhealthy, blame: Blame::Server, message, hint: Some(hint) }
}

/// It was tried and failed.
pub(crate) fn failed(tried: &str, blame: Blame, error: &dyn Error) -> Problem {
    let message = format!("cannot {tried}: {}", Chain(error));
    Problem { code: ProblemCode::Failed, blame, message, hint: None }
}
