//! The only code that stands in for the outside world in tests and benches: hosted servers (the binaries of this crate)
//! and an MCP client that can say anything, right or wrong, over HTTP.
//!
//! May import: everything of ours. The binaries use `stdx` alone, because they stand for strangers' programs.

mod client;
pub mod corpus;
mod files;
mod http1;
pub mod matrix;
mod sse;
mod upstream;
pub mod wait;

pub use client::{Client, MODERN, Session};
pub use files::copy_tree;
pub use http1::{HttpError, Response, Stream};
pub use sse::Event;
pub use upstream::{Kind, Odd, Seen, Upstream};

use std::path::PathBuf;

/// The path of one of our binaries (`everything`, `odd`, `rmcp-server`, `echo`, `staithe`), built in the same profile as the
/// running test or bench.
///
/// # Panics
/// When the binary is not there; the text says which command builds it.
pub fn bin(name: &str) -> PathBuf {
    let me = std::env::current_exe().unwrap_or_default();
    // Test executables are in `<profile>/deps/`, benches and programs in `<profile>/`.
    let found = me.ancestors().skip(1).take(3).map(|directory| directory.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| missing(name, &me))
}

#[expect(clippy::panic, reason = "a test that cannot run must fail, and say how to make it run")]
fn missing(name: &str, me: &std::path::Path) -> ! {
    let package = if name == "staithe" { "staithe" } else { "staithe-testkit" };
    let profile = if me.components().any(|part| part.as_os_str() == "release") { " --release" } else { "" };
    panic!(
        "the binary {name} is not built beside {}; run: cargo build{profile} -p {package} --bin {name}",
        me.display()
    )
}

#[cfg(test)]
mod tests {
    #[test]
    #[should_panic(expected = "-p staithe-testkit --bin no-such-binary")]
    fn an_absent_binary_names_the_command_that_builds_it() {
        super::bin("no-such-binary");
    }
}
