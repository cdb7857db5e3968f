//! `staithe upgrade` under load: another process takes the daemon's place, and no call fails.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "upgrade/broken.rs"]
mod broken;
#[path = "upgrade/callers.rs"]
mod callers;
#[path = "upgrade/commands.rs"]
mod commands;

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use stdx::clock::monotonic;
use testkit::Client;

#[path = "upgrade/served.rs"]
mod served;

const STAITHE: &str = env!("CARGO_BIN_EXE_staithe");

/// A daemon with two servers: `keeps` counts in memory, `says` speaks both eras.
struct Daemon {
    dir: tempfile::TempDir,
    first: Child,
    url: String,
}

impl Daemon {
    fn start() -> Self {
        Self::with(&json!({}))
    }

    /// The same with `keeps` started with these words.
    fn serving(words: &[&str]) -> Self {
        Self::with(&json!({"keeps": {"command": testkit::bin("odd"), "args": words}}))
    }

    /// The same with these servers too, or instead.
    fn with(others: &Value) -> Self {
        Self::configured(others, "")
    }

    /// The same with this configuration.
    fn configured(others: &Value, config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut servers = json!({"mcpServers": {
            "keeps": {"command": testkit::bin("odd"), "args": []},
            "says": {"command": testkit::bin("echo"), "args": []},
        }});
        servers["mcpServers"].as_object_mut().unwrap().extend(others.as_object().unwrap().clone());
        let file = dir.path().join("servers.json");
        std::fs::File::create(&file).unwrap().write_all(servers.to_string().as_bytes()).unwrap();
        let state = dir.path().join("state");
        assert!(done(staithe(&state).arg("import").arg(&file)).status.success());
        stdx::durable::write_file(&state.join("staithe.toml"), config.as_bytes(), 0o600).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut first = staithe(&state)
            .args(["--json", "serve", "--listen", "127.0.0.1:0", "--operator", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(first.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).unwrap();
        let url = told["listening"]["public"].as_str().unwrap().to_owned();
        Self { dir, first, url }
    }

    fn command(&self, words: &[&str]) -> Output {
        done(staithe(&self.dir.path().join("state")).arg("--json").args(words))
    }

    fn told(&self, words: &[&str]) -> Value {
        let output = self.command(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn pid(&self) -> u64 {
        self.told(&["status"])["pid"].as_u64().unwrap()
    }

    fn token(&self, principal: &str) -> String {
        self.told(&["token", "create", "--principal", principal])["token"].as_str().unwrap().to_owned()
    }

    fn client(&self, principal: &str) -> Client {
        Client::new(&self.url, Some(self.token(principal))).unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// Processes of this state directory: daemons, keeper, servers.
    fn processes(&self) -> Vec<String> {
        let state = self.dir.path().to_str().unwrap().to_owned();
        let identity = std::fs::read_to_string(self.dir.path().join("state/run/identity")).unwrap();
        let numbers = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let of = |pid: &u32| {
            let read = |what: &str| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
            let has = |raw: Vec<u8>, text: &str| String::from_utf8_lossy(&raw).contains(text);
            has(read("cmdline"), &state) || has(read("environ"), &format!("STAITHE_INSTANCE={identity}/"))
        };
        pids.filter(of).map(|pid| pid.to_string()).collect()
    }

    /// SIGTERM to whichever process is the daemon now; nothing may be left.
    fn stop(mut self) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
        let until = monotonic() + Duration::from_secs(30);
        while !self.processes().is_empty() {
            assert!(monotonic() < until, "left: {:?}\n{}", self.processes(), self.log());
            std::thread::sleep(Duration::from_millis(20));
            let _ = self.first.try_wait();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        for pid in self.processes() {
            let _ = Command::new("kill").args(["-s", "KILL", &pid]).status();
        }
        let _ = self.first.wait();
    }
}

fn staithe(state: &Path) -> Command {
    let mut command = Command::new(STAITHE);
    command.arg("--state-dir").arg(state).stdin(Stdio::null());
    command
}

fn done(command: &mut Command) -> Output {
    command.output().unwrap()
}

/// What the load counts.
#[derive(Default)]
struct Tally {
    over: AtomicBool,
    calls: AtomicU64,
}

impl Tally {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn one(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }
}

fn text(answer: &Value) -> String {
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// Counts in the process of one principal, and expects each number exactly once.
async fn counts(client: Client, tally: Arc<Tally>) -> Result<(), String> {
    let session = client.legacy_session("keeps").await.map_err(|e| format!("initialize: {e}"))?;
    let mut expected = 0_u64;
    while tally.goes_on() {
        let params = json!({"name": "counter", "arguments": {}});
        let answer = session.call("tools/call", params).await.map_err(|e| format!("counter after {expected}: {e}"))?;
        let count: u64 = text(&answer).trim().parse().map_err(|_| format!("{answer}"))?;
        if expected != 0 && count != expected + 1 {
            return Err(format!("counted {count} after {expected}"));
        }
        expected = count;
        tally.one();
    }
    Ok(())
}

/// Says something new each time, and expects to hear just that.
async fn says(client: Client, tally: Arc<Tally>, canary: &str) -> Result<(), String> {
    let mut n = 0;
    while tally.goes_on() {
        n += 1;
        let words = format!("{canary}-{n}");
        let params = json!({"name": "echo", "arguments": {"text": words}});
        let answer = client.modern_call("says", "tools/call", params).await.map_err(|e| format!("{words}: {e}"))?;
        if text(&answer.1) != words {
            return Err(format!("{words} heard {}", answer.1));
        }
        tally.one();
    }
    Ok(())
}

/// Calls that are longer than the time between two upgrades.
async fn sleeps(client: Client, tally: Arc<Tally>, ms: u64) -> Result<(), String> {
    let session = client.legacy_session("keeps").await.map_err(|e| format!("initialize: {e}"))?;
    while tally.goes_on() {
        let params = json!({"name": "sleep", "arguments": {"ms": ms}});
        let answer = session.call("tools/call", params).await.map_err(|e| format!("sleep: {e}"))?;
        if !answer["result"].is_object() {
            return Err(format!("sleep: {answer}"));
        }
        tally.one();
    }
    Ok(())
}

/// Comes and goes: a new connection and a new session each time, a few calls, and its end.
async fn comes_and_goes(url: String, token: String, tally: Arc<Tally>) -> Result<(), String> {
    while tally.goes_on() {
        let client = Client::new(&url, Some(token.clone())).map_err(|e| e.to_string())?;
        let session = client.legacy_session("says").await.map_err(|e| format!("initialize: {e}"))?;
        for n in 0..3 {
            let params = json!({"name": "echo", "arguments": {"text": n.to_string()}});
            let answer = session.call("tools/call", params).await.map_err(|e| format!("new session: {e}"))?;
            if text(&answer) != n.to_string() {
                return Err(format!("{n} heard {answer}"));
            }
            tally.one();
        }
        let closed = session.close().await.map_err(|e| format!("DELETE: {e}"))?;
        if closed.status != 200 {
            return Err(format!("DELETE: {}", closed.status));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_calls_and_no_failure_while_daemons_follow_each_other() {
    let daemon = Daemon::start();
    let tally = Arc::new(Tally::default());
    let mut load = Vec::new();
    for name in ["ann", "bob"] {
        load.push(stdx::task::spawn("counts", counts(daemon.client(name), tally.clone())));
        let (client, tally) = (daemon.client(name), tally.clone());
        load.push(stdx::task::spawn("says", async move { says(client, tally, name).await }));
    }
    load.push(stdx::task::spawn("sleeps", sleeps(daemon.client("carl"), tally.clone(), 2500)));
    let new = comes_and_goes(daemon.url.clone(), daemon.token("eve"), tally.clone());
    load.push(stdx::task::spawn("comes and goes", new));
    load.push(stdx::task::spawn("sleeps", sleeps(daemon.client("dora"), tally.clone(), 40)));
    let (begun, mut upgrades, mut pids) = (monotonic(), 0, vec![daemon.pid()]);
    let mut longest = Duration::ZERO;
    while (tally.calls.load(Ordering::Relaxed) < 10_000 || upgrades < 12) && begun.elapsed() < Duration::from_secs(150)
    {
        tokio::time::sleep(Duration::from_millis(900)).await;
        let asked = monotonic();
        let output = tokio::task::block_in_place(|| daemon.command(&["upgrade"]));
        longest = longest.max(asked.elapsed());
        assert!(output.status.success(), "{output:?}\n{}", daemon.log());
        upgrades += 1;
        pids.push(tokio::task::block_in_place(|| daemon.pid()));
    }
    tally.over.store(true, Ordering::Relaxed);
    for task in load {
        let outcome = task.await.unwrap().unwrap();
        assert!(outcome.is_ok(), "after {upgrades} upgrades: {outcome:?}\n{}", daemon.log());
    }
    let calls = tally.calls.load(Ordering::Relaxed);
    eprintln!(
        "{calls} calls, {upgrades} upgrades, longest {} ms, in {} s",
        longest.as_millis(),
        begun.elapsed().as_secs()
    );
    assert!(calls >= 10_000 && upgrades >= 12, "{calls} calls, {upgrades} upgrades");
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), upgrades + 1, "each upgrade is another process");
    tokio::task::block_in_place(|| daemon.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_cannot_take_over_changes_nothing() {
    let daemon = Daemon::start();
    let client = daemon.client("ann");
    let session = client.legacy_session("keeps").await.unwrap();
    let count = || async {
        let answer = session.call("tools/call", json!({"name": "counter", "arguments": {}})).await.unwrap();
        text(&answer).trim().parse::<u64>().unwrap()
    };
    let first = count().await;
    let before = daemon.pid();
    let silent = daemon.script("exec sleep 100");
    let silent = format!("{} is no staithe", silent.display());
    for (program, why) in [
        ("/bin/false", "/bin/false is no staithe"),
        ("/bin/cat", "/bin/cat is no staithe"),
        (silent.split(' ').next().unwrap(), &*silent),
        ("/nowhere/at/all", "is not a program"),
        ("relative", "is not a program"),
    ] {
        let asked = monotonic();
        let output = tokio::task::block_in_place(|| daemon.command(&["upgrade", program]));
        assert!(!output.status.success(), "{program}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{program}: {output:?}");
        assert!(asked.elapsed() < Duration::from_secs(20), "it takes as long as if it had been run");
    }
    assert_eq!(daemon.pid(), before);
    assert_eq!(count().await, first + 1);
    // And then one that can.
    assert!(tokio::task::block_in_place(|| daemon.command(&["upgrade", STAITHE])).status.success());
    assert_ne!(daemon.pid(), before);
    assert_eq!(count().await, first + 2);
    tokio::task::block_in_place(|| daemon.stop());
}
