//! A hosted server spoken to over its own pipe, without anything between: what the cells of the matrix are compared with.

use super::peer::metadata;
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::Duration;
use testkit::matrix::{Client as Revision, Era};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// A process and its pipes. It ends when this is dropped.
pub(super) struct Pipe {
    _child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    spoken: Era,
    capabilities: Value,
    /// The result of `initialize`; null in the modern era.
    pub(super) initialized: Value,
}

impl Pipe {
    /// Starts the server and opens it in this era, as a client of this revision with these capabilities.
    pub(super) async fn open(spoken: Era, client: Revision, capabilities: Value) -> Self {
        let flag = if spoken == Era::Legacy { "--legacy" } else { "--modern" };
        let mut command = Command::new(testkit::bin("everything"));
        let command = command.args([flag, "--extras"]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let lines = BufReader::new(stdout).lines();
        let mut pipe = Self { _child: child, stdin, lines, spoken, capabilities, initialized: Value::Null };
        if spoken == Era::Legacy {
            pipe.initialize(client).await;
        }
        pipe
    }

    async fn initialize(&mut self, client: Revision) {
        // A modern client has no `initialize`: the newest one that has stands for it.
        let revision = if client == Revision::Modern { Revision::November } else { client };
        let params = json!({
            "protocolVersion": revision.revision(),
            "capabilities": self.capabilities,
            "clientInfo": {"name": "testkit", "version": "1"},
        });
        self.request(&json!(1), "initialize", params).await;
        self.initialized = self.next().await["result"].clone();
        self.write(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    }

    pub(super) fn era(&self) -> Era {
        self.spoken
    }

    pub(super) async fn request(&mut self, id: &Value, method: &str, mut params: Value) {
        if self.spoken == Era::Modern {
            for (name, value) in metadata(&self.capabilities) {
                params["_meta"][name] = value;
            }
        }
        self.write(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
    }

    pub(super) async fn write(&mut self, message: &Value) {
        self.stdin.write_all(format!("{message}\n").as_bytes()).await.unwrap();
    }

    /// The next message, other than the acknowledgement of a subscription. Cancel-safe.
    pub(super) async fn next(&mut self) -> Value {
        loop {
            let line = tokio::time::timeout(Duration::from_secs(30), self.lines.next_line()).await;
            let line = line.expect("the server went silent").unwrap().expect("the server ended");
            let message: Value = serde_json::from_str(&line).unwrap();
            if message["method"] != "notifications/subscriptions/acknowledged" {
                return message;
            }
        }
    }
}
