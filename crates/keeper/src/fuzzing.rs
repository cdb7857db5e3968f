//! What must hold for any bytes: the body of the fuzz target, which the ordinary tests run over the committed corpus.

use crate::wire::{Ask, Body, HEAD, MAX_BODY, Say, decode, encode};

/// Frames of either side. What is accepted says the same again when it is written and read.
#[expect(clippy::panic, reason = "a broken invariant must stop the fuzzer")]
pub fn frame(data: &[u8]) {
    fn holds<B: Body + PartialEq + std::fmt::Debug>(data: &[u8]) {
        let Ok(Some((request, fds, body, length))) = decode::<B>(data) else { return };
        assert!(length <= data.len() && length <= HEAD + MAX_BODY, "a frame is longer than what came");
        let Ok(again) = encode(request, fds, &body) else { panic!("what was read cannot be written: {body:?}") };
        assert_eq!(again, data[..length], "there are two ways to write {body:?}");
        assert!(matches!(decode::<B>(&again[..length - 1]), Ok(None)), "half a frame is a frame");
    }
    holds::<Ask>(data);
    holds::<Say>(data);
}
