//! What is not ours to change arrives as it was sent, to the byte.

use crate::host::{Host, server};
use testkit::{Client, MODERN};

const ODD_JSON: &str =
    r#"{"n":1234567890123456789012345,"price":1.10,"e":1E5,"unknown":{"z":[],"a":"\u00e9 \/ é"},"spaced" : [ 1 , 2 ]}"#;

/// Shows E3, E12.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_and_number_spellings_survive_in_both_eras() {
    let host = Host::open(vec![server("every", "everything", &[])]).await;
    let client = host.client();
    let session = client.legacy_session("every").await.unwrap();
    let legacy = format!(
        r#"{{ "jsonrpc":"2.0", "id" : 1.5e0 ,"method":"tools/call","params":{{"name":"echo","arguments":{ODD_JSON}}}}}"#
    );
    let refused = session.post(legacy.clone()).await.unwrap();
    assert_eq!(refused.status, 400, "an id that is no integer is refused");
    let answered = session.post(legacy.replace("1.5e0", r#""é\u00e9\"""#)).await.unwrap();
    assert_carries(&answered.body, r#""id":"é\u00e9\"""#);
    assert_carries(&answered.body, ODD_JSON);

    let (status, body) = modern_echo(&client, "7").await;
    assert_eq!(status, 200);
    assert_carries(&body, ODD_JSON);
    assert_carries(&body, r#""id":7"#);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_modern_call_to_a_legacy_server_changes_only_what_the_eras_differ_in() {
    let host = Host::open(vec![server("every", "everything", &["--legacy"])]).await;
    let (status, body) = modern_echo(&host.client(), r#""a""#).await;
    assert_eq!(status, 200);
    assert_carries(&body, ODD_JSON);
    assert_carries(&body, r#""resultType":"complete""#);
    host.stop().await;
}

/// A pretty-printed body crosses a pipe whose messages end at line breaks.
#[tokio::test(flavor = "multi_thread")]
async fn e220_a_pretty_printed_body_stays_one_line() {
    let host = Host::open(vec![server("every", "everything", &["--legacy"])]).await;
    let client = host.client();
    let session = client.legacy_session("every").await.unwrap();
    let body = "{\r\n  \"jsonrpc\": \"2.0\",\n  \"id\": 3,\n  \"method\": \"tools/call\",\n  \"params\": {\n    \"name\": \"echo\",\n    \"arguments\": {\n \"k\": \"v\\n\" }\n  }\n}";
    let answered = session.post(body).await.unwrap();
    assert_eq!(answered.json().unwrap()["result"]["structuredContent"], serde_json::json!({"k": "v\n"}));
    host.stop().await;
}

async fn modern_echo(client: &Client, id: &str) -> (u16, bytes::Bytes) {
    let meta = format!(
        r#"{{"io.modelcontextprotocol/protocolVersion":"{MODERN}","io.modelcontextprotocol/clientCapabilities":{{}},"io.modelcontextprotocol/clientInfo":{{"name":"t","version":"1"}}}}"#
    );
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"echo","arguments":{ODD_JSON},"_meta":{meta}}}}}"#
    );
    let headers = [
        ("mcp-protocol-version", MODERN),
        ("mcp-method", "tools/call"),
        ("mcp-name", "echo"),
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
    ];
    let response = client.post("/mcp/every", &headers, body).await.unwrap();
    (response.status, response.body)
}

fn assert_carries(body: &[u8], part: &str) {
    let text = String::from_utf8_lossy(body);
    assert!(text.contains(part), "{part}\nis not in\n{text}");
}
