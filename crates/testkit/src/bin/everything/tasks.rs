//! Tools that run as tasks of 2025-11-25 (`--tasks`): they answer with a task at once and with their result when asked for it.

use crate::methods::text;
use crate::process::{Call, Process, lock};
use crate::wire::{Params, Reply, RpcError};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The longest task.
const MAX_MS: u64 = 60_000;
const RELATED: &str = "io.modelcontextprotocol/related-task";

/// The tasks of one process, by id.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    all: Mutex<BTreeMap<String, Task>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Task {
    call: Arc<Call>,
    status: &'static str,
    outcome: Option<Result<Value, String>>,
}

/// The lists of tools that this flag adds.
pub(crate) fn tools() -> Vec<Value> {
    let tool = |name: &str, support: &str, description: &str| {
        let ms = json!({"ms": {"type": "integer", "minimum": 0}});
        json!({
            "name": name, "description": description, "execution": {"taskSupport": support},
            "inputSchema": {"type": "object", "properties": ms},
        })
    };
    vec![
        tool("test_task_required", "required", "Runs only as a task, with progress"),
        tool("test_task_optional", "optional", "May run as a task"),
        tool("test_task_fails", "required", "Runs only as a task, and fails"),
        tool("test_task_asks", "required", "Runs only as a task, and asks the user"),
        tool("test_task_counts", "optional", "Counts tasks that run and that were cancelled"),
    ]
}

pub(crate) fn capabilities() -> Value {
    json!({"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}})
}

/// Whether this is a method of tasks, or a call that has to do with them.
pub(crate) fn knows(process: &Process, method: &str, name: &str) -> bool {
    process.with_tasks && (method.starts_with("tasks/") || method == "tools/call" && name.starts_with("test_task_"))
}

/// Answers a request. `tasks/result` waits, so this is called on a thread of its own.
pub(crate) fn answer(call: &Arc<Call>, method: &str, params: &Params) -> Result<Reply, RpcError> {
    let tasks = &call.process.tasks;
    match method {
        "tasks/get" => tasks.described(params.text("taskId")?).map(Reply::from),
        "tasks/list" => Ok(Reply::from(json!({"tasks": tasks.list()}))),
        "tasks/cancel" => tasks.cancel(params.text("taskId")?).map(Reply::from),
        "tasks/result" => tasks.result(call, params.text("taskId")?),
        _ => run(call, params),
    }
}

fn run(call: &Arc<Call>, params: &Params) -> Result<Reply, RpcError> {
    let (tasks, name) = (&call.process.tasks, params.text("name")?.to_owned());
    if name == "test_task_counts" {
        return Ok(Reply::from(json!({"content": [text("counted")], "structuredContent": tasks.counts()})));
    }
    let ms = params.argument("ms").as_u64().unwrap_or(50).min(MAX_MS);
    if !params.members.get("task").is_some_and(Value::is_object) {
        return match name.as_str() {
            "test_task_optional" => Ok(Reply::from(work(call, None, &name, ms).unwrap_or_else(|why| failed(&why)))),
            _ => {
                Err(RpcError::new(-32601, format!("Tool {name} requires task augmentation (taskSupport: 'required')")))
            }
        };
    }
    let id = stdx::random::handle().map_err(|error| RpcError::new(-32603, error.to_string()))?;
    let entry = Task { call: Arc::clone(call), status: "working", outcome: None };
    lock(&tasks.all).insert(id.clone(), entry);
    let described = tasks.described(&id)?;
    let (worker, task) = (Arc::clone(call), id.clone());
    std::thread::spawn(move || {
        let outcome = work(&worker, Some(&task), &name, ms);
        worker.process.tasks.end(&task, outcome);
    });
    Ok(Reply::from(json!({ "task": described })))
}

fn failed(why: &str) -> Value {
    json!({"content": [text(why)], "isError": true})
}

/// Ten parts with progress, then the result.
fn work(call: &Arc<Call>, task: Option<&str>, name: &str, ms: u64) -> Result<Value, String> {
    for part in 1..=10_u64 {
        call.pause(Duration::from_millis(ms / 10));
        if call.is_stopped() {
            return Err("The task was cancelled".to_owned());
        }
        if part % 5 == 0 {
            call.progress(part, 10, "working");
        }
    }
    match (name, task) {
        ("test_task_fails", _) => Err("The task failed".to_owned()),
        ("test_task_asks", Some(task)) => {
            call.process.tasks.set(task, "input_required");
            let form = json!({"type": "object", "properties": {"name": {"type": "string"}}});
            let meta = json!({RELATED: {"taskId": task}});
            let params = json!({"message": "Who?", "mode": "form", "requestedSchema": form, "_meta": meta});
            let asked = json!({"user_name": {"method": "elicitation/create", "params": params}});
            let answers = call.ask_all(asked.as_object().ok_or("no question")?)?;
            Ok(json!({"content": [text(&answers["user_name"]["content"]["name"].to_string())]}))
        }
        _ => Ok(json!({"content": [text(&format!("{name} is done"))], "structuredContent": {"task": task.is_some()}})),
    }
}

impl Tasks {
    fn described(&self, id: &str) -> Result<Value, RpcError> {
        let all = lock(&self.all);
        let task = all.get(id).ok_or_else(|| RpcError::new(-32602, "Failed to retrieve task: Task not found"))?;
        Ok(describe(id, task))
    }

    fn list(&self) -> Vec<Value> {
        lock(&self.all).iter().map(|(id, task)| describe(id, task)).collect()
    }

    fn counts(&self) -> Value {
        let all = lock(&self.all);
        let count = |status: &str| all.values().filter(|task| task.status == status).count();
        json!({"made": all.len(), "working": count("working"), "cancelled": count("cancelled")})
    }

    fn set(&self, id: &str, status: &'static str) {
        if let Some(task) = lock(&self.all).get_mut(id) {
            task.status = status;
        }
    }

    fn cancel(&self, id: &str) -> Result<Value, RpcError> {
        if let Some(task) = lock(&self.all).get_mut(id)
            && task.outcome.is_none()
        {
            task.status = "cancelled";
            task.outcome = Some(Err("The task was cancelled".to_owned()));
            task.call.stop();
        }
        self.changed.notify_all();
        self.described(id)
    }

    fn end(&self, id: &str, outcome: Result<Value, String>) {
        if let Some(task) = lock(&self.all).get_mut(id)
            && task.outcome.is_none()
        {
            task.status = if outcome.is_ok() { "completed" } else { "failed" };
            task.outcome = Some(outcome);
            let described = describe(id, task);
            task.call.process.output.notify("notifications/tasks/status", &described);
        }
        self.changed.notify_all();
    }

    /// Waits for the end of the task.
    fn result(&self, call: &Arc<Call>, id: &str) -> Result<Reply, RpcError> {
        self.described(id)?;
        let mut all = lock(&self.all);
        loop {
            if let Some(outcome) = all.get(id).and_then(|task| task.outcome.clone()) {
                let mut value = outcome.map_err(|why| RpcError::new(-32603, why))?;
                value["_meta"] = json!({RELATED: {"taskId": id}});
                return Ok(Reply::from(value));
            }
            if call.is_stopped() {
                return Err(RpcError::new(-32603, "nobody waits any more"));
            }
            let waited = self.changed.wait_timeout(all, Duration::from_millis(50));
            all = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn describe(id: &str, task: &Task) -> Value {
    let at = "2025-11-25T10:30:00Z";
    json!({"taskId": id, "status": task.status, "createdAt": at, "lastUpdatedAt": at, "ttl": null, "pollInterval": 50})
}
