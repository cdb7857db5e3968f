//! Every call to the file system fails once, in every way: while a log is opened, appended to, synced, signed, rotated, pruned and
//! opened again.

use crate::model::{Choices, Fault, Model};
use crate::promise::{Plain, Record, dir, open, shared, small};
use staithe_ledger::log::AppendError;
use staithe_ledger::publish::PublishError;
use staithe_ledger::{Log, Options, verify};
use std::sync::Arc;

fn batch(from: u64, many: u64) -> Vec<Vec<u8>> {
    (from..from + many).map(|n| format!("entry number {n}").into_bytes()).collect()
}

/// What a log is used for; ends at the first error that breaks it. A full disk breaks nothing and is tried again.
fn scenario(model: &Model, record: &mut Record) -> Option<()> {
    for rounds in [7, 2] {
        let (mut log, recovered) = open(model, Arc::new(Plain), small()).ok()?;
        record.holds(&log, &recovered);
        record.cut(&log);
        for round in 0..rounds {
            let entries = batch(log.size(), 45);
            record.attempt(&entries);
            append(&mut log, &entries)?;
            if round % 2 == 0 {
                record.durable = log.sync().ok()?;
            }
            if round == 2 {
                log.archive_next();
            }
            let signed = checkpoint(&mut log)?;
            (record.signed, record.durable) = (signed, signed);
        }
        if log.size() > 300 {
            log.prune(200).ok()?;
        }
        log.entry(log.size() - 1).ok()?;
    }
    Some(())
}

fn append(log: &mut Log, entries: &[Vec<u8>]) -> Option<()> {
    match log.append(entries) {
        Ok(_) => Some(()),
        Err(AppendError::Full) => {
            assert!(!log.is_broken(), "a full disk breaks nothing");
            log.append(entries).ok().map(drop)
        }
        Err(_) => {
            assert!(log.is_broken());
            assert!(log.append(entries).is_err() && log.sync().is_err() && log.checkpoint(1).is_err());
            assert!(log.entry(0).is_err());
            None
        }
    }
}

fn checkpoint(log: &mut Log) -> Option<u64> {
    match log.checkpoint(1) {
        Ok(signed) => Some(signed.size),
        Err(PublishError::Full | PublishError::Anchor(_)) => {
            assert!(!log.is_broken());
            log.checkpoint(1).ok().map(|signed| signed.size)
        }
        Err(_) => {
            assert!(log.is_broken());
            assert!(log.view().is_err());
            None
        }
    }
}

/// Opens what is left and goes on, as if nothing had been.
fn go_on(model: &Model, record: &Record, label: &str) {
    let (mut log, recovered) =
        open(model, Arc::new(Plain), small()).unwrap_or_else(|error| panic!("{label}: {error:?}"));
    record.holds(&log, &recovered);
    let more = batch(log.size(), 3);
    log.append(&more).unwrap_or_else(|error| panic!("{label}: {error:?}"));
    let signed = log.checkpoint(2).unwrap_or_else(|error| panic!("{label}: {error:?}"));
    drop(log);
    let verified = verify(&shared(model), &dir(), &Plain, None, &mut |_, _| {});
    assert_eq!(verified.unwrap_or_else(|error| panic!("{label}: {error:?}")).signed, signed, "{label}");
}

#[test]
fn every_call_may_fail_in_every_way() {
    let whole = Model::default();
    scenario(&whole, &mut Record::new()).unwrap();
    let calls = whole.calls();
    assert!(calls >= 400, "{calls}");
    let mut finished = 0;
    for nth in 0..calls {
        for (kind, fault) in [Fault::Kill, Fault::Eio, Fault::Enospc].into_iter().enumerate() {
            let label = format!("{fault:?} at call {nth}");
            let (model, mut record) = (Model::default(), Record::new());
            model.fail_after(nth, fault, nth * 3 + kind as u64);
            finished += u64::from(scenario(&model, &mut record).is_some());
            let next = model.next_process();
            if nth % 5 == 0 {
                let cut = next.state().power_cut(&mut Choices::new(nth));
                go_on(&Model::new(cut), &record, &label);
            }
            go_on(&next, &record, &label);
        }
    }
    eprintln!("{calls} calls, each failed in 3 ways; {finished} times it went on without being opened anew");
    assert!(finished > calls / 4, "a full disk is survived");
}

#[test]
fn the_reserve_is_there_on_a_full_disk() {
    let options = Options { segment_bytes: 64 << 10, allocate_bytes: 4096, reserve_bytes: 8 << 10 };
    let model = Model::default();
    let (mut log, _) = open(&model, Arc::new(Plain), options).unwrap();
    log.append(&batch(0, 10)).unwrap();
    log.checkpoint(1).unwrap();
    model.capacity(Some(model.used() + 100));
    let entry = vec![7_u8; 300];
    let before_full = (0..1000).take_while(|_| log.append(&[&entry]).is_ok()).count();
    assert!(before_full < 20);
    assert!(matches!(log.append(&[&entry]), Err(AppendError::Full)));
    let size = log.size();
    let reserved = (0..1000).take_while(|_| log.append_reserved(&[&entry]).is_ok()).count();
    assert!(reserved >= 20, "{reserved} entries of the reserve");
    assert_eq!(log.sync().unwrap(), size + reserved as u64);
    model.capacity(Some(model.used()));
    assert!(matches!(log.checkpoint(2), Err(PublishError::Full)));
    assert!(!log.is_broken());
    drop(log);
    // It opens on the full disk, with nothing lost, and goes on when there is space again.
    let (mut log, recovered) = open(&model, Arc::new(Plain), options).unwrap();
    assert_eq!(recovered.size, size + reserved as u64);
    assert!(matches!(log.append(&[&entry]), Err(AppendError::Full)));
    model.capacity(None);
    log.append(&[&entry]).unwrap();
    assert_eq!(log.checkpoint(3).unwrap().size, recovered.size + 1);
}

#[test]
fn an_append_that_failed_is_undone_where_the_disk_lets_it() {
    let options = Options { segment_bytes: 1 << 20, allocate_bytes: 64 << 10, reserve_bytes: 256 };
    for seed in 0..60 {
        let model = Model::default();
        let (mut log, _) = open(&model, Arc::new(Plain), options).unwrap();
        log.append(&batch(0, 3)).unwrap();
        log.sync().unwrap();
        model.fail_after(0, Fault::Eio, seed);
        assert!(matches!(log.append(&batch(3, 9)), Err(AppendError::Disk(_))));
        assert!(log.is_broken() && log.size() == 3);
        drop(log);
        let (_, recovered) = open(&model.next_process(), Arc::new(Plain), options).unwrap();
        assert_eq!(recovered.size, 3, "none of what the caller was told had failed");
    }
}
