//! Counting, and the text that a scraper reads (Prometheus text format 0.0.4). Counting is atomics alone: no lock, no name
//! is looked up. Names and labels appear only when the page is written.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The `Content-Type` of a [`Page`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often something took how long.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds, microseconds, rising; what is longer goes into one more bucket.
    bounds: &'static [u64],
    buckets: Box<[AtomicU64]>,
    total_nanos: AtomicU64,
}

impl Histogram {
    /// With buckets up to each of `bounds` (microseconds, rising).
    pub fn new(bounds: &'static [u64]) -> Self {
        Self {
            bounds,
            buckets: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            total_nanos: AtomicU64::new(0),
        }
    }

    /// Counts one.
    pub fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let at = self.bounds.partition_point(|bound| bound.saturating_mul(1000) < nanos);
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
        self.total_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }
}

/// What kind of numbers a family holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// Comes and goes.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
}

/// A page while it is written.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

impl Page {
    /// Begins a family. Each has one place on the page. `help` is one line.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) -> Family<'_> {
        let word = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {word}\n");
        Family { name, text: &mut self.text }
    }

    /// The whole page.
    pub fn finish(self) -> String {
        self.text
    }
}

/// Labels of one sample: names with their values.
pub type Labels<'a> = &'a [(&'static str, &'a str)];

/// A family while its samples are written.
#[derive(Debug)]
pub struct Family<'a> {
    name: &'static str,
    text: &'a mut String,
}

impl Family<'_> {
    /// One whole number.
    pub fn sample(&mut self, labels: Labels<'_>, value: u64) -> &mut Self {
        self.line("", labels, None);
        let _ = writeln!(self.text, " {value}");
        self
    }

    /// One number with a fraction.
    pub fn decimal(&mut self, labels: Labels<'_>, value: f64) -> &mut Self {
        self.line("", labels, None);
        let _ = writeln!(self.text, " {value}");
        self
    }

    /// A histogram, in seconds. Its count is the sum of what its buckets were when they were read, so that the page never
    /// contradicts itself.
    pub fn histogram(&mut self, labels: Labels<'_>, histogram: &Histogram) -> &mut Self {
        let mut so_far = 0;
        for (at, bucket) in histogram.buckets.iter().enumerate() {
            so_far += bucket.load(Ordering::Relaxed);
            let bound = histogram.bounds.get(at).map_or_else(|| "+Inf".to_owned(), |micros| seconds(micros * 1000));
            self.line("_bucket", labels, Some(&bound));
            let _ = writeln!(self.text, " {so_far}");
        }
        self.line("_sum", labels, None);
        let _ = writeln!(self.text, " {}", seconds(histogram.total_nanos.load(Ordering::Relaxed)));
        self.line("_count", labels, None);
        let _ = writeln!(self.text, " {so_far}");
        self
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, bound: Option<&str>) {
        let _ = write!(self.text, "{}{suffix}", self.name);
        let all = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        let mut before = '{';
        for (name, value) in all {
            self.text.push(before);
            before = ',';
            let _ = write!(self.text, "{name}=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
        }
        if before == ',' {
            self.text.push('}');
        }
    }
}

/// Nanoseconds as a decimal number of seconds, exactly.
fn seconds(nanos: u64) -> String {
    let (whole, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    let text = format!("{whole}.{rest:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_as_the_format_says() {
        let histogram = Histogram::new(&[1000, 2_500_000]);
        for micros in [1000, 1001, 9_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let mut page = Page::default();
        page.family("a_total", Kind::Counter, "Help.").sample(&[("x", "q\"\\\n"), ("y", "")], 7).sample(&[], 0);
        page.family("b_seconds", Kind::Histogram, "More.").histogram(&[("x", "1")], &histogram);
        page.family("c", Kind::Gauge, "Last.").decimal(&[], 0.5);
        let expected = "# HELP a_total Help.\n# TYPE a_total counter\na_total{x=\"q\\\"\\\\\\n\",y=\"\"} 7\na_total 0\n\
            # HELP b_seconds More.\n# TYPE b_seconds histogram\nb_seconds_bucket{x=\"1\",le=\"0.001\"} 1\n\
            b_seconds_bucket{x=\"1\",le=\"2.5\"} 2\nb_seconds_bucket{x=\"1\",le=\"+Inf\"} 3\n\
            b_seconds_sum{x=\"1\"} 9.002001\nb_seconds_count{x=\"1\"} 3\n# HELP c Last.\n# TYPE c gauge\nc 0.5\n";
        assert_eq!(page.finish(), expected);
        assert_eq!(histogram.count(), 3);
    }
}
