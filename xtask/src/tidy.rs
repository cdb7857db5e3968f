//! The house rules, as data and checks: which crate may import what, what a file looks like, which words are not
//! used, what the documents must say, which requirements tests must show. Reads the tree; knows nothing of cargo beyond its manifests.

mod documents;
mod manifests;
mod requirements;
mod sources;
mod text;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a crate may import of ours, in `[dependencies]`. A crate that is not here needs a new sentence in the
/// design: add both together.
const MAY_IMPORT: &[(&str, Imports)] = &[
    ("stdx", Imports::Only(&[])),
    ("wire", Imports::Only(&[])),
    ("model", Imports::Only(&["stdx"])),
    ("ledger", Imports::Only(&["stdx"])),
    ("jail", Imports::Only(&[])),
    ("keeper", Imports::Only(&["jail"])),
    ("store", Imports::Only(&["model", "stdx"])),
    ("oauth", Imports::Only(&["store", "model", "stdx"])),
    ("supervisor", Imports::Only(&["keeper", "jail", "store", "wire", "model", "stdx"])),
    ("gateway", Imports::Only(&["supervisor", "oauth", "ledger", "wire", "model", "stdx"])),
    ("control", Imports::Only(&["supervisor", "oauth", "store", "ledger", "model", "stdx"])),
    ("doors", Imports::Only(&["control", "model", "stdx"])),
    ("staithe", Imports::Product),
    ("testkit", Imports::All),
    ("xtask", Imports::All),
];

/// Crates for development: product crates name them in `[dev-dependencies]` only.
const DEV_CRATES: &[&str] = &["testkit", "xtask"];

/// Crates of others that only some of ours may name in `[dependencies]`, and why.
const KEPT_BY: &[(&str, &[&str], &str)] = &[
    ("rusqlite", &["store"], "SQL lives in store"),
    ("postgres", &["store"], "SQL lives in store"),
    ("tokio-postgres", &["store"], "SQL lives in store"),
    (
        "hyper",
        &["supervisor", "gateway", "doors", "staithe", "testkit", "xtask"],
        "HTTP lives at the two faces and where remote servers are asked",
    ),
    (
        "rustix",
        &["stdx", "supervisor", "doors", "staithe", "keeper", "jail", "testkit", "xtask"],
        "system calls live where processes and files are kept",
    ),
    ("rmcp", &["testkit"], "traffic is never pushed through a typed model of MCP"),
];

/// Crates of others that one of ours may not name in `[dependencies]`, and why.
const NOT_IN: &[(&str, &str, &str)] = &[("wire", "serde_json", "wire scans bytes; it builds no values")];

/// Beginnings of the paths of files that forward traffic.
const FORWARDING: &[&str] = &[
    "crates/wire/src/",
    "crates/gateway/src/call",
    "crates/gateway/src/stream",
    "crates/gateway/src/exchange",
    "crates/supervisor/src/instance",
    "crates/supervisor/src/pipe",
];

/// What must not stand in a forwarding file outside its tests. `use serde_json` is there so that the others cannot
/// hide behind an import.
const NOT_WHILE_FORWARDING: &[&str] = &["serde_json::Value", "serde_json::from_", "use serde_json", "rmcp"];

/// Crates that need raw system calls: they have lints of their own.
const RAW_SYSCALL_CRATES: &[&str] = &["jail", "keeper"];

/// Names that no file, directory or module has.
const BANNED_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "manager", "managers", "misc"];

/// Ends that no type's name has.
const BANNED_SUFFIXES: &[&str] = &["Handler", "Service", "Manager"];

/// What a note of work left over must say it is about.
const TODO_KINDS: &[&str] = &["(correctness):", "(hardening):", "(cleanup):"];

/// Lines of a `lib.rs`.
const LIB_LINES: usize = 150;
/// Lines of a file before its tests.
const PRODUCTION_LINES: usize = 600;
/// Lines of code, comments and blank lines not counted, of what must stay small enough to be read in one sitting: the
/// crate, its files that are none of it, and the bound.
const CODE_LINES: &[(&str, &[&str], usize)] =
    // The daemon's side of the socket, a keeper in a thread, and what only tests run.
    &[("keeper", &["client.rs", "start.rs", "fuzzing.rs", "thread.rs"], 1250)];
/// Lines of ARCHITECTURE.md.
const ARCHITECTURE_LINES: usize = 400;

/// The sentence that every `lib.rs` finishes.
const MONOPOLY: &str = "The only code that";

/// What every decision record has.
const DECISION_HEADINGS: &[&str] = &["Context", "Decision", "What we gave up"];

/// Names of people that examples may use in a path below `/home` or `/Users`.
const EXAMPLE_PEOPLE: &[&str] = &["a", "ada", "you", "me", "user", "username", "alice", "bob", "USER", "NAME"];

#[derive(Clone, Copy, Debug)]
enum Imports {
    Only(&'static [&'static str]),
    /// Every crate but those for development.
    Product,
    All,
}

/// One broken rule: where, what is wrong, what to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    path: String,
    line: usize,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// The tree could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
pub(crate) struct TidyError {
    what: String,
    source: io::Error,
}

/// Every violation in the tree at `root`, sorted by place.
pub(crate) fn check(root: &Path) -> Result<Vec<Violation>, TidyError> {
    let tree = Tree::read(root)?;
    let mut found = Vec::new();
    manifests::check(&tree, &mut found);
    sources::check(&tree, &mut found);
    documents::check(&tree, &mut found);
    requirements::check(&tree, &mut found);
    found.sort();
    found.dedup();
    Ok(found)
}

/// The files of a checkout, in memory.
struct Tree {
    root: PathBuf,
    /// Path relative to the root, with `/`, and content.
    files: Vec<(String, Vec<u8>)>,
}

// === impl Tree ===

impl Tree {
    fn read(root: &Path) -> Result<Self, TidyError> {
        let root = root.canonicalize().map_err(cannot(format!("find {}", root.display())))?;
        let paths = if root.join(".git").exists() { tracked(&root)? } else { walked(&root)? };
        let mut files = Vec::new();
        for path in paths {
            let full = root.join(&path);
            // A file that is deleted but not yet committed is listed and absent; a link is judged where it points.
            if full.is_file() && !full.is_symlink() {
                let content = std::fs::read(&full).map_err(cannot(format!("read {path}")))?;
                files.push((path, content));
            }
        }
        Ok(Self { root, files })
    }

    fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|(path, _)| path.as_str())
    }

    fn text(&self, path: &str) -> Option<String> {
        let (_, content) = self.files.iter().find(|(candidate, _)| candidate == path)?;
        Some(String::from_utf8_lossy(content).into_owned())
    }

    /// The name of the crate that `path` belongs to.
    fn crate_of(path: &str) -> Option<&str> {
        match path.split('/').collect::<Vec<_>>().as_slice() {
            ["crates", name, _, ..] => Some(name),
            ["xtask", _, ..] => Some("xtask"),
            _ => None,
        }
    }
}

/// What git tracks, and what it would track after `git add`.
fn tracked(root: &Path) -> Result<Vec<String>, TidyError> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .map_err(cannot("run git ls-files"))?;
    if !listed.status.success() {
        let why = String::from_utf8_lossy(&listed.stderr).into_owned();
        return Err(cannot("list the files that git tracks")(io::Error::other(why)));
    }
    let names = listed.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}

/// Every file, where there is no git: a source archive.
fn walked(root: &Path) -> Result<Vec<String>, TidyError> {
    let mut out = Vec::new();
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        let at = || cannot(format!("list {}", directory.display()));
        for entry in std::fs::read_dir(&directory).map_err(at())? {
            let entry = entry.map_err(at())?;
            let name = entry.file_name();
            let kind = entry.file_type().map_err(at())?;
            if kind.is_dir() && name != "target" && name != "node_modules" && name != ".git" {
                directories.push(entry.path());
            } else if kind.is_file()
                && let Ok(path) = entry.path().strip_prefix(root)
            {
                out.push(path.to_string_lossy().into_owned());
            }
        }
    }
    Ok(out)
}

fn cannot(what: impl Into<String>) -> impl FnOnce(io::Error) -> TidyError {
    let what = what.into();
    move |source| TidyError { what, source }
}

/// Notes a violation.
fn note(found: &mut Vec<Violation>, path: &str, line: usize, what: impl Into<String>) {
    found.push(Violation { path: path.to_owned(), line, what: what.into() });
}
