//! A service manager starts the daemon, watches it, and passes it a listener; the units for one can be used.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use testkit::wait::{lives, until};

const STAITHE: &str = env!("CARGO_BIN_EXE_staithe");
const LONG: Duration = Duration::from_secs(30);

/// The service manager: what it hears, and where it listens.
struct Notified {
    socket: UnixDatagram,
    name: String,
}

impl Notified {
    fn at(path: &Path) -> Self {
        Self::new(UnixDatagram::bind(path).unwrap(), path.to_str().unwrap().to_owned())
    }

    fn new(socket: UnixDatagram, name: String) -> Self {
        socket.set_read_timeout(Some(LONG)).unwrap();
        Self { socket, name }
    }

    /// The next message with a line that begins so: the rest of this line.
    fn hears(&self, wanted: &str) -> String {
        let mut seen = Vec::new();
        let mut space = [0; 4096];
        for _ in 0..1000 {
            let Ok(length) = self.socket.recv(&mut space) else { break };
            let said = String::from_utf8_lossy(&space[..length]).into_owned();
            if let Some(rest) = said.lines().find_map(|line| line.strip_prefix(wanted)) {
                return rest.to_owned();
            }
            seen.push(said);
        }
        panic!("no {wanted}, only {seen:?}");
    }
}

fn serve(state: &Path, manager: &Notified, more: &[&str]) -> Command {
    let mut command = Command::new(STAITHE);
    command.args(["serve", "--json", "--listen", "127.0.0.1:0", "--operator", "127.0.0.1:0", "--state-dir"]);
    command.arg(state).args(more).env("NOTIFY_SOCKET", &manager.name);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

fn ask(state: &Path, words: &[&str]) -> Output {
    Command::new(STAITHE).args(words).arg("--state-dir").arg(state).output().unwrap()
}

fn terminate(pid: u32) {
    assert!(Command::new("kill").args(["-s", "TERM", &pid.to_string()]).status().unwrap().success());
}

/// The first line of its stdout.
fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    line
}

/// Where clients get an answer, and the status line that they get.
fn answered(line: &str) -> (String, String) {
    let told: Value = serde_json::from_str(line).unwrap();
    let at = told["listening"]["public"].as_str().unwrap().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&at).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
        .write_all(b"POST /mcp/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (at, answer.lines().next().unwrap_or_default().to_owned())
}

#[test]
fn the_manager_hears_of_the_start_of_life_of_an_upgrade_and_of_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("s");
    let manager = Notified::at(&dir.path().join("notify"));
    // Written for the process that the shell becomes: the next daemon must not take it for its own.
    let mut command = Command::new("sh");
    command.args(["-c", "WATCHDOG_PID=$$ exec \"$@\"", "sh", STAITHE, "serve", "--json"]);
    command.args(["--listen", "127.0.0.1:0", "--operator", "127.0.0.1:0", "--state-dir"]).arg(&state);
    command.env("NOTIFY_SOCKET", &manager.name).env("WATCHDOG_USEC", "400000");
    let mut first = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    manager.hears("READY=1");
    assert_eq!(answered(&first_line(&mut first)).1, "HTTP/1.1 401 Unauthorized", "ready means that it answers");
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
    let upgraded = ask(&state, &["upgrade"]);
    assert!(upgraded.status.success(), "{}", String::from_utf8_lossy(&upgraded.stderr));
    assert!(first.wait().unwrap().success(), "the first daemon has nothing left to do");
    let mut seen = Vec::new();
    let mut second = None;
    // The second may be ready before the first names it, and signs of life of both come between.
    while second.is_none() || !seen.iter().any(|line: &String| line.starts_with("READY=1")) {
        let mut space = [0; 4096];
        let length = manager.socket.recv(&mut space).unwrap_or_else(|error| panic!("{error} after {seen:?}"));
        let said = String::from_utf8_lossy(&space[..length]).into_owned();
        second = second.or_else(|| said.strip_prefix("MAINPID=").and_then(|pid| pid.parse::<u32>().ok()));
        seen.push(said);
    }
    let second = second.unwrap();
    assert!(second != first.id() && lives(second), "{seen:?}");
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
    terminate(second);
    manager.hears("STOPPING=1");
    until("the second daemon ends", || !lives(second));
}

#[test]
fn an_abstract_name_is_reached_and_nobody_is_fed_who_does_not_ask() {
    let dir = tempfile::tempdir().unwrap();
    let name = format!("staithe-systemd-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let manager = Notified::new(socket, format!("@{name}"));
    let mut daemon = serve(&dir.path().join("s"), &manager, &[]).env_remove("WATCHDOG_USEC").spawn().unwrap();
    manager.hears("READY=1");
    terminate(daemon.id());
    let mut space = [0; 4096];
    let length = manager.socket.recv(&mut space).unwrap();
    assert_eq!(&space[..length], b"STOPPING=1\nSTATUS=calls may finish", "nothing came between");
    assert!(daemon.wait().unwrap().success());
}

/// `staithe serve`, with `listener` as its descriptor 3.
fn with_listener(state: &Path, listener: TcpListener, listen: &str) -> Child {
    let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=public exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", STAITHE, "serve", "--json", "--operator", "127.0.0.1:0"]);
    command.args(["--listen", listen, "--state-dir"]).arg(state);
    command.stdin(Stdio::from(OwnedFd::from(listener))).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_passed_listener_is_served_also_after_an_upgrade() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("s");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // What a service manager does: it goes on holding the listener.
    let mut daemon = with_listener(&state, listener.try_clone().unwrap(), &address);
    let line = first_line(&mut daemon);
    assert_eq!(answered(&line), (address.clone(), "HTTP/1.1 401 Unauthorized".to_owned()));
    let upgraded = ask(&state, &["upgrade"]);
    assert!(upgraded.status.success(), "{}", String::from_utf8_lossy(&upgraded.stderr));
    assert!(daemon.wait().unwrap().success());
    assert_eq!(answered(&line).1, "HTTP/1.1 401 Unauthorized");
    let second: u32 = fs::read_to_string(state.join("run/lock")).unwrap().trim().parse().unwrap();
    assert_ne!(second, daemon.id());
    terminate(second);
    until("the second daemon ends", || !lives(second));
}

#[test]
fn a_passed_listener_on_another_address_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = with_listener(&dir.path().join("s"), listener, "127.0.0.2:0").wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("the service manager passed a listener on 127.0.0.1:"), "{said}");
}

#[test]
fn a_keeper_of_a_unit_is_waited_for_and_outlives_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("s");
    let manager = Notified::at(&dir.path().join("notify"));
    let alone = serve(&state, &manager, &["--leave-servers", "--keeper-runs"]).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8(alone.stderr).unwrap();
    assert!(alone.status.code() == Some(1) && said.contains("start that first"), "{said}");
    let mut keeper = Command::new(STAITHE);
    keeper.args(["keeper", "--state-dir"]).arg(&state).env("NOTIFY_SOCKET", &manager.name).stdout(Stdio::null());
    let mut keeper = keeper.spawn().unwrap();
    manager.hears("READY=1");
    let mut daemon = serve(&state, &manager, &["--leave-servers", "--keeper-runs"]).spawn().unwrap();
    manager.hears("READY=1");
    terminate(daemon.id());
    assert!(daemon.wait().unwrap().success());
    assert!(keeper.try_wait().unwrap().is_none(), "it keeps what there is for the next daemon");
    terminate(keeper.id());
    assert!(keeper.wait().unwrap().success());
}

fn install(dir: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(STAITHE);
    command.arg("install-service").args(words).arg("--dir").arg(dir.join("units"));
    command.env("HOME", dir).env_remove("STAITHE_STATE").env_remove("XDG_STATE_HOME").output().unwrap()
}

#[test]
fn units_are_written_once_and_what_differs_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let unit = |name: &str| dir.path().join("units").join(name);
    let first = install(dir.path(), &["--socket", "127.0.0.1:8420"]);
    let said = String::from_utf8(first.stdout).unwrap();
    assert!(first.status.success() && said.contains("systemctl enable --now staithe\n"), "{said}");
    assert_eq!(fs::read_dir(dir.path().join("units")).unwrap().count(), 3);
    let again = install(dir.path(), &["--socket", "127.0.0.1:8420"]);
    assert!(again.status.success() && String::from_utf8(again.stdout).unwrap().contains("unchanged"));

    let own = fs::read_to_string(unit("staithe.service")).unwrap() + "# mine\n";
    fs::OpenOptions::new().append(true).open(unit("staithe.service")).unwrap().write_all(b"# mine\n").unwrap();
    fs::remove_file(unit("staithe.socket")).unwrap();
    let refused = install(dir.path(), &["--socket", "127.0.0.1:8420"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        refused.status.code() == Some(1) && said.contains("units/staithe.service") && said.contains("--force"),
        "{said}"
    );
    assert_eq!(fs::read_to_string(unit("staithe.service")).unwrap(), own);
    assert!(!unit("staithe.socket").exists(), "nothing at all is written");
    assert!(install(dir.path(), &["--socket", "127.0.0.1:8420", "--force"]).status.success());
    assert!(
        !fs::read_to_string(unit("staithe.service")).unwrap().contains("# mine") && unit("staithe.socket").exists()
    );
}

#[test]
fn the_environment_names_the_state_directory_as_the_flag_does() {
    let dir = tempfile::tempdir().unwrap();
    for words in [&["--user"][..], &[]] {
        let print = |more: &[&str]| {
            let mut command = Command::new(STAITHE);
            command.args(["install-service", "--print"]).args(words).args(more).env("HOME", dir.path());
            command.env("STAITHE_STATE", "/srv/mine").env_remove("XDG_STATE_HOME");
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        };
        let named = print(&[]);
        assert!(named.contains("--state-dir /srv/mine"), "{named}");
        let flag = print(&["--state-dir", "/srv/other"]);
        assert!(flag.contains("--state-dir /srv/other") && !flag.contains("/srv/mine"), "{flag}");
    }
    let said = String::from_utf8(install(dir.path(), &["--name", "mcp"]).stdout).unwrap();
    let import = said.lines().last().unwrap();
    assert!(
        import.contains("staithe import --state-dir /var/lib/mcp FILE") && import.contains("another user"),
        "{said}"
    );
}

#[test]
fn paths_that_mean_something_in_a_unit_are_refused() {
    for bad in ["with blank", "per%cent", "dollar$x", "quote'x"] {
        let refused = Command::new(STAITHE).args(["install-service", "--print", "--state-dir", bad]).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{bad}");
    }
    for words in [&["--name", "../x"][..], &["--name", "A"], &["--socket", "127.0.0.1:0"], &["--print", "--dir", "/x"]]
    {
        let refused = Command::new(STAITHE).arg("install-service").args(words).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{words:?}");
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    for words in [
        &[][..],
        &["--user"],
        &["--socket", "0.0.0.0:443", "--name", "mcp-2"],
        &["--user", "--socket", "[::1]:8420"],
        &["--state-dir", "/srv/staithe"],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let written = install(dir.path(), words);
        assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
        let units = fs::read_dir(dir.path().join("units")).unwrap().map(|entry| entry.unwrap().path());
        let mut verify = Command::new("systemd-analyze");
        verify.args(["verify", "--man=no"]);
        if words.contains(&"--user") {
            verify.arg("--user").env("XDG_RUNTIME_DIR", dir.path());
        }
        let verified = verify.args(units).output();
        let verified = verified.unwrap_or_else(|error| panic!("systemd-analyze: {error}; install systemd"));
        let said = String::from_utf8_lossy(&verified.stderr).into_owned() + &String::from_utf8_lossy(&verified.stdout);
        assert!(
            verified.status.success() && !said.contains("units/") && !said.contains(".service:"),
            "{words:?}: {said}"
        );
    }
}

#[test]
fn systemd_would_find_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    assert!(install(dir.path(), &[]).status.success());
    let unit = dir.path().join("units/staithe.service");
    let text = fs::read_to_string(&unit).unwrap().replace("WatchdogSec=", "WatchdogSecs=");
    fs::OpenOptions::new().write(true).truncate(true).open(&unit).unwrap().write_all(text.as_bytes()).unwrap();
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output().unwrap();
    assert!(String::from_utf8_lossy(&verified.stderr).contains("WatchdogSecs"), "{verified:?}");
}
