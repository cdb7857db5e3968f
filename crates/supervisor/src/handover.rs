//! A planned change of the daemon. The old one stops reading and writing the pipes in the middle of whatever is going on,
//! says what it held of them, and lets go of the keeper; the new one takes the processes over and reads on at the very byte.
//! What the new one reads about calls of the old one it passes on, so that they end as if nothing had happened.

mod entries;
mod frame;
mod predecessor;
mod queue;

use self::entries::Passing;
pub use self::entries::{Entries, Entry, Heard, Taker};
use crate::adopt::Inheritance;
use crate::instance::Instance;
use crate::keeping::{Fate, Keeper, KeeperError};
use crate::outlet::Outlet;
use crate::reconcile::Supervisor;
use crate::route;
use bytes::Bytes;
use frame::{Frame, Reader};
use keeper::Held;
use model::ServerName;
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wire::message::{Message, Shape};
use wire::scan::{Limits, Place, Side};

pub(crate) use predecessor::Predecessor;

/// How long processes that are being started have to get through their handshake before the pipes are given away.
const SETTLING: Duration = Duration::from_secs(10);
/// The same for those whose start began meanwhile, and requests wait.
const LATECOMERS: Duration = Duration::from_millis(500);
/// How long the readers and writers may take to stop, all of them. They never wait for anybody, so this is long.
const STOPS: Duration = Duration::from_secs(5);
/// How long the keeper may take to hear that a daemon is gone.
const LETS_GO: Duration = Duration::from_secs(5);
/// Lines of calls that wait to be passed on.
const WAITING: usize = 4096;
/// Between two looks at which calls have ended.
const LOOK: Duration = Duration::from_millis(100);
/// Between two looks at what is not waited for by an event.
const STEP: Duration = Duration::from_millis(5);

/// The other daemon did not do its part.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The connection to it broke.
    #[error("the other daemon went away")]
    Gone(#[from] io::Error),
    /// It said something that has no place there.
    #[error("the other daemon said something unexpected: {0}")]
    Unexpected(String),
    /// Something of ours did not stop in time.
    #[error("a pipe of the server {0} could not be given away")]
    Held(ServerName),
}

/// What a daemon held of the pipes of an instance when it gave them away.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Rest {
    /// Read, and not yet a whole line.
    pub(crate) unread: Vec<u8>,
    /// Accepted for the server, and not yet written. It may begin in the middle of a line.
    pub(crate) unwritten: Vec<u8>,
}

/// Where the lines of an instance go once its pipes are another daemon's.
#[derive(Clone, Debug)]
pub(crate) struct Elsewhere {
    pub(crate) instance: u64,
    /// `None`: nothing needs the instance any more.
    pub(crate) lines: mpsc::Sender<(u64, Option<Vec<u8>>)>,
}

/// The pipes of a daemon that has stopped to read and write them.
#[derive(Debug)]
pub struct GivenAway {
    supervisor: Supervisor,
    instances: HashMap<u64, (Arc<Instance>, Option<Rest>)>,
    lines: mpsc::Receiver<(u64, Option<Vec<u8>>)>,
    /// Holds `lines` open: a host may have no pipe at all.
    _open: mpsc::Sender<(u64, Option<Vec<u8>>)>,
    told: Told,
    /// One whose reader or writer did not stop.
    held: Option<ServerName>,
    passing: Passing,
}

impl Supervisor {
    /// Waits until no process is in the middle of its handshake, but not for ever. Everything goes on meanwhile.
    pub async fn settle(&self) {
        self.end_spares().await;
        self.settled(SETTLING).await;
    }

    /// Stops reading and writing. From here on nothing is started or stopped, and no exit is heard of.
    pub async fn give_away(&self) -> GivenAway {
        self.shared().freeze(true);
        // Those that are being started in this moment are handed on too.
        drop(tokio::time::timeout(LETS_GO, self.shared().starting.write()).await);
        self.settled(LATECOMERS).await;
        let (sender, lines) = mpsc::channel(WAITING);
        let (mut instances, mut held) = (HashMap::new(), None);
        let processes = self.processes();
        processes.iter().for_each(|instance| instance.pause.ask());
        let until = tokio::time::Instant::now() + STOPS;
        for instance in processes {
            let Outlet::Pipe(writer) = instance.outlet() else { continue };
            let elsewhere = Elsewhere { instance: instance.id, lines: sender.clone() };
            let stopping = async {
                // Without its reader a process is about to be replaced.
                let unread = instance.pause.stopped().await?;
                Some(Rest { unread, unwritten: writer.divert(elsewhere).await })
            };
            let rest = tokio::time::timeout_at(until, stopping).await.unwrap_or_else(|_elapsed| {
                held = Some(instance.server().clone());
                None
            });
            instances.insert(instance.id, (instance.clone(), rest));
        }
        drop(tokio::time::timeout(LETS_GO, self.shared().keeper.detach()).await);
        GivenAway {
            supervisor: self.clone(),
            instances,
            lines,
            _open: sender,
            told: Told::default(),
            held,
            passing: Passing::new(),
        }
    }

    /// A client's answer or cancellation that belongs to no call of this daemon.
    pub fn tell_predecessor(&self, session: &str, message: &Message) {
        if let Some(predecessor) = &self.shared().predecessor {
            predecessor.send(&Frame::Message { session: session.to_owned(), body: message.bytes().to_vec() });
        }
    }

    /// A session was ended here; the old daemon may have calls of it.
    pub(crate) fn tell_predecessor_of_end(&self, session: &str) {
        if let Some(predecessor) = &self.shared().predecessor {
            predecessor.send(&Frame::SessionEnded { session: session.to_owned() });
        }
    }

    /// Records that the daemon before this one still makes go to `taker`. To be said before [`Self::serves`].
    pub fn take_entries(&self, taker: Taker) {
        if let Some(predecessor) = &self.shared().predecessor {
            predecessor.records_go_to(taker);
        }
    }

    /// The old daemon hears that this one serves.
    pub fn serves(&self) {
        if let Some(predecessor) = &self.shared().predecessor {
            predecessor.send(&Frame::Serving);
        }
    }

    /// Waits for the word of the old daemon that it takes nothing back. False where it went away without it: what it had
    /// still to do at the change is then ours.
    pub async fn is_let_go(&self) -> bool {
        match &self.shared().predecessor {
            Some(predecessor) => predecessor.let_go().await,
            None => true,
        }
    }

    /// Done when every daemon before this one has finished its calls.
    pub async fn alone(&self) {
        if let Some(predecessor) = &self.shared().predecessor {
            predecessor.ended().await;
        }
    }

    async fn settled(&self, patience: Duration) {
        let mut waited = Duration::ZERO;
        while waited < patience && self.slots().iter().any(|slot| slot.is_starting()) {
            tokio::time::sleep(STEP).await;
            waited += STEP;
        }
    }
}

/// What the new daemon knows.
#[derive(Debug, Default)]
struct Told {
    /// Calls at each process.
    calls: HashMap<u64, u32>,
    /// Streams whose last event it has.
    answers: HashSet<(String, u64)>,
}

/// Calls of this daemon and those before it.
fn calls(instance: &Instance) -> u32 {
    u32::try_from(instance.in_flight()).unwrap_or(u32::MAX).saturating_add(instance.earlier_calls())
}

/// A line that the new daemon is to write, or the word that a process is not needed any more.
fn passed((instance, line): (u64, Option<Vec<u8>>)) -> Frame {
    match line {
        Some(line) => Frame::Line { instance, line },
        None => Frame::Released { instance },
    }
}

/// What the keeper holds, once it is there for this daemon again.
async fn held_again(keeper: &Keeper, stop: &CancellationToken) -> Result<Vec<Held>, KeeperError> {
    let mut waited = Duration::ZERO;
    loop {
        let error = match keeper.attach_again().await {
            Ok(()) => match keeper.list().await {
                Ok(all) => return Ok(all),
                Err(error) => {
                    keeper.detach().await;
                    error
                }
            },
            Err(error) => error,
        };
        // It may not have heard yet that the other one is gone.
        tokio::time::sleep(STEP).await;
        waited += STEP;
        if waited >= LETS_GO && stop.is_cancelled() {
            return Err(error);
        }
        if waited >= LETS_GO {
            tracing::error!(%error, "the processes cannot be taken back without their keeper; trying on");
            waited = Duration::ZERO;
        }
    }
}

impl GivenAway {
    /// Says what was held.
    pub async fn tell(&mut self, stream: &mut UnixStream) -> Result<(), HandoverError> {
        if let Some(server) = self.held.take() {
            return Err(HandoverError::Held(server));
        }
        let serving = self.supervisor.serving();
        for (id, (instance, rest)) in &self.instances {
            let Some(Rest { unread, unwritten }) = rest else { continue };
            let (in_flight, serves) = (calls(instance), serving.contains(id));
            let (unread, unwritten) = (unread.clone(), unwritten.clone());
            let frame = Frame::Rest { instance: *id, in_flight, serves, unread, unwritten };
            self.told.calls.insert(*id, in_flight);
            stream.write_all(&frame.encode()).await?;
        }
        stream.write_all(&Frame::Yielded.encode()).await?;
        Ok(())
    }

    /// Waits until the new daemon serves. Until [`Self::let_go`] it reads and writes no pipe.
    pub async fn taken(&mut self, stream: &mut UnixStream) -> Result<(), HandoverError> {
        loop {
            match frame::read_from(stream).await? {
                Frame::Serving => return Ok(()),
                // Nothing of this concerns a pipe.
                early @ (Frame::Gone { .. }
                | Frame::Unheard { .. }
                | Frame::Message { .. }
                | Frame::SessionEnded { .. }) => self.hear(early),
                other => return Err(HandoverError::Unexpected(format!("{other:?}"))),
            }
        }
    }

    /// Nothing is taken back from here on: the new daemon may read and write. One that has gone meanwhile took all with it.
    pub async fn let_go(&mut self, stream: &mut UnixStream) {
        if let Err(error) = stream.write_all(&Frame::Yours.encode()).await {
            tracing::error!(%error, "the new daemon went away as soon as it had taken over");
        }
        self.instances.values_mut().for_each(|(_, rest)| *rest = None);
    }

    /// The new daemon did not come: goes on as if nothing had happened. What it has started is ended. Waits for a keeper for
    /// as long as there is none, unless the host stops. How many processes ended meanwhile.
    pub async fn take_back(mut self, stop: &CancellationToken) -> Result<usize, KeeperError> {
        let supervisor = self.supervisor.clone();
        let shared = supervisor.shared();
        let all = held_again(&shared.keeper, stop).await?;
        let last = all.iter().map(|held| held.id).max().unwrap_or_default();
        shared.instance_ids.fetch_max(last, Ordering::Relaxed);
        let waited_for = shared.keeper.waited_for();
        let mut late = self.late_lines();
        for (id, (instance, rest)) in &mut self.instances {
            if let Outlet::Pipe(writer) = instance.outlet() {
                let mut unwritten = rest.take().map(|rest| rest.unwritten).unwrap_or_default();
                unwritten.extend(late.remove(id).unwrap_or_default());
                writer.take_back(unwritten);
            }
            instance.pause.resume();
        }
        // What came while the first were taken back.
        for (id, lines) in self.late_lines() {
            if let Some((instance, _)) = self.instances.get(&id) {
                let _ = instance.send(lines);
            }
        }
        shared.freeze(false);
        self.supervisor.keep_spares();
        let (ours, others): (Vec<Held>, Vec<Held>) = all.into_iter().partition(|held| waited_for.contains(&held.id));
        let ours: HashSet<u64> = shared.keeper.know(ours).iter().map(|kept| kept.held.id).collect();
        for gone in waited_for.difference(&ours) {
            shared.keeper.settle(*gone, Fate::ByHost("it ended while another daemon had it".to_owned()));
        }
        let others = shared.keeper.know(others);
        let none = (HashMap::new(), &HashSet::new());
        let mut others = Inheritance::of(others, &shared.keeper, &shared.settings.identity, none);
        drop(others.end_rest(&shared.settings, &shared.orphans));
        Ok(waited_for.len() - ours.len())
    }

    /// Lines that calls have sent since the pipes were stopped.
    fn late_lines(&mut self) -> HashMap<u64, Vec<u8>> {
        let mut late: HashMap<u64, Vec<u8>> = HashMap::new();
        while let Ok((id, line)) = self.lines.try_recv() {
            late.entry(id).or_default().extend(line.unwrap_or_default());
        }
        late
    }

    /// The way of records to the new daemon, once it has taken over.
    pub fn entries(&self) -> Entries {
        self.passing.way()
    }

    /// Lives on what the new daemon passes on, for as long as that one does, or until `over`.
    pub async fn relay(mut self, stream: UnixStream, over: CancellationToken) {
        let (reads, mut writes) = stream.into_split();
        let mut heard = Reader::new(reads);
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                line = self.lines.recv() => {
                    let Some(line) = line else { return };
                    if writes.write_all(&passed(line).encode()).await.is_err() {
                        break;
                    }
                }
                entry = self.passing.next() => if let Some(entry) = entry
                    && writes.write_all(&entry.encode()).await.is_err()
                {
                    break;
                },
                _ = look.tick() => if self.tell_changes(&mut writes).await.is_err() {
                    break;
                },
                () = over.cancelled() => {
                    // What was sent and what has ended since the last look.
                    while let Ok(line) = self.lines.try_recv() {
                        let _ = writes.write_all(&passed(line).encode()).await;
                    }
                    for entry in self.passing.rest() {
                        let _ = writes.write_all(&entry.encode()).await;
                    }
                    let _ = self.tell_changes(&mut writes).await;
                    while self.passing.waits()
                        && let Ok(frame) = heard.next().await
                    {
                        self.hear(frame);
                    }
                    self.passing.end();
                    return;
                }
                frame = heard.next() => match frame {
                    Ok(frame) => self.hear(frame),
                    Err(_) => break,
                },
            }
        }
        self.passing.end();
        for id in self.instances.keys() {
            self.supervisor.shared().keeper.settle(*id, Fate::Elsewhere);
        }
    }

    /// Which calls have ended, and what the clients of those will come for that do not read.
    async fn tell_changes(&mut self, writes: &mut OwnedWriteHalf) -> io::Result<()> {
        for (id, (instance, _)) in &self.instances {
            let calls = calls(instance);
            if self.told.calls.insert(*id, calls) != Some(calls) {
                writes.write_all(&Frame::Busy { instance: *id, calls }.encode()).await?;
            }
        }
        let answers = self.supervisor.answered();
        let still: HashSet<_> = answers.iter().map(|(session, stream, _)| (session.clone(), *stream)).collect();
        self.told.answers.retain(|answer| still.contains(answer));
        for (session, stream, body) in answers {
            if self.told.answers.insert((session.clone(), stream)) {
                writes.write_all(&Frame::Answer { session, stream, body: body.to_vec() }.encode()).await?;
            }
        }
        Ok(())
    }

    fn hear(&mut self, frame: Frame) {
        match frame {
            Frame::Entered { number, outcome } => self.passing.heard(number, outcome),
            Frame::Line { instance, line } => {
                if let Some((instance, _)) = self.instances.get(&instance) {
                    route::line(instance, &Bytes::from(line));
                }
            }
            Frame::Gone { instance, status, by_host } => {
                let fate = if by_host { Fate::ByHost(status) } else { Fate::Over(status) };
                self.supervisor.shared().keeper.settle(instance, fate);
            }
            Frame::Unheard { instance } => self.supervisor.shared().keeper.settle(instance, Fate::Elsewhere),
            Frame::Message { session, body } => self.client_said(&session, body),
            Frame::SessionEnded { session } => {
                if let Some(session) = self.supervisor.session_by_id(&session) {
                    let (supervisor, server) = (self.supervisor.clone(), session.server().clone());
                    let end = async move { supervisor.close_session(&session, &server).await };
                    stdx::task::spawn("end a session", end);
                }
            }
            Frame::Rest { .. }
            | Frame::Yielded
            | Frame::Serving
            | Frame::Yours
            | Frame::Released { .. }
            | Frame::Entry { .. }
            | Frame::Busy { .. }
            | Frame::Answer { .. } => {}
        }
    }

    fn client_said(&self, session: &str, body: Vec<u8>) {
        let limits = Limits { bytes: body.len(), depth: 128 };
        let Ok(message) = Message::parse(Bytes::from(body), Side::Client, &limits) else { return };
        // A daemon before this one may be meant.
        let Some(session) = self.supervisor.session_by_id(session) else {
            return self.supervisor.tell_predecessor(session, &message);
        };
        match message.shape() {
            Shape::Success | Shape::Failure => {
                if !session.answer(&message) {
                    self.supervisor.tell_predecessor(session.id(), &message);
                }
            }
            Shape::Notification => {
                let Some(id) = message.member(Place::Params, "requestId") else { return };
                let reason = message.text(Place::Params, "reason").unwrap_or_default();
                for (instance, _) in self.instances.values() {
                    instance.cancel(&session, message.raw(id.value), &reason);
                }
                self.supervisor.tell_predecessor(session.id(), &message);
            }
            Shape::Request => {}
        }
    }
}

/// What the old daemon said, and the connection to it.
#[derive(Debug)]
pub struct Succession {
    pub(crate) rests: HashMap<u64, Rest>,
    /// Those among them that serve no calls which are yet to come.
    pub(crate) guests: HashSet<u64>,
    pub(crate) predecessor: Arc<Predecessor>,
}

impl Succession {
    /// Hears what the old daemon held. From then on it waits for us.
    pub async fn receive(mut stream: UnixStream) -> Result<Self, HandoverError> {
        let (mut rests, mut busy, mut guests) = (HashMap::new(), HashMap::new(), HashSet::new());
        loop {
            match frame::read_from(&mut stream).await? {
                Frame::Rest { instance, in_flight, serves, unread, unwritten } => {
                    if !serves {
                        guests.insert(instance);
                    }
                    rests.insert(instance, Rest { unread, unwritten });
                    busy.insert(instance, in_flight);
                }
                Frame::Yielded => {
                    let (reads, writes): (OwnedReadHalf, OwnedWriteHalf) = stream.into_split();
                    return Ok(Self { rests, guests, predecessor: Predecessor::new(busy, reads, writes) });
                }
                other => return Err(HandoverError::Unexpected(format!("{other:?}"))),
            }
        }
    }
}
