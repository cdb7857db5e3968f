//! Finds out which eras a server speaks, on throw-away processes and sessions: a probe may kill the one that hears it, and a process
//! that speaks both is bound to one by its first message. (eras §2.2, §6 edge case 1)

use crate::handshake::{self, HandshakeError, Introduction};
use crate::hosted::Hosted;
use crate::running::Running;
use crate::slot::Context;
use bytes::Bytes;
use model::{Target, Verdict};
use std::sync::Arc;
use std::time::Duration;
use stdx::clock::monotonic;
use wire::era::Era;

/// Why a probe came to nothing.
const STOPPED: &str = "the server is stopped";

/// What a probe found.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) verdict: Verdict,
    /// The server's own `DiscoverResult`.
    pub(crate) discovered: Option<String>,
    /// False where "legacy" is only what is left: nothing has answered `initialize` yet.
    pub(crate) proven: bool,
}

/// Probes. An error is why the program cannot even be started.
pub(crate) async fn probe(hosted: &Hosted) -> Result<Finding, String> {
    let wait = hosted.settings().limits.probe_timeout;
    let first = attempt(hosted, Era::Modern, wait).await?;
    if let Attempt::Answered { greeting } = first {
        return modern(hosted, greeting, wait).await;
    }
    if matches!(first, Attempt::Recognised) {
        return recognised(hosted, wait).await;
    }
    let asked = monotonic();
    let legacy = attempt(hosted, Era::Legacy, hosted.settings().limits.start_timeout).await?;
    let took = asked.elapsed();
    let proven = matches!(legacy, Attempt::Answered { .. });
    // Silence is only proof if the program could have answered in that time: a first `npx` installs for longer.
    if matches!(first, Attempt::Silent)
        && proven
        && took * 2 > wait
        && let Attempt::Answered { greeting } = attempt(hosted, Era::Modern, took * 2 + wait).await?
    {
        let discovered = Some(String::from_utf8_lossy(&greeting).into_owned());
        return Ok(Finding { verdict: Verdict::Dual, discovered, proven: true });
    }
    Ok(Finding { verdict: Verdict::Legacy, discovered: None, proven })
}

/// It is modern; is it legacy too?
async fn modern(hosted: &Hosted, greeting: Bytes, wait: Duration) -> Result<Finding, String> {
    let discovered = Some(String::from_utf8_lossy(&greeting).into_owned());
    let verdict = if takes_initialize(hosted, wait).await? { Verdict::Dual } else { Verdict::Modern };
    Ok(Finding { verdict, discovered, proven: true })
}

/// It answered with an error that only modern servers know (E99). If it takes `initialize` too, that can be spoken;
/// else its own error will say why it cannot.
async fn recognised(hosted: &Hosted, wait: Duration) -> Result<Finding, String> {
    let verdict = if takes_initialize(hosted, wait).await? { Verdict::Legacy } else { Verdict::Modern };
    Ok(Finding { verdict, discovered: None, proven: true })
}

/// From a remote server, which has just answered in the other era, anything else is a no. A program that could not be asked,
/// because it was ended with its keeper, has said nothing.
async fn takes_initialize(hosted: &Hosted, wait: Duration) -> Result<bool, String> {
    match attempt(hosted, Era::Legacy, wait).await {
        Ok(attempt) => Ok(matches!(attempt, Attempt::Answered { .. })),
        Err(_) if matches!(hosted.spec().target, Target::Remote(_)) && !hosted.retired().is_cancelled() => Ok(false),
        Err(reason) => Err(reason),
    }
}

enum Attempt {
    Answered { greeting: Bytes },
    Recognised,
    Refused,
    Silent,
}

/// The first words of one era to a process of its own.
async fn attempt(hosted: &Hosted, era: Era, wait: Duration) -> Result<Attempt, String> {
    let _at_work = hosted.at_work();
    let context = Arc::new(Context::new(hosted, true));
    let mut running = Running::start(hosted, era, &context).await.map_err(|not| not.reason)?;
    let instance = running.instance.clone();
    let introduction = Introduction::as_host(Bytes::from_static(b"{}"));
    let heard = tokio::select! {
        heard = tokio::time::timeout(wait, handshake::greet(&instance, &introduction)) => heard.ok(),
        end = running.ended() => Some(Err(HandshakeError::Ended(end))),
        () = hosted.retired().cancelled() => Some(Err(HandshakeError::Ended(STOPPED.to_owned()))),
    };
    let greeting = instance.greeting().map(|g| g.result().clone());
    if matches!(heard, Some(Err(HandshakeError::Ended(_)))) {
        // How it ended may say more than that its pipes were closed.
        let _ = tokio::time::timeout(Duration::from_millis(100), running.ended()).await;
    }
    // A remote server that could not be asked has said nothing about its era (E100).
    let trouble = running.trouble(heard.is_none());
    running.stop("the probe is over").await;
    if hosted.retired().is_cancelled() {
        // Whatever was heard: the end was ours to make.
        return Err(STOPPED.to_owned());
    }
    Ok(match (heard, greeting, trouble) {
        (Some(Ok(())), Some(greeting), _) => Attempt::Answered { greeting },
        (_, _, Some(trouble)) => return Err(trouble),
        (Some(Err(HandshakeError::Refused { code: Some(-32022..=-32020), .. })), _, None) => Attempt::Recognised,
        (Some(_), _, None) => Attempt::Refused,
        (None, _, None) => Attempt::Silent,
    })
}

/// Whether the program starts and gets through the handshake of `era`.
pub(crate) async fn starts(hosted: &Hosted, era: Era) -> Result<(), String> {
    let _at_work = hosted.at_work();
    let context = Arc::new(Context::new(hosted, true));
    let mut running = Running::start(hosted, era, &context).await.map_err(|not| not.reason)?;
    let instance = running.instance.clone();
    let introduction = Introduction::as_host(Bytes::from_static(b"{}"));
    let limit = hosted.settings().limits.start_timeout;
    let outcome = tokio::select! {
        greeted = tokio::time::timeout(limit, handshake::greet(&instance, &introduction)) => match greeted {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(running.said(&error)),
            Err(_elapsed) => Err(format!("it did not answer the handshake within {} s", limit.as_secs())),
        },
        end = running.ended() => Err(end),
        () = hosted.retired().cancelled() => Err(STOPPED.to_owned()),
    };
    let report = running.stop("the check is over").await;
    outcome.map_err(|reason| match report.last_stderr {
        Some(line) if !reason.contains(&line) => format!("{reason}; its last words: {line}"),
        _ => reason,
    })
}
