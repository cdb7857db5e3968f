//! Warm spares: whoever is new gets one at once and keeps it for himself, nobody is refused because of one, and a server that
//! dies is not started in a storm.

use crate::host::{Host, Setup, alive, in_mode, kill, modern_tool, name, server, text, tool};
use crate::limits::{PLAIN, assert_busy, initialize};
use model::{Bounds, EraPin, Mode, ServerSpec};
use serde_json::{Value, json};
use staithe_gateway::Auth;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use stdx::clock::monotonic;
use testkit::Client;
use testkit::wait::eventually;

/// A legacy server with so many spares.
fn warm(spec: ServerSpec, spares: u32) -> ServerSpec {
    let bounds = Bounds { spares: Some(spares), ..spec.bounds.clone() };
    ServerSpec { era: EraPin::Legacy, bounds, ..spec }
}

fn guarded() -> Setup {
    Setup { auth: Auth::Required, ..Setup::default() }
}

/// The spares of a server, by process.
fn spares(host: &Host, server: &str) -> BTreeSet<u32> {
    let all = host.supervisor.instances(Some(&name(server))).into_iter();
    all.filter(|instance| instance.key.contains("spare")).filter_map(|instance| instance.pid).collect()
}

async fn wait_for(host: &Host, server: &str, count: usize) -> BTreeSet<u32> {
    eventually(&format!("{count} spares of {server}"), || spares(host, server).len() == count).await;
    spares(host, server)
}

async fn pid(client: &Client, server: &str) -> u32 {
    text(&modern_tool(client, server, "pid", json!({})).await).parse().unwrap()
}

/// Nobody ever gets a process that was somebody's, and who gets a spare does not wait for a start.
#[tokio::test(flavor = "multi_thread")]
async fn who_gets_a_spare_keeps_it_and_does_not_wait_for_a_start() {
    let host = Host::with(vec![warm(server("odd", "odd", &["--silent-start-ms", "1000"]), 2)], guarded()).await;
    host.ready().await;
    let mut owned = BTreeSet::new();
    for principal in ["ann", "bob", "cat"] {
        let before = wait_for(&host, "odd", 2).await;
        let client = host.client_of(principal).await;
        let asked = monotonic();
        let own = pid(&client, "odd").await;
        let took = asked.elapsed();
        println!("first call of somebody new with a spare: {took:?}");
        assert!(took < Duration::from_millis(850), "{took:?}: it waited for a start");
        assert!(before.contains(&own), "{own} is none of {before:?}");
        assert!(owned.insert(own), "{own} has two owners");
        let first = modern_tool(&client, "odd", "counter", json!({})).await;
        assert_eq!(text(&first), "1", "{principal} meets a process that served somebody");
        assert_eq!(pid(&client, "odd").await, own, "it is kept");
        assert!(!spares(&host, "odd").contains(&own));
    }
    wait_for(&host, "odd", 2).await;
    // Of a client of another kind the process is told other things: it starts, and the next of its kind finds a spare.
    let other = initialize(1).replace(r#""capabilities":{}"#, r#""capabilities":{"sampling":{}}"#);
    let asked = monotonic();
    assert_eq!(host.client_of("dan").await.post("/mcp/odd", &PLAIN, other.clone()).await.unwrap().status, 200);
    println!("first call of somebody new without a spare: {:?}", asked.elapsed());
    assert!(asked.elapsed() >= Duration::from_millis(1000), "what was told something else was given away");
    eventually("a spare of the new kind", || host.log_file("odd").matches("started as process").count() >= 7).await;
    wait_for(&host, "odd", 2).await;
    let before = host.log_file("odd").matches("has an owner now").count();
    assert_eq!(host.client_of("eve").await.post("/mcp/odd", &PLAIN, other).await.unwrap().status, 200);
    assert_eq!(host.log_file("odd").matches("has an owner now").count(), before + 1);
    // The operator's `restart` means them too.
    let old = wait_for(&host, "odd", 2).await;
    host.supervisor.restart(&name("odd")).await.unwrap();
    eventually("other spares", || spares(&host, "odd").len() == 2 && spares(&host, "odd").is_disjoint(&old)).await;
    host.enable("odd", false).await;
    eventually("a server that is stopped has no process", || host.processes().is_empty()).await;
    host.stop().await;
}

/// All at once, and more of them than there are spares.
/// A signal stopped them: nobody gets one, and others take their place.
#[tokio::test(flavor = "multi_thread")]
async fn a_spare_that_is_stopped_is_nobodys() {
    let host = Host::with(vec![warm(server("odd", "odd", &[]), 2)], guarded()).await;
    host.ready().await;
    pid(&host.client_of("ann").await, "odd").await;
    let stopped = wait_for(&host, "odd", 2).await;
    for pid in &stopped {
        crate::watchdog::signal(i32::try_from(*pid).unwrap(), "-STOP");
    }
    let asked = monotonic();
    let own = pid(&host.client_of("bob").await, "odd").await;
    assert!(!stopped.contains(&own) && asked.elapsed() < Duration::from_secs(4), "{own} after {:?}", asked.elapsed());
    eventually("others in their place", || {
        let spares = spares(&host, "odd");
        spares.len() == 2 && spares.is_disjoint(&stopped)
    })
    .await;
    eventually("nothing is left of them", || stopped.iter().all(|pid| !alive(i32::try_from(*pid).unwrap()))).await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_get_one_each() {
    for mode in [Mode::PerPrincipal, Mode::PerSession, Mode::Exclusive] {
        let host = Host::with(vec![in_mode(warm(server("odd", "odd", &[]), 4), mode)], guarded()).await;
        host.ready().await;
        let host = Arc::new(host);
        // Of their kind nobody was here yet.
        let first = host.client_of("first").await;
        tool(&first.legacy_session("odd").await.unwrap(), "pid", json!({})).await;
        eventually("spares of this kind", || host.log_file("odd").matches("started as process").count() >= 6).await;
        wait_for(&host, "odd", 4).await;
        let mut all = Vec::new();
        for n in 0..12 {
            let (host, client) = (host.clone(), host.client_of(&format!("p{n}")).await);
            all.push(stdx::task::spawn("one of many", async move {
                let session = client.legacy_session("odd").await.unwrap();
                let own = text(&tool(&session, "pid", json!({})).await).parse::<u32>().unwrap();
                let count = text(&tool(&session, "counter", json!({})).await).to_owned();
                drop(host);
                (own, count)
            }));
        }
        let mut owned = BTreeSet::new();
        for one in all {
            let (own, count) = one.await.unwrap().unwrap();
            assert!(owned.insert(own), "{own} has two owners ({mode})");
            assert_eq!(count, "1", "{own} was somebody's ({mode})");
        }
        assert!(host.log_file("odd").contains("has an owner now"), "{mode}: no spare was of use");
        Arc::into_inner(host).unwrap().stop().await;
    }
}

/// What a spare asks is asked of its owner: it hears that it may ask only once it has one.
#[tokio::test(flavor = "multi_thread")]
async fn a_spare_asks_nobody_before_it_has_an_owner() {
    let spec = in_mode(warm(server("asker", "asker", &["--ask-roots"]), 1), Mode::PerSession);
    let host = Host::with(vec![spec], guarded()).await;
    host.ready().await;
    let opening = initialize(1).replace(r#""capabilities":{}"#, r#""capabilities":{"roots":{}}"#);
    let opened = async |principal: &str| {
        let client = host.client_of(principal).await;
        let answer = client.post("/mcp/asker", &PLAIN, opening.clone()).await.unwrap();
        assert_eq!(answer.status, 200);
        (client, answer.header("mcp-session-id").unwrap().to_owned())
    };
    let first = wait_for(&host, "asker", 1).await;
    drop(opened("ann").await);
    // The next spare is told of roots.
    eventually("a spare that was told of roots", || {
        let now = spares(&host, "asker");
        now.len() == 1 && now != first
    })
    .await;
    let waiting = spares(&host, "asker");
    let (client, id) = opened("bob").await;
    let session = client.known_session("asker", &id, "2025-11-25");
    let mut stream = session.listen().await.unwrap();
    let asked = stream.next_message().await.unwrap().unwrap();
    assert_eq!(asked["method"], "roots/list", "{asked}");
    let roots = json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"roots": [{"uri": "file:///of-bob"}]}});
    session.post(roots.to_string()).await.unwrap();
    let mut report = Value::Null;
    for _ in 0..500 {
        let answer = tool(&session, "report", json!({})).await;
        report = serde_json::from_str(text(&answer)).unwrap();
        if !report["answers"]["start"].is_null() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(report["answers"]["start"][0]["result"]["roots"][0]["uri"], "file:///of-bob", "{report}");
    assert!(waiting.contains(&u32::try_from(report["pid"].as_u64().unwrap()).unwrap()), "{report}: {waiting:?}");
    drop(stream);
    host.stop().await;
}

/// Three callers of `called` take the places of the two spares of `warm`, and the fourth hears of the limit.
async fn give_way(host: Host, called: &str, warm: &str, limit: &str) {
    host.ready().await;
    wait_for(&host, warm, 2).await;
    for (principal, left) in [("ann", 2), ("bob", 1), ("cat", 0)] {
        pid(&host.client_of(principal).await, called).await;
        wait_for(&host, warm, left).await;
        eventually("no more processes than there may be", || host.processes().len() <= 3).await;
    }
    let refused = host.client_of("dan").await.post(&format!("/mcp/{warm}"), &PLAIN, initialize(1)).await.unwrap();
    assert_busy(&refused, limit);
    host.stop().await;
}

/// Spares never take the place of somebody's process.
#[tokio::test(flavor = "multi_thread")]
async fn spares_are_the_first_to_go() {
    let mut setup = guarded();
    setup.supervisor.instances_per_server = 3;
    let host = Host::with(vec![warm(server("odd", "odd", &[]), 2)], setup).await;
    give_way(host, "odd", "odd", "3 are the limit for one server").await;
}

/// Nor do those of another server.
#[tokio::test(flavor = "multi_thread")]
async fn spares_of_another_server_go_too() {
    let mut setup = guarded();
    setup.supervisor.instances = 3;
    let plain = ServerSpec { era: EraPin::Legacy, ..server("plain", "odd", &[]) };
    let host = Host::with(vec![warm(server("warm", "odd", &[]), 2), plain], setup).await;
    give_way(host, "plain", "warm", "3 are the limit for all servers").await;
}

/// A spare that dies is replaced, and a server that cannot start any more is tried ever less often.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_is_not_started_in_a_storm() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!("echo x >> starts; if [ -e broken ]; then exit 3; fi; exec {}", testkit::bin("odd").display());
    let mut spec = ServerSpec::new(name("odd"), "sh", vec!["-c".to_owned(), script]);
    spec.program_mut().unwrap().cwd = Some(dir.path().to_str().unwrap().to_owned());
    let host = Host::with(vec![warm(spec, 4)], guarded()).await;
    host.ready().await;
    let starts = || std::fs::read_to_string(dir.path().join("starts")).unwrap().lines().count();
    let old = wait_for(&host, "odd", 4).await;
    let client = host.client_of("ann").await;
    let own = pid(&client, "odd").await;
    assert!(old.contains(&own));
    let killed = *wait_for(&host, "odd", 4).await.first().unwrap();
    kill(killed.cast_signed());
    eventually("another in its place", || {
        let now = spares(&host, "odd");
        now.len() == 4 && !now.contains(&killed)
    })
    .await;

    std::fs::File::create(dir.path().join("broken")).unwrap();
    let (before, began) = (starts(), monotonic());
    for pid in spares(&host, "odd") {
        kill(pid.cast_signed());
    }
    eventually("a start that fails", || starts() > before).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    // From 100 ms on and doubling, half of it jitter: 50, 100, 200, 400, 800, 1600 ms at the least.
    let most = 7 + began.elapsed().as_secs() / 2;
    let tried = starts() - before;
    assert!(u64::try_from(tried).unwrap() <= most, "{tried} starts within {:?}", began.elapsed());
    assert!(host.supervisor.ready(), "spares that die make no server fail");
    assert_eq!(pid(&client, "odd").await, own, "and cost nobody his process");
    assert!(alive(own.cast_signed()));
    std::fs::remove_file(dir.path().join("broken")).unwrap();
    wait_for(&host, "odd", 4).await;
    host.stop().await;
}
