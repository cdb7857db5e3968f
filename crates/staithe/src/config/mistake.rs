//! What is wrong in `staithe.toml`, and where.

use std::fmt;

/// One mistake in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// Line and column, counted from 1, where they are known.
    pub(crate) at: Option<(usize, usize)>,
    /// What is wrong and what would be right.
    pub(crate) text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some((line, column)) => write!(f, "line {line}, column {column}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// Line and column of a byte, counted from 1.
pub(super) fn place(text: &str, at: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
    (1 + before.iter().filter(|b| **b == b'\n').count(), 1 + before.len() - line_start)
}
