//! One instance that is held: its signals, its exit, what it uses and what it may.

use crate::cgroup::Group;
use crate::tree;
use crate::wire::Say;
use crate::words::{Exit, Limits, Usage};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, pidfd_send_signal, waitid, waitpid};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

/// A process that was started, until it is forgotten.
pub(crate) struct Instance {
    pub(crate) pid: i32,
    pub(crate) started: u64,
    /// Until its exit is known.
    pub(crate) pidfd: Option<OwnedFd>,
    /// stdin (until closed), stdout, stderr, notebook.
    pub(crate) ends: Vec<Rc<OwnedFd>>,
    pub(crate) exit: Option<Exit>,
    pub(crate) over: Option<String>,
    pub(crate) limits: Limits,
    pub(crate) group: Option<Group>,
}

// === impl Instance ===

impl Instance {
    pub(crate) fn close_stdin(&mut self) -> Say {
        if self.ends.len() == 4 {
            self.ends.remove(0);
        }
        Say::Done
    }

    /// To the process and its group. A process that is gone needs no signal.
    pub(crate) fn signal(&self, number: i32) -> Say {
        let Some(signal) = Signal::from_named_raw(number) else {
            return Say::Error { text: format!("there is no signal {number}") };
        };
        if signal == Signal::KILL
            && let Some(group) = &self.group
        {
            group.kill();
        }
        if let Some(pidfd) = &self.pidfd {
            let _ = pidfd_send_signal(pidfd, signal);
        }
        tree::signal_group(self.pid, signal);
        Say::Done
    }

    pub(crate) fn usage(&self, all: &[tree::Process]) -> Usage {
        let used = self.group.as_ref().map_or_else(|| tree::usage(all, self.pid), Group::usage);
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.pid));
        Usage { open_files: files.map_or(0, |files| files.count() as u64), ..used }
    }

    /// Whether only looking finds out that it is over a limit.
    pub(crate) fn is_sampled(&self) -> bool {
        let limited = self.limits.memory_bytes.is_some() || self.limits.processes.is_some();
        limited && self.group.is_none() && self.over.is_none()
    }

    /// How it ended, if it has. It stays a zombie.
    pub(crate) fn read_exit(&self) -> Option<Exit> {
        let pidfd = self.pidfd.as_ref()?;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let status = waitid(WaitId::PidFd(pidfd.as_fd()), options).ok()??;
        let exit = status.exit_status().map(Exit::Code);
        exit.or_else(|| status.terminating_signal().map(Exit::Signal))
    }

    pub(crate) fn reap(&self) {
        reap(self.pid);
        let _ = self.group.as_ref().map(Group::remove);
    }
}

pub(crate) fn reap(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// What is said of an instance that uses more than it may.
pub(crate) fn excess(limits: &Limits, used: &Usage) -> Option<String> {
    let memory = limits.memory_bytes.filter(|limit| used.resident_bytes > *limit).map(|limit| {
        format!("its processes used {} of memory; the limit is {}", amount(used.resident_bytes), amount(limit))
    });
    let processes = limits.processes.filter(|limit| used.processes > *limit);
    memory.or_else(|| processes.map(|limit| format!("it was {} processes; the limit is {limit}", used.processes)))
}

/// Bytes as people write them, one digit after the point where it says something.
pub(crate) fn amount(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..1_048_576 => (1 << 10, "KiB"),
        1_048_576..1_073_741_824 => (1 << 20, "MiB"),
        _ => (1 << 30, "GiB"),
    };
    match bytes % unit * 10 / unit {
        0 => format!("{} {name}", bytes / unit),
        tenth => format!("{}.{tenth} {name}", bytes / unit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excess_says_how_much_and_the_limit() {
        let limits = Limits { memory_bytes: Some(1 << 30), processes: Some(3), ..Limits::default() };
        let used = |resident_bytes, processes| Usage { resident_bytes, processes, ..Usage::default() };
        assert_eq!(excess(&limits, &used(1 << 30, 3)), None);
        let said = excess(&limits, &used((1 << 30) + (1 << 28), 9)).unwrap();
        assert_eq!(said, "its processes used 1.2 GiB of memory; the limit is 1 GiB");
        assert_eq!(excess(&limits, &used(1, 4)).unwrap(), "it was 4 processes; the limit is 3");
        assert_eq!(excess(&Limits::default(), &used(u64::MAX, u64::MAX)), None);
    }
}
