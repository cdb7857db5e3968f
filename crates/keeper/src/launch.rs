//! The start of one instance: pipes, notebook, limits, fork and exec.

use crate::cgroup::{Cgroups, Group};
use crate::tree::Process;
use crate::words::{Launch, Stage};
use rustix::fs::{MemfdFlags, Mode, OFlags, fcntl_setfl, memfd_create};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getpid, getppid, pidfd_open, set_parent_process_death_signal, setrlimit,
    umask,
};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::rc::Rc;

/// Room in a pipe, so that a message of 64 KiB crosses in one piece. Asking for more than the kernel gives is no error.
const PIPE_BYTES: usize = 256 << 10;

/// What children inherit that the keeper changed for itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inherited {
    /// `None`: the keeper did not change it.
    pub(crate) umask: Option<Mode>,
    pub(crate) open_files: Rlimit,
}

/// A process that was started, with our ends: stdin, stdout, stderr, notebook.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: i32,
    pub(crate) started: u64,
    pub(crate) pidfd: OwnedFd,
    pub(crate) ends: [Rc<OwnedFd>; 4],
    pub(crate) group: Option<Group>,
}

/// Where a start failed, and why.
pub(crate) type Failure = (Stage, io::Error);

/// Starts `launch`.
pub(crate) fn launch(launch: &Launch, inherited: Inherited, groups: Option<&Cgroups>) -> Result<Started, Failure> {
    if !launch.cwd.is_dir() {
        return Err((Stage::NoDirectory, io::Error::from_raw_os_error(rustix::io::Errno::NOENT.raw_os_error())));
    }
    let no_pipe = |error: rustix::io::Errno| (Stage::NoPipe, error.into());
    let (their_stdin, stdin) = pipe(Ours::Write).map_err(no_pipe)?;
    let (their_stdout, stdout) = pipe(Ours::Read).map_err(no_pipe)?;
    let (their_stderr, stderr) = pipe(Ours::Read).map_err(no_pipe)?;
    let notebook = memfd_create("staithe-notebook", MemfdFlags::CLOEXEC).map_err(no_pipe)?;
    let group = groups.map(|groups| groups.group(launch.id, &launch.limits)).transpose();
    let group = group.map_err(|error| (Stage::Limit, error))?;
    let door = group.as_ref().map(Group::door).transpose().map_err(|error| (Stage::Limit, error))?;

    let mut command = Command::new(&launch.program);
    command.args(&launch.args).env_clear().envs(launch.env.iter().map(|(name, value)| (name, value)));
    command.current_dir(&launch.cwd).process_group(0);
    command.stdin(Stdio::from(their_stdin)).stdout(Stdio::from(their_stdout)).stderr(Stdio::from(their_stderr));
    let keeper = getpid();
    let open_files = lower(inherited.open_files, launch.limits.open_files);
    #[expect(unsafe_code, reason = "between fork and exec there is no other way to run code")]
    // SAFETY: the closure makes system calls only: it takes no lock and allocates nothing.
    unsafe {
        command.pre_exec(move || prepare(keeper, inherited.umask, open_files, door.as_ref()));
    }
    let spawned = command.spawn().and_then(|mut child| {
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK).inspect_err(|_| {
            // What cannot be watched must not run.
            let _ = child.kill().and_then(|()| child.wait());
        })?;
        Ok((pid.as_raw_pid(), pidfd))
    });
    let (pid, pidfd) = spawned.map_err(|error| {
        let _ = group.as_ref().map(Group::remove);
        let stage = if error.kind() == io::ErrorKind::NotFound { Stage::NoProgram } else { Stage::Exec };
        (stage, error)
    })?;
    let started = Process::read(pid).map_or(0, |process| process.started);
    Ok(Started { pid, started, pidfd, ends: [stdin, stdout, stderr, notebook].map(Rc::new), group })
}

/// In the child, before its program. No limit of address space: V8 and Go reserve far more than they use.
fn prepare(keeper: Pid, mask: Option<Mode>, open_files: Rlimit, door: Option<&std::fs::File>) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != Some(keeper) {
        // The keeper died before the line above: its signal will not come.
        return Err(rustix::io::Errno::SRCH.into());
    }
    close_from_three(Close::OnExec);
    default_signals();
    if let Some(mask) = mask {
        umask(mask);
    }
    if let Some(door) = door {
        rustix::io::write(door, b"0")?;
    }
    setrlimit(Resource::Nofile, open_files)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

/// `limit` where it is lower than what is inherited; nobody may raise the hard limit.
fn lower(inherited: Rlimit, limit: Option<u64>) -> Rlimit {
    let Some(limit) = limit else { return inherited };
    let limit = Some(inherited.maximum.map_or(limit, |maximum| maximum.min(limit)));
    Rlimit { current: limit, maximum: limit }
}

#[derive(Clone, Copy)]
enum Ours {
    Read,
    Write,
}

/// A pipe as (their end, our end). Only ours does not block.
fn pipe(ours: Ours) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
    let (theirs, ours) = match ours {
        Ours::Read => (write, read),
        Ours::Write => (read, write),
    };
    fcntl_setfl(&ours, OFlags::NONBLOCK)?;
    Ok((theirs, ours))
}

/// What the caller of the keeper ignored, its children need not ignore. The mask is the standard library's to empty.
fn default_signals() {
    #[expect(unsafe_code, reason = "no safe interface sets what a signal does")]
    unsafe extern "C" {
        fn signal(signal: i32, action: usize) -> usize;
    }
    for number in 1..32 {
        #[expect(unsafe_code, reason = "no safe interface sets what a signal does")]
        // SAFETY: 0 is the default action; the call may be made between fork and exec.
        unsafe {
            signal(number, 0);
        }
    }
}

/// When descriptors beyond stdin, stdout and stderr go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Close {
    Now = 0,
    OnExec = 4, // CLOSE_RANGE_CLOEXEC
}

/// Lets go of every descriptor from 3 on. A kernel before 5.11 does not know how; ours all close on exec anyway.
pub(crate) fn close_from_three(when: Close) {
    const CLOSE_RANGE: i64 = 436;
    #[expect(unsafe_code, reason = "no safe interface closes descriptors that came with the process")]
    unsafe extern "C" {
        fn syscall(number: i64, ...) -> i64;
    }
    #[expect(unsafe_code, reason = "no safe interface closes descriptors that came with the process")]
    // SAFETY: the call takes numbers only. `Now` is used before the keeper has opened anything.
    unsafe {
        syscall(CLOSE_RANGE, 3_u64, u64::from(u32::MAX), when as u64);
    }
}
