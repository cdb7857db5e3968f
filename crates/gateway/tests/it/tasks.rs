//! Tasks of 2025-11-25: through where both sides have them, absorbed where the client has none, never another principal's.

use crate::host::{Host, Setup, in_mode, modern_tool, reason, server, text, tool};
use model::Mode;
use serde_json::{Value, json};
use staithe_gateway::Auth;
use testkit::{Client, Session};

async fn tasks(mode: Mode) -> Host {
    let spec = in_mode(server("every", "everything", &["--legacy", "--tasks"]), mode);
    Host::with(vec![spec], Setup { auth: Auth::Required, ..Setup::default() }).await
}

async fn answered(client: &Client, params: Value) -> (u16, Value) {
    client.modern_call("every", "tools/call", params).await.unwrap()
}

async fn counts(client: &Client) -> Value {
    modern_tool(client, "every", "test_task_counts", json!({})).await["result"]["structuredContent"].clone()
}

/// A task of a session's own making.
async fn made(session: &Session<'_>, ms: u64) -> String {
    let params = json!({"name":"test_task_required","arguments":{"ms":ms},"task":{"ttl":60000}});
    let answer = session.call("tools/call", params).await.unwrap();
    assert_eq!(answer["result"]["task"]["status"], "working", "{answer}");
    answer["result"]["task"]["taskId"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn b21_e210_e214_a_tool_that_runs_only_as_a_task_is_a_plain_call_for_modern_clients() {
    for mode in [Mode::PerPrincipal, Mode::Shared, Mode::Exclusive] {
        let host = tasks(mode).await;
        let client = host.client_of("ann").await;
        // Before anybody asked for the list.
        let answer = modern_tool(&client, "every", "test_task_required", json!({"ms":20})).await;
        let result = &answer["result"];
        assert_eq!(text(&answer), "test_task_required is done");
        assert_eq!((&result["structuredContent"], &result["resultType"]), (&json!({"task":true}), &json!("complete")));
        assert!(!answer.to_string().contains("related-task") && result.get("task").is_none(), "{answer}");
        let (status, answer) = answered(&client, json!({"name":"test_task_fails","arguments":{"ms":20}})).await;
        assert_eq!((status, &answer["error"]["message"]), (200, &json!("The task failed")), "{answer}");
        let (_, discovered) = client.modern_call("every", "server/discover", json!({})).await.unwrap();
        assert!(discovered["result"]["capabilities"].get("tasks").is_none(), "{discovered}");
        let (_, list) = client.modern_call("every", "tools/list", json!({})).await.unwrap();
        assert!(!list.to_string().contains("taskSupport"), "{list}");
        let (status, answer) = client.modern_call("every", "tasks/list", json!({})).await.unwrap();
        assert_eq!((status, &answer["error"]["code"]), (404, &json!(-32601)), "{answer}");
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e209_what_a_client_says_of_tasks_where_there_are_none_is_not_heard() {
    let host = tasks(Mode::PerPrincipal).await;
    let client = host.client_of("ann").await;
    let params = json!({"name":"test_task_optional","arguments":{"ms":10},"task":{"ttl":5}});
    let (status, answer) = answered(&client, params).await;
    assert_eq!((status, &answer["result"]["structuredContent"]), (200, &json!({"task":false})), "{answer}");
    assert_eq!(counts(&client).await["made"], 0);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e154_progress_of_the_task_is_progress_of_the_call() {
    let host = tasks(Mode::PerPrincipal).await;
    let client = host.client_of("ann").await;
    for token in [json!(0), json!("t")] {
        let params = json!({"name":"test_task_required","arguments":{"ms":200},"_meta":{"progressToken":token}});
        let mut stream = client.modern_stream("every", "tools/call", params).await.unwrap();
        let mut seen = Vec::new();
        while let Some(message) = stream.next_message().await.unwrap() {
            seen.push(message);
        }
        let (last, notes) = seen.split_last().unwrap();
        assert_eq!(last["result"]["structuredContent"], json!({"task":true}), "{seen:?}");
        assert_eq!(notes.len(), 2, "{seen:?}");
        assert!(notes.iter().all(|note| note["params"]["progressToken"] == token), "{seen:?}");
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e142_a_client_that_leaves_cancels_the_task() {
    let host = tasks(Mode::PerPrincipal).await;
    let client = host.client_of("ann").await;
    let params = json!({"name":"test_task_required","arguments":{"ms":50000},"_meta":{"progressToken":1}});
    let leaving = async {
        let stream = client.modern_stream("every", "tools/call", params).await;
        drop(stream);
    };
    let _ = tokio::time::timeout(std::time::Duration::from_millis(400), leaving).await;
    let mut found = Value::Null;
    for _ in 0..200 {
        found = counts(&client).await;
        if found["cancelled"] == 1 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(found, json!({"made":1,"working":0,"cancelled":1}));
    let seen = modern_tool(&client, "every", "cancellations", json!({})).await;
    assert_eq!(seen["result"]["structuredContent"]["arrived"], 0, "tasks have means of their own: {seen}");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b21_e211_tasks_pass_where_both_sides_have_them() {
    let host = tasks(Mode::PerPrincipal).await;
    let client = host.client_of("ann").await;
    let session = client.legacy_session("every").await.unwrap();
    assert!(session.initialized["capabilities"]["tasks"]["requests"]["tools"]["call"].is_object());
    let list = session.call("tools/list", json!({})).await.unwrap();
    assert!(list.to_string().contains(r#""taskSupport":"required""#));
    let refused = tool(&session, "test_task_required", json!({})).await;
    assert_eq!(refused["error"]["code"], -32601, "the server's own word: {refused}");
    let id = made(&session, 100).await;
    let got = session.call("tasks/get", json!({"taskId":id})).await.unwrap();
    assert_eq!(got["result"]["taskId"], json!(id), "{got}");
    let result = session.call("tasks/result", json!({"taskId":id})).await.unwrap();
    assert_eq!(result["result"]["_meta"]["io.modelcontextprotocol/related-task"], json!({"taskId":id}), "{result}");
    let listed = session.call("tasks/list", json!({})).await.unwrap();
    assert_eq!(listed["result"]["tasks"][0]["status"], "completed", "{listed}");
    let other = made(&session, 50_000).await;
    let cancelled = session.call("tasks/cancel", json!({"taskId":other})).await.unwrap();
    assert_eq!(cancelled["result"]["status"], "cancelled", "{cancelled}");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e212_e219_a_task_is_nobody_elses() {
    for mode in [Mode::PerPrincipal, Mode::PerSession] {
        let host = tasks(mode).await;
        let (ann, bob) = (host.client_of("ann").await, host.client_of("bob").await);
        let hers = ann.legacy_session("every").await.unwrap();
        let his = bob.legacy_session("every").await.unwrap();
        let id = made(&hers, 200).await;
        for method in ["tasks/get", "tasks/result", "tasks/cancel"] {
            let answer = his.call(method, json!({"taskId":id})).await.unwrap();
            assert_eq!(answer["error"]["code"], -32602, "{mode} {method}: {answer}");
        }
        let listed = his.call("tasks/list", json!({})).await.unwrap();
        assert_eq!(listed["result"]["tasks"], json!([]), "{mode}: {listed}");
        let result = hers.call("tasks/result", json!({"taskId":id})).await.unwrap();
        assert_eq!(result["result"]["structuredContent"], json!({"task":true}), "{mode}: {result}");
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e213_where_a_process_is_not_ones_own_there_are_no_tasks() {
    for mode in [Mode::Shared, Mode::Exclusive] {
        let host = tasks(mode).await;
        let ann = host.client_of("ann").await;
        let session = ann.legacy_session("every").await.unwrap();
        assert!(session.initialized["capabilities"].get("tasks").is_none(), "{mode}");
        let list = session.call("tools/list", json!({})).await.unwrap();
        assert!(!list.to_string().contains("taskSupport"), "{mode}: {list}");
        for method in ["tasks/get", "tasks/result", "tasks/cancel", "tasks/list"] {
            let answer = session.call(method, json!({"taskId":"x"})).await.unwrap();
            assert_eq!((&answer["error"]["code"], reason(&answer)), (&json!(-32601), "no_tasks"), "{mode} {method}");
        }
        // What runs only as a task is run as one by us.
        let params = json!({"name":"test_task_required","arguments":{"ms":20},"task":{}});
        let answer = session.call("tools/call", params).await.unwrap();
        assert_eq!(answer["result"]["structuredContent"], json!({"task":true}), "{mode}: {answer}");
        host.stop().await;
    }
}

/// Two tasks of one process ask at the same time: each question names its task, and so reaches the call of its own.
#[tokio::test(flavor = "multi_thread")]
async fn b21_e211_what_a_task_asks_is_asked_for_its_call() {
    let host = tasks(Mode::PerPrincipal).await;
    let client = host.client_of("ann").await.with_capabilities(json!({"elicitation":{}}));
    let ask = async |name: &'static str| {
        let params = json!({"name":"test_task_asks","arguments":{"ms":100,"who":name}});
        let (_, asked) = answered(&client, params.clone()).await;
        assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
        assert!(!asked.to_string().contains("related-task"), "{asked}");
        let requests = asked["result"]["inputRequests"].as_object().unwrap();
        assert_eq!(requests.len(), 1, "{asked}");
        let key = requests.keys().next().unwrap().clone();
        let mut again = params;
        again["requestState"] = asked["result"]["requestState"].clone();
        again["inputResponses"] = json!({ key: {"action":"accept","content":{"name":name}} });
        let (status, answer) = answered(&client, again).await;
        assert_eq!((status, text(&answer)), (200, format!("{name:?}").as_str()), "{answer}");
    };
    tokio::join!(ask("ann"), ask("another"));
    host.stop().await;
}

/// Many at once: each gets its own result, and no task is left.
#[tokio::test(flavor = "multi_thread")]
async fn absorbed_tasks_do_not_mix() {
    let host = tasks(Mode::Shared).await;
    let client = host.client_of("ann").await;
    let client = &client;
    let calls = (0..12).map(|n| async move {
        let ms = 20 + 10 * (n % 5);
        let name = if n % 3 == 0 { "test_task_fails" } else { "test_task_required" };
        let (_, answer) = answered(client, json!({"name":name,"arguments":{"ms":ms}})).await;
        assert_eq!(answer.get("error").is_some(), n % 3 == 0, "{name}: {answer}");
    });
    futures(calls).await;
    let found = counts(client).await;
    assert_eq!((&found["made"], &found["working"]), (&json!(12), &json!(0)));
    host.stop().await;
}

async fn futures(all: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        all.retain_mut(|one| one.as_mut().poll(cx).is_pending());
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
