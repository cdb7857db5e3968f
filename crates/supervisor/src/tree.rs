//! A process and everything it ever started: found by mark, by process group and by descent, and ended for good.
//!
//! A double fork leaves the group and the line of descent, but it inherits the mark.

use crate::process::{Child, MARK};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

/// How long a killed process may take to go: one in the kernel's hands for longer is beyond us.
const KILLED: Duration = Duration::from_secs(10);

/// One process, named so that a recycled number is not mistaken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Member {
    pid: i32,
    started: u64,
}

/// Whether the program itself is known to live, so that its number is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Root {
    Alive,
    Gone,
}

/// What one line of `/proc/<pid>/stat` says.
#[derive(Clone, Copy, Debug)]
struct Stat {
    pid: i32,
    parent: i32,
    group: i32,
    started: u64,
    resident_pages: u64,
    zombie: bool,
    stopped: bool,
    /// Clock ticks of processor time so far.
    ticks: u64,
}

/// A tree at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Whether the program itself is stopped by a signal or a debugger.
    pub(crate) stopped: bool,
    /// Processor time that those who live now have used.
    pub(crate) cpu: Duration,
}

/// Ends a child and its tree: what has closed stdin gets `grace` to leave, then SIGTERM and `grace` again, then
/// SIGKILL until nothing is left. The caller has closed stdin. Returns how the program ended.
pub(crate) async fn stop(child: &mut Child, grace: Duration) -> String {
    let (pid, mark) = (child.pid, child.mark.clone());
    if let Ok(status) = tokio::time::timeout(grace, child.exited()).await {
        sweep(pid, mark, grace).await;
        return status;
    }
    signal_all(pid, &mark, Root::Alive, Signal::TERM).await;
    if let Ok(status) = tokio::time::timeout(grace, child.exited()).await {
        sweep(pid, mark, grace).await;
        return status;
    }
    signal_all(pid, &mark, Root::Alive, Signal::KILL).await;
    let Ok(status) = tokio::time::timeout(KILLED, child.exited()).await else {
        tracing::error!(pid, mark, "a killed process has not ended");
        return "it was killed and has not ended".to_owned();
    };
    sweep(pid, mark, Duration::ZERO).await;
    status
}

/// Ends what a program that is gone has left behind: SIGTERM, up to `grace`, then SIGKILL.
pub(crate) async fn sweep(pid: u32, mark: String, grace: Duration) {
    if signal_all(pid, &mark, Root::Gone, Signal::TERM).await == 0 {
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
        if signal_all(pid, &mark, Root::Gone, Signal::KILL).await == 0 {
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
            let left: Vec<Member> = all()
                .filter(|s| {
                    !s.zombie
                        && s.pid != own
                        && environment_has(s.pid, |entry| entry.starts_with(prefix.as_bytes()) && !kept.contains(entry))
                })
                .map(|s| Member { pid: s.pid, started: s.started })
                .collect();
            left.iter().filter(|member| send(**member, Signal::KILL)).count()
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

/// What a tree takes of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Bytes in memory, pages that processes share counted for each.
    pub(crate) resident_bytes: u64,
    /// How many live.
    pub(crate) processes: u32,
}

/// What the tree of `pid` takes. Reads `/proc`; call it where blocking for a millisecond is fine.
pub(crate) fn usage(pid: u32) -> Usage {
    let stats: Vec<Stat> = all().collect();
    let tree = descendants(&stats, i32::try_from(pid).unwrap_or(-1));
    let living = stats.iter().filter(|s| tree.contains(&s.pid) && !s.zombie);
    let (pages, processes) = living.fold((0, 0), |(pages, count), s| (pages + s.resident_pages, count + 1));
    Usage { resident_bytes: pages * rustix::param::page_size() as u64, processes }
}

/// What the program `pid` and what it started do. `None` where it is gone.
pub(crate) async fn look(pid: u32) -> Option<Seen> {
    let number = i32::try_from(pid).ok()?;
    blocking(move || {
        let stats: Vec<Stat> = all().collect();
        let stopped = stats.iter().find(|s| s.pid == number)?.stopped;
        let tree = descendants(&stats, number);
        let ticks: u64 = stats.iter().filter(|s| tree.contains(&s.pid)).map(|s| s.ticks).sum();
        let hz = rustix::param::clock_ticks_per_second().max(1);
        Some(Seen { stopped, cpu: Duration::from_millis(ticks.saturating_mul(1000) / hz) })
    })
    .await
}

/// Whether a signal has stopped the program `pid`. Reads one small file.
pub(crate) fn is_stopped(pid: u32) -> bool {
    i32::try_from(pid).ok().and_then(stat).is_some_and(|s| s.stopped)
}

async fn signal_all(pid: u32, mark: &str, root: Root, signal: Signal) -> usize {
    let mark = mark.to_owned();
    blocking(move || members(pid, &mark, root).into_iter().filter(|member| send(*member, signal)).count()).await
}

async fn count(pid: u32, mark: &str) -> usize {
    let mark = mark.to_owned();
    blocking(move || members(pid, &mark, Root::Gone).len()).await
}

async fn blocking<T: Send + Default + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap_or_default()
}

/// The living processes of an instance whose program has, or had, number `pid`.
fn members(pid: u32, mark: &str, root: Root) -> Vec<Member> {
    let number = i32::try_from(pid).unwrap_or(-1);
    let entry = format!("{MARK}={mark}");
    let stats: Vec<Stat> = all().filter(|s| !s.zombie).collect();
    let tree = descendants(&stats, number);
    // Once the program is gone, a process with its number is a stranger, and so is that stranger's group.
    let recycled = root == Root::Gone && stats.iter().any(|s| s.pid == number);
    let related = |s: &Stat| match root {
        Root::Alive => s.group == number || tree.contains(&s.pid),
        Root::Gone => s.group == number && !recycled,
    };
    stats
        .iter()
        .filter(|s| {
            environment_has(s.pid, |e| e == entry.as_bytes())
                || (related(s) && !environment_has(s.pid, is_other_mark(&entry)))
        })
        .map(|s| Member { pid: s.pid, started: s.started })
        .collect()
}

fn is_other_mark(entry: &str) -> impl Fn(&[u8]) -> bool {
    move |e| e.starts_with(MARK.as_bytes()) && e != entry.as_bytes()
}

fn descendants(stats: &[Stat], root: i32) -> HashSet<i32> {
    let mut tree = HashSet::from([root]);
    loop {
        let before = tree.len();
        tree.extend(stats.iter().filter(|s| tree.contains(&s.parent)).map(|s| s.pid).collect::<Vec<_>>());
        if tree.len() == before {
            return tree;
        }
    }
}

fn send(member: Member, signal: Signal) -> bool {
    let Some(pid) = Pid::from_raw(member.pid) else { return false };
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    // The handle is to whoever has the number now: make sure that it is still the one that was found.
    stat(member.pid).is_some_and(|s| s.started == member.started) && pidfd_send_signal(handle, signal).is_ok()
}

fn all() -> impl Iterator<Item = Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).filter_map(stat)
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name stands in parentheses and may hold anything, parentheses too.
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_ascii_whitespace().collect();
    Some(Stat {
        pid,
        zombie: matches!(*fields.first()?, "Z" | "X"),
        stopped: matches!(*fields.first()?, "T" | "t"),
        ticks: fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?,
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
        resident_pages: fields.get(21)?.parse().ok()?,
    })
}

fn environment_has(pid: i32, wanted: impl Fn(&[u8]) -> bool) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|raw| raw.split(|b| *b == 0).any(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_find_ourselves_and_our_memory() {
        let own = stat(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(!own.zombie && own.started > 0);
        let usage = usage(std::process::id());
        assert!(usage.resident_bytes > 100_000 && usage.processes >= 1);
    }
}
