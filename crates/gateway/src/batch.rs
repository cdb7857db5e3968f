//! A 2025-03-26 array: its requests run side by side, and each is answered once (E66, E68).

use crate::admit::Admitted;
use crate::feed::{self, Hello};
use crate::listen::Host;
use crate::reply::{Accepts, Asker, Body, Part, Reply, empty, json};
use crate::session;
use crate::timing::Course;
use http::{Response, StatusCode};
use oauth::Verified;
use std::sync::Arc;
use supervisor::Session;
use tokio::sync::mpsc;
use wire::message::{Message, Shape};

/// Answers a batch: with one array if the client reads no streams, else as one stream that ends after the last answer.
pub(crate) async fn batch(
    host: Arc<Host>,
    admitted: Admitted,
    session: Arc<Session>,
    messages: Vec<Message>,
    accepts: Accepts,
) -> Response<Body> {
    let (requests, others): (Vec<Message>, Vec<Message>) =
        messages.into_iter().partition(|m| m.shape() == Shape::Request);
    for message in others {
        let (unused, _response) = Reply::new(accepts, Asker::new(&host, &admitted, Some(&session)));
        session::one(host.clone(), &admitted, session.clone(), message, unused).await;
    }
    if requests.is_empty() {
        return empty(StatusCode::ACCEPTED);
    }
    let (sender, parts) = mpsc::channel(64);
    let count = requests.len();
    let (all, own, token) = (host.clone(), session.clone(), admitted.token().cloned());
    stdx::task::spawn("batch", async move {
        for message in requests {
            let reply = Reply::part(sender.clone(), &all.settings.limits).followed(Course::of(&all, &admitted));
            session::request(all.clone(), &admitted, own.clone(), message, reply).await;
        }
    });
    if accepts.events {
        return streamed(host, token, session, parts, count);
    }
    json(StatusCode::OK, gathered(parts, count).await)
}

/// One JSON array of all answers.
async fn gathered(mut parts: mpsc::Receiver<Part>, count: usize) -> Vec<u8> {
    let mut bodies = Vec::with_capacity(count);
    while bodies.len() < count {
        match parts.recv().await {
            Some(Part::Body(body)) => bodies.push(body),
            Some(Part::Event(_)) => {}
            None => break,
        }
    }
    let mut array = b"[".to_vec();
    array.extend_from_slice(&bodies.join(&b','));
    array.push(b']');
    array
}

/// One stream for all of them, which ends after the last answer. A client that left has cancelled nothing: the calls go
/// on, and what they say waits for it (E78, E134).
fn streamed(
    host: Arc<Host>,
    token: Option<Verified>,
    session: Arc<Session>,
    mut parts: mpsc::Receiver<Part>,
    count: usize,
) -> Response<Body> {
    let (writer, reader) = session.open_request_stream();
    let patience = host.settings.limits.write_timeout;
    stdx::task::spawn("batch stream", async move {
        let mut answered = 0;
        while answered < count {
            let Some(part) = parts.recv().await else { break };
            answered += usize::from(matches!(part, Part::Body(_)));
            let (Part::Event(message) | Part::Body(message)) = part;
            if writer.send(message.into(), patience).await.is_err() {
                return;
            }
        }
        writer.close();
    });
    feed::session(host, token, session, reader, Hello::Comment, None)
}
