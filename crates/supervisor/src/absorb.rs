//! Calls that a server runs as tasks though their client knows of none: the answer that only says "a task was made" is
//! swallowed, `tasks/result` is asked for, and what it answers is the answer of the call. Whoever waits for the call sees
//! nothing of it. (B21, E142, E210, E214)

use crate::instance::Instance;
use model::report::LogSource;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use wire::message::Message;
use wire::task;

/// Calls that were given up before their task had a name. More than this are forgotten, and their tasks run to their end.
const ORPHANS: usize = 256;

/// The tasks of one process that stand for calls.
#[derive(Debug, Default)]
pub(crate) struct Absorbed {
    /// How many entries there are: nearly always none, and then nothing is looked up.
    count: AtomicUsize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    calls: HashMap<u64, Stage>,
    /// The id of our `tasks/result` → the call.
    results: HashMap<u64, u64>,
    orphans: usize,
}

#[derive(Debug)]
enum Stage {
    /// Sent; the task has no name yet.
    Asked,
    /// The same, but nobody waits any more.
    Orphan,
    /// It runs.
    Running { task: String, result: u64 },
}

impl Absorbed {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the table and keeps the count.
    fn change<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = self.table();
        let done = change(&mut table);
        self.count.store(table.calls.len(), Ordering::Release);
        done
    }

    fn none(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }
}

impl Instance {
    /// The call `id`, which is about to be sent, is a task of the server.
    pub(crate) fn absorb(&self, id: u64) {
        self.absorbed.change(|table| table.calls.insert(id, Stage::Asked));
    }

    /// An answer of the server, as the answer of a call: one that speaks of a task is swallowed or becomes that of its call.
    pub(crate) fn absorbed_answer(&self, id: u64, answer: Message) -> Option<(u64, Message)> {
        if self.absorbed.none() {
            return Some((id, answer));
        }
        let result_of = self.absorbed.change(|table| {
            let call = table.results.remove(&id)?;
            table.calls.remove(&call);
            Some(call)
        });
        if let Some(call) = result_of {
            return task::unrelated(&answer, call).map(|answer| (call, answer));
        }
        match (self.absorbed.change(|table| table.calls.remove(&id)), task::created(&answer)) {
            (Some(Stage::Asked), Some(task)) => {
                self.await_result(id, task);
                None
            }
            (Some(Stage::Orphan), task) => {
                self.absorbed.change(|table| table.orphans -= 1);
                if let Some(task) = task {
                    self.send_task("tasks/cancel", &task);
                }
                None
            }
            // It ran at once, failed, or was no task.
            _ => Some((id, answer)),
        }
    }

    fn await_result(&self, call: u64, task: String) {
        let result = self.context.request_ids.fetch_add(1, Ordering::Relaxed);
        // What the server asks for the task, it asks for the call. (E211)
        if let Some(waiting) = self.calls().waiting.get_mut(&call) {
            waiting.task = Some(task.clone());
        }
        let line = task::line(result, "tasks/result", &task);
        // Before it is sent: the answer may come at once.
        self.absorbed.change(|table| {
            table.results.insert(result, call);
            table.calls.insert(call, Stage::Running { task, result });
        });
        if let Err(stalled) = self.send(line) {
            self.context.log.add(self.id, LogSource::Host, &format!("a task cannot be followed: {stalled}"));
        }
    }

    /// The call that the answer to request `id` is for: another one where `id` asks for the result of its task.
    pub(crate) fn absorbed_call(&self, id: u64) -> u64 {
        if self.absorbed.none() { id } else { self.absorbed.table().results.get(&id).copied().unwrap_or(id) }
    }

    /// The call has ended for whoever waited for it.
    pub(crate) fn absorbed_over(&self, call: u64) {
        if !self.absorbed.none() {
            self.absorbed.change(|table| table.end(call));
        }
    }

    /// The call is given up. Whether it was a task: that is cancelled by its own means (E142).
    pub(crate) fn absorbed_cancel(&self, call: u64) -> bool {
        if self.absorbed.none() {
            return false;
        }
        let ended = self.absorbed.change(|table| {
            let ended = table.end(call);
            if matches!(ended, Some(Stage::Asked)) && table.orphans < ORPHANS {
                table.calls.insert(call, Stage::Orphan);
                table.orphans += 1;
            }
            ended
        });
        match ended {
            Some(Stage::Running { task, .. }) => self.send_task("tasks/cancel", &task),
            Some(Stage::Asked | Stage::Orphan) => {}
            None => return false,
        }
        true
    }

    /// Whether a notification is about a task that stands for a call: its client knows of none.
    pub(crate) fn is_absorbed_task(&self, message: &Message) -> bool {
        !self.absorbed.none()
            && task::subject(message).is_some_and(|named| {
                let table = self.absorbed.table();
                table.calls.values().any(|stage| matches!(stage, Stage::Running { task, .. } if *task == named))
            })
    }

    /// A request of ours whose answer nobody reads.
    fn send_task(&self, method: &str, task: &str) {
        let id = self.context.request_ids.fetch_add(1, Ordering::Relaxed);
        let _ = self.send(task::line(id, method, task));
    }
}

impl Table {
    fn end(&mut self, call: u64) -> Option<Stage> {
        let stage = self.calls.remove(&call)?;
        match &stage {
            Stage::Running { result, .. } => {
                self.results.remove(result);
            }
            Stage::Orphan => self.orphans -= 1,
            Stage::Asked => {}
        }
        Some(stage)
    }
}
