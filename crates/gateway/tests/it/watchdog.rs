//! The watchdog in front of real children: those that hang are replaced in time, and those that are only odd never.
//!
//! Times are scaled: a call has 4 s instead of 5 min, silence is worth a question after 0.5 to 1 s instead of 30 s.

use crate::deadlines::timed;
use crate::host::{Host, Setup, alive, modern_tool, name, reason, server, text, tool};
use model::ServerSpec;
use model::report::Health;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stdx::clock::monotonic;
use testkit::Session;
use testkit::wait::eventually;

/// What a call has.
const TIME: Duration = Duration::from_secs(4);
/// A verdict is due within twice the time of the call. The rest is the machine's.
const IN_TIME: Duration = Duration::from_secs(2 * 4 + 3);

fn watchful() -> Setup {
    let mut setup = Setup::default();
    setup.face.call_timeout = TIME;
    setup.supervisor.quiet = Duration::from_secs(1);
    setup.supervisor.probe_deadline = Duration::from_secs(1);
    setup
}

fn odd(args: &[&str]) -> ServerSpec {
    server("odd", "odd", args)
}

async fn pid(session: &Session<'_>) -> i32 {
    text(&tool(session, "pid", json!({})).await).parse().unwrap()
}

pub(crate) fn signal(pid: i32, signal: &str) {
    assert!(std::process::Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

/// What staithe said about the server.
fn said(host: &Host) -> Vec<String> {
    host.supervisor.log(&name("odd")).unwrap().tail(200).into_iter().map(|line| line.text).collect()
}

/// The process `before` hangs since `since`: it is replaced in time, and its session goes on.
async fn is_replaced(host: &Host, session: &Session<'_>, before: i32, since: Instant, causes: &[&str]) {
    eventually("it is replaced", || {
        let now = host.supervisor.instances(None);
        now.first().is_some_and(|i| i.pid.is_some_and(|pid| i32::try_from(pid) != Ok(before)))
    })
    .await;
    let took = since.elapsed();
    let said = said(host);
    assert!(took < IN_TIME, "{causes:?}: replaced after {took:?}: {said:#?}");
    assert!(!alive(before), "{causes:?}");
    let verdict = said.iter().find(|line| line.contains("wedged: ")).unwrap();
    assert!(causes.iter().any(|cause| verdict.contains(cause)), "{causes:?}: {verdict}");
    let after = pid(session).await;
    assert_ne!(before, after);
    assert_eq!((host.report().restarts, host.report().health), (1, Health::Ready), "{:?}", host.report());
}

/// A call hangs; others come all the time.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_replaced_within_twice_the_time_of_its_call() {
    let stopped = ["is stopped by a signal"];
    // On a busy machine a loop without end may get too little of the processor to be told from others.
    let hung = ["answers nothing", "computes without end"];
    for (flags, call, causes) in [
        (&["--ignore-term"][..], None, &stopped[..]),
        (&["--ignore-term", "--deadlock-after", "2"], Some("echo"), &hung[..1]),
        (&["--ignore-term", "--spin"], Some("spin"), &hung),
        (&["--ignore-ping", "--ignore-lists", "--stop-reading"], Some("stall"), &hung[..1]),
    ] {
        let host = Host::with(vec![odd(flags)], watchful()).await;
        let client = Arc::new(host.client());
        let session = client.legacy_session("odd").await.unwrap();
        let before = pid(&session).await;
        assert!(modern_tool(&client, "odd", "echo", json!({})).await["result"].is_object());
        if call.is_none() {
            signal(before, "-STOP");
        }
        let since = monotonic();
        // Whoever waits is told, and nobody waits for ever.
        let mut waiting = Vec::new();
        for n in 0..8_u64 {
            let client = client.clone();
            let call = if n == 0 { call.unwrap_or("echo") } else { "echo" };
            waiting.push(stdx::task::spawn("a call", async move {
                tokio::time::sleep(Duration::from_millis(600 * n)).await;
                let params = json!({"name": call, "arguments": {}});
                client.modern_call("odd", "tools/call", params).await.unwrap().1
            }));
        }
        is_replaced(&host, &session, before, since, causes).await;
        for (n, call) in waiting.into_iter().enumerate() {
            let answer = call.await.unwrap().unwrap();
            let told = answer["result"].is_object() || ["deadline", "server_ended"].contains(&reason(&answer));
            assert!(told && (n > 0 || reason(&answer) == "deadline"), "{flags:?}: call {n}: {answer}");
        }
        host.stop().await;
    }
}

/// The host's times are far too long for this; only the server's own count.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadlocked_server_is_replaced_within_twice_the_time_of_the_tool() {
    let spec = odd(&["--ignore-term", "--deadlock-after", "2"]);
    let spec = timed(spec, json!({"callTimeout": "2 min", "toolTimeouts": {"echo": "4 s"}, "probeDeadline": "1 s"}));
    let host = Host::open(vec![spec]).await;
    let client = Arc::new(host.client());
    let session = client.legacy_session("odd").await.unwrap();
    let before = pid(&session).await;
    assert!(modern_tool(&client, "odd", "echo", json!({})).await["result"].is_object());
    let since = monotonic();
    let hanging = stdx::task::spawn("a call", {
        let client = client.clone();
        async move { client.modern_call("odd", "tools/call", json!({"name": "echo", "arguments": {}})).await.unwrap().1 }
    });
    is_replaced(&host, &session, before, since, &["answers nothing"]).await;
    assert_eq!(reason(&hanging.await.unwrap().unwrap()), "deadline");
    host.stop().await;
}

/// It reads nothing while it works, four times as long as its call has, and answers to nothing else. Its progress is all
/// that speaks for it, and it is the operator who says that this counts.
#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_hears_that_progress_extends_a_call() {
    let args = ["--step-ms", "2000", "--ignore-ping", "--ignore-lists"];
    let times = json!({"callTimeout": "4 s", "progressExtends": true, "quiet": "500 ms", "probeDeadline": "500 ms"});
    let host = Host::open(vec![timed(odd(&args), times)]).await;
    let client = host.client();
    let session = client.legacy_session("odd").await.unwrap();
    let before = pid(&session).await;
    let params = json!({"name": "steps", "arguments": {}, "_meta": {"progressToken": "t"}});
    let answer = session.call("tools/call", params).await.unwrap();
    assert_eq!(text(&answer), "done");
    assert_eq!((pid(&session).await, host.report().restarts), (before, 0), "{:#?}", said(&host));
    host.stop().await;
}

/// Nobody has called: the instance is asked whether it lives.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_server_that_hangs_is_replaced_before_somebody_calls() {
    for flags in [&[][..], &["--ignore-ping"], &["--refuse-ping"], &["--ignore-ping", "--ignore-lists"]] {
        let host = Host::with(vec![odd(flags)], watchful()).await;
        let client = host.client();
        let session = client.legacy_session("odd").await.unwrap();
        let before = pid(&session).await;
        let since = monotonic();
        signal(before, "-STOP");
        is_replaced(&host, &session, before, since, &["is stopped by a signal"]).await;
        host.stop().await;
    }
}

/// One that answers is asked less and less often. That it was stopped since is seen all the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_server_that_was_often_asked_and_is_stopped_is_replaced_as_soon() {
    let host = Host::with(vec![odd(&[])], watchful()).await;
    let client = host.client();
    let session = client.legacy_session("odd").await.unwrap();
    let before = pid(&session).await;
    let quiet = watchful().supervisor.quiet;
    // Asked after 1, 2 and 4 of these; the next time would be after 8.
    tokio::time::sleep(quiet * 15 / 2).await;
    signal(before, "-STOP");
    let since = monotonic();
    is_replaced(&host, &session, before, since, &["is stopped by a signal"]).await;
    assert!(since.elapsed() < quiet * 6, "after {:?}: not before it was asked again", since.elapsed());
    host.stop().await;
}

/// Its input fills up: a call is late, and what it was sent is not even read.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_read_is_replaced() {
    let host = Host::with(vec![odd(&["--stop-reading"])], watchful()).await;
    let client = Arc::new(host.client());
    let session = client.legacy_session("odd").await.unwrap();
    let before = pid(&session).await;
    let since = monotonic();
    let large = "x".repeat(512 << 10);
    let mut waiting = Vec::new();
    for call in ["stall", "echo"] {
        let (client, large) = (client.clone(), large.clone());
        waiting.push(stdx::task::spawn("a call", async move {
            let params = json!({"name": call, "arguments": {"text": large}});
            client.modern_call("odd", "tools/call", params).await.unwrap().1
        }));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    is_replaced(&host, &session, before, since, &["does not read its input"]).await;
    for call in waiting {
        let answer = call.await.unwrap().unwrap();
        assert!(["deadline", "server_ended"].contains(&reason(&answer)), "{answer}");
    }
    host.stop().await;
}

/// Healthy, but odd: none is ever ended. 30 s of work are 3 s here, silence of 30 s is 0.5 s, and the whole is many times
/// as long as a verdict would take.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_only_odd_is_never_replaced() {
    let mut setup = watchful();
    setup.face.call_timeout = Duration::from_secs(8);
    setup.supervisor.quiet = Duration::from_millis(500);
    let servers = [
        ("plain", &["--unknown-fields"][..]),
        ("pingless", &["--ignore-ping"]),
        ("refusing", &["--refuse-ping"]),
        ("busy", &["--busy-ms", "3000"]),
        ("busy-pingless", &["--busy-ms", "3000", "--ignore-ping"]),
        ("calls-only", &["--ignore-ping", "--ignore-lists"]),
        ("slow-lister", &["--ignore-ping", "--slow-list-ms", "1500"]),
        ("noisy", &["--banner", "--ignore-ping", "--ignore-lists"]),
    ];
    let host = Host::with(servers.iter().map(|(name, args)| server(name, "odd", args)).collect(), setup).await;
    host.ready().await;
    let client = host.client();
    let mut sessions = Vec::new();
    for (server, _) in servers {
        let session = client.legacy_session(server).await.unwrap();
        let before = pid(&session).await;
        sessions.push((server, session, before));
    }
    let calls = sessions.iter().map(|(server, session, _)| async move {
        let call = if server.starts_with("busy") { "busy" } else { "echo" };
        for _ in 0..3 {
            let answer = tool(session, call, json!({})).await;
            assert!(answer["result"].is_object(), "{server}: {answer}");
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
    });
    let seen = std::sync::Mutex::new(BTreeSet::new());
    let look = async {
        loop {
            for i in host.supervisor.instances(None) {
                seen.lock().unwrap().insert((i.server.to_string(), i.health.to_string()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        _ = futures_all(calls) => {}
        () = look => {}
    }
    for (server, session, before) in &sessions {
        assert_eq!(*before, pid(session).await, "{server} was replaced");
    }
    for report in host.supervisor.servers() {
        assert_eq!((report.restarts, report.health.serves()), (0, true), "{report:?}");
    }
    let seen = seen.into_inner().unwrap();
    let was = |server: &str, word: &str| seen.contains(&(server.to_owned(), word.to_owned()));
    assert!(was("busy", "busy") && was("busy-pingless", "busy"), "{seen:?}");
    assert!(was("calls-only", "silent") && was("plain", "ready"), "{seen:?}");
    assert!(!seen.iter().any(|(_, word)| word == "wedged" || word == "restarting"), "{seen:?}");
    host.stop().await;
}

/// Polls all until all are done.
async fn futures_all(futures: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut left: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        left.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if left.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
