//! `verify` on RocketMQ's directories: whole ones are sound, damaged ones say where.

use std::collections::BTreeMap;
use std::path::Path;

use staticfire_storage::disk::RealDirectory;
use staticfire_storage::verify::{Finding, Problem, Severity};
use staticfire_storage::{VerifyReport, verify};

use crate::fixture::{Fixture, WHOLE};

/// proves: M9, F-byte-for-byte: nothing is found in what RocketMQ left whole, and nothing changed
#[test]
fn whole_directories_are_sound_and_stay_as_they_are() {
    for name in WHOLE {
        let fixture = Fixture::open(name);
        let before = tree(&fixture.path());
        let report = report_on(&fixture);
        assert_eq!(report.findings, [], "{name}");
        assert!(report.is_sound());
        assert_eq!(report.closed, name != "killed");
        let recovered = fixture.lines("recovered").next().unwrap();
        assert_eq!(report.log.start.0, recovered["minPhyOffset"].as_u64().unwrap(), "{name}");
        assert_eq!(report.log.end.0, recovered["maxPhyOffset"].as_u64().unwrap(), "{name}");
        assert_eq!(report.records, fixture.lines("record").count() as u64, "{name}");
        assert_eq!(report.queues, fixture.lines("queue").count() as u64, "{name}");
        let entries = fixture.lines("record").filter(|record| !record["entry"].is_null()).count();
        assert_eq!(report.entries, entries as u64, "{name}");
        assert!(before == tree(&fixture.path()), "{name}: verify changed something");
    }
}

/// What must be found first in a damaged directory.
enum First {
    /// Damage in this file at this byte.
    Damage(&'static str, u64),
    /// Something the next open puts right: no damage.
    Leftover(&'static str, u64),
    /// Nothing, for this reason.
    Nothing(&'static str),
}
use First::{Damage, Leftover, Nothing};

const NEWEST: &str = "commitlog/00000000000000049152";
const LATE: &str = "consumequeue/orders/0/00000000000000000800";
const INDEX: &str = "key index files are derived and not looked at";
const SPARE: &str = "a file made ahead of time is no damage";

const EXPECTED: &[(&str, First)] = &[
    ("abort-only", Nothing("nothing is wrong with the files")),
    ("checkpoint-empty", Leftover("checkpoint", 0)),
    ("checkpoint-empty-n", Leftover("checkpoint", 0)),
    ("checkpoint-missing", Leftover("checkpoint", 0)),
    ("checkpoint-too-new", Damage("checkpoint", 0)),
    ("checkpoint-too-new-queue-zero", Damage("checkpoint", 0)),
    ("index-count-high-n", Nothing(INDEX)),
    ("index-count-zero-n", Nothing(INDEX)),
    ("index-file-short-n", Nothing(INDEX)),
    ("index-header-zero-n", Nothing(INDEX)),
    ("index-missing", Nothing(INDEX)),
    ("index-missing-n", Nothing(INDEX)),
    ("index-slots-wrong-n", Nothing(INDEX)),
    ("log-all-missing-n", Damage("checkpoint", 0)),
    ("log-body-bit-newest-file", Damage(NEWEST, 1272)),
    ("log-body-bit-newest-file-n", Damage(NEWEST, 1272)),
    ("log-body-bit-oldest-file", Damage("commitlog/00000000000000000000", 2267)),
    ("log-body-bit-oldest-file-n", Damage("commitlog/00000000000000000000", 2267)),
    ("log-cut-in-body", Damage(NEWEST, 3110)),
    ("log-cut-in-body-n", Damage(NEWEST, 3110)),
    ("log-cut-in-header", Damage(NEWEST, 3110)),
    ("log-cut-in-properties", Damage(NEWEST, 3110)),
    // Nothing is left of the record, but the checkpoint knows of it.
    ("log-cut-in-size", Damage("checkpoint", 0)),
    ("log-cut-whole-tail", Damage("checkpoint", 0)),
    ("log-cut-whole-tail-n", Damage("checkpoint", 0)),
    ("log-file-empty-next", Leftover("commitlog/00000000000000065536", 0)),
    ("log-file-empty-two-next", Leftover("commitlog/00000000000000065536", 0)),
    ("log-file-short", Damage(NEWEST, 3160)),
    ("log-file-zero-next", Nothing(SPARE)),
    ("log-first-file-missing-n", Nothing("the oldest file looks as if retention had removed it")),
    ("log-hole", Damage(NEWEST, 1272)),
    ("log-magic-newest-file", Damage(NEWEST, 1272)),
    ("log-magic-newest-file-n", Damage(NEWEST, 1272)),
    ("log-magic-second-file", Damage("commitlog/00000000000000016384", 2930)),
    ("log-middle-file-missing", Damage("commitlog/00000000000000016384", 0)),
    ("log-physical-offset-wrong", Damage(NEWEST, 1272)),
    // The record is as valid as any without a record CRC, but the tag in its entry is another.
    ("log-property-bit", Damage(LATE, 160)),
    ("queue-all-missing-n", Damage("consumequeue/events/0", 0)),
    ("queue-file-short-n", Damage(LATE, 130)),
    ("queue-file-zero-next-n", Nothing(SPARE)),
    ("queue-missing", Damage("consumequeue/orders/0", 0)),
    ("queue-missing-n", Damage("consumequeue/orders/0", 0)),
    // Not closed, and the records are newer than the checkpoint: recovery dispatches them again.
    ("queue-tail-zero", Leftover(LATE, 100)),
    ("queue-tail-zero-n", Damage(LATE, 100)),
    ("queue-tails-two-files-zero", Leftover("consumequeue/orders/0/00000000000000000400", 300)),
    ("retained-queue-all-missing", Leftover("consumequeue/events/0", 0)),
    ("retained-queue-all-missing-n", Damage("consumequeue/events/0", 0)),
    ("retained-queue-missing", Leftover("consumequeue/orders/0", 0)),
];

/// proves: B62, B63, B65, B67, B68 for `verify`
#[test]
fn each_damaged_directory_gives_its_finding() {
    let named: Vec<String> = EXPECTED.iter().map(|(name, _)| format!("torn/{name}")).collect();
    assert_eq!(Fixture::torn_names(), named, "the table names every fixture");
    for ((_, first), name) in EXPECTED.iter().zip(&named) {
        let fixture = Fixture::open(name);
        let before = tree(&fixture.path());
        let report = report_on(&fixture);
        assert_eq!(report.closed, name.ends_with("-n"), "{name}");
        let found =
            report.findings.first().map(|Finding { severity, file, at, .. }| (*severity, file.as_str(), *at));
        match *first {
            Damage(file, at) => {
                assert_eq!(found, Some((Severity::Damage, file, at)), "{name}: {report}");
                assert!(!report.is_sound(), "{name}: {report}");
            }
            Leftover(file, at) => {
                assert_eq!(found, Some((Severity::Leftover, file, at)), "{name}: {report}");
                assert!(report.is_sound(), "{name}: {report}");
            }
            Nothing(why) => assert_eq!(found, None, "{name}: {why}: {report}"),
        }
        assert!(before == tree(&fixture.path()), "{name}: verify changed something");
    }
}

/// proves: B67: entries that point at nothing are named one by one
#[test]
fn lost_records_are_known_by_their_entries() {
    let report = report_on(&Fixture::open("torn/log-cut-whole-tail-n"));
    let dangling = report.findings.iter().filter(|finding| matches!(finding.problem, Problem::Dangling(_)));
    assert_eq!(dangling.count(), 8, "{report}");
    assert_eq!((report.records, report.log.end.0), (192, 50424));
}

fn report_on(fixture: &Fixture) -> VerifyReport {
    verify(&RealDirectory::open_read_only(fixture.path()).unwrap()).unwrap()
}

/// Every file below `path` with its content.
fn tree(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        let name = path.display().to_string();
        if path.is_dir() {
            all.insert(name, Vec::new());
            all.extend(tree(&path));
        } else {
            all.insert(name, std::fs::read(&path).unwrap());
        }
    }
    all
}
