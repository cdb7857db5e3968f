//! The era of per-request metadata: every request says its revision and the client's capabilities, and the server sends no
//! requests.

use crate::process::{Call, Client, Era, LEVELS, Listen, Process, lock};
use crate::wire::{Incoming, Object, Params, Reply, RpcError};
use crate::{catalogue, methods};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::sync::Arc;

const VERSIONS: [&str; 1] = ["2026-07-28"];
const VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES_KEY: &str = "io.modelcontextprotocol/clientCapabilities";
const INFO_KEY: &str = "io.modelcontextprotocol/clientInfo";
const LEVEL_KEY: &str = "io.modelcontextprotocol/logLevel";
/// Lists may be kept for five minutes.
const TTL_MS: u64 = 300_000;
/// Methods of the legacy era that this era removed.
const REMOVED: [&str; 5] = ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"];
/// The most subscription streams of one process.
const MAX_LISTENS: usize = 1024;

/// True when a message carries the revision that marks this era.
pub(crate) fn is_marked(incoming: &Incoming) -> bool {
    incoming.params.meta(VERSION_KEY).is_some()
}

pub(crate) fn receive(process: &Arc<Process>, incoming: Incoming) {
    let marked = is_marked(&incoming);
    let Incoming { id, method, params, .. } = incoming;
    match (id, method) {
        (Some(id), Some(method)) if method == "initialize" && !marked => {
            let requested = params.members.get("protocolVersion").cloned().unwrap_or_default();
            process.output.error(Some(&id), &unsupported(&requested));
        }
        (Some(id), Some(method)) => match client(&params) {
            Ok(client) => {
                process.settle(Era::Modern);
                request(process, id, method, params, client);
            }
            Err(error) => process.output.error(Some(&id), &error),
        },
        (None, Some(method)) => {
            if let ("notifications/cancelled", Some(id)) = (method.as_str(), &params.request_id) {
                process.cancel(id);
            }
        }
        // An answer: this era has no requests of the server, so nobody waits for it.
        (_, None) => {}
    }
}

/// What the request says about its client, or why it is malformed.
fn client(params: &Params) -> Result<Client, RpcError> {
    let missing = |key: &str| RpcError::new(-32602, format!("Invalid params: _meta must contain {key}"));
    let version = params.meta(VERSION_KEY).and_then(Value::as_str).ok_or_else(|| missing(VERSION_KEY))?;
    let capabilities = params.meta(CAPABILITIES_KEY).filter(|declared| declared.is_object());
    let capabilities = capabilities.ok_or_else(|| missing(CAPABILITIES_KEY))?;
    if !VERSIONS.contains(&version) {
        return Err(unsupported(&json!(version)));
    }
    let level = match params.meta(LEVEL_KEY) {
        None => None,
        Some(name) => {
            let level = LEVELS.iter().position(|known| name == known);
            Some(level.ok_or_else(|| RpcError::new(-32602, format!("Unknown log level: {name}")))?)
        }
    };
    Ok(Client {
        era: Era::Modern,
        version: version.to_owned(),
        info: params.meta(INFO_KEY).cloned().unwrap_or_default(),
        capabilities: capabilities.clone(),
        level,
    })
}

fn unsupported(requested: &Value) -> RpcError {
    let requested = requested.as_str().unwrap_or_default();
    let data = json!({"supported": VERSIONS, "requested": requested});
    RpcError::new(-32022, "Unsupported protocol version").with_data(data)
}

fn request(process: &Arc<Process>, id: Box<RawValue>, method: String, params: Params, client: Client) {
    match method.as_str() {
        "server/discover" => {
            let mut reply = Reply::from(json!({
                "supportedVersions": VERSIONS,
                "capabilities": catalogue::capabilities(process.extras),
                "instructions": "A server for tests: every feature, no purpose.",
            }));
            mark(&method, &mut reply);
            process.output.result(&id, &reply);
        }
        "subscriptions/listen" => listen(process, id, &params),
        removed if REMOVED.contains(&removed) => {
            let error = RpcError::new(-32601, format!("Method not found: {removed} was removed in 2026-07-28"));
            process.output.error(Some(&id), &error);
        }
        _ => {
            let token = params.progress_token.clone();
            methods::serve(Call::new(process, id, client, token), method, params);
        }
    }
}

/// Adds what every result of this era says: its type, who answered, and how long a list or resource may be kept.
pub(crate) fn mark(method: &str, reply: &mut Reply) {
    let members = &mut reply.members;
    let complete = members.entry("resultType").or_insert_with(|| json!("complete")) == "complete";
    members.insert("_meta".to_owned(), json!({"io.modelcontextprotocol/serverInfo": catalogue::server_info()}));
    let scope = match method {
        "server/discover" | "tools/list" | "prompts/list" | "resources/list" | "resources/templates/list" => "public",
        "resources/read" if complete => "private",
        _ => return,
    };
    members.insert("ttlMs".to_owned(), json!(TTL_MS));
    members.insert("cacheScope".to_owned(), json!(scope));
}

/// Params of a notification on a subscription stream.
#[derive(Serialize)]
struct OnStream<'a> {
    #[serde(rename = "_meta")]
    meta: StreamMeta<'a>,
    #[serde(flatten)]
    members: Object,
}

#[derive(Serialize)]
struct StreamMeta<'a> {
    #[serde(rename = "io.modelcontextprotocol/subscriptionId")]
    subscription: &'a RawValue,
}

fn on_stream(id: &RawValue, members: Value) -> OnStream<'_> {
    OnStream { meta: StreamMeta { subscription: id }, members: Reply::from(members).members }
}

/// Opens a stream. Its acknowledgement goes out before anything else can be published on it.
fn listen(process: &Process, id: Box<RawValue>, params: &Params) {
    let Some(Value::Object(wanted)) = params.members.get("notifications") else {
        let error = RpcError::new(-32602, "params.notifications must be an object");
        return process.output.error(Some(&id), &error);
    };
    let mut filter = Object::new();
    for key in ["toolsListChanged", "promptsListChanged", "resourcesListChanged"] {
        if wanted.get(key) == Some(&Value::Bool(true)) {
            filter.insert(key.to_owned(), Value::Bool(true));
        }
    }
    if let Some(uris) = wanted.get("resourceSubscriptions").filter(|uris| uris.is_array()) {
        filter.insert("resourceSubscriptions".to_owned(), uris.clone());
    }
    let mut listens = lock(&process.listens);
    if listens.len() >= MAX_LISTENS {
        let error = RpcError::new(-32603, format!("at most {MAX_LISTENS} subscriptions at a time"));
        return process.output.error(Some(&id), &error);
    }
    let acknowledged = on_stream(&id, json!({"notifications": filter}));
    process.output.notify("notifications/subscriptions/acknowledged", &acknowledged);
    listens.push(Listen { id, filter });
}

/// Tells every stream that asked for it that a list changed.
pub(crate) fn publish_list_changed(process: &Process, list: &str) {
    let key = format!("{list}ListChanged");
    for listen in lock(&process.listens).iter().filter(|listen| listen.filter.contains_key(&key)) {
        let params = on_stream(&listen.id, json!({}));
        process.output.notify(&format!("notifications/{list}/list_changed"), &params);
    }
}

/// Tells every stream that subscribed to it, or to what contains it, that a resource was updated.
pub(crate) fn publish_updated(process: &Process, uri: &str) {
    let covers = |known: &Value| {
        let rest = known.as_str().and_then(|known| uri.strip_prefix(known));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    for listen in lock(&process.listens).iter() {
        let uris = listen.filter.get("resourceSubscriptions").and_then(Value::as_array);
        if uris.is_some_and(|uris| uris.iter().any(covers)) {
            process.output.notify("notifications/resources/updated", &on_stream(&listen.id, json!({"uri": uri})));
        }
    }
}

/// Ends every stream with its closing result.
pub(crate) fn end_subscriptions(process: &Process) {
    for listen in lock(&process.listens).drain(..) {
        let mut reply = Reply::from(json!({"resultType": "complete"}));
        let meta = serde_json::to_value(StreamMeta { subscription: &listen.id }).unwrap_or_default();
        reply.members.insert("_meta".to_owned(), meta);
        process.output.result(&listen.id, &reply);
    }
}
