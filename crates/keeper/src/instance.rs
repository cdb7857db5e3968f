//! One instance that is held: its start, its signals, its exit.

use crate::wire::Say;
use crate::words::{Exit, Launch, Stage};
use jail::{Entrance, Jail, Jails, tree};
use rustix::fs::{MemfdFlags, OFlags, fcntl_setfl, memfd_create};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, getppid, pidfd_open, pidfd_send_signal,
    set_parent_process_death_signal, waitid, waitpid,
};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::rc::Rc;

/// Room in a pipe, so that a message of 64 KiB crosses in one piece. Asking for more than the kernel gives is no error.
const PIPE_BYTES: usize = 256 << 10;

/// A process that was started, until it is forgotten.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) pid: i32,
    pub(crate) started: u64,
    /// Until its exit is known.
    pub(crate) pidfd: Option<OwnedFd>,
    /// stdin (until closed), stdout, stderr, notebook.
    pub(crate) ends: Vec<Rc<OwnedFd>>,
    pub(crate) exit: Option<Exit>,
    /// For which limit it was ended.
    pub(crate) over: Option<String>,
    pub(crate) jail: Jail,
}

/// Where a start failed, and why.
pub(crate) type Failure = (Stage, io::Error);

// === impl Instance ===

impl Instance {
    /// Starts `launch`.
    pub(crate) fn start(launch: &Launch, jails: &Jails) -> Result<Self, Failure> {
        if !launch.cwd.is_dir() {
            return Err((Stage::NoDirectory, rustix::io::Errno::NOENT.into()));
        }
        let no_pipe = |error: rustix::io::Errno| (Stage::NoPipe, error.into());
        let (their_stdin, stdin) = pipe(Ours::Write).map_err(no_pipe)?;
        let (their_stdout, stdout) = pipe(Ours::Read).map_err(no_pipe)?;
        let (their_stderr, stderr) = pipe(Ours::Read).map_err(no_pipe)?;
        let notebook = memfd_create("staithe-notebook", MemfdFlags::CLOEXEC).map_err(no_pipe)?;
        let mut command = Command::new(&launch.program);
        command.args(&launch.args).env_clear().envs(launch.env.iter().map(|(name, value)| (name, value)));
        command.current_dir(&launch.cwd).process_group(0);
        command.stdin(Stdio::from(their_stdin)).stdout(Stdio::from(their_stdout)).stderr(Stdio::from(their_stderr));
        let (jail, entrance) = jails.build(launch.id, &launch.limits).map_err(|error| (Stage::Limit, error))?;
        let (pid, pidfd) = spawn(command, entrance).map_err(|error| {
            jail.remove();
            let stage = if error.kind() == io::ErrorKind::NotFound { Stage::NoProgram } else { Stage::Exec };
            (stage, error)
        })?;
        let started = tree::Process::read(pid).map_or(0, |process| process.started);
        let ends = [stdin, stdout, stderr, notebook].map(Rc::new).into();
        Ok(Self { pid, started, pidfd: Some(pidfd), ends, exit: None, over: None, jail })
    }

    pub(crate) fn close_stdin(&mut self) {
        if self.ends.len() == 4 {
            self.ends.remove(0);
        }
    }

    /// To the process and its group. A process that is gone needs no signal.
    pub(crate) fn signal(&self, signal: Signal) {
        if signal == Signal::KILL {
            self.jail.kill();
        }
        if let Some(pidfd) = &self.pidfd {
            let _ = pidfd_send_signal(pidfd, signal);
        }
        tree::signal_group(self.pid, signal);
    }

    /// Whether only looking finds out that it is over a limit.
    pub(crate) fn needs_looks(&self) -> bool {
        self.over.is_none() && self.jail.needs_looks()
    }

    /// How it ended, if that is news. It stays a zombie.
    pub(crate) fn note_exit(&mut self) -> Option<Exit> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let status = waitid(WaitId::PidFd(self.pidfd.as_ref()?.as_fd()), options).ok()??;
        let exit = status.exit_status().map(Exit::Code);
        self.exit = Some(exit.or_else(|| status.terminating_signal().map(Exit::Signal))?);
        self.pidfd = None;
        self.exit
    }

    pub(crate) fn reap(&self) {
        reap(self.pid);
        self.jail.remove();
    }

    pub(crate) fn as_held(&self, id: u64) -> Say {
        let (pid, started) = (self.pid.unsigned_abs(), self.started);
        Say::Held { id, pid, started, exit: self.exit, over: self.over.clone() }
    }
}

pub(crate) fn reap(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

fn spawn(mut command: Command, entrance: Entrance) -> io::Result<(i32, OwnedFd)> {
    let keeper = getpid();
    let enter = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid() != Some(keeper) {
            // The keeper died before the line above: its signal will not come.
            return Err(rustix::io::Errno::SRCH.into());
        }
        entrance.enter()
    };
    #[expect(unsafe_code, reason = "between fork and exec there is no other way to run code")]
    // SAFETY: the closure makes system calls only: it takes no lock and allocates nothing.
    unsafe {
        command.pre_exec(enter);
    }
    let mut child = command.spawn()?;
    let pid = Pid::from_child(&child);
    let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK).inspect_err(|_| {
        // What cannot be watched must not run.
        let _ = child.kill().and_then(|()| child.wait());
    })?;
    Ok((pid.as_raw_pid(), pidfd))
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
