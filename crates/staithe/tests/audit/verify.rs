//! `staithe audit verify`: whole logs, and copies that somebody changed.

use crate::made::{Done, Made, NOW, STAITHE, audit, cosigners, files, policy, vkeys, write};
use ledger::{Options, Signer};
use serde_json::json;
use std::path::Path;
use std::process::{Command, Stdio};

/// 320 entries in several segments with a full tile, signed at 80, 160, 240 and 320.
fn made() -> Made {
    let mut made = Made::new("entry", 0);
    for _ in 0..4 {
        made.append("entry", 80);
        made.sign();
    }
    made
}

fn verify(made: &Made, dir: &Path, more: &[&str]) -> Done {
    let (dir, keys) = (dir.display().to_string(), made.keys().display().to_string());
    audit(&[&["verify", &dir, "--key", &keys][..], more].concat())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_whole_log_verifies_and_the_report_says_what_that_means() {
    let made = made();
    let done = verify(&made, &made.dir(), &[]);
    done.says(
        0,
        &["example.com/log", "320", "2026-07-28T00:00:00Z", "tamper-evident", "not verified:", "--since", "--policy"],
    );
    assert!(!done.out.contains("tamper-proof"), "{}", done.out);
    let told = verify(&made, &made.dir(), &["--json"]).json();
    let root = made.log.view().unwrap().root().to_string();
    assert_eq!(told["checkpoint"], json!({"entries": 320, "root": root, "time": "2026-07-28T00:00:00Z"}));
    assert_eq!(
        (&told["verified"], &told["word"], &told["witnesses"]),
        (&json!(true), &json!("tamper-evident"), &json!(null))
    );
    assert_eq!((&told["entries"], &told["first"], &told["compared"]), (&json!(320), &json!(0), &json!(5)));
    assert!(told["not_verified"].as_array().unwrap().len() >= 4, "{told}");
}

#[test]
fn a_terminal_gets_a_bar_and_a_pipe_gets_none() {
    let mut made = Made::empty(Options::default(), 1);
    let entries: Vec<String> = (0..140_000).map(|nth| format!("{nth}")).collect();
    for chunk in entries.chunks(100) {
        made.log.append(chunk).unwrap();
    }
    made.sign();
    let done = verify(&made, &made.dir(), &[]);
    assert_eq!((done.code, &*done.err), (0, ""), "{}", done.out);
    let words = format!("{STAITHE} audit verify {} --key {}", made.dir().display(), made.keys().display());
    let done = Command::new("script").args(["-qec", &words, "/dev/null"]).stdin(Stdio::null()).output();
    let done = done.unwrap_or_else(|error| panic!("script, of bsdutils or util-linux, cannot be run: {error}"));
    let seen = String::from_utf8(done.stdout).unwrap();
    assert!(seen.contains("\rverifying [###") && seen.contains("entry 131072 of 140000"), "{seen}");
    assert!(seen.contains("\r\x1b[Kverified: "), "the bar is gone when the report comes: {seen}");
}

#[test]
fn entries_behind_the_checkpoint_are_not_said_to_be_signed() {
    let mut made = made();
    made.append("late", 3);
    made.log.sync().unwrap();
    let done = verify(&made, &made.dir(), &[]);
    done.says(0, &["323", "entries 320 to 322: no checkpoint covers them yet"]);
}

#[test]
fn a_log_that_only_began_verifies() {
    let mut made = Made::new("entry", 0);
    verify(&made, &made.dir(), &[]).says(5, &["checkpoint is missing"]);
    made.sign();
    verify(&made, &made.dir(), &[]).says(0, &["none"]);
}

#[test]
fn a_changed_byte_in_any_file_is_found() {
    let made = made();
    let all = files(&made.dir());
    assert!(all.len() >= 12, "segments, indexes, tiles, checkpoints: {all:?}");
    for file in all.iter().filter(|file| !file.ends_with("lock")) {
        let content = std::fs::read(file).unwrap();
        let end = content.iter().rposition(|byte| *byte != 0).unwrap();
        for at in [0, end / 2, end] {
            let copy = made.copy("copy");
            let mut bad = content.clone();
            bad[at] ^= 1;
            write(&copy.join(file.strip_prefix(made.dir()).unwrap()), &bad);
            let done = verify(&made, &copy, &[]);
            assert_ne!(done.code, 0, "byte {at} of {}: {}", file.display(), done.out);
            done.says(5, &["does not verify", "next:"]);
            std::fs::remove_dir_all(&copy).unwrap();
        }
    }
}

#[test]
fn what_was_removed_is_missed() {
    let made = made();
    let last = files(&made.dir().join("wal")).into_iter().rfind(|file| file.extension().is_some_and(|it| it == "seg"));
    let last = last.unwrap();
    for gone in
        [Path::new("checkpoint"), last.strip_prefix(made.dir()).unwrap(), Path::new("wal/00000000000000000000.seg")]
    {
        let copy = made.copy("copy");
        std::fs::remove_file(copy.join(gone)).unwrap();
        verify(&made, &copy, &[]).says(5, &["does not verify"]);
        std::fs::remove_dir_all(&copy).unwrap();
    }
    let copy = made.copy("copy");
    std::fs::remove_dir_all(copy.join("wal")).unwrap();
    verify(&made, &copy, &[]).says(5, &["does not verify"]);
}

#[test]
fn an_older_copy_is_found_out_by_a_checkpoint_that_somebody_kept() {
    let mut made = made();
    let older = made.copy("older");
    made.append("entry", 5);
    made.sign();
    let kept = made.path("kept");
    write(&kept, made.checkpoint(325).to_string());
    verify(&made, &older, &[]).says(0, &["tamper-evident"]);
    verify(&made, &older, &["--since", text(&kept)]).says(5, &["320 entries", "325", "kept"]);
    let done = verify(&made, &made.dir(), &["--since", text(&kept)]);
    done.says(0, &["325 entries", "the log begins with them"]);
}

#[test]
fn another_log_of_the_same_keys_is_found_out_by_a_checkpoint_that_somebody_kept() {
    let made = made();
    let kept = made.path("kept");
    write(&kept, made.checkpoint(20).to_string());
    verify(&made, &made.dir(), &["--since", text(&kept)]).says(0, &["20 entries"]);
    // All entries anew, all checkpoints signed: without help nobody can tell.
    let mut forged = Made::new("forged", 320);
    forged.sign();
    verify(&made, &forged.dir(), &[]).says(0, &["tamper-evident"]);
    verify(&made, &forged.dir(), &["--since", text(&kept)]).says(5, &["the first 20 entries", "altered"]);
    // A checkpoint that is none, or another's.
    write(&kept, "x\n");
    verify(&made, &made.dir(), &["--since", text(&kept)]).says(5, &["kept does not verify"]);
    let stranger = Made::with_key("entry", 32, 7);
    write(&kept, stranger.checkpoint(20).to_string());
    verify(&made, &made.dir(), &["--since", text(&kept)]).says(5, &["no known key signed it"]);
}

#[test]
fn pruned_entries_are_said_to_be_missing() {
    let mut made = made();
    let first = made.log.prune(200).unwrap();
    assert!(first > 0);
    let done = verify(&made, &made.dir(), &[]);
    done.says(0, &[&format!("entries 0 to {}: they were pruned", first - 1)]);
    assert_eq!(verify(&made, &made.dir(), &["--json"]).json()["first"], json!(first));
}

#[test]
fn wrong_words_files_and_keys_have_their_exit_codes() {
    let made = made();
    let stranger = Made::with_key("x", 1, 9);
    verify(&stranger, &made.dir(), &[]).says(5, &["no known key signed it", "are these the log's keys?"]);
    verify(&made, &made.path("nowhere"), &[]).says(3, &["no directory"]);
    let dir = made.dir().display().to_string();
    let missing = made.path("missing").display().to_string();
    audit(&["verify", &dir, "--key", &missing]).says(1, &["cannot read"]);
    audit(&["verify", &dir]).says(2, &["--key"]);
    let one = made.path("one");
    let keys: Vec<String> = std::fs::read_to_string(made.keys()).unwrap().lines().map(str::to_owned).collect();
    for bad in [keys[1].clone(), String::new(), "not a key".to_owned(), format!("{}\n{}", keys[1], keys[1])] {
        write(&one, bad);
        audit(&["verify", &dir, "--key", text(&one)]).says(2, &["one"]);
    }
    let bad = made.path("policy");
    write(&bad, "quorum w1\n");
    verify(&made, &made.dir(), &["--policy", text(&bad)]).says(2, &["line 1", "tlog-policy"]);
    let own = vkeys(&cosigners(1));
    write(&bad, format!("witness me {}\nwitness w {}\ngroup g any me w\nquorum g\n", keys[2], own[0]));
    verify(&made, &made.dir(), &["--policy", text(&bad)]).says(2, &["a key of the log itself"]);
}

fn cosigned(made: &Made, size: u64, witnesses: &[&Signer]) -> String {
    let checkpoint = made.checkpoint(size);
    let text = checkpoint.note().text().to_owned();
    checkpoint.with(witnesses.iter().map(|signer| signer.sign(&text, NOW + 5).unwrap())).unwrap().to_string()
}

#[test]
fn only_a_quorum_makes_it_tamper_proof() {
    let made = made();
    let (one, other) = (cosigners(1), cosigners(2));
    let file = made.path("policy");
    write(&file, policy(&[vkeys(&one), vkeys(&other)]));
    let asked = |more: &[&str]| verify(&made, &made.dir(), &[&["--policy", text(&file)], more].concat());
    asked(&[]).says(5, &["no quorum", "asks for more cosignatures"]);
    let own = made.dir().join("checkpoint");
    write(&own, cosigned(&made, 320, &[&one[0], &one[1], &other[0]]));
    asked(&[]).says(5, &["no quorum"]);
    write(&own, cosigned(&made, 320, &[&one[0], &one[1], &other[0], &other[1]]));
    let done = asked(&[]);
    done.says(0, &["tamper-proof", "w0-0 (2026-07-28T00:00:05Z)", "the first 320"]);
    assert!(!done.out.contains("tamper-evident"), "{}", done.out);
    let told = asked(&["--json"]).json();
    assert_eq!((&told["word"], &told["witnesses"]["entries"]), (&json!("tamper-proof"), &json!(320)));
    // One of them is wrong: then nothing is right.
    let good = std::fs::read_to_string(&own).unwrap();
    let elsewhere = cosigned(&made, 48, &[&other[1]]);
    let line = |text: &str| text.lines().last().unwrap().to_owned();
    write(&own, good.replace(&line(&good), &line(&elsewhere)));
    asked(&[]).says(5, &["is wrong"]);
    // Without the policy nobody is asked, and nothing more is said.
    write(&own, good);
    let done = verify(&made, &made.dir(), &[]);
    assert!(!done.says(0, &["tamper-evident"]).out.contains("tamper-proof"));
    write(&file, "quorum none\n");
    assert!(!asked(&[]).says(0, &["tamper-evident"]).out.contains("tamper-proof"));
}

#[test]
fn what_the_log_keeps_of_witnesses_is_found_and_must_be_borne_out() {
    let made = made();
    let one = cosigners(1);
    let (file, kept) = (made.path("policy"), made.dir().join("witnessed"));
    write(&file, policy(&[vkeys(&one)]));
    let words = ["--policy", text(&file)];
    write(&kept, cosigned(&made, 40, &[&one[0], &one[1]]));
    verify(&made, &made.dir(), &words).says(0, &["tamper-proof, the first 40 entries", "entries 40 to 319"]);
    write(&kept, cosigned(&made, 320, &[&one[0], &one[1]]));
    verify(&made, &made.dir(), &words).says(0, &["the first 320"]);
    // Another log, and an older one, do not bear out what witnesses saw of this one.
    let mut longer = Made::new("entry", 320);
    longer.append("entry", 9);
    let other = Made::new("other", 320);
    for (root, why) in
        [(cosigned(&longer, 329, &[&one[0], &one[1]]), "329"), (cosigned(&other, 320, &[&one[0], &one[1]]), "altered")]
    {
        write(&kept, root);
        for words in [&[][..], &words] {
            verify(&made, &made.dir(), words).says(5, &[why]);
        }
    }
    write(&kept, "nonsense");
    verify(&made, &made.dir(), &[]).says(5, &["witnessed"]);
}

#[test]
fn what_witnesses_showed_covers_as_much_as_they_cosigned() {
    let made = made();
    let one = cosigners(1);
    let (file, shown) = (made.path("policy"), made.path("shown"));
    write(&file, policy(&[vkeys(&one)]));
    write(&shown, cosigned(&made, 40, &[&one[0], &one[1]]));
    let words = ["--policy", text(&file), "--since", text(&shown)];
    let done = verify(&made, &made.dir(), &words);
    done.says(
        0,
        &["tamper-proof, the first 40 entries", "tamper-evident", "entries 40 to 319: no quorum cosigned them"],
    );
    let told = verify(&made, &made.dir(), &[&words[..], &["--json"]].concat()).json();
    assert_eq!((&told["word"], &told["witnesses"]["entries"]), (&json!("tamper-evident"), &json!(40)));
    // A log that was written anew does not go with what was cosigned.
    let mut forged = Made::new("forged", 320);
    forged.sign();
    verify(&made, &forged.dir(), &words).says(5, &["altered"]);
}
