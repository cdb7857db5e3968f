//! The directory of a witness: its secret keys, the lock that makes it one witness, and the names of its files.

use crate::audit::files;
use crate::fault;
use ledger::disk::Guard;
use ledger::{Disk, Kind, RealDisk, Signer};
use model::Problem;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use stdx::durable;

/// Bytes of the longest secret key that is read.
const MAX_SECRET: usize = 16 * 1024;

/// Both kinds of cosignatures: everybody verifies the first, the second outlives quantum computers.
const KEYS: [(Kind, &str); 2] =
    [(Kind::Ed25519Cosignature, "ed25519.key"), (Kind::MlDsa44Cosignature, "ml-dsa-44.key")];

/// A witness's directory, held by this process alone.
#[derive(Debug)]
pub(super) struct Home {
    /// One file for each log, named by the SHA-256 of its origin.
    pub(super) memory: PathBuf,
    /// Its keys.
    pub(super) signers: Vec<Signer>,
    _lock: Box<dyn Guard>,
}

impl Home {
    /// Opens the directory, and makes keys if it is new.
    pub(super) fn open(dir: &Path, name: &str) -> Result<Self, Problem> {
        let hint = "name a directory that this user may write to with --dir";
        let failed = |error: durable::DurableError| fault::because("make the witness's directory", &error, hint);
        durable::make_dir(dir, 0o700).map_err(failed)?;
        let path = dir.join("lock");
        let lock = RealDisk.lock(&path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => fault::failed(
                format!("another witness works in {}", dir.display()),
                "stop it first, or name another directory",
            ),
            _ => fault::because(&format!("lock {}", path.display()), &error, hint),
        })?;
        let (memory, vkeys) = (dir.join("logs"), dir.join("witness.vkeys"));
        let begun = vkeys.exists();
        if begun && !memory.is_dir() {
            let message = format!("{} is gone: the witness does not know what it cosigned", memory.display());
            return Err(fault::failed(message, "begin with an empty directory and another name"));
        }
        // Before the keys: what makes them durable makes this durable.
        durable::make_dir(&memory, 0o700).map_err(failed)?;
        let signers: Result<Vec<Signer>, Problem> =
            KEYS.iter().map(|(kind, file)| signer(&dir.join(file), *kind, name, begun)).collect();
        let signers = signers?;
        let lines: Vec<String> = signers.iter().map(|signer| signer.verifier().to_string()).collect();
        if begun {
            let known: Vec<String> = files::keys(&vkeys)?.iter().map(ToString::to_string).collect();
            if known != lines {
                let message = format!("{} has the keys of another witness than {name}", vkeys.display());
                return Err(fault::failed(message, "start it with the --name and the key files that it began with"));
            }
        } else {
            let text = format!("# public keys of the witness {name}\n{}\n", lines.join("\n"));
            durable::write_file(&vkeys, text.as_bytes(), 0o644).map_err(failed)?;
        }
        Ok(Self { memory, signers, _lock: lock })
    }
}

/// The key in `path`; a new one if there is none and the witness has not begun.
fn signer(path: &Path, kind: Kind, name: &str, begun: bool) -> Result<Signer, Problem> {
    let cannot =
        |error: &dyn std::error::Error| fault::because(&format!("use the secret key {}", path.display()), error, "");
    if begun || path.exists() {
        let mode = std::fs::metadata(path).map_err(|error| cannot(&error))?.permissions().mode();
        if mode & 0o077 != 0 {
            let hint = format!("chmod 600 {}, if nobody has read it", path.display());
            return Err(fault::failed(format!("other users may read the secret key {}", path.display()), hint));
        }
        let secret = files::read(path, MAX_SECRET)?.unwrap_or_default();
        return Signer::from_pkcs8(kind, name, &secret).map_err(|error| cannot(&error));
    }
    let signer = Signer::generate(kind, name).map_err(|error| cannot(&error))?;
    let secret = signer.to_pkcs8().map_err(|error| cannot(&error))?;
    durable::write_file(path, secret.as_ref(), 0o600).map_err(|error| cannot(&error))?;
    Ok(signer)
}
