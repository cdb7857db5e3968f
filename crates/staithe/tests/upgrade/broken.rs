//! An upgrade that goes wrong half-way, or whose new daemon dies: nothing is lost, nothing runs twice, nothing living is ended.

use super::{Client, Daemon, STAITHE, staithe, text};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;
use stdx::clock::monotonic;
use testkit::Session;
use testkit::wait::{eventually, lives};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// What a new daemon says first.
const GREETING: &[u8; 16] = b"staithe-handover";
/// The frame after which the old daemon waits for the new one.
const YIELDED: u8 = 2;

/// The place of the new daemon, between it and the old one.
pub(crate) struct Between {
    upgrade: JoinHandle<Output>,
    place: PathBuf,
    old: UnixStream,
    held: Vec<u8>,
}

impl Between {
    /// Lets the old daemon give everything away, to us.
    pub(crate) async fn begin(daemon: &Daemon) -> Self {
        let program = daemon.program("exec sleep 100");
        let upgrade = daemon.begin_upgrade(&program);
        let place = daemon.dir.path().join("state/run/handover.sock");
        let mut old = met(&place).await;
        old.write_all(GREETING).await.unwrap();
        let mut held = Vec::new();
        loop {
            let length = old.read_u32_le().await.unwrap();
            let mut body = vec![0; length as usize];
            old.read_exact(&mut body).await.unwrap();
            held.extend_from_slice(&length.to_le_bytes());
            held.extend_from_slice(&body);
            if body[0] == YIELDED {
                return Self { upgrade, place, old, held };
            }
        }
    }

    /// A real daemon that takes over, and whose words the old one never hears.
    pub(crate) async fn heir(&self, daemon: &Daemon) -> (Heir, UnixStream) {
        std::fs::remove_file(&self.place).unwrap();
        let listener = UnixListener::bind(&self.place).unwrap();
        let before = daemon.server_log().matches("taken over as process").count();
        let heir = Heir::start(daemon, true);
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut greeting = [0; GREETING.len()];
        stream.read_exact(&mut greeting).await.unwrap();
        stream.write_all(&self.held).await.unwrap();
        eventually("the processes are taken over", || {
            daemon.server_log().matches("taken over as process").count() > before
        })
        .await;
        (heir, stream)
    }

    /// The old daemon hears that nobody takes over.
    pub(crate) async fn fail(self) {
        let Self { upgrade, old, .. } = self;
        drop(old);
        let output = upgrade.await.unwrap();
        assert!(!output.status.success(), "{output:?}");
    }
}

/// A daemon that is not the one which [`Daemon`] started.
pub(crate) struct Heir(Child);

impl Heir {
    fn start(daemon: &Daemon, takes_over: bool) -> Self {
        let log = std::fs::File::options().append(true).open(daemon.dir.path().join("log")).unwrap();
        let mut command = staithe(&daemon.dir.path().join("state"));
        command.args(["--json", "serve", "--listen", "127.0.0.1:0", "--operator", "127.0.0.1:0"]);
        if takes_over {
            command.env("STAITHE_TAKES_OVER", "1");
        }
        Self(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Daemon {
    /// A shell script as program.
    pub(crate) fn script(&self, body: &str) -> PathBuf {
        let path = self.dir.path().join("program");
        stdx::durable::write_file(&path, format!("#!/bin/sh\n{body}\n").as_bytes(), 0o755).unwrap();
        path
    }

    /// One that says it is a staithe.
    pub(crate) fn program(&self, body: &str) -> PathBuf {
        self.script(&format!("[ \"$1\" = --version ] && exec echo staithe 0\n{body}"))
    }

    pub(crate) fn begin_upgrade(&self, program: &Path) -> JoinHandle<Output> {
        let mut command = staithe(&self.dir.path().join("state"));
        command.arg("upgrade").arg(program);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    }

    fn server_log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("state/servers/keeps/logs/server.log")).unwrap_or_default()
    }

    pub(crate) async fn session(&self, principal: &str) -> Arc<Session<'static>> {
        let client: &'static Client = Box::leak(Box::new(self.client(principal)));
        Arc::new(client.legacy_session("keeps").await.unwrap())
    }
}

pub(crate) async fn met(place: &Path) -> UnixStream {
    let limit = monotonic() + Duration::from_secs(20);
    loop {
        match UnixStream::connect(place).await {
            Ok(stream) => return stream,
            Err(error) => assert!(monotonic() < limit, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn tool(session: &Session<'_>, name: &str, arguments: Value) -> Value {
    let call = session.call("tools/call", json!({"name": name, "arguments": arguments}));
    tokio::time::timeout(Duration::from_secs(60), call).await.unwrap().unwrap()
}

async fn number(session: &Session<'_>, name: &str) -> u64 {
    text(&tool(session, name, json!({})).await).trim().parse().unwrap()
}

pub(crate) fn kill(pid: u64, signal: &str) {
    assert!(Command::new("kill").args(["-s", signal, &pid.to_string()]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_new_daemon_ends_no_server() {
    let daemon = Daemon::start();
    let (ann, bob) = (daemon.session("ann").await, daemon.session("bob").await);
    let servers = [number(&ann, "pid").await, number(&bob, "pid").await];
    let caller = ann.clone();
    let call = stdx::task::spawn("call", async move { tool(&caller, "sleep", json!({"ms": 60_000})).await });
    eventually("the call is there", || daemon.told(&["instances"]).to_string().contains(r#""in_flight":1"#)).await;
    assert!(tokio::task::block_in_place(|| daemon.command(&["upgrade"])).status.success());
    // The old daemon has the call at the one process, and none at the other.
    kill(tokio::task::block_in_place(|| daemon.pid()), "KILL");
    let answer = call.await.unwrap().unwrap();
    let data = &answer["error"]["data"];
    assert_eq!((&data["reason"], &data["blame"]), (&json!("outcome_unknown"), &json!("host")), "{answer}");
    let log = daemon.server_log();
    // As long as an old daemon would have given them to leave.
    let looked = monotonic();
    while looked.elapsed() < Duration::from_secs(3) {
        assert!(servers.iter().all(|pid| lives(*pid)), "{}", daemon.server_log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(daemon.server_log(), log);
    let next = Heir::start(&daemon, false);
    assert_eq!([number(&ann, "pid").await, number(&bob, "pid").await], servers);
    tokio::task::block_in_place(|| daemon.stop());
    drop(next);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_runs_twice_and_no_answer_is_lost_when_the_new_daemon_dies_before_it_serves() {
    let daemon = Daemon::serving(&["--busy-ms", "3000"]);
    let ann = daemon.session("ann").await;
    let pid = number(&ann, "pid").await;
    let caller = ann.clone();
    let busy = stdx::task::spawn("call", async move { tool(&caller, "busy", json!({})).await });
    eventually("the server is busy", || daemon.told(&["instances"]).to_string().contains(r#""in_flight":1"#)).await;
    // More than the pipe takes while the server reads nothing.
    let mut calls = Vec::new();
    for _ in 0..100 {
        let caller = ann.clone();
        calls.push(stdx::task::spawn("call", async move {
            let answer = tool(&caller, "counter", json!({"pad": "x".repeat(20_000)})).await;
            text(&answer).trim().parse::<u64>().unwrap_or_else(|_| panic!("{answer}"))
        }));
    }
    eventually("the calls are there", || daemon.told(&["instances"]).to_string().contains(r#""in_flight":101"#)).await;
    let between = Between::begin(&daemon).await;
    assert!(between.held.len() > 1 << 20, "{} bytes were held", between.held.len());
    let (heir, stream) = between.heir(&daemon).await;
    // Its time to read and write what is not its own yet.
    tokio::time::sleep(Duration::from_millis(3500)).await;
    heir.kill();
    drop(stream);
    between.fail().await;
    let mut counted = Vec::new();
    for call in calls {
        counted.push(call.await.unwrap().unwrap());
    }
    counted.sort_unstable();
    assert_eq!(counted, (1..=100).collect::<Vec<u64>>());
    assert_eq!(text(&busy.await.unwrap().unwrap()), "done");
    assert_eq!(number(&ann, "counter").await, 101);
    assert_eq!(number(&ann, "pid").await, pid);
    tokio::task::block_in_place(|| daemon.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_find_the_daemon_that_took_everything_back() {
    let daemon = Daemon::start();
    let (ann, before) = (daemon.session("ann").await, daemon.pid());
    let first = number(&ann, "counter").await;
    let between = Between::begin(&daemon).await;
    let (heir, stream) = between.heir(&daemon).await;
    heir.kill();
    drop(stream);
    between.fail().await;
    assert_eq!(tokio::task::block_in_place(|| daemon.pid()), before);
    assert_eq!(number(&ann, "counter").await, first + 1);
    tokio::task::block_in_place(|| daemon.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_ended_between_two_daemons_is_replaced() {
    let daemon = Daemon::start();
    let ann = daemon.session("ann").await;
    let pid = number(&ann, "pid").await;
    let caller = ann.clone();
    let call = stdx::task::spawn("call", async move { tool(&caller, "sleep", json!({"ms": 60_000})).await });
    eventually("the call is there", || daemon.told(&["instances"]).to_string().contains(r#""in_flight":1"#)).await;
    let between = Between::begin(&daemon).await;
    kill(pid, "KILL");
    eventually("the server is gone", || !lives(pid)).await;
    between.fail().await;
    let answer = call.await.unwrap().unwrap();
    assert_eq!(answer["error"]["data"]["reason"], "server_ended", "{answer}");
    assert_ne!(number(&ann, "pid").await, pid);
    tokio::task::block_in_place(|| daemon.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_new_daemon_had_started_is_ended_when_it_does_not_take_over() {
    let daemon = Daemon::start();
    let (ann, token) = (daemon.session("ann").await, daemon.token("bob"));
    let own = number(&ann, "pid").await;
    let between = Between::begin(&daemon).await;
    let (heir, stream) = between.heir(&daemon).await;
    // The old daemon takes no connections now.
    let bob: &'static Client = Box::leak(Box::new(Client::new(&daemon.url, Some(token)).unwrap()));
    let other = number(&bob.legacy_session("keeps").await.unwrap(), "pid").await;
    assert_ne!(other, own);
    heir.kill();
    drop(stream);
    between.fail().await;
    eventually("what it had started is gone", || !lives(other)).await;
    assert_eq!(number(&ann, "pid").await, own);
    let carl = daemon.session("carl").await;
    assert_ne!(number(&carl, "pid").await, own);
    tokio::task::block_in_place(|| daemon.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_during_an_upgrade_ends_the_host() {
    // While the new program does not come, and while it has everything and does not serve.
    for given in [false, true] {
        let daemon = Daemon::start();
        let pid = number(&*daemon.session("ann").await, "pid").await;
        let (mut between, mut upgrade) = (None, None);
        if given {
            between = Some(Between::begin(&daemon).await);
        } else {
            upgrade = Some(daemon.begin_upgrade(&daemon.program("exec sleep 100")));
            let place = daemon.dir.path().join("state/run/handover.sock");
            eventually("the old daemon waits", || place.exists()).await;
        }
        kill(u64::from(daemon.first.id()), "TERM");
        eventually("the server has ended", || !lives(pid)).await;
        eventually("the daemons have ended", || daemon.processes().is_empty()).await;
        if let Some(between) = between {
            between.fail().await;
        }
        if let Some(upgrade) = upgrade {
            assert!(!upgrade.await.unwrap().status.success());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_at_the_meeting_place_holds_nothing_up() {
    let daemon = Daemon::start();
    let before = daemon.pid();
    let go = daemon.dir.path().join("go");
    let body = format!("while [ ! -e {} ]; do sleep 0.02; done\nexec {STAITHE} \"$@\"", go.display());
    let upgrade = daemon.begin_upgrade(&daemon.program(&body));
    let place = daemon.dir.path().join("state/run/handover.sock");
    let silent = met(&place).await;
    let mut short = met(&place).await;
    short.write_all(b"hi").await.unwrap();
    drop(short);
    stdx::durable::write_file(&go, b"", 0o600).unwrap();
    let output = tokio::time::timeout(Duration::from_secs(30), upgrade).await.unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
    drop(silent);
    assert_ne!(tokio::task::block_in_place(|| daemon.pid()), before);
    tokio::task::block_in_place(|| daemon.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_an_upgrade_goes_on_another_is_refused_at_once() {
    let daemon = Daemon::start();
    let before = daemon.pid();
    let first = daemon.begin_upgrade(&daemon.program("exec sleep 100"));
    // It is there for as long as the first one waits for its process, which says nothing.
    let place = daemon.dir.path().join("state/run/handover.sock");
    eventually("the first one waits", || place.exists()).await;
    let second = tokio::task::block_in_place(|| daemon.command(&["upgrade"]));
    assert!(!second.status.success(), "{second:?}");
    assert!(String::from_utf8_lossy(&second.stderr).contains("an upgrade goes on"), "{second:?}");
    assert!(!first.is_finished());
    met(&place).await.write_all(b"another-greeting").await.unwrap();
    assert!(!first.await.unwrap().status.success());
    assert_eq!(tokio::task::block_in_place(|| daemon.pid()), before);
    assert!(tokio::task::block_in_place(|| daemon.command(&["upgrade"])).status.success(), "{}", daemon.log());
    tokio::task::block_in_place(|| daemon.stop());
}

/// It was looked at for the second time while all processes were given away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_upgrade_that_failed_kept_from_starting_is_not_called_broken() {
    let script = r#"test -e "$1" && exec "$2"; : > "$1"; exit 1"#;
    let mark = tempfile::tempdir().unwrap();
    let mark = mark.path().join("tried");
    let args = json!(["-c", script, "sh", mark.to_str().unwrap(), testkit::bin("odd")]);
    let daemon = Daemon::with(&json!({"keeps": {"command": "sh", "args": args, "era": "legacy"}}));
    eventually("it failed once", || daemon.server_log().contains("does not start")).await;
    let between = Between::begin(&daemon).await;
    // The second look comes at most this long after the first.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    between.fail().await;
    let told = || serde_json::from_slice::<Value>(&daemon.command(&["status"]).stdout).unwrap();
    eventually("it works", || told()["servers"][0]["health"] == "ready").await;
    assert_eq!(daemon.server_log().matches("does not start").count(), 1, "{}", daemon.server_log());
    tokio::task::block_in_place(|| daemon.stop());
}
