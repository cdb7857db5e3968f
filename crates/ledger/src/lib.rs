//! The only code that appends to, signs and verifies the log. What an entry says is not known here: entries are bytes.
//! No async runtime, no SQL.
//!
//! The formats are those of C2SP, so that tools of others verify what is written here: tlog-tiles, tlog-checkpoint,
//! signed-note, tlog-cosignature, tlog-proof, tlog-witness and tlog-policy. Hashes are those of RFC 6962.
//!
//! May import: stdx.

pub mod checkpoint;
pub mod disk;
pub mod evidence;
#[doc(hidden)]
pub mod fuzzing;
pub mod hash;
pub mod key;
pub mod keys_text;
pub mod log;
pub mod loss;
pub mod note;
pub mod policy;
pub mod proof;
pub mod prune;
pub mod publish;
pub mod reader;
pub mod recover;
pub mod tile;
pub mod tree;
pub mod trust;
pub mod verify;
pub mod view;
pub mod witness;
pub mod writer;

mod edge;
mod ground;
mod index;
mod layout;
mod segment;

pub use checkpoint::{Checkpoint, Head, KeyPair, LogKeys, LogSigner};
pub use disk::{Disk, RealDisk};
pub use hash::{Hash, leaf_hash, node_hash};
pub use key::{Kind, Signer, Verifier};
pub use log::{Log, Options, Recovered};
pub use note::Note;
pub use policy::Policy;
pub use proof::Proof;
pub use reader::Reader;
pub use trust::{Keys, Notary, Signed, Trust};
pub use verify::{Verified, verify};
pub use view::View;
pub use writer::Writer;
