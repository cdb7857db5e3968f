//! Waiting for what must come true.

use std::fmt::Display;
use std::time::{Duration, Instant};
use stdx::clock::monotonic;

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks.
const STEP: Duration = Duration::from_millis(5);

/// Blocks until `look` finds something, and gives it.
///
/// # Panics
/// After [`PATIENCE`]; the text says what was waited for.
pub fn until_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let wait = Wait::new(what);
    loop {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(wait.step());
    }
}

/// Blocks until `holds`.
///
/// # Panics
/// As [`until_some`].
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    until_some(what, || holds().then_some(()));
}

/// Where tasks wait: `while !done { wait.a_while().await }`.
#[derive(Debug)]
pub struct Wait {
    what: String,
    end: Instant,
}

impl Wait {
    /// Begins to wait.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), end: monotonic() + PATIENCE }
    }

    /// Until the next look.
    ///
    /// # Panics
    /// As [`until_some`].
    pub async fn a_while(&self) {
        tokio::time::sleep(self.step()).await;
    }

    fn step(&self) -> Duration {
        assert!(monotonic() < self.end, "waited {PATIENCE:?} for: {}", self.what);
        STEP
    }
}

/// Waits until `look` finds something, and gives it.
///
/// # Panics
/// As [`until_some`].
pub async fn eventually_some<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = Wait::new(what);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        wait.a_while().await;
    }
}

/// Waits until `holds`.
///
/// # Panics
/// As [`until_some`].
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = Wait::new(what);
    while !holds() {
        wait.a_while().await;
    }
}

/// Whether the process `pid` has not ended.
pub fn lives(pid: impl Display) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
