//! Power cuts: after any call, any part of what was not synced may be there. At least 20,000 different leftovers are opened.

use crate::model::{Choices, Fault, Model, State};
use crate::promise::{Plain, Record, dir, open, shared, small};
use staithe_ledger::log::{Synced, Syncing};
use staithe_ledger::publish::{PublishError, Publishing};
use staithe_ledger::{Log, Signed, verify};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};

/// States that were seen, over all workloads of one test.
#[derive(Default)]
struct Seen {
    different: HashSet<u64>,
    opened: u64,
    torn: u64,
    mended: u64,
    tiles: u64,
}

/// A few long entries, or so many short ones that tiles become full.
fn entries(choices: &mut Choices, count: &mut u64, short: bool) -> Vec<Vec<u8>> {
    let (many, longest) = if short { (20 + choices.below(40), 0) } else { (1 + choices.below(5), 200) };
    let each = (0..many).map(|_| {
        *count += 1;
        let mut entry = count.to_le_bytes().to_vec();
        if !short {
            entry.resize(8 + choices.below(longest) as usize, *count as u8);
        }
        entry
    });
    each.collect()
}

/// Opens what a power cut left and holds it against the record; then goes on with it.
fn open_left(left: &State, record: &Record, thorough: bool, seen: &mut Seen) {
    let model = Model::new(left.clone());
    let (mut log, recovered) = match open(&model, Arc::new(Plain), small()) {
        Ok(opened) => opened,
        Err(error) => panic!("{error}: {error:?}"),
    };
    seen.opened += 1;
    seen.torn += u64::from(recovered.cut);
    seen.mended += u64::from(recovered.mended > 0);
    seen.tiles += u64::from(recovered.size >= 256);
    record.holds(&log, &recovered);
    if !thorough {
        return;
    }
    let mut record = record.clone();
    record.cut(&log);
    let more = vec![b"after the crash".to_vec()];
    record.attempt(&more);
    assert_eq!(log.append(&more).unwrap(), recovered.size..recovered.size + 1);
    let signed = log.checkpoint(7).unwrap();
    assert_eq!((signed.size, Some(&signed.root)), (log.size(), record.roots.last()));
    (record.durable, record.signed) = (log.size(), signed.size);
    let verified = verify(&shared(&model), &dir(), &Plain, None, &mut |_, _| {}).unwrap();
    assert_eq!(verified.signed, signed);
    for index in 0..log.size() {
        log.entry(index).unwrap();
    }
    drop(log);
    // All that is durable now stays, whatever was on its way.
    let cut = Model::new(model.state().power_cut(&mut Choices::new(left.fingerprint())));
    let (log, recovered) = open(&cut, Arc::new(Plain), small()).unwrap();
    record.holds(&log, &recovered);
}

/// What runs beside appends.
#[derive(Default)]
struct Waits {
    sync: Option<Syncing>,
    synced: Option<Synced>,
    publish: Option<Publishing>,
}

struct Workload {
    model: Model,
    choices: Choices,
    count: u64,
    record: Arc<Mutex<Record>>,
    seen: Arc<Mutex<Seen>>,
    cuts: u64,
    short: bool,
}

impl Workload {
    fn new(seed: u64, cuts: u64, seen: Arc<Mutex<Seen>>) -> Self {
        let record = Arc::new(Mutex::new(Record::new()));
        Self {
            model: Model::default(),
            choices: Choices::new(seed),
            count: 0,
            record,
            seen,
            cuts,
            short: seed.is_multiple_of(4),
        }
    }

    fn watch(&mut self) {
        let (record, seen) = (self.record.clone(), self.seen.clone());
        let (mut choices, cuts) = (Choices::new(self.choices.next()), self.cuts);
        self.model.watch(move |state| {
            for _ in 0..cuts {
                let left = state.power_cut(&mut choices);
                let mut seen = seen.lock().unwrap();
                if seen.different.insert(left.fingerprint()) {
                    let thorough = choices.below(8) == 0;
                    open_left(&left, &record.lock().unwrap(), thorough, &mut seen);
                }
            }
        });
    }

    fn open(&mut self) -> Log {
        self.watch();
        let (log, recovered) = open(&self.model, Arc::new(Plain), small()).unwrap();
        let mut record = self.record.lock().unwrap();
        record.holds(&log, &recovered);
        record.cut(&log);
        log
    }

    /// One step; whether the log is still good. A sync and a checkpoint may take as long as some steps.
    fn step(&mut self, log: &mut Log, waits: &mut Waits) -> bool {
        match self.choices.below(11) {
            0..4 => {
                let entries = entries(&mut self.choices, &mut self.count, self.short);
                self.record.lock().unwrap().attempt(&entries);
                log.append(&entries).is_ok()
            }
            4 => log.sync().map(|durable| self.record.lock().unwrap().durable = durable).is_ok(),
            5..8 => match (waits.sync.take(), waits.synced.take()) {
                (None, None) => log.start_sync().map(|sync| waits.sync = Some(sync)).is_ok(),
                (Some(sync), _) => {
                    waits.synced = Some(sync.run());
                    true
                }
                (None, Some(synced)) => {
                    let durable = log.finish_sync(synced);
                    durable.map(|durable| self.record.lock().unwrap().durable = durable).is_ok()
                }
            },
            8 if waits.publish.is_none() => self.given(log.checkpoint(1)),
            8 | 9 => match waits.publish.take() {
                None => log.start_checkpoint(1).map(|publish| waits.publish = Some(publish)).is_ok(),
                Some(publish) => self.given(log.finish_checkpoint(publish.run())),
            },
            _ => {
                log.archive_next();
                true
            }
        }
    }

    fn given(&mut self, signed: Result<Signed, PublishError>) -> bool {
        let signed = signed.map(|signed| {
            let mut record = self.record.lock().unwrap();
            record.signed = record.signed.max(signed.size);
            record.durable = record.durable.max(signed.size);
        });
        signed.is_ok()
    }

    fn run(&mut self, steps: u64, faults: bool) {
        let (mut log, mut waits) = (self.open(), Waits::default());
        for _ in 0..steps {
            if faults && self.choices.below(6) == 0 {
                let (after, seed) = (self.choices.below(12), self.choices.next());
                self.model.fail_after(after, Fault::Eio, seed);
            }
            let good = self.step(&mut log, &mut waits);
            if !good || self.choices.below(12) == 0 {
                drop(log);
                waits = Waits::default();
                self.model.heal();
                self.model = self.model.next_process();
                log = self.open();
            }
        }
        self.model.unwatch();
    }
}

fn attack(first_seed: u64, workloads: u64, faults: bool) -> Seen {
    let seen = Arc::new(Mutex::new(Seen::default()));
    for seed in first_seed..first_seed + workloads {
        Workload::new(seed, 3, seen.clone()).run(24, faults);
    }
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    eprintln!(
        "{} different states of {} opened: {} torn, {} with derived files to mend, {} with full tiles",
        seen.different.len(),
        seen.opened,
        seen.torn,
        seen.mended,
        seen.tiles
    );
    seen
}

#[test]
fn nothing_promised_is_lost_in_a_power_cut() {
    let seen = attack(1, 220, false);
    assert!(seen.different.len() >= 20_000, "{}", seen.different.len());
    assert!(seen.torn > 500 && seen.mended > 300 && seen.tiles > 300, "the states are worth opening");
}

#[test]
fn nothing_promised_is_lost_when_syncs_fail_and_the_power_is_cut() {
    let seen = attack(1_000, 140, true);
    assert!(seen.different.len() >= 10_000, "{}", seen.different.len());
    assert!(seen.torn > 500 && seen.mended > 300 && seen.tiles > 300, "the states are worth opening");
}
