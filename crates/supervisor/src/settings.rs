//! What the supervisor is told once, and every bound it keeps.

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
    /// How long a stopping server has after its stdin closed, and again after SIGTERM.
    pub stop_grace: Duration,
    /// How long calls in flight may finish before a process that is to be replaced or stopped is ended.
    pub drain: Duration,
    /// An instance without calls, sessions and streams for this long is stopped; the next call starts it again.
    pub idle_ttl: Duration,
    /// Processes of one server.
    pub instances_per_server: u32,
    /// Processes of one server that one principal may have: nobody takes the whole server from the others.
    pub instances_per_principal: u32,
    /// Processes in all.
    pub instances: u32,
    /// Processes of one `exclusive` pool.
    pub pool: u32,
    /// Legacy sessions in all.
    pub sessions: u32,
    /// Legacy sessions of one principal.
    pub sessions_per_principal: u32,
    /// A session without a request and without a stream for this long ends.
    pub session_idle: Duration,
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
            stop_grace: Duration::from_secs(2),
            drain: Duration::from_secs(10),
            idle_ttl: Duration::from_secs(15 * 60),
            instances_per_server: 64,
            instances_per_principal: 32,
            instances: 256,
            pool: 8,
            sessions: 20_000,
            sessions_per_principal: 10_000,
            session_idle: Duration::from_secs(30 * 60),
            log_bytes: 8 << 20,
        }
    }
}
