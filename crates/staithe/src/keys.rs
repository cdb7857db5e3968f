//! The keys of the host's ledger: `keys/ledger.*` of the state directory, which only staithe reads, and `ledger/vkeys`, which is for
//! everybody. They are made once, and changed by `staithe audit rotate-keys`.

use crate::fault;
use ledger::{KeyPair, Keys, Kind, LogKeys, LogSigner, Signer};
use model::Problem;
use std::io::ErrorKind;
use std::path::Path;
use stdx::durable;

const KINDS: [(&str, Kind); 2] = [("ed25519", Kind::Ed25519), ("ml-dsa-44", Kind::MlDsa44Cosignature)];
/// Holds the ledger's name, from when it has begun.
const NAME: &str = "ledger.name";

/// The keys of a ledger cannot be had.
pub(crate) enum KeysRefusal {
    /// There was a ledger of this name, and its directory or what stood in it is gone.
    Gone(String),
    /// Why not.
    Problem(Problem),
}

impl KeysRefusal {
    /// In words.
    pub(crate) fn into_problem(self) -> Problem {
        match self {
            Self::Problem(problem) => problem,
            Self::Gone(name) => fault::failed(
                format!(
                    "this host has the ledger {name}, and it is not there: its directory, or `vkeys` in it, is gone"
                ),
                "put it back; if it is lost, `staithe audit recover --accept-loss` begins a new one that says so",
            ),
        }
    }
}

impl From<Problem> for KeysRefusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

fn broken(what: &str, error: &dyn std::error::Error) -> Problem {
    fault::because(what, error, "")
}

/// The names of the files that belong to one ledger, in the directory of keys. The name comes last: without it nothing has begun.
pub(crate) fn files() -> impl Iterator<Item = String> {
    secrets().chain([NAME.to_owned()])
}

/// Those of the secret keys.
pub(crate) fn secrets() -> impl Iterator<Item = String> {
    KINDS.iter().map(|(kind, _)| format!("ledger.{kind}"))
}

/// The keys of the ledger in `dir`. Where none has begun they are made, if `public_url` says of which host.
pub(crate) fn open(dir: &Path, keys_dir: &Path, public_url: Option<&str>) -> Result<Keys, KeysRefusal> {
    let (public, name) = (dir.join("vkeys"), keys_dir.join(NAME));
    if !public.exists() {
        match std::fs::read_to_string(&name) {
            Ok(name) => return Err(KeysRefusal::Gone(name.trim().to_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(broken("read the name of the ledger", &error).into()),
        }
        let Some(url) = public_url else {
            return Err(fault::failed("this host has no ledger", "it begins one when it first serves").into());
        };
        let host = url.split("://").last().unwrap_or(url).trim_end_matches('/');
        let handle = stdx::random::handle().map_err(|error| broken("name the ledger", &error))?;
        make(dir, keys_dir, &format!("{host}/audit/{}", handle.get(..12).unwrap_or(&handle)))?;
    }
    let keys = read(&public, keys_dir)?;
    if !name.exists() {
        let origin = format!("{}\n", keys.known().origin());
        durable::write_file(&name, origin.as_bytes(), 0o600)
            .map_err(|error| broken("write the name of the ledger", &error))?;
    }
    Ok(keys)
}

/// The ledger `told` was there, as the database says: if nothing is left of it, it is missed.
pub(crate) fn remember(dir: &Path, keys_dir: &Path, told: Option<&str>) -> Result<(), durable::DurableError> {
    let name = keys_dir.join(NAME);
    match told {
        Some(told) if !dir.join("vkeys").exists() && !name.exists() => {
            durable::write_file(&name, format!("{told}\n").as_bytes(), 0o600)
        }
        _ => Ok(()),
    }
}

fn make(dir: &Path, keys_dir: &Path, origin: &str) -> Result<(), Problem> {
    let failed = |error: &dyn std::error::Error| broken("write the ledger's keys", error);
    durable::make_dir(dir, 0o700).map_err(|error| broken("make the directory of the ledger", &error))?;
    let signer = generate(keys_dir, origin)?;
    let known = LogKeys::new(vec![signer.keys().clone()]).map_err(|error| failed(&error))?;
    durable::write_file(&dir.join("vkeys"), text(&known).as_bytes(), 0o644).map_err(|error| failed(&error))
}

/// New secret keys, written into `keys_dir`.
pub(crate) fn generate(keys_dir: &Path, origin: &str) -> Result<LogSigner, Problem> {
    let failed = |error: &dyn std::error::Error| broken("make the ledger's keys", error);
    let mut signers = Vec::new();
    for (name, kind) in KINDS {
        let signer = Signer::generate(kind, origin).map_err(|error| failed(&error))?;
        let bytes = signer.to_pkcs8().map_err(|error| failed(&error))?;
        durable::write_file(&keys_dir.join(format!("ledger.{name}")), bytes.as_ref(), 0o600)
            .map_err(|error| failed(&error))?;
        signers.push(signer);
    }
    pair(signers)
}

fn pair(signers: Vec<Signer>) -> Result<LogSigner, Problem> {
    let [ed25519, ml_dsa_44] = <[Signer; 2]>::try_from(signers)
        .map_err(|_| fault::failed("the ledger's keys are not two", "restore a backup of the state directory"))?;
    LogSigner::new(ed25519, ml_dsa_44).map_err(|error| broken("read the ledger's keys", &error))
}

fn read(public: &Path, keys_dir: &Path) -> Result<Keys, Problem> {
    let failed = |error: &dyn std::error::Error| broken("read the ledger's keys", error);
    let text = std::fs::read_to_string(public).map_err(|error| failed(&error))?;
    let known: LogKeys = text.parse().map_err(|error: ledger::keys_text::KeysTextError| failed(&error))?;
    let signer = signer(keys_dir, known.origin())?;
    Keys::new(signer, known)
        .ok_or_else(|| fault::failed("the ledger's secret keys are not its public ones", "restore a backup"))
}

/// The secret keys in `keys_dir`.
pub(crate) fn signer(keys_dir: &Path, origin: &str) -> Result<LogSigner, Problem> {
    let failed = |error: &dyn std::error::Error| broken("read the ledger's keys", error);
    let mut signers = Vec::new();
    for (name, kind) in KINDS {
        let bytes = std::fs::read(keys_dir.join(format!("ledger.{name}"))).map_err(|error| failed(&error))?;
        signers.push(Signer::from_pkcs8(kind, origin, &bytes).map_err(|error| failed(&error))?);
    }
    pair(signers)
}

/// What is known of a ledger whose directory is gone: the keys with which it signed last.
pub(crate) fn of_what_is_gone(keys_dir: &Path, origin: &str) -> Option<LogKeys> {
    let keys: KeyPair = signer(keys_dir, origin).ok()?.keys().clone();
    LogKeys::new(vec![keys]).ok()
}

/// The file of public keys.
pub(crate) fn text(known: &LogKeys) -> String {
    format!("# The ledger's public keys: what it signs is verified with them.\n{known}")
}
