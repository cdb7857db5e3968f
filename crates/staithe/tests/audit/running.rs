//! A witness that runs, and a client that can send anything.

use crate::made::{STAITHE, policy};
use ledger::Policy;
use ledger::key::Verifier;
use ledger::witness::Reply;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub(crate) const NAME: &str = "example.com/w1";

/// A witness process.
pub(crate) struct Witness {
    child: Child,
    pub(crate) at: Address,
    pub(crate) told: Value,
    pub(crate) line: String,
}

/// Where it listens, for threads.
#[derive(Clone, Debug)]
pub(crate) struct Address(pub(crate) String);

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) kind: String,
    pub(crate) body: String,
}

pub(crate) fn command(dir: &Path, name: &str, logs: &[PathBuf]) -> Command {
    let mut command = Command::new(STAITHE);
    command.args(["audit", "witness", "--json", "--listen", "127.0.0.1:0", "--name", name, "--dir"]).arg(dir);
    command.arg("--log").args(logs);
    command
}

impl Witness {
    pub(crate) fn start(dir: &Path, logs: &[PathBuf]) -> Self {
        let mut child = command(dir, NAME, logs).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).unwrap();
        let at = told["listening"]["witness"].as_str().unwrap().trim_start_matches("http://").to_owned();
        Self { child, at: Address(at), told, line }
    }

    pub(crate) fn vkeys(&self) -> Vec<String> {
        self.told["vkeys"].as_array().unwrap().iter().map(|key| key.as_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn verifiers(&self) -> Vec<Verifier> {
        self.vkeys().iter().map(|key| key.parse().unwrap()).collect()
    }

    /// Both cosignatures of this witness are needed.
    pub(crate) fn policy(&self) -> Policy {
        Policy::parse(policy(&[self.vkeys()]).as_bytes()).unwrap()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; gives the exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        let sent = Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
        testkit::wait::until_some("the witness to end", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Address {
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.0).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        stream
    }

    /// Sends bytes as they are and reads until the connection ends. `None`: it ended without an answer.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Option<Answer> {
        let mut stream = self.connect();
        // A witness that has heard enough closes while we still write.
        drop(stream.write_all(bytes));
        answer(stream)
    }

    pub(crate) fn try_ask(&self, method: &str, path: &str, body: &str) -> Option<Answer> {
        let mut stream = TcpStream::connect(&self.0).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: w\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        drop(stream.write_all([head.as_bytes(), body.as_bytes()].concat().as_slice()));
        answer(stream)
    }

    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        self.try_ask(method, path, body).unwrap()
    }

    pub(crate) fn add(&self, request: &impl ToString) -> Answer {
        self.ask("POST", "/add-checkpoint", &request.to_string())
    }

    /// The page of a log.
    pub(crate) fn shown(&self, origin: &str) -> Answer {
        self.ask("GET", &format!("/{}/checkpoint", ledger::witness::origin_hash(origin)), "")
    }
}

/// What comes until the connection ends.
pub(crate) fn answer(mut stream: TcpStream) -> Option<Answer> {
    let mut bytes = Vec::new();
    // A reset behind the answer is the end too.
    drop(stream.read_to_end(&mut bytes));
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let kind = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default().to_owned();
    Some(Answer { status, kind, body: body.to_owned() })
}

impl Answer {
    /// As a log reads it.
    pub(crate) fn read(&self, checkpoint: &str, keys: &[Verifier]) -> Reply {
        Reply::read(checkpoint, keys, self.status, &self.kind, self.body.as_bytes()).unwrap()
    }
}
