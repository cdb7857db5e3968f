//! What a server said about itself: its `InitializeResult` or `DiscoverResult`, kept as bytes.

use crate::bridge::{CLIENT_INFO, TASKS, delete, object_of, quoted};
use crate::era::{Era, Revision};
use crate::message::Message;
use crate::scan::{self, Kind, Place, Span};
use crate::splice::Splice;
use bytes::Bytes;

const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";

/// A server's self-description.
#[derive(Clone, Debug)]
pub struct Greeting {
    era: Era,
    result: Bytes,
    revision: Revision,
    capabilities: Span,
    server_info: Option<Span>,
}

impl Greeting {
    /// From the raw `result` object of an answer that a scan has accepted. `None` where it lacks what its era requires
    /// (legacy: `protocolVersion` string of a known legacy revision, `capabilities` object; modern: `supportedVersions` with
    /// 2026-07-28, `capabilities` object).
    pub fn new(era: Era, result: Bytes) -> Option<Self> {
        let all = Span::all(&result);
        let object =
            |inside: Span, name: &str| find(&result, inside, name, Kind::Object).filter(|span| span.end > span.start);
        let capabilities = object(all, "capabilities")?;
        let plain_info = object(all, "serverInfo");
        let (revision, server_info) = match era {
            Era::Legacy => {
                let version = find(&result, all, "protocolVersion", Kind::String)?;
                let revision = Revision::parse(&scan::text(&result, version))?;
                (Some(revision).filter(|revision| revision.era() == Era::Legacy)?, plain_info)
            }
            Era::Modern => {
                let versions = find(&result, all, "supportedVersions", Kind::Array)?;
                let modern = Revision::MODERN.as_str();
                scan::elements(&result, versions)
                    .find(|(version, kind)| *kind == Kind::String && scan::text(&result, *version) == modern)?;
                let info = object(all, "_meta").and_then(|meta| object(meta, SERVER_INFO));
                (Revision::MODERN, info.or(plain_info))
            }
        };
        Some(Self { era, revision, capabilities, server_info, result })
    }

    /// The era that it greets in.
    pub fn era(&self) -> Era {
        self.era
    }

    /// The raw `result`.
    pub fn result(&self) -> &Bytes {
        &self.result
    }

    /// The revision that the server answered (modern: 2026-07-28).
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Raw `serverInfo` object (modern: from `_meta["io.modelcontextprotocol/serverInfo"]` or a `serverInfo` member).
    pub fn server_info(&self) -> Option<&[u8]> {
        self.server_info.map(|info| &self.result[info.start..info.end])
    }

    /// Raw `capabilities` object.
    pub fn capabilities(&self) -> &[u8] {
        &self.result[self.capabilities.start..self.capabilities.end]
    }

    /// Whether `capabilities` has this member; one that is `null` or `false` does not count.
    pub fn has(&self, capability: &str) -> bool {
        let found = scan::member(&self.result, self.capabilities, capability);
        found.is_some_and(|(_, kind)| !matches!(kind, Kind::Null | Kind::False))
    }

    /// Whether a capability says that it has this part: `tools.listChanged`, `resources.subscribe`.
    pub fn declares(&self, capability: &str, part: &str) -> bool {
        let capability = find(&self.result, self.capabilities, capability, Kind::Object);
        capability
            .and_then(|inside| scan::member(&self.result, inside, part))
            .is_some_and(|(_, kind)| kind == Kind::True)
    }

    /// The answer to a legacy client's `initialize`, from either era's greeting: `protocolVersion` replaced by `revision`, rest
    /// verbatim. From a modern one (B1): without the modern members and without capabilities that are not bridged;
    /// `serverInfo`, which a legacy client must find, is made up where the server gave none. `tasks` removed from capabilities
    /// where `hide_tasks`.
    pub fn initialize_response(&self, id: &[u8], revision: Revision, hide_tasks: bool) -> Vec<u8> {
        let (bytes, all) = (&self.result, Span::all(&self.result));
        let mut splice = Splice::new();
        let version = quoted(revision.as_str());
        match find(bytes, all, "protocolVersion", Kind::String).filter(|_| self.era == Era::Legacy) {
            Some(old) => splice.replace(old, version),
            None => {
                for name in ["supportedVersions", "resultType", "ttlMs", "cacheScope", "serverInfo", "protocolVersion"]
                {
                    delete(&mut splice, bytes, all, name);
                }
                let unnamed = br#"{"name":"mcp-server","version":"0"}"#;
                splice.add_member(bytes, all, "protocolVersion", &version);
                splice.add_member(bytes, all, "serverInfo", self.server_info().unwrap_or(unnamed));
                self.hide_tasks_extension(&mut splice);
            }
        }
        if hide_tasks {
            delete(&mut splice, bytes, self.capabilities, "tasks");
        }
        self.answer(splice, id)
    }

    /// The answer to a modern client's `server/discover` in front of a legacy server (B1): supportedVersions, capabilities minus
    /// tasks, instructions, serverInfo in
    /// `_meta`, resultType, ttlMs 0, cacheScope private. From a modern greeting: as the server gave it.
    pub fn discover_response(&self, id: &[u8]) -> Vec<u8> {
        let (bytes, all) = (&self.result, Span::all(&self.result));
        let mut splice = Splice::new();
        if self.era == Era::Modern {
            return self.answer(splice, id);
        }
        for name in ["protocolVersion", "serverInfo", "supportedVersions", "resultType", "ttlMs", "cacheScope"] {
            delete(&mut splice, bytes, all, name);
        }
        let mut versions = vec![b'['];
        versions.extend(quoted(Revision::MODERN.as_str()));
        versions.push(b']');
        splice.add_member(bytes, all, "resultType", b"\"complete\"");
        splice.add_member(bytes, all, "supportedVersions", &versions);
        splice.add_member(bytes, all, "ttlMs", b"0");
        splice.add_member(bytes, all, "cacheScope", b"\"private\"");
        self.move_server_info(&mut splice);
        delete(&mut splice, bytes, self.capabilities, "tasks");
        self.hide_tasks_extension(&mut splice);
        self.answer(splice, id)
    }

    /// Where a modern client looks for the server's name. (E46)
    fn move_server_info(&self, splice: &mut Splice) {
        let (bytes, all) = (&self.result, Span::all(&self.result));
        let Some(info) = self.server_info() else { return };
        match scan::member(bytes, all, "_meta") {
            Some((meta, Kind::Object)) => {
                delete(splice, bytes, meta, SERVER_INFO);
                splice.add_member(bytes, meta, SERVER_INFO, info);
            }
            Some((no_object, _)) => splice.replace(no_object, object_of(&[(SERVER_INFO, info.to_vec())])),
            None => splice.add_member(bytes, all, "_meta", &object_of(&[(SERVER_INFO, info.to_vec())])),
        }
    }

    /// Tasks of one era are not those of the other. (B21, B22)
    fn hide_tasks_extension(&self, splice: &mut Splice) {
        if let Some((extensions, _)) = scan::member(&self.result, self.capabilities, "extensions") {
            delete(splice, &self.result, extensions, TASKS);
        }
    }

    fn answer(&self, splice: Splice, id: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.result.len() + 256);
        out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
        out.extend_from_slice(id);
        out.extend_from_slice(b",\"result\":");
        splice.write(&self.result, Span::all(&self.result), &mut out);
        out.push(b'}');
        out
    }
}

/// A member of this kind.
fn find(bytes: &[u8], object: Span, name: &str, kind: Kind) -> Option<Span> {
    scan::member(bytes, object, name).filter(|(_, found)| *found == kind).map(|(span, _)| span)
}

/// What a `clientInfo` says: its name, `/` and its version. `None` if it has no name.
pub fn client(info: &[u8]) -> Option<String> {
    let said = |name: &str| {
        let (value, kind) = scan::member(info, Span::all(info), name)?;
        (kind == Kind::String).then(|| scan::text(info, value).into_owned())
    };
    let name = said("name").filter(|name| !name.is_empty())?;
    Some(match said("version") {
        Some(version) if !version.is_empty() => format!("{name}/{version}"),
        _ => name,
    })
}

/// The same of a modern request. (E44)
pub fn client_of(message: &Message) -> Option<String> {
    let info = message.noted(Place::Meta, CLIENT_INFO).filter(|info| info.kind == Kind::Object)?;
    client(message.raw(info.value))
}

/// `initialize` to a legacy server, one line: this revision, these capabilities and client info (raw JSON objects).
pub fn initialize_line(id: u64, capabilities: &[u8], client_info: &[u8], revision: Revision) -> Vec<u8> {
    let params = object_of(&[
        ("protocolVersion", quoted(revision.as_str())),
        ("capabilities", capabilities.to_vec()),
        ("clientInfo", client_info.to_vec()),
    ]);
    line(Some(id), "initialize", Some(params))
}

/// `notifications/initialized`, one line.
pub fn initialized_line() -> Vec<u8> {
    line(None, "notifications/initialized", None)
}

/// `server/discover` as a modern request, one line.
pub fn discover_line(id: u64, client_info: &[u8]) -> Vec<u8> {
    let meta = object_of(&[
        ("io.modelcontextprotocol/protocolVersion", quoted(Revision::MODERN.as_str())),
        ("io.modelcontextprotocol/clientInfo", client_info.to_vec()),
        ("io.modelcontextprotocol/clientCapabilities", b"{}".to_vec()),
    ]);
    line(Some(id), "server/discover", Some(object_of(&[("_meta", meta)])))
}

/// A request without parameters, one line.
pub fn bare_line(id: u64, method: &str) -> Vec<u8> {
    line(Some(id), method, None)
}

fn line(id: Option<u64>, method: &str, params: Option<Vec<u8>>) -> Vec<u8> {
    let mut members = vec![("jsonrpc", b"\"2.0\"".to_vec())];
    members.extend(id.map(|id| ("id", id.to_string().into_bytes())));
    members.push(("method", quoted(method)));
    members.extend(params.map(|params| ("params", params)));
    let mut out = object_of(&members);
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_its_name_and_version() {
        for (info, said) in [
            (r#"{"name":"a","version":"1.2"}"#, Some("a/1.2")),
            (r#"{"version":"","x":{"name":"b"},"name":"a\u0062"}"#, Some("ab")),
            (r#"{"name":"","version":"1"}"#, None),
            (r#"{"name":7}"#, None),
            ("{}", None),
            ("", None),
        ] {
            assert_eq!(client(info.as_bytes()).as_deref(), said, "{info}");
        }
    }
    use serde_json::{Value, json};

    fn greeting(era: Era, result: &Value) -> Option<Greeting> {
        Greeting::new(era, Bytes::from(result.to_string()))
    }

    fn parsed(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    fn legacy() -> Greeting {
        let result = json!({
            "protocolVersion":"2025-06-18",
            "capabilities":{
                "tools":{"listChanged":true},"resources":{"subscribe":true,"listChanged":true,"x":1},
                "tasks":{},"logging":{},"prompts":null,
                "extensions":{"io.modelcontextprotocol/tasks":{},"v/y":{}}
            },
            "serverInfo":{"name":"s","version":"1"},"instructions":"do","future":1,"_meta":{"k":1}
        });
        greeting(Era::Legacy, &result).unwrap()
    }

    fn modern() -> Greeting {
        let result = json!({
            "resultType":"complete","supportedVersions":["2027-01-01","2026-07-28"],
            "capabilities":{"tools":{"listChanged":true},"extensions":{"io.modelcontextprotocol/tasks":{},"v/y":{}}},
            "instructions":"do","ttlMs":9,"cacheScope":"public","future":1,
            "_meta":{"io.modelcontextprotocol/serverInfo":{"name":"m","version":"2"}}
        });
        greeting(Era::Modern, &result).unwrap()
    }

    #[test]
    fn what_an_era_requires() {
        let (era, caps) = (Era::Legacy, json!({}));
        assert_eq!(legacy().revision(), Revision::V20250618);
        for bad in [
            json!({"capabilities":caps}),
            json!({"protocolVersion":"2025-06-18"}),
            json!({"protocolVersion":"2026-07-28","capabilities":caps}),
            json!({"protocolVersion":"2020-01-01","capabilities":caps}),
            json!({"protocolVersion":7,"capabilities":caps}),
            json!({"protocolVersion":"2025-06-18","capabilities":[]}),
            json!([]),
            json!("x"),
        ] {
            assert!(greeting(era, &bad).is_none(), "{bad}");
        }
        assert_eq!(modern().revision(), Revision::MODERN);
        for bad in [
            json!({"supportedVersions":["2025-11-25"],"capabilities":caps}),
            json!({"supportedVersions":"2026-07-28","capabilities":caps}),
            json!({"supportedVersions":["2026-07-28"]}),
        ] {
            assert!(greeting(Era::Modern, &bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn capabilities_and_server_info() {
        let (old, new) = (legacy(), modern());
        assert!(old.has("tools") && old.has("logging") && !old.has("prompts") && !old.has("completions"));
        assert_eq!(parsed(old.server_info().unwrap()), json!({"name":"s","version":"1"}));
        assert_eq!(parsed(new.server_info().unwrap()), json!({"name":"m","version":"2"}));
        assert!(new.has("tools") && !new.has("logging"));
    }

    #[test]
    fn initialize_in_front_of_a_legacy_server_is_verbatim() {
        let answer = legacy().initialize_response(b"\"i\"", Revision::V20250326, false);
        let mut expected = parsed(legacy().result());
        expected["protocolVersion"] = json!("2025-03-26");
        assert_eq!(parsed(&answer), json!({"jsonrpc":"2.0","id":"i","result":expected}));
        expected["capabilities"].as_object_mut().unwrap().remove("tasks");
        let answer = legacy().initialize_response(b"1", Revision::V20250326, true);
        assert_eq!(parsed(&answer)["result"], expected);
    }

    #[test]
    fn b1_initialize_in_front_of_a_modern_server() {
        let answer = parsed(&modern().initialize_response(b"1", Revision::V20251125, true));
        assert_eq!(
            answer["result"],
            json!({
                "protocolVersion":"2025-11-25","serverInfo":{"name":"m","version":"2"},
                "capabilities":{"tools":{"listChanged":true},"extensions":{"v/y":{}}},"instructions":"do","future":1,
                "_meta":{"io.modelcontextprotocol/serverInfo":{"name":"m","version":"2"}}
            })
        );
        let nameless = json!({"supportedVersions":["2026-07-28"],"capabilities":{}});
        let answer = greeting(Era::Modern, &nameless).unwrap().initialize_response(b"1", Revision::V20250618, true);
        assert!(parsed(&answer)["result"]["serverInfo"]["name"].is_string());
    }

    #[test]
    fn b1_e180_discover_in_front_of_a_legacy_server() {
        let answer = parsed(&legacy().discover_response(b"7"));
        assert_eq!(
            answer,
            json!({"jsonrpc":"2.0","id":7,"result":{
                "resultType":"complete","supportedVersions":["2026-07-28"],"ttlMs":0,"cacheScope":"private",
                "capabilities":{"tools":{"listChanged":true},"resources":{"subscribe":true,"listChanged":true,"x":1},"logging":{},"prompts":null,"extensions":{"v/y":{}}},
                "instructions":"do","future":1,
                "_meta":{"k":1,"io.modelcontextprotocol/serverInfo":{"name":"s","version":"1"}}
            }})
        );
        let answer = parsed(&modern().discover_response(b"7"));
        assert_eq!(answer["result"], parsed(modern().result()));
    }

    #[test]
    fn lines_are_one_line_each() {
        let line = initialize_line(3, b"{\n}", b"{\"name\":\"staithe\"}", Revision::LATEST_LEGACY);
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "{\"jsonrpc\":\"2.0\",\"id\":3,\"method\":\"initialize\",\"params\":{\"protocolVersion\":\"2025-11-25\",\"capabilities\":{ },\"clientInfo\":{\"name\":\"staithe\"}}}\n"
        );
        assert_eq!(initialized_line(), b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n");
        let line = parsed(&discover_line(4, b"{}"));
        assert_eq!(line["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"], json!({}));
        assert_eq!(line["method"], "server/discover");
    }
}
