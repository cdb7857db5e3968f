//! Subscriptions in every cell: who asked hears it, nobody else does, and a restart of the process hides nothing.

use crate::host::{Host, Setup, in_mode, kill, modern_tool, name, reason, server, tool};
use model::Mode;
use serde_json::{Value, json};
use staithe_gateway::Auth;
use std::time::Duration;
use testkit::wait::eventually;
use testkit::{Client, Session, Stream};

const URI: &str = "test://watched-resource";
const TAG: &str = "io.modelcontextprotocol/subscriptionId";

async fn next(stream: &mut Stream) -> Value {
    tokio::time::timeout(Duration::from_secs(20), stream.next_message()).await.expect("nothing came").unwrap().unwrap()
}

async fn nothing(stream: &mut Stream) {
    let quiet = tokio::time::timeout(Duration::from_millis(300), stream.next_message()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

async fn listen(client: &Client, server: &str, notifications: Value) -> Stream {
    client.modern_stream(server, "subscriptions/listen", json!({"notifications": notifications})).await.unwrap()
}

/// The listen's stream, and what its first word promises.
async fn promised(client: &Client, server: &str, notifications: Value) -> (Stream, Value) {
    let mut stream = listen(client, server, notifications).await;
    let first = next(&mut stream).await;
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged", "{first}");
    (stream, first["params"]["notifications"].clone())
}

async fn trigger(client: &Client, server: &str, what: &str) {
    modern_tool(client, server, &format!("test_trigger_{what}"), json!({})).await;
}

/// Everything that the scripted server heard.
async fn heard(client: &Client) -> Vec<Value> {
    let params = json!({"name": "any", "script": {"report": true}});
    let (_, answer) = client.modern_call("script", "tools/call", params).await.unwrap();
    answer["result"]["heard"].as_array().unwrap().clone()
}

fn count(heard: &[Value], method: &str) -> usize {
    heard.iter().filter(|message| message["method"] == method).count()
}

/// The scripted server says this line.
async fn emit(client: &Client, line: &Value) {
    let params = json!({"name": "any", "script": {"emit": [line]}});
    assert_eq!(client.modern_call("script", "tools/call", params).await.unwrap().0, 200);
}

fn update(uri: &str) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri, "big": 12_345_678_901_234_567_u64}})
}

/// The same as a modern server says it on each listen.
fn tagged_update(uri: &str) -> Value {
    let mut line = update(uri);
    line["params"]["_meta"] = json!({TAG: "@listen"});
    line
}

async fn both(flag: &str) -> Host {
    let flags: &[&str] = if flag == "--legacy" { &["--legacy"] } else { &[] };
    Host::open(vec![server("every", "everything", &[flag]), server("script", "scripted", flags)]).await
}

async fn kill_process(host: &Host, server: &str) {
    let of = |host: &Host| host.supervisor.instances(Some(&name(server))).into_iter().find_map(|i| i.pid).unwrap();
    let old = of(host);
    kill(old.cast_signed());
    eventually("another process serves", || {
        host.supervisor.instances(Some(&name(server))).iter().any(|i| i.pid.is_some_and(|pid| pid != old))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e155_e156_e157_a_listen_hears_what_it_asked_for_under_its_own_name() {
    for flag in ["--legacy", "--modern"] {
        let host = both(flag).await;
        let client = host.client();
        for id in ["7", r#""\u0031""#, "9007199254740993"] {
            let wanted = json!({"toolsListChanged": true, "resourceSubscriptions": [URI]});
            let (headers, body) = client.modern_request("subscriptions/listen", json!({"notifications": wanted}), &[]);
            let at = body.find(r#""id":"#).unwrap() + 5;
            let end = at + body[at..].find(',').unwrap();
            let body = format!("{}{id}{}", &body[..at], &body[end..]);
            let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            let mut stream = client.post_stream("/mcp/every", &headers, body).await.unwrap();
            let first = stream.next().await.unwrap().unwrap().data;
            assert!(first.contains("notifications/subscriptions/acknowledged"), "{flag}: {first}");
            assert!(first.contains(&format!(r#""{TAG}":{id}"#)), "{flag}: {first}");
            let promise: Value = serde_json::from_str(&first).unwrap();
            assert_eq!(promise["params"]["notifications"], wanted, "{flag}");
            for what in ["prompt_change", "resource_change", "tool_change", "resource_update"] {
                trigger(&client, "every", what).await;
            }
            for method in ["notifications/tools/list_changed", "notifications/resources/updated"] {
                let event = stream.next().await.unwrap().unwrap().data;
                assert!(event.contains(method) && event.contains(&format!(r#""{TAG}":{id}"#)), "{flag}: {event}");
            }
            nothing(&mut stream).await;
        }
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e155_what_a_server_does_not_offer_is_not_promised() {
    let silent = server("silent", "scripted", &["--legacy", "--silent"]);
    let host = Host::open(vec![server("script", "scripted", &["--legacy"]), silent]).await;
    let client = host.client();
    let all = json!({"toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": true, "resourceSubscriptions": ["a:fine", "a:refused"]});
    let (_stream, promise) = promised(&client, "script", all.clone()).await;
    let kept = json!({"toolsListChanged": true, "resourcesListChanged": true, "resourceSubscriptions": ["a:fine"]});
    assert_eq!(promise, kept, "the server has no prompts, and refuses one resource");
    let (_other, promise) = promised(&client, "silent", all).await;
    assert_eq!(promise, json!({}));
    for bad in [json!({"toolsListChanged": 1}), json!([]), json!({"resourceSubscriptions": [1]})] {
        let params = json!({"notifications": bad});
        let (status, answer) = client.modern_call("script", "subscriptions/listen", params).await.unwrap();
        assert_eq!((status, &answer["error"]["code"]), (200, &json!(-32602)), "{answer}");
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e162_b17_a_resource_is_subscribed_to_once_and_left_with_the_last() {
    let host = both("--legacy").await;
    let client = host.client();
    let wanted = json!({"resourceSubscriptions": ["a:1"]});
    let (first, _) = promised(&client, "script", wanted.clone()).await;
    let (second, _) = promised(&client, "script", wanted).await;
    let session = client.legacy_session("script").await.unwrap();
    let answer = session.call("resources/subscribe", json!({"uri": "a:1"})).await.unwrap();
    assert_eq!(answer["result"], json!({}), "the server knows already");
    assert_eq!(count(&heard(&client).await, "resources/subscribe"), 1);
    drop(first);
    drop(second);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(count(&heard(&client).await, "resources/unsubscribe"), 0, "the session wants it still");
    let answer = session.call("resources/unsubscribe", json!({"uri": "a:1", "x": 1.0})).await.unwrap();
    assert_eq!(answer["result"], json!({"own": 1.0}), "the last word is the server's");
    let answer = session.call("resources/subscribe", json!({"uri": "a:2", "vendor": true})).await.unwrap();
    assert_eq!(answer["result"], json!({"own": 1.0}), "and so is the first");
    let refused = session.call("resources/subscribe", json!({"uri": "a:refused"})).await.unwrap();
    assert_eq!(refused["error"]["code"], -32002, "{refused}");
    let all = heard(&client).await;
    assert!(all.iter().any(|m| m["method"] == "resources/subscribe" && m["params"]["vendor"] == true));
    assert_eq!(session.close().await.unwrap().status, 200);
    for _ in 0..200 {
        if count(&heard(&client).await, "resources/unsubscribe") == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let all = heard(&client).await;
    let left: Vec<&str> = all
        .iter()
        .filter(|m| m["method"] == "resources/unsubscribe")
        .map(|m| m["params"]["uri"].as_str().unwrap())
        .collect();
    assert_eq!(left, ["a:1", "a:2"], "the end of a session ends its subscriptions");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e163_updates_below_a_subscribed_resource_are_heard_and_lookalikes_are_not() {
    for flag in ["--legacy", "--modern"] {
        let host = both(flag).await;
        let client = host.client();
        let (mut stream, _) = promised(&client, "script", json!({"resourceSubscriptions": ["file:///a"]})).await;
        let session = client.legacy_session("script").await.unwrap();
        assert!(session.call("resources/subscribe", json!({"uri": "file:///a"})).await.unwrap()["result"].is_object());
        let mut get = session.listen().await.unwrap();
        let line = if flag == "--legacy" { update } else { tagged_update };
        if flag == "--legacy" {
            emit(&client, &line("file:///ab")).await;
        }
        emit(&client, &line("file:///a/b")).await;
        for stream in [&mut stream, &mut get] {
            let message = next(stream).await;
            assert_eq!(message["params"]["uri"], "file:///a/b", "{flag}: {message}");
            assert_eq!(message["params"]["big"], 12_345_678_901_234_567_u64);
            nothing(stream).await;
        }
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e159_e162_after_a_restart_everything_is_subscribed_again_and_the_gap_is_told() {
    for flag in ["--legacy", "--modern"] {
        let host = both(flag).await;
        let client = host.client();
        let wanted = json!({"toolsListChanged": true, "resourceSubscriptions": ["a:1"]});
        let (mut stream, _) = promised(&client, "script", wanted).await;
        let session = client.legacy_session("script").await.unwrap();
        assert!(session.call("resources/subscribe", json!({"uri": "a:1"})).await.unwrap()["result"].is_object());
        let mut get = session.listen().await.unwrap();
        kill_process(&host, "script").await;
        let mut told = vec![next(&mut stream).await, next(&mut stream).await];
        told.sort_by_key(|message| message["method"].as_str().unwrap().to_owned());
        assert_eq!(told[0]["method"], "notifications/resources/updated", "{flag}: {told:?}");
        assert_eq!(
            (&told[0]["params"]["uri"], &told[1]["method"]),
            (&json!("a:1"), &json!("notifications/tools/list_changed"))
        );
        assert!(told.iter().all(|message| message["params"]["_meta"][TAG].is_u64()), "{flag}: {told:?}");
        let mut methods = Vec::new();
        for _ in 0..3 {
            let message = next(&mut get).await;
            assert!(!message.to_string().contains(TAG), "{flag}: {message}");
            methods.push(message["method"].as_str().unwrap().to_owned());
        }
        methods.sort();
        assert_eq!(
            methods,
            [
                "notifications/resources/list_changed",
                "notifications/resources/updated",
                "notifications/tools/list_changed"
            ],
            "{flag}"
        );
        nothing(&mut stream).await;
        // And the new process really tells.
        emit(&client, &if flag == "--legacy" { update("a:1") } else { tagged_update("a:1") }).await;
        assert_eq!(next(&mut stream).await["params"]["uri"], "a:1", "{flag}");
        let message = next(&mut get).await;
        assert_eq!(message["params"]["big"], 12_345_678_901_234_567_u64, "{flag}: {message}");
        let again = if flag == "--legacy" { ("resources/subscribe", 1) } else { ("subscriptions/listen", 3) };
        assert_eq!(count(&heard(&client).await, again.0), again.1, "{flag}");
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e158_a_server_that_is_stopped_ends_its_listens() {
    for flag in ["--legacy", "--modern"] {
        let host = both(flag).await;
        let (mut stream, _) = promised(&host.client(), "every", json!({"toolsListChanged": true})).await;
        let started = stdx::clock::monotonic();
        host.enable("every", false).await;
        let end = next(&mut stream).await;
        assert_eq!(end["result"]["resultType"], "complete", "{flag}: {end}");
        assert_eq!(end["result"]["_meta"][TAG], end["id"], "{flag}: {end}");
        assert!(stream.next_message().await.unwrap().is_none(), "and then it closes");
        assert!(started.elapsed() < Duration::from_secs(5), "a listen holds up no stop");
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b18_a_new_generation_takes_the_subscriptions_over() {
    let host = both("--legacy").await;
    let client = host.client();
    let (mut stream, _) =
        promised(&client, "script", json!({"toolsListChanged": true, "resourceSubscriptions": ["a:1"]})).await;
    let session = client.legacy_session("script").await.unwrap();
    assert!(session.call("resources/subscribe", json!({"uri": "a:2"})).await.unwrap()["result"].is_object());
    let mut get = session.listen().await.unwrap();
    let spec = server("script", "scripted", &["--legacy", "--generation", "2"]);
    host.store.put_server(spec).await.unwrap();
    host.supervisor.reconcile().await.unwrap();
    let mut told = Vec::new();
    while !told.iter().any(|message: &Value| message["params"]["uri"] == "a:1") {
        told.push(next(&mut stream).await);
    }
    assert!(told.iter().all(|message| message["method"] != "notifications/subscriptions/acknowledged"), "{told:?}");
    while next(&mut get).await["params"]["uri"] != "a:2" {}
    for uri in ["a:1", "a:2"] {
        emit(&client, &update(uri)).await;
    }
    assert_eq!(next(&mut stream).await["params"]["big"], 12_345_678_901_234_567_u64);
    assert_eq!(next(&mut get).await["params"]["uri"], "a:2");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b16_b17_e161_a_session_hears_a_modern_server() {
    let host = both("--modern").await;
    let client = host.client();
    let session = client.legacy_session("every").await.unwrap();
    assert_eq!(session.initialized["capabilities"]["tools"]["listChanged"], true, "E190");
    assert_eq!(session.initialized["capabilities"]["resources"]["subscribe"], true, "E190");
    let kept = client.legacy_session("every").await.unwrap();
    let mut get = session.listen().await.unwrap();
    assert_eq!(session.call("resources/subscribe", json!({"uri": URI})).await.unwrap()["result"], json!({}));
    for (tool_name, method) in [
        ("test_trigger_tool_change", "notifications/tools/list_changed"),
        ("test_trigger_prompt_change", "notifications/prompts/list_changed"),
        ("test_trigger_resource_change", "notifications/resources/list_changed"),
        ("test_trigger_resource_update", "notifications/resources/updated"),
    ] {
        tool(&session, tool_name, json!({})).await;
        let message = next(&mut get).await;
        assert_eq!(message["method"], method, "{message}");
        assert!(!message.to_string().contains(TAG), "{message}");
    }
    nothing(&mut get).await;
    assert_eq!(session.call("resources/unsubscribe", json!({"uri": URI})).await.unwrap()["result"], json!({}));
    tool(&session, "test_trigger_resource_update", json!({})).await;
    nothing(&mut get).await;
    // A session without a stream hears of the lists when it opens one.
    let mut late = kept.listen().await.unwrap();
    let mut lists = Vec::new();
    for _ in 0..3 {
        lists.push(next(&mut late).await["method"].as_str().unwrap().to_owned());
    }
    lists.sort();
    assert_eq!(lists.len(), 3);
    assert!(lists.iter().all(|method| method.ends_with("/list_changed")), "{lists:?}");

    let script = client.legacy_session("script").await.unwrap();
    let refused = script.call("resources/subscribe", json!({"uri": "a:refused"})).await.unwrap();
    assert_eq!(refused["error"]["code"], -32002, "{refused}");
    let missing = script.call("resources/subscribe", json!({})).await.unwrap();
    assert_eq!((missing["error"]["code"].as_i64(), reason(&missing)), (Some(-32602), "invalid_uri"));
    for uri in ["a:1", "a:1", "a:2"] {
        assert_eq!(script.call("resources/subscribe", json!({"uri": uri})).await.unwrap()["result"], json!({}));
    }
    // The refused one, two resources, and the lists.
    assert_eq!(count(&heard(&client).await, "subscriptions/listen"), 4);
    script.notify("notifications/roots/list_changed", json!({})).await.unwrap();
    assert_eq!(script.close().await.unwrap().status, 200);
    for _ in 0..200 {
        if count(&heard(&client).await, "notifications/cancelled") == 4 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let all = heard(&client).await;
    assert_eq!(count(&all, "notifications/cancelled"), 4, "nobody listens any more: {all:?}");
    assert_eq!(count(&all, "notifications/roots/list_changed"), 0, "B11");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b14_a_modern_server_without_logging_takes_no_level() {
    let host = both("--modern").await;
    let client = host.client();
    let session = client.legacy_session("script").await.unwrap();
    let refused = session.call("logging/setLevel", json!({"level": "info"})).await.unwrap();
    assert_eq!((refused["error"]["code"].as_i64(), reason(&refused)), (Some(-32601), "no_logging"));
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_notification_reaches_who_did_not_ask_for_it() {
    for flag in ["--legacy", "--modern"] {
        let flags: &[&str] = if flag == "--legacy" { &["--legacy"] } else { &[] };
        let servers = vec![
            in_mode(server("script", "scripted", flags), Mode::Shared),
            in_mode(server("every", "everything", &[flag]), Mode::PerPrincipal),
        ];
        let host = Host::with(servers, Setup { auth: Auth::Required, ..Setup::default() }).await;
        let (ann, bob) = (host.client_of("ann").await, host.client_of("bob").await);
        // One process for everybody: an update is for who asked for this resource.
        let (mut of_ann, _) = promised(&ann, "script", json!({"resourceSubscriptions": ["a:ann"]})).await;
        let (mut of_bob, _) = promised(&bob, "script", json!({"resourceSubscriptions": ["a:bob"]})).await;
        let session: Session<'_> = bob.legacy_session("script").await.unwrap();
        assert!(session.call("resources/subscribe", json!({"uri": "a:bob"})).await.unwrap()["result"].is_object());
        let mut get = session.listen().await.unwrap();
        if flag == "--legacy" {
            emit(&ann, &update("a:ann")).await;
            assert_eq!(next(&mut of_ann).await["params"]["uri"], "a:ann");
            nothing(&mut of_bob).await;
            nothing(&mut get).await;
        }
        // A process for each principal: what happens in Ann's is not Bob's business.
        let wanted = json!({"toolsListChanged": true, "resourceSubscriptions": [URI]});
        let (mut of_ann, _) = promised(&ann, "every", wanted.clone()).await;
        let (mut of_bob, _) = promised(&bob, "every", wanted).await;
        trigger(&ann, "every", "tool_change").await;
        trigger(&ann, "every", "resource_update").await;
        for _ in 0..2 {
            next(&mut of_ann).await;
        }
        nothing(&mut of_bob).await;
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b18_e164_a_listen_keeps_its_process_and_counts_for_its_principal() {
    for flag in ["--legacy", "--modern"] {
        let mut setup = Setup::default();
        setup.supervisor.idle_ttl = Duration::from_millis(200);
        setup.face.streams_per_principal = 2;
        let host = Host::with(vec![server("every", "everything", &[flag])], setup).await;
        let client = host.client();
        let (mut stream, _) = promised(&client, "every", json!({"toolsListChanged": true})).await;
        let (other, _) = promised(&client, "every", json!({"toolsListChanged": true})).await;
        let processes = host.processes();
        let full = listen(&client, "every", json!({"toolsListChanged": true})).await.whole().await.unwrap();
        assert_eq!(full.status, 503, "{flag}");
        tokio::time::sleep(Duration::from_millis(800)).await;
        assert_eq!(host.processes(), processes, "{flag}: the process was stopped under a listen, or another started");
        trigger(&client, "every", "tool_change").await;
        next(&mut stream).await;
        drop(stream);
        drop(other);
        eventually("an idle process is stopped", || host.processes().is_empty()).await;
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e164_resources_of_one_process_are_bounded() {
    let mut setup = Setup::default();
    setup.supervisor.subscriptions = 3;
    let host = Host::with(vec![server("script", "scripted", &["--legacy"])], setup).await;
    let client = host.client();
    let uris: Vec<String> = (0..5).map(|n| format!("a:{n}")).collect();
    let (stream, promise) = promised(&client, "script", json!({"resourceSubscriptions": uris})).await;
    assert_eq!(promise["resourceSubscriptions"], json!(uris[..3]));
    let session = client.legacy_session("script").await.unwrap();
    let full = session.call("resources/subscribe", json!({"uri": "a:9"})).await.unwrap();
    assert_eq!(reason(&full), "too_many_subscriptions");
    drop(stream);
    for _ in 0..200 {
        if session.call("resources/subscribe", json!({"uri": "a:9"})).await.unwrap()["result"].is_object() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(session.call("resources/subscribe", json!({"uri": "a:9"})).await.unwrap()["result"], json!({}));
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e193_with_two_calls_that_want_it_a_log_line_is_the_operators() {
    let host = Host::open(vec![server("every", "everything", &["--legacy"])]).await;
    let client = host.client();
    let params = |tool: &str, arguments: Value, level: Option<&str>| {
        let mut params = json!({"name": tool, "arguments": arguments, "_meta": {}});
        if let Some(level) = level {
            params["_meta"]["io.modelcontextprotocol/logLevel"] = json!(level);
        }
        params
    };
    for (level, expected) in [(Some("debug"), 0), (None, 3)] {
        let sleeping = params("sleep", json!({"ms": 900}), level);
        let sleeper = client.modern_stream("every", "tools/call", sleeping);
        let logger = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let logs = params("test_tool_with_logging", json!({}), Some("debug"));
            client.modern_stream("every", "tools/call", logs).await.unwrap().whole().await.unwrap()
        };
        let (sleeper, logger) = tokio::join!(sleeper, logger);
        let lines = |body: &[u8]| String::from_utf8_lossy(body).matches("notifications/message").count();
        assert_eq!(lines(&logger.body), expected, "{level:?}");
        assert_eq!(lines(&sleeper.unwrap().whole().await.unwrap().body), 0, "{level:?}");
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e145_a_server_that_cancels_a_listen_has_ended_it() {
    let host = both("--modern").await;
    let client = host.client();
    let (mut stream, _) = promised(&client, "script", json!({"toolsListChanged": true})).await;
    let cancelled = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "@listen"}});
    emit(&client, &cancelled).await;
    let end = next(&mut stream).await;
    assert_eq!(end["result"]["_meta"][TAG], end["id"], "{end}");
    assert!(stream.next_message().await.unwrap().is_none());
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b14_after_a_restart_a_session_hears_what_it_wanted_to_hear() {
    for flag in ["--legacy", "--modern"] {
        let host = Host::open(vec![server("every", "everything", &[flag])]).await;
        let client = host.client();
        let session = client.legacy_session("every").await.unwrap();
        for level in ["error", "debug"] {
            let set = session.call("logging/setLevel", json!({"level": level})).await.unwrap();
            assert_eq!(set["result"], json!({}), "{flag}: {set}");
            kill_process(&host, "every").await;
            let params = json!({"name": "test_tool_with_logging", "arguments": {}});
            let answer = session.stream(&json!(level), "tools/call", params).await.unwrap().whole().await.unwrap();
            let lines = String::from_utf8_lossy(&answer.body).matches("notifications/message").count();
            // A legacy process is as talkative as it starts until it is told; the session is not.
            assert_eq!(lines, if level == "debug" { 3 } else { 0 }, "{flag} {level}");
        }
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e135_e136_e138_b19_a_client_that_leaves_takes_back_its_call_or_does_not() {
    for flag in ["--legacy", "--modern"] {
        let host = Host::open(vec![server("every", "everything", &[flag])]).await;
        let client = host.client();
        let session = client.legacy_session("every").await.unwrap();
        let sleep = json!({"name": "sleep", "arguments": {"ms": 1500}, "_meta": {"progressToken": "t"}});
        let mut stays = session.stream(&json!("s"), "tools/call", sleep.clone()).await.unwrap();
        next(&mut stays).await;
        drop(stays);
        let mut leaves = client.modern_stream("every", "tools/call", sleep).await.unwrap();
        next(&mut leaves).await;
        drop(leaves);
        let mut seen = Value::Null;
        for _ in 0..200 {
            seen =
                modern_tool(&client, "every", "cancellations", json!({})).await["result"]["structuredContent"].clone();
            if seen["stopped"] == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(seen, json!({"arrived": 1, "stopped": 1}), "{flag}: only the modern client's call");
        host.stop().await;
    }
}
