//! Many threads at one log, and a disk that fails beneath them.

use crate::model::{Fault, Model, State};
use crate::promise::{open, remembering, shared, small};
use staithe_ledger::recover::OpenError;
use staithe_ledger::writer::{Own, Owner, Receipt, Refused, Settings, Until, Writer};
use staithe_ledger::{Log, Notary, Options, Reader, Signed};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A host that says each of its words in one line.
#[derive(Debug)]
struct Host {
    model: Model,
    notary: Arc<dyn Notary>,
    options: Options,
    signed: Mutex<Vec<Signed>>,
    said: Mutex<Vec<Own>>,
    opened: AtomicU64,
}

impl Host {
    fn new(model: &Model, options: Options) -> Arc<Self> {
        let (signed, said, opened) = (Mutex::default(), Mutex::default(), AtomicU64::new(0));
        Arc::new(Self { model: model.clone(), notary: remembering(), options, signed, said, opened })
    }

    fn start(self: &Arc<Self>, settings: Settings) -> Writer {
        let (log, _) = open(&self.model, self.notary.clone(), self.options).unwrap();
        Writer::start(log, self.clone(), settings).unwrap()
    }

    fn signed_size(&self) -> u64 {
        self.signed.lock().unwrap().last().map_or(0, |signed| signed.size)
    }
}

impl Owner for Host {
    fn now_s(&self) -> u64 {
        1_800_000_000
    }

    fn says(&self, own: Own) -> Vec<u8> {
        let said = format!("own {own:?}").into_bytes();
        self.said.lock().unwrap().push(own);
        said
    }

    fn open(&self) -> Result<Log, OpenError> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        open(&self.model, self.notary.clone(), self.options).map(|(log, _)| log)
    }

    fn signed(&self, signed: &Signed) {
        self.signed.lock().unwrap().push(signed.clone());
    }
}

fn quick() -> Settings {
    let ms = Duration::from_millis;
    Settings { group: ms(2), checkpoint: ms(20), heartbeat: Duration::from_secs(600), again: ms(20), queued: 64 }
}

/// What the log has, by index.
fn content(model: &Model, notary: Arc<dyn Notary>) -> Vec<Vec<u8>> {
    let (log, _) = open(&model.next_process(), notary, small()).unwrap();
    (0..log.size()).map(|index| log.entry(index).unwrap()).collect()
}

#[test]
fn what_many_threads_append_is_there_once_each_in_its_thread_s_order() {
    let model = Model::new(State::default());
    let host = Host::new(&model, small());
    let writer = host.start(quick());
    let receipts: Mutex<BTreeMap<u64, Vec<u8>>> = Mutex::default();
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let (writer, receipts) = (writer.clone(), &receipts);
            scope.spawn(move || {
                let mut last = None;
                for n in 0..300u64 {
                    let entry = format!("{thread} {n}").into_bytes();
                    let until = if n % 50 == 0 { Until::Disk } else { Until::Kernel };
                    let receipt = writer.append_and_wait(entry.clone(), until).unwrap();
                    assert!(receipt.index > last, "in order");
                    last = receipt.index;
                    assert_eq!(
                        receipts.lock().unwrap().insert(receipt.index.unwrap(), entry),
                        None,
                        "an index of its own"
                    );
                }
            });
        }
    });
    writer.close();
    assert_eq!(writer.append_and_wait(b"late".to_vec(), Until::Kernel), Err(Refused::Closed));
    let content = content(&model, host.notary.clone());
    assert_eq!(content.len(), 2400);
    for (index, entry) in receipts.into_inner().unwrap() {
        assert_eq!(content[usize::try_from(index).unwrap()], entry);
    }
    assert_eq!(host.signed_size(), 2400, "the last checkpoint is over everything");
    let reader = Reader::open(&shared(&model.next_process()), &crate::promise::dir(), remembering()).unwrap();
    assert_eq!(reader.signed().unwrap().size, 2400);
}

#[test]
fn what_the_disk_is_said_to_have_outlives_a_power_cut() {
    let model = Model::new(State::default());
    let host = Host::new(&model, small());
    let writer = host.start(quick());
    for n in 0..40u64 {
        let until = if n % 4 == 3 { Until::Disk } else { Until::Kernel };
        let receipt = writer.append_and_wait(format!("{n}").into_bytes(), until).unwrap();
        if until == Until::Disk {
            let after = Model::new(model.state().power_cut(&mut crate::model::Choices::new(n)));
            let (log, _) = open(&after, host.notary.clone(), small()).unwrap();
            assert!(log.size() > receipt.index.unwrap(), "{n}");
        }
    }
    writer.close();
}

#[test]
fn nothing_that_is_queued_is_dropped() {
    let model = Model::new(State::default());
    let host = Host::new(&model, small());
    let writer = host.start(quick());
    let told = Arc::new(AtomicU64::new(0));
    for n in 0..1000u64 {
        let told = told.clone();
        writer.append(format!("{n}").into_bytes(), Until::Queued, move |outcome| {
            told.fetch_add(1, Ordering::Relaxed);
            assert!(outcome.is_ok());
        });
    }
    writer.close();
    assert_eq!(told.load(Ordering::Relaxed), 1000);
    let expected: Vec<Vec<u8>> = (0..1000).map(|n| format!("{n}").into_bytes()).collect();
    assert_eq!(content(&model, host.notary.clone()), expected);
}

#[test]
fn a_full_disk_refuses_says_so_in_the_log_and_goes_on_when_there_is_room() {
    let model = Model::new(State::default());
    let host = Host::new(&model, small());
    let writer = host.start(quick());
    writer.append_and_wait(b"before".to_vec(), Until::Disk).unwrap();
    model.capacity(Some(model.used()));
    let mut taken = 1;
    let refused = loop {
        match writer.append_and_wait(vec![b'x'; 200], Until::Kernel) {
            Ok(_) => taken += 1,
            Err(why) => break why,
        }
        assert!(taken < 1000, "the disk is full");
    };
    assert_eq!(refused, Refused::Full);
    assert_eq!(writer.append_and_wait(vec![b'x'; 200], Until::Disk), Err(Refused::Full));
    assert_eq!((writer.health().trouble, writer.health().refused), (Some(Refused::Full), 2));
    model.capacity(None);
    let Receipt { index } = writer.append_and_wait(b"after".to_vec(), Until::Disk).unwrap();
    assert_eq!(writer.health().trouble, None);
    writer.close();
    let content = content(&model, host.notary.clone());
    assert_eq!(content[usize::try_from(index.unwrap()).unwrap()], b"after");
    let said: Vec<&Vec<u8>> = content.iter().filter(|entry| entry.starts_with(b"own")).collect();
    let own =
        [Own::Refusing(Refused::Full), Own::TakenAgain { refused: 2 }].map(|own| format!("own {own:?}").into_bytes());
    assert_eq!(said, own.iter().collect::<Vec<_>>(), "the first went into the reserve");
    assert_eq!(content.len(), taken + 3);
}

/// Each kind of error, at every call of a short life: whoever was told that its entry is in the log finds it there.
#[test]
fn a_disk_that_fails_costs_the_refused_alone_and_heals() {
    for (seed, calls) in (0..60u64).enumerate() {
        let model = Model::new(State::default());
        let host = Host::new(&model, small());
        let writer = host.start(quick());
        model.fail_after(calls, Fault::Eio, seed as u64);
        let mut taken = Vec::new();
        for n in 0..30u64 {
            let entry = format!("{n} {}", "x".repeat(150)).into_bytes();
            let until = if n % 3 == 0 { Until::Disk } else { Until::Kernel };
            if let Ok(receipt) = writer.append_and_wait(entry.clone(), until) {
                taken.push((receipt.index.unwrap(), entry));
            }
        }
        model.heal();
        let mut tries = 0;
        let last = loop {
            match writer.append_and_wait(b"healed".to_vec(), Until::Disk) {
                Ok(receipt) => break receipt.index.unwrap(),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
            tries += 1;
            assert!(tries < 500, "never opened again: {:?}", writer.health());
        };
        writer.close();
        let content = content(&model, host.notary.clone());
        assert_eq!(content[usize::try_from(last).unwrap()], b"healed");
        for (index, entry) in taken {
            assert_eq!(content[usize::try_from(index).unwrap()], entry, "after {calls} calls");
        }
        for (n, entry) in content.iter().enumerate() {
            assert!(!content[..n].contains(entry) || entry.starts_with(b"own"), "twice: {entry:?}");
        }
    }
}

#[test]
fn silence_is_said() {
    let model = Model::new(State::default());
    let host = Host::new(&model, small());
    let writer = host.start(Settings { heartbeat: Duration::from_millis(50), ..quick() });
    testkit::wait::until("two heartbeats", || host.said.lock().unwrap().len() > 1);
    testkit::wait::until("a checkpoint over them", || host.signed_size() > 1);
    writer.close();
    assert!(host.said.lock().unwrap().iter().all(|own| *own == Own::Heartbeat));
}

/// As where a daemon is replaced, and where that fails.
#[test]
fn a_log_that_is_given_away_and_taken_back_loses_nothing() {
    let model = Model::new(State::default());
    let host = Host::new(&model, small());
    let writer = host.start(quick());
    let other = Host::new(&model, small());
    let appended = Arc::new(AtomicU64::new(0));
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|thread| {
            let (writer, appended, over) = (writer.clone(), appended.clone(), over.clone());
            std::thread::spawn(move || {
                let mut n = 0;
                while !over.load(Ordering::Relaxed) {
                    writer.append_and_wait(format!("{thread} {n}").into_bytes(), Until::Kernel).unwrap();
                    appended.fetch_add(1, Ordering::Relaxed);
                    n += 1;
                    std::thread::sleep(Duration::from_micros(200));
                }
            })
        })
        .collect();
    let more = |than: u64| testkit::wait::until("more entries", || appended.load(Ordering::Relaxed) > than + 20);
    more(0);
    writer.give_away();
    let held = appended.load(Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(30));
    assert!(appended.load(Ordering::Relaxed) <= held + 4, "they wait");
    writer.take_back().unwrap();
    more(held);
    writer.give_away();
    let heir = other.start(quick());
    let (way, before) = (heir.clone(), appended.load(Ordering::Relaxed));
    writer.send_to(Arc::new(move |entry, until, done| way.append(entry, until, done)));
    more(before);
    over.store(true, Ordering::Relaxed);
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    writer.close();
    heir.close();
    let mut content = content(&model, host.notary.clone());
    assert_eq!(content.len() as u64, appended.load(Ordering::Relaxed));
    content.sort();
    content.dedup();
    assert_eq!(content.len() as u64, appended.load(Ordering::Relaxed), "once each");
}
