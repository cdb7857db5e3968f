//! Which verdicts about a slot are told to whoever records them: those that turn callers away or replace a process, and their end.

use crate::life::Life;
use crate::restart::{HEALTHY, Standing};
use crate::slot::Context;
use std::sync::{Mutex, PoisonError};

impl Context {
    /// Tells whoever records it.
    pub(crate) async fn tell(&self, life: impl FnOnce() -> Life) {
        if let Some(scribe) = &self.scribe {
            scribe.tell(life()).await;
        }
    }

    /// Tells how the server stands from here on.
    pub(crate) async fn judged(&self, instance: Option<u64>, verdict: &'static str, seen: Option<String>) {
        Box::pin(self.tell(|| Life::Judged { server: self.server.clone(), instance, verdict, seen })).await;
    }
}

/// The last verdict about a slot that was told.
#[derive(Default)]
pub(crate) struct Trouble(Mutex<Option<Standing>>);

impl Trouble {
    /// Tells of a standing that is another one than before, where callers are turned away from here on.
    pub(crate) async fn follows(&self, context: &Context, standing: Standing, deaths: u32) {
        let verdict = match standing {
            Standing::Restarting | Standing::Failing => return,
            Standing::CrashLooping => "crash_looping",
            Standing::Quarantined => "quarantined",
        };
        if self.put(Some(standing)) != Some(standing) {
            context.judged(None, verdict, Some(format!("deaths without a healthy life: {deaths}"))).await;
        }
    }

    /// Tells that it is over, if there was any.
    pub(crate) async fn ends(&self, context: &Context, why: &str) {
        let troubled = self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if troubled {
            context.judged(None, "released", Some(why.to_owned())).await;
            self.put(None);
        }
    }

    /// Tells that it is over as soon as a life is healthy. Never ends. Cancel-safe.
    pub(crate) async fn heals(&self, context: &Context) -> std::convert::Infallible {
        tokio::time::sleep(HEALTHY).await;
        self.ends(context, "it lives").await;
        std::future::pending().await
    }

    fn put(&self, standing: Option<Standing>) -> Option<Standing> {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), standing)
    }
}
