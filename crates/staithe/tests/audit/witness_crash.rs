//! A witness that is killed: whatever it gave away, it still knows.

use crate::made::{Made, ORIGIN, files, keys, write};
use crate::running::Witness;
use ledger::Note;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

fn start(made: &Made) -> Witness {
    Witness::start(&made.path("witness"), &[made.keys()])
}

#[test]
fn after_kill_nothing_that_was_cosigned_is_forgotten() {
    let made = Made::new("entry", 2000);
    let mut known = 0;
    for round in 0..8_u64 {
        let witness = start(&made);
        let got = AtomicU64::new(known);
        let (at, made, got) = (&witness.at.clone(), &made, &got);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut here = known;
                while here < 2000 {
                    let request = made.request(here, here + 1).to_string();
                    let Some(answer) = at.try_ask("POST", "/add-checkpoint", &request) else { return };
                    assert_eq!(answer.status, 200, "{}", answer.body);
                    here += 1;
                    got.store(here, Ordering::SeqCst);
                }
            });
            testkit::wait::until("the first cosignature", || got.load(Ordering::SeqCst) > known);
            std::thread::sleep(Duration::from_millis(7 * round));
            witness.kill();
        });
        let got = got.load(Ordering::SeqCst);
        let witness = start(made);
        let body = witness.at.shown(ORIGIN).body;
        let shown = keys(ORIGIN, 1).open(body.as_bytes()).unwrap();
        // One more may be on disk than was answered.
        assert!((got..=got + 1).contains(&shown.size()), "{got} were cosigned, {} are known", shown.size());
        assert_eq!(witness.policy().cosigned(&shown).unwrap().len(), 2);
        assert_eq!(shown.root(), made.log.view().unwrap().root_at(shown.size()).unwrap());
        assert_eq!(witness.at.add(&made.request(0, 1)).body, format!("{}\n", shown.size()));
        known = shown.size();
        witness.kill();
    }
    assert!(known >= 8, "only {known} were cosigned in all");
}

#[test]
fn what_was_remembered_and_not_yet_cosigned_is_cosigned_at_the_next_start() {
    let made = Made::new("entry", 30);
    let witness = start(&made);
    assert_eq!(witness.at.add(&made.request(0, 20)).status, 200);
    witness.kill();
    // As it is on disk between remembering and cosigning.
    let page = files(&made.path("witness/logs")).remove(0);
    let cosigned = Note::parse(&std::fs::read(&page).unwrap()).unwrap();
    assert_eq!(cosigned.signatures().len(), 4);
    write(&page, made.checkpoint(20).to_string());
    let witness = start(&made);
    let shown = witness.at.shown(ORIGIN).body;
    let shown = keys(ORIGIN, 1).open(shown.as_bytes()).unwrap();
    assert_eq!((shown.size(), witness.policy().cosigned(&shown).unwrap().len()), (20, 2));
    assert_eq!(witness.at.add(&made.request(20, 30)).status, 200);
}

#[test]
fn where_the_disk_refuses_nothing_is_cosigned() {
    let made = Made::new("entry", 30);
    let witness = start(&made);
    assert_eq!(witness.at.add(&made.request(0, 20)).status, 200);
    // No new copy can be made where a directory has its name.
    let page = files(&made.path("witness/logs")).remove(0);
    let beside = page.with_extension("new");
    std::fs::create_dir(&beside).unwrap();
    let answer = witness.at.add(&made.request(20, 30));
    assert_eq!((answer.status, answer.body.contains('\u{2014}')), (503, false), "{}", answer.body);
    assert!(witness.at.shown(ORIGIN).body.starts_with("example.com/log\n20\n"));
    assert_eq!(witness.at.add(&made.request(0, 30)).body, "20\n");
    // The old file is in its place, so nothing is lost, and it goes on.
    std::fs::remove_dir(&beside).unwrap();
    assert_eq!(witness.at.add(&made.request(20, 30)).status, 200);
}
