//! The edge cases that live on the wire: statuses, ambiguous openings, ids, two readers with two truths, sick pipes.

use crate::host::{Host, Setup, in_mode, modern_tool, server, text, tool};
use model::Mode;
use serde_json::{Value, json};
use staithe_gateway::Auth;
use std::time::Duration;
use testkit::{Client, MODERN};

const JSON: [(&str, &str); 2] =
    [("content-type", "application/json"), ("accept", "application/json, text/event-stream")];

/// Status and answer of a POST of exactly these bytes.
async fn posted(client: &Client, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
    let response = client.post("/mcp/every", headers, body.to_owned()).await.unwrap();
    (response.status, response.json().unwrap_or(Value::Null))
}

/// The same with all that a modern request of `method` needs, `name` included.
async fn modern(client: &Client, method: &str, name: &str, body: &str) -> (u16, Value) {
    let mut headers = JSON.to_vec();
    headers.extend([("mcp-protocol-version", MODERN), ("mcp-method", method), ("mcp-name", name)]);
    posted(client, &headers, body).await
}

/// A modern call of `echo` with these params before its metadata.
fn echo(params: &str) -> String {
    let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{{params},{meta}}}}}"#)
}

/// Errors choose their status as long as it is free, those of tools keep 200, and every refusal is a JSON-RPC error that no
/// client takes for another era's. (E31, E93, E111)
#[tokio::test(flavor = "multi_thread")]
async fn edge_06_every_refusal_has_its_status_and_a_json_rpc_body() {
    let servers = vec![server("every", "everything", &["--modern"])];
    let host = Host::with(servers, Setup { auth: Auth::Required, ..Setup::default() }).await;
    let client = host.client_of("ann").await;
    let (status, answer) = client.modern_call("every", "no/such", json!({})).await.unwrap();
    assert_eq!((status, &answer["error"]["code"]), (404, &json!(-32601)));
    let (status, answer) = client.modern_call("every", "tools/call", json!({"name":"no_such"})).await.unwrap();
    assert_eq!((status, &answer["error"]["code"]), (200, &json!(-32602)), "the server's own: {answer}");
    let meta = json!({"io.modelcontextprotocol/clientCapabilities":[]});
    let (status, answer) = client.modern_call("every", "tools/list", json!({"_meta":meta})).await.unwrap();
    assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32602)), "the envelope: {answer}");
    let params = json!({"name":"test_missing_capability","arguments":{}});
    let (status, answer) = client.modern_call("every", "tools/call", params).await.unwrap();
    assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32021)), "{answer}");
    // What no server has seen: each is deliberate, none looks like a foreign era or an empty 404.
    let nobody = host.client();
    let unknown = [JSON[0], JSON[1], ("mcp-session-id", "nobody")];
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    for (response, status) in [
        (nobody.post("/mcp/every", &JSON, ping).await.unwrap(), 401),
        (client.post("/mcp/every", &unknown, ping).await.unwrap(), 404),
        (client.post("/mcp/every", &JSON, ping).await.unwrap(), 400),
        (client.post("/mcp/every", &[("content-type", "text/plain")], ping).await.unwrap(), 415),
        (client.post("/mcp/every", &JSON, "{").await.unwrap(), 400),
        (client.post("/nothing", &JSON, ping).await.unwrap(), 404),
        (client.get("/mcp/every", &[("accept", "text/event-stream")]).await.unwrap(), 405),
    ] {
        let body = response.json().unwrap();
        assert_eq!((response.status, &body["jsonrpc"]), (status, &json!("2.0")), "{body}");
        let code = body["error"]["code"].as_i64().unwrap();
        assert!(matches!(code, -32700 | -32600), "{body}");
    }
    host.stop().await;
}

/// `initialize` and `ping` are told apart by their metadata, arrays by their session, and no second `initialize` reaches a
/// process. (E67, E69, E70, E91, E92)
#[tokio::test(flavor = "multi_thread")]
async fn edge_08_openings_are_told_apart_by_what_they_say() {
    let host = Host::open(vec![in_mode(server("every", "everything", &["--legacy"]), Mode::Shared)]).await;
    let client = host.client();
    for method in ["initialize", "ping"] {
        let (status, answer) = client.modern_call("every", method, json!({})).await.unwrap();
        assert_eq!((status, &answer["error"]["code"]), (404, &json!(-32601)), "{method}: {answer}");
    }
    let open = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}"#;
    let claims = [JSON[0], JSON[1], ("mcp-protocol-version", MODERN)];
    let (status, answer) = posted(&client, &claims, open).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32020)), "{answer}");
    let first = client.legacy_session_at("every", "2025-03-26").await.unwrap();
    let second = client.legacy_session("every").await.unwrap();
    let pid = |answer: Value| answer["result"]["structuredContent"]["pid"].clone();
    assert_eq!(
        pid(tool(&first, "whoami", json!({})).await),
        pid(tool(&second, "whoami", json!({})).await),
        "both were greeted by one process, which heard one initialize"
    );
    let again = [JSON[0], JSON[1], ("mcp-session-id", second.id.as_deref().unwrap())];
    assert_eq!(posted(&client, &again, open).await.0, 400);
    // No header: inside a session its own revision counts.
    let old = [JSON[0], JSON[1], ("mcp-session-id", first.id.as_deref().unwrap())];
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"ping"}]"#;
    assert_eq!(client.post("/mcp/every", &old, batch).await.unwrap().status, 200);
    assert_eq!(posted(&client, &again, batch).await.0, 400, "no batches after 2025-03-26");
    assert_eq!(posted(&client, &old, &format!("[{open}]")).await.0, 400, "no initialize in a batch");
    host.stop().await;
}

/// Ids and tokens come back as they were spelled, whatever others use at the same time, and a late answer never meets a
/// request that uses its id again. (E3, E5, E143, E149)
#[tokio::test(flavor = "multi_thread")]
async fn edge_09_ids_are_the_callers_own() {
    let host = Host::open(vec![in_mode(server("every", "everything", &["--legacy"]), Mode::Shared)]).await;
    let (ann, bob) = (host.client(), host.client());
    let (hers, his) = (ann.legacy_session("every").await.unwrap(), bob.legacy_session("every").await.unwrap());
    let ids = [json!(1), json!("1"), json!(9_007_199_254_740_993_u64), json!(""), json!(0), json!(-5)];
    for id in &ids {
        let said = |who: &str| json!({"name":"echo","arguments":{"who":who,"id":id}});
        let (one, other) = tokio::join!(
            hers.call_with_id(id, "tools/call", said("ann")),
            his.call_with_id(id, "tools/call", said("bob"))
        );
        for (answer, who) in [(one.unwrap(), "ann"), (other.unwrap(), "bob")] {
            assert_eq!((&answer["id"], &answer["result"]["structuredContent"]["who"]), (id, &json!(who)), "{answer}");
        }
    }
    // The slow call is taken back and its id used again at once: the late answer is nobody's.
    let (seven, eight) = (json!(7), json!(8));
    let slow = hers.stream(&seven, "tools/call", json!({"name":"sleep","arguments":{"ms":300}}));
    let taken_back = async {
        tokio::time::sleep(Duration::from_millis(60)).await;
        hers.notify("notifications/cancelled", json!({"requestId":7})).await.unwrap();
        hers.call_with_id(&seven, "tools/call", json!({"name":"echo","arguments":{"second":true}})).await.unwrap()
    };
    let (_stream, answer) = tokio::join!(slow, taken_back);
    assert_eq!(answer["result"]["structuredContent"], json!({"second":true}), "{answer}");
    // Another session's cancellation of an equal id does nothing.
    let params = json!({"name":"sleep","arguments":{"ms":200}});
    let (slept, noted) = tokio::join!(hers.call_with_id(&eight, "tools/call", params), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        his.notify("notifications/cancelled", json!({"requestId":8})).await
    });
    assert_eq!((text(&slept.unwrap()), noted.unwrap().status), ("slept 200 ms", 202));
    host.stop().await;
}

/// Whatever two readers could read as two things is refused; what is only spelled oddly is one thing. (E15, E54, E55, E220)
#[tokio::test(flavor = "multi_thread")]
async fn edge_10_there_is_one_truth() {
    let host = Host::open(vec![server("every", "everything", &["--legacy"])]).await;
    let client = host.client();
    for params in [
        r#""name":"echo","name":"counter""#,
        r#""name":"echo","n\u0061me":"counter""#,
        r#""name":"echo","Name":"counter""#,
        r#""name":"echo","arguments":{"a":1,"a":2}"#,
        r#""name":"echo","arguments":{},"Arguments":{"a":2}"#,
    ] {
        let (status, answer) = modern(&client, "tools/call", "echo", &echo(params)).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32600)), "{params}: {answer}");
    }
    for (method, name) in [("tools/call", "counter"), ("tools/Call", "echo"), ("tools/list", "echo")] {
        let (status, answer) = modern(&client, method, name, &echo(r#""name":"echo""#)).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32020)), "{method} {name}: {answer}");
    }
    // One name in three spellings, a body over many lines, a header in Base64: all are the same call.
    let spread = echo(r#""n\u0061me":"ech\u006f","arguments":{"x":1.10}"#).replace(',', ",\r\n\t");
    let (status, answer) = modern(&client, "tools/call", "=?base64?ZWNobw==?=", &spread).await;
    assert_eq!((status, text(&answer)), (200, r#"{"x":1.10}"#), "{answer}");
    // Nested and unannotated: only the annotated path counts.
    let params = json!({"name":"test_header_params","arguments":{"id":7,"tenant":{"id":42,"place":"x"},"Place":"y"}});
    let headers = [("mcp-param-tenant", "42.0")];
    let (status, answer) = client.modern_call_with("every", "tools/call", params, &headers).await.unwrap();
    assert_eq!(status, 200, "{answer}");
    host.stop().await;
}

/// Banners, marks, line ends, arrays and halves on the pipe cost nobody but their own call. (E7, E222, E227)
#[tokio::test(flavor = "multi_thread")]
async fn edge_12_a_sick_pipe_hurts_only_its_own_call() {
    let host = Host::open(vec![server("every", "odd", &["--banner", "--both", "--batch"])]).await;
    let client = host.client();
    for round in 0..3 {
        let answer = modern_tool(&client, "every", "echo", json!({"n":round})).await;
        assert!(answer["result"]["resultType"] == "complete", "{answer}");
        let (_, broken) = client.modern_call("every", "tools/call", json!({"name":"both"})).await.unwrap();
        assert_eq!(broken["error"]["code"], -32603, "{broken}");
    }
    let session = client.legacy_session("every").await.unwrap();
    assert!(tool(&session, "echo", json!({"n":9})).await["result"].is_object());
    host.stop().await;
}
