//! What a server may take: floods of output cost neither a core nor the neighbours' time, and an idle process is stopped
//! and woken as its operator says.

use crate::host::{Host, Setup, alive, in_mode, modern_tool, name, server, text, tool};
use model::{Bounds, IdleTtl, Mode, ServerSpec};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use stdx::clock::monotonic;
use stdx::meter::Page;
use testkit::Session;
use testkit::wait::eventually;

fn bounded(mut spec: ServerSpec, bounds: Bounds) -> ServerSpec {
    spec.bounds = bounds;
    spec
}

fn idle(spec: ServerSpec, ttl: IdleTtl) -> ServerSpec {
    bounded(spec, Bounds { idle_ttl: Some(ttl), ..Bounds::default() })
}

/// CPU time of this process: the host's and the test client's.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_ascii_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// What the host said about the server's output.
fn told(host: &Host, pipe: &str) -> usize {
    host.log_file("odd").matches(&format!("a second to {pipe}")).count()
}

/// Floods a pipe for three seconds and measures what others notice of it.
#[expect(clippy::print_stdout, reason = "what was measured, for whoever reads the test's output")]
async fn flood(rate: Option<u64>, arguments: Value, pipe: &str) -> (Duration, Duration, Duration) {
    let odd = bounded(server("odd", "odd", &["--spill"]), Bounds { output_rate: rate, ..Bounds::default() });
    let host = Host::open(vec![odd, server("every", "everything", &["--legacy"])]).await;
    host.ready().await;
    let client = host.client();
    modern_tool(&client, "every", "echo", json!({})).await;
    modern_tool(&client, "odd", "spill", arguments).await;
    let (begun, cpu) = (monotonic(), cpu_time());
    let mut waits = Vec::new();
    while begun.elapsed() < Duration::from_secs(2) {
        let asked = monotonic();
        modern_tool(&client, "every", "echo", json!({})).await;
        waits.push(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let spent = (cpu_time() - cpu).div_f64(begun.elapsed().as_secs_f64());
    waits.sort();
    let (median, worst) = (waits[waits.len() / 2], waits[waits.len() - 1]);
    println!("{pipe} at {rate:?}: CPU {spent:?} per second; a neighbour waits {median:?}, at worst {worst:?}");
    // Nothing was lost: the flooding server still answers, and keeps its process.
    assert_eq!(text(&modern_tool(&client, "odd", "echo", json!({"a": 1})).await), r#"{"a":1}"#);
    assert_eq!(host.supervisor.instances(Some(&name("odd")))[0].restarts, 0);
    assert_eq!(told(&host, pipe), 1, "it is said once");
    host.stop().await;
    (spent, median, worst)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_on_stdout_costs_bounded_cpu_and_delays_no_neighbour() {
    for words in [1, 100] {
        let spill = json!({"ms": 3000, "words": words});
        let (spent, median, _) = flood(Some(4 << 20), spill, "stdout").await;
        assert!(spent < Duration::from_millis(400), "{spent:?} of CPU for each second");
        assert!(median < Duration::from_millis(100), "a neighbour waits {median:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_on_stderr_costs_bounded_cpu_and_delays_no_neighbour() {
    for words in [1, 100] {
        let spill = json!({"ms": 3000, "words": words, "stderr": true});
        let (spent, median, _) = flood(Some(4 << 20), spill, "stderr").await;
        assert!(spent < Duration::from_millis(400), "{spent:?} of CPU for each second");
        assert!(median < Duration::from_millis(100), "a neighbour waits {median:?}");
    }
}

/// The default rate is high, and still the flood is read in turns.
#[tokio::test(flavor = "multi_thread")]
async fn the_default_rate_leaves_time_for_neighbours() {
    for (stderr, pipe) in [(false, "stdout"), (true, "stderr")] {
        let spill = json!({"ms": 3000, "words": 1, "stderr": stderr});
        let (_, median, _) = flood(None, spill, pipe).await;
        assert!(median < Duration::from_millis(200), "a neighbour waits {median:?}");
    }
}

/// What a pipe holds must not come at once, however much that is and however long nothing came before.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_comes_no_faster_than_the_rate_allows() {
    const RATE: f64 = 8192.0;
    const WORDS: u32 = 170;
    // Six bytes for each word, the end of the line, and what a line costs beside its bytes.
    let line = f64::from(WORDS * 6 + 1 + 512);
    let odd = bounded(server("odd", "odd", &["--spill"]), Bounds { output_rate: Some(8 << 10), ..Bounds::default() });
    let host = Host::open(vec![odd]).await;
    host.ready().await;
    let client = host.client();
    modern_tool(&client, "odd", "echo", json!({})).await;
    let begun = monotonic();
    let watched = async {
        eventually("as many lines as would come in five seconds", || {
            let lines = host.supervisor.servers()[0].junk_lines;
            let spent = f64::from(u32::try_from(lines).unwrap()) * line;
            let most = RATE * (begun.elapsed().as_secs_f64() + 1.1) + 2.0 * line;
            assert!(spent <= most, "{lines} lines after {:?}", begun.elapsed());
            spent > RATE * 5.0
        })
        .await;
    };
    let spilling = async {
        modern_tool(&client, "odd", "spill", json!({"ms": 20_000, "words": WORDS})).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = watched => {}
        () = spilling => {}
    }
    host.stop().await;
}

/// Each row is a process, or one that is being started: what ends is not called starting.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_for_idleness_is_not_shown_as_one_that_starts() {
    let lingers = server("odd", "odd", &["--ignore-eof"]);
    let host = Host::open(vec![idle(lingers, IdleTtl::After(Duration::from_millis(300)))]).await;
    host.ready().await;
    modern_tool(&host.client(), "odd", "pid", json!({})).await;
    let mut words = BTreeSet::new();
    eventually("the end of the idle process", || {
        let rows = host.supervisor.instances(Some(&name("odd")));
        for row in &rows {
            assert!(row.pid.is_some(), "{row:?}");
            words.insert(row.health.to_string());
        }
        rows.is_empty()
    })
    .await;
    assert!(!words.contains("starting"), "{words:?}");
    host.stop().await;
}

async fn count(session: &Session<'_>) -> Value {
    tool(session, "counter", json!({})).await["result"]["structuredContent"].clone()
}

/// With an idle time of its own a server's process is stopped though sessions are open, and their next call works.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_wakes_its_process_with_level_and_subscriptions() {
    let mut setup = Setup::default();
    setup.supervisor.ask_waits = Duration::from_millis(100);
    let short = IdleTtl::After(Duration::from_millis(300));
    let host = Host::with(
        vec![
            idle(server("script", "scripted", &["--legacy"]), short),
            idle(in_mode(server("own", "everything", &["--legacy"]), Mode::PerSession), short),
        ],
        setup,
    )
    .await;
    host.ready().await;
    let client = host.client();
    let (first, second) =
        (client.legacy_session("script").await.unwrap(), client.legacy_session("script").await.unwrap());
    let agreed = first.call("resources/subscribe", json!({"uri": "test://a"})).await.unwrap();
    assert!(agreed["result"].is_object(), "{agreed}");
    let asleep = |server: &str| host.supervisor.instances(Some(&name(server))).is_empty();
    eventually("the process is stopped", || asleep("script")).await;
    assert_eq!(host.supervisor.sessions(Some(&name("script"))).len(), 2, "its sessions are not");

    // Another session wakes it, and the first one's wishes are made again all the same.
    let heard = async || {
        let params = json!({"name": "any", "script": {"report": true}});
        second.call("tools/call", params).await.unwrap()["result"]["heard"].as_array().unwrap().clone()
    };
    let mut methods = Vec::new();
    for _ in 0..100 {
        let messages = heard().await;
        methods = messages.iter().filter_map(|m| m["method"].as_str().map(str::to_owned)).collect();
        if methods.iter().any(|m| m == "resources/subscribe") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(methods[0], "initialize", "{methods:?}");
    assert_eq!(methods.iter().filter(|m| *m == "resources/subscribe").count(), 1, "{methods:?}");

    let own = client.legacy_session("own").await.unwrap();
    own.call("logging/setLevel", json!({"level": "debug"})).await.unwrap();
    let before = count(&own).await;
    eventually("its process is stopped", || asleep("own")).await;
    let after = count(&own).await;
    assert_ne!(before["pid"], after["pid"]);
    assert_eq!(
        (&before["count"], &after["count"]),
        (&json!(1), &json!(1)),
        "what it remembered is gone, as documented"
    );
    // It is silent until it is told a level: nobody but staithe has told this process.
    let params = json!({"name": "test_tool_with_logging", "arguments": {}});
    let answer = own.stream(&json!("log"), "tools/call", params).await.unwrap().whole().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer.body).matches("notifications/message").count(), 3);
    own.close().await.unwrap();
    host.stop().await;
}

/// What somebody needs is no idle process, and a session needs its own unless the operator said otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_needed_is_never_stopped_for_idleness() {
    let mut setup = Setup::default();
    setup.supervisor.idle_ttl = Duration::from_millis(200);
    let short = IdleTtl::After(Duration::from_millis(200));
    let host = Host::with(
        vec![
            in_mode(server("own", "everything", &["--legacy"]), Mode::PerSession),
            idle(server("never", "everything", &["--legacy"]), IdleTtl::Never),
            idle(server("read", "everything", &["--legacy"]), short),
            idle(server("called", "odd", &[]), short),
            idle(server("heard", "everything", &["--modern"]), short),
            idle(server("bait", "everything", &["--legacy"]), short),
        ],
        setup,
    )
    .await;
    host.ready().await;
    let client = host.client();
    let own = client.legacy_session("own").await.unwrap();
    modern_tool(&client, "never", "echo", json!({})).await;
    let read = client.legacy_session("read").await.unwrap();
    let stream = read.listen().await.unwrap();
    let wanted = json!({"notifications": {"toolsListChanged": true}});
    let mut heard = client.modern_stream("heard", "subscriptions/listen", wanted).await.unwrap();
    heard.next_message().await.unwrap().unwrap();
    let first = (count(&own).await, count(&read).await);
    let call = modern_tool(&client, "called", "sleep", json!({"ms": 1500}));
    let look = async {
        modern_tool(&client, "bait", "echo", json!({})).await;
        eventually("what nobody needs is stopped", || host.supervisor.instances(Some(&name("bait"))).is_empty()).await;
        tokio::time::sleep(Duration::from_millis(800)).await;
    };
    let (answer, ()) = tokio::join!(call, look);
    assert_eq!(text(&answer), "slept");
    for server in ["own", "never", "read", "heard"] {
        assert_eq!(host.supervisor.instances(Some(&name(server))).len(), 1, "{server}");
    }
    let second = (count(&own).await, count(&read).await);
    assert_eq!((&first.0["pid"], &first.1["pid"]), (&second.0["pid"], &second.1["pid"]));
    drop((stream, heard));
    host.stop().await;
}

/// How often a process of `odd` was replaced for `cause`.
fn restarts(host: &Host, cause: &str) -> u32 {
    let mut page = Page::default();
    host.supervisor.write_meters(&mut page);
    let sample = format!(r#"staithe_restarts_total{{server="odd",cause="{cause}"}} "#);
    page.finish().lines().find_map(|line| line.strip_prefix(&sample)).unwrap().parse().unwrap()
}

/// Calls a tool that takes more than its server may. Its caller, the log, the status and the metrics say why it ended; nothing
/// that it started lives on; the next call works. A neighbour keeps its process.
async fn ends_over(bounds: Bounds, greedy: &str, says: &str) {
    let odd = bounded(server("odd", "odd", &["--hungry"]), bounds);
    let host = Host::open(vec![odd, server("every", "everything", &["--legacy"])]).await;
    host.ready().await;
    let client = host.client();
    modern_tool(&client, "every", "echo", json!({})).await;
    let neighbour: i32 = host.supervisor.instances(Some(&name("every")))[0].pid.unwrap().try_into().unwrap();
    let old = text(&modern_tool(&client, "odd", "pid", json!({})).await).to_owned();

    let params = json!({"name": greedy, "arguments": {}});
    let call = client.modern_call("odd", "tools/call", params);
    let mut met = BTreeSet::new();
    let watch = async {
        eventually("the status says why", || {
            met.extend(host.processes().into_iter().filter(|pid| *pid != neighbour));
            let mut reasons = host.supervisor.instances(Some(&name("odd"))).into_iter().filter_map(|i| i.reason);
            reasons.any(|reason| reason.contains(says))
        })
        .await;
    };
    let ((_, answer), ()) = tokio::join!(async { call.await.unwrap() }, watch);
    assert_eq!(answer["error"]["data"]["reason"], "server_ended", "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains(says), "{answer}");

    let new = text(&modern_tool(&client, "odd", "pid", json!({})).await).to_owned();
    assert_ne!(old, new);
    assert!(met.contains(&old.parse().unwrap()), "{old} was not looked at: {met:?}");
    met.remove(&new.parse().unwrap());
    eventually("nothing of it lives on", || !met.iter().any(|pid| alive(*pid))).await;
    eventually("one process of each server lives", || host.processes().len() == 2).await;
    assert_eq!((restarts(&host, "limit"), restarts(&host, "exit")), (1, 0));
    let log = host.log_file("odd");
    assert!(log.lines().any(|line| line.contains("ended: ") && line.contains(says)), "{log}");
    assert!(alive(neighbour), "a neighbour was ended");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_hog_is_ended_with_the_reason() {
    let bounds = Bounds { memory: Some(64 << 20), ..Bounds::default() };
    ends_over(bounds, "hog", "of memory; the limit is 64 MiB").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_is_ended_with_the_reason() {
    let bounds = Bounds { processes: Some(24), ..Bounds::default() };
    ends_over(bounds, "bomb", "processes; the limit is 24").await;
}
