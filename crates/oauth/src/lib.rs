//! The only code that mints, exchanges, revokes and verifies tokens. It knows no HTTP: a bearer is a text.
//!
//! Today that is machine tokens: random, kept as a hash, checked in memory. `Authority` is the handle that others hold.
//!
//! May import: store, model, stdx.

mod authority;
mod content;
mod ring;
mod subject;
mod token;
mod verify;

pub use authority::{Authority, MintError, Minted, OpenError, Opens, RevokeError};
pub use content::{ContentError, Contents, KeepError, kept_content};
pub use subject::{Subject, SubjectError, Subjects};
pub use token::Token;
pub use verify::{Denied, Verified};
