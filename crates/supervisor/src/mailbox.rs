//! What a server says to one call, on its way to whoever waits for it. Bounded, and never waits for the reader: a slow
//! caller loses its own oldest notifications, and nobody else waits for it.

use crate::asks::Question;
use crate::attribution::Attribution;
use bytes::Bytes;
use model::{Blame, ServerName};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;
use wire::message::Message;

/// One thing that happened to a call.
#[derive(Debug)]
pub enum Item {
    /// A notification that belongs to the call.
    Note(Message),
    /// A request of the server to the client, already numbered for the client.
    Ask(Vec<u8>),
    /// A request of the server that the call's modern client shall answer in a round.
    Question(Question),
    /// The server took back the question with this id of its own.
    Withdrawn(Bytes),
    /// The answer. Nothing follows.
    Answer(Message),
    /// The process is gone. Nothing follows.
    Gone(ExitReport),
    /// The server answered with something that is no answer; the text says what.
    Garbled(String),
    /// The client took the call back with a notification. The answer may still come.
    Cancelled,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitReport {
    /// Whose process.
    pub server: ServerName,
    /// `exit status 3`, `killed by signal 9`, or why staithe ended it.
    pub status: String,
    /// The last line on stderr, at most 500 bytes.
    pub last_stderr: Option<String>,
    /// It ended because staithe was told to end it: a restart, a stop, or the end of the host.
    pub asked: bool,
    /// False where a remote server could not be reached or answered nothing that counts; it may well live on.
    pub reached: bool,
    /// Nobody knows how the process is: another daemon had it, and went away.
    pub unheard: bool,
    /// The host's own doing: its keeper ended, or another daemon that had it was told to end it.
    pub by_host: bool,
    /// The call that hears this was never sent: it did not run. Otherwise it may have.
    pub unsent: bool,
}

impl ExitReport {
    /// Who has to act: what staithe did, or what became of staithe, is no fault of the server.
    pub fn blame(&self) -> Blame {
        if self.asked || self.unheard || self.by_host { Blame::Host } else { Blame::Server }
    }
}

impl fmt::Display for ExitReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.unheard {
            return write!(f, "nobody heard the end of the call to the server {}: {}", self.server, self.status);
        }
        let what = if self.reached { "ended" } else { "gave no answer" };
        write!(f, "the server {} {what} ({})", self.server, self.status)?;
        match &self.last_stderr {
            Some(line) => write!(f, "; its last words: {line}"),
            None => Ok(()),
        }
    }
}

/// The queue of one call.
#[derive(Debug)]
pub(crate) struct Mailbox {
    inbox: Mutex<Inbox>,
    arrived: Notify,
    limit: usize,
}

#[derive(Debug, Default)]
struct Inbox {
    items: VecDeque<Item>,
    attribution: Option<Attribution>,
    bytes: usize,
}

/// Requests of a server, and words about them, that may wait for one call. A server has fewer open than this: what is more,
/// it has taken back.
const MOST_ASKS: usize = 256;

impl Inbox {
    /// A server that asks and takes back without end must fill no memory. True where nothing is left to add.
    fn takes_back(&mut self, item: &Item) -> bool {
        match item {
            Item::Withdrawn(id) => {
                let unread = self.items.iter().position(|item| matches!(item, Item::Question(asked) if asked.is(id)));
                unread.and_then(|at| self.items.remove(at)).is_some()
            }
            Item::Ask(_) => {
                let asks = self.items.iter().filter(|item| matches!(item, Item::Ask(_))).count();
                let oldest = self.items.iter().position(|item| matches!(item, Item::Ask(_)));
                if let Some(at) = oldest.filter(|_| asks >= MOST_ASKS) {
                    self.items.remove(at);
                }
                false
            }
            _ => false,
        }
    }
}

impl Mailbox {
    pub(crate) fn new(limit: usize) -> Self {
        Self { inbox: Mutex::default(), arrived: Notify::new(), limit }
    }

    /// Adds `item`. Where notifications exceed the limit, the oldest notification goes (E153: keep the last).
    pub(crate) fn push(&self, item: Item) {
        // A note may wait for its slow caller, so it must hold no more memory than is counted.
        let item = if let Item::Note(message) = item { Item::Note(message.detached()) } else { item };
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if inbox.takes_back(&item) {
            return;
        }
        inbox.bytes += size(&item);
        inbox.items.push_back(item);
        while inbox.bytes > self.limit {
            let Some(at) = inbox.items.iter().position(|item| matches!(item, Item::Note(_))) else { break };
            if let Some(dropped) = inbox.items.remove(at) {
                inbox.bytes -= size(&dropped);
            }
        }
        drop(inbox);
        self.arrived.notify_one();
    }

    /// The next item. Cancel-safe.
    pub(crate) async fn next(&self) -> Item {
        loop {
            if let Some(item) = self.take() {
                return item;
            }
            self.arrived.notified().await;
        }
    }

    /// A request of the server was taken to belong to this call. The least certain such word counts.
    pub(crate) fn attributed(&self, how: Attribution) {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        inbox.attribution = inbox.attribution.max(Some(how));
    }

    pub(crate) fn attribution(&self) -> Option<Attribution> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).attribution
    }

    /// Nobody takes anything from it any more: questions in it hear so.
    pub(crate) fn close(&self) {
        while let Some(item) = self.take() {
            if let Item::Question(question) = item {
                question.unanswered("the call is over");
            }
        }
    }

    fn take(&self) -> Option<Item> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let item = inbox.items.pop_front()?;
        inbox.bytes -= size(&item);
        Some(item)
    }
}

/// What counts against the limit: only what a server can send without end.
fn size(item: &Item) -> usize {
    match item {
        Item::Note(message) => message.bytes().len() + 256,
        Item::Ask(_)
        | Item::Question(_)
        | Item::Withdrawn(_)
        | Item::Answer(_)
        | Item::Gone(_)
        | Item::Garbled(_)
        | Item::Cancelled => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_asks_and_takes_back_without_end_fills_no_memory() {
        let mailbox = Mailbox::new(1 << 20);
        for n in 0..10_000_u32 {
            mailbox.push(Item::Ask(n.to_string().into_bytes()));
        }
        for n in 10_000 - 256..10_000_u32 {
            let item = mailbox.next().await;
            assert!(matches!(&item, Item::Ask(body) if *body == n.to_string().into_bytes()), "{item:?}");
        }
        assert!(tokio::time::timeout(std::time::Duration::from_millis(1), mailbox.next()).await.is_err());
    }
    use wire::scan::{Limits, Side};

    #[tokio::test]
    async fn a_waiting_note_does_not_keep_the_buffer_that_it_came_in() {
        let line = br#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#;
        let mut raw = line.to_vec();
        raw.resize(256 << 10, b' ');
        let buffer = Bytes::from(raw);
        let limits = Limits { bytes: 1 << 20, depth: 64 };
        let message = Message::parse(buffer.slice(..line.len()), Side::Server, &limits).unwrap();
        let mailbox = Mailbox::new(1 << 20);
        mailbox.push(Item::Note(message));
        assert!(buffer.is_unique(), "the note holds the whole buffer");
        let item = mailbox.next().await;
        assert!(matches!(&item, Item::Note(note) if note.bytes()[..] == line[..]), "{item:?}");
    }
}
