//! Rules about what people read: ARCHITECTURE.md tells the truth, decisions have their form, the page of the eras is the printed one, no file names a place
//! on somebody's machine.

use super::{ARCHITECTURE_LINES, DECISION_HEADINGS, EXAMPLE_PEOPLE, Tree, Violation, note};
use crate::eras;
use std::collections::{BTreeMap, BTreeSet};

/// Checks every document, and every file for paths of machines.
pub(super) fn check(tree: &Tree, found: &mut Vec<Violation>) {
    check_architecture(tree, found);
    check_decisions(tree, found);
    check_machine_paths(tree, found);
    check_eras(tree, found);
}

/// What is printed from a table says what the table says.
fn check_eras(tree: &Tree, found: &mut Vec<Violation>) {
    let Some(text) = tree.text(eras::PATH) else { return };
    let page = eras::page();
    let differs = text.lines().zip(page.lines()).take_while(|(is, must)| is == must).count();
    if text != page {
        note(found, eras::PATH, differs + 1, "differs from the era matrix: run `cargo xtask eras`");
    }
}

fn check_architecture(tree: &Tree, found: &mut Vec<Violation>) {
    const PATH: &str = "ARCHITECTURE.md";
    let Some(text) = tree.text(PATH) else { return };
    let lines = text.lines().count();
    if lines > ARCHITECTURE_LINES {
        let what = format!("{lines} lines, at most {ARCHITECTURE_LINES}: nobody reads more");
        note(found, PATH, ARCHITECTURE_LINES + 1, what);
    }
    let crates: BTreeSet<&str> = tree.paths().filter_map(Tree::crate_of).collect();
    for name in crates {
        if !text.contains(&format!("`{name}`")) && !text.contains(&format!("crates/{name}/")) {
            note(found, PATH, 1, format!("does not name the crate `{name}`: say what it is the only code to do"));
        }
    }
    for (number, line) in (1..).zip(text.lines()) {
        for path in source_paths(line).filter(|path| !tree.paths().any(|real| real == *path)) {
            note(found, PATH, number, format!("`{path}` does not exist: name the file that does this now"));
        }
    }
}

/// Every `crates/….rs` in a line.
fn source_paths(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("crates/").filter_map(|(at, _)| {
        let rest = &line[at..];
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_-./".contains(c))).unwrap_or(rest.len());
        Some(rest[..end].trim_end_matches('.')).filter(|path| path.ends_with(".rs"))
    })
}

fn check_decisions(tree: &Tree, found: &mut Vec<Violation>) {
    let mut numbers: BTreeMap<&str, &str> = BTreeMap::new();
    for path in tree.paths() {
        let Some(file) = path.strip_prefix("docs/decisions/") else { continue };
        let Some(number) = decision_number(file) else {
            note(
                found,
                path,
                1,
                "a decision record is named NNNN-title.md: four digits, then small letters, digits and '-'",
            );
            continue;
        };
        if let Some(other) = numbers.insert(number, path) {
            note(found, path, 1, format!("{other} has the same number: take the next free one"));
        }
        let text = tree.text(path).unwrap_or_default();
        let headings: Vec<&str> =
            text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim()).collect();
        for wanted in DECISION_HEADINGS.iter().filter(|wanted| !headings.contains(wanted)) {
            note(found, path, 1, format!("has no heading \"{wanted}\""));
        }
    }
}

fn decision_number(file: &str) -> Option<&str> {
    let (number, title) = file.strip_suffix(".md")?.split_once('-')?;
    let digits = number.len() == 4 && number.bytes().all(|byte| byte.is_ascii_digit());
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (digits && !title.is_empty() && title.bytes().all(plain)).then_some(number)
}

fn check_machine_paths(tree: &Tree, found: &mut Vec<Violation>) {
    let root = tree.root.to_string_lossy();
    for (path, content) in &tree.files {
        for (number, line) in (1..).zip(content.split(|byte| *byte == b'\n')) {
            let line = String::from_utf8_lossy(line);
            if let Some(place) = machine_path(&line, &root) {
                note(
                    found,
                    path,
                    number,
                    format!("names a place on somebody's machine ({place}): use a relative path"),
                );
            }
        }
    }
}

/// The first path in `line` that begins at a person's home or at the checkout.
fn machine_path<'a>(line: &'a str, root: &'a str) -> Option<&'a str> {
    for parent in ["/home", "/Users"] {
        for (at, _) in line.match_indices(parent).filter(|(at, _)| begins_path(line, *at)) {
            let mut parts = line[at + parent.len()..].split('/');
            let (before, person, more) = (parts.next(), parts.next(), parts.next());
            let person = person.filter(|person| !person.is_empty() && person.chars().all(in_name));
            if before == Some("") && more.is_some() && person.is_some_and(|person| !EXAMPLE_PEOPLE.contains(&person)) {
                return Some(parent);
            }
        }
    }
    // A checkout in a directory of one short name would be found in every other path.
    let precise = root.matches('/').count() >= 2;
    let mut places = line.match_indices(root).filter(|(at, _)| precise && begins_path(line, *at));
    places.any(|(at, _)| !line[at + root.len()..].starts_with(in_name)).then_some(root)
}

/// Whether a path begins at `at`, and no longer one goes through it.
fn begins_path(line: &str, at: usize) -> bool {
    !line[..at].ends_with(|c: char| in_name(c) || c == '/' || c == '}' || c == '~')
}

fn in_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.')
}
