//! The keeper's one loop: who is attached, what is held, what ended.

use crate::instance::{Instance, reap};
use crate::link::{Connection, Frame};
use crate::resident::Regions;
use crate::wire::{Ask, HIGHEST, LOWEST, Say};
use crate::words::{Launch, Stage};
use jail::tree::{self, Root};
use jail::{Jails, Lookout};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, getpid};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::time::{Duration, Instant};

const MAX_CONNECTIONS: usize = 8;
/// How long a connection may take to say hello.
const HELLO: Duration = Duration::from_secs(2);
/// How long a keeper that holds nothing waits for a daemon.
const IDLE: Duration = Duration::from_secs(10);
/// How long one that is to end waits for a daemon that follows the last one.
const CHANGE: Duration = Duration::from_secs(3);
/// How often trees with limits are looked at, and orphans taken away.
const LOOK: Duration = Duration::from_millis(500);
/// How often a keeper that ends looks whether all is gone.
const END_LOOK: Duration = Duration::from_millis(20);
/// Time for instances to end by themselves when nobody said how long.
const GRACE: Duration = Duration::from_secs(5);
/// How long killed processes may take to go: one in the kernel's hands for longer is beyond us.
const KILLED: Duration = Duration::from_secs(5);
const MAX_LOG: u64 = 1 << 20;
/// How long after work the pages that it needed are given back.
const REST: Duration = Duration::from_millis(200);

/// What a keeper is started with.
pub(crate) struct Options {
    pub(crate) door: UnixListener,
    /// How long a keeper that holds something waits for a daemon.
    pub(crate) orphan_timeout: Duration,
    pub(crate) jails: Jails,
    /// Set where the keeper is a process of its own: every descendant is its to end.
    pub(crate) process: Option<Process>,
    /// Readable or closed: end at once.
    pub(crate) stop: Option<OwnedFd>,
    /// A service manager started us: holding nothing is no reason to end.
    pub(crate) managed: bool,
}

/// What only a keeper has that is a process of its own.
pub(crate) struct Process {
    /// Says which signals came.
    pub(crate) signals: File,
    pub(crate) log: File,
    pub(crate) regions: Regions,
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
    connections: BTreeMap<u64, Connection>,
    last_connection: u64,
    /// The connection and process of the daemon.
    attached: Option<(u64, u32)>,
    /// When the last daemon left.
    alone_since: Instant,
    instances: BTreeMap<u64, Instance>,
    listeners: BTreeMap<String, Rc<OwnedFd>>,
    lookout: Lookout,
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
        connections: BTreeMap::new(),
        last_connection: 0,
        attached: None,
        alone_since: now(),
        instances: BTreeMap::new(),
        listeners: BTreeMap::new(),
        lookout: Lookout::default(),
        looked: now(),
        orphans: false,
        told_to_end: false,
        ending: None,
        worked: Some(now()),
    };
    loop {
        for source in keeper.wait()? {
            match source {
                Source::Door => keeper.admit(),
                Source::Stop => keeper.begin_end(None, Duration::ZERO),
                Source::Signals => keeper.take_signals(),
                Source::Connection(number) => keeper.converse(number),
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
    fn wait(&self) -> io::Result<Vec<Source>> {
        let mut watched = Vec::new();
        // Connections first: a daemon that died has left before its successor is heard.
        for (number, connection) in &self.connections {
            watched.push((Source::Connection(*number), connection.as_fd(), connection.wants()));
        }
        for (id, instance) in &self.instances {
            watched.extend(instance.pidfd.iter().map(|pidfd| (Source::Instance(*id), pidfd.as_fd(), PollFlags::IN)));
        }
        if self.connections.len() < MAX_CONNECTIONS {
            watched.push((Source::Door, self.options.door.as_fd(), PollFlags::IN));
        }
        if let Some(stop) = self.options.stop.as_ref().filter(|_| self.ending.is_none()) {
            watched.push((Source::Stop, stop.as_fd(), PollFlags::IN));
        }
        if let Some(process) = &self.options.process {
            watched.push((Source::Signals, process.signals.as_fd(), PollFlags::IN));
        }
        let mut fds: Vec<_> = watched.iter().map(|(_, fd, want)| PollFd::from_borrowed_fd(*fd, *want)).collect();
        let left = self.next_time().map(|at| at.saturating_duration_since(now()) + Duration::from_millis(1));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = watched.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|((source, ..), _)| *source).collect())
    }

    /// When something is to be done although nothing happens.
    fn next_time(&self) -> Option<Instant> {
        let silent = self.connections.iter().filter(|(number, _)| !self.is_attached(**number));
        let silent = silent.map(|(_, one)| one.since + HELLO);
        let look = (self.orphans || self.instances.values().any(Instance::needs_looks)).then(|| self.looked + LOOK);
        let end = self.ending.as_ref().map(|_| now() + END_LOOK);
        silent.chain(look).chain(end).chain(self.rest_at()).chain(self.alone_until()).min()
    }

    /// The memory of a thread is its host's to look after.
    fn rest_at(&self) -> Option<Instant> {
        self.worked.filter(|_| self.options.process.is_some()).map(|since| since + REST)
    }

    fn alone_until(&self) -> Option<Instant> {
        let empty = self.instances.is_empty() && self.listeners.is_empty();
        let patience = match self.options.orphan_timeout {
            // Where one daemon follows another, the first has left before the second comes.
            most if self.told_to_end => most.min(CHANGE),
            most if empty && !self.options.managed => most.min(IDLE),
            most => most,
        };
        (self.attached.is_none() && self.ending.is_none()).then(|| self.alone_since + patience)
    }

    /// Does what its time has come for. `true`: it is over.
    fn keep_time(&mut self) -> bool {
        let now = now();
        let attached = self.attached;
        self.connections.retain(|number, one| {
            let welcome = attached.is_some_and(|(attached, _)| attached == *number);
            !one.is_over() && (welcome || now < one.since + HELLO)
        });
        if now >= self.looked + LOOK {
            self.looked = now;
            self.look();
        }
        if self.rest_at().is_some_and(|at| now >= at) {
            self.worked = None;
            self.options.process.iter().for_each(|process| process.regions.give_back());
        }
        if self.alone_until().is_some_and(|until| now >= until) {
            self.log("no daemon came: everything that is held ends");
            self.begin_end(None, GRACE);
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
            if let Ok(connection) = Connection::new(socket, now()) {
                self.last_connection += 1;
                self.connections.insert(self.last_connection, connection);
            }
        }
    }

    fn converse(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let flushed = connection.flush();
        if flushed.and_then(|()| if connection.leaving { Ok(()) } else { connection.hear() }).is_err() {
            return self.part(number);
        }
        while let Some(connection) = self.connections.get_mut(&number).filter(|one| !one.leaving) {
            match connection.inbox.next() {
                Ok(Some(frame)) => self.answer(number, frame),
                Ok(None) => return,
                Err(error) => self.refuse(number, 0, &Say::Error { text: error.to_string() }),
            }
        }
    }

    /// The last word to a connection.
    fn refuse(&mut self, number: u64, request: u32, why: &Say) {
        self.say(number, request, why, Vec::new());
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.leaving = true;
        }
        self.detach(number);
    }

    fn part(&mut self, number: u64) {
        self.connections.remove(&number);
        self.detach(number);
    }

    fn detach(&mut self, number: u64) {
        if self.is_attached(number) {
            self.attached = None;
            self.alone_since = now();
        }
    }

    /// A connection that does not read is parted from. Nothing is lost: the next daemon finds everything in the list.
    fn say(&mut self, number: u64, request: u32, say: &Say, fds: Vec<Rc<OwnedFd>>) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if connection.say(request, say, fds).is_err() {
            self.part(number);
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
        let mut passed = Vec::new();
        let done = match body {
            Ask::Hello { lowest, highest, pid } => return self.welcome(number, request, (lowest, highest), pid),
            _ if !self.is_attached(number) => {
                return self.refuse(number, request, &Say::Error { text: "say hello first".to_owned() });
            }
            Ask::End { grace_ms } => {
                return self.begin_end(Some((number, request)), Duration::from_millis(grace_ms.min(3_600_000)));
            }
            Ask::Spawn(launch) => Ok(self.spawn(&launch, &mut passed)),
            Ask::List => Ok(self.list(number, request)),
            Ask::CloseStdin { id } => self.instance(id).map(Instance::close_stdin).map(|()| Say::Done),
            Ask::Forget { id } => self.forget(id),
            Ask::Signal { id, signal } => self.signal(id, signal),
            Ask::Count { id } => self.instance(id).map(|it| Say::Used(it.jail.usage(&tree::all(), it.pid))),
            Ask::Hold { name } => match fds.pop() {
                Some(fd) if fds.is_empty() => {
                    self.listeners.insert(name, Rc::new(fd));
                    Ok(Say::Done)
                }
                _ => Err("one listener comes with its name".to_owned()),
            },
            Ask::Take { name } => {
                passed.extend(self.listeners.get(&name).cloned());
                Ok(if passed.is_empty() { Say::Nothing } else { Say::Done })
            }
            Ask::Drop { name } => {
                self.listeners.remove(&name);
                Ok(Say::Done)
            }
        };
        self.say(number, request, &done.unwrap_or_else(|text| Say::Error { text }), passed);
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
            return self.refuse(number, request, &refusal);
        }
        self.attached = Some((number, pid));
        self.say(number, request, &Say::Welcome { version, keeper_pid: std::process::id() }, Vec::new());
    }
}

// Instances.
impl Keeper {
    fn instance(&mut self, id: u64) -> Result<&mut Instance, String> {
        self.instances.get_mut(&id).ok_or_else(|| format!("there is no instance {id}"))
    }

    fn spawn(&mut self, launch: &Launch, passed: &mut Vec<Rc<OwnedFd>>) -> Say {
        let Launch { id, .. } = *launch;
        if self.ending.is_some() {
            return Say::Error { text: "the keeper is about to end".to_owned() };
        }
        if self.instances.contains_key(&id) {
            return Say::Failed { errno: 0, stage: Stage::Duplicate, text: format!("instance {id} is held already") };
        }
        match Instance::start(launch, &self.options.jails) {
            Err((stage, error)) => {
                Say::Failed { errno: error.raw_os_error().unwrap_or(0), stage, text: error.to_string() }
            }
            Ok(instance) => {
                passed.extend(instance.ends.iter().cloned());
                let said = Say::Spawned { id, pid: instance.pid.unsigned_abs(), started: instance.started };
                self.instances.insert(id, instance);
                self.lookout.expect_another();
                said
            }
        }
    }

    fn list(&mut self, number: u64, request: u32) -> Say {
        let held: Vec<_> = self.instances.iter().map(|(id, it)| (it.as_held(*id), it.ends.clone())).collect();
        for (say, ends) in held {
            self.say(number, request, &say, ends);
        }
        Say::Done
    }

    fn signal(&mut self, id: u64, number: i32) -> Result<Say, String> {
        let signal = Signal::from_named_raw(number).ok_or_else(|| format!("there is no signal {number}"))?;
        self.instance(id)?.signal(signal);
        Ok(Say::Done)
    }

    fn forget(&mut self, id: u64) -> Result<Say, String> {
        let instance = self.instance(id)?;
        instance.exit.ok_or_else(|| format!("instance {id} has not ended"))?;
        instance.reap();
        self.instances.remove(&id);
        Ok(Say::Done)
    }

    fn note_exit(&mut self, id: u64) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        let Some(exit) = instance.note_exit() else { return };
        if let Some(text) = instance.jail.starved().filter(|_| instance.over.is_none()) {
            instance.over = Some(text.clone());
            self.tell(&Say::Over { id, text });
        }
        self.tell(&Say::Exited { id, exit });
    }

    /// Takes orphans that ended away, and ends the trees that went over a limit.
    fn look(&mut self) {
        if std::mem::take(&mut self.orphans) {
            let own = getpid().as_raw_pid();
            let held = |pid| self.instances.values().any(|instance| instance.pid == pid);
            let ended = |process: &tree::Process| process.is_zombie_of(own) && !held(process.pid);
            tree::all().iter().filter(|process| ended(process)).for_each(|orphan| reap(orphan.pid));
        }
        let watched = self.instances.values().filter(|instance| instance.needs_looks());
        let watched: Vec<_> = watched.map(|instance| (&instance.jail, instance.pid)).collect();
        if watched.is_empty() {
            return;
        }
        let Some(over) = self.lookout.look(&watched) else { return };
        self.worked = self.worked.or_else(|| Some(now()));
        for (pid, text) in over {
            tree::kill(&[Root::Instance(pid)]);
            let found = self.instances.iter_mut().find(|(_, instance)| instance.pid == pid);
            let Some((id, instance)) = found else { continue };
            let id = *id;
            instance.over = Some(text.clone());
            self.log(&format!("instance {id}: {text}"));
            self.tell(&Say::Over { id, text });
        }
    }
}

// The end.
impl Keeper {
    fn begin_end(&mut self, asked_by: Option<(u64, u32)>, grace: Duration) {
        self.instances.values_mut().for_each(Instance::close_stdin);
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
            self.instances.values().for_each(|instance| instance.signal(Signal::TERM));
        }
        if now >= ending.kill_at {
            self.instances.values().for_each(|instance| instance.jail.kill());
            tree::kill(&roots);
        }
        let left = tree::members(&tree::all(), &roots);
        if !left.is_empty() && now < ending.kill_at + KILLED {
            return false;
        }
        let asked_by = ending.asked_by;
        for id in self.instances.keys().copied().collect::<Vec<_>>() {
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
