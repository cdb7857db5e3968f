//! What a keeper holds while daemons come and go, attacked from outside: a keeper in a thread, real child processes.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use keeper::{AttachError, Client, Event, Exit, Held, InThread, Launch, Limits, SpawnError, Stage};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use staithe_keeper as keeper;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;
use testkit::wait::{lives, until};

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(30);

struct Desk {
    keeper: InThread,
    directory: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        Self::patient(LONG * 30)
    }

    fn patient(orphan_timeout: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { keeper: keeper::in_thread_for(directory.path(), orphan_timeout).unwrap(), directory }
    }

    fn attach(&self) -> (Client, Receiver<Event>) {
        let (tell, events) = sync_channel(1000);
        // A daemon that left is noticed by the keeper's next turn.
        for _ in 0..3000 {
            let tell = tell.clone();
            match Client::attach(self.keeper.socket(), move |event| tell.try_send(event).unwrap_or_default()) {
                Err(AttachError::Attached { .. }) => std::thread::sleep(Duration::from_millis(10)),
                other => return (other.unwrap(), events),
            }
        }
        panic!("the last daemon is still attached");
    }

    fn launch(&self, id: u64, script: &str) -> Launch {
        Launch {
            id,
            program: "sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![("PATH".into(), std::env::var_os("PATH").unwrap()), ("WORD".into(), OsString::from("heard"))],
            cwd: self.directory.path().to_owned(),
            limits: Limits::default(),
        }
    }
}

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

fn write_line(held: &Held, line: &str) {
    let line = format!("{line}\n");
    assert_eq!(rustix::io::write(held.ends.stdin.as_ref().unwrap(), line.as_bytes()).unwrap(), line.len());
}

#[test]
fn a_child_keeps_its_memory_and_its_pipes_when_the_daemon_goes() {
    let desk = Desk::new();
    let (first, _) = desk.attach();
    let counting = "n=0; while read line; do n=$((n+1)); echo $n $line; echo e$n >&2; done; exit 7";
    let held = first.spawn(&desk.launch(5, counting)).unwrap();
    write_line(&held, "one");
    assert_eq!((read_line(&held.ends.stdout), read_line(&held.ends.stderr)), ("1 one".into(), "e1".into()));
    let mut notebook = File::from(held.ends.notebook.try_clone().unwrap());
    notebook.write_all(b"noted").unwrap();
    // Written and not read by anybody when the daemon dies.
    write_line(&held, "two");
    let pid = held.pid;
    drop(held);
    first.detach();

    let (second, events) = desk.attach();
    let mut list = second.list().unwrap();
    assert_eq!(list.len(), 1);
    let held = list.pop().unwrap();
    assert_eq!((held.id, held.pid, held.exit), (5, pid, None));
    assert!(held.started > 0);
    assert_eq!(read_line(&held.ends.stdout), "2 two");
    write_line(&held, "three");
    assert_eq!(read_line(&held.ends.stdout), "3 three");
    let mut notebook = File::from(held.ends.notebook.try_clone().unwrap());
    notebook.seek(SeekFrom::Start(0)).unwrap();
    let mut noted = String::new();
    notebook.read_to_string(&mut noted).unwrap();
    assert_eq!(noted, "noted");

    assert!(second.forget(5).unwrap_err().to_string().contains("has not ended"));
    second.close_stdin(5).unwrap();
    drop(held);
    assert_eq!(events.recv_timeout(LONG).unwrap(), Event::Exited { id: 5, exit: Exit::Code(7) });
    let held = second.list().unwrap().pop().unwrap();
    assert!(held.exit == Some(Exit::Code(7)) && held.ends.stdin.is_none());
    second.forget(5).unwrap();
    assert!(second.list().unwrap().is_empty());
    assert!(second.forget(5).unwrap_err().to_string().contains("no instance 5"));
    second.detach();
    desk.keeper.stop();
}

#[test]
fn an_exit_that_nobody_heard_of_is_found_by_the_next_daemon() {
    let desk = Desk::new();
    let (first, _) = desk.attach();
    let held = first.spawn(&desk.launch(1, "read line; kill -9 $$")).unwrap();
    first.detach();
    write_line(&held, "go");
    until("it dies", || !lives(held.pid));
    let (second, _) = desk.attach();
    until("it is noted", || second.list().unwrap()[0].exit == Some(Exit::Signal(9)));
    assert_eq!(Exit::Signal(9).to_string(), "killed by signal 9");
    assert_eq!(Exit::Code(3).to_string(), "exit status 3");
    second.detach();
    desk.keeper.stop();
}

#[test]
fn a_second_daemon_is_refused_and_told_who_is_there() {
    let desk = Desk::new();
    let (first, _) = desk.attach();
    let refused = Client::attach(desk.keeper.socket(), |event| panic!("{event:?}")).unwrap_err();
    assert!(matches!(refused, AttachError::Attached { pid } if pid == std::process::id()), "{refused}");
    assert!(first.list().unwrap().is_empty(), "the first is not disturbed");
    first.detach();
    let (second, _) = desk.attach();
    second.detach();
    desk.keeper.stop();
}

#[test]
fn children_die_with_their_keeper() {
    let desk = Desk::new();
    let (client, events) = desk.attach();
    let held = client.spawn(&desk.launch(1, "trap '' TERM HUP INT; while :; do sleep 1; done")).unwrap();
    assert!(lives(held.pid));
    desk.keeper.stop();
    until("it dies", || !lives(held.pid));
    until("the client hears of it", || events.try_iter().any(|event| event == Event::Lost));
    assert!(matches!(client.list(), Err(keeper::AskError::Lost)));
}

#[test]
fn garbage_closes_its_own_connection_only() {
    let desk = Desk::new();
    let (client, _) = desk.attach();
    let held = client.spawn(&desk.launch(1, "while read line; do echo $line; done")).unwrap();
    let frames: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[255; 64],
        &[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 99],
        &[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1],
        &[1, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 3],
        &[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 3],
    ];
    for frame in frames {
        let mut stranger = UnixStream::connect(desk.keeper.socket()).unwrap();
        stranger.set_read_timeout(Some(LONG)).unwrap();
        stranger.write_all(frame).unwrap();
        let mut said = Vec::new();
        stranger.read_to_end(&mut said).unwrap();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.contains("frame") || said.contains("hello"), "{frame:?}: {said:?}");
    }
    // One that says nothing at all is closed, too: eight of them keep nobody out for long.
    let silent: Vec<UnixStream> = (0..8).map(|_| UnixStream::connect(desk.keeper.socket()).unwrap()).collect();
    for mut stranger in silent {
        stranger.set_read_timeout(Some(LONG)).unwrap();
        assert_eq!(stranger.read(&mut [0; 8]).unwrap(), 0);
    }
    write_line(&held, "still");
    assert_eq!(read_line(&held.ends.stdout), "still");
    client.detach();
    desk.keeper.stop();
}

#[test]
fn a_failed_start_says_where_and_leaves_nothing() {
    let desk = Desk::new();
    let (client, _) = desk.attach();
    let stage = |launch: &Launch| match client.spawn(launch).unwrap_err() {
        SpawnError::Failed { stage, .. } => stage,
        other @ SpawnError::Ask(_) => panic!("{other}"),
    };
    let good = desk.launch(1, "read line");
    let missing = "no-such-program-anywhere".into();
    assert_eq!(stage(&Launch { program: missing, ..good.clone() }), Stage::NoProgram);
    assert_eq!(stage(&Launch { cwd: "/no/such/directory".into(), ..good.clone() }), Stage::NoDirectory);
    let closed = desk.directory.path().join("closed");
    File::create(&closed).unwrap();
    assert_eq!(stage(&Launch { program: closed.into(), ..good.clone() }), Stage::Exec);
    assert!(client.list().unwrap().is_empty());
    client.spawn(&good).unwrap();
    assert_eq!(stage(&good), Stage::Duplicate);
    client.detach();
    desk.keeper.stop();
}

#[test]
fn a_child_starts_clean() {
    let desk = Desk::new();
    let (client, _) = desk.attach();
    let script = "ls /proc/self/fd | tr '\\n' ' '; echo; env | sort | tr '\\n' ' '; echo; \
                  grep -E 'SigBlk|SigIgn' /proc/self/status | cut -f2; cut -d' ' -f5 /proc/$$/stat; \
                  ulimit -n; ulimit -c; pwd";
    let mut launch = desk.launch(1, script);
    launch.limits.open_files = Some(77);
    let held = client.spawn(&launch).unwrap();
    // The fourth is of `ls` itself.
    assert_eq!(read_line(&held.ends.stdout), "0 1 2 3 ");
    let env = read_line(&held.ends.stdout);
    assert!(env.contains("WORD=heard") && !env.contains("CARGO"), "{env}");
    for what in ["blocked", "ignored"] {
        let signals = u64::from_str_radix(&read_line(&held.ends.stdout), 16).unwrap();
        // From 32 on they are the C library's and real time.
        assert_eq!(signals & 0x7fff_ffff, 0, "{what}: {signals:x}");
    }
    assert_eq!(read_line(&held.ends.stdout), held.pid.to_string(), "its own process group");
    assert_eq!((read_line(&held.ends.stdout), read_line(&held.ends.stdout)), ("77".into(), "0".into()));
    assert_eq!(read_line(&held.ends.stdout), desk.directory.path().canonicalize().unwrap().to_str().unwrap());
    client.detach();
    desk.keeper.stop();
}

#[test]
fn a_listener_takes_connections_while_nobody_is_attached() {
    let desk = Desk::new();
    let (first, _) = desk.attach();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    first.hold("public", listener.as_fd()).unwrap();
    drop(listener);
    first.detach();

    let mut early = TcpStream::connect(address).unwrap();
    early.write_all(b"early").unwrap();

    let (second, _) = desk.attach();
    assert!(second.take("other").unwrap().is_none());
    let listener = TcpListener::from(second.take("public").unwrap().unwrap());
    let (mut served, _) = listener.accept().unwrap();
    served.set_read_timeout(Some(LONG)).unwrap();
    let mut said = [0; 5];
    served.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"early");
    drop(listener);
    assert!(TcpStream::connect(address).is_ok(), "the keeper still holds it");
    second.drop_listener("public").unwrap();
    assert!(TcpStream::connect(address).is_err(), "nobody holds it");
    assert!(second.take("public").unwrap().is_none());
    second.detach();
    desk.keeper.stop();
}
