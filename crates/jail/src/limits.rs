//! What the processes of an instance may use and do use, and who holds them to it.

use crate::cgroup::{Cgroups, Group};
use crate::entrance::{Entrance, Inherited};
use crate::tree::{self, Process};
use std::io;

/// What the processes of one instance may use. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory of all its processes, bytes.
    pub memory_bytes: Option<u64>,
    /// How many processes it may be.
    pub processes: Option<u64>,
    /// Open files of each process; never more than its parent may have itself.
    pub open_files: Option<u64>,
    /// Percent of one core. Held only where there is a cgroup.
    pub cpu_percent: Option<u64>,
}

/// What the processes of an instance use now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory, bytes. Without a cgroup a page that two processes share counts twice.
    pub resident_bytes: u64,
    /// Processes, zombies not counted.
    pub processes: u64,
    /// Open files of the first process.
    pub open_files: u64,
    /// Processor time, milliseconds.
    pub cpu_ms: u64,
    /// How often the kernel ended a process of it for want of memory; 0 without a cgroup.
    pub oom_kills: u64,
}

/// What this host can hold instances with.
#[derive(Debug)]
pub struct Jails {
    inherited: Inherited,
    groups: Option<Cgroups>,
}

/// What holds one instance.
#[derive(Debug)]
pub struct Jail {
    limits: Limits,
    group: Option<Group>,
}

// === impl Jails ===

impl Jails {
    /// Jails for children of this process.
    #[must_use]
    pub fn new(inherited: Inherited) -> Self {
        Self { inherited, groups: None }
    }

    /// The same with control groups, where this process may divide its own. It moves into a leaf of it.
    #[must_use]
    pub fn with_groups(self) -> Self {
        Self { groups: Cgroups::find(), ..self }
    }

    /// A jail for instance `id`, and the way in.
    ///
    /// # Errors
    /// When a control group refuses a limit.
    pub fn build(&self, id: u64, limits: &Limits) -> io::Result<(Jail, Entrance)> {
        let group = self.groups.as_ref().map(|groups| groups.group(id, limits)).transpose()?;
        let door = group.as_ref().map(Group::door).transpose().inspect_err(|_| group.iter().for_each(Group::remove))?;
        let entrance = Entrance { inherited: self.inherited, open_files: limits.open_files, group: door };
        Ok((Jail { limits: *limits, group }, entrance))
    }
}

// === impl Jail ===

impl Jail {
    /// Whether only looking finds out that a limit is passed.
    #[must_use]
    pub fn needs_looks(&self) -> bool {
        self.group.is_none() && (self.limits.memory_bytes.is_some() || self.limits.processes.is_some())
    }

    /// What is used in it, where `pid` is the instance's first process and `all` are the processes of now.
    #[must_use]
    pub fn usage(&self, all: &[Process], pid: i32) -> Usage {
        let used = self.group.as_ref().map_or_else(|| tree::usage(all, pid), Group::usage);
        let files = std::fs::read_dir(format!("/proc/{pid}/fd"));
        Usage { open_files: files.map_or(0, |files| files.count() as u64), ..used }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What is said of an instance that the kernel ended for want of memory.
    #[must_use]
    pub fn starved(&self) -> Option<String> {
        self.group.as_ref().filter(|group| group.usage().oom_kills > 0)?;
        let limit = self.limits.memory_bytes.map(|limit| format!("; the limit is {}", amount(limit)));
        Some(format!("its processes ran out of memory{}", limit.unwrap_or_default()))
    }

    /// Kills every process in it, where the kernel knows which they are. Where it does not, that is [`tree::kill`]'s.
    pub fn kill(&self) {
        self.group.iter().for_each(Group::kill);
    }

    /// Gives back what it is made of, once nobody is in it.
    pub fn remove(&self) {
        self.group.iter().for_each(Group::remove);
    }
}

// === impl Limits ===

impl Limits {
    /// What is said of an instance that uses more than it may.
    pub(crate) fn excess(&self, used: &Usage) -> Option<String> {
        let memory = self.memory_bytes.filter(|limit| used.resident_bytes > *limit).map(|limit| {
            format!("its processes used {} of memory; the limit is {}", amount(used.resident_bytes), amount(limit))
        });
        let processes = self.processes.filter(|limit| used.processes > *limit);
        let processes = processes.map(|limit| format!("it was {} processes; the limit is {limit}", used.processes));
        let all: Vec<String> = memory.into_iter().chain(processes).collect();
        (!all.is_empty()).then(|| all.join(", and "))
    }
}

/// Bytes as people write them, one digit after the point where it says something.
fn amount(bytes: u64) -> String {
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
        assert_eq!(limits.excess(&used(1 << 30, 3)), None);
        let said = limits.excess(&used((1 << 30) + (1 << 28), 9)).unwrap();
        assert_eq!(
            said,
            "its processes used 1.2 GiB of memory; the limit is 1 GiB, and it was 9 processes; the limit is 3"
        );
        let said = limits.excess(&used((1 << 30) + (1 << 28), 3)).unwrap();
        assert_eq!(said, "its processes used 1.2 GiB of memory; the limit is 1 GiB");
        assert_eq!(limits.excess(&used(1, 4)).unwrap(), "it was 4 processes; the limit is 3");
        assert_eq!(Limits::default().excess(&used(u64::MAX, u64::MAX)), None);
    }
}
