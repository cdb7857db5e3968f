//! What a process said last that says something: the last lines of many programs do not.

use std::collections::VecDeque;

/// How many lines are kept.
const LINES: usize = 20;
/// How much of each, characters.
const CHARS: usize = 500;
/// What a line that names the trouble contains, in lower case.
const TROUBLE: [&str; 4] = ["error", "panic", "fatal", "traceback"];

/// The last lines of one process's stderr.
#[derive(Debug, Default)]
pub(crate) struct LastWords {
    lines: VecDeque<String>,
}

impl LastWords {
    pub(crate) fn add(&mut self, line: &str) {
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line.chars().take(CHARS).collect());
    }

    /// The line that says most about an end: the last one that names a trouble, else the last one that says something,
    /// else the last one.
    pub(crate) fn telling(&self) -> Option<&str> {
        let says = || self.lines.iter().rev().map(|line| line.trim()).filter(|line| says_something(line));
        let last = || self.lines.back().map(|line| line.trim());
        says().find(|line| names_trouble(line)).or_else(|| says().next()).or_else(last)
    }
}

/// Neither a stack frame, nor a mark under source text, nor a closing bracket, nor the version that Node.js ends with.
fn says_something(line: &str) -> bool {
    let marks = line.chars().all(|c| matches!(c, '^' | '~' | '}' | ' '));
    let version = line.strip_prefix("Node.js v").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    !marks && !version && !line.starts_with("at ")
}

fn names_trouble(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    TROUBLE.iter().any(|word| line.contains(word))
}

#[cfg(test)]
mod tests {
    use super::{CHARS, LINES, LastWords};

    fn telling(text: &str) -> Option<String> {
        let mut words = LastWords::default();
        text.lines().for_each(|line| words.add(line));
        words.telling().map(str::to_owned)
    }

    #[test]
    fn a_crash_of_node_is_told_by_its_error() {
        let text = "/srv/x.mjs:3\n    throw new Error(\"no key\");\n    ^\n\nError: no key\n    at main (/srv/x.mjs:3:9)\n    \
            at node:internal/main:1:1 {\n  code: 'NO_KEY'\n}\n\nNode.js v20.11.0\n";
        assert_eq!(telling(text).unwrap(), "Error: no key");
    }

    #[test]
    fn a_traceback_and_a_panic_are_told_by_their_last_words() {
        let text = "Traceback (most recent call last):\n  File \"x.py\", line 1\n    int('x')\n    ~~~^^^^^\nValueError: bad x\n";
        assert_eq!(telling(text).unwrap(), "ValueError: bad x");
        let text = "thread 'main' panicked at src/main.rs:1:1:\nboom\nnote: run with RUST_BACKTRACE=1\n";
        assert_eq!(telling(text).unwrap(), "thread 'main' panicked at src/main.rs:1:1:");
    }

    #[test]
    fn else_the_last_line_that_says_something_counts() {
        assert_eq!(telling("starting\nno key given\n    at x\n}\nNode.js v22.1.0").unwrap(), "no key given");
        assert_eq!(telling("}\nNode.js v22.1.0").unwrap(), "Node.js v22.1.0");
        assert_eq!(telling("Node.js vanished").unwrap(), "Node.js vanished");
        assert_eq!(telling(""), None);
    }

    #[test]
    fn only_so_much_is_kept() {
        let many = format!("error: long ago\n{}", "chatter\n".repeat(LINES));
        assert_eq!(telling(&many).unwrap(), "chatter");
        assert_eq!(telling(&"ä".repeat(CHARS * 2)).unwrap().chars().count(), CHARS);
    }
}
