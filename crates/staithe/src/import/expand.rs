//! Variables in other programs' files: `${env:NAME}`, `${NAME}`, `${NAME:-default}`, `${input:id}`, `${workspaceFolder}`,
//! `${userHome}` and their kin. Errors name variables, never values.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What surrounds a file: the environment to read from and the folder that it belongs to.
pub(crate) struct Surroundings<'a> {
    /// Looks an environment variable up.
    pub(crate) env: &'a dyn Fn(&str) -> Option<String>,
    /// The project's folder: what `${workspaceFolder}` and relative paths mean. Absent for standard input.
    pub(crate) folder: Option<PathBuf>,
}

/// The folder that a file belongs to: where it lies, or one above for `.vscode` and `.cursor`.
pub(crate) fn folder_of(file: &Path) -> Option<PathBuf> {
    let file = std::path::absolute(file).ok()?;
    let folder = file.parent()?;
    let hidden = folder.file_name().is_some_and(|name| name == ".vscode" || name == ".cursor");
    Some(if hidden { folder.parent()? } else { folder }.to_path_buf())
}

/// Expands the texts of one server and remembers which variables were used.
pub(crate) struct Expander<'a> {
    around: &'a Surroundings<'a>,
    inputs: &'a BTreeMap<String, Value>,
    /// Names of what was put in, as they stand between `${` and `}` without defaults.
    pub(crate) used: BTreeSet<String>,
}

impl<'a> Expander<'a> {
    /// An expander that knows the file's `inputs` by id.
    pub(crate) fn new(around: &'a Surroundings<'a>, inputs: &'a BTreeMap<String, Value>) -> Self {
        Self { around, inputs, used: BTreeSet::new() }
    }

    /// `text` with every variable put in. The error says which one has no value and how to give it one.
    pub(crate) fn expand(&mut self, text: &str) -> Result<String, String> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let Some(length) = rest[start..].find('}') else { break };
            out.push_str(&rest[..start]);
            out.push_str(&self.value(&rest[start + 2..start + length])?);
            rest = &rest[start + length + 1..];
        }
        out.push_str(rest);
        Ok(out)
    }

    fn value(&mut self, inside: &str) -> Result<String, String> {
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let value = match name.split_once(':') {
            Some(("env", name)) => self.env_value(name, default),
            Some(("input", id)) => self.input_value(id),
            Some((kind, _)) => Err(format!("${{{kind}:…}} exists only inside its editor")),
            None => self.predefined(name).unwrap_or_else(|| self.env_value(name, default)),
        }?;
        self.used.insert(name.to_owned());
        Ok(value)
    }

    fn env_value(&self, name: &str, default: Option<&str>) -> Result<String, String> {
        let found = (self.around.env)(name).filter(|value| default.is_none() || !value.is_empty());
        let found = found.or_else(|| default.map(str::to_owned));
        found.ok_or_else(|| format!("the environment variable {name} is not set here: set it and import again"))
    }

    /// An editor would ask a person. Here the answer is in `STAITHE_INPUT_<ID>`, else the input's own default.
    fn input_value(&self, id: &str) -> Result<String, String> {
        let variable = input_variable(id);
        let input = self.inputs.get(id);
        let default = input.and_then(|input| input.get("default")).and_then(Value::as_str);
        if let Some(value) = (self.around.env)(&variable).or_else(|| default.map(str::to_owned)) {
            return Ok(value);
        }
        let about = input.and_then(|input| input.get("description")).and_then(Value::as_str);
        let about = about.map(|about| format!(" ({about})")).unwrap_or_default();
        Err(format!(
            "it asks for the input {id:?}{about}: give the answer as {variable} in the environment and import again"
        ))
    }

    fn predefined(&self, name: &str) -> Option<Result<String, String>> {
        let folder = |part: fn(&Path) -> Option<String>| {
            let found = self.around.folder.as_deref().and_then(part);
            found.ok_or_else(|| format!("${{{name}}} means nothing for standard input: import the file by its path"))
        };
        Some(match name {
            "workspaceFolder" | "workspaceRoot" => folder(|path| path.to_str().map(str::to_owned)),
            "workspaceFolderBasename" => folder(|path| path.file_name()?.to_str().map(str::to_owned)),
            "userHome" => self.env_value("HOME", None),
            "pathSeparator" | "/" => Ok("/".to_owned()),
            _ => return None,
        })
    }
}

/// The environment variable that answers an input.
pub(crate) fn input_variable(id: &str) -> String {
    let id: String = id.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    format!("STAITHE_INPUT_{id}")
}

/// The `NAME=VALUE` lines of an env file: comments, `export`, and quotes around a value as usual. A line that is none of
/// these is an error that names its number, not its text.
pub(crate) fn env_file(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut out = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let pair = line.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
        let Some((name, value)) = pair.filter(|(name, _)| !name.is_empty()) else {
            return Err(format!("line {} is not NAME=VALUE", number + 1));
        };
        out.push((name.to_owned(), unquoted(value)));
    }
    Ok(out)
}

fn unquoted(value: &str) -> String {
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote)
            && let Some((inside, _)) = rest.rsplit_once(quote)
        {
            return if quote == '"' { inside.replace("\\n", "\n").replace("\\\"", "\"") } else { inside.to_owned() };
        }
    }
    value.split_once(" #").map_or(value, |(value, _)| value.trim_end()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::{Expander, Surroundings, env_file, folder_of};
    use serde_json::json;
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};

    fn expand(text: &str) -> Result<String, String> {
        let env = |name: &str| match name {
            "KEY" => Some("k".to_owned()),
            "EMPTY" => Some(String::new()),
            "HOME" => Some("/home/a".to_owned()),
            "STAITHE_INPUT_API_KEY" => Some("i".to_owned()),
            _ => None,
        };
        let around = Surroundings { env: &env, folder: Some(PathBuf::from("/p/shop")) };
        let inputs = BTreeMap::from([("region".to_owned(), json!({"id": "region", "default": "eu"}))]);
        Expander::new(&around, &inputs).expand(text)
    }

    #[test]
    fn every_spelling_is_understood() {
        for (text, want) in [
            ("a ${KEY}-${env:KEY} z", "a k-k z"),
            ("${NONE:-d:e}${EMPTY:-x}${EMPTY}", "d:ex"),
            ("${input:api-key}/${input:region}", "i/eu"),
            ("${workspaceFolder}${/}${workspaceFolderBasename}", "/p/shop/shop"),
            ("${userHome}/x", "/home/a/x"),
            ("$KEY {KEY} ${KEY", "$KEY {KEY} ${KEY"),
        ] {
            assert_eq!(expand(text).unwrap(), want);
        }
    }

    #[test]
    fn what_has_no_value_is_named() {
        assert!(expand("${env:NONE}").unwrap_err().contains("variable NONE is not set"));
        assert!(expand("${input:token}").unwrap_err().contains("STAITHE_INPUT_TOKEN"));
        assert!(expand("${command:x.y}").unwrap_err().contains("only inside its editor"));
    }

    #[test]
    fn env_files_are_read_as_usual() {
        let text = "# c\nA=1\nexport B = \"two words # not\" # yes\n\nC='x\"y'\nD=a=b # c\n";
        let want = [("A", "1"), ("B", "two words # not"), ("C", "x\"y"), ("D", "a=b")];
        assert_eq!(env_file(text).unwrap(), want.map(|(n, v)| (n.to_owned(), v.to_owned())));
        assert_eq!(env_file("A=1\nsecret").unwrap_err(), "line 2 is not NAME=VALUE");
    }

    #[test]
    fn an_editor_folder_belongs_to_the_project_above() {
        assert_eq!(folder_of(Path::new("/p/.vscode/mcp.json")).unwrap(), Path::new("/p"));
        assert_eq!(folder_of(Path::new("/p/.mcp.json")).unwrap(), Path::new("/p"));
    }
}
