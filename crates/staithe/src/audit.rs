//! `staithe audit`: what can be done with a ledger without asking the host that writes it. One file per command.

mod archive;
mod check;
mod confirm;
mod erase;
mod export;
mod files;
mod index;
mod names;
mod own;
mod prove;
mod prune;
mod quorum;
mod reach;
mod rebuild;
mod recover;
mod rotate;
mod search;
mod show;
mod tail;
mod verify;
mod witness;

pub(crate) use check::check;
pub(crate) use erase::erase;
pub(crate) use export::export;
pub(crate) use prove::prove;
pub(crate) use prune::prune;
pub(crate) use quorum::read as policy;
pub(crate) use rebuild::rebuild;
pub(crate) use recover::recover;
pub(crate) use rotate::rotate_keys;
pub(crate) use search::search;
pub(crate) use show::show;
pub(crate) use tail::tail;
pub(crate) use verify::verify;
pub(crate) use witness::witness;
