//! `verify` on stores written here: nothing that was changed since goes unnoticed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use staticfire_storage::disk::SimulatedDisk;
use staticfire_storage::verify::{Problem, Severity, VerifyError};
use staticfire_storage::{Clock, Message, QueueId, Store, StoreOptions, TopicName, VerifyReport, verify};

#[derive(Debug)]
struct Noon;

impl Clock for Noon {
    fn wall_ms(&self) -> i64 {
        1_700_000_000_000
    }
}

/// Three segments, two queues of a topic, one delayed message.
fn written(close: bool) -> SimulatedDisk {
    let disk = SimulatedDisk::new(1);
    let mut options = StoreOptions::on(disk.directory(), Arc::new(Noon));
    (options.segment_bytes, options.queue_file_entries) = (2048, 16);
    let store = Store::open(options).unwrap();
    for n in 0..30u32 {
        let topic = TopicName::new(if n == 7 { "SCHEDULE_TOPIC_XXXX" } else { "orders" }).unwrap();
        let message = Message::new(topic, QueueId(n % 2), format!("body {n}"))
            .with_property("TAGS", &format!("T{}", n % 3))
            .with_property("DELAY", "3");
        drop(store.append(&message).unwrap());
    }
    disk.complete_all();
    store.housekeep();
    disk.complete_all();
    if close {
        store.close().unwrap();
    }
    disk
}

fn report(disk: &SimulatedDisk) -> VerifyReport {
    verify(&*disk.directory()).unwrap()
}

#[test]
fn a_closed_store_is_sound() {
    let disk = written(true);
    let report = report(&disk);
    assert_eq!(report.findings, [], "{report}");
    assert!(report.closed && report.log.end.0 > 4096);
    assert_eq!((report.records, report.queues, report.entries), (30, 3, 30));
}

/// proves: what a killed process leaves is no damage
#[test]
fn a_killed_store_is_sound() {
    let disk = written(false);
    let report = report(&disk.kill());
    assert!(report.is_sound() && !report.closed, "{report}");
    assert_eq!(report.records, 30);
}

/// proves: I6, B64: every bit of the log, of the queues and of the state file counts. By default one
/// bit of each byte is tried, with `STATICFIRE_CASES=8` every bit.
#[test]
fn every_flipped_bit_is_found() {
    let cases = std::env::var("STATICFIRE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(1u64);
    let disk = written(true);
    // RocketMQ's `checkpoint` is a hint without checksum that recovery does not rely on; `lock` and
    // `abort` have no content that matters.
    let covered = |path: &String| {
        ["commitlog/", "consumequeue/", "staticfire/"].iter().any(|folder| path.starts_with(folder))
    };
    let mut flips = 0;
    for path in disk.paths().into_iter().filter(covered) {
        let Ok(bytes) = disk.contents(&path) else { continue };
        for byte in 0..bytes.len() as u64 {
            for bit in (byte..byte + cases.min(8)).map(|turn| byte * 8 + turn % 8) {
                disk.flip_bit(&path, bit).unwrap();
                let report = report(&disk);
                // A wrong sum of a block whose entries agree with the log costs nothing.
                let harmless = path.starts_with("staticfire/queuesums/");
                assert_eq!(report.is_sound(), harmless, "{path}: bit {bit}: {report}");
                assert_ne!(report.findings, [], "{path}: bit {bit}");
                disk.flip_bit(&path, bit).unwrap();
                flips += 1;
            }
        }
    }
    assert_eq!(report(&disk).findings, []);
    assert!(flips > 10_000, "{flips} flips");
}

/// proves: B63: a log cut anywhere is found, because the store remembers its end
#[test]
fn every_cut_of_the_log_is_found() {
    let disk = written(true);
    let path = disk.paths().into_iter().rfind(|path| path.starts_with("commitlog/")).unwrap();
    let end = report(&disk).log.end.0 % 2048;
    for kept in (0..end as usize).step_by(7) {
        let cut = disk.snapshot();
        cut.edit(&path, |bytes| bytes[kept..].fill(0)).unwrap();
        let report = report(&cut);
        assert!(!report.is_sound(), "cut at {kept}: {report}");
    }
}

#[test]
fn a_folder_without_log_is_no_store() {
    let disk = SimulatedDisk::new(1);
    assert!(matches!(verify(&*disk.directory()), Err(VerifyError::NotAStore)));
}

/// proves: B62
#[test]
fn strangers_in_the_directory_are_named_and_no_damage() {
    let disk = written(true);
    for path in
        ["commitlog/notes.txt", "consumequeue/a.b", "consumequeue/orders/x", "consumequeue/orders/0/7"]
    {
        disk.put(path, b"?").unwrap();
    }
    let report = report(&disk);
    assert_eq!(report.findings.len(), 4, "{report}");
    for finding in &report.findings {
        assert_eq!((finding.severity, &finding.problem), (Severity::Leftover, &Problem::Foreign));
    }
}
