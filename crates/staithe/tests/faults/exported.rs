//! The ledger as other programs get it.

use crate::daemon::Daemon;
use crate::searched::{found, used};
use serde_json::{Value, json};
use std::process::Stdio;

fn lines(text: &[u8]) -> Vec<Value> {
    text.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

fn exported(daemon: &Daemon, words: &[&str]) -> Vec<Value> {
    let told = daemon.run(&[&["audit", "export"][..], words].concat());
    assert!(told.status.success(), "{told:?}");
    lines(&told.stdout)
}

async fn ended() -> Daemon {
    let mut daemon = used().await;
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    daemon
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_is_exported_and_each_can_be_checked_elsewhere() {
    let daemon = ended().await;
    let all = exported(&daemon, &[]);
    for (at, line) in all.iter().enumerate() {
        assert_eq!(line["index"], at);
        let shown = daemon.cli(&["audit", "show", &at.to_string()]);
        assert_eq!((&shown["leaf"], &shown["record"]), (&line["leaf"], &line["record"]));
    }
    assert_eq!(exported(&daemon, &["--since", "7"])[0]["index"], 7);
    assert_eq!(exported(&daemon, &["--since", "2020-01-01"]).len(), all.len());
    assert_eq!(exported(&daemon, &["--since", "2999-01-01"]).len(), 0);
    let proved = exported(&daemon, &["--with-proofs"]);
    assert_eq!(proved.len(), all.len(), "the last checkpoint of a daemon that ended covers all");
    let place = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = place.path().join(name);
        stdx::durable::write_file(&path, content.as_bytes(), 0o600).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let key = daemon.state().join("ledger/vkeys");
    for line in [&proved[0], &proved[proved.len() - 1]] {
        let (proof, entry) = (line["proof"].as_str().unwrap(), line["entry"].as_str().unwrap());
        let check = |proof: &str, entry: &str| {
            let words = ["audit", "check", &file("proof", proof), "--entry", &file("entry", entry), "--key"];
            daemon.run(&[&words[..], &[key.to_str().unwrap()]].concat()).status.code()
        };
        assert_eq!((check(proof, entry), check(proof, &format!("{entry} "))), (Some(0), Some(5)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_exported_can_be_narrowed_down_and_is_still_proved() {
    let daemon = ended().await;
    let all = exported(&daemon, &["--with-proofs"]);
    let found = found(&daemon, &["--principal", "ann", "--tool", "note"]);
    let wanted: Vec<u64> = {
        let both = found.iter().flat_map(|call| [call["index"].as_u64().unwrap(), call["ended"].as_u64().unwrap()]);
        both.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
    };
    let narrow = |more: &[&str]| {
        let words = ["--with-proofs", "--principal", "ann", "--tool", "note"];
        exported(&daemon, &[&words[..], more].concat())
    };
    let these = |lines: &[Value]| lines.iter().map(|line| line["index"].as_u64().unwrap()).collect::<Vec<_>>();
    let some = narrow(&[]);
    assert_eq!((these(&some), wanted.len()), (wanted.clone(), 6));
    assert!(some.iter().all(|line| all.contains(line)), "the same lines, with the same proofs");
    let [from, to] = [wanted[1], wanted[4]].map(|index| index.to_string());
    assert_eq!(these(&narrow(&["--since", &from, "--until", &to])), wanted[1..4]);
    assert_eq!(exported(&daemon, &["--until", &to]).len() as u64, wanted[4]);
    assert_eq!(exported(&daemon, &["--until", "2020-01-01"]).len(), 0);
    assert_eq!(
        exported(&daemon, &["--format", "ocsf", "--server", "own", "--tool", "note"]).len(),
        5,
        "one for each call"
    );
    assert_eq!(exported(&daemon, &["--server", "all"]).len(), 0);
    // A call whose end lies behind is one event all the same, and whole.
    let [start, end] = [&found[0]["index"], &found[0]["ended"]].map(ToString::to_string);
    let events = exported(&daemon, &["--format", "ocsf", "--since", &start, "--until", &end, "--principal", "ann"]);
    assert_eq!((events.len(), &events[0]["status"]), (1, &json!("Success")), "{events:?}");
    let turned = daemon.run(&["audit", "export", "--since", "5", "--until", "3"]);
    assert_eq!(turned.status.code(), Some(2), "{turned:?}");
    let nobody = daemon.run(&["audit", "export", "--principal", "carol"]);
    assert_eq!(nobody.status.code(), Some(3), "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_whole_or_as_it_was_and_a_closed_pipe_is_no_failure() {
    let daemon = ended().await;
    let out = daemon.state().join("export.new");
    let told = daemon.run(&["audit", "export", "--out", out.to_str().unwrap()]);
    assert!(told.status.success(), "{told:?}");
    let whole = std::fs::read(&out).unwrap();
    assert_eq!(lines(&whole), exported(&daemon, &[]));
    assert_eq!(daemon.run(&["audit", "export", "--out", "/nowhere/at/all/x"]).status.code(), Some(1));
    // An entry that is not what was hashed: nothing takes the place of the old file, and nothing is left beside it.
    let segment = daemon.state().join("ledger/wal/00000000000000000000.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(8).position(|bytes| bytes == b"operator").unwrap();
    bytes[at] = b'O';
    stdx::durable::write_file(&segment, &bytes, 0o600).unwrap();
    let told = daemon.run(&["audit", "export", "--out", out.to_str().unwrap()]);
    assert!(!told.status.success(), "{told:?}");
    assert_eq!(std::fs::read(&out).unwrap(), whole);
    assert!(!daemon.state().join("export.new.new").exists());

    let daemon = ended().await;
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_staithe"));
    let mut child = command
        .args(["audit", "export", "--with-proofs", "--state-dir"])
        .arg(daemon.state())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
}

/// What the schema requires of every event, and of the classes that are written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_ocsf_have_what_their_class_requires() {
    let daemon = ended().await;
    let events = exported(&daemon, &["--format", "ocsf"]);
    for event in &events {
        for number in ["class_uid", "category_uid", "type_uid", "activity_id", "time", "severity_id"] {
            assert!(event[number].is_u64(), "{number} of {event}");
        }
        let uid = |name: &str| event[name].as_u64().unwrap();
        assert_eq!(uid("type_uid"), uid("class_uid") * 100 + uid("activity_id"), "{event}");
        assert_eq!(uid("category_uid"), uid("class_uid") / 1000, "{event}");
        assert!(uid("severity_id") <= 4 && [0, 1, 2].contains(&uid("status_id")), "{event}");
        assert_eq!(event["metadata"]["version"], "1.6.0");
        assert!(event["metadata"]["product"]["name"].is_string());
        match uid("class_uid") {
            6003 => {
                assert!(event["actor"]["user"]["uid"].is_string(), "{event}");
                assert!(event["api"]["operation"].is_string(), "{event}");
                assert!(event["src_endpoint"]["name"].is_string(), "{event}");
            }
            6002 => assert!(event["app"]["name"].is_string() && event["app"]["vendor_name"].is_string(), "{event}"),
            other => assert_eq!(other, 0, "{event}"),
        }
    }
    let calls = events.iter().filter(|event| event["resources"][0]["name"] == "note");
    let calls: Vec<&Value> = calls.collect();
    assert_eq!(calls.len(), 5, "one event for each call");
    for call in calls {
        assert_eq!((&call["status"], &call["api"]["service"]["name"]), (&json!("Success"), &json!("own")), "{call}");
        assert!(call["duration"].is_u64() && call["unmapped"]["end"]["outcome"] == "ok", "{call}");
    }
    let text = serde_json::to_string(&events).unwrap();
    assert!(!text.contains("\"ann\""), "a principal goes by another name");
    let both = daemon.run(&["audit", "export", "--format", "ocsf", "--with-proofs"]);
    assert_eq!(both.status.code(), Some(2), "{both:?}");
}
