//! When to look, and at whom, where only looking holds limits. Reading every process of the system twice a second would
//! cost more than all instances that do nothing.

use crate::limits::Jail;
use crate::tree::{self, Process, Root};
use std::collections::BTreeSet;

/// After so many looks everything is read again, whatever the counter of processes says: in some containers it stands
/// still.
const TRUSTED: u32 = 10;
/// Up to so many new processes are read one by one; for more, everything is.
const NEW: i32 = 128;
/// So many of the last look's new processes are tried again: a number is given before the process can be seen.
const LATE: i32 = 16;

/// Looks at instances, and remembers what makes the next look cheap.
#[derive(Debug, Default)]
pub struct Lookout {
    /// The processes of all instances, as last seen.
    known: BTreeSet<i32>,
    /// The newest process of the system then. `None`: everything must be read.
    newest: Option<i32>,
    /// How many more processes could have come since then, and no instance would be over its limit.
    room: u64,
    /// Looks since everything was read.
    looks: u32,
}

// === impl Lookout ===

impl Lookout {
    /// Somebody came of whom nothing is known.
    pub fn expect_another(&mut self) {
        self.newest = None;
    }

    /// Which of `watched` (a jail and its instance's first process) are over a limit, and what is said of it. `None`: none
    /// can be, so nothing was read.
    pub fn look(&mut self, watched: &[(&Jail, i32)]) -> Option<Vec<(i32, String)>> {
        self.looks += 1;
        let newest = newest();
        let since = newest.zip(self.newest).filter(|(now, then)| now >= then && self.looks < TRUSTED);
        let of_memory = watched.iter().any(|(jail, _)| jail.limits().memory_bytes.is_some());
        if !of_memory && since.is_some_and(|(now, then)| u64::from(now.abs_diff(then)) <= self.room) {
            return None;
        }
        let roots: Vec<Root> = watched.iter().map(|(_, pid)| Root::Instance(*pid)).collect();
        let processes = tree::members(&self.read(since), &roots);
        self.known = processes.iter().map(|process| process.pid).collect();
        self.newest = newest;
        let mut over = Vec::new();
        self.room = u64::MAX;
        for (jail, pid) in watched {
            let used = tree::usage(&processes, *pid);
            let left = jail.limits().processes.map(|limit| limit.saturating_sub(used.processes));
            self.room = self.room.min(left.unwrap_or(u64::MAX));
            over.extend(jail.limits().excess(&used).map(|text| (*pid, text)));
        }
        Some(over)
    }

    /// Those who are known and those who came `since`, which is (the newest now, the newest then); else everybody.
    fn read(&mut self, since: Option<(i32, i32)>) -> Vec<Process> {
        match since {
            Some((now, then)) if now - then <= NEW => {
                let mut some = self.known.clone();
                some.extend((then - LATE).max(0) + 1..=now);
                some.into_iter().filter_map(Process::read).collect()
            }
            _ => {
                self.looks = 0;
                tree::all()
            }
        }
    }
}

/// The number that the newest process or thread of the system got: it says how many came since an earlier one, as long as
/// numbers do not begin again.
fn newest() -> Option<i32> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_ascii_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Inherited, Jails, Limits};
    use rustix::process::{Resource, getrlimit};
    use std::io::Write;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    fn jail(limits: Limits) -> Jail {
        let inherited = Inherited { umask: None, open_files: getrlimit(Resource::Nofile) };
        Jails::new(inherited).build(1, &limits).unwrap().0
    }

    /// A process in a group of its own, with so many children.
    fn family(children: usize) -> Child {
        let script = format!("{} wait", "sleep 60 & ".repeat(children));
        Command::new("sh").args(["-c", &script]).process_group(0).spawn().unwrap()
    }

    fn end(mut family: Child) {
        tree::kill(&[Root::Instance(i32::try_from(family.id()).unwrap())]);
        family.wait().unwrap();
    }

    /// What a look says in the end: the children take a moment to come.
    fn said(lookout: &mut Lookout, jail: &Jail, family: &Child) -> String {
        let pid = i32::try_from(family.id()).unwrap();
        for _ in 0..3000 {
            if let Some((found, text)) = lookout.look(&[(jail, pid)]).unwrap_or_default().pop() {
                assert_eq!(found, pid);
                return text;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("nothing is said");
    }

    #[test]
    fn too_many_processes_are_seen_also_if_they_come_late() {
        let few = jail(Limits { processes: Some(3), ..Limits::default() });
        let (mut lookout, late) = (Lookout::default(), family(0));
        let pid = i32::try_from(late.id()).unwrap();
        assert_eq!(lookout.look(&[(&few, pid)]), Some(Vec::new()));
        let room = lookout.room;
        assert!(room >= 2, "one of three at most: {room}");
        end(late);

        let many = family(9);
        lookout.expect_another();
        let said = said(&mut lookout, &few, &many);
        assert!(said.starts_with("it was ") && said.ends_with("processes; the limit is 3"), "{said}");
        end(many);
    }

    #[test]
    fn memory_is_read_again_of_those_who_are_known() {
        let (tight, one) = (jail(Limits { memory_bytes: Some(4096), ..Limits::default() }), family(1));
        let mut lookout = Lookout::default();
        for _ in 0..2 * TRUSTED {
            assert!(said(&mut lookout, &tight, &one).ends_with("of memory; the limit is 4 KiB"));
        }
        end(one);
    }

    /// A process that came after the first look is found though not everything is read again.
    #[test]
    fn memory_of_a_new_child_counts() {
        let roomy = jail(Limits { memory_bytes: Some(200 << 20), ..Limits::default() });
        let script = "read line; (head -c 300000000 /dev/zero | tail; sleep 60) & wait";
        let mut hog = Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).process_group(0).spawn().unwrap();
        let mut lookout = Lookout::default();
        assert_eq!(lookout.look(&[(&roomy, i32::try_from(hog.id()).unwrap())]), Some(Vec::new()));
        hog.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let said = said(&mut lookout, &roomy, &hog);
        assert!(said.ends_with("of memory; the limit is 200 MiB"), "{said}");
        end(hog);
    }

    /// What a counter that stands still hides is found by the tenth look.
    #[test]
    fn no_counter_is_trusted_for_ever() {
        let (few, many) = (jail(Limits { processes: Some(3), ..Limits::default() }), family(9));
        let mut lookout = Lookout { newest: Some(0), looks: 0, room: u64::MAX, known: BTreeSet::new() };
        let pid = i32::try_from(many.id()).unwrap();
        for _ in 1..TRUSTED {
            assert_eq!(lookout.look(&[(&few, pid)]), None, "within its room");
        }
        assert_eq!(said(&mut lookout, &few, &many).split(' ').next(), Some("it"));
        end(many);
    }

    #[test]
    fn the_counter_moves_with_each_process() {
        let before = newest().unwrap();
        end(family(0));
        assert_ne!(newest().unwrap(), before);
    }
}
