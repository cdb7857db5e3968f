//! Requests that race at a witness: no two of them may leave from the same tree to different ones.

use crate::made::{Made, NOW, ORIGIN, key_file, signer};
use crate::running::{Address, Witness};
use ledger::leaf_hash;
use ledger::witness::Request;
use std::sync::Barrier;

/// Sends requests until the log is cosigned up to `end`; gives the steps that were cosigned.
fn climb(at: &Address, made: &Made, stride: u64, end: u64) -> Vec<(u64, u64)> {
    let (mut here, mut steps) = (0, Vec::new());
    while here < end {
        let next = (here + stride).min(end);
        let answer = at.add(&made.request(here, next));
        match answer.status {
            200 => {
                steps.push((here, next));
                here = next;
            }
            409 => {
                let size: u64 = answer.body.trim_end().parse().unwrap();
                assert!(size > here, "the witness went back from {here} to {size}");
                here = size;
            }
            other => panic!("{other}: {}", answer.body),
        }
    }
    steps
}

#[test]
fn racing_requests_never_take_the_witness_back() {
    let made = Made::new("entry", 120);
    let witness = Witness::start(&made.path("witness"), &[made.keys()]);
    let (at, made) = (&witness.at, &made);
    let mut steps: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let climbers = [1, 2, 3, 5].map(|stride| scope.spawn(move || climb(at, made, stride, 120)));
        climbers.into_iter().flat_map(|climber| climber.join().unwrap()).collect()
    });
    // All that was cosigned is one way up, whoever asked.
    steps.sort_unstable();
    let mut here = 0;
    for (old, new) in &steps {
        assert_eq!(*old, here, "{steps:?}");
        here = *new;
    }
    assert_eq!(here, 120);
    assert!(witness.at.shown(ORIGIN).body.starts_with("example.com/log\n120\n"));
}

#[test]
fn of_two_forks_that_race_one_is_cosigned() {
    let place = tempfile::tempdir().unwrap();
    let origins: Vec<String> = (0..12).map(|nth| format!("example.com/race{nth}")).collect();
    let files: Vec<_> = origins.iter().map(|origin| key_file(place.path(), origin, 1)).collect();
    let witness = Witness::start(&place.path().join("witness"), &files);
    for origin in &origins {
        let request = |entry: &[u8]| {
            let checkpoint = signer(origin, 1).sign(1, leaf_hash(entry), NOW).unwrap();
            Request::new(0, vec![], &checkpoint).unwrap().to_string()
        };
        let (at, start) = (&witness.at, Barrier::new(4));
        let wishes = [request(b"one"), request(b"two"), request(b"one"), request(b"two")];
        let start = &start;
        let answers: Vec<u16> = std::thread::scope(|scope| {
            let racers = wishes.each_ref().map(|wish| {
                scope.spawn(move || {
                    start.wait();
                    at.add(wish).status
                })
            });
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        let mut sorted = answers.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [200, 409, 409, 409], "{answers:?}");
    }
}
