//! Modern clients in front of a legacy server that asks: rounds, and everything that can go wrong between two of them.

use crate::deadlines::timed;
use crate::host::{Host, Setup, in_mode, modern_tool, reason, server, text};
use model::{Mode, ServerSpec};
use serde_json::{Value, json};
use staithe_gateway::Auth;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use stdx::clock::monotonic;
use testkit::wait::eventually;
use testkit::{Client, Session};
use tokio::sync::Barrier;

const FORM: &str = "elicitation/create";

fn asker(mode: Mode) -> ServerSpec {
    let mut spec = in_mode(server("asker", "asker", &[]), mode);
    spec.era = model::EraPin::Legacy;
    spec
}

async fn open(change: impl FnOnce(&mut Setup)) -> Host {
    let mut setup = Setup::default();
    change(&mut setup);
    Host::with(vec![asker(Mode::PerPrincipal)], setup).await
}

fn everything() -> Value {
    json!({"elicitation": {"form": {}, "url": {}}, "sampling": {"tools": {}}, "roots": {"listChanged": true}})
}

fn able(host: &Host) -> Client {
    host.client().with_capabilities(everything())
}

fn form(message: &str) -> Value {
    json!({"ask": FORM, "as": message, "params": {"message": message, "requestedSchema": {"type": "object", "properties": {}}}})
}

fn wait(id: &str) -> Value {
    json!({"await": id})
}

fn steps(steps: &Value) -> Value {
    json!({"name": "run", "arguments": {"steps": steps}})
}

/// One `tools/call`; the JSON-RPC answer, which comes with status 200.
async fn call(client: &Client, params: Value) -> Value {
    let (status, answer) = client.modern_call("asker", "tools/call", params).await.unwrap();
    assert_eq!(status, 200, "{answer}");
    answer
}

/// The same request, with answers and the state of a round.
fn retry(params: &Value, round: &Value, answers: Value) -> Value {
    let mut again = params.clone();
    again["inputResponses"] = answers;
    again["requestState"] = round["result"]["requestState"].clone();
    again
}

/// The keys of a round, which must be one.
fn keys(round: &Value) -> Vec<String> {
    assert_eq!(round["result"]["resultType"], "input_required", "{round}");
    assert!(round["result"]["requestState"].is_string(), "{round}");
    round["result"]["inputRequests"].as_object().unwrap().keys().cloned().collect()
}

fn accept(word: &str) -> Value {
    json!({"action": "accept", "content": {"word": word}})
}

/// What the tool says at its end.
fn said(answer: &Value) -> Value {
    assert_eq!(answer["result"]["resultType"], "complete", "{answer}");
    serde_json::from_str(text(answer)).unwrap()
}

/// What the process has heard.
async fn report(client: &Client) -> Value {
    said(&modern_tool(client, "asker", "report", json!({})).await)
}

async fn heard(client: &Client, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..500 {
        let heard = report(client).await;
        if holds(&heard) {
            return heard;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let last = report(client).await;
    assert!(holds(&last), "the server never heard {what}: {last}");
    last
}

fn cancelled(heard: &Value) -> usize {
    let all = heard["notifications"].as_array().unwrap();
    all.iter().filter(|n| n["method"] == "notifications/cancelled").count()
}

/// E9, E165, E166, E167, E168, E175: one round for what is asked together; each answer arrives as it was given.
#[tokio::test(flavor = "multi_thread")]
async fn e165_e166_e168_what_a_legacy_server_asks_is_one_round() {
    let host = open(|_| {}).await;
    let client = able(&host);
    let params = steps(&json!([
        form("a"),
        {"ask": "sampling/createMessage", "as": "b", "params": {"messages": [], "maxTokens": 1, "_meta": {"progressToken": 7}}},
        {"ask": "roots/list", "as": "c", "params": {}},
        wait("a"), wait("b"), wait("c"),
    ]));
    let round = call(&client, params.clone()).await;
    let asked = keys(&round);
    assert_eq!(asked, ["r1_1", "r1_2", "r1_3"]);
    let requests = &round["result"]["inputRequests"];
    assert_eq!(requests["r1_1"]["params"]["message"], "a");
    assert_eq!(
        requests["r1_2"],
        json!({"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}})
    );
    assert_eq!(requests["r1_3"]["method"], "roots/list");
    assert!(requests["r1_1"].get("id").is_none());
    assert_eq!(round["result"]["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "asker");
    let answers = json!({
        "r1_1": {"action": "accept", "content": {"n": 12345678901234567890_u64, "x": null}}, "r1_2": {"role": "assistant"},
        "r1_3": {"roots": [{"uri": "file:///x"}]}, "r9_9": {"stray": 1},
    });
    let end = said(&call(&client, retry(&params, &round, answers.clone())).await);
    for (id, key) in [("a", "r1_1"), ("b", "r1_2"), ("c", "r1_3")] {
        assert_eq!(end["answers"][id], json!([{"jsonrpc": "2.0", "id": id, "result": answers[key]}]));
    }
    let told = json!({"elicitation": {"form": {}, "url": {}}, "sampling": {"tools": {}}, "roots": {}});
    assert_eq!(end["capabilities"], told, "B4");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e174_e176_what_is_missing_is_asked_again_under_its_key_and_a_fresh_state() {
    let host = open(|_| {}).await;
    let client = able(&host);
    let params = steps(&json!([form("a"), form("b"), wait("a"), wait("b"), form("c"), wait("c")]));
    let first = call(&client, params.clone()).await;
    assert_eq!(keys(&first), ["r1_1", "r1_2"]);
    for bad in [json!([]), json!("x"), json!({"r1_1": "yes"})] {
        let refused = call(&client, retry(&params, &first, bad)).await;
        assert_eq!(refused["error"]["code"], -32602, "{refused}");
    }
    let second = call(&client, retry(&params, &first, json!({"r1_1": accept("one")}))).await;
    assert_eq!(keys(&second), ["r1_2"]);
    assert_eq!(second["result"]["inputRequests"]["r1_2"], first["result"]["inputRequests"]["r1_2"]);
    let state = |round: &Value| round["result"]["requestState"].as_str().unwrap().to_owned();
    assert_ne!(state(&first), state(&second));
    // Once answered is answered: another answer under the same key does not count (E172).
    let late = json!({"r1_1": accept("other"), "r1_2": accept("two")});
    let third = call(&client, retry(&params, &second, late)).await;
    assert_eq!(keys(&third), ["r3_1"]);
    let end = said(&call(&client, retry(&params, &third, json!({"r3_1": {"action": "decline"}}))).await);
    for (id, result) in [("a", accept("one")), ("b", accept("two")), ("c", json!({"action": "decline"}))] {
        assert_eq!(end["answers"][id].as_array().unwrap().len(), 1);
        assert_eq!(end["answers"][id][0]["result"], result);
    }
    host.stop().await;
}

/// Answers without a state are a new call's, and nobody asked it anything.
#[tokio::test(flavor = "multi_thread")]
async fn e175_answers_without_a_state_are_ignored() {
    let host = open(|_| {}).await;
    let client = able(&host);
    let mut params = steps(&json!([form("a"), wait("a")]));
    params["inputResponses"] = json!({"r1_1": accept("early")});
    let round = call(&client, params.clone()).await;
    assert_eq!(keys(&round), ["r1_1"]);
    let end = said(&call(&client, retry(&params, &round, json!({"r1_1": accept("right")}))).await);
    assert_eq!(end["answers"]["a"][0]["result"], accept("right"));
    host.stop().await;
}

/// Edge case 4: duplicate retries, at once and late, all get the one answer, and the server hears each answer once.
#[tokio::test(flavor = "multi_thread")]
async fn e172_repeats_get_the_same_answer_and_the_server_hears_each_once() {
    let host = open(|_| {}).await;
    let client = able(&host);
    let params = steps(&json!([form("a"), wait("a"), {"sleep": 200}]));
    let round = call(&client, params.clone()).await;
    let again = |word| retry(&params, &round, json!({"r1_1": accept(word)}));
    let (one, two, three) =
        tokio::join!(call(&client, again("x")), call(&client, again("y")), call(&client, again("z")));
    let late = call(&client, again("late")).await;
    let first = said(&one);
    assert!(["x", "y", "z"].contains(&first["answers"]["a"][0]["result"]["content"]["word"].as_str().unwrap()));
    for other in [&two, &three, &late] {
        assert_eq!(said(other), first);
    }
    assert_eq!(report(&client).await["answers"]["a"].as_array().unwrap().len(), 1);
    host.stop().await;
}

/// Edge case 5: the same state by another principal, for other arguments, another tool, another method, another server, after a
/// change, and as no string. One refusal for all, and the true retry still works.
#[tokio::test(flavor = "multi_thread")]
async fn edge_05_e170_e171_e197_a_state_is_good_for_its_own_call_alone() {
    let mut other = asker(Mode::PerPrincipal);
    other.name = "other".parse().unwrap();
    let setup = Setup { auth: Auth::Required, ..Setup::default() };
    let host = Host::with(vec![asker(Mode::PerPrincipal), other], setup).await;
    let ann = host.client_of("ann").await.with_capabilities(everything());
    let bob = host.client_of("bob").await.with_capabilities(everything());
    let params = steps(&json!([form("a"), wait("a")]));
    let round = call(&ann, params.clone()).await;
    let good = retry(&params, &round, json!({"r1_1": accept("mine")}));
    let state = good["requestState"].as_str().unwrap();
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut params = good.clone();
        change(&mut params);
        params
    };
    let mut refusals = vec![call(&bob, good.clone()).await];
    for params in [
        changed(&|p| p["arguments"]["more"] = json!(1)),
        changed(&|p| p["arguments"] = json!({})),
        changed(&|p| p["name"] = json!("walk")),
        changed(&|p| p["requestState"] = json!(format!("{state}-TAMPERED"))),
        changed(&|p| p["requestState"] = json!(state.replacen('A', "B", 1).replacen("v1.", "v1.A", 1))),
        changed(&|p| p["requestState"] = json!("")),
        changed(&|p| p["requestState"] = json!(7)),
        changed(&|p| p["requestState"] = json!(null)),
    ] {
        refusals.push(call(&ann, params).await);
    }
    let (_, elsewhere) = ann.modern_call("other", "tools/call", good.clone()).await.unwrap();
    let (_, prompt) = ann.modern_call("asker", "prompts/get", good.clone()).await.unwrap();
    refusals.extend([elsewhere, prompt]);
    for refusal in &refusals {
        assert_eq!(refusal["error"]["code"], -32602, "{refusal}");
        assert_eq!(refusal["error"], refusals[0]["error"], "they can be told apart");
    }
    assert_eq!(report(&ann).await["answers"], json!({}), "no answer reached the server");
    // Progress token, trace and spelling are new with each request.
    let mut true_one = good.clone();
    true_one["_meta"] =
        json!({"progressToken": "p", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"});
    assert_eq!(said(&call(&ann, true_one).await)["answers"]["a"][0]["result"], accept("mine"));
    host.stop().await;
}

/// After a restart of the process, upstream ids may be what they were: the state is of the old one.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_while_it_is_held_is_told_to_the_retry_and_never_answered_by_the_next() {
    let host = open(|_| {}).await;
    let client = able(&host);
    let params = steps(&json!([form("a"), {"sleep": 100}, {"exit": 3}]));
    let round = call(&client, params.clone()).await;
    assert_eq!(keys(&round), ["r1_1"]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let ended = call(&client, retry(&params, &round, json!({"r1_1": accept("x")}))).await;
    assert_eq!((reason(&ended), &ended["error"]["data"]["status"]), ("server_ended", &json!("exit status 3")));
    assert_eq!(report(&client).await["answers"], json!({}), "the next process hears nothing of it");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e135_e136_e137_who_closes_a_retry_cancels_the_call_and_the_end_of_a_round_does_not() {
    let host = open(|_| {}).await;
    let client = able(&host);
    let params = steps(&json!([form("a"), wait("a"), {"sleep": 20000}]));
    let round = call(&client, params.clone()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(cancelled(&report(&client).await), 0, "the end of a round is no cancellation");
    let again = retry(&params, &round, json!({"r1_1": accept("x")}));
    let leaving = able(&host);
    let left = tokio::time::timeout(Duration::from_millis(200), call(&leaving, again.clone())).await;
    assert!(left.is_err());
    drop(leaving);
    heard(&client, "that the client left", |heard| cancelled(heard) == 1).await;
    assert_eq!(call(&client, again).await["error"]["code"], -32602, "nothing is held any more");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e173_a_call_that_nobody_comes_back_to_is_released() {
    let host = open(|setup| setup.face.held_timeout = Duration::from_millis(300)).await;
    let client = able(&host);
    let sampling = json!({"ask": "sampling/createMessage", "as": "s", "params": {"messages": [], "maxTokens": 1}});
    let params = steps(&json!([form("a"), sampling, wait("a"), wait("s"), {"sleep": 20000}]));
    let round = call(&client, params.clone()).await;
    assert_eq!(keys(&round).len(), 2);
    let heard = heard(&client, "that nobody came", |heard| cancelled(heard) == 1).await;
    assert_eq!(heard["answers"]["a"][0]["result"], json!({"action": "cancel"}));
    assert!(heard["answers"]["s"][0]["error"]["code"].is_i64(), "{heard}");
    eventually("nothing is in flight", || host.supervisor.instances(None).iter().all(|i| i.in_flight == 0)).await;
    let late = call(&client, retry(&params, &round, json!({"r1_1": accept("x")}))).await;
    assert_eq!(reason(&late), "invalid_state");
    host.stop().await;
}

/// Edge case 4: the server gives up on its question and ends the call while nobody is there.
#[tokio::test(flavor = "multi_thread")]
async fn edge_04_a_question_that_is_withdrawn_and_an_answer_that_comes_early_wait_for_the_retry() {
    let host = open(|_| {}).await;
    let client = able(&host);
    let params = steps(&json!([form("a"), {"sleep": 100}, {"withdraw": "a"}]));
    let round = call(&client, params.clone()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let end = said(&call(&client, retry(&params, &round, json!({"r1_1": accept("late")}))).await);
    assert_eq!(end["answers"]["a"], Value::Null, "a withdrawn question takes no answer");
    // The call goes on: the retry waits for its end.
    let params = steps(&json!([form("b"), {"sleep": 50}, {"withdraw": "b"}, {"sleep": 400}]));
    let round = call(&client, params.clone()).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    let begun = monotonic();
    said(&call(&client, retry(&params, &round, json!({}))).await);
    assert!(begun.elapsed() > Duration::from_millis(100));
    assert_eq!(report(&client).await["answers"], json!({}));
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e169_e196_e200_the_request_that_waits_decides_what_may_be_asked() {
    let host = open(|_| {}).await;
    let client = able(&host);
    let sampling = |more: Value| {
        let mut params = json!({"messages": [], "maxTokens": 1});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"ask": "sampling/createMessage", "as": "s", "params": params})
    };
    // What the process was told is more than what a later request of the call declares.
    let params = steps(&json!([form("a"), wait("a"), sampling(json!({})), wait("s")]));
    let round = call(&client, params.clone()).await;
    let mut less = retry(&params, &round, json!({"r1_1": accept("x")}));
    less["_meta"] = json!({"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}});
    let end = said(&call(&client, less).await);
    assert_eq!(end["answers"]["s"][0]["error"]["code"], -32601, "{end}");

    for (capabilities, ask, feature) in [
        (json!({}), form("a"), "elicitation"),
        (json!({"elicitation": {"url": {}}}), form("a"), "elicitation"),
        (
            json!({"elicitation": {}}),
            json!({"ask": FORM, "as": "a", "params": {"mode": "url", "url": "u", "message": "m"}}),
            "elicitation",
        ),
        (json!({"sampling": {}}), sampling(json!({"tools": []})), "sampling"),
        (json!({"sampling": {}}), sampling(json!({"includeContext": "allServers"})), "sampling"),
        (json!({"sampling": {}}), json!({"ask": "roots/list", "as": "a", "params": {}}), "roots"),
    ] {
        let client = host.client().with_capabilities(capabilities.clone());
        let id = ask["as"].clone();
        let end = said(&call(&client, steps(&json!([ask, wait(id.as_str().unwrap())]))).await);
        let error = &end["answers"][id.as_str().unwrap()][0]["error"];
        assert_eq!(error["code"], -32601, "{capabilities}: {end}");
        assert!(error["message"].as_str().unwrap().contains(feature), "{error}");
    }
    host.stop().await;
}

/// E165: a prompt may ask too; a list may not, and the server hears so at once.
#[tokio::test(flavor = "multi_thread")]
async fn e165_prompts_ask_and_nothing_else_than_the_three_methods_does() {
    let host = open(|_| {}).await;
    let client = able(&host);
    let asks = json!([form("a"), wait("a")]);
    let params = json!({"name": "p", "arguments": {"steps": asks.to_string()}});
    let (_, round) = client.modern_call("asker", "prompts/get", params.clone()).await.unwrap();
    assert_eq!(keys(&round), ["r1_1"]);
    let again = retry(&params, &round, json!({"r1_1": accept("x")}));
    let (_, end) = client.modern_call("asker", "prompts/get", again).await.unwrap();
    assert!(end["result"]["messages"][0]["content"]["text"].as_str().unwrap().contains("accept"), "{end}");
    let params = json!({"arguments": {"steps": [form("b"), wait("b")]}, "ref": {}, "argument": {}});
    let (status, end) = client.modern_call("asker", "completion/complete", params).await.unwrap();
    assert_eq!(status, 200);
    assert_eq!(said(&end)["answers"]["b"][0]["error"]["code"], -32601, "{end}");
    host.stop().await;
}

/// E201, B10, B12: servers ask for roots as soon as they may, and must not wait.
#[tokio::test(flavor = "multi_thread")]
async fn e201_roots_outside_of_a_call_are_none_at_once() {
    let mut spec = server("asker", "asker", &["--ask-roots"]);
    spec.era = model::EraPin::Legacy;
    let host = Host::with(vec![spec], Setup::default()).await;
    let client = able(&host);
    // A request that cannot be asked starts the process.
    client.modern_call("asker", "tools/list", json!({})).await.unwrap();
    let heard = heard(&client, "its roots", |heard| heard["answers"]["start"].is_array()).await;
    assert_eq!(heard["answers"]["start"][0]["result"], json!({"roots": []}));
    let shy = host.client();
    shy.modern_call("asker", "tools/list", json!({})).await.unwrap();
    let heard = self::heard(&shy, "a refusal", |heard| heard["answers"]["start"].is_array()).await;
    assert_eq!(heard["answers"]["start"][0]["error"]["code"], -32601, "it was told of no roots");
    host.stop().await;
}

/// B12: what is asked after its call has ended is nobody's.
#[tokio::test(flavor = "multi_thread")]
async fn b12_unsolicited_questions_are_refused_at_once() {
    let host = open(|_| {}).await;
    let client = able(&host);
    said(&call(&client, steps(&json!([form("a")]))).await);
    let heard = heard(&client, "a refusal", |heard| heard["answers"]["a"].is_array()).await;
    let answer = &heard["answers"]["a"][0];
    assert!(answer["error"]["code"] == -32601 || answer["result"] == json!({"action": "cancel"}), "{heard}");
    host.stop().await;
}

/// B6, B28: an error that names URLs is a round, and the call is made again.
#[tokio::test(flavor = "multi_thread")]
async fn b6_e109_urls_that_must_be_visited_first_are_a_round_and_then_the_call_again() {
    let host = open(|_| {}).await;
    let client = able(&host);
    let urls = json!([{"mode": "url", "elicitationId": "e1", "url": "https://example.org/x", "message": "log in"}]);
    let params = steps(&json!([{"urls": urls}]));
    let round = call(&client, params.clone()).await;
    assert_eq!(keys(&round), ["r1_1"]);
    let expected = json!({"mode": "url", "url": "https://example.org/x", "message": "log in"});
    assert_eq!(round["result"]["inputRequests"]["r1_1"], json!({"method": FORM, "params": expected}));
    let mut foreign = retry(&params, &round, json!({}));
    foreign["arguments"]["x"] = json!(1);
    assert_eq!(reason(&call(&client, foreign).await), "invalid_state");
    let end = call(&client, retry(&params, &round, json!({"r1_1": {"action": "accept"}}))).await;
    assert_eq!(said(&end)["cancelled"], false);
    let client = host.client().with_capabilities(json!({"elicitation": {}}));
    let (status, refused) = client.modern_call("asker", "tools/call", params).await.unwrap();
    assert_eq!((status, &refused["error"]["code"]), (400, &json!(-32021)), "{refused}");
    assert_eq!(refused["error"]["data"]["requiredCapabilities"], json!({"elicitation": {"url": {}}}));
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b20_a_server_that_wants_to_know_hears_that_its_question_is_open() {
    let host = open(|setup| setup.face.held_progress = Duration::from_millis(50)).await;
    let client = able(&host);
    let mut ask = form("a");
    ask["params"]["_meta"] = json!({"progressToken": 0});
    let params = steps(&json!([ask, wait("a")]));
    let round = call(&client, params.clone()).await;
    let of = |heard: &Value| -> Vec<i64> {
        let all = heard["notifications"].as_array().unwrap();
        let own = all.iter().filter(|n| n["method"] == "notifications/progress" && n["params"]["progressToken"] == 0);
        own.map(|n| n["params"]["progress"].as_i64().unwrap()).collect()
    };
    let heard = heard(&client, "progress", |heard| of(heard).len() >= 3).await;
    assert!(of(&heard).is_sorted_by(|one, next| one < next), "{heard}");
    said(&call(&client, retry(&params, &round, json!({"r1_1": accept("x")}))).await);
    host.stop().await;
}

/// E179, B15: what a retry asks for counts from then on.
#[tokio::test(flavor = "multi_thread")]
async fn e179_progress_and_log_follow_the_request_that_waits() {
    let host = open(|_| {}).await;
    let client = able(&host);
    let mut params = steps(
        &json!([{"progress": 1}, form("a"), {"sleep": 100}, {"progress": 2}, wait("a"), {"log": "hello"}, {"progress": 3}]),
    );
    params["_meta"] = json!({"progressToken": "first"});
    let round = call(&client, params.clone()).await;
    tokio::time::sleep(Duration::from_millis(250)).await;
    let mut again = retry(&params, &round, json!({"r1_1": accept("x")}));
    again["_meta"] = json!({"progressToken": "second", "io.modelcontextprotocol/logLevel": "debug"});
    let mut stream = client.modern_stream("asker", "tools/call", again).await.unwrap();
    let mut messages = Vec::new();
    while let Some(message) = stream.next_message().await.unwrap() {
        messages.push(message);
    }
    let progress: Vec<_> = messages
        .iter()
        .filter(|m| m["method"] == "notifications/progress")
        .map(|m| (m["params"]["progressToken"].clone(), m["params"]["progress"].clone()))
        .collect();
    assert_eq!(progress, [(json!("second"), json!(2)), (json!("second"), json!(3))]);
    assert_eq!(messages.iter().filter(|m| m["params"]["data"] == "hello").count(), 1);
    said(messages.last().unwrap());
    host.stop().await;
}

/// A call that was held has its time from each retry on; progress extends it there too.
#[tokio::test(flavor = "multi_thread")]
async fn progress_extends_a_held_call_where_it_may() {
    for (watch, late) in [
        (json!({"callTimeout": "2 s"}), Some("2 s")),
        (json!({"callTimeout": "2 s", "progressExtends": true, "callTimeoutMax": "3 s"}), Some("3 s")),
        (json!({"callTimeout": "2 s", "progressExtends": true}), None),
    ] {
        let host = Host::open(vec![timed(asker(Mode::PerPrincipal), watch)]).await;
        let client = able(&host);
        let work = (1..=7).flat_map(|n| [json!({"sleep": 600}), json!({"progress": n})]);
        let mut params = steps(&[form("a"), wait("a")].into_iter().chain(work).collect());
        params["_meta"] = json!({"progressToken": "t"});
        let round = call(&client, params.clone()).await;
        let again = retry(&params, &round, json!({"r1_1": accept("x")}));
        let mut stream = client.modern_stream("asker", "tools/call", again).await.unwrap();
        let mut last = Value::Null;
        while let Some(message) = stream.next_message().await.unwrap() {
            last = message;
        }
        match late {
            None => drop(said(&last)),
            Some(time) => {
                assert_eq!(reason(&last), "deadline", "{last}");
                assert!(last["error"]["message"].as_str().unwrap().contains(&format!("within {time};")), "{last}");
            }
        }
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn held_calls_are_bounded_in_rounds_number_and_bytes() {
    let host = open(|setup| {
        setup.face.held_rounds = 3;
        setup.face.held_per_principal = 2;
        setup.face.held_bytes = 10_000;
        setup.face.turn_wait = Duration::from_secs(20);
    })
    .await;
    let client = able(&host);
    let params = steps(&json!([form("a"), wait("a"), {"sleep": 20000}]));
    let mut round = call(&client, params.clone()).await;
    for _ in 1..3 {
        round = call(&client, retry(&params, &round, json!({}))).await;
        assert_eq!(keys(&round), ["r1_1"]);
    }
    let over = call(&client, retry(&params, &round, json!({}))).await;
    assert_eq!((reason(&over), &over["error"]["code"]), ("too_many_rounds", &json!(-32603)));
    heard(&client, "that it is over", |heard| cancelled(heard) == 1).await;

    let over = call(&client, steps(&json!([form(&"m".repeat(11_000)), wait("x"), {"sleep": 20000}]))).await;
    assert_eq!(reason(&over), "too_much_asked");
    heard(&client, "that it is over", |heard| cancelled(heard) == 2).await;

    // Prompts of another name each: nothing makes them take turns.
    let ask = |name: &str| json!({"name": name, "arguments": {"steps": json!([form(name), wait(name)]).to_string()}});
    let mut held = Vec::new();
    for name in ["one", "two"] {
        let (_, round) = client.modern_call("asker", "prompts/get", ask(name)).await.unwrap();
        held.push((name, round));
    }
    let (_, over) = client.modern_call("asker", "prompts/get", ask("three")).await.unwrap();
    assert_eq!(reason(&over), "too_many_held", "{over}");
    for (name, round) in held {
        let again = retry(&ask(name), &round, json!({"r1_1": accept(name)}));
        let (_, end) = client.modern_call("asker", "prompts/get", again).await.unwrap();
        assert!(end["result"]["messages"].is_array(), "{end}");
    }
    // The ends that are kept for repeats make room.
    let (_, round) = client.modern_call("asker", "prompts/get", ask("four")).await.unwrap();
    assert_eq!(keys(&round), ["r1_1"]);
    host.stop().await;
}

/// Which of two calls asks is not on the wire. Once a tool was seen to ask, its calls take turns, and are exact.
#[tokio::test(flavor = "multi_thread")]
async fn calls_of_a_tool_that_asks_take_turns() {
    let host = open(|setup| setup.face.turn_wait = Duration::from_secs(2)).await;
    let client = Arc::new(able(&host));
    let params = |who: &str| steps(&json!([{"sleep": 50}, form(who), wait(who)]));
    let teach = call(&client, params("teacher")).await;
    said(&call(&client, retry(&params("teacher"), &teach, json!({"r1_1": accept("teacher")}))).await);
    // A call that waits for its client holds up no other, and each gets its own questions and answers.
    let first = call(&client, params("first")).await;
    let second = call(&client, params("second")).await;
    for (who, round) in [("second", &second), ("first", &first)] {
        assert_eq!(round["result"]["inputRequests"]["r1_1"]["params"]["message"], who);
        let end = said(&call(&client, retry(&params(who), round, json!({"r1_1": accept(who)}))).await);
        assert_eq!(end["answers"][who][0]["result"], accept(who));
    }
    // One that runs has the turn. Tools that never asked are not held up; who waits too long is told by name.
    let running = {
        let client = client.clone();
        stdx::task::spawn("running", async move { call(&client, steps(&json!([{"sleep": 6000}]))).await })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = monotonic();
    report(&client).await;
    let (status, refused) = client.modern_call("asker", "tools/call", params("third")).await.unwrap();
    assert_eq!((status, reason(&refused)), (503, "turn_not_free"));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    said(&running.await.unwrap().unwrap());
    host.stop().await;
}

/// Who has the turn may wait for the very answer that comes: a server that works on one call at a time does.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_never_kept_for_want_of_a_turn() {
    let host = open(|setup| setup.face.turn_wait = Duration::from_secs(20)).await;
    let client = Arc::new(able(&host));
    let params = |who: &str| steps(&json!([form(who), wait(who)]));
    let teach = call(&client, params("teacher")).await;
    said(&call(&client, retry(&params("teacher"), &teach, json!({"r1_1": accept("taught")}))).await);
    let first = call(&client, params("q")).await;
    let running = {
        let client = client.clone();
        stdx::task::spawn("running", async move { call(&client, steps(&json!([{"sleep": 8000}]))).await })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = monotonic();
    let end = said(&call(&client, retry(&params("q"), &first, json!({"r1_1": accept("word")}))).await);
    assert_eq!(end["answers"]["q"][0]["result"], accept("word"));
    assert!(begun.elapsed() < Duration::from_secs(4), "the answer was kept for {:?}", begun.elapsed());
    said(&running.await.unwrap().unwrap());
    host.stop().await;
}

/// Two calls that could both be meant, for the first time: the newest is taken, and the operator reads that it was a guess.
#[tokio::test(flavor = "multi_thread")]
async fn edge_03_a_guess_is_told_as_one() {
    let host = open(|_| {}).await;
    let client = Arc::new(able(&host));
    let quiet = {
        let client = client.clone();
        stdx::task::spawn("quiet", async move {
            call(&client, json!({"name": "quiet", "arguments": {"steps": [{"sleep": 600}]}})).await
        })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    let params = steps(&json!([form("a"), wait("a")]));
    let round = call(&client, params.clone()).await;
    assert_eq!(keys(&round), ["r1_1"]);
    said(&quiet.await.unwrap().unwrap());
    said(&call(&client, retry(&params, &round, json!({"r1_1": accept("x")}))).await);
    let name = "asker".parse().unwrap();
    let log = host.supervisor.log(&name).unwrap();
    let told = log.tail(200).into_iter().any(|line| line.text.contains("attribution=guess"));
    assert!(told, "the operator's log does not say so");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn held_calls_do_not_hold_up_a_stop() {
    let host = open(|setup| setup.face.drain = Duration::from_secs(20)).await;
    let client = able(&host);
    let params = steps(&json!([form("a"), wait("a"), {"sleep": 20000}]));
    keys(&call(&client, params).await);
    drop(client);
    let begun = monotonic();
    host.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

const MODES: [(&str, Mode); 3] =
    [("principal", Mode::PerPrincipal), ("session", Mode::PerSession), ("exclusive", Mode::Exclusive)];

/// Promise 3 with questions in flight: principals × modes × eras. Each question and each answer carries its asker's secret,
/// and nobody ever sees another's. (E197)
#[tokio::test(flavor = "multi_thread")]
async fn no_question_and_no_answer_reaches_the_wrong_caller() {
    const ROUNDS: usize = 6;
    let servers = MODES.into_iter().map(|(name, mode)| in_mode(server(name, "everything", &["--legacy"]), mode));
    let mut setup = Setup { auth: Auth::Required, ..Setup::default() };
    setup.supervisor.instances_per_principal = 64;
    let host = Host::with(servers.collect(), setup).await;
    let principals = ["ann", "bob", "cid", "dan"];
    // Between two calls of one principal the first question is a guess; this is about everything after it.
    let teacher = host.client_of("ann").await.with_capabilities(json!({"elicitation": {}}));
    modern_elicitation(&teacher, "principal", "secret-teacher.").await;
    let start = Arc::new(Barrier::new(principals.len() * MODES.len() * 2));
    let mut callers = Vec::new();
    for principal in principals {
        for (server, _) in MODES {
            for modern in [true, false] {
                let client = host.client_of(principal).await.with_capabilities(json!({"elicitation": {}}));
                let (start, secret) = (start.clone(), format!("secret-{principal}-{server}-{modern}"));
                callers.push(stdx::task::spawn("caller", async move {
                    let session = if modern { None } else { Some(client.legacy_session(server).await.unwrap()) };
                    start.wait().await;
                    for round in 0..ROUNDS {
                        let secret = format!("{secret}-{round}.");
                        let seen = match &session {
                            None => modern_elicitation(&client, server, &secret).await,
                            Some(session) => legacy_elicitation(session, round, &secret).await,
                        };
                        let own = secret.trim_start_matches("secret-");
                        let foreign = seen.split("secret-").skip(1).find(|rest| !rest.starts_with(own));
                        assert!(foreign.is_none() && seen.contains(&secret), "{secret}: {seen}");
                    }
                }));
            }
        }
    }
    let all: HashSet<_> = callers.iter().map(tokio::task::JoinHandle::id).collect();
    assert_eq!(all.len(), 24);
    for caller in callers {
        caller.await.unwrap().expect("a caller failed; its panic says why");
    }
    host.stop().await;
}

/// Everything that the client saw.
async fn modern_elicitation(client: &Client, server: &str, secret: &str) -> String {
    let params = json!({"name": "test_elicitation", "arguments": {"message": secret}});
    let (_, round) = client.modern_call(server, "tools/call", params.clone()).await.unwrap();
    let key = keys(&round).remove(0);
    let answer = json!({"action": "accept", "content": {"response": secret}});
    let again = retry(&params, &round, json!({key: answer}));
    let (_, end) = client.modern_call(server, "tools/call", again).await.unwrap();
    assert!(text(&end).contains(secret), "{end}");
    format!("{} {}", round["result"]["inputRequests"], end)
}

async fn legacy_elicitation(session: &Session<'_>, round: usize, secret: &str) -> String {
    let params = json!({"name": "test_elicitation", "arguments": {"message": secret}});
    let mut stream = session.stream(&json!(round), "tools/call", params).await.unwrap();
    let mut seen = String::new();
    while let Some(message) = stream.next_message().await.unwrap() {
        seen.push_str(&message.to_string());
        if message["method"] == FORM {
            let answer = json!({"action": "accept", "content": {"response": secret}});
            let answered = session.post(json!({"jsonrpc": "2.0", "id": message["id"], "result": answer}).to_string());
            assert_eq!(answered.await.unwrap().status, 202);
        }
    }
    seen
}
