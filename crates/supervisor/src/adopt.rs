//! What an earlier daemon left with the keeper: processes that still are what the store wants are taken over as they are,
//! with whatever they have in memory; all others are ended.

use crate::check::Checked;
use crate::guest::{self, Room};
use crate::handover::Rest;
use crate::hosted::Hosted;
use crate::keeping::{Keeper, KeeperError, Kept};
use crate::key::Key;
use crate::life::Life;
use crate::notebook::{Notebook, Story};
use crate::orphans::Orphans;
use crate::process::{self, Child, Pipes};
use crate::running::{Left, Running};
use crate::session::Session;
use crate::settings::Settings;
use crate::slot::{Context, First, Slot};
use crate::tree;
use model::{Mode, ServerName};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What the keeper held when this daemon came.
#[derive(Debug, Default)]
pub(crate) struct Inheritance {
    by_server: HashMap<ServerName, Vec<Heir>>,
    /// What only the calls of a living daemon need.
    guests: Vec<(ServerName, Heir)>,
    rest: Vec<Child>,
    /// The largest number of an instance.
    pub(crate) last_id: u64,
}

/// A living process.
#[derive(Debug)]
pub(crate) struct Heir {
    pub(crate) child: Child,
    pub(crate) pipes: Pipes,
    /// Where it got through its handshake.
    pub(crate) story: Option<Story>,
    /// What a living daemon held of its pipes: it may have calls there.
    pub(crate) rest: Option<Rest>,
}

impl Inheritance {
    /// Asks the keeper.
    pub(crate) async fn find(
        keeper: &Keeper,
        identity: &str,
        rests: HashMap<u64, Rest>,
        guests: &HashSet<u64>,
    ) -> Result<Self, KeeperError> {
        Ok(Self::of(keeper.held().await?, keeper, identity, (rests, guests)))
    }

    /// What the keeper has listed.
    pub(crate) fn of(
        held: Vec<Kept>,
        keeper: &Keeper,
        identity: &str,
        (mut rests, guests): (HashMap<u64, Rest>, &HashSet<u64>),
    ) -> Self {
        let mut found = Self::default();
        for kept in held {
            found.last_id = found.last_id.max(kept.held.id);
            let rest = rests.remove(&kept.held.id);
            let guest = guests.contains(&kept.held.id);
            found.add(kept, rest, guest, (identity, keeper));
        }
        found
    }

    fn add(&mut self, kept: Kept, rest: Option<Rest>, guest: bool, (identity, keeper): (&str, &Keeper)) {
        let ended = kept.held.exit.is_some();
        // A process without a mark of ours cannot be one of ours; its tree is found by descent and group alone.
        let mark = tree::mark_of(kept.held.pid).filter(|mark| mark.starts_with(identity)).unwrap_or_default();
        let story = kept.held.ends.notebook.try_clone().ok().and_then(|file| Notebook::new(file).read());
        let (mut child, ends) = Child::of(kept, mark, keeper);
        let guest = guest || (rest.is_some() && story.is_none());
        let told = story.as_ref().map(|story| story.server.as_str());
        let marked = guest.then(|| child.mark.split('/').nth(1)).flatten();
        let server = told.or(marked).and_then(|name| name.parse::<ServerName>().ok());
        match (server, Pipes::new(ends)) {
            (Some(server), Ok(pipes)) if !ended => {
                child.mark = process::mark(identity, &server, child.id);
                let heir = Heir { child, pipes, story, rest };
                match guest {
                    true => self.guests.push((server, heir)),
                    false => self.by_server.entry(server).or_default().push(heir),
                }
            }
            _ => self.rest.push(child),
        }
    }

    /// What marks the trees of all that is taken over, or ended in order.
    pub(crate) fn marks(&self) -> HashSet<String> {
        self.heirs().map(|heir| &heir.child).chain(&self.rest).map(|child| child.mark.clone()).collect()
    }

    /// All that may be taken over.
    pub(crate) fn ids(&self) -> HashSet<u64> {
        self.heirs().map(|heir| heir.child.id).collect()
    }

    fn heirs(&self) -> impl Iterator<Item = &Heir> {
        self.by_server.values().flatten().chain(self.guests.iter().map(|(_, heir)| heir))
    }

    /// The processes of one server.
    pub(crate) fn take(&mut self, server: &ServerName) -> Vec<Heir> {
        self.by_server.remove(server).unwrap_or_default()
    }

    /// Ends what nobody took: with the same grace that every instance has. What the calls of a living daemon need is
    /// returned.
    pub(crate) fn end_rest(&mut self, settings: &Settings, orphans: &Orphans) -> Vec<(ServerName, Heir)> {
        let untaken =
            self.by_server.drain().flat_map(|(name, heirs)| heirs.into_iter().map(move |h| (name.clone(), h)));
        let (needed, useless): (Vec<_>, Vec<_>) = untaken.partition(|(_, heir)| heir.rest.is_some());
        // Without a mark it has ended already.
        let idle = self.rest.iter().filter(|child| !child.mark.is_empty()).count();
        if idle > 0 {
            tracing::info!(
                processes = idle,
                "ending processes of an earlier daemon that served nobody, spares for instance"
            );
        }
        for child in self.rest.drain(..) {
            orphans.instance_is_gone(child.id);
            stdx::task::spawn("end what served nobody", end_quietly(child, settings.clone()));
        }
        for child in useless.into_iter().map(|(_, heir)| heir.child) {
            orphans.instance_is_gone(child.id);
            stdx::task::spawn("end what is left", end(child, settings.clone()));
        }
        needed.into_iter().chain(self.guests.drain(..)).collect()
    }
}

async fn end_quietly(mut child: Child, settings: Settings) -> String {
    child.close_stdin().await;
    let status = tree::stop(&mut child, settings.limits.stop_grace).await;
    child.forget().await;
    if let Some(scribe) = &settings.scribe {
        let server = child.mark.split('/').nth(1).unwrap_or_default().to_owned();
        let (instance, pid, how) = (child.id, child.pid, status.clone());
        scribe.tell(Life::Ended { server, instance, pid, how, cause: "left" }).await;
    }
    status
}

async fn end(child: Child, settings: Settings) {
    let pid = child.pid;
    let status = end_quietly(child, settings).await;
    tracing::info!(pid, status, "ended a process of an earlier daemon that no server wants");
}

impl Hosted {
    /// Takes over the processes that this generation would have started just so; ends the others. Which ones it took.
    pub(crate) fn adopt(self: &Arc<Self>, heirs: Vec<Heir>, sessions: &[Arc<Session>]) -> HashSet<u64> {
        let mut taken = HashSet::new();
        for heir in heirs {
            let id = heir.child.id;
            match self.take_over(heir, sessions) {
                Ok(()) => drop(taken.insert(id)),
                Err(heir) => match self.predecessor().filter(|_| heir.rest.is_some()) {
                    Some(predecessor) => {
                        let (log, counters) = (self.log().clone(), self.counters().clone());
                        let room = Room { server: self.spec().name.clone(), log, counters };
                        guest::keep(&self.shared, predecessor, *heir, room);
                    }
                    None => {
                        self.shared.orphans.instance_is_gone(id);
                        stdx::task::spawn("end what is left", end(heir.child, self.settings().clone()));
                    }
                },
            }
        }
        if !taken.is_empty() {
            self.found(Checked::Works);
        }
        taken
    }

    fn take_over(self: &Arc<Self>, heir: Heir, sessions: &[Arc<Session>]) -> Result<(), Box<Heir>> {
        let wanted = self.spec().enabled && self.spec().program().is_some();
        let story = heir.story.as_ref().filter(|story| wanted && self.spec().generation == story.generation);
        let started_at_ms = story.map_or(0, |story| story.started_at_ms);
        let Some(known) = story.and_then(Story::known) else { return Err(Box::new(heir)) };
        let mut slots = self.slots();
        if slots.contains_key(&known.key) {
            return Err(Box::new(heir));
        }
        let Heir { child, pipes, rest, .. } = heir;
        let context = Arc::new(Context::new(self, self.spec().mode == Mode::Shared).of(&known.key));
        let left = Left { started_at_ms, rest };
        let running = Running::adopt(child, pipes, &known, left, &context);
        if let Some(predecessor) = self.predecessor() {
            predecessor.knows(&running.instance);
        }
        self.count_slot();
        let slot = Slot::start(known.key.clone(), known.introduction, context, self.clone(), First::Left(running));
        for session in sessions.iter().filter(|s| Key::of(s.caller(), self.spec().mode, known.key.era) == known.key) {
            slot.attach(session);
        }
        slots.insert(known.key, slot);
        Ok(())
    }
}
