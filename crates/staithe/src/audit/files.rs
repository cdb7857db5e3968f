//! The files that people give to `staithe audit`: public keys, and whatever else is read whole.

use crate::fault;
use ledger::keys_text::KeysTextError;
use ledger::{LogKeys, Verifier};
use model::Problem;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// Bytes of the longest file of keys.
const MAX_KEYS: usize = 1 << 20;

/// All of a file that is at most `limit` bytes long. `None`: it is longer. It may be a pipe.
pub(super) fn read(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, Problem> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(Some(bytes).filter(|bytes| bytes.len() <= limit)),
        Err(error) => {
            let hint = if error.kind() == ErrorKind::NotFound { "there is no such file" } else { "" };
            Err(fault::because(&format!("read {}", path.display()), &error, hint))
        }
    }
}

/// Verifier keys (C2SP signed-note), one per line. Empty lines, and those that begin with `#`, say nothing.
pub(super) fn keys(path: &Path) -> Result<Vec<Verifier>, Problem> {
    let wrong = |why: String| {
        let hint = "give a file with one verifier key per line, like example.com/log+1a2b3c4d+AV…";
        fault::usage(format!("{}: {why}", path.display()), hint)
    };
    let bytes = read(path, MAX_KEYS)?.ok_or_else(|| wrong("longer than 1 MiB".to_owned()))?;
    let text = String::from_utf8(bytes).map_err(|_| wrong("not UTF-8".to_owned()))?;
    let mut keys: Vec<Verifier> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key: Verifier = line.parse().map_err(|error| wrong(format!("line {}: {error}", at + 1)))?;
        if keys.contains(&key) {
            return Err(wrong(format!("line {} repeats a key", at + 1)));
        }
        keys.push(key);
    }
    if keys.is_empty() { Err(wrong("there is no key in it".to_owned())) } else { Ok(keys) }
}

/// The keys of one log, both kinds of them: a file of theirs and nothing else.
pub(super) fn keys_of_one_log(path: &Path) -> Result<LogKeys, Problem> {
    let wrong = |why: &dyn std::fmt::Display| {
        let hint = "a log of staithe has two keys of one name, Ed25519 and ML-DSA-44, one per line; both must be in the file, and no others";
        fault::usage(format!("{}: {why}", path.display()), hint)
    };
    let bytes = read(path, MAX_KEYS)?.ok_or_else(|| wrong(&"longer than 1 MiB"))?;
    let text = String::from_utf8(bytes).map_err(|_| wrong(&"not UTF-8"))?;
    text.parse().map_err(|error: KeysTextError| wrong(&error))
}

#[cfg(test)]
mod tests {
    use super::keys;
    use ledger::{Kind, Signer, Verifier};
    use model::ProblemCode;

    fn key(kind: Kind, name: &str, seed: u8) -> Verifier {
        Signer::from_seed(kind, name, &[seed; 32]).unwrap().verifier().clone()
    }

    #[test]
    fn a_file_of_keys_has_comments_and_blank_lines_and_no_mistakes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let (one, other) = (key(Kind::Ed25519, "a", 1), key(Kind::MlDsa44Cosignature, "a", 1));
        let read = |text: &str| {
            stdx::durable::write_file(&path, text.as_bytes(), 0o600).unwrap();
            keys(&path)
        };
        assert_eq!(read(&format!("# both\n\n{one}\r\n  {other}")).unwrap(), [one.clone(), other]);
        let long = "#".repeat((1 << 20) + 1);
        for bad in ["", "# nothing\n", "x\n", &format!("{one}\n{one}\n"), &format!("{one} # mine\n"), &long] {
            let problem = read(bad).unwrap_err();
            assert_eq!(problem.code, ProblemCode::Usage, "{bad}");
        }
        assert_eq!(keys(&dir.path().join("none")).unwrap_err().code, ProblemCode::Failed);
    }
}
