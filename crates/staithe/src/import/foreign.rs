//! Other programs' server lists, as they are found in the wild, turned into our specs. Nothing is dropped in silence:
//! every field that is not used and every server that is not taken is in the notes, by its path, without its value.

mod remote;
mod settings;

use super::expand::{Expander, Surroundings, env_file};
use super::jsonc::{self, JsoncError};
use model::{Bounds, ServerName, ServerSpec};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Most servers that one file may hold.
const MAX_SERVERS: usize = 1000;
/// Largest env file, bytes.
const MAX_ENV_FILE: u64 = 1024 * 1024;

/// Why a file holds nothing that can be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForeignError {
    /// Not JSON.
    #[error(transparent)]
    Json(#[from] JsoncError),
    /// JSON, but no server list.
    #[error("there is no server list in it: none of `mcpServers`, `servers`, `mcp.servers`, `projects.*.mcpServers`")]
    NoList,
    /// One server without a name around it.
    #[error("it is one server without a name: put it into {{\"mcpServers\": {{\"NAME\": …}}}}")]
    NoName,
    /// Too many.
    #[error("it lists {0} servers; at most {MAX_SERVERS} are taken")]
    TooMany(usize),
}

/// What a note is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// The server was not taken.
    Skipped,
    /// The server was taken, with this difference.
    Changed,
    /// The field has no effect here.
    NotUsed,
}

/// One thing that a person should know about the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Note {
    /// Where in the file.
    pub(crate) path: String,
    /// What it is about.
    pub(crate) kind: Kind,
    /// In words, without values.
    pub(crate) text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Skipped => "skipped",
            Kind::Changed => "changed",
            Kind::NotUsed => "not used",
        };
        write!(f, "{}: {kind}: {}", self.path, self.text)
    }
}

/// What a file holds.
#[derive(Debug, Default)]
pub(crate) struct Foreign {
    /// What can be hosted, in the order of the lists.
    pub(crate) servers: Vec<ServerSpec>,
    /// What else to know.
    pub(crate) notes: Vec<Note>,
}

/// Reads a server list of Claude Desktop, Claude Code, Cursor or VS Code.
pub(crate) fn read(bytes: &[u8], around: &Surroundings<'_>) -> Result<Foreign, ForeignError> {
    let root = jsonc::parse(bytes)?;
    let mut out = Foreign::default();
    let lists = lists(&root, &mut out.notes)?;
    let total = lists.iter().map(|list| list.servers.len()).sum();
    if total > MAX_SERVERS {
        return Err(ForeignError::TooMany(total));
    }
    let mut taken = BTreeMap::new();
    for list in &lists {
        let inputs = inputs(list);
        let folder = list.folder.map(Path::to_path_buf).or_else(|| around.folder.clone());
        let around = &Surroundings { env: around.env, folder };
        let mut asked = Vec::new();
        for (name, server) in list.servers {
            let path = join(&list.path, name);
            let mut reader = Reader {
                path: &path,
                around,
                project: list.folder,
                expander: Expander::new(around, &inputs),
                notes: Vec::new(),
            };
            let spec = reader.spec(name, server);
            asked.extend(reader.expander.used.iter().filter_map(|used| used.strip_prefix("input:")).map(str::to_owned));
            out.notes.append(&mut reader.notes);
            match spec.and_then(|spec| place(spec, &path, &mut taken, &out.servers)) {
                Ok(spec) => out.servers.push(spec),
                Err(text) => out.notes.push(Note { path, kind: Kind::Skipped, text }),
            }
        }
        note_idle_inputs(list, &asked, &mut out.notes);
    }
    Ok(out)
}

/// One `mcpServers` or `servers` object.
struct List<'a> {
    path: String,
    servers: &'a Map<String, Value>,
    /// The `inputs` beside it, with their path.
    inputs: Option<(String, &'a Value)>,
    /// The folder that it belongs to, where that is not the file's.
    folder: Option<&'a Path>,
}

fn lists<'a>(root: &'a Value, notes: &mut Vec<Note>) -> Result<Vec<List<'a>>, ForeignError> {
    let members = root.as_object().ok_or(ForeignError::NoList)?;
    let mut found = Vec::new();
    take_lists("", members, &mut found, notes, |name| matches!(name, "mcp" | "projects"));
    if let Some(mcp) = members.get("mcp") {
        match mcp.as_object() {
            Some(mcp) => take_lists("mcp", mcp, &mut found, notes, |_| false),
            None => notes.push(not_used("mcp".to_owned(), "it is not an object")),
        }
    }
    if let Some(projects) = members.get("projects") {
        take_projects(projects, &mut found, notes);
    }
    if !found.is_empty() {
        return Ok(found);
    }
    if looks_like_server(root) {
        return Err(ForeignError::NoName);
    }
    if !members.is_empty() && members.values().all(looks_like_server) {
        notes.clear();
        return Ok(vec![List { path: String::new(), servers: members, inputs: None, folder: None }]);
    }
    Err(ForeignError::NoList)
}

fn looks_like_server(value: &Value) -> bool {
    ["command", "url", "serverUrl"].iter().any(|name| value.get(name).is_some_and(Value::is_string))
}

/// Takes the lists that stand directly in `members`, and notes every other member except those that `later` looks at.
fn take_lists<'a>(
    path: &str,
    members: &'a Map<String, Value>,
    found: &mut Vec<List<'a>>,
    notes: &mut Vec<Note>,
    later: impl Fn(&str) -> bool,
) {
    let inputs =
        members.get("inputs").filter(|_| members.contains_key("servers") || members.contains_key("mcpServers"));
    for (name, value) in members {
        let path = join(path, name);
        match (name.as_str(), value) {
            ("mcpServers" | "servers", Value::Object(servers)) => {
                let inputs = inputs.map(|inputs| (path.replace(name, "inputs"), inputs));
                found.push(List { path, servers, inputs, folder: None });
            }
            ("mcpServers" | "servers", _) => notes.push(not_used(path, "it is not an object of servers")),
            ("inputs", _) if inputs.is_some() => {}
            _ if later(name) => {}
            _ => notes.push(not_used(path, "it does not describe a server")),
        }
    }
}

/// `~/.claude.json` holds dozens of settings for each of many projects: equal names become one note.
fn take_projects<'a>(projects: &'a Value, found: &mut Vec<List<'a>>, notes: &mut Vec<Note>) {
    let Some(projects) = projects.as_object() else {
        notes.push(not_used("projects".to_owned(), "it is not an object"));
        return;
    };
    let mut others: BTreeMap<&str, usize> = BTreeMap::new();
    for (project, settings) in projects {
        for (name, value) in settings.as_object().into_iter().flatten() {
            match (name.as_str(), value) {
                ("mcpServers", Value::Object(servers)) => {
                    let path = join(&join("projects", project), name);
                    found.push(List { path, servers, inputs: None, folder: Some(Path::new(project)) });
                }
                _ => *others.entry(name).or_default() += 1,
            }
        }
    }
    for (name, count) in others {
        let text = format!("it does not describe a server (in {count} of {} projects)", projects.len());
        notes.push(not_used(join("projects.*", name), text));
    }
}

fn inputs(list: &List<'_>) -> BTreeMap<String, Value> {
    let items = list.inputs.as_ref().and_then(|(_, inputs)| inputs.as_array()).into_iter().flatten();
    items.filter_map(|input| Some((input.get("id")?.as_str()?.to_owned(), input.clone()))).collect()
}

fn note_idle_inputs(list: &List<'_>, asked: &[String], notes: &mut Vec<Note>) {
    let Some((path, inputs)) = &list.inputs else { return };
    let Some(items) = inputs.as_array() else {
        notes.push(not_used(path.clone(), "it is not a list"));
        return;
    };
    for (index, input) in items.iter().enumerate() {
        let path = join(path, &index.to_string());
        match input.get("id").and_then(Value::as_str) {
            None => notes.push(not_used(path, "it has no id")),
            Some(id) if asked.iter().any(|asked| asked == id) => {}
            Some(_) => notes.push(not_used(path, "no server that was taken asks for it")),
        }
    }
}

/// Refuses a second server of the same name, unless it is the same server.
fn place(
    spec: ServerSpec,
    path: &str,
    taken: &mut BTreeMap<ServerName, String>,
    servers: &[ServerSpec],
) -> Result<ServerSpec, String> {
    let Some(first) = taken.get(&spec.name) else {
        taken.insert(spec.name.clone(), path.to_owned());
        return Ok(spec);
    };
    let same = servers.contains(&spec);
    let what = if same { "it is the same server as" } else { "the name is taken by another server," };
    let next = if same { "taken once" } else { "rename one of them" };
    Err(format!("{what} {first}: {next}"))
}

/// Reads one server, field by field.
struct Reader<'a> {
    path: &'a str,
    around: &'a Surroundings<'a>,
    /// The folder of the project whose list this is.
    project: Option<&'a Path>,
    expander: Expander<'a>,
    notes: Vec<Note>,
}

/// What is wrong with one server: a person shall not have to mend and try again for each.
#[derive(Default)]
struct Mistakes(Vec<String>);

impl Mistakes {
    fn or_value<T>(&mut self, read: Result<T, String>) -> Option<T> {
        read.map_err(|mistake| self.0.push(mistake)).ok()
    }
}

impl Reader<'_> {
    /// The error says why the server is not taken.
    fn spec(&mut self, name: &str, server: &Value) -> Result<ServerSpec, String> {
        let fields = server.as_object().ok_or("it is not an object")?;
        if remote::is_remote(fields)? {
            return self.remote_spec(name, fields);
        }
        let mut wrong = Mistakes::default();
        let name = wrong.or_value(self.name(name));
        let program = wrong.or_value(self.program(fields));
        let env = wrong.or_value(self.env(fields));
        let settled = wrong.or_value(self.settle(fields, &USED, &Bounds::NAMES));
        let (Some(name), Some(program), Some(env), Some(settled)) = (name, program, env, settled) else {
            return Err(wrong.0.join("; "));
        };
        let (command, args, cwd) = program;
        let mut spec = ServerSpec::new(name, command, args);
        if let Some(program) = spec.program_mut() {
            program.cwd = cwd;
            program.env = env;
        }
        Ok(settled.put_into(spec))
    }

    /// What is started, with what arguments and where.
    fn program(&mut self, fields: &Map<String, Value>) -> Result<(String, Vec<String>, Option<String>), String> {
        let mut wrong = Mistakes::default();
        let cwd = wrong.or_value(self.cwd(fields));
        let args = wrong.or_value(self.args(fields));
        // The wrappers of Windows are told by the arguments: with wrong ones they cannot be looked for.
        let mut args_left = args.clone().unwrap_or_default();
        let text = wrong.or_value(self.command_text(fields));
        let command = text.filter(|_| args.is_some());
        let command = command.and_then(|text| wrong.or_value(self.command(text, &mut args_left)));
        let (Some(cwd), Some(command)) = (cwd, command) else { return Err(wrong.0.join("; ")) };
        let cwd = cwd.or_else(|| self.place_to_be(&command, &args_left));
        Ok((self.located(command, cwd.as_deref())?, args_left, cwd))
    }

    fn note(&mut self, field: &str, kind: Kind, text: impl Into<String>) {
        self.notes.push(Note { path: join(self.path, field), kind, text: text.into() });
    }

    fn expand(&mut self, field: &str, text: &str) -> Result<String, String> {
        self.expander.expand(text).map_err(|why| format!("in `{field}`: {why}"))
    }

    fn name(&mut self, given: &str) -> Result<ServerName, String> {
        if let Ok(name) = given.parse() {
            return Ok(name);
        }
        let name = slug(given).ok_or("its name has no letter or digit that an address can hold")?;
        self.notes.push(Note {
            path: self.path.to_owned(),
            kind: Kind::Changed,
            text: format!("its name here is {name}"),
        });
        Ok(name)
    }

    fn args(&mut self, fields: &Map<String, Value>) -> Result<Vec<String>, String> {
        let items = match fields.get("args") {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(_) => return Err("`args` is not a list".to_owned()),
        };
        let mut out = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let text = plain_text(item).ok_or_else(|| format!("`args.{index}` is not text"))?;
            let text = self.expand(&format!("args.{index}"), &text)?;
            if windows_path(&text) {
                self.note(
                    &format!("args.{index}"),
                    Kind::Changed,
                    "it looks like a Windows path; it was left as it is",
                );
            }
            out.push(text);
        }
        Ok(out)
    }

    fn command_text(&mut self, fields: &Map<String, Value>) -> Result<String, String> {
        match fields.get("command") {
            Some(Value::String(text)) => Ok(self.expand("command", text)?.trim().to_owned()),
            Some(_) => Err("`command` is not text".to_owned()),
            None => Err("it has no `command`".to_owned()),
        }
    }

    /// The program. What only Windows needs around it (`cmd /c npx`, `npx.cmd`) is taken off.
    fn command(&mut self, mut command: String, args: &mut Vec<String>) -> Result<String, String> {
        let file = command.rsplit(['/', '\\']).next().unwrap_or_default().to_ascii_lowercase();
        if file == "cmd" || file == "cmd.exe" {
            let switch = |arg: &String| matches!(arg.to_ascii_lowercase().as_str(), "/c" | "/d" | "/s");
            let switches = args.iter().take_while(|arg| switch(arg)).count();
            if switches == 0 || args.len() == switches {
                return Err("it starts the Windows command prompt without a program".to_owned());
            }
            args.drain(..switches);
            command = args.remove(0);
            self.note("command", Kind::Changed, "the Windows wrapper `cmd /c` was taken off");
        }
        if let Some(plain) = ["npx.cmd", "npm.cmd", "uvx.exe", "node.exe", "python.exe"].iter().find(|c| **c == command)
        {
            command = plain.split('.').next().unwrap_or_default().to_owned();
            self.note("command", Kind::Changed, format!("`{plain}` is called `{command}` here"));
        }
        match command.is_empty() {
            true => Err("its `command` is empty".to_owned()),
            false if windows_path(&command) => Err("its `command` is a Windows path".to_owned()),
            false => Ok(command),
        }
    }

    fn cwd(&mut self, fields: &Map<String, Value>) -> Result<Option<String>, String> {
        let text = match fields.get("cwd") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => self.expand("cwd", text)?,
            Some(_) => return Err("`cwd` is not text".to_owned()),
        };
        self.absolute("cwd", text).map(Some)
    }

    /// Programs start a server where its project is; we start it in a directory of its own. Where that makes a difference,
    /// the project's folder is taken, or a person is told.
    fn place_to_be(&mut self, command: &str, args: &[String]) -> Option<String> {
        let folder = self.around.folder.as_deref();
        let relative: Vec<usize> = (0..args.len()).filter(|index| relative_path(&args[*index], folder)).collect();
        let program = command.contains('/') && !command.starts_with(['/', '~']);
        if let Some(project) = self.project.filter(|project| project.is_absolute()) {
            if relative.is_empty() && !program {
                return None;
            }
            let project = tidy(project);
            self.note("cwd", Kind::Changed, format!("it has relative paths: it runs in its project, {project}"));
            return Some(project);
        }
        for index in relative {
            self.note(
                &format!("args.{index}"),
                Kind::Changed,
                "it is a relative path; it will be looked for in the server's own state directory: use a full path or give `cwd`",
            );
        }
        None
    }

    /// A program given by a relative path is meant from its directory; we start it from elsewhere.
    fn located(&mut self, command: String, cwd: Option<&str>) -> Result<String, String> {
        match cwd {
            _ if !command.contains('/') => Ok(command),
            Some(cwd) if !command.starts_with(['/', '~']) => Ok(tidy(&Path::new(cwd).join(command))),
            _ => self.absolute("command", command),
        }
    }

    fn absolute(&mut self, field: &str, text: String) -> Result<String, String> {
        if Path::new(&text).is_absolute() {
            return Ok(text);
        }
        let base = match text.strip_prefix("~/") {
            Some(_) => (self.around.env)("HOME").map(Into::into),
            None => self.around.folder.clone(),
        };
        let base =
            base.ok_or_else(|| format!("`{field}` is a relative path and there is nothing that it is relative to"))?;
        let path = base.join(text.strip_prefix("~/").unwrap_or(&text));
        self.note(field, Kind::Changed, format!("the relative path is taken from {}", base.display()));
        Ok(tidy(&path))
    }

    fn env(&mut self, fields: &Map<String, Value>) -> Result<BTreeMap<String, String>, String> {
        let mut out = BTreeMap::new();
        if let Some(file) = fields.get("envFile") {
            let file = file.as_str().ok_or("`envFile` is not text")?;
            let file = self.expand("envFile", file)?;
            let file = self.absolute("envFile", file)?;
            out.extend(
                read_env_file(Path::new(&file)).map_err(|why| format!("its `envFile` {file} cannot be used: {why}"))?,
            );
            self.note(
                "envFile",
                Kind::Changed,
                "its variables were read now; later changes of the file have no effect",
            );
        }
        let given = match fields.get("env") {
            None | Some(Value::Null) => return Ok(out),
            Some(Value::Object(given)) => given,
            Some(_) => return Err("`env` is not an object".to_owned()),
        };
        for (name, value) in given {
            let field = join("env", name);
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err("`env` holds a name that is none".to_owned());
            }
            if value.is_null() {
                out.remove(name);
                continue;
            }
            let value = plain_text(value).ok_or_else(|| format!("`{field}` is not text"))?;
            out.insert(name.clone(), self.expand(&field, &value)?);
        }
        Ok(out)
    }
}

/// Fields that have an effect.
const USED: [&str; 11] =
    ["command", "args", "env", "envFile", "cwd", "type", "disabled", "enabled", "mode", "era", "watch"];

/// The nearest valid name: other characters become `-`, runs of them one.
fn slug(given: &str) -> Option<ServerName> {
    let mut out = String::new();
    for c in given.chars() {
        match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' => out.push(c),
            _ if !out.ends_with('-') => out.push('-'),
            _ => {}
        }
    }
    let out: String = out.trim_matches(|c: char| !c.is_ascii_alphanumeric()).chars().take(64).collect();
    out.parse().ok()
}

fn plain_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

/// Whether `text` names a file from `folder`, or wherever its reader is.
fn relative_path(text: &str, folder: Option<&Path>) -> bool {
    let file = || folder.is_some_and(|folder| folder.join(text).is_file());
    text.starts_with("./") || text.starts_with("../") || (!text.is_empty() && !text.starts_with(['/', '-']) && file())
}

fn windows_path(text: &str) -> bool {
    matches!(text.as_bytes(), [letter, b':', b'\\' | b'/', ..] if letter.is_ascii_alphabetic())
        || text.starts_with("\\\\")
}

fn read_env_file(path: &Path) -> Result<Vec<(String, String)>, String> {
    let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > MAX_ENV_FILE {
        return Err(format!("it has {length} bytes; at most {MAX_ENV_FILE} are read"));
    }
    env_file(&std::fs::read_to_string(path).map_err(|error| error.to_string())?)
}

/// The path as text, without `.` in its middle.
fn tidy(path: &Path) -> String {
    path.components().collect::<PathBuf>().display().to_string()
}

fn not_used(path: String, text: impl Into<String>) -> Note {
    Note { path, kind: Kind::NotUsed, text: text.into() }
}

/// `path.name`, the name quoted where it would be hard to read.
fn join(path: &str, name: &str) -> String {
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-@/$*.".contains(c));
    let name = if plain { name.to_owned() } else { format!("{name:?}") };
    if path.is_empty() { name } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::read;
    use crate::import::expand::Surroundings;
    use model::{Program, Target};
    use std::fmt::Write as _;
    use std::path::{Path, PathBuf};

    fn corpus() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import")
    }

    /// What came out of a file, as text. Values of the environment are shown by their length.
    fn report(bytes: &[u8]) -> String {
        let env = |name: &str| match name {
            "HOME" => Some("/home/ada".to_owned()),
            "PORT" => Some("8080".to_owned()),
            "STAITHE_INPUT_API_KEY" => Some("CANARY-secret-6".to_owned()),
            _ => None,
        };
        let tests = corpus().parent().map(Path::to_path_buf);
        let around = Surroundings { env: &env, folder: tests.clone() };
        let found = match read(bytes, &around) {
            Ok(found) => found,
            Err(error) => return format!("error: {error}\n"),
        };
        let mut out = String::new();
        for spec in &found.servers {
            let on = if spec.enabled { "on" } else { "off" };
            let _ = match &spec.target {
                Target::Program(Program { command, args, env, cwd }) => {
                    let env: Vec<String> = env.iter().map(|(name, value)| format!("{name}({})", value.len())).collect();
                    let cwd = cwd.as_deref().unwrap_or("-");
                    write!(out, "{}: {command} {args:?} env={env:?} cwd={cwd} {on}", spec.name)
                }
                Target::Remote(remote) => {
                    let file = remote.headers_file().unwrap_or("-");
                    write!(out, "{}: {} headers={file} {on}", spec.name, remote.url())
                }
            };
            if (spec.mode, spec.era) != Default::default() {
                let _ = write!(out, " mode={} era={}", spec.mode, spec.era);
            }
            for name in model::Bounds::NAMES {
                let _ = spec.bounds.get(name).map(|value| write!(out, " {name}={value:?}"));
            }
            if !spec.watch.is_default() {
                let _ = write!(out, " watch={}", serde_json::to_string(&spec.watch).unwrap());
            }
            out.push('\n');
        }
        for note in &found.notes {
            let _ = writeln!(out, "{note}");
        }
        out.replace(&tests.unwrap().display().to_string(), "<folder>")
    }

    /// Each `x.json` of the corpus gives exactly what `x.txt` beside it says. `STAITHE_BLESS=1` rewrites the texts.
    #[test]
    fn wild_files_give_what_their_reports_say() {
        let mut seen = 0;
        let mut wrong = String::new();
        for entry in std::fs::read_dir(corpus()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|end| end != "json") {
                continue;
            }
            seen += 1;
            let got = report(&std::fs::read(&path).unwrap());
            assert!(!got.contains("CANARY"), "a secret is shown:\n{got}");
            let beside = path.with_extension("txt");
            if std::env::var_os("STAITHE_BLESS").is_some() {
                stdx::durable::write_file(&beside, got.as_bytes(), 0o644).unwrap();
            } else if got != std::fs::read_to_string(&beside).unwrap_or_default() {
                let _ = writeln!(wrong, "--- {} gives now:\n{got}", path.display());
            }
        }
        assert!(seen >= 11, "the corpus is gone");
        assert!(wrong.is_empty(), "{wrong}");
    }

    /// Half a file, and a file with one broken byte, are errors or reports, never a panic.
    #[test]
    fn damaged_files_do_no_harm() {
        let around = Surroundings { env: &|_| None, folder: None };
        for entry in std::fs::read_dir(corpus()).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            for at in 0..bytes.len() {
                drop(read(&bytes[..at], &around));
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << (at % 8);
                drop(read(&damaged, &around));
            }
        }
    }

    #[test]
    fn too_many_servers_are_refused() {
        let many: Vec<String> = (0..1001).map(|n| format!("\"s{n}\": {{\"command\": \"x\"}}")).collect();
        let text = format!("{{\"mcpServers\": {{{}}}}}", many.join(","));
        assert!(report(text.as_bytes()).contains("it lists 1001 servers"));
    }
}
