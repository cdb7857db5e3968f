//! Taking secrets out of what a call says, before it is kept. What looks like one goes; what does not, stays: this is for the
//! common accident, no proof that nothing is left.

use serde_json::Value;
use std::borrow::Cow;

/// What stands in the place of a secret.
pub const REDACTED: &str = "[redacted]";

/// A member whose name holds one of these, in any case, loses its value.
const NAMES: [&str; 15] = [
    "password",
    "pass_word",
    "pwd",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "api_key",
    "api-key",
    "credential",
    "private_key",
    "privatekey",
    "authorization",
    "cookie",
];
/// What a word begins with that is a key of somebody, and how long the shortest such word is.
const BEGINS: [(&str, usize); 16] = [
    ("sk-", 20),
    ("sk_live_", 20),
    ("rk_live_", 20),
    ("ghp_", 20),
    ("gho_", 20),
    ("ghs_", 20),
    ("github_pat_", 20),
    ("glpat-", 20),
    ("xoxb-", 20),
    ("xoxp-", 20),
    ("AKIA", 20),
    ("ASIA", 20),
    ("AIza", 30),
    ("eyJ", 40),
    ("npm_", 20),
    ("st_", 30),
];

/// JSON without what looks like a secret. Text that is no JSON is cleaned as text.
pub fn redacted(content: &[u8]) -> Vec<u8> {
    match serde_json::from_slice::<Value>(content) {
        Ok(mut value) => {
            clean(&mut value, NESTED);
            serde_json::to_vec(&value).unwrap_or_default()
        }
        Err(_) => text(&String::from_utf8_lossy(content)).into_owned().into_bytes(),
    }
}

/// Servers like to answer in JSON within a text, and such texts hold more of them now and then: how deep they are looked into.
const NESTED: u32 = 4;

/// The depth of one text is bounded by the parser's own.
fn clean(value: &mut Value, nested: u32) {
    match value {
        Value::Object(members) => {
            // As headers and variables are listed: `{"name": "Authorization", "value": "…"}`.
            let lists = |name: &str| members.get(name).and_then(Value::as_str).is_some_and(names_secret);
            if (lists("name") || lists("key")) && members.contains_key("value") {
                members.insert("value".to_owned(), Value::from(REDACTED));
            }
            for (name, member) in members.iter_mut() {
                if names_secret(name) && !member.is_null() {
                    *member = Value::from(REDACTED);
                } else {
                    clean(member, nested);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| clean(item, nested)),
        Value::String(said) => {
            if let Cow::Owned(cleaned) = within(said, nested).map_or_else(|| text(said), Cow::Owned) {
                *said = cleaned;
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A text that is JSON itself, cleaned as such.
fn within(said: &str, nested: u32) -> Option<String> {
    if nested == 0 || !said.trim_start().starts_with(['{', '[']) {
        return None;
    }
    let mut value = serde_json::from_str::<Value>(said).ok()?;
    let before = value.clone();
    clean(&mut value, nested - 1);
    // Spelling and order stay where there is nothing to hide.
    if value == before { Some(said.to_owned()) } else { serde_json::to_string(&value).ok() }
}

fn names_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    NAMES.iter().any(|secret| name.contains(secret))
}

/// A text without words that look like secrets, and without passwords in addresses.
pub fn text(said: &str) -> Cow<'_, str> {
    if said.contains("-----BEGIN") && said.contains("PRIVATE KEY") {
        return REDACTED.to_owned().into();
    }
    let mut out = String::new();
    let mut kept = 0;
    let mut follows_scheme = false;
    for (at, word) in words(said) {
        let secret = follows_scheme || is_secret(word);
        follows_scheme = matches!(word, "Bearer" | "bearer" | "Basic" | "basic");
        let hidden = if secret { [Some((0, word.len())), None] } else { [password(word), assigned(word)] };
        for (from, len) in hidden.into_iter().flatten().map(|(from, len)| (at + from, len)) {
            // A password may look like an assignment.
            if from < kept {
                continue;
            }
            out.push_str(said.get(kept..from).unwrap_or_default());
            out.push_str(REDACTED);
            kept = from + len;
        }
    }
    if kept == 0 {
        return said.into();
    }
    out.push_str(said.get(kept..).unwrap_or_default());
    out.into()
}

/// Runs of characters that keys and addresses consist of, with their places.
fn words(said: &str) -> impl Iterator<Item = (usize, &str)> {
    let apart =
        |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ';' | '(' | ')' | '<' | '>' | '{' | '}' | '`');
    let mut next = 0;
    let pieces = said.split_inclusive(apart).map(move |piece| {
        let at = next;
        next += piece.len();
        (at, piece.trim_end_matches(apart))
    });
    pieces.filter(|(_, word)| !word.is_empty())
}

fn is_secret(word: &str) -> bool {
    // `KEY=value` and `key:value` are one word here.
    let value = word.rsplit(['=', ':']).next().unwrap_or(word);
    [word, value].iter().any(|word| BEGINS.iter().any(|(begin, least)| word.len() >= *least && word.starts_with(begin)))
}

/// Where the value of `NAME=value` is, to the end of the word, if the name is that of a secret.
fn assigned(word: &str) -> Option<(usize, usize)> {
    let (equals, _) = word.match_indices('=').find(|(at, _)| word.get(..*at).is_some_and(names_secret))?;
    let len = word.len() - equals - 1;
    (len > 0).then_some((equals + 1, len))
}

/// Where the password of an address is, `scheme://user:password@host`.
fn password(word: &str) -> Option<(usize, usize)> {
    let user = word.find("://")? + 3;
    let rest = word.get(user..)?;
    let authority = rest.get(..rest.find('/').unwrap_or(rest.len()))?;
    let (before, colon) = (authority.rfind('@')?, authority.find(':')?);
    (colon < before).then_some((user + colon + 1, before - colon - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> String {
        String::from_utf8(redacted(json.as_bytes())).unwrap()
    }

    #[test]
    fn what_is_named_like_a_secret_goes_whatever_it_is() {
        let cleaned =
            of(r#"{"path":"/a","Password":"x","nested":[{"github_token":{"a":1},"apiKey":7,"n":1.50}],"secret":null}"#);
        assert_eq!(
            cleaned,
            r#"{"Password":"[redacted]","nested":[{"apiKey":"[redacted]","github_token":"[redacted]","n":1.5}],"path":"/a","secret":null}"#
        );
    }

    #[test]
    fn what_looks_like_a_secret_goes_wherever_it_stands() {
        for secret in [
            "ghp_0123456789abcdefghijklmnopqrstuvwxyz",
            "sk-0123456789abcdefghijklmnop",
            "AKIA0123456789ABCDEF",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc",
            "st_abcdefghij_aaaabbbbccccddddeeeeffffgggghhhhiiiijjjjkkkkllllmmmm",
        ] {
            for around in ["{}", "use {} now", "KEY={}", "({})", "'{}',", "key:{}"] {
                let said = around.replace("{}", secret);
                let cleaned = of(&serde_json::to_string(&said).unwrap());
                assert!(!cleaned.contains(secret) && cleaned.contains(REDACTED), "{said}: {cleaned}");
            }
        }
        assert_eq!(of(r#""Authorization: Bearer abc def""#), r#""Authorization: Bearer [redacted] def""#);
        assert_eq!(of(r#""postgres://ann:hunter2@db/x?y""#), r#""postgres://ann:[redacted]@db/x?y""#);
        assert_eq!(of(r#""run DB_PASSWORD=hunter2 x=y""#), r#""run DB_PASSWORD=[redacted] x=y""#);
        assert_eq!(of(r#"{"name":"Authorization","value":"abc"}"#), r#"{"name":"Authorization","value":"[redacted]"}"#);
        assert_eq!(of(r#""db://u:pw@h/x?access_token=y""#), r#""db://u:[redacted]@h/x?access_token=[redacted]""#);
        assert_eq!(of(r#""token=abc=""#), r#""token=[redacted]""#);
        assert_eq!(of(r#""http://a/b?token=x&page=1""#), r#""http://a/b?token=[redacted]""#);
        assert_eq!(of(r#""http://a/b?page=1&token=x""#), r#""http://a/b?page=1&token=[redacted]""#);
        assert_eq!(of(r#"{"text":"[{\"password\":\"hunter2\"}]"}"#), r#"{"text":"[{\"password\":\"[redacted]\"}]"}"#);
        assert_eq!(of(r#""-----BEGIN PRIVATE KEY-----\nabc""#), r#""[redacted]""#);
    }

    #[test]
    fn what_is_none_stays() {
        for said in [
            r#""sk-1 skip eyJ AKIA""#,
            r#"{"a":[1,true,null,"x"]}"#,
            r#""http://a:80/b@c""#,
            r#""ä: ö=ü""#,
            r#""{ \"b\": 1.50, \"a\": 2 }""#,
        ] {
            assert_eq!(of(said), said);
        }
        assert_eq!(redacted(b"no json, ghp_0123456789abcdefghijkl"), b"no json, [redacted]");
    }
}
