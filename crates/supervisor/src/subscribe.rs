//! Subscriptions as the gateway asks for them: at the process of a lease, or at whichever process has them; and how a new
//! generation takes them over from the one before.

use crate::absent::Absent;
use crate::hosted::Hosted;
use crate::instance::{Instance, Unanswered};
use crate::lease::Lease;
use crate::session::Session;
use crate::slot::Slot;
use crate::subscriptions::{Listening, PATIENCE, Subscribed, Who, lists_maybe_changed, maybe_updated};
use std::sync::Arc;
use wire::bridge::{self, Leg};
use wire::era::Era;
use wire::message::Message;
use wire::subscription::Filter;

impl Lease {
    /// Subscribes a session to `uri`. The first one's request reaches a legacy server as it is.
    pub async fn subscribe(&self, session: &Arc<Session>, uri: String, words: Option<Message>) -> Subscribed {
        self.slot().subscribe(self.instance(), Who::Session(session.clone()), uri, words).await
    }

    /// Brings a request of a session about its subscriptions to a legacy server that has no business with it here.
    pub async fn forward(&self, words: &Message) -> Result<Message, Unanswered> {
        let line = |line: &mut Vec<u8>, id| bridge::request_line(line, words, Leg::LegacyToLegacy, id, None);
        self.instance().request(line, PATIENCE).await
    }

    /// Opens a modern client's listen at a legacy server.
    pub fn listen(&self, filter: Filter) -> Result<Listening, Absent> {
        Listening::open(self.slot(), self.instance(), filter)
    }

    /// Waits until changes of the server's lists are heard of, but not for ever.
    pub async fn heard(&self) {
        self.slot().heard().await;
    }
}

impl Hosted {
    /// Whether a session is subscribed to `uri` at one of the processes, or was at one that sleeps.
    pub fn subscribed(&self, session: &Arc<Session>, uri: &str) -> bool {
        let asleep = self.dormant.holds(session.id()) && session.subscriptions().iter().any(|held| held == uri);
        asleep || self.all_slots().iter().any(|slot| slot.context.subscriptions.holds(session.id(), uri))
    }

    /// The process that would hear that a session ends its subscription.
    pub fn subscribed_at(&self, session: &Session, uri: &str) -> Option<Arc<Instance>> {
        let holds = |slot: &Arc<Slot>| slot.context.subscriptions.holds(session.id(), uri);
        self.all_slots().into_iter().find(holds)?.serving()
    }

    /// Ends a session's subscription. `None` where the server need not hear of it.
    pub async fn unsubscribe(
        &self,
        session: &Arc<Session>,
        uri: &str,
        words: Message,
    ) -> Option<Result<Message, Unanswered>> {
        session.unsubscribe(uri).await;
        let holds = |slot: &Arc<Slot>| slot.context.subscriptions.holds(session.id(), uri);
        let slot = self.all_slots().into_iter().find(holds)?;
        slot.leave(&Who::Session(session.clone()), uri, Some(words)).await
    }

    /// This generation takes the place of `earlier`: sessions hear that lists may have changed, and what they subscribed to
    /// is subscribed to again.
    pub(crate) fn inherit(self: &Arc<Self>, earlier: &Self, sessions: Vec<Arc<Session>>) {
        for instance in earlier.all_slots().iter().filter_map(|slot| slot.serving()) {
            lists_maybe_changed(&instance);
        }
        self.rejoin(sessions);
    }

    /// What these sessions subscribed to before this server was hosted as it is now is subscribed to again.
    pub(crate) fn rejoin(self: &Arc<Self>, sessions: Vec<Arc<Session>>) {
        if !self.spec().enabled {
            return;
        }
        for session in sessions {
            self.subscribe_again(&session);
        }
    }

    /// What a session subscribed to at a process that is gone is subscribed to at the one that follows.
    pub(crate) fn subscribe_again(self: &Arc<Self>, session: &Arc<Session>) {
        let uris = session.subscriptions();
        if uris.is_empty() {
            return;
        }
        let (hosted, session) = (self.clone(), session.clone());
        stdx::task::spawn("subscribe again", async move { hosted.resubscribe(&session, uris).await });
    }

    async fn resubscribe(self: &Arc<Self>, session: &Arc<Session>, uris: Vec<String>) {
        let Ok(era) = self.era_for(Era::Legacy).await else { return };
        let Ok(lease) = self.lease(session.caller(), Some(session), era).await else { return };
        for uri in uris {
            lease.subscribe(session, uri.clone(), None).await;
            maybe_updated(lease.instance(), &uri);
        }
        lease.release();
    }
}
