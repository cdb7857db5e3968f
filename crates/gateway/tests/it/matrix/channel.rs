//! A client of 2024-11-05: everything of the server comes down one event stream, and messages are posted to the address
//! that its first event names.

use serde_json::{Value, json};
use std::time::Duration;
use testkit::{Client, Response};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// An open channel, which is the session.
pub(super) struct Channel<'a> {
    client: &'a Client,
    /// Where the events come from.
    pub(super) path: String,
    endpoint: String,
    inbox: mpsc::Receiver<Value>,
    reading: JoinHandle<Option<()>>,
    /// The result of `initialize`.
    pub(super) initialized: Value,
}

impl<'a> Channel<'a> {
    pub(super) async fn open(client: &'a Client, server: &str, capabilities: &Value) -> Self {
        let path = format!("/sse/{server}");
        let mut stream = client.get_stream(&path, &[("accept", "text/event-stream")]).await.unwrap();
        let first = stream.next().await.unwrap().unwrap();
        assert_eq!(first.event.as_deref(), Some("endpoint"), "{first:?}");
        let (sender, inbox) = mpsc::channel(256);
        let reading = stdx::task::spawn("channel", async move {
            // Nothing for a while is no end, but the tests do not wait that long.
            while let Ok(Some(message)) = stream.next_message().await {
                if sender.send(message).await.is_err() {
                    return;
                }
            }
        });
        let initialized = Value::Null;
        let mut channel = Self { client, path, endpoint: first.data, inbox, reading, initialized };
        let params = json!({
            "protocolVersion": "2024-11-05",
            "capabilities": capabilities,
            "clientInfo": {"name": "testkit", "version": "1"},
        });
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
        channel.accepted(&request).await;
        channel.initialized = channel.next().await["result"].clone();
        assert_eq!(channel.initialized["protocolVersion"], "2024-11-05");
        channel.accepted(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        channel
    }

    pub(super) async fn post(&self, body: &Value) -> Response {
        self.client.post(&self.endpoint, &[("content-type", "application/json")], body.to_string()).await.unwrap()
    }

    /// Posts what must be accepted.
    pub(super) async fn accepted(&self, body: &Value) {
        let response = self.post(body).await;
        assert_eq!(response.status, 202, "{body}: {:?}", response.body);
    }

    /// The next message. Cancel-safe.
    pub(super) async fn next(&mut self) -> Value {
        let next = tokio::time::timeout(Duration::from_secs(30), self.inbox.recv()).await;
        next.expect("the channel went silent").expect("the channel ended")
    }

    /// Breaks the connection, opens it again as one that resumes it, and says what became of the session.
    pub(super) async fn cut(&mut self) -> Value {
        self.reading.abort();
        while !self.reading.is_finished() {
            tokio::task::yield_now().await;
        }
        let headers = [("accept", "text/event-stream"), ("last-event-id", "1")];
        let mut again = self.client.get_stream(&self.path, &headers).await.unwrap();
        let other = again.next().await.unwrap().unwrap().data;
        assert_ne!(other, self.endpoint, "a new connection is a new session");
        for _ in 0..200 {
            let gone = self.post(&json!({"jsonrpc": "2.0", "id": 2, "method": "ping"})).await;
            if gone.status != 202 {
                return json!({"error": {"code": gone.status, "message": String::from_utf8_lossy(&gone.body)}});
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        json!({"error": {"message": "the session outlived its connection"}})
    }
}
