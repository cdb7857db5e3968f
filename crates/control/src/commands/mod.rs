//! One slice per command, or per tight group of them.

pub(crate) mod import;
pub(crate) mod ledger;
pub(crate) mod logs;
pub(crate) mod look;
pub(crate) mod server;
pub(crate) mod token;
pub(crate) mod upgrade;
