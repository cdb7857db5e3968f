//! A process and everything it ever started: found by mark, by process group and by descent, and ended for good.
//!
//! A double fork leaves the group and the line of descent, but it inherits the mark.

use crate::process::{Child, MARK};
pub(crate) use jail::Usage;
use jail::tree::{Process, Root, all, members};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

/// How long a killed process may take to go: one in the kernel's hands for longer is beyond us.
const KILLED: Duration = Duration::from_secs(10);

/// Whether the program itself is known to live, so that its number is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Alive,
    Gone,
}

/// A tree at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Whether the program itself is stopped by a signal or a debugger.
    pub(crate) stopped: bool,
    /// Processor time that those who live now have used, and their children that have ended.
    pub(crate) cpu: Duration,
}

/// Ends a child and its tree: what has closed stdin gets `grace` to leave, then SIGTERM and `grace` again, then
/// SIGKILL until nothing is left. The caller has closed stdin. Returns how the program ended. What was given to another
/// daemon meanwhile is that one's to end.
pub(crate) async fn stop(child: &mut Child, grace: Duration) -> String {
    let (pid, mark) = (child.pid, child.mark.clone());
    if let Ok(status) = tokio::time::timeout(grace, child.exited()).await {
        sweep(pid, mark, grace).await;
        return status;
    }
    for signal in [Signal::TERM, Signal::KILL] {
        if child.is_given_away() {
            return "another daemon has it".to_owned();
        }
        signal_all(pid, &mark, Program::Alive, signal).await;
        let patience = if signal == Signal::TERM { grace } else { KILLED };
        if let Ok(status) = tokio::time::timeout(patience, child.exited()).await {
            let rest = if signal == Signal::TERM { grace } else { Duration::ZERO };
            sweep(pid, mark, rest).await;
            return status;
        }
    }
    tracing::error!(pid, mark, "a killed process has not ended");
    "it was killed and has not ended".to_owned()
}

/// Ends what a program that is gone has left behind: SIGTERM, up to `grace`, then SIGKILL.
pub(crate) async fn sweep(pid: u32, mark: String, grace: Duration) {
    if signal_all(pid, &mark, Program::Gone, Signal::TERM).await == 0 {
        return;
    }
    let step = Duration::from_millis(20);
    let mut waited = Duration::ZERO;
    while waited < grace {
        tokio::time::sleep(step).await;
        waited += step;
        if count(pid, &mark).await == 0 {
            return;
        }
    }
    // A tree that forks while it is killed is met again on the next round.
    for _ in 0..50 {
        if signal_all(pid, &mark, Program::Gone, Signal::KILL).await == 0 {
            return;
        }
        tokio::time::sleep(step).await;
    }
    tracing::error!(pid, mark, "a process tree could not be ended");
}

/// Ends every process that carries a mark of `identity`, but for the trees whose marks are `kept`: what was left when an
/// earlier daemon and its keeper were killed. Returns how many.
pub(crate) async fn end_leftovers(identity: &str, kept: &HashSet<String>) -> usize {
    let prefix = format!("{MARK}={identity}/");
    let kept: Arc<HashSet<Vec<u8>>> = Arc::new(kept.iter().map(|mark| format!("{MARK}={mark}").into_bytes()).collect());
    let mut found = 0;
    for _ in 0..50 {
        let (prefix, kept) = (prefix.clone(), kept.clone());
        let ended = blocking(move || {
            let own = i32::try_from(std::process::id()).unwrap_or(0);
            let ours = |entry: &[u8]| entry.starts_with(prefix.as_bytes()) && !kept.contains(entry);
            let left = |process: &Process| process.lives() && process.pid != own && environment_has(process.pid, ours);
            all().into_iter().filter(|process| left(process) && send(*process, Signal::KILL)).count()
        })
        .await;
        if ended == 0 {
            break;
        }
        found = found.max(ended);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    found
}

/// What the tree of the program `pid` is marked with.
pub(crate) fn mark_of(pid: u32) -> Option<String> {
    let raw = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let own = format!("{MARK}=");
    let entry = raw.split(|b| *b == 0).find_map(|entry| entry.strip_prefix(own.as_bytes()))?;
    String::from_utf8(entry.to_vec()).ok()
}

/// What the tree of `pid` takes. Reads `/proc`; call it where blocking for a millisecond is fine.
pub(crate) fn usage(pid: u32) -> Usage {
    i32::try_from(pid).map(|number| jail::tree::usage(&all(), number)).unwrap_or_default()
}

/// What the program `pid` and what it started do. `None` where it is gone.
pub(crate) async fn look(pid: u32) -> Option<Seen> {
    let number = i32::try_from(pid).ok()?;
    blocking(move || {
        let all = all();
        let stopped = all.iter().find(|process| process.pid == number)?.is_stopped();
        Some(Seen { stopped, cpu: Duration::from_millis(jail::tree::usage(&all, number).cpu_ms) })
    })
    .await
}

/// Whether a signal has stopped the program `pid`. Reads one small file.
pub(crate) fn is_stopped(pid: u32) -> bool {
    i32::try_from(pid).ok().and_then(Process::read).is_some_and(|process| process.is_stopped())
}

async fn signal_all(pid: u32, mark: &str, program: Program, signal: Signal) -> usize {
    let mark = mark.to_owned();
    blocking(move || instance(pid, &mark, program).into_iter().filter(|process| send(*process, signal)).count()).await
}

async fn count(pid: u32, mark: &str) -> usize {
    let mark = mark.to_owned();
    blocking(move || instance(pid, &mark, Program::Gone).len()).await
}

async fn blocking<T: Send + Default + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap_or_default()
}

/// The living processes of an instance whose program has, or had, number `pid`.
fn instance(pid: u32, mark: &str, program: Program) -> Vec<Process> {
    let number = i32::try_from(pid).unwrap_or(-1);
    let entry = format!("{MARK}={mark}");
    let all = all();
    // Once the program is gone, a process with its number is a stranger, and so is that stranger's group.
    let recycled = || all.iter().any(|process| process.lives() && process.pid == number);
    let related: HashSet<i32> = match program {
        Program::Gone if recycled() => HashSet::new(),
        Program::Alive | Program::Gone => members(&all, &[Root::Instance(number)]).iter().map(|p| p.pid).collect(),
    };
    let own = |process: &Process| {
        environment_has(process.pid, |e| e == entry.as_bytes())
            || (related.contains(&process.pid) && !environment_has(process.pid, is_other_mark(&entry)))
    };
    all.iter().filter(|process| process.lives() && own(process)).copied().collect()
}

fn is_other_mark(entry: &str) -> impl Fn(&[u8]) -> bool {
    move |e| e.starts_with(MARK.as_bytes()) && e != entry.as_bytes()
}

fn send(process: Process, signal: Signal) -> bool {
    let Some(pid) = Pid::from_raw(process.pid) else { return false };
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    // The handle is to whoever has the number now: make sure that it is still the one that was found.
    Process::read(process.pid).is_some_and(|now| now.started == process.started)
        && pidfd_send_signal(handle, signal).is_ok()
}

fn environment_has(pid: i32, wanted: impl Fn(&[u8]) -> bool) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|raw| raw.split(|b| *b == 0).any(wanted))
}
