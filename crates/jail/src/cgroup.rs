//! Control groups (version 2), where a writable subtree was given to us: limits that the kernel holds.

use crate::limits::{Limits, Usage};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The subtree below which each instance gets its own group.
#[derive(Debug)]
pub(crate) struct Cgroups {
    root: PathBuf,
}

/// The group of one instance.
#[derive(Debug)]
pub(crate) struct Group {
    path: PathBuf,
}

// === impl Cgroups ===

impl Cgroups {
    /// The group of this process, if it may be divided: the process moves into a leaf of it, because a group with
    /// processes of its own cannot limit its children.
    pub(crate) fn find() -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        Self::divide(&place(&own, &mounts)?, std::process::id())
    }

    fn divide(root: &Path, own: u32) -> Option<Self> {
        let controllers = fs::read_to_string(root.join("cgroup.controllers")).ok()?;
        let has = |wanted: &str| controllers.split_ascii_whitespace().any(|found| found == wanted);
        // The root of all groups is nobody's to divide: it has no `cgroup.type`.
        if !has("memory") || !has("pids") || !root.join("cgroup.type").exists() {
            return None;
        }
        let leaf = root.join("keeper");
        make(&leaf).and_then(|()| put(&leaf, "cgroup.procs", own)).ok()?;
        put(root, "cgroup.subtree_control", "+memory +pids").ok()?;
        if has("cpu") {
            put(root, "cgroup.subtree_control", "+cpu").ok()?;
        }
        Some(Self { root: root.to_owned() })
    }

    /// A group for instance `id` with its limits.
    pub(crate) fn group(&self, id: u64, limits: &Limits) -> io::Result<Group> {
        let group = Group { path: self.root.join(format!("i{id}")) };
        make(&group.path)?;
        group.limit(limits).inspect_err(|_| group.remove())?;
        Ok(group)
    }
}

// === impl Group ===

impl Group {
    fn limit(&self, limits: &Limits) -> io::Result<()> {
        if let Some(bytes) = limits.memory_bytes {
            put(&self.path, "memory.max", bytes)?;
            // Without these a hog would move into swap, and lose one process of many.
            let _ = put(&self.path, "memory.swap.max", 0);
            put(&self.path, "memory.oom.group", 1)?;
        }
        if let Some(processes) = limits.processes {
            put(&self.path, "pids.max", processes)?;
        }
        if let Some(percent) = limits.cpu_percent {
            put(&self.path, "cpu.max", format!("{} 100000", percent.max(1).saturating_mul(1000)))?;
        }
        Ok(())
    }

    /// What a process writes `0` to in order to join.
    pub(crate) fn door(&self) -> io::Result<File> {
        File::options().write(true).open(self.path.join("cgroup.procs"))
    }

    /// Kills every process in it. A kernel before 5.14 cannot; then they are killed one by one.
    pub(crate) fn kill(&self) {
        let _ = put(&self.path, "cgroup.kill", 1);
    }

    /// What its processes use.
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            resident_bytes: self.number("memory.current", ""),
            processes: self.number("pids.current", ""),
            open_files: 0,
            cpu_ms: self.number("cpu.stat", "usage_usec ") / 1000,
            oom_kills: self.number("memory.events", "oom_kill "),
        }
    }

    /// Gives the group back. It stays while processes are in it.
    pub(crate) fn remove(&self) {
        let _ = fs::remove_dir(&self.path);
    }

    fn number(&self, file: &str, word: &str) -> u64 {
        let text = fs::read_to_string(self.path.join(file)).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix(word)?.trim().parse().ok()).unwrap_or(0)
    }
}

/// Where the group of version 2 in `/proc/self/cgroup` lies in the file system, by `/proc/self/mountinfo`.
fn place(own: &str, mounts: &str) -> Option<PathBuf> {
    let group = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        let inside = Path::new(group).strip_prefix(root).ok()?;
        after.starts_with("cgroup2 ").then(|| Path::new(at).join(inside))
    })
}

fn make(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn put(group: &Path, file: &str, value: impl std::fmt::Display) -> io::Result<()> {
    File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(group.join(file))?
        .write_all(value.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str =
        "30 23 0:26 / /proc rw - proc proc rw\n31 23 0:28 /sub /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_group_is_found_below_its_mount() {
        assert_eq!(place("0::/sub/staithe\n", MOUNTS), Some(PathBuf::from("/sys/fs/cgroup/staithe")));
        assert_eq!(place("4:memory:/x\n0::/sub\n", MOUNTS), Some(PathBuf::from("/sys/fs/cgroup/")));
        assert_eq!(place("4:memory:/x\n", MOUNTS), None);
        assert_eq!(place("0::/elsewhere\n", MOUNTS), None);
    }

    #[test]
    fn limits_are_written_and_use_is_read() {
        let root = tempfile::tempdir().unwrap();
        let file = |name: &str| fs::read_to_string(root.path().join(name)).unwrap();
        assert!(Cgroups::divide(root.path(), 7).is_none(), "no controllers");
        put(root.path(), "cgroup.controllers", "cpu memory pids\n").unwrap();
        assert!(Cgroups::divide(root.path(), 7).is_none(), "the root of all");
        put(root.path(), "cgroup.type", "domain\n").unwrap();
        let groups = Cgroups::divide(root.path(), 7).unwrap();
        assert_eq!(file("keeper/cgroup.procs"), "7");

        let limits = Limits { memory_bytes: Some(5), processes: Some(6), open_files: None, cpu_percent: Some(150) };
        let group = groups.group(3, &limits).unwrap();
        assert_eq!((file("i3/memory.max"), file("i3/memory.swap.max")), ("5".to_owned(), "0".to_owned()));
        assert_eq!((file("i3/memory.oom.group"), file("i3/pids.max")), ("1".to_owned(), "6".to_owned()));
        assert_eq!(file("i3/cpu.max"), "150000 100000");

        put(&group.path, "memory.events", "low 0\noom 4\noom_kill 2\noom_group_kill 1\n").unwrap();
        put(&group.path, "memory.current", "4096\n").unwrap();
        put(&group.path, "pids.current", "9\n").unwrap();
        put(&group.path, "cpu.stat", "usage_usec 7000\nuser_usec 1\n").unwrap();
        let used = Usage { resident_bytes: 4096, processes: 9, open_files: 0, cpu_ms: 7, oom_kills: 2 };
        assert_eq!(group.usage(), used);
        group.kill();
        group.remove();
        assert_eq!(file("i3/cgroup.kill"), "1");
    }
}
