//! What must be known of a server's tools to carry calls of them: which parameters headers mirror, whether a tool has to be
//! called as a task, whether its result needs another shape for a legacy client. Read from `tools/list`. (E63, E64, B21, B25)

use crate::bridge;
use crate::era::Revision;
use crate::message::{Message, Shape};
use crate::param::Param;
use crate::scan::{self, Kind, Place, Span};
use crate::shape::{DATA, NAMED};
use aws_lc_rs::digest;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

/// Pages of one list.
const PAGES: usize = 64;
/// Tools of one list.
const TOOLS: usize = 4096;
/// Bytes of one list, over all pages.
const BYTES: usize = 16 << 20;
/// Bytes of a tool whose schema is searched for annotations.
const TOOL_BYTES: usize = 1 << 20;
/// Annotated parameters of one tool: a request has no room for more headers.
const PARAMS: usize = 48;
/// Faults that are told of one list.
const FAULTS: usize = 64;
/// Depth to which a schema is searched.
const DEPTH: usize = 64;

/// `execution.taskSupport` of a tool of 2025-11-25. (E210)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TaskSupport {
    /// It cannot be called as a task.
    #[default]
    Forbidden,
    /// It can.
    Optional,
    /// It cannot be called otherwise.
    Required,
}

/// What is known of one tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tool {
    params: Vec<Param>,
    task: TaskSupport,
    wrapped: bool,
    excluded: bool,
    destructive: bool,
}

impl Tool {
    /// The parameters that headers mirror; none where an annotation of the tool is invalid.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Whether it is called as a task.
    pub fn task(&self) -> TaskSupport {
        self.task
    }

    /// Whether its `outputSchema` describes something else than an object, so that legacy clients see schema and result
    /// wrapped. (B25)
    pub fn wrapped(&self) -> bool {
        self.wrapped
    }

    /// Whether its annotations break the rules, so that a client over HTTP must not use it. (E60)
    pub fn excluded(&self) -> bool {
        self.excluded
    }

    /// Whether its server says that it may destroy something (`annotations.destructiveHint`). What is not said counts as no,
    /// though the specification's default is yes: nearly no tool says anything.
    pub fn destructive(&self) -> bool {
        self.destructive
    }

    fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

/// Something in a tool's definition that its author should know. (E61, E207)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The tool's name, shortened.
    pub tool: String,
    /// What is wrong.
    pub what: FaultKind,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the tool {:?}: {}", self.tool, self.what)
    }
}

/// What can be wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultKind {
    /// Reached through something else than `properties`.
    #[error(
        "x-mcp-header stands where it does not count: only on properties that lead from the schema's root through `properties` alone"
    )]
    Unreachable,
    /// No header name.
    #[error("x-mcp-header {0:?} is no header name (letters, digits and !#$%&'*+-.^_`|~)")]
    Name(String),
    /// Not a string, integer or boolean.
    #[error("x-mcp-header {0:?} is on a parameter whose type is not string, integer or boolean")]
    Type(String),
    /// The revision does not permit it; clients that send it are understood.
    #[error("x-mcp-header {0:?} is on a parameter of type number, which some clients refuse; use integer or string")]
    Number(String),
    /// Twice in one schema.
    #[error("x-mcp-header {0:?} is there more than once (upper and lower case are the same)")]
    Repeated(String),
    /// More than a request can carry.
    #[error("it has more than {PARAMS} parameters with x-mcp-header")]
    TooMany,
    /// Not searched.
    #[error("its definition is too large or too deep to be searched for x-mcp-header")]
    Unsearched,
    /// Headers are seen and logged by whatever stands between.
    #[error("x-mcp-header {0:?} puts a parameter that looks like a secret into a header, which proxies may log")]
    Sensitive(String),
}

impl FaultKind {
    /// Whether clients over HTTP must leave the tool out.
    fn excludes(&self) -> bool {
        !matches!(self, Self::Number(_) | Self::Sensitive(_) | Self::Unsearched)
    }
}

/// What a server's last `tools/list` said. Tools about which there is nothing to know are not kept.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    tools: HashMap<String, Tool>,
    faults: Vec<Fault>,
    definitions: BTreeMap<String, [u8; 32]>,
    whole: bool,
}

impl Catalogue {
    /// SHA-256 of each tool's definition in canonical form, by name, as its name is shown: whatever a model or a person reads
    /// of a tool is in it. Of several tools of one name, of all of them. `None` where the list was not read to its end. They are
    /// not kept: a second time there are none.
    pub fn take_definitions(&mut self) -> Option<BTreeMap<String, [u8; 32]>> {
        let definitions = std::mem::take(&mut self.definitions);
        std::mem::take(&mut self.whole).then_some(definitions)
    }

    /// What is to be known of a tool; `None` where that is nothing.
    pub fn tool(&self, name: &str) -> Option<&Tool> {
        self.tools.get(name)
    }

    /// Whether no tool needs anything.
    pub fn is_plain(&self) -> bool {
        self.tools.is_empty()
    }

    /// What the authors of the tools should know.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }
}

/// Why a list cannot be read to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unlisted {
    /// The server answered with an error.
    #[error("the server refused tools/list: {0}")]
    Refused(String),
    /// No `tools` array.
    #[error("the answer to tools/list has no array \"tools\"")]
    Shape,
    /// Over a bound.
    #[error("the list of tools is larger than {PAGES} pages, {TOOLS} tools or {} MiB", BYTES >> 20)]
    TooLarge,
    /// The same page again and again.
    #[error("the list of tools does not end: a cursor came back")]
    Circle,
}

/// A list that is being read, page by page.
#[derive(Debug, Default)]
pub struct Reading {
    catalogue: Catalogue,
    cursors: HashSet<Vec<u8>>,
    tools: usize,
    bytes: usize,
}

impl Reading {
    /// Takes in the answer to one `tools/list`. The cursor of the next page as the server spelled it, quotes included; `None`
    /// after the last page.
    pub fn page(&mut self, message: &Message) -> Result<Option<Vec<u8>>, Unlisted> {
        if message.shape() != Shape::Success {
            return Err(Unlisted::Refused(message.text(Place::Error, "message").unwrap_or_default().into_owned()));
        }
        let tools = message.noted(Place::Result, "tools").filter(|tools| tools.kind == Kind::Array);
        let tools = tools.ok_or(Unlisted::Shape)?;
        self.bytes += message.bytes().len();
        for (tool, _) in scan::elements(message.bytes(), tools.value) {
            self.tools += 1;
            if self.tools > TOOLS || self.bytes > BYTES {
                return Err(Unlisted::TooLarge);
            }
            self.tool(message.bytes(), tool);
        }
        let cursor = message.member(Place::Result, "nextCursor").filter(|cursor| cursor.kind == Kind::String);
        let Some(cursor) = cursor.map(|cursor| message.raw(cursor.value).to_vec()) else {
            self.catalogue.whole = true;
            return Ok(None);
        };
        if self.cursors.len() + 1 >= PAGES {
            return Err(Unlisted::TooLarge);
        }
        if !self.cursors.insert(cursor.clone()) {
            return Err(Unlisted::Circle);
        }
        Ok(Some(cursor))
    }

    /// What was read.
    pub fn done(self) -> Catalogue {
        self.catalogue
    }

    fn definition(&mut self, name: &str, canonical: &[u8]) {
        let mut hasher = digest::Context::new(&digest::SHA256);
        if let Some(before) = self.catalogue.definitions.get(name) {
            hasher.update(before);
        }
        hasher.update(canonical);
        let mut all = [0; 32];
        all.copy_from_slice(hasher.finish().as_ref());
        self.catalogue.definitions.insert(name.to_owned(), all);
    }

    fn tool(&mut self, bytes: &[u8], tool: Span) {
        let Some((name, Kind::String)) = scan::member(bytes, tool, "name") else { return };
        let name = scan::text(bytes, name).into_owned();
        self.definition(&name, &scan::canonical(bytes, tool));
        let (params, faults) = annotated(bytes, tool);
        let excluded = faults.iter().any(FaultKind::excludes);
        let known = Tool {
            params: if excluded { Vec::new() } else { params },
            task: task_support(bytes, tool),
            wrapped: crate::shape::wraps(bytes, tool),
            excluded,
            destructive: destructive(bytes, tool),
        };
        let shown: String = name.chars().take(80).collect();
        let room = FAULTS.saturating_sub(self.catalogue.faults.len());
        let faults = faults.into_iter().take(room).map(|what| Fault { tool: shown.clone(), what });
        self.catalogue.faults.extend(faults);
        if !known.is_plain() {
            self.catalogue.tools.insert(name, known);
        }
    }
}

fn task_support(bytes: &[u8], tool: Span) -> TaskSupport {
    let execution = scan::member(bytes, tool, "execution").filter(|(_, kind)| *kind == Kind::Object);
    let support = execution.and_then(|(execution, _)| scan::member(bytes, execution, "taskSupport"));
    match support.filter(|(_, kind)| *kind == Kind::String).map(|(support, _)| scan::text(bytes, support)).as_deref() {
        Some("required") => TaskSupport::Required,
        Some("optional") => TaskSupport::Optional,
        _ => TaskSupport::Forbidden,
    }
}

fn destructive(bytes: &[u8], tool: Span) -> bool {
    let annotations = scan::member(bytes, tool, "annotations").filter(|(_, kind)| *kind == Kind::Object);
    let hint = annotations.and_then(|(annotations, _)| scan::member(bytes, annotations, "destructiveHint"));
    hint.is_some_and(|(_, kind)| kind == Kind::True)
}

/// The parameters of a tool that carry `x-mcp-header`, and what is wrong with them. (E64)
fn annotated(bytes: &[u8], tool: Span) -> (Vec<Param>, Vec<FaultKind>) {
    let Some((schema, Kind::Object)) = scan::member(bytes, tool, "inputSchema") else { return Default::default() };
    let text = &bytes[schema.start..schema.end];
    // A key may be spelled with escapes. Nearly no schema has either.
    let finds = |needle: &[u8]| memchr::memmem::find(text, needle).is_some();
    if !finds(ANNOTATION.as_bytes()) && !finds(b"\\u") {
        return Default::default();
    }
    if text.len() > TOOL_BYTES {
        return (Vec::new(), vec![FaultKind::Unsearched]);
    }
    let mut search = Search { bytes, params: Vec::new(), faults: Vec::new(), seen: HashSet::new(), next: Vec::new() };
    search.next.push(Position { value: schema, is: Is::Schema, path: Some(Vec::new()), depth: 0 });
    while let Some(position) = search.next.pop() {
        search.look(&position);
    }
    search.params.reverse();
    (search.params, search.faults)
}

const ANNOTATION: &str = "x-mcp-header";
/// Parameters that no proxy should see.
const SECRETS: [&str; 8] = ["password", "passwd", "secret", "token", "apikey", "api_key", "credential", "private_key"];

/// What a value inside a schema is.
#[derive(Clone, Copy)]
enum Is {
    Schema,
    /// Its members are names, their values schemas.
    Names,
}

struct Position {
    value: Span,
    is: Is,
    /// The way from the root, where it leads through `properties` alone.
    path: Option<Vec<String>>,
    depth: usize,
}

struct Search<'a> {
    bytes: &'a [u8],
    params: Vec<Param>,
    faults: Vec<FaultKind>,
    seen: HashSet<String>,
    next: Vec<Position>,
}

impl Search<'_> {
    fn look(&mut self, position: &Position) {
        if position.depth > DEPTH {
            self.faults.push(FaultKind::Unsearched);
            return self.next.clear();
        }
        match self.bytes.get(position.value.start) {
            Some(b'{') => {}
            // A list of schemas: `oneOf` and its like.
            Some(b'[') => {
                for (value, _) in scan::elements(self.bytes, position.value) {
                    self.next.push(Position { value, is: Is::Schema, path: None, depth: position.depth + 1 });
                }
                return;
            }
            _ => return,
        }
        match position.is {
            Is::Names => self.names(position),
            Is::Schema => self.schema(position),
        }
    }

    fn names(&mut self, position: &Position) {
        for (key, value, _) in scan::members(self.bytes, position.value) {
            let path = position.path.as_ref().map(|path| {
                let mut path = path.clone();
                path.push(scan::text(self.bytes, key).into_owned());
                path
            });
            self.next.push(Position { value, is: Is::Schema, path, depth: position.depth + 1 });
        }
    }

    fn schema(&mut self, position: &Position) {
        let depth = position.depth + 1;
        for (key, value, kind) in scan::members(self.bytes, position.value) {
            match scan::text(self.bytes, key).as_ref() {
                ANNOTATION => self.annotation(position, value, kind),
                "properties" => {
                    self.next.push(Position { value, is: Is::Names, path: position.path.clone(), depth });
                }
                name if NAMED.contains(&name) => {
                    self.next.push(Position { value, is: Is::Names, path: None, depth });
                }
                name if DATA.contains(&name) => {}
                _ => self.next.push(Position { value, is: Is::Schema, path: None, depth }),
            }
        }
    }

    fn annotation(&mut self, position: &Position, value: Span, kind: Kind) {
        let Some(path) = position.path.clone().filter(|path| !path.is_empty()) else {
            return self.faults.push(FaultKind::Unreachable);
        };
        let name = match kind {
            Kind::String => scan::text(self.bytes, value).into_owned(),
            _ => String::from_utf8_lossy(&self.bytes[value.start..value.end]).into_owned(),
        };
        let shown = || name.chars().take(80).collect::<String>();
        if kind != Kind::String || name.is_empty() || !name.bytes().all(is_token) {
            return self.faults.push(FaultKind::Name(shown()));
        }
        let declared = scan::member(self.bytes, position.value, "type").filter(|(_, kind)| *kind == Kind::String);
        match declared.map(|(declared, _)| scan::text(self.bytes, declared)).as_deref() {
            Some("string" | "integer" | "boolean") => {}
            Some("number") => self.faults.push(FaultKind::Number(shown())),
            _ => return self.faults.push(FaultKind::Type(shown())),
        }
        if !self.seen.insert(name.to_ascii_lowercase()) {
            return self.faults.push(FaultKind::Repeated(shown()));
        }
        if self.params.len() == PARAMS {
            return self.faults.push(FaultKind::TooMany);
        }
        let named = path.last().map(|last| last.to_ascii_lowercase()).unwrap_or_default();
        if SECRETS.iter().any(|secret| named.contains(secret)) {
            self.faults.push(FaultKind::Sensitive(shown()));
        }
        self.params.push(Param::new(name, path));
    }
}

/// A character of a header's name. (RFC 9110, 5.6.2)
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// `tools/list` as one line, for a server of this era; `cursor` as the server spelled it, quotes included.
pub fn list_line(id: u64, modern: bool, client_info: &[u8], cursor: Option<&[u8]>) -> Vec<u8> {
    let meta = bridge::object_of(&[
        (bridge::VERSION, bridge::quoted(Revision::MODERN.as_str())),
        (bridge::CLIENT_INFO, client_info.to_vec()),
        (bridge::CLIENT_CAPABILITIES, b"{}".to_vec()),
    ]);
    let mut params = Vec::new();
    params.extend(cursor.map(|cursor| ("cursor", cursor.to_vec())));
    params.extend(modern.then_some(("_meta", meta)));
    let mut line = bridge::object_of(&[
        ("jsonrpc", b"\"2.0\"".to_vec()),
        ("id", id.to_string().into_bytes()),
        ("method", b"\"tools/list\"".to_vec()),
        ("params", bridge::object_of(&params)),
    ]);
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{Limits, Side};
    use bytes::Bytes;
    use serde_json::{Value, json};

    const LIMITS: Limits = Limits { bytes: 32 << 20, depth: 128 };

    fn answer(result: &Value) -> Message {
        let text = json!({"jsonrpc":"2.0","id":1,"result":result}).to_string();
        Message::parse(Bytes::from(text), Side::Server, &LIMITS).unwrap()
    }

    fn read(tools: &Value) -> Catalogue {
        let mut reading = Reading::default();
        assert_eq!(reading.page(&answer(&json!({ "tools": tools }))), Ok(None));
        reading.done()
    }

    fn schema(properties: &Value) -> Catalogue {
        read(&json!([{"name":"t","inputSchema":{"type":"object","properties":properties}}]))
    }

    fn faults(catalogue: &Catalogue) -> Vec<FaultKind> {
        catalogue.faults().iter().map(|fault| fault.what.clone()).collect()
    }

    #[test]
    fn e64_annotations_on_properties_count_at_any_depth() {
        let found = schema(&json!({
            "region":{"type":"string","x-mcp-header":"Region"},
            "deep":{"type":"object","properties":{"properties":{"type":"object","properties":{"n":{"type":"integer","x-mcp-header":"N"}}}}},
            "x-mcp-header":{"type":"string"},
            "default":{"type":"boolean","x-mcp-header":"D","default":{"x-mcp-header":1},"enum":[{"x-mcp-header":""}]},
        }));
        assert_eq!(faults(&found), []);
        let params: Vec<_> = found.tool("t").unwrap().params().to_vec();
        let expected = [("D", vec!["default"]), ("N", vec!["deep", "properties", "n"]), ("Region", vec!["region"])]
            .map(|(name, path)| Param::new(name.to_owned(), path.into_iter().map(str::to_owned).collect()));
        assert_eq!(params.len(), 3);
        assert!(expected.iter().all(|param| params.contains(param)), "{params:?}");
    }

    #[test]
    fn e64_annotations_elsewhere_make_the_definition_invalid() {
        let marked = json!({"type":"string","x-mcp-header":"A"});
        for properties in [
            json!({"a":{"type":"array","items":marked}}),
            json!({"a":{"oneOf":[marked]}}),
            json!({"a":{"anyOf":[{"properties":{"b":marked}}]}}),
            json!({"a":{"if":marked}}),
            json!({"a":{"$defs":{"x":marked}}}),
            json!({"a":{"patternProperties":{"x":marked}}}),
            json!({"a":{"additionalProperties":marked}}),
            json!({"a":{"some-vendor-keyword":{"x":marked}}}),
        ] {
            let found = schema(&properties);
            assert_eq!(faults(&found), [FaultKind::Unreachable], "{properties}");
            assert!(found.tool("t").is_some_and(|tool| tool.excluded() && tool.params().is_empty()), "{properties}");
        }
        let root = read(&json!([{"name":"t","inputSchema":{"type":"object","x-mcp-header":"A"}}]));
        assert_eq!(faults(&root), [FaultKind::Unreachable]);
    }

    #[test]
    fn e60_e61_invalid_annotations_are_told_and_not_used() {
        for (property, what) in [
            (json!({"type":"string","x-mcp-header":""}), FaultKind::Name(String::new())),
            (json!({"type":"string","x-mcp-header":"My Region"}), FaultKind::Name("My Region".to_owned())),
            (json!({"type":"string","x-mcp-header":"R:P"}), FaultKind::Name("R:P".to_owned())),
            (json!({"type":"string","x-mcp-header":"R\t1"}), FaultKind::Name("R\t1".to_owned())),
            (json!({"type":"string","x-mcp-header":"Région"}), FaultKind::Name("Région".to_owned())),
            (json!({"type":"string","x-mcp-header":7}), FaultKind::Name("7".to_owned())),
            (json!({"type":"object","x-mcp-header":"D"}), FaultKind::Type("D".to_owned())),
            (json!({"type":["string","null"],"x-mcp-header":"D"}), FaultKind::Type("D".to_owned())),
            (json!({"x-mcp-header":"D"}), FaultKind::Type("D".to_owned())),
        ] {
            let found = schema(&json!({"v":property,"good":{"type":"string","x-mcp-header":"Good"}}));
            assert_eq!(faults(&found), [what]);
            assert!(found.tool("t").is_some_and(|tool| tool.excluded() && tool.params().is_empty()), "{property}");
        }
        let twice = schema(&json!({"a":{"type":"string","x-mcp-header":"R"},"b":{"type":"string","x-mcp-header":"r"}}));
        assert!(matches!(faults(&twice)[..], [FaultKind::Repeated(_)]));
    }

    #[test]
    fn c2_a_number_is_told_but_compared() {
        let found = schema(&json!({"v":{"type":"number","x-mcp-header":"V"}}));
        assert_eq!(faults(&found), [FaultKind::Number("V".to_owned())]);
        assert!(found.tool("t").is_some_and(|tool| !tool.excluded() && tool.params().len() == 1));
    }

    #[test]
    fn e207_a_secret_in_a_header_is_told() {
        let found = schema(&json!({"apiToken":{"type":"string","x-mcp-header":"T"}}));
        assert_eq!(faults(&found), [FaultKind::Sensitive("T".to_owned())]);
        assert_eq!(found.tool("t").unwrap().params().len(), 1);
    }

    #[test]
    fn an_escaped_key_is_the_same_key() {
        let text = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"t","inputSchema":{"properties":{"a":{"type":"string","\u0078-mcp-header":"A"}}}}]}}"#;
        let mut reading = Reading::default();
        reading.page(&Message::parse(Bytes::from(text), Side::Server, &LIMITS).unwrap()).unwrap();
        assert_eq!(reading.done().tool("t").unwrap().params().len(), 1);
    }

    #[test]
    fn e210_b25_tasks_and_shapes_are_known() {
        let found = read(&json!([
            {"name":"plain","inputSchema":{},"outputSchema":{"type":"object"}},
            {"name":"never","execution":{"taskSupport":"forbidden"}},
            {"name":"may","execution":{"taskSupport":"optional"}},
            {"name":"must","execution":{"taskSupport":"required"}},
            {"name":"list","outputSchema":{"type":"array"}},
            {"name":"any","outputSchema":{"anyOf":[]}},
            {"no":"name"}, 7, null
        ]));
        assert!(found.tool("plain").is_none() && found.tool("never").is_none());
        assert_eq!(found.tool("may").unwrap().task(), TaskSupport::Optional);
        assert_eq!(found.tool("must").unwrap().task(), TaskSupport::Required);
        assert!(found.tool("list").unwrap().wrapped() && found.tool("any").unwrap().wrapped());
        assert!(!found.is_plain() && Catalogue::default().is_plain());
    }

    #[test]
    fn e204_pages_are_followed_within_bounds() {
        let mut reading = Reading::default();
        let page = |cursor: &str| answer(&json!({"tools":[],"nextCursor":cursor}));
        assert_eq!(reading.page(&page("")), Ok(Some(b"\"\"".to_vec())), "an empty cursor is a cursor");
        assert_eq!(reading.page(&page("b")), Ok(Some(b"\"b\"".to_vec())));
        assert_eq!(reading.page(&page("b")), Err(Unlisted::Circle));
        let mut reading = Reading::default();
        let ends = (0..1000).find_map(|n| reading.page(&page(&n.to_string())).err());
        assert_eq!(ends, Some(Unlisted::TooLarge));
        let many: Vec<_> = (0..5000).map(|n| json!({"name":n.to_string()})).collect();
        assert_eq!(Reading::default().page(&answer(&json!({ "tools": many }))), Err(Unlisted::TooLarge));
        assert_eq!(Reading::default().page(&answer(&json!({"tools":{}}))), Err(Unlisted::Shape));
        let refused = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no"}}"#;
        let refused = Message::parse(Bytes::from(refused), Side::Server, &LIMITS).unwrap();
        assert_eq!(Reading::default().page(&refused), Err(Unlisted::Refused("no".to_owned())));
    }

    #[test]
    fn a_deep_or_large_schema_is_bounded() {
        let mut deep = json!({"type":"string","x-mcp-header":"A"});
        for _ in 0..50 {
            deep = json!({"properties":{"p":deep}});
        }
        assert_eq!(faults(&schema(&json!({ "p": deep }))), [FaultKind::Unsearched]);
        let wide: serde_json::Map<_, _> =
            (0..60).map(|n| (format!("p{n}"), json!({"type":"string","x-mcp-header":format!("H{n}")}))).collect();
        let found = schema(&Value::Object(wide));
        assert!(faults(&found).contains(&FaultKind::TooMany) && found.tool("t").unwrap().excluded());
    }

    #[test]
    fn the_question_is_one_line() {
        let line = list_line(7, false, b"{}", None);
        assert_eq!(line, b"{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"tools/list\",\"params\":{}}\n");
        let line = list_line(8, true, b"{\"name\":\"staithe\"}", Some(b"\"a\\nb\""));
        let said: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(said["params"]["cursor"], "a\nb");
        assert_eq!(said["params"]["_meta"][bridge::CLIENT_INFO], json!({"name":"staithe"}));
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    }
}
