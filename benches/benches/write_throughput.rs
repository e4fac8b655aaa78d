//! The store against the system calls it is made of.
//!
//! ```text
//! cargo bench -p staticfire-benches --bench write_throughput [FILTER of criterion]
//! ```
//! First come the ratios, measured in turns; then criterion times the same appends one by one.
//! Sizes: `STATICFIRE_BENCH_ROUNDS` (40), `STATICFIRE_BENCH_APPENDS` (640 a round),
//! `STATICFIRE_BENCH_READS` (16,000), `STATICFIRE_BENCH_PACED` (10,000),
//! `STATICFIRE_BENCH_PRODUCERS` (64), `STATICFIRE_BENCH_FLUSHED` (30 appends each).

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "plain files and producers on threads"
)]

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use staticfire_benches::group_log::{GroupLog, allocated_file};
use staticfire_benches::measure::{
    Goal, Took, median, now, percentile_us, report, seconds_since, setting, spin_until, timed,
};
use staticfire_storage::disk::{Directory, RealDirectory};
use staticfire_storage::{Durability, Message, QueueId, QueueOffset, Store, StoreOptions, TopicName};
use tempfile::TempDir;

const BATCH: usize = 32;
/// Room for every record of a round.
const FILE_LEN: u64 = 256 << 20;

fn main() {
    if std::env::args().any(|argument| argument == "--bench") {
        let rounds = setting("ROUNDS", 40);
        written(rounds);
        read_back(rounds);
        // Longer ones, so fewer.
        paced(rounds.min(9));
        flushed(rounds.min(9));
    }
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    with_criterion(&mut criterion);
    criterion.final_summary();
}

fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the logs")
}

fn open(directory: &TempDir, durability: Durability) -> Store {
    let mut options = StoreOptions::at(directory.path().join("store"));
    options.durability = durability;
    options.segment_bytes = FILE_LEN;
    Store::open(options).expect("an empty directory opens")
}

fn raw(directory: &TempDir) -> File {
    allocated_file(&directory.path().join("raw"), FILE_LEN).expect("a file can be allocated")
}

/// 1 KiB, with the properties of a Java client's message.
fn message(queue: u32) -> Message {
    let topic = TopicName::new("BenchTopic").expect("a valid name");
    Message::new(topic, QueueId(queue), vec![b'x'; 1024])
        .with_property("UNIQ_KEY", "7F000001000100000000000000000000")
        .with_property("WAIT", "true")
}

fn messages() -> Vec<Message> {
    (0..BATCH).map(|index| message(u32::try_from(index % 4).expect("below 4"))).collect()
}

/// The bytes of a stored record of [`message`].
fn record_bytes() -> Vec<u8> {
    let directory = directory();
    let store = open(&directory, Durability::Written);
    let receipt = store.append(&message(0)).expect("an append");
    let bytes = store.record(receipt.start()).expect("what was appended").bytes().to_vec();
    store.close().expect("an orderly end");
    bytes
}

/// Appends in mode `written` against `pwrite`, in turns of a few ms on the same four files: whatever
/// else the machine does then falls on all alike.
fn written(rounds: u64) {
    let count = usize::try_from(setting("APPENDS", 640)).expect("a number of appends");
    let record = record_bytes();
    let together = record.repeat(BATCH);
    let (one, many) = (message(0), messages());
    let directories: [TempDir; 2] = [directory(), directory()];
    let [raw_one, raw_many] = [raw(&directories[0]), raw(&directories[1])];
    let stores = directories.each_ref().map(|directory| open(directory, Durability::Written));
    let mut took: [Vec<Took>; 4] = Default::default();
    for round in 0..usize::try_from(rounds).expect("a number of rounds") {
        let (first, batches) = (round * count, count / BATCH);
        took[0].push(timed(|| (first..first + count).for_each(|index| write(&raw_one, &record, index))));
        took[1].push(timed(|| (0..count).for_each(|_| drop(stores[0].append(&one).expect("an append")))));
        let first = round * batches;
        took[2].push(timed(|| (first..first + batches).for_each(|index| write(&raw_many, &together, index))));
        took[3].push(timed(|| (0..batches).for_each(|_| drop(black_box(stores[1].append_each(&many))))));
    }
    for store in stores {
        store.close().expect("an orderly end");
    }
    print_written(record.len(), count, &took);
}

/// One of the two clocks of a measurement, in seconds.
type Clock = fn(&Took) -> f64;

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn print_written(len: usize, count: usize, took: &[Vec<Took>; 4]) {
    let us =
        |which: usize, seconds: Clock| median(took[which].iter().map(seconds).collect()) / count as f64 * 1e6;
    let clocks: [(&str, Clock); 2] = [("time", |took| took.seconds), ("CPU", |took| took.cpu_seconds)];
    for (name, clock) in clocks {
        println!(
            "written   {name} in us per record of {len} bytes: pwrite {:.2}, append {:.2}; 32 together: pwrite {:.2}, append_each {:.2}",
            us(0, clock),
            us(1, clock),
            us(2, clock),
            us(3, clock)
        );
        let compare = |what: &str, floor: usize, ours: usize| {
            let pairs = took[floor].iter().zip(&took[ours]);
            let ratios: Vec<f64> = pairs.map(|(floor, ours)| clock(floor) / clock(ours)).collect();
            report(&format!("{what}, {name}"), "written", &ratios, Goal::AtLeast(0.7));
        };
        compare("append / one pwrite per record", 0, 1);
        compare("append_each of 32 / one pwrite per record", 0, 3);
        compare("append_each of 32 / one pwrite per 32", 2, 3);
    }
}

fn write(file: &File, bytes: &[u8], index: usize) {
    let at = (index * bytes.len()) as u64 % (FILE_LEN - bytes.len() as u64);
    file.write_all_at(bytes, at).expect("the file is allocated");
}

/// Open loop: an append is due every 20 us, however late the one before was.
fn paced(rounds: u64) {
    let count = u32::try_from(setting("PACED", 10_000)).expect("a number of appends");
    let (record, message) = (record_bytes(), message(0));
    let (mut floor, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let directory = directory();
        let file = raw(&directory);
        let store = open(&directory, Durability::Written);
        floor.push(late(count, |index| write(&file, &record, index)));
        ours.push(late(count, |_| drop(store.append(&message).expect("an append"))));
        store.close().expect("an orderly end");
    }
    println!(
        "written   paced 50 k/s p99.9: pwrite {:.0} us, append {:.0} us",
        median(floor.clone()),
        median(ours.clone())
    );
    let ratios: Vec<f64> = ours.iter().zip(&floor).map(|(ours, floor)| ours / floor).collect();
    report("paced 50 k/s p99.9, append / pwrite", "written", &ratios, Goal::AtMost(2.0));
}

/// The 99.9th percentile of the time from when it was due to when it was done, in us.
fn late(count: u32, mut work: impl FnMut(usize)) -> f64 {
    let start = now();
    let mut taken: Vec<Duration> = Vec::with_capacity(count as usize);
    for index in 0..count {
        let due = start + Duration::from_micros(20) * index;
        spin_until(due);
        work(index as usize);
        taken.push(due.elapsed());
    }
    percentile_us(&mut taken, 0.999)
}

/// Reading a queue against walking the mapped log, every record's CRC checked by both.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn read_back(rounds: u64) {
    let count = usize::try_from(setting("READS", 16_000)).expect("a number of messages");
    let directory = directory();
    let store = open(&directory, Durability::Written);
    let many: Vec<Message> = (0..BATCH).map(|_| message(0)).collect();
    for _ in 0..count / BATCH {
        store.append_each(&many);
    }
    let bytes = store.marks().written.0;
    let (mut scan_took, mut read_took) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (mut scanned, mut read) = (0, 0);
        scan_took.push(timed(|| scanned = scan(&directory.path().join("store"), bytes)));
        read_took.push(timed(|| read = read_all(&store)));
        assert_eq!(read, scanned, "both saw the same records");
    }
    store.close().expect("an orderly end");
    let us = |took: &[Took]| median(took.iter().map(|took| took.cpu_seconds * 1e6).collect()) / count as f64;
    println!(
        "written   CPU in us per record read: scan {:.3}, Queue::read {:.3}",
        us(&scan_took),
        us(&read_took)
    );
    let pairs = || scan_took.iter().zip(&read_took);
    let time: Vec<f64> = pairs().map(|(scan, read)| scan.seconds / read.seconds).collect();
    let cpu: Vec<f64> = pairs().map(|(scan, read)| scan.cpu_seconds / read.cpu_seconds).collect();
    report("Queue::read of 32 / walking the mapping, time", "written", &time, Goal::AtLeast(0.7));
    report("Queue::read of 32 / walking the mapping, CPU", "written", &cpu, Goal::AtLeast(0.7));
}

fn read_all(store: &Store) -> usize {
    let queue = store.queue("BenchTopic", QueueId(0)).expect("messages were sent to it");
    let (mut from, end, mut read) = (queue.min(), queue.max(), 0);
    while from < end {
        let records = queue.read(from, BATCH).expect("what was appended");
        read += black_box(&records).len();
        from = QueueOffset(from.0 + records.len() as u64);
    }
    read
}

fn scan(store: &Path, len: u64) -> usize {
    let directory = RealDirectory::open_read_only(store).expect("the store's directory");
    let file = directory.open("commitlog/00000000000000000000").expect("the first segment");
    let bytes = file.read(0..len).expect("the mapping");
    let mut rest: &[u8] = &bytes;
    let mut found = 0;
    while let Some(len) = rest.first_chunk() {
        let (record, next) = rest.split_at(u32::from_be_bytes(*len) as usize);
        black_box(crc32fast::hash(record));
        (rest, found) = (next, found + 1);
    }
    found
}

/// Many producers that each wait for their flush, against the minimal log.
fn flushed(rounds: u64) {
    let producers = setting("PRODUCERS", 64);
    let count = setting("FLUSHED", 30);
    let (record, message) = (record_bytes(), message(0));
    let (mut floor, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let directory = directory();
        let log = GroupLog::new(raw(&directory));
        let store = open(&directory, Durability::Flushed);
        floor.push(all(producers, count, || log.append(&record).expect("an append")));
        ours.push(all(producers, count, || {
            let receipt = store.append(&message).expect("an append");
            receipt.wait(Durability::Flushed).expect("a flush");
        }));
        store.close().expect("an orderly end");
    }
    println!(
        "flushed   {producers} producers: minimal log {:.0}/s, append {:.0}/s",
        median(floor.clone()),
        median(ours.clone())
    );
    let ratios: Vec<f64> = ours.iter().zip(&floor).map(|(ours, floor)| ours / floor).collect();
    report("64 producers, append and wait / minimal group commit", "flushed", &ratios, Goal::AtLeast(0.7));
}

/// Appends per second of `producers` threads that do `work` `count` times each.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn all(producers: u64, count: u64, work: impl Fn() + Sync) -> f64 {
    let start = now();
    std::thread::scope(|scope| {
        for _ in 0..producers {
            scope.spawn(|| (0..count).for_each(|_| work()));
        }
    });
    (producers * count) as f64 / seconds_since(start)
}

fn with_criterion(criterion: &mut Criterion) {
    let record = record_bytes();
    let together = record.repeat(BATCH);
    let (one, many) = (message(0), messages());
    let directory = directory();
    let file = raw(&directory);
    let store = open(&directory, Durability::Written);
    let mut group = criterion.benchmark_group("1 KiB, written");
    let mut index = 0;
    let mut next = || {
        index += 1;
        index
    };
    group.throughput(Throughput::Bytes(record.len() as u64));
    group.bench_function("pwrite", |bencher| bencher.iter(|| write(&file, &record, next())));
    group.bench_function("append", |bencher| bencher.iter(|| store.append(&one).expect("an append")));
    group.throughput(Throughput::Bytes(together.len() as u64));
    group.bench_function("pwrite of 32", |bencher| bencher.iter(|| write(&file, &together, next())));
    group.bench_function("append_each of 32", |bencher| bencher.iter(|| store.append_each(&many)));
    group.finish();
    store.close().expect("an orderly end");
}
