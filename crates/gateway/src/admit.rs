//! The gate: Host, Origin, address and bearer token, in this order, before a byte of the body is read.

use crate::denied::Whose;
use crate::error::GateError;
use crate::listen::Host;
use crate::settings::{Auth, Settings};
use crate::timing::Arrival;
use http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue, ORIGIN};
use http::request::Parts;
use model::{Principal, ServerName};
use oauth::{Denied, Verified};
use std::sync::Arc;
use supervisor::ServerMeter;

/// Proof that a request may speak to a server as a principal. Made only by [`admit`].
#[derive(Clone, Debug)]
pub(crate) struct Admitted {
    requester: Arc<Requester>,
    arrival: Arrival,
    meter: Option<Arc<ServerMeter>>,
}

/// Who asks which server.
#[derive(Debug)]
pub(crate) struct Requester {
    server: ServerName,
    principal: Principal,
    token: Option<Verified>,
}

impl Requester {
    pub(crate) fn server(&self) -> &ServerName {
        &self.server
    }

    /// As the ledger is told of them.
    pub(crate) fn whose(&self) -> Whose {
        let token = self.token.as_ref().map(|token| token.token_id().to_owned());
        Whose { principal: self.principal.clone(), token }
    }
}

impl Admitted {
    /// What the caller showed; `None` where nobody is asked.
    pub(crate) fn token(&self) -> Option<&Verified> {
        self.requester.token.as_ref()
    }

    pub(crate) fn server(&self) -> &ServerName {
        &self.requester.server
    }

    pub(crate) fn principal(&self) -> &Principal {
        &self.requester.principal
    }

    /// Who asks, to be kept longer than the request.
    pub(crate) fn requester(&self) -> &Arc<Requester> {
        &self.requester
    }

    /// The same for a server that is hosted: its calls are counted there.
    pub(crate) fn counted(self, meter: &Arc<ServerMeter>) -> Self {
        Self { meter: Some(meter.clone()), ..self }
    }

    /// Where its calls are counted.
    pub(crate) fn meter(&self) -> Option<&Arc<ServerMeter>> {
        self.meter.as_ref()
    }

    /// When its request came, and what it wants to be told.
    pub(crate) fn arrival(&self) -> &Arrival {
        &self.arrival
    }
}

/// Host and Origin, for every method and path (E17–E19).
pub(crate) fn check_names(settings: &Settings, parts: &Parts) -> Result<(), GateError> {
    let (named, origin) = (only(parts, HOST, "Host")?, only(parts, ORIGIN, "Origin")?);
    let host = parts
        .uri
        .authority()
        .map(http::uri::Authority::as_str)
        .or_else(|| named.and_then(|value| value.to_str().ok()))
        .unwrap_or_default();
    if !host_allowed(settings, host) {
        return Err(GateError::Host(shown(host)));
    }
    match origin {
        None => Ok(()),
        Some(origin) => match origin.to_str() {
            Ok(origin) if origin_allowed(settings, origin) => Ok(()),
            _ => Err(GateError::Origin(shown(&String::from_utf8_lossy(origin.as_bytes())))),
        },
    }
}

/// The one value of a header. Two would let what stands in front of us judge one, and us the other.
fn only<'a>(parts: &'a Parts, name: HeaderName, shown: &'static str) -> Result<Option<&'a HeaderValue>, GateError> {
    let mut values = parts.headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() { Err(GateError::Repeated(shown)) } else { Ok(first) }
}

/// Who is calling which server.
pub(crate) fn admit(host: &Host, parts: &Parts, server: ServerName) -> Result<Admitted, GateError> {
    let arrival = Arrival::of(parts, &host.meters);
    let (principal, token) = match host.settings.auth {
        Auth::Open => (Principal::anonymous(), None),
        Auth::Required => {
            let bearer = bearer(parts)?;
            match host.authority.verify(bearer, &server) {
                Ok(verified) => (verified.principal().clone(), Some(verified)),
                Err(why) => {
                    tracing::info!(%server, reason = %why, "a token was refused");
                    let whose = host.authority.whose(bearer);
                    let whose = whose.map(|(principal, token)| Whose { principal, token: Some(token) });
                    return Err(GateError::BadToken { why, whose: whose.map(Box::new) });
                }
            }
        }
    };
    let requester = Arc::new(Requester { server, principal, token });
    Ok(Admitted { requester, arrival, meter: None })
}

/// Whether a request may read the whole ledger.
pub(crate) fn admit_audit(host: &Host, parts: &Parts) -> Result<(), GateError> {
    if host.settings.auth == Auth::Open {
        return Ok(());
    }
    match host.authority.verify_audit(bearer(parts)?) {
        Ok(_) => Ok(()),
        Err(denied) => {
            tracing::info!(reason = %denied, "a token was refused at the ledger");
            Err(if denied == Denied::WrongKind {
                GateError::NoAudit
            } else {
                GateError::BadToken { why: denied, whose: None }
            })
        }
    }
}

fn bearer(parts: &Parts) -> Result<&str, GateError> {
    let value = only(parts, AUTHORIZATION, "Authorization")?.ok_or(GateError::NoToken)?;
    let text = value.to_str().map_err(|_| GateError::BadToken { why: Denied::Malformed, whose: None })?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(GateError::NoToken),
    }
}

fn host_allowed(settings: &Settings, host: &str) -> bool {
    is_loopback(name_of(host))
        || settings.hosts.iter().any(|allowed| {
            allowed.eq_ignore_ascii_case(host) || (!has_port(allowed) && allowed.eq_ignore_ascii_case(name_of(host)))
        })
}

fn origin_allowed(settings: &Settings, origin: &str) -> bool {
    if settings.origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)) {
        return true;
    }
    let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    rest.is_some_and(|host| !host.contains(['/', '@']) && is_loopback(name_of(host)))
}

fn is_loopback(name: &str) -> bool {
    matches!(name, "127.0.0.1" | "[::1]") || name.eq_ignore_ascii_case("localhost")
}

fn has_port(host: &str) -> bool {
    name_of(host).len() != host.len()
}

/// `host` without its port.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

/// A stranger's text in an error: short, and nothing but visible ASCII.
fn shown(text: &str) -> String {
    text.chars().take(80).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            auth: Auth::Open,
            hosts: vec!["mcp.example.org".to_owned(), "box:8420".to_owned()],
            origins: vec!["https://app.example.org".to_owned()],
            limits: crate::Limits::default(),
            leaving: crate::pass::Leaving::default(),
            book: None,
            audit: None,
        }
    }

    #[test]
    fn e19_only_our_names_are_served() {
        let s = settings();
        for good in [
            "127.0.0.1:8420",
            "localhost",
            "LOCALHOST:1",
            "[::1]:8420",
            "mcp.example.org",
            "mcp.example.org:443",
            "box:8420",
        ] {
            assert!(host_allowed(&s, good), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example:80",
            "box:8421",
            "evil@127.0.0.1",
            "127.0.0.1:80:80",
        ] {
            assert!(!host_allowed(&s, bad), "{bad}");
        }
    }

    #[test]
    fn e18_foreign_pages_are_refused() {
        let s = settings();
        for good in ["http://localhost:6274", "http://127.0.0.1", "https://[::1]:3", "https://app.example.org"] {
            assert!(origin_allowed(&s, good), "{good}");
        }
        for bad in [
            "null",
            "http://evil.example",
            "http://localhost.evil.example",
            "http://app.example.org",
            "http://localhost@evil.example",
            "file://localhost",
            "http://localhost/x",
        ] {
            assert!(!origin_allowed(&s, bad), "{bad}");
        }
    }
}
