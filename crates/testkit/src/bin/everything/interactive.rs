//! Tools and prompts that need something from the client. Each is a step function that is told what is known so far, and
//! ends or asks. How it asks is the era's business: a modern call ends with `input_required`, a legacy call sends real
//! requests and waits.

use crate::methods::text;
use crate::process::{Call, Era};
use crate::seal::{self, Bound};
use crate::wire::{Object, Params, Reply, RpcError};
use serde_json::{Value, json};

/// The most rounds of one legacy call.
const MAX_ROUNDS: usize = 8;

/// What a step function knows: the arguments, the answers, its state of the round before, the client's capabilities.
struct Round<'a> {
    arguments: &'a Value,
    answers: &'a Object,
    state: &'a Value,
    capabilities: &'a Value,
}

enum Step {
    Done(Value),
    /// Requests by key, and the state for the next round (null for none).
    Ask(Value, Value),
}

/// True for the names that `run` knows.
pub(crate) fn knows(method: &str, name: &str) -> bool {
    let asks = [
        "test_sampling",
        "test_elicitation",
        "test_elicitation_url",
        "test_elicitation_sep1034_defaults",
        "test_elicitation_sep1330_enums",
        "test_missing_capability",
        "test_streaming_elicitation",
    ];
    match method {
        "tools/call" => {
            asks.contains(&name) || name.starts_with("test_input_required_result_") && !name.ends_with("prompt")
        }
        "prompts/get" => name == "test_input_required_result_prompt",
        _ => false,
    }
}

/// Runs a tool or prompt that may ask.
pub(crate) fn run(call: &Call, method: &str, params: &Params) -> Result<Reply, RpcError> {
    let name = params.text("name")?;
    if name == "test_streaming_elicitation" {
        call.progress(50, 100, "half way");
    }
    let arguments = params.members.get("arguments").unwrap_or(&Value::Null);
    match call.client.era {
        Era::Legacy => run_legacy(call, name, arguments),
        Era::Modern => run_modern(call, &Bound { method, name, arguments }, params),
    }
}

/// All rounds in one call, with requests to the client between them. What fails in between fails the tool.
fn run_legacy(call: &Call, name: &str, arguments: &Value) -> Result<Reply, RpcError> {
    let (mut answers, mut state) = (Object::new(), Value::Null);
    let capabilities = &call.client.capabilities;
    let failed = |why: &str| {
        let what = if name == "test_sampling" { "Sampling" } else { "Input" };
        Ok(Reply::from(json!({"content": [text(&format!("{what} not supported or error: {why}"))], "isError": true})))
    };
    for _ in 0..MAX_ROUNDS {
        let (requests, next) = match step(name, &Round { arguments, answers: &answers, state: &state, capabilities })? {
            Step::Done(done) => return Ok(Reply::from(done)),
            Step::Ask(requests, next) => (requests, next),
        };
        let missing = missing_capabilities(&requests, capabilities);
        if !missing.is_empty() {
            let names: Vec<&str> = missing.keys().map(String::as_str).collect();
            return failed(&format!("the client did not declare {}", names.join(", ")));
        }
        let Value::Object(requests) = requests else { return failed("no request") };
        match call.ask_all(&requests) {
            Ok(given) => (answers, state) = (given, next),
            Err(why) => return failed(&why),
        }
    }
    failed("too many rounds")
}

/// One round. Everything that it knows is in the request.
fn run_modern(call: &Call, bound: &Bound<'_>, params: &Params) -> Result<Reply, RpcError> {
    let key = &call.process.key;
    let state = match params.members.get("requestState") {
        None => Value::Null,
        Some(Value::String(sealed)) => seal::open(key, bound, sealed)?,
        Some(_) => return Err(RpcError::new(-32602, "params.requestState must be a string")),
    };
    let empty = Object::new();
    let answers = match params.members.get("inputResponses") {
        None => &empty,
        Some(Value::Object(answers)) if answers.values().all(Value::is_object) => answers,
        Some(_) => return Err(RpcError::new(-32602, "params.inputResponses must be an object of objects")),
    };
    let capabilities = &call.client.capabilities;
    match step(bound.name, &Round { arguments: bound.arguments, answers, state: &state, capabilities })? {
        Step::Done(done) => Ok(Reply::from(done)),
        Step::Ask(mut requests, next) => {
            for request in requests.as_object_mut().into_iter().flat_map(Object::values_mut) {
                // The legacy era names elicitations, so that it can say later that one is complete.
                request["params"].as_object_mut().map(|params| params.remove("elicitationId"));
            }
            let missing = missing_capabilities(&requests, capabilities);
            if !missing.is_empty() {
                let error = RpcError::new(-32021, "Missing required client capability");
                return Err(error.with_data(json!({"requiredCapabilities": missing})));
            }
            let mut members = json!({"resultType": "input_required", "inputRequests": requests});
            if !next.is_null() {
                members["requestState"] = json!(seal::seal(key, bound, &next)?);
            }
            Ok(Reply::from(members))
        }
    }
}

/// The capabilities that `requests` need and the client did not declare.
fn missing_capabilities(requests: &Value, declared: &Value) -> Object {
    let mut missing = Object::new();
    for request in requests.as_object().into_iter().flat_map(Object::values) {
        let needed = match request["method"].as_str() {
            Some("elicitation/create") => "elicitation",
            Some("sampling/createMessage") => "sampling",
            _ => "roots",
        };
        let url = request["params"]["mode"] == "url";
        if url && !declared["elicitation"]["url"].is_object() {
            missing.insert(needed.to_owned(), json!({"url": {}}));
        } else if !declared[needed].is_object() {
            missing.insert(needed.to_owned(), json!({}));
        }
    }
    missing
}

fn step(name: &str, round: &Round<'_>) -> Result<Step, RpcError> {
    let short = name.strip_prefix("test_input_required_result_");
    Ok(match (name, short) {
        ("test_sampling", _) => sampling(round),
        ("test_missing_capability", _) => missing_capability(round),
        ("test_elicitation" | "test_streaming_elicitation", _) => elicitation(round),
        ("test_elicitation_url", _) => page_please(round),
        ("test_elicitation_sep1034_defaults", _) => form(round, &defaults_form()),
        ("test_elicitation_sep1330_enums", _) => form(round, &choices_form()),
        (_, Some("elicitation")) => name_please(round),
        (_, Some("sampling")) => capital_please(round),
        (_, Some("list_roots")) => roots_please(round),
        (_, Some("request_state")) => confirm(round, "state-ok: requestState validated"),
        (_, Some("tampered_state")) => confirm(round, "integrity-ok: state verified"),
        (_, Some("multiple_inputs")) => three_things(round),
        (_, Some("multi_round")) => two_rounds(round),
        (_, Some("capabilities")) => what_the_client_can(round),
        (_, Some("prompt")) => context_please(round),
        _ => return Err(RpcError::new(-32602, format!("Unknown tool: {name}"))),
    })
}

fn said(words: &str) -> Step {
    Step::Done(json!({"content": [text(words)]}))
}

/// A request for one field of a form.
fn elicit(message: &str, field: &str, kind: &str) -> Value {
    let schema = json!({"type": "object", "properties": {field: {"type": kind}}, "required": [field]});
    json!({"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema}})
}

fn sample(prompt: &str, max_tokens: u32) -> Value {
    let message = json!({"role": "user", "content": {"type": "text", "text": prompt}});
    json!({"method": "sampling/createMessage", "params": {"messages": [message], "maxTokens": max_tokens}})
}

fn roots() -> Value {
    json!({"method": "roots/list", "params": {}})
}

/// A field of an accepted form.
fn field<'a>(answer: &'a Value, name: &str) -> &'a str {
    answer["content"][name].as_str().unwrap_or("unknown")
}

fn sampling(round: &Round<'_>) -> Step {
    let Some(answer) = round.answers.get("sample") else {
        let prompt = round.arguments["prompt"].as_str().unwrap_or("Say something.");
        return Step::Ask(json!({"sample": sample(prompt, 100)}), Value::Null);
    };
    said(&format!("LLM response: {}", answer["content"]["text"].as_str().unwrap_or("No response")))
}

/// Runs only for a client that can sample, though it asks for nothing then.
fn missing_capability(round: &Round<'_>) -> Step {
    if round.capabilities["sampling"].is_object() {
        return said("Success");
    }
    Step::Ask(json!({"sample": sample("Unused", 1)}), Value::Null)
}

fn elicitation(round: &Round<'_>) -> Step {
    let Some(answer) = round.answers.get("response") else {
        let message = round.arguments["message"].as_str().unwrap_or("Please answer.");
        return Step::Ask(json!({"response": elicit(message, "response", "string")}), Value::Null);
    };
    let (action, content) = (answer["action"].as_str().unwrap_or("unknown"), or_empty(&answer["content"]));
    said(&format!("User response: action={action}, content={content}"))
}

fn page_please(round: &Round<'_>) -> Step {
    let Some(answer) = round.answers.get("page") else {
        let params = json!({
            "mode": "url",
            "elicitationId": "page-1",
            "message": "Please open the page",
            "url": "https://example.com/consent",
        });
        return Step::Ask(json!({"page": {"method": "elicitation/create", "params": params}}), Value::Null);
    };
    said(&format!("The user said {}", answer["action"].as_str().unwrap_or("unknown")))
}

fn form(round: &Round<'_>, params: &Value) -> Step {
    let Some(answer) = round.answers.get("form") else {
        return Step::Ask(json!({"form": {"method": "elicitation/create", "params": params}}), Value::Null);
    };
    let (action, content) = (answer["action"].as_str().unwrap_or("unknown"), or_empty(&answer["content"]));
    said(&format!("Elicitation completed: action={action}, content={content}"))
}

fn or_empty(content: &Value) -> Value {
    if content.is_null() { json!({}) } else { content.clone() }
}

fn defaults_form() -> Value {
    json!({
        "message": "Please review and update the form fields with defaults",
        "requestedSchema": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "description": "User name", "default": "John Doe"},
                "age": {"type": "integer", "description": "User age", "default": 30},
                "score": {"type": "number", "description": "User score", "default": 95.5},
                "status": {
                    "type": "string",
                    "description": "User status",
                    "enum": ["active", "inactive", "pending"],
                    "default": "active",
                },
                "verified": {"type": "boolean", "description": "Verification status", "default": true},
            },
            "required": [],
        },
    })
}

fn choices_form() -> Value {
    let titled = |word: &str| {
        json!([
            {"const": "value1", "title": format!("First {word}")},
            {"const": "value2", "title": format!("Second {word}")},
            {"const": "value3", "title": format!("Third {word}")},
        ])
    };
    let plain = json!(["option1", "option2", "option3"]);
    json!({
        "message": "Please select options from the enum fields",
        "requestedSchema": {
            "type": "object",
            "properties": {
                "untitledSingle": {"type": "string", "description": "Select one option", "enum": plain},
                "titledSingle": {
                    "type": "string",
                    "description": "Select one option with titles",
                    "oneOf": titled("Option"),
                },
                "legacyEnum": {
                    "type": "string",
                    "description": "Select one option (legacy)",
                    "enum": ["opt1", "opt2", "opt3"],
                    "enumNames": ["Option One", "Option Two", "Option Three"],
                },
                "untitledMulti": {
                    "type": "array",
                    "description": "Select multiple options",
                    "minItems": 1,
                    "maxItems": 3,
                    "items": {"type": "string", "enum": plain},
                },
                "titledMulti": {
                    "type": "array",
                    "description": "Select multiple options with titles",
                    "minItems": 1,
                    "maxItems": 3,
                    "items": {"anyOf": titled("Choice")},
                },
            },
            "required": [],
        },
    })
}

fn name_please(round: &Round<'_>) -> Step {
    match round.answers.get("user_name") {
        Some(answer) => said(&format!("Hello, {}!", field(answer, "name"))),
        None => Step::Ask(json!({"user_name": elicit("What is your name?", "name", "string")}), Value::Null),
    }
}

fn capital_please(round: &Round<'_>) -> Step {
    let Some(answer) = round.answers.get("capital_question") else {
        let question = sample("What is the capital of France?", 100);
        return Step::Ask(json!({"capital_question": question}), Value::Null);
    };
    said(&format!("Sampling result: {}", answer["content"]["text"].as_str().unwrap_or("no response")))
}

fn roots_please(round: &Round<'_>) -> Step {
    let Some(answer) = round.answers.get("client_roots") else {
        return Step::Ask(json!({"client_roots": roots()}), Value::Null);
    };
    said(&format!("Found {} root(s)", answer["roots"].as_array().map_or(0, Vec::len)))
}

fn confirm(round: &Round<'_>, done: &str) -> Step {
    let confirmed = round.answers.get("confirm").is_some_and(|answer| answer["content"]["ok"] == true);
    if confirmed && round.state["asked"] == true {
        return said(done);
    }
    Step::Ask(json!({"confirm": elicit("Please confirm", "ok", "boolean")}), json!({"asked": true}))
}

fn three_things(round: &Round<'_>) -> Step {
    let answer = |key| round.answers.get(key);
    let (Some(name), Some(greeting), Some(client_roots), true) =
        (answer("user_name"), answer("greeting"), answer("client_roots"), round.state["asked"] == true)
    else {
        let requests = json!({
            "user_name": elicit("What is your name?", "name", "string"),
            "greeting": sample("Generate a greeting", 50),
            "client_roots": roots(),
        });
        return Step::Ask(requests, json!({"asked": true}));
    };
    let greeting = greeting["content"]["text"].as_str().unwrap_or("Hello there!");
    let count = client_roots["roots"].as_array().map_or(0, Vec::len);
    said(&format!("Name: {}; Greeting: {greeting}; Roots: {count}", field(name, "name")))
}

fn two_rounds(round: &Round<'_>) -> Step {
    let step1 = round.answers.get("step1").filter(|_| round.state["round"] == 1);
    let step2 = round.answers.get("step2").filter(|_| round.state["round"] == 2);
    if let Some(answer) = step2 {
        let name = round.state["name"].as_str().unwrap_or("friend");
        return said(&format!("Multi-round complete for {name} who likes {}", field(answer, "color")));
    }
    if step1.is_some() || round.state["round"] == 2 {
        let name = step1.map_or_else(|| round.state["name"].clone(), |answer| json!(field(answer, "name")));
        let question = elicit("Step 2: What is your favorite color?", "color", "string");
        return Step::Ask(json!({"step2": question}), json!({"round": 2, "name": name}));
    }
    Step::Ask(json!({"step1": elicit("Step 1: What is your name?", "name", "string")}), json!({"round": 1}))
}

fn what_the_client_can(round: &Round<'_>) -> Step {
    let mut requests = Object::new();
    if round.capabilities["elicitation"].is_object() {
        requests.insert("elicit_input".to_owned(), elicit("Elicitation input", "value", "string"));
    }
    if round.capabilities["sampling"].is_object() {
        requests.insert("sample_input".to_owned(), sample("Sample request", 50));
    }
    if requests.is_empty() {
        return said("No supported capabilities declared");
    }
    if round.state["asked"] == true && requests.keys().all(|key| round.answers.contains_key(key)) {
        let keys: Vec<&str> = requests.keys().map(String::as_str).collect();
        return said(&format!("capabilities-ok: received {}", keys.join(",")));
    }
    Step::Ask(Value::Object(requests), json!({"asked": true}))
}

fn context_please(round: &Round<'_>) -> Step {
    let Some(answer) = round.answers.get("user_context") else {
        let question = elicit("What context should the prompt use?", "context", "string");
        return Step::Ask(json!({"user_context": question}), Value::Null);
    };
    let words = format!("Prompt with context: {}", field(answer, "context"));
    Step::Done(json!({"messages": [{"role": "user", "content": text(&words)}]}))
}
