//! The page of `/metrics`: what each part of the host counted, one after another, and what is known of the process itself.

use crate::export::Exported;
use gateway::Meters;
use std::sync::Arc;
use stdx::meter::{Kind, Page};
use supervisor::Supervisor;

/// Writes the page anew at each call. It costs nothing while nobody asks.
pub(crate) fn page(
    supervisor: Supervisor,
    meters: Arc<Meters>,
    exported: Arc<Exported>,
) -> Arc<dyn Fn() -> String + Send + Sync> {
    let started = stdx::clock::unix_ms();
    Arc::new(move || {
        let mut page = Page::default();
        daemon(&mut page, started);
        meters.write(&mut page);
        traces(&mut page, &exported);
        supervisor.write_meters(&mut page);
        page.finish()
    })
}

fn daemon(page: &mut Page, started_ms: i64) {
    page.family("staithe_build_info", Kind::Gauge, "Always 1; the version is its label.")
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.family("staithe_start_time_seconds", Kind::Gauge, "When the daemon started, Unix time.")
        .decimal(&[], std::time::Duration::from_millis(u64::try_from(started_ms).unwrap_or(0)).as_secs_f64());
    page.family(
        "staithe_resident_bytes",
        Kind::Gauge,
        "Resident memory of the daemon; hosted processes are not in it.",
    )
    .sample(&[], resident_bytes());
    page.family("staithe_open_descriptors", Kind::Gauge, "Open file descriptors of the daemon.")
        .sample(&[], open_descriptors());
}

fn traces(page: &mut Page, exported: &Exported) {
    page.family("staithe_spans_exported_total", Kind::Counter, "Records of calls that the collector of traces took.")
        .sample(&[], exported.sent.get());
    page.family(
        "staithe_spans_failed_total",
        Kind::Counter,
        "Records of calls that the collector of traces did not take.",
    )
    .sample(&[], exported.failed.get());
}

/// 0 where the kernel does not say.
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = pages.split_ascii_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok());
    resident.unwrap_or(0) * rustix::param::page_size() as u64
}

/// The one that counts them is not among them.
fn open_descriptors() -> u64 {
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    u64::try_from(open).unwrap_or(u64::MAX).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_has_memory_and_descriptors() {
        assert!(super::resident_bytes() > 100_000);
        assert!((3..100_000).contains(&super::open_descriptors()));
    }
}
