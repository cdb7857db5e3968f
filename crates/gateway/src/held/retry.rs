//! The request that comes back to a held call: verified, recorded, and handed to the task of its call.

use super::table::Voice;
use crate::admit::Admitted;
use crate::book::Going;
use crate::error::CallError;
use crate::listen::Host;
use crate::modern::fail;
use crate::permit::Permit;
use crate::reply::Reply;
use bytes::Bytes;
use model::record::CallId;
use std::sync::Arc;
use supervisor::{Caller, Instance, Level};
use tokio::sync::mpsc;
use wire::ask;
use wire::era::Era;
use wire::message::Message;
use wire::scan::Span;

/// A request that comes with a state of ours.
pub(crate) enum Came {
    /// Back to its held call.
    Back(Box<Retrying>),
    /// To be made anew (B6).
    Anew,
}

/// A verified retry, and where its call is.
pub(crate) struct Retrying {
    to: mpsc::Sender<Retry>,
    message: Message,
    profile: Bytes,
    level: Option<Level>,
    answers: Vec<(String, Span)>,
}

pub(super) struct Retry {
    pub(super) reply: Reply,
    pub(super) message: Message,
    pub(super) profile: Bytes,
    pub(super) level: Option<Level>,
    pub(super) answers: Vec<(String, Span)>,
    pub(super) permit: Permit,
}

/// Records that a retry goes on with the call `first`. `None` where that could not be recorded: its client was told.
pub(super) async fn recorded(
    host: &Host,
    mut retry: Retry,
    instance: &Arc<Instance>,
    first: Option<CallId>,
) -> Option<Retry> {
    let Some(book) = &host.settings.book else { return Some(retry) };
    let going = Going { message: &retry.message, session: None, instance, follows: first, receipt: false };
    match book.intend(&retry.permit, going).await {
        Ok(intent) => {
            retry.reply.course().intends(intent);
            Some(retry)
        }
        Err(unrecorded) => {
            let Retry { reply, message, .. } = retry;
            fail(reply, &unrecorded.into(), Era::Modern, message.id().as_deref()).await;
            None
        }
    }
}

/// What a request with `requestState` comes back to. One refusal for every reason: whoever has a state that is not his
/// learns nothing. (E170, E171, E176, E197)
pub(crate) fn retry(
    host: &Host,
    admitted: &Admitted,
    caller: &Caller,
    message: &Message,
    level: Option<Level>,
) -> Result<Option<Came>, CallError> {
    let Some(state) = ask::state(message) else { return Ok(None) };
    let state = state.ok_or(CallError::State)?;
    let voice = Voice::asking(admitted.server(), caller, message);
    let ticket = voice.open(&host.held, &state).ok_or(CallError::State)?;
    let answers = ask::answers(message).map_err(|ask::Malformed| CallError::Answers)?;
    let Some(id) = ticket.held else { return Ok(Some(Came::Anew)) };
    let to = host.held.find(&id, &voice, ticket.instance).ok_or(CallError::State)?;
    let (message, profile) = (message.clone(), caller.profile.clone());
    Ok(Some(Came::Back(Box::new(Retrying { to, message, profile, level, answers }))))
}

impl Retrying {
    /// Hands the request to the task of its call.
    pub(crate) async fn attach(self, permit: Permit, reply: Reply) {
        let Self { to, message, profile, level, answers } = self;
        let retry = Retry { reply, message, profile, level, answers, permit };
        if let Err(mpsc::error::TrySendError::Full(retry) | mpsc::error::TrySendError::Closed(retry)) =
            to.try_send(retry)
        {
            fail(retry.reply, &CallError::State, Era::Modern, retry.message.id().as_deref()).await;
        }
    }
}

impl std::fmt::Debug for Retry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Retry")
    }
}
