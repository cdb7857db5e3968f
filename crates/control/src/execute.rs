//! One function for every command and every door: authorize, run, trace.

use crate::acts::{Act, Acts};
use crate::authorize::{self, Permit};
use crate::commands::upgrade::Turn;
use crate::commands::{import, ledger, logs, look, server, token, upgrade};
use crate::follow::LogFollow;
use crate::identify::{Door, Operator};
use crate::problem;
use model::report::LedgerReport;
use model::{Command, Problem, Reply, ServerName};
use oauth::Authority;
use std::fmt;
use std::sync::Arc;
use store::Store;
use supervisor::Supervisor;
use tokio::sync::{RwLock, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// What a host was started as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKind {
    /// The daemon: it serves what is stored.
    Serve,
    /// It hosts the one server of its command line; what is imported beside it would be lost at its next start.
    Run,
    /// The same for the built-in server.
    Demo,
}

impl fmt::Display for HostKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Serve => "serve",
            Self::Run => "run",
            Self::Demo => "demo",
        })
    }
}

/// What is true of this host from its start to its end.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// What it was started as.
    pub kind: HostKind,
    /// staithe's own version.
    pub version: String,
    /// The daemon's process.
    pub pid: u32,
    /// Since when, Unix milliseconds.
    pub started_at_ms: i64,
    /// Base URL of the public listener, without a path.
    pub public: String,
    /// Base URL by which this machine itself reaches the public listener, also where a proxy stands in front.
    pub local: String,
    /// Base URL of the operator listener.
    pub operator: String,
    /// The state directory.
    pub state_dir: String,
    /// Whether callers need a token.
    pub auth: bool,
    /// Looks at the ledger. `None`: there is none.
    pub ledger: Option<LedgerLook>,
}

/// Looks at the ledger.
#[derive(Clone)]
pub struct LedgerLook(pub Arc<dyn Fn() -> LedgerReport + Send + Sync>);

impl fmt::Debug for LedgerLook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LedgerLook")
    }
}

/// The handle that doors hold. Cheap to clone; it has no state of its own.
#[derive(Clone)]
pub struct Control {
    parts: Arc<Parts>,
}

/// What commands work with.
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) supervisor: Supervisor,
    pub(crate) authority: Authority,
    pub(crate) facts: HostFacts,
    /// Where operators' acts are recorded. `None`: nowhere.
    pub(crate) acts: Option<Acts>,
    pub(crate) upgrades: mpsc::Sender<Upgrade>,
    /// There is one upgrade at a time: whoever has this may ask for it.
    pub(crate) turn: Arc<Semaphore>,
    /// Read by each command while it changes something, written by an upgrade from before the other daemon reads what is
    /// stored: it reads that once, so what is changed later would be done in vain.
    pub(crate) changes: Arc<RwLock<()>>,
    /// Cancelled once the host stops.
    pub(crate) stopping: CancellationToken,
}

/// An operator wants another daemon in this one's place. Whoever looks after the host's life does it.
#[derive(Debug)]
pub struct Upgrade {
    /// The program to start, as the operator named it.
    pub program: Option<String>,
    /// Takes what came of it.
    pub done: oneshot::Sender<Result<String, Problem>>,
    /// To be held until the upgrade has failed, or for good: see there.
    pub turn: Turn,
}

/// What comes of a command.
#[derive(Debug)]
pub enum Outcome {
    /// One reply.
    Reply(Reply),
    /// Log lines, one at a time.
    Follow(LogFollow),
}

impl Control {
    /// Brings together what commands work with, and hears of the upgrades that operators want. `stopping` is cancelled
    /// once the host stops.
    pub fn new(
        store: Store,
        supervisor: Supervisor,
        authority: Authority,
        facts: HostFacts,
        acts: Option<Acts>,
        stopping: CancellationToken,
    ) -> (Self, mpsc::Receiver<Upgrade>) {
        let (upgrades, wanted) = mpsc::channel(1);
        let (turn, changes) = (Arc::new(Semaphore::new(1)), Arc::new(RwLock::new(())));
        let parts = Parts { store, supervisor, authority, facts, acts, upgrades, turn, changes, stopping };
        (Self { parts: Arc::new(parts) }, wanted)
    }

    /// Does what the operator asks, if the operator may. What changed is stored when this returns, and the supervisor
    /// has begun to make it true.
    pub async fn execute(&self, operator: &Operator, door: Door, command: Command) -> Result<Outcome, Problem> {
        let name = authorize::name(&command);
        let server = authorize::server(&command).cloned();
        let looks = authorize::needs(&command) == authorize::Right::Read;
        let result = match authorize::authorize(operator, command) {
            Ok(permit) => self.permitted(operator, door, name, server.as_ref(), permit).await,
            Err(problem) => Err(problem),
        };
        let result = result.map_err(problem::without_tokens);
        let who = operator.principal();
        let uid = operator.uid();
        let server = server.as_ref().map(tracing::field::display);
        match &result {
            // `run` and `demo` make their own token: nobody needs to read that.
            Ok(_) if door == Door::CommandLine => {
                tracing::debug!(operator = %who, uid, %door, command = name, server, "the host's own command was done");
            }
            Ok(_) if looks => {
                tracing::debug!(operator = %who, uid, %door, command = name, server, "an operator looked");
            }
            Ok(_) => {
                tracing::info!(operator = %who, uid, %door, command = name, server, "an operator's command was done");
            }
            Err(problem) => {
                tracing::info!(operator = %who, uid, %door, command = name, server, %problem, "an operator's command failed");
            }
        }
        result
    }

    /// Whether every enabled server can take a call now, and each server that cannot, for readiness probes. It looks
    /// only at memory and needs no operator: names and states, no more.
    pub fn readiness(&self) -> Readiness {
        look::readiness(&self.parts)
    }

    /// A change is recorded before and after; while an upgrade goes on there is none.
    async fn permitted(
        &self,
        operator: &Operator,
        door: Door,
        name: &str,
        server: Option<&ServerName>,
        permit: Permit,
    ) -> Result<Outcome, Problem> {
        let command = permit.into_command();
        let changes = authorize::changes(&command);
        let _changing = if changes { Some(upgrade::none_goes_on(&self.parts)?) } else { None };
        let recorded = changes || matches!(command, Command::Upgrade { .. });
        let Some(acts) = self.parts.acts.as_ref().filter(|_| recorded) else { return self.run(command).await };
        let who = operator.uid().map_or_else(|| operator.principal().to_string(), |uid| format!("uid {uid}"));
        let (about, ticket) = ledger::about(acts, &command);
        let about = about.or_else(|| server.map(ToString::to_string));
        let act = acts.begin(&who, &door.to_string(), name, (about.as_deref(), ticket.as_deref())).await?;
        let sets = matches!(command, Command::Start { .. } | Command::Stop { .. } | Command::Remove { .. });
        let result = self.run(command).await;
        let recorded = match &result {
            Ok(Outcome::Reply(Reply::Imported { added, replaced, .. })) => {
                self.record_servers(&act, added.iter().chain(replaced)).await
            }
            // What failed may have been done in part.
            _ if sets => self.record_servers(&act, server.into_iter()).await,
            _ => Ok(()),
        };
        let made = match &result {
            Ok(Outcome::Reply(Reply::TokenCreated { report, .. })) => Some(report.id.as_str()),
            _ => None,
        };
        act.end(result.as_ref().err().or(recorded.as_ref().err()), made).await?;
        recorded.and(result)
    }

    /// Records what servers are from here on.
    async fn record_servers(&self, act: &Act, servers: impl Iterator<Item = &ServerName>) -> Result<(), Problem> {
        for name in servers {
            let stored = self.parts.store.server(name).await;
            let spec =
                stored.map_err(|error| problem::failed("record what the server is now", error.blame(), &error))?;
            act.set(name, spec.as_ref()).await?;
        }
        Ok(())
    }

    async fn run(&self, command: Command) -> Result<Outcome, Problem> {
        let parts = &*self.parts;
        let reply = match command {
            Command::Logs { server, lines, follow } => {
                return logs::logs(parts, &server, lines, follow).await.map(Outcome::Follow);
            }
            Command::Status => Ok(look::status(parts).await),
            Command::Servers => Ok(Reply::Servers(look::servers(parts).await)),
            Command::Instances { server } => look::instances(parts, server.as_ref()).await,
            Command::Sessions { server } => look::sessions(parts, server.as_ref()).await,
            Command::Restart { server } => server::restart(parts, &server).await,
            Command::Stop { server } => server::switch(parts, &server, false).await,
            Command::Start { server } => server::switch(parts, &server, true).await,
            Command::Remove { server } => server::remove(parts, &server).await,
            Command::Upgrade { program } => upgrade::upgrade(parts, program).await,
            Command::Import { servers, replace } => import::import(parts, servers, replace).await,
            Command::Access { server } => token::access(parts, &server).await,
            Command::TokenCreate { principal, server, expires_in_s, audit } => {
                token::create(parts, principal, server, expires_in_s, audit).await
            }
            Command::Tokens => Ok(token::list(parts)),
            Command::TokenRevoke { id } => token::revoke(parts, &id).await,
            Command::Pseudonyms => Ok(ledger::pseudonyms(parts)),
            Command::Content { index } => ledger::content(parts, index),
            Command::LedgerErase { principal, .. } => ledger::erase(parts, &principal).await,
            Command::LedgerPrune { before } => ledger::prune(parts, before).await,
        };
        reply.map(Outcome::Reply)
    }
}

/// Whether the host can take calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Whether every enabled server can take a call now, and the ledger its records.
    pub ready: bool,
    /// Why the ledger takes none.
    pub ledger: Option<String>,
    /// Each enabled server that cannot: name, state in one word, reason.
    pub waiting: Vec<(String, String, Option<String>)>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("facts", &self.parts.facts).finish_non_exhaustive()
    }
}
