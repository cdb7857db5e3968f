//! What an HTTP request to a modern server says twice: members of its body as headers. Computed from the body that is
//! sent, never from what a client's headers said (E56, E59, B32). And what a list of tools loses on its way to clients of
//! an HTTP server (E60).

use crate::catalogue::Catalogue;
use crate::header;
use crate::message::{Message, Shape};
use crate::method;
use crate::param::{self, Param};
use crate::scan::{self, Kind, Place, Span};
use crate::splice::Splice;

/// `Mcp-Method`, `Mcp-Name` and `Mcp-Param-…` of a message, as name and encoded value. Answers have none.
pub fn headers(message: &Message, params: &[Param]) -> Vec<(String, String)> {
    if !matches!(message.shape(), Shape::Request | Shape::Notification) {
        return Vec::new();
    }
    let mut out = vec![("mcp-method".to_owned(), header::encode(message.method()))];
    let named = method::find(message.method()).and_then(|row| row.name_param);
    if let Some(name) = named.and_then(|member| message.text(Place::Params, member)) {
        out.push(("mcp-name".to_owned(), header::encode(&name)));
    }
    out.extend(param::headers(params, message));
    out
}

/// The answer to a `tools/list` without the tools whose annotations break the rules: a client over HTTP must not see
/// them. `None` where there is none of those. (E60)
pub fn without_excluded(answer: &Message, catalogue: &Catalogue) -> Option<Vec<u8>> {
    let bytes = answer.bytes();
    let list = answer.member(Place::Result, "tools").filter(|list| list.kind == Kind::Array)?;
    let excluded = |tool: Span| {
        let named = scan::member(bytes, tool, "name").filter(|(_, kind)| *kind == Kind::String);
        named.is_some_and(|(name, _)| {
            catalogue.tool(&scan::text(bytes, name)).is_some_and(crate::catalogue::Tool::excluded)
        })
    };
    let (mut kept, mut dropped) = (vec![b'['], false);
    for (tool, kind) in scan::elements(bytes, list.value) {
        if kind == Kind::Object && excluded(tool) {
            dropped = true;
            continue;
        }
        if kept.len() > 1 {
            kept.push(b',');
        }
        kept.extend_from_slice(&bytes[tool.start..tool.end]);
    }
    kept.push(b']');
    dropped.then(|| {
        let (mut splice, mut out) = (Splice::new(), Vec::with_capacity(bytes.len()));
        splice.replace(list.value, kept);
        splice.write(bytes, Span::all(bytes), &mut out);
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Reading;
    use crate::scan::{Limits, Side};
    use bytes::Bytes;
    use serde_json::{Value, json};

    fn message(value: &Value) -> Message {
        let limits = Limits { bytes: 1 << 20, depth: 64 };
        Message::parse(Bytes::from(value.to_string()), Side::Server, &limits).unwrap()
    }

    fn catalogue(answer: &Message) -> Catalogue {
        let mut reading = Reading::default();
        reading.page(answer).unwrap();
        reading.done()
    }

    #[test]
    fn e59_method_and_name_are_mirrored_and_encoded() {
        let of = |method: &str, params: Value| {
            headers(&message(&json!({"jsonrpc":"2.0","id":1,"method":method,"params":params})), &[])
        };
        let method = |name: &str| ("mcp-method".to_owned(), name.to_owned());
        let name = |value: &str| ("mcp-name".to_owned(), value.to_owned());
        assert_eq!(of("tools/call", json!({"name":"a b"})), [method("tools/call"), name("a b")]);
        assert_eq!(of("resources/read", json!({"uri":"x:é"})), [method("resources/read"), name("=?base64?eDrDqQ==?=")]);
        assert_eq!(of("prompts/get", json!({"name":" p"})), [method("prompts/get"), name("=?base64?IHA=?=")]);
        assert_eq!(of("tools/list", json!({"name":"x"})), [method("tools/list")]);
        let answer = message(&json!({"jsonrpc":"2.0","id":1,"result":{}}));
        assert!(headers(&answer, &[]).is_empty());
    }

    #[test]
    fn e59_arguments_are_mirrored_where_the_tool_wants_it() {
        let schema = json!({"type":"object","properties":{
            "s":{"type":"string","x-mcp-header":"S"},
            "o":{"type":"object","properties":{"b":{"type":"boolean","x-mcp-header":"B"}}},
            "n":{"type":"string","x-mcp-header":"N"},
        }});
        let list = message(&json!({"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"t","inputSchema":schema}]}}));
        let catalogue = catalogue(&list);
        let arguments = json!({"s":"line1\nline2","o":{"b":false},"n":null,"x":1});
        let params = json!({"name":"t","arguments":arguments});
        let call = message(&json!({"jsonrpc":"2.0","id":1,"method":"tools/call","params":params}));
        let mut mirrored = headers(&call, catalogue.tool("t").unwrap().params()).split_off(2);
        mirrored.sort();
        let expected = [("Mcp-Param-B", "false"), ("Mcp-Param-S", "=?base64?bGluZTEKbGluZTI=?=")];
        assert_eq!(mirrored, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn e60_a_bad_tool_leaves_the_list_and_nothing_else_changes() {
        let bad = json!({"name":"b\u{1}ad","inputSchema":{"items":{"type":"string","x-mcp-header":"A"}}});
        let good = json!({"name":"good","inputSchema":{"type":"object"},"future":1.10});
        for given in [vec![&bad, &good], vec![&good, &bad], vec![&bad], vec![&good, &bad, &good], vec![&good]] {
            let answer = message(&json!({"jsonrpc":"2.0","id":1,"result":{"tools":given,"nextCursor":"c"}}));
            let kept: Vec<_> = given.iter().filter(|tool| tool["name"] == "good").collect();
            match without_excluded(&answer, &catalogue(&answer)) {
                None => assert_eq!(kept.len(), given.len()),
                Some(shown) => {
                    let shown: Value = serde_json::from_slice(&shown).unwrap();
                    assert_eq!(shown, json!({"jsonrpc":"2.0","id":1,"result":{"tools":kept,"nextCursor":"c"}}));
                    assert!(kept.len() < given.len());
                }
            }
        }
    }
}
