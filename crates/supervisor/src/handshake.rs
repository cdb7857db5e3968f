//! The first words with a new process: `initialize` for a legacy one, `server/discover` for a modern one. Callers never
//! repeat them: the recorded answer serves every client of the process, and every restart repeats them by itself.

use crate::instance::{Instance, Wish};
use crate::level::Level;
use crate::mailbox::Item;
use bytes::Bytes;
use std::sync::Arc;
use wire::era::{Era, Revision};
use wire::greeting::{self, Greeting};
use wire::message::{Message, Shape};
use wire::scan::Place;

/// What a process is told about its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Introduction {
    /// Canonical capabilities.
    pub(crate) profile: Bytes,
    /// Raw `clientInfo`.
    pub(crate) client_info: Bytes,
    /// The revision to offer a legacy server.
    pub(crate) revision: Revision,
}

impl Introduction {
    /// staithe itself, able to do `profile`.
    pub(crate) fn as_host(profile: Bytes) -> Self {
        Self { profile, client_info: Bytes::from_static(CLIENT_INFO), revision: Revision::LATEST_LEGACY }
    }
}

/// What we call ourselves.
pub(crate) const CLIENT_INFO: &[u8] =
    concat!(r#"{"name":"staithe","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#).as_bytes();

/// Why a process did not get through its handshake.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("{0}")]
    Ended(String),
    #[error("it refused the handshake: {message}")]
    Refused { message: String, code: Option<i64> },
    #[error("its answer to the handshake is not valid: {0}")]
    Invalid(&'static str),
}

/// The whole handshake.
pub(crate) async fn greet(instance: &Arc<Instance>, introduction: &Introduction) -> Result<(), HandshakeError> {
    meet(instance, introduction).await?;
    settle(instance).await
}

/// Says the first words and records the answer in the instance.
pub(crate) async fn meet(instance: &Arc<Instance>, introduction: &Introduction) -> Result<(), HandshakeError> {
    let pending = instance.begin(Bytes::new(), Wish::Nothing, None);
    let line = match instance.era() {
        Era::Legacy => {
            let Introduction { profile, client_info, revision } = introduction;
            greeting::initialize_line(pending.id(), profile, client_info, *revision)
        }
        Era::Modern => greeting::discover_line(pending.id(), &introduction.client_info),
    };
    let outcome = match pending.send(line) {
        Ok(()) => answer(&pending).await,
        // Why it ended follows as the fate of the process.
        Err(stalled) => Err(HandshakeError::Ended(stalled.to_string())),
    };
    pending.finish();
    let result = outcome?;
    let greeting =
        Greeting::new(instance.era(), result).ok_or(HandshakeError::Invalid("required members are missing"))?;
    instance.greeted(greeting);
    Ok(())
}

/// Says the last words, after which the server may ask something.
pub(crate) async fn settle(instance: &Arc<Instance>) -> Result<(), HandshakeError> {
    if instance.era() == Era::Legacy {
        instance.send(greeting::initialized_line()).map_err(|e| HandshakeError::Ended(e.to_string()))?;
    }
    restore_level(instance).await;
    Ok(())
}

async fn answer(pending: &crate::instance::Pending) -> Result<Bytes, HandshakeError> {
    loop {
        match pending.next().await {
            Item::Answer(message) => return result(&message),
            Item::Gone(report) => return Err(HandshakeError::Ended(report.to_string())),
            Item::Garbled(_) => return Err(HandshakeError::Invalid("it is no JSON-RPC answer")),
            Item::Note(_) | Item::Ask(_) | Item::Withdrawn(_) | Item::Cancelled => {}
            // The handshake has no client whom a server could ask.
            Item::Question(question) => question.unanswered("there is no client yet"),
        }
    }
}

fn result(message: &Message) -> Result<Bytes, HandshakeError> {
    match (message.shape(), message.member(Place::Root, "result")) {
        // A copy: the message's buffer would live as long as the process.
        (Shape::Success, Some(result)) => Ok(Bytes::copy_from_slice(message.raw(result.value))),
        _ => {
            let code = message.error_code();
            Err(HandshakeError::Refused {
                message: message.text(Place::Error, "message").unwrap_or_default().into_owned(),
                code,
            })
        }
    }
}

/// After a restart the sessions still want what they wanted.
async fn restore_level(instance: &Arc<Instance>) {
    let wanted: Option<Level> = instance.context.sessions().iter().filter_map(|s| s.level()).min();
    if let Some(level) = wanted {
        instance.ensure_level(level).await;
    }
}
