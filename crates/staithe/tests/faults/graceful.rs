//! SIGTERM: calls finish, everything ends, nothing is left.

use crate::daemon::Daemon;
use crate::load;
use serde_json::json;
use testkit::Client;
use testkit::wait::eventually_some;

/// Nothing of the daemon is left: no process, no socket.
pub(crate) async fn nothing_is_left(daemon: &Daemon) {
    eventually_some("the end of the keeper", async || daemon.keeper().is_none().then_some(())).await;
    assert_eq!(daemon.servers(), Vec::<u32>::new());
    let mut found = Vec::new();
    for place in ["", "run"] {
        let names = std::fs::read_dir(daemon.state().join(place)).unwrap().map(|entry| entry.unwrap().file_name());
        found.extend(names.map(|name| name.to_string_lossy().into_owned()).filter(|name| name.ends_with(".sock")));
    }
    assert_eq!(found, Vec::<String>::new(), "sockets are left");
}

#[tokio::test]
async fn sigterm_lets_a_call_finish_and_leaves_nothing() {
    let mut daemon = Daemon::new(&load::servers(), &[], "");
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    let session = client.legacy_session("own").await.unwrap();
    let params = json!({
        "name": "note", "arguments": {"nonce": "n", "canary": "ann", "ms": 1000, "steps": 20},
        "_meta": {"progressToken": "p"},
    });
    let mut stream = session.stream(&json!("n"), "tools/call", params).await.unwrap();
    while stream.next().await.unwrap().unwrap().data.is_empty() {}
    assert_ne!(daemon.servers(), Vec::<u32>::new());
    daemon.terminate();
    let mut answer = None;
    while let Ok(Some(message)) = stream.next_message().await {
        answer = message.get("method").is_none().then_some(message).or(answer);
    }
    let answer = answer.unwrap();
    assert!(
        answer["result"]["content"][0]["text"].as_str().is_some_and(|text| text.contains(r#""nonce":"n""#)),
        "{answer}"
    );
    assert_eq!(daemon.ended().await.code(), Some(0));
    let log = std::fs::read_to_string(daemon.state().join("err.log")).unwrap();
    assert!(!log.contains("ERROR"), "a stop in order is no fault:\n{log}");
    nothing_is_left(&daemon).await;
}

/// Else no server would ever hear of the SIGTERM that it is sent, and each would be killed.
#[tokio::test]
async fn a_server_starts_with_no_signal_blocked_or_ignored() {
    let mut daemon = Daemon::new(
        &json!({"shell": {"command": "sh", "args": ["-c", "while read line; do :; done"], "era": "legacy"}}),
        &[],
        "",
    );
    let pid = eventually_some("the process of the server", async || daemon.servers().first().copied()).await;
    let status = eventually_some("what it does about signals", async || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.contains("Name:\tsh\n").then_some(status)
    })
    .await;
    for what in ["SigBlk:", "SigIgn:"] {
        let mask = status.lines().find_map(|line| line.strip_prefix(what)).unwrap().trim();
        // From 32 on they are the C library's and real time.
        assert_eq!(u64::from_str_radix(mask, 16).unwrap() & 0x7fff_ffff, 0, "{status}");
    }
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    nothing_is_left(&daemon).await;
}
