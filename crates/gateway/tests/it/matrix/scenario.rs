//! What is done to see a feature, in words of no era: the same for a server's own pipe and for staithe in front of it.
#![expect(clippy::panic, reason = "a test fails by panicking")]

use super::peer::{Link, Peer};
use serde_json::{Value, json};
use std::time::Duration;
use testkit::matrix::Feature;

const WATCHED: &str = "test://watched-resource";

/// Everything that is seen of `feature`.
pub(super) async fn observe(peer: &mut Peer<'_>, feature: Feature) -> Vec<Value> {
    let mut seen = match feature {
        Feature::Open => vec![peer.opened().await],
        Feature::ToolList => everything_of(peer, "tools/list", "tools").await,
        Feature::ToolCall => tool_calls(peer).await,
        Feature::Audio => tool(peer, "test_audio_content").await,
        Feature::ResourceLink => tool(peer, "test_resource_link").await,
        Feature::Structured => {
            call(peer, "echo", json!({"n": 1.50, "big": 12_345_678_901_234_567_u64, "x": null})).await
        }
        Feature::StructuredList => structured_list(peer).await,
        Feature::Resources => resources(peer).await,
        Feature::NotFound => peer.ask("resources/read", json!({"uri": "test://missing"})).await,
        Feature::Prompts => prompts(peer).await,
        Feature::Completion => completion(peer).await,
        Feature::Pagination => pages(peer).await,
        Feature::Logging => logging(peer).await,
        Feature::Progress => {
            let token = json!({"progressToken": "a \u{e9}"});
            peer.ask("tools/call", json!({"name": "sleep", "arguments": {"ms": 20}, "_meta": token})).await
        }
        Feature::Cancellation => cancellation(peer).await,
        Feature::ListChanges => list_changes(peer).await,
        Feature::Subscription => subscription(peer).await,
        Feature::Sampling => call(peer, "test_sampling", json!({"prompt": "Capital?"})).await,
        Feature::Form => call(peer, "test_elicitation", json!({"message": "Which color?"})).await,
        Feature::Url => tool(peer, "test_elicitation_url").await,
        Feature::Roots => tool(peer, "test_input_required_result_list_roots").await,
        Feature::Rounds => rounds(peer).await,
        Feature::Ping => peer.ask("ping", json!({})).await,
        Feature::Batch => batch(peer).await,
        Feature::UnknownMethod => unknown_methods(peer).await,
        Feature::UnknownExtension => extension(peer).await,
        Feature::Resume => {
            let params = json!({"name": "sleep", "arguments": {"ms": 150}, "_meta": {"progressToken": 3}});
            peer.broken("tools/call", params).await
        }
    };
    order_questions(&mut seen);
    seen
}

/// Questions that stand side by side were asked at once: their order says nothing.
fn order_questions(seen: &mut [Value]) {
    for group in seen.chunk_by_mut(|one, next| one.get("asked").is_some() && next.get("asked").is_some()) {
        group.sort_by_key(Value::to_string);
    }
}

async fn call(peer: &mut Peer<'_>, name: &str, arguments: Value) -> Vec<Value> {
    peer.ask("tools/call", json!({"name": name, "arguments": arguments})).await
}

async fn tool(peer: &mut Peer<'_>, name: &str) -> Vec<Value> {
    call(peer, name, json!({})).await
}

/// An unknown tool is an error of the request, a failure of a tool is a result (E114).
async fn tool_calls(peer: &mut Peer<'_>) -> Vec<Value> {
    let mut seen = Vec::new();
    for name in [
        "test_simple_text",
        "test_image_content",
        "test_embedded_resource",
        "test_multiple_content_types",
        "test_error_handling",
        "no_such_tool",
    ] {
        seen.extend(tool(peer, name).await);
    }
    seen
}

async fn structured_list(peer: &mut Peer<'_>) -> Vec<Value> {
    let listed = everything_of(peer, "tools/list", "tools").await;
    let schema = listed.iter().find(|tool| tool["name"] == "test_list_output").map(|tool| tool["outputSchema"].clone());
    let mut seen = vec![json!({"schema": schema})];
    seen.extend(tool(peer, "test_list_output").await);
    seen
}

/// What is not there has the code of the client's era (E112, E113), see `NotFound`.
async fn resources(peer: &mut Peer<'_>) -> Vec<Value> {
    let mut seen = everything_of(peer, "resources/list", "resources").await;
    seen.extend(everything_of(peer, "resources/templates/list", "resourceTemplates").await);
    for uri in ["test://static-text", "test://static-binary", "test://template/7/data"] {
        seen.extend(peer.ask("resources/read", json!({"uri": uri})).await);
    }
    seen
}

async fn prompts(peer: &mut Peer<'_>) -> Vec<Value> {
    let mut seen = everything_of(peer, "prompts/list", "prompts").await;
    for (name, arguments) in [
        ("test_simple_prompt", json!({})),
        ("test_prompt_with_arguments", json!({"arg1": "a", "arg2": "b"})),
        ("test_prompt_with_image", json!({})),
        ("no_such_prompt", json!({})),
    ] {
        seen.extend(peer.ask("prompts/get", json!({"name": name, "arguments": arguments})).await);
    }
    seen
}

async fn completion(peer: &mut Peer<'_>) -> Vec<Value> {
    let reference = json!({"type": "ref/prompt", "name": "test_prompt_with_arguments"});
    peer.ask("completion/complete", json!({"ref": reference, "argument": {"name": "arg1", "value": "pa"}})).await
}

/// The pages as they are, cursors included, and what a wrong cursor gets (E204).
async fn pages(peer: &mut Peer<'_>) -> Vec<Value> {
    let mut seen = peer.ask("prompts/list", json!({})).await;
    while let Some(cursor) = seen.last().and_then(|page| page["result"].get("nextCursor")).cloned() {
        seen.extend(peer.ask("prompts/list", json!({"cursor": cursor})).await);
    }
    assert!(seen.len() > 2, "{seen:?}");
    seen.extend(peer.ask("prompts/list", json!({"cursor": "made up"})).await);
    seen
}

/// All items of a list, page by page, in the server's order, whoever asks and whatever was done before (E191, E192).
async fn everything_of(peer: &mut Peer<'_>, method: &str, member: &str) -> Vec<Value> {
    let (mut items, mut params) = (Vec::new(), json!({}));
    loop {
        let page = peer.ask(method, params).await;
        let result = &page[0]["result"];
        items.extend(result[member].as_array().unwrap_or_else(|| panic!("{method}: {page:?}")).iter().cloned());
        match result.get("nextCursor") {
            Some(cursor) => params = json!({"cursor": cursor}),
            None => return items,
        }
    }
}

async fn logging(peer: &mut Peer<'_>) -> Vec<Value> {
    let mut seen = Vec::new();
    for level in ["emergency", "debug"] {
        peer.level(level).await;
        seen.extend(tool(peer, "test_tool_with_logging").await);
    }
    seen
}

/// The call is stopped within the server, and no answer comes.
async fn cancellation(peer: &mut Peer<'_>) -> Vec<Value> {
    let before = stopped(peer).await;
    let params = json!({"name": "sleep", "arguments": {"ms": 60_000}});
    let seen = peer.take_back("tools/call", params, Duration::from_millis(60)).await;
    for _ in 0..500 {
        let after = stopped(peer).await;
        if after > before {
            return vec![json!({"came": seen, "stopped": after - before})];
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    vec![json!({"came": seen, "stopped": 0})]
}

async fn stopped(peer: &mut Peer<'_>) -> u64 {
    let seen = tool(peer, "cancellations").await;
    seen[0]["result"]["structuredContent"]["stopped"].as_u64().unwrap_or_else(|| panic!("{seen:?}"))
}

async fn list_changes(peer: &mut Peer<'_>) -> Vec<Value> {
    let refused = peer.listen(WATCHED).await;
    if !refused.is_empty() {
        return refused;
    }
    for name in ["test_trigger_tool_change", "test_trigger_prompt_change", "test_trigger_resource_change"] {
        tool(peer, name).await;
    }
    let heard = peer.heard(3).await;
    peer.unlisten(WATCHED).await;
    heard
}

/// One update of what is subscribed to, none of what is not.
async fn subscription(peer: &mut Peer<'_>) -> Vec<Value> {
    let refused = peer.listen(WATCHED).await;
    if !refused.is_empty() {
        return refused;
    }
    for uri in ["test://static-text", WATCHED] {
        call(peer, "test_trigger_resource_update", json!({"uri": uri})).await;
    }
    let mut heard = peer.heard(1).await;
    peer.unlisten(WATCHED).await;
    call(peer, "test_trigger_resource_update", json!({"uri": WATCHED})).await;
    heard.extend(peer.heard(0).await);
    heard
}

/// A modern server opens only the state that it sealed: between modern peers it arrives as it was (E178).
async fn rounds(peer: &mut Peer<'_>) -> Vec<Value> {
    let mut seen = Vec::new();
    for name in ["test_input_required_result_multiple_inputs", "test_input_required_result_multi_round"] {
        seen.extend(tool(peer, name).await);
    }
    seen.extend(peer.ask("prompts/get", json!({"name": "test_input_required_result_prompt"})).await);
    seen
}

/// Two calls in one array; their answers in the order of their ids (E66, E68, E69).
async fn batch(peer: &mut Peer<'_>) -> Vec<Value> {
    let request = |id: u64| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "echo", "arguments": {"id": id}}});
    if let Link::Pipe(_) = peer.link {
        // No server of these tests reads arrays: what it says to each is what an array must be told.
        let mut seen = call(peer, "echo", json!({"id": 1})).await;
        seen.extend(call(peer, "echo", json!({"id": 2})).await);
        return seen;
    }
    let mut answers = peer.array(&json!([request(1), request(2)])).await;
    answers.sort_by_key(|answer| answer["id"].as_u64());
    answers.iter().map(|answer| peer.neutral("tools/call", answer)).collect()
}

/// The server says which methods it does not know (E93).
async fn unknown_methods(peer: &mut Peer<'_>) -> Vec<Value> {
    let mut seen = peer.ask("com.example/hello", json!({"x": 1})).await;
    seen.extend(peer.ask("no/such", json!({})).await);
    seen
}

/// What each side heard of the other's extensions (E103).
async fn extension(peer: &mut Peer<'_>) -> Vec<Value> {
    let offered = peer.opened().await["capabilities"]["extensions"].clone();
    let told = tool(peer, "whoami").await;
    let told = told[0]["result"]["structuredContent"]["capabilities"]["extensions"].clone();
    vec![json!({"offered": offered, "told": told})]
}
