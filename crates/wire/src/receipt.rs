//! Receipts in results: only the host gives them, so what a server puts in their place is taken out.

use crate::message::{Message, Shape};
use crate::scan::{Limits, Place, Side};
use crate::splice::Splice;
use bytes::Bytes;

/// The member of a result's `_meta` that is a receipt.
pub const MEMBER: &str = "io.staithe/receipt";

/// An answer without a receipt that a server made up.
pub fn cleared(body: Vec<u8>) -> Vec<u8> {
    // A name may be spelled with escapes. Nearly no answer has either.
    let finds = |needle: &[u8]| memchr::memmem::find(&body, needle).is_some();
    if !finds(b"io.staithe") && !finds(b"\\") {
        return body;
    }
    let Some(message) = result(&body) else { return body };
    let Some(forged) = message.member(Place::ResultMeta, MEMBER) else { return body };
    let Some(meta) = message.object(Place::ResultMeta) else { return body };
    let mut splice = Splice::new();
    splice.delete_member(message.bytes(), meta, forged.key);
    written(splice, &message)
}

/// An answer that has a result.
pub fn result(body: &[u8]) -> Option<Message> {
    // It has passed the bounds of its server.
    let limits = Limits { bytes: usize::MAX, depth: 256 };
    let message = Message::parse(Bytes::copy_from_slice(body), Side::Server, &limits).ok()?;
    (message.shape() == Shape::Success).then_some(message)
}

/// A message with what was changed in it.
pub fn written(splice: Splice, message: &Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.bytes().len() + 256);
    splice.write(message.bytes(), message.scan().root(), &mut out);
    out
}
