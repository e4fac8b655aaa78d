//! A directory goes to RocketMQ and comes back: what it appended is read like everything else.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use staticfire_storage::disk::SimulatedDisk;
use staticfire_storage::record::{encode, seal};
use staticfire_storage::{
    Message, PhysicalOffset, QueueId, QueueOffset, Store, StoreOptions, SystemClock, TopicName, verify,
};

const SEGMENT: &str = "commitlog/00000000000000000000";

fn options(disk: &SimulatedDisk) -> StoreOptions {
    let mut options = StoreOptions::on(disk.directory(), Arc::new(SystemClock));
    (options.segment_bytes, options.queue_file_entries) = (64 << 10, 100);
    options
}

fn open(disk: &SimulatedDisk) -> Store {
    Store::open(options(disk)).unwrap()
}

fn message(body: &'static str) -> Message {
    Message::new(TopicName::new("orders").unwrap(), QueueId(0), body).with_property("TAGS", "TagA")
}

fn append(disk: &SimulatedDisk, store: &Store, body: &'static str) -> u64 {
    let receipt = store.append(&message(body)).unwrap();
    disk.complete_all();
    receipt.queue_offset().0
}

/// The record as RocketMQ writes it by default: without record CRC.
fn rocketmqs(body: &'static str, number: u64, at: u64, store_ms: i64) -> Vec<u8> {
    const SUFFIX_LEN: usize = 20;
    let (mut bytes, message) = (Vec::new(), message(body));
    let encoded = encode(&message, "127.0.0.1:10911".parse().unwrap(), &mut bytes).unwrap();
    seal(&mut bytes, encoded, QueueOffset(number), PhysicalOffset(at), store_ms);
    bytes.truncate(bytes.len() - SUFFIX_LEN);
    let properties = message.properties.len();
    let len_at = bytes.len() - properties - 2;
    bytes[len_at..len_at + 2].copy_from_slice(&(properties as u16).to_be_bytes());
    let len = bytes.len() as u32;
    bytes[..4].copy_from_slice(&len.to_be_bytes());
    bytes
}

/// RocketMQ opens the directory and serves: it writes its process id into the file.
fn rocketmq_serves(disk: &SimulatedDisk) {
    let _ = disk.directory().remove("abort");
    disk.put("abort", b"4711").unwrap();
}

/// RocketMQ opens, appends one message without dispatching it, and ends with or without a trace.
fn rocketmq_appends(disk: &SimulatedDisk, body: &'static str, number: u64, end: u64) -> u64 {
    let record = rocketmqs(body, number, end, 1_900_000_000_000);
    let at = end as usize;
    disk.edit(SEGMENT, |bytes| bytes[at..at + record.len()].copy_from_slice(&record)).unwrap();
    end + record.len() as u64
}

/// Reads every message, then goes on, closes and verifies.
fn check(disk: &SimulatedDisk, bodies: &[&'static str], end: u64) {
    let store = open(disk);
    assert_eq!(store.marks().written, PhysicalOffset(end), "{}", store.report());
    let queue = store.queue("orders", QueueId(0)).unwrap();
    let read = queue.read(QueueOffset(0), 100).unwrap();
    let found: Vec<_> = read.iter().map(|record| record.body()).collect();
    assert_eq!(found, bodies, "{}", store.report());
    assert_eq!(append(disk, &store, "back again"), bodies.len() as u64);
    store.close().unwrap();
    let report = verify(&*disk.directory()).unwrap();
    assert_eq!(report.findings, [], "{report}");
    assert_eq!(report.records, bodies.len() as u64 + 1);
}

fn ours(close: bool) -> (SimulatedDisk, u64) {
    let disk = SimulatedDisk::new(1);
    drop(open(&disk).close());
    let store = open(&disk);
    append(&disk, &store, "ours 0");
    append(&disk, &store, "ours 1");
    store.housekeep();
    let end = store.marks().written.0;
    if close {
        store.close().unwrap();
        return (disk, end);
    }
    (disk.kill(), end)
}

/// proves: D1: leaving and coming back loses nothing
#[test]
fn what_rocketmq_appended_after_we_closed_is_read() {
    let (disk, end) = ours(true);
    let end = rocketmq_appends(&disk, "theirs 2", 2, end);
    let report = verify(&*disk.directory()).unwrap();
    // RocketMQ would have written the entry; only that is missing.
    assert_eq!((report.records, report.findings.len()), (3, 1), "{report}");
    check(&disk, &["ours 0", "ours 1", "theirs 2"], end);
}

/// proves: D1, the same when RocketMQ was killed
#[test]
fn what_rocketmq_appended_before_it_was_killed_is_read() {
    let (disk, end) = ours(true);
    let end = rocketmq_appends(&disk, "theirs 2", 2, end);
    rocketmq_serves(&disk);
    check(&disk, &["ours 0", "ours 1", "theirs 2"], end);
}

/// proves: D1, the same when we were killed, and RocketMQ recovered and closed the directory
#[test]
fn what_rocketmq_appended_after_it_recovered_our_crash_is_read() {
    let (disk, end) = ours(false);
    let end = rocketmq_appends(&disk, "theirs 2", 2, end);
    disk.directory().remove("abort").unwrap();
    check(&disk, &["ours 0", "ours 1", "theirs 2"], end);
}

/// proves: D1, the same when both were killed, we first: its records carry no checksum of their own,
/// and are not taken for torn ones of ours
#[test]
fn what_rocketmq_appended_between_two_kills_is_read() {
    let (disk, end) = ours(false);
    let end = rocketmq_appends(&disk, "theirs 2", 2, end);
    let end = rocketmq_appends(&disk, "theirs 3", 3, end);
    rocketmq_serves(&disk);
    check(&disk, &["ours 0", "ours 1", "theirs 2", "theirs 3"], end);
}

/// proves: D1, the same at every step of our opening: nothing that it appended is lost by a second crash
#[test]
fn a_crash_while_we_open_after_rocketmq_keeps_what_it_appended() {
    let (disk, end) = ours(false);
    let end = rocketmq_appends(&disk, "theirs 2", 2, end);
    rocketmq_serves(&disk);
    let (mut images, mut step) = (0, 0);
    loop {
        let opening = disk.snapshot();
        opening.crash_at_step(opening.steps() + step);
        let opened = Store::open(options(&opening)).is_ok();
        for image in opening.crash_images(20) {
            let store = open(&image);
            assert_eq!(store.marks().written, PhysicalOffset(end), "step {step}: {}", store.report());
            images += 1;
        }
        if opened {
            break;
        }
        step += 1;
    }
    assert!(step > 10 && images > 100, "{step} steps, {images} images");
}

/// proves: D1, I6: records of ours that were torn are still told from RocketMQ's
#[test]
fn a_record_of_ours_without_its_checksum_is_torn_when_nobody_else_was_here() {
    let (disk, end) = ours(false);
    rocketmq_appends(&disk, "torn 2", 2, end);
    let store = open(&disk);
    assert_eq!(store.marks().written, PhysicalOffset(end), "{}", store.report());
    assert!(store.report().log.tail.is_some());
}
