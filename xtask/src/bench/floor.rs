//! The floors: the least that any gateway in front of a stdio server must do. No checks, no sessions, no auth.

use super::error::{BenchError, cannot, wrong};
use bytes::{Buf, Bytes};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::io::Write;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;

/// Which floor.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Put this stdio server behind HTTP; without it, each body is answered with itself.
    #[arg(last = true)]
    pub(crate) child: Vec<String>,
}

/// Runs as a process: prints `listening ip:port`, serves until stdin is closed.
pub(crate) fn run(options: &Options) -> Result<(), BenchError> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(cannot("start a runtime"))?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(cannot("listen"))?;
        let address = listener.local_addr().map_err(cannot("read the own address"))?;
        let pipe = match options.child.split_first() {
            Some((program, arguments)) => Some(Arc::new(Pipe::start(program, arguments)?)),
            None => None,
        };
        writeln!(std::io::stdout().lock(), "listening {address}").map_err(cannot("print the address"))?;
        let mut rest = [0_u8; 1];
        tokio::select! {
            never = accept(listener, pipe) => never,
            _ = async { tokio::io::stdin().read(&mut rest).await } => Ok(()),
        }
    })
}

async fn accept(listener: TcpListener, pipe: Option<Arc<Pipe>>) -> Result<(), BenchError> {
    loop {
        let (stream, _) = listener.accept().await.map_err(cannot("accept a connection"))?;
        stream.set_nodelay(true).map_err(cannot("set TCP_NODELAY"))?;
        let pipe = pipe.clone();
        let service = service_fn(move |request| answer(request, pipe.clone()));
        // A connection that breaks is the client's end of it.
        stdx::task::spawn("connection", http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(request: Request<Incoming>, pipe: Option<Arc<Pipe>>) -> Result<Response<Full<Bytes>>, BenchError> {
    let body = request.into_body().collect().await.map_err(|error| wrong(error.to_string()))?.to_bytes();
    let body = match pipe {
        Some(pipe) => pipe.round_trip(body).await?,
        None => body,
    };
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Ok(response)
}

/// One stdio server, its pipes and who waits for which answer.
struct Pipe {
    input: tokio::sync::Mutex<ChildStdin>,
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Bytes>>>>,
}

// === impl Pipe ===

impl Pipe {
    fn start(program: &str, arguments: &[String]) -> Result<Self, BenchError> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(cannot(format!("start {program}")))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(wrong("the child has no pipes"));
        };
        let waiting = Arc::default();
        stdx::task::spawn("answers", deliver(output, Arc::clone(&waiting)));
        stdx::task::spawn("child", async move { child.wait().await });
        Ok(Self { input: tokio::sync::Mutex::new(input), waiting })
    }

    /// Writes `message` as one line and waits for the line with the same id.
    async fn round_trip(&self, message: Bytes) -> Result<Bytes, BenchError> {
        let id = id_of(&message).ok_or_else(|| wrong("the message has no id at its place"))?;
        let (send, receive) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, send);
        let mut line = message.chain(&b"\n"[..]);
        self.input.lock().await.write_all_buf(&mut line).await.map_err(cannot("write to the child"))?;
        receive.await.map_err(|_| wrong("the child is gone"))
    }
}

async fn deliver(output: ChildStdout, waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Bytes>>>>) {
    let mut lines = BufReader::with_capacity(256 * 1024, output);
    loop {
        let mut line = Vec::new();
        if !matches!(lines.read_until(b'\n', &mut line).await, Ok(1..)) {
            break;
        }
        line.truncate(line.trim_ascii_end().len());
        let waiter = id_of(&line).and_then(|id| waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id));
        if let Some(waiter) = waiter {
            // The caller may have left.
            drop(waiter.send(Bytes::from(line)));
        }
    }
    waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// The id of a message, found the cheap way: ids under load are ten digits, texts hold no quotes.
pub(super) fn id_of(message: &[u8]) -> Option<u64> {
    const MARK: &[u8] = b"\"id\":";
    let at = message.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    let digits = message[at..].iter().position(|byte| !byte.is_ascii_digit()).map(|end| &message[at..at + end])?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn ids_are_found_wherever_they_stand() {
        assert_eq!(super::id_of(b"{\"jsonrpc\":\"2.0\",\"id\":1000000042,\"x\":1}"), Some(1_000_000_042));
        assert_eq!(super::id_of(b"{\"result\":{},\"id\":7}"), Some(7));
        assert_eq!(super::id_of(b"{\"result\":{}}"), None);
        assert_eq!(super::id_of(b"{\"id\":\"a\"}"), None);
    }
}
