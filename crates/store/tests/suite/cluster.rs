//! A PostgreSQL server for the tests: the one that `STAITHE_TEST_POSTGRES` names, else one of our own on a private socket.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use stdx::clock;
use tempfile::TempDir;

const MISSING: &str = "the PostgreSQL tests need a server: install the Debian packages `postgresql` and `util-linux` \
    (apt-get install -y postgresql util-linux), or set STAITHE_TEST_POSTGRES to a connection string";

/// Runs `work` with the connection string of a server where schemas may be created.
pub(crate) fn with_server(work: impl FnOnce(&str)) {
    match std::env::var("STAITHE_TEST_POSTGRES") {
        Ok(text) => work(&text),
        Err(_) => {
            let cluster = Cluster::start();
            work(&cluster.connection_string());
        }
    }
}

/// A server of our own. It dies with the thread that started it, whatever happens to that.
pub(crate) struct Cluster {
    directory: TempDir,
    programs: PathBuf,
    server: Option<Child>,
}

impl Cluster {
    /// Makes and starts an empty cluster.
    pub(crate) fn start() -> Self {
        let programs = programs();
        let directory = tempfile::Builder::new().prefix("staithe-pg-").tempdir().unwrap();
        if is_root() {
            let owner = fs::read_to_string("/etc/passwd").unwrap();
            let ids = owner.lines().find_map(|line| line.strip_prefix("postgres:x:")).expect(MISSING);
            let mut ids = ids.split(':').map(|id| id.parse::<u32>().unwrap());
            chown(directory.path(), ids.next(), ids.next()).unwrap();
        }
        let mut cluster = Self { directory, programs, server: None };
        let made = cluster
            .command("initdb")
            .args(["--no-sync", "--auth=trust", "--username=staithe", "--encoding=UTF8", "--locale=C", "-D"])
            .arg(cluster.data())
            .output()
            .expect(MISSING);
        assert!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        cluster.resume();
        cluster
    }

    /// Starts the server and waits until it answers.
    pub(crate) fn resume(&mut self) {
        let log = fs::File::create(self.directory.path().join("log")).unwrap();
        let server = self
            .command("postgres")
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c"])
            .arg(format!("unix_socket_directories={}", self.directory.path().display()))
            .arg("-D")
            .arg(self.data())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect(MISSING);
        self.server = Some(server);
        let began = clock::monotonic();
        while let Err(error) = postgres::Client::connect(&self.connection_string(), postgres::NoTls) {
            let log = fs::read_to_string(self.directory.path().join("log")).unwrap();
            assert!(began.elapsed() < Duration::from_secs(60), "PostgreSQL does not answer: {error}; its log: {log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops the server; connections are cut.
    pub(crate) fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let told = Command::new("kill").arg("-INT").arg(server.id().to_string()).status();
            assert!(told.unwrap().success());
            server.wait().unwrap();
        }
    }

    pub(crate) fn connection_string(&self) -> String {
        format!("host={} user=staithe dbname=postgres", self.directory.path().display())
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// PostgreSQL refuses root, so root becomes `postgres`.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig=QUIT").current_dir(self.directory.path());
        if is_root() {
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        }
        command.arg(self.programs.join(program));
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            // QUIT ends the server's own children too, which a kill would leave.
            let told = Command::new("kill").arg("-QUIT").arg(server.id().to_string()).status();
            if told.is_ok_and(|status| status.success()) {
                drop(server.wait());
            }
        }
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// The directory that holds both programs: one of PATH, else Debian's, the newest version first.
fn programs() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let version = |path: &Path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()).unwrap_or(0);
    let mut debian: Vec<PathBuf> =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    debian.sort_by_key(|path| std::cmp::Reverse(version(path)));
    places.extend(debian.into_iter().map(|version| version.join("bin")));
    let holds_both = |place: &PathBuf| place.join("initdb").exists() && place.join("postgres").exists();
    places.into_iter().find(holds_both).expect(MISSING)
}
