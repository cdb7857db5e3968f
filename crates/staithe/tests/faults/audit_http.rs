//! `/audit/v1/` of the real daemon: a stranger who has the keys verifies the log with what it serves, and who has no permission
//! learns nothing.

use crate::daemon::Daemon;
use crate::load;
use http::Method;
use ledger::tile::{Bundle, Tile, decode_bundle, decode_tile, tiles};
use ledger::tree::Frontier;
use ledger::{KeyPair, LogKeys, Verifier, leaf_hash};
use serde_json::json;
use testkit::{Client, wait::eventually_some};

const ROOT: &str = "/audit/v1";

fn token(daemon: &Daemon) -> String {
    let told = daemon.cli(&["token", "create", "--principal", "auditor", "--audit"]);
    told["token"].as_str().unwrap_or_else(|| panic!("{told}")).to_owned()
}

async fn get(client: &Client, path: &str) -> testkit::Response {
    client.get(&format!("{ROOT}/{path}"), &[]).await.unwrap()
}

/// More records than a full tile has.
async fn busy(daemon: &Daemon) {
    let client = Client::new(&daemon.url, Some(daemon.token("ann"))).unwrap();
    for nonce in 0..140 {
        let params = json!({"name": "note", "arguments": {"nonce": nonce.to_string(), "canary": "ann"}});
        let (status, answer) = client.modern_call("modern", "tools/call", params).await.unwrap();
        assert_eq!(status, 200, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_verified_with_what_is_served_alone() {
    let daemon = Daemon::new(&load::servers(), &[], "");
    busy(&daemon).await;
    let client = Client::new(&daemon.url, Some(token(&daemon))).unwrap();
    let vkeys = get(&client, "vkeys").await;
    let keys: Vec<Verifier> =
        std::str::from_utf8(&vkeys.body).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    let keys = LogKeys::new(vec![KeyPair::new(keys[0].clone(), keys[1].clone()).unwrap()]).unwrap();
    let (answer, checkpoint) = eventually_some("a checkpoint over more than a tile", async || {
        let answer = get(&client, "checkpoint").await;
        let checkpoint = keys.open(&answer.body).ok()?;
        (checkpoint.size() > 282).then_some((answer, checkpoint))
    })
    .await;
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let (size, mut tree, mut leaves) = (checkpoint.size(), Frontier::new(), Vec::new());
    for index in 0..size.div_ceil(256) {
        let bundle = Bundle::of(index, size).unwrap();
        let answer = get(&client, &bundle.path()).await;
        assert_eq!(answer.status, 200, "{}", bundle.path());
        assert_eq!(answer.header("cache-control").unwrap().contains("immutable"), bundle.width() == 256);
        for entry in decode_bundle(&answer.body, bundle.width()).unwrap() {
            leaves.push(entry.to_vec());
            tree.append(leaf_hash(entry)).unwrap();
        }
    }
    assert_eq!((leaves.len() as u64, tree.root()), (size, checkpoint.root()));
    for tile in tiles(size) {
        let answer = get(&client, &tile.path()).await;
        assert_eq!(answer.header("content-type"), Some("application/octet-stream"), "{}", tile.path());
        let hashes = decode_tile(tile, &answer.body).unwrap();
        if tile.level() == 0 {
            let first = usize::try_from(tile.start()).unwrap();
            assert!(hashes.iter().zip(&leaves[first..]).all(|(hash, entry)| *hash == leaf_hash(entry)));
        }
    }
    // Offline, with the tool.
    let path = |name: &str| daemon.state().join(name).to_str().unwrap().to_owned();
    for index in [0, 5, size - 1] {
        let proof = get(&client, &format!("proof/{index}")).await;
        stdx::durable::write_file(path("a.proof").as_ref(), &proof.body, 0o600).unwrap();
        stdx::durable::write_file(path("log.vkeys").as_ref(), &vkeys.body, 0o600).unwrap();
        let mut codes = Vec::new();
        for entry in [&leaves[usize::try_from(index).unwrap()], &leaves[1]] {
            stdx::durable::write_file(path("an.entry").as_ref(), entry, 0o600).unwrap();
            let words = ["audit", "check", &path("a.proof"), "--entry", &path("an.entry"), "--key", &path("log.vkeys")]
                .map(String::from);
            codes.push(daemon.run(&words.each_ref().map(String::as_str)).status.code());
        }
        assert_eq!(codes, [Some(0), Some(5)], "entry {index}");
    }
    not_there(&client, size).await;
}

async fn not_there(client: &Client, size: u64) {
    let behind = Tile::new(0, size / 256 + 1, 256).unwrap().path();
    let more = Bundle::new(size / 256 + 9, 1).unwrap().path();
    for path in ["", "witnessed", "tile/9/000", "tile/0/0", "proof/99999999", "proof/x", "wal/0", &behind, &more] {
        let answer = get(client, path).await;
        assert_eq!((answer.status, answer.header("content-type")), (404, Some("application/json")), "{path}");
        assert!(answer.json().unwrap()["error"]["message"].as_str().unwrap().len() > 20);
    }
    for method in [Method::POST, Method::PUT, Method::DELETE] {
        let answer = client.request(&method, "/audit/v1/checkpoint", &[], "x").await.unwrap();
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD, OPTIONS")), "{method}");
    }
    let head = client.request(&Method::HEAD, "/audit/v1/tile/0/000", &[], "").await.unwrap();
    assert_eq!((head.status, head.body.len(), head.header("content-length")), (200, 0, Some("8192")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_look_learns_nothing() {
    let things = ["checkpoint", "vkeys", "witnessed", "tile/0/000.p/1", "tile/entries/000.p/1", "proof/0", "nothing"];
    for (settings, open) in
        [("", [false; 7]), ("[ledger]\npublic = \"hashes\"\n", [true, true, true, true, false, false, false])]
    {
        let daemon = Daemon::new(&load::servers(), &[], settings);
        let (every, audit) = (daemon.token("ann"), token(&daemon));
        let callers = [(None, 401), (Some("st_wrong".to_owned()), 401), (Some(every), 403)];
        let auditor = Client::new(&daemon.url, Some(audit.clone())).unwrap();
        eventually_some("a checkpoint", async || (get(&auditor, "proof/0").await.status == 200).then_some(())).await;
        for (token, refused) in callers {
            let client = Client::new(&daemon.url, token).unwrap();
            for (path, open) in things.iter().zip(open) {
                let answer = get(&client, path).await;
                if open {
                    assert_eq!(answer.status, if *path == "witnessed" { 404 } else { 200 }, "{path}");
                    continue;
                }
                assert_eq!(answer.status, refused, "{path}");
                assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer"), "{path}");
            }
        }
        // A token for the ledger opens no server.
        let (status, answer) = auditor.modern_call("modern", "tools/list", json!({})).await.unwrap();
        assert_eq!(status, 401, "{answer}");
        let listed = daemon.text(&["token", "list"]);
        assert!(listed.contains("(the ledger)"), "{listed}");
        daemon.cli(&["token", "revoke", &audit]);
        assert_eq!(get(&auditor, "proof/0").await.status, 401);
    }
}
