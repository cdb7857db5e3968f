//! What becomes of `staithe run` when its terminal closes or stops reading, and when it is killed.
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
    told: Value,
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
        Self { child, address, told, dir }
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

/// Each has a database of its own, and would end what it does not find there.
#[tokio::test]
async fn what_a_killed_run_left_is_not_the_daemon_s_to_end() {
    let mut host = Running::start(&[]);
    let token = host.told["token"].as_str().unwrap().to_owned();
    let client = testkit::Client::new(&format!("http://{}", host.address), Some(token)).unwrap();
    let session = client.legacy_session("odd").await.unwrap();
    session.call("tools/call", serde_json::json!({"name": "counter", "arguments": {}})).await.unwrap();
    testkit::wait::eventually("only its process", || host.servers().len() == 1).await;
    let before = host.servers();
    host.signal("KILL");
    assert_eq!(host.end(), None);
    let serve = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_staithe"));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--operator", "127.0.0.1:0", "--state-dir"])
            .arg(host.dir.path());
        command
    };
    let refused = serve().output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said.contains("still holds the servers of a `staithe run`"), "{said}");
    assert_eq!(host.servers(), before);
    let keeper = said.split("`kill ").nth(1).unwrap().split('`').next().unwrap().to_owned();
    assert!(Command::new("kill").arg(&keeper).status().unwrap().success(), "as the error says");
    testkit::wait::eventually("the end of the keeper", || !testkit::wait::lives(&keeper)).await;
    assert_eq!(host.servers(), Vec::<i32>::new());
    let mut daemon = serve().stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("listening "), "{line}");
    assert!(Command::new("kill").arg(daemon.id().to_string()).status().unwrap().success());
    assert!(daemon.wait().unwrap().success());
}
