//! The writer's own thread: syncs, checkpoints, heartbeats, and opening the log again.

use super::pace::Due;
use super::{Inner, Own, Place, Receipt, Refused, State, TURNS, Told, Until, Waiting, broken, lock, tell};
use crate::log::{Log, SyncError};
use crate::publish::PublishError;
use stdx::clock::monotonic;

impl Inner {
    pub(super) fn work(&self) {
        let mut due = Due::new(&self.settings);
        loop {
            let stops = self.pace.wait(due.next(), self.settings.group);
            self.drain(usize::MAX);
            self.sync();
            // Of a new log the first checkpoint does not wait: without one nobody can verify anything.
            if stops || due.checkpoint(&self.settings) || lock(&self.state).signed.is_none() {
                self.publish();
            }
            if stops {
                return self.end();
            }
            self.beat();
            if due.again(&self.settings) {
                self.open_again();
            }
        }
    }

    pub(super) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = lock(&self.state);
        let done = act(&mut state);
        drop(state);
        // Whoever came meanwhile found the log taken.
        self.drain(TURNS);
        done
    }

    pub(super) fn sync(&self) {
        let begun = self.with(|state| {
            let log = state.log.as_ref().filter(|log| log.durable() < log.size() || !state.unsynced.is_empty())?;
            Some(log.start_sync())
        });
        let synced = match begun {
            None => return,
            Some(Ok(syncing)) => {
                let begun = monotonic();
                let synced = syncing.run();
                self.commits.observe(begun.elapsed());
                Ok(synced)
            }
            Some(Err(error)) => Err(error),
        };
        let told = self.with(|state| {
            let Some(log) = &mut state.log else { return Told::new() };
            match synced.map_err(SyncError::Broken).and_then(|synced| log.finish_sync(synced)) {
                Ok(durable) => {
                    state.durable = durable;
                    let done = state.unsynced.partition_point(|(size, _)| *size <= durable);
                    state.recent.forget(durable);
                    let all = Receipt { index: None };
                    state.unsynced.drain(..done).map(|(_, done)| (done, Ok(all))).collect()
                }
                Err(error) => state.lose(&broken(&stdx::chain::Chain(&error).to_string()), &*self.owner),
            }
        });
        tell(told);
    }

    pub(super) fn publish(&self) {
        let now_s = self.owner.now_s();
        if let Err(gone) = self.owner.looks() {
            let told = self.with(|state| {
                if !matches!(state.place, Place::Here) || state.log.take().is_none() {
                    return Told::new();
                }
                state.lose(&broken(&gone), &*self.owner)
            });
            return tell(told);
        }
        let begun = self.with(|state| {
            let signed = state.signed.as_ref().map_or(0, |signed| signed.size);
            let log = state.log.as_mut().filter(|log| log.durable() > signed)?;
            Some(log.start_checkpoint(now_s))
        });
        let published = match begun {
            None => return,
            Some(Ok(publishing)) => Ok(publishing.run()),
            Some(Err(error)) => Err(error),
        };
        let (signed, told) = self.with(|state| {
            let Some(log) = &mut state.log else { return (None, Told::new()) };
            match published.and_then(|published| log.finish_checkpoint(published)) {
                Ok(signed) => {
                    state.signed = Some(signed.clone());
                    (Some(signed), Told::new())
                }
                // Nothing is wrong with the log: the next try is due.
                Err(PublishError::Full | PublishError::Anchor(_) | PublishError::Busy | PublishError::Sign(_)) => {
                    (None, Told::new())
                }
                Err(error) => {
                    let why = broken(&stdx::chain::Chain(&error).to_string());
                    let told = state.lose(&why, &*self.owner);
                    state.log = None;
                    (None, told)
                }
            }
        });
        signed.iter().for_each(|signed| self.owner.signed(signed));
        tell(told);
    }

    /// Silence must be provable too.
    fn beat(&self) {
        let state = lock(&self.state);
        let silent = matches!(state.place, Place::Here) && state.spoke.elapsed() >= self.settings.heartbeat;
        drop(state);
        if silent {
            lock(&self.queue).push_back(Waiting {
                entry: self.owner.says(Own::Heartbeat),
                until: Until::Kernel,
                done: None,
            });
            self.with(|state| state.spoke = monotonic());
        }
    }

    fn open_again(&self) {
        let state = lock(&self.state);
        let ours = matches!(state.place, Place::Here) && state.log.is_none();
        drop(state);
        if !ours {
            return;
        }
        // It takes its time, and nobody waits for the lock meanwhile: there is nothing to write to.
        let opened = self.owner.open();
        self.with(|state| match opened {
            Ok(log) if state.is_contradicted_by(&log) => {
                state.trouble = Some(broken("the log that is there now is not the one that was written here"));
            }
            Ok(mut log) => {
                let again = self.owner.says(Own::TakenAgain { refused: state.refused_now });
                let lost = state.recent.from(log.size());
                let entries: Vec<&[u8]> = lost.chain([again.as_slice()]).collect();
                if let Ok(range) = log.append(&entries) {
                    state.recent.push(range.end - 1, again);
                    state.log = Some(log);
                    state.trouble = None;
                    state.refused_now = 0;
                }
            }
            Err(error) => state.trouble = Some(broken(&stdx::chain::Chain(&error).to_string())),
        });
    }

    fn end(&self) {
        let told = self.with(|state| {
            state.log = None;
            state.place = Place::Here;
            state.trouble = Some(Refused::Closed);
            state.lose(&Refused::Closed, &*self.owner)
        });
        tell(told);
    }
}

impl State {
    /// Whether a log that was opened anew lacks what was written here, or has something else in its place.
    fn is_contradicted_by(&self, log: &Log) -> bool {
        let signed = self.signed.as_ref();
        let kept = signed.is_none_or(|signed| {
            log.view().is_ok_and(|view| view.root_at(signed.size).is_ok_and(|root| root == signed.root))
        });
        log.size() < self.durable || !kept
    }
}
