//! The state directory: where it is, what lies in it, and who holds it. One daemon at a time.

use crate::fault;
use model::Problem;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use stdx::durable;

/// The longest path of a socket, bytes (`sun_path` of unix(7), without the final zero).
const SOCKET_PATH: usize = 107;

/// A state directory. Its parts exist once `create` was called.
#[derive(Clone, Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
}

/// Proof that this process alone works in the state directory, until it is dropped.
#[derive(Debug)]
pub(crate) struct StateLock {
    _file: File,
}

impl StateDir {
    /// `flag`, else `configured`, else what the environment and the user say.
    pub(crate) fn choose(flag: Option<&Path>, configured: Option<&Path>) -> Result<Self, Problem> {
        let env = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = rustix::process::geteuid().is_root();
        let given = flag.or(configured).map(Path::to_path_buf);
        let Some(path) = given.or_else(|| default_path(env, root)) else {
            return Err(fault::usage(
                "there is no place for the state directory: HOME is not set",
                "name one with --state-dir",
            ));
        };
        let path = std::path::absolute(&path);
        let path =
            path.map_err(|error| fault::because("use the state directory", &error, "name one with --state-dir"))?;
        Ok(Self { path })
    }

    /// The directory that was named for this command, by `flag` or in the environment.
    pub(crate) fn named(flag: Option<&Path>) -> Result<Option<Self>, Problem> {
        let set = || std::env::var_os("STAITHE_STATE").filter(|value| !value.is_empty()).map(PathBuf::from);
        let named = flag.map(Path::to_path_buf).or_else(set);
        named.map(|path| Self::choose(Some(&path), None)).transpose()
    }

    /// Makes what is missing, closed to other users.
    pub(crate) fn create(&self) -> Result<(), Problem> {
        let too_long = self.handover().as_os_str().len().saturating_sub(SOCKET_PATH);
        if too_long > 0 {
            return Err(fault::usage(
                format!(
                    "the path of the state directory is {too_long} bytes too long for the sockets in it: {}",
                    self.path.display()
                ),
                "name a shorter one with --state-dir",
            ));
        }
        for part in ["", "db", "keys", "servers", "run"] {
            durable::make_dir(&self.path.join(part), 0o700).map_err(|error| {
                fault::because(
                    "make the state directory",
                    &error,
                    "name a place that this user may write to with --state-dir",
                )
            })?;
        }
        Ok(())
    }

    /// Takes the directory for this process. `Ok(Err(pid))` if another one holds it; its id where it is known.
    pub(crate) fn try_lock(&self) -> Result<Result<StateLock, Option<u32>>, Problem> {
        let path = self.path.join("run/lock");
        let broken = |error: &std::io::Error| fault::because(&format!("lock {}", path.display()), error, "");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| broken(&error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let read = file.take(32).read_to_string(&mut text);
                return Ok(Err(read.ok().and_then(|_| text.trim().parse().ok())));
            }
            Err(TryLockError::Error(error)) => return Err(broken(&error)),
        }
        let pid = format!("{}\n", std::process::id());
        file.set_len(0).and_then(|()| file.write_all(pid.as_bytes())).map_err(|error| broken(&error))?;
        Ok(Ok(StateLock { _file: file }))
    }

    /// Takes the directory for this process, or says who holds it.
    pub(crate) fn lock(&self) -> Result<StateLock, Problem> {
        self.try_lock()?.map_err(|pid| {
            let who =
                pid.map_or_else(|| "another staithe".to_owned(), |pid| format!("another staithe (process {pid})"));
            let message = format!("{who} holds the state directory {}", self.path.display());
            fault::failed(message, "stop it first, or use another one with --state-dir")
        })
    }

    /// The random name of this directory, which marks every process that belongs to it. It is made once.
    pub(crate) fn identity(&self) -> Result<String, Problem> {
        let path = self.path.join("run/identity");
        if let Ok(text) = std::fs::read_to_string(&path)
            && text.len() == 32
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        {
            return Ok(text);
        }
        let made = stdx::random::handle().map_err(|error| fault::because("name the state directory", &error, ""))?;
        let kept = durable::write_file(&path, made.as_bytes(), 0o600);
        kept.map_err(|error| fault::because("name the state directory", &error, "look for a full disk"))?;
        Ok(made)
    }

    /// What worked here last: `serve`, `run` or `demo`.
    pub(crate) fn last_kind(&self) -> Option<String> {
        std::fs::read_to_string(self.kind()).ok().map(|text| text.trim().to_owned())
    }

    /// Notes what works here now.
    pub(crate) fn note_kind(&self, kind: &str) -> Result<(), Problem> {
        let noted = durable::write_file(&self.kind(), kind.as_bytes(), 0o600);
        noted.map_err(|error| fault::because("write to the state directory", &error, "look for a full disk"))
    }

    fn kind(&self) -> PathBuf {
        self.path.join("run/kind")
    }

    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The database of the daemon.
    pub(crate) fn database(&self) -> PathBuf {
        self.path.join("db/staithe.db")
    }

    /// The database of `run`, apart, so that it never changes what the daemon serves.
    pub(crate) fn run_database(&self) -> PathBuf {
        self.path.join("db/run.db")
    }

    /// The ledger.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.path.join("ledger")
    }

    /// What calls said, where that is kept.
    pub(crate) fn contents(&self) -> PathBuf {
        self.path.join("contents")
    }

    /// Secret keys.
    pub(crate) fn keys(&self) -> PathBuf {
        self.path.join("keys")
    }

    /// Secret keys of a ledger that is to take the place of this one: there while that is being done.
    pub(crate) fn next_keys(&self) -> PathBuf {
        self.path.join("keys.next")
    }

    /// Keys that are to follow those of this ledger: there while that is being done.
    pub(crate) fn rotated_keys(&self) -> PathBuf {
        self.path.join("keys.rotated")
    }

    /// Each server's own state and logs.
    pub(crate) fn servers(&self) -> PathBuf {
        self.path.join("servers")
    }

    /// Where two daemons meet during an upgrade.
    pub(crate) fn handover(&self) -> PathBuf {
        self.path.join("run/handover.sock")
    }

    /// The operator socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path.join("staithe.sock")
    }

    /// The configuration file that is read without being named.
    pub(crate) fn config(&self) -> PathBuf {
        self.path.join("staithe.toml")
    }
}

fn default_path(env: impl Fn(&str) -> Option<PathBuf>, root: bool) -> Option<PathBuf> {
    let xdg = || env("XDG_STATE_HOME").map(|path| path.join("staithe"));
    let home = || env("HOME").map(|path| path.join(".local/state/staithe"));
    let user = || if root { Some(PathBuf::from("/var/lib/staithe")) } else { home() };
    env("STAITHE_STATE").or_else(xdg).or_else(user)
}

#[cfg(test)]
mod tests {
    use super::{StateDir, default_path};
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    fn from(vars: &[(&str, &str)], root: bool) -> Option<PathBuf> {
        let find = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| PathBuf::from(value));
        default_path(find, root)
    }

    #[test]
    fn the_place_is_found_in_the_documented_order() {
        let all = [("STAITHE_STATE", "/s"), ("XDG_STATE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(from(&all, true).unwrap(), Path::new("/s"));
        assert_eq!(from(&all[1..], true).unwrap(), Path::new("/x/staithe"));
        assert_eq!(from(&all[2..], true).unwrap(), Path::new("/var/lib/staithe"));
        assert_eq!(from(&all[2..], false).unwrap(), Path::new("/h/.local/state/staithe"));
        assert_eq!(from(&[], false), None);
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused_before_anything_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir { path: dir.path().join("x".repeat(100)) };
        let refused = state.create().unwrap_err();
        assert!(refused.message.contains("too long for the sockets"), "{refused}");
        assert!(!state.path().exists());
    }

    #[test]
    fn one_holder_at_a_time_and_the_other_learns_who() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::choose(Some(&dir.path().join("s")), None).unwrap();
        state.create().unwrap();
        assert_eq!(std::fs::metadata(state.path()).unwrap().permissions().mode() & 0o777, 0o700);
        let held = state.lock().unwrap();
        let problem = state.lock().unwrap_err();
        assert!(problem.message.contains(&format!("process {}", std::process::id())), "{problem}");
        drop(held);
        state.lock().unwrap();
    }

    #[test]
    fn the_identity_stays() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::choose(Some(dir.path()), None).unwrap();
        state.create().unwrap();
        let first = state.identity().unwrap();
        assert_eq!(state.identity().unwrap(), first);
    }
}
