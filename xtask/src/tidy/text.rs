//! Splits Rust source into code and comments, so that a rule about code does not fire on a sentence or a string.

/// A source file in two views. Each has every byte of the other kind blanked, so that lines stay where they are.
#[derive(Debug)]
pub(super) struct Split {
    /// Code; comments and the insides of strings are blank.
    pub(super) code: String,
    /// Comments; everything else is blank.
    pub(super) comments: String,
}

/// Splits `source`. Never fails: what is not Rust ends up as code.
pub(super) fn split(source: &str) -> Split {
    let bytes = source.as_bytes();
    let mut code = blank(bytes);
    let mut comments = code.clone();
    let mut at = 0;
    while at < bytes.len() {
        let end = at + token_len(bytes, at);
        match bytes[at] {
            b'/' if end > at + 1 => comments[at..end].copy_from_slice(&bytes[at..end]),
            _ if end == at + 1 => code[at] = bytes[at],
            _ => {}
        }
        at = end;
    }
    Split { code: text(code), comments: text(comments) }
}

/// Lines of `code` before its first test module.
pub(super) fn production_lines(code: &str) -> usize {
    let lines: Vec<&str> = code.lines().map(str::trim).collect();
    for (number, line) in lines.iter().enumerate() {
        let next = lines[number + 1..].iter().find(|line| !line.is_empty() && !line.starts_with("#["));
        if line.starts_with("#[cfg(test)]") && next.is_some_and(|line| line.split_whitespace().any(|w| w == "mod")) {
            return number;
        }
    }
    lines.len()
}

/// Whether `word` stands in `line` with no letter, digit or underscore around it.
pub(super) fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(in_word);
        let after = line[at + word.len()..].chars().next().is_some_and(in_word);
        !before && !after
    })
}

/// The names in `line` that a keyword declares.
pub(super) fn declared<'a>(line: &'a str, keywords: &[&str]) -> Option<&'a str> {
    let mut words = line.split(|c: char| !in_word(c)).filter(|word| !word.is_empty());
    words.find(|word| keywords.contains(word))?;
    words.next()
}

fn in_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Bytes of the comment, string or character literal that begins at `at`; 1 where none does.
fn token_len(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    match rest {
        [b'/', b'/', ..] => rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => block_comment_len(rest),
        [b'"', ..] => 1 + quoted_len(&rest[1..], b'"'),
        [b'\'', b'\\', ..] => 1 + quoted_len(&rest[1..], b'\''),
        [b'\'', ..] => char_len(rest),
        [b'r', ..] if starts_token(bytes, at) => raw_string_len(rest).unwrap_or(1),
        _ => 1,
    }
}

fn block_comment_len(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// Bytes up to and with the closing `quote`, escapes considered.
fn quoted_len(rest: &[u8], quote: u8) -> usize {
    let mut at = 0;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// A character literal has one character and its quote; anything else is a lifetime.
fn char_len(rest: &[u8]) -> usize {
    let width = match rest.get(1) {
        Some(0xf0..) => 4,
        Some(0xe0..) => 3,
        Some(0xc0..) => 2,
        _ => 1,
    };
    if rest.get(1 + width) == Some(&b'\'') { width + 2 } else { 1 }
}

fn raw_string_len(rest: &[u8]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return None;
    }
    let open = hashes + 2;
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let end = rest[open..].windows(close.len()).position(|window| window == close);
    Some(end.map_or(rest.len(), |end| open + end + close.len()))
}

/// Whether the `r` at `at` begins a token, or follows the `b` or `c` that does.
fn starts_token(bytes: &[u8], at: usize) -> bool {
    let word = |at: usize| bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_';
    match at {
        0 => true,
        _ if !word(at - 1) => true,
        _ => matches!(bytes[at - 1], b'b' | b'c') && (at == 1 || !word(at - 2)),
    }
}

fn blank(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }).collect()
}

/// Cutting at token borders keeps UTF-8 whole, except for what is not Rust at all.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::{declared, has_word, production_lines, split};

    #[test]
    fn strings_and_comments_are_not_code() {
        let source = "let a = \"unsafe \\\" //\"; // TODO x\nlet b = r#\"unsafe \"\"#; /* unsafe /* y */ */ let c: &'a u8 = &b'\"'; unsafe {}\n";
        let split = split(source);
        assert_eq!(split.code.matches("unsafe").count(), 1);
        assert!(split.code.contains("let c: &'a u8"));
        assert!(split.comments.contains("TODO x") && split.comments.contains("/* y */"));
        assert_eq!(split.code.lines().count(), 2);
        assert_eq!(split.code.len(), source.len());
    }

    #[test]
    fn quotes_in_character_literals_open_no_string() {
        let split = split("x('\"', '\\'', 'é', '→', b'\\\\'); let r = br\"unsafe\"; for r in s {} // end");
        assert!(!split.code.contains("unsafe"));
        assert!(split.code.contains("for r in s {}"));
        assert_eq!(split.comments.trim(), "// end");
    }

    #[test]
    fn tests_begin_at_their_module() {
        assert_eq!(
            production_lines("a\n#[cfg(test)]\nfn only_here() {}\nb\n#[cfg(test)]\n#[path = x]\nmod tests {\n"),
            4
        );
        assert_eq!(production_lines("a\nb\n"), 2);
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("use rmcp::x", "rmcp") && !has_word("termcprs", "rmcp"));
        assert_eq!(declared("pub(crate) struct FooHandler<T>", &["struct"]), Some("FooHandler"));
        assert_eq!(declared("let structure = 1", &["struct"]), None);
    }
}
