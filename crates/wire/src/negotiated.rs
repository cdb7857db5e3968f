//! Whether an answer keeps to what both sides declared: kinds of results, and what a server says the client lacks.
//! (E11, E103, E110)

use crate::bridge::{CLIENT_CAPABILITIES, TASKS};
use crate::code;
use crate::message::{Message, Shape};
use crate::scan::{self, Kind, Place, Span};

/// What a modern server may not answer to this request. It is an invalid answer, not a success and not the client's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undeclared {
    /// A result of a kind that needs an extension which the request or the server did not declare.
    #[error("its result is of the type {0:?}, for which no extension was negotiated")]
    ResultType(String),
    /// It asks for nothing that the request did not declare: the client would look for its mistake in vain.
    #[error("it refuses for want of a client capability that the request declares ({0})")]
    Capability(String),
}

/// Judges the answer of a modern server to a modern client's request. `server` is the raw `capabilities` object of the server.
pub fn judge(answer: &Message, request: &Message, server: &[u8]) -> Result<(), Undeclared> {
    match answer.shape() {
        Shape::Failure if answer.error_code() == Some(code::MISSING_CAPABILITY) => capability(answer, request),
        Shape::Success => result_type(answer, request, server),
        _ => Ok(()),
    }
}

fn result_type(answer: &Message, request: &Message, server: &[u8]) -> Result<(), Undeclared> {
    let Some(kind) = answer.noted(Place::Result, "resultType") else { return Ok(()) };
    let name = match kind.kind {
        Kind::String => scan::text(answer.bytes(), kind.value),
        _ => String::from_utf8_lossy(answer.raw(kind.value)),
    };
    let negotiated = match name.as_ref() {
        "complete" | "input_required" if kind.kind == Kind::String => return Ok(()),
        "task" => extensions(request, server).any(|extension| extension == TASKS),
        _ => extensions(request, server).any(|extension| extension != TASKS),
    };
    if negotiated && kind.kind == Kind::String {
        return Ok(());
    }
    Err(Undeclared::ResultType(name.chars().take(40).collect()))
}

/// The extensions that both sides declare.
fn extensions(request: &Message, server: &[u8]) -> impl Iterator<Item = String> {
    let own = declared(request)
        .and_then(|all| scan::member(request.bytes(), all, "extensions"))
        .map(|(extensions, _)| names(request.bytes(), extensions))
        .unwrap_or_default();
    let theirs = scan::member(server, Span::all(server), "extensions")
        .map(|(extensions, _)| names(server, extensions))
        .unwrap_or_default();
    own.into_iter().filter(move |name| theirs.contains(name))
}

fn names(bytes: &[u8], object: Span) -> Vec<String> {
    let there = scan::members(bytes, object).filter(|(.., kind)| *kind == Kind::Object);
    there.map(|(key, ..)| scan::text(bytes, key).into_owned()).collect()
}

/// The request's client capabilities.
fn declared(request: &Message) -> Option<Span> {
    let member = request.noted(Place::Meta, CLIENT_CAPABILITIES)?;
    (member.kind == Kind::Object).then_some(member.value)
}

fn capability(answer: &Message, request: &Message) -> Result<(), Undeclared> {
    let data = answer.member(Place::Error, "data").filter(|data| data.kind == Kind::Object);
    let required = data.and_then(|data| scan::member(answer.bytes(), data.value, "requiredCapabilities"));
    let (Some((required, Kind::Object)), Some(declared)) = (required, declared(request)) else { return Ok(()) };
    let wants: Vec<String> = names_of(answer.bytes(), required);
    if wants.is_empty() || !covers(request.bytes(), declared, answer.bytes(), required) {
        return Ok(());
    }
    Err(Undeclared::Capability(wants.join(", ").chars().take(80).collect()))
}

fn names_of(bytes: &[u8], object: Span) -> Vec<String> {
    scan::members(bytes, object).map(|(key, ..)| scan::text(bytes, key).into_owned()).collect()
}

/// Whether every member of `required` is in `declared`, at every depth of objects.
fn covers(declared_in: &[u8], declared: Span, required_in: &[u8], required: Span) -> bool {
    let mut pairs = vec![(declared, required, true)];
    while let Some((declared, required, top)) = pairs.pop() {
        for (key, value, kind) in scan::members(required_in, required) {
            let name = scan::text(required_in, key);
            match scan::member(declared_in, declared, &name) {
                Some((inner, Kind::Object)) if kind == Kind::Object => {
                    // `elicitation: {}` is that of forms. (E196)
                    let forms = top && name == "elicitation" && scan::members(declared_in, inner).next().is_none();
                    let only_form =
                        scan::members(required_in, value).all(|(key, ..)| scan::text(required_in, key) == "form");
                    if !(forms && only_form) {
                        pairs.push((inner, value, false));
                    }
                }
                None | Some((_, Kind::Null | Kind::False)) => return false,
                Some(_) => {}
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{Limits, Side};
    use bytes::Bytes;
    use serde_json::{Value, json};

    const LIMITS: Limits = Limits { bytes: 1 << 20, depth: 64 };

    fn message(value: &Value, from: Side) -> Message {
        Message::parse(Bytes::from(value.to_string()), from, &LIMITS).unwrap()
    }

    fn request(capabilities: &Value) -> Message {
        let params = json!({"name":"t","_meta":{CLIENT_CAPABILITIES:capabilities}});
        message(&json!({"jsonrpc":"2.0","id":1,"method":"tools/call","params":params}), Side::Client)
    }

    fn typed(kind: &Value, client: &Value, server: &Value) -> bool {
        let answer = message(&json!({"jsonrpc":"2.0","id":1,"result":{"resultType":kind}}), Side::Server);
        judge(&answer, &request(client), server.to_string().as_bytes()).is_ok()
    }

    #[test]
    fn e11_a_result_type_needs_an_extension_of_both() {
        let (none, tasks, other) = (json!({}), json!({"extensions":{TASKS:{}}}), json!({"extensions":{"v/x":{}}}));
        for core in [json!("complete"), json!("input_required")] {
            assert!(typed(&core, &none, &none));
        }
        for odd in [json!("task"), json!("strange"), json!(7), json!(null), json!("Complete"), json!("")] {
            assert!(!typed(&odd, &none, &none), "{odd}");
            assert!(!typed(&odd, &tasks, &none) && !typed(&odd, &none, &tasks), "{odd}");
            assert!(!typed(&odd, &other, &json!({"extensions":{"v/y":{}}})), "{odd}");
        }
        assert!(typed(&json!("task"), &tasks, &tasks) && !typed(&json!("strange"), &tasks, &tasks));
        assert!(typed(&json!("strange"), &other, &other) && !typed(&json!("task"), &other, &other));
        assert!(!typed(&json!(7), &other, &other));
    }

    #[test]
    fn e10_an_absent_type_is_complete() {
        let answer = message(&json!({"jsonrpc":"2.0","id":1,"result":{}}), Side::Server);
        assert_eq!(judge(&answer, &request(&json!({})), b"{}"), Ok(()));
    }

    #[test]
    fn e110_b29_a_missing_capability_is_relayed_where_it_is_missing() {
        let lacks = |required: Value, client: Value| {
            let data = json!({ "requiredCapabilities": required });
            let error = json!({"code":code::MISSING_CAPABILITY,"message":"m","data":data});
            judge(&message(&json!({"jsonrpc":"2.0","id":1,"error":error}), Side::Server), &request(&client), b"{}")
                .is_ok()
        };
        assert!(lacks(json!({"sampling":{}}), json!({})));
        assert!(lacks(json!({"sampling":{"tools":{}}}), json!({"sampling":{}})));
        assert!(lacks(json!({"sampling":{}}), json!({"sampling":null})));
        assert!(lacks(json!({"sampling":{},"roots":{}}), json!({"sampling":{}})));
        assert!(lacks(json!({}), json!({"sampling":{}})));
        assert!(lacks(json!({"elicitation":{"url":{}}}), json!({"elicitation":{}})));
        assert!(!lacks(json!({"sampling":{}}), json!({"sampling":{"tools":{}}})));
        assert!(!lacks(json!({"elicitation":{"form":{}}}), json!({"elicitation":{}})));
        let bare = json!({"jsonrpc":"2.0","id":1,"error":{"code":code::MISSING_CAPABILITY,"message":"m"}});
        assert_eq!(judge(&message(&bare, Side::Server), &request(&json!({})), b"{}"), Ok(()));
    }
}
