//! The operator socket from end to end: a real store, supervisor and control behind it, the real client before it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use control::{Control, HostFacts, HostKind};
use model::{Command, ProblemCode, Reply, ServerName, ServerSpec};
use oauth::Authority;
use staithe_doors::{self as doors, Socket};
use std::path::PathBuf;
use std::time::Duration;
use store::{Location, Store};
use supervisor::{Keeper, Place, Supervisor};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

/// A host without listeners: everything behind the socket is real.
struct Host {
    path: PathBuf,
    authority: Authority,
    supervisor: Supervisor,
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<Option<()>>,
    _keeper: keeper::InThread,
    _dir: tempfile::TempDir,
}

impl Host {
    async fn start() -> Self {
        Self::start_as(HostKind::Serve).await
    }

    async fn start_as(kind: HostKind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Location::Sqlite(dir.path().join("db/staithe.db"))).await.unwrap();
        let authority = Authority::open(store.clone()).await.unwrap();
        let settings = supervisor::Settings {
            servers_dir: dir.path().join("servers"),
            identity: stdx::random::handle().unwrap(),
            public_url: "http://127.0.0.1:1".to_owned(),
            limits: supervisor::Limits::default(),
            scribe: None,
        };
        let keeper_thread = keeper::in_thread(dir.path()).unwrap();
        let keeper = Keeper::attach(Place::Socket(keeper_thread.socket().to_path_buf())).await.unwrap();
        let supervisor = Supervisor::start(store.clone(), settings, keeper, None).await.unwrap();
        let facts = HostFacts {
            ledger: None,
            kind,
            version: "1.2.3".to_owned(),
            pid: 7,
            started_at_ms: 0,
            public: "https://mcp.example.com".to_owned(),
            local: "http://127.0.0.1:1".to_owned(),
            operator: "http://127.0.0.1:2".to_owned(),
            state_dir: "/s".to_owned(),
            auth: true,
        };
        let (control, _upgrades) =
            Control::new(store, supervisor.clone(), authority.clone(), facts, None, CancellationToken::new());
        let path = dir.path().join("staithe.sock");
        let shutdown = CancellationToken::new();
        let serve = Socket::bind(&path).unwrap().serve(control, shutdown.clone());
        let served = stdx::task::spawn("socket", serve);
        Self { path, authority, supervisor, shutdown, served, _keeper: keeper_thread, _dir: dir }
    }

    async fn ask(&self, command: Command) -> Result<Reply, model::Problem> {
        doors::call(&self.path, &command).await?.only().await
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(20), self.served).await.unwrap().unwrap();
        assert!(!self.path.exists(), "the socket is removed");
        self.supervisor.stop().await;
    }
}

fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

/// A server that says a line on stderr and then waits for the end of its stdin. It is never called here.
fn quiet(text: &str) -> ServerSpec {
    let script = "echo I am here >&2; while read -r line; do :; done";
    ServerSpec::new(name(text), "sh", vec!["-c".to_owned(), script.to_owned()])
}

#[tokio::test]
async fn desired_state_changes_and_reads_back() {
    let host = Host::start().await;
    let import = |servers, replace| Command::Import { servers, replace };
    let mut stopped = quiet("b");
    stopped.enabled = false;
    let reply = host.ask(import(vec![quiet("a"), stopped], false)).await.unwrap();
    assert!(matches!(reply, Reply::Imported { added, .. } if added == [name("a"), name("b")]));
    let Reply::Status(status) = host.ask(Command::Status).await.unwrap() else { panic!("no status") };
    assert_eq!((status.version.as_str(), status.pid, status.servers.len()), ("1.2.3", 7, 2));
    assert!(status.resident_bytes > 0);
    assert!(matches!(host.ask(Command::Stop { server: name("a") }).await.unwrap(), Reply::Done { .. }));
    let Reply::Servers(servers) = host.ask(Command::Servers).await.unwrap() else { panic!("no servers") };
    assert!(servers.iter().all(|server| server.health == model::report::Health::Stopped), "{servers:?}");
    assert!(matches!(host.ask(Command::Remove { server: name("a") }).await.unwrap(), Reply::Done { .. }));
    let Reply::Servers(servers) = host.ask(Command::Servers).await.unwrap() else { panic!("no servers") };
    assert_eq!(servers.len(), 1);
    host.stop().await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_not_found_by_any_command() {
    let host = Host::start().await;
    let server = || name("ghost");
    for command in [
        Command::Instances { server: Some(server()) },
        Command::Sessions { server: Some(server()) },
        Command::Logs { server: server(), lines: 1, follow: true },
        Command::Restart { server: server() },
        Command::Stop { server: server() },
        Command::Start { server: server() },
        Command::Remove { server: server() },
        Command::Access { server: server() },
        Command::TokenCreate {
            principal: "me".parse().unwrap(),
            server: Some(server()),
            expires_in_s: None,
            audit: false,
        },
    ] {
        let problem = host.ask(command.clone()).await.unwrap_err();
        assert_eq!(problem.code, ProblemCode::NotFound, "{command:?}: {problem}");
        assert!(problem.hint.is_some());
    }
    assert_eq!(
        host.ask(Command::TokenRevoke { id: "ghost".to_owned() }).await.unwrap_err().code,
        ProblemCode::NotFound
    );
    host.stop().await;
}

#[tokio::test]
async fn tokens_open_what_they_were_made_for_until_they_are_revoked() {
    let host = Host::start().await;
    host.ask(Command::Import { servers: vec![quiet("a"), quiet("b")], replace: false }).await.unwrap();
    let create = Command::TokenCreate {
        principal: "ada".parse().unwrap(),
        server: Some(name("a")),
        expires_in_s: Some(60),
        audit: false,
    };
    let Reply::TokenCreated { token, report } = host.ask(create).await.unwrap() else { panic!("no token") };
    assert_eq!(host.authority.verify(&token, &name("a")).unwrap().principal().as_str(), "ada");
    assert!(host.authority.verify(&token, &name("b")).is_err());
    let Reply::Tokens(list) = host.ask(Command::Tokens).await.unwrap() else { panic!("no list") };
    assert_eq!(list, std::slice::from_ref(&report));
    host.ask(Command::TokenRevoke { id: report.id }).await.unwrap();
    assert!(host.authority.verify(&token, &name("a")).is_err());
    let Reply::Access { url, token } = host.ask(Command::Access { server: name("b") }).await.unwrap() else {
        panic!("no access")
    };
    assert_eq!(url, "http://127.0.0.1:1/mcp/b", "the operator's own call does not go through a proxy");
    assert_eq!(host.authority.verify(&token.unwrap(), &name("b")).unwrap().principal().as_str(), "operator");
    let own =
        Command::TokenCreate { principal: "operator".parse().unwrap(), server: None, expires_in_s: None, audit: false };
    assert_eq!(host.ask(own).await.unwrap_err().code, ProblemCode::Usage);
    host.stop().await;
}

#[tokio::test]
async fn logs_follow_until_the_reader_leaves() {
    let host = Host::start().await;
    host.ask(Command::Import { servers: vec![quiet("a")], replace: false }).await.unwrap();
    let follow = Command::Logs { server: name("a"), lines: 10, follow: true };
    let mut lines = doors::call(&host.path, &follow).await.unwrap();
    let seen = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            match lines.next().await.unwrap() {
                Some(Reply::Log(line)) if line.text.contains("I am here") => return,
                Some(Reply::Log(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    });
    seen.await.unwrap();
    drop(lines);
    let mut last =
        doors::call(&host.path, &Command::Logs { server: name("a"), lines: 1, follow: false }).await.unwrap();
    assert!(matches!(last.next().await.unwrap(), Some(Reply::Log(_))));
    assert!(last.next().await.unwrap().is_none(), "it ends after the last line");
    let mut open = doors::call(&host.path, &follow).await.unwrap();
    open.next().await.unwrap();
    // A follower does not hold the host up.
    host.stop().await;
    let ended = tokio::time::timeout(Duration::from_secs(10), async { while let Ok(Some(_)) = open.next().await {} });
    ended.await.unwrap();
}

#[tokio::test]
async fn garbage_is_refused_and_the_next_operator_is_served() {
    let host = Host::start().await;
    let too_long = format!("{{\"command\":\"{}\"}}\n", "x".repeat(1024 * 1024));
    for garbage in [
        "nonsense\n",
        "{}\n",
        "{\"command\":\"explode\"}\n",
        "{\"command\":\"stop\",\"server\":\"../x\"}\n",
        "\u{0}\n",
        &too_long,
    ] {
        let mut stream = UnixStream::connect(&host.path).await.unwrap();
        // It may be refused before all of it is written.
        let _ = stream.write_all(garbage.as_bytes()).await;
        let mut line = String::new();
        let read = tokio::time::timeout(Duration::from_secs(10), BufReader::new(&mut stream).read_line(&mut line))
            .await
            .unwrap();
        if read.is_ok() && !line.is_empty() {
            let reply: Reply = serde_json::from_str(&line).unwrap();
            assert!(matches!(&reply, Reply::Problem(problem) if problem.code == ProblemCode::Usage), "{reply:?}");
        } else {
            assert!(garbage.len() > 1024 * 1024, "{garbage:?} got no reply");
        }
    }
    assert!(host.ask(Command::Status).await.is_ok());
    host.stop().await;
}

#[tokio::test]
async fn one_connection_may_give_many_commands() {
    let host = Host::start().await;
    let stream = UnixStream::connect(&host.path).await.unwrap();
    let (reader, mut writer) = stream.into_split();
    writer.write_all(b"{\"command\":\"servers\"}\n{\"command\":\"tokens\"}\n").await.unwrap();
    let mut lines = BufReader::new(reader).lines();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), r#"{"reply":"servers","body":[]}"#);
    assert_eq!(lines.next_line().await.unwrap().unwrap(), r#"{"reply":"tokens","body":[]}"#);
    host.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_bound_are_told_so() {
    let host = Host::start().await;
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(UnixStream::connect(&host.path).await.unwrap());
    }
    let refused = async {
        loop {
            match host.ask(Command::Status).await {
                Err(problem) if problem.message.contains("64 operator connections") => return,
                // The held ones may not all be accepted yet.
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), refused).await.unwrap();
    drop(held);
    let served = async {
        while host.ask(Command::Status).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), served).await.unwrap();
    host.stop().await;
}

#[tokio::test]
async fn without_a_daemon_the_operator_learns_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("staithe.sock");
    let nobody = doors::call(&path, &Command::Status).await.unwrap_err();
    assert!(nobody.message.starts_with("no staithe runs on this state directory"), "{nobody}");
    assert!(nobody.hint.unwrap().contains("staithe serve"));
    drop(Socket::bind(&path).unwrap());
    let stale = doors::call(&path, &Command::Status).await.unwrap_err();
    assert!(stale.message.starts_with("no staithe runs"), "{stale}");
}

#[tokio::test]
async fn a_host_of_one_server_takes_no_others_that_it_would_lose() {
    let host = Host::start_as(HostKind::Run).await;
    let problem = host.ask(Command::Import { servers: vec![quiet("a")], replace: false }).await.unwrap_err();
    assert!(problem.message.contains("a `staithe run` holds this state directory"), "{problem}");
    let Reply::Servers(servers) = host.ask(Command::Servers).await.unwrap() else { panic!("no servers") };
    assert!(servers.is_empty());
    host.stop().await;
}

#[tokio::test]
async fn what_is_so_already_is_said_and_a_stopped_server_is_not_restarted() {
    let host = Host::start().await;
    host.ask(Command::Import { servers: vec![quiet("a")], replace: false }).await.unwrap();
    let text = async |command: Command| match host.ask(command).await.unwrap() {
        Reply::Done { text } => text,
        other => panic!("{other:?}"),
    };
    assert!(text(Command::Start { server: name("a") }).await.contains("started already"));
    assert!(!text(Command::Stop { server: name("a") }).await.contains("already"));
    assert!(text(Command::Stop { server: name("a") }).await.contains("stopped already"));
    let problem = host.ask(Command::Restart { server: name("a") }).await.unwrap_err();
    assert_eq!(problem.code, ProblemCode::Failed);
    assert!(problem.message.contains("it is stopped") && problem.hint.unwrap().contains("staithe start a"));
    host.stop().await;
}

#[tokio::test]
async fn a_whole_token_can_be_revoked_and_is_never_echoed() {
    let host = Host::start().await;
    host.ask(Command::Import { servers: vec![quiet("a")], replace: false }).await.unwrap();
    let create =
        Command::TokenCreate { principal: "ada".parse().unwrap(), server: None, expires_in_s: None, audit: false };
    let Reply::TokenCreated { token, report } = host.ask(create).await.unwrap() else { panic!("no token") };
    let reply = host.ask(Command::TokenRevoke { id: token.clone() }).await.unwrap();
    assert_eq!(reply, Reply::Done { text: format!("the token {} is refused from now on", report.id) });
    assert!(host.authority.verify(&token, &name("a")).is_err());
    let unknown = token.replace(&report.id, "zzzzzzzzzz");
    let problem = host.ask(Command::TokenRevoke { id: unknown }).await.unwrap_err();
    assert_eq!(problem.message, "there is no token \"zzzzzzzzzz\"");
    host.stop().await;
}
