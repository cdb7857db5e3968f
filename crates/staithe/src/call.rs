//! `staithe call`: one tool call over the public address, the way any client makes it. The request is of protocol
//! 2026-07-28; a host translates it for servers of every era.

use crate::cli::CallArgs;
use crate::fault;
use crate::output::Output;
use crate::render;
use crate::state::StateDir;
use crate::timing::Timing;
use bytes::{Buf, Bytes};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use model::{Blame, Command, Problem, ProblemCode, Reply};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::TcpStream;

/// The protocol revision that requests are of.
const REVISION: &str = "2026-07-28";
/// Largest answer that is kept in memory, bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// How long the host may take to take the connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How often a call is tried whose token the host does not know.
const TRIES: u32 = 10;
/// How long after such a try comes the next: a new daemon takes calls a moment before it takes commands.
const BETWEEN_TRIES: Duration = Duration::from_millis(200);
/// Most pages of a list of tools.
const MAX_PAGES: usize = 100;
/// The request's id. There is one request per connection.
const ID: u64 = 1;

/// What a tool is given; numbers keep their spelling.
type Arguments = BTreeMap<String, Box<RawValue>>;

/// Calls one tool and prints its answer; exit code 1 where the tool says that it failed. Without a tool it lists them.
pub(crate) async fn call(args: &CallArgs, flag: Option<&Path>, output: Output) -> Result<ExitCode, Problem> {
    let arguments = arguments(&args.arguments)?;
    let state = StateDir::choose(flag, None)?;
    let limit = Duration::from_secs(args.timeout);
    let (answer, timing) = match tokio::time::timeout(limit, ask(args, &arguments, &state, output)).await {
        Err(_elapsed) => return Err(too_slow(args)),
        Ok(Err(Failure { problem, error: Some(error), timing, .. })) if output.is_json() => {
            return Ok(output.problem_with(&problem, &error, timing.map(|timing| timing.json())));
        }
        Ok(Err(Failure { problem, timing: Some(timing), .. })) if !output.is_json() => {
            let code = output.problem(&problem);
            output.text(&timing.table());
            return Ok(code);
        }
        Ok(answer) => answer?,
    };
    if output.is_json() && args.timing {
        output.json(&json!({"result": &answer, "timing": timing.as_ref().map(Timing::json)}));
    } else if output.is_json() {
        output.json(&answer);
    } else if args.tool.is_some() {
        output.foreign_text(&content(&answer));
        if let Some(timing) = timing {
            output.text(&format!("\n{}", timing.table()));
        }
    } else {
        output.text(&tools(&answer));
    }
    let failed = answer.get("isError").and_then(Value::as_bool).unwrap_or(false);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Asks with a token for this one call. Only the daemon that made it knows it: where another one has taken over since, that
/// one has refused the call, and is asked for a token of its own.
async fn ask(args: &CallArgs, arguments: &Arguments, state: &StateDir, output: Output) -> Result<Answer, Failure> {
    let mut tries = 1;
    loop {
        let (url, token) = access(args, state).await?;
        let token = token.as_deref();
        let answer = match &args.tool {
            Some(tool) => {
                let call = ToolCall { url: &url, token, tool, arguments };
                call.ask(args.timing, &mut |note| output.note(note)).await
            }
            None => list(&url, token).await.map(|tools| (tools, None)),
        };
        match answer {
            Err(failure) if failure.unknown_token && tries < TRIES => tries += 1,
            other => return other,
        }
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
}

/// The server's address, and a token where one is needed.
async fn access(args: &CallArgs, state: &StateDir) -> Result<(String, Option<String>), Problem> {
    let access = Command::Access { server: args.server.clone() };
    match doors::call(&state.socket(), &access).await?.only().await? {
        Reply::Access { url, token } => Ok((url, token)),
        _ => Err(fault::failed("the daemon answered something else than asked", "is it another version of staithe?")),
    }
}

fn arguments(text: &str) -> Result<Arguments, Problem> {
    serde_json::from_str(text).map_err(|error| {
        let hint = match text.split_once('=') {
            Some((name, _)) if !text.trim_start().starts_with('{') => {
                format!("write them as one JSON object, like '{{{}: …}}'", Value::from(name))
            }
            _ => "write them like '{\"text\": \"hello\"}'".to_owned(),
        };
        fault::usage(format!("the arguments are not a JSON object: {error}"), hint)
    })
}

fn too_slow(args: &CallArgs) -> Problem {
    let what =
        args.tool.as_ref().map_or_else(|| "the list of its tools".to_owned(), |tool| format!("the call of {tool}"));
    let message = format!("{} did not answer {what} within {} s", args.server, args.timeout);
    let hint = format!("wait longer with --timeout, or look at `staithe logs {}`", args.server);
    Problem { code: ProblemCode::Failed, blame: Blame::Server, message, hint: Some(hint) }
}

/// Every tool of a server, as one `tools/list` result.
async fn list(url: &str, token: Option<&str>) -> Result<Value, Failure> {
    let mut tools = Vec::new();
    let mut cursor = None;
    for _ in 0..MAX_PAGES {
        let params = Params { name: None, arguments: None, cursor: cursor.as_deref(), meta: meta() };
        let asked = Asked { url, token, method: "tools/list", params, timing: false };
        let (mut page, _) = asked.make(&mut |_| {}).await?;
        if let Some(Value::Array(more)) = page.get_mut("tools").map(Value::take) {
            tools.extend(more);
        }
        cursor = page.get("nextCursor").and_then(Value::as_str).map(str::to_owned);
        if cursor.is_none() {
            return Ok(json!({"tools": tools}));
        }
    }
    Err(fault::failed(format!("the list of tools has more than {MAX_PAGES} pages"), "ask with an MCP client").into())
}

/// One line for each tool: its name and the first line of its description.
fn tools(result: &Value) -> String {
    let rows: Vec<Vec<String>> = result.get("tools").and_then(Value::as_array).into_iter().flatten().map(row).collect();
    if rows.is_empty() { "no tools\n".to_owned() } else { render::table(&["TOOL", "WHAT IT DOES"], rows) }
}

fn row(tool: &Value) -> Vec<String> {
    let text = |name: &str| tool.get(name).and_then(Value::as_str).unwrap_or_default();
    let first = text("description").trim().lines().next().unwrap_or_default();
    vec![render::clean(text("name")), render::clean(first)]
}

/// A call without a result.
#[derive(Debug)]
pub(crate) struct Failure {
    problem: Problem,
    /// The JSON-RPC error, where that was the answer.
    error: Option<Value>,
    /// The host did not know the token, so the call was not made.
    unknown_token: bool,
    /// Where its time went, if the host said it.
    timing: Option<Timing>,
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self { problem, error: None, unknown_token: false, timing: None }
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        failure.problem
    }
}

/// One call to make.
pub(crate) struct ToolCall<'a> {
    /// The server's public address.
    pub(crate) url: &'a str,
    /// The bearer token, where one is needed.
    pub(crate) token: Option<&'a str>,
    /// The tool.
    pub(crate) tool: &'a str,
    /// Its arguments; numbers keep their spelling.
    pub(crate) arguments: &'a Arguments,
}

#[derive(Serialize)]
struct Message<'a> {
    jsonrpc: &'static str,
    id: u64,
    method: &'static str,
    params: &'a Params<'a>,
}

#[derive(Serialize)]
struct Params<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<&'a BTreeMap<String, Box<RawValue>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<&'a str>,
    #[serde(rename = "_meta")]
    meta: Value,
}

impl ToolCall<'_> {
    /// Makes the call; its `result` as the server gave it. Progress and log messages on the way go to `note`.
    pub(crate) async fn make(&self, note: &mut impl FnMut(&str)) -> Result<Value, Failure> {
        self.ask(false, note).await.map(|(result, _)| result)
    }

    /// The same, and where its time went, if that is wanted and the host says it.
    async fn ask(&self, timing: bool, note: &mut impl FnMut(&str)) -> Result<Answer, Failure> {
        let params = Params { name: Some(self.tool), arguments: Some(self.arguments), cursor: None, meta: meta() };
        Asked { url: self.url, token: self.token, method: "tools/call", params, timing }.make(note).await
    }
}

/// A result, and where the time went.
type Answer = (Value, Option<Timing>);

/// One request to make.
struct Asked<'a> {
    url: &'a str,
    token: Option<&'a str>,
    method: &'static str,
    params: Params<'a>,
    timing: bool,
}

impl Asked<'_> {
    async fn make(&self, note: &mut impl FnMut(&str)) -> Result<Answer, Failure> {
        let uri: Uri =
            self.url.parse().map_err(|error| fault::because(&format!("use the address {}", self.url), &error, ""))?;
        let mut connection = connect(&uri).await?;
        let request = self.request(&uri)?;
        let response = connection.send_request(request).await.map_err(|error| broken(&error))?;
        let streamed =
            response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        let told = response.headers().get("server-timing").and_then(|value| value.to_str().ok());
        let told = told.and_then(Timing::parse);
        if streamed {
            return read_events(response, note).await;
        }
        let status = response.status();
        let body = read_all(response).await?;
        match serde_json::from_slice::<Value>(&body) {
            Ok(message) => timed(outcome(status, message), told),
            Err(_) => Err(refused(status, &format!("it answered {status} without JSON")).into()),
        }
    }

    fn request(&self, uri: &Uri) -> Result<Request<Full<Bytes>>, Problem> {
        let body = serde_json::to_vec(&Message { jsonrpc: "2.0", id: ID, method: self.method, params: &self.params });
        let body = body.map_err(|error| fault::because("write the request", &error, ""))?;
        let mut request = Request::post(uri.path())
            .header(HOST, uri.authority().map(http::uri::Authority::as_str).unwrap_or_default())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, text/event-stream")
            .header("MCP-Protocol-Version", REVISION)
            .header("Mcp-Method", self.method);
        if self.timing {
            request = request.header("X-Staithe-Timing", "1");
        }
        if let Some(name) = self.params.name {
            request = request.header("Mcp-Name", mirrored(name));
        }
        if let Some(token) = self.token {
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            let mut value = value.map_err(|error| fault::because("send the token", &error, ""))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        request.body(Full::new(Bytes::from(body))).map_err(|error| fault::because("write the request", &error, ""))
    }
}

/// What every request says about its client.
fn meta() -> Value {
    json!({
        "progressToken": "progress",
        "io.modelcontextprotocol/protocolVersion": REVISION,
        "io.modelcontextprotocol/clientInfo": {"name": "staithe-call", "version": env!("CARGO_PKG_VERSION")},
        "io.modelcontextprotocol/clientCapabilities": {},
    })
}

async fn connect(uri: &Uri) -> Result<SendRequest<Full<Bytes>>, Problem> {
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let hint = "is the daemon still running? `staithe status` tells";
    let failed = |error: &dyn std::error::Error| fault::because(&format!("reach {authority}"), error, hint);
    let connected = tokio::time::timeout(CONNECT, TcpStream::connect(authority)).await;
    let stream = connected.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    stream.set_nodelay(true).map_err(|error| failed(&error))?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    drop(stdx::task::spawn("call connection", connection));
    Ok(sender)
}

async fn read_all(mut response: Response<Incoming>) -> Result<Vec<u8>, Problem> {
    let mut body = Vec::new();
    while let Some(frame) = response.frame().await {
        if let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() {
            keep(&mut body, data)?;
        }
    }
    Ok(body)
}

async fn read_events(mut response: Response<Incoming>, note: &mut impl FnMut(&str)) -> Result<Answer, Failure> {
    let (status, mut events) = (response.status(), Events::default());
    while let Some(frame) = response.frame().await {
        let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() else { continue };
        keep(&mut events.unread, data)?;
        while let Some(data) = events.next() {
            let Ok(message) = serde_json::from_str::<Value>(&data) else { continue };
            if message.get("id").and_then(Value::as_u64) == Some(ID) && message.get("method").is_none() {
                return timed(outcome(status, message), events.timing);
            }
            if let Some(text) = on_the_way(&message) {
                note(&text);
            }
        }
    }
    Err(refused(StatusCode::BAD_GATEWAY, "its stream ended without an answer").into())
}

fn keep(to: &mut Vec<u8>, mut data: Bytes) -> Result<(), Problem> {
    if to.len() + data.len() > MAX_ANSWER {
        return Err(fault::failed(
            format!("the answer is larger than {MAX_ANSWER} bytes"),
            "ask the tool for less at a time",
        ));
    }
    while data.has_remaining() {
        let chunk = data.chunk();
        to.extend_from_slice(chunk);
        data.advance(chunk.len());
    }
    Ok(())
}

/// Server-sent events out of the bytes that have come so far.
#[derive(Default)]
struct Events {
    unread: Vec<u8>,
    data: Option<String>,
    /// What a comment said about the call's time.
    timing: Option<Timing>,
}

impl Events {
    /// The data of the next whole event that has any.
    fn next(&mut self) -> Option<String> {
        while let Some(end) = self.unread.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line[..end]).trim_end_matches('\r').to_owned();
            if line.is_empty() {
                if let Some(data) = self.data.take() {
                    return Some(data);
                }
            } else if let Some(text) = line.strip_prefix(": server-timing ") {
                self.timing = Timing::parse(text);
            } else if let Some(text) = line.strip_prefix("data:") {
                let text = text.strip_prefix(' ').unwrap_or(text);
                match &mut self.data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(text);
                    }
                    None => self.data = Some(text.to_owned()),
                }
            }
        }
        None
    }
}

/// Progress and log messages in words.
fn on_the_way(message: &Value) -> Option<String> {
    let params = message.get("params")?;
    match message.get("method")?.as_str()? {
        "notifications/progress" => {
            let of = params.get("total").map(|total| format!(" of {total}")).unwrap_or_default();
            let text =
                params.get("message").and_then(Value::as_str).map(|text| format!(": {text}")).unwrap_or_default();
            Some(format!("progress {}{of}{text}", params.get("progress")?))
        }
        "notifications/message" => {
            let data = params.get("data")?;
            let text = data.as_str().map_or_else(|| data.to_string(), str::to_owned);
            Some(format!("{}: {text}", params.get("level").and_then(Value::as_str).unwrap_or("log")))
        }
        _ => None,
    }
}

fn timed(outcome: Result<Value, Failure>, timing: Option<Timing>) -> Result<Answer, Failure> {
    match outcome {
        Ok(result) => Ok((result, timing)),
        Err(failure) => Err(Failure { timing, ..failure }),
    }
}

/// The result in a whole answer, or why there is none.
fn outcome(status: StatusCode, mut message: Value) -> Result<Value, Failure> {
    if let Some(result) = message.get_mut("result").map(Value::take) {
        if result.get("resultType").and_then(Value::as_str) == Some("input_required") {
            let message = "the tool asks for input before it answers, which this command cannot give";
            return Err(fault::failed(message, "call it from an MCP client that can").into());
        }
        return Ok(result);
    }
    let error = message.get_mut("error").map(Value::take);
    let member = |name: &str| error.as_ref().and_then(|error| error.get(name));
    let text = member("message").and_then(Value::as_str).unwrap_or("the answer holds neither result nor error");
    let code = member("code").map(|code| format!(" (code {code})")).unwrap_or_default();
    let mut problem = refused(status, &format!("{text}{code}"));
    if let Some(blame) = error.as_ref().and_then(blame) {
        problem.blame = blame;
    }
    Err(Failure { problem, error, unknown_token: status == StatusCode::UNAUTHORIZED, timing: None })
}

/// Whom an error is to be blamed on: staithe's own errors say it, the server's own are its fault unless their code says
/// that the request was wrong.
fn blame(error: &Value) -> Option<Blame> {
    let data = |name: &str| error.get("data").and_then(|data| data.get(name));
    if data("source").and_then(Value::as_str) == Some("staithe") {
        return serde_json::from_value(data("blame")?.clone()).ok();
    }
    match error.get("code")?.as_i64()? {
        -32603 | -32099..=-32000 => Some(Blame::Server),
        _ => None,
    }
}

fn refused(status: StatusCode, text: &str) -> Problem {
    let (code, blame) = match status.as_u16() {
        401 | 403 => (ProblemCode::Denied, Blame::Caller),
        404 => (ProblemCode::NotFound, Blame::Caller),
        500..=599 => (ProblemCode::Unhealthy, Blame::Server),
        _ => (ProblemCode::Failed, Blame::Caller),
    };
    let hint = Some("`staithe status` shows how the server is, `staithe logs` what it said".to_owned());
    Problem { code, blame, message: format!("the call failed: {text}"), hint }
}

fn broken(error: &hyper::Error) -> Problem {
    fault::because("finish the call", error, "is the daemon still running? `staithe status` tells")
}

/// A header value that mirrors a member of the body: as it is where it is plain, else Base64 between markers.
fn mirrored(text: &str) -> String {
    let plain = !text.is_empty()
        && text.bytes().all(|b| (0x20..0x7f).contains(&b))
        && text.trim() == text
        && !(text.starts_with("=?base64?") && text.ends_with("?="));
    if plain { text.to_owned() } else { format!("=?base64?{}?=", base64(text.as_bytes())) }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| (word << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let six = usize::try_from((word >> (18 - 6 * place)) & 63).unwrap_or(0);
            out.push(if place <= chunk.len() { char::from(ALPHABET[six]) } else { '=' });
        }
    }
    out
}

/// A tool's answer as a person reads it.
pub(crate) fn content(result: &Value) -> String {
    let mut out = String::new();
    for part in result.get("content").and_then(Value::as_array).into_iter().flatten() {
        let text = |name: &str| part.get(name).and_then(Value::as_str);
        let line = match text("type") {
            Some("text") => text("text").unwrap_or_default().to_owned(),
            Some(kind @ ("image" | "audio")) => {
                let bytes = text("data").unwrap_or_default().len() / 4 * 3;
                format!(
                    "[{kind}, {}, about {bytes} bytes: `--json` shows it]",
                    text("mimeType").unwrap_or("unknown type")
                )
            }
            Some("resource_link") => format!("[resource {}]", text("uri").unwrap_or_default()),
            Some("resource") => {
                let inside = |name: &str| part.pointer(&format!("/resource/{name}")).and_then(Value::as_str);
                let shown = inside("text").map(str::to_owned);
                shown.unwrap_or_else(|| format!("[resource {}: `--json` shows it]", inside("uri").unwrap_or_default()))
            }
            _ => part.to_string(),
        };
        out.push_str(&line);
        if !line.ends_with('\n') {
            out.push('\n');
        }
    }
    if out.is_empty() {
        let data = result.get("structuredContent").unwrap_or(result);
        out = format!("{}\n", serde_json::to_string_pretty(data).unwrap_or_else(|_| render::clean(&data.to_string())));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Events, arguments, base64, content, mirrored, on_the_way, outcome, tools};
    use http::StatusCode;
    use model::{Blame, ProblemCode};
    use serde_json::json;

    #[test]
    fn base64_is_the_usual_one() {
        for (text, want) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy"), ("ä?>", "w6Q/Pg==")]
        {
            assert_eq!(base64(text.as_bytes()), want);
        }
    }

    #[test]
    fn only_names_that_a_header_cannot_hold_are_wrapped() {
        assert_eq!(mirrored("read file"), "read file");
        for odd in ["", " a", "a\nb", "ä", "=?base64?x?="] {
            assert!(mirrored(odd).starts_with("=?base64?") && mirrored(odd).ends_with("?="), "{odd:?}");
        }
    }

    #[test]
    fn events_come_whole_however_they_are_cut() {
        let stream = ": keep-alive\n\nevent: message\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\nid: 5\n\ndata:x\n\n";
        for size in [1, 3, stream.len()] {
            let mut events = Events::default();
            let mut seen = Vec::new();
            for piece in stream.as_bytes().chunks(size) {
                events.unread.extend_from_slice(piece);
                while let Some(data) = events.next() {
                    seen.push(data);
                }
            }
            assert_eq!(seen, ["{\"a\":\n1}", "x"]);
        }
    }

    #[test]
    fn answers_read_well() {
        let result = json!({"content": [
            {"type": "text", "text": "hello"},
            {"type": "image", "mimeType": "image/png", "data": "AAAAAAAA"},
            {"type": "resource_link", "uri": "demo://x"},
            {"type": "resource", "resource": {"uri": "demo://y", "text": "inside\n"}},
        ]});
        assert_eq!(
            content(&result),
            "hello\n[image, image/png, about 6 bytes: `--json` shows it]\n[resource demo://x]\ninside\n"
        );
        assert_eq!(content(&json!({"content": [], "structuredContent": {"a": 1}})), "{\n  \"a\": 1\n}\n");
    }

    #[test]
    fn progress_reads_well() {
        let message =
            json!({"method": "notifications/progress", "params": {"progress": 2, "total": 5, "message": "half"}});
        assert_eq!(on_the_way(&message).unwrap(), "progress 2 of 5: half");
    }

    #[test]
    fn an_error_of_the_wire_keeps_its_blame_and_its_data() {
        let error = json!({"code": -32603, "message": "it ended", "data": {"source": "staithe", "reason": "server_ended", "blame": "server"}});
        let failure = outcome(StatusCode::OK, json!({"error": error})).unwrap_err();
        assert_eq!((failure.problem.blame, failure.error.as_ref()), (Blame::Server, Some(&error)));
        let blamed = |code: i64, blame: &str| {
            let error = json!({"code": code, "message": "x", "data": {"source": "staithe", "blame": blame}});
            outcome(StatusCode::OK, json!({"error": error})).unwrap_err().problem.blame
        };
        assert_eq!([blamed(-32603, "host"), blamed(-32603, "caller")], [Blame::Host, Blame::Caller]);
        let own = |code: i64| outcome(StatusCode::OK, json!({"error": {"code": code, "message": "x"}})).unwrap_err();
        assert_eq!([own(-32602).problem.blame, own(-32603).problem.blame], [Blame::Caller, Blame::Server]);
    }

    #[test]
    fn tools_are_listed_by_name_and_first_line() {
        let result = json!({"tools": [
            {"name": "add", "description": "Adds.\nSlowly."}, {"name": "no\u{1b}words"}, {"description": 5},
        ]});
        assert_eq!(tools(&result), "TOOL      WHAT IT DOES\nadd       Adds.\nno words\n\n");
        assert_eq!(tools(&json!({"tools": []})), "no tools\n");
    }

    #[test]
    fn words_that_are_no_json_are_explained() {
        assert_eq!(arguments("a=2").unwrap_err().hint.unwrap(), "write them as one JSON object, like '{\"a\": …}'");
        assert!(arguments("{\"a\": \"b=2\"").unwrap_err().hint.unwrap().contains("hello"));
        assert_eq!(arguments("{\"a\": 2}").unwrap()["a"].get(), "2");
    }

    #[test]
    fn failures_have_the_right_code() {
        let error = |status: u16| {
            let message = json!({"error": {"code": -32000, "message": "no"}});
            outcome(StatusCode::from_u16(status).unwrap(), message).unwrap_err().problem.code
        };
        assert_eq!(
            [error(401), error(404), error(503), error(200)],
            [ProblemCode::Denied, ProblemCode::NotFound, ProblemCode::Unhealthy, ProblemCode::Failed]
        );
        assert!(outcome(StatusCode::OK, json!({"result": {"resultType": "input_required"}})).is_err());
        assert_eq!(outcome(StatusCode::OK, json!({"result": {"a": 1}})).unwrap(), json!({"a": 1}));
    }
}
