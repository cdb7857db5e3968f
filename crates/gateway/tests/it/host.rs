//! A whole host in this process: store, tokens, supervisor and public face, on a free loopback port and in a directory
//! of its own.

use staithe_gateway::{Auth, Settings};
use model::{Mode, Principal, ServerName, ServerSpec};
use oauth::Authority;
use std::time::Duration;
use store::{Location, Store};
use supervisor::Supervisor;
use tempfile::TempDir;
use testkit::Client;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A running host.
pub(crate) struct Host {
    pub(crate) url: String,
    pub(crate) supervisor: Supervisor,
    pub(crate) authority: Authority,
    pub(crate) store: Store,
    pub(crate) dir: TempDir,
    identity: String,
    shutdown: CancellationToken,
    serving: JoinHandle<Option<()>>,
}

/// What may differ from the defaults.
pub(crate) struct Setup {
    pub(crate) auth: Auth,
    pub(crate) face: staithe_gateway::Limits,
    pub(crate) supervisor: supervisor::Limits,
}

impl Default for Setup {
    fn default() -> Self {
        let supervisor = supervisor::Limits { stop_grace: Duration::from_millis(300), ..supervisor::Limits::default() };
        Self { auth: Auth::Open, face: staithe_gateway::Limits::default(), supervisor }
    }
}

/// A server spec for a binary of the test kit.
pub(crate) fn server(name: &str, bin: &str, args: &[&str]) -> ServerSpec {
    let args = args.iter().map(|a| (*a).to_owned()).collect();
    ServerSpec::new(name.parse().unwrap(), testkit::bin(bin).to_str().unwrap(), args)
}

/// The same in another mode.
pub(crate) fn in_mode(mut spec: ServerSpec, mode: Mode) -> ServerSpec {
    spec.mode = mode;
    spec
}

impl Host {
    pub(crate) async fn open(servers: Vec<ServerSpec>) -> Self {
        Self::with(servers, Setup::default()).await
    }

    pub(crate) async fn with(servers: Vec<ServerSpec>, setup: Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Location::Sqlite(dir.path().join("db/staithe.db"))).await.unwrap();
        for spec in servers {
            store.put_server(spec).await.unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let identity = stdx::random::handle().unwrap();
        let settings = supervisor::Settings {
            servers_dir: dir.path().join("servers"),
            identity: identity.clone(),
            public_url: url.clone(),
            limits: setup.supervisor,
        };
        let authority = Authority::open(store.clone()).await.unwrap();
        let supervisor = Supervisor::start(store.clone(), settings).await.unwrap();
        let shutdown = CancellationToken::new();
        let face = Settings { auth: setup.auth, hosts: Vec::new(), origins: Vec::new(), limits: setup.face };
        let served = staithe_gateway::serve(listener, supervisor.clone(), authority.clone(), face, shutdown.clone());
        let serving = stdx::task::spawn("serve", served);
        Self { url, supervisor, authority, store, dir, identity, shutdown, serving }
    }

    /// A client without a token.
    pub(crate) fn client(&self) -> Client {
        Client::new(&self.url, None).unwrap()
    }

    /// A client that is `principal`.
    pub(crate) async fn client_of(&self, principal: &str) -> Client {
        let principal: Principal = principal.parse().unwrap();
        let minted = self.authority.mint(principal, None, None).await.ok().unwrap();
        Client::new(&self.url, Some(minted.token.into_exposed())).unwrap()
    }

    /// Living processes that belong to this host, found by their mark.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mark = format!("STAITHE_INSTANCE={}/", self.identity);
        let numbers = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
        let marked = |pid: &i32| {
            let raw = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            raw.split(|b| *b == 0).any(|entry| entry.starts_with(mark.as_bytes()))
        };
        numbers.filter(marked).collect()
    }

    /// Waits until the host says that every server is ready.
    pub(crate) async fn ready(&self) {
        eventually("every server is ready", || self.supervisor.ready()).await;
    }

    /// Stops in order; nothing may be left.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        (&mut self.serving).await.unwrap();
        self.supervisor.stop().await;
        assert_eq!(self.processes(), Vec::<i32>::new(), "processes were left behind");
    }
}

/// The name of a server.
pub(crate) fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

/// Waits for at most 20 s until `holds`.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(holds(), "never came true: {what}");
}
