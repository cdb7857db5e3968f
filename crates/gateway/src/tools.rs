//! Calls about which something must be known before they are sent, and answers that must be fitted to their client:
//! parameters that a modern client mirrors into headers, tools that run only as tasks, shapes that a revision has not. What
//! is known of the tools comes from the instance's own reading of `tools/list`.

use crate::call::{Asked, leg};
use crate::error::CallError;
use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use std::sync::Arc;
use std::time::Duration;
use supervisor::Lease;
use wire::bridge::Leg;
use wire::catalogue::{Catalogue, TaskSupport};
use wire::era::Era;
use wire::greeting::Greeting;
use wire::message::Message;
use wire::negotiated::judge;
use wire::param::{self, PREFIX};
use wire::scan::Place;
use wire::{shape, task};

const CALL: &str = "tools/call";
const LIST: &str = "tools/list";
const DISCOVER: &str = "server/discover";

/// The `Mcp-Param-*` headers of a request, as they came. Their values are shown to nobody (E207).
#[derive(Default)]
pub(crate) struct Mirrored(Vec<(HeaderName, Bytes)>);

impl Mirrored {
    /// Those among `headers`. Without any, nothing is allocated.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let all = headers.iter().filter(|(name, _)| name.as_str().starts_with(PREFIX));
        Self(all.map(|(name, value)| (name.clone(), Bytes::copy_from_slice(value.as_bytes()))).collect())
    }
}

impl std::fmt::Debug for Mirrored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// How a request is sent.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// In other words than the client's; `None` for its own.
    pub(crate) message: Option<Message>,
    /// As a task of the server, of which the client knows nothing (E210).
    pub(crate) as_task: bool,
}

/// Decides how a request is sent to a leased instance. Refuses a modern call whose headers do not mirror its body (E54, E57);
/// an unknown tool is the server's to refuse (E63). Takes out what speaks of tasks where there are none (E209, B21).
pub(crate) async fn sent(asked: &Asked, lease: &Lease, wait: Duration) -> Result<Sent, CallError> {
    let (leg, hidden) = (leg(asked, lease), hides_tasks(asked, lease));
    if leg == Leg::LegacyToLegacy && !hidden {
        return Ok(Sent::default());
    }
    let method = asked.message.method();
    if hidden && task::speaks_of(method) && speaks_of_tasks(lease) {
        let method = method.to_owned();
        return Err(if asked.session.is_some() {
            CallError::NoTasks(method)
        } else {
            CallError::UnknownMethod(method)
        });
    }
    if leg != Leg::LegacyToLegacy {
        lease.instance().want_tools();
    }
    let as_task = method == CALL && Box::pin(called(asked, lease, leg, hidden, wait)).await?;
    let message = match lease.instance().era() {
        _ if !hidden || !speaks_of_tasks(lease) => None,
        Era::Legacy => task::requested(&asked.message, as_task),
        Era::Modern => task::undeclared_by_client(&asked.message),
    };
    Ok(Sent { message, as_task })
}

/// Checks a call of a tool by what is known of it. Whether it is sent as a task.
async fn called(asked: &Asked, lease: &Lease, leg: Leg, hidden: bool, wait: Duration) -> Result<bool, CallError> {
    if lease.instance().tools_are_plain() {
        return Ok(false);
    }
    let mirrors = matches!(leg, Leg::ModernToLegacy | Leg::ModernToModern);
    let runs_tasks = hidden && lease.instance().era() == Era::Legacy && task::offered(capabilities(lease));
    if !(mirrors || runs_tasks) {
        return Ok(false);
    }
    let Some(catalogue) = lease.instance().catalogue(wait).await else { return Ok(false) };
    let Some(tool) = catalogue.tool(&name(asked)) else { return Ok(false) };
    if mirrors {
        let headers: Vec<_> =
            asked.mirrored.0.iter().map(|(name, value)| (&name.as_str()[PREFIX.len()..], value)).collect();
        param::check(tool.params(), &asked.message, &headers)?;
    }
    Ok(runs_tasks && tool.task() == TaskSupport::Required)
}

/// Whether this client is told of no tasks: across eras never (B21, B22), and where they could not be kept apart (E212).
fn hides_tasks(asked: &Asked, lease: &Lease) -> bool {
    matches!(leg(asked, lease), Leg::ModernToLegacy | Leg::LegacyToModern) || lease.hides_tasks()
}

/// Whether the server has tasks of its era at all.
fn speaks_of_tasks(lease: &Lease) -> bool {
    match lease.instance().era() {
        Era::Legacy => lease.instance().greeting().is_some_and(|greeting| greeting.has("tasks")),
        Era::Modern => task::extension_offered(capabilities(lease)),
    }
}

fn capabilities(lease: &Lease) -> &[u8] {
    lease.instance().greeting().map_or(&b"{}"[..], Greeting::capabilities)
}

/// The called tool.
fn name(asked: &Asked) -> std::borrow::Cow<'_, str> {
    asked.message.text(Place::Params, "name").unwrap_or_default()
}

/// The answer as this client can read it: what its revision does not have becomes what it has (B3, B25, B26). An answer that
/// needs what was never declared is none (E11, E110).
pub(crate) async fn fitted(
    asked: &Asked,
    lease: &Lease,
    answer: Message,
    wait: Duration,
) -> Result<Message, CallError> {
    let (instance, method) = (lease.instance(), asked.message.method());
    if method == LIST {
        // If it says something else than our own reading did, that is out of date.
        instance.listed(&answer);
    }
    let answer = match method {
        LIST if instance.era() == Era::Legacy && lease.hides_tasks() => task::unlisted(&answer).unwrap_or(answer),
        DISCOVER if lease.hides_tasks() => task::undeclared_by_server(&answer).unwrap_or(answer),
        _ => answer,
    };
    let Some(session) = &asked.session else {
        if instance.era() == Era::Modern {
            judge(&answer, &asked.message, capabilities(lease)).map_err(|undeclared| {
                CallError::Garbled(format!("the server {} sent an invalid answer: {undeclared}", instance.server()))
            })?;
        }
        return Ok(answer);
    };
    let wrapped = instance.era() == Era::Modern && method == CALL && Box::pin(wrapped(asked, lease, wait)).await;
    Ok(shape::result(&answer, method, instance.era(), session.revision(), wrapped).unwrap_or(answer))
}

/// Whether legacy clients are shown the called tool's results wrapped, as its list says (E202).
async fn wrapped(asked: &Asked, lease: &Lease, wait: Duration) -> bool {
    if lease.instance().tools_are_plain() {
        return false;
    }
    let known: Option<Arc<Catalogue>> = lease.instance().catalogue(wait).await;
    known.is_some_and(|catalogue| catalogue.tool(&name(asked)).is_some_and(wire::catalogue::Tool::wrapped))
}
