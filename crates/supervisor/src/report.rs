//! What servers and instances look like to an operator.

use crate::check::Checked;
use crate::hosted::Hosted;
use crate::restart::Standing;
use crate::slot::{Slot, State};
use crate::tree;
use model::measure::about;
use model::report::{Health, InstanceReport, ServerReport};
use model::{Program, ServerSpec, Target};
use std::sync::atomic::Ordering;
use std::time::Instant;
use stdx::clock::monotonic;
use wire::era::Era;

pub(crate) fn server(hosted: &Hosted, public_url: &str, sessions: u32) -> ServerReport {
    let spec = hosted.spec();
    let slots = hosted.all_slots();
    let known = hosted.known();
    let (health, reason) = health(hosted, &slots);
    let counters = hosted.counters();
    ServerReport {
        name: spec.name.clone(),
        url: format!("{public_url}/mcp/{}", spec.name),
        command: command_line(spec),
        env: spec.program().map(|program| program.env.keys().cloned().collect()).unwrap_or_default(),
        headers_file: headers_file(spec),
        bounds: spec.bounds.clone(),
        mode: spec.mode,
        era: spec.era,
        verdict: known.as_ref().map(|k| k.verdict),
        probed_at_ms: known.as_ref().map(|k| k.probed_at_ms),
        watch: spec.watch.clone(),
        generation: spec.generation,
        health,
        reason,
        instances: count(slots.iter().filter(|s| matches!(s.state(), State::Ready(_))).count()),
        sessions,
        calls: counters.calls.load(Ordering::Relaxed),
        restarts: counters.restarts.load(Ordering::Relaxed),
        junk_lines: counters.junk.load(Ordering::Relaxed),
    }
}

pub(crate) fn instances(hosted: &Hosted) -> Vec<InstanceReport> {
    let owned = hosted.all_slots();
    owned.iter().filter_map(|slot| instance(hosted, slot)).chain(hosted.spare_reports()).collect()
}

/// `None` where nothing lives and nothing is to be started. A process that finishes its calls is shown while it does.
fn instance(hosted: &Hosted, slot: &Slot) -> Option<InstanceReport> {
    let state = slot.state();
    let (mut health, reason) = slot_health(&state);
    let live = match &state {
        State::Ready(instance) => Some(instance.clone()),
        State::Starting => slot.serving(),
        State::Waiting { .. } | State::Failing { .. } | State::Stopped => None,
    };
    let live = live.as_ref();
    match live {
        Some(live) if health == Health::Starting && live.calls_now() > 0 => health = Health::Busy,
        Some(_) if slot.leaves() => health = Health::Stopped,
        None if slot.leaves() => return None,
        Some(_) | None => {}
    }
    let usage = live.and_then(|i| i.pid).map(tree::usage).unwrap_or_default();
    Some(InstanceReport {
        server: hosted.spec().name.clone(),
        id: live.map_or(0, |i| i.id),
        pid: live.and_then(|i| i.pid),
        era: if slot.key.era == Era::Modern { "modern" } else { "legacy" }.to_owned(),
        key: slot.key.to_string(),
        health,
        reason,
        started_at_ms: live.map(|i| i.started_at_ms),
        in_flight: live.map_or(0, |i| i.calls_now()),
        sessions: count(slot.context.session_count()),
        resident_bytes: usage.resident_bytes,
        memory_limit: slot.context.bounds.memory,
        processes: usage.processes,
        processes_limit: slot.context.bounds.processes,
        restarts: slot.restarts.load(Ordering::Relaxed),
    })
}

/// A server is as well as the worst of its slots, and not ready before it was seen to work.
pub(crate) fn health(hosted: &Hosted, slots: &[std::sync::Arc<Slot>]) -> (Health, Option<String>) {
    if !hosted.spec().enabled {
        return (Health::Stopped, None);
    }
    let states: Vec<(Health, Option<String>)> = slots.iter().map(|s| slot_health(&s.state())).collect();
    let order = [
        Health::Quarantined,
        Health::Failing,
        Health::CrashLooping,
        Health::Wedged,
        Health::Restarting,
        Health::Silent,
    ];
    for worst in order {
        if let Some(found) = states.iter().find(|(health, _)| *health == worst) {
            return found.clone();
        }
    }
    match hosted.checked() {
        Checked::NotYet => (Health::Starting, None),
        Checked::Works => (Health::Ready, None),
        Checked::Trouble { reason, until } => (Health::Failing, Some(with_next(&reason, until))),
    }
}

pub(crate) fn slot_health(state: &State) -> (Health, Option<String>) {
    let later = |reason: &str, until: &Instant| Some(with_next(reason, Some(*until)));
    match state {
        State::Starting => (Health::Starting, None),
        State::Ready(instance) if instance.pulse.is_silent() => {
            (Health::Silent, Some("it did not answer when it was asked whether it lives".to_owned()))
        }
        State::Ready(instance) if instance.calls_now() > 0 => (Health::Busy, None),
        State::Ready(_) => (Health::Ready, None),
        State::Waiting { until, reason, wedged } => {
            (if *wedged { Health::Wedged } else { Health::Restarting }, later(reason, until))
        }
        State::Failing { until, reason, standing } => {
            let health = match standing {
                Standing::Restarting => Health::Restarting,
                Standing::Failing => Health::Failing,
                Standing::CrashLooping => Health::CrashLooping,
                Standing::Quarantined => Health::Quarantined,
            };
            (health, later(reason, until))
        }
        State::Stopped => (Health::Stopped, None),
    }
}

/// The reason, and when it is tried again; nothing more where that is now.
fn with_next(reason: &str, until: Option<Instant>) -> String {
    let left = until.and_then(|until| until.checked_duration_since(monotonic())).filter(|left| !left.is_zero());
    left.map_or_else(|| reason.to_owned(), |left| format!("{reason}; next start in {}", about(left)))
}

fn command_line(spec: &ServerSpec) -> String {
    match &spec.target {
        Target::Program(Program { command, args, .. }) => {
            std::iter::once(command).chain(args).map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
        }
        Target::Remote(remote) => remote.url().to_string(),
    }
}

fn headers_file(spec: &ServerSpec) -> Option<String> {
    match &spec.target {
        Target::Program(_) => None,
        Target::Remote(remote) => remote.headers_file().map(str::to_owned),
    }
}

fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:@=+,%".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
