//! Where a call's time goes: a few readings of the clock that travel with its reply, and what becomes of them at its end:
//! the server's counts, a `Server-Timing` for a client that asked, a record for whoever collects traces.

use crate::admit::{Admitted, Requester};
use crate::book::{self, Book, Intent, Unrecorded};
use crate::denied::{Denial, TurnedAway};
use crate::error::CallError;
use crate::listen::Host;
use crate::meters::Meters;
use crate::receipt;
use crate::trace::{CallSpan, TraceContext};
use http::HeaderValue;
use http::request::Parts;
use model::record::{CallId, Ended, named};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stdx::clock::monotonic;
use supervisor::{Outcome, ServerMeter, Stage};
use wire::bridge::Delivery;
use wire::code;
use wire::era::Era;
use wire::message::{Message, Shape};
use wire::scan::Place;

/// A client that sends `X-Staithe-Timing: 1` is told where the time went. It is not told otherwise: how long a permission or
/// a queue takes says something about others.
const ASKS: &str = "x-staithe-timing";
/// Letters of a stranger's name that are kept.
const NAME_CHARS: usize = 128;

/// What a request's head says about its course.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    begun: Instant,
    asks: bool,
    receipt: bool,
    context: Option<Arc<TraceContext>>,
}

impl Arrival {
    /// A head that has just come.
    pub(crate) fn of(parts: &Parts, meters: &Meters) -> Self {
        let context = if meters.traces() { TraceContext::of_headers(&parts.headers) } else { None };
        let asks = parts.headers.get(ASKS).is_some_and(|value| value == "1");
        Self { begun: monotonic(), asks, receipt: receipt::asked(&parts.headers), context: context.map(Arc::new) }
    }
}

/// The course of one call. The empty one follows nothing.
#[derive(Debug, Default)]
pub(crate) struct Course {
    followed: Option<Followed>,
    /// Its client wants a receipt.
    receipt: bool,
    /// It is in the ledger, and its end is not.
    intent: Option<Intent>,
    /// staithe's name of what it failed with.
    error: Option<&'static str>,
    /// How it ends, once that is known.
    outcome: Option<Outcome>,
    /// Who is turned away if it fails now. Nobody once it is in the ledger.
    asking: Option<Box<Asking>>,
}

/// A request that has not reached a process.
#[derive(Debug)]
struct Asking {
    book: Book,
    requester: Arc<Requester>,
    method: Option<Cow<'static, str>>,
    name: Option<String>,
}

#[derive(Debug)]
struct Followed {
    begun: Instant,
    /// When each stage but the last ended.
    ends: [Option<Instant>; Stage::ALL.len() - 1],
    asks: bool,
    meter: Arc<ServerMeter>,
    told: Option<Box<Told>>,
}

/// What is needed only where somebody wants records, or counts by tool.
#[derive(Debug)]
struct Told {
    meters: Arc<Meters>,
    context: Option<Arc<TraceContext>>,
    server: String,
    method: String,
    tool: Option<String>,
    call: Option<u64>,
}

impl Course {
    /// Of a request that is known and read.
    pub(crate) fn of(host: &Host, admitted: &Admitted) -> Self {
        let asking = host.settings.book.as_ref().map(|book| {
            Box::new(Asking { book: book.clone(), requester: admitted.requester().clone(), method: None, name: None })
        });
        let Some(meter) = admitted.meter() else { return Self { asking, ..Self::default() } };
        let arrival = admitted.arrival();
        let told = (host.meters.traces() || host.meters.per_tool()).then(|| {
            Box::new(Told {
                meters: host.meters.clone(),
                context: arrival.context.clone(),
                server: admitted.server().to_string(),
                method: String::new(),
                tool: None,
                call: None,
            })
        });
        let mut ends = [None; Stage::ALL.len() - 1];
        ends[Stage::Admission as usize] = Some(monotonic());
        let followed = Followed { begun: arrival.begun, ends, asks: arrival.asks, meter: meter.clone(), told };
        Self { followed: Some(followed), asking, receipt: arrival.receipt, ..Self::default() }
    }

    /// Whether its client is to get a receipt.
    pub(crate) fn wants_receipt(&self) -> bool {
        self.receipt
    }

    /// This is what is asked.
    pub(crate) fn reads(&mut self, message: &Message) {
        let Some(asking) = &mut self.asking else { return };
        let known = wire::method::find(message.method()).map(|row| Cow::Borrowed(row.name));
        asking.method = Some(known.unwrap_or_else(|| Cow::Owned(named(message.method()).into_owned())));
        asking.name = book::name(message);
    }

    /// It has no time of its own: it lasts as long as its client.
    pub(crate) fn lasts(&mut self) {
        self.followed = None;
    }

    /// Notes that it was turned away, where it failed before it was in the ledger.
    pub(crate) fn turned_away(&mut self) {
        let (Some(reason), Some(asking)) = (self.error, self.asking.take()) else { return };
        let Asking { book, requester, method, name } = *asking;
        let server = requester.server().to_string();
        book.turned_away(Denial { whose: Some(requester.whose()), server, reason, method, name });
    }

    /// The same for one that another daemon may yet take: says so of the response.
    pub(crate) fn may_be_turned_away(&mut self) -> Option<TurnedAway> {
        self.asking.take().and(self.error).map(TurnedAway::for_reason)
    }

    /// It was permitted, or refused: the next stage begins.
    pub(crate) fn judged(&mut self, message: &Message) {
        self.ends(Stage::Policy);
        let Some(told) = self.followed.as_mut().and_then(|followed| followed.told.as_mut()) else { return };
        told.method = short(message.method());
        told.tool = match message.method() {
            "tools/call" => message.text(Place::Params, "name").map(|name| short(&name)),
            _ => None,
        };
        // What the message says goes before what its envelope says.
        if told.meters.traces()
            && let Some(context) = TraceContext::of_message(message)
        {
            told.context = Some(Arc::new(context));
        }
    }

    /// Its line was written.
    pub(crate) fn sent(&mut self, call: u64) {
        self.ends(Stage::Queue);
        if let Some(told) = self.followed.as_mut().and_then(|followed| followed.told.as_mut()) {
            told.call = Some(call);
        }
    }

    /// The server's answer was read.
    pub(crate) fn answered(&mut self, answer: &Message) {
        self.ends(Stage::Server);
        self.outcome(outcome(answer));
    }

    /// It is in the ledger from here on, unless the operator wants calls to go on without.
    pub(crate) fn intends(&mut self, intent: Option<Intent>) {
        self.asking = None;
        self.intent = intent;
    }

    /// Under which name it is in the ledger.
    pub(crate) fn recorded_as(&self) -> Option<CallId> {
        self.intent.as_ref().map(Intent::call)
    }

    /// What it was recorded for did not come to pass: the process had ended.
    pub(crate) async fn was_not_sent(&mut self) -> Result<(), Unrecorded> {
        match self.intent.take() {
            Some(intent) => intent.finish(Ended::ServerGone, None, None).await.map(drop),
            None => Ok(()),
        }
    }

    /// Records its end, with the answer that its client is about to read. What cannot be recorded is not said. Nothing is done
    /// where the call was not recorded to begin with.
    pub(crate) async fn recorded(&mut self, mut answer: Delivery) -> Delivery {
        if self.receipt {
            answer.body = wire::receipt::cleared(answer.body);
        }
        let Some(intent) = self.intent.take() else { return answer };
        let (outcome, id) = (self.how_it_ends(), intent.client_id().clone());
        match intent.finish(outcome, self.error, Some(&answer.body)).await {
            Ok(Some(receipt)) => Delivery { body: receipt.put(answer.body), ..answer },
            Ok(None) => answer,
            // Nothing of the server is in it, and the next daemon ends the call in the ledger.
            Err(_) if self.error.is_some() => answer,
            Err(unrecorded) => {
                tracing::error!(error = %unrecorded, "the end of a call cannot be recorded");
                CallError::from(unrecorded).delivery(Era::Legacy, Some(&id))
            }
        }
    }

    /// The same where no answer leaves, so that nobody waits.
    pub(crate) fn is_answered_by_nobody(&mut self) {
        let Some(intent) = self.intent.take() else { return };
        let (outcome, error) = (self.how_it_ends(), self.error);
        stdx::task::spawn("record the end of a call", async move {
            if let Err(unrecorded) = intent.finish(outcome, error, None).await {
                tracing::error!(error = %unrecorded, "the end of a call cannot be recorded");
            }
        });
    }

    fn how_it_ends(&self) -> Ended {
        ended(self.outcome, self.error)
    }

    /// It failed with an error of ours.
    pub(crate) fn failed(&mut self, outcome: Outcome, error: &'static str) {
        self.outcome(outcome);
        self.error = Some(error);
    }

    /// It is known how it ends.
    pub(crate) fn outcome(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }

    fn ends(&mut self, stage: Stage) {
        if let Some(followed) = &mut self.followed {
            followed.ends[stage as usize].get_or_insert_with(monotonic);
        }
    }

    /// What a client that asked is told.
    pub(crate) fn shown(&self) -> Option<String> {
        let followed = self.followed.as_ref().filter(|followed| followed.asks)?;
        let now = monotonic();
        let mut text = String::with_capacity(160);
        for (stage, took) in followed.stages(now) {
            let _ = write!(text, "{};dur={:.3}, ", stage.as_str(), took.as_secs_f64() * 1e3);
        }
        let _ = write!(text, "total;dur={:.3}", now.saturating_duration_since(followed.begun).as_secs_f64() * 1e3);
        Some(text)
    }

    /// The same as a header's value.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        self.shown().and_then(|text| HeaderValue::from_str(&text).ok())
    }

    /// It is over.
    pub(crate) fn end(self) {
        let Some(followed) = self.followed else { return };
        let now = monotonic();
        let outcome = self.outcome.unwrap_or(Outcome::Ok);
        followed.meter.call(outcome, now.saturating_duration_since(followed.begun));
        // A call that got no answer has no delivery, and its time in a queue is another's story.
        if followed.ends[Stage::Server as usize].is_some() {
            for (stage, took) in followed.stages(now) {
                followed.meter.stage(stage, took);
            }
        }
        if let Some(told) = &followed.told {
            followed.tell(told, outcome, now);
        }
    }
}

impl Followed {
    /// Each stage that was reached, without gaps: the one in which the call ended has the rest.
    fn stages(&self, now: Instant) -> impl Iterator<Item = (Stage, Duration)> {
        let last = self.ends.iter().rposition(Option::is_some).map_or(0, |at| at + 1);
        let mut since = self.begun;
        Stage::ALL.into_iter().take(last + 1).enumerate().map(move |(at, stage)| {
            let end = if at == last { now } else { self.ends[at].unwrap_or(since) };
            let took = end.saturating_duration_since(since);
            since = end;
            (stage, took)
        })
    }

    fn tell(&self, told: &Told, outcome: Outcome, now: Instant) {
        let answered = matches!(outcome, Outcome::Ok | Outcome::ToolError);
        // Of names that the server did not answer to, any number could be made up.
        if let Some(tool) = told.tool.as_ref().filter(|_| told.meters.per_tool() && answered) {
            self.meter.tool(tool, outcome);
        }
        let wanted = told.context.as_ref().is_none_or(|context| context.sampled);
        if told.meters.traces() && wanted {
            told.meters.record(CallSpan {
                context: told.context.as_deref().cloned(),
                server: told.server.clone(),
                method: told.method.clone(),
                tool: told.tool.clone(),
                call: told.call,
                outcome,
                ended: stdx::clock::unix_nanos(),
                stages: self.stages(now).collect(),
            });
        }
    }
}

/// The same in the ledger's words.
fn ended(outcome: Option<Outcome>, error: Option<&'static str>) -> Ended {
    match (outcome, error) {
        (_, Some("outcome_unknown")) => Ended::Unknown,
        (Some(Outcome::ServerError), Some(_)) => Ended::ServerGone,
        (None | Some(Outcome::Ok), _) => Ended::Ok,
        (Some(Outcome::ToolError), _) => Ended::ToolError,
        (Some(Outcome::ServerError), None) => Ended::ServerError,
        (Some(Outcome::HostError), _) => Ended::HostError,
        (Some(Outcome::CallerError), _) => Ended::CallerError,
        (Some(Outcome::Asked), _) => Ended::Asked,
        (Some(Outcome::Cancelled), _) => Ended::Cancelled,
        (Some(Outcome::Deadline), _) => Ended::Deadline,
    }
}

/// How a call ended that a server answered. Its errors are its own unless their code says that the request was wrong.
fn outcome(answer: &Message) -> Outcome {
    match (answer.shape(), answer.error_code()) {
        (Shape::Success, _) if answer.tool_failed() => Outcome::ToolError,
        (Shape::Success, _) => Outcome::Ok,
        (
            _,
            Some(
                code::PARSE
                | code::INVALID_REQUEST
                | code::METHOD_NOT_FOUND
                | code::INVALID_PARAMS
                | code::RESOURCE_NOT_FOUND
                | code::URL_ELICITATION_REQUIRED
                | code::HEADER_MISMATCH
                | code::MISSING_CAPABILITY
                | code::UNSUPPORTED_VERSION,
            ),
        ) => Outcome::CallerError,
        _ => Outcome::ServerError,
    }
}

/// A stranger's name, short and printable.
fn short(name: &str) -> String {
    name.chars().take(NAME_CHARS).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use wire::scan::{Limits, Side};

    fn followed() -> Followed {
        Followed { begun: monotonic(), ends: [None; 4], asks: true, meter: Arc::default(), told: None }
    }

    #[test]
    fn stages_have_no_gaps_and_sum_to_the_total() {
        let mut call = followed();
        let at = |ms: u64| call.begun + Duration::from_millis(ms);
        let (one, three, ten) = (at(1), at(3), at(10));
        let ends = [Some(one), Some(three), Some(ten), None];
        call.ends = ends;
        let now = call.begun + Duration::from_millis(40);
        let stages: Vec<(&str, u128)> = call.stages(now).map(|(s, took)| (s.as_str(), took.as_millis())).collect();
        assert_eq!(stages, [("admission", 1), ("policy", 2), ("queue", 7), ("server", 30)]);
        // A stage that was passed over takes no time.
        call.ends = [Some(one), None, Some(ten), Some(ten)];
        let stages: Vec<(&str, u128)> = call.stages(now).map(|(s, took)| (s.as_str(), took.as_millis())).collect();
        assert_eq!(stages, [("admission", 1), ("policy", 0), ("queue", 9), ("server", 0), ("delivery", 30)]);
    }

    #[test]
    fn only_who_asks_is_told() {
        let mut course = Course { followed: Some(followed()), ..Course::default() };
        assert!(course.shown().unwrap().starts_with("admission;dur=0."), "{:?}", course.shown());
        assert!(course.shown().unwrap().contains(", total;dur="));
        course.followed.as_mut().unwrap().asks = false;
        assert_eq!((course.shown(), Course::default().shown()), (None, None));
    }

    #[test]
    fn an_answer_has_one_outcome() {
        for (rest, expected) in [
            (r#""result":{"content":[]}"#, Outcome::Ok),
            (r#""result":{"isError":false}"#, Outcome::Ok),
            (r#""result":{"content":[],"isError":true}"#, Outcome::ToolError),
            (r#""result":{"structuredContent":{"isError":true}}"#, Outcome::Ok),
            (r#""error":{"code":-32602,"message":"x"}"#, Outcome::CallerError),
            (r#""error":{"code":-32603,"message":"x"}"#, Outcome::ServerError),
            (r#""error":{"code":-32000,"message":"x"}"#, Outcome::ServerError),
        ] {
            let line = Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":1,{rest}}}"#));
            let message = Message::parse(line, Side::Server, &Limits { bytes: 1 << 20, depth: 64 }).unwrap();
            assert_eq!(outcome(&message), expected, "{rest}");
        }
    }
}
