//! Request states: what a call wants back in its next round, protected against change, reuse for another request, and
//! reuse after ten minutes.

use crate::wire::{Object, RpcError};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// How long a state is good, in milliseconds.
const LIFE_MS: i64 = 600_000;
const BLOCK: usize = 64;

/// The request that a state belongs to: its method, name and arguments.
#[derive(Debug)]
pub(crate) struct Bound<'a> {
    pub(crate) method: &'a str,
    pub(crate) name: &'a str,
    pub(crate) arguments: &'a Value,
}

impl Bound<'_> {
    fn digest(&self) -> String {
        let text = json!([self.method, self.name, self.arguments]).to_string();
        hex(&Sha256::digest(text.as_bytes()))
    }
}

/// `state` as an opaque text for the client. Two seals of the same state differ.
pub(crate) fn seal(key: &[u8; 32], bound: &Bound<'_>, state: &Value) -> Result<String, RpcError> {
    let no_randomness = |e: stdx::random::NoRandomness| RpcError::new(-32603, e.to_string());
    let nonce = stdx::random::handle().map_err(no_randomness)?;
    let expires = stdx::clock::unix_ms() + LIFE_MS;
    let body = json!({"nonce": nonce, "expires": expires, "for": bound.digest(), "state": state}).to_string();
    Ok(format!("{}.{body}", hex(&mac(key, body.as_bytes()))))
}

/// The state inside a text that came back, if this process sealed it for this request not long ago.
pub(crate) fn open(key: &[u8; 32], bound: &Bound<'_>, text: &str) -> Result<Value, RpcError> {
    let refused = |why: &str| RpcError::new(-32602, format!("requestState is refused: {why}"));
    let (given, body) = text.split_once('.').ok_or_else(|| refused("it is not one of ours"))?;
    let known = hex(&mac(key, body.as_bytes()));
    if !bool::from(subtle::ConstantTimeEq::ct_eq(known.as_bytes(), given.as_bytes())) {
        return Err(refused("its integrity check failed"));
    }
    let mut body: Object = serde_json::from_str(body).map_err(|_| refused("it is not one of ours"))?;
    if body.get("for").and_then(Value::as_str) != Some(&bound.digest()) {
        return Err(refused("it belongs to another request"));
    }
    if body.get("expires").and_then(Value::as_i64).is_none_or(|expires| expires < stdx::clock::unix_ms()) {
        return Err(refused("it has expired"));
    }
    Ok(body.remove("state").unwrap_or_default())
}

/// HMAC-SHA256 (RFC 2104) with a key no longer than a block.
fn mac(key: &[u8; 32], data: &[u8]) -> [u8; 32] {
    let mut pad = [0x36_u8; BLOCK];
    pad.iter_mut().zip(key).for_each(|(pad, key)| *pad ^= key);
    let inner = Sha256::new().chain_update(pad).chain_update(data).finalize();
    pad.iter_mut().for_each(|byte| *byte ^= 0x36 ^ 0x5c);
    Sha256::new().chain_update(pad).chain_update(inner).finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::{Bound, hex, mac, open, seal};
    use serde_json::{Value, json};

    const KEY: [u8; 32] = [7; 32];

    #[test]
    fn the_mac_is_hmac_sha256() {
        // RFC 4231, test case 1; a key padded with zeros to 32 bytes is the same key.
        let mut key = [0_u8; 32];
        key[..20].fill(0x0b);
        assert_eq!(hex(&mac(&key, b"Hi There")), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    }

    #[test]
    fn only_the_same_request_opens_an_unchanged_state() {
        let arguments = json!({"a": 1});
        let bound = Bound { method: "tools/call", name: "t", arguments: &arguments };
        let text = seal(&KEY, &bound, &json!({"round": 1})).unwrap();
        assert_eq!(open(&KEY, &bound, &text).unwrap(), json!({"round": 1}));
        assert_ne!(text, seal(&KEY, &bound, &json!({"round": 1})).unwrap());
        assert!(open(&KEY, &bound, &format!("{text}-TAMPERED")).is_err());
        assert!(open(&KEY, &bound, &text.replace("\"round\":1", "\"round\":2")).is_err());
        assert!(open(&[8; 32], &bound, &text).is_err(), "another process");
        assert!(open(&KEY, &bound, "").is_err());
        let other_arguments = Bound { arguments: &Value::Null, ..bound };
        assert!(open(&KEY, &other_arguments, &text).is_err());
        let other_tool = Bound { method: "tools/call", name: "u", arguments: &arguments };
        assert!(open(&KEY, &other_tool, &text).is_err());
    }
}
