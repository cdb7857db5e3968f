//! What this server offers, as its lists say it.

use crate::process::{Era, Process};
use crate::tasks;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

/// Tools of the conformance suite without arguments.
const PLAIN: [(&str, &str); 32] = [
    ("test_simple_text", "Answers a text"),
    ("test_image_content", "Answers an image"),
    ("test_audio_content", "Answers a sound"),
    ("test_embedded_resource", "Answers an embedded resource"),
    ("test_multiple_content_types", "Answers a text, an image and a resource"),
    ("test_tool_with_logging", "Sends three log messages while it runs"),
    ("test_tool_with_progress", "Reports progress three times while it runs"),
    ("test_error_handling", "Fails as a tool, not as a request"),
    ("test_reconnection", "Answers after half a second"),
    ("test_elicitation_sep1034_defaults", "Asks for a form with default values"),
    ("test_elicitation_sep1330_enums", "Asks for a form with every kind of choice"),
    ("test_missing_capability", "Needs a client that can sample"),
    ("test_streaming_elicitation", "Reports progress, then asks for a value"),
    ("test_logging_tool", "Sends one log message"),
    ("test_trigger_tool_change", "Says that the list of tools changed"),
    ("test_trigger_prompt_change", "Says that the list of prompts changed"),
    ("test_trigger_resource_change", "Says that the list of resources changed"),
    ("test_input_required_result_elicitation", "Asks for a name"),
    ("test_input_required_result_sampling", "Asks the model for a capital"),
    ("test_input_required_result_list_roots", "Asks for the roots"),
    ("test_input_required_result_request_state", "Asks for a confirmation and keeps a state"),
    ("test_input_required_result_multiple_inputs", "Asks three things at once"),
    ("test_input_required_result_multi_round", "Asks twice, one after the other"),
    ("test_input_required_result_tampered_state", "Asks for a confirmation and refuses a changed state"),
    ("test_input_required_result_capabilities", "Asks only what the client can answer"),
    (
        "test_trigger_header_change",
        "Renames the headers of test_header_params, and says that the list of tools changed",
    ),
    ("test_resource_link", "Answers a link to a resource"),
    ("test_elicitation_url", "Sends the user to a page"),
    ("counter", "Counts the calls to it in this process"),
    ("whoami", "Tells what this process knows about itself and its client"),
    ("metadata", "Answers the metadata of the request"),
    ("cancellations", "Counts the cancellations that reached this process"),
];

pub(crate) fn tools(process: &Process, era: Era) -> Vec<Value> {
    let plain = PLAIN.iter().map(|(name, description)| tool(name, description, &json!({})));
    let last = [json_schema_tool(), list_output_tool(era), header_params_tool(process)];
    let tasks = if process.with_tasks && era == Era::Legacy { tasks::tools() } else { Vec::new() };
    plain.chain(tools_with_arguments()).chain(last).chain(tasks).collect()
}

/// Structured content may be any JSON in the modern era; in the legacy era it is an object.
fn list_output_tool(era: Era) -> Value {
    let list = json!({"type": "array", "items": {"type": "integer"}});
    let mut tool = tool("test_list_output", "Answers a list of numbers", &json!({}));
    tool["outputSchema"] = match era {
        Era::Modern => list,
        Era::Legacy => json!({"type": "object", "properties": {"numbers": list}, "required": ["numbers"]}),
    };
    tool
}

fn tool(name: &str, description: &str, properties: &Value) -> Value {
    json!({
        "name": name,
        "description": description,
        "inputSchema": {"type": "object", "properties": properties},
    })
}

fn tools_with_arguments() -> Vec<Value> {
    let text = |description: &str| json!({"type": "string", "description": description});
    let mut header = tool(
        "test_header_param",
        "Answers its region, which HTTP clients mirror in a header",
        &json!({"region": {"type": "string", "description": "A region", "x-mcp-header": "Region"}}),
    );
    header["annotations"] = json!({"readOnlyHint": true});
    let mut update = tool(
        "test_trigger_resource_update",
        "Says that a resource was updated",
        &json!({"uri": text("Which resource; test://watched-resource when absent")}),
    );
    update["annotations"] = json!({"destructiveHint": true});
    vec![
        tool("test_sampling", "Asks the client's model", &json!({"prompt": text("The prompt for the model")})),
        tool("test_elicitation", "Asks the user", &json!({"message": text("The message for the user")})),
        update,
        tool("echo", "Answers its arguments, spelled as they came", &json!({})),
        tool(
            "sleep",
            "Answers later, with progress; a cancellation ends it",
            &json!({"ms": {"type": "integer", "minimum": 0, "description": "How long, in milliseconds"}}),
        ),
        header,
    ]
}

/// Headers of every type, also of nested parameters. Their names change when a test wants it.
fn header_params_tool(process: &Process) -> Value {
    let prefix = if process.renamed.load(Ordering::Relaxed) { "New-" } else { "" };
    let mirrored = |kind: &str, name: &str| json!({"type": kind, "x-mcp-header": format!("{prefix}{name}")});
    let tenant = json!({"type": "object", "properties": {"id": mirrored("integer", "Tenant")}});
    let properties =
        json!({"tenant": tenant, "dry": mirrored("boolean", "Dry-Run"), "place": mirrored("string", "Place")});
    tool("test_header_params", "Answers its arguments, which HTTP clients mirror in headers", &properties)
}

fn json_schema_tool() -> Value {
    json!({
        "name": "json_schema_2020_12_tool",
        "description": "Has an input schema with much of JSON Schema 2020-12",
        "inputSchema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "$defs": {
                "address": {
                    "$anchor": "addressDef",
                    "type": "object",
                    "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
                },
            },
            "properties": {
                "name": {"type": "string"},
                "address": {"$ref": "#/$defs/address"},
                "contactMethod": {"type": "string", "enum": ["phone", "email"]},
                "phone": {"type": "string"},
                "email": {"type": "string"},
            },
            "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
            "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
            "then": {"required": ["phone"]},
            "else": {"required": ["email"]},
            "additionalProperties": false,
        },
    })
}

pub(crate) fn prompts() -> Vec<Value> {
    let needs = |name: &str, description: &str| json!({"name": name, "description": description, "required": true});
    vec![
        json!({"name": "test_simple_prompt", "description": "A prompt without arguments"}),
        json!({
            "name": "test_prompt_with_arguments",
            "description": "A prompt with two arguments",
            "arguments": [needs("arg1", "First test argument"), needs("arg2", "Second test argument")],
        }),
        json!({
            "name": "test_prompt_with_embedded_resource",
            "description": "A prompt with a resource in it",
            "arguments": [needs("resourceUri", "URI of the resource")],
        }),
        json!({"name": "test_prompt_with_image", "description": "A prompt with an image in it"}),
        json!({"name": "test_input_required_result_prompt", "description": "A prompt that asks for its context"}),
    ]
}

pub(crate) fn resources() -> Vec<Value> {
    let resource = |name: &str, description: &str, mime: &str| json!({"uri": format!("test://{name}"), "name": name, "description": description, "mimeType": mime});
    vec![
        resource("static-text", "A text that never changes", "text/plain"),
        resource("static-binary", "An image that never changes", "image/png"),
        resource("watched-resource", "A text to subscribe to", "text/plain"),
    ]
}

pub(crate) fn templates() -> Vec<Value> {
    vec![json!({
        "uriTemplate": "test://template/{id}/data",
        "name": "template",
        "description": "A resource for every id",
        "mimeType": "application/json",
    })]
}

/// The extension that only tests know.
pub(crate) const EXTENSION: &str = "com.example/color";

pub(crate) fn capabilities(extras: bool) -> Value {
    let mut capabilities = json!({
        "tools": {"listChanged": true},
        "prompts": {"listChanged": true},
        "resources": {"subscribe": true, "listChanged": true},
        "logging": {},
        "completions": {},
    });
    if extras {
        capabilities["extensions"] = json!({EXTENSION: {"shade": "red"}});
    }
    capabilities
}

pub(crate) fn server_info() -> Value {
    json!({"name": "everything", "version": env!("CARGO_PKG_VERSION")})
}
