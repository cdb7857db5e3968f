//! Tools that need nothing from the client.

use crate::content::{PNG, WAV};
use crate::methods::text;
use crate::process::{Call, Era, Process, lock};
use crate::wire::{Params, Reply, RpcError};
use crate::{legacy, modern};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(50);
/// The longest `sleep`.
const MAX_SLEEP_MS: u64 = 600_000;

/// True for tools that take time; they get a thread of their own.
pub(crate) fn takes_time(name: &str) -> bool {
    ["sleep", "test_tool_with_logging", "test_tool_with_progress", "test_reconnection"].contains(&name)
}

pub(crate) fn run(call: &Call, params: &Params) -> Result<Reply, RpcError> {
    let process = &call.process;
    Ok(match params.text("name")? {
        "echo" | "test_header_params" => echo(params),
        "test_trigger_header_change" => {
            process.renamed.fetch_xor(true, Ordering::Relaxed);
            list_changed(process, "tools")
        }
        "sleep" => sleep(call, params)?,
        "counter" => counter(process),
        "cancellations" => cancellations(process),
        "whoami" => whoami(call),
        "test_tool_with_logging" => log_thrice(call),
        "test_tool_with_progress" => progress_thrice(call),
        "test_reconnection" => {
            call.pause(SHORT * 10);
            said("Reconnection test completed successfully.")
        }
        "test_logging_tool" => {
            call.log("info", "Diagnostic trace logging activated");
            said("Logging evaluated")
        }
        "test_error_handling" => {
            let words = text("This tool intentionally returns an error for testing");
            Reply::from(json!({"content": [words], "isError": true}))
        }
        "metadata" => structured(params.members.get("_meta").unwrap_or(&Value::Null)),
        "test_trigger_tool_change" => list_changed(process, "tools"),
        "test_trigger_prompt_change" => list_changed(process, "prompts"),
        "test_trigger_resource_change" => list_changed(process, "resources"),
        "test_trigger_resource_update" => {
            resource_updated(process, params.argument("uri").as_str().unwrap_or("test://watched-resource"))
        }
        "test_header_param" => said(params.argument("region").as_str().unwrap_or("no region")),
        "json_schema_2020_12_tool" => {
            let arguments = params.arguments.as_deref().map_or("{}", |raw| raw.get());
            said(&format!("JSON Schema 2020-12 tool called with: {arguments}"))
        }
        "test_list_output" => match call.client.era {
            Era::Modern => structured(&json!([1, 2, 3])),
            Era::Legacy => structured(&json!({"numbers": [1, 2, 3]})),
        },
        name => Reply::from(json!({"content": constant_content(name)?})),
    })
}

fn said(words: &str) -> Reply {
    Reply::from(json!({"content": [text(words)]}))
}

/// `value` for programs and, as text, for people.
fn structured(value: &Value) -> Reply {
    Reply::from(json!({"content": [text(&value.to_string())], "structuredContent": value}))
}

fn constant_content(name: &str) -> Result<Vec<Value>, RpcError> {
    let image = json!({"type": "image", "data": PNG, "mimeType": "image/png"});
    let resource = |uri: &str, mime: &str, text: &str| json!({"type": "resource", "resource": {"uri": uri, "mimeType": mime, "text": text}});
    Ok(match name {
        "test_simple_text" => vec![text("This is a simple text response for testing.")],
        "test_image_content" => vec![image],
        "test_audio_content" => vec![json!({"type": "audio", "data": WAV, "mimeType": "audio/wav"})],
        "test_embedded_resource" => {
            vec![resource("test://embedded-resource", "text/plain", "This is an embedded resource content.")]
        }
        "test_resource_link" => {
            vec![json!({"type": "resource_link", "uri": "test://static-text", "name": "static-text"})]
        }
        "test_multiple_content_types" => {
            let data = r#"{"test":"data","value":123}"#;
            let mixed = resource("test://mixed-content-resource", "application/json", data);
            vec![text("Multiple content types test:"), image, mixed]
        }
        _ => return Err(RpcError::new(-32602, format!("Unknown tool: {name}"))),
    })
}

/// The arguments, spelled as they came.
fn echo(params: &Params) -> Reply {
    let Some(arguments) = params.arguments.clone() else { return structured(&json!({})) };
    Reply { structured: Some(arguments.clone()), ..said(arguments.get()) }
}

/// Sleeps in up to ten parts, with progress after each. Ends early when the call is cancelled.
fn sleep(call: &Call, params: &Params) -> Result<Reply, RpcError> {
    let ms = params.argument("ms").as_u64().filter(|ms| *ms <= MAX_SLEEP_MS);
    let bad = || RpcError::new(-32602, format!("arguments.ms must be an integer from 0 to {MAX_SLEEP_MS}"));
    let ms = ms.ok_or_else(bad)?;
    let parts = ms.clamp(1, 10);
    for part in 1..=parts {
        let time = ms * part / parts - ms * (part - 1) / parts;
        call.pause(Duration::from_millis(time));
        if call.is_stopped() {
            break;
        }
        call.progress(part, parts, &format!("slept {} of {ms} ms", ms * part / parts));
    }
    Ok(said(&format!("slept {ms} ms")))
}

fn counter(process: &Process) -> Reply {
    let count = process.counter.fetch_add(1, Ordering::Relaxed) + 1;
    structured(&json!({"count": count, "pid": std::process::id()}))
}

fn cancellations(process: &Process) -> Reply {
    let (arrived, stopped) = (&process.cancels_seen, &process.cancels_hit);
    structured(&json!({"arrived": arrived.load(Ordering::Relaxed), "stopped": stopped.load(Ordering::Relaxed)}))
}

fn whoami(call: &Call) -> Reply {
    let mut names: Vec<String> = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    names.sort();
    let directory = std::env::current_dir().map(|path| path.to_string_lossy().into_owned()).ok();
    structured(&json!({
        "pid": std::process::id(),
        "era": if call.client.era == Era::Modern { "modern" } else { "legacy" },
        "protocolVersion": call.client.version,
        "clientInfo": call.client.info,
        "capabilities": call.client.capabilities,
        "environment": names,
        "directory": directory,
    }))
}

fn log_thrice(call: &Call) -> Reply {
    call.log("info", "Tool execution started");
    call.pause(SHORT);
    call.log("info", "Tool processing data");
    call.pause(SHORT);
    call.log("info", "Tool execution completed");
    said("Tool with logging executed successfully")
}

fn progress_thrice(call: &Call) -> Reply {
    for step in [0, 50] {
        call.progress(step, 100, &format!("Completed step {step} of 100"));
        call.pause(SHORT);
    }
    call.progress(100, 100, "Completed step 100 of 100");
    let token = call.progress_token.as_deref().map_or("no token", |raw| raw.get());
    said(token.trim_matches('"'))
}

fn list_changed(process: &Process, list: &str) -> Reply {
    if process.era() == Some(Era::Modern) {
        modern::publish_list_changed(process, list);
    } else {
        legacy::publish_list_changed(process, list);
    }
    said("Mutation triggered")
}

fn resource_updated(process: &Process, uri: &str) -> Reply {
    if process.era() == Some(Era::Modern) {
        modern::publish_updated(process, uri);
    } else if lock(&process.subscribed).contains(uri) {
        process.output.notify("notifications/resources/updated", &json!({"uri": uri}));
    }
    said("Update triggered")
}
