//! The daemon asks real witnesses: while a quorum answers, its ledger is tamper-proof, and the word is not said otherwise.

use crate::daemon::Daemon;
use crate::load;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use testkit::Client;
use testkit::copy_tree;
use testkit::wait::eventually_some;

/// `staithe audit witness` for the log of a daemon.
struct Witness {
    child: Child,
    dir: tempfile::TempDir,
    name: String,
    url: String,
    vkeys: Vec<String>,
}

fn witness(dir: &Path, name: &str, listen: &str, log: &Path, copy: Option<&str>) -> (Child, Value) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_staithe"))
        .args(["audit", "witness", "--json", "--listen", listen, "--name", name, "--dir"])
        .arg(dir)
        .arg("--log")
        .arg(log)
        .args(copy.iter().flat_map(|copy| ["--copy", copy]))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}")))
}

impl Witness {
    fn start(name: &str, daemon: &Daemon) -> Self {
        Self::beside(name, daemon, None)
    }

    /// One that has a copy of the log beside it, `ORIGIN=DIR`.
    fn beside(name: &str, daemon: &Daemon, copy: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (child, told) = witness(dir.path(), name, "127.0.0.1:0", &vkeys(daemon), copy);
        let url = told["listening"]["witness"].as_str().unwrap().to_owned();
        let vkeys = told["vkeys"].as_array().unwrap().iter().map(|key| key.as_str().unwrap().to_owned()).collect();
        Self { child, dir, name: name.to_owned(), url, vkeys }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The same one again.
    fn again(&mut self, daemon: &Daemon) {
        let listen = self.url.trim_start_matches("http://").to_owned();
        self.child = witness(self.dir.path(), &self.name, &listen, &vkeys(daemon), None).0;
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn vkeys(daemon: &Daemon) -> PathBuf {
    daemon.state().join("ledger/vkeys")
}

/// The lines of a policy by which so many of these witnesses are enough. All keys of one are needed.
fn policy(needed: usize, witnesses: &[(&str, &[String])]) -> String {
    let (mut text, mut groups) = (String::new(), Vec::new());
    for (nth, (url, vkeys)) in witnesses.iter().enumerate() {
        let names: Vec<String> = (0..vkeys.len()).map(|which| format!("w{nth}-{which}")).collect();
        for (name, vkey) in names.iter().zip(*vkeys) {
            text.push_str(&format!("witness {name} {vkey} {url}\n"));
        }
        text.push_str(&format!("group w{nth} all {}\n", names.join(" ")));
        groups.push(format!("w{nth}"));
    }
    format!("{text}group enough {needed} {}\nquorum enough\n", groups.join(" "))
}

/// The daemon begins anew with a policy.
async fn with_policy(daemon: &mut Daemon, text: &str, more: &str) -> PathBuf {
    let path = daemon.state().join("policy");
    stdx::durable::write_file(&path, text.as_bytes(), 0o600).unwrap();
    let settings = format!("[ledger]\npolicy = {path:?}\nwitness_interval = \"100 ms\"\nstale_after = \"2 s\"\n{more}");
    stdx::durable::write_file(&daemon.state().join("staithe.toml"), settings.as_bytes(), 0o600).unwrap();
    daemon.kill();
    daemon.start();
    path
}

/// What `status` says of the witnesses, once that is so.
async fn status(daemon: &Daemon, what: &str, so: impl Fn(&Value) -> bool) -> Value {
    eventually_some(what, async || {
        let told = daemon.run(&["status", "--json"]);
        let told: Value = serde_json::from_slice(&told.stdout).ok()?;
        let status = if told["body"].is_object() { told["body"].clone() } else { told };
        so(&status["ledger"]).then(|| status["ledger"].clone())
    })
    .await
}

fn fresh(ledger: &Value) -> bool {
    ledger["witnesses"]["stale"] == false && ledger["witnesses"]["entries"] == ledger["entries"]
}

async fn call(client: &Client) -> (u16, Value) {
    let params = json!({"name": "note", "arguments": {"nonce": "n", "canary": "ann"}});
    client.modern_call("modern", "tools/call", params).await.unwrap()
}

fn verified(daemon: &Daemon, policy: &std::path::Path) -> String {
    let (dir, keys) = (daemon.state().join("ledger"), vkeys(daemon));
    let [dir, keys, policy] = [&dir, &keys, &policy.to_path_buf()].map(|path| path.to_str().unwrap().to_owned());
    let out = daemon.run(&["audit", "verify", &dir, "--key", &keys, "--policy", &policy]);
    String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()
}

/// The page of an operator's address: its status and its body.
async fn probe(daemon: &Daemon, path: &str) -> (u16, String) {
    let log = std::fs::read_to_string(daemon.state().join("out.log")).unwrap();
    let told: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    let operator = Client::new(told["listening"]["operator"].as_str().unwrap(), None).unwrap();
    let answer = operator.get(path, &[]).await.unwrap();
    (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quorum_makes_the_ledger_tamper_proof_and_without_one_calls_can_be_refused() {
    let mut daemon = Daemon::new(&load::servers(), &[], "");
    let mut witnesses = [Witness::start("example.com/w1", &daemon), Witness::start("example.com/w2", &daemon)];
    let text = policy(2, &witnesses.each_ref().map(|one| (one.url.as_str(), one.vkeys.as_slice())));
    let path = with_policy(&mut daemon, &text, "require_witness = \"refuse\"\n").await;
    let ledger = status(&daemon, "cosignatures of both", fresh).await;
    assert_eq!((&ledger["witnesses"]["cosigned"], &ledger["refusing"]), (&json!(2), &Value::Null), "{ledger}");
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    assert_eq!(call(&client).await.0, 200);
    status(&daemon, "cosignatures of the call", fresh).await;
    let said = daemon.text(&["status"]);
    assert!(said.contains("tamper-proof up to") && said.contains("by 2 of 2"), "{said}");
    let said = verified(&daemon, &path);
    assert!(said.contains("tamper-proof, the first") && said.contains("w0-0"), "{said}");
    let own = daemon.text(&["audit", "verify"]);
    assert!(own.contains("tamper-proof, the first") && own.contains("w0-0"), "without words, the host's own: {own}");
    assert_eq!(daemon.run(&["audit", "verify", "--config", "/nowhere"]).status.code(), Some(1));
    let (_, page) = probe(&daemon, "/metrics").await;
    let value = |name: &str| page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    assert!(value("staithe_ledger_witness_age_seconds").unwrap() < 2.0, "{page}");
    assert!(
        value("staithe_ledger_commit_seconds_count").unwrap() > 0.0
            && value("staithe_ledger_appended_total") > Some(2.0)
    );

    witnesses[1].kill();
    let ledger = status(&daemon, "a stale quorum", |ledger| ledger["refusing"].is_string()).await;
    assert!(ledger["witnesses"]["troubles"][0].as_str().unwrap().starts_with(&witnesses[1].url), "{ledger}");
    let (code, answer) = call(&client).await;
    assert_eq!((code, &answer["error"]["data"]["reason"]), (503, &json!("ledger_refused")), "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("stale_after"), "{answer}");
    let (code, body) = probe(&daemon, "/readyz").await;
    assert!(code == 503 && body.contains("quorum of witnesses"), "{body}");
    let said = daemon.run(&["status"]);
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.code() == Some(5) && !text.contains("tamper-proof") && text.contains("REFUSING"), "{text}");

    witnesses[1].again(&daemon);
    status(&daemon, "a quorum again", fresh).await;
    assert_eq!(call(&client).await.0, 200);
    assert_eq!(probe(&daemon, "/readyz").await.0, 200);
    // An upgrade is no reason to doubt: the new daemon asks on.
    assert!(daemon.run(&["upgrade"]).status.success());
    assert_eq!(call(&client).await.0, 200);
    let ledger = status(&daemon, "cosignatures of the new daemon", fresh).await;
    assert_eq!(ledger["witnesses"]["troubles"], json!([]), "{ledger}");
    assert!(verified(&daemon, &path).contains("tamper-proof"));
}

/// What is cosigned then is not lost with the host's machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_beside_a_copy_cosigns_only_what_the_copy_has() {
    let mut daemon = Daemon::new(&load::servers(), &[], "");
    let copy = tempfile::tempdir().unwrap();
    let keys: ledger::LogKeys = std::fs::read_to_string(vkeys(&daemon)).unwrap().parse().unwrap();
    let named = format!("{}={}", keys.origin(), copy.path().display());
    let witness = Witness::beside("example.com/w1", &daemon, Some(&named));
    let text = policy(1, &[(witness.url.as_str(), witness.vkeys.as_slice())]);
    let path = with_policy(&mut daemon, &text, "").await;
    let refused = |ledger: &Value| ledger["witnesses"]["troubles"][0].as_str().is_some_and(|text| text.contains("503"));
    let ledger = status(&daemon, "a refusal, for there is no copy", refused).await;
    assert_eq!(ledger["witnesses"]["entries"], Value::Null, "{ledger}");
    let own = daemon.text(&["audit", "verify"]);
    assert!(own.contains("no quorum of those that this host asks") && own.contains("tamper-evident"), "{own}");
    let fill = || copy_tree(&daemon.state().join("ledger"), copy.path()).unwrap();
    let entries = |ledger: &Value| ledger["witnesses"]["entries"].as_u64();
    eventually_some("cosignatures of what was copied", async || {
        fill();
        fresh(&status(&daemon, "the ledger", |_| true).await).then_some(())
    })
    .await;
    assert!(verified(&daemon, &path).contains("tamper-proof"));
    // More is written, and the copy does not have it.
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    let before = entries(&status(&daemon, "the ledger", |_| true).await);
    assert_eq!(call(&client).await.0, 200);
    let ledger = status(&daemon, "a refusal, for the copy is behind", refused).await;
    assert_eq!(entries(&ledger), before, "{ledger}");
    // Its entries are others than those that were signed. (A frame's checksum is no secret.)
    fill();
    let segment = copy.path().join("wal/00000000000000000000.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(10).position(|bytes| bytes == b"call.start").unwrap();
    bytes[at] = b'C';
    stdx::durable::write_file(&segment, &bytes, 0o600).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let ledger = status(&daemon, "a refusal, for the copy is wrong", refused).await;
    assert_eq!(entries(&ledger), before, "{ledger}");
    fill();
    let more = status(&daemon, "cosignatures of all", |ledger| entries(ledger) > before).await;
    assert!(more["witnesses"]["troubles"].as_array().is_some_and(Vec::is_empty), "{more}");
    let stranger = Command::new(env!("CARGO_BIN_EXE_staithe"))
        .args(["audit", "witness", "--name", "w", "--copy", "other=/tmp", "--dir"])
        .arg(copy.path().join("w"))
        .arg("--log")
        .arg(vkeys(&daemon))
        .output()
        .unwrap();
    assert_eq!(stranger.status.code(), Some(2), "a copy of a log that it does not know: {stranger:?}");
}

/// Answers everything with `answer`, or with nothing.
fn stranger(answer: Option<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let Some(answer) = answer else {
                open.push(stream);
                continue;
            };
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            drop(stream.read(&mut [0; 65536]));
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn witnesses_that_lie_or_say_nothing_hold_nobody_up() {
    let mut daemon = Daemon::new(&load::servers(), &[], "");
    let real = Witness::start("example.com/w1", &daemon);
    let key = |seed: u8| {
        vec![
            ledger::Signer::from_seed(ledger::Kind::Ed25519Cosignature, "x", &[seed; 32])
                .unwrap()
                .verifier()
                .to_string(),
        ]
    };
    // One says that it saw more; one says nothing; one cosigns with the line of another.
    let more = "HTTP/1.1 409 Conflict\r\ncontent-type: text/x.tlog.size\r\ncontent-length: 7\r\nconnection: close\r\n\r\n999999\n";
    let line = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\n\u{2014} x AAAA";
    let others = [stranger(Some(more)), stranger(None), stranger(Some(line))];
    let keys = [key(1), key(2), key(3)];
    let mut all = vec![(real.url.as_str(), real.vkeys.as_slice())];
    all.extend(others.iter().map(String::as_str).zip(keys.iter().map(Vec::as_slice)));
    with_policy(&mut daemon, &policy(1, &all), "require_witness = \"refuse\"\n").await;
    let ledger = status(&daemon, "the one that is real", |ledger| ledger["witnesses"]["cosigned"] == 1).await;
    assert_eq!(ledger["witnesses"]["asked"], 4, "{ledger}");
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    assert_eq!(call(&client).await.0, 200);
    let ledger = status(&daemon, "what is wrong with the others", |ledger| {
        ledger["witnesses"]["troubles"].as_array().is_some_and(|all| all.len() == 3)
    })
    .await;
    assert!(ledger["witnesses"]["troubles"].to_string().contains("999999"), "{ledger}");
    let log = std::fs::read_to_string(daemon.state().join("err.log")).unwrap();
    let told = log.lines().filter(|line| line.contains("WARN") && line.contains("a witness did not cosign")).count();
    assert!(told <= 3, "each is told once:\n{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_set_back_or_goes_another_way_gets_no_cosignature() {
    let mut daemon = Daemon::new(&load::servers(), &[], "");
    let witness = Witness::start("example.com/w1", &daemon);
    let text = policy(1, &[(witness.url.as_str(), witness.vkeys.as_slice())]);
    let path = with_policy(&mut daemon, &text, "").await;
    status(&daemon, "a cosignature", fresh).await;
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    daemon.kill();
    let (ledger, kept) = (daemon.state().join("ledger"), daemon.state().join("older"));
    copy_tree(&ledger, &kept).unwrap();
    daemon.start();
    for _ in 0..20 {
        assert_eq!(call(&client).await.0, 200);
    }
    status(&daemon, "a cosignature of more", fresh).await;
    // An older copy, with the older cosigned checkpoint: nothing in it says that there was more. The witness does.
    daemon.kill();
    std::fs::remove_dir_all(&ledger).unwrap();
    copy_tree(&kept, &ledger).unwrap();
    daemon.start();
    let seen = status(&daemon, "an alarm", |ledger| ledger["witnesses"]["alarm"] == true).await;
    assert!(seen["witnesses"]["troubles"][0].as_str().unwrap().contains("older copy"), "{seen}");
    // It grows beyond what the witness saw: another history.
    for _ in 0..30 {
        assert_eq!(call(&client).await.0, 200, "the operator only wants a warning");
    }
    let seen = status(&daemon, "another alarm", |ledger| {
        ledger["witnesses"]["troubles"][0].as_str().is_some_and(|text| text.contains("another history"))
    })
    .await;
    let covered = seen["witnesses"]["entries"].as_u64().unwrap_or(0);
    assert!(covered < seen["entries"].as_u64().unwrap(), "{seen}");
    let said = daemon.run(&["status"]);
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.code() == Some(5) && text.contains("ALARM") && !text.contains("tamper-proof"), "{text}");
    assert!(!verified(&daemon, &path).contains(&format!("the first {} entries", seen["entries"])));
}
