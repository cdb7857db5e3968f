//! The ledger of a state directory, as it is read beside the daemon that writes it.

use super::files;
use crate::fault;
use crate::state::StateDir;
use ledger::{Disk, LogKeys, Reader, RealDisk};
use model::{Problem, ProblemCode};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often the ledger is opened before what is wrong with it is believed.
const OPENINGS: u32 = 5;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(50);

/// The directory of the ledger, if there is one.
pub(super) fn place(flag: Option<&Path>) -> Result<(StateDir, PathBuf), Problem> {
    let state = StateDir::choose(flag, None)?;
    let dir = state.ledger();
    if !dir.join("vkeys").is_file() {
        let message = format!("there is no ledger in {}", state.path().display());
        let hint = "name the state directory with --state-dir; a ledger begins when staithe first serves there";
        return Err(Problem { code: ProblemCode::NotFound, ..fault::failed(message, hint) });
    }
    Ok((state, dir))
}

/// Opens it to read.
pub(super) fn opened(flag: Option<&Path>) -> Result<(Reader, LogKeys), Problem> {
    let (_, dir) = place(flag)?;
    read(&dir)
}

/// Opens the ledger in `dir` to read.
pub(super) fn read(dir: &Path) -> Result<(Reader, LogKeys), Problem> {
    let keys = files::keys_of_one_log(&dir.join("vkeys"))?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let mut left = OPENINGS;
    let reader = loop {
        left -= 1;
        match Reader::open(&disk, dir, Arc::new(keys.clone())) {
            // Beside a daemon a read may meet a write half-way; what is damaged stays so.
            Err(_) if left > 0 => std::thread::sleep(PAUSE),
            opened => break opened,
        }
    };
    let reader =
        reader.map_err(|error| fault::because("read the ledger", &error, "`staithe audit verify` says more"))?;
    Ok((reader, keys))
}

/// One entry.
pub(super) fn entry(reader: &Reader, index: u64) -> Result<Vec<u8>, Problem> {
    let size = reader.view().size();
    if index >= size {
        let message = format!("the ledger has {size} entries; there is none with the index {index}");
        return Err(Problem { code: ProblemCode::NotFound, ..fault::failed(message, "the first one has the index 0") });
    }
    reader.view().entry(index).map_err(|error| fault::because(&format!("read entry {index}"), &error, ""))
}
