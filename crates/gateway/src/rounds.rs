//! A modern server asks in the middle of a call, and the client has a session: the questions go to it as requests on the
//! call's own stream, and with their answers the call is sent again, until the server answers. (eras §2.5; B5, B8, B9)
//!
//! Nothing is kept for this but the call's own task. Answers come through the session's numbers, so no other session can
//! give them (E79, E197), and each counts once.

use crate::call::{Asked, Clock, End, Happened, Progress, answer, ask, note_body, stated, underway, wish};
use crate::deadline::Deadline;
use crate::error::{CallError, Unasked};
use crate::listen::Host;
use crate::reply::Reply;
use std::time::Duration;
use supervisor::{Asker, Item, Lease, Pending, Session};
use tokio::sync::mpsc;
use wire::bridge::Delivery;
use wire::message::Message;
use wire::rounds::{Answer, Required, tool_error, withdrawal};

/// Between two rounds in which the server asks nothing: it waits for something, and must not be asked in a tight loop.
const PACE: Duration = Duration::from_millis(250);

/// A call that was sent once.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) host: &'a Host,
    pub(crate) asked: &'a Asked,
    pub(crate) lease: &'a Lease,
    /// The request as the server gets it.
    pub(crate) message: &'a Message,
}

/// Goes on with a call that the server answered with questions, to its end.
pub(crate) async fn carry(
    call: Call<'_>,
    first: Message,
    reply: &mut Reply,
    mut reached: Progress,
) -> Result<End, CallError> {
    let Call { host, asked, lease, .. } = call;
    let mut question = first;
    for _ in 0..host.settings.limits.rounds {
        let required = Required::read(question, asked.message.method()).map_err(|error| {
            let server = lease.instance().server();
            CallError::Garbled(format!("the server {server} asked for input in a way that is not valid: {error}"))
        })?;
        match round(call, &required, reply, &mut reached).await {
            Ok(End::Asks(next)) => question = *next,
            Err(CallError::Unasked(why)) => return told(asked, why),
            end => return end,
        }
    }
    told(asked, Unasked::Endless { rounds: host.settings.limits.rounds })
}

/// The model reads why its tool failed; for other methods it is an error.
fn told(asked: &Asked, why: Unasked) -> Result<End, CallError> {
    if asked.message.method() != "tools/call" {
        return Err(why.into());
    }
    let body = tool_error(&asked.id(), &format!("The tool could not finish: {why}."));
    Ok(End::Answer(Delivery { body, status: 200 }))
}

/// Asks what one answer of the server asked for, and sends the call again.
async fn round(
    call: Call<'_>,
    required: &Required,
    reply: &mut Reply,
    reached: &mut Progress,
) -> Result<End, CallError> {
    let Call { host, asked, lease, message } = call;
    let Some(session) = asked.session.as_deref() else { return Ok(End::Silence) };
    let able = session.caller();
    for question in required.questions() {
        if let Some(feature) = question.lacks(&able.profile, session.revision()) {
            return Err(Unasked::Lacks { question: question.method(), feature }.into());
        }
        if let Some(why) = required.unaskable(question, session.revision()) {
            return Err(Unasked::Unfit { question: question.method(), why }.into());
        }
    }
    let pending = lease.instance().reserve(asked.id(), wish(asked), asked.session.clone());
    let mut leg = Leg { host, asked, session, required, pending: &pending, open: Vec::new() };
    let outcome = leg.answers(reply, reached).await;
    leg.withdraw(reply).await;
    match outcome {
        Ok(Some(answers)) => {
            let mut line = Vec::new();
            reply.about(underway(asked, lease, &pending)).await;
            required.retry_line(&mut line, message, pending.id(), Some(&stated(session)), &answers);
            pending.has_time(asked.timeout.map(|deadline| deadline.after));
            if let Err(stalled) = pending.send_reserved(line) {
                pending.finish();
                return Err(stalled.into());
            }
            answer(host, asked, lease, pending, reply, reached).await
        }
        Ok(None) => {
            pending.finish();
            Ok(End::Silence)
        }
        Err(error) => {
            pending.finish();
            Err(error)
        }
    }
}

/// The questions of one round on their way.
struct Leg<'a> {
    host: &'a Host,
    asked: &'a Asked,
    session: &'a Session,
    required: &'a Required,
    /// The call as it will be sent again: through it the client's cancellation and the end of the process are heard.
    pending: &'a Pending,
    /// The numbers of the questions that are not answered, with their places.
    open: Vec<(u64, usize)>,
}

impl Leg<'_> {
    /// All answers, in the order of the questions. `None` if the client took its call back, or ended its session.
    async fn answers(&mut self, reply: &mut Reply, reached: &mut Progress) -> Result<Option<Vec<Vec<u8>>>, CallError> {
        let limits = &self.host.settings.limits;
        let count = self.required.questions().len();
        let time = if count == 0 { PACE } else { limits.ask_timeout };
        let mut clock = Clock::start(limits.stream_after, limits.keep_alive, Some(Deadline::fixed(time)));
        let Some(mut answers) = self.put(reply).await? else { return Ok(None) };
        let mut given = vec![Vec::new(); count];
        while count == 0 || !self.open.is_empty() {
            let happened = tokio::select! {
                biased;
                answer = answers.recv(), if count > 0 => match answer {
                    Some((place, message)) => {
                        given[place] = self.take(place, &message)?;
                        continue;
                    }
                    None => return Ok(None),
                },
                item = self.pending.next() => Happened::Item(item),
                () = reply.left() => Happened::Left,
                tick = clock.tick() => tick,
            };
            let sent = match happened {
                Happened::Item(Item::Cancelled) => return Ok(None),
                Happened::Item(Item::Gone(report)) => return Err(CallError::Gone(report)),
                Happened::Item(Item::Note(note)) if !reached.rises(&note) => Ok(()),
                Happened::Item(Item::Note(note)) => reply.event(&note_body(&self.asked.message, &note)).await,
                Happened::Item(Item::Ask(body)) => ask(self.asked, reply, body).await,
                // Of a request that was not sent, or of a legacy server.
                Happened::Item(Item::Answer(_) | Item::Garbled(_) | Item::Question(_) | Item::Withdrawn(_)) => Ok(()),
                Happened::Quiet => reply.keep_alive().await,
                Happened::Left | Happened::Stopping => Err(crate::reply::Left),
                Happened::Deadline(_) if count == 0 => break,
                Happened::Deadline(after) => return Err(self.unanswered(after).into()),
            };
            if sent.is_err() {
                // The client may come back for its stream: it has cancelled nothing (E78).
                reply.abandon();
            }
            clock.spoke();
        }
        Ok(Some(given))
    }

    /// Sends every question of the round at once. `None` if the session has ended.
    async fn put(&mut self, reply: &mut Reply) -> Result<Option<mpsc::Receiver<(usize, Message)>>, CallError> {
        let questions = self.required.questions();
        let (answers, receiver) = mpsc::channel(questions.len().max(1));
        // Numbered before the first is sent: an answer may come at once.
        for place in 0..questions.len() {
            match self.session.ask(Asker { place, answers: answers.clone() }) {
                Some(id) => self.open.push((id, place)),
                None if self.session.ended().is_cancelled() => return Ok(None),
                None => return Err(Unasked::Crowded.into()),
            }
        }
        for (id, place) in self.open.clone() {
            // No other call has this number.
            let name = format!("{}-{id}", self.pending.id());
            let body = self.required.request(&questions[place], id, &name, self.session.revision());
            if ask(self.asked, reply, body).await.is_err() {
                reply.abandon();
            }
        }
        Ok(Some(receiver))
    }

    fn take(&mut self, place: usize, message: &Message) -> Result<Vec<u8>, CallError> {
        self.open.retain(|(_, open)| *open != place);
        let question = &self.required.questions()[place];
        match question.answer(message) {
            Answer::Result(result) => Ok(result),
            Answer::Failed(why) => Err(Unasked::Failed { question: question.method(), why }.into()),
        }
    }

    fn unanswered(&self, after: Duration) -> Unasked {
        let first = self.open.first().and_then(|(_, place)| self.required.questions().get(*place));
        Unasked::Unanswered { question: first.map_or("a request", |question| question.method()), after }
    }

    /// Tells the client which questions need no answer any more.
    async fn withdraw(&mut self, reply: &mut Reply) {
        for (id, _) in std::mem::take(&mut self.open) {
            if self.session.take_back(id) {
                // A client that is not there reads it with its stream, or never.
                let _ = ask(self.asked, reply, withdrawal(id, "the call is over")).await;
            }
        }
    }
}
