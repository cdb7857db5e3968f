//! Each rule can fail: a small tree that keeps every rule, and one change for each rule that breaks it. The last
//! test holds the real tree to the rules.

use super::check;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A tree that keeps every rule.
const GOOD: &[(&str, &str)] = &[
    (
        "Cargo.toml",
        "[workspace]\n[workspace.dependencies]\nstdx = { package = \"staithe-stdx\", path = \"crates/stdx\" }\n\
         control = { package = \"staithe-control\", path = \"crates/control\" }\n\
         testkit = { package = \"staithe-testkit\", path = \"crates/testkit\" }\nrusqlite = \"1\"\n\
         [workspace.lints.rust]\nunsafe_code = \"forbid\"\n",
    ),
    ("crates/stdx/Cargo.toml", "[package]\nname = \"staithe-stdx\"\n[lints]\nworkspace = true\n"),
    ("crates/stdx/src/lib.rs", "//! The only code that touches time.\n"),
    (
        "crates/gateway/Cargo.toml",
        "[lints]\nworkspace = true\n[dependencies]\nstdx.workspace = true\nhyper = \"1\"\n\
         [dev-dependencies]\ntestkit.workspace = true\nrusqlite = \"1\"\nrmcp = \"3\"\n",
    ),
    ("crates/gateway/src/lib.rs", "//! The only code that faces the public.\n"),
    (
        "crates/gateway/src/call.rs",
        "//! One call.\n// rmcp drops fields\n#[cfg(test)]\nmod tests {\n use rmcp::x;\n}\n",
    ),
    ("ARCHITECTURE.md", "`stdx`, `gateway`; see crates/gateway/src/call.rs.\n"),
    ("docs/decisions/0001-one-thing.md", "# One thing\n## Context\n## Decision\n## What we gave up\n"),
];

/// A tree on disk.
struct Fake(PathBuf);

impl Fake {
    /// `GOOD` with `changes` written over it.
    fn with(changes: &[(&str, &str)]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("staithe-tidy-{}-{number}", std::process::id()));
        for (path, content) in GOOD.iter().chain(changes) {
            let path = root.join(path);
            stdx::durable::make_dir(path.parent().unwrap(), 0o700).unwrap();
            stdx::durable::write_file(&path, content.as_bytes(), 0o600).unwrap();
        }
        Self(root)
    }

    /// Every violation as text; removes the tree.
    fn violations(self) -> Vec<String> {
        let found = check(&self.0).unwrap();
        std::fs::remove_dir_all(&self.0).unwrap();
        found.iter().map(ToString::to_string).collect()
    }
}

/// Writing `content` to `path` breaks exactly one rule, at that place, with these words.
#[track_caller]
fn breaks(path: &str, content: &str, line: usize, words: &str) {
    let found = Fake::with(&[(path, content)]).violations();
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].starts_with(&format!("{path}:{line}: ")), "{found:#?}");
    assert!(found[0].contains(words), "{found:#?}");
}

/// A manifest of `gateway` with one more line of dependencies.
fn gateway(line: &str) -> String {
    format!("[lints]\nworkspace = true\n[dependencies]\n{line}\n")
}

const GATEWAY: &str = "crates/gateway/Cargo.toml";

#[test]
fn a_good_tree_has_no_violation() {
    assert_eq!(Fake::with(&[]).violations(), Vec::<String>::new());
}

/// Traffic cannot reach what changes a launch command: `gateway` never imports `control` (E278).
#[test]
fn the_import_table_is_held() {
    breaks(GATEWAY, &gateway("control.workspace = true"), 4, "`gateway` may not import `control`");
    breaks(GATEWAY, &gateway("ctl = { package = \"staithe-control\", path = \"../control\" }"), 4, "`control`");
    breaks(GATEWAY, &gateway("testkit.workspace = true"), 4, "`testkit`");
    let target = "[lints]\nworkspace = true\n[target.'cfg(unix)'.dependencies]\ncontrol.workspace = true\n";
    breaks(GATEWAY, target, 4, "`control`");
    let build = "[lints]\nworkspace = true\n[build-dependencies]\ncontrol.workspace = true\n";
    breaks(GATEWAY, build, 4, "`control`");
}

#[test]
fn a_new_crate_needs_a_new_sentence() {
    let found = Fake::with(&[("crates/extra/Cargo.toml", "[lints]\nworkspace = true\n")]).violations();
    assert!(found.iter().any(|v| v.contains("a new crate needs a new sentence")), "{found:#?}");
    assert!(found.iter().any(|v| v.contains("ARCHITECTURE.md:1: does not name the crate `extra`")), "{found:#?}");
}

#[test]
fn crates_of_others_have_their_keepers() {
    for name in ["rusqlite", "postgres", "rustix", "rmcp"] {
        breaks(GATEWAY, &gateway(&format!("{name} = \"1\"")), 4, &format!("`{name}` may only be a dependency of"));
    }
    let renamed = gateway("db = { package = \"rusqlite\", version = \"1\" }");
    breaks(GATEWAY, &renamed, 4, "SQL lives in store");
    let stdx = "[lints]\nworkspace = true\n[dependencies]\nhyper = \"1\"\n";
    breaks("crates/stdx/Cargo.toml", stdx, 4, "HTTP lives at the two faces");
    let wire = [
        ("crates/wire/Cargo.toml", "[lints]\nworkspace = true\n[dependencies]\nserde_json = \"1\"\n"),
        ("crates/wire/src/lib.rs", "//! The only code that knows JSON-RPC.\n"),
        ("ARCHITECTURE.md", "`stdx`, `gateway`, `wire`\n"),
    ];
    let found = Fake::with(&wire).violations();
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].contains("crates/wire/Cargo.toml:4: `wire` may not depend on `serde_json`"), "{found:#?}");
}

#[test]
fn every_crate_shares_the_lints() {
    breaks(GATEWAY, "[package]\n[lints]\nworkspace = false\n", 2, "workspace = true");
    breaks(GATEWAY, "[package]\n", 1, "workspace = true");
    breaks("Cargo.toml", "[workspace.lints.rust]\nunsafe_code = \"deny\"\n", 2, "forbid");
    breaks(GATEWAY, "[lints\n", 1, "not TOML");
}

#[test]
fn files_have_their_shape() {
    breaks("crates/stdx/src/x.rs", "fn x() {}\n", 1, "does not begin with `//!`");
    breaks("crates/stdx/src/lib.rs", "//! Things about time.\n", 1, "finish the sentence");
    let long = format!("//! The only code that is long.\n{}", "//\n".repeat(150));
    breaks("crates/stdx/src/lib.rs", &long, 151, "table of contents");
    let long = format!("//! Long.\n{}", "fn f() {}\n".repeat(600));
    breaks("crates/stdx/src/x.rs", &long, 601, "601 lines before the tests");
    let tested = format!(
        "//! Long.\n{}#[cfg(test)]\nmod tests {{\n{}}}\n",
        "fn f() {}\n".repeat(590),
        "fn f() {}\n".repeat(300)
    );
    assert_eq!(Fake::with(&[("crates/stdx/src/x.rs", &tested)]).violations(), Vec::<String>::new());
}

/// Comments, and the daemon's side of the socket, are no part of what must stay small.
#[test]
fn the_keeper_stays_small() {
    let (_, _, most) = super::CODE_LINES[0];
    let fill = |lines: usize| format!("//! Long.\n{}{}", "fn f() {}\n".repeat(lines), "// why\n\n".repeat(9));
    let sized = |lines: usize| {
        let parts = (0..lines).step_by(500).map(|from| fill(500.min(lines - from))).collect::<Vec<_>>();
        let named = parts.into_iter().enumerate().map(|(at, part)| (format!("crates/keeper/src/part{at}.rs"), part));
        let files: Vec<_> = named.chain([("crates/keeper/src/client.rs".to_owned(), fill(500))]).collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        let found = Fake::with(&files).violations();
        found.into_iter().filter(|violation| !violation.starts_with("ARCHITECTURE.md")).collect::<Vec<_>>()
    };
    assert_eq!(sized(most), Vec::<String>::new());
    let found = sized(most + 1);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].contains("read in one sitting"), "{found:#?}");
}

#[test]
fn names_say_something() {
    for name in super::BANNED_NAMES {
        breaks(&format!("crates/stdx/src/{name}.rs"), "//! X.\n", 1, "says nothing");
        breaks("crates/stdx/src/x.rs", &format!("//! X.\npub(crate) mod {name} {{}}\n"), 2, "says nothing");
    }
    breaks("crates/stdx/src/misc/x.rs", "//! X.\n", 1, "`misc` says nothing");
    for line in
        ["pub struct CallHandler<T>(T);", "enum UserService {}", "pub(crate) trait Manager {}", "type XHandler = u8;"]
    {
        breaks("crates/stdx/src/x.rs", &format!("//! X.\n{line}\n"), 2, "name the type after what it is");
    }
    let demanded = "//! X.\nimpl Y for Z {\n    type MakeService = u8;\n}\n// struct XHandler\n";
    assert_eq!(Fake::with(&[("crates/stdx/src/x.rs", demanded)]).violations(), Vec::<String>::new());
}

#[test]
fn a_todo_says_its_kind() {
    breaks("crates/stdx/src/x.rs", "//! X.\n\n// TODO: later\n", 3, "say what kind");
    breaks("crates/stdx/src/x.rs", "//! X.\n// TODO(me): later\n", 2, "say what kind");
    let good = "//! X.\n// TODO(hardening): bound it\nconst T: &str = \"TODO\";\n";
    assert_eq!(Fake::with(&[("crates/stdx/src/x.rs", good)]).violations(), Vec::<String>::new());
}

#[test]
fn unsafe_is_nowhere() {
    breaks("crates/stdx/src/x.rs", "//! X.\nfn x() { unsafe { y() } }\n", 2, "no unsafe code");
    breaks("crates/stdx/src/x.rs", "//! X.\n#![expect(unsafe_code, reason = \"z\")]\n", 2, "no unsafe code");
    let jail = [
        ("crates/jail/Cargo.toml", "[lints.rust]\nunsafe_code = \"deny\"\n"),
        ("crates/jail/src/lib.rs", "//! The only code that builds a sandbox.\nfn x() { unsafe { y() } }\n"),
        ("ARCHITECTURE.md", "`stdx`, `gateway`, `jail`\n"),
    ];
    assert_eq!(Fake::with(&jail).violations(), Vec::<String>::new());
}

#[test]
fn forwarding_files_build_no_values() {
    for line in
        ["use rmcp::Tool;", "fn x(v: serde_json::Value) {}", "serde_json::from_slice(b)", "use serde_json::json;"]
    {
        let bad = format!("//! One call.\n{line}\n#[cfg(test)]\nmod tests {{}}\n");
        breaks("crates/gateway/src/call.rs", &bad, 2, "in a forwarding file");
        assert_eq!(Fake::with(&[("crates/gateway/src/other.rs", &bad)]).violations(), Vec::<String>::new());
    }
    breaks("crates/gateway/src/stream/open.rs", "//! X.\nuse rmcp::x;\n", 2, "forwarding");
    breaks("crates/gateway/src/exchange.rs", "//! X.\nuse rmcp::x;\n", 2, "forwarding");
}

#[test]
fn the_architecture_tells_the_truth() {
    breaks("ARCHITECTURE.md", "`stdx`\n", 1, "does not name the crate `gateway`");
    breaks(
        "ARCHITECTURE.md",
        "`stdx` `gateway`\nsee crates/gateway/src/gone.rs.\n",
        2,
        "`crates/gateway/src/gone.rs` does not exist",
    );
    breaks("ARCHITECTURE.md", &format!("`stdx` `gateway`\n{}", "\n".repeat(400)), 401, "401 lines");
}

#[test]
fn the_page_of_the_eras_is_the_printed_one() {
    let page = crate::eras::page();
    assert_eq!(Fake::with(&[("docs/eras.md", &page)]).violations(), Vec::<String>::new());
    breaks(
        "docs/eras.md",
        &page.replacen("exact", "perfect", 1),
        1 + line_of(&page, "exact"),
        "run `cargo xtask eras`",
    );
    breaks("docs/eras.md", &format!("{page}more\n"), page.lines().count() + 1, "run `cargo xtask eras`");
}

fn line_of(text: &str, word: &str) -> usize {
    text.lines().position(|line| line.contains(word)).unwrap()
}

#[test]
fn decisions_have_their_form() {
    breaks("docs/decisions/1-x.md", "", 1, "NNNN-title.md");
    breaks("docs/decisions/0002-Title.md", "", 1, "NNNN-title.md");
    breaks("docs/decisions/0002-x.md", "## Context\n## Decision\n", 1, "What we gave up");
    let twin = "## Context\n## Decision\n## What we gave up\n";
    breaks("docs/decisions/0001-other.md", twin, 1, "same number");
}

#[test]
fn no_file_names_somebodys_machine() {
    let home = format!("/{}/somebody/x", "home");
    breaks("README.md", &format!("a\nsee {home}\n"), 2, "somebody's machine");
    breaks("README.md", &format!("\"/{}/jane.doe/x\"", "Users"), 1, "somebody's machine");
    let fine = format!("/{}/you/x, https://x.org{home}, crates{home}, /{}", "home", "home");
    assert_eq!(Fake::with(&[("README.md", &fine)]).violations(), Vec::<String>::new());
    let fake = Fake::with(&[]);
    let place = fake.0.canonicalize().unwrap().join("x");
    stdx::durable::write_file(&fake.0.join("README.md"), place.to_string_lossy().as_bytes(), 0o600).unwrap();
    let found = fake.violations();
    assert!(found.len() == 1 && found[0].contains("README.md:1: names a place"), "{found:#?}");
}

#[test]
fn every_requirement_that_applies_is_cited() {
    const ROWS: &str = "docs/requirements.md";
    const TEST: &str = "crates/stdx/tests/t.rs";
    let rows = "## Messages\n\n| # |\n|---|\n| E3 | MUST |\n\n## Not applying yet\n\n| E4 | MAY |\n";
    breaks(ROWS, rows, 5, "E3 is cited by no test");
    let twice =
        |test: &str, more: &str| Fake::with(&[(ROWS, rows), (TEST, &format!("//! T.\n{test}\n{more}\n"))]).violations();
    for cited in ["fn e3_x() {}", "fn e149_x() {} // E3", "/// (E3, E4): x", "fn x_e3() {}"] {
        let found = twice(cited, "");
        assert!(!found.iter().any(|line| line.contains("E3 is")), "{cited}: {found:#?}");
    }
    for none in ["fn e30_x() {}", "let e3_x = \"E3\";", "// aE3 E3x"] {
        assert!(twice(none, "").iter().any(|line| line.contains("E3 is cited by no test")), "{none}");
    }
    let unknown = twice("fn e3_x() {}", "// E5");
    assert_eq!(unknown, [format!("{TEST}:3: E5 is no row of {ROWS}")]);
    let production = [(ROWS, rows), ("crates/stdx/src/x.rs", "//! X.\n// E3\nfn e3_x() {}\n")];
    assert_eq!(Fake::with(&production).violations().len(), 1, "production code cites nothing");
    for path in ["crates/stdx/src/x.rs", "tests/interop/run.py"] {
        let text = "//! X (E4).\n#[cfg(test)]\nmod tests {\n    // E3\n}\n";
        assert_eq!(Fake::with(&[(ROWS, rows), (path, text)]).violations(), Vec::<String>::new(), "{path}");
    }
    breaks(ROWS, "| E3 | MUST |\n## Not applying yet\n| E3 | MUST |\n", 3, "stands in line 1 too");
}

#[test]
fn the_real_tree_keeps_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    assert!(root.join("docs/requirements.md").is_file(), "the requirements must be listed");
    assert!(root.join(crate::eras::PATH).is_file(), "the era matrix must be printed");
    let found = check(root).unwrap();
    let text: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(text.is_empty(), "{} violations:\n{}", text.len(), text.join("\n"));
}
