//! `staithe upgrade`: another process takes the daemon's place while calls run. The old daemon starts it with its own
//! arguments and lets it come so far that only the processes are missing; then it gives them away, and lives on for as long
//! as its last call. Where the new daemon does not come, the old one goes on.

use crate::assemble::Host;
use crate::fault;
use crate::state::{StateDir, StateLock};
use crate::systemd;
use control::Upgrade;
use doors::Socket;
use model::Problem;
use rustix::process::{Pid, Signal, kill_process};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use supervisor::{GivenAway, Succession};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

/// Tells a process that it is to take over.
const VARIABLE: &str = "STAITHE_TAKES_OVER";
/// What it says first: another number for each way of speaking that is not understood by the one before.
const GREETING: &[u8; 16] = b"staithe-handover";
/// How long a program may take to say what it is.
const SAYS: Duration = Duration::from_secs(2);
/// As much of that as is read, bytes.
const SAID: u64 = 256;
/// How long the new process may take to read its configuration and open its database.
const COMES: Duration = Duration::from_secs(60);
/// How long whoever comes to the meeting place may be silent.
const GREETS: Duration = Duration::from_secs(3);
/// How long it may take from there until it serves.
const SERVES: Duration = Duration::from_secs(30);

/// How long the new daemon may take to hear the last words of this one.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A daemon that another one has replaced.
pub(crate) struct Replaced {
    /// The process that took over.
    pub(crate) pid: u32,
    given: GivenAway,
    stream: UnixStream,
}

/// Puts another process in the place of this one. On an error nothing has changed. Once `stop` is cancelled it is given up
/// where that is still possible; else the new process is told to stop.
pub(crate) async fn upgrade(
    host: &mut Host,
    state: &StateDir,
    wanted: &Upgrade,
    stop: &CancellationToken,
) -> Result<(Replaced, String), Problem> {
    if !host.has_keeper {
        let message = "the servers are children of this daemon (--no-keeper), and end with it";
        return Err(fault::usage(message, "start the daemon without --no-keeper first"));
    }
    let program = program(wanted.program.as_deref())?;
    unless(stop, is_staithe(&program)).await??;
    let path = state.handover();
    let failed = |error: io::Error| fault::because("meet the new process", &error, "look at the daemon's log");
    let listener = meeting_place(&path).map_err(failed)?;
    let mut child = start(&program)?;
    let pid = child.id().unwrap_or_default();
    let outcome = async {
        let mut stream = unless(stop, met(&listener, &mut child)).await??;
        unless(stop, host.supervisor.settle()).await?;
        let given = give(host, state, &mut stream, &mut child, stop).await?;
        Ok(Replaced { pid, given, stream })
    };
    let outcome = outcome.await;
    if outcome.is_ok() && stop.is_cancelled() {
        told_to_stop(&child);
    }
    drop(std::fs::remove_file(&path));
    match outcome {
        Ok(replaced) => Ok((replaced, format!("process {pid} ({}) has taken over", program.display()))),
        Err(problem) => {
            drop(child.kill().await);
            Err(problem)
        }
    }
}

/// What `work` gives, unless the host is told to stop before.
async fn unless<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Result<T, Problem> {
    stop.run_until_cancelled(work)
        .await
        .ok_or_else(|| fault::failed("the daemon was told to stop during the upgrade", "start it again"))
}

/// Passes on that the host shall stop.
fn told_to_stop(child: &Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(Err(error)) = pid.map(|pid| kill_process(pid, Signal::TERM)) {
        tracing::warn!(%error, "the new process could not be told to stop");
    }
}

impl Replaced {
    /// Finishes what was begun here.
    pub(crate) async fn finish(self, host: Host) {
        let over = CancellationToken::new();
        let relay = stdx::task::spawn("relay", self.given.relay(self.stream, over.clone()));
        host.finish().await;
        over.cancel();
        // A daemon that does not read is not waited for.
        drop(tokio::time::timeout(LAST_WORDS, relay).await);
    }
}

fn program(named: Option<&str>) -> Result<PathBuf, Problem> {
    let named = match named {
        Some(named) => PathBuf::from(named),
        None => started_from()
            .map_err(|error| fault::because("find this program", &error, "name one: `staithe upgrade PROGRAM`"))?,
    };
    if !named.is_absolute() || !named.is_file() {
        let message = format!("{} is not a program that the daemon could start", named.display());
        return Err(fault::usage(message, "give the full path of a file"));
    }
    Ok(named)
}

/// Asks a program what it is before it is run as a daemon: whatever else it is, it would do something of its own.
async fn is_staithe(program: &Path) -> Result<(), Problem> {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| could_not_start(program, &error))?;
    let Some(stdout) = child.stdout.take() else { return Ok(()) };
    let mut said = String::new();
    let heard = tokio::time::timeout(SAYS, stdout.take(SAID).read_to_string(&mut said)).await;
    let why = match heard {
        Ok(Ok(_)) if said.starts_with("staithe ") => return Ok(()),
        Ok(_) => "`--version` does not say that it is one".to_owned(),
        Err(_elapsed) => format!("`--version` is not answered within {} s", SAYS.as_secs()),
    };
    let message = format!("{} is no staithe: {why}", program.display());
    Err(fault::usage(message, "nothing has changed; name a staithe: `staithe upgrade PROGRAM`"))
}

/// The path of the running program. Once another file was put there, the system says that ours is deleted.
pub(crate) fn started_from() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}

fn meeting_place(path: &Path) -> io::Result<UnixListener> {
    drop(std::fs::remove_file(path));
    UnixListener::bind(path)
}

fn start(program: &Path) -> Result<Child, Problem> {
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1)).env(VARIABLE, "1").stdin(Stdio::null());
    for name in systemd::OF_ONE_PROCESS {
        command.env_remove(name);
    }
    command.spawn().map_err(|error| could_not_start(program, &error))
}

fn could_not_start(program: &Path, error: &io::Error) -> Problem {
    fault::because(&format!("start {}", program.display()), error, "nothing has changed")
}

/// The new process, once only the processes of the servers are missing to it.
async fn met(listener: &UnixListener, child: &mut Child) -> Result<UnixStream, Problem> {
    let why = "nothing has changed; the reason is in the daemon's log";
    let meeting = async {
        loop {
            let (mut stream, _) = listener.accept().await?;
            let own = stream.peer_cred()?.uid() == rustix::process::geteuid().as_raw();
            let mut greeting = [0; GREETING.len()];
            // Whoever comes and says nothing is not the one that was started.
            let greeted = tokio::time::timeout(GREETS, stream.read_exact(&mut greeting)).await;
            if own && matches!(greeted, Ok(Ok(_))) {
                return Ok::<_, io::Error>((stream, greeting));
            }
        }
    };
    tokio::select! {
        met = tokio::time::timeout(COMES, meeting) => match met {
            Ok(Ok((stream, greeting))) if greeting == *GREETING => Ok(stream),
            Ok(Ok(_)) => Err(fault::failed(
                "the new program takes over in another way than this one gives",
                "nothing has changed; stop this daemon and start the other program",
            )),
            Ok(Err(error)) => Err(fault::because("hear of the new process", &error, why)),
            Err(_elapsed) => Err(fault::failed(format!("the new process was not ready within {} s", COMES.as_secs()), why)),
        },
        ended = child.wait() => {
            let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
            Err(fault::failed(format!("the new process ended ({how})"), why))
        }
    }
}

/// Gives everything away; takes it back where nobody takes it.
async fn give(
    host: &mut Host,
    state: &StateDir,
    stream: &mut UnixStream,
    child: &mut Child,
    stop: &CancellationToken,
) -> Result<GivenAway, Problem> {
    host.leaving.hold();
    let mut given = host.supervisor.give_away().await;
    host.ledger.give_away().await;
    host.unlock();
    let taking = async {
        given.tell(stream).await.map_err(|error| error.to_string())?;
        given.taken(stream).await.map_err(|error| error.to_string())?;
        Socket::put_in_place(&state.socket()).map_err(|error| stdx::chain::Chain(&error).to_string())
    };
    let taken = tokio::select! {
        biased;
        taken = tokio::time::timeout(SERVES, taking) => taken,
        () = stop.cancelled() => Ok(Err("the daemon was told to stop".to_owned())),
    };
    let error = match taken {
        Ok(Ok(())) => {
            // From here on nothing is taken back.
            given.let_go(stream).await;
            host.ledger.send_to(given.entries());
            host.leave();
            return Ok(given);
        }
        Ok(Err(error)) => error,
        Err(_elapsed) => format!("it did not serve within {} s", SERVES.as_secs()),
    };
    // It may hold the keeper, and must not hold it any longer.
    drop(child.kill().await);
    let ended = take_back(host, state, given, stop).await?;
    let hint = match ended {
        0 => "nothing has changed; the reason is in the daemon's log".to_owned(),
        ended => format!("processes of servers that ended meanwhile: {ended}; the reason is in the daemon's log"),
    };
    Err(fault::failed(format!("the new process did not take over: {error}"), hint))
}

/// How many processes have ended meanwhile.
async fn take_back(
    host: &mut Host,
    state: &StateDir,
    given: GivenAway,
    stop: &CancellationToken,
) -> Result<usize, Problem> {
    let back = given.take_back(stop).await;
    host.leaving.stay();
    let ended = back.map_err(|error| fault::because("take the processes back", &error, "start the daemon again"))?;
    host.ledger.take_back().await?;
    host.lock_again(lock(state).await?);
    Ok(ended)
}

/// Whether this process was started to take over.
pub(crate) fn is_wanted() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Takes over from the daemon that started this process: what it held, and its lock.
pub(crate) async fn succeed(state: &StateDir) -> Result<(Succession, StateLock), Problem> {
    let hint = "it goes on; ask for the upgrade again";
    let failed = |error: io::Error| fault::because("meet the old daemon", &error, hint);
    let mut stream = UnixStream::connect(state.handover()).await.map_err(failed)?;
    stream.write_all(GREETING).await.map_err(failed)?;
    let succession = Succession::receive(stream).await;
    let succession = succession.map_err(|error| fault::because("take over from the old daemon", &error, hint))?;
    Ok((succession, lock(state).await?))
}

/// The lock, which the other daemon is about to give up.
async fn lock(state: &StateDir) -> Result<StateLock, Problem> {
    for _ in 0..500 {
        if let Ok(lock) = state.try_lock()? {
            return Ok(lock);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    state.lock()
}
