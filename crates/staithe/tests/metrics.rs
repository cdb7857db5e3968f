//! What `/metrics` of a running daemon prints is what docs/operations.md says, and only loopback names are told.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A daemon that hosts nothing yet.
struct Daemon {
    child: Child,
    operator: String,
    _dir: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_staithe"))
            .args(["run", "--json", "--listen", "127.0.0.1:0", "--state-dir"])
            .arg(dir.path())
            .arg("--")
            .arg(testkit::bin("odd"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).unwrap();
        let operator = told["listening"]["operator"].as_str().unwrap().trim_start_matches("http://").to_owned();
        Self { child, operator, _dir: dir }
    }

    /// The whole answer to a GET.
    fn get(&self, path: &str, host: &str) -> String {
        let mut stream = TcpStream::connect(&self.operator).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn stop(mut self) {
        let sent = Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
        assert!(self.child.wait().unwrap().success());
    }
}

/// `name kind` of each row of the table of families.
fn documented() -> BTreeSet<String> {
    let text = include_str!("../../../docs/operations.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `staithe_"));
    let row = |rest: &str| {
        let mut cells = rest.split('|');
        let name = cells.next().unwrap().trim().trim_end_matches('`').to_owned();
        format!("staithe_{name} {}", cells.next().unwrap().trim())
    };
    rows.map(row).collect()
}

#[test]
fn the_documented_families_are_the_printed_ones() {
    let daemon = Daemon::start();
    let answer = daemon.get("/metrics", "localhost");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{answer}");
    let printed: BTreeSet<String> =
        answer.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(str::to_owned).collect();
    assert_eq!(printed, documented());
    assert!(answer.contains("staithe_server_ready{server=\"odd\"}"), "{answer}");
    let started = answer.lines().find_map(|line| line.strip_prefix("staithe_start_time_seconds ")).unwrap();
    assert!(started.parse::<f64>().unwrap() > 1.7e9, "{started}");
    for (path, host, status) in
        [("/metrics", "evil.example", "403"), ("/metrics/", "localhost", "404"), ("/healthz", "localhost", "200")]
    {
        assert!(daemon.get(path, host).starts_with(&format!("HTTP/1.1 {status}")), "{path} {host}");
    }
    daemon.stop();
}
