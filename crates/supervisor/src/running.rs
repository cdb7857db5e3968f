//! One life of an instance: a program with the tasks at its pipes, or the HTTP side of a remote server. Whoever holds
//! one asks only how it ends, and ends it.

use crate::adopt::Heir;
use crate::handover::{Predecessor, Rest};
use crate::handshake::{HandshakeError, Introduction};
use crate::hosted::Hosted;
use crate::instance::Instance;
use crate::keeping::Fate;
use crate::key::Key;
use crate::life::Life;
use crate::mailbox::ExitReport;
use crate::meter::Cause;
use crate::notebook::{Known, Notebook, Story};
use crate::outlet::Outlet;
use crate::pipe::Writer;
use crate::process::{self, Child, Pipes, SpawnError};
use crate::reader::{self, ReadEnd};
use crate::remote::Link;
use crate::slot::Context;
use crate::stderr;
use crate::tree;
use model::report::LogSource;
use model::{Program, Remote, Target};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use wire::era::Era;

/// An instance that was started and what keeps it going.
pub(crate) struct Running {
    pub(crate) instance: Arc<Instance>,
    body: Body,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("instance", &self.instance.id).finish_non_exhaustive()
    }
}

enum Body {
    Program(Box<Piped>),
    Remote(Arc<Link>),
}

/// What an earlier daemon left of an instance, beside its process.
pub(crate) struct Left {
    pub(crate) started_at_ms: i64,
    /// What it held of the pipes, where it lived to say so.
    pub(crate) rest: Option<Rest>,
}

/// Why there is no instance.
pub(crate) struct NotStarted {
    pub(crate) reason: String,
    /// Whose doing it is: without a keeper nothing can start, whatever the server is like.
    pub(crate) cause: Cause,
}

impl NotStarted {
    fn own(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), cause: Cause::Exit }
    }
}

/// A process and the tasks at its pipes.
struct Piped {
    child: Child,
    notebook: Arc<Notebook>,
    reader: JoinHandle<Option<ReadEnd>>,
    drain: JoinHandle<Option<()>>,
    stderr: JoinHandle<Option<()>>,
    /// Which of its pipes it has closed. Its task must not be asked again.
    closed: Option<String>,
    end: Option<String>,
}

impl Running {
    /// Starts the server's program, or makes ready to speak to the remote server.
    /// Not to be dropped half-way.
    pub(crate) async fn start(hosted: &Hosted, era: Era, context: &Arc<Context>) -> Result<Self, NotStarted> {
        if hosted.retired().is_cancelled() {
            return Err(NotStarted::own("the server is stopped"));
        }
        if hosted.is_frozen() {
            return Err(NotStarted::own("another daemon has taken over"));
        }
        match &hosted.spec().target {
            Target::Program(program) => Self::start_program(hosted, program, era, context).await,
            Target::Remote(remote) => Self::start_remote(hosted, remote, era, context),
        }
    }

    async fn start_program(
        hosted: &Hosted,
        program: &Program,
        era: Era,
        context: &Arc<Context>,
    ) -> Result<Self, NotStarted> {
        // Whoever gives the processes away waits for this one, or it is not started.
        let _starting = hosted.shared.starting.read().await;
        if hosted.is_frozen() {
            return Err(NotStarted::own("another daemon has taken over"));
        }
        let id = hosted.next_instance_id();
        let (child, pipes) =
            process::spawn(&hosted.spec().name, program, id, hosted.settings(), &context.bounds, hosted.keeper())
                .await
                .map_err(|error| NotStarted {
                    cause: if matches!(error, SpawnError::Keeper(_)) { Cause::Keeper } else { Cause::Exit },
                    reason: format!("could not be started: {}", stdx::chain::Chain(&error)),
                })?;
        context.log.add(id, LogSource::Host, &format!("started as process {}", child.pid));
        let (server, generation, pid) = (hosted.spec().name.clone(), hosted.spec().generation, child.pid);
        let running = Self::around(child, pipes, era, context, None);
        context.tell(|| Life::Started { server, generation, instance: id, pid }).await;
        Ok(running)
    }

    /// Takes over a process that an earlier daemon started and that got through its handshake.
    pub(crate) fn adopt(child: Child, pipes: Pipes, known: &Known, left: Left, context: &Arc<Context>) -> Self {
        context.log.add(child.id, LogSource::Host, &format!("taken over as process {}", child.pid));
        let running = Self::around(child, pipes, known.key.era, context, Some(left));
        running.instance.greeted(known.greeting.clone());
        running
    }

    /// Takes over a process that only the old daemon needs.
    pub(crate) fn guest(heir: Heir, context: &Arc<Context>) -> Self {
        let Heir { child, pipes, story, rest } = heir;
        let started_at_ms = story.map_or_else(stdx::clock::unix_ms, |story| story.started_at_ms);
        Self::around(child, pipes, Era::Legacy, context, Some(Left { started_at_ms, rest }))
    }

    fn around(child: Child, pipes: Pipes, era: Era, context: &Arc<Context>, left: Option<Left>) -> Self {
        let since = left.as_ref().map(|left| left.started_at_ms);
        // Until a living daemon has let go for good, what is in the pipes is its own: it may yet take them back.
        let waits = left.is_some().then(|| context.predecessor.clone()).flatten();
        let (unread, unwritten) = left.and_then(|left| left.rest).map(|rest| (rest.unread, rest.unwritten)).unzip();
        let writer =
            Writer::new(pipes.stdin, context.limits.queue_bytes, pipes.notebook.clone(), unwritten, waits.is_some());
        let mut instance = Instance::new(child.id, Some(child.pid), era, Outlet::Pipe(writer), context.clone());
        if let Some(since) = since {
            instance.taken_over(since);
        }
        let instance = Arc::new(instance);
        context.living.add(&instance);
        let (reads, drains, errs) = (instance.clone(), instance.clone(), instance.clone());
        let waits_too = waits.clone();
        let reader = async move {
            ours(waits).await;
            let end = reader::read(reads.clone(), pipes.stdout, unread).await;
            reads.pause.over();
            end
        };
        let drain = async move {
            ours(waits_too).await;
            drains.outlet().drain().await;
        };
        let piped = Piped {
            child,
            notebook: pipes.notebook,
            reader: stdx::task::spawn("stdout", reader),
            drain: stdx::task::spawn("stdin", drain),
            stderr: stdx::task::spawn("stderr", stderr::read(errs, pipes.stderr)),
            closed: None,
            end: None,
        };
        Self { instance, body: Body::Program(Box::new(piped)) }
    }

    /// Tells a later daemon what it must know to take the process over.
    pub(crate) fn write_down(&self, generation: u64, key: &Key, introduction: &Introduction) {
        let Body::Program(piped) = &self.body else { return };
        let Some(story) = Story::of(&self.instance, generation, key, introduction) else { return };
        if let Err(error) = piped.notebook.write(&story) {
            tracing::warn!(server = %self.instance.server(), %error, "a process would not survive the daemon: it could not be noted");
        }
    }

    fn start_remote(hosted: &Hosted, remote: &Remote, era: Era, context: &Arc<Context>) -> Result<Self, NotStarted> {
        let id = hosted.next_instance_id();
        let opened = Link::open(hosted, remote, era, context);
        let link = opened.map_err(|error| NotStarted::own(stdx::chain::Chain(&error).to_string()))?;
        context.log.add(id, LogSource::Host, &format!("speaks to {}", remote.url()));
        let outlet = Outlet::Remote(link.clone());
        let instance = Arc::new(Instance::new(id, None, era, outlet, context.clone()));
        link.serve(&instance);
        Ok(Self { instance, body: Body::Remote(link) })
    }

    /// Waits until the instance has ended or can no longer be used, and says why. Cancel-safe.
    pub(crate) async fn ended(&mut self) -> String {
        match &mut self.body {
            Body::Program(piped) => piped.ended().await,
            Body::Remote(link) => link.ended().await,
        }
    }

    /// Why it ended, of what ends unasked.
    pub(crate) fn cause(&self) -> Cause {
        match &self.body {
            Body::Program(piped) if piped.child.over().is_some() => Cause::Limit,
            Body::Program(piped) if piped.child.ended_by_host() => Cause::Keeper,
            Body::Program(_) | Body::Remote(_) => Cause::Exit,
        }
    }

    /// What the instance met that says nothing about the era that its server speaks (E100). Of a program even silence
    /// says something, but an end with the keeper does not.
    pub(crate) fn trouble(&self, silent: bool) -> Option<String> {
        match &self.body {
            Body::Program(piped) => piped.child.ended_by_host().then(|| Fate::KeeperGone.to_string()),
            Body::Remote(link) => {
                link.trouble().or_else(|| silent.then(|| "it did not answer the probe in time".to_owned()))
            }
        }
    }

    /// A handshake's error in words, without anything secret that a server may have repeated.
    pub(crate) fn said(&self, error: &HandshakeError) -> String {
        match &self.body {
            Body::Program(_) => error.to_string(),
            Body::Remote(link) => link.trouble().unwrap_or_else(|| link.redact(&error.to_string())),
        }
    }

    /// Why the handshake failed: a process that broke it off has an end that says more.
    pub(crate) async fn explain(&mut self, error: &HandshakeError, hosted: &Arc<Hosted>) -> String {
        match error {
            HandshakeError::Ended(_) => match &self.body {
                Body::Program(_) => {
                    let end = tokio::time::timeout(Duration::from_millis(100), self.ended()).await;
                    end.unwrap_or_else(|_| error.to_string())
                }
                Body::Remote(link) => {
                    // Whatever speaks neither is another server than the one that was probed.
                    if link.trouble().is_none() {
                        hosted.doubt_verdict();
                    }
                    self.said(error)
                }
            },
            // A server that refuses the era that it was found to speak was judged wrongly, or has changed.
            HandshakeError::Refused { .. } | HandshakeError::Invalid(_) => {
                hosted.doubt_verdict();
                self.said(error)
            }
        }
    }

    /// Lets calls in flight finish, for at most `grace`.
    pub(crate) async fn drain(&self, grace: Duration) {
        let step = Duration::from_millis(10);
        let mut waited = Duration::ZERO;
        let busy = || self.instance.in_flight() > 0 || self.instance.earlier_calls() > 0;
        while busy() && waited < grace {
            tokio::time::sleep(step).await;
            waited += step;
        }
    }

    /// Ends the instance, tells every waiting call, and returns how it ended.
    pub(crate) async fn stop(self, why: &str) -> ExitReport {
        let grace = self.instance.context.limits.stop_grace;
        let cause = self.cause();
        self.end(why, cause, grace).await
    }

    /// The same for one that does not react: it gets a quarter of the time to leave.
    pub(crate) async fn stop_wedged(self, why: &str) -> ExitReport {
        let grace = self.instance.context.limits.stop_grace / 4;
        self.end(why, Cause::Wedged, grace).await
    }

    /// The same, where it was asked for: what still waits hears that staithe ended it.
    pub(crate) async fn stop_as_asked(self) -> ExitReport {
        let grace = self.instance.context.limits.stop_grace;
        self.end("staithe was told to stop it", Cause::Asked, grace).await
    }

    async fn end(self, why: &str, cause: Cause, grace: Duration) -> ExitReport {
        let Self { instance, body } = self;
        let asked = cause == Cause::Asked;
        let mut how = None;
        let report = match body {
            Body::Program(mut piped) => {
                piped.hear_out().await;
                let status = piped.end.clone().unwrap_or_else(|| why.to_owned());
                let (unheard, by_host) = (piped.child.is_unheard(), piped.child.ended_by_host());
                let report = ExitReport { unheard, by_host, ..instance.report(status, asked) };
                instance.fail_all(&report);
                // Whoever waits for it to stop must not wait for one that is about to be aborted.
                instance.pause.over();
                if let Some(predecessor) = &instance.context.predecessor {
                    predecessor.lost(instance.id, &report);
                }
                how = piped.stop(grace).await;
                piped.told(&instance, how.as_deref(), cause).await;
                report
            }
            Body::Remote(link) => {
                let report = instance.report(why.to_owned(), asked);
                instance.fail_all(&report);
                link.close(grace).await;
                report
            }
        };
        let how = how.map(|how| format!(" ({how})")).unwrap_or_default();
        if report.unheard {
            return report;
        }
        instance.context.log.add(instance.id, LogSource::Host, &format!("ended: {}{how}", report.status));
        report
    }
}

/// Done when no other daemon will take the pipes back.
async fn ours(predecessor: Option<Arc<Predecessor>>) {
    if let Some(predecessor) = predecessor {
        predecessor.let_go().await;
    }
}

impl Piped {
    async fn ended(&mut self) -> String {
        if let Some(end) = &self.end {
            return end.clone();
        }
        let closed = match self.closed.clone() {
            Some(closed) => closed,
            None => {
                let closed = tokio::select! {
                    status = self.child.exited() => {
                        self.end = Some(status.clone());
                        return status;
                    }
                    end = &mut self.reader => match end.ok().flatten() {
                        // What it dies of now is our doing.
                        Some(ReadEnd::LineTooLong { limit }) => return format!("it wrote a line of more than {limit} bytes"),
                        Some(ReadEnd::Closed) | None => "it closed its stdout".to_owned(),
                    },
                    _ = &mut self.drain => "it closed its stdin".to_owned(),
                };
                self.closed = Some(closed.clone());
                closed
            }
        };
        // A process that ends closes its pipes first, and on a busy machine long before.
        match tokio::time::timeout(Duration::from_millis(100), self.child.exited()).await {
            Ok(status) => {
                self.end = Some(status.clone());
                status
            }
            // What took much of the machine takes longer to go.
            Err(_elapsed) => self.child.over().unwrap_or(closed),
        }
    }

    /// What it wrote before it died was said: a moment for the readers to take it in.
    async fn hear_out(&mut self) {
        if self.end.is_none() {
            return;
        }
        let both = async {
            if !self.reader.is_finished() {
                let _ = (&mut self.reader).await;
            }
            let _ = (&mut self.stderr).await;
        };
        let _ = tokio::time::timeout(Duration::from_millis(20), both).await;
    }

    /// Tells how the process ended, unless another daemon has it.
    async fn told(&self, instance: &Instance, how: Option<&str>, cause: Cause) {
        if self.child.is_given_away() || self.child.is_unheard() {
            return;
        }
        let ended = || Life::Ended {
            server: instance.server().to_string(),
            instance: instance.id,
            pid: self.child.pid,
            how: self.end.as_deref().or(how).unwrap_or("it was ended").to_owned(),
            cause: cause.as_str(),
        };
        instance.context.tell(ended).await;
    }

    /// Ends the process and its tree. How the process ended, where it had not before.
    async fn stop(&mut self, grace: Duration) -> Option<String> {
        let how = if self.child.is_given_away() {
            // Its mark is that of a process which may live, and serve another daemon's callers.
            self.child.leave();
            None
        } else {
            self.stop_ours(grace).await
        };
        self.reader.abort();
        self.drain.abort();
        self.stderr.abort();
        how
    }

    async fn stop_ours(&mut self, grace: Duration) -> Option<String> {
        self.child.close_stdin().await;
        let how = match &self.end {
            Some(_) => {
                tree::sweep(self.child.pid, self.child.mark.clone(), grace).await;
                None
            }
            None => Some(tree::stop(&mut self.child, grace).await),
        };
        self.child.forget().await;
        how
    }
}
