//! Times that a server and its tools have of their own: which one counts, and what progress changes about it.
//!
//! An error names the time that was up, so these tests need no narrow upper bounds.

use crate::host::{Host, Setup, reason, server, text};
use model::{ServerSpec, Watch};
use serde_json::{Value, json};
use std::time::Duration;
use stdx::clock::monotonic;
use testkit::{Client, Session};

/// A server with times of its own, as an operator writes them.
pub(crate) fn timed(mut spec: ServerSpec, watch: Value) -> ServerSpec {
    spec.watch = serde_json::from_value::<Watch>(watch).unwrap();
    spec
}

fn setup(call_timeout: Duration) -> Setup {
    let mut setup = Setup::default();
    setup.face.call_timeout = call_timeout;
    setup
}

/// `sleep`, which reports progress ten times if it was asked to.
fn sleep(ms: u64, progress: bool) -> Value {
    let mut params = json!({"name": "sleep", "arguments": {"ms": ms}});
    if progress {
        params["_meta"] = json!({"progressToken": "how far"});
    }
    params
}

/// The answer to a call, over a session or without one.
async fn call(client: &Client, session: Option<&Session<'_>>, server: &str, params: &Value) -> Value {
    match session {
        Some(session) => session.call("tools/call", params.clone()).await.unwrap(),
        None => client.modern_call(server, "tools/call", params.clone()).await.unwrap().1,
    }
}

/// The call ended because this time was up, and not before.
fn was_late(answer: &Value, time: &str, took: Duration) {
    assert_eq!(reason(answer), "deadline", "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains(&format!("did not answer within {time};")), "{time}: {message}");
    let time = time.parse::<model::Span>().unwrap().get();
    assert!(took + Duration::from_millis(10) >= time, "{message}: after {took:?}");
}

/// One call of `params` at the server, by a client of each era at the same time; `late` is the time that ends it.
async fn each_era(host: &Host, server: &str, params: &Value, late: Option<&str>) {
    let client = host.client();
    let session = client.legacy_session(server).await.unwrap();
    let one = |session| {
        let client = &client;
        async move {
            let asked = monotonic();
            let answer = call(client, session, server, params).await;
            match late {
                Some(time) => was_late(&answer, time, asked.elapsed()),
                None => assert!(text(&answer).starts_with("slept"), "{server}: {answer}"),
            }
        }
    };
    tokio::join!(one(Some(&session)), one(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tools_time_beats_its_servers_and_that_beats_the_hosts() {
    let every = |name: &str| server(name, "everything", &["--legacy"]);
    let servers = vec![
        every("host"),
        timed(every("short"), json!({"callTimeout": "300 ms"})),
        timed(every("long"), json!({"callTimeout": "1 min"})),
        timed(every("tool-short"), json!({"callTimeout": "1 min", "toolTimeouts": {"sleep": "400 ms"}})),
        timed(every("tool-long"), json!({"callTimeout": "300 ms", "toolTimeouts": {"sleep": "1 min"}})),
        timed(every("other"), json!({"toolTimeouts": {"other": "300 ms", "Sleep": "1 min"}})),
    ];
    let host = Host::with(servers, setup(Duration::from_secs(1))).await;
    let (endless, short) = (sleep(50_000, false), sleep(2000, false));
    each_era(&host, "host", &endless, Some("1 s")).await;
    each_era(&host, "short", &endless, Some("300 ms")).await;
    each_era(&host, "tool-short", &endless, Some("400 ms")).await;
    each_era(&host, "other", &endless, Some("1 s")).await;
    tokio::join!(each_era(&host, "long", &short, None), each_era(&host, "tool-long", &short, None));
    host.stop().await;
}

/// Ten times 500 ms of work; the call has 2 s.
#[tokio::test(flavor = "multi_thread")]
async fn progress_extends_a_call_where_it_may_and_no_further_than_it_may() {
    let two = "2 s";
    for flag in ["--legacy", "--modern"] {
        let every = |name: &str, watch: Value| timed(server(name, "everything", &[flag]), watch);
        let servers = vec![
            every("fixed", json!({"callTimeout": two})),
            every("extended", json!({"callTimeout": two, "progressExtends": true})),
            every("tool", json!({"callTimeout": "300 ms", "toolTimeouts": {"sleep": two}, "progressExtends": true})),
            every("capped", json!({"callTimeout": two, "progressExtends": true, "callTimeoutMax": "3 s"})),
        ];
        let host = Host::open(servers).await;
        let (told, untold) = (sleep(5000, true), sleep(5000, false));
        tokio::join!(
            each_era(&host, "fixed", &told, Some(two)),
            each_era(&host, "extended", &told, None),
            each_era(&host, "tool", &told, None),
            each_era(&host, "capped", &told, Some("3 s")),
        );
        // Who did not ask for progress hears none, and nothing is extended.
        each_era(&host, "extended", &untold, Some(two)).await;
        host.stop().await;
    }
}

/// The host's own most, where the server's is not given.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_reports_progress_without_end_meets_the_hosts_most() {
    let mut setup = setup(Duration::from_secs(1));
    setup.face.call_timeout_max = Duration::from_secs(2);
    let flood = server("odd", "odd", &["--flood-progress", "100000000"]);
    let host = Host::with(vec![timed(flood, json!({"progressExtends": true}))], setup).await;
    let client = host.client();
    let params = json!({"name": "flood", "arguments": {}, "_meta": {"progressToken": "t"}});
    let asked = monotonic();
    let mut stream = client.modern_stream("odd", "tools/call", params).await.unwrap();
    let answer = loop {
        assert!(asked.elapsed() < Duration::from_secs(20), "the deadline never came");
        let message = stream.next_message().await.unwrap().unwrap();
        if message.get("id").is_some() {
            break message;
        }
    };
    was_late(&answer, "2 s", asked.elapsed());
    host.stop().await;
}
