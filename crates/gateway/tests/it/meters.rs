//! What is counted, and what a client that asks is told of its call's time: each outcome moves its own counter, the page is
//! well formed, and no label says who called.

use crate::host::{Host, Setup, modern_tool, server};
use serde_json::{Value, json};
use staithe_gateway::Auth;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use stdx::meter::Page;
use testkit::Client;
use testkit::wait::eventually;
use tokio::sync::mpsc;

const TOKEN_HOLDER: &str = "mallory-principal";

/// The page of this host, read strictly: sample with its labels → value.
fn page(host: &Host) -> BTreeMap<String, f64> {
    let mut page = Page::default();
    host.meters.write(&mut page);
    host.supervisor.write_meters(&mut page);
    read(&page.finish())
}

/// A strict reader of the text format: each family once, with help and type before its samples, each sample once and of
/// the family that was announced, counters ending in `_total`, buckets rising up to their count.
fn read(text: &str) -> BTreeMap<String, f64> {
    let (mut samples, mut seen, mut kind) = (BTreeMap::new(), BTreeSet::new(), (String::new(), String::new()));
    let (mut helped, mut bucket) = (String::new(), (String::new(), 0.0));
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            helped = rest.split(' ').next().unwrap().to_owned();
            assert!(seen.insert(helped.clone()) && rest.len() > helped.len() + 5, "{line}");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, word) = rest.split_once(' ').unwrap();
            assert!(name == helped && name.starts_with("staithe_"), "{line}");
            assert_eq!(name.ends_with("_total"), word == "counter", "{line}");
            assert!(word != "histogram" || name.ends_with("_seconds"), "{line}");
            kind = (name.to_owned(), word.to_owned());
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap();
        let (name, labels) =
            sample.split_once('{').map_or((sample, ""), |(n, rest)| (n, rest.strip_suffix('}').unwrap()));
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
        assert!(name.starts_with(&kind.0), "{line} stands under {}", kind.0);
        let suffix = &name[kind.0.len()..];
        assert_eq!(matches!(suffix, "_bucket" | "_sum" | "_count"), kind.1 == "histogram", "{line}");
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (key, value) = label.split_once('=').unwrap();
            assert!(["server", "outcome", "stage", "cause", "state", "status", "tool", "le"].contains(&key), "{line}");
            assert!(value.len() >= 2 && value.starts_with('"') && value.ends_with('"'), "{line}");
        }
        if suffix == "_bucket" {
            let group = labels.rsplit_once("le=").unwrap().0.to_owned();
            assert!(bucket.0 != group || bucket.1 <= value, "{line} falls");
            bucket = (group, value);
        }
        if suffix == "_count" {
            assert!((bucket.1 - value).abs() < 0.5, "{line} is not the last bucket");
        }
        assert!(value >= 0.0 && samples.insert(sample.to_owned(), value).is_none(), "{line}");
    }
    samples
}

fn calls(host: &Host, outcome: &str) -> f64 {
    page(host)[&format!(r#"staithe_calls_total{{server="odd",outcome="{outcome}"}}"#)]
}

async fn moved(host: &Host, outcome: &str, to: f64) {
    eventually(outcome, || (calls(host, outcome) - to).abs() < 0.5).await;
}

async fn odd(client: &Client, tool: &str, arguments: Value) -> Value {
    client.modern_call("odd", "tools/call", json!({"name": tool, "arguments": arguments})).await.unwrap().1
}

#[tokio::test(flavor = "multi_thread")]
async fn each_outcome_has_its_counter() {
    let mut setup = Setup { auth: Auth::Required, per_tool: true, ..Setup::default() };
    setup.face.call_timeout = Duration::from_millis(1500);
    setup.face.calls_per_principal = 2;
    let host = Host::with(vec![server("odd", "odd", &["--exit-on-call", "3", "--stop-reading"])], setup).await;
    let client = host.client_of(TOKEN_HOLDER).await;
    modern_tool(&client, "odd", "echo", json!({"secret-argument": 1})).await;
    moved(&host, "ok", 1.0).await;
    odd(&client, "no-such-tool", json!({})).await;
    moved(&host, "caller_error", 1.0).await;
    odd(&client, "die", json!({})).await;
    moved(&host, "server_error", 1.0).await;
    odd(&client, "sleep", json!({"ms": 20_000})).await;
    moved(&host, "deadline", 1.0).await;
    let leaving = odd(&client, "sleep", json!({"ms": 20_001}));
    assert!(tokio::time::timeout(Duration::from_millis(300), leaving).await.is_err());
    moved(&host, "cancelled", 1.0).await;

    let stranger = host.client();
    assert_eq!(stranger.post("/mcp/odd", &[], "{}").await.unwrap().status, 401);
    assert_eq!(client.post("/mcp/nobody", &[], "{}").await.unwrap().status, 404);
    let now = page(&host);
    assert!(
        now[r#"staithe_refused_total{status="401"}"#] >= 1.0 && now[r#"staithe_refused_total{status="404"}"#] >= 1.0
    );
    assert!(now[r#"staithe_tool_calls_total{server="odd",tool="echo",outcome="ok"}"#] >= 1.0);
    assert!(now[r#"staithe_restarts_total{server="odd",cause="exit"}"#] >= 1.0);
    assert!(now["staithe_epoch"] >= 1.0 && now[r#"staithe_server_ready{server="odd"}"#] >= 0.0);
    let ok = now[r#"staithe_calls_total{server="odd",outcome="ok"}"#];
    for stage in ["admission", "policy", "queue", "server", "delivery"] {
        let count = now[&format!(r#"staithe_call_stage_seconds_count{{server="odd",stage="{stage}"}}"#)];
        assert!(count >= ok, "{stage}: {count}");
    }
    for told in now.keys() {
        assert!(!told.contains(TOKEN_HOLDER) && !told.contains("secret") && !told.contains("no-such"), "{told}");
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_is_on_the_page_while_it_is_open() {
    let host = Host::open(vec![server("odd", "odd", &[])]).await;
    let client = std::sync::Arc::new(host.client());
    let session = client.legacy_session("odd").await.unwrap();
    let stream = session.listen().await.unwrap();
    let other = client.clone();
    let call = stdx::task::spawn("a call in flight", async move { odd(&other, "sleep", json!({"ms": 1500})).await });
    let both = |host: &Host| {
        let now = page(host);
        let state = r#"staithe_processes{server="odd",state="busy"}"#;
        let of = r#"{server="odd"}"#;
        [
            now[&format!("staithe_calls_in_flight{of}")],
            now["staithe_calls_permitted"],
            now["staithe_streams"],
            now[&format!("staithe_sessions{of}")],
            now[state].min(1.0),
            now["staithe_connections"].min(2.0),
        ]
    };
    eventually("all of it is counted", || {
        both(&host).iter().zip([1.0, 1.0, 1.0, 1.0, 1.0, 2.0]).all(|(a, b)| (a - b).abs() < 0.5)
    })
    .await;
    call.await.unwrap().unwrap();
    drop(stream);
    eventually("nothing is left", || both(&host)[..3].iter().all(|open| *open < 0.5)).await;
    host.stop().await;
}

/// `name;dur=ms` pairs.
fn durations(header: &str) -> Vec<(String, f64)> {
    let pair = |part: &str| {
        let (name, ms) = part.split_once(";dur=").unwrap();
        (name.to_owned(), ms.parse().unwrap())
    };
    header.split(", ").map(pair).collect()
}

fn check(header: &str, at_least_in_server: f64) {
    let all = durations(header);
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["admission", "policy", "queue", "server", "delivery", "total"]);
    let (total, sum) = (all[5].1, all[..5].iter().map(|(_, ms)| ms).sum::<f64>());
    assert!((total - sum).abs() < 0.01, "{header}: the stages are {sum} in all");
    assert!(all[3].1 >= at_least_in_server && total < 60_000.0, "{header}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_is_told_where_the_time_went() {
    let mut setup = Setup::default();
    setup.face.stream_after = Duration::from_millis(50);
    let host = Host::with(vec![server("odd", "odd", &[])], setup).await;
    let client = host.client();
    let asks = [("x-staithe-timing", "1")];
    for (header, told) in [(&asks[..], true), (&[][..], false), (&[("x-staithe-timing", "0")][..], false)] {
        let params = json!({"name": "echo", "arguments": {}});
        let (headers, body) = client.modern_request("tools/call", params, header);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let mut json_only: Vec<(&str, &str)> = headers.into_iter().filter(|(name, _)| *name != "accept").collect();
        json_only.push(("accept", "application/json"));
        let answer = client.post("/mcp/odd", &json_only, body).await.unwrap();
        assert_eq!(answer.header("server-timing").is_some(), told, "{header:?}");
        if let Some(header) = answer.header("server-timing") {
            check(header, 0.0);
        }
    }
    // A stream that is open has no room for a header: the words stand before its last event.
    let (headers, body) = client.modern_request("tools/call", json!({"name":"sleep","arguments":{"ms":300}}), &asks);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let answer = client.post("/mcp/odd", &headers, body).await.unwrap();
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(text.contains(": server-timing "), "no comment in {text}");
    let at = text.find(": server-timing ").unwrap();
    check(text[at..].lines().next().unwrap().strip_prefix(": server-timing ").unwrap(), 299.0);
    assert!(text[at..].contains("slept"), "it stands before the answer");
    host.stop().await;
}

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Shows E14.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_recorded_in_its_clients_trace_and_the_server_gets_the_context_as_it_came() {
    let (spans, mut recorded) = mpsc::channel(16);
    let host =
        Host::with(vec![server("script", "scripted", &[])], Setup { spans: Some(spans), ..Setup::default() }).await;
    let client = host.client_of(TOKEN_HOLDER).await;
    let header = PARENT.replace("4bf92f", "aaaaaa");
    let call = |meta: Value| {
        let params = json!({"name": "x", "arguments": {"secret": 1}, "script": {"report": true}, "_meta": meta});
        (params, [("traceparent", header.clone())])
    };
    let odd_state = "vendor=1, other=2";
    for (meta, trace) in [
        (json!({"traceparent": PARENT, "tracestate": odd_state, "baggage": "k=v"}), Some(0x4b)),
        (json!({}), Some(0xaa)),
        // What cannot be read is as if it were not there.
        (json!({"traceparent": "00-xyz"}), Some(0xaa)),
        (json!({"traceparent": 5}), Some(0xaa)),
    ] {
        let (params, headers) = call(meta.clone());
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let (_, answer) = client.modern_call_with("script", "tools/call", params, &headers).await.unwrap();
        let said = answer["result"].to_string();
        for (name, value) in meta.as_object().unwrap() {
            let as_sent = format!("{}:{value}", Value::from(name.as_str()));
            assert!(said.contains(&as_sent) || said.contains(&as_sent.replace('"', "\\\"")), "{as_sent} in {said}");
        }
        let span = recorded.recv().await.unwrap();
        assert_eq!(span.context.as_ref().map(|context| context.trace[0]), trace, "{meta}");
        assert_eq!(
            (span.method.as_str(), span.tool.as_deref(), span.server.as_str()),
            ("tools/call", Some("x"), "script")
        );
        assert!(span.call.is_some() && span.stages.len() == 5, "{span:?}");
        let told = format!("{span:?}");
        assert!(!told.contains(TOKEN_HOLDER) && !told.contains("secret"), "{told}");
    }
    // Its client does not record it.
    let (params, _) = call(json!({"traceparent": PARENT.replace("-01", "-00")}));
    client.modern_call("script", "tools/call", params).await.unwrap();
    let (params, _) = call(json!({}));
    client.modern_call("script", "tools/call", params).await.unwrap();
    assert!(recorded.recv().await.unwrap().context.is_none(), "the last call, the root of its own trace");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_nobody_takes_cost_no_call() {
    let (spans, recorded) = mpsc::channel(1);
    let host = Host::with(vec![server("odd", "odd", &[])], Setup { spans: Some(spans), ..Setup::default() }).await;
    let client = host.client();
    for _ in 0..20 {
        modern_tool(&client, "odd", "echo", json!({})).await;
    }
    eventually("all but one are counted as lost", || page(&host)["staithe_spans_lost_total"] >= 19.0).await;
    drop(recorded);
    modern_tool(&client, "odd", "echo", json!({})).await;
    host.stop().await;
}
