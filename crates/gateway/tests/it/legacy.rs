//! Clients with sessions.

use crate::host::{Host, server};
use serde_json::json;

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
