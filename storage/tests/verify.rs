//! `verify` on stores written here: nothing that was changed since goes unnoticed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use proptest::prelude::*;
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

fn options(disk: &SimulatedDisk) -> StoreOptions {
    let mut options = StoreOptions::on(disk.directory(), Arc::new(Noon));
    (options.segment_bytes, options.queue_file_entries) = (2048, 16);
    options
}

/// Three segments, two queues of a topic, one delayed message.
fn written(close: bool) -> SimulatedDisk {
    let disk = SimulatedDisk::new(1);
    let store = Store::open(options(&disk)).unwrap();
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

/// Something that can happen to a file.
#[derive(Clone, Debug)]
enum Harm {
    Bytes {
        at: usize,
        bytes: Vec<u8>,
    },
    Zeros {
        at: usize,
        len: usize,
    },
    Len(usize),
    /// The content of another file.
    Swap(usize),
    Name(String),
}

fn any_harm() -> impl Strategy<Value = Harm> {
    let number = prop_oneof![
        any::<u64>(),
        Just(0),
        Just(u64::MAX),
        Just(1 << 63),
        Just((1 << 63) - 1),
        Just((1 << 32) - 1),
        0u64..8192
    ];
    prop_oneof![
        (0usize..4096, number.clone())
            .prop_map(|(at, n)| Harm::Bytes { at, bytes: n.to_be_bytes().to_vec() }),
        (0usize..4096, number.clone())
            .prop_map(|(at, n)| Harm::Bytes { at, bytes: (n as u32).to_be_bytes().to_vec() }),
        (0usize..4096, any::<u8>()).prop_map(|(at, byte)| Harm::Bytes { at, bytes: vec![byte] }),
        (0usize..4096, 0usize..2048).prop_map(|(at, len)| Harm::Zeros { at, len }),
        (0usize..9000).prop_map(Harm::Len),
        any::<usize>().prop_map(Harm::Swap),
        number.prop_map(|n| Harm::Name(format!("{n:020}"))),
    ]
}

fn harm(disk: &SimulatedDisk, file: usize, harm: &Harm) {
    let files: Vec<String> = disk.paths().into_iter().filter(|path| disk.contents(path).is_ok()).collect();
    let path = &files[file % files.len()];
    let edit = |change: &dyn Fn(&mut Vec<u8>)| disk.edit(path, |bytes| change(bytes)).unwrap();
    match harm {
        Harm::Bytes { at, bytes: new } => edit(&|bytes| {
            bytes.iter_mut().skip(*at).zip(new).for_each(|(byte, new)| *byte = *new);
        }),
        Harm::Zeros { at, len } => {
            edit(&|bytes| bytes.iter_mut().skip(*at).take(*len).for_each(|byte| *byte = 0))
        }
        Harm::Len(len) => edit(&|bytes| bytes.resize(*len, 0)),
        Harm::Swap(other) => {
            let other = disk.contents(&files[other % files.len()]).unwrap();
            edit(&|bytes| bytes.clone_from(&other));
        }
        Harm::Name(name) => {
            let folder = path.rsplit_once('/').map_or("commitlog", |(folder, _)| folder);
            disk.put(&format!("{folder}/{name}"), &disk.contents(path).unwrap()).unwrap();
        }
    }
}

fn cases(normal: u32) -> ProptestConfig {
    let factor = std::env::var("STATICFIRE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(normal * factor) }
}

proptest! {
    #![proptest_config(cases(300))]

    /// proves: B62, B63, B65, B66, B67: whatever the files hold, verifying ends with a report, and
    /// opening with a store or an error
    #[test]
    fn no_content_makes_verify_or_open_panic(
        close in any::<bool>(),
        harms in prop::collection::vec((any::<usize>(), any_harm()), 1..4),
    ) {
        let disk = written(close);
        let disk = if close { disk } else { disk.kill() };
        harms.iter().for_each(|(file, change)| harm(&disk, *file, change));
        let before = verify(&*disk.directory()).map(|report| report.to_string());
        let Ok(store) = Store::open(options(&disk)) else { return Ok(()) };
        drop(store.close());
        let after = verify(&*disk.directory());
        prop_assert!(after.is_ok(), "{:?}, before {:?}", after, before);
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
