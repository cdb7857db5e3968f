//! Constructs everything, top to bottom, and takes it down again. No decisions here.

use crate::addresses;
use crate::book::{self, HostLedger, Told};
use crate::config::Config;
use crate::export::{Endpoint, Exported, Exporter};
use crate::fault;
use crate::listeners;
use crate::metrics;
use crate::state::{StateDir, StateLock};
use control::{Control, HostFacts, HostKind, LedgerLook, Upgrade};
use doors::{Probed, Socket};
use gateway::{Auth, Leaving, Meters};
use model::Problem;
use oauth::Authority;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use store::{Location, Store};
use supervisor::{Keeper, KeeperError, Place, Scribe, Succession, Supervisor};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The longest that a stop takes for which somebody asks twice.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A running host.
pub(crate) struct Host {
    /// How operators' commands are done.
    pub(crate) control: Control,
    /// Where the public and the operator listener are.
    pub(crate) listening: Listening,
    /// The servers.
    pub(crate) supervisor: Supervisor,
    /// Holds what outlives this process.
    pub(crate) keeper: Keeper,
    /// Another daemon takes over.
    pub(crate) leaving: Leaving,
    /// Where everything is recorded.
    pub(crate) ledger: HostLedger,
    /// The upgrades that operators want.
    upgrades: mpsc::Receiver<Upgrade>,
    public_at: SocketAddr,
    /// The servers are not ours alone.
    pub(crate) has_keeper: bool,
    /// A stop leaves the servers to the keeper, for the next daemon.
    pub(crate) leaves_servers: bool,
    /// Cancelled once the host stops, before anything of it has stopped.
    stopping: CancellationToken,
    traffic: Part,
    probes: Part,
    socket: Part,
    exporter: Option<Exporter>,
    lock: Option<StateLock>,
}

/// Base URLs without a path.
#[derive(Clone, Debug)]
pub(crate) struct Listening {
    /// What clients are told.
    pub(crate) public: String,
    /// What reaches the public listener from this machine.
    pub(crate) local: String,
    /// The probes.
    pub(crate) operator: String,
}

/// A task of the host and how to end it.
struct Part {
    task: JoinHandle<Option<()>>,
    shutdown: CancellationToken,
}

impl Part {
    fn new<F: Future<Output = ()> + Send + 'static>(
        name: &'static str,
        make: impl FnOnce(CancellationToken) -> F,
    ) -> Self {
        let shutdown = CancellationToken::new();
        Self { task: stdx::task::spawn(name, make(shutdown.clone())), shutdown }
    }

    async fn stop(&mut self) {
        self.shutdown.cancel();
        if !self.task.is_finished() {
            drop((&mut self.task).await);
        }
    }
}

/// Opens the database.
pub(crate) async fn open_store(location: Location) -> Result<Store, Problem> {
    Store::open(location).await.map_err(|error| fault::because("open the database", &error, ""))
}

/// Starts a host on a state directory that this process holds. When it returns, every listener answers.
pub(crate) async fn assemble(
    state: &StateDir,
    lock: StateLock,
    store: Store,
    config: &Config,
    kind: HostKind,
    succession: Option<Succession>,
) -> Result<Host, Problem> {
    let collector = Endpoint::choose(config.otlp_endpoint.as_deref())?;
    let keeper = attach(state, config).await?;
    claim(state, &keeper, kind).await?;
    let takes_over = succession.is_some();
    let public = "--listen, or `listen.public` in the configuration";
    let public = listeners::open(&keeper, listeners::PUBLIC, config.public, public).await?;
    let probe = "--operator, or `listen.operator` in the configuration";
    let probe = listeners::open(&keeper, listeners::OPERATOR, config.operator, probe).await?;
    let local = addresses::base_url(public.at);
    let listening = Listening {
        public: config.public_url.clone().unwrap_or_else(|| local.clone()),
        local,
        operator: addresses::base_url(probe.at),
    };
    let bound = if takes_over { Socket::beside(&state.socket()) } else { Socket::bind(&state.socket()) };
    let socket = bound.map_err(|error| fault::because("open the operator socket", &error, ""))?;
    let authority = Authority::open(store.clone()).await;
    let authority = authority.map_err(|error| fault::because("read the tokens", &error, ""))?;
    let (scribe, lives) = supervisor::lives();
    let settings = hosting(state, config, &listening, scribe.clone())?;
    // Of the daemon before this one, which are not ours to end as long as we have not taken their place.
    let held = takes_over || keeper.holds_servers().await.unwrap_or(true);
    let supervisor = Supervisor::start(store.clone(), settings, keeper.clone(), succession).await;
    let supervisor = supervisor.map_err(|error| fault::because("start the servers", &error, ""))?;
    let stopping = CancellationToken::new();
    let words = Told { scribe, lives, config: config.digest(), shared: config.postgres.is_some() };
    let ledger = match book::open(state, &config.ledger, &listening.public, &store, &supervisor, words).await {
        Ok(ledger) => ledger,
        Err(problem) => {
            if !held {
                supervisor.stop().await;
                told("end the keeper", keeper.end(Duration::ZERO).await);
            }
            return Err(problem);
        }
    };
    let facts = facts(state, config, &listening, kind, &ledger);
    let (acts, hosted) = (Some(ledger.acts.clone()), supervisor.clone());
    let (control, upgrades) = Control::new(store, hosted, authority.clone(), facts, acts, stopping.clone());
    let leaving = Leaving::default();
    let face = face(config, public.at, leaving.clone(), &ledger);
    let traffic = supervisor.clone();
    let exported = Arc::new(Exported::default());
    let (spans, exporter) = collector.map(|to| Exporter::start(to, exported.clone())).unzip();
    let meters = Arc::new(Meters::new(config.per_tool, spans));
    let metrics = metrics::page(supervisor.clone(), meters.clone(), exported, ledger.clone());
    let probed = Probed { control: control.clone(), metrics, stopping: stopping.clone() };
    Ok(Host {
        traffic: Part::new("public listener", |shutdown| {
            gateway::serve(public.listener, traffic, authority, face, meters, shutdown)
        }),
        probes: Part::new("operator listener", |shutdown| doors::serve_probe(probe.listener, probed, shutdown)),
        socket: Part::new("operator socket", |shutdown| socket.serve(control.clone(), shutdown)),
        control,
        listening,
        supervisor,
        keeper,
        leaving,
        ledger,
        upgrades,
        public_at: public.at,
        has_keeper: config.keeper,
        leaves_servers: config.leaves_servers,
        stopping,
        exporter,
        lock: Some(lock),
    })
}

/// The keeper of this state directory; started if there is none, and nobody else starts it.
async fn attach(state: &StateDir, config: &Config) -> Result<Keeper, Problem> {
    if config.keeper_runs {
        let hint = "--keeper-runs says that another service runs `staithe keeper`: start that first";
        let place = Place::Socket(keeper::socket_path(state.path()));
        let attached = Keeper::attach(place).await;
        return attached.map_err(|error| fault::because("reach the keeper of the processes", &error, hint));
    }
    let program = std::env::current_exe().map_err(|error| fault::because("find this program", &error, ""))?;
    let dir = state.path().to_path_buf();
    let place = if config.keeper {
        Place::StateDir { program, dir }
    } else if let Ok(left) = UnixStream::connect(keeper::socket_path(&dir)).await {
        return Err(still_held(&left));
    } else {
        Place::Here(dir)
    };
    Keeper::attach(place).await.map_err(|error| fault::because("reach the keeper of the processes", &error, ""))
}

/// Notes what works here. What a killed `run` left is not the daemon's to take over, nor the other way round: each knows the
/// servers of its own database, and would end all others.
async fn claim(state: &StateDir, keeper: &Keeper, kind: HostKind) -> Result<(), Problem> {
    let failed = |error: KeeperError| fault::because("ask the keeper what it holds", &error, "");
    let last = state.last_kind().filter(|last| *last != kind.to_string());
    if let Some(last) = last
        && keeper.holds_servers().await.map_err(failed)?
    {
        let socket = UnixStream::connect(keeper::socket_path(state.path())).await;
        let (name, kill) = socket.as_ref().map_or_else(|_| nobody(), named);
        return Err(fault::failed(
            format!("{name} still holds the servers of a `staithe {last}` that did not end in order"),
            format!(
                "start that `staithe {last}` again, which takes them over; or {kill}, which ends them; or use another --state-dir"
            ),
        ));
    }
    state.note_kind(&kind.to_string())
}

/// A keeper that cannot be seen from here, and how to end it.
fn nobody() -> (String, String) {
    ("a keeper".to_owned(), "end it".to_owned())
}

/// The keeper at the other end, and how to end it.
fn named(keeper: &UnixStream) -> (String, String) {
    let pid = keeper.peer_cred().ok().and_then(|peer| peer.pid()).filter(|pid| *pid > 0);
    pid.map_or_else(nobody, |pid| (format!("keeper {pid}"), format!("`kill {pid}`")))
}

/// There shall be no keeper, and an earlier daemon left one.
fn still_held(keeper: &UnixStream) -> Problem {
    let (name, kill) = named(keeper);
    fault::failed(
        format!("{name} still holds the servers that an earlier staithe left"),
        format!("start without --no-keeper, which takes them over; or {kill}, which ends them too, and start again"),
    )
}

fn hosting(
    state: &StateDir,
    config: &Config,
    listening: &Listening,
    scribe: Scribe,
) -> Result<supervisor::Settings, Problem> {
    Ok(supervisor::Settings {
        servers_dir: state.servers(),
        identity: state.identity()?,
        public_url: listening.public.clone(),
        limits: supervisor::Limits {
            drain: config.serving.drain,
            inherited_calls: config.serving.call_timeout,
            inherited_calls_max: config.serving.call_timeout_max,
            ..config.hosting.clone()
        },
        scribe: Some(scribe),
    })
}

fn face(config: &Config, public_at: SocketAddr, leaving: Leaving, ledger: &HostLedger) -> gateway::Settings {
    gateway::Settings {
        auth: if config.open { Auth::Open } else { Auth::Required },
        hosts: hosts(config, public_at),
        origins: config.allowed_origins.clone(),
        limits: config.serving.clone(),
        leaving,
        book: ledger.book.clone(),
        audit: Some(ledger.audit(config.ledger.public)),
    }
}

fn facts(state: &StateDir, config: &Config, listening: &Listening, kind: HostKind, ledger: &HostLedger) -> HostFacts {
    let ledger = ledger.clone();
    HostFacts {
        kind,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started_at_ms: stdx::clock::unix_ms(),
        public: listening.public.clone(),
        local: listening.local.clone(),
        operator: listening.operator.clone(),
        state_dir: state.path().display().to_string(),
        auth: !config.open,
        ledger: Some(LedgerLook(Arc::new(move || ledger.report()))),
    }
}

fn hosts(config: &Config, public_at: SocketAddr) -> Vec<String> {
    let told = config.public_url.as_deref().and_then(addresses::authority);
    config.allowed_hosts.iter().cloned().chain(told).chain(addresses::own_names(public_at)).collect()
}

impl Host {
    /// An upgrade that an operator wants; `None` when a part ended that nobody asked to end. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Upgrade> {
        tokio::select! {
            wanted = self.upgrades.recv() => wanted,
            _ = &mut self.traffic.task => None,
            _ = &mut self.probes.task => None,
            _ = &mut self.socket.task => None,
        }
    }

    /// Another daemon may hold the state directory.
    pub(crate) fn unlock(&mut self) {
        self.lock = None;
    }

    /// This daemon holds it again.
    pub(crate) fn lock_again(&mut self, lock: StateLock) {
        self.lock = Some(lock);
    }

    /// Another daemon serves: what still comes to this one is carried there.
    pub(crate) fn leave(&self) {
        self.stopping.cancel();
        self.leaving.leave(self.public_at);
    }

    /// Ends when the last call of a replaced daemon has.
    pub(crate) async fn finish(mut self) {
        self.probes.stop().await;
        if !self.traffic.task.is_finished() {
            drop((&mut self.traffic.task).await);
        }
        // The daemon before this one may still need what passes through here.
        self.supervisor.alone().await;
        if let Some(exporter) = self.exporter.take() {
            exporter.stop().await;
        }
        self.socket.stop().await;
        self.ledger.settle().await;
    }

    /// Stops everything in order. When it returns, no process of any server is left, or all of them are the keeper's.
    pub(crate) async fn stop(&mut self) {
        self.stopping.cancel();
        if self.leaves_servers {
            self.traffic.stop().await;
            self.supervisor.end_spares().await;
        } else {
            // Who connects from now on is refused instead of waiting for nobody.
            told("close the public listener", self.keeper.drop_listener(listeners::PUBLIC).await);
            self.traffic.stop().await;
        }
        // Its last calls are exported; servers may take a while to end.
        if let Some(exporter) = self.exporter.take() {
            exporter.stop().await;
        }
        if !self.leaves_servers {
            self.supervisor.stop().await;
        }
        self.probes.stop().await;
        self.socket.stop().await;
        self.ledger.close().await;
        if self.leaves_servers {
            self.keeper.detach().await;
        } else {
            told("end the keeper", self.keeper.end(Duration::ZERO).await);
        }
    }

    /// The same without waiting for anybody, also while it is stopping: nothing has its grace any more, and nothing is left.
    pub(crate) async fn stop_at_once(&mut self) {
        let processes = async {
            if self.leaves_servers {
                self.keeper.detach().await;
            } else {
                told("end the keeper", self.keeper.end(Duration::ZERO).await);
            }
        };
        // A process that the kernel does not let go, or an operator's command, keeps nobody.
        let both = async { tokio::join!(processes, self.socket.stop(), self.ledger.close()) };
        if tokio::time::timeout(AT_ONCE, both).await.is_err() {
            tracing::warn!("something of this host may be left");
        }
    }
}

fn told(what: &str, outcome: Result<(), KeeperError>) {
    if let Err(error) = outcome {
        tracing::warn!(error = %stdx::chain::Chain(&error), "could not {what}");
    }
}
