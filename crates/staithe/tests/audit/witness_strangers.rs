//! A witness among strangers: garbage, bodies without end, and clients that say nothing.

use crate::made::{Made, ORIGIN};
use crate::running::{Witness, answer};
use std::io::{Read, Write};
use std::time::Duration;
use stdx::clock::monotonic;

fn start(made: &Made) -> Witness {
    Witness::start(&made.path("witness"), &[made.keys()])
}

#[test]
fn what_is_no_request_is_refused_as_such() {
    let made = Made::new("entry", 8);
    let witness = start(&made);
    let good = made.request(0, 8).to_string();
    let hashes = format!("old 1\n{}", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n".repeat(64));
    let long = "x".repeat(900_000);
    let bad = [
        "",
        "old",
        "old 0\n",
        "old 00\n\n",
        "old -1\n\n",
        &good.replace("old 0", "old 9"),
        &good.replace("old 0", "old 01"),
        &good.replace('\n', "\r\n"),
        &good[..good.len() - 1],
        &good[..good.len() / 2],
        &format!("{good}\n"),
        &hashes,
        &long,
        "\u{2014}",
    ];
    for body in bad {
        let answer = witness.at.add(&body);
        assert_eq!(answer.status, 400, "{:?}: {}", &body[..body.len().min(60)], answer.body);
    }
    for (method, path, status) in [
        ("GET", "/", 404),
        ("GET", "/add-checkpoint", 405),
        ("POST", "/add-checkpoint/", 404),
        ("PUT", "/add-checkpoint", 405),
        ("POST", "/x/checkpoint", 405),
        ("GET", "/../../witness.vkeys", 404),
        ("GET", "/../ed25519.key/checkpoint", 404),
        ("GET", "/%2e%2e/checkpoint", 404),
        ("GET", "//checkpoint", 404),
    ] {
        assert_eq!(witness.at.ask(method, path, "").status, status, "{method} {path}");
    }
    let upper = ledger::witness::origin_hash(ORIGIN).to_uppercase();
    assert_eq!(witness.at.add(&good).status, 200);
    assert_eq!(witness.at.ask("GET", &format!("/{upper}/checkpoint"), "").status, 404, "lowercase only");
    assert_eq!(witness.at.shown(ORIGIN).status, 200);
}

#[test]
fn garbage_and_bodies_without_end_are_cut_off() {
    let made = Made::new("entry", 8);
    let witness = start(&made);
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01"[..],
        b"\r\n\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0xff; 70_000],
    ] {
        let answer = witness.at.raw(garbage);
        assert!(answer.as_ref().is_none_or(|answer| (400..=505).contains(&answer.status)), "{answer:?}");
    }
    let head = "POST /add-checkpoint HTTP/1.1\r\nHost: w\r\n";
    let fields = format!("{head}{}\r\n", "A: b\r\n".repeat(20_000));
    assert!(witness.at.raw(fields.as_bytes()).is_none_or(|answer| answer.status == 431));
    let said = format!("{head}Content-Length: 1048577\r\nConnection: close\r\n\r\n");
    assert_eq!(witness.at.raw(said.as_bytes()).unwrap().status, 413, "before a byte of it came");
    let huge = format!("{head}Content-Length: 99999999999999\r\nConnection: close\r\n\r\n");
    assert_eq!(witness.at.raw(huge.as_bytes()).unwrap().status, 413);
    // Chunks say nothing of their sum.
    let mut stream = witness.at.connect();
    stream.write_all(format!("{head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let chunk = [b"10000\r\n".to_vec(), vec![b'x'; 0x10000], b"\r\n".to_vec()].concat();
    let sent = (0..200).take_while(|_| stream.write_all(&chunk).is_ok()).count();
    assert!(sent < 200, "13 MiB were taken");
    assert!(answer(stream).is_none_or(|answer| answer.status == 413));
    assert_eq!(witness.at.add(&made.request(0, 8)).status, 200);
}

#[test]
fn clients_that_say_nothing_keep_no_place() {
    let made = Made::new("entry", 8);
    let witness = start(&made);
    // More than there are places: without a word, with half a head, with half a body.
    let mut slow = Vec::new();
    for nth in 0..100 {
        let mut stream = witness.at.connect();
        let said: &[u8] = match nth % 3 {
            0 => b"",
            1 => b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\n",
            _ => b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: 1000\r\n\r\nold 0\n",
        };
        stream.write_all(said).unwrap();
        slow.push(stream);
    }
    let begun = monotonic();
    assert_eq!(witness.at.add(&made.request(0, 8)).status, 200);
    assert!(begun.elapsed() < Duration::from_secs(35), "waited {:?}", begun.elapsed());
    let told = answer(slow.remove(2)).unwrap();
    assert_eq!(told.status, 408, "half a body");
    assert_eq!(witness.stop(), Some(0));
}

#[test]
fn a_stop_answers_what_was_asked() {
    let made = Made::new("entry", 8);
    let witness = start(&made);
    let body = made.request(0, 8).to_string();
    let mut stream = witness.at.connect();
    let idle = witness.at.connect();
    let head = format!(
        "POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // It is being answered once it asks for the body.
    let mut told = [0; 25];
    stream.read_exact(&mut told).unwrap();
    assert!(told.starts_with(b"HTTP/1.1 100 "), "{:?}", String::from_utf8_lossy(&told));
    let rest = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        stream.write_all(body.as_bytes()).unwrap();
        answer(stream).unwrap().status
    });
    assert_eq!(witness.stop(), Some(0));
    assert_eq!(rest.join().unwrap(), 200);
    drop(idle);
}
