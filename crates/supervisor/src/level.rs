//! Severity of log messages (RFC 5424 names, as MCP uses them).

/// A severity; greater is graver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    Debug,
    Info,
    Notice,
    Warning,
    Error,
    Critical,
    Alert,
    Emergency,
}

impl Level {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Debug, "debug"),
        (Self::Info, "info"),
        (Self::Notice, "notice"),
        (Self::Warning, "warning"),
        (Self::Error, "error"),
        (Self::Critical, "critical"),
        (Self::Alert, "alert"),
        (Self::Emergency, "emergency"),
    ];

    /// The severity with exactly this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, known)| *known == name).map(|(level, _)| level)
    }

    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        Self::ALL.into_iter().find(|(level, _)| *level == self).map_or("info", |(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::Level;

    #[test]
    fn graver_is_greater_and_names_round_trip() {
        assert!(Level::Error > Level::Info);
        assert!(Level::ALL.iter().all(|(level, name)| Level::parse(name) == Some(*level) && level.as_str() == *name));
        assert_eq!(Level::parse("Info"), None);
    }
}
