//! How fast a message is scanned and rewritten on this machine: `cargo run --release -p staithe-wire --example throughput`.
#![expect(clippy::print_stdout, clippy::disallowed_methods, clippy::unwrap_used, reason = "a tool for a person")]

use bytes::Bytes;
use staithe_wire::bridge::{Leg, request_line};
use staithe_wire::message::Message;
use staithe_wire::scan::{Limits, Side, scan};
use std::hint::black_box;
use std::time::Instant;

fn main() {
    let limits = Limits { bytes: 1 << 24, depth: 64 };
    let call = |argument: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"echo","arguments":{{"a":"{argument}"}}}}}}"#
        )
    };
    let wide: Vec<String> = (0..100_000).map(|key| format!("\"k{key}\":0")).collect();
    for (name, text, rounds) in [
        ("100 B request", call("0123456789"), 200_000_u32),
        ("64 KiB string", call(&"x".repeat(1 << 16)), 5_000),
        ("64 KiB of escapes", call(&"\\\"".repeat(1 << 15)), 1_000),
        ("64 KiB not ASCII", call(&"é".repeat(1 << 15)), 1_000),
        ("object of 100,000 members", format!("{{{}}}", wide.join(",")), 10),
    ] {
        let started = Instant::now();
        for _ in 0..rounds {
            black_box(scan(black_box(text.as_bytes()), Side::Client, &limits)).unwrap();
        }
        let scanned = started.elapsed() / rounds;
        let rate = text.len() as f64 / scanned.as_secs_f64() / 1e9;
        println!("{name:28} scan {scanned:>12.1?}  {rate:.2} GB/s");
        let bytes = Bytes::from(text);
        if Message::parse(bytes.clone(), Side::Client, &limits).is_ok() {
            let mut line = Vec::new();
            let started = Instant::now();
            for _ in 0..rounds {
                let message = Message::parse(bytes.clone(), Side::Client, &limits).unwrap();
                line.clear();
                request_line(&mut line, &message, Leg::LegacyToLegacy, 7, None);
            }
            println!("{:28} parse and rewrite {:.1?}", "", started.elapsed() / rounds);
        }
    }
}
