//! Clients of 2026-07-28, in front of servers of either era.

use crate::host::{Host, server};
use serde_json::{Value, json};
use testkit::{Client, MODERN};

async fn ok(client: &Client, method: &str, params: Value) -> Value {
    let (status, answer) = client.modern_call("every", method, params).await.unwrap();
    assert_eq!(status, 200, "{method}: {answer}");
    answer["result"].clone()
}

/// Shows E9, E46, E87, E180, E181.
#[tokio::test(flavor = "multi_thread")]
async fn every_plain_request_works_in_front_of_a_legacy_and_a_modern_server() {
    for flag in ["--legacy", "--modern", "--dual"] {
        let host = Host::open(vec![server("every", "everything", &[flag])]).await;
        let client = host.client();
        let discovered = ok(&client, "server/discover", json!({})).await;
        assert_eq!(discovered["supportedVersions"], json!([MODERN]), "{flag}: {discovered}");
        for (method, params) in [
            ("server/discover", json!({})),
            ("tools/list", json!({})),
            ("prompts/list", json!({})),
            ("resources/list", json!({})),
            ("resources/templates/list", json!({})),
            ("resources/read", json!({"uri":"test://static-text"})),
        ] {
            let result = ok(&client, method, params).await;
            assert_eq!(result["resultType"], "complete", "{flag} {method}: {result}");
            assert!(result["ttlMs"].is_u64(), "{flag} {method}: {result}");
            assert!(matches!(result["cacheScope"].as_str(), Some("private" | "public")), "{flag} {method}: {result}");
            let info = &result["_meta"]["io.modelcontextprotocol/serverInfo"];
            assert!(info["name"].is_string(), "{flag} {method}: {result}");
        }
        let called = ok(&client, "tools/call", json!({"name":"echo","arguments":{"x":[1]}})).await;
        assert_eq!((&called["structuredContent"], &called["resultType"]), (&json!({"x":[1]}), &json!("complete")));
        assert!(called.get("ttlMs").is_none(), "{called}");
        let prompt = ok(&client, "prompts/get", json!({"name":"test_simple_prompt"})).await;
        assert!(prompt["messages"].is_array());
        let completion = json!({"ref":{"type":"ref/prompt","name":"test_prompt_with_arguments"},"argument":{"name":"arg1","value":"p"}});
        assert!(ok(&client, "completion/complete", completion).await["completion"]["values"].is_array());
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e93_unknown_methods_are_404_and_removed_ones_too() {
    for flag in ["--legacy", "--modern"] {
        let host = Host::open(vec![server("every", "everything", &[flag])]).await;
        let client = host.client();
        for method in ["no/such", "initialize", "ping", "logging/setLevel", "resources/subscribe"] {
            let (status, answer) =
                client.modern_call("every", method, json!({"level":"info","uri":"a:b"})).await.unwrap();
            assert_eq!((status, &answer["error"]["code"]), (404, &json!(-32601)), "{flag} {method}: {answer}");
        }
        host.stop().await;
    }
}

/// Shows E111.
#[tokio::test(flavor = "multi_thread")]
async fn e112_a_missing_resource_is_invalid_params_with_status_200() {
    for flag in ["--legacy", "--modern"] {
        let host = Host::open(vec![server("every", "everything", &[flag])]).await;
        let (status, answer) =
            host.client().modern_call("every", "resources/read", json!({"uri":"test://missing"})).await.unwrap();
        assert_eq!((status, &answer["error"]["code"]), (200, &json!(-32602)), "{flag}: {answer}");
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e152_progress_travels_on_the_stream_of_its_request_with_its_own_token() {
    for flag in ["--legacy", "--modern"] {
        let host = Host::open(vec![server("every", "everything", &[flag])]).await;
        let client = host.client();
        for token in [json!(0), json!(""), json!("t"), json!(9_007_199_254_740_993_u64)] {
            let params = json!({"name":"test_tool_with_progress","arguments":{},"_meta":{"progressToken":token}});
            let mut stream = client.modern_stream("every", "tools/call", params).await.unwrap();
            assert!(stream.is_event_stream());
            let mut seen = Vec::new();
            while let Some(message) = stream.next_message().await.unwrap() {
                seen.push(message);
            }
            let (last, notes) = seen.split_last().unwrap();
            assert_eq!(last["result"]["resultType"], "complete", "{flag}");
            assert_eq!(notes.len(), 3, "{flag}: {notes:?}");
            assert!(notes.iter().all(|n| n["params"]["progressToken"] == token), "{flag}: {notes:?}");
        }
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e193_log_messages_come_only_to_requests_that_ask_for_them() {
    for flag in ["--legacy", "--modern"] {
        let host = Host::open(vec![server("every", "everything", &[flag])]).await;
        let client = host.client();
        let silent = json!({"name":"test_tool_with_logging","arguments":{}});
        let stream = client.modern_stream("every", "tools/call", silent.clone()).await.unwrap();
        assert!(!stream.is_event_stream(), "{flag}: nothing came before the answer");
        assert!(stream.whole().await.unwrap().json().unwrap()["result"].is_object(), "{flag}");
        let mut asking = silent;
        asking["_meta"] = json!({"io.modelcontextprotocol/logLevel":"debug"});
        let mut stream = client.modern_stream("every", "tools/call", asking).await.unwrap();
        let first = stream.next_message().await.unwrap().unwrap();
        assert_eq!(first["method"], "notifications/message", "{flag}: {first}");
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e88_an_unknown_version_is_400_with_the_list() {
    let host = Host::open(vec![server("every", "everything", &["--legacy"])]).await;
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2099-01-01","io.modelcontextprotocol/clientCapabilities":{}}}}"#;
    let headers =
        [("content-type", "application/json"), ("mcp-protocol-version", "2099-01-01"), ("mcp-method", "tools/list")];
    let response = host.client().post("/mcp/every", &headers, body).await.unwrap();
    let answer = response.json().unwrap();
    assert_eq!((response.status, &answer["error"]["code"]), (400, &json!(-32022)), "{answer}");
    assert_eq!(answer["error"]["data"], json!({"supported":[MODERN],"requested":"2099-01-01"}));
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e48_headers_that_disagree_with_the_body_are_refused() {
    let host = Host::open(vec![server("every", "everything", &["--legacy"])]).await;
    let client = host.client();
    let (headers, body) = client.modern_request("tools/call", json!({"name":"echo","arguments":{}}), &[]);
    for (wrong, value) in [("mcp-method", "tools/list"), ("mcp-name", "other"), ("mcp-protocol-version", "2025-11-25")]
    {
        let headers: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, given)| (name.as_str(), if name.eq_ignore_ascii_case(wrong) { value } else { given.as_str() }))
            .collect();
        let response = client.post("/mcp/every", &headers, body.clone()).await.unwrap();
        assert_eq!((response.status, &response.json().unwrap()["error"]["code"]), (400, &json!(-32020)), "{wrong}");
    }
    host.stop().await;
}
