//! The methods that both eras share.

use crate::process::{Call, Era};
use crate::wire::{Params, Reply, RpcError};
use crate::{catalogue, content, interactive, modern, tasks, tools};
use serde_json::{Value, json};
use std::sync::Arc;

/// A text content block.
pub(crate) fn text(words: &str) -> Value {
    json!({"type": "text", "text": words})
}

/// Answers one request, on a thread of its own where that may take time. A cancelled call gets no answer.
pub(crate) fn serve(call: Call, method: String, params: Params) {
    let call = Arc::new(call);
    call.process.begin(&call);
    let name = params.text("name").unwrap_or_default();
    let slow = tasks::knows(&call.process, &method, name) && method != "tasks/cancel";
    if !(slow || interactive::knows(&method, name) || method == "tools/call" && tools::takes_time(name)) {
        return finish(&call, &method, answer(&call, &method, &params));
    }
    let (worker, named) = (Arc::clone(&call), std::thread::Builder::new().name(name.to_owned()));
    let spawned = named.spawn(move || {
        let outcome = answer(&worker, &method, &params);
        finish(&worker, &method, outcome);
    });
    if let Err(error) = spawned {
        let error = RpcError::new(-32603, format!("no thread for this call: {error}"));
        finish(&call, "tools/call", Err(error));
    }
}

fn finish(call: &Arc<Call>, method: &str, outcome: Result<Reply, RpcError>) {
    call.process.end(call);
    if call.is_stopped() {
        return;
    }
    match outcome {
        Ok(mut reply) => {
            if call.client.era == Era::Modern {
                modern::mark(method, &mut reply);
            }
            call.process.output.result(&call.id, &reply);
        }
        Err(error) => call.process.output.error(Some(&call.id), &error),
    }
}

/// One page of a list: all of it, or with `--extras` two items and a cursor for the rest.
fn page(call: &Call, params: &Params, name: &str, items: Vec<Value>) -> Result<Reply, RpcError> {
    const CURSOR: &str = "page after ";
    let bad = || RpcError::new(-32602, "Invalid cursor: it came from no list of this server");
    let from = match params.members.get("cursor") {
        None => 0,
        Some(_) if !call.process.extras => return Err(bad()),
        Some(cursor) => {
            let after: Option<usize> = cursor.as_str().and_then(|cursor| cursor.strip_prefix(CURSOR)?.parse().ok());
            after.filter(|after| *after < items.len()).ok_or_else(bad)?
        }
    };
    let size = if call.process.extras { 2 } else { items.len() };
    let rest = items.len() > from + size;
    let items: Vec<Value> = items.into_iter().skip(from).take(size).collect();
    let mut reply = Reply::from(json!({name: items}));
    if rest {
        reply.members.insert("nextCursor".to_owned(), json!(format!("{CURSOR}{}", from + size)));
    }
    Ok(reply)
}

fn answer(call: &Arc<Call>, method: &str, params: &Params) -> Result<Reply, RpcError> {
    if call.client.era == Era::Legacy && tasks::knows(&call.process, method, params.text("name").unwrap_or_default()) {
        return tasks::answer(call, method, params);
    }
    match method {
        "tools/list" => page(call, params, "tools", catalogue::tools(&call.process, call.client.era)),
        "prompts/list" => page(call, params, "prompts", catalogue::prompts()),
        "resources/list" => page(call, params, "resources", catalogue::resources()),
        "resources/templates/list" => page(call, params, "resourceTemplates", catalogue::templates()),
        "resources/read" => content::read_resource(params, call.client.era),
        "completion/complete" => content::complete(params),
        "tools/call" | "prompts/get" if interactive::knows(method, params.text("name")?) => {
            interactive::run(call, method, params)
        }
        "prompts/get" => content::get_prompt(params),
        "tools/call" => tools::run(call, params),
        _ => Err(RpcError::new(-32601, format!("Method not found: {method}"))),
    }
}
