//! The ledger, whatever becomes of the daemon: who was answered is in it, and what began has one end.

use crate::daemon::{Daemon, Dice};
use crate::load::{self, Allowed};
use serde_json::Value;
use std::collections::HashMap;
use std::time::Duration;
use testkit::wait::eventually_some;

/// Every record, by kind.
struct Records(Vec<Value>);

impl Records {
    fn of(daemon: &Daemon) -> Self {
        let told = daemon.run(&["audit", "tail", "-n", "10000000", "--json"]);
        assert!(told.status.success(), "{told:?}");
        let lines = String::from_utf8(told.stdout).unwrap();
        Self(lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    fn kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().map(|line| &line["record"]).filter(move |record| record["t"] == kind)
    }

    /// How often each call has an end; every start exactly once, and no end without a start.
    fn balance(&self) {
        let name = |record: &Value| record["call"].as_str().unwrap().to_owned();
        let mut ends: HashMap<String, u32> = HashMap::new();
        self.kind("call.end").for_each(|end| *ends.entry(name(end)).or_default() += 1);
        let mut starts = 0;
        for start in self.kind("call.start") {
            starts += 1;
            assert_eq!(ends.remove(&name(start)), Some(1), "{start}");
        }
        assert_eq!(ends, HashMap::new(), "ends without a start");
        assert!(starts > 100, "there were {starts} calls");
        for (at, line) in self.0.iter().enumerate() {
            assert_eq!(line["index"], at);
        }
    }

    fn ended(&self, outcome: &str) -> usize {
        self.kind("call.end").filter(|end| end["outcome"] == outcome).count()
    }
}

fn verifies(daemon: &Daemon) {
    let dir = daemon.state().join("ledger");
    let key = dir.join("vkeys");
    let verified = daemon.run(&["audit", "verify", dir.to_str().unwrap(), "--key", key.to_str().unwrap()]);
    assert!(verified.status.success(), "{verified:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_under_load_leave_no_call_without_its_end() {
    let mut dice = Dice::new();
    let mut daemon = Daemon::new(&load::servers(), &[], "[limits]\ncall_timeout = \"10 s\"\n");
    let allowed = Allowed { reasons: &["outcome_unknown"], ..Allowed::default() };
    let (load, tasks) = load::begin(&daemon, &mut dice, allowed);
    eventually_some("an answer for every worker", async || (load.workers_served() >= 24).then_some(())).await;
    for _ in 0..30 {
        daemon.kill();
        daemon.start();
        tokio::time::sleep(Duration::from_millis(dice.below(200))).await;
    }
    load.all_are_served_again().await;
    load.balance(tasks).await;
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    let records = Records::of(&daemon);
    records.balance();
    let (served, ended) = (load.served(), records.ended("ok") + records.ended("unknown"));
    assert!(served <= ended, "{served} were answered, and {ended} have such an end");
    assert!(records.ended("unknown") > 0, "kills cut calls short");
    // Some were killed before they opened it.
    let opened = records.kind("log").filter(|record| record["event"] == "opened").count();
    assert!((5..=31).contains(&opened), "{opened} daemons opened the ledger");
    verifies(&daemon);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_under_load_lose_no_record() {
    let mut dice = Dice::new();
    let daemon = Daemon::new(&load::servers(), &[], "");
    let (load, tasks) = load::begin(&daemon, &mut dice, Allowed { no_failure: true, ..Allowed::default() });
    eventually_some("an answer for every worker", async || (load.workers_served() >= 24).then_some(())).await;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let done = tokio::task::block_in_place(|| daemon.run(&["upgrade"]));
        assert!(done.status.success(), "{done:?}");
    }
    load.balance(tasks).await;
    // Every daemon before the last has finished its calls by then.
    eventually_some("an end for every start", async || {
        let records = Records::of(&daemon);
        (records.kind("call.start").count() == records.kind("call.end").count()).then_some(())
    })
    .await;
    let records = Records::of(&daemon);
    records.balance();
    assert_eq!(records.ended("unknown"), 0);
    assert!(load.served() <= records.ended("ok"));
    let acts: Vec<&Value> = records.kind("operator.end").collect();
    assert!(acts.len() >= 6 && acts.iter().all(|act| act["done"] == true), "{acts:?}");
    verifies(&daemon);
}

/// Offline, with the public keys alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_is_proved_to_somebody_else() {
    let daemon = Daemon::new(&load::servers(), &[], "");
    daemon.token("ann");
    let out = daemon.state().join("proved");
    let proved = eventually_some("a checkpoint", async || {
        let proved = daemon.run(&["audit", "prove", "1", "--out", out.to_str().unwrap()]);
        proved.status.success().then_some(proved)
    })
    .await;
    assert!(proved.status.success());
    let key = daemon.state().join("ledger/vkeys");
    let (proof, entry) = (out.with_extension("tlog-proof"), out.with_extension("entry"));
    let words = |entry: &std::path::Path| {
        let words = ["audit", "check", proof.to_str().unwrap(), "--entry", entry.to_str().unwrap(), "--key"];
        daemon.run(&[&words[..], &[key.to_str().unwrap()]].concat())
    };
    assert!(words(&entry).status.success(), "{:?}", words(&entry));
    let record: Value = serde_json::from_slice(&std::fs::read(&entry).unwrap()).unwrap();
    assert_eq!((&record["t"], &record["command"]), (&"operator.start".into(), &"token-create".into()), "{record}");
    let other = daemon.state().join("other");
    stdx::durable::write_file(&other, b"{}", 0o600).unwrap();
    assert_eq!(words(&other).status.code(), Some(5));
    let content = std::fs::read(daemon.state().join("ledger/wal/00000000000000000000.seg")).unwrap();
    assert!(!String::from_utf8_lossy(&content).contains("\"ann\""), "a principal goes by another name");
}
