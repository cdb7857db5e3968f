//! Resources, prompts and completions: what does not depend on a call.

use crate::process::Era;
use crate::wire::{Params, Reply, RpcError};
use serde_json::{Value, json};

/// A red pixel.
pub(crate) const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==";
/// One sample of silence.
pub(crate) const WAV: &str = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA=";

/// What completion knows.
const WORDS: [&str; 5] = ["paris", "park", "party", "testing", "tokyo"];

pub(crate) fn read_resource(params: &Params, era: Era) -> Result<Reply, RpcError> {
    let uri = params.text("uri")?;
    let content = match uri {
        "test://static-text" => {
            json!({"mimeType": "text/plain", "text": "This is the content of the static text resource."})
        }
        "test://static-binary" => json!({"mimeType": "image/png", "blob": PNG}),
        "test://watched-resource" => json!({"mimeType": "text/plain", "text": "Watched resource content"}),
        _ => template(uri).ok_or_else(|| not_found(uri, era))?,
    };
    let mut content = content;
    content["uri"] = json!(uri);
    Ok(Reply::from(json!({"contents": [content]})))
}

fn template(uri: &str) -> Option<Value> {
    let id = uri.strip_prefix("test://template/")?.strip_suffix("/data")?;
    if id.is_empty() || id.contains('/') {
        return None;
    }
    let text = json!({"id": id, "templateTest": true, "data": format!("Data for ID: {id}")}).to_string();
    Some(json!({"mimeType": "application/json", "text": text}))
}

fn not_found(uri: &str, era: Era) -> RpcError {
    let code = if era == Era::Modern { -32602 } else { -32002 };
    RpcError::new(code, format!("Resource not found: {uri}")).with_data(json!({"uri": uri}))
}

/// The messages of a prompt that asks nobody.
pub(crate) fn get_prompt(params: &Params) -> Result<Reply, RpcError> {
    let name = params.text("name")?;
    let user = |content: Value| json!({"role": "user", "content": content});
    let text = |text: &str| user(json!({"type": "text", "text": text}));
    let needed = |argument: &str| {
        let missing = || RpcError::new(-32602, format!("the prompt {name} needs the argument {argument}"));
        params.argument(argument).as_str().map(str::to_owned).ok_or_else(missing)
    };
    let messages = match name {
        "test_simple_prompt" => vec![text("This is a simple prompt for testing.")],
        "test_prompt_with_arguments" => {
            let (arg1, arg2) = (needed("arg1")?, needed("arg2")?);
            vec![text(&format!("Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"))]
        }
        "test_prompt_with_embedded_resource" => {
            let uri = needed("resourceUri")?;
            let content =
                json!({"uri": uri, "mimeType": "text/plain", "text": "Embedded resource content for testing."});
            let resource = user(json!({"type": "resource", "resource": content}));
            vec![resource, text("Please process the embedded resource above.")]
        }
        "test_prompt_with_image" => {
            let image = user(json!({"type": "image", "data": PNG, "mimeType": "image/png"}));
            vec![image, text("Please analyze the image above.")]
        }
        _ => return Err(RpcError::new(-32602, format!("Unknown prompt: {name}"))),
    };
    Ok(Reply::from(json!({"messages": messages})))
}

/// Words that begin with what was typed, for an argument of a prompt or template that exists.
pub(crate) fn complete(params: &Params) -> Result<Reply, RpcError> {
    let reference = params.members.get("ref").unwrap_or(&Value::Null);
    let known = match reference["type"].as_str() {
        Some("ref/prompt") => crate::catalogue::prompts().iter().any(|prompt| prompt["name"] == reference["name"]),
        Some("ref/resource") => reference["uri"].is_string(),
        _ => false,
    };
    if !known {
        return Err(RpcError::new(-32602, "params.ref names no prompt and no resource of this server"));
    }
    let typed = params.members.get("argument").and_then(|argument| argument["value"].as_str());
    let typed = typed.ok_or_else(|| RpcError::new(-32602, "params.argument.value must be a string"))?;
    let values: Vec<&str> = WORDS.into_iter().filter(|word| word.starts_with(typed)).collect();
    Ok(Reply::from(json!({"completion": {"values": values, "total": values.len(), "hasMore": false}})))
}
