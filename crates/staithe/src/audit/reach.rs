//! Where in the ledger a time is.

use super::own;
use crate::cli::Point;
use ledger::Reader;
use model::Problem;
use serde_json::Value;

/// The index that is meant. Of a time: the first entry of that time or later, as the clock of the host went; where that was set
/// back, an entry near it.
pub(super) fn index(reader: &Reader, point: Point) -> Result<u64, Problem> {
    let wanted = match point {
        Point::Index(index) => return Ok(index),
        Point::Time(ms) => ms,
    };
    let (mut low, mut high) = (reader.view().first(), reader.view().size());
    while low < high {
        let middle = low + (high - low) / 2;
        let record: Value = serde_json::from_slice(&own::entry(reader, middle)?).unwrap_or(Value::Null);
        let ms = record.get("ms").and_then(Value::as_i64).unwrap_or(i64::MIN);
        if ms < wanted {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}
