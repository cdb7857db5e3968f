//! A `subscriptions/listen` of ours at a modern server, on behalf of sessions. One task each: it is sent again to every new
//! process and after every end that nobody asked for, and what may have been missed in between is told. (B16–B18, E159)

use crate::absent::Absent;
use crate::handshake::Introduction;
use crate::instance::Instance;
use crate::mailbox::Item;
use crate::slot::Slot;
use crate::subscriptions::{lists_maybe_changed, maybe_updated, tell_holders, tell_sessions};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use wire::message::Message;
use wire::scan::Place;
use wire::subscription::{self, Filter, List, covers};

/// Before a listen is sent again that a living server has ended.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How long new sessions wait for the first word of a server on its lists.
const SETTLES: Duration = Duration::from_millis(500);

/// A listen that is kept up until [`Listen::end`].
#[derive(Debug)]
pub(crate) struct Listen {
    ended: CancellationToken,
    settled: watch::Receiver<bool>,
}

impl Listen {
    /// Nobody needs it any more.
    pub(crate) fn end(&self) {
        self.ended.cancel();
    }

    /// Whether it is kept up.
    pub(crate) fn lives(&self) -> bool {
        !self.ended.is_cancelled() && self.settled.has_changed().is_ok()
    }

    /// True as soon as the server has said what it honours.
    pub(crate) fn settled(&self) -> watch::Receiver<bool> {
        self.settled.clone()
    }
}

/// Opens one. The receiver gets what the server honours; nothing where it refuses.
pub(crate) fn open(slot: &Arc<Slot>, filter: Filter) -> (Listen, oneshot::Receiver<Option<Filter>>) {
    let (acknowledged, receiver) = oneshot::channel();
    let (settled, settles) = watch::channel(false);
    let ended = CancellationToken::new();
    let acknowledged = Some(acknowledged);
    let upkeep = Upkeep { slot: slot.clone(), filter, acknowledged, settled, ended: ended.clone(), attempt: 0 };
    stdx::task::spawn("listen", upkeep.keep());
    (Listen { ended, settled: settles }, receiver)
}

/// What keeps a listen up.
struct Upkeep {
    slot: Arc<Slot>,
    filter: Filter,
    /// Until the first word of the server.
    acknowledged: Option<oneshot::Sender<Option<Filter>>>,
    settled: watch::Sender<bool>,
    ended: CancellationToken,
    attempt: u32,
}

/// How a listen at one process ended.
enum Turn {
    /// Nobody needs it, or the server refuses it.
    Over,
    /// The process is gone.
    Next,
    /// The server ended it.
    Later,
}

impl Upkeep {
    async fn keep(mut self) {
        loop {
            let turn = match self.ended.run_until_cancelled(self.slot.ready()).await {
                Some(Ok(instance)) => self.listen(&instance).await,
                Some(Err(Absent::Stopped(_))) | None => Turn::Over,
                Some(Err(_not_now)) => Turn::Later,
            };
            match turn {
                Turn::Over => return,
                Turn::Next => {}
                Turn::Later => {
                    self.attempt += 1;
                    let wait = stdx::backoff::delay(AGAIN.0, AGAIN.1, self.attempt, stdx::random::fraction());
                    if self.ended.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    async fn listen(&mut self, instance: &Arc<Instance>) -> Turn {
        let filter = instance.greeting().map_or_else(Filter::default, |g| self.filter.clone().kept_by(g));
        if filter == Filter::default() {
            return self.refused();
        }
        let pending = instance.begin_lasting();
        let mut line = Vec::new();
        let client_info = Introduction::as_host(Bytes::new()).client_info;
        subscription::listen_line(&mut line, pending.id(), &filter, &client_info);
        if pending.send(line).is_err() {
            pending.finish();
            return Turn::Later;
        }
        let patience = stdx::clock::monotonic() + SETTLES;
        loop {
            let waits = !*self.settled.borrow();
            let item = tokio::select! {
                biased;
                () = self.ended.cancelled() => None,
                item = pending.next() => Some(item),
                // Nobody waits for a server that says nothing.
                () = tokio::time::sleep_until(patience.into()), if waits => {
                    self.settled.send_replace(true);
                    continue;
                }
            };
            match item {
                None => {
                    pending.abandon("nobody listens any more");
                    return Turn::Over;
                }
                Some(Item::Note(note)) if subscription::is_acknowledgement(&note) => self.begun(instance, &note),
                Some(Item::Note(note)) => self.heard(instance, &note),
                Some(Item::Answer(_) | Item::Garbled(_)) if self.acknowledged.is_some() => return self.refused(),
                Some(Item::Answer(_) | Item::Garbled(_) | Item::Cancelled) => return Turn::Later,
                // A remote server that lives on must not be asked in a tight loop.
                Some(Item::Gone(report)) if !report.reached => return Turn::Later,
                Some(Item::Gone(_)) => return Turn::Next,
                Some(Item::Ask(_) | Item::Question(_) | Item::Withdrawn(_)) => {}
            }
        }
    }

    fn refused(&mut self) -> Turn {
        // Who waits for it may have gone.
        let _ = self.acknowledged.take().map(|first| first.send(None));
        self.settled.send_replace(true);
        Turn::Over
    }

    /// The server listens: the first time that is an answer, later it hides what happened in between.
    fn begun(&mut self, instance: &Arc<Instance>, note: &Message) {
        self.attempt = 0;
        if let Some(first) = self.acknowledged.take() {
            let _ = first.send(Filter::read(note));
            self.settled.send_replace(true);
            return;
        }
        if !self.filter.lists.is_empty() {
            lists_maybe_changed(instance);
        }
        self.filter.uris.iter().for_each(|uri| maybe_updated(instance, uri));
    }

    fn heard(&self, instance: &Arc<Instance>, note: &Message) {
        if List::of_notification(note.method()).is_some_and(|list| self.filter.lists.contains(&list)) {
            return tell_sessions(instance, note);
        }
        let uri = note.text(Place::Params, "uri").filter(|_| note.method() == "notifications/resources/updated");
        if let Some(uri) = uri {
            for wanted in self.filter.uris.iter().filter(|wanted| covers(wanted, &uri)) {
                tell_holders(instance, note, wanted);
            }
        }
    }
}
