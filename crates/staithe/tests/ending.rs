//! What the terminal does to `staithe run`: it closes, or stops reading.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A host, and where it listens.
struct Running {
    child: Child,
    address: String,
    dir: tempfile::TempDir,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_staithe"))
            .args(["run", "--json", "--listen", "127.0.0.1:0", "--state-dir"])
            .arg(dir.path())
            .arg("--")
            .arg(testkit::bin("odd"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).unwrap();
        let address = told["listening"]["public"].as_str().unwrap().trim_start_matches("http://").to_owned();
        Self { child, address, dir }
    }

    /// The status of a request without a token, for which a trace line is written too.
    fn refused(&self) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let head = "POST /mcp/odd HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.lines().next().unwrap_or_default().to_owned()
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Processes that carry the mark of this host's directory.
    fn servers(&self) -> Vec<i32> {
        let identity = std::fs::read_to_string(self.dir.path().join("run/identity")).unwrap();
        let mark = format!("STAITHE_INSTANCE={identity}/");
        let numbers = std::fs::read_dir("/proc").unwrap().flatten();
        let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let marked = |pid: &i32| {
            let raw = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            raw.split(|b| *b == 0).any(|entry| entry.starts_with(mark.as_bytes()))
        };
        numbers.filter(marked).collect()
    }

    /// Its exit code; `None` if a signal ended it.
    fn end(&mut self) -> Option<i32> {
        for _ in 0..2000 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child.kill().unwrap();
        None
    }
}

#[test]
fn a_reader_of_stderr_that_leaves_costs_no_request() {
    let mut host = Running::start(&[]);
    drop(host.child.stderr.take());
    for _ in 0..3 {
        assert_eq!(host.refused(), "HTTP/1.1 401 Unauthorized");
    }
    host.signal("TERM");
    assert_eq!(host.end(), Some(0));
}

#[test]
fn a_terminal_that_closes_leaves_no_process_behind() {
    let mut host = Running::start(&["--ignore-eof", "--ignore-term"]);
    let found = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        !host.servers().is_empty()
    });
    assert!(found, "the server is tried at the start");
    host.signal("HUP");
    host.signal("HUP");
    assert_eq!(host.end(), Some(0), "it stops in order, also when the shell and the kernel both say so");
    assert_eq!(host.servers(), Vec::<i32>::new());
}
