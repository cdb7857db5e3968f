//! The keeper as a process of its own, and its start by another.

use crate::notify::notify;
use crate::resident::Regions;
use crate::serve::{Options, Process, serve};
use crate::start::HELD;
use jail::{Close, Inherited, Jails, close_from_three};
use rustix::fs::{FlockOperation, Mode, flock};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, set_child_subreaper, setrlimit, setsid, umask};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// The word after the program's name that makes it a keeper.
pub const VERB: &str = "keeper";

/// How long a keeper that holds something waits for a daemon.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Where the keeper of a state directory is reached.
#[must_use]
pub fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join("run/keeper.sock")
}

/// The keeper's process, with the words after [`VERB`]. Its first line on stdout is `ready`, or why it cannot work.
pub fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    let served = prepare(words).and_then(|options| {
        let served = serve(options).map_err(|error| format!("poll: {error}"));
        // We hold the lock, so it is ours. Nobody listens there any more, and nobody shall wonder.
        let _ = fs::remove_file(socket_path(Path::new("")));
        served
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            let _ = writeln!(io::stdout(), "{why}");
            ExitCode::FAILURE
        }
    }
}

fn prepare(mut words: impl Iterator<Item = OsString>) -> Result<Options, String> {
    let (mut state_dir, mut orphan_timeout) = (None, ORPHAN_TIMEOUT);
    while let Some(word) = words.next() {
        let value = words.next();
        match (word.to_str(), &value) {
            (Some("--state-dir"), Some(directory)) => state_dir = Some(PathBuf::from(directory)),
            (Some("--orphan-timeout"), Some(seconds)) => {
                let seconds = seconds.to_str().and_then(|text| text.parse().ok());
                orphan_timeout = Duration::from_secs(seconds.ok_or("--orphan-timeout takes seconds")?);
            }
            _ => return Err(format!("staithe {VERB} --state-dir DIR [--orphan-timeout SECONDS]")),
        }
    }
    let state_dir = state_dir.ok_or("--state-dir is missing")?;
    let inherited = leave_the_caller()?;
    let (door, log) = take(&state_dir)?;
    let signals = block_signals().map_err(|error| format!("cannot take signals: {error}"))?;
    let jails = Jails::new(inherited).with_groups();
    settle(&log).map_err(|error| format!("cannot leave the terminal: {error}"))?;
    let manager = std::env::var_os("NOTIFY_SOCKET");
    if let Some(manager) = &manager {
        notify(manager, "READY=1").map_err(|error| format!("cannot tell the service manager: {error}"))?;
    }
    let process = Some(Process { signals, log, regions: Regions::find() });
    Ok(Options { door, orphan_timeout, jails, process, stop: None, managed: manager.is_some() })
}

/// Away from the terminal, session, files and limits of whoever started us.
fn leave_the_caller() -> Result<Inherited, String> {
    // It fails for the leader of a process group, which a shell makes of us: then there is nothing to leave.
    let _ = setsid();
    set_child_subreaper(Some(Pid::INIT)).map_err(|error| format!("cannot adopt orphans: {error}"))?;
    // Whatever the caller left open by mistake would stay open as long as we live.
    close_from_three(Close::Now);
    let inherited = Inherited { umask: Some(umask(Mode::RWXG | Mode::RWXO)), open_files: getrlimit(Resource::Nofile) };
    // Four descriptors for each instance: take all that we may. What we had is what instances get.
    let all = Rlimit { current: inherited.open_files.maximum, ..inherited.open_files };
    let _ = setrlimit(Resource::Nofile, all);
    Ok(inherited)
}

/// The state directory's lock, log and socket. The lock is held for the life of the process.
fn take(state_dir: &Path) -> Result<(UnixListener, File), String> {
    let cannot = |what: &str, error: io::Error| format!("cannot {what} in {}: {error}", state_dir.display());
    DirBuilder::new().recursive(true).mode(0o700).create(state_dir.join("run")).map_err(|e| cannot("make run/", e))?;
    std::env::set_current_dir(state_dir).map_err(|error| cannot("work", error))?;
    let open = |name: &str| OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(name);
    let mut lock = open("run/keeper.lock").map_err(|error| cannot("open run/keeper.lock", error))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        let _ = lock.read_to_string(&mut pid);
        return Err(format!("{HELD} (process {}) works for {}", pid.trim(), state_dir.display()));
    }
    lock.set_len(0)
        .and_then(|()| writeln!(lock, "{}", std::process::id()))
        .map_err(|e| cannot("write run/keeper.lock", e))?;
    std::mem::forget(lock);
    let log = open("run/keeper.log").map_err(|error| cannot("open run/keeper.log", error))?;

    // Relative: the path of a socket is at most 107 bytes.
    let socket = socket_path(Path::new(""));
    if fs::symlink_metadata(&socket).is_ok_and(|about| about.file_type().is_socket()) {
        fs::remove_file(&socket).map_err(|error| cannot("remove the old run/keeper.sock", error))?;
    }
    let door = UnixListener::bind(&socket).map_err(|error| cannot("bind run/keeper.sock", error))?;
    fs::set_permissions(&socket, Permissions::from_mode(0o600))
        .map_err(|error| cannot("close run/keeper.sock", error))?;
    Ok((door, log))
}

/// Says that we are ready; from now on nobody reads what we say but in the log.
fn settle(log: &File) -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stderr(log)?;
    io::stdout().write_all(b"ready\n")?;
    io::stdout().flush()?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(())
}

/// The C library's set of signals: 1024 bits everywhere on Linux.
#[repr(C)]
struct SignalSet([u64; 16]);

#[expect(unsafe_code, reason = "no safe interface blocks signals or reads them from a descriptor")]
unsafe extern "C" {
    fn sigemptyset(set: *mut SignalSet) -> i32;
    fn sigaddset(set: *mut SignalSet, signal: i32) -> i32;
    fn pthread_sigmask(how: i32, set: *const SignalSet, old: *mut SignalSet) -> i32;
    fn signalfd(fd: i32, set: *const SignalSet, flags: i32) -> i32;
}

/// Blocks what would end us and reads it from a descriptor instead. What we start would inherit that;
/// the jail's entrance undoes it.
fn block_signals() -> io::Result<File> {
    const SIG_BLOCK: i32 = 0;
    const FLAGS: i32 = 0o2_004_000; // SFD_CLOEXEC | SFD_NONBLOCK
    let mut set = SignalSet([0; 16]);
    #[expect(unsafe_code, reason = "no safe interface blocks signals or reads them from a descriptor")]
    // SAFETY: `set` is as large as the C library's type and outlives the calls, which keep no pointer to it; the new
    // descriptor is nobody else's.
    unsafe {
        sigemptyset(&raw mut set);
        for signal in [Signal::HUP, Signal::INT, Signal::TERM, Signal::CHILD] {
            sigaddset(&raw mut set, signal.as_raw());
        }
        if pthread_sigmask(SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::other("signals cannot be blocked"));
        }
        match signalfd(-1, &raw const set, FLAGS) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(File::from(OwnedFd::from_raw_fd(fd))),
        }
    }
}
