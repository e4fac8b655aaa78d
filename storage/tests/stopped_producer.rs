//! A producer is stopped in the middle of an append: it has its numbers and its place (reserve), perhaps
//! its bytes are ready (fill), and it has not handed them over (publish). DESIGN D2, D3.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod crash_suite;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use crash_suite::{Effort, Op, Seen, Workload, explore};
use proptest::collection::vec;
use proptest::prelude::*;
use staticfire_storage::disk::{DiskFaults, SimulatedDisk};
use staticfire_storage::{
    AppendError, Background, CutError, Durability, Epoch, Message, NotReached, Outcome, QueueId, QueueOffset,
    Receipt, Step, StoppedProducer, Store, StoreOptions, SystemClock, TopicName,
};

fn options(disk: &SimulatedDisk, background: Background) -> StoreOptions {
    let mut options = StoreOptions::on(disk.directory(), Arc::new(SystemClock));
    (options.segment_bytes, options.queue_file_entries) = (1024, 8);
    options.retention.age_ms = None;
    options.background = background;
    options
}

fn message(n: u64) -> Message {
    Message::new(TopicName::new("orders").unwrap(), QueueId(0), n.to_be_bytes().repeat(8))
}

/// Where a store stands in which everything that can happen happens at once.
fn lively() -> (SimulatedDisk, Store) {
    let disk = SimulatedDisk::new(1).completing_at_once();
    let store = Store::open(options(&disk, Background::Caller)).unwrap();
    (disk, store)
}

fn outcome(store: &Store, receipt: &Receipt) -> Receiver<Outcome> {
    let (tell, told) = channel();
    let waiter = Box::new(move |outcome| tell.send(outcome).unwrap());
    store.when(Durability::Flushed, receipt.position(), waiter);
    told
}

fn stopped(store: &Store, fill: bool) -> StoppedProducer {
    let mut stopped = store.reserve(&[message(1)]).unwrap();
    if fill {
        stopped.fill();
    }
    stopped
}

/// proves: D2, D3, I13: others append on, and nothing behind the gap is written, flushed or seen until
/// it closes
#[test]
fn nothing_behind_a_stopped_producer_is_written_until_it_goes_on() {
    for fill in [false, true] {
        let (_disk, store) = lively();
        let first = store.append(&message(0)).unwrap();
        let stopped = stopped(&store, fill);
        let later: Vec<_> = (2..8).map(|n| store.append(&message(n)).unwrap()).collect();
        assert!(later[5].start().0 > 1024, "the log has rolled behind the gap");
        let told = outcome(&store, &later[0]);
        store.housekeep();
        let (gap, marks) = (first.position().end, store.marks());
        assert_eq!([marks.appended, marks.written, marks.flushed, marks.dispatched], [gap; 4]);
        assert_eq!(store.queue("orders", QueueId(0)).unwrap().max(), QueueOffset(1));
        assert!(told.try_recv().is_err());
        assert_eq!(stopped.publish()[0].queue_offset(), QueueOffset(1));
        let (end, marks) = (later[5].position().end, store.marks());
        assert_eq!([marks.appended, marks.written, marks.flushed, marks.dispatched], [end; 4]);
        assert_eq!(told.try_recv(), Ok(Outcome::Reached));
        let queue = store.queue("orders", QueueId(0)).unwrap();
        let bodies = queue.read(QueueOffset(0), 32).unwrap().into_iter().map(|record| record.body());
        assert!(bodies.eq((0..8).map(|n| message(n).body)));
    }
}

/// proves: I55: what waits behind a gap is bounded, and refused by name before it is numbered
#[test]
fn a_gap_holds_no_more_than_the_staging_memory() {
    let disk = SimulatedDisk::new(1).completing_at_once();
    let mut options = options(&disk, Background::Caller);
    options.staged_bytes_max = 4000;
    let store = Store::open(options).unwrap();
    let stopped = stopped(&store, false);
    let taken = (2..).find(|n| store.append(&message(*n)).is_err()).unwrap() - 2;
    assert!((10..40).contains(&taken), "{taken} fit");
    assert!(matches!(store.append(&message(0)), Err(AppendError::Busy { staged: 1..=4000 })));
    stopped.publish();
    assert_eq!(store.append(&message(0)).unwrap().queue_offset(), QueueOffset(taken + 1));
}

/// proves: D2, I31: a fence waits for reservations in flight: until then no end, no cut, no new epoch
#[test]
fn a_fence_waits_for_the_stopped_producer() {
    for fill in [false, true] {
        let (_disk, store) = lively();
        store.append(&message(0)).unwrap();
        let stopped = stopped(&store, fill);
        let later = store.append(&message(2)).unwrap();
        let told = outcome(&store, &later);
        store.fence(Epoch(2));
        assert_eq!(told.try_recv(), Ok(Outcome::Unknown), "before any mark moves again");
        assert!(matches!(store.append(&message(3)), Err(AppendError::Fenced { epoch: Epoch(2) })));
        assert!(matches!(store.reserve(&[message(3)]), Err(AppendError::Fenced { epoch: Epoch(2) })));
        assert_eq!(store.final_end(), None);
        assert!(matches!(store.truncate(store.marks().confirmed), Err(CutError::NotFenced)));
        assert!(store.open_epoch().is_err(), "the numbers in flight are not known yet");
        assert!(store.open_epoch_with(&message(3)).is_err(), "nor for the first of an epoch");
        let late = stopped.publish().remove(0);
        assert_eq!(store.final_end(), Some(later.position().end));
        assert_eq!(late.wait(Durability::Flushed).unwrap_err(), NotReached::Unknown);
        store.open_epoch().unwrap();
        assert_eq!(store.append(&message(3)).unwrap().queue_offset(), QueueOffset(3));
    }
}

/// proves: D2: a close does not wait for ever, and the producer that comes too late is told so and writes
/// nothing into a store that somebody else may have opened
#[test]
fn a_close_ends_what_is_stopped() {
    for fill in [false, true] {
        let (disk, store) = lively();
        let first = store.append(&message(0)).unwrap();
        let stopped = stopped(&store, fill);
        let later = store.append(&message(2)).unwrap();
        let told = outcome(&store, &later);
        store.clone().close().unwrap();
        assert_eq!(told.try_recv(), Ok(Outcome::Unknown));
        assert!(matches!(store.reserve(&[message(3)]), Err(AppendError::Closed)));
        let again = Store::open(options(&disk, Background::Caller)).unwrap();
        let before = disk.fingerprint();
        let late = stopped.publish().remove(0);
        store.housekeep();
        assert_eq!(disk.fingerprint(), before, "the disk is somebody else's");
        assert_eq!(late.wait(Durability::Written).unwrap_err(), NotReached::Unknown);
        first.wait(Durability::Flushed).unwrap();
        assert!(again.report().log.clean);
        let receipt = again.append(&message(9)).unwrap();
        assert_eq!((receipt.start(), receipt.queue_offset().0), (later.start().min(receipt.start()), 1));
    }
}

/// proves: I1, I2, I4, I5, I31, M34: power and process may go at any disk step around the gap
#[test]
fn a_crash_leaves_nothing_from_behind_the_gap() {
    use Op::*;
    let sequences: [&[Op]; 7] = [
        &[Append, Reserve, Append, Write, Flush, Dispatch],
        &[Append, Write, Reserve, AppendLarge, AppendLarge, Write, Flush, Publish, Write, Flush, Flush],
        &[Reserve, Append, Write, Publish, Write, StartFlush, Append, Write, Complete],
        &[Append, Reserve, Append, Write, Flush, Cut, Publish, Write, Cut, Append, Write, Flush],
        &[Append, Reserve, Append, Publish, Write, Flush, Cut, Append, Write, Flush, Dispatch, Tidy],
        &[Append, Write, Flush, Reserve, Append, Write, Close],
        &[Append, Write, Flush, Reserve, Append, Write, Dispatch, CloseAndOpen, Append, Write, Flush, Close],
    ];
    let mut seen = Seen::default();
    for (seed, faults) in [(1, DiskFaults::calm()), (2, DiskFaults::default())] {
        let effort = Effort { images: 12, seed, faults, ..Effort::default() };
        for ops in sequences {
            for durability in [Durability::Flushed, Durability::Written] {
                let workload = Workload { ops: ops.to_vec(), durability };
                explore(&workload, &effort, &mut seen).unwrap_or_else(|violation| panic!("{violation}"));
            }
        }
    }
    println!("{} recoveries of {} distinct states", seen.recoveries, seen.states.len());
}

#[derive(Clone, Copy, Debug)]
enum Turn {
    Append,
    Reserve(u64),
    /// Of the producers that are stopped, this one.
    Fill(usize),
    Publish(usize),
    Write,
    Flush,
    Dispatch,
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        2 => Just(Turn::Append),
        3 => (1..4_u64).prop_map(Turn::Reserve),
        2 => any::<usize>().prop_map(Turn::Fill),
        3 => any::<usize>().prop_map(Turn::Publish),
        2 => Just(Turn::Write),
        1 => Just(Turn::Flush),
        1 => Just(Turn::Dispatch),
    ]
}

fn cases() -> u32 {
    let times = std::env::var("STATICFIRE_CASES").ok().and_then(|cases| cases.parse().ok());
    times.unwrap_or(1) * 200
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    /// proves: D2, D3, I4, I13, I14: in whatever order producers go on, the log is what they reserved,
    /// without a hole, up to the first that stands
    #[test]
    fn the_log_ends_where_the_first_stopped_producer_stands(turns in vec(turn(), 1..80)) {
        let disk = SimulatedDisk::new(1).with_faults(DiskFaults::calm());
        let store = Store::open(options(&disk, Background::Steps)).unwrap();
        let (mut reserved, mut stopped) = (Vec::new(), Vec::<StoppedProducer>::new());
        for turn in turns {
            let messages = |count: u64| (0..count).map(|n| message(reserved.len() as u64 + n)).collect::<Vec<_>>();
            match turn {
                Turn::Append => reserved.push(store.append(&messages(1)[0]).unwrap()),
                Turn::Reserve(count) => {
                    let producer = store.reserve(&messages(count)).unwrap();
                    reserved.extend(producer.receipts());
                    stopped.push(producer);
                }
                Turn::Fill(which) if !stopped.is_empty() => {
                    let which = which % stopped.len();
                    stopped[which].fill();
                }
                Turn::Publish(which) if !stopped.is_empty() => {
                    drop(stopped.remove(which % stopped.len()).publish());
                }
                Turn::Write => store.step(Step::Write).unwrap(),
                Turn::Flush => {
                    store.step(Step::Flush).unwrap();
                    disk.complete_all();
                }
                Turn::Dispatch => store.step(Step::Dispatch(100)).unwrap(),
                Turn::Fill(_) | Turn::Publish(_) => {}
            }
            let gap = stopped.iter().map(|producer| producer.receipts()[0].start()).min();
            let marks = store.marks();
            prop_assert!(gap.is_none_or(|gap| marks.appended <= gap), "{marks:?}, a gap at {gap:?}");
            let written = reserved.iter().take_while(|receipt| receipt.position().end <= marks.written);
            let found: Vec<_> = store.records(marks.min).map(Result::unwrap).collect();
            prop_assert_eq!(found.len(), written.count());
            for (n, (record, receipt)) in found.iter().zip(&reserved).enumerate() {
                prop_assert_eq!(record.physical(), receipt.start());
                prop_assert_eq!(record.queue_offset(), QueueOffset(n as u64));
                prop_assert_eq!(record.body(), message(n as u64).body);
            }
        }
        stopped.drain(..).rev().for_each(|producer| drop(producer.publish()));
        store.step(Step::Write).unwrap();
        let written = store.records(store.marks().min).filter(Result::is_ok).count();
        prop_assert_eq!(written, reserved.len());
    }
}

/// proves: D2, I2: whoever appends while the store is closed is told the truth
#[test]
#[allow(clippy::disallowed_methods, reason = "producers that race need threads")]
fn producers_race_with_a_close() {
    for round in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            let mut options = StoreOptions::at(folder.path());
            (options.segment_bytes, options.durability) = (64 << 10, Durability::Written);
            Store::open(options).unwrap()
        };
        let store = open();
        let produce = || {
            let mut kept = 0;
            loop {
                match store.append(&message(0)) {
                    Ok(receipt) => kept += u64::from(receipt.wait(Durability::Written).is_ok()),
                    Err(AppendError::Closed) => return kept,
                    Err(other) => panic!("{other}"),
                }
            }
        };
        let kept = std::thread::scope(|scope| {
            let producers = [scope.spawn(produce), scope.spawn(produce)];
            while store.marks().written.0 < 1000 * round {
                std::thread::yield_now();
            }
            store.clone().close().unwrap();
            let again = open();
            assert!(again.report().log.clean);
            let found = again.records(again.marks().min).map(Result::unwrap).count() as u64;
            let kept: u64 = producers.map(|producer| producer.join().unwrap()).into_iter().sum();
            assert!(found >= kept, "{kept} were acknowledged, {found} were closed");
            assert_eq!(again.records(again.marks().min).count() as u64, found);
            kept
        });
        assert!(round == 0 || kept > 0);
    }
}
