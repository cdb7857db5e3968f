//! Randomness from the operating system, for identifiers that must not be guessed.

/// The operating system gave no randomness. Nothing that needs a secret may go on.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no randomness: {0}")]
pub struct NoRandomness(getrandom::Error);

/// `N` unpredictable bytes.
pub fn bytes<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut out = [0_u8; N];
    getrandom::fill(&mut out).map_err(NoRandomness)?;
    Ok(out)
}

/// 160 unpredictable bits as 32 characters of `a-z2-7`: visible ASCII, safe in a header, a path and a shell.
pub fn handle() -> Result<String, NoRandomness> {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let raw = bytes::<20>()?;
    let mut out = String::with_capacity(32);
    for five in raw.chunks_exact(5) {
        let mut word = five.iter().fold(0_u64, |word, byte| (word << 8) | u64::from(*byte));
        for _ in 0..8 {
            out.push(char::from(ALPHABET[usize::try_from((word >> 35) & 31).unwrap_or(0)]));
            word <<= 5;
        }
    }
    Ok(out)
}

/// Whether a text could be one of [`handle`]'s.
pub fn is_handle(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'))
}

/// A fraction in `0.0..1.0`, for jitter. Falls back to 0.5 where there is no randomness: jitter is a courtesy.
pub fn fraction() -> f64 {
    bytes::<4>().map_or(0.5, |raw| f64::from(u32::from_le_bytes(raw)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn handles_are_distinct_visible_ascii() {
        let many: HashSet<String> = (0..1000).map(|_| super::handle().unwrap()).collect();
        assert_eq!(many.len(), 1000);
        assert!(many.iter().all(|h| h.len() == 32 && h.bytes().all(|b| (0x21..=0x7e).contains(&b))));
        assert!(many.iter().all(|h| super::is_handle(h) && !super::is_handle(&h[1..])));
        assert!(!super::is_handle(&"A".repeat(32)) && !super::is_handle(&"1".repeat(32)));
    }
}
