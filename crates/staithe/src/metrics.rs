//! The page of `/metrics`: what each part of the host counted, one after another, and what is known of the process itself.

use crate::book::HostLedger;
use crate::export::Exported;
use gateway::Meters;
use std::sync::Arc;
use std::time::Duration;
use stdx::meter::{Kind, Page};
use supervisor::Supervisor;

/// Writes the page anew at each call. It costs nothing while nobody asks.
pub(crate) fn page(
    supervisor: Supervisor,
    meters: Arc<Meters>,
    exported: Arc<Exported>,
    ledger: HostLedger,
) -> Arc<dyn Fn() -> String + Send + Sync> {
    let started = stdx::clock::unix_ms();
    Arc::new(move || {
        let mut page = Page::default();
        daemon(&mut page, started);
        meters.write(&mut page);
        traces(&mut page, &exported);
        records(&mut page, &ledger);
        supervisor.write_meters(&mut page);
        page.finish()
    })
}

fn daemon(page: &mut Page, started_ms: i64) {
    page.family("staithe_build_info", Kind::Gauge, "Always 1; the version is its label.")
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.family("staithe_start_time_seconds", Kind::Gauge, "When the daemon started, Unix time.")
        .decimal(&[], Duration::from_millis(u64::try_from(started_ms).unwrap_or(0)).as_secs_f64());
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

fn records(page: &mut Page, ledger: &HostLedger) {
    let (health, report) = (ledger.writer.health(), ledger.report());
    let since = |at_ms: i64| Duration::from_millis(u64::try_from(stdx::clock::unix_ms() - at_ms).unwrap_or(0));
    page.family("staithe_ledger_entries", Kind::Gauge, "Entries of the ledger.").sample(&[], health.size);
    page.family("staithe_ledger_appended_total", Kind::Counter, "Entries that this daemon wrote.")
        .sample(&[], health.appended);
    page.family("staithe_ledger_refused_total", Kind::Counter, "Entries that could not be written.")
        .sample(&[], health.refused);
    page.family("staithe_ledger_refusing", Kind::Gauge, "1 while calls are refused for the sake of the ledger.")
        .sample(&[], u64::from(report.refusing.is_some()));
    page.family("staithe_ledger_commit_seconds", Kind::Histogram, "What the disk took to make entries durable.")
        .histogram(&[], ledger.writer.commits());
    let mut family =
        page.family("staithe_ledger_checkpoint_age_seconds", Kind::Gauge, "Since the latest checkpoint was signed.");
    if let Some(at) = report.signed_at_ms {
        family.decimal(&[], since(at).as_secs_f64());
    }
    let mut family = page.family(
        "staithe_ledger_witness_age_seconds",
        Kind::Gauge,
        "Since a quorum of witnesses cosigned a checkpoint; nothing before the first, or without witnesses.",
    );
    if let Some(age) = report.witnesses.as_ref().and_then(|witnesses| witnesses.age_ms) {
        family.decimal(&[], Duration::from_millis(age).as_secs_f64());
    }
    let stale = "1 while no quorum of witnesses has cosigned for `ledger.stale_after`, or none ever has; only where witnesses are asked.";
    let mut family = page.family("staithe_ledger_witness_stale", Kind::Gauge, stale);
    if let Some(witnesses) = &report.witnesses {
        family.sample(&[], u64::from(witnesses.stale));
    }
    let alarm = report.witnesses.is_some_and(|witnesses| witnesses.alarm);
    page.family("staithe_ledger_alarm", Kind::Gauge, "1 while a witness saw more of the ledger, or another history.")
        .sample(&[], u64::from(alarm));
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
