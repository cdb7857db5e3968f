//! What stands behind a server: a program of this machine, or a server that is reached over HTTP. Never both.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// What calls of a server are carried to.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum Target {
    /// A program that staithe starts and speaks to over its stdin and stdout.
    Program(Program),
    /// A server that runs elsewhere.
    Remote(Remote),
}

/// A program and how it is started.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Program {
    /// The program. Found through the host's `PATH` where it has no slash.
    pub command: String,
    /// Its arguments, passed as they are: no shell.
    pub args: Vec<String>,
    /// Environment on top of the short allow-list. Values may be secrets: never print them.
    pub env: BTreeMap<String, String>,
    /// Working directory; the server's own state directory where absent.
    pub cwd: Option<String>,
}

/// A remote server. Whoever holds one knows that no credential of it can cross a network in the clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    url: RemoteUrl,
    headers_file: Option<String>,
    allow_plain: bool,
}

/// An `http` or `https` address. Its query may hold a key, so `Display` and `Debug` leave the query out.
#[derive(Clone, PartialEq, Eq)]
pub struct RemoteUrl {
    text: String,
    /// Length of `scheme://authority`.
    origin: usize,
    loopback: bool,
}

/// Why a remote server cannot be hosted as it is described.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRemote {
    /// The address.
    #[error("its `url` is not usable: {0}")]
    Url(&'static str),
    /// Unencrypted, and not on this machine.
    #[error(
        "its `url` is plain http to another machine: use https, or set `allowPlain` to true if the network between is trusted"
    )]
    Plain,
    /// Credentials that anybody on the way could read.
    #[error("its `headersFile` would be sent over plain http to another machine: use https")]
    PlainCredentials,
    /// A relative path means something else for the daemon.
    #[error("its `headersFile` is not an absolute path")]
    HeadersFile,
}

/// The longest address, bytes.
const MAX_URL: usize = 2048;

impl Remote {
    /// Checks the rules: `allow_plain` lets plain http leave this machine, credentials never do.
    pub fn new(url: RemoteUrl, headers_file: Option<String>, allow_plain: bool) -> Result<Self, BadRemote> {
        if let Some(path) = &headers_file
            && (!Path::new(path).is_absolute() || path.contains('\0'))
        {
            return Err(BadRemote::HeadersFile);
        }
        if url.crosses_in_the_clear() {
            if headers_file.is_some() {
                return Err(BadRemote::PlainCredentials);
            }
            if !allow_plain {
                return Err(BadRemote::Plain);
            }
        }
        Ok(Self { url, headers_file, allow_plain })
    }

    /// Where it is.
    pub fn url(&self) -> &RemoteUrl {
        &self.url
    }

    /// The file with the headers that every request carries, `Name: value` lines. Absolute.
    pub fn headers_file(&self) -> Option<&str> {
        self.headers_file.as_deref()
    }
}

impl RemoteUrl {
    /// The whole address, query included: for requests, not for people.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `scheme://authority`.
    pub fn origin(&self) -> &str {
        &self.text[..self.origin]
    }

    fn crosses_in_the_clear(&self) -> bool {
        self.text.starts_with("http:") && !self.loopback
    }
}

impl FromStr for RemoteUrl {
    type Err = BadRemote;

    fn from_str(text: &str) -> Result<Self, BadRemote> {
        let refuse = |why| Err(BadRemote::Url(why));
        if text.len() > MAX_URL {
            return refuse("it is longer than 2048 bytes");
        }
        if !text.bytes().all(|b| b.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&b)) {
            return refuse("it has characters that must be percent-encoded in an address");
        }
        let Some((scheme, rest)) = text.split_once("://") else { return refuse("it has no scheme") };
        if scheme != "http" && scheme != "https" {
            return refuse("its scheme is neither http nor https");
        }
        if rest.contains('#') {
            return refuse("it has a fragment (#), which no server sees");
        }
        let authority = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
        if authority.contains('@') {
            return refuse("it has a user name or password; put credentials into a `headersFile`");
        }
        let Some(host) = host(authority) else { return refuse("its host or port is not valid") };
        let origin = scheme.len() + 3 + authority.len();
        Ok(Self { text: text.to_owned(), origin, loopback: is_loopback(host) })
    }
}

/// The host of an authority, if host and port are well-formed.
fn host(authority: &str) -> Option<&str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            (address, port)
        }
        None => {
            let end = authority.find(':').unwrap_or(authority.len());
            let host = &authority[..end];
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
            if host.is_empty() || host.len() > 253 || !host.bytes().all(plain) {
                return None;
            }
            (host, &authority[end..])
        }
    };
    let port_fits = port.is_empty()
        || port.strip_prefix(':').is_some_and(|port| {
            port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
    port_fits.then_some(host)
}

/// Names that can only mean this machine. Another name may resolve to it today and elsewhere tomorrow.
fn is_loopback(host: &str) -> bool {
    let address = host.parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text.split_once('?') {
            Some((shown, _)) => write!(f, "{shown}?…"),
            None => f.write_str(&self.text),
        }
    }
}

impl fmt::Debug for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program(program) => fmt::Debug::fmt(program, f),
            Self::Remote(remote) => fmt::Debug::fmt(remote, f),
        }
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program")
            .field("command", &self.command)
            .field("args", &self.args)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("cwd", &self.cwd)
            .finish()
    }
}

/// As a description is written down. Which members there are decides what it is.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Written {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    command: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    args: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    env: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cwd: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(default, rename = "headersFile", skip_serializing_if = "Option::is_none")]
    headers_file: Option<String>,
    #[serde(default, rename = "allowPlain", skip_serializing_if = "Option::is_none")]
    allow_plain: Option<bool>,
}

/// Why a written description is none.
#[derive(Debug, thiserror::Error)]
enum BadTarget {
    #[error("a server has either a `command` or a `url`")]
    Neither,
    #[error("a server has either a `command` or a `url`, not both")]
    Both,
    #[error(transparent)]
    Remote(#[from] BadRemote),
}

impl TryFrom<Written> for Target {
    type Error = BadTarget;

    fn try_from(written: Written) -> Result<Self, BadTarget> {
        let Written { command, args, env, cwd, url, headers_file, allow_plain } = written;
        match (command, url) {
            (None, None) => Err(BadTarget::Neither),
            (Some(_), Some(_)) => Err(BadTarget::Both),
            (Some(command), None) => {
                let (args, env) = (args.unwrap_or_default(), env.unwrap_or_default());
                Ok(Self::Program(Program { command, args, env, cwd }))
            }
            (None, Some(url)) => {
                Ok(Self::Remote(Remote::new(url.parse()?, headers_file, allow_plain.unwrap_or(false))?))
            }
        }
    }
}

impl From<Target> for Written {
    fn from(target: Target) -> Self {
        match target {
            Target::Program(Program { command, args, env, cwd }) => {
                Self { command: Some(command), args: Some(args), env: Some(env), cwd, ..Self::default() }
            }
            Target::Remote(Remote { url, headers_file, allow_plain }) => {
                Self { url: Some(url.text), headers_file, allow_plain: allow_plain.then_some(true), ..Self::default() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(url: &str, headers: Option<&str>, plain: bool) -> Result<Remote, BadRemote> {
        Remote::new(url.parse()?, headers.map(str::to_owned), plain)
    }

    #[test]
    fn addresses_that_are_taken_and_their_origins() {
        for (url, origin) in [
            ("https://mcp.example.com/mcp", "https://mcp.example.com"),
            ("https://mcp.example.com", "https://mcp.example.com"),
            ("https://h:8443/a/b?key=1", "https://h:8443"),
            ("https://h?key=1/2", "https://h"),
            ("http://127.0.0.1:1/x", "http://127.0.0.1:1"),
            ("http://[::1]:80/x", "http://[::1]:80"),
        ] {
            assert_eq!(remote(url, None, false).unwrap().url().origin(), origin, "{url}");
        }
    }

    #[test]
    fn addresses_that_are_not() {
        let long = format!("https://h/{}", "x".repeat(MAX_URL));
        for url in [
            "",
            "h",
            "/mcp",
            "ftp://h/x",
            "file:///etc/passwd",
            "javascript://h",
            "https://",
            "https:///x",
            "https://u:p@h/",
            "https://u@h",
            "https://h/#f",
            "https://h /",
            "https://h/\u{e9}",
            "https://h:0/",
            "https://h:65536/",
            "https://h:8a/",
            "https://h:+1/",
            "https://[::1/",
            "https://[x]/",
            "https://a\\@b/",
            "https://h/\r\nx: y",
            &long,
        ] {
            assert!(matches!(url.parse::<RemoteUrl>(), Err(BadRemote::Url(_))), "{url}");
        }
    }

    #[test]
    fn credentials_never_cross_in_the_clear() {
        let file = Some("/etc/x");
        assert_eq!(remote("http://10.0.0.1/x", None, false), Err(BadRemote::Plain));
        assert!(remote("http://10.0.0.1/x", None, true).is_ok());
        assert_eq!(remote("http://10.0.0.1/x", file, true), Err(BadRemote::PlainCredentials));
        for other in
            ["http://localhost.example/x", "http://127.example/x", "http://0.0.0.0/x", "http://[::ffff:8.8.8.8]/x"]
        {
            assert_eq!(remote(other, file, true), Err(BadRemote::PlainCredentials), "{other}");
        }
        for own in ["http://localhost:3/x", "http://127.9.9.9/x", "http://[::1]/x", "https://10.0.0.1/x"] {
            assert!(remote(own, file, false).is_ok(), "{own}");
        }
        assert_eq!(remote("https://h", Some("secrets"), false), Err(BadRemote::HeadersFile));
    }

    #[test]
    fn a_query_is_never_shown() {
        let remote = remote("https://h/x?api_key=hunter2", None, false).unwrap();
        assert_eq!(format!("{} {remote:?}", remote.url()).matches("hunter2").count(), 0);
        assert!(remote.url().as_str().ends_with("hunter2"));
    }
}
