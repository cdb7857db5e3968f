//! A keeper in a thread of this process, for tests and hosts that want no other: no signals, no session, no lock, and only what it started is its own.

use crate::process::socket_path;
use crate::serve::{Options, serve};
use jail::{Inherited, Jails};
use rustix::process::{Resource, getrlimit};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

/// A keeper in a thread. What it started dies with the thread.
#[derive(Debug)]
pub struct InThread {
    socket: PathBuf,
    stop: OwnedFd,
    thread: JoinHandle<io::Result<()>>,
}

/// Starts a keeper in a thread, with its socket where [`socket_path`] says. It waits 15 minutes for a daemon.
///
/// # Errors
/// When there can be no socket or thread.
pub fn in_thread(directory: &Path) -> io::Result<InThread> {
    in_thread_for(directory, Duration::from_secs(15 * 60))
}

/// The same; alone with what it holds, it ends after `orphan_timeout`.
///
/// # Errors
/// When there can be no socket or thread.
pub fn in_thread_for(directory: &Path, orphan_timeout: Duration) -> io::Result<InThread> {
    let socket = socket_path(directory);
    std::fs::create_dir_all(directory.join("run"))?;
    // What an earlier process left there when it was killed.
    if UnixStream::connect(&socket).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        std::fs::remove_file(&socket)?;
    }
    let door = UnixListener::bind(&socket)?;
    let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let serving = move || {
        serve(Options {
            door,
            orphan_timeout,
            jails: Jails::new(Inherited { umask: None, open_files: getrlimit(Resource::Nofile) }),
            process: None,
            stop: Some(stopped),
            managed: false,
        })
    };
    let thread = std::thread::Builder::new().name("keeper".to_owned()).spawn(serving)?;
    Ok(InThread { socket, stop, thread })
}

impl InThread {
    /// Where clients attach.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Kills what it holds and waits for its thread.
    pub fn stop(self) {
        drop(self.stop);
        // The thread ends by itself: it has nobody else to tell about an error.
        let _ = self.thread.join();
        let _ = std::fs::remove_file(&self.socket);
    }
}
