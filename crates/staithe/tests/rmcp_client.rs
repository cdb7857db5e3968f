//! rmcp as a client of staithe, in both eras and under both auth settings. The interop matrix (`tests/interop/run.py`) runs `matrix_cell`
//! of this file as its rmcp client, in front of published servers.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(deprecated, reason = "sampling, roots and subscriptions are what clients of the older revisions have")]

use rmcp::model::{
    CallToolRequestParams, ClientCapabilities, ClientConfig, CreateMessageRequestParams, CreateMessageResult,
    ElicitRequestParams, ElicitResult, ElicitationAction, ErrorData, ListRootsResult, ProtocolVersion,
    ResourceUpdatedNotificationParam, Root, SamplingMessage, SubscribeRequestParams, SubscriptionFilter,
};
use rmcp::service::{NotificationContext, RequestContext, RunningService, ServiceError, Subscription};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientHandler, ClientLifecycleMode, ClientServiceExt, RoleClient};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// No step of these tests may take longer.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn an_rmcp_client_calls_a_legacy_server() {
    lists_and_calls("everything", &["--legacy"]).await;
}

#[tokio::test]
async fn an_rmcp_client_calls_a_modern_server() {
    lists_and_calls("everything", &["--modern"]).await;
}

#[tokio::test]
async fn an_rmcp_client_calls_a_dual_era_server() {
    lists_and_calls("everything", &["--dual"]).await;
}

#[tokio::test]
async fn an_rmcp_client_calls_an_rmcp_server() {
    lists_and_calls("rmcp-server", &[]).await;
}

#[tokio::test]
async fn an_rmcp_client_without_the_right_token_is_refused() {
    let host = Host::start("everything", &["--dual"], false);
    for era in ["legacy", "modern"] {
        for token in [None, Some("not-a-token")] {
            let report = talk(&host.plan(era, token)).await;
            assert_eq!((&report["ok"], &report["status"]), (&json!(false), &json!(401)), "{era} {token:?}: {report}");
        }
    }
}

/// One cell of the interop matrix: what to call stands in the environment, the report goes to a file.
#[tokio::test]
#[ignore = "a program of tests/interop/run.py, which says what to call in STAITHE_INTEROP_PLAN and STAITHE_INTEROP_REPORT"]
async fn matrix_cell() {
    let plan: Value = serde_json::from_str(&std::env::var("STAITHE_INTEROP_PLAN").unwrap()).unwrap();
    let report = talk(&plan).await;
    let mut file = File::create(std::env::var_os("STAITHE_INTEROP_REPORT").unwrap()).unwrap();
    file.write_all(report.to_string().as_bytes()).unwrap();
}

/// Both eras of client, with and without auth, in front of one server of the test kit.
async fn lists_and_calls(program: &str, args: &[&str]) {
    for open in [false, true] {
        let host = Host::start(program, args, open);
        for (era, protocol) in [("legacy", "2025-11-25"), ("modern", "2026-07-28")] {
            let report = talk(&host.plan(era, host.token.as_deref())).await;
            let told = format!("{program} {args:?}, open {open}, {era}: {report}");
            assert_eq!((&report["ok"], &report["isError"]), (&json!(true), &json!(false)), "{told}");
            assert_eq!(report["protocol"], protocol, "{told}");
            assert!(report["tools"].as_array().unwrap().contains(&json!("echo")), "{told}");
            assert!(report["texts"][0].as_str().unwrap().contains("canary 7391"), "{told}");
        }
    }
}

/// A running `staithe run` with one server behind it.
struct Host {
    child: Child,
    url: String,
    token: Option<String>,
    _state: tempfile::TempDir,
}

impl Host {
    fn start(program: &str, args: &[&str], open: bool) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut child = launch(&testkit::bin(program), args, open, state.path());
        let line = first_line(child.stdout.take().unwrap());
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("not a ready line: {line:?}: {e}"));
        let url = ready["server"]["url"].as_str().unwrap_or_else(|| panic!("no address in {line}")).to_owned();
        let token = ready["token"].as_str().map(str::to_owned);
        assert_eq!(token.is_none(), open, "a token is printed exactly where one is needed: {line}");
        Self { child, url, token, _state: state }
    }

    fn plan(&self, era: &str, token: Option<&str>) -> Value {
        let call = json!({"tool": "echo", "arguments": {"text": "canary 7391", "message": "canary 7391"}});
        json!({"url": self.url, "token": token, "era": era, "calls": [call]})
    }
}

impl Drop for Host {
    /// Asks staithe to stop, so that it stops its own children; kills it only where that takes too long.
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        let pause = Duration::from_millis(20);
        for _ in 0..PATIENCE.as_millis() / pause.as_millis() {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(pause);
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn launch(program: &Path, args: &[&str], open: bool, state: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_staithe"));
    command.arg("--json").arg("--state-dir").arg(state);
    command.args(["run", "--listen", "127.0.0.1:0", "--name", "kit"]);
    if open {
        command.arg("--open");
    }
    command.arg("--").arg(program).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
}

/// The ready line. A thread reads, so that a silent staithe fails the test instead of hanging it.
fn first_line(stdout: ChildStdout) -> String {
    let (send, receive) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut lines = BufReader::new(stdout).lines();
        send.send(lines.next()).ok();
        // The rest is read away: staithe must not meet a closed or full pipe.
        lines.for_each(drop);
    });
    let line = receive.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("staithe printed nothing in {PATIENCE:?}"));
    line.unwrap_or_else(|| panic!("staithe ended without a ready line")).unwrap()
}

/// Lists the tools and makes the calls of the plan; every failure is part of the report.
async fn talk(plan: &Value) -> Value {
    let outcome = tokio::time::timeout(PATIENCE, list_and_call(plan)).await;
    match outcome.unwrap_or_else(|_| Err(format!("no answer in {PATIENCE:?}"))) {
        Ok(report) => report,
        Err(error) => {
            let refused = error.contains("AuthRequired") || error.contains("status: 401");
            json!({"ok": false, "status": refused.then_some(401), "error": error})
        }
    }
}

async fn list_and_call(plan: &Value) -> Result<Value, String> {
    let mut config = StreamableHttpClientTransportConfig::with_uri(plan["url"].as_str().unwrap());
    if let Some(token) = plan["token"].as_str() {
        config = config.auth_header(token);
    }
    let lifecycle = match plan["era"].as_str().unwrap() {
        "legacy" => ClientLifecycleMode::Initialize,
        _ => ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] },
    };
    let transport = StreamableHttpClientTransport::from_config(config);
    let whoever = Whoever::of(plan);
    let heard = Arc::clone(&whoever.heard);
    let client = whoever.serve_with_lifecycle(transport, lifecycle).await.map_err(|e| format!("{e:?}"))?;
    let protocol = client.peer_info().map(|info| info.protocol_version.to_string());
    let tools = client.list_all_tools().await.map_err(|e| format!("{e:?}"))?;
    let subscription = watch(&client, plan).await.map_err(|e| format!("{e:?}"))?;
    let (mut texts, mut failed) = (Vec::new(), false);
    for call in plan["calls"].as_array().unwrap() {
        let arguments = call["arguments"].as_object().unwrap().clone();
        let params = CallToolRequestParams::new(call["tool"].as_str().unwrap().to_owned()).with_arguments(arguments);
        let result = client.call_tool(params).await.map_err(|e| format!("{e:?}"))?;
        let words: Vec<&str> = result.content.iter().filter_map(|part| Some(part.as_text()?.text.as_str())).collect();
        texts.push(words.join("\n"));
        failed |= result.is_error.unwrap_or(false);
    }
    let heard = listen(subscription, &heard, &plan["watch"]["wanted"]).await;
    let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_ref()).collect();
    let report =
        json!({"ok": true, "protocol": protocol, "tools": names, "texts": texts, "isError": failed, "heard": heard});
    client.cancel().await.map_err(|e| format!("{e:?}"))?;
    Ok(report)
}

/// Asks for what the plan wants to watch: a subscription where the era has them, else none.
async fn watch(
    client: &RunningService<RoleClient, Whoever>,
    plan: &Value,
) -> Result<Option<Subscription>, ServiceError> {
    let Some(uri) = plan["watch"]["uri"].as_str() else { return Ok(None) };
    if plan["era"] == "modern" {
        let filter = SubscriptionFilter::builder().tools_list_changed().resources_list_changed();
        return client.listen(filter.resource_subscriptions([uri.to_owned()]).build()).await.map(Some);
    }
    client.subscribe(SubscribeRequestParams::new(uri.to_owned())).await?;
    Ok(None)
}

/// What was heard once all that is wanted was, or after some seconds.
async fn listen(
    mut subscription: Option<Subscription>,
    heard: &Mutex<BTreeSet<String>>,
    wanted: &Value,
) -> Vec<String> {
    let wanted: Vec<&str> =
        wanted.as_array().map_or_else(Vec::new, |all| all.iter().filter_map(Value::as_str).collect());
    let end = tokio::time::Instant::now() + Duration::from_secs(10);
    while tokio::time::Instant::now() < end && wanted.iter().any(|method| !heard.lock().unwrap().contains(*method)) {
        let pause = Duration::from_millis(50);
        let Some(events) = subscription.as_mut() else {
            tokio::time::sleep(pause).await;
            continue;
        };
        if let Ok(Ok(Some(event))) = tokio::time::timeout(pause, events.next()).await {
            let method = serde_json::to_value(&event).unwrap()["method"].as_str().unwrap().to_owned();
            heard.lock().unwrap().insert(method);
        }
    }
    heard.lock().unwrap().iter().cloned().collect()
}

/// The client itself: whoever is asked answers with the text of the plan, and what it is told is noted.
#[derive(Debug)]
struct Whoever {
    answer: Option<String>,
    root: String,
    heard: Arc<Mutex<BTreeSet<String>>>,
}

impl Whoever {
    fn of(plan: &Value) -> Self {
        let text = |name: &str| plan[name].as_str().map(str::to_owned);
        Self { answer: text("answer"), root: text("roots").unwrap_or_default(), heard: Arc::default() }
    }

    fn note(&self, method: &str) {
        self.heard.lock().unwrap().insert(method.to_owned());
    }
}

impl ClientHandler for Whoever {
    fn get_info(&self) -> ClientConfig {
        let mut config = ClientConfig::default();
        if self.answer.is_some() {
            config.capabilities =
                ClientCapabilities::builder().enable_elicitation().enable_sampling().enable_roots().build();
        }
        config
    }

    async fn create_elicitation(
        &self,
        _request: ElicitRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        Ok(ElicitResult::new(ElicitationAction::Accept).with_content(json!({"name": self.answer})))
    }

    async fn create_message(
        &self,
        _request: CreateMessageRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<CreateMessageResult, ErrorData> {
        let message = SamplingMessage::assistant_text(self.answer.clone().unwrap_or_default());
        Ok(CreateMessageResult::new(message, "none".to_owned()))
    }

    async fn list_roots(&self, _context: RequestContext<RoleClient>) -> Result<ListRootsResult, ErrorData> {
        Ok(ListRootsResult::new(vec![Root::new(self.root.clone())]))
    }

    async fn on_resource_updated(
        &self,
        _params: ResourceUpdatedNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        self.note("notifications/resources/updated");
    }

    async fn on_resource_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.note("notifications/resources/list_changed");
    }

    async fn on_tool_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.note("notifications/tools/list_changed");
    }
}
