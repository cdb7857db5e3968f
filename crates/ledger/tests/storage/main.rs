//! Attacks on the storage of the log: power cuts, failing disks, flipped bits, cut, swapped and replayed files.

#![expect(clippy::cast_possible_truncation, reason = "sizes of tests are small")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "these are tests, helpers included")]

mod attacks;
mod crash;
mod faults;
mod flips;
mod measure;
mod model;
mod promise;
mod reading;
mod writer;
