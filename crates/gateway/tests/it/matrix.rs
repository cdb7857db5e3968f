//! Every cell of the era matrix, end to end: what a client sees through staithe is what the server says to a client of
//! its own era over its own pipe, but for the losses and refusals that the table names.

mod channel;
mod direct;
mod peer;
mod scenario;

use crate::host::{Host, in_mode, server};
use channel::Channel;
use direct::Pipe;
use peer::{Link, Peer, capabilities};
use scenario::observe;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use testkit::matrix::{Cell, Client as Revision, Era, Feature, Loss, Mode, Outcome, Refusal, Server, cells, outcome};
use tokio::sync::Semaphore;

/// Conversations at the same time.
const AT_ONCE: usize = 6;
/// The longest that one cell takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);

/// What a server of this era says over its own pipe to a client of this revision, for each feature.
type Direct = Vec<(Revision, Era, Vec<Vec<Value>>)>;

#[tokio::test(flavor = "multi_thread")]
async fn every_cell_of_the_era_matrix_is_what_the_table_says() {
    let mut servers = Vec::new();
    for (kind, mode) in hosted() {
        let flag = match kind {
            Server::Legacy => "--legacy",
            Server::Modern => "--modern",
            Server::Dual => "--dual",
        };
        servers.push(in_mode(
            server(&name(kind, mode), "everything", &[flag, "--extras"]),
            mode.to_string().parse().unwrap(),
        ));
    }
    let host = Arc::new(Host::open(servers).await);
    let direct = Arc::new(all_direct().await);
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut columns = Vec::new();
    for (kind, mode) in hosted() {
        let (host, direct, places) = (host.clone(), direct.clone(), places.clone());
        columns.push(stdx::task::spawn("column", async move {
            let mut wrong = Vec::new();
            for client in Revision::ALL {
                // The clients of one server follow each other: they may share its processes.
                let _place = places.acquire().await.unwrap();
                wrong.push(column(&host, &direct, client, kind, mode).await);
            }
            wrong
        }));
    }
    let (mut wrong, mut asserted) = (Vec::new(), 0);
    for column in columns {
        for (count, found) in column.await.unwrap().expect("a conversation broke; its panic says why") {
            asserted += count;
            wrong.extend(found);
        }
    }
    assert!(wrong.is_empty(), "{} of {asserted} cells are not what the table says:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(asserted, cells().count());
    Arc::into_inner(host).unwrap().stop().await;
}

fn hosted() -> impl Iterator<Item = (Server, Mode)> {
    Server::ALL.into_iter().flat_map(|kind| Mode::ALL.into_iter().map(move |mode| (kind, mode)))
}

fn name(kind: Server, mode: Mode) -> String {
    format!("{kind:?}-{mode}").to_lowercase()
}

/// Each revision's conversation with a server of each era, all at once.
async fn all_direct() -> Direct {
    let mut talks = Vec::new();
    for client in Revision::ALL {
        for spoken in [Era::Legacy, Era::Modern] {
            talks.push(stdx::task::spawn("direct", async move {
                let pipe = Pipe::open(spoken, client, capabilities(client)).await;
                let mut peer = Peer::new(Link::Pipe(Box::new(pipe)), client);
                let mut seen = Vec::new();
                for feature in Feature::ALL {
                    seen.push(observed(&mut peer, *feature).await);
                }
                (client, spoken, seen)
            }));
        }
    }
    let mut direct = Vec::new();
    for talk in talks {
        direct.push(talk.await.unwrap().expect("a direct conversation broke; its panic says why"));
    }
    direct
}

async fn observed(peer: &mut Peer<'_>, feature: Feature) -> Vec<Value> {
    let seen = tokio::time::timeout(PATIENCE, observe(peer, feature)).await;
    seen.unwrap_or_else(|_| vec![json!("took too long")])
}

/// All features for one client, server and mode: how many, and what is wrong with which.
async fn column(host: &Host, direct: &Direct, client: Revision, kind: Server, mode: Mode) -> (usize, Vec<String>) {
    let name = name(kind, mode);
    let caller = host.client().with_capabilities(capabilities(client));
    let link = match client {
        Revision::Modern => Link::Stateless { client: &caller, server: &name },
        Revision::V2024 => Link::Channel(Box::new(Channel::open(&caller, &name, &capabilities(client)).await)),
        _ => Link::Session(caller.legacy_session_at(&name, client.revision()).await.unwrap()),
    };
    let mut peer = Peer::new(link, client);
    let spoken = kind.spoken(client);
    let (_, _, direct) = direct.iter().find(|(whose, era, _)| *whose == client && *era == spoken).unwrap();
    let mut wrong = Vec::new();
    for (feature, direct) in Feature::ALL.iter().zip(direct) {
        let cell = Cell { client, server: kind, feature: *feature, mode };
        peer.expect_changes(outcome(&cell) != Outcome::Lossy(Loss::OtherProcess));
        let seen = observed(&mut peer, *feature).await;
        if let Err(why) = judge(&cell, direct, &seen) {
            wrong.push(format!("{} → {kind:?}, {mode}, {}: {why}", client.revision(), feature.title()));
        }
    }
    if let Link::Session(session) = peer.link {
        assert_eq!(session.close().await.unwrap().status, 200);
    }
    (Feature::ALL.len(), wrong)
}

/// Whether a cell is what the table says.
fn judge(cell: &Cell, direct: &[Value], seen: &[Value]) -> Result<(), String> {
    let expected = match outcome(cell) {
        Outcome::Exact => exact(cell, direct),
        Outcome::Lossy(loss) => lossy(loss, direct, seen),
        Outcome::Refused(refusal) => return refused(refusal, seen),
    };
    if expected == seen { Ok(()) } else { Err(format!("\n  expected {}\n  seen     {}", json!(expected), json!(seen))) }
}

fn exact(cell: &Cell, direct: &[Value]) -> Vec<Value> {
    match (cell.feature, cell.client.era()) {
        // A ping asks about the connection, which ends at staithe.
        (Feature::Ping, Era::Legacy) => vec![json!({"result": {}})],
        _ => direct.to_vec(),
    }
}

/// What is seen where exactly this is lost.
fn lossy(loss: Loss, direct: &[Value], seen: &[Value]) -> Vec<Value> {
    let mut expected = direct.to_vec();
    match loss {
        Loss::Text => {
            // The text must say what was there: a link its URI, a sound its kind.
            let content = expected[0]["result"]["content"][0].take();
            let known = content["uri"].as_str().or(content["mimeType"].as_str()).unwrap();
            let said = seen[0]["result"]["content"][0]["text"].as_str().filter(|said| said.contains(known));
            let said = said.unwrap_or("a text that says what was there");
            expected[0]["result"]["content"][0] = json!({"type": "text", "text": said});
        }
        Loss::Wrapped if expected[0].get("inputSchema").is_some() => {
            for tool in &mut expected {
                let schema = tool.get_mut("outputSchema").filter(|schema| schema["type"] != "object");
                if let Some(schema) = schema {
                    *schema =
                        json!({"type": "object", "properties": {"result": schema.take()}, "required": ["result"]});
                }
            }
        }
        Loss::Wrapped => {
            let schema = expected[0]["schema"].take();
            expected[0]["schema"] = json!({"type": "object", "properties": {"result": schema}, "required": ["result"]});
            let content = expected[1]["result"]["structuredContent"].take();
            expected[1]["result"]["structuredContent"] = json!({"result": content});
        }
        Loss::NotFoundCode => expected[0]["error"]["code"] = json!(-32602),
        Loss::OperatorsLog => expected.retain(|event| event["noted"] != "notifications/message"),
        Loss::Untold => expected[0]["told"] = Value::Null,
        Loss::OtherProcess => expected.clear(),
        Loss::NoPromise => {
            for feature in ["tools", "prompts", "resources"] {
                let promised = expected[0]["capabilities"][feature].as_object_mut().unwrap();
                promised.retain(|name, _| name != "listChanged" && name != "subscribe");
            }
        }
    }
    expected
}

/// Every answer must be this refusal.
fn refused(refusal: Refusal, seen: &[Value]) -> Result<(), String> {
    let answers: Vec<&Value> =
        seen.iter().filter(|event| event.get("result").is_some() || event.get("error").is_some()).collect();
    let says = |text: &Value, words: &str| text.as_str().is_some_and(|text| text.contains(words));
    let fits = |answer: &&Value| match refusal {
        Refusal::Error(code, words) => answer["error"]["code"] == code && says(&answer["error"]["message"], words),
        Refusal::Http(status, words) => answer["error"]["code"] == status && says(&answer["error"]["message"], words),
        Refusal::Tool(words) => {
            answer["result"]["isError"] == true && says(&answer["result"]["content"][0]["text"], words)
        }
    };
    let right = !answers.is_empty() && answers.iter().all(fits);
    if right { Ok(()) } else { Err(format!("\n  expected {refusal:?}\n  seen     {}", json!(seen))) }
}
