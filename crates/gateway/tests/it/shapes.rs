//! What one revision has and another has not, in front of real servers: kinds of content, schemas, extensions.

use crate::host::{Host, modern_tool, server, tool};
use serde_json::{Value, json};

async fn everything(flags: &[&str]) -> Host {
    Host::open(vec![server("every", "everything", flags)]).await
}

async fn block(host: &Host, revision: &str, name: &str) -> Value {
    let client = host.client();
    let session = client.legacy_session_at("every", revision).await.unwrap();
    assert_eq!(session.revision, revision);
    let answer = tool(&session, name, json!({})).await;
    answer["result"]["content"][0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn b3_e96_old_clients_get_only_content_that_their_revision_has() {
    for flag in ["--legacy", "--modern"] {
        let host = everything(&[flag]).await;
        for (revision, audio, link) in [
            ("2024-11-05", "text", "text"),
            ("2025-03-26", "audio", "text"),
            ("2025-06-18", "audio", "resource_link"),
            ("2025-11-25", "audio", "resource_link"),
        ] {
            let shown = block(&host, revision, "test_audio_content").await;
            assert_eq!(shown["type"], audio, "{flag} {revision}: {shown}");
            if audio == "text" {
                assert!(shown["text"].as_str().unwrap().contains("audio/wav"), "{shown}");
            }
            let shown = block(&host, revision, "test_resource_link").await;
            assert_eq!(shown["type"], link, "{flag} {revision}: {shown}");
            if link == "text" {
                assert_eq!(shown["text"], "static-text: test://static-text");
            }
            let shown = block(&host, revision, "test_image_content").await;
            assert_eq!(shown["type"], "image", "{flag} {revision}");
        }
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b25_b26_e202_a_list_as_output_is_wrapped_for_old_clients_in_schema_and_result() {
    for revision in ["2025-06-18", "2025-11-25"] {
        // The call comes first: nobody has asked for the list.
        let host = everything(&["--modern"]).await;
        let client = host.client();
        let session = client.legacy_session_at("every", revision).await.unwrap();
        let called = tool(&session, "test_list_output", json!({})).await;
        assert_eq!(called["result"]["structuredContent"], json!({"result":[1,2,3]}), "{called}");
        assert_eq!(called["result"]["content"], json!([{"type":"text","text":"[1,2,3]"}]));
        let object = tool(&session, "echo", json!({"a":[1]})).await;
        assert_eq!(object["result"]["structuredContent"], json!({"a":[1]}), "what is an object stays: {object}");
        let list = session.call("tools/list", json!({})).await.unwrap();
        let tools = list["result"]["tools"].as_array().unwrap();
        let listed = tools.iter().find(|tool| tool["name"] == "test_list_output").unwrap();
        let schema = json!({"type":"object","required":["result"],"properties":{"result":{"type":"array","items":{"type":"integer"}}}});
        assert_eq!(listed["outputSchema"], schema);
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn modern_clients_get_any_json_as_it_is() {
    let host = everything(&["--modern"]).await;
    let answer = modern_tool(&host.client(), "every", "test_list_output", json!({})).await;
    assert_eq!(answer["result"]["structuredContent"], json!([1, 2, 3]));
    host.stop().await;
}

/// The extension of the test server, as a client is told of it in its own era.
async fn told(host: &Host) -> (Value, Value) {
    let client = host.client();
    let session = client.legacy_session("every").await.unwrap();
    let legacy = session.initialized["capabilities"]["extensions"].clone();
    let (_, answer) = client.modern_call("every", "server/discover", json!({})).await.unwrap();
    (legacy, answer["result"]["capabilities"]["extensions"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn b39_e103_extensions_of_the_server_reach_clients_of_both_eras() {
    for flag in ["--legacy", "--modern", "--dual"] {
        let host = everything(&[flag, "--extras"]).await;
        let expected = json!({"com.example/color":{"shade":"red"}});
        assert_eq!(told(&host).await, (expected.clone(), expected), "{flag}");
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b39_extensions_of_the_client_reach_the_server_and_tasks_never_across_eras() {
    let extensions =
        json!({"io.modelcontextprotocol/ui":{"mimeTypes":["text/html"]},"io.modelcontextprotocol/tasks":{}});
    let without = json!({"io.modelcontextprotocol/ui":{"mimeTypes":["text/html"]}});
    for (flag, legacy, modern) in
        [("--legacy", Some(&extensions), None), ("--modern", Some(&without), Some(&extensions))]
    {
        let host = everything(&[flag]).await;
        let client = host.client().with_capabilities(json!({ "extensions": extensions }));
        if let Some(expected) = legacy {
            let session = client.legacy_session("every").await.unwrap();
            let answer = tool(&session, "whoami", json!({})).await;
            let seen = &answer["result"]["structuredContent"]["capabilities"]["extensions"];
            assert_eq!(seen, expected, "{flag}, legacy client");
        }
        if let Some(expected) = modern {
            let answer = modern_tool(&client, "every", "whoami", json!({})).await;
            let seen = &answer["result"]["structuredContent"]["capabilities"]["extensions"];
            assert_eq!(seen, expected, "{flag}, modern client");
        }
        host.stop().await;
    }
}

/// A form with a choice of several exists since 2025-11-25: the server hears so, and no client is shown half of it.
#[tokio::test(flavor = "multi_thread")]
async fn b3_a_form_that_a_revision_does_not_have_is_refused_to_the_server() {
    let host = everything(&["--legacy"]).await;
    let client = host.client().with_capabilities(json!({"elicitation":{}}));
    for revision in ["2025-06-18", "2025-03-26"] {
        let session = client.legacy_session_at("every", revision).await.unwrap();
        let answer = tool(&session, "test_elicitation_sep1330_enums", json!({})).await;
        assert_eq!(answer["result"]["isError"], true, "{revision}: {answer}");
        assert!(answer.to_string().contains("choose several values"), "{revision}: {answer}");
    }
    host.stop().await;
}
