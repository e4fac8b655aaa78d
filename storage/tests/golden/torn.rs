//! Damaged directories opened as stores: every record that is still whole is read, the queues are
//! what the log makes of them, and the report says what was found.
//!
//! What RocketMQ does with the same directories is in `tests/fixtures/README.md`. We differ, on
//! purpose, in this:
//!
//! * Damage that is followed by records which the checkpoint shows to have been flushed is kept
//!   where it is and reported; the records behind it stay. RocketMQ drops up to 7 whole records
//!   (`log-hole`, `log-magic-newest-file`, `log-body-bit-newest-file`), or does not look
//!   (`log-body-bit-oldest-file`, `log-magic-second-file`).
//! * A record torn in its properties, or one that says it is somewhere else, is no record.
//! * Queues are compared with the log and built from it, whatever is missing: RocketMQ leaves
//!   `queue-tail-zero-n` and `queue-missing-n` as they are, pads `queue-missing` and numbers
//!   `checkpoint-too-new-queue-zero` from 0.
//! * Files that are too short or empty do not keep the store from opening.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use staticfire_storage::disk::SimulatedDisk;
use staticfire_storage::verify::{Finding, Severity};
use staticfire_storage::{
    PhysicalOffset, QueueId, QueueOffset, Record, RecoveryReport, Store, StoreOptions, SystemClock, verify,
};

use crate::fixture::Fixture;
use crate::open::{number, sized};

/// What the report says of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Log {
    /// Nothing.
    Whole,
    /// Files of zero length at the end were removed.
    EmptyFiles(usize),
    /// A range without valid record was kept.
    Damaged(u64, u64),
    /// The log was cut here.
    Cut(u64),
    /// The log ends here without a trace of what followed.
    Ends(u64),
}
use Log::{Cut, Damaged, EmptyFiles, Ends, Whole};

/// What the report says of all queues together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Queues {
    built: u64,
    corrected: u64,
    kept: u64,
    dropped: u64,
}

const FINE: Queues = Queues { built: 0, corrected: 0, kept: 0, dropped: 0 };
const KEPT: Queues = Queues { kept: 1, ..FINE };
const DROPPED: Queues = Queues { dropped: 1, ..FINE };

const fn built(built: u64) -> Queues {
    Queues { built, ..FINE }
}

const EXPECTED: &[(&str, Log, Queues)] = &[
    ("abort-only", Whole, FINE),
    ("checkpoint-empty", Whole, FINE),
    ("checkpoint-empty-n", Whole, FINE),
    ("checkpoint-missing", Whole, FINE),
    ("checkpoint-too-new", Whole, FINE),
    ("checkpoint-too-new-queue-zero", Whole, built(50)),
    ("index-count-high-n", Whole, FINE),
    ("index-count-zero-n", Whole, FINE),
    ("index-file-short-n", Whole, FINE),
    ("index-header-zero-n", Whole, FINE),
    ("index-missing", Whole, FINE),
    ("index-missing-n", Whole, FINE),
    ("index-slots-wrong-n", Whole, FINE),
    // As RocketMQ does. The report names the 200 entries.
    ("log-all-missing-n", Ends(0), Queues { dropped: 200, ..FINE }),
    ("log-body-bit-newest-file", Damaged(50424, 50687), KEPT),
    ("log-body-bit-newest-file-n", Damaged(50424, 50687), KEPT),
    ("log-body-bit-oldest-file", Damaged(2267, 2504), KEPT),
    ("log-body-bit-oldest-file-n", Damaged(2267, 2504), KEPT),
    ("log-cut-in-body", Cut(52262), DROPPED),
    ("log-cut-in-body-n", Cut(52262), DROPPED),
    ("log-cut-in-header", Cut(52262), DROPPED),
    ("log-cut-in-properties", Cut(52262), DROPPED),
    ("log-cut-in-size", Ends(52262), DROPPED),
    ("log-cut-whole-tail", Ends(50424), Queues { dropped: 8, ..FINE }),
    ("log-cut-whole-tail-n", Ends(50424), Queues { dropped: 8, ..FINE }),
    ("log-file-empty-next", EmptyFiles(1), FINE),
    ("log-file-empty-two-next", EmptyFiles(2), FINE),
    ("log-file-short", Cut(52262), DROPPED),
    ("log-file-zero-next", Whole, FINE),
    ("log-first-file-missing-n", Whole, FINE),
    ("log-hole", Damaged(50424, 50687), KEPT),
    ("log-magic-newest-file", Damaged(50424, 50687), KEPT),
    ("log-magic-newest-file-n", Damaged(50424, 50687), KEPT),
    ("log-magic-second-file", Damaged(19314, 19615), KEPT),
    ("log-middle-file-missing", Damaged(16384, 32768), Queues { kept: 62, ..FINE }),
    ("log-physical-offset-wrong", Damaged(50424, 50687), KEPT),
    // Nothing protects the properties of a record by RocketMQ: the entry follows the record.
    ("log-property-bit", Whole, Queues { corrected: 1, ..FINE }),
    ("queue-all-missing-n", Whole, built(200)),
    ("queue-file-short-n", Whole, built(4)),
    ("queue-file-zero-next-n", Whole, FINE),
    ("queue-missing", Whole, built(50)),
    ("queue-missing-n", Whole, built(50)),
    ("queue-tail-zero", Whole, built(5)),
    ("queue-tail-zero-n", Whole, built(5)),
    ("queue-tails-two-files-zero", Whole, built(15)),
    // All but `idle`, whose records are gone: nothing remembers its numbers.
    ("retained-queue-all-missing", Whole, built(728)),
    ("retained-queue-all-missing-n", Whole, built(728)),
    ("retained-queue-missing", Whole, built(59)),
];

/// proves: M9, I4, I7, I13, B62, B63, B65, B67, B68
#[test]
fn damaged_directories_open_with_a_report_and_every_whole_record() {
    let named: Vec<String> = EXPECTED.iter().map(|(name, ..)| format!("torn/{name}")).collect();
    assert_eq!(Fixture::torn_names(), named, "the table names every fixture");
    let undamaged = [Fixture::open("torn/abort-only"), Fixture::open("retained")];
    for ((name, log, queues), path) in EXPECTED.iter().zip(&named) {
        let undamaged = &undamaged[usize::from(name.starts_with("retained"))];
        let fixture = Fixture::open(path);
        let disk = fixture.on_simulated_disk();
        let store = open(&disk, &fixture);
        assert_eq!(log_of(store.report(), &fixture, undamaged), *log, "{name}: {}", store.report());
        assert_eq!(queues_of(store.report()), *queues, "{name}: {}", store.report());
        let content = check_content(&store, &fixture, undamaged, name);
        store.close().unwrap();

        // What opening put right stays right, and only kept damage is left to find.
        let store = open(&disk, &fixture);
        assert!(store.report().log.clean, "{name}");
        assert_eq!(queues_of(store.report()), FINE, "{name}: {}", store.report());
        assert_eq!(check_content(&store, &fixture, undamaged, name), content, "{name}");
        store.close().unwrap();
        let report = verify(&*disk.directory()).unwrap();
        let found = |Finding { severity, file, .. }: &Finding| {
            *severity == Severity::Damage && !file.starts_with("checkpoint")
        };
        let damaged = report.findings.iter().any(found);
        assert_eq!(damaged, matches!(log, Damaged(..)), "{name}: {report}");
    }
}

fn open(disk: &SimulatedDisk, fixture: &Fixture) -> Store {
    let options = StoreOptions::on(disk.directory(), Arc::new(SystemClock));
    Store::open(sized(options, fixture)).unwrap()
}

fn log_of(report: &RecoveryReport, fixture: &Fixture, undamaged: &Fixture) -> Log {
    let log = &report.log;
    assert!(log.damaged.len() <= 1 && (log.damaged.is_empty() || log.tail.is_none()), "{report}");
    assert_eq!(log.clean, fixture.lines("store").next().unwrap()["abort"] == false);
    let whole = number(&undamaged.lines("recovered").next().unwrap()["maxPhyOffset"]);
    match (&log.tail, log.damaged.first()) {
        (Some(tail), _) => Cut(tail.at.0),
        (None, Some(damage)) => Damaged(damage.from.0, damage.to.0),
        _ if !log.empty_segments.is_empty() => EmptyFiles(log.empty_segments.len()),
        _ if log.end.0 < whole => Ends(log.end.0),
        _ => Whole,
    }
}

fn queues_of(report: &RecoveryReport) -> Queues {
    report.queues.queues.iter().fold(FINE, |sum, found| {
        assert_eq!((found.padded, found.refused), (0, 0), "{report}");
        Queues {
            built: sum.built + found.added,
            corrected: sum.corrected + found.repaired,
            kept: sum.kept + found.kept,
            dropped: sum.dropped + found.dropped,
        }
    })
}

/// Every record that is whole is read, and has its entry; every entry is of a record that is there or
/// was. Returns the entries, and how many records are read.
fn check_content(store: &Store, fixture: &Fixture, undamaged: &Fixture, name: &str) -> (Value, usize) {
    let segments = fixture.segments();
    let mut entries = BTreeMap::new();
    for topic in store.topics() {
        for queue in store.queues_of(topic.as_str()) {
            for entry in queue.entries(queue.min(), 4096).unwrap() {
                entries.insert((topic.as_str().to_owned(), queue.id(), entry.offset), entry);
            }
        }
    }
    let (mut read, mut left) = (0, entries.clone());
    for line in undamaged.lines("record") {
        let at = number(&line["offset"]);
        let whole = stored(&segments, at, number(&line["size"]))
            .is_some_and(|bytes| crc32fast::hash(bytes) == line["recordCRC32"]);
        let record = store.record(PhysicalOffset(at));
        let key = key_of(line);
        let entry = left.remove(&key);
        if whole {
            let record = record.unwrap_or_else(|error| panic!("{name}: {at}: {error}"));
            assert_eq!(crc32fast::hash(record.bytes()), line["recordCRC32"], "{name}: {at}");
            assert_entry(&record, entry, name);
            read += 1;
        } else if let Ok(altered) = record {
            assert_eq!(name, "log-property-bit", "{at}: a damaged record was served");
            assert_entry(&altered, entry, name);
        }
    }
    assert!(left.is_empty(), "{name}: entries of records that never were: {left:?}");
    let listed = entries.values().map(|entry| format!("{entry:?}")).collect();
    (listed, read)
}

fn assert_entry(record: &Record, entry: Option<staticfire_storage::QueueEntry>, name: &str) {
    let expected = staticfire_storage::dispatch::entry_of(record, &Default::default());
    assert_eq!(entry, expected, "{name}: {record:?}");
}

fn key_of(line: &Value) -> (String, QueueId, QueueOffset) {
    let queue = u32::try_from(number(&line["queueId"])).unwrap();
    (line["topic"].as_str().unwrap().to_owned(), QueueId(queue), QueueOffset(number(&line["queueOffset"])))
}

/// The bytes at `at` in the files as they were found.
fn stored(segments: &BTreeMap<u64, Vec<u8>>, at: u64, len: u64) -> Option<&[u8]> {
    let (start, bytes) = segments.range(..=at).next_back()?;
    let from = usize::try_from(at - start).unwrap();
    bytes.get(from..from + usize::try_from(len).unwrap())
}
