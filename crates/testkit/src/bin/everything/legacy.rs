//! The era of `initialize`: one handshake, then requests in both directions.

use crate::process::{Call, Client, Era, LEVELS, Mode, Process, lock};
use crate::wire::{Incoming, Params, Reply, RpcError};
use crate::{catalogue, methods, modern, tasks};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::sync::Arc;

/// Revisions of this era, newest first.
const VERSIONS: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

pub(crate) fn receive(process: &Arc<Process>, incoming: Incoming) {
    // A dual process that was opened in this era refuses the other; a legacy one does not know the marks.
    let foreign = process.mode == Mode::Dual && modern::is_marked(&incoming);
    let Incoming { id, method, params, result, error, .. } = incoming;
    match (id, method) {
        (Some(id), Some(_)) if foreign => {
            let error = RpcError::new(-32600, "this process was opened with initialize and speaks only the legacy era");
            process.output.error(Some(&id), &error);
        }
        (Some(id), Some(method)) => request(process, id, method, params),
        (None, Some(method)) => notification(process, &method, &params),
        (Some(id), None) => {
            let refused = error.map(|error| error["message"].as_str().unwrap_or("an error without message").to_owned());
            process.answered(&id, refused.map_or_else(|| Ok(result.unwrap_or_default()), Err));
        }
        (None, None) => {}
    }
}

fn request(process: &Arc<Process>, id: Box<RawValue>, method: String, params: Params) {
    let session = lock(&process.session).clone();
    let outcome = match (method.as_str(), session) {
        ("ping", _) => Ok(Reply::default()),
        ("initialize", None) => initialize(process, &params),
        ("initialize", Some(_)) => Err(RpcError::new(-32600, "initialize was already answered in this process")),
        ("server/discover", _) => Err(RpcError::new(-32601, "Method not found: server/discover")),
        (_, None) => Err(RpcError::new(-32600, "the first request must be initialize")),
        ("logging/setLevel", Some(_)) => set_level(process, &params),
        ("resources/subscribe", Some(_)) => params.text("uri").map(|uri| {
            lock(&process.subscribed).insert(uri.to_owned());
            Reply::default()
        }),
        ("resources/unsubscribe", Some(_)) => params.text("uri").map(|uri| {
            lock(&process.subscribed).remove(uri);
            Reply::default()
        }),
        (_, Some(client)) => {
            let token = params.progress_token.clone();
            return methods::serve(Call::new(process, id, client, token), method, params);
        }
    };
    match outcome {
        Ok(reply) => process.output.result(&id, &reply),
        Err(error) => process.output.error(Some(&id), &error),
    }
}

fn notification(process: &Process, method: &str, params: &Params) {
    if let ("notifications/cancelled", Some(id)) = (method, &params.request_id) {
        process.cancel(id);
    }
}

fn initialize(process: &Process, params: &Params) -> Result<Reply, RpcError> {
    let requested = params.text("protocolVersion")?;
    let version = VERSIONS.into_iter().find(|known| *known == requested).unwrap_or(VERSIONS[0]);
    let member = |name| params.members.get(name).cloned().unwrap_or(Value::Null);
    process.settle(Era::Legacy);
    let mut capabilities = catalogue::capabilities(process.extras);
    if process.with_tasks {
        capabilities["tasks"] = tasks::capabilities();
    }
    *lock(&process.session) = Some(Client {
        era: Era::Legacy,
        version: version.to_owned(),
        info: member("clientInfo"),
        capabilities: member("capabilities"),
        level: Some(0),
    });
    Ok(Reply::from(json!({
        "protocolVersion": version,
        "capabilities": capabilities,
        "serverInfo": catalogue::server_info(),
        "instructions": "A server for tests: every feature, no purpose.",
    })))
}

fn set_level(process: &Process, params: &Params) -> Result<Reply, RpcError> {
    let name = params.text("level")?;
    let level = LEVELS.iter().position(|known| *known == name);
    let level = level.ok_or_else(|| RpcError::new(-32602, format!("Unknown log level: {name}")))?;
    if let Some(session) = lock(&process.session).as_mut() {
        session.level = Some(level);
    }
    Ok(Reply::default())
}

/// Tells the client that a list changed.
pub(crate) fn publish_list_changed(process: &Process, list: &str) {
    process.output.notify(&format!("notifications/{list}/list_changed"), &json!({}));
}
