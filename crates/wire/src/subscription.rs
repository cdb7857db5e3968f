//! `subscriptions/listen` and its notifications, and the requests of older revisions that mean the same. (B16, B17; E155–E163)

use crate::bridge;
use crate::code;
use crate::era::Revision;
use crate::greeting::Greeting;
use crate::message::Message;
use crate::scan::{self, Kind, Place};
use crate::splice::Splice;

const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// Most resources of one listen. What is more is not honoured.
pub const MOST_URIS: usize = 1024;

/// A kind of list that can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum List {
    /// Tools.
    Tools,
    /// Prompts.
    Prompts,
    /// Resources.
    Resources,
}

impl List {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tools, Self::Prompts, Self::Resources];

    /// The kind that a notification says has changed.
    pub fn of_notification(method: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|list| list.notification() == method)
    }

    /// The capability that it belongs to.
    pub fn feature(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
        }
    }

    fn notification(self) -> &'static str {
        match self {
            Self::Tools => "notifications/tools/list_changed",
            Self::Prompts => "notifications/prompts/list_changed",
            Self::Resources => "notifications/resources/list_changed",
        }
    }

    fn filter(self) -> &'static str {
        match self {
            Self::Tools => "toolsListChanged",
            Self::Prompts => "promptsListChanged",
            Self::Resources => "resourcesListChanged",
        }
    }
}

/// What a listen asks for, or what was promised to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Lists whose changes are told.
    pub lists: Vec<List>,
    /// Resources whose updates are told.
    pub uris: Vec<String>,
}

impl Filter {
    /// From `params.notifications` of a listen or of its acknowledgement. `None` where that is no object, or has a member of
    /// the wrong type.
    pub fn read(message: &Message) -> Option<Self> {
        let bytes = message.bytes();
        let filter = message.member(Place::Params, "notifications").filter(|filter| filter.kind == Kind::Object)?.value;
        let mut found = Self::default();
        for list in List::ALL {
            match scan::member(bytes, filter, list.filter()) {
                Some((_, Kind::True)) => found.lists.push(list),
                None | Some((_, Kind::False | Kind::Null)) => {}
                Some(_) => return None,
            }
        }
        match scan::member(bytes, filter, "resourceSubscriptions") {
            Some((uris, Kind::Array)) => {
                for (uri, kind) in scan::elements(bytes, uris) {
                    if kind != Kind::String {
                        return None;
                    }
                    let uri = scan::text(bytes, uri).into_owned();
                    if found.uris.len() < MOST_URIS && !found.uris.contains(&uri) {
                        found.uris.push(uri);
                    }
                }
            }
            None | Some((_, Kind::Null)) => {}
            Some(_) => return None,
        }
        Some(found)
    }

    /// The part of it that a server can keep that greeted so.
    #[must_use]
    pub fn kept_by(mut self, greeting: &Greeting) -> Self {
        self.lists.retain(|list| greeting.declares(list.feature(), "listChanged"));
        if !greeting.declares("resources", "subscribe") {
            self.uris.clear();
        }
        self
    }

    fn write(&self) -> Vec<u8> {
        let mut members: Vec<(&str, Vec<u8>)> =
            self.lists.iter().map(|list| (list.filter(), b"true".to_vec())).collect();
        if !self.uris.is_empty() {
            let mut uris = vec![b'['];
            for (index, uri) in self.uris.iter().enumerate() {
                uris.extend_from_slice(if index > 0 { b"," } else { b"" });
                scan::write_text(&mut uris, uri);
            }
            uris.push(b']');
            members.push(("resourceSubscriptions", uris));
        }
        bridge::object_of(&members)
    }
}

/// Whether an update of `uri` concerns who asked for `wanted`: the resource itself, or one below it. A name that only begins
/// alike is another resource. (E163)
pub fn covers(wanted: &str, uri: &str) -> bool {
    uri.strip_prefix(wanted)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '#']) || wanted.ends_with('/'))
}

/// Whether a notification is the first word on a listen. (E155)
pub fn is_acknowledgement(message: &Message) -> bool {
    message.method() == "notifications/subscriptions/acknowledged"
}

/// The first word on a client's listen: what it will hear. `id` is the listen's id as the client spelled it. (E155, E157)
pub fn acknowledgement(id: &[u8], honoured: &Filter) -> Vec<u8> {
    let params = bridge::object_of(&[("_meta", meta(id)), ("notifications", honoured.write())]);
    notification("notifications/subscriptions/acknowledged", &params)
}

/// A list has changed, for a session, or for the listen with this id.
pub fn list_changed(list: List, id: Option<&[u8]>) -> Vec<u8> {
    let params = id.map_or_else(|| b"{}".to_vec(), |id| bridge::object_of(&[("_meta", meta(id))]));
    notification(list.notification(), &params)
}

/// A resource was updated, for a session, or for the listen with this id.
pub fn updated(uri: &str, id: Option<&[u8]>) -> Vec<u8> {
    let mut members = vec![("uri", bridge::quoted(uri))];
    members.extend(id.map(|id| ("_meta", meta(id))));
    notification("notifications/resources/updated", &bridge::object_of(&members))
}

/// A server's notification as the listen with this id hears it: the rest of it verbatim. (E157)
pub fn tagged(message: &Message, id: &[u8]) -> Vec<u8> {
    let bytes = message.bytes();
    let mut splice = Splice::new();
    let params = message.member(Place::Root, "params");
    match (message.object(Place::Meta), message.object(Place::Params), params) {
        (Some(object), ..) => {
            bridge::delete(&mut splice, bytes, object, SUBSCRIPTION);
            splice.add_member(bytes, object, SUBSCRIPTION, id);
        }
        (None, Some(params), _) => {
            bridge::delete(&mut splice, bytes, params, "_meta");
            splice.add_member(bytes, params, "_meta", &meta(id));
        }
        (None, None, Some(no_object)) => splice.replace(no_object.value, bridge::object_of(&[("_meta", meta(id))])),
        (None, None, None) => {
            let params = bridge::object_of(&[("_meta", meta(id))]);
            splice.add_member(bytes, message.scan().root(), "params", &params);
        }
    }
    written(splice, message)
}

/// A modern server's notification as a session hears it: without the name of our listen.
pub fn untagged(message: &Message) -> Vec<u8> {
    let mut splice = Splice::new();
    if let (Some(meta), Some(params)) = (message.object(Place::Meta), message.object(Place::Params)) {
        let bytes = message.bytes();
        if scan::members(bytes, meta).all(|(key, ..)| scan::text(bytes, key) == SUBSCRIPTION) {
            bridge::delete(&mut splice, bytes, params, "_meta");
        } else {
            bridge::delete(&mut splice, bytes, meta, SUBSCRIPTION);
        }
    }
    written(splice, message)
}

/// The answer to a listen that the server's side ends. (E158)
pub fn end(id: &[u8]) -> Vec<u8> {
    let result = bridge::object_of(&[("resultType", bridge::quoted("complete")), ("_meta", meta(id))]);
    let mut out = b"{\"jsonrpc\":\"2.0\",\"id\":".to_vec();
    out.extend_from_slice(id);
    out.extend_from_slice(b",\"result\":");
    out.extend_from_slice(&result);
    out.push(b'}');
    out
}

/// A listen of ours at a modern server, one line. `stated` is what staithe says about itself.
pub fn listen_line(line: &mut Vec<u8>, upstream_id: u64, filter: &Filter, client_info: &[u8]) {
    let meta = bridge::object_of(&[
        ("io.modelcontextprotocol/protocolVersion", bridge::quoted(Revision::MODERN.as_str())),
        ("io.modelcontextprotocol/clientInfo", client_info.to_vec()),
        ("io.modelcontextprotocol/clientCapabilities", b"{}".to_vec()),
    ]);
    request(
        line,
        upstream_id,
        "subscriptions/listen",
        &bridge::object_of(&[("_meta", meta), ("notifications", filter.write())]),
    );
}

/// `resources/subscribe` or `resources/unsubscribe` at a legacy server, one line.
pub fn subscribe_line(line: &mut Vec<u8>, upstream_id: u64, uri: &str, wanted: bool) {
    let method = if wanted { "resources/subscribe" } else { "resources/unsubscribe" };
    request(line, upstream_id, method, &bridge::object_of(&[("uri", bridge::quoted(uri))]));
}

/// The error of a legacy server that has no such resource, for the request with this id.
pub fn no_such_resource(id: &[u8], uri: &str) -> Vec<u8> {
    let mut data = b"{\"uri\":".to_vec();
    scan::write_text(&mut data, uri);
    data.push(b'}');
    let data = String::from_utf8(data).ok();
    code::error_body(
        Some(id),
        code::RESOURCE_NOT_FOUND,
        "The server does not tell updates of this resource",
        data.as_deref(),
    )
}

fn request(line: &mut Vec<u8>, id: u64, method: &str, params: &[u8]) {
    line.extend_from_slice(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":"#).as_bytes());
    line.extend_from_slice(params);
    line.extend_from_slice(b"}\n");
}

fn notification(method: &str, params: &[u8]) -> Vec<u8> {
    let mut out = format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":"#).into_bytes();
    out.extend_from_slice(params);
    out.push(b'}');
    out
}

fn meta(id: &[u8]) -> Vec<u8> {
    bridge::object_of(&[(SUBSCRIPTION, id.to_vec())])
}

fn written(splice: Splice, message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    splice.write(message.bytes(), message.scan().root(), &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::era::Era;
    use crate::scan::{Limits, Side};
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const LIMITS: Limits = Limits { bytes: 1 << 20, depth: 64 };

    fn server(value: &Value) -> Message {
        Message::parse(Bytes::from(value.to_string()), Side::Server, &LIMITS).unwrap()
    }

    fn parsed(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    fn listen(notifications: &Value) -> Option<Filter> {
        Filter::read(&server(
            &json!({"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{"notifications":notifications}}),
        ))
    }

    #[test]
    fn e156_a_filter_is_what_was_asked_for_and_nothing_else() {
        let filter = listen(&json!({"toolsListChanged":true,"promptsListChanged":false,"resourceSubscriptions":["a:b","a:b","a:c"],"more":1})).unwrap();
        assert_eq!(filter, Filter { lists: vec![List::Tools], uris: vec!["a:b".into(), "a:c".into()] });
        assert_eq!(listen(&json!({})).unwrap(), Filter::default());
        for bad in [
            json!([]),
            json!({"toolsListChanged":1}),
            json!({"resourceSubscriptions":"a"}),
            json!({"resourceSubscriptions":[1]}),
        ] {
            assert!(listen(&bad).is_none(), "{bad}");
        }
        let many: Vec<String> = (0..2000).map(|n| format!("a:{n}")).collect();
        assert_eq!(listen(&json!({"resourceSubscriptions":many})).unwrap().uris.len(), MOST_URIS);
    }

    #[test]
    fn e155_only_what_the_server_declares_is_honoured() {
        let greeting = |capabilities: Value| {
            let result = json!({"protocolVersion":"2025-11-25","capabilities":capabilities});
            Greeting::new(Era::Legacy, Bytes::from(result.to_string())).unwrap()
        };
        let all = Filter { lists: List::ALL.to_vec(), uris: vec!["a:b".into()] };
        let kept = all.clone().kept_by(&greeting(
            json!({"tools":{"listChanged":true},"prompts":{"listChanged":false},"resources":{"subscribe":true}}),
        ));
        assert_eq!(kept, Filter { lists: vec![List::Tools], uris: vec!["a:b".into()] });
        assert_eq!(all.kept_by(&greeting(json!({"resources":{"listChanged":true}}))).uris, Vec::<String>::new());
    }

    #[test]
    fn e157_everything_on_a_listen_carries_its_id_as_it_was_spelled() {
        let honoured = Filter { lists: vec![List::Resources], uris: vec!["a:\"b".into()] };
        for id in ["1", "\"1\"", "9007199254740993", r#""\u0031""#] {
            let raw = id.as_bytes();
            let note =
                server(&json!({"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a:b"}}));
            for body in [
                acknowledgement(raw, &honoured),
                list_changed(List::Tools, Some(raw)),
                updated("a:b", Some(raw)),
                tagged(&note, raw),
                end(raw),
            ] {
                let text = String::from_utf8(body).unwrap();
                assert!(text.contains(&format!(r#""io.modelcontextprotocol/subscriptionId":{id}"#)), "{text}");
                assert!(serde_json::from_str::<Value>(&text).is_ok(), "{text}");
            }
        }
        let ack = parsed(&acknowledgement(b"1", &honoured));
        assert_eq!(
            ack["params"]["notifications"],
            json!({"resourcesListChanged":true,"resourceSubscriptions":["a:\"b"]})
        );
    }

    #[test]
    fn a_tag_comes_and_goes_and_the_rest_stays() {
        for params in [
            None,
            Some(json!({})),
            Some(json!({"_meta":null})),
            Some(json!({"_meta":{}})),
            Some(json!({"_meta":{"k":1},"uri":"a:b"})),
            Some(json!([])),
        ] {
            let mut value = json!({"jsonrpc":"2.0","method":"notifications/tools/list_changed"});
            if let Some(params) = &params {
                value["params"] = params.clone();
            }
            let tagged = parsed(&tagged(&server(&value), b"\"i\""));
            assert_eq!(tagged["params"]["_meta"][SUBSCRIPTION], "i", "{value}");
            let back = parsed(&untagged(&server(&tagged)));
            assert!(!back.to_string().contains("subscriptionId"), "{back}");
            assert_eq!(back["params"]["uri"], value["params"]["uri"]);
            assert_eq!(back["params"]["_meta"]["k"], value["params"]["_meta"]["k"]);
        }
    }

    #[test]
    fn e163_a_resource_and_what_lies_below_it() {
        for (wanted, uri, is) in [
            ("file:///a", "file:///a", true),
            ("file:///a", "file:///a/b", true),
            ("file:///a", "file:///a#part", true),
            ("file:///a/", "file:///a/b", true),
            ("file:///", "file:///a", true),
            ("file:///a", "file:///ab", false),
            ("file:///a", "file:///a?x", false),
            ("file:///a/b", "file:///a", false),
            ("file:///A", "file:///a", false),
        ] {
            assert_eq!(covers(wanted, uri), is, "{wanted} {uri}");
        }
    }

    #[test]
    fn lines_for_servers() {
        let mut line = Vec::new();
        listen_line(&mut line, 7, &Filter { lists: vec![List::Tools], uris: vec![] }, b"{\"name\":\"s\"}");
        assert!(line.ends_with(b"}\n"));
        let value = parsed(&line);
        assert_eq!((&value["id"], &value["params"]["notifications"]), (&json!(7), &json!({"toolsListChanged":true})));
        assert_eq!(value["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
        let mut line = Vec::new();
        subscribe_line(&mut line, 8, "a:\n", false);
        assert_eq!(
            parsed(&line),
            json!({"jsonrpc":"2.0","id":8,"method":"resources/unsubscribe","params":{"uri":"a:\n"}})
        );
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let refused = parsed(&no_such_resource(b"1", "a:b"));
        assert_eq!((&refused["error"]["code"], &refused["error"]["data"]["uri"]), (&json!(-32002), &json!("a:b")));
    }

    proptest! {
        #[test]
        fn what_is_below_stays_below(wanted in "[a-c:/]{0,8}", below in "[a-c]{1,4}") {
            let joined = format!("{wanted}/{below}");
            prop_assert!(covers(&wanted, &wanted));
            prop_assert!(covers(&wanted, &joined));
            let longer = format!("{}{}", wanted, below);
            prop_assert_eq!(covers(&wanted, &longer), wanted.ends_with('/'));
        }
    }
}
