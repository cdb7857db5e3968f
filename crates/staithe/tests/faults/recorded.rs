//! The ledger, whatever becomes of the daemon: who was answered is in it, and what began has one end.

use crate::daemon::{Daemon, Dice};
use crate::load::{self, Allowed};
use ledger::{Disk, LogKeys, Reader, RealDisk, leaf_hash};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use stdx::clock::monotonic;
use testkit::Client;
use testkit::wait::eventually_some;

/// Every record, by kind.
pub(crate) struct Records(pub(crate) Vec<Value>);

impl Records {
    pub(crate) fn of(daemon: &Daemon) -> Self {
        let told = daemon.run(&["audit", "tail", "-n", "10000000", "--json"]);
        assert!(told.status.success(), "{told:?}");
        let lines = String::from_utf8(told.stdout).unwrap();
        Self(lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    pub(crate) fn kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().map(|line| &line["record"]).filter(move |record| record["t"] == kind)
    }

    pub(crate) fn event<'a>(&'a self, event: &'a str) -> impl Iterator<Item = &'a Value> {
        self.kind("log").filter(move |record| record["event"] == event)
    }

    /// How often each call has an end; every start exactly once, and no end without a start.
    pub(crate) fn balance(&self) {
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

    pub(crate) fn ended(&self, outcome: &str) -> usize {
        self.kind("call.end").filter(|end| end["outcome"] == outcome).count()
    }
}

/// What callers know against what the ledger says: `(answered, without a result, ended as unknown though answered)`.
fn callers_find_themselves(load: &load::Load, records: &Records) -> (usize, usize, usize) {
    let text = |record: &Value, member: &str| record[member].as_str().map(str::to_owned);
    let mut starts: HashMap<String, Vec<String>> = HashMap::new();
    for start in records.kind("call.start") {
        if let Some(trace) = text(start, "trace") {
            starts.entry(trace).or_default().push(text(start, "call").unwrap());
        }
    }
    let ends: HashMap<String, String> =
        records.kind("call.end").map(|end| (text(end, "call").unwrap(), text(end, "outcome").unwrap())).collect();
    let (mut answered, mut unanswered, mut unknown) = (0, 0, 0);
    let calls = load.calls();
    for (nonce, served) in &calls {
        let starts = starts.get(nonce).map_or(&[][..], Vec::as_slice);
        assert!(starts.len() <= 1, "{nonce} was sent once and began {} times: {starts:?}", starts.len());
        if !served {
            unanswered += 1;
            continue;
        }
        answered += 1;
        let start = starts.first().unwrap_or_else(|| panic!("{nonce} was answered and has no record"));
        match ends[start].as_str() {
            "ok" => {}
            // Its answer came to a later daemon, after this end was written.
            "unknown" if nonce.contains("Resumed") => unknown += 1,
            other => panic!("{nonce} was answered with a result, and the ledger says {other}"),
        }
    }
    assert!(starts.keys().all(|nonce| calls.contains_key(nonce)), "the ledger has calls that nobody made");
    let ran = load.ran();
    let unrecorded: Vec<&String> = ran.iter().filter(|nonce| !starts.contains_key(*nonce)).collect();
    assert!(unrecorded.is_empty(), "servers ran what no record announced: {unrecorded:?}");
    assert!(ran.len() >= answered / 2, "servers told of {} calls, and {answered} were answered", ran.len());
    (answered, unanswered, unknown)
}

/// Every receipt that a caller holds leads to the records of its call, and of no other. How many there were.
fn receipts_hold(daemon: &Daemon, load: &load::Load) -> usize {
    let dir = daemon.state().join("ledger");
    let keys: LogKeys = std::fs::read_to_string(dir.join("vkeys")).unwrap().parse().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let reader = Reader::open(&disk, &dir, Arc::new(keys)).unwrap();
    let receipts = load.receipts();
    let mut places = HashMap::new();
    for (nonce, records) in &receipts {
        let calls = records.iter().map(|receipt| {
            assert_eq!(places.insert(receipt.index, nonce), None, "two receipts for one record");
            let entry = reader.view().entry(receipt.index).unwrap_or_else(|error| panic!("{nonce}: {error}"));
            assert_eq!(leaf_hash(&entry).to_string(), receipt.leaf, "{nonce}");
            serde_json::from_slice::<Value>(&entry).unwrap()
        });
        let calls: Vec<Value> = calls.collect();
        assert_eq!((&calls[0]["t"], &calls[1]["t"]), (&json!("call.start"), &json!("call.end")), "{nonce}");
        assert_eq!((&calls[0]["trace"], &calls[0]["call"]), (&json!(nonce), &calls[1]["call"]), "{nonce}");
    }
    receipts.len()
}

pub(crate) fn verifies(daemon: &Daemon) {
    let dir = daemon.state().join("ledger");
    let key = dir.join("vkeys");
    let verified = daemon.run(&["audit", "verify", dir.to_str().unwrap(), "--key", key.to_str().unwrap()]);
    assert!(verified.status.success(), "{verified:?}");
}

/// How often the daemon is killed.
const KILLS: usize = 300;

/// Shows E277.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_under_load_leave_no_call_without_its_end() {
    let mut dice = Dice::new();
    let mut daemon = Daemon::new(&load::servers(), &[], "[limits]\ncall_timeout = \"10 s\"\n");
    let allowed = Allowed { reasons: &["outcome_unknown"], busy: true, ..Allowed::default() };
    let (load, tasks) = load::begin(&daemon, &mut dice, allowed);
    eventually_some("an answer for every worker", async || (load.workers_served() >= 24).then_some(())).await;
    let began = monotonic();
    for _ in 0..KILLS {
        let served = load.served();
        daemon.kill();
        daemon.start();
        // Now and then the next one is killed before it serves.
        if dice.below(4) == 0 {
            tokio::time::sleep(Duration::from_millis(dice.below(60))).await;
            continue;
        }
        eventually_some("answers of the next daemon", async || (load.served() > served + 5).then_some(())).await;
        tokio::time::sleep(Duration::from_millis(dice.below(40))).await;
    }
    let (took, answers) = (began.elapsed(), load.served());
    load.all_are_served_again().await;
    load.balance(tasks).await;
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    let records = Records::of(&daemon);
    records.balance();
    let (answered, unanswered, unknown) = callers_find_themselves(&load, &records);
    let receipts = receipts_hold(&daemon, &load);
    assert!(receipts + unknown >= answered, "{receipts} receipts for {answered} answers");
    // Some were killed before they opened it.
    let opened = records.event("opened").count();
    println!(
        "{KILLS} kills in {took:?} ({opened} daemons opened the ledger), {answers} answers meanwhile; {answered} calls were answered, \
         {unanswered} were not, {unknown} were answered by a later daemon; {receipts} receipts hold; {} records, {} ends that nobody knows",
        records.0.len(),
        records.ended("unknown"),
    );
    assert!(records.ended("unknown") > 0, "kills cut calls short");
    assert!((KILLS / 3..=KILLS + 1).contains(&opened), "{opened} daemons opened the ledger");
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
    assert!(receipts_hold(&daemon, &load) * 10 >= load.served() * 9, "{} were answered", load.served());
    let acts: Vec<&Value> = records.kind("operator.end").collect();
    assert!(acts.len() >= 6 && acts.iter().all(|act| act["done"] == true), "{acts:?}");
    verifies(&daemon);
}

/// The mode of the last call of each tool: what its records waited for.
fn modes(daemon: &Daemon) -> HashMap<String, Value> {
    let records = Records::of(daemon);
    let calls = records.kind("call.start").filter(|start| start["method"] == "tools/call");
    calls.map(|start| (start["name"].as_str().unwrap().to_owned(), start["mode"].clone())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_destroy_something_waits_for_the_disk_and_so_does_what_the_operator_names() {
    for (mode, usual) in [("balanced", Value::Null), ("async", "async".into()), ("strict", "strict".into())] {
        let servers = json!({"every": {"command": testkit::bin("everything"), "args": ["--legacy"]}});
        let settings = format!("[ledger]\nmode = \"{mode}\"\nstrict_tools = [\"every/test_error_handling\"]\n");
        let mut daemon = Daemon::new(&servers, &[], &settings);
        let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
        let session = client.legacy_session("every").await.unwrap();
        let call = async |tool: &str| {
            let answer = session.call("tools/call", json!({"name": tool, "arguments": {}})).await.unwrap();
            assert!(answer["result"].is_object(), "{answer}");
        };
        eventually_some("what the server says of its tools", async || {
            call("echo").await;
            (modes(&daemon).get("echo") == Some(&usual)).then_some(())
        })
        .await;
        for tool in ["test_trigger_resource_update", "test_error_handling", "test_simple_text"] {
            call(tool).await;
        }
        eventually_some("all records", async || modes(&daemon).contains_key("test_simple_text").then_some(())).await;
        let modes = modes(&daemon);
        assert_eq!(modes["test_trigger_resource_update"], "strict", "{mode}: its server calls it destructive");
        assert_eq!(modes["test_error_handling"], "strict", "{mode}: the operator does");
        assert_eq!(modes["test_simple_text"], usual);
        daemon.terminate();
        assert_eq!(daemon.ended().await.code(), Some(0));
        let records = Records::of(&daemon);
        assert_eq!(
            records.kind("call.start").count(),
            records.kind("call.end").count(),
            "nothing queued is lost by a stop"
        );
        verifies(&daemon);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_calls_are_not_recorded_is_recorded() {
    let servers = json!({"every": {"command": testkit::bin("everything"), "args": ["--legacy"]}});
    let mut daemon = Daemon::new(&servers, &[], "[ledger]\nmode = \"off\"\n");
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    let session = client.legacy_session("every").await.unwrap();
    session.call("tools/call", json!({"name": "echo", "arguments": {}})).await.unwrap();
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    let records = Records::of(&daemon);
    assert_eq!(records.kind("call.start").count(), 0);
    assert_eq!(records.kind("log").filter(|record| record["event"] == "calls_off").count(), 1);
    assert_eq!(records.kind("operator.end").count(), 1, "operators' acts are recorded all the same");
    assert!(daemon.last_words().contains("calls are not recorded"), "{}", daemon.last_words());
    verifies(&daemon);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_calls_said_is_kept_where_the_operator_wants_it_and_only_the_daemon_can_read_it() {
    for (kept, there, gone) in [("full", "hunter2", ""), ("redacted", "\"n\":1", "hunter2")] {
        let servers = json!({"every": {"command": testkit::bin("everything"), "args": ["--legacy"]}});
        let daemon = Daemon::new(&servers, &[], &format!("[ledger]\ncontent = \"{kept}\"\n"));
        let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
        let session = client.legacy_session("every").await.unwrap();
        let arguments = json!({"n": 1, "password": "hunter2"});
        session.call("tools/call", json!({"name": "echo", "arguments": arguments})).await.unwrap();
        let records = eventually_some("the call's end", async || {
            let records = Records::of(&daemon);
            (records.kind("call.end").count() == records.kind("call.start").count()).then_some(records)
        })
        .await;
        let of_echo = |line: &&Value| line["record"]["name"] == "echo";
        let start = records.0.iter().find(of_echo).unwrap();
        let end = records
            .0
            .iter()
            .find(|line| line["record"]["t"] == "call.end" && line["record"]["call"] == start["record"]["call"]);
        for (line, what) in [(start, "args"), (end.unwrap(), "result")] {
            let told = daemon.cli(&["audit", "show", &line["index"].to_string(), "--content"]);
            let content = &told["content"];
            assert_eq!((&content["what"], &content["principal"]), (&json!(what), &json!("ann")), "{told}");
            let text = content["text"].as_str().unwrap();
            assert!(text.contains(there) || what == "result", "{kept}: {text}");
            assert!(gone.is_empty() || !text.contains(gone), "{kept}: {text}");
        }
        // Who has the disk alone reads nothing, and the request to read it is recorded.
        for file in std::fs::read_dir(daemon.state().join("contents")).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(7).any(|bytes| bytes == b"hunter2"));
        }
        let acts = Records::of(&daemon).kind("operator.start").filter(|act| act["command"] == "content").count();
        assert_eq!(acts, 2);
        let none = daemon.run(&["audit", "show", "0", "--content"]);
        assert_eq!(none.status.code(), Some(3), "{none:?}");
        verifies(&daemon);
    }
}

/// Offline, with the public keys alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_is_proved_to_somebody_else() {
    let daemon = Daemon::new(&load::servers(), &[], "");
    daemon.token("ann");
    let out = daemon.state().join("proved");
    let all = Records::of(&daemon).0;
    let act = all.iter().find(|line| line["record"]["t"] == "operator.start").unwrap();
    let index = act["index"].to_string();
    let proved = eventually_some("a checkpoint", async || {
        let proved = daemon.run(&["audit", "prove", &index, "--out", out.to_str().unwrap()]);
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

/// What operators do while daemons are killed: what was done was recorded before, and what began has one end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_among_operators_acts_leave_none_without_its_end() {
    let mut dice = Dice::new();
    let mut daemon = Daemon::new(&load::servers(), &[], "");
    let stop = Arc::new(AtomicBool::new(false));
    let actors: Vec<_> = (0..3)
        .map(|actor| {
            let (stop, state) = (stop.clone(), daemon.state().to_owned());
            std::thread::spawn(move || {
                let (mut done, mut number) = (Vec::new(), 0);
                while !stop.load(Ordering::Relaxed) {
                    let name = format!("actor-{actor}-{number}");
                    number += 1;
                    let told = std::process::Command::new(env!("CARGO_BIN_EXE_staithe"))
                        .args(["token", "create", "--principal", &name, "--state-dir"])
                        .arg(&state)
                        .output()
                        .unwrap();
                    done.extend(told.status.success().then_some(name));
                }
                done
            })
        })
        .collect();
    for _ in 0..25 {
        tokio::time::sleep(Duration::from_millis(60 + dice.below(120))).await;
        daemon.kill();
        daemon.start();
    }
    eventually_some("a daemon that listens to operators", async || {
        daemon.run(&["status"]).status.success().then_some(())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let done: Vec<String> = actors.into_iter().flat_map(|actor| actor.join().unwrap()).collect();
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    let records = Records::of(&daemon);
    let act = |record: &Value| record["act"].as_str().unwrap().to_owned();
    let mut ends: HashMap<String, Vec<&Value>> = HashMap::new();
    records.kind("operator.end").for_each(|end| ends.entry(act(end)).or_default().push(end));
    let starts: Vec<&Value> = records.kind("operator.start").collect();
    let (mut well, mut unknown) = (0, 0);
    for start in &starts {
        let ends = ends.remove(&act(start)).unwrap_or_default();
        assert_eq!(ends.len(), 1, "{start}: {ends:?}");
        well += usize::from(ends[0]["done"] == true);
        unknown += usize::from(ends[0]["done"] == false);
    }
    println!(
        "{} acts began, {well} were done, {unknown} have no end that is known; operators saw {}",
        starts.len(),
        done.len()
    );
    assert!(ends.is_empty(), "ends without a start: {ends:?}");
    assert!(done.len() > 10 && well >= done.len(), "{} acts were done, {well} are recorded so", done.len());
    verifies(&daemon);
}
