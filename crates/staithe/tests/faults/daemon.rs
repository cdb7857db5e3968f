//! The real binary on a state directory of its own, ended in every way and started again.

use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use testkit::wait::{eventually_some, until_some};

/// A daemon, its keeper and its servers.
pub(crate) struct Daemon {
    child: Option<Child>,
    state: tempfile::TempDir,
    flags: Vec<&'static str>,
    /// Words before the binary's own: what else it runs in.
    within: Vec<String>,
    listen: String,
    /// Its public listener, the same over all restarts.
    pub(crate) url: String,
}

impl Daemon {
    /// Starts a daemon with these servers (as `import` reads them).
    pub(crate) fn new(servers: &Value, flags: &[&'static str], settings: &str) -> Self {
        Self::new_within(servers, flags, settings, |_| Vec::new())
    }

    /// The same within something else: `prepare` gets the empty state directory, and gives the words to start a program there.
    pub(crate) fn new_within(
        servers: &Value,
        flags: &[&'static str],
        settings: &str,
        prepare: impl FnOnce(&Path) -> Vec<String>,
    ) -> Self {
        let state = tempfile::tempdir().unwrap();
        let within = prepare(state.path());
        let listen = "127.0.0.1:0".to_owned();
        let mut daemon = Self { child: None, state, flags: flags.to_vec(), within, listen, url: String::new() };
        put(&daemon.state().join("staithe.toml"), settings);
        put(&daemon.state().join("servers.json"), &json!({ "mcpServers": servers }).to_string());
        daemon.cli(&["import", daemon.state().join("servers.json").to_str().unwrap()]);
        daemon.start();
        let log = daemon.state().join("out.log");
        let line = until_some("a line that says where it listens", || {
            let text = std::fs::read_to_string(&log).ok()?;
            text.lines().next().filter(|_| text.contains('\n')).map(str::to_owned)
        });
        let told: Value = serde_json::from_str(&line).unwrap();
        daemon.url = told["listening"]["public"].as_str().unwrap().to_owned();
        daemon
    }

    pub(crate) fn state(&self) -> &Path {
        self.state.path()
    }

    /// Starts a daemon, and does not wait for it.
    pub(crate) fn start(&mut self) {
        let log = |name: &str| OpenOptions::new().create(true).append(true).open(self.state().join(name)).unwrap();
        let child = self
            .command()
            .args(["serve", "--json", "--listen", &self.listen, "--operator", "127.0.0.1:0", "--state-dir"])
            .arg(self.state())
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(log("out.log"))
            .stderr(log("err.log"))
            .spawn();
        self.child = Some(child.unwrap());
    }

    fn command(&self) -> Command {
        let binary = env!("CARGO_BIN_EXE_staithe");
        let Some((first, rest)) = self.within.split_first() else { return Command::new(binary) };
        let mut command = Command::new(first);
        command.args(rest).arg(binary);
        command
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// `kill -9`. When it returns, the process is gone.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// From now on daemons ask for the port that the first one found, which no keeper may hold for them any more.
    pub(crate) fn insist_on_port(&mut self) {
        self.listen = self.url.trim_start_matches("http://").to_owned();
    }

    pub(crate) fn terminate(&self) {
        signal(self.pid(), rustix::process::Signal::TERM);
    }

    /// Waits until a daemon that was told to end has begun to.
    pub(crate) async fn stopping(&self) {
        eventually_some("a daemon that stops", async || {
            self.last_words().contains("stopping: calls may finish").then_some(())
        })
        .await;
    }

    /// Waits for the end of a daemon that was told to.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let child = self.child.as_mut().unwrap();
        let status = eventually_some("the end of the daemon", async || child.try_wait().unwrap()).await;
        self.child = None;
        status
    }

    /// How the daemon ended, if it has.
    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().unwrap()?;
        self.child = None;
        Some(status)
    }

    /// The keeper of this directory, if one runs.
    pub(crate) fn keeper(&self) -> Option<u32> {
        self.that("keeper").into_iter().next()
    }

    /// Processes of staithe that do `command` on this directory.
    fn that(&self, command: &str) -> Vec<u32> {
        let state = self.state().to_str().unwrap().as_bytes().to_vec();
        let does = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split(|byte| *byte == 0).skip(1);
            words.next() == Some(command.as_bytes()) && line.windows(state.len()).any(|part| part == state)
        };
        processes().into_iter().filter(does).collect()
    }

    /// Processes that carry the mark of this directory.
    pub(crate) fn servers(&self) -> Vec<u32> {
        let Ok(identity) = std::fs::read_to_string(self.state().join("run/identity")) else { return Vec::new() };
        let mark = format!("STAITHE_INSTANCE={identity}/");
        let marked = |pid: &u32| {
            let raw = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            raw.split(|byte| *byte == 0).any(|entry| entry.starts_with(mark.as_bytes()))
        };
        processes().into_iter().filter(marked).collect()
    }

    /// A command to the daemon; what it prints as JSON.
    pub(crate) fn cli(&self, words: &[&str]) -> Value {
        let out = self.command().args(words).arg("--json").arg("--state-dir").arg(self.state()).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        let last = text.lines().last().unwrap_or_default();
        serde_json::from_str(last)
            .or_else(|_| serde_json::from_str(&text))
            .unwrap_or_else(|_| panic!("{words:?} printed {text:?} and {:?}", String::from_utf8_lossy(&out.stderr)))
    }

    /// The same as its operator reads it.
    pub(crate) fn text(&self, words: &[&str]) -> String {
        String::from_utf8_lossy(&self.run(words).stdout).into_owned()
    }

    /// What becomes of a command that ends.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        self.command().args(words).arg("--state-dir").arg(self.state()).output().unwrap()
    }

    /// Which eras the first server was found to speak, once that is known.
    pub(crate) fn verdict(&self) -> Option<String> {
        self.cli(&["status"])["servers"][0]["verdict"].as_str().map(str::to_owned)
    }

    /// Every record of the ledger.
    pub(crate) fn records(&self) -> Vec<Value> {
        let told = self.run(&["audit", "tail", "-n", "10000000", "--json"]);
        assert!(told.status.success(), "{told:?}");
        let lines = String::from_utf8(told.stdout).unwrap();
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["record"].take()).collect()
    }

    pub(crate) fn token(&self, principal: &str) -> String {
        let told = self.cli(&["token", "create", "--principal", principal]);
        told["token"].as_str().unwrap_or_else(|| panic!("no token in {told}")).to_owned()
    }

    /// The last lines that daemons wrote, for a test that fails.
    pub(crate) fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.state().join("err.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Daemon {
    /// A test that fails leaves nothing either.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.last_words());
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // An upgrade has put others in its place.
        for pid in self.that("serve").into_iter().chain(self.keeper()).chain(self.servers()) {
            signal(pid, rustix::process::Signal::KILL);
        }
    }
}

/// What the tree of an instance is marked with.
pub(crate) fn mark(pid: u32) -> Option<Vec<u8>> {
    let raw = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    raw.split(|byte| *byte == 0).find(|entry| entry.starts_with(b"STAITHE_INSTANCE=")).map(<[u8]>::to_vec)
}

pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    // It may have ended meanwhile.
    let _ = rustix::process::kill_process(pid, signal);
}

fn processes() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn put(path: &Path, text: &str) {
    use std::io::Write;
    File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// Numbers that look random and can be had again from their seed.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    /// The seed is in `STAITHE_FAULTS_SEED`, else a new one; it is printed.
    pub(crate) fn new() -> Self {
        let given = std::env::var("STAITHE_FAULTS_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| u64::try_from(stdx::clock::unix_ms()).unwrap());
        println!("STAITHE_FAULTS_SEED={seed}");
        Self(seed)
    }

    /// Other dice, with numbers of their own.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
