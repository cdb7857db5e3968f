//! What a legacy server asks of its client while a call is open, as a modern client is asked: input requests within an
//! `input_required` result, and the answers that come with the next call. (B5, B6, B8, B9; E165–E179)

use crate::bridge::{delete, object_of, offered, quoted};
use crate::era::Era;
use crate::message::{Message, Shape};
use crate::method;
use crate::scan::{self, Kind, Place, Span};
use crate::splice::{Splice, append_flat};

const RELATED_TASK: &str = "io.modelcontextprotocol/related-task";
const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";

/// What a client must be able to do to answer a request of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// `roots/list`
    Roots,
    /// `sampling/createMessage`
    Sampling {
        /// The model may use tools: `sampling.tools`. (E200)
        tools: bool,
        /// Context of servers is to be included: `sampling.context`.
        context: bool,
    },
    /// `elicitation/create` as a form.
    Form,
    /// `elicitation/create` by a URL.
    Url,
    /// `elicitation/create` in a mode that no revision has.
    UnknownMode,
}

impl Need {
    /// What a request of a server needs; `None` where no client is asked such a thing.
    pub fn of(message: &Message) -> Option<Self> {
        match message.method() {
            "roots/list" => Some(Self::Roots),
            "sampling/createMessage" => Some(Self::sampling(message)),
            "elicitation/create" => Some(match message.text(Place::Params, "mode").as_deref() {
                Some("form") => Self::Form,
                Some("url") => Self::Url,
                Some(_) => Self::UnknownMode,
                None if message.member(Place::Params, "mode").is_some() => Self::UnknownMode,
                None => Self::Form,
            }),
            _ => None,
        }
    }

    fn sampling(message: &Message) -> Self {
        let given = |name| message.member(Place::Params, name).is_some_and(|member| member.kind != Kind::Null);
        let included = message.text(Place::Params, "includeContext");
        Self::Sampling {
            tools: given("tools") || given("toolChoice"),
            context: included.is_some_and(|what| matches!(&*what, "thisServer" | "allServers")),
        }
    }

    /// Whether a client of `era` that declared these capabilities (accepted JSON) can be asked. An empty `elicitation` is
    /// the form alone (E196). Legacy clients of older revisions had no word for context, so it is not asked for there.
    pub fn met_by(self, capabilities: &[u8], era: Era) -> bool {
        let Some(feature) = declared(capabilities, Span::all(capabilities), self.feature()) else { return false };
        let has = |name| declared(capabilities, feature, name).is_some();
        match self {
            Self::Roots => true,
            Self::Sampling { tools, context } => {
                (!tools || has("tools")) && (!context || era == Era::Legacy || has("context"))
            }
            Self::Form => has("form") || !has("url"),
            Self::Url => has("url"),
            Self::UnknownMode => false,
        }
    }

    /// The capability that stands for it.
    pub fn feature(self) -> &'static str {
        match self {
            Self::Roots => "roots",
            Self::Sampling { .. } => "sampling",
            Self::Form | Self::Url | Self::UnknownMode => "elicitation",
        }
    }
}

/// A capability that is there; `null` and `false` are none.
fn declared(bytes: &[u8], object: Span, name: &str) -> Option<Span> {
    if bytes.get(object.start) != Some(&b'{') {
        return None;
    }
    let found = scan::member(bytes, object, name).filter(|(_, kind)| !matches!(kind, Kind::Null | Kind::False));
    found.map(|(span, _)| span)
}

/// What a modern client can do, as a legacy process is told once: canonical, without tasks (also the extension) and
/// without `roots.listChanged`, which nobody could send. `raw` is an accepted JSON object. (B4)
pub fn profile(raw: &[u8]) -> Vec<u8> {
    let kept = offered(raw);
    scan::canonical(&kept, Span::all(&kept))
}

/// A request of a legacy server as an input request: its method and params without what only the server's own connection
/// understands (progress token, related task, `task`, `elicitationId`); every other byte as it came.
pub fn input_request(message: &Message) -> Vec<u8> {
    let mut out = b"{\"method\":".to_vec();
    out.extend(quoted(message.method()));
    if let Some(params) = message.object(Place::Params) {
        let mut splice = Splice::new();
        let bytes = message.bytes();
        delete(&mut splice, bytes, params, "task");
        delete(&mut splice, bytes, params, "elicitationId");
        strip_meta(&mut splice, message, params);
        out.extend_from_slice(b",\"params\":");
        splice.write(bytes, params, &mut out);
    } else if message.method() != "roots/list" {
        out.extend_from_slice(b",\"params\":{}");
    }
    out.push(b'}');
    out
}

fn strip_meta(splice: &mut Splice, message: &Message, params: Span) {
    let Some(meta) = message.object(Place::Meta) else { return };
    let own = |name: &str| matches!(name, "progressToken" | RELATED_TASK);
    let stays = scan::members(message.bytes(), meta).any(|(key, ..)| !own(&scan::text(message.bytes(), key)));
    if !stays {
        return delete(splice, message.bytes(), params, "_meta");
    }
    delete(splice, message.bytes(), meta, "progressToken");
    delete(splice, message.bytes(), meta, RELATED_TASK);
}

/// The task that a server's request belongs to, where it says so. (E211)
pub fn related_task(message: &Message) -> Option<String> {
    let related = message.member(Place::Meta, RELATED_TASK).filter(|member| member.kind == Kind::Object)?;
    let (id, kind) = scan::member(message.bytes(), related.value, "taskId")?;
    (kind == Kind::String).then(|| scan::text(message.bytes(), id).into_owned())
}

/// An `input_required` answer to request `id`: requests by key, and the state that comes back with the answers. (E9, E166)
pub fn input_required(id: &[u8], requests: &[(String, Vec<u8>)], state: &str, server_info: Option<&[u8]>) -> Vec<u8> {
    let named: Vec<(&str, Vec<u8>)> = requests.iter().map(|(key, request)| (key.as_str(), request.clone())).collect();
    let mut members = vec![
        ("resultType", quoted("input_required")),
        ("inputRequests", object_of(&named)),
        ("requestState", quoted(state)),
    ];
    members.extend(server_info.map(|info| ("_meta", object_of(&[(SERVER_INFO, info.to_vec())]))));
    let mut out = b"{\"jsonrpc\":\"2.0\",\"id\":".to_vec();
    out.extend_from_slice(id);
    out.extend_from_slice(b",\"result\":");
    out.extend(object_of(&members));
    out.push(b'}');
    out
}

/// `inputResponses` is no object of objects. (E176)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The answers that come with a request, by key; none where it brings none.
pub fn answers(message: &Message) -> Result<Vec<(String, Span)>, Malformed> {
    let Some(responses) = message.noted(Place::Params, "inputResponses") else { return Ok(Vec::new()) };
    if responses.kind != Kind::Object {
        return Err(Malformed);
    }
    scan::members(message.bytes(), responses.value)
        .map(|(key, value, kind)| match kind {
            Kind::Object => Ok((scan::text(message.bytes(), key).into_owned(), value)),
            _ => Err(Malformed),
        })
        .collect()
}

/// The state that a retry brings: the raw value of `requestState` decoded. `Some(None)` where it is no string.
pub fn state(message: &Message) -> Option<Option<String>> {
    let state = message.noted(Place::Params, "requestState")?;
    Some((state.kind == Kind::String).then(|| scan::text(message.bytes(), state.value).into_owned()))
}

/// Whether a request's result may be `input_required`. (E165)
pub fn may_ask(message: &Message) -> bool {
    message.shape() == Shape::Request && method::find(message.method()).is_some_and(|row| row.multi_round)
}

/// The URL elicitations that a legacy server wants done before the call is sent again (-32042), as input requests without
/// `elicitationId`. `None` where it names none, or something else. (B6)
pub fn url_elicitations(message: &Message) -> Option<Vec<Vec<u8>>> {
    let bytes = message.bytes();
    let data = message.member(Place::Error, "data").filter(|data| data.kind == Kind::Object)?;
    let (all, kind) = scan::member(bytes, data.value, "elicitations")?;
    if kind != Kind::Array {
        return None;
    }
    let requests: Option<Vec<Vec<u8>>> =
        scan::elements(bytes, all).map(|(one, kind)| url_elicitation(bytes, one, kind)).collect();
    requests.filter(|requests| !requests.is_empty())
}

fn url_elicitation(bytes: &[u8], one: Span, kind: Kind) -> Option<Vec<u8>> {
    if kind != Kind::Object {
        return None;
    }
    let is_text = |name| scan::member(bytes, one, name).is_some_and(|(_, kind)| kind == Kind::String);
    let url_mode = scan::member(bytes, one, "mode").is_none_or(|(mode, _)| scan::text(bytes, mode) == "url");
    if !is_text("url") || !is_text("message") || !url_mode {
        return None;
    }
    let mut splice = Splice::new();
    delete(&mut splice, bytes, one, "elicitationId");
    if scan::member(bytes, one, "mode").is_none() {
        splice.add_member(bytes, one, "mode", b"\"url\"");
    }
    let mut out = b"{\"method\":\"elicitation/create\",\"params\":".to_vec();
    splice.write(bytes, one, &mut out);
    out.push(b'}');
    Some(out)
}

/// `notifications/progress` for a request of the server, one line: somebody still works on the answer. (B20)
pub fn progress_line(token: &[u8], step: u32) -> Vec<u8> {
    let mut line =
        b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":".to_vec();
    append_flat(&mut line, token);
    line.extend_from_slice(b",\"progress\":");
    line.extend_from_slice(step.to_string().as_bytes());
    line.extend_from_slice(b",\"message\":\"waiting for the client\"}}\n");
    line
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

    fn asked(method: &str, params: &Value) -> Message {
        message(&json!({"jsonrpc":"2.0","id":0,"method":method,"params":params}), Side::Server)
    }

    fn parsed(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn e169_e196_e200_nobody_is_asked_what_he_did_not_declare() {
        let form = asked("elicitation/create", &json!({"message":"m","requestedSchema":{}}));
        let url = asked("elicitation/create", &json!({"mode":"url","message":"m","url":"u"}));
        let odd = asked("elicitation/create", &json!({"mode":7}));
        let plain = asked("sampling/createMessage", &json!({"messages":[],"tools":null}));
        let tools = asked("sampling/createMessage", &json!({"messages":[],"tools":[]}));
        let choice = asked("sampling/createMessage", &json!({"toolChoice":{}}));
        let context = asked("sampling/createMessage", &json!({"includeContext":"thisServer"}));
        let none = asked("sampling/createMessage", &json!({"includeContext":"none"}));
        let roots = asked("roots/list", &json!({}));
        for (ask, capabilities, able) in [
            (&form, json!({"elicitation":{}}), true),
            (&form, json!({"elicitation":{"form":{}}}), true),
            (&form, json!({"elicitation":{"url":{}}}), false),
            (&form, json!({"elicitation":{"form":{},"url":{}}}), true),
            (&form, json!({"elicitation":null}), false),
            (&form, json!({"sampling":{},"roots":{}}), false),
            (&url, json!({"elicitation":{}}), false),
            (&url, json!({"elicitation":{"form":{}}}), false),
            (&url, json!({"elicitation":{"url":{}}}), true),
            (&odd, json!({"elicitation":{"form":{},"url":{}}}), false),
            (&plain, json!({"sampling":{}}), true),
            (&plain, json!({}), false),
            (&tools, json!({"sampling":{}}), false),
            (&tools, json!({"sampling":{"tools":{}}}), true),
            (&choice, json!({"sampling":{"context":{}}}), false),
            (&context, json!({"sampling":{"tools":{}}}), false),
            (&context, json!({"sampling":{"context":{}}}), true),
            (&none, json!({"sampling":{}}), true),
            (&roots, json!({"roots":{}}), true),
            (&roots, json!({"roots":false}), false),
        ] {
            let need = Need::of(ask).unwrap();
            assert_eq!(need.met_by(capabilities.to_string().as_bytes(), Era::Modern), able, "{need:?} {capabilities}");
        }
        assert!(Need::of(&context).unwrap().met_by(br#"{"sampling":{}}"#, Era::Legacy));
        assert_eq!(Need::of(&asked("ping", &json!({}))), None);
    }

    #[test]
    fn b4_a_profile_is_canonical_and_without_tasks() {
        let raw = json!({
            "tasks":{"list":{}},"sampling":{"tools":{}},"roots":{"listChanged":true},
            "extensions":{"io.modelcontextprotocol/tasks":{},"v/y":{"a":1.0}},"elicitation":{"url":{},"form":{}}
        });
        let spaced = serde_json::to_string_pretty(&raw).unwrap();
        let expected =
            r#"{"elicitation":{"form":{},"url":{}},"extensions":{"v/y":{"a":1.0}},"roots":{},"sampling":{"tools":{}}}"#;
        assert_eq!(String::from_utf8(profile(spaced.as_bytes())).unwrap(), expected);
        assert_eq!(profile(b"{ }"), b"{}");
    }

    #[test]
    fn b8_an_input_request_keeps_what_is_not_the_connections_own() {
        let ask = asked(
            "elicitation/create",
            &json!({"message":"m","mode":"url","url":"u","elicitationId":"e","task":{"ttl":1},"x":[1.50],
                "_meta":{"progressToken":0,"io.modelcontextprotocol/related-task":{"taskId":"t"},"v/k":1}}),
        );
        let expected = json!({"method":"elicitation/create","params":{"message":"m","mode":"url","url":"u","x":[1.5],"_meta":{"v/k":1}}});
        assert_eq!(parsed(&input_request(&ask)), expected);
        assert_eq!(related_task(&ask).as_deref(), Some("t"));
        let bare = asked("roots/list", &json!({"_meta":{"progressToken":"a"}}));
        assert_eq!(parsed(&input_request(&bare)), json!({"method":"roots/list","params":{}}));
        assert_eq!(related_task(&bare), None);
        let none = message(&json!({"jsonrpc":"2.0","id":0,"method":"roots/list"}), Side::Server);
        assert_eq!(parsed(&input_request(&none)), json!({"method":"roots/list"}));
    }

    #[test]
    fn e9_e166_an_input_required_result() {
        let requests = vec![("r1_1".to_owned(), b"{\"method\":\"roots/list\"}".to_vec())];
        let body = input_required(b"\"i\"", &requests, "v1.x", Some(b"{\"name\":\"s\"}"));
        let expected = json!({"jsonrpc":"2.0","id":"i","result":{
            "resultType":"input_required","inputRequests":{"r1_1":{"method":"roots/list"}},"requestState":"v1.x",
            "_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s"}}
        }});
        assert_eq!(parsed(&body), expected);
    }

    #[test]
    fn e175_e176_answers_are_objects_by_key() {
        let call = |responses: &Value| {
            let params = json!({"name":"t","inputResponses":responses});
            message(&json!({"jsonrpc":"2.0","id":1,"method":"tools/call","params":params}), Side::Client)
        };
        let good = call(&json!({"r1_1":{"action":"accept"},"other":{}}));
        let found = answers(&good).unwrap();
        assert_eq!(found.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["other", "r1_1"]);
        assert_eq!(good.raw(found[1].1), br#"{"action":"accept"}"#);
        for bad in [json!([]), json!("x"), json!(null), json!({"r1_1":"accept"}), json!({"r1_1":null})] {
            assert_eq!(answers(&call(&bad)), Err(Malformed), "{bad}");
        }
        let none = message(&json!({"jsonrpc":"2.0","id":1,"method":"tools/call"}), Side::Client);
        assert_eq!(answers(&none), Ok(Vec::new()));
        assert_eq!(state(&none), None);
    }

    #[test]
    fn b6_url_elicitations_of_an_error() {
        let error = |data: &Value| {
            message(&json!({"jsonrpc":"2.0","id":1,"error":{"code":-32042,"message":"m","data":data}}), Side::Server)
        };
        let found = url_elicitations(&error(&json!({"elicitations":[
            {"mode":"url","elicitationId":"e","url":"https://x","message":"m"},{"url":"https://y","message":"n"}
        ]})));
        let found: Vec<Value> = found.unwrap().iter().map(|one| parsed(one)).collect();
        let expect = |url: &str, text: &str| json!({"method":"elicitation/create","params":{"mode":"url","url":url,"message":text}});
        assert_eq!(found, [expect("https://x", "m"), expect("https://y", "n")]);
        for bad in [
            json!({}),
            json!({"elicitations":[]}),
            json!({"elicitations":{}}),
            json!({"elicitations":[{"url":"https://x","message":"m"},"y"]}),
            json!({"elicitations":[{"mode":"form","url":"https://x","message":"m"}]}),
            json!({"elicitations":[{"mode":"url","message":"m"}]}),
        ] {
            assert_eq!(url_elicitations(&error(&bad)), None, "{bad}");
        }
    }

    #[test]
    fn b20_a_keep_alive_is_one_line() {
        let line = progress_line(b"\"t\"", 3);
        assert!(line.ends_with(b"\n"));
        assert_eq!(parsed(&line)["params"]["progressToken"], "t");
        assert_eq!(parsed(&line)["params"]["progress"], 3);
    }
}
