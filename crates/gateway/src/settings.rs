//! What the public face is told once, and every bound it keeps.

use crate::audit::Audit;
use crate::book::Book;
use crate::pass::Leaving;
use std::time::Duration;

/// Whether callers must show a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Every request carries a bearer token.
    Required,
    /// Nobody is asked; every caller is one principal. Only sound on loopback.
    Open,
}

/// The public face's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether callers must show a token.
    pub auth: Auth,
    /// `Host` values that are served, `name` or `name:port`; loopback names are served always.
    pub hosts: Vec<String>,
    /// `Origin` values that are served, `scheme://name[:port]`; loopback origins are served always.
    pub origins: Vec<String>,
    /// Bounds.
    pub limits: Limits,
    /// Tells that another daemon takes over the address.
    pub leaving: Leaving,
    /// Where calls are recorded. `None`: nowhere.
    pub book: Option<Book>,
    /// The ledger, as others may read it. `None`: nobody may.
    pub audit: Option<Audit>,
}

/// Every bound, with its default and why.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest request body, bytes.
    pub body_bytes: usize,
    /// Deepest JSON nesting of a body.
    pub depth: usize,
    /// Largest request head, bytes. 64 KiB holds a long token and every mirrored header.
    pub header_bytes: usize,
    /// Most request headers.
    pub header_count: usize,
    /// How long a request head may take to arrive.
    pub header_timeout: Duration,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// How long a server may take for one call.
    pub call_timeout: Duration,
    /// How long a call may take whose server is allowed more time with each progress notification.
    pub call_timeout_max: Duration,
    /// How long a call of a tool may wait until the list of the server's tools is read, before it goes on without what the
    /// list would have told.
    pub tools_wait: Duration,
    /// How long a client with a session may take to answer what a modern server asks in the middle of a call: a person
    /// may have to be found.
    pub ask_timeout: Duration,
    /// How often a modern server may ask during one call. A person gives up sooner.
    pub rounds: u32,
    /// A POST's event stream opens after this much silence at the latest, so that nothing in between gives up.
    pub stream_after: Duration,
    /// A comment on each open stream this often.
    pub keep_alive: Duration,
    /// A stream of a 2025-11-25 session is closed on purpose after this time, and its client asks for the rest (E77). Off:
    /// each return costs a request, and it only helps where something in between cuts long connections.
    pub poll_after: Option<Duration>,
    /// How long a client may leave its stream unread before it counts as gone.
    pub write_timeout: Duration,
    /// Open connections.
    pub connections: usize,
    /// Long streams (GET and `subscriptions/listen`) of one principal.
    pub streams_per_principal: usize,
    /// Calls of one principal that wait for an answer.
    pub calls_per_principal: usize,
    /// How long a call that has asked its client is held for the answers. People take their time (E147).
    pub held_timeout: Duration,
    /// What a server asks within this time is put to the client together.
    pub held_together: Duration,
    /// How often a server that wants to know hears that its question is still open. Many give up after 60 s of silence.
    pub held_progress: Duration,
    /// How long the end of a held call is kept for a client that asks again.
    pub held_kept: Duration,
    /// How often one call may ask its client.
    pub held_rounds: u32,
    /// Held calls of one principal.
    pub held_per_principal: usize,
    /// Held calls of one server.
    pub held_per_server: usize,
    /// What one call may have asked and not been answered, bytes.
    pub held_bytes: usize,
    /// Answers that are kept for clients that have not come back, bytes in all.
    pub held_memory: usize,
    /// How long a call waits for the turn of its process, where two calls of its kind could not be told apart when the
    /// server asks something.
    pub turn_wait: Duration,
    /// How long calls in flight may finish when the host stops.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 4 << 20,
            depth: 64,
            header_bytes: 64 << 10,
            header_count: 64,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            call_timeout: Duration::from_secs(300),
            call_timeout_max: Duration::from_secs(3600),
            tools_wait: Duration::from_secs(2),
            ask_timeout: Duration::from_secs(600),
            rounds: 8,
            stream_after: Duration::from_secs(3),
            keep_alive: Duration::from_secs(15),
            poll_after: None,
            write_timeout: Duration::from_secs(60),
            connections: 4096,
            streams_per_principal: 4096,
            calls_per_principal: 1024,
            held_timeout: Duration::from_secs(600),
            held_together: Duration::from_millis(15),
            held_progress: Duration::from_secs(20),
            held_kept: Duration::from_secs(60),
            held_rounds: 32,
            held_per_principal: 16,
            held_per_server: 256,
            held_bytes: 1 << 20,
            held_memory: 64 << 20,
            turn_wait: Duration::from_secs(60),
            drain: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// What a body is scanned with.
    pub(crate) fn scan(&self) -> wire::scan::Limits {
        wire::scan::Limits { bytes: self.body_bytes, depth: self.depth }
    }
}
