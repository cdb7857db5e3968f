//! The server that `staithe demo` hosts: an ordinary MCP server over stdin and stdout, as small as one can be that speaks
//! both eras. It knows nothing of its host.

use serde_json::{Value, json};
use std::io::{self, BufRead, Read, Write};
use std::process::ExitCode;

/// Longest line that is read, bytes.
const MAX_LINE: u64 = 4 * 1024 * 1024;
const LEGACY: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
const MODERN: &str = "2026-07-28";
const ABOUT: &str = "A small server to try staithe with: it repeats, adds and tells the time.";

/// Serves until stdin ends.
pub(crate) fn main() -> ExitCode {
    match serve(&mut io::stdin().lock(), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if this fails too.
            drop(writeln!(io::stderr(), "demo server: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Answers each line of `input` on `output`. The first message decides the era for life.
pub(crate) fn serve(input: &mut impl BufRead, output: &mut impl Write) -> io::Result<()> {
    writeln!(io::stderr(), "demo server: ready (process {})", std::process::id())?;
    let mut era = None;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') && read as u64 == MAX_LINE {
            return Err(io::Error::other("a line is longer than 4 MiB"));
        }
        if let Some(answer) = answer(&line, &mut era) {
            serde_json::to_writer(&mut *output, &answer)?;
            output.write_all(b"\n")?;
            output.flush()?;
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Era {
    Legacy,
    Modern,
}

/// A JSON-RPC error: code, message and data.
type Failure = (i64, String, Option<Value>);

fn answer(line: &[u8], era: &mut Option<Era>) -> Option<Value> {
    let Ok(message) = serde_json::from_slice::<Value>(line) else {
        return Some(json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32700, "message": "not JSON"}}));
    };
    let id = message.get("id").filter(|id| !id.is_null())?;
    let method = message.get("method")?.as_str()?;
    let none = json!({});
    let params = message.get("params").unwrap_or(&none);
    let revision = params.pointer("/_meta/io.modelcontextprotocol~1protocolVersion").and_then(Value::as_str);
    let now = *era.get_or_insert(if revision.is_some() { Era::Modern } else { Era::Legacy });
    let result = match now {
        Era::Legacy => legacy(method, params),
        Era::Modern => modern(method, params, revision),
    };
    Some(match result {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Err((code, text, data)) => {
            let mut error = json!({"code": code, "message": text});
            if let Some(data) = data {
                error["data"] = data;
            }
            json!({"jsonrpc": "2.0", "id": id, "error": error})
        }
    })
}

fn legacy(method: &str, params: &Value) -> Result<Value, Failure> {
    match method {
        "initialize" => {
            let asked = params.get("protocolVersion").and_then(Value::as_str).unwrap_or_default();
            let agreed = if LEGACY.contains(&asked) { asked } else { LEGACY[3] };
            Ok(json!({
                "protocolVersion": agreed, "capabilities": capabilities(), "serverInfo": server_info(), "instructions": ABOUT,
            }))
        }
        "ping" => Ok(json!({})),
        _ => feature(method, params),
    }
}

fn modern(method: &str, params: &Value, revision: Option<&str>) -> Result<Value, Failure> {
    let declared = params.pointer("/_meta/io.modelcontextprotocol~1clientCapabilities");
    match revision {
        None if method == "initialize" => {
            let data = json!({"supported": [MODERN]});
            return Err((-32022, "this process speaks 2026-07-28 since its first message".to_owned(), Some(data)));
        }
        Some(MODERN) if declared.is_some_and(Value::is_object) => {}
        Some(MODERN) | None => {
            return Err((-32602, "the request's _meta lacks protocol version or capabilities".to_owned(), None));
        }
        Some(other) => {
            let data = json!({"supported": [MODERN], "requested": other});
            return Err((-32022, format!("protocol version {other:?} is not supported"), Some(data)));
        }
    }
    let mut result = match method {
        "server/discover" => {
            json!({"supportedVersions": [MODERN], "capabilities": capabilities(), "instructions": ABOUT})
        }
        _ => feature(method, params)?,
    };
    result["resultType"] = json!("complete");
    result["_meta"]["io.modelcontextprotocol/serverInfo"] = server_info();
    if method == "server/discover" || method.ends_with("/list") || method == "resources/read" {
        result["ttlMs"] = json!(60_000);
        result["cacheScope"] = json!("public");
    }
    Ok(result)
}

fn capabilities() -> Value {
    json!({"tools": {}, "resources": {}, "prompts": {}})
}

fn server_info() -> Value {
    json!({"name": "staithe-demo", "title": "staithe demo", "version": env!("CARGO_PKG_VERSION")})
}

/// What both eras share.
fn feature(method: &str, params: &Value) -> Result<Value, Failure> {
    match method {
        "tools/list" => Ok(json!({"tools": tools()})),
        "tools/call" => call(params),
        "resources/list" => Ok(json!({"resources": [{
            "uri": "demo://readme", "name": "readme", "description": "What this server is.", "mimeType": "text/plain",
        }]})),
        "resources/templates/list" => Ok(json!({"resourceTemplates": []})),
        "resources/read" if params.get("uri").and_then(Value::as_str) == Some("demo://readme") => {
            Ok(json!({"contents": [{"uri": "demo://readme", "mimeType": "text/plain", "text": ABOUT}]}))
        }
        "resources/read" => Err((-32602, "there is only the resource demo://readme".to_owned(), None)),
        "prompts/list" => Ok(json!({"prompts": [{
            "name": "greet", "description": "Asks the model to greet somebody.",
            "arguments": [{"name": "who", "description": "Whom to greet.", "required": true}],
        }]})),
        "prompts/get" if params.get("name").and_then(Value::as_str) == Some("greet") => {
            let who = params.pointer("/arguments/who").and_then(Value::as_str);
            let who = who.ok_or_else(|| (-32602, "the prompt needs the argument `who`".to_owned(), None))?;
            let text = format!("Greet {who} in one friendly sentence.");
            Ok(json!({"messages": [{"role": "user", "content": {"type": "text", "text": text}}]}))
        }
        "prompts/get" => Err((-32602, "there is only the prompt greet".to_owned(), None)),
        _ => Err((-32601, format!("there is no method {method:?}"), None)),
    }
}

fn tools() -> Value {
    json!([
        {
            "name": "echo",
            "description": "Repeats the given text. Use it to see that the connection works.",
            "inputSchema": {
                "type": "object", "required": ["text"],
                "properties": {"text": {"type": "string", "description": "What to repeat."}},
            },
            "annotations": {"readOnlyHint": true},
        },
        {
            "name": "add",
            "description": "Adds two numbers and returns their sum.",
            "inputSchema": {
                "type": "object", "required": ["a", "b"],
                "properties": {
                    "a": {"type": "number", "description": "The first number."},
                    "b": {"type": "number", "description": "The second number."},
                },
            },
            "annotations": {"readOnlyHint": true},
        },
        {
            "name": "clock",
            "description": "Tells the time of the machine that hosts this server, in UTC.",
            "inputSchema": {"type": "object", "properties": {}},
            "annotations": {"readOnlyHint": true},
        },
    ])
}

fn call(params: &Value) -> Result<Value, Failure> {
    let argument = |name: &str| params.pointer("/arguments").and_then(|arguments| arguments.get(name));
    let text = match params.get("name").and_then(Value::as_str).unwrap_or_default() {
        "echo" => argument("text").and_then(Value::as_str).map(str::to_owned).ok_or("`text` must be a text"),
        "add" => match (argument("a"), argument("b")) {
            (Some(Value::Number(a)), Some(Value::Number(b))) => Ok(sum(a, b)),
            _ => Err("`a` and `b` must be numbers"),
        },
        "clock" => Ok(stdx::clock::rfc3339(stdx::clock::unix_ms())),
        other => return Err((-32602, format!("there is no tool {other:?}: try echo, add or clock"), None)),
    };
    // A bad argument is the model's to mend, so it reads the reason as the tool's answer.
    let failed = text.is_err();
    let text = text.unwrap_or_else(str::to_owned);
    Ok(json!({"content": [{"type": "text", "text": text}], "isError": failed}))
}

fn sum(a: &serde_json::Number, b: &serde_json::Number) -> String {
    match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => (i128::from(a) + i128::from(b)).to_string(),
        _ => (a.as_f64().unwrap_or(f64::NAN) + b.as_f64().unwrap_or(f64::NAN)).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    fn talk(lines: &[Value]) -> Vec<Value> {
        let input: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let mut output = Vec::new();
        super::serve(&mut input.as_bytes(), &mut output).unwrap();
        String::from_utf8(output).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn request(id: u32, method: &str, params: &Value) -> Value {
        json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
    }

    fn modern(extra: &Value) -> Value {
        let mut params = json!({"_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        }});
        params.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        params
    }

    #[test]
    fn a_legacy_client_is_served() {
        let answers = talk(&[
            request(1, "initialize", &json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {}})),
            json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
            request(2, "tools/call", &json!({"name": "add", "arguments": {"a": 2, "b": 40}})),
            request(3, "tools/call", &json!({"name": "add", "arguments": {"a": "2"}})),
            request(4, "nothing/there", &json!({})),
        ]);
        assert_eq!(answers.len(), 4);
        assert_eq!(answers[0]["result"]["protocolVersion"], "2025-06-18");
        assert_eq!(answers[1]["result"]["content"][0]["text"], "42");
        assert_eq!(answers[2]["result"]["isError"], true);
        assert_eq!(answers[3]["error"]["code"], -32601);
    }

    #[test]
    fn a_modern_client_is_served_and_the_era_stays() {
        let answers = talk(&[
            request(1, "server/discover", &modern(&json!({}))),
            request(2, "tools/call", &modern(&json!({"name": "echo", "arguments": {"text": "hé"}}))),
            request(3, "initialize", &json!({"protocolVersion": "2025-06-18"})),
            request(4, "resources/read", &modern(&json!({"uri": "demo://readme"}))),
        ]);
        assert_eq!(answers[0]["result"]["supportedVersions"], json!(["2026-07-28"]));
        assert_eq!(answers[0]["result"]["cacheScope"], "public");
        assert_eq!(answers[1]["result"]["content"][0]["text"], "hé");
        assert_eq!(answers[1]["result"]["resultType"], "complete");
        assert_eq!(answers[2]["error"]["code"], -32022);
        assert!(answers[3]["result"]["ttlMs"].is_u64());
    }

    #[test]
    fn another_version_is_refused_with_what_is_supported() {
        let mut params = modern(&json!({}));
        params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2031-01-01");
        let answers = talk(&[request(1, "server/discover", &params)]);
        assert_eq!(answers[0]["error"]["code"], -32022);
        assert_eq!(answers[0]["error"]["data"]["supported"], json!(["2026-07-28"]));
    }

    #[test]
    fn sums_of_whole_numbers_are_whole() {
        let add = |a: Value, b: Value| request(1, "tools/call", &json!({"name": "add", "arguments": {"a": a, "b": b}}));
        let answers = talk(&[add(json!(i64::MAX), json!(1)), add(json!(0.5), json!(1))]);
        assert_eq!(answers[0]["result"]["content"][0]["text"], "9223372036854775808");
        assert_eq!(answers[1]["result"]["content"][0]["text"], "1.5");
    }
}
