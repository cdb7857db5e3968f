//! What `/metrics` of a running daemon prints is what docs/operations.md says, and only loopback names are told; where the
//! time of a call went is told to who asks, and to a collector.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// A daemon that hosts nothing yet.
struct Daemon {
    child: Child,
    operator: String,
    dir: tempfile::TempDir,
}

impl Daemon {
    fn start(variables: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_staithe"))
            .args(["run", "--json", "--open", "--listen", "127.0.0.1:0", "--state-dir"])
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .envs(variables.iter().copied())
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
        Self { child, operator, dir }
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

    /// `staithe call` of the tool `sleep`.
    fn call(&self, more: &[&str]) -> String {
        let output = self.tool("sleep", more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn tool(&self, name: &str, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_staithe"));
        command.args(["call", "odd", name, r#"{"ms":30}"#, "--timing", "--state-dir"]).arg(self.dir.path()).args(more);
        command.output().unwrap()
    }

    fn stop(mut self) {
        let sent = Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Daemon {
    /// A test that fails leaves nothing running.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status();
            let _ = self.child.wait();
        }
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
    let daemon = Daemon::start(&[]);
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

/// Takes requests until one holds `wanted`, and gives it back.
fn collector(listener: TcpListener, wanted: &'static str) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        loop {
            let mut stream = listener.accept().unwrap().0;
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let (mut all, mut piece) = (Vec::new(), [0; 65536]);
            let body = loop {
                let n = stream.read(&mut piece).unwrap();
                assert!(n > 0);
                all.extend_from_slice(&piece[..n]);
                let text = String::from_utf8_lossy(&all).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                if body.len() == length.parse::<usize>().unwrap() {
                    break body.to_owned();
                }
            };
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
            if body.contains(wanted) {
                return body;
            }
        }
    })
}

#[test]
fn the_time_of_a_call_is_told_to_who_asks_and_to_a_collector() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let collected = collector(listener, "tools/call sleep");
    let daemon = Daemon::start(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]);
    let answer: Value = serde_json::from_str(&daemon.call(&["--json"])).unwrap();
    assert_eq!(answer["result"]["content"][0]["text"], "slept", "{answer}");
    let timing = &answer["timing"];
    let ms = |name: &str| timing[name].as_f64().unwrap();
    let sum: f64 = ["admission", "policy", "queue", "server", "delivery"].map(ms).iter().sum();
    assert!((sum - ms("total")).abs() < 0.01 && ms("server") >= 29.0, "{timing}");
    let shown = daemon.call(&[]);
    assert!(shown.starts_with("slept\n\nSTAGE") && shown.contains("server ") && shown.contains('#'), "{shown}");
    let failed = daemon.tool("none-of-this-name", &[]);
    let shown = String::from_utf8(failed.stdout).unwrap();
    assert!(!failed.status.success() && shown.starts_with("STAGE") && shown.contains("total "), "{shown}");
    let failed: Value = serde_json::from_slice(&daemon.tool("none-of-this-name", &["--json"]).stderr).unwrap();
    assert!(failed["error"]["code"].is_i64() && failed["timing"]["total"].is_f64(), "{failed}");
    let body: Value = serde_json::from_str(&collected.join().unwrap()).unwrap();
    let spans = body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
    let call = spans.iter().find(|span| span["name"] == "tools/call sleep").unwrap();
    let children = spans.iter().filter(|span| span["parentSpanId"] == call["spanId"]).count();
    assert_eq!(children, 5, "{body}");
    // The collector is gone now: calls and the stop go on as ever.
    daemon.call(&[]);
    daemon.stop();
}
