//! An MCP server that does what each request tells it to in `params.script`, and remembers everything that it heard. With
//! `--legacy` it speaks with sessions, else with per-request metadata.
//!
//! `script.key` with `script.rounds`: the n-th request with this key is answered with the n-th result, as it is written;
//! later ones with what they brought. `script.emit`: lines to write first, once for each open subscription where they hold
//! `"@listen"`. `script.report`: the answer tells every message so far. `script.exit`: the process ends without an answer.
//! A resource whose URI contains `refused` cannot be subscribed to.

use clap::Parser;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::process::ExitCode;

#[derive(Debug, Parser)]
struct Flags {
    /// Speak the era of `initialize`.
    #[arg(long)]
    legacy: bool,
    /// Declare nothing that can be subscribed to.
    #[arg(long)]
    silent: bool,
    /// Has no meaning but that it makes another command line.
    #[arg(long, default_value_t = 1)]
    generation: u32,
}

#[derive(Debug, Deserialize)]
struct Incoming {
    id: Option<Box<RawValue>>,
    method: Option<String>,
    params: Option<Box<RawValue>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Script {
    key: String,
    rounds: Vec<Box<RawValue>>,
    emit: Vec<Box<RawValue>>,
    report: bool,
    exit: bool,
}

#[derive(Debug)]
struct Server {
    flags: Flags,
    counts: HashMap<String, usize>,
    listens: Vec<String>,
    heard: Vec<Value>,
}

fn main() -> ExitCode {
    let mut server = Server { flags: Flags::parse(), counts: HashMap::new(), listens: Vec::new(), heard: Vec::new() };
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { return ExitCode::FAILURE };
        let Ok(incoming) = serde_json::from_str::<Incoming>(&line) else { continue };
        match server.receive(&incoming) {
            Ok(true) => {}
            Ok(false) => return ExitCode::SUCCESS,
            Err(_) => return ExitCode::FAILURE,
        }
    }
    ExitCode::SUCCESS
}

impl Server {
    /// False when the process shall end.
    fn receive(&mut self, incoming: &Incoming) -> io::Result<bool> {
        let params: Value = parsed(incoming.params.as_deref());
        let method = incoming.method.as_deref().unwrap_or_default();
        let id = incoming.id.as_deref().map(|id| id.get().to_owned());
        self.heard.push(json!({"method": method, "id": id, "params": params}));
        let Some(id) = id else {
            let cancelled = params["requestId"].to_string();
            self.listens.retain(|listen| *listen != cancelled);
            return Ok(true);
        };
        let uri = params["uri"].as_str().unwrap_or_default();
        match method {
            "initialize" if self.flags.legacy => say(&format!(
                r#"{{"jsonrpc":"2.0","id":{id},"result":{{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{{"name":"scripted","version":"1"}}}}}}"#,
                self.capabilities()
            ))?,
            "server/discover" if !self.flags.legacy => result(
                &id,
                &format!(
                    r#"{{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{},"ttlMs":0,"cacheScope":"private"}}"#,
                    self.capabilities()
                ),
            )?,
            "resources/subscribe" if uri.contains("refused") => failure(&id, -32002, "no such resource")?,
            "resources/subscribe" | "resources/unsubscribe" if self.flags.legacy => result(&id, r#"{"own":1.0}"#)?,
            "subscriptions/listen" if !self.flags.legacy => self.listen(id, &params["notifications"])?,
            "tools/call" | "prompts/get" | "resources/read" | "tools/list" => return self.play(incoming, &id),
            _ => failure(&id, -32601, "method not found")?,
        }
        Ok(true)
    }

    fn capabilities(&self) -> Value {
        if self.flags.silent {
            return json!({"tools": {}, "resources": {}});
        }
        json!({"tools": {"listChanged": true}, "resources": {"subscribe": true, "listChanged": true}})
    }

    fn listen(&mut self, id: String, wanted: &Value) -> io::Result<()> {
        let mut filter = wanted.clone();
        if let Some(uris) = filter["resourceSubscriptions"].as_array_mut() {
            uris.retain(|uri| !uri.as_str().is_some_and(|uri| uri.contains("refused")));
        }
        say(&format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{"_meta":{{"io.modelcontextprotocol/subscriptionId":{id}}},"notifications":{filter}}}}}"#
        ))?;
        self.listens.push(id);
        Ok(())
    }

    /// Does what the request's script says.
    fn play(&mut self, incoming: &Incoming, id: &str) -> io::Result<bool> {
        #[derive(Default, Deserialize)]
        struct Scripted {
            #[serde(default)]
            script: Script,
            #[serde(rename = "_meta")]
            meta: Option<Meta>,
        }
        #[derive(Deserialize)]
        struct Meta {
            #[serde(rename = "progressToken")]
            token: Option<Box<RawValue>>,
        }
        let raw = incoming.params.as_deref().map_or("{}", RawValue::get);
        let Scripted { script, meta } = serde_json::from_str(raw).unwrap_or_default();
        if script.exit {
            return Ok(false);
        }
        for line in &script.emit {
            self.emit(line.get())?;
        }
        if let Some(token) = meta.and_then(|meta| meta.token) {
            for progress in 1..=2 {
                say(&format!(
                    r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{},"progress":{progress}}}}}"#,
                    token.get()
                ))?;
            }
        }
        let count = self.counts.entry(script.key.clone()).or_default();
        let answer = script.rounds.get(*count);
        *count += 1;
        match answer {
            Some(answer) => result(id, answer.get())?,
            None if script.report => {
                let heard = Value::from(self.heard.clone());
                result(id, &format!(r#"{{"resultType":"complete","content":[],"heard":{heard}}}"#))?;
            }
            None => result(id, &format!(r#"{{"resultType":"complete","content":[],"got":{raw}}}"#))?,
        }
        Ok(true)
    }

    fn emit(&self, line: &str) -> io::Result<()> {
        if !line.contains("\"@listen\"") {
            return say(line);
        }
        self.listens.iter().try_for_each(|listen| say(&line.replace("\"@listen\"", listen)))
    }
}

fn parsed(params: Option<&RawValue>) -> Value {
    params.and_then(|params| serde_json::from_str(params.get()).ok()).unwrap_or_default()
}

fn result(id: &str, result: &str) -> io::Result<()> {
    say(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#))
}

fn failure(id: &str, code: i32, message: &str) -> io::Result<()> {
    say(&format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"{message}"}}}}"#))
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
