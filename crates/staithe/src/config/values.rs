//! How values of `staithe.toml` are read and shown: addresses, lists, sizes, times.

use model::measure::{self, size};
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
    size(text).ok_or_else(|| "must be a size: a number of bytes, or like \"16 MiB\"".to_owned())
}

pub(super) fn time(given: &DeValue<'_>) -> Result<Duration, String> {
    let wanted = || "must be a time above 0 like \"500 ms\", \"10 s\", \"15 min\" or \"1 h\"".to_owned();
    let text = given.as_str().ok_or_else(wanted)?;
    measure::time(text).ok_or_else(wanted)
}

/// A text or a number as a person wrote it.
pub(super) fn plain(given: &DeValue<'_>) -> String {
    match (given.as_str(), given.as_integer()) {
        (Some(text), _) => text.to_owned(),
        (None, Some(number)) => number.as_str().to_owned(),
        (None, None) => String::new(),
    }
}

pub(super) fn fit<T: TryFrom<u64>>(number: u64) -> Result<T, String> {
    T::try_from(number).map_err(|_| "is too large".to_owned())
}
