//! A server's name from the command that starts it.

use model::ServerName;

/// Programs that fetch or run another one, with the options of theirs that take a value.
const RUNNERS: [(&str, &[&str]); 14] = [
    ("npx", &["-p", "--package", "-c", "--call", "-w", "--workspace"]),
    ("npm", &[]),
    ("pnpm", &[]),
    ("bunx", &[]),
    ("bun", &[]),
    ("uvx", &["--from", "--with", "--python", "-p", "--index-url", "--directory"]),
    ("uv", &["--from", "--with", "--python", "-p", "--directory", "--project"]),
    ("pipx", &["--spec", "--python"]),
    ("node", &["-r", "--require", "--import", "--loader"]),
    ("deno", &[]),
    ("python", &["-W", "-X"]),
    ("python3", &["-W", "-X"]),
    ("env", &["-u", "-C"]),
    ("sh", &[]),
];

/// Words that follow a runner and name no program: `npm exec`, `uv run`, `pnpm dlx`, `uv tool run`.
const VERBS: [&str; 6] = ["exec", "run", "dlx", "x", "tool", "start"];

/// The name that a person would give: of the package behind `npx`, `uvx` and the like, of the module behind
/// `python -m`, of the script behind `node`, else of the program. `None` where no name can be made of it.
pub(crate) fn from_command(command: &[String]) -> Option<ServerName> {
    let program = file_name(command.first()?);
    let runner = RUNNERS.iter().find(|(name, _)| *name == program);
    let named = runner.and_then(|(_, with_value)| behind_runner(&command[1..], with_value));
    clean(named.unwrap_or(program))
}

/// The first argument that is neither an option, nor an option's value, nor a runner's verb.
fn behind_runner<'a>(args: &'a [String], with_value: &[&str]) -> Option<&'a str> {
    let mut args = args.iter().map(String::as_str);
    let mut first = true;
    while let Some(arg) = args.next() {
        match arg {
            "-m" => return args.next().map(|module| module.split('.').next().unwrap_or(module)),
            "-c" | "--call" | "--" => return args.next().filter(|_| arg == "--"),
            _ if with_value.contains(&arg) => {
                args.next();
            }
            _ if arg.starts_with('-') || is_assignment(arg) => {}
            _ if first && VERBS.contains(&arg) => {}
            _ => return Some(arg),
        }
        first = first && (arg.starts_with('-') || VERBS.contains(&arg));
    }
    None
}

/// `env NAME=value`, but not the requirement `package==1.2`.
fn is_assignment(arg: &str) -> bool {
    arg.split_once('=').is_some_and(|(name, value)| {
        !value.starts_with('=') && !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
}

fn file_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
}

/// `@scope/server-foo@1.2` → `server-foo`, `./build/index.js` → the folder that says more, `pkg[extra]==1` → `pkg`.
fn clean(text: &str) -> Option<ServerName> {
    let scoped = text.strip_prefix('@').unwrap_or(text);
    let mut parts = scoped
        .trim_end_matches('/')
        .rsplit('/')
        .map(|part| stem(part.split(['@', '[', '=', '<', '>', '~']).next().unwrap_or(part)));
    let dull = |part: &str| {
        matches!(part, "" | "." | ".." | "index" | "main" | "__main__" | "dist" | "build" | "src" | "bin" | "lib")
    };
    let last = parts.next().unwrap_or_default();
    let name = if dull(last) { parts.find(|part| !dull(part)).unwrap_or(last) } else { last };
    let name: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' })
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(64)
        .collect();
    name.parse().ok()
}

fn stem(file: &str) -> &str {
    let scripts = [".js", ".mjs", ".cjs", ".ts", ".mts", ".py", ".sh", ".rb", ".php", ".jar"];
    scripts.iter().find_map(|end| file.strip_suffix(end)).filter(|stem| !stem.is_empty()).unwrap_or(file)
}

#[cfg(test)]
mod tests {
    use super::from_command;

    #[test]
    fn names_are_what_a_person_would_say() {
        for (command, want) in [
            ("npx -y @modelcontextprotocol/server-everything", "server-everything"),
            ("npx -y @scope/server-foo@1", "server-foo"),
            ("npx -y server-foo@latest /data", "server-foo"),
            ("npx --package @a/b -y gadget", "gadget"),
            ("npm exec -- @a/thing@2.0.0", "thing"),
            ("uvx mcp-server-git --repository /x", "mcp-server-git"),
            ("uvx --from git+https://x/y mcp-thing", "mcp-thing"),
            ("uvx mcp[cli]==1.2", "mcp"),
            ("uv tool run mcp-server-time", "mcp-server-time"),
            ("uv --directory /srv/weather run server.py", "server"),
            ("python3 -u -m mcp_server_time.main --x", "mcp_server_time"),
            ("node /srv/weather/dist/index.js", "weather"),
            ("env A=b /opt/bin/fish-server", "fish-server"),
            ("/usr/bin/my-server --stdio", "my-server"),
            ("./target/release/echo", "echo"),
            ("bash -lc x", "bash"),
        ] {
            let command: Vec<String> = command.split(' ').map(str::to_owned).collect();
            assert_eq!(from_command(&command).unwrap().as_str(), want, "{command:?}");
        }
    }

    #[test]
    fn what_gives_no_name_gives_none() {
        assert_eq!(from_command(&["///".to_owned()]), None);
        assert_eq!(from_command(&[]), None);
        assert_eq!(from_command(&["../ü".to_owned()]), None);
    }
}
