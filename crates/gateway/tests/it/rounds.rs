//! A modern server asks a client with a session: real requests on the call's stream, and the call again with the answers.

use crate::host::{Host, Setup, in_mode, reason, server, text};
use model::Mode;
use serde_json::{Value, json};
use staithe_gateway::Auth;
use std::time::Duration;
use testkit::wait::eventually;
use testkit::{Client, Session, Stream};

fn able() -> Value {
    json!({"elicitation": {"form": {}, "url": {}}, "sampling": {"tools": {}}, "roots": {}})
}

async fn modern() -> Host {
    Host::open(vec![server("every", "everything", &["--modern"]), server("script", "scripted", &[])]).await
}

fn called(tool: &str) -> Value {
    json!({"name": tool, "arguments": {}})
}

/// A call of the scripted server that answers with these results, one after the other.
fn scripted(key: &str, rounds: &Value) -> Value {
    json!({"name": "any", "script": {"key": key, "rounds": rounds}})
}

fn asks(requests: &Value) -> Value {
    json!({"resultType": "input_required", "inputRequests": requests})
}

fn form() -> Value {
    json!({"method": "elicitation/create", "params": {"message": "?", "requestedSchema": {"type": "object", "properties": {}}}})
}

async fn next(stream: &mut Stream) -> Value {
    tokio::time::timeout(Duration::from_secs(20), stream.next_message()).await.unwrap().unwrap().unwrap()
}

async fn answer(session: &Session<'_>, question: &Value, result: Value) {
    let body = json!({"jsonrpc": "2.0", "id": question["id"], "result": result}).to_string();
    assert_eq!(session.post(body).await.unwrap().status, 202);
}

async fn refuse(session: &Session<'_>, question: &Value) {
    let error = json!({"code": -1, "message": "the user is out"});
    let body = json!({"jsonrpc": "2.0", "id": question["id"], "error": error}).to_string();
    assert_eq!(session.post(body).await.unwrap().status, 202);
}

/// What a client of the test answers.
fn reply_to(question: &Value) -> Value {
    match question["method"].as_str().unwrap() {
        "elicitation/create" => {
            json!({"action": "accept", "content": {"name": "Ann", "ok": true, "color": "red", "response": "r", "context": "c", "value": "v"}})
        }
        "sampling/createMessage" => {
            json!({"role": "assistant", "model": "m", "content": {"type": "text", "text": "Paris"}})
        }
        other => {
            assert_eq!(other, "roots/list");
            json!({"roots": [{"uri": "file:///a"}, {"uri": "file:///b"}]})
        }
    }
}

/// Answers whatever is asked until the call is answered; how many questions there were, and the answer.
async fn through(session: &Session<'_>, method: &str, params: Value) -> (usize, Value) {
    let mut stream = session.stream(&json!("call"), method, params).await.unwrap();
    if !stream.is_event_stream() {
        return (0, stream.whole().await.unwrap().json().unwrap());
    }
    let mut questions = 0;
    loop {
        let message = next(&mut stream).await;
        if message.get("method").is_none() {
            assert_eq!(message["id"], "call");
            return (questions, message);
        }
        questions += 1;
        answer(session, &message, reply_to(&message)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b5_b8_b9_e177_every_question_of_a_modern_server_reaches_a_session() {
    let host = modern().await;
    let client = host.client().with_capabilities(able());
    let session = client.legacy_session("every").await.unwrap();
    for (tool, asked, expected) in [
        ("test_sampling", 1, "LLM response: Paris"),
        ("test_elicitation", 1, "User response: action=accept"),
        ("test_input_required_result_elicitation", 1, "Hello, Ann!"),
        ("test_input_required_result_list_roots", 1, "Found 2 root(s)"),
        ("test_input_required_result_request_state", 1, "state-ok"),
        ("test_input_required_result_tampered_state", 1, "integrity-ok"),
        ("test_input_required_result_multiple_inputs", 3, "Name: Ann; Greeting: Paris; Roots: 2"),
        ("test_input_required_result_multi_round", 2, "Multi-round complete for Ann who likes red"),
        ("test_input_required_result_capabilities", 2, "capabilities-ok"),
    ] {
        let (questions, answer) = through(&session, "tools/call", called(tool)).await;
        assert_eq!(questions, asked, "{tool}");
        assert!(text(&answer).starts_with(expected), "{tool}: {answer}");
        assert!(answer["result"].get("resultType").is_none(), "{tool}: {answer}");
    }
    let prompt = json!({"name": "test_input_required_result_prompt"});
    let (questions, answer) = through(&session, "prompts/get", prompt).await;
    assert_eq!(questions, 1);
    assert_eq!(answer["result"]["messages"][0]["content"]["text"], "Prompt with context: c");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e177_answers_and_state_reach_the_server_byte_for_byte() {
    let host = modern().await;
    let client = host.client().with_capabilities(able());
    let session = client.legacy_session("script").await.unwrap();
    let rounds = r#"[{"resultType":"input_required","requestState":"\u0041+/=","inputRequests":{"k\u0031":{"method":"roots/list","params":{"x":1.10}}}}]"#;
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"any","big":1234567890123456789012345,"script":{{"key":"bytes","rounds":{rounds}}}}}}}"#
    );
    let mut stream = client.post_stream("/mcp/script", &borrowed(&session.headers()), body).await.unwrap();
    let question = next(&mut stream).await;
    assert_eq!((&question["method"], &question["params"]["x"]), (&json!("roots/list"), &json!(1.10)));
    let raw = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"roots":[ ],"n":1.50}}}}"#, question["id"]);
    assert_eq!(session.post(raw).await.unwrap().status, 202);
    let event = stream.next().await.unwrap().unwrap();
    assert!(event.data.contains(r#""inputResponses":{"k\u0031":{"roots":[ ],"n":1.50}}"#), "{}", event.data);
    assert!(event.data.contains(r#""requestState":"\u0041+/=""#), "{}", event.data);
    assert!(event.data.contains(r#""big":1234567890123456789012345"#), "{}", event.data);
    let (_, stateless) = through(&session, "tools/call", scripted("none", &json!([asks(&json!({"a": form()}))]))).await;
    assert!(stateless["result"]["got"].get("requestState").is_none(), "none was given: {stateless}");
    host.stop().await;
}

fn borrowed(headers: &[(String, String)]) -> Vec<(&str, &str)> {
    headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn b6_a_url_elicitation_has_an_id_and_nothing_else_of_ours() {
    let host = modern().await;
    let client = host.client().with_capabilities(able());
    let session = client.legacy_session("script").await.unwrap();
    let url = json!({"method": "elicitation/create", "params": {"mode": "url", "url": "https://a.example/", "message": "go"}});
    let params = scripted("url", &json!([asks(&json!({"a": url}))]));
    let mut stream = session.stream(&json!(1), "tools/call", params).await.unwrap();
    let question = next(&mut stream).await;
    let id = question["params"]["elicitationId"].as_str().unwrap();
    assert!(!id.is_empty() && !id.contains(session.id.as_deref().unwrap()));
    assert_eq!(question["params"]["url"], "https://a.example/");
    answer(&session, &question, json!({"action": "accept"})).await;
    let done = next(&mut stream).await;
    assert_eq!(done["result"]["got"]["inputResponses"], json!({"a": {"action": "accept"}}));
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e169_e196_e200_a_client_is_never_asked_what_it_does_not_offer() {
    let host = modern().await;
    let url = json!({"method": "elicitation/create", "params": {"mode": "url", "url": "https://a.example/"}});
    let sampling = json!({"method": "sampling/createMessage", "params": {"messages": []}});
    let with_tools = json!({"method": "sampling/createMessage", "params": {"messages": [], "tools": []}});
    let roots = json!({"method": "roots/list"});
    for (index, (capabilities, revision, question, lacks)) in [
        (json!({}), "2025-11-25", form(), "elicitation"),
        (able(), "2025-03-26", form(), "elicitation"),
        (json!({"elicitation": {}}), "2025-11-25", url.clone(), "elicitation.url"),
        (able(), "2025-06-18", url, "elicitation.url"),
        (json!({"elicitation": {"url": {}}}), "2025-11-25", form(), "elicitation.form"),
        (json!({"roots": {}}), "2025-11-25", sampling, "sampling"),
        (json!({"sampling": {}}), "2025-11-25", with_tools, "sampling.tools"),
        (json!({"sampling": {}}), "2025-11-25", roots.clone(), "roots"),
    ]
    .into_iter()
    .enumerate()
    {
        let client = host.client().with_capabilities(capabilities);
        let session = client.legacy_session_at("script", revision).await.unwrap();
        // Nothing of the round is sent, not even what the client could answer.
        let requests = json!({"a": question, "b": roots});
        let params = scripted(&format!("lacks {index}"), &json!([asks(&requests)]));
        let (questions, answer) = through(&session, "tools/call", params.clone()).await;
        assert_eq!((questions, &answer["result"]["isError"]), (0, &json!(true)), "{answer}");
        assert!(text(&answer).contains(&format!("does not offer {lacks}.")), "{answer}");
        let mut params = params;
        params["script"]["key"] = json!(format!("lacks {index} again"));
        params["uri"] = json!("a:b");
        let (_, answer) = through(&session, "resources/read", params).await;
        assert_eq!((answer["error"]["code"].as_i64(), reason(&answer)), (Some(-32603), "client_not_asked"));
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_client_cancels_an_elicitation_and_ends_a_call_that_needs_more() {
    let host = modern().await;
    let client = host.client().with_capabilities(able());
    let session = client.legacy_session("script").await.unwrap();
    let mut stream =
        session.stream(&json!(1), "tools/call", scripted("form", &json!([asks(&json!({"a": form()}))]))).await.unwrap();
    refuse(&session, &next(&mut stream).await).await;
    let done = next(&mut stream).await;
    assert_eq!(done["result"]["got"]["inputResponses"], json!({"a": {"action": "cancel"}}), "{done}");

    let requests = json!({"a": {"method": "roots/list"}, "b": form()});
    let mut stream =
        session.stream(&json!(2), "tools/call", scripted("roots", &json!([asks(&requests)]))).await.unwrap();
    let (first, second) = (next(&mut stream).await, next(&mut stream).await);
    let (roots, open) = if first["method"] == "roots/list" { (first, second) } else { (second, first) };
    refuse(&session, &roots).await;
    let withdrawn = next(&mut stream).await;
    assert_eq!(withdrawn["method"], "notifications/cancelled", "{withdrawn}");
    assert_eq!(withdrawn["params"]["requestId"], open["id"]);
    let done = next(&mut stream).await;
    assert_eq!(done["result"]["isError"], true);
    assert!(text(&done).contains("the user is out"), "{done}");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e165_e166_e167_a_server_that_asks_wrongly_has_answered_wrongly() {
    let host = modern().await;
    let client = host.client().with_capabilities(able());
    let session = client.legacy_session("script").await.unwrap();
    let nothing = json!({"resultType": "input_required"});
    for (key, method, round) in [
        ("empty", "tools/call", nothing.clone()),
        ("unknown", "tools/call", asks(&json!({"a": {"method": "tools/list"}}))),
        ("list", "tools/call", asks(&json!([form()]))),
        ("state", "tools/call", json!({"resultType": "input_required", "requestState": 1})),
        ("method", "tools/list", asks(&json!({"a": form()}))),
    ] {
        let (questions, answer) = through(&session, method, scripted(key, &json!([round]))).await;
        assert_eq!((questions, reason(&answer)), (0, "invalid_answer"), "{key}: {answer}");
        assert_eq!(answer["error"]["data"]["blame"], "server");
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rounds_have_an_end_and_rounds_without_questions_a_pace() {
    let host = modern().await;
    let client = host.client().with_capabilities(able());
    let session = client.legacy_session("script").await.unwrap();
    let waits = json!({"resultType": "input_required", "requestState": "s"});
    let started = stdx::clock::monotonic();
    let (_, answer) = through(&session, "tools/call", scripted("two", &json!([waits, waits]))).await;
    assert_eq!(answer["result"]["got"]["requestState"], "s");
    assert!(started.elapsed() >= Duration::from_millis(500));
    let endless: Vec<Value> = (0..20).map(|_| asks(&json!({"a": form()}))).collect();
    let (questions, answer) = through(&session, "tools/call", scripted("endless", &json!(endless))).await;
    assert_eq!((questions, &answer["result"]["isError"]), (8, &json!(true)));
    assert!(text(&answer).contains("8 times"), "{answer}");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e140_e139_a_client_that_takes_its_call_back_is_asked_no_more() {
    let host = modern().await;
    let client = host.client().with_capabilities(able());
    let session = client.legacy_session("script").await.unwrap();
    let params = scripted("cancel", &json!([asks(&json!({"a": form()}))]));
    let mut stream = session.stream(&json!("mine"), "tools/call", params).await.unwrap();
    let question = next(&mut stream).await;
    session.notify("notifications/cancelled", json!({"requestId": "mine", "reason": "enough"})).await.unwrap();
    let withdrawn = next(&mut stream).await;
    assert_eq!(withdrawn["params"]["requestId"], question["id"], "{withdrawn}");
    assert!(stream.next_message().await.unwrap().is_none(), "a call that was taken back has no answer");
    answer(&session, &question, json!({"action": "accept"})).await;
    let heard = heard(&session).await;
    assert_eq!(count(&heard, "tools/call"), 2, "it was not called again: {heard}");
    assert_eq!(count(&heard, "notifications/cancelled"), 0, "of a request that is answered nothing is cancelled");

    let every = client.legacy_session("every").await.unwrap();
    let sleep = json!({"name": "sleep", "arguments": {"ms": 60_000}, "_meta": {"progressToken": 1}});
    let stream = stdx::task::spawn("sleeping", {
        let client = host.client();
        let (headers, id) = (every.headers(), json!("mine"));
        async move {
            let body = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": sleep}).to_string();
            let answer = client.post_stream("/mcp/every", &borrowed(&headers), body).await.unwrap();
            answer.whole().await.unwrap()
        }
    });
    eventually("the call runs", || host.supervisor.instances(None).iter().any(|i| i.in_flight > 0)).await;
    every.notify("notifications/cancelled", json!({"requestId": "mine"})).await.unwrap();
    let ended = stream.await.unwrap().unwrap();
    assert!(ended.events().unwrap().0.iter().all(|event| !event.data.contains("\"result\"")));
    let told = crate::host::tool(&every, "cancellations", json!({})).await;
    assert_eq!(told["result"]["structuredContent"]["stopped"], 1, "{told}");
    host.stop().await;
}

async fn heard(session: &Session<'_>) -> Value {
    let report = json!({"name": "any", "script": {"key": "report", "report": true}});
    session.call("tools/call", report).await.unwrap()["result"]["heard"].clone()
}

fn count(heard: &Value, method: &str) -> usize {
    heard.as_array().unwrap().iter().filter(|message| message["method"] == method).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn e147_a_question_waits_for_a_person_and_not_for_ever() {
    let mut setup = Setup::default();
    setup.face.call_timeout = Duration::from_millis(500);
    setup.face.ask_timeout = Duration::from_millis(1500);
    let host = Host::with(vec![server("script", "scripted", &[])], setup).await;
    let client = host.client().with_capabilities(able());
    let session = client.legacy_session("script").await.unwrap();
    let patient = scripted("patient", &json!([asks(&json!({"a": form()}))]));
    let mut stream = session.stream(&json!(1), "tools/call", patient).await.unwrap();
    let question = next(&mut stream).await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    answer(&session, &question, json!({"action": "decline"})).await;
    let done = next(&mut stream).await;
    assert_eq!(done["result"]["got"]["inputResponses"]["a"]["action"], "decline", "{done}");

    let mut stream =
        session.stream(&json!(2), "tools/call", scripted("late", &json!([asks(&json!({"a": form()}))]))).await.unwrap();
    let question = next(&mut stream).await;
    assert_eq!(next(&mut stream).await["params"]["requestId"], question["id"]);
    let done = next(&mut stream).await;
    assert!(text(&done).contains("did not answer elicitation/create"), "{done}");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_session_or_of_the_process_ends_a_call_that_waits_for_its_client() {
    let host = modern().await;
    let client = host.client().with_capabilities(able());
    let session = client.legacy_session("script").await.unwrap();
    let params = scripted("process", &json!([asks(&json!({"a": form()}))]));
    let mut stream = session.stream(&json!(1), "tools/call", params).await.unwrap();
    let question = next(&mut stream).await;
    crate::host::kill(
        host.supervisor
            .instances(None)
            .iter()
            .find(|i| i.server.as_str() == "script")
            .unwrap()
            .pid
            .unwrap()
            .cast_signed(),
    );
    assert_eq!(next(&mut stream).await["params"]["requestId"], question["id"]);
    assert_eq!(reason(&next(&mut stream).await), "server_ended");

    let params = scripted("session", &json!([asks(&json!({"a": form()}))]));
    let mut stream = session.stream(&json!(2), "tools/call", params).await.unwrap();
    // The other process may have other lists, and says so on whichever stream is open.
    while next(&mut stream).await["method"] != "elicitation/create" {}
    assert_eq!(session.close().await.unwrap().status, 200);
    let rest = async {
        while let Some(message) = stream.next_message().await.unwrap() {
            assert!(message["method"].is_string(), "the stream ends without an answer: {message}");
        }
    };
    tokio::time::timeout(Duration::from_secs(5), rest).await.expect("the stream ends");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e150_e151_progress_rises_over_all_rounds() {
    let host = modern().await;
    let client = host.client().with_capabilities(able());
    let session = client.legacy_session("script").await.unwrap();
    let mut params = scripted("progress", &json!([asks(&json!({"a": form()}))]));
    params["_meta"] = json!({"progressToken": ""});
    let mut stream = session.stream(&json!(1), "tools/call", params).await.unwrap();
    let mut seen = Vec::new();
    loop {
        let message = next(&mut stream).await;
        match message["method"].as_str() {
            Some("notifications/progress") => {
                assert_eq!(message["params"]["progressToken"], "");
                seen.push(message["params"]["progress"].as_i64().unwrap());
            }
            Some(_) => answer(&session, &message, json!({"action": "accept"})).await,
            None => break,
        }
    }
    assert_eq!(seen, [1, 2], "the second round counted from its beginning again");
    assert!(stream.next_message().await.unwrap().is_none());
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e79_e197_only_the_asked_session_can_answer_and_only_once() {
    let setup = Setup { auth: Auth::Required, ..Setup::default() };
    let servers = vec![in_mode(server("script", "scripted", &[]), Mode::Shared)];
    let host = Host::with(servers, setup).await;
    let (ann, bob) = (able_client(&host, "ann").await, able_client(&host, "bob").await);
    let (asked, second) = (ann.legacy_session("script").await.unwrap(), ann.legacy_session("script").await.unwrap());
    let foreign = bob.legacy_session("script").await.unwrap();
    let params = scripted("own", &json!([asks(&json!({"a": form()}))]));
    let mut stream = asked.stream(&json!(1), "tools/call", params).await.unwrap();
    let question = next(&mut stream).await;
    for other in [&foreign, &second] {
        for id in [question["id"].clone(), json!(question["id"].to_string()), json!(0), json!(2)] {
            answer(other, &json!({"id": id}), json!({"action": "accept", "content": {"stolen": true}})).await;
        }
    }
    // Bob with Ann's session is nobody.
    let mut headers = asked.headers();
    headers.retain(|(name, _)| name != "authorization");
    let body = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}}).to_string();
    assert_eq!(bob.post("/mcp/script", &borrowed(&headers), body).await.unwrap().status, 404);
    let quiet = tokio::time::timeout(Duration::from_millis(300), stream.next_message()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    answer(&asked, &question, json!({"action": "decline"})).await;
    answer(&asked, &question, json!({"action": "accept"})).await;
    let done = next(&mut stream).await;
    assert_eq!(done["result"]["got"]["inputResponses"], json!({"a": {"action": "decline"}}), "{done}");
    let heard = heard(&foreign).await;
    assert_eq!(count(&heard, "tools/call"), 3, "two rounds and this report: {heard}");
    host.stop().await;
}

async fn able_client(host: &Host, principal: &str) -> Client {
    host.client_of(principal).await.with_capabilities(able())
}

/// 12 sessions of two principals, all in one process, all asked at the same time: each answer carries its asker's secret.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_crosses_while_everybody_is_asked() {
    let setup = Setup { auth: Auth::Required, ..Setup::default() };
    let host = Host::with(vec![in_mode(server("every", "everything", &["--modern"]), Mode::Shared)], setup).await;
    let mut callers = Vec::new();
    for number in 0..12 {
        let client = able_client(&host, if number % 2 == 0 { "ann" } else { "bob" }).await;
        callers.push(stdx::task::spawn("caller", async move {
            let session = client.legacy_session("every").await.unwrap();
            for round in 0..10 {
                let secret = format!("secret-{number}-{round}.");
                let params = json!({"name": "test_elicitation", "arguments": {"message": secret}});
                let mut stream = session.stream(&json!(1), "tools/call", params).await.unwrap();
                let question = next(&mut stream).await;
                assert_eq!(question["params"]["message"], secret.as_str());
                answer(&session, &question, json!({"action": "accept", "content": {"response": secret}})).await;
                let done = next(&mut stream).await;
                let foreign = done.to_string().replace(&secret, "").contains("secret-");
                assert!(text(&done).contains(&secret) && !foreign, "{done}");
            }
            true
        }));
    }
    for caller in callers {
        assert!(caller.await.unwrap().expect("a caller failed; its panic says why"));
    }
    host.stop().await;
}
