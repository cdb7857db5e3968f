//! Whom the pseudonyms in the ledger stand for, as far as that was not erased: asked of the daemon, or read from its database where
//! none runs.

use crate::assemble;
use crate::fault;
use crate::serve;
use crate::state::StateDir;
use model::{Command, Principal, Problem, Reply};
use oauth::Subjects;
use std::collections::HashMap;
use std::path::Path;
use store::Location;

/// Pseudonyms, and who they are.
pub(super) struct Names(HashMap<String, Principal>);

impl Names {
    /// None is known.
    pub(super) fn none() -> Self {
        Self(HashMap::new())
    }

    /// Everybody who has a pseudonym now.
    pub(super) async fn read(state: &StateDir, config: Option<&Path>) -> Result<Self, Problem> {
        let asked = match doors::call(&state.socket(), &Command::Pseudonyms).await {
            Ok(replies) => replies.only().await,
            Err(problem) => Err(problem),
        };
        let problem = match asked {
            Ok(Reply::Pseudonyms(all)) => {
                return Ok(Self(all.into_iter().map(|known| (known.pseudonym, known.principal)).collect()));
            }
            Ok(_) => {
                fault::failed("the daemon answered something else than asked", "is it another version of staithe?")
            }
            Err(problem) => problem,
        };
        if !state.path().join("run").is_dir() {
            let message = "nothing here knows whom the pseudonyms in this copy of a ledger stand for";
            return Err(fault::failed(
                message,
                "search for the pseudonym itself, p:…; the host that wrote the ledger knows them",
            ));
        }
        // Somebody holds the directory, and does not answer.
        let Ok(_lock) = state.try_lock()? else { return Err(problem) };
        let location = match state.last_kind().as_deref() {
            Some("serve") | None => serve::location(&serve::load(config, Some(state.path()))?.config, state),
            Some(_) => Location::Sqlite(state.run_database()),
        };
        let store = assemble::open_store(location).await?;
        let subjects = Subjects::open(store).await;
        let subjects = subjects.map_err(|error| fault::because("read the keys of principals", &error, ""))?;
        Ok(Self(subjects.all().into_iter().map(|(principal, name)| (name, principal)).collect()))
    }

    /// Who a pseudonym is.
    pub(super) fn whose(&self, pseudonym: &str) -> Option<&Principal> {
        self.0.get(pseudonym)
    }

    /// The pseudonym of a principal.
    pub(super) fn of(&self, principal: &Principal) -> Option<&str> {
        self.0.iter().find(|(_, known)| *known == principal).map(|(pseudonym, _)| pseudonym.as_str())
    }
}
