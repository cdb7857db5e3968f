//! `staithe audit`: what can be done with a ledger without asking the host that writes it. One file per command.

mod check;
mod files;
mod own;
mod prove;
mod quorum;
mod show;
mod tail;
mod verify;
mod witness;

pub(crate) use check::check;
pub(crate) use prove::prove;
pub(crate) use show::show;
pub(crate) use tail::tail;
pub(crate) use verify::verify;
pub(crate) use witness::witness;
