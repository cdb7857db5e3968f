//! Protocol eras and revisions.

/// How a peer is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Era {
    /// `initialize` handshake, revisions up to 2025-11-25.
    Legacy,
    /// Per-request metadata, 2026-07-28.
    Modern,
}

/// A published protocol revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Revision {
    /// 2024-11-05.
    V20241105,
    /// 2025-03-26.
    V20250326,
    /// 2025-06-18.
    V20250618,
    /// 2025-11-25.
    V20251125,
    /// 2026-07-28.
    V20260728,
}

impl Revision {
    /// Every revision with an `initialize` handshake, oldest first.
    pub const LEGACY: [Self; 4] = [Self::V20241105, Self::V20250326, Self::V20250618, Self::V20251125];
    /// The newest of them: what staithe offers a legacy server, and answers to an unknown request (E94).
    pub const LATEST_LEGACY: Self = Self::V20251125;
    /// The one stateless revision.
    pub const MODERN: Self = Self::V20260728;

    /// As it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V20241105 => "2024-11-05",
            Self::V20250326 => "2025-03-26",
            Self::V20250618 => "2025-06-18",
            Self::V20251125 => "2025-11-25",
            Self::V20260728 => "2026-07-28",
        }
    }

    /// The revision with exactly this spelling.
    pub fn parse(text: &str) -> Option<Self> {
        Self::LEGACY.into_iter().chain([Self::MODERN]).find(|r| r.as_str() == text)
    }

    /// Which era it belongs to.
    pub fn era(self) -> Era {
        if self == Self::MODERN { Era::Modern } else { Era::Legacy }
    }
}
