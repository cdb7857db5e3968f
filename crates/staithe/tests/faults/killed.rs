//! `kill -9` of the daemon: processes, sessions and listeners outlive it, and nothing is answered wrongly or done twice.

use crate::daemon::{Daemon, Dice, signal};
use crate::load::{self, Allowed, told};
use rustix::process::Signal;
use serde_json::json;
use std::time::Duration;
use stdx::clock::monotonic;
use testkit::wait::eventually_some;
use testkit::{Client, Stream};

/// What a call may be told beside its answer: it ran when the daemon died, and its answer died with it.
const REASONS: &[&str] = &["outcome_unknown"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_kills_under_load_lose_nothing() {
    kills(200).await;
}

async fn kills(rounds: usize) {
    let mut dice = Dice::new();
    // An answer that a daemon read and took to its grave is missed when the time of its call is up.
    let mut daemon = Daemon::new(&load::servers(), &[], "[limits]\ncall_timeout = \"10 s\"\n");
    let allowed = Allowed { reasons: REASONS, ..Allowed::default() };
    let (load, tasks) = load::begin(&daemon, &mut dice, allowed);
    eventually_some("an answer for every worker", async || (load.workers_served() >= 24).then_some(())).await;
    let probe = Probe::new(&daemon);
    assert!(probe.is_served().await);
    let (began, mut times) = (monotonic(), Vec::new());
    for _ in 0..rounds {
        let killed = monotonic();
        daemon.kill();
        daemon.start();
        // Now and then the next one is killed before it serves.
        if dice.below(4) == 0 {
            tokio::time::sleep(Duration::from_millis(5 + dice.below(100))).await;
            continue;
        }
        // This connection is made before anybody listens again.
        assert!(probe.is_served().await, "a call that waited for the next daemon was not served");
        times.push(killed.elapsed());
        tokio::time::sleep(Duration::from_millis(dice.below(150))).await;
    }
    println!("{rounds} kills in {:?}", began.elapsed());
    print_times(times);
    load.balance(tasks).await;
}

/// Calls on a connection of their own.
struct Probe(Client);

impl Probe {
    fn new(daemon: &Daemon) -> Self {
        Self(Client::new(&daemon.url, Some(daemon.token("probe"))).unwrap())
    }

    async fn is_served(&self) -> bool {
        let params = json!({"name": "ledger", "arguments": {}});
        let Ok(stream) = self.0.modern_stream("modern", "tools/call", params).await else { return false };
        let Ok(whole) = stream.whole().await else { return false };
        whole.status == 200 && whole.json().is_ok_and(|answer| answer["result"]["content"].is_array())
    }
}

fn print_times(mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    println!("from the kill to the first served call: p50 {:?}, p99 {:?}, max {:?}", at(50), at(99), at(100));
    assert!(at(100) < Duration::from_secs(5), "a daemon took too long to serve");
}

/// A call in a session whose stream its client takes up again, until it ended.
pub(crate) struct Resumable {
    pub(crate) client: Client,
    pub(crate) session: String,
    /// Where the stream broke off.
    last: String,
    /// The process that has the call.
    pub(crate) pid: u32,
}

impl Resumable {
    /// Begins a call of so many seconds and reads of its progress.
    pub(crate) async fn begin(daemon: &Daemon, seconds: u64) -> Self {
        Self::begin_held(daemon, seconds).await.0
    }

    /// The same, and the stream: until it is dropped its client waits there.
    pub(crate) async fn begin_held(daemon: &Daemon, seconds: u64) -> (Self, Stream) {
        let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
        let session = client.legacy_session("own").await.unwrap();
        let ledger = session.call("tools/call", json!({"name": "ledger", "arguments": {}})).await.unwrap();
        let pid = told(&ledger)["pid"].as_u64().unwrap();
        let params = json!({
            "name": "note", "arguments": {"nonce": "n", "canary": "ann", "ms": 1000 * seconds, "steps": 10 * seconds},
            "_meta": {"progressToken": "p"},
        });
        let mut stream = session.stream(&json!("n"), "tools/call", params).await.unwrap();
        let (mut last, mut heard) = (None, 0);
        while heard < 3 {
            let event = stream.next().await.unwrap().unwrap();
            last = event.id.or(last);
            heard += usize::from(!event.data.is_empty());
        }
        let session = session.id.clone().unwrap();
        (Self { client, session, last: last.unwrap(), pid: u32::try_from(pid).unwrap() }, stream)
    }

    /// Every answer that comes after the break; more than one would be one too many.
    pub(crate) async fn answers(&mut self) -> Vec<serde_json::Value> {
        let session = self.client.known_session("own", &self.session, "2025-11-25");
        let last = self.last.clone();
        eventually_some("the answer", async || {
            let mut headers = session.headers();
            headers.push(("last-event-id".to_owned(), last.clone()));
            let mut stream = session.resume(&headers).await.ok()?;
            assert!(stream.is_event_stream(), "resuming was answered {}", stream.status);
            let mut answers = Vec::new();
            while let Ok(Some(message)) = stream.next_message().await {
                answers.extend(message.get("method").is_none().then_some(message));
            }
            (!answers.is_empty()).then_some(answers)
        })
        .await
    }

    /// Its one answer.
    pub(crate) async fn answer(&mut self) -> serde_json::Value {
        let answers = self.answers().await;
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert_eq!(answers[0]["id"], "n", "{answers:?}");
        answers[0].clone()
    }

    /// The process that had it has answered, once.
    pub(crate) async fn is_answered_once(&mut self) {
        let told = told(&self.answer().await);
        assert_eq!((&told["nonce"], &told["count"], &told["pid"]), (&json!("n"), &json!(1), &json!(self.pid)));
    }
}

#[tokio::test]
async fn a_call_that_outlives_the_daemon_is_answered_on_its_stream() {
    let mut daemon = Daemon::new(&load::servers(), &[], "");
    let mut call = Resumable::begin(&daemon, 3).await;
    daemon.kill();
    daemon.start();
    call.is_answered_once().await;
}

#[tokio::test]
async fn a_call_whose_process_died_with_the_daemon_ends_as_unknown() {
    let mut daemon = Daemon::new(&load::servers(), &[], "");
    let mut call = Resumable::begin(&daemon, 3).await;
    daemon.kill();
    signal(call.pid, Signal::KILL);
    daemon.start();
    let answer = call.answer().await;
    assert_eq!(answer["error"]["data"]["reason"], "outcome_unknown", "{answer}");
    // The session has a new process, and the call was not sent to it.
    let session = call.client.known_session("own", &call.session, "2025-11-25");
    let ledger = session.call("tools/call", json!({"name": "ledger", "arguments": {}})).await.unwrap();
    assert_eq!(told(&ledger)["nonces"], json!([]));
}

/// Spares of a killed daemon belong to nobody: the next one ends them and starts its own.
#[tokio::test]
async fn spares_end_with_their_daemon_and_are_made_anew() {
    let warm = json!({"warm": {"command": testkit::bin("odd"), "era": "legacy", "spares": 2}});
    let mut daemon = Daemon::new(&warm, &[], "");
    let spares = async |daemon: &Daemon| {
        eventually_some("two spares", async || {
            let listed = daemon.cli(&["instances"]);
            let all = listed.as_array().unwrap_or_else(|| panic!("{listed}")).iter();
            let spares = all.filter(|instance| instance["key"].as_str().unwrap().contains("spare"));
            let pids: Vec<u32> = spares.map(|spare| u32::try_from(spare["pid"].as_u64().unwrap()).unwrap()).collect();
            (pids.len() == 2).then_some(pids)
        })
        .await
    };
    let before = spares(&daemon).await;
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    let call = async || {
        // The connection to a daemon that was killed is of no use.
        let answer = eventually_some("an answer", async || {
            let params = json!({"name": "pid", "arguments": {}});
            client.modern_call("warm", "tools/call", params).await.ok().map(|(_, answer)| answer)
        })
        .await;
        let text = answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"));
        text.parse::<u32>().unwrap()
    };
    let own = call().await;
    assert!(before.contains(&own), "{own} is none of {before:?}");
    let before = spares(&daemon).await;
    daemon.kill();
    daemon.start();
    assert_eq!(call().await, own, "what had an owner lives on");
    let after = spares(&daemon).await;
    assert!(before.iter().all(|pid| !after.contains(pid)), "{before:?} {after:?}");
    eventually_some("nothing is left of the old ones", async || (daemon.servers().len() == 3).then_some(())).await;
    let log = std::fs::read_to_string(daemon.state().join("err.log")).unwrap();
    assert_eq!(log.matches("that served nobody").count(), 1, "{log}");
    assert!(!log.contains("WARN") && !log.contains("signal 9"), "spares are nothing to be alarmed by:\n{log}");
    daemon.terminate();
    daemon.ended().await;
    assert_eq!(daemon.servers(), Vec::<u32>::new());
}

/// A daemon that leaves in order leaves no spares: nobody would take them over.
#[tokio::test]
async fn a_daemon_that_leaves_its_servers_ends_its_spares() {
    let warm = json!({"warm": {"command": testkit::bin("odd"), "era": "legacy", "spares": 3}});
    let mut daemon = Daemon::new(&warm, &["--leave-servers"], "");
    eventually_some("three spares", async || {
        let listed = daemon.cli(&["instances"]);
        (listed.as_array().unwrap().iter().filter(|one| one["key"] == "nobody (spare)").count() == 3).then_some(())
    })
    .await;
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert_eq!(daemon.servers(), Vec::<u32>::new());
    daemon.start();
    eventually_some("three new ones", async || (daemon.servers().len() == 3).then_some(())).await;
    let log = std::fs::read_to_string(daemon.state().join("err.log")).unwrap();
    assert!(!log.contains("that served nobody") && !log.contains("WARN"), "{log}");
    let keeper = daemon.keeper().unwrap();
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    signal(keeper, Signal::TERM);
    eventually_some("the end of the keeper", async || daemon.keeper().is_none().then_some(())).await;
}
