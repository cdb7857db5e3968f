//! What the service manager is told of the daemon (`NOTIFY_SOCKET`), and what it passes to it (`LISTEN_FDS`). Where no
//! service manager started the daemon, nothing happens here.

use crate::fault;
use model::Problem;
use model::report::ServerReport;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::time::Duration;
use store::Store;
use supervisor::Supervisor;
use tokio::task::JoinHandle;

/// What a service manager sets for one process alone: a daemon that takes over must not believe it.
pub(crate) const OF_ONE_PROCESS: [&str; 4] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID"];
/// The first descriptor that is passed.
const FIRST: i32 = 3;

/// The service manager, while this daemon is the one that it watches.
#[derive(Debug)]
pub(crate) struct Systemd {
    told: Told,
    feeder: Option<JoinHandle<Option<()>>>,
}

/// Where the service manager listens, if there is one.
#[derive(Clone, Debug)]
struct Told(Option<OsString>);

impl Told {
    fn lines(&self, lines: &str) {
        let Some(to) = &self.0 else { return };
        if let Err(error) = keeper::notify(to, lines) {
            tracing::warn!(%error, lines, "the service manager was not told");
        }
    }
}

impl Systemd {
    /// Nobody is told anything.
    pub(crate) fn none() -> Self {
        Self { told: Told(None), feeder: None }
    }

    /// Tells it that every listener answers, and from now on that the daemon works. `local`: the database, where it is a file
    /// of ours. One beyond a network may fail without this process being at fault; ending it would mend nothing.
    pub(crate) fn ready(supervisor: Supervisor, local: Option<Store>) -> Self {
        let told = Told(std::env::var_os("NOTIFY_SOCKET").filter(|to| !to.is_empty()));
        told.lines(&format!("READY=1\n{}", status(&supervisor.servers())));
        let every = told.0.as_ref().and_then(|_| watchdog(|name| std::env::var(name).ok(), std::process::id()));
        let feeder = every.map(|every| {
            let told = told.clone();
            let round = move || round(supervisor.clone(), local.clone());
            stdx::task::spawn("tell the service manager", feed(every / 2, round, move |it| told.lines(&it)))
        });
        Self { told, feeder }
    }

    /// The daemon stops.
    pub(crate) fn stopping(&self) {
        self.told.lines("STOPPING=1\nSTATUS=calls may finish");
    }

    /// Another process is the daemon now. It speaks for itself.
    pub(crate) fn followed_by(self, pid: u32) {
        if let Some(feeder) = self.feeder {
            feeder.abort();
        }
        self.told.lines(&format!("MAINPID={pid}"));
    }
}

/// How long the daemon may be silent. `None` where nobody watches this process.
fn watchdog(env: impl Fn(&str) -> Option<String>, own: u32) -> Option<Duration> {
    let other = env("WATCHDOG_PID").is_some_and(|pid| pid != own.to_string());
    let microseconds = env("WATCHDOG_USEC")?.parse().ok().filter(|us| *us > 0)?;
    (!other).then_some(Duration::from_micros(microseconds))
}

/// Once in each `every`, as long as each round comes to its end. One that hangs is the daemon's hang.
async fn feed<F: Future<Output = String>>(every: Duration, mut round: impl FnMut() -> F, mut tell: impl FnMut(String)) {
    loop {
        let status = round().await;
        tell(format!("WATCHDOG=1\n{status}"));
        tokio::time::sleep(every).await;
    }
}

/// Through what every call needs: the runtime's threads and timers, the table of servers with its locks, the thread of the
/// database. An error of the database is an answer.
async fn round(supervisor: Supervisor, local: Option<Store>) -> String {
    if let Some(store) = local {
        drop(store.setting("alive").await);
    }
    status(&supervisor.servers())
}

fn status(servers: &[ServerReport]) -> String {
    let well = servers.iter().filter(|server| server.health.serves()).count();
    format!("STATUS={well} of {} servers ready", servers.len())
}

/// The descriptor that the service manager passed under this name.
pub(crate) fn passed(name: &str) -> Result<Option<OwnedFd>, Problem> {
    let Some(number) = number(|name| std::env::var(name).ok(), std::process::id(), name) else { return Ok(None) };
    // A descriptor that came with the process has no owner in this program, and only unsafe code could make one. The
    // kernel gives a double, which closes with us; nobody uses the other.
    let double = pidfd_open(getpid(), PidfdFlags::empty())
        .and_then(|this| pidfd_getfd(this, number, PidfdGetfdFlags::empty()))
        .map_err(|error| fault::because("take the listening socket of the service manager", &error, ""))?;
    Ok(Some(double))
}

fn number(env: impl Fn(&str) -> Option<String>, own: u32, wanted: &str) -> Option<i32> {
    if env("LISTEN_PID")? != own.to_string() {
        return None;
    }
    let count: i32 = env("LISTEN_FDS")?.parse().ok()?;
    let names = env("LISTEN_FDNAMES").unwrap_or_default();
    (FIRST..).zip(names.split(':')).take(usize::try_from(count).ok()?).find(|(_, name)| *name == wanted).map(|it| it.0)
}

#[cfg(test)]
mod tests {
    use super::{feed, number, watchdog};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    fn from<'a>(vars: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn what_is_meant_for_another_process_is_not_believed() {
        let all = [("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "7")];
        assert_eq!(watchdog(from(&all), 7), Some(Duration::from_secs(30)));
        assert_eq!(watchdog(from(&all[..1]), 8), Some(Duration::from_secs(30)));
        assert_eq!(watchdog(from(&all), 8), None);
        for wrong in ["0", "", "-1", "soon"] {
            assert_eq!(watchdog(from(&[("WATCHDOG_USEC", wrong)]), 7), None, "{wrong}");
        }
        let all = [("LISTEN_PID", "7"), ("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "operator:public:more")];
        assert_eq!(number(from(&all), 7, "public"), Some(4));
        assert_eq!(number(from(&all), 7, "operator"), Some(3));
        assert_eq!(number(from(&all), 7, "more"), None, "it was not passed");
        assert_eq!(number(from(&all), 8, "public"), None);
        assert_eq!(number(from(&all[1..]), 7, "public"), None);
        assert_eq!(number(from(&all[..2]), 7, "public"), None, "without names nobody knows what is what");
    }

    #[tokio::test]
    async fn a_round_that_hangs_is_not_followed_by_a_sign_of_life() {
        let (rounds, signs) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (counted, seen) = (rounds.clone(), signs.clone());
        let round = move || {
            let number = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                if number == 3 {
                    std::future::pending::<()>().await;
                }
                String::new()
            }
        };
        let tell = move |_| {
            seen.fetch_add(1, Ordering::SeqCst);
        };
        let feeding = feed(Duration::from_millis(1), round, tell);
        // Long enough for hundreds of rounds, if one that hangs did not stop them.
        tokio::time::timeout(Duration::from_millis(500), feeding).await.unwrap_err();
        assert_eq!((rounds.load(Ordering::SeqCst), signs.load(Ordering::SeqCst)), (4, 3));
    }
}
