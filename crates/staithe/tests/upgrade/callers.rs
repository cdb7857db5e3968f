//! Callers whose connection or session is older than the daemon.

use crate::broken::kill;
use crate::{Daemon, text};
use serde_json::json;
use testkit::Client;
use testkit::wait::{PATIENCE, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A call of a tool that sleeps, as bytes on a connection that is kept.
fn request(daemon: &Daemon, token: &str, ms: u64) -> String {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let params = json!({"name": "sleep", "arguments": {"ms": ms}, "_meta": meta});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string();
    let head = format!(
        "POST /mcp/keeps HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\nmcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\n\
         mcp-name: sleep\r\ncontent-length: {}\r\n\r\n",
        daemon.url.trim_start_matches("http://"),
        body.len()
    );
    head + &body
}

/// Until `end` stands in what comes.
async fn read(stream: &mut TcpStream, end: &str) -> String {
    let mut read = String::new();
    while !read.contains(end) {
        let mut bytes = [0; 4096];
        let count = tokio::time::timeout(PATIENCE, stream.read(&mut bytes)).await.unwrap().unwrap();
        assert!(count > 0, "closed after {read:?}");
        read.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    read
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_outcome_is_lost_with_the_new_daemon_is_not_asked_for_again() {
    let daemon = Daemon::start();
    let token = daemon.token("ann");
    let client: &'static Client = Box::leak(Box::new(daemon.client("bob")));
    let old = stdx::task::spawn("keeps the old daemon", async move {
        let session = client.legacy_session("keeps").await.unwrap();
        session.call("tools/call", json!({"name": "sleep", "arguments": {"ms": 60_000}})).await
    });
    eventually("its call", || daemon.told(&["instances"]).to_string().contains(r#""in_flight":1"#)).await;
    let mut kept = TcpStream::connect(daemon.url.trim_start_matches("http://")).await.unwrap();
    kept.write_all(request(&daemon, &token, 1).as_bytes()).await.unwrap();
    assert!(read(&mut kept, "slept").await.starts_with("HTTP/1.1 200"));
    tokio::task::block_in_place(|| daemon.told(&["upgrade"]));
    let heir = daemon.pid();
    kept.write_all(request(&daemon, &token, 60_000).as_bytes()).await.unwrap();
    eventually("the call at the new daemon", || {
        let told = daemon.told(&["instances"]).to_string();
        told.contains("principal=ann") && told.contains(r#""in_flight":1"#)
    })
    .await;
    kill(heir, "KILL");
    let answer = read(&mut kept, "outcome_unknown").await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert!(!answer.to_lowercase().contains("retry-after"), "{answer}");
    old.abort();
}

/// The new daemon does not see who reads at the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_not_idle_while_its_call_runs_at_the_old_daemon() {
    let daemon = Daemon::configured(&json!({}), "[limits]\nsession_idle = \"1 s\"\n");
    let client: &'static Client = Box::leak(Box::new(daemon.client("ann")));
    let call = stdx::task::spawn("call", async move {
        let session = client.legacy_session("keeps").await.unwrap();
        session.call("tools/call", json!({"name": "sleep", "arguments": {"ms": 6000}})).await.unwrap()
    });
    eventually("the call", || daemon.told(&["instances"]).to_string().contains(r#""in_flight":1"#)).await;
    tokio::task::block_in_place(|| daemon.told(&["upgrade"]));
    assert_eq!(text(&call.await.unwrap().unwrap()), "slept");
    tokio::task::block_in_place(|| daemon.stop());
}
