//! What is measured: how to start it, where it listens, how to stop it and all that it started.

use super::error::{BenchError, cannot, wrong};
use super::mcp::Target;
use super::proc;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;
use stdx::clock::monotonic;

/// How long a start may take. Peers import half a language's library first.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a stop may take before it is enforced.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How often to look whether something has happened.
const POLL: Duration = Duration::from_millis(5);

/// How to know that a subject is ready, and where it listens.
#[derive(Clone, Debug)]
pub(crate) enum Ready {
    /// It prints `listening ip:port`.
    Floor,
    /// It prints JSON with `public`, and with `token` unless it is open.
    Staithe { open: bool },
    /// It accepts connections at a port that it was told.
    Port(u16),
}

/// A subject that runs.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    /// Where its calls go.
    pub(crate) target: Target,
    /// From the start of the process until it was ready.
    pub(crate) started_in: Duration,
}

// === impl Running ===

impl Running {
    /// Starts `command` and waits until it is ready. What it says on stderr goes to `log`. It stays in this process
    /// group, so that Ctrl-C reaches it too.
    pub(crate) fn start(mut command: Command, ready: &Ready, path: &str, log: &Path) -> Result<Self, BenchError> {
        let name = command.get_program().to_string_lossy().into_owned();
        let stderr = File::create(log).map_err(cannot(format!("create {}", log.display())))?;
        let started = monotonic();
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(cannot(format!("start {name}")))?;
        let target = Target { address: String::new(), path: path.to_owned(), token: None };
        let mut running = Self { child, target, started_in: Duration::ZERO };
        match running.wait_until_ready(ready) {
            Ok(()) => {
                running.started_in = started.elapsed();
                Ok(running)
            }
            Err(error) => {
                running.stop()?;
                let said = std::fs::read_to_string(log).unwrap_or_default();
                let last = said.lines().rev().take(5).collect::<Vec<_>>().join(" | ");
                Err(wrong(format!("{name} did not start: {error}; its stderr, last line first: {last}")))
            }
        }
    }

    /// Its process.
    #[cfg(test)]
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it and its descendants hold now.
    pub(crate) fn usage(&self) -> proc::Usage {
        proc::usage(self.child.id())
    }

    /// Asks it to stop, waits, then ends whatever is left of its tree.
    pub(crate) fn stop(mut self) -> Result<(), BenchError> {
        let tree = proc::tree(self.child.id());
        drop(self.child.stdin.take());
        signal(self.child.id(), Signal::TERM);
        let deadline = monotonic() + STOP_LIMIT;
        while monotonic() < deadline && self.child.try_wait().map_err(cannot("wait for a subject"))?.is_none() {
            std::thread::sleep(POLL);
        }
        // Whoever is left did not care, or has lost its parent.
        tree.iter().filter(|process| proc::lives(**process)).for_each(|process| signal(process.id, Signal::KILL));
        self.child.wait().map_err(cannot("wait for a subject"))?;
        let deadline = monotonic() + STOP_LIMIT;
        while tree.iter().any(|process| proc::lives(*process)) {
            if monotonic() > deadline {
                return Err(wrong("a process of a subject lives on although it was killed"));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn wait_until_ready(&mut self, ready: &Ready) -> Result<(), BenchError> {
        let output = self.child.stdout.take().ok_or_else(|| wrong("there is no stdout"))?;
        let lines = lines_of(output);
        match ready {
            Ready::Port(port) => {
                self.target.address = format!("127.0.0.1:{port}");
                self.wait_for_port()
            }
            Ready::Floor => {
                let said = |line: &str| line.strip_prefix("listening ").map(str::to_owned);
                self.target.address = wait_for_line(&lines, said)?;
                Ok(())
            }
            Ready::Staithe { open } => {
                let public = |line: &str| text_in(&serde_json::from_str(line).ok()?, "public");
                let token = |line: &str| text_in(&serde_json::from_str(line).ok()?, "token");
                let both = |line: &str| match (public(line), token(line)) {
                    (Some(public), token) => Some((public, token)),
                    _ => None,
                };
                let (public, early) = wait_for_line(&lines, both)?;
                self.target.address = public.trim_start_matches("http://").trim_end_matches('/').to_owned();
                self.target.token = match early {
                    None if !open => Some(wait_for_line(&lines, token)?),
                    early => early,
                };
                Ok(())
            }
        }
    }

    fn wait_for_port(&mut self) -> Result<(), BenchError> {
        let deadline = monotonic() + START_LIMIT;
        while monotonic() < deadline {
            if let Some(status) = self.child.try_wait().map_err(cannot("look at a subject"))? {
                return Err(wrong(format!("it ended with {status}")));
            }
            if TcpStream::connect(&self.target.address).is_ok() {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        Err(wrong(format!("it does not listen after {START_LIMIT:?}")))
    }
}

/// The lines of a subject's stdout. Those that nobody waits for are read and dropped, so that it can go on.
fn lines_of(output: std::process::ChildStdout) -> Receiver<String> {
    let (send, receive) = sync_channel(64);
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            // Full or closed: nobody waits.
            drop(send.try_send(line));
        }
    });
    receive
}

/// Waits for the first line that `wanted` makes something of.
fn wait_for_line<T>(lines: &Receiver<String>, wanted: impl Fn(&str) -> Option<T>) -> Result<T, BenchError> {
    let deadline = monotonic() + START_LIMIT;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(monotonic())) {
            Ok(line) => {
                if let Some(found) = wanted(&line) {
                    return Ok(found);
                }
            }
            Err(RecvTimeoutError::Timeout) => return Err(wrong(format!("it said nothing in {START_LIMIT:?}"))),
            Err(RecvTimeoutError::Disconnected) => return Err(wrong("it closed its stdout")),
        }
    }
}

/// The text that a member named `key` has, at any depth.
fn text_in(value: &Value, key: &str) -> Option<String> {
    match value {
        Value::Object(members) => match members.get(key) {
            Some(Value::String(text)) => Some(text.clone()),
            _ => members.values().find_map(|member| text_in(member, key)),
        },
        _ => None,
    }
}

/// Sends a signal. Who is gone already is as good as stopped.
fn signal(id: u32, signal: Signal) {
    if let Some(to) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        let _ = kill_process(to, signal);
    }
}

/// How to start `staithe run` in front of `child`, with a fresh state directory.
pub(crate) fn staithe(binary: &Path, state: &PathBuf, options: &[&str], child: &Path) -> Command {
    let mut command = Command::new(binary);
    command.arg("--state-dir").arg(state).args(["--json", "run", "--name", "echo", "--listen", "127.0.0.1:0"]);
    command.args(options).arg("--").arg(child);
    command
}

#[cfg(test)]
mod tests {
    use super::{Ready, Running, proc, text_in};
    use std::process::Command;

    fn shell(script: &str, ready: &Ready) -> Result<Running, String> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let log = std::env::temp_dir().join(format!("staithe-subject-{}", std::process::id()));
        let running = Running::start(command, ready, "/mcp/echo", &log).map_err(|error| error.to_string());
        std::fs::remove_file(log).unwrap();
        running
    }

    #[test]
    fn reads_where_staithe_listens() {
        let one = r#"echo '{"listening":{"public":"http://127.0.0.1:9"},"token":"t"}'; sleep 60"#;
        let two =
            r#"echo '{"listening":{"public":"http://127.0.0.1:9"}}'; echo hm; echo '{"a":{"token":"t"}}'; sleep 60"#;
        for script in [one, two] {
            let running = shell(script, &Ready::Staithe { open: false }).unwrap();
            assert_eq!(running.target.address, "127.0.0.1:9");
            assert_eq!(running.target.token.as_deref(), Some("t"));
            running.stop().unwrap();
        }
        assert_eq!(text_in(&serde_json::json!([1]), "x"), None);
    }

    #[test]
    fn a_stop_reaches_the_whole_tree() {
        let script = "trap '' TERM; (trap '' TERM; sleep 61) & echo listening 1.2.3.4:5; wait; sleep 62";
        let running = shell(script, &Ready::Floor).unwrap();
        let tree = proc::tree(running.id());
        assert!(tree.len() >= 2, "{tree:?}");
        running.stop().unwrap();
        assert!(tree.into_iter().all(|process| !proc::lives(process)));
    }

    #[test]
    fn a_start_that_fails_says_why() {
        let error = shell("echo no licence >&2; exit 3", &Ready::Floor).unwrap_err();
        assert!(error.contains("no licence") && error.contains("closed its stdout"), "{error}");
    }
}
