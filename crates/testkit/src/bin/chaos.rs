//! An MCP server that keeps a ledger: what it was called with stays in its memory, so that a test sees afterwards what ran,
//! how often and for whom. It speaks either era or both. Told to, it misbehaves: one tool for each way.
//!
//! Nothing here outlives ten minutes, so that a test that fails leaves nothing behind for long.

use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use std::io::{self, BufRead, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The longest life of anything here.
const LONGEST_LIFE: Duration = Duration::from_secs(600);
/// One message to everybody for so many calls.
const NEWS: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Era {
    Legacy,
    Modern,
    Dual,
}

/// An MCP server with a ledger.
#[derive(Debug, Parser)]
struct Flags {
    /// Which eras it speaks.
    #[arg(long, value_enum, default_value = "dual")]
    era: Era,
}

/// What it was called with, in order, and by whom first.
#[derive(Debug, Default)]
struct Ledger {
    nonces: Vec<String>,
    canary: Option<String>,
}

#[derive(Debug, Clone)]
struct Server {
    era: Era,
    ledger: Arc<Mutex<Ledger>>,
}

fn main() -> io::Result<()> {
    let server = Server { era: Flags::parse().era, ledger: Arc::default() };
    for line in io::stdin().lock().lines() {
        let message: Value = serde_json::from_str(&line?).unwrap_or_default();
        if let (Some(id), Some(method)) = (message.get("id"), message["method"].as_str()) {
            server.answer(id, method, &message["params"])?;
        }
    }
    Ok(())
}

impl Server {
    fn answer(&self, id: &Value, method: &str, params: &Value) -> io::Result<()> {
        let modern = params["_meta"].get("io.modelcontextprotocol/protocolVersion").is_some();
        if modern && self.era == Era::Legacy || !modern && self.era == Era::Modern {
            return say(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "another era"}}));
        }
        let result = match method {
            "initialize" => json!({
                "protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}, "logging": {}},
                "serverInfo": {"name": "chaos", "version": "1"},
            }),
            "server/discover" => json!({"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}),
            "ping" => json!({}),
            "tools/list" => {
                let tools = ["note", "ledger"].map(|name| json!({"name": name, "inputSchema": {"type": "object"}}));
                json!({ "tools": tools })
            }
            "tools/call" if params["name"] == "note" => return self.note(id, params, modern),
            "tools/call" if params["name"] == "ledger" => {
                text(&json!({"pid": std::process::id(), "nonces": self.ledger().nonces}))
            }
            _ => {
                return say(
                    &json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "Method not found"}}),
                );
            }
        };
        reply(id, result, modern)
    }

    /// Notes the nonce of a call at once, and answers after `ms`, with `steps` reports of progress before. Its `pad` is
    /// said again.
    fn note(&self, id: &Value, params: &Value, modern: bool) -> io::Result<()> {
        let arguments = &params["arguments"];
        let (count, first) = {
            let mut ledger = self.ledger();
            ledger.nonces.push(arguments["nonce"].as_str().unwrap_or_default().to_owned());
            let mine = || arguments["canary"].as_str().unwrap_or_default().to_owned();
            let first = ledger.canary.get_or_insert_with(mine).clone();
            (ledger.nonces.len(), first)
        };
        if count % NEWS == 0 && !modern {
            let news = json!({"level": "info", "logger": "chaos", "data": first});
            say(&json!({"jsonrpc": "2.0", "method": "notifications/message", "params": news}))?;
        }
        let told = json!({"pid": std::process::id(), "count": count, "first": first, "nonce": arguments["nonce"], "pad": arguments["pad"]});
        let ms = arguments["ms"].as_u64().unwrap_or(0);
        if ms == 0 {
            return reply(id, text(&told), modern);
        }
        let steps = arguments["steps"].as_u64().unwrap_or(1).max(1);
        let (id, token) = (id.clone(), params["_meta"]["progressToken"].clone());
        let pause = (Duration::from_millis(ms) / u32::try_from(steps).unwrap_or(1)).min(LONGEST_LIFE);
        std::thread::Builder::new().spawn(move || {
            for step in 1..=steps {
                std::thread::sleep(pause);
                if !token.is_null() {
                    let params = json!({"progressToken": token, "progress": step, "message": told["nonce"]});
                    // An error means that stdout is gone; the reading loop will notice.
                    let _ = say(&json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}));
                }
            }
            let _ = reply(&id, text(&told), modern);
        })?;
        Ok(())
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn text(told: &Value) -> Value {
    json!({"content": [{"type": "text", "text": told.to_string()}]})
}

fn reply(id: &Value, mut result: Value, modern: bool) -> io::Result<()> {
    if modern {
        result["resultType"] = json!("complete");
        result["ttlMs"] = json!(300_000);
        result["cacheScope"] = json!("private");
    }
    say(&json!({"jsonrpc": "2.0", "id": id, "result": result}))
}

fn say(message: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(format!("{message}\n").as_bytes())?;
    out.flush()
}
