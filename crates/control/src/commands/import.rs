//! `import`: everything is checked before anything is changed.

use crate::commands::server;
use crate::execute::Parts;
use crate::problem;
use model::{EraPin, Problem, Program, Reply, ServerName, ServerSpec, Target};
use std::collections::BTreeSet;
use std::path::Path;
use store::Store;

/// Servers in one command. More is a mistake.
const MAX_SERVERS: usize = 1000;

/// What became of each server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// New ones.
    pub added: Vec<ServerName>,
    /// Existing ones that have the new settings now.
    pub replaced: Vec<ServerName>,
    /// Existing ones with the same settings.
    pub unchanged: Vec<ServerName>,
    /// Existing ones with other settings, which they keep.
    pub left: Vec<ServerName>,
}

pub(crate) async fn import(parts: &Parts, servers: Vec<ServerSpec>, replace: bool) -> Result<Reply, Problem> {
    server::keeps_servers(parts)?;
    let Imported { added, replaced, unchanged, left } = put_servers(&parts.store, servers, replace).await?;
    if !(added.is_empty() && replaced.is_empty()) {
        server::reconcile(parts).await?;
    }
    Ok(Reply::Imported { added, replaced, unchanged, left })
}

/// Puts servers into the store of a host that is not running, or not yet. Existing ones with other settings are
/// replaced where `replace` says so, else left. Nothing is changed where one of them cannot be hosted.
pub async fn put_servers(store: &Store, servers: Vec<ServerSpec>, replace: bool) -> Result<Imported, Problem> {
    check_all(&servers)?;
    let mut out = Imported::default();
    for spec in servers {
        let name = spec.name.clone();
        let failed = |error: store::StoreError| problem::failed("store the servers", error.blame(), &error);
        let group = match store.server(&name).await.map_err(failed)? {
            None => &mut out.added,
            Some(old) if same(&old, &spec, replace) => {
                out.unchanged.push(name);
                continue;
            }
            Some(_) if !replace => {
                out.left.push(name);
                continue;
            }
            Some(_) => &mut out.replaced,
        };
        store.put_server(spec).await.map_err(failed)?;
        group.push(name);
    }
    Ok(out)
}

/// Whether an operator stopped a server is not a setting of the file, unless the file is to replace everything.
fn same(old: &ServerSpec, new: &ServerSpec, replace: bool) -> bool {
    let enabled = if replace { new.enabled } else { old.enabled };
    *old == ServerSpec { generation: old.generation, enabled, ..new.clone() }
}

/// Reports every server that cannot be hosted, not only the first.
fn check_all(servers: &[ServerSpec]) -> Result<(), Problem> {
    if servers.len() > MAX_SERVERS {
        return Err(problem::usage(
            format!("{} servers are too many at once; at most {MAX_SERVERS} are taken", servers.len()),
            None,
        ));
    }
    let mut names = BTreeSet::new();
    let mut wrong: Vec<String> = servers.iter().filter_map(|spec| check(spec).err()).collect();
    wrong.extend(
        servers.iter().filter(|spec| !names.insert(&spec.name)).map(|spec| format!("{} is given twice", spec.name)),
    );
    if wrong.is_empty() {
        return Ok(());
    }
    let hint = "nothing was changed: mend these and import again".to_owned();
    Err(problem::usage(format!("cannot host these servers: {}", wrong.join("; ")), Some(hint)))
}

/// What no operating system could start. Says what is wrong, never a value of the environment.
fn check(spec: &ServerSpec) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{}: {what}", spec.name));
    let Program { command, args, env, cwd } = match &spec.target {
        Target::Program(_) if spec.era == EraPin::Sse => {
            return wrong("the era `sse` is that of a remote server; a program speaks over its stdin and stdout");
        }
        Target::Program(program) => program,
        // Its own constructor has checked it.
        Target::Remote(_) => return Ok(()),
    };
    let texts = || args.iter().chain(env.keys()).chain(env.values()).chain(cwd).chain([command]);
    if command.trim().is_empty() {
        return wrong("its command is empty");
    }
    if texts().any(|text| text.contains('\0')) {
        return wrong("a NUL character cannot be passed to a program");
    }
    if env.keys().any(|name| name.is_empty() || name.contains('=')) {
        return wrong("a name of its environment is empty or contains `=`");
    }
    if cwd.as_ref().is_some_and(|cwd| !Path::new(cwd).is_absolute()) {
        return wrong("its working directory is not an absolute path");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::put_servers;
    use model::{ProblemCode, ServerSpec};
    use store::{Location, Store};

    fn spec(name: &str, command: &str) -> ServerSpec {
        ServerSpec::new(name.parse().unwrap(), command, vec![])
    }

    async fn store(dir: &tempfile::TempDir) -> Store {
        Store::open(Location::Sqlite(dir.path().join("db/staithe.db"))).await.unwrap()
    }

    #[tokio::test]
    async fn each_server_is_added_replaced_left_or_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        let first = put_servers(&store, vec![spec("a", "x"), spec("b", "x")], false).await.unwrap();
        assert_eq!(first.added.len(), 2);
        let second = put_servers(&store, vec![spec("a", "x"), spec("b", "y"), spec("c", "z")], false).await.unwrap();
        assert_eq!([second.unchanged[0].as_str(), second.left[0].as_str(), second.added[0].as_str()], ["a", "b", "c"]);
        let b = store.server(&"b".parse().unwrap()).await.unwrap().unwrap();
        assert_eq!(b.program().unwrap().command, "x");
        let third = put_servers(&store, vec![spec("b", "y")], true).await.unwrap();
        assert_eq!(third.replaced[0].as_str(), "b");
        let b = store.server(&"b".parse().unwrap()).await.unwrap().unwrap();
        assert_eq!((b.program().unwrap().command.as_str(), b.generation), ("y", 2));
    }

    #[tokio::test]
    async fn nothing_is_changed_where_one_is_wrong_and_all_wrong_ones_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        let mut env = spec("env", "x");
        env.program_mut().unwrap().env.insert("A=B".to_owned(), "hunter2".to_owned());
        let mut cwd = spec("cwd", "x");
        cwd.program_mut().unwrap().cwd = Some("here".to_owned());
        let all = vec![spec("good", "x"), spec("empty", " "), spec("nul", "a\0b"), env, cwd, spec("good", "y")];
        let problem = put_servers(&store, all, true).await.unwrap_err();
        assert_eq!(problem.code, ProblemCode::Usage);
        for name in ["empty: ", "nul: ", "env: ", "cwd: ", "good is given twice"] {
            assert!(problem.message.contains(name), "{problem}");
        }
        assert!(!problem.message.contains("hunter2"));
        assert!(store.servers().await.unwrap().is_empty());
    }
}
