//! The isolation key: what must not share a process.

use bytes::Bytes;
use model::{Mode, Principal};
use serde::{Deserialize, Serialize};
use std::fmt;
use wire::era::Era;

/// Who asks for an instance, and as what.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who acts.
    pub principal: Principal,
    /// The OAuth client, empty where there is none.
    pub client: String,
    /// The legacy session, where there is one.
    pub session: Option<String>,
    /// What the client can do, as canonical JSON: what a legacy process is told once (`{}` for modern callers).
    pub profile: Bytes,
    /// Raw `clientInfo`, passed on where the process belongs to one session alone.
    pub client_info: Option<Bytes>,
}

/// Names one process of a server. Two callers with equal keys share it; nobody else does.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub(crate) era: Era,
    pub(crate) holder: Holder,
    pub(crate) profile: Bytes,
}

/// Whose a process is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Holder {
    Everyone,
    Principal {
        principal: Principal,
        client: String,
    },
    Session {
        principal: Principal,
        id: String,
    },
    /// A place in an exclusive pool.
    Pool {
        principal: Principal,
        client: String,
        place: u32,
    },
}

/// What a process is told that serves many clients with unlike abilities.
pub(crate) const NOTHING: Bytes = Bytes::from_static(b"{}");

impl Key {
    /// The key of `caller` under `mode`, for a process that is spoken to in `era`. A modern process is told the
    /// abilities with each request, so they separate nothing there.
    pub(crate) fn of(caller: &Caller, mode: Mode, era: Era) -> Self {
        let holder = match (mode, &caller.session) {
            (Mode::Shared, _) => Holder::Everyone,
            (Mode::PerSession, Some(session)) => {
                Holder::Session { principal: caller.principal.clone(), id: session.clone() }
            }
            (Mode::Exclusive, _) => {
                Holder::Pool { principal: caller.principal.clone(), client: caller.client.clone(), place: 0 }
            }
            (Mode::PerPrincipal | Mode::PerSession, _) => {
                Holder::Principal { principal: caller.principal.clone(), client: caller.client.clone() }
            }
        };
        let told_once = era == Era::Legacy && mode != Mode::Shared;
        Self { era, holder, profile: if told_once { caller.profile.clone() } else { NOTHING } }
    }

    /// Whose the process is; `None` where it is everybody's.
    pub(crate) fn principal(&self) -> Option<&Principal> {
        match &self.holder {
            Holder::Everyone => None,
            Holder::Principal { principal, .. }
            | Holder::Session { principal, .. }
            | Holder::Pool { principal, .. } => Some(principal),
        }
    }

    /// The same pool, another place.
    pub(crate) fn at_place(&self, number: u32) -> Self {
        let mut key = self.clone();
        if let Holder::Pool { place, .. } = &mut key.holder {
            *place = number;
        }
        key
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.holder {
            Holder::Everyone => write!(f, "shared")?,
            Holder::Principal { principal, .. } => write!(f, "principal={principal}")?,
            Holder::Session { id, .. } => write!(f, "session={}…", id.get(..6).unwrap_or_default())?,
            Holder::Pool { principal, place, .. } => write!(f, "principal={principal} place={place}")?,
        }
        if self.profile != NOTHING {
            let text = String::from_utf8_lossy(&self.profile);
            write!(f, " caps={}", text.chars().take(120).collect::<String>())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(principal: &str, session: Option<&str>, profile: &'static str) -> Caller {
        Caller {
            principal: principal.parse().unwrap(),
            client: String::new(),
            session: session.map(str::to_owned),
            profile: Bytes::from_static(profile.as_bytes()),
            client_info: None,
        }
    }

    #[test]
    fn only_equal_callers_share() {
        let legacy = |c: &Caller, mode| Key::of(c, mode, Era::Legacy);
        let (ann, bob) = (caller("ann", Some("s1"), "{}"), caller("bob", Some("s2"), "{}"));
        let ann_again = caller("ann", Some("s3"), "{}");
        let ann_asks = caller("ann", Some("s4"), r#"{"sampling":{}}"#);
        for mode in [Mode::PerPrincipal, Mode::PerSession, Mode::Exclusive] {
            assert_ne!(legacy(&ann, mode), legacy(&bob, mode), "{mode}");
        }
        assert_eq!(legacy(&ann, Mode::PerPrincipal), legacy(&ann_again, Mode::PerPrincipal));
        assert_ne!(legacy(&ann, Mode::PerPrincipal), legacy(&ann_asks, Mode::PerPrincipal));
        assert_ne!(legacy(&ann, Mode::PerSession), legacy(&ann_again, Mode::PerSession));
        assert_eq!(legacy(&ann_asks, Mode::Shared), legacy(&bob, Mode::Shared));
        assert_ne!(legacy(&ann, Mode::Shared), Key::of(&ann, Mode::Shared, Era::Modern));
    }
}
