//! Tasks of 2025-11-25, as far as a call must become one, and all trace of it must vanish again. (B21, B22, E209–E214)

use crate::bridge::{self, RELATED_TASK, TASKS};
use crate::message::{Message, Shape};
use crate::scan::{self, Kind, Limits, Place, Side, Span};
use crate::splice::Splice;
use bytes::Bytes;

const WIDER: Limits = Limits { bytes: usize::MAX, depth: 256 };

/// Whether a method speaks of tasks.
pub fn speaks_of(method: &str) -> bool {
    method.starts_with("tasks/")
}

/// The request as a task of the server's choice of lifetime (`as_task`), or without any word of tasks. `None` where it is that
/// already.
pub fn requested(message: &Message, as_task: bool) -> Option<Message> {
    let params = message.object(Place::Params)?;
    let old = message.member(Place::Params, "task");
    if old.is_none() && !as_task {
        return None;
    }
    let mut splice = Splice::new();
    match (old, as_task) {
        (Some(old), true) => splice.replace_with(old.value, b"{}"),
        (Some(old), false) => splice.delete_member(message.bytes(), params, old.key),
        (None, _) => splice.add_member(message.bytes(), params, "task", b"{}"),
    }
    rewritten(message, splice, Side::Client)
}

/// The id of the task that an answer says was made (E210); `None` where it is the answer itself.
pub fn created(answer: &Message) -> Option<String> {
    if answer.shape() != Shape::Success {
        return None;
    }
    let task = answer.member(Place::Result, "task").filter(|task| task.kind == Kind::Object)?;
    let (id, kind) = scan::member(answer.bytes(), task.value, "taskId")?;
    (kind == Kind::String).then(|| scan::text(answer.bytes(), id).into_owned())
}

/// The id of the task that a message is about: in a notification's params, or related.
pub fn subject(message: &Message) -> Option<String> {
    message.text(Place::Params, "taskId").map(std::borrow::Cow::into_owned)
}

/// `tasks/result` or `tasks/cancel` as one line. (E142, E214)
pub fn line(id: u64, method: &str, task: &str) -> Vec<u8> {
    let mut line = bridge::object_of(&[
        ("jsonrpc", b"\"2.0\"".to_vec()),
        ("id", id.to_string().into_bytes()),
        ("method", bridge::quoted(method)),
        ("params", bridge::object_of(&[("taskId", bridge::quoted(task))])),
    ]);
    line.push(b'\n');
    line
}

/// The answer to `tasks/result` as the answer to the call `id`: it is exactly that but for what relates it to the task.
pub fn unrelated(answer: &Message, id: u64) -> Option<Message> {
    let mut splice = Splice::new();
    let old = answer.noted(Place::Root, "id")?;
    splice.replace(old.value, id.to_string());
    if let Some(meta) = answer.object(Place::ResultMeta) {
        bridge::delete(&mut splice, answer.bytes(), meta, RELATED_TASK);
    }
    rewritten(answer, splice, Side::Server)
}

/// A list of tools for a client that is told of no tasks; `None` where it says nothing of them.
pub fn unlisted(answer: &Message) -> Option<Message> {
    let tools = answer.noted(Place::Result, "tools").filter(|tools| tools.kind == Kind::Array)?;
    let (mut splice, mut found) = (Splice::new(), false);
    for (tool, _) in scan::elements(answer.bytes(), tools.value) {
        if scan::member(answer.bytes(), tool, "execution").is_some() {
            bridge::delete(&mut splice, answer.bytes(), tool, "execution");
            found = true;
        }
    }
    if found { rewritten(answer, splice, Side::Server) } else { None }
}

/// A modern server's description of itself without the extension for tasks; `None` where it does not have it.
pub fn undeclared_by_server(answer: &Message) -> Option<Message> {
    let capabilities = answer.member(Place::Result, "capabilities")?;
    without_extension(answer, capabilities.value, Side::Server)
}

/// A modern request that does not declare the extension for tasks; `None` where it did not.
pub fn undeclared_by_client(request: &Message) -> Option<Message> {
    let capabilities = request.noted(Place::Meta, bridge::CLIENT_CAPABILITIES)?;
    without_extension(request, capabilities.value, Side::Client)
}

fn without_extension(message: &Message, capabilities: Span, side: Side) -> Option<Message> {
    let (extensions, _) = scan::member(message.bytes(), capabilities, "extensions")?;
    scan::member(message.bytes(), extensions, TASKS)?;
    let mut splice = Splice::new();
    bridge::delete(&mut splice, message.bytes(), extensions, TASKS);
    rewritten(message, splice, side)
}

/// Whether `capabilities` say that tools can be called as tasks.
pub fn offered(capabilities: &[u8]) -> bool {
    let mut at = Span::all(capabilities);
    for name in ["tasks", "requests", "tools", "call"] {
        match scan::member(capabilities, at, name) {
            Some((inner, Kind::Object)) => at = inner,
            _ => return false,
        }
    }
    true
}

/// Whether `capabilities` have the extension for tasks of 2026-07-28.
pub fn extension_offered(capabilities: &[u8]) -> bool {
    let extensions = scan::member(capabilities, Span::all(capabilities), "extensions");
    extensions.is_some_and(|(extensions, _)| scan::member(capabilities, extensions, TASKS).is_some())
}

fn rewritten(message: &Message, splice: Splice, side: Side) -> Option<Message> {
    let mut out = Vec::new();
    splice.write(message.bytes(), message.scan().root(), &mut out);
    Message::parse(Bytes::from(out), side, &WIDER).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const LIMITS: Limits = Limits { bytes: 1 << 20, depth: 64 };

    fn message(value: &Value, from: Side) -> Message {
        Message::parse(Bytes::from(value.to_string()), from, &LIMITS).unwrap()
    }

    fn value(message: &Message) -> Value {
        serde_json::from_slice(message.bytes()).unwrap()
    }

    #[test]
    fn e209_e210_a_call_becomes_a_task_or_says_nothing_of_one() {
        let call = |params: &Value| {
            message(&json!({"jsonrpc":"2.0","id":1,"method":"tools/call","params":params}), Side::Client)
        };
        let plain = call(&json!({"name":"t","arguments":{"task":1}}));
        assert!(requested(&plain, false).is_none());
        let task = requested(&plain, true).unwrap();
        assert_eq!(value(&task)["params"], json!({"name":"t","arguments":{"task":1},"task":{}}));
        for said in [json!({"ttl":5}), json!(null), json!(7)] {
            let given = call(&json!({"name":"t","task":said}));
            assert_eq!(value(&requested(&given, true).unwrap())["params"]["task"], json!({}));
            assert_eq!(value(&requested(&given, false).unwrap())["params"], json!({"name":"t"}));
        }
    }

    #[test]
    fn e214_the_result_is_exactly_that_of_the_call() {
        let made = message(
            &json!({"jsonrpc":"2.0","id":7,"result":{"task":{"taskId":"a\"b","status":"working"}}}),
            Side::Server,
        );
        assert_eq!(created(&made).as_deref(), Some("a\"b"));
        for other in [json!({"task":{}}), json!({"task":"x"}), json!({"content":[]}), json!({"task":{"taskId":5}})] {
            assert_eq!(created(&message(&json!({"jsonrpc":"2.0","id":7,"result":other}), Side::Server)), None);
        }
        let result =
            json!({"jsonrpc":"2.0","id":8,"result":{"content":[],"x":1,"_meta":{RELATED_TASK:{"taskId":"a"},"k":2}}});
        let expected = json!({"jsonrpc":"2.0","id":7,"result":{"content":[],"x":1,"_meta":{"k":2}}});
        assert_eq!(value(&unrelated(&message(&result, Side::Server), 7).unwrap()), expected);
        let failed = json!({"jsonrpc":"2.0","id":8,"error":{"code":-32603,"message":"m"}});
        assert_eq!(value(&unrelated(&message(&failed, Side::Server), 7).unwrap())["id"], 7);
    }

    #[test]
    fn e142_the_lines_are_requests_of_one_line() {
        let line = line(9, "tasks/cancel", "a\n\"b");
        let said: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(said, json!({"jsonrpc":"2.0","id":9,"method":"tasks/cancel","params":{"taskId":"a\n\"b"}}));
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    }

    #[test]
    fn b22_the_extension_vanishes_alone() {
        let discovered =
            json!({"jsonrpc":"2.0","id":1,"result":{"capabilities":{"tools":{},"extensions":{TASKS:{},"v/x":{}}}}});
        let shown = undeclared_by_server(&message(&discovered, Side::Server)).unwrap();
        assert_eq!(value(&shown)["result"]["capabilities"], json!({"tools":{},"extensions":{"v/x":{}}}));
        assert!(undeclared_by_server(&shown).is_none());
        let meta = json!({bridge::CLIENT_CAPABILITIES:{"extensions":{TASKS:{}}}});
        let call = json!({"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","_meta":meta}});
        let sent = undeclared_by_client(&message(&call, Side::Client)).unwrap();
        assert_eq!(value(&sent)["params"]["_meta"][bridge::CLIENT_CAPABILITIES], json!({"extensions":{}}));
    }

    #[test]
    fn what_is_offered_is_told() {
        assert!(offered(br#"{"tasks":{"requests":{"tools":{"call":{}}}}}"#));
        for not in ["{}", r#"{"tasks":{}}"#, r#"{"tasks":{"requests":{"tools":{}}}}"#, r#"{"tasks":true}"#] {
            assert!(!offered(not.as_bytes()), "{not}");
        }
        let list = json!({"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a","execution":{}},{"name":"b"}]}});
        let shown = unlisted(&message(&list, Side::Server)).unwrap();
        assert_eq!(value(&shown)["result"]["tools"], json!([{"name":"a"},{"name":"b"}]));
        assert!(unlisted(&shown).is_none());
    }
}
