//! Rules about `.rs` files: shape, words, and what a forwarding file must not name.

use super::text::{Split, declared, has_word, production_lines, split};
use super::{
    BANNED_NAMES, BANNED_SUFFIXES, CODE_LINES, FORWARDING, LIB_LINES, MONOPOLY, NOT_WHILE_FORWARDING, PRODUCTION_LINES,
    RAW_SYSCALL_CRATES, TODO_KINDS, Tree, Violation, note,
};

/// Checks every `.rs` file.
pub(super) fn check(tree: &Tree, found: &mut Vec<Violation>) {
    for path in tree.paths().filter(|path| path.ends_with(".rs")) {
        let source = tree.text(path).unwrap_or_default();
        let file = File { path, lines: source.lines().count(), split: split(&source) };
        if !source.starts_with("//!") {
            note(found, path, 1, "the file does not begin with `//!`: say in one sentence what it is for");
        }
        file.check_names(found);
        file.check_length(found);
        file.check_library(&source, found);
        file.check_todos(found);
        file.check_unsafe(found);
        file.check_forwarding(found);
    }
    for (name, others, most) in CODE_LINES {
        check_size(tree, name, others, *most, found);
    }
}

fn check_size(tree: &Tree, name: &str, others: &[&str], most: usize, found: &mut Vec<Violation>) {
    let folder = format!("crates/{name}/src/");
    let code = |path: &str| {
        let code = split(&tree.text(path).unwrap_or_default()).code;
        code.lines().take(production_lines(&code)).filter(|line| !line.trim().is_empty()).count()
    };
    let counted = tree.paths().filter(|path| {
        let file = path.strip_prefix(&folder).filter(|file| !others.contains(file));
        file.is_some_and(|file| file.ends_with(".rs")) && !is_test_file(path)
    });
    let lines: usize = counted.map(code).sum();
    if lines > most {
        let what = format!("{lines} lines of code, at most {most}: it must be read in one sitting");
        note(found, &format!("{folder}lib.rs"), 1, what);
    }
}

/// Whether all of the file is tests.
pub(super) fn is_test_file(path: &str) -> bool {
    path.ends_with("tests.rs") || path.contains("/tests/") || path.contains("/benches/")
}

struct File<'a> {
    path: &'a str,
    lines: usize,
    split: Split,
}

// === impl File ===

impl File<'_> {
    /// The lines that are built into a product, numbered from 1.
    fn production(&self) -> impl Iterator<Item = (usize, &str)> {
        let length = if is_test_file(self.path) { 0 } else { production_lines(&self.split.code) };
        (1..).zip(self.split.code.lines()).take(length)
    }

    fn check_names(&self, found: &mut Vec<Violation>) {
        let stem = self.path.strip_suffix(".rs").unwrap_or(self.path);
        if let Some(banned) = stem.split('/').find(|part| BANNED_NAMES.contains(part)) {
            note(found, self.path, 1, format!("`{banned}` says nothing: name the file after what it holds"));
        }
        for (number, line) in (1..).zip(self.split.code.lines()) {
            if let Some(name) = declared(line, &["mod"]).filter(|name| BANNED_NAMES.contains(name)) {
                note(
                    found,
                    self.path,
                    number,
                    format!("`mod {name}` says nothing: name the module after what it holds"),
                );
            }
            // An indented `type` is a trait's own: the trait demands its name.
            let own = !line.starts_with(' ') || declared(line, &["type"]).is_none();
            let name = declared(line, &["struct", "enum", "trait", "type", "union"]).filter(|_| own);
            if let Some(name) = name.filter(|name| BANNED_SUFFIXES.iter().any(|suffix| name.ends_with(suffix))) {
                note(
                    found,
                    self.path,
                    number,
                    format!("`{name}`: name the type after what it is, not what it does to things"),
                );
            }
        }
    }

    fn check_length(&self, found: &mut Vec<Violation>) {
        let length = self.production().count();
        if length > PRODUCTION_LINES {
            let what =
                format!("{length} lines before the tests, at most {PRODUCTION_LINES}: split it where two owners meet");
            note(found, self.path, PRODUCTION_LINES + 1, what);
        }
    }

    fn check_library(&self, source: &str, found: &mut Vec<Violation>) {
        let Some(name) = Tree::crate_of(self.path).filter(|_| self.path.ends_with("/src/lib.rs")) else { return };
        if self.lines > LIB_LINES {
            let what = format!("{} lines, at most {LIB_LINES}: a lib.rs is a table of contents", self.lines);
            note(found, self.path, LIB_LINES + 1, what);
        }
        if name != "testkit" && !source.contains(MONOPOLY) {
            note(found, self.path, 1, format!("say what the crate is for: finish the sentence \"{MONOPOLY} …\""));
        }
    }

    fn check_todos(&self, found: &mut Vec<Violation>) {
        for (number, line) in (1..).zip(self.split.comments.lines()) {
            let unsaid = line.match_indices("TODO").any(|(at, word)| {
                let rest = &line[at + word.len()..];
                !TODO_KINDS.iter().any(|kind| rest.starts_with(kind))
            });
            if unsaid {
                note(
                    found,
                    self.path,
                    number,
                    format!("say what kind of TODO: one of TODO{}", TODO_KINDS.join(", TODO")),
                );
            }
        }
    }

    fn check_unsafe(&self, found: &mut Vec<Violation>) {
        if Tree::crate_of(self.path).is_some_and(|name| RAW_SYSCALL_CRATES.contains(&name)) {
            return;
        }
        for (number, line) in (1..).zip(self.split.code.lines()) {
            if has_word(line, "unsafe") || has_word(line, "unsafe_code") {
                let what = format!("no unsafe code outside {}", RAW_SYSCALL_CRATES.join(" and "));
                note(found, self.path, number, what);
            }
        }
    }

    fn check_forwarding(&self, found: &mut Vec<Violation>) {
        if !FORWARDING.iter().any(|start| self.path.starts_with(start)) {
            return;
        }
        for (number, line) in self.production() {
            for banned in NOT_WHILE_FORWARDING {
                let named = if *banned == "rmcp" { has_word(line, banned) } else { line.contains(banned) };
                if named {
                    let what = format!("`{banned}` in a forwarding file: forward the scanned bytes, splice by offset");
                    note(found, self.path, number, what);
                }
            }
        }
    }
}
