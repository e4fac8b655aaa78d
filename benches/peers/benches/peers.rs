//! The store beside other people's logs, each doing what it is for, in the same mode.
//!
//! ```text
//! cd benches/peers && cargo bench
//! ```
//! `written`: the system has the bytes when the call returns. `commitlog` writes at each append;
//! `mrecordlog` does with its policy `OnAppend` (it flushes its buffer into the file and calls no
//! fsync). `flushed`: the bytes are on stable storage when the call returns; `raft-engine` with
//! `sync = true`, which writes and syncs for all who wait, as ours does.
//!
//! They append bodies of 1 KiB and a header of their own; ours a whole record, with properties, two
//! checksums and an entry in its queue. Sizes: `STATICFIRE_BENCH_ROUNDS` (30),
//! `STATICFIRE_BENCH_APPENDS` (640 a round), `STATICFIRE_BENCH_PRODUCERS` (64),
//! `STATICFIRE_BENCH_FLUSHED` (30 appends each).

use std::hint::black_box;

use commitlog::CommitLog;
use commitlog::message::MessageBuf;
use mrecordlog::{MultiRecordLog, SyncPolicy};
use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt};
use staticfire_benches::measure::{Goal, median, now, report, seconds_since, setting, timed};
use staticfire_storage::{Durability, Message, QueueId, Store, StoreOptions, TopicName};
use tempfile::TempDir;

const BATCH: usize = 32;
const BODY: [u8; 1024] = [b'x'; 1024];
/// Ours as large as that of commitlog, so that neither rolls.
const SEGMENT_BYTES: u64 = 1 << 30;

fn main() {
    let rounds = setting("ROUNDS", 30);
    written(rounds);
    flushed(rounds.min(9));
}

fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for a log")
}

fn open(directory: &TempDir, durability: Durability) -> Store {
    let mut options = StoreOptions::at(directory.path().join("store"));
    options.durability = durability;
    options.segment_bytes = SEGMENT_BYTES;
    Store::open(options).expect("an empty directory opens")
}

/// With the properties of a Java client's message.
fn message() -> Message {
    let topic = TopicName::new("BenchTopic").expect("a valid name");
    Message::new(topic, QueueId(0), BODY.to_vec())
        .with_property("UNIQ_KEY", "7F000001000100000000000000000000")
        .with_property("WAIT", "true")
}

/// Seconds that appending a body took, of each round.
#[derive(Default)]
struct Rounds(Vec<f64>);

impl Rounds {
    fn add(&mut self, count: usize, work: impl FnOnce()) {
        self.0.push(timed(work).seconds / count as f64);
    }

    fn us(&self) -> f64 {
        median(self.0.clone()) * 1e6
    }

    fn report(&self, what: &str, ours: &Self, goal: f64) {
        let ratios: Vec<f64> = self.0.iter().zip(&ours.0).map(|(theirs, ours)| theirs / ours).collect();
        report(what, "written", &ratios, Goal::AtLeast(goal));
    }
}

/// One thread, in turns of a few ms: whatever else the machine does then falls on all alike.
fn written(rounds: u64) {
    let count = usize::try_from(setting("APPENDS", 640)).expect("a number of appends");
    let directories = [directory(), directory(), directory()];
    let store = open(&directories[0], Durability::Written);
    let mut options = commitlog::LogOptions::new(directories[1].path());
    options.segment_max_bytes(SEGMENT_BYTES as usize);
    let mut commit_log = CommitLog::new(options).expect("an empty directory opens");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let opened = MultiRecordLog::open_with_prefs(directories[2].path(), SyncPolicy::OnAppend);
    let mut records = runtime.block_on(opened).expect("an empty directory opens");
    runtime.block_on(records.create_queue("bench")).expect("a new queue");

    let (one, many) = (message(), vec![message(); BATCH]);
    let mut took: [Rounds; 6] = Default::default();
    for _ in 0..rounds {
        took[0].add(count, || (0..count).for_each(|_| drop(store.append(&one).expect("an append"))));
        took[1].add(count, || {
            for _ in 0..count {
                black_box(commit_log.append_msg(BODY).expect("an append"));
            }
        });
        took[2].add(count, || {
            runtime.block_on(async {
                for _ in 0..count {
                    records.append_record("bench", None, &BODY[..]).await.expect("an append");
                }
            });
        });
        took[3].add(count, || (0..count / BATCH).for_each(|_| drop(black_box(store.append_each(&many)))));
        took[4].add(count, || {
            for _ in 0..count / BATCH {
                let mut together: MessageBuf = std::iter::repeat_n(BODY, BATCH).collect();
                black_box(commit_log.append(&mut together).expect("an append"));
            }
        });
        took[5].add(count, || {
            runtime.block_on(async {
                for _ in 0..count / BATCH {
                    let bodies = std::iter::repeat_n(&BODY[..], BATCH);
                    records.append_records("bench", None, bodies).await.expect("an append");
                }
            });
        });
    }
    store.close().expect("an orderly end");
    let [append, commitlog, mrecordlog, each, commitlog_each, mrecordlog_each] = &took;
    println!(
        "written   us a record: append {:.2}, commitlog {:.2}, mrecordlog {:.2}; 32 together: append_each {:.2}, commitlog {:.2}, mrecordlog {:.2}",
        append.us(),
        commitlog.us(),
        mrecordlog.us(),
        each.us(),
        commitlog_each.us(),
        mrecordlog_each.us(),
    );
    commitlog.report("one at a time, as fast as commitlog (writes each)", append, 1.5);
    mrecordlog.report("one at a time, as fast as mrecordlog (OnAppend)", append, 1.5);
    commitlog_each.report("32 together, as fast as commitlog (writes each 32)", each, 3.0);
    mrecordlog_each.report("32 together, as fast as mrecordlog (OnAppend)", each, 3.0);
}

/// An entry of a region; it starts with its index.
struct Indexed;

impl MessageExt for Indexed {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        let index = entry.get_value().first_chunk().expect("an entry starts with its index");
        u64::from_be_bytes(*index)
    }
}

fn entry(index: u64) -> BytesValue {
    let mut body = BODY.to_vec();
    body[..8].copy_from_slice(&index.to_be_bytes());
    let mut entry = BytesValue::new();
    entry.set_value(body);
    entry
}

/// Many producers that each wait for their flush, each with a region of its own in raft-engine.
fn flushed(rounds: u64) {
    let producers = setting("PRODUCERS", 64);
    let count = setting("FLUSHED", 30);
    let message = message();
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let directories = [directory(), directory()];
        let dir = directories[0].path().to_str().expect("a plain path").to_owned();
        let engine = Engine::open(Config { dir, ..Config::default() }).expect("an empty directory opens");
        let store = open(&directories[1], Durability::Flushed);
        theirs.push(all(producers, count, |producer, index| {
            let mut batch = LogBatch::default();
            batch.add_entries::<Indexed>(producer + 1, &[entry(index + 1)]).expect("a small entry");
            engine.write(&mut batch, true).expect("a write");
        }));
        ours.push(all(producers, count, |_, _| {
            let receipt = store.append(&message).expect("an append");
            receipt.wait(Durability::Flushed).expect("a flush");
        }));
        store.close().expect("an orderly end");
    }
    println!(
        "flushed   {producers} producers: raft-engine {:.0}/s, append {:.0}/s",
        median(theirs.clone()),
        median(ours.clone())
    );
    let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
    report(
        "64 producers, append and wait / raft-engine (sync = true)",
        "flushed",
        &ratios,
        Goal::AtLeast(3.0),
    );
}

/// Appends per second of `producers` threads that do `work` `count` times each.
fn all(producers: u64, count: u64, work: impl Fn(u64, u64) + Sync) -> f64 {
    let start = now();
    std::thread::scope(|scope| {
        for producer in 0..producers {
            let work = &work;
            scope.spawn(move || (0..count).for_each(|index| work(producer, index)));
        }
    });
    (producers * count) as f64 / seconds_since(start)
}
