//! The headers that every request to a remote server carries, from a file that only its owner can read. Read at each
//! start, kept in memory, never shown.

use super::failure::BadHeaders;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Largest file, bytes. Servers refuse heads that are larger anyway.
const MOST_BYTES: u64 = 16 << 10;
/// What the protocol decides, or would break a connection.
const OURS: [&str; 14] = [
    "accept",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "last-event-id",
    "mcp-session-id",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "mcp-protocol-version",
];

/// Secret headers.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    headers: HeaderMap,
}

impl Credentials {
    /// Reads `Name: value` lines. Empty lines and those that begin with `#` do not count.
    pub(crate) fn read(path: &Path) -> Result<Self, BadHeaders> {
        let unreadable = |error| BadHeaders::Unreadable(path.to_owned(), error);
        // Without waiting for a writer, should it be a pipe.
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options().read(true).custom_flags(nonblocking).open(path).map_err(unreadable)?;
        let found = file.metadata().map_err(unreadable)?;
        if !found.is_file() {
            return Err(BadHeaders::NoFile(path.to_owned()));
        }
        if found.mode() & 0o077 != 0 {
            return Err(BadHeaders::Open(path.to_owned()));
        }
        let mut text = String::new();
        file.take(MOST_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > MOST_BYTES {
            return Err(BadHeaders::TooLong { path: path.to_owned(), limit: MOST_BYTES });
        }
        Ok(Self { headers: parse(path, &text)? })
    }

    /// Adds them to a request's.
    pub(crate) fn add_to(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.headers {
            headers.append(name.clone(), value.clone());
        }
    }

    /// `text` without the values, should a stranger have sent one back to us.
    pub(crate) fn redact(&self, text: &str) -> String {
        let mut out = text.to_owned();
        let values = self.headers.values().filter_map(|value| std::str::from_utf8(value.as_bytes()).ok());
        // The last word too: of `Bearer x`, `x` is the secret.
        for secret in values.flat_map(|value| [Some(value), value.rsplit(' ').next()]).flatten() {
            if secret.len() >= 4 && out.contains(secret) {
                out = out.replace(secret, "…");
            }
        }
        out
    }
}

fn parse(path: &Path, text: &str) -> Result<HeaderMap, BadHeaders> {
    let mut headers = HeaderMap::new();
    for (index, line) in text.lines().enumerate() {
        let wrong = || BadHeaders::Line { path: path.to_owned(), line: index + 1 };
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name: HeaderName = name.parse().map_err(|_| wrong())?;
        if OURS.contains(&name.as_str()) {
            return Err(BadHeaders::Ours { path: path.to_owned(), line: index + 1 });
        }
        let mut value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({} headers)", self.headers.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &tempfile::TempDir, text: &str, mode: u32) -> std::path::PathBuf {
        let path = dir.path().join("headers");
        let _ = std::fs::remove_file(&path);
        stdx::durable::write_file(&path, text.as_bytes(), 0o600).unwrap();
        // Whatever the umask of the test.
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn headers_are_read_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let text = "# for the far server\nAuthorization: Bearer hunter2-secret\r\n\nX-Key:  a b \n";
        let credentials = Credentials::read(&file(&dir, text, 0o600)).unwrap();
        let mut headers = HeaderMap::new();
        credentials.add_to(&mut headers);
        assert_eq!(headers["authorization"], "Bearer hunter2-secret");
        assert_eq!(headers["x-key"], "a b");
        assert!(!format!("{credentials:?} {headers:?}").contains("hunter2"));
        assert_eq!(credentials.redact("bad token hunter2-secret!"), "bad token …!");
    }

    #[test]
    fn a_file_that_others_can_read_or_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o640, 0o604, 0o644, 0o620] {
            let refused = Credentials::read(&file(&dir, "A: b", mode)).unwrap_err();
            assert!(matches!(refused, BadHeaders::Open(_)), "{refused}");
        }
        assert!(matches!(Credentials::read(dir.path()), Err(BadHeaders::NoFile(_))));
        assert!(matches!(Credentials::read(&dir.path().join("none")), Err(BadHeaders::Unreadable(..))));
        let long = format!("A: {}", "x".repeat(20_000));
        assert!(matches!(Credentials::read(&file(&dir, &long, 0o600)), Err(BadHeaders::TooLong { .. })));
    }

    #[test]
    fn a_bad_line_is_named_by_its_number_alone() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["Authorization hunter2", "A: b\n: hunter2", "A: b\nA B: hunter2", "X: hunter2\u{1}"] {
            let refused = Credentials::read(&file(&dir, text, 0o600)).unwrap_err();
            assert!(
                matches!(refused, BadHeaders::Line { .. }) && !refused.to_string().contains("hunter2"),
                "{refused}"
            );
        }
        for ours in ["Host: x", "content-length: 4", "Mcp-Session-Id: x"] {
            assert!(matches!(Credentials::read(&file(&dir, ours, 0o600)), Err(BadHeaders::Ours { line: 1, .. })));
        }
    }
}
