//! The keeper's one loop: who is attached, what is held, what ended.

use crate::cgroup::Cgroups;
use crate::instance::{Instance, amount, excess, reap};
use crate::launch::{Inherited, launch};
use crate::link::{Frame, Inbox, is_ours, send};
use crate::resident::give_back;
use crate::tree::{self, Root};
use crate::wire::{Ask, HIGHEST, LOWEST, MAX_BODY, Say, encode};
use crate::words::{Launch, Stage};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, getpid};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

const MAX_CONNECTIONS: usize = 8;
/// How long a connection may take to say hello.
const HELLO: Duration = Duration::from_secs(2);
/// How long a keeper that holds nothing waits for a daemon.
const IDLE: Duration = Duration::from_secs(10);
/// How often trees with limits are looked at, and orphans taken away.
const LOOK: Duration = Duration::from_millis(500);
/// How often a keeper that ends looks whether all is gone.
const END_LOOK: Duration = Duration::from_millis(20);
/// Time for instances to end by themselves when nobody said how long.
const GRACE: Duration = Duration::from_secs(5);
/// How long killed processes may take to go: one in the kernel's hands for longer is beyond us.
const KILLED: Duration = Duration::from_secs(5);
/// Bytes that may wait for a daemon that does not read.
const MAX_WAITING: usize = MAX_BODY;
const MAX_LOG: u64 = 1 << 20;
/// How long after work the pages that it needed are given back.
const REST: Duration = Duration::from_secs(1);

/// What a keeper is started with.
pub(crate) struct Options {
    pub(crate) door: UnixListener,
    /// How long a keeper that holds something waits for a daemon.
    pub(crate) orphan_timeout: Duration,
    pub(crate) inherited: Inherited,
    /// Set where the keeper is a process of its own: every descendant is its to end.
    pub(crate) process: Option<Process>,
    /// Readable or closed: end at once.
    pub(crate) stop: Option<OwnedFd>,
    pub(crate) groups: Option<Cgroups>,
    /// A service manager started us: holding nothing is no reason to end.
    pub(crate) managed: bool,
}

/// What only a keeper has that is a process of its own.
pub(crate) struct Process {
    /// Says which signals came.
    pub(crate) signals: File,
    pub(crate) log: File,
}

struct Connection {
    number: u64,
    socket: UnixStream,
    inbox: Inbox,
    /// Bytes not yet sent, with the descriptors that ride on the first of them.
    waiting: VecDeque<(Vec<u8>, Vec<Rc<OwnedFd>>)>,
    waiting_bytes: usize,
    since: Instant,
    /// Close when everything is sent.
    leaving: bool,
}

/// The end of everything that is held.
struct Ending {
    asked_by: Option<(u64, u32)>,
    term_at: Option<Instant>,
    kill_at: Instant,
}

#[derive(Clone, Copy)]
enum Source {
    Door,
    Stop,
    Signals,
    Connection(u64),
    Instance(u64),
}

struct Keeper {
    options: Options,
    connections: Vec<Connection>,
    next_connection: u64,
    /// The connection and process of the daemon.
    attached: Option<(u64, u32)>,
    /// When the last daemon left.
    alone_since: Instant,
    instances: BTreeMap<u64, Instance>,
    listeners: BTreeMap<String, Rc<OwnedFd>>,
    looked: Instant,
    /// A child ended that may be no instance.
    orphans: bool,
    /// SIGTERM came.
    told_to_end: bool,
    ending: Option<Ending>,
    /// Since when pages wait to be given back.
    worked: Option<Instant>,
}

/// Serves until there is nothing left to keep.
pub(crate) fn serve(options: Options) -> io::Result<()> {
    options.door.set_nonblocking(true)?;
    let mut keeper = Keeper {
        options,
        connections: Vec::new(),
        next_connection: 1,
        attached: None,
        alone_since: now(),
        instances: BTreeMap::new(),
        listeners: BTreeMap::new(),
        looked: now(),
        orphans: false,
        told_to_end: false,
        ending: None,
        worked: Some(now()),
    };
    loop {
        for (source, flags) in keeper.wait()? {
            match source {
                Source::Door => keeper.admit(),
                Source::Stop => keeper.begin_end(None, Duration::ZERO),
                Source::Signals => keeper.take_signals(),
                Source::Connection(number) => keeper.converse(number, flags),
                Source::Instance(id) => keeper.note_exit(id),
            }
        }
        if keeper.keep_time() {
            return Ok(());
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the keeper imports nothing of ours, so it has no other clock")]
fn now() -> Instant {
    Instant::now()
}

// === impl Keeper ===

impl Keeper {
    /// Waits until something is ready or a time has come.
    fn wait(&self) -> io::Result<Vec<(Source, PollFlags)>> {
        let mut watched = Vec::new();
        // Connections first: a daemon that died has left before its successor is heard.
        for connection in &self.connections {
            let out = if connection.waiting.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            let want = if connection.leaving { out } else { out | PollFlags::IN };
            watched.push((
                Source::Connection(connection.number),
                PollFd::from_borrowed_fd(connection.socket.as_fd(), want),
            ));
        }
        for (id, instance) in &self.instances {
            if let Some(pidfd) = &instance.pidfd {
                watched.push((Source::Instance(*id), PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)));
            }
        }
        if self.connections.len() < MAX_CONNECTIONS {
            watched.push((Source::Door, PollFd::from_borrowed_fd(self.options.door.as_fd(), PollFlags::IN)));
        }
        if let Some(stop) = self.options.stop.as_ref().filter(|_| self.ending.is_none()) {
            watched.push((Source::Stop, PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN)));
        }
        if let Some(process) = &self.options.process {
            watched.push((Source::Signals, PollFd::from_borrowed_fd(process.signals.as_fd(), PollFlags::IN)));
        }
        let left = self.next_time().map(|at| at.saturating_duration_since(now()) + Duration::from_millis(1));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let (sources, mut fds): (Vec<Source>, Vec<PollFd<'_>>) = watched.into_iter().unzip();
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = sources.into_iter().zip(fds).map(|(source, fd)| (source, fd.revents()));
        Ok(ready.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    /// When something is to be done although nothing happens.
    fn next_time(&self) -> Option<Instant> {
        let silent = self.connections.iter().filter(|one| !self.is_attached(one.number)).map(|one| one.since + HELLO);
        let look = (self.orphans || self.instances.values().any(Instance::is_sampled)).then(|| self.looked + LOOK);
        let end = self.ending.as_ref().map(|_| now() + END_LOOK);
        silent.chain(look).chain(end).chain(self.rest_at()).chain(self.alone_until()).min()
    }

    /// The memory of a thread is its host's to look after.
    fn rest_at(&self) -> Option<Instant> {
        self.worked.filter(|_| self.options.process.is_some()).map(|since| since + REST)
    }

    fn alone_until(&self) -> Option<Instant> {
        let empty = self.instances.is_empty() && self.listeners.is_empty();
        let patience = if empty && !self.options.managed {
            IDLE.min(self.options.orphan_timeout)
        } else {
            self.options.orphan_timeout
        };
        (self.attached.is_none() && self.ending.is_none()).then(|| self.alone_since + patience)
    }

    /// Does what its time has come for. `true`: it is over.
    fn keep_time(&mut self) -> bool {
        let now = now();
        let attached = self.attached;
        self.connections.retain(|one| {
            let welcome = attached.is_some_and(|(number, _)| number == one.number);
            let done = one.leaving && one.waiting.is_empty();
            !done && (welcome || now < one.since + HELLO)
        });
        if now >= self.looked + LOOK {
            self.looked = now;
            self.look();
        }
        if self.rest_at().is_some_and(|at| now >= at) {
            self.worked = None;
            give_back();
        }
        if self.ending.is_none() && self.attached.is_none() {
            if self.told_to_end {
                self.begin_end(None, GRACE);
            } else if self.alone_until().is_some_and(|until| now >= until) {
                self.log("no daemon came: everything that is held ends");
                self.begin_end(None, GRACE);
            }
        }
        self.ending.is_some() && self.end(now)
    }

    fn is_attached(&self, number: u64) -> bool {
        self.attached.is_some_and(|(attached, _)| attached == number)
    }

    /// Writes to the log of the process. A failure to do so is nobody's to hear.
    fn log(&mut self, text: &str) {
        if let Some(process) = &mut self.options.process {
            if process.log.metadata().is_ok_and(|about| about.len() > MAX_LOG) {
                let _ = process.log.set_len(0);
            }
            let _ = writeln!(process.log, "{text}");
        }
    }

    fn take_signals(&mut self) {
        let mut bytes = [0; 16 * 128];
        let Some(process) = &self.options.process else { return };
        let Ok(length) = rustix::io::read(&process.signals, &mut bytes) else { return };
        // A record is 128 bytes; it begins with the number of the signal.
        for record in bytes.chunks_exact(128).take(length / 128) {
            match record.first().map(|number| i32::from(*number)) {
                Some(number) if number == Signal::TERM.as_raw() => {
                    self.told_to_end = true;
                    self.log(if self.attached.is_some() { "SIGTERM: ends when the daemon leaves" } else { "SIGTERM" });
                }
                Some(number) if number == Signal::CHILD.as_raw() => self.orphans = true,
                _ => {}
            }
        }
    }
}

// Connections.
impl Keeper {
    fn admit(&mut self) {
        while self.connections.len() < MAX_CONNECTIONS {
            let Ok((socket, _)) = self.options.door.accept() else { return };
            if !is_ours(&socket) || socket.set_nonblocking(true).is_err() {
                continue;
            }
            self.connections.push(Connection {
                number: self.next_connection,
                socket,
                inbox: Inbox::default(),
                waiting: VecDeque::new(),
                waiting_bytes: 0,
                since: now(),
                leaving: false,
            });
            self.next_connection += 1;
        }
    }

    fn converse(&mut self, number: u64, flags: PollFlags) {
        if flags.contains(PollFlags::OUT) {
            self.flush(number);
        }
        let Some(place) = self.connections.iter().position(|one| one.number == number) else { return };
        let connection = &mut self.connections[place];
        if connection.leaving {
            if flags.intersects(PollFlags::HUP | PollFlags::ERR) {
                self.part(number);
            }
            return;
        }
        match connection.inbox.receive(&connection.socket) {
            Ok(0) => return self.part(number),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => return self.part(number),
            Ok(_) => {}
        }
        while let Some(connection) = self.connections.iter_mut().find(|one| one.number == number && !one.leaving) {
            match connection.inbox.next() {
                Ok(Some(frame)) => self.answer(number, frame),
                Ok(None) => return,
                Err(error) => {
                    self.say(number, 0, &Say::Error { text: error.to_string() }, Vec::new());
                    self.leave(number);
                }
            }
        }
    }

    /// Lets a connection go once everything is sent; nothing more is heard from it.
    fn leave(&mut self, number: u64) {
        if let Some(connection) = self.connections.iter_mut().find(|one| one.number == number) {
            connection.leaving = true;
        }
        self.detach(number);
    }

    fn part(&mut self, number: u64) {
        self.connections.retain(|one| one.number != number);
        self.detach(number);
    }

    fn detach(&mut self, number: u64) {
        if self.is_attached(number) {
            self.attached = None;
            self.alone_since = now();
        }
    }

    fn say(&mut self, number: u64, request: u32, say: &Say, fds: Vec<Rc<OwnedFd>>) {
        let Some(connection) = self.connections.iter_mut().find(|one| one.number == number) else { return };
        let Ok(bytes) = encode(request, fds.len(), say) else { return self.part(number) };
        connection.waiting_bytes += bytes.len();
        connection.waiting.push_back((bytes, fds));
        if connection.waiting_bytes > MAX_WAITING {
            // It does not read. Nothing is lost: the next daemon finds everything in the list.
            return self.part(number);
        }
        self.flush(number);
    }

    fn flush(&mut self, number: u64) {
        let Some(connection) = self.connections.iter_mut().find(|one| one.number == number) else { return };
        while let Some((bytes, fds)) = connection.waiting.front_mut() {
            let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
            match send(&connection.socket, bytes, &borrowed) {
                Ok(sent) => {
                    connection.waiting_bytes -= sent;
                    fds.clear();
                    bytes.drain(..sent);
                    if bytes.is_empty() {
                        connection.waiting.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.part(number),
            }
        }
    }

    /// Tells the daemon, if there is one.
    fn tell(&mut self, say: &Say) {
        if let Some((number, _)) = self.attached {
            self.say(number, 0, say, Vec::new());
        }
    }

    fn answer(&mut self, number: u64, frame: Frame<Ask>) {
        let Frame { request, body, mut fds } = frame;
        self.worked = self.worked.or_else(|| Some(now()));
        let unknown = |id: u64| Say::Error { text: format!("there is no instance {id}") };
        let mut passed = Vec::new();
        let say = match body {
            Ask::Hello { lowest, highest, pid } => return self.welcome(number, request, (lowest, highest), pid),
            _ if !self.is_attached(number) => {
                self.say(number, request, &Say::Error { text: "say hello first".to_owned() }, Vec::new());
                return self.leave(number);
            }
            Ask::End { grace_ms } => {
                return self.begin_end(Some((number, request)), Duration::from_millis(grace_ms.min(3_600_000)));
            }
            Ask::Spawn(launch) => self.spawn(&launch, &mut passed),
            Ask::List => {
                self.list(number, request);
                Say::Done
            }
            Ask::CloseStdin { id } => self.instances.get_mut(&id).map_or_else(|| unknown(id), Instance::close_stdin),
            Ask::Forget { id } => self.forget(id).unwrap_or_else(|| unknown(id)),
            Ask::Signal { id, signal } => self.instances.get(&id).map_or_else(|| unknown(id), |it| it.signal(signal)),
            Ask::Count { id } => {
                self.instances.get(&id).map_or_else(|| unknown(id), |it| Say::Used(it.usage(&tree::all())))
            }
            Ask::Hold { name } => match fds.pop() {
                Some(fd) if fds.is_empty() => {
                    self.listeners.insert(name, Rc::new(fd));
                    Say::Done
                }
                _ => Say::Error { text: "one listener comes with its name".to_owned() },
            },
            Ask::Take { name } => match self.listeners.get(&name) {
                Some(fd) => {
                    passed.push(Rc::clone(fd));
                    Say::Done
                }
                None => Say::Nothing,
            },
            Ask::Drop { name } => {
                self.listeners.remove(&name);
                Say::Done
            }
        };
        self.say(number, request, &say, passed);
    }

    fn welcome(&mut self, number: u64, request: u32, (lowest, highest): (u16, u16), pid: u32) {
        let version = highest.min(HIGHEST);
        let refusal = match self.attached {
            Some((_, pid)) => Some(Say::Attached { pid }),
            None if version < lowest.max(LOWEST) => Some(Say::Version { lowest: LOWEST, highest: HIGHEST }),
            None if self.ending.is_some() => Some(Say::Error { text: "the keeper is about to end".to_owned() }),
            None => None,
        };
        if let Some(refusal) = refusal {
            self.say(number, request, &refusal, Vec::new());
            return self.leave(number);
        }
        self.attached = Some((number, pid));
        self.say(number, request, &Say::Welcome { version, keeper_pid: std::process::id() }, Vec::new());
    }
}

// Instances.
impl Keeper {
    fn spawn(&mut self, what: &Launch, passed: &mut Vec<Rc<OwnedFd>>) -> Say {
        if self.ending.is_some() {
            return Say::Error { text: "the keeper is about to end".to_owned() };
        }
        if self.instances.contains_key(&what.id) {
            let text = format!("instance {} is held already", what.id);
            return Say::Failed { errno: 0, stage: Stage::Duplicate, text };
        }
        match launch(what, self.options.inherited, self.options.groups.as_ref()) {
            Err((stage, error)) => {
                Say::Failed { errno: error.raw_os_error().unwrap_or(0), stage, text: error.to_string() }
            }
            Ok(new) => {
                passed.extend(new.ends.iter().cloned());
                let said = Say::Spawned { id: what.id, pid: new.pid.unsigned_abs(), started: new.started };
                let instance = Instance {
                    pid: new.pid,
                    started: new.started,
                    pidfd: Some(new.pidfd),
                    ends: new.ends.into(),
                    exit: None,
                    over: None,
                    limits: what.limits,
                    group: new.group,
                };
                self.instances.insert(what.id, instance);
                said
            }
        }
    }

    fn list(&mut self, number: u64, request: u32) {
        let held = self.instances.iter().map(|(id, it)| {
            let (id, pid, started) = (*id, it.pid.unsigned_abs(), it.started);
            (Say::Held { id, pid, started, exit: it.exit, over: it.over.clone() }, it.ends.clone())
        });
        for (say, ends) in held.collect::<Vec<_>>() {
            self.say(number, request, &say, ends);
        }
    }

    fn forget(&mut self, id: u64) -> Option<Say> {
        let instance = self.instances.get(&id)?;
        if instance.exit.is_none() {
            return Some(Say::Error { text: format!("instance {id} has not ended") });
        }
        instance.reap();
        self.instances.remove(&id);
        Some(Say::Done)
    }

    fn note_exit(&mut self, id: u64) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        let Some(exit) = instance.read_exit() else { return };
        instance.pidfd = None;
        instance.exit = Some(exit);
        let killed = instance.group.as_ref().is_some_and(|group| group.usage().oom_kills > 0);
        if killed && instance.over.is_none() {
            let limit = instance.limits.memory_bytes.map(|limit| format!("; the limit is {}", amount(limit)));
            let text = format!("its processes ran out of memory{}", limit.unwrap_or_default());
            instance.over = Some(text.clone());
            self.tell(&Say::Over { id, text });
        }
        self.tell(&Say::Exited { id, exit });
    }

    /// Ends the trees that went over a limit, and takes orphans that ended away.
    fn look(&mut self) {
        if !self.orphans && !self.instances.values().any(Instance::is_sampled) {
            return;
        }
        let all = tree::all();
        if self.orphans {
            self.orphans = false;
            let own = getpid().as_raw_pid();
            for orphan in all.iter().filter(|process| process.is_zombie_of(own)) {
                if self.instances.values().all(|instance| instance.pid != orphan.pid) {
                    reap(orphan.pid);
                }
            }
        }
        let mut over = Vec::new();
        for (id, instance) in self.instances.iter_mut().filter(|(_, instance)| instance.is_sampled()) {
            if let Some(text) = excess(&instance.limits, &tree::usage(&all, instance.pid)) {
                tree::kill(&[Root::Instance(instance.pid)]);
                instance.over = Some(text.clone());
                over.push((*id, text));
            }
        }
        for (id, text) in over {
            self.log(&format!("instance {id}: {text}"));
            self.tell(&Say::Over { id, text });
        }
    }
}

// The end.
impl Keeper {
    fn begin_end(&mut self, asked_by: Option<(u64, u32)>, grace: Duration) {
        self.instances.values_mut().for_each(|instance| drop(instance.close_stdin()));
        let now = now();
        let term_at = (!grace.is_zero()).then(|| now + grace / 2);
        self.ending = Some(Ending { asked_by, term_at, kill_at: now + grace });
    }

    /// One step of the end. `true`: nothing is left, or what is left cannot be killed.
    fn end(&mut self, now: Instant) -> bool {
        let Some(ending) = &mut self.ending else { return false };
        let roots: Vec<Root> = match self.options.process {
            Some(_) => vec![Root::Below(getpid().as_raw_pid())],
            None => self.instances.values().map(|instance| Root::Instance(instance.pid)).collect(),
        };
        if ending.term_at.is_some_and(|at| now >= at) {
            ending.term_at = None;
            self.instances.values().for_each(|instance| drop(instance.signal(Signal::TERM.as_raw())));
        }
        if now >= ending.kill_at {
            for group in self.instances.values().filter_map(|instance| instance.group.as_ref()) {
                group.kill();
            }
            tree::kill(&roots);
        }
        let left = tree::members(&tree::all(), &roots);
        if !left.is_empty() && now < ending.kill_at + KILLED {
            return false;
        }
        let asked_by = ending.asked_by;
        let ids: Vec<u64> = self.instances.keys().copied().collect();
        for id in ids {
            self.note_exit(id);
        }
        self.instances.values().for_each(Instance::reap);
        let text = format!("{} processes could not be killed", left.len());
        let say = if left.is_empty() { Say::Done } else { Say::Error { text } };
        self.log("everything that was held has ended");
        if let Some((number, request)) = asked_by {
            self.say(number, request, &say, Vec::new());
        }
        true
    }
}
