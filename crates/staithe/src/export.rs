//! Traces of calls for a collector: OTLP over HTTP in JSON. Calls hand over a record each and go on; one task sends them in
//! batches. Where the collector is away or slow, records are dropped and counted, and nothing waits for it.

use crate::fault;
use bytes::Bytes;
use gateway::CallSpan;
use http::header::{CONTENT_TYPE, HOST};
use http::{Request, Uri};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use model::Problem;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use stdx::meter::Counter;
use supervisor::Outcome;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Records that may wait for the collector.
const WAITING: usize = 2048;
/// Records of one request.
const BATCH: usize = 256;
/// How long a record waits for others.
const GATHER: Duration = Duration::from_secs(1);
/// How long the collector may take for one request, and for all that is left when the host stops.
const PATIENCE: Duration = Duration::from_secs(2);
/// The environment variable that other programs read too.
const VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// Below the base address, by the specification of OTLP/HTTP.
const PATH: &str = "/v1/traces";

/// A collector's address, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    authority: String,
    port: u16,
    host: String,
    path: String,
}

impl Endpoint {
    /// Of the base address, as `http://host:4318`. There is no TLS: a collector on this machine speaks it for us.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "must be http:// with a host, like \"http://127.0.0.1:4318\"; https is not spoken".to_owned();
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
        if uri.scheme_str() != Some("http") || uri.query().is_some() || text.contains('#') {
            return Err(wrong());
        }
        Ok(Self {
            authority: authority.to_string(),
            port: authority.port_u16().unwrap_or(80),
            host: authority.host().trim_start_matches('[').trim_end_matches(']').to_owned(),
            path: format!("{}{PATH}", uri.path().trim_end_matches('/')),
        })
    }

    /// As configured, else as the environment says, else none.
    pub(crate) fn choose(configured: Option<&str>) -> Result<Option<Self>, Problem> {
        let told = std::env::var(VARIABLE).ok().filter(|text| !text.trim().is_empty());
        let Some((name, text)) = configured
            .map(|text| ("telemetry.otlp_endpoint", text.to_owned()))
            .or_else(|| told.map(|text| (VARIABLE, text.trim().to_owned())))
        else {
            return Ok(None);
        };
        let hint = "take it out, or name the base address of a collector";
        Self::parse(&text).map(Some).map_err(|error| fault::usage(format!("{name} {error}"), hint))
    }
}

/// What became of the records.
#[derive(Debug, Default)]
pub(crate) struct Exported {
    /// Taken by the collector.
    pub(crate) sent: Counter,
    /// Not taken.
    pub(crate) failed: Counter,
}

/// The task that sends.
#[derive(Debug)]
pub(crate) struct Exporter {
    task: JoinHandle<Option<()>>,
    stopping: CancellationToken,
}

impl Exporter {
    /// Begins to send to `endpoint` what comes into the queue that it returns.
    pub(crate) fn start(endpoint: Endpoint, exported: Arc<Exported>) -> (mpsc::Sender<CallSpan>, Self) {
        let (queue, waiting) = mpsc::channel(WAITING);
        let stopping = CancellationToken::new();
        let task =
            stdx::task::spawn("traces", run(Sending { endpoint, exported, away: false }, waiting, stopping.clone()));
        (queue, Self { task, stopping })
    }

    /// Sends what waits, within its time.
    pub(crate) async fn stop(self) {
        self.stopping.cancel();
        drop(self.task.await);
    }
}

/// The sending end.
struct Sending {
    endpoint: Endpoint,
    exported: Arc<Exported>,
    /// The collector did not take the last batch. It is told once.
    away: bool,
}

impl Sending {
    async fn deliver(&mut self, batch: Vec<CallSpan>) {
        let outcome = tokio::time::timeout(PATIENCE, send(&self.endpoint, &batch)).await;
        let outcome = outcome.unwrap_or_else(|_| Err("it did not answer in time".to_owned()));
        let counter = if outcome.is_ok() { &self.exported.sent } else { &self.exported.failed };
        batch.iter().for_each(|_| counter.add_one());
        let collector = &self.endpoint.authority;
        match &outcome {
            Err(error) if !self.away => {
                tracing::warn!(collector, error, "traces are dropped: the collector does not take them");
            }
            Ok(()) if self.away => tracing::info!(collector, "the collector takes traces again"),
            _ => {}
        }
        self.away = outcome.is_err();
    }
}

async fn run(mut sending: Sending, mut waiting: mpsc::Receiver<CallSpan>, stopping: CancellationToken) {
    while let Some(Some(first)) = stopping.run_until_cancelled(waiting.recv()).await {
        let mut batch = vec![first];
        let gathering = async {
            while batch.len() < BATCH {
                let room = BATCH - batch.len();
                if waiting.recv_many(&mut batch, room).await == 0 {
                    break;
                }
            }
        };
        let _ = stopping.run_until_cancelled(tokio::time::timeout(GATHER, gathering)).await;
        sending.deliver(batch).await;
    }
    waiting.close();
    let last = async {
        let mut batch = Vec::new();
        while waiting.recv_many(&mut batch, BATCH).await > 0 {
            sending.deliver(std::mem::take(&mut batch)).await;
        }
    };
    let _ = tokio::time::timeout(PATIENCE, last).await;
}

/// One request with one batch, over a connection of its own.
async fn send(endpoint: &Endpoint, batch: &[CallSpan]) -> Result<(), String> {
    let said = |error: &dyn std::error::Error| stdx::chain::Chain(error).to_string();
    let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await.map_err(|error| said(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| said(&error))?;
    // It ends with its sender.
    drop(stdx::task::spawn("trace connection", connection));
    let body = Bytes::from(request(batch).to_string());
    let request =
        Request::post(&endpoint.path).header(HOST, &endpoint.authority).header(CONTENT_TYPE, "application/json");
    let request = request.body(Full::new(body)).map_err(|error| said(&error))?;
    let response = sender.send_request(request).await.map_err(|error| said(&error))?;
    if response.status().is_success() { Ok(()) } else { Err(format!("it answered {}", response.status())) }
}

fn request(batch: &[CallSpan]) -> Value {
    let spans: Vec<Value> = batch.iter().filter_map(spans).flatten().collect();
    let resource = [text("service.name", "staithe"), text("service.version", env!("CARGO_PKG_VERSION"))];
    let scope = json!({"name": "staithe", "version": env!("CARGO_PKG_VERSION")});
    json!({"resourceSpans": [{"resource": {"attributes": resource}, "scopeSpans": [{"scope": scope, "spans": spans}]}]})
}

/// The span of a call and one for each of its stages. `None` without randomness for their names.
fn spans(call: &CallSpan) -> Option<Vec<Value>> {
    let new_span = || stdx::random::bytes::<8>().ok().map(|id| hex(&id));
    let trace = match &call.context {
        Some(context) => hex(&context.trace),
        None => hex(&stdx::random::bytes::<16>().ok()?),
    };
    let own = new_span()?;
    let took: Duration = call.stages.iter().map(|(_, took)| *took).sum();
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let begun = call.ended.saturating_sub(nanos(took));
    let mut attributes = vec![
        text("mcp.method.name", &call.method),
        text("staithe.server", &call.server),
        text("staithe.outcome", call.outcome.as_str()),
    ];
    attributes.extend(call.tool.as_deref().map(|tool| text("gen_ai.tool.name", tool)));
    attributes.extend(call.call.map(|id| json!({"key": "staithe.call", "value": {"intValue": id.to_string()}})));
    let mut root = json!({
        "traceId": trace, "spanId": own, "kind": 2,
        "name": call.tool.as_ref().map_or_else(|| call.method.clone(), |tool| format!("{} {tool}", call.method)),
        "startTimeUnixNano": begun.to_string(), "endTimeUnixNano": call.ended.to_string(),
        "attributes": attributes,
    });
    if !matches!(call.outcome, Outcome::Ok | Outcome::Asked | Outcome::Cancelled) {
        root["status"] = json!({"code": 2, "message": call.outcome.as_str()});
    }
    if let Some(context) = &call.context {
        root["parentSpanId"] = Value::from(hex(&context.parent));
        if let Some(state) = &context.state {
            root["traceState"] = Value::from(state.as_str());
        }
    }
    let mut all = vec![root];
    let mut at = begun;
    for (stage, took) in &call.stages {
        let end = at.saturating_add(nanos(*took));
        all.push(json!({
            "traceId": trace, "spanId": new_span()?, "parentSpanId": own, "kind": 1, "name": stage.as_str(),
            "startTimeUnixNano": at.to_string(), "endTimeUnixNano": end.to_string(),
        }));
        at = end;
    }
    Some(all)
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::{BATCH, Endpoint, Exported, Exporter, WAITING};
    use gateway::{CallSpan, TraceContext};
    use serde_json::Value;
    use std::sync::Arc;
    use std::time::Duration;
    use stdx::clock::monotonic;
    use supervisor::{Outcome, Stage};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn call(context: Option<TraceContext>) -> CallSpan {
        CallSpan {
            context,
            server: "box".to_owned(),
            method: "tools/call".to_owned(),
            tool: Some("add".to_owned()),
            call: Some(7),
            outcome: Outcome::ToolError,
            ended: 1_785_196_800_000_000_000,
            stages: vec![(Stage::Admission, Duration::from_nanos(1500)), (Stage::Policy, Duration::from_millis(2))],
        }
    }

    fn endpoint(listener: &TcpListener) -> Endpoint {
        Endpoint::parse(&format!("http://{}/base/", listener.local_addr().unwrap())).unwrap()
    }

    /// Takes one request and answers it; its head and its body.
    async fn take(listener: &TcpListener) -> (String, Value) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&all).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                if body.len() == length.parse::<usize>().unwrap() {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
                    return (head.to_owned(), serde_json::from_str(body).unwrap());
                }
            }
            assert!(stream.read_buf(&mut all).await.unwrap() > 0);
        }
    }

    #[tokio::test]
    async fn a_call_arrives_with_its_stages_in_its_clients_trace() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let exported = Arc::new(Exported::default());
        let (queue, exporter) = Exporter::start(endpoint(&listener), exported.clone());
        let state = Some("a=1".to_owned());
        queue.send(call(Some(TraceContext { trace: [0xab; 16], parent: [1; 8], sampled: true, state }))).await.unwrap();
        queue.send(call(None)).await.unwrap();
        // What waits is sent when the host stops.
        let (taken, ()) = tokio::join!(take(&listener), exporter.stop());
        let (head, body) = taken;
        assert!(head.starts_with("POST /base/v1/traces HTTP/1.1") && head.contains("application/json"), "{head}");
        let spans = body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
        assert_eq!(spans.len(), 6, "{body}");
        let (root, first, last) = (&spans[0], &spans[1], &spans[2]);
        assert_eq!(
            (root["traceId"].as_str().unwrap(), root["traceState"].as_str()),
            ("ab".repeat(16).as_str(), Some("a=1"))
        );
        assert_eq!(
            (&root["parentSpanId"], &root["name"]),
            (&Value::from("01".repeat(8)), &Value::from("tools/call add"))
        );
        assert_eq!(root["status"]["message"], "tool_error");
        for child in [first, last] {
            assert_eq!((&child["parentSpanId"], &child["traceId"]), (&root["spanId"], &root["traceId"]));
        }
        assert_eq!(root["endTimeUnixNano"], "1785196800000000000");
        assert_eq!(
            (&first["startTimeUnixNano"], &first["endTimeUnixNano"]),
            (&root["startTimeUnixNano"], &last["startTimeUnixNano"])
        );
        assert_eq!(last["endTimeUnixNano"], root["endTimeUnixNano"]);
        assert!(spans[3]["parentSpanId"].is_null() && spans[3]["traceId"].as_str().unwrap().len() == 32);
        assert_ne!(spans[3]["spanId"], root["spanId"]);
        assert_eq!((exported.sent.get(), exported.failed.get()), (2, 0));
    }

    #[tokio::test]
    async fn a_collector_that_is_away_or_says_nothing_holds_nobody_up() {
        let away = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            endpoint(&listener)
        };
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (endpoint, fails_at_once) in [(away, true), (endpoint(&silent), false)] {
            let exported = Arc::new(Exported::default());
            let (queue, exporter) = Exporter::start(endpoint, exported.clone());
            let refused = (0..WAITING + BATCH * 3).filter(|_| queue.try_send(call(None)).is_err()).count();
            assert!(refused > 0, "the queue is bounded");
            let begun = monotonic();
            exporter.stop().await;
            assert!(begun.elapsed() < Duration::from_secs(20), "stopped after {:?}", begun.elapsed());
            assert_eq!(exported.sent.get(), 0);
            assert!(!fails_at_once || exported.failed.get() >= u64::try_from(WAITING).unwrap());
        }
    }

    #[test]
    fn only_plain_http_is_an_endpoint() {
        let good = Endpoint::parse("http://[::1]:4318").unwrap();
        assert_eq!((good.host.as_str(), good.port, good.path.as_str()), ("::1", 4318, "/v1/traces"));
        for bad in ["https://a", "http://", "a:4318", "http://u:p@a", "http://a/?b", "http://a#b", "", "ftp://a"] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
    }
}
