//! The disk of the ledger is full, or fails: nothing is done that is not recorded, nothing hangs, nothing that was recorded is harmed,
//! and when the disk is well again all goes on by itself.

use crate::daemon::Daemon;
use crate::load::told;
use crate::recorded::{Records, verifies};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;
use testkit::Client;
use testkit::wait::{eventually, eventually_some};
use tokio::task::JoinHandle;

/// A file system in memory with room for `bytes`, in a mount namespace of its own: nobody else sees it, and it ends with this.
struct SmallDisk {
    holder: Child,
    /// Words that start a program where the disk is mounted.
    within: Vec<String>,
    /// Where the mount is, as it is seen from outside.
    place: PathBuf,
}

impl SmallDisk {
    /// # Panics
    /// Where this machine lets nobody mount anything; the text says what it said.
    fn mounted(place: &Path, bytes: u64) -> Self {
        std::fs::create_dir(place).unwrap();
        let own: [&[&str]; 2] = [&["--mount"], &["--mount", "--user", "--map-root-user"]];
        let enter: [&[&str]; 2] = [&["--mount"], &["--mount", "--user", "--preserve-credentials"]];
        let mut refused = Vec::new();
        for (own, enter) in own.iter().zip(enter) {
            let script = "mount -t tmpfs -o size=$1,mode=700 ledger \"$0\" && echo mounted && exec cat";
            let mut command = Command::new("unshare");
            command.args(*own).args(["sh", "-c", script]).arg(place).arg(bytes.to_string());
            let mut holder =
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
            if line == "mounted\n" {
                let pid = holder.id().to_string();
                let words = [&["nsenter", "--target", &pid][..], enter].concat();
                let outside = PathBuf::from(format!("/proc/{pid}/root")).join(place.strip_prefix("/").unwrap());
                return Self { holder, within: words.into_iter().map(str::to_owned).collect(), place: outside };
            }
            let mut words = String::new();
            holder.stderr.take().unwrap().read_to_string(&mut words).unwrap();
            holder.wait().unwrap();
            refused.push(words);
        }
        panic!(
            "this test needs a small disk, and may not mount one, neither as this user nor in a user namespace: {refused:?}; \
             run it as root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces)"
        );
    }

    /// Takes all the space that is left.
    fn fill(&self) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.place.join("filler")).unwrap();
        for many in [256 << 10, 4096] {
            let zeros = vec![0; many];
            let full = std::iter::repeat_with(|| file.write_all(&zeros)).find_map(Result::err).unwrap();
            assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.place.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

const FULL: &str = "the disk of the ledger is full";
const FAILS: &str = "the ledger cannot be written";

/// A caller who keeps what it was told.
struct Caller {
    name: String,
    /// What a refusal must say.
    why: &'static str,
    url: String,
    token: String,
    client: Client,
    served: Vec<String>,
    refused: Vec<String>,
    withheld: Vec<String>,
    next: u32,
}

impl Caller {
    fn new(daemon: &Daemon, name: &str, why: &'static str) -> Self {
        let (url, token) = (daemon.url.clone(), daemon.token("ann"));
        let client = Client::new(&url, Some(token.clone())).unwrap();
        let (served, refused, withheld) = (Vec::new(), Vec::new(), Vec::new());
        Self { name: name.to_owned(), url, token, why, client, served, refused, withheld, next: 0 }
    }

    /// One call, which must come to an end, one way or the other. Whether it was served.
    async fn call(&mut self) -> bool {
        self.next += 1;
        let nonce = format!("{}-{}", self.name, self.next);
        let meta = json!({"traceparent": nonce});
        let arguments = json!({"nonce": nonce, "canary": "ann", "ms": 10});
        let params = json!({"name": "note", "arguments": arguments, "_meta": meta});
        let called = self.client.modern_call("modern", "tools/call", params);
        let called = tokio::time::timeout(Duration::from_secs(10), called).await;
        let (status, answer) = called.unwrap_or_else(|_| panic!("{nonce} hangs")).unwrap();
        let error = &answer["error"];
        match (status, error["data"]["reason"].as_str()) {
            (200, None) => {
                assert_eq!(told(&answer)["nonce"], nonce.as_str());
                self.served.push(nonce);
                return true;
            }
            (503, Some("ledger_refused")) => {
                let words = error["message"].as_str().unwrap();
                assert!(words.contains(self.why) && words.contains("was not made"), "{words}");
                assert_eq!(error["data"]["blame"], "host", "{answer}");
                self.refused.push(nonce);
            }
            (200, Some("result_withheld")) => self.withheld.push(nonce),
            other => panic!("{other:?}: {answer}"),
        }
        false
    }

    /// Calls until none is taken any more.
    async fn until_refused(&mut self) {
        let before = self.served.len();
        while self.refused.is_empty() {
            self.call().await;
            assert!(self.served.len() < before + 20_000, "the disk is full, and calls go on to be recorded");
        }
    }

    /// Begins to do so with many others, so that some calls run when the trouble begins; or so many calls each.
    fn others(&self, calls: Option<u32>) -> Vec<JoinHandle<Option<Self>>> {
        let others = (0..12).map(|number| {
            let (name, next) = (format!("{}-{number}-{}", self.name, self.served.len()), 0);
            let client = Client::new(&self.url, Some(self.token.clone())).unwrap();
            let (served, refused, withheld) = (Vec::new(), Vec::new(), Vec::new());
            let (url, token) = (self.url.clone(), self.token.clone());
            let mut other = Self { name, url, token, why: self.why, client, served, refused, withheld, next };
            stdx::task::spawn("a caller", async move {
                match calls {
                    None => other.until_refused().await,
                    Some(calls) => {
                        for _ in 0..calls {
                            other.call().await;
                        }
                    }
                }
                other
            })
        });
        others.collect()
    }

    /// What the others were told is this caller's, too.
    async fn join(&mut self, others: Vec<JoinHandle<Option<Self>>>) {
        for other in others {
            let mut other = other.await.unwrap().unwrap();
            self.served.append(&mut other.served);
            self.refused.append(&mut other.refused);
            self.withheld.append(&mut other.withheld);
        }
    }

    /// What the ledger and the server must know of these calls.
    async fn compare(&self, records: &Records) {
        let of = |kind: &'static str, member: &'static str, wanted: &str| -> Vec<Value> {
            records.kind(kind).filter(|record| record[member] == wanted).cloned().collect()
        };
        let withheld = json!({"ok": "result_withheld"});
        for (nonces, told) in [(&self.served, json!({"ok": null})), (&self.withheld, withheld)] {
            for nonce in nonces {
                let starts = of("call.start", "trace", nonce);
                assert_eq!(starts.len(), 1, "{nonce}");
                let ends = of("call.end", "call", starts[0]["call"].as_str().unwrap());
                assert_eq!(ends.len(), 1, "{nonce}: {ends:?}");
                let said = json!({ends[0]["outcome"].as_str().unwrap(): ends[0]["error"]});
                // After a failure the end may be the one that was refused, or that of the next daemon.
                let other = self.why == FAILS && nonces == &self.withheld;
                assert!(said == told || other, "{nonce}: {said}");
            }
        }
        let params = json!({"name": "ledger", "arguments": {}});
        let (_, answer) = self.client.modern_call("modern", "tools/call", params).await.unwrap();
        let ran: Vec<String> = serde_json::from_value(told(&answer)["nonces"].clone()).unwrap();
        for nonce in &self.refused {
            assert!(!ran.contains(nonce), "{nonce} was refused, and ran");
            for start in of("call.start", "trace", nonce) {
                // Of a disk that fails nobody knows what it took.
                let ends = of("call.end", "call", start["call"].as_str().unwrap());
                assert!(self.why == FAILS && ends.len() == 1 && ends[0]["outcome"] == "unknown", "{nonce}: {ends:?}");
            }
        }
    }
}

fn checkpoint(daemon: &Daemon, disk: &SmallDisk) -> u64 {
    let text = std::fs::read_to_string(disk.place.join("checkpoint"));
    let text = text.unwrap_or_else(|error| panic!("{error}: {}", daemon.last_words()));
    text.lines().nth(1).unwrap().parse().unwrap()
}

/// Operators' acts until one is refused; how many records were. An act is short: there may be room for its beginning still.
fn acts_until_refused(daemon: &Daemon) -> usize {
    let mut refused = 0;
    for number in 0..20 {
        let told = daemon.run(&["token", "create", "--principal", &format!("bob-{number}")]);
        let words = String::from_utf8_lossy(&told.stderr).into_owned();
        assert!(told.status.success() || words.contains(FULL), "{words}");
        refused += usize::from(!told.status.success());
        if words.contains("was not done") {
            // Reading is not recorded, and goes on.
            let tokens = daemon.cli(&["token", "list"]).to_string();
            assert!(!tokens.contains(&format!("bob-{number}")), "{tokens}");
            return refused;
        }
    }
    panic!("the disk is full, and acts go on to be recorded");
}

async fn has_ends(daemon: &Daemon) {
    eventually("an end for every start", || {
        let records = Records::of(daemon);
        records.kind("call.start").count() <= records.kind("call.end").count()
    })
    .await;
}

fn servers() -> Value {
    json!({"modern": {"command": testkit::bin("chaos"), "args": ["--era", "modern"]}})
}

fn on_a_small_disk(settings: &str) -> (Daemon, SmallDisk) {
    let mut disk = None;
    let daemon = Daemon::new_within(&servers(), &[], settings, |state| {
        let mounted = SmallDisk::mounted(&state.join("ledger"), 4 << 20);
        let within = mounted.within.clone();
        disk = Some(mounted);
        within
    });
    (daemon, disk.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_calls_and_acts_and_heals_by_itself() {
    let (mut daemon, disk) = on_a_small_disk("");
    let mut ann = Caller::new(&daemon, "ann", FULL);
    assert!(ann.call().await);
    eventually("a checkpoint", || disk.place.join("checkpoint").exists()).await;
    disk.fill();
    let (signed, before) = (checkpoint(&daemon, &disk), ann.served.len());
    let others = ann.others(None);
    ann.join(others).await;
    // There was space that the ledger had reserved.
    assert!(ann.served.len() > before + 10, "{} calls were served on the full disk", ann.served.len());
    for _ in 0..50 {
        assert!(!ann.call().await);
    }
    let acts = acts_until_refused(&daemon);
    assert_eq!(checkpoint(&daemon, &disk), signed, "nothing can be written, and a checkpoint was");
    verifies(&daemon);

    disk.free();
    eventually_some("a call that is served", async || ann.call().await.then_some(())).await;
    let records = Records::of(&daemon);
    assert!(records.event("refusing").count() > 0);
    // What was refused was counted: calls, ends of calls, acts, and perhaps ends that were tried again.
    let (lost, withheld) = (ann.refused.len() + ann.withheld.len() + acts, ann.withheld.len());
    let told: u64 = records.event("taken_again").map(|record| record["refused"].as_u64().unwrap()).sum();
    let told = usize::try_from(told).unwrap();
    assert!(
        (lost..=lost + 10 * withheld).contains(&told),
        "{lost} were refused ({withheld} withheld), and {told} are told of"
    );
    let size = records.0.len() as u64;
    eventually("a checkpoint over all of it", || checkpoint(&daemon, &disk) >= size).await;
    verifies(&daemon);

    // Calls whose end was refused have one now, without a restart; and the next daemon gives them no other.
    assert!(!ann.withheld.is_empty(), "no call ran when the space ended");
    has_ends(&daemon).await;
    ann.compare(&Records::of(&daemon)).await;
    daemon.kill();
    daemon.start();
    eventually_some("a call of the next daemon", async || {
        ann.client.modern_call("modern", "tools/list", json!({})).await.ok()
    })
    .await;
    has_ends(&daemon).await;
    let records = Records::of(&daemon);
    records.balance();
    ann.compare(&records).await;
    println!("{} calls were served, {} refused, {} withheld", ann.served.len(), ann.refused.len(), ann.withheld.len());
    verifies(&daemon);
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_says_why_it_does_not_start_on_a_full_disk() {
    let (mut daemon, disk) = on_a_small_disk("");
    let mut ann = Caller::new(&daemon, "ann", FULL);
    assert!(ann.call().await);
    eventually("a checkpoint", || disk.place.join("checkpoint").exists()).await;
    disk.fill();
    let others = ann.others(None);
    ann.join(others).await;
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0), "a full disk holds up no end");
    daemon.insist_on_port();
    // Its first record is a short one: it may have room where no call has.
    let mut starts = 0;
    let ended = loop {
        daemon.start();
        let refuses = eventually_some("a daemon that refuses, or that ends", async || {
            if let Some(ended) = daemon.has_ended() {
                return Some(Err(ended));
            }
            // The keeper holds the listener: where no daemon is, nobody answers.
            let called = ann.client.modern_call("modern", "tools/list", json!({}));
            tokio::time::timeout(Duration::from_millis(500), called).await.ok()?.ok().map(Ok)
        });
        match refuses.await {
            Err(ended) => break ended,
            Ok((status, answer)) => assert_eq!(status, 503, "{answer}"),
        }
        daemon.terminate();
        assert_eq!(daemon.ended().await.code(), Some(0));
        starts += 1;
        assert!(starts < 20, "the disk is full, and daemons go on to be recorded");
    };
    let words = daemon.last_words();
    let words = words.lines().rev().take(4).collect::<Vec<_>>().join("\n");
    assert_eq!(ended.code(), Some(1), "{words}");
    assert!(words.contains(FULL), "{words}");
    verifies(&daemon);
    disk.free();
    daemon.start();
    eventually_some("a call of the next daemon", async || {
        ann.client.modern_call("modern", "tools/list", json!({})).await.ok()
    })
    .await;
    assert!(ann.call().await);
    has_ends(&daemon).await;
    let records = Records::of(&daemon);
    records.balance();
    let served = records.ended("ok");
    assert!(served > ann.served.len(), "{served} ends, {} calls were served", ann.served.len());
    verifies(&daemon);
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_go_on_without_a_record_are_counted_to_the_last() {
    let (mut daemon, disk) = on_a_small_disk("[ledger]\non_full = \"continue\"\n");
    let mut ann = Caller::new(&daemon, "ann", FULL);
    assert!(ann.call().await);
    disk.fill();
    let others = ann.others(Some(200));
    ann.join(others).await;
    assert!(ann.refused.is_empty() && ann.withheld.is_empty(), "calls go on: {:?} {:?}", ann.refused, ann.withheld);
    assert_eq!(ann.served.len(), 1 + 12 * 200);
    // An operator's act is still not done.
    assert!(acts_until_refused(&daemon) > 0);
    disk.free();
    let told = |records: &Records| records.event("unrecorded").map(|one| one["calls"].as_u64().unwrap()).sum::<u64>();
    eventually_some("a record of how many there were", async || {
        ann.call().await;
        (told(&Records::of(&daemon)) > 0).then_some(())
    })
    .await;
    has_ends(&daemon).await;
    let records = Records::of(&daemon);
    records.balance();
    let traces = records.kind("call.start").filter_map(|start| start["trace"].as_str()).collect::<HashSet<_>>();
    let without = ann.served.iter().filter(|nonce| !traces.contains(nonce.as_str())).count();
    println!("{} calls were served, {without} of them without a record", ann.served.len());
    assert!(without > 100, "{without}");
    assert_eq!(told(&records), without as u64);
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
}

/// Fails calls of a daemon to the kernel about its segment, until it is dropped.
struct Failing(Child, #[expect(dead_code, reason = "held, so that strace can write")] BufReader<ChildStderr>);

impl Failing {
    fn of(daemon: &Daemon, call: &str) -> Self {
        let segment = daemon.state().join("ledger/wal").join(format!("{:020}.seg", 0));
        let mut strace = Command::new("strace")
            .args(["-f", "-p", &daemon.pid().to_string(), "-o", "/dev/null", "-e", &format!("trace={call}")])
            .args(["-e", &format!("inject={call}:error=EIO"), "-P"])
            .arg(segment)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("strace: {error}; install it (Debian: apt-get install strace)"));
        let mut said = BufReader::new(strace.stderr.take().unwrap());
        let mut words = String::new();
        while !words.contains("attached") {
            let read = said.read_line(&mut words).unwrap();
            assert!(read > 0, "strace cannot attach to a process of ours; is ptrace allowed here? It says: {words}");
        }
        Self(strace, said)
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        crate::daemon::signal(self.0.id(), rustix::process::Signal::INT);
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_does_not_sync_refuses_calls_and_no_call_has_two_ends() {
    a_disk_that_fails("strict", "fdatasync").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_does_not_sync_loses_nothing_of_what_the_kernel_had() {
    a_disk_that_fails("balanced", "fdatasync").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_does_not_write_refuses_calls_and_no_call_has_two_ends() {
    a_disk_that_fails("balanced", "pwrite64").await;
}

/// Three times the disk fails under load in this way, and is well again.
async fn a_disk_that_fails(mode: &str, call: &str) {
    let mut daemon = Daemon::new(&servers(), &[], &format!("[ledger]\nmode = \"{mode}\"\n"));
    let mut ann = Caller::new(&daemon, "ann", FAILS);
    assert!(ann.call().await);
    for _ in 0..3 {
        let others = ann.others(None);
        let failing = Failing::of(&daemon, call);
        ann.join(others).await;
        drop(failing);
        eventually_some("a call that is served", async || ann.call().await.then_some(())).await;
    }
    println!("{} calls were served, {} refused, {} withheld", ann.served.len(), ann.refused.len(), ann.withheld.len());
    daemon.kill();
    daemon.start();
    eventually_some("a call of the next daemon", async || {
        ann.client.modern_call("modern", "tools/list", json!({})).await.ok()
    })
    .await;
    has_ends(&daemon).await;
    let records = Records::of(&daemon);
    ann.compare(&records).await;
    eventually("a checkpoint", || daemon.state().join("ledger/checkpoint").exists()).await;
    verifies(&daemon);
}
