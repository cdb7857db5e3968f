//! Servers that misbehave, all at once, beside one that does not. Each ends in the verdict that the table names, where its
//! operator reads it; whoever waits for it is told; and nothing of it is left.

use crate::daemon::{Daemon, Dice};
use crate::graceful::nothing_is_left;
use crate::leaks::descriptors;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use stdx::clock::monotonic;
use testkit::Client;
use tokio::task::block_in_place;

/// What is done to a server.
#[derive(Clone, Copy, Debug)]
enum Deed {
    /// This tool is called, with these arguments.
    Call(&'static str, &'static str),
    /// An operator stops it, and starts it again.
    Stop,
}

/// Who answers the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Another,
    TheSame,
}

/// One way to misbehave.
#[derive(Clone, Copy, Debug)]
struct Child {
    name: &'static str,
    program: &'static [&'static str],
    /// What its operator set for it.
    set: &'static str,
    deed: Deed,
    /// What its caller gets: a result, or an error with this reason.
    told: &'static str,
    /// One of these is in its log.
    log: &'static [&'static str],
    /// A word that `status` shows meanwhile.
    word: &'static str,
    next: Next,
}

use Deed::{Call, Stop};
use Next::{Another, TheSame};
use testkit::wait::{PATIENCE, Wait, eventually_some};

const PLAIN: &str = "{}";
/// A call has 2 s.
const WATCHED: &str = r#"{"watch": {"callTimeout": "2 s", "quiet": "1 s", "probeDeadline": "1 s"}}"#;
const SLOW: &str = r#"{"outputRate": "1 MiB"}"#;
/// On a busy machine a loop without end may get too little of the processor to be told from others.
const SPINS: &[&str] = &["wedged: it computes without end", "wedged: it answers nothing"];

#[rustfmt::skip]
const CHILDREN: &[Child] = &[
    Child { name: "exits", program: &["odd", "--exit-on-call", "3"], set: PLAIN, deed: Call("die", "{}"),
        told: "server_ended", log: &["exit status 3"], word: "ready", next: Another },
    Child { name: "stops-itself", program: &["chaos"], set: WATCHED, deed: Call("halt", "{}"),
        told: "deadline", log: &["wedged: it is stopped by a signal"], word: "wedged", next: Another },
    Child { name: "spins", program: &["odd", "--spin", "--ignore-term"], set: WATCHED, deed: Call("spin", "{}"),
        told: "deadline", log: SPINS, word: "wedged", next: Another },
    Child { name: "deadlocks", program: &["odd", "--deadlock-after", "3", "--ignore-term"], set: WATCHED, deed: Call("echo", "{}"),
        told: "deadline", log: &["wedged: it answers nothing"], word: "wedged", next: Another },
    Child { name: "stays", program: &["odd", "--ignore-term", "--ignore-eof"], set: PLAIN, deed: Stop,
        told: "result", log: &["staithe was told to stop it (killed by signal 9)"], word: "stopped", next: Another },
    Child { name: "bombs", program: &["odd", "--hungry"], set: r#"{"processes": 24}"#, deed: Call("bomb", "{}"),
        told: "server_ended", log: &["processes; the limit is 24"], word: "ready", next: Another },
    Child { name: "hogs", program: &["odd", "--hungry"], set: r#"{"memory": "64 MiB"}"#, deed: Call("hog", "{}"),
        told: "server_ended", log: &["of memory; the limit is 64 MiB"], word: "ready", next: Another },
    Child { name: "tells-all", program: &["chaos"], set: SLOW, deed: Call("flood", r#"{"ms": 3000}"#),
        told: "result", log: &["more than 1 MiB a second to stdout"], word: "ready", next: TheSame },
    Child { name: "spills", program: &["odd", "--spill"], set: SLOW, deed: Call("spill", r#"{"ms": 3000, "words": 100}"#),
        told: "result", log: &["more than 1 MiB a second to stdout"], word: "ready", next: TheSame },
    Child { name: "never-ends-a-line", program: &["chaos"], set: PLAIN, deed: Call("endless", "{}"),
        told: "server_ended", log: &["it wrote a line of more than 16777216 bytes"], word: "ready", next: Another },
    Child { name: "complains", program: &["odd", "--spill"], set: SLOW, deed: Call("spill", r#"{"ms": 3000, "words": 100, "stderr": true}"#),
        told: "result", log: &["more than 1 MiB a second to stderr"], word: "ready", next: TheSame },
    Child { name: "closes-stdout", program: &["chaos"], set: PLAIN, deed: Call("close", r#"{"which": "stdout"}"#),
        told: "server_ended", log: &["ended: it closed its stdout (killed by signal 15)"], word: "ready", next: Another },
    Child { name: "closes-stdin", program: &["chaos"], set: PLAIN, deed: Call("close", r#"{"which": "stdin"}"#),
        told: "server_ended", log: &["ended: it closed its stdin (killed by signal 15)"], word: "ready", next: Another },
    Child { name: "closes-stderr", program: &["chaos"], set: PLAIN, deed: Call("close", r#"{"which": "stderr"}"#),
        told: "result", log: &["started as process"], word: "ready", next: TheSame },
];
/// Ends in every life, at another point each time.
const FICKLE: &str = "fickle";
/// Does nothing wrong.
const STEADY: &str = "steady";

impl Child {
    fn entry(&self) -> Value {
        let mut entry: Value = serde_json::from_str(self.set).unwrap();
        entry["command"] = json!(testkit::bin(self.program[0]));
        entry["args"] = json!(self.program[1..]);
        entry["era"] = json!("legacy");
        entry
    }

    /// How often its log says what it should.
    fn logged(&self, daemon: &Daemon) -> usize {
        let log = block_in_place(|| daemon.text(&["logs", self.name, "-n", "1000"]));
        self.log.iter().map(|words| log.matches(words).count()).sum()
    }

    /// Its log says it once more than before.
    async fn is_logged(&self, daemon: &Daemon, before: usize) {
        let wait = Wait::new(format!("{:?} in the log of {}", self.log, self.name));
        while self.logged(daemon) <= before {
            wait.a_while().await;
        }
    }

    /// What happens to it and to whoever calls it, from its first call to the first one afterwards.
    async fn misbehaves(&self, daemon: &Daemon, client: Client) {
        let client = &client;
        let mut before = String::new();
        for _ in 0..3 {
            before = pid(client, self.name).await;
        }
        // Of one that lives on it was said when it started.
        let said = if self.next == Another { self.logged(daemon) } else { 0 };
        let begun = monotonic();
        match self.deed {
            Call(tool, arguments) => {
                let answer = call(client, self.name, tool, serde_json::from_str(arguments).unwrap()).await;
                let told = if answer["result"].is_object() { "result" } else { reason(&answer) };
                // The verdict on one that hangs may come in the moment in which the time of the call is up.
                let late = self.word == "wedged" && told == "server_ended";
                assert!(told == self.told || late, "{} told {told}: {answer}", self.name);
            }
            Stop => {
                block_in_place(|| daemon.cli(&["stop", self.name]));
                self.is_logged(daemon, said).await;
                block_in_place(|| daemon.cli(&["start", self.name]));
            }
        }
        let answered = begun.elapsed();
        // Calls that come before it is replaced hang with it, and are told the same.
        let wait = Wait::new(format!("{} to serve again", self.name));
        let after = loop {
            let answer = call(client, self.name, "pid", json!({})).await;
            match answer["result"]["content"][0]["text"].as_str() {
                Some(pid) => break pid.to_owned(),
                None => assert!(
                    self.word == "wedged" && ["deadline", "server_ended"].contains(&reason(&answer)),
                    "{}: {answer}",
                    self.name
                ),
            }
            wait.a_while().await;
        };
        assert_eq!(if before == after { TheSame } else { Another }, self.next, "{}", self.name);
        self.is_logged(daemon, said).await;
        println!("{}: {} after {answered:?}, served again after {:?}", self.name, self.told, begun.elapsed());
    }
}

/// A server that dies in every life: its callers are told so, and its operator reads that it is a crash loop and can end it.
async fn a_crash_loop_is_named(daemon: &Daemon, client: Client, seen: &Seen) {
    let mut told = BTreeSet::new();
    let wait = Wait::new("a crash loop");
    while !seen.has(FICKLE, "crash-looping") {
        wait.a_while().await;
        let answer = call(&client, FICKLE, "note", json!({"nonce": "n"})).await;
        told.insert(if answer["result"].is_object() { "result" } else { reason(&answer) }.to_owned());
    }
    println!("{FICKLE}: {told:?}");
    let may: BTreeSet<String> = ["result", "server_ended", "server_failing"].map(str::to_owned).into();
    assert!(told.is_subset(&may) && told.contains("server_ended"), "{told:?}");
    // As often as it takes: one life in four ends before the handshake.
    let wait = Wait::new("a call that is served after a restart");
    loop {
        block_in_place(|| daemon.cli(&["restart", FICKLE]));
        if call(&client, FICKLE, "pid", json!({})).await["result"].is_object() {
            return;
        }
        wait.a_while().await;
    }
}

async fn call(client: &Client, server: &str, tool: &str, arguments: Value) -> Value {
    let params = json!({"name": tool, "arguments": arguments});
    let called = tokio::time::timeout(PATIENCE, client.modern_call(server, "tools/call", params)).await;
    called.unwrap_or_else(|_| panic!("the caller of {tool} of {server} hangs")).unwrap().1
}

fn reason(answer: &Value) -> &str {
    answer["error"]["data"]["reason"].as_str().unwrap_or_else(|| panic!("neither result nor reason: {answer}"))
}

/// Of the process that answers.
async fn pid(client: &Client, server: &str) -> String {
    let answer = call(client, server, "pid", json!({})).await;
    let text = answer["result"]["content"][0]["text"].as_str();
    text.unwrap_or_else(|| panic!("{server} does not serve: {answer}")).to_owned()
}

/// The words that `status` and `instances` showed for each server.
#[derive(Debug, Default)]
struct Seen(Mutex<BTreeSet<(String, String)>>);

impl Seen {
    fn has(&self, server: &str, word: &str) -> bool {
        self.0.lock().unwrap().contains(&(server.to_owned(), word.to_owned()))
    }

    async fn look(&self, daemon: &Daemon) {
        let (status, instances) = block_in_place(|| (daemon.cli(&["status"]), daemon.cli(&["instances"])));
        let servers = status["servers"].as_array().unwrap().iter().map(|one| (&one["name"], &one["health"]));
        let processes = instances.as_array().unwrap().iter().map(|one| (&one["server"], &one["health"]));
        for (server, word) in servers.chain(processes) {
            let pair = (server.as_str().unwrap().to_owned(), word.as_str().unwrap().to_owned());
            self.0.lock().unwrap().insert(pair);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A caller of the steady server, who is served all the time.
struct Neighbour {
    over: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<Option<Vec<Value>>>,
}

impl Neighbour {
    fn begin(client: Client) -> Self {
        let (over, calls) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stop, count) = (over.clone(), calls.clone());
        let task = stdx::task::spawn("the neighbour", async move {
            let mut failures = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let answer = call(&client, STEADY, "pid", json!({})).await;
                count.fetch_add(1, Ordering::Relaxed);
                if !answer["result"].is_object() {
                    failures.push(answer);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            failures
        });
        Self { over, calls, task }
    }

    async fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        let failures = self.task.await.unwrap().unwrap();
        let calls = self.calls.load(Ordering::Relaxed);
        println!("{calls} calls of the neighbour");
        assert!(failures.is_empty() && calls > 50, "{} of {calls} calls failed: {failures:?}", failures.len());
    }
}

/// What may be left: descriptors of daemon and keeper, processes, files.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    descriptors: [usize; 2],
    servers: Vec<u32>,
    files: BTreeSet<String>,
}

impl Left {
    fn of(daemon: &Daemon) -> Self {
        let mut servers = daemon.servers();
        servers.sort_unstable();
        let mut files = BTreeSet::new();
        walk(daemon.state(), &mut files);
        Self { descriptors: [daemon.pid(), daemon.keeper().unwrap()].map(descriptors), servers, files }
    }

    fn is_within(&self, before: &Self) -> bool {
        let few = self.descriptors.iter().zip(before.descriptors).all(|(now, before)| *now <= before);
        few && self.servers == before.servers && self.files.is_subset(&before.files)
    }
}

fn walk(dir: &Path, files: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.ends_with("ledger") {
            // It keeps what it was told.
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            walk(&path, files);
        } else if path.extension().is_none_or(|end| end != "old") {
            // A log that is full has one older copy.
            files.insert(path.to_string_lossy().into_owned());
        }
    }
}

fn each(daemon: &Daemon, verb: &str) {
    for name in CHILDREN.iter().map(|child| child.name).chain([FICKLE]) {
        daemon.cli(&[verb, name]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_a_server_does_has_a_name_and_leaves_nothing() {
    let begun = monotonic();
    let lives = tempfile::tempdir().unwrap();
    let seed = Dice::new().below(1 << 32).to_string();
    let mut servers: serde_json::Map<String, Value> =
        CHILDREN.iter().map(|child| (child.name.to_owned(), child.entry())).collect();
    let chaos = testkit::bin("chaos");
    let counted = lives.path().join("lives");
    let fickle = json!({"command": chaos, "args": ["--fickle", seed, "--lives", counted], "era": "legacy"});
    servers.insert(FICKLE.to_owned(), fickle);
    servers.insert(STEADY.to_owned(), json!({"command": chaos, "era": "legacy"}));
    let daemon = Arc::new(Daemon::new(&Value::Object(servers), &[], ""));
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    // What each of them needs once is there before anything is counted.
    for name in CHILDREN.iter().map(|child| child.name).chain([STEADY]) {
        pid(&client, name).await;
    }
    call(&client, FICKLE, "pid", json!({})).await;
    each(&daemon, "stop");
    eventually_some("the end of all others", async || (daemon.servers().len() == 1).then_some(())).await;
    let before = Left::of(&daemon);
    each(&daemon, "start");

    let another = || Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    let (neighbour, calm) = (Neighbour::begin(another()), pid(&another(), STEADY).await);
    let seen = Arc::<Seen>::default();
    let mut tasks: Vec<_> = CHILDREN
        .iter()
        .map(|child| {
            let (daemon, client) = (daemon.clone(), another());
            stdx::task::spawn(child.name, async move { child.misbehaves(&daemon, client).await })
        })
        .collect();
    let (host, client, eye) = (daemon.clone(), another(), seen.clone());
    tasks.push(stdx::task::spawn(FICKLE, async move { a_crash_loop_is_named(&host, client, &eye).await }));
    while tasks.iter().any(|task| !task.is_finished()) {
        seen.look(&daemon).await;
    }
    let names = CHILDREN.iter().map(|child| child.name).chain([FICKLE]);
    let mut failed = Vec::new();
    for (task, name) in tasks.into_iter().zip(names) {
        failed.extend(task.await.unwrap().is_none().then_some(name));
    }
    assert_eq!(failed, Vec::<&str>::new(), "what failed is said above");
    let client = another();
    assert_eq!(pid(&client, STEADY).await, calm, "a neighbour was replaced");
    neighbour.end().await;
    for child in CHILDREN {
        assert!(seen.has(child.name, child.word), "{} was never {}: {seen:?}", child.name, child.word);
    }
    let restarts = |status: &Value, name: &str| {
        let all = status["servers"].as_array().unwrap();
        all.iter().find(|one| one["name"] == name).unwrap()["restarts"].as_u64().unwrap()
    };
    let status = daemon.cli(&["status"]);
    for child in CHILDREN.iter().filter(|child| child.next == TheSame).map(|child| child.name).chain([STEADY]) {
        assert_eq!(restarts(&status, child), 0, "{child} was replaced");
    }
    each(&daemon, "stop");
    let end = monotonic() + PATIENCE;
    loop {
        let now = Left::of(&daemon);
        if now.is_within(&before) {
            break;
        }
        assert!(monotonic() < end, "left are {now:#?}, before there were {before:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("{:?} in all", begun.elapsed());
    let mut daemon = Arc::into_inner(daemon).unwrap();
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    nothing_is_left(&daemon).await;
}
