//! The way into a jail: what a child does between fork and exec. System calls only: no lock, no allocation.

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, setrlimit, umask};
use std::fs::File;
use std::io;

/// What children inherit that their parent changed for itself.
#[derive(Clone, Copy, Debug)]
pub struct Inherited {
    /// `None`: the parent did not change it.
    pub umask: Option<Mode>,
    /// What the parent was given.
    pub open_files: Rlimit,
}

/// One way into one jail.
#[derive(Debug)]
pub struct Entrance {
    pub(crate) inherited: Inherited,
    /// Open files of each process.
    pub(crate) open_files: Option<u64>,
    /// What a process writes `0` to in order to join its group.
    pub(crate) group: Option<File>,
}

// === impl Entrance ===

impl Entrance {
    /// Takes this process in. No limit of address space: V8 and Go reserve far more than they use.
    ///
    /// # Errors
    /// When the group or a limit refuses it: its program must not be started.
    pub fn enter(&self) -> io::Result<()> {
        close_from_three(Close::OnExec);
        default_signals();
        if let Some(mask) = self.inherited.umask {
            umask(mask);
        }
        if let Some(group) = &self.group {
            rustix::io::write(group, b"0")?;
        }
        setrlimit(Resource::Nofile, self.files())?;
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        Ok(())
    }

    /// The limit where it is lower than what is inherited; nobody may raise the hard limit.
    fn files(&self) -> Rlimit {
        let inherited = self.inherited.open_files;
        let Some(limit) = self.open_files else { return inherited };
        let limit = Some(inherited.maximum.map_or(limit, |maximum| maximum.min(limit)));
        Rlimit { current: limit, maximum: limit }
    }
}

/// The C library's set of signals: 1024 bits everywhere on Linux.
#[repr(C)]
struct SignalSet([u64; 16]);

/// What our parent blocks or its caller ignored, its children need neither block nor ignore. The standard library leaves a
/// new program the mask of its parent.
fn default_signals() {
    const SIG_SETMASK: i32 = 2;
    #[expect(unsafe_code, reason = "no safe interface sets what a signal does")]
    unsafe extern "C" {
        fn signal(signal: i32, action: usize) -> usize;
        fn pthread_sigmask(how: i32, set: *const SignalSet, old: *mut SignalSet) -> i32;
    }
    for number in 1..32 {
        #[expect(unsafe_code, reason = "no safe interface sets what a signal does")]
        // SAFETY: 0 is the default action; the call may be made between fork and exec.
        unsafe {
            signal(number, 0);
        }
    }
    let none = SignalSet([0; 16]);
    #[expect(unsafe_code, reason = "no safe interface sets the mask of signals")]
    // SAFETY: `none` is as large as the C library's type, empty where all is zero, and outlives the call, which may be made
    // between fork and exec.
    unsafe {
        pthread_sigmask(SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// When descriptors beyond stdin, stdout and stderr go.
#[derive(Clone, Copy, Debug)]
pub enum Close {
    /// At once: for a process that has opened nothing yet.
    Now = 0,
    /// When a program is executed.
    OnExec = 4, // CLOSE_RANGE_CLOEXEC
}

/// Lets go of every descriptor from 3 on. A kernel before 5.11 does not know how; ours all close on exec anyway.
pub fn close_from_three(when: Close) {
    const CLOSE_RANGE: i64 = 436;
    #[expect(unsafe_code, reason = "no safe interface closes descriptors that came with the process")]
    unsafe extern "C" {
        fn syscall(number: i64, ...) -> i64;
    }
    #[expect(unsafe_code, reason = "no safe interface closes descriptors that came with the process")]
    // SAFETY: the call takes numbers only. `Now` is for callers that have opened nothing.
    unsafe {
        syscall(CLOSE_RANGE, 3_u64, u64::from(u32::MAX), when as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_files_only_lowers() {
        let files = |inherited: Option<u64>, limit| {
            let open_files = Rlimit { current: Some(1024), maximum: inherited };
            let entrance =
                Entrance { inherited: Inherited { umask: None, open_files }, open_files: limit, group: None };
            (entrance.files().current, entrance.files().maximum)
        };
        assert_eq!(files(Some(4096), None), (Some(1024), Some(4096)));
        assert_eq!(files(Some(4096), Some(77)), (Some(77), Some(77)));
        assert_eq!(files(Some(4096), Some(9999)), (Some(4096), Some(4096)));
        assert_eq!(files(None, Some(9999)), (Some(9999), Some(9999)));
    }
}
