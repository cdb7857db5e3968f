//! Directories of a daemon, copied as an operator would copy them.

use std::io::{ErrorKind, Result};
use std::path::Path;

/// Copies a directory with all below it, also while a daemon works in it: a file that goes away meanwhile is left out.
///
/// # Errors
/// What the file system says.
pub fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        let copied = if path.is_dir() { copy_tree(&path, &to) } else { std::fs::copy(&path, &to).map(drop) };
        match copied {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            done => done?,
        }
    }
    Ok(())
}
