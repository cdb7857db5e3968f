//! Parameters that modern clients mirror into `Mcp-Param-*` headers, in front of servers of either era.

use crate::host::{Host, in_mode, modern_tool, server, text, tool};
use model::Mode;
use serde_json::{Value, json};
use std::time::Duration;
use stdx::clock::monotonic;
use testkit::Client;
use testkit::wait::eventually;

const FLAGS: [&str; 3] = ["--legacy", "--modern", "--dual"];

async fn called(client: &Client, tool: &str, arguments: &Value, headers: &[(&str, &str)]) -> (u16, Value) {
    let params = json!({"name":tool,"arguments":arguments});
    client.modern_call_with("every", "tools/call", params, headers).await.unwrap()
}

/// The call is refused with -32020, and the words tell no value.
async fn refused(client: &Client, arguments: &Value, headers: &[(&str, &str)]) {
    let (status, answer) = called(client, "test_header_params", arguments, headers).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32020)), "{arguments} {headers:?}: {answer}");
    assert!(answer["id"].is_u64(), "{answer}");
    assert!(!answer.to_string().contains("oslo"), "a value is told: {answer}");
}

async fn accepted(client: &Client, arguments: &Value, headers: &[(&str, &str)]) {
    let (status, answer) = called(client, "test_header_params", arguments, headers).await;
    assert_eq!(status, 200, "{arguments} {headers:?}: {answer}");
    assert_eq!(&answer["result"]["structuredContent"], arguments, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn e54_e57_headers_must_mirror_the_body_from_the_first_call_on() {
    for flag in FLAGS {
        let host = Host::open(vec![server("every", "everything", &[flag])]).await;
        let client = host.client();
        let all = json!({"tenant":{"id":42},"dry":true,"place":"oslo"});
        let right = [("mcp-param-tenant", "42"), ("Mcp-Param-Dry-Run", "true"), ("mcp-param-place", "oslo")];
        // The first call of all: nobody has asked for the list.
        refused(&client, &all, &[]).await;
        accepted(&client, &all, &right).await;
        for (at, wrong) in
            [(0, "43"), (0, "\"42\""), (0, ""), (1, "True"), (1, "1"), (2, "Oslo"), (2, "=?base64?b3Nsbw=?=")]
        {
            let mut headers = right;
            headers[at].1 = wrong;
            refused(&client, &all, &headers).await;
        }
        for at in 0..3 {
            let rest: Vec<_> =
                right.into_iter().enumerate().filter(|(n, _)| *n != at).map(|(_, header)| header).collect();
            refused(&client, &all, &rest).await;
        }
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e51_e55_values_are_decoded_and_numbers_compared_by_value() {
    let host = Host::open(vec![server("every", "everything", &["--legacy"])]).await;
    let client = host.client();
    accepted(&client, &json!({"place":"Hello, 世界"}), &[("mcp-param-place", "=?base64?SGVsbG8sIOS4lueVjA==?=")]).await;
    accepted(&client, &json!({"place":" oslo "}), &[("mcp-param-place", "=?base64?IG9zbG8g?=")]).await;
    accepted(&client, &json!({"tenant":{"id":42}}), &[("mcp-param-tenant", "42.0")]).await;
    accepted(&client, &json!({"tenant":{"id":9_007_199_254_740_993_u64}}), &[("mcp-param-tenant", "9007199254740993")])
        .await;
    refused(&client, &json!({"tenant":{"id":9_007_199_254_740_993_u64}}), &[("mcp-param-tenant", "9007199254740992")])
        .await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e54_a_header_without_its_value_is_refused_and_an_absent_value_needs_none() {
    let host = Host::open(vec![server("every", "everything", &["--modern"])]).await;
    let client = host.client();
    for nothing in [json!({}), json!({"place":null}), json!({"tenant":{}}), json!({"tenant":null})] {
        accepted(&client, &nothing, &[]).await;
        refused(&client, &nothing, &[("mcp-param-place", "oslo")]).await;
        refused(&client, &nothing, &[("mcp-param-tenant", "1")]).await;
    }
    refused(&client, &json!({"place":["oslo"]}), &[]).await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e52_a_repeated_or_malformed_header_is_refused() {
    let host = Host::open(vec![server("every", "everything", &["--legacy"])]).await;
    let client = host.client();
    let place = json!({"place":"oslo"});
    refused(&client, &place, &[("mcp-param-place", "oslo"), ("Mcp-Param-Place", "oslo")]).await;
    refused(&client, &place, &[("mcp-param-place", "oslo\u{e9}")]).await;
    refused(&client, &place, &[("mcp-param-place", "=?base64?####?=")]).await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e56_e63_unknown_headers_and_tools_are_none_of_our_business() {
    for flag in FLAGS {
        let host = Host::open(vec![server("every", "everything", &[flag])]).await;
        let client = host.client();
        let strange = [("mcp-param-nobody", "x"), ("mcp-param-nobody", "\u{e9}"), ("mcp-param-", "x")];
        let (status, answer) = called(&client, "echo", &json!({"place":"x"}), &strange).await;
        assert_eq!((status, &answer["result"]["structuredContent"]), (200, &json!({"place":"x"})), "{flag}: {answer}");
        let (status, answer) = called(&client, "no_such_tool", &json!({"place":"x"}), &strange).await;
        assert_eq!((status, &answer["error"]["code"]), (200, &json!(-32602)), "{flag}: the server answers: {answer}");
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_clients_mirror_nothing() {
    for flag in FLAGS {
        let host = Host::open(vec![server("every", "everything", &[flag])]).await;
        let client = host.client();
        let session = client.legacy_session("every").await.unwrap();
        let params = json!({"name":"test_header_params","arguments":{"place":"oslo"}});
        let answer = session.call("tools/call", params).await.unwrap();
        assert_eq!(answer["result"]["structuredContent"], json!({"place":"oslo"}), "{flag}: {answer}");
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e189_a_changed_list_is_forgotten_before_anybody_hears_of_it() {
    for mode in [Mode::PerPrincipal, Mode::Shared] {
        let host = Host::open(vec![in_mode(server("every", "everything", &["--legacy"]), mode)]).await;
        let client = host.client();
        let place = json!({"place":"oslo"});
        for round in 0..4 {
            let (now, before) = if round % 2 == 0 {
                ("mcp-param-place", "mcp-param-new-place")
            } else {
                ("mcp-param-new-place", "mcp-param-place")
            };
            accepted(&client, &place, &[(now, "oslo")]).await;
            refused(&client, &place, &[(before, "oslo")]).await;
            modern_tool(&client, "every", "test_trigger_header_change", json!({})).await;
        }
        host.stop().await;
    }
}

/// A modern server tells of a change only to who listens. Who asks for the list is told too, and so are we.
#[tokio::test(flavor = "multi_thread")]
async fn e63_a_list_that_a_client_was_given_is_what_counts() {
    let host = Host::open(vec![server("every", "everything", &["--modern"])]).await;
    let client = host.client();
    let place = json!({"place":"oslo"});
    accepted(&client, &place, &[("mcp-param-place", "oslo")]).await;
    modern_tool(&client, "every", "test_trigger_header_change", json!({})).await;
    let (status, _) = client.modern_call("every", "tools/list", json!({})).await.unwrap();
    assert_eq!(status, 200);
    accepted(&client, &place, &[("mcp-param-new-place", "oslo")]).await;
    refused(&client, &place, &[("mcp-param-place", "oslo")]).await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_found_again_after_a_restart_and_over_pages() {
    let host = Host::open(vec![server("every", "everything", &["--legacy", "--extras"])]).await;
    let client = host.client();
    refused(&client, &json!({"place":"oslo"}), &[]).await;
    host.supervisor.restart(&crate::host::name("every")).await.unwrap();
    refused(&client, &json!({"place":"oslo"}), &[]).await;
    accepted(&client, &json!({"place":"oslo"}), &[("mcp-param-place", "oslo")]).await;
    host.stop().await;
}

/// Our own reading of the list is no call of anybody: the operator's count, the log messages of the one call in flight and
/// the drain do not see it.
#[tokio::test(flavor = "multi_thread")]
async fn reading_the_list_is_no_call() {
    let host = Host::open(vec![server("every", "everything", &["--legacy"])]).await;
    let client = host.client();
    let answer = modern_tool(&client, "every", "counter", json!({})).await;
    assert_eq!(answer["result"]["structuredContent"]["count"], 1);
    eventually("one call was counted", || host.report().calls == 1).await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e32_a_page_may_send_the_headers_that_it_asks_for() {
    let host = Host::open(vec![server("every", "everything", &["--legacy"])]).await;
    let asked = "content-type, mcp-param-region, Mcp-Param-Dry-Run, x-other, mcp-param-b\u{e4}d";
    let headers = [
        ("origin", "http://localhost:6274"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", asked),
    ];
    let response = host.client().request(&http::Method::OPTIONS, "/mcp/every", &headers, "").await.unwrap();
    let allowed = response.header("access-control-allow-headers").unwrap().to_owned();
    assert_eq!(response.status, 204);
    for name in [
        "Authorization",
        "MCP-Protocol-Version",
        "Mcp-Method",
        "Mcp-Name",
        "Last-Event-ID",
        "X-Staithe-Timing",
        "X-Staithe-Receipt",
        "mcp-param-region",
        "Mcp-Param-Dry-Run",
    ] {
        assert!(allowed.split(", ").any(|one| one == name), "{name}: {allowed}");
    }
    assert!(!allowed.contains("x-other") && !allowed.contains('*'), "{allowed}");
    // What comes back to its call may be read, and of other pages nothing.
    for (origin, may) in [("http://localhost:6274", true), ("https://evil.example", false)] {
        let (headers, body) =
            host.client().modern_request("tools/list", json!({}), &[("x-staithe-timing", "1"), ("origin", origin)]);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let answer = host.client().post("/mcp/every", &headers, body).await.unwrap();
        let exposed = answer.header("access-control-expose-headers").unwrap_or_default();
        assert_eq!((answer.status == 200, answer.header("server-timing").is_some()), (may, may), "{origin}");
        for name in ["Server-Timing", "Retry-After", "Mcp-Session-Id"] {
            assert_eq!(exposed.split(", ").any(|one| one == name), may, "{origin}: {name} in {exposed:?}");
        }
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_without_headers_is_called_without_a_word() {
    let host = Host::open(vec![server("every", "everything", &["--dual"])]).await;
    let answer = modern_tool(&host.client(), "every", "test_simple_text", json!({})).await;
    assert_eq!(text(&answer), "This is a simple text response for testing.");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_wait_for_the_list_but_for_no_pause_after_its_changes() {
    for (flag, mode) in [("--modern", "legacy"), ("--modern", "modern"), ("--legacy", "modern")] {
        let host = Host::open(vec![server("every", "everything", &[flag])]).await;
        let client = host.client();
        let session = client.legacy_session("every").await.unwrap();
        for round in 0..12 {
            let began = monotonic();
            if mode == "legacy" {
                tool(&session, "test_trigger_tool_change", json!({})).await;
            } else {
                modern_tool(&client, "every", "test_trigger_tool_change", json!({})).await;
            }
            assert!(began.elapsed() < Duration::from_secs(1), "{flag} {mode}, change {round}: {:?}", began.elapsed());
        }
        host.stop().await;
    }
}
