//! Records as events of the Open Cybersecurity Schema Framework (<https://schema.ocsf.io>), version 1.6.0. A call is one event,
//! written when it has ended; what is in the record and has no place there stands in `unmapped`.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The version of the schema.
const SCHEMA: &str = "1.6.0";
/// API Activity (application category).
const API_ACTIVITY: u64 = 6003;
/// Application Lifecycle (application category).
const LIFECYCLE: u64 = 6002;
/// Base Event: a record of a kind that has no class here.
const BASE: u64 = 0;

/// Informational, low, medium, high.
const SEVERITIES: [&str; 5] = ["Unknown", "Informational", "Low", "Medium", "High"];

/// Makes events of records, in their order. It holds what has begun and not ended.
pub(super) struct Events {
    origin: String,
    /// By what joins beginning and end: the index of the beginning, and the record.
    open: BTreeMap<String, (u64, Value)>,
}

/// How something ended, in words of OCSF.
struct Status {
    id: u64,
    name: &'static str,
    severity: u64,
    detail: Option<String>,
}

const SUCCESS: Status = Status { id: 1, name: "Success", severity: 1, detail: None };

fn failure(severity: u64, detail: Option<String>) -> Status {
    Status { id: 2, name: "Failure", severity, detail }
}

fn unknown(detail: &str) -> Status {
    Status { id: 0, name: "Unknown", severity: 2, detail: Some(detail.to_owned()) }
}

fn text<'a>(record: &'a Value, name: &str) -> Option<&'a str> {
    record.get(name).and_then(Value::as_str)
}

impl Events {
    /// Of the ledger `origin`.
    pub(super) fn new(origin: &str) -> Self {
        Self { origin: origin.to_owned(), open: BTreeMap::new() }
    }

    /// What a record completes: none, or one event.
    pub(super) fn of(&mut self, index: u64, entry: &[u8]) -> Option<Value> {
        let record: Value = serde_json::from_slice(entry).unwrap_or(Value::Null);
        let joined = |prefix: &str, name: &str| text(&record, name).map(|id| format!("{prefix}{id}"));
        match text(&record, "t").unwrap_or_default() {
            "call.start" => self.began(joined("c", "call")?, index, record),
            "operator.start" => self.began(joined("a", "act")?, index, record),
            "call.end" => {
                let begun = self.open.remove(&joined("c", "call")?);
                let status = ended(text(&record, "outcome").unwrap_or_default(), text(&record, "error"));
                let (at, start) = begun.unwrap_or_else(|| (index, record.clone()));
                Some(self.call(at, &start, Some(&record), &status))
            }
            "operator.end" => {
                let begun = self.open.remove(&joined("a", "act")?);
                let done = record.get("done").and_then(Value::as_bool).unwrap_or(false);
                let why = text(&record, "error").map(str::to_owned);
                let status = if done { SUCCESS } else { failure(2, why) };
                let (at, start) = begun.unwrap_or_else(|| (index, record.clone()));
                Some(self.call(at, &start, Some(&record), &status))
            }
            "call.denied" => {
                let why = text(&record, "reason").map(str::to_owned);
                Some(self.call(index, &record, None, &failure(3, why)))
            }
            "process" => Some(self.process(index, &record)),
            "log" => Some(self.log(index, &record)),
            _ => Some(self.event((BASE, 0), (99, "Other"), index, (&record, None), &SUCCESS)),
        }
    }

    /// The end of something that has begun before: a call is one event, in the export that has its beginning.
    pub(super) fn late(&mut self, index: u64, entry: &[u8]) -> Option<Value> {
        let record: Value = serde_json::from_slice(entry).unwrap_or(Value::Null);
        let id = match text(&record, "t")? {
            "call.end" => format!("c{}", text(&record, "call")?),
            "operator.end" => format!("a{}", text(&record, "act")?),
            _ => return None,
        };
        if self.open.contains_key(&id) { self.of(index, entry) } else { None }
    }

    /// Whether something has begun and not ended.
    pub(super) fn waits(&self) -> bool {
        !self.open.is_empty()
    }

    /// What had not ended where the ledger ended.
    pub(super) fn rest(&mut self) -> Vec<Value> {
        let open = std::mem::take(&mut self.open);
        let status = unknown("it had not ended when this was exported");
        open.into_values().map(|(at, start)| self.call(at, &start, None, &status)).collect()
    }

    fn began(&mut self, id: String, index: u64, record: Value) -> Option<Value> {
        self.open.insert(id, (index, record));
        None
    }

    /// A call, a refusal, or an operator's act.
    fn call(&self, at: u64, start: &Value, end: Option<&Value>, status: &Status) -> Value {
        let operation = text(start, "method").or_else(|| text(start, "command")).unwrap_or("unknown");
        let read = [
            "tools/list",
            "resources/list",
            "resources/read",
            "resources/templates/list",
            "prompts/list",
            "prompts/get",
        ];
        let activity = if read.contains(&operation) { (2, "Read") } else { (99, operation) };
        let mut event = self.event((API_ACTIVITY, 6), activity, at, (start, end), status);
        let who = start.get("who");
        let uid = who.and_then(|who| text(who, "sub")).or_else(|| text(start, "operator")).unwrap_or("unknown");
        event["actor"] = json!({"user": {"uid": uid, "type_id": 0, "type": "Unknown"}});
        if let Some(client) = text(start, "client") {
            event["actor"]["app_name"] = json!(client);
        }
        // From where it came is not recorded; with what it was let in is.
        let token = who.and_then(|who| text(who, "token"));
        let by = who.and_then(|who| text(who, "by")).or_else(|| text(start, "door")).unwrap_or("unknown");
        event["src_endpoint"] = json!({"name": by, "uid": token});
        let mut api = json!({"operation": operation});
        if let Some(server) = text(start, "server") {
            api["service"] = json!({"name": server});
        }
        if let Some(id) = text(start, "call").or_else(|| text(start, "act")) {
            api["request"] = json!({"uid": id});
        }
        if let Some(error) = end.and_then(|end| text(end, "error")) {
            api["response"] = json!({"error": error});
        }
        event["api"] = api;
        if let Some(name) = text(start, "name").or_else(|| text(start, "about")) {
            event["resources"] = json!([{"name": name}]);
        }
        if let Some(micros) = end.and_then(|end| end.get("micros")).and_then(Value::as_u64) {
            event["duration"] = json!(micros / 1000);
            event["start_time"] = start.get("ms").cloned().unwrap_or_default();
        }
        without_null(event)
    }

    /// A process of a server.
    fn process(&self, at: u64, record: &Value) -> Value {
        let ended = text(record, "ended");
        let activity = if ended.is_some() { (4, "Stop") } else { (3, "Start") };
        let status = Status { detail: ended.map(str::to_owned), ..SUCCESS };
        let mut event = self.event((LIFECYCLE, 6), activity, at, (record, None), &status);
        event["app"] = json!({"name": text(record, "server").unwrap_or("unknown"), "vendor_name": "hosted"});
        without_null(event)
    }

    /// The ledger about itself.
    fn log(&self, at: u64, record: &Value) -> Value {
        let (activity, severity) = match text(record, "event").unwrap_or_default() {
            "opened" | "began" => ((3, "Start"), 1),
            "closed" => ((4, "Stop"), 1),
            "refusing" => ((99, "refusing"), 4),
            _ => ((99, text(record, "event").unwrap_or("unknown")), 1),
        };
        let status = Status { severity, ..SUCCESS };
        let mut event = self.event((LIFECYCLE, 6), activity, at, (record, None), &status);
        event["app"] = json!({"name": "staithe", "vendor_name": "staithe"});
        without_null(event)
    }

    /// What every event has.
    fn event(
        &self,
        (class, category): (u64, u64),
        (activity, activity_name): (u64, &str),
        at: u64,
        (start, end): (&Value, Option<&Value>),
        status: &Status,
    ) -> Value {
        let mut unmapped = Map::new();
        unmapped.insert("index".to_owned(), at.into());
        unmapped.insert("record".to_owned(), start.clone());
        if let Some(end) = end {
            unmapped.insert("end".to_owned(), end.clone());
        }
        let severity = usize::try_from(status.severity).ok().and_then(|nth| SEVERITIES.get(nth)).copied();
        let version = env!("CARGO_PKG_VERSION");
        without_null(json!({
            "class_uid": class, "category_uid": category, "type_uid": class * 100 + activity,
            "activity_id": activity, "activity_name": activity_name,
            "time": start.get("ms").and_then(Value::as_i64).unwrap_or(0),
            "severity_id": status.severity, "severity": severity,
            "status_id": status.id, "status": status.name, "status_detail": status.detail,
            "metadata": {
                "version": SCHEMA, "uid": format!("{}#{at}", self.origin), "log_name": self.origin, "sequence": at,
                "product": {"name": "staithe", "vendor_name": "staithe", "version": version},
            },
            "unmapped": unmapped,
        }))
    }
}

/// How a call ended, by the record's word.
fn ended(outcome: &str, error: Option<&str>) -> Status {
    let detail = Some(error.unwrap_or(outcome).to_owned());
    match outcome {
        "ok" | "asked" => Status { detail: (outcome != "ok").then(|| outcome.to_owned()), ..SUCCESS },
        "unknown" => unknown("the daemon ended while it ran"),
        "server_gone" | "host_error" => failure(3, detail),
        _ => failure(2, detail),
    }
}

/// What is absent is not there.
fn without_null(mut event: Value) -> Value {
    if let Some(fields) = event.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
        for value in fields.values_mut().filter_map(Value::as_object_mut) {
            value.retain(|_, value| !value.is_null());
        }
    }
    event
}
