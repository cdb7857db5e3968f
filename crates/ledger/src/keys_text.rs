//! The public keys of a log as text: what `vkeys` holds, and what people give to those who verify.
//!
//! One verifier key (C2SP signed-note) per line, the two of a pair one after another, the newest pair last. A line `until N` ends
//! the time of the pairs before it: they are good for trees of at most N leaves, and what follows for trees of N and more. The
//! checkpoint of N leaves has the signatures of both. Empty lines, and lines that begin with `#`, say nothing.

use crate::checkpoint::{KeyPair, LogKeys, LogKeysError};
use crate::key::{KeyError, Kind, Verifier};
use crate::tree::MAX_SIZE;
use std::fmt;
use std::str::FromStr;

/// A text that is not the public keys of one log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysTextError {
    /// A line is no key.
    #[error("line {line}: {error}")]
    Key {
        /// From 1.
        line: usize,
        /// Why not.
        error: KeyError,
    },
    /// The same key again.
    #[error("line {line} repeats a key")]
    Repeated {
        /// From 1.
        line: usize,
    },
    /// `until` without a larger number than the one before, or without keys before or behind it.
    #[error(
        "line {line}: `until` takes a number of entries, larger than the one before, and stands between pairs of keys"
    )]
    Until {
        /// From 1.
        line: usize,
    },
    /// There are other keys than pairs of one name.
    #[error(transparent)]
    Keys(#[from] LogKeysError),
}

impl FromStr for LogKeys {
    type Err = KeysTextError;

    fn from_str(text: &str) -> Result<Self, KeysTextError> {
        let (mut pairs, mut seen, mut pending): (Vec<KeyPair>, Vec<Verifier>, Vec<Verifier>) = Default::default();
        let (mut from, mut last) = (0, None);
        for (line, said) in text.lines().enumerate().map(|(at, said)| (at + 1, said.trim())) {
            if said.is_empty() || said.starts_with('#') {
                continue;
            }
            if let Some(until) = said.strip_prefix("until ") {
                let size = until.parse().ok().filter(|size| *size > from && *size < MAX_SIZE && !pending.is_empty());
                let size = size.ok_or(KeysTextError::Until { line })?;
                pairs.extend(paired(&std::mem::take(&mut pending))?.into_iter().map(|pair| pair.within(from..=size)));
                (from, last) = (size, Some(line));
                continue;
            }
            let key: Verifier = said.parse().map_err(|error| KeysTextError::Key { line, error })?;
            if seen.contains(&key) {
                return Err(KeysTextError::Repeated { line });
            }
            seen.push(key.clone());
            pending.push(key);
        }
        match last {
            Some(line) if pending.is_empty() => return Err(KeysTextError::Until { line }),
            _ => pairs.extend(paired(&pending)?.into_iter().map(|pair| pair.within(from..=MAX_SIZE))),
        }
        Ok(Self::new(pairs)?)
    }
}

/// The first key of one kind with the first of the other, and so on.
fn paired(keys: &[Verifier]) -> Result<Vec<KeyPair>, LogKeysError> {
    let of = |kind: Kind| keys.iter().filter(move |key| key.kind() == kind).cloned();
    let (ed25519, ml_dsa_44) = (of(Kind::Ed25519), of(Kind::MlDsa44Cosignature));
    let pairs: Result<Vec<KeyPair>, _> = ed25519.zip(ml_dsa_44).map(|(one, other)| KeyPair::new(one, other)).collect();
    let pairs = pairs?;
    if pairs.len() * 2 == keys.len() { Ok(pairs) } else { Err(LogKeysError::Kinds) }
}

/// The text that [`LogKeys::from_str`] reads.
impl fmt::Display for LogKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut pairs = self.pairs().iter().peekable();
        while let Some(pair) = pairs.next() {
            for key in pair.verifiers() {
                writeln!(f, "{key}")?;
            }
            // Pairs of one time stand together.
            if pairs.peek().is_some_and(|next| next.sizes() != pair.sizes()) {
                writeln!(f, "until {}", pair.sizes().end())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::LogSigner;
    use crate::hash::leaf_hash;
    use crate::key::Signer;

    fn signer(seed: u8) -> LogSigner {
        let of = |kind| Signer::from_seed(kind, "a", &[seed; 32]).unwrap();
        LogSigner::new(of(Kind::Ed25519), of(Kind::MlDsa44Cosignature)).unwrap()
    }

    fn text(seed: u8) -> String {
        LogKeys::new(vec![signer(seed).keys().clone()]).unwrap().to_string()
    }

    #[test]
    fn each_pair_signs_in_its_time_and_both_where_one_follows_the_other() {
        let (one, two, three) = (text(1), text(2), text(3));
        let said = format!("{one}until 10\n{two}until 20\n{three}");
        let keys: LogKeys = format!("# mine\n\n{}", said.replace('\n', "\r\n")).parse().unwrap();
        assert_eq!(keys.to_string(), said);
        for (seed, good) in [(1, 0..=10), (2, 10..=20), (3, 20..=30)] {
            for size in 1..=30 {
                let checkpoint = signer(seed).sign(size, leaf_hash(b"x"), 1).unwrap();
                assert_eq!(keys.check(checkpoint.note().clone()).is_ok(), good.contains(&size), "{seed} {size}");
            }
        }
        let all: LogKeys = format!("{one}{two}").parse().unwrap();
        assert_eq!(all.to_string(), format!("{one}{two}"));
    }

    #[test]
    fn what_is_not_the_keys_of_one_log_is_none() {
        let (one, two) = (text(1), text(2));
        let half = one.lines().next().unwrap();
        for bad in [
            String::new(),
            "# nothing".to_owned(),
            half.to_owned(),
            format!("until 5\n{one}"),
            format!("{one}until 5\n"),
            format!("{one}until\n{two}"),
            format!("{one}until 0\n{two}"),
            format!("{one}until 5\n{two}until 5\n{}", text(3)),
            format!("{one}until 9223372036854775807\n{two}"),
            format!("{half}\nuntil 5\n{two}"),
            format!("{one}until 5\n{one}"),
            format!("{one}until five\n{two}"),
        ] {
            assert!(bad.parse::<LogKeys>().is_err(), "{bad}");
        }
    }
}
