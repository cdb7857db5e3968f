//! A registered call while it waits.

use crate::attribution::Subject;
use crate::instance::Wish;
use crate::mailbox::Mailbox;
use crate::session::Session;
use crate::verdict::Open;
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stdx::clock::monotonic;

/// A call that waits for its answer.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) wish: Wish,
    pub(crate) session: Option<Arc<Session>>,
    pub(crate) client_id: Bytes,
    pub(crate) subject: Subject,
    /// The task that it runs as, if it does.
    pub(crate) task: Option<String>,
    /// The server's ids of the questions that its client has not answered.
    pub(crate) asked: Vec<Bytes>,
    pub(crate) stage: Stage,
    /// When it was sent, or its time began anew.
    sent: Instant,
    /// What the server has for it.
    pub(crate) time: Option<Duration>,
    /// The server waits for the client.
    pub(crate) parked: bool,
}

/// What a registered call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its answer.
    Sent,
    /// Something of its client: the server has not heard of it.
    Reserved,
    /// The end of a subscription, which may never come.
    Lasting,
}

impl Waiting {
    pub(crate) fn new(
        mailbox: Arc<Mailbox>,
        wish: Wish,
        session: Option<Arc<Session>>,
        client_id: Bytes,
        subject: Subject,
        stage: Stage,
    ) -> Self {
        let (sent, time, parked) = (monotonic(), None, false);
        Self { mailbox, wish, session, client_id, subject, task: None, asked: Vec::new(), stage, sent, time, parked }
    }

    /// The call as the watchdog sees it. What is not sent, or has all the time there is, says nothing about the server.
    pub(crate) fn open(&self) -> Option<Open> {
        let time = self.time.filter(|_| self.stage == Stage::Sent)?;
        Some(Open { sent: self.sent, due: (!self.parked).then(|| self.sent + time) })
    }

    pub(crate) fn begins_anew(&mut self, time: Option<Duration>) {
        self.sent = monotonic();
        self.time = time;
    }

    /// A subscription: no call, and no reason to wait when the process is to stop.
    pub(crate) fn lasts(&self) -> bool {
        self.stage == Stage::Lasting
    }

    /// What we ask ourselves (handshakes, lists of tools) has no client, and so no client's id.
    pub(crate) fn of_a_client(&self) -> bool {
        !self.client_id.is_empty()
    }
}
