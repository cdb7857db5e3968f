//! Shapes that one revision has and another has not: schemas, structured content, kinds of content, choices in forms. What
//! the client's revision has is never touched; what it has not becomes the nearest thing that it has. (B3, B25, B26, E96)

use crate::bridge::{object_of, quoted};
use crate::era::{Era, Revision};
use crate::message::Message;
use crate::scan::{self, Kind, Limits, Place, Side, Span};
use crate::splice::Splice;
use bytes::Bytes;
use std::borrow::Cow;

/// What we wrote from an accepted message may be larger and deeper than what came.
const WIDER: Limits = Limits { bytes: usize::MAX, depth: 256 };
/// Depth to which references in a schema are followed into. A deeper schema is left as it is.
const DEPTH: usize = 64;

/// A server's success as a legacy client of `revision` can read it; `None` where it can read it as it is. `wrapped` says that
/// the called tool's `outputSchema` was shown wrapped.
pub fn result(message: &Message, method: &str, server: Era, revision: Revision, wrapped: bool) -> Option<Message> {
    // Nothing newer can come from such a pair.
    if server == Era::Legacy && revision >= Revision::V20250618 {
        return None;
    }
    let result = message.object(Place::Result)?;
    let old_content = revision < Revision::V20250618;
    let mut splice = Splice::new();
    let mut edit = Edit { bytes: message.bytes(), splice: &mut splice, edits: 0 };
    match method {
        "tools/list" if server == Era::Modern => edit.tools(result),
        "tools/call" => {
            if old_content {
                edit.contents(result, revision);
            }
            if server == Era::Modern {
                edit.structured(result, wrapped);
            }
        }
        "prompts/get" if old_content => edit.messages(result, revision),
        _ => {}
    }
    let edits = edit.edits;
    (edits > 0).then(|| rewritten(message, splice)).flatten()
}

/// A server's request in front of a legacy client of `revision`: `None` where the client can read it as it is.
pub fn request(message: &Message, revision: Revision) -> Result<Option<Message>, Unaskable> {
    let Some(params) = message.object(Place::Params) else { return Ok(None) };
    let mut splice = Splice::new();
    let edits = ask(message.bytes(), params, message.method(), revision, &mut splice)?;
    Ok(if edits > 0 { rewritten(message, splice) } else { None })
}

/// The same for the raw params of one request among `inputRequests`.
pub fn params<'a>(method: &str, params: &'a [u8], revision: Revision) -> Result<Cow<'a, [u8]>, Unaskable> {
    let (all, mut splice) = (Span::all(params), Splice::new());
    if ask(params, all, method, revision, &mut splice)? == 0 {
        return Ok(Cow::Borrowed(params));
    }
    let mut out = Vec::new();
    splice.write(params, all, &mut out);
    Ok(Cow::Owned(out))
}

/// Why a client of this revision cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unaskable {
    /// No revision before 2025-11-25 has a choice of several.
    #[error("the form lets the user choose several values, which the client's protocol revision does not have")]
    MultiSelect,
    /// Nor sampling with tools.
    #[error("the messages hold uses of tools, which the client's protocol revision does not have")]
    ToolUse,
}

fn ask(bytes: &[u8], params: Span, method: &str, revision: Revision, splice: &mut Splice) -> Result<usize, Unaskable> {
    if revision >= Revision::V20251125 {
        return Ok(0);
    }
    let mut edit = Edit { bytes, splice, edits: 0 };
    match method {
        "elicitation/create" => edit.form(params)?,
        "sampling/createMessage" => edit.sampling(params, revision)?,
        _ => {}
    }
    Ok(edit.edits)
}

fn rewritten(message: &Message, splice: Splice) -> Option<Message> {
    let mut out = Vec::new();
    splice.write(message.bytes(), message.scan().root(), &mut out);
    Message::parse(Bytes::from(out), Side::Server, &WIDER).ok()
}

/// Whether a tool's `outputSchema` describes something else than an object, which legacy revisions do not have. (B25)
pub(crate) fn wraps(bytes: &[u8], tool: Span) -> bool {
    match scan::member(bytes, tool, "outputSchema") {
        None | Some((_, Kind::Null)) => false,
        Some((schema, Kind::Object)) => text_of(bytes, schema, "type").as_deref() != Some("object"),
        // `true` and `false` are schemas as well.
        Some(_) => true,
    }
}

/// The text of a string member.
fn text_of<'a>(bytes: &'a [u8], object: Span, name: &str) -> Option<Cow<'a, str>> {
    let (value, kind) = scan::member(bytes, object, name)?;
    (kind == Kind::String).then(|| scan::text(bytes, value))
}

/// Edits of one message.
struct Edit<'a> {
    bytes: &'a [u8],
    splice: &'a mut Splice,
    edits: usize,
}

impl Edit<'_> {
    fn replace(&mut self, span: Span, with: Vec<u8>) {
        self.splice.replace(span, with);
        self.edits += 1;
    }

    fn raw(&self, span: Span) -> &[u8] {
        &self.bytes[span.start..span.end]
    }

    fn array(&self, object: Span, name: &str) -> Option<Span> {
        scan::member(self.bytes, object, name).filter(|(_, kind)| *kind == Kind::Array).map(|(span, _)| span)
    }

    /// Output schemas that describe no object. (B25)
    fn tools(&mut self, result: Span) {
        let Some(tools) = self.array(result, "tools") else { return };
        for (tool, _) in scan::elements(self.bytes, tools) {
            if wraps(self.bytes, tool)
                && let Some((schema, _)) = scan::member(self.bytes, tool, "outputSchema")
            {
                let wrapped = wrapped_schema(self.bytes, schema);
                self.replace(schema, wrapped);
            }
        }
    }

    /// Structured content that is no object, or belongs to a wrapped schema, and a text for clients that read only texts.
    /// (B26, E202)
    fn structured(&mut self, result: Span, wrapped: bool) {
        let Some((value, kind)) = scan::member(self.bytes, result, "structuredContent") else { return };
        let block = object_of(&[("type", quoted("text")), ("text", quoted(&String::from_utf8_lossy(self.raw(value))))]);
        let blocks = [&b"["[..], &block, b"]"].concat();
        match scan::member(self.bytes, result, "content") {
            None => {
                self.splice.add_member(self.bytes, result, "content", &blocks);
                self.edits += 1;
            }
            Some((content, Kind::Array)) if scan::elements(self.bytes, content).next().is_none() => {
                self.replace(content, blocks);
            }
            Some(_) => {}
        }
        if wrapped || kind != Kind::Object {
            let whole = object_of(&[("result", self.raw(value).to_vec())]);
            self.replace(value, whole);
        }
    }

    /// The blocks of a tool's result.
    fn contents(&mut self, result: Span, revision: Revision) {
        let Some(content) = self.array(result, "content") else { return };
        for (block, kind) in scan::elements(self.bytes, content) {
            self.block(block, kind, revision);
        }
    }

    /// The one block of each message of a prompt.
    fn messages(&mut self, result: Span, revision: Revision) {
        let Some(messages) = self.array(result, "messages") else { return };
        for (message, _) in scan::elements(self.bytes, messages) {
            if let Some((block, kind)) = scan::member(self.bytes, message, "content") {
                self.block(block, kind, revision);
            }
        }
    }

    fn block(&mut self, block: Span, kind: Kind, revision: Revision) {
        if kind == Kind::Object
            && let Some(text) = as_text(self.bytes, block, revision)
        {
            self.replace(block, text);
        }
    }

    /// Before 2025-11-25 a choice with titles is `enum` with `enumNames`, and there is no choice of several.
    fn form(&mut self, params: Span) -> Result<(), Unaskable> {
        let schema = scan::member(self.bytes, params, "requestedSchema");
        let properties = schema.and_then(|(schema, _)| scan::member(self.bytes, schema, "properties"));
        let Some((properties, Kind::Object)) = properties else { return Ok(()) };
        for (_, property, _) in scan::members(self.bytes, properties) {
            if text_of(self.bytes, property, "type").as_deref() == Some("array") {
                return Err(Unaskable::MultiSelect);
            }
            self.titled(property);
        }
        Ok(())
    }

    fn titled(&mut self, property: Span) {
        let Some((key, choices, Kind::Array)) =
            scan::members(self.bytes, property).find(|(key, ..)| scan::text(self.bytes, *key) == "oneOf")
        else {
            return;
        };
        let (mut values, mut names) = (vec![b'['], vec![b'[']);
        for (choice, _) in scan::elements(self.bytes, choices) {
            let Some((value, _)) = scan::member(self.bytes, choice, "const") else { return };
            let name = scan::member(self.bytes, choice, "title").filter(|(_, kind)| *kind == Kind::String);
            for (list, item) in [(&mut values, value), (&mut names, name.map_or(value, |(name, _)| name))] {
                list.extend_from_slice(if list.len() > 1 { b"," } else { b"" });
                list.extend_from_slice(&self.bytes[item.start..item.end]);
            }
        }
        values.push(b']');
        names.push(b']');
        self.splice.delete_member(self.bytes, property, key);
        self.splice.add_member(self.bytes, property, "enumNames", &names);
        self.splice.add_member(self.bytes, property, "enum", &values);
        self.edits += 1;
    }

    /// Before 2025-11-25 a message has one block: more of them are more messages of the same role.
    fn sampling(&mut self, params: Span, revision: Revision) -> Result<(), Unaskable> {
        let Some(messages) = self.array(params, "messages") else { return Ok(()) };
        for (message, _) in scan::elements(self.bytes, messages) {
            match scan::member(self.bytes, message, "content") {
                Some((content, Kind::Array)) => {
                    let split = self.split(message, content, revision)?;
                    self.replace(message, split);
                }
                Some((block, kind @ Kind::Object)) => {
                    one_of_them(self.bytes, block)?;
                    self.block(block, kind, revision);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn split(&self, message: Span, content: Span, revision: Revision) -> Result<Vec<u8>, Unaskable> {
        let mut out = Vec::new();
        for (block, _) in scan::elements(self.bytes, content) {
            one_of_them(self.bytes, block)?;
            let mut splice = Splice::new();
            let block = as_text(self.bytes, block, revision).unwrap_or_else(|| self.raw(block).to_vec());
            splice.replace(content, block);
            out.extend_from_slice(if out.is_empty() { b"" } else { b"," });
            splice.write(self.bytes, message, &mut out);
        }
        if out.is_empty() {
            let nothing = object_of(&[("type", quoted("text")), ("text", quoted(""))]);
            let mut splice = Splice::new();
            splice.replace(content, nothing);
            splice.write(self.bytes, message, &mut out);
        }
        Ok(out)
    }
}

/// Blocks that no text can stand for.
fn one_of_them(bytes: &[u8], block: Span) -> Result<(), Unaskable> {
    match text_of(bytes, block, "type").as_deref() {
        Some("tool_use" | "tool_result") => Err(Unaskable::ToolUse),
        _ => Ok(()),
    }
}

/// A block of a kind that the revision has not, as a text.
fn as_text(bytes: &[u8], block: Span, revision: Revision) -> Option<Vec<u8>> {
    let text = match text_of(bytes, block, "type")?.as_ref() {
        "audio" if revision < Revision::V20250326 => {
            let kind = text_of(bytes, block, "mimeType").unwrap_or(Cow::Borrowed("unknown type"));
            format!("[audio ({kind}), which this client's protocol revision cannot carry]")
        }
        "resource_link" if revision < Revision::V20250618 => {
            let uri = text_of(bytes, block, "uri").unwrap_or_default();
            let name = text_of(bytes, block, "title").or_else(|| text_of(bytes, block, "name"));
            let told = text_of(bytes, block, "description").map(|told| format!("\n{told}")).unwrap_or_default();
            name.map_or_else(|| format!("{uri}{told}"), |name| format!("{name}: {uri}{told}"))
        }
        _ => return None,
    };
    let mut members = vec![("type", quoted("text")), ("text", quoted(&text))];
    for name in ["annotations", "_meta"] {
        let kept = scan::member(bytes, block, name);
        members.extend(kept.map(|(value, _)| (name, bytes[value.start..value.end].to_vec())));
    }
    Some(object_of(&members))
}

/// `{"type":"object","properties":{"result":…},"required":["result"]}`, in which references within the schema still lead to
/// where they led.
fn wrapped_schema(bytes: &[u8], schema: Span) -> Vec<u8> {
    let mut inner = Vec::new();
    let mut splice = Splice::new();
    relocate(bytes, schema, &mut splice);
    splice.write(bytes, schema, &mut inner);
    let mut members = Vec::new();
    // The dialect is read at the root of a document alone.
    if let Some((dialect, Kind::String)) = scan::member(bytes, schema, "$schema") {
        members.push(("$schema", bytes[dialect.start..dialect.end].to_vec()));
    }
    members.push(("type", quoted("object")));
    members.push(("properties", object_of(&[("result", inner)])));
    members.push(("required", b"[\"result\"]".to_vec()));
    object_of(&members)
}

/// Members of a schema whose values are names with schemas: a name is never a keyword.
pub(crate) const NAMED: [&str; 6] =
    ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"];
/// Members of a schema whose values are data.
pub(crate) const DATA: [&str; 4] = ["const", "enum", "default", "examples"];

/// Makes pointers from the root of a schema lead through `properties/result`. A part with a `$id` of its own is a document of
/// its own, whose pointers stay right.
fn relocate(bytes: &[u8], schema: Span, splice: &mut Splice) {
    let mut next = vec![(schema, false, 0_usize)];
    while let Some((value, names, depth)) = next.pop() {
        if depth > DEPTH {
            continue;
        }
        if bytes.get(value.start) == Some(&b'[') {
            next.extend(scan::elements(bytes, value).map(|(element, _)| (element, false, depth + 1)));
            continue;
        }
        let own_base = text_of(bytes, value, "$id").is_some_and(|id| !id.starts_with('#'));
        if own_base && !names {
            continue;
        }
        for (key, member, kind) in scan::members(bytes, value) {
            match scan::text(bytes, key).as_ref() {
                _ if names => next.push((member, false, depth + 1)),
                "$ref" | "$dynamicRef" if kind == Kind::String => {
                    if let Some(pointer) = moved(&scan::text(bytes, member)) {
                        splice.replace(member, quoted(&pointer));
                    }
                }
                name if DATA.contains(&name) => {}
                name => next.push((member, NAMED.contains(&name), depth + 1)),
            }
        }
    }
}

/// A pointer from the root of the schema as one from the root of what it is wrapped in. Other references stay.
fn moved(reference: &str) -> Option<String> {
    let pointer = reference.strip_prefix('#')?;
    (pointer.is_empty() || pointer.starts_with('/')).then(|| format!("#/properties/result{pointer}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const LIMITS: Limits = Limits { bytes: 1 << 20, depth: 128 };
    const OLDEST: Revision = Revision::V20241105;

    fn message(value: &Value) -> Message {
        Message::parse(Bytes::from(value.to_string()), Side::Server, &LIMITS).unwrap()
    }

    fn fitted(given: &Value, method: &str, server: Era, revision: Revision, wrapped: bool) -> Option<Value> {
        let message = message(&json!({"jsonrpc":"2.0","id":1,"result":given}));
        let fitted = result(&message, method, server, revision, wrapped)?;
        let value: Value = serde_json::from_slice(fitted.bytes()).unwrap();
        assert_eq!((&value["jsonrpc"], &value["id"]), (&json!("2.0"), &json!(1)));
        Some(value["result"].clone())
    }

    fn asked(method: &str, given: &Value, revision: Revision) -> Result<Value, Unaskable> {
        let text = given.to_string();
        let whole = message(&json!({"jsonrpc":"2.0","id":1,"method":method,"params":given}));
        let raw = params(method, text.as_bytes(), revision);
        let one = request(&whole, revision).map(|fitted| {
            let fitted = fitted.unwrap_or(whole);
            let span = fitted.object(Place::Params).unwrap();
            serde_json::from_slice::<Value>(fitted.raw(span)).unwrap()
        });
        assert_eq!(raw.map(|raw| serde_json::from_slice(&raw).unwrap()), one);
        one
    }

    #[test]
    fn b3_content_that_a_revision_has_is_not_touched() {
        let link = json!({"type":"resource_link","uri":"a:b","name":"n"});
        let all =
            json!({"content":[{"type":"text","text":"t"},{"type":"audio","data":"","mimeType":"audio/wav"},link]});
        for revision in [Revision::V20250618, Revision::V20251125] {
            assert_eq!(fitted(&all, "tools/call", Era::Legacy, revision, false), None);
            assert_eq!(fitted(&all, "tools/call", Era::Modern, revision, false), None);
        }
        let plain = json!({"content":[{"type":"text","text":"audio"},{"type":"image"},{"type":"resource"},7]});
        assert_eq!(fitted(&plain, "tools/call", Era::Legacy, OLDEST, false), None);
        assert_eq!(fitted(&all, "resources/read", Era::Legacy, OLDEST, false), None);
    }

    #[test]
    fn b3_content_that_a_revision_has_not_becomes_a_text() {
        let audio = json!({"type":"audio","data":"AAAA","mimeType":"audio/wav","annotations":{"priority":1}});
        let link =
            json!({"type":"resource_link","uri":"file:///a","name":"n","title":"A","description":"d","_meta":{"k":1}});
        let result = json!({"content":[audio, link],"isError":false,"x":1.10});
        let old = fitted(&result, "tools/call", Era::Legacy, OLDEST, false).unwrap();
        assert_eq!((&old["isError"], &old["x"]), (&json!(false), &json!(1.10)));
        assert_eq!(old["content"][0]["type"], "text");
        assert_eq!(old["content"][0]["annotations"], json!({"priority":1}));
        assert!(old["content"][0]["text"].as_str().unwrap().contains("audio/wav"));
        assert_eq!(old["content"][1], json!({"type":"text","text":"A: file:///a\nd","_meta":{"k":1}}));
        let newer = fitted(&result, "tools/call", Era::Modern, Revision::V20250326, false).unwrap();
        assert_eq!((&newer["content"][0], &newer["content"][1]["type"]), (&audio, &json!("text")));
        let prompt = json!({"messages":[{"role":"user","content":link},{"role":"user","content":audio}]});
        let old = fitted(&prompt, "prompts/get", Era::Legacy, OLDEST, false).unwrap();
        assert_eq!(old["messages"][0]["content"]["type"], "text");
        assert_eq!(
            (&old["messages"][1]["role"], &old["messages"][1]["content"]["type"]),
            (&json!("user"), &json!("text"))
        );
    }

    #[test]
    fn b25_an_output_schema_that_is_no_object_is_wrapped_with_its_references() {
        let schema = json!({
            "$schema":"https://json-schema.org/draft/2020-12/schema","type":"array","items":{"$ref":"#/$defs/node"},
            "$defs":{
                "node":{"type":"object","properties":{"next":{"$ref":"#/$defs/node"},"$ref":{"type":"string"},"all":{"$ref":"#"}},
                    "enum":[{"$ref":"#/x"}],"anyOf":[{"$dynamicRef":"#/$defs/node"}]},
                "far":{"$ref":"https://e.org/s#/a"},"named":{"$ref":"#anchor"},
                "own":{"$id":"https://e.org/own","properties":{"a":{"$ref":"#/b"}}},
                "anchor":{"$id":"#a","items":{"$ref":"#/$defs/far"}},
            },
        });
        let list = json!({"tools":[{"name":"t","outputSchema":schema},{"name":"o","outputSchema":{"type":"object","$ref":"#/x"}}]});
        let old = fitted(&list, "tools/list", Era::Modern, Revision::V20251125, false).unwrap();
        let wrapped = &old["tools"][0]["outputSchema"];
        assert_eq!(wrapped["$schema"], schema["$schema"]);
        assert_eq!((&wrapped["type"], &wrapped["required"]), (&json!("object"), &json!(["result"])));
        let inner = &wrapped["properties"]["result"];
        assert_eq!(inner["items"]["$ref"], "#/properties/result/$defs/node");
        let node = &inner["$defs"]["node"];
        assert_eq!(node["properties"]["next"]["$ref"], "#/properties/result/$defs/node");
        assert_eq!(node["properties"]["all"]["$ref"], "#/properties/result");
        assert_eq!(node["properties"]["$ref"], json!({"type":"string"}), "a name is no keyword");
        assert_eq!(node["enum"], json!([{"$ref":"#/x"}]), "data is no schema");
        assert_eq!(node["anyOf"][0]["$dynamicRef"], "#/properties/result/$defs/node");
        for same in ["far", "named", "own"] {
            assert_eq!(inner["$defs"][same], schema["$defs"][same]);
        }
        assert_eq!(inner["$defs"]["anchor"]["items"]["$ref"], "#/properties/result/$defs/far");
        assert_eq!(old["tools"][1], list["tools"][1], "an object stays");
        assert_eq!(fitted(&list, "tools/list", Era::Legacy, OLDEST, false), None);
    }

    #[test]
    fn b26_e202_structured_content_is_wrapped_with_its_schema() {
        let call = |result: Value, wrapped| fitted(&result, "tools/call", Era::Modern, Revision::V20251125, wrapped);
        let text = json!([{"type":"text","text":"[1,2]"}]);
        let wrapped = json!({"content":text,"structuredContent":{"result":[1,2]}});
        assert_eq!(call(json!({"content":text,"structuredContent":[1,2]}), true), Some(wrapped.clone()));
        assert_eq!(call(json!({"content":text,"structuredContent":[1,2]}), false), Some(wrapped.clone()));
        assert_eq!(call(json!({"content":[],"structuredContent":[1,2]}), true), Some(wrapped.clone()));
        assert_eq!(call(json!({"structuredContent":[1,2]}), true), Some(wrapped));
        let object = json!({"content":text,"structuredContent":{"a":1}});
        assert_eq!(call(object.clone(), false), None);
        assert_eq!(call(object, true).unwrap()["structuredContent"], json!({"result":{"a":1}}));
        assert_eq!(call(json!({"content":[]}), true), None);
        for odd in [json!(null), json!(0), json!(""), json!(false)] {
            let shown = call(json!({"content":text,"structuredContent":odd}), false).unwrap();
            assert_eq!(shown["structuredContent"], json!({"result":odd}));
        }
    }

    #[test]
    fn b3_choices_with_titles_become_enum_names() {
        let form = json!({"message":"m","requestedSchema":{"type":"object","properties":{
            "a":{"type":"string","title":"A","oneOf":[{"const":"x","title":"X"},{"const":"y"}],"default":"x"},
            "b":{"type":"string","enum":["p"],"enumNames":["P"]},"c":{"type":"number"}
        },"required":["a"]}});
        let old = asked("elicitation/create", &form, Revision::V20250618).unwrap();
        let mut expected = form.clone();
        expected["requestedSchema"]["properties"]["a"] =
            json!({"type":"string","title":"A","enum":["x","y"],"enumNames":["X","y"],"default":"x"});
        assert_eq!(old, expected);
        assert_eq!(asked("elicitation/create", &form, Revision::V20251125), Ok(form));
        let several = json!({"requestedSchema":{"properties":{"a":{"type":"array","items":{"enum":["x"]}}}}});
        assert_eq!(asked("elicitation/create", &several, Revision::V20250618), Err(Unaskable::MultiSelect));
        assert_eq!(asked("elicitation/create", &several, Revision::V20251125), Ok(several));
    }

    #[test]
    fn b3_messages_of_many_blocks_become_many_messages() {
        let text = |text: &str| json!({"type":"text","text":text});
        let audio = json!({"type":"audio","data":"","mimeType":"audio/wav"});
        let given = json!({"maxTokens":1,"messages":[
            {"role":"user","content":[text("a"),audio]},{"role":"assistant","content":text("b")},{"role":"user","content":[]}
        ]});
        let old = asked("sampling/createMessage", &given, Revision::V20250326).unwrap();
        assert_eq!(
            old["messages"],
            json!([
                {"role":"user","content":text("a")},{"role":"user","content":audio},
                {"role":"assistant","content":text("b")},{"role":"user","content":text("")}
            ])
        );
        assert_eq!(asked("sampling/createMessage", &given, OLDEST).unwrap()["messages"][1]["content"]["type"], "text");
        assert_eq!(asked("sampling/createMessage", &given, Revision::V20251125), Ok(given));
        let tools = json!({"messages":[{"role":"user","content":[{"type":"tool_result"}]}]});
        assert_eq!(asked("sampling/createMessage", &tools, Revision::V20250618), Err(Unaskable::ToolUse));
    }
}
