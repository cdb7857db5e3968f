//! Sizes and times as people write them: `"16 MiB"`, `"10 s"`. One way to read and to show them, in every file and flag.

use std::time::Duration;

const BYTE_UNITS: [(&str, u64); 5] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1), ("", 1)];
const TIME_UNITS: [(&[&str], u64); 4] = [(&["h"], 3_600_000), (&["min", "m"], 60_000), (&["s"], 1000), (&["ms"], 1)];

/// Bytes, above 0: a number, or a number with `KiB`, `MiB`, `GiB`.
pub fn size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let unit = BYTE_UNITS.iter().find(|(name, _)| *name == text[digits..].trim());
    let size = unit.and_then(|(_, unit)| text[..digits].parse::<u64>().ok()?.checked_mul(*unit));
    size.filter(|n| *n > 0)
}

/// A time above 0 and below a century, with its unit: `ms`, `s`, `min`, `h`.
pub fn time(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let unit = TIME_UNITS.iter().find(|(names, _)| names.contains(&text[digits..].trim()));
    let ms = unit.and_then(|(_, unit)| text[..digits].parse::<u64>().ok()?.checked_mul(*unit));
    // A century: far above every use, far below what a clock can add.
    ms.filter(|ms| (1..3_155_760_000_000).contains(ms)).map(Duration::from_millis)
}

/// Bytes in the largest unit that says them exactly; [`size`] reads it back.
pub fn show_size(bytes: u64) -> String {
    let unit = BYTE_UNITS.iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{bytes} B"), |(name, unit)| format!("{} {name}", bytes / unit))
}

/// Milliseconds in the largest unit that says them exactly; [`time`] reads it back.
pub fn show_time(time: Duration) -> String {
    let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let unit = TIME_UNITS.iter().find(|(_, unit)| ms >= *unit && ms.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{ms} ms"), |(names, unit)| format!("{} {}", ms / unit, names[0]))
}

/// A time as a person says it: `250 ms`, `12 s`, `3 min 45 s`, `2 h 5 min`.
pub fn about(time: Duration) -> String {
    let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    if ms < 1000 {
        return format!("{ms} ms");
    }
    let seconds = ms.saturating_add(500) / 1000;
    let (large, small, names) = match seconds {
        0..60 => return format!("{seconds} s"),
        60..3600 => (seconds / 60, seconds % 60, ["min", "s"]),
        _ => {
            let minutes = (seconds + 30) / 60;
            (minutes / 60, minutes % 60, ["h", "min"])
        }
    };
    let rest = if small == 0 { String::new() } else { format!(" {small} {}", names[1]) };
    format!("{large} {}{rest}", names[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_reads_back_the_same() {
        for bytes in [1, 1023, 1024, 1 << 20, (1 << 20) + 1, 3 << 30] {
            assert_eq!(size(&show_size(bytes)), Some(bytes));
        }
        for ms in [1, 999, 1000, 60_000, 61_000, 7_200_000] {
            assert_eq!(time(&show_time(Duration::from_millis(ms))), Some(Duration::from_millis(ms)));
        }
        for wrong in ["", "0", "-1", "5 parrots", "1.5 GiB", "99999999999999 GiB", "512 mb"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
        for wrong in ["", "5", "0 s", "1 d", "99999999 h"] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_time_is_said_as_a_person_would() {
        for (ms, said) in [
            (0, "0 ms"),
            (250, "250 ms"),
            (999, "999 ms"),
            (1000, "1 s"),
            (12_400, "12 s"),
            (59_600, "1 min"),
            (225_507, "3 min 46 s"),
            (225_000, "3 min 45 s"),
            (3_599_900, "1 h"),
            (7_500_000, "2 h 5 min"),
            (7_529_000, "2 h 5 min"),
        ] {
            assert_eq!(about(Duration::from_millis(ms)), said, "{ms}");
        }
    }
}
