//! `staithe audit check`: one proof, offline.

use crate::made::{Done, Made, NOW, audit, cosigners, policy, vkeys, write};
use ledger::Proof;
use serde_json::json;

struct Given {
    made: Made,
}

impl Given {
    /// The proof of entry 5 of 20, and the entry.
    fn new() -> Self {
        let given = Self { made: Made::new("entry", 20) };
        write(&given.made.path("proof"), given.proof().to_string());
        write(&given.made.path("entry"), "entry 5");
        given
    }

    fn proof(&self) -> Proof {
        let hashes = self.made.log.view().unwrap().inclusion_at(5, 20).unwrap();
        Proof::new(5, hashes, &self.made.checkpoint(20))
    }

    fn check(&self, more: &[&str]) -> Done {
        let path = |name: &str| self.made.path(name).display().to_string();
        let keys = self.made.keys().display().to_string();
        audit(&[&["check", &path("proof"), "--entry", &path("entry"), "--key", &keys][..], more].concat())
    }
}

#[test]
fn a_proof_proves_its_entry_and_no_other() {
    let given = Given::new();
    given.check(&[]).says(0, &["example.com/log", "5 of 20", "tamper-evident", "not verified:"]);
    let told = given.check(&["--json"]).json();
    assert_eq!((&told["index"], &told["bytes"], &told["word"]), (&json!(5), &json!(7), &json!("tamper-evident")));
    for other in ["entry 6", "entry 5 ", "", "entry 5\n\n"] {
        write(&given.made.path("entry"), other);
        given.check(&[]).says(5, &["proves nothing", "byte for byte"]);
    }
    write(&given.made.path("entry"), "entry 5\n");
    given.check(&[]).says(5, &["without the line end"]);
    write(&given.made.path("entry"), vec![b'x'; 65_536]);
    given.check(&[]).says(5, &["longer than an entry"]);
}

#[test]
fn what_is_no_proof_proves_nothing() {
    let given = Given::new();
    let good = given.proof().to_string();
    let (path, stranger) = (given.made.path("proof"), Made::with_key("entry", 20, 5));
    let theirs = Proof::new(5, given.proof().hashes().to_vec(), &stranger.checkpoint(20)).to_string();
    let cut: String = good.lines().take(good.lines().count() - 1).map(|line| format!("{line}\n")).collect();
    let bad = [
        String::new(),
        "x".to_owned(),
        good.replace("index 5", "index 6"),
        good.replace("index 5", "index 05"),
        good.replace("example.com/log\n20", "example.com/log\n21"),
        cut,
        theirs,
    ];
    for bad in bad {
        assert_ne!(bad, good);
        write(&path, &bad);
        given.check(&[]).says(5, &["proves nothing"]);
    }
    write(&path, given.proof().with_extra(b"beside".to_vec()).unwrap().to_string());
    given.check(&[]).says(0, &["the 6 bytes of extra data"]);
    write(&path, good);
    given.check(&["--policy", "/nowhere/policy"]).says(1, &["cannot read"]);
}

#[test]
fn a_policy_is_kept() {
    let given = Given::new();
    let one = cosigners(1);
    let file = given.made.path("policy");
    write(&file, policy(&[vkeys(&one)]));
    let words = ["--policy", file.to_str().unwrap()];
    given.check(&words).says(5, &["no quorum"]);
    let checkpoint = given.made.checkpoint(20);
    let text = checkpoint.note().text().to_owned();
    let with = |time| one.iter().map(|signer| signer.sign(&text, time).unwrap()).collect::<Vec<_>>();
    let hashes = given.proof().hashes().to_vec();
    // A cosignature without a time says nothing.
    for (time, code) in [(0, 5), (NOW, 0)] {
        let cosigned = checkpoint.clone().with(with(time)).unwrap();
        write(&given.made.path("proof"), Proof::new(5, hashes.clone(), &cosigned).to_string());
        given.check(&words).says(code, &[]);
    }
    let done = given.check(&words);
    assert!(!done.says(0, &["tamper-proof"]).out.contains("tamper-evident"));
}
