//! Which processes belong to which, as `/proc` says, and their end.

use crate::limits::Usage;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;

/// How often a tree is looked at again while its members are stopped: more than a tree of forking processes can outrun.
const PASSES: usize = 200;

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    parent: i32,
    group: i32,
    state: u8,
    ticks: u64,
    /// Clock ticks from the machine's start to its own.
    pub started: u64,
    resident_pages: u64,
}

// === impl Process ===

impl Process {
    /// The process `pid`, if there is one.
    #[must_use]
    pub fn read(pid: i32) -> Option<Self> {
        // One look at all processes reads many of these: no more is asked of the system than it takes.
        let mut stat = [0; 1024];
        let length = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut stat).ok()?;
        Self::parse(pid, stat.get(..length)?)
    }

    /// `None` also for a thread that is not the first of its process: `/proc` finds it by its number and does not list it.
    /// The name stands in brackets and may hold anything, brackets too: fields begin after the last one.
    fn parse(pid: i32, stat: &[u8]) -> Option<Self> {
        let stat = String::from_utf8_lossy(stat);
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at).and_then(|field| field.parse::<i64>().ok());
        // The signal that its end sends: threads send none.
        number(35).filter(|signal| *signal != -1)?;
        let count = |at: usize| number(at).and_then(|number| u64::try_from(number).ok());
        Some(Self {
            pid,
            parent: i32::try_from(number(1)?).ok()?,
            group: i32::try_from(number(2)?).ok()?,
            state: *fields.first()?.as_bytes().first()?,
            ticks: count(11)? + count(12)? + count(13).unwrap_or(0) + count(14).unwrap_or(0),
            started: count(19)?,
            resident_pages: count(21)?,
        })
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn lives(&self) -> bool {
        !matches!(self.state, b'Z' | b'X')
    }

    /// Whether a signal or a debugger has stopped it.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, b'T' | b't')
    }

    /// Whether it has ended and waits for `parent` to notice.
    #[must_use]
    pub fn is_zombie_of(&self, parent: i32) -> bool {
        self.state == b'Z' && self.parent == parent
    }
}

/// Every process that we can see.
#[must_use]
pub fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(Process::read).collect()
}

/// What a set of processes grows from.
#[derive(Clone, Debug)]
pub enum Root {
    /// An instance: its process, its process group, and all their descendants.
    Instance(i32),
    /// The descendants of this process, without itself.
    Below(i32),
}

/// The living processes of `roots` among `all`.
#[must_use]
pub fn members(all: &[Process], roots: &[Root]) -> Vec<Process> {
    let mut inside: BTreeSet<i32> = BTreeSet::new();
    let starts = |process: &Process| {
        roots.iter().any(|root| match root {
            Root::Instance(pid) => process.pid == *pid || process.group == *pid,
            Root::Below(pid) => process.parent == *pid,
        })
    };
    // Parents mostly come first, so a few rounds are enough.
    let mut grown = true;
    while grown {
        grown = false;
        for process in all {
            if inside.contains(&process.parent) || starts(process) {
                grown |= inside.insert(process.pid);
            }
        }
    }
    all.iter().filter(|process| inside.contains(&process.pid) && process.lives()).copied().collect()
}

/// Kills every process of `roots`. Members are stopped first, until a look finds none that runs: one that is killed
/// while its child is being born would leave the child with a stranger for a parent.
pub fn kill(roots: &[Root]) {
    let mut found = Vec::new();
    for _ in 0..PASSES {
        found = members(&all(), roots);
        let running: Vec<&Process> = found.iter().filter(|process| !process.is_stopped()).collect();
        if running.is_empty() {
            break;
        }
        for process in running {
            signal(process.pid, Signal::STOP);
        }
    }
    for root in roots {
        if let Root::Instance(pid) = root {
            signal_group(*pid, Signal::KILL);
        }
    }
    for process in found {
        signal(process.pid, Signal::KILL);
    }
}

/// To the process group of an instance that is not forgotten yet, so that its number is nobody else's.
pub fn signal_group(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // Nobody is left in the group: that is what was wanted.
        let _ = kill_process_group(pid, signal);
    }
}

fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// What the processes of the instance `pid` use. Nothing is known of their open files.
#[must_use]
pub fn usage(all: &[Process], pid: i32) -> Usage {
    let members = members(all, &[Root::Instance(pid)]);
    let pages: u64 = members.iter().map(|process| process.resident_pages).sum();
    let ticks: u64 = members.iter().map(|process| process.ticks).sum();
    Usage {
        resident_bytes: pages * rustix::param::page_size() as u64,
        processes: members.len() as u64,
        open_files: 0,
        cpu_ms: ticks * 1000 / rustix::param::clock_ticks_per_second().max(1),
        oom_kills: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "17 (a) S) b) S 3 17 17 0 -1 4194304 1 2 3 4 10 20 30 40 20 0 1 0 555 1000 77 184467 1 2 3 4 5 0 0 0 0 0 0 0 17 1";

    #[test]
    fn a_name_with_brackets_is_read() {
        let process = Process::parse(17, STAT.as_bytes()).unwrap();
        assert_eq!((process.parent, process.group, process.state), (3, 17, b'S'));
        assert_eq!((process.ticks, process.started, process.resident_pages), (100, 555, 77));
        assert_eq!(Process::parse(17, b"17 (a) S"), None);
        assert_eq!(Process::parse(17, STAT.replace(" 17 1", " -1 1").as_bytes()), None, "a thread");
    }

    #[test]
    fn a_tree_is_descendants_and_group_whatever_the_order() {
        let process =
            |pid, parent, group, state| Process { pid, parent, group, state, ticks: 0, started: 0, resident_pages: 1 };
        let all = [
            process(9, 8, 9, b'S'),   // grandchild in a group of its own
            process(8, 5, 5, b'S'),   // child
            process(5, 2, 5, b'S'),   // the instance
            process(7, 1, 5, b'R'),   // left by a parent that died, still in the group
            process(6, 5, 5, b'Z'),   // dead
            process(20, 1, 20, b'S'), // a stranger
        ];
        let pids = |roots: &[Root]| members(&all, roots).iter().map(|found| found.pid).collect::<Vec<_>>();
        assert_eq!(pids(&[Root::Instance(5)]), [9, 8, 5, 7]);
        assert_eq!(pids(&[Root::Below(2)]), [9, 8, 5]);
        assert_eq!(pids(&[Root::Below(20)]), [] as [i32; 0]);
        assert_eq!(usage(&all, 5).processes, 4);
    }

    #[test]
    fn a_thread_is_no_process() {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let (leave, left) = std::sync::mpsc::sync_channel::<()>(1);
        let thread = std::thread::spawn(move || {
            let own = fs::read_link("/proc/thread-self").unwrap();
            tell.send(own.file_name().unwrap().to_str().unwrap().parse().unwrap()).unwrap();
            left.recv().unwrap();
        });
        let thread_id: i32 = told.recv().unwrap();
        assert!(fs::exists(format!("/proc/{thread_id}/stat")).unwrap());
        assert_eq!(Process::read(thread_id), None);
        leave.send(()).unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn this_process_is_seen() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(all().iter().any(|process| process.pid == own && process.resident_pages > 0));
    }
}
