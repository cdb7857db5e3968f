//! Streams that an earlier daemon opened. How many events it sent on them nobody knows, so their clients say it: whatever
//! place they name, what comes follows it.

use super::{StreamGone, Streams, Track};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use stdx::clock::monotonic;
use tokio::sync::Notify;

/// Positions beyond this were never sent.
const MOST: u64 = 1 << 53;

impl Streams {
    /// Takes over a stream of an earlier daemon, which waits for its client. `standing`: it carries what belongs to no
    /// request.
    pub(crate) fn adopt(&self, number: u64, standing: bool) {
        let mut table = self.table();
        let Err(place) = table.tracks.binary_search_by_key(&number, |track| track.number) else { return };
        if table.ended {
            return;
        }
        let track = Track {
            number,
            next: 1,
            kept: VecDeque::new(),
            reader: None,
            parked: monotonic(),
            done: false,
            floating: true,
            room: Arc::new(Notify::new()),
        };
        table.tracks.insert(place, track);
        table.opened = table.opened.max(number);
        if standing {
            table.standing = Some(number);
        }
        self.tidy(&mut table);
    }

    /// Those of `numbers` that nobody can come back to any more.
    pub(crate) fn lost(&self, numbers: impl Iterator<Item = u64>) -> Vec<u64> {
        let mut table = self.table();
        self.tidy(&mut table);
        numbers.filter(|number| table.track(*number).is_none()).collect()
    }

    /// The last event of a stream that is complete.
    pub(crate) fn last(&self, number: u64) -> Option<Bytes> {
        let mut table = self.table();
        let track = table.track(number).filter(|track| track.done)?;
        track.kept.back().map(|event| event.message.clone())
    }

    /// Nothing follows on such a stream.
    pub(crate) fn close_adopted(&self, number: u64) {
        self.finished(&mut self.table(), number);
    }

    /// The last event of such a stream. Its time to be asked for begins now.
    pub(crate) fn finish_adopted(&self, number: u64, message: Bytes) -> Result<(), StreamGone> {
        match self.table().track(number) {
            // It was heard of in two ways.
            Some(track) if track.done => return Ok(()),
            Some(track) => track.parked = monotonic(),
            None => {}
        }
        self.append(number, message, true)
    }
}

impl Track {
    /// A client names the last event that it has: what is kept follows it.
    pub(super) fn settle(&mut self, position: u64) {
        if self.floating && position < MOST {
            self.next = position + 1 + self.kept.len() as u64;
            self.floating = self.kept.is_empty();
        }
    }
}
