//! The keeper as the process that it is: how small it stays, what ends it, and what is left of its instances then.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use keeper::{AttachError, Client, Ends, Held, Launch, Limits, StartError, StartOptions};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;
use stdx::clock::monotonic;
use testkit::wait::{lives, until};

const STAITHE: &str = env!("CARGO_BIN_EXE_staithe");
/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(30);
/// A server that answers each line.
const ECHO: &str = "while read line; do echo $line; done";

struct Desk {
    keeper: Child,
    directory: tempfile::TempDir,
}

impl Desk {
    /// A keeper that ends by itself if its test does not end it.
    fn new() -> Self {
        Self::patient(LONG * 4)
    }

    fn patient(orphan_timeout: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = StartOptions { orphan_timeout: Some(orphan_timeout) };
        let keeper = keeper::start(Path::new(STAITHE), directory.path(), &options).unwrap();
        Self { keeper, directory }
    }

    fn socket(&self) -> PathBuf {
        keeper::socket_path(self.directory.path())
    }

    /// A connection without the client's manners.
    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        stream
    }

    fn attach(&self) -> Client {
        let socket = self.socket();
        // A daemon that left is noticed by the keeper's next turn.
        for _ in 0..3000 {
            match Client::attach(&socket, |_| {}) {
                Err(AttachError::Attached { .. }) => std::thread::sleep(Duration::from_millis(10)),
                other => return other.unwrap(),
            }
        }
        panic!("the last daemon is still attached");
    }

    fn launch(&self, id: u64, script: &str) -> Launch {
        Launch {
            id,
            program: "sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![("PATH".into(), std::env::var_os("PATH").unwrap())],
            cwd: self.directory.path().to_owned(),
            limits: Limits { processes: Some(512), open_files: Some(4096), ..Limits::default() },
        }
    }

    /// Resident memory, KiB.
    fn memory(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.keeper.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim_end_matches("kB").trim().parse().unwrap()
    }

    fn terminate(&self) {
        let pid = Pid::from_raw(self.keeper.id().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
    }

    fn has(&self, file: &str) -> bool {
        self.directory.path().join(file).exists()
    }

    fn end(mut self, client: &Client) {
        client.end(Duration::ZERO).unwrap();
        assert!(self.ended().success());
    }

    fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the keeper ends", || {
            status = self.keeper.try_wait().unwrap();
            status.is_some()
        });
        assert!(!self.socket().exists(), "nobody listens there any more");
        status.unwrap()
    }
}

/// One frame as it crosses the socket: a kind and its numbers.
fn frame(kind: u8, numbers: &[u64]) -> Vec<u8> {
    let length = u32::try_from(1 + 8 * numbers.len()).unwrap();
    let mut bytes: Vec<u8> = [length, 1, 0].iter().flat_map(|number| number.to_le_bytes()).collect();
    bytes.push(kind);
    bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    bytes
}

const HELLO: u8 = 1;
const COUNT: u8 = 10;

fn read_line(from: &OwnedFd) -> String {
    let mut line = Vec::new();
    let deadline = Timespec::try_from(LONG).unwrap();
    loop {
        assert!(poll(&mut [PollFd::new(from, PollFlags::IN)], Some(&deadline)).unwrap() > 0, "silence after {line:?}");
        let mut byte = [0];
        if rustix::io::read(from, &mut byte).unwrap() == 0 || byte == *b"\n" {
            return String::from_utf8(line).unwrap();
        }
        line.extend(byte);
    }
}

/// Asks an instance that runs [`ECHO`].
fn answers(ends: &Ends, line: &str) -> bool {
    rustix::io::write(ends.stdin.as_ref().unwrap(), format!("{line}\n").as_bytes()).unwrap();
    read_line(&ends.stdout) == line
}

#[test]
fn it_stays_within_four_mebibytes() {
    const MOST: u64 = 4096;
    let desk = Desk::new();
    let client = desk.attach();
    let launch = |id| client.spawn(&desk.launch(id, ECHO)).unwrap();
    let held: Vec<Held> = (0..20).map(launch).collect();
    // Time for it to look at its instances twice.
    std::thread::sleep(Duration::from_secs(1));
    let early = desk.memory();
    for id in 20..220 {
        let short = launch(id);
        client.close_stdin(id).unwrap();
        drop(short);
        until("it ends", || client.forget(id).is_ok());
    }
    let late = desk.memory();
    // It looks at everything every five seconds.
    let looks = (0..60).map(|_| {
        std::thread::sleep(Duration::from_millis(100));
        desk.memory()
    });
    let (least, most) = looks.fold((u64::MAX, 0), |(least, most), now| (least.min(now), most.max(now)));
    println!(
        "KiB resident with 20 instances: {early} after a second, {late} after 200 more have come and gone, then {least} to {most}"
    );
    assert!(early.max(late).max(most) <= MOST, "{early} KiB, {late} KiB, {most} KiB, at most {MOST}");
    assert!(held.iter().all(|held| answers(&held.ends, "there")));
    desk.end(&client);
}

#[test]
fn what_an_instance_uses_is_counted_with_its_children() {
    let desk = Desk::new();
    let client = desk.attach();
    let script =
        "sleep 600 & sleep 600 & sh -c 'x=0; while [ $x -lt 300000 ]; do x=$((x+1)); done; echo done; read line'; wait";
    let busy = client.spawn(&desk.launch(1, script)).unwrap();
    let idle = client.spawn(&desk.launch(2, ECHO)).unwrap();
    assert_eq!(read_line(&busy.ends.stdout), "done");
    let used = client.count(1).unwrap();
    assert_eq!(used.processes, 4, "{used:?}");
    assert!(used.open_files >= 3 && used.cpu_ms >= 10, "{used:?}");
    // Each has a page at least, and a shell far from a gigabyte.
    assert!((16 << 10..1 << 30).contains(&used.resident_bytes), "{used:?}");
    let little = client.count(2).unwrap();
    assert!(little.processes == 1 && little.cpu_ms < used.cpu_ms, "{little:?}");
    assert!(client.count(3).unwrap_err().to_string().contains("there is no instance 3"));
    assert!(answers(&idle.ends, "there"));
    desk.end(&client);
}

#[test]
fn an_end_gives_time_and_then_takes_everything() {
    const GRACE: Duration = Duration::from_secs(2);
    let mut desk = Desk::new();
    let client = desk.attach();
    let spawn = |id, script| client.spawn(&desk.launch(id, script)).unwrap();
    let reader = spawn(1, "while read line; do :; done; echo >read-to-its-end");
    let polite = spawn(2, "trap 'echo >was-told; exit' TERM; echo ready; while :; do sleep 0.05; done");
    let deaf = spawn(3, "trap '' TERM HUP INT; echo ready; while :; do sleep 1; done");
    // Forked twice, in a session of its own, without a word of its environment.
    let daemon = spawn(4, "setsid -f env -i sh -c 'echo $$; exec sleep 600'; read line");
    let hidden: u32 = read_line(&daemon.ends.stdout).parse().unwrap();
    for held in [&polite, &deaf] {
        assert_eq!(read_line(&held.ends.stdout), "ready");
    }
    let stat = || std::fs::read_to_string(format!("/proc/{hidden}/stat")).unwrap();
    let of_the_keeper = format!(") S {} {hidden} {hidden} ", desk.keeper.id());
    until("it is nobody's but the keeper's", || stat().contains(&of_the_keeper));
    let pids = [reader.pid, polite.pid, deaf.pid, daemon.pid, hidden];
    assert!(pids.iter().all(|pid| lives(*pid)));
    drop([reader, polite, deaf, daemon]);

    let began = monotonic();
    client.end(GRACE).unwrap();
    assert!(monotonic() - began >= GRACE, "one did not leave by itself: it had its time");
    assert_eq!(pids.map(lives), [false; 5]);
    assert!(desk.has("read-to-its-end") && desk.has("was-told"));
    assert!(desk.ended().success());
}

#[test]
fn sigterm_waits_for_the_daemon_to_leave() {
    let mut desk = Desk::new();
    let client = desk.attach();
    let held = client.spawn(&desk.launch(1, ECHO)).unwrap();
    desk.terminate();
    let log = desk.directory.path().join("run/keeper.log");
    until("it has heard", || std::fs::read_to_string(&log).unwrap().contains("SIGTERM"));
    assert!(answers(&held.ends, "still here"));
    // A keeper that is about to end starts nothing.
    let late = client.spawn(&desk.launch(2, ECHO)).unwrap();
    assert!(answers(&late.ends, "also"));
    assert_eq!(client.list().unwrap().len(), 2);
    client.detach();
    let next = desk.attach();
    assert_eq!(next.list().unwrap().len(), 2, "a daemon that follows at once finds everything");
    next.detach();
    let pids = [held.pid, late.pid];
    drop([held, late]);
    assert!(desk.ended().success());
    assert_eq!(pids.map(lives), [false; 2]);
}

#[test]
fn sigterm_ends_a_keeper_that_is_alone() {
    let mut desk = Desk::new();
    let client = desk.attach();
    let held = client.spawn(&desk.launch(1, "read line; echo >read-to-its-end")).unwrap();
    let pid = held.pid;
    drop(held);
    client.detach();
    desk.terminate();
    assert!(desk.ended().success());
    assert!(!lives(pid) && desk.has("read-to-its-end"));
}

#[test]
fn it_waits_for_a_daemon_as_long_as_it_was_told() {
    let mut desk = Desk::patient(Duration::from_secs(1));
    let client = desk.attach();
    let held = client.spawn(&desk.launch(1, ECHO)).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert!(answers(&held.ends, "not alone"), "the time counts from when the daemon leaves");
    client.detach();
    let pid = held.pid;
    drop(held);
    assert!(desk.ended().success());
    assert!(!lives(pid));
}

#[test]
fn there_is_one_keeper_for_a_state_directory() {
    let desk = Desk::new();
    let client = desk.attach();
    let held = client.spawn(&desk.launch(1, ECHO)).unwrap();
    let second = keeper::start(Path::new(STAITHE), desk.directory.path(), &StartOptions::default()).unwrap_err();
    let wanted = format!("another keeper (process {}) works for {}", desk.keeper.id(), desk.directory.path().display());
    assert!(matches!(&second, StartError::Held(why) if *why == wanted), "{second}");
    assert!(client.list().unwrap().len() == 1 && answers(&held.ends, "undisturbed"));
    desk.end(&client);
}

#[test]
fn what_strangers_say_disturbs_nobody() {
    let desk = Desk::new();
    let client = desk.attach();
    let held = client.spawn(&desk.launch(1, ECHO)).unwrap();
    let hello = frame(HELLO, &[1, 1, 7]);
    let long = u32::MAX.to_le_bytes();
    let says: [&[u8]; 6] = [b"", b"GET / HTTP/1.1\r\n\r\n", &long, &hello[..5], &hello[..20], &frame(99, &[])];
    for says in says {
        // More than may be connected at once; half of them leave in the middle of what they say.
        let strangers: Vec<UnixStream> = (0..12).map(|_| desk.raw()).collect();
        for (number, mut stranger) in strangers.into_iter().enumerate() {
            let _ = stranger.write_all(says);
            if number % 2 == 0 {
                let _ = stranger.shutdown(std::net::Shutdown::Write);
                let _ = stranger.read_to_end(&mut Vec::new());
            }
        }
        assert!(client.list().unwrap().len() == 1 && answers(&held.ends, "undisturbed"));
    }
    client.detach();

    // A daemon that dies within a frame, and one that says nonsense, cost their own connection.
    for nonsense in [&frame(COUNT, &[1])[..15], &frame(99, &[])] {
        let mut daemon = None;
        until("the last one is gone", || {
            let (mut stream, mut welcome) = (desk.raw(), [0; 29]);
            let answered = stream.write_all(&hello).and_then(|()| stream.read_exact(&mut welcome));
            daemon = answered.is_ok().then_some(stream);
            daemon.is_some()
        });
        let mut daemon = daemon.unwrap();
        daemon.write_all(nonsense).unwrap();
        daemon.shutdown(std::net::Shutdown::Write).unwrap();
        daemon.read_to_end(&mut Vec::new()).unwrap();
    }
    let client = desk.attach();
    assert_eq!(client.list().unwrap()[0].pid, held.pid);
    assert!(answers(&held.ends, "undisturbed"));
    desk.end(&client);
}

#[test]
fn a_daemon_that_does_not_read_is_dropped() {
    let desk = Desk::new();
    let client = desk.attach();
    let held = client.spawn(&desk.launch(1, ECHO)).unwrap();
    client.detach();
    let mut slow = desk.raw();
    slow.write_all(&frame(HELLO, &[1, 1, 7])).unwrap();
    // Each is answered with more bytes than it has.
    let asks = frame(COUNT, &[99]).repeat(1000);
    let dropped = (0..2000).any(|_| slow.write_all(&asks).is_err());
    assert!(dropped, "two million answers wait for somebody who does not read");
    let client = desk.attach();
    assert_eq!(client.list().unwrap()[0].pid, held.pid);
    assert!(answers(&held.ends, "undisturbed"));
    until("it is small again", || desk.memory() <= 4096);
    desk.end(&client);
}

/// A keeper of another age, and this build's own words about it.
#[test]
fn a_keeper_that_speaks_another_version_can_be_ended_as_it_is_said() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("run")).unwrap();
    let door = UnixListener::bind(keeper::socket_path(directory.path())).unwrap();
    std::thread::spawn(move || {
        for mut stream in door.incoming().flatten() {
            let mut hello = [0; 12 + 25];
            let _ = stream.read_exact(&mut hello);
            let _ = stream.write_all(&frame(3, &[2, 2]));
        }
    });
    let served = Command::new(STAITHE)
        .args(["serve", "--listen", "127.0.0.1:0", "--operator", "127.0.0.1:0", "--state-dir"])
        .arg(directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&served.stderr);
    println!("{said}");
    assert_eq!(served.status.code(), Some(1));
    let way = format!("`kill {}`", std::process::id());
    assert!(said.contains("speaks versions 2 to 2") && said.contains("this staithe 1 to 1"), "{said}");
    assert!(said.contains(&way), "SIGTERM ends a keeper that is alone, and it says of which: {said}");
}
