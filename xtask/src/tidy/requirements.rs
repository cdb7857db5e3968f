//! Rules about `docs/requirements.md`: each requirement of the protocol that applies is cited by a test, and no test
//! cites one that is not there.

use super::sources::is_test_file;
use super::text::{declared, production_lines, split};
use super::{Tree, Violation, note};
use std::collections::{BTreeMap, BTreeSet};

const PATH: &str = "docs/requirements.md";
/// Rows below this heading need no test.
const NOT_APPLYING: &str = "## Not applying yet";
/// Suites that are no Rust: their files cite by `E120` anywhere.
const SUITES: &[&str] = &["tests/conformance/", "tests/interop/"];

/// Checks that the rows and the citations agree.
pub(super) fn check(tree: &Tree, found: &mut Vec<Violation>) {
    let Some(text) = tree.text(PATH) else { return };
    let rows = rows(&text, found);
    let cited = citations(tree);
    let uncited = rows.iter().filter(|(number, row)| row.applies && !cited.contains_key(number));
    for (number, row) in uncited {
        note(found, PATH, row.line, format!("E{number} is cited by no test: show it (`e{number}_…`), or say why not"));
    }
    for (number, place) in cited.iter().filter(|(number, _)| !rows.contains_key(number)) {
        note(found, &place.path, place.line, format!("E{number} is no row of {PATH}"));
    }
}

/// A requirement.
struct Row {
    line: usize,
    applies: bool,
}

/// Where a requirement is cited first.
struct Place {
    path: String,
    line: usize,
}

fn rows(text: &str, found: &mut Vec<Violation>) -> BTreeMap<u32, Row> {
    let mut rows: BTreeMap<u32, Row> = BTreeMap::new();
    let mut applies = true;
    for (line, content) in (1..).zip(text.lines()) {
        if content.starts_with("## ") {
            applies = content != NOT_APPLYING;
        }
        let Some(number) = content.strip_prefix("| E").and_then(|rest| rest.split(' ').next()?.parse().ok()) else {
            continue;
        };
        if let Some(other) = rows.insert(number, Row { line, applies }) {
            note(found, PATH, line, format!("E{number} stands in line {} too", other.line));
        }
    }
    rows
}

/// Every requirement that a test cites, and where first.
fn citations(tree: &Tree) -> BTreeMap<u32, Place> {
    let mut cited = BTreeMap::new();
    for path in tree.paths() {
        let text = || tree.text(path).unwrap_or_default();
        let lines: Vec<(usize, BTreeSet<u32>)> = match path {
            _ if SUITES.iter().any(|suite| path.starts_with(suite)) => (1..).zip(text().lines().map(spelled)).collect(),
            _ if path.ends_with(".rs") => in_tests(path, &text()),
            _ => continue,
        };
        for (line, numbers) in lines {
            for number in numbers {
                cited.entry(number).or_insert_with(|| Place { path: path.to_owned(), line });
            }
        }
    }
    cited
}

/// What the tests of a source file cite: in names of functions and in comments.
fn in_tests(path: &str, source: &str) -> Vec<(usize, BTreeSet<u32>)> {
    let split = split(source);
    let first = if is_test_file(path) { 0 } else { production_lines(&split.code) };
    let lines = (1..).zip(split.code.lines().zip(split.comments.lines())).skip(first);
    lines.map(|(line, (code, comment))| (line, &named(code) | &spelled(comment))).collect()
}

/// The numbers in the name of a function: 3 and 149 in `fn e3_e149_same_era()`.
fn named(code: &str) -> BTreeSet<u32> {
    let name = declared(code, &["fn"]).unwrap_or_default();
    name.split('_').filter_map(|part| part.strip_prefix('e')?.parse().ok()).collect()
}

/// The numbers in prose: 120 in `(E120)`. Python's linters number their rules in the same way.
fn spelled(text: &str) -> BTreeSet<u32> {
    let text = text.split("noqa").next().unwrap_or_default();
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    words.filter_map(|word| word.strip_prefix('E')?.parse().ok()).collect()
}
