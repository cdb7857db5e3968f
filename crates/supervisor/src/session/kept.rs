//! What is kept of a session beyond the daemon that opened it, and how it comes back. Its writes are waited for, so that
//! nobody is told what a crash could lose; those that fail are logged, and the session goes on in memory.

use super::{Session, State};
use crate::events::{Budget, Reader, Streams};
use crate::key::Caller;
use crate::level::Level;
use crate::settings::Limits;
use bytes::Bytes;
use model::{OpenCall, SessionRecord};
use std::future::Future;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use store::{Store, StoreError};
use tokio_util::sync::CancellationToken;
use wire::bridge::Leg;
use wire::era::Revision;

/// A call that is sent, as far as another daemon must know it to bring its client the end.
#[derive(Clone, Debug)]
pub struct Underway {
    /// The request id that the server knows.
    pub upstream: u64,
    /// The process that has it.
    pub instance: u64,
    /// The eras at both ends.
    pub leg: Leg,
    /// The request id as the client spelled it.
    pub client_id: Bytes,
    /// The method.
    pub method: String,
    /// When its time is up, Unix milliseconds.
    pub deadline_ms: i64,
}

impl Session {
    /// As it is kept when it was just opened. `None` for one that is a connection.
    pub(super) fn record(&self) -> Option<SessionRecord> {
        self.kept.as_ref()?;
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        Some(SessionRecord {
            id: self.id.clone(),
            server: self.server.clone(),
            principal: self.caller.principal.clone(),
            client: self.caller.client.clone(),
            revision: self.revision.as_str().to_owned(),
            capabilities: text(&self.caller.profile),
            client_info: text(&self.client_info),
            label: self.label.clone(),
            level: None,
            standing: None,
            opened_at_ms: self.opened_at_ms,
            used_at_ms: self.opened_at_ms,
            subscriptions: Vec::new(),
        })
    }

    /// A session that another daemon opened, used last at `used_at_ms`. `None` where this one cannot read its record.
    pub(super) fn restored(
        record: SessionRecord,
        used_at_ms: i64,
        place: Place<'_>,
        budget: Arc<Budget>,
    ) -> Option<Self> {
        let revision = Revision::parse(&record.revision)?;
        let client_info = Bytes::from(record.client_info);
        let bounds = place.limits.replay();
        let streams = record.standing.map(|number| {
            let streams = Streams::new(bounds, budget.clone(), place.first_stream);
            streams.adopt(number, true);
            streams
        });
        Some(Self {
            caller: Caller {
                principal: record.principal,
                client: record.client,
                session: Some(record.id.clone()),
                profile: Bytes::from(record.capabilities),
                client_info: Some(client_info.clone()),
            },
            id: record.id,
            server: record.server,
            revision,
            client_info,
            label: record.label,
            opened_at_ms: record.opened_at_ms,
            last_used_ms: AtomicI64::new(used_at_ms),
            kept_used_ms: AtomicI64::new(used_at_ms),
            next_ask: AtomicU64::new(place.first_stream.max(1)),
            ended: CancellationToken::new(),
            streams: streams.map(OnceLock::from).unwrap_or_default(),
            first_stream: place.first_stream,
            channel: false,
            bounds,
            ask_waits: place.limits.ask_waits,
            budget,
            kept: Some(place.store.clone()),
            state: Mutex::new(State {
                level: record.level.as_deref().and_then(Level::parse),
                subscriptions: record.subscriptions.into_iter().collect(),
                ..State::default()
            }),
        })
    }

    /// Opens the session's GET stream, with what waited for it. An older stream ends: one message goes to one stream
    /// only (E75), and a client that comes back may have left a dead connection behind.
    pub async fn open_stream(&self) -> Reader {
        let reader = self.open_standing();
        let number = reader.position().stream();
        self.keep_in(async |store| store.set_standing_stream(&self.id, number).await).await;
        reader
    }

    /// Its client asked for messages of at least `level`.
    pub async fn set_level(&self, level: Level) {
        self.state().level = Some(level);
        self.keep_in(async |store| store.set_session_level(&self.id, level.as_str()).await).await;
    }

    /// Its client subscribed to `uri`: processes of later generations will be too, up to a limit.
    pub async fn subscribe(&self, uri: &str) {
        if self.note_subscription(uri) {
            self.keep_in(async |store| store.add_session_subscription(&self.id, uri).await).await;
        }
    }

    /// Its client no longer wants `uri`.
    pub async fn unsubscribe(&self, uri: &str) {
        if self.state().subscriptions.remove(uri) {
            self.keep_in(async |store| store.end_session_subscription(&self.id, uri).await).await;
        }
    }

    /// Keeps what is needed to end the call on `stream` after this daemon. To be done before the client hears of the
    /// stream, and again where the call is sent again.
    pub async fn keep_call(&self, stream: u64, call: &Underway) {
        let Some(leg) = crate::orphans::word(call.leg).filter(|_| self.kept.is_some()) else { return };
        let kept = OpenCall {
            session: self.id.clone(),
            stream,
            upstream: call.upstream,
            instance: call.instance,
            server: self.server.clone(),
            client_id: String::from_utf8_lossy(&call.client_id).into_owned(),
            method: call.method.clone(),
            leg: leg.to_owned(),
            deadline_ms: call.deadline_ms,
        };
        self.state().kept_calls.insert(stream);
        self.keep_in(async |store| store.put_open_call(kept).await).await;
    }

    /// The call on `stream` has its answer, which another daemon will not get.
    pub async fn call_answered(&self, stream: u64) {
        if self.state().kept_calls.contains(&stream) {
            self.keep_in(async |store| store.open_call_answered(&self.id, stream).await).await;
        }
    }

    /// Its client has the answer, or can no longer come back for it.
    pub async fn call_over(&self, stream: u64) {
        if self.state().kept_calls.remove(&stream) {
            self.keep_in(async |store| store.end_open_call(&self.id, stream).await).await;
        }
    }

    /// Streams that are gone, and whose calls are kept still.
    pub(super) fn lost_calls(&self) -> Vec<u64> {
        let kept = self.state().kept_calls.clone();
        if kept.is_empty() {
            return Vec::new();
        }
        self.streams.get().map_or_else(|| kept.iter().copied().collect(), |streams| streams.lost(kept.iter().copied()))
    }

    /// Takes over the stream of a call that an earlier daemon sent. Whether it is new here.
    pub(crate) fn adopt_stream(&self, number: u64) -> bool {
        let new = self.state().kept_calls.insert(number);
        if new {
            self.streams().adopt(number, false);
        }
        new
    }

    /// Calls that are kept and have ended: their streams, and the last events of those.
    pub(crate) fn answered(&self) -> Vec<(u64, Bytes)> {
        let kept: Vec<u64> = self.state().kept_calls.iter().copied().collect();
        let Some(streams) = self.streams.get().filter(|_| !kept.is_empty()) else { return Vec::new() };
        kept.into_iter().filter_map(|stream| Some((stream, streams.last(stream)?))).collect()
    }

    /// Such a stream ends without another event.
    pub(crate) fn close_adopted(&self, number: u64) {
        self.streams().close_adopted(number);
    }

    /// The last event of such a stream.
    pub(crate) fn finish_adopted(&self, number: u64, message: Vec<u8>) {
        if self.streams().finish_adopted(number, message.into()).is_err() {
            tracing::debug!(server = %self.server, "the answer to a call of an earlier daemon has nobody to come for it");
        }
    }

    /// When it was used last, if that is not kept yet. One that is read is in use.
    pub(super) fn unkept_use(&self) -> Option<i64> {
        self.kept.as_ref()?;
        let used = self.idle_since_ms().unwrap_or_else(stdx::clock::unix_ms);
        (used > self.kept_used_ms.load(Ordering::Relaxed)).then_some(used)
    }

    /// The time of its use is kept.
    pub(super) fn use_is_kept(&self, at_ms: i64) {
        self.kept_used_ms.store(at_ms, Ordering::Relaxed);
    }

    async fn keep_in<'a, F>(&'a self, write: impl FnOnce(&'a Store) -> F)
    where
        F: Future<Output = Result<(), StoreError>>,
    {
        let Some(store) = &self.kept else { return };
        if let Err(error) = write(store).await {
            let error = stdx::chain::Chain(&error);
            tracing::warn!(server = %self.server, %error, "a change of a session is not kept and ends with this daemon");
        }
    }
}

/// Where sessions live.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) limits: &'a Limits,
    pub(super) store: &'a Store,
    /// Streams of this daemon are numbered from here on: none has the number of an earlier daemon's.
    pub(super) first_stream: u64,
}
