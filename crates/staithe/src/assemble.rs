//! Constructs everything, top to bottom, and takes it down again. No decisions here.

use crate::addresses;
use crate::config::Config;
use crate::export::{Endpoint, Exported, Exporter};
use crate::fault;
use crate::metrics;
use crate::state::{StateDir, StateLock};
use control::{Control, HostFacts, HostKind};
use doors::{Probed, Socket};
use gateway::{Auth, Meters};
use model::Problem;
use oauth::Authority;
use std::net::SocketAddr;
use std::sync::Arc;
use store::{Location, Store};
use supervisor::Supervisor;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A running host.
pub(crate) struct Host {
    /// How operators' commands are done.
    pub(crate) control: Control,
    /// Where the public and the operator listener are.
    pub(crate) listening: Listening,
    /// The servers.
    pub(crate) supervisor: Supervisor,
    /// Cancelled once the host stops, before anything of it has stopped.
    stopping: CancellationToken,
    traffic: Part,
    probes: Part,
    socket: Part,
    exporter: Option<Exporter>,
    _lock: StateLock,
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
) -> Result<Host, Problem> {
    let collector = Endpoint::choose(config.otlp_endpoint.as_deref())?;
    let (public, public_at) = listen(config.public, "--listen, or `listen.public` in the configuration").await?;
    let (probe, probe_at) = listen(config.operator, "--operator, or `listen.operator` in the configuration").await?;
    let local = addresses::base_url(public_at);
    let listening = Listening {
        public: config.public_url.clone().unwrap_or_else(|| local.clone()),
        local,
        operator: addresses::base_url(probe_at),
    };
    let socket =
        Socket::bind(&state.socket()).map_err(|error| fault::because("open the operator socket", &error, ""))?;
    let authority = Authority::open(store.clone()).await;
    let authority = authority.map_err(|error| fault::because("read the tokens", &error, ""))?;
    let settings = supervisor::Settings {
        servers_dir: state.servers(),
        identity: state.identity()?,
        public_url: listening.public.clone(),
        limits: supervisor::Limits { drain: config.serving.drain, ..config.hosting.clone() },
    };
    let supervisor = Supervisor::start(store.clone(), settings).await;
    let supervisor = supervisor.map_err(|error| fault::because("start the servers", &error, ""))?;
    let control = Control::new(store, supervisor.clone(), authority.clone(), facts(state, config, &listening, kind));
    let face = gateway::Settings {
        auth: if config.open { Auth::Open } else { Auth::Required },
        hosts: hosts(config, public_at),
        origins: config.allowed_origins.clone(),
        limits: config.serving.clone(),
    };
    let hosting = supervisor.clone();
    let stopping = CancellationToken::new();
    let exported = Arc::new(Exported::default());
    let (spans, exporter) = collector.map(|to| Exporter::start(to, exported.clone())).unzip();
    let meters = Arc::new(Meters::new(config.per_tool, spans));
    let metrics = metrics::page(supervisor.clone(), meters.clone(), exported);
    let probed = Probed { control: control.clone(), metrics, stopping: stopping.clone() };
    Ok(Host {
        traffic: Part::new("public listener", |shutdown| {
            gateway::serve(public, hosting, authority, face, meters, shutdown)
        }),
        probes: Part::new("operator listener", |shutdown| doors::serve_probe(probe, probed, shutdown)),
        socket: Part::new("operator socket", |shutdown| socket.serve(control.clone(), shutdown)),
        control,
        listening,
        supervisor,
        stopping,
        exporter,
        _lock: lock,
    })
}

async fn listen(address: SocketAddr, key: &str) -> Result<(TcpListener, SocketAddr), Problem> {
    let hint = format!("choose another address with {key}; port 0 picks a free one");
    let failed = |error: std::io::Error| fault::because(&format!("listen on {address}"), &error, &hint);
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let at = listener.local_addr().map_err(failed)?;
    Ok((listener, at))
}

fn facts(state: &StateDir, config: &Config, listening: &Listening, kind: HostKind) -> HostFacts {
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
    }
}

fn hosts(config: &Config, public_at: SocketAddr) -> Vec<String> {
    let told = config.public_url.as_deref().and_then(addresses::authority);
    config.allowed_hosts.iter().cloned().chain(told).chain(addresses::own_names(public_at)).collect()
}

impl Host {
    /// Ends when a part ended that nobody asked to end.
    pub(crate) async fn broken(&mut self) {
        tokio::select! {
            _ = &mut self.traffic.task => {}
            _ = &mut self.probes.task => {}
            _ = &mut self.socket.task => {}
        }
    }

    /// Stops everything in order. When it returns, no process of any server is left.
    pub(crate) async fn stop(mut self) {
        self.stopping.cancel();
        self.traffic.stop().await;
        if let Some(exporter) = self.exporter.take() {
            exporter.stop().await;
        }
        self.supervisor.stop().await;
        self.probes.stop().await;
        self.socket.stop().await;
    }
}
