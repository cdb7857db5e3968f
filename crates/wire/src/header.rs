//! Header values that mirror body members: the Base64 sentinel, both ways. (E48–E53, E59)

/// Why a header value cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the header value has characters that a header may not have, or malformed Base64")]
pub struct BadHeader;

const OPEN: &[u8] = b"=?base64?";
const CLOSE: &[u8] = b"?=";

/// A mirrored value decoded: `=?base64?…?=` (markers case-sensitive, padding checked) or plain visible ASCII with inner
/// spaces. White space around it does not count.
pub fn decode(value: &[u8]) -> Result<String, BadHeader> {
    let value = trim(value);
    let bytes = match value.strip_prefix(OPEN) {
        Some(rest) if value.ends_with(CLOSE) => base64(rest.strip_suffix(CLOSE).ok_or(BadHeader)?)?,
        _ if value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~')) => value.to_vec(),
        _ => return Err(BadHeader),
    };
    String::from_utf8(bytes).map_err(|_| BadHeader)
}

/// A value as a header carries it: itself where it is visible ASCII with inner spaces, else `=?base64?…?=`. An empty value and
/// one that looks like the sentinel are encoded too, so that each header decodes to exactly what was mirrored. (E59)
pub fn encode(value: &str) -> String {
    let bytes = value.as_bytes();
    let plain = |byte: &u8| matches!(byte, b' '..=b'~');
    let sentinel = bytes.starts_with(OPEN) && bytes.ends_with(CLOSE);
    if !bytes.is_empty() && bytes.iter().all(plain) && trim(bytes).len() == bytes.len() && !sentinel {
        return value.to_owned();
    }
    let mut out = String::with_capacity(OPEN.len() + bytes.len().div_ceil(3) * 4 + CLOSE.len());
    out.push_str("=?base64?");
    for group in bytes.chunks(3) {
        let mut bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        bits <<= 8 * (3 - group.len());
        for at in 0..4 {
            let shown = at <= group.len();
            out.push(if shown { char::from(DIGITS[(bits >> (18 - 6 * at) & 63) as usize]) } else { '=' });
        }
    }
    out.push_str("?=");
    out
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Without the optional white space of RFC 9110. (E53)
pub(crate) fn trim(value: &[u8]) -> &[u8] {
    let space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let Some(start) = value.iter().position(|byte| !space(byte)) else { return &[] };
    let end = value.iter().rposition(|byte| !space(byte)).map_or(0, |last| last + 1);
    &value[start..end]
}

/// RFC 4648 Base64, canonical: whole groups, right padding, no stray bits. One value has one spelling.
fn base64(text: &[u8]) -> Result<Vec<u8>, BadHeader> {
    if !text.len().is_multiple_of(4) {
        return Err(BadHeader);
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let last = text.len().saturating_sub(4);
    for (index, group) in text.chunks_exact(4).enumerate() {
        let padding = if index * 4 == last { group.iter().rev().take_while(|byte| **byte == b'=').count() } else { 0 };
        if padding > 2 {
            return Err(BadHeader);
        }
        let mut bits = 0_u32;
        for &byte in &group[..4 - padding] {
            bits = bits << 6 | digit(byte)?;
        }
        bits <<= 6 * padding;
        let [_, bytes @ ..] = bits.to_be_bytes();
        if bytes[3 - padding..].iter().any(|byte| *byte != 0) {
            return Err(BadHeader);
        }
        out.extend_from_slice(&bytes[..3 - padding]);
    }
    Ok(out)
}

fn digit(byte: u8) -> Result<u32, BadHeader> {
    Ok(u32::from(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return Err(BadHeader),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e51_the_examples_of_the_specification() {
        for (value, means) in [
            ("us-west1", "us-west1"),
            ("=?base64?SGVsbG8sIOS4lueVjA==?=", "Hello, 世界"),
            ("=?base64?IHBhZGRlZCA=?=", " padded "),
            ("=?base64?bGluZTEKbGluZTI=?=", "line1\nline2"),
            ("=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?=", "=?base64?literal?="),
            ("=?base64??=", ""),
            ("a b\tc", "a b\tc"),
        ] {
            assert_eq!(decode(value.as_bytes()).as_deref(), Ok(means), "{value}");
        }
    }

    #[test]
    fn e51_malformed_base64_is_refused() {
        for value in [
            "=?base64?SGVsbG8?=",
            "=?base64?SGVsbG8==?=",
            "=?base64?SGVs=G8=?=",
            "=?base64?SGVsbG9=?=",
            "=?base64?====?=",
            "=?base64?=",
            "=?base64?SGVs bG8=?=",
            "=?base64?_-8=?=",
            "=?base64?/w==?=",
        ] {
            assert_eq!(decode(value.as_bytes()), Err(BadHeader), "{value}");
        }
    }

    #[test]
    fn e51_markers_are_case_sensitive() {
        assert_eq!(decode(b"=?BASE64?SGk=?=").as_deref(), Ok("=?BASE64?SGk=?="));
    }

    #[test]
    fn e52_invalid_characters_are_refused() {
        for value in [&b"caf\xc3\xa9"[..], b"a\x00b", b"a\x7fb", b"\xff", b"a\rb"] {
            assert_eq!(decode(value), Err(BadHeader));
        }
    }

    #[test]
    fn e59_what_a_header_cannot_carry_is_encoded() {
        for (value, header) in [
            ("us-west1", "us-west1"),
            ("a b", "a b"),
            ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
            (" padded ", "=?base64?IHBhZGRlZCA=?="),
            ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
            ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
            ("", "=?base64??="),
            ("=?base64?open", "=?base64?open"),
        ] {
            assert_eq!(encode(value), header);
        }
    }

    proptest::proptest! {
        #[test]
        fn e51_e59_every_text_survives_a_header(value in "\\PC{0,40}|[ -~\t\r\n]{0,40}|=\\?base64\\?[A-Z=?]{0,8}") {
            let header = encode(&value);
            proptest::prop_assert!(header.bytes().all(|byte| matches!(byte, b' '..=b'~')));
            proptest::prop_assert_eq!(decode(header.as_bytes()), Ok(value));
        }
    }

    #[test]
    fn e53_surrounding_space_does_not_count() {
        assert_eq!(decode(b" \t echo \t").as_deref(), Ok("echo"));
        assert_eq!(decode(b"  ").as_deref(), Ok(""));
    }
}
