//! A whole host in this process: store, tokens, supervisor and public face, on a free loopback port and in a directory
//! of its own.

use model::report::ServerReport;
use model::{Mode, Principal, ServerName, ServerSpec};
use oauth::Authority;
use serde_json::{Value, json};
use staithe_gateway::{Auth, CallSpan, Leaving, Meters, Settings};
use std::sync::Arc;
use std::time::Duration;
use store::{Location, Store};
use supervisor::{Keeper, Place, Supervisor};
use tempfile::TempDir;
use testkit::wait::eventually;
use testkit::{Client, Session};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A running host.
pub(crate) struct Host {
    pub(crate) url: String,
    pub(crate) supervisor: Supervisor,
    pub(crate) authority: Authority,
    pub(crate) store: Store,
    pub(crate) meters: Arc<Meters>,
    pub(crate) keeper: Keeper,
    keeper_thread: keeper::InThread,
    dir: TempDir,
    setup: Setup,
    identity: String,
    shutdown: CancellationToken,
    serving: JoinHandle<Option<()>>,
}

/// What may differ from the defaults.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) auth: Auth,
    pub(crate) face: staithe_gateway::Limits,
    pub(crate) supervisor: supervisor::Limits,
    pub(crate) per_tool: bool,
    pub(crate) spans: Option<mpsc::Sender<CallSpan>>,
}

impl Default for Setup {
    fn default() -> Self {
        let supervisor = supervisor::Limits {
            stop_grace: Duration::from_millis(300),
            drain: Duration::from_millis(300),
            ..supervisor::Limits::default()
        };
        Self { auth: Auth::Open, face: staithe_gateway::Limits::default(), supervisor, per_tool: false, spans: None }
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
        drop(store);
        Self::on(dir, stdx::random::handle().unwrap(), setup).await
    }

    /// On a state directory that is there.
    async fn on(dir: TempDir, identity: String, setup: Setup) -> Self {
        let store = Store::open(Location::Sqlite(dir.path().join("db/staithe.db"))).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let settings = supervisor::Settings {
            servers_dir: dir.path().join("servers"),
            identity: identity.clone(),
            public_url: url.clone(),
            limits: setup.supervisor.clone(),
            scribe: None,
        };
        let authority = Authority::open(store.clone()).await.unwrap();
        let keeper_thread = keeper::in_thread(dir.path()).unwrap();
        let keeper = Keeper::attach(Place::Socket(keeper_thread.socket().to_path_buf())).await.unwrap();
        let supervisor = Supervisor::start(store.clone(), settings, keeper.clone(), None).await.unwrap();
        let shutdown = CancellationToken::new();
        let limits = setup.face.clone();
        let leaving = Leaving::default();
        let face = Settings {
            auth: setup.auth,
            hosts: Vec::new(),
            origins: Vec::new(),
            limits,
            leaving,
            book: None,
            audit: None,
        };
        let meters = Arc::new(Meters::new(setup.per_tool, setup.spans.clone()));
        let (own, to, until) = (supervisor.clone(), authority.clone(), shutdown.clone());
        let served = staithe_gateway::serve(listener, own, to, face, meters.clone(), until);
        let serving = stdx::task::spawn("serve", served);
        Self {
            url,
            supervisor,
            authority,
            store,
            meters,
            keeper,
            keeper_thread,
            dir,
            setup,
            identity,
            shutdown,
            serving,
        }
    }

    /// Stops in order, and starts again on the same state.
    pub(crate) async fn reopen(self) -> Self {
        let setup = self.setup.clone();
        self.reopen_with(setup).await
    }

    /// The same with other bounds.
    pub(crate) async fn reopen_with(self, setup: Setup) -> Self {
        let (dir, identity) = self.end().await;
        Self::on(dir, identity, setup).await
    }

    /// What another daemon finds of one that was killed at this moment: what is in the files now, and no process. The
    /// processes of this one end.
    pub(crate) async fn crashed(self) -> Self {
        let copy = tempfile::tempdir().unwrap();
        std::fs::create_dir(copy.path().join("db")).unwrap();
        for file in std::fs::read_dir(self.dir.path().join("db")).unwrap().flatten() {
            // The index of the log is for those who have it open.
            if file.path().extension().is_none_or(|kind| kind != "db-shm") {
                std::fs::copy(file.path(), copy.path().join("db").join(file.file_name())).unwrap();
            }
        }
        let setup = self.setup.clone();
        let (_dir, identity) = self.end().await;
        Self::on(copy, identity, setup).await
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
        let numbers =
            std::fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
        let marked = |pid: &i32| {
            let raw = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            raw.split(|b| *b == 0).any(|entry| entry.starts_with(mark.as_bytes()))
        };
        numbers.filter(marked).collect()
    }

    /// The whole log file of a server, as long as it was not rotated.
    pub(crate) fn log_file(&self, server: &str) -> String {
        let path = self.dir.path().join("servers").join(server).join("logs/server.log");
        String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()
    }

    /// What an operator's `stop` and `start` do.
    pub(crate) async fn enable(&self, server: &str, enabled: bool) {
        self.store.set_enabled(&name(server), enabled).await.unwrap();
        self.supervisor.reconcile().await.unwrap();
    }

    /// A connection without any client behind it.
    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.url.strip_prefix("http://").unwrap()).await.unwrap()
    }

    /// What the operator sees of the one server.
    pub(crate) fn report(&self) -> ServerReport {
        self.supervisor.servers().remove(0)
    }

    /// Waits until the host says that every server is ready.
    pub(crate) async fn ready(&self) {
        eventually("every server is ready", || self.supervisor.ready()).await;
    }

    /// Stops in order; nothing may be left.
    pub(crate) async fn stop(self) {
        drop(self.end().await);
    }

    /// The same; what is left of it on the disk, and its name.
    async fn end(mut self) -> (TempDir, String) {
        self.shutdown.cancel();
        (&mut self.serving).await.unwrap();
        self.supervisor.stop().await;
        assert_eq!(self.processes(), Vec::<i32>::new(), "processes were left behind");
        // Nor may one be started late.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(self.processes(), Vec::<i32>::new(), "a process was started after the stop");
        self.keeper.detach().await;
        self.keeper_thread.stop();
        (self.dir, self.identity)
    }
}

/// One `tools/call` of a session.
pub(crate) async fn tool(session: &Session<'_>, tool: &str, arguments: Value) -> Value {
    session.call("tools/call", json!({"name": tool, "arguments": arguments})).await.unwrap()
}

/// One `tools/call` without a session, which must be answered with a result.
pub(crate) async fn modern_tool(client: &Client, server: &str, tool: &str, arguments: Value) -> Value {
    let params = json!({"name": tool, "arguments": arguments});
    let (status, answer) = client.modern_call(server, "tools/call", params).await.unwrap();
    assert_eq!(status, 200, "{answer}");
    assert!(answer["result"].is_object(), "{answer}");
    answer
}

/// The first text of a tool's result.
pub(crate) fn text(answer: &Value) -> &str {
    let text = answer["result"]["content"][0]["text"].as_str();
    assert!(text.is_some(), "no text in {answer}");
    text.unwrap()
}

/// `error.data.reason`, which only staithe's own errors have.
pub(crate) fn reason(answer: &Value) -> &str {
    assert_eq!(answer["error"]["data"]["source"], "staithe", "{answer}");
    answer["error"]["data"]["reason"].as_str().unwrap()
}

/// Resident memory of this process now and at its peak since [`forget_peak`], bytes.
pub(crate) fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// The peak of [`memory`] starts anew.
#[expect(clippy::disallowed_methods, reason = "this file belongs to the kernel")]
pub(crate) fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// Whether the process lives. A zombie does not.
pub(crate) fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !matches!(rest.trim_start().chars().next(), None | Some('Z' | 'X')))
}

/// SIGKILL from outside, as an out-of-memory killer sends it.
pub(crate) fn kill(pid: i32) {
    assert!(std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

/// The name of a server.
pub(crate) fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}
