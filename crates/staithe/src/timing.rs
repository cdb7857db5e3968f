//! Where the time of one call went, as the host says it in `Server-Timing`: read, and shown to people and programs.

use crate::render;
use serde_json::{Map, Value};
use std::fmt::Write as _;

/// Characters of the longest bar.
const BAR: f64 = 40.0;
/// The name of the sum.
const TOTAL: &str = "total";

/// Stages with their milliseconds, in order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Timing(Vec<(String, f64)>);

impl Timing {
    /// From `name;dur=ms, …`; `None` where nothing is measured.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let stage = |part: &str| {
            let (name, ms) = part.trim().split_once(";dur=")?;
            let ms = ms.parse::<f64>().ok().filter(|ms| ms.is_finite() && *ms >= 0.0)?;
            Some((name.to_owned(), ms))
        };
        let stages: Vec<(String, f64)> = text.split(',').filter_map(stage).collect();
        (!stages.is_empty()).then_some(Self(stages))
    }

    /// One row for each stage, its bar as long as its part of the whole.
    pub(crate) fn table(&self) -> String {
        let whole = self.0.iter().map(|(_, ms)| *ms).fold(0.0, f64::max);
        let row = |(name, ms): &(String, f64)| {
            let mut bar = String::new();
            let mut filled = 0.0;
            while name != TOTAL && whole > 0.0 && filled + 0.5 <= ms / whole * BAR {
                bar.push('#');
                filled += 1.0;
            }
            let mut shown = String::new();
            let _ = write!(shown, "{ms:>10.3}");
            vec![render::clean(name), shown, bar]
        };
        render::table(&["STAGE", "        MS", ""], self.0.iter().map(row).collect())
    }

    /// `{"admission": ms, …}`.
    pub(crate) fn json(&self) -> Value {
        Value::Object(self.0.iter().map(|(name, ms)| (name.clone(), Value::from(*ms))).collect::<Map<_, _>>())
    }
}

#[cfg(test)]
mod tests {
    use super::Timing;
    use serde_json::json;

    #[test]
    fn what_the_host_says_reads_well() {
        let timing =
            Timing::parse("admission;dur=0.031, server;dur=30.000, delivery;dur=9.969, total;dur=40.000").unwrap();
        let table = timing.table();
        let bars: Vec<usize> = table.lines().skip(1).map(|line| line.matches('#').count()).collect();
        assert_eq!(bars, [0, 30, 10, 0], "{table}");
        assert!(table.contains("admission       0.031"), "{table}");
        assert_eq!(timing.json()["server"], json!(30.0));
    }

    #[test]
    fn what_is_no_measurement_is_none() {
        for text in ["", "hello", "a;dur=x", "a;dur=-1", "a;dur=inf"] {
            assert_eq!(Timing::parse(text), None, "{text}");
        }
        assert!(Timing::parse("a;dur=0").unwrap().table().contains('a'));
    }
}
