//! A modern server's `input_required` in front of a client with a session: what the server asks, the requests that ask it
//! of the client, and the line that brings the answers. (eras §2.5; B5, B6, B8, B9, E165–E169, E177)

use crate::bridge::{self, Leg, Stated};
use crate::era::Revision;
use crate::message::{Message, Shape};
use crate::method;
use crate::scan::{self, Kind, Place, Span};
use crate::shape::{self, Unaskable};
use crate::splice::{Splice, append_flat};
use std::borrow::Cow;

/// Whether a server's answer asks for something instead of answering.
pub fn asks_back(message: &Message) -> bool {
    message.text(Place::Result, "resultType").is_some_and(|kind| kind == "input_required")
}

/// An `input_required` result that keeps its rules.
#[derive(Debug)]
pub struct Required {
    message: Message,
    questions: Vec<Question>,
    state: Option<Span>,
}

/// One question of a round. It means something only to the [`Required`] that it is from.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    key: Span,
    kind: Asks,
    params: Option<Span>,
}

/// What a question asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    Form,
    Url,
    Sampling { tools: bool },
    Roots,
}

/// Why an `input_required` result is no valid answer of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// E165.
    #[error("this method must not ask back")]
    Method,
    /// E166.
    #[error("it has neither inputRequests nor requestState")]
    Empty,
    /// Not an object of requests.
    #[error("its inputRequests are not an object of requests")]
    Requests,
    /// E167.
    #[error("it asks something other than elicitation/create, sampling/createMessage and roots/list")]
    Unknown,
    /// Not a string.
    #[error("its requestState is not a string")]
    State,
}

impl Required {
    /// Reads the result of a request with `method`, for which [`asks_back`] holds.
    pub fn read(message: Message, method: &str) -> Result<Self, Unreadable> {
        if !method::find(method).is_some_and(|row| row.multi_round) {
            return Err(Unreadable::Method);
        }
        let given = |name| message.member(Place::Result, name).filter(|member| member.kind != Kind::Null);
        let state = given("requestState");
        if state.is_some_and(|state| state.kind != Kind::String) {
            return Err(Unreadable::State);
        }
        let questions = match given("inputRequests") {
            Some(requests) if requests.kind == Kind::Object => questions(message.bytes(), requests.value)?,
            Some(_) => return Err(Unreadable::Requests),
            None => Vec::new(),
        };
        if questions.is_empty() && state.is_none() {
            return Err(Unreadable::Empty);
        }
        Ok(Self { questions, state: state.map(|state| state.value), message })
    }

    /// What is asked; nothing where the server only wants to be called again.
    pub fn questions(&self) -> &[Question] {
        &self.questions
    }

    /// Why a client of this revision cannot be asked a question whatever it declared. (B3)
    pub fn unaskable(&self, question: &Question, revision: Revision) -> Option<Unaskable> {
        let params = self.message.raw(question.params?);
        shape::params(question.method(), params, revision).err()
    }

    /// The request for the client: `id` is ours, params are the server's bytes, in the nearest form that the client's
    /// revision has (B3). A URL elicitation, which a client of 2025-11-25 knows by an id, gets `elicitation_id` (B6).
    pub fn request(&self, question: &Question, id: u64, elicitation_id: &str, revision: Revision) -> Vec<u8> {
        let mut out = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{}""#, question.method()).into_bytes();
        if let Some(params) = question.params {
            let raw = self.message.raw(params);
            let fitted = shape::params(question.method(), raw, revision).unwrap_or(Cow::Borrowed(raw));
            let (bytes, all) = (fitted.as_ref(), Span::all(&fitted));
            out.extend_from_slice(b",\"params\":");
            let mut splice = Splice::new();
            if question.kind == Asks::Url {
                bridge::delete(&mut splice, bytes, all, "elicitationId");
                splice.add_member(bytes, all, "elicitationId", &bridge::quoted(elicitation_id));
            }
            splice.write(bytes, all, &mut out);
        }
        out.push(b'}');
        out
    }

    /// The request of the client once more, with the answers (one for each question, raw JSON) and the server's state, as
    /// one line. An answer or state that the client's own request had is not the server's, and goes. (E177)
    pub fn retry_line(
        &self,
        line: &mut Vec<u8>,
        request: &Message,
        upstream_id: u64,
        stated: Option<&Stated<'_>>,
        answers: &[Vec<u8>],
    ) {
        let mut plain = Vec::with_capacity(request.bytes().len() + 256);
        bridge::request_line(&mut plain, request, Leg::LegacyToModern, upstream_id, stated);
        plain.pop();
        let all = Span::all(&plain);
        let mut splice = Splice::new();
        if let Some((params, Kind::Object)) = scan::member(&plain, all, "params") {
            bridge::delete(&mut splice, &plain, params, "inputResponses");
            bridge::delete(&mut splice, &plain, params, "requestState");
            if let Some(state) = self.state {
                splice.add_member(&plain, params, "requestState", self.message.raw(state));
            }
            if !self.questions.is_empty() {
                splice.add_member(&plain, params, "inputResponses", &self.responses(answers));
            }
        }
        splice.write(&plain, all, line);
        line.push(b'\n');
    }

    fn responses(&self, answers: &[Vec<u8>]) -> Vec<u8> {
        let mut out = vec![b'{'];
        for (index, (question, answer)) in self.questions.iter().zip(answers).enumerate() {
            out.extend_from_slice(if index > 0 { b"," } else { b"" });
            out.extend_from_slice(self.message.raw(question.key));
            out.push(b':');
            append_flat(&mut out, answer);
        }
        out.push(b'}');
        out
    }
}

fn questions(bytes: &[u8], requests: Span) -> Result<Vec<Question>, Unreadable> {
    let one = |(key, request, kind): (Span, Span, Kind)| {
        if kind != Kind::Object {
            return Err(Unreadable::Requests);
        }
        let Some((method, Kind::String)) = scan::member(bytes, request, "method") else {
            return Err(Unreadable::Requests);
        };
        let params = match scan::member(bytes, request, "params") {
            Some((params, Kind::Object)) => Some(params),
            None => None,
            Some(_) => return Err(Unreadable::Requests),
        };
        let kind = match (scan::text(bytes, method).as_ref(), params) {
            ("roots/list", _) => Asks::Roots,
            ("elicitation/create", Some(params)) => mode(bytes, params)?,
            ("sampling/createMessage", Some(params)) => {
                let has = |name| scan::member(bytes, params, name).is_some_and(|(_, kind)| kind != Kind::Null);
                Asks::Sampling { tools: has("tools") || has("toolChoice") }
            }
            ("elicitation/create" | "sampling/createMessage", None) => return Err(Unreadable::Requests),
            _ => return Err(Unreadable::Unknown),
        };
        Ok(Question { key, kind, params })
    };
    scan::members(bytes, requests).map(one).collect()
}

fn mode(bytes: &[u8], params: Span) -> Result<Asks, Unreadable> {
    match scan::member(bytes, params, "mode") {
        None => Ok(Asks::Form),
        Some((mode, Kind::String)) => match scan::text(bytes, mode).as_ref() {
            "form" => Ok(Asks::Form),
            "url" => Ok(Asks::Url),
            _ => Err(Unreadable::Unknown),
        },
        Some(_) => Err(Unreadable::Requests),
    }
}

/// What a client's answer is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The raw result for the server.
    Result(Vec<u8>),
    /// The client failed, with this message; the call cannot go on.
    Failed(String),
}

impl Question {
    /// The request's method.
    pub fn method(&self) -> &'static str {
        match self.kind {
            Asks::Form | Asks::Url => "elicitation/create",
            Asks::Sampling { .. } => "sampling/createMessage",
            Asks::Roots => "roots/list",
        }
    }

    /// The client feature that this question needs and a session does not have, which opened with `capabilities` (raw JSON
    /// object) under `revision`: such a question must not be put to its client. (E169, E196, E200)
    pub fn lacks(&self, capabilities: &[u8], revision: Revision) -> Option<&'static str> {
        let has = |inside: Option<Span>, name: &str| {
            inside.and_then(|inside| find(capabilities, inside, name)).map(|(value, _)| value)
        };
        let all = Some(Span::all(capabilities));
        let elicitation = has(all, "elicitation").filter(|_| revision >= Revision::V20250618);
        let modes = elicitation.filter(|_| revision >= Revision::V20251125);
        let url = has(modes, "url");
        match self.kind {
            Asks::Form | Asks::Url if elicitation.is_none() => Some("elicitation"),
            Asks::Form => (url.is_some() && has(modes, "form").is_none()).then_some("elicitation.form"),
            Asks::Url => url.is_none().then_some("elicitation.url"),
            Asks::Sampling { tools } => {
                let sampling = has(all, "sampling");
                let with_tools = has(sampling.filter(|_| revision >= Revision::V20251125), "tools");
                match (sampling, tools && with_tools.is_none()) {
                    (None, _) => Some("sampling"),
                    (Some(_), true) => Some("sampling.tools"),
                    (Some(_), false) => None,
                }
            }
            Asks::Roots => has(all, "roots").is_none().then_some("roots"),
        }
    }

    /// What the client's answer means to the server. A client that fails at an elicitation has not answered it.
    pub fn answer(&self, message: &Message) -> Answer {
        let result = message.object(Place::Result).filter(|_| message.shape() == Shape::Success);
        match (result, self.kind) {
            (Some(result), _) => Answer::Result(message.raw(result).to_vec()),
            (None, Asks::Form | Asks::Url) => Answer::Result(br#"{"action":"cancel"}"#.to_vec()),
            (None, Asks::Sampling { .. } | Asks::Roots) => {
                let said = message.text(Place::Error, "message").unwrap_or("the answer is no object".into());
                Answer::Failed(said.chars().take(500).collect())
            }
        }
    }
}

/// A member that says something.
fn find(bytes: &[u8], object: Span, name: &str) -> Option<(Span, Kind)> {
    scan::member(bytes, object, name).filter(|(_, kind)| *kind == Kind::Object)
}

/// `notifications/cancelled` to the client, for a request of ours that nobody needs an answer to any more.
pub fn withdrawal(id: u64, reason: &str) -> Vec<u8> {
    let mut line = Vec::new();
    bridge::cancel_line(&mut line, id, reason);
    line.pop();
    line
}

/// A `tools/call` result that says to the model why the tool did not run to its end.
pub fn tool_error(id: &[u8], text: &str) -> Vec<u8> {
    let mut out = b"{\"jsonrpc\":\"2.0\",\"id\":".to_vec();
    out.extend_from_slice(id);
    out.extend_from_slice(b",\"result\":{\"content\":[{\"type\":\"text\",\"text\":");
    scan::write_text(&mut out, text);
    out.extend_from_slice(b"}],\"isError\":true}}");
    out
}

/// How far a progress notification says that its call has come. (E150)
pub fn progress(message: &Message) -> Option<f64> {
    let progress = message.member(Place::Params, "progress").filter(|progress| progress.kind == Kind::Number)?;
    std::str::from_utf8(message.raw(progress.value)).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{Limits, Side};
    use bytes::Bytes;
    use serde_json::{Value, json};

    const LIMITS: Limits = Limits { bytes: 1 << 20, depth: 64 };

    fn parse(text: &str, from: Side) -> Message {
        Message::parse(Bytes::copy_from_slice(text.as_bytes()), from, &LIMITS).unwrap()
    }

    fn server(result: &str) -> Message {
        parse(&format!(r#"{{"jsonrpc":"2.0","id":77,"result":{result}}}"#), Side::Server)
    }

    fn read(result: &str) -> Result<Required, Unreadable> {
        Required::read(server(result), "tools/call")
    }

    fn asking(request: &str) -> Required {
        read(&format!(r#"{{"resultType":"input_required","inputRequests":{{"k":{request}}}}}"#)).unwrap()
    }

    #[test]
    fn only_input_required_asks_back() {
        assert!(asks_back(&server(r#"{"resultType":"input_\u0072equired","requestState":"s"}"#)));
        for other in [r#"{"resultType":"complete"}"#, r#"{"content":[]}"#, r#"{"resultType":1}"#, "null"] {
            assert!(!asks_back(&server(other)), "{other}");
        }
    }

    #[test]
    fn e165_to_e168_what_no_server_may_ask() {
        let fine = r#"{"resultType":"input_required","requestState":"s"}"#;
        assert_eq!(Required::read(server(fine), "tools/list").unwrap_err(), Unreadable::Method);
        for method in ["tools/call", "prompts/get", "resources/read"] {
            assert!(Required::read(server(fine), method).unwrap().questions().is_empty());
        }
        for (members, why) in [
            ("", Unreadable::Empty),
            (r#","inputRequests":{}"#, Unreadable::Empty),
            (r#","inputRequests":null,"requestState":null"#, Unreadable::Empty),
            (r#","requestState":{}"#, Unreadable::State),
            (r#","inputRequests":[]"#, Unreadable::Requests),
            (r#","inputRequests":{"a":1}"#, Unreadable::Requests),
            (r#","inputRequests":{"a":{}}"#, Unreadable::Requests),
            (r#","inputRequests":{"a":{"method":"roots/list","params":[]}}"#, Unreadable::Requests),
            (r#","inputRequests":{"a":{"method":"sampling/createMessage"}}"#, Unreadable::Requests),
            (r#","inputRequests":{"a":{"method":"elicitation/create"}}"#, Unreadable::Requests),
            (r#","inputRequests":{"a":{"method":"elicitation/create","params":{"mode":"fax"}}}"#, Unreadable::Unknown),
            (r#","inputRequests":{"a":{"method":"tools/list"}}"#, Unreadable::Unknown),
        ] {
            let bad = read(&format!(r#"{{"resultType":"input_required"{members}}}"#));
            assert_eq!(bad.unwrap_err(), why, "{members}");
        }
    }

    #[test]
    fn b5_a_question_reaches_the_client_as_the_server_wrote_it() {
        let required = asking("{\"params\":{ \"x\":1.10,\n\"message\":\"m\" },\"method\":\"elicitation/create\"}");
        let body = required.request(&required.questions()[0], 5, "e", Revision::V20251125);
        let expected = r#"{"jsonrpc":"2.0","id":5,"method":"elicitation/create","params":{ "x":1.10, "message":"m" }}"#;
        assert_eq!(String::from_utf8(body).unwrap(), expected);
        let required = asking(r#"{"method":"roots/list"}"#);
        let body = required.request(&required.questions()[0], 6, "e", Revision::V20251125);
        assert_eq!(body, br#"{"jsonrpc":"2.0","id":6,"method":"roots/list"}"#);
    }

    #[test]
    fn b3_an_older_client_is_asked_in_forms_that_it_knows() {
        let form = |schema: &str| {
            asking(&format!(
                r#"{{"method":"elicitation/create","params":{{"message":"m","requestedSchema":{{"type":"object","properties":{{"c":{schema}}}}}}}}}"#
            ))
        };
        let titled = form(r#"{"type":"string","oneOf":[{"const":"r","title":"Red"},{"const":"g","title":"Green"}]}"#);
        let shown = |revision| {
            let body = titled.request(&titled.questions()[0], 5, "e", revision);
            serde_json::from_slice::<Value>(&body).unwrap()["params"]["requestedSchema"]["properties"]["c"].clone()
        };
        assert_eq!(shown(Revision::V20250618)["enum"], serde_json::json!(["r", "g"]));
        assert_eq!(shown(Revision::V20250618)["enumNames"], serde_json::json!(["Red", "Green"]));
        assert!(shown(Revision::V20251125)["oneOf"].is_array());
        let several = form(r#"{"type":"array","items":{"type":"string","enum":["r","g"]}}"#);
        let why = |revision| several.unaskable(&several.questions()[0], revision);
        assert_eq!((why(Revision::V20250618), why(Revision::V20251125)), (Some(Unaskable::MultiSelect), None));
    }

    #[test]
    fn b6_a_url_elicitation_gets_an_id() {
        let required =
            asking(r#"{"method":"elicitation/create","params":{"mode":"url","url":"https://a/","elicitationId":"x"}}"#);
        let body = required.request(&required.questions()[0], 5, "made-up", Revision::V20251125);
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["params"], json!({"mode":"url","url":"https://a/","elicitationId":"made-up"}));
    }

    #[test]
    fn e169_e196_e200_what_a_session_cannot_be_asked() {
        let form = r#"{"method":"elicitation/create","params":{"mode":"form"}}"#;
        let url = r#"{"method":"elicitation/create","params":{"mode":"url"}}"#;
        let sampling = r#"{"method":"sampling/createMessage","params":{}}"#;
        let tools = r#"{"method":"sampling/createMessage","params":{"tools":[]}}"#;
        let roots = r#"{"method":"roots/list"}"#;
        let (old, middle, new) = (Revision::V20250326, Revision::V20250618, Revision::V20251125);
        for (request, capabilities, revision, lacks) in [
            (form, r#"{"elicitation":{}}"#, new, None),
            (form, r#"{"elicitation":{}}"#, old, Some("elicitation")),
            (form, r#"{"elicitation":true}"#, new, Some("elicitation")),
            (form, "{}", new, Some("elicitation")),
            (form, r#"{"elicitation":{"url":{}}}"#, new, Some("elicitation.form")),
            (form, r#"{"elicitation":{"url":{}}}"#, middle, None),
            (form, r#"{"elicitation":{"url":{},"form":{}}}"#, new, None),
            (url, r#"{"elicitation":{}}"#, new, Some("elicitation.url")),
            (url, r#"{"elicitation":{"url":{}}}"#, new, None),
            (url, r#"{"elicitation":{"url":{}}}"#, middle, Some("elicitation.url")),
            (url, "{}", new, Some("elicitation")),
            (sampling, r#"{"sampling":{}}"#, Revision::V20241105, None),
            (sampling, "{}", new, Some("sampling")),
            (tools, r#"{"sampling":{}}"#, new, Some("sampling.tools")),
            (tools, r#"{"sampling":{"tools":{}}}"#, new, None),
            (tools, r#"{"sampling":{"tools":{}}}"#, middle, Some("sampling.tools")),
            (roots, r#"{"roots":{}}"#, old, None),
            (roots, r#"{"sampling":{}}"#, old, Some("roots")),
        ] {
            let required = asking(request);
            assert_eq!(
                required.questions()[0].lacks(capabilities.as_bytes(), revision),
                lacks,
                "{request} {capabilities}"
            );
        }
    }

    #[test]
    fn a_failing_client_cancels_an_elicitation_and_ends_everything_else() {
        let refusal = parse(r#"{"jsonrpc":"2.0","id":5,"error":{"code":-1,"message":"no"}}"#, Side::Client);
        let shapeless = parse(r#"{"jsonrpc":"2.0","id":5,"result":7}"#, Side::Client);
        let good = parse(r#"{"jsonrpc":"2.0","id":5,"result":{ "n":1.0 }}"#, Side::Client);
        let form = asking(r#"{"method":"elicitation/create","params":{}}"#);
        let roots = asking(r#"{"method":"roots/list"}"#);
        let cancel = Answer::Result(br#"{"action":"cancel"}"#.to_vec());
        for bad in [&refusal, &shapeless] {
            assert_eq!(form.questions()[0].answer(bad), cancel);
            assert!(matches!(roots.questions()[0].answer(bad), Answer::Failed(_)));
        }
        assert_eq!(roots.questions()[0].answer(&good), Answer::Result(br#"{ "n":1.0 }"#.to_vec()));
    }

    #[test]
    fn e177_the_retry_carries_answers_and_state_exactly() {
        let request = r#"{"jsonrpc":"2.0","id":"c","method":"tools/call","params":{"requestState":"forged","name":"n","inputResponses":{},"_meta":{"progressToken":0}}}"#;
        let line = |required: &Required, request: &str, answers: &[Vec<u8>]| {
            let mut line = Vec::new();
            required.retry_line(&mut line, &parse(request, Side::Client), 78, None, answers);
            assert!(line.ends_with(b"\n") && line.iter().filter(|byte| **byte == b'\n').count() == 1);
            String::from_utf8(line).unwrap()
        };
        let required = read(
            r#"{"resultType":"input_required","requestState":"s\u0041/+","inputRequests":{"k\u0031":{"method":"roots/list"},"b":{"method":"roots/list"}}}"#,
        )
        .unwrap();
        let text = line(&required, request, &[b"{\"r\":1.50}".to_vec(), b"{\n}".to_vec()]);
        assert!(text.contains(r#""inputResponses":{"k\u0031":{"r":1.50},"b":{ }}"#), "{text}");
        assert!(text.contains(r#""requestState":"s\u0041/+""#), "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["id"], &value["params"]["name"]), (&json!(78), &json!("n")));
        assert_eq!(value["params"]["_meta"]["progressToken"], json!(78));
        assert!(!text.contains("forged"));
        let stateless = asking(r#"{"method":"roots/list"}"#);
        let text = line(&stateless, request, &[b"{}".to_vec()]);
        assert!(!text.contains("requestState"), "none was given: {text}");
        let only_state = read(r#"{"resultType":"input_required","requestState":""}"#).unwrap();
        let text = line(&only_state, r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#, &[]);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["params"]["requestState"], json!(""));
        assert!(value["params"].get("inputResponses").is_none());
    }

    #[test]
    fn a_tool_error_is_a_result() {
        let body: Value = serde_json::from_slice(&tool_error(b"\"i\"", "a \"b\"")).unwrap();
        let expected = json!({"content":[{"type":"text","text":"a \"b\""}],"isError":true});
        assert_eq!(body, json!({"jsonrpc":"2.0","id":"i","result":expected}));
        let withdrawn: Value = serde_json::from_slice(&withdrawal(4, "r")).unwrap();
        assert_eq!(withdrawn["params"]["requestId"], 4);
    }
}
