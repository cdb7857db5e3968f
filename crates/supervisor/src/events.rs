//! The event store of one session: what was sent on each of its streams, numbered and kept for a while, so that a client
//! whose connection broke goes on where it stopped. (E129–E134)
//!
//! A stream outlives its connections. A [`Writer`] adds events to it, one [`Reader`] at a time carries them to a
//! connection. What no reader has taken is never dropped while one reads; of the rest the oldest goes first when a bound
//! is reached, and whoever asks for what is gone is told so rather than served with a gap (E133).

mod earlier;

use bytes::Bytes;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use stdx::clock::monotonic;
use tokio::sync::Notify;

/// Events that a reader may be behind before the writer of a call waits for it.
const LAG: u64 = 16;
/// Messages that the reader of a standing stream may be behind: its writer never waits.
const STANDING: usize = 256;
/// Bytes that it may be behind. One message is always taken, however large.
const STANDING_BYTES: usize = 4 << 20;
/// What an event costs beside its bytes.
const OVERHEAD: usize = 64;

/// What a session may keep for clients that come back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Events of all its streams.
    pub(crate) events: usize,
    /// Their bytes.
    pub(crate) bytes: usize,
    /// Streams that nobody reads.
    pub(crate) parked: usize,
    /// How long a finished stream can be resumed.
    pub(crate) keep: Duration,
}

/// Bytes that all sessions of one principal keep.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit })
    }

    fn over(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.limit
    }
}

/// Names one event of a session: the stream, and the place on it. Position 0 is the stream's beginning. (E129)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventId {
    stream: u64,
    position: u64,
}

impl EventId {
    /// The number of its stream.
    pub fn stream(self) -> u64 {
        self.stream
    }

    /// Only what [`fmt::Display`] writes: one spelling for each event.
    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (stream, position) = text.split_once('-')?;
        let number = |part: &str| {
            let value: u64 = part.parse().ok()?;
            (value.to_string() == part).then_some(value)
        };
        Some(Self { stream: number(stream)?, position: number(position)? })
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.stream, self.position)
    }
}

/// The stream cannot be continued after the event that was named: it is not ours, or what followed is no longer kept.
/// Which of them is not said (E132). Blame: caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this event is not known, or what followed it is no longer kept; before you send the request again, look whether it ran"
)]
pub struct NotKept;

/// Nobody will ever read this stream again: its session ended, or too many streams waited for their clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody will read this stream again")]
pub struct StreamGone;

/// What became of a message for a standing stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is on its way.
    Taken,
    /// No connection reads the stream.
    Nobody,
    /// Its reader is too far behind; the message was dropped.
    Behind,
}

/// The streams of one session.
#[derive(Debug)]
pub struct Streams {
    bounds: Bounds,
    budget: Arc<Budget>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    tracks: Vec<Track>,
    /// Streams so far.
    opened: u64,
    /// Events so far: their order over all streams.
    sent: u64,
    /// Readers so far.
    readers: u64,
    /// The stream of what belongs to no request.
    standing: Option<u64>,
    events: usize,
    bytes: usize,
    ended: bool,
}

/// One stream.
#[derive(Debug)]
struct Track {
    number: u64,
    /// Position of the event that comes next.
    next: u64,
    /// The newest events, without a gap.
    kept: VecDeque<Event>,
    reader: Option<Attached>,
    /// Since when nobody reads it.
    parked: Instant,
    done: bool,
    /// Of an earlier daemon, so that nobody knows how many events it had.
    floating: bool,
    room: Arc<Notify>,
}

#[derive(Debug)]
struct Event {
    /// Over all streams of the session.
    order: u64,
    message: Bytes,
}

/// The connection that reads a stream.
#[derive(Debug)]
struct Attached {
    reader: u64,
    /// Position of the last event that it took.
    taken: u64,
    wake: Arc<Notify>,
}

impl Track {
    /// Position of the oldest event that is kept.
    fn first(&self) -> u64 {
        self.next - self.kept.len() as u64
    }

    /// Events that its reader has not taken; none without a reader.
    fn unread(&self) -> u64 {
        self.reader.as_ref().map_or(0, |reader| self.next - 1 - reader.taken)
    }

    fn unread_bytes(&self) -> usize {
        let unread = usize::try_from(self.unread()).unwrap_or(usize::MAX);
        self.kept.iter().rev().take(unread).map(|event| event.message.len()).sum()
    }

    /// Whether its oldest event may go.
    fn expendable(&self) -> bool {
        !self.kept.is_empty() && self.reader.as_ref().is_none_or(|reader| self.first() <= reader.taken)
    }

    fn attach(&mut self, reader: u64, taken: u64) -> Arc<Notify> {
        let wake = Arc::new(Notify::new());
        let before = self.reader.replace(Attached { reader, taken, wake: wake.clone() });
        if let Some(before) = before {
            before.wake.notify_one();
        }
        wake
    }

    fn park(&mut self) {
        self.reader = None;
        self.parked = monotonic();
        self.room.notify_waiters();
    }
}

impl Table {
    fn track(&mut self, number: u64) -> Option<&mut Track> {
        let at = self.tracks.binary_search_by_key(&number, |track| track.number).ok()?;
        self.tracks.get_mut(at)
    }

    fn add_track(&mut self) -> &mut Track {
        self.opened += 1;
        let track = Track {
            number: self.opened,
            next: 1,
            kept: VecDeque::new(),
            reader: None,
            parked: monotonic(),
            done: false,
            floating: false,
            room: Arc::new(Notify::new()),
        };
        self.tracks.push(track);
        let last = self.tracks.len() - 1;
        &mut self.tracks[last]
    }

    fn next_reader(&mut self) -> u64 {
        self.readers += 1;
        self.readers
    }
}

impl Streams {
    /// Its streams have numbers above `first`.
    pub(crate) fn new(bounds: Bounds, budget: Arc<Budget>, first: u64) -> Arc<Self> {
        Arc::new(Self { bounds, budget, table: Mutex::new(Table { opened: first, ..Table::default() }) })
    }

    /// The one stream of a connection that is its session (HTTP+SSE): nothing is kept for later, because there is no
    /// later.
    pub fn channel() -> (Arc<Self>, Writer, Reader) {
        let bounds = Bounds { events: 0, bytes: 0, parked: 0, keep: Duration::ZERO };
        let streams = Self::new(bounds, Budget::new(usize::MAX), 0);
        let (writer, reader) = streams.open();
        streams.table().standing = Some(writer.stream);
        (streams, writer, Reader { standing: true, ..reader })
    }

    /// A stream for one request, and its first reader.
    pub(crate) fn open(self: &Arc<Self>) -> (Writer, Reader) {
        let mut table = self.table();
        let reader = table.next_reader();
        let track = table.add_track();
        let wake = track.attach(reader, 0);
        let (stream, room) = (track.number, track.room.clone());
        if table.ended {
            table.tracks.clear();
        }
        self.tidy(&mut table);
        drop(table);
        let writer = Writer { streams: self.clone(), stream, room };
        (writer, Reader { streams: self.clone(), stream, reader, position: 0, standing: false, wake })
    }

    /// A new standing stream. The older one ends; what no connection has taken from it moves to the new one, so that one
    /// message goes to one stream only (E75).
    pub(crate) fn open_standing(self: &Arc<Self>) -> Reader {
        let (writer, reader) = self.open();
        let reader = Reader { standing: true, ..reader };
        let mut table = self.table();
        let before = table.standing.replace(writer.stream);
        let unread = before.map(|number| self.close(&mut table, number)).unwrap_or_default();
        for message in unread {
            self.add(&mut table, writer.stream, message);
        }
        reader
    }

    /// Removes a stream for good. What its last reader has not taken.
    fn close(&self, table: &mut Table, number: u64) -> Vec<Bytes> {
        let Ok(at) = table.tracks.binary_search_by_key(&number, |track| track.number) else { return Vec::new() };
        let mut track = table.tracks.remove(at);
        let unread = track.unread();
        for event in &track.kept {
            self.forget(table, event);
        }
        if let Some(reader) = track.reader.take() {
            reader.wake.notify_one();
        }
        track.room.notify_waiters();
        let skip = track.kept.len().saturating_sub(usize::try_from(unread).unwrap_or(usize::MAX));
        track.kept.into_iter().skip(skip).map(|event| event.message).collect()
    }

    /// Continues a stream after the event that `last` names. An older reader of it ends.
    pub(crate) fn resume(self: &Arc<Self>, last: &[u8]) -> Result<Reader, NotKept> {
        let id = EventId::parse(last).ok_or(NotKept)?;
        let mut table = self.table();
        self.tidy(&mut table);
        let reader = table.next_reader();
        let standing = table.standing == Some(id.stream);
        let track = table.track(id.stream).ok_or(NotKept)?;
        track.settle(id.position);
        if id.position >= track.next || id.position + 1 < track.first() {
            return Err(NotKept);
        }
        let wake = track.attach(reader, id.position);
        self.evict(&mut table);
        drop(table);
        let (stream, position) = (id.stream, id.position);
        Ok(Reader { streams: self.clone(), stream, reader, position, standing, wake })
    }

    /// Sends on the standing stream, without waiting for anybody.
    pub(crate) fn send(&self, message: Bytes) -> Sent {
        let mut table = self.table();
        let Some(number) = table.standing else { return Sent::Nobody };
        let Some(track) = table.track(number).filter(|track| track.reader.is_some()) else { return Sent::Nobody };
        let unread = track.unread();
        let full = unread >= STANDING as u64 || unread > 0 && track.unread_bytes() + message.len() > STANDING_BYTES;
        if full {
            return Sent::Behind;
        }
        self.add(&mut table, number, message);
        Sent::Taken
    }

    /// Whether a connection reads the standing stream.
    pub(crate) fn standing(&self) -> bool {
        let mut table = self.table();
        let number = table.standing;
        number.and_then(|number| table.track(number)).is_some_and(|track| track.reader.is_some())
    }

    /// Whether a connection reads any stream.
    pub(crate) fn read(&self) -> bool {
        self.table().tracks.iter().any(|track| track.reader.is_some())
    }

    /// Forgets what was kept long enough.
    pub(crate) fn sweep(&self) {
        self.tidy(&mut self.table());
    }

    /// The session is over: every stream ends, nothing is kept.
    pub fn end(&self) {
        let mut table = self.table();
        table.ended = true;
        let numbers: Vec<u64> = table.tracks.iter().map(|track| track.number).collect();
        for number in numbers {
            self.close(&mut table, number);
        }
        table.standing = None;
    }

    fn append(&self, number: u64, message: Bytes, last: bool) -> Result<(), StreamGone> {
        let mut table = self.table();
        if table.track(number).is_none() {
            return Err(StreamGone);
        }
        self.add(&mut table, number, message);
        if last {
            self.finished(&mut table, number);
        }
        Ok(())
    }

    fn add(&self, table: &mut Table, number: u64, message: Bytes) {
        table.sent += 1;
        let order = table.sent;
        let size = message.len() + OVERHEAD;
        let Some(track) = table.track(number) else { return };
        track.next += 1;
        // Its reader knows now where it is.
        track.floating &= track.reader.is_none();
        track.kept.push_back(Event { order, message });
        if let Some(reader) = &track.reader {
            reader.wake.notify_one();
        }
        table.events += 1;
        table.bytes += size;
        self.budget.used.fetch_add(size, Ordering::Relaxed);
        self.evict(table);
    }

    fn finished(&self, table: &mut Table, number: u64) {
        if let Some(track) = table.track(number) {
            track.done = true;
            if let Some(reader) = &track.reader {
                reader.wake.notify_one();
            }
        }
        self.tidy(table);
    }

    /// The oldest events go until the bounds hold. The newest stays for a client that is about to come back, unless the
    /// principal has used up what all its sessions may keep.
    fn evict(&self, table: &mut Table) {
        loop {
            let poor = self.budget.over();
            if !poor && table.events <= self.bounds.events && table.bytes <= self.bounds.bytes {
                return;
            }
            let newest = table.sent;
            let spared = |event: &Event| !poor && event.order == newest && self.bounds.events > 0;
            let oldest = |track: &Track| track.kept.front().filter(|event| !spared(event)).map(|event| event.order);
            let expendable = table.tracks.iter_mut().filter(|track| track.expendable() && oldest(track).is_some());
            let Some(track) = expendable.min_by_key(|track| oldest(track)) else { return };
            let Some(event) = track.kept.pop_front() else { return };
            self.forget(table, &event);
        }
    }

    fn forget(&self, table: &mut Table, event: &Event) {
        let size = event.message.len() + OVERHEAD;
        table.events -= 1;
        table.bytes -= size;
        self.budget.used.fetch_sub(size, Ordering::Relaxed);
    }

    /// Streams that nobody reads: the finished ones go after a while, and of too many the one that waits longest.
    fn tidy(&self, table: &mut Table) {
        let now = monotonic();
        let keep = self.bounds.keep;
        let over = |t: &Track| t.done && t.reader.is_none() && now.saturating_duration_since(t.parked) >= keep;
        let stale: Vec<u64> = table.tracks.iter().filter(|track| over(track)).map(|track| track.number).collect();
        for number in stale {
            self.close(table, number);
        }
        loop {
            let parked = table.tracks.iter().filter(|track| track.reader.is_none());
            if parked.clone().count() <= self.bounds.parked {
                return;
            }
            let Some(number) = parked.min_by_key(|track| track.parked).map(|track| track.number) else { return };
            self.close(table, number);
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sending end of a stream.
#[derive(Clone, Debug)]
pub struct Writer {
    streams: Arc<Streams>,
    stream: u64,
    room: Arc<Notify>,
}

impl Writer {
    /// The number of its stream.
    pub fn stream(&self) -> u64 {
        self.stream
    }

    /// Adds a message. Where its reader is behind, waits for it, `patience` at most; then the reader counts as gone, and
    /// the stream waits for the next one.
    pub async fn send(&self, message: Bytes, patience: Duration) -> Result<(), StreamGone> {
        self.streams.append(self.stream, message, false)?;
        self.caught_up(patience).await;
        Ok(())
    }

    /// Adds the last message.
    pub async fn finish(self, message: Bytes, patience: Duration) -> Result<(), StreamGone> {
        self.streams.append(self.stream, message, true)?;
        self.caught_up(patience).await;
        Ok(())
    }

    /// Nothing follows.
    pub fn close(self) {
        self.streams.finished(&mut self.streams.table(), self.stream);
    }

    async fn caught_up(&self, patience: Duration) {
        let waiting = async {
            loop {
                // Before the look: what happens after it must wake us.
                let moved = self.room.notified();
                if !self.behind() {
                    return;
                }
                moved.await;
            }
        };
        if self.behind() && tokio::time::timeout(patience, waiting).await.is_err() {
            let mut table = self.streams.table();
            if let Some(track) = table.track(self.stream) {
                if let Some(reader) = &track.reader {
                    reader.wake.notify_one();
                }
                track.park();
            }
            self.streams.evict(&mut table);
        }
    }

    fn behind(&self) -> bool {
        self.streams.table().track(self.stream).is_some_and(|track| track.unread() > LAG)
    }
}

/// The receiving end of a stream, on one connection.
#[derive(Debug)]
pub struct Reader {
    streams: Arc<Streams>,
    stream: u64,
    reader: u64,
    position: u64,
    standing: bool,
    wake: Arc<Notify>,
}

enum Look {
    Event(Bytes),
    Nothing,
    End,
}

impl Reader {
    /// The id after which the stream goes on here.
    pub fn position(&self) -> EventId {
        EventId { stream: self.stream, position: self.position }
    }

    /// Whether it carries what belongs to no request, which has no end of its own.
    pub fn is_standing(&self) -> bool {
        self.standing
    }

    /// Whether nothing of the stream was taken yet, by anybody.
    pub fn is_fresh(&self) -> bool {
        self.position == 0
    }

    /// Whether its last event was taken here.
    pub fn is_complete(&self) -> bool {
        let mut table = self.streams.table();
        table.track(self.stream).is_some_and(|track| track.done && self.position + 1 == track.next)
    }

    /// The next message and its id. `None` when the stream is complete, another connection has taken it over, or it is
    /// no longer kept. Cancel-safe.
    pub async fn next(&mut self) -> Option<(EventId, Bytes)> {
        loop {
            match self.look() {
                Look::Event(message) => {
                    self.position += 1;
                    return Some((self.position(), message));
                }
                Look::End => return None,
                Look::Nothing => self.wake.notified().await,
            }
        }
    }

    fn look(&self) -> Look {
        let mut table = self.streams.table();
        let Some(track) = table.track(self.stream) else { return Look::End };
        let (first, done) = (track.first(), track.done);
        let Some(own) = track.reader.as_mut().filter(|attached| attached.reader == self.reader) else {
            return Look::End;
        };
        let at = (self.position + 1).checked_sub(first).and_then(|at| usize::try_from(at).ok());
        let event = at.and_then(|at| track.kept.get(at));
        let Some(message) = event.map(|event| event.message.clone()) else {
            return if done { Look::End } else { Look::Nothing };
        };
        own.taken = self.position + 1;
        track.room.notify_waiters();
        self.streams.evict(&mut table);
        Look::Event(message)
    }

    /// The connection is over. The stream waits for its client to come back.
    pub fn leave(self) {
        let mut table = self.streams.table();
        if let Some(track) = table.track(self.stream)
            && track.reader.as_ref().is_some_and(|attached| attached.reader == self.reader)
        {
            track.park();
        }
        self.streams.evict(&mut table);
        self.streams.tidy(&mut table);
    }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
