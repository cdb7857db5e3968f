//! Failures in words for operators. One place, so that they sound alike.

use model::{Blame, Problem, ProblemCode, ServerName};
use std::error::Error;
use stdx::chain::Chain;

/// What a token begins with.
const PREFIX: &str = "st_";
/// Characters of a token that may be shown: its id.
const SHOWN: usize = 10;

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

/// The host cannot do it now, and can soon.
pub(crate) fn not_now(message: String, hint: String) -> Problem {
    Problem { code: ProblemCode::Unhealthy, blame: Blame::Host, message, hint: Some(hint) }
}

/// The command cannot be done as things stand; the caller can change that.
pub(crate) fn refused(message: String, hint: String) -> Problem {
    Problem { code: ProblemCode::Failed, blame: Blame::Caller, message, hint: Some(hint) }
}

/// It was tried and failed.
pub(crate) fn failed(tried: &str, blame: Blame, error: &dyn Error) -> Problem {
    let message = format!("cannot {tried}: {}", Chain(error));
    Problem { code: ProblemCode::Failed, blame, message, hint: None }
}

/// The problem without the secret of any token that somebody put where something else belongs.
pub(crate) fn without_tokens(problem: Problem) -> Problem {
    let hint = problem.hint.map(|hint| hide_tokens(&hint));
    Problem { message: hide_tokens(&problem.message), hint, ..problem }
}

/// `text` with every word that looks like a token cut after the token's id.
pub fn hide_tokens(text: &str) -> String {
    let of_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(PREFIX) {
        let (before, token) = rest.split_at(at);
        let (token, after) = token.split_at(token.find(|c| !of_word(c)).unwrap_or(token.len()));
        out.push_str(before);
        let begins = !before.ends_with(of_word);
        match token.get(..PREFIX.len() + SHOWN).filter(|shown| begins && shown.len() < token.len()) {
            Some(shown) => out.extend([shown, "…"]),
            None => out.push_str(token),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The id of the token that is meant by `given`: an id, or a whole token, of which nothing else is kept.
pub(crate) fn token_id(given: &str) -> String {
    let given = given.trim();
    given.strip_prefix(PREFIX).unwrap_or(given).chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::{hide_tokens, token_id};

    #[test]
    fn of_a_token_only_the_id_is_shown() {
        let token = format!("st_abcdefghij_{}", "k".repeat(58));
        assert_eq!(hide_tokens(&format!("no {token:?}, {token}")), "no \"st_abcdefghij…\", st_abcdefghij…");
        for plain in ["st_short", "latest_version_of_the_server", "my-st_abcdefghij_klm", "", "st_", "ä st_ä"] {
            assert_eq!(hide_tokens(plain), plain);
        }
        assert_eq!([token_id(&token), token_id("abcdefghij")], ["abcdefghij", "abcdefghij"]);
    }
}
