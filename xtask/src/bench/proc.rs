//! What the kernel says about a process and its descendants.

use std::time::Duration;

/// What a process and all its descendants hold and have used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// Resident memory of the first process alone, bytes.
    pub(crate) own_resident: u64,
    /// Resident memory of all, bytes. Pages that processes share are counted for each.
    pub(crate) resident: u64,
    /// How many processes.
    pub(crate) processes: u32,
    /// CPU time of all, and of the children that they waited for.
    pub(crate) cpu: Duration,
}

/// One line of the process table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) id: u32,
    parent: u32,
    ticks: u64,
    /// Tells a process from a later one with the same id.
    started: u64,
}

/// Linux counts CPU time for user space in hundredths of a second on every architecture that staithe runs on.
const TICK: Duration = Duration::from_millis(10);

/// `root` and its descendants, parents first. Empty where `root` is gone.
pub(crate) fn tree(root: u32) -> Vec<Process> {
    let table: Vec<Process> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(process)
        .collect();
    let mut tree: Vec<Process> = table.iter().copied().filter(|process| process.id == root).collect();
    let mut next = 0;
    while let Some(parent) = tree.get(next).map(|process| process.id) {
        tree.extend(table.iter().copied().filter(|process| process.parent == parent));
        next += 1;
    }
    tree
}

/// What `root` and its descendants hold now.
pub(crate) fn usage(root: u32) -> Usage {
    let tree = tree(root);
    let resident: Vec<u64> = tree.iter().map(|process| resident(process.id)).collect();
    let ticks: u64 = tree.iter().map(|process| process.ticks).sum();
    Usage {
        own_resident: resident.first().copied().unwrap_or(0),
        resident: resident.iter().sum(),
        processes: u32::try_from(tree.len()).unwrap_or(u32::MAX),
        cpu: TICK * u32::try_from(ticks).unwrap_or(u32::MAX),
    }
}

/// Resident memory in bytes, counted page by page: the counters of `/proc/<id>/status` lag behind. Zero for a process
/// that is gone.
fn resident(id: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{id}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap_or_default();
    let kibibytes = line.split_ascii_whitespace().next().and_then(|number| number.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

/// Whether exactly this process still lives.
pub(crate) fn lives(one: Process) -> bool {
    process(one.id).is_some_and(|now| now.started == one.started)
}

fn process(id: u32) -> Option<Process> {
    parse(id, &std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
}

/// Reads `/proc/<id>/stat`. The program's name may hold anything, so fields are counted from its last bracket.
fn parse(id: u32, stat: &str) -> Option<Process> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    // Field numbers of proc_pid_stat(5), less the three before and in the bracket.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let zombie = fields.first() == Some(&"Z");
    Some(Process {
        id,
        parent: u32::try_from(field(4)?).ok()?,
        ticks: field(14)? + field(15)? + field(16)? + field(17)?,
        started: field(22)?,
    })
    .filter(|_| !zombie)
}

#[cfg(test)]
mod tests {
    use super::{parse, tree, usage};
    use std::process::{Command, Stdio};

    #[test]
    fn odd_program_names_are_read() {
        let stat = "7 (a) b (c) S 3 7 7 0 -1 0 0 0 0 0 1 2 4 8 20 0 1 0 555 1000 42 0 0";
        let process = parse(7, stat).unwrap();
        assert_eq!((process.parent, process.ticks, process.started), (3, 15, 555));
        assert_eq!(parse(7, &stat.replace(") S", ") Z")), None);
        assert_eq!(parse(7, "7 (a"), None);
    }

    #[test]
    fn children_belong_to_the_tree() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let own = tree(std::process::id());
        let usage = usage(std::process::id());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(own[0].id, std::process::id());
        assert!(own.iter().any(|process| process.id == child.id()));
        assert!(usage.processes >= 2 && usage.own_resident > 0 && usage.resident > usage.own_resident);
    }
}
