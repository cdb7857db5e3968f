//! Receipts: a client that asks for one gets with its result where in the ledger its call stands. With that it can hold the host
//! to what was written, whatever becomes of the ledger later.

use http::HeaderMap;
use ledger::Hash;
use std::sync::Arc;
use wire::receipt::{MEMBER, result, written};
use wire::scan::Place;
use wire::splice::Splice;

/// A client that sends `X-Staithe-Receipt: 1` gets receipts. Nobody else does: every other answer is as its server gave it.
const ASKS: &str = "x-staithe-receipt";

/// Whether a request's head asks for a receipt.
pub(crate) fn asked(headers: &HeaderMap) -> bool {
    headers.get(ASKS).is_some_and(|value| value == "1")
}

/// Where a record is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    /// Its index, where whoever wrote it said so.
    pub(crate) index: Option<u64>,
    /// RFC 6962.
    pub(crate) leaf: Hash,
}

/// What a client may keep of its call.
#[derive(Clone, Debug)]
pub(crate) struct Receipt {
    pub(crate) origin: Arc<str>,
    pub(crate) start: Written,
    pub(crate) end: Written,
}

impl Receipt {
    /// The answer with this receipt as the first member of its result's `_meta`. An error has no place for one.
    pub(crate) fn put(&self, body: Vec<u8>) -> Vec<u8> {
        let Some(message) = result(&body) else { return body };
        let Some(object) = message.object(Place::Result) else { return body };
        let (receipt, mut splice) = (self.json(), Splice::new());
        match (message.object(Place::ResultMeta), message.member(Place::Result, "_meta")) {
            (Some(meta), _) => splice.add_member(message.bytes(), meta, MEMBER, receipt.as_bytes()),
            // What stands there is no object, and no `_meta`: it is left to be judged by its client.
            (None, Some(_)) => return body,
            (None, None) => {
                let meta = format!(r#"{{"{MEMBER}":{receipt}}}"#);
                splice.add_member(message.bytes(), object, "_meta", meta.as_bytes());
            }
        }
        written(splice, &message)
    }

    fn json(&self) -> String {
        let mut origin = Vec::new();
        wire::scan::write_text(&mut origin, &self.origin);
        let origin = String::from_utf8_lossy(&origin);
        let place = |written: &Written| {
            let index = written.index.map_or_else(|| "null".to_owned(), |index| index.to_string());
            format!(r#""index":{index},"leaf":"{}""#, written.leaf)
        };
        format!(r#"{{"origin":{origin},{},"start":{{{}}}}}"#, place(&self.end), place(&self.start))
    }
}

#[cfg(test)]
mod tests {
    use super::{Receipt, Written};
    use ledger::leaf_hash;
    use wire::receipt::cleared;

    fn receipt(index: Option<u64>) -> Receipt {
        let written = |entry: &[u8], index| Written { index, leaf: leaf_hash(entry) };
        Receipt { origin: "a/b".into(), start: written(b"", Some(6)), end: written(b"", index) }
    }

    fn put(index: Option<u64>, body: &str) -> String {
        String::from_utf8(receipt(index).put(cleared(body.as_bytes().to_vec()))).unwrap()
    }

    #[test]
    fn a_result_gets_it_as_the_first_member_and_nothing_else_changes() {
        let leaf = leaf_hash(b"").to_string();
        let own = |index: &str| {
            format!(
                r#""io.staithe/receipt":{{"origin":"a/b","index":{index},"leaf":"{leaf}","start":{{"index":6,"leaf":"{leaf}"}}}}"#
            )
        };
        for (result, expected) in [
            (r#"{"content":[ 1.0 ]}"#, format!(r#"{{"_meta":{{{}}},"content":[ 1.0 ]}}"#, own("7"))),
            (r#"{}"#, format!(r#"{{"_meta":{{{}}}}}"#, own("7"))),
            (r#"{"_meta":{},"x":1}"#, format!(r#"{{"_meta":{{{}}},"x":1}}"#, own("7"))),
            (r#"{"x":1,"_meta":{"y":2}}"#, format!(r#"{{"x":1,"_meta":{{{},"y":2}}}}"#, own("7"))),
            // A server cannot give one.
            (r#"{"_meta":{"io.staithe/receipt":{"index":1},"y":2}}"#, format!(r#"{{"_meta":{{{},"y":2}}}}"#, own("7"))),
            (r#"{"_meta":{"io.staithe\/receipt":1}}"#, format!(r#"{{"_meta":{{{}}}}}"#, own("7"))),
        ] {
            let body = |result: &str| format!(r#"{{"jsonrpc":"2.0","id":"é","result":{result}}}"#);
            assert_eq!(put(Some(7), &body(result)), body(&expected), "{result}");
        }
        assert!(put(None, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).contains(&own("null")), "nothing is made up");
        for other in [
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":[]}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"_meta":5}}"#,
            "no json",
        ] {
            assert_eq!(put(Some(7), other), other);
        }
    }
}
