//! The one reader of a process' stdout. It never waits for a caller.

use crate::flow::Flow;
use crate::instance::Instance;
use crate::route;
use bytes::{BufMut, BytesMut};
use model::report::LogSource;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use wire::frame::Lines;

/// Why the reading of a server's stdout ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadEnd {
    Closed,
    LineTooLong { limit: usize },
}

/// Reads lines until the pipe ends and hands each to [`route`]. It never waits for a caller, and for a
/// while where the server writes more than its rate.
/// `rest` is what an earlier daemon had read of a line; `None` where that is not known.
pub(crate) async fn read(instance: Arc<Instance>, mut stdout: pipe::Receiver, rest: Option<Vec<u8>>) -> ReadEnd {
    let mut lines = Lines::new(instance.context.limits.line_bytes);
    let mut first_of_another = instance.taken_over.is_some() && rest.is_none();
    let mut buffer = BytesMut::from(rest.unwrap_or_default().as_slice());
    let mut room = 16 << 10;
    let mut flow = Flow::of(&instance);
    let mut paused = Box::pin(instance.pause.wanted());
    loop {
        // A new buffer for each small message would let a queue of them hold far more memory than it counts.
        if buffer.capacity() - buffer.len() < room / 4 {
            buffer.reserve(room);
        }
        let offered = flow.part(buffer.capacity() - buffer.len());
        let mut space = (&mut buffer).limit(offered);
        let read = tokio::select! {
            biased;
            read = stdout.read_buf(&mut space) => read,
            () = &mut paused => {
                instance.pause.hold(&buffer).await;
                paused = Box::pin(instance.pause.wanted());
                continue;
            }
        };
        let n = match read {
            Ok(0) | Err(_) => return ReadEnd::Closed,
            Ok(n) => n,
        };
        room = if n >= offered { 256 << 10 } else { 16 << 10 };
        instance.pulse.beat();
        flow.read(n);
        // Another daemon need not wait for a flood.
        let mut hurries = false;
        while let Some(line) = lines.next(&mut buffer) {
            match line {
                // An earlier daemon may have read its beginning. The rest of a message is never a message.
                Ok(line) if std::mem::take(&mut first_of_another) && !route::is_message(&instance, &line) => {
                    let text =
                        format!("{} bytes were left of a line that an earlier daemon had begun to read", line.len());
                    instance.context.log.add(instance.id, LogSource::Host, &text);
                }
                Ok(line) => route::line(&instance, &line),
                Err(too_long) => return ReadEnd::LineTooLong { limit: too_long.limit },
            }
            if flow.line() && !hurries {
                hurries = paced(&mut flow, &instance, &mut paused).await;
            }
        }
        if hurries || paced(&mut flow, &instance, &mut paused).await {
            instance.pause.hold(&buffer).await;
            paused = Box::pin(instance.pause.wanted());
        }
    }
}

/// Waits as long as the rate asks. True where the reader is to stop instead, and `paused` must not be asked again.
async fn paced(flow: &mut Flow, instance: &Instance, paused: &mut (impl Future<Output = ()> + Unpin)) -> bool {
    tokio::select! {
        biased;
        () = paused => true,
        () = flow.pace(instance, "stdout") => {
            // What it has written waits here, and so may its answer to a probe: that is no silence.
            instance.pulse.beat();
            false
        }
    }
}
