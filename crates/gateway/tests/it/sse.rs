//! HTTP+SSE, the transport of 2024-11-05: the connection is the session.

use crate::host::{Host, Setup, server, tool};
use serde_json::{Value, json};
use staithe_gateway::Auth;
use testkit::wait::eventually;
use testkit::{Client, Response, Stream};

/// A connection, and where its POSTs go.
struct Connection<'a> {
    client: &'a Client,
    stream: Stream,
    endpoint: String,
}

const JSON: (&str, &str) = ("content-type", "application/json");

impl<'a> Connection<'a> {
    async fn open(client: &'a Client, server: &str) -> Self {
        let path = format!("/sse/{server}");
        let mut stream = client.get_stream(&path, &[("accept", "text/event-stream")]).await.unwrap();
        assert!(stream.status == 200 && stream.is_event_stream());
        let first = stream.next().await.unwrap().unwrap();
        assert_eq!(first.event.as_deref(), Some("endpoint"));
        let endpoint = first.data;
        assert!(endpoint.starts_with(&format!("/sse/{server}?session=")), "same origin, relative: {endpoint}");
        Self { client, stream, endpoint }
    }

    /// Opened, with `capabilities` of the client.
    async fn initialized(client: &'a Client, server: &str, capabilities: Value) -> Self {
        let mut own = Self::open(client, server).await;
        let params = json!({"protocolVersion": "2024-11-05", "capabilities": capabilities, "clientInfo": {"name": "old", "version": "1"}});
        let answer = own.call("init", "initialize", params).await;
        assert_eq!(answer["result"]["protocolVersion"], "2024-11-05", "{answer}");
        own.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        own
    }

    async fn post(&self, body: &Value) -> Response {
        self.client.post(&self.endpoint, &[JSON], body.to_string()).await.unwrap()
    }

    /// POSTs what must be accepted.
    async fn say(&self, body: &Value) {
        let accepted = self.post(body).await;
        assert!(accepted.status == 202 && accepted.body.is_empty(), "{accepted:?}");
    }

    /// The next message, which must be a `message` event without an id: nobody can come back to it.
    async fn hear(&mut self) -> Value {
        let event = self.stream.next().await.unwrap().expect("the connection ended");
        assert!(event.event.as_deref() == Some("message") && event.id.is_none(), "{event:?}");
        serde_json::from_str(&event.data).unwrap()
    }

    async fn begin(&self, id: &str, method: &str, params: Value) {
        self.say(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
    }

    /// A request, and the next message, which must answer it.
    async fn call(&mut self, id: &str, method: &str, params: Value) -> Value {
        self.begin(id, method, params).await;
        let answer = self.hear().await;
        assert_eq!(answer["id"], id, "{answer}");
        answer
    }

    async fn tool(&mut self, name: &str, arguments: Value) -> Value {
        self.call(name, "tools/call", json!({"name": name, "arguments": arguments})).await
    }
}

async fn host() -> Host {
    Host::open(vec![server("every", "everything", &["--legacy"]), server("modern", "everything", &["--modern"])]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn e80_e81_e82_e83_an_old_client_is_served_by_servers_of_both_eras() {
    let host = host().await;
    let client = host.client();
    for name in ["every", "modern"] {
        let mut own = Connection::initialized(&client, name, json!({})).await;
        let tools = own.call("list", "tools/list", json!({})).await;
        assert!(tools["result"]["tools"].as_array().unwrap().len() > 3, "{tools}");
        let echoed = own.tool("echo", json!({"text": "é \u{2028} \n"})).await;
        assert!(echoed["result"]["content"][0]["text"].as_str().unwrap().contains("é"), "{echoed}");
        assert_eq!(own.call("p", "ping", json!({})).await["result"], json!({}));
        let unknown = own.call("u", "no/such", json!({})).await;
        assert_eq!(unknown["error"]["code"], -32601, "{unknown}");
        let sessions = host.supervisor.sessions(Some(&name.parse().unwrap()));
        assert_eq!((sessions.len(), sessions[0].revision.as_str(), sessions[0].stream), (1, "2024-11-05", true));
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b41_all_that_a_server_says_comes_down_the_connection() {
    let host = host().await;
    let client = host.client();
    let mut own = Connection::initialized(&client, "every", json!({"sampling": {}})).await;
    let params = json!({"name": "sleep", "arguments": {"ms": 50}, "_meta": {"progressToken": "t"}});
    own.begin("slow", "tools/call", params).await;
    for n in 1..=10 {
        let note = own.hear().await;
        assert_eq!((&note["params"]["progressToken"], &note["params"]["progress"]), (&json!("t"), &json!(n)), "{note}");
    }
    assert_eq!(own.hear().await["id"], "slow");
    own.begin("ask", "tools/call", json!({"name": "test_sampling", "arguments": {"prompt": "?"}})).await;
    let ask = own.hear().await;
    assert_eq!(ask["method"], "sampling/createMessage", "{ask}");
    let result = json!({"role": "assistant", "model": "m", "content": {"type": "text", "text": "down the stream"}});
    own.say(&json!({"jsonrpc": "2.0", "id": ask["id"], "result": result})).await;
    let answer = own.hear().await;
    assert!(answer.to_string().contains("down the stream") && answer["id"] == "ask", "{answer}");
    own.begin("change", "tools/call", json!({"name": "test_trigger_tool_change", "arguments": {}})).await;
    let mut heard = [own.hear().await, own.hear().await];
    heard.sort_by_key(|message| message["id"].is_null());
    assert_eq!((&heard[0]["id"], &heard[1]["method"]), (&json!("change"), &json!("notifications/tools/list_changed")));
    // Several calls at once: each is answered once.
    for n in 0..20 {
        own.begin(&n.to_string(), "tools/call", json!({"name": "echo", "arguments": {"n": n}})).await;
    }
    let mut ids = Vec::new();
    for _ in 0..20 {
        let answer = own.hear().await;
        let id = answer["id"].as_str().unwrap().to_owned();
        assert_eq!(answer["result"]["structuredContent"]["n"].to_string(), id);
        ids.push(id);
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 20);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e84_the_name_of_a_connection_is_no_credential() {
    let setup = Setup { auth: Auth::Required, ..Setup::default() };
    let servers = vec![server("every", "everything", &["--legacy"]), server("other", "everything", &["--legacy"])];
    let host = Host::with(servers, setup).await;
    let (ann, bob) = (host.client_of("ann").await, host.client_of("bob").await);
    let mut own = Connection::initialized(&ann, "every", json!({})).await;
    let echo = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo", "arguments": {}}});
    let foreign = bob.post(&own.endpoint, &[JSON], echo.to_string()).await.unwrap();
    let unknown = ann.post("/sse/every?session=0000", &[JSON], echo.to_string()).await.unwrap();
    assert_eq!((foreign.status, unknown.status), (404, 404));
    assert_eq!(foreign.body, unknown.body, "the two look the same");
    let elsewhere = own.endpoint.replace("/sse/every", "/sse/other");
    assert_eq!(ann.post(&elsewhere, &[JSON], echo.to_string()).await.unwrap().status, 404);
    let anonymous = Client::new(&host.url, None).unwrap();
    assert_eq!(anonymous.post(&own.endpoint, &[JSON], echo.to_string()).await.unwrap().status, 401);
    assert_eq!(anonymous.get("/sse/every", &[]).await.unwrap().status, 401);
    let page = [JSON, ("origin", "http://evil.example")];
    assert_eq!(ann.post(&own.endpoint, &page, echo.to_string()).await.unwrap().status, 403);
    let id = own.endpoint.split_once('=').unwrap().1.to_owned();
    for method in ["POST", "GET", "DELETE"] {
        let headers = [JSON, ("mcp-session-id", id.as_str()), ("accept", "application/json, text/event-stream")];
        let refused = ann.request(&method.parse().unwrap(), "/mcp/every", &headers, echo.to_string()).await.unwrap();
        assert_eq!(refused.status, 404, "{method}");
    }
    assert_eq!(own.tool("echo", json!({})).await["id"], "echo", "and nothing of all this came down here");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e85_e86_a_client_that_tries_a_post_first_learns_which_transport_this_is() {
    let host = host().await;
    let client = host.client();
    let params =
        json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}});
    let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}).to_string();
    for path in ["/sse/every", "/sse/every?", "/sse/every?other=1"] {
        let refused = client.post(path, &[JSON], initialize.clone()).await.unwrap();
        assert_eq!(refused.status, 405, "{path}");
        assert!(refused.json().is_err(), "no JSON-RPC error: {refused:?}");
        assert_eq!(refused.header("allow"), Some("GET, OPTIONS"));
    }
    assert_eq!(client.delete("/sse/every", &[]).await.unwrap().status, 405);
    assert_eq!(client.get("/sse/every", &[("accept", "application/json")]).await.unwrap().status, 406);
    assert_eq!(client.get("/sse/nobody", &[]).await.unwrap().status, 404);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b41_the_end_of_the_connection_ends_the_session_and_its_calls() {
    let host = host().await;
    let client = host.client();
    let own = Connection::initialized(&client, "every", json!({})).await;
    own.begin("long", "tools/call", json!({"name": "sleep", "arguments": {"ms": 60_000}})).await;
    eventually("the call runs", || host.supervisor.instances(None).iter().any(|i| i.in_flight > 0)).await;
    let endpoint = own.endpoint.clone();
    drop(own);
    eventually("the session is gone", || host.supervisor.sessions(None).is_empty()).await;
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}).to_string();
    assert_eq!(client.post(&endpoint, &[JSON], ping).await.unwrap().status, 404);
    let observer = client.legacy_session("every").await.unwrap();
    let mut stopped = Value::Null;
    for _ in 0..100 {
        stopped = tool(&observer, "cancellations", json!({})).await["result"]["structuredContent"]["stopped"].clone();
        if stopped == 1 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(stopped, 1, "the server was not told to stop");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_belong_on_a_connection_is_refused_by_name() {
    let host = host().await;
    let client = host.client();
    let mut own = Connection::open(&client, "every").await;
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    assert_eq!(own.post(&list).await.status, 400, "before initialize");
    let (headers, modern) = client.modern_request("tools/list", json!({}), &[]);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let refused = client.post(&own.endpoint, &headers, modern).await.unwrap();
    assert!(refused.status == 400 && refused.json().unwrap()["error"]["code"].is_i64(), "{refused:?}");
    let bad = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2024-11-05"}});
    own.say(&bad).await;
    assert!(own.hear().await["error"].is_object(), "a failed initialize is told on the stream");
    let params =
        json!({"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}});
    let answer = own.call("i", "initialize", params.clone()).await;
    assert_eq!(answer["result"]["protocolVersion"], "2025-03-26", "{answer}");
    let again = own.post(&json!({"jsonrpc": "2.0", "id": 2, "method": "initialize", "params": params})).await;
    assert_eq!(again.status, 400, "{again:?}");
    let call = |id: u64| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "echo", "arguments": {}}});
    own.say(&json!([call(1), {"jsonrpc": "2.0", "method": "notifications/initialized"}, call(2)])).await;
    let mut ids = [own.hear().await["id"].clone(), own.hear().await["id"].clone()];
    ids.sort_by_key(Value::as_u64);
    assert_eq!(ids, [json!(1), json!(2)], "a batch of the one revision that has them");
    assert_eq!(client.post(&own.endpoint, &[JSON], "{").await.unwrap().status, 400);
    assert_eq!(client.post(&own.endpoint, &[("content-type", "text/plain")], "{}").await.unwrap().status, 415);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e244_a_connection_ends_soon_after_its_token() {
    let host = Host::with(
        vec![server("every", "everything", &["--legacy"])],
        Setup { auth: Auth::Required, ..Setup::default() },
    )
    .await;
    let ann = host.client_of("ann").await;
    let mut own = Connection::initialized(&ann, "every", json!({})).await;
    let token = host.authority.list().remove(0);
    assert!(host.authority.revoke(&token.id).await.unwrap());
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), own.stream.next()).await;
    assert_eq!(ended.unwrap().unwrap(), None);
    host.stop().await;
}
