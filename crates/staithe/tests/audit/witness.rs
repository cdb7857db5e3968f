//! `staithe audit witness`: what it answers, and what it remembers.

use crate::made::{Made, NOW, ORIGIN, STAITHE, audit, files, key_file, keys, signer, write};
use crate::running::{NAME, Witness, command};
use ledger::witness::{Reply, Request};
use ledger::{Kind, LogKeys, Note, Signer};
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

fn start(made: &Made) -> Witness {
    Witness::start(&made.path("witness"), &[made.keys()])
}

#[test]
fn a_log_that_grows_is_cosigned_and_the_cosignatures_satisfy_a_policy() {
    let made = Made::new("entry", 100);
    let witness = start(&made);
    assert_eq!(witness.at.shown(ORIGIN).status, 404, "nothing was cosigned yet");
    // The same again is fine: the log has lost the answer.
    for (old, new) in [(0, 0), (0, 1), (1, 1), (1, 37), (37, 64), (64, 100)] {
        let request = made.request(old, new);
        let answer = witness.at.add(&request);
        assert_eq!(answer.status, 200, "{old} to {new}: {}", answer.body);
        let checkpoint = keys(ORIGIN, 1).check(request.note().clone()).unwrap();
        let Reply::Cosigned(lines) = answer.read(checkpoint.note().text(), &witness.verifiers()) else { panic!("no") };
        let cosigned = checkpoint.with(lines).unwrap();
        assert_eq!(witness.policy().cosigned(&cosigned).unwrap().len(), 2, "Ed25519 and ML-DSA-44");
        // What was answered is what is shown, with the log's own signatures.
        let shown = witness.at.shown(ORIGIN);
        assert_eq!((shown.status, shown.body), (200, cosigned.to_string()));
        assert_eq!(cosigned.size(), new);
    }
    assert_eq!(witness.stop(), Some(0));
}

#[test]
fn a_connection_serves_one_request_after_another() {
    let made = Made::new("entry", 8);
    let witness = start(&made);
    let ask = |old, new, end: &str| {
        let body = made.request(old, new).to_string();
        format!("POST /add-checkpoint HTTP/1.1\r\nHost: w\r\n{end}Content-Length: {}\r\n\r\n{body}", body.len())
    };
    let all = format!("{}{}{}", ask(0, 3, ""), ask(3, 5, ""), ask(3, 8, "Connection: close\r\n"));
    let mut stream = witness.at.connect();
    stream.write_all(all.as_bytes()).unwrap();
    let mut told = String::new();
    stream.read_to_string(&mut told).unwrap();
    assert_eq!((told.matches("HTTP/1.1 200").count(), told.matches("HTTP/1.1 409").count()), (2, 1), "{told}");
}

#[test]
fn people_are_told_in_words() {
    let made = Made::new("entry", 8);
    let words = ["audit", "witness", "--listen", "127.0.0.1:0", "--name", NAME, "--dir"];
    let mut command = Command::new(STAITHE);
    command.args(words).arg(made.path("witness")).arg("--log").arg(made.keys());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().take(6).map(Result::unwrap);
    let lines: Vec<String> = lines.collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(lines[0].starts_with("listening witness=http://127.0.0.1:"), "{lines:?}");
    assert!(lines[1].starts_with("log example.com/log: nothing cosigned yet; http://127.0.0.1:"), "{lines:?}");
    let public = std::fs::read_to_string(made.path("witness/witness.vkeys")).unwrap();
    // Lines that a policy takes as they are.
    let url = lines[0].trim_start_matches("listening witness=");
    for (nth, (line, key)) in lines[3..5].iter().zip(public.lines().filter(|line| !line.starts_with('#'))).enumerate() {
        assert_eq!(*line, format!("witness w-{} {key} {url}", nth + 1));
    }
    assert_eq!(lines[5], "group w all w-1 w-2");
}

#[test]
fn what_does_not_follow_is_not_cosigned() {
    let made = Made::new("entry", 64);
    let (fork, witness) = (Made::new("other", 64), start(&made));
    let add = |request: &Request| witness.at.add(request);
    assert_eq!(add(&made.request(0, 32)).status, 200);
    let before = witness.at.shown(ORIGIN).body;
    // Stale: the witness says where it is.
    for (old, new) in [(0, 40), (31, 40), (0, 10), (40, 64)] {
        let answer = add(&made.request(old, new));
        assert_eq!((answer.status, &*answer.kind, &*answer.body), (409, "text/x.tlog.size", "32\n"), "{old} to {new}");
    }
    // A fork: same size with another root, and a longer one with its own proof.
    assert_eq!(add(&fork.request(32, 32)).status, 422);
    assert_eq!(add(&fork.request(32, 64)).status, 422);
    // The right tree with a wrong proof.
    let wrong =
        Request::new(32, fork.log.view().unwrap().consistency_at(32, 64).unwrap(), &made.checkpoint(64)).unwrap();
    assert_eq!(add(&wrong).status, 422);
    let none = Request::new(32, vec![], &made.checkpoint(64)).unwrap();
    assert_eq!(add(&none).status, 422);
    assert_eq!(witness.at.shown(ORIGIN).body, before);
    assert_eq!(add(&made.request(32, 64)).status, 200);
}

#[test]
fn only_the_log_itself_is_heard_and_with_both_signatures() {
    let made = Made::new("entry", 8);
    let (stranger, witness) = (Made::with_key("entry", 8, 3), start(&made));
    assert_eq!(witness.at.add(&stranger.request(0, 8)).status, 403, "a stranger's keys");
    let good = made.request(0, 8).to_string();
    let lines: Vec<&str> = good.lines().collect();
    let without = |left_out: usize| {
        let kept = lines.iter().enumerate().filter(|(at, _)| *at != left_out);
        kept.map(|(_, line)| format!("{line}\n")).collect::<String>()
    };
    // The two last lines are the signatures; neither is enough alone.
    for left_out in [lines.len() - 1, lines.len() - 2] {
        assert_eq!(witness.at.add(&without(left_out)).status, 403);
    }
    let theirs = stranger.request(0, 4).to_string();
    let borrowed = made.checkpoint(4).to_string();
    let borrowed = borrowed.lines().nth_back(1).unwrap().split(' ').nth(2).unwrap();
    let mine = lines[lines.len() - 2].split(' ').nth(2).unwrap();
    assert_eq!(witness.at.add(&good.replace(mine, borrowed)).status, 403, "a signature of another checkpoint");
    assert_eq!(witness.at.add(&theirs).status, 403);
    let other = signer("example.com/unknown", 1).sign(1, ledger::leaf_hash(b"x"), NOW).unwrap();
    assert_eq!(witness.at.add(&Request::new(0, vec![], &other).unwrap()).status, 404, "a log that nobody named");
    let more = good.replace("\n\n\u{2014}", "\nmore\n\n\u{2014}");
    assert_eq!(witness.at.add(&more).status, 403, "text that was not signed");
    assert_eq!(witness.at.shown(ORIGIN).status, 404, "nothing was cosigned by all this");
    assert_eq!(witness.at.add(&good).status, 200);
}

#[test]
fn a_log_with_one_key_needs_only_that() {
    let made = Made::new("entry", 8);
    let ed25519 = Signer::from_seed(Kind::Ed25519, "go.example/sum", &[9; 32]).unwrap();
    let file = made.path("foreign.vkeys");
    write(&file, ed25519.verifier().to_string());
    let witness = Witness::start(&made.path("witness"), &[made.keys(), file]);
    let text = format!("go.example/sum\n1\n{}\nits own line\n", ledger::leaf_hash(b"x"));
    let note = Note::new(text.clone(), vec![ed25519.sign(&text, 0).unwrap()]).unwrap();
    let answer = witness.at.add(&format!("old 0\n\n{note}"));
    assert_eq!(answer.status, 200, "{}", answer.body);
    let shown = Note::parse(witness.at.shown("go.example/sum").body.as_bytes()).unwrap();
    assert_eq!(shown.verify(&witness.verifiers()).unwrap().len(), 2);
    assert_eq!(witness.at.add(&made.request(0, 8)).status, 200, "each log has its own page");
    assert_eq!(witness.told["logs"].as_array().unwrap().len(), 2);
}

#[test]
fn a_restart_changes_nothing() {
    let made = Made::new("entry", 64);
    let witness = start(&made);
    assert_eq!(witness.at.add(&made.request(0, 40)).status, 200);
    let (shown, vkeys) = (witness.at.shown(ORIGIN).body, witness.vkeys());
    assert_eq!(witness.stop(), Some(0));
    // A start without the log in between: its page stays.
    let other = Witness::start(&made.path("witness"), &[key_file(made.place.path(), "example.com/other", 2)]);
    assert_eq!(other.at.shown(ORIGIN).status, 404);
    other.kill();
    let witness = start(&made);
    assert_eq!((witness.at.shown(ORIGIN).body, witness.vkeys()), (shown, vkeys));
    assert_eq!(witness.told["logs"][0]["size"], json!(40));
    assert_eq!(witness.at.add(&made.request(0, 64)).body, "40\n");
    assert_eq!(witness.at.add(&made.request(40, 64)).status, 200);
}

#[test]
fn secrets_stay_in_their_files() {
    let made = Made::new("entry", 8);
    let witness = start(&made);
    let dir = made.path("witness");
    let public = std::fs::read_to_string(dir.join("witness.vkeys")).unwrap();
    let lines: Vec<&str> = public.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines, witness.vkeys());
    let kinds: Vec<Kind> = witness.verifiers().iter().map(ledger::Verifier::kind).collect();
    assert_eq!(kinds, [Kind::Ed25519Cosignature, Kind::MlDsa44Cosignature]);
    assert_eq!(witness.at.add(&made.request(0, 8)).status, 200);
    for file in files(&dir).iter().filter(|file| !file.ends_with("witness.vkeys")) {
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    let secret = std::fs::read(dir.join("ed25519.key")).unwrap();
    let seed: String = secret[secret.len() - 32..].iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!witness.line.to_lowercase().contains(&seed));
    assert_eq!(witness.stop(), Some(0));
    // Whom others can read is not a secret any more.
    std::fs::set_permissions(dir.join("ml-dsa-44.key"), std::fs::Permissions::from_mode(0o640)).unwrap();
    let refused = command(&dir, NAME, &[made.keys()]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("chmod 600"));
}

#[test]
fn one_directory_is_one_witness() {
    let made = Made::new("entry", 8);
    let witness = start(&made);
    assert_eq!(witness.at.add(&made.request(0, 8)).status, 200);
    let dir = made.path("witness");
    let refused = |name: &str, words: &str| {
        let done = command(&dir, name, &[made.keys()]).output().unwrap();
        let told = String::from_utf8(done.stderr).unwrap();
        assert!(done.status.code() == Some(1) && told.contains(words), "{told}");
    };
    refused(NAME, "another witness works in");
    witness.kill();
    refused("example.com/w2", "the keys of another witness");
    // Without its memory it is none.
    let page = files(&dir.join("logs")).remove(0);
    let good = std::fs::read(&page).unwrap();
    let text = String::from_utf8(good.clone()).unwrap();
    let half = text.replace(text.lines().last().unwrap(), "").replace("\n\n\n", "\n\n");
    let half = format!("{}\n", half.trim_end_matches('\n'));
    for bad in ["", "x\n", &text.replace("\n8\n", "\n7\n"), &half] {
        write(&page, bad);
        refused(NAME, "is not what this witness cosigned");
    }
    write(&page, good);
    std::fs::remove_file(dir.join("ed25519.key")).unwrap();
    refused(NAME, "secret key");
    std::fs::remove_dir_all(dir.join("logs")).unwrap();
    refused(NAME, "does not know what it cosigned");
}

#[test]
fn wrong_words_are_usage_errors() {
    let made = Made::new("entry", 1);
    let (dir, keys) = (made.path("witness"), made.keys());
    let (dir, keys) = (dir.to_str().unwrap(), keys.to_str().unwrap());
    audit(&["witness", "--dir", dir, "--name", "w"]).says(2, &["--log"]);
    for name in ["", "a b", "a+b", &"w".repeat(256)] {
        audit(&["witness", "--dir", dir, "--name", name, "--log", keys]).says(2, &["--name"]);
    }
    let file = made.path("wrong.vkeys");
    let all: LogKeys = crate::made::keys(ORIGIN, 1);
    let mut lines: Vec<String> = all.verifiers().map(ToString::to_string).collect();
    lines.push(Signer::from_seed(Kind::Ed25519, ORIGIN, &[5; 32]).unwrap().verifier().to_string());
    write(&file, lines.join("\n"));
    audit(&["witness", "--dir", dir, "--name", "w", "--log", file.to_str().unwrap()]).says(2, &[ORIGIN]);
    write(&file, crate::made::vkeys(&crate::made::cosigners(1))[0].clone());
    audit(&["witness", "--dir", dir, "--name", "w", "--log", file.to_str().unwrap()]).says(2, &["a witness's"]);
    assert!(!std::path::Path::new(dir).exists(), "nothing was made");
}
