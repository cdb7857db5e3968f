//! Receipts: whoever asks for one can hold the host to its ledger, and nobody else's answer changes.

use crate::daemon::Daemon;
use crate::load;
use ledger::leaf_hash;
use serde_json::{Value, json};
use testkit::{Client, wait::eventually_some};

const ASKS: (&str, &str) = ("x-staithe-receipt", "1");

fn borrowed(headers: &[(String, String)]) -> Vec<(&str, &str)> {
    headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

fn note(nonce: &str) -> Value {
    json!({"name": "note", "arguments": {"nonce": nonce, "canary": "ann"}})
}

/// The entry at an index, as somebody who verified the proof has it.
async fn proved(daemon: &Daemon, index: u64) -> Vec<u8> {
    let out = daemon.state().join(format!("proved-{index}"));
    let words = ["audit", "prove", &index.to_string(), "--out", out.to_str().unwrap()];
    eventually_some("a checkpoint that covers it", async || daemon.run(&words).status.success().then_some(())).await;
    let (proof, entry) = (out.with_extension("tlog-proof"), out.with_extension("entry"));
    let key = daemon.state().join("ledger/vkeys");
    let [proof, entry_path, key] = [&proof, &entry, &key].map(|path| path.to_str().unwrap());
    let checked = daemon.run(&["audit", "check", proof, "--entry", entry_path, "--key", key]);
    assert!(checked.status.success(), "{checked:?}");
    std::fs::read(entry).unwrap()
}

/// What a receipt says is in the ledger, and it is of this answer.
async fn holds(daemon: &Daemon, body: &str) {
    let answer: Value = serde_json::from_str(body).unwrap();
    let receipt = &answer["result"]["_meta"]["io.staithe/receipt"];
    let mut calls = Vec::new();
    for (place, kind) in [(&receipt["start"], "call.start"), (receipt, "call.end")] {
        let entry = proved(daemon, place["index"].as_u64().unwrap_or_else(|| panic!("{body}"))).await;
        assert_eq!(place["leaf"], leaf_hash(&entry).to_string());
        let record: Value = serde_json::from_slice(&entry).unwrap();
        assert_eq!(record["t"], kind);
        calls.push(record);
    }
    assert_eq!(calls[0]["call"], calls[1]["call"]);
    let keys = std::fs::read_to_string(daemon.state().join("ledger/vkeys")).unwrap();
    assert!(keys.contains(receipt["origin"].as_str().unwrap()));
    // What was committed to is the answer without the receipt.
    let begin = body.find(r#""io.staithe/receipt":"#).unwrap();
    let end = begin + body[begin..].find("}}").unwrap() + 2;
    let rest = [&body[..begin], body[end..].trim_start_matches(',')].concat();
    let without = rest.len() as u64;
    let empty = r#""_meta":{},"#.len() as u64;
    let len = calls[1]["result"]["len"].as_u64().unwrap();
    assert!(len == without || (rest.contains(r#""_meta":{},"#) && len == without - empty), "{len} of {rest}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_leads_to_the_records_of_its_call() {
    let daemon = Daemon::new(&load::servers(), &[], "");
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    for server in ["modern", "own", "dual"] {
        let (headers, body) = client.modern_request("tools/call", note("n1"), &[ASKS]);
        let answer = client.post(&format!("/mcp/{server}"), &borrowed(&headers), body).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        holds(&daemon, std::str::from_utf8(&answer.body).unwrap()).await;
    }
    for server in ["modern", "own", "each"] {
        let session = client.legacy_session(server).await.unwrap();
        // With events before the answer, so that it comes down a stream.
        let mut params = note("n2");
        params["arguments"]["ms"] = json!(100);
        params["arguments"]["steps"] = json!(3);
        params["_meta"] = json!({"progressToken": "p"});
        let body = json!({"jsonrpc": "2.0", "id": "x", "method": "tools/call", "params": params}).to_string();
        let mut headers = session.headers();
        headers.push((ASKS.0.to_owned(), ASKS.1.to_owned()));
        let mut stream = client.post_stream(&format!("/mcp/{server}"), &borrowed(&headers), body).await.unwrap();
        let answer = loop {
            let event = stream.next().await.unwrap().unwrap();
            if event.data.contains(r#""id":"x""#) {
                break event.data;
            }
        };
        holds(&daemon, &answer).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_travel_over_http_sse_and_in_batches() {
    let daemon = Daemon::new(&load::servers(), &[], "");
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    let json_type = ("content-type", "application/json");
    let mut stream = client.get_stream("/sse/own", &[("accept", "text/event-stream")]).await.unwrap();
    let endpoint = stream.next().await.unwrap().unwrap().data;
    let info = json!({"name": "old", "version": "1"});
    let opening = json!({"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": info});
    for (body, answered) in [
        (json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": opening}), true),
        (json!({"jsonrpc": "2.0", "method": "notifications/initialized"}), false),
        (json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": note("n3")}), true),
    ] {
        let accepted = client.post(&endpoint, &[json_type, ASKS], body.to_string()).await.unwrap();
        assert_eq!(accepted.status, 202, "{accepted:?}");
        let answer = if answered { stream.next().await.unwrap().unwrap().data } else { continue };
        assert!(answer.contains(&format!(r#""id":{}"#, body["id"])), "{answer}");
        if body["method"] == "tools/call" {
            holds(&daemon, &answer).await;
        }
    }
    let session = client.legacy_session_at("own", "2025-03-26").await.unwrap();
    let one = |id: u32| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": note("n4")});
    let mut headers = session.headers();
    headers.retain(|(name, _)| name != "accept");
    headers.extend([("accept", "application/json"), ASKS].map(|(name, value)| (name.to_owned(), value.to_owned())));
    let answer = client.post("/mcp/own", &borrowed(&headers), json!([one(1), one(2)]).to_string()).await.unwrap();
    let answers = answer.json().unwrap();
    let places: Vec<_> =
        (0..2).map(|nth| answers[nth]["result"]["_meta"]["io.staithe/receipt"]["index"].as_u64()).collect();
    assert!(places[0].is_some() && places[1].is_some() && places[0] != places[1], "{answers}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_ask_gets_none_and_errors_have_none() {
    let daemon = Daemon::new(&load::servers(), &[], "[ledger]\nmode = \"async\"\n");
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    for wish in [&[][..], &[("x-staithe-receipt", "0")], &[("x-staithe-receipt", "true")]] {
        let (headers, body) = client.modern_request("tools/call", note("n"), wish);
        let answer = client.post("/mcp/own", &borrowed(&headers), body).await.unwrap();
        assert!(answer.status == 200 && !String::from_utf8_lossy(&answer.body).contains("receipt"), "{answer:?}");
    }
    let (headers, body) = client.modern_request("tools/call", json!({"name": "no such tool"}), &[ASKS]);
    let answer = client.post("/mcp/own", &borrowed(&headers), body).await.unwrap().json().unwrap();
    assert!(answer["error"]["code"].is_i64() && !answer.to_string().contains("receipt"), "{answer}");
    // Where no call waits for the ledger, nobody knows an index yet, and none is made up.
    let (headers, body) = client.modern_request("tools/call", note("n"), &[ASKS]);
    let answer = client.post("/mcp/own", &borrowed(&headers), body).await.unwrap().json().unwrap();
    let receipt = &answer["result"]["_meta"]["io.staithe/receipt"];
    assert!(receipt["index"].is_null() && receipt["leaf"].as_str().unwrap().len() == 44, "{answer}");
}
