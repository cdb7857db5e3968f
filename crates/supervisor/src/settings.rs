//! What the supervisor is told once, and every bound it keeps.

use crate::events::Bounds;
use crate::life::Scribe;
use std::path::PathBuf;
use std::time::Duration;

/// Where and under which name to host.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `<state>/servers`: each server's own state and logs lie below it.
    pub servers_dir: PathBuf,
    /// Random name of this state directory: marks every process that belongs to it.
    pub identity: String,
    /// Base of public addresses, without a path.
    pub public_url: String,
    /// Bounds.
    pub limits: Limits,
    /// Who records what becomes of processes. `None`: nobody.
    pub scribe: Option<Scribe>,
}

/// Every bound, with its default and why.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Longest line that a server may write, bytes. A server that exceeds it is restarted: the stream cannot be
    /// trusted after it. 16 MiB holds an image in Base64.
    pub line_bytes: usize,
    /// Bytes that may wait for one server's stdin before calls are refused.
    pub queue_bytes: usize,
    /// Bytes of notifications that may wait for one slow caller before the oldest are dropped.
    pub mailbox_bytes: usize,
    /// How long a start may take until the handshake is answered. A first `npx` installs packages meanwhile.
    pub start_timeout: Duration,
    /// How long the probe of the era waits for an answer before it takes silence for "legacy".
    pub probe_timeout: Duration,
    /// How long a call waits for an instance that is starting or restarting.
    pub ready_wait: Duration,
    /// A server that was not heard for this long, and has no call that explains it, is asked whether it lives.
    pub quiet: Duration,
    /// How long the answer to that may take.
    pub probe_deadline: Duration,
    /// How long a stopping server has after its stdin closed, and again after SIGTERM.
    pub stop_grace: Duration,
    /// How long calls in flight may finish before a process that is to be replaced or stopped is ended.
    pub drain: Duration,
    /// How long a process that was taken over from an earlier daemon may be silent: it may be at work for callers that
    /// nobody knows.
    pub inherited_calls: Duration,
    /// The same where progress extends the time of calls. Both count for servers without times of their own.
    pub inherited_calls_max: Duration,
    /// An instance without calls, sessions and streams for this long is stopped; the next call starts it again.
    pub idle_ttl: Duration,
    /// What an instance may take where its server says nothing.
    pub instance: model::Bounds,
    /// Processes of one server.
    pub instances_per_server: u32,
    /// Processes of one server that one principal may have: nobody takes the whole server from the others.
    pub instances_per_principal: u32,
    /// Processes in all.
    pub instances: u32,
    /// Processes of one `exclusive` pool.
    pub pool: u32,
    /// Resources that the clients of one process may be subscribed to: each update is compared with all of them.
    pub subscriptions: u32,
    /// Legacy sessions in all.
    pub sessions: u32,
    /// Legacy sessions of one principal.
    pub sessions_per_principal: u32,
    /// A session without a request and without a stream for this long ends.
    pub session_idle: Duration,
    /// How long a request of a server waits for its client to open a stream. Some clients never do, and their servers must
    /// not wait for ever.
    pub ask_waits: Duration,
    /// Events of one session that are kept for a client whose connection broke.
    pub replay_events: u32,
    /// Their bytes. 1 MiB holds what a call says in the seconds that a client needs to come back; the newest event is
    /// kept whatever its size.
    pub replay_bytes: usize,
    /// Bytes that all sessions of one principal keep: ten thousand sessions must not take the host's memory.
    pub replay_bytes_per_principal: usize,
    /// Streams of one session that wait for their client to come back; of more, the one that waits longest goes.
    pub replay_streams: u32,
    /// How long a stream can be resumed after its response was sent. A client that missed it asks within seconds.
    pub replay_keep: Duration,
    /// Size at which a server's log is rotated, bytes; one older file is kept.
    pub log_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line_bytes: 16 << 20,
            queue_bytes: 8 << 20,
            mailbox_bytes: 4 << 20,
            start_timeout: Duration::from_secs(120),
            probe_timeout: Duration::from_secs(5),
            ready_wait: Duration::from_secs(60),
            quiet: Duration::from_secs(30),
            probe_deadline: Duration::from_secs(10),
            stop_grace: Duration::from_secs(2),
            drain: Duration::from_secs(10),
            inherited_calls: Duration::from_secs(300),
            inherited_calls_max: Duration::from_secs(3600),
            idle_ttl: Duration::from_secs(15 * 60),
            instance: model::Bounds::host_defaults(),
            instances_per_server: 64,
            instances_per_principal: 32,
            instances: 256,
            pool: 8,
            subscriptions: 4096,
            sessions: 20_000,
            sessions_per_principal: 10_000,
            session_idle: Duration::from_secs(30 * 60),
            ask_waits: Duration::from_secs(60),
            replay_events: 1024,
            replay_bytes: 1 << 20,
            replay_bytes_per_principal: 64 << 20,
            replay_streams: 16,
            replay_keep: Duration::from_secs(5 * 60),
            log_bytes: 8 << 20,
        }
    }
}

impl Limits {
    pub(crate) fn replay(&self) -> Bounds {
        Bounds {
            events: self.replay_events as usize,
            bytes: self.replay_bytes,
            parked: self.replay_streams as usize,
            keep: self.replay_keep,
        }
    }
}
