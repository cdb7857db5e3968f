//! When to look, and at whom, where only looking holds limits. Reading every process of the system twice a second would
//! cost more than all instances that do nothing.

use crate::limits::Jail;
use crate::tree::{self, Process, Root};

/// After so many looks everything is read again, whatever the counter of processes says: in some containers it stands
/// still.
const TRUSTED: u32 = 10;

/// Looks at instances, and remembers what makes the next look cheap.
#[derive(Debug, Default)]
pub struct Lookout {
    /// The processes of all instances when everything was read.
    known: Vec<i32>,
    /// The newest process of the system then. `None`: it must be read again.
    newest: Option<u64>,
    /// Looks since then.
    looks: u32,
    /// So many processes could have been started since then, and no instance would be over its limit.
    room: u64,
}

// === impl Lookout ===

impl Lookout {
    /// Somebody came of whom nothing is known.
    pub fn expect_another(&mut self) {
        self.newest = None;
    }

    /// Which of `watched` (a jail and its instance's first process) are over a limit, and what is said of it.
    pub fn look(&mut self, watched: &[(&Jail, i32)]) -> Vec<(i32, String)> {
        let newest = newest();
        self.looks += 1;
        let since = newest.zip(self.newest).and_then(|(now, then)| now.checked_sub(then));
        let born = since.filter(|_| self.looks < TRUSTED);
        let of_memory = watched.iter().any(|(jail, _)| jail.limits().memory_bytes.is_some());
        if !of_memory && born.is_some_and(|born| born <= self.room) {
            return Vec::new();
        }
        let processes = if born == Some(0) {
            self.known.iter().copied().filter_map(Process::read).collect()
        } else {
            let roots: Vec<Root> = watched.iter().map(|(_, pid)| Root::Instance(*pid)).collect();
            let found = tree::members(&tree::all(), &roots);
            self.known = found.iter().map(|process| process.pid).collect();
            (self.newest, self.looks) = (newest, 0);
            found
        };
        let mut over = Vec::new();
        self.room = u64::MAX;
        for (jail, pid) in watched {
            let used = tree::usage(&processes, *pid);
            let left = jail.limits().processes.map(|limit| limit.saturating_sub(used.processes));
            self.room = self.room.min(left.unwrap_or(u64::MAX));
            over.extend(jail.limits().excess(&used).map(|text| (*pid, text)));
        }
        over
    }
}

/// The number that the newest process or thread of the system got: it says how many came since an earlier one, as long as
/// numbers do not begin again.
fn newest() -> Option<u64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_ascii_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Inherited, Jails, Limits};
    use rustix::process::{Resource, getrlimit};
    use std::process::{Child, Command};
    use std::time::Duration;

    fn jail(limits: Limits) -> Jail {
        let inherited = Inherited { umask: None, open_files: getrlimit(Resource::Nofile) };
        Jails::new(inherited).build(1, &limits).unwrap().0
    }

    /// A process in a group of its own, with so many children.
    fn family(children: usize) -> Child {
        use std::os::unix::process::CommandExt;
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
            if let Some((found, text)) = lookout.look(&[(jail, pid)]).pop() {
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
        assert_eq!(lookout.look(&[(&few, pid)]), []);
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

    /// What a counter that stands still hides is found by the tenth look.
    #[test]
    fn no_counter_is_trusted_for_ever() {
        let (few, many) = (jail(Limits { processes: Some(3), ..Limits::default() }), family(9));
        let mut lookout = Lookout { newest: Some(0), looks: 0, room: u64::MAX, known: Vec::new() };
        let pid = i32::try_from(many.id()).unwrap();
        for _ in 1..TRUSTED {
            assert_eq!(lookout.look(&[(&few, pid)]), [], "within its room");
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
