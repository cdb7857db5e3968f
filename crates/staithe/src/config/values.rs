//! How values of `staithe.toml` are read and shown: addresses, lists, sizes, times.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use toml::de::DeValue;

pub(super) fn words<'a>(given: &'a DeValue<'_>, otherwise: &str) -> Result<&'a str, String> {
    given.as_str().filter(|text| !text.is_empty()).ok_or_else(|| otherwise.to_owned())
}

pub(super) fn address(given: &DeValue<'_>) -> Result<SocketAddr, String> {
    let wanted = "must be an IP address and a port in quotes, like \"127.0.0.1:8420\"";
    words(given, wanted)?.parse().map_err(|_| wanted.to_owned())
}

/// An http or https URL without user, path, query or fragment; a `/` at its end is dropped.
pub(super) fn base_url(text: &str) -> Result<String, String> {
    let uri: http::Uri = text.trim_end_matches('/').parse().map_err(|_| "is not a URL".to_owned())?;
    let plain = matches!(uri.scheme_str(), Some("http" | "https")) && uri.path() == "/" && uri.query().is_none();
    let host = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    if !plain || !host || text.contains('#') {
        return Err("must be http:// or https:// with a host and nothing behind it, like \"https://mcp.example.com\""
            .to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

pub(super) fn directory(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err("must be an absolute path".to_owned()) }
}

pub(super) fn list(given: &DeValue<'_>) -> Result<Vec<String>, String> {
    let wanted = || "must be a list of texts: [\"a\", \"b\"]".to_owned();
    let items = given.as_array().ok_or_else(wanted)?;
    items.iter().map(|item| item.get_ref().as_str().map(str::to_owned).ok_or_else(wanted)).collect()
}

pub(super) fn filter(text: &str) -> Result<String, String> {
    let read = tracing_subscriber::filter::EnvFilter::builder().parse(text);
    read.map(|_| text.to_owned())
        .map_err(|_| "must be a level (info) or a filter (info,staithe_gateway=debug)".to_owned())
}

pub(super) fn count(given: &DeValue<'_>) -> Result<u64, String> {
    let number = given.as_integer().and_then(|n| u64::from_str_radix(n.as_str(), n.radix()).ok());
    number.filter(|n| *n > 0).ok_or_else(|| "must be a whole number above 0".to_owned())
}

pub(super) fn bytes(given: &DeValue<'_>) -> Result<u64, String> {
    let Some(text) = given.as_str() else {
        return count(given).map_err(|_| "must be a size: a number of bytes, or like \"16 MiB\"".to_owned());
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let unit = BYTE_UNITS.iter().find(|(name, _)| *name == text[digits..].trim());
    let size = unit.and_then(|(_, unit)| text[..digits].parse::<u64>().ok()?.checked_mul(*unit));
    size.filter(|n| *n > 0).ok_or_else(|| "must be a size: a number of bytes, or like \"16 MiB\"".to_owned())
}

pub(super) fn time(given: &DeValue<'_>) -> Result<Duration, String> {
    let wanted = || "must be a time above 0 like \"500 ms\", \"10 s\", \"15 min\" or \"1 h\"".to_owned();
    let text = given.as_str().ok_or_else(wanted)?;
    duration(text).ok_or_else(wanted)
}

/// A time above 0 with its unit.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let unit = TIME_UNITS.iter().find(|(names, _)| names.contains(&text[digits..].trim()));
    let ms = unit.and_then(|(_, unit)| text[..digits].parse::<u64>().ok()?.checked_mul(*unit));
    // A century: far above every use, far below what a clock can add.
    ms.filter(|ms| (1..3_155_760_000_000).contains(ms)).map(Duration::from_millis)
}

const BYTE_UNITS: [(&str, u64); 5] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1), ("", 1)];
const TIME_UNITS: [(&[&str], u64); 4] = [(&["h"], 3_600_000), (&["min", "m"], 60_000), (&["s"], 1000), (&["ms"], 1)];

pub(super) fn show_bytes(bytes: u64) -> String {
    let unit = BYTE_UNITS.iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{bytes} B"), |(name, unit)| format!("{} {name}", bytes / unit))
}

pub(super) fn show_time(time: Duration) -> String {
    let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let unit = TIME_UNITS.iter().find(|(_, unit)| ms >= *unit && ms.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{ms} ms"), |(names, unit)| format!("{} {}", ms / unit, names[0]))
}

pub(super) fn fit<T: TryFrom<u64>>(number: u64) -> Result<T, String> {
    T::try_from(number).map_err(|_| "is too large".to_owned())
}
