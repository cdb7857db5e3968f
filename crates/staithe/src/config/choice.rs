//! Keys that take one of a few words.

use super::{LedgerContent, LedgerMode, LedgerPublic, LogFormat, OnFull, RequireWitness};

/// A value that has a word.
trait Choice: Copy + PartialEq + 'static {
    /// Each value with its word.
    const ALL: &'static [(Self, &'static str)];
}

/// The same for whoever does not know which value it is.
pub(super) trait Pick {
    /// Takes the value of a word.
    fn pick(&mut self, word: Option<&str>) -> Result<(), String>;
    /// The word of the value.
    fn word(&self) -> &'static str;
}

impl<T: Choice> Pick for T {
    fn pick(&mut self, word: Option<&str>) -> Result<(), String> {
        let found = T::ALL.iter().find(|(_, known)| Some(*known) == word);
        *self = found.map(|(value, _)| *value).ok_or_else(|| {
            let words: Vec<String> = T::ALL.iter().map(|(_, word)| format!("\"{word}\"")).collect();
            format!("must be {}", words.join(" or "))
        })?;
        Ok(())
    }

    fn word(&self) -> &'static str {
        T::ALL.iter().find(|(value, _)| value == self).map_or("", |(_, word)| word)
    }
}

impl std::str::FromStr for LedgerMode {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let mut mode = Self::Balanced;
        mode.pick(Some(word)).map(|()| mode)
    }
}

impl Choice for LogFormat {
    const ALL: &'static [(Self, &'static str)] = &[(Self::Text, "text"), (Self::Json, "json")];
}

impl Choice for LedgerMode {
    const ALL: &'static [(Self, &'static str)] =
        &[(Self::Balanced, "balanced"), (Self::Strict, "strict"), (Self::Async, "async"), (Self::Off, "off")];
}

impl Choice for OnFull {
    const ALL: &'static [(Self, &'static str)] = &[(Self::Deny, "deny"), (Self::Continue, "continue")];
}

impl Choice for LedgerContent {
    const ALL: &'static [(Self, &'static str)] =
        &[(Self::Nothing, "nothing"), (Self::Redacted, "redacted"), (Self::Full, "full")];
}

impl Choice for RequireWitness {
    const ALL: &'static [(Self, &'static str)] = &[(Self::Warn, "warn"), (Self::Refuse, "refuse")];
}

impl Choice for LedgerPublic {
    const ALL: &'static [(Self, &'static str)] = &[(Self::Nothing, "nothing"), (Self::Hashes, "hashes")];
}
