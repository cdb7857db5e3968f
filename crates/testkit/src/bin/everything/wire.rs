//! JSON-RPC as this server reads and writes it. Ids and progress tokens are kept as they were spelled.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::io::Write;
use std::sync::Mutex;

/// One JSON object.
pub(crate) type Object = Map<String, Value>;

/// A message from the other side: a request, a notification or an answer.
#[derive(Debug, Deserialize)]
pub(crate) struct Incoming {
    #[serde(default)]
    jsonrpc: String,
    /// `Some` when the member is there, even if it is null.
    #[serde(default, deserialize_with = "present")]
    pub(crate) id: Option<Box<RawValue>>,
    pub(crate) method: Option<String>,
    #[serde(default)]
    pub(crate) params: Params,
    pub(crate) result: Option<Value>,
    pub(crate) error: Option<Value>,
}

fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(from).map(Some)
}

impl Incoming {
    /// One message. Batches, null ids and anything that is not JSON-RPC 2.0 are errors.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, RpcError> {
        let text = std::str::from_utf8(text).map_err(|e| RpcError::new(-32700, format!("not UTF-8: {e}")))?;
        let incoming: Self = serde_json::from_str(text).map_err(|e| match e.classify() {
            serde_json::error::Category::Data => RpcError::new(-32600, format!("not a JSON-RPC message: {e}")),
            _ => RpcError::new(-32700, format!("not JSON: {e}")),
        })?;
        if incoming.jsonrpc != "2.0" {
            return Err(RpcError::new(-32600, "the member jsonrpc must be \"2.0\""));
        }
        let good_id =
            |id: &RawValue| id.get().starts_with(['"', '-']) || id.get().starts_with(|c: char| c.is_ascii_digit());
        if incoming.id.as_deref().is_some_and(|id| !good_id(id)) {
            return Err(RpcError::new(-32600, "an id must be a string or an integer"));
        }
        Ok(incoming)
    }
}

/// The `params` of a message, with the members that must keep their spelling beside the parsed ones.
#[derive(Debug, Default, Deserialize)]
#[serde(try_from = "Box<RawValue>")]
pub(crate) struct Params {
    /// All members, parsed.
    pub(crate) members: Object,
    /// `arguments` as it was written.
    pub(crate) arguments: Option<Box<RawValue>>,
    /// `requestId` of a cancellation as it was written.
    pub(crate) request_id: Option<Box<RawValue>>,
    /// `_meta.progressToken` as it was written.
    pub(crate) progress_token: Option<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
struct Spelled {
    arguments: Option<Box<RawValue>>,
    #[serde(rename = "requestId")]
    request_id: Option<Box<RawValue>>,
    #[serde(rename = "_meta")]
    meta: Option<SpelledMeta>,
}

#[derive(Debug, Deserialize)]
struct SpelledMeta {
    #[serde(rename = "progressToken")]
    progress_token: Option<Box<RawValue>>,
}

impl TryFrom<Box<RawValue>> for Params {
    type Error = serde_json::Error;

    fn try_from(raw: Box<RawValue>) -> Result<Self, serde_json::Error> {
        let members = serde_json::from_str(raw.get())?;
        let spelled: Spelled = serde_json::from_str(raw.get())?;
        let progress_token = spelled.meta.and_then(|meta| meta.progress_token);
        Ok(Self { members, arguments: spelled.arguments, request_id: spelled.request_id, progress_token })
    }
}

impl Params {
    /// A member that must be text.
    pub(crate) fn text(&self, name: &str) -> Result<&str, RpcError> {
        let found = self.members.get(name).and_then(Value::as_str);
        found.ok_or_else(|| RpcError::new(-32602, format!("params.{name} must be a string")))
    }

    /// A member of `arguments`, or null.
    pub(crate) fn argument(&self, name: &str) -> &Value {
        self.members.get("arguments").and_then(|arguments| arguments.get(name)).unwrap_or(&Value::Null)
    }

    /// A member of `_meta`.
    pub(crate) fn meta(&self, name: &str) -> Option<&Value> {
        self.members.get("_meta")?.get(name)
    }
}

/// A JSON-RPC error.
#[derive(Debug, Serialize)]
pub(crate) struct RpcError {
    code: i32,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

impl RpcError {
    pub(crate) fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    pub(crate) fn with_data(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }
}

/// What a method answers: members of the result, and `structuredContent` where its spelling must survive.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Reply {
    #[serde(flatten)]
    pub(crate) members: Object,
    #[serde(rename = "structuredContent", skip_serializing_if = "Option::is_none")]
    pub(crate) structured: Option<Box<RawValue>>,
}

impl From<Value> for Reply {
    /// A reply of an object's members; any other value becomes the empty result.
    fn from(value: Value) -> Self {
        let members = if let Value::Object(members) = value { members } else { Object::new() };
        Self { members, structured: None }
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    jsonrpc: &'static str,
    id: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a Reply>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a RpcError>,
}

/// stdout: whole lines, one writer at a time.
#[derive(Debug, Default)]
pub(crate) struct Output {
    turn: Mutex<()>,
}

impl Output {
    pub(crate) fn result(&self, id: &RawValue, reply: &Reply) {
        self.line(&Answer { jsonrpc: "2.0", id: Some(id), result: Some(reply), error: None });
    }

    pub(crate) fn error(&self, id: Option<&RawValue>, error: &RpcError) {
        self.line(&Answer { jsonrpc: "2.0", id, result: None, error: Some(error) });
    }

    pub(crate) fn request(&self, id: u64, method: &str, params: &Value) {
        self.line(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
    }

    pub(crate) fn notify(&self, method: &str, params: &impl Serialize) {
        #[derive(Serialize)]
        struct Notification<'a, P> {
            jsonrpc: &'static str,
            method: &'a str,
            params: &'a P,
        }
        self.line(&Notification { jsonrpc: "2.0", method, params });
    }

    /// Writes one message. When the reader is gone there is nobody to tell; stdin will end soon.
    fn line(&self, message: &impl Serialize) {
        let Ok(mut bytes) = serde_json::to_vec(message) else { return };
        bytes.push(b'\n');
        let _turn = crate::process::lock(&self.turn);
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(&bytes).and_then(|()| out.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::{Incoming, Reply};

    #[test]
    fn ids_and_tokens_keep_their_spelling() {
        let text = br#"{"jsonrpc":"2.0","id":12345678901234567890123,"method":"m","params":{"_meta":{"progressToken":0},"arguments":{"n":1.10}}}"#;
        let incoming = Incoming::parse(text).unwrap();
        assert_eq!(incoming.id.unwrap().get(), "12345678901234567890123");
        assert_eq!(incoming.params.progress_token.unwrap().get(), "0");
        assert_eq!(incoming.params.arguments.unwrap().get(), r#"{"n":1.10}"#);
    }

    #[test]
    fn what_is_not_a_message_is_refused() {
        for (text, code) in [
            (r#"{"jsonrpc":"2.0","id":null,"method":"m"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":[1],"method":"m"}"#, -32600),
            (r#"{"id":1,"method":"m"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":"m","params":7}"#, -32600),
            (r#"[{"jsonrpc":"2.0","id":1,"method":"m"}]"#, -32600),
            (r#"{"jsonrpc":"2.0","#, -32700),
            ("hello", -32700),
        ] {
            assert_eq!(Incoming::parse(text.as_bytes()).unwrap_err().code, code, "{text}");
        }
    }

    #[test]
    fn structured_content_is_written_as_it_was_read() {
        let raw = serde_json::from_str(r#"{"big":1234567890123456789012345,"d":1.10}"#).unwrap();
        let reply = Reply { structured: Some(raw), ..Reply::from(serde_json::json!({"content": []})) };
        let text = serde_json::to_string(&reply).unwrap();
        assert_eq!(text, r#"{"content":[],"structuredContent":{"big":1234567890123456789012345,"d":1.10}}"#);
    }
}
