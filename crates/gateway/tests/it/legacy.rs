//! Clients with sessions.

use crate::host::{Host, server};
use serde_json::json;

/// Shows E94, E122.
#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_client_lists_and_calls() {
    let host = Host::open(vec![server("every", "everything", &["--legacy"])]).await;
    let client = host.client();
    for revision in ["2025-03-26", "2025-06-18", "2025-11-25"] {
        let session = client.legacy_session_at("every", revision).await.unwrap();
        assert_eq!(session.revision, revision);
        let tools = session.call("tools/list", json!({})).await.unwrap();
        assert!(tools["result"]["tools"].as_array().unwrap().len() > 3, "{tools}");
        let echoed = session.call("tools/call", json!({"name":"echo","arguments":{"a":1}})).await.unwrap();
        assert_eq!(echoed["result"]["structuredContent"], json!({"a":1}), "{echoed}");
        assert_eq!(session.close().await.unwrap().status, 200);
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b14_a_sessions_log_level_reaches_a_server_of_either_era() {
    for flag in ["--legacy", "--modern"] {
        let host = Host::open(vec![server("every", "everything", &[flag])]).await;
        let client = host.client();
        let session = client.legacy_session("every").await.unwrap();
        for (level, expected) in [("emergency", 0), ("debug", 3)] {
            let set = session.call("logging/setLevel", json!({"level":level})).await.unwrap();
            assert_eq!(set["result"], json!({}), "{flag}: {set}");
            let params = json!({"name":"test_tool_with_logging","arguments":{}});
            let mut stream = session.stream(&json!(level), "tools/call", params).await.unwrap();
            let mut messages = 0;
            while stream.is_event_stream() {
                let Some(message) = stream.next_message().await.unwrap() else { break };
                messages += usize::from(message["method"] == "notifications/message");
            }
            assert_eq!(messages, expected, "{flag} {level}");
        }
        let refused = session.call("logging/setLevel", json!({"level":"loud"})).await.unwrap();
        assert_eq!(refused["error"]["code"], -32602, "{refused}");
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e190_what_is_not_bridged_is_refused_within_a_session() {
    let host = Host::open(vec![server("every", "everything", &["--modern"])]).await;
    let client = host.client();
    let session = client.legacy_session("every").await.unwrap();
    for method in ["subscriptions/listen", "server/discover"] {
        let answer = session.call(method, json!({"notifications":{"toolsListChanged":true}})).await.unwrap();
        assert_eq!(answer["error"]["code"], -32601, "{method}: {answer}");
    }
    host.stop().await;
}
