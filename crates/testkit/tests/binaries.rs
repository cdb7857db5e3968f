//! Every hosted server of this crate, started as a real process and spoken to over its pipes.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::needless_pass_by_value, reason = "messages are written in place, as values")]

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

const EVERYTHING: &str = env!("CARGO_BIN_EXE_everything");
const ODD: &str = env!("CARGO_BIN_EXE_odd");
const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for an answer that must not come to come.
const QUIET: Duration = Duration::from_millis(300);

/// A running server. Its stdin closes when this is dropped.
struct Program {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<Vec<u8>>,
}

impl Program {
    fn start(path: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(path);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, lines) = sync_channel(1000);
        std::thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            let mut line = Vec::new();
            while stdout.read_until(b'\n', &mut line).unwrap() > 0 {
                if sender.send(std::mem::take(&mut line)).is_err() {
                    break;
                }
            }
        });
        Self { child, stdin, lines }
    }

    fn legacy(path: &str, arguments: &[&str], capabilities: Value) -> Self {
        let mut program = Self::start(path, arguments);
        let info = json!({"name": "test", "version": "1"});
        let params = json!({"protocolVersion": "2025-06-18", "capabilities": capabilities, "clientInfo": info});
        let answer = program.call("init", "initialize", params);
        assert_eq!(answer["result"]["protocolVersion"], "2025-06-18", "{answer}");
        program.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        program
    }

    fn write(&mut self, text: &str) {
        self.stdin.write_all(format!("{text}\n").as_bytes()).unwrap();
    }

    fn send(&mut self, message: &Value) {
        self.write(&message.to_string());
    }

    fn request(&mut self, id: &str, method: &str, params: Value) {
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
    }

    /// A request of the modern era, from a client with these capabilities.
    fn modern(&mut self, id: &str, method: &str, mut params: Value, capabilities: Value) {
        let meta = &mut params["_meta"];
        meta["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
        meta["io.modelcontextprotocol/clientCapabilities"] = capabilities;
        self.request(id, method, params);
    }

    fn line(&mut self) -> Vec<u8> {
        self.lines.recv_timeout(PATIENCE).unwrap()
    }

    fn message(&mut self) -> Value {
        serde_json::from_slice(&self.line()).unwrap()
    }

    /// Sends a request; the next message must be its answer.
    fn call(&mut self, id: &str, method: &str, params: Value) -> Value {
        self.request(id, method, params);
        self.answer(id)
    }

    fn modern_call(&mut self, id: &str, method: &str, params: Value, capabilities: Value) -> Value {
        self.modern(id, method, params, capabilities);
        self.answer(id)
    }

    fn tool(&mut self, name: &str, arguments: Value) -> Value {
        self.call(name, "tools/call", json!({"name": name, "arguments": arguments}))
    }

    fn answer(&mut self, id: &str) -> Value {
        let message = self.message();
        assert_eq!(message["id"], id, "{message}");
        message
    }

    fn assert_quiet(&mut self) {
        let said = self.lines.recv_timeout(QUIET).map(|line| String::from_utf8_lossy(&line).into_owned());
        assert_eq!(said, Err(RecvTimeoutError::Timeout));
    }

    /// Closes stdin and waits for the exit.
    fn finish(self) -> (ExitStatus, String) {
        let Self { child, stdin, .. } = self;
        drop(stdin);
        wait(child)
    }
}

/// Waits for the exit, and kills what does not exit in time.
fn wait(mut child: Child) -> (ExitStatus, String) {
    let deadline = stdx::clock::monotonic() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if stdx::clock::monotonic() > deadline {
            child.kill().unwrap();
            panic!("the program did not exit in time");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    (status, stderr)
}

fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text in {answer}"))
}

const TEST_TOOLS: [&str; 26] = [
    "test_simple_text",
    "test_image_content",
    "test_audio_content",
    "test_embedded_resource",
    "test_multiple_content_types",
    "test_tool_with_logging",
    "test_tool_with_progress",
    "test_error_handling",
    "test_sampling",
    "test_elicitation",
    "test_elicitation_sep1034_defaults",
    "test_elicitation_sep1330_enums",
    "test_reconnection",
    "json_schema_2020_12_tool",
    "test_missing_capability",
    "test_streaming_elicitation",
    "test_logging_tool",
    "test_trigger_tool_change",
    "test_trigger_prompt_change",
    "test_input_required_result_elicitation",
    "test_input_required_result_sampling",
    "test_input_required_result_list_roots",
    "test_input_required_result_request_state",
    "test_input_required_result_multiple_inputs",
    "test_input_required_result_multi_round",
    "test_input_required_result_capabilities",
];

#[test]
fn everything_serves_a_legacy_client() {
    let mut server = Program::legacy(EVERYTHING, &["--legacy"], json!({}));
    assert_eq!(server.call("p", "ping", json!({}))["result"], json!({}));
    let tools = server.call("t", "tools/list", json!({}))["result"]["tools"].clone();
    let names: Vec<&str> = tools.as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert!(TEST_TOOLS.iter().all(|name| names.contains(name)), "{names:?}");
    for name in ["test_simple_text", "test_embedded_resource", "test_reconnection", "test_header_param"] {
        assert!(server.tool(name, json!({}))["result"]["content"][0].is_object(), "{name}");
    }
    assert_eq!(server.tool("test_error_handling", json!({}))["result"]["isError"], true);
    assert_eq!(server.tool("nothing", json!({}))["error"]["code"], -32602);
    let read = |uri: &str| json!({"uri": uri});
    let data = server.call("r", "resources/read", read("test://template/123/data"));
    assert!(data["result"]["contents"][0]["text"].as_str().unwrap().contains("123"));
    assert_eq!(server.call("r", "resources/read", read("test://nothing"))["error"]["code"], -32002);
    let prompt = json!({"name": "test_prompt_with_arguments", "arguments": {"arg1": "x", "arg2": "y"}});
    let prompt = server.call("g", "prompts/get", prompt);
    let said = "Prompt with arguments: arg1='x', arg2='y'";
    assert_eq!(prompt["result"]["messages"][0]["content"]["text"], said);
    let reference = json!({"type": "ref/prompt", "name": "test_prompt_with_arguments"});
    let argument = json!({"name": "arg1", "value": "par"});
    let completed = server.call("c", "completion/complete", json!({"ref": reference, "argument": argument}));
    assert_eq!(completed["result"]["completion"]["values"], json!(["paris", "park", "party"]));
    assert_eq!(server.call("d", "server/discover", json!({}))["error"]["code"], -32601);
    assert_eq!(server.call("i", "initialize", json!({"protocolVersion": "2025-06-18"}))["error"]["code"], -32600);
    assert!(server.finish().0.success());
}

#[test]
fn everything_keeps_the_spelling_of_ids_and_arguments() {
    let mut server = Program::legacy(EVERYTHING, &[], json!({}));
    let arguments = r#"{"big":1234567890123456789012345,"d":1.10,"s":"\u0041"}"#;
    server.write(&format!(
        r#"{{"jsonrpc":"2.0","id":12345678901234567890123,"method":"tools/call","params":{{"name":"echo","arguments":{arguments}}}}}"#
    ));
    let line = String::from_utf8(server.line()).unwrap();
    assert!(line.contains(r#""id":12345678901234567890123,"#), "{line}");
    assert!(line.contains(&format!(r#""structuredContent":{arguments}"#)), "{line}");
    server.write("no json");
    assert_eq!(server.message()["error"]["code"], -32700);
}

#[test]
fn a_legacy_call_asks_and_blocks_nobody() {
    let mut server =
        Program::legacy(EVERYTHING, &["--legacy"], json!({"elicitation": {}, "sampling": {}, "roots": {}}));
    let arguments = json!({"message": "Who?"});
    server.request("slow", "tools/call", json!({"name": "test_elicitation", "arguments": arguments}));
    let asked = server.message();
    assert_eq!((&asked["method"], &asked["params"]["message"]), (&json!("elicitation/create"), &json!("Who?")));
    assert_eq!(text(&server.tool("echo", json!({"a": 1}))), r#"{"a":1}"#);
    let result = json!({"action": "accept", "content": {"response": "me"}});
    server.send(&json!({"jsonrpc": "2.0", "id": asked["id"], "result": result}));
    assert_eq!(text(&server.answer("slow")), r#"User response: action=accept, content={"response":"me"}"#);
    // Three at once, answered in the other order.
    let name = "test_input_required_result_multiple_inputs";
    server.request("many", "tools/call", json!({"name": name}));
    let mut asked: Vec<Value> = (0..3).map(|_| server.message()).collect();
    asked.reverse();
    for request in asked {
        let result = match request["method"].as_str().unwrap() {
            "elicitation/create" => json!({"action": "accept", "content": {"name": "Alice"}}),
            "sampling/createMessage" => {
                json!({"role": "assistant", "content": {"type": "text", "text": "Hi"}, "model": "m"})
            }
            _ => json!({"roots": [{"uri": "file:///a"}]}),
        };
        server.send(&json!({"jsonrpc": "2.0", "id": request["id"], "result": result}));
    }
    assert_eq!(text(&server.answer("many")), "Name: Alice; Greeting: Hi; Roots: 1");
    server.request("refused", "tools/call", json!({"name": "test_sampling", "arguments": {"prompt": "p"}}));
    let asked = server.message();
    server.send(&json!({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -1, "message": "no"}}));
    assert!(text(&server.answer("refused")).contains("error: no"));
    // A cancelled call withdraws its question and gets no answer.
    server.request("gone", "tools/call", json!({"name": "test_sampling"}));
    let asked = server.message();
    server.send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "gone"}}));
    let withdrawn = server.message();
    assert_eq!(withdrawn["method"], "notifications/cancelled");
    assert_eq!(withdrawn["params"]["requestId"], asked["id"]);
    server.assert_quiet();
}

#[test]
fn a_legacy_client_without_capabilities_is_not_asked() {
    let mut server = Program::legacy(EVERYTHING, &["--legacy"], json!({}));
    for name in
        ["test_elicitation", "test_sampling", "test_input_required_result_list_roots", "test_missing_capability"]
    {
        let answer = server.tool(name, json!({}));
        assert!(answer["result"]["isError"] == true && text(&answer).contains("did not declare"), "{answer}");
    }
}

#[test]
fn sleep_reports_progress_and_ends_when_cancelled() {
    let mut server = Program::legacy(EVERYTHING, &["--legacy"], json!({}));
    let params = json!({"name": "sleep", "arguments": {"ms": 30}, "_meta": {"progressToken": 0}});
    server.request("s", "tools/call", params);
    for step in 1..=10 {
        let progress = server.message();
        assert_eq!(progress["params"]["progressToken"], 0);
        assert_eq!(progress["params"]["progress"], step, "{progress}");
    }
    server.answer("s");
    server.request("long", "tools/call", json!({"name": "sleep", "arguments": {"ms": 60_000}}));
    server.send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "long"}}));
    server.send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "unknown"}}));
    let counted = server.tool("cancellations", json!({}));
    assert_eq!(counted["result"]["structuredContent"], json!({"arrived": 2, "stopped": 1}));
    server.assert_quiet();
    assert_eq!(server.tool("counter", json!({}))["result"]["structuredContent"]["count"], 1);
    assert_eq!(server.tool("counter", json!({}))["result"]["structuredContent"]["count"], 2);
}

#[test]
fn progress_logs_and_changes_reach_a_legacy_client() {
    let mut server = Program::legacy(EVERYTHING, &["--legacy"], json!({}));
    let params = json!({"name": "test_tool_with_progress", "arguments": {}, "_meta": {"progressToken": "tok"}});
    server.request("p", "tools/call", params);
    let seen: Vec<Value> = (0..3).map(|_| server.message()["params"]["progress"].clone()).collect();
    assert_eq!(seen, [0, 50, 100]);
    assert_eq!(text(&server.answer("p")), "tok");
    server.request("l", "tools/call", json!({"name": "test_tool_with_logging"}));
    for _ in 0..3 {
        assert_eq!(server.message()["method"], "notifications/message");
    }
    server.answer("l");
    server.call("level", "logging/setLevel", json!({"level": "warning"}));
    server.tool("test_tool_with_logging", json!({}));
    assert_eq!(server.call("level", "logging/setLevel", json!({"level": "loud"}))["error"]["code"], -32602);
    for (list, tool) in [("tools", "test_trigger_tool_change"), ("prompts", "test_trigger_prompt_change")] {
        server.request("c", "tools/call", json!({"name": tool}));
        assert_eq!(server.message()["method"], format!("notifications/{list}/list_changed"));
        server.answer("c");
    }
    let uri = json!({"uri": "test://watched-resource"});
    server.tool("test_trigger_resource_update", json!({}));
    server.call("sub", "resources/subscribe", uri.clone());
    server.request("u", "tools/call", json!({"name": "test_trigger_resource_update"}));
    assert_eq!(server.message()["params"], uri);
    server.answer("u");
    server.call("unsub", "resources/unsubscribe", uri);
    server.tool("test_trigger_resource_update", json!({}));
}

#[test]
fn everything_serves_a_modern_client() {
    let mut server = Program::start(EVERYTHING, &["--modern"]);
    let none = || json!({});
    let discovered = server.modern_call("d", "server/discover", json!({}), none())["result"].clone();
    assert_eq!(discovered["supportedVersions"], json!(["2026-07-28"]));
    assert_eq!(discovered["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "everything");
    for (method, scope) in [
        ("server/discover", "public"),
        ("tools/list", "public"),
        ("prompts/list", "public"),
        ("resources/list", "public"),
        ("resources/templates/list", "public"),
        ("resources/read", "private"),
    ] {
        let result = server.modern_call("l", method, json!({"uri": "test://static-text"}), none())["result"].clone();
        assert_eq!((&result["resultType"], &result["cacheScope"]), (&json!("complete"), &json!(scope)), "{method}");
        assert!(result["ttlMs"].is_u64());
    }
    let removed = ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "no/such"];
    for method in removed {
        let answer = server.modern_call("m", method, json!({"uri": "a", "level": "info"}), none());
        assert_eq!(answer["error"]["code"], -32601, "{method}");
    }
    assert_eq!(server.call("x", "server/discover", json!({}))["error"]["code"], -32602);
    let version = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
    assert_eq!(server.call("x", "tools/list", json!({"_meta": version}))["error"]["code"], -32602);
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "v999", "io.modelcontextprotocol/clientCapabilities": {}
    });
    let refused = server.call("x", "server/discover", json!({"_meta": meta}))["error"].clone();
    assert_eq!(refused["code"], -32022);
    assert_eq!(refused["data"], json!({"supported": ["2026-07-28"], "requested": "v999"}));
    let missing = server.modern_call("r", "resources/read", json!({"uri": "test://nothing"}), none());
    assert_eq!(
        (&missing["error"]["code"], &missing["error"]["data"]["uri"]),
        (&json!(-32602), &json!("test://nothing"))
    );
    let refused = server.modern_call("c", "tools/call", json!({"name": "test_missing_capability"}), none());
    assert_eq!(refused["error"]["code"], -32021);
    assert_eq!(refused["error"]["data"], json!({"requiredCapabilities": {"sampling": {}}}));
    let level = json!({"name": "test_logging_tool", "_meta": {"io.modelcontextprotocol/logLevel": "info"}});
    server.modern("log", "tools/call", level, none());
    assert_eq!(server.message()["method"], "notifications/message");
    assert_eq!(text(&server.answer("log")), "Logging evaluated");
    server.modern_call("log", "tools/call", json!({"name": "test_logging_tool"}), none());
    let who = server.modern_call("w", "tools/call", json!({"name": "whoami"}), json!({"roots": {}}));
    assert_eq!(who["result"]["structuredContent"]["era"], "modern");
    assert_eq!(who["result"]["structuredContent"]["capabilities"], json!({"roots": {}}));
}

#[test]
fn a_modern_call_asks_by_ending() {
    let mut server = Program::start(EVERYTHING, &["--modern"]);
    let all = || json!({"elicitation": {}, "sampling": {}, "roots": {}});
    let accept = |content: Value| json!({"action": "accept", "content": content});
    let name = "test_input_required_result_multi_round";
    let first = server.modern_call("1", "tools/call", json!({"name": name, "arguments": {}}), all())["result"].clone();
    assert_eq!(first["resultType"], "input_required");
    assert_eq!(first["inputRequests"]["step1"]["method"], "elicitation/create");
    assert!(first.get("ttlMs").is_none());
    let retry = |tool: &str, answers: Value, state: &Value| json!({"name": tool, "arguments": {}, "inputResponses": answers, "requestState": state});
    let state = &first["requestState"];
    let step1 = json!({"step1": accept(json!({"name": "Alice"}))});
    let second = server.modern_call("2", "tools/call", retry(name, step1.clone(), state), all())["result"].clone();
    assert_eq!(second["resultType"], "input_required", "{second}");
    assert_ne!(second["requestState"], *state);
    let step2 = json!({"step2": accept(json!({"color": "blue"}))});
    let third = server.modern_call("3", "tools/call", retry(name, step2, &second["requestState"]), all());
    assert_eq!(text(&third), "Multi-round complete for Alice who likes blue");
    assert_eq!(third["result"]["resultType"], "complete");
    // The state is good for nothing else.
    let tampered = json!(format!("{}-TAMPERED", state.as_str().unwrap()));
    let answer = server.modern_call("4", "tools/call", retry(name, step1.clone(), &tampered), all());
    assert_eq!(answer["error"]["code"], -32602);
    let other = retry("test_input_required_result_tampered_state", step1, state);
    assert_eq!(server.modern_call("5", "tools/call", other, all())["error"]["code"], -32602);
    // Answers without state, strange and malformed answers.
    let tool = "test_input_required_result_elicitation";
    let name_it = |answers: Value| json!({"name": tool, "inputResponses": answers});
    let extra = json!({"user_name": accept(json!({"name": "Bob"})), "unknown": accept(json!({}))});
    assert_eq!(text(&server.modern_call("6", "tools/call", name_it(extra), all())), "Hello, Bob!");
    let again = server.modern_call("7", "tools/call", name_it(json!({"wrong": {}})), all());
    assert_eq!(again["result"]["resultType"], "input_required");
    assert_eq!(server.modern_call("8", "tools/call", name_it(json!({"user_name": 7})), all())["error"]["code"], -32602);
    let some = json!({"name": "test_input_required_result_capabilities"});
    let asked = server.modern_call("9", "tools/call", some, json!({"sampling": {}}))["result"]["inputRequests"].clone();
    assert_eq!(asked.as_object().unwrap().keys().collect::<Vec<_>>(), ["sample_input"]);
    let prompt = json!({"name": "test_input_required_result_prompt"});
    let prompt = server.modern_call("10", "prompts/get", prompt, all());
    assert_eq!(prompt["result"]["inputRequests"]["user_context"]["method"], "elicitation/create");
}

#[test]
fn a_subscription_is_acknowledged_filtered_and_ended() {
    let mut server = Program::start(EVERYTHING, &["--modern"]);
    let none = || json!({});
    let id_key = "io.modelcontextprotocol/subscriptionId";
    let trigger = |name: &str| json!({"name": name, "arguments": {"uri": "test://a/b"}});
    let filter = json!({"notifications": {"toolsListChanged": true, "resourceSubscriptions": ["test://a"], "x": true}});
    server.modern("sub", "subscriptions/listen", filter, none());
    let acknowledged = server.message();
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(acknowledged["params"]["_meta"][id_key], "sub");
    let honoured = json!({"toolsListChanged": true, "resourceSubscriptions": ["test://a"]});
    assert_eq!(acknowledged["params"]["notifications"], honoured);
    server.modern_call("p", "tools/call", trigger("test_trigger_prompt_change"), none());
    for (tool, method) in [
        ("test_trigger_tool_change", "notifications/tools/list_changed"),
        ("test_trigger_resource_update", "notifications/resources/updated"),
    ] {
        server.modern("t", "tools/call", trigger(tool), none());
        let notification = server.message();
        assert_eq!(notification["method"], method);
        assert_eq!(notification["params"]["_meta"][id_key], "sub");
        server.answer("t");
    }
    server.send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "sub"}}));
    server.modern_call("t", "tools/call", trigger("test_trigger_tool_change"), none());
    server.modern("end", "subscriptions/listen", json!({"notifications": {}}), none());
    server.message();
    let Program { child, stdin, lines } = server;
    drop(stdin);
    let last: Value = serde_json::from_slice(&lines.recv_timeout(PATIENCE).unwrap()).unwrap();
    assert_eq!((&last["id"], &last["result"]["_meta"][id_key]), (&json!("end"), &json!("end")));
    assert!(wait(child).0.success());
}

#[test]
fn a_dual_process_keeps_the_era_of_its_first_message() {
    let initialize = || json!({"protocolVersion": "2025-06-18", "capabilities": {}});
    let mut legacy = Program::legacy(EVERYTHING, &["--dual"], json!({}));
    assert_eq!(legacy.modern_call("m", "tools/list", json!({}), json!({}))["error"]["code"], -32600);
    assert!(legacy.call("l", "tools/list", json!({}))["result"]["tools"].is_array());
    let mut modern = Program::start(EVERYTHING, &[]);
    assert_eq!(modern.call("p", "ping", json!({}))["result"], json!({}), "a ping decides nothing");
    assert_eq!(modern.call("x", "tools/list", json!({}))["error"]["code"], -32602);
    assert!(modern.modern_call("d", "server/discover", json!({}), json!({}))["result"].is_object());
    let refused = modern.call("i", "initialize", initialize())["error"].clone();
    assert_eq!((&refused["code"], &refused["data"]["supported"]), (&json!(-32022), &json!(["2026-07-28"])));
    let mut unknown = Program::start(EVERYTHING, &[]);
    let answer = unknown.call("i", "initialize", json!({"protocolVersion": "1999-01-01", "capabilities": {}}));
    assert_eq!(answer["result"]["protocolVersion"], "2025-11-25", "an unknown revision gets the newest");
    let mut only_modern = Program::start(EVERYTHING, &["--modern"]);
    assert_eq!(only_modern.call("i", "initialize", initialize())["error"]["code"], -32022);
}

#[test]
fn odd_without_flags_is_well_behaved() {
    let mut server = Program::legacy(ODD, &[], json!({}));
    assert_eq!(server.call("p", "ping", json!({}))["result"], json!({}));
    let names = server.call("t", "tools/list", json!({}))["result"]["tools"].as_array().unwrap().len();
    assert_eq!(names, 4);
    server.request("s", "tools/call", json!({"name": "sleep", "arguments": {"ms": 200}}));
    assert_eq!(text(&server.tool("echo", json!({"a": 1}))), r#"{"a":1}"#);
    assert_eq!(text(&server.answer("s")), "slept");
    assert_eq!(text(&server.tool("pid", json!({}))), server.child.id().to_string());
    assert_eq!(server.tool("die", json!({}))["error"]["code"], -32602);
    assert!(server.finish().0.success());
}

#[test]
fn odd_prints_banners_marks_and_carriage_returns() {
    let mut server = Program::start(ODD, &["--banner"]);
    for expected in
        [&b"Odd server 1.0 is starting...\r\n"[..], b"\r\n", b"{\"level\":\"info\",\"msg\":\"listening on stdio\"}\r\n"]
    {
        assert_eq!(server.line(), expected);
    }
    server.request("1", "ping", json!({}));
    let line = server.line();
    assert!(line.starts_with("\u{feff}{".as_bytes()) && line.ends_with(b"}\r\n"));
    assert!(server.line().starts_with(b"DEBUG"));
}

#[test]
fn odd_answers_in_wrong_shapes() {
    let flags = ["--both", "--batch", "--unknown-fields", "--ignore-ping", "--long-line", "3000000"];
    let mut server = Program::legacy(ODD, &flags, json!({}));
    server.request("p", "ping", json!({}));
    let both = server.tool("both", json!({}));
    assert!(both.get("result").is_some() && both.get("error").is_some(), "and the ping was not answered");
    server.request("c", "tools/call", json!({"name": "counter"}));
    let line = String::from_utf8(server.line()).unwrap();
    assert!(line.starts_with("[{") && line.ends_with("}]\n"), "{line}");
    assert!(line.contains(r#""x_big":1234567890123456789012345,"x_decimal":1.10"#), "{line}");
    server.request("l", "tools/call", json!({"name": "long"}));
    let line = server.line();
    assert_eq!(line.len(), 3_000_001);
    let long: Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(long["id"], "l");
}

#[test]
fn odd_dies_as_told() {
    let mut server = Program::legacy(ODD, &["--exit-on-call", "42"], json!({}));
    server.request("d", "tools/call", json!({"name": "die"}));
    let (status, stderr) = wait(server.child);
    assert_eq!((status.code(), stderr.lines().last()), (Some(42), Some("odd: fatal: the disk is on fire")));
    let mut server = Program::legacy(ODD, &["--die-after", "2"], json!({}));
    server.tool("counter", json!({}));
    server.tool("counter", json!({}));
    assert_eq!(wait(server.child).0.code(), Some(1));
    let mut server = Program::start(ODD, &["--exit-on-discover"]);
    server.request("d", "server/discover", json!({}));
    assert_eq!(wait(server.child).0.code(), Some(1));
    let mut server = Program::legacy(ODD, &["--reject-second-initialize"], json!({}));
    server.request("i", "initialize", json!({}));
    assert_eq!(wait(server.child).0.code(), Some(1));
}

#[test]
fn odd_is_silent_busy_deaf_and_mute() {
    let flags = ["--silent-start-ms", "250", "--busy-ms", "250", "--stop-reading", "--close-stdout"];
    let before = stdx::clock::monotonic();
    let mut server = Program::legacy(ODD, &flags, json!({}));
    assert!(before.elapsed() >= Duration::from_millis(250));
    let before = stdx::clock::monotonic();
    server.request("b", "tools/call", json!({"name": "busy"}));
    server.request("p", "ping", json!({}));
    server.answer("b");
    assert!(before.elapsed() >= Duration::from_millis(250), "the ping waited too");
    server.answer("p");
    server.request("m", "tools/call", json!({"name": "mute"}));
    assert_eq!(server.lines.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected), "stdout is closed");
    assert!(server.child.try_wait().unwrap().is_none(), "and it lives on");
    assert!(server.finish().0.success());
    let mut server = Program::legacy(ODD, &["--stop-reading"], json!({}));
    server.request("s", "tools/call", json!({"name": "stall"}));
    server.request("p", "ping", json!({}));
    server.assert_quiet();
    drop(server.stdin);
    std::thread::sleep(QUIET);
    assert!(server.child.try_wait().unwrap().is_none(), "it does not even see that stdin ended");
    server.child.kill().unwrap();
    server.child.wait().unwrap();
}

#[test]
fn odd_floods_stderr_before_it_reads() {
    let server = Program::start(ODD, &["--flood-stderr", "50"]);
    let (status, stderr) = server.finish();
    assert!(status.success());
    assert_eq!(stderr.lines().count(), 50);
}

#[test]
fn odd_ignores_the_end_of_stdin_and_sigterm() {
    let mut server = Program::legacy(ODD, &["--ignore-eof", "--ignore-term"], json!({}));
    let pid = rustix::process::Pid::from_child(&server.child);
    drop(server.stdin);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    std::thread::sleep(QUIET);
    assert!(server.child.try_wait().unwrap().is_none());
    server.child.kill().unwrap();
    server.child.wait().unwrap();
}

#[test]
fn odd_leaves_a_grandchild_in_another_session() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let flags = ["--double-fork", "--hold-pipes", "--pid-file", file.to_str().unwrap()];
    let server = Program::legacy(ODD, &flags, json!({}));
    let deadline = stdx::clock::monotonic() + PATIENCE;
    while !file.exists() {
        assert!(stdx::clock::monotonic() < deadline, "no grandchild");
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid: i32 = std::fs::read_to_string(&file).unwrap().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let own = rustix::process::Pid::from_child(&server.child);
    let session = |pid| rustix::process::getsid(Some(pid)).unwrap();
    assert_ne!(session(pid), session(own));
    let Program { mut child, stdin, lines } = server;
    drop(stdin);
    assert!(child.wait().unwrap().success());
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(lines.recv_timeout(QUIET), Err(RecvTimeoutError::Timeout), "the grandchild holds stdout open");
    rustix::process::test_kill_process(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert_eq!(lines.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
}

#[test]
fn the_rmcp_server_is_a_real_one() {
    let mut server = Program::legacy(env!("CARGO_BIN_EXE_rmcp-server"), &[], json!({}));
    let names = server.call("t", "tools/list", json!({}))["result"]["tools"].as_array().unwrap().len();
    assert_eq!(names, 2);
    assert_eq!(text(&server.tool("add", json!({"a": 2, "b": 40}))), "42");
    assert_eq!(text(&server.tool("echo", json!({"text": "hello"}))), "hello");
    let prompts = server.call("p", "prompts/list", json!({}));
    assert_eq!(prompts["result"]["prompts"][0]["name"], "greet");
    let note = server.call("r", "resources/read", json!({"uri": "note://readme"}));
    assert_eq!(note["result"]["contents"][0]["text"], "A note.");
    assert_eq!(server.call("r", "resources/read", json!({"uri": "note://x"}))["error"]["code"], -32002);
    assert!(server.finish().0.success());
}

#[test]
fn the_echo_server_answers_both_eras_and_any_length() {
    let mut server = Program::legacy(env!("CARGO_BIN_EXE_echo"), &[], json!({}));
    for length in [0, 1, 100, 65_536, 1_000_000] {
        let sent = "x".repeat(length);
        assert_eq!(text(&server.tool("echo", json!({"text": sent}))), sent);
    }
    for id in 0..500 {
        server.request(&id.to_string(), "tools/call", json!({"name": "echo", "arguments": {"text": format!("t{id}")}}));
    }
    for id in 0..500 {
        assert_eq!(text(&server.answer(&id.to_string())), format!("t{id}"));
    }
    let listed = server.modern_call("l", "tools/list", json!({}), json!({}))["result"].clone();
    assert_eq!((&listed["resultType"], &listed["ttlMs"]), (&json!("complete"), &json!(300_000)));
    let params = json!({"name": "echo", "arguments": {"text": "m"}});
    let called = server.modern_call("c", "tools/call", params, json!({}));
    assert_eq!((text(&called), &called["result"]["resultType"]), ("m", &json!("complete")));
    assert!(server.modern_call("d", "server/discover", json!({}), json!({}))["result"]["capabilities"].is_object());
    assert!(server.finish().0.success());
}
