//! `kill -9` of the keeper, alone and with its daemon: processes end, sessions do not, and nothing is left behind.

use crate::daemon::{Daemon, Dice, mark, signal};
use crate::graceful::nothing_is_left;
use crate::load::{self, Allowed, told};
use crate::survives::runs;
use rustix::process::Signal;
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;
use testkit::Client;
use testkit::wait::{eventually, eventually_some};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_outlive_the_keeper_under_load() {
    let mut dice = Dice::new();
    let mut daemon = Daemon::new(&load::servers(), &[], "");
    let reasons = &["server_ended", "outcome_unknown"];
    let allowed = Allowed { new_processes: true, reasons, ..Allowed::default() };
    let (load, tasks) = load::begin(&daemon, &mut dice, allowed);
    eventually_some("an answer for every worker", async || (load.workers_served() >= 24).then_some(())).await;
    for _ in 0..5 {
        let keeper = daemon.keeper().unwrap();
        let servers = daemon.servers();
        signal(keeper, Signal::KILL);
        eventually_some("another keeper", async || daemon.keeper().filter(|pid| *pid != keeper)).await;
        eventually_some("the end of the old processes", async || {
            let now = daemon.servers();
            servers.iter().all(|pid| !now.contains(pid)).then_some(())
        })
        .await;
        load.all_are_served_again().await;
    }
    load.balance(tasks).await;
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    nothing_is_left(&daemon).await;
}

/// Nobody is to look for the fault in the server.
#[tokio::test]
async fn a_call_that_ends_with_the_keeper_is_no_fault_of_the_server() {
    let mut daemon = Daemon::new(&load::servers(), &[], "");
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    let session = client.legacy_session("own").await.unwrap();
    let keeper = daemon.keeper().unwrap();
    let answer = runs(&daemon, &session, 60_000, || signal(keeper, Signal::KILL)).await.unwrap();
    let data = &answer["error"]["data"];
    assert_eq!((&data["reason"], &data["blame"]), (&json!("server_ended"), &json!("host")), "{answer}");
    assert!(data["status"].as_str().unwrap().contains("keeper"), "{answer}");
    let metrics = page(&daemon, "/metrics");
    let counted = |outcome: &str| {
        metrics.lines().any(|line| {
            line.starts_with("staithe_calls_total{")
                && line.contains(r#"server="own""#)
                && line.contains(&format!(r#"outcome="{outcome}""#))
                && !line.ends_with(" 0")
        })
    };
    assert!(counted("host_error") && !counted("server_error"), "{metrics}");
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    nothing_is_left(&daemon).await;
}

/// What the operator's listener says at `path`.
fn page(daemon: &Daemon, path: &str) -> String {
    let status = daemon.cli(&["status"]);
    let address = status["operator"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A daemon was stopped, and its keeper is not quite gone: it hangs up, and holds its lock a moment longer.
#[tokio::test]
async fn a_daemon_that_meets_a_keeper_that_ends_waits_for_it() {
    let mut daemon = Daemon::new(&load::servers(), &[], "");
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    let (socket, lock) = (daemon.state().join("run/keeper.sock"), daemon.state().join("run/keeper.lock"));
    let lock = std::fs::File::options().write(true).open(lock).unwrap();
    lock.lock().unwrap();
    let door = UnixListener::bind(socket).unwrap();
    let ending = std::thread::spawn(move || {
        drop(door.accept().unwrap());
        drop(door);
        std::thread::sleep(Duration::from_millis(300));
        drop(lock);
    });
    daemon.start();
    eventually("the daemon", || daemon.run(&["status"]).status.success()).await;
    ending.join().unwrap();
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    nothing_is_left(&daemon).await;
}

/// The last daemon was killed so long ago that the keeper ends what it holds, and a process takes its time with that.
#[tokio::test]
async fn a_daemon_that_meets_a_keeper_that_ends_its_processes_waits_for_it() {
    let files = tempfile::tempdir().unwrap();
    let (stubborn, everything) = (files.path().join("stubborn"), testkit::bin("everything"));
    let (flag, program) = (stubborn.display(), everything.display());
    let script = format!("{program} --legacy; if [ -e {flag} ]; then trap '' TERM; sleep 30; fi");
    let mut daemon = Daemon::new(&json!({"one": {"command": "sh", "args": ["-c", script]}}), &[], "");
    eventually("the verdict", || daemon.verdict().is_some()).await;
    daemon.insist_on_port();
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    let mut keeper = std::process::Command::new(env!("CARGO_BIN_EXE_staithe"));
    let keeper = keeper.args(["keeper", "--orphan-timeout", "1", "--state-dir"]).arg(daemon.state());
    let mut keeper = keeper.stdout(std::process::Stdio::null()).spawn().unwrap();
    eventually("the keeper", || UnixStream::connect(daemon.state().join("run/keeper.sock")).is_ok()).await;
    daemon.start();
    eventually("the daemon", || daemon.run(&["status"]).status.success()).await;
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    client.legacy_session("one").await.unwrap();
    assert!(!daemon.servers().is_empty());
    stdx::durable::write_file(&stubborn, b"", 0o600).unwrap();
    daemon.kill();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(keeper.try_wait().unwrap().is_none(), "it waits for the process");
    daemon.start();
    eventually("the daemon", || daemon.run(&["status"]).status.success()).await;
    assert!(keeper.wait().unwrap().success());
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    nothing_is_left(&daemon).await;
}

/// A program that is slow to start dies with the keeper while it is asked for its eras. That is no answer.
#[tokio::test]
async fn a_probe_that_ends_with_the_keeper_says_nothing_about_the_server() {
    let script = format!("sleep 0.4; exec {} --era dual", testkit::bin("chaos").display());
    let mut dice = Dice::new();
    let mut daemon = Daemon::new(&json!({"slow": {"command": "sh", "args": ["-c", script]}}), &[], "");
    let mut met = Vec::new();
    for _ in 0..3 {
        eventually_some("a process that is asked, or an end of the asking", async || {
            let now = daemon.servers();
            let new = now.iter().any(|pid| !met.contains(pid)) || daemon.verdict().is_some();
            met.extend(now);
            new.then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(dice.below(400))).await;
        if let Some(keeper) = daemon.keeper() {
            signal(keeper, Signal::KILL);
        }
    }
    assert_eq!(eventually_some("a verdict", async || daemon.verdict()).await, "dual");
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    nothing_is_left(&daemon).await;
}

/// Nor is it one where it has answered in one era already, and is asked for the other.
#[tokio::test]
async fn the_second_half_of_a_probe_that_ends_with_the_keeper_says_nothing_either() {
    let files = tempfile::tempdir().unwrap();
    let starts = files.path().join("starts");
    let (log, chaos) = (starts.display(), testkit::bin("chaos"));
    let script = format!("echo >> {log}; [ $(wc -l < {log}) = 2 ] && sleep 30; exec {} --era dual", chaos.display());
    let mut daemon = Daemon::new(&json!({"slow": {"command": "sh", "args": ["-c", script]}}), &[], "");
    eventually("the second start", || std::fs::read(&starts).is_ok_and(|lines| lines.len() == 2)).await;
    signal(daemon.keeper().unwrap(), Signal::KILL);
    assert_eq!(eventually_some("a verdict", async || daemon.verdict()).await, "dual");
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    nothing_is_left(&daemon).await;
}

#[tokio::test]
async fn after_all_was_killed_leftovers_are_gone_and_sessions_valid() {
    let files = tempfile::tempdir().unwrap();
    let pid_file = files.path().join("leaf");
    let odd = json!({"command": testkit::bin("odd"), "args": ["--double-fork", "--pid-file", pid_file]});
    let mut servers = load::servers();
    servers["odd"] = odd;
    let mut daemon = Daemon::new(&servers, &[], "");
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    let own = client.legacy_session("own").await.unwrap();
    let odd = client.legacy_session("odd").await.unwrap();
    let note = |nonce: &str| json!({"name": "note", "arguments": {"nonce": nonce, "canary": "ann"}});
    assert_eq!(told(&own.call("tools/call", note("before")).await.unwrap())["count"], 1);
    assert!(odd.call("tools/call", json!({"name": "counter", "arguments": {}})).await.unwrap()["result"].is_object());
    daemon.insist_on_port();
    // Processes that were only tried have had grandchildren too.
    let leaf = eventually_some("the grandchild of the process that serves", async || {
        let leaf: u32 = std::fs::read_to_string(&pid_file).ok()?.trim().parse().ok()?;
        let serving = daemon.cli(&["instances", "odd"])[0]["pid"].as_u64()?;
        (mark(leaf)? == mark(u32::try_from(serving).ok()?)?).then_some(leaf)
    })
    .await;
    let before = daemon.servers();
    assert!(before.contains(&leaf), "the grandchild carries the mark");
    let keeper = daemon.keeper().unwrap();
    daemon.kill();
    signal(keeper, Signal::KILL);
    eventually_some("the end of the keeper", async || daemon.keeper().is_none().then_some(())).await;
    assert!(daemon.servers().contains(&leaf), "a grandchild that ignores signals outlives both");
    daemon.start();
    eventually_some("the end of what was left", async || {
        let now = daemon.servers();
        before.iter().all(|pid| !now.contains(pid)).then_some(())
    })
    .await;
    let answer =
        eventually_some("the session on a new process", async || own.call("tools/call", note("after")).await.ok())
            .await;
    assert_eq!(told(&answer)["count"], 1, "what it kept in memory is gone: {answer}");
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    nothing_is_left(&daemon).await;
}
