//! Which pseudonyms were erased, in a file beside the ledger. What an erasure that was cut short left, and whom a database that was
//! put back brought back, goes at the next start.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// A line that says: of those above, nothing is left in the database.
const NOTHING_LEFT: &str = ".";

/// The file, a line each. Nothing is ever taken out of it.
#[derive(Debug)]
pub struct Erased(PathBuf);

/// What the file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Pseudonyms that shall lead to nobody.
    pub pseudonyms: BTreeSet<String>,
    /// The database may have something of them in pages that it does not use.
    pub unfinished: bool,
}

impl Erased {
    /// The file at `path`, which need not be there.
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Before the key of a pseudonym goes. Durable when this returns. Blocks for that time.
    pub fn begin(&self, pseudonym: &str) -> io::Result<()> {
        self.append(pseudonym)
    }

    /// The database was written anew. Durable when this returns. Blocks for that time.
    pub fn finish(&self) -> io::Result<()> {
        self.append(NOTHING_LEFT)
    }

    /// What is to be done at a start.
    pub fn wanted(&self) -> io::Result<Wanted> {
        let text = match std::fs::read_to_string(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Wanted::default()),
            text => text?,
        };
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        let unfinished = lines.last().is_some_and(|line| *line != NOTHING_LEFT);
        let pseudonyms = lines.into_iter().filter(|line| *line != NOTHING_LEFT).map(str::to_owned).collect();
        Ok(Wanted { pseudonyms, unfinished })
    }

    /// A line that was cut short must not take the next one with it.
    fn append(&self, line: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.0)?;
        file.write_all(format!("\n{line}\n").as_bytes())?;
        file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::{Erased, Wanted};

    #[test]
    fn an_erasure_is_wanted_for_good_and_unfinished_until_it_is_said_to_be_done() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("erased");
        let erased = Erased::at(path.clone());
        let wanted = |pseudonyms: &[&str], unfinished| {
            let pseudonyms = pseudonyms.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(erased.wanted().unwrap(), Wanted { pseudonyms, unfinished });
        };
        wanted(&[], false);
        erased.begin("p:a").unwrap();
        wanted(&["p:a"], true);
        erased.finish().unwrap();
        wanted(&["p:a"], false);
        // The machine stopped in the middle of a line.
        let text = std::fs::read_to_string(&path).unwrap();
        stdx::durable::write_file(&path, format!("{text}\np:").as_bytes(), 0o600).unwrap();
        erased.begin("p:b").unwrap();
        wanted(&["p:", "p:a", "p:b"], true);
    }
}
