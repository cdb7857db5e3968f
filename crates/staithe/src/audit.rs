//! `staithe audit`: what can be done with a ledger without a host. One file per command.

mod check;
mod files;
mod quorum;
mod verify;
mod witness;

pub(crate) use check::check;
pub(crate) use verify::verify;
pub(crate) use witness::witness;
