//! A 2025-03-26 array: its requests run side by side, and each is answered once (E66, E68).

use crate::admit::Admitted;
use crate::listen::Host;
use crate::reply::{Accepts, Body, Part, Reply, empty, json, stream};
use crate::session;
use http::{Response, StatusCode};
use std::sync::Arc;
use supervisor::Session;
use tokio::sync::mpsc;
use wire::message::{Message, Shape};
use wire::sse;

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
        let (unused, _response) = Reply::new(accepts, &host.settings.limits);
        session::one(host.clone(), &admitted, session.clone(), message, unused).await;
    }
    if requests.is_empty() {
        return empty(StatusCode::ACCEPTED);
    }
    let (sender, parts) = mpsc::channel(64);
    let count = requests.len();
    let (all, own) = (host.clone(), session.clone());
    stdx::task::spawn("batch", async move {
        for message in requests {
            let reply = Reply::part(sender.clone(), &all.settings.limits);
            session::request(all.clone(), &admitted, own.clone(), message, reply).await;
        }
    });
    if accepts.events {
        return streamed(&host, parts, count);
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

fn streamed(host: &Arc<Host>, mut parts: mpsc::Receiver<Part>, count: usize) -> Response<Body> {
    let (events, response) = stream();
    let limits = host.settings.limits.clone();
    stdx::task::spawn("batch stream", async move {
        let mut answered = 0;
        while answered < count {
            let bytes = match tokio::time::timeout(limits.keep_alive, parts.recv()).await {
                Err(_elapsed) => sse::KEEP_ALIVE.to_vec(),
                Ok(None) => return,
                Ok(Some(part)) => {
                    let (Part::Event(message) | Part::Body(message)) = &part;
                    answered += usize::from(matches!(part, Part::Body(_)));
                    let mut event = Vec::with_capacity(message.len() + 32);
                    sse::event(&mut event, message);
                    event
                }
            };
            // A legacy client that left has cancelled nothing: the calls go on without it.
            if events.send_timeout(bytes.into(), limits.write_timeout).await.is_err() {
                return;
            }
        }
    });
    response
}
