//! Which pseudonyms were erased, in a file beside the ledger. What an erasure that was cut short left, and whom a database that was
//! put back brought back, goes at the next start.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use stdx::durable;

/// A line that says: of those above, nothing is left in the database.
const NOTHING_LEFT: &str = ".";
/// The line of somebody who has no pseudonym, and whose tokens go.
const NAMELESS: &str = "-";

/// The file, a line each. Nothing is ever taken out of it. One at a time writes it.
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

    /// Before the key of a pseudonym goes, or the tokens of somebody who has none. Durable when this returns. Blocks for that time.
    pub fn begin(&self, pseudonym: Option<&str>) -> io::Result<()> {
        self.append(pseudonym.unwrap_or(NAMELESS))
    }

    /// The database was written anew. Durable when this returns. Blocks for that time.
    pub fn finish(&self) -> io::Result<()> {
        self.append(NOTHING_LEFT)
    }

    /// What is still to be done.
    pub fn wanted(&self) -> io::Result<Wanted> {
        let text = self.text()?;
        let unfinished = text.lines().next_back().is_some_and(|line| line != NOTHING_LEFT);
        let pseudonyms = text.lines().filter(|line| ![NOTHING_LEFT, NAMELESS].contains(line)).map(str::to_owned);
        Ok(Wanted { pseudonyms: pseudonyms.collect(), unfinished })
    }

    fn append(&self, line: &str) -> io::Result<()> {
        let text = format!("{}{line}\n", self.text()?);
        durable::write_file(&self.0, text.as_bytes(), 0o600).map_err(io::Error::other)
    }

    fn text(&self) -> io::Result<String> {
        match std::fs::read_to_string(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
            text => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Erased, Wanted};

    #[test]
    fn an_erasure_is_wanted_for_good_and_unfinished_until_it_is_said_to_be_done() {
        let dir = tempfile::tempdir().unwrap();
        let erased = Erased::at(dir.path().join("erased"));
        let wanted = |pseudonyms: &[&str], unfinished| {
            let pseudonyms = pseudonyms.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(erased.wanted().unwrap(), Wanted { pseudonyms, unfinished });
        };
        wanted(&[], false);
        erased.begin(Some("p:a")).unwrap();
        wanted(&["p:a"], true);
        erased.finish().unwrap();
        wanted(&["p:a"], false);
        erased.begin(None).unwrap();
        wanted(&["p:a"], true);
        erased.finish().unwrap();
        erased.begin(Some("p:b")).unwrap();
        wanted(&["p:a", "p:b"], true);
    }
}
