//! Servers that misbehave as servers have been seen to: none of it may reach the callers, or last.

use crate::host::{Host, Setup, alive, forget_peak, in_mode, memory, modern_tool, name, reason, server, text, tool};
use model::report::{Health, LogSource};
use model::{EraPin, Mode, ServerSpec, Verdict};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use stdx::clock::monotonic;
use testkit::Session;
use testkit::wait::eventually;

fn odd(args: &[&str]) -> ServerSpec {
    server("odd", "odd", args)
}

/// The same without probes, for servers whose every start leaves traces.
fn pinned(args: &[&str]) -> ServerSpec {
    ServerSpec { era: EraPin::Legacy, ..odd(args) }
}

async fn pid(session: &Session<'_>) -> i32 {
    text(&tool(session, "pid", json!({})).await).parse().unwrap()
}

async fn open_calls(host: &Host) -> Value {
    let client = host.client();
    let session = client.legacy_session("odd").await.unwrap();
    tool(&session, "echo", json!({"a": 1})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn initialize_reaches_a_shared_server_once() {
    let host = Host::open(vec![in_mode(odd(&["--reject-second-initialize"]), Mode::Shared)]).await;
    let (ann, bob) = (host.client(), host.client());
    let (first, second) = (ann.legacy_session("odd").await.unwrap(), bob.legacy_session("odd").await.unwrap());
    let served_by = pid(&first).await;
    assert_eq!(served_by, pid(&second).await);
    let again = r#"{"jsonrpc":"2.0","id":2,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;
    let refused = first.post(again).await.unwrap();
    assert_eq!((refused.status, &refused.json().unwrap()["error"]["code"]), (400, &json!(-32600)));
    assert_eq!(served_by, pid(&first).await, "the session goes on, in the same process");
    assert_eq!(host.report().restarts, 0);
    host.stop().await;
}

/// Shows E98, E229.
#[tokio::test(flavor = "multi_thread")]
async fn the_probe_never_meets_the_serving_process() {
    let host = Host::open(vec![odd(&["--exit-on-discover"])]).await;
    assert_eq!(text(&open_calls(&host).await), r#"{"a":1}"#);
    let report = host.report();
    assert_eq!((report.verdict, report.restarts), (Some(Verdict::Legacy), 0));
    let serving = host.supervisor.instances(None)[0].id;
    let log = host.supervisor.log(&name("odd")).unwrap().tail(100);
    let killed: Vec<u64> = log
        .iter()
        .filter(|l| l.text.contains("expected initialize, got server/discover"))
        .map(|l| l.instance)
        .collect();
    assert!(!killed.is_empty() && !killed.contains(&serving), "{log:?}");
    host.stop().await;
}

/// Shows E206.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_ping_is_left_alone() {
    let host = Host::open(vec![odd(&["--ignore-ping"])]).await;
    let client = host.client();
    let session = client.legacy_session("odd").await.unwrap();
    let before = pid(&session).await;
    let asked = monotonic();
    assert_eq!(session.call("ping", json!({})).await.unwrap()["result"], json!({}));
    assert!(asked.elapsed() < Duration::from_millis(500), "staithe answers for itself");
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!((before, 0, Health::Ready), (pid(&session).await, host.report().restarts, host.report().health));
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_single_threaded_server_makes_its_callers_wait_and_nobody_else() {
    let host = Host::open(vec![in_mode(odd(&["--busy-ms", "1200"]), Mode::Shared), server("other", "odd", &[])]).await;
    host.ready().await;
    let client = Arc::new(host.client());
    let before = text(&modern_tool(&client, "odd", "pid", json!({})).await).to_owned();
    modern_tool(&client, "other", "pid", json!({})).await;
    let busy_client = client.clone();
    let asked = monotonic();
    let busy = stdx::task::spawn("busy", async move { modern_tool(&busy_client, "odd", "busy", json!({})).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let elsewhere = monotonic();
    modern_tool(&client, "other", "pid", json!({})).await;
    assert!(
        elsewhere.elapsed() < Duration::from_millis(300),
        "another server's caller waited {:?}",
        elsewhere.elapsed()
    );
    let waited = modern_tool(&client, "odd", "pid", json!({})).await;
    assert!(asked.elapsed() >= Duration::from_millis(1100), "it cannot have answered while it was busy");
    assert_eq!((text(&waited), text(&busy.await.unwrap().unwrap())), (before.as_str(), "done"));
    assert!(host.supervisor.servers().iter().all(|s| s.restarts == 0));
    host.stop().await;
}

/// Shows E222.
#[tokio::test(flavor = "multi_thread")]
async fn a_banner_on_stdout_is_counted_and_shown() {
    let host = Host::open(vec![odd(&["--banner"])]).await;
    assert_eq!(text(&open_calls(&host).await), r#"{"a":1}"#);
    modern_tool(&host.client(), "odd", "pid", json!({})).await;
    let log = host.supervisor.log(&name("odd")).unwrap().tail(1000);
    for line in ["Odd server 1.0 is starting...", "DEBUG: a message was written"] {
        assert!(log.iter().any(|l| l.source == LogSource::Junk && l.text == line), "{line} is not in {log:?}");
    }
    assert!(host.report().junk_lines >= 4, "{}", host.report().junk_lines);
    assert_eq!(host.report().restarts, 0);
    host.stop().await;
}

/// Shows E16.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_50_mb_is_cut_off_in_bounded_memory() {
    let host =
        Host::open(vec![odd(&["--long-line", "50000000"]), server("large", "odd", &["--long-line", "10000000"])]).await;
    let client = host.client();
    let session = client.legacy_session("odd").await.unwrap();
    let before = pid(&session).await;
    forget_peak();
    let (resident, _) = memory();
    let answer = tool(&session, "long", json!({})).await;
    let (_, peak) = memory();
    assert!(peak - resident < 40 << 20, "it took {} KiB", (peak - resident) >> 10);
    assert_eq!(reason(&answer), "server_ended", "{answer}");
    let status = answer["error"]["data"]["status"].as_str().unwrap();
    assert!(status.contains("a line of more than 16777216 bytes"), "{status}");
    let after = pid(&session).await;
    assert_ne!(before, after, "a new process serves the same session");
    assert_eq!(host.supervisor.servers().iter().find(|s| s.name == name("odd")).unwrap().restarts, 1);

    let large = client.legacy_session("large").await.unwrap();
    let answer = tool(&large, "long", json!({})).await;
    assert!(text(&answer).len() > 9_900_000, "what is within the limit arrives");
    host.stop().await;
}

/// Shows E227.
#[tokio::test(flavor = "multi_thread")]
async fn an_array_of_answers_is_taken_apart() {
    let host = Host::open(vec![odd(&["--batch"])]).await;
    assert_eq!(text(&open_calls(&host).await), r#"{"a":1}"#);
    assert_eq!(text(&modern_tool(&host.client(), "odd", "echo", json!({"b": 2})).await), r#"{"b":2}"#);
    host.stop().await;
}

/// Shows E7.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_both_result_and_error_is_told_at_once() {
    let host = Host::open(vec![odd(&["--both"])]).await;
    let client = host.client();
    let session = client.legacy_session("odd").await.unwrap();
    let before = pid(&session).await;
    let asked = monotonic();
    let answer = tool(&session, "both", json!({})).await;
    assert_eq!(reason(&answer), "invalid_answer", "{answer}");
    assert!(asked.elapsed() < Duration::from_millis(250), "{:?}", asked.elapsed());
    assert_eq!((before, 0), (pid(&session).await, host.report().restarts));
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_closes_its_stdout_is_replaced() {
    let host = Host::open(vec![odd(&["--close-stdout"])]).await;
    let client = host.client();
    let session = client.legacy_session("odd").await.unwrap();
    let before = pid(&session).await;
    let asked = monotonic();
    let answer = tool(&session, "mute", json!({})).await;
    assert_eq!((reason(&answer), &answer["error"]["data"]["status"]), ("server_ended", &json!("it closed its stdout")));
    assert!(asked.elapsed() < Duration::from_millis(250), "{:?}", asked.elapsed());
    assert_ne!(before, pid(&session).await);
    assert!(!alive(before), "the mute process was ended");
    host.stop().await;
}

/// A process that lives on but reads no more can take no call: it must not stand in the way for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_closes_its_stdin_is_replaced() {
    let script = r#"read -r line; id="${line#*\"id\":}"; id="${id%%[,\}]*}"
        echo "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":{\"protocolVersion\":\"2025-11-25\",\"capabilities\":{\"tools\":{}},\"serverInfo\":{\"name\":\"deaf\",\"version\":\"1\"}}}"
        read -r line; exec <&-; while :; do sleep 1; done"#;
    let mut spec = ServerSpec::new(name("deaf"), "bash", vec!["-c".to_owned(), script.to_owned()]);
    spec.era = EraPin::Legacy;
    let host = Host::open(vec![spec]).await;
    let client = host.client();
    let session = client.legacy_session("deaf").await.unwrap();
    let before = host.supervisor.instances(None)[0].pid;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let asked = monotonic();
    let answer = session.call("tools/list", json!({})).await.unwrap();
    assert!(["server_ended", "server_failing"].contains(&reason(&answer)), "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("it closed its stdin"), "{answer}");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    eventually("another process serves", || {
        let now = host.supervisor.instances(None);
        now.first().is_some_and(|i| i.pid.is_some() && i.pid != before)
    })
    .await;
    host.stop().await;
}

/// It gets through its handshake and is gone: the race between the last answer and the end of the pipe.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_exits_right_after_its_handshake_is_reported_not_lost() {
    let script = r#"read -r line; id="${line#*\"id\":}"; id="${id%%[,\}]*}"
        echo "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":{\"protocolVersion\":\"2025-11-25\",\"capabilities\":{},\"serverInfo\":{\"name\":\"brief\",\"version\":\"1\"}}}"
        exec >&-; [ "$1" = slow ] && sleep 0.02; exit 4"#;
    for pace in ["fast", "slow"] {
        let args = ["-c", script, "sh", pace].iter().map(|a| (*a).to_owned()).collect();
        let mut spec = ServerSpec::new(name("brief"), "bash", args);
        spec.era = EraPin::Legacy;
        let host = Host::open(vec![spec]).await;
        let client = host.client();
        for _ in 0..4 {
            let called = client.modern_call("brief", "tools/call", json!({"name":"x","arguments":{}}));
            let (_, answer) = tokio::time::timeout(Duration::from_secs(8), called).await.unwrap().unwrap();
            assert_eq!(answer["error"]["data"]["source"], "staithe", "{pace}: {answer}");
        }
        eventually("the crash loop is named", || host.report().health.is_broken()).await;
        assert!(host.report().reason.unwrap().contains("exit status 4"), "{:?}", host.report());
        host.stop().await;
    }
}

/// Shows E223.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_on_stderr_costs_neither_memory_nor_calls() {
    let host = Host::open(vec![odd(&["--flood-stderr", "100000"])]).await;
    host.ready().await;
    let (before, _) = memory();
    assert_eq!(text(&open_calls(&host).await), r#"{"a":1}"#);
    let log = host.supervisor.log(&name("odd")).unwrap().tail(5000);
    assert!(log.len() <= 1000);
    host.enable("odd", false).await;
    let told =
        || host.supervisor.log(&name("odd")).unwrap().tail(1000).iter().any(|l| l.text.contains("lines were left out"));
    eventually("the log says that it is not whole", told).await;
    let (after, _) = memory();
    assert!(after.saturating_sub(before) < 8 << 20, "{} KiB more", (after - before) >> 10);
    host.stop().await;
}

/// Shows E228.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_reading_fails_its_callers_fast_in_bounded_memory() {
    let mut setup = Setup::default();
    setup.face.stream_after = Duration::from_millis(30);
    let host = Host::with(vec![odd(&["--stop-reading"])], setup).await;
    let client = host.client();
    let session = client.legacy_session("odd").await.unwrap();
    let mut streams = vec![session.stream(&json!("stall"), "tools/call", json!({"name":"stall"})).await.unwrap()];
    let (before, _) = memory();
    let large = "x".repeat(1 << 20);
    let refused = loop {
        assert!(streams.len() < 20, "20 MB were taken for a server that does not read");
        let asked = monotonic();
        let mut stream = session
            .stream(&json!(streams.len()), "tools/call", json!({"name":"echo","arguments":{"x":large}}))
            .await
            .unwrap();
        if !stream.is_event_stream() {
            assert!(asked.elapsed() < Duration::from_millis(250), "{:?}", asked.elapsed());
            break stream.whole().await.unwrap().json().unwrap();
        }
        // A stream that is refused late ends at once; one that waits says nothing but comments.
        if let Ok(first) = tokio::time::timeout(Duration::from_millis(20), stream.next_message()).await {
            break first.unwrap().unwrap();
        }
        streams.push(stream);
    };
    assert_eq!(reason(&refused), "server_not_reading", "{refused}");
    assert!(refused["error"]["message"].as_str().unwrap().contains("does not read its input"), "{refused}");
    let (after, _) = memory();
    assert!(after - before < 48 << 20, "{} KiB for a queue of 8 MiB", (after - before) >> 10);
    let stopping = monotonic();
    drop(streams);
    host.stop().await;
    assert!(stopping.elapsed() < Duration::from_secs(3), "{:?}", stopping.elapsed());
}

fn pid_in(file: &Path) -> Option<i32> {
    std::fs::read_to_string(file).ok()?.parse().ok()
}

/// A grandchild in a session of its own that ignores SIGTERM, with or without our pipes in its hands.
/// Shows E224.
#[tokio::test(flavor = "multi_thread")]
async fn a_grandchild_that_double_forks_dies_with_its_server() {
    for hold in [&[][..], &["--hold-pipes"]] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let args = [&["--double-fork", "--exit-on-call", "3", "--pid-file", file.to_str().unwrap()], hold].concat();
        let host = Host::open(vec![pinned(&args)]).await;
        host.ready().await;
        let client = host.client();
        let session = client.legacy_session("odd").await.unwrap();
        let serving = pid(&session).await;
        let mut grandchildren = Vec::new();
        let grown = async |known: &[i32]| {
            let fresh = || pid_in(&file).filter(|pid| !known.contains(pid) && alive(*pid));
            eventually("a grandchild lives", || fresh().is_some()).await;
            fresh().unwrap()
        };
        grandchildren.push(grown(&grandchildren).await);

        host.supervisor.restart(&name("odd")).await.unwrap();
        assert_ne!(serving, pid(&session).await);
        assert!(!alive(grandchildren[0]), "it outlived a restart");
        grandchildren.push(grown(&grandchildren).await);

        let answer = tool(&session, "die", json!({})).await;
        assert_eq!(answer["error"]["data"]["status"], "exit status 3", "{answer}");
        pid(&session).await;
        assert!(!alive(grandchildren[1]), "it outlived its server's own death");
        grandchildren.push(grown(&grandchildren).await);

        host.stop().await;
        assert!(!alive(grandchildren[2]), "it outlived the host");
    }
}

/// Shows E224.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_eof_and_sigterm_is_gone_within_its_grace() {
    let host = Host::open(vec![odd(&["--ignore-eof", "--ignore-term"])]).await;
    host.ready().await;
    let client = host.client();
    let session = client.legacy_session("odd").await.unwrap();
    let serving = pid(&session).await;
    let stopping = monotonic();
    host.enable("odd", false).await;
    eventually("it is gone", || !alive(serving)).await;
    assert!(
        stopping.elapsed() < Duration::from_millis(2000),
        "two times 300 ms of grace became {:?}",
        stopping.elapsed()
    );
    host.stop().await;
}

/// An operator's stop must not drown in earlier orders.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_after_many_restarts_is_obeyed() {
    let host = Host::open(vec![odd(&["--ignore-eof", "--ignore-term"])]).await;
    open_calls(&host).await;
    for _ in 0..12 {
        host.supervisor.restart(&name("odd")).await.unwrap();
    }
    let stopping = monotonic();
    tokio::time::timeout(Duration::from_secs(10), host.stop()).await.expect("the host never stopped");
    assert!(stopping.elapsed() < Duration::from_secs(5), "{:?}", stopping.elapsed());
}

/// The caller's connection is kept awake while a slow server starts, in both eras.
/// Shows E30.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_start_is_waited_for_on_a_stream_that_lives() {
    let mut setup = Setup::default();
    setup.face.stream_after = Duration::from_millis(100);
    setup.face.keep_alive = Duration::from_millis(100);
    let host = Host::with(vec![odd(&["--silent-start-ms", "800"])], setup).await;
    let client = host.client();
    let asked = monotonic();
    let call = json!({"name":"echo","arguments":{"a":1}});
    let mut stream = client.modern_stream("odd", "tools/call", call).await.unwrap();
    assert!(asked.elapsed() < Duration::from_millis(600), "the stream opened after {:?}", asked.elapsed());
    let answer = stream.next_message().await.unwrap().unwrap();
    assert!(asked.elapsed() > Duration::from_millis(700), "it cannot have answered before it started");
    assert_eq!(text(&answer), r#"{"a":1}"#);
    assert!(stream.comments() >= 3, "{}", stream.comments());
    assert_eq!(text(&open_calls(&host).await), r#"{"a":1}"#);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_stops_while_it_probes_leaves_nothing() {
    for after_ms in [0, 20, 60, 150, 400] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let args = ["--silent-start-ms", "300", "--double-fork", "--pid-file", file.to_str().unwrap()];
        let host = Host::open(vec![odd(&args)]).await;
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        host.stop().await;
        assert!(pid_in(&file).is_none_or(|pid| !alive(pid)), "after {after_ms} ms");
    }
}

/// The probe that a caller began goes on without him, and ends in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_during_the_probe_leaves_no_process_behind() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let (program, file) = (dir.path().join("late"), dir.path().join("pid"));
    let args = ["--silent-start-ms", "300", "--double-fork", "--pid-file", file.to_str().unwrap()];
    let mut spec = odd(&args);
    spec.program_mut().unwrap().command = program.to_str().unwrap().to_owned();
    let host = Host::open(vec![spec]).await;
    eventually("the absence is noticed", || host.report().health == Health::Failing).await;
    symlink(testkit::bin("odd"), &program).unwrap();
    let client = host.client();
    let call = client.modern_call("odd", "tools/call", json!({"name":"pid","arguments":{}}));
    assert!(tokio::time::timeout(Duration::from_millis(100), call).await.is_err(), "it answered before it had started");
    eventually("the program is found", || host.report().health == Health::Ready).await;
    eventually("no probe is left", || host.processes().is_empty()).await;
    host.stop().await;
}

/// Shows E12.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_members_and_numbers_of_a_server_arrive_to_the_byte() {
    const UNKNOWN: &str =
        r#""x_unknown":{"deep":[1,{"none":null}]},"x_big":1234567890123456789012345,"x_decimal":1.10"#;
    let host = Host::open(vec![odd(&["--unknown-fields"])]).await;
    let client = host.client();
    let session = client.legacy_session("odd").await.unwrap();
    for (method, params) in [("tools/list", "{}"), ("tools/call", r#"{"name":"pid"}"#)] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        let answered = session.post(body).await.unwrap();
        assert!(String::from_utf8_lossy(&answered.body).contains(UNKNOWN), "{:?}", answered.body);
        let (headers, body) = client.modern_request(method, serde_json::from_str(params).unwrap(), &[]);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let answered = client.post("/mcp/odd", &headers, body).await.unwrap();
        assert!(String::from_utf8_lossy(&answered.body).contains(UNKNOWN), "{:?}", answered.body);
    }
    host.stop().await;
}

/// It answers and exits at once, again and again. Each answer arrives; a call that meets the dead process is given to the
/// next, and one that was written to the dying process, and may have been read, is told at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_exits_between_two_calls_loses_none() {
    let host = Host::open(vec![odd(&["--die-after", "1"])]).await;
    let client = host.client();
    let session = client.legacy_session("odd").await.unwrap();
    // Five quick deaths would be a crash loop, of which callers are told instead.
    for wait_for_death in [true, false] {
        let answered_by = pid(&session).await;
        while wait_for_death && alive(answered_by) {
            std::thread::yield_now();
        }
        let asked = monotonic();
        let next = tool(&session, "pid", json!({})).await;
        match next.get("error") {
            None => assert_ne!(text(&next), answered_by.to_string()),
            Some(_) => {
                assert!(!wait_for_death, "it was written to nobody, so it can be tried again: {next}");
                assert_eq!(reason(&next), "server_ended", "{next}");
                assert!(asked.elapsed() < Duration::from_millis(250), "told after {:?}", asked.elapsed());
            }
        }
        let dying: Option<i32> = next.get("result").map(|_| text(&next).parse().unwrap());
        while dying.is_some_and(alive) {
            std::thread::yield_now();
        }
    }
    host.stop().await;
}
