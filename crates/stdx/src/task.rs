//! Spawning: every task has a name, and a panic in one is reported, never lost.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::task::JoinHandle;

/// Runs `future` as a task of the current runtime. A panic is logged with `name` and ends this task alone; the
/// handle then yields `None`.
#[expect(clippy::disallowed_methods, reason = "this is the one spawn")]
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<Option<F::Output>>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(Reported { name, future })
}

pin_project_lite::pin_project! {
    /// A future whose panic becomes `None` and a line in the trace.
    struct Reported<F> {
        name: &'static str,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Reported<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let name = *this.name;
        match std::panic::catch_unwind(AssertUnwindSafe(|| this.future.poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Some(output)),
            Err(_panic) => {
                tracing::error!(task = name, "a task panicked; this is a bug in staithe");
                Poll::Ready(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_panic_ends_its_own_task_only() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let bad = super::spawn("bad", async { assert!(std::hint::black_box(false), "on purpose") });
            let good = super::spawn("good", async { 7 });
            assert_eq!(bad.await.unwrap(), None);
            assert_eq!(good.await.unwrap(), Some(7));
        });
    }
}
