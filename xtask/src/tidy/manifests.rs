//! Rules about `Cargo.toml`: the import table, who keeps which crate of others, shared lints.

use super::{DEV_CRATES, Imports, KEPT_BY, MAY_IMPORT, NOT_IN, RAW_SYSCALL_CRATES, Tree, Violation, note};
use toml::{Table, Value};

/// Checks the workspace's manifest and every crate's.
pub(super) fn check(tree: &Tree, found: &mut Vec<Violation>) {
    let root = parse(tree, "Cargo.toml", found).unwrap_or_default();
    check_workspace(tree, &root, found);
    let manifests = tree.paths().filter(|path| {
        let directory = path.strip_suffix("/Cargo.toml").unwrap_or_default();
        directory == "xtask" || directory.strip_prefix("crates/").is_some_and(|name| !name.contains('/'))
    });
    for path in manifests.map(str::to_owned).collect::<Vec<_>>() {
        let Some(name) = Tree::crate_of(&path) else { continue };
        let Some((_, imports)) = MAY_IMPORT.iter().find(|(known, _)| *known == name) else {
            let what = format!(
                "crate `{name}` is not in the import table: a new crate needs a new sentence, in the design and in tidy.rs"
            );
            note(found, &path, 1, what);
            continue;
        };
        if let Some(manifest) = parse(tree, &path, found) {
            let crate_ = Manifest { path: &path, name, text: tree.text(&path).unwrap_or_default() };
            crate_.check_lints(&manifest, found);
            for (key, package) in dependencies(&manifest, &root) {
                crate_.check_ours(&key, &package, *imports, found);
                crate_.check_others(&key, &package, found);
            }
        }
    }
}

fn check_workspace(tree: &Tree, root: &Table, found: &mut Vec<Violation>) {
    let lint = dig(root, &["workspace", "lints", "rust", "unsafe_code"]).and_then(Value::as_str);
    if lint != Some("forbid") {
        let line = line_of(&tree.text("Cargo.toml").unwrap_or_default(), "unsafe_code");
        note(found, "Cargo.toml", line, "[workspace.lints.rust] unsafe_code must be \"forbid\"");
    }
}

struct Manifest<'a> {
    path: &'a str,
    name: &'a str,
    text: String,
}

// === impl Manifest ===

impl Manifest<'_> {
    fn check_lints(&self, manifest: &Table, found: &mut Vec<Violation>) {
        let shared = dig(manifest, &["lints", "workspace"]).and_then(Value::as_bool) == Some(true);
        if !shared && !RAW_SYSCALL_CRATES.contains(&self.name) {
            let what = "the crate does not share the workspace's lints: add `[lints]` with `workspace = true`";
            note(found, self.path, line_of(&self.text, "[lints]"), what);
        }
    }

    fn check_ours(&self, key: &str, package: &str, imports: Imports, found: &mut Vec<Violation>) {
        let Some(ours) = our_name(package) else { return };
        let allowed = match imports {
            Imports::Only(list) => list.contains(&ours),
            Imports::Product => !DEV_CRATES.contains(&ours),
            Imports::All => true,
        };
        if !allowed {
            let what = format!(
                "`{}` may not import `{ours}`: move the code to where it belongs, or change the design's table first",
                self.name
            );
            note(found, self.path, line_of(&self.text, key), what);
        }
    }

    fn check_others(&self, key: &str, package: &str, found: &mut Vec<Violation>) {
        let line = line_of(&self.text, key);
        for (kept, keepers, why) in KEPT_BY {
            if *kept == package && !keepers.contains(&self.name) {
                let what = format!("`{package}` may only be a dependency of {}: {why}", keepers.join(", "));
                note(found, self.path, line, what);
            }
        }
        for (crate_, banned, why) in NOT_IN {
            if *crate_ == self.name && *banned == package {
                note(found, self.path, line, format!("`{crate_}` may not depend on `{banned}`: {why}"));
            }
        }
    }
}

/// The table's name of one of our packages.
fn our_name(package: &str) -> Option<&str> {
    match package {
        "staithe" | "xtask" => Some(package),
        _ => package.strip_prefix("staithe-"),
    }
}

/// Key and package of everything that the crate itself is built from: not `[dev-dependencies]`.
fn dependencies(manifest: &Table, root: &Table) -> Vec<(String, String)> {
    let mut tables = vec![manifest.get("dependencies"), manifest.get("build-dependencies")];
    for target in manifest.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values) {
        tables.extend([target.get("dependencies"), target.get("build-dependencies")]);
    }
    let entries = tables.into_iter().flatten().filter_map(Value::as_table).flatten();
    entries.map(|(key, value)| (key.clone(), package(key, value, root))).collect()
}

/// The package behind a dependency's key, renames in the workspace's table followed.
fn package(key: &str, value: &Value, root: &Table) -> String {
    let inherited = dig(root, &["workspace", "dependencies", key]);
    let named = |value: &Value| value.get("package").and_then(Value::as_str).map(str::to_owned);
    named(value).or_else(|| inherited.and_then(named)).unwrap_or_else(|| key.to_owned())
}

fn parse(tree: &Tree, path: &str, found: &mut Vec<Violation>) -> Option<Table> {
    let Some(text) = tree.text(path) else {
        note(found, path, 1, "the file is missing");
        return None;
    };
    text.parse().map_err(|error| note(found, path, 1, format!("not TOML: {error}"))).ok()
}

fn dig<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(table.get(*first)?, |value, key| value.get(key))
}

/// The first line that begins with `start`; 1 where none does.
fn line_of(text: &str, start: &str) -> usize {
    text.lines().position(|line| line.starts_with(start)).map_or(1, |index| index + 1)
}
