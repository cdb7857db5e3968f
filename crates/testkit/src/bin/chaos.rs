//! An MCP server that keeps a ledger: what it was called with stays in its memory, so that a test sees afterwards what ran,
//! how often and for whom. It speaks either era or both. Told to, it misbehaves: one tool for each way.
//!
//! Nothing here outlives ten minutes, so that a test that fails leaves nothing behind for long.

use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use std::io::{self, BufRead, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The longest life of anything here.
const LONGEST_LIFE: Duration = Duration::from_secs(600);
/// One message to everybody for so many calls.
const NEWS: usize = 10;
const TOOLS: [&str; 7] = ["note", "ledger", "pid", "halt", "flood", "endless", "close"];

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
    /// End unasked in every life, at a point that follows from this number and the number of the life.
    #[arg(long, value_name = "SEED", requires = "lives")]
    fickle: Option<u64>,
    /// Where the lives of a fickle server are counted.
    #[arg(long, value_name = "FILE")]
    lives: Option<PathBuf>,
}

/// Where a fickle process ends. Of four lives in a row each ends at another point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    BeforeTheHandshake,
    /// With half of an answer written.
    MidLine,
    AfterReading,
    AfterAnswering,
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
    /// How this life ends, and how many calls it answers before.
    death: Option<(Death, usize)>,
}

fn main() -> io::Result<()> {
    let flags = Flags::parse();
    let death = match (flags.fickle, &flags.lives) {
        (Some(seed), Some(lives)) => Some(death(seed, life(lives)?)),
        _ => None,
    };
    let server = Server { era: flags.era, ledger: Arc::default(), death };
    if let Some((Death::BeforeTheHandshake, _)) = death {
        return Err(death_blow());
    }
    for line in io::stdin().lock().lines() {
        let message: Value = serde_json::from_str(&line?).unwrap_or_default();
        if let (Some(id), Some(method)) = (message.get("id"), message["method"].as_str()) {
            server.answer(id, method, &message["params"])?;
        }
    }
    Ok(())
}

/// The number of this life, from 0 on.
#[expect(clippy::disallowed_methods, reason = "a count of a test needs no durability")]
fn life(lives: &Path) -> io::Result<u64> {
    let life = std::fs::read_to_string(lives).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    std::fs::write(lives, (life + 1).to_string())?;
    Ok(life)
}

fn death(seed: u64, life: u64) -> (Death, usize) {
    let mut points = vec![Death::BeforeTheHandshake, Death::MidLine, Death::AfterReading, Death::AfterAnswering];
    let mut dice = mixed(seed ^ mixed(life / 4));
    let mut order = Vec::new();
    while !points.is_empty() {
        order.push(points.remove(usize::try_from(dice).unwrap_or(0) % points.len()));
        dice = mixed(dice);
    }
    (order[usize::try_from(life % 4).unwrap_or(0)], usize::try_from(mixed(dice ^ life) % 3).unwrap_or(0))
}

fn mixed(number: u64) -> u64 {
    let number = (number.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number ^ (number >> 29)
}

/// What ends the process.
fn death_blow() -> io::Error {
    io::Error::other("chaos: fatal: it was to be")
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
                let tools = TOOLS.map(|name| json!({"name": name, "inputSchema": {"type": "object"}}));
                json!({ "tools": tools })
            }
            "tools/call" => match params["name"].as_str() {
                Some("note") => return self.note(id, params, modern),
                Some("ledger") => text(&json!({"pid": std::process::id(), "nonces": self.ledger().nonces})),
                Some("pid") => text(&json!(std::process::id())),
                Some("halt") => {
                    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP)?;
                    text(&json!("continued"))
                }
                Some("flood") => flood(&params["arguments"])?,
                Some("endless") => return endless(),
                Some("close") => match close(&params["arguments"]["which"])? {
                    Some(result) => result,
                    None => return Ok(()),
                },
                _ => {
                    return say(
                        &json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32602, "message": "no such tool"}}),
                    );
                }
            },
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
        if let Some((death, _)) = self.death.filter(|(_, after)| count > *after) {
            let answer = json!({"jsonrpc": "2.0", "id": id, "result": text(&told)}).to_string();
            let written = match death {
                Death::AfterAnswering => format!("{answer}\n"),
                Death::MidLine => answer[..answer.len() / 2].to_owned(),
                Death::BeforeTheHandshake | Death::AfterReading => String::new(),
            };
            let mut out = io::stdout().lock();
            out.write_all(written.as_bytes())?;
            out.flush()?;
            return Err(death_blow());
        }
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

/// Says things that nobody asked for as fast as they are taken, for `ms`. Calls are served meanwhile.
fn flood(arguments: &Value) -> io::Result<Value> {
    let time = Duration::from_millis(arguments["ms"].as_u64().unwrap_or(0)).min(LONGEST_LIFE);
    let news = json!({"level": "info", "logger": "chaos", "data": "x".repeat(400)});
    let news = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": news}).to_string();
    let news = format!("{news}\n").repeat(100);
    std::thread::Builder::new().spawn(move || {
        let until = stdx::clock::monotonic() + time;
        while stdx::clock::monotonic() < until && io::stdout().lock().write_all(news.as_bytes()).is_ok() {
            std::thread::yield_now();
        }
    })?;
    Ok(text(&json!("flooding")))
}

/// One line that has no end.
fn endless() -> io::Result<()> {
    let chunk = [b'x'; 64 << 10];
    let mut out = io::stdout().lock();
    loop {
        out.write_all(&chunk)?;
    }
}

/// Closes one pipe and lives on. With stdin or stdout gone there is no answer.
fn close(which: &Value) -> io::Result<Option<Value>> {
    let nowhere = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    match which.as_str() {
        Some("stdin") => rustix::stdio::dup2_stdin(nowhere.as_fd())?,
        Some("stdout") => rustix::stdio::dup2_stdout(nowhere.as_fd())?,
        _ => {
            rustix::stdio::dup2_stderr(nowhere.as_fd())?;
            return Ok(Some(text(&json!("closed"))));
        }
    }
    std::thread::sleep(LONGEST_LIFE);
    Ok(None)
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
