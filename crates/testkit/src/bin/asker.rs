//! A legacy MCP server that asks its client exactly what the caller tells it to ask. Every tool runs `arguments.steps`, one
//! after the other, each an object with one of these members:
//!
//! * `ask` (a method, with `params` and `as`: the request's id): sends a request; does not wait
//! * `await` (an id): waits for the answer, at most 60 s, unless the call is cancelled
//! * `withdraw` (an id): takes the request back
//! * `sleep` (milliseconds), `progress` (a number), `log` (a text)
//! * `urls` (elicitations): ends the call with -32042 on its first run of this tool, and does nothing later
//! * `exit` (a code): ends the process
//!
//! It answers with one text: JSON that says which answers came (every one, in order), whether the call was cancelled, and what
//! the client said it can do. The tool `report` says what the whole process has heard. `--ask-roots` asks for roots as soon as
//! a server may.

use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// No test waits longer.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Heard {
    capabilities: Value,
    /// By id of ours, in order.
    answers: HashMap<String, Vec<Value>>,
    cancelled: HashSet<String>,
    notifications: Vec<Value>,
    /// Tools that have sent their caller away once.
    sent_away: HashSet<String>,
}

#[derive(Debug, Default)]
struct Server {
    heard: Mutex<Heard>,
    news: Condvar,
}

fn main() -> io::Result<()> {
    let server = Arc::new(Server::default());
    let ask_roots = std::env::args().any(|argument| argument == "--ask-roots");
    for line in io::stdin().lock().lines() {
        let line = line?;
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        match (message.get("method").and_then(Value::as_str), message.get("id")) {
            (Some(method), Some(_)) => server.request(method.to_owned(), &message),
            (Some("notifications/initialized"), None) if ask_roots => say(&request("start", "roots/list", &json!({}))),
            (Some(_), None) => server.notified(message),
            (None, Some(id)) => server.answered(id.as_str().unwrap_or("?").to_owned(), message.clone()),
            (None, None) => {}
        }
    }
    Ok(())
}

impl Server {
    fn request(self: &Arc<Self>, method: String, message: &Value) {
        let server = Arc::clone(self);
        let params = message["params"].clone();
        let id = message["id"].clone();
        match method.as_str() {
            "initialize" => {
                self.heard().capabilities = params["capabilities"].clone();
                answer(
                    &id,
                    &json!({
                        "protocolVersion": params["protocolVersion"],
                        "capabilities": {"tools": {}, "prompts": {}, "resources": {}, "logging": {}},
                        "serverInfo": {"name": "asker", "version": "1"},
                    }),
                );
            }
            "tools/list" => answer(&id, &json!({"tools": [{"name": "run", "inputSchema": {"type": "object"}}]})),
            "tools/call" if params["name"] == "report" => answer(&id, &text(&self.report())),
            // A thread for each call: what one waits for holds up no other.
            _ => drop(std::thread::spawn(move || server.run(&method, &id, &params))),
        }
    }

    fn notified(&self, message: Value) {
        let mut heard = self.heard();
        if message["method"] == "notifications/cancelled" {
            heard.cancelled.insert(message["params"]["requestId"].to_string());
        }
        heard.notifications.push(message);
        self.news.notify_all();
    }

    fn answered(&self, id: String, message: Value) {
        let mut heard = self.heard();
        heard.answers.entry(id).or_default().push(message);
        self.news.notify_all();
    }

    fn run(&self, method: &str, id: &Value, params: &Value) {
        let mut asked = Vec::new();
        let name = params["name"].as_str().unwrap_or_default();
        // The arguments of a prompt are texts.
        let steps = match &params["arguments"]["steps"] {
            Value::String(text) => serde_json::from_str(text).unwrap_or_default(),
            steps => steps.clone(),
        };
        for step in steps.as_array().into_iter().flatten() {
            let member = |name: &str| step.get(name).cloned();
            if let Some(what) = member("ask") {
                let own = step["as"].as_str().unwrap_or("ask").to_owned();
                say(&request(&own, what.as_str().unwrap_or_default(), &step["params"]));
                asked.push(own);
            } else if let Some(own) = member("await") {
                self.wait(own.as_str().unwrap_or_default(), id);
            } else if let Some(own) = member("withdraw") {
                say(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": own}}));
            } else if let Some(ms) = member("sleep") {
                self.sleep(Duration::from_millis(ms.as_u64().unwrap_or(0)), id);
            } else if let Some(progress) = member("progress") {
                let params = json!({"progressToken": params["_meta"]["progressToken"], "progress": progress});
                say(&json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}));
            } else if let Some(words) = member("log") {
                let params = json!({"level": "info", "data": words});
                say(&json!({"jsonrpc": "2.0", "method": "notifications/message", "params": params}));
            } else if let Some(urls) = member("urls") {
                if self.heard().sent_away.insert(name.to_owned()) {
                    let error = json!({"code": -32042, "message": "visit first", "data": {"elicitations": urls}});
                    return say(&json!({"jsonrpc": "2.0", "id": id, "error": error}));
                }
            } else if let Some(code) = member("exit") {
                leave(i32::try_from(code.as_i64().unwrap_or(1)).unwrap_or(1));
            }
        }
        let result = text(&self.outcome(id, &asked));
        match method {
            "prompts/get" => answer(id, &json!({"messages": [{"role": "user", "content": result["content"][0]}]})),
            _ => answer(id, &result),
        }
    }

    fn outcome(&self, id: &Value, asked: &[String]) -> Value {
        let heard = self.heard();
        let answers: Map<String, Value> =
            asked.iter().map(|own| (own.clone(), json!(heard.answers.get(own)))).collect();
        json!({"answers": answers, "cancelled": heard.cancelled.contains(&id.to_string()), "capabilities": heard.capabilities})
    }

    fn report(&self) -> Value {
        let heard = self.heard();
        json!({
            "answers": heard.answers, "notifications": heard.notifications, "capabilities": heard.capabilities,
            "pid": std::process::id(),
        })
    }

    fn wait(&self, own: &str, call: &Value) {
        let over = |heard: &Heard| heard.answers.contains_key(own) || heard.cancelled.contains(&call.to_string());
        drop(self.news.wait_timeout_while(self.heard(), PATIENCE, |heard| !over(heard)));
    }

    fn sleep(&self, time: Duration, call: &Value) {
        drop(self.news.wait_timeout_while(self.heard(), time, |heard| !heard.cancelled.contains(&call.to_string())));
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn request(id: &str, method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

fn text(value: &Value) -> Value {
    json!({"content": [{"type": "text", "text": value.to_string()}]})
}

fn answer(id: &Value, result: &Value) {
    say(&json!({"jsonrpc": "2.0", "id": id, "result": result}));
}

/// One line, whole. If it cannot be written there is nobody to tell.
fn say(message: &Value) {
    let mut line = message.to_string();
    line.push('\n');
    let mut out = io::stdout().lock();
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

#[expect(clippy::exit, clippy::disallowed_methods, reason = "a server that ends in the middle of a call")]
fn leave(code: i32) -> ! {
    std::process::exit(code)
}
