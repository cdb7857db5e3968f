//! Instances that come and go leave nothing in the daemon or the keeper.

use crate::daemon::Daemon;
use crate::load;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use testkit::Client;
use testkit::wait::eventually_some;

const ROUNDS: usize = 300;

/// Open descriptors.
pub(crate) fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Resident memory, KiB.
fn memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim_end_matches("kB").trim().parse().unwrap()
}

#[tokio::test]
async fn three_hundred_restarts_leave_no_descriptor_and_no_memory() {
    let daemon = Daemon::new(&load::servers(), &[], "");
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    let session = client.legacy_session("own").await.unwrap();
    let (pids, mut seen) = ([daemon.pid(), daemon.keeper().unwrap()], BTreeSet::new());
    let mut before = None;
    for round in 0..ROUNDS {
        let answer = session.call("tools/call", json!({"name": "ledger", "arguments": {}})).await.unwrap();
        let text = answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"));
        seen.insert(serde_json::from_str::<Value>(text).unwrap()["pid"].as_u64().unwrap());
        // What is allocated once is there by now.
        if round == ROUNDS / 6 {
            before = Some((pids.map(descriptors), pids.map(memory)));
        }
        if round + 1 < ROUNDS {
            daemon.cli(&["restart", "own"]);
        }
    }
    assert_eq!(seen.len(), ROUNDS, "each restart brought a new process");
    let (open, resident) = before.unwrap();
    println!("descriptors {open:?} -> {:?}, KiB {resident:?} -> {:?}", pids.map(descriptors), pids.map(memory));
    // A command's connection may still be closing.
    eventually_some("as few descriptors as before", async || {
        let now = pids.map(descriptors);
        (now[0] <= open[0] && now[1] <= open[1]).then_some(())
    })
    .await;
    for (was, pid) in resident.into_iter().zip(pids) {
        assert!(memory(pid) <= was + 4096, "process {pid} grew from {was} to {} KiB", memory(pid));
    }
    assert_eq!(daemon.servers().len(), 1);
}
