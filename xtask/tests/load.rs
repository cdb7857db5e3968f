//! The load generator against the floor, as real processes: right answers are counted, wrong ones noticed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

const XTASK: &str = env!("CARGO_BIN_EXE_xtask");

/// A floor in front of `child`; ends when its stdin is closed.
struct Floor {
    process: Child,
    address: String,
}

impl Floor {
    fn start(child: &[&str]) -> Self {
        let mut process = Command::new(XTASK)
            .args(["floor", "--"])
            .args(child)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening ").unwrap().to_owned();
        Self { process, address }
    }

    fn load(&self, protocol: &str, callers: u32, bytes: usize) -> Value {
        let output = Command::new(XTASK)
            .args(["load", "--address", &self.address, "--path", "/", "--protocol", protocol])
            .args(["--callers", &callers.to_string(), "--bytes", &bytes.to_string()])
            .args(["--warm-ms", "20", "--measure-ms", "200", "--answer-limit-ms", "1000"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn stop(mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().unwrap().success());
    }
}

#[track_caller]
fn assert_measured(report: &Value) {
    assert_eq!(report["failed"], 0, "{report}");
    assert!(report["calls"].as_u64().unwrap() > 0, "{report}");
    assert!(report["all_calls"].as_u64().unwrap() >= report["calls"].as_u64().unwrap(), "{report}");
    let (p50, p99) = (report["latency"]["p50_us"].as_f64().unwrap(), report["latency"]["p99_us"].as_f64().unwrap());
    assert!(p50 > 0.0 && p99 >= p50, "{report}");
}

#[test]
fn right_answers_are_counted() {
    let echo = Floor::start(&[]);
    let piped = Floor::start(&[XTASK, "fake"]);
    for (callers, bytes) in [(1, 100), (16, 100), (64, 100), (16, 65_536)] {
        assert_measured(&echo.load("echo", callers, bytes));
        assert_measured(&piped.load("bare", callers, bytes));
    }
    echo.stop();
    piped.stop();
}

#[test]
fn wrong_and_missing_answers_are_noticed() {
    let liar = Floor::start(&[XTASK, "fake", "--wrong-text-at", "5"]);
    let report = liar.load("bare", 4, 100);
    assert_eq!(report["failed"], 1, "{report}");
    assert!(report["first_failure"].as_str().unwrap().contains("another call's"), "{report}");
    liar.stop();

    let silent = Floor::start(&[XTASK, "fake", "--silent-at", "5"]);
    let report = silent.load("bare", 4, 100);
    assert_eq!(report["failed"], 4, "{report}");
    assert!(report["first_failure"].as_str().unwrap().contains("no answer in 1s"), "{report}");
    silent.stop();

    // A floor that checks no token lets everybody in: a load that expects a refusal must say so.
    let open = Floor::start(&[]);
    let report = open.load("denied", 1, 100);
    assert!(report["first_failure"].as_str().unwrap().contains("status 200 instead of 401"), "{report}");
    open.stop();
}

#[test]
fn a_server_is_driven_over_its_pipes() {
    let drive = |callers: &str, child: &[&str]| {
        let output = Command::new(XTASK)
            .args(["direct", "--callers", callers, "--bytes", "65536", "--warm-ms", "20", "--measure-ms", "200", "--"])
            .args(child)
            .output()
            .unwrap();
        (output.status.success(), output)
    };
    for callers in ["1", "64"] {
        let (ok, output) = drive(callers, &[XTASK, "fake"]);
        assert!(ok, "{}", String::from_utf8_lossy(&output.stderr));
        assert_measured(&serde_json::from_slice(&output.stdout).unwrap());
    }
    let (ok, output) = drive("4", &[XTASK, "fake", "--wrong-text-at", "5"]);
    assert!(!ok && String::from_utf8_lossy(&output.stderr).contains("another call's"));
}

#[test]
fn sessions_need_a_server_that_has_them() {
    let floor = Floor::start(&[XTASK, "fake"]);
    let output = Command::new(XTASK)
        .args(["sessions", "--address", &floor.address, "--path", "/", "--count", "1"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("no answer to initialize"));
    floor.stop();
}
