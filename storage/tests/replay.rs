//! What a real disk was asked for is replayed on the simulated one, and crashed there.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use staticfire_storage::disk::{
    Directory, DiskFaults, DiskOperation, EntryKind, FaultEffect, RealDirectory, RecordingDirectory,
    SimulatedDisk, Trace, TraceOperation,
};
use staticfire_storage::{
    Background, Durability, Message, QueueId, Store, StoreOptions, SystemClock, TopicName,
};

fn options(directory: Arc<dyn Directory>, background: Background) -> StoreOptions {
    let mut options = StoreOptions::on(directory, Arc::new(SystemClock));
    (options.segment_bytes, options.queue_file_entries) = (4096, 16);
    (options.background, options.durability) = (background, Durability::Flushed);
    options.retention.bytes = None;
    options
}

fn body(number: u64) -> String {
    format!("{number:08}{}", "x".repeat(number as usize * 37 % 400))
}

/// Two lives of a store with its threads, on the disk of this machine. The number of each message is noted
/// once it is flushed.
fn record(recording: &RecordingDirectory) {
    let mut number = 0;
    for life in 0..2 {
        let store = Store::open(options(recording.directory(), Background::Threads)).unwrap();
        for _ in 0..16 {
            let batch = (0..1 + number % 3).map(|n| {
                Message::new(TopicName::new("t").unwrap(), QueueId((n % 2) as u32), body(number + n))
            });
            let receipts = store.append_batch(&batch.collect::<Vec<_>>()).unwrap();
            for receipt in receipts {
                receipt.wait(Durability::Flushed).unwrap();
                recording.mark(number);
                number += 1;
            }
        }
        store.retain().unwrap();
        if life == 0 {
            store.close().unwrap();
        }
    }
}

/// Names, lengths and bytes of all files.
fn contents(directory: &dyn Directory, folder: &str) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in directory.list(folder)? {
        let path = if folder.is_empty() { entry.name } else { format!("{folder}/{}", entry.name) };
        match entry.kind {
            EntryKind::Directory => found.extend(contents(directory, &path)?),
            _ => {
                let mut bytes = vec![0; entry.len as usize];
                directory.open(&path)?.read_into(0, &mut bytes)?;
                found.insert(path, bytes);
            }
        }
    }
    Ok(found)
}

/// The numbers of the messages in the log, in its order, up to one that cannot be read.
fn messages(store: &Store) -> Vec<u64> {
    let records = store.records(store.marks().min).map_while(Result::ok);
    records.map(|record| std::str::from_utf8(&record.body()[..8]).unwrap().parse().unwrap()).collect()
}

fn calm(seed: u64) -> SimulatedDisk {
    SimulatedDisk::new(seed).with_faults(DiskFaults::calm())
}

/// Replays up to each step in turn, cuts the power there, and counts the flushed messages that are gone and
/// the logs with a hole, over all that is opened; gives the number of openings too.
fn lost(trace: &Trace, faults: &DiskFaults) -> (usize, usize) {
    let disk = calm(1);
    trace.replay(&disk).unwrap();
    let (mut lost, mut opened) = (0, 0);
    for step in 0..disk.steps() {
        let disk = SimulatedDisk::new(step).with_faults(faults.clone());
        disk.crash_at_step(step);
        let done = trace.replay(&disk).unwrap();
        let flushed: BTreeSet<u64> = trace.operations[..done].iter().filter_map(mark).collect();
        for image in disk.crash_images(3) {
            image.set_faults(DiskFaults::calm());
            opened += 1;
            let Ok(store) = Store::open(options(image.directory(), Background::Steps)) else {
                lost += flushed.len();
                continue;
            };
            let found = messages(&store);
            let is_prefix = found.iter().copied().eq(0..found.len() as u64);
            lost += usize::from(!is_prefix);
            lost += flushed.iter().filter(|number| !found.contains(number)).count();
        }
    }
    (lost, opened)
}

fn mark(operation: &TraceOperation) -> Option<u64> {
    if let TraceOperation::Mark(number) = operation { Some(*number) } else { None }
}

/// proves: I1, I4, I17, F2; a recorded trace of the real disk replays in the simulated one
#[test]
fn what_a_real_disk_did_is_crashed_on_a_simulated_one() {
    let root = tempfile::tempdir().unwrap();
    let real: Arc<dyn Directory> = Arc::new(RealDirectory::open(root.path()).unwrap());
    let recording = RecordingDirectory::new(Arc::clone(&real));
    record(&recording);
    let trace = recording.trace();

    let disk = calm(1);
    assert_eq!(trace.replay(&disk).unwrap(), trace.operations.len());
    let replayed = disk.kill();
    let (expected, found) = (contents(&*real, "").unwrap(), contents(&*replayed.directory(), "").unwrap());
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    let differs = expected.iter().find(|(path, bytes)| found[*path] != **bytes).map(|(path, _)| path);
    assert_eq!(differs, None);

    let stores = [replayed.directory(), real];
    let stores = stores.map(|directory| Store::open(options(directory, Background::Steps)).unwrap());
    let marked: Vec<u64> = trace.operations.iter().filter_map(mark).collect();
    assert_eq!(stores.each_ref().map(messages), [marked.clone(), marked]);
    let [simulated, real] = stores.map(|store| store.report().to_string());
    assert_eq!(simulated, real);

    let (lost_messages, opened) = lost(&trace, &DiskFaults::calm());
    println!("{} operations, {} steps, {opened} openings", trace.operations.len(), disk.steps());
    assert_eq!(lost_messages, 0);
    // The same trace on a disk that lies shows that the crashes can find something.
    let deaf = DiskFaults::calm().on_path(DiskOperation::SyncFile, "commitlog", FaultEffect::Ignored);
    assert_ne!(lost(&trace, &deaf).0, 0);
}
